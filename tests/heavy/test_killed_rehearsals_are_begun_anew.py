"""kill -9 at every named write of a rehearsal, one after another; the same command then ends as an undisturbed one."""

from __future__ import annotations

import os
import random
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.faults.bench import HELD
from tests.faults.crashes import strike
from tests.faults.rounds import Round
from tests.faults.scenarios import REHEARSAL
from tests.faults.shared import Shared

SEED = os.environ.get("RUNBOOK_KILL_SEED", "20251201")

pytestmark = pytest.mark.slow


def test_a_rehearsal_killed_at_each_of_its_writes_is_begun_anew(tmp_path: Path) -> None:
    with ExitStack() as stack:
        turn = Round(0, 0, random.Random(SEED), Shared(tmp_path, stack, SEED))
        assert strike(turn, REHEARSAL, tuple(sorted(REHEARSAL.writes))) == HELD
        assert sum("killed at" in line for line in turn.said) == len(REHEARSAL.writes)

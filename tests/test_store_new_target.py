"""A new target folder is there whole or not at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers.parameters import Endpoint
from helpers.stores import open_target
from tests.conftest import ROOT

MAKE = (
    "import sys; from helpers.parameters import Endpoint; from helpers.stores import open_target\n"
    "print('ready', flush=True)\n"
    "with open_target(Endpoint(path=sys.argv[1])) as store: print(store.names())\n"
)


@pytest.mark.slow
def test_a_kill_while_it_is_made_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    for trial, pause in enumerate((0.0, 0.01, 0.03, 0.06, 0.12)):
        target = tmp_path / f"target-{trial}"
        made = subprocess.Popen(
            [sys.executable, "-c", MAKE, str(target)],
            stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert made.stdout is not None
        assert made.stdout.readline() == "ready\n"
        time.sleep(pause)
        made.send_signal(signal.SIGKILL)
        made.communicate()
        with open_target(Endpoint(path=str(target))) as store:
            assert store.names() == []
        assert [p.name for p in tmp_path.iterdir() if p.name.startswith(f".target-{trial}")] == []


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    with open_target(Endpoint(path=str(tmp_path / "target"))) as store:
        assert store.names() == []
    assert [p.name for p in tmp_path.iterdir()] == ["target"]

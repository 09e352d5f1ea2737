"""A few hundred generated inputs through every parser; and whatever decodes foreign bytes in the package is reached by them."""



from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.fuzz.sites import all_of_them

INPUTS = int(os.environ.get("RUNBOOK_FUZZ_INPUTS", "220"))
EXCUSED: dict[str, str] = {}


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, str, set[str]]:
    """The campaign in a process of its own, which watches all that it opens: its code, what it printed, the functions entered."""
    entered = tmp_path_factory.mktemp("fuzz") / "entered.json"
    command = [sys.executable, "-m", "tests.fuzz.campaign", "--jobs=1", f"--inputs={INPUTS}", f"--entered={entered}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=500)
    return (
        done.returncode,
        done.stdout + done.stderr,
        set(json.loads(entered.read_text())) if entered.exists() else set(),
    )


def test_each_input_is_accepted_or_refused_in_one_line(played: tuple[int, str, set[str]]) -> None:
    code, said, _ = played
    assert code == 0, said


def test_every_parser_of_the_package_is_fuzzed(played: tuple[int, str, set[str]]) -> None:
    entered = played[2]
    assert entered, played[1]
    assert sorted(all_of_them() - entered - set(EXCUSED)) == [], (
        "give each a file and a reader in tests/fuzz/parsers.py, or a reason in EXCUSED"
    )


def test_what_is_excused_is_there_and_is_not_fuzzed(played: tuple[int, str, set[str]]) -> None:
    assert sorted(set(EXCUSED) - all_of_them()) == []
    assert [name for name in EXCUSED if name in played[2]] == []

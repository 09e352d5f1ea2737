"""kill -9 at 10 random moments of `--retry 22`, each followed by the same command: all of ours is gone, nothing else is."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers.run import plan
from helpers.run.folders import RunFolder
from helpers.runner import notebook
from helpers.stores import open_target
from tests.conftest import ROOT
from tests.test_retry_takes_back import THEIRS, a_decided_run, fill

pytestmark = pytest.mark.slow

TRIALS, CHUNKS = 10, 4000
TAKE_BACK = """
import sys
from helpers.run import plan
from helpers.run.folders import RunFolder
from helpers.runner import notebook
folder = RunFolder.of("night")
print("ready", flush=True)
sys.stdin.readline()
notebook.undo_from(folder.read(), plan.find("22"), lambda said: None)
"""


def test_a_killed_retry_is_finished_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chance, hits = random.Random(20251201), []
    whole = seconds_of(tmp_path / "measured", monkeypatch, None)
    for trial in range(TRIALS):
        home = tmp_path / str(trial)
        seconds_of(home, monkeypatch, chance.random() * whole)
        folder = RunFolder.of("night")
        hits.append(notebook.pending_retry(folder) or "ended")
        notebook.undo_from(folder.read(), plan.find("22"), lambda said: None)
        with open_target(folder.read().parameters.target) as store:
            assert (store.names(), store.count(THEIRS)) == ([THEIRS], 30)
        assert not (folder.workspace / "checkpoint.json").exists()
        left = sorted(p.stem for p in (folder.reports / "results").glob("*.json"))
        assert left == [s.number for s in plan.LINE if s.number < "22"]
        kept = [p.name for p in (folder.reports / "earlier").rglob("2[2-4].json")]
        assert sorted(kept) == ["22.json", "23.json", "24.json"], "history is kept once"
    print(f"{hits.count('22')} of {TRIALS} kills fell into the retry; undisturbed it took {whole:.1f} s")
    assert hits.count("22") >= TRIALS // 2


def seconds_of(home: Path, monkeypatch: pytest.MonkeyPatch, kill_after: float | None) -> float:
    """Take back, in a process of its own, what a run made in `home`; killed after so many seconds."""
    home.mkdir()
    monkeypatch.setenv("RUNBOOK_REPORTS", str(home / "reports"))
    monkeypatch.setenv("RUNBOOK_WORKSPACE", str(home / "workspace"))
    monkeypatch.chdir(home)
    folder = a_decided_run()
    with open_target(folder.read().parameters.target) as store:
        store.drop("docs")
        fill(store, "docs", CHUNKS)
    command = [sys.executable, "-c", TAKE_BACK]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        assert child.stdout.readline() == "ready\n"
        begun = time.monotonic()
        child.stdin.write("\n")
        child.stdin.flush()
        if kill_after is None:
            assert child.wait(120) == 0
        else:
            time.sleep(kill_after)
            child.kill()
    return time.monotonic() - begun

"""kill -9 at 10 random moments of a rollback, each followed by the same command: everything ends as it was before the run.

The rollback replays what clients wrote to the target, puts a configuration file back and removes what the run made. The
moments are seeded; half of the trials kill twice.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from tests.heavy.commands import Trial, descendants, kill_all
from tests.rollbacks import ENV, Night, everything, others, usual_source
from tests.storage import chunks, contents, embedded

SEED = int(os.environ.get("RUNBOOK_KILL_SEED", "20251201"))
TRIALS = 10

pytestmark = pytest.mark.slow


def write_as_clients(home: Path) -> None:
    with embedded(home / "target") as store:
        store.add("alpha", chunks(2, 4, seed=9, prefix="new"))
        changed = contents(store, "alpha").take([3, 4])
        changed.documents[0], changed.metadatas[0] = "rewritten", {"n": 1, "by": "client"}
        store.delete("alpha", changed.ids)
        store.add("alpha", changed)
        store.delete("beta", ["b3", "b4"])


def stage_of(trial: Trial) -> str:
    """Where the rollback stands, by its state file."""
    path = trial.workspace / "rollback.json"
    if not path.exists():
        return "before"
    stages = json.loads(path.read_text(encoding="utf-8"))["stages"]
    return next((name for name, row in stages.items() if row["state"] != "done"), "between stages")


def ends(home: Path) -> dict[str, Any]:
    return {"source": everything({"path": str(home / "source")}), "target": everything({"path": str(home / "target")}),
            "env": (home / "app.env").read_bytes()}  # fmt: skip


def test_a_rollback_killed_at_random_moments_ends_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    trial = Trial(home, "night")
    monkeypatch.setenv("RUNBOOK_REPORTS", str(trial.reports.parent))
    monkeypatch.setenv("RUNBOOK_WORKSPACE", str(trial.workspace.parent))
    monkeypatch.chdir(home)
    usual_source(home / "source")
    others(home / "target")
    before = everything({"path": "target"})
    night = Night(home)
    night.snapshot()
    night.migrate()
    night.cut_over()
    write_as_clients(home)
    written = everything({"path": "target"})
    monkeypatch.chdir(tmp_path)
    shutil.copytree(home, tmp_path / "pristine")

    begun = time.monotonic()
    assert trial.run("rollback", "night", "--replay") == 0, trial.output
    whole = time.monotonic() - begun
    expected = ends(home)
    assert expected["target"] == before
    assert expected["env"] == ENV.encode()
    assert expected["source"]["alpha"][3] == written["alpha"][3]
    assert sorted(expected["source"]["beta"][3]) == sorted(written["beta"][3])

    chance, hits = random.Random(SEED), []
    for number in range(TRIALS):
        for path in home.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.copytree(tmp_path / "pristine", home, dirs_exist_ok=True)
        hit = []
        for _ in range(1 + number % 2):
            process = trial.start("rollback", "night", "--replay")
            waiting = time.monotonic()
            if number % 3:  # most of them after the notebook has begun to work
                while process.poll() is None and stage_of(trial) == "before":
                    time.sleep(0.005)
                while (
                    process.poll() is None and not json.loads((trial.workspace / "rollback.json").read_text())["stages"]
                ):
                    time.sleep(0.005)
            time.sleep(chance.random() * max(0.5, whole - (time.monotonic() - waiting)))
            kill_all([process.pid, *descendants(process.pid)])
            process.wait()
            time.sleep(0.5)  # a kernel that outlived its runner dies of it
            hit.append(stage_of(trial))
        hits.append("+".join(hit))
        assert trial.run("rollback", "night", "--replay") == 0, f"{hits}: {trial.output}"
        found = ends(home)
        assert found == expected, f"trial {number}, hit {hits[-1]}"
        print(f"killed in {hits[-1]}; an undisturbed rollback takes {whole:.1f} s", flush=True)

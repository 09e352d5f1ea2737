"""`resume --retry STEP`: what the run made is taken back, exactly that, and a kill in between is finished."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from helpers import audit, cli
from helpers.chunks import ChunkBatch
from helpers.cutover import CutoverState
from helpers.errors import UsageError
from helpers.migration.checkpoint import Checkpoint
from helpers.parameters import parameters_from
from helpers.results import write_json
from helpers.run import folders as runs
from helpers.run import plan
from helpers.run.folders import RunFolder, RunLock
from helpers.run.record import RunRecord
from helpers.runner import notebook
from helpers.runner.notebook import Run
from helpers.stores import CollectionInfo, Store, open_target

OURS, THEIRS = ("docs", "notes"), "somebody-elses"


def fill(store: Store, name: str, chunks: int = 30) -> None:
    store.create(CollectionInfo(name, 0, None, "l2", "l2", configuration={"hnsw": {"space": "l2"}}))
    vectors = np.random.default_rng(1).standard_normal((chunks, 8), dtype=np.float32)
    ids = [f"{name}-{n}" for n in range(chunks)]
    store.add(name, ChunkBatch(ids, [f"text {n}" for n in range(chunks)], vectors, [{"n": n} for n in range(chunks)]))


def a_decided_run() -> RunFolder:
    """A run that has passed 24 and decided: two collections of its own in the target, one that was there before."""
    made = runs.create(parameters_from({"name": "n", "source": {"path": "s"}, "target": {"path": "t"}}), "night")
    with open_target(made.read().parameters.target) as store:
        for name in (*OURS, THEIRS):
            fill(store, name)
    ledger = Checkpoint(made.workspace / "checkpoint.json", {})
    ledger.stage(60, 0, dict.fromkeys(OURS, 30))
    for name in OURS:
        ledger.intend(name)
    for part in ("staged", "quarantine"):
        write_json(made.workspace / part / "index.json", {"files": {}})
    for step in plan.between(plan.LINE[0], plan.find("24")):
        RunRecord(made.read(), step.number).result.write(made.reports / "results" / f"{step.number}.json")
        (made.reports / step.notebook).write_text("{}")
    return made


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    monkeypatch.setenv("RUNBOOK_REPORTS", str(tmp_path / "reports"))
    monkeypatch.setenv("RUNBOOK_WORKSPACE", str(tmp_path / "workspace"))
    monkeypatch.chdir(tmp_path)
    return a_decided_run()


def in_target(folder: RunFolder) -> list[str]:
    with open_target(folder.read().parameters.target) as store:
        return store.names()


def kept(folder: RunFolder, name: str) -> int:
    return len(list((folder.reports / "earlier").glob(f"*/{name}")))


def left(folder: RunFolder) -> list[str]:
    return sorted(p.stem for p in (folder.reports / "results").glob("*.json"))


def undo_from(folder: RunFolder, step: str) -> list[str]:
    said: list[str] = []
    notebook.undo_from(folder.read(), plan.find(step), said.append)
    return said


def test_the_migration_is_taken_back_with_all_that_rests_on_it(folder: RunFolder) -> None:
    said = undo_from(folder, "22")
    assert in_target(folder) == [THEIRS]
    assert "docs (30 chunks), notes (30 chunks)" in said[-1]
    assert left(folder) == [s.number for s in plan.LINE if s.number < "22"]
    assert [kept(folder, f"results/{n}.json") for n in ("22", "23", "24")] == [1, 1, 1]
    assert not any((folder.workspace / name).exists() for name in ("checkpoint.json", "staged", "retry.json"))
    assert len(list((folder.workspace / "earlier").glob("*/checkpoint.json"))) == 1
    entries = [e for e in audit.entries(folder.reports / audit.NAME) if e["action"] == "retry"]
    assert [e["outcome"] for e in entries] == ["begun", "done"]
    assert entries[-1]["facts"]["removed"] == {"docs": 30, "notes": 30}
    with open_target(folder.read().parameters.target) as store:
        assert (store.lock_holder() or {})["run_id"] == "night", "nobody else comes in between"
        assert store.count(THEIRS) == 30


def test_what_only_reads_is_taken_back_without_touching_the_target(folder: RunFolder) -> None:
    undo_from(folder, "23")
    assert in_target(folder) == sorted((*OURS, THEIRS))
    assert (folder.workspace / "checkpoint.json").exists()
    assert left(folder)[-1] == "22"


def test_from_the_dry_run_on(folder: RunFolder) -> None:
    undo_from(folder, "13")
    assert left(folder) == ["10", "11", "12"]
    assert in_target(folder) == [THEIRS]


def test_a_retry_that_was_killed_is_finished_and_nothing_goes_on_before(folder: RunFolder) -> None:
    write_json(folder.workspace / "retry.json", {"step": "22", "begun": "then"})
    with open_target(folder.read().parameters.target) as store:
        store.drop("docs")  # where the kill fell
    with pytest.raises(UsageError, match=r"was interrupted\. Finish it: \.venv/bin/runbook resume night"):
        Run(folder.read(), "22").open()
    assert cli.main(["run", "--run-id", "night", "--from", "22"]) == 2
    undo_from(folder, "23")
    assert in_target(folder) == [THEIRS]
    assert left(folder)[-1] == "21", "the earlier of the two steps"
    undo_from(folder, "22")
    assert in_target(folder) == [THEIRS]


def test_a_run_at_work_is_left_alone(folder: RunFolder) -> None:
    with RunLock(folder, "step").acquire(0), pytest.raises(Exception, match="is being worked on"):
        undo_from(folder, "22")
    assert in_target(folder) == sorted((*OURS, THEIRS))


def test_only_sensible_steps(folder: RunFolder) -> None:
    with pytest.raises(UsageError, match="not part of the standard sequence"):
        notebook.require_retriable(folder.read(), plan.find("30"))
    for number in ("21", "24"):
        notebook.require_retriable(folder.read(), plan.find(number))
    (folder.reports / "results" / "23.json").unlink()
    with pytest.raises(UsageError, match="has not been run"):
        notebook.require_retriable(folder.read(), plan.find("23"))
    assert cli.main(["resume", "night", "--retry", "22", "--checkpoint", "night-22"]) == 2
    CutoverState().enter(folder.workspace, "applying")
    for number in ("14", "22", "24"):
        with pytest.raises(UsageError, match=r"Roll back first: \.venv/bin/runbook rollback night"):
            notebook.require_retriable(folder.read(), plan.find(number))
    assert in_target(folder) == sorted((*OURS, THEIRS))

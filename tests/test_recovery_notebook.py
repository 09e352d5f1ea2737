"""Notebook 30: the ledger shown, contexts compared, and the proof that a resume neither doubled nor lost a chunk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from helpers import cli
from helpers.cli import run
from helpers.errors import Interrupted
from helpers.migration.checkpoint import Checkpoint, checkpoint_id
from helpers.parameters import parameters_from
from helpers.results import StepResult, Verdict, utc_now
from helpers.run import folders as runs
from helpers.run.folders import RunFolder
from helpers.run.record import RunRecord
from helpers.steps.checkpoint_recovery import CheckpointRecoveryStep
from helpers.steps.migrate import MigrateStep
from helpers.steps.snapshot import SnapshotStep
from tests.storage import chunks, embedded, fill, tree

Said = pytest.CaptureFixture[str]


pytestmark = pytest.mark.usefixtures("own_folders")


@pytest.fixture
def night(tmp_path: Path) -> RunFolder:
    """A run with its snapshot taken and nothing migrated."""
    with embedded(tmp_path / "source") as store:
        fill(store, "alpha", chunks(60, 4, prefix="a"))
        fill(store, "beta", chunks(25, 3, prefix="b"))
    sections: dict[str, Any] = {
        "name": "night", "schema": "identity", "source": {"path": "source"}, "target": {"path": "target"},
        "snapshot": {"directory": "kept"}, "migration": {"batch_size": 10, "workers": 1},
    }  # fmt: skip
    folder = runs.create(parameters_from(sections), "night")
    record = RunRecord(folder.read(), "21")
    SnapshotStep(record).verify()
    keep(folder, record)
    return folder


def keep(folder: RunFolder, record: RunRecord) -> None:
    record.result.finished = utc_now()
    record.result.write(folder.reports / "results" / f"{record.step}.json")


def migrate(folder: RunFolder, batches: int = 1_000) -> None:
    """Step 22, the operator asking to stop after so many batches."""
    record = RunRecord(folder.read(), "22")
    work = MigrateStep(record)
    clock = work._batch_clock

    def stopping(phase: Any) -> Any:
        note, left = clock(phase), [batches]

        def each(target: str, rows: int, seconds: float) -> None:
            note(target, rows, seconds)
            left[0] -= 1
            if not left[0]:
                folder.stop_file.touch()

        return each

    work._batch_clock = stopping  # type: ignore[method-assign]
    folder.stop_file.unlink(missing_ok=True)
    work.validate()
    work.import_chunks()
    work.verify()
    work.catch_up()
    keep(folder, record)


def stopped(folder: RunFolder, batches: int = 3) -> None:
    with pytest.raises(Interrupted):
        migrate(folder, batches)


def looked(folder: RunFolder) -> CheckpointRecoveryStep:
    return CheckpointRecoveryStep(RunRecord(folder.read(), "30"))


def verdicts(recovery: CheckpointRecoveryStep) -> dict[str, Verdict]:
    return {check.name: check.verdict for check in recovery.run.result.checks}


def of_alpha(table: pd.DataFrame) -> list[Any]:
    """The figures of the target collection alpha, in the order of the table's columns."""
    return next(row[1:] for row in table.to_numpy().tolist() if row[0] == "alpha")


def all_tables(recovery: CheckpointRecoveryStep) -> None:
    recovery.read_checkpoint()
    recovery.targets()
    recovery.failures()
    recovery.set_aside()
    recovery.context()
    recovery.proof()
    recovery.arrivals()


def test_a_run_that_never_began_has_nothing_to_recover(night: RunFolder) -> None:
    before = tree(night.workspace)
    recovery = looked(night)
    all_tables(recovery)
    assert len(recovery.read_checkpoint()) == 0
    assert "There is no checkpoint" in recovery.next()
    assert verdicts(recovery) == {"checkpoint": Verdict.NOT_APPLICABLE}
    assert tree(night.workspace) == before
    assert not Path("target").exists()


def test_a_stopped_migration_is_shown_and_left_as_it_is(night: RunFolder) -> None:
    stopped(night)
    before = tree(night.workspace)
    recovery = looked(night)
    all_tables(recovery)
    ledger: dict[str, str] = dict(recovery.read_checkpoint().to_numpy().tolist())
    assert (ledger["id"], ledger["decided on"], ledger["chunks of the snapshot"]) == ("night-22", "30", "85")
    assert of_alpha(recovery.targets()) == [60, 30, 0.5, 0, 0, 30]
    assert recovery.context()["same"].all()
    assert of_alpha(recovery.proof()) == [30, 30, 0, 0, 0, 0, 0, 0]
    assert recovery.arrivals().set_index("collection")["missing"].to_dict() == {"alpha": 30, "beta": 25}
    assert "55 chunks are left; 0 of them" in recovery.next()
    assert "runbook resume night --checkpoint night-22" in recovery.next()
    assert set(verdicts(recovery).values()) == {Verdict.PASS}
    assert tree(night.workspace) == before


def test_what_was_in_flight_is_looked_up(night: RunFolder) -> None:
    """As after a kill between the write and the ledger: the rows are there, and the ledger does not know."""
    stopped(night)
    path = night.workspace / "checkpoint.json"
    raw = json.loads(path.read_text(encoding="utf-8"))
    raw["targets"]["alpha"] |= {"completed": 20, "inflight": [20, 40]}
    path.write_text(json.dumps(raw), encoding="utf-8")
    recovery = looked(night)
    assert of_alpha(recovery.proof()) == [20, 20, 0, 0, 20, 10, 0, 0]
    assert "20 of them were in flight" in recovery.next()
    migrate(night)
    assert_whole(night)


def assert_whole(night: RunFolder) -> None:
    """After the resume: nothing doubled, nothing lost."""
    recovery = looked(night)
    all_tables(recovery)
    assert set(verdicts(recovery).values()) == {Verdict.PASS}
    assert "chunks missing or extra" in verdicts(recovery)
    table = recovery.arrivals()
    assert (table["source"].sum(), table["target"].sum(), table["missing"].sum(), table["extra"].sum()) == (
        85,
        85,
        0,
        0,
    )
    assert "complete" in recovery.next()


@pytest.mark.parametrize("batches", [1, 6, 8])
def test_after_a_resume_nothing_is_doubled_or_lost(night: RunFolder, batches: int) -> None:
    stopped(night, batches)
    migrate(night)
    assert_whole(night)


def test_lost_strange_and_early_chunks_are_found(night: RunFolder) -> None:
    stopped(night)
    with embedded(Path("target")) as store:
        store.delete("alpha", ["a3"])
        store.add("alpha", chunks(2, 4, prefix="theirs"))
        store.add("alpha", chunks(60, 4, prefix="a").slice(50, 51))
    recovery = looked(night)
    assert of_alpha(recovery.proof()) == [30, 29, 1, 0, 0, 0, 1, 2]
    found = verdicts(recovery)
    assert found["completed chunks missing in the target"] is Verdict.FAIL
    assert found["chunks that the run did not stage"] is Verdict.FAIL
    assert found["chunks ahead of the checkpoint"] is Verdict.WARNING
    assert "Do not continue" in recovery.next()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"schema": "if_ttt"}, "schema"),
        ({"target": {"path": "elsewhere"}}, "target.place"),
        ({"source": {"path": "elsewhere"}}, "source.place"),
        ({"collections": {"include": ["al*"]}}, "collections.include"),
    ],
)
def test_another_context_is_named(night: RunFolder, change: dict[str, Any], named: str) -> None:
    stopped(night)
    other = parameters_from({**night.read().parameters.document(), **change})
    recovery = CheckpointRecoveryStep(RunRecord(night.read(), "30", other))
    table = recovery.context()
    assert named in table[~table["same"]]["what"].tolist()
    check = recovery.run.result.checks[-1]
    assert (check.verdict, check.reason, named in check.detail) == (Verdict.FAIL, "context_changed", True)
    assert "Do not continue" in recovery.next()


def test_how_step_22_ended_and_what_the_ledger_noted_is_told(night: RunFolder) -> None:
    stopped(night)
    Checkpoint.read(night.workspace / "checkpoint.json").note("alpha: a7: refused")
    error = {"code": "unreachable", "type": "Transient", "line": "connection refused"}
    StepResult("22", "Migrate", "night", utc_now(), utc_now(), Verdict.FAIL, error=error).write(
        night.reports / "results" / "22.json"
    )
    assert looked(night).failures()["what"].tolist() == ["alpha: a7: refused", "step 22 ended: connection refused"]


def test_resume_takes_the_run_s_own_checkpoint_and_no_other(night: RunFolder, capsys: Said) -> None:
    assert cli.main(["resume", "night", "--checkpoint", checkpoint_id("night")]) == 2
    assert "no checkpoint yet" in capsys.readouterr().err
    for other in ("other-22", "night", "workspace/other/checkpoint.json"):
        assert cli.main(["resume", "night", "--checkpoint", other]) == 2
        error = capsys.readouterr().err
        assert "is not the checkpoint of run night. It has one, night-22" in error
        assert len(error.splitlines()) == 1


@pytest.mark.parametrize("given", ["night-22", "path"])
def test_resume_goes_on_with_it(night: RunFolder, given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped(night)
    seen = []

    def line(folder: RunFolder, steps: list[Any], *, dry_run: bool = False) -> int:
        seen.append(folder.id)
        return 0

    monkeypatch.setattr(run, "_run_line", line)
    path = str(night.workspace / "checkpoint.json")
    assert cli.main(["resume", "night", "--checkpoint", path if given == "path" else given]) == 0
    assert seen == ["night"]

"""The drills of a rehearsal: what is put back is compared chunk by chunk, and a kill falls into the middle of an import."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.cli import rehearse
from helpers.cutover.readiness import CutoverReadiness
from helpers.errors import RunbookError
from helpers.fence import FenceControl
from helpers.formatting import moment
from helpers.migration.checkpoint import Checkpoint
from helpers.parameters import Parameters
from helpers.rehearsal import write_sample
from helpers.rehearsal.setup import application_at_work, prepare, with_application
from helpers.results import Verdict, file_digest
from helpers.rollback import postmortem
from helpers.run import folders as runs
from helpers.run.folders import RunFolder, RunPath
from helpers.run.record import RunRecord
from helpers.snapshots.snapshot import Snapshot, write_snapshot
from helpers.steps.closeout import FenceEnd
from helpers.stores import open_target
from tests.rollbacks import Night, everything, others, snapshotted, usual_source
from tests.storage import chunks, embedded

# An import as step 22 does it: two targets, their writers' batches in flight before the first is written.
IMPORT = """
import sys, time
from pathlib import Path
from helpers.migration.checkpoint import Checkpoint
from helpers.run.folders import RunFolder, RunLock
folder, batches = RunFolder.of(sys.argv[1]), int(sys.argv[2])
with RunLock(folder, "step").acquire(1):
    ledger = Checkpoint.open(folder.workspace / "checkpoint.json", {})
    ledger.stage(2 * batches, 0, {"a": batches, "b": batches})
    for name in ("a", "b"):
        ledger.begin(name, 0, 1)
    for done in range(1, batches + 1):
        for name in ("a", "b"):
            time.sleep(0.05)
            ledger.complete(name, done, 0, 0.05)
            if done < batches:
                ledger.begin(name, done, done + 1)
"""


@pytest.fixture
def rehearsal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Parameters:
    monkeypatch.setenv("RUNBOOK_REPORTS", str(tmp_path / "reports"))
    monkeypatch.setenv("RUNBOOK_WORKSPACE", str(tmp_path / "workspace"))
    return with_application(
        prepare(tmp_path / "workspace" / "try", 50, 8), tmp_path / "workspace" / "try" / "application"
    )


def _stood(parameters: Parameters, folder: Path) -> tuple[Snapshot, dict[str, str]]:
    """What stands before a drill: the target's snapshot, and the digests of the application's files."""
    write_sample(Path(str(parameters.target.path)), 50, 8)
    with open_target(parameters.target) as store:
        before = write_snapshot(store, folder, "before", store.names(), retention_days=1)
    files = [named.path for named in parameters.cutover.config_files()]
    return before, {path: file_digest(Path(path)) for path in files}


def _use(parameters: Parameters, place: str) -> dict[str, str]:
    """Point the application's .env to a place; the digests of its files then."""
    env = Path(parameters.cutover.env_files[0].path)
    env.write_text(re.sub(r'CHROMA_PATH="[^"]*"', f'CHROMA_PATH="{place}"', env.read_text()), encoding="utf-8")
    return {named.path: file_digest(Path(named.path)) for named in parameters.cutover.config_files()}


@pytest.mark.more
def test_what_is_put_back_is_compared_with_what_stood_there(rehearsal: Parameters, tmp_path: Path) -> None:
    before, _ = _stood(rehearsal, tmp_path)
    digests = _use(rehearsal, str(rehearsal.target.path))
    with application_at_work(rehearsal):
        proof = postmortem._put_back(rehearsal, before, digests)
        assert sum(proof["compared"].values()) == before.total == 50
        assert "names the target" in proof["application"]
        with open_target(rehearsal.target) as store:
            name = store.names()[0]
            victim = store.ids(name)[3]
            store.delete(name, [victim])
        with pytest.raises(RunbookError, match=re.escape(victim)):
            postmortem._put_back(rehearsal, before, digests)


@pytest.mark.more
def test_an_application_that_still_uses_the_source_is_not_put_back(rehearsal: Parameters, tmp_path: Path) -> None:
    before, digests = _stood(rehearsal, tmp_path)
    with application_at_work(rehearsal), pytest.raises(RunbookError, match="/health does not name the target"):
        postmortem._put_back(rehearsal, before, digests)
    _use(rehearsal, str(rehearsal.target.path))
    with application_at_work(rehearsal), pytest.raises(RunbookError, match=r"\.env is not as it was"):
        postmortem._put_back(rehearsal, before, digests)


@pytest.mark.parametrize("batches", [2, 40])
def test_a_kill_falls_into_the_middle_of_an_import(rehearsal: Parameters, batches: int) -> None:
    folder = RunFolder.of("try")
    child = subprocess.Popen([sys.executable, "-c", IMPORT, folder.id, str(batches)], cwd=Path(__file__).parents[1])
    ended, kills = threading.Event(), list[rehearse._Kill]()
    killer = threading.Thread(target=rehearse._kill_in_the_middle, args=(folder, ended, kills))
    killer.start()
    try:
        assert child.wait(60) == -9
    finally:
        ended.set()
        killer.join()
    (kill,) = kills
    left = Checkpoint.read(folder.workspace / RunPath.CHECKPOINT).targets.values()
    assert 0 < kill.written == sum(t.completed for t in left) < kill.staged == 2 * batches
    assert kill.in_flight == sum(t.inflight[1] - t.inflight[0] for t in left if t.inflight) > 0


def test_the_import_of_the_smallest_rehearsal_has_a_middle(tmp_path: Path) -> None:
    for number in (50, 430):
        size = prepare(tmp_path / str(number), number, 2).migration.batch_size
        assert 20 <= number // size <= 25, "batches"


def test_a_drill_that_was_not_made_or_failed_says_so_in_its_file(rehearsal: Parameters) -> None:
    folder = runs.create(rehearsal, "try", rehearsal=True)
    with rehearse._recording(folder, "kill") as found:
        found |= {"verdict": Verdict.NOT_EXERCISED, "why": "all were written"}
    with pytest.raises(ValueError, match="gone"), rehearse._recording(folder, "restore"):
        raise ValueError("the disk is gone")
    said = {path.stem: json.loads(path.read_text()) for path in (folder.reports / RunPath.DRILLS).glob("*.json")}
    assert {name: (d["verdict"], d["why"]) for name, d in said.items()} == {
        "kill": ("not exercised", "all were written"),
        "restore": ("fail", "the disk is gone"),
    }


def test_the_application_of_a_rehearsal_uses_its_source(rehearsal: Parameters) -> None:
    record = RunRecord(runs.create(rehearsal, "try", rehearsal=True).read(), "12")
    CutoverReadiness(record).table()
    found = next(c for c in record.result.checks if c.name == "configuration files")
    assert (found.verdict, found.measured, found.threshold) == (Verdict.PASS, 2, 2)


@pytest.fixture
def drilled(tmp_path: Path, own_folders: None) -> Night:
    """A run that was cut over, to whose target a client has written a chunk since."""
    night = snapshotted(tmp_path)
    night.migrate()
    night.cut_over()
    _client_adds(night.home / "target", "late")
    return night


def _client_adds(place: Path, chunk: str) -> None:
    with embedded(place) as store:
        batch = chunks(1, 4, seed=9, prefix="client")
        batch.ids = [chunk]
        store.add("alpha", batch)


def _roll_back(night: Night, meanwhile: Callable[[], None], proof: dict[str, Any]) -> None:
    """The drill, put back; `meanwhile` comes between its lift of the fence and the new fence."""
    with postmortem.undo_after_drill(night.folder, proof):
        night.rollback(why="drill", replay=True)
        meanwhile()


@pytest.mark.more
def test_a_source_that_is_put_back_is_compared_with_the_snapshot_and_each_file_with_its_copy(drilled: Night) -> None:
    before, proof = everything(drilled.source), dict[str, Any]()

    def replayed() -> None:
        assert everything(drilled.source)["alpha"] != before["alpha"]

    _roll_back(drilled, replayed, proof)
    place = drilled.home / "source"
    held = {path: file_digest(path) for path in place.rglob("*") if path.is_file()}
    assert everything(drilled.source) == before
    told = {
        key: [proof[side][key] for side in ("source_before", "source")] for key in ("compared", "differing", "replayed")
    }
    assert told == {"compared": [85, 85], "differing": [1, 0], "replayed": [1, 0]}
    put = {Path(path).absolute(): digest for path, digest in proof["files"].items()}
    assert {path: digest for path, digest in put.items() if path.is_relative_to(place)} == held
    assert len(held) > 1, "the folders of the indexes, too"


@pytest.mark.more
def test_a_fence_that_a_drill_lifted_is_up_since_it_was_set_again(tmp_path: Path, own_folders: None) -> None:
    """Its state is no copy from before the drill, with the times of a fence that was lifted meanwhile."""
    usual_source(tmp_path / "source")
    others(tmp_path / "target")
    commands = {"lock": ["touch", str(tmp_path / "locked")], "unlock": ["rm", str(tmp_path / "locked")]}
    night = Night(tmp_path, fence={"kind": "command", "command": commands})
    night.snapshot()
    night.migrate()
    FenceControl(night.folder, night.folder.read().parameters).put_up()
    night.cut_over()
    _client_adds(tmp_path / "target", "late")
    _roll_back(night, lambda: None, {})
    end, lifted = FenceEnd(RunRecord(night.folder.read(), "53")), night.folder.read().result("27")
    assert end.state is not None
    assert lifted is not None
    assert (tmp_path / "locked").exists()
    assert end.active
    assert end.state.up_at > lifted.facts["fence"]["writes_again"]
    assert moment(end.state.up_at) in end.look().to_string()


@pytest.mark.more
def test_what_a_client_wrote_while_the_fence_was_down_stops_the_copy_from_going_back(drilled: Night) -> None:
    proof = dict[str, Any]()
    with pytest.raises(RunbookError, match="alpha between the fences: added") as stopped:
        _roll_back(drilled, lambda: _client_adds(drilled.home / "source", "between the fences"), proof)
    assert "\n" not in stopped.value.line()
    assert "between the fences" in everything(drilled.source)["alpha"][-1], "nothing went back over it"
    assert "files" not in proof


@pytest.mark.more
def test_a_replayed_chunk_that_a_client_changed_again_stops_it_too(drilled: Night) -> None:
    def changed() -> None:
        with embedded(drilled.home / "source") as store:
            batch = store.read("alpha", ["late"])
            batch.documents = ["another"]
            store.delete("alpha", ["late"])
            store.add("alpha", batch)

    with pytest.raises(RunbookError, match="alpha late: not as it was replayed"):
        _roll_back(drilled, changed, {})

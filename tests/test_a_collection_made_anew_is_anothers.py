"""A collection is known by its uuid: one that somebody made anew under a name of ours is theirs, and is left alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from helpers import audit
from helpers.chunks import ChunkBatch
from helpers.errors import Terminal
from helpers.migration import restore as restoring
from helpers.migration.checkpoint import Checkpoint
from helpers.migration.restore import look, restore
from helpers.migration.staging import Quarantine, Staged
from helpers.parameters.endpoint import Endpoint
from helpers.results import Verdict
from helpers.run import plan as plans
from helpers.run.record import RunRecord
from helpers.runner import notebook
from helpers.snapshots.snapshot import write_snapshot
from helpers.steps.migrate import MigrateStep
from helpers.stores import open_target
from helpers.stores.client import ClientStore
from helpers.troubleshooting import Repair
from tests.rollbacks import Night, snapshotted, usual_source
from tests.storage import assert_same, chunks, contents, embedded, fill, plan

pytestmark = pytest.mark.usefixtures("own_folders")


@pytest.fixture
def night(tmp_path: Path) -> Night:
    return snapshotted(tmp_path)


def ledger(night: Night) -> Path:
    return night.folder.workspace / "checkpoint.json"


def anew(night: Night, name: str = "alpha") -> ChunkBatch:
    """Somebody makes this collection of the target again: with ids of the run, and other texts."""
    with embedded(night.home / "target") as store:
        theirs = contents(store, name)
        theirs.documents = [f"by somebody else {i}" for i in range(len(theirs))]
        store.drop(name)
        store.create(plan(name, "l2", metadata={"owner": "another"}))
        store.add(name, theirs)
        return contents(store, name)


def still(night: Night, theirs: ChunkBatch, name: str = "alpha") -> list[str]:
    """Theirs is as they left it; the names in the target."""
    with embedded(night.home / "target") as store:
        assert_same(contents(store, name), theirs)
        assert store.info(name).metadata == {"owner": "another"}
        return store.names()


def test_a_rollback_removes_what_the_run_made_and_leaves_what_was_made_anew(night: Night) -> None:
    night.migrate()
    theirs = anew(night)
    found = night.rollback()
    assert still(night, theirs) == ["alpha", "other-people"], "beta was this run's"
    assert found["collections of others in the target"] is Verdict.WARNING
    assert found["collections of this run in the target"] is Verdict.PASS
    assert "not of this run, so left alone: alpha" in night.state.stages["remove"]["said"]


def test_without_a_uuid_as_in_older_ledgers_the_ids_of_the_run_are_its_own(night: Night) -> None:
    """The control: nothing but the uuid tells theirs from ours."""
    night.migrate()
    kept = json.loads(ledger(night).read_text())
    for state in kept["targets"].values():
        assert state.pop("uuid")
    ledger(night).write_text(json.dumps(kept))
    anew(night)
    assert "collections of others in the target" not in night.rollback()
    with embedded(night.home / "target") as store:
        assert store.names() == ["other-people"]


def test_a_rollback_of_a_run_that_was_given_up_leaves_its_successors_data(night: Night) -> None:
    night.migrate()
    with embedded(night.home / "target") as store:
        for name in ("alpha", "beta"):
            store.drop(name)
            fill(store, name, chunks(9, 4, prefix=name[0]))
    assert night.rollback(dry_run=True)["rollback"] is Verdict.NOT_EXERCISED
    night.rollback()
    with embedded(night.home / "target") as store:
        assert [store.count(name) for name in ("alpha", "beta")] == [9, 9]


def test_a_catch_up_neither_drops_nor_writes_what_was_made_anew(night: Night) -> None:
    night.migrate()
    theirs = anew(night)
    with embedded(night.home / "source") as store:  # so much that the collection would be written afresh
        store.delete("alpha", [f"a{i}" for i in range(55)])
    work = MigrateStep(RunRecord(night.folder.read(), "22"))
    work.validate()
    with pytest.raises(Terminal, match=r"already holds alpha.*made anew by somebody") as caught:
        work.catch_up()
    assert caught.value.code == "target_not_empty"
    assert still(night, theirs) == ["alpha", "beta", "other-people"]


def test_a_resume_writes_nothing_into_what_was_made_anew(night: Night) -> None:
    night.migrate_half()
    theirs = anew(night)
    with pytest.raises(Terminal, match=r"already holds alpha.*Made anew by somebody"):
        night.migrate()
    still(night, theirs)


def test_a_retry_leaves_what_was_made_anew(night: Night) -> None:
    night.migrate()
    theirs = anew(night)
    notebook.undo_from(night.folder.read(), plans.find("22"), lambda _: None)
    assert still(night, theirs) == ["alpha", "other-people"]


def test_a_mend_changes_nothing_in_what_was_made_anew(night: Night) -> None:
    night.migrate()
    theirs, run = anew(night), RunRecord(night.folder.read(), "46")
    with open_target(run.parameters.target) as store:
        assert isinstance(store, ClientStore)
        mend = Repair(run, {}, store, cast(Staged, None), cast(Quarantine, None))
        with pytest.raises(Terminal, match=r"already holds alpha.*Made anew by somebody"):
            mend.apply({"alpha": ["a1"]})
        assert mend.apply({"beta": []}).empty, "beta is the run's own"
    still(night, theirs)


def test_the_collections_of_copied_index_files_are_known_by_their_uuids_too(tmp_path: Path) -> None:
    usual_source(tmp_path / "source")
    night = Night(tmp_path, migration={"method": "files"})
    night.snapshot()
    night.migrate()
    with embedded(tmp_path / "target") as store:
        assert {n: s.uuid for n, s in Checkpoint.read(ledger(night)).targets.items()} == store.identities()
    theirs = anew(night)
    night.rollback()
    assert still(night, theirs) == ["alpha"]


class Killed(BaseException):
    """What kill -9 would be."""


def migrate_killed_at(night: Night, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Step 22 dies where it calls this method of the target."""

    def killed(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(ClientStore, method, killed)
        with pytest.raises(Killed):
            night.migrate()


@pytest.mark.parametrize("theirs", [False, True], ids=["empty as it was made", "with chunks of somebody"])
def test_a_collection_of_which_a_kill_left_no_uuid_is_ours_while_it_is_empty(
    night: Night, monkeypatch: pytest.MonkeyPatch, *, theirs: bool
) -> None:
    migrate_killed_at(night, "identity", monkeypatch)
    states = Checkpoint.read(ledger(night)).targets
    assert (states["alpha"].intended, states["alpha"].uuid) == (True, "")
    with embedded(night.home / "target") as store:
        if theirs:
            store.add("alpha", chunks(2, 4, prefix="x"))
    if theirs:
        with pytest.raises(Terminal, match="already holds alpha"):
            night.migrate()
        return
    night.migrate()
    with embedded(night.home / "target") as store:
        assert store.count("alpha") == 60
        uuids = store.identities()
    assert {name: state.uuid for name, state in Checkpoint.read(ledger(night)).targets.items()} == {
        name: uuids[name] for name in ("alpha", "beta")
    }


def test_the_uuids_after_a_catch_up_are_those_in_the_target(night: Night) -> None:
    night.migrate()
    before = Checkpoint.read(ledger(night)).targets
    with embedded(night.home / "source") as store:
        store.delete("alpha", [f"a{i}" for i in range(55)])
        store.delete("beta", ["b1"])
    night.migrate()
    after = Checkpoint.read(ledger(night)).targets
    assert (after["alpha"].uuid != before["alpha"].uuid, after["beta"].uuid) == (True, before["beta"].uuid)
    with embedded(night.home / "target") as store:
        assert Checkpoint.read(ledger(night)).replaced(store.identities()) == []
    assert "collections of others in the target" not in night.rollback()


def test_a_collection_that_a_killed_catch_up_made_and_somebody_made_anew_is_theirs(
    night: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    night.migrate()
    with embedded(night.home / "source") as store:
        store.delete("alpha", [f"a{i}" for i in range(55)])
    migrate_killed_at(night, "_add_piece", monkeypatch)
    theirs = anew(night)
    with pytest.raises(Terminal, match="already holds alpha"):
        night.migrate()
    night.rollback()
    assert still(night, theirs) == ["alpha", "other-people"]


@pytest.mark.parametrize("theirs", [False, True], ids=["its own", "another's"])
def test_a_restore_goes_on_in_its_own_collection_and_never_in_one_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, theirs: bool
) -> None:
    audit.append(tmp_path / "any" / audit.NAME, "makes the key of the workspace")
    with embedded(tmp_path / "db") as store:
        fill(store, "alpha", chunks(30, 4, prefix="a"))
        snapshot = write_snapshot(store, tmp_path / "snapshots", "one", store.names(), retention_days=7)
    into = Endpoint(path=str(tmp_path / "into"))

    def dies(*_: Any) -> Iterator[ChunkBatch]:
        yield from ()
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(restoring, "_restorable", dies)
        with pytest.raises(Killed):
            restore(snapshot, into)
    if not theirs:
        assert [would for _, would in look(snapshot, into)] == ["go on"]
        assert restore(snapshot, into).proven == {"alpha": 30}
        assert restore(snapshot, into).written == {"alpha": 0}
        return
    with embedded(tmp_path / "into") as store:
        store.drop("alpha")
        store.create(plan("alpha", "l2", metadata={"owner": "another"}))
    assert [would for _, would in look(snapshot, into)] == ["refuse: it exists there"]
    with pytest.raises(Terminal, match="already holds alpha") as caught:
        restore(snapshot, into)
    assert caught.value.code == "target_not_empty"
    with embedded(tmp_path / "into") as store:
        assert store.count("alpha") == 0

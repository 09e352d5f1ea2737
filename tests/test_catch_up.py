"""Catch-up: whatever the source changed after its snapshot, the target holds it afterwards, or the run is NO-GO."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.chunks import ChunkBatch
from helpers.errors import Terminal
from helpers.migration.catch_up import PROBED, UNCHANGED, Round
from helpers.migration.checkpoint import Checkpoint
from helpers.migration.source_changes import APPLIED, CatchUpLedger, current_snapshot, prove_unchanged
from helpers.parameters import parameters_from
from helpers.results import Verdict, utc_now
from helpers.run import folders as runs
from helpers.run.folders import RunFolder
from helpers.run.record import RunRecord
from helpers.steps.checkpoint_recovery import CheckpointRecoveryStep
from helpers.steps.migrate import MigrateStep
from helpers.steps.snapshot import SnapshotStep
from helpers.steps.validate import ValidateStep
from helpers.stores.client import ClientStore
from tests.storage import assert_same, chunks, contents, embedded, fill, plan

Change = Callable[[ClientStore], None]
ALPHA, BETA = chunks(60, 4, prefix="a"), chunks(25, 3, prefix="b")


def new_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **sections: Any) -> RunFolder:
    """A run whose snapshot (step 21) is taken."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RUNBOOK_REPORTS", str(tmp_path / "reports"))
    monkeypatch.setenv("RUNBOOK_WORKSPACE", str(tmp_path / "workspace"))
    with embedded(Path("source")) as store:
        fill(store, "alpha", ALPHA)
        fill(store, "beta", BETA, "cosine")
    base: dict[str, Any] = {
        "name": "night", "schema": "identity", "source": {"path": "source"}, "target": {"path": "target"},
        "snapshot": {"directory": "kept"}, "migration": {"batch_size": 10},
    }  # fmt: skip
    folder = runs.create(parameters_from(base | sections), "night")
    record = RunRecord(folder.read(), "21")
    SnapshotStep(record).verify()
    keep(folder, record)
    return folder


@pytest.fixture
def night(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    return new_run(tmp_path, monkeypatch)


def keep(folder: RunFolder, record: RunRecord) -> None:
    record.result.finished = utc_now()
    record.result.write(folder.reports / "results" / f"{record.step}.json")


def migrate(folder: RunFolder) -> RunRecord:
    """Step 22, all six phases."""
    record = RunRecord(folder.read(), "22")
    work = MigrateStep(record)
    work.export()
    work.transform()
    work.validate()
    work.import_chunks()
    work.verify()
    work.catch_up()
    keep(folder, record)
    return record


def at_the_source(change: Change) -> None:
    with embedded(Path("source")) as store:
        change(store)


def verdict(record: RunRecord, name: str = UNCHANGED) -> tuple[Verdict, str]:
    check = next(c for c in record.result.checks if c.name == name)
    return check.verdict, check.reason


def assert_target_is_source(folder: RunFolder) -> None:
    """Every chunk of every collection, the index included; the lock given back; step 23 and step 30 content."""
    with embedded(Path("source")) as source, embedded(Path("target")) as target:
        assert target.names() == source.names()
        assert target.lock_holder() is None
        for name in source.names():
            wanted, found = contents(source, name), contents(target, name)
            if source.info(name).space != "cosine":
                assert_same(found, wanted)
            assert (found.ids, found.documents, found.metadatas) == (wanted.ids, wanted.documents, wanted.metadatas)
            if len(wanted):
                near = target.query(name, wanted.embeddings[:1], 1_000)[0]
                assert sorted(i for i, _ in near) == sorted(wanted.ids), "lost to search"
    suite = ValidateStep(RunRecord(folder.read(), "23"))
    suite.read_target()
    assert suite.findings.differing == 0, suite.differences()
    recovery = CheckpointRecoveryStep(RunRecord(folder.read(), "30"))
    assert recovery.context()["same"].all()
    recovery.proof()
    recovery.arrivals()
    assert {c.verdict for c in recovery.run.result.checks} == {Verdict.PASS}


def some_of_everything(store: ClientStore) -> None:
    """Added, changed in each column, a metadata key removed, deleted, deleted and added again."""
    rows = ALPHA.take([1, 2, 3, 4])
    rows.documents[0] = None
    rows.metadatas[1] = {"n": 2}
    rows.metadatas[2] = None
    rows.embeddings[3] *= 2
    store.delete("alpha", [*rows.ids, "a50", "a59"])
    store.add("alpha", rows)
    store.add("alpha", chunks(30, 4, seed=3, prefix="new"))
    store.delete("beta", ["b0"])


def test_a_source_that_did_not_change_is_proven_and_nothing_is_written(night: RunFolder) -> None:
    record = migrate(night)
    assert verdict(record) == (Verdict.PASS, "")
    assert record.result.facts["catch_up"]["rounds"] == []
    assert record.result.facts["catch_up"]["unchanged_at"]
    assert not (night.workspace / "catch-up").exists()
    assert_target_is_source(night)
    assert prove_unchanged(RunRecord(night.read(), "23")).nothing


def test_what_changed_before_and_after_the_import_arrives(night: RunFolder) -> None:
    at_the_source(some_of_everything)
    record = migrate(night)
    assert verdict(record) == (Verdict.PASS, "")
    assert verdict(record, PROBED) == (Verdict.PASS, "")
    facts = record.result.facts
    (first,) = facts["catch_up"]["rounds"]
    assert (first["added"], first["changed"], first["deleted"], first["state"]) == (30, 4, 3, APPLIED)
    assert facts["snapshot"]["id"] == current_snapshot(record).id == "night-21-catch-up-1"
    assert facts["imported"] == 60 + 25 + 30 - 3
    assert [c.verdict for c in record.result.checks if c.name == "chunks missing"] == [Verdict.PASS]
    assert_target_is_source(night)

    at_the_source(lambda store: store.delete("alpha", ["new0"]))  # before step 25: its proof sees it, 22 runs again
    found = prove_unchanged(RunRecord(night.read(), "23"))
    assert (found.nothing, found.deleted) == (False, 1)
    record = migrate(night)
    assert [r["deleted"] for r in record.result.facts["catch_up"]["rounds"]] == [3, 1]
    assert_target_is_source(night)


@pytest.mark.more
def test_collections_come_go_and_change_their_settings(night: RunFolder) -> None:
    migrate(night)

    def change(store: ClientStore) -> None:
        store.drop("beta")
        store.drop("alpha")
        fill(store, "alpha", ALPHA.slice(0, 40), "ip")
        fill(store, "gamma", chunks(12, 5, prefix="g"), "cosine")
        store.create(plan("hollow"))

    at_the_source(change)
    record = migrate(night)
    assert verdict(record) == (Verdict.PASS, "")
    assert_target_is_source(night)
    owned = Checkpoint.read(night.workspace / "checkpoint.json").owned()
    assert owned == ["alpha", "gamma", "hollow"]


@pytest.mark.slow
def test_a_new_collection_whose_name_is_taken_in_the_target_stops_before_anything_is_touched(night: RunFolder) -> None:
    migrate(night)
    theirs = chunks(3, 2, prefix="theirs")
    with embedded(Path("target")) as target:
        fill(target, "gamma", theirs)

    def change(store: ClientStore) -> None:
        fill(store, "gamma", chunks(12, 5, prefix="g"))
        store.delete("alpha", ["a1"])

    at_the_source(change)
    with pytest.raises(Terminal, match=r"already holds gamma.*It is new in the source"):
        migrate(night)
    with embedded(Path("target")) as target:
        assert_same(contents(target, "gamma"), theirs)
        assert "a1" in target.ids("alpha")


@pytest.mark.slow
def test_an_emptied_source_empties_no_target(night: RunFolder) -> None:
    migrate(night)

    def change(store: ClientStore) -> None:
        store.drop("alpha")
        store.drop("beta")

    at_the_source(change)
    with pytest.raises(Terminal, match="no collection of the migration is left there"):
        migrate(night)
    with embedded(Path("target")) as target:
        assert (target.count("alpha"), target.count("beta")) == (60, 25)


@pytest.mark.more
def test_block_names_what_changed_and_is_no_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    night = new_run(tmp_path, monkeypatch, migration={"catch_up": "block"})
    at_the_source(some_of_everything)
    record = migrate(night)
    assert verdict(record) == (Verdict.FAIL, "source_changed")
    check = next(c for c in record.result.checks if c.name == UNCHANGED)
    assert check.offenders == 37
    assert {"collection": "alpha", "id": "a50", "change": "deleted"} in check.ids
    with embedded(Path("target")) as target:
        assert_same(contents(target, "alpha"), contents_of(ALPHA))
        assert target.lock_holder() is None


def contents_of(batch: ChunkBatch) -> ChunkBatch:
    return batch.take(sorted(range(len(batch)), key=lambda i: batch.ids[i]))


def test_a_dry_run_does_not_look_at_the_source(night: RunFolder) -> None:
    record = RunRecord(night.read(), "22", dry_run=True)
    assert len(MigrateStep(record).catch_up()) == 0
    assert verdict(record) == (Verdict.NOT_EXERCISED, "")
    assert not Path("target").exists()


@pytest.mark.more
def test_the_schema_s_quarantine_follows_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """if_ttt wants a document: a chunk that loses it leaves the target, one that gets it arrives."""
    settings = {"id_policy": "prefix", "minimum_valid": 0.5}
    night = new_run(tmp_path, monkeypatch, schema="if_ttt", migration=settings, collections={"include": ["alpha"]})
    bare = ALPHA.take([1, 2])
    bare.documents[:] = [None, None]

    def lose(store: ClientStore) -> None:
        store.delete("alpha", bare.ids)
        store.add("alpha", bare)

    def find(store: ClientStore) -> None:
        store.delete("alpha", ["a1", "a7"])
        store.add("alpha", ALPHA.take([1]))

    at_the_source(lose)
    record = migrate(night)
    assert record.result.facts["quarantine"] == {"missing_document": 2}
    assert record.result.facts["imported"] == 58
    at_the_source(find)
    record = migrate(night)
    assert record.result.facts["quarantine"] == {"missing_document": 1}
    assert record.result.facts["imported"] == 58
    with embedded(Path("target")) as target:
        held = target.ids("sergio_corpus")
        assert ("alpha:a1" in held, "alpha:a2" in held, "alpha:a7" in held) == (True, False, False)
    suite = ValidateStep(RunRecord(night.read(), "23"))
    suite.read_target()
    assert suite.findings.differing == 0

    mute = ALPHA.slice(10, 50)
    mute.documents[:] = [None] * 40

    def silence(store: ClientStore) -> None:
        store.delete("alpha", mute.ids)
        store.add("alpha", mute)

    at_the_source(silence)
    record = migrate(night)
    assert verdict(record, "chunks that pass validation") == (Verdict.FAIL, "validation_below_minimum")
    assert verdict(record) == (Verdict.FAIL, "source_changed")
    with embedded(Path("target")) as target:
        assert sorted(target.ids("sergio_corpus")) == sorted(held), "nothing was touched"
    assert current_snapshot(record).id == "night-21-catch-up-2"


class Killed(BaseException):
    """What kill -9 would be: nothing in the toolkit may catch it."""


def killing(monkeypatch: pytest.MonkeyPatch, moment: int) -> None:
    """Die at the `moment`-th write of catch-up: any write to the target or to a ledger, before or after it."""
    calls = iter(range(1, 10_000))

    def mortal(kind: type, name: str) -> None:
        original = getattr(kind, name)

        def die(self: Any, *given: Any, **named: Any) -> Any:
            if next(calls) == moment:
                raise Killed
            result = original(self, *given, **named)
            if next(calls) == moment:
                raise Killed
            return result

        monkeypatch.setattr(kind, name, die)

    for kind, name in ((ClientStore, "delete"), (ClientStore, "_add_piece"), (ClientStore, "create"),
                       (ClientStore, "drop"), (CatchUpLedger, "save"), (Checkpoint, "save")):  # fmt: skip
        mortal(kind, name)
    for name in ("rmtree",):
        original = getattr(shutil, name)

        def die(*given: Any, original: Any = original, **named: Any) -> Any:
            if next(calls) == moment:
                raise Killed
            return original(*given, **named)

        monkeypatch.setattr(shutil, name, die)


@pytest.mark.parametrize(
    "moment", [12, 29, *(pytest.param(n, marks=pytest.mark.slow) for n in (3, 7, 20, 24, 33, 37, 41, 55))]
)
def test_killed_anywhere_and_gone_on_with(night: RunFolder, moment: int, monkeypatch: pytest.MonkeyPatch) -> None:
    migrate(night)

    def change(store: ClientStore) -> None:
        some_of_everything(store)
        fill(store, "gamma", chunks(12, 5, prefix="g"))
        store.drop("beta")

    at_the_source(change)
    with monkeypatch.context() as patch:
        killing(patch, moment)
        with pytest.raises(Killed):
            migrate(night)
    recovery = CheckpointRecoveryStep(RunRecord(night.read(), "30"))
    recovery.proof()
    recovery.arrivals()
    assert recovery.catching_up == ("A catch-up with the source was interrupted" in recovery.next())
    record = migrate(night)
    assert verdict(record) == (Verdict.PASS, "")
    assert_target_is_source(night)


@pytest.mark.more
def test_few_changes_are_written_by_id_and_many_afresh(night: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    dropped: list[str] = []
    drop = ClientStore.drop

    def noted(self: ClientStore, name: str) -> None:
        dropped.append(name)
        drop(self, name)

    monkeypatch.setattr(ClientStore, "drop", noted)
    migrate(night)
    at_the_source(some_of_everything)  # 6 of 60 in alpha, 1 of 25 in beta
    record = migrate(night)
    assert verdict(record, PROBED) == (Verdict.PASS, "")
    assert f"{4 + 30} chunks written and read back equal" in next(
        c.detail for c in record.result.checks if c.name == PROBED
    )
    assert dropped == []
    assert_target_is_source(night)
    at_the_source(lambda store: store.delete("beta", [f"b{n}" for n in range(1, 4)]))  # 3 of 24
    assert verdict(migrate(night), PROBED) == (Verdict.PASS, "")
    assert dropped == ["beta"]
    assert_target_is_source(night)


@pytest.mark.more
def test_what_was_not_removed_is_named_and_mended_by_a_resume(
    night: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_the_source(lambda store: store.delete("alpha", ["a5"]))
    real = Round.apply

    def spoilt(self: Round, store: Any, *more: Any) -> None:
        real(self, store, *more)
        store.add("alpha", ALPHA.take([5]))

    with monkeypatch.context() as patch:
        patch.setattr(Round, "apply", spoilt)
        record = migrate(night)
    assert verdict(record, PROBED) == (Verdict.FAIL, "catch_up_not_proven")
    named = {(row["id"], row["problem"]) for c in record.result.checks if c.name == PROBED for row in c.ids}
    assert named == {("a5", "not removed")}
    assert verdict(migrate(night)) == (Verdict.PASS, "")
    assert_target_is_source(night)


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.more
def test_a_collection_whose_index_lost_chunks_is_written_afresh_at_once_and_once(
    night: RunFolder, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """Servers of 1.x lose some chunks to queries where others are deleted; nobody has to resume the run for that."""
    at_the_source(lambda store: store.delete("alpha", ["a5"]))
    real, seen = Round.apply, list[list[str]]()

    def losing(self: Round, store: Any, *more: Any) -> None:
        real(self, store, *more)
        seen.append(self.delta.create)
        if len(seen) <= times:
            store.delete("alpha", ["a7", "a8"])

    with monkeypatch.context() as patch:
        patch.setattr(Round, "apply", losing)
        record = migrate(night)
    assert seen == [[], ["alpha"]], "the other collections were proven"
    assert verdict(record, PROBED) == ((Verdict.FAIL, "catch_up_not_proven") if times == 2 else (Verdict.PASS, ""))
    assert verdict(migrate(night)) == (Verdict.PASS, "")
    assert_target_is_source(night)


@pytest.mark.slow
def test_a_chunk_that_the_probe_finds_wrong_is_named_and_its_collection_written_afresh(
    night: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_the_source(lambda store: store.add("alpha", chunks(3, 4, seed=9, prefix="new")))
    real = Round.apply

    def spoilt(self: Round, store: Any, *more: Any) -> None:
        real(self, store, *more)
        store.delete("alpha", ["new1"])

    with monkeypatch.context() as patch:
        patch.setattr(Round, "apply", spoilt)
        record = migrate(night)
        assert verdict(record, PROBED) == (Verdict.FAIL, "catch_up_not_proven")
        check = next(c for c in record.result.checks if c.name == PROBED)
        assert {"collection": "alpha", "id": "new1", "problem": "not as staged"} in check.ids
        assert CatchUpLedger.read(record).open_round is not None
    record = migrate(night)
    assert verdict(record) == (Verdict.PASS, "")
    assert_target_is_source(night)


@pytest.mark.more
def test_a_ledger_of_another_snapshot_says_nothing(night: RunFolder) -> None:
    record = migrate(night)
    path = night.workspace / "catch-up" / "ledger.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"base": "another", "current": "elsewhere", "rounds": []}), encoding="utf-8")
    assert current_snapshot(record).id == "night-21"

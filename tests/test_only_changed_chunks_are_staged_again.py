"""After a catch-up snapshot and staging are what a whole reading and a whole staging would be, made of what changed alone."""

from __future__ import annotations

import datetime as dt
import random
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from helpers.chunks import ChunkBatch
from helpers.errors import Terminal
from helpers.formatting import unpacked_rows
from helpers.migration.delta import make_delta, restage
from helpers.migration.source_changes import CollectionChanges, SourceChanges, WrittenData, to_read
from helpers.migration.staging import CHANGES, Quarantine, Staged, stage
from helpers.schema import Context, load_schema
from helpers.snapshots.export_journal import SnapshotPart
from helpers.snapshots.snapshot import Snapshot, follow_snapshot, write_snapshot
from helpers.stores.client import ClientStore
from tests.storage import assert_same, chunks, embedded, fill, in_order
from tests.test_metadata_before_and_after import ENGLISH, MINE, SPANISH

TEXTS = [ENGLISH, SPANISH, "Ref 17.", None]


def content(count: int, seed: int, prefix: str) -> ChunkBatch:
    chance, batch = random.Random(seed), chunks(count, 4, seed=seed, prefix=prefix)
    batch.documents = [chance.choice(TEXTS) for _ in batch.ids]
    batch.metadatas = [chance.choice([None, {"author": f"A{n % 9}"}, {"words": "many"}, {"origin": "x", "lang": "en"}])
                       for n in range(count)]  # fmt: skip
    return batch


def held(snapshot: Snapshot) -> dict[str, ChunkBatch]:
    return {
        name: in_order(ChunkBatch.concatenate(list(snapshot.batches(name))))
        for name in snapshot.names()
        if snapshot.parts(name)
    }


def told(staged: Staged, aside: Quarantine) -> dict[str, Any]:
    """Everything that a staging says, whatever its files are."""
    order = [
        sorted(str(sorted(row.items())) for row in rows) for rows in (staged.repairs, staged.derived, staged.filled)
    ]
    listed = staged.folder / CHANGES
    return {
        "total": staged.total, "quarantined": staged.quarantined, "left_out": staged.left_out, "rewritten": staged.rewritten,
        "changed": staged.chunks_changed, "counts": order, "entries": aside.entries(),
        "aside": sorted(row["id"] for table in aside.chunks() for row in table.to_pylist()),
        "list": sorted(map(str, unpacked_rows(listed, ()))) if listed.is_file() else [],
        "rows": {target: staged.rows(target) for target in staged.files},
        "origins": {t: sorted(staged.origins(t, 0, staged.rows(t))) for t in staged.files},
    }  # fmt: skip


def batches(staged: Staged) -> dict[str, ChunkBatch]:
    """By target what is staged, in the order of its ids."""
    found = {t: list(staged.stream(t, 0, 50)) for t in staged.files}
    return {t: in_order(ChunkBatch.concatenate(some)) for t, some in found.items() if some}


def written(staged: Staged) -> dict[str, ChunkBatch]:
    """By target what a rollback takes for written by the run; the rest is clients'."""
    data = WrittenData.__new__(WrittenData)
    data.__dict__["staged"] = staged
    found = {t: [piece.rows for piece in data.pieces(t)] for t in staged.files}
    return {t: in_order(ChunkBatch.concatenate(some)) for t, some in found.items() if some}


def same(found: dict[str, ChunkBatch], wanted: dict[str, ChunkBatch]) -> None:
    assert sorted(found) == sorted(wanted)
    for name in wanted:
        assert_same(found[name], wanted[name])


def write(store: ClientStore, name: str, chance: random.Random, number: int) -> CollectionChanges:
    """Some chunks of a collection go, some become others, some come."""
    ids = sorted(store.ids(name))
    some = chance.sample(ids, min(len(ids), 6))
    gone, other = some[:2], some[2:]
    fresh = content(len(other) + 3, 1_000 * number + len(ids), f"r{number}-")
    store.delete(name, [*gone, *other])
    fresh.ids[: len(other)] = other
    store.add(name, fresh)
    return CollectionChanges(sorted(fresh.ids[len(other) :]), sorted(other), sorted(gone))


@pytest.mark.parametrize("schema", ["identity", "mine"])
@pytest.mark.more
def test_round_after_round_it_is_what_a_whole_staging_would_be(
    tmp_path: Path, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("helpers.snapshots.snapshot.part_rows", lambda dimension, rows: 25)
    (tmp_path / "mine.yaml").write_text(MINE)
    rules = load_schema(schema if schema == "identity" else str(tmp_path / "mine.yaml"))
    chance, kept = random.Random(7), tmp_path / "kept"

    def made(snapshot: Snapshot, folder: Path, aside: Quarantine) -> Staged:
        return stage(snapshot, rules, Context(frozenset(snapshot.names()), dt.date(2025, 12, 1), "fail"), folder, aside)

    def named(at: Path, some: Snapshot, name: str, into: Quarantine) -> Staged:
        return made(some, at / name, into)

    with embedded(tmp_path / "source") as store:
        for number, name in enumerate(("alpha", "beta")):
            fill(store, name, content(60, number, name[0]), "l2")
        was = write_snapshot(store, kept, "s0", store.names(), retention_days=7)
        staged, aside = made(was, tmp_path / "0" / "staged", q := Quarantine(tmp_path / "0" / "quarantine")), q
        for number in range(1, 5):
            changes = SourceChanges(was.id, "now")
            changes.collections = {
                n: write(store, n, chance, number) for n in (["alpha"], ["alpha", "beta"])[number % 2]
            }
            if schema == "identity" and number == 2:
                fill(store, "new", content(5, 99, "n"), "l2")
            if schema == "identity" and number == 3:
                store.drop("beta")
                del changes.collections["beta"]
            now = follow_snapshot(
                store,
                kept,
                f"s{number}",
                store.names(),
                was,
                to_read(store, store.names(), was, changes, ()),
                retention_days=7,
            )
            again = write_snapshot(store, kept, f"whole{number}", store.names(), retention_days=7)
            same(held(now), held(again))
            assert now.verify(since=was) == again.verify() == now.verify()
            folder = tmp_path / str(number)
            both = restage(staged, aside, was, now, folder, partial(named, folder), whole=False)
            assert both.removed.total < 40 or number == 3
            whole_aside = Quarantine(folder / "whole-quarantine")
            whole = made(again, folder / "whole", whole_aside)
            new_aside = Quarantine(folder / "quarantine")
            same(batches(both.now), batches(whole))
            assert told(both.now, new_aside) == told(whole, whole_aside)
            assert Staged.load(both.now.folder) == both.now
            same(written(both.now), batches(both.now))
            plans = was.collections(), now.collections()
            both_whole = type(both)(staged, whole, staged, whole)
            few = make_delta(both, folder / "delta", plans=plans, refused=())
            all_ = make_delta(both_whole, folder / "delta-whole", plans=plans, refused=())
            assert (few.drop, few.create, few.remove) == (all_.drop, all_.create, all_.remove)
            same(batches(few.add), batches(all_.add))
            was, staged, aside = now, both.now, new_aside
    assert any(part.without for part in was.parts("alpha")), "files are shared"
    assert any(staged.without.values())


def test_ids_that_would_meet_another_are_left_to_a_whole_staging(tmp_path: Path) -> None:
    """Two sources go into one target of the schema if_ttt: the id comes where another collection has it already."""
    rules, kept = load_schema("if_ttt"), tmp_path / "kept"

    def made(snapshot: Snapshot, folder: Path, aside: Quarantine) -> Staged:
        return stage(snapshot, rules, Context(frozenset(snapshot.names()), dt.date(2025, 12, 1), "fail"), folder, aside)

    with embedded(tmp_path / "source") as store:
        for prefix, name in (("a", "docs-one"), ("b", "docs-two")):
            fill(store, name, chunks(20, 4, prefix=prefix), "l2")
        was = write_snapshot(store, kept, "s0", store.names(), retention_days=7)
        aside = Quarantine(tmp_path / "quarantine")
        staged = made(was, tmp_path / "staged", aside)
        store.add("docs-two", chunks(1, 4, prefix="a"))
        changes = {"docs-two": ((), ["a0"])}
        now = follow_snapshot(store, kept, "s1", store.names(), was, changes, retention_days=7)
        folder = tmp_path / "round"
        both = restage(
            staged, aside, was, now, folder, lambda some, name, into: made(some, folder / name, into), whole=False
        )
    assert both.now is both.added
    assert [c["id"] for c in both.now.collisions] == ["a0"]


def test_what_a_killed_process_left_of_a_snapshot_is_begun_anew_and_its_files_are_proven(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    with embedded(tmp_path / "source") as store:
        fill(store, "alpha", chunks(30, 4), "l2")
        was = write_snapshot(store, kept, "s0", store.names(), retention_days=7)
        (kept / "s1.partial" / "001-alpha").mkdir(parents=True)
        (kept / "s1.partial" / "left.txt").write_text("half")
        store.delete("alpha", ["c3"])
        now = follow_snapshot(store, kept, "s1", ["alpha"], was, {"alpha": (["c3"], ())}, retention_days=7)
        assert now.verify() == {"alpha": 29}
        assert now.less(was).total == 0
        assert [was.less(now).some(part, ["c3", "c4"]).ids for part in was.less(now).parts("alpha")] == [["c3"]]
        (part,) = now.parts("alpha")
        (now.folder / part.file).write_bytes(b"x" + (now.folder / part.file).read_bytes()[1:])
        with pytest.raises(Terminal, match="not those that were written"):
            follow_snapshot(store, kept, "s2", ["alpha"], now, {"alpha": (["c4"], ())}, retention_days=7)


def test_a_manifest_cannot_leave_out_a_row_that_the_file_lacks(tmp_path: Path) -> None:
    with embedded(tmp_path / "source") as store:
        fill(store, "alpha", chunks(3, 4), "l2")
        was = write_snapshot(store, tmp_path, "s0", ["alpha"], retention_days=7)
    (part,) = was.parts("alpha")
    with pytest.raises(Terminal, match="row 3 of it is to be left out"):
        was.read(SnapshotPart(part.file, 2, part.bytes, part.sha256, without=(3,)))

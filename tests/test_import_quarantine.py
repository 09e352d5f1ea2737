"""Chunks that cannot reach the target end in quarantine, alone, whole and once; the rest arrives."""

from __future__ import annotations

import datetime as dt
import gzip
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.chunks import ChunkBatch
from helpers.errors import Terminal
from helpers.migration import importing
from helpers.migration.checkpoint import Checkpoint
from helpers.migration.importing import judge_staging, plan_targets
from helpers.migration.staging import CHANGES, Quarantine, Staged, stage
from helpers.migration.target_lock import preflight
from helpers.parameters import parameters_from
from helpers.parameters.endpoint import Endpoint
from helpers.parameters.sections import Migration
from helpers.results import file_digest
from helpers.run import folders as runs
from helpers.run.record import RunRecord
from helpers.schema import Context, load_schema
from helpers.snapshots.export_journal import signed
from helpers.snapshots.snapshot import Snapshot, decode_metadata, from_table, to_table, write_snapshot
from helpers.stores import CollectionInfo, open_source
from helpers.stores.client import ClientStore
from tests.storage import (
    assert_same,
    chunks,
    embedded,
    empty_plans,
    exact,
    fill,
    importer,
    lose_vectors,
    plan,
    staging,
    tree,
)


@pytest.fixture
def snapshot(tmp_path: Path) -> Snapshot:
    with embedded(tmp_path / "source") as store:
        fill(store, "notes", chunks(100, 4))
        return write_snapshot(store, tmp_path / "snapshots", "snap", ["notes"], retention_days=7)


def smuggle(staged: Staged, bad: dict[int, dict[str, Any]]) -> None:
    """Metadata that Chroma refuses, put past the checks into the staged rows."""
    [(file, _, _)] = staged.files["notes"]
    table = pq.read_table(staged.folder / file, partitioning=None)
    batch = from_table(table)
    for row, metadata in bad.items():
        batch.metadatas[row] = metadata
    changed = to_table(batch).append_column("source_id", table.column("source_id"))
    pq.write_table(changed, staged.folder / file)


def run(folder: Path, snapshot: Snapshot, staged: Staged, kind: type[ClientStore] = ClientStore, **more: Any) -> None:
    with embedded(folder / "target") as opened:
        store = kind(opened.client, opened.label, limits=opened.limits())
        work = importer(store, staged, folder / "work", **more)
        work.prepare(empty_plans(snapshot))
        work.write()


@pytest.mark.parametrize("batch_size", [1, 7, 100, 10_000])
def test_bad_chunks_are_found_alone_and_the_rest_arrives(tmp_path: Path, snapshot: Snapshot, batch_size: int) -> None:
    staged = staging(snapshot, tmp_path / "work")
    rows = [0, 41, 42, 99]
    smuggle(staged, {row: {"#x": row} for row in rows})
    run(tmp_path, snapshot, staged, batch_size=batch_size, most_refused=4)

    batch = chunks(100, 4)
    good = batch.take([i for i in range(100) if i not in rows])
    with embedded(tmp_path / "target") as store:
        assert_same(store.read("notes", batch.ids), good)
    quarantine = Quarantine(tmp_path / "work" / "quarantine")
    assert quarantine.reasons() == {("notes", f"c{row}"): "refused_by_target" for row in rows}
    assert all("Invalid metadata" in entry["detail"] for entry in quarantine.entries())
    kept = {t.column("id")[0].as_py(): t for t in quarantine.chunks()}
    assert {i: decode_metadata(t.column("metadata")[0].as_py()) for i, t in kept.items()} == {
        f"c{row}": {"#x": row} for row in rows
    }
    for row in rows:
        assert from_table(kept[f"c{row}"]).embeddings.tobytes() == batch.embeddings[row].tobytes()
    assert [quarantine.evidence(tmp_path / name) for name in ("a.gz", "b.gz")] == [4, 4]
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()
    lines = [json.loads(line) for line in gzip.decompress((tmp_path / "a.gz").read_bytes()).splitlines()]
    for line in lines:
        row = int(line["id"][1:])
        assert (line["collection"], line["reason"], line["metadata"]) == ("notes", "refused_by_target", {"#x": row})
        assert np.array(line["embedding"], np.float32).tobytes() == batch.embeddings[row].tobytes()
    state = Checkpoint.read(tmp_path / "work" / "checkpoint.json")
    assert (state.targets["notes"].completed, state.targets["notes"].rejected, state.failed) == (100, 4, 4)
    assert len(state.errors) == 4


class Twice:
    """Workers that do each slice twice: the first time on a worker that died before it could say so."""

    order = None

    def call(self, function: Any, *arguments: Any) -> Any:
        function(*arguments)
        return function(*arguments)


def test_what_workers_are_refused_is_what_threads_are(
    tmp_path: Path, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [0, 41, 42, 99]
    for name, more in (("threads", {}), ("workers", {"away": Twice()})):
        home = tmp_path / name
        staged = staging(snapshot, home / "work")
        smuggle(staged, {row: {"#x": row} for row in rows})
        with embedded(home / "target") as store:
            monkeypatch.setattr(importing, "opened", lambda order, side, store=store: store)
            work = importer(store, staged, home / "work", batch_size=7, most_refused=4, **more)
            work.prepare(empty_plans(snapshot))
            work.write()
            found = store.ids("notes")
        assert sorted(found) == sorted(f"c{row}" for row in range(100) if row not in rows)
    aside = [tmp_path / name / "work" / "quarantine" for name in ("threads", "workers")]
    assert tree(aside[0]) == tree(aside[1])
    assert len(Quarantine(aside[1]).entries()) == 4
    state = Checkpoint.read(tmp_path / "workers" / "work" / "checkpoint.json").targets["notes"]
    assert (state.completed, state.rejected) == (100, 4)


def test_workers_stop_where_too_many_are_refused(
    tmp_path: Path, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    staged = staging(snapshot, tmp_path / "work")
    smuggle(staged, {row: {"#x": row} for row in range(10)})
    with embedded(tmp_path / "target") as store:
        monkeypatch.setattr(importing, "opened", lambda order, side: store)
        work = importer(store, staged, tmp_path / "work", batch_size=50, most_refused=2, away=Twice())
        work.prepare(empty_plans(snapshot))
        with pytest.raises(Terminal, match="the target refused 3 chunks"):
            work.write()


class Killed(BaseException):
    """As kill -9."""


def test_a_refused_chunk_is_kept_once_however_often_it_is_tried(tmp_path: Path, snapshot: Snapshot) -> None:
    staged = staging(snapshot, tmp_path / "work")
    smuggle(staged, {7: {"#x": 1}, 8: {"$y": 2}})

    class Dying(ClientStore):
        def add(self, name: str, batch: ChunkBatch) -> None:
            super().add(name, batch)
            if "c9" in batch.ids:
                raise Killed

    with pytest.raises(Killed):
        run(tmp_path, snapshot, staged, Dying, batch_size=10, most_refused=2)
    run(tmp_path, snapshot, staged, batch_size=3, most_refused=2)
    quarantine = Quarantine(tmp_path / "work" / "quarantine")
    assert quarantine.counts() == {"refused_by_target": 2}
    assert sorted(t.column("id")[0].as_py() for t in quarantine.chunks()) == ["c7", "c8"]
    assert Checkpoint.read(tmp_path / "work" / "checkpoint.json").targets["notes"].rejected == 2


@pytest.mark.parametrize("batch_size", [1, 20, 10_000])
def test_too_many_refused_chunks_stop_the_import(tmp_path: Path, snapshot: Snapshot, batch_size: int) -> None:
    staged = staging(snapshot, tmp_path / "work")
    smuggle(staged, {row: {"#x": row} for row in range(10, 60)})
    with pytest.raises(Terminal, match="the target refused 4 chunks") as caught:
        run(tmp_path, snapshot, staged, batch_size=batch_size, most_refused=3)
    assert caught.value.code == "too_many_refused"
    with pytest.raises(Terminal, match="the target refused 4 chunks"):  # a resume does not start counting anew
        run(tmp_path, snapshot, staged, batch_size=batch_size, most_refused=3)


def test_by_default_no_chunk_may_be_refused(tmp_path: Path, snapshot: Snapshot) -> None:
    staged = staging(snapshot, tmp_path / "work")
    smuggle(staged, {5: {"#x": 1}})
    with pytest.raises(Terminal, match="refused 1 chunk,"):
        run(tmp_path, snapshot, staged)


def test_lost_vectors_end_in_quarantine_with_what_is_left_of_them(tmp_path: Path) -> None:
    batch = chunks(130, 4)
    with embedded(tmp_path / "source") as store:
        fill(store, "notes", batch)
    lose_vectors(tmp_path / "source", "notes", ["gone-1", "gone-2"])
    with open_source(Endpoint(path=str(tmp_path / "source")), tmp_path / "scratch") as store:
        snapshot = write_snapshot(store, tmp_path / "snapshots", "snap", ["notes"], retention_days=7)
    staged = staging(snapshot, tmp_path / "work")
    quarantine = Quarantine(tmp_path / "work" / "quarantine")
    assert quarantine.reasons() == {("notes", "gone-1"): "missing_embedding", ("notes", "gone-2"): "missing_embedding"}
    table = pa.concat_tables(list(quarantine.chunks()))
    assert table.column("document").to_pylist() == ["left of gone-1", "left of gone-2"]
    assert [exact(decode_metadata(m)) for m in table.column("metadata").to_pylist()] == [
        exact({"rest": 0}), exact({"rest": 1}),
    ]  # fmt: skip
    run(tmp_path, snapshot, staged)
    with embedded(tmp_path / "target") as store:
        assert store.count("notes") == 130
        assert_same(store.read("notes", batch.ids), batch)


def test_ids_that_differ_in_their_last_character_alone_are_not_confused(tmp_path: Path) -> None:
    """numpy's text type drops NUL at the end; an id is never compared as one."""
    batch = chunks(3, 4)
    batch.ids = ["a", "a\0", "b"]
    batch.embeddings[1, 0] = np.nan
    folder = tmp_path / "snapshots" / "snap"
    with embedded(tmp_path / "source") as store:
        fill(store, "notes", chunks(3, 4))
        snapshot = write_snapshot(store, tmp_path / "snapshots", "snap", ["notes"], retention_days=7)
    part = folder / snapshot.parts("notes")[0].file
    before = file_digest(part)
    pq.write_table(to_table(batch), part)
    manifest = json.loads((folder / "manifest.json").read_text().replace(before, file_digest(part)))
    (folder / "manifest.json").write_text(json.dumps(signed(manifest)))
    snapshot = Snapshot.open(folder)
    staged = staging(snapshot, tmp_path / "work")
    assert Quarantine(tmp_path / "work" / "quarantine").reasons() == {("notes", "a\0"): "nan_embedding"}
    assert [ids for _, ids in staged.ids("notes")] == [["a", "b"]]


def test_staging_twice_gives_the_same_files(tmp_path: Path, snapshot: Snapshot) -> None:
    staging(snapshot, tmp_path / "work")
    first = tree(tmp_path / "work")
    staging(snapshot, tmp_path / "work")
    assert tree(tmp_path / "work") == first
    loaded = Staged.load(tmp_path / "work" / "staged")
    assert loaded is not None
    assert (loaded.total, loaded.rows("notes"), loaded.contributors("notes")) == (100, 100, ["notes"])
    assert loaded.origins("notes", 98, 200) == [("notes", "c98"), ("notes", "c99")]
    assert Staged.load(tmp_path / "nothing") is None


def two_sources(tmp_path: Path, first: ChunkBatch, second: ChunkBatch, space: Any = "l2") -> Snapshot:
    with embedded(tmp_path / "pair") as store:
        fill(store, "docs-one", first)
        fill(store, "docs-two", second, space)
        return write_snapshot(store, tmp_path / "snapshots", "pair", store.names(), retention_days=7)


def merged(tmp_path: Path, snapshot: Snapshot, policy: Any) -> Staged:
    context = Context(frozenset(snapshot.names()), dt.date(2025, 12, 1), policy)
    return stage(snapshot, load_schema("if_ttt"), context, tmp_path / "staged", Quarantine(tmp_path / "quarantine"))


def test_ids_that_meet_in_one_target_are_named_or_prefixed(tmp_path: Path) -> None:
    snapshot = two_sources(tmp_path, chunks(5, 4), chunks(3, 4, seed=2))
    clashing = merged(tmp_path, snapshot, "fail")
    assert [c["id"] for c in clashing.collisions] == ["c0", "c1", "c2"]
    assert clashing.collided == 3
    assert (clashing.collisions[0]["first"], clashing.collisions[0]["second"]) == ("docs-one c0", "docs-two c0")
    apart = merged(tmp_path, snapshot, "prefix")
    assert (apart.collisions, apart.collided) == ([], 0)
    ids = [i for target in apart.files for _, chunk in apart.ids(target) for i in chunk]
    assert len(ids) == len(set(ids)) == 8


@pytest.mark.more
def test_every_id_that_meets_another_is_counted_though_a_thousand_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNBOOK_REPORTS", str(tmp_path / "reports"))
    monkeypatch.setenv("RUNBOOK_WORKSPACE", str(tmp_path / "workspace"))
    staged = merged(tmp_path, two_sources(tmp_path, chunks(1_200, 2), chunks(1_200, 2, seed=2)), "fail")
    assert (len(staged.collisions), staged.collided) == (1_000, 1_200)
    assert Staged.load(staged.folder) == staged
    parameters = parameters_from({"source": {"path": "a"}, "target": {"path": "b"}, "schema": "if_ttt"})
    run = RunRecord(runs.create(parameters, "night"), "13", parameters)
    judge_staging(run, staged, parameters)
    check = next(c for c in run.result.checks if c.reason == "id_collision")
    assert (check.measured, check.offenders, len(check.ids)) == (1_200, 1_200, 20)


@pytest.mark.parametrize(
    ("what", "second", "space"), [("space", chunks(3, 4), "ip"), ("dimension", chunks(3, 6), "l2")]
)
def test_sources_that_cannot_share_a_collection_are_refused(
    tmp_path: Path, what: str, second: ChunkBatch, space: Any
) -> None:
    snapshot = two_sources(tmp_path, chunks(5, 4), second, space)
    staged = merged(tmp_path, snapshot, "prefix")
    with pytest.raises(Terminal, match=f"differ in {what}"):
        plan_targets(snapshot.collections(), staged, Migration(), load_schema("if_ttt"))


def test_merged_collections_take_what_their_sources_share(tmp_path: Path) -> None:
    snapshot = two_sources(tmp_path, chunks(5, 4), chunks(3, 4, seed=2))
    staged = merged(tmp_path, snapshot, "prefix")
    plans = plan_targets(snapshot.collections(), staged, Migration(), load_schema("if_ttt"))
    assert [p.name for p in plans] == sorted(staged.files)
    assert {(p.space, p.metadata, p.count) for p in plans} == {("l2", None, 0)}
    with embedded(tmp_path / "target") as store:
        for made in plans:
            store.create(made)
        assert store.names() == [p.name for p in plans]


def described(source: Path, target: Path, **more: Any) -> Any:
    return parameters_from(
        {"name": "test", "source": {"path": str(source)}, "target": {"path": str(target)}, "schema": "identity", **more}
    )


def test_a_look_before_the_start_refuses_a_taken_target_and_writes_nothing(tmp_path: Path) -> None:
    with embedded(tmp_path / "source") as store:
        fill(store, "notes", chunks(3, 4))
    parameters = described(tmp_path / "source", tmp_path / "target")
    preflight(parameters)
    assert not (tmp_path / "target").exists()
    with embedded(tmp_path / "target") as store:
        store.create(plan("notes"))
    before = tree(tmp_path)
    with pytest.raises(Terminal, match="already holds notes") as caught:
        preflight(parameters)
    assert caught.value.code == "target_not_empty"
    preflight(parameters, owned=["notes"])
    with pytest.raises(Terminal, match="no collection to migrate among 1"):
        preflight(described(tmp_path / "source", tmp_path / "target", collections={"include": ["other*"]}))
    assert tree(tmp_path) == before


def test_a_name_of_512_characters_gets_through_to_quarantine(tmp_path: Path) -> None:
    name = "n" * 512
    with embedded(tmp_path / "source") as store:
        fill(store, name, chunks(4, 4))
        snapshot = write_snapshot(store, tmp_path / "snapshots", "snap", [name], retention_days=7)
    staged = staging(snapshot, tmp_path / "work")
    quarantine = Quarantine(tmp_path / "work" / "quarantine")
    entry = {"collection": name, "id": "c1", "reason": "refused_by_target", "detail": "x", "target": name}
    quarantine.add(entry, next(staged.stream(name, 1, 1)))
    assert quarantine.reasons() == {(name, "c1"): "refused_by_target"}
    assert isinstance(
        plan_targets(snapshot.collections(), staged, Migration(), load_schema("identity"))[0], CollectionInfo
    )


def test_the_list_of_changed_values_is_on_disk_before_the_index_says_that_all_is_staged(
    tmp_path: Path, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power failure a resume takes what is staged as it is: a list that was never flushed would be empty."""
    schema = tmp_path / "short.yaml"
    schema.write_text("name: s\nunknown: keep\nfields:\n  - {name: n, type: integer, maximum: 50, repair: clamp}\n")
    flushed: dict[int, int] = {}
    real, publish = os.fsync, Staged.save

    def spied(descriptor: int) -> None:
        real(descriptor)
        at = os.fstat(descriptor)
        flushed[at.st_ino] = at.st_size

    seen: list[tuple[int | None, int]] = []

    def save(self: Staged, folder: Path) -> None:
        at = (folder / CHANGES).stat()
        seen.append((flushed.get(at.st_ino), at.st_size))
        publish(self, folder)

    monkeypatch.setattr(os, "fsync", spied)
    monkeypatch.setattr(Staged, "save", save)
    context = Context(frozenset(["notes"]), dt.date(2025, 12, 1), "fail")
    stage(snapshot, load_schema(str(schema)), context, tmp_path / "staged", Quarantine(tmp_path / "quarantine"))
    [(on_disk, size)] = seen
    assert on_disk == size > 0

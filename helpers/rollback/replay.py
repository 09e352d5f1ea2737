"""Clients' writes to the target, mapped back and written to the source: never an upsert, always compared afterwards.

A chunk of the snapshot keeps its original metadata, updated by the keys that the client changed compared with what was put
into the target. Where a new chunk goes follows from the schema (its collection has one source), from its id, where that begins
with the collection's name, from its `source_collection`, or from the operator (`--replay-to`). The plan is on disk before the
source is touched, so that a killed replay is resumed and never taken for damage.

Clients' writes are the differences between the target and what was staged. They are determined only after a cutover: then step
23 has proven that every chunk was right. Before one nobody uses the target, and a difference is a fault of the migration, which
must never reach the source.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from helpers.chunks import ChunkBatch, Metadata
from helpers.errors import Terminal, one_line
from helpers.migration.catch_up import UNFOUND
from helpers.migration.source_changes import Origin, WrittenData
from helpers.reason_codes import ReasonCode
from helpers.results import (
    Progress,
    as_kind,
    contents,
    file_digest,
    json_in,
    reading,
    silent,
    utc_now,
    whole,
    write_json,
    write_text,
)
from helpers.schema import Schema
from helpers.snapshots.comparison import compared, same_value, same_vectors, unreachable
from helpers.snapshots.export_journal import read_parquet, write_parquet
from helpers.snapshots.snapshot import Snapshot, from_table, to_table
from helpers.stores import CollectionInfo, Reader, Space, Store, listed_ids

PROBED = 200  # untouched chunks of a collection that are searched for after a replay
BATCH = 100  # chunks deleted and added together: a reader misses one for no longer than that takes


@dataclass(slots=True)
class Written:
    """Clients' writes to one target collection. `changed`: as staged, as it is now, and its origin, row by row. `added`: chunks
    that nobody staged. `deleted`: staged, written, and gone. `unreadable`: ids listed without a vector.

    `vanished`: the whole collection is gone. `created`: a client created it, so all of its chunks are `added`; both where one of
    this run was recreated. `settings`: settings of the collection that differ, their digests now; `info`: all settings now.
    """

    target: str
    space: Space
    staged: ChunkBatch
    changed: ChunkBatch
    origins: list[Origin]
    added: ChunkBatch
    deleted: list[tuple[str, Origin]] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    vanished: bool = False
    created: CollectionInfo | None = None
    settings: dict[str, str] = field(default_factory=dict)
    info: CollectionInfo | None = None

    @property
    def nothing(self) -> bool:
        whole = self.vanished or self.created is not None or self.settings
        return not (len(self.changed) or len(self.added) or self.deleted or self.unreadable or whole)

    @property
    def counts(self) -> dict[str, int]:
        chunks = {kind: len(getattr(self, kind)) for kind in ("added", "changed", "deleted", "unreadable")}
        return {**chunks, "changed settings": len(self.settings)}


def client_writes(
    store: Reader, data: WrittenData, before: list[str] | None, progress: Progress = silent
) -> list[Written]:
    """Compare each collection that this run made with what it wrote; gives those with a difference.

    `before`: the target's collections at the cutover. Any others are clients', and are given whole; None: not known.
    """
    present, foreign = set(store.names()), set(data.replaced(store))
    writes = []
    for target in sorted(set(data.collections) - foreign):
        if target not in present:
            none = ChunkBatch.empty()
            writes.append(Written(target, "l2", none, none, [], none, vanished=True))
            continue
        write = _collection(store, data, target, progress)
        if not write.nothing:
            writes.append(write)
    unknown = present - set(before) - set(data.collections) if before is not None else set()
    for target in sorted(unknown | foreign):
        info, none = store.info(target), ChunkBatch.empty()
        added, unread = _added(store, target, sorted(listed_ids(store, target)))
        writes.append(Written(target, info.space, none, none, [], added, [], unread, target in foreign, info))
    return writes


def _collection(store: Reader, data: WrittenData, target: str, progress: Progress) -> Written:
    space = store.info(target).space
    remaining = set(listed_ids(store, target))
    old: list[ChunkBatch] = []
    new: list[ChunkBatch] = []
    origins: list[Origin] = []
    deleted: list[tuple[str, Origin]] = []
    unreadable: list[str] = []
    for piece in data.pieces(target):
        ids = piece.rows.ids
        pair = next(compared(store, target, [piece.rows], space))
        read, differing = pair.actual, pair.differing()
        lost = {chunk for chunk, gone in zip(read.ids, read.lost, strict=True) if gone}
        unreadable += sorted(lost)
        positions = {chunk: n for n, chunk in enumerate(read.ids)}  # the second look sees those deleted meanwhile
        rows = [i for i, chunk in enumerate(ids) if chunk in positions and chunk in differing and chunk not in lost]
        old.append(piece.rows.take(rows))
        new.append(read.take([positions[ids[i]] for i in rows]))
        origins += [piece.origins[i] for i in rows]
        deleted += [
            (chunk, origin)
            for chunk, origin in zip(ids, piece.origins, strict=True)
            if chunk not in remaining and origin not in data.refused
        ]
        remaining.difference_update(ids)
        progress.advance(len(ids))
    before, after = ChunkBatch.concatenate(old), ChunkBatch.concatenate(new)
    added = as_added(store, data, target, remaining)
    return replace(added, staged=before, changed=after, origins=origins, deleted=deleted,
                   unreadable=unreadable + added.unreadable)  # fmt: skip


def _added(store: Reader, target: str, ids: list[str]) -> tuple[ChunkBatch, list[str]]:
    batch = store.read(target, ids)
    return batch.take(np.flatnonzero(~batch.lost)), [batch.ids[i] for i in np.flatnonzero(batch.lost)]


def summary(writes: list[Written]) -> dict[str, int]:
    """Chunks by kind, over all collections; `vanished` and `new collections` count collections."""
    total = {"added": 0, "changed": 0, "deleted": 0, "unreadable": 0, "changed settings": 0,
             "vanished": sum(w.vanished for w in writes),
             "new collections": sum(w.created is not None for w in writes)}  # fmt: skip
    for write in writes:
        for kind, number in write.counts.items():
            total[kind] += number
    return total


def counts_text(counts: dict[str, int]) -> str:
    """`3 added, 2 changed, 1 deleted`."""
    return ", ".join(f"{number:,} {kind}" for kind, number in counts.items() if number) or "nothing"


def export(writes: list[Written], folder: Path) -> dict[str, str]:
    """Write every difference to files: as it is now, and as it was. SHA-256 by file name. Complete or absent."""
    digests: dict[str, str] = {}
    index: list[dict[str, Any]] = []
    with whole(folder) as partial:
        for number, write in enumerate(writes, start=1):
            for kind, batch in (("added", write.added), ("changed", write.changed), ("before", write.staged)):
                if len(batch):
                    file = f"{number:03d}-{kind}.parquet"
                    write_parquet(partial / file, to_table(batch))
                    digests[file] = file_digest(partial / file)
            index.append({
                "collection": write.target, "number": number, **write.counts, "vanished": write.vanished,
                "made": asdict(write.created) if write.created is not None else None, "added_ids": write.added.ids,
                "changed_ids": [[i, *o] for i, o in zip(write.changed.ids, write.origins, strict=True)],
                "deleted_ids": [[i, *o] for i, o in write.deleted], "unreadable_ids": write.unreadable,
                "settings": write.settings, "now": asdict(write.info) if write.settings and write.info is not None else None,
            })  # fmt: skip
        write_json(partial / "index.json", {"collections": index, "files": digests})
        digests["index.json"] = file_digest(partial / "index.json")
    return digests


def index_of(folder: Path) -> list[dict[str, Any]]:
    """The index of an export, a row per target collection. Raises `Terminal` where it is damaged."""
    with reading(path := folder / "index.json"):
        rows = json_in(contents(path, 2**31))["collections"]
        for row in rows:  # of the types that all rely on
            _ = row["collection"] + "", {*row["unreadable_ids"]}, row["number"] + row["added"] + row["changed"]
            _ = {**row.get("settings", {})}
        return [{**_NOTHING, **row} for row in rows]


_NOTHING = {"added_ids": (), "changed_ids": (), "deleted_ids": (), "vanished": False, "made": None, "settings": {}}


@dataclass(slots=True)
class Exported:
    """The content of exports of a target collection: each chunk as it was read last, ids whose vector could not be read, and
    the digests of its other settings."""

    chunks: ChunkBatch = field(default_factory=ChunkBatch.empty)
    unreadable: set[str] = field(default_factory=set)
    settings: dict[str, str] = field(default_factory=dict)


def exported(folders: Sequence[str]) -> dict[str, Exported]:
    """The content of these exports by target collection; the newest export is last, and has priority."""
    batches: dict[str, list[ChunkBatch]] = defaultdict(list)
    contents: dict[str, Exported] = defaultdict(Exported)
    ids: dict[str, set[str]] = defaultdict(set)
    for folder in map(Path, reversed(folders)):
        for row in index_of(folder):
            name = row["collection"]
            files = [f"{row['number']:03d}-{kind}.parquet" for kind in ("added", "changed") if row[kind]]
            contents[name].unreadable |= {*row["unreadable_ids"]} - ids[name]
            contents[name].settings = {**row["settings"], **contents[name].settings}
            for file in files:
                batch = from_table(read_parquet(folder / file))
                batches[name].append(batch.take([i for i, chunk in enumerate(batch.ids) if chunk not in ids[name]]))
                ids[name].update(batch.ids)
    for name, parts in batches.items():
        contents[name].chunks = ChunkBatch.concatenate(parts)
    return contents


def as_known(store: Reader, data: WrittenData, target: str, contents: Exported, size: int) -> Iterator[list[str]]:
    """Ids of the chunks that are now as this run wrote them, or as they were exported, `size` at most at a time."""
    space, exported_ids = store.info(target).space, set(contents.chunks.ids)
    for piece in data.pieces(target):
        staged = piece.rows.take([i for i, chunk in enumerate(piece.rows.ids) if chunk not in exported_ids])
        yield from _unchanged_ids(store, target, staged, contents, space, size)
    yield from _unchanged_ids(store, target, contents.chunks, contents, space, size)
    yield present(store, target, sorted(contents.unreadable))


def _unchanged_ids(
    store: Reader, target: str, rows: ChunkBatch, contents: Exported, space: Space, size: int
) -> Iterator[list[str]]:
    for at in range(0, len(rows), size):
        pair = next(compared(store, target, [rows.slice(at, at + size)], space))
        differing = pair.differing().keys() - contents.unreadable
        yield [chunk for chunk in pair.actual.ids if chunk not in differing]


def as_added(store: Reader, data: WrittenData, target: str, ids: Iterable[str]) -> Written:
    """These chunks as they are now, and the settings that differ from the validated ones, to be exported."""
    info, none = store.info(target), ChunkBatch.empty()
    added, unread = _added(store, target, sorted(ids))
    settings = data.other_settings(info)
    return Written(target, info.space, none, none, [], added, unreadable=unread, settings=settings, info=info)


def next_folder(workspace: Path, name: str) -> Path:
    """A folder below `workspace/rollback` that does not exist yet: name-1, name-2, …"""
    root = workspace / "rollback"
    root.mkdir(parents=True, exist_ok=True)
    return next(p for n in range(1, 10_000) if not (p := root / f"{name}-{n}").exists())


@dataclass(slots=True)
class Plan:
    """The writes to the source, by collection: `put` chunks as they must be, `delete` ids that must be absent, `create`
    collections that clients made. `open`: writes that cannot be assigned. `done`: all was written, and compared there.
    `named`: (source collection, id) of every write of the look, open ones included; ("", id) where nothing says the collection.
    """

    put: dict[str, ChunkBatch] = field(default_factory=dict)
    delete: dict[str, list[str]] = field(default_factory=dict)
    open: list[dict[str, str]] = field(default_factory=list)
    create: dict[str, CollectionInfo] = field(default_factory=dict)
    done: bool = False
    named: set[tuple[str, str]] = field(default_factory=set)

    @property
    def nothing(self) -> bool:
        return not (self.chunks or self.create)

    @property
    def chunks(self) -> int:
        return sum(map(len, self.put.values())) + sum(map(len, self.delete.values()))

    def ids(self) -> set[tuple[str, str]]:
        """(source collection, id) of everything that it writes or deletes."""
        return {(n, i) for n, batch in self.put.items() for i in batch.ids} | {
            (n, i) for n, ids in self.delete.items() for i in ids
        }


def plan(
    writes: Iterable[Written], snapshot: Snapshot, occupied: set[str], *, schema: Schema, prefixed: bool, to: str = "",
    anew: Callable[[str], bool] = lambda _: False,
) -> Plan:  # fmt: skip
    """Assign each write to the source. `prefixed`: ids in the target are `<source collection>:<id>`. By the `schema` fields get
    their names in the source, and new chunks go to the only source of their collection; `to` is for those that nothing else
    assigns. `anew`: whether vectors of a source collection were made anew: then only writes that keep them go back.

    `occupied`: the source's collections that no replay made; one that clients made is created unless its name is among them.
    """
    planned = Plan()
    puts: dict[str, list[ChunkBatch]] = defaultdict(list)
    deletes: dict[str, list[str]] = defaultdict(list)
    names, deleted, moved = set(snapshot.names()), {o for write in writes for _, o in write.deleted}, set[Origin]()
    for write in writes:
        planned.named |= {*write.origins, *(origin for _, origin in write.deleted)}
        _list_collection_changes(planned, write)
        if write.created is not None:
            _plan_new_collection(planned, write, write.created, occupied)
            continue
        for collection, rows in _rows_by_collection(write).items():
            ids = [write.origins[row][1] for row in rows]
            originals = originals_of(snapshot, collection, ids)
            for row, source_id in zip(rows, ids, strict=True):
                old, new = write.staged.take([row]), write.changed.take([row])
                merged, why = _merged(originals[source_id], old, new, write.space, schema, collection)
                _put_or_open(planned, puts[collection], merged, write.target, new.ids[0], why)
        for _, (collection, source_id) in write.deleted:
            deletes[collection].append(source_id)
        for row in range(len(write.added)):
            chunk = write.added.take([row])
            home, source_id = _origin(chunk, schema.only_source(write.target, names), names, prefixed, to)
            planned.named.add((home if home in names else "", source_id))
            if home not in names:
                planned.open.append({"collection": write.target, "id": chunk.ids[0], "why": home})
            elif (home, source_id) in deleted:
                planned.open.append({"collection": write.target, "id": chunk.ids[0], "why": _MOVED})
                moved.add((home, source_id))
            else:
                metadata, why = _metadata({}, {}, chunk.metadatas[0] or {}, schema, home)
                placed = replace(chunk, ids=[source_id], metadatas=[metadata])
                _put_or_open(planned, puts[home], placed, write.target, chunk.ids[0], why)
        planned.open += [{"collection": write.target, "id": i, "why": _UNREADABLE} for i in write.unreadable]
    for name, batches in sorted(puts.items()):
        fit = [b for b in batches if not anew(name) or _keeps_vector(planned, snapshot, name, b)]
        known_ids = {i for part in snapshot.parts(name) for i in snapshot.ids(part)}
        unique = _unique(planned, name, ChunkBatch.concatenate(fit), known_ids, writes)
        if len(unique):
            planned.put[name] = unique
    stays = {name: sorted(i for i in ids if (name, i) not in moved) for name, ids in sorted(deletes.items())}
    planned.delete = {name: ids for name, ids in stays.items() if ids}
    return planned


_UNREADABLE = "its vector cannot be read"
_MOVED = "clients moved it here from another collection of the target: at the source it stays as it is, change it there by hand"


def _put_or_open(
    planned: Plan, puts: list[ChunkBatch], chunk: ChunkBatch, target: str, chunk_id: str, problem: str
) -> None:
    if problem:
        planned.open.append({"collection": target, "id": chunk_id, "why": problem})
    else:
        puts.append(chunk)


def _list_collection_changes(planned: Plan, write: Written) -> None:
    """List what clients did to a collection itself as open: a person has to repeat it at the source."""
    row = {"collection": write.target, "id": ""}
    if write.vanished:
        planned.open.append({**row, "why": "the whole collection is gone from the target"})
    if write.settings:
        settings = " and ".join(sorted(write.settings))
        planned.open.append({**row, "why": f"clients changed its {settings}: set it at the source by hand"})


def _keeps_vector(planned: Plan, snapshot: Snapshot, name: str, chunk: ChunkBatch) -> bool:
    original = originals_of(snapshot, name, chunk.ids).get(chunk.ids[0])
    same = original is not None and original.embeddings.tobytes() == chunk.embeddings.tobytes()
    if not same:
        reason = "its vector is of the model that migration.reembed orders, not of the source's"
        planned.open.append({"collection": name, "id": chunk.ids[0], "why": reason})
    return same


def _plan_new_collection(planned: Plan, write: Written, info: CollectionInfo, occupied: set[str]) -> None:
    if info.name in occupied:
        reason = "clients made it, and the source holds another collection of this name"
        planned.open.append({"collection": info.name, "id": "", "why": reason})
        return
    planned.create[info.name] = info
    planned.named |= {(info.name, chunk) for chunk in (*write.added.ids, *write.unreadable)}
    if len(write.added):
        planned.put[info.name] = write.added
    planned.open += [{"collection": info.name, "id": i, "why": _UNREADABLE} for i in write.unreadable]


def _rows_by_collection(write: Written) -> dict[str, list[int]]:
    rows: dict[str, list[int]] = defaultdict(list)
    for row, (collection, _) in enumerate(write.origins):
        rows[collection].append(row)
    return rows


def originals_of(snapshot: Snapshot, name: str, ids: list[str]) -> dict[str, ChunkBatch]:
    missing, chunks = set(ids), {}
    for part in snapshot.parts(name) if name in snapshot.names() else []:
        rows = [i for i, chunk in enumerate(snapshot.ids(part)) if chunk in missing]
        if rows:
            batch = snapshot.read(part).take(rows)
            chunks.update({chunk: batch.take([i]) for i, chunk in enumerate(batch.ids)})
    return chunks


def _merged(
    base: ChunkBatch, old: ChunkBatch, new: ChunkBatch, space: Space, schema: Schema, collection: str
) -> tuple[ChunkBatch, str]:
    """The source's chunk with the client's changes, its other parts bit for bit as in the snapshot; a problem as `_metadata`."""
    same = old.embeddings.shape == new.embeddings.shape and same_vectors(old.embeddings, new.embeddings, space).all()
    source, before, after = (batch.metadatas[0] or {} for batch in (base, old, new))
    metadata, problem = _metadata(source, before, after, schema, collection)
    return ChunkBatch(
        ids=base.ids,
        documents=base.documents if new.documents == old.documents else new.documents,
        embeddings=base.embeddings if same else new.embeddings,
        metadatas=[metadata],
        uris=base.uris if new.uris == old.uris else new.uris,
    ), problem


def _metadata(
    base: Metadata, old: Metadata, new: Metadata, schema: Schema, collection: str
) -> tuple[Metadata | None, str]:
    """A chunk's metadata at the source with the target's changes from `old` to `new`, under the source's names; and why that is
    impossible, or "": two fields of the target would be one field there, and one of them changed."""
    names = schema.content.names_in_source(collection, base, [*old, *new])
    changed = {key for key, value in new.items() if key not in old or not same_value(old[key], value)}
    removed = old.keys() - new.keys()
    merged = dict(base)
    for name in sorted({names[key] for key in changed | removed}):
        holders = sorted(key for key in new if names[key] == name)
        if len(holders) > 1 or not changed.issuperset(holders):
            fields = " and ".join(sorted({key for key in names if names[key] == name}))
            clash = f"a client changed one of the fields {one_line(fields, 200)}, and the source has one field for them"
            return None, clash
        if holders:
            merged[name] = new[holders[0]]
        else:
            merged.pop(name, None)
    return merged or None, ""


_DONE = "done"  # the file in a plan's folder
_ORIGIN = "source_collection"  # the field of the shipped schemas that names the source collection


def _origin(chunk: ChunkBatch, target: str, names: set[str], prefixed: bool, to: str) -> tuple[str, str]:
    """(source collection, id in it) of a new chunk; where nothing assigns it, (reason, its id).

    `target` is the only source of the chunk's collection, else "".
    """
    chunk_id = chunk.ids[0]
    prefixes = [name for name in names if prefixed and chunk_id.startswith(f"{name}:")]
    by_id = max(prefixes, key=len, default="")
    by_field = (chunk.metadatas[0] or {}).get(_ORIGIN)
    by_field = by_field if isinstance(by_field, str) and by_field in names else ""
    if target in names:
        home = target
    elif by_id and by_field and by_id != by_field:
        return f"its id says {by_id}, its {_ORIGIN} says {by_field}", chunk_id
    else:
        home = by_id or by_field or to
    if not home:
        cause = f"neither its id nor its {_ORIGIN}" if prefixed else f"no {_ORIGIN} of its"
        return f"{cause} names a collection of the source", chunk_id
    return home, chunk_id.removeprefix(f"{home}:") if prefixed else chunk_id


def _unique(planned: Plan, name: str, batch: ChunkBatch, known_ids: set[str], writes: Iterable[Written]) -> ChunkBatch:
    """The batch without new chunks whose id the source has already (it was quarantined), or that two chunks claim."""
    origins = {origin for write in writes for origin in write.origins}
    ids: set[str] = set()
    rows = []
    for row, chunk in enumerate(batch.ids):
        if chunk in ids or (chunk in known_ids and (name, chunk) not in origins):
            reason = f"the source's {name} holds another chunk of this id"
            planned.open.append({"collection": name, "id": chunk, "why": reason})
        else:
            rows.append(row)
        ids.add(chunk)
    return batch.take(rows)


def save(planned: Plan, folder: Path) -> None:
    """Write the plan as a folder of Parquet and JSON, complete or absent."""
    files = _files(planned.put)
    create = {name: asdict(info) for name, info in planned.create.items()}
    with whole(folder) as partial:
        for name, file in files.items():
            write_parquet(partial / file, to_table(planned.put[name]))
        write_json(partial / "plan.json", {"put": files, "delete": planned.delete, "create": create})


def load(folder: Path) -> Plan:
    """The inverse of `save`."""
    with reading(path := folder / "plan.json"):
        raw = json_in(contents(path, 2**31))
        create = as_kind(dict[str, CollectionInfo], raw.get("create", {}))
        delete, files = as_kind(dict[str, list[str]], raw["delete"]), dict(raw["put"])
        if files != _files(files):
            raise ValueError("its files are not those that were written beside it")
    batches = {name: from_table(read_parquet(folder / file)) for name, file in files.items()}
    return Plan(batches, delete, create=create, done=(folder / _DONE).is_file())


def note_done(folder: Path) -> None:
    """Note beside a saved plan that `apply` has finished."""
    write_text(folder / _DONE, utc_now() + "\n")


def note_restored(workspace: Path) -> None:
    """Note that the source was restored: what the plans wrote there may be gone."""
    for path in (workspace / "rollback").glob(f"replay-*/{_DONE}"):
        path.unlink()


def _files(names: Iterable[str]) -> dict[str, str]:
    return {name: f"{number:03d}.parquet" for number, name in enumerate(sorted(names), start=1)}


def saved(workspace: Path) -> list[Plan]:
    """Every plan of the run's rollback, in the order of their making."""
    folders = (workspace / "rollback").glob("replay-*")
    return [load(f) for f in sorted(folders, key=lambda f: int(f.name.rpartition("-")[2]))]


def apply(store: Store, planned: Plan) -> tuple[int, list[dict[str, str]]]:
    """Write the plan, then compare every chunk. Repeating it changes nothing more.

    Gives the number of chunks written or deleted (the others were right already), and `{collection, id}` of chunks that no
    search finds, where they are more than an index always misses: deletes in a live collection can put chunks out of reach
    that nobody touched (measured on 1.5.9). Raises `Terminal` ("replay_differs") that names the first chunk that differs.
    """
    for name in sorted(set(planned.create) - set(store.names())):
        store.create(planned.create[name])
    written = 0
    for name in sorted({*planned.put, *planned.delete}):
        deleted = present(store, name, planned.delete.get(name, []))
        if deleted:
            store.delete(name, deleted)
        batch = planned.put.get(name, ChunkBatch.empty())
        pieces = (batch.slice(at, at + BATCH) for at in range(0, len(batch), BATCH))
        written += len(deleted) + sum(_write(store, name, piece) for piece in pieces)
        _prove(store, name, planned)
    names = sorted({*planned.put, *planned.delete})
    return written, [row for name in names for row in _unreachable(store, name, planned)]


def _unreachable(store: Store, name: str, planned: Plan) -> list[dict[str, str]]:
    written = set(planned.put.get(name, ChunkBatch.empty()).ids)
    untouched = sorted(set(listed_ids(store, name)) - written)
    chosen = np.random.default_rng(0).permutation(len(untouched))[:PROBED]
    ids = [*sorted(written), *(untouched[i] for i in chosen)]
    space, missed = store.info(name).space, []
    for at in range(0, len(ids), BATCH):
        batch = store.read(name, ids[at : at + BATCH])
        missed += unreachable(store, name, batch.take(np.flatnonzero(~batch.lost)), space)
    return [{"collection": name, "id": i} for i in missed] if len(missed) > max(1, UNFOUND * len(ids)) else []


def _write(store: Store, name: str, piece: ChunkBatch) -> int:
    """Write the chunks that differ; an earlier attempt, or the first look, may have written others. Gives their number."""
    differing = next(compared(store, name, [piece], store.info(name).space)).differing()
    missing_rows = piece.take([i for i, chunk in enumerate(piece.ids) if chunk in differing])
    outdated = [chunk for chunk, missing in differing.items() if not missing]
    if outdated:
        store.delete(name, outdated)
    if len(missing_rows):
        store.add(name, missing_rows)
    return len(missing_rows)


def outcome_of(plans: Iterable[Plan]) -> dict[tuple[str, str], ChunkBatch | None]:
    """Each chunk as the last of these plans wrote it, by (collection, id); None where that deleted it."""
    last: dict[tuple[str, str], ChunkBatch | None] = {}
    for plan in plans:
        last |= {(n, chunk): batch.take([i]) for n, batch in plan.put.items() for i, chunk in enumerate(batch.ids)}
        last |= {(n, chunk): None for n, ids in plan.delete.items() for chunk in ids}
    return last


def present(store: Reader, name: str, ids: list[str]) -> list[str]:
    return store.read(name, ids, embeddings=False).ids if ids else []


def _prove(store: Store, name: str, planned: Plan) -> None:
    difference = ""
    if planned.put.get(name) is not None:
        for row in next(compared(store, name, [planned.put[name]], store.info(name).space)).differences.itertuples():
            difference = difference or f"{row.id}: {row.difference} {row.detail}"
    reappeared = present(store, name, planned.delete.get(name, []))
    if reappeared:
        difference = f"{reappeared[0]} is still there"
    if difference:
        raise Terminal(
            ReasonCode.REPLAY_DIFFERS, f"what was replayed is not there as it should be: {difference}",
            where=f"collection {name} of {store.label}", next_step="The target still holds it. Repeat the rollback.",
        )  # fmt: skip

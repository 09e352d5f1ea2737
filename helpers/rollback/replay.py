"""What clients wrote to the target, mapped back and written to the source: never an upsert, always compared afterwards.

A chunk of the snapshot keeps its original metadata; over it go the keys that the client changed, against what had been
put into the target. Where a new chunk goes follows from the schema (its collection has one source), from its id, where that
begins with the collection's name, from its `source_collection`, or from the operator (`--replay-to`). The plan is on disk before
the source is touched, so that a kill in the middle is gone on with and never taken for damage.

Clients' writes are the differences between the target and what was staged. This is asked only after a cutover: then step 23
has proven that every chunk was right. Before one nobody uses the target, and a difference there is a fault of the migration,
which must never reach the source.
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

PROBED = 200  # chunks of a collection that nobody wrote, searched for after a replay
BATCH = 100  # chunks deleted and added together: a reader misses one for no longer than that takes


@dataclass(slots=True)
class Written:
    """One target collection. `changed`: as it was staged, as it is now, and whence, row by row. `added`: chunks that
    nobody staged. `deleted`: staged, written, and gone. `unreadable`: ids that are listed without a vector.

    `vanished`: the collection as a whole is gone. `made`: a client made it, so all of its chunks are `added`; both where one of
    this run was made anew. `settings`: what of the collection itself is another, its digest now; `info` is all of it now.
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
    made: CollectionInfo | None = None
    settings: dict[str, str] = field(default_factory=dict)
    info: CollectionInfo | None = None

    @property
    def nothing(self) -> bool:
        whole = self.vanished or self.made is not None or self.settings
        return not (len(self.changed) or len(self.added) or self.deleted or self.unreadable or whole)

    @property
    def counts(self) -> dict[str, int]:
        chunks = {kind: len(getattr(self, kind)) for kind in ("added", "changed", "deleted", "unreadable")}
        return {**chunks, "changed settings": len(self.settings)}


def written(store: Reader, made: WrittenData, before: list[str] | None, progress: Progress = silent) -> list[Written]:
    """Each collection that this run made, against what it had put there; those without a difference are left out.

    `before`: the target's collections when clients came. Others are theirs, and are listed whole; None: not known.
    """
    there, others = set(store.names()), set(made.replaced(store))
    found = []
    for target in sorted(set(made.collections) - others):
        if target not in there:
            none = ChunkBatch.empty()
            found.append(Written(target, "l2", none, none, [], none, vanished=True))
            continue
        one = _collection(store, made, target, progress)
        if not one.nothing:
            found.append(one)
    fresh = there - set(before) - set(made.collections) if before is not None else set()
    for target in sorted(fresh | others):
        info, none = store.info(target), ChunkBatch.empty()
        added, unread = _added(store, target, sorted(listed_ids(store, target)))
        found.append(Written(target, info.space, none, none, [], added, [], unread, target in others, info))
    return found


def _collection(store: Reader, made: WrittenData, target: str, progress: Progress) -> Written:
    space = store.info(target).space
    left = set(listed_ids(store, target))
    was: list[ChunkBatch] = []
    now: list[ChunkBatch] = []
    origins: list[Origin] = []
    deleted: list[tuple[str, Origin]] = []
    unreadable: list[str] = []
    for piece in made.pieces(target):
        ids = piece.rows.ids
        pair = next(compared(store, target, [piece.rows], space))
        found, differing = pair.actual, pair.differing()
        lost = {chunk for chunk, gone in zip(found.ids, found.lost, strict=True) if gone}
        unreadable += sorted(lost)
        at = {chunk: n for n, chunk in enumerate(found.ids)}  # one deleted while we read is found by the second look
        rows = [i for i, chunk in enumerate(ids) if chunk in at and chunk in differing and chunk not in lost]
        was.append(piece.rows.take(rows))
        now.append(found.take([at[ids[i]] for i in rows]))
        origins += [piece.origins[i] for i in rows]
        deleted += [
            (chunk, origin)
            for chunk, origin in zip(ids, piece.origins, strict=True)
            if chunk not in left and origin not in made.refused
        ]
        left.difference_update(ids)
        progress.advance(len(ids))
    before, after = ChunkBatch.concatenate(was), ChunkBatch.concatenate(now)
    whole = as_added(store, made, target, left)
    return replace(whole, staged=before, changed=after, origins=origins, deleted=deleted,
                   unreadable=unreadable + whole.unreadable)  # fmt: skip


def _added(store: Reader, target: str, ids: list[str]) -> tuple[ChunkBatch, list[str]]:
    batch = store.read(target, ids)
    return batch.take(np.flatnonzero(~batch.lost)), [i for i, gone in zip(batch.ids, batch.lost, strict=True) if gone]


def summary(found: list[Written]) -> dict[str, int]:
    """Chunks by kind, over all collections; `vanished` and `new collections` count collections."""
    total = {"added": 0, "changed": 0, "deleted": 0, "unreadable": 0, "changed settings": 0,
             "vanished": sum(w.vanished for w in found), "new collections": sum(w.made is not None for w in found)}  # fmt: skip
    for one in found:
        for kind, number in one.counts.items():
            total[kind] += number
    return total


def said(counts: dict[str, int]) -> str:
    """`3 added, 2 changed, 1 deleted`."""
    return ", ".join(f"{number:,} {kind}" for kind, number in counts.items() if number) or "nothing"


def export(found: list[Written], folder: Path) -> dict[str, str]:
    """Every difference as files: what is there now, and what was. SHA-256 by file name. Whole or not at all."""
    digests: dict[str, str] = {}
    index: list[dict[str, Any]] = []
    with whole(folder) as partial:
        for number, one in enumerate(found, start=1):
            for kind, batch in (("added", one.added), ("changed", one.changed), ("before", one.staged)):
                if len(batch):
                    file = f"{number:03d}-{kind}.parquet"
                    write_parquet(partial / file, to_table(batch))
                    digests[file] = file_digest(partial / file)
            index.append({
                "collection": one.target, "number": number, **one.counts, "vanished": one.vanished,
                "made": asdict(one.made) if one.made is not None else None, "added_ids": one.added.ids,
                "changed_ids": [[i, *o] for i, o in zip(one.changed.ids, one.origins, strict=True)],
                "deleted_ids": [[i, *o] for i, o in one.deleted], "unreadable_ids": one.unreadable,
                "settings": one.settings, "now": asdict(one.info) if one.settings and one.info is not None else None,
            })  # fmt: skip
        write_json(partial / "index.json", {"collections": index, "files": digests})
        digests["index.json"] = file_digest(partial / "index.json")
    return digests


def index_of(folder: Path) -> list[dict[str, Any]]:
    """What an export says of each target collection; `Terminal` where it is damaged."""
    with reading(path := folder / "index.json"):
        rows = json_in(contents(path, 2**31))["collections"]
        for row in rows:  # of the types that all rely on
            _ = row["collection"] + "", {*row["unreadable_ids"]}, row["number"] + row["added"] + row["changed"]
            _ = {**row.get("settings", {})}
        return [{**_NOTHING, **row} for row in rows]


_NOTHING = {"added_ids": (), "changed_ids": (), "deleted_ids": (), "vanished": False, "made": None, "settings": {}}


@dataclass(slots=True)
class Exported:
    """What exports hold of a target collection: each chunk as it was read last, ids whose vector could not be read, and its
    other settings by their digest."""

    chunks: ChunkBatch = field(default_factory=ChunkBatch.empty)
    unreadable: set[str] = field(default_factory=set)
    settings: dict[str, str] = field(default_factory=dict)


def exported(folders: Sequence[str]) -> dict[str, Exported]:
    """By target collection what these exports hold, the newest last."""
    batches: dict[str, list[ChunkBatch]] = defaultdict(list)
    found: dict[str, Exported] = defaultdict(Exported)
    seen: dict[str, set[str]] = defaultdict(set)
    for folder in map(Path, reversed(folders)):
        for row in index_of(folder):
            name = row["collection"]
            files = [f"{row['number']:03d}-{kind}.parquet" for kind in ("added", "changed") if row[kind]]
            found[name].unreadable |= {*row["unreadable_ids"]} - seen[name]
            found[name].settings = {**row["settings"], **found[name].settings}
            for file in files:
                batch = from_table(read_parquet(folder / file))
                batches[name].append(batch.take([i for i, chunk in enumerate(batch.ids) if chunk not in seen[name]]))
                seen[name].update(batch.ids)
    for name, parts in batches.items():
        found[name].chunks = ChunkBatch.concatenate(parts)
    return found


def as_known(store: Reader, made: WrittenData, target: str, known: Exported, size: int) -> Iterator[list[str]]:
    """The chunks that are there as this run wrote them, or as they were exported, by their ids, `size` at most: read now."""
    space, own = store.info(target).space, set(known.chunks.ids)
    for piece in made.pieces(target):
        staged = piece.rows.take([i for i, chunk in enumerate(piece.rows.ids) if chunk not in own])
        yield from _same(store, target, staged, known, space, size)
    yield from _same(store, target, known.chunks, known, space, size)
    yield present(store, target, sorted(known.unreadable))


def _same(
    store: Reader, target: str, rows: ChunkBatch, known: Exported, space: Space, size: int
) -> Iterator[list[str]]:
    for at in range(0, len(rows), size):
        pair = next(compared(store, target, [rows.slice(at, at + size)], space))
        differing = pair.differing().keys() - known.unreadable
        yield [chunk for chunk in pair.actual.ids if chunk not in differing]


def as_added(store: Reader, made: WrittenData, target: str, ids: Iterable[str]) -> Written:
    """These chunks as they are now, and the settings that are not as they were validated, to be exported."""
    info, none = store.info(target), ChunkBatch.empty()
    added, unread = _added(store, target, sorted(ids))
    settings = made.other_settings(info)
    return Written(target, info.space, none, none, [], added, unreadable=unread, settings=settings, info=info)


def next_folder(workspace: Path, name: str) -> Path:
    """A folder below `workspace/rollback` that does not exist yet: name-1, name-2, …"""
    root = workspace / "rollback"
    root.mkdir(parents=True, exist_ok=True)
    return next(p for n in range(1, 10_000) if not (p := root / f"{name}-{n}").exists())


@dataclass(slots=True)
class Plan:
    """By source collection: chunks as they shall be, and ids that shall be gone. `create`: collections that clients made.
    `open`: what nobody can assign. `done`: all of it was written, and compared at the source."""

    put: dict[str, ChunkBatch] = field(default_factory=dict)
    delete: dict[str, list[str]] = field(default_factory=dict)
    open: list[dict[str, str]] = field(default_factory=list)
    create: dict[str, CollectionInfo] = field(default_factory=dict)
    done: bool = False

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
    found: Iterable[Written], snapshot: Snapshot, taken: set[str], *, schema: Schema, prefixed: bool, to: str = "",
    anew: Callable[[str], bool] = lambda _: False,
) -> Plan:  # fmt: skip
    """Where each write goes in the source. `prefixed`: ids in the target are `<source collection>:<id>`. By the `schema` fields
    get their names of the source back, and new chunks go to the only source of their collection; `to`: those that nothing else
    places. `anew`: whether vectors of a source collection were made anew: then only writes that leave them alone go back.

    `taken`: the source's collections that no replay made; a collection that clients made comes back unless it is among them.
    """
    out = Plan()
    puts: dict[str, list[ChunkBatch]] = defaultdict(list)
    deletes: dict[str, list[str]] = defaultdict(list)
    names, gone, moved = set(snapshot.names()), {o for one in found for _, o in one.deleted}, set[Origin]()
    for one in found:
        _of_the_whole(out, one)
        if one.made is not None:
            _made_by_clients(out, one, one.made, taken)
            continue
        for collection, rows in _by_collection(one).items():
            ids = [one.origins[row][1] for row in rows]
            originals = originals_of(snapshot, collection, ids)
            for row, source_id in zip(rows, ids, strict=True):
                was, now = one.staged.take([row]), one.changed.take([row])
                merged, why = _merged(originals[source_id], was, now, one.space, schema, collection)
                _put_or_open(out, puts[collection], merged, one.target, now.ids[0], why)
        for _, (collection, source_id) in one.deleted:
            deletes[collection].append(source_id)
        for row in range(len(one.added)):
            chunk = one.added.take([row])
            home, source_id = _origin(chunk, schema.only_source(one.target, names), names, prefixed, to)
            if home not in names:
                out.open.append({"collection": one.target, "id": chunk.ids[0], "why": home})
            elif (home, source_id) in gone:
                out.open.append({"collection": one.target, "id": chunk.ids[0], "why": _MOVED})
                moved.add((home, source_id))
            else:
                metadata, why = _metadata({}, {}, chunk.metadatas[0] or {}, schema, home)
                placed = replace(chunk, ids=[source_id], metadatas=[metadata])
                _put_or_open(out, puts[home], placed, one.target, chunk.ids[0], why)
        out.open += [{"collection": one.target, "id": i, "why": "its vector cannot be read"} for i in one.unreadable]
    for name, batches in sorted(puts.items()):
        fit = ChunkBatch.concatenate([b for b in batches if not anew(name) or _has_its_vector(out, snapshot, name, b)])
        known = {i for part in snapshot.parts(name) for i in snapshot.ids(part)}
        keep = _one_each(out, name, fit, known, found)
        if len(keep):
            out.put[name] = keep
    stays = {name: sorted(i for i in ids if (name, i) not in moved) for name, ids in sorted(deletes.items())}
    out.delete = {name: ids for name, ids in stays.items() if ids}
    return out


_MOVED = "clients moved it here from another collection of the target: at the source it stays as it is, change it there by hand"


def _put_or_open(out: Plan, puts: list[ChunkBatch], chunk: ChunkBatch, target: str, given: str, why: str) -> None:
    if why:
        out.open.append({"collection": target, "id": given, "why": why})
    else:
        puts.append(chunk)


def _of_the_whole(out: Plan, one: Written) -> None:
    """What clients did to a collection itself is nobody's to repeat at the source but a person's."""
    if one.vanished:
        out.open.append({"collection": one.target, "id": "", "why": "the whole collection is gone from the target"})
    if one.settings:
        what = " and ".join(sorted(one.settings))
        out.open.append(
            {"collection": one.target, "id": "", "why": f"clients changed its {what}: set it at the source by hand"}
        )


def _has_its_vector(out: Plan, snapshot: Snapshot, name: str, chunk: ChunkBatch) -> bool:
    was = originals_of(snapshot, name, chunk.ids).get(chunk.ids[0])
    same = was is not None and was.embeddings.tobytes() == chunk.embeddings.tobytes()
    if not same:
        why = "its vector is of the model that migration.reembed orders, not of the source's"
        out.open.append({"collection": name, "id": chunk.ids[0], "why": why})
    return same


def _made_by_clients(out: Plan, one: Written, info: CollectionInfo, taken: set[str]) -> None:
    if info.name in taken:
        why = "clients made it, and the source holds another collection of this name"
        out.open.append({"collection": info.name, "id": "", "why": why})
        return
    out.create[info.name] = info
    if len(one.added):
        out.put[info.name] = one.added
    out.open += [{"collection": info.name, "id": i, "why": "its vector cannot be read"} for i in one.unreadable]


def _by_collection(one: Written) -> dict[str, list[int]]:
    rows: dict[str, list[int]] = defaultdict(list)
    for row, (collection, _) in enumerate(one.origins):
        rows[collection].append(row)
    return rows


def originals_of(snapshot: Snapshot, name: str, ids: list[str]) -> dict[str, ChunkBatch]:
    wanted, found = set(ids), {}
    for part in snapshot.parts(name) if name in snapshot.names() else []:
        here = [i for i, chunk in enumerate(snapshot.ids(part)) if chunk in wanted]
        if here:
            batch = snapshot.read(part).take(here)
            found.update({chunk: batch.take([i]) for i, chunk in enumerate(batch.ids)})
    return found


def _merged(
    base: ChunkBatch, was: ChunkBatch, now: ChunkBatch, space: Space, schema: Schema, collection: str
) -> tuple[ChunkBatch, str]:
    """The source's chunk with what the client changed; what he left alone keeps the snapshot's own bits. And as `_metadata`."""
    same = was.embeddings.shape == now.embeddings.shape and same_vectors(was.embeddings, now.embeddings, space).all()
    held, before, after = (batch.metadatas[0] or {} for batch in (base, was, now))
    metadata, both = _metadata(held, before, after, schema, collection)
    return ChunkBatch(
        ids=base.ids,
        documents=base.documents if now.documents == was.documents else now.documents,
        embeddings=base.embeddings if same else now.embeddings,
        metadatas=[metadata],
        uris=base.uris if now.uris == was.uris else now.uris,
    ), both


def _metadata(
    base: Metadata, was: Metadata, now: Metadata, schema: Schema, collection: str
) -> tuple[Metadata | None, str]:
    """A chunk's metadata at the source with what changed from `was` to `now` at the target, under the names of the source; and
    why that cannot be, or "": two fields of the target would be one there, and one of the two changed."""
    names = schema.content.names_in_source(collection, base, [*was, *now])
    changed = {key for key, value in now.items() if key not in was or not same_value(was[key], value)}
    removed = was.keys() - now.keys()
    out = dict(base)
    for name in sorted({names[key] for key in changed | removed}):
        holders = sorted(key for key in now if names[key] == name)
        if len(holders) > 1 or not changed.issuperset(holders):
            fields = " and ".join(sorted({key for key in names if names[key] == name}))
            return (
                None,
                f"a client changed one of the fields {one_line(fields, 200)}, and the source has one field for them",
            )
        if holders:
            out[name] = now[holders[0]]
        else:
            out.pop(name, None)
    return out or None, ""


_DONE = "done"  # the file in a plan's folder
_ORIGIN = "source_collection"  # the field of the shipped schemas that names it


def _origin(chunk: ChunkBatch, target: str, names: set[str], prefixed: bool, to: str) -> tuple[str, str]:
    """(source collection, id in it) of a new chunk; where nothing places it, (why not, its id).

    `target` is the only source of the collection that it is in, else "".
    """
    given = chunk.ids[0]
    begins = [name for name in names if prefixed and given.startswith(f"{name}:")]
    by_id = max(begins, key=len, default="")
    by_field = (chunk.metadatas[0] or {}).get(_ORIGIN)
    by_field = by_field if isinstance(by_field, str) and by_field in names else ""
    if target in names:
        home = target
    elif by_id and by_field and by_id != by_field:
        return f"its id says {by_id}, its {_ORIGIN} says {by_field}", given
    else:
        home = by_id or by_field or to
    if not home:
        told = f"neither its id nor its {_ORIGIN}" if prefixed else f"no {_ORIGIN} of its"
        return f"{told} names a collection of the source", given
    return home, given.removeprefix(f"{home}:") if prefixed else given


def _one_each(out: Plan, name: str, whole: ChunkBatch, known: set[str], found: Iterable[Written]) -> ChunkBatch:
    """Without new chunks whose id the source has already (it was quarantined), or that two chunks want."""
    ours = {origin for one in found for origin in one.origins}
    seen: set[str] = set()
    keep = []
    for row, chunk in enumerate(whole.ids):
        if chunk in seen or (chunk in known and (name, chunk) not in ours):
            why = f"the source's {name} holds another chunk of this id"
            out.open.append({"collection": name, "id": chunk, "why": why})
        else:
            keep.append(row)
        seen.add(chunk)
    return whole.take(keep)


def save(planned: Plan, folder: Path) -> None:
    """The plan as a folder of Parquet and JSON, there whole or not at all."""
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


def _files(names: Iterable[str]) -> dict[str, str]:
    return {name: f"{number:03d}.parquet" for number, name in enumerate(sorted(names), start=1)}


def saved(workspace: Path) -> list[Plan]:
    """Every plan of the run's rollback, in the order in which they were made."""
    folders = (workspace / "rollback").glob("replay-*")
    return [load(f) for f in sorted(folders, key=lambda f: int(f.name.rpartition("-")[2]))]


def apply(store: Store, planned: Plan) -> tuple[int, list[dict[str, str]]]:
    """Write it, then compare every chunk. Repeating it changes nothing more.

    Returns how many chunks it wrote or deleted (the others were as they should be), and `{collection, id}` of chunks that no
    search finds, where they are more than an index always leaves out: deletes in a live collection can put chunks out of reach
    that nobody touched (measured on 1.5.9). Raises `Terminal` ("replay_differs") at the first chunk that is not as it should be.
    """
    for name in sorted(set(planned.create) - set(store.names())):
        store.create(planned.create[name])
    written = 0
    for name in sorted({*planned.put, *planned.delete}):
        gone = present(store, name, planned.delete.get(name, []))
        if gone:
            store.delete(name, gone)
        batch = planned.put.get(name, ChunkBatch.empty())
        written += len(gone) + sum(_write(store, name, batch.slice(a, a + BATCH)) for a in range(0, len(batch), BATCH))
        _prove(store, name, planned)
    return written, [row for name in sorted({*planned.put, *planned.delete}) for row in _unfound(store, name, planned)]


def _unfound(store: Store, name: str, planned: Plan) -> list[dict[str, str]]:
    written = set(planned.put.get(name, ChunkBatch.empty()).ids)
    others = sorted(set(listed_ids(store, name)) - written)
    chosen = np.random.default_rng(0).permutation(len(others))[:PROBED]
    wanted = [*sorted(written), *(others[i] for i in chosen)]
    space, found = store.info(name).space, []
    for at in range(0, len(wanted), BATCH):
        batch = store.read(name, wanted[at : at + BATCH])
        found += unreachable(store, name, batch.take(np.flatnonzero(~batch.lost)), space)
    return [{"collection": name, "id": i} for i in found] if len(found) > max(1, UNFOUND * len(wanted)) else []


def _write(store: Store, name: str, piece: ChunkBatch) -> int:
    """Those that are not there as they should be: an earlier attempt, or the first look, may have written them; how many."""
    differing = next(compared(store, name, [piece], store.info(name).space)).differing()
    left = piece.take([i for i, chunk in enumerate(piece.ids) if chunk in differing])
    there = [chunk for chunk, missing in differing.items() if not missing]
    if there:
        store.delete(name, there)
    if len(left):
        store.add(name, left)
    return len(left)


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
    wrong = ""
    if planned.put.get(name) is not None:
        for row in next(compared(store, name, [planned.put[name]], store.info(name).space)).differences.itertuples():
            wrong = wrong or f"{row.id}: {row.difference} {row.detail}"
    risen = present(store, name, planned.delete.get(name, []))
    if risen:
        wrong = f"{risen[0]} is still there"
    if wrong:
        raise Terminal(
            ReasonCode.REPLAY_DIFFERS, f"what was replayed is not there as it should be: {wrong}",
            where=f"collection {name} of {store.label}", next_step="The target still holds it. Repeat the rollback.",
        )  # fmt: skip

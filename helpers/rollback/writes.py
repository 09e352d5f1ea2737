"""What clients wrote to the target since this run filled it: found chunk by chunk, and exported before anything goes.

The target is compared with what was staged. This is asked only after a cutover: then step 23 has proven that every chunk
was right, so a difference is what a client wrote. Before one nobody uses the target, and a difference there is a fault of
the migration, which must never reach the source.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from helpers.chunks import ChunkBatch
from helpers.comparison import compare_batch
from helpers.export_journal import sha256
from helpers.progress import Progress, silent
from helpers.results import write_json
from helpers.rollback.made import Made, Origin
from helpers.snapshot import to_table
from helpers.stores import CollectionInfo, Reader, Space

READ = 500  # new chunks read and kept at a time


@dataclass(slots=True)
class Written:
    """One target collection. `changed`: as it was staged, as it is now, and whence, row by row. `added`: chunks that
    nobody staged. `deleted`: staged, written, and gone. `unreadable`: ids that are listed without a vector.

    `vanished`: the collection as a whole is gone. `made`: a client made it, so all of its chunks are `added`.
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

    @property
    def nothing(self) -> bool:
        whole = self.vanished or self.made is not None
        return not (len(self.changed) or len(self.added) or self.deleted or self.unreadable or whole)

    @property
    def counts(self) -> dict[str, int]:
        return {
            "added": len(self.added),
            "changed": len(self.changed),
            "deleted": len(self.deleted),
            "unreadable": len(self.unreadable),
        }


def written(store: Reader, made: Made, before: list[str] | None, progress: Progress = silent) -> list[Written]:
    """Each collection that this run made, against what it had put there; those without a difference are left out.

    `before`: the target's collections when clients came. Others are theirs, and are listed whole; None: not known.
    """
    there = set(store.names())
    found = []
    for target in made.collections:
        if target not in there:
            none = ChunkBatch.empty()
            found.append(Written(target, "l2", none, none, [], none, vanished=True))
            continue
        one = _collection(store, made, target, progress)
        if not one.nothing:
            found.append(one)
    for target in sorted(there - set(before) - set(made.collections)) if before is not None else []:
        info, none = store.info(target), ChunkBatch.empty()
        added, unread = _added(store, target, sorted(store.ids(target)))
        found.append(Written(target, info.space, none, none, [], added, unreadable=unread, made=info))
    return found


def _collection(store: Reader, made: Made, target: str, progress: Progress) -> Written:
    space = store.info(target).space
    left = set(store.ids(target))
    was: list[ChunkBatch] = []
    now: list[ChunkBatch] = []
    origins: list[Origin] = []
    deleted: list[tuple[str, Origin]] = []
    unreadable: list[str] = []
    for piece in made.pieces(target):
        ids = piece.rows.ids
        here = [i for i, chunk in enumerate(ids) if chunk in left]
        found = store.read(target, [ids[i] for i in here])
        expected = piece.rows.take(here)
        differing = set(compare_batch(expected, found, space)["id"])
        lost = {chunk for chunk, gone in zip(found.ids, found.lost, strict=True) if gone}
        unreadable += sorted(lost)
        rows = [i for i in here if ids[i] in differing and ids[i] not in lost]
        at = {chunk: n for n, chunk in enumerate(found.ids)}
        rows = [i for i in rows if ids[i] in at]  # deleted while we read: the second look finds it
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
    added, unread = _added(store, target, sorted(left))
    return Written(
        target,
        space,
        ChunkBatch.concatenate(was),
        ChunkBatch.concatenate(now),
        origins,
        added,
        deleted,
        unreadable + unread,
    )


def _added(store: Reader, target: str, ids: list[str]) -> tuple[ChunkBatch, list[str]]:
    parts = [store.read(target, ids[at : at + READ]) for at in range(0, len(ids), READ)]
    whole = ChunkBatch.concatenate(parts)
    return whole.take(np.flatnonzero(~whole.lost)), [i for i, gone in zip(whole.ids, whole.lost, strict=True) if gone]


def summary(found: list[Written]) -> dict[str, int]:
    """Chunks by kind, over all collections; `vanished` and `new collections` count collections."""
    total = {"added": 0, "changed": 0, "deleted": 0, "unreadable": 0, "vanished": sum(w.vanished for w in found),
             "new collections": sum(w.made is not None for w in found)}  # fmt: skip
    for one in found:
        for kind, number in one.counts.items():
            total[kind] += number
    return total


def said(counts: dict[str, int]) -> str:
    """`3 added, 2 changed, 1 deleted`."""
    return ", ".join(f"{number:,} {kind}" for kind, number in counts.items() if number) or "nothing"


def export(found: list[Written], folder: Path) -> dict[str, str]:
    """Every difference as files: what is there now, and what was. SHA-256 by file name. Whole or not at all."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    digests: dict[str, str] = {}
    index: list[dict[str, Any]] = []
    for number, one in enumerate(found, start=1):
        for kind, batch in (("added", one.added), ("changed", one.changed), ("before", one.staged)):
            if len(batch):
                file = f"{number:03d}-{kind}.parquet"
                pq.write_table(to_table(batch), partial / file, compression="zstd")
                digests[file] = sha256(partial / file)
        index.append(
            {
                "collection": one.target,
                "number": number,
                **one.counts,
                "vanished": one.vanished,
                "made": asdict(one.made) if one.made is not None else None,
                "added_ids": one.added.ids,
                "changed_ids": [[i, *o] for i, o in zip(one.changed.ids, one.origins, strict=True)],
                "deleted_ids": [[i, *o] for i, o in one.deleted],
                "unreadable_ids": one.unreadable,
            }
        )
    write_json(partial / "index.json", {"collections": index, "files": digests})
    digests["index.json"] = sha256(partial / "index.json")
    partial.rename(folder)
    return digests


def added_ids(export_folder: Path) -> dict[str, set[str]]:
    """Ids by target collection that an export holds as new chunks."""
    raw = json.loads((export_folder / "index.json").read_text(encoding="utf-8"))
    return {row["collection"]: set(row["added_ids"]) for row in raw["collections"]}


def next_folder(workspace: Path, name: str) -> Path:
    """A folder below `workspace/rollback` that does not exist yet: name-1, name-2, …"""
    root = workspace / "rollback"
    root.mkdir(parents=True, exist_ok=True)
    return next(p for n in range(1, 10_000) if not (p := root / f"{name}-{n}").exists())

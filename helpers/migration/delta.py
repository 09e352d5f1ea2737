"""What turns the target from one staged state into the next: chunks to add, collections to drop and to make.

The two stagings were made by the same schema, so their difference is what the target must see, quarantine included: a
chunk that is now turned away is taken out, one whose metadata lost a key comes without it. Never an upsert: it merges
metadata and makes current servers lose other records (chroma-facts 7, 17). And no delete in a collection that stays: it
too can leave others that no query finds. A collection that only gets chunks is added to; any other is written afresh.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from helpers.chunks import ChunkBatch
from helpers.comparison import compare_batch
from helpers.migration.source_changes import different_settings
from helpers.migration.staging import Staged
from helpers.results import write_json
from helpers.snapshot import from_table
from helpers.stores import CollectionInfo
from helpers.stores.space import Space

_OPEN_FILES = 4  # staged files of the old state kept in memory; the two orders are nearly the same

_Place = tuple[int, int]  # file of a target, row in it
Load = Callable[[int], ChunkBatch]


@dataclass(slots=True)
class Delta:
    """`add` is staged like a whole migration; `drop` are collections to remove, those to be written afresh among them;
    `create` those that `add` finds missing."""

    add: Staged
    drop: list[str] = field(default_factory=list)
    create: list[str] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """Chunks to add."""
        return sum(self.add.rows(name) for name in self.add.files)

    def save(self) -> None:
        """Whole on disk once `delta.json` is there."""
        self.add.save()
        write_json(self.add.folder / "delta.json", {"drop": self.drop, "create": self.create})

    @classmethod
    def load(cls, folder: Path) -> Delta:
        """As saved in `folder`; a ledger that names it was written later."""
        staged = Staged.load(folder)
        assert staged is not None
        return cls(staged, **json.loads((folder / "delta.json").read_text(encoding="utf-8")))


def make_delta(
    old: Staged,
    new: Staged,
    folder: Path,
    *,
    plans: tuple[Sequence[CollectionInfo], Sequence[CollectionInfo]],
    refused: Collection[tuple[str, str]],
) -> Delta:
    """Compare two stagings and write the difference to `folder`.

    `plans` are the collections of both as they were and would be created: one whose settings are others is made anew.
    `refused` are (source collection, source id) that the target did not take: they are not there, and offered again.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    before, after = ({plan.name: plan for plan in side} for side in plans)
    anew = {n for n in set(before) & set(after) if different_settings(before[n], after[n])}
    delta = Delta(Staged(folder, total=new.total, quarantined=new.quarantined))
    delta.drop = sorted((set(before) - set(after)) | anew)
    delta.create = sorted((set(after) - set(before)) | anew)
    for number, name in enumerate(sorted(new.files), start=1):
        delta.add.files[name] = []
        (folder / f"{number:03d}").mkdir()
        there = {} if name in delta.create else _places(old, name, refused)
        if _target(delta, old, new, name, after[name].space, there, number):
            _make_anew(delta, new, name, number)
    delta.drop.sort()
    delta.create.sort()
    delta.save()
    return delta


def _places(staged: Staged, target: str, refused: Collection[tuple[str, str]]) -> dict[str, _Place]:
    """Where each chunk of a target stands in its staged files; those that the target refused left out."""
    found: dict[str, _Place] = {}
    for number, (file, collection, _) in enumerate(staged.files.get(target, [])):
        table = pq.read_table(staged.folder / file, columns=["id", "source_id"], partitioning=None)
        ids, sources = table.column("id").to_pylist(), table.column("source_id").to_pylist()
        for row, (chunk, source) in enumerate(zip(ids, sources, strict=True)):
            if (collection, source) not in refused:
                found[chunk] = (number, row)
    return found


def _target(
    delta: Delta, old: Staged, new: Staged, name: str, space: Space, there: Mapping[str, _Place], number: int
) -> bool:
    """Stage what a target lacks; whether something in it has to go, or to become another."""

    @lru_cache(maxsize=_OPEN_FILES)
    def load(file: int) -> ChunkBatch:
        return from_table(pq.read_table(old.folder / old.files[name][file][0], partitioning=None))

    staying: set[str] = set()
    another = False
    for file, collection, _ in new.files[name]:
        table = pq.read_table(new.folder / file, partitioning=None)
        batch = from_table(table)
        staying.update(batch.ids)
        differ = _differing(batch, there, load, space)
        another = another or any(chunk in there for chunk in differ)
        _keep(delta.add, table, [i for i, chunk in enumerate(batch.ids) if chunk in differ], name, collection, number)
    return another or not staying.issuperset(there)


def _make_anew(delta: Delta, new: Staged, name: str, number: int) -> None:
    """Write a collection afresh, all of it.

    Measured on 1.5.9: of 400 chunks, 210 deleted and added again, 3 to 14, untouched ones too, were found by no query any
    more, not even by their own vector; after the deletion alone 1 in one of three trials; after adds alone none.
    """
    folder = delta.add.folder / f"{number:03d}"
    shutil.rmtree(folder)
    folder.mkdir()
    delta.add.files[name] = []
    for file, collection, rows in new.files[name]:
        link = f"{number:03d}/{len(delta.add.files[name]) + 1:05d}.parquet"
        os.link(new.folder / file, delta.add.folder / link)
        delta.add.files[name].append((link, collection, rows))
    delta.drop.append(name)
    delta.create.append(name)


def _differing(batch: ChunkBatch, there: Mapping[str, _Place], load: Load, space: Space) -> set[str]:
    """The ids of a new batch that the old state lacks, or holds with other content."""
    differ = {chunk for chunk in batch.ids if chunk not in there}
    by_file: dict[int, list[int]] = {}
    for position, chunk in enumerate(batch.ids):
        if chunk in there:
            by_file.setdefault(there[chunk][0], []).append(position)
    for file, positions in sorted(by_file.items()):
        now = batch.take(positions)
        was = load(file).take(there[chunk][1] for chunk in now.ids)
        differ.update(compare_batch(was, now, space)["id"])
    return differ


def _keep(staged: Staged, table: pa.Table, rows: list[int], target: str, collection: str, number: int) -> None:
    """These rows of a staged file as a file of the delta, their origins with them."""
    if not rows:
        return
    file = f"{number:03d}/{len(staged.files[target]) + 1:05d}.parquet"
    pq.write_table(table.take(pa.array(rows)), staged.folder / file, compression="zstd", compression_level=1)
    staged.files[target].append((file, collection, len(rows)))


def refused_by_target(entries: Sequence[Mapping[str, Any]]) -> set[tuple[str, str]]:
    """(source collection, source id) of the quarantined chunks that the target itself did not take."""
    return {(cast(str, e["collection"]), cast(str, e["id"])) for e in entries if e["reason"] == "refused_by_target"}

"""The difference between what was staged before and after chunks of the source changed: the only part the target must see.

Only changed chunks are staged again, as they were and as they are. The new staging shares the files of the one before,
without the rows of changed chunks. So a catch-up of ten chunks costs as much beside a million others as beside a thousand.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import itertools
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from helpers.chunks import ChunkBatch
from helpers.migration.staging import CHANGE_COLUMNS, CHANGES, VALUES, Quarantine, Staged
from helpers.reason_codes import ReasonCode
from helpers.results import as_kind, contents, flush_file, json_in, reading, write_json
from helpers.run.folders import RunPath
from helpers.snapshots.comparison import compare
from helpers.snapshots.export_journal import read_parquet, write_parquet
from helpers.snapshots.snapshot import Snapshot, from_table
from helpers.stores import CollectionInfo, Space, chosen, same_choices

BY_ID = 0.1  # share of a collection's chunks that may be removed or replaced before it is rewritten
_OPEN_FILES = 4  # staged files of the old state in memory; both are in nearly the same order

_Place = tuple[int, int]  # file of a target, row in it
Load = Callable[[int], ChunkBatch]


@dataclass(slots=True)
class Restaged:
    """Two stagings, `before` and `now`. Chunks of `removed` are in the first only, or with other content; those of `added` are
    in the second only, or with other content. Both may be the whole stagings.
    """

    before: Staged
    now: Staged
    removed: Staged
    added: Staged


Make = Callable[[Snapshot, str, Quarantine], Staged]


def restage(
    before: Staged, quarantine: Quarantine, old: Snapshot, new: Snapshot, folder: Path, make: Make, *, whole: bool
) -> Restaged:
    """Stage snapshot `new` under `folder`, where `before` is the staging of `old`; both, and how they differ.

    `make` stages a snapshot in a folder of that name. It stages only the changed chunks, as they were and as they are, where
    one chunk's outcome does not depend on others; else, or if `whole`, the whole snapshot.
    """
    merged = Quarantine(folder / RunPath.QUARANTINE)
    if not whole:
        quarantines = [Quarantine(folder / name) for name in ("gone-aside", "came-aside")]
        removed, added = make(old.less(new), "gone", quarantines[0]), make(new.less(old), "came", quarantines[1])
        dropped = _dropped_rows(before, removed)
        if dropped is not None and not _collide(before, dropped, removed, added):
            _merge_quarantine(merged, quarantine, *quarantines)
            staged = _restage_changed(before, folder / RunPath.STAGED, dropped, removed, added, merged)
            return Restaged(before, staged, removed, added)
    staged = make(new, RunPath.STAGED, merged)
    return Restaged(before, staged, before, staged)


def _dropped_rows(before: Staged, removed: Staged) -> dict[str, list[int]] | None:
    """By file of `before`, the rows with the chunks of `removed`; None where it does not have all of them."""
    rows_by_file: dict[str, list[int]] = {}
    for target, files in removed.files.items():
        ids: dict[str, list[str]] = {}
        for file, collection, _ in files:
            ids.setdefault(collection, []).extend(removed.table(file, ["source_id"]).column(0).to_pylist())
        located = 0
        for file, collection, _ in before.files.get(target, []) if ids else ():
            if collection in ids:
                column = before.table(file, ["source_id"], without=()).column(0)
                rows = np.flatnonzero(pc.is_in(column, pa.array(ids[collection], pa.large_string()))).tolist()
                if rows := sorted(set(rows) - set(before.without.get(file, ()))):
                    rows_by_file[file] = rows
                    located += len(rows)
        if located != removed.rows(target):
            return None
    return rows_by_file


def _collide(before: Staged, dropped: Mapping[str, list[int]], removed: Staged, added: Staged) -> bool:
    """Whether two chunks may claim one id; which ones, only whole stagings tell."""
    if before.collided or removed.collided or added.collided:
        return True
    for target in added.files:
        ids = pa.array([chunk for _, some in added.ids(target) for chunk in some], pa.large_string())
        for file, _, _ in before.files.get(target, []) if len(ids) else ():
            without = [*before.without.get(file, ()), *dropped.get(file, ())]
            column = before.table(file, ["id"], without=without).column(0)
            if pc.any(pc.is_in(column, ids)).as_py():
                return True
    return False


def _restage_changed(
    old: Staged, folder: Path, dropped: Mapping[str, list[int]], removed: Staged, added: Staged, quarantine: Quarantine
) -> Staged:
    """The staging `old` without the rows `dropped` (by file; staged alone in `removed`), and with `added`."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    staged = Staged(folder, total=old.total - removed.total + added.total, quarantined=quarantine.counts())
    staged.left_out = sum(quarantine.left_out().values())

    def share(source: Staged, file: str, name: str, collection: str, rows: int, without: list[int]) -> None:
        source.share(file, staged, name)
        staged.files[target].append((name, collection, rows))
        if without:
            staged.without[name] = without

    for target in added.files:
        staged.files[target] = []
        for file, collection, rows in old.files.get(target, []):
            some = dropped.get(file, [])
            if rows > len(some):
                share(old, file, file, collection, rows - len(some), sorted([*old.without.get(file, ()), *some]))
        for file, collection, rows in added.files[target]:
            share(added, file, f"round-{folder.parent.name}/{file}", collection, rows, [])
    staged.repairs = _sum(old.repairs, removed.repairs, added.repairs)
    staged.derived = _sum(old.derived, removed.derived, added.derived)
    staged.filled = _sum(
        old.filled, *([_as_counted(row, old.filled) for row in side.filled] for side in (removed, added))
    )
    for name in ("rewritten", "chunks_changed"):
        counted = getattr(old, name)
        setattr(staged, name, None if counted is None else counted - getattr(removed, name) + getattr(added, name))
    _write_changes(old.folder, removed.folder, added.folder, folder)
    staged.save(folder)
    return staged


def _merge_quarantine(into: Quarantine, before: Quarantine, removed: Quarantine, added: Quarantine) -> None:
    """Write to `into` the quarantine `before` without the removed chunks and with the added ones. Chunks that the target
    refused are left out: they are offered again.
    """
    reasons, entries = removed.reasons(), [e for e in before.entries() if e["reason"] != ReasonCode.REFUSED_BY_TARGET]
    shutil.rmtree(into.folder, ignore_errors=True)
    into.folder.mkdir(parents=True)
    for file in before.folder.glob("*.parquet"):
        if file.name.startswith("refused-"):
            continue
        if not (removed.folder / file.name).is_file():
            os.link(file, into.folder / file.name)
            continue
        table = read_parquet(file)
        (collection,) = set(table.column("collection").to_pylist())
        ids = table.column("source_id").to_pylist()
        if rows := [row for row, chunk in enumerate(ids) if (collection, chunk) not in reasons]:
            into.keep(file.stem, from_table(table).take(rows), collection, [ids[row] for row in rows])
    for file in added.folder.glob("*.parquet"):
        os.link(file, into.folder / file.name)
    into.write([*(e for e in entries if (e["collection"], e["id"]) not in reasons), *added.entries()])


def _sum(old: list[dict[str, Any]], removed: list[dict[str, Any]], added: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Counts of chunks: `old` minus `removed` plus `added`."""
    counts: Counter[tuple[tuple[str, Any], ...]] = Counter()
    for sign, rows in ((1, old), (-1, removed), (1, added)):
        for row in rows:
            counts[tuple((key, value) for key, value in row.items() if key != "chunks")] += sign * row["chunks"]
    order = sorted(counts, key=lambda key: [(value is None, value or "") for _, value in key])
    return [{**dict(key), "chunks": counts[key]} for key in order if counts[key] > 0]


def _as_counted(row: dict[str, Any], defaults: list[dict[str, Any]]) -> dict[str, Any]:
    """The row of a default, its value None where the longer list `defaults` does not count it apart."""
    values = {other["value"] for other in defaults if other["field"] == row["field"]}
    return row if row["value"] in values or len(values) < VALUES else {**row, "value": None}


def _write_changes(before: Path, removed: Path, added: Path, into: Path) -> None:
    """Write the list of changed values: that of `before` without the chunks of `removed`, and that of `added`."""

    def lines(folder: Path) -> Iterator[list[str]]:
        if (folder / CHANGES).is_file():
            with (
                reading(folder / CHANGES),
                gzip.open(folder / CHANGES, "rt", encoding="utf-8", errors="backslashreplace", newline="") as file,
            ):
                yield from itertools.islice(csv.reader(file), 1, None)

    keys = {tuple(line[:2]) for line in lines(removed)}
    if not keys and not (added / CHANGES).is_file():
        if (before / CHANGES).is_file():
            os.link(before / CHANGES, into / CHANGES)
        return
    unchanged = (line for line in lines(before) if tuple(line[:2]) not in keys)
    rows = itertools.chain(unchanged, lines(added))
    if (first := next(rows, None)) is None:
        return
    raw = gzip.GzipFile(into / CHANGES, "wb", mtime=0)
    with io.TextIOWrapper(cast(IO[bytes], raw), "utf-8", "backslashreplace", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(itertools.chain([CHANGE_COLUMNS, first], rows))
    flush_file(into / CHANGES)


def different_settings(before: CollectionInfo, after: CollectionInfo) -> list[str]:
    """Names of what differs: space, dimension, metadata, configuration, index schema.

    "index schema" is what the server's schema chooses (`same_choices`), compared where both have one: older servers, and
    their snapshots, have none. A dimension that was not yet known is no difference.
    """
    names = [name for name in ("space", "metadata", "configuration") if _plain(before, name) != _plain(after, name)]
    if before.schema and after.schema and not same_choices(before.schema, after.schema):
        names.append("index schema")
    return ["dimension", *names] if before.dimension and after.dimension not in (None, before.dimension) else names


def _plain(info: CollectionInfo, name: str) -> str:
    """A setting as a snapshot's manifest would hold it."""
    return json.dumps(getattr(info, name) or None, sort_keys=True, default=str)


def settings_of(collections: Iterable[CollectionInfo]) -> dict[str, dict[str, str]]:
    """The settings of each collection, for a later comparison: name → setting → its text or digest.

    "indexes" is the server's schema, without the keys that it adds as metadata arrives.
    """
    settings = {}
    for info in collections:
        digests = {name: _digest(_plain(info, name)) for name in ("metadata", "configuration")}
        digests["indexes"] = _digest(_indexes(info))
        settings[info.name] = {"space": info.space, "dimension": str(info.dimension), **digests}
    return settings


def _indexes(info: CollectionInfo) -> str:
    return json.dumps(chosen(info.schema or {}), sort_keys=True, default=str)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(slots=True)
class Delta:
    """`add` is staged like a whole migration; `drop` are collections to remove, those to be rewritten among them; `create`
    those missing for `add`; `remove` are, by collection, ids to delete first: deleted in the source, or added again.

    Both stagings were made by the same schema, so their difference is what the target must see, quarantine included: a chunk
    that fails now is removed, one whose metadata lost a key is added without it. Never upsert: it merges metadata and makes
    current servers lose other records (chroma-facts 7, 17). Many deletes also leave others that no query finds: a collection
    of which more than `BY_ID` is removed or replaced is rewritten. Measured on 1.5.9: of 400 chunks, 210 deleted and added
    again, 3 to 14 untouched ones were lost to queries; of 2,000 × 128 and 400 × 32 none, with 0.5 % to 30 % deleted and two
    in three of these added again, three trials each.
    """

    add: Staged
    drop: list[str] = field(default_factory=list)
    create: list[str] = field(default_factory=list)
    remove: dict[str, list[str]] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Chunks to add."""
        return sum(self.add.rows(name) for name in self.add.files)

    def save(self) -> None:
        """Save to `add.folder`; complete once `delta.json` is there."""
        self.add.save(self.add.folder)
        write_json(self.add.folder / "delta.json", {"drop": self.drop, "create": self.create, "remove": self.remove})

    @classmethod
    def load(cls, folder: Path) -> Delta:
        """The delta saved in `folder`. It must exist: a ledger that names it is written later."""
        staged = Staged.load(folder)
        assert staged is not None
        with reading(path := folder / "delta.json"):
            return as_kind(cls, {**json_in(contents(path, 2**31)), "add": staged})


def make_delta(
    staged: Restaged,
    folder: Path,
    *,
    plans: tuple[Sequence[CollectionInfo], Sequence[CollectionInfo]],
    refused: Collection[tuple[str, str]],
) -> Delta:
    """Compare two stagings and write the difference to `folder`.

    `plans` are the collections to create for both stagings: one whose settings differ is rewritten.
    `refused` are (source collection, source id) that the target refused: they are not in it, and offered again.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    before, after = ({plan.name: plan for plan in side} for side in plans)
    anew = {n for n in set(before) & set(after) if different_settings(before[n], after[n])}
    now = staged.now
    delta = Delta(Staged(folder, total=now.total, quarantined=now.quarantined, left_out=now.left_out))
    delta.drop = sorted((set(before) - set(after)) | anew)
    delta.create = sorted((set(after) - set(before)) | anew)
    for number, name in enumerate(sorted(now.files), start=1):
        delta.add.files[name] = []
        (folder / f"{number:03d}").mkdir()
        places = {} if name in delta.create else _places(staged.removed, name, refused)
        added = now if name in delta.create else staged.added
        removed = _stage_difference(delta, staged.removed, added, name, after[name].space, places, number)
        if removed and len(removed) > BY_ID * staged.before.rows(name):
            _rewrite(delta, now, name, number)
        elif removed:
            delta.remove[name] = removed
    delta.drop.sort()
    delta.create.sort()
    delta.save()
    return delta


def _places(staged: Staged, target: str, refused: Collection[tuple[str, str]]) -> dict[str, _Place]:
    """File number and row of each chunk of a target in its staged files, without those that the target refused."""
    places: dict[str, _Place] = {}
    for number, (file, collection, _) in enumerate(staged.files.get(target, [])):
        table = staged.table(file, ["id", "source_id"])
        ids, sources = table.column("id").to_pylist(), table.column("source_id").to_pylist()
        for row, (chunk, source) in enumerate(zip(ids, sources, strict=True)):
            if (collection, source) not in refused:
                places[chunk] = (number, row)
    return places


def _stage_difference(
    delta: Delta, old: Staged, new: Staged, name: str, space: Space, places: Mapping[str, _Place], number: int
) -> list[str]:
    """Stage what a target lacks. Gives the ids in the target, sorted, that are to be removed or replaced."""

    @lru_cache(maxsize=_OPEN_FILES)
    def load(file: int) -> ChunkBatch:
        return from_table(old.table(old.files[name][file][0]))

    staying: set[str] = set()
    for file, collection, _ in new.files[name]:
        table = new.table(file)
        batch = from_table(table)
        differ = _differing(batch, places, load, space)
        staying.update(chunk for chunk in batch.ids if chunk not in differ)
        _append(delta.add, table, [i for i, chunk in enumerate(batch.ids) if chunk in differ], name, collection, number)
    return sorted(places.keys() - staying)


def _rewrite(delta: Delta, new: Staged, name: str, number: int) -> None:
    """Rewrite a whole collection."""
    folder = delta.add.folder / f"{number:03d}"
    shutil.rmtree(folder)
    folder.mkdir()
    delta.add.files[name] = []
    for file, collection, rows in new.files[name]:
        link = f"{number:03d}/{len(delta.add.files[name]) + 1:05d}.parquet"
        new.share(file, delta.add, link)
        if file in new.without:
            delta.add.without[link] = new.without[file]
        delta.add.files[name].append((link, collection, rows))
    delta.drop.append(name)
    delta.create.append(name)


def _differing(batch: ChunkBatch, places: Mapping[str, _Place], load: Load, space: Space) -> set[str]:
    """Ids of a new batch that the old state lacks or holds with other content."""
    differ = {chunk for chunk in batch.ids if chunk not in places}
    by_file: dict[int, list[int]] = {}
    for position, chunk in enumerate(batch.ids):
        if chunk in places:
            by_file.setdefault(places[chunk][0], []).append(position)
    for file, positions in sorted(by_file.items()):
        new = batch.take(positions)
        old = load(file).take(places[chunk][1] for chunk in new.ids)
        differ.update(compare(old, new, space).differences["id"])
    return differ


def _append(staged: Staged, table: pa.Table, rows: list[int], target: str, collection: str, number: int) -> None:
    """Add these rows of a staged file, with their origins, to the delta as a file."""
    if not rows:
        return
    file = f"{number:03d}/{len(staged.files[target]) + 1:05d}.parquet"
    write_parquet(staged.folder / file, table.take(pa.array(rows)), compression_level=1)
    staged.files[target].append((file, collection, len(rows)))


def refused_by_target(entries: Sequence[Mapping[str, Any]]) -> set[tuple[str, str]]:
    """(source collection, source id) of the quarantined chunks that the target refused."""
    return {
        (cast(str, e["collection"]), cast(str, e["id"])) for e in entries if e["reason"] == ReasonCode.REFUSED_BY_TARGET
    }

"""What must change in the target once chunks of the source have changed: these alone are staged, as they were and as they are.

All others are kept: the new staging shares the files of the one before, without the rows of chunks that changed. So
a catch-up of ten chunks costs as much beside a million others as beside a thousand. The difference of the two stagings is what
the target must see.
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

BY_ID = 0.1  # of a collection's chunks that may go or become others before it is written afresh
_OPEN_FILES = 4  # staged files of the old state kept in memory; the two orders are nearly the same

_Place = tuple[int, int]  # file of a target, row in it
Load = Callable[[int], ChunkBatch]


@dataclass(slots=True)
class Restaged:
    """Two stagings, `before` and `now`. Only the chunks of `gone` are not in the second one as they were in the first, and only
    those of `came` are new in it; both may be the whole stagings.
    """

    before: Staged
    now: Staged
    gone: Staged
    came: Staged


Make = Callable[[Snapshot, str, Quarantine], Staged]


def restage(
    before: Staged, aside: Quarantine, was: Snapshot, now: Snapshot, folder: Path, make: Make, *, whole: bool
) -> Restaged:
    """What is staged for snapshot `now` under `folder`, after what was for `was`, and how they differ.

    `make` stages a snapshot in a folder of that name. It does so for the chunks that changed, as they were and as they are,
    where that tells all: one chunk's outcome does not depend on others. Else, and by order (`whole`), for all.
    """
    quarantine = Quarantine(folder / RunPath.QUARANTINE)
    if not whole:
        sides = [Quarantine(folder / name) for name in ("gone-aside", "came-aside")]
        gone, came = make(was.less(now), "gone", sides[0]), make(now.less(was), "came", sides[1])
        left = _left(before, gone)
        if left is not None and not _collide(before, left, gone, came):
            _aside(quarantine, aside, *sides)
            made = _followed(before, folder / RunPath.STAGED, left, gone, came, quarantine)
            return Restaged(before, made, gone, came)
    made = make(now, RunPath.STAGED, quarantine)
    return Restaged(before, made, before, made)


def _left(before: Staged, gone: Staged) -> dict[str, list[int]] | None:
    """By file of `before` the rows with the chunks of `gone`; None where it does not have all of them."""
    left: dict[str, list[int]] = {}
    for target, files in gone.files.items():
        ids: dict[str, list[str]] = {}
        for file, collection, _ in files:
            ids.setdefault(collection, []).extend(gone.table(file, ["source_id"]).column(0).to_pylist())
        found = 0
        for file, collection, _ in before.files.get(target, []) if ids else ():
            if collection in ids:
                column = before.table(file, ["source_id"], without=()).column(0)
                rows = np.flatnonzero(pc.is_in(column, pa.array(ids[collection], pa.large_string()))).tolist()
                if rows := sorted(set(rows) - set(before.without.get(file, ()))):
                    left[file] = rows
                    found += len(rows)
        if found != gone.rows(target):
            return None
    return left


def _collide(before: Staged, left: Mapping[str, list[int]], gone: Staged, came: Staged) -> bool:
    """Whether two chunks may claim one id: whole stagings say which."""
    if before.collided or gone.collided or came.collided:
        return True
    for target in came.files:
        ids = pa.array([chunk for _, some in came.ids(target) for chunk in some], pa.large_string())
        for file, _, _ in before.files.get(target, []) if len(ids) else ():
            without = [*before.without.get(file, ()), *left.get(file, ())]
            column = before.table(file, ["id"], without=without).column(0)
            if pc.any(pc.is_in(column, ids)).as_py():
                return True
    return False


def _followed(
    before: Staged, folder: Path, left: Mapping[str, list[int]], gone: Staged, came: Staged, aside: Quarantine
) -> Staged:
    """The staging `before` without those rows of its files (by file: `left`, staged alone in `gone`), and with what `came`."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    made = Staged(folder, total=before.total - gone.total + came.total, quarantined=aside.counts())
    made.left_out = sum(aside.left_out().values())

    def share(source: Staged, file: str, name: str, collection: str, rows: int, without: list[int]) -> None:
        source.share(file, made, name)
        made.files[target].append((name, collection, rows))
        if without:
            made.without[name] = without

    for target in came.files:
        made.files[target] = []
        for file, collection, rows in before.files.get(target, []):
            some = left.get(file, [])
            if rows > len(some):
                share(before, file, file, collection, rows - len(some), sorted([*before.without.get(file, ()), *some]))
        for file, collection, rows in came.files[target]:
            share(came, file, f"round-{folder.parent.name}/{file}", collection, rows, [])
    made.repairs = _summed(before.repairs, gone.repairs, came.repairs)
    made.derived = _summed(before.derived, gone.derived, came.derived)
    made.filled = _summed(before.filled, *([_told(row, before.filled) for row in side.filled] for side in (gone, came)))
    for name in ("rewritten", "chunks_changed"):
        known = getattr(before, name)
        setattr(made, name, None if known is None else known - getattr(gone, name) + getattr(came, name))
    _changes(before.folder, gone.folder, came.folder, folder)
    made.save(folder)
    return made


def _aside(into: Quarantine, before: Quarantine, gone: Quarantine, came: Quarantine) -> None:
    """What an earlier quarantine held without the chunks that are gone, and those that came. Of what the target refused
    nothing: it is offered again.
    """
    aside, entries = gone.reasons(), [e for e in before.entries() if e["reason"] != ReasonCode.REFUSED_BY_TARGET]
    shutil.rmtree(into.folder, ignore_errors=True)
    into.folder.mkdir(parents=True)
    for file in before.folder.glob("*.parquet"):
        if file.name.startswith("refused-"):
            continue
        if not (gone.folder / file.name).is_file():
            os.link(file, into.folder / file.name)
            continue
        table = read_parquet(file)
        (collection,) = set(table.column("collection").to_pylist())
        ids = table.column("source_id").to_pylist()
        if rows := [row for row, chunk in enumerate(ids) if (collection, chunk) not in aside]:
            into.keep(file.stem, from_table(table).take(rows), collection, [ids[row] for row in rows])
    for file in came.folder.glob("*.parquet"):
        os.link(file, into.folder / file.name)
    into.write([*(e for e in entries if (e["collection"], e["id"]) not in aside), *came.entries()])


def _summed(was: list[dict[str, Any]], gone: list[dict[str, Any]], came: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Counts of chunks, what went taken off and what came added."""
    found: Counter[tuple[tuple[str, Any], ...]] = Counter()
    for sign, rows in ((1, was), (-1, gone), (1, came)):
        for row in rows:
            found[tuple((key, value) for key, value in row.items() if key != "chunks")] += sign * row["chunks"]
    order = sorted(found, key=lambda key: [(value is None, value or "") for _, value in key])
    return [{**dict(key), "chunks": found[key]} for key in order if found[key] > 0]


def _told(row: dict[str, Any], known: list[dict[str, Any]]) -> dict[str, Any]:
    """A default as the longer list tells it apart, or does not."""
    values = {other["value"] for other in known if other["field"] == row["field"]}
    return row if row["value"] in values or len(values) < VALUES else {**row, "value": None}


def _changes(before: Path, gone: Path, came: Path, into: Path) -> None:
    """The list of changed values: that of `before` without the chunks in that of `gone`, and that of `came`."""

    def lines(folder: Path) -> Iterator[list[str]]:
        if (folder / CHANGES).is_file():
            with (
                reading(folder / CHANGES),
                gzip.open(folder / CHANGES, "rt", encoding="utf-8", errors="backslashreplace", newline="") as file,
            ):
                yield from itertools.islice(csv.reader(file), 1, None)

    left = {tuple(line[:2]) for line in lines(gone)}
    if not left and not (came / CHANGES).is_file():
        if (before / CHANGES).is_file():
            os.link(before / CHANGES, into / CHANGES)
        return
    kept = (line for line in lines(before) if tuple(line[:2]) not in left)
    rows = itertools.chain(kept, lines(came))
    if (first := next(rows, None)) is None:
        return
    raw = gzip.GzipFile(into / CHANGES, "wb", mtime=0)
    with io.TextIOWrapper(cast(IO[bytes], raw), "utf-8", "backslashreplace", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(itertools.chain([CHANGE_COLUMNS, first], rows))
    flush_file(into / CHANGES)


def different_settings(before: CollectionInfo, now: CollectionInfo) -> list[str]:
    """Which of space, dimension, metadata, configuration and index schema differ.

    "index schema" is what the server's schema chooses (`same_choices`), where both have one: older servers, and snapshots of
    these, have none, and nothing is compared. A dimension that was not yet known is no change.
    """
    found = [name for name in ("space", "metadata", "configuration") if _plain(before, name) != _plain(now, name)]
    if before.schema and now.schema and not same_choices(before.schema, now.schema):
        found.append("index schema")
    return ["dimension", *found] if before.dimension and now.dimension not in (None, before.dimension) else found


def _plain(info: CollectionInfo, name: str) -> str:
    """A setting as a snapshot's manifest would hold it."""
    return json.dumps(getattr(info, name) or None, sort_keys=True, default=str)


def settings_of(collections: Iterable[CollectionInfo]) -> dict[str, dict[str, str]]:
    """What each is besides its chunks, to be compared with itself later: by name, by setting, its text or the digest of it.

    "indexes" is the server's schema, without the keys that it grows by as metadata arrives.
    """
    found = {}
    for info in collections:
        digests = {name: _digest(_plain(info, name)) for name in ("metadata", "configuration")}
        digests["indexes"] = _digest(_indexes(info))
        found[info.name] = {"space": info.space, "dimension": str(info.dimension), **digests}
    return found


def _indexes(info: CollectionInfo) -> str:
    return json.dumps(chosen(info.schema or {}), sort_keys=True, default=str)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(slots=True)
class Delta:
    """`add` is staged like a whole migration; `drop` are collections to remove, those to be written afresh among them;
    `create` those that `add` finds missing; `remove` are, by collection, the ids that go first: deleted, or added anew.

    The two stagings were made by the same schema, so their difference is what the target must see, quarantine included: a
    chunk that is now turned away is taken out, one whose metadata lost a key comes without it. Never an upsert: it merges
    metadata and makes current servers lose other records (chroma-facts 7, 17). Deletes leave others that no query finds, too,
    where they are many: a collection of which more than `BY_ID` goes or changes is written afresh. Measured on 1.5.9: of 400
    chunks, 210 deleted and added again, 3 to 14 untouched ones were lost to queries; of 2,000 × 128 and 400 × 32 none, with
    0.5 % to 30 % deleted and two in three of these added again, three trials each.
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
        """Whole on disk once `delta.json` is there."""
        self.add.save(self.add.folder)
        write_json(self.add.folder / "delta.json", {"drop": self.drop, "create": self.create, "remove": self.remove})

    @classmethod
    def load(cls, folder: Path) -> Delta:
        """As saved in `folder`; a ledger that names it was written later."""
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

    `plans` are the collections of both as they were and would be created: one whose settings are others is made anew.
    `refused` are (source collection, source id) that the target did not take: they are not there, and offered again.
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
        there = {} if name in delta.create else _places(staged.gone, name, refused)
        came = now if name in delta.create else staged.came
        gone = _target(delta, staged.gone, came, name, after[name].space, there, number)
        if gone and len(gone) > BY_ID * staged.before.rows(name):
            _make_anew(delta, now, name, number)
        elif gone:
            delta.remove[name] = gone
    delta.drop.sort()
    delta.create.sort()
    delta.save()
    return delta


def _places(staged: Staged, target: str, refused: Collection[tuple[str, str]]) -> dict[str, _Place]:
    """Where each chunk of a target is in its staged files; those that the target refused left out."""
    found: dict[str, _Place] = {}
    for number, (file, collection, _) in enumerate(staged.files.get(target, [])):
        table = staged.table(file, ["id", "source_id"])
        ids, sources = table.column("id").to_pylist(), table.column("source_id").to_pylist()
        for row, (chunk, source) in enumerate(zip(ids, sources, strict=True)):
            if (collection, source) not in refused:
                found[chunk] = (number, row)
    return found


def _target(
    delta: Delta, old: Staged, new: Staged, name: str, space: Space, there: Mapping[str, _Place], number: int
) -> list[str]:
    """Stage what a target lacks; the ids there, sorted, that have to go or to become others."""

    @lru_cache(maxsize=_OPEN_FILES)
    def load(file: int) -> ChunkBatch:
        return from_table(old.table(old.files[name][file][0]))

    staying: set[str] = set()
    for file, collection, _ in new.files[name]:
        table = new.table(file)
        batch = from_table(table)
        differ = _differing(batch, there, load, space)
        staying.update(chunk for chunk in batch.ids if chunk not in differ)
        _keep(delta.add, table, [i for i, chunk in enumerate(batch.ids) if chunk in differ], name, collection, number)
    return sorted(there.keys() - staying)


def _make_anew(delta: Delta, new: Staged, name: str, number: int) -> None:
    """Write a collection afresh, all of it."""
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
        differ.update(compare(was, now, space).differences["id"])
    return differ


def _keep(staged: Staged, table: pa.Table, rows: list[int], target: str, collection: str, number: int) -> None:
    """These rows of a staged file as a file of the delta, their origins with them."""
    if not rows:
        return
    file = f"{number:03d}/{len(staged.files[target]) + 1:05d}.parquet"
    write_parquet(staged.folder / file, table.take(pa.array(rows)), compression_level=1)
    staged.files[target].append((file, collection, len(rows)))


def refused_by_target(entries: Sequence[Mapping[str, Any]]) -> set[tuple[str, str]]:
    """(source collection, source id) of the quarantined chunks that the target itself did not take."""
    return {
        (cast(str, e["collection"]), cast(str, e["id"])) for e in entries if e["reason"] == ReasonCode.REFUSED_BY_TARGET
    }

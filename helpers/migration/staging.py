"""Phases 2 and 3: from a snapshot to what will be written, target by target, and what will not.

One pass over the snapshot, one part ahead in memory: transform, check, route. What passes is staged as Parquet under
`staged/<target>/`, or in a storage (`snapshots.remote`), in an order that never changes, so that writing can stop and start
anywhere; what fails goes to quarantine with its reason. Each staged row has its source collection and its id there.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import itertools
import json
import math
import os
import shutil
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import IO, Annotated, Any, cast

import numpy as np
import pandas as pd
import pyarrow as pa
from pydantic import StringConstraints

from helpers.chunks import ChunkBatch
from helpers.errors import Terminal, one_line, redacted
from helpers.formatting import Digested, Wrote, harmless, no_record, packed
from helpers.migration.reembedding import NOT_MADE, as_written, made_anew
from helpers.reason_codes import ReasonCode
from helpers.results import (
    Progress,
    StateFile,
    contents,
    flush_file,
    flush_folder,
    json_in,
    kind_of,
    reading,
    silent,
    write_text,
    writing,
)
from helpers.run.executor import Workers
from helpers.run.plan import Step
from helpers.schema import Context, Schema, load_schema
from helpers.schema.expressions import DERIVED_MEANINGS, DERIVED_TYPES
from helpers.schema.rules import over_limits
from helpers.snapshots.export_journal import Count, OwnFile, Sha256, SnapshotPart, ahead, read_parquet, write_parquet
from helpers.snapshots.remote import StagedFiles, staged_at
from helpers.snapshots.snapshot import Snapshot, from_table, to_table
from helpers.stores import CollectionInfo

CHANGES = "changes.csv.gz"  # in the folder of what is staged
NO_LIMITS: Mapping[str, tuple[int, str]] = {}
CHANGE_COLUMNS = ("collection", "id", "field", "old", "new", "rule")


class Quarantine:
    """The folder `quarantine/` of a run: an index of reasons, and the chunks themselves as Parquet.

    It has two parts, each replaced or extended atomically: the failures of the schema and the vector checks (rewritten by every
    staging, which is deterministic), and the chunks that the target refused (`add`, kept over a resume).
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._guard = threading.Lock()

    def entries(self) -> list[dict[str, str]]:
        """`{collection, id, reason, detail}` with source ids: one entry per chunk (its first reason), in order."""
        first_entries: dict[tuple[str, str], dict[str, str]] = {}
        for entry in self._lines():
            first_entries.setdefault((entry["collection"], entry["id"]), entry)
        return [first_entries[key] for key in sorted(first_entries)]

    def reasons(self) -> dict[tuple[str, str], str]:
        """(collection, source id) → reason."""
        return {(e["collection"], e["id"]): e["reason"] for e in self.entries()}

    def counts(self) -> dict[str, int]:
        """Chunks by reason, except those that the schema leaves out."""
        reasons = Counter(e["reason"] for e in self.entries() if e["reason"] != ReasonCode.LEFT_OUT)
        return dict(sorted(reasons.items()))

    def left_out(self) -> dict[str, int]:
        """Chunks that the schema leaves out, by condition."""
        counts = Counter(e["detail"] for e in self.entries() if e["reason"] == ReasonCode.LEFT_OUT)
        return dict(sorted(counts.items()))

    def write(self, entries: list[dict[str, Any]]) -> None:
        """Replace the index of the failures before the import."""
        write_text(self.folder / "checked.jsonl", "".join(json.dumps(e, ensure_ascii=True) + "\n" for e in entries))

    def keep(self, name: str, batch: ChunkBatch, collection: str, ids: Sequence[str]) -> None:
        """Keep these chunks as `name`.parquet: a snapshot part, with the source's collection and ids added."""
        table = to_table(batch).append_column("collection", pa.array([collection] * len(ids), pa.large_string()))
        table = table.append_column("source_id", pa.array(ids, pa.large_string()))
        write_parquet(self.folder / f"{name}.parquet", table)

    def add(self, entry: dict[str, str], chunk: ChunkBatch) -> None:
        """Keep, then list, a chunk that the target refused. Repeating it after a kill changes nothing."""
        # The file name comes from the id, so that a resumed run, which counts rows in another way, replaces its own file.
        key = hashlib.sha256(json.dumps([entry["target"], chunk.ids[0]]).encode()).hexdigest()[:32]
        with self._guard:
            self.keep(f"refused-{key}", chunk, entry["collection"], [entry["id"]])
            file = self.folder / "refused.jsonl"
            before = contents(file, 2**31).decode() if file.exists() else ""
            write_text(file, before + json.dumps(entry, ensure_ascii=True) + "\n")

    def chunks(self) -> Iterator[pa.Table]:
        """The quarantined chunks, file by file."""
        for file in sorted(self.folder.glob("*.parquet")):
            yield read_parquet(file)

    def evidence(self, path: Path, shown: Callable[[Any], Any] = lambda value: value, wrote: Wrote = no_record) -> int:
        """Write all of them as JSON Lines, compressed by gzip: one chunk a line, with its reason. Gives how many.

        Those that the schema leaves out come last, without content, and are not counted. `shown` gives what a report may show
        of a text or of metadata (`Schema.shown`); `wrote` takes the digest of the file. NaN and Infinity are texts.
        """
        entries = {(e["collection"], e["id"]): e for e in self.entries()}
        written: set[tuple[str, str]] = set()
        with writing(path) as partial, partial.open("wb") as raw, packed(digested := Digested(raw)) as file:
            for table in self.chunks():
                for row in table.to_pylist():
                    key = (row.get("collection", ""), row.get("source_id", row["id"]))
                    if key in written:  # failed before the import, and refused by the target
                        continue
                    written.add(key)
                    reason = entries.get(key, {})
                    vector = row["embedding"] and [x if math.isfinite(x) else str(x) for x in row["embedding"]]
                    line = {
                        "collection": key[0], "id": key[1], "reason": reason.get("reason", ""),
                        "detail": reason.get("detail", ""), "document": shown(row["document"]), "uri": row["uri"],
                        "metadata": shown(row["metadata"] and json.loads(row["metadata"], parse_constant=str)),
                        "embedding": vector,
                    }  # fmt: skip
                    file.write(json.dumps(line, ensure_ascii=True, allow_nan=False).encode() + b"\n")
            for entry in entries.values():
                if entry["reason"] == ReasonCode.LEFT_OUT:
                    line = {key: entry[key] for key in ("collection", "id", "reason", "detail")}
                    file.write(json.dumps(line, ensure_ascii=True).encode() + b"\n")
        wrote(path, digested.digest)
        return len(written)

    def _lines(self) -> Iterator[dict[str, str]]:
        for name in ("checked.jsonl", "refused.jsonl"):
            file = self.folder / name
            if file.exists():
                with reading(file):
                    entries = [dict(json_in(line)) for line in contents(file, 2**31).decode().splitlines()]
                    _ = ["".join((e["collection"], e["id"], e["reason"], e.get("detail", ""))) for e in entries]
                yield from entries


@dataclass(slots=True)
class Staged(StateFile):
    """The result of staging; `index.json` in its folder.

    `files[target]` are the staged Parquet files in order, each (file, source collection, rows). `repairs` and
    `quarantined` are counts by (collection, field, rule) and by reason; `derived` by (field, rule of `derive`, value),
    `filled` by (field, value): the defaults for missing fields; value None counts those beyond the first few of a field.
    `collisions` name ids that two chunks claim in one target: {target, id, first, second}, the first 1,000 of `collided`.
    `rewritten` chunks have another id than in the source, `chunks_changed` at least one value that replaced another:
    `changes.csv.gz` beside the index lists each, old and new. `without` are, by file, rows that are void: a catch-up staged
    these chunks again, in later files, or they are deleted. `stored` are the files in a storage instead of the folder:
    (SHA-256, bytes); `storage` is the name of its folder in the workspace.
    """

    file = "index.json"
    damaged = ReasonCode.STAGING_UNREADABLE
    remedy = "Start a new run; the target holds what this one wrote."

    folder: Path
    files: dict[str, list[tuple[OwnFile, str, int]]] = field(default_factory=dict)
    total: int = 0
    quarantined: dict[str, int] = field(default_factory=dict)
    left_out: int = 0
    repairs: list[dict[str, Any]] = field(default_factory=list)
    derived: list[dict[str, Any]] = field(default_factory=list)
    filled: list[dict[str, Any]] = field(default_factory=list)
    collisions: list[dict[str, str]] = field(default_factory=list)
    collided: int = 0
    rewritten: int | None = None  # None: staged by an older version, which did not count them
    chunks_changed: int | None = None  # likewise
    without: dict[str, list[int]] = field(default_factory=dict)
    stored: dict[OwnFile, tuple[Sha256, Count]] = field(default_factory=dict)
    storage: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9-]*$")] = ""

    def table(self, file: str, columns: list[str] | None = None, without: Sequence[int] | None = None) -> pa.Table:
        """The rows of a staged file, in order, except those of `without` (not given: `self.without`).

        Raises `Terminal` ("staging_unreadable") where the storage does not have the file as it was sent.
        """
        data, without = b"", self.without.get(file, ()) if without is None else without
        if (stored := self.stored.get(file)) is not None:
            step = Step.DRY_RUN if self.folder.parent.name == "dry-run" else Step.MIGRATE
            data = staged_at(self.folder, self.storage).read(*stored, step)
        return read_parquet(self.folder / file, columns, without=without, data=data)

    def share(self, file: str, into: Staged, name: str) -> None:
        """Give `into` this file under a name of its own, without a copy."""
        if file in self.stored:
            into.stored[name], into.storage = self.stored[file], self.storage
            return
        (into.folder / name).parent.mkdir(parents=True, exist_ok=True)
        os.link(self.folder / file, into.folder / name)

    @property
    def unstaged(self) -> int:
        """Chunks that are not staged: quarantined or left out."""
        return sum(self.quarantined.values()) + self.left_out

    def rows(self, target: str) -> int:
        return sum(rows for _, _, rows in self.files[target])

    def contributors(self, target: str) -> list[str]:
        """Source collections with chunks for this target, by name."""
        return sorted({collection for _, collection, _ in self.files[target]})

    def stream(self, target: str, start: int, size: int) -> Iterator[ChunkBatch]:
        """The target's rows from `start` on in batches of `size`; reads the next file while one is in use."""
        pending: list[ChunkBatch] = []
        buffered = 0
        ends = itertools.accumulate(rows for _, _, rows in self.files[target])
        files = [
            (file, rows, end) for (file, _, rows), end in zip(self.files[target], ends, strict=True) if end > start
        ]

        def read(item: tuple[str, int, int]) -> ChunkBatch:
            file, rows, end = item
            return from_table(self.table(file)).slice(max(0, start - (end - rows)), rows)

        for batch in ahead(read, files):
            pending.append(batch)
            buffered += len(batch)
            if buffered >= size:
                whole = ChunkBatch.concatenate(pending)
                full = buffered - buffered % size
                for at in range(0, full, size):
                    yield whole.slice(at, at + size)
                pending, buffered = [whole.slice(full, buffered)], buffered - full
        if buffered:
            yield ChunkBatch.concatenate(pending)

    def between(self, target: str, start: int, stop: int) -> ChunkBatch:
        """The target's rows [start, stop), from the files that hold them."""
        batches, at = [], 0
        for file, _, rows in self.files[target]:
            if max(start, at) < min(stop, at + rows):
                batches.append(from_table(self.table(file)).slice(max(0, start - at), stop - at))
            at += rows
        return ChunkBatch.concatenate(batches)

    def origins(self, target: str, start: int, stop: int) -> list[tuple[str, str]]:
        """(source collection, source id) of the target's rows [start, stop)."""
        origins: list[tuple[str, str]] = []
        at = 0
        for file, collection, rows in self.files[target]:
            low, high = max(start, at), min(stop, at + rows)
            if low < high:
                ids = self.table(file, ["source_id"]).column(0)
                origins += [(collection, i) for i in ids.slice(low - at, high - low).to_pylist()]
            at += rows
        return origins

    def ids(self, target: str) -> Iterator[tuple[str, list[str]]]:
        """Per staged file: the source collection, and the ids in the target."""
        for file, collection, _ in self.files[target]:
            yield collection, cast(list[str], self.table(file, ["id"]).column(0).to_pylist())


STAGED_FORMAT = {"compression_level": 1, "use_dictionary": False, "write_statistics": False}
SLICES = "slices"  # subfolder for files of workers that have no final name yet


@dataclass(slots=True)
class _Rows:
    """The rows of a part that go to one target: ids there, ids in the source, and the rows themselves or what a worker wrote: a
    file here, or one in the storage (SHA-256, bytes)."""

    ids: list[str]
    sources: list[str]
    table: pa.Table | None = None
    file: str = ""
    stored: tuple[str, int] | None = None


@dataclass(slots=True)
class _Piece:
    """A part of the snapshot, transformed and checked: by target, in order, what is to be staged; `entries` of the quarantine,
    whose chunks are kept already; repairs of what is staged; number of chunks in the part."""

    collection: str
    chunks: int
    rows: dict[str, _Rows]
    entries: list[dict[str, Any]]
    repairs: pd.DataFrame


@dataclass(frozen=True, slots=True)
class Rules:
    """How parts are transformed and checked: the schema and its context; allowed vector sizes (none: each collection's own);
    limits of the target; collections that have only new vectors."""

    schema: Schema
    context: Context
    dimensions: Sequence[int]
    limits: Mapping[str, tuple[int, str]]
    anew: frozenset[str]

    def piece(self, info: CollectionInfo, part: SnapshotPart, batch: ChunkBatch, quarantine: Quarantine) -> _Piece:
        """Transform and check a part. Writes nothing except the chunks that fail, to the quarantine's folder."""
        transformed = self.schema.transform(batch, info.name, self.context)
        failures = self.schema.failures(
            transformed, self.context, dimension=info.dimension, allowed_dimensions=self.dimensions, space=info.space
        )
        if info.name in self.anew:
            failures.loc[failures["reason"] == ReasonCode.MISSING_EMBEDDING, "detail"] = NOT_MADE
        if self.limits:
            failures = pd.concat([failures, over_limits(transformed.batch, batch.ids, info.name, self.limits)])
        reasons = failures.groupby("id", sort=False).first() if len(failures) else None
        # Not by numpy's own text type, which drops NUL characters at the end of an id.
        failed = frozenset(reasons.index) if reasons is not None else frozenset()
        bad = np.array([i in failed for i in batch.ids], dtype=bool)
        entries = []
        if reasons is not None:
            positions = np.flatnonzero(bad)
            omitted = frozenset(reasons.index[reasons["reason"] == ReasonCode.LEFT_OUT])
            quarantined = batch.take([at for at in positions.tolist() if batch.ids[at] not in omitted])
            if len(quarantined):  # those left out are in the snapshot
                name = Path(part.file).with_suffix("").as_posix().replace("/", "-")
                quarantine.keep(name, quarantined, info.name, quarantined.ids)
            for chunk in (batch.ids[at] for at in positions):
                row = reasons.loc[chunk]
                entries.append({"collection": info.name, "id": chunk, "reason": row["reason"], "detail": row["detail"]})
        good = np.flatnonzero(~bad).tolist()
        repairs = transformed.repairs[transformed.repairs["id"].isin({batch.ids[i] for i in good})]
        routed: dict[str, list[int]] = {}
        for at in good:
            routed.setdefault(transformed.targets[at], []).append(at)
        rows = {}
        for target, places in sorted(routed.items()):
            moved, sources = transformed.batch.take(places), [transformed.source_ids[i] for i in places]
            table = to_table(moved, info.dimension).append_column("source_id", pa.array(sources, pa.large_string()))
            rows[target] = _Rows(moved.ids, sources, table)
        return _Piece(info.name, len(batch), rows, entries, repairs)


@lru_cache(maxsize=4)
def opened(folder: Path, digest: str) -> Snapshot:
    """On a worker: a snapshot on the shared path. Raises `Terminal` where its digest differs."""
    snapshot = Snapshot.open(folder)
    if snapshot.digest != digest:
        problem, next_step = (
            "it is another one here than in the process of the run",
            "Mount the same folder on all machines.",
        )
        raise Terminal(ReasonCode.SNAPSHOT_ALTERED, problem, where=str(folder), next_step=next_step)
    return snapshot


def staged_in(folder: Path) -> Staged:
    """On a worker: the staging in a folder, once it is complete."""
    about = (folder / Staged.file).stat()
    return _staged(folder, about.st_mtime_ns, about.st_size)


@lru_cache(maxsize=4)
def _staged(folder: Path, *_version: int) -> Staged:
    staged = Staged.load(folder)
    assert staged is not None
    return staged


@lru_cache(maxsize=4)
def schema_of(name: str, digest: str) -> Schema:
    """On a worker: the schema of a run by name or path. Raises `Terminal` where its digest differs."""
    schema = load_schema(name)
    if schema.digest != digest:
        problem, next_step = "the schema is another one here than in the process of the run", "Put the same file there."
        raise Terminal(ReasonCode.CONTEXT_CHANGED, problem, where=name, next_step=next_step)
    return schema


@dataclass(frozen=True, slots=True)
class Shared:
    """What the slices of a step read from the shared path: the snapshot of the run, with its new vectors if any were ordered,
    and the schema."""

    folder: Path
    digest: str
    reembedded: Path | None
    name: str
    schema_digest: str

    @classmethod
    def of(cls, workers: Workers, snapshot: Snapshot, schema: Schema, reembedded: Path | None) -> Shared:
        return cls(snapshot.folder, snapshot.digest, reembedded, workers.order.schema, schema.digest)

    def read(self, part: SnapshotPart) -> ChunkBatch:
        """Read a part, on a worker. Raises as `opened`."""
        snapshot = opened(self.folder, self.digest)
        return (as_written(snapshot, self.reembedded) if self.reembedded else snapshot).read(part)

    @property
    def schema(self) -> Schema:
        """The schema, on a worker. Raises as `schema_of`."""
        return schema_of(self.name, self.schema_digest)


def _piece(
    shared: Shared, staged: Path, storage: str, quarantine: Path, rules: tuple[Any, ...], info: CollectionInfo, part: SnapshotPart
) -> _Piece:  # fmt: skip
    """On a worker: as `Rules.piece`, with the rows in files whose names no other attempt uses; sent to `storage`, if named."""
    by = Rules(shared.schema, *rules)
    piece = by.piece(info, part, shared.read(part), Quarantine(quarantine))
    for rows in piece.rows.values():
        rows.file = f"{SLICES}/{uuid.uuid4().hex}.parquet"
        sha256, rows.table = write_parquet(staged / rows.file, rows.table, **STAGED_FORMAT), None
        if storage:
            rows.stored = staged_at(staged, storage).send(staged / rows.file, sha256)
    return piece


VALUES = 5  # defaults of a field that are counted apart; further ones, such as a template gives, are counted together


class _Staging:
    """One pass over a snapshot: what is staged, growing counts, and the list of changed values."""

    def __init__(self, staged: Staged, quarantine: Quarantine, rules: Mapping[str, str]) -> None:
        self.staged, self.quarantine = staged, quarantine
        self.rules = rules  # of `derive`, by field
        self.send: Callable[[Path, str], None] | None = None  # to the storage, if the files go there
        # Folders are numbered: a collection's name need not be a legal file name everywhere.
        self.folders = {target: f"{number:03d}" for number, target in enumerate(staged.files, start=1)}
        for name in self.folders.values():
            (staged.folder / name).mkdir()
        self.repairs: dict[tuple[str, str, str], int] = {}
        self.derived: Counter[tuple[str, str, str]] = Counter()
        self.filled: dict[str, Counter[str | None]] = {}
        self.changes: io.TextIOWrapper | None = None
        self.entries: list[dict[str, Any]] = []
        self.owners: dict[str, dict[str, tuple[str, str]]] = {}
        self.collisions: list[dict[str, str]] = []

    def take(self, piece: _Piece) -> None:
        """Stage and count the next part."""
        self.entries += piece.entries
        self._repaired(piece.repairs)
        for target, rows in piece.rows.items():
            self._write(piece.collection, target, rows)
        self.staged.total += piece.chunks

    def _write(self, collection: str, target: str, rows: _Rows) -> None:
        owned = self.owners.setdefault(target, {})
        for chunk, source in zip(rows.ids, rows.sources, strict=True):
            first = owned.setdefault(chunk, (collection, source))
            if first != (collection, source):
                both = {"first": " ".join(first), "second": f"{collection} {source}"}
                self.collisions.append({"target": target, "id": chunk, **both})
        files = self.staged.files[target]
        file = f"{self.folders[target]}/{len(files) + 1:05d}.parquet"
        path = self.staged.folder / file
        if rows.stored is not None:
            self.staged.stored[file] = rows.stored
        elif rows.table is None:  # a worker wrote it
            (self.staged.folder / rows.file).replace(path)
        else:
            sha256 = write_parquet(path, rows.table, **STAGED_FORMAT)
            if self.send is not None:
                self.staged.stored[file] = (sha256, path.stat().st_size)
                self.send(path, sha256)
        files.append((file, collection, len(rows.ids)))
        rewritten = sum(new != old for new, old in zip(rows.ids, rows.sources, strict=True))
        self.staged.rewritten = (self.staged.rewritten or 0) + rewritten

    def _repaired(self, repairs: pd.DataFrame) -> None:
        derived = repairs[repairs["rule"] == "derived"]  # where it replaced a value it is a change, and counted there
        for (field_name, value), rows in derived.groupby(["field", "after"], sort=True):
            by = self.rules[str(field_name)]
            shown = "" if DERIVED_TYPES[by] == "integer" else one_line(str(value), 80).strip("'")
            self.derived[str(field_name), by, shown] += len(rows)
        missing = repairs[repairs["rule"].map(kind_of) == "default"]
        for filled, value in zip(missing["field"].map(str), missing["after"].map(str), strict=True):
            defaults = self.filled.setdefault(filled, Counter())
            defaults[value if value in defaults or len(defaults) < VALUES else None] += 1
        for (collection, name, rule), rows in repairs.groupby(["collection", "field", "rule"], sort=True):
            key = (str(collection), str(name), str(rule))
            self.repairs[key] = self.repairs.get(key, 0) + len(rows)
        changed = repairs[repairs["rule"].map(kind_of) == "changed"]
        self.staged.chunks_changed = (self.staged.chunks_changed or 0) + changed["id"].nunique()
        if len(changed):
            self._list(changed)

    def close(self) -> None:
        if self.changes is not None:
            self.changes.close()
            flush_file(self.staged.folder / CHANGES)  # before the index says that everything is staged

    def _list(self, changed: pd.DataFrame) -> None:
        if self.changes is None:  # mtime 0: the same values give the same bytes
            raw = gzip.GzipFile(self.staged.folder / CHANGES, "wb", mtime=0)
            self.changes = io.TextIOWrapper(cast(IO[bytes], raw), "utf-8", "backslashreplace", newline="")
            csv.writer(self.changes, lineterminator="\n").writerow(CHANGE_COLUMNS)
        for row in changed[["collection", "id", "field", "before", "after", "rule"]].itertuples(index=False):
            csv.writer(self.changes, lineterminator="\n").writerow([_cell(redacted(str(value))) for value in row])

    def finish(self) -> Staged:
        staged = self.staged
        staged.repairs = [
            {"collection": c, "field": f, "rule": r, "chunks": n} for (c, f, r), n in sorted(self.repairs.items())
        ]
        staged.derived = [
            {"field": f, "rule": r, "value": v, "chunks": n, "meaning": DERIVED_MEANINGS[r]}
            for (f, r, v), n in sorted(self.derived.items())
        ]
        staged.filled = [
            {"field": field, "value": value, "chunks": defaults[value]}
            for field, defaults in sorted(self.filled.items())
            for value in sorted(defaults, key=lambda v: (v is None, v or ""))
        ]
        staged.collisions = self.collisions[:1000]
        staged.collided = len(self.collisions)
        self.quarantine.write(self.entries)
        staged.quarantined = self.quarantine.counts()
        staged.left_out = sum(self.quarantine.left_out().values())
        staged.save(staged.folder)
        return staged


def _cell(text: str) -> str:
    """The text as spreadsheets show it: a number, or text that is no formula."""
    try:
        float(text)
    except ValueError:
        return harmless(text)
    return text


def stage(
    snapshot: Snapshot,
    schema: Schema,
    context: Context,
    folder: Path,
    quarantine: Quarantine,
    *,
    dimensions: Sequence[int] = (),
    limits: Mapping[str, tuple[int, str]] = NO_LIMITS,
    progress: Progress = silent,
    away: tuple[Workers, Path | None] | None = None,
    storage: StagedFiles | None = None,
) -> Staged:
    """Transform and check every chunk of the snapshot. Deterministic: repeating it after a kill gives the same files.

    `dimensions` are the vector sizes that the parameters allow (none: each collection's own). `limits` are those of the
    target (`known_of`); a chunk over one of them goes to quarantine. `away`: workers that do it for a snapshot that is whole on
    disk, and the folder of its new vectors, if any were ordered; the files are the same. `storage` gets the files before
    `index.json` names them.
    """
    shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(quarantine.folder, ignore_errors=True)
    folder.mkdir(parents=True)
    files: dict[str, list[tuple[str, str, int]]] = {target: [] for target in sorted(schema.targets(snapshot.names()))}
    staged = Staged(folder, files, rewritten=0, chunks_changed=0, storage=storage.storage if storage else "")
    staging = _Staging(staged, quarantine, schema.derivations)
    work = [(info, part) for info in snapshot.collections() for part in snapshot.parts(info.name)]
    rules = Rules(schema, context, dimensions, limits, frozenset(made_anew(snapshot)))

    def pieces() -> Iterator[_Piece]:
        for (info, part), batch in zip(work, ahead(snapshot.read, (part for _, part in work)), strict=True):
            yield rules.piece(info, part, batch, quarantine)

    def pieces_of_workers(workers: Workers, reembedded: Path | None) -> Iterator[_Piece]:
        by = (context, tuple(dimensions), dict(limits), rules.anew)
        arguments = (Shared.of(workers, snapshot, schema, reembedded), folder, staged.storage, quarantine.folder, by)
        (folder / SLICES).mkdir()
        yield from ahead(lambda item: workers.call(_piece, *arguments, *item), work, workers.at_once + 1)
        for name in staging.folders.values():
            flush_folder(folder / name)
        shutil.rmtree(folder / SLICES)  # of a slice that was done twice

    with closing(staging), storage.sending() if storage else nullcontext() as staging.send:
        for piece in pieces() if away is None else pieces_of_workers(*away):
            staging.take(piece)
            progress.advance(piece.chunks)
    if storage is not None:
        storage.require_all(staged.stored.values())
    return staging.finish()

"""Phases 2 and 3: from a snapshot to what will be written, target by target, and what will not.

One pass over the snapshot, one part ahead in memory: transform, check, route. What passes is staged as Parquet under
`staged/<target>/`, in an order that never changes, so that writing can stop and start anywhere; what does not goes to
quarantine with its reason. The staged rows remember where they came from (source collection and source id).
"""

from __future__ import annotations

import copy
import csv
import gzip
import hashlib
import io
import itertools
import json
import math
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import pandas as pd
import pyarrow as pa

from helpers.chunks import ChunkBatch, Vectors
from helpers.errors import one_line, redacted
from helpers.formatting import Digested, Wrote, harmless, packed, untold
from helpers.parameters import Parameters, resolve_path
from helpers.reason_codes import ReasonCode
from helpers.results import (
    Progress,
    StateFile,
    flush_file,
    json_in,
    kind_of,
    reading,
    silent,
    write_json,
    write_text,
    writing,
)
from helpers.schema import Context, Schema, Transformed
from helpers.schema.expressions import DERIVED_MEANINGS, DERIVED_TYPES
from helpers.schema.rules import too_large
from helpers.snapshots.export_journal import (
    OwnFile,
    VectorCache,
    ahead,
    read_parquet,
    vectors_of,
    write_parquet,
)
from helpers.snapshots.snapshot import Part, Snapshot, from_table, to_table
from helpers.stores import CollectionInfo
from helpers.stores.creation import Function, own_function, vector_configs

CHANGES = "changes.csv.gz"  # in the folder of what is staged
CHANGE_COLUMNS = ("collection", "id", "field", "old", "new", "rule")


class Quarantine:
    """The folder `quarantine/` of a run: an index of reasons and the chunks themselves as Parquet.

    Two parts, each replaced or extended atomically: what the schema and the vector checks turned away (rewritten by every
    staging, which is deterministic), and what the target itself refused (`add`, kept over a resume).
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._guard = threading.Lock()

    def entries(self) -> list[dict[str, str]]:
        """`{collection, id, reason, detail}`, ids as in the source; one entry a chunk (its first reason), in order."""
        found: dict[tuple[str, str], dict[str, str]] = {}
        for entry in self._lines():
            found.setdefault((entry["collection"], entry["id"]), entry)
        return [found[key] for key in sorted(found)]

    def reasons(self) -> dict[tuple[str, str], str]:
        """(collection, source id) → reason."""
        return {(e["collection"], e["id"]): e["reason"] for e in self.entries()}

    def counts(self) -> dict[str, int]:
        """Chunks by reason, without those that the schema leaves out."""
        reasons = Counter(e["reason"] for e in self.entries() if e["reason"] != ReasonCode.LEFT_OUT)
        return dict(sorted(reasons.items()))

    def left_out(self) -> dict[str, int]:
        """Chunks that the schema leaves out, by condition."""
        found = Counter(e["detail"] for e in self.entries() if e["reason"] == ReasonCode.LEFT_OUT)
        return dict(sorted(found.items()))

    def write(self, entries: list[dict[str, Any]]) -> None:
        """Replace the index of what was turned away before import."""
        write_text(self.folder / "checked.jsonl", "".join(json.dumps(e, ensure_ascii=True) + "\n" for e in entries))

    def keep(self, name: str, batch: ChunkBatch, collection: str, ids: Sequence[str]) -> None:
        """Keep these chunks, as `name`.parquet: a snapshot part with the source's collection and ids beside it."""
        table = to_table(batch).append_column("collection", pa.array([collection] * len(ids), pa.large_string()))
        table = table.append_column("source_id", pa.array(ids, pa.large_string()))
        write_parquet(self.folder / f"{name}.parquet", table)

    def add(self, entry: dict[str, str], chunk: ChunkBatch) -> None:
        """A chunk that the target refused: kept, then listed. Repeating it after a kill changes nothing."""
        # A file name from the id itself, so that a resumed run, which counts rows otherwise, replaces its own file.
        key = hashlib.sha256(json.dumps([entry["target"], chunk.ids[0]]).encode()).hexdigest()[:32]
        with self._guard:
            self.keep(f"refused-{key}", chunk, entry["collection"], [entry["id"]])
            file = self.folder / "refused.jsonl"
            before = file.read_text(encoding="utf-8") if file.exists() else ""
            write_text(file, before + json.dumps(entry, ensure_ascii=True) + "\n")

    def chunks(self) -> Iterator[pa.Table]:
        """The quarantined chunks, file by file."""
        for file in sorted(self.folder.glob("*.parquet")):
            yield read_parquet(file)

    def evidence(self, path: Path, shown: Callable[[Any], Any] = lambda value: value, wrote: Wrote = untold) -> int:
        """Write all of them as JSON Lines, compressed by gzip: one chunk a line, with its reason. Gives how many.

        Those that the schema leaves out come last, without content, and are not counted. `shown` gives what a report may show
        of a text or of metadata (`Schema.shown`); `wrote` takes the digest of what was written. NaN and Infinity are texts.
        """
        why = {(e["collection"], e["id"]): e for e in self.entries()}
        written: set[tuple[str, str]] = set()
        with writing(path) as partial, partial.open("wb") as raw, packed(digested := Digested(raw)) as file:
            for table in self.chunks():
                for row in table.to_pylist():
                    key = (row.get("collection", ""), row.get("source_id", row["id"]))
                    if key in written:  # turned away before the import and refused by the target: once is enough
                        continue
                    written.add(key)
                    reason = why.get(key, {})
                    vector = row["embedding"] and [x if math.isfinite(x) else str(x) for x in row["embedding"]]
                    line = {
                        "collection": key[0], "id": key[1], "reason": reason.get("reason", ""),
                        "detail": reason.get("detail", ""), "document": shown(row["document"]), "uri": row["uri"],
                        "metadata": shown(row["metadata"] and json.loads(row["metadata"], parse_constant=str)),
                        "embedding": vector,
                    }  # fmt: skip
                    file.write(json.dumps(line, ensure_ascii=True, allow_nan=False).encode() + b"\n")
            for entry in why.values():
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
                    found = [dict(json_in(line)) for line in file.read_text(encoding="utf-8").splitlines()]
                    _ = ["".join((e["collection"], e["id"], e["reason"], e.get("detail", ""))) for e in found]
                yield from found


@dataclass(slots=True)
class Staged(StateFile):
    """What staging made; `index.json` in its folder.

    `files[target]` are the staged Parquet files in order, each (file, source collection, rows). `repairs` and
    `quarantined` are counts by (collection, field, rule) and by reason; `derived` by (field, rule of `derive`, value),
    `filled` by (field, value): the defaults that missing fields got; value None: those beyond the first few of a field.
    `collisions` name ids that two chunks claim in one target: {target, id, first, second}, the first 1,000 of `collided`.
    `rewritten` chunks have another id than in the source, `chunks_changed` at least one value that replaced another:
    `changes.csv.gz` beside the index lists each, old and new. `without` are, by file, the rows that count no more: a catch-up
    staged these chunks anew, in later files, or they are gone.
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

    def table(self, file: str, columns: list[str] | None = None) -> pa.Table:
        """The rows of a staged file, in order."""
        return read_parquet(self.folder / file, columns, without=self.without.get(file, ()))

    @property
    def aside(self) -> int:
        """Chunks that are not staged: quarantined or left out."""
        return sum(self.quarantined.values()) + self.left_out

    def rows(self, target: str) -> int:
        return sum(rows for _, _, rows in self.files[target])

    def contributors(self, target: str) -> list[str]:
        """Source collections with chunks for this target, by name."""
        return sorted({collection for _, collection, _ in self.files[target]})

    def stream(self, target: str, start: int, size: int) -> Iterator[ChunkBatch]:
        """The target's rows from `start` on in batches of `size`, the next file being read while one is in use."""
        pending: list[ChunkBatch] = []
        held = 0
        ends = itertools.accumulate(rows for _, _, rows in self.files[target])
        files = [
            (file, rows, end) for (file, _, rows), end in zip(self.files[target], ends, strict=True) if end > start
        ]

        def read(item: tuple[str, int, int]) -> ChunkBatch:
            file, rows, end = item
            return from_table(self.table(file)).slice(max(0, start - (end - rows)), rows)

        for batch in ahead(read, files):
            pending.append(batch)
            held += len(batch)
            if held >= size:
                whole = ChunkBatch.concatenate(pending)
                full = held - held % size
                for at in range(0, full, size):
                    yield whole.slice(at, at + size)
                pending, held = [whole.slice(full, held)], held - full
        if held:
            yield ChunkBatch.concatenate(pending)

    def origins(self, target: str, start: int, stop: int) -> list[tuple[str, str]]:
        """(source collection, source id) of the target's rows [start, stop)."""
        found: list[tuple[str, str]] = []
        at = 0
        for file, collection, rows in self.files[target]:
            low, high = max(start, at), min(stop, at + rows)
            if low < high:
                ids = self.table(file, ["source_id"]).column(0)
                found += [(collection, i) for i in ids.slice(low - at, high - low).to_pylist()]
            at += rows
        return found

    def ids(self, target: str) -> Iterator[tuple[str, list[str]]]:
        """Per staged file: the source collection and the ids as they will be in the target."""
        for file, collection, _ in self.files[target]:
            yield collection, cast(list[str], self.table(file, ["id"]).column(0).to_pylist())


VALUES = 5  # of the defaults of a field that are told apart; more, such as a template gives, are counted together


class _Staging:
    """One pass over a snapshot: what is staged, counts that grow, and the list of changed values."""

    def __init__(self, staged: Staged, quarantine: Quarantine, rules: Mapping[str, str]) -> None:
        self.staged, self.quarantine = staged, quarantine
        self.rules = rules  # of `derive`, by field
        # By number: a collection's name need not be a legal file name everywhere.
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

    def part(
        self, info: CollectionInfo, part: Part, batch: ChunkBatch, transformed: Transformed, failures: pd.DataFrame
    ) -> None:
        name = Path(part.file).with_suffix("").as_posix().replace("/", "-")
        reasons = failures.groupby("id", sort=False).first() if len(failures) else None
        # Not by numpy's own text type, which drops NUL characters at the end of an id.
        failed = frozenset(reasons.index) if reasons is not None else frozenset()
        bad = np.array([i in failed for i in batch.ids], dtype=bool)
        if reasons is not None:
            positions = np.flatnonzero(bad)
            out = frozenset(reasons.index[reasons["reason"] == ReasonCode.LEFT_OUT])
            aside = batch.take([at for at in positions.tolist() if batch.ids[at] not in out])
            if len(aside):  # the snapshot has those that are left out
                self.quarantine.keep(name, aside, info.name, aside.ids)
            for chunk in (batch.ids[at] for at in positions):
                row = reasons.loc[chunk]
                self.entries.append(
                    {"collection": info.name, "id": chunk, "reason": row["reason"], "detail": row["detail"]}
                )
        good = np.flatnonzero(~bad).tolist()
        self._repaired(transformed.repairs[transformed.repairs["id"].isin({batch.ids[i] for i in good})])
        routed: dict[str, list[int]] = {}
        for at in good:
            routed.setdefault(transformed.targets[at], []).append(at)
        for target, rows in sorted(routed.items()):
            self._write(info, target, transformed.batch.take(rows), [transformed.source_ids[i] for i in rows])
        self.staged.total += len(batch)

    def _write(self, info: CollectionInfo, target: str, piece: ChunkBatch, sources: list[str]) -> None:
        owned = self.owners.setdefault(target, {})
        for chunk, source in zip(piece.ids, sources, strict=True):
            first = owned.setdefault(chunk, (info.name, source))
            if first != (info.name, source):
                both = {"first": " ".join(first), "second": f"{info.name} {source}"}
                self.collisions.append({"target": target, "id": chunk, **both})
        files = self.staged.files[target]
        file = f"{self.folders[target]}/{len(files) + 1:05d}.parquet"
        table = to_table(piece, info.dimension).append_column("source_id", pa.array(sources, pa.large_string()))
        how = {"compression_level": 1, "use_dictionary": False, "write_statistics": False}
        write_parquet(self.staged.folder / file, table, **how)
        files.append((file, info.name, len(piece)))
        rewritten = sum(new != old for new, old in zip(piece.ids, sources, strict=True))
        self.staged.rewritten = (self.staged.rewritten or 0) + rewritten

    def _repaired(self, repairs: pd.DataFrame) -> None:
        told = repairs[repairs["rule"] == "derived"]  # what replaced a value is a change, and counted there
        for (field_name, value), rows in told.groupby(["field", "after"], sort=True):
            by = self.rules[str(field_name)]
            shown = "" if DERIVED_TYPES[by] == "integer" else one_line(str(value), 80).strip("'")
            self.derived[str(field_name), by, shown] += len(rows)
        missing = repairs[repairs["rule"].map(kind_of) == "default"]
        for filled, value in zip(missing["field"].map(str), missing["after"].map(str), strict=True):
            known = self.filled.setdefault(filled, Counter())
            known[value if value in known or len(known) < VALUES else None] += 1
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
        if self.changes is None:  # the same values give the same bytes
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
            {"field": field, "value": value, "chunks": known[value]}
            for field, known in sorted(self.filled.items())
            for value in sorted(known, key=lambda v: (v is None, v or ""))
        ]
        staged.collisions = self.collisions[:1000]
        staged.collided = len(self.collisions)
        self.quarantine.write(self.entries)
        staged.quarantined = self.quarantine.counts()
        staged.left_out = sum(self.quarantine.left_out().values())
        staged.save(staged.folder)
        return staged


def _cell(text: str) -> str:
    """As spreadsheets show it: a number, or text that is no formula."""
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
    most_bytes: int | None = None,
    progress: Progress = silent,
) -> Staged:
    """Transform and check every chunk of the snapshot; deterministic, so repeating it after a kill gives the same.

    `dimensions` are the vector sizes that the parameters allow (none: each collection's own). `most_bytes` is what one
    request to the target may hold (None: any number); a chunk that alone is larger goes to quarantine.
    """
    shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(quarantine.folder, ignore_errors=True)
    folder.mkdir(parents=True)
    files: dict[str, list[tuple[str, str, int]]] = {target: [] for target in sorted(schema.targets(snapshot.names()))}
    staging = _Staging(Staged(folder, files, rewritten=0, chunks_changed=0), quarantine, schema.derivations)
    work = [(info, part) for info in snapshot.collections() for part in snapshot.parts(info.name)]
    with closing(staging):
        for (info, part), batch in zip(work, ahead(snapshot.read, (part for _, part in work)), strict=True):
            transformed = schema.transform(batch, info.name, context)
            failures = schema.failures(
                transformed, context, dimension=info.dimension, allowed_dimensions=dimensions, space=info.space
            )
            if info.name in made_anew(snapshot):
                failures.loc[failures["reason"] == ReasonCode.MISSING_EMBEDDING, "detail"] = _NOT_MADE
            if most_bytes is not None:
                failures = pd.concat([failures, too_large(transformed.batch, batch.ids, info.name, most_bytes)])
            staging.part(info, part, batch, transformed, failures)
            progress.advance(len(batch))
    return staging.finish()


# -- reembedding -------------------------------------------------------------------------------------------------------
#
# New vectors where the operator orders them by `migration.reembed`: for chunks whose own are lost, or for whole collections.
#
# They are made once, from the chunks' documents, before the target is touched, and kept as Parquet beside the staging, one
# file for each part of the snapshot. `as_written` gives the snapshot with them in place: staging writes that, and step 23
# compares the target with that, vector by vector. Of a collection that is made anew no vector of the source is left. A chunk
# without a text, or to which the function gives no usable vector, stays lost and goes to quarantine.


REEMBEDDED = "reembedded"  # beside the staging
_MADE, _CONTEXT = "made.json", "context.json"
_NOT_MADE = "no new vector: it has no text, or the embedding function gave none that can be used"


class Reembedded(Snapshot):
    """A snapshot as it is written to the target: with the vectors that were made, all else as it was.

    `anew` are the collections that have new vectors throughout: name → chunks, made, was and dimension, function.
    """

    def __init__(self, snapshot: Snapshot, folder: Path, made: Mapping[str, Any]) -> None:
        super().__init__(snapshot.folder, snapshot.manifest)
        self._made = folder
        self.anew: dict[str, dict[str, Any]] = made.get("anew", {})
        self._dimensions = {
            part.file: told["dimension"] for name, told in self.anew.items() for part in self.parts(name)
        }

    def collections(self) -> list[CollectionInfo]:
        return [with_function(i, self.anew[i.name]) if i.name in self.anew else i for i in super().collections()]

    def read(self, part: Part) -> ChunkBatch:
        batch = super().read(part)
        if part.file in self._dimensions:
            batch.embeddings = np.full((len(batch), self._dimensions[part.file]), np.nan, np.float32)
            batch.lost = np.ones(len(batch), bool)
        file = self._made / part.file
        if not batch.lost.any() or not file.is_file():
            return batch
        made = from_table(read_parquet(file))
        rows = {chunk: row for row, chunk in enumerate(made.ids)}
        places = [i for i in np.flatnonzero(batch.lost) if batch.ids[i] in rows]
        if batch.dimension != made.dimension and len(places):  # no vector of the collection could be read
            batch.embeddings = np.full((len(batch), made.dimension), np.nan, np.float32)
        batch.embeddings[places] = made.embeddings[[rows[batch.ids[i]] for i in places]]
        batch.lost[places] = False
        return batch


def as_written(snapshot: Snapshot, folder: Path) -> Snapshot:
    """The snapshot with the vectors that were made in `folder`; as it is where none were."""
    made = what_was_made(folder, snapshot)
    return snapshot if made is None else Reembedded(snapshot, folder, made)


def made_anew(snapshot: Snapshot) -> Mapping[str, Mapping[str, Any]]:
    """Of a snapshot as it is written: the collections with new vectors throughout, see `Reembedded`."""
    return snapshot.anew if isinstance(snapshot, Reembedded) else {}


def with_function(info: CollectionInfo, told: Mapping[str, Any]) -> CollectionInfo:
    """The collection with the function and dimension of its new vectors, in each place from which Chroma takes the function."""
    function, schema = told["function"], copy.deepcopy(info.schema)
    for config in vector_configs(schema):
        config["embedding_function"] = function
    configuration = {**info.configuration, "embedding_function": function}
    return replace(
        info,
        dimension=told["dimension"] or None,
        configuration=configuration,
        schema=schema,
        embedding_function=function["name"],
    )


def reembed(snapshot: Snapshot, parameters: Parameters, folder: Path) -> None:
    """Make the vectors that are ordered and not yet there.

    What an interrupted attempt on the same snapshot, with the same function, has made is kept. Raises `Terminal` where the
    function is not available for a collection that needs it ("embedding_function_unavailable"), fails
    ("reembed_failed") or makes another dimension than it must ("reembed_dimension").
    """
    order = parameters.migration.embedding
    if order is None:
        shutil.rmtree(folder, ignore_errors=True)
        return
    context: dict[str, Any] = {"snapshot": snapshot.digest, "function": order.function, "config": order.config}
    if order.collections:
        context |= {"collections": order.collections, "dimension": order.dimension}
    if _read(folder / _CONTEXT) != context:
        shutil.rmtree(folder, ignore_errors=True)
        write_json(folder / _CONTEXT, context)
    if what_was_made(folder, snapshot) is not None:
        return
    chunks: list[dict[str, str]] = []
    functions: dict[str, str] = {}
    cache, size = VectorCache(resolve_path(order.cache), order.function, order.config), order.dimension
    anew: dict[str, dict[str, Any]] = {}
    for info in snapshot.collections():
        whole = order.selects(info.name)
        parts = [part for part in snapshot.parts(info.name) if whole or (part.lost and not order.collections)]
        if not parts and not whole:
            continue
        function = own_function(
            order.function, order.config, {} if whole else info.configuration, f"collection {info.name}",
            parameters.source.embedding_functions,
        )  # fmt: skip
        functions[info.name] = function.name
        stored = {"type": "known", "name": function.name, "config": dict(function.config())} if whole else None
        if whole:
            function = replace(function, call=cache.through(function.call))
        size = size if whole else info.dimension
        made = 0
        for part in parts:
            new = _part(snapshot, info, part, function, size, folder, order.batch if whole else None)
            size, made = new.dimension or size, made + len(new)
            chunks += [] if whole else [{"collection": info.name, "id": chunk} for chunk in new.ids]
        if whole:
            anew[info.name] = {"chunks": sum(part.rows for part in parts), "made": made, "was": info.dimension,
                               "dimension": size or 0, "function": stored}  # fmt: skip
    told = (
        {"anew": anew, "embedded": cache.made, "kept": cache.kept, "seconds": round(cache.seconds, 3)} if anew else {}
    )
    write_json(folder / _MADE, {**context, "functions": functions, "chunks": chunks, **told})


def _part(
    snapshot: Snapshot, info: CollectionInfo, part: Part, function: Function, size: int | None, folder: Path,
    together: int | None,
) -> ChunkBatch:  # fmt: skip
    """The new vectors of one part, from an earlier attempt where that made them; `together`: of all its chunks, so many in one
    call of the function (None: of those that are lost)."""
    file = folder / part.file
    if file.is_file():
        return from_table(read_parquet(file))
    batch = snapshot.read(part)
    rows = [i for i in np.flatnonzero(batch.lost | (together is not None)) if (batch.documents[i] or "").strip()]
    texts = [str(batch.documents[i]) for i in rows]
    where, step = f"collection {info.name}", together or _DOCUMENTS
    found: list[Vectors] = []
    for start in range(0, len(texts), step):
        found.append(vectors_of(function, texts[start : start + step], size, where, whole=together is not None))
        size = found[-1].shape[1]
    vectors = np.concatenate(found) if found else np.zeros((0, size or 0), np.float32)
    usable = np.flatnonzero(np.isfinite(vectors).all(axis=1) & vectors.any(axis=1))
    made = ChunkBatch([batch.ids[rows[i]] for i in usable], [None] * len(usable), vectors[usable], [None] * len(usable))
    write_parquet(file, to_table(made))
    return made


_DOCUMENTS = 64  # in one call of the function, for lost vectors


def what_was_made(folder: Path, snapshot: Snapshot) -> dict[str, Any] | None:
    """What was made for this snapshot, once all of it is there."""
    made = _read(folder / _MADE)
    return made if made is not None and made["snapshot"] == snapshot.digest else None


def _read(file: Path) -> dict[str, Any] | None:
    if not file.is_file():
        return None
    with reading(file, "Remove this file: the vectors are made again."):
        return dict(json_in(file.read_bytes()))

"""New vectors where the operator orders them by `migration.reembed`: for chunks whose own are lost, or for whole collections.

They are made once, from the chunks' documents, before the target is touched, and kept as Parquet beside the staging, one
file for each part of the snapshot. `as_written` gives the snapshot with them in place: staging writes that, and step 23
compares the target with that, vector by vector. Of a collection that is made anew no vector of the source is left. A chunk
without a text, or to which the function gives no usable vector, stays lost and goes to quarantine.
"""

from __future__ import annotations

import copy
import hashlib
import hmac
import json
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from helpers import audit
from helpers.chunks import ChunkBatch, Vectors
from helpers.errors import RunbookError, Terminal, UsageError, one_line
from helpers.formatting import duration
from helpers.parameters import Parameters, resolve_path
from helpers.parameters.endpoint import Reembed
from helpers.reason_codes import ReasonCode
from helpers.results import Verdict, json_in, reading, write_json
from helpers.run.record import RunRecord
from helpers.snapshots.export_journal import read_parquet, write_parquet
from helpers.snapshots.snapshot import Part, Snapshot, from_table, to_table
from helpers.stores import CollectionInfo
from helpers.stores.creation import Function, own_function, vector_configs

R = TypeVar("R")

REEMBEDDED = "reembedded"  # beside the staging
_MADE, _CONTEXT = "made.json", "context.json"
NOT_MADE = "no new vector: it has no text, or the embedding function gave none that can be used"


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


# -- cache and calls ----------------------------------------------------------------------------------------------------


class VectorCache:
    """Vectors by digest of their text, in an SQLite file for each function and configuration, for every run of this workspace.

    What one call of the function gave is one transaction: a kill at any moment leaves whole ones. The texts are not kept, and a
    vector counts only with a proof that needs this workspace's key: others may write there.
    """

    def __init__(self, folder: Path, function: str, config: Mapping[str, Any]) -> None:
        self._key = hashlib.sha256(json.dumps([function, dict(config)], sort_keys=True).encode()).hexdigest()
        self.file, self._secret = folder / f"{self._key[:32]}.sqlite3", audit.secret()
        self.made, self.kept, self.seconds = 0, 0, 0.0  # texts embedded in so many seconds, and found here

    def through(self, call: Callable[[Sequence[str]], Sequence[Any]]) -> Callable[[Sequence[str]], Sequence[Any]]:
        """The function, called for texts that are not here yet; what it gives is kept."""

        def vectors(texts: Sequence[str]) -> Sequence[Any]:
            names = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in texts]
            known = self._ask(lambda db: self._read(db, set(names)))
            fresh = {name: text for name, text in zip(names, texts, strict=True) if name not in known}
            if fresh:
                begun = time.monotonic()
                given = call(list(fresh.values()))
                self.seconds += time.monotonic() - begun
                if len(given) != len(fresh):
                    return given  # refused by the caller: not one for each text
                made = {name: np.asarray(v, np.float32) for name, v in zip(fresh, given, strict=True)}
                rows = [(n, v.tobytes(), self._proof(n, v.tobytes())) for n, v in made.items() if np.isfinite(v).all()]
                self._ask(lambda db: db.executemany("insert or replace into vectors values (?, ?, ?)", rows))
                known |= made
            self.made, self.kept = self.made + len(fresh), self.kept + len(texts) - len(fresh)
            return [known[name] for name in names]

        return vectors

    def _read(self, db: sqlite3.Connection, names: Iterable[bytes]) -> dict[bytes, npt.NDArray[np.float32]]:
        rows = (db.execute("select * from vectors where text = ?", (name,)).fetchone() for name in names)
        return {
            row[0]: np.frombuffer(row[1], np.float32)
            for row in rows
            if row and hmac.compare_digest(row[2], self._proof(row[0], row[1]))
        }

    def _proof(self, name: bytes, vector: bytes) -> bytes:
        return hmac.new(self._secret, self._key.encode() + name + vector, "sha256").digest()

    def _ask(self, ask: Callable[[sqlite3.Connection], R]) -> R:
        try:
            self.file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with closing(sqlite3.connect(self.file, timeout=60.0)) as db, db:
                db.execute("create table if not exists vectors (text blob primary key, vector blob, proof blob)")
                return ask(db)
        except (sqlite3.Error, OSError) as error:
            what = f"the cache of new vectors cannot be used: {one_line(str(error), 120)}"
            then = "Make room, or remove this file (its vectors are made again), then resume."
            raise Terminal(ReasonCode.REEMBED_FAILED, what, where=str(self.file), next_step=then) from error


def vectors_of(function: Function, texts: Sequence[str], size: int | None, where: str, *, whole: bool) -> Vectors:
    """(n, d) float32 of the texts, d the size where one is given."""
    try:
        made = [np.asarray(vector, np.float32) for vector in function.call(texts)]
    except RunbookError:
        raise
    except Exception as error:  # a foreign model, or the service behind it
        raise Terminal(
            ReasonCode.REEMBED_FAILED, f"embedding function {function.name} failed: {one_line(str(error), 200)}", where=where,
            next_step="Nothing was written. Make it work here, then resume; or start without migration.reembed.",
        ) from error  # fmt: skip
    sizes = sorted({vector.shape[0] if vector.ndim == 1 else -1 for vector in made})
    if len(made) != len(texts) or len(sizes) != 1 or sizes[0] < 1:
        raise Terminal(
            ReasonCode.REEMBED_FAILED,
            f"embedding function {function.name} gave {len(made)} vectors of {sizes} to {len(texts)} texts",
            where=where,
            next_step="Nothing was written. Start again with another function, or without migration.reembed.",
        )
    if size is not None and sizes[0] != size:
        due = (
            f"{size} are due (migration.reembed.dimension, or its first vectors)"
            if whole
            else f"the collection has {size}"
        )
        model = "Name the model that is meant" if whole else "Name the function that made its vectors"
        raise Terminal(
            ReasonCode.REEMBED_DIMENSION, f"embedding function {function.name} makes {sizes[0]} dimensions, {due}",
            where=where, next_step=f"Nothing was written. {model}, or leave migration.reembed out.",
        )  # fmt: skip
    return np.stack(made)


# -- checks ------------------------------------------------------------------------------------------------------------


def refuse_order(order: Reembed, names: Sequence[str]) -> int | None:
    """Ask the function that makes whole collections anew for one vector: its dimension, None where there is no such order.

    Raises `UsageError` for a pattern that fits none of these collections of the source, and as `reembed`.
    """
    if not order.collections:
        return None
    for pattern in order.collections:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UsageError(
                ReasonCode.USAGE, f"{one_line(pattern, 60)!r} fits no collection that is migrated",
                where="migration.reembed.collections", next_step=f"There are {', '.join(one_line(n, 60) for n in names[:8])}.",
            )  # fmt: skip
    function = own_function(order.function, order.config, {}, "migration.reembed")
    return int(vectors_of(function, ["dimension"], order.dimension, "migration.reembed", whole=True).shape[1])


REEMBEDDED_CHECK, _NAMED = "vectors recreated", 1_000  # chunks named in the results; made.json names all


def judge_reembedded(run: RunRecord, snapshot: Snapshot, folder: Path) -> None:
    """The mark in a step's results: a warning with count, function and ids of lost ones; nothing where nothing was ordered."""
    if (made := what_was_made(folder, snapshot)) is None:
        return
    run.forget(REEMBEDDED_CHECK)  # a cell may run twice
    chunks, lost = made["chunks"], sum(part.lost for name in snapshot.names() for part in snapshot.parts(name))
    functions = ", ".join(sorted(set(made["functions"].values()))) or made["function"]
    about: dict[str, Any] = {key: made[key] for key in ("function", "config", "functions")}
    if anew := made.get("anew"):
        told = [
            f"{one_line(name, 60)}: {t['made']:,} of {t['chunks']:,} chunks, {t['was'] or 0} to {t['dimension']} dimensions"
            for name, t in anew.items()
        ]
        detail = f"by embedding function {functions}; {'; '.join(told[:8])}" + f"; and {len(told) - 8} more" * (
            len(told) > 8
        )
        detail += (
            f". {made['embedded']:,} texts embedded in {duration(made['seconds'])}, {made['kept']:,} were in the cache"
        )
        about |= {key: made[key] for key in ("anew", "embedded", "kept", "seconds")}
    else:
        rest = f"by embedding function {functions}, of {lost:,} lost; the rest has no text or got no usable vector"
        detail = rest if lost else "no vector is lost"
    measured = len(chunks) + sum(t["made"] for t in (anew or {}).values())
    run.check(
        REEMBEDDED_CHECK, Verdict.WARNING if measured else Verdict.PASS, measured=measured, threshold=0, unit="chunks",
        reason=ReasonCode.REEMBEDDED if measured else "", detail=detail, offenders=measured, ids=chunks[:20],
    )  # fmt: skip
    more = {"lost": lost, "count": measured, "chunks": chunks[:_NAMED], "all": str(folder / "made.json")}
    run.fact(REEMBEDDED, about | more)

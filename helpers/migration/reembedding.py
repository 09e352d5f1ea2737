"""New vectors where the operator orders them by `migration.reembed`: for chunks whose vectors are lost, or for whole collections.

They are made once, from the chunks' documents as the schema writes them, before the target is touched, and kept as Parquet
beside the staging, one file per part of the snapshot. `as_written` gives the snapshot with the new vectors: staging writes it,
and step 23 compares the target with it, vector by vector. A collection that is embedded anew keeps no vector of the source. A
chunk without a text, or for which the function gives no usable vector, stays lost and goes to quarantine.
"""

from __future__ import annotations

import copy
import datetime as dt
import hashlib
import hmac
import json
import shutil
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from helpers import audit
from helpers.chunks import ChunkBatch, Vectors
from helpers.errors import RunbookError, Terminal, UsageError, one_line
from helpers.formatting import count, duration
from helpers.parameters import Parameters, resolve_path
from helpers.parameters.endpoint import Reembed
from helpers.parameters.sections import Migration
from helpers.reason_codes import ReasonCode
from helpers.results import Progress, Verdict, contents, json_in, reading, silent, write_json
from helpers.run.record import RunRecord
from helpers.schema import Context, Schema, load_schema
from helpers.snapshots.export_journal import SnapshotPart, ahead, read_parquet, write_parquet
from helpers.snapshots.snapshot import Snapshot, from_table, to_table
from helpers.stores import CollectionInfo, vector_configs
from helpers.stores.copying import own_database
from helpers.stores.creation import Function, own_function
from helpers.stores.limits import retried, transient_failure

R = TypeVar("R")

REEMBEDDED = "reembedded"  # folder beside the staging
NEW_VECTORS = "2 new vectors"  # name of the phase
_MADE, _CONTEXT = "made.json", "context.json"
WHERE = "migration.reembed"
_ATTEMPTS = 8  # of one call, within half a minute: enough for a service that restarts
NOT_MADE = "no new vector: it has no text, or the embedding function gave none that can be used"


class Reembedded(Snapshot):
    """A snapshot as it is written to the target: with the new vectors, all else unchanged.

    `anew` are the collections that have only new vectors: name → chunks, made, was, dimension, function.
    """

    def __init__(self, snapshot: Snapshot, folder: Path, record: Mapping[str, Any]) -> None:
        super().__init__(snapshot.folder, snapshot.manifest)
        self._folder = folder
        self.anew: dict[str, dict[str, Any]] = record.get("anew", {})
        self._dimensions = {p.file: entry["dimension"] for name, entry in self.anew.items() for p in self.parts(name)}

    def collections(self) -> list[CollectionInfo]:
        return [with_function(i, self.anew[i.name]) if i.name in self.anew else i for i in super().collections()]

    def read(self, part: SnapshotPart) -> ChunkBatch:
        batch = super().read(part)
        if part.file in self._dimensions:
            batch.embeddings = np.full((len(batch), self._dimensions[part.file]), np.nan, np.float32)
            batch.lost = np.ones(len(batch), bool)
        file = self._folder / part.file
        if not batch.lost.any() or not file.is_file():
            return batch
        vectors = from_table(read_parquet(file))
        rows = {chunk: row for row, chunk in enumerate(vectors.ids)}
        places = [i for i in np.flatnonzero(batch.lost) if batch.ids[i] in rows]
        if batch.dimension != vectors.dimension and len(places):  # no vector of the collection could be read
            batch.embeddings = np.full((len(batch), vectors.dimension), np.nan, np.float32)
        batch.embeddings[places] = vectors.embeddings[[rows[batch.ids[i]] for i in places]]
        batch.lost[places] = False
        return batch


class _Rewritten(Snapshot):
    """A snapshot with the documents that the schema writes: no vector is made from a text that a rule removes."""

    def __init__(self, snapshot: Snapshot, schema: Schema, rules: Migration) -> None:
        super().__init__(snapshot.folder, snapshot.manifest)
        self.schema, self._rules = (
            schema,
            Context.of(self.names(), dt.date.min, rules),
        )  # no document depends on the day
        self._home = {part.file: name for name in self.names() for part in self.parts(name)}

    def read(self, part: SnapshotPart) -> ChunkBatch:
        batch = super().read(part)
        return replace(
            batch, documents=self.schema.transform(batch, self._home[part.file], self._rules).batch.documents
        )


def _to_embed(snapshot: Snapshot, rules: Parameters) -> Snapshot:
    new = load_schema(rules.schema_name)
    return _Rewritten(snapshot, new, rules.migration) if new.changes_documents else snapshot


def as_written(snapshot: Snapshot, folder: Path) -> Snapshot:
    """The snapshot with the new vectors in `folder`; unchanged where there are none."""
    record = completed_record(folder, snapshot)
    return snapshot if record is None else Reembedded(snapshot, folder, record)


def made_anew(snapshot: Snapshot) -> Mapping[str, Mapping[str, Any]]:
    """The collections of a snapshot that have only new vectors, see `Reembedded`."""
    return snapshot.anew if isinstance(snapshot, Reembedded) else {}


def with_function(info: CollectionInfo, vectors: Mapping[str, Any]) -> CollectionInfo:
    """The collection with the function and dimension of its new vectors, in every place where Chroma reads the function."""
    function, schema = vectors["function"], copy.deepcopy(info.schema)
    for config in vector_configs(schema):
        config["embedding_function"] = function
    configuration = {**info.configuration, "embedding_function": function}
    info = replace(info, dimension=vectors["dimension"] or None, configuration=configuration)
    return replace(info, schema=schema, embedding_function=function["name"])


def reembed(
    snapshot: Snapshot, parameters: Parameters, folder: Path, progress: Progress = silent, calls: Calls | None = None
) -> None:
    """Make the vectors that are ordered and still missing. `progress` advances by the texts of ordered collections.

    Keeps what an interrupted attempt on the same snapshot, with the same function, has made. Raises `Terminal` where the
    function is not available for a collection that needs it ("embedding_function_unavailable"), fails
    ("reembed_failed") or gives another dimension than required ("reembed_dimension").
    """
    order = parameters.migration.embedding
    if order is None:
        shutil.rmtree(folder, ignore_errors=True)
        return
    context: dict[str, Any] = {"snapshot": snapshot.digest, "function": order.function, "config": order.config}
    if order.collections:
        context |= {"collections": order.collections, "dimension": order.dimension}
    if isinstance(snapshot := _to_embed(snapshot, parameters), _Rewritten):
        context["documents"] = snapshot.schema.digest
    if _read(folder / _CONTEXT) != context:
        shutil.rmtree(folder, ignore_errors=True)
        write_json(folder / _CONTEXT, context)
    if completed_record(folder, snapshot) is not None:
        return
    chunks: list[dict[str, str]] = []
    functions: dict[str, str] = {}
    calls, size = calls or Calls(order), order.dimension
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
        size = size if whole else info.dimension
        embedded = 0
        for part in parts:
            new = _part(snapshot, info, part, function, size, folder, (calls, progress) if whole else None)
            size, embedded = new.dimension or size, embedded + len(new)
            chunks += [] if whole else [{"collection": info.name, "id": chunk} for chunk in new.ids]
        if whole:
            anew[info.name] = {"chunks": sum(part.rows for part in parts), "made": embedded, "was": info.dimension,
                               "dimension": size or 0, "function": stored}  # fmt: skip
    record = calls.counted() | {"anew": anew} if anew else {}
    write_json(folder / _MADE, {**context, "functions": functions, "chunks": chunks, **record})


def _part(
    snapshot: Snapshot, info: CollectionInfo, part: SnapshotPart, function: Function, size: int | None, folder: Path,
    whole: tuple[Calls, Progress] | None,
) -> ChunkBatch:  # fmt: skip
    """The new vectors of one part, of all its chunks (`whole`) or of those that lost theirs; read from the file that an earlier
    attempt wrote, where there is one."""
    file = folder / part.file
    batch = None if file.is_file() else snapshot.read(part)
    if batch is None:
        new = from_table(read_parquet(file))
        if whole is not None:
            whole[1].advance(_embeddable(snapshot.read(part), whole=True)[0].size)
        return new
    rows, texts = _embeddable(batch, whole=whole is not None)
    where = f"collection {info.name}"
    if whole is None:
        batches = []
        for start in range(0, len(texts), _DOCUMENTS):
            batches.append(vectors_of(function, texts[start : start + _DOCUMENTS], size, where, whole=False))
            size = batches[-1].shape[1]
        vectors = np.concatenate(batches) if batches else _none(size)
    else:
        vectors = whole[0].vectors(function, texts, size, where, whole[1])
    usable = np.flatnonzero(np.isfinite(vectors).all(axis=1) & vectors.any(axis=1))
    new = ChunkBatch([batch.ids[rows[i]] for i in usable], [None] * len(usable), vectors[usable], [None] * len(usable))
    write_parquet(file, to_table(new))
    return new


def _embeddable(batch: ChunkBatch, *, whole: bool) -> tuple[npt.NDArray[np.int64], list[str]]:
    """The rows that have a text, among all (`whole`) or those that lost their vector, and these texts."""
    rows = [int(i) for i in np.flatnonzero(batch.lost | whole) if (batch.documents[i] or "").strip()]
    return np.array(rows, np.int64), [str(batch.documents[i]) for i in rows]


_DOCUMENTS = 64  # per call of the function, for lost vectors


def completed_record(folder: Path, snapshot: Snapshot) -> dict[str, Any] | None:
    """The record of the new vectors of this snapshot; None until all are made."""
    record = _read(folder / _MADE)
    return record if record is not None and record["snapshot"] == snapshot.digest else None


def _read(file: Path) -> dict[str, Any] | None:
    if not file.is_file():
        return None
    with reading(file, "Remove this file: the vectors are made again."):
        return dict(json_in(contents(file)))


# -- cache and calls ----------------------------------------------------------------------------------------------------


def digest_of(text: str) -> bytes:
    """The key of a text in the cache."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


class VectorCache:
    """Vectors by digest of their text, in an SQLite file per function and configuration, shared by all runs of this workspace.

    The vectors of one call are one transaction, so a kill leaves only whole calls. Texts are not kept. A vector is used only with
    a proof made by this workspace's key, since others who can write there may have exchanged the file.
    """

    def __init__(self, folder: Path, function: str, config: Mapping[str, Any]) -> None:
        self._key = hashlib.sha256(json.dumps([function, dict(config)], sort_keys=True).encode()).hexdigest()
        self.file, self._secret = folder / f"{self._key[:32]}.sqlite3", audit.secret()

    def cached(self, names: Iterable[bytes]) -> dict[bytes, npt.NDArray[np.float32]]:
        """The cached vectors of these texts, by digest."""
        return self._ask(lambda db: self._read(db, names))

    def keep(self, vectors: Mapping[bytes, Vectors]) -> None:
        """Keep the vectors of these texts, except those that are not finite."""
        rows = [(n, v.tobytes(), self._proof(n, v.tobytes())) for n, v in vectors.items() if np.isfinite(v).all()]
        self._ask(lambda db: db.executemany("insert or replace into vectors values (?, ?, ?)", rows))

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
            with closing(own_database(self.file, "vectors (text blob primary key, vector blob, proof blob)")) as db, db:
                return ask(db)
        except (sqlite3.Error, OSError) as error:
            problem = f"the cache of new vectors cannot be used: {one_line(str(error), 120)}"
            next_step = "Make room, or remove this file (its vectors are made again), then resume."
            raise Terminal(ReasonCode.REEMBED_FAILED, problem, where=str(self.file), next_step=next_step) from error


class Calls:
    """Calls of the function for texts that are not in the cache: `parallel` at once, `requests_per_minute` at most.

    The batches are cut before the first call, and each vector belongs to its text: the number of parallel calls changes nothing.
    """

    def __init__(self, order: Reembed) -> None:
        self.order, self.cache = order, VectorCache(resolve_path(order.cache), order.function, order.config)
        self.texts = self.embedded = self.requests = 0  # texts requested, those of them embedded, calls
        self.seconds = 0.0
        self._apart = 60.0 / order.requests_per_minute if order.requests_per_minute else 0.0
        self._next, self._guard = 0.0, threading.Lock()
        self._failure: Exception | None = None  # of one call: no further one begins

    def vectors(
        self, function: Function, texts: Sequence[str], size: int | None, where: str, progress: Progress = silent
    ) -> Vectors:
        """(n, d) float32 of the texts, d being `size` where given; each text is embedded once, even if others fail."""
        names = [digest_of(text) for text in texts]
        fresh = dict(zip(names, texts, strict=True))
        cached = self.cache.cached(fresh)
        fresh = {name: text for name, text in fresh.items() if name not in cached}
        times = Counter(names)
        progress.advance(sum(times[name] for name in cached))
        waiting = list(fresh)
        begun, step = time.monotonic(), self.order.batch
        batches = [waiting[at : at + step] for at in range(0, len(waiting), step)]

        def make(batch: list[bytes]) -> dict[bytes, Vectors]:
            try:
                vectors = vectors_of(
                    self._paced(function, where), [fresh[name] for name in batch], size, where, whole=True
                )
            except Exception as error:
                self._failure = self._failure or error
                raise
            new = dict(zip(batch, vectors, strict=True))
            self.cache.keep(new)
            return new

        try:
            for new in ahead(make, batches, self.order.parallel):
                cached |= new
                self.embedded += len(new)
                self.requests += 1
                progress.advance(sum(times[name] for name in new))
        finally:
            self.seconds += time.monotonic() - begun if batches else 0.0
        self.texts += len(texts)
        vectors = [cached[name] for name in names]
        return _checked(function.name, vectors, len(texts), size, where, whole=True) if vectors else _none(size)

    def _paced(self, function: Function, where: str) -> Function:
        """The function, called at the allowed rate, and again where its service is briefly away or busy (`limits.passing`)."""

        def once(texts: Sequence[str]) -> Sequence[Any]:
            with self._guard:
                at = max(time.monotonic(), self._next)
                self._next = at + self._apart
            time.sleep(max(0.0, at - time.monotonic()))
            if self._failure is not None:
                raise self._failure
            try:
                return function.call(texts)
            except Exception as error:
                if (short := transient_failure(error, function.name, WHERE)) is not None:
                    raise short from error
                if isinstance(error, RunbookError):
                    raise
                raise _failed(function.name, error, where) from error

        def hold(seconds: float) -> None:
            with self._guard:
                self._next = max(self._next, time.monotonic() + seconds)

        return replace(function, call=lambda texts: retried(lambda: once(texts), WHERE, hold, _ATTEMPTS))

    def counted(self) -> dict[str, Any]:
        """What was done, for `made.json`."""
        done = {"embedded": self.embedded, "kept": self.texts - self.embedded, "requests": self.requests}
        return done | {"seconds": round(self.seconds, 3)}


def _none(size: int | None) -> Vectors:
    return np.zeros((0, size or 0), np.float32)


def _failed(name: str, error: Exception, where: str) -> Terminal:
    """The error for what a foreign model, or its service, raised."""
    return Terminal(
        ReasonCode.REEMBED_FAILED, f"embedding function {name} failed: {one_line(str(error), 200)}", where=where,
        next_step="Nothing was written. Make it work here, then resume; or start without migration.reembed.",
    )  # fmt: skip


def vectors_of(function: Function, texts: Sequence[str], size: int | None, where: str, *, whole: bool) -> Vectors:
    """(n, d) float32 of the texts, d being `size` where given. Raises `Terminal` as `reembed`."""
    try:
        vectors = [np.asarray(vector, np.float32) for vector in function.call(texts)]
    except RunbookError:
        raise
    except Exception as error:
        raise _failed(function.name, error, where) from error
    return _checked(function.name, vectors, len(texts), size, where, whole=whole)


def _checked(
    name: str, vectors: Sequence[Vectors], texts: int, size: int | None, where: str, *, whole: bool
) -> Vectors:  # fmt: skip
    """The vectors as one array. Raises `Terminal` unless there is one per text, all of that size."""
    sizes = sorted({vector.shape[0] if vector.ndim == 1 else -1 for vector in vectors})
    if len(vectors) != texts or len(sizes) != 1 or sizes[0] < 1:
        raise Terminal(
            ReasonCode.REEMBED_FAILED, f"embedding function {name} gave {len(vectors)} vectors of {sizes} to {texts} texts",
            where=where, next_step="Nothing was written. Start again with another function, or without migration.reembed.",
        )  # fmt: skip
    if size is not None and sizes[0] != size:
        expected = f"{size} are due (migration.reembed.dimension, or its first vectors)"
        expected = expected if whole else f"the collection has {size}"
        model = "Name the model that is meant" if whole else "Name the function that made its vectors"
        raise Terminal(
            ReasonCode.REEMBED_DIMENSION, f"embedding function {name} makes {sizes[0]} dimensions, {expected}",
            where=where, next_step=f"Nothing was written. {model}, or leave migration.reembed out.",
        )  # fmt: skip
    return np.stack(vectors)


# -- costs -------------------------------------------------------------------------------------------------------------

TEXTS, MONEY = "texts to embed", "cost of new vectors"  # checks
COST = "cost_of_new_vectors"  # the fact
_BYTES_OF_A_TOKEN = 4  # of UTF-8: about right for English, and for scripts with more bytes per character


@dataclass(slots=True)
class Cost:
    """What the ordered vectors that are not in the cache cost; `rows` by collection, as the step shows them."""

    rows: list[dict[str, Any]] = field(default_factory=list)  # columns: collection and those of `fact`
    requests: int = 0
    price: float | None = None  # per million tokens
    rate: float | None = None  # texts per second, as measured; None: nothing is to be embedded
    measured: int = 0  # texts that the rate was measured on
    seconds: float = 0.0

    def total(self, column: str) -> int:
        return sum(int(row[column]) for row in self.rows)

    @property
    def money(self) -> float | None:
        return None if self.price is None else self.total("tokens") * self.price / 1e6

    @property
    def summary(self) -> str:
        """One sentence, with the basis of each figure."""
        text = f"{self.total('characters'):,} characters, about {self.total('tokens'):,} tokens"
        text += f", in {count(self.requests, 'request')}"
        if self.rate is not None:
            text += f"; about {duration(self.seconds)}, at {self.rate:,.1f} texts/s measured on {self.measured:,}"
        if self.money is not None:
            text += f"; about {self.money:,.2f} at {self.price:g} per million tokens"
        return f"{text}; {self.total('in_cache'):,} texts are in the cache or occur twice"

    def fact(self) -> dict[str, Any]:
        """The fact `COST`, as JSON."""
        keys = ("chunks", "texts", "in_cache", "to_embed", "characters", "tokens")
        fact = {key: self.total(key) for key in keys} | {"rows": self.rows, "cost": self.money}
        return fact | {k: getattr(self, k) for k in ("requests", "price", "rate", "measured", "seconds")}


def cost_of(snapshot: Snapshot, order: Reembed, folder: Path) -> tuple[Cost, list[str]]:
    """The cost of the order without what is in the cache and in `folder` from an earlier attempt, and the first texts to embed.

    Each text counts once. A token is counted as four bytes of UTF-8.
    """
    cost, cache, seen = Cost(price=order.cost_per_million_tokens), Calls(order).cache, set[bytes]()
    first: list[str] = []
    for info in snapshot.collections():
        if not order.selects(info.name):
            continue
        row: dict[str, Any] = dict.fromkeys(("chunks", "texts", "in_cache", "to_embed", "characters", "tokens"), 0)
        for part in snapshot.parts(info.name):
            _, texts = _embeddable(snapshot.read(part), whole=True)
            by_digest = {digest_of(text): text for text in texts if not (folder / part.file).is_file()}
            fresh = by_digest.keys() - seen - cache.cached(by_digest).keys()
            seen |= fresh
            new = [text for name, text in by_digest.items() if name in fresh]
            first += new[: max(0, 2 * order.batch - len(first))]
            row["chunks"] += part.rows
            row["texts"] += len(texts)
            row["in_cache"] += len(texts) - len(new)
            row["to_embed"] += len(new)
            row["characters"] += sum(map(len, new))
            row["tokens"] += sum(-(-len(text.encode("utf-8", "replace")) // _BYTES_OF_A_TOKEN) for text in new)
            cost.requests += -(-len(new) // order.batch)
        cost.rows.append({"collection": info.name, **row})
    return cost, first


def measure(cost: Cost, first: Sequence[str], calls: Calls) -> None:
    """Embed the first texts, which stay in the cache, and extrapolate from the time taken. Of two batches the second counts:
    the first may include loading a model."""
    order = calls.order
    function = own_function(order.function, order.config, {}, WHERE)
    took: list[float] = []

    def timed(texts: Sequence[str]) -> Sequence[Any]:
        begun = time.monotonic()
        vectors = function.call(texts)
        took.append(time.monotonic() - begun)
        return vectors

    for start in range(0, len(first), order.batch):
        some = first[start : start + order.batch]
        calls.vectors(replace(function, call=timed), some, order.dimension, WHERE)
        cost.rate, cost.measured = len(some) / max(took[-1], 1e-6), len(some)
    calls.texts = 0  # they are requested again
    if cost.rate is not None:
        cost.rate *= min(order.parallel, max(1, cost.requests))
        most = order.requests_per_minute
        cost.seconds = max(cost.total("to_embed") / cost.rate, 60.0 * (cost.requests - 1) / most if most else 0.0)


def make(run: RunRecord, snapshot: Snapshot, folder: Path) -> None:
    """Make the ordered vectors, as a phase of this step; their cost is on its record before they are made."""
    order, parameters = run.parameters.migration.embedding, run.parameters
    if order is None or not order.collections or completed_record(folder, snapshot) is not None:
        reembed(snapshot, parameters, folder)
        return
    cost, first = cost_of(_to_embed(snapshot, parameters), order, folder)
    run.forget(TEXTS, MONEY)  # a cell may run twice
    most, money = order.maximum_cost, cost.money
    if most is not None and money is not None:
        judged = run.judge(
            MONEY, measured=round(money, 2), threshold=most, relation="≤", reason=ReasonCode.REEMBED_COST, detail=cost.summary,
            parameter="migration.reembed.maximum_cost",
        )  # fmt: skip
        if judged.verdict is Verdict.FAIL:
            raise Terminal(
                ReasonCode.REEMBED_COST, f"new vectors would cost about {money:,.2f}, allowed are {most:,.2f}",
                where="migration.reembed.maximum_cost",
                next_step="Nothing was embedded. Raise it, or leave collections out of migration.reembed.",
            )  # fmt: skip
    with run.phase(NEW_VECTORS, cost.total("chunks")):
        measure(cost, first, calls := Calls(order))
        run.judge(TEXTS, measured=cost.total("to_embed"), relation="≥", threshold=0, unit="texts", detail=cost.summary)
        run.fact(COST, cost.fact())
        run.log(f"{TEXTS}: {cost.total('to_embed'):,}; {cost.summary}")
        with run.progress("Make new vectors", cost.total("texts"), "texts") as bar:
            reembed(snapshot, parameters, folder, bar, calls)


# -- checks ------------------------------------------------------------------------------------------------------------


def refuse_order(order: Reembed, names: Sequence[str]) -> int | None:
    """Ask the function that embeds whole collections for one vector: its dimension, None where no collection is ordered.

    Raises `UsageError` for a pattern that matches none of these source collections, and as `reembed`.
    """
    if not order.collections:
        return None
    for pattern in order.collections:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UsageError(
                ReasonCode.USAGE, f"{one_line(pattern, 60)!r} fits no collection that is migrated",
                where="migration.reembed.collections", next_step=f"There are {', '.join(one_line(n, 60) for n in names[:8])}.",
            )  # fmt: skip
    function = own_function(order.function, order.config, {}, WHERE)
    return int(vectors_of(function, ["dimension"], order.dimension, WHERE, whole=True).shape[1])


REEMBEDDED_CHECK, _NAMED = "vectors recreated", 1_000  # chunks listed in the results; made.json lists all


def judge_reembedded(run: RunRecord, snapshot: Snapshot, folder: Path) -> None:
    """Check new vectors: a warning with count, function and ids of lost ones; nothing where no vectors were ordered."""
    if (record := completed_record(folder, snapshot)) is None:
        return
    run.forget(REEMBEDDED_CHECK)  # a cell may run twice
    chunks, lost = record["chunks"], sum(part.lost for name in snapshot.names() for part in snapshot.parts(name))
    functions = ", ".join(sorted(set(record["functions"].values()))) or record["function"]
    about: dict[str, Any] = {key: record[key] for key in ("function", "config", "functions")}
    if anew := record.get("anew"):
        lines = [
            f"{one_line(name, 60)}: {t['made']:,} of {t['chunks']:,} chunks, {t['was'] or 0} to {t['dimension']} dimensions"
            for name, t in anew.items()
        ]
        omitted = f"; and {len(lines) - 8} more" * (len(lines) > 8)
        effort = f"{record['embedded']:,} texts embedded in {duration(record['seconds'])}, {record['kept']:,} were in the cache"
        detail = f"by embedding function {functions}; {'; '.join(lines[:8])}{omitted}. {effort}"
        about |= {key: record[key] for key in ("anew", "embedded", "kept", "seconds")}
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

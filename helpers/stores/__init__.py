"""Stores of chunks, and what every one offers: an embedded directory, a server, an old layout.

`open_source` and `open_target` give a store for an endpoint; `quick_names` lists collections without a write. The functions that
open a store import Chroma's client, which takes seconds: so they are imported on first use.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import wraps
from importlib import import_module
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, TypeVar, cast, get_args

import numpy as np
import numpy.typing as npt

from helpers.chunks import ChunkBatch
from helpers.errors import Terminal, Transient
from helpers.reason_codes import ReasonCode
from helpers.stores.limits import Limits, Usage

if TYPE_CHECKING:
    from helpers.stores.opening import open_embedded as open_embedded
    from helpers.stores.opening import open_source as open_source
    from helpers.stores.opening import open_target as open_target
    from helpers.stores.opening import quick_holder as quick_holder
    from helpers.stores.opening import quick_names as quick_names

_OPENING = ("open_embedded", "open_source", "open_target", "quick_holder", "quick_names")


def __getattr__(name: str) -> Any:
    if name in _OPENING:
        return getattr(import_module("helpers.stores.opening"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


Space = Literal["l2", "cosine", "ip"]
SPACES: tuple[Space, ...] = get_args(Space)
_TRAP = "A copy of its configuration would search by the wrong distance; a migration here takes the true one."

HNSW_METADATA = {
    "hnsw:construction_ef": "ef_construction",
    "hnsw:search_ef": "ef_search",
    "hnsw:M": "max_neighbors",
    "hnsw:num_threads": "num_threads",
    "hnsw:batch_size": "batch_size",
    "hnsw:sync_threshold": "sync_threshold",
    "hnsw:resize_factor": "resize_factor",
}
# No real index has a larger setting. The links that a source asks for could fill the target's memory (400,000: 4 GB for 1,200
# chunks of 4 numbers); examined neighbours cost time, and chunks that wait for the index are held in memory.
MOST_OF_A_SETTING = {"max_neighbors": 2048, "ef_construction": 10_000, "ef_search": 100_000, "num_threads": 1024,
                     "batch_size": 10**6, "sync_threshold": 10**8, "resize_factor": 100}  # fmt: skip
VECTORS = "#embedding"  # the key under which a schema keeps the index of the embeddings
RETRY_AFTER = (0.2, 0.4, 0.8)  # seconds; between another client's delete and add a chunk is absent (chroma-facts 19)
MOST_DIMENSION = 10**6  # numbers of a vector; a larger matrix, as a source may claim, would fill the memory
_ABOUT_THE_DATA = {ReasonCode.REFUSED, ReasonCode.QUOTA_EXCEEDED}  # all other errors concern the whole target
LOCK_COLLECTION = "runbook-lock"  # the marker collection that locks a target against a second run

Hit = TypeVar("Hit", bound=tuple[Any, ...])
Neighbours = list[list[tuple[str, float]]]  # per query vector: (id, distance), best first


def distance(space: Space, a: npt.ArrayLike, b: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return the distances of the rows of `a` (n, d) to the rows of `b` (n, d) or to one vector (d,), in float64.

    Cosine with a zero vector is 1: it has no direction, and Chroma's own answer (NaN or 0) is no measurement.

    l2 is the squared Euclidean distance, cosine is 1 - cos(a, b), ip is 1 - a·b (hnswlib's definitions).
    """
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if space == "l2":
        return cast("npt.NDArray[np.float64]", np.square(x - y).sum(axis=-1))
    dot = (x * y).sum(axis=-1)
    if space == "ip":
        return cast("npt.NDArray[np.float64]", 1.0 - dot)
    norms = np.sqrt(np.square(x).sum(axis=-1)) * np.sqrt(np.square(y).sum(axis=-1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(norms > 0, 1.0 - dot / norms, 1.0)


def consistent_spaces(
    query: npt.NDArray[np.float32], vectors: npt.NDArray[np.float32], answered: Sequence[float]
) -> list[Space]:
    """Return the spaces in which the distances that a store answered are those of `query` (d,) to `vectors` (n, d).

    float32 sums of d terms are exact to about 1e-5; a tolerance of 1e-3 is above that and below the error of a wrong space.
    """
    given = np.asarray(answered, np.float64)
    return [s for s in SPACES if np.allclose(distance(s, vectors, query), given, rtol=1e-3, atol=1e-4)]


def absent(store: Store, name: str, batch: ChunkBatch) -> ChunkBatch:
    """Return the chunks of the batch that the collection does not have."""
    present = set(store.read(name, batch.ids, embeddings=False).ids)
    return batch.take([i for i, chunk in enumerate(batch.ids) if chunk not in present])


def add_singly(store: Store, name: str, batch: ChunkBatch, refuse: Callable[[ChunkBatch, Terminal], None]) -> int:
    """Add a batch. Halve it where the target refuses it, and give each single refused chunk to `refuse`; return their number."""
    if not len(batch):
        return 0
    try:
        store.add(name, batch)
        return 0
    except Terminal as error:
        if error.code not in _ABOUT_THE_DATA:
            raise
        if len(batch) == 1:
            refuse(batch, error)
            return 1
    middle = len(batch) // 2
    left, right = batch.slice(0, middle), batch.slice(middle, len(batch))
    # A part of the batch may have been written before the refusal (byte-capped requests).
    return sum(add_singly(store, name, absent(store, name, half), refuse) for half in (left, right))


def is_marker(store: Reader, name: str, metadata: Mapping[str, Any] | None) -> bool:
    """Return whether a collection is the lock's marker: with its metadata, and empty, since chunks are always data."""
    return name == LOCK_COLLECTION and "run_id" in (metadata or {}) and store.count(name) == 0


def declared(configuration: Mapping[str, Any]) -> Space | None:
    """Return the space that a configuration names, or None."""
    for index in ("hnsw", "spann"):
        part = configuration.get(index)
        if isinstance(part, Mapping) and part.get("space") in SPACES:
            return cast(Space, part["space"])
    return None


def from_metadata(metadata: Mapping[str, Any] | None) -> Space | None:
    """Return the space of `hnsw:space` in a collection's metadata (0.x, and some newer clients), or None."""
    value = (metadata or {}).get("hnsw:space")
    return cast(Space, value) if value in SPACES else None


def excessive(name: str, value: Any) -> bool:
    """Return whether this setting of an HNSW index, under its current name, is a number that no real index has."""
    return isinstance(value, int | float) and name in MOST_OF_A_SETTING and not value <= MOST_OF_A_SETTING[name]


def legacy_parameters(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the index parameters that 0.x kept as `hnsw:*` metadata, under their current names.

    Values that current servers refuse or crash on (M of 0 or below 2, text) are left out (chroma-facts, 1.5.9 writing), as are
    `excessive` ones.
    """
    parameters: dict[str, Any] = {}
    for key, name in HNSW_METADATA.items():
        value = (metadata or {}).get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or excessive(name, value):
            continue
        if name == "resize_factor":
            parameters[name] = float(value)
        elif value >= (4 if name == "max_neighbors" else 1):
            parameters[name] = int(value)
    return parameters


def resolve(candidates: Sequence[Space | None], proven: Sequence[Space] | None) -> tuple[Space, str]:
    """Return the effective space and a finding ("" where all agree).

    `candidates`: the declared spaces, the most reliable first. `proven`: the spaces consistent with a probe; None where no probe
    was possible (no vectors). Several proven spaces cannot be distinguished by these vectors.
    """
    named = [c for c in candidates if c]
    usual: Space = named[0] if named else "l2"
    if proven is None:
        return usual, "" if len(set(named)) < 2 else f"sources of truth disagree on the space: {', '.join(named)}"
    if not proven:
        return usual, f"the probe's distances fit no known space; taken as {usual}"
    effective = next((c for c in named if c in proven), proven[0])
    others = sorted({c for c in named if c != effective})
    if not others:
        return effective, ""
    return effective, Finding(f"declared as {', '.join(others)}, but queries answer {effective}", meaning=_TRAP)


@dataclass(frozen=True, slots=True)
class CollectionInfo:
    """A collection as measured.

    `space`: the effective distance space, proven by a probe query where one was possible. `declared_space`: that of the
    configuration, which may be wrong (chroma-facts 2). `configuration`: Chroma's configuration as JSON. `schema`: the server's
    own schema as JSON, if it has one. `findings`: sentences for the DBA.
    """

    name: str
    count: int
    dimension: int | None
    space: Space
    declared_space: Space
    metadata: dict[str, Any] | None = None
    configuration: dict[str, Any] = field(default_factory=dict)
    schema: dict[str, Any] | None = None
    embedding_function: str | None = None
    findings: tuple[str, ...] = ()


def vector_configs(schema: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Return the parts of a schema that hold the settings of its vectors' index; changing them changes the schema."""
    places = ((schema or {}).get("defaults"), (schema or {}).get("keys", {}).get(VECTORS))
    return [config for config in map(vector_config, places) if config]


def vector_config(types: Any) -> dict[str, Any]:
    return cast(dict[str, Any], ((types or {}).get("float_list") or {}).get("vector_index", {}).get("config") or {})


def excessive_settings(info: CollectionInfo) -> dict[str, Any]:
    """Return the `excessive` settings of its HNSW index, by name: whoever wrote the source chose them."""
    legacy = {name: (info.metadata or {}).get(key) for key, name in HNSW_METADATA.items()}
    places = [*(config.get("hnsw") for config in _with_hnsw(info)), legacy]
    return {name: value for place in places for name, value in (place or {}).items() if excessive(name, value)}


def _with_hnsw(info: CollectionInfo) -> list[dict[str, Any]]:
    return [info.configuration, *vector_configs(info.schema)]


def moderate(info: CollectionInfo) -> CollectionInfo:
    """Return the collection without its `excessive` settings: a target takes its defaults."""
    if not (names := excessive_settings(info).keys()):
        return info
    reduced = copy.deepcopy(info)
    for config in _with_hnsw(reduced):
        config["hnsw"] = {
            name: value for name, value in (config.get("hnsw") or {}).items() if name not in names
        } or None
    metadata = {key: value for key, value in (reduced.metadata or {}).items() if HNSW_METADATA.get(key) not in names}
    return dataclasses.replace(reduced, metadata=metadata or None)


Read = TypeVar("Read", bound=Callable[..., Any])


def fitting(read: Read) -> Read:
    """Decorate a method that parses a server's answer: an answer of another shape raises `Transient` ("not_json")."""

    @wraps(read)
    def guarded(store: Closing, *arguments: Any, **keywords: Any) -> Any:
        try:
            return read(store, *arguments, **keywords)
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            problem = f"an answer that does not fit the request ({type(error).__name__}: {error})"
            raise Transient(
                ReasonCode.NOT_JSON, problem, where=store.label, next_step="Check what answers there."
            ) from error

    return cast(Read, guarded)


def checked_dimension(value: Any, where: str) -> int | None:
    """Return the dimension that a source gives for a collection, or None. Raises `Terminal` for a value that is no dimension."""
    if value is None or (isinstance(value, int) and 0 <= value <= MOST_DIMENSION):
        return value
    raise Terminal(
        ReasonCode.NOT_JSON, f"its vectors are said to have {str(value)[:40]} dimensions", where=where,
        next_step=f"Between 1 and {MOST_DIMENSION:,} are read. Find out who wrote that.",
    )  # fmt: skip


def texts(given: Any, *, optional: bool = False) -> list[Any]:
    """Return a list of texts, or of texts and None. Raises TypeError for anything else: a number would change an id."""
    if not isinstance(given, list) or not all(isinstance(t, str) or (optional and t is None) for t in given):
        raise TypeError("a list of texts is something else")
    return given


class Closing:
    """A context manager that closes itself; `label`: its address for messages."""

    label: str

    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Reader(Protocol):
    """What a source offers. No method writes.

    The store keeps its own limits: `ids` and `read` split their requests, `query` gives at most `limits().query_results` hits
    for each vector. Callers that depend on k ask for the limits first; they may be narrower afterwards.
    """

    label: str
    version: str
    protocol: str  # how it is read, for people: "API v1", "API v2", "in this process"
    usage: Usage

    @property
    def limit_changes(self) -> tuple[str, ...]: ...  # a sentence for each limit that a refusal changed

    def limits(self) -> Limits: ...
    def collections(self) -> list[CollectionInfo]: ...
    def names(self) -> list[str]: ...
    def info(self, name: str) -> CollectionInfo: ...
    def count(self, name: str) -> int: ...
    def identity(self, name: str) -> str: ...  # "" where nobody can make the collection anew
    def ids(self, name: str) -> list[str]: ...
    def some_ids(self, name: str, most: int) -> list[str]: ...
    def read(self, name: str, ids: Sequence[str], *, embeddings: bool = True) -> ChunkBatch: ...
    def query(self, name: str, vectors: npt.ArrayLike, k: int) -> Neighbours: ...
    def query_texts(self, name: str, texts: Sequence[str], k: int) -> list[list[tuple[str, float, str | None]]]: ...
    def why_no_text_queries(self, name: str) -> str: ...
    def unindexed(self, name: str) -> int: ...
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def switches(schema: Mapping[str, Any]) -> dict[tuple[str, str, str], bool]:
    """Return (key, or "" for the defaults; type of value; index) → whether it is on."""
    parts = {"": schema.get("defaults") or {}, **(schema.get("keys") or {})}
    return {
        (key, kind, index): bool(state.get("enabled"))
        for key, types in parts.items()
        for kind, indexes in types.items()
        for index, state in indexes.items()
    }


def chosen(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema without its defaults: a server lists each metadata key that it receives, with the defaults of its type.

    Two results are equal where the choices are: index switches, their settings, and the functions that a client builds.
    """
    defaults = schema.get("defaults") or {}
    keys: dict[str, Any] = {}
    for key, types in (schema.get("keys") or {}).items():
        for kind, indexes in types.items():
            changed = {
                index: state for index, state in indexes.items() if state != (defaults.get(kind) or {}).get(index)
            }
            if changed:
                keys.setdefault(key, {})[kind] = changed
    return {**schema, "keys": keys}


def same_choices(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether two schemas make the same choices: fields, functions, source keys, and all settings that both have.

    Servers of other versions have further settings. The settings of the configuration are compared there.
    """
    fields, chromas = zip(*map(_sides, (one, other)), strict=True)
    return bool(fields[0] == fields[1]) and _agree(*chromas)


def _sides(schema: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the choices for metadata fields, and the rest of the schema with Chroma's own `#document` and `#embedding`."""
    fields = {key: types for key, types in chosen(schema)["keys"].items() if not key.startswith("#")}
    chroma_keys = {key: types for key, types in (schema.get("keys") or {}).items() if key.startswith("#")}
    return fields, {**schema, "keys": chroma_keys}


def _agree(one: Any, other: Any) -> bool:
    if not isinstance(one, Mapping) or not isinstance(other, Mapping):
        return bool(one == other)
    recorded = {"embedding_function", "source_key"}
    if any(one.get(name) != other.get(name) for name in recorded):
        return False
    configured = {"space", "hnsw", "spann"}  # a schema may declare another space than searches have
    return all(_agree(one[name], other[name]) for name in one.keys() & other.keys() - recorded - configured)


def is_usual(schema: Mapping[str, Any]) -> bool:
    """Return whether a schema has no field of its own and only default switches: the configuration then holds all choices."""
    from helpers.stores.door import Schema

    return switches(schema) == switches(Schema().serialize_to_json())


def shard_of(chunk: str, of: int) -> int:
    """Return the shard, 0 to `of` - 1, of a chunk's id: the first eight bytes of its SHA-256 (UTF-8), big-endian, modulo `of`."""
    return int.from_bytes(hashlib.sha256(chunk.encode("utf-8", "surrogatepass")).digest()[:8], "big") % of


class Shard(Closing):
    """The part of a source's chunks that belongs to one of several targets; all else is as in the source.

    `text`: the shard's number and the number of shards: 1/4 to 4/4. Chunks of other shards are neither listed, counted, read nor
    found. Closing it leaves the source open.
    """

    def __init__(self, source: Reader, text: str) -> None:
        number, of = map(int, text.split("/"))
        self._source, self._shard, self._of = source, number - 1, of
        self.label = f"{source.label} (shard {text})"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def close(self) -> None:
        """Do nothing: whoever opened the source closes it."""

    def _holds(self, chunk: str) -> bool:
        return shard_of(chunk, self._of) == self._shard

    def ids(self, name: str) -> list[str]:
        return [chunk for chunk in listed_ids(self._source, name) if self._holds(chunk)]

    def some_ids(self, name: str, most: int) -> list[str]:
        return [chunk for chunk in self._source.some_ids(name, most * self._of) if self._holds(chunk)][:most]

    def count(self, name: str) -> int:
        return len(self.ids(name))

    def info(self, name: str) -> CollectionInfo:
        return dataclasses.replace(self._source.info(name), count=self.count(name))

    def collections(self) -> list[CollectionInfo]:
        return [dataclasses.replace(info, count=self.count(info.name)) for info in self._source.collections()]

    def read(self, name: str, ids: Sequence[str], *, embeddings: bool = True) -> ChunkBatch:
        return self._source.read(name, [chunk for chunk in ids if self._holds(chunk)], embeddings=embeddings)

    def query(self, name: str, vectors: npt.ArrayLike, k: int) -> Neighbours:
        return self._own(name, k, lambda most: self._source.query(name, vectors, most))

    def query_texts(self, name: str, texts: Sequence[str], k: int) -> list[list[tuple[str, float, str | None]]]:
        return self._own(name, k, lambda most: self._source.query_texts(name, texts, most))

    def _own(self, name: str, k: int, ask: Callable[[int], list[list[Hit]]]) -> list[list[Hit]]:
        """Return the k nearest of this shard: ask for more of all until each answer has k of the shard, or all are asked for."""
        total, most = min(self._source.count(name), self.limits().query_results), 2 * k * self._of
        while True:
            hits = [[hit for hit in answer if self._holds(hit[0])][:k] for answer in ask(min(most, total))]
            if most >= total or all(len(answer) >= k for answer in hits):
                return hits
            most *= 4


def sharded(source: Reader, shard: str | None) -> Reader:
    """Return the source, or the part of it that `collections.shard` names."""
    return source if shard is None else cast(Reader, Shard(source, shard))


class Store(Reader, Protocol):
    """What a target offers in addition: creating, adding, deleting."""

    def identities(self) -> dict[str, str]: ...
    def create(self, info: CollectionInfo) -> None: ...
    def as_created(self, info: CollectionInfo) -> bool: ...
    def add(self, name: str, batch: ChunkBatch) -> None: ...
    def delete(self, name: str, ids: Sequence[str]) -> None: ...
    def drop(self, name: str) -> None: ...
    def query_filtered(
        self, name: str, vectors: npt.ArrayLike, k: int, where: Mapping[str, str | int | float | bool]
    ) -> Neighbours: ...
    def acquire_lock(self, run_id: str) -> None: ...
    def release_lock(self, run_id: str) -> None: ...
    def lock_holder(self) -> dict[str, Any] | None: ...


WHAT_ANSWERS = "Check what is in front of the server, and that it is the one that you mean."
ASK_AGAIN = 10_000  # ids after which the count is requested; then again at twice as many


def every_id(
    page: Callable[[int], list[str]], counted: Callable[[], int], where: str, ids: dict[str, None], at: int = 0
) -> list[str]:
    """Return every id that `page(offset)` lists, once, in the store's order. `ids` are those known, to position `at`.

    A page begins with an id that is known. Where it does not, chunks before it were deleted meanwhile and the others moved
    up: an earlier page is requested, so that no chunk is left out that nobody touched. A short page is not the last; only a
    page with nothing new is. Raises `Terminal` where a store lists far more than it counts.
    """
    furthest, back, most = at, 1, ASK_AGAIN
    while True:
        answer, before = page(at), len(ids)
        if at and (not answer or answer[0] not in ids):
            at, back = max(0, at - back), 2 * back
            continue
        ids.update(dict.fromkeys(answer))
        if len(ids) == before and (at >= furthest or len(answer) < 2):
            return list(ids)
        at, back = at + len(answer) - 1, 1
        furthest = max(furthest, at)
        if len(ids) > most:
            if len(ids) > 2 * (count := counted()) + ASK_AGAIN // 2:
                raise Terminal(
                    ReasonCode.NOT_JSON, f"lists {len(ids):,} ids and goes on, but counts {count:,} chunks", where=where,
                    next_step=WHAT_ANSWERS,
                )  # fmt: skip
            most = 2 * len(ids)


def counted_ids(store: Reader, name: str) -> tuple[int, list[str]]:
    """Return (chunks that the collection counts, every id), after comparing the two.

    Raises `Terminal` ("count_mismatch") where they differ although the count does not change: an answer that leaves chunks
    out would look like their deletion. Where the count or the ids change, a writer is at work, and a comparison finds the
    differences.
    """
    count = previous = store.count(name)
    ids = before = list[str]()
    for seconds in (*RETRY_AFTER, 0.0):
        before, ids = ids, store.ids(name)
        if len(ids) == count:
            return count, ids
        previous, count = count, store.count(name)
        time.sleep(seconds)
    if count != previous or set(ids) != set(before):
        return count, ids
    raise incomplete(store, name, count, f"lists {len(ids):,}")


def listed_ids(store: Reader, name: str) -> list[str]:
    """Return the ids of `counted_ids`."""
    return counted_ids(store, name)[1]


def incomplete(store: Reader, name: str, count: int, what: str) -> Terminal:
    """Return the error for a collection that counts more, or fewer, chunks than it gives."""
    return Terminal(
        ReasonCode.COUNT_MISMATCH, f"counts {count:,} chunks and {what}", where=f"collection {name} of {store.label}",
        next_step="Do not migrate it before this is explained: see notebook 48, or leave it out with collections.exclude.",
    )  # fmt: skip


class Severity(StrEnum):
    """The severity of a problem, the worst first."""

    ATTACK = "attack"  # a file that may run foreign code in programs that open it
    LOST = "lost"  # data that no migration can restore
    DAMAGED = "damaged"  # something is broken; a migration repairs it, or needs a decision
    WARNING = "warning"  # nothing is broken, but a migration needs a decision
    NOTE = "note"  # nothing is broken; worth knowing before the migration

    @property
    def sound(self) -> bool:
        """Whether a database whose worst problem this is counts as sound."""
        return self in (Severity.WARNING, Severity.NOTE)


class Finding(str):
    """A sentence about a source, with its severity; a plain text is a note.

    `meaning`: what it means for a migration. `counted`: the counts of a diagnosis already include it.
    """

    __slots__ = ("counted", "meaning", "severity")
    severity: Severity
    meaning: str
    counted: bool

    def __new__(
        cls, text: str, severity: Severity = Severity.NOTE, meaning: str = "", *, counted: bool = False
    ) -> Self:
        self = super().__new__(cls, text)
        self.severity, self.meaning, self.counted = severity, meaning, counted
        return self

    @classmethod
    def of(cls, sentence: str) -> Finding:
        """Return this sentence as a finding."""
        return sentence if isinstance(sentence, Finding) else cls(sentence)


def damage(text: str, meaning: str = "", *, counted: bool = False) -> Finding:
    """Return a finding on damage."""
    return Finding(text, Severity.DAMAGED, meaning, counted=counted)

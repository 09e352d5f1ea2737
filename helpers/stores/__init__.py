"""Where chunks live, and what every store offers, whatever speaks to it: an embedded directory, a server, an old layout.

`open_source` and `open_target` give a store for an endpoint; `quick_names` looks without touching. What opens a store brings
Chroma's client, which takes seconds to import: so it is imported on first use.
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
# No index has more of it. One with as many links as a source likes would fill the target's memory (400,000: 4 GB for 1,200
# chunks of 4 numbers); neighbours looked at cost time, and chunks that wait for the index are held in memory.
MOST_OF_A_SETTING = {"max_neighbors": 2048, "ef_construction": 10_000, "ef_search": 100_000, "num_threads": 1024,
                     "batch_size": 10**6, "sync_threshold": 10**8, "resize_factor": 100}  # fmt: skip
VECTORS = "#embedding"  # the key under which a schema keeps the index of the embeddings
AGAIN_AFTER = (0.2, 0.4, 0.8)  # seconds; between another client's delete and add a chunk is not there (chroma-facts 19)
MOST_DIMENSION = 10**6  # numbers of a vector; a matrix of as many as a source likes would fill the memory
_ABOUT_THE_DATA = {ReasonCode.REFUSED, ReasonCode.QUOTA_EXCEEDED}  # all other errors concern the whole target
LOCK_COLLECTION = "runbook-lock"  # the marker that keeps a second run out of a target

Hit = TypeVar("Hit", bound=tuple[Any, ...])
Neighbours = list[list[tuple[str, float]]]  # per query vector: (id, distance), best first


def distance(space: Space, a: npt.ArrayLike, b: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Distances of the rows of `a` (n, d) to the rows of `b` (n, d) or to one vector (d,), in float64.

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
    """The spaces in which the distances that a store answered are those of `query` (d,) to `vectors` (n, d).

    float32 sums of d terms are good to about 1e-5; 1e-3 keeps clear of that and of every wrong space.
    """
    given = np.asarray(answered, np.float64)
    return [s for s in SPACES if np.allclose(distance(s, vectors, query), given, rtol=1e-3, atol=1e-4)]


def absent(store: Store, name: str, batch: ChunkBatch) -> ChunkBatch:
    """Those of the batch that the collection does not have."""
    present = set(store.read(name, batch.ids, embeddings=False).ids)
    return batch.take([i for i, chunk in enumerate(batch.ids) if chunk not in present])


def add_singly(store: Store, name: str, batch: ChunkBatch, refuse: Callable[[ChunkBatch, Terminal], None]) -> int:
    """Add a batch; where the target refuses it, halve it until the bad chunk is alone, which `refuse` gets. Gives how many."""
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
    # A piece of the batch may have been written before the refusal (byte-capped requests).
    return sum(add_singly(store, name, absent(store, name, half), refuse) for half in (left, right))


def is_marker(store: Reader, name: str, metadata: Mapping[str, Any] | None) -> bool:
    """Whether a collection is the lock's marker: as a run makes it, and empty, since chunks are always data."""
    return name == LOCK_COLLECTION and "run_id" in (metadata or {}) and store.count(name) == 0


def declared(configuration: Mapping[str, Any]) -> Space | None:
    """The space that a configuration names, or None."""
    for index in ("hnsw", "spann"):
        part = configuration.get(index)
        if isinstance(part, Mapping) and part.get("space") in SPACES:
            return cast(Space, part["space"])
    return None


def from_metadata(metadata: Mapping[str, Any] | None) -> Space | None:
    """The space of `hnsw:space` in a collection's metadata (0.x, and clients that kept the habit), or None."""
    value = (metadata or {}).get("hnsw:space")
    return cast(Space, value) if value in SPACES else None


def excessive(name: str, value: Any) -> bool:
    """Whether this setting of an HNSW index, under its name of today, is a number that no index has."""
    return isinstance(value, int | float) and name in MOST_OF_A_SETTING and not value <= MOST_OF_A_SETTING[name]


def legacy_parameters(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """The index parameters that 0.x kept as `hnsw:*` metadata, under their names of today.

    Values that current servers refuse or die of (M of 0 or below 2, text) are left out (chroma-facts, 1.5.9 writing), and so
    are those that are `excessive`.
    """
    found: dict[str, Any] = {}
    for key, name in HNSW_METADATA.items():
        value = (metadata or {}).get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or excessive(name, value):
            continue
        if name == "resize_factor":
            found[name] = float(value)
        elif value >= (4 if name == "max_neighbors" else 1):
            found[name] = int(value)
    return found


def resolve(candidates: Sequence[Space | None], proven: Sequence[Space] | None) -> tuple[Space, str]:
    """The effective space and a finding ("" where all agree).

    `candidates` are what the sources of truth say, best first; `proven` the spaces consistent with a probe (None where
    no probe was possible: no vectors). Several proven spaces cannot be distinguished by these vectors.
    """
    named = [c for c in candidates if c]
    first: Space = named[0] if named else "l2"
    if proven is None:
        return first, "" if len(set(named)) < 2 else f"sources of truth disagree on the space: {', '.join(named)}"
    if not proven:
        return first, f"the probe's distances fit no known space; taken as {first}"
    chosen = next((c for c in named if c in proven), proven[0])
    wrong = sorted({c for c in named if c != chosen})
    if not wrong:
        return chosen, ""
    return chosen, Finding(f"declared as {', '.join(wrong)}, but queries answer {chosen}", meaning=_TRAP)


@dataclass(frozen=True, slots=True)
class CollectionInfo:
    """A collection as it really is.

    `space` is the effective distance space, proven by a probe query where one was possible; `declared_space` is what the
    configuration says, which may be wrong (chroma-facts 2). `configuration` is Chroma's configuration as JSON, `schema`
    the server's own schema as JSON where it has one. `findings` are sentences for the DBA.
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
    """Both places of a schema that hold the settings of its vectors' index, where they do: to be changed."""
    places = ((schema or {}).get("defaults"), (schema or {}).get("keys", {}).get(VECTORS))
    return [config for config in map(vector_config, places) if config]


def vector_config(types: Any) -> dict[str, Any]:
    return cast(dict[str, Any], ((types or {}).get("float_list") or {}).get("vector_index", {}).get("config") or {})


def excessive_settings(info: CollectionInfo) -> dict[str, Any]:
    """The settings of its HNSW index that no index has, by name: whoever wrote the source chose them."""
    legacy = {name: (info.metadata or {}).get(key) for key, name in HNSW_METADATA.items()}
    places = [*(config.get("hnsw") for config in _with_hnsw(info)), legacy]
    return {name: value for place in places for name, value in (place or {}).items() if excessive(name, value)}


def _with_hnsw(info: CollectionInfo) -> list[dict[str, Any]]:
    return [info.configuration, *vector_configs(info.schema)]


def moderate(info: CollectionInfo) -> CollectionInfo:
    """The collection without these: a target takes its default."""
    if not (names := excessive_settings(info).keys()):
        return info
    made = copy.deepcopy(info)
    for config in _with_hnsw(made):
        config["hnsw"] = {
            name: value for name, value in (config.get("hnsw") or {}).items() if name not in names
        } or None
    metadata = {key: value for key, value in (made.metadata or {}).items() if HNSW_METADATA.get(key) not in names}
    return dataclasses.replace(made, metadata=metadata or None)


Read = TypeVar("Read", bound=Callable[..., Any])


def fitting(read: Read) -> Read:
    """For a method that takes a server's answer apart: one that has another shape is `Transient` ("not_json")."""

    @wraps(read)
    def guarded(store: Closing, *arguments: Any, **more: Any) -> Any:
        try:
            return read(store, *arguments, **more)
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            what = f"an answer that does not fit the request ({type(error).__name__}: {error})"
            raise Transient(
                ReasonCode.NOT_JSON, what, where=store.label, next_step="Check what answers there."
            ) from error

    return cast(Read, guarded)


def told_dimension(told: Any, where: str) -> int | None:
    """The length of a collection's vectors as the source tells it, None where it tells none; `Terminal` for what is none."""
    if told is None or (isinstance(told, int) and 0 <= told <= MOST_DIMENSION):
        return told
    raise Terminal(
        ReasonCode.NOT_JSON, f"its vectors are said to have {str(told)[:40]} dimensions", where=where,
        next_step=f"Between 1 and {MOST_DIMENSION:,} are read. Find out who wrote that.",
    )  # fmt: skip


def texts(given: Any, *, optional: bool = False) -> list[Any]:
    """A list of texts, or of texts and None; TypeError for anything else: a number would become another id, or document."""
    if not isinstance(given, list) or not all(isinstance(t, str) or (optional and t is None) for t in given):
        raise TypeError("a list of texts is something else")
    return given


class Closing:
    """`with` for whatever has a `close`; `label` says where it is."""

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
    """What a source offers. Nothing here writes.

    The store keeps within its own limits: `ids` and `read` split as they must, `query` gives at most
    `limits().query_results` for each vector. Who depends on k asks for these first; they may be narrower afterwards.
    """

    label: str
    version: str
    protocol: str  # how it is read, for people: "API v1", "API v2", "in this process"
    usage: Usage

    @property
    def learnt(self) -> tuple[str, ...]: ...  # sentences on limits that refusals taught

    def limits(self) -> Limits: ...
    def collections(self) -> list[CollectionInfo]: ...
    def names(self) -> list[str]: ...
    def info(self, name: str) -> CollectionInfo: ...
    def count(self, name: str) -> int: ...
    def ids(self, name: str) -> list[str]: ...
    def some_ids(self, name: str, most: int) -> list[str]: ...
    def read(self, name: str, ids: Sequence[str], *, embeddings: bool = True) -> ChunkBatch: ...
    def query(self, name: str, vectors: npt.ArrayLike, k: int) -> Neighbours: ...
    def query_texts(self, name: str, texts: Sequence[str], k: int) -> list[list[tuple[str, float, str | None]]]: ...
    def text_queries_available(self, name: str) -> str: ...
    def unindexed(self, name: str) -> int: ...
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def switches(schema: Mapping[str, Any]) -> dict[tuple[str, str, str], bool]:
    """(key, or "" for the defaults; type of value; index) → whether it is on."""
    sides = {"": schema.get("defaults") or {}, **(schema.get("keys") or {})}
    return {
        (key, kind, index): bool(state.get("enabled"))
        for key, types in sides.items()
        for kind, indexes in types.items()
        for index, state in indexes.items()
    }


def chosen(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A schema without what comes by itself: a server lists each metadata key that arrives, with the defaults of its type.

    Two of these are equal where nobody chose anything else: index switches, their settings, and what a client is to build.
    """
    usual = schema.get("defaults") or {}
    keys: dict[str, Any] = {}
    for key, types in (schema.get("keys") or {}).items():
        for kind, indexes in types.items():
            own = {index: state for index, state in indexes.items() if state != (usual.get(kind) or {}).get(index)}
            if own:
                keys.setdefault(key, {})[kind] = own
    return {**schema, "keys": keys}


def same_choices(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two schemas choose the same: fields, functions and where they read, and of all else what both speak of.

    Servers of other versions know settings of which these say nothing. What the configuration says is compared there.
    """
    fields, chromas = zip(*map(_sides, (one, other)), strict=True)
    return bool(fields[0] == fields[1]) and _agree(*chromas)


def _sides(schema: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What was chosen for fields of the metadata; all that it says of the rest, Chroma's own `#document` and `#embedding`."""
    fields = {key: types for key, types in chosen(schema)["keys"].items() if not key.startswith("#")}
    own = {key: types for key, types in (schema.get("keys") or {}).items() if key.startswith("#")}
    return fields, {**schema, "keys": own}


def _agree(one: Any, other: Any) -> bool:
    if not isinstance(one, Mapping) or not isinstance(other, Mapping):
        return bool(one == other)
    told = {"embedding_function", "source_key"}
    if any(one.get(name) != other.get(name) for name in told):
        return False
    configured = {"space", "hnsw", "spann"}  # a schema may declare another space than searches have
    return all(_agree(one[name], other[name]) for name in one.keys() & other.keys() - told - configured)


def is_usual(schema: Mapping[str, Any]) -> bool:
    """Whether a schema has no field of its own and no switch that anybody chose: the configuration then says all of it."""
    from helpers.stores.door import Schema

    return switches(schema) == switches(Schema().serialize_to_json())


def shard_of(chunk: str, of: int) -> int:
    """The shard, 0 to `of` - 1, of a chunk's id: the first eight bytes of its SHA-256 (UTF-8), big-endian, modulo `of`."""
    return int.from_bytes(hashlib.sha256(chunk.encode("utf-8", "surrogatepass")).digest()[:8], "big") % of


class Shard(Closing):
    """The part of a source's chunks that belong to one of several targets; all else is as the source has it.

    `text` is the shard's number and how many there are: 1/4 to 4/4. Chunks of the other shards are not there: they are neither
    listed, counted, given nor found. Closing it leaves the source open.
    """

    def __init__(self, source: Reader, text: str) -> None:
        number, of = map(int, text.split("/"))
        self._source, self._shard, self._of = source, number - 1, of
        self.label = f"{source.label} (shard {text})"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def close(self) -> None:
        """The source is whoever opened it's."""

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
        """The k nearest of this shard: so many of all are asked for that each answer has as many, where there are."""
        every, most = min(self._source.count(name), self.limits().query_results), 2 * k * self._of
        while True:
            hits = [[hit for hit in found if self._holds(hit[0])][:k] for found in ask(min(most, every))]
            if most >= every or all(len(found) >= k for found in hits):
                return hits
            most *= 4


def sharded(source: Reader, shard: str | None) -> Reader:
    """The source, or the part of it that `collections.shard` names."""
    return source if shard is None else cast(Reader, Shard(source, shard))


class Store(Reader, Protocol):
    """What a target offers besides: creating, adding, deleting."""

    def identities(self) -> dict[str, str]: ...
    def identity(self, name: str) -> str: ...
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


def counted_ids(store: Reader, name: str) -> tuple[int, list[str]]:
    """(Chunks that the collection counts, every id), held against each other.

    Raises `Terminal` ("count_mismatch") where they differ although the count does not change: an answer that leaves chunks
    out would look like their deletion. Where it moves, a writer is at work, and whoever compares finds what differs.
    """
    count = before = store.count(name)
    for seconds in (*AGAIN_AFTER, 0.0):
        ids = store.ids(name)
        if len(ids) == count:
            return count, ids
        before, count = count, store.count(name)
        time.sleep(seconds)
    if count != before:
        return count, ids
    raise incomplete(store, name, count, f"lists {len(ids):,}")


def listed_ids(store: Reader, name: str) -> list[str]:
    """The ids of `counted_ids`."""
    return counted_ids(store, name)[1]


def incomplete(store: Reader, name: str, count: int, what: str) -> Terminal:
    """The error where a collection counts more, or fewer, chunks than it gives."""
    return Terminal(
        ReasonCode.COUNT_MISMATCH, f"counts {count:,} chunks and {what}", where=f"collection {name} of {store.label}",
        next_step="Do not migrate it before this is explained: see notebook 48, or leave it out with collections.exclude.",
    )  # fmt: skip


class Severity(StrEnum):
    """How bad a problem is, the worst first."""

    ATTACK = "attack"  # a file that may run foreign code in those who open it
    LOST = "lost"  # something that no migration can bring back
    DAMAGED = "damaged"  # something is broken; a migration repairs it, or needs a decision
    WARNING = "warning"  # nothing is broken, but a migration needs a decision
    NOTE = "note"  # nothing is broken; worth knowing before the migration

    @property
    def sound(self) -> bool:
        """Whether a database with nothing worse is sound."""
        return self in (Severity.WARNING, Severity.NOTE)


class Finding(str):
    """A sentence about a source, with its severity; a sentence that is only a text is a note.

    `meaning` says what it means for those who migrate. `counted`: the counts of a diagnosis say it already.
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
        """This sentence as a finding."""
        return sentence if isinstance(sentence, Finding) else cls(sentence)


def damage(text: str, meaning: str = "", *, counted: bool = False) -> Finding:
    """A finding that says that something is broken."""
    return Finding(text, Severity.DAMAGED, meaning, counted=counted)

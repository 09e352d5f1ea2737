"""Create a collection exactly like another one.

The public `create_collection(configuration=…)` loses num_threads and batch_size, and an embedding function that is not
installed here. The server's own schema, sent back unchanged, keeps all of it (chroma-facts, 1.5.9 writing).

A local Chroma cannot hold all that Chroma Cloud can. Measured on 1.5.9 (tests/test_indexes_that_no_local_chroma_holds.py
repeats it): a sparse index is refused with 400; a SPANN index, quantised or not, silently becomes an HNSW index with
defaults; a record with a sparse vector is refused ("not supported for local chroma"). The space, the embedding function, the
full-text index and the switches of every other key are kept where the schema is sent without these.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import math
import re
import socket
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from ipaddress import ip_address
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from helpers.chunks import Vectors
from helpers.errors import RUNBOOK, Terminal, UsageError, one_line
from helpers.parameters.endpoint import StoredFunction
from helpers.reason_codes import ReasonCode
from helpers.results import utc_now
from helpers.stores import (
    LOCK_COLLECTION,
    VECTORS,
    CollectionInfo,
    declared,
    is_usual,
    legacy_parameters,
    moderate,
    vector_config,
    vector_configs,
)
from helpers.stores.door import (
    EMBEDDING_FUNCTIONS,
    LOCAL_FUNCTIONS,
    Client,
    Documents,
    EmbeddingFunction,
    Embeddings,
    FastAPI,
    NotFoundError,
    ONNXMiniLM_L6_V2,
    Space,
    known_embedding_functions,
    register_embedding_function,
)
from helpers.stores.door import Collection as DoorCollection
from helpers.stores.limits import Usage, done_once, raise_on_refusal, retried, within

SPARSE, SPARSE_VALUES, SPANN, QUANTISED = "sparse index", "sparse vectors", "SPANN index", "quantisation"
_BECOMES = {
    SPARSE: "no index; its vectors are kept as text of JSON",
    SPARSE_VALUES: "kept as text of JSON",
    SPANN: "an HNSW index with Chroma's defaults, by the same distance",
    QUANTISED: "vectors in full precision",
}
RESTORE = "restore-"  # prefix of a restore's name in the lock; the rest contains its snapshot's id


@dataclass(frozen=True, slots=True)
class Index:
    """A feature of a collection that a local Chroma cannot hold: its kind, and its metadata key (or `#embedding`)."""

    collection: str
    kind: str
    key: str

    def __str__(self) -> str:
        return f"{one_line(self.collection, 80)}: {self.kind} on {one_line(self.key, 80)}"

    @property
    def ordered(self) -> bool:
        """Whether it is dropped only by order of `migration.drop_indexes`; else it is a setting that no index has."""
        return self.kind in _BECOMES

    @property
    def becomes(self) -> str:
        """What replaces it where it is dropped."""
        return _BECOMES.get(self.kind, "Chroma's default")


def unsupported(info: CollectionInfo) -> list[Index]:
    """Return every feature that a local Chroma cannot hold, by key."""
    return sorted(set(_unsupported(info)), key=lambda i: (i.key, i.kind))


def _unsupported(info: CollectionInfo) -> Iterator[Index]:
    schema = info.schema or {}
    for key, types in schema.get("keys", {}).items():
        sparse = types.get("sparse_vector")
        if sparse is not None:
            on = (sparse.get("sparse_vector_index") or {}).get("enabled")
            yield Index(info.name, SPARSE if on else SPARSE_VALUES, key)
    configurations = [info.configuration.get("spann"), vector_config(schema.get("keys", {}).get(VECTORS)).get("spann")]
    for spann in filter(None, configurations):
        yield Index(info.name, SPANN, VECTORS)
        if str(spann.get("quantize") or "none").lower() != "none":
            yield Index(info.name, QUANTISED, VECTORS)


def reduced(info: CollectionInfo) -> CollectionInfo:
    """Return what a local Chroma can hold of a collection, with its effective space, and without excessive index settings."""
    info = moderate(info)
    if not unsupported(info):
        return info
    configuration = {"hnsw": info.configuration.get("hnsw") or {"space": info.space}, "spann": None}
    return dataclasses.replace(
        info, configuration={**info.configuration, **configuration}, schema=_without(info.schema)
    )


def allowed(info: CollectionInfo, patterns: Iterable[str]) -> bool:
    """Return whether `migration.drop_indexes` names the collection."""
    return any(fnmatchcase(info.name, pattern) for pattern in patterns)


def as_created(info: CollectionInfo, patterns: Collection[str]) -> CollectionInfo:
    """Return the collection as it is to be created. Raises `Terminal` ("index_unsupported") where a feature would be lost that
    `patterns` (`migration.drop_indexes`) do not drop.
    """
    lost = unsupported(info)
    if lost and not allowed(info, patterns):
        raise refusal(lost)
    return reduced(info)


def refusal(lost: Collection[Index]) -> Terminal:
    """Return the error that names each index, and what to do."""
    names = list(dict.fromkeys(index.collection for index in lost))
    shown = ", ".join(one_line(name, 80) for name in names[:5]) + (", …" if len(names) > 5 else "")
    return Terminal(
        ReasonCode.INDEX_UNSUPPORTED, f"a local Chroma cannot hold {listed(lost)}", where="target",
        next_step=f"To migrate without: start a new run with migration.drop_indexes: [{shown}]; those who sign see it.",
    )  # fmt: skip


def listed(lost: Collection[Index]) -> str:
    """Return `docs: sparse index on sparse_key; docs: SPANN index on #embedding`, the first eight."""
    return "; ".join(str(index) for index in list(lost)[:8]) + (f"; and {len(lost) - 8} more" if len(lost) > 8 else "")


def _without(schema: dict[str, Any] | None) -> dict[str, Any] | None:
    if schema is None:
        return None
    copied = copy.deepcopy(schema)
    for config in vector_configs(copied):
        config.pop("spann", None)
    for types in copied.get("keys", {}).values():
        types.pop("sparse_vector", None)
    copied["keys"] = {key: types for key, types in copied.get("keys", {}).items() if types}
    return copied


def raw_schema(collection: DoorCollection) -> dict[str, Any] | None:
    """Return the schema as the server keeps it, or None where it keeps none (servers before about 1.2)."""
    schema = collection.get_model().serialized_schema
    return json.loads(json.dumps(schema)) if schema else None


def effective_configuration(info: CollectionInfo) -> dict[str, Any]:
    """Return the configuration with the effective space; `hnsw:*` metadata of 0.x become parameters.

    The schema's num_threads and batch_size, which the configuration does not show, are added.
    """
    function = info.configuration.get("embedding_function")
    if info.configuration.get("spann"):
        spann = {**info.configuration["spann"], "space": info.space}
        return {"hnsw": None, "spann": spann, "embedding_function": function}
    hidden = _hidden_parameters(info.schema) | legacy_parameters(info.metadata)
    hnsw = {**(info.configuration.get("hnsw") or {}), **hidden, "space": info.space}
    return {"hnsw": hnsw, "spann": None, "embedding_function": function}


def effective_schema(info: CollectionInfo) -> dict[str, Any] | None:
    """Return the source's schema with the effective space in both its places; None where the configuration is used instead.

    A schema beside `hnsw:*` metadata is refused ("cannot set both"), and Chroma loses the embedding function of a default one.
    """
    if info.schema is None or any(key.startswith("hnsw:") for key in info.metadata or {}) or is_usual(info.schema):
        return None
    if declared(info.configuration) == info.space:
        return info.schema
    schema = copy.deepcopy(info.schema)
    for config in vector_configs(schema):
        config["space"] = info.space
    return schema


def _hidden_parameters(schema: dict[str, Any] | None) -> dict[str, Any]:
    hnsw = vector_config((schema or {}).get("keys", {}).get(VECTORS)).get("hnsw") or {}
    return {name: hnsw[name] for name in ("num_threads", "batch_size") if name in hnsw}


_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]*[a-zA-Z0-9]")


def refused_name(name: str) -> str:
    """Return why a target refuses a collection name, or "". Older Chromas accepted more: one letter, blanks, accents."""
    if name == LOCK_COLLECTION:
        return "it is the name of the marker by which a run holds its target"
    if not 3 <= len(name) <= 512:
        return f"it has {len(name)} characters, 3 to 512 are allowed"
    if ".." in name:
        return "it has two dots in a row"
    if not _NAME.fullmatch(name):
        return "only letters a to z, digits, '.', '_' and '-' are allowed, a letter or digit at both ends"
    with suppress(ValueError):
        return f"it is the address {ip_address(name)}"
    return ""


def create(client: Client, info: CollectionInfo) -> None:
    """Create the collection. Raises `Terminal`, without a change: "exists" where the name is used, "collection_name" where it is
    not allowed, "unsupported_metadata" where a metadata value is a list, which panics Chroma's engine (chroma-facts),
    "index_unsupported" for an index that a local Chroma cannot hold.
    """
    if lost := unsupported(info):
        raise refusal(lost)
    if list_keys := sorted(key for key, value in (info.metadata or {}).items() if isinstance(value, list | tuple)):
        raise Terminal(
            ReasonCode.UNSUPPORTED_METADATA,
            f"the metadata of collection {info.name} has a list under {list_keys[0]}, which no Chroma takes",
            next_step="Write it as a text at the source, or leave the collection out with collections.exclude.",
        )
    schema = effective_schema(info)
    configuration = None if schema else effective_configuration(info)
    metadata = info.metadata or None
    server: Any = client._server
    try:
        if isinstance(server, FastAPI):
            body = {"name": info.name, "metadata": metadata, "configuration": configuration, "schema": schema}
            path = f"/tenants/{client.tenant}/databases/{client.database}/collections"
            server._make_request("post", path, json={**body, "get_or_create": False})
        else:
            texts = (json.dumps(part) if part else None for part in (configuration, schema))
            server.bindings.create_collection(info.name, *texts, metadata, False, client.tenant, client.database)
    except Exception as error:
        if "already exists" in str(error):
            raise Terminal(
                ReasonCode.EXISTS, f"collection {info.name} already exists", next_step="Nothing was changed there."
            ) from error
        if "Expected a name" in str(error):
            raise Terminal(
                ReasonCode.COLLECTION_NAME, "a current Chroma takes no collection of this name (letters, digits, . _ - only)",
                next_step="Leave it out with collections.exclude, or route its chunks elsewhere with a schema.",
            ) from error  # fmt: skip
        raise


class TargetLock:
    """The lock of a target, as a part of its store.

    The lock is a marker collection, whose creation is atomic on the server: it keeps out a second run from any machine. A run
    that was killed recognises its own marker and continues.
    """

    client: Client
    label: str
    usage: Usage

    def acquire_lock(self, run_id: str) -> None:
        """Acquire the lock, or keep it where this run already holds it. Raises `Terminal` ("lock_held")."""
        marker = {"run_id": run_id, "host": socket.gethostname(), "time": utc_now()}

        def create_marker() -> None:
            try:
                self.client.create_collection(LOCK_COLLECTION, metadata=marker, embedding_function=None)
            except Exception as error:
                if "already exists" not in str(error):
                    raise

        done_once(create_marker, done=lambda: self.lock_holder() is not None, where=self.label, waits=self.usage.waits)
        holder = self.lock_holder() or {}
        if holder.get("run_id") != run_id:
            name = str(holder.get("run_id", "?"))
            subject, remedy = f"run {name}", f"{RUNBOOK} resume {name} (on that host)"
            if name.startswith(RESTORE):
                subject, remedy = name, f"the same {RUNBOOK} snapshots restore as before, which was stopped"
            raise Terminal(
                ReasonCode.LOCK_HELD,
                f"{subject} from host {holder.get('host', '?')} holds the target since {holder.get('time', '?')}",
                where=self.label,
                next_step=f"Finish it with: {remedy}. If it is dead for good, delete the empty collection {LOCK_COLLECTION}.",
            )

    def release_lock(self, run_id: str) -> None:
        """Release the lock; do nothing where another run holds it."""
        if (self.lock_holder() or {}).get("run_id") == run_id:
            self.delete_empty(LOCK_COLLECTION)

    def lock_holder(self) -> dict[str, Any] | None:
        """Return run id, host and time of the holder, or None where the target is free."""
        collection = self._existing(LOCK_COLLECTION)
        return None if collection is None else dict(collection.metadata or {})

    def delete_empty(self, name: str) -> None:
        """Delete exactly this collection, which has no chunk; keep one that is created with its name meanwhile."""
        collection = self._existing(name)
        if collection is None:
            return

        def is_deleted() -> bool:
            current = self._existing(name)
            return current is None or current.id != collection.id

        def delete() -> None:
            with suppress(NotFoundError):  # a proxy may send a request twice, and return the second answer
                self.client.delete_collection(name)

        done_once(delete, done=is_deleted, where=self.label, waits=self.usage.waits)

    def _existing(self, name: str) -> DoorCollection | None:
        """Return the collection of this name, None where there is none."""

        def get() -> DoorCollection | None:
            try:
                return self.client.get_collection(name, embedding_function=None)
            except (NotFoundError, ValueError):
                return None

        return retried(get, self.label, self.usage.waits)


# -- embedding functions -----------------------------------------------------------------------------------------------
#
# Whether a collection's own embedding function may be used here, and the function that the operator names.
#
# The stored function does not prove which model made the vectors (chroma-facts), so its dimension is compared, too.


@register_embedding_function
class RehearsalEmbedding(EmbeddingFunction[Documents]):
    """An embedding without a model or a download: texts that share words, or parts of words, lie near each other.

    Each word is a pseudo-random integer vector (SHAKE-128 of the word, plus a weaker one for each of its trigrams); a
    text is the sum over its words, weighted by the root of their number, stop words by an eighth. Sums of integers
    below 2**53 are exact in any order, so the float32 result has the same bits everywhere. Not normalised. A text
    without a word is the zero vector.
    """

    def __init__(self, dimension: int = 1536) -> None:
        self.dimension = dimension
        self._words: dict[str, npt.NDArray[np.float64]] = {}

    def __call__(self, input: Documents) -> Embeddings:  # noqa: A002  # chromadb's name
        return list(self.vectors(list(input)))

    def vectors(self, texts: list[str]) -> Vectors:
        """(n, dimension) float32."""
        vectors = np.zeros((len(texts), self.dimension), np.float32)
        for row, document in enumerate(texts):
            words = Counter(re.findall(r"\w+", document.casefold()))
            if words:
                table = np.stack([self._word(word) for word in words])
                weights = np.array([math.isqrt(1024 * n) // (8 if w in _STOP else 1) for w, n in words.items()])
                vectors[row] = (weights.astype(np.float64) @ table) / 30_000_000.0
        return vectors

    def _word(self, word: str) -> npt.NDArray[np.float64]:
        if word in self._words:
            return self._words[word]
        vector = 64.0 * self._hashed(word)
        if word.isalpha() and len(word) > 2:
            marked = f"<{word}>"
            trigrams = [marked[i : i + 3] for i in range(len(marked) - 2)]
            faint = math.isqrt(64 * 64 // (3 * len(trigrams)))
            vector += faint * np.sum([self._hashed("#" + t) for t in trigrams], axis=0)
            if len(self._words) < 5000:  # rare words are not worth the memory
                self._words[word] = vector
        return vector

    def _hashed(self, token: str) -> npt.NDArray[np.float64]:
        """Odd integers in −255…255, as float64."""
        digest = hashlib.shake_128(token.encode()).digest(self.dimension)
        return 2.0 * np.frombuffer(digest, np.int8).astype(np.float64) + 1.0

    @staticmethod
    def name() -> str:
        return "runbook_rehearsal"

    def get_config(self) -> dict[str, Any]:
        return {"dimension": self.dimension}

    @staticmethod
    def build_from_config(config: dict[str, Any]) -> RehearsalEmbedding:
        return RehearsalEmbedding(int(config["dimension"]))

    def default_space(self) -> Space:
        return "cosine"


_STOP_WORDS = (
    "a after all an and are as at be before behind by for from has he his in into is it its not of on one or so than"
    " that the their them to was we what when who with you al con de del el en es la las lo los más para por que se sin"
    " su un una y ref"
)
_STOP = frozenset(_STOP_WORDS.split())


def persisted_name(configuration: Mapping[str, Any]) -> str | None:
    """Return the name of the function in a collection's configuration, or None."""
    function = configuration.get("embedding_function")
    if not isinstance(function, Mapping) or function.get("type") == "legacy":
        return None
    return str(function["name"]) if "name" in function else None


class NotUsable(Exception):
    """Why an embedding function is not used here."""


@dataclass(frozen=True, slots=True)
class Function:
    """An embedding function ready for use, one vector for each text; some embed queries differently from documents."""

    name: str
    call: Callable[[Sequence[str]], Sequence[Any]]
    query: Callable[[Sequence[str]], Sequence[Any]]
    config: Callable[[], Mapping[str, Any]] = dict  # its configuration as a collection stores it


def unavailable(configuration: Mapping[str, Any], dimension: int | None, allowed: Sequence[StoredFunction] = ()) -> str:
    """Return why the collection's own function cannot be used, or "" where it can."""
    try:
        stored_function(configuration, dimension, allowed)
    except NotUsable as error:
        return str(error)
    return ""


def stored_function(
    configuration: Mapping[str, Any], dimension: int | None, allowed: Sequence[StoredFunction] = ()
) -> Function:
    """Return the function that a collection's configuration names. Raises `NotUsable`.

    Whoever wrote the source chose it: a URL, a variable that is sent there, a model with code in it. Only functions that work on
    this machine alone are built without permission; any other only where `allowed` has the same name and configuration.
    """
    name = persisted_name(configuration)
    if name is None:
        raise NotUsable("the collection names no embedding function")
    config = dict(configuration["embedding_function"].get("config") or {})
    made_dimension = 384 if name in LOCAL_FUNCTIONS else config.get("dimension")
    if isinstance(made_dimension, int) and dimension not in (None, made_dimension):
        subject = "the default function" if name == "default" else f"embedding function {one_line(name, 80)}"
        raise NotUsable(f"{subject} makes {made_dimension} dimensions, the collection has {dimension}")
    if name in LOCAL_FUNCTIONS:
        return _build(name, {})
    if name == RehearsalEmbedding.name():
        return _build(name, {"dimension": made_dimension or dimension or 1})
    if _kind(name) is None:
        raise NotUsable(f"embedding function {one_line(name, 80)} is not installed here")
    if not any(each.matches(name, config) for each in allowed):
        shown = one_line(json.dumps({"name": name, "config": config}, ensure_ascii=False), 300)
        raise NotUsable(
            f"embedding function {one_line(name, 80)} would leave this machine and is not allowed; to allow it, list "
            f"under embedding_functions of source and target: {shown}"
        )
    return _build(name, config)


def _kind(name: str) -> Any:
    return known_embedding_functions.get(name) or EMBEDDING_FUNCTIONS.get(name)


def _build(name: str, config: Mapping[str, Any]) -> Function:
    """Build a function, without a configuration by its own defaults. Raises `NotUsable`."""
    if name in LOCAL_FUNCTIONS and (reason := _no_model()):
        raise NotUsable(reason)
    try:
        function: Any = raise_on_refusal(
            _kind(name).build_from_config(dict(config)) if config else _kind(name)(), ANSWER_SECONDS
        )
    except Exception as error:
        raise NotUsable(f"embedding function {name} cannot be built here: {one_line(str(error), 200)}") from error
    # Some read a variable with the service's name first, whatever their configuration is.
    key = getattr(function, "api_key_env_var", None)
    if key is not None and key != config.get("api_key_env_var"):
        raise NotUsable(
            f"embedding function {name} would read the variable {one_line(str(key), 80)}, which its configuration does not name "
            "(api_key_env_var)"
        )
    is_local = name in LOCAL_FUNCTIONS or name == RehearsalEmbedding.name()
    calls = [
        lambda texts: cast("Sequence[Any]", function(list(texts))),
        lambda texts: cast("Sequence[Any]", function.embed_query(list(texts))),
    ]
    call, query = calls if is_local else map(_in_time, calls)
    return Function(name, call, query, lambda: config or function.get_config())


ANSWER_SECONDS = 120.0  # for one batch of texts; the library of a function limits only each read of an answer


def _in_time(call: Callable[[Sequence[str]], Sequence[Any]]) -> Callable[[Sequence[str]], Sequence[Any]]:
    """Return the call with a time limit: a call that a slow service holds up is abandoned and raises `TimeoutError`."""

    def limited(texts: Sequence[str]) -> Sequence[Any]:
        late = TimeoutError(f"no whole answer in {ANSWER_SECONDS:g} s")
        return within(ANSWER_SECONDS, lambda: call(texts), late)

    return limited


def register_allowed(allowed: Sequence[StoredFunction]) -> None:
    """Let Chroma's client build these functions in this process, with the allowed configuration only: for application tests."""
    for name in {each.name for each in allowed} - {*known_embedding_functions}:
        known_embedding_functions[name] = cast(Any, _Allowed(name, allowed))


class _Allowed:
    """The replacement of a function in Chroma's registry."""

    def __init__(self, name: str, allowed: Sequence[StoredFunction]) -> None:
        self._name, self._allowed = name, allowed

    def build_from_config(self, config: dict[str, Any]) -> Any:
        if not any(each.matches(self._name, config) for each in self._allowed):
            raise ValueError("not with this configuration: embedding_functions allows another one")
        return EMBEDDING_FUNCTIONS[self._name].build_from_config(config)


OWN = "own"  # in place of a name: the function that each collection keeps


def require_function(name: str, config: Mapping[str, Any]) -> None:
    """Require that the function of `migration.reembed` can be built here; a collection's own is not known before the source is
    read. Raises `UsageError` for an unknown name, else `Terminal`.
    """
    if name != OWN:
        own_function(name, config, {}, "migration.reembed")


def own_function(
    wanted: str, config: Mapping[str, Any], configuration: Mapping[str, Any], where: str,
    allowed: Sequence[StoredFunction] = (),
) -> Function:  # fmt: skip
    """Return the function of this name (or "own") for a collection with this configuration.

    It is built from `config`; without one from the collection's own (see `stored_function`), if that has the same name; else from
    the function's defaults. Raises `Terminal` ("embedding_function_unavailable") where it cannot be used.
    """
    stored_name = persisted_name(configuration)
    name = stored_name if wanted == OWN else wanted
    if name is None:
        raise _unavailable_error("the collection names no embedding function of its own", where)
    if wanted != OWN and _kind(name) is None:
        known = ", ".join(sorted({*EMBEDDING_FUNCTIONS, *known_embedding_functions}))
        raise UsageError(
            ReasonCode.EMBEDDING_FUNCTION_UNKNOWN, f"names no embedding function that is known here: {one_line(name, 80)}",
            where="migration.reembed", next_step=f"Known are {OWN} (each collection's own), {known}.",
        )  # fmt: skip
    try:
        if not config and name == stored_name:
            return stored_function(configuration, None, allowed)
        if _kind(name) is None:
            raise NotUsable(f"embedding function {one_line(name, 80)} is not installed here")
        return _build(name, config)
    except NotUsable as error:
        raise _unavailable_error(str(error), where) from error


def _unavailable_error(reason: str, where: str) -> Terminal:
    return Terminal(
        ReasonCode.EMBEDDING_FUNCTION_UNAVAILABLE, reason, where=where,
        next_step="Nothing was written. Install or configure it (migration.reembed_config), or leave migration.reembed out.",
    )  # fmt: skip


_MODEL_FILES = ("config.json", "model.onnx", "special_tokens_map.json",  # if one is missing, the function downloads the model
                "tokenizer_config.json", "tokenizer.json", "vocab.txt")  # fmt: skip


def _no_model() -> str:
    folder = ONNXMiniLM_L6_V2.DOWNLOAD_PATH / ONNXMiniLM_L6_V2.EXTRACTED_FOLDER_NAME
    complete = all((folder / file).exists() for file in _MODEL_FILES)
    return "" if complete else "the default function's model is not on this machine"

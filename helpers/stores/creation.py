"""Creating a collection exactly like another one.

The public `create_collection(configuration=…)` loses num_threads and batch_size, and an embedding function that is not
installed here. The server's own schema, sent back as it came, keeps all of it (chroma-facts, 1.5.9 writing).

A local Chroma cannot hold all that Chroma Cloud can. Measured on 1.5.9 (tests/test_indexes_that_no_local_chroma_holds.py
repeats it): a sparse index is refused with 400; a SPANN index, quantised or not, silently becomes an HNSW index with
defaults; a record with a sparse vector is refused ("not supported for local chroma"). The space, the embedding function, the
full-text index and the switches of every other key are kept where the schema is sent without these.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import re
import socket
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from helpers.errors import RUNBOOK, Terminal, one_line
from helpers.reason_codes import ReasonCode
from helpers.results import utc_now
from helpers.stores.base import LOCK_COLLECTION, CollectionInfo, declared, legacy_parameters
from helpers.stores.door import Client, FastAPI, NotFoundError
from helpers.stores.door import Collection as DoorCollection
from helpers.stores.limits import attempt, translate

SPARSE, SPARSE_VALUES, SPANN, QUANTISED = "sparse index", "sparse vectors", "SPANN index", "quantisation"
VECTORS = "#embedding"  # the key under which a schema keeps the index of the embeddings
_BECOMES = {
    SPARSE: "no index; its vectors are kept as text of JSON",
    SPARSE_VALUES: "kept as text of JSON",
    SPANN: "an HNSW index with Chroma's defaults, by the same distance",
    QUANTISED: "vectors in full precision",
}
RESTORE = "restore-"  # how a restore's name in the lock begins; the rest is made of its snapshot's id


@dataclass(frozen=True, slots=True)
class Index:
    """One thing of a collection that a local Chroma cannot hold: what it is, and on which metadata key (or `#embedding`)."""

    collection: str
    kind: str
    key: str

    def __str__(self) -> str:
        return f"{one_line(self.collection, 80)}: {self.kind} on {one_line(self.key, 80)}"

    @property
    def becomes(self) -> str:
        """What is there in its place where it is dropped."""
        return _BECOMES[self.kind]


def unsupported(info: CollectionInfo) -> list[Index]:
    """Every such thing, by key. [] where a local Chroma holds the collection as it is."""
    return sorted(set(_found(info)), key=lambda i: (i.key, i.kind))


def _found(info: CollectionInfo) -> Iterator[Index]:
    schema = info.schema or {}
    for key, types in schema.get("keys", {}).items():
        sparse = types.get("sparse_vector")
        if sparse is not None:
            on = (sparse.get("sparse_vector_index") or {}).get("enabled")
            yield Index(info.name, SPARSE if on else SPARSE_VALUES, key)
    configurations = [info.configuration.get("spann"), _vector_config(schema.get("keys", {}).get(VECTORS)).get("spann")]
    for spann in filter(None, configurations):
        yield Index(info.name, SPANN, VECTORS)
        if str(spann.get("quantize") or "none").lower() != "none":
            yield Index(info.name, QUANTISED, VECTORS)


def reduced(info: CollectionInfo) -> CollectionInfo:
    """The collection without them: what a local Chroma can hold of it, its effective space among that."""
    if not unsupported(info):
        return info
    kept = {"hnsw": info.configuration.get("hnsw") or {"space": info.space}, "spann": None}
    return dataclasses.replace(info, configuration={**info.configuration, **kept}, schema=_without(info.schema))


def allowed(info: CollectionInfo, patterns: Iterable[str]) -> bool:
    """Whether `migration.drop_indexes` names the collection."""
    return any(fnmatchcase(info.name, pattern) for pattern in patterns)


def as_created(info: CollectionInfo, patterns: Collection[str]) -> CollectionInfo:
    """The collection as it is to be created. Raises `Terminal` ("index_unsupported") where something would be lost that
    `patterns` (`migration.drop_indexes`) do not give up.
    """
    lost = unsupported(info)
    if lost and not allowed(info, patterns):
        raise refusal(lost)
    return reduced(info)


def refusal(lost: Collection[Index]) -> Terminal:
    """The one line that names each index, and what to do."""
    names = list(dict.fromkeys(index.collection for index in lost))
    shown = ", ".join(one_line(name, 80) for name in names[:5]) + (", …" if len(names) > 5 else "")
    return Terminal(
        ReasonCode.INDEX_UNSUPPORTED, f"a local Chroma cannot hold {listed(lost)}", where="target",
        next_step=f"To migrate without: start a new run with migration.drop_indexes: [{shown}]; those who sign see it.",
    )  # fmt: skip


def listed(lost: Collection[Index]) -> str:
    """`docs: sparse index on sparse_key; docs: SPANN index on #embedding`, the first eight."""
    return "; ".join(str(index) for index in list(lost)[:8]) + (f"; and {len(lost) - 8} more" if len(lost) > 8 else "")


def _vector_config(types: Any) -> dict[str, Any]:
    config: dict[str, Any] = ((types or {}).get("float_list") or {}).get("vector_index", {}).get("config") or {}
    return config


def _without(schema: dict[str, Any] | None) -> dict[str, Any] | None:
    if schema is None:
        return None
    made = copy.deepcopy(schema)
    for types in (made.get("defaults"), made.get("keys", {}).get(VECTORS)):
        _vector_config(types).pop("spann", None)
    for types in made.get("keys", {}).values():
        types.pop("sparse_vector", None)
    made["keys"] = {key: types for key, types in made.get("keys", {}).items() if types}
    return made


def raw_schema(collection: DoorCollection) -> dict[str, Any] | None:
    """The schema as the server keeps it, or None where it keeps none (servers before 1.2 or so)."""
    schema = collection.get_model().serialized_schema
    return json.loads(json.dumps(schema)) if schema else None


def with_count(info: CollectionInfo, count: int) -> CollectionInfo:
    return dataclasses.replace(info, count=count)


def effective_configuration(info: CollectionInfo) -> dict[str, Any]:
    """The configuration whose space is the effective one; `hnsw:*` metadata of 0.x turned into parameters.

    The schema's num_threads and batch_size, which the configuration does not show, are put back in.
    """
    function = info.configuration.get("embedding_function")
    if info.configuration.get("spann"):
        spann = {**info.configuration["spann"], "space": info.space}
        return {"hnsw": None, "spann": spann, "embedding_function": function}
    hidden = _hidden_parameters(info.schema) | legacy_parameters(info.metadata)
    hnsw = {**(info.configuration.get("hnsw") or {}), **hidden, "space": info.space}
    return {"hnsw": hnsw, "spann": None, "embedding_function": function}


def effective_schema(info: CollectionInfo) -> dict[str, Any] | None:
    """The source's schema, the effective space in both places that hold it; None where it cannot be used.

    A schema beside `hnsw:*` metadata is refused ("cannot set both"): such collections go by configuration.
    """
    if info.schema is None or any(key.startswith("hnsw:") for key in info.metadata or {}):
        return None
    if declared(info.configuration) == info.space:
        return info.schema
    schema = copy.deepcopy(info.schema)
    for place in (schema.get("defaults", {}), schema.get("keys", {}).get("#embedding", {})):
        config = place.get("float_list", {}).get("vector_index", {}).get("config")
        if isinstance(config, dict):
            config["space"] = info.space
    return schema


def _hidden_parameters(schema: dict[str, Any] | None) -> dict[str, Any]:
    vectors = (schema or {}).get("keys", {}).get("#embedding", {}).get("float_list", {}).get("vector_index", {})
    hnsw = vectors.get("config", {}).get("hnsw") or {}
    return {name: hnsw[name] for name in ("num_threads", "batch_size") if name in hnsw}


_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]*[a-zA-Z0-9]")


def refused_name(name: str) -> str:
    """Why a current Chroma takes no collection of this name, or "". Older ones took more: one letter, blanks, accents."""
    if not 3 <= len(name) <= 512:
        return f"it has {len(name)} characters, 3 to 512 are allowed"
    if not _NAME.fullmatch(name):
        return "only letters a to z, digits, '.', '_' and '-' are allowed, a letter or digit at both ends"
    return ""


def create(client: Client, info: CollectionInfo) -> None:
    """Raises `Terminal`: "exists" where the name is taken, "collection_name" where it is none, "unsupported_metadata"
    where a value of its metadata is a list, which panics Chroma's engine (chroma-facts), "index_unsupported" where it
    has an index that a local Chroma cannot hold; changes nothing there.
    """
    if lost := unsupported(info):
        raise refusal(lost)
    if lists := sorted(key for key, value in (info.metadata or {}).items() if isinstance(value, list | tuple)):
        raise Terminal(
            ReasonCode.UNSUPPORTED_METADATA,
            f"the metadata of collection {info.name} has a list under {lists[0]}, which no Chroma takes",
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
    """The locking part of a store.

    A marker collection, whose creation is atomic on the server, keeps a second run out, from this machine or another. A run
    that was killed finds its own marker and goes on.
    """

    client: Client
    label: str

    def acquire_lock(self, run_id: str) -> None:
        """Take the lock, or keep it where this run holds it already. Raises `Terminal` ("lock_held")."""
        mark = {"run_id": run_id, "host": socket.gethostname(), "time": utc_now()}
        try:
            self.client.create_collection(LOCK_COLLECTION, metadata=mark, embedding_function=None)
        except Exception as error:
            if "already exists" not in str(error):
                raise translate(error, self.label) from error
        holder = self.lock_holder() or {}
        if holder.get("run_id") != run_id:
            name = str(holder.get("run_id", "?"))
            who, again = f"run {name}", f"{RUNBOOK} resume {name} (on that host)"
            if name.startswith(RESTORE):
                who, again = name, f"the same {RUNBOOK} snapshots restore as before, which was stopped"
            raise Terminal(
                ReasonCode.LOCK_HELD,
                f"{who} from host {holder.get('host', '?')} holds the target since {holder.get('time', '?')}",
                where=self.label,
                next_step=f"Finish it with: {again}. If it is dead for good, delete the empty collection {LOCK_COLLECTION}.",
            )

    def release_lock(self, run_id: str) -> None:
        """Give the lock back; nothing where another run holds it."""
        if (self.lock_holder() or {}).get("run_id") == run_id:
            attempt(lambda: self.client.delete_collection(LOCK_COLLECTION), self.label)

    def lock_holder(self) -> dict[str, Any] | None:
        """Run id, host and time of the holder, or None where the target is free."""
        try:
            collection = self.client.get_collection(LOCK_COLLECTION, embedding_function=None)
        except (NotFoundError, ValueError):
            return None
        except Exception as error:
            raise translate(error, self.label) from error
        return dict(collection.metadata or {})

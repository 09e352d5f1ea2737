"""What Chroma Cloud holds its clients to, and the counts of a stand-in: no network here. See `tests.cloud_standin`."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

# What a quota is called in a refusal, and its value. `where_document_value_length` is documented as 256 and was measured as
# 130; `num_query_embeddings` and `num_query_ids` stand in the source alone.
QUOTAS: dict[str, tuple[str, int]] = {
    "limit_value": ("Limit value", 300),
    "num_results": ("Number of results", 300),
    "num_records": ("Number of records", 300),
    "num_query_embeddings": ("Number of query embeddings", 20),
    "num_query_ids": ("Number of IDs to filter by in a query", 1000),
    "num_where_predicates": ("Number of where clause predicates", 8),
    "num_where_document_predicates": ("Number of where document predicates", 8),
    "where_document_value_length": ("Length of where document value", 130),
    "embedding_dimensions": ("Embedding dimension", 4096),
    "document_size_bytes": ("Document size (bytes)", 16_384),
    "uri_size_bytes": ("URI size (bytes)", 256),
    "id_size_bytes": ("ID size (bytes)", 128),
    "name_size_bytes": ("Name size (bytes)", 128),
    "metadata_key_size_bytes": ("Size of metadata dictionary key (bytes)", 36),
    "metadata_value_size_bytes": ("Size of metadata dictionary value (bytes)", 8182),
    "num_metadata_keys": ("Number of metadata dictionary keys", 32),
    "collection_metadata_value_size_bytes": ("Size of metadata dictionary value (bytes)", 256),
    "collection_num_metadata_keys": ("Number of metadata dictionary keys", 32),
}
CONCURRENT = {"reads": 10, "writes": 10}  # at one time, for one collection

WRITES = {"add": "Add", "update": "Update", "upsert": "Upsert", "delete": "Delete", "fork": "Fork Collection"}
READS = {"get": "Get", "query": "Query", "search": "Search", "count": "Count"}
_SPANN: dict[str, Any] = {
    "search_nprobe": 64, "write_nprobe": 32, "ef_construction": 200, "ef_search": 200, "max_neighbors": 64,
    "reassign_neighbor_count": 64, "split_threshold": 50, "merge_threshold": 25,
}  # fmt: skip


@dataclass(frozen=True)
class Identity:
    """Whose a key is. `databases` may be ("*",): every database of the tenant."""

    user_id: str
    tenant: str
    databases: tuple[str, ...]


@dataclass
class Rules:
    """What holds at the moment; all of it can be changed while the stand-in runs.

    `writes` and `reads` are "open" or "closed"; what is closed answers with `closed`: (status, error, message).
    `per_second` requests pass with a burst of as many; `storm` is the number of requests that get a 429 next, with
    `retry_after` seconds where it is set. `delay` seconds are waited in each request for a collection's records. `listed` is
    the number of collections in a list that names no limit. `sparse_index` names, by collection, the metadata keys that are
    shown with a sparse index, `quantized` the collections that are shown with quantisation; every collection is shown with
    SPANN where `spann` is true.
    """

    quotas: dict[str, int] = field(default_factory=lambda: {name: value for name, (_, value) in QUOTAS.items()})
    concurrent: dict[str, int] = field(default_factory=lambda: dict(CONCURRENT))
    writes: str = "open"
    reads: str = "open"
    closed: tuple[int, str, str] = (403, "ChromaError", "Permission denied.")
    per_second: float | None = None
    storm: int = 0
    retry_after: float | None = None
    delay: float = 0.0
    listed: int = 100
    spann: bool = True
    sparse_index: dict[str, list[str]] = field(default_factory=dict)
    quantized: list[str] = field(default_factory=list)


class Refusal(Exception):
    """An answer that comes from the stand-in, not from the server behind it."""

    def __init__(self, status: int, error: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.headers = status, dict(headers or {})
        self.body = json.dumps({"error": error, "message": message}).encode()


class Cloud:
    """The rules, the keys and the counts; one lock guards them. No network here."""

    def __init__(self, keys: Mapping[str, Identity]) -> None:
        self.keys, self.rules = dict(keys), Rules()
        self.guard = threading.Lock()
        self._names: dict[str, str] = {}
        self._tokens, self._since = 0.0, time.monotonic()
        self.reset()

    def reset(self) -> None:
        """Counts begin anew; what was handed out before is forgotten."""
        self.requests: Counter[str] = Counter()
        self.rows: Counter[str] = Counter()
        self.violations: Counter[str] = Counter()
        self.throttled = 0
        self._given: dict[str, Counter[str]] = {}  # by collection: how often each id went out with its vector
        self._running: Counter[tuple[str, str]] = Counter()
        self.highest = {"reads": 0, "writes": 0}

    def counts(self) -> dict[str, Any]:
        """See `CloudStandIn.counts`."""
        with self.guard:
            return {
                "requests": dict(self.requests),
                "rows": dict(self.rows),
                "violations": dict(self.violations),
                "throttled": self.throttled,
                "highest": dict(self.highest),
                "vectors": {self._names.get(c, c): sum(given.values()) for c, given in self._given.items()},
                "vectors_again": {
                    self._names.get(c, c): sum(given.values()) - len(given) for c, given in self._given.items()
                },
            }

    def change(self, changes: dict[str, Any]) -> None:
        """Rules by name; `quotas` and `concurrent` are merged. KeyError where a name is unknown."""
        with self.guard:
            if changes.pop("reset", False):
                self.reset()
            for name in ("quotas", "concurrent"):
                known = getattr(self.rules, name)
                for key, value in changes.pop(name, {}).items():
                    known[key] = type(known[key])(value)
            for name, value in changes.items():
                if name not in asdict(self.rules):
                    raise KeyError(name)
                setattr(self.rules, name, tuple(value) if name == "closed" else value)
            self._tokens, self._since = self.rules.per_second or 0.0, time.monotonic()

    # -- before a request is let through ---------------------------------------------------------------------------

    def identify(self, token: str | None) -> Identity:
        identity = self.keys.get(token or "")
        if identity is None:
            raise Refusal(401, "ChromaError", "Permission denied.")
        return identity

    def allow(self, identity: Identity, tenant: str | None, database: str | None) -> None:
        """The key's own tenant, and the databases that it names."""
        if tenant != identity.tenant or (database and not {database, "*"} & set(identity.databases)):
            raise Refusal(403, "ChromaError", "Permission denied.")

    def open_for(self, kind: str) -> None:
        if getattr(self.rules, kind) != "open":
            raise Refusal(*self.rules.closed)

    def throttle(self) -> None:
        with self.guard:
            now, per_second = time.monotonic(), self.rules.per_second
            if per_second:
                self._tokens = min(per_second, self._tokens + (now - self._since) * per_second)
                self._since = now
            if self.rules.storm > 0:
                self.rules.storm -= 1
            elif not per_second or self._tokens >= 1:
                self._tokens -= 1
                return
            self.throttled += 1
        raise self._too_many()

    def _too_many(self) -> Refusal:
        after = self.rules.retry_after
        headers = {"retry-after": f"{after:g}"} if after is not None else {}
        return Refusal(429, "ChromaError", "Too many requests; backoff and try again", headers)

    @contextmanager
    def at_work(self, collection: str, kind: str) -> Iterator[None]:
        """One of the requests for a collection that run at one time."""
        place = (collection, kind)
        with self.guard:
            if self._running[place] >= self.rules.concurrent[kind]:
                self.violations[f"concurrent {kind}"] += 1
                raise self._too_many()
            self._running[place] += 1
            self.highest[kind] = max(self.highest[kind], self._running[place])
        try:
            yield
        finally:
            with self.guard:
                self._running[place] -= 1

    def hold(self, quota: str, action: str, usage: int) -> None:
        """Raise the refusal of a quota that this usage exceeds."""
        limit, text = self.rules.quotas[quota], QUOTAS[quota][0]
        if usage <= limit:
            return
        with self.guard:
            self.violations[text] += 1
        raise Refusal(
            422, "ChromaError",
            f"Quota exceeded: '{text}' exceeded quota limit for action '{action}': "
            f"current usage of {usage} exceeds limit of {limit}",
        )  # fmt: skip

    def hold_filters(self, action: str, body: Mapping[str, Any]) -> None:
        self.hold("num_where_predicates", action, len(list(leaves(body.get("where")))))
        patterns = list(leaves(body.get("where_document")))
        self.hold("num_where_document_predicates", action, len(patterns))
        for pattern in patterns:
            self.hold("where_document_value_length", action, len(str(pattern)))

    def hold_records(self, action: str, body: Mapping[str, Any]) -> None:
        """The quotas of a write."""
        ids = body.get("ids") or []
        self.hold("num_records", action, len(ids))
        self.hold("id_size_bytes", action, longest(ids))
        self.hold("document_size_bytes", action, longest(body.get("documents")))
        self.hold("uri_size_bytes", action, longest(body.get("uris")))
        for vector in body.get("embeddings") or []:
            if vector is not None:  # base64 of float32, or a list
                width = len(vector.rstrip("=")) * 3 // 16 if isinstance(vector, str) else len(vector)
                self.hold("embedding_dimensions", action, width)
        for metadata in body.get("metadatas") or []:
            self.hold("num_metadata_keys", action, len(metadata or {}))
            self.hold("metadata_key_size_bytes", action, longest(metadata))
            self.hold("metadata_value_size_bytes", action, longest((metadata or {}).values()))

    def hold_collection(self, action: str, body: Mapping[str, Any]) -> None:
        """The quotas of a collection that is made or changed."""
        metadata = body.get("metadata") or body.get("new_metadata") or {}
        self.hold("name_size_bytes", action, longest([body.get("name"), body.get("new_name")]))
        self.hold("collection_num_metadata_keys", action, len(metadata))
        self.hold("metadata_key_size_bytes", action, longest(metadata))
        self.hold("collection_metadata_value_size_bytes", action, longest(metadata.values()))

    # -- after the server has answered -----------------------------------------------------------------------------

    def handed_out(self, action: str, collection: str, ids: Sequence[Any], vectors: bool) -> None:
        flat = [i for row in ids for i in (row if isinstance(row, list) else [row])]
        with self.guard:
            self.rows[action] += len(flat)
            if action == "Get" and vectors:
                self._given.setdefault(collection, Counter()).update(flat)

    def as_in_cloud(self, collection: dict[str, Any]) -> dict[str, Any]:
        """A collection as Cloud describes it: SPANN instead of HNSW, sparse indexes, quantisation."""
        name = str(collection.get("name"))
        self._names[str(collection.get("id"))] = name
        if not self.rules.spann or not collection.get("schema"):
            return collection
        configuration, schema = collection["configuration_json"], collection["schema"]
        space = (configuration.get("hnsw") or {}).get("space", "l2")
        configuration.update(hnsw=None, spann={"space": space, **_SPANN})
        spann = {**_SPANN, "quantize": "four_bit_rabit_q_with_u_search"} if name in self.rules.quantized else _SPANN
        for part in (schema["defaults"], *schema["keys"].values()):
            if "float_list" in part:
                described = part["float_list"]["vector_index"]["config"]
                described.pop("hnsw", None)
                described["spann"] = spann
        for key in self.rules.sparse_index.get(name, []):
            index = {"enabled": True, "config": {"source_key": "#document", "bm25": False}}
            schema["keys"].setdefault(key, {})["sparse_vector"] = {"sparse_vector_index": index}
        return collection


def leaves(where: Any) -> Iterator[Any]:
    """The values that a filter compares with: one for each predicate; the values of an `$in` count as one."""
    for key, value in (where or {}).items():
        if key in ("$and", "$or"):
            for part in value:
                yield from leaves(part)
        else:
            yield value


def longest(texts: Any) -> int:
    """Bytes of the longest text; what is no text has a size of its own that no quota reaches."""
    return max((len(t.encode("utf-8", "surrogatepass")) for t in texts or () if isinstance(t, str)), default=0)


def as_text(value: Any) -> Any:
    """A sparse vector as the text that is kept behind the stand-in."""
    if isinstance(value, dict) and value.get("#type") == "sparse_vector":
        return f"@sparse:{','.join(map(str, value['indices']))}:{','.join(map(repr, value['values']))}"
    return value

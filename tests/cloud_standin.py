"""A stand-in for Chroma Cloud: what the hosted service asks of a client, in front of a real `chroma run`.

Chroma Cloud cannot be reached from a test. Its rules can: this proxy demands a key, answers whose key it is, refuses what
is over a quota, cuts a `get` that names no limit, holds concurrency and rate down, and can close for writes or for reads.
The words of its refusals are those of Chroma's own server (rust/frontend: quota/mod.rs, server.rs, auth.rs); the values of
the quotas are those of docs.trychroma.com/cloud/quotas-limits, but for three that users measured or the source alone names
(see `QUOTAS`). What it had to refuse is counted, and so is every row that it handed out.

It runs in a process of its own: `CloudStandIn(server.url)` in a test, `python -m tests.cloud_standin --help` by hand.

A local server refuses sparse vectors in metadata. They are kept behind the stand-in as text and handed out as Cloud does.
"""

from __future__ import annotations

import argparse
import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast
from urllib.parse import unquote, urlsplit

import httpx

KEY = "ck-5tandIn-0f-the-tests"
TENANT = "7c9e6679-7425-40de-944b-e07fc1f90ae7"
DATABASE = "production"
CONTROL = "/_standin"
START_SECONDS = 60.0

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

PUBLIC = ("heartbeat", "version", "pre-flight-checks", "healthcheck")
WRITES = {"add": "Add", "update": "Update", "upsert": "Upsert", "delete": "Delete", "fork": "Fork Collection"}
READS = {"get": "Get", "query": "Query", "search": "Search", "count": "Count"}
_SPARSE = re.compile(rb'"@sparse:([0-9,]*):([-+.0-9e,]*)"')
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


class _Handler(BaseHTTPRequestHandler):
    """One connection of a client, with one connection to the server behind."""

    cloud: Cloud
    upstream: tuple[str, int]
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are two writes

    def setup(self) -> None:
        super().setup()
        self._server = http.client.HTTPConnection(*self.upstream, timeout=120)

    def finish(self) -> None:
        self._server.close()
        super().finish()

    def answer_request(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        try:
            status, content, headers = self.serve(body)
        except Refusal as refusal:
            status, content, headers = refusal.status, refusal.body, refusal.headers
        except (OSError, http.client.HTTPException) as error:
            self._server.close()
            status, headers = 502, {}
            content = json.dumps({"error": "InternalError", "message": f"{type(error).__name__}: {error}"}).encode()
        self.send_response(status)
        for name, value in {"content-type": "application/json", **headers}.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer_request  # the names that http.server looks for

    def serve(self, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        cloud, url = self.cloud, urlsplit(self.path)
        if url.path == CONTROL:
            if self.command == "POST":
                cloud.change(json.loads(body))
            return 200, json.dumps(cloud.counts() | {"rules": asdict(cloud.rules)}).encode(), {}
        parts = [unquote(p) for p in url.path.split("/") if p][2:]  # after api/v2
        if not url.path.startswith("/api/v2") or (len(parts) == 1 and parts[0] in PUBLIC):
            if parts == ["pre-flight-checks"]:
                return 200, b'{"max_batch_size":1000,"supports_base64_encoding":true}', {}
            return self.forward(body)
        with cloud.guard:
            cloud.requests["all"] += 1
        cloud.throttle()
        identity = cloud.identify(self.headers.get("x-chroma-token"))
        if parts == ["auth", "identity"]:
            return 200, json.dumps(asdict(identity)).encode(), {}
        if parts[0] != "tenants" or len(parts) < 2 or (parts[2:] == ["databases"] and "*" not in identity.databases):
            raise Refusal(403, "ChromaError", "Permission denied.")
        cloud.allow(identity, parts[1], parts[3] if len(parts) > 3 else None)
        return self.of_tenant(parts, url.query, body)

    def of_tenant(self, parts: list[str], query: str, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        """tenants/T[/databases[/D[/collections[/C[/operation]]]]]"""
        cloud = self.cloud
        operation = parts[6] if len(parts) > 6 else ""
        reads = self.command == "GET" or operation in ("get", "query", "search")
        cloud.open_for("reads")
        if not reads:
            cloud.open_for("writes")
        if operation in WRITES or operation in READS:
            with cloud.at_work(parts[5], "reads" if reads else "writes"):
                time.sleep(cloud.rules.delay)
                return self.of_records(parts[5], operation, json.loads(body or b"{}"), body)
        if len(parts) == 5 and self.command == "GET":
            return self.listed(query)
        if len(parts) in (5, 6) and self.command in ("POST", "PUT"):
            action = "Create Collection" if len(parts) == 5 else "Update Collection"
            self.count(action)
            cloud.hold_collection(action, json.loads(body))
        elif len(parts) == 3 and self.command == "POST":
            self.count("Create Database")
            cloud.hold("name_size_bytes", "Create Database", longest([json.loads(body).get("name")]))
        status, content, headers = self.forward(body)
        if status == 200 and len(parts) in (5, 6) and content not in (b"", b"{}"):
            content = json.dumps(cloud.as_in_cloud(json.loads(content))).encode()
        return status, content, headers

    def listed(self, query: str) -> tuple[int, bytes, dict[str, str]]:
        self.count("List Collections")
        given = dict(pair.split("=", 1) for pair in query.split("&") if "=" in pair)
        self.cloud.hold("limit_value", "List Collections", int(given.get("limit", 0)))
        given.setdefault("limit", str(self.cloud.rules.listed))
        self.path = urlsplit(self.path).path + "?" + "&".join(f"{k}={v}" for k, v in given.items())
        status, content, headers = self.forward(b"")
        if status == 200:
            content = json.dumps([self.cloud.as_in_cloud(c) for c in json.loads(content)]).encode()
        return status, content, headers

    def of_records(
        self, collection: str, operation: str, asked: dict[str, Any], body: bytes
    ) -> tuple[int, bytes, dict[str, str]]:
        """A request for the records of a collection, held against the quotas, its rows counted."""
        cloud, action = self.cloud, WRITES.get(operation) or READS[operation]
        self.count(action)
        cloud.hold_filters(action, asked)
        if operation in WRITES:
            cloud.hold_records(action, asked)
            if asked.get("metadatas"):
                asked["metadatas"] = [m and {k: as_text(v) for k, v in m.items()} for m in asked["metadatas"]]
                body = json.dumps(asked).encode()
        elif operation == "get":
            cloud.hold("limit_value", action, asked.get("limit") or 0)
            cloud.hold("num_records", action, len(asked.get("ids") or []))
            if asked.get("limit") is None:  # cut at the quota, in silence
                body = json.dumps(asked | {"limit": cloud.rules.quotas["limit_value"]}).encode()
        elif operation == "query":
            cloud.hold("num_results", action, asked.get("n_results") or 0)
            cloud.hold("num_query_embeddings", action, len(asked.get("query_embeddings") or []))
            cloud.hold("num_query_ids", action, len(asked.get("ids") or []))
        status, content, headers = self.forward(body)
        if status == 200 and operation in ("get", "query"):
            cloud.handed_out(action, collection, ids_of(content), "embeddings" in (asked.get("include") or ()))
            content = _SPARSE.sub(rb'{"#type":"sparse_vector","indices":[\1],"values":[\2]}', content)
        return status, content, headers

    def count(self, action: str) -> None:
        with self.cloud.guard:
            self.cloud.requests[action] += 1

    def forward(self, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        headers = {"content-type": "application/json", "content-length": str(len(body))}
        for again in (True, False):
            try:
                self._server.request(self.command, self.path, body, headers)
                reply = self._server.getresponse()
                return reply.status, reply.read(), {}
            except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
                self._server.close()  # a kept connection that the server has closed meanwhile
                if not again:
                    raise
        raise AssertionError("answered or raised")

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the name in http.server
        """Silence: what counts is counted."""


def ids_of(content: bytes) -> list[Any]:
    """The ids of an answer, which Chroma writes first, without reading megabytes of vectors."""
    text = content.decode("utf-8", "surrogatepass")
    if text.startswith('{"ids":'):
        return cast(list[Any], json.JSONDecoder().raw_decode(text, len('{"ids":'))[0])
    return cast(list[Any], json.loads(text)["ids"])


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed is no event; a fault of the stand-in itself is."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class CloudStandIn:
    """The stand-in in a process of its own, in front of the Chroma server at `upstream`.

        with CloudStandIn(server.url) as cloud:
            source = {"url": cloud.url, "headers": {"x-chroma-token": cloud.key}}

    Tenant and databases are made behind it. `key` is a key of `databases`, `wide_key` one of every database of the tenant.
    Its port stays the same through `restart`; its rules and counts do not.
    """

    key, wide_key = KEY, KEY + "-wide"

    def __init__(
        self, upstream: str, *, tenant: str = TENANT, databases: Sequence[str] = (DATABASE,), port: int | None = None
    ) -> None:
        self.upstream, self.tenant, self.databases = upstream, tenant, tuple(databases)
        self.port = port or _free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def counts(self) -> dict[str, Any]:
        """What came so far.

        `requests` and `rows` by action ("Get", "Query", …; "all" with those that were refused), `violations` by the quota's
        name in the refusal and "concurrent reads|writes", `throttled` (429 of rate or storm), `highest` concurrency at one
        collection, and by collection `vectors` (rows of `get` with their vector) and `vectors_again` (those of them that had
        gone out before).
        """
        return cast(dict[str, Any], self._control(None))

    def set(self, **changes: Any) -> dict[str, Any]:
        """Change `Rules` by name while it runs; `reset=True` begins the counts anew. Returns the counts."""
        return cast(dict[str, Any], self._control(changes))

    def _control(self, changes: dict[str, Any] | None) -> Any:
        with httpx.Client(trust_env=False, timeout=30) as client:
            url = self.url + CONTROL
            answer = client.get(url) if changes is None else client.post(url, json=changes)
        answer.raise_for_status()
        return answer.json()

    @contextmanager
    def client(self, database: str | None = None, *, behind: bool = False) -> Iterator[Any]:
        """Chroma's own client of a database: through the stand-in, or of the server behind it."""
        import chromadb  # here, since the stand-in's own process needs none of it: seconds at each start

        host, port = (self.upstream if behind else self.url).removeprefix("http://").split(":")
        client: Any = chromadb.HttpClient(
            host=host, port=int(port), tenant=self.tenant, database=database or self.databases[0],
            headers={"x-chroma-token": self.key},
        )  # fmt: skip
        try:
            yield client
        finally:
            client.close()
            for part in (client, client._admin_client):
                part._server._session.close()

    def start(self) -> Self:
        create_behind(self.upstream, self.tenant, self.databases)
        keys = [f"{self.key}={','.join(self.databases)}", f"{self.wide_key}=*"]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.cloud_standin", "--upstream", self.upstream, "--port", str(self.port),
             "--tenant", self.tenant, *(part for key in keys for part in ("--key", key))],
            cwd=Path(__file__).resolve().parent.parent, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                self.counts()
                return self
            except httpx.TransportError:
                time.sleep(0.05)
        self.stop()
        raise RuntimeError(f"the stand-in did not start on {self.url}")

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)
        self._process = None

    def restart(self) -> Self:
        self.stop()
        return self.start()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def create_behind(upstream: str, tenant: str, databases: Sequence[str]) -> None:
    """Make the tenant and its databases at the real server; those that exist stay."""
    with httpx.Client(base_url=f"{upstream}/api/v2", trust_env=False, timeout=60) as client:
        places = [("/tenants", tenant), *((f"/tenants/{tenant}/databases", database) for database in databases)]
        for path, name in places:
            answer = client.post(path, json={"name": name})
            if not answer.is_success and client.get(f"{path}/{name}").status_code != 200:
                answer.raise_for_status()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.cloud_standin", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--upstream", required=True, help="URL of a running Chroma server")
    parser.add_argument("--port", type=int, default=8200)
    parser.add_argument("--tenant", default=TENANT, help="made at the server where it does not exist")
    parser.add_argument(
        "--key", action="append", metavar="KEY=DB,DB", help=f"default: {KEY}={DATABASE}; * is every database"
    )
    given = parser.parse_args(arguments)
    keys = {}
    for text in given.key or [f"{KEY}={DATABASE}"]:
        key, _, databases = text.partition("=")
        keys[key] = Identity("f47ac10b-58cc-4372-a567-0e02b2c3d479", given.tenant, tuple(databases.split(",")))
        create_behind(given.upstream, given.tenant, [d for d in databases.split(",") if d != "*"])
    place = urlsplit(given.upstream)

    class Handler(_Handler):
        cloud = Cloud(keys)
        upstream = (place.hostname or "127.0.0.1", place.port or 8000)

    server = _Server(("127.0.0.1", given.port), Handler)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown, daemon=True).start())
    print(f"Chroma Cloud's stand-in: http://127.0.0.1:{given.port}, x-chroma-token {', '.join(keys)}", flush=True)
    server.serve_forever(poll_interval=0.05)


if __name__ == "__main__":
    main()

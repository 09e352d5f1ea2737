"""The only module that constructs Chroma's clients, engines and settings (tests/test_one_door_to_chroma.py).

- No setting comes from outside. `chromadb.Settings` reads exported variables and the `.env` of the working folder, so
  `CHROMA_API_IMPL` and `CHROMA_SERVER_HOST` would redirect an embedded opening to another server. Here every field has
  Chroma's default or our value.
- The engine keeps the index of each collection that it used in memory, with four open files. The limit of open files is
  raised as far as allowed, and the engine is reopened for each portion of the collections that fits.
- A server is asked at the whole address, with our session (`wire`) from the first request on.
- A stored configuration or schema names embedding functions, and Chroma's client builds them: perhaps a function that
  sends any variable of this process to any URL, or downloads a model with code in it. Here its registries hold only
  `LOCAL_FUNCTIONS`; `creation` builds others, where the parameters allow them.
"""

from __future__ import annotations

import _thread
import copy
import mmap
import os
import queue
import re
import resource
import sys
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
import orjson
from pydantic_settings import BaseSettings

from helpers.errors import Terminal
from helpers.reason_codes import ReasonCode
from helpers.stores.wire import Session, json_of


def _only_given(cls: object, /, settings_cls: object, init_settings: Any, **others: object) -> tuple[Any, ...]:
    return (init_settings,)


# Chroma builds settings during its import: a malformed value in the environment or in a `.env` would end the import.
with mock.patch.object(BaseSettings, "settings_customise_sources", classmethod(_only_given)):
    import chromadb.api.shared_system_client
    from chromadb import Schema
    from chromadb import __version__ as CLIENT_VERSION
    from chromadb.api import ClientAPI, ServerAPI
    from chromadb.api.base_http_client import BaseHTTPClient
    from chromadb.api.client import Client
    from chromadb.api.fastapi import FastAPI
    from chromadb.api.models.Collection import Collection
    from chromadb.api.rust import RustBindingsAPI
    from chromadb.api.types import Documents, EmbeddingFunction, Embeddings, Space
    from chromadb.base_types import SparseVector
    from chromadb.config import Settings, System
    from chromadb.errors import AuthorizationError, NotFoundError
    from chromadb.telemetry.opentelemetry import OpenTelemetryClient
    from chromadb.telemetry.product import ProductTelemetryClient
    from chromadb.utils.embedding_functions import (
        known_embedding_functions,
        register_embedding_function,
        sparse_known_embedding_functions,
    )
    from chromadb.utils.embedding_functions.onnx_mini_lm_l6_v2 import ONNXMiniLM_L6_V2

__all__ = [
    "CLIENT_VERSION",
    "EMBEDDING_FUNCTIONS",
    "LOCAL_FUNCTIONS",
    "AuthorizationError",
    "Client",
    "ClientAPI",
    "Collection",
    "Documents",
    "EmbeddingFunction",
    "Embeddings",
    "FastAPI",
    "NotFoundError",
    "ONNXMiniLM_L6_V2",
    "Schema",
    "Space",
    "SparseVector",
    "embedded_client",
    "known_embedding_functions",
    "raise_file_limit",
    "register_embedding_function",
    "server_client",
]  # fmt: skip

LOCAL_FUNCTIONS = ("default", "onnx_mini_lm_l6_v2")  # one model on this machine, without settings of a collection
EMBEDDING_FUNCTIONS = dict(known_embedding_functions)  # all that Chroma's client has, by name
for _registry in (known_embedding_functions, sparse_known_embedding_functions):
    for _name in set(_registry) - set(LOCAL_FUNCTIONS):
        del _registry[_name]

_SHARED = chromadb.api.shared_system_client.SharedSystemClient
_OPENING = threading.Lock()
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")  # a collection's id
FILES_WANTED = 65_536
FILES_FOR_OTHERS = 100  # open files besides those of indexes: SQLite, Parquet, sockets, the kernel's own
FILES_OF_AN_INDEX = 4  # measured: header, level 0, lengths, link lists
ENGINES = 4  # at most in one process: a copied source, a staged target, the target, and a spare one
MOST_INDEXES = 250  # that one engine holds in memory; under 1,024 files it held 192
THREADS = 12 + 2 * (os.cpu_count() or 2)  # that an engine may start; ten on two cores (measured)
STACK = 2 * 2**20  # bytes of each
SHARDS = 64  # of the engine's cache of indexes, each with its share of the capacity (measured)


def settings(**fields: Any) -> Settings:
    """Return settings with Chroma's defaults and these fields, without the environment and without telemetry."""
    return Settings.model_construct(**{"anonymized_telemetry": False, **fields})


@contextmanager
def embedded_client(path: Path, tenant: str, database: str) -> Iterator[Client]:
    """Open Chroma's engine on this directory, in this process, which rewrites the directory. Errors are Chroma's own.

    Raises `Terminal`: "not_embedded" where something else than the engine answers, "too_few_files" where the limit of open files
    allows not one index, "out_of_memory" where its threads cannot be started.
    """
    most = _indexes()
    chosen = settings(persist_directory=str(path), is_persistent=True)
    with _OPENING:
        systems = _SHARED._identifier_to_system
        if str(path) not in systems:
            system = System(chosen)
            system.instance(ProductTelemetryClient)  # type: ignore[type-abstract]  # found by the settings
            engine = system.instance(ServerAPI)  # type: ignore[type-abstract]
            if isinstance(engine, RustBindingsAPI):
                engine.hnsw_cache_size = most * SHARDS  # no part of the cache is full before `most` are in it
            _require_threads(path)
            system.start()
            if isinstance(engine, RustBindingsAPI):
                engine.bindings = _InPortions(engine, most)
            systems[str(path)] = system
        client = Client(tenant=tenant, database=database, settings=chosen)
    try:
        _require_engine(client, path)
        yield client
    finally:
        client.close()


def _require_threads(path: Path) -> None:
    """Require `THREADS` threads with their memory at once. Raises `Terminal` ("out_of_memory").

    An engine that cannot start a thread waits for ever, with the interpreter's lock held: nothing in the process could end it.
    The C library reuses the stacks of these threads for those of the engine, which have the same size.
    """
    gate, ended, started = _thread.allocate_lock(), queue.SimpleQueue[None](), 0
    former = threading.stack_size(STACK)
    try:
        with gate, mmap.mmap(-1, THREADS * STACK // 2):  # their working memory; nothing is written to it
            for _ in range(THREADS):
                _thread.start_new_thread(_wait_for_gate, (gate, ended))
                started += 1
        for _ in range(started):
            ended.get(timeout=10)
    except (RuntimeError, MemoryError, OSError, queue.Empty) as error:
        raise Terminal(
            ReasonCode.OUT_OF_MEMORY, f"too little memory, or too few threads, for Chroma's engine ({THREADS} threads)",
            where=str(path), next_step="Let the process have more (ulimit -u, ulimit -v, its container's limits), then repeat.",
        ) from error  # fmt: skip
    finally:
        threading.stack_size(former)


def _wait_for_gate(gate: _thread.LockType, ended: queue.SimpleQueue[None]) -> None:
    """Wait in a thread until `gate` opens. Not a `threading.Thread`: if that dies at once for lack of memory, its `start` waits
    for ever (CPython 3.11)."""
    with suppress(MemoryError), gate:
        ended.put(None)


def _require_engine(client: Client, path: Path) -> None:
    actual = client._system.settings
    is_local = (
        isinstance(client._server, RustBindingsAPI) and actual.is_persistent and actual.persist_directory == str(path)
    )
    if not is_local or not (path / "chroma.sqlite3").is_file():
        raise Terminal(
            ReasonCode.NOT_EMBEDDED, f"Chroma did not open this folder, but used {type(client._server).__name__} instead",
            where=str(path), next_step="Install chromadb (not chromadb-client) and run from a clean environment.",
        )  # fmt: skip


def raise_file_limit() -> int:
    """Raise the limit of open files, for this process and the kernels that it starts, as far as allowed; return the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    for limit in (FILES_WANTED, 10_240):  # macOS refuses more than 10,240 whatever the hard limit says
        requested = limit if hard == unlimited else min(limit, hard)
        if soft != unlimited and soft < requested:
            with suppress(ValueError, OSError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (requested, hard))
                break
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return sys.maxsize if soft == unlimited else soft


def _indexes() -> int:
    """Return how many indexes one engine may have open. Raises `Terminal` ("too_few_files") for less than one."""
    limit = raise_file_limit()
    most = (limit - FILES_FOR_OTHERS) // (FILES_OF_AN_INDEX * ENGINES)
    if most < 1:
        raise Terminal(
            ReasonCode.TOO_FEW_FILES, f"only {limit} files may be open in this process, and Chroma's engine needs more",
            next_step="Raise the limit before the command: ulimit -n 1024 (systemd: LimitNOFILE=, Docker: --ulimit nofile=1024).",
        )  # fmt: skip
    return min(most, MOST_INDEXES)


class _InPortions:
    """The engine's bindings, reopened before the engine has used more than `most` collections.

    A full cache of indexes evicts one that may never have been written to disk, and every later read of that collection fails
    ("Nothing found on disk", 1.5.9). So the cache is never full, and a new engine reads the log again. Calls run concurrently;
    the engine is reopened while none runs, so that no two engines use one directory.
    """

    def __init__(self, engine: RustBindingsAPI, most: int) -> None:
        self._bindings: Any = engine.bindings
        self._engine, self._most = copy.copy(engine), most  # the copy is reopened; clients only see these portions
        del self._engine.bindings
        self._touched: set[str] = set()
        self._running, self._full = 0, False
        self._changed = threading.Condition()

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> Any:
            collections = {a for a in arguments if isinstance(a, str) and _UUID.fullmatch(a)}
            with self._changed:
                while self._full or len(self._touched | collections) > self._most:
                    self._full = True  # new calls wait, else some call might always be running
                    if self._running:
                        self._changed.wait()
                    else:
                        self._renew()
                self._touched |= collections
                self._running += 1
                method = getattr(self._bindings, name)
            try:
                return method(*arguments)
            finally:
                del method
                with self._changed:
                    self._running -= 1
                    self._changed.notify_all()

        return call

    def _renew(self) -> None:
        self._bindings = None  # the old one is closed before the new one opens
        try:
            _require_threads(Path(self._engine._system.settings.persist_directory))
            self._engine.start()
            self._bindings = self._engine.bindings
            del self._engine.bindings
            self._touched, self._full = set(), False
        finally:
            self._changed.notify_all()


@contextmanager
def server_client(address: str, session: Session, tenant: str, database: str) -> Iterator[Client]:
    """Give Chroma's client of the server at `address` (scheme, host, port, path prefix), without a request.

    The session is the caller's; Chroma's headers are added to its own.
    """
    system = System(settings(chroma_api_impl="chromadb.api.fastapi.FastAPI"))
    yield _ServerClient(_Api(system, address, session), tenant, database)


class _ServerClient(Client):
    """Chroma's client without its constructor, which opens two sessions and sends requests without a time-out."""

    def __init__(self, server: _Api, tenant: str, database: str) -> None:
        self._server, self.tenant, self.database = server, tenant, database
        self._closed = True  # the caller closes the session, the only resource


class _Api(FastAPI):
    """Chroma's own requests, sent by our session; answers are read as UTF-8, and their shape is checked."""

    def __init__(self, system: System, address: str, session: Session) -> None:
        BaseHTTPClient.__init__(self, system)
        self._opentelemetry_client = self.require(OpenTelemetryClient)
        self._product_telemetry_client = self.require(ProductTelemetryClient)  # type: ignore[type-abstract]
        self._api_url = f"{address.rstrip('/')}/api/v2"
        self._session = session
        self._header = {"Content-Type": "application/json"}
        session.headers.update(self._header)
        self._make_request = self._ask  # type: ignore[method-assign]

    def _ask(self, method: str, path: str, **options: Any) -> Any:
        """Do FastAPI's `_make_request`. Raises Chroma's errors, and `Transient` ("not_json")."""
        if "json" in options:
            options["content"] = orjson.dumps(options.pop("json"), option=orjson.OPT_SERIALIZE_NUMPY)
        url = self._api_url + urllib.parse.quote(path, safe="/")
        response = self._session.request(method, url, **options)
        if not response.is_success:
            _refuse_a_page(response)
            BaseHTTPClient._raise_chroma_error(response)
        return json_of(response, *_expected_answer(method, path))


def _refuse_a_page(response: httpx.Response) -> None:
    """Raise for an error page of a proxy, which proves nothing about the data: `Transient`, or `Terminal` for 401 and 403.

    Not for 413, which concerns the size of the request.
    """
    if not response.content.lstrip().startswith(b"<") or response.status_code == 413:
        return
    if response.status_code in (401, 403):
        raise Terminal(
            ReasonCode.FORBIDDEN, f"answered {response.status_code} with a page that is not Chroma's",
            where=str(response.request.url.copy_with(query=None)),
            next_step="Check headers, and the proxies in between.",
        )  # fmt: skip
    json_of(response)


def _expected_answer(method: str, path: str) -> tuple[type, str]:
    """Return the type that the answer to a request must have, and a key that it must contain."""
    parts = path.strip("/").split("/")
    if len(parts) > 1 and parts[-2] in ("collections", "tenants", "databases"):
        return (dict, "name") if method.lower() == "get" else (object, "")
    if parts[-1] == "collections":
        return (list, "") if method.lower() == "get" else (dict, "id")
    known: dict[str, tuple[type, str]] = {
        "get": (dict, "ids"), "query": (dict, "ids"), "count": (int, ""), "collections_count": (int, ""), "version": (str, ""),
    }  # fmt: skip
    return known.get(parts[-1], (object, ""))

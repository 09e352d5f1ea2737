"""From an endpoint in the parameters to an open store.

A source directory is recognised and copied first: the copy is opened, the original's bytes never change. A server is
asked for its heartbeat, tenant and database first.
"""

from __future__ import annotations

import shutil
import sqlite3
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from helpers.errors import Terminal
from helpers.parameters.endpoint import DEFAULT_DATABASE, DEFAULT_TENANT, Endpoint
from helpers.stores import door, layout
from helpers.stores.api_v1 import ApiV1Store
from helpers.stores.base import LOCK_COLLECTION, Reader
from helpers.stores.client import ClientStore
from helpers.stores.duckdb_layout import DuckdbStore, is_duckdb_layout, stored_names
from helpers.stores.greeting import greet, request_headers, session_of
from helpers.stores.limits import CLOUD, Limits
from helpers.stores.requests import Usage
from helpers.stores.rescue import Rescued
from helpers.stores.rescued import RescuedStore
from helpers.stores.retry import attempt, retried
from helpers.stores.source_copy import prepare

MOST_BODY_BYTES = 40 * 2**20  # of a request that a server takes (chroma-facts)
BODY_BYTES = 32 * 2**20  # what we send at once; headroom for what JSON adds


@contextmanager
def open_source(
    endpoint: Endpoint, scratch: Path, wanted: Callable[[str], bool] = lambda name: True, *, normalised: bool = False
) -> Iterator[Reader]:
    """A source to read. An embedded one is copied into `scratch` and the copy removed at the end.

    The copy is mended and, where indexes are damaged, rescued (`source_copy`). Only the collections that are `wanted` by
    name have to be readable; the others are listed and let alone. `normalised`: use vectors whose norm is lost.
    """
    if not endpoint.path:
        with open_server(endpoint, "source") as store:
            yield store
        return
    if is_duckdb_layout(Path(endpoint.path)):
        _require_no_tenant(endpoint)
        with DuckdbStore(Path(endpoint.path), endpoint.label, wanted, endpoint.rename) as old:
            yield old
        return
    _require_no_rename(endpoint)
    copy = scratch / f"source-copy-{uuid.uuid4().hex[:8]}"
    try:
        found, rescued = prepare(endpoint, copy, wanted, normalised=normalised)
        found.source += layout.leftovers(Path(endpoint.path))
        spaces = layout.stored_spaces(copy)
        with open_embedded(
            copy, endpoint, role="source", label=endpoint.label, spaces=spaces, rescued=rescued
        ) as store:
            store.note(found.source, found.collections, found.repairs)
            yield store
    finally:
        shutil.rmtree(copy, ignore_errors=True)


@contextmanager
def open_target(endpoint: Endpoint) -> Iterator[ClientStore]:
    """A target to write to. An embedded one is opened in place, and made where there is none."""
    if endpoint.path:
        path = Path(endpoint.path)
        layout.require_writable(path)
        if layout.is_new(path):
            _make_directory(path, endpoint)
        _require_current(path)
        with open_embedded(path, endpoint, role="target", label=endpoint.label) as store:
            yield store
    else:
        headers = request_headers(endpoint, "target")
        _, found = greet(endpoint, "target", headers)  # refuses a server that speaks only API v1
        with _current_server(found, headers) as store:
            yield store


def _make_directory(path: Path, endpoint: Endpoint) -> None:
    """A new, empty database, there whole or not at all: made in a folder inside its own, then moved up.

    A kill while Chroma writes its first tables would leave a database that looks like one of an older version. The folder
    itself may be a mount point or a link: nothing could be renamed onto it.
    """
    path.mkdir(parents=True, exist_ok=True)
    for left in path.glob(f"{layout.OURS}*"):
        shutil.rmtree(left)
    partial = path / f"{layout.OURS}partial"
    with open_embedded(partial, endpoint, role="target", label=endpoint.label):
        pass
    for file in sorted(partial.iterdir(), key=lambda file: file.name == layout.DATABASE):  # the database last
        file.rename(path / file.name)
    partial.rmdir()


def quick_names(endpoint: Endpoint, role: str) -> list[str]:
    """The collections at an endpoint, without writing a byte anywhere: for a look before anything starts."""
    if endpoint.path:
        path = Path(endpoint.path)
        if role == "target":
            layout.require_writable(path)
            if layout.is_new(path):
                _require_default_database(endpoint)
                return []
        if role == "source" and is_duckdb_layout(path):
            _require_no_tenant(endpoint)
            return stored_names(path, endpoint.rename)
        layout.recognise(path, role=role)
        if role == "target":
            _require_current(path)
        return layout.stored_names(path, endpoint.tenant, endpoint.database, role=role)
    with open_server(endpoint, role) as store:
        return store.names()


def quick_holder(endpoint: Endpoint) -> dict[str, Any] | None:
    """Who holds the lock of a target (run_id, host, time), without writing a byte; None where nobody does."""
    if endpoint.path:
        return layout.stored_metadata(Path(endpoint.path), endpoint.tenant, endpoint.database, LOCK_COLLECTION)
    with _current_server(endpoint, request_headers(endpoint, "target")) as store:
        return store.lock_holder()


@contextmanager
def open_embedded(
    path: Path,
    endpoint: Endpoint,
    *,
    role: str,
    label: str,
    spaces: Mapping[str, str] | None = None,
    rescued: Mapping[str, Rescued] | None = None,
) -> Iterator[ClientStore]:
    """A directory opened in this process. Opening it rewrites it: a copy, or a target. `rescued` are vectors of a copy."""
    where = f"{role} {label}"
    with ExitStack() as stack:
        client = attempt(
            lambda: stack.enter_context(door.embedded_client(path, endpoint.tenant, endpoint.database)), where
        )
        limits = Limits(min(client.get_max_batch_size(), 5_000), BODY_BYTES)
        store = (RescuedStore if rescued else ClientStore)(client, label, limits=limits, spaces=spaces)
        if isinstance(store, RescuedStore):
            store.rescued = rescued or {}
        yield store


@contextmanager
def open_server(endpoint: Endpoint, role: str) -> Iterator[Reader]:
    """A server to read, with the endpoint's headers, TLS setting and time-out on every request."""
    headers = request_headers(endpoint, role)
    protocol, found = greet(endpoint, role, headers)
    if protocol == "v1":
        with _old_server(found, headers) as old:
            yield old
    else:
        with _current_server(found, headers) as current:
            yield current


@contextmanager
def _old_server(endpoint: Endpoint, headers: dict[str, str]) -> Iterator[ApiV1Store]:
    usage = Usage()
    with session_of(endpoint, {"Content-Type": "application/json", **headers}, usage) as session:
        yield ApiV1Store(session, endpoint.label, tenant=endpoint.tenant, database=endpoint.database, usage=usage)


@contextmanager
def _current_server(endpoint: Endpoint, headers: dict[str, str]) -> Iterator[ClientStore]:
    usage = Usage()
    with (
        session_of(endpoint, headers, usage) as session,
        door.server_client(endpoint.address, session, endpoint.tenant, endpoint.database) as client,
    ):
        rows = retried(client.get_max_batch_size, endpoint.label)
        limits = Limits(rows, BODY_BYTES)
        if endpoint.is_cloud:  # which says 1,000 rows and takes 300 (upstream #5453)
            limits = limits.within(CLOUD)
        yield ClientStore(client, endpoint.label, limits=limits, protocol="API v2", usage=usage)


def _require_default_database(endpoint: Endpoint) -> None:
    """A new folder holds Chroma's default tenant and database only."""
    for what, name, default in (
        ("tenant", endpoint.tenant, DEFAULT_TENANT),
        ("database", endpoint.database, DEFAULT_DATABASE),
    ):
        if name != default:
            raise Terminal(
                f"unknown_{what}", f"a new folder has no {what} {name}", where=f"target.path {endpoint.path}",
                next_step=f"Leave target.{what} out, or create it there first.",
            )  # fmt: skip


def _require_no_tenant(endpoint: Endpoint) -> None:
    """Chroma 0.3 knew no tenants and databases: another one than the default can only be a mistake."""
    defaults = type(endpoint)(path=endpoint.path)
    for what in ("tenant", "database"):
        if getattr(endpoint, what) != getattr(defaults, what):
            raise Terminal(
                f"unknown_{what}", f"no {what} {getattr(endpoint, what)}: Chroma 0.3 has none",
                where=f"source {endpoint.label}", next_step=f"Leave source.{what} out.",
            )  # fmt: skip


def _require_no_rename(endpoint: Endpoint) -> None:
    """Names are unique in every Chroma since 0.4: another name there is the routing of a schema."""
    if endpoint.rename:
        raise Terminal(
            "rename_not_0_3", "no directory of Chroma 0.3, and only there source.rename tells collections apart",
            where=f"source {endpoint.label}", next_step="Leave source.rename out; a schema file's routing renames.",
        )  # fmt: skip


def _require_current(path: Path) -> None:
    """A target folder is new, empty, or written by a current Chroma: opening an older one upgrades it for good."""
    if layout.is_new(path):
        return
    layout.recognise(path, role="target")
    uri = f"file:{quote(str((path / layout.DATABASE).resolve()))}?mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(uri, uri=True)) as db:
            columns = {row[1] for row in db.execute("PRAGMA table_info(collections)")}
    except sqlite3.Error as error:
        raise Terminal("target_damaged", f"SQLite says: {error}", where=f"target.path {path}") from error
    if "schema_str" not in columns:
        raise Terminal(
            "target_older_layout", "written by an older Chroma; opening it here would upgrade it for good",
            where=f"target.path {path}", next_step="Name a new folder, or upgrade that one on purpose first.",
        )  # fmt: skip

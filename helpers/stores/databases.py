"""Tenants and databases: those that a source has, and those that a target lacks and the toolkit makes and takes away.

Chroma's API deletes a database and cannot delete a tenant, so a tenant that was made stays.
"""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from helpers.errors import RunbookError, Terminal, UsageError
from helpers.parameters.endpoint import DEFAULT_DATABASE, DEFAULT_TENANT, Endpoint
from helpers.stores.duckdb_layout import is_duckdb_layout
from helpers.stores.greeting import request_headers, session_of
from helpers.stores.identity import EVERY, identity_of
from helpers.stores.layout import DATABASE, is_new, recognise
from helpers.stores.opening import open_server, open_target, quick_names
from helpers.stores.retry import attempt, retried

ALL = "*"
PAGE = 100
_USUAL = (DEFAULT_TENANT, DEFAULT_DATABASE)
UNKNOWN = {"unknown_tenant": ("tenant", "database"), "unknown_database": ("database",)}


def databases_of(source: Endpoint) -> list[tuple[str, str]]:
    """(tenant, database) of the source that its `*` stand for, by name. Nothing is written there.

    Raises `UsageError` where the source cannot list them, `WorldError` where it cannot be asked.
    """
    found = (
        [row for row in _stored(Path(source.path)) if source.tenant in (ALL, row[0])]
        if source.path
        else _served(source)
    )
    return sorted(row for row in found if source.database in (ALL, row[1]))


def holds_nothing(source: Endpoint) -> bool:
    """Whether the source certainly has no collection; False where its newest may still sit in a directory's log."""
    if source.path:
        log = Path(source.path) / f"{DATABASE}-wal"
        if log.is_file() and log.stat().st_size:
            return False
    return not quick_names(source, "source")


def _stored(path: Path) -> list[tuple[str, str]]:
    if is_duckdb_layout(path):
        return [_USUAL]
    recognise(path)
    file = path / DATABASE
    log = file.with_name(f"{DATABASE}-wal")
    still = "" if log.is_file() and log.stat().st_size else "&immutable=1"
    try:
        with closing(sqlite3.connect(f"file:{quote(str(file.resolve()))}?mode=ro{still}", uri=True)) as db:
            if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'databases'").fetchone():
                return [_USUAL]  # before 0.4.15 there were none
            return [(row[0], row[1]) for row in db.execute("SELECT tenant_id, name FROM databases")]
    except sqlite3.DatabaseError as error:
        raise Terminal("source_damaged", f"SQLite says: {error}", where=str(file),
                       next_step="Copy the folder again, or take the last backup.") from error  # fmt: skip


def _served(source: Endpoint) -> list[tuple[str, str]]:
    if source.tenant == ALL:
        raise UsageError("tenants_unlisted", "a server does not list its tenants", where="source.tenant",
                         next_step="Name one tenant, and run the others after it.")  # fmt: skip
    with session_of(source, request_headers(source, "source")) as session:
        key = identity_of(retried(lambda: session.get("api/v2/auth/identity"), source.address))
        tenant = key.tenant if key is not None and source.tenant == DEFAULT_TENANT else source.tenant
        if key is not None and EVERY not in key.databases:
            return [(tenant, name) for name in key.databases]
        names: list[str] = []
        while True:
            path = f"api/v2/tenants/{quote(tenant, safe='')}/databases?limit={PAGE}&offset={len(names)}"
            page = _listed(retried(lambda path=path: session.get(path), source.address), source)  # type: ignore[misc]
            new = [name for name in page if name not in names]
            names += new
            if len(page) < PAGE or not new:
                return [(tenant, name) for name in names]


def _listed(answer: httpx.Response, source: Endpoint) -> list[str]:
    try:
        body = answer.json() if answer.is_success else None
    except ValueError:
        body = None
    if not isinstance(body, list):
        raise UsageError(
            "databases_unlisted", f"the server does not list its databases (answered {answer.status_code})",
            where=f"source {source.address}", next_step="Name source.database, and run one after another.",
        )  # fmt: skip
    return [str(row["name"]) for row in body]


def lacking(target: Endpoint) -> tuple[str, ...]:
    """What a target does not have yet of its tenant and database: (), ("database",), or ("tenant", "database").

    Nothing is written. A folder that is new has Chroma's default tenant and database. Raises where it cannot be asked.
    """
    if target.path and is_new(Path(target.path)):
        return ("tenant", "database") if target.tenant != _USUAL[0] else ("database",) * (target.database != _USUAL[1])
    try:
        if target.path:
            recognise(Path(target.path), role="target")
            known = _stored(Path(target.path))
            if (target.tenant, target.database) in known:
                return ()
            return ("database",) if target.tenant in {t for t, _ in known} else ("tenant", "database")
        with open_server(target, "target"):
            return ()
    except RunbookError as error:
        if error.code not in UNKNOWN:
            raise
        return UNKNOWN[error.code]


def make(target: Endpoint, what: tuple[str, ...]) -> None:
    """Make what `lacking` found; what somebody made meanwhile is left as it is."""
    with _admin(target) as admin:
        if "tenant" in what:
            with _left_if_there():
                attempt(lambda: admin.create_tenant(target.tenant), target.label)
        if "database" in what:
            with _left_if_there():
                attempt(lambda: admin.create_database(target.database, target.tenant), target.label)


def remove_database(target: Endpoint) -> bool:
    """Delete the target's database where no collection is in it; whether that was done."""
    if lacking(target):
        return False
    with open_target(target) as store:
        if store.client.count_collections():
            return False
    with _admin(target) as admin:
        attempt(lambda: admin.delete_database(target.database, target.tenant), target.label)
    return True


@contextmanager
def throw_away_database(target: Endpoint) -> Iterator[Endpoint]:
    """A database of the probe's own in the place of `target`, deleted at the end: a proof that databases can be made."""
    there = target.model_copy(update={"tenant": DEFAULT_TENANT, "database": f"runbook-probe-{uuid.uuid4().hex[:12]}"})
    make(there, ("database",))
    try:
        yield there
    finally:
        with _admin(target) as admin:
            attempt(lambda: admin.delete_database(there.database, DEFAULT_TENANT), target.label)


@contextmanager
def _admin(target: Endpoint) -> Iterator[Any]:
    """Chroma's own administration of the place, by way of the database that every place has."""
    with open_target(target.model_copy(update={"tenant": DEFAULT_TENANT, "database": DEFAULT_DATABASE})) as store:
        yield store.client._server


@contextmanager
def _left_if_there() -> Iterator[None]:
    with suppress(_Exists):
        try:
            yield
        except RunbookError as error:
            raise (_Exists() if "already exists" in error.what else error) from error


class _Exists(Exception):
    """Somebody made it meanwhile."""

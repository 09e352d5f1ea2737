"""From an endpoint in the parameters to an open store.

A source directory is recognised and copied first: the copy is opened, the original's bytes never change. A server is
asked for its heartbeat, tenant and database first.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from helpers.errors import RunbookError, Terminal, UsageError, one_line
from helpers.parameters.endpoint import ALL, DEFAULT_DATABASE, DEFAULT_TENANT, Endpoint
from helpers.reason_codes import ReasonCode
from helpers.stores import LOCK_COLLECTION, Reader, door, layout, repair
from helpers.stores.api_v1 import ApiV1Store
from helpers.stores.client import ClientStore
from helpers.stores.copying import copy_directory, newest, require_own_files, stored_identifiers, stored_metadata
from helpers.stores.layout import DATABASE, USUAL, DuckdbStore, duckdb_names, is_duckdb_layout, is_new, recognise
from helpers.stores.limits import CLOUD, Limits, Usage, attempt, done_once, retried, with_given
from helpers.stores.repair import Found
from helpers.stores.rescue import Rescued, RescuedStore, rescue, stored_spaces
from helpers.stores.wire import EVERY, greet, identity_of, request_headers, session_of

BODY_BYTES = 32 * 2**20  # what we send at once; headroom for what JSON adds
PAGE = 100
UNKNOWN = {ReasonCode.UNKNOWN_TENANT: ("tenant", "database"), ReasonCode.UNKNOWN_DATABASE: ("database",)}


def prepare(
    endpoint: Endpoint, copy: Path, wanted: Callable[[str], bool], *, normalised: bool = False
) -> tuple[Found, dict[str, Rescued]]:
    """Make `copy`; what was found and mended, and the vectors, by collection name, that the engine is not to be asked for.

    Only the collections that are `wanted` by name have to be readable. `normalised`: use vectors whose norm is lost. Raises
    `Terminal` where no copy can be had that the engine reads.

    The engine opens the copy in a process of its own first. Where it dies, hangs or loses vectors on a collection although
    the files looked sound, the copy is made anew, for the engine may have written to it, and that collection is rescued
    too.
    """
    source, where = Path(endpoint.path or ""), f"source {endpoint.label}"
    suspects: dict[str, str] = {}
    while True:
        shutil.rmtree(copy, ignore_errors=True)
        said = copy_directory(source, copy)
        found = repair.mend(copy, source)
        found.source += said
        try:
            rescued, touched = rescue(
                copy, endpoint.tenant, endpoint.database, wanted, suspects, found, normalised=normalised
            )
        except sqlite3.Error as error:
            raise layout.damaged(error, source / DATABASE) from error
        left_out = [n for n in layout.stored_names(copy, endpoint.tenant, endpoint.database) if not wanted(n)]
        failure = try_opening(copy, endpoint.tenant, endpoint.database, left_out, rescued, touched)
        if failure is None:
            return found, rescued
        if not failure.collection or failure.collection in rescued or failure.collection in suspects:
            raise failure.error(where)
        suspects[failure.collection] = failure.what


@contextmanager
def open_source(
    endpoint: Endpoint, scratch: Path, wanted: Callable[[str], bool] = lambda name: True, *, normalised: bool = False,
    keep: Path | None = None,
) -> Iterator[Reader]:  # fmt: skip
    """A source to read. An embedded one is copied into `scratch` and the copy removed at the end, or moved to `keep`, a new
    folder on the same disk, where nothing was raised.

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
        spaces = stored_spaces(copy)
        with open_embedded(
            copy, endpoint, role="source", label=endpoint.label, spaces=spaces, rescued=rescued
        ) as store:
            store.note(found.source, found.collections, found.repairs)
            yield store
        if keep is not None:
            copy.rename(keep)
    finally:
        shutil.rmtree(copy, ignore_errors=True)


@contextmanager
def open_target(endpoint: Endpoint, *, role: str = "target") -> Iterator[ClientStore]:
    """A target to write to (`role` "source": one to be mended). An embedded one is opened in place, and made where there is none;
    what is in it is looked at before and after the opening, and at the end: Chroma opens files by their names.
    """
    if endpoint.path:
        path = Path(endpoint.path)
        (require_place if role == "target" else layout.require_writable)(path)
        if layout.is_new(path):
            _make_directory(path, endpoint)
        _require_current(path)
        there = path.stat()
        with open_embedded(path, endpoint, role="target", label=endpoint.label) as store:
            require_own_files(path, role=role, since=there)
            yield store
        require_own_files(path, role=role, since=there)
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
    require_place(path)
    for left in path.glob(f"{layout.OURS}*"):
        shutil.rmtree(left)
    partial = make_ours(path / f"{layout.OURS}partial")
    with open_embedded(partial, endpoint, role="target", label=endpoint.label):
        pass
    made = [file for file in partial.iterdir() if file.name != MADE]
    for file in sorted(made, key=lambda file: file.name == layout.DATABASE):  # the database last
        file.rename(path / file.name)
    shutil.rmtree(partial)


MADE = "made-by-chroma-migration-runbook"  # the file in a folder of ours that says so: a name alone may be anybody's


def make_ours(folder: Path) -> Path:
    """This folder, new; the next making in its place may remove it."""
    folder.mkdir()
    (folder / MADE).touch(exist_ok=False)
    return folder


def _is_ours(left: Path) -> bool:
    """Whether we made this folder, or nothing is in it."""
    if left.is_symlink() or not left.is_dir():
        return False
    return (left / MADE).is_file() or not any(left.iterdir())


def require_place(path: Path) -> None:
    """As `layout.require_writable` and `require_own_files`; in a new folder nothing is there that only has a name of ours."""
    layout.require_writable(path)
    left = sorted(path.glob(f"{layout.OURS}*")) if is_new(path) else []
    if foreign := [one for one in left if not _is_ours(one)]:
        raise Terminal(
            ReasonCode.TARGET_FOREIGN_FILE, f"{one_line(foreign[0].name, 100)} was not made by this toolkit, or by an older one "
            "that did not say so", where=f"target.path {path}", next_step="See what it is, and move it away.",
        )  # fmt: skip
    if path.exists():
        require_own_files(path)


def quick_names(endpoint: Endpoint, role: str) -> list[str]:
    """The collections at an endpoint, without writing a byte anywhere: for a look before anything starts."""
    if endpoint.path:
        path = Path(endpoint.path)
        if role == "target":
            require_place(path)
            if layout.is_new(path):
                _require_default_database(endpoint)
                return []
        if role == "source" and is_duckdb_layout(path):
            _require_no_tenant(endpoint)
            return duckdb_names(path, endpoint.rename)
        layout.recognise(path, role=role)
        if role == "target":
            _require_current(path)
        return layout.stored_names(path, endpoint.tenant, endpoint.database, role=role)
    with open_server(endpoint, role) as store:
        return store.names()


def quick_identities(endpoint: Endpoint) -> dict[str, str]:
    """The uuid of each collection of a target, by name, without writing a byte."""
    if endpoint.path:
        if layout.is_new(path := Path(endpoint.path)):
            return {}
        with newest(path / DATABASE) as db:
            return dict(
                db.execute(f"SELECT c.name, c.id {layout.IN_DATABASE}", (endpoint.tenant, endpoint.database)).fetchall()
            )
    with _current_server(endpoint, request_headers(endpoint, "target")) as store:
        return store.identities()


def one_database(source: Endpoint, target: Endpoint) -> bool:
    """Whether the server of the target has a collection of the source, by its uuid; an API v1 server is no target.

    Two servers are then one under two addresses. A directory is served by the target, or is a copy of what it serves.
    """
    with ExitStack() as stack:
        if source.path:
            ours = stored_identifiers(Path(source.path))
        else:
            one = stack.enter_context(open_server(source, "source"))
            ours = set(one.identities().values()) if isinstance(one, ClientStore) else set()
        other = stack.enter_context(_current_server(target, request_headers(target, "target")))
        return not ours.isdisjoint(other.identities().values())


def quick_holder(endpoint: Endpoint) -> dict[str, Any] | None:
    """Who holds the lock of a target (run_id, host, time), without writing a byte; None where nobody does."""
    if endpoint.path:
        return stored_metadata(Path(endpoint.path), endpoint.tenant, endpoint.database, LOCK_COLLECTION)
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
        store = (RescuedStore if rescued else ClientStore)(
            client, label, limits=with_given(limits, endpoint), spaces=spaces, functions=endpoint.embedding_functions
        )
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
        yield ClientStore(
            client,
            endpoint.label,
            limits=with_given(limits, endpoint),
            protocol="API v2",
            usage=usage,
            functions=endpoint.embedding_functions,
        )


def _require_default_database(endpoint: Endpoint) -> None:
    """A new folder holds Chroma's default tenant and database only."""
    for what, name, default in (
        ("tenant", endpoint.tenant, DEFAULT_TENANT),
        ("database", endpoint.database, DEFAULT_DATABASE),
    ):
        if name != default:
            raise Terminal(
                ReasonCode(f"unknown_{what}"), f"a new folder has no {what} {name}", where=f"target.path {endpoint.path}",
                next_step=f"Leave target.{what} out, or create it there first.",
            )  # fmt: skip


def _require_no_tenant(endpoint: Endpoint) -> None:
    """Chroma 0.3 knew no tenants and databases: another one than the default can only be a mistake."""
    defaults = type(endpoint)(path=endpoint.path)
    for what in ("tenant", "database"):
        if getattr(endpoint, what) != getattr(defaults, what):
            raise Terminal(
                ReasonCode(f"unknown_{what}"), f"no {what} {getattr(endpoint, what)}: Chroma 0.3 has none",
                where=f"source {endpoint.label}", next_step=f"Leave source.{what} out.",
            )  # fmt: skip


def _require_no_rename(endpoint: Endpoint) -> None:
    """Names are unique in every Chroma since 0.4: another name there is the routing of a schema."""
    if endpoint.rename:
        raise Terminal(
            ReasonCode.RENAME_NOT_0_3, "no directory of Chroma 0.3, and only there source.rename tells collections apart",
            where=f"source {endpoint.label}", next_step="Leave source.rename out; a schema file's routing renames.",
        )  # fmt: skip


def _require_current(path: Path) -> None:
    """A target folder is new, empty, or written by a current Chroma: opening an older one upgrades it for good."""
    if layout.is_new(path):
        return
    layout.recognise(path, role="target")
    try:
        with layout.reading(path / DATABASE) as db:
            columns = {row[1] for row in db.execute("PRAGMA table_info(collections)")}
    except sqlite3.Error as error:
        raise layout.damaged(error, path / DATABASE, "target") from error
    if "schema_str" not in columns:
        raise Terminal(
            ReasonCode.TARGET_OLDER_LAYOUT, "written by an older Chroma; opening it here would upgrade it for good",
            where=f"target.path {path}", next_step="Name a new folder, or upgrade that one on purpose first.",
        )  # fmt: skip


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
    """Whether the source certainly has no collection; False for a directory beside a log, and where none can be read."""
    try:
        return not (source.path and layout.has_log(Path(source.path) / DATABASE)) and not quick_names(source, "source")
    except Terminal:  # its run says what is wrong
        return False


def _stored(path: Path) -> list[tuple[str, str]]:
    if is_duckdb_layout(path):
        return [USUAL]
    recognise(path)
    file = path / DATABASE
    try:
        with newest(file) as db:
            if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'databases'").fetchone():
                return [USUAL]  # before 0.4.15 there were none
            return [(row[0], row[1]) for row in db.execute("SELECT tenant_id, name FROM databases")]
    except sqlite3.DatabaseError as error:
        raise layout.damaged(error, file) from error


def _served(source: Endpoint) -> list[tuple[str, str]]:
    if source.tenant == ALL:
        raise UsageError(ReasonCode.TENANTS_UNLISTED, "a server does not list its tenants", where="source.tenant",
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
            ReasonCode.DATABASES_UNLISTED, f"the server does not list its databases (answered {answer.status_code})",
            where=f"source {source.address}", next_step="Name source.database, and run one after another.",
        )  # fmt: skip
    return [str(row["name"]) for row in body]


def lacking(target: Endpoint) -> tuple[str, ...]:
    """What a target does not have yet of its tenant and database: (), ("database",), or ("tenant", "database").

    Nothing is written. A folder that is new has Chroma's default tenant and database. Raises where it cannot be asked.
    """
    if target.path and is_new(Path(target.path)):
        return ("tenant", "database") if target.tenant != USUAL[0] else ("database",) * (target.database != USUAL[1])
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
        calls = {
            "tenant": lambda: admin.create_tenant(target.tenant),
            "database": lambda: admin.create_database(target.database, target.tenant),
        }
        for name, call in calls.items():
            if name in what:
                with _left_if_there():
                    done_once(call, done=lambda name=name: name not in lacking(target), where=target.label)  # type: ignore[misc]


def remove_database(target: Endpoint) -> bool:
    """Delete the target's database where no collection is in it; whether that was done.

    Chroma's API cannot delete a tenant, so one that was made stays.
    """
    if lacking(target):
        return False
    with open_target(target) as store:
        if store.client.count_collections():
            return False
    _delete_database(target)
    return True


def _delete_database(there: Endpoint) -> None:
    with _admin(there) as admin:

        def delete() -> None:
            with suppress(door.NotFoundError):  # a proxy that sends a request twice passes on the answer to the second
                admin.delete_database(there.database, there.tenant)

        done_once(delete, done=lambda: "database" in lacking(there), where=there.label)


@contextmanager
def throw_away_database(target: Endpoint) -> Iterator[Endpoint]:
    """A database of the probe's own in the place of `target`, deleted at the end: a proof that databases can be made."""
    there = target.model_copy(update={"tenant": DEFAULT_TENANT, "database": f"runbook-probe-{uuid.uuid4().hex[:12]}"})
    make(there, ("database",))
    try:
        yield there
    finally:
        _delete_database(there)


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


# -- crash probe -------------------------------------------------------------------------------------------------------
#
# The first opening of a copied directory, in a process of its own: an engine that crashes there takes nothing with it.
#
# `try_opening(copy)` starts `engine_page.py`, which lists the collections and reads a page of each, and every vector that
# the rest of the log touches. What it prints last says where it was when it died, or hung.


_SECONDS = 300.0  # for a first page of everything
_RECORDS_A_SECOND = 100  # that an engine may take in while it opens, at the least


@dataclass(frozen=True, slots=True)
class Failure:
    """What the engine did, and on which collection; "" where it was the directory as a whole."""

    what: str
    collection: str

    def error(self, where: str) -> Terminal:
        ways = ["Restore the folder from a backup", "migrate from the server that wrote it"]
        if self.collection:
            ways.append(f"leave this collection out (--set 'collections.exclude={json.dumps([self.collection])}')")
        return Terminal(
            ReasonCode.SOURCE_ENGINE_FAILED, one_line(self.what)[:500], where=where,
            next_step=f"{', '.join(ways[:-1])}, or {ways[-1]}.",
        )  # fmt: skip


def try_opening(
    copy: Path,
    tenant: str,
    database: str,
    left_out: Collection[str] = (),
    without_vectors: Collection[str] = (),
    touched: Mapping[str, Collection[str]] | None = None,
) -> Failure | None:
    """None where the engine opens the copy and reads from each collection but those left out.

    Of those `without_vectors` it reads texts only. `touched` are ids, by collection, whose vectors must all be there.
    """
    asked = {"left_out": sorted(left_out), "without_vectors": sorted(without_vectors)}
    touched = {name: sorted(ids) for name, ids in (touched or {}).items()}
    seconds = _SECONDS + sum(map(len, touched.values())) / _RECORDS_A_SECOND
    # -P: the script's own folder, whose modules have common names, stays off the path.
    program = str(Path(__file__).with_name("engine_page.py"))
    command = [sys.executable, "-P", program, str(copy), tenant, database, str(os.getpid())]
    try:
        done = subprocess.run(
            command, input=json.dumps({**asked, "touched": touched}), capture_output=True, text=True, timeout=seconds,
            check=False, env={**_environment(), "RUST_BACKTRACE": "0"},
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        told = error.stdout.decode("utf-8", "replace") if isinstance(error.stdout, bytes) else error.stdout or ""
        name = str(_last(told).get("collection", ""))
        return Failure(f"Chroma's engine did not finish on {_at(name)} in {seconds:,.0f} s", name)
    if done.returncode == 0:
        return None
    last = _last(done.stdout)
    name = str(last.get("collection", ""))
    if "error" in last:
        return Failure(f"Chroma's engine cannot read {_at(name)}: {last['error']}", name)
    died = signal.Signals(-done.returncode).name if done.returncode < 0 else f"exit code {done.returncode}"
    said = next((line for line in done.stderr.splitlines() if line.strip()), "")
    return Failure(f"Chroma's engine crashed ({died}) on {_at(name)}{f': {said}' if said else ''}", name)


def _environment() -> dict[str, str]:
    """What an interpreter needs to start; the process reads files that others made, and no other variable is its business."""
    needed = ("PATH", "HOME", "TMPDIR", "LANG", "TZ")
    return {k: v for k, v in os.environ.items() if k in needed or k.startswith(("LC_", "PYTHON", "LD_", "DYLD_"))}


def _last(told: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for line in told.splitlines():
        if line.startswith("{") and line.endswith("}"):
            found = json.loads(line)
    return found


def _at(name: str) -> str:
    return f"collection {name}" if name else "the directory"

"""Open the store of an endpoint in the parameters.

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
from helpers.stores.repair import RepairReport
from helpers.stores.rescue import Rescued, RescuedStore, rescue, stored_spaces
from helpers.stores.wire import EVERY, greet, identity_of, request_headers, session_of

BODY_BYTES = 32 * 2**20  # what we send at once; headroom for what JSON adds
PAGE = 100
UNKNOWN = {ReasonCode.UNKNOWN_TENANT: ("tenant", "database"), ReasonCode.UNKNOWN_DATABASE: ("database",)}


def prepare(
    endpoint: Endpoint, copy: Path, wanted: Callable[[str], bool], *, normalised: bool = False
) -> tuple[RepairReport, dict[str, Rescued]]:
    """Make `copy`; return the report on its repairs, and by collection name the vectors that the engine must not be asked for.

    Only the collections that are `wanted` by name must be readable. `normalised`: use vectors whose norm is lost. Raises
    `Terminal` where the engine reads no copy.

    The engine opens the copy in a process of its own first. Where it crashes, hangs or loses vectors on a collection with sound
    files, the copy is made again, since the engine may have written to it, and that collection is rescued, too.
    """
    source, where = Path(endpoint.path or ""), f"source {endpoint.label}"
    suspects: dict[str, str] = {}
    while True:
        shutil.rmtree(copy, ignore_errors=True)
        notes = copy_directory(source, copy)
        report = repair.mend(copy, source)
        report.source += notes
        try:
            rescued, touched = rescue(
                copy, endpoint.tenant, endpoint.database, wanted, suspects, report, normalised=normalised
            )
        except sqlite3.Error as error:
            raise layout.damaged(error, source / DATABASE) from error
        left_out = [n for n in layout.stored_names(copy, endpoint.tenant, endpoint.database) if not wanted(n)]
        failure = try_opening(copy, endpoint.tenant, endpoint.database, left_out, rescued, touched)
        if failure is None:
            return report, rescued
        if not failure.collection or failure.collection in rescued or failure.collection in suspects:
            raise failure.error(where)
        suspects[failure.collection] = failure.what


@contextmanager
def open_source(
    endpoint: Endpoint, scratch: Path, wanted: Callable[[str], bool] = lambda name: True, *, normalised: bool = False,
    keep: Path | None = None,
) -> Iterator[Reader]:  # fmt: skip
    """Open a source to read. A directory is copied into `scratch`, and the copy removed at the end, or, without an error, moved
    to `keep`, a new folder on the same disk.

    The copy is repaired and, where indexes are damaged, rescued (`prepare`). Only the collections that are `wanted` by name must
    be readable; the others are only listed. `normalised`: use vectors whose norm is lost.
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
        report, rescued = prepare(endpoint, copy, wanted, normalised=normalised)
        report.source += layout.leftovers(Path(endpoint.path))
        spaces = stored_spaces(copy)
        with open_embedded(
            copy, endpoint, role="source", label=endpoint.label, spaces=spaces, rescued=rescued
        ) as store:
            store.note(report.source, report.collections, report.repairs)
            yield store
        if keep is not None:
            copy.rename(keep)
    finally:
        shutil.rmtree(copy, ignore_errors=True)


@contextmanager
def open_target(endpoint: Endpoint, *, role: str = "target") -> Iterator[ClientStore]:
    """Open a target to write; `role` "source": a source to repair. A directory is opened in place, and created if missing.

    Its content is checked before and after the opening, and at the end, since Chroma opens files by their names.
    """
    if endpoint.path:
        path = Path(endpoint.path)
        (require_place if role == "target" else layout.require_writable)(path)
        if layout.is_new(path):
            _make_directory(path, endpoint)
        _require_current(path)
        opened = path.stat()
        with open_embedded(path, endpoint, role="target", label=endpoint.label) as store:
            require_own_files(path, role=role, since=opened)
            yield store
        require_own_files(path, role=role, since=opened)
    else:
        headers = request_headers(endpoint, "target")
        _, resolved = greet(endpoint, "target", headers)  # refuses a server that speaks only API v1
        with _current_server(resolved, headers) as store:
            yield store


def _make_directory(path: Path, endpoint: Endpoint) -> None:
    """Make a new, empty database, whole or not at all: in a folder inside its own, from which its files are then moved.

    A kill while Chroma writes its first tables would leave a database that looks like one of an older version. The folder
    itself may be a mount point or a link, so it cannot be replaced by a rename.
    """
    path.mkdir(parents=True, exist_ok=True)
    require_place(path)
    for leftover in path.glob(f"{layout.OURS}*"):
        shutil.rmtree(leftover)
    partial = make_ours(path / f"{layout.OURS}partial")
    with open_embedded(partial, endpoint, role="target", label=endpoint.label):
        pass
    files = [file for file in partial.iterdir() if file.name != MADE]
    for file in sorted(files, key=lambda file: file.name == layout.DATABASE):  # the database last
        file.rename(path / file.name)
    shutil.rmtree(partial)


MADE = "made-by-chroma-migration-runbook"  # the file that marks a folder as ours: a name alone proves nothing


def make_ours(folder: Path) -> Path:
    """Create this folder, marked as ours, so that a later run may remove it; return it."""
    folder.mkdir()
    (folder / MADE).touch(exist_ok=False)
    return folder


def _is_ours(folder: Path) -> bool:
    """Return whether we made this folder, or it is empty."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    return (folder / MADE).is_file() or not any(folder.iterdir())


def require_place(path: Path) -> None:
    """Require a writable folder of own files; a new one holds no foreign folder with a name of ours. Raises `Terminal`."""
    layout.require_writable(path)
    leftovers = sorted(path.glob(f"{layout.OURS}*")) if is_new(path) else []
    if foreign := [folder for folder in leftovers if not _is_ours(folder)]:
        raise Terminal(
            ReasonCode.TARGET_FOREIGN_FILE, f"{one_line(foreign[0].name, 100)} was not made by this toolkit, or by an older one "
            "that did not say so", where=f"target.path {path}", next_step="See what it is, and move it away.",
        )  # fmt: skip
    if path.exists():
        require_own_files(path)


def quick_names(endpoint: Endpoint, role: str) -> list[str]:
    """Return the names of the collections at an endpoint, without writing a byte."""
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
    """Return the uuid of each collection of a target, by name, without writing a byte."""
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
    """Return whether the server of the target has a collection of the source, by its uuid; an API v1 server is no target.

    If so, two servers are one with two addresses; a directory is served by the target, or is a copy of what it serves.
    """
    with ExitStack() as stack:
        if source.path:
            source_ids = stored_identifiers(Path(source.path))
        else:
            source_store = stack.enter_context(open_server(source, "source"))
            source_ids = set(source_store.identities().values()) if isinstance(source_store, ClientStore) else set()
        target_store = stack.enter_context(_current_server(target, request_headers(target, "target")))
        return not source_ids.isdisjoint(target_store.identities().values())


def quick_holder(endpoint: Endpoint) -> dict[str, Any] | None:
    """Return the holder of a target's lock (run_id, host, time), without writing a byte; None without one."""
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
    """Open a directory, a copy or a target, in this process, which rewrites it. `rescued`: vectors of a copy."""
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
    """Open a server to read, with the endpoint's headers, TLS setting and time-out on every request."""
    headers = request_headers(endpoint, role)
    protocol, resolved = greet(endpoint, role, headers)
    if protocol == "v1":
        with _old_server(resolved, headers) as old:
            yield old
    else:
        with _current_server(resolved, headers) as current:
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
    """Require Chroma's default tenant and database: a new folder has no others. Raises `Terminal`."""
    for level, name, default in (
        ("tenant", endpoint.tenant, DEFAULT_TENANT),
        ("database", endpoint.database, DEFAULT_DATABASE),
    ):
        if name != default:
            raise Terminal(
                ReasonCode(f"unknown_{level}"), f"a new folder has no {level} {name}", where=f"target.path {endpoint.path}",
                next_step=f"Leave target.{level} out, or create it there first.",
            )  # fmt: skip


def _require_no_tenant(endpoint: Endpoint) -> None:
    """Require the default tenant and database: Chroma 0.3 has no others. Raises `Terminal`."""
    defaults = type(endpoint)(path=endpoint.path)
    for level in ("tenant", "database"):
        if getattr(endpoint, level) != getattr(defaults, level):
            raise Terminal(
                ReasonCode(f"unknown_{level}"), f"no {level} {getattr(endpoint, level)}: Chroma 0.3 has none",
                where=f"source {endpoint.label}", next_step=f"Leave source.{level} out.",
            )  # fmt: skip


def _require_no_rename(endpoint: Endpoint) -> None:
    """Require no `source.rename`: names are unique since 0.4, and the routing of a schema renames. Raises `Terminal`."""
    if endpoint.rename:
        raise Terminal(
            ReasonCode.RENAME_NOT_0_3, "no directory of Chroma 0.3, and only there source.rename tells collections apart",
            where=f"source {endpoint.label}", next_step="Leave source.rename out; a schema file's routing renames.",
        )  # fmt: skip


def _require_current(path: Path) -> None:
    """Require a target folder that is new, empty, or written by a current Chroma: opening an older one upgrades it for good."""
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
    """Return each (tenant, database) of the source that its `*` matches, by name. Nothing is written there.

    Raises `UsageError` where the source cannot list them, `EnvironmentFailure` where it cannot be asked.
    """
    databases = (
        [row for row in _stored(Path(source.path)) if source.tenant in (ALL, row[0])]
        if source.path
        else _served(source)
    )
    return sorted(row for row in databases if source.database in (ALL, row[1]))


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
            new_names = [name for name in page if name not in names]
            names += new_names
            if len(page) < PAGE or not new_names:
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


def missing_levels(target: Endpoint) -> tuple[str, ...]:
    """Return which of tenant and database a target lacks: (), ("database",), or ("tenant", "database").

    Nothing is written. A new folder has Chroma's default tenant and database. Raises `RunbookError` where it cannot be asked.
    """
    if target.path and is_new(Path(target.path)):
        return ("tenant", "database") if target.tenant != USUAL[0] else ("database",) * (target.database != USUAL[1])
    try:
        if target.path:
            recognise(Path(target.path), role="target")
            existing = _stored(Path(target.path))
            if (target.tenant, target.database) in existing:
                return ()
            return ("database",) if target.tenant in {t for t, _ in existing} else ("tenant", "database")
        with open_server(target, "target"):
            return ()
    except RunbookError as error:
        if error.code not in UNKNOWN:
            raise
        return UNKNOWN[error.code]


def create_levels(target: Endpoint, levels: tuple[str, ...]) -> None:
    """Create the levels of `missing_levels`; keep what somebody created meanwhile."""
    with _admin(target) as admin:
        calls = {
            "tenant": lambda: admin.create_tenant(target.tenant),
            "database": lambda: admin.create_database(target.database, target.tenant),
        }
        for name, call in calls.items():
            if name in levels:
                with _existing_is_kept():
                    done_once(call, done=lambda name=name: name not in missing_levels(target), where=target.label)  # type: ignore[misc]


def remove_database(target: Endpoint) -> bool:
    """Delete the target's database if it has no collection; return whether it was deleted.

    Chroma's API cannot delete a tenant, so a new tenant stays.
    """
    if missing_levels(target):
        return False
    with open_target(target) as store:
        if store.client.count_collections():
            return False
    _delete_database(target)
    return True


def _delete_database(place: Endpoint) -> None:
    with _admin(place) as admin:

        def delete() -> None:
            with suppress(door.NotFoundError):  # a proxy that sends a request twice passes on the answer to the second
                admin.delete_database(place.database, place.tenant)

        done_once(delete, done=lambda: "database" in missing_levels(place), where=place.label)


@contextmanager
def temporary_database(target: Endpoint) -> Iterator[Endpoint]:
    """Create a temporary database at the address of `target`, and delete it at the end: a proof that this is possible."""
    place = target.model_copy(update={"tenant": DEFAULT_TENANT, "database": f"runbook-probe-{uuid.uuid4().hex[:12]}"})
    create_levels(place, ("database",))
    try:
        yield place
    finally:
        _delete_database(place)


@contextmanager
def _admin(target: Endpoint) -> Iterator[Any]:
    """Give Chroma's own administration of the target, through the default database, which always exists."""
    with open_target(target.model_copy(update={"tenant": DEFAULT_TENANT, "database": DEFAULT_DATABASE})) as store:
        yield store.client._server


@contextmanager
def _existing_is_kept() -> Iterator[None]:
    with suppress(_Exists):
        try:
            yield
        except RunbookError as error:
            raise (_Exists() if "already exists" in error.what else error) from error


class _Exists(Exception):
    """Somebody made it meanwhile."""


# -- crash probe -------------------------------------------------------------------------------------------------------
#
# The first opening of a copied directory, in a process of its own, so that a crash of the engine ends only that process.
#
# `try_opening(copy)` starts `engine_page.py`, which lists the collections and reads a page of each, and every vector that
# the rest of the log changes. Its last line names the collection on which it crashed, or hung.


_SECONDS = 300.0  # for a first page of everything
_RECORDS_A_SECOND = 100  # of the log that an engine applies while it opens, at least


@dataclass(frozen=True, slots=True)
class Failure:
    """A failure of the engine, and its collection; "" where it concerns the whole directory."""

    what: str
    collection: str

    def error(self, where: str) -> Terminal:
        remedies = ["Restore the folder from a backup", "migrate from the server that wrote it"]
        if self.collection:
            remedies.append(f"leave this collection out (--set 'collections.exclude={json.dumps([self.collection])}')")
        return Terminal(
            ReasonCode.SOURCE_ENGINE_FAILED, one_line(self.what)[:500], where=where,
            next_step=f"{', '.join(remedies[:-1])}, or {remedies[-1]}.",
        )  # fmt: skip


def try_opening(
    copy: Path,
    tenant: str,
    database: str,
    left_out: Collection[str] = (),
    without_vectors: Collection[str] = (),
    touched: Mapping[str, Collection[str]] | None = None,
) -> Failure | None:
    """Return None where the engine opens the copy and reads from each collection except those left out, else its failure.

    Of those `without_vectors` it reads texts only. `touched`: ids, by collection, whose vectors must all be readable.
    """
    request = {"left_out": sorted(left_out), "without_vectors": sorted(without_vectors)}
    touched = {name: sorted(ids) for name, ids in (touched or {}).items()}
    seconds = _SECONDS + sum(map(len, touched.values())) / _RECORDS_A_SECOND
    # -P: the script's own folder, whose modules have common names, stays off the path.
    program = str(Path(__file__).with_name("engine_page.py"))
    command = [sys.executable, "-P", program, str(copy), tenant, database, str(os.getpid())]
    try:
        finished = subprocess.run(
            command, input=json.dumps({**request, "touched": touched}), capture_output=True, text=True, timeout=seconds,
            check=False, env={**_environment(), "RUST_BACKTRACE": "0"},
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        output = error.stdout.decode("utf-8", "replace") if isinstance(error.stdout, bytes) else error.stdout or ""
        name = str(_last(output).get("collection", ""))
        return Failure(f"Chroma's engine did not finish on {_at(name)} in {seconds:,.0f} s", name)
    if finished.returncode == 0:
        return None
    last = _last(finished.stdout)
    name = str(last.get("collection", ""))
    if "error" in last:
        return Failure(f"Chroma's engine cannot read {_at(name)}: {last['error']}", name)
    cause = signal.Signals(-finished.returncode).name if finished.returncode < 0 else f"exit code {finished.returncode}"
    first_line = next((line for line in finished.stderr.splitlines() if line.strip()), "")
    return Failure(f"Chroma's engine crashed ({cause}) on {_at(name)}{f': {first_line}' if first_line else ''}", name)


def _environment() -> dict[str, str]:
    """Return the variables that an interpreter needs; the process reads foreign files, so it gets no other ones."""
    needed = ("PATH", "HOME", "TMPDIR", "LANG", "TZ")
    return {k: v for k, v in os.environ.items() if k in needed or k.startswith(("LC_", "PYTHON", "LD_", "DYLD_"))}


def _last(output: str) -> dict[str, Any]:
    record: dict[str, Any] = {}
    for line in output.splitlines():
        if line.startswith("{") and line.endswith("}"):
            record = json.loads(line)
    return record


def _at(name: str) -> str:
    return f"collection {name}" if name else "the directory"

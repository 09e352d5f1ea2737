"""The target is claimed before anybody's writes are stopped: a second run, from whichever machine, stops at step 20.

The claim is the lock that step 22 writes under; step 22 gives it back when every chunk has arrived. Until then it is given
back only where nothing of this run is in the target.

A collection that another run made is never called free to remove: while that run imports, or waits for its signatures, it is
the run's result.

`target-database.json` in the workspace names what was about to be made. A database that this run made and that holds no
collection any more is deleted again; a tenant stays, since Chroma deletes none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers import audit
from helpers.errors import RUNBOOK, RunbookError, Terminal, UsageError, one_line
from helpers.migration.checkpoint import Checkpoint
from helpers.parameters import Parameters, resolve_path
from helpers.parameters.endpoint import ALL, DEFAULT_DATABASE, DEFAULT_TENANT, Endpoint, lies_in, overlap
from helpers.parameters.model import read_yaml_mapping
from helpers.parameters.sections import Collections
from helpers.reason_codes import ReasonCode
from helpers.results import StateFile, Verdict, utc_now
from helpers.run import folders as runs
from helpers.run import plan
from helpers.run.command import who_has_open
from helpers.run.executor import require_workers
from helpers.run.folders import RunFolder, RunPath, RunState, reports_root, workspace_root
from helpers.run.record import RunRecord
from helpers.schema import load_schema
from helpers.snapshots import remote
from helpers.stores import LOCK_COLLECTION, open_target, quick_holder, quick_names
from helpers.stores.copying import require_own_files
from helpers.stores.creation import RESTORE, require_function
from helpers.stores.layout import is_duckdb_layout, is_new
from helpers.stores.limits import NO_LIMIT, known_of
from helpers.stores.opening import UNKNOWN, create_levels, databases_of, missing_levels, one_database, remove_database
from helpers.stores.wire import tried, with_candidates

SHOWN = 5


def taken(
    names: Sequence[str], target: Endpoint | None, label: str, holder: Mapping[str, Any] | None, own_run: str = "",
    nothing: str = "",
) -> Terminal:  # fmt: skip
    """The error where a target holds collections that are not this run's: whose they are, since when, what to do.

    `holder` is what the target's lock says (None: nobody holds it). `nothing` is a sentence to begin the advice with. The
    code is "lock_held" where another run holds the target now, else "target_not_empty".
    """
    shown = f"already holds {', '.join(names[:SHOWN])}{' …' if len(names) > SHOWN else ''}"
    code = ReasonCode.TARGET_NOT_EMPTY
    if holder and holder.get("run_id") != own_run:
        code, who = ReasonCode.LOCK_HELD, str(holder.get("run_id", "?"))
        restoring = who.startswith(RESTORE)
        named, look = (who, "") if restoring else (f"run {who}", f" (there: {RUNBOOK} status {who})")
        what = f", and {named} on host {holder.get('host', '?')} has been writing there since {holder.get('time', '?')}"
        then = f"Remove nothing: these collections are being written. Wait until it has ended{look}, or name another target."
    elif target and (made_by := _runs_that_made(names, target, own_run)):
        folder, made = made_by[0]
        which = "them" if set(made) >= set(names) else ", ".join(made[:SHOWN])
        what = f"; run {folder.id}, begun {folder.facts['created']}, made {which}"
        then = (
            f"Remove nothing: they are the result of that run. Look at it with {folder.command('status')}; "
            f"to undo it: {folder.command('rollback', '--dry-run')}. Or name another target."
        )
    else:
        what = f". No run holds the target's lock, and none reported in {runs.reports_root()} made them"
        then = "Name another target. Remove a collection there only if you know whose it was and that it may go."
    return Terminal(code, shown + what, where=f"target {label}", next_step=nothing + then)


def _runs_that_made(names: Sequence[str], target: Endpoint, own_run: str) -> list[tuple[RunState, list[str]]]:
    """Runs reported here whose ledger owns some of these collections of the target, the newest first."""
    found = []
    for folder in runs.every_run():
        ledger = folder.workspace / RunPath.CHECKPOINT
        if folder.id == own_run or not ledger.is_file():
            continue
        try:
            document = read_yaml_mapping(folder.reports / RunPath.PARAMETERS)  # its schema may lie in another folder
            there = Endpoint.model_validate(document["target"])
            if there.path is not None:
                there = there.model_copy(update={"path": str(Path(folder.facts["directory"]) / there.path)})
            made = sorted(set(names) & set(Checkpoint.read(ledger).owned())) if overlap(there, target) else []
        except (
            RunbookError,
            KeyError,
            ValueError,
        ):  # a run that cannot be read says nothing about anybody's collections
            continue
        if made:
            found.append((folder, made))
    return found


@dataclass(slots=True)
class MadeDatabase(StateFile):
    """What this run made at the target: "tenant", "database"."""

    file = "target-database.json"
    damaged = ReasonCode.TARGET_DATABASE_STATE_DAMAGED
    remedy = "Set this file aside; then the target's database is left as it is."

    made: list[str]
    when: str = ""


def ensure_database(folder: RunState) -> tuple[str, ...]:
    """Make what the target lacks of its tenant and database; what that was."""
    target = folder.parameters.target
    what = missing_levels(target)
    if what and target.create is False:
        raise UsageError(
            ReasonCode(f"unknown_{what[0]}"), f"has no {' and '.join(what)} of this name, and target.create is false",
            where=target.label, next_step="Make it there, and resume; nothing was written.",
        )  # fmt: skip
    if what:
        MadeDatabase(sorted({*_made(folder), *what}), utc_now()).save(folder.workspace)
        create_levels(target, what)
        audit.append(folder.reports / audit.NAME, "target database made", made=list(what), target=target.label)
        folder.log(f"made at the target: {' and '.join(what)} of {target.label}")
    return what


def remove_made_database(folder: RunState) -> str:
    """Delete the database that this run made, where it is empty; a sentence, "" where it made none. Can be repeated."""
    made = _made(folder)
    if "database" not in made:
        return ""
    target = folder.parameters.target
    if not remove_database(target):
        return f"database {target.database} stays: it is gone already, or not empty"
    MadeDatabase([name for name in made if name != "database"], utc_now()).save(folder.workspace)
    stays = f"; tenant {target.tenant} stays, since Chroma deletes none" if "tenant" in made else ""
    audit.append(folder.reports / audit.NAME, "target database removed", target=target.label)
    return f"database {target.database}, which this run had made, removed{stays}"


def _made(folder: RunFolder) -> list[str]:
    found = MadeDatabase.load(folder.workspace)
    return found.made if found is not None else []


def claim_target(folder: RunState) -> str:
    """Take the target's lock for this run, or keep it; the target's name. A database that is not there yet is made.

    Raises `Terminal` ("lock_held").
    """
    target = folder.parameters.target
    ensure_database(folder)
    with open_target(target) as store:
        store.acquire_lock(folder.id)
        return store.label


def give_back_target(folder: RunState) -> bool:
    """Give the lock back where this run holds it and has written nothing yet; whether that was so."""
    ledger = folder.workspace / RunPath.CHECKPOINT
    if ledger.exists() and Checkpoint.read(ledger).owned():
        return False
    target = folder.parameters.target
    if (target.path and not resolve_path(target.path).exists()) or missing_levels(target):
        return False
    with open_target(target) as store:
        holder = store.lock_holder() or {}
        store.release_lock(folder.id)
    remove_made_database(folder)
    return holder.get("run_id") == folder.id


# -- limits ------------------------------------------------------------------------------------------------------------

OVER_LIMITS = "collections over a limit of the target"


def judge_limits(
    run: RunRecord, rows: Mapping[str, int], origin: Callable[[str, int], tuple[str, str]] | None = None
) -> None:
    """The check on whole collections of the target, by name and chunks, where such a limit is known. What one chunk is over is
    found as it is staged. `origin` gives source collection and id of a collection's chunk by its place.
    """
    known = known_of(run.parameters.target)
    rules = (
        ("name_bytes", "bytes in its name", "give it a shorter name by the schema (collections)",
         {name: len(name.encode()) for name in rows}),
        ("collection_rows", "chunks", "split it by the schema (collections), or have the limit raised", rows),
    )  # fmt: skip
    if not any(name in known for name, *_ in rules):
        return
    ids: list[dict[str, Any]] = []
    said: list[str] = []
    for name, what, helps, sizes in rules:
        most, whose = known.get(name, (NO_LIMIT, ""))
        for collection in sorted(c for c, found in sizes.items() if found > most):
            first = dict(zip(("from", "id"), origin(collection, most), strict=True)) if origin and sizes is rows else {}
            ids.append({"collection": collection, what: sizes[collection], "limit": most, **first})
            said.append(
                f"{one_line(collection, 60)}: {sizes[collection]:,} {what}, it takes {most:,} ({whose}): {helps}"
            )
    run.check(OVER_LIMITS, Verdict.FAIL if ids else Verdict.PASS, measured=len(ids), threshold=0, unit="collections",
              reason=ReasonCode.TOO_LARGE if ids else "", detail="; ".join(said[:SHOWN]), ids=ids)  # fmt: skip


def limits_table(run: RunRecord, asked: Mapping[str, int] | None = None) -> list[tuple[str, str]]:
    """Each known limit of the target with who says so; `asked`: what the target itself said, which counts as its word."""
    told = {name: (most, "said by the target") for name, most in (asked or {}).items()}
    for name, (most, whose) in known_of(run.parameters.target).items():
        if name not in told or most < told[name][0]:
            told[name] = most, whose
    return [(f"limit: {name.replace('_', ' ')}", f"{most:,} ({whose})") for name, (most, whose) in sorted(told.items())]


# -- preflight ---------------------------------------------------------------------------------------------------------
#
# A look at both ends before anything starts: a wrong world costs one line, and nothing is written anywhere.


NOT_THERE = (ReasonCode.UNREACHABLE, ReasonCode.TIMEOUT, ReasonCode.TARGET_NOT_CHROMA)


def chosen(names: Sequence[str], parameters: Parameters) -> list[str]:
    """The source collections that the parameters' filter lets through. Raises `Terminal` where none is left."""
    found = sorted(n for n in names if parameters.collections.selects(n))
    if not found:
        raise Terminal(
            ReasonCode.NOTHING_TO_MIGRATE,
            f"no collection to migrate among {len(names)}",
            where=f"source {parameters.source.label}",
            next_step="Check the endpoint, tenant and database, and collections.include and exclude.",
        )
    return found


def require_apart(*databases: Endpoint) -> None:
    """UsageError where reports or workspace lie in a database's folder, beside whose files nothing is written."""
    for database in databases:
        for name, root in (("reports", reports_root()), ("workspace", workspace_root())):
            if database.path and lies_in(str(root), database.path):
                raise UsageError(
                    ReasonCode.PARAMETERS_INVALID, f"the folder of the {name} lies inside the database {database.label}",
                    where=str(root), next_step=f"Name another one: export RUNBOOK_{name.upper()}=FOLDER; nothing was written.",
                )  # fmt: skip


def require_outside(place: Path, option: str, *labels: str, base: str = "") -> None:
    """UsageError where `place` lies below the folder of a database of these labels; that of a server names no folder.

    A relative label counts from `base`, the folder in which it was written; "" where nobody noted it: from the current one.
    The folder itself is no such place: a restore may go there, and touches nothing that exists.
    """
    for label in labels:
        for end in (
            len(label),
            *(at.start() for at in re.finditer(r" \(", label)),
        ):  # a label may name a shard or a tenant
            folder = label[:end] and str(Path(base, label[:end]))
            if folder and Path(folder).is_dir() and lies_in(str(place), folder) and not lies_in(folder, str(place)):
                raise UsageError(
                    ReasonCode.BAD_OUTPUT, f"lies inside the database {label}, beside whose files nothing is written",
                    where=one_line(str(place)), next_step=f"Name another place: {option}. Nothing was written.",
                )  # fmt: skip


FILES = "files"  # migration.method


def files_excluded(parameters: Parameters) -> str:
    """Why `migration.method: files` is impossible, as far as the parameters and the source's list of databases say it; else "".

    The first parameter that asks for something else than the source's own files, by name.
    """
    source, target, rules = parameters.source, parameters.target, parameters.migration
    for side, end in (("source", source), ("target", target)):
        if not end.is_embedded:
            return f"{side} is a server, and files are copied between directories"
        if (end.tenant, end.database) != (DEFAULT_TENANT, DEFAULT_DATABASE):
            return f"{side}.tenant or {side}.database is given, and files hold all databases of a directory"
    for name, changes in (
        ("schema", not load_schema(parameters.schema_name).is_identity),
        ("collections", parameters.collections != Collections()),
        ("migration.id_policy", rules.id_policy != "fail"),
        ("migration.reembed", rules.reembed is not None),
        ("migration.normalised", rules.normalised != "quarantine"),
        ("migration.drop_indexes", bool(rules.drop_indexes)),
        ("migration.index", bool(rules.index)),
    ):
        if changes:
            return f"{name} asks for something else than the source's own files"
    if is_duckdb_layout(resolve_path(str(source.path))):
        return "source.path was written by Chroma 0.3"
    every = databases_of(source.model_copy(update={"tenant": ALL, "database": ALL}))
    other = [f"{tenant}/{name}" for tenant, name in every if (tenant, name) != (DEFAULT_TENANT, DEFAULT_DATABASE)]
    return f"source.path holds other databases: {_listed(other)}" if other else ""


def already_holds(names: Collection[str]) -> str:
    """Why files cannot become a target that holds these collections."""
    return f"target.path already holds {_listed(names)}, and files become a target that holds nothing"


def _listed(names: Collection[str]) -> str:
    return ", ".join(one_line(name, 60) for name in sorted(names)[:SHOWN]) + (" …" if len(names) > SHOWN else "")


def files_refused(why: str) -> UsageError:
    """The one line for a run whose `migration.method: files` cannot be done."""
    return UsageError(
        ReasonCode.PARAMETERS_INVALID, f"files is impossible: {why}", where="migration.method",
        next_step="Begin a new run with rows, the default; nothing was written to the target.",
    )  # fmt: skip


def preflight(parameters: Parameters, owned: Collection[str] = (), run_id: str = "") -> None:
    """Raises `WorldError` where the source cannot be read or the target already holds what would be written.

    `owned` are collections in the target that this very run made before it was interrupted.
    """
    for side in (parameters.source, parameters.target):
        if ALL in (side.tenant, side.database):
            raise UsageError(
                ReasonCode.MANY_DATABASES, "* means many databases, and each is a run of its own", where="tenant and database",
                next_step=f"Use the command: {RUNBOOK} run PARAMETERS.yaml.",
            )  # fmt: skip
    require_apart(parameters.source, parameters.target)
    if parameters.migration.method == FILES and (why := files_excluded(parameters)):
        raise files_refused(why)
    if parameters.collections.shard and parameters.fence.kind != "none":
        raise UsageError(
            ReasonCode.PARAMETERS_INVALID,
            f"is {parameters.fence.kind}; with collections.shard it must be none: the runs of all shards share the source",
            where="fence.kind", next_step="Fence writes yourself before the first shard begins, until the last has ended.",
        )  # fmt: skip
    if (order := parameters.migration.embedding) is not None:
        require_function(order.function, order.config)
    require_workers(parameters)
    names = quick_names(parameters.source, "source")
    if names or parameters.source.url:  # a directory's newest names may still sit in its log, so [] proves nothing
        names = chosen(names, parameters)
    if parameters.target.path == plan.NO_TARGET:
        return
    if (storage := remote.of(parameters.snapshot)) is not None:
        storage.require()
    present = target_names(parameters)
    if parameters.target.path and parameters.source.path and not is_new(there := resolve_path(parameters.target.path)):
        require_own_files(there, resolve_path(parameters.source.path))
    # a directory that nobody has open is a copy of what the target serves, a backup say: that is a source like any other
    directory = parameters.source.path
    alive = parameters.source.url or (directory and who_has_open(resolve_path(directory)).processes)
    if parameters.target.url and present and alive and one_database(parameters.source, parameters.target):
        raise UsageError(
            ReasonCode.PARAMETERS_INVALID, "source and target are one database under two addresses",
            where=parameters.target.label, next_step="Name another database as target; nothing was written.",
        )  # fmt: skip
    if parameters.migration.method == FILES and (held := set(present) - {LOCK_COLLECTION, *owned}):
        raise files_refused(already_holds(held))
    refuse_taken(load_schema(parameters.schema_name).targets(names), present, owned, parameters, run_id)


def target_names(parameters: Parameters) -> list[str]:
    """The target's collections. Where its server is not there, the error says what answers elsewhere on its port."""
    try:
        return quick_names(parameters.target, "target")
    except RunbookError as error:
        if error.code in UNKNOWN and parameters.target.create is not False:  # step 20 makes its tenant and database
            return []
        if parameters.target.url is None or error.code not in NOT_THERE:
            raise
        told = with_candidates(error, tried(parameters.target))
    raise told


def refuse_taken(
    wanted: Collection[str], present: Collection[str], owned: Collection[str], parameters: Parameters, run_id: str = ""
) -> None:
    """Raises `Terminal` where the target holds a wanted collection that is not this run's own: see `taken`."""
    held = sorted(set(wanted) & set(present) - set(owned))
    if held:
        raise taken(held, parameters.target, parameters.target.label, quick_holder(parameters.target), run_id)

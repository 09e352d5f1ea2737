"""Claim of the target before anybody's writes are stopped: a second run, from whichever machine, stops at step 20.

The claim is the lock that step 22 writes under; step 22 releases it when every chunk has arrived. Until then it is released
only where nothing of this run is in the target.

A collection that another run made is never called free to remove: while that run imports, or waits for its signatures, it is
the run's result.

`target-database.json` in the workspace names what was about to be created. A database that this run created and that holds no
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


def target_not_empty(
    names: Sequence[str], target: Endpoint | None, label: str, holder: Mapping[str, Any] | None, own_run: str = "",
    nothing: str = "",
) -> Terminal:  # fmt: skip
    """The error where a target holds collections that are not this run's: whose they are, since when, what to do.

    `holder` is the content of the target's lock (None: nobody holds it). The advice begins with the sentence `nothing`. The
    code is "lock_held" where another run holds the target now, else "target_not_empty".
    """
    shown = f"already holds {', '.join(names[:SHOWN])}{' …' if len(names) > SHOWN else ''}"
    code = ReasonCode.TARGET_NOT_EMPTY
    if holder and holder.get("run_id") != own_run:
        code, writer = ReasonCode.LOCK_HELD, str(holder.get("run_id", "?"))
        restoring = writer.startswith(RESTORE)
        named, look = (writer, "") if restoring else (f"run {writer}", f" (there: {RUNBOOK} status {writer})")
        use = f", and {named} on host {holder.get('host', '?')} has been writing there since {holder.get('time', '?')}"
        advice = f"Remove nothing: these collections are being written. Wait until it has ended{look}, or name another target."
    elif target and (made_by := _runs_that_made(names, target, own_run)):
        folder, collections = made_by[0]
        which = "them" if set(collections) >= set(names) else ", ".join(collections[:SHOWN])
        use = f"; run {folder.id}, begun {folder.facts['created']}, made {which}"
        advice = (
            f"Remove nothing: they are the result of that run. Look at it with {folder.command('status')}; "
            f"to undo it: {folder.command('rollback', '--dry-run')}. Or name another target."
        )
    else:
        use = f". No run holds the target's lock, and none reported in {runs.reports_root()} made them"
        advice = "Name another target. Remove a collection there only if you know whose it was and that it may go."
    return Terminal(code, shown + use, where=f"target {label}", next_step=nothing + advice)


def _runs_that_made(names: Sequence[str], target: Endpoint, own_run: str) -> list[tuple[RunState, list[str]]]:
    """Runs reported here that created some of these collections of the target, with their names; the newest first."""
    owners = []
    for folder in runs.every_run():
        ledger = folder.workspace / RunPath.CHECKPOINT
        if folder.id == own_run or not ledger.is_file():
            continue
        try:
            document = read_yaml_mapping(folder.reports / RunPath.PARAMETERS)  # its schema may lie in another folder
            other = Endpoint.model_validate(document["target"])
            if other.path is not None:
                other = other.model_copy(update={"path": str(Path(folder.facts["directory"]) / other.path)})
            made = sorted(set(names) & set(Checkpoint.read(ledger).owned())) if overlap(other, target) else []
        except (
            RunbookError,
            KeyError,
            ValueError,
        ):  # a run that cannot be read says nothing about anybody's collections
            continue
        if made:
            owners.append((folder, made))
    return owners


@dataclass(slots=True)
class MadeDatabase(StateFile):
    """What this run created at the target: "tenant", "database"."""

    file = "target-database.json"
    damaged = ReasonCode.TARGET_DATABASE_STATE_DAMAGED
    remedy = "Set this file aside; then the target's database is left as it is."

    made: list[str]
    when: str = ""


def ensure_database(folder: RunState) -> tuple[str, ...]:
    """Create the target's tenant and database where they are missing. Gives which of them were."""
    target = folder.parameters.target
    missing = missing_levels(target)
    if missing and target.create is False:
        raise UsageError(
            ReasonCode(f"unknown_{missing[0]}"), f"has no {' and '.join(missing)} of this name, and target.create is false",
            where=target.label, next_step="Make it there, and resume; nothing was written.",
        )  # fmt: skip
    if missing:
        MadeDatabase(sorted({*_made_at_target(folder), *missing}), utc_now()).save(folder.workspace)
        create_levels(target, missing)
        audit.append(folder.reports / audit.NAME, "target database made", made=list(missing), target=target.label)
        folder.log(f"made at the target: {' and '.join(missing)} of {target.label}")
    return missing


def remove_made_database(folder: RunState) -> str:
    """Delete the database that this run created, if it is empty. Gives a sentence, "" where there is none. Can be repeated."""
    made = _made_at_target(folder)
    if "database" not in made:
        return ""
    target = folder.parameters.target
    if not remove_database(target):
        return f"database {target.database} stays: it is gone already, or not empty"
    MadeDatabase([name for name in made if name != "database"], utc_now()).save(folder.workspace)
    stays = f"; tenant {target.tenant} stays, since Chroma deletes none" if "tenant" in made else ""
    audit.append(folder.reports / audit.NAME, "target database removed", target=target.label)
    return f"database {target.database}, which this run had made, removed{stays}"


def _made_at_target(folder: RunFolder) -> list[str]:
    state = MadeDatabase.load(folder.workspace)
    return state.made if state is not None else []


def claim_target(folder: RunState) -> str:
    """Take or keep the target's lock for this run. Gives the target's name. Creates the database where it is missing.

    Raises `Terminal` ("lock_held").
    """
    target = folder.parameters.target
    ensure_database(folder)
    with open_target(target) as store:
        store.acquire_lock(folder.id)
        return store.label


def give_back_target(folder: RunState) -> bool:
    """Release the lock where this run holds it and has written nothing yet. Gives whether that was so."""
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
    """Check whole collections of the target against its known limits on names and chunks; single chunks are checked as they are
    staged. `origin` gives source collection and id of a collection's chunk by its position.
    """
    limits = known_of(run.parameters.target)
    rules = (
        ("name_bytes", "bytes in its name", "give it a shorter name by the schema (collections)",
         {name: len(name.encode()) for name in rows}),
        ("collection_rows", "chunks", "split it by the schema (collections), or have the limit raised", rows),
    )  # fmt: skip
    if not any(name in limits for name, *_ in rules):
        return
    ids: list[dict[str, Any]] = []
    lines: list[str] = []
    for name, unit, helps, sizes in rules:
        limit, source = limits.get(name, (NO_LIMIT, ""))
        for collection in sorted(c for c, n in sizes.items() if n > limit):
            at = origin(collection, limit) if origin and sizes is rows else None
            first = {"from": at[0], "id": at[1]} if at else {}
            ids.append({"collection": collection, unit: sizes[collection], "limit": limit, **first})
            lines.append(
                f"{one_line(collection, 60)}: {sizes[collection]:,} {unit}, it takes {limit:,} ({source}): {helps}"
            )
    run.check(OVER_LIMITS, Verdict.FAIL if ids else Verdict.PASS, measured=len(ids), threshold=0, unit="collections",
              reason=ReasonCode.TOO_LARGE if ids else "", detail="; ".join(lines[:SHOWN]), ids=ids)  # fmt: skip


def limits_table(run: RunRecord, reported: Mapping[str, int] | None = None) -> list[tuple[str, str]]:
    """Each known limit of the target with its origin; `reported` are those that the target itself gives."""
    limits = {name: (most, "said by the target") for name, most in (reported or {}).items()}
    for name, (most, by) in known_of(run.parameters.target).items():
        if name not in limits or most < limits[name][0]:
            limits[name] = most, by
    return [(f"limit: {name.replace('_', ' ')}", f"{most:,} ({by})") for name, (most, by) in sorted(limits.items())]


# -- preflight ---------------------------------------------------------------------------------------------------------
#
# Both ends are checked before anything starts: a wrong environment costs one line, and nothing is written anywhere.


NOT_THERE = (ReasonCode.UNREACHABLE, ReasonCode.TIMEOUT, ReasonCode.TARGET_NOT_CHROMA)


def chosen(names: Sequence[str], parameters: Parameters) -> list[str]:
    """The source collections that the parameters' filter selects. Raises `Terminal` where there are none."""
    selected = sorted(n for n in names if parameters.collections.selects(n))
    if not selected:
        raise Terminal(
            ReasonCode.NOTHING_TO_MIGRATE,
            f"no collection to migrate among {len(names)}",
            where=f"source {parameters.source.label}",
            next_step="Check the endpoint, tenant and database, and collections.include and exclude.",
        )
    return selected


def require_apart(*databases: Endpoint) -> None:
    """Raise `UsageError` where reports or workspace lie in a database's folder, in which nothing may be written."""
    for database in databases:
        for name, root in (("reports", reports_root()), ("workspace", workspace_root())):
            if database.path and lies_in(str(root), database.path):
                raise UsageError(
                    ReasonCode.PARAMETERS_INVALID, f"the folder of the {name} lies inside the database {database.label}",
                    where=str(root), next_step=f"Name another one: export RUNBOOK_{name.upper()}=FOLDER; nothing was written.",
                )  # fmt: skip


def require_outside(place: Path, option: str, *labels: str, base: str = "") -> None:
    """Raise `UsageError` where `place` lies below the folder of a database with one of these labels; a server has no folder.

    A relative label counts from `base`, the folder in which it was written; "" where unknown: from the current one.
    The folder itself is allowed: a restore may go there, and touches nothing that exists.
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
    """Why `migration.method: files` is impossible, by the parameters and the source's list of databases; "" where it is not.

    Names the first parameter that asks for anything else than the source's own files.
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
    """Why files cannot be shipped to a target that holds these collections."""
    return f"target.path already holds {_listed(names)}, and files become a target that holds nothing"


def _listed(names: Collection[str]) -> str:
    return ", ".join(one_line(name, 60) for name in sorted(names)[:SHOWN]) + (" …" if len(names) > SHOWN else "")


def files_refused(reason: str) -> UsageError:
    """The error for a run whose `migration.method: files` is impossible."""
    return UsageError(
        ReasonCode.PARAMETERS_INVALID, f"files is impossible: {reason}", where="migration.method",
        next_step="Begin a new run with rows, the default; nothing was written to the target.",
    )  # fmt: skip


def preflight(parameters: Parameters, owned: Collection[str] = (), run_id: str = "") -> None:
    """Raise `EnvironmentFailure` where the source cannot be read, or the target already holds what would be written.

    `owned` are collections in the target that this very run made before it was interrupted.
    """
    for side in (parameters.source, parameters.target):
        if ALL in (side.tenant, side.database):
            raise UsageError(
                ReasonCode.MANY_DATABASES, "* means many databases, and each is a run of its own", where="tenant and database",
                next_step=f"Use the command: {RUNBOOK} run PARAMETERS.yaml.",
            )  # fmt: skip
    require_apart(parameters.source, parameters.target)
    if parameters.migration.method == FILES and (reason := files_excluded(parameters)):
        raise files_refused(reason)
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
    if names or parameters.source.url:  # a directory's newest names may still be in its log, so [] proves nothing
        names = chosen(names, parameters)
    if parameters.target.path == plan.NO_TARGET:
        return
    if (storage := remote.of(parameters.snapshot)) is not None:
        storage.require()
    present = target_names(parameters)
    if parameters.target.path and parameters.source.path and not is_new(folder := resolve_path(parameters.target.path)):
        require_own_files(folder, resolve_path(parameters.source.path))
    # a directory that nobody has open is a copy of what the target serves, such as a backup: that is a source like any other
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
    """The target's collections. Where its server is not there, the error names what answers elsewhere on its port."""
    try:
        return quick_names(parameters.target, "target")
    except RunbookError as error:
        if error.code in UNKNOWN and parameters.target.create is not False:  # step 20 makes its tenant and database
            return []
        if parameters.target.url is None or error.code not in NOT_THERE:
            raise
        error_with_hint = with_candidates(error, tried(parameters.target))
    raise error_with_hint


def refuse_taken(
    wanted: Collection[str], present: Collection[str], owned: Collection[str], parameters: Parameters, run_id: str = ""
) -> None:
    """Raise `Terminal` where the target holds a wanted collection that is not this run's own (`target_not_empty`)."""
    held = sorted(set(wanted) & set(present) - set(owned))
    if held:
        target = parameters.target
        raise target_not_empty(held, target, target.label, quick_holder(target), run_id)

"""A look at both ends before anything starts: a wrong world costs one line, and nothing is written anywhere."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from helpers.errors import RUNBOOK, RunbookError, Terminal, UsageError, secret_of
from helpers.migration import target_lock
from helpers.parameters import Parameters
from helpers.parameters.endpoint import ALL
from helpers.reason_codes import ReasonCode
from helpers.run import plan
from helpers.schema import load_schema
from helpers.stores import quick_holder, quick_names
from helpers.stores.embedding_functions import require_function
from helpers.stores.handshake import tried, with_candidates
from helpers.stores.opening import UNKNOWN

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
    for number, url in enumerate(parameters.cutover.health):
        if secret_of("health", url):
            raise UsageError(
                ReasonCode.PARAMETERS_INVALID, f"cutover.health[{number}] holds a token, which every report would show",
                next_step="Name a URL of the application that answers without one.",
            )  # fmt: skip
    if parameters.migration.reembed:
        require_function(parameters.migration.reembed, parameters.migration.reembed_config)
    names = quick_names(parameters.source, "source")
    if names or parameters.source.url:  # a directory's newest names may still sit in its log, so [] proves nothing
        names = chosen(names, parameters)
    if parameters.target.path == plan.NO_TARGET:
        return
    present = target_names(parameters)
    refuse_taken(load_schema(parameters.schema_name).targets(names), present, owned, parameters, run_id)


def target_names(parameters: Parameters) -> list[str]:
    """The target's collections. Where its server is not there, the error says what answers elsewhere on its port."""
    try:
        return quick_names(parameters.target, "target")
    except RunbookError as error:
        if error.code in UNKNOWN:  # step 20 makes its tenant and database
            return []
        if parameters.target.url is None or error.code not in NOT_THERE:
            raise
        told = with_candidates(error, tried(parameters.target))
    raise told


def refuse_taken(
    wanted: Collection[str], present: Collection[str], owned: Collection[str], parameters: Parameters, run_id: str = ""
) -> None:
    """Raises `Terminal` where the target holds a wanted collection that is not this run's own: see `owners.taken`."""
    taken = sorted(set(wanted) & set(present) - set(owned))
    if taken:
        raise target_lock.taken(
            taken, parameters.target, parameters.target.label, quick_holder(parameters.target), run_id
        )

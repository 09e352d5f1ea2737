"""One order for many databases: a run for each, one after another, each with its own snapshot, gates and evidence.

`source.database: "*"` means every database of the tenant, `source.tenant: "*"` for every tenant of a directory. The
target gets databases of the same names. `reports/<group>/group.json` names the runs, so that `status`, `resume` and `sign`
can be given for all of them at once. A row is a name, what of the source and what of the target is its own.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from helpers import audit
from helpers.errors import Interrupted, NoGo, RunbookError, UsageError, WaitingForSignoffs, one_line
from helpers.evidence.signoffs import gate_state
from helpers.parameters import Parameters, parameters_from
from helpers.parameters.endpoint import ALL
from helpers.reason_codes import ReasonCode
from helpers.results import (
    as_kind,
    contents,
    file_digest,
    json_in,
    json_text,
    passed,
    reading,
    utc_now,
    whole,
    write_text,
)
from helpers.run import folders as runs
from helpers.run import plan
from helpers.run.folders import GROUP, PRIVATE_FOLDER, RunFolder, RunState
from helpers.run.plan import Step
from helpers.status import rolled_back, run_status, table

_ORDER = "order"  # in the workspace of a group or a fleet
EMPTY = "empty: nothing to migrate"
_NO_NEWS = {ReasonCode.ROLLED_BACK, ReasonCode.DRY_RUN_DONE}  # of a run that a resume of its group passes over
WORST = (0, 4, 3, 2, 1, 130)  # exit codes: done, waiting, NO-GO, wrong usage, failed, interrupted


@dataclass(frozen=True, slots=True)
class GroupRow:
    """One database: its name for people, its run, and what its endpoints have in place of the group's."""

    name: str
    run: str
    source: dict[str, Any]
    target: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Group:
    """The runs of one order. `parameters` is the document that each row is laid over; secrets are references in it."""

    id: str
    created: str
    directory: str
    dry_run: bool
    until: str
    parameters: dict[str, Any]
    rows: list[GroupRow]

    def parameters_of(self, row: GroupRow) -> Parameters:
        """The parameters of one run."""
        ends = {side: {**self.parameters[side], **getattr(row, side)} for side in ("source", "target")}
        return parameters_from({**self.parameters, **ends})

    def enter(self) -> None:
        """Work in the folder in which the group began: relative paths are taken from there."""
        os.chdir(self.directory)

    def save(self) -> None:
        """Write the order, after its digest is recorded in the workspace: a resume refuses any other order."""
        text = json_text(asdict(self))
        record_order(RunFolder.of(self.id), hashlib.sha256(text.encode()).hexdigest())
        with whole(runs.reports_root() / self.id) as partial:
            partial.chmod(PRIVATE_FOLDER)
            write_text(partial / GROUP, text)


def read(group_id: str) -> Group | None:
    """The group of this id, or None where that names no group."""
    runs.check_run_id(group_id)
    file = runs.reports_root() / group_id / GROUP
    if not file.is_file():
        return None
    with reading(file):
        return as_kind(Group, json_in(contents(file)))


def record_order(folder: RunFolder, *digests: str) -> None:
    """Record the digests of an order in the workspace. A resume refuses any other order: others may write the reports."""
    note = folder.workspace / _ORDER
    note.parent.mkdir(parents=True, exist_ok=True, mode=PRIVATE_FOLDER)
    write_text(note, "".join(f"{digest}\n" for digest in digests))


def recorded_orders(folder: RunFolder) -> list[str] | None:
    """The recorded digests of an order of many runs; None where the workspace has no record."""
    note = folder.workspace / _ORDER
    return note.read_text(encoding="ascii", errors="replace").split() if note.is_file() else None


def order_changed(folder: RunFolder, file: str, instead: str) -> UsageError:
    """The error for an order file that was changed: it decides what is executed and who has to sign."""
    return UsageError(
        ReasonCode.SEALED_FILE_CHANGED, f"{file} is not the order that was given: something else changed it",
        where=str(folder.reports), next_step=f"Put it back as it was, from a backup; or {instead}.",
    )  # fmt: skip


def require_own(group_id: str) -> None:
    """Raises UsageError where the group's file is not the order that was given.

    An older toolkit noted no digest: there the log of the group must have its line, signed by the key of this workspace.
    """
    folder, key = RunFolder.of(group_id), audit.own_key()
    if (digests := recorded_orders(folder)) is not None:
        own = file_digest(folder.reports / GROUP) in digests
    else:
        log = folder.reports / audit.NAME
        own = bool(key) and bool(audit.entries(log, audit.Trust(frozenset({key})), ("group begun",)))
    if not own:
        raise order_changed(folder, GROUP, "begin a new run for each database")


def is_group(parameters: Parameters) -> bool:
    """Whether the parameters name more than one database, and so more than one run."""
    ends = (parameters.source, parameters.target)
    return any(ALL in (end.tenant, end.database) for end in ends)


def begin(parameters: Parameters, group_id: str, *, dry_run: bool, until: str) -> Group:
    """A new group of the databases that the source lists. Raises `UsageError` where the parameters do not suit a group."""
    from helpers.stores.opening import databases_of  # with Chroma's client, which `status` and `sign` do not need

    _require_group_parameters(parameters)
    databases = databases_of(parameters.source)
    if not databases:
        raise UsageError(ReasonCode.NO_DATABASE, "the source has no such database", where=f"source {parameters.source.label}",
                         next_step="Check source.tenant and source.database.")  # fmt: skip
    names = [database if parameters.source.tenant != ALL else f"{tenant}/{database}" for tenant, database in databases]
    rows: list[GroupRow] = []
    for name, (tenant, database) in zip(names, databases, strict=True):
        target = {"database": database, **({"tenant": tenant} if parameters.source.tenant == ALL else {})}
        run = _run_id(group_id, name, {row.run for row in rows})
        rows.append(GroupRow(name, run, {"tenant": tenant, "database": database}, target))
    group = Group(group_id, utc_now(), str(Path.cwd()), dry_run, until, parameters.document(), rows)
    for row in rows:
        group.parameters_of(row)  # where one of them makes no sense nothing is begun
        if RunFolder.of(row.run).reports.exists():
            raise runs.id_taken(RunFolder.of(row.run))
    group.save()
    return group


def _require_group_parameters(parameters: Parameters) -> None:
    source, target, expected = parameters.source, parameters.target, parameters.expected
    for key in ("tenant", "database"):
        all_of_them, named = getattr(source, key) == ALL, getattr(target, key)
        if named == ALL and not all_of_them:
            raise _usage(f"target.{key} is *, but source.{key} names one", f"Leave target.{key} out, or name one.")
        if all_of_them and named != ALL and key in target.model_fields_set:
            raise _usage(
                f"source.{key} is *, but target.{key} names one", f"Leave target.{key} out: it gets the same names."
            )
    if source.tenant == ALL and source.database != ALL:
        raise _usage("source.tenant is *, but source.database names one", 'Write source.database: "*", too.')
    if expected.collections or expected.unlisted or expected.total is not None or expected.minimum_imported:
        raise _usage("expected counts are those of one database", "Leave expected.collections, total and the like out.")


def _usage(what: str, next_step: str) -> UsageError:
    return UsageError(ReasonCode.MANY_DATABASES, what, where="parameters", next_step=next_step)


def _run_id(group: str, name: str, taken: set[str]) -> str:
    """`<group>-<name>` where that is a valid id and not taken; else a shortened one with a digest of the name."""
    slug = re.sub(r"\.{2,}", ".", re.sub(r"[^A-Za-z0-9._-]+", "-", name)).strip("-.") or "database"
    plain = f"{group}-{slug}"
    if (
        len(plain) <= runs.LONGEST_ID
        and plain.lower() not in {run.lower() for run in taken}
        and slug == name.replace("/", "-")
    ):
        return plain
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{plain[: runs.LONGEST_ID - 9].rstrip('.-')}-{digest}"


def work(group: Group, start: Callable[[GroupRow], object], say: Callable[[str], None]) -> int:
    """Start or continue each run; the worst exit code. A failed run stops no other, an interruption stops all."""
    from helpers.stores.opening import holds_nothing

    verdicts: dict[str, str] = {}
    codes = [0]
    for number, row in enumerate(group.rows, start=1):
        say(f"\nDatabase {number} of {len(group.rows)}: {one_line(row.name, 200)}, run {row.run}")
        try:
            if not RunFolder.of(row.run).exists and holds_nothing(group.parameters_of(row).source):
                verdicts[row.run] = EMPTY
                say(EMPTY)
                continue
            start(row)
        except Interrupted as error:
            codes.append(error.exit_code)
            verdicts[row.run] = "stopped on request"
            break
        except RunbookError as error:
            if error.code not in _NO_NEWS:
                codes.append(error.exit_code)
                verdicts[row.run] = _verdict(error)
            print(f"runbook: {one_line(row.name, 200)}: {error.line()}", file=sys.stderr, flush=True)
    say("\n" + overview(group, verdicts))
    return max(codes, key=WORST.index)


def _verdict(error: RunbookError) -> str:
    if isinstance(error, NoGo):
        return "NO-GO"
    return "waiting for sign-offs" if isinstance(error, WaitingForSignoffs) else f"failed ({error.code})"


def overview(group: Group, verdicts: dict[str, str] | None = None) -> str:
    """A table with a row for each database (database, run, verdict, chunks), and the next commands.

    `verdicts` are those of the current command, by run id.
    """
    rows = [_overview_row(group, row, (verdicts or {}).get(row.run, "")) for row in group.rows]
    nexts = list(dict.fromkeys(str(row.pop("next")) for row in rows))
    return "\n".join([table(rows), *(f"Next: {command}" for command in nexts if command)])


def _overview_row(group: Group, row: GroupRow, new_verdict: str) -> dict[str, Any]:
    run = RunFolder.of(row.run).read()
    verdict, next_command = _state_of(group, run, new_verdict)
    chunks = _chunks(run) if run.exists else ""
    return {
        "database": row.name,
        "run": row.run,
        "verdict": new_verdict or verdict,
        "chunks": chunks,
        "next": next_command,
    }


def _state_of(group: Group, folder: RunState, new_verdict: str) -> tuple[str, str]:
    """(State of a run, command that continues it): the command of the group where one continues all runs."""
    resume, status = RunFolder.of(group.id).command("resume"), run_status(folder)
    if status.word == "not begun":
        return status.word, "" if new_verdict == EMPTY else resume
    if status.word == "rolled back":
        return status.word, ""
    if status.missing:
        sign = RunFolder.of(group.id).command("sign", "--gate", status.gate)
        return "waiting for sign-offs", f"{sign} --role ROLE --name NAME --decision go --key FILE"
    if status.step is None:
        return status.word, ""
    if folder.facts["dry_run"] and status.step.number > plan.LAST_OF_DRY_RUN:
        return "dry run passed", folder.command("run", "--from", Step.FENCE_WRITES)
    if folder.result(status.step.number) is not None:
        return f"step {status.step} {status.word}", resume
    passed_steps = plan.LINE[: plan.LINE.index(status.step)]
    return f"passed up to {passed_steps[-1]}" if passed_steps else "not begun", resume


def _chunks(folder: RunState) -> str:
    for number, fact in ((Step.MIGRATE, "imported"), (Step.SOURCE_HEALTH, "total")):
        result = folder.result(number)
        if result is not None and isinstance(result.facts.get(fact), int):
            return f"{result.facts[fact]:,}"
    return ""


def due_for(order: str, ids: Iterable[str], gate: str, role: str) -> Iterator[RunState]:
    """The runs of an order whose gate waits for this role. UsageError where one of them does not name the order."""
    for run in ids:
        folder = RunFolder.of(run).read()
        step = next(s for s in plan.LINE if s.gate == gate)
        reached = folder.exists and passed(folder.result(step.number)) and not rolled_back(folder)
        if reached and role in gate_state(folder, gate).missing:
            if folder.facts.get("group") != order:  # the order's file is sealed by nothing, and run.json is sealed
                raise UsageError(
                    ReasonCode.NOTHING_TO_SIGN, f"run {folder.id} does not say that it is of {order}; nothing was signed",
                    where=order,
                    next_step=f"Find out who wrote the list of its runs. Or sign each run by itself: {folder.command('sign')}",
                )  # fmt: skip
            yield folder


def record(group: Group) -> None:
    """Record the order in the audit log of the group, once."""
    log = runs.reports_root() / group.id / audit.NAME
    if not log.exists():  # also where the command that began it was killed before this line
        audit.append(log, "group begun", runs=[row.run for row in group.rows])

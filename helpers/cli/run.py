"""`runbook rehearse`, `run` and `resume`: the steps of a command, and the checks before the first of them."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from helpers.errors import RUNBOOK, Transient, UsageError, one_line
from helpers.formatting import count, flatten
from helpers.reason_codes import ReasonCode
from helpers.results import file_digest
from helpers.run import folders as runs
from helpers.run import plan, window
from helpers.run.folders import RunFolder, RunLock, RunPath, RunState
from helpers.run.plan import Step

if TYPE_CHECKING:
    from helpers.parameters import Parameters
    from helpers.runner.group import Group
    from helpers.runner.pipeline import Choice


def rehearse(chosen: argparse.Namespace) -> int:
    from helpers import audit
    from helpers.rehearsal.sample_source import require_size
    from helpers.rehearsal.setup import application_at_work, free_id, prepare, with_application

    require_size(chosen.chunks, chosen.dimension)
    chosen.run_id = chosen.run_id or (runs.new_run_id("rehearsal") if chosen.servers else free_id())
    folder = RunFolder.of(chosen.run_id)
    if folder.reports.exists():
        raise runs.id_taken(folder)
    audit.program()  # the rehearsal signs; better to say now that it cannot
    if chosen.servers:
        from helpers.cli.rehearse import rehearse_servers

        return rehearse_servers(folder, chosen.chunks, chosen.dimension)

    print(f"Creating a sample source of {count(chosen.chunks, 'chunk')}, {chosen.dimension} dimensions …", flush=True)
    started = time.monotonic()
    parameters = prepare(folder.workspace, chosen.chunks, chosen.dimension)
    parameters = with_application(parameters, folder.workspace / "application", time.monotonic() - started)
    runs.create(parameters, folder.id, rehearsal=True)
    with application_at_work(parameters):
        return _drill(folder)


def _drill(folder: RunFolder) -> int:
    """Run the steps up to the cutover with the drills, then the steps after it; 0."""
    from helpers.cli.rehearse import drill
    from helpers.status import Console

    sentences = drill(folder, terminal := Console())
    _run_line(folder, [step for step in plan.LINE if step.follows_cutover])
    lines = [*(f"Drilled: {line}" for line in sentences), "Verdict: GO", f"Open:    {folder.reports / RunPath.PAGE}"]
    terminal.say("\n".join(["", *lines]))
    return 0


def run(chosen: argparse.Namespace) -> int:
    from helpers.run import kernel

    kernel.end_with_fleet()
    if chosen.fleet:
        runs.check_run_id(chosen.fleet)
    first = plan.on_line(chosen.first) if chosen.first else plan.LINE[0]
    last = plan.on_line(chosen.until) if chosen.until else plan.LINE[-1]
    if chosen.dry_run:
        last = min(last, plan.find(plan.LAST_OF_DRY_RUN), key=plan.LINE.index)
    steps = plan.between(first, last)
    if chosen.run_id:
        runs.check_run_id(chosen.run_id)
    if chosen.run_id and RunFolder.of(chosen.run_id).exists:
        return _run_again(chosen, steps)
    if chosen.parameters is None:
        if chosen.run_id:
            runs.find(chosen.run_id)
        raise UsageError(
            ReasonCode.NO_PARAMETERS, "run needs a parameters file", next_step=f"See: {RUNBOOK} run --help"
        )
    if first is not plan.LINE[0]:
        raise UsageError(
            ReasonCode.FROM_NEEDS_RUN,
            f"--from {first.number} needs the results of the steps before it",
            next_step="Give --run-id.",
        )
    return _run_anew(chosen, steps)


def _run_anew(chosen: argparse.Namespace, steps: list[plan.Step]) -> int:
    from helpers.parameters import load_parameters

    parameters = load_parameters(chosen.parameters, chosen.settings)
    chosen.run_id = chosen.run_id or runs.new_run_id(parameters.name)
    folder = RunFolder.of(chosen.run_id)
    if folder.reports.exists():
        raise runs.id_taken(folder)
    from helpers.runner import group

    if chosen.fleet:
        _require_row(chosen)
    if group.is_group(parameters):
        runs_group = group.begin(parameters, folder.id, dry_run=chosen.dry_run, until=steps[-1].number)
        return _group(runs_group, chosen)
    return _begin(parameters, folder, chosen, steps, f"{runs.FLEETS}/{chosen.fleet}" if chosen.fleet else "")


def _require_row(chosen: argparse.Namespace) -> None:
    """Raises UsageError unless a row of the fleet orders this run with this file, in this folder."""
    from helpers.runner import fleet

    state = fleet.require_own(fleet.read(chosen.fleet))
    digest = {row.run: row.sha256 for row in state.rows}.get(chosen.run_id)
    if chosen.settings or file_digest(chosen.parameters) != digest or str(Path.cwd()) != state.directory:
        source = f"{chosen.parameters}{' with --set' if chosen.settings else ''}"
        message = f"{source} is not what fleet {state.id} orders for run {chosen.run_id} in {state.directory}"
        raise UsageError(ReasonCode.OTHER_CONTEXT, one_line(message), where="--fleet",
                         next_step=f"Go on with the fleet: {state.command('resume')}; or leave --fleet out.")  # fmt: skip


def _group(runs_group: Group, chosen: argparse.Namespace) -> int:
    """Start or continue every run of the group; the worst exit code."""
    from helpers.runner import group

    group.record(runs_group)
    steps = plan.between(plan.LINE[0], plan.find(runs_group.until))

    def start(row: group.GroupRow) -> None:
        folder = RunFolder.of(row.run)
        options = argparse.Namespace(
            **{**vars(chosen), "run_id": row.run, "dry_run": runs_group.dry_run, "parameters": None}
        )
        if folder.exists:
            resume(options)
        else:
            _begin(runs_group.parameters_of(row), folder, options, steps, runs_group.id)

    return group.work(runs_group, start, lambda text: print(text, flush=True))


def _begin(
    parameters: Parameters, folder: RunFolder, chosen: argparse.Namespace, steps: list[plan.Step], group: str = ""
) -> int:
    from helpers.migration.target_lock import preflight
    from helpers.rehearsal.setup import require_built

    require_built(parameters)
    try:
        preflight(parameters)
    except Transient as error:  # no run yet, so there is nothing that a notebook could look at
        if error.code == ReasonCode.STORAGE_UNUSABLE:
            raise
        probes = "; ".join(
            f"curl -fsS {end.address}/api/v2/heartbeat" for end in (parameters.source, parameters.target) if end.url
        )
        next_step = (
            f"{error.next_step} No run was begun. Once it answers ({probes}), give the same command again.".strip()
        )
        raise type(error)(error.code, error.what, where=error.where, next_step=next_step) from error
    created = runs.create(parameters, folder.id, dry_run=chosen.dry_run, until=steps[-1].number, group=group)
    if chosen.parameters is not None:  # of a group each run has only a part of the file
        created = remember_file(created, chosen.parameters, chosen.settings)
    window.permit(created, chosen.outside_window)
    return _run_line(folder, steps, dry_run=chosen.dry_run)


def _run_again(chosen: argparse.Namespace, steps: list[plan.Step]) -> int:
    """Run steps of an existing run again, from `--from` on."""
    from helpers.evidence import enter
    from helpers.migration.target_lock import preflight
    from helpers.parameters import load_parameters, parameters_from
    from helpers.results import passed

    folder = runs.find(chosen.run_id)
    if not chosen.first:
        raise runs.id_taken(folder)
    _require_fit(folder)
    window.require_reason(chosen.outside_window)
    missing = [step for step in plan.LINE[: plan.LINE.index(steps[0])] if not passed(folder.result(step.number))]
    if missing:
        raise UsageError(
            ReasonCode.STEP_MISSING,
            f"--from {steps[0].number} needs step {missing[0].number}, which run {folder.id} has not passed",
            next_step=f"Go on with it: {folder.command('resume')}; or run it again: --from {missing[0].number}.",
        )
    with RunLock(folder, "runner").acquire():  # what is at work is not changed
        if chosen.parameters is not None:
            runs.change_parameters(folder, load_parameters(chosen.parameters, chosen.settings))
            folder = folder.read()
        enter(folder)
        if chosen.parameters is None and chosen.settings:
            runs.change_parameters(folder, parameters_from(folder.parameters.document(), chosen.settings))
            folder = folder.read()
        preflight(folder.parameters, _written(folder), folder.id)
        if steps[0].number <= Step.MIGRATE <= steps[-1].number and not chosen.dry_run:
            from helpers.rollback.return_writes import leave_undone_cutover

            leave_undone_cutover(folder.read())
        window.permit(folder.note(until=steps[-1].number, dry_run=chosen.dry_run), chosen.outside_window)
    return _run_line(folder, steps, dry_run=chosen.dry_run)


def _require_fit(folder: RunFolder) -> None:
    from helpers.runner.notebook import pending_retry
    from helpers.status import refuse_rolled_back

    refuse_rolled_back(folder)
    if pending := pending_retry(folder):
        message = f"taking back step {pending} of run {folder.id} was interrupted"
        raise UsageError(ReasonCode.RETRY_UNFINISHED, message, next_step=f"Finish it: {folder.command('resume')}")


def resume(chosen: argparse.Namespace) -> int:
    """Continue a run or a group: up to the step where it was to stop; from there, to the end of the sequence."""
    from helpers.run import kernel

    kernel.end_with_fleet()
    if (runs_group := _group_of(chosen)) is not None:
        runs_group.enter()
        return _group(runs_group, chosen)
    folder = runs.find(chosen.run_id)
    from helpers.migration.checkpoint import require_checkpoint
    from helpers.migration.target_lock import preflight
    from helpers.status import open_steps, refuse_rolled_back

    refuse_rolled_back(folder)
    if chosen.checkpoint and chosen.retry:
        raise UsageError(ReasonCode.USAGE, "--retry starts a step again, so it takes no --checkpoint")
    if chosen.checkpoint:
        require_checkpoint(folder, chosen.checkpoint)
    until = plan.on_line(chosen.until) if chosen.until else None
    with RunLock(folder, "runner").acquire():  # what is at work is not changed
        folder = _take_orders(folder.read(), chosen, until)
        if until is not None:
            folder = folder.note(until=until.number)
        facts = folder.facts
        last = plan.find(str(facts["until"] or plan.LINE[-1].number))
        steps = open_steps(folder, last)
        if not steps:
            last = plan.LINE[-1]
            steps = open_steps(folder, last)
            folder.note(until="")
        if steps:
            preflight(folder.parameters, _written(folder), folder.id)
    from helpers.rehearsal.setup import application_at_work

    with application_at_work(folder.parameters):
        return _run_line(folder, lambda run: open_steps(run, last), dry_run=bool(facts["dry_run"]))


def _require_more(folder: RunState, until: plan.Step | None) -> None:
    """Raises UsageError where the run has passed all ordered steps and must not continue by itself."""
    if until is not None:
        hint = f"Go on to the end with: {folder.command('resume', '--until', plan.LINE[-1].number)}"
        raise UsageError(
            ReasonCode.NOTHING_OPEN, f"run {folder.id} has passed every step up to {until.number}", next_step=hint
        )
    if folder.facts["dry_run"]:
        next_step = f"For the migration itself: {RUNBOOK} run --run-id {folder.id} --from 20"
        raise UsageError(ReasonCode.DRY_RUN_DONE, f"run {folder.id} is a dry run and complete", next_step=next_step)


def _take_orders(folder: RunState, chosen: argparse.Namespace, until: plan.Step | None) -> RunState:
    """Apply the options of a resume: permission outside the window, parameters, a retry; the run afterwards.

    The whole command is checked before anything is changed.
    """
    from helpers.evidence import enter, signing
    from helpers.runner import notebook
    from helpers.status import open_steps

    window.require_reason(chosen.outside_window)
    changed = folder.parameters.for_resume(chosen.settings) if chosen.settings else None
    retry_from = chosen.retry or notebook.pending_retry(folder)
    if changed is not None and not retry_from and _moves_window(folder, changed):
        retry_from = chosen.retry = Step.SCHEDULE_AND_NOTIFY  # people were notified of another time
    if chosen.retry:
        notebook.require_retriable(folder, plan.find(chosen.retry), changed)
    last = until or plan.find(str(folder.facts["until"] or plan.LINE[-1].number))
    if not (retry_from and plan.find(retry_from).number <= last.number) and not open_steps(folder, last):
        _require_more(folder, until)
    enter(folder)
    if (
        changed is not None
        and (signers := changed.signoff.allowed_signers) != folder.parameters.signoff.allowed_signers
        and signers
    ):
        signing.read_allowed(Path(signers))
    if notice := edited(folder):
        folder.log(notice)
        print(notice, flush=True)
    if changed is not None:
        runs.change_parameters(folder, changed)
    window.permit(folder.read(), chosen.outside_window)
    if retry_from:
        notebook.undo_from(folder.read(), plan.find(retry_from), print)
    return folder.read()


def _moves_window(folder: RunState, changed: Parameters) -> bool:
    """Whether these parameters change the window that people were notified of, and step 20 has not begun."""
    begun = any(folder.result(step.number) is not None for step in plan.LINE if step.in_window)
    notified = folder.result(Step.SCHEDULE_AND_NOTIFY) is not None
    return notified and not begun and changed.window != folder.parameters.window


def remember_file(folder: RunFolder, file: Path, settings: list[str]) -> RunState:
    """Record the file that a run's parameters come from, for `edited`; the run."""
    source = {"path": str(file.absolute()), "sha256": file_digest(file), "settings": settings}
    return folder.note(parameters_file=source)


def edited(folder: RunState) -> str:
    """A notice if the parameters file was changed since the run began: a resume does not read it.

    "" where it is unchanged or gone, or the run began without one.
    """
    from helpers.errors import RunbookError
    from helpers.parameters import load_parameters

    source = folder.facts.get("parameters_file") or {}
    path = Path(source.get("path", ""))
    if not source or not path.is_file() or file_digest(path) == source["sha256"]:
        return ""
    go_on = f"The run goes on with its own: {folder.reports / RunPath.PARAMETERS}."
    try:
        now, own = (flatten(p.document()) for p in (load_parameters(path, source["settings"]), folder.parameters))
    except RunbookError as error:
        return f"{path} was changed since the run began, and cannot be read now ({error.what}). {go_on}"
    keys = sorted(key for key in {*now, *own} if now.get(key) != own.get(key))
    if not keys:
        return ""
    return (
        f"{path} was changed since the run began: {', '.join(keys)}. {go_on} To change what a resume may change: "
        "--set KEY=VALUE; for anything else begin a new run."
    )


def _group_of(chosen: argparse.Namespace) -> Group | None:
    """The group that is to be continued; None where it is a single run."""
    if not (runs.reports_root() / chosen.run_id / runs.GROUP).is_file():
        return None
    from helpers.runner import group

    if chosen.checkpoint or chosen.retry:
        raise UsageError(ReasonCode.GROUP_OF_RUNS, "--retry and --checkpoint are for one run of a group", where=chosen.run_id,
                         next_step=f"See which: {RUNBOOK} status {chosen.run_id}")  # fmt: skip
    group.require_own(chosen.run_id)
    return group.read(chosen.run_id)


def _written(folder: RunFolder) -> list[str]:
    """The target's collections that this run made."""
    from helpers.migration.checkpoint import Checkpoint

    ledger = folder.workspace / RunPath.CHECKPOINT
    return Checkpoint.read(ledger).owned() if ledger.is_file() else []


def _run_line(folder: RunFolder, steps: Choice, *, dry_run: bool = False) -> int:
    from helpers.runner.outcome import run_to_outcome
    from helpers.status import Console

    run_to_outcome(folder, steps, Console(), dry_run=dry_run)
    return 0


# -- options -----------------------------------------------------------------------------------------------------------

# Options of several commands, in a module that does not load Chroma's client.


def rollback_options(command: argparse.ArgumentParser) -> None:
    """Of `rollback`, for one run and for a fleet."""
    command.add_argument("--dry-run", action="store_true", help="show what would be done; change nothing")
    command.add_argument(
        "--restore-source", action="store_true", help="restore the damaged chunks of the source from the snapshot"
    )
    command.add_argument(
        "--collection",
        action="append",
        default=[],
        metavar="NAME",
        help="restore this source collection only; repeatable",
    )
    command.add_argument(
        "--accept-source", metavar="REASON", help="accept a damaged source as it is; the reason is recorded"
    )
    command.add_argument(
        "--replay", action="store_true", help="write to the source what clients wrote to the target since the cutover"
    )
    command.add_argument(
        "--replay-to",
        default="",
        metavar="COLLECTION",
        help="with --replay: the source collection for new chunks that nothing else places",
    )
    command.add_argument(
        "--discard-with-reason",
        dest="discard",
        metavar="TEXT",
        help="discard those writes; they stay exported, the reason is recorded",
    )
    command.add_argument(
        "--why",
        default="",
        metavar="TEXT",
        help="why the run is rolled back; one line for the notice and the post-mortem",
    )


def settings_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--set",
        dest="settings",
        action="append",
        default=[],
        metavar="a.b=VALUE",
        help="change a parameter; repeatable",
    )


def outside_window_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--outside-window",
        default="",
        metavar="REASON",
        help="start outside the maintenance window; the reason is recorded and shown to those who sign",
    )


def positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{one_line(text, 40)!r} is not a whole number above 0")
    return int(text)

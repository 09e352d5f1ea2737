"""What follows when the steps of a run have ended: catch up once more, hold, or an automatic rollback.

- 25 found the source changed: 22 catches up, 23 and 24 judge anew. The earlier approvals no longer fit the results, so
  the run then waits for new ones.
- NO-GO, or a rollback trigger: notebook 26 says what failed and whom to call.
- A rollback trigger where the parameters say `rollback.automatic`: notebook 27, which says first what it will do.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from helpers import audit
from helpers.errors import Interrupted, NoGo, RunbookError, UsageError, WaitingForSignoffs, one_line
from helpers.evidence import enter
from helpers.fence import FenceState
from helpers.reason_codes import ReasonCode
from helpers.report.pages import leave
from helpers.results import utc_now
from helpers.rollback import Orders, RollbackState, at_work, outline, stop
from helpers.run import folders as runs
from helpers.run import plan
from helpers.run.advice import triggers_of
from helpers.run.folders import RunFolder, RunState
from helpers.run.plan import Step
from helpers.runner import notices
from helpers.runner.pipeline import Choice, run_line
from helpers.snapshots.remote import manifest_at_hand
from helpers.snapshots.snapshot import Snapshot
from helpers.status import Console

SOURCE_CHANGED, OUTSIDE_WINDOW = ReasonCode.SOURCE_CHANGED, ReasonCode.OUTSIDE_WINDOW
_MOST = 3  # catch-ups before a cutover; a source that changes behind each of them has a writer who must be found


def run_to_outcome(folder: RunFolder, steps: Choice, terminal: Console, *, dry_run: bool = False) -> str:
    """Run the steps, and catch up, hold or roll back as their outcome requires; the verdict in words. Raises as `run_line`."""
    first = Step.SOURCE_HEALTH

    def remaining(run: RunState) -> list[plan.Step]:
        chosen = steps(run) if callable(steps) else steps
        return with_fence(run, [step for step in chosen if step.number >= first])

    for _ in range(_MOST):
        try:
            return run_line(folder, remaining, terminal, dry_run=dry_run)
        except RunbookError as error:
            if not _source_changed(folder.read(), error):
                raise _hold(folder, terminal, error, dry_run=dry_run) from error
            terminal.say("The source changed after the decision: step 22 catches up, 23 and 24 run again.")
            folder.log(f"catching up once more: {error}")
            _catch_up_again(folder, terminal)
        first = Step.CUTOVER
    no_go = NoGo(SOURCE_CHANGED, f"run {folder.id}: the source changed behind each of {_MOST} catch-ups",
                  next_step=f"Find who writes to it, then: {folder.command('resume')}")  # fmt: skip
    run = folder.read()
    notices.run_stopped(run, no_go, terminal.say)
    leave(run)
    raise no_go


def _source_changed(folder: RunState, error: RunbookError) -> bool:
    result = folder.result(Step.CUTOVER)
    return error.code == SOURCE_CHANGED and result is not None and (result.error or {}).get("code") == SOURCE_CHANGED


def _catch_up_again(folder: RunFolder, terminal: Console) -> None:
    """Run steps 22 to 24. An error of them, missing approvals included, ends the run."""
    steps = plan.between(Step.MIGRATE, Step.REVIEW)
    try:
        run_line(folder, lambda run: with_fence(run, steps), terminal)
    except RunbookError as error:
        raise _hold(folder, terminal, error, dry_run=False) from error


def _hold(folder: RunFolder, terminal: Console, error: RunbookError, *, dry_run: bool) -> RunbookError:
    """Hold the run, or roll it back; the error that the command ends with."""
    run = folder.read()
    nothing_to_hold = dry_run or run.facts["dry_run"] or run.result(Step.SNAPSHOT) is None
    if nothing_to_hold or isinstance(error, Interrupted | WaitingForSignoffs) or error.code == OUTSIDE_WINDOW:
        return error
    triggers = triggers_of(run)
    if not triggers and not isinstance(error, NoGo):
        return error
    try:
        run_line(folder, [Step.HOLD_AND_TROUBLESHOOT], terminal)
    except RunbookError as other:  # the error that stopped the run is reported
        folder.log(f"step {Step.HOLD_AND_TROUBLESHOOT} did not pass: {other}")
    if not triggers or not run.parameters.rollback.automatic:
        return error
    why = "; ".join(trigger.sentence for trigger in triggers)
    terminal.say(f"Automatic rollback (rollback.automatic): {why}")
    folder.log(f"automatic rollback: {why}")
    try:
        execute(folder, Orders(why=f"automatic: {why}"[:500]), terminal, locked=True)
    except RunbookError as rollback_error:
        return rollback_error
    return NoGo(
        ReasonCode.ROLLED_BACK,
        f"run {folder.id} was rolled back: {why}",
        next_step=f"See {folder.reports / 'rollback.html'}",
    )


def roll_back(chosen: argparse.Namespace) -> int:
    """The command; 0 where the run was rolled back."""
    folder = runs.find(chosen.run_id)
    orders = orders_of(chosen)
    enter(folder)
    _require_collections(folder, orders)
    return execute(folder, orders, Console(), dry_run=chosen.dry_run)


def orders_of(chosen: argparse.Namespace) -> Orders:
    """The orders that the options give; naming a collection orders its restore."""
    for option, value in (("--accept-source", chosen.accept_source), ("--discard-with-reason", chosen.discard)):
        if value is not None and not value.strip():
            raise UsageError(ReasonCode.USAGE, f"{option} needs a reason")
    return Orders(
        restore=chosen.restore_source or bool(chosen.collection),
        collections=sorted(set(chosen.collection)),
        accept_source=chosen.accept_source or "",
        replay=chosen.replay or bool(chosen.replay_to),
        replay_to=chosen.replay_to,
        discard=chosen.discard or "",
        why=chosen.why,
    )


def _require_collections(run: RunState, orders: Orders) -> None:
    """UsageError where the orders name a collection that the run's snapshot does not hold, before anything is done."""
    wanted = {*orders.collections, *filter(None, [orders.replay_to])}
    result = run.result(Step.SNAPSHOT) if wanted else None
    if result is None or "snapshot" not in result.facts:
        return
    manifest_at_hand(run.parameters.snapshot, folder := Path(result.facts["snapshot"]["folder"]))
    names = Snapshot.open(folder).names()
    if unknown := sorted(wanted - set(names)):
        raise UsageError(
            ReasonCode.NO_SUCH_COLLECTION, f"the source of run {run.id} has no collection {one_line(unknown[0], 80)}",
            next_step=f"It has {one_line(', '.join(names), 300)}. Nothing was done.",
        )  # fmt: skip


def execute(
    folder: RunFolder, orders: Orders, terminal: Console, *, dry_run: bool = False, locked: bool = False
) -> int:
    """Roll this run back; 0 where it succeeded. `locked`: the caller is the run's own runner, whose steps have ended."""
    state = RollbackState.load(folder.workspace)
    if state is not None and state.finished and not dry_run:
        terminal.say(f"Run {folder.id}: {state.sentence()} See {folder.reports / 'rollback.html'}")
        return 0
    if dry_run and at_work(folder) and not locked:
        terminal.say(
            _plan_text(folder.read(), "would do, while the run is at work; source and target were not compared")
        )
        return 0
    if not dry_run:
        state = RollbackState.begin(folder.workspace, folder.id, orders)
    terminal.say(_plan_text(folder.read(), "would do" if dry_run else "does now"))
    if not dry_run and not locked:
        _stop_migration(folder, state)
    try:
        run_line(folder, [Step.ROLLBACK], terminal, dry_run=dry_run)
    except Interrupted as error:
        raise Interrupted.by_signal(folder.command("rollback")) from error
    return 0


def _stop_migration(folder: RunFolder, state: RollbackState | None) -> None:
    working = at_work(folder)
    if not working or state is None:
        return
    log = folder.reports / audit.NAME
    audit.append(log, "migration stopped", outcome="begun", processes=sorted(working))
    stopped = stop(folder)
    audit.append(log, "migration stopped", processes=stopped)
    state.facts["stopped"] = sorted({*state.facts.get("stopped", []), *stopped})
    state.facts["stopped_at"] = utc_now()
    state.save(folder.workspace)


def _plan_text(folder: RunState, what: str) -> str:
    rows = [f"  {title}: {text}" for title, text in outline(folder)]
    return "\n".join([f"What the rollback of run {folder.id} {what}:", *rows])


def with_fence(folder: RunState, steps: Sequence[plan.Step]) -> list[plan.Step]:
    """The steps, with 20 first where one needs the fence and it was lifted, and 24 for steps after the decision."""
    rules, fenced = folder.parameters.fence, any(s.fenced for s in steps) and Step.FENCE_WRITES not in steps
    applies = fenced and rules.kind != "none" and not rules.late
    state = FenceState.load(folder.workspace) if applies else None
    before = [Step.FENCE_WRITES, *([Step.REVIEW] if steps and steps[0].number > Step.REVIEW else [])]
    return [*before, *steps] if applies and (state is None or not state.active) else list(steps)

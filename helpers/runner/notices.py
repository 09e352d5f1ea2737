"""Notices while a run goes on, and the commands hooks it: called by the pipeline, and by notebooks run by hand.

Nothing here raises, and nothing here waits for a dead channel longer than `notify.timeout_seconds`.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from helpers.cutover import CutoverState
from helpers.errors import Interrupted, NoGo, RunbookError, WaitingForSignoffs, one_line
from helpers.evidence.signoffs import gate_state
from helpers.notify import CommandHooks, Event, read, send_notice
from helpers.reason_codes import ReasonCode
from helpers.results import Verdict, file_digest, passed
from helpers.rollback import DRILL, KILL_DRILL, RollbackState
from helpers.run import plan
from helpers.run.advice import advice, triggers_of
from helpers.run.folders import RunFolder, RunPath, RunState
from helpers.run.plan import Step

Say = Callable[[str], None]
_NO_NEWS = (
    ReasonCode.OUTSIDE_WINDOW,
    ReasonCode.SOURCE_CHANGED,
    ReasonCode.RUN_LOCKED,
)  # somebody handles these already


def kernel_death(folder: RunFolder) -> str:
    """How a kernel ended, as a verb phrase. A rehearsal that kills one leaves a file first."""
    drill = (folder.workspace / KILL_DRILL).exists()
    return "was killed by the drill of this rehearsal" if drill else "died (out of memory, or killed)"


def before_step(folder: RunState, step: plan.Step, say: Say, *, dry_run: bool = False) -> None:
    """Before 20 the commands of `notify.before` and the notice of the start; before 25 who signed; before 27 the rollback."""
    if step.number not in (Step.FENCE_WRITES, Step.CUTOVER, Step.ROLLBACK):
        return
    with _never_stopping(folder, say):
        dry = dry_run or bool(folder.facts["dry_run"])
        if step.number == Step.FENCE_WRITES:
            hooks = CommandHooks(folder)
            if dry:
                _list_commands(hooks, say)
            else:
                hooks.before(say)
            send_notice(folder, Event.START, key=f"night {hooks.night}", dry_run=dry, say=say, open=_page(folder, step))
        elif dry:
            return
        elif step.number == Step.CUTOVER:
            if signers := gate_state(folder).keys:
                signed = ", ".join(f"{role} ({who.split()[0]})" for role, who in signers.items())
                send_notice(
                    folder, Event.SIGNED, key=_decision(folder), say=say, signed=signed, open=_page(folder, step)
                )
        else:
            state = RollbackState.load(folder.workspace)
            why = (
                (state.orders.why if state else "")
                or "; ".join(t.sentence for t in triggers_of(folder))
                or "it was ordered"
            )
            send_notice(
                folder, Event.ROLLBACK_BEGINS, key=_since(state), say=say, why=why, critical=True,
                drill=_drill(folder, state), open=_page(folder, step),
            )  # fmt: skip


def after_step(
    folder: RunState, step: plan.Step, error: RunbookError | None, say: Say, *, dry_run: bool = False
) -> None:
    """The decision GO after 24, the cutover after 25, how a rollback came out after 27."""
    if dry_run or folder.facts["dry_run"] or isinstance(error, Interrupted):
        return
    with _never_stopping(folder, say):
        result = folder.result(step.number)
        page = _page(folder, step)
        if step.number == Step.ROLLBACK:
            _after_rollback(folder, error, say, page)
        elif error is not None or not passed(result) or result is None:
            return
        elif step.number == Step.REVIEW and result.facts.get("decision") == "GO":
            warnings = [c.name for c in result.checks if c.verdict in (Verdict.WARNING, Verdict.MARGINAL)]
            waiting = ", ".join(gate_state(folder).missing)
            send_notice(
                folder, Event.DECISION_GO, key=_decision(folder), say=say, warnings=", ".join(warnings[:5]),
                waiting=waiting, open=page,
            )  # fmt: skip
        elif step.number == Step.CUTOVER:
            state = CutoverState.load(folder.workspace)
            send_notice(folder, Event.CUTOVER, key=state.since if state else "", say=say, open=page)
            CommandHooks(folder).after(
                say
            )  # the cutover is done: what was silenced is wanted for the watch that follows


def pipeline_ended(folder: RunState, steps: Sequence[plan.Step], error: RunbookError | None, say: Say) -> None:
    """Notices at the end of the pipeline: those that a kill prevented, then the end of the run or what stopped it."""
    with _never_stopping(folder, say):
        events = {entry.event for entry in read(folder.reports)}
        for number, event in ((Step.REVIEW, Event.DECISION_GO), (Step.CUTOVER, Event.CUTOVER)):
            if Event.START in events and event not in events and (not steps or steps[-1].on_line):
                after_step(folder, plan.find(number), None, say)
    if error is None:
        run_ended(folder, say)
    elif not steps or steps[-1].on_line:
        run_stopped(folder, error, say)


def run_ended(folder: RunState, say: Say) -> None:
    """If every step has passed: the notice of the end and the commands of `notify.after`, each once."""
    with _never_stopping(folder, say):
        if not folder.facts["dry_run"] and all(passed(folder.result(step.number)) for step in plan.LINE):
            hooks = CommandHooks(folder)
            send_notice(folder, Event.END, key=f"night {hooks.night}", say=say, open=str(folder.reports / RunPath.PAGE))
            hooks.after(say)


def run_stopped(folder: RunState, error: RunbookError, say: Say) -> None:
    """The notice of NO-GO or of a failure, with the escalation level and whom to call. Nothing is sent before step 20 has run."""
    if isinstance(error, Interrupted | WaitingForSignoffs) or (error.code in _NO_NEWS and not isinstance(error, NoGo)):
        return
    with _never_stopping(folder, say):
        if folder.facts["dry_run"] or folder.result(Step.FENCE_WRITES) is None:
            return
        failed = [r for step in plan.LINE if (r := folder.result(step.number)) is not None and r.error is not None]
        since = min((r.finished for r in failed if r.finished), default="")
        minutes = (datetime.now(UTC) - datetime.fromisoformat(since)).total_seconds() / 60 if since else 0.0
        codes = [c.reason for r in failed for c in r.checks if c.verdict is Verdict.FAIL and c.reason]
        remedy = next(filter(None, (advice(code, folder) for code in [*codes, error.code])), "")
        event = Event.NO_GO if isinstance(error, NoGo) else Event.STOPPED
        send_notice(
            folder, event, key=f"{error.code} {max((r.finished for r in failed), default='')}", say=say,
            why=error.line(), critical=bool(triggers_of(folder)), minutes=max(0.0, minutes),
            drill=(folder.workspace / KILL_DRILL).exists(), open=remedy or str(folder.reports / RunPath.PAGE),
        )  # fmt: skip


def run_held(folder: RunState, say: Say) -> None:
    """The run is held: run the commands of `notify.after`, so that silenced alerts are active again."""
    with _never_stopping(folder, say):
        CommandHooks(folder).after(say)


def _after_rollback(folder: RunState, error: RunbookError | None, say: Say, page: str) -> None:
    state = RollbackState.load(folder.workspace)
    if error is None:
        from helpers.rollback.postmortem import NOTICE

        path = folder.reports / NOTICE
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        send_notice(
            folder, Event.ROLLBACK_ENDS, key=_since(state), say=say, notice=text.strip(), drill=_drill(folder, state),
            open=page,
        )  # fmt: skip
        CommandHooks(folder).after(say)
    else:
        key = f"{_since(state)} {error.code} {state.at if state else ''}"
        send_notice(
            folder, Event.ROLLBACK_STOPPED, key=key, say=say, why=error.line(), critical=True,
            drill=_drill(folder, state), open=page,
        )  # fmt: skip


def _drill(folder: RunState, state: RollbackState | None) -> bool:
    """Whether a rehearsal ordered this rollback to measure it."""
    return bool(folder.facts["rehearsal"]) and state is not None and state.orders.why == DRILL


def _list_commands(hooks: CommandHooks, say: Say) -> None:
    for name, commands in (("before", hooks.rules.before), ("after", hooks.rules.after)):
        for command in commands:
            say(f"DRY RUN: notify.{name} would run {one_line(' '.join(command), 300)}")


def _decision(folder: RunFolder) -> str:
    return file_digest(folder.reports / RunPath.RESULTS / f"{Step.REVIEW}.json")


def _since(state: RollbackState | None) -> str:
    return state.since if state is not None else ""


def _page(folder: RunFolder, step: plan.Step) -> str:
    return str(folder.reports / step.notebook)


@contextmanager
def _never_stopping(folder: RunFolder, say: Say) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # a notice or a damaged state file is no reason to end a migration
        message: Any = error.line() if isinstance(error, RunbookError) else str(error) or type(error).__name__
        folder.log_block("notices", traceback.format_exc())
        say(f"WARNING: notices: {one_line(message, 300)} The run goes on.")

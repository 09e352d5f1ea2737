"""Where the runs stand: the map of steps for notebook 00 and for `runbook status`."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from helpers import audit
from helpers.errors import RUNBOOK, NoGo, RunbookError, UsageError, WaitingForSignoffs, one_line
from helpers.evidence import trusted
from helpers.evidence.signing import ALLOWED
from helpers.evidence.signoffs import GateState, gate_state
from helpers.evidence.statement import allowed_signers
from helpers.fence import FenceState
from helpers.formatting import bare, count, duration, moment
from helpers.migration.checkpoint import Kept
from helpers.reason_codes import ReasonCode
from helpers.results import Check, StepResult, Verdict, as_kind, contents, file_digest, json_in, passed
from helpers.rollback import RollbackState, at_work
from helpers.run import folders as runs
from helpers.run import kernel, plan
from helpers.run.folders import RunFolder, RunPath, RunState
from helpers.run.plan import Step
from helpers.run.window import now_utc, refusal

# -- gates -------------------------------------------------------------------------------------------------------------

# The gates that people open: which approvals are due behind a step, and whether the run may go on.


def open_gate(folder: RunState, steps: Iterable[plan.Step]) -> RunbookError | None:
    """What stops the run behind the first passed step whose gate is shut: a NO-GO, or missing approvals; else None."""
    for step in steps:
        if step.gate and passed(folder.result(step.number)):
            error = _behind(folder, step)
            if error is not None:
                return error
    return None


def _behind(folder: RunState, step: plan.Step) -> RunbookError | None:
    # After the cutover a signature stays what it was when it counted: keys may go from the list then, and a resume may
    # change what concerns the steps after it.
    done = passed(folder.result(Step.CUTOVER))
    state = gate_state(folder, step.gate, None if done else allowed_signers(folder))
    if (
        done
        and not state.blocked
        and all(set(state.stale.get(role, [""])) <= {RunPath.PARAMETERS} for role in state.missing)
    ):
        return None
    if state.blocked:
        return NoGo(
            ReasonCode.SIGNED_NO_GO, f"run {folder.id}: {'; '.join(state.blocked)}", next_step="It may not be cut over."
        )
    if not state.missing:
        return None
    example = (
        f"{folder.command('sign')} --role {state.missing[0]} --name NAME --decision go --gate {step.gate} --key FILE"
    )
    first = (
        ""
        if (folder.reports / ALLOWED).is_file()
        else (f"First name who may sign: {folder.command('resume')} --set signoff.allowed_signers=FILE. ")
    )
    return WaitingForSignoffs(
        ReasonCode.SIGNOFFS_MISSING,
        f"run {folder.id} waits for the approval of {', '.join(_with_reason(state, role) for role in state.missing)}",
        next_step=f"{first}Each signs with: {example}",
    )


def _with_reason(state: GateState, role: str) -> str:
    """The role, and why an approval that it gave does not count."""
    if state.stale.get(role):
        return f"{role} (given before {', '.join(state.stale[role])} changed)"
    return f"{role} ({state.refused[role]})" if role in state.refused else role


# -- overview ----------------------------------------------------------------------------------------------------------


TO_DO = "to do"
RUN_COLUMNS = ("run", "name", "created", "at", "state", "due", "fence", "kind")


def state(result: StepResult | None) -> str:
    """How a step came out: its verdict, or to do, NO-GO, interrupted, failed; a rollback that changed nothing: dry run."""
    if result is None:
        return TO_DO
    if result.error is not None:
        words: dict[str, str] = {ReasonCode.NO_GO: "NO-GO", ReasonCode.INTERRUPTED: "interrupted"}
        return words.get(result.error["code"], "failed")
    return "dry run" if result.facts.get("dry_run") else str(result.verdict)


def rolled_back(folder: RunFolder) -> str:
    """`Rolled back, finished …` or how far the rollback is; "" where none ever began."""
    found = RollbackState.load(folder.workspace)
    return found.sentence() if found is not None else ""


def after_rollback(folder: RunFolder) -> str:
    """What to do with a run whose rollback began."""
    found = RollbackState.load(folder.workspace)
    if found is not None and found.finished:
        return f"Begin a new run; what became of this one: {folder.reports / 'rollback.html'}"
    return f"Go on with: {folder.command('rollback')}"


def refuse_rolled_back(folder: RunFolder) -> None:
    """Raises `UsageError` where a rollback of this run began: from there on only the rollback can go on."""
    if said := rolled_back(folder):
        raise UsageError(
            ReasonCode.ROLLED_BACK, f"run {folder.id} does not go on. {said}", next_step=after_rollback(folder)
        )  # fmt: skip


def first_open_step(folder: RunState) -> plan.Step | None:
    """The first step of the sequence that has not passed; None where all have."""
    return next((step for step in plan.LINE if not passed(folder.result(step.number))), None)


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a run is, in `word`: not begun, rolled back, NO-GO, waiting, done, or the state of `step`, the one that is due.

    `missing` are the roles whose approval at `gate` is due.
    """

    word: str
    step: plan.Step | None = None
    gate: str = ""
    missing: tuple[str, ...] = ()


def standing(folder: RunState, last: plan.Step = plan.LINE[-1]) -> Standing:
    """How far the run is on its way to the end of `last`."""
    if not folder.exists:
        return Standing("not begun", plan.LINE[0])
    if rolled_back(folder):
        return Standing("rolled back")
    step = first_open_step(folder)
    for passed_step in plan.LINE if step is None else plan.LINE[: plan.LINE.index(step)]:
        gate = gate_state(folder, passed_step.gate) if passed_step.gate else None
        if gate is not None and (gate.blocked or gate.missing):
            word = "NO-GO" if gate.blocked else "waiting"
            return Standing(word, step, passed_step.gate, () if gate.blocked else tuple(gate.missing))
    if step is None or step.number > last.number:
        return Standing("done")
    return Standing(state(folder.result(step.number)), step)


def step_rows(folder: RunState | None) -> list[dict[str, Any]]:
    """One row for each step of the sequence: step, title, section, state, seconds, notebook."""
    rows = []
    for step in plan.LINE:
        result = folder.result(step.number) if folder else None
        rows.append(
            {
                "step": step.number,
                "title": step.title,
                "section": step.section,
                "state": state(result),
                "seconds": round(result.seconds, 1) if result else 0.0,
                "notebook": step.notebook,
            }
        )
    return rows


def run_rows() -> list[dict[str, str]]:
    """One row a run, the newest first: run, name, created, at (the step it has reached), state, due, fence, kind."""
    rows = []
    for damaged_run, error in runs.damaged_runs().items():
        empty = dict.fromkeys(("run", "name", "created", "at", "due", "fence", "kind"), "")
        rows.append(
            {**empty, "run": damaged_run.id, "state": f"damaged: {error.line()}", "fence": _told(_fence, damaged_run)}
        )
    for folder in runs.every_run():
        facts = folder.facts
        try:
            step = first_open_step(folder)
        except RunbookError as error:
            step, damaged = None, f"damaged: {error.line()}"
        else:
            damaged = ""
        kind = "rehearsal" if facts["rehearsal"] else "dry run" if facts["dry_run"] else ""
        rows.append(
            {
                "run": folder.id,
                "name": str(facts["name"]),
                "created": str(facts["created"])[:19].replace("T", " "),
                "at": step.number if step else "",
                "state": damaged or (state(folder.result(step.number)) if step else "all steps passed"),
                "due": "" if damaged else _told(_due, folder, step),
                "fence": _told(_fence, folder),
                "kind": kind,
            }
        )
    return rows


def _told(say: Callable[..., str], *about: Any) -> str:
    """A run that another version of the toolkit wrote hides no other run."""
    try:
        return say(*about)
    except RunbookError as error:
        return f"unknown ({error.code})"


def _due(folder: RunState, step: plan.Step | None) -> str:
    """In a few words what the run waits for: signatures by role, a step, nothing."""
    if (back := RollbackState.load(folder.workspace)) is not None:
        return "nothing: rolled back" if back.finished else "rollback"
    for passed_step in plan.LINE if step is None else plan.LINE[: plan.LINE.index(step)]:
        if passed_step.gate and passed(folder.result(passed_step.number)):
            gate = gate_state(folder, passed_step.gate)
            if gate.blocked:
                return "nothing: NO-GO"
            if gate.missing:
                return f"sign {passed_step.gate}: {', '.join(gate.missing)}"
    return f"step {step.number}" if step is not None else ""


def _fence(folder: RunFolder) -> str:
    found = FenceState.load(folder.workspace)
    return "" if found is None or not found.refuses else "up" if found.active else "half up"


def at_work_now(folder: RunFolder, now: dt.datetime) -> str:
    """Who works on the run, how far it is, when it last moved and last wrote to the target; "" where nobody works on it."""
    working = {pid: host for pid, host in at_work(folder).items() if pid != os.getpid()}
    if not working:
        return ""
    who = ", ".join(f"process {pid} on {host}" for pid, host in sorted(working.items()))
    lines = [f"Nothing: {who} {'is' if len(working) == 1 else 'are'} at work on it."]
    path = folder.workspace / RunPath.PROGRESS
    if (state := _progress(path)) is not None:
        with contextlib.suppress(OSError, ValueError, RunbookError):
            ago = now - dt.datetime.fromtimestamp(path.stat().st_mtime, dt.UTC)
            far = f"{state.done:,} of {state.total:,} {state.unit}"
            silent = duration(max(0.0, ago.total_seconds()))
            title = plan.find(state.step).title
            lines.append(f"Step {state.step} ({title}), {one_line(state.label)}: {far}; last progress {silent} ago")
            lines += [f"Workers: {one_line(state.workers)}"] if state.workers else []
            kept = Kept.of(folder.workspace / RunPath.CHECKPOINT)
            written = sum(target.completed for target in kept.targets.values())
            lines.append(f"Last write to the target: {moment(kept.timestamp)}, batch {kept.last_batch_index + 1}; {written:,} of "
                         f"{count(kept.total_chunks, 'chunk')}")  # fmt: skip
    return "\n".join(
        [*lines, f"If it hangs: stop it with Ctrl-C where it runs (kill -INT), then: {folder.command('resume')}"]
    )


def next_action(folder: RunState | None, now: dt.datetime | None = None) -> str:
    """What to do next: one sentence, or where somebody works on the run, what they do."""
    if folder is None:
        return f"No run yet. Try the whole runbook on its own data: {RUNBOOK} rehearse"
    if said := rolled_back(folder):
        return f"{said} {after_rollback(folder)}"
    if said := at_work_now(folder, now or now_utc()):
        return said
    step = first_open_step(folder)
    shut = open_gate(folder, plan.LINE if step is None else plan.LINE[: plan.LINE.index(step)])
    if shut is not None:
        return str(shut)
    if step is None:
        return "All steps have passed."
    result = folder.result(step.number)
    if result is not None and result.error is not None and result.error["code"] != ReasonCode.INTERRUPTED:
        return f"Step {step.number} ({step.title}) did not pass: {result.error['line']}"
    refused = refusal(folder, step, now)  # what `resume` would say
    return (
        str(refused)
        if refused is not None
        else f"Step {step.number} ({step.title}) is next: {folder.command('resume')}"
    )


# -- console -----------------------------------------------------------------------------------------------------------
#
# What the command prints while it works and when it is done. A lost terminal stops nothing.


WIDTH = 110


class Console:
    """Standard output: lines, and one bar at the bottom where a person is watching."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._label = ""
        self._lost = False

    def say(self, text: str = "") -> None:
        """A line, or several."""
        self.clear()
        self._guarded(lambda: print(text, flush=True))

    def follow(self, folder: RunFolder, step: plan.Step) -> None:
        """Bring the bar up to what the step at work last reported."""
        if self._lost or not sys.stdout.isatty():
            return
        state = _progress(folder.workspace / RunPath.PROGRESS)
        if state is not None and state.step == step.number:
            self._guarded(lambda: self._draw(state))

    def clear(self) -> None:
        """Take the bar away."""
        bar, self._bar, self._label = self._bar, None, ""
        if bar is not None:
            self._guarded(bar.close)

    def _draw(self, state: _Progress) -> None:
        if state.label != self._label or self._bar is None:
            self.clear()
            self._label = state.label
            self._bar = tqdm(
                total=state.total, initial=state.done, desc=one_line(f"  {state.step} {self._label}", 80),
                unit=one_line(f" {state.unit}", 20), leave=False, file=bare(sys.stdout), dynamic_ncols=True, mininterval=0,
            )  # fmt: skip
        self._bar.n = state.done
        self._bar.refresh()

    def _guarded(self, action: Any) -> None:
        if self._lost:
            return
        try:
            action()
        except (OSError, ValueError):  # the terminal is gone, or its pipe was closed
            self._lost = True


@dataclass(frozen=True, slots=True)
class _Progress:
    """What a step at work last wrote of its progress."""

    step: str
    label: str
    unit: str
    done: int
    total: int
    workers: str = ""  # those of Dask, and where it shows them


def _progress(path: Path) -> _Progress | None:
    """What the step at work last said; None where that cannot be read."""
    try:
        return as_kind(_Progress, json_in(contents(path)))
    except (OSError, ValueError):
        return None


def step_line(step: plan.Step, result: StepResult) -> str:
    """`  22  Migrate              pass           12 s`"""
    return f"  {step.number}  {step.title:<22} {state(result):<14} {duration(result.seconds):>12}"


def summary(folder: RunState, steps: Sequence[plan.Step], verdict: str) -> str:
    """One screen: what failed or was noted in these steps, the verdict, and the file to open."""
    lines = ["", f"Run {folder.id}: {_route(folder)}"]
    for step in steps:
        result = folder.result(step.number)
        noted = _findings(result) if result is not None else []
        if noted:
            lines += [f"  {step.number}  {step.title}", *noted]
    return "\n".join([*lines, "", f"Verdict: {verdict}", f"Open:    {folder.reports / RunPath.PAGE}"])


def _route(folder: RunState) -> str:
    parameters = folder.parameters
    return one_line(f"{parameters.source_said} → {parameters.target.label}, schema {parameters.schema_name}")


def _findings(result: StepResult) -> list[str]:
    """At most three lines a step: failures first, then what was marginal, then warnings; and what was not exercised."""
    order = [Verdict.FAIL, Verdict.MARGINAL, Verdict.WARNING]
    found = sorted((c for c in result.checks if c.verdict in order), key=lambda c: order.index(c.verdict))
    lines = [f"      {c.verdict:<8} {one_line(_finding(c), WIDTH)}" for c in found[:3]]
    if result.error is not None and not any(c.verdict is Verdict.FAIL for c in found):
        lines = [f"      {one_line(result.error['line'], 2 * WIDTH)}", *lines[:2]]
    lines += [f"      and {len(found) - 3} more"] if len(found) > 3 else []
    left = ", ".join(c.name for c in result.checks if c.verdict is Verdict.NOT_EXERCISED)
    return [*lines, f"      {one_line(f'not exercised: {left}', WIDTH)}"] if left else lines


def _finding(check: Check) -> str:
    measured = f": {check.found}" if check.found else ""
    ids = ", ".join(str(row.get("id", row)) for row in check.ids[:3]) if check.verdict is Verdict.FAIL else ""
    return ". ".join(filter(None, [f"{check.name}{measured}", check.detail, ids and f"Such as {ids}"]))


def table(rows: list[dict[str, Any]]) -> str:
    """Rows of equal keys as aligned columns with a head."""
    if not rows:
        return ""
    heads = list(rows[0])
    cells = [[one_line(str(row[h]), 60) for h in heads] for row in rows]
    widths = [max(len(h), *(len(line[i]) for line in cells)) for i, h in enumerate(heads)]
    lines = [heads, *cells]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def open_steps(folder: RunState, last: plan.Step) -> list[plan.Step]:
    """The steps from the first that has not passed up to `last`. A pass counts only while its notebook is whole."""
    # Of a step that was killed as it ended, or written by somebody else.
    said = audit.said(folder.reports, trusted(folder.reports))
    for step in plan.LINE:
        if step.number > last.number:
            break
        files = (f"{RunPath.RESULTS}/{step}.json", step.notebook)
        there = {name: file_digest(folder.reports / name) for name in files if (folder.reports / name).is_file()}
        if not _really_passed(folder, step) or said.unnamed(there):
            return plan.between(step, last)
    return []


def _really_passed(folder: RunState, step: plan.Step) -> bool:
    result: StepResult | None = folder.result(step.number)
    if result is None or not passed(result):
        return False
    # A notebook that was run by hand is kept where its owner likes.
    return not result.facts.get("execution") or kernel.is_whole(folder.reports / step.notebook)

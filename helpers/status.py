"""The state of runs: for notebook 00, `runbook status` and the terminal.

Of one run: what is due, the time that is left, the rollback, whom to call. Times are measured ones where this run has them, else
the estimate of its dry run; what nobody measured is said to be unknown.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from helpers import audit
from helpers.cutover import CutoverState
from helpers.errors import RUNBOOK, EnvironmentFailure, RunbookError, Terminal, UsageError, one_line
from helpers.evidence import trusted
from helpers.evidence.signoffs import gate_state, open_gate
from helpers.fence import FenceState
from helpers.formatting import bare, count, duration, moment
from helpers.migration.checkpoint import Checkpoint, CheckpointFile
from helpers.notify import FAILED, CommandHooks, level, levels
from helpers.notify import read as read_notices
from helpers.reason_codes import ReasonCode
from helpers.report import numbers
from helpers.results import Check, StepResult, Verdict, as_kind, contents, file_digest, json_in, passed
from helpers.rollback import RollbackState, at_work
from helpers.run import folders as runs
from helpers.run import kernel, plan
from helpers.run.advice import triggers_of
from helpers.run.folders import RunFolder, RunPath, RunState
from helpers.run.plan import Step
from helpers.run.window import Hours, now_utc, permission, refusal
from helpers.snapshots.retention import retention_lines, settled

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
    """A sentence on the state of the run's rollback; "" where none was started."""
    state = RollbackState.load(folder.workspace)
    return state.sentence() if state is not None else ""


def after_rollback(folder: RunFolder) -> str:
    """What to do with a run whose rollback began."""
    state = RollbackState.load(folder.workspace)
    if state is not None and state.finished:
        return f"Begin a new run; what became of this one: {folder.reports / 'rollback.html'}"
    return f"Go on with: {folder.command('rollback')}"


def refuse_rolled_back(folder: RunFolder) -> None:
    """Raises `UsageError` where a rollback of this run began: from there on only the rollback can go on."""
    if sentence := rolled_back(folder):
        raise UsageError(
            ReasonCode.ROLLED_BACK, f"run {folder.id} does not go on. {sentence}", next_step=after_rollback(folder)
        )  # fmt: skip


def first_open_step(folder: RunState) -> plan.Step | None:
    """The first step of the sequence that has not passed; None where all have."""
    return next((step for step in plan.LINE if not passed(folder.result(step.number))), None)


def _steps_before(step: plan.Step | None) -> Sequence[plan.Step]:
    """The steps of the sequence before this one; all of them before None."""
    return plan.LINE if step is None else plan.LINE[: plan.LINE.index(step)]


@dataclass(frozen=True, slots=True)
class RunStatus:
    """The state of a run in `word`: not begun, rolled back, NO-GO, waiting, done, or the state of `step`, the one that is due.

    `missing` are the roles whose approval at `gate` is due.
    """

    word: str
    step: plan.Step | None = None
    gate: str = ""
    missing: tuple[str, ...] = ()


def run_status(folder: RunState, last: plan.Step = plan.LINE[-1]) -> RunStatus:
    """How far the run is on its way to the end of `last`."""
    if not folder.exists:
        return RunStatus("not begun", plan.LINE[0])
    if rolled_back(folder):
        return RunStatus("rolled back")
    step = first_open_step(folder)
    for passed_step in _steps_before(step):
        gate = gate_state(folder, passed_step.gate) if passed_step.gate else None
        if gate is not None and (gate.blocked or gate.missing):
            word = "NO-GO" if gate.blocked else "waiting"
            return RunStatus(word, step, passed_step.gate, () if gate.blocked else tuple(gate.missing))
    if step is None or step.number > last.number:
        return RunStatus("done")
    return RunStatus(state(folder.result(step.number)), step)


def step_rows(folder: RunState | None) -> list[dict[str, Any]]:
    """One row for each step of the sequence: step, title, section, state, seconds, notebook."""
    rows = []
    for step in plan.LINE:
        result = folder.result(step.number) if folder else None
        seconds = round(result.seconds, 1) if result else 0.0
        rows.append({"step": step.number, "title": step.title, "section": step.section, "state": state(result),
                     "seconds": seconds, "notebook": step.notebook})  # fmt: skip
    return rows


def run_rows() -> list[dict[str, str]]:
    """One row a run, the newest first: run, name, created, at (the step it has reached), state, due, fence, kind."""
    rows = []
    for run, error in runs.damaged_runs().items():
        empty = dict.fromkeys(("run", "name", "created", "at", "due", "fence", "kind"), "")
        rows.append({**empty, "run": run.id, "state": f"damaged: {error.line()}", "fence": _or_unknown(_fence, run)})
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
                "due": "" if damaged else _or_unknown(_due, folder, step),
                "fence": _or_unknown(_fence, folder),
                "kind": kind,
            }
        )
    return rows


def _or_unknown(describe: Callable[..., str], *arguments: Any) -> str:
    """What `describe` gives, or "unknown (CODE)" where it raises: an unreadable run must not hide the others."""
    try:
        return describe(*arguments)
    except RunbookError as error:
        return f"unknown ({error.code})"


def _due(folder: RunState, step: plan.Step | None) -> str:
    """What the run waits for, in a few words: signatures by role, a step, or nothing."""
    if (rollback := RollbackState.load(folder.workspace)) is not None:
        return "nothing: rolled back" if rollback.finished else "rollback"
    for passed_step in _steps_before(step):
        if passed_step.gate and passed(folder.result(passed_step.number)):
            gate = gate_state(folder, passed_step.gate)
            if gate.blocked:
                return "nothing: NO-GO"
            if gate.missing:
                return f"sign {passed_step.gate}: {', '.join(gate.missing)}"
    return f"step {step.number}" if step is not None else ""


def _fence(folder: RunFolder) -> str:
    state = FenceState.load(folder.workspace)
    return "" if state is None or not state.refuses else "up" if state.active else "half up"


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
            age = now - dt.datetime.fromtimestamp(path.stat().st_mtime, dt.UTC)
            amount = f"{state.done:,} of {state.total:,} {state.unit}"
            idle = duration(max(0.0, age.total_seconds()))
            title = plan.find(state.step).title
            lines.append(f"Step {state.step} ({title}), {one_line(state.label)}: {amount}; last progress {idle} ago")
            lines += [f"Workers: {one_line(state.workers)}"] if state.workers else []
            checkpoint = CheckpointFile.of(folder.workspace / RunPath.CHECKPOINT)
            written = sum(target.completed for target in checkpoint.targets.values())
            chunks = f"{written:,} of {count(checkpoint.total_chunks, 'chunk')}"
            batch = checkpoint.last_batch_index + 1
            lines.append(f"Last write to the target: {moment(checkpoint.timestamp)}, batch {batch}; {chunks}")
    return "\n".join(
        [*lines, f"If it hangs: stop it with Ctrl-C where it runs (kill -INT), then: {folder.command('resume')}"]
    )


def next_action(folder: RunState | None, now: dt.datetime | None = None) -> str:
    """What to do next: one sentence, or where somebody works on the run, what they do."""
    if folder is None:
        return f"No run yet. Try the whole runbook on its own data: {RUNBOOK} rehearse"
    if sentence := rolled_back(folder):
        return f"{sentence} {after_rollback(folder)}"
    if sentence := at_work_now(folder, now or now_utc()):
        return sentence
    step = first_open_step(folder)
    gate = open_gate(folder, _steps_before(step))
    if gate is not None:
        return str(gate)
    if step is None:
        return "All steps have passed."
    result = folder.result(step.number)
    if result is not None and result.error is not None and result.error["code"] != ReasonCode.INTERRUPTED:
        return f"Step {step.number} ({step.title}) did not pass: {result.error['line']}"
    refusal_error = refusal(folder, step, now)  # what `resume` would say
    return str(refusal_error or f"Step {step.number} ({step.title}) is next: {folder.command('resume')}")


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
        """Remove the progress bar."""
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
    """The progress that a step last reported."""

    step: str
    label: str
    unit: str
    done: int
    total: int
    workers: str = ""  # those of Dask, and where it shows them


def _progress(path: Path) -> _Progress | None:
    """The progress that the step last reported; None where it cannot be read."""
    try:
        return as_kind(_Progress, json_in(contents(path)))
    except (OSError, ValueError):
        return None


def step_line(step: plan.Step, result: StepResult) -> str:
    """`  22  Migrate              pass           12 s`"""
    return f"  {step.number}  {step.title:<22} {state(result):<14} {duration(result.seconds):>12}"


def summary(folder: RunState, steps: Sequence[plan.Step], verdict: str) -> str:
    """One screen: failures and warnings of these steps, the verdict, and the file to open."""
    lines = ["", f"Run {folder.id}: {_route(folder)}"]
    for step in steps:
        result = folder.result(step.number)
        findings = _findings(result) if result is not None else []
        if findings:
            lines += [f"  {step.number}  {step.title}", *findings]
    return "\n".join([*lines, "", f"Verdict: {verdict}", f"Open:    {folder.reports / RunPath.PAGE}"])


def _route(folder: RunState) -> str:
    parameters = folder.parameters
    return one_line(f"{parameters.source_label} → {parameters.target.label}, schema {parameters.schema_name}")


def _findings(result: StepResult) -> list[str]:
    """At most three lines a step: failures first, then what was marginal, then warnings; and what was not exercised."""
    order = [Verdict.FAIL, Verdict.MARGINAL, Verdict.WARNING]
    checks = sorted((c for c in result.checks if c.verdict in order), key=lambda c: order.index(c.verdict))
    lines = [f"      {c.verdict:<8} {one_line(_finding(c), WIDTH)}" for c in checks[:3]]
    if result.error is not None and not any(c.verdict is Verdict.FAIL for c in checks):
        lines = [f"      {one_line(result.error['line'], 2 * WIDTH)}", *lines[:2]]
    lines += [f"      and {len(checks) - 3} more"] if len(checks) > 3 else []
    not_exercised = ", ".join(c.name for c in result.checks if c.verdict is Verdict.NOT_EXERCISED)
    return [*lines, f"      {one_line(f'not exercised: {not_exercised}', WIDTH)}"] if not_exercised else lines


def _finding(check: Check) -> str:
    measured = f": {check.measured_text}" if check.measured_text else ""
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
    """The steps from the first that has not passed up to `last`. A pass counts only with a complete notebook and logged files."""
    # A file that the log does not name is of a step that was killed as it ended, or was written by somebody else.
    logged = audit.logged_files(folder.reports, trusted(folder.reports))
    for step in plan.LINE:
        if step.number > last.number:
            break
        files = (f"{RunPath.RESULTS}/{step}.json", step.notebook)
        digests = {name: file_digest(folder.reports / name) for name in files if (folder.reports / name).is_file()}
        if not _passed_whole(folder, step) or logged.unnamed(digests):
            return plan.between(step, last)
    return []


def _passed_whole(folder: RunState, step: plan.Step) -> bool:
    result: StepResult | None = folder.result(step.number)
    if result is None or not passed(result):
        return False
    # A notebook that was run by hand is kept where its owner likes.
    return not result.facts.get("execution") or kernel.is_whole(folder.reports / step.notebook)


# -- `runbook status` --------------------------------------------------------------------------------------------------

_FIRST_OF_NIGHT, _LAST_OF_NIGHT = Step.FENCE_WRITES, Step.CUTOVER  # what belongs inside the window


def status(chosen: argparse.Namespace) -> int:
    if not chosen.run_id:
        rows = run_rows()
        print(table([dict(row) for row in rows]) if rows else next_action(None))
        return 0
    folder = runs.find(chosen.run_id)
    with contextlib.suppress(
        EnvironmentFailure
    ):  # relative paths of its parameters are taken from there, where it is still there
        folder.enter()
    print("\n".join(report(folder, now_utc())))
    return 0


def report(folder: RunState, now: dt.datetime) -> list[str]:
    """The screen of one run, line by line."""
    rows = [{k: v for k, v in row.items() if k != "section"} for row in step_rows(folder)]
    lines = [f"Run {folder.id}, begun {moment(folder.facts['created'])}, in {folder.reports}", "", table(rows), ""]
    parts: list[tuple[str, Callable[[RunState, dt.datetime], str]]] = [
        ("Due", next_action), ("Window", _window), ("To do", _to_do), ("Rollback", _rollback),
        ("Cutover", lambda f, _: one_line(_cutover(f))),
        ("Fence", lambda f, _: one_line(fence_sentence(f))),
        ("Notices", lambda f, _: _notices(f)), ("Call", _call),
        ("Kept", lambda f, _: retention_lines(f)),
    ]  # fmt: skip
    for head, say in parts:
        for at, line in enumerate(filter(None, say(folder, now).splitlines())):
            lines.append(f"{head + ':' if at == 0 else '':<10}{line}")
    return lines


def fence_sentence(folder: RunFolder) -> str:
    """The run's write fence in a sentence; "" where it has none."""
    state = FenceState.load(folder.workspace)
    return state.sentence() if state is not None else ""


def _window(folder: RunState, now: dt.datetime) -> str:
    hours = Hours.of(folder.parameters)
    if hours is None or settled(folder):
        return ""
    if now < hours.opens:
        left = f"opens in {duration((hours.opens - now).total_seconds())}"
    elif now > hours.closes:
        left = f"closed {duration((now - hours.closes).total_seconds())} ago"
    elif now > hours.end:
        left = f"over; {duration((hours.closes - now).total_seconds())} of its buffer left"
    else:
        left = f"{duration((hours.end - now).total_seconds())} left, and the buffer"
    reason = permission(folder)
    return (
        f"{left} ({moment(hours.start)} to {moment(hours.end)}, buffer {duration(hours.buffer.total_seconds())} each side)"
        + (f"\nSteps may start outside it: {one_line(reason)}" if reason else "")
    )


def seconds_of(folder: RunState, step: plan.Step) -> tuple[float, str]:
    """(Seconds that the step takes, "measured" or "estimated"); (0, "") where neither is known.

    Measured is what an earlier execution in this run took, estimated what its dry run says. A step that watches takes
    the time that the parameters name at least.
    """
    for result in _results(folder, step.number):
        if passed(result) and not result.facts.get("resumed"):
            return result.seconds, "measured"
    seconds = estimated_seconds(folder, step.number)
    return (seconds, "estimated") if seconds else (0.0, "")


def estimated_seconds(folder: RunState, number: str) -> float:
    """How long the run's dry run says that the step takes; 0 where it says nothing."""
    dry = folder.result(Step.DRY_RUN)
    return numbers.estimate({Step.DRY_RUN: dry} if dry is not None else {})[0].get(number, 0.0)


def _to_do(folder: RunState, now: dt.datetime) -> str:
    """Machine time of the steps that have not passed, against the window."""
    first = first_open_step(folder)
    if first is None or settled(folder) or rolled_back(folder):
        return ""
    if first.follows_cutover:
        return f"steps {', '.join(s.number for s in plan.between(first, plan.LINE[-1]))}, after the window; {_watch(folder)}"
    estimates = {s.number: seconds_of(folder, s) for s in plan.between(first, plan.find(_LAST_OF_NIGHT))}
    estimates = {n: (seconds * _share_left(folder, n), how) for n, (seconds, how) in estimates.items()}
    total = sum(seconds for seconds, _ in estimates.values())
    unknown = [n for n, (_, how) in estimates.items() if not how]
    if len(unknown) == len(estimates):
        return f"steps {', '.join(estimates)}; how long they take is known after the dry run"
    sources = " and ".join(sorted({how for _, how in estimates.values() if how}))
    line = f"about {duration(total)} for steps {', '.join(n for n in estimates if n not in unknown)} ({sources})"
    line += f"; {', '.join(unknown)}, people, fence and restarts not counted" if unknown else ""
    hours = Hours.of(folder.parameters)
    end = max(now, hours.start) + dt.timedelta(seconds=total) if hours is not None else now
    if hours is not None and end > hours.end:
        line += f"\nNOT ENOUGH TIME: that ends at {moment(end)}, the window at {moment(hours.end)}."
    return line


def _watch(folder: RunState) -> str:
    return f"50 watches for {duration(60 * folder.parameters.monitoring.minutes)}"


def _share_left(folder: RunFolder, number: str) -> float:
    """The share of the step that is left, 0 to 1: for step 22 from its checkpoint, else 1."""
    if number != Step.MIGRATE:
        return 1.0
    try:
        ledger = Checkpoint.read(folder.workspace / RunPath.CHECKPOINT)
    except Terminal:
        return 1.0
    return 1 - ledger.processed / ledger.total_chunks if ledger.total_chunks else 1.0


def measured_rollback(folder: RunFolder) -> StepResult | None:
    """The newest rollback of this run that passed, drills included and dry runs not; None where there is none."""
    return next((r for r in _results(folder, Step.ROLLBACK) if passed(r) and not r.facts.get("dry_run")), None)


def _results(folder: RunFolder, number: str) -> Iterator[StepResult]:
    """The results of the step in this run, the newest first."""
    paths = [folder.reports / RunPath.RESULTS / f"{number}.json",
             *sorted(folder.reports.glob(f"earlier/*/results/{number}.json"), reverse=True)]  # fmt: skip
    yield from (StepResult.read(path) for path in paths if path.is_file())


def rollback_seconds(folder: RunState) -> tuple[float, str]:
    """(Seconds of a rollback until the target is clean, how they were obtained); (0, "") where they are unknown.

    Measured where a rollback of this run was timed. Else at most what the same work took on the way there: reading the
    source once more (step 21), and removing from the target what step 22 wrote.
    """
    if (measured := numbers.rollback(measured_rollback(folder))) is not None:
        return measured.clean, f"measured: {numbers.rollback_words(measured)}"
    steps = (Step.DRY_RUN, Step.SNAPSHOT, Step.MIGRATE)
    estimate = numbers.rollback_estimate({n: result for n in steps if (result := folder.result(n)) is not None})
    return (estimate, "estimated from steps 21 and 22") if estimate is not None else (0.0, "")


def last_safe_moment(folder: RunState) -> dt.datetime | None:
    """The latest start of a rollback that ends inside the window, buffer not counted; None without a window or a duration."""
    hours = Hours.of(folder.parameters)
    seconds, how = rollback_seconds(folder)
    return hours.end - dt.timedelta(seconds=seconds) if hours is not None and how else None


def _rollback(folder: RunState, now: dt.datetime) -> str:
    if not _night_began(folder) or settled(folder) or rolled_back(folder):
        return ""
    seconds, how = rollback_seconds(folder)
    if not how:
        return "how long a rollback takes is not known before step 22 has passed"
    line = f"a rollback takes about {duration(seconds)} ({how})"
    last = last_safe_moment(folder)
    if last is None:
        return line
    left = (last - now).total_seconds()
    until = f"in {duration(left)}" if left >= 0 else f"PASSED {duration(-left)} ago"
    return f"{line}; last safe moment to begin it: {moment(last)}, {until}"


def _cutover(folder: RunState) -> str:
    state = CutoverState.load(folder.workspace)
    if state is None or not state.events:
        return ""
    return state.status(rehearsal=bool(folder.facts["rehearsal"]))


def _notices(folder: RunState) -> str:
    """Channels that did not take the newest notice of an event, and commands of notify.after that are still pending."""
    newest = {(e.event, e.key, e.channel): e for e in read_notices(folder.reports)}
    failed = [f"{e.event}: {e.channel} {e.result} ({e.said})" for e in newest.values() if e.result == FAILED]
    lines = [one_line(line, 200) for line in failed[-3:]]
    if (pending := CommandHooks(folder).pending) and not settled(folder):
        lines.append(f"still to run when the run ends or is rolled back: {one_line('; '.join(pending), 200)}")
    return "\n".join(lines)


def _night_began(folder: RunState) -> bool:
    return folder.result(_FIRST_OF_NIGHT) is not None


def escalation(folder: RunState, now: dt.datetime) -> tuple[StepResult, float, int] | None:
    """(What failed, the minutes since, the level of Appendix C); None where no step of the window has failed."""
    step = None if rolled_back(folder) else first_open_step(folder)
    result = folder.result(step.number) if step is not None else None
    if (
        not _night_began(folder)
        or result is None
        or result.error is None
        or result.error["code"] == ReasonCode.INTERRUPTED
    ):
        return None
    minutes = (now - dt.datetime.fromisoformat(result.finished or result.started)).total_seconds() / 60
    last = last_safe_moment(folder)
    number, _, _ = level(minutes, critical=bool(triggers_of(folder)) or (last is not None and now > last))
    return result, minutes, number


def _call(folder: RunState, now: dt.datetime) -> str:
    """Whom to call now; "" where no step of the window has failed."""
    if (state := escalation(folder, now)) is None:
        return ""
    result, minutes, number = state
    contacts = folder.parameters.contacts.named
    row = levels(contacts, number).set_index("").loc["now"]
    channels = "; ".join(f"{k} {v}" for k, v in (("channel", contacts.channel), ("war room", contacts.war_room)) if v)
    line = f"step {result.step} failed {duration(minutes * 60)} ago; level {number}: {row['what']}: {row['call']}"
    return line + (f"\n{channels}" if channels else "")

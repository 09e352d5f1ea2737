"""`runbook status`: the state of the runs; of one run what is due, the time that is left, the rollback, whom to call.

Times are measured ones where this run has them, else the estimate of its dry run; what nobody measured is said to be unknown.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
from collections.abc import Callable, Iterator

from helpers.cutover import CutoverState
from helpers.errors import Terminal, WorldError, one_line
from helpers.fence import FenceState
from helpers.formatting import duration, moment
from helpers.migration.checkpoint import Checkpoint
from helpers.notify import FAILED, Around, level, levels
from helpers.notify import read as read_notices
from helpers.reason_codes import ReasonCode
from helpers.report import numbers
from helpers.results import StepResult, passed
from helpers.run import folders as runs
from helpers.run import plan
from helpers.run.advice import triggers_of
from helpers.run.folders import RunFolder, RunPath, RunState
from helpers.run.plan import Step
from helpers.run.window import Hours, now_utc, permission
from helpers.snapshots.retention import retention_lines, settled
from helpers.status.overview import first_open_step, next_action, rolled_back, run_rows, step_rows, table

_FIRST_OF_NIGHT, _LAST_OF_NIGHT = Step.FENCE_WRITES, Step.CUTOVER  # what belongs inside the window


def status(chosen: argparse.Namespace) -> int:
    if not chosen.run_id:
        rows = run_rows()
        print(table([dict(row) for row in rows]) if rows else next_action(None))
        return 0
    folder = runs.find(chosen.run_id)
    with contextlib.suppress(
        WorldError
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
    said = permission(folder)
    return (
        f"{left} ({moment(hours.start)} to {moment(hours.end)}, buffer {duration(hours.buffer.total_seconds())} each side)"
        + (f"\nSteps may start outside it: {one_line(said)}" if said else "")
    )


def seconds_of(folder: RunState, step: plan.Step) -> tuple[float, str]:
    """(Seconds that the step takes, "measured" or "estimated"); (0, "") where nobody knows.

    Measured is what an earlier execution in this run took, estimated what its dry run says. A step that watches takes
    the time that the parameters name at least.
    """
    for found in _results(folder, step.number):
        if passed(found) and not found.facts.get("resumed"):
            return found.seconds, "measured"
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
    known = {s.number: seconds_of(folder, s) for s in plan.between(first, plan.find(_LAST_OF_NIGHT))}
    known = {n: (seconds * _share_left(folder, n), how) for n, (seconds, how) in known.items()}
    total = sum(seconds for seconds, _ in known.values())
    unknown = [n for n, (_, how) in known.items() if not how]
    if len(unknown) == len(known):
        return f"steps {', '.join(known)}; how long they take is known after the dry run"
    ways = " and ".join(sorted({how for _, how in known.values() if how}))
    line = f"about {duration(total)} for steps {', '.join(n for n in known if n not in unknown)} ({ways})"
    line += f"; {', '.join(unknown)}, people, fence and restarts not counted" if unknown else ""
    hours = Hours.of(folder.parameters)
    end = max(now, hours.start) + dt.timedelta(seconds=total) if hours is not None else now
    if hours is not None and end > hours.end:
        line += f"\nNOT ENOUGH TIME: that ends at {moment(end)}, the window at {moment(hours.end)}."
    return line


def _watch(folder: RunState) -> str:
    return f"50 watches for {duration(60 * folder.parameters.monitoring.minutes)}"


def _share_left(folder: RunFolder, number: str) -> float:
    """Of step 22 what its ledger says is still to do."""
    if number != Step.MIGRATE:
        return 1.0
    try:
        ledger = Checkpoint.read(folder.workspace / RunPath.CHECKPOINT)
    except Terminal:
        return 1.0
    return 1 - ledger.processed / ledger.total_chunks if ledger.total_chunks else 1.0


def measured_rollback(folder: RunFolder) -> StepResult | None:
    """The newest rollback of this run that went through, a drill included; None where there is none. A dry run is none."""
    return next((r for r in _results(folder, Step.ROLLBACK) if passed(r) and not r.facts.get("dry_run")), None)


def _results(folder: RunFolder, number: str) -> Iterator[StepResult]:
    """What the step left in this run, the newest first."""
    paths = [folder.reports / RunPath.RESULTS / f"{number}.json",
             *sorted(folder.reports.glob(f"earlier/*/results/{number}.json"), reverse=True)]  # fmt: skip
    yield from (StepResult.read(path) for path in paths if path.is_file())


def rollback_seconds(folder: RunState) -> tuple[float, str]:
    """How long a rollback takes until the target is clean, and how that is known; (0, "") where it is not.

    Measured where a rollback of this run was timed. Else at most what the same work took on the way there: reading the
    source once more (step 21), and removing from the target what step 22 wrote.
    """
    if (found := numbers.rollback(measured_rollback(folder))) is not None:
        return found.clean, f"measured: {numbers.rollback_words(found)}"
    steps = (Step.DRY_RUN, Step.SNAPSHOT, Step.MIGRATE)
    guess = numbers.rollback_estimate({n: result for n in steps if (result := folder.result(n)) is not None})
    return (guess, "estimated from steps 21 and 22") if guess is not None else (0.0, "")


def last_safe_moment(folder: RunState) -> dt.datetime | None:
    """When a rollback must begin to end inside the window without its buffer; None without a window or a duration."""
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
    found = CutoverState.load(folder.workspace)
    if found is None or not found.events:
        return ""
    return found.told(rehearsal=bool(folder.facts["rehearsal"]))


def _notices(folder: RunState) -> str:
    """Channels that did not take the newest notice of an event, and commands of notify.after that are still owed."""
    newest = {(e.event, e.key, e.channel): e for e in read_notices(folder.reports)}
    bad = [f"{e.event}: {e.channel} {e.result} ({e.said})" for e in newest.values() if e.result == FAILED]
    lines = [one_line(line, 200) for line in bad[-3:]]
    if (owed := Around(folder).owed) and not settled(folder):
        lines.append(f"still to run when the run ends or is rolled back: {one_line('; '.join(owed), 200)}")
    return "\n".join(lines)


def _night_began(folder: RunState) -> bool:
    return folder.result(_FIRST_OF_NIGHT) is not None


def escalation(folder: RunState, now: dt.datetime) -> tuple[StepResult, float, int] | None:
    """(What failed, the minutes since, the level of Appendix C); None where no step of the window has failed."""
    step = None if rolled_back(folder) else first_open_step(folder)
    found = folder.result(step.number) if step is not None else None
    if (
        not _night_began(folder)
        or found is None
        or found.error is None
        or found.error["code"] == ReasonCode.INTERRUPTED
    ):
        return None
    minutes = (now - dt.datetime.fromisoformat(found.finished or found.started)).total_seconds() / 60
    last = last_safe_moment(folder)
    number, _, _ = level(minutes, critical=bool(triggers_of(folder)) or (last is not None and now > last))
    return found, minutes, number


def _call(folder: RunState, now: dt.datetime) -> str:
    """While a step of the window has failed: whom to call by now."""
    if (due := escalation(folder, now)) is None:
        return ""
    found, minutes, number = due
    said = folder.parameters.contacts.named
    row = levels(said, number).set_index("").loc["now"]
    where = "; ".join(f"{k} {v}" for k, v in (("channel", said.channel), ("war room", said.war_room)) if v)
    line = f"step {found.step} failed {duration(minutes * 60)} ago; level {number}: {row['what']}: {row['call']}"
    return line + (f"\n{where}" if where else "")

"""The maintenance window: when a step that changes something may start, and what lets it start at another time."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from helpers import audit
from helpers.errors import UsageError, WorldError
from helpers.formatting import duration, moment
from helpers.parameters import Parameters
from helpers.reason_codes import ReasonCode
from helpers.results import Phase, StepResult, utc_now
from helpers.run import plan
from helpers.run.folders import RunState
from helpers.run.plan import Step

PERMISSION = ReasonCode.OUTSIDE_WINDOW  # in run.json: what --outside-window said, for the command that it was given to
DURATION, DOWNTIME, MEMORY = "duration", "write downtime", "highest memory of a process"  # what the dry run predicts
ROLLBACK = "rollback announced"  # until the target is clean, from the same
HOLDS = "reading the source once more and removing what step 22 wrote"  # all that this time counts
ANNOUNCED = "duration announced"  # by step 14, from what the dry run predicts


def predictions(dry_run: StepResult | None) -> list[dict[str, Any]]:
    """What the dry run predicted, as rows of what, value, unit and basis; [] where it made none."""
    return list(dry_run.facts.get("prediction") or []) if dry_run is not None else []


def predicted(dry_run: StepResult | None, what: str) -> float | None:
    """One value of `predictions`; None where there is none."""
    return next((float(row["value"]) for row in predictions(dry_run) if row["what"] == what), None)


def longest(results: Iterable[StepResult]) -> str:
    """The cause of a time that is too long: `step 23 (Validate) took most, 1 min 01 s, of it 24 s for compare`."""
    if (step := max(results, key=lambda r: r.seconds, default=None)) is None:
        return ""
    part = longest_part(step)
    inside = f", of it {duration(part.seconds)} for {part.name}" if part is not None else ""
    return f"step {step.step} ({step.title}) took most, {duration(step.seconds)}{inside}"


def longest_part(step: StepResult) -> Phase | None:
    """The phase of the step that took most; None where it measured none."""
    return max(step.phases, key=lambda p: p.seconds, default=None)


@dataclass(frozen=True, slots=True)
class Hours:
    """The maintenance window (UTC): it `opens` a buffer before `start` and `closes` a buffer after `end`."""

    start: dt.datetime
    end: dt.datetime
    buffer: dt.timedelta

    @classmethod
    def of(cls, parameters: Parameters) -> Hours | None:
        """The window of these parameters, or None where they name no start."""
        rules = parameters.window
        if rules.start is None:
            return None
        start = rules.start.astimezone(dt.UTC)
        return cls(start, start + dt.timedelta(minutes=rules.minutes), dt.timedelta(minutes=rules.buffer_minutes))

    @property
    def opens(self) -> dt.datetime:
        return self.start - self.buffer

    @property
    def closes(self) -> dt.datetime:
        return self.end + self.buffer

    def contains(self, now: dt.datetime) -> bool:
        return self.opens <= now <= self.closes


def now_utc() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def outside(step: plan.Step, parameters: Parameters, now: dt.datetime | None = None) -> str:
    """Why this is no time for the step, such as `the window opens at …`; "" where it may start."""
    hours = Hours.of(parameters) if step.in_window else None
    now = now or now_utc()
    if hours is None or hours.contains(now):
        return ""
    if now < hours.opens:
        return f"the maintenance window opens at {moment(hours.opens)}"
    return f"the maintenance window closed at {moment(hours.closes)}"


def refusal(
    folder: RunState, step: plan.Step, now: dt.datetime | None = None, changed: Parameters | None = None
) -> WorldError | None:
    """The error for a step that may not start now (by the parameters `changed`, where given); None where it may, or where the
    operator has said why it must.
    """
    why = outside(step, changed or folder.parameters, now)
    if not why or permission(folder):
        return None
    return WorldError(
        ReasonCode.OUTSIDE_WINDOW, f"step {step.number} ({step.title}) does not start now: {why}", where=f"run {folder.id}",
        next_step=f"Inside it: {folder.command('resume')}; to move it: the same with --set window.start=TIME; if it cannot "
        "wait: with --outside-window REASON.",
    )  # fmt: skip


def require_reason(reason: str) -> str:
    """The reason of --outside-window, "" for none. UsageError where it is not one line of text."""
    if reason.strip() != reason or not reason.isprintable() or len(reason) > 500:
        raise UsageError(ReasonCode.BAD_REASON, "--outside-window takes one line of text that says why it cannot wait")
    return reason


def permit(folder: RunState, reason: str) -> RunState:
    """Let the steps of this command start outside the window for this reason, or ("") no more; the run with that.

    It is on record before it is used. Raises as `require_reason`.
    """
    said = require_reason(reason)
    before = folder.facts.get(PERMISSION)
    if said:
        given = {"reason": said, "by": audit.user(), "when": utc_now()}
        audit.append(folder.reports / audit.NAME, "outside window permitted", reason=said)
        folder.log(f"--outside-window: {said}")
        return folder.note(**{PERMISSION: given})
    return folder.note(**{PERMISSION: None}) if before else folder


def permission(folder: RunState) -> str:
    """`REASON (user)` where the operator lets steps start outside the window; else ""."""
    given = folder.facts.get(PERMISSION)
    return f"{given['reason']} ({given['by']})" if given else ""


# -- estimate -------------------------------------------------------------------------------------------------------------

# Does the migration fit its window? The dry run's estimate on the clock, the rollback included. Pure: it looks at figures only.


_ROLLBACK_PARTS = (Step.SNAPSHOT, Step.MIGRATE)  # a rollback reads the source once more, and removes what step 22 wrote


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the migration: seconds, where the figure comes from, and whether it is known or only bounded from above."""

    name: str
    seconds: float
    basis: str


@dataclass(frozen=True, slots=True)
class Estimate:
    """The parts in order, without people; `rollback_seconds` is the seconds that a rollback takes."""

    parts: list[Part]
    rollback_seconds: float

    @classmethod
    def of(cls, parameters: Parameters, estimate: Iterable[Mapping[str, Any]]) -> Estimate:
        """From the rows of the dry run's estimate (part, seconds, basis); its sum is left out."""
        rows = [
            Part(str(r["part"]), float(r["seconds"]), str(r["basis"])) for r in estimate if str(r["part"])[:2].isdigit()
        ]
        fence, cutover = parameters.fence, parameters.cutover
        fences = (
            [Part("20 fence", fence.timeout_seconds, "at most: fence.timeout_seconds")] if fence.kind != "none" else []
        )
        acts = len(cutover.restart) + bool(cutover.health)
        last = (
            [Part("25 restart and health", acts * cutover.timeout_seconds, "at most: cutover.timeout_seconds each")]
            if acts
            else []
        )
        watched = bool(cutover.config_files() or acts or cutover.log_files)
        last += [Part("25 watch", 60 * cutover.monitor_minutes, "cutover.monitor_minutes")] if watched else []
        back = sum(part.seconds for part in rows if part.name[:2] in _ROLLBACK_PARTS)
        return cls([*fences, *rows, *last], back)

    @property
    def seconds(self) -> float:
        """Machine time of the migration, without a rollback."""
        return sum(part.seconds for part in self.parts)

    @property
    def longest(self) -> str:
        """`most for 22 import, 30 min 00 s (measured …)`: the cause where they do not fit the window."""
        part = max(self.parts, key=lambda p: p.seconds, default=None)
        return f"most for {part.name}, {duration(part.seconds)} ({part.basis})" if part is not None else ""

    def clock(self, start: dt.datetime) -> list[tuple[Part, dt.datetime, dt.datetime]]:
        """Each part with its beginning and end, where the migration begins at `start` and nobody has to be waited for."""
        rows, at = [], start
        for part in self.parts:
            end = at + dt.timedelta(seconds=part.seconds)
            rows.append((part, at, end))
            at = end
        return rows

    def spare(self, hours: Hours) -> float:
        """Seconds of the window, buffers not counted, that are left for people after the migration and a rollback behind it."""
        return (hours.end - hours.start).total_seconds() - self.seconds - self.rollback_seconds

    def last_safe_moment(self, hours: Hours) -> dt.datetime:
        """When a rollback must begin to end inside the window."""
        return hours.end - dt.timedelta(seconds=self.rollback_seconds)

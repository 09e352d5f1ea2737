"""The maintenance window: when a step that changes something may start, and the permission to start at another time."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from helpers import audit
from helpers.errors import EnvironmentFailure, UsageError
from helpers.formatting import duration, moment
from helpers.parameters import Parameters
from helpers.reason_codes import ReasonCode
from helpers.results import Phase, StepResult, utc_now
from helpers.run import plan
from helpers.run.folders import RunState
from helpers.run.plan import Step

PERMISSION = ReasonCode.OUTSIDE_WINDOW  # in run.json: the reason of --outside-window, for its command only
DURATION, DOWNTIME, MEMORY = "duration", "write downtime", "highest memory of a process"  # predictions of the dry run
ROLLBACK = "rollback announced"  # the predicted time of a rollback, until the target is clean
HOLDS = "reading the source once more and removing what step 22 wrote"  # what this time includes
ANNOUNCED = "duration announced"  # by step 14, from the predictions


def predictions(dry_run: StepResult | None) -> list[dict[str, Any]]:
    """The predictions of the dry run, as rows with the keys what, value, unit, basis; [] if there are none."""
    return list(dry_run.facts.get("prediction") or []) if dry_run is not None else []


def predicted(dry_run: StepResult | None, name: str) -> float | None:
    """The value of the prediction with this name; None if there is none."""
    return next((float(row["value"]) for row in predictions(dry_run) if row["what"] == name), None)


def longest(results: Iterable[StepResult]) -> str:
    """The longest step and its longest phase: `step 23 (Validate) took most, 1 min 01 s, of it 24 s for compare`."""
    if (step := max(results, key=lambda r: r.seconds, default=None)) is None:
        return ""
    part = longest_part(step)
    share = f", of it {duration(part.seconds)} for {part.name}" if part is not None else ""
    return f"step {step.step} ({step.title}) took most, {duration(step.seconds)}{share}"


def longest_part(step: StepResult) -> Phase | None:
    """The longest phase of the step; None if it has no phases."""
    return max(step.phases, key=lambda p: p.seconds, default=None)


@dataclass(frozen=True, slots=True)
class Hours:
    """The maintenance window (UTC): it `opens` a buffer before `start` and `closes` a buffer after `end`."""

    start: dt.datetime
    end: dt.datetime
    buffer: dt.timedelta

    @classmethod
    def of(cls, parameters: Parameters) -> Hours | None:
        """The window of these parameters; None if they have no start."""
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
    """Why the step may not start now, such as `the maintenance window opens at …`; "" if it may."""
    hours = Hours.of(parameters) if step.in_window else None
    now = now or now_utc()
    if hours is None or hours.contains(now):
        return ""
    if now < hours.opens:
        return f"the maintenance window opens at {moment(hours.opens)}"
    return f"the maintenance window closed at {moment(hours.closes)}"


def refusal(
    folder: RunState, step: plan.Step, now: dt.datetime | None = None, changed: Parameters | None = None
) -> EnvironmentFailure | None:
    """The error for a step that may not start now; None if it may, or if the operator permitted it with a reason.

    `changed`: use these parameters instead of the run's.
    """
    reason = outside(step, changed or folder.parameters, now)
    if not reason or permission(folder):
        return None
    return EnvironmentFailure(
        ReasonCode.OUTSIDE_WINDOW, f"step {step.number} ({step.title}) does not start now: {reason}", where=f"run {folder.id}",
        next_step=f"Inside it: {folder.command('resume')}; to move it: the same with --set window.start=TIME; if it cannot "
        "wait: with --outside-window REASON.",
    )  # fmt: skip


def require_reason(reason: str) -> str:
    """Return the reason of --outside-window ("" for none). UsageError if it is not one line of at most 500 characters."""
    if reason.strip() != reason or not reason.isprintable() or len(reason) > 500:
        raise UsageError(ReasonCode.BAD_REASON, "--outside-window takes one line of text that says why it cannot wait")
    return reason


def permit(folder: RunState, reason: str) -> RunState:
    """Permit steps to start outside the window for this reason, or ("") withdraw the permission; return the new state.

    The permission is logged before it is used. Raises as `require_reason`.
    """
    text = require_reason(reason)
    earlier = folder.facts.get(PERMISSION)
    if text:
        record = {"reason": text, "by": audit.user(), "when": utc_now()}
        audit.append(folder.reports / audit.NAME, "outside window permitted", reason=text)
        folder.log(f"--outside-window: {text}")
        return folder.note(**{PERMISSION: record})
    return folder.note(**{PERMISSION: None}) if earlier else folder


def permission(folder: RunState) -> str:
    """`REASON (user)` if the operator permitted steps outside the window; else ""."""
    record = folder.facts.get(PERMISSION)
    return f"{record['reason']} ({record['by']})" if record else ""


# -- estimate -------------------------------------------------------------------------------------------------------------

# Whether the migration, with a rollback, fits its window, by the dry run's estimate. Only calculates.


_ROLLBACK_PARTS = (Step.SNAPSHOT, Step.MIGRATE)  # a rollback reads the source again, and removes what step 22 wrote


@dataclass(frozen=True, slots=True)
class WindowPart:
    """A part of the migration: seconds, and the basis of this figure (measured, or an upper limit)."""

    name: str
    seconds: float
    basis: str


@dataclass(frozen=True, slots=True)
class WindowEstimate:
    """The parts in order, without waiting for people; `rollback_seconds`: the time of a rollback."""

    parts: list[WindowPart]
    rollback_seconds: float

    @classmethod
    def of(cls, parameters: Parameters, estimate: Iterable[Mapping[str, Any]]) -> WindowEstimate:
        """The estimate from the rows of the dry run (part, seconds, basis); the row with their sum is ignored."""
        rows = [
            WindowPart(str(r["part"]), float(r["seconds"]), str(r["basis"]))
            for r in estimate
            if str(r["part"])[:2].isdigit()
        ]
        fence, cutover = parameters.fence, parameters.cutover
        fence_parts = (
            [WindowPart("20 fence", fence.timeout_seconds, "at most: fence.timeout_seconds")]
            if fence.kind != "none"
            else []
        )
        commands = len(cutover.restart) + bool(cutover.health)
        closing = (
            [
                WindowPart(
                    "25 restart and health", commands * cutover.timeout_seconds, "at most: cutover.timeout_seconds each"
                )
            ]
            if commands
            else []
        )
        is_watched = bool(cutover.config_files() or commands or cutover.log_files)
        closing += (
            [WindowPart("25 watch", 60 * cutover.monitor_minutes, "cutover.monitor_minutes")] if is_watched else []
        )
        rollback_seconds = sum(part.seconds for part in rows if part.name[:2] in _ROLLBACK_PARTS)
        return cls([*fence_parts, *rows, *closing], rollback_seconds)

    @property
    def seconds(self) -> float:
        """Machine time of the migration, without a rollback."""
        return sum(part.seconds for part in self.parts)

    @property
    def longest(self) -> str:
        """The longest part, in words: `most for 22 import, 30 min 00 s (measured …)`; "" if there are no parts."""
        part = max(self.parts, key=lambda p: p.seconds, default=None)
        return f"most for {part.name}, {duration(part.seconds)} ({part.basis})" if part is not None else ""

    def clock(self, start: dt.datetime) -> list[tuple[WindowPart, dt.datetime, dt.datetime]]:
        """Each part with its begin and end, if the migration begins at `start` and does not wait for people."""
        rows, begin = [], start
        for part in self.parts:
            end = begin + dt.timedelta(seconds=part.seconds)
            rows.append((part, begin, end))
            begin = end
        return rows

    def spare(self, hours: Hours) -> float:
        """Seconds of the window, without buffers, that remain for people after the migration and a rollback."""
        return (hours.end - hours.start).total_seconds() - self.seconds - self.rollback_seconds

    def last_safe_moment(self, hours: Hours) -> dt.datetime:
        """The latest begin of a rollback that ends inside the window."""
        return hours.end - dt.timedelta(seconds=self.rollback_seconds)

"""The maintenance window: when a step that changes something may start, and what lets it start at another time."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from helpers import audit
from helpers.errors import UsageError, WorldError
from helpers.parameters import Parameters
from helpers.results import utc_now
from helpers.run import plan
from helpers.run.folders import RunFolder
from helpers.words import moment

PERMISSION = "outside_window"  # in run.json: what --outside-window said, for the command that it was given to


@dataclass(frozen=True, slots=True)
class Hours:
    """The window of one night (UTC): it `opens` a buffer before `start` and `closes` a buffer after `end`."""

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
    folder: RunFolder, step: plan.Step, now: dt.datetime | None = None, changed: Parameters | None = None
) -> WorldError | None:
    """The error for a step that may not start now (by the parameters `changed`, where given); None where it may, or where the
    operator has said why it must.
    """
    why = outside(step, changed or folder.parameters(), now)
    if not why or permission(folder):
        return None
    return WorldError(
        "outside_window", f"step {step.number} ({step.title}) does not start now: {why}", where=f"run {folder.id}",
        next_step=f"Inside it: {folder.command('resume')}; to move it: the same with --set window.start=TIME; if it cannot "
        "wait: with --outside-window REASON.",
    )  # fmt: skip


def permit(folder: RunFolder, reason: str) -> None:
    """Let the steps of this command start outside the window for this reason, or ("") no more. On record before use."""
    said = reason.strip()
    if said != reason or any(not c.isprintable() for c in said) or len(said) > 500:
        raise UsageError("bad_reason", "--outside-window takes one line of text that says why it cannot wait")
    before = folder.facts().get(PERMISSION)
    if said:
        given = {"reason": said, "by": audit.user(), "when": utc_now()}
        audit.append(folder.reports / audit.NAME, "outside window permitted", reason=said)
        folder.log(f"--outside-window: {said}")
        folder.note(**{PERMISSION: given})
    elif before:
        folder.note(**{PERMISSION: None})


def permission(folder: RunFolder) -> str:
    """`REASON (user)` where the operator lets steps start outside the window; else ""."""
    given = folder.facts().get(PERMISSION)
    return f"{given['reason']} ({given['by']})" if given else ""

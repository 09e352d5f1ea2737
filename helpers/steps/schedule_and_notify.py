"""Step 14: does the migration fit its window, and who is notified? (Runbook, Sections 1.6 and 1.7.)

This step writes announcement.txt and invitation.ics in the run's folder. The announcement is sent once for a window: a later
run of this notebook sends it only to channels that did not take it, unless the window was moved.
"""

from __future__ import annotations

import datetime as dt
import shutil
from functools import cached_property
from pathlib import Path

import pandas as pd
from icalendar import Alarm, Calendar
from icalendar import Event as CalendarEntry

from helpers import formatting
from helpers.errors import RUNBOOK, UsageError
from helpers.formatting import count, duration, moment
from helpers.notify import (
    DELIVERED,
    DONE_BY_HAND,
    UNNAMED,
    WRITES_LATE,
    CommandHooks,
    Entry,
    Event,
    Notified,
    announcement,
    by_hand,
    must_be_named,
    read,
    send_notice,
    unnamed,
)
from helpers.parameters import Parameters, is_placeholder
from helpers.reason_codes import ReasonCode
from helpers.results import StepResult, Verdict
from helpers.run import kernel
from helpers.run.folders import RunFolder, RunState, set_aside
from helpers.run.plan import Step
from helpers.run.record import NotebookStep, RunRecord
from helpers.run.window import DOWNTIME, HOLDS, Hours, WindowEstimate, now_utc, predicted

ANNOUNCEMENT = "announcement.txt"
_DAY = dt.timedelta(hours=24)  # the runbook's notice: 24 hours before
_SILENCE = "Alerts: silence them for the window (no command in notify.before does it)"


class ScheduleAndNotifyStep(NotebookStep):
    """The notebook's view: each method returns a table or text, and adds its checks to the step."""

    def __init__(self, run: RunRecord, now: dt.datetime | None = None) -> None:
        self.run, self.parameters = run, run.parameters
        self.rules = run.parameters.notify
        self.hours = Hours.of(run.parameters)
        self.now = now or now_utc()
        self.notified = Notified()

    @cached_property
    def _estimated(self) -> StepResult | None:
        """The result of the dry run; None where it has no estimate."""
        result = self.run.earlier(Step.DRY_RUN)
        return result if result is not None and result.facts.get("estimate") else None

    @property
    def _estimate(self) -> WindowEstimate | None:
        result = self._estimated
        return WindowEstimate.of(self.parameters, result.facts["estimate"]) if result is not None else None

    # -- the window ----------------------------------------------------------------------------------------------------

    def window(self) -> pd.DataFrame:
        """The window, the buffer around it, and the time until it begins."""
        columns = ["what", "value"]
        hours = self.hours
        if hours is None:
            self.run.check(
                "maintenance window",
                Verdict.NOT_EXERCISED,
                measured="none",
                threshold="not over",
                parameter="window.start",
                detail="window.start names no time: any will do",
            )
            return pd.DataFrame([("window", "none is named (window.start)")], columns=columns)
        over = self.now > hours.closes
        self.run.check("maintenance window", Verdict.WARNING if over else Verdict.PASS, threshold="not over",
                       measured="over" if over else "not over",
                       reason=ReasonCode.OUTSIDE_WINDOW if over else "",
                       detail=f"it closed at {moment(hours.closes)}, and steps 20, 22 and 25 will not start: move window.start"
                       if over else f"{moment(hours.start)}, {duration((hours.end - hours.start).total_seconds())}")  # fmt: skip
        announced_at = min((e.when for e in self._announced if e.result == DELIVERED), default="")
        lead = hours.start - (dt.datetime.fromisoformat(announced_at) if announced_at else self.now)
        if (self.rules.urls or self.rules.stakeholders) and not over:
            late = lead < _DAY
            short = Verdict.NOT_EXERCISED if self.run.rehearsal else Verdict.WARNING
            seconds = lead.total_seconds()
            when = f"{duration(abs(seconds))} {'before' if seconds > 0 else 'after'} the window begins"
            self.run.check("notice before the window", short if late else Verdict.PASS, measured=max(0.0, round(lead / _DAY, 2)),
                           threshold=1, relation="≥", unit="days", reason=ReasonCode.LATE_NOTICE,
                           detail=f"{when}; the runbook notifies everybody 24 hours before" if late else "")  # fmt: skip
        remaining = (hours.start - self.now).total_seconds()
        rows = [
            ("begins", moment(hours.start)),
            ("ends", moment(hours.end)),
            ("opens, with its buffer", moment(hours.opens)),
            ("closes, with its buffer", moment(hours.closes)),
            ("blackout", self.parameters.window.blackout or "none"),
            ("from now", duration(remaining) if remaining > 0 else "it has begun"),
        ]
        return pd.DataFrame(rows, columns=columns)

    def fits(self) -> pd.DataFrame:
        """One row for each part of the migration with its time in the window, and a rollback after it. Raises UsageError where
        the dry run made no estimate."""
        columns = ["part of the migration", "from", "to", "seconds", "basis"]
        if self.hours is None:
            self.run.check(
                "time needed in the window",
                Verdict.NOT_EXERCISED,
                measured="none",
                threshold="fits",
                detail="no window is named",
            )
            return pd.DataFrame(columns=columns)
        estimate = self._estimate
        if estimate is None:
            raise UsageError(
                ReasonCode.STEP_MISSING, f"run {self.run.id} has made no estimate that its window could be checked against",
                next_step="Run step 13 first: notebooks/13_dry_run.ipynb with the same run_id.",
            )  # fmt: skip
        hours, spare = self.hours, estimate.spare(self.hours)
        buffered = spare + hours.buffer.total_seconds()
        verdict = Verdict.PASS if spare >= 0 else Verdict.WARNING if buffered >= 0 else Verdict.FAIL
        need = estimate.seconds + estimate.rollback_seconds
        behind = f"{duration(estimate.rollback_seconds)} for a rollback behind it (estimated; NOT EXERCISED)"
        detail = (f"{duration(estimate.seconds)} of work and {behind}; "
                + (f"{duration(spare)} are left for people" if spare >= 0 else f"{duration(-spare)} more than the window has"
                   + (", which its buffer takes" if buffered >= 0 else ", and its buffer is too short for that")
                   + f"; {estimate.longest}"))  # fmt: skip
        self.run.check("time needed in the window", verdict, measured=round(need, 1),
                       parameter="window.minutes", threshold=(hours.end - hours.start).total_seconds(), relation="≤", unit="s",
                       reason="" if verdict is Verdict.PASS else ReasonCode.NIGHT_TOO_LONG, detail=detail)  # fmt: skip
        self.run.fact("night", {
            "seconds": estimate.seconds, "way_back_seconds": estimate.rollback_seconds, "spare_seconds": spare,
            "last_safe_moment": estimate.last_safe_moment(hours).isoformat(),
        })  # fmt: skip
        rows = [
            (p.name, f"{a:%H:%M:%S}", f"{b:%H:%M:%S}", p.seconds, p.basis) for p, a, b in estimate.clock(hours.start)
        ]
        last = estimate.last_safe_moment(hours)
        rows.append(("27 rollback, at the latest", f"{last:%H:%M:%S}", f"{hours.end:%H:%M:%S}", estimate.rollback_seconds,
                     "steps 21 and 22 once more"))  # fmt: skip
        return pd.DataFrame(rows, columns=columns)

    # -- telling -------------------------------------------------------------------------------------------------------

    def announcement(self) -> str:
        """The runbook's announcement, filled in; written to announcement.txt."""
        text = announcement(self.run.home, **self._about())
        self._keep(ANNOUNCEMENT, text.encode("utf-8"))
        return text

    def invitation(self) -> str:
        """Write the window to invitation.ics; return its path."""
        if self.hours is None:
            self.run.check(
                "invitation", Verdict.NOT_EXERCISED, measured="none", threshold="written", detail="no window is named"
            )
            return "No window is named, so there is nothing to invite to."
        path = self._keep(INVITATION, invitation(self.run.home, self.parameters, self.hours))
        self.run.check("invitation", Verdict.PASS, measured="written", threshold="written", detail=INVITATION)
        return f"{path}: mail it, or open it in a calendar. E-mail channels carry it with the announcement."

    def commands(self) -> pd.DataFrame:
        """The commands that will run before step 20 and after the run. Run nothing now."""
        rows, missing = [], []
        for name, commands in (("before", self.rules.before), ("after", self.rules.after)):
            for command in commands:
                path = shutil.which(command[0])
                missing += [] if path else [command[0]]
                rows.append((f"notify.{name}", " ".join(command), path or "is not found, or cannot be executed"))
        verdict = Verdict.WARNING if missing else Verdict.PASS if rows else Verdict.NOT_EXERCISED
        detail = ", ".join(missing) if rows else "none are named"
        self.run.check("commands around the migration", verdict, measured=len(rows) - len(missing), threshold=len(rows),
                       reason=ReasonCode.PROGRAM_MISSING if missing else "", detail=detail)  # fmt: skip
        return pd.DataFrame(rows, columns=["when", "command", "found"])

    def send(self) -> pd.DataFrame:
        """Send the announcement to every channel that has not taken it yet; in a dry run print it."""
        columns = ["channel", "result", "detail", "seconds"]
        if not self.rules.urls:
            self.run.check(
                "announcement",
                Verdict.NOT_EXERCISED,
                measured=0,
                threshold=1,
                relation="≥",
                unit="channels",
                detail="notify.urls names no channel",
            )
            return pd.DataFrame(columns=columns)
        blank = self.parameters.placeholders()
        if blank and not self.run.dry_run:
            self.run.check(
                "announcement",
                Verdict.FAIL,
                measured=0,
                parameter="notify.urls",
                threshold=len(self.rules.urls),
                unit="channels",
                reason=ReasonCode.NOBODY_NAMED,
                detail=f"nothing was sent: <…> is a placeholder in {', '.join(blank)}. "
                f"Name them: {self._name_them(blank)}",
            )
            return pd.DataFrame(
                [(str(url), "not sent", f"<…> in {blank[0]}", 0.0) for url in self.rules.urls], columns=columns
            )
        path = self.run.folder / INVITATION
        self.notified = send_notice(
            self.run.home, Event.ANNOUNCEMENT, key=self._key, dry_run=self.run.dry_run, again=True, say=print,
            attach=path if path.is_file() else None, **self._about(),
        )  # fmt: skip
        failed, sent = self.notified.failed, self.notified.deliveries
        bad = bool(failed) or not sent
        dry = self.run.dry_run
        self.run.check(
            "announcement", Verdict.WARNING if bad else Verdict.NOT_EXERCISED if dry else Verdict.PASS,
            measured=0 if dry else sum(d.delivered for d in sent),
            parameter="notify.urls", threshold=len(self.rules.urls), unit="channels",
            reason=ReasonCode.NOTICE_FAILED if bad else "",
            detail="; ".join(d.sentence() for d in failed) or ("" if sent else "it could not be sent; see run.log")
            or (f"printed, not sent; send it: {RUNBOOK} run --run-id {self.run.id} --from 14 --until 14" if dry else ""),
        )  # fmt: skip
        return pd.DataFrame([(d.channel, d.result, d.said, d.seconds) for d in sent], columns=columns)

    def done(self, item: str, by: str) -> str:
        """Record that a person did an item of the checklist, such as the status page. Raises UsageError for an unknown item."""
        known = self._by_hand
        if item not in known:
            hint = f"It has: {'; '.join(known) or 'nothing'}."
            raise UsageError(ReasonCode.UNKNOWN_ITEM, f"{item!r} is not an item of the checklist", next_step=hint)
        if not by.strip() or not by.isprintable():
            raise UsageError(ReasonCode.BAD_NAME, "the name of the person who did it must be one line of text")
        by_hand(self.run.folder, item, by.strip())
        return f"Written down: {item}, done by {by.strip()}."

    def checklist(self) -> pd.DataFrame:
        """Who was notified, when, by which channel, with which result; and what has to be done by hand."""
        nobody = ["(notify.stakeholders names nobody)"] if self.rules.urls else []
        rows = [(who, *row) for who in self.rules.stakeholders or nobody for row in self._channels()]
        done = {e.key: e for e in read(self.run.folder) if e.event == DONE_BY_HAND}
        open_ = [item for item in self._by_hand if item not in done]
        for item in self._by_hand:
            entry = done.get(item)
            rows.append(
                (item, "by hand", moment(entry.when) if entry else "", f"done by {entry.said}" if entry else "to do")
            )
        self._judge_people(open_)
        return pd.DataFrame(rows, columns=["who or what", "channel", "when", "result"])

    def _judge_people(self, open_: list[str]) -> None:
        people, reached = self.rules.stakeholders, [e for e in self._announced if e.result == DELIVERED]
        if not people and not self.rules.urls:
            self.run.check(
                "stakeholders",
                Verdict.NOT_EXERCISED,
                measured=0,
                threshold=1,
                relation="≥",
                unit="people and teams",
                detail="neither stakeholders nor channels are named",
            )
        elif not self.run.dry_run:
            self.run.check("stakeholders", Verdict.PASS if reached else Verdict.WARNING,
                           measured=len(people) if reached else 0,
                           parameter="notify.stakeholders", threshold=len(people), unit="people and teams",
                           reason="" if reached else ReasonCode.NOBODY_TOLD,
                           detail="the services accepted it; whether people read it is not known" if reached else
                           f"no channel took the announcement: notify them yourself, {ANNOUNCEMENT} is the text")  # fmt: skip
        if self._by_hand:
            done = len(self._by_hand) - len(open_)
            self.run.check(
                "done by hand",
                Verdict.WARNING if open_ else Verdict.PASS,
                measured=done,
                parameter="notify.by_hand",
                threshold=len(self._by_hand),
                reason=ReasonCode.BY_HAND_OPEN if open_ else "",
                detail="; ".join(open_),
            )
        blank = self.parameters.placeholders()
        nobody = [key for key in unnamed(self.parameters.contacts) if key not in blank]
        keys = [*blank, *nobody]
        problems = [f"still <…>: {', '.join(blank)}"] if blank else []
        problems += [f"nobody is named: {', '.join(nobody)}"] if nobody else []
        if keys:
            # step 10 refuses a run that is to come this far
            strict = must_be_named(self.parameters) and not self.run.rehearsal and kernel.under_runner()
            refused = strict and unnamed(self.parameters.contacts, people=True)
            self.run.check(UNNAMED, Verdict.FAIL if refused else Verdict.WARNING, measured=len(keys), threshold=0, unit="keys",
                           reason=ReasonCode.NOBODY_NAMED, detail="; ".join(problems))  # fmt: skip
            print(
                f"Name them before step {Step.FENCE_WRITES}: {self._name_them(keys, '--retry', Step.SCHEDULE_AND_NOTIFY)}"
            )

    def _name_them(self, keys: list[str], *options: str) -> str:
        return self.run.home.command("resume", *options, *(part for key in keys for part in ("--set", f"{key}=TEXT")))

    # -- parts ---------------------------------------------------------------------------------------------------------

    @property
    def _by_hand(self) -> list[str]:
        """What a person has to do; also silencing alerts, where people are notified and no command does it."""
        wanted = (self.rules.stakeholders or self.rules.urls) and not CommandHooks(self.run.home).rules.before
        return [*self.rules.by_hand, *([_SILENCE] if wanted and self.hours is not None else [])]

    @property
    def _announced(self) -> list[Entry]:
        return [e for e in read(self.run.folder) if (e.event, e.key) == (Event.ANNOUNCEMENT, self._key)]

    def _channels(self) -> list[tuple[str, str, str]]:
        """(channel, when, result) of the latest announcement on each channel."""
        newest = {e.channel: e for e in self._announced}
        rows = []
        for url in self.rules.urls:
            entry = newest.get(str(url))
            result = f"{entry.result}{f' ({entry.said})' if entry.said else ''}" if entry else "not notified"
            rows.append((str(url), moment(entry.when) if entry else "", result))
        return rows or [("", "", "to be notified by hand")]

    @property
    def _key(self) -> str:
        """The key of the announcement: one for each window."""
        return (
            f"{self.hours.start.isoformat()} to {self.hours.end.isoformat()}" if self.hours is not None else "no window"
        )

    def _about(self) -> dict[str, str]:
        estimate = self._estimate
        if estimate is None or self._estimated is None:
            return {"open": str(self.run.folder)}
        chunks = self._estimated.facts.get("matrix_inputs", {}).get("chunks")
        out = predicted(self._estimated, DOWNTIME) if self.run.parameters.fence.late else None
        return {
            **({"writes": WRITES_LATE.format(about=f"about {duration(out)}")} if out is not None else {}),
            "estimate": f"about {duration(estimate.seconds)} of machine time, estimated from the dry run; people not counted",
            "rollback": f". Predicted from the dry run: {duration(estimate.rollback_seconds)} for {HOLDS}; in it are no start of "
            "a notebook, no export or replay of writes, no restart and no people; no rollback was tried yet",
            "chunks": count(chunks, "chunk") if isinstance(chunks, int) else "all chunks",
            "open": str(self.run.folder),
        }

    def _keep(self, name: str, data: bytes) -> Path:
        """Write a file of the run; keep an earlier, different one as history."""
        path = self.run.folder / name
        if path.is_file() and path.read_bytes() != data:
            set_aside(self.run.home, [path])
        self.run.home.rewrite(name, data.decode())
        return path


INVITATION = "invitation.ics"
_PRODUCT = "-//chroma-migration-runbook//maintenance window//EN"


def invitation(folder: RunState, parameters: Parameters, hours: Hours) -> bytes:
    """The window as one iCalendar entry, UTF-8. Its UID is the run's, its stamp the run's creation, its sequence the number of
    changed parameters: a calendar takes a moved window for the same meeting."""
    facts = folder.facts
    mark = "REHEARSAL: " if facts["rehearsal"] else ""
    rules, contacts = parameters.window, parameters.contacts.named
    calendar = Calendar()
    calendar.add("prodid", _PRODUCT)
    calendar.add("version", "2.0")
    calendar.add("method", "PUBLISH")
    entry = CalendarEntry()
    entry.add("uid", f"{folder.id}@chroma-migration-runbook")
    entry.add("dtstamp", dt.datetime.fromisoformat(str(facts["created"])).astimezone(dt.UTC).replace(microsecond=0))
    entry.add("sequence", len(facts["changes"]))
    entry.add("dtstart", hours.start)
    entry.add("dtend", hours.end)
    entry.add("summary", formatting.text(f"{mark}{parameters.name}: database migration, maintenance window"))
    entry.add("description", "\n".join(_described(parameters, hours, folder)))
    location = contacts.war_room or contacts.channel
    if location:
        entry.add("location", formatting.text(location))
    entry.add("categories", ["MAINTENANCE"])
    entry.add("status", "CONFIRMED")
    entry.add("transp", "OPAQUE")
    if rules.buffer_minutes:
        alarm = Alarm()
        alarm.add("action", "DISPLAY")
        alarm.add("description", f"The maintenance window begins at {formatting.moment(hours.start)}")
        alarm.add("trigger", -hours.buffer)
        entry.add_component(alarm)
    calendar.add_component(entry)
    return bytes(calendar.to_ical())


def _described(parameters: Parameters, hours: Hours, folder: RunFolder) -> list[str]:
    contacts, blackout = parameters.contacts.named, parameters.window.blackout
    rows = [
        f"Run {folder.id}: {parameters.source_label} to {parameters.target.label}",
        f"Kept free before and after: {formatting.moment(hours.opens)} to {formatting.moment(hours.closes)}",
        f"Blackout: {blackout}" if blackout and not is_placeholder(blackout) else "",
        f"Channel: {contacts.channel}" if contacts.channel else "",
        f"War room: {contacts.war_room}" if contacts.war_room else "",
        f"Questions: {contacts.operations_lead}" if contacts.operations_lead else "",
    ]
    return [formatting.text(row) for row in rows if row]

"""The invitation to the window as an iCalendar file: the same bytes each time, so that it can be sealed and sent again."""

from __future__ import annotations

import datetime as dt

from icalendar import Alarm, Calendar
from icalendar import Event as Entry

from helpers import formatting
from helpers.parameters import Parameters, is_placeholder
from helpers.run.folders import RunFolder
from helpers.run.window import Hours

NAME = "invitation.ics"
_PRODUCT = "-//chroma-migration-runbook//maintenance window//EN"


def invitation(folder: RunFolder, parameters: Parameters, hours: Hours) -> bytes:
    """The window as one entry. Its UID is the run's, its stamp the run's creation, its sequence the changes of parameters:
    a calendar that has it already takes a moved window for the same meeting."""
    facts = folder.facts()
    mark = "REHEARSAL: " if facts["rehearsal"] else ""
    rules, contacts = parameters.window, parameters.contacts.named
    calendar = Calendar()
    calendar.add("prodid", _PRODUCT)
    calendar.add("version", "2.0")
    calendar.add("method", "PUBLISH")
    entry = Entry()
    entry.add("uid", f"{folder.id}@chroma-migration-runbook")
    entry.add("dtstamp", dt.datetime.fromisoformat(str(facts["created"])).astimezone(dt.UTC).replace(microsecond=0))
    entry.add("sequence", len(facts["changes"]))
    entry.add("dtstart", hours.start)
    entry.add("dtend", hours.end)
    entry.add("summary", formatting.text(f"{mark}{parameters.name}: database migration, maintenance window"))
    entry.add("description", "\n".join(_described(parameters, hours, folder)))
    if where := contacts.war_room or contacts.channel:
        entry.add("location", formatting.text(where))
    entry.add("categories", ["MAINTENANCE"])
    entry.add("status", "CONFIRMED")
    entry.add("transp", "OPAQUE")
    if rules.buffer_minutes:
        alarm = Alarm()
        alarm.add("action", "DISPLAY")
        alarm.add("description", f"The window opens: {formatting.moment(hours.opens)}")
        alarm.add("trigger", -hours.buffer)
        entry.add_component(alarm)
    calendar.add_component(entry)
    return bytes(calendar.to_ical())


def _described(parameters: Parameters, hours: Hours, folder: RunFolder) -> list[str]:
    contacts, blackout = parameters.contacts.named, parameters.window.blackout
    rows = [
        f"Run {folder.id}: {parameters.source.label} to {parameters.target.label}",
        f"Kept free before and after: {formatting.moment(hours.opens)} to {formatting.moment(hours.closes)}",
        f"Blackout: {blackout}" if blackout and not is_placeholder(blackout) else "",
        f"Channel: {contacts.channel}" if contacts.channel else "",
        f"War room: {contacts.war_room}" if contacts.war_room else "",
        f"Questions: {contacts.operations_lead}" if contacts.operations_lead else "",
    ]
    return [formatting.text(row) for row in rows if row]

"""What every notice says: one template each in templates/, filled in here. The first line is its subject."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, Any

from helpers import formatting
from helpers.cutover import CutoverState
from helpers.errors import RUNBOOK
from helpers.evidence.seals import custody
from helpers.fence import FenceState, takes_no_writes
from helpers.formatting import duration
from helpers.parameters import Parameters, is_placeholder
from helpers.parameters.sections import Contacts
from helpers.results import utc_now
from helpers.run.folders import RunFolder, RunState
from helpers.run.plan import Step
from helpers.run.window import Hours

if TYPE_CHECKING:
    import pandas as pd
    from jinja2 import Environment

# -- escalation --------------------------------------------------------------------------------------------------------

# Appendix C as data: which escalation level holds, what it asks for, and whom it calls. The one place that says so.


# Minutes from which a level holds. Level 4 is not a matter of time: a rollback trigger makes it.
LEVELS = (
    (0, 1, "consult the troubleshooting section", "channel"),
    (30, 2, "contact the DBA, review the logs with the team", "dba"),
    (60, 3, "escalate to engineering, consider the rollback", "operations_lead"),
)
CRITICAL = (4, "page the on-call engineer, begin the rollback", "on_call")


def level(minutes: float, *, critical: bool) -> tuple[int, str, str]:
    """(level, what Appendix C says, the contact's key) after so many minutes."""
    if critical:
        return CRITICAL
    _, number, what, contact = [row for row in LEVELS if minutes >= row[0]][-1]
    return number, what, contact


def levels(contacts: Contacts | None, now: int = 0) -> pd.DataFrame:
    """Appendix C: each level, when it holds, whom to call; `now` is marked. Without parameters the keys to fill in."""
    import pandas as pd

    rows = [(number, f"from {minutes} min", what, key) for minutes, number, what, key in LEVELS]
    rows.append((CRITICAL[0], "on a rollback trigger", CRITICAL[1], CRITICAL[2]))
    table = [[f"{number}", when, what, (getattr(contacts, key) if contacts else "") or f"(contacts.{key} is not named)",
              "now" if number == now else ""] for number, when, what, key in rows]  # fmt: skip
    return pd.DataFrame(table, columns=["level", "when", "what", "call", ""])


# -- texts -------------------------------------------------------------------------------------------------------------


class Event(StrEnum):
    """Events that people are notified of, in the order of a migration."""

    ANNOUNCEMENT = "announcement"
    START = "start"
    DECISION_GO = "decision GO"
    SIGNED = "signed"
    NO_GO = "no-go"
    STOPPED = "stopped"
    CUTOVER = "cutover"
    ROLLBACK_BEGINS = "rollback begins"
    ROLLBACK_ENDS = "rollback ends"
    ROLLBACK_STOPPED = "rollback stopped"
    END = "end"

    @property
    def kind(self) -> str:
        """How services show it: info, success, warning or failure."""
        return _KINDS.get(self, "info")

    @property
    def wrong(self) -> bool:
        """Whether something is wrong, so that it says whom to call."""
        return self.kind in ("warning", "failure")


_KINDS = {
    **dict.fromkeys((Event.DECISION_GO, Event.SIGNED, Event.CUTOVER, Event.END, Event.ROLLBACK_ENDS), "success"),
    Event.ROLLBACK_BEGINS: "warning",
    **dict.fromkeys((Event.NO_GO, Event.STOPPED, Event.ROLLBACK_STOPPED), "failure"),
}


def render(folder: RunState, event: Event, **about: Any) -> tuple[str, str]:
    """(Subject, body) of a notice about this run. `about` are what the event's template wants beside the run's own facts:
    `why`; for what is wrong `critical` and `minutes` since it began; `open`, the file or command to go on with."""
    facts = {**_facts(folder, event, about), **about}
    if event is Event.ANNOUNCEMENT:
        facts |= {"estimate": "", "rollback": "", "chunks": "all chunks", **about}
    template = _environment().get_template(f"{event.name.lower()}.txt.j2")
    text = re.sub(r"\n*\n(What it means for you:)", r"\n\n\1", template.render(**facts))
    text = re.sub(r"\n{3,}", "\n\n", re.sub(r"(?<=\.) +(?=\s)", "", text))
    subject, _, body = text.strip().partition("\n")
    mark = "REHEARSAL: " if folder.facts["rehearsal"] else ""
    kept = custody(folder)
    return formatting.text(mark + subject, 200), body.strip() + (f"\n\nEvidence: {kept}\n" if kept else "\n")


def announcement(folder: RunState, **about: Any) -> str:
    """The announcement as a text file: its subject, then what it says."""
    subject, body = render(folder, Event.ANNOUNCEMENT, **about)
    return f"Subject: {subject}\n\n{body}"


def escalation_levels(parameters: Parameters) -> list[dict[str, Any]]:
    """Every escalation level of Appendix C: number, when it holds, what it asks for, who is called."""
    rows = levels(parameters.contacts.named).iloc[:, :4].to_numpy().tolist()
    return [
        dict(zip(("number", "when", "what", "who"), (*row[:3], formatting.text(row[3], 200)), strict=True))
        for row in rows
    ]


def _said(text: str) -> str:
    """The text, or "" where it is still to be written: a placeholder is sent to nobody."""
    return "" if is_placeholder(text) else text


def _who(parameters: Parameters, key: str) -> str:
    return formatting.text(getattr(parameters.contacts.named, key) or f"(contacts.{key} is not named)", 200)


def _facts(folder: RunState, event: Event, about: Mapping[str, Any]) -> dict[str, Any]:
    parameters = folder.parameters
    now: dict[str, Any] = {}
    if event.wrong:
        number, what, key = level(float(about.get("minutes", 0.0)), critical=bool(about.get("critical")))
        now = {"number": number, "what": what, "who": _who(parameters, key)}
    contacts = parameters.contacts.named
    called = [("Questions", contacts.operations_lead), ("Channel", contacts.channel), ("War room", contacts.war_room)]
    fenced = parameters.fence.kind != "none"
    return {
        "name": parameters.name, "run": folder.id, "when": utc_now(),
        "source": parameters.source.label, "target": parameters.target.label, "schema": parameters.schema_name,
        "window": _window(parameters), "blackout": _said(parameters.window.blackout).strip().rstrip("."),
        "impact": _said(parameters.notify.impact),
        "affected": [*filter(_said, parameters.notify.affected)],
        "stakeholders": [*filter(_said, parameters.notify.stakeholders)], "fence": parameters.fence.kind,
        "writes": "The database takes no writes any more." if takes_no_writes(folder.result(Step.FENCE_WRITES)) else
                  "Writes to the database are refused meanwhile." if fenced else
                  "Writes go on, and are brought over until the cutover.",
        "approvals": f"{', '.join(parameters.signoff.required)} sign before the cutover" if parameters.signoff.required else
                     "nobody has to sign before the cutover",
        "fence_now": _fence(folder), "clients_now": _clients(folder, parameters),
        "switched": (state := CutoverState.load(folder.workspace)) is None or state.switches,
        "contacts": [pair for pair in called if pair[1]],
        "level": now, "escalation_levels": escalation_levels(parameters) if now else [], "open": "",
        "warnings": "", "waiting": "", "signed": "", "why": "", "notice": "",
    }  # fmt: skip


def _window(parameters: Parameters) -> dict[str, Any]:
    hours = Hours.of(parameters)
    if hours is None:
        return {}
    last = f"{hours.end:%H:%M}" if hours.end.date() == hours.start.date() else f"{hours.end:%Y-%m-%d %H:%M}"
    return {
        "start": hours.start, "end": hours.end, "opens": hours.opens, "closes": hours.closes,
        "short": f"{hours.start:%Y-%m-%d %H:%M}-{last} UTC",
        "length": duration((hours.end - hours.start).total_seconds()),
        "buffer": duration(hours.buffer.total_seconds()),
    }  # fmt: skip


def _fence(folder: RunFolder) -> str:
    state = FenceState.load(folder.workspace)
    stands = state is not None and state.may_be_active
    return "Writes to the source are still refused." if stands else ""


def _clients(folder: RunState, parameters: Parameters) -> str:
    state = CutoverState.load(folder.workspace)
    source, target = formatting.text(parameters.source.label), formatting.text(parameters.target.label)
    if state is None or not state.may_be_applied:
        return f"Clients use {source}."
    if not state.is_done:
        return f"Clients may use {source} or {target}: see the status."
    return formatting.text(state.clients(rehearsal=bool(folder.facts["rehearsal"])), 600)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("helpers.notify"), autoescape=False, undefined=StrictUndefined,  # noqa: S701  # nosec B701  plain text
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.globals["runbook"] = RUNBOOK
    environment.filters.update(text=formatting.text, lines=formatting.lines, moment=formatting.moment)
    return environment

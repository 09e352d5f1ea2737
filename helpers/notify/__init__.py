"""Notices: who is notified of what, by which channel, with what result. A notice that fails never stops a migration.

Each has a template in templates/; its first line is the subject. `sender` delivers them.

Also the commands of `notify.before` and `notify.after` around the migration, such as silencing alerts:
workspace/<run id>/notify.json is on disk before the first of them runs, and after each. Those before the migration run when step
20 begins; those after it when the cutover is done, the run was rolled back or is held, and only if those before were
started. After a kill at most the current command is repeated. A failed command is a recorded warning and stops nothing.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers import audit, formatting
from helpers.cutover import CutoverState, source_takes_writes
from helpers.errors import RUNBOOK, RunbookError, one_line
from helpers.evidence.seals import custody
from helpers.fence import FenceState, takes_no_writes
from helpers.formatting import duration
from helpers.notify import sender
from helpers.parameters import Parameters, SecretRef, is_placeholder
from helpers.parameters.endpoint import Section
from helpers.parameters.sections import Contacts
from helpers.reason_codes import ReasonCode
from helpers.results import StateFile, utc_now
from helpers.run.command import run_or_fail
from helpers.run.folders import RunPath, RunState
from helpers.run.plan import Step
from helpers.run.window import Hours, now_utc

if TYPE_CHECKING:
    import pandas as pd
    from jinja2 import Environment

# -- tell --------------------------------------------------------------------------------------------------------------

# Notify people of one event of a run: render the text, hand it to every channel, record the result.


Say = Callable[[str], None]
DRY_RUN = "dry run"
BEFORE = "notified before"
WRITES_LATE = "Writes go on until the cutover, and are refused for {about} then."


@dataclass(frozen=True, slots=True)
class Notified:
    """A notice and its deliveries, one for each channel in the order of `notify.urls`."""

    subject: str = ""
    body: str = ""
    deliveries: list[Delivery] = field(default_factory=list)

    @property
    def failed(self) -> list[Delivery]:
        return [d for d in self.deliveries if not d.delivered and d.result != DRY_RUN]


def send_notice(
    folder: RunState, event: Event, *, key: str = "", dry_run: bool = False, again: bool = False, say: Say | None = None,
    attach: Path | None = None, **about: Any,
) -> Notified:  # fmt: skip
    """Send the notice of this event to every channel; never raises, never waits long. A dry run prints it.

    `key` distinguishes events of one kind: the same event with the same key is sent once. `again` tries those
    channels once more that did not take it.
    """
    try:
        return _send_notice(folder, event, key, dry_run, again, say or (lambda _: None), attach, about)
    except Exception as error:  # nobody's migration ends because of a notice
        folder.log_block(f"the notice '{event}' was not sent", traceback.format_exc())
        if say is not None:
            say(f"Notice '{event}' was not sent: {one_line(str(error) or type(error).__name__, 300)}")
        return Notified()


def _send_notice(
    folder: RunState, event: Event, key: str, dry_run: bool, again: bool, say: Say, attach: Path | None, about: dict[str, Any]
) -> Notified:  # fmt: skip
    rules = folder.parameters.notify
    if not rules.urls:
        return Notified()
    subject, body = render(folder, event, **about)
    if dry_run:
        say(f"DRY RUN: this would be sent to {', '.join(map(str, rules.urls))}:\n\n{subject}\n\n{body}")
        return Notified(subject, body, [Delivery(str(url), DRY_RUN, "printed, not sent") for url in rules.urls])
    earlier = {e.channel: e for e in read(folder.reports) if (e.event, e.key) == (event, key)}
    due = [u for u in rules.urls if not earlier or (again and getattr(earlier.get(str(u)), "result", "") != DELIVERED)]
    own = trusted_text(folder.parameters, folder.id, str(folder.reports), str(folder.workspace))
    sent = send(due, subject, body, event.kind, rules.timeout_seconds, attach, own) if due else []
    if sent:
        record_deliveries(folder.reports, event, key, sent, rules.stakeholders, subject, body)
        failed = [d for d in sent if not d.delivered]
        counts = f"Notice '{event}': {len(sent) - len(failed)} of {len(sent)} channels took it"
        line = counts + (f"; {'; '.join(d.sentence() for d in failed)}" if failed else "")
        folder.log(line)
        say(line)
    outcomes = {name: Delivery(name, e.result, e.said or BEFORE) for name, e in earlier.items()}
    outcomes |= {d.channel: d for d in sent}
    missing = [Delivery(str(url), FAILED, "not notified") for url in rules.urls]
    return Notified(subject, body, [outcomes.get(d.channel, d) for d in missing])


# -- delivery ----------------------------------------------------------------------------------------------------------


BEFORE_COMMANDS, AFTER, OVER = "before", "after", "over"


@dataclass(slots=True)
class HookState(StateFile):
    """`phase` is before, after or over, `done` how many commands of it have ended, `night` how many attempts were begun."""

    file = RunPath.NOTIFY
    damaged = ReasonCode.NOTIFY_STATE_DAMAGED
    remedy = "Remove this file, and run the commands of notify.after by hand if those before had run."

    phase: str = OVER
    done: int = 0
    night: int = 0
    since: str = ""
    failed: list[str] = field(default_factory=list)


class CommandHooks:
    """The commands of notify.before and notify.after for one run."""

    def __init__(self, folder: RunState) -> None:
        self.folder = folder
        self.rules = folder.parameters.notify

    def _read(self) -> HookState:
        return HookState.load(self.folder.workspace) or HookState()

    @property
    def night(self) -> int:
        """The number of the current attempt of this run, from 1; a run that was held starts another."""
        return max(1, self._read().night)

    @property
    def pending(self) -> list[str]:
        """The commands of notify.after that still have to run, because those of notify.before were started."""
        state = self._read()
        left = self.rules.after[state.done :] if state.phase == AFTER else self.rules.after
        return [shlex.join(command) for command in left] if state.phase != OVER else []

    def before(self, say: Say) -> list[str]:
        """Run the commands of notify.before, and count an attempt; an error line for each that failed."""
        state = self._read()
        if state.phase != BEFORE_COMMANDS:
            state = HookState(BEFORE_COMMANDS, 0, state.night + 1, utc_now())
            self._save(state)
        return self._run(state, self.rules.before, say)

    def after(self, say: Say) -> list[str]:
        """Run the commands of notify.after if an attempt was started and they have not run since; the error lines."""
        state = self._read()
        if state.phase == OVER:
            return []
        if state.phase != AFTER:
            state = HookState(AFTER, 0, state.night, utc_now())
            self._save(state)
        failed = self._run(state, self.rules.after, say)
        state.phase = OVER
        self._save(state)
        return failed

    def _run(self, state: HookState, commands: Sequence[list[str]], say: Say) -> list[str]:
        log = self.folder.reports / audit.NAME
        for command in commands[state.done :]:
            shown, name = shlex.join(command), f"the command of notify.{state.phase}"
            try:
                audit.append(log, f"notify.{state.phase}", outcome="begun", command=command)
                completed = run_or_fail(command, self.rules.command_seconds, name, "notify.command_seconds")
                self.folder.log_block(f"notify.{state.phase} ended with 0: {shown}", completed.tail)
                audit.append(log, f"notify.{state.phase}", command=command)
            except RunbookError as error:
                state.failed.append(one_line(error.line(), 400))
                self.folder.log(f"WARNING: {error}")
                say(f"WARNING: {error.line()} The run goes on.")
                audit.append(log, f"notify.{state.phase}", outcome="failed", command=command, error=error.code)
            state.done += 1
            self._save(state)
        return state.failed

    def _save(self, state: HookState) -> None:
        state.save(self.folder.workspace)


DELIVERED, FAILED = "delivered", "failed"
_START_UP = 15.0  # seconds that the sending process may need for itself on a loaded machine, beside those of the notice


@dataclass(frozen=True, slots=True)
class Delivery:
    """The result of a notice at one channel: its reference, `delivered` or `failed`, the error, seconds until it answered.

    Delivered means that the service accepted it, not that somebody read it.
    """

    channel: str
    result: str
    said: str = ""
    seconds: float = 0.0

    @property
    def delivered(self) -> bool:
        return self.result == DELIVERED

    def sentence(self) -> str:
        return f"{self.channel} {self.result}" + (f" ({self.said})" if self.said else "")


def trusted_text(parameters: Parameters, *more: str) -> str:
    """JSON text of names that do not come from a source: places, people and parameters, but no collections."""
    document, rules = parameters.document(), parameters.notify
    keys = [
        f"{name}.{key}"
        for name, section in parameters
        if isinstance(section, Section)
        for key in type(section).model_fields
    ]
    values = [document.get(name) for name in ("name", "snapshot", "window", "contacts", "fence", "cutover", "signoff")]
    values += [parameters.source.address, parameters.target.address, rules.impact, rules.affected, rules.stakeholders]
    return json.dumps([str(Path.cwd()), *more, *keys, *values], ensure_ascii=False)


def send(
    channels: Sequence[SecretRef], title: str, body: str, kind: str, seconds: float, attach: Path | None = None,
    trusted: str = "",
) -> list[Delivery]:  # fmt: skip
    """Hand the notice to every channel, in the order given. Never raises for a channel, and never waits for a dead one.

    `kind` is info, success, warning or failure; `attach` goes with e-mail only. Hosts that are not in `trusted` become no link.
    """
    deliveries: dict[int, Delivery] = {}
    urls: dict[int, str] = {}
    for number, reference in enumerate(channels):
        try:
            urls[number] = reference.resolve().reveal()
        except RunbookError as error:
            deliveries[number] = Delivery(str(reference), FAILED, error.what)
    if urls:
        order = {"urls": list(urls.values()), "title": title, "body": body, "kind": kind, "seconds": seconds, "trusted": trusted,
                 "attach": str(attach) if attach is not None else ""}  # fmt: skip
        answers = _answers(json.dumps(order), seconds)
        for position, number in enumerate(urls):
            name = str(channels[number])
            answer = answers.get(position)
            if answer is None:
                deliveries[number] = Delivery(name, FAILED, f"no answer within {seconds:g} seconds", seconds)
            else:
                why = str(answer["error"])
                deliveries[number] = Delivery(name, FAILED if why else DELIVERED, why, float(answer["seconds"]))
    return [deliveries[number] for number in range(len(channels))]


def _answers(order: str, seconds: float) -> dict[int, dict[str, Any]]:
    """The answers of the sending process by the position of the URL; those that were not given in time are missing."""
    command = [sys.executable, "-I", "-X", f"pycache_prefix={sys.pycache_prefix}", str(Path(sender.__file__).resolve())]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                               text=True, encoding="utf-8", start_new_session=True)  # fmt: skip
    try:
        lines, _ = process.communicate(order, timeout=seconds + _START_UP)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        lines, _ = process.communicate()
    except BaseException:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    answers: dict[int, dict[str, Any]] = {}
    for line in lines.splitlines():
        with suppress(ValueError, KeyError, TypeError):
            answer = json.loads(line)
            answers[int(answer["number"])] = answer
    return answers


# -- record ------------------------------------------------------------------------------------------------------------

# reports/<run id>/notices.jsonl: who was notified of what, when, by which channel (by name), with what result and text.
#
# It is written as the audit log is: lines only grow, each names the digest of the one before, and a seal covers them. An
# event with a key is sent once.


NAME = RunPath.NOTICES
DONE_BY_HAND = "done by hand"


@dataclass(frozen=True, slots=True)
class Entry:
    """One line: the event, the key that distinguishes events of one kind, the channel's reference, its result, and the text
    that was sent, redacted; "" in lines of older toolkits."""

    when: str
    event: str
    key: str
    channel: str
    result: str
    said: str
    by: str
    subject: str = ""
    text: str = ""


def read(reports: Path) -> list[Entry]:
    """The entries of a run's folder, oldest first; invalid lines are left out."""
    entries = []
    for line in audit.entries(reports / NAME):
        facts = line.get("facts")
        if isinstance(facts, dict):
            key, channel, said, subject, text = (
                str(facts.get(name, "")) for name in ("key", "channel", "said", "subject", "text")
            )
            by = f"{line.get('user', '')}@{line.get('host', '')}"
            result = str(line.get("outcome", ""))
            entries.append(
                Entry(str(line.get("when", "")), str(line["action"]), key, channel, result, said, by, subject, text)
            )
    return entries


def record_deliveries(
    reports: Path, event: str, key: str, deliveries: Iterable[Delivery], to: Sequence[str], subject: str, text: str
) -> None:
    """One line for each channel, with what was handed to it, and one in the audit log for the notice."""
    deliveries = list(deliveries)
    for d in deliveries:
        audit.append(reports / NAME, event, outcome=d.result, key=key, channel=d.channel, said=d.said,
                     seconds=d.seconds, to=list(to), subject=subject, text=text)  # fmt: skip
    outcome = f"{sum(d.delivered for d in deliveries)} of {len(deliveries)} channels"
    audit.append(reports / audit.NAME, "notice", outcome=outcome, event=event, key=key)


def by_hand(reports: Path, item: str, who: str) -> None:
    """Record that a person has done this item of the checklist."""
    audit.append(reports / NAME, DONE_BY_HAND, outcome="done", key=item, channel="by hand", said=who)


# -- escalation --------------------------------------------------------------------------------------------------------

# Appendix C as data, and its only source: which escalation level applies, what it asks for, and whom it calls.


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


UNNAMED = "contacts without a name"  # the check of steps 10 and 14


def unnamed(contacts: Contacts, *, people: bool = False) -> list[str]:
    """The keys of contacts that an escalation level calls and that have no name; a placeholder, `<…>`, is no name. `people`: of
    levels 2 to 4 only, since level 1 uses a channel."""
    called = {key for number, _, key in [*(row[1:] for row in LEVELS), CRITICAL] if number > 1 or not people}
    return sorted(f"contacts.{key}" for key in called if not getattr(contacts.named, key))


def must_be_named(parameters: Parameters) -> bool:
    """Whether a run of these parameters needs named contacts: people sign it, and it stops writes or switches clients."""
    cutover, fence = parameters.cutover, parameters.fence
    touches = fence.kind != "none" or cutover.config_files() or cutover.restart or cutover.health
    return bool(parameters.signoff.required and touches)


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
    PUT_BACK = "drill put back"
    END = "end"

    @property
    def kind(self) -> str:
        """How services show it: info, success, warning or failure."""
        return _KINDS.get(self, "info")

    @property
    def wrong(self) -> bool:
        """Whether something is wrong, so that the notice names whom to call."""
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
    prefix = ("REHEARSAL: " if folder.facts["rehearsal"] else "") + ("DRILL: " if facts["drill"] else "")
    evidence = custody(folder)
    return formatting.text(prefix + subject, 200), body.strip() + (f"\n\nEvidence: {evidence}\n" if evidence else "\n")


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


def _unless_placeholder(text: str) -> str:
    """The text, or "" where it is a placeholder, which must not be sent."""
    return "" if is_placeholder(text) else text


def _who(parameters: Parameters, key: str) -> str:
    return formatting.text(getattr(parameters.contacts.named, key) or f"(contacts.{key} is not named)", 200)


def _facts(folder: RunState, event: Event, about: Mapping[str, Any]) -> dict[str, Any]:
    parameters = folder.parameters
    escalation: dict[str, Any] = {}
    if event.wrong and not about.get("drill"):
        number, what, key = level(float(about.get("minutes", 0.0)), critical=bool(about.get("critical")))
        escalation = {"number": number, "what": what, "who": _who(parameters, key)}
    contacts = parameters.contacts.named
    people = [("Questions", contacts.operations_lead), ("Channel", contacts.channel), ("War room", contacts.war_room)]
    fenced = parameters.fence.kind != "none"
    return {
        "name": parameters.name, "run": folder.id, "when": utc_now(),
        "source": parameters.source_label, "target": parameters.target.label, "schema": parameters.schema_name,
        "window": _window(parameters), "blackout": _unless_placeholder(parameters.window.blackout).strip().rstrip("."),
        "impact": _unless_placeholder(parameters.notify.impact),
        "affected": [*filter(_unless_placeholder, parameters.notify.affected)], "clients": _client_changes(folder),
        "stakeholders": [*filter(_unless_placeholder, parameters.notify.stakeholders)], "fence": parameters.fence.kind,
        "writes": "The database takes no writes any more." if takes_no_writes(folder.result(Step.FENCE_WRITES)) else
                  WRITES_LATE.format(about="a short time") if parameters.fence.late else
                  "Writes to the database are refused meanwhile." if fenced else
                  "Writes go on, and are brought over until the cutover.",
        "approvals": f"{', '.join(parameters.signoff.required)} sign before the cutover" if parameters.signoff.required else
                     "nobody has to sign before the cutover",
        "fence_now": _fence(folder), "clients_now": _clients(folder, parameters),
        "switched": (state := CutoverState.load(folder.workspace)) is None or state.switches,
        "contacts": [pair for pair in people if pair[1]],
        "level": escalation, "escalation_levels": escalation_levels(parameters) if escalation else [], "open": "",
        "warnings": "", "waiting": "", "signed": "", "why": "", "notice": "",
        "drill": False,
    }  # fmt: skip


_NAMED = 20  # collections that a notice names in one line, and such lines


def _first_names(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + f" and {len(names) - _NAMED:,} more" * (len(names) > _NAMED)


def _client_changes(folder: RunState) -> list[str]:
    """What clients must know from the dry run: changed ids, changed collections, changed search results."""
    dry, notes = folder.result(Step.DRY_RUN), []
    routing = (dry.facts.get("routing") or []) if dry is not None else []
    routes = {(str(row["collection"]), str(row["target"])) for row in routing if row["target"]}
    if any(source != target for source, target in routes):
        routed: dict[str, list[str]] = {}
        for source, target in sorted(routes):
            routed.setdefault(one_line(source, 80), []).append(one_line(target, 80))
        notes.append(
            f"Collections with another name afterwards: {len(routed):,} of the source. Clients must ask these:"
        )
        groups: dict[tuple[str, ...], list[str]] = {}
        for source, targets in routed.items():
            groups.setdefault(tuple(targets), []).append(source)
        for names, sources in list(groups.items())[:_NAMED]:
            notes.append(f"Instead of {_first_names(sources)}: {_first_names(names)}.")
        if (omitted := len(groups) - _NAMED) > 0:
            notes.append(f"And {omitted:,} more such lines: see notebook 13 of the run.")
    if len(routes) > len({target for _, target in routes}):
        field = next(iter(dry.facts.get("origin_fields") or ()), "") if dry is not None else ""
        advice = "there is no filter for that"
        if field:
            advice = f"ask each that has its chunks, filter by {field}, which holds the old name, and sort by distance"
        notes.append("Chunks of several collections are in one afterwards: its searches give other chunks than before. To be "
                     f"answered from one old collection alone, {advice}.")  # fmt: skip
    if folder.parameters.migration.id_policy == "prefix":
        notes.append("Ids of chunks change to <source collection>:<id>. Whoever keeps ids must know the new ones.")
    elif dry is not None and (rewritten := (dry.facts.get("metadata") or {}).get("ids_rewritten")):
        old, new = (one_line(str(rewritten[side]), 80) for side in ("before", "after"))
        notes.append(f"Ids of chunks change, such as {old} to {new}. Whoever keeps ids must know the new ones.")
    return notes


def _window(parameters: Parameters) -> dict[str, Any]:
    hours = Hours.of(parameters)
    if hours is None:
        return {}
    end = f"{hours.end:%H:%M}" if hours.end.date() == hours.start.date() else f"{hours.end:%Y-%m-%d %H:%M}"
    return {
        "begun": hours.start <= now_utc(), "start": hours.start, "end": hours.end, "opens": hours.opens, "closes": hours.closes,
        "short": f"{hours.start:%Y-%m-%d %H:%M}-{end} UTC",
        "length": duration((hours.end - hours.start).total_seconds()),
        "buffer": duration(hours.buffer.total_seconds()),
    }  # fmt: skip


def _fence(folder: RunState) -> str:
    state, cutover = FenceState.load(folder.workspace), CutoverState.load(folder.workspace)
    if state is not None and state.refuses:
        return "Writes to the source are still refused."
    lifted = state is not None and not state.may_be_active and cutover is not None and cutover.is_done
    ends = (formatting.text(end.label) for end in (folder.parameters.source, folder.parameters.target))
    return source_takes_writes(*ends) if lifted else ""


def _clients(folder: RunState, parameters: Parameters) -> str:
    state = CutoverState.load(folder.workspace)
    source, target = formatting.text(parameters.source_label), formatting.text(parameters.target.label)
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

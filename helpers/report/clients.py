"""What a migration means for clients: the time in which they could not write, what was written to the source, what they ask
instead and get, and what becomes of them in a rollback."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple

from helpers.errors import RUNBOOK
from helpers.fence import BEFORE, NO_WRITES, THROUGH
from helpers.formatting import (
    count,
    duration,
    interval,
    judged_queries,
    own_chunk,
    percent,
    scope,
    share_range,
    text,
)
from helpers.notify import CRITICAL, LEVELS
from helpers.parameters.sections import is_placeholder
from helpers.reason_codes import ReasonCode
from helpers.report import RunView, StepRow, instant, numbers
from helpers.report.outcome import FENCE_END, possible_until, writers
from helpers.results import StepResult, Verdict
from helpers.run import window
from helpers.run.advice import CONDITIONS, triggers
from helpers.run.plan import Step

_AGAIN = "source and target read once more"
KILLED = ", with the attempt that was killed and resumed"
_CARRIED = "Work of step 22 in the attempt that was killed, from which the resume went on"


class DowntimePart(NamedTuple):
    """A part of the write downtime: its name, seconds, and what the dry run predicted for it; None where it left that out."""

    name: str
    seconds: float
    predicted: float | None = None


def continued(results: numbers.Results, attempts: Iterable[StepRow] = ()) -> list[StepRow]:
    """The killed attempts of step 22 whose work the last one went on with: their time is a part of the same work.

    A killed attempt has its notebook's start in its time, since nobody noted when its first cell began.
    """
    last = results.get(Step.MIGRATE)
    resumed = int(last.facts.get("resumed") or 0) if last is not None else 0
    mine = [row for row in attempts if row.number == Step.MIGRATE and row.result and row.result.finished]
    return mine[max(0, len(mine) - resumed) :]


def downtime_parts(results: numbers.Results, attempts: Iterable[StepRow] = ()) -> list[DowntimePart]:
    """What the write downtime is the sum of; [] where it was not measured, or step 25 put up the fence itself.

    No second counts twice: each part is what lies between the fence and the write that ended it. The only place that splits
    it; the page, the summary and the prediction's error take it from here.
    """
    seconds, cutover = numbers.downtime(results)[0], results.get(Step.CUTOVER)
    fence = (results[Step.FENCE_WRITES].facts.get("fence") or {}) if Step.FENCE_WRITES in results else {}
    up = instant(fence.get("up"))
    if not seconds or up is None or cutover is None or fence.get("late"):
        return []
    over = up + timedelta(seconds=seconds)

    def within(begin: Any, length: float) -> float:
        at = instant(begin)
        return max(0.0, (min(over, at + timedelta(seconds=length)) - max(up, at)).total_seconds()) if at else 0.0

    by_step, starts = numbers.estimate(results)
    took = {s.number: within(r.started, r.seconds) for s in numbers.WINDOW if (r := results.get(s.number)) is not None}
    begun = [
        (numbers.launched(r), numbers.start_seconds(r))
        for s in numbers.WINDOW
        if (r := results.get(s.number)) is not None
    ]
    phases = {name: sum(within(p.started, p.seconds) for p in cutover.phases if p.name == name) for name in
              (numbers.UNCHANGED, numbers.COMPARED, numbers.RESTART)}  # fmt: skip
    last = took.pop(Step.CUTOVER, 0.0)
    attempts = list(attempts)
    people = numbers.signing(results, attempts)
    carried = {row.attempt: within(row.result.started, row.result.seconds)
               for row in continued(results, attempts) if row.result}  # fmt: skip
    earlier = list(numbers.given_up(results, attempts))
    failed = sum(within(began, (end - began).total_seconds()) for _, began, end, _ in earlier) - sum(carried.values())
    waited = sum(within(end, (after - end).total_seconds()) for _, _, end, after in earlier)
    whole, predicted = window.predicted(results.get(Step.DRY_RUN), window.DOWNTIME), sum(by_step.values()) + starts
    again = max(0.0, whole - predicted) if whole is not None else None
    guess = by_step if whole is not None else {}
    parts = [
        *(DowntimePart(f"Work of step {number}", n, guess.get(number)) for number, n in took.items()),
        # Its prediction is that of step 22.
        *([DowntimePart(_CARRIED, sum(carried.values()), 0.0 if guess else None)] if carried else []),
        DowntimePart(
            "Starts of notebooks, from the fence on",
            sum(within(*one) for one in begun),
            starts if whole is not None else None,
        ),
        DowntimePart(f"Step 25: {_AGAIN}", phases[numbers.UNCHANGED] + phases[numbers.COMPARED], again),
        DowntimePart("Step 25: restart and health", phases[numbers.RESTART]),
        DowntimePart("Step 25: the rest until a write was taken", max(0.0, last - sum(phases.values()))),
        DowntimePart("Failed attempts", failed),
        DowntimePart("From an attempt's end until the next began", waited),
        DowntimePart("Between steps 24 and 25: signatures and seals", people),
    ]
    rest = seconds - sum(part.seconds for part in parts)
    parts.append(DowntimePart("Between the other steps: seals, pages, waiting", rest))
    return [part for part in parts if abs(part.seconds) > 0.05 or part.predicted]


def downtime_as_predicted(results: numbers.Results, attempts: Iterable[StepRow] = ()) -> tuple[float | None, str]:
    """(Seconds of the write downtime that the dry run's prediction counts, what they are): whatever compares the two takes
    them from here. Of a fence that step 25 put up: all but the restart."""
    seconds = numbers.downtime(results)[0]
    if not seconds:
        return seconds, "no fence: writes went on"
    if parts := downtime_parts(results, attempts):
        left = "; ".join(f"{duration(p.seconds)} {p.name}" for p in parts if p.predicted is None)
        counted = sum(p.seconds for p in parts if p.predicted is not None)
        return counted, f"its parts of {duration(seconds)} write downtime; left out: {left}"
    cutover = results.get(Step.CUTOVER)
    restart = sum(p.seconds for p in cutover.phases if p.name == numbers.RESTART) if cutover is not None else 0.0
    less = f", less {duration(restart)} of restart" if restart else ""
    return seconds - restart, f"write downtime, {duration(seconds)}{less}"


def beside_prediction(results: numbers.Results, attempts: Iterable[StepRow] = ()) -> str:
    """`predicted: 31 s, the same parts took 24 s`; the first alone where that is all of it, before that, or without a fence; ""
    without a prediction."""
    guess = window.predicted(results.get(Step.DRY_RUN), window.DOWNTIME)
    if guess is None:
        return ""
    measured, every = downtime_as_predicted(results, attempts)[0], numbers.downtime(results, attempts)[0]
    held = KILLED * any(part.name == _CARRIED for part in downtime_parts(results, attempts))
    part = (
        f", the same parts{held}{',' * bool(held)} took {duration(measured)}" if measured and measured != every else ""
    )
    return f"predicted: {duration(guess)}{part}"


def other_fence(view: RunView) -> str:
    """The order of the steps that this run did not use; "" where writers were not out."""
    if not numbers.downtime(view.results, view.attempts)[0]:
        return ""
    late = Step.CUTOVER in view.results and bool(view.results[Step.CUTOVER].facts.get("fence"))
    other = "start, where writers are out from step 20 on" if late else "cutover, where writers are out in step 25 only"
    return f"fence.when {other}"


def unseen(view: RunView) -> Iterator[str]:
    """What no check of this run looks at, though its figures may suggest it."""
    if Step.FENCE_WRITES in view.results:
        yield "Reads of clients: no step refuses or observes them; the application restarts at the cutover"
    whole = (view.table("recall").get("pooled") or {}).get("unrestricted") or {}
    if whole.get("shared_filtered") is not None and not (view.table("recall").get("announced") or {}).get("pooled"):
        yield "Searches filtered by source collection: calculated from the vectors, not asked of the target"
    if view.table("cut_over") and any(source != target for source, target in numbers.routes(view.results) if target):
        yield "A client with the new names and filters: the cutover changed addresses; every search here was the toolkit's own"
    if numbers.rollback(view.results.get(Step.ROLLBACK)) is None:
        yield "Rollback: not tried in this run; its time is an estimate"
    if not any(line.startswith("restore of ") for line in view.drills):
        yield "Restore of a snapshot: not tried in this run; its bytes were read back and compared"
    if view.drill:
        how = "ordered beforehand" if view.put_back else "not ordered"
        yield f"Rollback in other ways than drilled (--replay {how}): every other choice of its options"
        yield "People: those who sign, and whoever acts on a warning; the approval came before the rollback was drilled"
        yield "Rollback before the cutover: not tried in this run"
    if view.rehearsal and not any(
        str((view.parameters.get(side) or {}).get("url") or "") for side in ("source", "target")
    ):
        yield "Servers, networks and TLS: source and target are directories here, read by one version of Chroma"
    if other := other_fence(view):
        yield f"{other[:1].upper()}{other[1:]}: not tried in this run"


def carries_over(view: RunView) -> str:
    """What the write downtime of this run does not hold for another one: chunks, people, and when the fence goes up."""
    results, chunks = view.results, numbers.counts(view.results).source
    seconds = numbers.downtime(results, view.attempts)[0]
    if not seconds:
        return ""
    grows = {Step.SNAPSHOT, Step.MIGRATE, Step.VALIDATE}
    worked = [p for p in downtime_parts(results, view.attempts)
              if p.name.endswith(_AGAIN) or any(p.name.startswith(f"Work of step {step}") for step in grows)]  # fmt: skip
    work = sum(p.seconds for p in worked)
    of = f" on {count(chunks, 'chunk')}" if chunks is not None else ""
    of += KILLED if any(p.name == _CARRIED for p in worked) else ""
    each = f", {duration(work / chunks * 1000)} for 1,000" if chunks and chunks > 1000 else ""
    said = [f"{duration(work)} of it are work{of}{each}, which grows with their number"] if work else []
    people = numbers.signing(results, view.attempts)
    who = "signed by the machine: people who sign are not in it" if view.rehearsal else "were these people's"
    said += [f"{duration(people)} for signatures {who}"] if people else []
    said += [f"{other_fence(view)}: NOT EXERCISED"]
    return f"Does not carry over to another run as it is: {'; '.join(said)}. {beside_prediction(results, view.attempts)}".strip()


# -- tiles of the first screen -------------------------------------------------------------------------------------------

UNKNOWN = "not measured"


@dataclass(frozen=True, slots=True)
class Tile:
    """One figure: `value` is shown large, `note` below it; `kind` colours it (pass, warning, fail, open)."""

    label: str
    value: str
    note: str = ""
    kind: str = "open"
    file: str = ""  # where all of it is: a file of the run's folder, or a part of the page (#…)


def downtime_tile(view: RunView) -> Tile:
    """How long clients could not write, beside what was predicted of it."""
    seconds, how = numbers.downtime(view.results, view.attempts, view.drill, brief=True)
    how = "; ".join(filter(None, [beside_prediction(view.results, view.attempts), how]))
    if seconds is None:
        return Tile("Write downtime", UNKNOWN if how.endswith(numbers.WRITES_GO_ON) else "running", how)
    how += "; holds for this run only" * bool(seconds)
    return Tile("Write downtime", duration(seconds) if seconds else "none", how, file="#downtime" if seconds else "")


def rollback_tile(view: RunView) -> Tile:
    """How long a rollback took, where one was tried."""
    found = numbers.rollback(view.results.get(Step.ROLLBACK))
    if found is None:
        return Tile(
            "Rollback", "NOT EXERCISED", "no rollback or drill in this run; its time is an estimate", file="#rollback"
        )
    closed = view.passed(Step.CLOSEOUT) and _tried(view) < 2
    return Tile(
        "Rollback measured",
        duration(found.service),
        f"until service is back: {numbers.service_ends(found)}; target clean after {duration(found.clean)}"
        + (f"; {numbers.REPLAY_ORDERED}" if found.replayed is not None else "")
        + ("; before closeout, fence up" if closed else "; the write fence was up" * bool(writers(view))),
        file="#rollback-times",
    )


ASKED = "every collection that got chunks asked, with the filter where there is one, sorted by distance"


def recall_tiles(view: RunView) -> list[Tile]:
    """The share of the true nearest neighbours that came back, for each filter that was asked; merged collections have two."""
    told = view.table("recall")
    found = []
    for row in (told.get("pooled") or {}).values():
        if row and isinstance(row.get("recall"), int | float):
            asked = f"{judged_queries(row, why=False)}, {own_chunk(told)}; 95 %: {row['low']:.3f} to {row['high']:.3f}"
            label = f"Recall@{told.get('k')}, {scope(row['scope'])}"
            part = int(row.get("judged") or 0) < int(row.get("neighbours") or 0)  # a share of some is no pass for all
            kind = "open" if part and row["verdict"] == Verdict.PASS else str(row["verdict"])
            found.append(Tile(label, f"{row['recall']:.3f}", f"{asked}; {text(row['filter'], 100)}", kind))
    return [*(found or [Tile("Recall", UNKNOWN)]), *_remaining(told)]


def _remaining(told: dict[str, Any]) -> Iterator[Tile]:
    """Of split and merged collections: how much of a client's answer is as before, asked as announced, and of one alone."""
    whole, sent = (told.get("pooled") or {}).get("unrestricted") or {}, (told.get("announced") or {}).get("pooled")
    share, filtered, rows = whole.get("shared_expected"), whole.get("shared_filtered"), answers(told)
    if sent:
        note = f"a sample, really sent: {count(sent['queries'], 'query')}, {own_chunk(told)}; 95 % (Wilson): "
        note += interval(sent["low"], sent["high"])
        if share is not None:
            note += f"; with the new name alone: {percent(share)} of {whole['queries']:,}"
            note += f", with its filter, too, calculated: {percent(filtered)}" if filtered is not None else ""
        kind = "pass" if sent["same"] == 1 else "warning"
        yield Tile("Same results, asked as announced", percent(sent["same"]), note, kind, "#routing")
    elif share is not None:
        note = f"{whole['queries']:,} queries, stored vectors, {own_chunk(told)}, no filter; {share_range(rows)}"
        if whole.get("shared_low") is not None:
            note += f"; 95 % (Wilson): {interval(whole['shared_low'], whole['shared_high'])}"
        if filtered is not None:
            note += f"; one collection with a filter, calculated: {percent(filtered)}"
        kind = "pass" if share == 1 else "warning"
        yield Tile("Same results, one collection alone", percent(share), note, kind, "#answers" if rows else "#search")


# -- writes to the source ------------------------------------------------------------------------------------------------

_TAKEN = ("taken", "get through")


def to_source(view: RunView) -> str:
    """What the steps and drills of this run wrote to the source, and what was taken away again: a sentence, with counts."""
    probes, chunks = list(_probes(view)), Counter[str]()
    for check in (check for result in _executed(view) for check in result.checks):
        what = str(check.reason if check.reason == ReasonCode.SOURCE_RESTORED else check.name)
        chunks[what] += check.measured if isinstance(check.measured, int) else 0
    taken, refused = probes.count(True), probes.count(False)
    who = "the client of the drill" if view.drill else "clients"
    wrote = [
        *([f"{count(taken, 'write probe')} (each removes what it wrote)"] if taken else []),
        *([f"{count(n, 'chunk')} of {who}, replayed by the rollback"] if (n := chunks[numbers.REPLAYED]) else []),
        *([f"{count(n, 'chunk')} restored from the snapshot"] if (n := chunks[ReasonCode.SOURCE_RESTORED]) else []),
    ]  # fmt: skip
    said = ", ".join(wrote) or "nothing"
    said += f"; {count(refused, 'write probe')} {'was' if refused == 1 else 'were'} refused" if refused else ""
    back = (view.drill.get("behind") or {}).get("source") or {}
    if isinstance(held := back.get("compared"), int):
        said += f". The source was then replaced by its copy from before the drill: {count(held, 'chunk')} "
        said += f"compared with the snapshot, {back.get('differing') or 'none'} different"
    return f"{said}."


def _executed(view: RunView) -> Iterator[StepResult]:
    """The results of every execution but dry runs', which write nothing to the source."""
    return (row.result for row in view.executions if row.result is not None and not row.result.facts.get("dry_run"))


def _probes(view: RunView) -> Iterator[bool]:
    """Whether each write probe at the source got through."""
    for result in _executed(view):
        checks = {check.name: check for check in result.checks}
        if (before := checks.get(BEFORE)) is not None and before.measured != "not tried":
            yield before.measured in _TAKEN
        if (through := checks.get(THROUGH)) is not None and through.verdict is not Verdict.NOT_EXERCISED:
            yield through.verdict is Verdict.FAIL
        if (result.facts.get("fence") or {}).get(NO_WRITES):
            yield False
        if (end := checks.get(FENCE_END)) is not None and end.verdict is Verdict.PASS:
            yield True
    if behind := (view.drill.get("behind") or {}).get("write_behind_the_fence"):
        yield behind in _TAKEN


# -- what clients ask instead ----------------------------------------------------------------------------------------------


class Ask(NamedTuple):
    """What a client of a source collection asks instead: `targets` with the chunks that each got of it, and with which filter.

    `same` and `filtered`: shares (0–1) of the answers of before, of one of these collections alone, without a filter and with
    it, over all queries; None where nobody measured them. `told`: the row of the searches that were sent as `ask` says.
    """

    source: str
    targets: dict[str, int]
    ask: str
    same: float | None
    filtered: float | None
    told: dict[str, Any] | None = None

    @property
    def answered(self) -> str:
        """What came back of the searches that were sent as `ask` says."""
        if self.told is None or self.told.get("same") is None:
            return (self.told or {}).get("why") or "–"
        low, high = (percent(self.told[key]) for key in ("low", "high"))
        return f"{percent(self.told['same'])} ({count(self.told['queries'], 'query')}; {low} to {high})"


def asks_instead(view: RunView) -> list[Ask]:
    """A row a source collection, by its routes. The only place that says what a client has to change."""
    merged, by_source = numbers.merged(view.results), dict[str, dict[str, int]]()
    for (source, target), chunks in numbers.routes(view.results).items():
        by_source.setdefault(source, {})[target] = chunks
    shares = view.table("recall").get("rows") or []
    sent = {row["collection"]: row for row in (view.table("recall").get("announced") or {}).get("rows") or []}

    def mean(source: str, key: str) -> float | None:
        known = [
            (row[key], row["queries"]) for row in shares if row.get("collection") == source and row.get(key) is not None
        ]
        return sum(share * n for share, n in known) / sum(n for _, n in known) if known else None

    rows = []
    for source, targets in by_source.items():
        whole = {target: n for target, n in targets.items() if target}
        too = " (step 23 sent one all the same)" if (sent.get(source) or {}).get("filter") else ""
        told = [_filter(view, source) if merged.keys() & whole.keys() else f"no filter is needed{too}"]
        told += [f"ask all {len(whole)}, then sort by distance"] if len(whole) > 1 else []
        told = told if whole else ["no search finds them"]
        alone, filtered = (mean(source, key) for key in ("shared_expected", "shared_filtered"))
        rows.append(Ask(source, targets, "; ".join(told), alone, filtered, sent.get(source)))
    return rows


def _filter(view: RunView, source: str) -> str:
    """The filter that asks a merged collection for the chunks of one source collection alone; that there is none, where so."""
    known = next((view.results[n].facts["origin_fields"] for n in (Step.MIGRATE, Step.DRY_RUN)
                  if n in view.results and "origin_fields" in view.results[n].facts), None)  # fmt: skip
    if known is None:
        return "no filter is recorded: this run is of an older toolkit"
    if known:
        return f"where={json.dumps({text(known[0], 60): text(source, 80)}, ensure_ascii=False)}"
    section = view.parameters.get("migration")
    prefix = isinstance(section, dict) and section.get("id_policy") == "prefix"
    kept = f"; drop answers whose id does not begin with {text(source, 80)}:" * prefix
    return f"no filter gives the answers of before: the schema writes no source collection into the chunks{kept}"


def answers(recall: dict[str, Any]) -> list[dict[str, Any]]:
    """What a client's searches of merged collections answer, a row a source collection and target: shares 0-1."""
    return [row for row in recall.get("rows") or [] if row.get("shared_expected") is not None]


def clients_get(view: RunView) -> str:
    """What an index that finds what it must does not say: whether a client's answer is as before."""
    whole = (view.table("recall").get("pooled") or {}).get("unrestricted") or {}
    if not isinstance(share := whole.get("shared_expected"), int | float):
        return ""
    said = f"; of what clients got before, without a filter, {percent(share)} are in the same answer now"
    sent = (view.table("recall").get("announced") or {}).get("pooled")
    return said + (
        f"; asked as announced, {percent(sent['same'])} (a sample: {count(sent['queries'], 'query')})" if sent else ""
    )


# -- rollback ------------------------------------------------------------------------------------------------------------


ROLES = {
    "on_call": "on-call engineer",
    "dba": "database administrator",
    "operations_lead": "operations lead",
}  # contacts


def way_back(view: RunView) -> str:
    """Until when a rollback is possible, where that is known and there was none, and where and as whom its commands run."""
    until = possible_until(view) if view.outcome.kind != "rolled-back" else ""
    host, directory, user = (text(view.run.get(key), 120) for key in ("host", "directory", "user"))
    drilled_before = view.rehearsal and view.ran(Step.ROLLBACK) and view.passed(Step.CLOSEOUT)
    never = numbers.rollback(view.results.get(Step.ROLLBACK)) is None
    untried = (
        "; none was tried since the closeout" if drilled_before else "; NOT EXERCISED in this run" if never else ""
    )
    possible = f"A rollback is possible until {until}, when the snapshots may go{untried}. " if until else ""
    return f"{possible}Run its commands on {host} in {directory} as {user}."


def who_orders(view: RunView) -> str:
    """The roles that order a rollback, with their contacts: the runbook's Appendix C, which is the same before and after the
    cutover, and its primary sign-off, which decides NO-GO."""
    section = view.parameters.get("rollback")
    alone = isinstance(section, dict) and section.get("automatic")
    said = "A rollback trigger of steps 22 and 23 begins it without an order (rollback.automatic). " * bool(alone)
    return (
        f"{said}Who orders it: on a rollback trigger, before or after the cutover, the {_called(view, CRITICAL[2])}; "
        f"for NO-GO, or where nobody is on call, the {_called(view, LEVELS[-1][3])}."
    )


def when_to_roll_back(view: RunView) -> str:
    """The rollback triggers of the runbook, and which of them this run has met."""
    looked = [step for step in (Step.MIGRATE, Step.VALIDATE) if step in view.results]
    met = "; ".join(text(trigger.sentence, 200) for trigger in triggers(view.results)) or "none"
    so_far = f"Met in this run (step {' and '.join(looked)}): {met}." if looked else "Not looked for yet."
    return (
        f"Roll back where step 22 or 23 finds {'; '.join(CONDITIONS)}. {so_far} After the cutover no step rolls back by itself; "
        "triggers are then a failed step 25, 50, 51 or 52, critical errors in the application's log, and searches that fail."
    )


def _called(view: RunView, key: str) -> str:
    """`operations lead, level 3: Ada 555`; the key where nobody is named."""
    section = view.parameters.get("contacts")
    named = str(section.get(key) or "") if isinstance(section, dict) else ""
    who = text(named, 80) if named and not is_placeholder(named) else f"not named (contacts.{key})"
    level = next(number for number, _, called in [*(row[1:] for row in LEVELS), CRITICAL] if called == key)
    return f"{ROLES[key]}, level {level}: {who}"


class WayBack(NamedTuple):
    """A rollback from one state of a run: until when there is one, its command, what becomes of writes, how long, who orders it,
    and who decides where the two histories conflict."""

    state: str
    command: str
    writes: str
    took: str
    orders: str
    decides: str


def _tried(view: RunView) -> int:
    """In which state the rollback of this run was ordered: 0 before the cutover, 1 after it, 2 after the closeout."""
    begun, ended = numbers.ordered(view.results.get(Step.ROLLBACK)), view.results.get(Step.CLOSEOUT)
    closed = instant(ended.finished) if ended is not None else None
    return 0 if not view.table("cut_over") else 2 if begun is not None and closed is not None and begun > closed else 1


def ways_back(view: RunView) -> list[WayBack]:
    """By state; a time is only in the row of the state in which a rollback was tried."""
    found, result = numbers.rollback(view.results.get(Step.ROLLBACK)), view.results.get(Step.ROLLBACK)
    took = ["NOT EXERCISED in this run"] * 3
    if found is not None and numbers.ordered(result) is not None:
        way = " with --replay" * (found.replayed is not None)
        took[_tried(view)] = f"measured{way}: {numbers.rollback_words(found, brief=True)}"
    lead, called = ROLES[LEVELS[-1][3]], ROLES[CRITICAL[2]]
    orders = f"on a rollback trigger: {called}; or: {lead}"
    until = possible_until(view)
    now = 0 if not view.table("cut_over") else 2 if view.passed(Step.CLOSEOUT) else 1
    past = [": possible" if at >= now else ": no longer" for at in range(2)]
    command = f"{RUNBOOK} rollback {view.id}"
    return [
        WayBack(f"before the cutover{past[0]}", command,
                "no client was sent to the target, so none of theirs is there; the source keeps its own",
                took[0], f"on a rollback trigger: {called}; for NO-GO: {lead}",
                "nobody: there is one history"),
        WayBack(f"after the cutover{past[1]}", command,
                "those to the target are exported; a rollback that finds any stops until somebody decides: --replay writes them "
                "to the source, --discard-with-reason leaves them; where clients are known to have written, --replay at once",
                took[1], orders, lead),
        WayBack(f"after the closeout: possible until {until or 'the snapshots may go'}", command,
                "as above; those to the source, since its fence was lifted, stay there, and a chunk changed on both sides stops "
                "the replay", took[2], orders, lead),
    ]  # fmt: skip

"""What a migration means for clients: their write downtime, what was written to the source, their new queries and answers,
and what a rollback means for them."""

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

_REREAD = "source and target read once more"
KILLED = ", with the attempt that was killed and resumed"
_CARRIED = "Work of step 22 in the attempt that was killed, from which the resume went on"


class DowntimePart(NamedTuple):
    """A part of the write downtime: name, seconds, seconds predicted by the dry run; None where it predicts none for it."""

    name: str
    seconds: float
    predicted: float | None = None


def continued(results: numbers.Results, attempts: Iterable[StepRow] = ()) -> list[StepRow]:
    """Return the killed attempts of step 22 that the last one resumed: their time is a part of the same work.

    The time of a killed attempt includes its notebook's start, since the start of its first cell was not recorded.
    """
    last = results.get(Step.MIGRATE)
    resumed = int(last.facts.get("resumed") or 0) if last is not None else 0
    mine = [row for row in attempts if row.number == Step.MIGRATE and row.result and row.result.finished]
    return mine[max(0, len(mine) - resumed) :]


def downtime_parts(results: numbers.Results, attempts: Iterable[StepRow] = ()) -> list[DowntimePart]:
    """Return the parts of the write downtime; [] where it was not measured, or step 25 set the fence itself.

    No second counts twice: each part lies between the fence and the write that ended it. The page, the summary and the
    prediction's error take the parts from here.
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
    measured = {
        s.number: within(r.started, r.seconds) for s in numbers.WINDOW if (r := results.get(s.number)) is not None
    }
    notebook_starts = [
        (numbers.launched(r), numbers.start_seconds(r))
        for s in numbers.WINDOW
        if (r := results.get(s.number)) is not None
    ]
    phases = {name: sum(within(p.started, p.seconds) for p in cutover.phases if p.name == name) for name in
              (numbers.UNCHANGED, numbers.COMPARED, numbers.RESTART)}  # fmt: skip
    last = measured.pop(Step.CUTOVER, 0.0)
    attempts = list(attempts)
    signing = numbers.signing(results, attempts)
    carried = {row.attempt: within(row.result.started, row.result.seconds)
               for row in continued(results, attempts) if row.result}  # fmt: skip
    earlier = list(numbers.given_up(results, attempts))
    failed = sum(within(began, (end - began).total_seconds()) for _, began, end, _ in earlier) - sum(carried.values())
    waited = sum(within(end, (after - end).total_seconds()) for _, _, end, after in earlier)
    whole, predicted = window.predicted(results.get(Step.DRY_RUN), window.DOWNTIME), sum(by_step.values()) + starts
    reread = max(0.0, whole - predicted) if whole is not None else None
    estimates = by_step if whole is not None else {}
    parts = [
        *(DowntimePart(f"Work of step {number}", n, estimates.get(number)) for number, n in measured.items()),
        # Its prediction is that of step 22.
        *([DowntimePart(_CARRIED, sum(carried.values()), 0.0 if estimates else None)] if carried else []),
        DowntimePart(
            "Starts of notebooks, from the fence on",
            sum(within(*start) for start in notebook_starts),
            starts if whole is not None else None,
        ),
        DowntimePart(f"Step 25: {_REREAD}", phases[numbers.UNCHANGED] + phases[numbers.COMPARED], reread),
        DowntimePart("Step 25: restart and health", phases[numbers.RESTART]),
        DowntimePart("Step 25: the rest until a write was taken", max(0.0, last - sum(phases.values()))),
        DowntimePart("Failed attempts", failed),
        DowntimePart("From an attempt's end until the next began", waited),
        DowntimePart("Between steps 24 and 25: signatures and seals", signing),
    ]
    rest = seconds - sum(part.seconds for part in parts)
    parts.append(DowntimePart("Between the other steps: seals, pages, waiting", rest))
    return [part for part in parts if abs(part.seconds) > 0.05 or part.predicted]


def downtime_as_predicted(results: numbers.Results, attempts: Iterable[StepRow] = ()) -> tuple[float | None, str]:
    """Return (seconds of the write downtime that the dry run predicts, their description), for every comparison of the two.
    Where step 25 set the fence: all but the restart."""
    seconds = numbers.downtime(results)[0]
    if not seconds:
        return seconds, "no fence: writes went on"
    if parts := downtime_parts(results, attempts):
        left_out = "; ".join(f"{duration(p.seconds)} {p.name}" for p in parts if p.predicted is None)
        counted = sum(p.seconds for p in parts if p.predicted is not None)
        return counted, f"its parts of {duration(seconds)} write downtime; left out: {left_out}"
    cutover = results.get(Step.CUTOVER)
    restart = sum(p.seconds for p in cutover.phases if p.name == numbers.RESTART) if cutover is not None else 0.0
    less = f", less {duration(restart)} of restart" if restart else ""
    return seconds - restart, f"write downtime, {duration(seconds)}{less}"


def beside_prediction(results: numbers.Results, attempts: Iterable[StepRow] = ()) -> str:
    """Return `predicted: 31 s, the same parts took 24 s`. Only the prediction where nothing was measured or the parts are the
    whole downtime; "" without a prediction."""
    predicted = window.predicted(results.get(Step.DRY_RUN), window.DOWNTIME)
    if predicted is None:
        return ""
    measured, whole = downtime_as_predicted(results, attempts)[0], numbers.downtime(results, attempts)[0]
    killed = KILLED * any(part.name == _CARRIED for part in downtime_parts(results, attempts))
    part = (
        f", the same parts{killed}{',' * bool(killed)} took {duration(measured)}"
        if measured and measured != whole
        else ""
    )
    return f"predicted: {duration(predicted)}{part}"


def other_fence(view: RunView) -> str:
    """Return the value of fence.when that this run did not use, with its effect; "" without a write downtime."""
    if not numbers.downtime(view.results, view.attempts)[0]:
        return ""
    late = Step.CUTOVER in view.results and bool(view.results[Step.CUTOVER].facts.get("fence"))
    other = "start, where writers are out from step 20 on" if late else "cutover, where writers are out in step 25 only"
    return f"fence.when {other}"


def unseen(view: RunView) -> Iterator[str]:
    """Yield what no check of this run covers, though its figures may suggest it."""
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
    """Return why the write downtime of another run may differ: chunks, people who sign, when the fence is set."""
    results, chunks = view.results, numbers.counts(view.results).source
    seconds = numbers.downtime(results, view.attempts)[0]
    if not seconds:
        return ""
    grows = {Step.SNAPSHOT, Step.MIGRATE, Step.VALIDATE}
    work_parts = [p for p in downtime_parts(results, view.attempts)
              if p.name.endswith(_REREAD) or any(p.name.startswith(f"Work of step {step}") for step in grows)]  # fmt: skip
    work = sum(p.seconds for p in work_parts)
    of = f" on {count(chunks, 'chunk')}" if chunks is not None else ""
    of += KILLED if any(p.name == _CARRIED for p in work_parts) else ""
    each = f", {duration(work / chunks * 1000)} for 1,000" if chunks and chunks > 1000 else ""
    sentences = [f"{duration(work)} of it are work{of}{each}, which grows with their number"] if work else []
    signing = numbers.signing(results, view.attempts)
    who = "signed by the machine: people who sign are not in it" if view.rehearsal else "were these people's"
    sentences += [f"{duration(signing)} for signatures {who}"] if signing else []
    sentences += [f"{other_fence(view)}: NOT EXERCISED"]
    predicted = beside_prediction(results, view.attempts)
    return f"Does not carry over to another run as it is: {'; '.join(sentences)}. {predicted}".strip()


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
    """Show how long clients could not write, and the prediction."""
    seconds, note = numbers.downtime(view.results, view.attempts, view.drill, brief=True)
    note = "; ".join(filter(None, [beside_prediction(view.results, view.attempts), note]))
    if seconds is None:
        return Tile("Write downtime", UNKNOWN if note.endswith(numbers.WRITES_GO_ON) else "running", note)
    note += "; holds for this run only" * bool(seconds)
    return Tile("Write downtime", duration(seconds) if seconds else "none", note, file="#downtime" if seconds else "")


def rollback_tile(view: RunView) -> Tile:
    """Show how long a rollback took, where one was tried."""
    times = numbers.rollback(view.results.get(Step.ROLLBACK))
    if times is None:
        return Tile(
            "Rollback", "NOT EXERCISED", "no rollback or drill in this run; its time is an estimate", file="#rollback"
        )
    closed = view.passed(Step.CLOSEOUT) and _tried(view) < 2
    return Tile(
        "Rollback measured",
        duration(times.service),
        f"until service is back: {numbers.service_ends(times)}; target clean after {duration(times.clean)}"
        + (f"; {numbers.REPLAY_ORDERED}" if times.replayed is not None else "")
        + ("; before closeout, fence up" if closed else "; the write fence was up" * bool(writers(view))),
        file="#rollback-times",
    )


ASKED = "every collection that got chunks asked, with the filter where there is one, sorted by distance"


def recall_tiles(view: RunView) -> list[Tile]:
    """Show the recall for each filter that was asked: shares 0-1. Merged collections have two tiles."""
    recall = view.table("recall")
    tiles: list[Tile] = []
    for row in (recall.get("pooled") or {}).values():
        if row and isinstance(row.get("recall"), int | float):
            asked = f"{judged_queries(row, with_reason=False)}, {own_chunk(recall)}; 95 %: {row['low']:.3f} to {row['high']:.3f}"
            label = f"Recall@{recall.get('k')}, {scope(row['scope'])}"
            part = int(row.get("judged") or 0) < int(row.get("neighbours") or 0)  # a share of some is no pass for all
            kind = "open" if part and row["verdict"] == Verdict.PASS else str(row["verdict"])
            tiles.append(Tile(label, f"{row['recall']:.3f}", f"{asked}; {text(row['filter'], 100)}", kind))
    return [*(tiles or [Tile("Recall", UNKNOWN)]), *_remaining(recall)]


def _remaining(recall: dict[str, Any]) -> Iterator[Tile]:
    """For split and merged collections: the share of a client's answers as before, asked as announced and of one alone."""
    whole, sent = (recall.get("pooled") or {}).get("unrestricted") or {}, (recall.get("announced") or {}).get("pooled")
    share, filtered, rows = whole.get("shared_expected"), whole.get("shared_filtered"), answers(recall)
    if sent:
        note = f"a sample, really sent: {count(sent['queries'], 'query')}, {own_chunk(recall)}; 95 % (Wilson): "
        note += interval(sent["low"], sent["high"])
        if share is not None:
            note += f"; with the new name alone: {percent(share)} of {whole['queries']:,}"
            note += f", with its filter, too, calculated: {percent(filtered)}" if filtered is not None else ""
        kind = "pass" if sent["same"] == 1 else "warning"
        yield Tile("Same results, asked as announced", percent(sent["same"]), note, kind, "#routing")
    elif share is not None:
        note = f"{whole['queries']:,} queries, stored vectors, {own_chunk(recall)}, no filter; {share_range(rows)}"
        if whole.get("shared_low") is not None:
            note += f"; 95 % (Wilson): {interval(whole['shared_low'], whole['shared_high'])}"
        if filtered is not None:
            note += f"; one collection with a filter, calculated: {percent(filtered)}"
        kind = "pass" if share == 1 else "warning"
        yield Tile("Same results, one collection alone", percent(share), note, kind, "#answers" if rows else "#search")


# -- writes to the source ------------------------------------------------------------------------------------------------

_ACCEPTED = ("taken", "get through")


def to_source(view: RunView) -> str:
    """Return one sentence, with counts, on what the steps and drills wrote to the source, and what was removed again."""
    probes, chunks = list(_probes(view)), Counter[str]()
    for check in (check for result in _executed(view) for check in result.checks):
        name = str(check.reason if check.reason == ReasonCode.SOURCE_RESTORED else check.name)
        chunks[name] += check.measured if isinstance(check.measured, int) else 0
    accepted, refused = probes.count(True), probes.count(False)
    who = "the client of the drill" if view.drill else "clients"
    writes = [
        *([f"{count(accepted, 'write probe')} (each removes what it wrote)"] if accepted else []),
        *([f"{count(n, 'chunk')} of {who}, replayed by the rollback"] if (n := chunks[numbers.REPLAYED]) else []),
        *([f"{count(n, 'chunk')} restored from the snapshot"] if (n := chunks[ReasonCode.SOURCE_RESTORED]) else []),
    ]  # fmt: skip
    sentence = ", ".join(writes) or "nothing"
    sentence += f"; {count(refused, 'write probe')} {'was' if refused == 1 else 'were'} refused" if refused else ""
    restored = (view.drill.get("behind") or {}).get("source") or {}
    if isinstance(compared := restored.get("compared"), int):
        sentence += f". The source was then replaced by its copy from before the drill: {count(compared, 'chunk')} "
        sentence += f"compared with the snapshot, {restored.get('differing') or 'none'} different"
    return f"{sentence}."


def _executed(view: RunView) -> Iterator[StepResult]:
    """Return the results of every execution except dry runs, which write nothing to the source."""
    return (row.result for row in view.executions if row.result is not None and not row.result.facts.get("dry_run"))


def _probes(view: RunView) -> Iterator[bool]:
    """Yield for each write probe at the source whether it was accepted."""
    for result in _executed(view):
        checks = {check.name: check for check in result.checks}
        if (before := checks.get(BEFORE)) is not None and before.measured != "not tried":
            yield before.measured in _ACCEPTED
        if (through := checks.get(THROUGH)) is not None and through.verdict is not Verdict.NOT_EXERCISED:
            yield through.verdict is Verdict.FAIL
        if (result.facts.get("fence") or {}).get(NO_WRITES):
            yield False
        if (end := checks.get(FENCE_END)) is not None and end.verdict is Verdict.PASS:
            yield True
    if behind := (view.drill.get("behind") or {}).get("write_behind_the_fence"):
        yield behind in _ACCEPTED


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
    sent: dict[str, Any] | None = None

    @property
    def answered(self) -> str:
        """The result of the searches that were sent as `ask` describes."""
        if self.sent is None or self.sent.get("same") is None:
            return (self.sent or {}).get("why") or "–"
        low, high = (percent(self.sent[key]) for key in ("low", "high"))
        return f"{percent(self.sent['same'])} ({count(self.sent['queries'], 'query')}; {low} to {high})"


def asks_instead(view: RunView) -> list[Ask]:
    """Return one row for each source collection, from its routes: what its clients have to change."""
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
        instructions = [_filter(view, source) if merged.keys() & whole.keys() else f"no filter is needed{too}"]
        instructions += [f"ask all {len(whole)}, then sort by distance"] if len(whole) > 1 else []
        instructions = instructions if whole else ["no search finds them"]
        unfiltered, filtered = (mean(source, key) for key in ("shared_expected", "shared_filtered"))
        rows.append(Ask(source, targets, "; ".join(instructions), unfiltered, filtered, sent.get(source)))
    return rows


def _filter(view: RunView, source: str) -> str:
    """Return the filter that selects the chunks of one source collection in a merged one, or a sentence that there is none."""
    known = next((view.results[n].facts["origin_fields"] for n in (Step.MIGRATE, Step.DRY_RUN)
                  if n in view.results and "origin_fields" in view.results[n].facts), None)  # fmt: skip
    if known is None:
        return "no filter is recorded: this run is of an older toolkit"
    if known:
        return f"where={json.dumps({text(known[0], 60): text(source, 80)}, ensure_ascii=False)}"
    section = view.parameters.get("migration")
    prefix = isinstance(section, dict) and section.get("id_policy") == "prefix"
    prefix_rule = f"; drop answers whose id does not begin with {text(source, 80)}:" * prefix
    return f"no filter gives the answers of before: the schema writes no source collection into the chunks{prefix_rule}"


def answers(recall: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of searches in merged collections, one for each source collection and target: shares 0-1."""
    return [row for row in recall.get("rows") or [] if row.get("shared_expected") is not None]


def clients_get(view: RunView) -> str:
    """Return the share of a client's earlier answers that the same search still returns; recall alone does not show it."""
    whole = (view.table("recall").get("pooled") or {}).get("unrestricted") or {}
    if not isinstance(share := whole.get("shared_expected"), int | float):
        return ""
    sentence = f"; of what clients got before, without a filter, {percent(share)} are in the same answer now"
    sent = (view.table("recall").get("announced") or {}).get("pooled")
    return sentence + (
        f"; asked as announced, {percent(sent['same'])} (a sample: {count(sent['queries'], 'query')})" if sent else ""
    )


# -- rollback ------------------------------------------------------------------------------------------------------------


ROLES = {
    "on_call": "on-call engineer",
    "dba": "database administrator",
    "operations_lead": "operations lead",
}  # contacts


def rollback_sentence(view: RunView) -> str:
    """Return until when a rollback is possible, where known and none has run, and where and as which user its commands run."""
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
    """Return the roles that order a rollback, with their contacts: those of the runbook's Appendix C, the same before and after
    the cutover, and its primary sign-off, who decides NO-GO."""
    section = view.parameters.get("rollback")
    automatic = ""
    if isinstance(section, dict) and section.get("automatic"):
        automatic = "A rollback trigger of steps 22 and 23 begins it without an order (rollback.automatic). "
    return (
        f"{automatic}Who orders it: on a rollback trigger, before or after the cutover, the {_called(view, CRITICAL[2])}; "
        f"for NO-GO, or where nobody is on call, the {_called(view, LEVELS[-1][3])}."
    )


def when_to_roll_back(view: RunView) -> str:
    """Return the rollback triggers of the runbook, and those that this run has met."""
    examined = [step for step in (Step.MIGRATE, Step.VALIDATE) if step in view.results]
    met = "; ".join(text(trigger.sentence, 200) for trigger in triggers(view.results)) or "none"
    status = f"Met in this run (step {' and '.join(examined)}): {met}." if examined else "Not looked for yet."
    return (
        f"Roll back where step 22 or 23 finds {'; '.join(CONDITIONS)}. {status} After the cutover no step rolls back by itself; "
        "triggers are then a failed step 25, 50, 51 or 52, critical errors in the application's log, and searches that fail."
    )


def _called(view: RunView, key: str) -> str:
    """Return `operations lead, level 3: Ada 555`; the parameter's name where nobody is named."""
    section = view.parameters.get("contacts")
    named = str(section.get(key) or "") if isinstance(section, dict) else ""
    who = text(named, 80) if named and not is_placeholder(named) else f"not named (contacts.{key})"
    level = next(number for number, _, called in [*(row[1:] for row in LEVELS), CRITICAL] if called == key)
    return f"{ROLES[key]}, level {level}: {who}"


class RollbackOption(NamedTuple):
    """A rollback from one state of a run: until when it is possible, its command, what happens to writes, its time, who orders
    it, and who decides where the two histories conflict."""

    state: str
    command: str
    writes: str
    took: str
    orders: str
    decides: str


def _tried(view: RunView) -> int:
    """Return the state in which the rollback of this run was ordered: 0 before the cutover, 1 after it, 2 after the closeout."""
    begun, closeout = numbers.ordered(view.results.get(Step.ROLLBACK)), view.results.get(Step.CLOSEOUT)
    closed = instant(closeout.finished) if closeout is not None else None
    return 0 if not view.table("cut_over") else 2 if begun is not None and closed is not None and begun > closed else 1


def rollback_options(view: RunView) -> list[RollbackOption]:
    """Return one row for each state; only the state in which a rollback was tried has a time."""
    times, result = numbers.rollback(view.results.get(Step.ROLLBACK)), view.results.get(Step.ROLLBACK)
    took = ["NOT EXERCISED in this run"] * 3
    if times is not None and numbers.ordered(result) is not None:
        replayed = " with --replay" * (times.replayed is not None)
        took[_tried(view)] = f"measured{replayed}: {numbers.rollback_words(times, brief=True)}"
    lead, called = ROLES[LEVELS[-1][3]], ROLES[CRITICAL[2]]
    orders = f"on a rollback trigger: {called}; or: {lead}"
    until = possible_until(view)
    current = 0 if not view.table("cut_over") else 2 if view.passed(Step.CLOSEOUT) else 1
    possible = [": possible" if at >= current else ": no longer" for at in range(2)]
    command = f"{RUNBOOK} rollback {view.id}"
    return [
        RollbackOption(f"before the cutover{possible[0]}", command,
                "no client was sent to the target, so none of theirs is there; the source keeps its own",
                took[0], f"on a rollback trigger: {called}; for NO-GO: {lead}",
                "nobody: there is one history"),
        RollbackOption(f"after the cutover{possible[1]}", command,
                "those to the target are exported; a rollback that finds any stops until somebody decides: --replay writes them "
                "to the source, --discard-with-reason leaves them; where clients are known to have written, --replay at once",
                took[1], orders, lead),
        RollbackOption(f"after the closeout: possible until {until or 'the snapshots may go'}", command,
                "as above; those to the source, since its fence was lifted, stay there, and a chunk changed on both sides stops "
                "the replay", took[2], orders, lead),
    ]  # fmt: skip

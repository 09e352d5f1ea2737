"""What a migration did to writes: the parts of the time in which clients could not write, that time beside its prediction, and
what was written to the source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple

from helpers.fence.control import BEFORE, NO_WRITES, THROUGH
from helpers.formatting import count, duration
from helpers.reason_codes import ReasonCode
from helpers.report import numbers
from helpers.report.facts import RunView, StepRow, instant
from helpers.report.outcome import FENCE_END, writers
from helpers.results import StepResult, Verdict
from helpers.run import window
from helpers.run.plan import Step

_AGAIN = "the source read once more"
KILLED = ", with the attempt that was killed and resumed"


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
              (numbers.UNCHANGED, numbers.RESTART)}  # fmt: skip
    last = took.pop(Step.CUTOVER, 0.0)
    attempts = list(attempts)
    people = numbers.signing(results, attempts)
    carried = {row.attempt: within(row.result.started, row.result.seconds)
               for row in continued(results, attempts) if row.result}  # fmt: skip
    if carried and Step.MIGRATE in took:
        took[Step.MIGRATE] += sum(carried.values())
    earlier = list(numbers.given_up(results, attempts))
    failed = sum(within(began, (end - began).total_seconds()) for _, began, end, _ in earlier) - sum(carried.values())
    waited = sum(within(end, (after - end).total_seconds()) for _, _, end, after in earlier)
    whole, predicted = window.predicted(results.get(Step.DRY_RUN), window.DOWNTIME), sum(by_step.values()) + starts
    again = max(0.0, whole - predicted) if whole is not None else None
    guess = by_step if whole is not None else {}
    parts = [
        *(
            DowntimePart(
                f"Work of step {number}" + KILLED * (number == Step.MIGRATE and bool(carried)), n, guess.get(number)
            )
            for number, n in took.items()
        ),
        DowntimePart(
            "Starts of notebooks, from the fence on",
            sum(within(*one) for one in begun),
            starts if whole is not None else None,
        ),
        DowntimePart(f"Step 25: {_AGAIN}", phases[numbers.UNCHANGED], again),
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
    """`24 s of it were predicted at 31 s`; `predicted: 31 s` before that, or without a fence; "" without a prediction."""
    guess = window.predicted(results.get(Step.DRY_RUN), window.DOWNTIME)
    measured = downtime_as_predicted(results, attempts)[0]
    if guess is None:
        return ""
    return (
        f"{duration(measured)} of it were predicted at {duration(guess)}"
        if measured
        else f"predicted: {duration(guess)}"
    )


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
    if whole.get("shared_filtered") is not None:
        yield "Searches filtered by source collection: calculated from the vectors, not asked of the target"
    if numbers.rollback(view.results.get(Step.ROLLBACK)) is None:
        yield "Rollback: not tried in this run; its time is an estimate"
    if not any(line.startswith("restore of ") for line in view.drills):
        yield "Restore of a snapshot: not tried in this run; its bytes were read back and compared"
    if view.drill:
        how = "ordered beforehand" if view.put_back else "not ordered"
        yield f"Rollback in other ways than drilled (--replay {how}): every other choice of its options"
        yield "Rollback before the cutover: not tried in this run"
    if other := other_fence(view):
        yield f"{other[:1].upper()}{other[1:]}: not tried in this run"


def carries_over(view: RunView) -> str:
    """What the write downtime of this run does not hold for another one: chunks, people, and when the fence goes up."""
    results, chunks = view.results, numbers.counts(view.results).source
    seconds = numbers.downtime(results, view.attempts)[0]
    if not seconds:
        return ""
    grows = {Step.SNAPSHOT, Step.MIGRATE, Step.VALIDATE}
    work = sum(p.seconds for p in downtime_parts(results, view.attempts)
               if p.name.endswith(_AGAIN) or any(p.name.startswith(f"Work of step {step}") for step in grows))  # fmt: skip
    of = f" on {count(chunks, 'chunk')}" if chunks is not None else ""
    said = [f"{duration(work)} of it are work{of}, which grows with their number"] if work else []
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
    return Tile(
        "Rollback measured",
        duration(found.service),
        f"until service is back: {numbers.service_ends(found)}; target clean after {duration(found.clean)}"
        + (f"; {numbers.REPLAY_ORDERED}" if found.replayed is not None else "")
        + "; the write fence was up" * bool(writers(view)),
        file="#rollback-times",
    )


# -- writes to the source ------------------------------------------------------------------------------------------------

_TAKEN = ("taken", "get through")


def to_source(view: RunView) -> str:
    """What the steps and drills of this run wrote to the source, and what was taken away again: a sentence, with counts."""
    probes, chunks = list(_probes(view)), Counter[str]()
    for check in (check for result in _executed(view) for check in result.checks):
        what = str(check.reason if check.reason == ReasonCode.SOURCE_RESTORED else check.name)
        chunks[what] += check.measured if isinstance(check.measured, int) else 0
    taken, refused = probes.count(True), probes.count(False)
    wrote = [
        *([f"{count(taken, 'write probe')} (each removes what it wrote)"] if taken else []),
        *([f"{count(n, 'chunk')} of clients, replayed by the rollback"] if (n := chunks[numbers.REPLAYED]) else []),
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

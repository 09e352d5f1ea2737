"""The numbers of a run: each duration and each count is computed here, and has the same name wherever it is shown.

Pages, `runbook status`, the summary documents and the notebooks 27 and 53 take them from here. All come from the result files,
so whoever has the folder can compute them again. The second part compares the steps with the maintenance window.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from types import MappingProxyType
from typing import Any, NamedTuple

from helpers.fence import NO_WRITES
from helpers.formatting import count, duration, moment
from helpers.report import RunView, StepRow, Timed, between, instant, timed
from helpers.results import StepResult, kind_of, passed
from helpers.run import plan
from helpers.run.plan import Step
from helpers.run.window import HOLDS, longest

Results = Mapping[str, StepResult]
"""The results of a run by the step's number."""

# -- durations ---------------------------------------------------------------------------------------------------------

SERVICE_BACK, CLEAN = "Lift the write fence", "Remove from the target what the run made"
PUT_BACK = "while it was put back"
FROM_FILES = "from the first act on the application's files"
FROM_FENCE = "from its begin, when the fence was set again,"
FILES_BACK = "Put configuration files back, restart, health"
WRITE_ASKED = "Wait until a write of the application is taken"
"""The stages of step 27 whose ends matter to people: clients can write at the source again; the target is clean."""
UNCHANGED, COMPARED = "prove the source unchanged", "compare the target once more"  # phases of step 25
RESTART, REPLAYED = "restart and wait for health", "replayed chunks"  # a phase of step 25, a check of step 27
REPLAY_ORDERED = "the replay of clients' writes was ordered beforehand"
WITHOUT_ORDER = (
    "without that order a rollback that finds such writes stops before service is back, until somebody decides"
)
_SEQUENCE = frozenset(step.number for step in plan.LINE)
_FIRST, _LAST = Step.FENCE_WRITES, Step.CUTOVER
WINDOW = tuple(step for step in plan.LINE if _FIRST <= step.number <= _LAST)  # from the fence to the cutover


@dataclass(frozen=True, slots=True)
class ForwardTimes:
    """The steps of the window that have run (20 to 25), in seconds.

    `work`: the sum of the steps. `starts`: the sum of the starts of their notebooks. `wall`: from the first start to the last
    end, waiting for people included. `attempts`: earlier attempts of these steps, which only `wall` includes.
    """

    work: float
    starts: float
    wall: float
    attempts: float = 0.0


@dataclass(frozen=True, slots=True)
class RollbackTimes:
    """A measured rollback, in seconds from its order, the start of its notebook included.

    `service`: until a write was taken at the source again; where none was `observed`, until the restart and the end of the
    fence. `clean`: until the target held nothing of the run. `whole`: until the source was watched. `replayed`: chunks of clients
    written back to the source, as ordered with the rollback; None without such an order.
    """

    service: float
    clean: float
    whole: float
    observed: bool = False
    replayed: int | None = None


def work(results: Results) -> float:
    """Return the seconds of the steps of the standard sequence, summed; without step 27 and other notebooks on demand."""
    return sum(r.seconds for number, r in results.items() if number in _SEQUENCE)


def forward(results: Results, attempts: Iterable[StepRow] = ()) -> ForwardTimes | None:
    """Return the times of the window; None where none of its steps has ended. `attempts`: `RunView.attempts`."""
    steps = [r for number, r in results.items() if _FIRST <= number <= _LAST and r.finished]
    begun = [when for r in steps if (when := instant(launched(r)))]
    ended = [when for r in steps if (when := instant(r.finished))]
    if not begun or not ended:
        return None
    wall = (max(ended) - min(begun)).total_seconds()
    lost = sum(row.result.seconds for row in attempts if row.result and _FIRST <= row.number <= _LAST)
    return ForwardTimes(sum(r.seconds for r in steps), sum(map(start_seconds, steps)), wall, lost)


def launched(result: StepResult) -> str:
    """Return when the runner began to start the notebook, ISO 8601; where not recorded, when its first cell began."""
    return str(result.facts.get("launched") or result.started)


def start_seconds(result: StepResult) -> float:
    """Return the seconds of the notebook's start: kernel and imports. 0 where not measured."""
    begun, started = instant(launched(result)), instant(result.started)
    return max(0.0, (started - begun).total_seconds()) if begun and started else 0.0


def rollback(result: StepResult | None) -> RollbackTimes | None:
    """Return the times of the rollback, or of its drill; None where none succeeded. A dry run does not count."""
    if result is None or not passed(result) or result.facts.get("dry_run"):
        return None
    begun, ended = ordered(result), instant(result.finished)
    ends = {p.name: at + timedelta(seconds=p.seconds) for p in result.phases if (at := instant(p.started))}
    restored, clean = ends.get(SERVICE_BACK), ends.get(CLEAN)
    if begun is None or ended is None or restored is None or clean is None:
        return None
    taken = instant((result.facts.get("fence") or {}).get("write_taken"))
    service, cleaned, whole = ((when - begun).total_seconds() for when in (taken or restored, clean, ended))
    replayed = next((int(c.measured or 0) for c in result.checks if c.name == REPLAYED), None)
    return RollbackTimes(service, cleaned, whole, taken is not None, replayed)


def ordered(result: StepResult | None) -> datetime | None:
    """Return when a rollback was ordered; where step 27 did not record it, when its notebook was started."""
    return instant(result.facts.get("ordered") or launched(result)) if result is not None else None


def rollback_words(times: RollbackTimes, *, brief: bool = False) -> str:
    """`service back after 9.6 s (a write was taken), target clean after 11 s`; the same on pages, in status and in documents."""
    service = f"service back after {duration(times.service)} ({service_ends(times)})"
    ordered = "" if times.replayed is None else f"; {REPLAY_ORDERED}, {count(times.replayed, 'chunk')}"
    ordered += f": {WITHOUT_ORDER}" if ordered and not brief else ""
    return f"{service}, target clean after {duration(times.clean)}{ordered}"


def service_ends(times: RollbackTimes) -> str:
    """Return what ends the time until service is back, and whether it was observed."""
    return "a write was taken" if times.observed else "restarted and fence lifted; no write was observed"


def estimate(results: Results) -> tuple[dict[str, float], float]:
    """Return the dry run's estimate: (seconds of work by step, seconds of notebook starts); ({}, 0.0) without one."""
    dry = results.get(Step.DRY_RUN)
    parts = (dry.facts.get("estimate") or []) if dry is not None else []
    by_step: dict[str, float] = {}
    starts = 0.0
    for part in parts:
        number, _, name = str(part["part"]).partition(" ")
        if name == STARTS:
            starts += float(part["seconds"])
        elif number.isdigit():
            by_step[number] = by_step.get(number, 0.0) + float(part["seconds"])
    return by_step, starts


class RollbackRow(NamedTuple):
    """One of the times of a rollback: its name, from when to when it counts, seconds, and how it is known."""

    name: str
    counts: str
    seconds: float
    known: str


def rollback_rows(results: Results, drill: Mapping[str, Any]) -> list[RollbackRow]:
    """Return every time of a rollback that this run knows, under its one name. `drill`: `RunView.drill`."""
    rows = []
    counts = f"{HOLDS}; no notebook start, no restart, no watch"
    night = results[Step.SCHEDULE_AND_NOTIFY].facts.get("night") if Step.SCHEDULE_AND_NOTIFY in results else None
    if isinstance(night, dict) and isinstance(announced := night.get("way_back_seconds"), int | float):
        rows.append(RollbackRow("Estimate announced", counts, announced, _basis(results, announced=True)))
    if Step.MIGRATE in results and (estimated := rollback_estimate(results)) is not None:
        rows.append(RollbackRow("Estimate after step 22", counts, estimated, _basis(results)))
    result = results.get(Step.ROLLBACK)
    if (times := rollback(result)) is not None and result is not None:
        begun, first = ordered(result), min(at for p in result.phases if (at := instant(p.started)))
        delay = (first - begun).total_seconds() if begun else 0.0
        probe_seconds = sum(p.seconds for p in result.phases if p.name == WRITE_ASKED)
        probed = f"; {duration(probe_seconds)} of it until the write probe had answered" * bool(probe_seconds)
        measured = {
            "Configuration files back": ("files, restart and health checks only",
                                         sum(p.seconds for p in result.phases if p.name == FILES_BACK)),
            "Service back": (f"from the order until clients can write at the source: {service_ends(times)}{probed}",
                             times.service),
            "Stages of step 27": ("from the first stage until the target is clean, as in its figure", times.clean - delay),
            **{f"Without writes {when}": (f"{FROM_FENCE if when == PUT_BACK else FROM_FILES} until a write was taken", seconds)
               for when, seconds in more_downtimes(results, drill)},
            "Target clean": ("from the order until the target holds nothing of the run", times.clean),
            "Step 27": ("from its first cell to its end, the watch of the source included", result.seconds),
            "Whole rollback": ("from the order to the end of step 27", times.whole),
        }  # fmt: skip
        basis = "measured in a drill" if drill else "measured"
        rows += [RollbackRow(name, scope, seconds, basis) for name, (scope, seconds) in measured.items()]
    if (start := instant(drill.get("began"))) and (end := instant(drill.get("ended"))):
        scope = "from its begin until everything was put back" if drill.get("put_back") else "from its begin to its end"
        rows.append(RollbackRow("Whole drill", scope, (end - start).total_seconds(), "measured"))
    return rows


def rollback_estimate(results: Results) -> float | None:
    """Return the most seconds until the target is clean: what the same work took or is estimated to take; None if unknown."""
    parts = _estimated_parts(results)
    return sum(seconds for _, seconds, _ in parts) if all(seconds for _, seconds, _ in parts) else None


def _estimated_parts(results: Results, *, announced: bool = False) -> list[tuple[str, float, str]]:
    """Return the parts of a rollback's estimate: (step, seconds, how they are known); `announced`: before the window."""
    by_step = estimate(results)[0]
    parts: list[tuple[str, float, str]] = []
    for number in (Step.SNAPSHOT, Step.MIGRATE):
        result = results.get(number)
        if not announced and result is not None and passed(result) and not result.facts.get("resumed"):
            parts.append((number, result.seconds, "measured"))
        else:
            resumed = not announced and result is not None and result.facts.get("resumed")
            basis = "dry run's estimate" + "; it was resumed" * bool(resumed)
            parts.append((number, by_step.get(number, 0.0), basis))
    return parts


def _basis(results: Results, *, announced: bool = False) -> str:
    """`step 21 4.4 s (measured) + step 22 8.3 s (dry run's estimate; it was resumed)`."""
    parts = _estimated_parts(results, announced=announced)
    return " + ".join(f"step {number} {duration(seconds)} ({basis})" for number, seconds, basis in parts)


STARTS = "notebook starts"  # after the numbers of steps: the part of the estimate that is not work of a step
WRITES_GO_ON = ("step 20 has not run", "writers go on until step 25 stops them")


def downtime(
    results: Results,
    attempts: Iterable[StepRow] = (),
    drill: Mapping[str, Any] = MappingProxyType({}),
    *,
    brief: bool = False,
) -> tuple[float | None, str]:
    """Return (seconds in which clients could not write, how that is known); (None, reason) where not measured.

    The fence of the run stops writes, no reads. `attempts` (`RunView.attempts`) that failed meanwhile are a part of it; `drill`:
    `RunView.drill`. Writes go on at the target once the application uses it, or at the source once the fence is lifted; a second
    downtime, in a rollback, is only named. `brief` leaves out the parts, all of which `downtime_parts` gives.
    """
    fence = results.get(Step.FENCE_WRITES)
    if fence is None:
        return None, WRITES_GO_ON[0]
    late = _fence_of_the_cutover(results)
    state = late or fence.facts.get("fence") or {}
    if state.get("late") and not state.get("up"):
        return None, WRITES_GO_ON[1]
    if state.get(NO_WRITES):
        return 0.0, "none by this run: the source itself took no writes before it; reads of clients were not observed"
    if state.get("kind") in (None, "none"):
        return 0.0, "none by this run: no fence was put up; reads and writes of clients were not observed"
    up = instant(state.get("up"))
    if up is None:
        return _recorded(results)
    seen = [(instant(end.get("write_taken")), instant(end.get("writes_again"))) for end in _ends(results)]
    ends = [(when, taken is not None) for taken, ready in seen if (when := taken or ready) and when > up]
    refused = f"writes to the source refused since {moment(state['up'])}; reads are not refused"
    untried = f"the write fence is set since {moment(state['up'])}; whether it refuses writes was not seen"
    if not ends:
        return None, refused if state.get("proven", True) else untried
    ended, observed = min(ends)
    until = "a write was taken" if observed else "the restart ended; no write was observed"
    waited = signing(results, attempts := list(attempts))
    people = f", {duration(waited)} for signatures and seals" if waited and not brief else ""
    earlier = [each for each in given_up(results, attempts) if up < each[1] < ended]
    lost = sum((min(after, ended) - began).total_seconds() for _, began, _, after in earlier)
    killed = all("killed by the drill" in str(row.result and row.result.error) for row, *_ in earlier)
    whole = (ended - up).total_seconds()
    failure = f"of it in attempts that {'the drill killed, which were resumed' if killed else 'failed'}"
    failed = f", {duration(lost)} {failure if brief else 'in earlier attempts'}, until the next began" if lost else ""
    last = results[Step.CUTOVER].facts.get("last_changes") if late else None
    brought = f"; {count(last['total'], 'change')} since the validation brought over meanwhile" if last else ""
    repeated = " and ".join(f"{duration(s)}{'' if brief else f' {when}'}" for when, s in more_downtimes(results, drill))
    repeated = repeated and f"; {'in the drill ' * bool(brief and drill)}again for {repeated}"
    words = f"{up:%H:%M:%S} to {ended:%H:%M:%S} UTC: from the fence until {until}{people}{failed}{brought}; reads not observed"
    return whole, words + repeated


def given_up(results: Results, attempts: Iterable[StepRow]) -> Iterator[tuple[StepRow, datetime, datetime, datetime]]:
    """Yield each earlier attempt that ended, its start, its end, and when the next execution of its step was launched."""
    known = [(row, instant(row.result.started), instant(row.result.finished)) for row in attempts if row.result]
    for at, (row, began, ended) in enumerate(known):
        if began is None or ended is None:
            continue
        last = instant(launched(results[row.number])) if row.number in results else None
        later = [start for other, start, _ in known[at + 1 :] if other.number == row.number] + [last]
        yield row, began, ended, max(ended, next(filter(None, later), ended))


def more_downtimes(results: Results, drill: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Return (when, seconds) of each further downtime after a cutover. `drill`: `RunView.drill`."""
    result, periods = results.get(Step.ROLLBACK), list[tuple[str, datetime | None, datetime | None]]()
    if passed(result) and result and Step.CUTOVER in results and results[Step.CUTOVER].facts.get("cut_over"):
        begun = next((p.started for p in result.phases if p.name == FILES_BACK), "")
        ends = result.facts.get("fence") or {}
        periods.append((f"in the {'drill of the ' if drill else ''}rollback", instant(begun),
                      instant(ends.get("write_taken")) or instant(ends.get("writes_again"))))  # fmt: skip
    behind = drill.get("behind") or {}
    periods.append((PUT_BACK, instant(behind.get("began")), instant(behind.get("write_taken"))))
    return [(when, (end - start).total_seconds()) for when, start, end in periods if start and end and end > start]


def _ends(results: Results) -> list[dict[str, Any]]:
    """Return what steps 25 and 27 recorded of writes that were taken again."""
    places = ((Step.CUTOVER, "cut_over"), (Step.ROLLBACK, "fence"))
    return [results[step].facts.get(key) or {} for step, key in places if step in results]


def _fence_of_the_cutover(results: Results) -> dict[str, Any]:
    """Return what step 25 recorded of the fence that it set itself (fence.when: cutover); else {}."""
    return (results[Step.CUTOVER].facts.get("fence") or {}) if Step.CUTOVER in results else {}


def signing(results: Results, attempts: Iterable[StepRow] = ()) -> float:
    """Return the seconds of the write downtime from the end of step 24 to the first start of step 25: seals and signatures."""
    if _fence_of_the_cutover(results):
        return 0.0
    review, cutover = results.get(Step.REVIEW), results.get(Step.CUTOVER)
    decided = instant(review.finished) if review is not None else None
    starts = [began for row, began, *_ in given_up(results, attempts) if row.number == Step.CUTOVER]
    went_on = min(
        [*starts, *([last] if cutover is not None and (last := instant(launched(cutover))) else [])], default=None
    )
    return max(0.0, (went_on - decided).total_seconds()) if decided and went_on else 0.0


def _recorded(results: Results) -> tuple[float | None, str]:
    """Return the downtime that step 53 of an older run recorded."""
    last = results.get(Step.CLOSEOUT)
    seconds = last.facts.get("downtime_seconds") if last is not None else None
    if isinstance(seconds, int | float):
        return float(seconds), str(last.facts.get("downtime", "")) if last is not None else ""
    return (
        None,
        f"writes to the source refused since {moment(results[Step.FENCE_WRITES].finished)}; reads are not refused",
    )


# -- counts ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Counts:
    """Counts of the whole run; None where no step has counted it.

    Chunks: `source` (of the snapshot that is migrated), `migrated` (in the target), `quarantined`, `different` (in the target,
    but not as snapshot and schema give it), `rewritten` (with another id than in the source). Field values: `filled` (a missing
    field got its default), `derived` (a missing field got a value from the document), `changed` (a value was replaced).
    """

    source: int | None = None
    migrated: int | None = None
    quarantined: int | None = None
    left_out: int | None = None  # by the schema; None in older runs
    different: int | None = None
    rewritten: int | None = None
    filled: int | None = None
    defaulted: int | None = None  # chunks that got a default
    filled_core: int | None = None  # of `filled`: in the core fields, which alone step 11 counts as missing
    derived_core: int | None = None
    derived: int | None = None
    set: int | None = None  # by the schema itself: source_collection, collection_type
    changed: int | None = None
    by_rule: Mapping[str, int] = field(default_factory=dict)  # values by the schema's rule
    changed_chunks: int | None = None  # distinct chunks with at least one changed value
    collections: tuple[int | None, int | None] = (None, None)  # in the source, in the target


def counts(results: Results) -> Counts:
    """Return the counts of the last step that has them: 23 for the target, before it 22, before that the snapshot."""
    by_step = _by_step(results, Step.SOURCE_HEALTH, Step.SNAPSHOT, Step.MIGRATE, Step.VALIDATE, Step.CUTOVER)
    counted: dict[str, int | None] = {}
    rules: Counter[str] = Counter()
    for step_counts in by_step.values():  # a later step overrides
        counted.update({name: n for name, n in step_counts.items() if n is not None})
    ended = (results[n].facts for n in (Step.MIGRATE, Step.DRY_RUN) if n in results)
    repairs = next((facts["repairs"] for facts in ended if "repairs" in facts), None)
    if repairs is not None:
        sums = Counter({"default": 0, "derived": 0, "set": 0, "changed": 0})
        for row in repairs:
            sums[kind_of(rule := str(row.get("rule")))] += int(row.get("chunks") or 0)
            rules[rule] += int(row.get("chunks") or 0)
        counted |= {"filled": sums.pop("default"), **sums}
        core = results[Step.EXPLORE_SOURCE].facts.get("core_missing") if Step.EXPLORE_SOURCE in results else None
        if core is not None:
            for name, kind in (("filled_core", "default"), ("derived_core", "derived")):
                counted[name] = sum(int(r.get("chunks") or 0) for r in repairs
                                  if r.get("field") in core and kind_of(str(r.get("rule"))) == kind)  # fmt: skip
    moved = results[Step.MIGRATE].facts if Step.MIGRATE in results else {}
    metadata = results[Step.VALIDATE].facts.get("metadata") or {} if Step.VALIDATE in results else {}
    return Counts(
        **counted, defaulted=metadata.get("defaulted_chunks"), rewritten=moved.get("ids_rewritten"),
        changed_chunks=moved.get("chunks_changed"), by_rule=rules, collections=_collections(results),
    )  # fmt: skip


def _collections(results: Results) -> tuple[int | None, int | None]:
    """Return the number of collections in the source, and with chunks in the target: counted by step 23, else as routed."""
    test = results[Step.VALIDATE].facts if Step.VALIDATE in results else {}
    last = results[Step.CUTOVER].facts if Step.CUTOVER in results else {}
    if last.get("arrivals") and last.get("targets"):
        return len(last["arrivals"]), len([n for n in last["targets"].values() if n])
    if test.get("counts") and test.get("targets"):
        return len(test["counts"]), len([row for row in test["targets"] if row.get("target")])
    if not (routed := routes(results)):
        return None, None
    return len({source for source, _ in routed}), len({target for _, target in routed} - {""})


def routes(results: Results) -> dict[tuple[str, str], int]:
    """Return chunks by (source collection, target collection); the target is "" for those in quarantine."""
    recorded = next(
        (rows for n in (Step.MIGRATE, Step.DRY_RUN) if n in results and (rows := results[n].facts.get("routing"))), ()
    )
    sums: Counter[tuple[str, str]] = Counter()
    for row in recorded:
        sums[str(row["collection"]), str(row["target"])] += int(row["chunks"])
    return dict(sorted(sums.items()))


def merged(results: Results) -> dict[str, int]:
    """Return the number of source collections of each target collection that has more than one, by its name."""
    sources = Counter(target for _, target in routes(results) if target)
    return {target: n for target, n in sorted(sources.items()) if n > 1}


def _by_step(results: Results, *steps: str) -> dict[str, dict[str, int | None]]:
    return {number: _counted(results[number]) for number in steps if number in results}


def _counted(result: StepResult) -> dict[str, int | None]:
    """Return what this step counted, under the names of `Counts`."""
    facts = result.facts
    if result.step == Step.SOURCE_HEALTH:
        return {"source": facts.get("total")}
    if result.step == Step.SNAPSHOT:
        return {"source": (facts.get("snapshot") or {}).get("chunks")}
    rows = facts.get("counts" if result.step == Step.VALIDATE else "arrivals")  # of 25 where it brought changes over
    counted = {
        "source": _sum(rows, "source"), "migrated": _sum(rows, "target"), "left_out": _sum(rows, "left_out"),
        "quarantined": sum(q.values()) if isinstance(q := facts.get("quarantine"), dict) else _sum(rows, "quarantined"),
    }  # fmt: skip
    return {**counted, "different": facts.get("differing_chunks")} if result.step == Step.VALIDATE else counted


def _sum(rows: Any, key: str) -> int | None:
    """Return a column's sum; None without rows, or where one has no number there."""
    values = [row.get(key) for row in rows] if isinstance(rows, list) and rows else [None]
    numbers = [n for n in values if isinstance(n, int)]
    return sum(numbers) if len(numbers) == len(values) else None


def disagreements(results: Results, attempts: Iterable[StepRow] = ()) -> list[str]:
    """Return a line, with both figures, for each contradiction between two steps of this run, or two figures of one step.

    A run with such a line cannot be signed on its figures, whatever its verdicts are.
    """
    pairs: list[tuple[str, str, int | None, str, int | None]] = []
    by_step = _by_step(results, Step.SNAPSHOT, Step.MIGRATE, Step.VALIDATE)
    for one, two in pairwise(by_step):
        caught_up = (one, two) == (Step.SNAPSHOT, Step.MIGRATE) and bool(
            (results[Step.MIGRATE].facts.get("catch_up") or {}).get("rounds")
        )
        pairs += [(f"chunks {_WORDS[name]}", f"step {one}", by_step[one][name], f"step {two}", by_step[two][name])
                  for name in by_step[one].keys() & by_step[two].keys() if not caught_up]  # fmt: skip
    if (test := results.get(Step.VALIDATE)) is not None:
        inputs, facts, mine = test.facts.get("matrix_inputs") or {}, test.facts, by_step[Step.VALIDATE]
        pairs += [
            ("chunks in the source", "step 23, by collection", mine["source"], "step 23, matrix", inputs.get("chunks")),
            ("chunks in the target", "step 23, by source collection", mine["migrated"],
             "step 23, by target collection", _sum(facts.get("targets"), "target")),
            ("chunks quarantined", "step 23, by reason", mine["quarantined"],
             "step 23, by collection", _sum(facts.get("counts"), "quarantined")),
        ]  # fmt: skip
        if all(mine[name] is not None for name in ("source", "migrated", "quarantined")) and passed(test):
            placed = sum(mine[name] or 0 for name in ("migrated", "quarantined", "left_out"))
            pairs.append(("chunks", "in the source", mine["source"], "in target, in quarantine or left out", placed))
    if (moved := results.get(Step.MIGRATE)) is not None:
        routed, mine = moved.facts.get("routing") or [], by_step[Step.MIGRATE]
        listed = moved.facts.get("quarantine_file")
        pairs.append(("chunks quarantined", "step 22", mine["quarantined"], "in the evidence", listed))
        if routed and test is not None:
            targets = [row for row in test.facts.get("targets") or [] if row.get("target")]
            pairs.append(("collections in the target", "step 22, routed", len({r["target"] for r in routed} - {""}),
                          "step 23, counted", len(targets) if targets else None))  # fmt: skip
        changed, most = moved.facts.get("chunks_changed"), counts(results).changed
        if isinstance(changed, int) and isinstance(most, int) and (changed > most or bool(changed) is not bool(most)):
            pairs.append(("changed", "chunks, step 22", changed, "values, at least one in each of these chunks", most))
        pairs.append(("values changed", "step 22, by field", most, "in the evidence", moved.facts.get("changes_file")))
        metadata = test.facts.get("metadata") or {} if test is not None else {}
        renamed = (metadata.get("ids_rewritten") or {}).get("chunks")
        arrived = (moved.facts.get("import") or {}).get("to_write") == mine["migrated"]
        if arrived:  # else the target refused some chunks
            whole = counts(results)
            values = (("changed", most), ("derived", whole.derived), ("set", whole.set), ("defaults", whole.filled))
            pairs.append(("ids rewritten", "step 22", whole.rewritten, "step 23", renamed))
            pairs += [(f"values, {name}", "step 22", n, "step 23", metadata.get(name)) for name, n in values]
        if any(row.get("target") == "" for row in routed) or not mine["quarantined"]:  # older runs routed no quarantine
            pairs.append(
                ("chunks", "routed, to quarantine included", _sum(routed, "chunks"), "in the source", mine["source"])
            )
        asked = test.facts.get("recall") or {} if test is not None else {}
        for scope, pooled in (asked.get("pooled") or {}).items():
            rows = [row for row in asked.get("rows") or [] if row.get("scope") == scope]
            pairs.append((f"queries, {scope}", "step 23, pooled", (pooled or {}).get("queries"),
                          "step 23, by collection", _sum(rows, "queries")))  # fmt: skip
    lines = [f"{subject}: {a:,} ({where}) and {b:,} ({where_2})" for subject, where, a, where_2, b in pairs
             if isinstance(a, int) and isinstance(b, int) and a != b]  # fmt: skip
    return [*lines, *_wrong_times(results), *_wrong_attempts(results, attempts), *_wrong_downtime(results)]


_WORDS = {"source": "in the source", "migrated": "in the target", "quarantined": "quarantined", "left_out": "left out"}


def _wrong_times(results: Results) -> Iterator[str]:
    """Yield a line for each step that ended before it began, or whose phases do not fit into it."""
    for number, result in results.items():
        begun, ended = instant(result.started), instant(result.finished)
        if begun is None or ended is None:
            continue
        if ended < begun:
            yield f"step {number}: it ended ({result.finished[:19]}) before it began ({result.started[:19]})"
        for phase in result.phases:
            at = instant(phase.started)
            if at and not begun - _SLACK <= at <= at + timedelta(seconds=phase.seconds) <= ended + _SLACK:
                yield f"step {number}: its phase {phase.name} does not lie between its start and its end"


def _wrong_attempts(results: Results, attempts: Iterable[StepRow]) -> Iterator[str]:
    """Yield a line for each earlier attempt that ended after the one that counts began."""
    for row in attempts:
        last = results.get(row.number)
        ended, began = instant(row.result.finished) if row.result else None, instant(last.started) if last else None
        if row.result and last and ended and began and ended > began + _SLACK:
            yield f"step {row.name}: it ended ({row.result.finished[:19]}) after the last one began ({last.started[:19]})"


def _wrong_downtime(results: Results) -> Iterator[str]:
    """Yield a line where step 53 recorded another write downtime."""
    closed, seconds = results.get(Step.CLOSEOUT), downtime(results)[0]
    recorded = closed.facts.get("downtime_seconds") if closed is not None else None
    if isinstance(recorded, int | float) and seconds is not None and abs(recorded - seconds) > 0.1:
        yield f"write downtime: {seconds:.1f} s (steps 20 and 25) and {recorded:.1f} s (step 53)"


_SLACK = timedelta(seconds=2)  # clocks: phases are timed by a monotonic one


# -- the steps on a clock --------------------------------------------------------------------------------------------


def window_sentence(view: RunView) -> str:
    """Return a sentence on whether the work stayed inside the maintenance window."""
    if (window := window_of(view)) is None:
        return "The parameters name no maintenance window."
    steps = [s for s in timed(view.executions) if in_window(s)]
    if not steps:
        return f"{_named(window).replace(' was ', ' is ')}; no step of the window has run yet."
    last = max(steps, key=lambda s: s.end)
    spare = f"step {last.step.number} with {between(last.end, window[1])} to spare"
    return outside_window(view) or f"{_named(window)}; steps {_FIRST} to {_LAST} ended inside it, {spare}."


def _named(window: tuple[datetime, datetime, timedelta]) -> str:
    return f"The window was {window[0]:%Y-%m-%d %H:%M} to {window[1]:%Y-%m-%d %H:%M} UTC"


def outside_window(view: RunView) -> str:
    """Return which step began before the window or ended after it; "" where none did, or there is no window."""
    window = window_of(view)
    steps = [s for s in timed(view.executions) if in_window(s)] if window else []
    if window is None or not steps:
        return ""
    first, last = min(steps, key=lambda s: s.start), max(steps, key=lambda s: s.end)
    if first.start < window[0]:
        return f"{_named(window)}; step {first.step.number} began {between(first.start, window[0])} before it."
    if last.end > window[1]:
        most = longest(s.step.result for s in steps if s.step.result)
        return f"{_named(window)}; step {last.step.number} ended {between(window[1], last.end)} after it; {most}."
    return ""


def in_window(step: Timed) -> bool:
    return _FIRST <= step.step.number <= _LAST


def window_of(view: RunView) -> tuple[datetime, datetime, timedelta] | None:
    """Return start, end and buffer of the maintenance window; None where there is none."""
    section = view.parameters.get("window")
    start = instant(section.get("start")) if isinstance(section, dict) else None
    if start is None:
        return None
    try:
        minutes, spare = (float(section.get(k, d)) for k, d in (("minutes", 120), ("buffer_minutes", 30)))  # type: ignore[union-attr]
        return start, start + timedelta(minutes=minutes), timedelta(minutes=spare)
    except (TypeError, ValueError, OverflowError):
        return None

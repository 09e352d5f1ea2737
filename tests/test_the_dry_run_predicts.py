"""The dry run predicts duration, write downtime and memory, each with its basis; step 53 shows how far it was out."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from helpers.report import StepRow, numbers
from helpers.report.clients import downtime_parts
from helpers.report.numbers import CLEAN, FILES_BACK, RESTART, SERVICE_BACK, more_downtimes
from helpers.results import Phase, StepResult, Verdict
from helpers.rollback import SOURCE, TITLES
from helpers.run.plan import Step
from helpers.run.record import PEAK_MEMORY
from helpers.run.window import DOWNTIME, DURATION, HOLDS, MEMORY
from helpers.steps import closeout
from helpers.steps.dry_run import predictions, rows

BEGAN = dt.datetime(2026, 11, 28, 2, tzinfo=dt.UTC)
PARTS = [
    {"part": "21 snapshot", "seconds": 30.0},
    {"part": "22 import", "seconds": 50.0},
    {"part": "23 validation suite", "seconds": 20.0},
    {"part": "20–25 notebook starts", "seconds": 12.0},
]


def at(seconds: float) -> str:
    return (BEGAN + dt.timedelta(seconds=seconds)).isoformat()


def step(number: str, launched: float, began: float, ended: float, **facts: Any) -> StepResult:
    return StepResult(number, "", "one", at(began), at(ended), facts={"launched": at(launched), **facts})


@pytest.fixture
def results() -> dict[str, StepResult]:
    """Writes stopped from second 3 to second 200; the decision waited from 130 to 180 for its signatures."""
    said = [
        {"what": DURATION, "value": 112.0, "unit": "s", "basis": "measured on 9,832 chunks"},
        {"what": DOWNTIME, "value": 112.0, "unit": "s", "basis": "the same work"},
        {"what": MEMORY, "value": 300e6, "unit": "bytes", "basis": "this process"},
    ]
    found = [
        step(Step.DRY_RUN, -900, -899, -800, prediction=said, estimate=PARTS),
        step(Step.FENCE_WRITES, 0, 2, 4, fence={"kind": "nginx", "up": at(3)}),
        step(Step.SNAPSHOT, 4, 6, 46, **{PEAK_MEMORY: 250_000_000}),
        step(Step.MIGRATE, 46, 48, 98, **{PEAK_MEMORY: 400_000_000}),
        step(Step.VALIDATE, 98, 100, 120, **{PEAK_MEMORY: 200_000_000}),
        step(Step.REVIEW, 120, 122, 130),
        step(Step.CUTOVER, 180, 182, 205, cut_over={"writes_again": at(200)}),
    ]
    found[-1].phases.append(Phase(RESTART, at(190), 5.0))
    return {result.step: result for result in found}


def test_each_prediction_is_held_against_the_same_thing_measured(results: dict[str, StepResult]) -> None:
    duration, downtime, memory = predictions(results)
    # work of 21 to 23: 40 + 50 + 20; six notebooks took 2 s each to start
    assert duration.measured == 122.0
    assert duration.error == pytest.approx(-10 / 122)
    # of 197 s without writes: the work of 21 to 23, and five notebooks that started behind the fence
    assert downtime.measured == 120.0
    assert downtime.error == pytest.approx((112 - 120) / 120)
    assert duration.contains == "steps 21, 22, 23 and the starts of notebooks 20 to 25"
    assert downtime.contains.startswith(
        "its parts of 3 min 17 s write downtime; left out: 1.0 s Work of step 20; 8.0 s Work"
    )
    assert downtime.contains.endswith("50 s Between steps 24 and 25: signatures and seals")
    assert memory.contains == "the highest of steps 21, 22, 23"
    assert memory.measured == 400e6
    assert memory.error == pytest.approx(-0.25)
    assert duration.basis == "measured on 9,832 chunks"


def test_an_attempt_that_was_killed_and_resumed_is_part_of_what_is_measured(results: dict[str, StepResult]) -> None:
    """Its 20 s of step 22 before the last attempt, of a work that the dry run predicted as one."""
    results[Step.MIGRATE].facts["resumed"] = 1
    results[Step.SNAPSHOT] = step(Step.SNAPSHOT, 4, 6, 20, **{PEAK_MEMORY: 250_000_000})
    killed = StepRow(Step.MIGRATE, "Migrate", "failed", result=step(Step.MIGRATE, 22, 22, 42), attempt="attempt 1 of 2")
    alone, _, _ = predictions(results)
    duration, downtime, memory = predictions(results, [killed])
    assert duration.measured == (alone.measured or 0) + 20
    assert duration.contains.endswith("with the attempt that was killed and resumed")
    parts = {part.name: part.seconds for part in downtime_parts(results, [killed])}
    assert parts["Work of step 22 in the attempt that was killed, from which the resume went on"] == 20
    assert parts["Work of step 22"] == 50
    assert "Failed attempts" not in parts
    assert downtime.measured == (predictions(results)[1].measured or 0) + 20
    assert memory.contains.endswith("not compared, for that of the killed attempt is not known")
    assert memory.error is None
    row = next(row for row in rows(results, [killed]) if row["number"] == Step.MIGRATE and row["estimate"])
    assert (row["actual"], row["carried"]) == (52, 20)
    said = closeout._took(row)
    assert said == f"52 s; 1 min 12 s, {72 / row['estimate']:.2g} times, with the attempt that was killed and resumed"
    results[Step.MIGRATE].facts["resumed"] = 0  # begun anew: what failed before is no part of this work
    assert predictions(results, [killed])[0].measured == alone.measured
    assert "Failed attempts" in {part.name for part in downtime_parts(results, [killed])}


def test_what_a_killed_attempt_cost_is_no_time_between_the_steps(results: dict[str, StepResult]) -> None:
    """It ended at 42; the seal, the notice and the command took until 46, when the next one was launched."""
    results[Step.MIGRATE].facts["resumed"] = 1
    results[Step.SNAPSHOT] = step(Step.SNAPSHOT, 4, 6, 20, **{PEAK_MEMORY: 250_000_000})
    killed = StepRow(Step.MIGRATE, "Migrate", "failed", result=step(Step.MIGRATE, 22, 22, 42), attempt="attempt 1 of 2")
    parts = {part.name: part.seconds for part in downtime_parts(results, [killed])}
    assert parts["From an attempt's end until the next began"] == 4
    assert sum(parts.values()) == 197
    assert "24 s in earlier attempts, until the next began; reads" in numbers.downtime(results, [killed])[1]


def test_an_attempt_that_was_taken_up_after_the_outage_cost_no_more_than_it(results: dict[str, StepResult]) -> None:
    results[Step.REVIEW] = step(Step.REVIEW, 900, 902, 910)  # decided once more, long after clients wrote again
    before = StepRow(Step.REVIEW, "Review", "pass", result=step(Step.REVIEW, 150, 150, 160), attempt="attempt 1 of 2")
    seconds, told = numbers.downtime(results, [before])
    assert seconds == 197
    assert "50 s in earlier attempts" in told


def test_a_second_time_without_writes_is_told_beside_the_first(results: dict[str, StepResult]) -> None:
    results[Step.CUTOVER].facts["cut_over"] = {"writes_again": at(199), "write_taken": at(200)}
    files = Phase(FILES_BACK, at(310), 2.0)
    results[Step.ROLLBACK] = StepResult(
        Step.ROLLBACK,
        "",
        "one",
        at(300),
        at(340),
        Verdict.PASS,
        phases=[files],
        facts={"fence": {"write_taken": at(330)}},
    )
    drill = {"put_back": "drills/put-back.json", "behind": {"began": at(350), "write_taken": at(354)}}
    seconds, told = numbers.downtime(results, [], drill)
    assert seconds == 197
    assert told.endswith("; again for 20 s in the drill of the rollback and 4.0 s while it was put back")
    assert numbers.downtime(results)[1].endswith("; again for 20 s in the rollback")
    assert more_downtimes(results, drill) == [("in the drill of the rollback", 20.0), ("while it was put back", 4.0)]
    del results[Step.CUTOVER].facts["cut_over"]  # writes never went to the target: there was one time without them
    assert more_downtimes(results, {}) == []


def test_a_fence_of_step_25_is_up_after_people_have_signed(results: dict[str, StepResult]) -> None:
    results[Step.FENCE_WRITES].facts["fence"] = {"kind": "nginx", "late": True}
    results[Step.CUTOVER].facts["fence"] = {"kind": "nginx", "up": at(185), "late": False}
    _, downtime, _ = predictions(results)
    assert downtime.measured == 10.0  # 15 s without writes, 5 s of them the restart
    assert downtime.contains == "write downtime, 15 s, less 5.0 s of restart"


def test_the_time_that_was_announced_has_allowances_and_no_error(results: dict[str, StepResult]) -> None:
    results[Step.SCHEDULE_AND_NOTIFY] = step(Step.SCHEDULE_AND_NOTIFY, -50, -49, -40, night={"seconds": 300.0})
    announced = predictions(results)[-1]
    assert (announced.predicted, announced.measured, announced.error) == (300.0, 155.0, None)
    assert "not compared" in announced.contains


def test_what_was_not_measured_is_not_compared(results: dict[str, StepResult]) -> None:
    del results[Step.VALIDATE], results[Step.CUTOVER]
    results[Step.MIGRATE].facts.pop(PEAK_MEMORY)
    results[Step.SNAPSHOT].facts.pop(PEAK_MEMORY)
    found = predictions(results)
    assert [(p.measured, p.error) for p in found] == [(None, None)] * 3


def test_a_run_of_before_has_no_prediction(results: dict[str, StepResult]) -> None:
    del results[Step.DRY_RUN].facts["prediction"]
    assert predictions(results) == []


def test_the_rollback_that_was_announced_is_held_against_the_same_work(results: dict[str, StepResult]) -> None:
    night = {"seconds": 300.0, "way_back_seconds": 80.0}
    results[Step.SCHEDULE_AND_NOTIFY] = step(Step.SCHEDULE_AND_NOTIFY, -50, -49, -40, night=night)
    before = predictions(results)[-1]
    assert (before.predicted, before.measured, before.error) == (80.0, None, None)
    assert before.contains == "NOT EXERCISED: no rollback was tried"
    back = step(Step.ROLLBACK, 300, 301, 400)
    back.phases = [Phase(TITLES[SOURCE], at(302), 30.0), Phase(SERVICE_BACK, at(340), 1.0), Phase(CLEAN, at(350), 10.0)]
    results[Step.ROLLBACK] = back
    after = predictions(results)[-1]
    assert (after.predicted, after.measured, after.error) == (80.0, 40.0, 1.0)
    assert after.contains.startswith("30 s of reading and 10 s of removing")
    assert after.contains.endswith("from the order until the target was clean: 1 min 00 s")
    assert HOLDS in after.basis
    assert HOLDS in next(row.counts for row in numbers.rollback_rows(results, {}) if row.name == "Estimate announced")

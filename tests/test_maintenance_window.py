"""Steps that change something start inside the window, or for a reason that everybody sees."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

from helpers import audit
from helpers.errors import EnvironmentFailure, UsageError
from helpers.parameters import parameters_from
from helpers.results import Verdict
from helpers.run import folders as runs
from helpers.run import plan, window
from helpers.run.folders import RunState
from helpers.runner.notebook import Run
from helpers.runner.pipeline import run_line
from helpers.status import Console
from helpers.steps.review import ReviewStep

START = dt.datetime(2025, 12, 1, 2, tzinfo=dt.UTC)
NIGHT = {"start": "2025-12-01T03:00:00+01:00", "minutes": 120, "buffer_minutes": 30}
FENCE = plan.find("20")


pytestmark = pytest.mark.usefixtures("own_folders")


def a_run(night: object = NIGHT, *, dry_run: bool = False) -> RunState:
    sections = {"name": "n", "source": {"path": "s"}, "target": {"path": "t"}, "window": night}
    return runs.create(parameters_from(sections), "night", dry_run=dry_run)


def around(hours: float) -> dict[str, object]:
    """A window of two hours that began so many hours ago."""
    start = dt.datetime.now(dt.UTC) - dt.timedelta(hours=hours)
    return {"start": start.isoformat(timespec="seconds"), "minutes": 120, "buffer_minutes": 30}


@pytest.mark.parametrize(
    ("minutes", "said"),
    [(-31, "opens at 2025-12-01 01:30"), (-30, ""), (0, ""), (119, ""), (150, ""), (151, "closed at 2025-12-01 04:30")],
)
def test_the_window_with_its_buffers_decides_when_a_step_may_start(minutes: int, said: str) -> None:
    folder, now = a_run(), START + dt.timedelta(minutes=minutes)
    error = window.refusal(folder.read(), FENCE, now)
    assert (error is None) == (not said)
    if error is not None:
        assert said in error.line()
        assert "runbook resume night" in error.line()
        assert (error.exit_code, len(error.line().splitlines())) == (1, 1)


def test_only_steps_that_change_something_wait_for_it() -> None:
    folder, late = a_run(), START + dt.timedelta(days=1)
    refused = [step.number for step in plan.Step if window.refusal(folder.read(), step, late) is not None]
    assert {"20", "22"} <= set(refused) <= {"20", "22", "25"}


def test_without_a_window_any_time_will_do() -> None:
    assert window.refusal(a_run({}), FENCE, START) is None


def test_a_reason_lets_it_start_and_holds_for_one_command() -> None:
    folder, late = a_run(), START + dt.timedelta(days=1)
    window.permit(folder.read(), "the disk is dying")
    assert window.refusal(folder.read(), FENCE, late) is None
    assert "the disk is dying" in folder.log_path.read_text(encoding="utf-8")
    reasons = [entry["facts"].get("reason") for entry in audit.entries(folder.reports / audit.NAME)]
    assert "the disk is dying" in reasons
    window.permit(folder.read(), "")
    assert window.refusal(folder.read(), FENCE, late) is not None
    for bad in (" ", "two\nlines", "x" * 501):
        with pytest.raises(UsageError, match="one line of text"):
            window.permit(folder.read(), bad)


def test_the_line_stops_before_the_step_and_touches_nothing(tmp_path: Path) -> None:
    folder = a_run(around(-5))
    with pytest.raises(EnvironmentFailure, match="opens at"):
        run_line(folder, [FENCE, plan.find("21")], Console())
    assert not list((folder.reports / "results").iterdir())
    assert not (tmp_path / "t").exists()


def test_a_notebook_run_by_hand_is_held_to_it_too() -> None:
    with pytest.raises(EnvironmentFailure, match="closed at"):
        Run(a_run(around(10)), "22").open()


def test_a_dry_run_touches_nothing_so_any_time_will_do() -> None:
    run = Run(a_run(around(10), dry_run=True), "20")
    run.open()
    run.close()
    assert not run.result.checks


def test_those_who_sign_are_shown_the_reason() -> None:
    folder = a_run(around(10))
    window.permit(folder.read(), "the disk is dying")
    run = Run(folder.read(), "20")
    run.open()
    run.close()
    [check] = run.result.checks
    assert (check.verdict, check.reason) == (Verdict.WARNING, "outside_window")
    run.result.write(folder.reports / "results" / "20.json")
    validated = Run(folder.read(), "23")
    validated.fact("matrix_inputs", {"chunks": 1, "checked": 1, "valid": 1, "complete": 1, "nan": 0, "queries_ok": None,
                                     "queries": 0, "collections_matching": 1, "collections": 1})  # fmt: skip
    validated.result.write(folder.reports / "results" / "23.json")
    shown = ReviewStep(Run(folder.read(), "24")).warnings()
    assert any("the disk is dying" in str(detail) and "closed at" in str(detail) for detail in shown["detail"])

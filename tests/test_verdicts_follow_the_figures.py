"""A check's verdict follows from what was expected and measured, and what was not run is no pass."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.parameters import parameters_from
from helpers.results import Check, StepResult, Verdict, passed, worst
from helpers.run import folders as runs
from helpers.run.record import RunRecord


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunRecord:
    monkeypatch.setenv("RUNBOOK_WORKSPACE", str(tmp_path / "workspace"))
    monkeypatch.setenv("RUNBOOK_REPORTS", str(tmp_path / "reports"))
    (tmp_path / "source").mkdir()
    given = {"source": {"path": str(tmp_path / "source")}, "target": {"path": str(tmp_path / "target")}}
    return RunRecord(runs.create(parameters_from(given), "one"), "50")


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([], Verdict.NOT_EXERCISED),
        ([Verdict.NOT_APPLICABLE], Verdict.NOT_APPLICABLE),
        ([Verdict.NOT_APPLICABLE, Verdict.NOT_EXERCISED], Verdict.NOT_EXERCISED),
        ([Verdict.NOT_EXERCISED, Verdict.PASS], Verdict.PASS),
        ([Verdict.NOT_EXERCISED, Verdict.PASS, Verdict.WARNING], Verdict.WARNING),
    ],
)
def test_a_step_in_which_nothing_happened_never_passes(run: RunRecord, found: list[Verdict], expected: Verdict) -> None:
    for number, verdict in enumerate(found):
        run.check(f"check {number}", verdict, detail="no client is named")
    run.finish()
    result = run.home.read().result("50")
    assert result is not None
    assert (result.verdict, worst(found)) == (expected, expected)
    assert passed(result), "the run goes on"


@pytest.mark.parametrize(
    ("measured", "relation", "threshold", "verdict"),
    [
        (3, "≤", 3, Verdict.PASS),
        (3.1, "≤", 3, Verdict.FAIL),
        (3, "<", 3, Verdict.FAIL),
        (0.996, "≥", 0.95, Verdict.PASS),
        (0.949, "≥", 0.95, Verdict.FAIL),
        (None, "≤", 3, Verdict.FAIL),
        ("none", "=", "active", Verdict.FAIL),
        ("none", "≤", 3, Verdict.FAIL),
    ],
)
def test_the_figures_decide(
    run: RunRecord, measured: object, relation: str, threshold: object, verdict: Verdict
) -> None:
    check = run.judge("latency", measured=measured, threshold=threshold, relation=relation, reason="slow_queries")
    assert (check.verdict, check.contradiction) == (verdict, "")
    assert check.reason == ("" if verdict is Verdict.PASS else "slow_queries")
    said = Check(
        "latency", Verdict.FAIL if verdict is Verdict.PASS else Verdict.PASS, measured, threshold, relation=relation
    )
    assert said.contradiction, "a verdict against its own figures is found"


def test_measured_and_expected_are_shown_alike_with_direction_and_unit() -> None:
    check = Check("share", Verdict.FAIL, 0.999996, 1.0, "of all", relation="≥")
    assert (check.measured_text, check.expected) == ("0.999996 of all", "≥ 1 of all")


def test_a_check_of_an_older_version_shows_its_threshold_without_a_direction(tmp_path: Path) -> None:
    result = StepResult(
        "50", "Monitor", "one", "2026-11-01T00:00:00+00:00", checks=[Check("p95", Verdict.PASS, 40, 100)]
    )
    result.write(path := tmp_path / "50.json")
    path.write_text(path.read_text().replace('"relation": "=",', "").replace(',\n      "relation": "="', ""))
    [check] = StepResult.read(path).checks
    assert (check.relation, check.expected, check.contradiction) == ("", "100", "")

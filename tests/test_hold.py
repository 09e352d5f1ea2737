"""Step 26: what failed and where, what to do next, and who is called when."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import pytest

from helpers.cutover.application import DONE, CutoverState
from helpers.notify import level
from helpers.parameters import parameters_from
from helpers.reason_codes import ReasonCode
from helpers.results import Check, StepResult, Verdict
from helpers.run import folders as runs
from helpers.run import plan
from helpers.run.folders import NOTEBOOKS, RunFolder
from helpers.run.record import RunRecord
from helpers.steps.hold_and_troubleshoot import REMEDIES, HoldAndTroubleshootStep, remedy

FAILED_AT = dt.datetime(2026, 1, 1, 2, 0, tzinfo=dt.UTC)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    monkeypatch.setenv("RUNBOOK_REPORTS", str(tmp_path / "reports"))
    monkeypatch.setenv("RUNBOOK_WORKSPACE", str(tmp_path / "workspace"))
    sections: dict[str, Any] = {
        "name": "night", "source": {"path": "source"}, "target": {"path": "target"},
        "contacts": {"dba": "D. Admin", "on_call": "O. Call", "operations_lead": "O. Lead", "channel": "#room"},
    }  # fmt: skip
    return runs.create(parameters_from(sections), "night")


def put(folder: RunFolder, step: str, *checks: Check, error: str = "no_go", **facts: Any) -> None:
    result = StepResult(
        step, "", "night", FAILED_AT.isoformat(), FAILED_AT.isoformat(), Verdict.FAIL, list(checks), facts=facts
    )
    result.error = {"code": error, "type": "NoGo", "line": f"it ended with {error}"}
    result.write(folder.reports / "results" / f"{step}.json")


def hold(folder: RunFolder, minutes: float = 0.0) -> HoldAndTroubleshootStep:
    return HoldAndTroubleshootStep(RunRecord(folder.read(), "26"), FAILED_AT + dt.timedelta(minutes=minutes))


OFFENDERS = [
    {"collection": "target", "source_collection": "alpha", "id": "a1", "difference": "metadata_differs"},
    {"collection": "target", "source_collection": "beta", "id": "b1", "difference": "field_extra"},
    {"collection": "target", "source_collection": "alpha", "id": "a2", "difference": "metadata_differs"},
]


def test_what_failed_is_shown_by_collection_and_reason_with_both_sides(folder: RunFolder) -> None:
    counts = [{"collection": "alpha", "source": 60, "target": 57, "quarantined": 1}]
    check = Check("metadata", Verdict.FAIL, 3, 0, reason=ReasonCode.METADATA_DIFFERS, offenders=3, ids=OFFENDERS)
    put(folder, "23", check, Check("counts", Verdict.PASS), counts=counts)
    put(folder, "22", error="too_many_refused")
    found = hold(folder)
    failed = found.failed()
    assert failed[["step", "reason", "chunks"]].to_numpy().tolist() == [
        ["23", "metadata_differs", 3], ["22", "too_many_refused", 0],
    ]  # fmt: skip
    where = found.by_collection().to_numpy().tolist()
    assert where == [["23", "alpha", "metadata_differs", 2, "a1"], ["23", "beta", "field_extra", 1, "b1"]]
    assert found.sides().to_numpy().tolist() == [["alpha", 60, 57, 1, 2, "23"]]
    assert found.options()["how"][0].startswith(".venv/bin/runbook resume night --retry 23")
    assert found.run.result.checks[0].verdict is Verdict.WARNING


def test_a_run_whose_clients_use_the_target_is_not_told_to_begin_anew(folder: RunFolder) -> None:
    put(folder, "23", Check("metadata", Verdict.FAIL, 3, 0, reason=ReasonCode.METADATA_DIFFERS))
    CutoverState(target="new").enter(folder.workspace, DONE)
    found = hold(folder)
    mend, back, _ = found.options()["how"]
    assert mend.startswith(".venv/bin/runbook run --run-id night --from 23 --until 24")
    assert back.startswith(".venv/bin/runbook rollback night")
    assert ("application of a held run", "cut_over_and_held") in [(c.name, c.reason) for c in found.run.result.checks]


def test_a_run_in_which_nothing_failed_is_held_for_no_reason(folder: RunFolder) -> None:
    found = hold(folder, minutes=600)
    assert len(found.failed()) == len(found.by_collection()) == len(found.sides()) == len(found.triggers()) == 0
    assert found.run.result.checks[0].verdict is Verdict.PASS
    assert found.minutes == 0.0


@pytest.mark.parametrize(
    ("minutes", "critical", "expected"),
    [(0, False, 1), (29.9, False, 1), (30, False, 2), (59.9, False, 2), (60, False, 3), (600, False, 3), (0, True, 4)],
)
def test_the_levels_of_appendix_c(minutes: float, critical: bool, expected: int) -> None:
    assert level(minutes, critical=critical)[0] == expected


@pytest.mark.parametrize(("minutes", "who"), [(5, "#room"), (31, "D. Admin"), (61, "O. Lead")])
def test_the_one_to_call_follows_from_the_clock_and_is_recorded(folder: RunFolder, minutes: float, who: str) -> None:
    put(folder, "23", Check("queries", Verdict.FAIL, reason=ReasonCode.QUERY_WITHOUT_ANSWER))
    found = hold(folder, minutes)
    table = found.escalate()
    assert table[table[""] == "now"]["call"].tolist() == [who]
    last = json.loads((folder.reports / "audit.jsonl").read_text().splitlines()[-1])
    assert (last["action"], last["facts"]["minutes"]) == ("escalation level", minutes)


def test_a_rollback_trigger_pages_the_engineer_on_call(folder: RunFolder) -> None:
    put(folder, "22", error="time_limit")
    found = hold(folder, 1)
    assert found.triggers()["trigger"].tolist() == ["time_limit"]
    table = found.escalate()
    assert table[table[""] == "now"]["call"].tolist() == ["O. Call"]


def test_remedies_name_what_exists() -> None:
    """A notebook is named where there is one, else the runbook's own heading."""
    for reason in [*REMEDIES, "something else"]:
        said = remedy(reason)
        assert (
            (NOTEBOOKS.parent / said).is_file()
            if said.startswith("notebooks/")
            else "Section" in said or "runbook" in said
        )


def test_hold_and_rollback_stand_off_the_line() -> None:
    assert [(plan.find(n).on_line, plan.find(n).section) for n in ("26", "27")] == [(False, "2 The migration")] * 2

"""Notebook 00: the plan beside what was measured, the links, the levels of escalation."""

from __future__ import annotations

import datetime as dt
from typing import Any

import matplotlib as mpl
import pytest

from helpers import plots, status
from helpers.parameters import parameters_from
from helpers.report.notebook import clean
from helpers.results import Phase, StepResult, Verdict
from helpers.run import folders as runs
from helpers.run import kernel, plan
from helpers.run.folders import RunFolder
from helpers.steps import index
from helpers.steps.dry_run import RUNBOOK_MINUTES
from helpers.steps.index import IndexStep

pytestmark = pytest.mark.usefixtures("own_folders")

START = dt.datetime(2025, 12, 1, 2, tzinfo=dt.UTC)
SECTIONS: dict[str, Any] = {"name": "night", "source": {"path": "from"}, "target": {"path": "to"}}
WINDOW = {
    "window": {"start": "2025-12-01T02:00:00Z"},
    "contacts": {"dba": "D. Base, +49 1", "war_room": "https://meet.test/x"},
}


def run(**sections: Any) -> RunFolder:
    return runs.create(parameters_from({**SECTIONS, **sections}), "night")


def left(folder: RunFolder, step: str, begin: float, seconds: float, **more: Any) -> None:
    """A result of this step that began so many seconds after 02:00."""
    at = START + dt.timedelta(seconds=begin)
    result = StepResult(step, plan.find(step).title, folder.id, at.isoformat(),
                        (at + dt.timedelta(seconds=seconds)).isoformat(), **more)  # fmt: skip
    result.write(folder.reports / "results" / f"{step}.json")


def drawn(found: index.Timeline, now: float = 0.0) -> str:
    figure = index.figure(found, START + dt.timedelta(seconds=now))
    assert plots.png(figure)
    return "\n".join(text.get_text() for text in figure.findobj(mpl.text.Text))


def test_without_a_run_it_is_the_runbooks_plan() -> None:
    found = index.plan_and_measured(None, parameters_from({**SECTIONS, **WINDOW}))
    assert {step.number for step in plan.LINE} <= {row.step for row in found.rows}
    night = {row.step: (row.planned[0] / 60, row.planned[1] / 60) for row in found.rows if row.part == index.NIGHT}
    assert night == {"20": (0, 5), "21": (5, 10), "22": (10, 65), "23": (65, 75), "24": (75, 80), "25": (80, 90),
                     "27": (90, 100)}  # fmt: skip
    assert found.of("10").planned[0] == -86400
    for step, (low, high) in RUNBOOK_MINUTES.items():  # what the closeout compares with
        begin, end = found.of(step).planned
        assert low <= (end - begin) / 60 <= high, step
    assert found.start == START
    assert "cut over 1 h 30 min after the fence goes up; no step of the window has run" in index.sentence(found)
    assert "planned 55 min" in drawn(found)
    assert ("22", "Migrate", "2025-12-01 02:10:00", "55 min", "runbook, Step 3", "", "") in index.table(found)
    nowhere = index.plan_and_measured(None, None)
    assert (nowhere.start, index.table(nowhere)[0][2]) == (None, "T−24 h 00 min")
    assert "window.start" in drawn(nowhere)


def test_what_was_measured_stands_beside_the_estimate_of_the_dry_run() -> None:
    folder = run(**WINDOW)
    parts = [{"part": "21 snapshot", "seconds": 30.0}, {"part": "22 transform", "seconds": 100.0},
             {"part": "22 import", "seconds": 20.0}]  # fmt: skip
    left(folder, "13", -90_000, 600, facts={"estimate": parts})
    left(folder, "20", 60, 12)
    kept = {"id": "x", "folder": "x", "retain_until": "2025-12-08T02:00:00+00:00"}
    left(folder, "21", 100, 45, facts={"snapshot": kept})
    found = index.plan_and_measured(folder.read(), folder.read().parameters)
    assert found.of("22").planned == (330.0, 450.0)
    assert found.of("22").basis == "estimate of step 13"
    assert found.of("23").planned[0] == 450.0
    assert (found.of("21").real, found.of("21").took) == ((100.0, 145.0), "45 s")
    assert found.of("13").real == (-90_000.0, -89_400.0)
    assert found.rows[-1].real == (145.0, 7 * 86400.0)
    assert index.sentence(found) == "Steps 20, 21 took 57 s of work"
    text = drawn(found, now=200)
    assert "planned 30 s, took 45 s" in text
    assert "now" in text
    assert "the estimate of step 13 for 21, 22, else" in " ".join(text.split())
    left(folder, "25", 400, 60)
    found = index.plan_and_measured(folder.read(), folder.read().parameters)
    assert index.sentence(found).startswith("Cut over 7 min 40 s after T; planned")


def test_a_dry_run_of_the_rollback_is_no_measure_of_it_and_a_drill_is() -> None:
    folder = run(**WINDOW)
    ends = (
        ("Put configuration files back, restart, health", 1003, 2.0),
        ("Lift the write fence", 1005.5, 0.5),
        ("Remove from the target what the run made", 1006, 1.5),
    )
    stages = [Phase(name, (START + dt.timedelta(seconds=at)).isoformat(), seconds) for name, at, seconds in ends]
    left(folder, "27", 1000, 1, facts={"dry_run": True}, phases=stages)
    assert status.rollback_seconds(folder.read()) == (0.0, "")
    assert index.plan_and_measured(folder.read(), folder.read().parameters).of("27").real is None
    assert "not known" in index.times(folder.read())[0][2]
    left(folder, "27", 1000, 10, facts={"dry_run": False}, phases=stages)
    folder.note(drills=["rollback: …"])
    assert status.rollback_seconds(folder.read()) == (
        7.5,
        "measured: service back after 6.0 s (restarted and fence lifted; no write was observed), target clean after 7.5 s",
    )
    assert index.times(folder.read()) == [
        (
            "Service back",
            "about 10 min",
            "6.0 s (measured in this run's drill: restarted and fence lifted; no write was observed)",
        ),
        ("Target clean", "about 15 min", "7.5 s (measured in this run's drill)"),
    ]


def test_links_lead_to_every_notebook_and_on_a_page_to_those_that_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr(index, "show", shown.append)
    folder = run()
    (folder.reports / "10_source_health.ipynb").write_text("{}", encoding="utf-8")
    IndexStep("night").map()
    notebooks = [step.notebook for step in plan.Step if step.number != "00"]
    assert [name for name in notebooks if f'href="{name}"' not in shown[0]] == []
    page = clean(shown[0], outside=False)
    assert [name for name in notebooks if name.replace("ipynb", "html") in page] == ["10_source_health.ipynb"]
    assert "Count mismatch" in page, "the name stays where the link goes"


def test_the_level_of_now_is_marked_and_its_contact_named() -> None:
    folder = run(**WINDOW)
    assert set(IndexStep("night").escalation()[""]) == {""}
    begun = dt.datetime.now(dt.UTC) - dt.timedelta(minutes=40)
    left(folder, "20", (begun - START).total_seconds() - 60, 5)
    failed = {"code": "unreachable", "type": "EnvironmentFailure", "line": "no answer"}
    left(folder, "10", (begun - START).total_seconds() - 1, 1, verdict=Verdict.FAIL, error=failed)
    table = IndexStep("night").escalation()
    marked = table[table[""] == "now"]
    assert list(marked.index) == ["2"]
    assert list(marked["call"]) == ["D. Base, +49 1"]
    assert "(contacts.on_call is not named)" in set(table["call"])
    assert IndexStep("night").war_room() == "war room: https://meet.test/x"


def test_it_looks_at_the_run_of_its_parameters() -> None:
    run()
    other = parameters_from({**SECTIONS, "target": {"path": "elsewhere"}})
    assert IndexStep(parameters=other).folder is None
    same = IndexStep(parameters=parameters_from(SECTIONS)).folder
    assert same is not None
    assert same.id == "night"


def test_outside_a_notebook_nothing_is_displayed(capsys: pytest.CaptureFixture[str]) -> None:
    kernel.show_figure(index.figure(index.plan_and_measured(None, None), START))
    assert capsys.readouterr().out == ""

"""Notices and remedies of drills and of what is over ask nobody to act."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.errors import EnvironmentFailure
from helpers.notify import Event, render
from helpers.parameters import parameters_from
from helpers.reason_codes import ReasonCode
from helpers.rehearsal.setup import prepare, with_application
from helpers.results import StepResult, Verdict
from helpers.rollback import KILL_DRILL
from helpers.run import folders as runs
from helpers.run.advice import page_remedy
from helpers.run.folders import RunState
from helpers.run.record import RunRecord
from helpers.runner import notices
from helpers.steps.schedule_and_notify import ScheduleAndNotifyStep


@pytest.fixture
def rehearsal(folders: Path) -> RunState:
    folder = folders / "workspace" / "try"
    parameters = with_application(prepare(folder, 50, 8), folder / "application")
    return runs.create(parameters, "try", rehearsal=True).read()


@pytest.mark.more
@pytest.mark.parametrize("drill", [True, False])
def test_the_notice_of_a_step_that_a_drill_killed_says_so(
    rehearsal: RunState, monkeypatch: pytest.MonkeyPatch, drill: bool
) -> None:
    sent: list[str] = []
    monkeypatch.setattr(
        notices,
        "send_notice",
        lambda run, event, key, say, **about: sent.append("\n".join(render(run, event, **about))),
    )
    StepResult("20", "Fence", "try", "2026-01-01T00:00:00+00:00").write(rehearsal.reports / "results" / "20.json")
    if drill:
        (rehearsal.workspace / KILL_DRILL).touch()
    assert ("killed by the drill" in notices.kernel_death(rehearsal)) is drill
    notices.run_stopped(rehearsal.read(), EnvironmentFailure(ReasonCode.KERNEL_DIED, "its kernel died"), print)
    (text,) = sent
    assert ("DRILL: " in text, "Nobody has to act" in text) == (drill, drill)
    assert ("Someone must act now" in text, "Escalation: " in text) == (not drill, not drill)


def test_a_drill_that_was_put_back_is_told(rehearsal: RunState) -> None:
    subject, body = render(rehearsal, Event.PUT_BACK, drill=True, why="rollback: put back")
    assert subject.startswith("REHEARSAL: DRILL: ")
    assert "put back" in subject
    assert "rollback: put back" in body
    assert "Clients use" in body


def test_the_announcement_of_a_rehearsal_leaves_before_its_window(rehearsal: RunState) -> None:
    step = ScheduleAndNotifyStep(RunRecord(rehearsal, "14"))
    assert step.hours is not None
    assert step.hours.start > step.now
    first = rehearsal.parameters.notify.before[0]
    assert "wait" in first
    assert first[-1].startswith(step.hours.start.isoformat()[:16]), "what runs before step 20 waits for the window"


@pytest.mark.usefixtures("folders")
def test_contacts_that_nobody_named_are_a_warning_with_the_key_to_set() -> None:
    base = {"name": "t", "source": {"path": "a"}, "target": {"path": "b"}}
    named = {"on_call": "Ada, 1", "dba": "Bo, 2", "operations_lead": "Cy, 3", "channel": "#x"}
    for number, contacts in enumerate(({"dba": "Bo, 2"}, named)):
        record = RunRecord(runs.create(parameters_from(base | {"contacts": contacts}), f"r{number}").read(), "14")
        ScheduleAndNotifyStep(record).checklist()
        found = [c for c in record.result.checks if c.name == "contacts without a name"]
        if contacts is named:
            assert found == []
            continue
        assert found[0].verdict is Verdict.WARNING
        assert found[0].measured == 3
        assert "contacts.on_call" in found[0].detail
        assert "contacts.dba" not in found[0].detail


def test_what_is_over_asks_for_nothing_and_every_remedy_can_be_shown() -> None:
    assert "Nothing is due" in page_remedy(ReasonCode.LONGER_THAN_ESTIMATED, "try")
    assert all("{" not in page_remedy(code, "try").replace("{free_gb: GB", "") for code in ReasonCode)

"""A run that people sign is refused by step 10 while nobody is named whom an escalation calls; a rehearsal warns."""

from __future__ import annotations

from typing import Any

import pytest

from helpers.parameters import load_parameters, parameters_from
from helpers.reason_codes import ReasonCode
from helpers.results import Check, Verdict
from helpers.run import folders as runs
from helpers.run import kernel
from helpers.run.advice import page_remedy
from helpers.run.record import RunRecord
from helpers.steps.schedule_and_notify import ScheduleAndNotifyStep
from helpers.steps.source_health import SourceHealthStep
from tests.conftest import ROOT

NAMED = {"on_call": "Cy 777", "dba": "Bo 2", "operations_lead": "Ada 1"}  # a channel calls nobody

TOUCHES: dict[str, Any] = {"cutover": {"restart": [["true"]]}}  # an application

pytestmark = pytest.mark.usefixtures("own_folders")


@pytest.fixture(autouse=True)
def runner(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `runbook run` starts a notebook."""
    monkeypatch.setenv(kernel.RUNNER_PID, "1")


def looked(contacts: dict[str, str], *, until: str = "53", rehearsal: bool = False, **sections: Any) -> Check:
    given = {"name": "n", "source": {"path": "s"}, "target": {"path": "t"}, "contacts": contacts, **TOUCHES, **sections}
    folder = runs.create(parameters_from(given), "night", until=until, rehearsal=rehearsal)
    record = RunRecord(folder, "10")
    SourceHealthStep(record).contacts()
    [check] = record.result.checks
    return check


def test_a_run_that_people_sign_is_refused_until_each_level_has_a_name() -> None:
    found = looked(NAMED | {"dba": "<name and phone>", "on_call": ""})
    assert (found.verdict, found.reason, found.measured) == (Verdict.FAIL, ReasonCode.NOBODY_TO_CALL, 2)
    assert found.detail == "nobody is named: contacts.dba, contacts.on_call"
    remedy = page_remedy(found.reason, "night", "", found.detail)
    assert remedy.endswith(" resume night --set contacts.dba=TEXT --set contacts.on_call=TEXT")


@pytest.mark.parametrize("until", ["", "14", "25"])
def test_it_is_refused_where_it_is_to_come_to_the_announcement(until: str) -> None:
    assert looked({}, until=until).verdict is Verdict.FAIL


@pytest.mark.parametrize(("contacts", "verdict"), [({}, Verdict.FAIL), (NAMED, Verdict.WARNING)])
def test_a_run_that_goes_on_after_its_dry_run_is_refused_by_step_14(contacts: dict[str, str], verdict: Verdict) -> None:
    given = {"name": "n", "source": {"path": "s"}, "target": {"path": "t"}, "contacts": contacts, **TOUCHES}
    record = RunRecord(runs.create(parameters_from(given), "night", until="13"), "14")
    ScheduleAndNotifyStep(record).checklist()
    assert next(c for c in record.result.checks if c.name == "contacts without a name").verdict is verdict


def test_who_only_explores_needs_no_names(monkeypatch: pytest.MonkeyPatch) -> None:
    assert looked({}, until="13").verdict is Verdict.NOT_EXERCISED
    monkeypatch.delenv(kernel.RUNNER_PID)
    monkeypatch.setattr(runs, "new_run_id", lambda _: "other")
    record = RunRecord(
        runs.create(parameters_from({"source": {"path": "s"}, "target": {"path": "t"}, **TOUCHES}), "hand"), "10"
    )
    SourceHealthStep(record).contacts()
    assert record.result.checks[0].verdict is Verdict.NOT_EXERCISED


def test_names_that_are_there_pass() -> None:
    assert looked(NAMED).verdict is Verdict.PASS


@pytest.mark.parametrize("sections", [{"signoff": {"required": []}}, {"cutover": {}}])
def test_a_run_that_nobody_signs_or_that_touches_no_client_needs_no_names(sections: dict[str, Any]) -> None:
    assert looked({}, **sections).verdict is Verdict.NOT_APPLICABLE


def test_a_rehearsal_warns() -> None:
    found = looked({}, rehearsal=True)
    assert (found.verdict, found.reason, found.measured) == (Verdict.WARNING, ReasonCode.NOBODY_NAMED, 4)


def test_the_shipped_example_is_refused_as_it_is() -> None:
    shipped = load_parameters(ROOT / "parameters" / "production.yaml").document()
    found = looked(shipped["contacts"])
    assert found.verdict is Verdict.FAIL
    assert found.detail == "nobody is named: contacts.dba, contacts.on_call, contacts.operations_lead"

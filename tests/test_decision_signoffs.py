"""Sign-offs: bound to the results, refused when they do not fit, one NO-GO blocks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from helpers.decision import gate_state, results_digest, sign
from helpers.errors import UsageError
from helpers.parameters import Parameters, parameters_from
from helpers.results import StepResult, write_json, write_text

ROLES = ["operations_lead", "dba", "security"]
PARAMETERS: dict[str, Any] = {"name": "night", "source": {"path": "from"}, "target": {"path": "to"}}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "night-1"
    write_json(folder / "run.json", {"rehearsal": False})
    write_text(folder / "parameters.yaml", json.dumps(PARAMETERS))
    for step, facts in (("22", {}), ("23", {}), ("24", {"decision": "GO", "accept": []})):
        result = StepResult(step, "", "night-1", "2025-12-01T00:00:00+00:00", facts=dict(facts))
        result.write(folder / "results" / f"{step}.json")
    return folder


@pytest.fixture
def parameters() -> Parameters:
    return parameters_from(PARAMETERS)


def facts(run: Path, **changes: Any) -> None:
    result = StepResult.read(run / "results" / "24.json")
    result.facts.update(changes)
    result.write(run / "results" / "24.json")


def approve(run: Path, **options: Any) -> None:
    for role in ROLES:
        sign(run, role, f"Name of {role}", "go", **options)


def test_all_three_open_the_gate(run: Path, parameters: Parameters) -> None:
    assert gate_state(run, parameters).missing == ROLES
    approve(run)
    state = gate_state(run, parameters)
    assert state.is_open
    assert [state.missing, state.refused, state.stale] == [[], {}, {}]
    signed = json.loads((run / "signoffs" / "cutover-dba.json").read_text())
    assert (signed["role"], signed["decision"], signed["digest"]) == ("dba", "go", results_digest(run, "cutover"))


def test_a_result_changed_afterwards_voids_the_approvals_and_is_named(run: Path, parameters: Parameters) -> None:
    approve(run)
    result = StepResult.read(run / "results" / "23.json")
    result.facts["differences"] = {"vector_differs": 1}
    result.write(run / "results" / "23.json")
    state = gate_state(run, parameters)
    assert state.stale == {role: ["23.json"] for role in ROLES}
    assert state.missing == ROLES


def test_a_later_step_voids_nothing(run: Path, parameters: Parameters) -> None:
    approve(run)
    StepResult("25", "", "night-1", "2025-12-01T00:00:00+00:00").write(run / "results" / "25.json")
    assert gate_state(run, parameters).is_open


def test_one_no_go_blocks(run: Path, parameters: Parameters) -> None:
    approve(run)
    sign(run, "security", "S. Moreno", "no-go", reason="the audit log is missing")
    state = gate_state(run, parameters)
    assert state.blocked == ["security (S. Moreno) says NO-GO: the audit log is missing"]
    assert not state.is_open


def test_a_rehearsals_approval_is_refused_in_production(run: Path, parameters: Parameters) -> None:
    approve(run, rehearsal=True)
    assert gate_state(run, parameters).missing == ROLES
    assert "rehearsal" in gate_state(run, parameters).refused["dba"]
    write_json(run / "run.json", {"rehearsal": True})
    assert gate_state(run, parameters).is_open


def test_what_is_marginal_must_be_accepted_by_everybody_by_name(run: Path, parameters: Parameters) -> None:
    facts(run, accept=["named queries"])
    approve(run)
    assert gate_state(run, parameters).missing == ROLES
    approve(run, accept=["named queries"])
    state = gate_state(run, parameters)
    assert state.is_open
    assert state.accepted["dba"] == ["named queries"]
    with pytest.raises(UsageError, match="not marginal"):
        sign(run, "dba", "A", "go", accept=["everything"])


@pytest.mark.parametrize(
    ("role", "name", "decision", "gate"),
    [
        ("cook", "A", "go", "cutover"),
        ("dba", "", "go", "cutover"),
        ("dba", "  ", "go", "cutover"),
        ("dba", "A\nB", "go", "cutover"),
        ("dba", "A\u202eB", "go", "cutover"),
        ("dba", "A", "maybe", "cutover"),
        ("dba", "A", "go", "garden"),
        ("dba", "A", "go", "dry-run"),
    ],
)
def test_refused_signatures_write_nothing(run: Path, role: str, name: str, decision: str, gate: str) -> None:
    with pytest.raises(UsageError):
        sign(run, role, name, decision, gate)
    assert not (run / "signoffs").exists()


def test_a_no_go_cannot_be_signed_as_go_and_an_unreviewed_run_not_at_all(run: Path) -> None:
    facts(run, decision="NO-GO")
    with pytest.raises(UsageError, match="NO-GO"):
        sign(run, "dba", "A", "go")
    (run / "results" / "24.json").unlink()
    with pytest.raises(UsageError, match="step 24"):
        sign(run, "dba", "A", "go")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"role": "dba"}', '{"role": "security", "gate": "cutover", "decision": "go"}']
)
def test_a_file_that_is_no_sign_off_is_refused(run: Path, parameters: Parameters, text: str) -> None:
    approve(run)
    (run / "signoffs" / "cutover-dba.json").write_text(text)
    state = gate_state(run, parameters)
    assert state.missing == ["dba"]
    assert "dba" in state.refused

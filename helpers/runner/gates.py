"""The human gates on the line: which approvals are due behind a step, and whether the run may go on."""

from __future__ import annotations

from collections.abc import Iterable

from helpers.errors import NoGo, RunbookError, WaitingForSignoffs
from helpers.evidence.seals import ALLOWED, allowed_signers
from helpers.results import passed
from helpers.run import plan
from helpers.run.folders import RunFolder
from helpers.signoffs import GateState, gate_state

AFTER_CUTOVER, PARAMETERS = "25", "parameters.yaml"


def open_gate(folder: RunFolder, steps: Iterable[plan.Step]) -> RunbookError | None:
    """What stops the run behind the first passed step whose gate is shut: a NO-GO, or missing approvals; else None."""
    for step in steps:
        if step.gate and passed(folder.result(step.number)):
            error = _behind(folder, step)
            if error is not None:
                return error
    return None


def _behind(folder: RunFolder, step: plan.Step) -> RunbookError | None:
    parameters = folder.parameters()
    # After the cutover a signature stays what it was when it counted: keys may go from the list then, and a resume may
    # change what concerns the steps after it.
    done = passed(folder.result(AFTER_CUTOVER))
    state = gate_state(folder.reports, parameters, step.gate, None if done else allowed_signers(folder, parameters))
    if done and not state.blocked and all(set(state.stale.get(role, [""])) <= {PARAMETERS} for role in state.missing):
        return None
    if state.blocked:
        return NoGo("signed_no_go", f"run {folder.id}: {'; '.join(state.blocked)}", next_step="It may not be cut over.")
    if not state.missing:
        return None
    example = (
        f"{folder.command('sign')} --role {state.missing[0]} --name NAME --decision go --gate {step.gate} --key FILE"
    )
    first = (
        ""
        if (folder.reports / ALLOWED).is_file()
        else (f"First name who may sign: {folder.command('resume')} --set signoff.allowed_signers=FILE. ")
    )
    return WaitingForSignoffs(
        "signoffs_missing",
        f"run {folder.id} waits for the approval of {', '.join(_with_reason(state, role) for role in state.missing)}",
        next_step=f"{first}Each signs with: {example}",
    )


def _with_reason(state: GateState, role: str) -> str:
    """The role, and why an approval that it gave does not count."""
    if state.stale.get(role):
        return f"{role} (given before {', '.join(state.stale[role])} changed)"
    return f"{role} ({state.refused[role]})" if role in state.refused else role

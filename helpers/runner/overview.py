"""Where the runs stand: the map of steps for notebook 00 and for `runbook status`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from helpers.errors import RUNBOOK, RunbookError, UsageError
from helpers.fence import FenceState
from helpers.results import StepResult, passed
from helpers.rollback.state import RollbackState
from helpers.run import folders as runs
from helpers.run import plan
from helpers.run.folders import RunFolder
from helpers.runner.gates import open_gate
from helpers.signoffs import gate_state

TO_DO = "to do"
RUN_COLUMNS = ("run", "name", "created", "at", "state", "due", "fence", "kind")


def state(result: StepResult | None) -> str:
    """How a step came out, in a word: to do, pass, warning, marginal, NO-GO, interrupted, failed."""
    if result is None:
        return TO_DO
    if result.error is not None:
        return {"no_go": "NO-GO", "interrupted": "interrupted"}.get(result.error["code"], "failed")
    return str(result.verdict)


def rolled_back(folder: RunFolder) -> str:
    """`Rolled back, finished …` or how far the rollback is; "" where none ever began."""
    found = RollbackState.read(folder.workspace)
    return found.sentence() if found is not None else ""


def after_rollback(folder: RunFolder) -> str:
    """What to do with a run whose rollback began."""
    found = RollbackState.read(folder.workspace)
    if found is not None and found.finished:
        return f"Begin a new run; what became of this one: {folder.reports / 'rollback.html'}"
    return f"Go on with: {folder.command('rollback')}"


def refuse_rolled_back(folder: RunFolder) -> None:
    """Raises `UsageError` where a rollback of this run began: from there on there is only the way back."""
    if said := rolled_back(folder):
        raise UsageError(
            "rolled_back", f"run {folder.id} does not go on. {said}", next_step=after_rollback(folder)
        )  # fmt: skip


def first_open_step(folder: RunFolder) -> plan.Step | None:
    """The first step of the line that has not passed; None where all have."""
    return next((step for step in plan.LINE if not passed(folder.result(step.number))), None)


def step_rows(folder: RunFolder | None) -> list[dict[str, Any]]:
    """One row a step of the line: step, title, section, state, seconds, notebook."""
    rows = []
    for step in plan.LINE:
        result = folder.result(step.number) if folder else None
        rows.append(
            {
                "step": step.number,
                "title": step.title,
                "section": step.section,
                "state": state(result),
                "seconds": round(result.seconds, 1) if result else 0.0,
                "notebook": step.notebook,
            }
        )
    return rows


def run_rows() -> list[dict[str, str]]:
    """One row a run, the newest first: run, name, created, at (the step it stands at), state, due, fence, kind."""
    rows = []
    for folder in runs.every_run():
        facts = folder.facts()
        step = first_open_step(folder)
        kind = "rehearsal" if facts["rehearsal"] else "dry run" if facts["dry_run"] else ""
        rows.append(
            {
                "run": folder.id,
                "name": str(facts["name"]),
                "created": str(facts["created"])[:19].replace("T", " "),
                "at": step.number if step else "",
                "state": state(folder.result(step.number)) if step else "all steps passed",
                "due": _told(_due, folder, step),
                "fence": _told(_fence, folder),
                "kind": kind,
            }
        )
    return rows


def _told(say: Callable[..., str], *about: Any) -> str:
    """A run that another version of the toolkit wrote hides no other run."""
    try:
        return say(*about)
    except RunbookError as error:
        return f"unknown ({error.code})"


def _due(folder: RunFolder, step: plan.Step | None) -> str:
    """In a few words what the run waits for: signatures by role, a step, nothing."""
    if (back := RollbackState.read(folder.workspace)) is not None:
        return "nothing: rolled back" if back.finished else "rollback"
    for passed_step in plan.LINE if step is None else plan.LINE[: plan.LINE.index(step)]:
        if passed_step.gate and passed(folder.result(passed_step.number)):
            gate = gate_state(folder.reports, folder.parameters(), passed_step.gate)
            if gate.blocked:
                return "nothing: NO-GO"
            if gate.missing:
                return f"sign {passed_step.gate}: {', '.join(gate.missing)}"
    return f"step {step.number}" if step is not None else ""


def _fence(folder: RunFolder) -> str:
    found = FenceState.read(folder.workspace)
    return "" if found is None or not found.may_stand else "up" if found.stands else "half up"


def next_action(folder: RunFolder | None) -> str:
    """One sentence: what to do next."""
    if folder is None:
        return f"No run yet. Try the whole runbook on its own data: {RUNBOOK} rehearse"
    if said := rolled_back(folder):
        return f"{said} {after_rollback(folder)}"
    step = first_open_step(folder)
    shut = open_gate(folder, plan.LINE if step is None else plan.LINE[: plan.LINE.index(step)])
    if shut is not None:
        return str(shut)
    if step is None:
        return "All steps have passed."
    result = folder.result(step.number)
    if result is not None and result.error is not None and result.error["code"] != "interrupted":
        return f"Step {step.number} ({step.title}) did not pass: {result.error['line']}"
    return f"Step {step.number} ({step.title}) is next: {folder.command('resume')}"

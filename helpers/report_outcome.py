"""The banner of a run's page: where the run stands, why, and what to do next, from its results and sign-offs alone."""

from __future__ import annotations

from typing import Any

from . import plan
from .report_facts import Outcome, RunView, StepRow
from .results import Verdict
from .words import text

CLASSES = {"go": "pass", "no-go": "fail", "waiting": "marginal", "failed": "fail", "stopped": "warning", "open": "open"}


def outcome(view: RunView) -> Outcome:
    """Where the run stands. The first step that failed or judged against the data decides; then the sign-offs do."""
    for step in view.steps:
        if step.verdict == "unreadable":
            what = f"results/{step.number}.json cannot be read"
            again = f"Run the step again: runbook resume {view.id} --retry {step.number}"
            return Outcome("failed", f"Step {step.number} left no usable result", [what], [again])
        if step.result and step.result.error and step.result.error.get("code") != "no_go":
            return _broken(view, step, step.result.error)
    judged = [s for s in view.steps if s.result and s.result.verdict is Verdict.FAIL]
    if _decision(view) == "NO-GO" or judged:
        return _no_go(view, judged)
    if _decision(view) == "GO":
        return _gate(view)
    left = [s for s in view.steps if s.verdict == "not run"]
    done = [s for s in view.steps if s.result]
    if not done:
        return Outcome("open", "Not started", [], [f"Start it: runbook resume {view.id}"])
    until = str(view.run.get("until") or (plan.LAST_OF_DRY_RUN if view.run.get("dry_run") else ""))
    if done[-1].number.startswith(until[:2]) and until:
        return Outcome(
            "open", f"Done up to step {done[-1].number} ({done[-1].title}), as asked", [], _go_on(view, left)
        )
    return Outcome("open", f"Not finished: {len(done)} of {len(view.steps)} steps done", [], _go_on(view, left))


def _decision(view: RunView) -> str:
    review = view.step("24")
    if review is None or review.result is None:
        return ""
    said = str(review.result.facts.get("decision", "")).upper().replace("_", "-").replace(" ", "-")
    if said in ("GO", "NO-GO"):
        return said
    return "NO-GO" if review.result.verdict is Verdict.FAIL else "GO"


def _broken(view: RunView, step: StepRow, error: dict[str, Any]) -> Outcome:
    line = " ".join(str(error[k]) for k in ("what", "line", "message", "next_step") if error.get(k))
    if error.get("code") == "interrupted":
        return Outcome("stopped", f"Stopped on request in step {step.number} ({step.title})", [],
                       [f"Go on: runbook resume {view.id}"])  # fmt: skip
    read = f"Read {step.notebook or 'run.log'} of this folder, remove the cause, then: runbook resume {view.id}"
    return Outcome(
        "failed", f"Step {step.number} ({step.title}) failed", [line or "No reason was recorded; see run.log."], [read]
    )


def _no_go(view: RunView, judged: list[StepRow]) -> Outcome:
    reasons = [
        f"Step {s.number}: {text(c.name, 80)}: {text(c.detail or c.measured, 200)}"
        for s in judged
        for c in (s.result.checks if s.result else [])
        if c.verdict is Verdict.FAIL
    ]
    more = [f"{len(reasons) - 6} further failed checks, below."] if len(reasons) > 6 else []
    first = judged[0].number if judged else "24"
    advice = [
        "Do not cut over; the source stays in service.",
        "Read the findings below: each names its reason and the chunks. Then hold and troubleshoot (runbook, Step 6b).",
        f"Once the cause is gone: runbook resume {view.id} --retry {first if first < '21' else '22'}",
    ]
    return Outcome("no-go", "NO-GO", reasons[:6] + more, advice)


def _gate(view: RunView) -> Outcome:
    required = required_roles(view)
    approvals = [s for s in view.signoffs if s.get("gate", "cutover") == "cutover"]
    against = [s for s in approvals if str(s.get("decision", "")).lower().replace("_", "-") == "no-go"]
    if against:
        said = [f"{text(s['role'], 60)} ({text(s.get('name'), 80)}): {text(s.get('reason'), 300)}" for s in against]
        return Outcome("no-go", "NO-GO by sign-off", said, ["Do not cut over; clear the objection with who signed it."])
    signed = {str(s["role"]) for s in approvals}
    missing = [role for role in required if role not in signed]
    marginal = sum(c.verdict is Verdict.MARGINAL for s in view.steps if s.result for c in s.result.checks)
    notes = [f"{marginal} marginal findings must be accepted by name."] if marginal else []
    if missing:
        said = [f"Missing: {', '.join(role.replace('_', ' ') for role in missing)}.", *notes]
        sign = [f"runbook sign {view.id} --role {role} --name NAME --decision go" for role in missing]
        return Outcome("waiting", "The data say GO; waiting for sign-offs", said, [*sign, f"runbook resume {view.id}"])
    if view.rehearsal:
        return Outcome(
            "go", "GO", notes, ["The rehearsal is complete. Nothing is due; it changed no production system."]
        )
    return Outcome("go", "GO", notes, ["Cut over inside the maintenance window (runbook, Step 6a)."])


def required_roles(view: RunView) -> list[str]:
    """Roles that have to sign before a cutover, as the parameters name them."""
    section = view.parameters.get("signoff")
    roles = section.get("required", []) if isinstance(section, dict) else []
    return [str(role) for role in roles] if isinstance(roles, list) else []


def _go_on(view: RunView, left: list[StepRow]) -> list[str]:
    return [f"Next: step {left[0].number} ({left[0].title}): runbook resume {view.id}"] if left else []

"""The banner of a run's page: where the run stands, why, and what to do next, from its results and sign-offs alone."""

from __future__ import annotations

import shlex
from typing import Any

from helpers.errors import RUNBOOK
from helpers.report.facts import Outcome, RunView, StepRow, void
from helpers.results import Verdict
from helpers.run import plan
from helpers.words import text

CLASSES = {"go": "pass", "no-go": "fail", "waiting": "marginal", "failed": "fail", "stopped": "warning", "open": "open",
           "rolled-back": "warning"}  # fmt: skip
ROLLBACK, _CLOSEOUT = "27", "53"


def outcome(view: RunView) -> Outcome:
    """Where the run stands. A rollback comes before everything; else its own steps say, and then the sign-offs."""
    before = _of_the_line(view)
    return _back(view, before) or before


def _back(view: RunView, before: Outcome) -> Outcome | None:
    """The banner of a run that was rolled back, or is on the way; None where none began, or a rehearsal drilled it."""
    step = view.step(ROLLBACK)
    if step is None or step.result is None or not view.ran(ROLLBACK) or view.rehearsal:
        return None
    was = f"Before that: {before.headline}."
    if not view.passed(ROLLBACK):
        line = (step.result.error or {}).get("line") or "It has not finished; see run.log."
        return Outcome(
            "failed", "The rollback has not finished", [line, was], [f"Go on with: {RUNBOOK} rollback {view.id}"]
        )
    return Outcome("rolled-back", "Rolled back: the source is in service", [was, *before.reasons],
                   ["Read rollback.html of this folder: why, what was restored, what became of clients' writes.",
                    "Remove the cause, then begin a new run; this one does not go on."])  # fmt: skip


def _of_the_line(view: RunView) -> Outcome:
    """The first step that failed or judged against the data decides; then the sign-offs do."""
    for step in (s for s in view.steps if s.number != ROLLBACK):
        if step.verdict == "unreadable":
            what = f"results/{step.number}.json cannot be read"
            again = f"Run the step again: {RUNBOOK} resume {view.id} --retry {step.number}"
            return Outcome("failed", f"Step {step.number} left no usable result", [what], [again])
        if step.result and step.result.error and step.result.error.get("code") != "no_go":
            return _broken(view, step, step.result.error)
    judged = [s for s in view.steps if s.result and s.result.verdict is Verdict.FAIL and s.number != ROLLBACK]
    if _decision(view) == "NO-GO" or judged:
        return _no_go(view, judged)
    if _decision(view) == "GO":
        return _gate(view)
    left = [s for s in view.steps if s.verdict == "not run"]
    done = [s for s in view.steps if s.result]
    if not done:
        return Outcome("open", "Not started", [], [f"Start it: {RUNBOOK} resume {view.id}"])
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
                       [f"Go on: {RUNBOOK} resume {view.id}"])  # fmt: skip
    read = [f"Read {step.notebook or 'run.log'} of this folder, remove the cause, then: {RUNBOOK} resume {view.id}"]
    if plan.find(step.number).follows_cutover:
        read.append(f"Clients use the target still. The way back: {RUNBOOK} rollback {view.id} --dry-run")
    return Outcome(
        "failed", f"Step {step.number} ({step.title}) failed", [line or "No reason was recorded; see run.log."], read
    )


def _no_go(view: RunView, judged: list[StepRow]) -> Outcome:
    review = view.step("24")
    against = review.result.facts.get("against") if review and review.result else None
    reasons = [text(line, 400) for line in against] if isinstance(against, list) else []
    reasons = reasons or [
        f"Step {step.number}: {text(check.name, 80)}: {text(check.detail or check.measured, 200)}"
        for step in judged
        for check in (step.result.checks if step.result else [])
        if check.verdict is Verdict.FAIL
    ]
    more = [f"{len(reasons) - 6} further reasons are below."] if len(reasons) > 6 else []
    first = judged[0].number if judged else "24"
    advice = [
        "Do not cut over; the source stays in service.",
        "Read the findings below: each names its reason and the chunks. Then hold and troubleshoot (runbook, Step 6b).",
        f"Once the cause is gone: {RUNBOOK} resume {view.id} --retry {first if first < '21' else '22'}",
    ]
    return Outcome("no-go", "NO-GO", reasons[:6] + more, advice)


def _gate(view: RunView) -> Outcome:
    """The data say GO: now those who sign decide."""
    gate = view.gate
    if gate is None:
        why = "parameters.yaml cannot be read, so nobody can say whose approval is due."
        return Outcome("waiting", "The data say GO; the approvals cannot be judged", [why])
    if gate.blocked:
        return Outcome("no-go", "NO-GO by sign-off", list(gate.blocked),
                       ["Do not cut over; clear the objection with who signed it."])  # fmt: skip
    if gate.missing:
        roles = ", ".join(role.replace("_", " ") for role in gate.missing)
        said = [f"Missing: {roles}.", *gate.refused.values(), *void(gate).values()]
        marginal = view.names("accept")
        if marginal:
            said.append(f"Who signs must accept by name: {', '.join(marginal)}.")
        accept = "".join(f" --accept {shlex.quote(criterion)}" for criterion in marginal)
        sign = [
            f"{RUNBOOK} sign {view.id} --role {role} --name NAME --decision go{accept} --key FILE"
            for role in gate.missing
        ]
        return Outcome(
            "waiting", "The data say GO; waiting for sign-offs", said, [*sign, f"{RUNBOOK} resume {view.id}"]
        )
    if view.rehearsal and (drills := view.run.get("drills")):
        return Outcome("go", "GO", [f"Drilled: {text(line)}." for line in drills],
                       ["The rehearsal is complete; nothing is due."])  # fmt: skip
    switched = view.step("25")
    done = switched.result.facts.get("cut_over") if switched is not None and switched.result is not None else None
    if isinstance(done, dict):
        moved = [f"The application was pointed to {text(done.get('target'))}."]
        if view.passed(_CLOSEOUT):
            until = text(str(view.fact("rollback_possible_until") or "")[:10])
            return Outcome("go", "GO, cut over and closed out", moved,
                           [f"Take the evidence along: {RUNBOOK} archive {view.id}",
                            f"The way back stays open until {until}: {RUNBOOK} rollback {view.id}"])  # fmt: skip
        next_one = next((s for s in view.steps if s.number > "25" and s.verdict == "not run"), None)
        due = [f"Next: step {next_one.number} ({next_one.title}): {RUNBOOK} resume {view.id}"] if next_one else []
        back = f"Watch the application. The way back: {RUNBOOK} rollback {view.id}"
        return Outcome("go", "GO, cut over", moved, [*due, back])
    if view.rehearsal:
        return Outcome("go", "GO", [], ["The rehearsal is complete; nothing is due."])
    return Outcome("go", "GO", [], ["Cut over inside the maintenance window (runbook, Step 6a)."])


def _go_on(view: RunView, left: list[StepRow]) -> list[str]:
    return [f"Next: step {left[0].number} ({left[0].title}): {RUNBOOK} resume {view.id}"] if left else []

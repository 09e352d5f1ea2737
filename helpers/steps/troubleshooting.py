"""Notebook 40, and the decision trees of the runbook's Appendix B as graphs.

Of a run only its own path is drawn: its answers in the go/no-go tree, and the branches of the troubleshooting tree that its
symptoms name. Without a run the whole trees are drawn.
"""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING

import pandas as pd

from helpers import plots
from helpers.formatting import count, percent
from helpers.reason_codes import ReasonCode
from helpers.results import StepResult, Verdict
from helpers.run import plan
from helpers.run.advice import SYMPTOMS, TREE, command, openable, remedy, steps_for, symptoms
from helpers.run.plan import Step
from helpers.run.record import NotebookStep, RunRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PHASE, DATA, NETWORK, RESOURCE = (
    "Phase?\n[1-5]",
    "Error?\n[missing data]",
    "Network?\n[time-out]",
    "Resource?\n[OOM, disk]",
)
BRANCHES: dict[str, tuple[str, ...]] = {
    PHASE: (Step.STUCK_BATCH, Step.SEARCH_NOT_WORKING),
    DATA: (Step.INVALID_SCORES, Step.MISSING_METADATA, Step.NAN_EMBEDDINGS, Step.COUNT_MISMATCH),
    NETWORK: (Step.NETWORK,),
    RESOURCE: (Step.OUT_OF_MEMORY,),
}
CURES = {
    PHASE: "Check logs",
    DATA: "Fix data, transform",
    NETWORK: "Fix network, firewall",
    RESOURCE: "Increase resources",
}


class TroubleshootingStep(NotebookStep):
    """The notebook's view: the symptoms of a run, each with the notebook for it."""

    def __init__(self, run: RunRecord) -> None:
        self.run = run

    def symptoms(self) -> pd.DataFrame:
        """Every check of this run that failed, was marginal or warned, and every error, with the notebook for it."""
        rows = []
        for symptom in symptoms(self.run):
            row = ReasonCode.known(symptom["reason"])
            advice = remedy(str(symptom["reason"]), self.run)
            notebook = ""
            if not advice and row is not None and row.step:
                notebook = openable(plan.find(row.step), self.run).notebook
            rows.append({**symptom, "trouble": row.trouble if row else "", "notebook": notebook, "what to do": advice})
        table = pd.DataFrame(rows, columns=[*SYMPTOMS, "trouble", "notebook", "what to do"])
        self.run.check(
            "symptoms", Verdict.WARNING if len(table) else Verdict.PASS, measured=len(table), threshold=0,
            reason=ReasonCode.STEP_FAILED if len(table) else "",
            detail=", ".join(sorted(set(table["notebook"]) - {""})),
        )  # fmt: skip
        return table

    def go_no_go(self) -> None:
        """Draw this run's path through the go/no-go tree."""
        validated = self.run.earlier(Step.VALIDATE)
        self.run.figure("go_no_go", go_no_go(validated, self.run.earlier(Step.REVIEW)),
                        "Appendix B, go or no-go: the path of this run.")  # fmt: skip

    def troubles(self) -> None:
        """Draw the branches of the troubleshooting tree that this run's symptoms name."""
        named = {step.number for step in self._steps()}
        failed = any(row["verdict"] in (Verdict.FAIL, "error") for row in symptoms(self.run))
        caption = "Appendix B, troubleshooting: the notebooks that look for this run's symptoms."
        self.run.figure("troubles", troubles(named, failed=failed), caption)

    def next(self) -> str:
        """The next commands; the notebook that explains most symptoms comes first."""
        steps = self._steps()
        if not steps and not symptoms(self.run):
            return "No check of this run failed, was marginal or warned: there is nothing to troubleshoot."
        commands = [f"Next: {advice}" for row in symptoms(self.run) if (advice := remedy(str(row["reason"]), self.run))]
        ready = [openable(step, self.run) for step in steps]
        opened = [f"{step.title}: {command(step, self.run)}" for step in ready if step.number != TREE]
        return "\n".join(dict.fromkeys([*commands, *opened]))

    def _steps(self) -> list[plan.Step]:
        return steps_for(str(row["reason"]) for row in symptoms(self.run))


def go_no_go(validated: StepResult | None, decided: StepResult | None) -> Figure:
    """The go/no-go tree: only the path of these results; the whole tree where nothing is decided."""
    if validated is None or decided is None:
        return _whole_tree()
    rate = _rate(decided)
    failed = [
        c.name for c in (*validated.checks, *decided.checks) if c.verdict is Verdict.FAIL and c.name != "decision"
    ]
    go = decided.verdict is not Verdict.FAIL
    warned = sum(c.verdict in (Verdict.WARNING, Verdict.MARGINAL) for c in validated.checks)
    answer = f"yes, {count(warned, 'warning')}" if warned else "yes"
    if not go:
        answer = "no: " + ", ".join(failed[:3]) + (" …" if len(failed) > 3 else "")
    path = {
        "done": "VALIDATION COMPLETE",
        "rate": f"Pass rate at least 95 %?\n{'yes' if rate >= 0.95 else 'no'}, {percent(rate)}",
        "all": f"Do all checks pass or warn?\n{answer}",
        "end": "GO\nStep 6a, cutover" if go else "HOLD\n40 troubleshooting, or rollback (Step 7b)",
    }
    nodes = {key: plots.DiagramNode(text, level, 0.5) for level, (key, text) in enumerate(path.items())}
    end = "GO" if go else "hold and troubleshoot"
    return plots.decision_tree(nodes, list(pairwise(path)), list(path), f"Go or no-go: this run: {end}")


def _whole_tree() -> Figure:
    """The runbook's tree, with both answers to each question."""
    nodes = {
        "done": plots.DiagramNode("VALIDATION COMPLETE", 0, 0.5),
        "good": plots.DiagramNode("Pass rate >= 95 %", 1, 0.25),
        "bad": plots.DiagramNode("Pass rate < 95 %", 1, 0.75),
        "all": plots.DiagramNode("All checks pass?\nmetadata, embeddings,\nqueries, collections", 2, 0.25),
        "which": plots.DiagramNode("Which issue?\nembeddings, metadata,\nNaN, collections", 2, 0.75),
        "go": plots.DiagramNode("yes: GO\nStep 6a, cutover", 3, 0.25),
        "trouble": plots.DiagramNode("no: HOLD\n40 troubleshooting", 3, 0.6),
        "back": plots.DiagramNode("ROLLBACK\nStep 7b", 3, 0.9),
    }
    edges = [("done", "good"), ("done", "bad"), ("good", "all"), ("bad", "which"), ("all", "go"), ("all", "trouble"),
             ("which", "trouble"), ("which", "back")]  # fmt: skip
    return plots.decision_tree(nodes, edges, [], "Go or no-go: this run has no decision yet")


def troubles(named: Collection[str] | None, *, failed: bool = True) -> Figure:
    """The troubleshooting tree: only the branches to the notebooks of `named` (their numbers); the whole tree for None (no run).

    `failed`: a step of the run failed; else it has only warnings.
    """
    if named is not None and not set(named) & {number for numbers in BRANCHES.values() for number in numbers}:
        nothing = {"none": plots.DiagramNode("Nothing here needs a notebook of Section 4", 0, 0.5)}
        return plots.decision_tree(nothing, [], ["none"], "Troubleshooting: no symptom that a notebook looks for")
    root = "MIGRATION FAILED" if failed else "WARNINGS, NOTHING FAILED"
    nodes = {"failed": plots.DiagramNode(root, 0, 0.5)}
    edges: list[tuple[str, str]] = []
    shown = {branch: [n for n in numbers if named is None or n in named] for branch, numbers in BRANCHES.items()}
    leaves = sum(len(numbers) for numbers in shown.values())
    at = 0
    for branch, numbers in shown.items():
        if not numbers:
            continue
        middle = (at + len(numbers) / 2) / leaves
        nodes[branch] = plots.DiagramNode(branch, 1, middle)
        nodes[f"cure {branch}"] = plots.DiagramNode("\n".join(textwrap.wrap(CURES[branch], 14)), 3, middle)
        edges.append(("failed", branch))
        for number in numbers:
            step = plan.find(number)
            nodes[number] = plots.DiagramNode(f"{number}\n{step.title.replace(' ', chr(10))}", 2, (at + 0.5) / leaves)
            edges += [(branch, number), (number, f"cure {branch}")]
            at += 1
        if failed:
            edges.append((f"cure {branch}", "again"))
    if failed:
        nodes["again"] = plots.DiagramNode("RETRY STEP 3\n22 migrate, resumed from its checkpoint", 4, 0.5)
    first = "the runbook's tree" if named is None else ", ".join(n for numbers in shown.values() for n in numbers)
    return plots.decision_tree(nodes, edges, list(nodes) if named is not None else [], f"Troubleshooting: {first}")


def _rate(decided: StepResult | None) -> float:
    """The validation pass rate that step 24 judged, 0 to 1; 0 where there is none."""
    rows: list[Mapping[str, object]] = decided.facts.get("matrix", []) if decided is not None else []
    value = next((row["value"] for row in rows if row["criterion"] == "validation pass rate"), 0.0)
    return float(value) if isinstance(value, int | float) else 0.0

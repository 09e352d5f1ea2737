"""The decision trees of the runbook's Appendix B, as graphs with the place of a run; and notebook 40.

The go/no-go tree is drawn as it is printed. Of the troubleshooting tree every branch leads to a notebook of Section 4,
and the branches that this run's symptoms name are marked.
"""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Mapping

import pandas as pd
from matplotlib.figure import Figure

from helpers import plots
from helpers.plots import Node
from helpers.reason_codes import ReasonCode
from helpers.results import StepResult, Verdict
from helpers.run import plan
from helpers.run.advice import TREE, command, remedy, steps_for
from helpers.run.plan import Step
from helpers.run.record import NotebookStep, RunRecord
from helpers.troubleshooting.troubleshooter import SYMPTOMS, symptoms

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
    """40: the symptoms of a run, and the way from each to its notebook."""

    def __init__(self, run: RunRecord) -> None:
        self.run = run

    def symptoms(self) -> pd.DataFrame:
        """Every failed, marginal or warned check of this run and every error, with the notebook that leads out of it."""
        rows = []
        for symptom in symptoms(self.run):
            row = ReasonCode.known(symptom["reason"])
            rows.append(
                {
                    **symptom,
                    "trouble": row.trouble if row else "",
                    "notebook": _notebook(row.step) if row and row.step else "",
                }
            )
        table = pd.DataFrame(rows, columns=[*SYMPTOMS, "trouble", "notebook"])
        self.run.check(
            "symptoms", Verdict.WARNING if len(table) else Verdict.PASS, measured=len(table), threshold=0,
            reason=ReasonCode.STEP_FAILED if len(table) else "",
            detail=", ".join(sorted(set(table["notebook"]) - {""})),
        )  # fmt: skip
        return table

    def go_no_go(self) -> None:
        """Draws the go/no-go tree with this run's way through it."""
        validated = self.run.earlier(Step.VALIDATE)
        self.run.figure("go_no_go", go_no_go(validated, self.run.earlier(Step.REVIEW)),
                        "Appendix B, go or no-go; the way of this run is drawn in bold.")  # fmt: skip

    def troubles(self) -> None:
        """Draws the troubleshooting tree; the branches that this run's symptoms name are marked."""
        named = {step.number for step in self._steps()}
        self.run.figure("troubles", troubles(named), "Appendix B, troubleshooting; the marked notebooks come first.")

    def next(self) -> str:
        """The commands to give, the notebook that explains most of the symptoms first."""
        steps = self._steps()
        if not steps:
            return "No check of this run failed, was marginal or warned: there is nothing to troubleshoot."
        said = [f"Next: {found}" for row in symptoms(self.run) if (found := remedy(str(row["reason"]), self.run))]
        opened = [f"{step.title}: {command(step, self.run)}" for step in steps if step.number != TREE]
        return "\n".join(dict.fromkeys([*said, *opened]))

    def _steps(self) -> list[plan.Step]:
        return steps_for(str(row["reason"]) for row in symptoms(self.run))


def go_no_go(validated: StepResult | None, decided: StepResult | None) -> Figure:
    """The go/no-go tree; the way that these results took is in bold, none where they are not there yet."""
    rate = _rate(decided)
    nodes = {
        "done": Node("VALIDATION COMPLETE", 0, 0.5),
        "good": Node("Pass rate >= 95 %?\nyes", 1, 0.25),
        "bad": Node("Pass rate < 95 %?\nyes", 1, 0.75),
        "all": Node("All checks pass?\nmetadata, embeddings,\nqueries, collections", 2, 0.25),
        "which": Node("Which issue?\nembeddings, metadata,\nNaN, collections", 2, 0.75),
        "go": Node("GO\nStep 6a, cutover", 3, 0.25),
        "trouble": Node("HOLD\n40 troubleshooting", 3, 0.6),
        "back": Node("ROLLBACK\nStep 7b", 3, 0.9),
    }
    edges = [("done", "good"), ("done", "bad"), ("good", "all"), ("bad", "which"), ("all", "go"), ("all", "trouble"),
             ("which", "trouble"), ("which", "back")]  # fmt: skip
    way: list[str] = []
    if validated is not None and decided is not None:
        go = decided.verdict is not Verdict.FAIL
        way = (
            ["done", "good", "all", "go" if go else "trouble"] if rate >= 0.95 else ["done", "bad", "which", "trouble"]
        )
    end = {"go": "this run: GO", "trouble": "this run: hold and troubleshoot"}
    said = end[way[-1]] if way else "this run has no decision yet"
    return plots.decision_tree(nodes, edges, way, f"Go or no-go: {said}")


def troubles(named: Collection[str]) -> Figure:
    """The troubleshooting tree with the notebooks of `named` (their numbers) and the way to them marked."""
    nodes = {"failed": Node("MIGRATION FAILED", 0, 0.5)}
    edges: list[tuple[str, str]] = []
    marked: list[str] = []
    at = 0
    leaves = sum(len(numbers) for numbers in BRANCHES.values())
    for branch, numbers in BRANCHES.items():
        middle = (at + len(numbers) / 2) / leaves
        nodes[branch] = Node(branch, 1, middle)
        nodes[f"cure {branch}"] = Node("\n".join(textwrap.wrap(CURES[branch], 14)), 3, middle)
        edges.append(("failed", branch))
        for number in numbers:
            step = plan.find(number)
            nodes[number] = Node(f"{number}\n{step.title.replace(' ', chr(10))}", 2, (at + 0.5) / leaves)
            edges += [(branch, number), (number, f"cure {branch}")]
            marked += [branch, number, f"cure {branch}"] if number in named else []
            at += 1
        edges.append((f"cure {branch}", "again"))
    nodes["again"] = Node("RETRY STEP 3\n22 migrate, resumed from its checkpoint", 4, 0.5)
    marked = ["failed", *marked, "again"] if marked else []
    first = ", ".join(sorted(named)) if named else "no symptom"
    return plots.decision_tree(nodes, edges, marked, f"Troubleshooting: {first}")


def _rate(decided: StepResult | None) -> float:
    """The validation pass rate that step 24 judged, 0 to 1; 0 where there is none."""
    rows: list[Mapping[str, object]] = decided.facts.get("matrix", []) if decided is not None else []
    value = next((row["value"] for row in rows if row["criterion"] == "validation pass rate"), 0.0)
    return float(value) if isinstance(value, int | float) else 0.0


def _notebook(number: str) -> str:
    return plan.find(number).notebook

"""What leads out of a trouble, for people: from the reason codes of a run to commands and notebooks for that run."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable
from typing import Protocol

from helpers.errors import RUNBOOK
from helpers.reason_codes import ReasonCode
from helpers.run import folders as runs
from helpers.run import plan
from helpers.run.plan import Step

TREE = Step.TROUBLESHOOTING  # the notebook that reads a run and says which of the others comes first


class HasId(Protocol):
    """A run, a run's folder: whatever has the id of a run."""

    @property
    def id(self) -> str: ...


def notebook_for(code: str) -> plan.Step | None:
    """The step whose notebook leads out of this trouble, or None where the code explains itself."""
    known = ReasonCode.known(code)
    return plan.find(known.step) if known is not None and known.step else None


def advice(code: str, run: HasId | str) -> str:
    """One line with the remedy of this run's trouble; "" where the code explains itself.

    `interrupted` → `Next: go on with: .venv/bin/runbook resume night-1`;
    `count_mismatch` → `Troubleshoot: papermill notebooks/48_count_mismatch.ipynb OUT.ipynb -p run_id night-1`.
    """
    return next(iter(advised([code], run, 1)), "")


def advised(codes: Iterable[str], run: HasId | str, most: int) -> list[str]:
    """The remedies for many codes, each once and `most` at most: sentences first, then notebooks as in `steps_for`."""
    listed = list(codes)
    remedies = {code: remedy(code, run) for code in listed}
    said = [f"Next: {sentence}" for sentence in remedies.values() if sentence]
    opened = [f"Troubleshoot: {command(step, run)}" for step in steps_for(c for c in listed if not remedies[c])]
    return list(dict.fromkeys([*said, *opened]))[:most]


def remedy(code: str, run: HasId | str) -> str:
    """What to do in a sentence, with this run's commands in it; "" where a notebook says more, or the code itself."""
    known = ReasonCode.known(code)
    if known is None or not known.remedy:
        return ""
    folder = runs.RunFolder.of(run if isinstance(run, str) else run.id)
    names = ("resume", "status", "fence", "verify")
    commands = {name: folder.command(name) for name in names}
    return known.remedy.format(**commands, recovery=command(Step.CHECKPOINT_RECOVERY, folder), runbook=RUNBOOK)


def command(step: plan.Step, run: HasId | str, output: str = "OUT.ipynb") -> str:
    """The papermill command that runs a step's notebook on this run, wherever its reports are."""
    run_id = run if isinstance(run, str) else run.id
    elsewhere = runs.reports_root() != runs.REPOSITORY / "reports"
    where = f"RUNBOOK_REPORTS={shlex.quote(str(runs.reports_root()))} " if elsewhere else ""
    if os.environ.get("RUNBOOK_WORKSPACE") and runs.workspace_root() != runs.REPOSITORY / "workspace":
        where += f"RUNBOOK_WORKSPACE={shlex.quote(str(runs.workspace_root()))} "
    return f"{where}papermill notebooks/{step.notebook} {output} -p run_id {shlex.quote(run_id)}"


def lab(step: plan.Step) -> str:
    """The command that opens a step's notebook in JupyterLab, to fill in `run_id` and change cells."""
    return f"jupyter lab notebooks/{step.notebook}"


def steps_for(codes: Iterable[str]) -> list[plan.Step]:
    """The steps for many codes, each once, the one that explains most of them first; 40 only where nothing else does."""
    counted: dict[str, int] = {}
    for code in codes:
        if (step := notebook_for(code)) is not None:
            counted[step.number] = counted.get(step.number, 0) + 1
    named = sorted((s for s in counted if s != TREE), key=lambda s: (-counted[s], s))
    return [plan.find(s) for s in named or counted]

"""What the command prints while it works and when it is done. A lost terminal stops nothing."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from helpers.errors import one_line
from helpers.formatting import duration
from helpers.results import Check, StepResult, Verdict
from helpers.run import plan
from helpers.run.folders import RunFolder, RunPath, RunState
from helpers.status import overview

WIDTH = 110


class Console:
    """Standard output: lines, and one bar at the bottom where a person is watching."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._label = ""
        self._lost = False

    def say(self, text: str = "") -> None:
        """A line, or several."""
        self.clear()
        self._guarded(lambda: print(text, flush=True))

    def follow(self, folder: RunFolder, step: plan.Step) -> None:
        """Bring the bar up to what the step at work last reported."""
        if self._lost or not sys.stdout.isatty():
            return
        state = _progress(folder.workspace / RunPath.PROGRESS)
        if state is not None and state["step"] == step.number:
            self._guarded(lambda: self._draw(state))

    def clear(self) -> None:
        """Take the bar away."""
        bar, self._bar, self._label = self._bar, None, ""
        if bar is not None:
            self._guarded(bar.close)

    def _draw(self, state: dict[str, Any]) -> None:
        if state["label"] != self._label or self._bar is None:
            self.clear()
            self._label = str(state["label"])
            self._bar = tqdm(
                total=state["total"], initial=state["done"], desc=f"  {state['step']} {self._label}", unit=f" {state['unit']}",
                leave=False, file=sys.stdout, dynamic_ncols=True, mininterval=0,
            )  # fmt: skip
        self._bar.n = state["done"]
        self._bar.refresh()

    def _guarded(self, action: Any) -> None:
        if self._lost:
            return
        try:
            action()
        except (OSError, ValueError):  # the terminal is gone, or its pipe was closed
            self._lost = True


def _progress(path: Path) -> dict[str, Any] | None:
    try:
        state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return state


def step_line(step: plan.Step, result: StepResult) -> str:
    """`  22  Migrate              pass           12 s`"""
    return f"  {step.number}  {step.title:<22} {overview.state(result):<14} {duration(result.seconds):>12}"


def summary(folder: RunState, steps: Sequence[plan.Step], verdict: str) -> str:
    """One screen: what failed or was noted in these steps, the verdict, and the file to open."""
    lines = ["", f"Run {folder.id}: {_route(folder)}"]
    for step in steps:
        result = folder.result(step.number)
        noted = _findings(result) if result is not None else []
        if noted:
            lines += [f"  {step.number}  {step.title}", *noted]
    return "\n".join([*lines, "", f"Verdict: {verdict}", f"Open:    {folder.reports / RunPath.PAGE}"])


def _route(folder: RunState) -> str:
    parameters = folder.parameters
    return one_line(f"{parameters.source.label} → {parameters.target.label}, schema {parameters.schema_name}")


def _findings(result: StepResult) -> list[str]:
    """At most three lines a step: failures first, then what was marginal, then warnings; and what was not exercised."""
    order = [Verdict.FAIL, Verdict.MARGINAL, Verdict.WARNING]
    found = sorted((c for c in result.checks if c.verdict in order), key=lambda c: order.index(c.verdict))
    lines = [f"      {c.verdict:<8} {one_line(_finding(c), WIDTH)}" for c in found[:3]]
    if result.error is not None and not any(c.verdict is Verdict.FAIL for c in found):
        lines = [f"      {one_line(result.error['line'], 2 * WIDTH)}", *lines[:2]]
    lines += [f"      and {len(found) - 3} more"] if len(found) > 3 else []
    left = ", ".join(c.name for c in result.checks if c.verdict is Verdict.NOT_EXERCISED)
    return [*lines, f"      {one_line(f'not exercised: {left}', WIDTH)}"] if left else lines


def _finding(check: Check) -> str:
    measured = f": {check.found}" if check.found else ""
    ids = ", ".join(str(row.get("id", row)) for row in check.ids[:3]) if check.verdict is Verdict.FAIL else ""
    return ". ".join(filter(None, [f"{check.name}{measured}", check.detail, ids and f"Such as {ids}"]))


def table(rows: list[dict[str, Any]]) -> str:
    """Rows of equal keys as aligned columns with a head."""
    if not rows:
        return ""
    heads = list(rows[0])
    cells = [[one_line(str(row[h]), 60) for h in heads] for row in rows]
    widths = [max(len(h), *(len(line[i]) for line in cells)) for i, h in enumerate(heads)]
    lines = [heads, *cells]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)

"""How long the steps took beside what was expected: the dry run's estimate, and the runbook's own figure."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from helpers.cutover import CutoverState
from helpers.cutover.state import DONE, RESTARTED, WATCHING
from helpers.fence import FenceState, takes_no_writes
from helpers.fence.state import LIFTING, UP
from helpers.results import StepResult
from helpers.run import plan
from helpers.run.folders import RunFolder

# Minutes that the runbook gives a step: the headings of its sections, the timeline of Appendix A for the review.
RUNBOOK_MINUTES: dict[str, tuple[float, float]] = {
    "20": (5, 5), "21": (5, 5), "22": (45, 60), "23": (10, 10), "24": (5, 5), "25": (10, 10), "50": (60, 60),
}  # fmt: skip
RUNBOOK_TOTAL = "90 to 120 min"


def rows(folder: RunFolder) -> list[dict[str, Any]]:
    """One row a step of the line that left a result. Seconds: actual, estimate (None where the dry run gave none),
    runbook_low and runbook_high."""
    dry = folder.result("13")
    parts = (dry.facts.get("estimate") or []) if dry is not None else []
    found = []
    for step in plan.LINE:
        result = folder.result(step.number)
        if result is None or not result.finished:
            continue
        estimated = [float(p["seconds"]) for p in parts if str(p["part"]).startswith(f"{step.number} ")]
        low, high = RUNBOOK_MINUTES.get(step.number, (None, None))
        found.append({
            "number": step.number, "step": f"{step.number} {step.title}", "actual": result.seconds,
            "estimate": sum(estimated) if estimated else None, "runbook_low": low and 60 * low,
            "runbook_high": high and 60 * high,
        })  # fmt: skip
    return found


def downtime(folder: RunFolder) -> tuple[float | None, str]:
    """(Seconds in which nobody could write, how that is known). Reads are served throughout; writes stop with the fence
    and go on at the target once the application runs on it. (None, why) where it was not measured."""
    fence, cutover = FenceState.read(folder.workspace), CutoverState.read(folder.workspace)
    if fence is None:
        step = folder.result("20")
        kind = ((step.facts.get("fence") or {}).get("kind") if step is not None else None) or "none"
        if takes_no_writes(step):
            return 0.0, "none by this run: the source itself took no writes before it, and reads were served throughout"
        return (
            (0.0, "no fence was put up: reads and writes were served throughout")
            if kind == "none"
            else (None, "not recorded")
        )
    up = [e["when"] for e in fence.events if e["state"] == UP]
    ends = [
        e["when"] for e in (cutover.events if cutover is not None else []) if e["state"] in (RESTARTED, WATCHING, DONE)
    ]
    ends += [e["when"] for e in fence.events if e["state"] == LIFTING]
    later = [when for when in ends if up and when > up[-1]]
    if not later:
        return None, "the fence stands still, and no cutover is recorded"
    seconds = (datetime.fromisoformat(min(later)) - datetime.fromisoformat(up[-1])).total_seconds()
    return seconds, "writes only: from the fence until the application ran on the target; reads never stopped"


def night_seconds(results: dict[str, StepResult]) -> float:
    """Of the steps 20 to 25, without the pauses between them."""
    return sum(r.seconds for number, r in results.items() if plan.FENCE <= number <= "25")

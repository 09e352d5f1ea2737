"""The success record and the documentation update of the runbook (Section 5), as far as this run has got.

A figure that no step has recorded is shown as not recorded. The status is SUCCESS only once clients were moved and the
steps after it passed; until then the record says what is still missing, so that nobody files it too early.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from helpers.report.checklist import NOT_RECORDED, Item
from helpers.report.facts import RunView
from helpers.report.gantt import instant, outside_window
from helpers.words import count, duration, percent, text

_CUTOVER, _ROLLBACK = "25", "27"
_DEVIATIONS = ("no_fence", "outside_window")  # reason codes of checks that say so
_AFTER = (
    ("50", "Monitoring of the first hour"),
    ("51", "Performance"),
    ("52", "Integration tests"),
    ("53", "Closeout"),
)


def status(view: RunView) -> tuple[str, str]:
    """The record's status and why, in words."""
    if view.ran(_ROLLBACK):
        if view.rehearsal:
            return "REHEARSED", "Cutover and rollback were drilled; nobody was moved."
        if not view.passed(_ROLLBACK):
            return "NO SUCCESS", view.outcome.headline
        return "ROLLED BACK", "The source is in service again; step 27 says what was undone."
    if view.outcome.kind in ("no-go", "failed"):
        return "NO SUCCESS", view.outcome.headline
    if not view.table("cut_over"):
        why = "rehearsal: no client is moved" if view.rehearsal else "clients still use the source"
        return "NOT YET", f"No cutover so far ({why})."
    if left := [title for number, title in _AFTER if not view.passed(number)]:
        return "NOT YET", f"Cut over; not recorded as passed: {', '.join(left)}."
    return "SUCCESS", "Cut over, watched and closed out."


def record(view: RunView) -> list[Item]:
    """The lines of the success record and of the documentation update, in the runbook's order."""
    return [*_metrics(view), *_collections(view), *_after(view)]


def deviations(view: RunView) -> list[str]:
    """What was not done as written: parameters changed by a resume, no fence, a start outside the window."""
    found = [f"Parameters were changed by a resume: {text(change, 200)}" for change in _list(view.run.get("changes"))]
    found += [outside] if (outside := outside_window(view)) else []
    for step, checks in view.findings:
        found += [f"Step {step.number}: {text(c.detail or c.name, 300)}" for c in checks if c.reason in _DEVIATIONS]
    return list(dict.fromkeys(found))


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _metrics(view: RunView) -> Iterator[Item]:
    yield Item("Date", view.date or NOT_RECORDED)
    yield Item("Execution time (runbook: 90 to 120 min)", _execution(view))
    inputs = view.table("matrix_inputs")
    checked, chunks, valid = (inputs.get(key) for key in ("checked", "chunks", "valid"))
    whole = isinstance(chunks, int) and isinstance(checked, int) and view.ran("23")
    shown = f"{checked:,} of {count(chunks, 'chunk')}" if whole else NOT_RECORDED  # type: ignore[arg-type]
    yield Item("Chunks migrated", shown)
    known = whole and isinstance(valid, int) and chunks
    rate = f"{percent(valid / chunks)} ({valid:,} of {chunks:,})" if known else NOT_RECORDED  # type: ignore[operator]
    yield Item("Validation pass rate", rate)
    latency = view.fact("mean_latency_ms")
    yield Item("Query latency, mean", f"{text(latency)} ms" if isinstance(latency, (int, float)) else NOT_RECORDED)
    gone_back = "drilled, not triggered" if view.rehearsal else "Yes"
    yield Item("Rollback triggered", gone_back if view.ran(_ROLLBACK) else "No")
    yield Item("Downtime", _downtime(view))


def _execution(view: RunView) -> str:
    """From the first step of the night to the end of the last."""
    night = [s.result for s in view.steps if s.result and "20" <= s.number < "30"]
    starts = [when for r in night if (when := instant(r.started))]
    ends = [when for r in night if (when := instant(r.finished))]
    if not starts or not ends:
        return NOT_RECORDED
    worked = sum((r.seconds for r in night), 0.0)
    return f"{duration((max(ends) - min(starts)) / timedelta(seconds=1))} on the clock, {duration(worked)} of work"


def _downtime(view: RunView) -> str:
    """Reads never stop; writes do from the moment that the fence stands."""
    seconds = view.fact("downtime_seconds")
    if isinstance(seconds, (int, float)):
        return duration(seconds)
    fence = view.step("20")
    if fence is None or fence.result is None:
        return NOT_RECORDED
    kind = view.table("fence").get("kind")
    if kind in (None, "none"):
        return "none: no fence was put up, and reads were served throughout"
    return f"none for reads; writes to the source refused since {text(fence.result.finished[:19])} UTC"


def _collections(view: RunView) -> Iterator[Item]:
    for row in view.rows("targets"):
        if isinstance(row.get("target"), int):
            yield Item(f"Collection {text(row.get('collection'), 80)}", count(row["target"], "chunk"))


def _after(view: RunView) -> Iterator[Item]:
    for number, title in ((_CUTOVER, "Cutover and application health"), *_AFTER):
        step = view.step(number)
        if step is not None and step.result is not None:
            yield Item(title, f"step {number}", step.verdict)
        else:
            yield Item(title, NOT_RECORDED)

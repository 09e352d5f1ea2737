"""The success record and the documentation update of the runbook (Section 5), as far as this run has got.

A figure that no step has recorded is shown as not recorded. The status is SUCCESS only once clients were moved and the
steps after it passed; until then the record says what is still missing, so that nobody files it too early.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from helpers.fence.state import NO_WRITES
from helpers.report.checklist import NOT_RECORDED, Item
from helpers.report.facts import RunView
from helpers.report.gantt import instant, outside_window
from helpers.words import count, duration, moment, percent, text

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


def closed(view: RunView) -> bool:
    """Whether this is a success to be recorded as one: cut over, every step after it passed, nobody rolled back."""
    if not view.table("cut_over") or any(not view.passed(number) for number, _ in _AFTER):
        return False
    return status(view)[0] in ("SUCCESS", "REHEARSED")


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


def findings(view: RunView) -> list[str]:
    """Each check that did not simply pass, once, in the order of the line; those of the deviations left out."""
    found = [
        f"Step {step.number}, {text(check.name, 80)} ({check.verdict.value}): {text(check.detail or check.measured, 300)}"
        for step, checks in view.findings if step.number != _ROLLBACK for check in checks if check.reason not in _DEVIATIONS
    ]  # fmt: skip
    return list(dict.fromkeys(found))


def tools(view: RunView) -> list[tuple[str, str]]:
    """The runbook's three tools and what became of them in this run."""
    snapshot = view.table("snapshot")
    kept = f"; snapshot {text(snapshot['id'])}, verified" if snapshot.get("id") else ""
    drills = view.run.get("drills")
    return [
        ("A26 migration", _verdict_of(view, "22")),
        (
            "A27 validator",
            f"{_verdict_of(view, '23')}; {sum(c.verdict.value == 'pass' for c in view.tests)} tests passed",
        ),
        (
            "A28 snapshot and rollback",
            f"{_verdict_of(view, '21')}{kept}" + ("; restore and rollback drilled" if drills else ""),
        ),
    ]


def after(view: RunView) -> list[tuple[str, str]]:
    """What stands after the migration: each line with what was measured."""
    watch, tests = view.table("monitoring"), view.table("integration")
    search = next((c for c in view.tests if c.name == "search equivalence"), None)
    looks = f"{watch['looks']} looks over {duration(float(watch['seconds']))}" if watch.get("looks") else NOT_RECORDED
    ran = (
        f"{tests['passed']} of {tests['tests']} passed, {tests['skipped']} not applicable"
        if tests.get("tests")
        else NOT_RECORDED
    )
    return [
        ("Application", f"{_verdict_of(view, _CUTOVER)}: {_seen(view)}"),
        ("Semantic search", f"{search.verdict.value}: {text(search.measured)}" if search is not None else NOT_RECORDED),
        ("Watch after the cutover", f"{_verdict_of(view, '50')}: {looks}, {watch.get('failed_looks', 0)} failed"),
        ("Performance", _verdict_of(view, "51")),
        ("Integration tests", f"{_verdict_of(view, '52')}: {ran}"),
    ]


def signed(view: RunView) -> list[tuple[str, str]]:
    """The sign-offs of the cutover: role, and who signed when."""
    found = [(s.role.replace("_", " "), f"{text(s.name, 80)}, {text(s.decision.upper(), 20)}, {moment(s.when)}")
             for s in view.signoffs if s.gate == "cutover" and not s.superseded]  # fmt: skip
    return found or [("nobody", "no sign-off is required by the parameters")]


def _verdict_of(view: RunView, number: str) -> str:
    step = view.step(number)
    return step.verdict if step is not None else "not run"


def _seen(view: RunView) -> str:
    """Whether the application was seen to use the target."""
    found = next((c for c in view.checks(_CUTOVER) if c.name == "application uses the target"), None)
    return (
        text(found.measured)
        if found is not None and found.verdict.value == "pass"
        else "not seen at the target from here"
    )


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
        if view.table("fence").get(NO_WRITES):
            return "none: the source itself took no writes, and reads were served throughout"
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

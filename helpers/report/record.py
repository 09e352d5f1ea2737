"""The success record and the documentation update of the runbook (Section 5), up to the last step of this run.

A figure that no step has recorded is shown as not recorded. The status is SUCCESS only once clients were switched and the
steps after the cutover passed; until then the record lists what is missing, so that nobody files it too early.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from helpers import formatting
from helpers.evidence.signoffs import CLOSEOUT
from helpers.formatting import (
    announced_in_words,
    count,
    duration,
    merged_answers,
    moment,
    own_chunk,
    percent,
    share_range,
    text,
)
from helpers.notify import CRITICAL, LEVELS
from helpers.parameters.sections import is_placeholder
from helpers.reason_codes import ReasonCode
from helpers.report import RunView
from helpers.report.clients import ASKED, answers, clients_get, unseen
from helpers.report.numbers import Counts, counts, downtime, forward, outside_window, rollback, rollback_words
from helpers.report.outcome import clients, drilled, drilled_parts
from helpers.results import UNREMARKABLE, Check, Verdict, changes_in_words, worst
from helpers.run.plan import Step

# -- markdown ----------------------------------------------------------------------------------------------------------

# The runbook's two documents, CHROMADB_MIGRATION_SUMMARY.md and CHROMADB_MIGRATION_SUCCESS.md, from measured values.


SUMMARY, SUCCESS = "CHROMADB_MIGRATION_SUMMARY.md", "CHROMADB_MIGRATION_SUCCESS.md"
_MARKUP = re.compile(r"([\\`*\[\]<>|#]|(?<![^\W_])_|_(?![^\W_]))")  # an underscore inside a word is no markup


def plain(value: Any, limit: int = 400) -> str:
    """Return any value as one line with its markup escaped: foreign text makes no table, link, heading or tag."""
    return _MARKUP.sub(r"\\\1", formatting.text(value, limit))


def code(value: Any) -> str:
    """Return a command or a path between backticks; as plain text if it contains backticks."""
    shown = formatting.text(value, 600)
    if shown.partition(" ")[0] != "runbook" and "/" not in shown:
        return plain(shown, 600)
    return plain(shown, 600) if "`" in shown or "|" in shown else f"`{shown}`"


def summary(facts: Mapping[str, Any]) -> str:
    return _render("summary.md.j2", facts)


def success(facts: Mapping[str, Any]) -> str:
    return _render("success.md.j2", facts)


def _render(template: str, facts: Mapping[str, Any]) -> str:
    return re.sub(r"\n{3,}", "\n\n", _environment().get_template(template).render(**facts)).strip() + "\n"


@cache
def _environment() -> Environment:
    environment = Environment(  # Markdown: `plain` escapes its markup
        loader=PackageLoader("helpers.report"), autoescape=False, undefined=StrictUndefined, trim_blocks=True,  # noqa: S701  # nosec B701
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters.update(
        plain=plain, code=code, duration=formatting.duration, moment=formatting.moment, many=formatting.count
    )
    return environment


# -- checklist ---------------------------------------------------------------------------------------------------------

# The runbook's validation report checklist (Section 2, Step 5), filled in with what this run measured.
#
# An item whose figure no step has recorded is shown as not recorded: a page never fills a gap.


NOT_RECORDED = "not recorded"
_FIELDS = ("source", "author", "authenticity_score", "if_citation_uri")


@dataclass(frozen=True, slots=True)
class Item:
    """One line of the checklist."""

    label: str
    measured: str
    verdict: str = ""


@dataclass(frozen=True, slots=True)
class RecordSection:
    """A group of lines with its result."""

    title: str
    items: list[Item]

    @property
    def result(self) -> str:
        """The worst verdict of its lines; "not recorded" where all lack a figure, "" where none is judged."""
        verdicts = [Verdict(item.verdict) for item in self.items if item.verdict in set(Verdict)]
        if not verdicts:
            return NOT_RECORDED if all(item.measured == NOT_RECORDED for item in self.items) else ""
        return worst(verdicts).value


def checklist(view: RunView) -> list[RecordSection]:
    """Return the sections in the runbook's order."""
    return [
        RecordSection("Source and target", list(_ends(view))),
        RecordSection("Metadata schema", list(_fields(view))),
        RecordSection("Embedding validation", list(_embeddings(view))),
        RecordSection("Semantic search validation", list(_queries(view))),
        RecordSection("Collection counts", list(_counts(view))),
        RecordSection("Result", list(_result(view))),
    ]


def _ends(view: RunView) -> Iterator[Item]:
    counted = counts(view.results)
    for side, n in (("source", counted.source), ("target", counted.migrated)):
        section = view.parameters.get(side)
        place = section.get("url") or section.get("path") if isinstance(section, dict) else None
        chunks = count(n, "chunk") if n is not None else f"chunks {NOT_RECORDED}"
        yield Item(side.capitalize(), f"{text(place or NOT_RECORDED)} ({chunks})")


def _fields(view: RunView) -> Iterator[Item]:
    if str(view.parameters.get("schema", "")) == "identity":
        yield Item("The 12 fields", "schema identity: metadata are carried over as they are", "not applicable")
        return
    inputs = view.table("matrix_inputs")
    complete, checked = (inputs.get(key) for key in ("complete", "checked"))
    known = isinstance(complete, int) and isinstance(checked, int)
    values = view.table("metadata")
    filled = {row["field"]: row["default"] for row in values.get("fields") or []}  # where there was no value
    for row in values.get("changes") or []:
        if (row["rule"], row["kind"]) == ("default", "changed"):  # in place of one
            filled[row["field"]] = filled.get(row["field"], 0) + row["chunks"]
    for name in _FIELDS if known and complete == checked else ():
        suffix = f"{filled[name]:,} by a default" if name in filled else "defaults not recorded"
        yield Item(f"{name} field present", f"YES ({complete:,}/{checked:,}, {suffix})", "pass")
    shown = f"{'YES' if complete == checked else 'NO'}: {formatting.completeness(inputs)}" if known else NOT_RECORDED
    yield Item("Every required field present", shown, _verdict(complete == checked) if known else "")


def _embeddings(view: RunView) -> Iterator[Item]:
    inputs = view.table("matrix_inputs")
    labels = (("lost", "No missing embeddings in the source", "missing"), ("nan", "No NaN values in the source", "NaN"))
    for key, label, noun in labels:
        n = inputs.get(key)
        if isinstance(n, int):
            shown = f"NO ({n:,} {noun}, quarantined)" if n else f"YES (0 {noun})"
            yield Item(label, shown, "warning" if n else "pass")
        else:
            yield Item(label, NOT_RECORDED)
    sizes = sorted({text(size).replace(",", "") for size in view.table("dimensions").values()})
    several = f"one a collection: {', '.join(sizes)}" if sizes else NOT_RECORDED
    expected = next((c for c in view.checks(Step.SOURCE_HEALTH) if c.name == _DIMENSIONS), None)
    judged = expected.verdict.value if expected else ""
    yield Item("Dimension consistency", f"all {sizes[0]}" if len(sizes) == 1 else several, judged if sizes else "")
    anew = view.table("reembedded").get("anew")  # a warning of step 23 says of which collections
    yield _check(view, "embeddings", f"Vectors that differ from {'what was made, or ' * bool(anew)}the source's, by id")


def _check(view: RunView, name: str, label: str) -> Item:
    """Return a test of step 23 as one line: measured against its threshold."""
    check = next((check for check in view.tests if check.name == name), None)
    if check is None:
        return Item(label, NOT_RECORDED)
    limit = f" (expected {text(check.expected, 60)})" if check.expected else ""
    return Item(label, f"{text(check.measured_text or check.detail, 60)}{limit}", check.verdict.value)


def _queries(view: RunView) -> Iterator[Item]:
    yield _check(view, "search equivalence", _searched(view))
    yield from _recall(view)
    rows = view.rows("queries")
    for row in rows:
        label = f"Query “{text(row.get('text'), 80)}” is answered"
        if not row.get("applicable", True):
            yield Item(label, text(row.get("why")), "not applicable")
            continue
        answer = f"{text(row.get('found'))} results, top distance {text(row.get('distance'))}"
        answer += f", {text(row['distance_before'])} in the source" if row.get("distance_before") is not None else ""
        shown = f"{'YES' if row.get('ok') else 'NO'} ({answer})"
        yield Item(label, f"{shown} {text(row['why'])}" if row.get("why") else shown, _verdict(bool(row.get("ok"))))
    yield from _distance(view, rows)
    if not rows:
        yield Item("Named queries", "none named in the parameters" if view.fact("matrix_inputs") else NOT_RECORDED)


def _searched(view: RunView) -> str:
    """Return what the test of searches counts. Searches of clients in merged collections have their own lines."""
    rows = (view.fact("recall") or {}).get("rows") or []
    if not (whole := {row["target"] for row in rows if row["scope"] == "unrestricted"}):
        return "Collections whose searches find what the source's find"
    own = sum(row["scope"] == "restricted" for row in rows)
    return (f"Collections whose searches find what they must: {own} of the source, each among its own chunks, and "
            f"{len(whole)} merged ones against an exact search of the merged chunks")  # fmt: skip


def _recall(view: RunView) -> Iterator[Item]:
    """Yield the recall (0-1) in each scope that was asked, with the number of queries; for merged collections also the change."""
    recall = view.fact("recall") or {}
    own = own_chunk(recall)
    for row in (recall.get("pooled") or {}).values():
        if not row or row.get("recall") is None:
            continue
        asked = f"{formatting.judged_queries(row)} ({own}), k = {recall['k']}; {text(row['filter'], 120)}"
        shown = f"{row['recall']:.3f}, 95 % interval {row['low']:.3f} to {row['high']:.3f} (Wilson); {asked}"
        if row.get("before") is not None and row["scope"] == "restricted":  # the source has no merged collection
            shown += f"; source: {row['before']:.3f}"
        yield Item(f"Recall, {formatting.scope(row['scope'])}", shown, row["verdict"])
        if row.get("shared_expected") is not None:
            changed = merged_answers(row, recall["k"])
            if row.get("shared_measured") is not None:
                changed += f"; the target's answers: {percent(row['shared_measured'])} as before"
            changed += f"; without a filter {share_range(answers(recall))}; queries are stored vectors, {own}"
            changed += ". Every chunk was compared: the answers change because chunks were routed to other collections."
            if (recall.get("announced") or {}).get("pooled") is not None:
                yield Item("Same results, asked as announced", f"{announced_in_words(recall['announced'])}; {ASKED}")
            yield Item("Expected change for clients: collections were split and merged", changed)


def _distance(view: RunView, rows: list[dict[str, Any]]) -> Iterator[Item]:
    """Yield the runbook's rule for the best hit, which applies to cosine only."""
    distances = [float(row["distance"]) for row in rows if isinstance(row.get("distance"), (int, float))]
    section = view.parameters.get("validation")
    limit = section.get("maximum_distance", 0.8) if isinstance(section, dict) else 0.8
    if not distances:
        return
    label = f"Top result distance < {text(limit, 20)}"
    if {row.get("space") for row in view.rows("targets")} - {"cosine", None}:
        yield Item(label, "a rule for cosine; this target has another space", "not applicable")
        return
    good = all(distance < limit for distance in distances)
    shown = f"{'YES' if good else 'NO'} (avg {sum(distances) / len(distances):.2f}, worst {max(distances):.2f})"
    yield Item(label, shown, _verdict(good))


def _counts(view: RunView) -> Iterator[Item]:
    rows = view.rows("counts")
    for row in rows:
        before, after, aside = (row.get(k) for k in ("source", "target", "quarantined"))
        if isinstance(before, int) and isinstance(after, int) and isinstance(aside, int):
            match = after + aside + (out := row.get("left_out") or 0) == before
            extra = (f" + {aside:,} quarantined" if aside else "") + (f" + {out:,} left out" if out else "")
            shown = f"{before:,} → {after:,}{extra} ({'MATCH' if match else 'DIFFERENT'})"
            yield Item(text(row.get("collection"), 80), shown, _verdict(match))
    if not rows:
        yield Item("Counts by collection", NOT_RECORDED)


def _result(view: RunView) -> Iterator[Item]:
    """Yield the last lines of the runbook's report: overall result, recommendation, who reviewed it and when."""
    inputs = view.table("matrix_inputs")
    valid, chunks = inputs.get("valid"), inputs.get("chunks")
    review = view.step(Step.REVIEW)
    decision = str(review.result.facts.get("decision", "")) if review and review.result else ""
    known = isinstance(valid, int) and isinstance(chunks, int) and chunks
    rate = f"{percent(valid / chunks)} acceptance rate ({valid:,} of {chunks:,})" if known else "rate not recorded"  # type: ignore[operator]
    overall = {"GO": "PASS, ", "NO-GO": "FAIL, "}.get(decision, "")
    yield Item(
        "Overall result",
        f"{overall}{rate}" if known or decision else NOT_RECORDED,
        _verdict(decision == "GO") if decision else "",
    )
    yield Item("Recommendation", text(decision, 20) if decision else NOT_RECORDED)
    signed = [s for s in view.signoffs if s.gate == "cutover" and not s.superseded]
    for sign in signed:
        shown = f"{text(sign.name, 80)}, {text(sign.decision.upper(), 20)}, {moment(sign.when)}"
        yield Item(f"Reviewed by {text(sign.role.replace('_', ' '), 60)}", shown)
    if not signed:
        yield Item("Reviewed by", "nobody has signed yet")


def _verdict(good: bool) -> str:
    return (Verdict.PASS if good else Verdict.FAIL).value


# -- record ------------------------------------------------------------------------------------------------------------


_DIMENSIONS = "collections of an unexpected dimension"
_AT_TARGET = "application at the target"
_DEVIATIONS = (ReasonCode.NO_FENCE, ReasonCode.OUTSIDE_WINDOW)
_AFTER = (
    (Step.MONITOR, "Monitoring after the cutover"),
    (Step.PERFORMANCE, "Performance"),
    (Step.INTEGRATION, "Integration tests"),
    (Step.CLOSEOUT, "Closeout"),
)


def status(view: RunView) -> tuple[str, str]:
    """Return the record's status and the reason."""
    if view.ran(Step.ROLLBACK):
        if view.rehearsal:
            return "REHEARSED", f"{clients(view)} {drilled(view)}".strip()
        if not view.passed(Step.ROLLBACK):
            return "NO SUCCESS", view.outcome.headline
        return "ROLLED BACK", "The source is in service again; step 27 says what was undone."
    if view.outcome.kind in ("no-go", "failed"):
        return "NO SUCCESS", view.outcome.headline
    if not view.table("cut_over"):
        return "NOT YET", clients(view)
    good = "REHEARSED" if view.rehearsal else "SUCCESS"
    if missing := [title for number, title in _AFTER if not view.passed(number)]:
        return "NOT YET", f"{clients(view)} Not recorded as passed: {', '.join(missing)}."
    after = {number for number, _ in _AFTER}
    if missing := [check.name for step in view.steps for check in step.not_exercised if step.number in after]:
        return good, f"{clients(view)} Closed out. Not exercised, or only in part: {text(', '.join(missing))}."
    return good, f"{clients(view)} Watched and closed out."


def closed(view: RunView) -> bool:
    """Return whether this is a success: cut over, every step after the cutover passed, no rollback."""
    if not view.table("cut_over") or any(not view.passed(number) for number, _ in _AFTER):
        return False
    return status(view)[0] in ("SUCCESS", "REHEARSED")


def record(view: RunView) -> list[Item]:
    """Return the lines of the success record and of the documentation update, in the runbook's order."""
    return [*_metrics(view), *_collections(view), *_after(view)]


def deviations(view: RunView) -> list[str]:
    """Return the deviations from the plan: parameters changed by a resume, no fence, a start outside the window, what was
    shortened or not exercised."""
    lines = [f"Parameters were changed by a resume: {text(change, 200)}" for change in _list(view.run.get("changes"))]
    lines += [outside] if (outside := outside_window(view)) else []
    lines += [f"Step {step.number}: {text(c.detail or c.name, 300)}" for step in view.steps if step.result
              for c in step.result.checks if c.reason in _DEVIATIONS and c.verdict not in UNREMARKABLE]  # fmt: skip
    lines += [f"Shortened or not exercised: {line}" for line in untried_here(view)]
    return list(dict.fromkeys(lines))


def findings(view: RunView) -> list[str]:
    """Return a line for each of `RunView.findings`."""
    return [f"{_steps(f.steps).capitalize()}, {text(f.check.name, 80)} ({f.check.verdict.value}): {finding_text(f.check)}"
            for f in view.findings]  # fmt: skip


def _steps(numbers: list[str]) -> str:
    return f"{'steps' if len(numbers) > 1 else 'step'} {', '.join(numbers)}"


def finding_text(check: Check) -> str:
    """Return `7 chunks (expected: = 0). The schema requires one.`"""
    detail = text(check.detail, 400) if check.detail else ""
    if check.measured is None or text(check.measured_text, 80) in detail or isinstance(check.measured, str | bool):
        return detail or text(check.measured, 200)
    wanted = f" (expected: {text(check.expected, 60)})" if check.threshold is not None else ""
    return ". ".join(filter(None, [f"{text(check.measured_text, 80)}{wanted}", detail]))


def known_at_decision(view: RunView) -> str:
    """Return how many findings were known at the decision, how many came later, and who signed the closeout knowing those."""
    if not view.ran(Step.REVIEW):
        return ""
    gate, parts = view.gates.get(CLOSEOUT), []
    signers = [f"{text(s.name, 60)} ({text(s.role.replace('_', ' '), 40)})" for s in view.signoffs if gate and s.gate == CLOSEOUT
           and s.decision == "go" and not s.superseded and s.role in gate.keys and s.role not in gate.missing]  # fmt: skip
    after = f"signed at the closeout by {', '.join(signers)}" if signers else "nobody had signed knowing them by then"
    for side, when in ((True, "known at the decision"), (False, "found after it")):
        if steps := [f.steps[0] for f in view.findings if f.at_decision is side]:
            parts.append(f"{len(steps)} {when} ({_steps(sorted(set(steps)))}){f': {after}' * (not side)}")
    early = sum(row.verdict == "failed" for row in view.attempts)
    parts += [f"{count(early, 'attempt')} of a step failed besides, see “Steps”"] * bool(early and parts)
    return ", ".join(parts)


def lessons(view: RunView) -> list[str]:
    """Return deviations and findings, each once: a deviation that a check found is a finding."""
    return [line for line in deviations(view) if not line.startswith("Step ")] + findings(view)


def values(view: RunView) -> str:
    """Return the number of field values that the schema changed, by kind; the same words on pages and in documents."""
    n = counts(view.results)
    if n.changed is None or n.filled is None or n.derived is None or n.set is None:
        return NOT_RECORDED
    told = f" ({told})" if (told := changes_in_words(n.by_rule)) else ""
    return (f"{n.changed:,} changed{told}; missing before: {n.filled:,} got a default, {n.derived:,} what the document tells, "
            f"{n.set:,} are set by the schema")  # fmt: skip


def defaults(n: Counts) -> str:
    """Return what the number of defaults counts, and how it fits the missing values of step 11, which covers core fields only."""
    if n.filled is None or n.filled_core is None:
        return "missing fields that got a default"
    rest, where = n.filled - n.filled_core, f"in {count(n.defaulted, 'chunk')}; " if n.defaulted else ""
    return where + (
        f"{formatting.core_missing(n.filled_core, n.derived_core or 0)} (step 11); {rest:,} in those of some types only"
    )


def tools(view: RunView) -> list[tuple[str, str]]:
    """Return the runbook's three tools and their results in this run."""
    snapshot = view.table("snapshot")
    place = f" in {text(snapshot['stored'])}" if snapshot.get("stored") else ""
    snapshot_note = f"; snapshot {text(snapshot['id'])}, verified{place}" if snapshot.get("id") else ""
    drilled_note = f"; drilled: {', '.join(parts)}" if (parts := drilled_parts(view)) else ""
    if rollback(view.results.get(Step.ROLLBACK)) is None:
        drilled_note += "; rollback: NOT EXERCISED"
    return [
        ("A26 migration", _verdict_of(view, Step.MIGRATE)),
        (
            "A27 validator",
            f"{_verdict_of(view, Step.VALIDATE)}; {sum(c.verdict.value == 'pass' for c in view.tests)} tests passed",
        ),
        ("A28 snapshot and rollback", f"{_verdict_of(view, Step.SNAPSHOT)}{snapshot_note}{drilled_note}"),
    ]


def after(view: RunView) -> list[tuple[str, str]]:
    """Return the state after the migration: (subject, what was measured)."""
    watch, tests = view.table("monitoring"), view.table("integration")
    search = next((c for c in view.tests if c.name == "search equivalence"), None)
    samples = f"{watch['looks']} looks over {duration(float(watch['seconds']))}" if watch.get("looks") else NOT_RECORDED
    results = (
        f"{tests['passed']} of {tests['tests']} passed, {tests['skipped']} not applicable"
        if tests.get("tests")
        else NOT_RECORDED
    )
    return [
        ("Application", f"{_verdict_of(view, Step.CUTOVER)}: {_seen(view)}"),
        (
            "Semantic search",
            f"{search.verdict.value}: {text(search.measured_text)}; {_searched(view)}{clients_get(view)}"
            if search
            else NOT_RECORDED,
        ),
        (
            "Watch after the cutover",
            f"{_verdict_of(view, Step.MONITOR)}: {samples}, {watch.get('failed_looks', 0)} failed",
        ),
        ("Performance", _verdict_of(view, Step.PERFORMANCE)),
        ("Integration tests", f"{_verdict_of(view, Step.INTEGRATION)}: {results}"),
    ]


def signed(view: RunView) -> list[tuple[str, str]]:
    """Return the sign-offs of the cutover: (role, who signed what and when)."""
    rows = [(s.role.replace("_", " "), f"{text(s.name, 80)}, {text(s.decision.upper(), 20)}, {moment(s.when)}")
             for s in view.signoffs if s.gate == "cutover" and not s.superseded]  # fmt: skip
    return rows or [("nobody", "no sign-off is required by the parameters")]


def _verdict_of(view: RunView, number: str) -> str:
    """Return the step's verdict, with what it did not exercise."""
    step = view.step(number)
    if step is None:
        return "not run"
    names = ", ".join(text(check.name, 60) for check in step.not_exercised)
    return f"{step.verdict} as far as it went (not exercised: {names})" if names else step.verdict


def not_exercised(view: RunView) -> list[str]:
    """Return what was not run, or only in part, each once, in the order of the steps."""
    checks = ((step.number, check) for step in view.steps for check in step.not_exercised)
    return list(dict.fromkeys(f"Step {number}, {_not_exercised(check)}" for number, check in checks))


def untried(view: RunView) -> list[tuple[str, list[str]]]:
    """Return (verdict, lines) of what this run did not try: not exercised, sampled only, not applicable."""
    idle = [f"Step {step.number}, {text(c.name, 80)}: {text(c.detail or c.measured, 160)}" for step in view.steps
            if step.result for c in step.result.checks if c.verdict is Verdict.NOT_APPLICABLE]  # fmt: skip
    groups = [(Verdict.NOT_EXERCISED.value, untried_here(view)), ("sampled", list(_sampled(view))),
             (Verdict.NOT_APPLICABLE.value, idle)]  # fmt: skip
    return [(verdict, lines) for verdict, lines in groups if lines]


def untried_here(view: RunView) -> list[str]:
    """Return what this run could have tried and did not, or only in part."""
    return [*not_exercised(view), *unseen(view)]


def _sampled(view: RunView) -> Iterator[str]:
    """Yield what steps judged by a sample of chunks, as recorded by `RunRecord.sampled`."""
    for step in view.steps:
        for row in step.result.facts.get("sampled") or [] if step.result else []:
            yield f"Step {step.number}, {text(row['what'], 80)}: {row['asked']:,} of {count(row['of'], 'chunk')}"


def _not_exercised(check: Check) -> str:
    numbers = isinstance(check.measured, int | float) and isinstance(check.threshold, int | float)
    figures = check.measured_text if numbers or not check.detail else ""  # "not asked of healthy" says nothing
    if numbers and check.measured:
        figures = f"{check.measured_text} of {check.expected.removeprefix(f'{check.relation} ')}"
    figures = "" if " of " in check.detail else figures  # the detail says as much in words
    return text(f"{check.name}: {'; '.join(filter(None, [figures, check.detail.removesuffix('.')]))}", 300)


def _seen(view: RunView) -> str:
    """Return whether the application was seen to use the target."""
    check = next((c for c in view.checks(Step.CUTOVER) if c.name == _AT_TARGET), None)
    return (
        text(check.detail or check.measured)
        if check is not None and check.verdict.value == "pass"
        else "not seen at the target from here"
    )


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _metrics(view: RunView) -> Iterator[Item]:
    yield Item("Date", view.date or NOT_RECORDED)
    yield Item("Execution time (runbook: 90 to 120 min)", _execution(view))
    n = counts(view.results)
    whole = n.source is not None and n.migrated is not None and view.ran(Step.VALIDATE)
    migrated = f"{n.migrated:,} of {count(n.source or 0, 'chunk')}" if whole else NOT_RECORDED
    yield Item("Chunks migrated", migrated)
    yield Item("Field values", values(view))
    inputs = view.table("matrix_inputs")
    chunks, valid = inputs.get("chunks"), inputs.get("valid")
    known = whole and isinstance(valid, int) and chunks
    rate = f"{percent(valid / chunks)} ({valid:,} of {chunks:,})" if known else NOT_RECORDED  # type: ignore[operator]
    yield Item("Validation pass rate", rate)
    latency = view.fact("mean_latency_ms")
    yield Item("Query latency, mean", f"{text(latency)} ms" if isinstance(latency, (int, float)) else NOT_RECORDED)
    triggered = "drilled, not triggered" if view.rehearsal else "Yes"
    times = rollback(view.results.get(Step.ROLLBACK))
    measured = f": {rollback_words(times)}" if times is not None else ""
    yield Item("Rollback triggered", f"{triggered}{measured}" if view.ran(Step.ROLLBACK) else "No")
    seconds, note = downtime(view.results, view.attempts, view.drill)
    yield Item("Write downtime", f"{duration(seconds)}, {note}" if seconds else note)


def _execution(view: RunView) -> str:
    """Return the time from the first step of the window to the end of the cutover, and its parts."""
    times = forward(view.results, view.attempts)
    if times is None:
        return NOT_RECORDED
    parts = (times.work, "of work"), (times.starts, "of notebook starts"), (times.attempts, "of earlier attempts")
    named = [f"{duration(seconds)} {words}" for seconds, words in parts if seconds]
    return f"{duration(times.wall)} from step 20 to the end of step 25: {', '.join(named)}, the rest between the steps"


def _collections(view: RunView) -> Iterator[Item]:
    for row in view.rows("targets"):
        if isinstance(row.get("target"), int):
            yield Item(f"Collection {text(row.get('collection'), 80)}", count(row["target"], "chunk"))


def _after(view: RunView) -> Iterator[Item]:
    for number, title in ((Step.CUTOVER, "Cutover and application health"), *_AFTER):
        step = view.step(number)
        if step is not None and step.result is not None:
            untried = "; ".join(f"not exercised: {_not_exercised(check)}" for check in step.not_exercised)
            yield Item(title, f"step {number}{untried and f'; {untried}'}", step.verdict)
        else:
            yield Item(title, NOT_RECORDED)


# -- contacts ----------------------------------------------------------------------------------------------------------

# For the run's page, the notebooks 00 and 53 and the summary.


_WHO = {
    "on_call": "On-call engineer (level 4)", "dba": "Database administrator (level 2)",
    "operations_lead": "Operations lead (level 3)", "channel": "Channel", "war_room": "War room",
}  # fmt: skip
_NOT_CALLED = "; no escalation level calls it, so no warning counts it"


def contacts_of(view: RunView) -> list[tuple[str, str]]:
    """Return the contacts of the run's parameters, without unfilled placeholders."""
    section = view.parameters.get("contacts")
    return contacts(
        {k: str(v) for k, v in section.items() if v and not is_placeholder(str(v))} if isinstance(section, dict) else {}
    )


def contacts(named: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return (who, how to reach them); a contact without a value is shown as not named."""
    called = {key for *_, key in (*LEVELS, CRITICAL)}
    return [(words, named.get(key) or f"not named (contacts.{key})" + _NOT_CALLED * (key not in called))
            for key, words in _WHO.items()]  # fmt: skip

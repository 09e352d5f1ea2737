"""The runbook's validation report checklist (Section 2, Step 5), filled in with what this run measured.

An item whose figure no step has recorded is shown as not recorded: a page never fills a gap.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from helpers.report.facts import RunView
from helpers.results import Verdict, worst
from helpers.words import count, moment, percent, text

NOT_RECORDED = "not recorded"
_FIELDS = ("source", "author", "authenticity_score", "if_citation_uri")


@dataclass(frozen=True, slots=True)
class Item:
    """One line of the checklist."""

    label: str
    measured: str
    verdict: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """A group of lines with its result."""

    title: str
    items: list[Item]

    @property
    def result(self) -> str:
        """The worst verdict of its lines; "not recorded" where all lack a figure, "" where none is judged."""
        found = [Verdict(item.verdict) for item in self.items if item.verdict in set(Verdict)]
        if not found:
            return NOT_RECORDED if all(item.measured == NOT_RECORDED for item in self.items) else ""
        if all(verdict is Verdict.NOT_APPLICABLE for verdict in found):
            return Verdict.NOT_APPLICABLE.value
        return worst(found).value


def checklist(view: RunView) -> list[Section]:
    """The sections in the runbook's order."""
    return [
        Section("Source and target", list(_ends(view))),
        Section("Metadata schema", list(_fields(view))),
        Section("Embedding validation", list(_embeddings(view))),
        Section("Semantic search validation", list(_queries(view))),
        Section("Collection counts", list(_counts(view))),
        Section("Result", list(_result(view))),
    ]


def _ends(view: RunView) -> Iterator[Item]:
    counts = view.rows("counts")
    for side in ("source", "target"):
        section = view.parameters.get(side)
        place = section.get("url") or section.get("path") if isinstance(section, dict) else None
        known = bool(counts) and all(isinstance(row.get(side), int) for row in counts)
        chunks = count(sum(row[side] for row in counts), "chunk") if known else f"chunks {NOT_RECORDED}"
        yield Item(side.capitalize(), f"{text(place or NOT_RECORDED)} ({chunks})")


def _fields(view: RunView) -> Iterator[Item]:
    if str(view.parameters.get("schema", "")) == "identity":
        yield Item("The 12 fields", "schema identity: metadata are carried over as they are", "not applicable")
        return
    complete, checked = (view.table("matrix_inputs").get(key) for key in ("complete", "checked"))
    known = isinstance(complete, int) and isinstance(checked, int)
    if known and complete == checked:
        for name in _FIELDS:
            yield Item(f"{name} field present", f"YES ({complete:,}/{checked:,})", "pass")
    shown = f"{'YES' if complete == checked else 'NO'} ({complete:,}/{checked:,})" if known else NOT_RECORDED
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
    expected = next((c for c in view.checks("10") if c.name == "each dimension is an expected one"), None)
    judged = expected.verdict.value if expected else ""
    yield Item("Dimension consistency", f"all {sizes[0]}" if len(sizes) == 1 else several, judged if sizes else "")
    yield _check(view, "embeddings", "Vectors that differ from the source's, by id")


def _check(view: RunView, name: str, label: str) -> Item:
    """A test of step 23 as one line: measured against its threshold."""
    found = next((check for check in view.tests if check.name == name), None)
    if found is None:
        return Item(label, NOT_RECORDED)
    limit = f" (wanted {text(found.threshold, 60)})" if found.threshold is not None else ""
    return Item(label, f"{text(found.measured, 60)}{limit}", found.verdict.value)


def _queries(view: RunView) -> Iterator[Item]:
    yield _check(view, "search equivalence", "Collections that search as the source does")
    rows = view.rows("queries")
    for row in rows:
        label = f"Query “{text(row.get('text'), 80)}” is answered"
        if not row.get("applicable", True):
            yield Item(label, text(row.get("why")), "not applicable")
            continue
        found = f"{text(row.get('found'))} results, top distance {text(row.get('distance'))}"
        shown = f"{'YES' if row.get('ok') else 'NO'} ({found})"
        yield Item(label, f"{shown} {text(row['why'])}" if row.get("why") else shown, _verdict(bool(row.get("ok"))))
    yield from _distance(view, rows)
    if not rows:
        yield Item("Named queries", "none named in the parameters" if view.fact("matrix_inputs") else NOT_RECORDED)


def _distance(view: RunView, rows: list[dict[str, Any]]) -> Iterator[Item]:
    """The runbook's rule for the best hit, which means something for cosine only."""
    found = [float(row["distance"]) for row in rows if isinstance(row.get("distance"), (int, float))]
    section = view.parameters.get("validation")
    limit = section.get("maximum_distance", 0.8) if isinstance(section, dict) else 0.8
    if not found:
        return
    label = f"Top result distance < {text(limit, 20)}"
    if {row.get("space") for row in view.rows("targets")} - {"cosine", None}:
        yield Item(label, "a rule for cosine; this target has another space", "not applicable")
        return
    good = all(distance < limit for distance in found)
    shown = f"{'YES' if good else 'NO'} (avg {sum(found) / len(found):.2f}, worst {max(found):.2f})"
    yield Item(label, shown, _verdict(good))


def _counts(view: RunView) -> Iterator[Item]:
    rows = view.rows("counts")
    for row in rows:
        before, after, aside = (row.get(k) for k in ("source", "target", "quarantined"))
        if isinstance(before, int) and isinstance(after, int) and isinstance(aside, int):
            match = after + aside == before
            kept = f" + {aside:,} quarantined" if aside else ""
            shown = f"{before:,} → {after:,}{kept} ({'MATCH' if match else 'DIFFERENT'})"
            yield Item(text(row.get("collection"), 80), shown, _verdict(match))
    if not rows:
        yield Item("Counts by collection", NOT_RECORDED)


def _result(view: RunView) -> Iterator[Item]:
    """The last lines of the runbook's report: overall result, recommendation, who reviewed it and when."""
    inputs = view.table("matrix_inputs")
    valid, chunks = inputs.get("valid"), inputs.get("chunks")
    review = view.step("24")
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

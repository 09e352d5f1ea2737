"""The runbook's GO/NO-GO tree (Appendix B) as this run took it: each question with its answer and what it rests on.

Branches that were not taken are on the page too, marked so: who signs sees where the other answer would have led.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from helpers.report.facts import RunView
from helpers.results import Check, Verdict
from helpers.words import text

# The questions of the runbook's tree, and the tests of step 23 that answer each.
_CHECKS = {
    "Metadata": ("metadata", "metadata completeness", "field types", "citation URIs", "configuration"),
    "Embeddings": ("embeddings",),
    "Queries": ("search equivalence", "named queries"),
    "Collections": ("counts", "distribution", "duplicates"),
}
_OPEN, _TAKEN_NOT = "not reached", "not taken"


@dataclass(slots=True)
class Node:
    """A question or an end, and in `why` what it rests on.

    `verdict` is one of a check, or waiting, void, open, "not reached", "not taken".
    """

    question: str
    answer: str = ""
    verdict: str = _OPEN
    why: str = ""
    children: list[Node] = field(default_factory=list)


def decision_tree(view: RunView) -> list[Node]:
    """The path in order; it ends at the first question that nobody has answered yet."""
    nodes = [_validated(view), _rate(view), _all_checks(view)]
    decision = _decision(view)
    against = decision == "NO-GO"
    nodes.append(_marginal(view, against=against))
    nodes.append(_signed(view, against=against))
    nodes.append(_end(view, "GO: cutover (Step 6a)", "25", taken=view.outcome.kind == "go"))
    stopped = view.outcome.kind == "no-go"
    nodes.append(_end(view, "NO-GO: hold and troubleshoot (Step 6b)", "26", taken=stopped))
    nodes.append(_end(view, "Rollback (Step 7b)", "27", taken=view.ran("27")))
    return nodes


def _decision(view: RunView) -> str:
    review = view.step("24")
    return str(review.result.facts.get("decision", "")) if review and review.result else ""


def _validated(view: RunView) -> Node:
    found = view.step("23")
    if found is None or found.result is None or not view.tests:
        broken = next((s for s in view.steps if s.verdict in ("failed", "unreadable", "interrupted", "fail")), None)
        why = f"Stopped at step {broken.number} ({broken.title}): {broken.verdict}." if broken else ""
        return Node("Is the validation complete?", "NO" if broken else "not yet", "fail" if broken else _OPEN, why)
    return Node("Is the validation complete?", "YES", "pass", f"{len(view.tests)} tests, over every chunk.")


def _rate(view: RunView) -> Node:
    row = next((r for r in view.rows("matrix") if str(r.get("criterion", "")).lower() == "validation pass rate"), None)
    if row is None:
        return Node("Do at least 95 % pass validation?")
    verdict = str(row.get("verdict"))
    return Node(
        "Do at least 95 % pass validation?", "NO" if verdict == "fail" else "YES", verdict, text(row["measured"])
    )


def _all_checks(view: RunView) -> Node:
    node = Node("Do all checks pass?")
    if not view.tests:
        return node
    known = {name for names in _CHECKS.values() for name in names}
    groups = {**_CHECKS, "Other": tuple(c.name for c in view.tests if c.name not in known)}
    for title, names in groups.items():
        if found := [c for c in view.tests if c.name in names]:
            node.children.append(_group(title, found))
    failed = [child for child in node.children if child.verdict == "fail"]
    node.answer, node.verdict = ("NO", "fail") if failed else ("YES", "pass")
    return node


def _group(title: str, checks: Sequence[Check]) -> Node:
    judged = [c.verdict for c in checks if c.verdict is not Verdict.NOT_APPLICABLE]
    verdict = max(judged, key=list(Verdict).index, default=Verdict.NOT_APPLICABLE)
    bad = [c for c in checks if c.verdict in (Verdict.WARNING, Verdict.MARGINAL, Verdict.FAIL)]
    why = "; ".join(f"{text(c.name, 60)}: {text(c.detail or c.measured, 160)}" for c in bad)
    return Node(title, verdict=verdict.value, why=why or ", ".join(text(c.name, 60) for c in checks))


def _marginal(view: RunView, *, against: bool) -> Node:
    names = view.names("accept")
    node = Node("Is everything marginal accepted by name?")
    if against or not _decision(view):
        node.verdict = _TAKEN_NOT if against else _OPEN
        return node
    if not names:
        node.answer, node.verdict, node.why = "YES", "pass", "Nothing is marginal."
        return node
    accepted = list(view.gate.accepted.values()) if view.gate else []
    left = [n for n in names if not accepted or any(n not in given for given in accepted)]
    node.answer, node.verdict = ("not yet", "waiting") if left or (view.gate and view.gate.missing) else ("YES", "pass")
    node.why = f"Marginal: {', '.join(text(n, 80) for n in names)}."
    return node


def _signed(view: RunView, *, against: bool) -> Node:
    node = Node("Have all who must sign said GO?")
    if against or not _decision(view):
        node.verdict = _TAKEN_NOT if against else _OPEN
        return node
    gate = view.gate
    if gate is None:
        node.answer, node.verdict, node.why = "unknown", "waiting", "parameters.yaml cannot be read."
        return node
    if gate.blocked:
        node.answer, node.verdict = "NO", "fail"
    elif gate.missing:
        node.answer, node.verdict = "not yet", "waiting"
        node.why = f"Missing: {', '.join(text(r.replace('_', ' '), 60) for r in gate.missing)}."
    else:
        node.answer, node.verdict = "YES", "pass"
    node.children = list(_signatures(view))
    return node


def _signatures(view: RunView) -> Iterator[Node]:
    """Each role's answer, and what makes one void."""
    gate = view.gate
    for sign in view.signoffs:
        if sign.gate != "cutover" or sign.superseded:
            continue
        said = sign.decision.upper()
        void = gate is not None and sign.role in gate.missing
        verdict = "fail" if said == "NO-GO" else "void" if void else "pass"
        why = f"{text(sign.name, 80)}{'; does not count' if void else ''}"
        yield Node(text(sign.role.replace("_", " "), 60), text(said, 20), verdict, why)


def _end(view: RunView, title: str, step: str, *, taken: bool) -> Node:
    found = view.step(step)
    if found is not None and found.result is not None:
        return Node(title, verdict=found.verdict, why=f"Step {step} ran.")
    if not taken:
        return Node(title, verdict=_OPEN if view.outcome.kind not in ("go", "no-go", "rolled-back") else _TAKEN_NOT)
    if view.rehearsal and step == "25":
        return Node(title, verdict="open", why="Allowed; this rehearsal ends here.")
    return Node(title, verdict="open", why="Due next.")

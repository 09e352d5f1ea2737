"""The decision matrix at its edges, and what turns a decision into NO-GO."""

from __future__ import annotations

from typing import Any

import pytest

from helpers.reason_codes import ReasonCode
from helpers.results import Check, Verdict
from helpers.steps.review import decide, decision_matrix
from helpers.validation import REQUIRED

GOOD: dict[str, Any] = {
    "chunks": 10_000, "valid": 10_000, "complete": 10_000, "checked": 10_000, "nan": 0, "lost": 0, "queries_ok": 5,
    "queries": 5, "queries_why": "", "collections_matching": 7, "collections": 7, "differences": 0,
}  # fmt: skip


def verdict(criterion: str, **changes: Any) -> Verdict:
    row = next(r for r in decision_matrix({**GOOD, **changes}) if r["criterion"] == criterion)
    return Verdict(row["verdict"])


def test_completeness_by_defaults_is_never_shown_alone() -> None:
    rows = decision_matrix({**GOOD, "complete_before": 0, "complete_known": 6_000})
    assert next(r for r in rows if r["criterion"] == "metadata completeness")["measured"] == (
        "every field held, of 10,000 chunks: in the source 0 (0 %); in the target without defaults 6,000 (60.0 %), with defaults "
        "10,000 (100 %)"
    )


@pytest.mark.parametrize(
    ("criterion", "changes", "expected"),
    [
        ("validation pass rate", {"valid": 9_900}, "pass"),
        ("validation pass rate", {"valid": 9_899}, "marginal"),
        ("validation pass rate", {"valid": 9_500}, "marginal"),
        ("validation pass rate", {"valid": 9_499}, "fail"),
        ("validation pass rate", {"valid": 0, "chunks": 0}, "pass"),
        ("metadata completeness", {"complete": 9_999}, "marginal"),
        ("metadata completeness", {"complete": 9_900}, "marginal"),
        ("metadata completeness", {"complete": 9_899}, "fail"),
        ("metadata completeness", {"complete": None}, "not applicable"),
        ("NaN embeddings in the source", {"nan": 1}, "marginal"),
        ("NaN embeddings in the source", {"nan": 10}, "marginal"),
        ("NaN embeddings in the source", {"nan": 11}, "fail"),
        ("named queries", {"queries_ok": 4}, "marginal"),
        ("named queries", {"queries_ok": 3}, "fail"),
        ("named queries", {"queries_ok": 0, "queries": 1}, "fail"),
        ("named queries", {"queries_ok": None, "queries": 0}, "not exercised"),
        ("collection counts", {"collections_matching": 6}, "marginal"),
        ("collection counts", {"collections_matching": 5}, "fail"),
        ("collection counts", {"collections_matching": 0, "collections": 1}, "fail"),
    ],
)
def test_edges(criterion: str, changes: dict[str, Any], expected: str) -> None:
    assert verdict(criterion, **changes) == expected


def test_all_good_is_go() -> None:
    rows = decision_matrix(GOOD)
    assert {row["verdict"] for row in rows} == {Verdict.PASS}
    tests = {name: Check(name, Verdict.PASS) for name in REQUIRED}
    assert decide(tests, rows) == ("GO", [], [])


def test_one_failed_test_is_no_go_whatever_the_matrix_says() -> None:
    tests = {name: Check(name, Verdict.PASS) for name in REQUIRED}
    tests["embeddings"] = Check("embeddings", Verdict.FAIL, 1, reason=ReasonCode.VECTOR_DIFFERS)
    decision, against, _ = decide(tests, decision_matrix(GOOD))
    assert decision == "NO-GO"
    assert "vector_differs" in against[0]


def test_a_test_that_was_not_run_is_no_go() -> None:
    tests = {name: Check(name, Verdict.PASS) for name in REQUIRED if name != "search equivalence"}
    assert decide(tests, decision_matrix(GOOD))[:2] == ("NO-GO", ["search equivalence was not tested"])


def test_marginal_is_go_with_names_to_accept() -> None:
    tests = {name: Check(name, Verdict.PASS) for name in REQUIRED}
    rows = decision_matrix({**GOOD, "valid": 9_800, "queries_ok": 4})
    assert decide(tests, rows) == ("GO", [], ["validation pass rate", "named queries"])


def test_a_share_is_never_rounded_up() -> None:
    row = decision_matrix({**GOOD, "chunks": 1_000_000, "valid": 989_999})[0]
    assert row["measured"] == "98.9999 % of 1,000,000"

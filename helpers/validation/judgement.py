"""The eight tests of the runbook's validator (A27), judged over the findings of one pass.

Fidelity is not a matter of degree: one difference that nobody explained, for any id, fails its test. What is explained,
the quarantined and repaired chunks, is weighed by the decision matrix from `matrix_inputs`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from helpers.results import Check, Verdict
from helpers.snapshots import comparison as compare
from helpers.validation import field_tests

if TYPE_CHECKING:  # fidelity brings what reads a target, for which a status need not wait
    from helpers.validation.fidelity import Expectation, Findings

COUNTS, EMBEDDINGS, METADATA, COMPLETENESS = "counts", "embeddings", "metadata", "metadata completeness"
SEARCH, QUERIES, DISTRIBUTION = "search equivalence", "named queries", "distribution"
DUPLICATES, FIELD_TYPES, CITATIONS = "duplicates", "field types", "citation URIs"
REQUIRED = (
    COUNTS,
    EMBEDDINGS,
    METADATA,
    COMPLETENESS,
    SEARCH,
    QUERIES,
    DISTRIBUTION,
    DUPLICATES,
    FIELD_TYPES,
    CITATIONS,
)

_IDENTITY = "the identity schema has no such field"


class Judgement:
    """The eight tests over the findings of one pass. `checks` holds one `Check` per test, in the order asked."""

    def __init__(self, found: Findings, expectation: Expectation) -> None:
        self.found, self.of = found, expectation
        self.total = sum(s.source for s in found.sources)
        self.expected = sum(s.expected for s in found.sources)

    def counts(self) -> Check:
        """1: target + quarantined = source, per collection and in total; nothing extra, no collection missing."""
        kinds = (compare.CHUNK_MISSING, compare.CHUNK_EXTRA, compare.COLLECTION_MISSING, compare.QUARANTINE)
        wrong = [s.collection for s in self.found.sources if s.target + s.quarantined != s.source]
        check = self._fidelity(
            COUNTS, kinds, measured=sum(s.target for s in self.found.sources), threshold=self.expected
        )
        if wrong and check.verdict is not Verdict.FAIL:
            check.verdict, check.reason = Verdict.FAIL, "count_mismatch"
        check.unit = "chunks"
        quarantined = f"; {sum(self.found.reasons.values()):,} in quarantine" if self.found.reasons else ""
        check.detail = "; ".join(filter(None, [check.detail, f"wrong in {', '.join(wrong)}" if wrong else ""]))
        check.detail += quarantined if check.detail else quarantined.removeprefix("; ")
        return check

    def embeddings(self) -> Check:
        """2: every vector is its own, per id; the target's space is the source's; nothing there is NaN."""
        check = self._fidelity(EMBEDDINGS, (compare.VECTOR, compare.SPACE), measured=self._differing(compare.VECTOR))
        if self.found.not_finite and check.verdict is not Verdict.FAIL:
            check.verdict, check.reason = Verdict.FAIL, "nan_embedding"
            check.detail = f"{self.found.not_finite} vectors of the target hold NaN or cannot be read"
        return check

    def metadata(self) -> Check:
        """3a: documents, uris and metadata are what snapshot and schema say."""
        kinds = (compare.DOCUMENT, compare.URI, compare.METADATA, compare.FIELD_MISSING, compare.FIELD_EXTRA)
        return self._fidelity(METADATA, kinds)

    def completeness(self) -> Check:
        """3b: the share of the target's chunks with every field that the schema asks for."""
        if self.of.schema.is_identity:
            return _not_applicable(COMPLETENESS, _IDENTITY)
        check = self._fields(COMPLETENESS, field_tests.COMPLETENESS, "missing_metadata")
        if check.verdict is Verdict.FAIL and check.measured * 100 >= check.threshold * 99:
            # What nobody explained fails under "metadata"; an incomplete expectation is for the matrix to weigh.
            check.verdict = Verdict.WARNING
        return check

    def search(self) -> Check:
        """4a: the target finds what the source finds."""
        rows = self.found.search
        failed = [r for r in rows if r["verdict"] is Verdict.FAIL]
        applicable = [r for r in rows if r["verdict"] is not Verdict.NOT_APPLICABLE]
        if not applicable:
            return _not_applicable(SEARCH, "; ".join(sorted({r["detail"] for r in rows})) or "no collection")
        warned = [r for r in rows if r["verdict"] is Verdict.WARNING]
        verdict = Verdict.FAIL if failed else Verdict.WARNING if warned else Verdict.PASS
        named = failed or warned
        unsure = "search_unsure" if any(r.get("unsure") for r in warned) else "search_baseline_missing"
        ids = [{"collection": r["collection"], "id": i} for r in failed for i in r["unreachable"]]
        return Check(
            SEARCH,
            verdict,
            measured=len(applicable) - len(named),
            threshold=len(applicable),
            unit="collections",
            reason="" if not named else "search_not_equivalent" if failed else unsure,
            detail="; ".join(f"{r['collection']}: {r['detail']}" for r in named[:3]),
            offenders=len(ids),
            ids=ids[:20],
        )

    def queries(self) -> Check:
        """4b: the runbook's named text queries. The decision matrix weighs how many work; none of them fails here."""
        asked = [q for q in self.found.queries if q["applicable"]]
        if not asked:
            whys = sorted({str(q["why"]) for q in self.found.queries})
            return _not_applicable(QUERIES, "; ".join(whys) or "no query is named in the parameters")
        bad = [q for q in asked if not q["ok"]]
        detail = "; ".join(f"{q['text']}: {q['why']}" for q in bad)
        verdict = Verdict.WARNING if bad else Verdict.PASS
        reason = "query_without_answer" if bad else ""
        return Check(
            QUERIES,
            verdict,
            len(asked) - len(bad),
            len(asked),
            "queries",
            reason,
            detail,
            parameter="validation.queries",
        )

    def distribution(self) -> Check:
        """5: collection_type is that of the collection in which the chunk is."""
        if not field_tests.has_field(self.of.schema, field_tests.TYPE_FIELD):
            return _not_applicable(DISTRIBUTION, _IDENTITY)
        return self._fields(DISTRIBUTION, field_tests.DISTRIBUTION, "wrong_collection_type")

    def duplicates(self) -> Check:
        """6: ids are unique, and no two chunks have the same one."""
        return self._fidelity(DUPLICATES, (compare.CHUNK_DOUBLED,))

    def field_types(self) -> Check:
        """7: types are kept (1, 1.0 and true are three values), and each field keeps the schema's rules."""
        changed = self._fidelity(FIELD_TYPES, (compare.TYPE,))
        if changed.verdict is Verdict.FAIL or self.of.schema.is_identity:
            return changed
        return self._fields(FIELD_TYPES, field_tests.TYPES, "invalid_field")

    def citation_uris(self) -> Check:
        """8: if_citation_uri is empty or if://citation/<id>-YYYY-MM-DD."""
        if not field_tests.has_field(self.of.schema, field_tests.CITATION_FIELD):
            return _not_applicable(CITATIONS, _IDENTITY)
        return self._fields(CITATIONS, field_tests.CITATIONS, "invalid_citation_uri")

    def all(self) -> list[Check]:
        """Every test, in order."""
        return [
            self.counts(), self.embeddings(), self.metadata(), self.completeness(), self.search(), self.queries(),
            self.distribution(), self.duplicates(), self.field_types(), self.citation_uris(),
        ]  # fmt: skip

    def matrix_inputs(self) -> dict[str, Any]:
        """The figures of the decision matrix; a pair of None where a row does not apply."""
        fields, asked = self.found.fields, [q for q in self.found.queries if q["applicable"]]
        complete = None
        if fields is not None and not self.of.schema.is_identity:
            complete = fields.checked - fields.counts[field_tests.COMPLETENESS]
        return {
            "chunks": self.total,
            "valid": self.expected,
            "complete": complete,
            "checked": fields.checked if fields is not None else 0,
            "nan": sum(s.nan for s in self.found.sources),
            "lost": sum(s.lost for s in self.found.sources),
            "queries_ok": sum(q["ok"] for q in asked) if asked else None,
            "queries": len(asked),
            "queries_why": self.queries().detail,
            "collections_matching": sum(s.target + s.quarantined == s.source for s in self.found.sources),
            "collections": len(self.found.sources),
            "differences": sum(self.found.counted.values()),
        }

    def _differing(self, *kinds: str) -> int:
        return sum(self.found.counted[kind] for kind in kinds)

    def _fidelity(self, name: str, kinds: Sequence[str], *, measured: Any = None, threshold: Any = 0) -> Check:
        """FAIL with the offenders by id where there is any difference of these kinds."""
        rows = self.found.differences[self.found.differences["difference"].isin(kinds)]
        number = self._differing(*kinds)
        detail = ", ".join(
            f"{kind.replace('_', ' ')}: {self.found.counted[kind]:,}" for kind in kinds if self.found.counted[kind]
        )
        return Check(
            name,
            Verdict.FAIL if number else Verdict.PASS,
            measured=number if measured is None else measured,
            threshold=threshold,
            unit="differences",
            reason=next((kind for kind in kinds if self.found.counted[kind]), ""),
            detail=detail,
            offenders=number,
            ids=[{str(k): v for k, v in row.items()} for row in rows.head(20).to_dict("records")],
        )

    def _fields(self, name: str, test: str, reason: str) -> Check:
        fields = self.found.fields
        bad = fields.counts[test] if fields is not None else 0
        ids = fields.offenders[test][:20] if fields is not None else []
        checked = fields.checked if fields is not None else 0
        verdict = Verdict.FAIL if bad else Verdict.PASS
        found: list[dict[str, Any]] = [dict(row) for row in ids]
        return Check(name, verdict, checked - bad, checked, "chunks", reason if bad else "", "", bad, found)


def _not_applicable(name: str, why: str) -> Check:
    return Check(name, Verdict.NOT_APPLICABLE, detail=why)

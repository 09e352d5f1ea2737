"""Judging a migration: the tests of the runbook's validator (A27) and of step 23, over the findings of one pass.

Fidelity has no degrees: one unexplained difference, for any id, fails its test. What is explained, the quarantined and
repaired chunks, is weighed by the decision matrix from `matrix_inputs`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from helpers.formatting import announced_in_words, count, judged_queries, merged_answers, own_chunk
from helpers.reason_codes import Reason, ReasonCode
from helpers.results import Check, Verdict, worst
from helpers.run.plan import CONTRADICTIONS, EMBEDDINGS
from helpers.snapshots.comparison import CONTENT, COSINE_TOLERANCE

if TYPE_CHECKING:  # fidelity imports what reads a target; a status need not wait for it
    from helpers.validation.fidelity import Expectation, Findings

COUNTS, METADATA, COMPLETENESS = "counts", "metadata", "metadata completeness"
SEARCH, QUERIES, DISTRIBUTION = "search equivalence", "named queries", "distribution"
NEIGHBOURS = "neighbours judged for recall"
AS_ANNOUNCED = "searches as announced"
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
    """The tests over the findings of one pass, each a `Check`."""

    def __init__(self, findings: Findings, expectation: Expectation) -> None:
        self.findings, self.expectation = findings, expectation
        self.total = sum(s.source for s in findings.sources)
        self.expected = sum(s.expected for s in findings.sources)

    def counts(self) -> Check:
        """1: target + quarantined + left out = source, per collection and in total; no extra chunk, no missing collection."""
        kinds = (
            ReasonCode.CHUNK_MISSING,
            ReasonCode.CHUNK_EXTRA,
            ReasonCode.COLLECTION_MISSING,
            ReasonCode.QUARANTINE_UNEXPLAINED,
        )
        unequal = [s.collection for s in self.findings.sources if not s.matches]
        check = self._fidelity(COUNTS, kinds)
        check.measured, check.threshold = sum(s.target for s in self.findings.sources), self.expected
        if unequal and check.verdict is not Verdict.FAIL:
            check.verdict, check.reason = Verdict.FAIL, ReasonCode.COUNT_MISMATCH
        if check.verdict is Verdict.FAIL and check.measured == check.threshold:
            check.measured = f"{check.measured:,} in all, but not the same ones"
        check.unit = "chunks"
        left_out = sum(s.left_out for s in self.findings.sources)
        rest = f"{sum(self.findings.reasons.values()):,} in quarantine" if self.findings.reasons else ""
        rest = ", ".join(filter(None, [rest, f"{left_out:,} left out by the schema" if left_out else ""]))
        unequal_text = f"wrong in {', '.join(unequal)}" if unequal else ""
        check.detail = "; ".join(filter(None, [check.detail, unequal_text, rest]))
        return check

    def embeddings(self) -> Check:
        """2: every vector, by id, is the source's or the one made for it; the space is the source's; nothing is NaN."""
        check = self._fidelity(EMBEDDINGS, (ReasonCode.VECTOR_DIFFERS, ReasonCode.SPACE_DIFFERS))
        if self.findings.not_finite and check.verdict is not Verdict.FAIL:
            check.verdict, check.reason = Verdict.FAIL, ReasonCode.NAN_EMBEDDING
            check.measured = self.findings.not_finite
            check.detail = f"{self.findings.not_finite} vectors of the target hold NaN or cannot be read"
        deviations = [row["relative"] for row in self.findings.worst if row["space"] == "cosine"]
        if check.verdict is Verdict.PASS and deviations and max(deviations):
            bound = f"on cosine each number within {COSINE_TOLERANCE:g} of its own, relative; farthest vector: "
            bound += f"{max(deviations):.2g}"
            check.detail = "; ".join(filter(None, [check.detail, f"{bound}; elsewhere bit for bit"]))
        if self.findings.anew:
            vectors = count(sum(remark["made"] for remark in self.findings.anew.values()), "vector")
            names = ", ".join(sorted(self.findings.anew)[:5])
            remark = f"{vectors} of {names} made anew: compared with what was made, not with the source"
            check.detail = "; ".join(filter(None, [check.detail, remark]))
        return check

    def metadata(self) -> Check:
        """3a: documents, uris and metadata are those of snapshot and schema."""
        return self._fidelity(METADATA, CONTENT)

    def completeness(self) -> Check:
        """3b: the share of the target's chunks with every required field of the schema."""
        if self.expectation.schema.is_identity:
            return _not_applicable(COMPLETENESS, _IDENTITY)
        check = self._fields(COMPLETENESS, self.findings.fields.COMPLETE, ReasonCode.MISSING_METADATA)
        check.detail = values_text(self.findings.values.summary())
        if check.verdict is Verdict.FAIL and check.measured * 100 >= check.threshold * 99:
            # An unexplained difference fails under "metadata"; the matrix weighs an incomplete expectation.
            check.verdict = Verdict.WARNING
        return check

    def contradictions(self) -> Check:
        """Fields of the target that contradict their documents, where the schema can derive them; the source is to blame."""
        if not self.expectation.schema.derivations:
            return _not_applicable(CONTRADICTIONS, "the schema derives nothing from documents")
        rows = self.findings.values.contradicted("after")
        before = sum(row["chunks"] for row in self.findings.values.contradicted("before"))
        number = sum(row["chunks"] for row in rows)
        detail = ""
        if number:
            places = "; ".join(f"{r['collection']}: {r['field']} in {count(r['chunks'], 'chunk')}" for r in rows[:3])
            places += f"; {len(rows) - 3} more collections and fields" if len(rows) > 3 else ""
            detail = f"{places}; in the source: {before:,}{_where_listed(number)}"
        verdict, reason = _outcome(number, ReasonCode.METADATA_CONTRADICTS, Verdict.WARNING)
        ids = self.findings.values.contradicting["after"][:20]
        return Check(CONTRADICTIONS, verdict, number, 0, "values", reason, detail, number, [dict(row) for row in ids])

    def search(self) -> Check:
        """4a: the target finds what the source finds; searched whole, it finds what the merged snapshot holds."""
        rows = self.findings.search
        merged = {r["target"]: {**r, "collection": r["target"], "unreachable": []} for r in self.findings.merged}
        failed = [r for r in (*rows, *merged.values()) if r["verdict"] is Verdict.FAIL]
        applicable = [r for r in rows if r["verdict"] is not Verdict.NOT_APPLICABLE]
        if not applicable:
            return _not_applicable(SEARCH, "; ".join(sorted({r["detail"] for r in rows})) or "no collection")
        unasked = [r for r in rows if r["verdict"] is Verdict.NOT_EXERCISED]
        warned = [r for r in (*rows, *merged.values()) if r["verdict"] is Verdict.WARNING]
        verdict, reason = _outcome(failed, ReasonCode.SEARCH_NOT_EQUIVALENT)
        if unasked and not failed and not warned:
            none_asked = len(unasked) == len(applicable)
            verdict, reason = (Verdict.NOT_EXERCISED, "") if none_asked else (Verdict.WARNING, ReasonCode.SEARCH_UNSURE)
        elif warned and not failed:
            unsure = any(r.get("unsure") for r in warned)
            verdict = Verdict.WARNING
            reason = ReasonCode.SEARCH_UNSURE if unsure else ReasonCode.SEARCH_BASELINE_MISSING
        not_passed, total = failed or [*warned, *unasked], len(applicable) + len(merged)
        shown = not_passed[:3] or [r for r in rows if r.get("moved")][:3]
        detail = "; ".join([*(f"{r['collection']}: {r['detail']}" for r in shown), recall_text(self.recall())])
        ids = [{"collection": r["collection"], "id": i} for r in failed for i in r["unreachable"]]
        return Check(SEARCH, verdict, total - len(not_passed), total, "collections", reason, detail, len(ids), ids[:20])

    def neighbours(self) -> Check:
        """4a: for how many of the true nearest neighbours recall was measured, and why not for the others."""
        pooled = self.recall()["pooled"]["restricted"] or {"judged": 0, "neighbours": 0}
        judged, total = pooled["judged"], pooled["neighbours"]
        if not total:
            return _not_applicable(NEIGHBOURS, "no query has a neighbour in its own collection")
        verdict = Verdict.PASS if judged == total else Verdict.NOT_EXERCISED
        detail = f"of {judged_queries(pooled)}" if judged < total else ""
        return Check(NEIGHBOURS, verdict, judged, total, "neighbours", detail=detail, parameter="validation.probes")

    def announced(self) -> Check:
        """4a: searches sent as announced to clients return the source's nearest that the target holds."""
        announced = self.recall()["announced"]
        if not announced["rows"]:
            return _not_applicable(AS_ANNOUNCED, "no collection was split or merged: clients ask as before")
        problems = [f"{r['collection']}: {r['why']}" for r in announced["rows"] if r["why"]]
        if announced["pooled"] is None:
            problem = "; ".join(problems[:3]) or "no query has a neighbour"
            return Check(AS_ANNOUNCED, Verdict.NOT_EXERCISED, 0, 1, "queries", detail=problem, relation="≥",
                         parameter="validation.probes")  # fmt: skip
        short = [f"{r['collection']}: {r['short']}" for r in announced["rows"] if r["told_apart"] and r["short"]]
        verdict, reason = _outcome(short or problems, ReasonCode.SEARCH_UNSURE, Verdict.WARNING)
        detail = "; ".join([announced_in_words(announced), *short[:3], *problems[:3]])
        good = sum(not r["why"] and not (r["told_apart"] and r["short"]) for r in announced["rows"])
        return Check(AS_ANNOUNCED, verdict, good, len(announced["rows"]), "source collections", reason, detail)

    def _announced(self) -> dict[str, Any]:
        """The searches as announced: rows (`equivalence.announced`) with low and high, and all pooled by queries, or None."""
        rows = []
        for r in self.findings.announced:
            measured = r["same"] is not None and r["queries"] > 0
            low, high = interval(r["same"], r["queries"]) if measured else (None, None)
            rows.append(r | {"low": low, "high": high})
        measured = [r for r in rows if r["same"] is not None]
        if not (queries := sum(r["queries"] for r in measured)):
            return {"rows": rows, "pooled": None}
        pooled: dict[str, Any] = {"queries": queries, "sent": sum(r["asked"] * len(r["targets"]) for r in measured)}
        pooled |= {key: sum(r[key] * r["queries"] for r in measured) / queries for key in ("same", "possible")}
        pooled |= dict(zip(("low", "high"), interval(pooled["same"], queries), strict=True))
        return {"rows": rows, "pooled": pooled}

    def recall(self) -> dict[str, Any]:
        """The fact `recall` of a step: the searches, and how many of the true nearest neighbours they found.

        Queries are stored vectors; the query's own chunk is left out of every answer (`others`: true), on both sides.

        k; confidence and interval (its method); rows, one per source collection and scope: restricted (only chunks of the
        query's own source collection) and, where collections were merged, unrestricted; and the same pooled over all queries.
        Each has filter, queries (that could be judged; restricted: of `asked`, and `judged` of all `neighbours`), recall, low,
        high (target) and before, before_low, before_high (source; None where not asked).
        `announced` has what was sent as announced. `pooled` of the unrestricted ones has shared_low and shared_high, too: the
        interval of shared_expected.
        """
        rows = [
            _recall_row("restricted", r["collection"], OWN if self.findings.merged else WHOLE, r["recall_queries"], r["verdict"],
                        r.get("recall_after"), r.get("recall_before"), r.get("recall_pairs", 0))
            | {"asked": r["probes"], "judged": r["judged"], "neighbours": r["neighbours"]}
            for r in self.findings.search
        ]  # fmt: skip
        for r in self.findings.merged:
            row = _recall_row("unrestricted", r["collection"], _NONE, r["queries"], r["verdict"], r["recall"], r["before"],
                              r["queries"])  # fmt: skip
            rows.append(row | {key: r[key] for key in ("target", "merged", *_SHARES)})
        pooled = {scope: _pooled([r for r in rows if r["scope"] == scope]) for scope in ("restricted", "unrestricted")}
        return {
            "k": self.expectation.parameters.validation.k,
            "others": True,
            "confidence": 0.95,
            "interval": "Wilson score, each query counts once",
            "pooled": pooled,
            "rows": rows,
            "announced": self._announced(),
        }

    def queries(self) -> Check:
        """4b: the runbook's named text queries. The decision matrix weighs how many work; none fails here."""
        asked = [q for q in self.findings.queries if q["applicable"]]
        if not asked:
            reasons = sorted({str(q["why"]) for q in self.findings.queries})
            reason_not_asked = "; ".join(reasons) or "no query is named in the parameters"
            return Check(QUERIES, Verdict.NOT_EXERCISED, 0, 1, "queries", detail=reason_not_asked, relation="≥",
                         parameter="validation.queries")  # fmt: skip
        failed = [q for q in asked if not q["ok"]]
        detail = "; ".join(f"{q['text']}: {q['why']}" for q in failed)
        verdict, reason = _outcome(failed, ReasonCode.QUERY_WITHOUT_ANSWER, Verdict.WARNING)
        answered = len(asked) - len(failed)
        return Check(QUERIES, verdict, answered, len(asked), "queries", reason, detail, parameter="validation.queries")

    def retrieval(self) -> list[Check]:
        """4c: queries find their known chunks, and the nearest neighbours stay, as `validation.retrieval` asks."""
        from helpers.validation.properties import judge_agreement, judge_known

        rules = self.expectation.parameters.validation.retrieval
        before = (self.expectation.baseline or {}).get("retrieval")
        checks = [
            judge_known(self.findings.known_answers, rules, before),
            judge_agreement(self.findings.search, self.findings.anew, rules),
        ]
        return [check for check in checks if check is not None]

    def distribution(self) -> Check:
        """5: the type of a chunk (`collection_type`) is that of the collection in which it is."""
        if not self.findings.fields.type:
            return _not_applicable(DISTRIBUTION, _IDENTITY)
        return self._fields(DISTRIBUTION, self.findings.fields.PLACED, ReasonCode.WRONG_COLLECTION_TYPE)

    def duplicates(self) -> Check:
        """6: ids are unique."""
        return self._fidelity(DUPLICATES, (ReasonCode.CHUNK_DOUBLED,))

    def field_types(self) -> Check:
        """7: types are kept (1, 1.0 and true are three values), and each field keeps the schema's rules."""
        changed = self._fidelity(FIELD_TYPES, (ReasonCode.TYPE_DIFFERS,))
        if changed.verdict is Verdict.FAIL or self.expectation.schema.is_identity:
            return changed
        return self._fields(FIELD_TYPES, self.findings.fields.TYPED, ReasonCode.INVALID_FIELD)

    def citation_uris(self) -> Check:
        """8: citation URIs (fields whose pattern holds a date) match the schema's pattern, with a date that exists."""
        if not self.findings.fields.dated:
            return _not_applicable(CITATIONS, _IDENTITY)
        return self._fields(CITATIONS, self.findings.fields.CITED, ReasonCode.INVALID_CITATION_URI)

    def all(self) -> list[Check]:
        """Every test, in order; the detail of `search` covers `neighbours`."""
        return [
            self.counts(), self.embeddings(), self.metadata(), self.completeness(), self.search(), self.queries(),
            *self.retrieval(), self.distribution(), self.duplicates(), self.field_types(), self.citation_uris(),
        ]  # fmt: skip

    def matrix_inputs(self) -> dict[str, Any]:
        """The figures of the decision matrix; None where a row does not apply."""
        fields, asked = self.findings.fields, [q for q in self.findings.queries if q["applicable"]]
        complete = complete_before = complete_known = None
        if not self.expectation.schema.is_identity:
            complete = fields.checked - fields.counts[fields.COMPLETE]
            complete_before = self.findings.values.complete["before"]
            complete_known = max(0, complete - self.findings.values.defaulted)
        return {
            "chunks": self.total - sum(s.left_out for s in self.findings.sources),
            "valid": self.expected,
            "complete": complete,
            "complete_before": complete_before,
            "complete_known": complete_known,
            "checked": fields.checked,
            "nan": sum(s.nan for s in self.findings.sources),
            "lost": sum(s.lost for s in self.findings.sources),
            "queries_ok": sum(q["ok"] for q in asked) if asked else None,
            "queries": len(asked),
            "queries_why": self.queries().detail,
            "collections_matching": sum(s.matches for s in self.findings.sources),
            "collections": len(self.findings.sources),
            "differences": sum(self.findings.counted.values()),
        }

    def _fidelity(self, name: str, kinds: Sequence[ReasonCode]) -> Check:
        """A check that fails, naming offenders by id, if there is any difference of these kinds."""
        rows = self.findings.differences[self.findings.differences["difference"].isin(kinds)]
        numbers = {kind: self.findings.counted[kind] for kind in kinds if self.findings.counted[kind]}
        number = sum(numbers.values())
        verdict, reason = _outcome(numbers, next(iter(numbers), kinds[0]))
        detail = ", ".join(f"{kind.replace('_', ' ')}: {n:,}" for kind, n in numbers.items())
        ids = [{str(k): v for k, v in row.items()} for row in rows.head(20).to_dict("records")]
        return Check(name, verdict, number, 0, "differences", reason, detail, number, ids)

    def _fields(self, name: str, test: str, reason: ReasonCode) -> Check:
        fields = self.findings.fields
        failing, ids = fields.counts[test], [dict(row) for row in fields.offenders[test][:20]]
        verdict, code = _outcome(failing, reason)
        return Check(name, verdict, fields.checked - failing, fields.checked, "chunks", code, "", failing, ids)


def _outcome(failures: object, reason: ReasonCode, otherwise: Verdict = Verdict.FAIL) -> tuple[Verdict, Reason]:
    return (otherwise, reason) if failures else (Verdict.PASS, "")


OWN = "judged among chunks of the query's own source collection; no filter was sent"
WHOLE = "each collection is searched whole; no filter was sent"
_NONE = "merged collections are searched whole; no filter was sent"
_SHARES = ("shared_expected", "shared_measured", "shared_filtered", "from_others")


def interval(share: float, queries: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a mean share (0–1) over queries; NaN where there are none.

    Each query counts once, whatever k is: the neighbours of one query are not independent of each other.
    """
    if not queries or not math.isfinite(share):
        return math.nan, math.nan
    z = 1.959963984540054
    centre = (share + z * z / (2 * queries)) / (1 + z * z / queries)
    half = z * math.sqrt(share * (1 - share) / queries + z * z / (4 * queries**2)) / (1 + z * z / queries)
    return max(0.0, round(centre - half, 12)), min(1.0, round(centre + half, 12))  # 1, not 0.9999999999999999


def _recall_row(
    scope: str, collection: str, filter_text: str, queries: int, verdict: Any, after: Any, before: Any, pairs: int
) -> dict[str, Any]:
    row: dict[str, Any] = {"scope": scope, "collection": collection, "filter": filter_text, "queries": queries}
    for key, share, number in (("recall", after, queries), ("before", before, pairs)):
        measured = share is not None and number > 0
        low, high = interval(float(share), number) if measured else (None, None)
        prefix = "" if key == "recall" else "before_"
        row |= {key: float(share) if measured else None, f"{prefix}low": low, f"{prefix}high": high}
    return row | {"verdict": verdict}


def _pooled(rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The rows of one scope pooled over all queries; None where there are none."""
    if not rows:
        return None

    def mean(key: str) -> float | None:
        measured = [(r[key], r["queries"]) for r in rows if r.get(key) is not None and r["queries"]]
        return sum(share * n for share, n in measured) / sum(n for _, n in measured) if measured else None

    queries = sum(r["queries"] for r in rows)
    paired = sum(r["queries"] for r in rows if r["before"] is not None)
    verdict = worst(r["verdict"] for r in rows)
    shares = mean("recall"), mean("before")
    row = _recall_row(rows[0]["scope"], "all collections", rows[0]["filter"], queries, verdict, *shares, paired)
    row |= {key: mean(key) for key in _SHARES if key in rows[0]}
    row |= {key: sum(r[key] for r in rows) for key in ("asked", "judged", "neighbours") if key in rows[0]}
    if (expected_share := row.get("shared_expected")) is not None:
        measured = sum(r["queries"] for r in rows if r["shared_expected"] is not None)
        row |= dict(zip(("shared_low", "shared_high"), interval(expected_share, measured), strict=True))
    return row


def recall_text(recall: Mapping[str, Any]) -> str:
    """The fact `recall` in a sentence or two: the queries, the recall, and what merging changes."""
    parts = []
    for scope in ("restricted", "unrestricted"):
        row = recall["pooled"][scope]
        if row is None or row["recall"] is None:
            continue
        sentence = f"recall {row['recall']:.3f} (95 % interval {row['low']:.3f} to {row['high']:.3f})"
        sentence += f" in {judged_queries(row)}, {own_chunk(recall)}, k = {recall['k']}, {row['filter']}"
        if row.get("shared_expected") is not None:
            sentence += f"; expected there: {merged_answers(row, recall['k'])}"
        parts.append(sentence)
    return "; ".join(parts)


def values_text(fact: Mapping[str, Any]) -> str:
    """The fact `metadata` in a few words: complete chunks before and after without defaults, and what the schema did."""
    parts = [
        f"every field was there in {fact['before']['chunks']:,} of {fact['chunks']:,} chunks in the source",
        f"{fact['values_before']:.1%} of the values",
        f"without defaults in {max(0, fact['after']['chunks'] - fact['defaulted_chunks']):,} of {fact['chunks']:,} in the target",
    ]
    for key, words in (("derived", "derived from the documents"), ("defaults", "filled with a default"),
                       ("set", "set by the schema"), ("changed", "changed")):  # fmt: skip
        if fact[key]:
            parts.append(f"{fact[key]:,} {words}")
    return ", ".join(parts)


def _not_applicable(name: str, reason: str) -> Check:
    return Check(name, Verdict.NOT_APPLICABLE, detail=reason)


def _where_listed(number: int) -> str:
    """Where to find the offenders beyond the twenty that a check names."""
    return f"; the first {min(number, 1000):,} are in results/23.json (contradicting)" if number > 20 else ""

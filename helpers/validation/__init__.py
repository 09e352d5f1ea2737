"""Proving the outcome: the tests of the runbook's validator (A27) and of step 23, judged over the findings of one pass.

Fidelity is not a matter of degree: one difference that nobody explained, for any id, fails its test. What is explained,
the quarantined and repaired chunks, is weighed by the decision matrix from `matrix_inputs`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from helpers.formatting import announced_said, count, judged_queries, merged_answers, own_chunk
from helpers.reason_codes import Reason, ReasonCode
from helpers.results import Check, Verdict, worst
from helpers.run.plan import CONTRADICTIONS, EMBEDDINGS
from helpers.snapshots.comparison import CONTENT, COSINE_TOLERANCE

if TYPE_CHECKING:  # fidelity brings what reads a target, for which a status need not wait
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

    def __init__(self, found: Findings, expectation: Expectation) -> None:
        self.found, self.of = found, expectation
        self.total = sum(s.source for s in found.sources)
        self.expected = sum(s.expected for s in found.sources)

    def counts(self) -> Check:
        """1: target + quarantined + left out = source, per collection and in total; nothing extra, no collection missing."""
        kinds = (
            ReasonCode.CHUNK_MISSING,
            ReasonCode.CHUNK_EXTRA,
            ReasonCode.COLLECTION_MISSING,
            ReasonCode.QUARANTINE_UNEXPLAINED,
        )
        wrong = [s.collection for s in self.found.sources if not s.matches]
        check = self._fidelity(COUNTS, kinds)
        check.measured, check.threshold = sum(s.target for s in self.found.sources), self.expected
        if wrong and check.verdict is not Verdict.FAIL:
            check.verdict, check.reason = Verdict.FAIL, ReasonCode.COUNT_MISMATCH
        if check.verdict is Verdict.FAIL and check.measured == check.threshold:
            check.measured = f"{check.measured:,} in all, but not the same ones"
        check.unit = "chunks"
        out = sum(s.left_out for s in self.found.sources)
        aside = f"{sum(self.found.reasons.values()):,} in quarantine" if self.found.reasons else ""
        aside = ", ".join(filter(None, [aside, f"{out:,} left out by the schema" if out else ""]))
        check.detail = "; ".join(filter(None, [check.detail, f"wrong in {', '.join(wrong)}" if wrong else "", aside]))
        return check

    def embeddings(self) -> Check:
        """2: every vector is its own, or the one that was made for it, per id; the space is the source's; nothing is NaN."""
        check = self._fidelity(EMBEDDINGS, (ReasonCode.VECTOR_DIFFERS, ReasonCode.SPACE_DIFFERS))
        if self.found.not_finite and check.verdict is not Verdict.FAIL:
            check.verdict, check.reason, check.measured = Verdict.FAIL, ReasonCode.NAN_EMBEDDING, self.found.not_finite
            check.detail = f"{self.found.not_finite} vectors of the target hold NaN or cannot be read"
        apart = [row["relative"] for row in self.found.worst if row["space"] == "cosine"]
        if check.verdict is Verdict.PASS and apart and max(apart):
            near = f"on cosine each number within {COSINE_TOLERANCE:g} of its own, relative; farthest vector: {max(apart):.2g}"
            check.detail = "; ".join(filter(None, [check.detail, f"{near}; elsewhere bit for bit"]))
        if self.found.anew:
            made = count(sum(told["made"] for told in self.found.anew.values()), "vector")
            names = ", ".join(sorted(self.found.anew)[:5])
            told = f"{made} of {names} made anew: compared with what was made, not with the source"
            check.detail = "; ".join(filter(None, [check.detail, told]))
        return check

    def metadata(self) -> Check:
        """3a: documents, uris and metadata are what snapshot and schema say."""
        return self._fidelity(METADATA, CONTENT)

    def completeness(self) -> Check:
        """3b: the share of the target's chunks with every field that the schema asks for."""
        if self.of.schema.is_identity:
            return _not_applicable(COMPLETENESS, _IDENTITY)
        check = self._fields(COMPLETENESS, self.found.fields.COMPLETE, ReasonCode.MISSING_METADATA)
        check.detail = values_said(self.found.values.summary())
        if check.verdict is Verdict.FAIL and check.measured * 100 >= check.threshold * 99:
            # What nobody explained fails under "metadata"; an incomplete expectation is for the matrix to weigh.
            check.verdict = Verdict.WARNING
        return check

    def contradictions(self) -> Check:
        """What fields of the target say beside what their documents tell, where the schema can ask them; the source's matter."""
        if not self.of.schema.derivations:
            return _not_applicable(CONTRADICTIONS, "the schema derives nothing from documents")
        rows = self.found.values.contradicted("after")
        before = sum(row["chunks"] for row in self.found.values.contradicted("before"))
        number = sum(row["chunks"] for row in rows)
        detail = ""
        if number:
            named = "; ".join(f"{r['collection']}: {r['field']} in {count(r['chunks'], 'chunk')}" for r in rows[:3])
            named += f"; {len(rows) - 3} more collections and fields" if len(rows) > 3 else ""
            detail = f"{named}; in the source: {before:,}{_listed(number)}"
        verdict, reason = _outcome(number, ReasonCode.METADATA_CONTRADICTS, Verdict.WARNING)
        ids = self.found.values.contradicting["after"][:20]
        return Check(CONTRADICTIONS, verdict, number, 0, "values", reason, detail, number, [dict(row) for row in ids])

    def search(self) -> Check:
        """4a: the target finds what the source finds; searched whole it finds what the merged snapshot holds."""
        rows = self.found.search
        merged = {r["target"]: {**r, "collection": r["target"], "unreachable": []} for r in self.found.merged}
        failed = [r for r in (*rows, *merged.values()) if r["verdict"] is Verdict.FAIL]
        applicable = [r for r in rows if r["verdict"] is not Verdict.NOT_APPLICABLE]
        if not applicable:
            return _not_applicable(SEARCH, "; ".join(sorted({r["detail"] for r in rows})) or "no collection")
        unasked = [r for r in rows if r["verdict"] is Verdict.NOT_EXERCISED]
        warned = [r for r in (*rows, *merged.values()) if r["verdict"] is Verdict.WARNING]
        verdict, reason = _outcome(failed, ReasonCode.SEARCH_NOT_EQUIVALENT)
        if unasked and not failed and not warned:
            all_of = len(unasked) == len(applicable)
            verdict, reason = (Verdict.NOT_EXERCISED, "") if all_of else (Verdict.WARNING, ReasonCode.SEARCH_UNSURE)
        elif warned and not failed:
            unsure = any(r.get("unsure") for r in warned)
            verdict, reason = (
                Verdict.WARNING,
                ReasonCode.SEARCH_UNSURE if unsure else ReasonCode.SEARCH_BASELINE_MISSING,
            )
        named, every = failed or [*warned, *unasked], len(applicable) + len(merged)
        told = named[:3] or [r for r in rows if r.get("moved")][:3]
        detail = "; ".join([*(f"{r['collection']}: {r['detail']}" for r in told), recall_said(self.recall())])
        ids = [{"collection": r["collection"], "id": i} for r in failed for i in r["unreachable"]]
        return Check(SEARCH, verdict, every - len(named), every, "collections", reason, detail, len(ids), ids[:20])

    def neighbours(self) -> Check:
        """4a: of how many of the true nearest neighbours recall in each collection is, and why not of the others."""
        pooled = self.recall()["pooled"]["restricted"] or {"judged": 0, "neighbours": 0}
        judged, every = pooled["judged"], pooled["neighbours"]
        if not every:
            return _not_applicable(NEIGHBOURS, "no query has a neighbour in its own collection")
        verdict = Verdict.PASS if judged == every else Verdict.NOT_EXERCISED
        detail = f"of {judged_queries(pooled)}" if judged < every else ""
        return Check(NEIGHBOURS, verdict, judged, every, "neighbours", detail=detail, parameter="validation.probes")

    def announced(self) -> Check:
        """4a: searches sent as announced to clients return what the target holds of before."""
        told = self.recall()["announced"]
        if not told["rows"]:
            return _not_applicable(AS_ANNOUNCED, "no collection was split or merged: clients ask as before")
        whys = [f"{r['collection']}: {r['why']}" for r in told["rows"] if r["why"]]
        if told["pooled"] is None:
            why = "; ".join(whys[:3]) or "no query has a neighbour"
            return Check(AS_ANNOUNCED, Verdict.NOT_EXERCISED, 0, 1, "queries", detail=why, relation="≥",
                         parameter="validation.probes")  # fmt: skip
        short = [f"{r['collection']}: {r['short']}" for r in told["rows"] if r["told_apart"] and r["short"]]
        verdict, reason = _outcome(short or whys, ReasonCode.SEARCH_UNSURE, Verdict.WARNING)
        detail = "; ".join([announced_said(told), *short[:3], *whys[:3]])
        good = sum(not r["why"] and not (r["told_apart"] and r["short"]) for r in told["rows"])
        return Check(AS_ANNOUNCED, verdict, good, len(told["rows"]), "source collections", reason, detail)

    def _announced(self) -> dict[str, Any]:
        """The searches as announced: rows (`equivalence.announced`) with low and high, and all pooled by queries, or None."""
        rows = []
        for r in self.found.announced:
            known = r["same"] is not None and r["queries"] > 0
            rows.append(
                r
                | dict(zip(("low", "high"), interval(r["same"], r["queries"]) if known else (None, None), strict=True))
            )
        known = [r for r in rows if r["same"] is not None]
        if not (queries := sum(r["queries"] for r in known)):
            return {"rows": rows, "pooled": None}
        pooled: dict[str, Any] = {"queries": queries, "sent": sum(r["asked"] * len(r["targets"]) for r in known)}
        pooled |= {key: sum(r[key] * r["queries"] for r in known) / queries for key in ("same", "possible")}
        pooled |= dict(zip(("low", "high"), interval(pooled["same"], queries), strict=True))
        return {"rows": rows, "pooled": pooled}

    def recall(self) -> dict[str, Any]:
        """What the searches were, and how many of the true nearest neighbours they found: the fact `recall` of a step.

        Queries are stored vectors; the query's own chunk is left out of every answer (`others`: true), of both sides.

        k; confidence and interval (its method); rows, one a source collection and scope: restricted (only chunks of the query's
        own source collection) and, where collections were merged, unrestricted; and the same pooled over all queries. Each
        has filter, queries (that could be judged; restricted: of `asked`, and `judged` of all `neighbours`), recall, low, high
        (target) and before, before_low, before_high (source; None where not asked).
        `announced` has what was sent as announced.
        `pooled` of the unrestricted ones has shared_low and shared_high, too: the interval of shared_expected.
        """
        rows = [
            _recall_row("restricted", r["collection"], OWN if self.found.merged else WHOLE, r["recall_queries"], r["verdict"],
                        r.get("recall_after"), r.get("recall_before"), r.get("recall_pairs", 0))
            | {"asked": r["probes"], "judged": r["judged"], "neighbours": r["neighbours"]}
            for r in self.found.search
        ]  # fmt: skip
        for r in self.found.merged:
            row = _recall_row("unrestricted", r["collection"], _NONE, r["queries"], r["verdict"], r["recall"], r["before"],
                              r["queries"])  # fmt: skip
            rows.append(row | {key: r[key] for key in ("target", "merged", *_SHARES)})
        pooled = {scope: _pooled([r for r in rows if r["scope"] == scope]) for scope in ("restricted", "unrestricted")}
        return {
            "k": self.of.parameters.validation.k,
            "others": True,
            "confidence": 0.95,
            "interval": "Wilson score, each query counts once",
            "pooled": pooled,
            "rows": rows,
            "announced": self._announced(),
        }

    def queries(self) -> Check:
        """4b: the runbook's named text queries. The decision matrix weighs how many work; none of them fails here."""
        asked = [q for q in self.found.queries if q["applicable"]]
        if not asked:
            whys = sorted({str(q["why"]) for q in self.found.queries})
            why = "; ".join(whys) or "no query is named in the parameters"
            return Check(QUERIES, Verdict.NOT_EXERCISED, 0, 1, "queries", detail=why, relation="≥",
                         parameter="validation.queries")  # fmt: skip
        bad = [q for q in asked if not q["ok"]]
        detail = "; ".join(f"{q['text']}: {q['why']}" for q in bad)
        verdict, reason = _outcome(bad, ReasonCode.QUERY_WITHOUT_ANSWER, Verdict.WARNING)
        good = len(asked) - len(bad)
        return Check(QUERIES, verdict, good, len(asked), "queries", reason, detail, parameter="validation.queries")

    def known(self) -> list[Check]:
        """4c: queries find the chunks that they are known for, and neighbours of before stay, as `validation.retrieval` asks."""
        from helpers.validation.properties import judge_agreement, judge_known

        rules, before = self.of.parameters.validation.retrieval, (self.of.baseline or {}).get("retrieval")
        found = [
            judge_known(self.found.known, rules, before),
            judge_agreement(self.found.search, self.found.anew, rules),
        ]
        return [check for check in found if check is not None]

    def distribution(self) -> Check:
        """5: the type of a chunk (`collection_type`) is that of the collection in which it is."""
        if not self.found.fields.type:
            return _not_applicable(DISTRIBUTION, _IDENTITY)
        return self._fields(DISTRIBUTION, self.found.fields.PLACED, ReasonCode.WRONG_COLLECTION_TYPE)

    def duplicates(self) -> Check:
        """6: ids are unique, and no two chunks have the same one."""
        return self._fidelity(DUPLICATES, (ReasonCode.CHUNK_DOUBLED,))

    def field_types(self) -> Check:
        """7: types are kept (1, 1.0 and true are three values), and each field keeps the schema's rules."""
        changed = self._fidelity(FIELD_TYPES, (ReasonCode.TYPE_DIFFERS,))
        if changed.verdict is Verdict.FAIL or self.of.schema.is_identity:
            return changed
        return self._fields(FIELD_TYPES, self.found.fields.TYPED, ReasonCode.INVALID_FIELD)

    def citation_uris(self) -> Check:
        """8: citation URIs (fields whose pattern holds a date) match the schema's pattern, with a date that exists."""
        if not self.found.fields.dated:
            return _not_applicable(CITATIONS, _IDENTITY)
        return self._fields(CITATIONS, self.found.fields.CITED, ReasonCode.INVALID_CITATION_URI)

    def all(self) -> list[Check]:
        """Every test, in order; the detail of `search` says what `neighbours` does, too."""
        return [
            self.counts(), self.embeddings(), self.metadata(), self.completeness(), self.search(), self.queries(),
            *self.known(), self.distribution(), self.duplicates(), self.field_types(), self.citation_uris(),
        ]  # fmt: skip

    def matrix_inputs(self) -> dict[str, Any]:
        """The figures of the decision matrix; a pair of None where a row does not apply."""
        fields, asked = self.found.fields, [q for q in self.found.queries if q["applicable"]]
        complete = complete_before = complete_known = None
        if not self.of.schema.is_identity:
            complete = fields.checked - fields.counts[fields.COMPLETE]
            complete_before = self.found.values.complete["before"]
            complete_known = max(0, complete - self.found.values.defaulted)
        return {
            "chunks": self.total - sum(s.left_out for s in self.found.sources),
            "valid": self.expected,
            "complete": complete,
            "complete_before": complete_before,
            "complete_known": complete_known,
            "checked": fields.checked,
            "nan": sum(s.nan for s in self.found.sources),
            "lost": sum(s.lost for s in self.found.sources),
            "queries_ok": sum(q["ok"] for q in asked) if asked else None,
            "queries": len(asked),
            "queries_why": self.queries().detail,
            "collections_matching": sum(s.matches for s in self.found.sources),
            "collections": len(self.found.sources),
            "differences": sum(self.found.counted.values()),
        }

    def _fidelity(self, name: str, kinds: Sequence[ReasonCode]) -> Check:
        """FAIL with the offenders by id where there is any difference of these kinds."""
        rows = self.found.differences[self.found.differences["difference"].isin(kinds)]
        numbers = {kind: self.found.counted[kind] for kind in kinds if self.found.counted[kind]}
        number = sum(numbers.values())
        verdict, reason = _outcome(numbers, next(iter(numbers), kinds[0]))
        detail = ", ".join(f"{kind.replace('_', ' ')}: {n:,}" for kind, n in numbers.items())
        ids = [{str(k): v for k, v in row.items()} for row in rows.head(20).to_dict("records")]
        return Check(name, verdict, number, 0, "differences", reason, detail, number, ids)

    def _fields(self, name: str, test: str, reason: ReasonCode) -> Check:
        fields = self.found.fields
        bad, ids = fields.counts[test], [dict(row) for row in fields.offenders[test][:20]]
        verdict, given = _outcome(bad, reason)
        return Check(name, verdict, fields.checked - bad, fields.checked, "chunks", given, "", bad, ids)


def _outcome(wrong: object, reason: ReasonCode, otherwise: Verdict = Verdict.FAIL) -> tuple[Verdict, Reason]:
    return (otherwise, reason) if wrong else (Verdict.PASS, "")


OWN = "judged among chunks of the query's own source collection; no filter was sent"
WHOLE = "each collection is searched whole; no filter was sent"
_NONE = "merged collections are searched whole; no filter was sent"
_SHARES = ("shared_expected", "shared_measured", "shared_filtered", "from_others")


def interval(share: float, queries: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a mean share (0–1) over queries; NaN where there is none.

    Each query counts once, whatever k is: the neighbours of one query are not independent of each other.
    """
    if not queries or not math.isfinite(share):
        return math.nan, math.nan
    z = 1.959963984540054
    centre = (share + z * z / (2 * queries)) / (1 + z * z / queries)
    half = z * math.sqrt(share * (1 - share) / queries + z * z / (4 * queries**2)) / (1 + z * z / queries)
    return max(0.0, round(centre - half, 12)), min(1.0, round(centre + half, 12))  # 1, not 0.9999999999999999


def _recall_row(
    scope: str, collection: str, asked: str, queries: int, verdict: Any, after: Any, before: Any, pairs: int
) -> dict[str, Any]:
    row: dict[str, Any] = {"scope": scope, "collection": collection, "filter": asked, "queries": queries}
    for key, share, number in (("recall", after, queries), ("before", before, pairs)):
        known = share is not None and number > 0
        low, high = interval(float(share), number) if known else (None, None)
        prefix = "" if key == "recall" else "before_"
        row |= {key: float(share) if known else None, f"{prefix}low": low, f"{prefix}high": high}
    return row | {"verdict": verdict}


def _pooled(rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The rows of one scope as one, by queries; None where there is none."""
    if not rows:
        return None

    def mean(key: str) -> float | None:
        known = [(r[key], r["queries"]) for r in rows if r.get(key) is not None and r["queries"]]
        return sum(share * n for share, n in known) / sum(n for _, n in known) if known else None

    queries = sum(r["queries"] for r in rows)
    paired = sum(r["queries"] for r in rows if r["before"] is not None)
    verdict = worst(r["verdict"] for r in rows)
    shares = mean("recall"), mean("before")
    one = _recall_row(rows[0]["scope"], "all collections", rows[0]["filter"], queries, verdict, *shares, paired)
    one |= {key: mean(key) for key in _SHARES if key in rows[0]}
    one |= {key: sum(r[key] for r in rows) for key in ("asked", "judged", "neighbours") if key in rows[0]}
    if (same := one.get("shared_expected")) is not None:
        known = sum(r["queries"] for r in rows if r["shared_expected"] is not None)
        one |= dict(zip(("shared_low", "shared_high"), interval(same, known), strict=True))
    return one


def recall_said(recall: Mapping[str, Any]) -> str:
    """The fact `recall` in one sentence or two: what was asked, what was found, and what merging changes."""
    parts = []
    for scope in ("restricted", "unrestricted"):
        row = recall["pooled"][scope]
        if row is None or row["recall"] is None:
            continue
        said = f"recall {row['recall']:.3f} (95 % interval {row['low']:.3f} to {row['high']:.3f})"
        said += f" in {judged_queries(row)}, {own_chunk(recall)}, k = {recall['k']}, {row['filter']}"
        if row.get("shared_expected") is not None:
            said += f"; expected there: {merged_answers(row, recall['k'])}"
        parts.append(said)
    return "; ".join(parts)


def values_said(told: Mapping[str, Any]) -> str:
    """The fact `metadata` in a few words: complete before, and after without defaults, and what the schema did to get there."""
    said = [
        f"every field was there in {told['before']['chunks']:,} of {told['chunks']:,} chunks in the source",
        f"{told['values_before']:.1%} of the values",
        f"without defaults in {max(0, told['after']['chunks'] - told['defaulted_chunks']):,} of {told['chunks']:,} in the target",
    ]
    for key, words in (("derived", "derived from the documents"), ("defaults", "filled with a default"),
                       ("set", "set by the schema"), ("changed", "changed")):  # fmt: skip
        if told[key]:
            said.append(f"{told[key]:,} {words}")
    return ", ".join(said)


def _not_applicable(name: str, why: str) -> Check:
    return Check(name, Verdict.NOT_APPLICABLE, detail=why)


def _listed(number: int) -> str:
    """Where more than the twenty that a check names are."""
    return f"; the first {min(number, 1000):,} are in results/23.json (contradicting)" if number > 20 else ""

"""Step 23: test the target, every chunk of it, and record what the decision needs. (Runbook, Step 4.)

`ValidateStep.read_target` reads the target once (`fidelity.Examination`). Each other method records one test
(`judgement.Judgement`) and returns a table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from helpers import plots
from helpers.errors import RunbookError
from helpers.formatting import judged_queries, scope
from helpers.migration.reembedding import REEMBEDDED, judge_reembedded
from helpers.migration.source_changes import current_snapshot, open_sealed, schema_of_run
from helpers.migration.staging import Quarantine
from helpers.reason_codes import ReasonCode
from helpers.results import Check, Verdict
from helpers.run.executor import workers_of
from helpers.run.folders import SEARCHES, RunPath
from helpers.run.kernel import cut
from helpers.run.plan import Step
from helpers.run.record import NotebookStep, RunRecord
from helpers.snapshots import comparison as compare
from helpers.snapshots.comparison import CONTENT
from helpers.snapshots.snapshot import Snapshot
from helpers.stores import open_target
from helpers.validation import AS_ANNOUNCED, OWN, WHOLE, Judgement
from helpers.validation.equivalence import searches
from helpers.validation.fidelity import Examination, Expectation, Findings, SourceCount
from helpers.validation.properties import COLUMNS, FieldValues, judge_configuration, judge_fulltext, known_fact
from helpers.validation.search import overlap_ks, pairs_of, rows_frame

FLOAT32_FLOOR = 2.0**-24  # the least relative difference in float32
_LISTS = ("plain", "over")
_NEAR = 1e-5  # of the vector's length: reads of one cosine vector differ by an ulp or two (chroma-facts 4)


def quarantine_of(run: RunRecord) -> Mapping[tuple[str, str], str]:
    """(collection, source id) → reason, as step 22 recorded it."""
    return Quarantine(run.workspace / RunPath.QUARANTINE).reasons()


def _baseline(run: RunRecord, now: Snapshot) -> Mapping[str, Any] | None:
    """The baseline of the dry run, as far as it is valid for the snapshot `now`; None where there is none."""
    dry = run.earlier(Step.DRY_RUN)
    measured: Mapping[str, Any] | None = dry.facts.get("search_baseline") if dry is not None else None
    recorded = dry.facts.get("snapshot") if dry is not None else None
    if measured is None or recorded is None:
        return measured
    try:
        return still_true(measured, open_sealed(run.home, Path(recorded["folder"])), now)
    except RunbookError as error:  # that snapshot was pruned, so they cannot be compared
        run.log(f"the baseline of the dry run is taken as it is: {error}")
        return measured


def still_true(baseline: Mapping[str, Any], before: Snapshot, now: Snapshot) -> dict[str, Any]:
    """The baseline without probes and answers that are no longer valid. `before` is the snapshot that it was measured with.

    About a day lies between the two snapshots, and clients write. The measured distance of two chunks is valid only while both
    vectors are the same; judged by an old distance, a correct target would be NO-GO.
    """
    collections = dict(baseline["collections"])
    for name in sorted(set(collections) & set(before.names()) & set(now.names())):
        if [(p.sha256, p.without) for p in before.parts(name)] == [(p.sha256, p.without) for p in now.parts(name)]:
            continue
        probes = collections[name]["probes"]
        named = {r["id"] for r in probes} | {chunk for r in probes for key in _LISTS for chunk, _ in r[key]}
        was, has = _marks(before, name, named), _marks(now, name, named)
        same = {chunk for chunk in was.keys() & has.keys() if _alike(was[chunk], has[chunk])}
        remaining = [_without(r, same) for r in probes if r["id"] in same]
        moved = collections[name].get("moved", 0) + pairs_of(probes) - pairs_of(remaining)
        collections[name] = {**collections[name], "moved": moved, "probes": remaining}
    return {**baseline, "collections": collections}


def _without(record: Mapping[str, Any], same: set[str]) -> dict[str, Any]:
    return {**record, **{key: [pair for pair in record[key] if pair[0] in same] for key in _LISTS}}


def _marks(snapshot: Snapshot, name: str, ids: set[str]) -> dict[str, np.ndarray]:
    """Id → the length of its vector and four projections of it, shape (5,): enough to tell vectors apart in little memory."""
    result: dict[str, np.ndarray] = {}
    for batch in snapshot.batches(name):
        rows = [at for at, chunk in enumerate(batch.ids) if chunk in ids]
        if rows:
            vectors = batch.embeddings[rows].astype(np.float64)
            onto = np.random.default_rng(vectors.shape[1]).standard_normal((vectors.shape[1], 4))
            marks = np.column_stack([np.linalg.norm(vectors, axis=1), vectors @ onto])
            result |= {batch.ids[at]: mark for at, mark in zip(rows, marks, strict=True)}
    return result


def _alike(a: np.ndarray, b: np.ndarray) -> bool:
    with np.errstate(invalid="ignore"):  # a vector that is not finite equals none
        return bool(np.all(np.abs(a - b) <= _NEAR * max(a[0], b[0])))


class ValidateStep(NotebookStep):
    """The notebook's view: `read_target` first, then one method for each test."""

    def __init__(self, run: RunRecord) -> None:
        self.run = run
        snapshot = current_snapshot(run)
        self.expectation = Expectation(
            snapshot=snapshot,
            schema=schema_of_run(run),
            parameters=run.parameters,
            date=run.date,
            quarantined=quarantine_of(run),
            baseline=_baseline(run, snapshot),
            reembedded=run.workspace / REEMBEDDED,
        )
        run.require(Step.MIGRATE)
        self._judgement: Judgement | None = None

    def read_target(self) -> pd.DataFrame:
        """Read every chunk of the target by id and compare it: one row for each target collection."""
        total = self.expectation.snapshot.total
        with (
            self.run.phase("compare", total),
            self.run.progress("comparing with the target", total) as progress,
            open_target(self.run.parameters.target) as store,
            searches(self.run.folder / SEARCHES, self.run.wrote) as write,
        ):
            workers = None if self.run.parameters.target.is_embedded else workers_of(self.run)
            findings = Examination(store, self.expectation, write, workers).run(progress)
            judge_fulltext(self.run, store, [row["collection"] for row in findings.targets if row["target"]])
        self.run.fact("settings", findings.settings)
        self._judgement = Judgement(findings, self.expectation)
        record(self.run, self._judgement)
        judge_reembedded(self.run, self.expectation.snapshot, self.run.workspace / REEMBEDDED)
        return pd.DataFrame(findings.targets)

    @property
    def judged(self) -> Judgement:
        if self._judgement is None:
            self.read_target()
        assert self._judgement is not None
        return self._judgement

    @property
    def findings(self) -> Findings:
        return self.judged.findings

    def counts(self) -> pd.DataFrame:
        """Chunks in the source, quarantined, expected and in the target, by source collection."""
        self._put(self.judged.counts())
        frame = pd.DataFrame([{**_row(s), "matches": s.matches} for s in self.findings.sources])
        if len(frame):
            self._figure("counts", lambda: plots.counts_by_collection(frame), "Chunks per source collection.")
        return frame

    def embeddings(self) -> pd.DataFrame:
        """Compare every vector with the source's, by id; draw distances and norms."""
        self._put(self.judged.embeddings())
        for space in sorted(self.findings.relative):
            self._ecdf(space)
        if self.findings.before:
            before, after = np.concatenate(self.findings.before), np.concatenate(self.findings.after)
            self._figure("norms", lambda: plots.norms_before_after(before, after), "Norms of the vectors, by id.")
        return self.differences(ReasonCode.VECTOR_DIFFERS, ReasonCode.SPACE_DIFFERS)

    def _ecdf(self, space: str) -> None:
        relative, null = (np.concatenate(part[space]) for part in (self.findings.relative, self.findings.mismatched))
        tolerance = compare.COSINE_TOLERANCE if space == "cosine" else 0.0
        worst = next(((r["id"], r["relative"]) for r in self.findings.worst if r["space"] == space), None)
        self._figure(
            f"distances_{space}",
            lambda: plots.distance_ecdf(
                relative,
                null,
                tolerance=tolerance,
                floor=FLOAT32_FLOOR,
                space=f"{space}; drawn as |source - target| / |source|",
                worst=worst,
            ),
            f"Source to target, paired by id, {space}: relative distance, with mismatched pairs for comparison."
            + " Vectors made anew: what was made, to target." * bool(self.findings.anew),
        )

    def metadata(self) -> pd.DataFrame:
        """Compare documents, URIs and metadata with snapshot and schema, and check that no field is missing."""
        self._put(self.judged.metadata())
        self._put(self.judged.completeness())
        return self.differences(*CONTENT)

    def completeness(self) -> pd.DataFrame:
        """One row for each required field: values before (source) and after (target), each counted on its own side.

        kept: unchanged. changed: another value. derived: from the document. set: by the schema. default: filled in, without
        knowledge of the value.
        """
        columns = ["field", "chunks", "before", "after", "kept", *FieldValues.KINDS]
        table = pd.DataFrame(self.findings.values.table(), columns=columns)
        if len(table):
            shares = table.assign(**{side: table[side] / table["chunks"].clip(lower=1) for side in ("before", "after")})
            caption = "Share of the migrated chunks that hold each field, in the source and in the target."
            self._figure("completeness", lambda: plots.completeness_before_after(shares), caption)
        return table

    def changes(self) -> pd.DataFrame:
        """The changes of the schema, one row a field and rule, with the kind: changed, derived, set or default."""
        return pd.DataFrame(self.findings.values.summary()["changes"], columns=["field", "rule", "kind", "chunks"])

    def contradictions(self) -> pd.DataFrame:
        """Fields of the target whose value contradicts the document, one row a collection and field."""
        self._put(self.judged.contradictions())
        rows = self.findings.values.contradicted("after")
        return pd.DataFrame(rows, columns=["collection", "field", "chunks", "example"])

    def configuration(self) -> pd.DataFrame:
        """Every setting of every collection in source and target, kept or the reason why not; empty where the schema creates new
        collections."""
        self._put(judge_configuration(self.findings.configuration))
        return pd.DataFrame(self.findings.configuration, columns=COLUMNS)

    def search(self) -> pd.DataFrame:
        """Compare the probes with the baseline of the dry run, by source collection; draw overlap and recall."""
        self._put(self.judged.search())
        self._put(self.judged.neighbours())
        self._put(self.judged.announced())
        rows = self.findings.search
        overlaps = [
            {"collection": r["collection"], "kind": kind, "k": k, "overlap": r[f"{key}@{k}"]}
            for r in rows
            for kind, key in (("exact", "overlap_exact"), ("approximate", "overlap_plain"))
            for k in overlap_ks(r["k"])
        ]
        overlap = pd.DataFrame(overlaps, columns=["collection", "kind", "k", "overlap"])
        own = OWN if self.findings.merged else WHOLE
        measured = self.judged.recall()
        pooled = measured["pooled"]["restricted"]
        judged = f" Recall in each collection is of {judged_queries(pooled)}." if pooled else ""
        asked = f"Stored vectors were searched for; {own}."
        self._figure(
            "overlap",
            lambda: plots.overlap_heatmap(overlap, asked, within=bool(self.findings.merged)),
            f"Share of the k nearest that both sides find; {own}.{judged}"
            + " What a client gets of all collections is another question: see the checklist."
            * bool(self.findings.merged),
        )
        recall = recall_frame(measured, {r["collection"]: r.get("recall_floor") for r in rows})
        caption = (
            f"Recall of the index among the {measured['k']} nearest, before and after, with 95 % intervals.{judged}"
        )
        self._figure("recall", lambda: plots.recall_by_collection(recall), caption)
        return rows_frame(rows)

    def merged(self) -> pd.DataFrame:
        """Searches of merged collections, as clients send them: what is expected to differ, and what was lost.

        One row a source collection and target. shared_expected, shared_measured: shares of the earlier k nearest that are still
        answered. shared_filtered: the share that a filter by the source collection leaves. recall: the share of the exact merged
        answer that the target returned. Empty where nothing was merged.
        """
        columns = ["collection", "target", "merged", "queries", "shared_expected", "shared_measured", "shared_filtered",
                   "from_others", "recall", "over_recall", "before", "verdict", "detail"]  # fmt: skip
        return pd.DataFrame(self.findings.merged).reindex(columns=columns)

    def announced(self) -> pd.DataFrame:
        """Searches sent as the announcement says: to every target collection, with its filter, sorted by distance.

        One row a source collection. same: the share of the earlier k nearest that was answered. possible: the share that the
        target holds. Empty where no collection was split or merged.
        """
        columns = ["collection", "targets", "filter", "queries", "same", "low", "high", "possible", "why"]
        measured = self.judged.recall()
        return pd.DataFrame(measured["announced"]["rows"]).reindex(columns=columns).assign(k=measured["k"])

    def recall(self) -> pd.DataFrame:
        """Recall before and after with its 95 % interval: one row a source collection, and all collections pooled."""
        measured = self.judged.recall()
        pooled = [row for row in measured["pooled"].values() if row]
        columns = [
            "scope",
            "collection",
            "target",
            "queries",
            "judged",
            "neighbours",
            "before",
            "recall",
            "low",
            "high",
            "filter",
        ]
        return pd.DataFrame([*measured["rows"], *pooled]).reindex(columns=columns).assign(k=measured["k"])

    def distances(self) -> pd.DataFrame:
        """One row a query: its distances before and after, of the chunks that both sides answered, and of the last chunk.

        Without rows where the source was not searched before.
        """
        columns = [
            "collection",
            "query",
            "same_chunks",
            "largest_difference",
            "last_before",
            "last_after",
            "last_unrestricted",
        ]
        return pd.DataFrame(self.findings.distances, columns=columns)

    def queries(self) -> pd.DataFrame:
        """Ask the target the named text queries; one row for each."""
        self._put(self.judged.queries())
        return pd.DataFrame(self.findings.queries)

    def known_answers(self) -> pd.DataFrame:
        """Queries with known answers, those that were not answered first; empty where `validation.retrieval` names none."""
        for check in self.judged.retrieval():
            self._put(check)
        rows = sorted(self.findings.known_answers, key=lambda row: row["rank"] is not None)
        return pd.DataFrame(rows, columns=["query", "expect", "rank", "asked", "why"])

    def distribution(self) -> pd.DataFrame:
        """Chunks whose collection_type differs from that of their collection."""
        return self._offenders(self.judged.distribution())

    def duplicates(self) -> pd.DataFrame:
        """Ids that occur twice, or that two chunks claim."""
        self._put(self.judged.duplicates())
        return self.differences(ReasonCode.CHUNK_DOUBLED)

    def field_types(self) -> pd.DataFrame:
        """Values whose type changed, or that violate the schema's rules."""
        return self._offenders(self.judged.field_types())

    def citation_uris(self) -> pd.DataFrame:
        """Citation URIs that are not well formed."""
        return self._offenders(self.judged.citation_uris())

    def worst(self, n: int = 20) -> pd.DataFrame:
        """The `n` chunks whose vectors changed most; in a sound target most are far below the tolerance."""
        return pd.DataFrame(self.findings.worst[:n])

    def differences(self, *kinds: str) -> pd.DataFrame:
        """All differences (at most 1,000 of a kind and collection), drawn; with `kinds` only those, not drawn."""
        rows = self.findings.differences
        if not kinds:
            self._figure(
                "differences",
                lambda: plots.differences_bar(rows, self.findings.counted.total()),
                "Differences by kind and collection.",
            )
        counted = self.findings.counted
        chosen = rows[rows["difference"].isin(kinds)] if kinds else rows.copy()
        return cut(chosen, sum(counted[kind] for kind in kinds or counted))

    def illustration(self) -> pd.DataFrame:
        """Draw source and target on two principal components, as an illustration, not as evidence; vectors by collection."""
        widths = [batch.dimension for _, batch, _ in self.findings.plane]
        width = max(set(widths), key=lambda w: (widths.count(w), w), default=0)
        pairs = [(name, a, b) for name, a, b in self.findings.plane if a.dimension == width]
        labels = [name for name, a, _ in pairs for _ in range(len(a))]
        source = np.concatenate([a.embeddings for _, a, _ in pairs]) if pairs else np.zeros((0, 0), np.float32)
        target = np.concatenate([b.embeddings for _, _, b in pairs]) if pairs else np.zeros((0, 0), np.float32)
        pairs_in_all = sum(s.target for s in self.findings.sources)
        self.run.sampled("figure of both sides", len(labels), pairs_in_all)
        self._figure(
            "plane", lambda: plots.pca_overlay(source, target, labels, pairs_in_all), "An illustration, no evidence."
        )
        return pd.Series(labels, name="vectors drawn", dtype=object).value_counts().to_frame()

    def _offenders(self, check: Check) -> pd.DataFrame:
        self._put(check)
        return cut(pd.DataFrame(check.ids), check.offenders)

    def _put(self, check: Check) -> None:
        put(self.run, check)

    def _figure(self, name: str, draw: Callable[[], Any], caption: str) -> None:
        self.run.figure(name, draw(), caption)


def recall_frame(fact: Mapping[str, Any], floors: Mapping[str, Any]) -> pd.DataFrame:
    """The fact `recall` in the form that `plots.recall_by_collection` takes; `floors` by source collection.

    One row for each collection, restricted to its own chunks; after a merge also one for all of them without a filter.
    """
    shown = [r for r in fact["rows"] if r["scope"] == "restricted"]
    shown += [r for r in [fact["pooled"]["unrestricted"]] if r]
    table = [
        (r["collection"] if r["scope"] == "restricted" else f"{r['collection']}, without filter", r["before"], r["recall"],
         floors.get(r["collection"]), r["before_low"], r["before_high"], r["low"], r["high"], r["queries"])
        for r in shown
    ]  # fmt: skip
    columns = [
        "collection",
        "before",
        "after",
        "floor",
        "before_low",
        "before_high",
        "after_low",
        "after_high",
        "queries",
    ]
    return pd.DataFrame(table, columns=columns)


def put(run: RunRecord, check: Check) -> None:
    """Record the check in place of an earlier one of its name (a cell may run twice)."""
    run.result.checks[:] = [c for c in run.result.checks if c.name != check.name] + [check]


def record(run: RunRecord, judged: Judgement) -> None:
    """Record the facts that the decision and the pages read."""
    findings = judged.findings
    run.fact("counts", [{**_row(s), "matches": s.matches} for s in findings.sources])
    run.fact("targets", findings.targets)
    run.fact("quarantine", dict(sorted(findings.reasons.items())))
    run.fact("left_out", dict(sorted(findings.left_out.items())))
    run.fact("differences", dict(sorted(findings.counted.items())))
    run.fact("differing_chunks", findings.differing)
    run.fact("search", findings.search)
    record_searches(run, judged)
    record_values(run, judged)
    run.fact("queries", findings.queries)
    record_known(run, judged)
    run.fact("worst", findings.worst)
    run.fact("configuration", findings.configuration)
    put(run, judge_configuration(findings.configuration))
    run.fact("matrix_inputs", judged.matrix_inputs())
    if findings.unknown_ids:
        detail = f"{findings.unknown_ids} quarantined ids are not in the snapshot"
        put(
            run,
            Check("quarantine", Verdict.WARNING, findings.unknown_ids, 0, "ids", ReasonCode.QUARANTINE_UNKNOWN, detail),
        )
    if findings.notes:
        detail = "; ".join(findings.notes[:5])
        put(
            run,
            Check(
                "collection metadata",
                Verdict.WARNING,
                len(findings.notes),
                0,
                "",
                ReasonCode.COLLECTION_METADATA_DIFFERS,
                detail,
            ),
        )


def record_searches(run: RunRecord, judged: Judgement) -> None:
    """Record the fact `recall`, and the sizes of its samples."""
    recall = judged.recall()
    run.fact("recall", recall)
    for name, row in recall["pooled"].items():
        if row is not None:
            run.sampled(f"recall@{recall['k']}, {scope(name)}", row.get("asked") or row["queries"], judged.expected)
    if (sent := recall["announced"]["pooled"]) is not None:
        run.sampled(AS_ANNOUNCED, sent["queries"], judged.expected)


def record_known(run: RunRecord, judged: Judgement) -> None:
    """Record the fact `retrieval`, and the checks on known answers."""
    if judged.findings.known_answers:
        before = (judged.expectation.baseline or {}).get("retrieval")
        run.fact("retrieval", known_fact(judged.findings.known_answers, before))
    for check in judged.retrieval():
        put(run, check)


def record_values(run: RunRecord, judged: Judgement) -> None:
    """Record the facts `metadata` and `contradictions`, and the check on the latter."""
    values = judged.findings.values
    run.fact("metadata", values.summary())
    run.fact("contradictions", values.contradicted("after"))
    run.fact("contradicting", values.contradicting["after"])
    put(run, judged.contradictions())


def _row(source: SourceCount) -> dict[str, Any]:
    names = ("collection", "source", "quarantined", "left_out", "expected", "target", "nan", "lost")
    return {name: getattr(source, name) for name in names}

"""Step 13: the whole migration, but into a throw-away Chroma. (Runbook, Section 1.4.)

The snapshot of this step is the backup of Section 1.1. The source answers the probes and queries; step 23 compares with these
answers. The target is not opened.
"""

from __future__ import annotations

import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from helpers.errors import one_line
from helpers.formatting import count, duration, size
from helpers.migration.importing import (
    Job,
    judge_arrivals,
    judge_indexes,
    judge_staging,
    refuse_failed,
    routing_table,
    show_transform,
)
from helpers.migration.reembedding import COST, NEW_VECTORS, REEMBEDDED, judge_reembedded, make
from helpers.migration.shipping import Trial
from helpers.migration.staging import Staged
from helpers.migration.target_lock import chosen
from helpers.reason_codes import ReasonCode
from helpers.report import StepRow, numbers
from helpers.report.clients import KILLED, continued, downtime_as_predicted
from helpers.report.numbers import STARTS, WINDOW, start_seconds
from helpers.results import Verdict, kind_of
from helpers.rollback import REMOVE, SOURCE, TITLES
from helpers.run import plan, window
from helpers.run.folders import RunPath
from helpers.run.kernel import free_memory, peak_memory
from helpers.run.plan import Step
from helpers.run.record import PEAK_MEMORY, NotebookStep, RunRecord, open_chosen
from helpers.run.window import ANNOUNCED, DOWNTIME, DURATION, HOLDS, MEMORY, ROLLBACK
from helpers.snapshots.snapshot import Snapshot
from helpers.steps.snapshot import judge_counts, judge_snapshot, take_snapshot
from helpers.steps.validate import record_known, record_searches, record_values
from helpers.stores import open_embedded
from helpers.stores.client import ClientStore
from helpers.stores.diagnosis import TIE, swapped
from helpers.validation import Judgement
from helpers.validation.fidelity import Examination, Expectation
from helpers.validation.properties import answers_of_source
from helpers.validation.search import baseline

# The runbook's table of dry-run issues: issue, reason codes, cause, remedy (Section 1.4).
_ISSUES = (
    ("missing_embedding", (ReasonCode.MISSING_EMBEDDING,), "vectors that the source lists but cannot give",
     "They stay in quarantine, with document and metadata; or order new vectors: migration.reembed."),
    ("invalid scores", ("invalid_",), "values outside the schema's range that no repair rule covers",
     "Correct the source, or change the field's rule in the schema file."),
    ("nan_embedding", (ReasonCode.NAN_EMBEDDING, ReasonCode.INFINITE_EMBEDDING, ReasonCode.TINY_NORM),
     "vectors that are not numbers, or too small", "Find the writer that made them; they stay in quarantine."),
    ("missing_document", (ReasonCode.MISSING_DOCUMENT,), "chunks without a text, which the schema requires",
     "They stay in quarantine, or use a schema that does not require documents."),
    ("unsupported metadata", (ReasonCode.UNSUPPORTED_METADATA, ReasonCode.EMPTY_ID),
     "keys or values that a current Chroma refuses or drops",
     "Rename the keys at the source, or leave the chunks in quarantine."),
    ("too large", (ReasonCode.TOO_LARGE,), "chunks over a limit of the target",
     "They stay in quarantine; the table of quarantined chunks names each limit, who says so, and what helps."),
    ("wrong dimension", (ReasonCode.WRONG_DIMENSION,), "vectors of another size than expected.dimensions allows",
     "Correct expected.dimensions, or find out which model wrote them."),
)  # fmt: skip


DEFAULTED = "defaults in fields that step 11 does not count"

# Key of a probe's record → column of the table.
_SHARES = {"self": "finds itself", "recall": "recall", "over_recall": "recall, over-query"}


# -- prediction --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Prediction:
    """A prediction of the dry run and the measured value (None where it was not measured), both in `unit`: s or bytes.

    `basis` says what the prediction counts, `contains` what the measured value counts: the same, as far as it was timed.
    """

    what: str
    predicted: float
    measured: float | None
    unit: str
    basis: str
    contains: str = ""
    comparable: bool = True

    @property
    def error(self) -> float | None:
        """(predicted - measured) / measured: 0.5 where 150 s were predicted and 100 s measured; None where the two cannot be
        compared."""
        return (self.predicted - self.measured) / self.measured if self.measured and self.comparable else None


def predictions(results: numbers.Results, attempts: Iterable[StepRow] = ()) -> list[Prediction]:
    """Each prediction of the dry run with its measured value, then the announced time; [] where the dry run predicted nothing."""
    named = ", ".join(numbers.estimate(results)[0])
    starts = f" and the starts of notebooks {WINDOW[0].number} to {WINDOW[-1].number}"
    timed = any(start_seconds(results[s.number]) for s in WINDOW if s.number in results)
    attempts = list(attempts)
    lost = sum(row.result.seconds for row in continued(results, attempts) if row.result)
    killed, unknown = KILLED * bool(lost), "; not compared, for that of the killed attempt is not known" * bool(lost)
    measured = {
        DURATION: (_as_estimated(results, lost), f"steps {named}{starts * timed}{killed}"),
        DOWNTIME: downtime_as_predicted(results, attempts),
        MEMORY: (_most_memory(results), f"the highest of steps {named}{unknown}"),
    }
    compared: list[Prediction] = []
    for row in window.predictions(results.get(Step.DRY_RUN)):
        value, contains = measured.get(row["what"], (None, ""))
        contains = contains if value is not None else ""
        comparable = row["what"] != MEMORY or not lost
        compared.append(
            Prediction(row["what"], float(row["value"]), value, row["unit"], row["basis"], contains, comparable)
        )
    night = results[Step.SCHEDULE_AND_NOTIFY].facts.get("night") if Step.SCHEDULE_AND_NOTIFY in results else None
    if compared and night:
        took = numbers.forward(results)
        compared.append(Prediction(ANNOUNCED, float(night["seconds"]), took.work + took.starts + lost if took else None, "s",
                                "the sum above; fence, restart and health checks at most; the watch of step 25; no people",
                                f"steps {WINDOW[0].number} to {WINDOW[-1].number}, {STARTS} included{killed}; not compared, for "
                                "allowances are no prediction", comparable=False))  # fmt: skip
        if "way_back_seconds" in night:
            compared.append(_rollback_prediction(results, float(night["way_back_seconds"])))
    return compared


def _rollback_prediction(results: numbers.Results, announced: float) -> Prediction:
    """The announced time of a rollback with that of the same work in step 27; `contains` names the rest."""
    took, result = numbers.rollback(results.get(Step.ROLLBACK)), results.get(Step.ROLLBACK)
    counts = f"{HOLDS}, at most what steps {Step.SNAPSHOT} and {Step.MIGRATE} take"
    if took is None or result is None:
        return Prediction(ROLLBACK, announced, None, "s", counts, "NOT EXERCISED: no rollback was tried")
    parts = [sum(p.seconds for p in result.phases if p.name == TITLES[stage]) for stage in (SOURCE, REMOVE)]
    contains = f"{duration(parts[0])} of reading and {duration(parts[1])} of removing in step {Step.ROLLBACK}"
    return Prediction(ROLLBACK, announced, sum(parts), "s", counts, f"{contains}; from the order until the target was clean: "
                      f"{duration(took.clean)}")  # fmt: skip


def _as_estimated(results: numbers.Results, lost: float) -> float | None:
    """Measured seconds of what the dry run's estimate counts: the work of its steps, the `lost` seconds of killed attempts, and
    every start of a notebook; None where a step has not finished."""
    steps = [results.get(number) for number in numbers.estimate(results)[0]]
    done = [result for result in steps if result is not None and result.finished]
    if not done or len(done) < len(steps):
        return None
    return (
        lost
        + sum(r.seconds for r in done)
        + sum(numbers.start_seconds(results[s.number]) for s in WINDOW if s.number in results)
    )


def _most_memory(results: numbers.Results) -> float | None:
    peaks = [results[n].facts.get(PEAK_MEMORY) for n in numbers.estimate(results)[0] if n in results]
    return max((float(n) for n in peaks if isinstance(n, int | float)), default=None)


# Step → (least, most) minutes in the runbook: from the headings of its sections, for the review from Appendix A.
RUNBOOK_MINUTES: dict[str, tuple[float, float]] = {
    Step.FENCE_WRITES: (5, 5), Step.SNAPSHOT: (5, 5), Step.MIGRATE: (45, 60), Step.VALIDATE: (10, 10),
    Step.REVIEW: (5, 5), Step.CUTOVER: (10, 10), Step.MONITOR: (60, 60),
}  # fmt: skip


def rows(results: numbers.Results, attempts: Iterable[StepRow] = ()) -> list[dict[str, Any]]:
    """One row for each step with a result, 27 included, and for each of `attempts`, by time. In seconds: actual and estimate (or
    None), with the notebook's start; carried, of the attempts that the step continued; runbook_low and runbook_high."""
    by_step, starts = numbers.estimate(results)
    table: list[dict[str, Any]] = []
    earlier, unknown = list(attempts), dict.fromkeys(("estimate", "runbook_low", "runbook_high")) | {"carried": 0.0}
    lost = sum(row.result.seconds for row in continued(results, earlier) if row.result)
    for step in plan.LINE:
        result = results.get(step.number)
        if result is None or not result.finished:
            continue
        low, high = RUNBOOK_MINUTES.get(step.number, (None, None))
        mine = [row for row in earlier if row.number == step.number]
        table += [{"number": row.number, "step": f"{row.name}: {row.verdict}", "actual": row.result.seconds,
                   "began": row.result.started, **unknown} for row in mine if row.result and row.result.finished]  # fmt: skip
        last = f", attempt {len(mine) + 1} of {len(mine) + 1}" if mine else ""
        estimated = by_step.get(step.number)
        table.append({
            "number": step.number, "step": f"{step.number} {step.title}{last}", "began": result.started,
            "actual": result.seconds + numbers.start_seconds(result), "carried": lost * (step == Step.MIGRATE),
            "estimate": None if estimated is None else estimated + starts / len(numbers.WINDOW), "runbook_low": low and 60 * low,
            "runbook_high": high and 60 * high,
        })  # fmt: skip
    rollback = results.get(Step.ROLLBACK)  # a drill, or an ordered rollback: not part of the sequence
    if rollback is not None and rollback.finished:
        table.append({"number": Step.ROLLBACK, "step": f"{Step.ROLLBACK} {rollback.title}", "began": rollback.started,
                      "actual": rollback.seconds + numbers.start_seconds(rollback), **unknown})  # fmt: skip
    return sorted(table, key=lambda row: str(row["began"]))


# -- step --------------------------------------------------------------------------------------------------------------


class DryRunStep(NotebookStep):
    """The notebook's view: one method for each cell, in order."""

    def __init__(self, run: RunRecord) -> None:
        self.run = run
        self.folder = run.workspace / "dry-run"
        shutil.rmtree(self.folder, ignore_errors=True)
        self.files = Trial(run, self.folder)

    @cached_property
    def _taken(self) -> tuple[Snapshot, dict[str, Any]]:
        """The snapshot and the baseline of the source; the source is opened once for both."""
        with open_chosen(self.run, self.files.place()) as store:
            judge_indexes(self.run, map(store.info, chosen(store.names(), self.run.parameters)), refuse=True)
            snapshot = take_snapshot(self.run, store)
            total = snapshot.total
            with self.run.phase("baseline", total), self.run.progress("Probe the source", total) as bar:
                measured = baseline(store, snapshot, self.run.parameters, progress=bar)
            known = answers_of_source(store, snapshot.names(), self.run.parameters.validation.retrieval)
            self.files.judge(store, snapshot)
        self.files.ship(snapshot)
        return snapshot, {**measured, "retrieval": known}

    @property
    def snapshot(self) -> Snapshot:
        return self._taken[0]

    @cached_property
    def job(self) -> Job:
        return Job.of(self.run, self.snapshot, self.folder, "dry run")

    @cached_property
    def staged(self) -> Staged:
        total = self.snapshot.total
        make(self.run, self.snapshot, self.job.reembedded)
        with (
            self.run.phase("2–3 transform and validate", total),
            self.run.progress("Transform and validate", total) as bar,
        ):
            return self.job.stage(bar)

    def take_snapshot(self) -> pd.DataFrame:
        """Phase 1: take and prove the backup; return a table of its contents."""
        judge_counts(self.run, self.snapshot, self.run.parameters)
        return judge_snapshot(self.run, self.snapshot)

    def measure_source(self) -> pd.DataFrame:
        """Ask the source every probe and named query, the baseline of step 23; one row for each collection."""
        measured = self._taken[1]
        self.run.fact("search_baseline", measured)
        rows = []
        for name, entry in measured["collections"].items():
            probes = entry["probes"]
            by_share = [[float(p[share]) for p in probes if p[share] is not None] for share in _SHARES]
            shares = [float(np.mean(values)) if values else None for values in by_share]
            rows.append((name, entry["space"], len(probes), *shares))
        self._check_stored_vectors(measured["collections"])
        self._check_searches(measured["collections"])
        return pd.DataFrame(rows, columns=["collection", "space", "probes", *_SHARES.values()])

    def _check_stored_vectors(self, collections: dict[str, Any]) -> None:
        """Check that a search for a stored vector finds its own id, not another id at distance 0 that has another vector."""
        named = {name: (sum(p["self"] is False and p["plain"][0][1] <= TIE for p in entry["probes"] if p["plain"]),
                        len(entry["probes"])) for name, entry in collections.items()}  # fmt: skip
        affected = {name: (n, of) for name, (n, of) in named.items() if swapped(n, of)}
        self.run.check(
            "stored vectors not found by a search", Verdict.FAIL if affected else Verdict.PASS, measured=len(affected),
            threshold=0, unit="collections", reason=ReasonCode.VECTORS_NOT_FOUND if affected else "",
            detail="; ".join(f"{one_line(name, 60)}: {n} of {of} found under another id" for name, (n, of) in affected.items())
            + (". Vectors may come back under the ids of others: do not migrate before this is explained." if affected else ""),
            ids=[{"collection": name, "under another id": n, "of": of} for name, (n, of) in affected.items()],
        )  # fmt: skip

    def _check_searches(self, collections: dict[str, Any]) -> None:
        """Check, where the source's limits or its index leave a doubt, whether its search can measure the target's."""
        ordered = self.run.parameters.validation.overquery
        doubts = {name: entry["doubt"] for name, entry in collections.items() if entry["doubt"]}
        given = min((entry["overquery"] for entry in collections.values() if entry["overquery"]), default=ordered)
        if not (doubts or given < ordered or self.run.parameters.source.is_cloud):
            return
        notes = [f"{name}: {doubt}" for name, doubt in list(doubts.items())[:5]]
        notes += [f"asked for {given:,} results, not {ordered:,}: the source gives no more"] if given < ordered else []
        self.run.check(
            "collections whose search is a measure", Verdict.WARNING if doubts else Verdict.PASS,
            measured=len(collections) - len(doubts), threshold=len(collections), unit="collections",
            reason=ReasonCode.SEARCH_UNSURE if doubts else "", detail="; ".join(notes),
        )  # fmt: skip

    def new_vectors(self) -> pd.DataFrame:
        """Phase 2: what had to be embedded, one row for each collection: texts, characters, tokens (estimated), cost, and seconds
        at the measured rate. The migration embeds what changed since. Empty where `migration.reembed` orders nothing."""
        assert self.staged.files is not None
        cost = self.run.result.facts.get(COST) or {"rows": []}
        columns = ["collection", "chunks", "texts", "in_cache", "to_embed", "characters", "tokens"]
        table = pd.DataFrame(cost["rows"], columns=columns)
        if cost.get("cost") is not None:
            table["cost"] = (table["tokens"] * cost["price"] / 1e6).round(4)
        if cost.get("rate"):
            table["seconds"] = (table["to_embed"] / cost["rate"]).round(1)
        return table

    def transform(self) -> pd.DataFrame:
        """Phase 2: what the schema would change, by field and rule. Defaults that step 11 does not count are a warning."""
        explored = self.run.earlier(Step.EXPLORE_SOURCE)
        core = explored.facts.get("core_missing") or {} if explored is not None else {}
        filled = Counter[str]()
        for row in self.staged.repairs:
            if kind_of(str(row["rule"])) == "default" and row["field"] not in core:
                filled[str(row["field"])] += int(row["chunks"])
        most = ", ".join(f"{name} {n:,}" for name, n in filled.most_common(3))
        more = f" and {count(len(filled) - 3, 'more field')}" if len(filled) > 3 else ""
        self.run.judge(
            DEFAULTED, Verdict.WARNING, measured=filled.total(), threshold=0, unit="values", reason=ReasonCode.MISSING_METADATA,
            detail=f"Missing fields that get a default: {most}{more}" if filled else "",
        )  # fmt: skip
        return show_transform(self.run, self.staged, self.job.quarantine.entries(), self.job.schema)

    def routing(self) -> pd.DataFrame:
        """Count the chunks of each source collection that would go to each target collection."""
        return routing_table(self.run.result.facts.get("routing") or [])

    def validate(self) -> pd.DataFrame:
        """Phase 3: one row for each chunk that would be quarantined, with its reason."""
        judge_staging(self.run, self.staged, self.run.parameters)
        self.files.require_unchanged(self.staged)
        judge_reembedded(self.run, self.snapshot, self.job.reembedded)
        self.run.fact("quarantine", self.staged.quarantined)
        return pd.DataFrame(self.job.quarantine.entries(), columns=["collection", "id", "reason", "detail"])

    def import_and_validate(self) -> pd.DataFrame:
        """Run phases 4 and 5 and the tests of step 23 against a throw-away Chroma, which is then removed; one row for each test.

        With `migration.method: files` the tests use the Chroma whose files were copied; rows are imported, too, to be timed.
        """
        refuse_failed(self.run)
        total = sum(self.staged.rows(t) for t in self.staged.files)
        plans = self.job.plans(self.staged)
        try:
            with self._throw_away(self.folder / "target") as store:
                with (
                    self.run.phase(self.files.by_rows, total),
                    self.run.progress("Import into a throw-away Chroma", total) as bar,
                ):
                    importer = self.job.importer(store, self.staged, bar, lambda *_: None, self.run.workspace)
                    importer.prepare(plans)
                    importer.write()
                if not self.files.ordered:
                    return self._verified(store, total)
            with self._throw_away(self.files.target) as store:
                return self._verified(store, total)
        finally:
            for place in (self.folder / "target", self.files.target):
                shutil.rmtree(place, ignore_errors=True)

    def _throw_away(self, place: Path) -> AbstractContextManager[ClientStore]:
        update = {"url": None, "path": str(place), "tenant": "default_tenant", "database": "default_database"}
        here = self.run.parameters.target.model_copy(update=update)
        return open_embedded(place, here, role="throw-away target", label="throw-away Chroma")

    def _verified(self, store: ClientStore, total: int) -> pd.DataFrame:
        with self.run.phase("5 verify", total):
            arrived = self.job.arrivals(store, self.staged)
            judge_arrivals(self.run, arrived, self.run.parameters.expected.minimum_imported)
        return self._examine(store)

    def _examine(self, store: Any) -> pd.DataFrame:
        of = Expectation(
            snapshot=self.snapshot,
            schema=self.job.schema,
            parameters=self.run.parameters,
            date=self.run.date,
            quarantined=self.job.quarantine.reasons(),
            baseline=self._taken[1],
            reembedded=self.job.reembedded,
        )
        total = self.snapshot.total
        with self.run.phase("6 validation suite", total), self.run.progress("Validate", total) as bar:
            judged = Judgement(Examination(store, of).run(bar), of)
        checks = judged.all()
        self.run.result.checks.extend(checks)
        self.run.fact("matrix_inputs", judged.matrix_inputs())
        record_searches(self.run, judged)
        record_known(self.run, judged)
        record_values(self.run, judged)
        skipped = [c for c in checks if c.verdict in (Verdict.NOT_APPLICABLE, Verdict.NOT_EXERCISED)]
        self.run.fact("not_applicable", [{"test": c.name, "why": c.detail} for c in skipped])
        rows = [(c.name, str(c.verdict), c.measured_text, c.expected, c.detail) for c in checks]
        return pd.DataFrame(rows, columns=["test", "verdict", "measured", "expected", "detail"])

    def not_applicable(self) -> pd.DataFrame:
        """The tests that do not apply to the migration, or were not exercised, each with its reason."""
        return pd.DataFrame(self.run.result.facts.get("not_applicable", []), columns=["test", "why"])

    def issues(self) -> pd.DataFrame:
        """The runbook's table of dry-run issues, with the measured counts."""
        quarantined = self.staged.quarantined
        rows = [
            (issue, sum(n for reason, n in quarantined.items() if reason.startswith(codes)), cause, remedy)
            for issue, codes, cause, remedy in _ISSUES
        ]
        rows.append(("id_collision", self.staged.collided, "ids that two chunks claim in one target",
                     "Set migration.id_policy: prefix."))  # fmt: skip
        table = [(issue, "found" if n else "not found", count(n, "chunk"), *advice) for issue, n, *advice in rows]
        table += [self._memory(), self._time_out()]
        columns = ["issue", "state", "measured", "cause", "what helps"]
        self.run.fact("issues", [dict(zip(columns[:3], row[:3], strict=True)) for row in table])
        return pd.DataFrame(table, columns=columns)

    def _memory(self) -> tuple[str, str, str, str, str]:
        """Out of memory: the peak of this process, which did all the work of the migration, against the memory free now."""
        peak, free = peak_memory(), free_memory()
        state = "found" if free < peak else "not found"
        batch = self.run.parameters.migration.batch_size
        return ("out of memory", state, f"peak {size(peak)}, {size(free)} free", "batches too large for the machine",
                f"Reduce migration.batch_size ({batch} now), or run notebook 43.")  # fmt: skip

    def _time_out(self) -> tuple[str, str, str, str, str]:
        """Time-out on export: seconds of a batch at the pace of the whole export, against the time-out of a request."""
        source, batch = self.run.parameters.source, self.run.parameters.migration.batch_size
        read = next((p for p in self.run.result.phases if p.name == "snapshot" and p.seconds and p.chunks), None)
        helps = f"Raise source.timeout_seconds ({source.timeout_seconds:g} now), or run notebook 45."
        if source.path is not None or read is None:
            return ("timeout on export", "not applicable" if source.path else "not found", "no request is made of a directory"
                    if source.path else "too fast to be measured", "a slow source or network", helps)  # fmt: skip
        seconds = batch * read.seconds / read.chunks
        near = seconds > source.timeout_seconds / 2
        measured = f"{read.chunks / read.seconds:,.0f} chunks/s: {batch} take {duration(seconds)}"
        return ("timeout on export", "found" if near else "not found", measured, "a slow source or network", helps)

    def estimate(self) -> pd.DataFrame:
        """Seconds of each part of the migration, with the basis of each figure; the last row names what is not known."""
        took = {phase.name: phase.seconds for phase in self.run.result.phases}
        chunks = sum(self.staged.rows(t) for t in self.staged.files)
        readiness = self.run.earlier(Step.TARGET_READINESS)
        rate = readiness.facts.get("probe_write_chunks_per_second") if readiness else None
        rows = [
            ("21 snapshot", took.get("snapshot", 0) + took.get("verify snapshot", 0), "measured here, same source"),
            ("22 transform and validate", took.get("2–3 transform and validate", 0), "measured here, same data"),
            *self.files.estimates(took, chunks, rate),
            ("22 verify", took.get("5 verify", 0), "measured against the throw-away Chroma"),
            (
                "22 catch-up",
                took.get("snapshot", 0),
                "the source read once more, as for the snapshot; more where it changes",
            ),
            *self._embedding_estimate(took),
            ("23 validation suite", took.get("6 validation suite", 0), "measured against the throw-away Chroma"),
        ]
        earlier = map(self.run.earlier, (Step.SOURCE_HEALTH, Step.EXPLORE_SOURCE, Step.TARGET_READINESS))
        starts = [start_seconds(result) for result in (*earlier, self.run.result) if result is not None]
        measured = [seconds for seconds in starts if seconds]
        if measured:
            each = sum(measured) / len(measured)
            rows.append((f"{WINDOW[0].number}–{WINDOW[-1].number} {STARTS}", len(WINDOW) * each,
                         f"{len(WINDOW)} notebooks, {duration(each)} each, as those of this run took to start"))  # fmt: skip
        total = sum(seconds for _, seconds, _ in rows)
        rows.append(("sum", total, "without people, fence and restarts"))
        unknown = "load on the target and the network in the window; how long sign-offs, fence and restarts take"
        rows.append(("not known", float("nan"), unknown))
        self.run.fact("estimate_seconds", total)
        self.run.fact("estimate", [{"part": p, "seconds": s, "basis": b} for p, s, b in rows if s == s])
        limit = 60 * self.run.parameters.migration.max_minutes
        late = total > limit
        most = max((row for row in rows[:-2]), key=lambda row: row[1])
        cause = f"most for {most[0]}, {duration(most[1])}; " if late else ""
        self.run.check("estimated duration", Verdict.WARNING if late else Verdict.PASS, measured=total,
                       parameter="migration.max_minutes", threshold=limit, relation="≤",
                       unit="s", reason=ReasonCode.TOO_SLOW if late else "", detail=f"{cause}not known: {unknown}")  # fmt: skip
        return pd.DataFrame(rows, columns=["part of the migration", "seconds", "basis"])

    def methods(self) -> pd.DataFrame:
        """One row for each `migration.method`: its seconds on this machine (NaN where it is impossible), the basis, and which is
        faster, where both are possible."""
        columns = ["method", "ordered", "seconds", "faster", "basis"]
        return pd.DataFrame(self.run.result.facts.get("methods", []), columns=columns)

    def _embedding_estimate(self, took: Mapping[str, float]) -> list[tuple[str, float, str]]:
        """The row for new vectors: step 22 reads them from the cache, and embeds what changed since at the measured rate."""
        if NEW_VECTORS not in took:
            return []
        embedding = (self.run.result.facts.get(REEMBEDDED) or {}).get("seconds", 0.0)
        rate = (self.run.result.facts.get(COST) or {}).get("rate")
        later = f"; what changes until then is embedded besides, at {rate:,.1f} texts/s" if rate else ""
        return [
            ("22 new vectors", max(0.0, took[NEW_VECTORS] - embedding), f"read from the cache, as measured here{later}")
        ]

    def prediction(self) -> pd.DataFrame:
        """Duration, write downtime and memory of the migration, each with its basis. Step 53 shows the error."""
        seconds = self.run.result.facts["estimate_seconds"]
        chunks = count(self.snapshot.total, "chunk")
        same = f"the sum above, measured on all {chunks} of this source"
        downtime = self._write_downtime(seconds)
        rows = [
            (DURATION, seconds, "s", same),
            (DOWNTIME, downtime[0], "s", downtime[1]),
            (MEMORY, float(peak_memory()), "bytes", f"this step's process, which did the same work with {chunks}"),
        ]
        self.run.fact("prediction", [dict(zip(("what", "value", "unit", "basis"), row, strict=True)) for row in rows])
        table = [
            (label, duration(value) if unit == "s" else size(int(value)), basis) for label, value, unit, basis in rows
        ]
        return pd.DataFrame(table, columns=["what", "predicted", "basis"])

    def _write_downtime(self, seconds: float) -> tuple[float, str]:
        """(seconds in which clients cannot write, the basis); `seconds` is the sum of all steps."""
        fence, took = self.run.parameters.fence, defaultdict[str, float](float)
        for phase in self.run.result.phases:
            took[phase.name] += phase.seconds
        if fence.kind == "none":
            return 0.0, "no fence: writes go on"
        if not fence.late:
            source, target = took["snapshot"], took["6 validation suite"]
            rereading = f"{duration(source)} and {duration(target)} to read source and target in step {Step.CUTOVER}"
            return seconds + source + target, f"the sum above and {rereading}, at most; no signatures, no restart"
        share = max(info.count for info in self.snapshot.collections()) / max(1, self.snapshot.total)
        logged = fence.kind == "nginx"
        read = 2 * took["snapshot"] * (share if logged else 1)
        written = took["2–3 transform and validate"] + share * (took["4 import"] + took["5 verify"])
        return read + written, (
            f"step {Step.CUTOVER} alone, where clients change the largest collection, {share:.0%} of all: "
            f"{'it' if logged else 'the source'} is read twice, all is transformed, it is written again; no restart"
        )

    def target_untouched(self) -> pd.DataFrame:
        """Remove the staged rows; return where snapshot and quarantine are. The target was never opened."""
        rows = [("snapshot", str(self.snapshot.folder)), ("quarantine", str(self.job.quarantine.folder))]
        shutil.rmtree(self.folder / RunPath.STAGED, ignore_errors=True)
        return pd.DataFrame(rows, columns=["kept", "where"])

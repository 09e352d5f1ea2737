"""Step 22: the five phases, from a snapshot into the target, resumable at any moment. (Runbook, Section 2, Step 3.)

`Job` does the work and knows no notebook, so that the dry run (step 13) runs the same code against a throw-away target.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from helpers import plots
from helpers.errors import Terminal
from helpers.migration import reembedding
from helpers.migration.checkpoint import Checkpoint
from helpers.migration.importing import Importer, plan_targets
from helpers.migration.quarantine import Quarantine
from helpers.migration.staging import Staged, stage
from helpers.parameters import Parameters
from helpers.progress import Progress, silent
from helpers.results import Check, Phase, Verdict, write_text
from helpers.run.record import RunRecord
from helpers.schema import Context, Schema, load_schema
from helpers.snapshot import Snapshot
from helpers.stores import Store, open_target


@dataclass(slots=True)
class Job:
    """A migration from a snapshot: staged under `folder`, remembered in its checkpoint."""

    snapshot: Snapshot
    schema: Schema
    parameters: Parameters
    context: Context
    folder: Path
    run_id: str
    checkpoint: Checkpoint
    quarantine: Quarantine

    @classmethod
    def of(cls, run: RunRecord, snapshot: Snapshot, folder: Path, purpose: str) -> Job:
        """The job of this run in `folder`; an earlier attempt's checkpoint is gone on with if its context is the same."""
        schema = load_schema(run.parameters.schema_name)
        names = frozenset(snapshot.names())
        context = Context(names, run.date, run.parameters.migration.id_policy)
        checkpoint = Checkpoint.open(folder / "checkpoint.json", context_of(run, snapshot, schema, purpose))
        return cls(
            snapshot, schema, run.parameters, context, folder, run.id, checkpoint, Quarantine(folder / "quarantine")
        )

    @property
    def reembedded(self) -> Path:
        """Where vectors made anew are kept (`reembedding`)."""
        return self.folder / reembedding.FOLDER

    def stage(self, progress: Progress = silent) -> Staged:
        """Phases 2 and 3. What an earlier attempt finished is used again: staging is deterministic."""
        staged = Staged.load(self.folder / "staged") if self.checkpoint.targets else None
        if staged is None:
            self.checkpoint.enter("transform")
            reembedding.make(self.snapshot, self.parameters, self.reembedded)
            staged = stage(
                reembedding.as_written(self.snapshot, self.reembedded),
                self.schema,
                self.context,
                self.folder / "staged",
                self.quarantine,
                dimensions=self.parameters.expected.dimensions,
                progress=progress,
            )
            rows = {name: staged.rows(name) for name in staged.files}
            self.checkpoint.stage(staged.total, sum(staged.quarantined.values()), rows)
        return staged

    def importer(self, store: Store, staged: Staged, progress: Progress, on_batch: Any, watch: Path | None) -> Importer:
        rules = self.parameters.migration
        return Importer(
            store=store,
            staged=staged,
            checkpoint=self.checkpoint,
            quarantine=self.quarantine,
            run_id=self.run_id,
            batch_size=rules.batch_size,
            workers=rules.workers,
            watch=watch,
            most_refused=int(staged.total * (1 - rules.minimum_valid)) - sum(staged.quarantined.values()),
            deadline=time.monotonic() + 60 * rules.max_minutes,
            progress=progress,
            on_batch=on_batch,
        )

    def arrivals(self, store: Store, staged: Staged) -> pd.DataFrame:
        """Phase 5: per source collection the chunks in the snapshot, in the target, in quarantine, and those missing.

        Compares ids, not counts; step 23 compares contents. Columns: collection, source, target, quarantined, missing,
        extra (ids in the collection's targets that nobody staged are counted on the first of them).
        """
        aside = Counter(entry["collection"] for entry in self.quarantine.entries())
        refused = {tuple(key) for key, reason in self.quarantine.reasons().items() if reason == "refused_by_target"}
        arrived: Counter[str] = Counter()
        missing: Counter[str] = Counter()
        extra: Counter[str] = Counter()
        for target in sorted(staged.files):
            present = set(store.ids(target))
            for (file, collection, rows), (_, ids) in zip(staged.files[target], staged.ids(target), strict=True):
                absent = [i for i, chunk in enumerate(ids) if chunk not in present]
                if absent and refused:
                    start = sum(r for f, _, r in staged.files[target] if f < file)
                    origins = staged.origins(target, start, start + rows)
                    absent = [i for i in absent if origins[i] not in refused]
                arrived[collection] += len(set(ids) & present)
                missing[collection] += len(absent)
                present.difference_update(ids)
            if present:
                extra[(staged.contributors(target) or [target])[0]] += len(present)
        rows_ = [
            (i.name, i.count, arrived[i.name], aside[i.name], missing[i.name], extra[i.name])
            for i in self.snapshot.collections()
        ]
        return pd.DataFrame(rows_, columns=["collection", "source", "target", "quarantined", "missing", "extra"])


def context_of(run: RunRecord, snapshot: Snapshot, schema: Schema, purpose: str) -> dict[str, Any]:
    """What must be the same for a checkpoint to be gone on with."""
    return {
        **run.parameters.context(),
        "purpose": purpose,
        "schema_digest": schema.digest,
        "snapshot": snapshot.id,
        "snapshot_digest": snapshot.digest,
        "date": run.date.isoformat(),
    }


class Migration:
    """The notebook's view of a job: one method a phase, each with a table to look at and its checks."""

    def __init__(self, run: RunRecord) -> None:
        self.run = run
        self.batches: list[dict[str, Any]] = []

    @cached_property
    def snapshot(self) -> Snapshot:
        taken = self.run.require("21").facts["snapshot"]
        return Snapshot.open(Path(taken["folder"]))

    @cached_property
    def job(self) -> Job:
        return Job.of(self.run, self.snapshot, self.run.workspace, "migration")

    @cached_property
    def staged(self) -> Staged:
        with (
            self.run.phase("2–3 transform and validate", self.snapshot.total),
            self.run.progress("Transform and validate", self.snapshot.total) as bar,
        ):
            return self.job.stage(bar)

    def export(self) -> pd.DataFrame:
        """Phase 1: the source was exported by step 21; every byte of that export is read and proven again."""
        with (
            self.run.phase("1 export", self.snapshot.total),
            self.run.progress("Verify the snapshot", self.snapshot.total) as bar,
        ):
            counted = self.snapshot.verify(bar)
        self.run.check("snapshot proven", Verdict.PASS, measured=sum(counted.values()), threshold=self.snapshot.total,
                       unit="chunks", detail=f"snapshot {self.snapshot.id}, every byte re-read")  # fmt: skip
        return pd.DataFrame(sorted(counted.items()), columns=["collection", "chunks"])

    def transform(self) -> pd.DataFrame:
        """Phase 2: what the schema changed, by collection, field and rule; routing by target."""
        routed = [
            {"collection": collection, "target": target, "chunks": rows}
            for target, files in self.staged.files.items()
            for _, collection, rows in files
        ]
        self.run.fact("repairs", self.staged.repairs)
        self.run.fact("routing", routed)
        return show_repairs(self.run, self.staged.repairs)

    def validate(self) -> pd.DataFrame:
        """Phase 3: what was quarantined and why; whether enough is left to go on."""
        judge_staging(self.run, self.staged, self.run.parameters)
        reembedding.judge(self.run, self.snapshot, self.job.reembedded)
        self.run.fact("quarantine", self.staged.quarantined)
        return pd.DataFrame(self.job.quarantine.entries(), columns=["collection", "id", "reason", "detail"])

    def import_chunks(self) -> pd.DataFrame:
        """Phase 4: write, one writer per target collection."""
        refuse_failed(self.run)
        if self.run.dry_run:
            self.run.check("import", Verdict.NOT_APPLICABLE, detail="dry run: nothing was written to the target")
            return pd.DataFrame(columns=["target", "staged", "completed", "rejected"])
        checkpoint, total = self.job.checkpoint, sum(self.staged.rows(t) for t in self.staged.files)
        plans = plan_targets(self.snapshot.collections(), self.staged, identity=self.job.schema.is_identity)
        checkpoint.enter("import")
        with (
            open_target(self.run.parameters.target) as store,
            self.run.phase("4 import", total) as phase,
            self.run.progress("Import", total) as bar,
        ):
            bar.already(sum(t.completed for t in checkpoint.targets.values()))
            importer = self.job.importer(store, self.staged, bar, self._batch_clock(phase), self._disk())
            importer.prepare(plans)
            importer.write()
        self._keep_batches()
        rows = [(n, t.rows, t.completed, t.rejected) for n, t in sorted(checkpoint.targets.items())]
        self.run.fact("resumed", checkpoint.resumed)
        return pd.DataFrame(rows, columns=["target", "staged", "completed", "rejected"])

    def verify(self) -> pd.DataFrame:
        """Phase 5: every id is in the target or in quarantine; then the target's lock is given back."""
        if self.run.dry_run:
            self.run.check("verify", Verdict.NOT_APPLICABLE, detail="dry run: there is nothing to verify")
            return pd.DataFrame(columns=["collection", "source", "target", "quarantined", "missing", "extra"])
        self.job.checkpoint.enter("verify")
        with open_target(self.run.parameters.target) as store, self.run.phase("5 verify", self.staged.total):
            table = self.job.arrivals(store, self.staged)
            judge_arrivals(self.run, table, self.run.parameters.expected.minimum_imported)
            store.release_lock(self.run.id)
        self.job.checkpoint.enter("complete")
        self.run.fact("arrivals", table.to_dict("records"))
        self.run.fact("quarantine", self.job.quarantine.counts())
        return table

    def timeline(self) -> None:
        """A figure: how long each phase took."""
        figure = plots.phase_timeline(self.run.result.phases, "Migration")
        self.run.figure("timeline", figure, "Phases of the migration by start and duration.")

    def throughput(self) -> None:
        """A figure: chunks per second of each batch, by target collection."""
        frame = pd.DataFrame(self.batches, columns=["target", "finished_s", "rows", "seconds"])
        figure = plots.throughput_per_batch(frame)
        self.run.figure("throughput", figure, "Chunks per second of each batch written, by target collection.")

    def _batch_clock(self, phase: Phase) -> Any:
        begun = time.monotonic()

        def note(target: str, rows: int, seconds: float) -> None:
            self.batches.append(
                {"target": target, "finished_s": time.monotonic() - begun, "rows": rows, "seconds": seconds}
            )

        return note

    def _keep_batches(self) -> None:
        lines = "".join(json.dumps(b) + "\n" for b in self.batches)
        write_text(self.run.workspace / "batches.jsonl", lines)

    def _disk(self) -> Path:
        """The folder whose disk the import fills: the target's own where it is a directory here."""
        target = self.run.parameters.target
        return Path(target.path) if target.path and Path(target.path).exists() else self.run.workspace


def show_repairs(run: RunRecord, repairs: Sequence[Any]) -> pd.DataFrame:
    """Repairs (collection, field, rule, chunks) summed over the collections; drawn where there are any."""
    table = pd.DataFrame(repairs, columns=["collection", "field", "rule", "chunks"])
    if not len(table):
        return table
    run.figure("repairs", plots.repairs_bar(table), "Chunks that the schema fills or repairs, by field and rule.")
    return pd.DataFrame(table.groupby(["field", "rule"], as_index=False)["chunks"].sum())


def judge_staging(run: RunRecord, staged: Staged, parameters: Parameters) -> None:
    """The checks of phase 3: enough chunks valid, no two chunks with one id in one target."""
    aside = sum(staged.quarantined.values())
    share = 1 - aside / staged.total if staged.total else 1.0
    least = parameters.migration.minimum_valid
    run.check(
        "chunks that pass validation", Verdict.PASS if share >= least else Verdict.FAIL, measured=share, threshold=least,
        unit="share", reason="" if share >= least else "validation_below_minimum", offenders=aside,
        detail=", ".join(f"{reason} {n}" for reason, n in staged.quarantined.items()),
    )  # fmt: skip
    clashes = staged.collisions
    run.check(
        "ids unique in each target", Verdict.FAIL if clashes else Verdict.PASS, measured=len(clashes), threshold=0,
        unit="ids", reason="id_collision" if clashes else "", offenders=len(clashes), ids=clashes,
        detail="Set migration.id_policy: prefix, or route these collections apart." if clashes else "",
    )  # fmt: skip
    run.fact("validation_pass_rate", share)


def judge_arrivals(run: RunRecord, table: pd.DataFrame, minimum: int) -> None:
    """The checks of phase 5: nothing missing, nothing extra, the floor of imported chunks."""
    for column, reason in (("missing", "chunk_missing"), ("extra", "chunk_extra")):
        off = table[table[column] > 0]
        count = int(off[column].sum())
        run.check(
            f"chunks {column}", Verdict.FAIL if count else Verdict.PASS, measured=count, threshold=0, unit="chunks",
            reason=reason if count else "", offenders=count,
            ids=[{"collection": c, column: int(n)} for c, n in zip(off["collection"], off[column], strict=True)],
        )  # fmt: skip
    imported = int(table["target"].sum())
    if minimum:
        run.check("chunks imported", Verdict.PASS if imported >= minimum else Verdict.FAIL, measured=imported,
                  threshold=minimum, unit="chunks", reason="" if imported >= minimum else "count_mismatch")  # fmt: skip
    run.fact("imported", imported)


def refuse_failed(run: RunRecord) -> None:
    """Raises `Terminal` where a check of this step failed: nothing is written on a bad basis."""
    failed: list[Check] = [c for c in run.result.checks if c.verdict is Verdict.FAIL]
    if failed:
        raise Terminal(
            failed[0].reason or "check_failed",
            f"{failed[0].name}: {failed[0].measured} where {failed[0].threshold} is the limit",
            where=f"step {run.step}",
            next_step=failed[0].detail or "Nothing was written.",
        )

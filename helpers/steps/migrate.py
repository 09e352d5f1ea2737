"""Step 22: migrate from a snapshot into the target, in phases, resumable at any moment. (Runbook, Section 2, Step 3.)

`Job` does phases 1 to 5 and `CatchUp` phase 6; this module is the notebook's view of both.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from helpers import plots
from helpers.cutover import CutoverState
from helpers.errors import Terminal, one_line
from helpers.formatting import duration, unpacked_rows
from helpers.migration import shipping
from helpers.migration.catch_up import CAUGHT_UP, PROBED, UNCHANGED, CatchUp
from helpers.migration.importing import (
    Job,
    judge_arrivals,
    judge_indexes,
    judge_staging,
    refuse_failed,
    routing_table,
    show_transform,
)
from helpers.migration.reembedding import judge_reembedded, make
from helpers.migration.source_changes import SWITCHING, CatchUpLedger, open_sealed, switch
from helpers.migration.staging import CHANGES, Staged
from helpers.migration.target_lock import FILES, ensure_database, target_not_empty
from helpers.parameters import resolve_path
from helpers.reason_codes import ReasonCode
from helpers.results import Phase, Verdict, write_bytes, write_text
from helpers.run.executor import workers_of
from helpers.run.folders import CHANGED, QUARANTINED, RunPath
from helpers.run.plan import Step
from helpers.run.record import NotebookStep, RunRecord
from helpers.snapshots.retention import described
from helpers.snapshots.snapshot import Snapshot
from helpers.steps.snapshot import judge_rescue
from helpers.stores import CollectionInfo, Store, open_target

_ROUND = ["round", "source read", "added", "changed", "deleted", "seconds", "then"]


class MigrateStep(NotebookStep):
    """The notebook's view of a job: one method for each phase, with its checks; each returns a table."""

    def __init__(self, run: RunRecord) -> None:
        self.run = run
        self.batches: list[dict[str, Any]] = []

    @cached_property
    def ledger(self) -> CatchUpLedger:
        """The rounds of catch-up. A switch that was interrupted is completed first: it moves only files of this run."""
        ledger = CatchUpLedger.read(self.run)
        open_round = ledger.open_round
        if open_round is not None and open_round["state"] == SWITCHING and not self.run.dry_run:
            switch(self.run, ledger)
        return ledger

    @cached_property
    def job(self) -> Job:
        return Job.of(self.run, open_sealed(self.run.home, Path(self.ledger.current)), self.run.workspace, "migration")

    @property
    def snapshot(self) -> Snapshot:
        """The snapshot of step 21, or of the last catch-up."""
        return self.job.snapshot

    @cached_property
    def staged(self) -> Staged:
        make(self.run, self.snapshot, self.job.reembedded)
        with (
            self.run.phase("2–3 transform and validate", self.snapshot.total) as phase,
            self.run.progress("Transform and validate", self.snapshot.total) as bar,
        ):
            staged = self.job.stage(bar)
            if not bar.done:  # an earlier attempt staged everything
                phase.chunks = 0
                bar.already(self.snapshot.total)
            return staged

    def export(self) -> pd.DataFrame:
        """Phase 1: verify every byte of the export that step 21 made; chunks by collection."""
        with (
            self.run.phase("1 export", self.snapshot.total),
            self.run.progress("Verify the snapshot", self.snapshot.total) as bar,
        ):
            counted = self.snapshot.verify(bar)
        self.run.check(
            "chunks read back from the snapshot",
            Verdict.PASS,
            measured=sum(counted.values()),
            threshold=self.snapshot.total,
            unit="chunks",
            detail=f"snapshot {self.snapshot.id}, every byte re-read",
        )
        return pd.DataFrame(sorted(counted.items()), columns=["collection", "chunks"])

    def transform(self) -> pd.DataFrame:
        """Phase 2: the changes of the schema, by collection, field and rule."""
        return self._transformed()

    def _transformed(self) -> pd.DataFrame:
        """The table of `transform` for what is staged now; record repairs and routing for the pages."""
        self.run.fact("ids_rewritten", self.staged.rewritten)
        self.run.fact("chunks_changed", self.staged.chunks_changed)
        return show_transform(self.run, self.staged, self.job.quarantine.entries(), self.job.schema)

    def routing(self) -> pd.DataFrame:
        """Count the chunks of each source collection that go to each target collection."""
        return routing_table(self.run.result.facts.get("routing") or [])

    def derived(self) -> pd.DataFrame:
        """Values that the schema derived from documents: one row a field, rule and value (of numbers: one row a rule)."""
        return pd.DataFrame(self.staged.derived, columns=["field", "rule", "value", "chunks", "meaning"])

    def validate(self) -> pd.DataFrame:
        """Phase 3: one row for each quarantined chunk, with its reason; check that enough chunks are left."""
        judge_staging(self.run, self.staged, self.run.parameters)
        judge_rescue(self.run, self.snapshot)
        judge_reembedded(self.run, self.snapshot, self.job.reembedded)
        self.run.fact("quarantine", self.staged.quarantined)
        return pd.DataFrame(self.job.quarantine.entries(), columns=["collection", "id", "reason", "detail"])

    def import_chunks(self) -> pd.DataFrame:
        """Phase 4: write to the target, one writer for each target collection."""
        refuse_failed(self.run)
        self._refuse_clients()
        judge_indexes(self.run, self.snapshot.collections(), refuse=True)
        if not self.run.dry_run:
            ensure_database(self.run.home)  # for a run without step 20
        if self.run.dry_run:
            self.run.check(
                "import",
                Verdict.NOT_EXERCISED,
                measured="dry run",
                threshold="done",
                detail="nothing was written to the target",
            )
            return pd.DataFrame(columns=["target", "staged", "completed", "rejected"])
        checkpoint, total = self.job.checkpoint, sum(self.staged.rows(t) for t in self.staged.files)
        if self.ledger.open_round is not None:  # the import is complete, but the target is between two states
            self.run.check(
                "import", Verdict.NOT_APPLICABLE, detail="a catch-up was interrupted; phase 6 goes on with it"
            )
            return self._written()
        plans = self.job.plans(self.staged)
        before = sum(t.completed for t in checkpoint.targets.values())
        checkpoint.enter("import")
        if self._by_files:
            self._ship(plans, total - before)
        else:
            with (
                open_target(self.run.parameters.target) as store,
                self.run.phase("4 import", total - before) as phase,  # the chunks of this execution, for its rate
                self.run.progress("Import", total) as bar,
            ):
                bar.already(before)
                away = None if self.run.parameters.target.is_embedded else workers_of(self.run)
                importer = self.job.importer(store, self.staged, bar, self._batch_clock(phase), self._disk(), away)
                importer.prepare(plans)
                importer.write()
        self._keep_batches()
        self.run.fact("resumed", checkpoint.resumed)
        return self._written()

    @property
    def _by_files(self) -> bool:
        return self.run.parameters.migration.method == FILES

    def _ship(self, plans: Sequence[CollectionInfo], rows: int) -> None:
        """Phase 4 by `migration.method: files`. Once the files are in place, all their chunks are completed in the checkpoint."""
        run, checkpoint, names = self.run, self.job.checkpoint, sorted(plan.name for plan in plans)
        target = run.parameters.target
        shipping.require_unchanged(self.staged)
        if not all(state.created and state.completed == state.rows for state in checkpoint.targets.values()):
            shipment = shipping.load_kept(run.workspace, self.snapshot)
            with run.phase("4 import", rows):
                with open_target(target) as store:
                    store.acquire_lock(run.id)
                    present, label, others = store.names(), store.label, checkpoint.replaced(store.identities())
                # The files arrive all at once, or none does, even where a kill interrupts.
                arrived = set(names) <= set(present) & set(checkpoint.owned()) - set(others)
                if present and not arrived:
                    raise target_not_empty(present, target, label, None, run.id)
                if not arrived:
                    for name in names:
                        checkpoint.intend(name)
                    with run.progress("Copy index files", shipment.bytes, "bytes") as bar:
                        shipping.ship(shipment, resolve_path(str(target.path)), bar)
                with open_target(target) as store:  # the collections keep the uuids of the source
                    uuids = store.identities()
                for name in names:
                    checkpoint.confirm(name, uuids[name])
                    checkpoint.begin(name, 0, self.staged.rows(name))
                    checkpoint.complete(name, self.staged.rows(name), 0, shipment.seconds)
        done = shipping.Shipment.load(run.workspace / shipping.FOLDER)
        assert done is not None  # the files were shipped
        run.fact("shipped", {"files": len(done.files), "bytes": done.bytes, "ways": done.ways, "seconds": done.seconds})
        run.check(
            "index files shipped",
            Verdict.PASS,
            measured=sum(done.ways.values()),
            threshold=len(done.files),
            unit="files",
            detail=f"{done.summary()}, in {duration(done.seconds)}; not row by row",
            parameter="migration.method",
        )

    def verify(self) -> pd.DataFrame:
        """Phase 5: check that every id is in the target or in quarantine."""
        if self.run.dry_run or self.ledger.open_round is not None:
            reason = (
                "dry run: there is nothing to verify" if self.run.dry_run else "phase 6 verifies what it goes on with"
            )
            self.run.check("verify", Verdict.NOT_EXERCISED, measured="not yet", threshold="done", detail=reason)
            columns = ["collection", "source", "target", "quarantined", "left_out", "missing", "extra"]
            return pd.DataFrame(columns=columns)
        self.job.checkpoint.enter("verify")
        with open_target(self.run.parameters.target) as store, self.run.phase("5 verify", self.staged.total):
            return self._arrived(store)

    def _not_compared(self, reason: str) -> pd.DataFrame:
        self.run.check(
            UNCHANGED, Verdict.NOT_EXERCISED, measured="not compared", threshold=0, unit="changes", detail=reason
        )
        return pd.DataFrame(columns=_ROUND)

    def catch_up(self) -> pd.DataFrame:
        """Phase 6: read the source again; apply what changed since its snapshot to the target, or refuse it.

        One row for each round, and one for the last reading. The target's lock is then released.
        """
        if self.run.dry_run:
            return self._not_compared("dry run: the target was not written to")
        self._refuse_clients()
        self.run.forget(UNCHANGED, PROBED)  # from an earlier execution of this cell
        self.job.checkpoint.enter("catch-up")
        with open_target(self.run.parameters.target) as store:
            store.acquire_lock(self.run.id)
            if any(c.verdict is Verdict.FAIL for c in self.run.result.checks):
                store.release_lock(self.run.id)
                return self._not_compared("not checked: an earlier check failed")
            work = CatchUp(self.run, self.job, self.staged, store, self._disk(), self.ledger)
            work.work()
            if work.applied:
                self._rejudge(store, work.staged)
            store.release_lock(self.run.id)
        self.job.checkpoint.enter("complete")
        return self._rounds(work)

    def _refuse_clients(self) -> None:
        """`Terminal` ("client_writes") where a cutover of this run sent clients to the target, be it undone since."""
        cutover = None if self.run.dry_run else CutoverState.load(self.run.workspace)
        if cutover is not None and cutover.clients_came:
            again = self.run.home.command("run", "--from", Step.MIGRATE)
            raise Terminal(
                ReasonCode.CLIENT_WRITES, "this run sent clients to it, and step 22 would write over what they wrote",
                where=self.run.parameters.target.label,
                next_step=f"Roll back: {self.run.home.command('rollback')}. Or, where the cutover was taken back: {again}",
            )  # fmt: skip

    def _rejudge(self, store: Store, staged: Staged) -> None:
        """Repeat the checks of phases 2 to 5 for the present state of the target."""
        self.staged = staged
        self.run.forget("import", "verify", "chunks missing", "chunks extra", "chunks imported")
        self._transformed()
        with self.run.phase("6 verify", staged.total):
            self._arrived(store)
        self.run.fact("snapshot", described(self.snapshot))

    def _rounds(self, work: CatchUp) -> pd.DataFrame:
        rows: list[tuple[Any, ...]] = [
            (r["number"], r["began"], r["added"], r["changed"], r["deleted"], r["seconds"], r["state"])
            for r in self.ledger.rounds
        ]
        if (last := work.last) is not None:
            then = "nothing to do" if last.nothing else "left as it is"
            rows.append(("last", last.began, last.added, last.changed, last.deleted, last.seconds, then))
        applied = sum(r["added"] + r["changed"] + r["deleted"] for r in self.ledger.rounds)
        reason = "nothing changed in the source, so nothing was brought over"
        if last is not None and not last.nothing:
            reason = f"{last.sentence()}: left as it is, so nothing was brought over"
        self.run.check(CAUGHT_UP, Verdict.PASS if applied else Verdict.NOT_EXERCISED, measured=applied, unit="changes",
                       threshold=1, relation="≥",
                       detail="" if applied else reason)  # fmt: skip
        self.run.fact(
            "catch_up",
            {
                "rounds": self.ledger.rounds,
                "unchanged_at": last.began if last is not None and last.nothing else None,
                "compare_seconds": last.seconds if last is not None else None,
                "stop_seconds": work.stop_seconds,
                "snapshot": self.snapshot.id,
            },
        )
        return pd.DataFrame(rows, columns=_ROUND)

    def _arrived(self, store: Store) -> pd.DataFrame:
        table = self.job.arrivals(store, self.staged)
        judge_arrivals(self.run, table, self.run.parameters.expected.minimum_imported)
        self.run.fact("arrivals", table.to_dict("records"))
        counted = self.job.quarantine.counts()
        self.run.fact("quarantine", counted)
        file = self.run.folder / QUARANTINED  # the workspace may be removed later, the evidence stays
        left_out = self.job.quarantine.left_out()
        self.run.fact("left_out", left_out)
        if counted or left_out:
            self.run.fact("quarantine_file", self.job.quarantine.evidence(file, self.job.schema.shown, self.run.wrote))
        else:
            file.unlink(missing_ok=True)
            self.run.wrote(file, "")
        listed, copy = self.staged.folder / CHANGES, self.run.folder / CHANGED
        if listed.is_file():
            self.run.wrote(copy, write_bytes(copy, listed.read_bytes()))
            replaced = by_value(unpacked_rows(copy, ("field", "old", "new", "rule")))
            self.run.fact("replaced", replaced)
            self.run.fact("changes_file", sum(row["chunks"] for row in replaced))
        else:
            copy.unlink(missing_ok=True)
            self.run.wrote(copy, "")
        return table

    def _written(self) -> pd.DataFrame:
        rows = [(n, t.rows, t.completed, t.rejected) for n, t in sorted(self.job.checkpoint.targets.items())]
        return pd.DataFrame(rows, columns=["target", "staged", "completed", "rejected"])

    def timeline(self) -> None:
        """Draw the duration of each phase."""
        figure = plots.phase_timeline(self.run.result.phases, "Migration")
        self.run.figure("timeline", figure, "Phases of the migration by start and duration.")

    def throughput(self) -> None:
        """Draw chunks per second of each batch, and the chunks written over time with the estimate; nothing where index files
        were copied: there are no batches."""
        if self._by_files:
            return
        frame = pd.DataFrame(self.batches, columns=["target", "finished_s", "rows", "seconds"])
        figure = plots.throughput_per_batch(frame)
        self.run.figure("throughput", figure, "Chunks per second of each batch written, by target collection.")
        total = sum(self.staged.rows(target) for target in self.staged.files)
        dry = self.run.earlier(Step.DRY_RUN)
        parts = (dry.facts.get("estimate") or []) if dry is not None else []
        expected = next((float(p["seconds"]) for p in parts if p["part"] == "22 import"), None)
        self.run.fact("import", {"chunks": int(frame["rows"].sum()), "batches": len(frame), "to_write": total,
                                 "seconds": float(frame["finished_s"].max()) if len(frame) else None,
                                 "expected_seconds": expected})  # fmt: skip
        self.run.figure("written", plots.rows_over_time(frame, total, expected),
                        "Chunks written since the import started, beside the dry run's estimate.")  # fmt: skip

    def _batch_clock(self, phase: Phase) -> Any:
        begun = time.monotonic()

        def note(target: str, rows: int, seconds: float) -> None:
            self.batches.append(
                {"target": target, "finished_s": time.monotonic() - begun, "rows": rows, "seconds": seconds}
            )

        return note

    def _keep_batches(self) -> None:
        lines = "".join(json.dumps(b) + "\n" for b in self.batches)
        write_text(self.run.workspace / RunPath.BATCHES, lines)

    def _disk(self) -> Path:
        """The folder whose disk the import fills: the target's where it is a directory, else the workspace."""
        target = self.run.parameters.target
        return Path(target.path) if target.path and Path(target.path).exists() else self.run.workspace


_KINDS = 1_000  # different changes of a value that are counted separately


def by_value(changes: Iterable[Mapping[str, str]]) -> list[dict[str, Any]]:
    """Count the changes of values: field, old, new, rule, chunks (a chunk has one value of a field).

    Defaults come first, because the old value is lost; then by count. Beyond the first `_KINDS` changes are counted by rule, with
    field None.
    """
    counted: Counter[tuple[str | None, str, str, str]] = Counter()
    for row in changes:
        key = (row["field"], one_line(row["old"], 90), one_line(row["new"], 90), row["rule"])
        counted[key if key in counted or len(counted) < _KINDS else (None, "", "", row["rule"])] += 1
    rows = [dict(zip(("field", "old", "new", "rule", "chunks"), (*key, n), strict=True)) for key, n in counted.items()]
    return sorted(
        rows,
        key=lambda r: (r["field"] is None, r["rule"] != "default", -r["chunks"], str(r["field"]), r["old"], r["new"]),
    )

"""Step 30: what a stopped migration has done, and what a resume would do. (Runbook, Section 3.)

This step only reads, the checkpoint and the target. The run continues only when the operator gives the command that this step
shows. A run has one checkpoint, whose id is made of the run's id.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from helpers.errors import RUNBOOK, one_line
from helpers.formatting import flatten
from helpers.migration.checkpoint import FILE, Checkpoint, CheckpointFile, TargetState, checkpoint_id
from helpers.migration.importing import Job, context_of
from helpers.migration.source_changes import CatchUpLedger, current_snapshot
from helpers.migration.staging import Quarantine, Staged
from helpers.reason_codes import ReasonCode
from helpers.results import Verdict
from helpers.run.folders import RunPath
from helpers.run.plan import Step
from helpers.run.record import NotebookStep, RunRecord
from helpers.schema import Context, load_schema
from helpers.snapshots.snapshot import Snapshot
from helpers.stores import Store, open_target
from helpers.stores.opening import quick_names

_PROOF = ["target", "completed", "there", "missing", "doubled", "in doubt", "of these there", "ahead", "extra ids"]


@dataclass(slots=True)
class _TargetIds:
    """The ids of one target collection compared with its staged rows, in chunks."""

    completed: int = 0
    present: int = 0
    missing: int = 0
    doubled: int = 0
    in_doubt: int = 0
    arrived: int = 0  # of those in doubt, present in the target
    ahead: int = 0  # in the target, although the checkpoint has not begun them
    extra: int = 0  # in the target, but not staged


class CheckpointRecoveryStep(NotebookStep):
    """The notebook's view: one table for each question."""

    def __init__(self, run: RunRecord) -> None:
        self.run = run
        self.path = run.workspace / FILE
        self.command = f"{RUNBOOK} resume {run.id} --checkpoint {checkpoint_id(run.id)}"

    @cached_property
    def checkpoint(self) -> Checkpoint | None:
        """The checkpoint as it is on disk; None where the run never began to migrate."""
        return Checkpoint.read(self.path) if self.path.exists() else None

    @cached_property
    def staged(self) -> Staged | None:
        """The rows that the transform staged; None where it did not finish."""
        return Staged.load(self.run.workspace / RunPath.STAGED) if self.checkpoint and self.checkpoint.targets else None

    @cached_property
    def catching_up(self) -> bool:
        """Whether a round of catch-up was interrupted."""
        return CatchUpLedger.read(self.run).open_round is not None

    def read_checkpoint(self) -> pd.DataFrame:
        """Facts of the checkpoint: id, file, phase, time, attempts, chunks decided on, pace."""
        checkpoint = self.checkpoint
        self.run.check(
            "checkpoint", Verdict.PASS if checkpoint else Verdict.NOT_APPLICABLE,
            measured="there" if checkpoint else "none", threshold="there",
            detail="" if checkpoint else "this run has not begun to migrate: there is nothing to recover",
        )  # fmt: skip
        if checkpoint is None:
            return pd.DataFrame(columns=["fact", "value"])
        stored = CheckpointFile.of(self.path)
        pace = stored.stats
        rows = {
            "id": checkpoint_id(self.run.id),
            "file": str(self.path),
            "written": stored.timestamp,
            "phase": checkpoint.phase,
            "times resumed": checkpoint.resumed,
            "chunks of the snapshot": checkpoint.total_chunks,
            "decided on": checkpoint.processed,
            "written to the target": checkpoint.processed - checkpoint.failed,
            "set aside": checkpoint.failed,
            "seconds a batch": pace["average_batch_seconds"],
            "chunks a second": pace["chunks_per_second"],
            "seconds left at that pace": pace["estimated_remaining_seconds"],
        }
        self.run.fact("checkpoint", rows)
        return pd.DataFrame([(k, str(v) if v is not None else "–") for k, v in rows.items()], columns=["fact", "value"])

    def targets(self) -> pd.DataFrame:
        """One row for each target collection: its progress, and what a resume would look up and write."""
        columns = ["target", "staged", "completed", "share", "rejected", "to look up", "to write"]
        rows = []
        for name, state in sorted(self._states().items()):
            share = state.completed / state.rows if state.rows else 1.0
            rest = state.rows - state.completed
            rows.append((name, state.rows, state.completed, share, state.rejected, _in_doubt(state), rest))
        return pd.DataFrame(rows, columns=columns)

    def failures(self) -> pd.DataFrame:
        """The errors that the checkpoint records, and the one that ended the last execution of step 22."""
        errors = [tuple(line.split(" ", 1)) for line in (self.checkpoint.errors if self.checkpoint else [])]
        last = self.run.earlier(Step.MIGRATE)
        if last is not None and last.error is not None:
            errors.append((last.finished, f"step 22 ended: {last.error['line']}"))
        return pd.DataFrame([(when, one_line(error)) for when, error in errors], columns=["when", "what"])

    def set_aside(self) -> pd.DataFrame:
        """One row for each chunk in quarantine, with its reason."""
        entries = Quarantine(self.run.workspace / RunPath.QUARANTINE).entries()
        return pd.DataFrame(entries, columns=["collection", "id", "reason", "detail"])

    def context(self) -> pd.DataFrame:
        """What the checkpoint was made with, beside what a resume would use now; a resume needs all of them to be the same."""
        columns = ["what", "checkpoint", "now", "same"]
        if self.checkpoint is None:
            return pd.DataFrame(columns=columns)
        before, now = flatten(self.checkpoint.context), flatten(self._context_now())
        names = sorted({*before, *now})
        rows = [(n, before.get(n), now.get(n), before.get(n) == now.get(n)) for n in names]
        different = [name for name, _, _, same in rows if not same]
        self.run.check(
            "differences in context", Verdict.FAIL if different else Verdict.PASS, measured=len(different), threshold=0,
            unit="differences", reason=ReasonCode.CONTEXT_CHANGED if different else "",
            detail=f"The checkpoint was made with another {', '.join(different)}." if different else "",
        )  # fmt: skip
        return pd.DataFrame([(n, str(b), str(a), same) for n, b, a, same in rows], columns=columns)

    def next(self) -> str:
        """One sentence: what a resume does now, and its command."""
        checkpoint = self.checkpoint
        if checkpoint is None:
            return f"There is no checkpoint: {self.run.home.command('resume')} begins with the first step that has not passed."
        if any(check.verdict is Verdict.FAIL for check in self.run.result.checks):
            return "Do not continue: a check above failed. Correct what it names, or start a new run."
        if self.catching_up:
            return f"A catch-up with the source was interrupted; it goes on from there: {self.command}"
        if checkpoint.phase == "complete":
            return "The migration is complete: there is nothing left to do."
        if self.staged is None:
            return f"The transform never ended; nothing was written. To run it again: {self.command}"
        doubt = sum(_in_doubt(s) for s in self._states().values())
        rest = sum(s.rows - s.completed for s in self._states().values())
        return (
            f"{rest:,} chunks are left; {doubt:,} of them were in flight and are looked up by id first: {self.command}"
        )

    def proof(self) -> pd.DataFrame:
        """One row for each target collection, in chunks: ids in the target compared with the checkpoint (`_TargetIds`)."""
        staged = self.staged
        if staged is None:
            return pd.DataFrame(columns=_PROOF)
        if self.catching_up:
            self.run.check(
                "ids in the target", Verdict.NOT_APPLICABLE,
                detail="a catch-up was interrupted, so the target is between two states; a resume ends it and proves it",
            )  # fmt: skip
            return pd.DataFrame(columns=_PROOF)
        compared: dict[str, _TargetIds] = {}
        with self._target() as (store, names):
            for name, state in sorted(self._states().items()):
                ids, count = (store.ids(name), store.count(name)) if store is not None and name in names else ([], 0)
                compared[name] = self._compare(staged, name, state, ids, count)
        self._judge(compared)
        rows = [
            (n, f.completed, f.present, f.missing, f.doubled, f.in_doubt, f.arrived, f.ahead, f.extra)
            for n, f in compared.items()
        ]
        return pd.DataFrame(rows, columns=_PROOF)

    def arrivals(self) -> pd.DataFrame:
        """One row for each source collection, in chunks: in the snapshot, in the target, in quarantine, missing, extra.

        The table of step 22, phase 5; empty before the transform ended, while collections are missing, and in a catch-up.
        """
        columns = ["collection", "source", "target", "quarantined", "missing", "extra"]
        staged = self.staged
        if staged is None or self.catching_up:
            return pd.DataFrame(columns=columns)
        with self._target() as (store, names):
            if store is None or not names.issuperset(staged.files):
                return pd.DataFrame(columns=columns)  # collections still to be created
            table = self._job().arrivals(store, staged)
        if self.checkpoint is not None and self.checkpoint.phase == "complete":
            off = int(table["missing"].sum() + table["extra"].sum())
            self.run.check(
                "chunks missing or extra", Verdict.FAIL if off else Verdict.PASS, measured=off, threshold=0,
                unit="chunks", reason=ReasonCode.CHUNK_MISSING if off else "", offenders=off,
            )  # fmt: skip
        return table

    def _states(self) -> dict[str, TargetState]:
        return self.checkpoint.targets if self.checkpoint else {}

    def _snapshot(self) -> Snapshot:
        return current_snapshot(self.run)

    def _context_now(self) -> dict[str, Any]:
        return context_of(self.run, self._snapshot(), load_schema(self.run.parameters.schema_name), "migration")

    def _job(self) -> Job:
        """The job as `Job.of` makes it, with a quarantine that is only read."""
        assert self.checkpoint is not None
        snapshot, parameters = self._snapshot(), self.run.parameters
        schema = load_schema(parameters.schema_name)
        context = Context.of(snapshot.names(), self.run.date, parameters.migration)
        quarantine = Quarantine(self.run.workspace / RunPath.QUARANTINE)
        return Job(snapshot, schema, parameters, context, self.run.workspace, self.run.id, self.checkpoint, quarantine)

    @contextlib.contextmanager
    def _target(self) -> Iterator[tuple[Store | None, set[str]]]:
        """The target, to be read, and the names of its collections; (None, no names) where it has none: no directory is made."""
        names = set(quick_names(self.run.parameters.target, "target"))
        if not names:
            yield None, names
            return
        with open_target(self.run.parameters.target) as store:
            yield store, names

    def _compare(self, staged: Staged, name: str, state: TargetState, ids: list[str], count: int) -> _TargetIds:
        present = set(ids)
        result = _TargetIds(completed=state.completed, doubled=count - len(present))
        staged_ids = [chunk for _, part in staged.ids(name) for chunk in part]
        doubt = state.completed + _in_doubt(state)
        absent = [i for i, chunk in enumerate(staged_ids[: state.completed]) if chunk not in present]
        if absent:
            refused = {k for k, reason in Quarantine(self.run.workspace / RunPath.QUARANTINE).reasons().items()
                       if reason == ReasonCode.REFUSED_BY_TARGET}  # fmt: skip
            origins = staged.origins(name, 0, state.completed) if refused else []
            absent = [i for i in absent if not refused or origins[i] not in refused]
        result.present = sum(chunk in present for chunk in staged_ids[: state.completed])
        result.missing = len(absent)
        result.in_doubt = _in_doubt(state)
        result.arrived = sum(chunk in present for chunk in staged_ids[state.completed : doubt])
        result.ahead = sum(chunk in present for chunk in staged_ids[doubt:])
        result.extra = len(present.difference(staged_ids))
        return result

    def _judge(self, compared: dict[str, _TargetIds]) -> None:
        for name, attribute, reason in (
            ("completed chunks missing in the target", "missing", ReasonCode.CHUNK_MISSING),
            ("chunks doubled", "doubled", ReasonCode.CHUNK_DOUBLED),
            ("chunks that the run did not stage", "extra", ReasonCode.CHUNK_EXTRA),
            ("chunks ahead of the checkpoint", "ahead", ReasonCode.CHECKPOINT_BEHIND),
        ):
            counts = {target: getattr(f, attribute) for target, f in compared.items() if getattr(f, attribute)}
            bad = Verdict.WARNING if attribute == "ahead" else Verdict.FAIL
            self.run.check(
                name, bad if counts else Verdict.PASS, measured=sum(counts.values()), threshold=0, unit="chunks",
                reason=reason if counts else "", offenders=sum(counts.values()),
                ids=[{"collection": t, attribute: n} for t, n in counts.items()],
            )  # fmt: skip


def _in_doubt(state: TargetState) -> int:
    """Chunks that were in flight: they may be in the target although they are not completed."""
    return state.inflight[1] - state.completed if state.inflight else 0

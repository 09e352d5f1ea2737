"""Step 21: take the snapshot, the recovery point that the migration then reads. (Runbook, Section 2, Step 2.)"""

from __future__ import annotations

import pandas as pd

from helpers.formatting import count, moment, size
from helpers.migration import shipping
from helpers.migration.source_changes import take_logged
from helpers.migration.target_lock import FILES, chosen
from helpers.parameters import Parameters, resolve_path
from helpers.reason_codes import ReasonCode
from helpers.results import Verdict
from helpers.run.record import NotebookStep, RunRecord, open_chosen
from helpers.snapshots.retention import described
from helpers.snapshots.snapshot import Snapshot
from helpers.steps import source_health
from helpers.stores import Reader

RESCUED = "vectors rescued from damaged indexes"
_SAVED = ("vector_from_log", "vector_from_index", "vector_normalised")
_RESCUED = {
    "vector_from_log": "from the log, exact",
    "vector_from_index": "from rows of a damaged index, as an engine would read them",
    "vector_normalised": "by direction only, their norm is lost: not exact",
    "norm_lost": "not rescued but set aside, their norm is lost",
    "vector_lost": "not rescued, in no file any more",
}


def judge_rescue(run: RunRecord, snapshot: Snapshot) -> None:
    """Record a warning with counts and ids for vectors rescued from a damaged index; nothing where none was."""
    fates: dict[str, list[dict[str, str]]] = {}
    for repair in snapshot.manifest.get("repairs", ()):
        if repair["repair"] in _RESCUED:
            named = [{"collection": repair["collection"], "id": chunk} for chunk in repair["ids"]]
            fates.setdefault(repair["repair"], []).extend(named)
    run.forget(RESCUED)  # a cell may run twice
    if not fates:
        return
    worst_first = [chunk for kind in reversed(_RESCUED) for chunk in fates.get(kind, ())]
    arrived = sum(len(fates.get(kind, ())) for kind in _SAVED)
    run.check(
        RESCUED, Verdict.WARNING, measured=arrived, threshold=0, unit="vectors", reason=ReasonCode.VECTORS_RESCUED,
        detail="; ".join(f"{len(fates[kind]):,} {text}" for kind, text in _RESCUED.items() if kind in fates)
        + ". The snapshot's manifest lists each under repairs.",
        offenders=len(worst_first), ids=worst_first[:20],
    )  # fmt: skip
    run.fact("rescued", {kind: len(chunks) for kind, chunks in fates.items()})


def take_snapshot(run: RunRecord, store: Reader) -> Snapshot:
    """Take a new snapshot of the chosen collections; its id names run and step. The one of an earlier attempt stays."""
    names = chosen(store.names(), run.parameters)
    total = sum(store.count(n) for n in names)
    if not run.parameters.source.is_embedded:
        run.log(f"about to read the source: {source_health.reading_estimate(run, store, names).sentence()}")
    with run.phase("snapshot", total), run.progress("Snapshot", total) as bar:
        return take_logged(run, store, names, f"{run.id}-{run.step}", bar)


def judge_snapshot(run: RunRecord, snapshot: Snapshot) -> pd.DataFrame:
    """Re-read every byte of the snapshot, record the checks, and return one row for each collection. The size is compared with
    rows × dimension × 4 bytes."""
    with run.phase("verify snapshot", snapshot.total), run.progress("Verify the snapshot", snapshot.total) as bar:
        counted = snapshot.verify(bar)
    infos = snapshot.collections()
    need = sum((i.count - _lost(snapshot, i.name)) * (i.dimension or 0) * 4 for i in infos)
    # 0.3 allows for vectors that compress well, and still detects an empty export.
    enough = snapshot.size() >= 0.3 * need
    run.check(
        "chunks read back from the snapshot",
        Verdict.PASS,
        measured=sum(counted.values()),
        threshold=snapshot.total,
        unit="chunks",
        detail=_moment(snapshot),
    )
    run.check(
        "snapshot size",
        Verdict.PASS if enough else Verdict.FAIL,
        measured=snapshot.size(),
        threshold=int(0.3 * need),
        relation="≥",
        unit="bytes",
        reason="" if enough else ReasonCode.SNAPSHOT_TOO_SMALL,
        detail=f"rows × dimension × 4 = {need:,} bytes",
    )
    lost = sum(_lost(snapshot, i.name) for i in infos)
    if lost:
        run.check("vectors lost in the source", Verdict.WARNING, measured=lost, threshold=0, unit="chunks",
                  reason=ReasonCode.MISSING_EMBEDDING, offenders=lost)  # fmt: skip
    judge_rescue(run, snapshot)
    run.fact("snapshot", described(snapshot))
    rows = [(i.name, i.count, i.dimension, i.space, len(snapshot.parts(i.name)), "; ".join(i.findings)) for i in infos]
    return pd.DataFrame(rows, columns=["collection", "chunks", "dimension", "space", "parts", "findings"])


def judge_counts(run: RunRecord, snapshot: Snapshot, parameters: Parameters) -> None:
    """Check the chunks in the snapshot against `expected.total`, within the tolerance."""
    expected = parameters.expected
    if expected.total is None:
        return
    total = snapshot.total
    within = abs(total - expected.total) <= expected.tolerance
    run.check(
        "chunks in the snapshot",
        Verdict.PASS if within else Verdict.FAIL,
        measured=abs(total - expected.total),
        parameter="expected.total",
        threshold=expected.tolerance,
        relation="≤",
        unit="too many or too few",
        detail=f"{total:,} of {expected.total:,} expected (expected.total)",
        reason="" if within else ReasonCode.COUNT_MISMATCH,
    )


def _moment(snapshot: Snapshot) -> str:
    """The moments that an export in several sessions shows; "" for one that was not interrupted."""
    sessions = snapshot.manifest.get("sessions", [])
    if len(sessions) < 2:
        return ""
    return (
        f"read in {len(sessions)} sessions, {moment(sessions[0]['started'])} to {moment(sessions[-1]['ended'])}: "
        "each chunk is as it was when it was read; step 22 compares the source with it"
    )


def _lost(snapshot: Snapshot, name: str) -> int:
    return sum(part.lost for part in snapshot.parts(name))


class SnapshotStep(NotebookStep):
    """The notebook's view: take the snapshot, then verify it."""

    def __init__(self, run: RunRecord) -> None:
        self.run = run
        self.snapshot: Snapshot | None = None

    def take(self) -> pd.DataFrame:
        """Read the source into a new snapshot; chunks by collection. With `migration.method: files` the copy that is read is kept
        and proven whole: step 22 copies its files."""
        parameters, folder = self.run.parameters, self.run.workspace
        files = parameters.migration.method == FILES
        with open_chosen(self.run, shipping.place(folder) if files else None) as store:
            self.snapshot = take_snapshot(self.run, store)
            if files:
                with self.run.phase(shipping.PROOF, self.snapshot.total):
                    shipping.require_whole(store, self.snapshot, parameters.source, self.run.id)
        if files:
            with self.run.phase(shipping.LISTING, self.snapshot.total):
                copy = shipping.keep(folder, resolve_path(str(parameters.source.path)), self.snapshot)
            self.run.check("copy of the source, to be shipped", Verdict.PASS, measured="whole", threshold="whole",
                           detail=f"{count(len(copy.files), 'file')}, {size(copy.bytes)}; no damage, each page of its database "
                           "checked. What was deleted may still be in files; rows leave it behind")  # fmt: skip
        judge_counts(self.run, self.snapshot, self.run.parameters)
        rows = [(i.name, i.count) for i in self.snapshot.collections()]
        return pd.DataFrame(rows, columns=["collection", "chunks"])

    def verify(self) -> pd.DataFrame:
        """Re-read every byte; one row for each collection."""
        if self.snapshot is None:
            self.take()
        assert self.snapshot is not None
        return judge_snapshot(self.run, self.snapshot)

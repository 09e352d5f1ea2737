"""Notebook 41: a migration that makes no progress: the batch, what was in flight, refused chunks, and what blocks it."""

from __future__ import annotations

import datetime as dt
import shutil
from pathlib import Path
from typing import Any

import pandas as pd

from helpers.errors import RunbookError
from helpers.formatting import count
from helpers.migration.checkpoint import CheckpointFile
from helpers.migration.importing import DISK_RESERVE
from helpers.reason_codes import ReasonCode
from helpers.results import reading
from helpers.run.folders import RunPath
from helpers.snapshots.export_journal import read_parquet
from helpers.snapshots.snapshot import from_table
from helpers.steps import network
from helpers.stores import LOCK_COLLECTION
from helpers.troubleshooting import Condition, ProbeResult, Troubleshooter

SMALLER = 50  # the runbook's remedy: half of its batch size of 100
QUIET = 120  # seconds without a write to the checkpoint after which a run is called stuck


class StuckBatchStep(Troubleshooter):
    """Checks the checkpoint, both connections, the disk, the target's lock, and the refused chunks."""

    code = ReasonCode.REFUSED_BY_TARGET

    def look(self) -> ProbeResult:
        rows = [self._ledger(), *self._ends(), self._disk(), self._lock(), self._refused()]
        table = pd.DataFrame(rows, columns=["what", "well", "detail"])
        bad = table[~table["well"].astype(bool)]
        return ProbeResult(table, len(bad), "; ".join(f"{r.what}: {r.detail}" for r in bad.itertuples()))

    def batch(self) -> pd.DataFrame:
        """One row for each target collection: rows staged, completed and in flight, and the first and last id in flight."""
        ledger, staged = self.ledger(), self.staged
        rows = []
        for name, state in sorted(ledger.targets.items()) if ledger else []:
            first, last = state.inflight or [state.completed, state.completed]
            ids = [i for _, some in staged.ids(name) for i in some][first:last] if staged and last > first else []
            ends = (ids[0], ids[-1]) if ids else ("", "")
            rows.append((name, state.rows, state.completed, last - first, *ends, state.rejected))
        columns = ["target", "staged", "completed", "in flight", "first in flight", "last in flight", "refused"]
        return pd.DataFrame(rows, columns=columns)

    def refused(self) -> pd.DataFrame:
        """The chunks that the target refused, with their size in bytes. Halving their batches found them, one by one."""
        weights: dict[tuple[str, str], int] = {}
        for file in sorted(self.quarantine.folder.glob("refused-*.parquet")):
            table = read_parquet(file)
            batch, keys = from_table(table), [table.column(name).to_pylist() for name in ("collection", "source_id")]
            weights |= {key: batch.take([i]).nbytes() for i, key in enumerate(zip(*keys, strict=True))}
        rows = [
            (e["collection"], e["id"], e["detail"], weights.get((e["collection"], e["id"]), 0))
            for e in self.quarantine.entries()
            if e["reason"] == ReasonCode.REFUSED_BY_TARGET
        ]
        return pd.DataFrame(rows, columns=["collection", "id", "detail", "bytes"])

    def last_log_entries(self) -> pd.DataFrame:
        """The checkpoint's last errors, and the last lines of run.log."""
        ledger = self.ledger()
        lines = [("ledger", line) for line in (ledger.errors if ledger else [])[-10:]]
        log = self.run.home.log_path
        text = log.read_text(encoding="utf-8", errors="replace").splitlines()[-10:] if log.is_file() else []
        return pd.DataFrame([*lines, *((RunPath.LOG, line) for line in text)], columns=["where", "line"])

    def conditions(self, **options: Any) -> list[Condition]:
        layers = network.layers(self.run.parameters.target, "target")
        answers = all(r.ok for r in layers)
        return [
            self.idle_condition(),
            self.checkpoint_condition(),
            Condition("the target answers", answers, "" if answers else network.broken(layers)),
            Condition(*self._disk()),
        ]

    def plan(self, **options: Any) -> pd.DataFrame:
        return self.resume_plan(**self._settings(**options))

    def apply(self, **options: Any) -> pd.DataFrame:
        return self.resume(**self._settings(**options))

    def _settings(self, batch_size: int | None = None, timeout_seconds: float | None = None) -> dict[str, Any]:
        """Half of the present batch size, 50 at most; the target's time-out where one is given."""
        now = self.run.parameters.migration.batch_size
        settings: dict[str, Any] = {"migration.batch_size": batch_size or max(1, min(SMALLER, now // 2))}
        if timeout_seconds is not None:
            settings["target.timeout_seconds"] = timeout_seconds
        return settings

    def _ledger(self) -> tuple[str, bool, str]:
        try:
            ledger = self.ledger()
            if ledger is None:
                return "the checkpoint", True, "the migration has not begun"
            with reading(ledger.path):
                written = dt.datetime.fromisoformat(CheckpointFile.of(ledger.path).timestamp)
                quiet = (dt.datetime.now(dt.UTC) - written).total_seconds()
        except RunbookError as error:
            return "the checkpoint", False, error.line()
        flight = sum(t.inflight[1] - t.inflight[0] for t in ledger.targets.values() if t.inflight)
        detail = f"phase {ledger.phase}, {ledger.processed:,} of {ledger.total_chunks:,}, {flight} in flight, "
        detail += f"last written {quiet:,.0f} s ago"
        working = self.run.watches_only and quiet < QUIET
        return "the checkpoint", ledger.phase == "complete" or working, detail

    def _ends(self) -> list[tuple[str, bool, str]]:
        rows = []
        for role in ("source", "target"):
            layers = network.layers(getattr(self.run.parameters, role), role)
            bad = network.broken(layers)
            rows.append((f"connection to the {role}", not bad, bad or count(len(layers), "check")))
        return rows

    def _disk(self) -> tuple[str, bool, str]:
        target = self.run.parameters.target
        folders = [self.run.workspace, *([Path(target.path)] if target.path and Path(target.path).exists() else [])]
        free = min(shutil.disk_usage(folder).free for folder in folders)
        return "the disk has room", free >= DISK_RESERVE, f"{free / 2**20:,.0f} MB free, {DISK_RESERVE // 2**20} needed"

    def _lock(self) -> tuple[str, bool, str]:
        if self.run.watches_only:
            return "the lock of the target", True, "not asked: the run is at work"
        try:
            with self.target() as (store, _):
                holder = (store.lock_holder() or {}) if store is not None else {}
        except RunbookError as error:
            return "the lock of the target", False, error.line()
        who = str(holder.get("run_id", ""))
        detail = f"run {who} on {holder.get('host')} since {holder.get('time')} ({LOCK_COLLECTION})" if who else "free"
        return "the lock of the target", who in ("", self.run.id), detail

    def _refused(self) -> tuple[str, bool, str]:
        rows = self.refused()
        heaviest = f", the heaviest {int(rows['bytes'].max()):,} bytes" if len(rows) else ""
        ledger = self.ledger() if self._ledger()[1] or not len(rows) else None
        settled = not len(rows) or (ledger is not None and ledger.phase == "complete")
        return "chunks refused by the target", settled, f"{len(rows):,} in quarantine{heaviest}"

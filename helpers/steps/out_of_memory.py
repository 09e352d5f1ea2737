"""Notebook 43: a process that ran out of memory: memory available, memory needed by batch size, and a batch size that fits."""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import psutil

from helpers.migration.staging import Staged
from helpers.reason_codes import ReasonCode
from helpers.run.advice import symptoms
from helpers.run.command import child
from helpers.run.folders import RunPath
from helpers.run.kernel import free_memory, peak_memory
from helpers.snapshots.snapshot import PART_BYTES
from helpers.troubleshooting import Condition, ProbeResult, Troubleshooter

CODES = (ReasonCode.OUT_OF_MEMORY, ReasonCode.KERNEL_DIED)
SIZES = (25, 100, 500, 5_000)
COPIES = 6  # of a batch: as read, as sliced, as the client's lists and base64, as the request's body, and its answer
KERNEL = 350 * 2**20  # bytes of a notebook's process before it holds a chunk, Chroma's client and pandas loaded


class OutOfMemoryStep(Troubleshooter):
    """Memory available, compared with what the migration needs. The resolution resumes with a batch size and workers that fit."""

    code = ReasonCode.OUT_OF_MEMORY

    def look(self) -> ProbeResult:
        at_hand, needed = self._at_hand(), self._needed()
        failed = [s for s in symptoms(self.run) if s["reason"] in CODES and self._unfinished()]
        rows = [(name, round(size / 2**20, 1)) for name, size in at_hand.items()]
        rows.append(("needed with this batch size and these workers", round(needed / 2**20, 1)))
        table = pd.DataFrame(rows, columns=["memory", "MB"])
        least = min(at_hand.values())
        short = least < needed
        sentences = [f"{needed / 2**20:,.0f} MB needed, {least / 2**20:,.0f} MB at hand"] if short else []
        sentences += [f"step {s['step']}: {s['detail']}" for s in failed]
        return ProbeResult(table, int(short) + len(failed), "; ".join(sentences))

    def batches(self) -> pd.DataFrame:
        """Size in MB of a batch of the snapshot, for some batch sizes: rows x dimension x 4 bytes, and its texts."""
        rows = []
        for info in self.snapshot.collections():
            part = next(iter(self.snapshot.parts(info.name)), None)
            batch = self.snapshot.read(part) if part is not None else None
            each = batch.nbytes() / max(1, len(batch)) if batch is not None else 0
            rows.append(
                (info.name, info.count, info.dimension, round(each), *(round(each * s / 2**20, 2) for s in SIZES))
            )
        columns = ["collection", "chunks", "dimension", "bytes a chunk", *(f"MB at {s:,}" for s in SIZES)]
        return pd.DataFrame(rows, columns=columns)

    def measure(self, *sizes: int) -> pd.DataFrame:
        """Peak memory (MB) of one process that reads all staged rows in batches of each size, as a resume does.

        The sizes are measured in rising order, because a process's peak never falls.
        """
        ordered = sorted(sizes or (25, 500))
        folder = self.run.workspace / RunPath.STAGED
        done = child([sys.executable, "-m", "helpers.steps.out_of_memory", str(folder), *map(str, ordered)])
        nothing: dict[str, Any] = {"base": 0, "peaks": [], "rows": 0}
        answer = json.loads(done.stdout) if done.returncode == 0 else nothing
        rows = [
            (size, answer["rows"], round(peak / 2**20, 1), round((peak - answer["base"]) / 2**20, 1))
            for size, peak in zip(ordered, answer["peaks"], strict=False)
        ]
        self.run.fact("measured", rows)
        return pd.DataFrame(rows, columns=["batch size", "chunks read", "peak MB", "above an idle process"])

    def conditions(self, **options: Any) -> list[Condition]:
        size, workers = self._settings(**options).values()
        least, needed = min(self._at_hand().values()), self._needed(size, workers)
        return [
            self.idle_condition(),
            self.checkpoint_condition(),
            Condition(
                f"batches of {size} with {workers} workers fit", least >= needed,
                f"{needed / 2**20:,.0f} MB needed, {least / 2**20:,.0f} MB at hand: stop other programs, or a larger machine",
            ),
        ]  # fmt: skip

    def plan(self, **options: Any) -> pd.DataFrame:
        return self.resume_plan(**self._settings(**options))

    def apply(self, **options: Any) -> pd.DataFrame:
        return self.resume(**self._settings(**options))

    def _settings(self, batch_size: int | None = None, workers: int | None = None) -> dict[str, int]:
        size, threads = self._fitting()
        return {"migration.batch_size": batch_size or size, "migration.workers": workers or threads}

    def _fitting(self) -> tuple[int, int]:
        """The largest batch, at most half of the one that failed, that fits with one worker."""
        least = min(self._at_hand().values())
        now = self.run.parameters.migration.batch_size
        sizes = [s for s in (500, 250, 100, 50, 25) if s <= now // 2] or [max(1, now // 2)]
        return next((s for s in sizes if self._needed(s, 1) <= least), sizes[-1]), 1

    def _needed(self, batch_size: int | None = None, workers: int | None = None) -> int:
        """Bytes needed: the process, and for each worker several copies of its batch and two parts that are read ahead."""
        rules = self.run.parameters.migration
        size, threads = batch_size or rules.batch_size, workers or rules.workers
        staged = self.staged
        targets = max(1, len(staged.files)) if staged is not None else 1
        heaviest = max((min(size, i.count) * (i.dimension or 0) * 4 for i in self.snapshot.collections()), default=0)
        return KERNEL + min(threads, targets) * (COPIES * heaviest + 4 * PART_BYTES)

    def _at_hand(self) -> dict[str, int]:
        """Bytes that a process may take now, by limit: the machine, the control group, the process's own limit."""
        available = {"available on the machine": free_memory()}
        limits = (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"))
        for limit, used in limits:
            most, now = (_number(Path("/sys/fs/cgroup") / name) for name in (limit, used))
            if most is not None and now is not None and most < 2**60:
                available["left in the container"] = max(0, most - now)
        soft = resource.getrlimit(resource.RLIMIT_AS)[0]
        if soft != resource.RLIM_INFINITY:
            # The limit holds for each process, and libraries fill much of an address space before a chunk is held.
            # This process is like the migration's, so the migration has what is left here, beyond KERNEL.
            available["left of a process's limit (ulimit -v)"] = max(
                0, soft - psutil.Process().memory_info().vms + KERNEL
            )
        return available

    def _unfinished(self) -> bool:
        ledger = self.ledger()
        return ledger is None or ledger.phase != "complete"


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _trial(folder: Path, sizes: Sequence[int]) -> None:
    """Read all staged rows in batches of each size; print as JSON: base and peaks in bytes, rows."""
    base, rows, peaks, staged = peak_memory(), 0, [], Staged.load(folder)
    for size in sizes:
        rows = 0
        for target in sorted(staged.files) if staged is not None else ():
            assert staged is not None
            for batch in staged.stream(target, 0, size):
                rows += len(batch)
        peaks.append(peak_memory())
    print(json.dumps({"base": base, "peaks": peaks, "rows": rows}))


if __name__ == "__main__":
    _trial(Path(sys.argv[1]), [int(size) for size in sys.argv[2:]])

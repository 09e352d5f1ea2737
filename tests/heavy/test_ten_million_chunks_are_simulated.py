"""One collection of ten million chunks through our own code: export, transform, import with its ledger, comparison.

Both databases are stand-ins that make each chunk up from its id, count, and add the time that a server needs to a clock, at rates
that were measured (docs/benchmarks.md); nobody waits for it, and vectors have 8 numbers, not 1536. What is real: every line of
ours, each chunk in files on disk, its comparison, the ledger, the memory. What the small size took is the prediction.

`make test-scale CHUNKS=1000000` simulates fewer. Ten million need 2 GB of disk and 4 GB of memory.
"""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import psutil
import pytest

from helpers.chunks import ChunkBatch
from helpers.errors import Interrupted
from helpers.migration.checkpoint import Checkpoint
from helpers.migration.importing import Importer, plan_targets
from helpers.migration.staging import Quarantine, stage
from helpers.parameters import parameters_from
from helpers.reason_codes import ReasonCode
from helpers.schema import load_schema
from helpers.snapshots.snapshot import write_snapshot
from helpers.stores import CollectionInfo, Store
from helpers.stores.limits import Limits, Usage
from helpers.validation.fidelity import Examination, Expectation
from tests.schema_lines import DATE
from tests.storage import plan

CHUNKS = int(os.environ.get("RUNBOOK_SCALE_CHUNKS", "10000000"))
SMALL = max(50_000, CHUNKS // 20)
DIMENSION = 8
READ, ADD, LIST = 0.53e-3, 1.5e-3, 0.01e-3  # seconds a chunk: the step that reads all, the bare `add`, a list of ids
NEAR = 0.1  # how far the whole may be from what was predicted, as a share of it
MOST_BYTES = 400.0  # of memory for each chunk of one collection: its id, more than once
LEDGER_BYTES = 100_000

pytestmark = pytest.mark.slow


def content(ids: Sequence[str]) -> ChunkBatch:
    """The chunks of these ids, always the same."""
    numbers = np.array([int(chunk[1:]) for chunk in ids], np.int64)
    vectors = np.cos(numbers[:, None] * np.linspace(0.1, 3, DIMENSION)).astype(np.float32)
    return ChunkBatch(list(ids), [f"text {n}" for n in numbers], vectors, [{"n": int(n)} for n in numbers])


class StandIn:
    """A database that only counts. `clock`: seconds that a real server would have needed; `calls`: requests by kind."""

    label, version, protocol, limit_changes = "stand-in", "1.5.9", "none", ()
    findings, repairs = (), ()

    def __init__(self, held: int | None = None) -> None:
        self.held = {} if held is None else {"all": held}
        self.calls: Counter[str] = Counter()
        self.clock, self.usage, self._guard = 0.0, Usage(), threading.Lock()
        self.fails_at: float = np.inf  # chunks; the add that reaches them is not done

    def _took(self, what: str, chunks: int, rate: float) -> None:
        with self._guard:
            self.calls[what] += 1
            self.clock += chunks * rate

    def limits(self) -> Limits:
        return Limits(5_461, 40_000_000)

    def names(self) -> list[str]:
        return sorted(self.held)

    def identity(self, name: str) -> str:
        return ""

    def collections(self) -> list[CollectionInfo]:
        return [self.info(name) for name in self.names()]

    def info(self, name: str) -> CollectionInfo:
        return dataclasses.replace(plan(name), count=self.held[name], dimension=DIMENSION)

    def count(self, name: str) -> int:
        return self.held[name]

    def ids(self, name: str) -> list[str]:
        self._took("ids", self.held[name], LIST)
        return [f"c{n:08d}" for n in range(self.held[name])]

    def some_ids(self, name: str, most: int) -> list[str]:
        return [f"c{n:08d}" for n in range(min(most, self.held[name]))]

    def read(self, name: str, ids: Sequence[str], *, embeddings: bool = True) -> ChunkBatch:
        self._took("read", len(ids), READ)
        return content([chunk for chunk in ids if int(chunk[1:]) < self.held[name]])

    def query(self, name: str, vectors: Any, k: int) -> list[list[tuple[str, float]]]:
        return [[] for _ in vectors]  # searches do not grow with the source: 40 a collection

    def unindexed(self, name: str) -> int:
        return 0

    def create(self, info: CollectionInfo) -> None:
        self.held[info.name] = 0

    def as_created(self, info: CollectionInfo) -> bool:
        return self.held.get(info.name) == 0

    def add(self, name: str, batch: ChunkBatch) -> None:
        if self.held[name] + len(batch) > self.fails_at:
            raise Interrupted(ReasonCode.INTERRUPTED, "killed")
        self._took("add", len(batch), ADD)
        self.held[name] += len(batch)

    def acquire_lock(self, run_id: str) -> None:
        """Nobody else is here."""

    release_lock = acquire_lock


class Simulation:
    """A migration of so many chunks. By phase: `seconds` of our own processor time, those of the databases included."""

    def __init__(self, folder: Path, chunks: int) -> None:
        self.folder, self.chunks = folder, chunks
        self.source, self.target = StandIn(chunks), StandIn()
        self.seconds: dict[str, float] = {}
        self.own: dict[str, float] = {}
        self.peak = 0

    def run(self) -> None:
        folder, schema = self.folder, load_schema("identity")
        parameters = parameters_from({"source": {"path": str(folder / "a")}, "target": {"path": str(folder / "b")}})
        source, target = cast(Store, self.source), cast(Store, self.target)
        snapshot = self._phase(
            "export", lambda: write_snapshot(source, folder / "snapshots", "s", ["all"], retention_days=7)
        )
        of, aside = Expectation(snapshot, schema, parameters, DATE, {}), Quarantine(folder / "quarantine")
        staged = self._phase("transform", lambda: stage(snapshot, schema, of.context(), folder / "staged", aside))
        plans = plan_targets(snapshot.collections(), staged, parameters.migration, schema)
        ledger = folder / "checkpoint.json"
        Checkpoint.open(ledger, {"run": "r"}).stage(staged.total, staged.unstaged, {"all": staged.rows("all")})

        def write() -> None:
            importer = Importer(
                target, staged, Checkpoint.open(ledger, {"run": "r"}), aside, "r", batch_size=500, workers=4
            )
            importer.prepare(plans)
            importer.write()

        def interrupted_and_resumed() -> None:
            self.target.fails_at = self.chunks / 2
            with pytest.raises(Interrupted):
                write()
            self.target.fails_at = np.inf
            write()

        self._phase("import", interrupted_and_resumed)
        assert ledger.stat().st_size < LEDGER_BYTES
        found = self._phase("compare", lambda: Examination(target, of).run())
        [row] = found.sources
        assert (row.source, row.target, found.differing) == (self.chunks, self.chunks, 0)

    def _phase(self, name: str, work: Callable[[], Any]) -> Any:
        ended, process = threading.Event(), psutil.Process()

        def watch() -> None:
            while not ended.wait(0.2):
                self.peak = max(self.peak, process.memory_info().rss)

        watching = threading.Thread(target=watch)
        watching.start()
        begun, clocks = time.process_time(), self.source.clock + self.target.clock
        try:
            return work()
        finally:
            ended.set()
            watching.join()
            self.own[name] = time.process_time() - begun
            self.seconds[name] = self.own[name] + self.source.clock + self.target.clock - clocks


def test_what_a_small_migration_took_predicts_a_large_one(tmp_path: Path) -> None:
    small, large = Simulation(tmp_path / "small", SMALL), Simulation(tmp_path / "large", CHUNKS)
    before = psutil.Process().memory_info().rss
    small.run()
    large.run()
    factor, said = CHUNKS / SMALL, []
    for phase, seconds in large.seconds.items():
        said.append(
            f"{phase:10} predicted {small.seconds[phase] * factor:9,.0f} s, simulated {seconds:9,.0f} s; our own work "
            f"{1e6 * small.own[phase] / SMALL:5.1f} and {1e6 * large.own[phase] / CHUNKS:5.1f} µs a chunk"
        )
    predicted, simulated = factor * sum(small.seconds.values()), sum(large.seconds.values())
    grown = (large.peak - before) / CHUNKS
    said.append(f"together   predicted {predicted:9,.0f} s, simulated {simulated:9,.0f} s")
    said.append(
        f"memory     {large.peak / 1e6:,.0f} MB at most, {grown:.0f} bytes a chunk; requests {dict(large.target.calls)}"
    )
    print("\n" + "\n".join(said))
    assert abs(simulated - predicted) <= NEAR * predicted
    assert sum(large.own.values()) <= 1.5 * factor * sum(small.own.values()), "our own work grows faster than the data"
    assert grown <= MOST_BYTES
    assert large.target.calls["add"] == -(-CHUNKS // 500)

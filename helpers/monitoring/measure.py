"""`python -m helpers.monitoring.measure RUN FILE`: step 51's measurement of source and target, in a process of its own.

A new process has nothing of a database in its memory: its first query of each collection is the cold one. Then both sides are
measured warm in turn, so that other load on the machine meets both. The file gets JSON: by side either the measurements, or
`error` with a code and a line. The probes come from the run's own files.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from helpers.chunks import ChunkBatch
from helpers.errors import Interrupted, RunbookError, Terminal
from helpers.migration.source_changes import WrittenData
from helpers.reason_codes import ReasonCode
from helpers.results import write_json
from helpers.run import folders as runs
from helpers.run import kernel
from helpers.run.command import python_environment, used_by
from helpers.run.plan import Step
from helpers.run.record import RunRecord, open_chosen
from helpers.snapshots.snapshot import from_table
from helpers.stores import Reader, Space, open_target
from helpers.stores.client import ClientStore
from helpers.stores.limits import attempt

# -- child -------------------------------------------------------------------------------------------------------------

# A process beside a step: it is bounded in time, ended when the run is asked to stop, and never left behind.


_GRACE = 5.0  # seconds between asking it to end and ending it


def run_child(
    run: RunRecord, command: Sequence[str], output: Path, *, label: str, about: float, most: float,
    environment: Mapping[str, str] | None = None,
) -> int | None:  # fmt: skip
    """Run a command; return its exit code, None if it was ended after `most` seconds. Its output goes to the file `output`.

    `about`: the expected seconds, for the progress bar. Raises `Interrupted` if the run is asked to stop. The command and what it
    started are ended in any case.
    """
    variables = {
        # It ends with us, however we end: two processes on one directory destroy it.
        kernel.RUNNER_PID: str(os.getpid()),
        **python_environment(),
        "RUNBOOK_REPORTS": str(run.folder.parent),
        "RUNBOOK_WORKSPACE": str(run.workspace.parent),
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("wb") as out:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                                 start_new_session=True, env={**os.environ, **variables, **(environment or {})})  # fmt: skip
    started = time.monotonic()
    try:
        with run.progress(label, max(1, round(about)), "seconds") as bar:
            while child.poll() is None:
                if time.monotonic() - started > most:
                    return None
                with suppress(subprocess.TimeoutExpired):
                    child.wait(0.2)
                bar.advance(max(0, min(bar.total, int(time.monotonic() - started)) - bar.done))
        return child.returncode
    except Interrupted:
        run.log(f"{label}: ended, because the run was asked to stop")
        raise
    finally:
        _end(child)


def _end(child: subprocess.Popen[bytes]) -> None:
    """End a process and what it started: SIGTERM to the group, then SIGKILL."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if child.poll() is not None and number is signal.SIGTERM:
            return
        with suppress(ProcessLookupError):
            os.killpg(child.pid, number)
        with suppress(subprocess.TimeoutExpired):
            child.wait(_GRACE)


# -- measure -----------------------------------------------------------------------------------------------------------


CLIENTS = (1, 4, 16)  # at once; the first is the runbook's own measurement
PER_COLLECTION = 25
_SHARES = 101  # quantiles kept of each level, from the fastest query to the slowest


def main(arguments: list[str]) -> int:
    kernel.end_with_runner()
    run_id, file = arguments
    folder = runs.find(run_id)
    folder.enter()
    write_json(Path(file), measure_sides(RunRecord(folder, Step.PERFORMANCE)))
    return 0


class Side:
    """Source or target, measured: opened, queried cold, then warm for each number of clients. Times are milliseconds."""

    def __init__(self, run: RunRecord, side: str, stack: ExitStack) -> None:
        self.run, self.side = run, side
        chosen = choose_probes(run, side, PER_COLLECTION)
        if not chosen:
            raise Terminal(ReasonCode.NOTHING_TO_ASK, "no stored vector to search for", where=side)
        begun = time.perf_counter()
        self.store: Reader = stack.enter_context(_opened(run, side))
        self.opened_ms = 1000 * (time.perf_counter() - begun)
        first = {p.collection: p for p in reversed(chosen)}
        self.cold_ms = {n: timed(search_of(self.store, n), p.vector)[1] for n, p in first.items()}
        rng = np.random.default_rng(run.parameters.validation.seed)
        self.order = [chosen[i] for i in rng.permutation(len(chosen))]
        most = self.store.limits().concurrent_reads  # more at a time would be refused, and measure the refusals
        self.levels: dict[int, list[Level]] = {clients: [] for clients in CLIENTS if clients <= most}

    def measure(self, clients: int, seconds: float) -> None:
        """Measure one repetition with so many clients, each with its own connection to a server, unless that allows fewer."""
        if clients not in self.levels:
            return
        numbers = count()
        own = self.side == TARGET and self.run.parameters.target.path is None
        with ExitStack() as stack:
            target = self.run.parameters.target
            stores = [stack.enter_context(open_target(target)) if own else self.store for _ in range(clients)]
            searches_of_clients = [warm(store, self.order) for store in stores]
            begun = time.perf_counter()

            def work(searches: dict[str, Search]) -> tuple[list[float], list[str]]:
                times, errors = [], []
                while time.perf_counter() - begun < seconds:
                    probe = self.order[next(numbers) % len(self.order)]
                    try:
                        times.append(timed(searches[probe.collection], probe.vector)[1])
                    except RunbookError as error:
                        errors.append(error.line())
                        time.sleep(0.05)  # a refusal is quick: no storm of them
                return times, errors

            with ThreadPoolExecutor(clients) as pool:
                results = list(pool.map(work, searches_of_clients))
            elapsed = time.perf_counter() - begun
        self.levels[clients].append(
            Level(elapsed, [t for p, _ in results for t in p], [e for _, p in results for e in p])
        )

    def facts(self) -> dict[str, Any]:
        return {
            "side": self.side, "label": self.store.label, "protocol": self.store.protocol, "collections": len(self.cold_ms),
            "opened_ms": round(self.opened_ms, 1), "cold_ms": {n: round(v, 2) for n, v in self.cold_ms.items()},
            "chunks": sum(self.store.count(n) for n in self.cold_ms), "asked": len(self.order),
            "levels": [_level_facts(clients, repetitions) for clients, repetitions in self.levels.items()],
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Level:
    """One repetition: its duration (seconds), latencies (milliseconds), and errors."""

    seconds: float
    times: list[float]
    errors: list[str]


def measure_sides(run: RunRecord) -> dict[str, Any]:
    """The measurements by side, or its error: opening, the cold query of each collection, each number of clients warm."""
    rules = run.parameters.monitoring
    result: dict[str, Any] = {}
    with ExitStack() as stack:
        sides: dict[str, Side] = {}
        for side in (SOURCE, TARGET):
            try:
                sides[side] = Side(run, side, stack)
            except RunbookError as error:
                result[side] = {"error": {"code": error.code, "line": error.line()}}
        for repetition in range(rules.repetitions):
            order = list(sides.values()) if repetition % 2 == 0 else list(reversed(sides.values()))
            for clients in CLIENTS:
                for measured_side in order:
                    measured_side.measure(clients, rules.level_seconds / rules.repetitions)
        return result | {name: side.facts() for name, side in sides.items()}


def _opened(run: RunRecord, side: str) -> Any:
    if side == SOURCE:
        return open_chosen(run)
    target = run.parameters.target
    if used := used_by(target):
        raise Terminal(ReasonCode.TARGET_IN_USE, f"{used} has it open; two processes on one directory destroy it",
                       where=target.label)  # fmt: skip
    return open_target(target)


def _level_facts(clients: int, repetitions: Sequence[Level]) -> dict[str, Any]:
    """All repetitions of a level as one, and the mean and rate of each."""
    times = [t for r in repetitions for t in r.times]
    errors = [e for r in repetitions for e in r.errors]
    seconds = sum(r.seconds for r in repetitions)
    row: dict[str, Any] = {
        "clients": clients,
        "queries": len(times),
        "seconds": round(seconds, 3),
        "errors": len(errors),
    }
    row |= {"rate": round(len(times) / seconds, 2), "such_as": errors[0] if errors else ""}
    row["repetitions"] = [
        {"mean_ms": round(float(np.mean(r.times)), 3) if r.times else None, "rate": round(len(r.times) / r.seconds, 2)}
        for r in repetitions
    ]
    if times:
        row["mean_ms"] = round(float(np.mean(times)), 2)
        row |= {f"p{q}_ms": round(float(np.percentile(times, q)), 2) for q in (50, 95, 99)}
        row["quantiles_ms"] = [round(float(q), 3) for q in np.quantile(times, np.linspace(0, 1, _SHARES))]
    return row


# -- probes ------------------------------------------------------------------------------------------------------------
#
# Stored vectors that are searched for after the cutover, with the answer that is expected.
#
# They are taken from what the run staged and validated, or from its snapshot, never from a database: so the first query is
# really the first, and a changed target does not pass for one that answers.


SOURCE, TARGET = "source", "target"
_FILES = 4  # of a collection that probes are taken from, spread over it
T = TypeVar("T")
Vector = npt.NDArray[np.float32]
Hits = list[tuple[str, float]]
Search = Callable[[Vector, int], Hits]
HITS = 5  # nearest neighbours asked for, as the runbook does
# The one definition, in 25, 50 and 51; what opening and first queries take is a cold start, which is given apart.
LATENCY = (
    f"one query for a stored vector and its {HITS} nearest, from call to answer, warm: open, and asked once before"
)


@dataclass(frozen=True, slots=True)
class QueryProbe:
    """One stored vector (d,) of a collection: a search for it must find `id` first, or another at the same distance."""

    collection: str
    id: str
    vector: Vector


def choose_probes(run: RunRecord, side: str, number: int) -> list[QueryProbe]:
    """Draw `number` stored vectors of each collection, by the seed, from at most four of its files.

    `TARGET`: of the collections that the run filled, from its staged files; raises `EnvironmentFailure` (`staged_gone`).
    `SOURCE`: of the snapshot that the target is compared with; [] if the run has taken none.
    """
    data, seed, probes = WrittenData(run), run.parameters.validation.seed, []
    parts, total = dict[str, Iterator[ChunkBatch]](), 0
    if side == TARGET:
        staged = data.require_staged()
        total = sum(map(staged.rows, data.collections))
        for name in data.collections:
            files = [file for file, _, rows in staged.files.get(name, []) if rows]
            parts[name] = (from_table(staged.table(file)) for file in _spread(files))
    elif data.snapshot is not None:
        total = data.snapshot.total
        parts = {name: map(data.snapshot.read, _spread(data.snapshot.parts(name))) for name in data.snapshot.names()}
    for name, batches in parts.items():
        chunks = ChunkBatch.concatenate(list(batches))
        drawn = np.sort(np.random.default_rng(seed).permutation(np.flatnonzero(~chunks.lost))[:number])
        probes += [QueryProbe(name, chunks.ids[i], chunks.embeddings[i]) for i in drawn]
    run.sampled(f"stored vectors searched for in the {side}", len(probes), total)
    return probes


def _spread(items: Sequence[T]) -> Sequence[T]:
    return items[:: max(1, len(items) // _FILES)][:_FILES]


def search_of(store: Reader, name: str) -> Search:
    """A function that searches this collection, best hit first, without retries. The collection's handle is fetched once."""
    if not isinstance(store, ClientStore):
        return lambda vector, k: store.query(name, vector[None, :], k)[0]
    where = f"collection {name} of {store.label}"
    collection = attempt(lambda: store.client.get_collection(name, embedding_function=None), where)

    def search(vector: Vector, k: int) -> Hits:
        answer = store.requests.send(
            lambda: collection.query(query_embeddings=vector[None, :], n_results=k, include=["distances"]),
            where,
            retry=False,
        )
        distances = (answer["distances"] or [[]])[0]
        return [(i, float(d)) for i, d in zip(answer["ids"][0], distances, strict=True)]

    return search


def warm(store: Reader, probes: Sequence[QueryProbe]) -> dict[str, Search]:
    """Search functions by collection of these probes; each has answered once, so that a timed search opens and loads nothing."""
    searches: dict[str, Search] = {}
    for probe in probes:
        if probe.collection not in searches:
            search = search_of(store, probe.collection)
            search(probe.vector, HITS)
            searches[probe.collection] = search
    return searches


def timed(search: Search, vector: Vector) -> tuple[Hits, float]:
    """The hits and the latency (ms), as `LATENCY` defines it. Call `warm` before, unless a cold start is measured."""
    begun = time.perf_counter()
    hits = search(vector, HITS)
    return hits, 1000 * (time.perf_counter() - begun)


def own_distance(vector: Vector, space: Space) -> float:
    """Chroma's distance of a stored vector to itself: 0 for l2 and cosine, 1 - v·v for ip."""
    return 1.0 - float(np.dot(vector, vector)) if space == "ip" else 0.0


def finds(probe: QueryProbe, hits: Hits, space: Space) -> bool:
    """Whether the answer is right: the first hit is the chunk itself, or another at the same distance."""
    if not hits or not np.isfinite(hits[0][1]):
        return False
    own = own_distance(probe.vector, space)
    return hits[0][0] == probe.id or hits[0][1] <= own + 1e-5 * max(1.0, abs(own))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

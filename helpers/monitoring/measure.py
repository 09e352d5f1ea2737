"""`python -m helpers.monitoring.measure RUN SIDE FILE`: one side of step 51, measured in a process of its own.

A process that has just begun has nothing of the database in its memory: its first query of each collection is the cold one.
The file gets JSON: either the figures, or `error` with a code and a line. The probes come from the run's own files.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from helpers.errors import Interrupted, RunbookError, Terminal
from helpers.fence import who_has_open
from helpers.migration.written_data import WrittenData
from helpers.monitoring import probes
from helpers.monitoring.probes import Probe
from helpers.parameters import resolve_path
from helpers.reason_codes import ReasonCode
from helpers.results import write_json
from helpers.run import folders as runs
from helpers.run import kernel
from helpers.run.open_source import open_chosen
from helpers.run.plan import Step
from helpers.run.record import RunRecord
from helpers.stores import Reader, open_target

# -- child -------------------------------------------------------------------------------------------------------------

# A process of our own at work beside a step: bounded in time, ended when the run is asked to stop, never left behind.


_GRACE = 5.0  # seconds between asking it to end and ending it


def run_child(
    run: RunRecord, command: Sequence[str], output: Path, *, label: str, about: float, most: float,
    environment: Mapping[str, str] | None = None,
) -> int | None:  # fmt: skip
    """Its exit code, None where it took longer than `most` seconds and was ended. What it prints goes to `output`.

    `about` is how many seconds it should take, for those who wait.

    Raises `Interrupted` where the run is asked to stop; it is ended then, with whatever it started.
    """
    path = os.pathsep.join(filter(None, [str(runs.REPOSITORY), os.environ.get("PYTHONPATH")]))
    known = {
        kernel.RUNNER_PID: str(
            os.getpid()
        ),  # it ends with us, however we end: two processes on one directory destroy it
        "PYTHONPATH": path,
        "RUNBOOK_REPORTS": str(run.folder.parent),
        "RUNBOOK_WORKSPACE": str(run.workspace.parent),
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("wb") as out:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                                 start_new_session=True, env={**os.environ, **known, **(environment or {})})  # fmt: skip
    begun = time.monotonic()
    try:
        with run.progress(label, max(1, round(about)), "seconds") as bar:
            while child.poll() is None:
                if time.monotonic() - begun > most:
                    return None
                with suppress(subprocess.TimeoutExpired):
                    child.wait(0.2)
                bar.advance(max(0, min(bar.total, int(time.monotonic() - begun)) - bar.done))
        return child.returncode
    except Interrupted:
        run.log(f"{label}: ended, because the run was asked to stop")
        raise
    finally:
        _end(child)


def _end(child: subprocess.Popen[bytes]) -> None:
    """It and what it started: SIGTERM to the group, then SIGKILL."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if child.poll() is not None and number is signal.SIGTERM:
            return
        with suppress(ProcessLookupError):
            os.killpg(child.pid, number)
        with suppress(subprocess.TimeoutExpired):
            child.wait(_GRACE)


# -- measure -----------------------------------------------------------------------------------------------------------


SOURCE, TARGET = "source", "target"
HITS = 5  # asked for, as the runbook does
QUERIES = {1: 100, 4: 200, 16: 320}  # by clients; the first is the runbook's own measurement
LEVEL_SECONDS = 20.0  # for one number of clients at most: this runs against a database in use
PER_COLLECTION = 25


def main(arguments: list[str]) -> int:
    kernel.end_with_runner()
    run_id, side, file = arguments
    folder = runs.find(run_id)
    folder.enter()
    try:
        write_json(Path(file), measured(RunRecord(folder, Step.PERFORMANCE), side))
    except RunbookError as error:
        write_json(Path(file), {"error": {"code": error.code, "line": error.line()}})
    return 0


def measured(run: RunRecord, side: str) -> dict[str, Any]:
    """Opening, the cold query of each collection, and each number of clients, warm. Times are milliseconds."""
    made = WrittenData(run)
    if side == TARGET:
        chosen = probes.of_target(run, PER_COLLECTION)
    else:
        assert made.snapshot is not None  # every step has passed
        chosen = probes.of_snapshot(run, made.snapshot, PER_COLLECTION)
    if not chosen:
        raise Terminal(ReasonCode.NOTHING_TO_ASK, "no stored vector to search for", where=side)
    with ExitStack() as stack:
        begun = time.perf_counter()
        store = stack.enter_context(_opened(run, side))
        opened = 1000 * (time.perf_counter() - begun)
        names = list(dict.fromkeys(p.collection for p in chosen))
        first = {n: next(p for p in chosen if p.collection == n) for n in names}
        cold = {n: probes.timed(probes.asker(store, n), p.vector, HITS)[1] for n, p in first.items()}
        rng = np.random.default_rng(run.parameters.validation.seed)
        order = [chosen[i] for i in rng.permutation(len(chosen))]
        most = store.limits().concurrent_reads  # more at a time would be refused, and measure the refusals
        levels = [_level(run, side, store, order, clients) for clients in QUERIES if clients <= most]
        return {
            "side": side, "label": store.label, "protocol": store.protocol, "opened_ms": round(opened, 1),
            "collections": len(names), "cold_ms": {n: round(v, 2) for n, v in cold.items()}, "levels": levels,
            "chunks": sum(store.count(n) for n in names),
        }  # fmt: skip


def _opened(run: RunRecord, side: str) -> Any:
    if side == SOURCE:
        return open_chosen(run)
    target = run.parameters.target
    if target.path is not None and (found := who_has_open(resolve_path(target.path))).processes:
        raise Terminal(ReasonCode.TARGET_IN_USE, f"{found.sentence()} has it open; two processes on one directory destroy it",
                       where=target.label)  # fmt: skip
    return open_target(target)


def _level(run: RunRecord, side: str, store: Reader, order: list[Probe], clients: int) -> dict[str, Any]:
    """So many clients at once, each with a connection of its own where there is a server."""
    numbers = count()
    wanted = QUERIES[clients]
    with ExitStack() as stack:
        own = side == TARGET and run.parameters.target.path is None
        stores = [stack.enter_context(open_target(run.parameters.target)) if own else store for _ in range(clients)]
        asks = [{n: probes.asker(s, n) for n in {p.collection for p in order}} for s in stores]
        begun = time.perf_counter()

        def work(mine: dict[str, Callable[..., Any]]) -> tuple[list[float], list[str]]:
            times, errors = [], []
            while (number := next(numbers)) < wanted and time.perf_counter() - begun < LEVEL_SECONDS:
                probe = order[number % len(order)]
                try:
                    times.append(probes.timed(mine[probe.collection], probe.vector, HITS)[1])
                except RunbookError as error:
                    errors.append(error.line())
            return times, errors

        with ThreadPoolExecutor(clients) as pool:
            done = list(pool.map(work, asks))
        seconds = time.perf_counter() - begun
    times = [t for part, _ in done for t in part]
    errors = [e for _, part in done for e in part]
    row: dict[str, Any] = {
        "clients": clients,
        "queries": len(times),
        "seconds": round(seconds, 3),
        "errors": len(errors),
    }
    row |= {"rate": round(len(times) / seconds, 2), "such_as": errors[0] if errors else ""}
    if times:
        row["mean_ms"] = round(float(np.mean(times)), 2)
        row |= {f"p{q}_ms": round(float(np.percentile(times, q)), 2) for q in (50, 95, 99)}
    return row


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

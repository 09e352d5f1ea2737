"""What the toolkit does, in a process of its own whose memory is watched: `python -m benchmarks.child WORK FILE`.

FILE is JSON: `parameters` (their sections) and `steps`, or `snapshot` and `url`. The last line printed is JSON:
`seconds`, and `phases` and `peaks` where steps worked. The working folder holds `reports/` and `workspace/`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from helpers.evidence import signing
from helpers.parameters import ROLES, parameters_from
from helpers.parameters.endpoint import Endpoint
from helpers.results import utc_now
from helpers.run import folders as runs
from helpers.run import plan
from helpers.run.folders import RunFolder, RunState
from helpers.run.record import PEAK_MEMORY, RunRecord

RUN = "bench"


def new_run(order: dict[str, Any]) -> RunState:
    """The run of this folder, made where there is none; gates are signed with throw-away keys when they are reached."""
    if RunFolder.of(RUN).exists:
        return RunFolder.of(RUN).read()
    allowed = signing.throw_away_keys(RunFolder.of(RUN).workspace / "rehearsal_keys", ROLES)
    parameters = parameters_from(order["parameters"] | {"signoff": {"allowed_signers": str(allowed)}})
    return runs.create(parameters, RUN, rehearsal=True)


def notebooks(order: dict[str, Any]) -> dict[str, Any]:
    """The steps as `runbook run` executes them: notebooks, seals and pages."""
    from helpers.runner.pipeline import run_line
    from helpers.status import Console

    run = new_run(order)
    steps = [plan.find(number) for number in order["steps"]]
    begun = time.perf_counter()
    run_line(run, steps, Console())
    seconds, folder = time.perf_counter() - begun, RunFolder.of(RUN)
    return {"seconds": seconds, "phases": _phases(folder, order["steps"]), "peaks": _peaks(folder, order["steps"])}


def work(order: dict[str, Any]) -> dict[str, Any]:
    """The cells of the steps' notebooks one after another, without a kernel, a page or a seal."""
    from helpers.runner.notebook import step_class

    run = new_run(order)
    begun = time.perf_counter()
    for number in order["steps"]:
        row = plan.find(number)
        record = RunRecord(run, number)
        names = {"step": step_class(row)(record)}
        for cell in _cells(runs.NOTEBOOKS / row.notebook):
            exec(compile(cell, row.notebook, "exec"), names)  # our own notebooks
        record.result.finished = utc_now()
        record.result.write(run.reports / "results" / f"{number}.json")
        failed = [check.name for check in record.result.checks if check.verdict == "fail"]
        if failed:
            raise RuntimeError(f"step {number} failed: {failed}")
        run = RunFolder.of(RUN).read()
    return {"seconds": time.perf_counter() - begun, "phases": _phases(run, order["steps"])}


def restore(order: dict[str, Any]) -> dict[str, Any]:
    """A snapshot into an empty server, every chunk compared."""
    from helpers.migration.restore import restore as bring
    from helpers.run.command import be_frugal
    from helpers.snapshots.snapshot import Snapshot

    be_frugal()  # as the command
    begun = time.perf_counter()
    bring(Snapshot.open(Path(order["snapshot"])), Endpoint(url=order["url"]))
    return {"seconds": time.perf_counter() - begun}


def _cells(notebook: Path) -> list[str]:
    """The source of the cells between the beginning of the step and its end."""
    cells = [c for c in json.loads(notebook.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]
    sources = ["".join(cell["source"]) for cell in cells]
    first = next(i for i, source in enumerate(sources) if "begin(globals()" in source)
    return [source for source in sources[first + 1 :] if source.strip() != "step.finish()"]


def _peaks(run: RunFolder, steps: list[str]) -> dict[str, float]:
    """The most that each step's own process says it has held (RSS), in MB."""
    found = run.read()
    results = {number: found.result(number) for number in steps}
    return {n: result.facts.get(PEAK_MEMORY, 0) / 1e6 for n, result in results.items() if result}


def _phases(run: RunFolder, steps: list[str]) -> dict[str, float]:
    found = run.read()
    results = {number: found.result(number) for number in steps}
    return {f"{n} {p.name}": p.seconds for n, result in results.items() if result for p in result.phases}


WORK: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "notebooks": notebooks,
    "work": work,
    "restore": restore,
}


if __name__ == "__main__":
    done = WORK[sys.argv[1]](json.loads(Path(sys.argv[2]).read_text(encoding="utf-8")))
    print(json.dumps(done))

"""Memory of steps 21 to 23 between two real servers: bounded at the runbook's size, and the same at four times that.

What is measured is VmHWM of the step's kernel, the process that does the work; servers are not ours. Random vectors fill
the source, as they compress the least. Steps 10 to 13 are left out: they would take most of the time and are not asked
about. `make test-memory LARGE=20000` measures a smaller large one.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.heavy.commands import Trial, descendants, kernel_of, kill_all
from tests.servers import ChromaServer, client_of

SMALL = int(os.environ.get("RUNBOOK_MEMORY_SMALL", "9832"))
LARGE = int(os.environ.get("RUNBOOK_MEMORY_LARGE", "40000"))
DIMENSION = 1536
COLLECTIONS = 4
MOST_MB = 500  # of the migration, step 22, at the runbook's 9,832 chunks
GROWTH = 1.2  # of the migration between the two sizes
PARAMETERS = """\
name: memory
source: {{url: '{source}'}}
target: {{url: '{target}'}}
schema: identity
migration: {{batch_size: 500}}
"""

# The runner's own way to execute a notebook, for three steps of a new run.
THREE_STEPS = """\
import sys
from pathlib import Path
from typing import Any
from helpers.parameters import load_parameters
from helpers.run import folders, plan
from helpers.runner.pipeline import Execution
run = folders.create(load_parameters(Path("trial.yaml")), "one")
for number in ("21", "22", "23"):
    execution = Execution(run, plan.find(number))
    execution.start()
    while not execution.wait(1):
        pass
    if (error := execution.result().error) is not None:
        sys.exit(error["line"])
"""

pytestmark = pytest.mark.slow

Peaks = dict[str, float]


def fill(url: str, chunks: int) -> None:
    """Random vectors in collections of equal size."""
    rng = np.random.default_rng(1)
    # Few links a chunk: the filling is not what is measured, and its index takes most of its time.
    few: Any = {"hnsw": {"ef_construction": 20, "max_neighbors": 8}}
    with client_of(url) as client:
        for number in range(COLLECTIONS):
            collection = client.create_collection(f"part-{number}", embedding_function=None, configuration=few)
            rows = [*range(number, chunks, COLLECTIONS)]
            for at in range(0, len(rows), 1000):
                some = rows[at : at + 1000]
                collection.add(
                    ids=[f"chunk-{i:06d}" for i in some],
                    embeddings=rng.standard_normal((len(some), DIMENSION)).astype(np.float32),
                    documents=[f"Document {i}. " + "Some words that a chunk would have. " * 20 for i in some],
                    metadatas=[{"n": i, "source": f"file-{i % 50}", "share": i / 7} for i in some],
                )


def peaks(trial: Trial) -> Peaks:
    """The peak in MB of the kernel of each step, 21 to 23."""
    process = trial.start("-c", THREE_STEPS, program=())
    found: Peaks = {}
    try:
        while process.poll() is None:
            kernel = kernel_of(process.pid)
            step = step_at_work(trial)
            if kernel is not None and step:
                with suppress(OSError, AttributeError):
                    status = Path(f"/proc/{kernel}/status").read_text()
                    peak = int(re.search(r"VmHWM:\s+(\d+) kB", status).group(1)) / 1024  # type: ignore[union-attr]
                    found[step] = max(found.get(step, 0.0), peak)
            time.sleep(0.1)
        assert process.returncode == 0, trial.output
    finally:
        kill_all([process.pid, *descendants(process.pid)])
        process.wait()
    return found


def step_at_work(trial: Trial) -> str:
    """The step whose notebook began last, by the run's log."""
    with suppress(OSError):
        began = re.findall(r" (\d\d) notebook begins", (trial.reports / "run.log").read_text(encoding="utf-8"))
        return str(began[-1]) if began else ""
    return ""


@pytest.fixture
def measured(tmp_path: Path) -> dict[int, Peaks]:
    found: dict[int, Peaks] = {}
    for chunks in (SMALL, LARGE):
        folder = tmp_path / str(chunks)
        with ChromaServer(folder / "source") as source, ChromaServer(folder / "target") as target:
            begun = time.monotonic()
            fill(source.url, chunks)
            filled = time.monotonic()
            trial = Trial(folder / "run")
            trial.write_parameters(PARAMETERS.format(source=source.url, target=target.url))
            found[chunks] = peaks(trial)
            took = f"filled in {filled - begun:.0f} s, run in {time.monotonic() - filled:.0f} s"
        shutil.rmtree(folder)
        shown = ", ".join(f"step {step} {peak:.0f} MB" for step, peak in sorted(found[chunks].items()))
        print(f"\n{chunks:,} × {DIMENSION}: {shown}; {took}", flush=True)
    return found


def test_the_migration_needs_no_more_memory_for_more_chunks(measured: dict[int, Peaks]) -> None:
    small, large = measured[SMALL], measured[LARGE]
    assert {"21", "22", "23"} <= set(small) & set(large)
    assert small["22"] <= MOST_MB, f"step 22 needed {small['22']:.0f} MB for {SMALL:,} chunks"
    for step in ("21", "22"):
        assert large[step] <= GROWTH * small[step], f"step {step}: {small[step]:.0f} MB, then {large[step]:.0f} MB"

"""kill -9 of workers, of the scheduler and of the run at random moments of steps 21 to 23 with `migration.executor: dask`.

After each kill what was killed is started again, and the run is resumed where it ended: snapshot, staged files, quarantine,
target, answers of the checks and lists of step 23 are those of a run in threads that nobody disturbed. The moments are
seeded, but where they fall depends on the machine's pace; each trial says what it hit. `make test-kill` runs them.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from helpers.rehearsal import write_sample
from tests.heavy.commands import Trial, descendants, kill_all
from tests.workers import STEPS, Dask, answers, bench, outcome, steps, until

SEED = int(os.environ.get("RUNBOOK_KILL_SEED", "20251201"))
TRIALS = int(os.environ.get("RUNBOOK_KILL_TRIALS", "10"))
VICTIMS = [
    "worker", "scheduler", "run", "worker twice", "all workers", "run and worker", "scheduler", "worker", "run", "scheduler",
]  # fmt: skip
PHASES = [
    "22 import_chunks",
    "22 import_chunks",
    "22 transform",
    "23 read_target",
    "21 take",
    "22 import_chunks",
    "22 transform",
]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sample(tmp_path_factory.mktemp("source") / "sample", chunks=600, dimension=32)


@pytest.fixture(scope="module")
def wanted(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What threads leave."""
    return left(tmp_path_factory.mktemp("threads"), source, "", lambda trial: steps(trial))


def left(folder: Path, source: Path, more: str, work: Any) -> dict[str, Any]:
    shutil.copytree(source, folder / "source")
    with bench(folder, folder / "source", more) as (trial, target):
        work(trial)
        found = outcome(trial, target)
    return found | {number: answers(found[number]) for number in ("21", "22", "23")}


def strike(trial: Trial, dask: Dask, what: str, phase: str, chance: random.Random) -> str:
    """Steps 21 to 23 with kills at a random moment of a phase; where the first fell, and how the run ended."""
    process = trial.start(program=("-c", STEPS))
    until(lambda: phase in trial.output or process.poll() is not None, 300)
    time.sleep(chance.random() * 1.5)
    over = process.poll() is not None
    if "run" in what:
        kill_all([process.pid, *descendants(process.pid)])
    if "scheduler" in what:
        dask.kill()
    if "worker" in what:
        dask.kill(0)
    if what in ("worker twice", "all workers"):
        time.sleep(chance.random() * (what == "worker twice"))
        dask.start()
        time.sleep(chance.random() * 3)
        dask.kill(1)
    if what in ("run", "scheduler"):
        process.wait(300)
    dask.start()  # what is dead comes back
    process.wait(300)
    last = trial.output.strip().splitlines()[-1][:150]
    return f"{what} in {phase}: " + ("over before" if over else f"ended with {process.returncode}, {last}")


def test_kills_of_workers_scheduler_and_run_change_nothing(
    source: Path, wanted: dict[str, Any], tmp_path: Path
) -> None:
    chance, said = random.Random(SEED), []
    for number in range(TRIALS):
        what, phase = VICTIMS[number % len(VICTIMS)], PHASES[number % len(PHASES)]
        with Dask(tmp_path / f"dask-{number}") as dask:

            def killed(trial: Trial, dask: Dask = dask, what: str = what, phase: str = phase) -> None:
                said.append(strike(trial, dask, what, phase, chance))
                print(said[-1], flush=True)
                dask.wait()
                steps(trial)  # from where it ended

            more = f', executor: dask, scheduler: "{dask.url}"'
            found = left(tmp_path / str(number), source, more, killed)
        assert differing(found, wanted) == [], said[-1]
    assert sum("over before" not in line for line in said) > TRIALS // 2, said


def differing(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    return [key for key in wanted if found[key] != wanted[key]]

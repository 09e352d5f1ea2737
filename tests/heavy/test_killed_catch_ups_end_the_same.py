"""kill -9 at random moments of a catch-up, each followed by the same again: the target is always the same one.

The source changed in every way after its snapshot: chunks added, changed, deleted and made anew, keys taken away, a
collection dropped and a new one made. Each trial says where the kill fell. Ten kills hit step 22 in a process of its own,
which is quick; two more hit the command with its kernel.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.stores.client import ClientStore
from tests.heavy.commands import Trial, descendants, kernel_of, kill_all
from tests.heavy.test_killed_runs_end_the_same import SEED, assert_same_target, everything
from tests.plain_client import opened
from tests.storage import chunks, embedded, fill

PARAMETERS = """\
name: trial
source: {path: source}
target: {path: target}
schema: identity
migration: {batch_size: 20}
snapshot: {directory: kept}
"""
STEPS = """\
import sys
from pathlib import Path
from helpers.steps.migrate import MigrateStep as Migration
from helpers.parameters import load_parameters
from helpers.results import Verdict, utc_now
from helpers.run import folders
from helpers.run.record import RunRecord
from helpers.steps.snapshot import SnapshotStep
if not Path("reports/one").exists():
    record = RunRecord(folders.create(load_parameters(Path("trial.yaml")), "one"), "21")
    SnapshotStep(record).verify()
    record.result.finished = utc_now()
    record.result.write(record.folder / "results" / "21.json")
work = Migration(RunRecord(folders.find("one"), "22"))
for phase in (work.export, work.transform, work.validate, work.import_chunks, work.verify, work.catch_up):
    phase()
sys.exit(any(check.verdict is Verdict.FAIL for check in work.run.result.checks))
"""
TRIALS = int(os.environ.get("RUNBOOK_KILL_TRIALS", "10"))
STATE = ("reports", "workspace", "target", "kept")

pytestmark = pytest.mark.slow


def change(store: ClientStore) -> None:
    rows = chunks(400, 32, prefix="a").slice(100, 250)
    for i in range(len(rows)):
        rows.metadatas[i] = {"n": i} if i % 3 else None
        rows.documents[i] = None if i % 7 == 0 else f"changed {i}"
    rows.embeddings[::2] *= np.float32(0.9)  # longer ones are outliers, which even a new index may not find
    store.delete("alpha", [*rows.ids, *(f"a{i}" for i in range(60))])
    store.add("alpha", rows)
    store.add("alpha", chunks(300, 32, seed=4, prefix="new"))
    store.drop("beta")
    fill(store, "gamma", chunks(200, 16, prefix="g"), "cosine")


class Bench:
    """A run whose step 22 is complete and whose source changed since; tried again and again from that state.

    `first` is the command that does step 22 for the first time, `again` the one that does it once more.
    """

    def __init__(self, folder: Path, first: tuple[str, ...], again: tuple[str, ...], program: tuple[str, ...]) -> None:
        self.trial, self.pristine, self.copies = Trial(folder), folder / "pristine", iter(range(1000))
        self.again, self.program = again, program
        with embedded(folder / "source") as store:
            fill(store, "alpha", chunks(400, 32, prefix="a"))
            fill(store, "beta", chunks(300, 16, prefix="b"), "cosine")
        self.trial.write_parameters(PARAMETERS)
        assert self.trial.start(*first, program=program).wait(900) == 0, self.trial.output
        with embedded(folder / "source") as store:
            change(store)
        for name in STATE:
            shutil.copytree(folder / name, self.pristine / name)
        self.restore()
        process = self.start()
        begun = time.monotonic()
        while process.poll() is None and self.phase() == "catch-up":
            time.sleep(0.005)
        self.lasts = time.monotonic() - begun
        assert process.wait() == 0, self.trial.output
        self.wanted = self.target()
        assert {n: len(c["chunks"]) for n, c in self.wanted.items()} == {"alpha": 640, "gamma": 200}

    def restore(self) -> None:
        for name in STATE:
            shutil.rmtree(self.trial.folder / name, ignore_errors=True)
            shutil.copytree(self.pristine / name, self.trial.folder / name)

    def start(self) -> Any:
        """Step 22 once more, until its catch-up begins."""
        process = self.trial.start(*self.again, program=self.program)
        while process.poll() is None and self.phase() != "catch-up":
            time.sleep(0.005)
        return process

    def kill(self, what: str, chance: random.Random) -> str:
        """Kill the tree, or its kernel alone; where the catch-up stood."""
        self.restore()
        process = self.start()
        time.sleep(chance.random() * self.lasts)
        kernel = kernel_of(process.pid)
        kill_all([kernel] if what == "kernel" and kernel else [process.pid, *descendants(process.pid)])
        process.wait(60)
        return self.where()

    def phase(self) -> str:
        return str(json.loads((self.trial.workspace / "checkpoint.json").read_text(encoding="utf-8"))["phase"])

    def where(self) -> str:
        """Where the catch-up stands, by its ledgers."""
        ledger = self.trial.workspace / "catch-up" / "ledger.json"
        if not ledger.exists():
            return "over" if self.phase() == "complete" else "reading, snapshot or staging"
        at = json.loads(ledger.read_text(encoding="utf-8"))["rounds"][-1]
        own = ledger.with_name(f"{at['number']:03d}") / "checkpoint.json"
        inner = json.loads(own.read_text(encoding="utf-8"))["phase"] if own.exists() else ""
        return f"{at['state']} {inner}".strip()

    def target(self) -> dict[str, Any]:
        copy = self.trial.folder / f"copy-{next(self.copies)}"
        shutil.copytree(self.trial.folder / "target", copy)
        try:
            with opened(copy) as client:
                return everything(client)
        finally:
            shutil.rmtree(copy)


def test_ten_random_moments_of_step_22(tmp_path: Path) -> None:
    bench = Bench(tmp_path, (), (), ("-c", STEPS))
    hits = []
    for number in range(TRIALS):
        hits.append(bench.kill("tree", random.Random(f"{SEED}-catch-up-{number}")))
        print(f"trial {number}: {hits[-1]}", flush=True)
        assert bench.trial.start(program=bench.program).wait(900) == 0, bench.trial.output
        assert_same_target(bench.target(), bench.wanted)
    assert any(hit.startswith("applying") for hit in hits), f"no kill fell on the writes: {hits}"


@pytest.mark.parametrize("what", ["tree", "kernel"])
def test_the_command(tmp_path: Path, what: str) -> None:
    again = ("run", "--run-id", "one", "--from", "22", "--until", "22")
    first = ("run", "trial.yaml", "--run-id", "one", "--until", "22")
    bench = Bench(tmp_path, first, again, ("-m", "helpers"))
    hit = bench.kill(what, random.Random(f"{SEED}-catch-up-{what}"))
    print(f"{what} in {hit}", flush=True)
    code = bench.trial.run("resume", "one")
    assert code in (0, 4), bench.trial.output  # 4: it had just done its work, and the run waits for signatures
    assert_same_target(bench.target(), bench.wanted)

"""kill -9 at ten random moments of a catch-up, each followed by `runbook resume`: the target is always the same one.

The source changed in every way after its snapshot: chunks added, changed, deleted and made anew, keys taken away, a
collection dropped and a new one made. Each trial says where the kill fell.
"""

from __future__ import annotations

import json
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
KILLS = ["tree"] * 6 + ["kernel"] * 2 + ["runner"] * 2
STATE = ("reports", "workspace", "target", "kept")

pytestmark = pytest.mark.slow


def change(store: ClientStore) -> None:
    rows = chunks(400, 32, prefix="a").slice(100, 250)
    for i in range(len(rows)):
        rows.metadatas[i] = {"n": i} if i % 3 else None
        rows.documents[i] = None if i % 7 == 0 else f"changed {i}"
    rows.embeddings[::2] *= np.float32(1.5)
    store.delete("alpha", [*rows.ids, *(f"a{i}" for i in range(60))])
    store.add("alpha", rows)
    store.add("alpha", chunks(300, 32, seed=4, prefix="new"))
    store.drop("beta")
    fill(store, "gamma", chunks(200, 16, prefix="g"), "cosine")


class Bench:
    """A run whose step 22 is complete and whose source changed since; tried again and again from that state."""

    def __init__(self, folder: Path) -> None:
        self.trial, self.pristine, self.copies = Trial(folder), folder / "pristine", iter(range(1000))
        with embedded(folder / "source") as store:
            fill(store, "alpha", chunks(400, 32, prefix="a"))
            fill(store, "beta", chunks(300, 16, prefix="b"), "cosine")
        self.trial.write_parameters(PARAMETERS)
        assert self.trial.run("run", "trial.yaml", "--run-id", "one", "--until", "22") == 0, self.trial.output
        with embedded(folder / "source") as store:
            change(store)
        for name in STATE:
            shutil.copytree(folder / name, self.pristine / name)

    def restore(self) -> None:
        for name in STATE:
            shutil.rmtree(self.trial.folder / name, ignore_errors=True)
            shutil.copytree(self.pristine / name, self.trial.folder / name)

    def start(self) -> Any:
        """Step 22 once more, until its catch-up begins."""
        process = self.trial.start("run", "--run-id", "one", "--from", "22", "--until", "22")
        while process.poll() is None and self.phase() != "catch-up":
            time.sleep(0.005)
        return process

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


def test_ten_random_moments(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.restore()
    process = bench.start()
    begun = time.monotonic()
    while process.poll() is None and bench.phase() == "catch-up":
        time.sleep(0.005)
    lasts = time.monotonic() - begun
    assert process.wait() == 0, bench.trial.output
    wanted = bench.target()
    assert {n: len(c["chunks"]) for n, c in wanted.items()} == {"alpha": 640, "gamma": 200}
    hits = []
    for number, what in enumerate(KILLS):
        chance = random.Random(f"{SEED}-catch-up-{number}")
        bench.restore()
        process = bench.start()
        time.sleep(chance.random() * lasts)
        kernel = kernel_of(process.pid)
        victims = {"kernel": [kernel] if kernel else [], "runner": [process.pid]}
        kill_all(victims.get(what) or [process.pid, *descendants(process.pid)])
        process.wait(60)
        hits.append(bench.where())
        print(f"trial {number}: {what} in {hits[-1]}", flush=True)
        code = bench.trial.run("resume", "one")
        assert code in (0, 4), bench.trial.output  # 4: it had just done its work, and the run waits for signatures
        assert_same_target(bench.target(), wanted)
    assert any(hit.startswith("applying") for hit in hits), f"no kill fell on the writes: {hits}"

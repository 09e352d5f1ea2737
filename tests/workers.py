"""What the tests of `migration.executor: dask` share: a scheduler and workers as processes, and a run's steps 21 to 23."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from tests.conftest import ROOT
from tests.heavy.commands import Trial
from tests.servers import ChromaServer, client_of, free_port
from tests.storage import exact, tree

# Steps 21 to 23 in one process, those that have passed left out. Parts are small, so that there are many slices.
STEPS = """\
import sys
from pathlib import Path
import helpers.snapshots.snapshot as snapshots
from helpers.parameters import load_parameters
from helpers.results import Verdict, passed
from helpers.run import folders
from helpers.run.record import RunRecord
from helpers.steps.migrate import MigrateStep
from helpers.steps.snapshot import SnapshotStep
from helpers.steps.validate import ValidateStep
snapshots.PART_BYTES = 2**13
if not Path("reports/one").exists():
    folders.create(load_parameters(Path("trial.yaml")), "one")
phases = ("export", "transform", "validate", "import_chunks", "verify", "catch_up")
plan = (("21", SnapshotStep, ("take", "verify")), ("22", MigrateStep, phases), ("23", ValidateStep, ("read_target",)))
for number, kind, calls in plan:
    if passed(folders.find("one").result(number)):
        continue
    record = RunRecord(folders.find("one"), number)
    try:
        step = kind(record)
        for call in calls:
            print(number, call, flush=True)
            getattr(step, call)()
        record.finish()
    finally:
        record.leaving.close()
    if any(check.verdict is Verdict.FAIL for check in record.result.checks):
        sys.exit([check for check in record.result.checks if check.verdict is Verdict.FAIL])
"""
PARAMETERS = """\
name: trial
source: {{url: "{source}"}}
target: {{url: "{target}"}}
schema: if_ttt
migration: {{id_policy: prefix, batch_size: 20, workers: 2{more}}}
expected: {{dimensions: [32]}}
snapshot: {{directory: kept}}
"""
_OF_A_TIME = {"started", "finished", "began", "unchanged_at", "at"}
_OF_A_PLACE = {"folder", "manifest", "snapshot", "import", "resumed", "source_usage"}
_TIME = re.compile(r"\d{4}-\d\d-\d\dT[\d:.+]+")


class Dask:
    """A scheduler and workers of the command `dask`, each a process that can be killed and started again."""

    def __init__(self, folder: Path, workers: int = 2, code: Path = ROOT) -> None:
        self.folder, self.code, self.port = folder, code, free_port()
        folder.mkdir(parents=True, exist_ok=True)
        self.url = f"tcp://127.0.0.1:{self.port}"
        self.scheduler: subprocess.Popen[bytes] | None = None
        self.workers: list[subprocess.Popen[bytes] | None] = [None] * workers

    def _start(self, *arguments: str) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "PYTHONPATH": str(self.code), "PYTHONDONTWRITEBYTECODE": "1"}
        with (self.folder / "dask.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "distributed.cli.dask_" + arguments[0], *arguments[1:]], cwd=self.folder,
                env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def start(self) -> None:
        """Whatever of it does not run. Workers end with their scheduler."""
        if self.scheduler is None or self.scheduler.poll() is not None:
            for at in range(len(self.workers)):
                self.kill(at)
            self.scheduler = self._start("scheduler", "--host", "127.0.0.1", "--port", str(self.port), "--no-dashboard")
        for at, worker in enumerate(self.workers):
            if worker is None or worker.poll() is not None:
                self.workers[at] = self._start(
                    "worker", self.url, "--nthreads", "1", "--no-nanny", "--no-dashboard", "--death-timeout", "60"
                )

    def wait(self, seconds: float = 120) -> None:
        """Until all workers are known to the scheduler."""
        from distributed import Client

        with Client(self.url, timeout=seconds, set_as_default=False) as client:  # type: ignore[no-untyped-call]
            if self.workers:
                client.wait_for_workers(len(self.workers), timeout=seconds)

    def kill(self, which: int | None = None) -> None:
        """A worker, or the scheduler, at once (SIGKILL)."""
        process = self.scheduler if which is None else self.workers[which]
        if process is not None:
            process.send_signal(signal.SIGKILL)
            process.wait()

    def __enter__(self) -> Dask:
        try:
            self.start()
            self.wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in (*self.workers, self.scheduler):
            if process is not None:
                with suppress(ProcessLookupError):
                    process.kill()
                process.wait()


@contextmanager
def bench(folder: Path, source: Path, more: str = "") -> Iterator[tuple[Trial, ChromaServer]]:
    """A run between two servers, not begun: its folder and its target. `more` goes into the section `migration`."""
    trial = Trial(folder)
    with ChromaServer(source) as first, ChromaServer(folder / "target") as second:
        trial.write_parameters(PARAMETERS.format(source=first.url, target=second.url, more=more))
        yield trial, second


def steps(trial: Trial, timeout: float = 600) -> None:
    """Steps 21 to 23, as far as they have not passed."""
    process = trial.start(program=("-c", STEPS))
    assert process.wait(timeout) == 0, trial.output


def outcome(trial: Trial, target: ChromaServer) -> dict[str, Any]:
    """Snapshot, staged files, quarantine, target and evidence of a run, without times, names of places and digests of these."""
    taken = json.loads((trial.reports / "results" / "21.json").read_text(encoding="utf-8"))["facts"]["snapshot"]
    kept = Path(taken["folder"])
    manifest = json.loads((kept / "manifest.json").read_text(encoding="utf-8"))
    found: dict[str, Any] = {
        "snapshot": manifest["collections"],
        "parts": {name: digest for name, digest in tree(kept).items() if name != "manifest.json"},
        "staged": tree(trial.workspace / "staged"),
        "quarantine": tree(trial.workspace / "quarantine"),
        "target": everything(target.url),
    }
    for number in ("21", "22", "23"):
        result = json.loads((trial.reports / "results" / f"{number}.json").read_text(encoding="utf-8"))
        found[number] = timeless({key: result[key] for key in ("verdict", "checks", "facts", "error")})
    for name in ("22_changes.csv.gz", "22_quarantine.jsonl.gz", "23_searches.csv.gz"):
        path = trial.reports / name
        found[name] = gzip.decompress(path.read_bytes()) if path.is_file() else None
    return found


def everything(url: str) -> dict[str, Any]:
    """All that a server holds, in the order in which it gives it."""
    found = {}
    with client_of(url) as client:
        for collection in client.list_collections():
            held = collection.get(include=["documents", "metadatas", "embeddings"])
            vectors = np.asarray(held["embeddings"], np.float32)
            metadatas = [exact(dict(m) if m else None) for m in held["metadatas"] or []]
            found[collection.name] = (exact(dict(collection.metadata or {})), collection.configuration_json, held["ids"],
                                      held["documents"], metadatas, vectors.tobytes())  # fmt: skip
    return found


def timeless(value: Any) -> Any:
    """Without what depends on when, where and how fast the work was done."""
    if isinstance(value, str):
        return _TIME.sub("TIME", value)
    if isinstance(value, Mapping):
        return {k: timeless(v) for k, v in value.items() if not (k in _OF_A_TIME or "second" in k or k in _OF_A_PLACE)}
    return [timeless(v) for v in value] if isinstance(value, list) else value


def answers(evidence: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    """What the checks of a step measured, and their verdicts; how a run got there is in their details."""
    return {check["name"]: (check["verdict"], check["measured"], check["offenders"]) for check in evidence["checks"]}


def until(condition: Any, seconds: float = 60) -> None:
    """Wait until this is so."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)

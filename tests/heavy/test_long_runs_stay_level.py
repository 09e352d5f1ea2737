"""`make test-long`: an hour of monitoring, compressed, and ten rehearsals in a row: nothing grows.

The interval is shortened, not the number of samples. REHEARSALS=3 does fewer rehearsals.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from helpers import cli
from helpers.monitoring.watcher import SampleJournal, Watcher, WatchSample
from helpers.results import Verdict
from tests.aftermaths import monitor, night_after
from tests.cutovers import details, verdicts
from tests.resources import Held, growth, held
from tests.servers import ChromaServer, client_of
from tests.storage import chunks

SAMPLES = 360  # of an hour, one each ten seconds
INTERVAL = 0.1  # seconds between two of them here
REHEARSALS = int(os.environ.get("RUNBOOK_LONG_REHEARSALS", "10"))


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr(tempfile, "tempdir", None)


def told(samples: list[Held]) -> str:
    """First, middle and last, for the page of reliability."""
    return "\n".join(str(samples[at]) for at in (0, len(samples) // 3, len(samples) // 2, -1))


@pytest.mark.parametrize("served", [False, True], ids=["directory", "server"])
@pytest.mark.usefixtures("own_folders")
def test_an_hour_of_monitoring_grows_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, served: bool) -> None:
    """Step 50 with a health URL, a log that grows and, for a server, a client that writes to the target throughout."""
    seen: list[Held] = []
    plain = SampleJournal.add

    def add(journal: SampleJournal, sample: WatchSample) -> None:
        plain(journal, sample)
        with (tmp_path / "app.log").open("a") as log:
            log.write("a request was answered\n")
        seen.append(held())

    def samples(watcher: Watcher, *rest: Any) -> Iterator[WatchSample]:
        return islice(every(watcher, *rest), SAMPLES)

    every = Watcher.samples
    monkeypatch.setattr(SampleJournal, "add", add)
    monkeypatch.setattr(Watcher, "samples", samples)  # so many, however long a slow machine takes for them
    (tmp_path / "app.log").write_text("begun\n")
    target = ChromaServer(tmp_path / "served") if served else None
    over = threading.Event()
    writer = threading.Thread(target=_write, args=(target.url if target else "", over))
    try:
        if target is not None:
            target.start()
        health = [f"{target.url}/api/v2/heartbeat"] if target is not None else []
        night = night_after(
            tmp_path, target={"url": target.url} if target is not None else {"path": "target"},
            cutover={"health": health, "log_files": [str(tmp_path / "app.log")], "monitor_minutes": 0},
            monitoring={"minutes": 60.0, "interval_seconds": INTERVAL, "maximum_latency_ms": 60_000.0},
        )  # fmt: skip
        writer.start()
        result = monitor(night)
    finally:
        over.set()
        if writer.ident is not None:
            writer.join()
        if target is not None:
            target.stop()
    assert Verdict.FAIL not in verdicts(result).values(), details(result)
    assert len(seen) == SAMPLES
    print(f"\nmonitoring, {'server' if served else 'directory'}: {len(seen)} samples\n{told(seen)}")
    assert growth(seen) == []


def _write(url: str, over: threading.Event) -> None:
    """A client of the target: chunks are added and deleted again."""
    if not url:
        return
    with client_of(url) as client:
        collection = client.create_collection("theirs", embedding_function=None)
        while not over.wait(0.1):
            batch = chunks(20, 4, prefix="t")
            collection.upsert(ids=batch.ids, embeddings=np.asarray(batch.embeddings), documents=batch.documents)  # type: ignore[arg-type]
            collection.delete(ids=batch.ids)


@pytest.mark.usefixtures("own_folders")
def test_rehearsals_in_a_row_grow_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the command, in one process that does them all, with kernels of their own; one is killed on its way before."""
    monkeypatch.setenv("RUNBOOK_BROWSER", "none")
    small = ["--chunks", "60", "--dimension", "24"]
    killed = subprocess.Popen(
        [sys.executable, "-m", "helpers", "rehearse", *small, "--run-id", "killed"], start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 600
    while not list((tmp_path / "reports").glob("killed/results/1*.json")) and time.monotonic() < deadline:
        assert killed.poll() is None, "it ended by itself"
        time.sleep(0.2)
    family = [psutil.Process(killed.pid), *psutil.Process(killed.pid).children(recursive=True)]
    killed.kill()
    killed.wait()
    _, alive = psutil.wait_procs(family, 60)
    assert alive == [], "processes of a rehearsal that was killed live on"
    seen = []
    for number in range(REHEARSALS):
        assert cli.main(["rehearse", *small, "--run-id", f"r{number}"]) == 0
        seen.append(held())
        print(f"\nrehearsal {number + 1}: {seen[-1]}", flush=True)
    for path in (tmp_path / "reports").glob("r*/run.json"):
        assert cli.main(["status", path.parent.name]) in (0, 4)
    if REHEARSALS >= 9:
        assert growth(seen) == []
    assert len({(s.processes, s.temporary) for s in seen[1:]}) == 1, (
        "each leaves the same processes and temporary files"
    )

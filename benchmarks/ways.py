"""How each measure is taken once. What the toolkit does runs in a process of its own, whose memory is watched."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import client, comparing
from benchmarks.ground import Ground
from benchmarks.memory import Memory, Watch
from helpers.fence.nginx import Nginx, configuration
from helpers.parameters.endpoint import Endpoint
from helpers.parameters.sections import NginxFence
from helpers.rehearsal import write_sample
from helpers.run.command import python_environment
from helpers.stores import open_target
from tests.fences import Fenced
from tests.servers import ChromaServer, client_of, free_port
from tests.signers import Signers

ROOT = Path(__file__).resolve().parents[1]
BEFORE, NIGHT = ["10", "11", "12", "13"], ["21", "22", "23"]
WINDOW = ["11", "20", *NIGHT, "24", "25"]  # 11, so that the searches have a baseline
ROWS = 6  # of a fleet
_GRACE = 2.0  # seconds that the application goes on after the cutover


class Failed(Exception):
    """A way did not end as it must; the text says why, in one line."""


@dataclass
class Taken:
    """One turn of one way: its seconds, the memory of our processes, seconds by phase, and what a client saw.

    `peaks`: MB that each notebook's process has held at most, by its own word.
    """

    seconds: float
    memory: Memory = field(default_factory=Memory)
    phases: dict[str, float] = field(default_factory=dict)
    client: dict[str, Any] = field(default_factory=dict)
    peaks: dict[str, float] = field(default_factory=dict)


def child(work: str, order: Mapping[str, Any], folder: Path) -> Taken:
    """`benchmarks.child` at `work` in this folder, and the memory of all its processes."""
    (folder / "order.json").write_text(json.dumps(order), encoding="utf-8")
    return _watched([sys.executable, "-m", "benchmarks.child", work, str(folder / "order.json")], folder)


def _watched(command: Sequence[str], folder: Path, *, timed: bool = False) -> Taken:
    """`timed`: its seconds are those of the process; else its last line says them, as JSON."""
    environment = {
        **os.environ, **python_environment(), "PYTHONPATH": str(ROOT), "RUNBOOK_REPORTS": str(folder / "reports"),
        "RUNBOOK_WORKSPACE": str(folder / "workspace"),
    }  # fmt: skip
    environment.pop("RUNBOOK_BROWSER", None)  # tests.conftest sets it; what is measured prints its PDFs where it can
    said = folder / "output.txt"
    begun = time.perf_counter()
    with said.open("wb") as output:
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=output, env=environment)
        try:
            with Watch(process.pid) as watch:
                process.wait()
        finally:
            process.terminate()  # a runner ends what it started
            process.wait()
    seconds = time.perf_counter() - begun
    lines = said.read_text(encoding="utf-8", errors="replace").splitlines() or [""]
    if process.returncode:
        raise Failed(f"{' '.join(command[1:4])}: exit {process.returncode}: {lines[-1]}")
    if timed:
        return Taken(seconds, watch.seen)
    found = json.loads(lines[-1])
    return Taken(found["seconds"], watch.seen, found.get("phases", {}), peaks=found.get("peaks", {}))


class Toolkit:
    """Runs that go on from one that has been prepared: steps 10 to 13 are done once for a size, and copied.

    So the searches of 23 have their baseline. The place and the target's port stay the same, as a run knows both.
    """

    def __init__(self, ground: Ground) -> None:
        self.ground, self.port = ground, free_port()
        self.place, self.kept = ground.folder / "run", ground.folder / "prepared"

    def prepare(self) -> Taken:
        self.place.mkdir()
        with self._target() as url:
            taken = child("notebooks", {"parameters": self._parameters(url), "steps": BEFORE}, self.place)
        shutil.move(self.place, self.kept)
        return taken

    def night(self, work: str) -> Taken:
        """Steps 21 to 23: `notebooks`, or their `work` alone."""
        shutil.copytree(self.kept, self.place, symlinks=True)
        try:
            with self._target() as url:
                return child(work, {"parameters": self._parameters(url), "steps": NIGHT}, self.place)
        finally:
            shutil.rmtree(self.place)

    def _parameters(self, target: str) -> dict[str, Any]:
        return {
            "name": "bench", "schema": "identity", "source": {"url": self.ground.server.url}, "target": {"url": target},
            "snapshot": {"directory": str(self.place / "kept")},
        }  # fmt: skip

    @contextmanager
    def _target(self) -> Iterator[str]:
        folder = self.ground.new_folder()
        server = ChromaServer(folder / "target")
        server.port = self.port
        with server:
            yield server.url
        shutil.rmtree(folder)


def restore(ground: Ground) -> Taken:
    with ground.target() as (url, folder):
        return child("restore", {"snapshot": str(ground.snapshot.folder), "url": url}, folder)


def outage(ground: Ground, when: str) -> Taken:
    """A migration by its notebooks, 20 to 25, while an application works; `seconds` are those in which it could not write.

    The approvals are signed as soon as they are asked for, and nothing is restarted: the application follows its `.env`.
    """
    with ground.target() as (target, folder), ground.own_source(folder) as source, ExitStack() as stack:
        fenced = Fenced(folder, source)
        stack.callback(fenced.stop)
        nginx = Nginx(NginxFence.model_validate(fenced.section()["nginx"]), 20.0)
        nginx.write(configuration(nginx.rules, "before", closed=False))
        nginx.enforce()
        env = folder / "app.env"
        env.write_text(f"{client.KEY}={fenced.url}\n", encoding="utf-8")
        order = {
            "parameters": {
                "name": "bench", "schema": "identity", "source": {"url": source.url}, "target": {"url": target},
                "snapshot": {"directory": str(folder / "kept")}, "fence": fenced.section(when=when),
                "migration": {"delta_limit": {"chunks": 10**9, "share": 1.0}},
                "cutover": {"env_files": [{"path": str(env), "keys": {client.KEY: "{target_url}"}}], "monitor_minutes": 0.0},
            },
            "steps": WINDOW,
        }  # fmt: skip
        with _application(env, ground, folder) as seen:
            taken = child("notebooks", order, folder)
            time.sleep(_GRACE)
        if seen["moved_to"] != target or not seen["out"]:
            raise Failed(f"the application writes to {seen['moved_to']}, was out {seen['out']}: {seen['errors']}")
        seen["differences"] = sum(_agree(ground, target, seen).values())
        taken.seconds = sum(again - since for since, again in seen["out"])
        taken.client = seen
        return taken


@contextmanager
def _application(env: Path, ground: Ground, folder: Path) -> Iterator[dict[str, Any]]:
    """The application at work; what it saw is in the dictionary afterwards."""
    record, seen = folder / "client.json", dict[str, Any]()
    command = [sys.executable, "-m", "benchmarks.client", str(env), ground.largest, str(ground.dimension), str(record)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            if process.stdout.readline() != "begun\n":
                raise Failed("the application did not begin")
            yield seen
            process.send_signal(signal.SIGTERM)
            process.wait(60)
            seen |= json.loads(record.read_text(encoding="utf-8"))
        finally:
            process.kill()


def _agree(ground: Ground, url: str, seen: Mapping[str, Any]) -> Counter[str]:
    """Every chunk of the target compared: those that the application wrote with what was accepted, all others as filled."""
    ids = {*seen["kept"], *seen["gone"], *seen["unknown"]}
    found = comparing.differences(ground.batches, url, apart={ground.largest: ids})
    with client_of(url) as chroma:
        there = chroma.get_collection(ground.largest, embedding_function=None).get(ids=sorted(ids))
        names = {collection.name for collection in chroma.list_collections()}
    texts = dict(zip(there["ids"], there["documents"] or [], strict=True))
    found["written"] = sum(texts.get(chunk) != text for chunk, text in seen["kept"].items())
    found["deleted"] = sum(chunk in texts for chunk in seen["gone"])
    found["collections"] = sum((name in names) != wanted for name, wanted in seen["collections"].items())
    return +found


def rehearsal(folder: Path, chunks: int, dimension: int) -> Taken:
    """`runbook rehearse`, whole."""
    size = ["--chunks", str(chunks), "--dimension", str(dimension)]
    return _watched([sys.executable, "-m", "helpers", "rehearse", *size, "--run-id", "bench"], folder, timed=True)


def fleet(folder: Path, *, parallel: int) -> Taken:
    """`runbook fleet run` to step 23 of `ROWS` rows, each with directories of its own of 200 chunks × 64."""
    place = Path(tempfile.mkdtemp(dir=folder))
    try:
        rows = [{"name": f"r{n}", "source": f"source-{n}", "target": f"target-{n}"} for n in range(ROWS)]
        for row in rows:
            write_sample(place / row["source"], 200, 64)
        (place / "table.yaml").write_text(json.dumps(rows), encoding="utf-8")
        base = {"schema": "identity", "signoff": {"allowed_signers": str(Signers(place / "keys").allowed)}}
        (place / "base.yaml").write_text(json.dumps(base), encoding="utf-8")
        order = ["fleet", "run", "table.yaml", "base.yaml", "--until", "23", "--parallel", str(parallel)]
        return _watched([sys.executable, "-m", "helpers", *order], place, timed=True)
    finally:
        shutil.rmtree(place)


def imports() -> float:
    """Seconds of `from helpers import begin` in a process that has what a kernel has."""
    code = "import time, ipykernel.kernelapp; t = time.perf_counter(); from helpers import begin; print(time.perf_counter() - t)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    return float(done.stdout)


def reading(ground: Ground, readers: int) -> float:
    folder = ground.new_folder()
    begun = time.perf_counter()
    ground.take_snapshot(folder, readers=readers)
    seconds = time.perf_counter() - begun
    shutil.rmtree(folder)
    return seconds


def writing(ground: Ground, batch_size: int, workers: int) -> float:
    with ground.target() as (url, folder), open_target(Endpoint(url=url)) as store:
        staged = ground.stage(folder)
        begun = time.perf_counter()
        ground.write(store, staged, folder, batch_size=batch_size, workers=workers)
        return time.perf_counter() - begun


def transforming(ground: Ground, schema: str) -> float:
    folder = ground.new_folder()
    begun = time.perf_counter()
    ground.stage(folder, schema)
    seconds = time.perf_counter() - begun
    shutil.rmtree(folder)
    return seconds

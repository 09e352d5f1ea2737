"""`fence.when: cutover` with an application that writes 20 times a second through nginx during the whole run.

The run and nginx, which is what records writes, are killed with kill -9 at 25 random moments, in five runs; a service
manager starts nginx again. What was acknowledged is in the target, exactly. How long writers were out is measured by
the application. RUNBOOK_ONLINE=9832x1536,100000x384 measures other sizes of a run that nobody disturbs.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import chromadb
import numpy as np
import psutil
import pytest

from helpers.fence.nginx import Nginx, configuration
from helpers.parameters.sections import NginxFence
from helpers.results import StepResult, Verdict
from tests.fences import Fenced, wait_for
from tests.heavy.commands import Trial, descendants, kill_all
from tests.online_client import first, vector
from tests.plain_client import held
from tests.servers import ChromaServer, client_of
from tests.signers import Signers
from tests.source_writer import at_work

SEED = int(os.environ.get("RUNBOOK_KILL_SEED", "20251201"))
SIZES = os.environ.get("RUNBOOK_ONLINE", "2000x128").split(",")
TRIALS, KILLS = 5, 5
CHUNKS, DIMENSION = 1500, 32
ATTEMPTS = 25  # of `resume`, before a run counts as stuck

pytestmark = pytest.mark.slow


class Bench(Fenced):
    """A source behind an nginx, a target, an application between them, and a run in which writers are stopped last."""

    def __init__(self, folder: Path, source: ChromaServer, target: ChromaServer, chunks: int, dimension: int) -> None:
        super().__init__(folder, source)
        self.target, self.dimension = target, dimension
        self.trial, self.people = Trial(folder), Signers(folder / "keys")
        self.env = folder / "app.env"
        self.env.write_text(f"CHROMADB_URL={self.url}\n")
        self._closing = threading.Event()
        fill(source, chunks, dimension)
        cutover = {"env_files": [{"path": str(self.env), "keys": {"CHROMADB_URL": "{target_url}"}}],
                   "monitor_minutes": 0.02}  # fmt: skip
        self.trial.write_parameters(
            f"name: trial\nsource: {{url: '{source.url}'}}\ntarget: {{url: '{target.url}'}}\nschema: identity\n"
            f"fence: {json.dumps(self.section(when='cutover'))}\ncutover: {json.dumps(cutover)}\n"
            "migration: {delta_limit: {share: 1.0}}\n"
            "monitoring: {minutes: 0.05, interval_seconds: 1, level_seconds: 1, repetitions: 1, shrink_limit: 1.0}\n"
            f"{self.people.parameter()}"
        )
        nginx = Nginx(NginxFence.model_validate(self.section()["nginx"]), 20.0)
        nginx.write(configuration(nginx.rules, "before", closed=False))
        nginx.enforce()

    # -- nginx and who keeps it up ------------------------------------------------------------------------------------

    def processes(self) -> list[psutil.Process]:
        """The master of our nginx, known by its configuration, and its workers."""
        for process in psutil.process_iter(["name", "cmdline"]):
            if process.info["name"] == "nginx" and str(self.config) in " ".join(process.info["cmdline"] or []):
                return [process, *process.children()]
        return []

    def kill_nginx(self) -> None:
        kill_all([p.pid for p in self.processes()])

    def keep_up(self) -> None:
        """The service manager: it starts nginx again with the file as it is, half a second after it died."""
        while not self._closing.wait(0.5):
            if not self.processes():
                subprocess.run([self.program, "-c", str(self.config)], capture_output=True, check=False)

    @contextmanager
    def service(self) -> Iterator[None]:
        manager = threading.Thread(target=self.keep_up, daemon=True)
        manager.start()
        try:
            yield
        finally:
            self._closing.set()
            manager.join(10)
            self.stop()

    def application(self, seed: int) -> AbstractContextManager[subprocess.Popen[str]]:
        return at_work("tests.online_client", self.env, seed, 20, self.dimension)

    # -- the run ------------------------------------------------------------------------------------------------------

    def finish(self, chance: random.Random, kills: int) -> list[str]:
        """From the first step to the closeout, with so many kills on the way; what was hit and how commands ended."""
        said: list[str] = []
        process = self.start()
        for _ in range(ATTEMPTS):
            while kills and self.outlasts(process, chance.uniform(0.5, 9.0)):
                what, kills = chance.choice(["run", "run", "nginx"]), kills - 1
                said.append(f"{what} killed at {self.at()}")
                if what == "run":
                    kill_all([process.pid, *descendants(process.pid)])
                    process.wait()
                    process = self.start()
                else:
                    self.kill_nginx()
            code = process.wait(900)
            if code == 0:
                return said
            line = self.trial.output.strip().splitlines()[-1]
            said.append(f"exit {code}: {line}")
            assert "Traceback" not in self.trial.output, self.trial.output
            if code == 4:
                for role in self.people.roles:
                    assert self.trial.run("sign", "one", *self.people.command(role)) in {0, 4}, self.trial.output
            else:
                wait_for(lambda: len(self.processes()) > 1)
            process = self.start(anew=code == 3)  # more changed than was signed for: what its line says
        raise AssertionError(f"no cutover after {ATTEMPTS} attempts: {said}\n{self.trial.output}")

    def start(self, *, anew: bool = False) -> subprocess.Popen[str]:
        if anew:
            return self.trial.start("run", "--run-id", "one", "--from", "22")
        if (self.trial.reports / "run.json").exists():
            return self.trial.start("resume", "one")
        return self.trial.start("run", "trial.yaml", "--run-id", "one")

    @staticmethod
    def outlasts(process: subprocess.Popen[str], seconds: float) -> bool:
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            return True
        return False

    def at(self) -> str:
        done = sorted(p.stem for p in (self.trial.reports / "results").glob("*.json"))
        return f"{done[-1]} done" if done else "the start"

    def exact(self, state: dict[str, dict[str, Any]]) -> int:
        """Every chunk of the target is what the application was answered, and no other is there; how many there are."""
        with client_of(self.target.url) as chroma:
            found = held(chroma)
        assert sorted(found) == sorted(state)
        for name, chunks in state.items():
            now = found[name]
            assert sorted(now.documents) == sorted(chunks), set(now.documents) ^ set(chunks)
            assert now.documents == {i: c[0] for i, c in chunks.items()}
            assert now.metadatas == {i: c[1] for i, c in chunks.items()}
            wrong = [i for i, c in chunks.items() if not np.array_equal(now.vectors[i], vector(c[2], self.dimension))]
            assert wrong == []
        return sum(map(len, state.values()))


def fill(server: ChromaServer, chunks: int, dimension: int) -> None:
    """Two collections, and a small one that the application drops."""
    with client_of(server.url) as chroma:
        for name, count in (("alpha", chunks * 2 // 3), ("beta", chunks - chunks * 2 // 3), ("spare", 30)):
            made: chromadb.Collection = chroma.create_collection(name, embedding_function=None)
            for start in range(0, count, 500):
                numbers = range(start, min(start + 500, count))
                made.add(
                    ids=[f"c{n}" for n in numbers],
                    embeddings=np.stack([vector(n, dimension) for n in numbers]),
                    documents=[first(n)[0] for n in numbers],
                    metadatas=[first(n)[1] for n in numbers],
                )


@contextmanager
def bench(folder: Path, chunks: int, dimension: int) -> Iterator[Bench]:
    with ExitStack() as stack:
        source, target = (stack.enter_context(ChromaServer(folder / name)) for name in ("source", "target"))
        made = Bench(folder, source, target, chunks, dimension)
        stack.enter_context(made.service())
        yield made


def ended(application: subprocess.Popen[str]) -> Any:
    """What the application says, the write in hand ended."""
    time.sleep(1.0)  # it goes on at the target
    application.send_signal(signal.SIGTERM)
    said, _ = application.communicate(timeout=60)
    return json.loads(said)


@pytest.mark.parametrize("trial", range(TRIALS))
def test_what_was_acknowledged_is_in_the_target_whatever_was_killed(tmp_path: Path, trial: int) -> None:
    chance = random.Random(SEED + trial)
    with bench(tmp_path, CHUNKS, DIMENSION) as made, made.application(SEED + trial) as application:
        said = made.finish(chance, KILLS)
        told = ended(application)
        count = made.exact(told["state"])
    hits = [line for line in said if "killed" in line]
    print(f"trial {trial}: {'; '.join(said)}; {told['writes']} writes, {count} chunks exact, refused {told['refused']}")
    assert len(hits) == KILLS
    assert told["kinds"]["make"] == told["kinds"]["drop"] == 1


@pytest.mark.parametrize("size", SIZES)
def test_writers_are_out_for_seconds_and_readers_never_fail(tmp_path: Path, size: str) -> None:
    chunks, dimension = map(int, size.split("x"))
    with bench(tmp_path, chunks, dimension) as made, made.application(SEED) as application:
        made.finish(random.Random(SEED), 0)
        told = ended(application)
        count = made.exact(told["state"])
        result = StepResult.read(made.trial.reports / "results" / "25.json")
    outage = max(told["refused"])
    print(
        f"{size}: writers were out for {outage:.1f} s by the application's clock; {told['writes']} writes {told['kinds']}, "
        f"{count} chunks exact; {told['reads']} reads, {told['failed_reads']} failed, the longest {told['longest_read']:.2f} s"
    )
    assert result.verdict in (Verdict.PASS, Verdict.WARNING)
    assert told["failed_reads"] == 0
    assert len(told["refused"]) == 1

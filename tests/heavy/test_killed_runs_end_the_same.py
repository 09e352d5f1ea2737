"""kill -9 at 25 random moments of a migration, each followed by `runbook resume`: the target is always the same one.

The moments are seeded, but where they fall depends on the machine's pace; each trial says what it hit. A kill is one of
the whole process tree (as a machine that loses its power), of the runner alone, or of the kernel alone.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import chromadb
import numpy as np
import pytest
from chromadb.api import ClientAPI

from helpers.rehearsal import write_sample
from tests.heavy.commands import Trial, descendants, kernel_of, kill_all
from tests.servers import ChromaServer, client_of
from tests.storage import exact

SEED = int(os.environ.get("RUNBOOK_KILL_SEED", "20251201"))
CHUNKS, DIMENSION = 1500, 32
PARAMETERS = """\
name: trial
source: {{path: {source}}}
target: {target}
schema: if_ttt
migration: {{id_policy: prefix, batch_size: 20}}
expected: {{dimensions: [{dimension}]}}
"""
# What is killed, and in how many trials; "twice": the whole tree, and the tree of the resume once more.
IN_DIRECTORY = ["tree"] * 8 + ["twice"] * 4 + ["runner"] * 4 + ["kernel"] * 4
ON_SERVER = ["tree", "tree", "twice", "runner", "kernel"]

pytestmark = pytest.mark.slow


class Bench:
    """One run, prepared until step 21, whose step 22 is tried again and again from the same state in the same place."""

    def __init__(self, folder: Path, target: str, clear: Callable[[], None]) -> None:
        self.trial, self.clear = Trial(folder), clear
        self._pristine = folder / "pristine"
        source = write_sample(folder / "source", chunks=CHUNKS, dimension=DIMENSION)
        text = PARAMETERS.format(source=source.name, target=target, dimension=DIMENSION)
        self.trial.write_parameters(text)
        assert self.trial.run("run", "trial.yaml", "--run-id", "one", "--until", "21") == 0, self.trial.output
        for name in ("reports", "workspace"):
            shutil.copytree(folder / name, self._pristine / name)
        self.times: dict[str, float] = {}

    @property
    def checkpoint(self) -> Path:
        return self.trial.workspace / "checkpoint.json"

    def restore(self) -> None:
        """Everything as it was after step 21; an empty target."""
        for name in ("reports", "workspace"):
            shutil.rmtree(self.trial.folder / name)
            shutil.copytree(self._pristine / name, self.trial.folder / name)
        self.clear()

    def migrate(self) -> Any:
        return self.trial.start("run", "--run-id", "one", "--from", "22", "--until", "22")

    def measure(self) -> None:
        """An undisturbed migration: the seconds from its start to the beginning of each phase, and to its end."""
        begun = time.monotonic()
        process = self.migrate()
        while process.poll() is None:
            self.times.setdefault(self.phase(), time.monotonic() - begun)
            time.sleep(0.01)
        self.times["end"] = time.monotonic() - begun
        assert process.returncode == 0, self.trial.output

    def wait_for_import(self, process: Any) -> None:
        while process.poll() is None and self.phase() in ("before", "export", "transform"):
            time.sleep(0.005)

    def phase(self) -> str:
        """Where the migration stands, by its ledger."""
        if not self.checkpoint.is_file():
            return "before"
        return str(json.loads(self.checkpoint.read_text(encoding="utf-8"))["phase"])


def strike(bench: Bench, process: Any, what: str, chance: random.Random) -> str | None:
    """Kill at a random moment; the phase that was hit, or None where the command had ended by itself before.

    Half of the kills may fall anywhere from start to end; the others fall between the first batch and the end.
    """
    if chance.random() < 0.5:
        time.sleep(chance.random() * bench.times["end"])
    else:
        bench.wait_for_import(process)
        time.sleep(chance.random() * (bench.times["end"] - bench.times["import"]))
    kernel = kernel_of(process.pid)
    if process.poll() is not None or (what == "kernel" and kernel is None):
        kill_all([process.pid, *descendants(process.pid)])
        process.wait()
        return None
    if what == "kernel":
        kill_all([kernel or 0])
        assert process.wait(60) in (0, 1), bench.trial.output  # 0: it had just done its work
    elif what == "runner":
        process.kill()
    else:
        kill_all([process.pid, *descendants(process.pid)])
    process.wait()
    return bench.phase()


def kill_and_resume(bench: Bench, what: str, chance: random.Random) -> str:
    """One trial: what was killed, and where it stood. A kill that came too late is tried again."""
    for _ in range(20):
        bench.restore()
        if (hit := strike(bench, bench.migrate(), what, chance)) is None:
            continue
        settings = ["--set", "migration.batch_size=7"] if chance.random() < 0.4 else []
        if what == "twice":
            again = strike_resume(bench, settings, chance)
            hit, settings = f"{hit}+{again}", []
        # A kill before `--until 22` was noted, or after the last word of step 22, leaves nothing to resume there: the run
        # goes on to the decision and waits for signatures.
        codes = (0, 4) if hit.endswith(("before", "complete", "over")) else (0,)
        assert bench.trial.run("resume", "one", *settings) in codes, f"{what} in {hit}: {bench.trial.output}"
        return f"{what} in {hit}{' batch 7' if settings else ''}"
    raise AssertionError("twenty kills came too late: the migration is too short for this machine")


def strike_resume(bench: Bench, settings: list[str], chance: random.Random) -> str:
    """Kill a resume too, the whole tree, once its kernel runs; it may be over before, which is said."""
    process = bench.trial.start("resume", "one", *settings)
    deadline = time.monotonic() + 60
    while kernel_of(process.pid) is None and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(chance.random() * bench.times["end"])
    over = process.poll() is not None
    kill_all([process.pid, *descendants(process.pid)])
    process.wait()
    return "over" if over else bench.phase()


def everything(client: ClientAPI) -> dict[str, Any]:
    """All that a target holds, markers and probes included, in a form in which 1 and 1.0 differ."""
    found: dict[str, Any] = {}
    for collection in client.list_collections():
        held = collection.get(include=["documents", "metadatas", "embeddings"])
        vectors = np.asarray(held["embeddings"], dtype=np.float32)
        order = sorted(range(len(held["ids"])), key=held["ids"].__getitem__)
        documents, metadatas = held["documents"] or [], held["metadatas"] or []
        found[collection.name] = {
            "metadata": exact(dict(collection.metadata or {})),
            "configuration": collection.configuration_json,
            "chunks": {
                held["ids"][i]: (documents[i], exact(dict(metadatas[i] or {})), vectors[i].tobytes()) for i in order
            },
            "lost to search": sorted(set(held["ids"]) - reachable(collection, vectors)),
        }
    return found


def reachable(collection: chromadb.Collection, vectors: Any) -> set[str]:
    """Ids that the index gives when asked for all: a damaged graph holds chunks that `get` shows and no query finds."""
    if not len(vectors):
        return set()
    return set(collection.query(query_embeddings=[vectors[0]], n_results=len(vectors), include=[])["ids"][0])


def assert_same_target(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert sorted(found) == sorted(wanted)
    for name, collection in wanted.items():
        for what in ("metadata", "configuration"):
            assert found[name][what] == collection[what], f"{name}: {what}"
        # An index is built by chance, and an undisturbed one may lose a chunk, too.
        assert set(found[name]["lost to search"]) <= set(collection["lost to search"]), name
        chunks = collection["chunks"]
        differ = [
            i for i in chunks.keys() | found[name]["chunks"].keys() if chunks.get(i) != found[name]["chunks"].get(i)
        ]
        assert differ == [], name


def read_directory(bench: Bench, copies: Iterator[int]) -> dict[str, Any]:
    """Read from a copy in a place of its own: a client remembers what it saw under a path."""
    copy = bench.trial.folder / f"copy-{next(copies)}"
    shutil.copytree(bench.trial.folder / "target", copy)
    client = chromadb.PersistentClient(copy)
    try:
        return everything(client)
    finally:
        client.close()  # type: ignore[attr-defined]
        shutil.rmtree(copy)


@pytest.mark.parametrize("half", [0, 1])
def test_a_directory_as_target(tmp_path: Path, half: int) -> None:
    bench = Bench(tmp_path, "{path: target}", lambda: shutil.rmtree(tmp_path / "target", ignore_errors=True))
    copies = iter(range(10_000))
    bench.measure()
    wanted = read_directory(bench, copies)
    assert sum(len(c["chunks"]) for c in wanted.values()) > 0.95 * CHUNKS
    hits: list[str] = []
    for number in range(half, len(IN_DIRECTORY), 2):
        hits.append(kill_and_resume(bench, IN_DIRECTORY[number], random.Random(f"{SEED}-{number}")))
        print(f"trial {number}: {hits[-1]}", flush=True)
        assert_same_target(read_directory(bench, copies), wanted)
    assert any("import" in hit for hit in hits), f"no kill fell on the import: {hits}"


def test_a_server_as_target(tmp_path: Path) -> None:
    server = ChromaServer(tmp_path / "server")

    def clear() -> None:
        server.stop()
        shutil.rmtree(server.path, ignore_errors=True)
        server.start()

    def read() -> dict[str, Any]:
        with client_of(server.url) as client:
            return everything(client)

    with server:
        bench = Bench(tmp_path / "run", f"{{url: '{server.url}'}}", clear)
        bench.measure()
        wanted = read()
        for number, what in enumerate(ON_SERVER):
            hit = kill_and_resume(bench, what, random.Random(f"{SEED}-server-{number}"))
            print(f"server trial {number}: {hit}", flush=True)
            assert_same_target(read(), wanted)

"""A client that keeps writing to a server, as an application does that nobody stopped: `python -m tests.source_writer`.

Arguments: URL, seed, writes a second, collections. It adds, updates (text, metadata, vector), takes metadata keys away,
deletes, and deletes and adds again. It prints `begun` first, and after SIGTERM, the write in hand ended, how many there
were of each kind, as JSON.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import chromadb
import numpy as np
from dotenv import dotenv_values

from tests.conftest import ROOT
from tests.fences import client
from tests.servers import client_of


@contextmanager
def at_work(module: str, *arguments: object, stderr: int | None = None) -> Iterator[subprocess.Popen[str]]:
    """A client in a process of its own, `python -m MODULE ARGUMENTS`, once it has said that it has begun; killed at the end."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=stderr, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "begun\n"
            yield process
        finally:
            process.kill()


def write_on(url: str, seed: int, rate: float, names: list[str]) -> Counter[str]:
    """Until SIGTERM; the writes by kind."""
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
    chance, done = random.Random(seed), Counter[str]()
    numbers = np.random.default_rng(seed)
    with client_of(url) as client:
        collections = {n: client.get_collection(n, embedding_function=None) for n in names}
        ids = {n: sorted(c.get(include=[])["ids"]) for n, c in collections.items()}
        wide = {
            n: len(np.asarray(c.get(limit=1, include=["embeddings"])["embeddings"])[0]) for n, c in collections.items()
        }
        print("begun", flush=True)
        due = time.monotonic()
        while not asked:
            name = chance.choice(names)
            kind = chance.choice(["add", "text", "vector", "key", "delete", "again"])
            done[kind] += 1
            chunk = f"w{seed}-{done.total()}" if kind == "add" else chance.choice(ids[name])
            write(collections[name], kind, chunk, done.total(), numbers.standard_normal(wide[name]).astype(np.float32))
            if kind == "add":
                ids[name].append(chunk)
            elif kind == "delete":
                ids[name].remove(chunk)
            due += 1 / rate
            time.sleep(max(0.0, due - time.monotonic()))
    return done


def write(collection: Any, kind: str, chunk: str, number: int, vector: Any) -> None:
    text, metadata = f"write {number}", {"note": f"n{number}", "revision": number, "share": number / 7}
    if kind == "text":
        collection.update(ids=[chunk], embeddings=[vector], documents=[text], metadatas=[{"revision": number}])
    elif kind == "vector":
        collection.update(ids=[chunk], embeddings=[vector])
    elif kind == "key":
        collection.update(ids=[chunk], metadatas=[{"note": None}])
    else:
        if kind != "add":
            collection.delete(ids=[chunk])
        if kind != "delete":
            collection.add(ids=[chunk], embeddings=[vector], documents=[text], metadatas=[metadata])


class Application(threading.Thread):
    """An application that writes 20 times a second to whatever its `.env` names, and waits while it is refused."""

    def __init__(self, env: Path, collection: str, dimension: int) -> None:
        super().__init__(daemon=True)
        self.env, self.asked = env, threading.Event()
        self.collection, self.dimension = collection, dimension
        self.kept: dict[str, str] = {}  # id → text, as the last write that was answered left it
        self.gone: set[str] = set()
        self.refused: list[tuple[float, float]] = []  # first refused write, next write that was answered
        self.failed_reads = 0
        self.moved_to = ""

    def run(self) -> None:
        number, since = 0, 0.0
        chance = np.random.default_rng(5)
        while not self.asked.is_set():
            url = str(dotenv_values(self.env)["CHROMADB_URL"])
            chunk = f"w{int(chance.integers(60))}"
            try:
                with client(url) as chroma:
                    collection = chroma.get_collection(self.collection, embedding_function=None)
                    collection.get(limit=1)
                    number += 1
                    if chunk in self.kept and number % 3 == 0:
                        collection.delete(ids=[chunk])
                        del self.kept[chunk]
                        self.gone.add(chunk)
                    else:
                        collection.upsert(
                            ids=[chunk], documents=[f"write {number}"],
                            embeddings=chance.standard_normal((1, self.dimension)).astype(np.float32),
                        )  # fmt: skip
                        self.kept[chunk] = f"write {number}"
                        self.gone.discard(chunk)
                if since:
                    self.refused.append((since, time.monotonic()))
                    since = 0.0
                self.moved_to = url
            except chromadb.errors.AuthorizationError:
                since = since or time.monotonic()
            time.sleep(0.05)


if __name__ == "__main__":
    url_, seed_, rate_, *names_ = sys.argv[1:]
    print(json.dumps(write_on(url_, int(seed_), float(rate_), names_)))

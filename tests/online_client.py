"""An application during a migration in which writers are stopped last: `python -m tests.online_client ENV SEED RATE DIMENSION`.

It reads and writes where CHROMADB_URL of its `.env` leads, all the time: adds, updates (text, metadata, vector), deletes by id
and by filter, makes a collection and drops one. A write that gets no answer, or a refusal, is sent again until it is taken, as
a queue of an application does; each one has the same outcome however often it is sent. It prints `begun`, and after SIGTERM, as
JSON, what each collection must hold now and for how long it was refused.
"""

from __future__ import annotations

import json
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import chromadb
import httpx
import numpy as np
from dotenv import dotenv_values

from tests.fences import client

Chunk = tuple[str, dict[str, Any], int]  # document, metadata, seed of the vector
UNANSWERED = (chromadb.errors.ChromaError, httpx.HTTPError, OSError, ValueError, KeyError)


def vector(seed: int, dimension: int) -> Any:
    """float32 (dimension,), the same for the same seed."""
    return np.random.default_rng(seed).standard_normal(dimension).astype(np.float32)


def first(number: int) -> Chunk:
    """What chunk `c<number>` of a source holds before anybody writes."""
    return f"text {number}", {"batch": number // 50, "revision": 0, "note": f"first {number}"}, number


class OnlineClient:
    """State is what was answered. `refused`: seconds from a first refused write to the next one that was taken."""

    def __init__(self, env: Path, seed: int, rate: float, dimension: int) -> None:
        self.env, self.rate, self.dimension = env, rate, dimension
        self.chance = random.Random(seed)
        self.asked = threading.Event()
        self.refused: list[float] = []
        self.reads, self.failed_reads, self.longest_read = 0, 0, 0.0
        self.kinds: Counter[str] = Counter()
        self.state: dict[str, dict[str, Chunk]] = {}
        self.number = 0
        self._open = ExitStack()
        self._url = ""
        self._chroma: Any = None

    # -- where it is --------------------------------------------------------------------------------------------------

    def chroma(self) -> Any:
        url = str(dotenv_values(self.env)["CHROMADB_URL"])
        if url != self._url or self._chroma is None:
            self._open.close()
            self._chroma, self._url = self._open.enter_context(client(url)), url
        return self._chroma

    def collection(self, name: str) -> Any:
        return self.chroma().get_collection(name, embedding_function=None)

    def sent(self, write: Callable[[], None]) -> None:
        """Until it is taken."""
        since = 0.0
        while True:
            try:
                write()
            except chromadb.errors.AuthorizationError:
                since = since or time.monotonic()
                self._chroma = None  # the `.env` may lead elsewhere by now
            except UNANSWERED:
                self._chroma = None
            else:
                break
            time.sleep(0.02)
        if since:
            self.refused.append(time.monotonic() - since)

    # -- what it writes -----------------------------------------------------------------------------------------------

    def write(self) -> None:
        self.number += 1
        if self.number == 40:
            return self.make("made")
        if self.number == 60 and "spare" in self.state:
            return self.drop("spare")
        name = self.chance.choice(sorted(self.state))
        held = self.state[name]
        kind = self.chance.choice(["add", "add", "text", "metadata", "vector", "delete", "filter"])
        if kind != "add" and len(held) < 20:
            kind = "add"
        if kind == "filter" and self.number % 10:  # it deletes up to 50 chunks
            kind = "text"
        self.kinds[kind] += 1
        if kind == "filter":
            return self.clear(name)
        chunk = f"w{self.number}" if kind == "add" else self.chance.choice(sorted(held))
        seed = 10_000_000 + self.number
        if kind == "delete":
            self.sent(lambda: self.collection(name).delete(ids=[chunk]))
            del held[chunk]
            return None
        document, metadata, old = held.get(chunk, ("", {}, 0))
        now = dict(metadata) | ({"revision": self.number} if kind in {"add", "metadata"} else {})
        if kind == "add":
            now["batch"] = 1_000_000 + self.number // 100
        if kind in {"add", "text"}:
            document = f"write {self.number}"
        made: Chunk = (document, now, old if kind == "metadata" else seed)
        self.sent(lambda: self.put(name, chunk, made))
        held[chunk] = made
        return None

    def put(self, name: str, chunk: str, content: Chunk) -> None:
        document, metadata, seed = content
        rows = {"ids": [chunk], "documents": [document], "metadatas": [metadata]}
        self.collection(name).upsert(**rows, embeddings=vector(seed, self.dimension)[None])

    def clear(self, name: str) -> None:
        batch = self.chance.choice(sorted({c[1]["batch"] for c in self.state[name].values()}))
        self.sent(lambda: self.collection(name).delete(where={"batch": batch}))
        self.state[name] = {i: c for i, c in self.state[name].items() if c[1]["batch"] != batch}

    def make(self, name: str) -> None:
        self.kinds["make"] += 1
        self.sent(lambda: self.chroma().get_or_create_collection(name, embedding_function=None))
        self.state[name] = {}

    def drop(self, name: str) -> None:
        def gone() -> None:
            if name in {c.name for c in self.chroma().list_collections()}:
                self.chroma().delete_collection(name)

        self.kinds["drop"] += 1
        self.sent(gone)
        del self.state[name]

    # -- all the time -------------------------------------------------------------------------------------------------

    def read(self) -> None:
        """One reader, ten times a second, with a connection of its own."""
        while not self.asked.is_set():
            began = time.monotonic()
            try:
                with client(str(dotenv_values(self.env)["CHROMADB_URL"])) as chroma:
                    chroma.get_collection("alpha", embedding_function=None).get(limit=1)
                self.reads += 1
            except UNANSWERED:
                self.failed_reads += 1
            self.longest_read = max(self.longest_read, time.monotonic() - began)
            time.sleep(0.1)

    def run(self) -> None:
        names = [c.name for c in self.chroma().list_collections()]
        for name in names:
            ids = self.collection(name).get(include=[])["ids"]
            self.state[name] = {i: first(int(i[1:])) for i in ids}
        reader = threading.Thread(target=self.read, daemon=True)
        reader.start()
        print("begun", flush=True)
        due = time.monotonic()
        while not self.asked.is_set():
            self.write()
            due = max(due + 1 / self.rate, time.monotonic() - 1)  # what was refused is not made up for
            time.sleep(max(0.0, due - time.monotonic()))
        reader.join(20)
        self._open.close()


def main(env: str, seed: str, rate: str, dimension: str) -> None:
    made = OnlineClient(Path(env), int(seed), float(rate), int(dimension))
    signal.signal(signal.SIGTERM, lambda number, frame: made.asked.set())
    made.run()
    said = {
        "state": made.state, "refused": made.refused, "writes": made.number, "kinds": made.kinds,
        "reads": made.reads, "failed_reads": made.failed_reads, "longest_read": made.longest_read,
    }  # fmt: skip
    print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

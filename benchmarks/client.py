"""An application that writes 20 times and reads 10 times a second while it is migrated, and measures that itself.

`python -m benchmarks.client ENV COLLECTION DIMENSION RECORD`: it follows CHROMADB_URL of the file ENV. It adds, updates
and deletes by id and by filter, makes a collection and drops one. It prints `begun` at its first accepted write; after
SIGTERM it writes RECORD, JSON: see `Client.record`.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from chromadb.api import ClientAPI
from chromadb.errors import AuthorizationError
from dotenv import dotenv_values

from tests.servers import client_of

KEY = "CHROMADB_URL"
WRITES, READS = 20.0, 10.0  # a second
OF_THE_SOURCE = 200  # chunks of it that are written to
DROPPED, MADE = 40, 60  # the number of the write that does it


class Client:
    """What it did, and its two loops."""

    def __init__(self, env: Path, collection: str, dimension: int) -> None:
        self.env, self.collection, self.dimension = env, collection, dimension
        self.kept: dict[str, str] = {}  # id → text, as the last write that was accepted left it
        self.marks: dict[str, int] = {}  # id → the number of the write that its metadata names
        self.gone: set[str] = set()
        self.unknown: set[str] = set()  # ids of writes that failed: nobody knows whether the server took them
        self.collections: dict[str, bool] = {}  # by name, whether it must be there
        self.out: list[list[float]] = []  # first write that was not accepted, next that was: seconds of one clock
        self.writes, self.errors = Counter[str](), Counter[str]()
        self.reads, self.failed_reads = Counter[str](), Counter[str]()
        self.longest_pause = self.pause_before = 0.0  # the second: while it had not moved
        self.made_client = (
            0.0  # seconds that Chroma's client takes to be made for the new address, in the thread that reads
        )
        self.moved_to = ""
        self._chance = np.random.default_rng(5)
        self._local = threading.local()
        self._stack = ExitStack()

    def record(self) -> dict[str, Any]:
        return {
            "out": self.out, "writes": self.writes, "errors": self.errors, "reads": self.reads,
            "failed_reads": self.failed_reads, "longest_pause": self.longest_pause, "pause_before": self.pause_before,
            "made_client": self.made_client, "moved_to": self.moved_to,
            "kept": self.kept, "gone": sorted(self.gone), "unknown": sorted(self.unknown), "collections": self.collections,
        }  # fmt: skip

    def work(self, stopped: threading.Event) -> None:
        """Until `stopped`; the write in hand is ended."""
        first = self._client().get_collection(self.collection, embedding_function=None).get(limit=OF_THE_SOURCE)
        self.kept = dict(zip(first["ids"], first["documents"] or [], strict=True))
        old = self._client().create_collection("bench-dropped", embedding_function=None)
        old.add(["a"], np.ones((1, 4), np.float32), documents=["to be dropped"])
        loops = [threading.Thread(target=loop, args=(stopped,)) for loop in (self._write, self._read)]
        for loop in loops:
            loop.start()
        for loop in loops:
            loop.join()
        self._stack.close()

    def _write(self, stopped: threading.Event) -> None:
        number, since, due = 0, 0.0, time.monotonic()
        while not stopped.is_set():
            number += 1
            url, begun = self._url(), time.monotonic()
            try:
                self._once(number)
                self.writes[url] += 1
                if since:
                    self.out.append([since, time.monotonic()])
                    since = 0.0
                self.moved_to = url
                if number == 1:
                    print("begun", flush=True)
            except AuthorizationError:
                self.writes["refused"] += 1
                since = since or begun
            except Exception as error:
                self.errors[f"{type(error).__name__}: {str(error)[:80]}"] += 1
                since = since or begun
            due = max(due + 1 / WRITES, time.monotonic() - 1)
            stopped.wait(max(0.0, due - time.monotonic()))
        if since:
            self.out.append([since, time.monotonic()])

    def _once(self, number: int) -> None:
        """One write; what it did is noted once the server has accepted it."""
        client = self._client()
        if number == DROPPED:
            client.delete_collection("bench-dropped")
            self.collections["bench-dropped"] = False
        elif number == MADE:
            made = client.get_or_create_collection("bench-made", embedding_function=None)
            made.upsert(["a"], np.ones((1, 4), np.float32), documents=["made"])
            self.collections["bench-made"] = True
        else:
            self._chunk(client.get_collection(self.collection, embedding_function=None), number)

    def _chunk(self, collection: Any, number: int) -> None:
        kind = number % 10
        chunk, text = f"w{number}" if kind < 4 else sorted(self.kept)[number * 7 % len(self.kept)], f"write {number}"
        try:
            if kind < 7:
                vector = self._chance.standard_normal((1, self.dimension)).astype(np.float32)
                collection.upsert([chunk], vector, [{"bench": number}], [text])
            elif kind == 7:
                collection.update([chunk], metadatas=[{"bench": number}])
            elif kind == 8:
                collection.delete([chunk])
            else:
                chunk = f"w{number - 8}"
                collection.delete(where={"bench": number - 8})
        except AuthorizationError:
            raise
        except Exception:
            self._forget(chunk)
            self.unknown.add(chunk)
            raise
        if kind < 7:
            self.kept[chunk] = text
            self.gone.discard(chunk)
            self.unknown.discard(chunk)
        if kind <= 7:
            self.marks[chunk] = number
        elif kind == 8 or self.marks.get(chunk) == number - 8:
            self._forget(chunk)
            self.gone.add(chunk)

    def _forget(self, chunk: str) -> None:
        self.kept.pop(chunk, None)
        self.marks.pop(chunk, None)
        self.gone.discard(chunk)

    def _read(self, stopped: threading.Event) -> None:
        last = time.monotonic()
        while not stopped.wait(1 / READS):
            url, begun = self._url(), time.monotonic()
            try:
                client = self._client()
                self.made_client = max(self.made_client, time.monotonic() - begun) if self.reads else 0.0
                found = client.get_collection(self.collection, embedding_function=None).get(limit=1)
                assert found["ids"], "nothing was read"
            except Exception as error:
                self.failed_reads[f"{type(error).__name__}: {str(error)[:80]}"] += 1
                continue
            self.reads[url] += 1
            now = time.monotonic()
            self.longest_pause, last = max(self.longest_pause, pause := now - last), now
            if len(self.reads) == 1:
                self.pause_before = max(self.pause_before, pause)

    def _url(self) -> str:
        return str(dotenv_values(self.env)[KEY])

    def _client(self) -> ClientAPI:
        """Of this thread, of the URL of now."""
        known: dict[str, ClientAPI] = self._local.__dict__
        url = self._url()
        if url not in known:
            known[url] = self._stack.enter_context(client_of(url))
        return known[url]


def main(env: str, collection: str, dimension: str, record: str) -> None:
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    client = Client(Path(env), collection, int(dimension))
    client.work(stopped)
    Path(record).write_text(json.dumps(client.record()), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])

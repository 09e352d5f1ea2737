"""An application at work on a Chroma server, for rehearsals: it writes through one URL and reads through the URL in a .env.

`python -m helpers.rehearsal.sample_client URL ENV COLLECTION RECORD` works until its parent ends or it is asked to stop.
RECORD is JSON, rewritten twice a second: `accepted` and `refused` writes (times, UTC), `errors` of writes and `reads`, by kind.
Writes change metadata and add chunks; nothing is deleted, and no vector of another chunk is touched.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from dotenv import dotenv_values

from helpers.parameters.endpoint import DEFAULT_DATABASE, DEFAULT_TENANT
from helpers.results import utc_now, write_json
from helpers.stores.door import AuthorizationError, ClientAPI, server_client
from helpers.stores.wire import Session

KEY = "CHROMADB_URL"
WRITE_SECONDS, READ_SECONDS = 0.05, 0.1  # pauses: at most 20 writes and 10 reads a second
_ADD_EVERY = 20


class Client:
    """What it did so far, and the two loops that do it."""

    def __init__(self, url: str, env: Path, collection: str, record: Path) -> None:
        self.url, self.env, self.collection, self.record = url, env, collection, record
        self.accepted: list[str] = []
        self.refused: list[str] = []
        self.errors: Counter[str] = Counter()
        self.reads: Counter[str] = Counter()
        self.failed_reads: Counter[str] = Counter()
        self.longest_gap = 0.0
        self._clients: dict[str, ClientAPI] = {}
        self._stack = ExitStack()
        self._session = self._stack.enter_context(Session(timeout=30.0))

    def work(self, stopped: threading.Event) -> None:
        """Until `stopped`."""
        loops = [threading.Thread(target=loop, args=(stopped,)) for loop in (self._write, self._read)]
        for loop in loops:
            loop.start()
        while not stopped.wait(0.5):
            self.save()
        for loop in loops:
            loop.join()
        self._stack.close()
        self.save()

    def save(self) -> None:
        write_json(
            self.record,
            {
                "accepted": self.accepted, "refused": self.refused, "errors": dict(self.errors), "reads": dict(self.reads),
                "failed_reads": dict(self.failed_reads), "longest_gap_seconds": round(self.longest_gap, 3),
            },
        )  # fmt: skip

    def _write(self, stopped: threading.Event) -> None:
        collection = self._client(self.url).get_collection(self.collection, embedding_function=None)
        page: Any = collection.get(limit=200, include=["embeddings"])
        ids, dimension = list(page["ids"]), int(np.asarray(page["embeddings"]).shape[1])
        vectors = np.random.default_rng(1)
        number = 0
        while not stopped.wait(WRITE_SECONDS):
            number += 1
            if number % _ADD_EVERY:
                chunk = ids[number % len(ids)]
                change = _bound(collection.update, ids=[chunk], metadatas=[{"touched": number}])
            else:
                vector = vectors.standard_normal((1, dimension), dtype=np.float32)
                name = f"client-{number}"
                change = _bound(collection.add, ids=[name], embeddings=vector, documents=[f"Written while {name} worked."],
                                metadatas=[{"source": "the client of a rehearsal", "touched": number}])  # fmt: skip
            begun = utc_now()
            try:
                change()
                self.accepted.append(begun)
            except AuthorizationError:
                self.refused.append(begun)
            except Exception as error:
                self.errors[f"{type(error).__name__}: {str(error)[:80]}"] += 1

    def _read(self, stopped: threading.Event) -> None:
        last = time.monotonic()
        while not stopped.wait(READ_SECONDS):
            url = str(dotenv_values(self.env).get(KEY))
            try:
                client = self._client(url)
                first = min(client.list_collections(), key=lambda c: c.name)
                found = client.get_collection(first.name, embedding_function=None).get(limit=1, include=["documents"])
                assert found["ids"]
            except Exception as error:
                self.failed_reads[f"{url} {type(error).__name__}: {str(error)[:80]}"] += 1
                continue
            self.reads[url] += 1
            now = time.monotonic()
            self.longest_gap, last = max(self.longest_gap, now - last), now

    def _client(self, url: str) -> ClientAPI:
        if url not in self._clients:
            self._clients[url] = self._stack.enter_context(
                server_client(url, self._session, DEFAULT_TENANT, DEFAULT_DATABASE)
            )
        return self._clients[url]


def _bound(call: Callable[..., object], **arguments: Any) -> Callable[[], object]:
    return lambda: call(**arguments)


def main(url: str, env: str, collection: str, record: str) -> None:
    stopped, parent = threading.Event(), os.getppid()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())

    def watch() -> None:
        while os.getppid() == parent and not stopped.wait(0.5):
            pass
        stopped.set()

    threading.Thread(target=watch, daemon=True).start()
    Client(url, Path(env), collection, Path(record)).work(stopped)


if __name__ == "__main__":
    main(*sys.argv[1:])

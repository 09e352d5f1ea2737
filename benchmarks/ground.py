"""What the measures stand on: the chunks of one size in memory, a source that holds them, its snapshot, and empty targets."""

from __future__ import annotations

import datetime as dt
import itertools
import shutil
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from chromadb.api import ClientAPI

from helpers.chunks import ChunkBatch
from helpers.migration.checkpoint import Checkpoint
from helpers.migration.importing import Importer, plan_targets
from helpers.migration.staging import Quarantine, Staged, stage
from helpers.parameters.endpoint import Endpoint
from helpers.parameters.sections import Migration
from helpers.rehearsal import sample_batches
from helpers.schema import Context, load_schema
from helpers.snapshots.snapshot import Snapshot, write_snapshot
from helpers.stores import Store, open_source
from tests.servers import ChromaServer, client_of

WRITERS, BATCH = 4, 500  # of the floor, and of the toolkit as it comes
_PLAIN: Any = {"hnsw": {"space": "l2"}}


class Ground:
    """A source of about `chunks` × `dimension`: the rehearsal's sample without the chunks that have no document.

    (The naive script, beside which everything is measured, cannot write those.) `batches` are its chunks in memory.
    """

    def __init__(self, folder: Path, chunks: int, dimension: int) -> None:
        self.folder, self.dimension = folder, dimension
        self._numbers = itertools.count()
        self.batches: dict[str, list[ChunkBatch]] = defaultdict(list)
        for name, batch in sample_batches(chunks, dimension):
            self.batches[name].append(batch.take([i for i, text in enumerate(batch.documents) if text is not None]))
        self.counts = {name: sum(map(len, some)) for name, some in self.batches.items()}
        self.largest = max(self.counts, key=lambda name: self.counts[name])
        self.server = ChromaServer(folder / "source").start()
        try:
            fill(self.server.url, self.batches)
            self.server.stop()  # so that the directory is whole, and can be copied
            shutil.copytree(folder / "source", folder / "kept")
            self.server.start()
            self.snapshot = self.take_snapshot(self.new_folder(), readers=2)
        except BaseException:
            self.server.stop()
            raise

    @property
    def chunks(self) -> int:
        return sum(self.counts.values())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.server.stop()

    def new_folder(self) -> Path:
        folder = self.folder / str(next(self._numbers))
        folder.mkdir()
        return folder

    def take_snapshot(self, folder: Path, *, readers: int) -> Snapshot:
        with open_source(Endpoint(url=self.server.url), folder) as source:
            return write_snapshot(source, folder, "snapshot", source.names(), retention_days=7, readers=readers)

    def stage(self, folder: Path, schema: str = "identity") -> Staged:
        context = Context(
            frozenset(self.snapshot.names()), dt.date(2025, 12, 1), "prefix" if schema == "if_ttt" else "fail"
        )
        return stage(self.snapshot, load_schema(schema), context, folder / "staged", Quarantine(folder / "quarantine"))

    def write(self, store: Store, staged: Staged, folder: Path, *, batch_size: int, workers: int) -> None:
        """What phase 4 does, its checkpoint included."""
        checkpoint = Checkpoint.open(folder / "checkpoint.json", {})
        checkpoint.stage(staged.total, 0, {name: staged.rows(name) for name in staged.files})
        work = Importer(store, staged, checkpoint, Quarantine(folder / "quarantine"), "bench", batch_size, workers)
        work.prepare(plan_targets(self.snapshot.collections(), staged, Migration(), load_schema("identity")))
        work.write()
        store.release_lock("bench")

    @contextmanager
    def target(self) -> Iterator[tuple[str, Path]]:
        """An empty server and a folder; both are gone afterwards, so that each measurement begins on the same ground."""
        folder = self.new_folder()
        with ChromaServer(folder / "target") as server:
            yield server.url, folder
        shutil.rmtree(folder)

    @contextmanager
    def own_source(self, folder: Path) -> Iterator[ChromaServer]:
        """A source that clients may write to: a server over a copy of the directory as it was filled."""
        shutil.copytree(self.folder / "kept", folder / "own-source")
        with ChromaServer(folder / "own-source") as server:
            yield server


def fill(url: str, batches: dict[str, list[ChunkBatch]]) -> float:
    """The floor: bare `add` of what is in memory, a collection to each writer, 500 chunks at a time; its seconds."""
    with client_of(url) as client:
        made = {name: client.create_collection(name, embedding_function=None, configuration=_PLAIN) for name in batches}
        names = sorted(batches, key=lambda name: -sum(map(len, batches[name])))
        begun = time.perf_counter()
        with ThreadPoolExecutor(WRITERS) as pool:
            list(pool.map(lambda name: _add(made[name], batches[name]), names))
        return time.perf_counter() - begun


def _add(collection: Any, batches: list[ChunkBatch]) -> None:
    for some in batches:
        if some.ids:
            uris = some.uris if any(some.uris) else None
            collection.add(some.ids, some.embeddings, some.metadatas, some.documents, uris=uris)


def naive(source: ClientAPI, target: ClientAPI) -> float:
    """The script that everybody writes first: get(limit, offset), then upsert, serial, 100 at a time; its seconds."""
    begun = time.perf_counter()
    for old in source.list_collections():
        new = target.create_collection(old.name, embedding_function=None)
        for offset in range(0, old.count(), 100):
            some = old.get(limit=100, offset=offset, include=["documents", "metadatas", "embeddings"])
            new.upsert(some["ids"], some["embeddings"], some["metadatas"], some["documents"])
    return time.perf_counter() - begun

"""What the measurements stand on: a source server with the sample, its snapshot and staging, and empty targets."""

from __future__ import annotations

import datetime as dt
import itertools
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from helpers.migration.checkpoint import Checkpoint
from helpers.migration.importing import Importer, plan_targets
from helpers.migration.staging import Quarantine, Staged, stage
from helpers.parameters.endpoint import Endpoint
from helpers.rehearsal import sample_batches
from helpers.schema import Context, load_schema
from helpers.snapshots.snapshot import Snapshot, write_snapshot
from helpers.stores import CollectionInfo, Store, open_source, open_target
from tests.servers import ChromaServer


class Ground:
    """A source of `chunks` × `dimension` on a server, without the chunks that have no document.

    (The naive script, against which a whole migration is measured, cannot write those.)
    """

    def __init__(self, folder: Path, chunks: int, dimension: int) -> None:
        self.folder = folder
        self._numbers = itertools.count()
        self.server = ChromaServer(folder / "source").start()
        try:
            with open_target(Endpoint(url=self.server.url)) as store:
                for name, batch in sample_batches(chunks, dimension):
                    whole = batch.take([i for i, text in enumerate(batch.documents) if text is not None])
                    if name not in store.names():
                        plain = {"hnsw": {"space": "l2"}, "spann": None, "embedding_function": None}
                        store.create(CollectionInfo(name, 0, None, "l2", "l2", configuration=plain))
                    store.add(name, whole)
            self.snapshot = self.take_snapshot(self.new_folder(), readers=2)
            self.staged = self.stage(self.snapshot, self.new_folder())
        except BaseException:
            self.server.stop()
            raise

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

    def stage(self, snapshot: Snapshot, folder: Path, schema: str = "identity") -> Staged:
        context = Context(frozenset(snapshot.names()), dt.date(2025, 12, 1), "prefix" if schema == "if_ttt" else "fail")
        return stage(snapshot, load_schema(schema), context, folder / "staged", Quarantine(folder / "quarantine"))

    def write(self, store: Store, staged: Staged, folder: Path, *, batch_size: int = 500, workers: int = 4) -> None:
        """What phase 4 does, its checkpoint included."""
        checkpoint = Checkpoint.open(folder / "checkpoint.json", {})
        checkpoint.stage(staged.total, 0, {name: staged.rows(name) for name in staged.files})
        work = Importer(store, staged, checkpoint, Quarantine(folder / "quarantine"), "bench", batch_size, workers)
        work.prepare(plan_targets(self.snapshot.collections(), staged, identity=True))
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
def clock(taken: list[float]) -> Iterator[None]:
    begun = time.perf_counter()
    yield
    taken.append(time.perf_counter() - begun)

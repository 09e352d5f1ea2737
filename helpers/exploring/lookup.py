"""The source, opened at the first question and kept open while the desk is in use; nothing here writes."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterable, Sequence

import pandas as pd

from helpers.chunks import ChunkBatch
from helpers.exploring.places import Place
from helpers.run.record import RunRecord
from helpers.run.source import open_chosen
from helpers.stores import Reader

READ = 500  # chunks read at a time
EXCERPT = 300  # characters of a document in a table


class Lookup:
    """Reads chunks by id. An embedded source is copied once, not for every question; `close` removes the copy."""

    def __init__(self, run: RunRecord) -> None:
        self._run = run
        self._stack = contextlib.ExitStack()
        self._reader: Reader | None = None
        weakref.finalize(self, self._stack.close)  # also at the end of the process

    @property
    def reader(self) -> Reader:
        if self._reader is None:
            self._reader = self._stack.enter_context(open_chosen(self._run))
            self._run.leaving.callback(self.close)
        return self._reader

    def close(self) -> None:
        """Let go of the source; the next question opens it again."""
        self._reader = None
        self._stack.close()

    def read(self, collection: str, ids: Sequence[str], *, embeddings: bool = False) -> ChunkBatch:
        """These chunks as they are in the source now; those that it does not hold any more are left out."""
        parts = [
            self.reader.read(collection, ids[start : start + READ], embeddings=embeddings)
            for start in range(0, len(ids), READ)
        ]
        return ChunkBatch.concatenate(parts) if parts else ChunkBatch.empty()

    def chunks(self, places: Iterable[Place], excerpt: int | None = EXCERPT) -> pd.DataFrame:
        """A row for each place, in their order: collection, id, detail, document (its beginning), metadata.

        `excerpt` is how many characters of a document are kept (None: all). What is not there any more has neither.
        """
        listed = list(places)
        held: dict[tuple[str, str], tuple[str | None, object]] = {}
        for name in dict.fromkeys(place.collection for place in listed):
            batch = self.read(name, list(dict.fromkeys(p.id for p in listed if p.collection == name and p.id)))
            for chunk, document, metadata in zip(batch.ids, batch.documents, batch.metadatas, strict=True):
                held[name, chunk] = (document if document is None else document[:excerpt], metadata)
        gone: tuple[str | None, object] = (None, None)
        rows = [
            {"collection": p.collection, "id": p.id, "detail": p.detail, "document": document, "metadata": metadata}
            for p in listed
            for document, metadata in [held.get((p.collection, p.id), gone)]
        ]
        return pd.DataFrame(rows, columns=["collection", "id", "detail", "document", "metadata"], dtype=object)

"""A copied directory of which some collections have their vectors from the files (`rescue`), the rest from the engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from helpers.chunks import ChunkBatch
from helpers.stores.base import Neighbours
from helpers.stores.client import ClientStore
from helpers.stores.door import Collection
from helpers.stores.rescue import Rescued
from helpers.stores.space import Space, distance

_STEP = 8_192  # vectors compared at a time


class RescuedStore(ClientStore):
    """Texts and metadata by the engine; vectors and queries of the collections in `rescued`, by name, from their files.

    Queries there are answered by brute force, exactly. Their space cannot be proven by a probe: it is the declared one.
    """

    rescued: Mapping[str, Rescued] = {}

    def _held(self, collection: Collection) -> Rescued | None:
        return self.rescued.get(collection.name)

    def _read_piece(self, collection: Collection, ids: Sequence[str], dimension: int, embeddings: bool) -> ChunkBatch:
        held = self._held(collection)
        if held is None or not embeddings:
            return super()._read_piece(collection, ids, dimension, embeddings)
        batch = super()._read_piece(collection, ids, 0, False)
        batch.embeddings, batch.lost = held.vectors(batch.ids)
        return batch

    def _proven_spaces(self, name: str) -> list[Space] | None:
        return None if self._held(self._collection(name)) else super()._proven_spaces(name)

    def query(self, name: str, vectors: npt.ArrayLike, k: int) -> Neighbours:
        """As `ClientStore.query`."""
        held = self._held(self._collection(name))
        if held is None:
            return super().query(name, vectors, k)
        usable = [chunk for chunk in self.ids(name) if chunk in held.rows]
        space = self.info(name).space
        return [_nearest(held, usable, vector, k, space) for vector in np.asarray(vectors, np.float32)]

    def text_queries_available(self, name: str) -> str:
        if self._held(self._collection(name)):
            return "its index is damaged and was not opened"
        return super().text_queries_available(name)


def _nearest(
    held: Rescued, ids: Sequence[str], vector: npt.NDArray[np.float32], k: int, space: Space
) -> list[tuple[str, float]]:
    away = np.concatenate([
        np.zeros(0), *(distance(space, held.vectors(ids[start : start + _STEP])[0], vector)
                       for start in range(0, len(ids), _STEP)),
    ])  # fmt: skip
    best = np.argsort(away, kind="stable")[:k]
    return [(ids[i], float(away[i])) for i in best]

"""Which ids of a target no search finds, not even one by their own stored vector."""

from __future__ import annotations

import numpy as np

from helpers.chunks import ChunkBatch
from helpers.stores.client import ClientStore
from helpers.validation.search import noise

NEAR, FAR = 10, 1_000  # results of a probe; of the second one, where the first does not find its own id


def beyond_reach(store: ClientStore, name: str, ids: list[str], size: int = 200) -> list[str]:
    """The ids that a search by their own stored vector does not find among 1,000 results.

    Finding another id at the same distance will do: many chunks may share a vector. On ip a vector need not be its own
    nearest, so there only an index smaller than the query can be judged. Zero vectors have no direction.
    """
    space, count = store.info(name).space, store.count(name)
    lost: list[str] = []
    for start in range(0, len(ids), size):
        batch = store.read(name, ids[start : start + size])
        usable = np.isfinite(batch.embeddings).all(axis=1) & ~batch.lost & batch.embeddings.any(axis=1)
        lost += [batch.ids[i] for i in np.flatnonzero(batch.lost)]
        asked = batch.take(np.flatnonzero(usable))
        for k in (NEAR, FAR):
            if len(asked):
                answers = store.query(name, asked.embeddings, min(k, count))
                missed = [i for i in range(len(asked)) if not _found(asked, i, answers[i], space)]
                asked = asked.take(missed)
        if space != "ip" or count <= min(FAR, store.limits().query_results):
            lost += asked.ids
    return sorted(lost)


def _found(batch: ChunkBatch, row: int, answer: list[tuple[str, float]], space: str) -> bool:
    if any(chunk == batch.ids[row] for chunk, _ in answer):
        return True
    if not answer or space == "ip":
        return False
    scale = float(np.square(batch.embeddings[row].astype(np.float64)).sum())
    return answer[0][1] <= noise("cosine" if space == "cosine" else "l2", 0.0, scale)

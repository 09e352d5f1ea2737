"""The unit that flows through a migration: a batch of chunks, aligned by position."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Metadata = dict[str, Any]  # str, int, float, bool, a homogeneous list of these, or a chromadb SparseVector


def is_sparse(value: object) -> bool:
    """Whether a value is Chroma's SparseVector. Before its client is imported, which takes seconds, there can be none."""
    types = sys.modules.get("chromadb.base_types")
    return types is not None and isinstance(value, types.SparseVector)


@dataclass(slots=True)
class ChunkBatch:
    """n chunks of one collection.

    `embeddings` is (n, d) float32; d is 0 where no vector of the batch could be read. `lost[i]` is True where the store
    lists the id but cannot give its vector (chroma-facts 10, 16); that row of `embeddings` is NaN. A document of None
    is not an empty document, and metadata of None is not `{}`.
    """

    ids: list[str]
    documents: list[str | None]
    embeddings: Vectors
    metadatas: list[Metadata | None]
    uris: list[str | None] = field(default_factory=list)
    lost: Mask = field(default_factory=lambda: np.zeros(0, dtype=bool))

    def __post_init__(self) -> None:
        n = len(self.ids)
        if not self.uris:
            self.uris = [None] * n
        if len(self.lost) == 0 and n:
            self.lost = np.zeros(n, dtype=bool)
        lengths = {
            "documents": len(self.documents),
            "embeddings": len(self.embeddings),
            "metadatas": len(self.metadatas),
            "uris": len(self.uris),
            "lost": len(self.lost),
        }
        wrong = {name: length for name, length in lengths.items() if length != n}
        if wrong:
            raise ValueError(f"a batch of {n} ids with columns of other lengths: {wrong}")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def dimension(self) -> int:
        return int(self.embeddings.shape[1])

    def take(self, positions: Iterable[int] | npt.NDArray[np.intp]) -> ChunkBatch:
        """The chunks at these positions, in this order."""
        index = np.asarray(list(positions), dtype=np.intp)
        return ChunkBatch(
            ids=[self.ids[i] for i in index],
            documents=[self.documents[i] for i in index],
            embeddings=self.embeddings[index],
            metadatas=[self.metadatas[i] for i in index],
            uris=[self.uris[i] for i in index],
            lost=self.lost[index],
        )

    def slice(self, start: int, stop: int) -> ChunkBatch:
        return self.take(range(start, min(stop, len(self))))

    @staticmethod
    def empty(dimension: int = 0) -> ChunkBatch:
        return ChunkBatch([], [], np.zeros((0, dimension), np.float32), [])

    @staticmethod
    def concatenate(batches: Sequence[ChunkBatch]) -> ChunkBatch:
        """One batch of many. A batch without any vector (d = 0) takes the dimension of the others, its rows NaN."""
        full = [b for b in batches if len(b)]
        if not full:
            return batches[0] if batches else ChunkBatch.empty()
        dimension = max(b.dimension for b in full)
        return ChunkBatch(
            ids=[i for b in full for i in b.ids],
            documents=[d for b in full for d in b.documents],
            embeddings=np.concatenate([_widen(b.embeddings, dimension) for b in full]),
            metadatas=[m for b in full for m in b.metadatas],
            uris=[u for b in full for u in b.uris],
            lost=np.concatenate([b.lost for b in full]),
        )

    def nbytes(self) -> int:
        """About what the batch weighs in memory, and on the wire as JSON to within a factor (bytes)."""
        texts = sum(len(d.encode("utf-8", "surrogatepass")) for d in self.documents if d)
        return int(self.embeddings.nbytes) + texts + sum(len(str(m)) for m in self.metadatas if m)


def _widen(vectors: Vectors, dimension: int) -> Vectors:
    if vectors.shape[1] == dimension:
        return vectors
    if vectors.shape[1]:
        raise ValueError(f"vectors of {vectors.shape[1]} and {dimension} dimensions in one batch")
    return np.full((len(vectors), dimension), np.nan, np.float32)


def align(ids: Sequence[str], rows: Mapping[str, int]) -> tuple[list[int], list[str]]:
    """Positions in an answer for the ids asked for, and the ids that it does not hold.

    A Chroma `get(ids=…)` neither keeps the order of ids nor says which are missing (chroma-facts 9).
    """
    found = [rows[i] for i in ids if i in rows]
    return found, [i for i in ids if i not in rows]

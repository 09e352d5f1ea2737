"""What a Chroma database holds, read with the plain client, and compared with numpy: none of our own code."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import chromadb
import numpy as np
import numpy.typing as npt

COSINE_ROUNDING = 5e-7  # what Chroma itself does to a vector of a cosine collection, element by element
FLOAT_ROUNDING = 1e-12  # the same for a float of the metadata


@dataclass(frozen=True)
class Held:
    """A collection: its chunks by id, its own metadata, and the distance that its queries really use."""

    vectors: dict[str, npt.NDArray[np.float32]]
    documents: dict[str, str | None]
    metadatas: dict[str, dict[str, Any] | None]
    space: str


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A client of the directory, which opening it may rewrite."""
    upgrading: Any = chromadb.PersistentClient(path)  # one engine upgrades, the next reads; see stores/engine_page.py
    upgrading.close()
    client: Any = chromadb.PersistentClient(path)
    try:
        yield client
    finally:
        client.close()


def held(client: Any) -> dict[str, Held]:
    """Every collection of the client's database."""
    return {c.name: _held(client.get_collection(c.name, embedding_function=None)) for c in client.list_collections()}


def _held(collection: Any) -> Held:
    ids = collection.get(include=[])["ids"]
    vectors: dict[str, npt.NDArray[np.float32]] = {}
    documents: dict[str, str | None] = {}
    metadatas: dict[str, dict[str, Any] | None] = {}
    for start in range(0, len(ids), 500):
        rows = collection.get(ids=ids[start : start + 500], include=["embeddings", "documents", "metadatas"])
        vectors |= dict(zip(rows["ids"], np.asarray(rows["embeddings"], dtype=np.float32), strict=True))
        documents |= dict(zip(rows["ids"], rows["documents"], strict=True))
        metadatas |= dict(zip(rows["ids"], rows["metadatas"], strict=True))
    assert sorted(vectors) == sorted(ids)
    return Held(vectors, documents, metadatas, _space(collection, vectors))


def _space(collection: Any, vectors: dict[str, npt.NDArray[np.float32]]) -> str:
    """The space that explains the distances which the collection answers; "" where it holds nothing to tell them by."""
    usable = [v.astype(np.float64) * 3.0 for v in vectors.values() if v.any()]
    if not usable:
        return ""
    probe = usable[0]  # three times a stored vector: its length tells cosine from the others
    answer = collection.query(query_embeddings=[probe.tolist()], n_results=min(5, len(vectors)), include=["distances"])
    pairs = [(vectors[i].astype(np.float64), d) for i, d in zip(answer["ids"][0], answer["distances"][0], strict=True)]
    pairs = [(v, d) for v, d in pairs if v.any()]
    distances: dict[str, Callable[[Any], float]] = {
        "l2": lambda v: float(np.square(probe - v).sum()),
        "cosine": lambda v: 1.0 - float(probe @ v) / float(np.linalg.norm(probe) * np.linalg.norm(v)),
        "ip": lambda v: 1.0 - float(probe @ v),
    }
    fits = [s for s, f in distances.items() if all(math.isclose(f(v), d, rel_tol=1e-4, abs_tol=1e-5) for v, d in pairs)]
    assert len(fits) == 1, f"distances of {collection.name} fit {fits}"
    return fits[0]


def assert_same(source: dict[str, Held], target: dict[str, Held]) -> None:
    """Every collection, id, document, metadata value and vector of the source is in the target, and nothing else."""
    assert sorted(target) == sorted(source)
    for name, was in source.items():
        now = target[name]
        assert sorted(now.vectors) == sorted(was.vectors), name
        assert now.documents == was.documents, name
        assert now.space == was.space, name
        for chunk, vector in was.vectors.items():
            assert_same_vector(vector, now.vectors[chunk], was.space, f"{name} {chunk}")
            assert_same_metadata(was.metadatas[chunk], now.metadatas[chunk], f"{name} {chunk}")


def assert_same_vector(was: npt.NDArray[np.float32], now: npt.NDArray[np.float32], space: str, where: str) -> None:
    assert was.shape == now.shape, where
    if space == "cosine":
        assert (np.abs(was.astype(np.float64) - now) <= COSINE_ROUNDING * np.abs(was)).all(), where
    else:
        assert was.tobytes() == now.tobytes(), where


def assert_same_metadata(was: dict[str, Any] | None, now: dict[str, Any] | None, where: str) -> None:
    assert (was is None) == (now is None), where
    if was is None or now is None:
        return
    assert {k: type(v) for k, v in now.items()} == {k: type(v) for k, v in was.items()}, where
    for key, value in was.items():
        if isinstance(value, float):
            assert math.isclose(value, now[key], rel_tol=FLOAT_ROUNDING), f"{where} {key}"
        else:
            assert value == now[key], f"{where} {key}"

"""Run by an old version's own Python: fill three collections, change and delete in them, then write what their engine reads.

    PYTHON churn.py DIRECTORY ANSWERS.json

Indexes are saved while they are filled; a tail stays in the log. It knows nothing of the repository and needs only chromadb.
"""

from __future__ import annotations

import inspect
import json
import sys
from typing import Any

import chromadb
import numpy as np
from chromadb.config import Settings


def main(directory: str, answers: str) -> None:
    client = chromadb.PersistentClient(directory, settings=Settings(anonymized_telemetry=False))
    held = {}
    for space in ("l2", "cosine", "ip"):
        parameters = {"hnsw:space": space, "hnsw:batch_size": 20, "hnsw:sync_threshold": 40, "hnsw:M": 8}
        collection = client.create_collection(f"c-{space}", metadata=parameters, embedding_function=None)
        _change(collection)
        got = collection.get(include=["embeddings"])
        found: Any = got["embeddings"]
        vectors = [[float(x) for x in vector] for vector in found]
        held[collection.name] = dict(zip(got["ids"], vectors))  # noqa: B905  as plain as it can be
    with open(answers, "w", encoding="utf-8") as file:  # noqa: PTH123
        json.dump(held, file)
    if "close" in dict(inspect.getmembers(client)):
        client.close()  # type: ignore[attr-defined]


def _change(collection: Any) -> None:
    random = np.random.default_rng(1)
    first = (random.standard_normal((300, 10)) * 3).astype(np.float32)
    second = (random.standard_normal((60, 10)) * 3).astype(np.float32)
    for start in range(0, 300, 30):
        collection.add(
            ids=_ids(start, start + 30), embeddings=first[start : start + 30].tolist(), documents=["first"] * 30
        )
    collection.delete(ids=_ids(50, 80))
    collection.upsert(ids=_ids(100, 160), embeddings=second.tolist(), documents=["second"] * 60)
    collection.add(ids=_ids(60, 70), embeddings=second[:10].tolist(), documents=["again"] * 10)
    collection.update(ids=_ids(200, 230), embeddings=second[:30].tolist())
    collection.update(ids=_ids(0, 30), metadatas=[{"changed": 1}] * 30)
    collection.delete(ids=_ids(250, 255))


def _ids(start: int, stop: int) -> list[str]:
    return [f"i{n}" for n in range(start, stop)]


if __name__ == "__main__":
    main(*sys.argv[1:])

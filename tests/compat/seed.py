"""Run by an old version's own Python: write what seed.json says into a directory, over that version's own client.

    PYTHON seed.py SEED.json DIRECTORY [--mixed]

It knows nothing of the repository and needs only chromadb. `--mixed` puts chunks with and without a document or metadata
into one batch, as applications do; a directory that holds such a batch poisons itself for its upgrade (chroma-facts 3).
"""

from __future__ import annotations

import inspect
import itertools
import json
import sys
from typing import Any

import chromadb
from chromadb.config import Settings


def main(seed: str, directory: str, *options: str) -> None:
    with open(seed, encoding="utf-8") as file:  # noqa: PTH123  as plain as it can be, for any version of Python
        collections = json.load(file)
    client = chromadb.PersistentClient(directory, settings=Settings(anonymized_telemetry=False))
    for wanted in collections:
        collection = client.create_collection(wanted["name"], metadata=wanted["metadata"], embedding_function=None)
        for batch in batches(wanted["chunks"], "--mixed" in options):
            for start in range(0, len(batch), 40):
                add(collection, batch[start : start + 40])
        assert collection.count() == len(wanted["chunks"]), wanted["name"]
    if "close" in dict(inspect.getmembers(client)):
        client.close()  # type: ignore[attr-defined]


def batches(chunks: list[dict[str, Any]], mixed: bool) -> list[list[dict[str, Any]]]:
    """The chunks as they are, or apart by whether they have a document and metadata."""
    if mixed:
        return [chunks]

    def shape(chunk: dict[str, Any]) -> tuple[bool, bool]:
        return chunk["document"] is not None, chunk["metadata"] is not None

    return [list(group) for _, group in itertools.groupby(sorted(chunks, key=shape), key=shape)]


def add(collection: Any, batch: list[dict[str, Any]]) -> None:
    columns = {"documents": [c["document"] for c in batch], "metadatas": [c["metadata"] for c in batch]}
    some = {name: column for name, column in columns.items() if any(value is not None for value in column)}
    collection.add(ids=[c["id"] for c in batch], embeddings=[c["embedding"] for c in batch], **some)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""What of the chunks in memory a server lacks or holds otherwise, read with Chroma's own client: none of the toolkit's code."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from helpers.chunks import ChunkBatch
from tests.plain_client import FLOAT_ROUNDING
from tests.servers import client_of

PAGE = 500
KINDS = ("missing", "extra", "document", "metadata", "vector", "uri")


def differences(
    batches: Mapping[str, Sequence[ChunkBatch]], url: str, *, apart: Mapping[str, set[str]] | None = None
) -> Counter[str]:
    """How many chunks are `missing`, `extra`, or differ in `document`, `metadata`, `vector` or `uri`; empty where none does.

    `apart`: ids by collection that others answer for. A collection that is not there lacks all of its chunks.
    """
    found: Counter[str] = Counter()
    with client_of(url) as client:
        there = {c.name for c in client.list_collections()}
        for name, some in batches.items():
            known = (apart or {}).get(name, set())
            wanted = sum(chunk not in known for batch in some for chunk in batch.ids)
            if name not in there:
                found["missing"] += wanted
                continue
            collection = client.get_collection(name, embedding_function=None)
            held = set(collection.get(include=[])["ids"]) - known
            found["extra"] += len(held)
            for batch in some:
                for at in range(0, len(batch), PAGE):
                    _page(collection, batch.slice(at, at + PAGE), known, found)
    return +found


def _page(collection: Any, batch: ChunkBatch, known: set[str], found: Counter[str]) -> None:
    rows = collection.get(ids=batch.ids, include=["documents", "metadatas", "embeddings", "uris"]) if batch.ids else {}
    at = {chunk: i for i, chunk in enumerate(rows.get("ids", []))}
    for i, chunk in enumerate(batch.ids):
        if chunk in known:
            continue
        if chunk not in at:
            found["missing"] += 1
            continue
        found["extra"] -= 1  # this one is wanted
        j = at[chunk]
        found["document"] += rows["documents"][j] != batch.documents[i]
        found["metadata"] += not _same(rows["metadatas"][j], batch.metadatas[i])
        vector = np.asarray(rows["embeddings"][j], dtype=np.float32)
        found["vector"] += vector.tobytes() != batch.embeddings[i].tobytes()
        found["uri"] += ((rows.get("uris") or {j: None})[j] or None) != (batch.uris[i] or None)


def _same(found: Mapping[str, Any] | None, wanted: Mapping[str, Any] | None) -> bool:
    """Whether two chunks have the same metadata: 1, 1.0 and True are three values; Chroma rounds floats a little."""
    one, other = ({k: v for k, v in (m or {}).items() if v is not None} for m in (found, wanted))
    return one.keys() == other.keys() and all(_value(one[key], value) for key, value in other.items())


def _value(found: Any, wanted: Any) -> bool:
    if isinstance(found, list) and isinstance(wanted, list):
        return len(found) == len(wanted) and all(map(_value, found, wanted))
    if isinstance(found, float) and isinstance(wanted, float):
        return math.isclose(found, wanted, rel_tol=FLOAT_ROUNDING)
    return type(found) is type(wanted) and found == wanted

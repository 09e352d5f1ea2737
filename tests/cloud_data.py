"""A database as people have it in Chroma Cloud: seven collections with everything that a record can hold there."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import chromadb
import numpy as np
from chromadb.base_types import SparseVector

from helpers.chunks import ChunkBatch
from tests.cloud_rules import QUOTAS, as_text
from tests.cloud_standin import CloudStandIn

# name, share of the chunks, space, and whether it has a sparse index, or sparse vectors without one
COLLECTIONS = [
    ("articles", 0.25, "cosine", "index"),
    ("contracts", 0.20, "l2", ""),
    ("faq", 0.05, "cosine", ""),
    ("images", 0.10, "ip", ""),
    ("notes", 0.15, "l2", "values"),
    ("tickets", 0.20, "cosine", "index"),
    ("wiki", 0.05, "l2", ""),
]
LARGEST = QUOTAS["document_size_bytes"][1]
KEY_BYTES, URI_BYTES = QUOTAS["metadata_key_size_bytes"][1], QUOTAS["uri_size_bytes"][1]


@dataclass(frozen=True)
class Held:
    """One collection: what was put into it. Its numbers are drawn from `seed`, so it can be made again anywhere."""

    name: str
    space: str
    sparse: str
    batch: ChunkBatch


def made(chunks: int, dimension: int) -> list[Held]:
    """The seven collections. Every 16th document has 16,384 bytes, every 8th chunk 32 keys, every chunk a uri."""
    found = []
    left = chunks
    for number, (name, share, space, sparse) in enumerate(COLLECTIONS):
        count = left if number == len(COLLECTIONS) - 1 else round(chunks * share)
        left -= count
        random = np.random.default_rng(number)
        found.append(
            Held(name, space, sparse, ChunkBatch(
                ids=[f"{name}/é-{i:05d}" for i in range(count)],
                documents=[_document(name, i) for i in range(count)],
                embeddings=random.standard_normal((count, dimension)).astype(np.float32),
                metadatas=[_metadata(name, i, bool(sparse), random) for i in range(count)],
                uris=[f"s3://bucket/{name}/{i}?" + "u" * (URI_BYTES - 30 - len(name) if i % 5 == 0 else 4) for i in range(count)],
            ))
        )  # fmt: skip
    return found


def _document(name: str, i: int) -> str | None:
    text = f"{name} {i}: " + "Straße, naïve, 東京, запись. " * (3 + i % 9)
    if i % 16 == 0:
        text += "é" * ((LARGEST - len(text.encode())) // 2)
        text += "." * (LARGEST - len(text.encode()))
    return None if i % 97 == 96 else text


def _metadata(name: str, i: int, sparse: bool, random: np.random.Generator) -> dict[str, Any] | None:
    if i % 89 == 88:
        return None
    found: dict[str, Any] = {
        "n": i,
        "share": i / 8,
        "even": i % 2 == 0,
        "word": f"w{i % 7}",
        "tags": [name, f"t{i % 3}"],
    }
    if i % 8 == 0:
        found |= {f"{k:02d}".ljust(KEY_BYTES, "k"): f"value {k} of {i}" for k in range(32 - len(found) - sparse)}
    if sparse and i % 3 < 2:
        at = sorted({int(x) for x in random.integers(0, 30_000, 12)})
        found["sparse"] = SparseVector(at, [float(np.float32(x)) for x in random.random(len(at))])
    return found


def fill(cloud: CloudStandIn, held: list[Held]) -> None:
    """Put them behind the stand-in, and have it show their sparse indexes and, for one, quantisation."""
    with cloud.client(behind=True) as client:
        for one in held:
            collection = client.create_collection(
                one.name, configuration={"hnsw": {"space": one.space}}, embedding_function=None,
                metadata={"owner": "a team", "kind": one.name},
            )  # fmt: skip
            for start in range(0, len(one.batch), 200):
                piece = one.batch.take(range(start, min(start + 200, len(one.batch))))
                collection.add(
                    ids=piece.ids, embeddings=piece.embeddings, documents=piece.documents, uris=piece.uris,
                    metadatas=[m and {k: as_text(_sent(v)) for k, v in m.items()} for m in piece.metadatas],
                )  # fmt: skip
    cloud.set(sparse_index={one.name: ["sparse"] for one in held if one.sparse == "index"}, quantized=["tickets"])


def _sent(value: Any) -> Any:
    return value.to_dict() if isinstance(value, SparseVector) else value


def assert_arrived(held: list[Held], target: Path) -> int:
    """Every chunk is in the directory as it was put into Cloud, sparse vectors as text of JSON; how many were compared."""
    client: Any = chromadb.PersistentClient(str(target))
    try:
        names = {c.name for c in client.list_collections()}
        assert {one.name for one in held} <= names
        return sum(_compared(one, client.get_collection(one.name, embedding_function=None)) for one in held)
    finally:
        client.close()


def _compared(one: Held, collection: Any) -> int:
    assert collection.count() == len(one.batch), one.name
    assert collection.configuration_json["hnsw"]["space"] == one.space
    for start in range(0, len(one.batch), 500):
        wanted = one.batch.take(range(start, min(start + 500, len(one.batch))))
        found = collection.get(ids=wanted.ids, include=["embeddings", "documents", "metadatas", "uris"])
        at = {chunk: i for i, chunk in enumerate(found["ids"])}
        order = [at[chunk] for chunk in wanted.ids]
        for what, values in (("documents", wanted.documents), ("uris", wanted.uris)):
            assert [found[what][i] for i in order] == list(values or []), f"{one.name}: {what}"
        assert [_plain(found["metadatas"][i]) for i in order] == [_plain(m) for m in wanted.metadatas], one.name
        vectors = np.asarray(found["embeddings"], np.float32)[order]
        if one.space == "cosine":  # stored normalised on both sides
            assert np.allclose(vectors, wanted.embeddings, rtol=2e-6, atol=0)
        else:
            assert vectors.tobytes() == wanted.embeddings.tobytes()
    return len(one.batch)


def _plain(metadata: Any) -> dict[str, Any] | None:
    """Sparse vectors as the dictionaries that they are on the wire; types kept apart."""
    if not metadata:
        return None
    values = {
        k: json.loads(v) if isinstance(v, str) and v.startswith('{"#type"') else _sent(v) for k, v in metadata.items()
    }
    return {k: (type(v).__name__, v) for k, v in values.items()}

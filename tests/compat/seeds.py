"""What every old version is given to hold, and the proof that a target holds it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

from helpers.stores import SPACES, Reader, Space, distance
from tests.servers import client_of
from tests.storage import ODD_IDS, exact

DIMENSION = 12
Chunk = dict[str, Any]  # id, document, metadata, embedding

# All value types that these versions have (none of the five has lists). Floats are of the kind that JSON keeps whole.
METADATA: list[dict[str, Any] | None] = [
    None,
    {"text": "é\u0301 中文 🧪\n\ttab", "empty": "", "int": 2**53 + 1, "negative": -(2**62), "zero": 0},
    {"float": 0.1, "whole": 2.0, "tiny": 1e-300, "huge": -1.5e300, "yes": True, "no": False},
    {"ключ": "значение", "a key with blanks": "1", "source": "notes/ü.md"},
    {"one": 1, "one float": 1.0, "one bool": True, "one text": "1"},
]
DOCUMENTS: list[str | None] = [None, "", "plain words", "líneas\r\nde texto\t\u2028fin", "𝔘nicode 🧪 " * 30]


def collections() -> list[dict[str, Any]]:
    """One collection a space. `cosine` is written to disk while it is filled, with a tail left in the log; `l2` is not."""
    parameters: dict[Space, dict[str, Any]] = {
        "l2": {"owner": "ärchive", "rank": 3},
        "cosine": {"hnsw:space": "cosine", "hnsw:batch_size": 50, "hnsw:sync_threshold": 100},
        "ip": {"hnsw:space": "ip", "hnsw:M": 24, "hnsw:construction_ef": 80, "hnsw:search_ef": 60},
    }
    return [
        {
            "name": f"notes-{space}",
            "metadata": parameters[space],
            "chunks": _chunks(350 if space == "cosine" else 120, n),
        }
        for n, space in enumerate(SPACES)
    ]


def _chunks(count: int, seed: int) -> list[Chunk]:
    random = np.random.default_rng(seed)
    vectors = random.standard_normal((count, DIMENSION)).astype(np.float32) * np.float32(3)
    vectors[5, :3] = [np.float32(-0.0), np.float32(1e-42), np.float32(1e-7)]  # a denormal, and a zero with a sign
    ids = [*ODD_IDS, *(f"chunk-{n}" for n in range(count - len(ODD_IDS)))]
    return [
        {
            "id": ids[n],
            "document": DOCUMENTS[n % len(DOCUMENTS)],
            "metadata": METADATA[(n // 2) % len(METADATA)],
            "embedding": vectors[n].tolist(),
        }
        for n in range(count)
    ]


def plant(python: Path, folder: Path, *, mixed: bool) -> list[dict[str, Any]]:
    """A directory written by the version of this Python, in a process of its own. What it was given is returned."""
    wanted = collections()
    seed = folder.with_name(f"{folder.name}.seed.json")
    seed.write_text(json.dumps(wanted), encoding="utf-8")
    command = [str(python), str(Path(__file__).with_name("seed.py")), str(seed), str(folder)]
    done = subprocess.run(
        [*command, *(["--mixed"] if mixed else [])], capture_output=True, text=True, check=False, cwd=folder.parent
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return wanted


def assert_read(store: Reader, wanted: list[dict[str, Any]]) -> None:
    """A source gives everything as it was seeded, in the order asked for, and answers probes in the space it has."""
    assert store.names() == sorted(c["name"] for c in wanted)
    for collection in wanted:
        name, seeded = collection["name"], {c["id"]: c for c in collection["chunks"]}
        space = next(s for s in SPACES if name.endswith(s))
        info = store.info(name)
        assert (info.count, info.dimension, info.space) == (len(seeded), DIMENSION, space)
        assert info.metadata == collection["metadata"]
        assert sorted(store.ids(name)) == sorted(seeded)
        backwards = [*reversed(seeded), "not there"]
        found = store.read(name, backwards)
        assert found.ids == backwards[:-1]
        assert not found.lost.any()
        assert found.documents == [seeded[i]["document"] for i in found.ids]
        assert [exact(m) for m in found.metadatas] == [exact(seeded[i]["metadata"]) for i in found.ids]
        vectors = np.asarray([seeded[i]["embedding"] for i in found.ids], np.float32)
        if space == "cosine":
            np.testing.assert_allclose(found.embeddings, vectors, rtol=1e-6, atol=1e-9)
        else:
            assert found.embeddings.tobytes() == vectors.tobytes()
        probe = vectors[0] * np.linspace(0.5, 1.5, DIMENSION, dtype=np.float32)
        [answer] = store.query(name, probe[None, :], 7)
        assert len(answer) == 7
        near = np.asarray([seeded[i]["embedding"] for i, _ in answer], np.float32)
        np.testing.assert_allclose([d for _, d in answer], distance(space, near, probe), rtol=1e-5, atol=1e-5)


def assert_held(target: str, database: str, wanted: list[dict[str, Any]]) -> None:
    """Every chunk of every collection is at the target as it was seeded. Read with the plain client, not with our store."""
    with client_of(target, database) as client:
        assert sorted(c.name for c in client.list_collections()) == sorted(c["name"] for c in wanted)
        for collection in wanted:
            _assert_collection(client.get_collection(collection["name"], embedding_function=None), collection)


def _assert_collection(found: Any, wanted: dict[str, Any]) -> None:
    space: Space = wanted["name"].removeprefix("notes-")
    assert found.configuration["hnsw"]["space"] == space
    for key, value in wanted["metadata"].items():
        if not key.startswith("hnsw:"):
            assert found.metadata[key] == value
    chunks = {chunk["id"]: chunk for chunk in wanted["chunks"]}
    answer = found.get(include=["documents", "metadatas", "embeddings"])
    assert sorted(answer["ids"]) == sorted(chunks)
    for chunk, document, metadata in zip(answer["ids"], answer["documents"], answer["metadatas"], strict=True):
        assert document == chunks[chunk]["document"], chunk
        assert exact(metadata) == exact(chunks[chunk]["metadata"]), chunk
    seeded = np.asarray([chunks[chunk]["embedding"] for chunk in answer["ids"]], np.float32)
    stored = np.asarray(answer["embeddings"], np.float32)
    if space == "cosine":  # stored normalised and multiplied back, twice (chroma-facts 4)
        np.testing.assert_allclose(stored, seeded, rtol=2e-6, atol=1e-9)
    else:
        assert stored.tobytes() == seeded.tobytes()
    _assert_distances(found, space, dict(zip(answer["ids"], seeded, strict=True)))


def _assert_distances(found: Any, space: Space, seeded: dict[str, Any]) -> None:
    """Probes are answered with the distances that numpy computes from what was seeded, best first, none missed."""
    tilt = np.linspace(0.5, 1.5, DIMENSION, dtype=np.float32)
    probes = np.asarray([vector * tilt for vector in list(seeded.values())[:5]], np.float32)
    answer = found.query(query_embeddings=probes, n_results=10, include=["distances"])
    everything = np.asarray(list(seeded.values()))
    for probe, ids, given in zip(probes, answer["ids"], answer["distances"], strict=True):
        wanted = distance(space, np.asarray([seeded[i] for i in ids]), probe)
        np.testing.assert_allclose(given, wanted, rtol=1e-5, atol=1e-5)
        best = np.sort(distance(space, everything, probe))[0]
        assert given[0] <= best + 1e-4, "the nearest chunk of all is found"

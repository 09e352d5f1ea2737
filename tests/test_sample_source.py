"""The rehearsal source: the same everywhere, of the runbook's shape, and found by the runbook's queries."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import cast

import chromadb
import numpy as np
import pytest
from chromadb.api.client import Client
from chromadb.config import Settings

from helpers.chunks import ChunkBatch
from helpers.errors import Terminal, UsageError
from helpers.parameters import Endpoint
from helpers.rehearsal import COLLECTIONS, FULL, collection_counts, expected_findings, sample_batches
from helpers.rehearsal import write_sample as write
from helpers.rehearsal.sample_source import LEAST_DIMENSION, NOTES, require_size
from helpers.stores import open_source
from helpers.stores.creation import RehearsalEmbedding
from tests.conftest import ROOT

QUERIES = {
    "API authentication": "api",
    "error handling": "error",
    "performance optimization": "performance",
    "security best practices": "security",
    "database schema": "database",
}
# What sample_batches(200, 32) gives, on any machine. A change of the sample changes it, and nothing else may.
DIGEST = "f0a448cc15eb48115b5474818ec210ead3882b83414d04aa7177b66812f4f8d8"


def test_the_full_sample_has_the_runbooks_counts() -> None:
    assert collection_counts() == COLLECTIONS
    assert sum(COLLECTIONS.values()) == FULL == 9832


@pytest.mark.parametrize("chunks", [50, 51, 199, 200, 301, 1000, 5001])
def test_smaller_samples_share_out_every_chunk(chunks: int) -> None:
    counts = collection_counts(chunks)
    assert sum(counts.values()) == chunks
    assert all(abs(count - COLLECTIONS[name] * chunks / FULL) < 1 for name, count in counts.items())


def test_a_sample_too_small_is_refused() -> None:
    with pytest.raises(UsageError, match="sample of 49 chunks"):
        collection_counts(49)


def test_the_bytes_never_change() -> None:
    digest = hashlib.sha256()
    for name, batch in sample_batches(200, 32):
        rows = [name, batch.ids, batch.documents, batch.metadatas, batch.uris]
        digest.update(json.dumps(rows, ensure_ascii=True).encode())
        digest.update(batch.embeddings.astype("<f4").tobytes())
    assert digest.hexdigest() == DIGEST


def test_the_text_does_not_depend_on_the_dimension() -> None:
    small, large = list(sample_batches(200, 8)), list(sample_batches(200, 24))
    assert [(n, b.ids, b.documents, b.metadatas) for n, b in small] == [
        (n, b.ids, b.documents, b.metadatas) for n, b in large
    ]


def test_the_four_targets_come_out_as_in_the_runbook() -> None:
    found = expected_findings()
    assert found["target_sergio_personality"] == 1000
    assert found["target_sergio_rhetorical"] == 500
    assert found["target_sergio_humor"] == 800
    assert found["quarantined"] < 0.01 * FULL
    assert sum(n for name, n in found.items() if name.startswith("target_")) + found["quarantined"] == FULL


@pytest.mark.parametrize("chunks", [200, 300, 1000])
def test_every_defect_is_in_a_sample_of_200_or_more(chunks: int) -> None:
    clean = {"lost_vectors", "nonfinite_vectors"}
    assert [name for name, n in expected_findings(chunks).items() if n == 0 and name not in clean] == []
    assert expected_findings(chunks)["quarantined"] < 0.01 * chunks


def test_the_queries_of_the_runbook_find_their_chunks_everywhere() -> None:
    embed = RehearsalEmbedding(64)
    for name, batch in _whole(300, 64).items():
        vectors = batch.embeddings.astype(np.float64)
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-30)
        for query, word in QUERIES.items():
            asked = embed.vectors([query])[0].astype(np.float64)
            distances = 1 - vectors @ (asked / np.linalg.norm(asked))
            best = int(np.argmin(distances))
            assert distances[best] < 0.8, (name, query)
            assert word in (batch.documents[best] or "").lower(), (name, query)


def found_words(chunks: int, dimension: int) -> list[str]:
    """The queries whose ten nearest chunks of all collections but the notes hold their word."""
    embed = RehearsalEmbedding(dimension)
    batches = [batch for name, batch in _whole(chunks, dimension).items() if name != NOTES]
    documents = [document for batch in batches for document in batch.documents]
    vectors = np.concatenate([batch.embeddings for batch in batches]).astype(np.float64)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-30)
    nearest = {query: np.argsort(-(vectors @ embed.vectors([query])[0]))[:10] for query in QUERIES}
    return [q for q, word in QUERIES.items() if any(word in (documents[i] or "").lower() for i in nearest[q])]


@pytest.mark.parametrize("chunks", [50, 300, 950])
def test_a_rehearsal_of_any_size_that_is_accepted_finds_the_words_of_its_queries(chunks: int) -> None:
    require_size(chunks, LEAST_DIMENSION)
    assert found_words(chunks, LEAST_DIMENSION) == list(QUERIES)


def test_a_rehearsal_that_could_not_find_them_is_refused() -> None:
    assert "error handling" not in found_words(300, 16)
    with pytest.raises(UsageError, match="in 16 dimensions"):
        require_size(300, 16)
    with pytest.raises(UsageError, match="sample of 49 chunks"):
        require_size(49, LEAST_DIMENSION)


def test_the_sample_holds_what_a_migration_must_keep() -> None:
    batches = _whole(200, 16).values()
    metadatas = [m for b in batches for m in b.metadatas if m]
    documents = [d for b in batches for d in b.documents if d]
    kinds = Counter(type(v).__name__ for m in metadatas for v in m.values())
    elements = {type(v[0]).__name__ for m in metadatas for v in m.values() if isinstance(v, list)}
    assert {"str", "int", "float", "bool", "list"} <= set(kinds)
    assert elements == {"str", "int", "float", "bool"}
    assert any(m["legacy_id"] > 2**53 for m in metadatas if "legacy_id" in m)
    assert max(map(len, documents)) >= 100_000
    assert not all(d.isascii() for d in documents)


def test_a_fresh_process_searches_a_written_sample_in_words(tmp_path: Path) -> None:
    path = write(tmp_path / "source", chunks=200, dimension=64)
    code = (
        "import sys, chromadb, helpers.rehearsal\n"
        "found = chromadb.PersistentClient(sys.argv[1]).get_collection('openwebui_docs')\n"
        "print(found.query(query_texts=['database schema'], n_results=1)['documents'][0][0])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.startswith("Database schema.")


def test_a_written_sample_reads_back_as_it_was_made(tmp_path: Path) -> None:
    path = write(tmp_path / "source", chunks=200, dimension=32)
    with open_source(Endpoint(path=str(path)), tmp_path) as store:
        for name, made in _whole(200, 32).items():
            info = store.info(name)
            assert (info.count, info.dimension, info.space) == (len(made), 32, "cosine")
            assert info.embedding_function == "runbook_rehearsal"
            read = store.read(name, made.ids)
            assert (read.ids, read.documents, read.uris) == (made.ids, made.documents, made.uris)
            assert [_rounded(m) for m in read.metadatas] == [_rounded(m) for m in made.metadatas]
            np.testing.assert_allclose(read.embeddings, made.embeddings, rtol=1e-6, atol=1e-9)  # chroma-facts 4


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "kept.txt").write_text("mine")
    with pytest.raises(Terminal, match="would overwrite something"):
        write(tmp_path, chunks=200, dimension=8)
    assert [p.name for p in tmp_path.iterdir()] == ["kept.txt"]


def test_a_zero_vector_lies_at_distance_one_from_every_query(tmp_path: Path) -> None:
    """Chroma 1.5.9 answers no NaN for it, so that the sample can hold some."""
    client = _open(tmp_path)
    collection = client.create_collection("zeros", configuration={"hnsw": {"space": "cosine"}}, embedding_function=None)
    collection.add(ids=["zero", "one"], embeddings=np.array([[0, 0], [1, 1]], np.float32))
    found = collection.query(query_embeddings=np.array([[1, 1]], np.float32), n_results=2)
    client.close()
    assert found["ids"] == [["one", "zero"]]
    assert found["distances"] is not None
    assert found["distances"][0][1] == 1.0


@pytest.mark.slow
def test_the_full_sample_is_written_within_a_minute(tmp_path: Path) -> None:
    begun = time.monotonic()
    path = write(tmp_path / "source")
    assert time.monotonic() - begun < 60  # about 20 s on two idle cores
    client = _open(path)
    assert {c.name: c.count() for c in client.list_collections()} == COLLECTIONS
    client.close()


def _open(path: Path) -> Client:
    return cast(Client, chromadb.PersistentClient(str(path), settings=Settings(anonymized_telemetry=False)))


def _whole(chunks: int, dimension: int) -> dict[str, ChunkBatch]:
    parts: dict[str, list[ChunkBatch]] = {}
    for name, batch in sample_batches(chunks, dimension):
        parts.setdefault(name, []).append(batch)
    return {name: ChunkBatch.concatenate(batches) for name, batches in parts.items()}


def _rounded(metadata: dict[str, object] | None) -> dict[str, object] | None:
    """Floats to 12 digits: Chroma moves some by one unit in the last place (chroma-facts 5)."""
    return metadata and {k: _near(v) for k, v in metadata.items()}


def _near(value: object) -> object:
    if isinstance(value, list):
        return [_near(v) for v in value]
    return f"{value:.12g}" if isinstance(value, float) else (type(value), value)

"""What the tests of stores, snapshots and imports share: batches, real directories, exact comparisons."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from helpers.chunks import ChunkBatch
from helpers.migration.checkpoint import Checkpoint
from helpers.migration.importing import Importer
from helpers.migration.staging import Quarantine, Staged, stage
from helpers.parameters.endpoint import Endpoint
from helpers.schema import Context, load_schema
from helpers.snapshots.export_journal import proof_of
from helpers.snapshots.snapshot import Snapshot
from helpers.stores import CollectionInfo, Reader, Space, open_target
from helpers.stores.client import ClientStore
from helpers.stores.layout import DATABASE

ODD_IDS = ["é", "e\u0301", "中文 id", "a/b?c=d&e", "'; drop table embeddings; --", " ", "🧪" * 30, "x" * 2000, "A", "a"]


def chunks(count: int, dimension: int = 8, *, seed: int = 0, prefix: str = "c") -> ChunkBatch:
    """Chunks with random vectors, a document and metadata of every scalar type."""
    random = np.random.default_rng(seed)
    return ChunkBatch(
        ids=[f"{prefix}{i}" for i in range(count)],
        documents=[f"text {i} of {prefix}" for i in range(count)],
        embeddings=random.standard_normal((count, dimension)).astype(np.float32),
        metadatas=[{"n": i, "share": i / 4, "even": i % 2 == 0, "word": f"w{i % 5}"} for i in range(count)],
    )


def plan(name: str, space: Space = "l2", **more: Any) -> CollectionInfo:
    """A new collection as the toolkit would create it."""
    configuration = {"hnsw": {"space": space}, "spann": None, "embedding_function": None}
    return CollectionInfo(name, 0, None, space, space, configuration=configuration, **more)


@contextmanager
def embedded(path: Path) -> Iterator[ClientStore]:
    with open_target(Endpoint(path=str(path))) as store:
        yield store


def fill(store: ClientStore, name: str, batch: ChunkBatch, space: Space = "l2") -> None:
    store.create(plan(name, space))
    store.add(name, batch)


def contents(store: Reader, name: str) -> ChunkBatch:
    """Everything that a collection holds, by id."""
    return store.read(name, sorted(store.ids(name)))


def assert_same(found: ChunkBatch, wanted: ChunkBatch) -> None:
    """Equal in every column, types and bits included."""
    assert found.ids == wanted.ids
    assert found.documents == wanted.documents
    assert [exact(m) for m in found.metadatas] == [exact(m) for m in wanted.metadatas]
    assert found.uris == wanted.uris
    assert found.lost.tolist() == wanted.lost.tolist()
    assert found.embeddings.dtype == wanted.embeddings.dtype == np.float32
    assert found.embeddings.shape == wanted.embeddings.shape
    kept = ~wanted.lost
    assert found.embeddings[kept].tobytes() == wanted.embeddings[kept].tobytes()


def exact(metadata: dict[str, Any] | None) -> Any:
    """Metadata in a form in which 1, 1.0 and True differ, and NaN equals itself."""
    return None if metadata is None else {k: (type(v).__name__, repr(v)) for k, v in metadata.items()}


def in_order(batch: ChunkBatch) -> ChunkBatch:
    return batch.take(sorted(range(len(batch)), key=lambda i: batch.ids[i]))


def tree(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder, by its relative path."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def writable_copy(source: Path, destination: Path) -> Path:
    """A copy whose files and folders may be written; the real databases are read-only."""
    shutil.copytree(source, destination)
    for path in [destination, *destination.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    return destination


def index_folder(folder: Path, collection: str) -> Path:
    """Where a directory keeps the index of a collection."""
    with closing(sqlite3.connect(folder / DATABASE)) as db:
        [(segment,)] = db.execute(
            "select s.id from segments s join collections c on s.collection = c.id "
            "where s.scope = 'VECTOR' and c.name = ?",
            (collection,),
        ).fetchall()
    return folder / str(segment)


def lose_vectors(folder: Path, collection: str, ids: list[str]) -> None:
    """Make ids that Chroma lists although it has no vector for them, with a document and metadata (chroma-facts 10)."""
    with closing(sqlite3.connect(folder / DATABASE)) as db, db:
        segment = db.execute(
            "select s.id from segments s join collections c on s.collection = c.id "
            "where s.scope = 'METADATA' and c.name = ?",
            (collection,),
        ).fetchone()[0]
        for number, chunk in enumerate(ids):
            row = db.execute(
                "insert into embeddings(segment_id, embedding_id, seq_id) values (?, ?, ?)", (segment, chunk, 1)
            ).lastrowid
            values = [(row, "chroma:document", f"left of {chunk}", None), (row, "rest", None, number)]
            db.executemany(
                "insert into embedding_metadata(id, key, string_value, int_value) values (?, ?, ?, ?)", values
            )


def staging(snapshot: Snapshot, folder: Path) -> Staged:
    """The snapshot staged under the identity schema, its quarantine beside it."""
    context = Context(frozenset(snapshot.names()), dt.date(2025, 12, 1), "fail")
    return stage(snapshot, load_schema("identity"), context, folder / "staged", Quarantine(folder / "quarantine"))


def importer(store: ClientStore, staged: Staged, folder: Path, **more: Any) -> Importer:
    """An importer that goes on with the checkpoint in `folder`, or begins one."""
    checkpoint = Checkpoint.open(folder / "checkpoint.json", {"test": True})
    checkpoint.stage(staged.total, sum(staged.quarantined.values()), {name: staged.rows(name) for name in staged.files})
    settings = {"run_id": "run-1", "batch_size": 20, "workers": 2, **more}
    return Importer(
        store=store, staged=staged, checkpoint=checkpoint, quarantine=Quarantine(folder / "quarantine"), **settings
    )


def empty_plans(snapshot: Snapshot) -> list[CollectionInfo]:
    return [replace(info, count=0) for info in snapshot.collections()]


def journal_text(entries: list[dict[str, Any]], secret: bytes) -> str:
    """The journal of an export with these entries, as whoever has this secret writes it."""
    text, proof = "", ""
    for entry in entries:
        proof = proof_of(entry, secret, proof)
        text += json.dumps({**entry, "proof": proof}) + "\n"
    return text

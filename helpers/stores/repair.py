"""What is wrong in a copied Chroma directory: mended where the engine would fail, reported where it would not.

Pure SQLite and file names, on the copy alone, before any engine opens it. One poisoned record in the write-ahead log
makes current engines refuse whole collections (chroma-facts 3 and 16), an incomplete index folder does the same. Nothing
is dropped in silence: what is taken out is kept in `Found.repairs`, and a record without a vector stays listed by the
collection, so that it ends in quarantine with its document and metadata.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from helpers.errors import Terminal
from helpers.stores.layout import DATABASE

_FILES = ("data_level0.bin", "header.bin", "length.bin", "link_lists.bin")
_PICKLE = "index_metadata.pickle"
_DOCUMENT = "chroma:document"
_NULLS = """SELECT topic, id FROM embeddings_queue
    WHERE metadata IS NOT NULL AND json_type(metadata, '$."chroma:document"') = 'null' ORDER BY seq_id"""
_WITHOUT_NULLS = """UPDATE embeddings_queue SET metadata = json_remove(metadata, '$."chroma:document"')
    WHERE metadata IS NOT NULL AND json_type(metadata, '$."chroma:document"') = 'null'"""
_NO_VECTOR = """SELECT seq_id, topic, id, operation, metadata FROM embeddings_queue
    WHERE operation IN (0, 2) AND vector IS NULL ORDER BY seq_id"""
_VALUES = {
    str: "INSERT INTO embedding_metadata (id, key, string_value) VALUES (?, ?, ?)",
    bool: "INSERT INTO embedding_metadata (id, key, bool_value) VALUES (?, ?, ?)",
    int: "INSERT INTO embedding_metadata (id, key, int_value) VALUES (?, ?, ?)",
    float: "INSERT INTO embedding_metadata (id, key, float_value) VALUES (?, ?, ?)",
}
_ADD, _UPDATE, _UPSERT, _DELETE = 0, 1, 2, 3


@dataclass(slots=True)
class Found:
    """Sentences about the source, sentences by collection id, and each value or record that was taken out."""

    source: list[str] = field(default_factory=list)
    collections: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    repairs: list[dict[str, Any]] = field(default_factory=list)

    def repaired(self, repair: str, rows: list[tuple[str, str, Any]], sentence: str) -> None:
        """Rows of (collection id, record id, what was taken out), and a sentence with {n} for each collection."""
        for collection, chunk, removed in rows:
            self.repairs.append({"repair": repair, "collection_id": collection, "id": chunk, "removed": removed})
        for collection, n in sorted(Counter(row[0] for row in rows).items()):
            self.collections[collection].append(sentence.format(n=n))


def mend(copy: Path, source: Path) -> Found:
    """Look through the copy, mend its log and its index folders; the source is only named in errors."""
    found = Found()
    try:
        with closing(sqlite3.connect(copy / DATABASE)) as db, db:
            _null_documents(db, found)
            _foreign_values(db, found)
            _without_vectors(db, found)
            _ghosts(db, found)
            _index_folders(db, copy, found)
    except sqlite3.Error as error:
        raise Terminal(
            "source_damaged", f"SQLite says: {error}", where=str(source / DATABASE),
            next_step="Take the last backup, or recover the file with `sqlite3 .recover` and try that.",
        ) from error  # fmt: skip
    return found


def migrations(database: Path) -> list[tuple[str, int]]:
    """The newest migration of each part of a directory's database: as much of its version as can be known."""
    try:
        with closing(sqlite3.connect(f"file:{quote(str(database.resolve()))}?mode=ro&immutable=1", uri=True)) as db:
            return [(d, v) for d, v in db.execute("SELECT dir, max(version) FROM migrations GROUP BY dir ORDER BY dir")]
    except sqlite3.Error:
        return []


def _collection(topic: str) -> str:
    return topic.rpartition("/")[2]


def _null_documents(db: sqlite3.Connection, found: Found) -> None:
    """A batch that mixed None and text documents left a null that a current engine dies of (chroma-facts 3)."""
    rows = [(_collection(topic), chunk, {_DOCUMENT: None}) for topic, chunk in db.execute(_NULLS)]
    db.execute(_WITHOUT_NULLS)
    found.repaired("null_document", rows, "{n} log records held a null document; read as no document")


def _foreign_values(db: sqlite3.Connection, found: Found) -> None:
    """Objects and mixed lists, which 0.6 swallowed and no engine gives back (chroma-facts 16)."""
    suspects = db.execute(
        "SELECT seq_id, topic, id, metadata FROM embeddings_queue WHERE metadata IS NOT NULL AND EXISTS "
        "(SELECT 1 FROM json_each(metadata) WHERE type IN ('object', 'array')) ORDER BY seq_id"
    ).fetchall()
    rows = []
    for number, topic, chunk, text in suspects:
        metadata = json.loads(text)
        bad = {key: value for key, value in metadata.items() if not _holdable(value)}
        if bad:
            kept = {key: value for key, value in metadata.items() if key not in bad}
            db.execute("UPDATE embeddings_queue SET metadata = ? WHERE seq_id = ?", (json.dumps(kept), number))
            rows.append((_collection(topic), chunk, bad))
    found.repaired("foreign_value", rows, "{n} log records held an object or a mixed list in their metadata; taken out")


def _holdable(value: Any) -> bool:
    """A value that current engines read from their log: lists of one type and their own sparse vectors included."""
    if isinstance(value, dict):
        return "#type" in value
    if isinstance(value, list):
        kinds = {float if type(v) is int else type(v) for v in value}
        return len(kinds) < 2 and kinds <= {str, float, bool}
    return True


def _without_vectors(db: sqlite3.Connection, found: Found) -> None:
    """Records added without a vector stop the engine (chroma-facts 16): out of the log, but still listed."""
    rows = []
    for number, topic, chunk, operation, text in db.execute(_NO_VECTOR).fetchall():
        collection = _collection(topic)
        segment, seen = _metadata_segment(db, collection)
        if number > seen and segment is not None:
            fate = _fate(db, segment, topic, chunk, number)
            if fate == "changes" and operation == _UPSERT:  # of a record that has a vector: only its texts change
                db.execute("UPDATE embeddings_queue SET operation = ? WHERE seq_id = ?", (_UPDATE, number))
                continue
            if fate == "new":
                _list(db, segment, chunk, number, json.loads(text) if text else {})
        db.execute("DELETE FROM embeddings_queue WHERE seq_id = ?", (number,))
        rows.append((collection, chunk, "a log record without a vector"))
    found.repaired(
        "no_vector", rows, "{n} log records came without a vector; taken out of the log, the chunks stay listed"
    )


def _metadata_segment(db: sqlite3.Connection, collection: str) -> tuple[str | None, int]:
    """The collection's metadata segment and the last log record that it has taken in."""
    row = db.execute("SELECT id FROM segments WHERE collection = ? AND scope = 'METADATA'", (collection,)).fetchone()
    if row is None:
        return None, 0
    seen = db.execute("SELECT seq_id FROM max_seq_id WHERE segment_id = ?", (row[0],)).fetchone()
    value = seen[0] if seen else 0
    return row[0], int.from_bytes(value, "big") if isinstance(value, bytes) else int(value)


def _fate(db: sqlite3.Connection, segment: str, topic: str, chunk: str, number: int) -> str:
    """What a log record without a vector does, seen with the others of its id: "changes" one, is "new", or "nothing"."""
    others = "SELECT operation, vector IS NOT NULL FROM embeddings_queue WHERE topic = ? AND id = ? AND seq_id"
    before = db.execute(f"{others} < ? ORDER BY seq_id DESC LIMIT 1", (topic, chunk, number)).fetchone()
    after = db.execute(f"{others} > ? ORDER BY seq_id", (topic, chunk, number)).fetchall()
    listed = db.execute(
        "SELECT 1 FROM embeddings WHERE segment_id = ? AND embedding_id = ?", (segment, chunk)
    ).fetchone()
    if (listed and (before is None or before[0] != _DELETE)) or (before and before[0] != _DELETE):
        return "changes"
    covered = any(operation == _DELETE or (operation in (_ADD, _UPSERT) and vector) for operation, vector in after)
    return "nothing" if covered else "new"


def _list(db: sqlite3.Connection, segment: str, chunk: str, number: int, metadata: dict[str, Any]) -> None:
    """Put a record into the metadata segment, which is what lists a collection's chunks."""
    row = db.execute(
        "INSERT INTO embeddings (segment_id, embedding_id, seq_id) VALUES (?, ?, ?)", (segment, chunk, number)
    ).lastrowid
    for key, value in metadata.items():
        if type(value) in _VALUES:
            db.execute(_VALUES[type(value)], (row, key, value))


def _ghosts(db: sqlite3.Connection, found: Found) -> None:
    """Rows that belong to nothing any more. They are not read and not migrated; said, so that nobody wonders."""
    for what, query in (
        ("rows of chunks whose segment is gone",
         "SELECT count(*) FROM embeddings WHERE segment_id NOT IN (SELECT id FROM segments)"),
        ("segments whose collection is gone",
         "SELECT count(*) FROM segments WHERE collection IS NOT NULL AND collection NOT IN (SELECT id FROM collections)"),
    ):  # fmt: skip
        if n := db.execute(query).fetchone()[0]:
            found.source.append(f"{n} {what}; they are in no collection and are not migrated")
    held = {row[0] for row in db.execute("SELECT id FROM collections")}
    topics = db.execute("SELECT topic, count(*) FROM embeddings_queue GROUP BY topic").fetchall()
    if n := sum(count for topic, count in topics if _collection(topic) not in held):
        found.source.append(f"{n} log records of collections that are gone; they are not migrated")


def _index_folders(db: sqlite3.Connection, copy: Path, found: Found) -> None:
    """Folders that no segment owns are reported; an incomplete index goes, so that the log and the texts can be read."""
    owners = dict(db.execute("SELECT id, collection FROM segments WHERE scope = 'VECTOR'").fetchall())
    for folder in _uuid_folders(copy):
        if folder.name not in owners:
            found.source.append(f"folder {folder.name} belongs to no collection; it is not migrated")
            continue
        collection = owners[folder.name]
        missing = [name for name in _FILES if not (folder / name).is_file()]
        if missing:
            shutil.rmtree(folder)
            # From its beginning, the log gives back every vector that it still holds; 0.x never empties it.
            db.execute("DELETE FROM max_seq_id WHERE segment_id = ?", (folder.name,))
            found.repairs.append(
                {"repair": "index_folder", "collection_id": collection, "id": "", "removed": folder.name}
            )
            found.collections[collection].append(
                f"its index folder lacks {', '.join(missing)}: only vectors still in the log can be read; "
                "if a backup holds the folder, migrate from that"
            )
    for segment, collection in owners.items():
        row = db.execute("SELECT seq_id FROM max_seq_id WHERE segment_id = ?", (segment,)).fetchone()
        if row is not None and not (copy / segment / _PICKLE).is_file():
            found.collections[collection].append(f"its index was saved, but {segment}/{_PICKLE} is not there")


def _uuid_folders(copy: Path) -> Iterator[Path]:
    for entry in sorted(copy.iterdir()):
        try:
            if entry.is_dir() and uuid.UUID(entry.name):
                yield entry
        except ValueError:
            continue

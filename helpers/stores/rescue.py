"""Rescue the vectors of a collection whose index an engine may fail on, from the files of the copy.

A vector may be in two places: in the write-ahead log of SQLite, raw and exact, and in a row of the index folder
(`index_files`). The newest record of the log that gives an id a vector wins, as in the engine; where the log was emptied,
the row counts; a deletion in the log removes the vector. The vectors are written to one file beside the copy's database. The
index folder and the used part of the log are removed from the copy, so that the engine cannot fail on them, and the engine
serves only texts and metadata (`RescuedStore`).

A cosine row is stored normalised, its norm in `length.bin`. Without that only the direction is known: such a vector never counts
as exact, and is used only by order of the operator (`migration.normalised`).
"""

from __future__ import annotations

import re
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from helpers.chunks import ChunkBatch, Mask, Vectors
from helpers.results import json_in
from helpers.stores import MOST_DIMENSION, Neighbours, Space, damage, distance
from helpers.stores.client import ClientStore
from helpers.stores.copying import require_room
from helpers.stores.door import Collection
from helpers.stores.index_files import IndexFolder, IndexHealth
from helpers.stores.layout import DATABASE, damaged
from helpers.stores.repair import RepairReport, require_one_each, sequence

_ROWS = 8_192  # vectors compared at a time
FOLDER = "rescued"
ADD, UPDATE, UPSERT, DELETE = 0, 1, 2, 3
LOST, FROM_LOG, FROM_INDEX, NORMALISED = range(4)
_STEP = 4_096  # rows at a time
_NUMBERS = {"FLOAT32": "<f4", "INT32": "<i4"}  # how the log encodes vectors


def stored_spaces(copy: Path) -> dict[str, str]:
    """`hnsw:space` by collection id from the vector segments: the truth for collections of 0.4–0.6 (chroma-facts 2).
    Raises `Terminal` ("source_damaged") where they cannot be read: without them a collection would get another space.
    """
    query = (
        "SELECT s.collection, m.str_value FROM segments s JOIN segment_metadata m ON m.segment_id = s.id "
        "WHERE s.scope = 'VECTOR' AND m.key = 'hnsw:space' AND m.str_value IS NOT NULL"
    )
    try:
        with closing(sqlite3.connect(copy / DATABASE)) as db:
            return {row[0]: row[1] for row in db.execute(query)}
    except sqlite3.Error as error:
        raise damaged(error, copy / DATABASE) from error


@dataclass(frozen=True, slots=True)
class Stored:
    """A collection in SQLite.

    `topic`: its name in the log ("" where the log has no record of it). `saved`: the last log record in its index, by SQLite
    (None where that has no number). `taken_in`: the last one in its texts and metadata. `space` and `m`: those of the index.
    """

    id: str
    name: str
    topic: str
    dimension: int | None
    space: str
    m: int
    vector_segment: str
    metadata_segment: str
    saved: int | None
    taken_in: int


@dataclass(frozen=True, slots=True)
class Rescued:
    """The vectors of one collection: `rows[id]` is a row of `matrix` (n, d) float32."""

    rows: Mapping[str, int]
    matrix: Vectors

    @property
    def dimension(self) -> int:
        return int(self.matrix.shape[1])

    def vectors(self, ids: Sequence[str]) -> tuple[Vectors, Mask]:
        """Return the vectors of these ids, (n, d) float32, NaN where there is none; and which are lost."""
        known = np.array([i in self.rows for i in ids], dtype=bool)
        matrix = np.full((len(ids), self.dimension), np.nan, np.float32)
        if known.any():
            matrix[known] = self.matrix[[self.rows[i] for i in ids if i in self.rows]]
        return matrix, ~known


def stored_collections(db: sqlite3.Connection, tenant: str, database: str) -> list[Stored]:
    """Return the collections of a directory's database that have both of their segments.

    Raises `sqlite3.DataError` for foreign values, like `require_one_each`.
    """
    require_one_each(db)
    segments = {(uuid, scope): i for i, scope, uuid in db.execute("SELECT id, scope, collection FROM segments")}
    for segment in segments.values():
        _require_id("segment", segment)
    saved = {segment: sequence(number) for segment, number in db.execute("SELECT segment_id, seq_id FROM max_seq_id")}
    topics = {topic.rpartition("/")[2]: topic for (topic,) in db.execute("SELECT DISTINCT topic FROM embeddings_queue")}
    chosen = {row[0] for row in _rows(db, "databases", ("id", "tenant_id", "name")) if row[1:] == (tenant, database)}
    stored = []
    columns = ("id", "name", "dimension", "database_id", "config_json_str", "schema_str")
    for uuid, name, dimension, database_id, configuration, schema in _rows(db, "collections", columns):
        vector, texts = segments.get((uuid, "VECTOR")), segments.get((uuid, "METADATA"))
        if vector is None or texts is None or (chosen and database_id not in chosen):
            continue
        _require_id("collection", uuid)
        if (
            not isinstance(dimension, int | None)
            or not 0 <= (dimension or 0) <= MOST_DIMENSION
            or not isinstance(name, str)
        ):
            raise sqlite3.DataError(
                f"a collection has the name {str(name)[:40]!r}, the dimension {str(dimension)[:40]!r}"
            )
        settings = _index_settings(db, uuid, vector, configuration, schema)
        last = saved.get(vector), saved.get(texts, 0)
        stored.append(Stored(uuid, name, topics.get(uuid, ""), dimension, *settings, vector, texts, *last))
    return sorted(stored, key=lambda each: each.name)


_ID = re.compile(r"[0-9A-Za-z-]{1,64}")


def _require_id(kind: str, value: Any) -> None:
    """Require a plain id: it is also the name of a folder that is removed from the copy, or of a file that is written there."""
    if not (isinstance(value, str) and _ID.fullmatch(value)):
        raise sqlite3.DataError(f"a {kind} has the id {str(value)[:40]!r}")


_TABLES = {"databases": "SELECT * FROM databases", "collections": "SELECT * FROM collections"}


def _rows(db: sqlite3.Connection, table: str, columns: Sequence[str]) -> list[tuple[Any, ...]]:
    """Return a whole table of any version of Chroma; a missing column is None, a missing table is empty."""
    if not db.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone():
        return []
    cursor = db.execute(_TABLES[table])
    position_of = {column[0]: position for position, column in enumerate(cursor.description)}
    return [tuple(row[position_of[c]] if c in position_of else None for c in columns) for row in cursor]


def _index_settings(
    db: sqlite3.Connection, collection: str, segment: str, configuration: str | None, schema: str | None
) -> tuple[str, int]:
    """Return the distance space and M: those of the segment, which are the effective ones of 0.x (chroma-facts 2), else of the
    collection's metadata, else of its schema or configuration, else Chroma's defaults.
    """
    settings: dict[str, Any] = {}
    for text in (configuration, schema):
        settings |= {key: value for key, value in _settings(text) if value is not None}
    for query, owner in (
        ("SELECT key, str_value, int_value FROM collection_metadata WHERE collection_id = ?", collection),
        ("SELECT key, str_value, int_value FROM segment_metadata WHERE segment_id = ?", segment),
    ):
        settings |= {name: number if text is None else text for name, text, number in db.execute(query, (owner,))}
    space = settings.get("hnsw:space") or settings.get("space") or "l2"
    m = settings.get("hnsw:M") or settings.get("max_neighbors") or settings.get("M") or 16
    return str(space), int(m) if isinstance(m, int | float) else 16


def _settings(text: str | None) -> Iterator[tuple[str, Any]]:
    """Yield `space`, `M` and `max_neighbors` from each place of a configuration or a schema for the index of the vectors."""
    try:
        value = json_in(text) if text else {}
    except ValueError:
        return
    if not isinstance(value, dict):
        return
    path = ("keys", "#embedding", "float_list", "vector_index", "config")
    for step in path if "keys" in value else ():
        value = value.get(step) or {}
    for part in (value, value.get("hnsw"), value.get("hnsw_configuration")):
        if isinstance(part, dict):
            yield from ((key, part.get(key)) for key in ("space", "M", "max_neighbors"))


@dataclass(frozen=True, slots=True)
class IndexDiagnosis:
    """A collection's index, compared with its log. `reasons`: why the engine may fail on it; empty if it is sound.

    `saved`: the log record up to which the index was saved, by SQLite or by the pickle. `waiting`: the log records after it.
    """

    stored: Stored
    health: IndexHealth
    reasons: tuple[str, ...]
    saved: int
    waiting: int


def diagnose(db: sqlite3.Connection, folder: Path, stored: Stored) -> IndexDiagnosis:
    """Diagnose one collection of a directory, read only. `db`: its database, `folder`: the directory."""
    index = _index(folder, stored)
    health = index.health
    last = sequence(db.execute("SELECT max(seq_id) FROM embeddings_queue").fetchone()[0] or 0)
    in_pickle = health.max_seq_id
    saved = stored.saved if stored.saved is not None else in_pickle or 0
    reasons = [text for _, text in health.problems if health.state == "damaged" and _is_expected(index, stored)]
    if in_pickle is not None and stored.saved is not None and in_pickle > stored.saved:
        reasons.append(f"its index was saved up to log record {in_pickle:,}, SQLite says {stored.saved:,}")
    if saved > max(last, stored.taken_in):
        reasons.append(f"its index was saved up to log record {saved:,}, the log ends at {last:,}")
    if odd_size := _of_other_size(db, stored, health.dimension or stored.dimension, saved):
        reasons.append(f"its log has {odd_size:,} vectors of another size, which an engine would read beyond their end")
    waiting = _waiting(db, stored, saved)
    if not reasons:
        missing = sum(1 for _ in _missed(db, stored, set(index.ids.labels if index.ids else ()), saved))
        if missing:
            reasons.append(f"neither its index nor the rest of its log gives the engine {missing:,} vectors")
    return IndexDiagnosis(stored, health, tuple(reasons), saved, waiting)


def _index(folder: Path, stored: Stored) -> IndexFolder:
    return IndexFolder(
        folder / stored.vector_segment, dimension=stored.dimension, m=stored.m, cosine=stored.space == "cosine"
    )


def _is_expected(index: IndexFolder, stored: Stored) -> bool:
    """Return whether an index must exist: one that was never created is no damage, since all vectors are in the log."""
    return index.folder.is_dir() or bool(stored.saved)


def _waiting(db: sqlite3.Connection, stored: Stored, saved: int) -> int:
    query = "SELECT count(*) FROM embeddings_queue WHERE topic = ? AND seq_id > ?"
    return int(db.execute(query, (stored.topic, saved)).fetchone()[0])


def _of_other_size(db: sqlite3.Connection, stored: Stored, dimension: int | None, saved: int) -> int:
    if dimension is None:
        return 0
    query = "SELECT count(*) FROM embeddings_queue WHERE topic = ? AND seq_id > ? AND length(vector) <> ?"
    return int(db.execute(query, (stored.topic, saved, 4 * dimension)).fetchone()[0])


def _missed(db: sqlite3.Connection, stored: Stored, mapped: set[str], saved: int) -> Iterator[str]:
    """Yield the listed ids to which neither the label map nor the log after `saved` gives a vector."""
    later = {chunk for _, _, chunk, has_vector in _log(db, stored, saved) if has_vector}
    for (chunk,) in db.execute("SELECT embedding_id FROM embeddings WHERE segment_id = ?", (stored.metadata_segment,)):
        if chunk not in mapped and chunk not in later:
            yield chunk


def _log(db: sqlite3.Connection, stored: Stored, after: int = -1) -> Iterator[tuple[int, int, str, bool]]:
    """Yield number, operation, id and whether there is a vector, for a collection's log records after a number, in order."""
    return db.execute(
        "SELECT seq_id, operation, id, vector IS NOT NULL FROM embeddings_queue WHERE topic = ? AND seq_id > ? "
        "ORDER BY seq_id",
        (stored.topic, after),
    )


def rescue(
    copy: Path,
    tenant: str,
    database: str,
    wanted: Callable[[str], bool],
    suspects: Mapping[str, str],
    report: RepairReport,
    *,
    normalised: bool,
) -> tuple[dict[str, Rescued], dict[str, list[str]]]:
    """Rescue the vectors of every damaged collection from the copy; return them by collection name, and for the sound ones with a
    saved index the ids that the rest of the log changes, by name: the engine has to prove that it can apply it.

    `suspects`: collections that the engine failed on, and how, by name. `report` gets what was done. Sound collections are left
    to the engine; for an index of 0.4 to 0.5.5, SQLite gets the position up to which it was saved.
    """
    rescued: dict[str, Rescued] = {}
    touched: dict[str, list[str]] = {}
    with closing(sqlite3.connect(copy / DATABASE)) as db, db, _indexed(db):
        for stored in stored_collections(db, tenant, database):
            if not wanted(stored.name):
                continue
            diagnosis = diagnose(db, copy, stored)
            reasons = [*diagnosis.reasons, *([suspects[stored.name]] if stored.name in suspects else [])]
            if reasons:
                rescued[stored.name] = _take(db, copy, diagnosis, reasons, report, normalised=normalised)
                continue
            if diagnosis.health.max_seq_id is not None and stored.saved is None:
                _restore_bookmark(db, diagnosis, report)
            if diagnosis.health.ids and diagnosis.waiting:
                touched[stored.name] = _with_vector(db, diagnosis)
    return rescued, touched


def _with_vector(db: sqlite3.Connection, diagnosis: IndexDiagnosis) -> list[str]:
    """Return the ids that the log after `saved` gives a vector, and does not delete again."""
    ids: dict[str, None] = {}
    for _, operation, chunk, has_vector in _log(db, diagnosis.stored, diagnosis.saved):
        if operation == DELETE:
            ids.pop(chunk, None)
        elif has_vector and operation in (ADD, UPSERT):
            ids[chunk] = None
    return list(ids)


@contextmanager
def _indexed(db: sqlite3.Connection) -> Iterator[None]:
    """Index the log by collection meanwhile, for a directory of thousands of them."""
    db.execute("CREATE INDEX IF NOT EXISTS runbook_log ON embeddings_queue (topic, seq_id)")
    yield
    db.execute("DROP INDEX runbook_log")


def _restore_bookmark(db: sqlite3.Connection, index: IndexDiagnosis, report: RepairReport) -> None:
    """Put the number of the pickle into SQLite: current engines ignore it, and would replay the whole log (upstream #7104)."""
    _set_bookmark(db, index.stored.vector_segment, index.saved)
    report.repairs.append(
        {
            "repair": "bookmark",
            "collection_id": index.stored.id,
            "id": "",
            "removed": f"none, now {index.saved}",
        }
    )
    report.collections[index.stored.id].append(damage(
        f"only its pickle said that the index was saved up to log record {index.saved:,}; put into SQLite on the copy",
        "Today a current engine does not see that number, and would replay the whole log into the index.",
    ))  # fmt: skip


def _take(
    db: sqlite3.Connection,
    copy: Path,
    diagnosis: IndexDiagnosis,
    reasons: Sequence[str],
    report: RepairReport,
    *,
    normalised: bool,
) -> Rescued:
    stored = diagnosis.stored
    index = _index(copy, stored)
    listed = dict(
        db.execute("SELECT embedding_id, seq_id FROM embeddings WHERE segment_id = ?", (stored.metadata_segment,))
    )
    newest, deleted = _replay(db, stored, listed, set(index.rows), diagnosis.saved)
    ids = [*newest, *(chunk for chunk in index.rows if chunk not in newest and chunk not in deleted)]
    width = diagnosis.health.dimension or stored.dimension or _log_dimension(db, stored)
    file = copy / FOLDER / f"{stored.id}.npy"
    file.parent.mkdir(exist_ok=True)
    require_room(file.parent, 4 * len(ids) * width)
    matrix: npt.NDArray[np.float32] = np.lib.format.open_memmap(
        file, "w+", np.float32, shape=(max(1, len(ids)), max(1, width))
    )
    origin = np.full(len(ids), LOST, np.uint8)
    _from_log(db, stored, newest, matrix, origin)
    for start in range(len(newest), len(ids), _STEP):
        piece = ids[start : start + _STEP]
        vectors, valid, is_unit = index.vectors(piece)
        matrix[start : start + len(piece)] = vectors
        origin[start : start + len(piece)] = np.where(valid, np.where(is_unit, NORMALISED, FROM_INDEX), LOST)
    del matrix  # written
    unusable = {LOST} if normalised else {LOST, NORMALISED}
    living = _living_ids(db, stored, listed)
    origins = dict(zip(ids, origin.tolist(), strict=True))
    _report(report, stored, reasons, {chunk: origins.get(chunk, LOST) for chunk in living}, normalised=normalised)
    _remove_index(db, copy, stored)
    rows = {chunk: row for row, chunk in enumerate(ids) if origin[row] not in unusable}
    return Rescued(rows, np.load(file, mmap_mode="r"))


def _replay(
    db: sqlite3.Connection, stored: Stored, listed: Mapping[str, Any], mapped: set[str], saved: int
) -> tuple[dict[str, int], set[str]]:
    """Replay the log in order; return the record that gives each id its newest vector, and the ids that were deleted.

    An `add` of an existing id does nothing, nor does an `update` of a missing one. The ids from before the log are known from
    the index, and from the listed ids with the record by which each was last written.
    """
    newest: dict[str, int] = {}
    deleted: set[str] = set()
    for number, operation, chunk, given in _log(db, stored):
        if operation == DELETE:
            newest.pop(chunk, None)
            deleted.add(chunk)
            continue
        exists = chunk in newest or (
            chunk not in deleted
            and ((chunk in mapped and number > saved) or (chunk in listed and sequence(listed[chunk]) < number))
        )
        if given and (operation == UPSERT or (operation == ADD and not exists) or (operation == UPDATE and exists)):
            newest[chunk] = number
            deleted.discard(chunk)
    return newest, deleted


def _from_log(
    db: sqlite3.Connection, stored: Stored, newest: Mapping[str, int], matrix: Vectors, origin: npt.NDArray[np.uint8]
) -> None:
    rows = {number: row for row, number in enumerate(newest.values())}
    query = "SELECT seq_id, vector, encoding FROM embeddings_queue WHERE topic = ? AND vector IS NOT NULL"
    for number, vector, encoding in db.execute(query, (stored.topic,)):
        row = rows.get(number)
        if row is None:
            continue
        kind = _NUMBERS.get(encoding or "FLOAT32")
        if kind is None or not isinstance(vector, bytes) or len(vector) != 4 * matrix.shape[1]:
            continue
        values = np.frombuffer(vector, kind).astype(np.float32)
        if np.isfinite(values).all():
            matrix[row] = values
            origin[row] = FROM_LOG


def _log_dimension(db: sqlite3.Connection, stored: Stored) -> int:
    query = "SELECT length(vector) FROM embeddings_queue WHERE topic = ? AND vector IS NOT NULL"
    sizes = Counter(size for (size,) in db.execute(query, (stored.topic,)))
    return sizes.most_common(1)[0][0] // 4 if sizes else 0


def _living_ids(db: sqlite3.Connection, stored: Stored, listed: Mapping[str, Any]) -> list[str]:
    """Return the ids that the collection will list once the engine has applied the rest of its log."""
    ids = dict.fromkeys(listed)
    for _, operation, chunk, _ in _log(db, stored, stored.taken_in):
        if operation == DELETE:
            ids.pop(chunk, None)
        elif operation in (ADD, UPSERT):
            ids[chunk] = None
    return list(ids)


def _remove_index(db: sqlite3.Connection, copy: Path, stored: Stored) -> None:
    """Remove from the copy what the engine's vector index would read or replay; texts and metadata stay unchanged."""
    shutil.rmtree(copy / stored.vector_segment, ignore_errors=True)
    db.execute("DELETE FROM embeddings_queue WHERE topic = ? AND seq_id <= ?", (stored.topic, stored.taken_in))
    last = sequence(db.execute("SELECT max(seq_id) FROM embeddings_queue").fetchone()[0] or 0)
    _set_bookmark(db, stored.vector_segment, max(last, stored.taken_in))


def _set_bookmark(db: sqlite3.Connection, segment: str, number: int) -> None:
    """Set the log record up to which a segment is saved, in the form of the others: 0.x keeps 8 bytes, and with a number among
    them its upgrade takes a minute.
    """
    form = db.execute("SELECT typeof(seq_id) FROM max_seq_id WHERE segment_id <> ? LIMIT 1", (segment,)).fetchone()
    value = number.to_bytes(8, "big") if form == ("blob",) else number
    db.execute("DELETE FROM max_seq_id WHERE segment_id = ?", (segment,))
    db.execute("INSERT INTO max_seq_id (segment_id, seq_id) VALUES (?, ?)", (segment, value))


# The name of each outcome in the manifest, and its sentence. `ARRIVED`: outcomes with an exact vector.
_OUTCOMES = {
    FROM_LOG: ("vector_from_log", "vectors taken from the log, exact: {n:,}"),
    FROM_INDEX: ("vector_from_index", "vectors taken from the rows of its index, as an engine would read them: {n:,}"),
    LOST: ("vector_lost", "vectors that are in no file any more, these chunks are set aside: {n:,}"),
}
_DIRECTIONS = {
    True: ("vector_normalised", "vectors that have lost their norm, migrated with the length 1, as ordered: {n:,}"),
    False: (
        "norm_lost",
        "vectors that have lost their norm, these chunks are set aside unless migration.normalised is migrate: {n:,}",
    ),
}

ARRIVED = frozenset({"vector_from_log", "vector_from_index"})


def _report(
    report: RepairReport, stored: Stored, reasons: Sequence[str], origins: Mapping[str, int], *, normalised: bool
) -> None:
    """Report the damage in one record, and each outcome in one, with all its ids."""
    reason = "; ".join(dict.fromkeys(reasons))
    report.repairs.append(
        {"repair": "index_folder", "collection_id": stored.id, "collection": stored.name, "id": "", "removed": reason}
    )
    report.collections[stored.id].append(damage(f"its index was not opened: {reason}", counted=True))
    for outcome, (kind, sentence) in {**_OUTCOMES, NORMALISED: _DIRECTIONS[normalised]}.items():
        ids = sorted(chunk for chunk, origin in origins.items() if origin == outcome)
        if ids:
            report.repairs.append({
                "repair": kind, "collection_id": stored.id, "collection": stored.name, "id": "", "count": len(ids),
                "ids": ids,
            })  # fmt: skip
            report.collections[stored.id].append(damage(sentence.format(n=len(ids)), counted=True))


class RescuedStore(ClientStore):
    """Texts and metadata from the engine; vectors and queries of the collections in `rescued`, by name, from their files.

    Their queries are answered by brute force, exactly. Their space cannot be proven by a probe: it is the declared one.
    """

    rescued: Mapping[str, Rescued] = {}

    def _held(self, collection: Collection) -> Rescued | None:
        return self.rescued.get(collection.name)

    def _read_piece(self, collection: Collection, ids: Sequence[str], dimension: int, embeddings: bool) -> ChunkBatch:
        rescued = self._held(collection)
        if rescued is None or not embeddings:
            return super()._read_piece(collection, ids, dimension, embeddings)
        batch = super()._read_piece(collection, ids, 0, False)
        batch.embeddings, batch.lost = rescued.vectors(batch.ids)
        return batch

    def _proven_spaces(self, name: str) -> list[Space] | None:
        return None if self._held(self._collection(name)) else super()._proven_spaces(name)

    def query(self, name: str, vectors: npt.ArrayLike, k: int) -> Neighbours:
        """Do `ClientStore.query`."""
        rescued = self._held(self._collection(name))
        if rescued is None:
            return super().query(name, vectors, k)
        usable = [chunk for chunk in self.ids(name) if chunk in rescued.rows]
        space = self.info(name).space
        return [_nearest(rescued, usable, vector, k, space) for vector in np.asarray(vectors, np.float32)]

    def why_no_text_queries(self, name: str) -> str:
        if self._held(self._collection(name)):
            return "its index is damaged and was not opened"
        return super().why_no_text_queries(name)


def _nearest(
    rescued: Rescued, ids: Sequence[str], vector: npt.NDArray[np.float32], k: int, space: Space
) -> list[tuple[str, float]]:
    distances = np.concatenate([
        np.zeros(0), *(distance(space, rescued.vectors(ids[start : start + _ROWS])[0], vector)
                       for start in range(0, len(ids), _ROWS)),
    ])  # fmt: skip
    best = np.argsort(distances, kind="stable")[:k]
    return [(ids[i], float(distances[i])) for i in best]

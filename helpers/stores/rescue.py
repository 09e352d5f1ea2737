"""Vectors of a collection whose index an engine cannot be trusted with, taken from the files of the copy.

A vector may be in two places: in the write-ahead log of SQLite, raw and exact, and in a row of the index folder
(`index_files`). The newest record of the log that gives an id a vector wins, as it would in the engine; where the log has
been emptied, the row counts; a deletion in the log takes the vector away. What is found is put into one file beside the
copy's database, the index folder and the used part of the log are taken out of the copy, so that the engine has nothing
left to fail on, and the engine serves texts and metadata only (`rescued.RescuedStore`).

A cosine row is stored normalised, its norm in `length.bin`. Where that is gone the direction is left: such a vector is never
called exact, and is used only where the operator says so (`migration.normalised`).
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
from helpers.stores.repair import Found, require_one_each, sequence

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
    """What SQLite says of a collection.

    `topic` is its name in the log ("" where that has no record of it). `saved` is the last log record that its index took
    in by SQLite's own word (None where it says nothing), `taken_in` the last one that its texts and metadata did. `space`
    and `m` are the index's.
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
        """(n, d) float32 of these ids, NaN where there is none; and which are lost."""
        there = np.array([i in self.rows for i in ids], dtype=bool)
        found = np.full((len(ids), self.dimension), np.nan, np.float32)
        if there.any():
            found[there] = self.matrix[[self.rows[i] for i in ids if i in self.rows]]
        return found, ~there


def stored_collections(db: sqlite3.Connection, tenant: str, database: str) -> list[Stored]:
    """The collections of a directory's database that have both of their segments. `sqlite3.DataError` as `require_one_each`."""
    require_one_each(db)
    segments = {(own, scope): i for i, scope, own in db.execute("SELECT id, scope, collection FROM segments")}
    for segment in segments.values():
        _require_id("segment", segment)
    saved = {segment: sequence(number) for segment, number in db.execute("SELECT segment_id, seq_id FROM max_seq_id")}
    topics = {topic.rpartition("/")[2]: topic for (topic,) in db.execute("SELECT DISTINCT topic FROM embeddings_queue")}
    within = {row[0] for row in _rows(db, "databases", ("id", "tenant_id", "name")) if row[1:] == (tenant, database)}
    found = []
    columns = ("id", "name", "dimension", "database_id", "config_json_str", "schema_str")
    for own, name, dimension, place, configuration, schema in _rows(db, "collections", columns):
        vector, texts = segments.get((own, "VECTOR")), segments.get((own, "METADATA"))
        if vector is None or texts is None or (within and place not in within):
            continue
        _require_id("collection", own)
        if (
            not isinstance(dimension, int | None)
            or not 0 <= (dimension or 0) <= MOST_DIMENSION
            or not isinstance(name, str)
        ):
            raise sqlite3.DataError(
                f"a collection has the name {str(name)[:40]!r}, the dimension {str(dimension)[:40]!r}"
            )
        settings, marks = (
            _index_settings(db, own, vector, configuration, schema),
            (saved.get(vector), saved.get(texts, 0)),
        )
        found.append(Stored(own, name, topics.get(own, ""), dimension, *settings, vector, texts, *marks))
    return sorted(found, key=lambda stored: stored.name)


_ID = re.compile(r"[0-9A-Za-z-]{1,64}")


def _require_id(what: str, value: Any) -> None:
    """An id is also the name of a folder that is removed from the copy, or of a file that is written there."""
    if not (isinstance(value, str) and _ID.fullmatch(value)):
        raise sqlite3.DataError(f"a {what} has the id {str(value)[:40]!r}")


_TABLES = {"databases": "SELECT * FROM databases", "collections": "SELECT * FROM collections"}


def _rows(db: sqlite3.Connection, table: str, columns: Sequence[str]) -> list[tuple[Any, ...]]:
    """A whole table of some version of Chroma; a column that it lacks is None, a table that is not there is empty."""
    if not db.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone():
        return []
    read = db.execute(_TABLES[table])
    places = {column[0]: place for place, column in enumerate(read.description)}
    return [tuple(row[places[c]] if c in places else None for c in columns) for row in read]


def _index_settings(
    db: sqlite3.Connection, own: str, segment: str, configuration: str | None, schema: str | None
) -> tuple[str, int]:
    """The distance space and M: of the segment, which is the truth for 0.x (chroma-facts 2), of the collection's metadata,
    of its schema or configuration, or Chroma's defaults.
    """
    said: dict[str, Any] = {}
    for text in (configuration, schema):
        said |= {key: value for key, value in _settings(text) if value is not None}
    for query, owner in (
        ("SELECT key, str_value, int_value FROM collection_metadata WHERE collection_id = ?", own),
        ("SELECT key, str_value, int_value FROM segment_metadata WHERE segment_id = ?", segment),
    ):
        said |= {name: number if text is None else text for name, text, number in db.execute(query, (owner,))}
    space = said.get("hnsw:space") or said.get("space") or "l2"
    m = said.get("hnsw:M") or said.get("max_neighbors") or said.get("M") or 16
    return str(space), int(m) if isinstance(m, int | float) else 16


def _settings(text: str | None) -> Iterator[tuple[str, Any]]:
    """`space`, `M` and `max_neighbors`, wherever a configuration or a schema has the index of the collection's vectors."""
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
class Diagnosis:
    """A collection's index against its log. `reasons` say why the engine is not to be trusted with it; none: it is sound.

    `waiting` log records come after the index was saved. `saved` is up to where it was saved, by SQLite or by the pickle.
    """

    stored: Stored
    health: IndexHealth
    reasons: tuple[str, ...]
    saved: int
    waiting: int


def diagnose(db: sqlite3.Connection, folder: Path, stored: Stored) -> Diagnosis:
    """Look at one collection of a directory, read only. `db` is its database, `folder` the directory."""
    index = _index(folder, stored)
    health = index.health
    last = sequence(db.execute("SELECT max(seq_id) FROM embeddings_queue").fetchone()[0] or 0)
    in_pickle = health.max_seq_id
    saved = stored.saved if stored.saved is not None else in_pickle or 0
    reasons = [text for _, text in health.problems if health.state == "damaged" and _made(index, stored)]
    if in_pickle is not None and stored.saved is not None and in_pickle > stored.saved:
        reasons.append(f"its index was saved up to log record {in_pickle:,}, SQLite says {stored.saved:,}")
    if saved > max(last, stored.taken_in):
        reasons.append(f"its index was saved up to log record {saved:,}, the log ends at {last:,}")
    if odd := _of_other_size(db, stored, health.dimension or stored.dimension, saved):
        reasons.append(f"its log has {odd:,} vectors of another size, which an engine would read beyond their end")
    waiting = _waiting(db, stored, saved)
    if not reasons:
        beyond = sum(1 for _ in _missed(db, stored, set(index.ids.labels if index.ids else ()), saved))
        if beyond:
            reasons.append(f"neither its index nor the rest of its log gives the engine {beyond:,} vectors")
    return Diagnosis(stored, health, tuple(reasons), saved, waiting)


def _index(folder: Path, stored: Stored) -> IndexFolder:
    return IndexFolder(
        folder / stored.vector_segment, dimension=stored.dimension, m=stored.m, cosine=stored.space == "cosine"
    )


def _made(index: IndexFolder, stored: Stored) -> bool:
    """Whether there should be an index: one that was never made is no damage, its vectors are all in the log."""
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
    """Ids that are listed, and to which neither the label map nor the log after `saved` gives a vector."""
    later = {chunk for _, _, chunk, has in _log(db, stored, saved) if has}
    for (chunk,) in db.execute("SELECT embedding_id FROM embeddings WHERE segment_id = ?", (stored.metadata_segment,)):
        if chunk not in mapped and chunk not in later:
            yield chunk


def _log(db: sqlite3.Connection, stored: Stored, after: int = -1) -> Iterator[tuple[int, int, str, bool]]:
    """Number, operation, id and whether there is a vector, of a collection's log records after a number, in order."""
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
    found: Found,
    *,
    normalised: bool,
) -> tuple[dict[str, Rescued], dict[str, list[str]]]:
    """Take the vectors of every collection that needs it out of the copy; by collection name. And, for the other ones with a
    saved index, the ids that the rest of the log touches, by name: the engine has to prove that it can apply it.

    `suspects` are collections, by name, that the engine failed on, and how. What was done goes into `found`. Sound
    collections are left to the engine; of those with an index of 0.4 to 0.5.5, SQLite gets the position up to which it was saved.
    """
    taken: dict[str, Rescued] = {}
    touched: dict[str, list[str]] = {}
    with closing(sqlite3.connect(copy / DATABASE)) as db, db, _indexed(db):
        for stored in stored_collections(db, tenant, database):
            if not wanted(stored.name):
                continue
            seen = diagnose(db, copy, stored)
            reasons = [*seen.reasons, *([suspects[stored.name]] if stored.name in suspects else [])]
            if reasons:
                taken[stored.name] = _take(db, copy, seen, reasons, found, normalised=normalised)
                continue
            if seen.health.max_seq_id is not None and stored.saved is None:
                _tell_bookmark(db, seen, found)
            if seen.health.ids and seen.waiting:
                touched[stored.name] = _with_vector(db, seen)
    return taken, touched


def _with_vector(db: sqlite3.Connection, seen: Diagnosis) -> list[str]:
    """Ids that the log after `saved` gives a vector, and does not delete again."""
    ids: dict[str, None] = {}
    for _, operation, chunk, has in _log(db, seen.stored, seen.saved):
        if operation == DELETE:
            ids.pop(chunk, None)
        elif has and operation in (ADD, UPSERT):
            ids[chunk] = None
    return list(ids)


@contextmanager
def _indexed(db: sqlite3.Connection) -> Iterator[None]:
    """The log by collection, for a directory of thousands of them."""
    db.execute("CREATE INDEX IF NOT EXISTS runbook_log ON embeddings_queue (topic, seq_id)")
    yield
    db.execute("DROP INDEX runbook_log")


def _tell_bookmark(db: sqlite3.Connection, seen: Diagnosis, found: Found) -> None:
    """Upstream #7104: current engines do not read the number in the pickle, and would replay the whole log."""
    _set_bookmark(db, seen.stored.vector_segment, seen.saved)
    found.repairs.append(
        {"repair": "bookmark", "collection_id": seen.stored.id, "id": "", "removed": f"none, now {seen.saved}"}
    )
    found.collections[seen.stored.id].append(damage(
        f"only its pickle said that the index was saved up to log record {seen.saved:,}; put into SQLite on the copy",
        "Today a current engine does not see that number, and would replay the whole log into the index.",
    ))  # fmt: skip


def _take(
    db: sqlite3.Connection, copy: Path, seen: Diagnosis, reasons: Sequence[str], found: Found, *, normalised: bool
) -> Rescued:
    stored = seen.stored
    index = _index(copy, stored)
    listed = dict(
        db.execute("SELECT embedding_id, seq_id FROM embeddings WHERE segment_id = ?", (stored.metadata_segment,))
    )
    newest, gone = _replay(db, stored, listed, set(index.rows), seen.saved)
    ids = [*newest, *(chunk for chunk in index.rows if chunk not in newest and chunk not in gone)]
    width = seen.health.dimension or stored.dimension or _log_dimension(db, stored)
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
        vectors, there, unit = index.vectors(piece)
        matrix[start : start + len(piece)] = vectors
        origin[start : start + len(piece)] = np.where(there, np.where(unit, NORMALISED, FROM_INDEX), LOST)
    del matrix  # written
    kept = {LOST} if normalised else {LOST, NORMALISED}
    alive = _alive(db, stored, listed)
    whose = dict(zip(ids, origin.tolist(), strict=True))
    _report(found, stored, reasons, {chunk: whose.get(chunk, LOST) for chunk in alive}, normalised=normalised)
    _calm(db, copy, stored)
    rows = {chunk: row for row, chunk in enumerate(ids) if origin[row] not in kept}
    return Rescued(rows, np.load(file, mmap_mode="r"))


def _replay(
    db: sqlite3.Connection, stored: Stored, listed: Mapping[str, Any], mapped: set[str], saved: int
) -> tuple[dict[str, int], set[str]]:
    """The log, gone through in order: the record that gives each id its newest vector, and ids that have none any more.

    An `add` of an id that is there already does nothing, an `update` of one that is not there neither. What was there
    before the log begins is known from what is listed: the record that an id was last written by, and from the index.
    """
    newest: dict[str, int] = {}
    gone: set[str] = set()
    for number, operation, chunk, has in _log(db, stored):
        if operation == DELETE:
            newest.pop(chunk, None)
            gone.add(chunk)
            continue
        there = chunk in newest or (
            chunk not in gone
            and ((chunk in mapped and number > saved) or (chunk in listed and sequence(listed[chunk]) < number))
        )
        if has and (operation == UPSERT or (operation == ADD and not there) or (operation == UPDATE and there)):
            newest[chunk] = number
            gone.discard(chunk)
    return newest, gone


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


def _alive(db: sqlite3.Connection, stored: Stored, listed: Mapping[str, Any]) -> list[str]:
    """The ids that the collection will list once the engine has taken in the rest of its log."""
    ids = dict.fromkeys(listed)
    for _, operation, chunk, _ in _log(db, stored, stored.taken_in):
        if operation == DELETE:
            ids.pop(chunk, None)
        elif operation in (ADD, UPSERT):
            ids[chunk] = None
    return list(ids)


def _calm(db: sqlite3.Connection, copy: Path, stored: Stored) -> None:
    """Leave nothing in the copy for the engine's vector index to read or to replay; texts and metadata stay as they are."""
    shutil.rmtree(copy / stored.vector_segment, ignore_errors=True)
    db.execute("DELETE FROM embeddings_queue WHERE topic = ? AND seq_id <= ?", (stored.topic, stored.taken_in))
    last = sequence(db.execute("SELECT max(seq_id) FROM embeddings_queue").fetchone()[0] or 0)
    _set_bookmark(db, stored.vector_segment, max(last, stored.taken_in))


def _set_bookmark(db: sqlite3.Connection, segment: str, number: int) -> None:
    """Up to where a segment is saved, in the form of the others: 0.x keeps 8 bytes, and its upgrade takes a minute over a
    number among them.
    """
    held = db.execute("SELECT typeof(seq_id) FROM max_seq_id WHERE segment_id <> ? LIMIT 1", (segment,)).fetchone()
    value = number.to_bytes(8, "big") if held == ("blob",) else number
    db.execute("DELETE FROM max_seq_id WHERE segment_id = ?", (segment,))
    db.execute("INSERT INTO max_seq_id (segment_id, seq_id) VALUES (?, ?)", (segment, value))


# What each outcome is called in the manifest, and in words. `ARRIVED`: these chunks are whole again.
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
    found: Found, stored: Stored, reasons: Sequence[str], whose: Mapping[str, int], *, normalised: bool
) -> None:
    """One record of what was wrong, and one for each way in which chunks fared, with all their ids."""
    why = "; ".join(dict.fromkeys(reasons))
    found.repairs.append(
        {"repair": "index_folder", "collection_id": stored.id, "collection": stored.name, "id": "", "removed": why}
    )
    found.collections[stored.id].append(damage(f"its index was not opened: {why}", counted=True))
    for outcome, (kind, sentence) in {**_OUTCOMES, NORMALISED: _DIRECTIONS[normalised]}.items():
        ids = sorted(chunk for chunk, fate in whose.items() if fate == outcome)
        if ids:
            found.repairs.append({
                "repair": kind, "collection_id": stored.id, "collection": stored.name, "id": "", "count": len(ids),
                "ids": ids,
            })  # fmt: skip
            found.collections[stored.id].append(damage(sentence.format(n=len(ids)), counted=True))


class RescuedStore(ClientStore):
    """Texts and metadata by the engine; vectors and queries of the collections in `rescued`, by name, from their files.

    Queries there are answered by brute force, exactly. Their space cannot be proven by a probe: it is the declared one.
    """

    rescued: Mapping[str, Rescued] = {}

    def _held(self, collection: Collection) -> Rescued | None:
        return self.rescued.get(collection.name)

    def _read_piece(self, collection: Collection, ids: Sequence[str], dimension: int, embeddings: bool) -> ChunkBatch:
        held = self._held(collection)
        if held is None or not embeddings:
            return super()._read_piece(collection, ids, dimension, embeddings)
        batch = super()._read_piece(collection, ids, 0, False)
        batch.embeddings, batch.lost = held.vectors(batch.ids)
        return batch

    def _proven_spaces(self, name: str) -> list[Space] | None:
        return None if self._held(self._collection(name)) else super()._proven_spaces(name)

    def query(self, name: str, vectors: npt.ArrayLike, k: int) -> Neighbours:
        """As `ClientStore.query`."""
        held = self._held(self._collection(name))
        if held is None:
            return super().query(name, vectors, k)
        usable = [chunk for chunk in self.ids(name) if chunk in held.rows]
        space = self.info(name).space
        return [_nearest(held, usable, vector, k, space) for vector in np.asarray(vectors, np.float32)]

    def text_queries_available(self, name: str) -> str:
        if self._held(self._collection(name)):
            return "its index is damaged and was not opened"
        return super().text_queries_available(name)


def _nearest(
    held: Rescued, ids: Sequence[str], vector: npt.NDArray[np.float32], k: int, space: Space
) -> list[tuple[str, float]]:
    away = np.concatenate([
        np.zeros(0), *(distance(space, held.vectors(ids[start : start + _ROWS])[0], vector)
                       for start in range(0, len(ids), _ROWS)),
    ])  # fmt: skip
    best = np.argsort(away, kind="stable")[:k]
    return [(ids[i], float(away[i])) for i in best]

"""Recognise the content of an embedded directory from its bytes alone.

Opening a Chroma directory with a current client rewrites it for good (chroma-facts 1), and some directories open without
an error although they are no such database (11). So a source is recognised first, then copied (`copying`).
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from helpers.chunks import ChunkBatch, Metadata, align, read_table
from helpers.errors import Terminal, one_line
from helpers.parameters.endpoint import DEFAULT_DATABASE, DEFAULT_TENANT
from helpers.reason_codes import ReasonCode
from helpers.results import json_in
from helpers.stores import Closing, CollectionInfo, Neighbours, damage, distance, from_metadata
from helpers.stores.limits import NO_LIMIT, Limits, Usage

DATABASE = "chroma.sqlite3"
LOGS = ("-wal", "-journal", "-shm")  # suffixes of SQLite's files beside a database, after its real name
COLLECTIONS, EMBEDDINGS = "chroma-collections.parquet", "chroma-embeddings.parquet"  # of Chroma 0.3
VOLUMES = (
    "the image of 1.x keeps its data in /data, older ones in /chroma/chroma; a volume at the other place is unused"
)
IN_DATABASE = "FROM collections c JOIN databases d ON c.database_id = d.id WHERE d.tenant_id = ? AND d.name = ?"
_DATABASES = "SELECT tenant_id, name FROM databases"
USUAL = (DEFAULT_TENANT, DEFAULT_DATABASE)
_MAGIC = b"SQLite format 3\x00"
_LFS = b"version https://git-lfs"


def reading(database: Path, *, how: str = "immutable=1") -> closing[sqlite3.Connection]:
    """Return a connection to an SQLite file, links followed, that writes no byte and ignores a log (see `copying.newest`).

    Raises like `require_plain`.
    """
    uri = f"file:{quote(str(database.resolve()))}?mode=ro&{how}"
    connection = sqlite3.connect(uri, uri=True)
    try:
        require_plain(connection, database)
    except BaseException:
        connection.close()
        raise
    return closing(connection)


# Chroma's own partial indexes; possessive quantifiers, since a statement may hold any number of blanks.
_PARTIAL = re.compile(
    r"(?i)CREATE\s++(UNIQUE\s++)?INDEX\s++[^()]++\([\w\s,\"`]*+\)\s*+WHERE\s++\w++\s++IS\s++NOT\s++NULL\s*+"
)
_MOST_OBJECTS, _MOST_SQL = 1_000, 2**16  # in a schema; Chroma's own has about fifty, and 10 kB
MOST_VALUE = 2**28  # bytes of a text or blob; servers take requests of 40 MB
# An object's type and statement as SQLite writes them; SQLite executes the statement, whatever the type is.
_PLAIN = re.compile(r"table: CREATE (VIRTUAL )?TABLE\s.*|index: (CREATE (UNIQUE )?INDEX\s.*|None)", re.DOTALL)
_LITERAL = re.compile(r"(?i)NULL|TRUE|FALSE|CURRENT_(TIMESTAMP|DATE|TIME)|[-+]?[\d.]{1,30}|(['\"])[^'\"]{0,90}\2")
# Expressions that SQLite computes when rows are read, written or checked; a default may be a literal.
_COMPUTED = """
SELECT iif(c.hidden IN (2, 3), 'generated column', 'default of a column'), t.name || '.' || c.name, c.dflt_value
FROM sqlite_master t, pragma_table_xinfo(t.name) c
WHERE t.type = 'table' AND t.sql NOT LIKE 'CREATE VIRTUAL%' AND (c.hidden IN (2, 3) OR c.dflt_value IS NOT NULL)
UNION ALL
SELECT 'index of an expression', i.name, '' FROM sqlite_master i, pragma_index_xinfo(i.name) c
WHERE i.type = 'index' AND c.cid = -2
UNION ALL
SELECT 'condition (CHECK) of a table', name, '' FROM sqlite_master WHERE type = 'table' AND sql LIKE '%check%(%'
"""


def require_plain(connection: sqlite3.Connection, database: Path) -> None:
    """Raises `Terminal` ("source_foreign_file") where the database holds code: what it runs, and how long, nobody knows.
    `sqlite3.Error` where its schema cannot be read: then nothing is known, and it is not to be used.

    Afterwards the connection reads no value of more than `MOST_VALUE` bytes (`sqlite3.DataError`).
    """
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MOST_VALUE)
    connection.text_factory = lambda raw: raw.decode("utf-8", "replace")  # SQLite runs what is no UTF-8, too
    try:
        found = _code(connection)
    except UnicodeDecodeError as error:  # what SQLite says of a damaged schema may be no text
        raise sqlite3.DatabaseError(str(error)) from None
    finally:
        connection.text_factory = str
    if found:
        kind, name = found[0]
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        raise Terminal(
            ReasonCode.SOURCE_FOREIGN_FILE, f"holds a {kind} ({one_line(str(name), 60)}){more}, which no Chroma makes",
            where=str(database),
            next_step="Find out who made it. Remove it in a copy of the folder (DROP TRIGGER, VIEW, INDEX or COLUMN; "
            "a table with a CHECK is made anew), and migrate the copy.",
        )  # fmt: skip


def _code(connection: sqlite3.Connection) -> list[tuple[str, Any]]:
    """(kind, name) of all in a schema that Chroma does not make and that SQLite may run."""
    objects, length = connection.execute("SELECT count(*), total(length(sql)) FROM sqlite_master").fetchone()
    if objects > _MOST_OBJECTS or length > _MOST_SQL:
        return [("schema", f"{objects:,} tables and indexes in {length / 1e6:,.1f} MB")]
    every = connection.execute("SELECT type, name, sql FROM sqlite_master").fetchall()
    if found := [("statement that is no UTF-8", row[1]) for row in every if "\ufffd" in "".join(map(str, row))]:
        return found
    if found := [(str(kind), name) for kind, name, sql in every if not _PLAIN.fullmatch(f"{kind}: {sql}")]:
        return found
    computed = connection.execute(_COMPUTED)
    found = [(what, name) for what, name, value in computed if what[0] != "d" or not _LITERAL.fullmatch(value)]
    indexes = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql LIKE '%where%'")
    return found + [("partial index", name) for name, sql in indexes if not _PARTIAL.fullmatch(sql)]


def has_log(database: Path) -> bool:
    """Whether the newest of a database may still sit in its write-ahead log or journal, which lie beside the real file."""
    file = database.resolve()
    logs = (file.with_name(f"{file.name}{suffix}") for suffix in ("-wal", "-journal"))
    return any(log.is_file() and log.stat().st_size > 0 for log in logs)


def damaged(error: Exception | str, file: Path, role: str = "source") -> Terminal:
    """What SQLite says of a database, as our error: damage, or that a source is locked."""
    if role == "source" and getattr(error, "sqlite_errorcode", 0) & 255 in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return Terminal(
            ReasonCode.SOURCE_IN_USE, f"SQLite says: {error}", where=str(file),
            next_step="Stop the application that writes to it, then repeat.",
        )  # fmt: skip
    return Terminal(
        ReasonCode(f"{role}_damaged"), f"SQLite says: {error}", where=str(file),
        next_step="Copy the folder again, take the last backup, or recover the file with `sqlite3 .recover` and try that.",
    )  # fmt: skip


def recognise(path: Path, *, role: str = "source") -> None:
    """Require a Chroma directory that a current client can open. Raises one clear `Terminal`."""
    where = f"{role}.path {path}"
    if not path.exists():
        raise Terminal(ReasonCode(f"{role}_missing"), "no such folder", where=where, next_step=f"Check {role}.path.")
    if not path.is_dir():
        raise Terminal(
            ReasonCode(f"{role}_not_a_folder"), "not a folder", where=where, next_step=f"Name the folder that holds {DATABASE}.",
        )  # fmt: skip
    content = contents(path)
    if content in ("parquet", "both"):
        both = content == "both"
        raise Terminal(
            ReasonCode(f"{role}_layout_0_3"),
            f"files of Chroma 0.3 (duckdb and parquet) with chunks that the {DATABASE} beside them does not list in a "
            "collection of that name: two databases in one folder"
            if both
            else "a directory of Chroma 0.3 (duckdb and parquet), which a current client opens as an empty database",
            where=where,
            next_step="Put the one that is meant into a folder of its own." if both else f"Name another {role}.path.",
        )
    database = path / DATABASE
    if database.is_symlink() and not database.exists():
        raise Terminal(
            ReasonCode(f"{role}_link_broken"), f"a link to {database.readlink()}, which is not there", where=str(database),
            next_step="Mount the volume that holds it, or name the folder that Chroma persists to.",
        )  # fmt: skip
    if not database.is_file():
        next_step = "Name the folder that Chroma persists to."
        raise Terminal(ReasonCode(f"{role}_empty"), f"no {DATABASE}", where=where, next_step=next_step)
    _recognise_database(database, role)


def contents(path: Path) -> Literal["database", "parquet", "both"]:
    """Return which files of a directory hold its chunks: `chroma.sqlite3` ("database", also where there is neither), the
    Parquet files of 0.3, or both. Nothing is written.

    An upgrade to 0.4 leaves Parquet files whose chunks are also in the database, and a current client that opened a directory
    of 0.3 leaves an empty database. Where neither can be proven, it is "both".
    """
    if not any((path / name).exists() for name in (COLLECTIONS, EMBEDDINGS)):
        return "database"
    if not (path / DATABASE).exists():
        return "parquet"
    try:
        left = _parquet_chunks(path)
        with reading(path / DATABASE) as db:
            held = has_log(path / DATABASE) or db.execute("SELECT count(*) FROM collections").fetchone()[0]
            if left and not held:
                return "parquet"
            left = left and left - _listed(db)
    except (OSError, pa.ArrowException, ValueError, KeyError, TypeError, AttributeError, sqlite3.Error):
        return "both"
    return "both" if left else "database"


def _parquet_chunks(path: Path) -> set[tuple[str, str]]:
    """(collection, id) of the chunks in the files of 0.3; none where theirs is absent or has no byte. A chunk that an upgrade
    cannot have taken over is of "": one of no collection, or of the second of one name.
    """
    if not (file := path / EMBEDDINGS).exists() or not file.stat().st_size:
        return set()
    first: dict[str, str] = {}
    for row in read_table(path / COLLECTIONS, ["uuid", "name"]).to_pylist() if (path / COLLECTIONS).exists() else ():
        first.setdefault(row["name"], _uuid(row))
    names = {own: name for name, own in first.items()}
    chunks = read_table(file, ["collection_uuid", "id"])
    owners, ids = _owners(chunks).to_pylist(), chunks.column("id").to_pylist()
    return {(names.get(own, ""), str(chunk)) for own, chunk in zip(owners, ids, strict=True)}


def _listed(db: sqlite3.Connection) -> set[tuple[str, str]]:
    """(collection, id) of the chunks that the default database lists: those taken in, and what the log did since."""
    new = db.execute("SELECT 1 FROM sqlite_master WHERE name = 'databases'").fetchone()
    where, given = (IN_DATABASE, USUAL) if new else ("FROM collections c", ())
    names = dict(db.execute(f"SELECT c.id, c.name {where}", given))
    taken = "SELECT s.collection, e.embedding_id FROM embeddings e JOIN segments s ON e.segment_id = s.id"
    log = "SELECT topic, id, operation FROM embeddings_queue WHERE operation <> 1 ORDER BY seq_id"  # 1: an update
    last = {(topic.rpartition("/")[2], chunk): operation for topic, chunk, operation in db.execute(log)}
    found = {chunk for chunk in {*db.execute(taken), *last} if last.get(chunk) != 3}
    return {(name, chunk) for own, chunk in found if (name := names.get(own))}


def leftovers(path: Path) -> list[str]:
    """Return sentences on the files beside those that hold a directory's chunks, for its findings."""
    old = [name for name in (COLLECTIONS, EMBEDDINGS) if (path / name).exists()]
    if not old or not (path / DATABASE).exists():
        return []
    if contents(path) == "parquet":
        return [
            f"an empty {DATABASE} lies beside the files of Chroma 0.3: a newer client was tried there; it is not read"
        ]
    return [f"{' and '.join(old)} of Chroma 0.3 hold no chunk that {DATABASE} lacks: an upgrade left them; not read"]


def _recognise_database(database: Path, role: str) -> None:
    try:
        size = database.stat().st_size
        with database.open("rb") as file:
            head = file.read(100)
    except OSError as error:
        raise unreadable(error, database, role) from error
    if head.startswith(_LFS):
        raise Terminal(
            ReasonCode(f"{role}_lfs_pointer"), "a Git LFS pointer, not the database itself", where=str(database),
            next_step="Run `git lfs pull` where it came from and copy the folder again.",
        )  # fmt: skip
    if not head.startswith(_MAGIC) or len(head) < 100:
        raise Terminal(
            ReasonCode(f"{role}_foreign_file"), "not an SQLite database", where=str(database),
            next_step="Copy the folder again from the machine that Chroma runs on.",
        )  # fmt: skip
    page = int.from_bytes(head[16:18], "big")
    page = 65536 if page == 1 else page
    pages = int.from_bytes(head[28:32], "big")
    if page < 512 or size < page * pages or size % page:
        raise Terminal(
            ReasonCode(f"{role}_truncated"), f"truncated: {size:,} bytes, its header promises {page * pages:,}",
            where=str(database), next_step="Copy the folder again, or take the last backup.",
        )  # fmt: skip


def stored_names(path: Path, tenant: str, database: str, *, role: str = "source") -> list[str]:
    """The collections that a directory's database lists, read without writing a byte. `Terminal` where it is no Chroma's, or
    cannot be read.

    For a quick look before a run only: what still sits in a log is not seen, so beside a log (`has_log`) nothing that is
    absent proves anything.
    """
    file = (path / DATABASE).resolve()
    complete = not has_log(file)
    try:
        with reading(file) as db:
            tables = {row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if "collections" not in tables and complete:
                raise Terminal(
                    ReasonCode(f"{role}_foreign_file"), "an SQLite database, but not one that Chroma wrote", where=str(file),
                    next_step="Name the folder that Chroma persists to.",
                )  # fmt: skip
            old = "databases" not in tables  # before 0.4.15: all are in what is the default today
            if complete:
                _require_database({USUAL} if old else set(db.execute(_DATABASES)), path, tenant, database, role)
            if "collections" not in tables or (old and (tenant, database) != USUAL):
                return []
            if old:
                return sorted(row[0] for row in db.execute("SELECT name FROM collections"))
            return sorted(row[0] for row in db.execute(f"SELECT c.name {IN_DATABASE}", (tenant, database)))
    except sqlite3.DatabaseError as error:
        raise damaged(error, file, role) from error


def _require_database(known: set[tuple[str, str]], path: Path, tenant: str, database: str, role: str) -> None:
    if (tenant, database) in known:
        return
    level, name = ("database", database) if tenant in {t for t, _ in known} else ("tenant", tenant)
    shown = ", ".join(f"{t}/{d}" for t, d in sorted(known)[:5])
    raise Terminal(
        ReasonCode(f"unknown_{level}"), f"no {level} {name}; it holds {shown or 'none'}", where=f"{role}.path {path}",
        next_step=f"Check {role}.{level}.",
    )  # fmt: skip


OURS = ".runbook-"  # prefix of folders that a probe or a killed creation may have left in a new target folder


def is_new(path: Path) -> bool:
    """Return whether a target folder is missing, or holds only a volume's own `lost+found` and our unfinished parts."""
    if not path.exists():
        return True
    return path.is_dir() and all(e.name == "lost+found" or e.name.startswith(OURS) for e in path.iterdir())


def require_writable(path: Path) -> None:
    """Require that a target folder can be created, or written to if it exists. Raises one clear `Terminal`."""
    if path.is_symlink() and not path.exists():
        raise Terminal(
            ReasonCode.TARGET_UNWRITABLE, f"a link to {path.readlink()}, which is not there", where=f"target.path {path}",
            next_step="Mount the volume that it leads to, or name another folder.",
        )  # fmt: skip
    existing = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
    if not existing.is_dir():
        problem = "not a folder"
    elif not os.access(existing, os.W_OK | os.X_OK):
        problem = "not writable for this user"
    else:
        return
    raise Terminal(
        ReasonCode.TARGET_UNWRITABLE, f"cannot be written: {existing} is {problem}", where=f"target.path {path}",
        next_step="Name another folder, or correct that one's permissions.",
    )  # fmt: skip


def unreadable(error: OSError, path: Path, role: str) -> Terminal:
    """Return the system's refusal to read as our error."""
    return Terminal(
        ReasonCode(f"{role}_unreadable"), f"cannot be read: {error.strerror}", where=str(error.filename or path),
        next_step="Run as a user who may read the whole folder.",
    )  # fmt: skip


# -- duckdb layout -----------------------------------------------------------------------------------------------------
#
# A directory of Chroma 0.3 (duckdb and parquet), read directly: two Parquet files hold all data.
#
# `chroma-collections.parquet` has a row per collection (uuid, name, metadata as JSON text), `chroma-embeddings.parquet` a
# row per chunk (collection_uuid, id, document, embedding as doubles, metadata as JSON text). The `index` folder beside
# them is pickled Python, derived from the vectors, and is never opened. Queries are answered by brute force, exactly.


_COLUMNS = {
    COLLECTIONS: ("uuid", "name", "metadata"),
    EMBEDDINGS: ("collection_uuid", "embedding", "document", "id", "metadata"),
}


def is_duckdb_layout(path: Path) -> bool:
    """Return whether the Parquet files of 0.3 hold the directory's chunks, and no database beside them does (`contents`)."""
    return contents(path) == "parquet"


def duckdb_names(path: Path, rename: Mapping[str, str]) -> list[str]:
    """Return the collections of a directory of 0.3, renamed by `rename`. Reads chunks only if two collections have one name."""
    return sorted(_named(path, _read(path / COLLECTIONS).to_pylist(), rename, None))


class DuckdbStore(Closing):
    """Reads one directory of 0.3 without a copy: the two files are read once, into memory.

    0.3 kept collections by uuid, so two may have one name: `rename` gives the collection of a uuid another one.
    """

    protocol = "Parquet files, read directly"

    def __init__(
        self, path: Path, label: str, wanted: Callable[[str], bool] = lambda name: True,
        rename: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        own = "a directory of Chroma 0.3, read from its Parquet files; its index folder is not opened"
        self.label, self.version = label, "0.3 (duckdb and parquet)"
        self.findings: tuple[str, ...] = (own, *leftovers(path))
        self.repairs: list[dict[str, Any]] = []
        self.usage = Usage()
        self.limit_changes: tuple[str, ...] = ()
        chunks = _read(path / EMBEDDINGS)
        self._collections = _named(path, _read(path / COLLECTIONS).to_pylist(), rename or {}, chunks)
        self._chunks: dict[str, _Chunks] = {}
        self._tables: dict[str, pa.Table] = {}
        owners = _owners(chunks)
        for name, row in self._collections.items():
            self._tables[name] = chunks.filter(pc.equal(owners, _uuid(row)))
            if wanted(name):
                self._of(name)  # raises its errors at once
        if strays := len(chunks) - sum(len(table) for table in self._tables.values()):
            self.findings += (f"{strays} chunks belong to no collection and are not migrated",)

    def limits(self) -> Limits:
        return Limits(0, 0, read_rows=NO_LIMIT, page_rows=NO_LIMIT, query_vectors=NO_LIMIT)  # all of it is in memory

    def names(self) -> list[str]:
        return sorted(self._collections)

    def identity(self, name: str) -> str:
        return ""

    def collections(self) -> list[CollectionInfo]:
        return [self.info(name) for name in self.names()]

    def info(self, name: str) -> CollectionInfo:
        chunks = self._of(name)
        metadata = _metadata(self._collections[name]["metadata"], f"collection {name} of {self.label}")
        space = from_metadata(metadata) or "l2"
        configuration = {"hnsw": {"space": space}, "spann": None, "embedding_function": None}
        return CollectionInfo(name, len(chunks.batch), chunks.dimension, space, space, metadata, configuration,
                              findings=chunks.findings)  # fmt: skip

    def count(self, name: str) -> int:
        return len(self._table(name))

    def ids(self, name: str) -> list[str]:
        return list(self._of(name).batch.ids)

    def some_ids(self, name: str, most: int) -> list[str]:
        return self._of(name).batch.ids[:most]

    def read(self, name: str, ids: Sequence[str], *, embeddings: bool = True) -> ChunkBatch:
        """Return these chunks, in this order; unknown ids are absent."""
        chunks = self._of(name)
        rows, _ = align(ids, chunks.rows)
        batch = chunks.batch.take(rows)
        if not embeddings:
            batch.embeddings = np.zeros((len(batch), 0), np.float32)
            batch.lost = np.zeros(len(batch), dtype=bool)
        return batch

    def query(self, name: str, vectors: npt.ArrayLike, k: int) -> Neighbours:
        """Return the k nearest of each row of `vectors` (n, d), by brute force over every chunk: (id, distance), best first."""
        batch, space = self._of(name).batch, self.info(name).space
        usable = np.flatnonzero(~batch.lost)
        hits: Neighbours = []
        for vector in np.asarray(vectors, np.float32):
            distances = distance(space, batch.embeddings[usable], vector) if len(usable) else np.zeros(0)
            nearest = np.argsort(distances, kind="stable")[:k]
            hits.append([(batch.ids[usable[i]], float(distances[i])) for i in nearest])
        return hits

    def query_texts(self, name: str, texts: Sequence[str], k: int) -> list[list[tuple[str, float, str | None]]]:
        where = f"collection {name} of {self.label}"
        raise Terminal(ReasonCode.EMBEDDING_FUNCTION_UNAVAILABLE, self.why_no_text_queries(name), where=where)

    def why_no_text_queries(self, name: str) -> str:
        return "Chroma 0.3 keeps no embedding function"

    def unindexed(self, name: str) -> int:
        """Return the writes that the index does not hold yet: none."""
        return 0

    def close(self) -> None:
        self._chunks.clear()
        self._tables.clear()

    def _of(self, name: str) -> _Chunks:
        if name not in self._chunks:
            self._chunks[name] = _Chunks(self._table(name), f"collection {name} of {self.label}")
        return self._chunks[name]

    def _table(self, name: str) -> pa.Table:
        if name not in self._tables:
            raise Terminal(ReasonCode.NOT_FOUND, f"no collection {name}", where=self.label)
        return self._tables[name]


def _uuid(row: Mapping[str, Any]) -> str:
    return str(row["uuid"]).lower()


def _owners(chunks: pa.Table) -> Any:
    """Return the uuid of each chunk's collection."""
    return pc.utf8_lower(pc.cast(chunks.column("collection_uuid"), pa.string()))


def _named(
    path: Path, rows: Sequence[dict[str, Any]], rename: Mapping[str, str], chunks: pa.Table | None
) -> dict[str, dict[str, Any]]:
    """Return the rows of the collections' file by name. Raises `Terminal` ("source_doubled_names") where two have one name.

    `chunks`: read here if None, and only to count the chunks of such collections.
    """
    names = {uuid.lower(): name for uuid, name in rename.items()}
    if unknown := sorted(set(names) - {_uuid(row) for row in rows}):
        raise Terminal(
            ReasonCode.UNKNOWN_COLLECTION, f"no collection has the uuid {unknown[0]}, which source.rename names", where=str(path),
            next_step=f"The uuids are in {COLLECTIONS}.",
        )  # fmt: skip
    by_name: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_name.setdefault(names.get(_uuid(row), str(row["name"])), []).append(row)
    doubled = {name: group for name, group in by_name.items() if len(group) > 1}
    if not doubled:
        return {name: group[0] for name, group in by_name.items()}
    counts = Counter(_owners(_read(path / EMBEDDINGS) if chunks is None else chunks).to_pylist())
    problem = "; ".join(
        f"{len(group)} collections are named {name}: "
        + " and ".join(f"{_uuid(row)} with {counts[_uuid(row)]:,} chunks" for row in group)
        for name, group in sorted(doubled.items())
    )
    name, group = sorted(doubled.items())[0]
    raise Terminal(
        ReasonCode.SOURCE_DOUBLED_NAMES, problem, where=str(path),
        next_step=f"Name them apart: --set 'source.rename={{{_uuid(group[-1])}: {name}-2}}'",
    )  # fmt: skip


class _Chunks:
    """The chunks of one collection; vectors of another size than most count as lost."""

    def __init__(self, table: pa.Table, where: str) -> None:
        ids = [str(i) for i in table.column("id").to_pylist()]
        self.rows = {chunk: row for row, chunk in enumerate(ids)}
        if len(self.rows) < len(ids):
            doubled = next(i for i, n in Counter(ids).items() if n > 1)
            raise Terminal(
                ReasonCode.SOURCE_DOUBLED_IDS,
                f"{len(ids) - len(self.rows)} chunks have the id of another one, such as {doubled}", where=where,
                next_step="Servers hold an id once: rename these, or leave the collection out, collections.exclude.",
            )  # fmt: skip
        with np.errstate(over="ignore"):  # numbers beyond float32 become infinite, and their chunks are quarantined
            values = (v.values if v.is_valid else None for v in table.column("embedding"))
            vectors = [None if v is None else v.to_numpy(zero_copy_only=False).astype(np.float32) for v in values]
        sizes = Counter(len(v) for v in vectors if v is not None and len(v))
        self.dimension = sizes.most_common(1)[0][0] if sizes else None
        lost = np.array([v is None or len(v) != self.dimension for v in vectors], dtype=bool)
        matrix = np.full((len(ids), self.dimension or 0), np.nan, np.float32)
        for row in np.flatnonzero(~lost):
            matrix[row] = vectors[row]
        sentence = f"{int(lost.sum())} chunks have no vector of {self.dimension} dimensions"
        self.findings = (damage(sentence, counted=True),) if lost.any() else ()
        self.batch = ChunkBatch(
            ids=ids,
            documents=table.column("document").to_pylist(),
            embeddings=matrix,
            metadatas=[_metadata(text, where) for text in table.column("metadata").to_pylist()],
            lost=lost,
        )


def _metadata(text: str | None, where: str) -> Metadata | None:
    """Return metadata from its JSON text; None for `null`, no text and `{}`. Raises `Terminal` ("source_damaged") for no JSON."""
    try:
        value = json_in(text) if text else None
    except ValueError as error:
        problem = f"metadata that is no JSON ({error}): {one_line(text or '', 60)}"
        raise Terminal(ReasonCode.SOURCE_DAMAGED, problem, where=where, next_step="Copy the folder again.") from error
    return value if isinstance(value, dict) and value else None


def _read(file: Path) -> pa.Table:
    """Read one of the two files. Raises `Terminal` where it is absent, a Git LFS pointer, truncated or foreign."""
    where = str(file)
    try:
        with file.open("rb") as stream:
            pointer = stream.read(len(_LFS)) == _LFS
        if not pointer:
            (table := read_table(file)).validate(full=True)
    except FileNotFoundError as error:
        raise Terminal(
            ReasonCode.SOURCE_INCOMPLETE, "a directory of Chroma 0.3 without this file", where=where,
            next_step="Copy the whole folder again.",
        ) from error  # fmt: skip
    except (OSError, pa.ArrowException, ValueError) as error:
        raise Terminal(
            ReasonCode.SOURCE_DAMAGED, f"no readable Parquet file: {error}", where=where,
            next_step="Copy the folder again. If it is as it should be, find out who made it.",
        ) from error  # fmt: skip
    if pointer:
        raise Terminal(
            ReasonCode.SOURCE_LFS_POINTER, "a Git LFS pointer, not the file itself", where=where,
            next_step="Run `git lfs pull` where it came from and copy the folder again.",
        )  # fmt: skip
    columns = _COLUMNS[file.name]
    if missing := [name for name in columns if name not in table.column_names]:
        raise Terminal(ReasonCode.SOURCE_FOREIGN_FILE, f"has no column {', '.join(missing)}", where=where)
    if unfit := [name for name in columns if table.column_names.count(name) > 1 or not _fits(name, table)]:
        problem = f"its columns {', '.join(unfit)} are not as Chroma 0.3 wrote them"
        raise Terminal(ReasonCode.SOURCE_FOREIGN_FILE, problem, where=where)
    return table


def _fits(name: str, table: pa.Table) -> bool:
    """Return whether a column holds vectors or texts, as its name requires; a column of nulls fits."""
    kind = table.schema.field(name).type
    if name == "embedding":
        lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
        return bool(pa.types.is_null(kind) or (lists and pa.types.is_floating(kind.value_type)))
    return bool(pa.types.is_null(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind))

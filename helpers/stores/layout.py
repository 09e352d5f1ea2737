"""What lies in an embedded directory, known from its bytes alone.

Opening a Chroma directory with a current client rewrites it for good (chroma-facts 1), and some directories open without
an error although they are no database of this kind (11). So a source is recognised first, then copied (`copying`).
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq

from helpers.errors import Terminal
from helpers.reason_codes import ReasonCode

DATABASE = "chroma.sqlite3"
LOGS = ("-wal", "-journal", "-shm")  # what SQLite puts beside a database, under its real name
COLLECTIONS, EMBEDDINGS = "chroma-collections.parquet", "chroma-embeddings.parquet"  # of Chroma 0.3
VOLUMES = (
    "the image of Chroma 1.x keeps its data in /data, older ones in /chroma/chroma; a volume mounted at the other place is "
    "not used, and nothing says so"
)
_MAGIC = b"SQLite format 3\x00"
_LFS = b"version https://git-lfs"


def reading(database: Path, *, live: bool = False) -> closing[sqlite3.Connection]:
    """A connection to an SQLite file, links followed, that writes no byte; `live`: another process may write meanwhile."""
    uri = f"file:{quote(str(database.resolve()))}?mode=ro{'' if live else '&immutable=1'}"
    return closing(sqlite3.connect(uri, uri=True))


def has_log(database: Path) -> bool:
    """Whether the newest of a database may still sit in its write-ahead log, which lies beside the real file."""
    file = database.resolve()
    log = file.with_name(f"{file.name}-wal")
    return log.is_file() and log.stat().st_size > 0


def damaged(error: Exception | str, file: Path, role: str = "source") -> Terminal:
    """What SQLite says of a database, as our error."""
    return Terminal(
        ReasonCode(f"{role}_damaged"), f"SQLite says: {error}", where=str(file),
        next_step="Copy the folder again, take the last backup, or recover the file with `sqlite3 .recover` and try that.",
    )  # fmt: skip


def recognise(path: Path, *, role: str = "source") -> None:
    """Nothing where `path` is a Chroma directory that a current client can open; else one clear `Terminal`."""
    where = f"{role}.path {path}"
    if not path.exists():
        raise Terminal(ReasonCode(f"{role}_missing"), "no such folder", where=where, next_step=f"Check {role}.path.")
    if not path.is_dir():
        raise Terminal(
            ReasonCode(f"{role}_not_a_folder"),
            "not a folder",
            where=where,
            next_step="Name the folder that holds chroma.sqlite3.",
        )
    holds = contents(path)
    if holds in ("parquet", "both"):
        both = holds == "both"
        raise Terminal(
            ReasonCode(f"{role}_layout_0_3"),
            f"files of Chroma 0.3 (duckdb and parquet) with chunks that the {DATABASE} beside them lacks: two databases in "
            "one folder"
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
        raise Terminal(
            ReasonCode(f"{role}_empty"),
            f"no {DATABASE}",
            where=where,
            next_step="Name the folder that Chroma persists to.",
        )
    _recognise_database(database, role)


def contents(path: Path) -> Literal["database", "parquet", "both"]:
    """Which files of a directory hold its chunks: `chroma.sqlite3`, the Parquet files of 0.3, or both ("database" too
    where there is neither). Nothing is written.

    An upgrade to 0.4 leaves Parquet files whose chunks are in the database too, and a current client that opened a
    directory of 0.3 leaves a database that holds nothing. Where that is not known it is "both".
    """
    if not any((path / name).exists() for name in (COLLECTIONS, EMBEDDINGS)):
        return "database"
    if not (path / DATABASE).exists():
        return "parquet"
    try:
        left = _parquet_ids(path / EMBEDDINGS)
        with reading(path / DATABASE) as db:
            if (
                left
                and not has_log(path / DATABASE)
                and not db.execute("SELECT count(*) FROM collections").fetchone()[0]
            ):
                return "parquet"
            for query in ("SELECT embedding_id FROM embeddings", "SELECT id FROM embeddings_queue") if left else ():
                left.difference_update(row[0] for row in db.execute(query))
    except (OSError, pa.ArrowException, KeyError, sqlite3.Error):
        return "both"
    return "both" if left else "database"


def _parquet_ids(file: Path) -> set[str]:
    """The ids in the chunks' file of 0.3; none where it is absent or has no byte."""
    if not file.exists() or not file.stat().st_size:
        return set()
    return {str(chunk) for chunk in pq.ParquetFile(file).read(columns=["id"]).column("id").to_pylist()}


def leftovers(path: Path) -> list[str]:
    """What lies beside the files that hold a directory's chunks, as sentences for its findings."""
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
            ReasonCode(f"{role}_truncated"),
            f"truncated: {size:,} bytes, its header promises {page * pages:,}",
            where=str(database),
            next_step="Copy the folder again, or take the last backup.",
        )


def stored_names(path: Path, tenant: str, database: str, *, role: str = "source") -> list[str]:
    """The collections that a directory's database lists, read without writing a byte. `Terminal` where it is no Chroma's.

    For a quick look before a run only: what still sits in a write-ahead log is not seen, so beside a log nothing that is
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
            if not {"collections", "databases"} <= tables:  # before 0.4.15 there were no databases
                return []
            if complete:
                _require_database(db, path, tenant, database, role)
            query = (
                "SELECT c.name FROM collections c JOIN databases d ON c.database_id = d.id "
                "WHERE d.tenant_id = ? AND d.name = ?"
            )
            return sorted(row[0] for row in db.execute(query, (tenant, database)))
    except sqlite3.OperationalError:  # a layout that this look does not know; opening it will say
        return []
    except sqlite3.DatabaseError as error:
        raise damaged(error, file, role) from error


def stored_metadata(path: Path, tenant: str, database: str, name: str) -> dict[str, str] | None:
    """The texts in a collection's metadata, read without writing a byte; None where there is no such collection."""
    collection = (
        "SELECT c.id FROM collections c JOIN databases d ON c.database_id = d.id "
        "WHERE d.tenant_id = ? AND d.name = ? AND c.name = ?"
    )
    try:
        with reading(path / DATABASE, live=True) as db:
            found = db.execute(collection, (tenant, database, name)).fetchone()
            if found is None:
                return None
            texts = "SELECT key, str_value FROM collection_metadata WHERE collection_id = ? AND str_value IS NOT NULL"
            return dict(db.execute(texts, found))
    except sqlite3.Error:  # no database of Chroma's, or one that is locked this moment: then nobody is named
        return None


def _require_database(db: sqlite3.Connection, path: Path, tenant: str, database: str, role: str) -> None:
    known = {(row[0], row[1]) for row in db.execute("SELECT tenant_id, name FROM databases")}
    if (tenant, database) in known:
        return
    what, name = ("database", database) if tenant in {t for t, _ in known} else ("tenant", tenant)
    held = ", ".join(f"{t}/{d}" for t, d in sorted(known)[:5])
    raise Terminal(
        ReasonCode(f"unknown_{what}"), f"no {what} {name}; it holds {held or 'none'}", where=f"{role}.path {path}",
        next_step=f"Check {role}.{what}.",
    )  # fmt: skip


OURS = ".runbook-"  # what a probe, or a making that was killed, may have left in a new target folder


def is_new(path: Path) -> bool:
    """Whether a target folder is not there yet, or holds nothing but a volume's own `lost+found` and our unfinished parts."""
    if not path.exists():
        return True
    return path.is_dir() and all(e.name == "lost+found" or e.name.startswith(OURS) for e in path.iterdir())


def require_writable(path: Path) -> None:
    """Nothing where a target folder can be made, or written to where it is there; else one clear `Terminal`."""
    if path.is_symlink() and not path.exists():
        raise Terminal(
            ReasonCode.TARGET_UNWRITABLE, f"a link to {path.readlink()}, which is not there", where=f"target.path {path}",
            next_step="Mount the volume that it leads to, or name another folder.",
        )  # fmt: skip
    there = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
    if not there.is_dir():
        why = "not a folder"
    elif not os.access(there, os.W_OK | os.X_OK):
        why = "not writable for this user"
    else:
        return
    raise Terminal(
        ReasonCode.TARGET_UNWRITABLE, f"cannot be written: {there} is {why}", where=f"target.path {path}",
        next_step="Name another folder, or correct that one's permissions.",
    )  # fmt: skip


def unreadable(error: OSError, path: Path, role: str) -> Terminal:
    """The system's refusal to let us read, as our error."""
    return Terminal(
        ReasonCode(f"{role}_unreadable"), f"cannot be read: {error.strerror}", where=str(error.filename or path),
        next_step="Run as a user who may read the whole folder.",
    )  # fmt: skip


def stored_spaces(copy: Path) -> dict[str, str]:
    """`hnsw:space` by collection id from the vector segments: the truth for collections of 0.4–0.6 (chroma-facts 2)."""
    query = (
        "SELECT s.collection, m.str_value FROM segments s JOIN segment_metadata m ON m.segment_id = s.id "
        "WHERE s.scope = 'VECTOR' AND m.key = 'hnsw:space' AND m.str_value IS NOT NULL"
    )
    try:
        with closing(sqlite3.connect(copy / DATABASE)) as db:
            return {row[0]: row[1] for row in db.execute(query)}
    except sqlite3.Error:
        return {}

"""What SQLite derives in a copied directory, its indexes and the full-text index: checked, and made anew where it is damaged.

Every chunk can be read without them, so damage there is no reason to refuse a source. SQLite before 3.44 does not look into a
full-text index by itself; it is asked to.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from helpers.stores.severity import damage

FULLTEXT = "embedding_fulltext_search"
_SHADOWS = ("data", "idx", "content", "docsize", "config")
_ASK = "INSERT INTO embedding_fulltext_search (embedding_fulltext_search) VALUES ('integrity-check')"
_DERIVED = ("index", FULLTEXT)  # words of `quick_check` about what can be made anew
_MOST = 100


def rebuild(database: Path) -> list[str]:
    """Make anew what is damaged and derived, in place; a sentence for each. What else is wrong is left for others to find."""
    try:
        with closing(sqlite3.connect(database)) as db, db:
            tables = {row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if "embedding_metadata" not in tables:
                return []
            said: list[str] = []
            if wrong := _fulltext(db, tables):
                _make_fulltext(db, tables)
                said.append(damage(
                    f"the full-text index was {wrong}; made anew on the copy from the documents, none is lost",
                    "In the original, text search (where_document) fails or misses chunks today.",
                ))  # fmt: skip
            if _damaged_indexes(db):
                db.execute("REINDEX")
                said.append(damage("an index of SQLite was damaged; made anew on the copy, no chunk is lost"))
            return said
    except sqlite3.Error:
        return []


def _fulltext(db: sqlite3.Connection, tables: set[str]) -> str:
    """What is wrong with the full-text index: "missing", "damaged" or nothing, ""."""
    if FULLTEXT not in tables:
        return "missing"
    try:
        db.execute(_ASK)
    except sqlite3.DatabaseError:
        return "damaged"
    return ""


def _damaged_indexes(db: sqlite3.Connection) -> bool:
    said = [row[0] for row in db.execute(f"PRAGMA integrity_check({_MOST})")]
    return said != ["ok"] and all(any(word in line for word in _DERIVED) for line in said)


def _make_fulltext(db: sqlite3.Connection, tables: set[str]) -> None:
    """The table as Chroma makes it, filled from the documents. Chroma's rows have the number of the chunk's own row."""
    if FULLTEXT in tables:
        try:
            db.execute(f"DROP TABLE {FULLTEXT}")
        except sqlite3.DatabaseError:  # damaged beyond its own removal
            db.execute("PRAGMA writable_schema = ON")
            db.execute("DELETE FROM sqlite_master WHERE name = ?", (FULLTEXT,))
            db.execute("PRAGMA writable_schema = RESET")
    for shadow in _SHADOWS:
        db.execute(f"DROP TABLE IF EXISTS {FULLTEXT}_{shadow}")
    db.execute(f"CREATE VIRTUAL TABLE {FULLTEXT} USING fts5(string_value, tokenize='trigram')")
    db.execute(
        "INSERT INTO embedding_fulltext_search (rowid, string_value) SELECT id, string_value FROM embedding_metadata "
        "WHERE key = 'chroma:document' AND string_value IS NOT NULL"
    )

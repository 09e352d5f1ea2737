"""Damage in a copied Chroma directory: repaired if the engine would fail on it, else reported.

Pure SQLite and file names, on the copy alone, before any engine opens it. One poisoned record in the write-ahead log
makes current engines refuse whole collections (chroma-facts 3 and 16). Nothing is dropped in silence: `RepairReport.repairs`
keeps what is removed, and a record without a vector stays listed by the collection, so that it ends in quarantine with
its document and metadata. Index folders are `rescue`'s.
"""

from __future__ import annotations

import json
import math
import sqlite3
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from helpers.results import is_crowded
from helpers.stores import damage
from helpers.stores.layout import DATABASE, damaged, reading

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


def _collection(topic: str) -> str:
    return topic.rpartition("/")[2]


@dataclass(slots=True)
class RepairReport:
    """Sentences about the source, sentences by collection id, and each value or record that was removed.

    A sentence is a note, unless it is a `Finding` with a severity.
    """

    source: list[str] = field(default_factory=list)
    collections: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    repairs: list[dict[str, Any]] = field(default_factory=list)

    def add(
        self, repair: str, rows: list[tuple[str, str, Any]], sentence: str, kind: str = "", meaning: str = ""
    ) -> None:
        """Add rows of (collection id, record id, what was removed), and for each collection a sentence with {n}, as damage.

        A key that has a repair of `kind`, and so a sentence already, gets no second one.
        """
        same_kind = [r for r in self.repairs if r["repair"] == kind]
        reported = {(r["collection_id"], r["id"], key) for r in same_kind for key in r["removed"]}
        for collection, chunk, removed in rows:
            self.repairs.append({"repair": repair, "collection_id": collection, "id": chunk, "removed": removed})
        new_rows = [row for row in rows if not reported or any((row[0], row[1], key) not in reported for key in row[2])]
        for collection, n in sorted(Counter(row[0] for row in new_rows).items()):
            self.collections[collection].append(damage(sentence.format(n=n), meaning))


def mend(copy: Path, source: Path) -> RepairReport:
    """Repair the database of the copy; report what was wrong. `source` is only named in errors (`source_damaged`)."""
    report = RepairReport()
    try:
        with closing(sqlite3.connect(copy / DATABASE)) as db, db:
            db.create_function("is_text", 1, _is_text, deterministic=True)
            require_one_each(db)
            _replace_broken_utf8(db, report)
            _repair_log_json(db, report)
            _remove_nan(db, report)
            _remove_hidden(db, report)
            _remove_null_documents(db, report)
            _remove_foreign_values(db, report)
            _remove_without_vectors(db, report)
            _requeue_skipped(db, report)
            _report_unlisted(db, report)
            _report_orphans(db, report)
            _report_unowned_folders(db, copy, report)
            _report_nul(db, report)
    except sqlite3.Error as error:
        raise damaged(error, source / DATABASE) from error
    return report


_TWICE = """SELECT c.id, c.name, s.scope, count(*) FROM segments s JOIN collections c ON s.collection = c.id
    GROUP BY c.id, s.scope HAVING count(*) > 1"""


def require_one_each(db: sqlite3.Connection) -> None:
    """`sqlite3.DataError` if a collection has two segments of one scope, or two names in the log: chunks would be taken from
    one of them, and those of the other would be missing without a word.
    """
    for collection, name, scope, n in db.execute(_TWICE):
        raise sqlite3.DataError(
            f"{_label(collection, name)} has {n} segments {str(scope)[:40]}, and nothing says which one counts"
        )
    topics = Counter(_collection(topic) for (topic,) in db.execute("SELECT DISTINCT topic FROM embeddings_queue"))
    for collection, name in db.execute("SELECT id, name FROM collections"):
        if topics[collection] > 1:
            raise sqlite3.DataError(
                f"{_label(collection, name)} has {topics[collection]} names in the log, and nothing says which one counts"
            )


def _label(collection: Any, name: Any) -> str:
    return f"collection {str(name)[:60]!r} ({str(collection)[:60]})"


def migrations(database: Path) -> list[tuple[str, int]]:
    """(part, version) of the newest migration of each part of a directory's database; [] if it cannot be read."""
    try:
        with reading(database) as db:
            return [(d, v) for d, v in db.execute("SELECT dir, max(version) FROM migrations GROUP BY dir ORDER BY dir")]
    except sqlite3.Error:
        return []


def _is_text(value: bytes | None) -> bool:
    """Whether a text of SQLite is UTF-8, which SQLite itself does not check."""
    try:
        return value is None or bool(value.decode("utf-8") or True)
    except UnicodeDecodeError:
        return False


# Where texts are, and what they belong to. Ids are not touched: two of them might become one.
_TABLES = ("embedding_metadata", "embedding_metadata_array")
_LOGGED = """SELECT rowid, topic, CAST(id AS BLOB), CAST(metadata AS BLOB) FROM embeddings_queue
    WHERE NOT is_text(CAST(metadata AS BLOB))"""
_BROKEN = """SELECT m.rowid, s.collection, CAST(e.embedding_id AS BLOB), CAST(m.{column} AS BLOB), m.id FROM {table} m
    JOIN embeddings e ON m.id = e.id JOIN segments s ON e.segment_id = s.id
    WHERE ('{column}' = 'key' OR typeof(m.{column}) = 'text') AND NOT is_text(CAST(m.{column} AS BLOB)) ORDER BY m.rowid"""


def _replace_broken_utf8(db: sqlite3.Connection, report: RepairReport) -> None:
    """Replace bytes that are not UTF-8 in a document, a value or a key by U+FFFD; else no engine reads the record."""
    rows: list[tuple[str, str, Any]] = []
    tables = [table for table in _TABLES if _columns(db, table)]
    values = [(table, _BROKEN.format(table=table, column="string_value")) for table in tables]
    for table, query in [("embeddings_queue", _LOGGED), *values]:
        change = f"UPDATE {table} SET {'string_value' if table in tables else 'metadata'} = ? WHERE rowid = ?"  # noqa: S608  # nosec B608
        for row, owner, chunk, raw, *_ in db.execute(query).fetchall():
            db.execute(change, (raw.decode("utf-8", "replace"), row))
            rows.append((_collection(owner), chunk.decode("utf-8", "replace"), raw.decode("utf-8", "backslashreplace")))
    escaped = []
    for table in tables:
        new_keys: dict[tuple[int, bytes], str] = {}
        for row, owner, chunk, raw, number in db.execute(_BROKEN.format(table=table, column="key")).fetchall():
            shown = (owner, chunk.decode("utf-8", "replace"), raw.decode("utf-8", "backslashreplace"))
            if (number, raw) not in new_keys:
                new_keys[number, raw] = _new_key(db, tables, number, raw)
                escaped += [shown] if new_keys[number, raw] == shown[2] else []
            db.execute(f"UPDATE {table} SET key = ? WHERE rowid = ?", (new_keys[number, raw], row))  # noqa: S608  # nosec B608
            rows.append(shown)
    report.add("no_utf8", rows, "{n} texts held bytes that are not UTF-8; replaced by \N{REPLACEMENT CHARACTER}")
    sentence = "{n} keys would so have become another key of their chunk; their bytes are written as \\xNN"
    report.add("same_key", escaped, sentence)


def _new_key(db: sqlite3.Connection, tables: list[str], number: int, raw: bytes) -> str:
    """The new form of a key that is not UTF-8; two keys of a chunk never become one. `sqlite3.DataError` if no form is free."""
    query = " UNION ".join(f"SELECT CAST(key AS BLOB) FROM {table} WHERE id = ?1" for table in tables)  # noqa: S608  # nosec B608
    existing = {key for (key,) in db.execute(query, (number,))}
    for how in ("replace", "backslashreplace"):
        if (key := raw.decode("utf-8", how)).encode() not in existing:
            return key
    raise sqlite3.DataError(f"a chunk has the key {raw[:60]!r}, which is not UTF-8, and others that it would become")


# What may be read otherwise by Python, SQLite and serde_json: no JSON, surrogates, numbers of many digits or large exponents.
_SUSPECTS = r"""SELECT seq_id, topic, id, metadata FROM embeddings_queue WHERE metadata IS NOT NULL AND (NOT json_valid(metadata)
    OR instr(metadata, '\ud') OR instr(metadata, '\uD') OR metadata GLOB '*[0-9][eE]*[0-9][0-9][0-9]*'
    OR metadata GLOB '*[0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9]*'
    OR (SELECT count(*) > count(DISTINCT key) FROM json_each(CASE WHEN json_valid(metadata) THEN metadata ELSE '{}' END)))
    ORDER BY seq_id"""
_NO_NUMBER = object()


def _repair_log_json(db: sqlite3.Connection, report: RepairReport) -> None:
    """Repair metadata in the log that Python's json wrote and a current engine cannot read, or reads differently.

    NaN and infinities are taken out, lone surrogates become U+FFFD, of a key that is there twice the last value stays, whole
    numbers beyond 64 bits become floats as in every engine. What is no JSON at all is taken out whole.
    """
    rows = []
    for number, topic, chunk, text in db.execute(_SUSPECTS).fetchall():
        removed: dict[str, Any] = {}
        try:
            if is_crowded(text):
                raise ValueError(text[:60])
            value = json.loads(text, parse_constant=_no_number, parse_float=_float, parse_int=_integer,
                               object_pairs_hook=partial(_object, removed=removed))  # fmt: skip
        except (ValueError, RecursionError):
            value, removed = {}, {"": text}
        if not isinstance(value, dict):
            value, removed = {}, {"": text}
        kept = {_readable(k, removed): _readable(v, removed) if isinstance(v, str) else v for k, v in value.items()}
        if removed or kept != value:
            db.execute("UPDATE embeddings_queue SET metadata = ? WHERE seq_id = ?", (json.dumps(kept), number))
            rows.append((_collection(topic), chunk, removed))
    report.add(
        "unreadable_value", rows, "{n} log records held values that no current engine reads (NaN, infinity, lone surrogates, "
        "keys twice, numbers beyond 64 bits, broken JSON); taken out or replaced",
    )  # fmt: skip


def _no_number(_: str) -> object:
    return _NO_NUMBER


def _float(text: str) -> object:
    value = float(text)
    return value if math.isfinite(value) else _NO_NUMBER


def _integer(text: str) -> object:
    try:
        value = int(text)
    except ValueError:  # more digits than Python converts
        return _NO_NUMBER
    return value if -(2**63) <= value < 2**63 else _float(text)


def _object(pairs: list[tuple[str, Any]], removed: dict[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for key, value in pairs:
        if key in kept:
            removed[key] = repr(kept[key])
        if value is _NO_NUMBER or (isinstance(value, list) and any(v is _NO_NUMBER for v in value)):
            removed[key] = "no finite number"
            kept.pop(key, None)
        else:
            if isinstance(value, float) and value.is_integer() and abs(value) >= 2**63:
                removed.setdefault(key, f"a whole number beyond 64 bits, now {value!r}")
            kept[key] = value
    return kept


def _readable(text: str, removed: dict[str, Any]) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        shown = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        removed[shown[:80]] = text.encode("ascii", "backslashreplace").decode("ascii")
        return shown
    return text


def _remove_nan(db: sqlite3.Connection, report: RepairReport) -> None:
    """Remove NaN and infinity from the metadata segment: a current engine returns no metadata at all of such a record."""
    bad = db.execute(
        "SELECT m.rowid, s.collection, e.embedding_id, m.key, m.float_value FROM embedding_metadata m "
        "JOIN embeddings e ON m.id = e.id JOIN segments s ON e.segment_id = s.id WHERE m.float_value IN (9e999, -9e999) "
        "OR (m.string_value IS NULL AND m.int_value IS NULL AND m.float_value IS NULL AND m.bool_value IS NULL)"
    ).fetchall() if "bool_value" in _columns(db, "embedding_metadata") else []  # fmt: skip
    rows = []
    for row, collection, chunk, key, value in bad:
        db.execute("DELETE FROM embedding_metadata WHERE rowid = ?", (row,))
        rows.append((collection, chunk, {key: "NaN" if value is None else repr(value)}))
    sentence = "{n} values were NaN or infinity; taken out, the rest of their metadata stays"
    report.add("no_number", rows, sentence, kind="unreadable_value")


def _columns(db: sqlite3.Connection, table: str) -> list[str]:
    """The columns of values that a table has, in the order in which an engine reads them; none if there is no table."""
    present = {row[1] for row in db.execute(f"PRAGMA table_info({table})")}
    return [column for column in _TYPES if column in present]


# A value is in one column, with that column's type. An engine gives the first that has it, and says nothing of the rest.
_TYPES = {"string_value": "text", "int_value": "integer", "float_value": "real", "bool_value": "integer"}
_RESERVED = (_DOCUMENT, "chroma:uri")  # texts, and nothing else


def _remove_hidden(db: sqlite3.Connection, report: RepairReport) -> None:
    """Remove values, documents and items of lists that Chroma does not show, so that the chunk is what Chroma shows of it.

    Of another type than their column's, beside another in the same row or behind a list of the same key; of a list of several
    types all items but the last ones of one type; a document or a URI that is no text.
    """
    values, lists = _columns(db, "embedding_metadata"), _columns(db, "embedding_metadata_array")
    column, reserved = _column(values, -1), ", ".join(f"'{key}'" for key in _RESERVED)
    suspects = f"""SELECT id, CAST(key AS BLOB) FROM embedding_metadata
        WHERE {column} = 0 OR ({column} > 1 AND key IN ({reserved}))"""  # noqa: S608  # nosec B608  columns and keys from above
    if lists:
        column = _column(lists, 0)
        suspects += f""" UNION SELECT id, CAST(key AS BLOB) FROM embedding_metadata_array a GROUP BY id, key
            HAVING min({column}) <> max({column}) OR max({column}) = 0 OR key IN ({reserved})
            OR EXISTS (SELECT 1 FROM embedding_metadata m WHERE m.id = a.id AND m.key = a.key)"""  # noqa: S608  # nosec B608
    owner = """SELECT s.collection, CAST(e.embedding_id AS BLOB) FROM embeddings e JOIN segments s ON e.segment_id = s.id
        WHERE e.id = ? AND s.scope = 'METADATA'"""
    rows = []
    for number, raw in db.execute(suspects).fetchall():
        key = raw.decode("utf-8", "backslashreplace")
        for collection, chunk in db.execute(owner, (number,)).fetchall():
            listed, hidden = _remove_rows(db, "embedding_metadata_array", lists, number, raw) if lists else (False, [])
            hidden += _remove_rows(db, "embedding_metadata", values, number, raw, behind=listed)[1]
            if hidden:
                rows.append((collection, chunk.decode("utf-8", "replace"), {key: hidden}))
    report.add(
        "not_shown", rows, "{n} values or documents are stored so that Chroma does not show them, or not all of them (another "
        "type than their column's, two at once, a list of several types, behind a list); taken out, the rest stays",
    )  # fmt: skip


def _column(columns: list[str], empty: int) -> str:
    """SQL: which column of a row holds its value, from 1; 0 where another does too, or its type is not the column's."""
    cases = []
    for i, name in enumerate(columns):
        alone = " AND ".join(
            [f"typeof({name}) = '{_TYPES[name]}'", *(f"{other} IS NULL" for other in columns[i + 1 :])]
        )
        cases.append(f"WHEN {name} IS NOT NULL THEN ({alone}) * {i + 1}")
    return f"CASE {' '.join(cases)} ELSE {empty} END"


def _cells(columns: list[str]) -> str:
    """SQL: type and value of each column; texts as bytes, since they need not be UTF-8."""
    numbers = "IN ('integer', 'real')"
    return ", ".join(
        f"typeof({c}), CASE WHEN typeof({c}) {numbers} THEN {c} ELSE CAST({c} AS BLOB) END" for c in columns
    )


def _values(columns: list[str], cells: list[Any]) -> dict[str, tuple[str, str]]:
    """The columns of a row that are not NULL: their type, and the column with its value as text."""
    stored = {}
    for column, kind, value in zip(columns, cells[::2], cells[1::2], strict=True):
        if kind == "text":
            stored[column] = kind, f"{column} {value.decode('utf-8', 'backslashreplace')!r}"
        elif kind != "null":
            stored[column] = kind, f"{column} x'{value.hex()}'" if kind == "blob" else f"{column} {value!r}"
    return stored


def _remove_rows(
    db: sqlite3.Connection, table: str, columns: list[str], number: int, key: bytes, *, behind: bool = False
) -> tuple[bool, list[str]]:
    """Remove from a key's rows what an engine does not show; return whether it shows any of them, and what was removed, in order.

    `behind`: a list of the same key is shown instead.
    """
    query = f"SELECT rowid, {_cells(columns)} FROM {table} WHERE id = ? AND key = CAST(? AS TEXT) ORDER BY rowid DESC"  # noqa: S608  # nosec B608
    list_column: str | None = None  # the column of the list's last items
    is_hidden, hidden = behind, []
    for row, *read in db.execute(query, (number, key)).fetchall():
        stored = _values(columns, read)
        valid = next((column for column, (kind, _) in stored.items() if kind == _TYPES[column]), None)
        list_column = list_column or valid
        is_hidden = is_hidden or valid not in (list_column, None)
        no_text = key.decode("utf-8", "replace") in _RESERVED and (valid != "string_value" or "array" in table)
        kept = None if is_hidden or no_text else valid
        if removed := [column for column in stored if column != kept]:
            hidden += [stored[column][1] for column in reversed(removed)]
            nothing = ", ".join(f"{column} = NULL" for column in removed)
            db.execute(f"UPDATE {table} SET {nothing} WHERE rowid = ?", (row,))  # noqa: S608  # nosec B608
        elif not stored:
            hidden.append("NaN, or nothing")
        if kept is None:
            db.execute(f"DELETE FROM {table} WHERE rowid = ?", (row,))  # noqa: S608  # nosec B608
    return list_column is not None, hidden[::-1]


def _report_unlisted(db: sqlite3.Connection, report: RepairReport) -> None:
    """Report chunks under a segment that lists no chunks: no engine counts or returns them, and they are not migrated."""
    under = db.execute(
        "SELECT e.id, s.collection, CAST(e.embedding_id AS BLOB), s.scope, s.id FROM segments s JOIN collections c "
        "ON c.id = s.collection JOIN embeddings e ON e.segment_id = s.id WHERE s.scope <> 'METADATA' ORDER BY e.id"
    )
    columns = _columns(db, "embedding_metadata")
    query = f"SELECT CAST(key AS BLOB), {_cells(columns)} FROM embedding_metadata WHERE id = ?"  # noqa: S608  # nosec B608
    rows = []
    for number, collection, chunk, scope, segment in under.fetchall():
        removed: dict[str, Any] = {"": f"filed under segment {segment} of scope {scope}"}
        for key, *read in db.execute(query, (number,)):
            removed[key.decode("utf-8", "backslashreplace")] = ", ".join(
                text for _, text in _values(columns, read).values()
            )
        rows.append((collection, chunk.decode("utf-8", "replace"), removed))
    report.add("not_listed", rows, "{n} chunks are filed under a segment that lists none; not migrated",
                   meaning="They are invisible to the application today.")  # fmt: skip


def _requeue_skipped(db: sqlite3.Connection, report: RepairReport) -> None:
    """Move log records that the engine skipped, although nothing of them is listed, to the end of the log, where it reads them.

    A record that adds an id leaves that id listed, unless a later one deletes it. An older version misread some bookmarks,
    and left such records behind without a word.
    """
    end = sequence(db.execute("SELECT max(seq_id) FROM embeddings_queue").fetchone()[0] or 0)
    topics = {_collection(topic): topic for (topic,) in db.execute("SELECT DISTINCT topic FROM embeddings_queue")}
    rows: list[tuple[str, str, Any]] = []
    for segment, collection in db.execute("SELECT id, collection FROM segments WHERE scope = 'METADATA'").fetchall():
        if collection not in topics:
            continue
        _, last_read = _metadata_segment(db, collection)
        skipped = _skipped(db, segment, topics[collection], last_read)
        for number, chunk in skipped:
            end += 1
            db.execute("UPDATE embeddings_queue SET seq_id = ? WHERE seq_id = ?", (end, number))
            rows.append((collection, chunk, f"log record {number} was never taken in"))
        if skipped and last_read > end - len(
            skipped
        ):  # beyond the log: the records at its end would be passed over again
            last = end - len(skipped)
            width = db.execute("SELECT seq_id FROM max_seq_id WHERE segment_id = ?", (segment,)).fetchone()[0]
            value = last.to_bytes(8, "big") if isinstance(width, bytes) else last
            db.execute("UPDATE max_seq_id SET seq_id = ? WHERE segment_id = ?", (value, segment))
    report.add("never_taken_in", rows, "{n} log records had never been taken in; they are now, on the copy",
                   meaning="Their chunks are invisible to the application today.")  # fmt: skip


def _skipped(db: sqlite3.Connection, segment: str, topic: str, last_read: int) -> list[tuple[int, str]]:
    """The records up to `last_read` of ids that should be listed and are not, from the one that adds the id on."""
    listed = {r[0] for r in db.execute("SELECT embedding_id FROM embeddings WHERE segment_id = ?", (segment,))}
    skipped: dict[str, list[int]] = {}
    log = "SELECT seq_id, operation, id FROM embeddings_queue WHERE topic = ? AND seq_id <= ? ORDER BY seq_id"
    for number, operation, chunk in db.execute(log, (topic, last_read)):
        if operation == _DELETE:
            skipped.pop(chunk, None)
        elif chunk not in listed and (chunk in skipped or operation in (_ADD, _UPSERT)):
            skipped.setdefault(chunk, []).append(number)
    later = "SELECT 1 FROM embeddings_queue WHERE topic = ? AND id = ? AND operation = ? AND seq_id > ? LIMIT 1"
    return sorted(
        (number, chunk)
        for chunk, numbers in skipped.items()
        if not db.execute(later, (topic, chunk, _DELETE, last_read)).fetchone()
        for number in numbers
    )


def _report_nul(db: sqlite3.Connection, report: RepairReport) -> None:
    """Report documents with NUL characters. They are migrated as they are, but full-text search may stop at the NUL."""
    counted = db.execute(
        "SELECT s.collection, count(*) FROM embedding_metadata m JOIN embeddings e ON m.id = e.id "
        "JOIN segments s ON e.segment_id = s.id WHERE m.key = ? AND instr(CAST(m.string_value AS BLOB), x'00') "
        "GROUP BY s.collection", (_DOCUMENT,),
    )  # fmt: skip
    for collection, n in counted.fetchall():
        report.collections[collection].append(
            f"{n:,} documents hold NUL characters: full-text search may not see what follows them"
        )


def _remove_null_documents(db: sqlite3.Connection, report: RepairReport) -> None:
    """Remove null documents, which a batch of None and text documents left: a current engine fails on them (chroma-facts 3)."""
    rows = [(_collection(topic), chunk, {_DOCUMENT: None}) for topic, chunk in db.execute(_NULLS)]
    db.execute(_WITHOUT_NULLS)
    report.add("null_document", rows, "{n} log records held a null document; read as no document")


def _remove_foreign_values(db: sqlite3.Connection, report: RepairReport) -> None:
    """Remove objects and mixed lists, which 0.6 accepted and no engine returns (chroma-facts 16)."""
    suspects = db.execute(
        "SELECT seq_id, topic, id, metadata FROM embeddings_queue WHERE metadata IS NOT NULL AND EXISTS "
        "(SELECT 1 FROM json_each(metadata) WHERE type IN ('object', 'array')) ORDER BY seq_id"
    ).fetchall()
    rows = []
    for number, topic, chunk, text in suspects:
        metadata = json.loads(text)
        bad = {key: value for key, value in metadata.items() if not _is_readable(value)}
        if bad:
            kept = {key: value for key, value in metadata.items() if key not in bad}
            db.execute("UPDATE embeddings_queue SET metadata = ? WHERE seq_id = ?", (json.dumps(kept), number))
            rows.append((_collection(topic), chunk, bad))
    sentence = "{n} log records held an object or a mixed list in their metadata; taken out"
    report.add("foreign_value", rows, sentence)


def _is_readable(value: Any) -> bool:
    """Whether current engines read the value from their log; they also read lists of one type and their own sparse vectors."""
    if isinstance(value, dict):
        return "#type" in value
    if isinstance(value, list):
        kinds = {float if type(v) is int else type(v) for v in value}
        return len(kinds) < 2 and kinds <= {str, float, bool}
    return True


def _remove_without_vectors(db: sqlite3.Connection, report: RepairReport) -> None:
    """Remove records without a vector from the log, where they stop the engine (chroma-facts 16); keep their chunks listed."""
    rows = []
    for number, topic, chunk, operation, text in db.execute(_NO_VECTOR).fetchall():
        collection = _collection(topic)
        segment, last_read = _metadata_segment(db, collection)
        if number > last_read and segment is not None:
            effect = _effect(db, segment, topic, chunk, number)
            if effect == "changes" and operation == _UPSERT:  # of a record that has a vector: only its texts change
                db.execute("UPDATE embeddings_queue SET operation = ? WHERE seq_id = ?", (_UPDATE, number))
                continue
            if effect == "new":
                _add_to_listing(db, segment, chunk, number, json.loads(text) if text else {})
        db.execute("DELETE FROM embeddings_queue WHERE seq_id = ?", (number,))
        rows.append((collection, chunk, "a log record without a vector"))
    report.add("no_vector", rows, "{n} log records came without a vector; taken out of the log, the chunks stay listed")


def _metadata_segment(db: sqlite3.Connection, collection: str) -> tuple[str | None, int]:
    """The id of the collection's metadata segment, and the number of the last log record that it has read."""
    row = db.execute("SELECT id FROM segments WHERE collection = ? AND scope = 'METADATA'", (collection,)).fetchone()
    if row is None:
        return None, 0
    last_read = db.execute("SELECT seq_id FROM max_seq_id WHERE segment_id = ?", (row[0],)).fetchone()
    return row[0], sequence(last_read[0]) if last_read else 0


def sequence(value: Any) -> int:
    """A number of the log as SQLite keeps it: 0.x wrote eight bytes, big-endian. `sqlite3.DataError` if it is none."""
    try:
        return int.from_bytes(value, "big") if isinstance(value, bytes) else int(value)
    except (ValueError, OverflowError, TypeError) as error:
        raise sqlite3.DataError(f"a number of the log is {str(value)[:40]!r}") from error


def _effect(db: sqlite3.Connection, segment: str, topic: str, chunk: str, number: int) -> str:
    """What a log record without a vector does, given the other records of its id: "changes" one, is "new", or "nothing"."""
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


def _add_to_listing(db: sqlite3.Connection, segment: str, chunk: str, number: int, metadata: dict[str, Any]) -> None:
    """Add a record to the metadata segment, which lists a collection's chunks."""
    row = db.execute(
        "INSERT INTO embeddings (segment_id, embedding_id, seq_id) VALUES (?, ?, ?)", (segment, chunk, number)
    ).lastrowid
    for key, value in metadata.items():
        if type(value) in _VALUES:
            db.execute(_VALUES[type(value)], (row, key, value))


def _report_orphans(db: sqlite3.Connection, report: RepairReport) -> None:
    """Report rows whose segment, collection or chunk is gone. They are not read and not migrated."""
    for what, query in (
        ("rows of chunks whose segment is gone",
         "SELECT count(*) FROM embeddings WHERE segment_id NOT IN (SELECT id FROM segments)"),
        ("segments whose collection is gone",
         "SELECT count(*) FROM segments WHERE collection IS NOT NULL AND collection NOT IN (SELECT id FROM collections)"),
    ):  # fmt: skip
        if n := db.execute(query).fetchone()[0]:
            report.source.append(f"{n} {what}; they are in no collection and are not migrated")
    for table in _TABLES:
        _report_orphaned_values(db, table, _columns(db, table), report)
    collections = {row[0] for row in db.execute("SELECT id FROM collections")}
    topics = db.execute("SELECT topic, count(*) FROM embeddings_queue GROUP BY topic").fetchall()
    if n := sum(count for topic, count in topics if _collection(topic) not in collections):
        report.source.append(f"{n} log records of collections that are gone; they are not migrated")


def _report_orphaned_values(db: sqlite3.Connection, table: str, columns: list[str], report: RepairReport) -> None:
    """Report documents and values of chunks that do not exist: Chroma shows none of them."""
    query = f"""SELECT id, CAST(key AS BLOB), {_cells(columns)} FROM {table} m
        WHERE NOT EXISTS (SELECT 1 FROM embeddings e WHERE e.id = m.id) ORDER BY id, key"""  # noqa: S608  # nosec B608
    n, examples = 0, []
    for number, key, *read in db.execute(query) if columns else ():
        n += 1
        if n <= 3:
            shown = ", ".join(text[:60] for _, text in _values(columns, read).values())
            examples.append(f"row {number}, {key.decode('utf-8', 'backslashreplace')[:40]!r}: {shown}")
    if n:
        what = f"{n:,} documents or values in {table} are of chunks that are not there; not migrated"
        report.source.append(damage(f"{what} ({'; '.join(examples)})", "They are invisible to the application today."))


def _report_unowned_folders(db: sqlite3.Connection, copy: Path, report: RepairReport) -> None:
    """Report index folders that no segment owns. `rescue` looks for damage in the others."""
    owners = {row[0] for row in db.execute("SELECT id FROM segments WHERE scope = 'VECTOR'")}
    for folder in _uuid_folders(copy):
        if folder.name not in owners:
            report.source.append(f"folder {folder.name} belongs to no collection; it is not migrated")


def _uuid_folders(copy: Path) -> Iterator[Path]:
    for entry in sorted(copy.iterdir()):
        try:
            if entry.is_dir() and uuid.UUID(entry.name):
                yield entry
        except ValueError:
            continue

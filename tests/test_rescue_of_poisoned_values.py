"""What Python's json writes and no current engine reads, in documents, values and keys; and records nobody took in."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from helpers.chunks import ChunkBatch
from helpers.parameters.endpoint import Endpoint
from helpers.stores import open_source
from helpers.stores.layout import DATABASE
from helpers.stores.repair import mend
from tests.storage import contents, tree, writable_copy

NAME = "yok_student_rights"
DOCUMENT = '"chroma:document": "'


@pytest.fixture
def old(real_databases: Path, tmp_path: Path) -> Path:
    """A directory of 0.5 whose 51 vectors are all in the log."""
    return writable_copy(real_databases / "turkish-768-0.5", tmp_path / "old")


def sql(folder: Path, statement: str, *values: object) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(folder / DATABASE)) as db, db:
        return db.execute(statement, values).fetchall()


def forget(folder: Path, after: int) -> None:
    """Make the log records after a number ones that the metadata segment has yet to take in."""
    for (row,) in sql(folder, "select id from embeddings where embedding_id in (select id from embeddings_queue "
                              "where seq_id > ?)", after):  # fmt: skip
        for statement in ("delete from embedding_metadata where id = ?", "delete from embeddings where id = ?",
                          "delete from embedding_fulltext_search where rowid = ?"):  # fmt: skip
            sql(folder, statement, row)
    sql(folder, "update max_seq_id set seq_id = ?", after.to_bytes(8, "big"))


def read(folder: Path, scratch: Path) -> tuple[ChunkBatch, list[dict[str, Any]]]:
    with open_source(Endpoint(path=str(folder)), scratch) as store:
        return contents(store, NAME), list(store.repairs)  # type: ignore[attr-defined]


# What is put before the closing brace of the metadata, and what is there in the end.
VALUES: dict[str, tuple[str, dict[str, Any]]] = {
    "NaN": ('"x": NaN', {}),
    "infinities": ('"x": Infinity, "y": -Infinity, "z": 1', {"z": 1}),
    "an exponent": ('"x": 1e999, "z": 1e30', {"z": 1e30}),
    "a lone surrogate in a value": (r'"x": "a\ud800b"', {"x": "a\ufffdb"}),
    "a lone surrogate in a key": (r'"k\udfff": 1', {"k\ufffd": 1}),
    "a key twice": ('"x": 1, "x": 2', {"x": 2}),
    "a number of many digits": (f'"x": {10**30}', {"x": 1e30}),
    "nested deeper than anything": ('"x": ' + "[" * 3000 + "]" * 3000, {}),
}


@pytest.mark.parametrize("taken_in", [True, False])
def test_what_no_current_engine_reads_is_mended_and_recorded(old: Path, tmp_path: Path, taken_in: bool) -> None:
    """All kinds at once, each in a record of its own, in the part of the log that was taken in and in the rest."""
    wanted, _ = read(old, tmp_path / "scratch")
    first = 3 if taken_in else 43
    if not taken_in:
        forget(old, 40)
    touched = {}
    for number, (added, left) in enumerate(VALUES.values(), start=first):
        [(chunk, text)] = sql(old, "select id, metadata from embeddings_queue where seq_id = ?", number)
        sql(old, "update embeddings_queue set metadata = ? where seq_id = ?", f"{text[:-1]}, {added}}}", number)
        touched[chunk] = left
    before = tree(old)
    found, repairs = read(old, tmp_path / "scratch")
    assert tree(old) == before
    assert found.ids == wanted.ids
    assert not found.lost.any()
    assert {r["id"] for r in repairs if r["repair"] == "unreadable_value"} == set(touched)
    for row, chunk in enumerate(found.ids):
        if chunk in touched and not taken_in:
            deep = (
                chunk == list(touched)[-1]
            )  # not even Python reads it: nothing of the metadata is left but the record
            if not deep:
                assert found.metadatas[row] == {**(wanted.metadatas[row] or {}), **touched[chunk]}
                assert found.documents[row] == wanted.documents[row]
        else:
            assert (found.metadatas[row], found.documents[row]) == (wanted.metadatas[row], wanted.documents[row])
    assert all(r["removed"] for r in repairs)


def test_a_lone_surrogate_in_a_document_is_replaced(old: Path, tmp_path: Path) -> None:
    wanted, _ = read(old, tmp_path / "scratch")
    forget(old, 49)
    [(chunk, text)] = sql(old, "select id, metadata from embeddings_queue where seq_id = 51")
    sql(
        old,
        "update embeddings_queue set metadata = ? where seq_id = 51",
        text.replace(DOCUMENT, DOCUMENT + r"\ud83d", 1),
    )
    found, repairs = read(old, tmp_path / "scratch")
    row = found.ids.index(chunk)
    assert found.documents[row] == "\ufffd" + str(wanted.documents[row])
    assert [r["id"] for r in repairs] == [chunk]


def test_bytes_that_are_no_utf8_are_replaced_wherever_texts_are(old: Path, tmp_path: Path) -> None:
    chunks = [r[0] for r in sql(old, "select embedding_id from embeddings where id in (5, 6, 7) order by id")]
    sql(old, "update embedding_metadata set string_value = cast(x'61ff62' as text) where id = 5 and key = 'source'")
    sql(old, "update embedding_metadata set key = cast(x'61fe' as text) where id = 6 and key = 'source'")
    sql(
        old,
        "update embedding_metadata set string_value = cast(x'c328' as text) where id = 7 and key = 'chroma:document'",
    )
    found, repairs = read(old, tmp_path / "scratch")
    rows = [found.ids.index(chunk) for chunk in chunks]
    assert (found.metadatas[rows[0]] or {})["source"] == "a\ufffdb"
    assert "a\ufffd" in (found.metadatas[rows[1]] or {})
    assert found.documents[rows[2]] == "\ufffd("
    assert sorted(r["id"] for r in repairs if r["repair"] == "no_utf8") == sorted(chunks)
    assert r"a\xffb" in [r["removed"] for r in repairs]


def test_nan_that_was_taken_in_costs_no_more_than_its_own_value(old: Path, tmp_path: Path) -> None:
    wanted, _ = read(old, tmp_path / "scratch")
    sql(old, "insert into embedding_metadata (id, key, float_value) values (9, 'nan', null), (9, 'inf', 9e999)")
    found, repairs = read(old, tmp_path / "scratch")
    assert found.metadatas == wanted.metadatas
    assert sorted(str(r["removed"]) for r in repairs) == ["{'inf': 'inf'}", "{'nan': 'NaN'}"]


@pytest.mark.parametrize("bookmark", [51, 2**40, 2**62])
def test_records_that_were_never_taken_in_are_taken_in(old: Path, tmp_path: Path, bookmark: int) -> None:
    """A11: an old version misread the bookmark; the last 25 records, or some in the middle, are listed nowhere."""
    wanted, _ = read(old, tmp_path / "scratch")
    ids = [r[0] for r in sql(old, "select embedding_id from embeddings where id > 26 or id in (3, 4)")]
    forget(old, 26)
    for row in (3, 4):
        for statement in ("delete from embedding_metadata where id = ?", "delete from embeddings where id = ?",
                          "delete from embedding_fulltext_search where rowid = ?"):  # fmt: skip
            sql(old, statement, row)
    sql(old, "update max_seq_id set seq_id = ?", bookmark.to_bytes(8, "big"))
    found, repairs = read(old, tmp_path / "scratch")
    assert (found.ids, found.documents, found.metadatas) == (wanted.ids, wanted.documents, wanted.metadatas)
    assert found.embeddings.tobytes() == wanted.embeddings.tobytes()
    assert {r["id"] for r in repairs if r["repair"] == "never_taken_in"} == set(ids)


def test_what_was_deleted_is_not_taken_in_again(old: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(old / DATABASE)) as db, db:
        [(chunk, topic)] = db.execute("select id, topic from embeddings_queue where seq_id = 7").fetchall()
        db.execute("insert into embeddings_queue (seq_id, operation, topic, id) values (52, 3, ?, ?)", (topic, chunk))
    found, repairs = read(old, tmp_path / "scratch")
    assert (len(found), chunk in found.ids, repairs) == (50, False, [])
    sql(old, "delete from embedding_metadata where id = (select id from embeddings where embedding_id = ?)", chunk)
    sql(old, "delete from embeddings where embedding_id = ?", chunk)
    sql(old, "update max_seq_id set seq_id = ?", (52).to_bytes(8, "big"))
    assert mend(old, old).repairs == []


def test_documents_with_nul_are_counted(old: Path) -> None:
    sql(
        old,
        "update embedding_metadata set string_value = 'a' || char(0) || 'b' where key = 'chroma:document' and id < 4",
    )
    [said] = [finding for findings in mend(old, old).collections.values() for finding in findings]
    assert said.startswith("3 documents hold NUL characters")


def test_emoji_are_no_surrogates(old: Path) -> None:
    [(text,)] = sql(old, "select metadata from embeddings_queue where seq_id = 5")
    escaped = json.dumps({**json.loads(text), "x": "🧪 \ud83d\ude00 1e5 12345678901"})
    sql(old, "update embeddings_queue set metadata = ? where seq_id = 5", escaped)
    assert mend(old, old).repairs == []
    assert sql(old, "select metadata from embeddings_queue where seq_id = 5") == [(escaped,)]

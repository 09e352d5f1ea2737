"""What Python's json writes and no current engine reads, in documents, values and keys; and records nobody took in."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from helpers.chunks import ChunkBatch
from helpers.errors import Terminal
from helpers.parameters.endpoint import Endpoint
from helpers.stores import open_source
from helpers.stores.diagnosis import examine
from helpers.stores.layout import DATABASE
from helpers.stores.repair import mend
from tests.storage import chunks, contents, embedded, fill, tree, writable_copy

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


# What is put into the database by hand for a chunk, and what is said to be hidden of it, by key. `{i}` is its row.
ODD: dict[str, tuple[str, dict[str, list[str]]]] = {
    "c0": ("update embedding_metadata set int_value = 'abc' where id = {i} and key = 'n'", {"n": ["int_value 'abc'"]}),
    "c1": ("update embedding_metadata set string_value = x'6162' where id = {i} and key = 'word'",
           {"word": ["string_value x'6162'"]}),
    "c2": ("update embedding_metadata set int_value = 5, bool_value = 1 where id = {i} and key = 'word'",
           {"word": ["int_value 5", "bool_value 1"]}),
    "c3": ("update embedding_metadata set string_value = null, int_value = 77 where id = {i} and key = 'chroma:document'",
           {"chroma:document": ["int_value 77"]}),
    "c4": ("insert into embedding_metadata_array (id, key, string_value) values ({i}, 'chroma:document', 'zz')",
           {"chroma:document": ["string_value 'zz'", "string_value 'text 4 of c'"]}),
    "c5": ("""insert into embedding_metadata_array (id, key, string_value, int_value, float_value, bool_value) values
           ({i}, 'arr', 'x', null, null, null), ({i}, 'arr', null, 3, null, null), ({i}, 'arr', null, null, 2.5, null),
           ({i}, 'arr', null, null, null, 1)""", {"arr": ["string_value 'x'", "int_value 3", "float_value 2.5"]}),
    "c6": ("""insert into embedding_metadata_array (id, key, string_value) values ({i}, 'arr', 'x'), ({i}, 'arr', x'00'),
           ({i}, 'arr', null), ({i}, 'arr', 'y')""", {"arr": ["string_value x'00'", "NaN, or nothing"]}),
    "c7": ("insert into embedding_metadata_array (id, key, string_value) values ({i}, 'word', 'x')",
           {"word": ["string_value 'w2'"]}),
    "c8": ("insert into embedding_metadata (id, key, float_value) values ({i}, 'chroma:uri', 2.5)",
           {"chroma:uri": ["float_value 2.5"]}),
}  # fmt: skip


@pytest.fixture
def new(tmp_path: Path) -> Path:
    """A directory of the current version with lists of every type, a list that became a value and a value that became one."""
    batch = chunks(20)
    lists: list[dict[str, Any]] = [{"l": ["a", "b"]}, {"l": [1, 2]}, {"l": [1.0, 2.5]}, {"l": [True, False]}]
    metadatas: list[dict[str, Any] | None] = [{**(m or {}), **lists[i % 4]} for i, m in enumerate(batch.metadatas)]
    with embedded(tmp_path / "new") as store:
        fill(store, "notes", ChunkBatch(batch.ids, batch.documents, batch.embeddings, metadatas, batch.uris))
        collection = store.client.get_collection("notes", embedding_function=None)
        collection.update(ids=["c18", "c19"], metadatas=[{"l": "one"}, {"word": ["several"]}])
    return tmp_path / "new"


def as_chroma_shows(folder: Path) -> ChunkBatch:
    with embedded(folder) as store:
        return contents(store, "notes")


def test_what_chroma_hides_of_a_chunk_is_said_and_the_rest_is_what_chroma_shows(new: Path, tmp_path: Path) -> None:
    for chunk, (statement, _) in ODD.items():
        [(row,)] = sql(new, "select id from embeddings where embedding_id = ?", chunk)
        sql(new, statement.format(i=row))
    before = tree(new)
    with open_source(Endpoint(path=str(new)), tmp_path / "scratch") as store:
        found, repairs = contents(store, "notes"), store.repairs  # type: ignore[attr-defined]
        [said] = store.info("notes").findings
    assert tree(new) == before
    assert {r["id"]: r["removed"] for r in repairs} == {chunk: hidden for chunk, (_, hidden) in ODD.items()}
    assert {r["repair"] for r in repairs} == {"not_shown"}
    assert str(said).startswith(f"{len(ODD)} values or documents are stored so that Chroma does not show")
    shown = as_chroma_shows(writable_copy(new, tmp_path / "opened"))
    assert (found.ids, found.documents, found.metadatas) == (shown.ids, shown.documents, shown.metadatas)
    assert [found.ids[i] for i, document in enumerate(found.documents) if document is None] == ["c3", "c4"]


def test_values_that_chroma_wrote_itself_are_sound(new: Path, tmp_path: Path) -> None:
    with open_source(Endpoint(path=str(new)), tmp_path / "scratch") as store:
        found, repairs, said = contents(store, "notes"), store.repairs, store.info("notes").findings  # type: ignore[attr-defined]
    assert (repairs, list(said)) == ([], [])
    row = found.ids.index("c19")
    assert (found.metadatas[row] or {})["word"] == ["several"]
    row = found.ids.index("c18")
    assert (found.metadatas[row] or {})["l"] == "one"
    assert found.metadatas == as_chroma_shows(writable_copy(new, tmp_path / "opened")).metadatas


@pytest.mark.parametrize("column", ["string_value", "key"])
def test_bytes_that_are_no_utf8_are_replaced_in_lists_too(new: Path, tmp_path: Path, column: str) -> None:
    [(row,)] = sql(new, "select id from embeddings where embedding_id = 'c0'")
    broken = f"update embedding_metadata_array set {column} = cast(x'61ff' as text) where id = ?"
    sql(new, broken, row)
    with open_source(Endpoint(path=str(new)), tmp_path / "scratch") as store:
        found, repairs = contents(store, "notes"), store.repairs  # type: ignore[attr-defined]
    wanted = {"l": ["a\ufffd", "a\ufffd"]} if column == "string_value" else {"a\ufffd": ["a", "b"]}
    metadata = found.metadatas[found.ids.index("c0")] or {}
    assert {key: metadata[key] for key in wanted} == wanted
    assert [(r["repair"], r["id"], r["removed"]) for r in repairs] == [("no_utf8", "c0", r"a\xff")] * 2


@pytest.mark.parametrize("others", [(), ("a\ufffd",), ("a\ufffd", r"a\xfe")])
def test_keys_that_are_no_utf8_never_become_one(new: Path, tmp_path: Path, others: tuple[str, ...]) -> None:
    """Neither with each other, nor with a key that is there; where no way is left, the source is refused in one line."""
    [(row,)] = sql(new, "select id from embeddings where embedding_id = 'c1'")
    add = "insert into embedding_metadata (id, key, string_value) values (?1, {}, ?2)"
    for byte in ("ff", "fe"):
        sql(new, add.format(f"cast(x'61{byte}' as text)"), row, f"value of {byte}")
    for key in others:
        sql(new, add.format("?3"), row, f"value of {key}", key)
    if len(others) == 2:
        with pytest.raises(Terminal, match="not UTF-8, and others that it would become"):
            mend(new, new)
        return
    with open_source(Endpoint(path=str(new)), tmp_path / "scratch") as store:
        found, repairs, said = contents(store, "notes"), store.repairs, store.info("notes").findings  # type: ignore[attr-defined]
    metadata = found.metadatas[found.ids.index("c1")] or {}
    escaped = [r["removed"] for r in repairs if r["repair"] == "same_key"]
    assert sorted(v for v in metadata.values() if str(v).startswith("value of ")) == sorted(
        ["value of ff", "value of fe", *(f"value of {key}" for key in others)]
    )
    assert escaped == ([r"a\xfe"] if not others else [r"a\xff", r"a\xfe"])
    assert any(str(line).startswith(f"{len(escaped)} keys would so have become another key") for line in said)


@pytest.mark.parametrize("table", ["embedding_metadata", "embedding_metadata_array"])
def test_values_of_chunks_that_are_not_there_are_said_with_examples(new: Path, tmp_path: Path, table: str) -> None:
    wanted = as_chroma_shows(writable_copy(new, tmp_path / "opened"))
    with open_source(Endpoint(path=str(new)), tmp_path / "before") as store:
        assert not any("not there" in str(line) for line in store.findings)  # type: ignore[attr-defined]
    for number in range(5):
        sql(new, f"insert into {table} (id, key, string_value) values (?, 'k', 'unseen')", 900 + number)
    with open_source(Endpoint(path=str(new)), tmp_path / "scratch") as store:
        found = contents(store, "notes")
        [said] = [line for line in store.findings if "not there" in str(line)]  # type: ignore[attr-defined]
    assert (found.ids, found.metadatas) == (wanted.ids, wanted.metadatas)
    assert str(said).startswith(
        f"5 documents or values in {table} are of chunks that are not there; not migrated (row 900,"
    )
    assert str(said).count("string_value 'unseen'") == 3


@pytest.mark.parametrize("scope", ["VECTOR", "RECORD"])
def test_chunks_under_a_segment_that_lists_none_are_said_with_what_they_hold(
    new: Path, tmp_path: Path, scope: str
) -> None:
    wanted = as_chroma_shows(writable_copy(new, tmp_path / "opened"))
    [(collection, segment)] = sql(new, "select collection, id from segments where scope = 'VECTOR'")
    if scope == "RECORD":
        segment = "33333333-1111-4111-8111-111111111111"
        sql(
            new,
            "insert into segments values (?, 'urn:chroma:segment/metadata/sqlite', 'RECORD', ?)",
            segment,
            collection,
        )
    sql(new, "insert into embeddings (id, segment_id, embedding_id, seq_id) values (900, ?, 'hidden', 1)", segment)
    sql(new, "insert into embedding_metadata (id, key, string_value) values (900, 'chroma:document', 'unseen')")
    with open_source(Endpoint(path=str(new)), tmp_path / "scratch") as store:
        found, [repair] = contents(store, "notes"), store.repairs  # type: ignore[attr-defined]
        [said] = store.info("notes").findings
        headline = examine(store, Endpoint(path=str(new)), ["notes"]).headline
    assert "1 chunk that no collection lists cannot be migrated; all 20 chunks" in headline
    assert (found.ids, found.metadatas) == (wanted.ids, wanted.metadatas)
    assert (repair["repair"], repair["collection_id"], repair["id"]) == ("not_listed", collection, "hidden")
    assert repair["removed"]["chroma:document"] == "string_value 'unseen'"
    assert f"segment {segment} of scope {scope}" in repair["removed"][""]
    assert str(said).startswith("1 chunks are filed under a segment that lists none")


def test_a_database_without_lists_and_booleans_is_looked_through(old: Path) -> None:
    sql(old, "update embedding_metadata set int_value = 'abc' where id = 5 and key = 'source'")
    for statement in (
        "drop index if exists embedding_metadata_bool_value",
        "alter table embedding_metadata drop column bool_value",
    ):
        sql(old, statement)
    assert [(r["repair"], r["removed"]) for r in mend(old, old).repairs] == [
        ("not_shown", {"source": ["int_value 'abc'"]})
    ]

"""Damaged sources through the whole command: what can be had arrives, what cannot is quarantined or one clear line.

The refusals of pointers, truncated and foreign files and half a folder are in test_bad_worlds.py.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from helpers.stores.layout import DATABASE
from tests.commands import Runbook, only_line, tree
from tests.damaged import make
from tests.plain_client import Held, assert_same, held, opened
from tests.storage import chunks, embedded, fill, writable_copy

pytestmark = pytest.mark.slow

NAME = "yok_student_rights"
OLD = "turkish-768-0.5"  # 51 chunks, all of them still in the log


def sql(folder: Path, statement: str, *values: object) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(folder / DATABASE)) as db, db:
        return db.execute(statement, values).fetchall()


@pytest.fixture
def whole(real_databases: Path, tmp_path: Path) -> dict[str, Held]:
    """What the undamaged directory holds, by the plain client."""
    with opened(writable_copy(real_databases / OLD, tmp_path / "whole")) as client:
        return held(client)


def page(runbook: Runbook, step: str) -> str:
    [file] = (runbook.reports / "one").glob(f"{step}_*.html")
    return file.read_text(encoding="utf-8")


def result(runbook: Runbook, step: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        (runbook.reports / "one" / "results" / f"{step}.json").read_text(encoding="utf-8")
    )
    return found


def test_a_poisoned_log_migrates_whole_and_is_reported(
    whole: dict[str, Held], real_databases: Path, tmp_path: Path
) -> None:
    source = writable_copy(real_databases / OLD, tmp_path / "source")
    poison = """json_set(metadata, '$."chroma:document"', null)"""
    sql(source, f"update embeddings_queue set metadata = {poison} where seq_id in (3, 13)")
    before, runbook = tree(source), Runbook(tmp_path)
    file = runbook.write("night", "path: source", "path: target")
    done = runbook("run", file, "--run-id", "one", "--until", "23")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert tree(source) == before
    with opened(tmp_path / "target") as client:
        assert_same(whole, held(client))
    [found] = [c for c in result(runbook, "10")["checks"] if c["name"] == "damage in the source"]
    assert (found["verdict"], NAME in found["detail"]) == ("warning", True)
    for words in ("2 log records held a null document", "2 records or folders had to be repaired on the copy"):
        assert words in page(runbook, "10")


def test_what_chroma_does_not_show_is_said_by_every_step(tmp_path: Path) -> None:
    source = tmp_path / "source"
    with embedded(source) as store:
        fill(store, "notes", chunks(60))
    sql(source, "update embedding_metadata set int_value = 'abc' where key = 'n' and id = 3")
    vectors = "select id from segments where scope = 'VECTOR'"
    sql(source, f"insert into embeddings (segment_id, embedding_id, seq_id) values (({vectors}), 'hidden', 1)")
    before, runbook = tree(source), Runbook(tmp_path)
    said = runbook("doctor", str(source)).stdout
    assert said.startswith("Damaged: 1 chunk that no collection lists cannot be migrated; all 60 chunks")
    assert "1 values or documents are stored so that Chroma does not show them" in " ".join(said.split())
    done = runbook("run", runbook.write("night", "path: source", "path: target"), "--run-id", "one", "--until", "23")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert tree(source) == before
    [found] = [c for c in result(runbook, "10")["checks"] if c["name"] == "damage in the source"]
    assert (found["verdict"], found["measured"]) == ("warning", 2)
    assert all(words in found["detail"] for words in ("1 values or documents", "1 chunks are filed under a segment"))
    assert "2 records or folders had to be repaired on the copy" in page(runbook, "10")
    [manifest] = [json.loads(file.read_bytes()) for file in tmp_path.rglob("one-21/manifest.json")]
    repairs = {(r["repair"], r["id"]): r["removed"] for r in manifest["repairs"]}
    assert set(repairs) == {("not_shown", "c2"), ("not_listed", "hidden")}
    assert repairs["not_shown", "c2"] == {"n": ["int_value 'abc'"]}
    with opened(tmp_path / "target") as client:
        assert "n" not in (held(client)["notes"].metadatas["c2"] or {})


def test_records_without_an_embedding_are_quarantined_with_what_is_left_of_them(
    whole: dict[str, Held], real_databases: Path, tmp_path: Path
) -> None:
    source = writable_copy(real_databases / OLD, tmp_path / "source")
    lost = sorted(row[0] for row in sql(source, "select id from embeddings_queue where seq_id > 49"))
    sql(source, "update embeddings_queue set vector = null, encoding = null where seq_id > 49")
    before, runbook = tree(source), Runbook(tmp_path)
    file = runbook.write("night", "path: source", "path: target")
    done = runbook("run", file, "--run-id", "one", "--until", "23")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert tree(source) == before
    was = whole[NAME]

    def left(part: dict[str, Any]) -> dict[str, Any]:
        return {chunk: value for chunk, value in part.items() if chunk not in lost}

    with opened(tmp_path / "target") as client:
        assert_same({NAME: Held(left(was.vectors), left(was.documents), left(was.metadatas), was.space)}, held(client))
    assert result(runbook, "22")["facts"]["quarantine"] == {"missing_embedding": 2}
    aside = [row for file in (runbook.workspace / "one" / "quarantine").glob("*.parquet")
             for row in pq.read_table(file).to_pylist()]  # fmt: skip
    assert sorted(row["id"] for row in aside) == lost
    for row in aside:
        assert row["document"] == was.documents[row["id"]]
        assert json.loads(row["metadata"]) == was.metadatas[row["id"]]
        assert row["id"] in page(runbook, "22")


def test_an_index_without_one_of_its_files_migrates_from_the_log(
    whole: dict[str, Held], real_databases: Path, tmp_path: Path
) -> None:
    source = writable_copy(real_databases / OLD, tmp_path / "source")
    next(source.glob("*/data_level0.bin")).unlink()
    before, runbook = tree(source), Runbook(tmp_path)
    file = runbook.write("night", "path: source", "path: target")
    done = runbook("run", file, "--run-id", "one", "--until", "23")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert tree(source) == before
    with opened(tmp_path / "target") as client:
        assert_same(whole, held(client))
    assert "data_level0.bin is not there" in page(runbook, "10")


def test_where_the_log_is_empty_too_the_run_stops_before_anything_is_written(
    real_databases: Path, tmp_path: Path
) -> None:
    source = writable_copy(real_databases / "no-documents-128-1.x", tmp_path / "source")
    next(source.glob("*/data_level0.bin")).unlink()
    before, runbook = tree(source), Runbook(tmp_path)
    file = runbook.write("night", "path: source", "path: target")
    assert runbook("run", file, "--run-id", "one", "--until", "23").returncode == 1
    [failed] = [check for check in result(runbook, "10")["checks"] if check["verdict"] == "fail"]
    assert failed["name"] == "chunks with a vector"
    assert failed["offenders"] == 999  # one vector is still in the log
    assert tree(source) == before
    assert not (tmp_path / "target").exists()


def test_a_collection_that_cannot_be_read_is_named_and_can_be_left_out(tmp_path: Path) -> None:
    with embedded(tmp_path / "source") as store:
        fill(store, "good", chunks(40, seed=1))
        fill(store, "bad", chunks(60, seed=2))
    # An operation that no version has, which the metadata segment has yet to take in: nothing of that collection can be read.
    [(bad,)] = sql(tmp_path / "source", "select id from collections where name = 'bad'")
    taken_in = "segment_id in (select id from segments where collection = ?)"
    sql(tmp_path / "source", f"update max_seq_id set seq_id = 40 where {taken_in}", bad)
    damaged = "update embeddings_queue set operation = 99 where topic like ? and seq_id > 90"
    sql(tmp_path / "source", damaged, f"%{bad}")
    before, runbook = tree(tmp_path / "source"), Runbook(tmp_path)
    file = runbook.write("night", "path: source", "path: target")
    said = only_line(runbook("run", file, "--run-id", "none", "--until", "23"), 1)
    assert "collection bad" in said
    assert """--set 'collections.exclude=["bad"]'""" in said
    assert not (tmp_path / "target").exists()

    done = runbook("run", file, "--run-id", "one", "--set", 'collections.exclude=["bad"]', "--until", "23")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert tree(tmp_path / "source") == before
    with embedded(tmp_path / "target") as store:
        assert (store.names(), store.count("good")) == (["good"], 40)
    assert "left out" in page(runbook, "10")


def test_vectors_of_a_torn_index_arrive_and_are_signed_for(real_databases: Path, tmp_path: Path) -> None:
    """950 of 1,000 rows are sound: they arrive, bit for bit; the others are quarantined; steps 10, 13, 21 and 22 say so."""
    made = make("torn rows", real_databases, tmp_path / "bases", tmp_path / "source")
    with opened(writable_copy(made.original, tmp_path / "whole")) as client:
        whole = held(client)[made.collection]
    before, runbook = tree(made.folder), Runbook(tmp_path)
    file = runbook.write("night", "path: source", "path: target")
    done = runbook("run", file, "--run-id", "one", "--until", "23")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert tree(made.folder) == before
    with opened(tmp_path / "target") as client:
        arrived = held(client)[made.collection]
    assert set(arrived.vectors) == set(whole.vectors) - made.lost
    assert all(vector.tobytes() == whole.vectors[chunk].tobytes() for chunk, vector in arrived.vectors.items())
    for step in ("13", "21", "22"):
        [said] = [c for c in result(runbook, step)["checks"] if c["name"] == "vectors rescued from damaged indexes"]
        assert (said["verdict"], said["reason"], said["measured"]) == ("warning", "vectors_rescued", 950), step
        assert "50 not rescued, in no file any more" in said["detail"]
        assert "949 from rows of a damaged index" in said["detail"]
    assert "its index was not opened" in page(runbook, "10")

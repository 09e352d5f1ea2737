"""Poisoned logs and broken index folders of a directory: mended on the copy, reported, nothing lost in silence."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from helpers.errors import Terminal
from helpers.parameters.endpoint import Endpoint
from helpers.snapshots.snapshot import write_snapshot
from helpers.stores import open_source
from helpers.stores.layout import DATABASE
from helpers.stores.opening import try_opening
from helpers.stores.repair import mend, migrations
from tests.storage import (
    assert_same,
    chunks,
    contents,
    embedded,
    fill,
    in_order,
    tree,
    writable_copy,
)

NAME = "yok_student_rights"


def sql(folder: Path, statement: str, *values: object) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(folder / DATABASE)) as db, db:
        return db.execute(statement, values).fetchall()


@pytest.fixture
def old(real_databases: Path, tmp_path: Path) -> Path:
    """A directory of 0.5 whose vectors are all in the log."""
    return writable_copy(real_databases / "turkish-768-0.5", tmp_path / "old")


POISON: dict[str, tuple[str, str]] = {
    "a null document": ("""json_set(metadata, '$."chroma:document"', null)""", "null document"),
    "an object": ("""json_set(metadata, '$.x', json('{"a": 1}'))""", "object or a mixed list"),
    "a mixed list": ("""json_set(metadata, '$.x', json('[1, "a"]'))""", "object or a mixed list"),
}


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=() if k == "a null document" else pytest.mark.slow) for k in sorted(POISON)]
)
def test_a_poisoned_log_is_mended_on_the_copy_and_reported(old: Path, tmp_path: Path, kind: str) -> None:
    value, said = POISON[kind]
    sql(old, f"update embeddings_queue set metadata = {value} where seq_id in (3, 13)")
    before = tree(old)
    unmended = try_opening(writable_copy(old, tmp_path / "raw"), "default_tenant", "default_database")
    assert unmended is not None
    assert unmended.collection == NAME
    with open_source(Endpoint(path=str(old)), tmp_path / "scratch") as store:
        info = store.info(NAME)
        snapshot = write_snapshot(store, tmp_path / "snapshots", "s", [NAME], retention_days=7)
    assert any(said in finding and finding.startswith("2 ") for finding in info.findings)
    assert snapshot.total == 51
    assert len(snapshot.manifest["repairs"]) == 2
    assert any(said in finding for finding in snapshot.manifest["collections"][0]["findings"])
    assert not any(batch.lost.any() for batch in snapshot.batches(NAME))
    assert tree(old) == before


@pytest.mark.parametrize("consumed", [True, False])
def test_records_without_a_vector_stay_listed_and_are_lost_by_id(old: Path, tmp_path: Path, consumed: bool) -> None:
    ids = [str(row[0]) for row in sql(old, "select id from embeddings_queue where seq_id > 49 order by seq_id")]
    with open_source(Endpoint(path=str(old)), tmp_path / "scratch") as store:
        whole = store.read(NAME, ids)
    sql(old, "update embeddings_queue set vector = null, encoding = null where seq_id > 49")
    if not consumed:  # the metadata segment has not seen these records either: only the log knows of them
        sql(old, "delete from embedding_metadata where id in (select id from embeddings where seq_id > 49)")
        rows = sql(old, "select seq_id from embeddings order by seq_id desc limit 1")
        if isinstance(rows[0][0], bytes):
            sql(
                old,
                "delete from embedding_metadata where id in (select id from embeddings where embedding_id in (?, ?))",
                *ids,
            )
        sql(old, "delete from embeddings where embedding_id in (?, ?)", *ids)
        sql(old, "update max_seq_id set seq_id = ?", (49).to_bytes(8, "big"))
    with open_source(Endpoint(path=str(old)), tmp_path / "scratch") as store:
        assert store.count(NAME) == 51
        batch = store.read(NAME, store.ids(NAME))
        left = store.read(NAME, ids)
    assert sorted(i for i, lost in zip(batch.ids, batch.lost, strict=True) if lost) == sorted(ids)
    assert (left.documents, left.metadatas) == (whole.documents, whole.metadatas)


def test_lists_that_engines_can_hold_stay_in_the_log(old: Path, tmp_path: Path) -> None:
    before = sql(old, "select metadata from embeddings_queue where seq_id = 5")[0][0]
    text = json.dumps({**json.loads(str(before)), "l": [1, 2.5], "t": ["a"], "e": [], "s": {"#type": "sparse_vector"}})
    sql(old, "update embeddings_queue set metadata = ? where seq_id = 5", text)
    found = mend(old, old)
    assert (found.repairs, dict(found.collections)) == ([], {})
    assert sql(old, "select metadata from embeddings_queue where seq_id = 5") == [(text,)]
    assert migrations(old / DATABASE)[-1] == ("sysdb", 7)


@pytest.mark.parametrize("missing", ["data_level0.bin", "link_lists.bin"])
def test_an_index_folder_without_one_of_its_files_is_read_from_the_log(old: Path, tmp_path: Path, missing: str) -> None:
    next(old.glob(f"*/{missing}")).unlink()
    before = tree(old)
    with open_source(Endpoint(path=str(old)), tmp_path / "scratch") as store:
        assert any(missing in finding for finding in store.info(NAME).findings)
        assert not store.read(NAME, store.ids(NAME)).lost.any()
    assert tree(old) == before


def test_where_the_log_is_empty_a_broken_index_loses_vectors_by_id_with_their_metadata(
    real_databases: Path, tmp_path: Path
) -> None:
    folder = writable_copy(real_databases / "no-documents-128-1.x", tmp_path / "new")
    next(folder.glob("*/data_level0.bin")).unlink()
    with open_source(Endpoint(path=str(folder)), tmp_path / "scratch") as store:
        ids = store.ids("items_128d")
        batch = store.read("items_128d", ids[:40])
        assert len(ids) == store.count("items_128d") == 1000
    assert batch.lost.all()
    assert np.isnan(batch.embeddings).all()


BROKEN: dict[str, tuple[str, int]] = {  # the file that is cut in half, and how many of 1,000 vectors are lost then
    "truncated vectors": ("data_level0.bin", 500),
    "truncated pickle": ("index_metadata.pickle", 999),  # one is still in the log
}


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.parametrize("kind", sorted(BROKEN))
def test_a_truncated_index_file_loses_what_it_does_not_hold_and_no_more(
    real_databases: Path, tmp_path: Path, kind: str
) -> None:
    folder = writable_copy(real_databases / "no-documents-128-1.x", tmp_path / "new")
    name, lost = BROKEN[kind]
    cut(next(folder.glob(f"*/{name}")))
    with open_source(Endpoint(path=str(folder)), tmp_path / "s") as store:
        assert any("cut short" in finding for finding in store.info("items_128d").findings)
        batch = contents(store, "items_128d")
    assert len(batch) == 1000
    assert lost - 1 <= batch.lost.sum() <= lost
    assert not list((tmp_path / "s").iterdir())


@pytest.mark.more
def test_a_collection_that_cannot_be_read_does_not_matter_where_it_is_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "two"
    with embedded(folder) as store:
        fill(store, "good", chunks(30, seed=1))
        fill(store, "bad", chunks(60, seed=2))
    [(bad,)] = sql(folder, "select id from collections where name = 'bad'")
    # An operation that no version has, which the metadata segment has yet to take in: it stops the engine, not only an index.
    sql(
        folder,
        "update max_seq_id set seq_id = 30 where segment_id in (select id from segments where collection = ?)",
        bad,
    )
    sql(folder, "update embeddings_queue set operation = 99 where topic like ? and seq_id > 80", f"%{bad}")
    endpoint = Endpoint(path=str(folder))
    with pytest.raises(Terminal, match="collection bad") as caught, open_source(endpoint, tmp_path / "s"):
        pass
    assert caught.value.code == "source_engine_failed"
    assert """--set 'collections.exclude=["bad"]'""" in str(caught.value)
    with open_source(endpoint, tmp_path / "s", lambda name: name == "good") as store:
        assert store.names() == ["bad", "good"]
        assert_same(contents(store, "good"), in_order(chunks(30, seed=1)))


def test_an_engine_that_dies_is_a_clean_error(old: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "chromadb_rust_bindings.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))  # the death is real, only its cause is not
    with (
        pytest.raises(Terminal, match=r"crashed.*SIGSEGV") as caught,
        open_source(Endpoint(path=str(old)), tmp_path / "s"),
    ):
        pass
    assert caught.value.code == "source_engine_failed"


def test_what_belongs_to_nothing_is_said(old: Path) -> None:
    stray = old / "00000000-0000-4000-8000-000000000000"
    shutil.copytree(next(p for p in old.iterdir() if p.is_dir()), stray)
    sql(old, "insert into embeddings (segment_id, embedding_id, seq_id) values ('gone', 'x', 99)")
    sql(old, "insert into embeddings_queue (operation, topic, id) values (3, 'persistent://default/default/gone', 'x')")
    said = " ".join(mend(old, old).source)
    assert stray.name in said
    assert "1 rows of chunks whose segment is gone" in said
    assert "1 log records of collections that are gone" in said

"""`runbook doctor`: what a database is, what is wrong, what can be saved, the next command; and not a byte is changed."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from helpers.parameters import parameters_from
from helpers.stores.layout import DATABASE
from tests.commands import Runbook, tree
from tests.servers import ChromaServer, client_of
from tests.storage import chunks, embedded, fill


@pytest.fixture
def runbook(tmp_path: Path) -> Runbook:
    return Runbook(tmp_path)


@pytest.mark.more
def test_a_sound_directory_is_called_sound_and_stays_as_it_is(runbook: Runbook, real_databases: Path) -> None:
    folder = real_databases / "no-documents-128-1.x"
    before = tree(folder)
    done = runbook("doctor", str(folder), process=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert tree(folder) == before
    heads = [line for line in done.stdout.splitlines() if line and not line.startswith(" ")]
    assert heads == ["Sound: all 1,000 chunks can be read.", "What it is", "What is wrong", "What can be saved", "Next"]
    assert "1 collection, 1,000 chunks" in done.stdout
    assert f'source: {{path: "{folder}"}}' in done.stdout
    assert len(done.stdout.splitlines()) < 40


def test_all_that_was_found_is_given_as_json(runbook: Runbook, real_databases: Path) -> None:
    found = json.loads(runbook("doctor", str(real_databases / "duckdb-parquet-0.3"), "--json").stdout)
    assert found["verdict"] == "sound"
    assert sum(c["listed"] for c in found["collections"]) == 515
    assert {c["read"] - c["lost"] for c in found["collections"]} == {c["listed"] for c in found["collections"]}


def test_what_is_no_database_is_one_answer_with_its_next_step(runbook: Runbook, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = runbook("doctor", "empty")
    assert done.returncode == 1
    assert "UNUSABLE" in done.stdout
    assert "no chroma.sqlite3" in done.stdout
    assert json.loads(runbook("doctor", "empty", "--json").stdout)["code"] == "source_empty"


@pytest.mark.more
def test_a_server_is_asked_and_not_written_to(
    runbook: Runbook, chroma_server: Callable[..., ChromaServer], tmp_path: Path
) -> None:
    server = chroma_server()
    with client_of(server.url) as client:
        client.create_collection("notes").add(
            ids=["a", "b"], embeddings=np.eye(2, dtype=np.float32), documents=["x", "y"]
        )
        done = runbook("doctor", server.url)
        assert (done.returncode, done.stderr) == (0, "")
        assert "a server over HTTP" in done.stdout
        assert [c.name for c in client.list_collections()] == ["notes"]
    assert runbook("doctor", "http://127.0.0.1:1").returncode == 1
    assert runbook("doctor", "http://").returncode == 2


def test_a_name_that_a_current_chroma_refuses_is_a_warning_with_its_remedy_and_no_damage(
    runbook: Runbook, tmp_path: Path
) -> None:
    with embedded(tmp_path / "db") as store:
        fill(store, "alpha", chunks(2, 4))
        fill(store, "beta", chunks(2, 4))
    with closing(sqlite3.connect(tmp_path / "db" / DATABASE)) as db, db:
        db.execute("update collections set name = 'café notes' where name = 'beta'")
    done = runbook("doctor", "db")
    assert done.returncode == 0
    flat = " ".join(done.stdout.split())
    assert flat.startswith("Sound: all 4 chunks can be read.")
    assert "WARNING café notes: a current Chroma refuses the name: only letters" in flat
    assert "route it to another name by a schema file, or leave it out (collections.exclude)" in flat
    assert 'collections: {exclude: ["café notes"]}' in flat
    assert parameters_from({"source": {"path": "db"}, "target": {"path": "new"}, "name": "n",
                            "collections": {"exclude": ["café notes"]}}).collections.selects("café notes") is False  # fmt: skip


def test_a_finding_says_how_bad_it_is_and_its_words_do_not(runbook: Runbook, tmp_path: Path) -> None:
    """Documents with NUL speak of full-text search, log records of deleted collections of the log: nothing is broken."""
    with embedded(tmp_path / "db") as store:
        batch = chunks(3, 4)
        batch.documents[0] = "before\0after"
        fill(store, "alpha", batch)
    with closing(sqlite3.connect(tmp_path / "db" / DATABASE)) as db, db:
        db.execute(
            "insert into embeddings_queue (operation, topic, id) values (3, 'persistent://default/default/x', 'y')"
        )
    found = json.loads(runbook("doctor", "db", "--json").stdout)
    told = {problem["what"].split(" ", 1)[1][:26]: problem["severity"] for problem in found["problems"]}
    assert told == {"documents hold NUL charact": "note", "log records of collections": "note"}
    assert found["verdict"] == "sound"

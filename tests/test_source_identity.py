"""Notebook 10 says what a source is: layout, protocol, version as far as it can be known, what was found, what that risks."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from helpers.parameters import parameters_from
from helpers.parameters.endpoint import Endpoint
from helpers.run import folders as runs
from helpers.run.record import RunRecord
from helpers.steps.source_health import SourceHealthStep, is_of_0_x
from helpers.stores.layout import DATABASE
from tests.servers import ChromaServer
from tests.storage import chunks, embedded, fill, writable_copy

Look = Callable[[dict[str, Any]], tuple[dict[str, str], dict[str, str]]]


@pytest.fixture
def look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Look:
    """`look(source)`: the tables `reach` and `identity`, each as what → value; several values of one row in one text."""
    monkeypatch.setenv("RUNBOOK_REPORTS", str(tmp_path / "reports"))
    monkeypatch.setenv("RUNBOOK_WORKSPACE", str(tmp_path / "workspace"))

    def seen(source: dict[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
        parameters = parameters_from({"name": "look", "source": source, "target": {"path": str(tmp_path / "target")}})
        health = SourceHealthStep(RunRecord(runs.create(parameters, "look"), "10", parameters))
        reached = {str(key): str(value) for key, value in health.reach()["value"].items()}
        known: dict[str, str] = {}
        for row in health.identity().to_dict("records"):
            known[row["what"]] = "; ".join(filter(None, [known.get(row["what"], ""), row["value"]]))
        return reached, known

    return seen


def test_a_directory_of_0_3_is_named_as_such(look: Look, real_databases: Path) -> None:
    reached, known = look({"path": str(real_databases / "duckdb-parquet-0.3")})
    assert reached["layout"] == known["layout"] == "a directory of Chroma 0.3: two Parquet files"
    assert known["protocol"] == "Parquet files, read directly"
    assert known["version"] == "reports 0.3 (duckdb and parquet)"
    assert (reached["collections"], reached["chunks"]) == ("10", "515")


def test_an_old_directory_tells_its_version_its_quirks_and_their_risks(
    look: Look, real_databases: Path, tmp_path: Path
) -> None:
    folder = writable_copy(real_databases / "turkish-768-0.5", tmp_path / "old")
    with closing(sqlite3.connect(folder / DATABASE)) as db, db:
        db.execute("""update embeddings_queue set metadata = json_set(metadata, '$."chroma:document"', null)
                      where seq_id in (3, 13)""")  # fmt: skip
        db.execute("update embeddings_queue set vector = null, encoding = null where seq_id = 51")
    stray = folder / "00000000-0000-4000-8000-000000000000"
    stray.mkdir()
    (stray / "header.bin").write_bytes(b"x")
    _, known = look({"path": str(folder)})
    assert known["layout"].startswith("a directory with chroma.sqlite3 and an index folder per collection")
    assert known["protocol"] == "in this process"
    assert known["version"] == "0.4 to 0.5.5 (embeddings_queue 1, metadb 3, sysdb 7)"
    for words in (
        "2 log records held a null document",
        "1 log records came without a vector",
        "belongs to no collection",
    ):
        assert words in known["found"]
    assert "5 records or folders had to be repaired on the copy" in known["risk"]
    assert "chunks whose vectors are lost go to quarantine, unless migration.reembed" in known["risk"]


@pytest.mark.parametrize(
    ("folder", "old"),
    [("duckdb-parquet-0.3", True), ("turkish-768-0.5", True), ("no-documents-128-1.x", False)],
)
def test_a_source_of_0_x_is_warned_that_filters_change(real_databases: Path, folder: str, old: bool) -> None:
    assert is_of_0_x(Endpoint(path=str(real_databases / folder)), "1.5.9") is old


def test_a_server_of_0_x_says_its_version() -> None:
    assert is_of_0_x(Endpoint(url="http://old:8000"), "0.5.23")
    assert not is_of_0_x(Endpoint(url="http://new:8000"), "1.0.0")


def test_an_application_of_0_5_is_warned_of_its_declared_space(look: Look, real_databases: Path) -> None:
    _, known = look({"path": str(real_databases / "open-webui-cosine-0.5")})
    assert "declared as l2, but queries answer cosine" in known["found"]
    assert "a copied configuration would search" in known["risk"]


def test_a_current_server_has_nothing_odd(look: Look, tmp_path: Path) -> None:
    with embedded(tmp_path / "db") as store:
        fill(store, "notes", chunks(12))
    with ChromaServer(tmp_path / "db") as server:
        reached, known = look({"url": server.url})
    assert reached["version it reports"] == "1.0.0 (every 1.x server says 1.0.0)"
    assert known == {
        "layout": "a server over HTTP",
        "protocol": "API v2",
        "version": "reports 1.0.0 (every 1.x server says 1.0.0)",
        "found": "nothing odd",
        "risk": "none that the directory or server shows",
    }

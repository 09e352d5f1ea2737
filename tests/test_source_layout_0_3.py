"""The 0.3 layout: read from its two Parquet files as they are, its pickled index never touched."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.errors import Terminal
from helpers.parameters.endpoint import Endpoint
from helpers.stores import Space, distance, open_source, open_target, quick_names
from helpers.stores.layout import COLLECTIONS, DATABASE, EMBEDDINGS, contents
from tests.storage import chunks, fill, tree, writable_copy
from tests.test_command_runs_the_line import Runbook, runbook  # noqa: F401  a fixture


def files_say(folder: Path) -> dict[str, dict[str, tuple[Any, Any, bytes]]]:
    """Collection → id → document, metadata, vector, from the files and nothing of ours."""
    names = {row["uuid"]: row["name"] for row in pq.read_table(folder / COLLECTIONS).to_pylist()}
    found: dict[str, dict[str, tuple[Any, Any, bytes]]] = {name: {} for name in names.values()}
    for row in pq.read_table(folder / EMBEDDINGS).to_pylist():
        vector = np.asarray(row["embedding"], np.float32).tobytes()
        found[names[row["collection_uuid"]]][row["id"]] = (row["document"], json.loads(row["metadata"]), vector)
    return found


def test_the_real_directory_is_read_as_its_files_say(real_databases: Path, tmp_path: Path) -> None:
    source = writable_copy(real_databases / "duckdb-parquet-0.3", tmp_path / "old")
    before, wanted = tree(source), files_say(source)
    endpoint = Endpoint(path=str(source))
    assert quick_names(endpoint, "source") == sorted(wanted)
    with open_source(endpoint, tmp_path / "scratch") as store:
        assert (store.version, store.names()) == ("0.3 (duckdb and parquet)", sorted(wanted))
        for name, chunks in wanted.items():
            batch = store.read(name, store.ids(name))
            assert (store.count(name), store.info(name).dimension) == (len(chunks), batch.dimension)
            got = zip(batch.documents, batch.metadatas, batch.embeddings, strict=True)
            assert {i: (d, m, v.tobytes()) for i, (d, m, v) in zip(batch.ids, got, strict=True)} == chunks
            probes = batch.embeddings[:3]
            assert [near[0][0] for near in store.query(name, probes, 3)] == batch.ids[:3]
        assert store.why_no_text_queries("collection_0") == "Chroma 0.3 keeps no embedding function"
        with pytest.raises(Terminal, match="no embedding function"):
            store.query_texts("collection_0", ["x"], 1)
    assert sum(map(len, wanted.values())) == 515
    assert tree(source) == before


def write_old(folder: Path, chunks: list[dict[str, Any]], metadata: str = "null") -> Path:
    folder.mkdir()
    pq.write_table(pa.table({"uuid": ["u"], "name": ["notes"], "metadata": [metadata]}), folder / COLLECTIONS)
    filled = [{"collection_uuid": "u", "uuid": str(i), **chunk} for i, chunk in enumerate(chunks)]
    columns = {"collection_uuid": pa.string(), "uuid": pa.string(), "embedding": pa.list_(pa.float64()),
               "document": pa.string(), "id": pa.string(), "metadata": pa.string()}  # fmt: skip
    pq.write_table(pa.Table.from_pylist(filled, pa.schema(columns)), folder / EMBEDDINGS)
    return folder


@pytest.mark.parametrize("space", ["l2", "cosine", "ip"])
def test_types_none_lost_vectors_and_the_space_are_kept(tmp_path: Path, space: Space) -> None:
    chunks: list[dict[str, Any]] = [
        {"id": "a", "document": None, "embedding": [1.0, 2.0], "metadata": '{"i": 1, "f": 1.0, "b": true, "s": "1"}'},
        {"id": "b", "document": "", "embedding": [3.0, -4.0], "metadata": "null"},
        {"id": "c", "document": "left", "embedding": None, "metadata": '{"k": 2}'},
        {"id": "d", "document": "left", "embedding": [1.0], "metadata": None},
    ]
    folder = write_old(tmp_path / "old", chunks, json.dumps({"hnsw:space": space, "owner": "me"}))
    with open_source(Endpoint(path=str(folder)), tmp_path / "scratch") as store:
        info, batch = store.info("notes"), store.read("notes", ["d", "c", "b", "a", "nobody"])
        near = store.query("notes", [[1.0, 0.5]], 5)[0]
    assert (info.space, info.dimension, info.metadata) == (space, 2, {"hnsw:space": space, "owner": "me"})
    assert info.findings == ("2 chunks have no vector of 2 dimensions",)
    assert (batch.ids, batch.lost.tolist()) == (["d", "c", "b", "a"], [True, True, False, False])
    assert batch.documents == ["left", "left", "", None]
    assert batch.metadatas == [None, {"k": 2}, None, {"i": 1, "f": 1.0, "b": True, "s": "1"}]
    assert [type(v) for v in (batch.metadatas[3] or {}).values()] == [int, float, bool, str]
    away = distance(space, [[1.0, 2.0], [3.0, -4.0]], [1.0, 0.5])
    assert dict(near) == pytest.approx({"a": away[0], "b": away[1]})
    assert [d for _, d in near] == sorted(d for _, d in near)


GOOD: dict[str, Any] = {"id": "a", "document": "x", "embedding": [1.0], "metadata": None}
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "half a folder": (lambda f: (f / COLLECTIONS).unlink(), "source_incomplete"),
    "no chunks": (lambda f: (f / EMBEDDINGS).unlink(), "source_incomplete"),
    "lfs pointer": (lambda f: (f / EMBEDDINGS).write_text(POINTER), "source_lfs_pointer"),
    "cut short": (lambda f: (f / EMBEDDINGS).write_bytes((f / EMBEDDINGS).read_bytes()[:-9]), "source_damaged"),
    "foreign": (lambda f: pq.write_table(pa.table({"x": [1]}), f / EMBEDDINGS), "source_foreign_file"),
    "two databases": (lambda f: (f / "chroma.sqlite3").write_bytes(b""), "source_layout_0_3"),
}


@pytest.mark.parametrize("kind", sorted(BAD))
def test_damage_is_one_line(tmp_path: Path, kind: str) -> None:
    spoil, code = BAD[kind]
    folder = write_old(tmp_path / "old", [GOOD])
    spoil(folder)
    with pytest.raises(Terminal) as caught, open_source(Endpoint(path=str(folder)), tmp_path / "scratch"):
        pass
    assert caught.value.code == code
    assert "\n" not in str(caught.value)


def collections_named(folder: Path, names: dict[str, tuple[str, int]]) -> Path:
    """A directory of 0.3 with these collections: uuid → (name, chunks)."""
    ids = [(uuid, i) for uuid, (_, count) in names.items() for i in range(count)]
    chunks = [GOOD | {"id": f"{uuid}-{i}", "document": uuid, "collection_uuid": uuid} for uuid, i in ids]
    write_old(folder, chunks)
    rows = {"uuid": list(names), "name": [name for name, _ in names.values()], "metadata": ["null"] * len(names)}
    pq.write_table(pa.table(rows), folder / COLLECTIONS)
    return folder


TWINS = {"aaaa-1": ("notes", 20), "BBBB-2": ("notes", 5), "cccc-3": ("other", 3)}


def test_two_collections_of_one_name_are_refused_with_uuids_and_counts(tmp_path: Path) -> None:
    endpoint = Endpoint(path=str(collections_named(tmp_path / "old", TWINS)))
    for look in (lambda: quick_names(endpoint, "source"), lambda: open_source(endpoint, tmp_path).__enter__()):
        with pytest.raises(Terminal) as caught:
            look()
        assert caught.value.code == "source_doubled_names"
        told = caught.value.line()
        assert "2 collections are named notes: aaaa-1 with 20 chunks and bbbb-2 with 5 chunks" in told
        assert "--set 'source.rename={bbbb-2: notes-2}'" in told


def test_two_collections_of_one_name_are_named_apart_and_none_of_their_chunks_is_a_stray(tmp_path: Path) -> None:
    folder = collections_named(tmp_path / "old", TWINS)
    endpoint = Endpoint(path=str(folder), rename={"bbbb-2": "notes-2"})
    assert quick_names(endpoint, "source") == ["notes", "notes-2", "other"]
    with open_source(endpoint, tmp_path / "scratch") as store:
        assert {name: store.count(name) for name in store.names()} == {"notes": 20, "notes-2": 5, "other": 3}
        assert set(store.read("notes-2", store.ids("notes-2")).documents) == {"BBBB-2"}
        assert not [finding for finding in getattr(store, "findings", ()) if "belong to no collection" in finding]
    with pytest.raises(Terminal, match="no collection has the uuid dddd"):
        quick_names(Endpoint(path=str(folder), rename={"dddd": "x"}), "source")


def test_a_chunk_without_a_collection_is_counted_as_one(tmp_path: Path) -> None:
    folder = collections_named(tmp_path / "old", {"a": ("notes", 2), "b": ("gone", 3)})
    pq.write_table(pq.read_table(folder / COLLECTIONS).slice(0, 1), folder / COLLECTIONS)
    with open_source(Endpoint(path=str(folder)), tmp_path / "scratch") as store:
        assert "3 chunks belong to no collection and are not migrated" in getattr(store, "findings", ())


def test_renaming_is_for_0_3_alone(tmp_path: Path) -> None:
    with open_target(Endpoint(path=str(tmp_path / "new"))):
        pass
    with (
        pytest.raises(Terminal, match="no directory of Chroma 0"),
        open_source(Endpoint(path=str(tmp_path / "new"), rename={"a": "b"}), tmp_path / "scratch"),
    ):
        pass
    with pytest.raises(ValueError, match="rename needs a path"):
        Endpoint(url="http://localhost:8000", rename={"a": "b"})


def upgraded(folder: Path, left: list[dict[str, Any]]) -> Path:
    """A live database of 3 chunks, a0 to a2, beside files of 0.3 with the chunks `left`."""
    write_old(folder, left)
    with open_target(Endpoint(path=str(folder.with_name("new")))) as store:
        fill(store, "notes", chunks(3, 1, prefix="a"))
    for part in folder.with_name("new").iterdir():
        shutil.move(part, folder / part.name)
    return folder


@pytest.mark.parametrize("left", [[], [GOOD | {"id": "a1"}]], ids=["empty", "taken over"])
def test_files_of_0_3_that_an_upgrade_left_are_a_finding(tmp_path: Path, left: list[dict[str, Any]]) -> None:
    source = upgraded(tmp_path / "old", left)
    before, endpoint = tree(source), Endpoint(path=str(source))
    assert quick_names(endpoint, "source") == ["notes"]
    with open_source(endpoint, tmp_path / "scratch") as store:
        assert store.count("notes") == 3
        assert [f for f in getattr(store, "findings", ()) if "hold no chunk that chroma.sqlite3 lacks" in f]
    assert tree(source) == before


def test_files_of_0_3_with_chunks_of_their_own_are_two_databases(tmp_path: Path) -> None:
    source = upgraded(tmp_path / "old", [GOOD | {"id": "nobody else's"}])
    with pytest.raises(Terminal, match="two databases in one folder"):
        quick_names(Endpoint(path=str(source)), "source")


def test_an_empty_database_that_a_newer_client_made_beside_0_3_is_a_finding(tmp_path: Path) -> None:
    source = write_old(tmp_path / "old", [GOOD])
    with open_target(Endpoint(path=str(tmp_path / "new"))):
        pass
    shutil.move(tmp_path / "new" / "chroma.sqlite3", source / "chroma.sqlite3")
    with open_source(Endpoint(path=str(source)), tmp_path / "scratch") as store:
        assert store.count("notes") == 1
        assert [f for f in getattr(store, "findings", ()) if "an empty chroma.sqlite3 lies beside" in f]


def test_doubled_ids_and_wrong_tenants_are_errors(tmp_path: Path) -> None:
    folder = write_old(tmp_path / "old", [GOOD, GOOD])
    with (
        pytest.raises(Terminal, match="id of another one, such as a"),
        open_source(Endpoint(path=str(folder)), tmp_path),
    ):
        pass
    with pytest.raises(Terminal, match="no tenant typo"):
        quick_names(Endpoint(path=str(folder), tenant="typo"), "source")


@pytest.mark.slow
def test_the_real_directory_arrives_as_its_files_say(real_databases: Path, tmp_path: Path, runbook: Runbook) -> None:  # noqa: F811
    source = tmp_path / "old"
    shutil.copytree(real_databases / "duckdb-parquet-0.3", source)
    text = "name: old\nsource: {path: old}\ntarget: {path: target}\nschema: identity\n"
    (tmp_path / "old.yaml").write_text(text, encoding="utf-8")
    done = runbook("run", "old.yaml", "--run-id", "one", "--until", "24")
    assert (done.returncode, "Verdict: NO-GO" in done.stdout) == (4, False), done.stdout + done.stderr
    with open_target(Endpoint(path=str(tmp_path / "target"))) as store:
        wanted = files_say(source)
        assert store.names() == sorted(wanted)
        for name, chunks in wanted.items():
            batch = store.read(name, store.ids(name))
            got = zip(batch.documents, batch.metadatas, batch.embeddings, strict=True)
            assert {i: (d, m, v.tobytes()) for i, (d, m, v) in zip(batch.ids, got, strict=True)} == chunks


def beside(folder: Path, change: str = "", *, names: tuple[str, ...] = ("notes",)) -> Path:
    """Files of 0.3 with a0 to a2 in each of `names`, beside a database with a0 to a2 in "notes"; there `change` is made."""
    source = upgraded(folder, [GOOD | {"id": f"a{n}"} for n in range(3)])
    uuids = [f"u{n}" for n, _ in enumerate(names)]
    table = pa.table({"uuid": uuids, "name": list(names), "metadata": ["null"] * len(names)})
    pq.write_table(table, source / COLLECTIONS)
    one = pq.read_table(source / EMBEDDINGS)
    each = [one.set_column(0, "collection_uuid", pa.array([own] * 3)) for own in uuids]
    pq.write_table(pa.concat_tables(each), source / EMBEDDINGS)
    with closing(sqlite3.connect(source / DATABASE)) as db:
        db.executescript(change)
    return source


DELETED = (
    "INSERT INTO embeddings_queue (operation, topic, id) SELECT 3, topic, id FROM embeddings_queue WHERE id = 'a1'"
)


@pytest.mark.parametrize(
    ("names", "change", "kept"),
    [
        (("notes",), "", True),
        (("contracts",), "", False),
        (("notes", "contracts"), "", False),
        (("notes", "notes"), "", False),
        (("",), "", False),
        (("notes",), DELETED, False),
        (("notes",), DELETED.replace("3", "1"), True),
        (("notes",), "DELETE FROM embeddings WHERE embedding_id = 'a1'", True),
        (("notes",), "DELETE FROM embeddings; DELETE FROM embeddings_queue", False),
        (("notes",), "UPDATE databases SET name = 'other'", False),
        (("notes",), "UPDATE embeddings_queue SET topic = CAST(topic AS BLOB)", False),
    ],
    ids=["taken over", "another collection", "one of two", "two of one name", "no name", "deleted in the log",
         "updated in the log", "only in the log", "nowhere", "another database", "no text"],
)  # fmt: skip
def test_a_chunk_of_0_3_was_taken_over_only_where_its_collection_lists_it(
    tmp_path: Path, names: tuple[str, ...], change: str, kept: bool
) -> None:
    source = beside(tmp_path / "old", change, names=names)
    before = tree(source)
    assert contents(source) == ("database" if kept else "both")
    if not kept:
        with pytest.raises(Terminal, match="two databases in one folder"):
            quick_names(Endpoint(path=str(source)), "source")
    assert tree(source) == before

"""Damaged directories, made from real ones: every vector that their files hold arrives, and what is lost is named."""

from __future__ import annotations

import json
import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from helpers.chunks import ChunkBatch
from helpers.errors import EnvironmentFailure, Terminal
from helpers.parameters.endpoint import Endpoint
from helpers.snapshots.snapshot import Snapshot, write_snapshot
from helpers.stores import checked_dimension, distance, open_source, opening
from helpers.stores.copying import copy_directory
from helpers.stores.index_files import LINKS, bloat
from helpers.stores.layout import DATABASE, reading, stored_names
from helpers.stores.rescue import diagnose, stored_collections
from tests.damaged import DAMAGES, TERABYTE, Damaged, make, sound
from tests.storage import assert_same, chunks, contents, embedded, fill, in_order, index_folder, tree, writable_copy

MADE = ("vector_from_log", "vector_from_index", "vector_normalised")


@dataclass
class Bench:
    real_databases: Path
    bases: Path
    folder: Path

    def make(self, name: str) -> Damaged:
        return make(name, self.real_databases, self.bases, self.folder / "damaged")

    def read(self, folder: Path, collection: str, normalised: bool = False) -> tuple[ChunkBatch, list[str], Snapshot]:
        """What the source gives, its findings, and its snapshot."""
        with open_source(Endpoint(path=str(folder)), self.folder / "scratch", normalised=normalised) as store:
            batch, info = contents(store, collection), store.info(collection)
            taken = write_snapshot(store, self.folder / "snapshots", folder.name, [collection], retention_days=7)
        return batch, [*taken.manifest["findings"], *info.findings], taken


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bases")


@pytest.fixture
def bench(real_databases: Path, bases: Path, tmp_path: Path) -> Bench:
    return Bench(real_databases, bases, tmp_path)


def sql(folder: Path, statement: str, *values: object) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(folder / DATABASE)) as db, db:
        return db.execute(statement, values).fetchall()


def ids_of(snapshot: Snapshot, *kinds: str) -> set[str]:
    return {chunk for r in snapshot.manifest["repairs"] if r["repair"] in kinds for chunk in r.get("ids", [r["id"]])}


@pytest.mark.parametrize("name", DAMAGES)
def test_every_vector_that_the_files_hold_is_rescued_and_the_rest_is_named(name: str, bench: Bench) -> None:
    made = bench.make(name)
    before = {} if "sparse" in name else tree(made.folder)
    whole, _, _ = bench.read(made.original, made.collection)
    found, findings, snapshot = bench.read(made.folder, made.collection)
    assert found.ids == whole.ids
    assert (found.documents, found.metadatas) == (whole.documents, whole.metadatas)
    lost = {chunk for chunk, gone in zip(found.ids, found.lost, strict=True) if gone}
    assert lost == made.lost | made.normalised
    kept = np.array([i not in lost and i not in made.rewritten for i in found.ids])
    if DAMAGES[name][0] == "cosine":  # the log's vectors are raw, an engine's went through its norm (chroma-facts 4)
        np.testing.assert_allclose(found.embeddings[kept], whole.embeddings[kept], rtol=5e-7)
    else:
        assert found.embeddings[kept].tobytes() == whole.embeddings[kept].tobytes()
    for chunk, vector in made.rewritten.items():
        assert found.embeddings[found.ids.index(chunk)].tobytes() == vector.tobytes()
    if made.codes:
        assert ids_of(snapshot, "vector_lost") == made.lost
        assert ids_of(snapshot, "norm_lost") == made.normalised
        assert ids_of(snapshot, *MADE) == set(found.ids) - lost
        assert any("its index was not opened" in said for said in findings)
    else:
        assert findings or name == "database behind a link"
    assert made.marker is None or not made.marker.exists(), "the malicious pickle ran"
    assert not before or tree(made.folder) == before


def test_a_vector_without_its_norm_is_used_by_order_only_and_never_called_exact(bench: Bench) -> None:
    made = bench.make("lost norms")
    whole, _, _ = bench.read(made.original, made.collection)
    found, findings, snapshot = bench.read(made.folder, made.collection, normalised=True)
    assert not found.lost.any()
    assert ids_of(snapshot, "vector_normalised") == made.normalised
    unit = np.array([i in made.normalised for i in found.ids])
    np.testing.assert_allclose(np.linalg.norm(found.embeddings[unit], axis=1), 1, rtol=1e-6)
    towards = whole.embeddings[unit] / np.linalg.norm(whole.embeddings[unit], axis=1, keepdims=True)
    np.testing.assert_allclose(found.embeddings[unit], towards, rtol=1e-5, atol=1e-7)
    assert any("lost their norm, migrated with the length 1" in said for said in findings)
    assert not ids_of(snapshot, "vector_from_log", "vector_from_index") & made.normalised


def test_a_rescued_collection_is_searched_by_brute_force(bench: Bench) -> None:
    made = bench.make("missing header.bin")
    with open_source(Endpoint(path=str(made.folder)), bench.folder / "scratch") as store:
        batch = contents(store, made.collection)
        [found] = store.query(made.collection, batch.embeddings[7:8], 5)
        away = np.sort(distance("l2", batch.embeddings, batch.embeddings[7]))[:5]
        assert (found[0], [d for _, d in found]) == ((batch.ids[7], 0.0), away.tolist())
        assert "damaged" in store.why_no_text_queries(made.collection)


@pytest.mark.parametrize("dimension", [2**40, -3])
def test_a_length_of_vectors_that_nobody_has_makes_no_matrix(bench: Bench, dimension: int) -> None:
    """By SQLite's own word, where no index says otherwise; a matrix of it was made before anything was read."""
    made = bench.make("missing header.bin")
    sql(made.folder, "UPDATE collections SET dimension = ?", dimension)
    with (
        pytest.raises(EnvironmentFailure, match=rf"dimension'?s? .*{dimension}|{dimension} dimensions"),
        open_source(Endpoint(path=str(made.folder)), bench.folder / "scratch") as store,
    ):
        store.read(made.collection, store.ids(made.collection))
    for told in (dimension, "3", 1.5):
        with pytest.raises(Terminal, match="are said to have"):
            checked_dimension(told, "alpha")
    assert [checked_dimension(told, "alpha") for told in (None, 0, 4_096)] == [None, 0, 4_096]


@pytest.mark.parametrize("name", ["{outside}", "../../outside", "..", "", b"a"])
def test_a_segment_whose_id_is_a_path_is_refused_and_nothing_is_removed(tmp_path: Path, name: str | bytes) -> None:
    """The folder of an index has the id of its segment, and leaves the copy where an engine cannot read it."""
    source, outside = tmp_path / "source", tmp_path / "outside"
    with embedded(source) as store:
        fill(store, "notes", chunks(3))
    outside.mkdir()
    (outside / "precious").write_text("x")
    name = name.format(outside=outside) if isinstance(name, str) else name
    ((own,),) = sql(source, "SELECT id FROM segments WHERE scope = 'VECTOR'")
    with closing(sqlite3.connect(source / DATABASE)) as db, db:
        db.execute("PRAGMA foreign_keys = OFF")
        for table, column in (("segments", "id"), ("segment_metadata", "segment_id"), ("max_seq_id", "segment_id")):
            db.execute(f"UPDATE {table} SET {column} = ? WHERE {column} = ?", (name, own))
    before = tree(source), tree(outside)
    with (
        pytest.raises(Terminal, match="a segment has the id"),
        open_source(Endpoint(path=str(source)), tmp_path / "a/b"),
    ):
        pass
    assert (tree(source), tree(outside)) == before


@pytest.mark.parametrize("name", ["{outside}/new", "../../outside/precious", ""])
def test_a_collection_whose_id_is_a_path_is_refused_and_nothing_is_written(tmp_path: Path, name: str) -> None:
    """What can be saved of its vectors is written to a file that has its id."""
    source, outside = tmp_path / "source", tmp_path / "outside"
    with embedded(source) as store:
        fill(store, "notes", chunks(3))
    outside.mkdir()
    (outside / "precious.npy").write_text("x")
    ((segment,),) = sql(source, "SELECT id FROM segments WHERE scope = 'VECTOR'")
    with closing(sqlite3.connect(source / DATABASE)) as db, db:
        db.execute("PRAGMA foreign_keys = OFF")
        for table, column in (
            ("collections", "id"),
            ("segments", "collection"),
            ("collection_metadata", "collection_id"),
        ):
            db.execute(f"UPDATE {table} SET {column} = ?", (name.format(outside=outside),))
        db.execute("UPDATE embeddings_queue SET topic = ''")
        db.execute("INSERT OR REPLACE INTO max_seq_id (segment_id, seq_id) VALUES (?, 20)", (segment,))
    before = tree(source), tree(outside)
    with (
        pytest.raises(Terminal, match="a collection has the id"),
        open_source(Endpoint(path=str(source)), tmp_path / "a/b"),
    ):
        pass
    assert (tree(source), tree(outside)) == before


def test_a_statement_of_blanks_holds_no_look(tmp_path: Path) -> None:
    with embedded(tmp_path / "source") as store:
        fill(store, "notes", chunks(3))
    blanks = " " * 30_000
    with closing(sqlite3.connect(tmp_path / "source" / DATABASE)) as db, db:
        db.execute("CREATE TABLE t (n INTEGER)")
        db.execute("CREATE INDEX i ON t (n) WHERE n > 1")
        db.execute("PRAGMA writable_schema = ON")
        text = f"CREATE INDEX{blanks}i ON t (n) WHERE{blanks}n > 1"
        db.execute("UPDATE sqlite_master SET sql = ? WHERE name = 'i'", (text,))
    begun = time.process_time()
    with pytest.raises(Terminal, match="holds a partial index"), reading(tmp_path / "source" / DATABASE):
        pass
    assert time.process_time() - begun < 2.0


@pytest.mark.parametrize("kind", ["TRIGGER", "View", "table", "index", "INDEX"])
def test_code_under_another_type_is_not_run_either(tmp_path: Path, kind: str) -> None:
    """SQLite reads the statement of an object, whatever its type says; a schema can be written by hand."""
    with embedded(tmp_path / "source") as store:
        fill(store, "notes", chunks(3))
    with closing(sqlite3.connect(tmp_path / "source" / DATABASE)) as db, db:
        db.execute(
            f"CREATE {'VIEW odd AS SELECT 1' if kind == 'View' else 'TRIGGER odd AFTER INSERT ON embeddings BEGIN SELECT 1; END'}"
        )
        db.execute("PRAGMA writable_schema = ON")
        db.execute("UPDATE sqlite_master SET type = ? WHERE name = 'odd'", (kind,))
    with (
        pytest.raises(Terminal, match=r"holds a \w+ \(odd\)|malformed database schema \(odd\)") as caught,
        open_source(Endpoint(path=str(tmp_path / "source")), tmp_path / "scratch"),
    ):
        pass
    assert caught.value.code in ("source_foreign_file", "source_damaged")


def test_a_torn_file_of_a_terabyte_is_never_copied(bench: Bench) -> None:
    made = bench.make("sparse 1 TB link_lists.bin")
    copy = bench.folder / "copy"
    copy_directory(made.folder, copy)
    size = bloat(index_folder(copy, made.collection) / LINKS)
    assert (size.apparent, size.stored) == (TERABYTE, 0)


def test_other_sparse_files_keep_their_holes_and_their_bytes(bench: Bench) -> None:
    made = bench.make("database behind a link")
    file = index_folder(made.folder, made.collection) / "length.bin"
    with file.open("r+b") as opened:
        opened.truncate(64 * 2**20)
        for at in (8 * 2**20 + 5, 40 * 2**20):
            opened.seek(at)
            opened.write(b"data")
    copy = bench.folder / "copy"
    copy_directory(made.folder, copy)
    copied = index_folder(copy, made.collection) / "length.bin"
    assert copied.read_bytes() == file.read_bytes()
    assert bloat(copied).stored < 2**20


def test_a_database_behind_a_link_is_copied_with_the_log_beside_it(bench: Bench) -> None:
    """A4: half of the chunks are still in the write-ahead log, on the other volume; beside the link lies a stale one."""
    made = bench.make("database behind a link")
    real = (made.folder / DATABASE).resolve()
    (made.folder / f"{DATABASE}-wal").write_bytes(b"a stale file that SQLite does not look at")
    with closing(sqlite3.connect(real)) as db:
        db.execute("pragma journal_mode = wal")
        db.execute("pragma wal_autocheckpoint = 0")
        with db:
            db.execute("update embedding_metadata set string_value = 'in the log' where key = 'chroma:document'")
        assert real.with_name(f"{real.name}-wal").stat().st_size
        copy = bench.folder / "copy"
        copy_directory(made.folder, copy)
        assert stored_names(made.folder, "default_tenant", "default_database") == [made.collection]
    said = sql(copy, "select distinct string_value from embedding_metadata where key = 'chroma:document'")
    assert said == [("in the log",)]


def test_a_link_that_leads_nowhere_is_one_line(bench: Bench) -> None:
    made = bench.make("database behind a link")
    (made.folder / DATABASE).resolve().unlink()
    with pytest.raises(Exception, match=r"a link to .*real\.sqlite3, which is not there") as caught:
        copy_directory(made.folder, bench.folder / "copy")
    assert "\n" not in str(caught.value)


def test_an_index_folder_may_be_a_link(bench: Bench) -> None:
    made = bench.make("lost norms")
    index = index_folder(made.folder, made.collection)
    index.rename(bench.folder / "elsewhere")
    index.symlink_to(bench.folder / "elsewhere")
    _, _, snapshot = bench.read(made.folder, made.collection)
    assert len(ids_of(snapshot, "vector_from_index")) == 40


# -- where the files look sound and the engine fails --------------------------------------------------------------------


def test_a_vector_of_another_size_in_the_log_is_never_given_to_an_engine(bench: Bench) -> None:
    """1.5.9 reads beyond its end and stores what lies there."""
    copy = writable_copy(sound("cosine", bench.real_databases, bench.bases), bench.folder / "short")
    [(last, chunk)] = sql(copy, "select max(seq_id), id from embeddings_queue")
    sql(copy, "update embeddings_queue set vector = ? where seq_id = ?", bytes(8), last)
    found, findings, snapshot = bench.read(copy, "notes")
    lost = {i for i, gone in zip(found.ids, found.lost, strict=True) if gone}
    assert (len(found), lost, ids_of(snapshot, "vector_lost")) == (200, {chunk}, {chunk})
    assert any("1 vectors of another size" in said for said in findings)


@pytest.mark.more
def test_an_engine_that_hangs_ends_at_the_files(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hang is real, only its cause is not: a stand-in for the bindings sleeps where vectors are asked for."""
    folder = sound("cosine", bench.real_databases, bench.bases)
    (bench.folder / "chroma").mkdir()
    (bench.folder / "chroma" / "chromadb_rust_bindings.py").write_text(
        "import time\n"
        "class Collection: name, id = 'notes', '0'\n"
        "class MigrationHash: MD5 = 1\n"
        "class MigrationMode: Apply = 1\n"
        "def SqliteDBConfig(**_): pass\n"
        "class Bindings:\n"
        "    def __init__(self, **_): pass\n"
        "    def list_collections(self, *_): return [Collection]\n"
        "    def get(self, *a): time.sleep(60 * ('embeddings' in a[6]))\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(bench.folder / "chroma"))
    monkeypatch.setattr(opening, "_SECONDS", 3.0)
    monkeypatch.setattr(opening, "_RECORDS_A_SECOND", 1e9)
    found, findings, snapshot = bench.read(folder, "notes")
    assert not found.lost.any()
    assert len(ids_of(snapshot, "vector_from_index")) + len(ids_of(snapshot, "vector_from_log")) == 200
    assert any("did not finish on collection notes in 3 s" in said for said in findings)


def test_a_sound_directory_is_left_to_the_engine(bench: Bench) -> None:
    for base, collection in (("logged", "yok_student_rights"), ("purged", "items_128d"), ("cosine", "notes")):
        folder = sound(base, bench.real_databases, bench.bases)
        with closing(sqlite3.connect(f"file:{folder / DATABASE}?mode=ro", uri=True)) as db:
            [stored] = stored_collections(db, "default_tenant", "default_database")
            assert (stored.name, diagnose(db, folder, stored).reasons) == (collection, ())


@pytest.mark.parametrize("place", ["configuration", "metadata"])
def test_huge_index(tmp_path: Path, place: str) -> None:
    """90,000 links for each of 7,000 chunks that wait in the log took 4 GB of whoever opened it."""
    with embedded(tmp_path / "source") as store:
        fill(store, "docs", chunks(20, 4))
    with closing(sqlite3.connect(tmp_path / "source" / DATABASE)) as db, db:
        if place == "metadata":
            columns = "collection_id, key, int_value"
            db.execute(f"insert into collection_metadata ({columns}) select id, 'hnsw:M', 90000 from collections")
        else:
            new = "replace({0}, '\"max_neighbors\":16', '\"max_neighbors\":90000')"
            columns = ", ".join(f"{name} = {new.format(name)}" for name in ("config_json_str", "schema_str"))
            db.execute(f"update collections set {columns}")
            assert "90000" in str(db.execute("select config_json_str, schema_str from collections").fetchall())
    before = tree(tmp_path / "source")
    with open_source(Endpoint.model_validate({"path": str(tmp_path / "source")}), tmp_path) as reader:
        info = reader.info("docs")
        assert "90000" not in json.dumps([info.configuration, info.schema, info.metadata])
        assert (
            "max_neighbors of the index is 90,000, which would fill the memory: the copy was read with 16"
            in info.findings
        )
        assert_same(in_order(contents(reader, "docs")), in_order(chunks(20, 4)))
    assert tree(tmp_path / "source") == before

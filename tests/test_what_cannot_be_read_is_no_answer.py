"""A guard that cannot read what it is to look at says so. It never takes that for "nothing is there"."""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import chromadb
import numpy as np
import pytest

from helpers.errors import Terminal
from helpers.parameters.endpoint import Endpoint
from helpers.runner.fleet_table import discover
from helpers.stores import layout, open_source
from helpers.stores.copying import copy_directory, stored_identifiers
from helpers.stores.layout import DATABASE
from helpers.stores.opening import databases_of, holds_nothing, quick_names
from helpers.stores.rescue import stored_spaces
from tests.storage import chunks, embedded, fill


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "source"
    with embedded(folder) as store:
        fill(store, "notes", chunks(3))
    return folder


@pytest.fixture
def source(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "source"))


@contextmanager
def schema(folder: Path) -> Iterator[sqlite3.Connection]:
    """A database whose schema is written to as a table."""
    with closing(sqlite3.connect(folder / DATABASE)) as db:
        db.execute("CREATE TABLE note (x)")
        db.execute("PRAGMA writable_schema = ON")
        yield db
        db.commit()


LOOKS: dict[str, Callable[[Path, Path], object]] = {
    "the copy": lambda folder, scratch: copy_directory(folder, scratch),
    "a quick look": lambda folder, _: quick_names(Endpoint(path=str(folder)), "source"),
    "the uuids": lambda folder, _: stored_identifiers(folder),
    "the databases": lambda folder, _: databases_of(Endpoint(path=str(folder), database="*")),
}
NO_TEXT = "holds a statement that is no UTF-8"


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize(
    ("what", "old", "new", "said"),
    [
        ("sql", b"", b"", "holds a trigger"),
        ("sql", b"BEGIN", b"/* \xff */ BEGIN", NO_TEXT),
        ("name", b"evil", b"ev\xffil", "SQLite says"),
        ("type", b"trigger", b"trigg\xff", "SQLite says"),
    ],
)
def test_a_schema_that_is_no_utf8_is_refused(
    source: Path, tmp_path: Path, what: str, old: bytes, new: bytes, said: str, look: str
) -> None:
    with schema(source) as db:
        db.execute("CREATE TRIGGER evil AFTER INSERT ON note BEGIN DELETE FROM embeddings; END")
        (value,) = db.execute(f"SELECT CAST({what} AS BLOB) FROM sqlite_master WHERE name = 'evil'").fetchone()
        changed = value.replace(old, new)
        db.execute(f"UPDATE sqlite_master SET {what} = CAST(? AS TEXT) WHERE name = 'evil'", (changed,))
    with pytest.raises(Terminal, match=said) as caught:
        LOOKS[look](source, tmp_path / "scratch")
    assert caught.value.code == ("source_damaged" if said == "SQLite says" else "source_foreign_file")
    assert len(caught.value.line()) < 600


@pytest.mark.parametrize("look", LOOKS)
def test_a_table_of_somebody_elses_holds_nothing_up(source: Path, tmp_path: Path, look: str) -> None:
    with schema(source) as db:
        db.execute("UPDATE sqlite_master SET sql = 'CREATE TABLE note (x /* fine */)' WHERE name = 'note'")
    assert LOOKS[look](source, tmp_path / "scratch") is not None


def test_uuids_that_cannot_be_read_are_not_taken_for_none(source: Path) -> None:
    (here,) = stored_identifiers(source)
    with closing(sqlite3.connect(source / DATABASE)) as db:
        db.execute("PRAGMA foreign_keys = OFF")
        db.execute("UPDATE collections SET id = upper(id)")
        db.commit()
        assert stored_identifiers(source) == {here}, "a server writes it in small letters"
        db.execute("UPDATE collections SET id = CAST(x'ff' AS TEXT)")
        db.commit()
    with pytest.raises(Terminal) as caught:
        stored_identifiers(source)
    assert caught.value.code == "source_damaged"


def test_a_directory_without_a_list_of_collections_has_no_uuids(source: Path) -> None:
    with closing(sqlite3.connect(source / DATABASE)) as db:
        db.execute("DROP TABLE collections")
        db.commit()
    assert stored_identifiers(source) == set()
    (source / DATABASE).unlink()
    assert stored_identifiers(source) == set()


def test_uuids_of_a_database_that_is_locked_are_not_taken_for_none(source: Path) -> None:
    with closing(sqlite3.connect(source / DATABASE)) as db:
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("BEGIN EXCLUSIVE")
        with pytest.raises(Terminal, match="Stop the application") as caught:
            stored_identifiers(source)
    assert caught.value.code == "source_in_use"


def test_a_collection_whose_name_is_no_utf8_is_refused(source: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(source / DATABASE)) as db:
        db.execute("UPDATE collections SET name = CAST(x'6eff' AS TEXT)")
        db.commit()
    with pytest.raises(Terminal) as caught, open_source(Endpoint(path=str(source)), tmp_path):
        pass
    assert caught.value.code == "source_damaged"


def test_a_table_that_cannot_be_asked_hides_no_value_in_others(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite takes no question with more than 1,000 conditions; the look at the tables behind it went with it."""
    monkeypatch.setattr(layout, "MOST_VALUE", 2**17)
    with closing(sqlite3.connect(source / DATABASE)) as db:
        db.execute(f"CREATE TABLE aa ({', '.join(f'c{n}' for n in range(1_100))})")
        db.commit()
    with pytest.raises(Terminal, match="SQLite says"):
        copy_directory(source, tmp_path / "one")
    monkeypatch.setattr(layout, "MOST_VALUE", 2**28)  # a file that can hold none is not looked through
    assert copy_directory(source, tmp_path / "two") == []


def test_a_space_that_cannot_be_read_is_not_taken_for_the_default(source: Path) -> None:
    with closing(sqlite3.connect(source / DATABASE)) as db:
        db.execute("INSERT INTO segment_metadata (segment_id, key, str_value) "
                   "SELECT id, 'hnsw:space', 'cosine' FROM segments WHERE scope = 'VECTOR'")  # fmt: skip
        db.commit()
        assert list(stored_spaces(source).values()) == ["cosine"]
        db.execute("UPDATE segment_metadata SET str_value = CAST(x'63ff' AS TEXT)")
        db.commit()
    with pytest.raises(Terminal) as caught:
        stored_spaces(source)
    assert caught.value.code == "source_damaged"


def old_directory(folder: Path, metadb: int = 3) -> Path:
    """As Chroma 0.4.0 to 0.4.14 left it, by Chroma's own migrations: two collections, and no table of databases."""
    folder.mkdir()
    with closing(sqlite3.connect(folder / DATABASE)) as db:
        db.execute("CREATE TABLE migrations (dir TEXT NOT NULL, version INTEGER NOT NULL, filename TEXT NOT NULL, "
                   "sql TEXT NOT NULL, hash TEXT NOT NULL, PRIMARY KEY (dir, version))")  # fmt: skip
        for part, newest in (("embeddings_queue", 1), ("metadb", metadb), ("sysdb", 3)):
            for file in sorted((Path(chromadb.__file__).parent / "migrations" / part).glob("*.sql"))[:newest]:
                migrate(db, file)
        for name in ("contracts", "letters"):
            own = str(uuid.uuid4())
            topic = f"persistent://default/default/{own}"
            db.execute("INSERT INTO collections (id, topic, name, dimension) VALUES (?, ?, ?, 4)", (own, topic, name))
            for kind, scope in (("vector/hnsw-local-persisted", "VECTOR"), ("metadata/sqlite", "METADATA")):
                db.execute("INSERT INTO segments (id, type, scope, topic, collection) VALUES (?, ?, ?, ?, ?)",
                           (str(uuid.uuid4()), f"urn:chroma:segment/{kind}", scope, topic, own))  # fmt: skip
            for n in range(3):
                db.execute(
                    "INSERT INTO embeddings_queue (operation, topic, id, vector, encoding, metadata) "
                    "VALUES (0, ?, ?, ?, 'FLOAT32', ?)",
                    (topic, f"c{n}", np.full(4, n, "<f4").tobytes(), json.dumps({"chroma:document": f"text {n}"})),
                )
        db.commit()
    return folder


def migrate(db: sqlite3.Connection, file: Path) -> None:
    sql = file.read_text()
    db.executescript(sql)
    digest = hashlib.md5(sql.encode(), usedforsecurity=False).hexdigest()
    number = int(file.name.split("-")[0])
    db.execute("INSERT INTO migrations VALUES (?, ?, ?, ?, ?)", (file.parent.name, number, file.name, sql, digest))


def test_only_a_database_whose_collections_were_counted_is_empty(source: Path, tmp_path: Path) -> None:
    old = Endpoint(path=str(old_directory(tmp_path / "old")))
    assert quick_names(old, "source") == ["contracts", "letters"]
    with pytest.raises(Terminal, match="no database other"):
        quick_names(old.model_copy(update={"database": "other"}), "source")
    new = Endpoint(path=str(source))
    assert not holds_nothing(old)
    assert not holds_nothing(new)
    with closing(sqlite3.connect(source / DATABASE)) as db:
        db.execute("UPDATE collections SET name = CAST(x'6eff' AS TEXT)")
        db.commit()
        assert not holds_nothing(new), "a name that is no UTF-8 is one"
        with pytest.raises(Terminal) as caught:
            quick_names(new, "source")
        assert caught.value.code == "source_damaged"
    with closing(sqlite3.connect(source / DATABASE)) as db:
        db.execute("PRAGMA foreign_keys = OFF")
        db.execute("DELETE FROM collections")
        db.commit()
    assert holds_nothing(new)
    (source / f"{DATABASE}-journal").write_bytes(b"what a crash left")
    assert not holds_nothing(new)


def test_a_directory_without_databases_is_migrated_and_discovered(tmp_path: Path) -> None:
    source = Endpoint(path=str(old_directory(tmp_path / "old")))
    with open_source(source, tmp_path / "scratch") as store:
        assert {name: store.count(name) for name in store.names()} == {"contracts": 3, "letters": 3}
    with open_source(source, tmp_path / "scratch", lambda name: name == "letters") as store:
        assert store.count("letters") == 3
    discover(source, [], tmp_path / "table.yaml")
    assert "default_database" in (tmp_path / "table.yaml").read_text()


@pytest.mark.parametrize("metadb", [2, 3])
def test_a_full_text_index_is_not_made_before_the_engines_own_migration_makes_it(tmp_path: Path, metadb: int) -> None:
    old = old_directory(tmp_path / "old", metadb)
    if metadb == 3:  # made once, and lost: then it is made anew
        with closing(sqlite3.connect(old / DATABASE)) as db:
            db.execute("DROP TABLE embedding_fulltext_search")
            db.commit()
    said = copy_directory(old, tmp_path / "copy")
    assert [line for line in said if "the full-text index was missing" in line] == said[: metadb == 3]
    with open_source(Endpoint(path=str(old)), tmp_path / "scratch") as store:
        assert {name: store.count(name) for name in store.names()} == {"contracts": 3, "letters": 3}
        assert store.read("letters", ["c1"]).documents == ["text 1"]

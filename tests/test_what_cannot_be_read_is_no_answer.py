"""A guard that cannot read what it is to look at says so. It never takes that for "nothing is there"."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from helpers.errors import Terminal
from helpers.parameters.endpoint import Endpoint
from helpers.stores import layout, open_source
from helpers.stores.copying import copy_directory, stored_identifiers
from helpers.stores.layout import DATABASE
from helpers.stores.opening import databases_of, quick_names
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


LOOKS = {
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

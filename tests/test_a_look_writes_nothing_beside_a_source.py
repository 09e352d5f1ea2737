"""Nothing is written beside a source's database, whoever has it open or died over it, and what its log holds is seen."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from helpers.errors import Terminal
from helpers.parameters.endpoint import Endpoint
from helpers.stores import copying
from helpers.stores.copying import copy_directory, stored_identifiers, stored_metadata
from helpers.stores.layout import DATABASE
from helpers.stores.opening import databases_of, quick_names
from tests.hostile import super_journal
from tests.storage import chunks, embedded, fill, tree

LATE = "INSERT INTO databases (id, name, tenant_id) VALUES ('late', 'late', 'default_tenant')"
USUAL = ("default_tenant", "default_database")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that nobody has open."""
    with embedded(folder := tmp_path_factory.mktemp("made") / "data") as store:
        fill(store, "notes", chunks(3))
    return folder


@contextmanager
def left(made: Path, folder: Path, *pragmas: str, ends: str = "COMMIT", parts: tuple[str, ...]) -> Iterator[Path]:
    """The directory with these parts of its database as they are while a process, which dies then, writes `LATE`."""
    shutil.copytree(made, folder)
    shutil.copytree(made, live := folder.with_name("live"))
    with closing(sqlite3.connect(live / DATABASE, isolation_level=None)) as db:
        for pragma in pragmas:
            db.execute(f"PRAGMA {pragma}")
        db.execute("BEGIN IMMEDIATE")
        db.execute(LATE)
        if ends != "COMMIT":  # enough for pages to go to the file before the end
            db.execute("INSERT INTO maintenance_log (timestamp, operation) VALUES (1, hex(zeroblob(1000000)))")
        else:
            db.execute(ends)
        for part in parts:
            shutil.copy(live / f"{DATABASE}{part}", folder / f"{DATABASE}{part}")
        if ends != "COMMIT":
            db.execute(ends)
    yield folder


WRITER = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
for order in sys.argv[2:]:
    db.execute(order)
print("written", flush=True)
sys.stdin.read()
"""


@contextmanager
def at_work(made: Path, folder: Path) -> Iterator[Path]:
    """The directory while another process has it open, which wrote `LATE` into its log."""
    shutil.copytree(made, folder)
    orders = ("PRAGMA journal_mode = wal", "PRAGMA wal_autocheckpoint = 0", LATE)
    command = [sys.executable, "-c", WRITER, str(folder / DATABASE), *orders]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"written\n"
        yield folder
        writer.communicate()


LOG = ("journal_mode = wal", "wal_autocheckpoint = 0")
WAYS: dict[str, tuple[Callable[[Path, Path], object], bool]] = {  # how it was left, and whether `LATE` is in it
    "a crash left its log": (lambda made, to: left(made, to, *LOG, parts=("", "-wal")), True),
    "a crash left its log and the index of that": (lambda made, to: left(made, to, *LOG, parts=("", "-wal", "-shm")), True),
    "its log went to another place": (lambda made, to: left(made, to, *LOG, parts=("",)), False),
    "a crash left its journal": (
        lambda made, to: left(made, to, "cache_size = 1", ends="ROLLBACK", parts=("", "-journal")), False,
    ),
    "a process has it open": (at_work, True),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_no_look_writes_a_byte_beside_a_source(made: Path, tmp_path: Path, way: str) -> None:
    how, late = WAYS[way]
    source = tmp_path / "source"
    with ExitStack() as stack:
        stack.enter_context(how(made, source))  # type: ignore[arg-type]
        before = tree(source)
        found = databases_of(Endpoint(path=str(source), database="*"))
        assert found == [USUAL, *([("default_tenant", "late")] if late else [])]
        assert len(stored_identifiers(source)) == 1
        assert stored_metadata(source, *USUAL, "notes") == {}
        quick_names(Endpoint(path=str(source)), "source")
        copy_directory(source, tmp_path / "copy")
        assert tree(source) == before
    with closing(sqlite3.connect(tmp_path / "copy" / DATABASE)) as db:
        assert db.execute("SELECT count(*) FROM databases WHERE name = 'late'").fetchone() == (late,)


def test_a_log_that_went_while_a_directory_in_use_is_copied_is_not_made_again(made: Path, tmp_path: Path) -> None:
    with left(made, tmp_path / "source", *LOG, parts=("",)) as source:
        before = tree(source)
        assert not copying._back_up(source / DATABASE, tmp_path / DATABASE)
        assert tree(source) == before


def test_a_look_plays_back_no_journal_that_names_another_file(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, source := tmp_path / "source")
    (victim := tmp_path / "victim").write_text("precious")
    super_journal(source / DATABASE, victim)
    with pytest.raises(Terminal, match="its journal names another file"):
        databases_of(Endpoint(path=str(source), database="*"))
    assert victim.read_text() == "precious"

"""Embedded directories: recognised from their bytes, copied before they are opened, never changed."""

from __future__ import annotations

import ctypes
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest

from helpers.errors import Terminal
from helpers.parameters.endpoint import Endpoint
from helpers.stores import open_embedded, open_source, open_target, quick_names
from helpers.stores.copying import copy_directory
from helpers.stores.layout import DATABASE, recognise
from tests.storage import assert_same, chunks, contents, embedded, fill, tree, writable_copy

ROOT = Path(__file__).resolve().parent.parent
HELD = {
    "chinese-zero-vector-1.5": (2, 4),
    "no-documents-128-1.x": (1, 1000),
    "open-webui-cosine-0.5": (8, 74),
    "turkish-768-0.5": (1, 51),
}


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A directory that a current client wrote, closed."""
    with embedded(tmp_path / "small") as store:
        fill(store, "notes", chunks(12))
    return tmp_path / "small"


@pytest.mark.parametrize("name", sorted(HELD))
def test_reading_a_real_directory_changes_none_of_its_bytes(real_databases: Path, tmp_path: Path, name: str) -> None:
    source = writable_copy(real_databases / name, tmp_path / "source")  # writable, so that a slip would show
    before, times = tree(source), [p.stat().st_mtime_ns for p in sorted(source.rglob("*"))]
    with open_source(Endpoint(path=str(source)), tmp_path / "scratch") as store:
        infos = store.collections()
        batches = [contents(store, info.name) for info in infos]
    assert (len(infos), sum(info.count for info in infos)) == HELD[name]
    assert [len(batch) for batch in batches] == [info.count for info in infos]
    assert not any(batch.lost.any() for batch in batches)
    assert tree(source) == before
    assert [p.stat().st_mtime_ns for p in sorted(source.rglob("*"))] == times
    assert not any((tmp_path / "scratch").iterdir())  # the copy is gone


def test_a_directory_opened_in_place_is_rewritten_which_is_why_it_is_copied(
    real_databases: Path, tmp_path: Path
) -> None:
    source = writable_copy(real_databases / "turkish-768-0.5", tmp_path / "source")
    before = tree(source)
    with open_embedded(source, Endpoint(path=str(source)), role="source", label="in place") as store:
        store.names()
    assert tree(source) != before


READ = """
import sys
from pathlib import Path
from helpers.parameters.endpoint import Endpoint
from helpers.stores import open_source
try:
    (Path(sys.argv[1]) / "probe").touch()
except PermissionError:
    print("read-only")
with open_source(Endpoint(path=sys.argv[1]), Path(sys.argv[2])) as store:
    print(sum(info.count for info in store.collections()))
"""


def obey_permissions() -> None:
    """Root may write whatever the permissions say; a root without CAP_DAC_OVERRIDE may not (Linux)."""
    if sys.platform == "linux" and os.geteuid() == 0:
        ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)  # PR_CAPBSET_DROP, CAP_DAC_OVERRIDE; takes effect with exec


@pytest.mark.more
def test_a_read_only_directory_can_be_read(real_databases: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        source, scratch = top / "source", top / "scratch"
        shutil.copytree(real_databases / "turkish-768-0.5", source)
        scratch.mkdir()
        for path in [*source.rglob("*"), source]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        done = subprocess.run(
            [sys.executable, "-c", READ, str(source), str(scratch)],
            capture_output=True, text=True, cwd=ROOT, timeout=120, preexec_fn=obey_permissions,
        )  # fmt: skip
        for path in [source, *source.rglob("*")]:
            path.chmod(0o755)
    assert done.stdout.split() == ["read-only", "51"], done.stderr[-2000:]


def into_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("x")


def lfs_pointer(folder: Path) -> None:
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 188416\n"
    (folder / DATABASE).write_text(text)


def truncated(folder: Path) -> None:
    whole = (folder / DATABASE).read_bytes()
    (folder / DATABASE).write_bytes(whole[: len(whole) // 2])


def foreign(folder: Path) -> None:
    (folder / DATABASE).unlink()
    with closing(sqlite3.connect(folder / DATABASE)) as db:
        db.execute("create table songs(title text)")


def damaged(folder: Path) -> None:
    whole = bytearray((folder / DATABASE).read_bytes())
    whole[4096:12288] = b"\xff" * 8192
    (folder / DATABASE).write_bytes(whole)


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda f: shutil.rmtree(f), "source_missing"),
    "file": (into_file, "source_not_a_folder"),
    "empty": (lambda f: (f / DATABASE).unlink(), "source_empty"),
    "0.3": (lambda f: (f / "chroma-embeddings.parquet").write_bytes(b"PAR1"), "source_layout_0_3"),
    "lfs pointer": (lfs_pointer, "source_lfs_pointer"),
    "truncated": (truncated, "source_truncated"),
    "cut short": (lambda f: os.truncate(f / DATABASE, 50), "source_foreign_file"),
    "no byte": (lambda f: os.truncate(f / DATABASE, 0), "source_foreign_file"),
    "garbage": (lambda f: (f / DATABASE).write_bytes(os.urandom(8192)), "source_foreign_file"),
    "zeros": (lambda f: (f / DATABASE).write_bytes(b"SQLite format 3\0" + bytes(4080)), "source_truncated"),
    "foreign": (foreign, "source_foreign_file"),
    "damaged": (damaged, "source_damaged"),
}


@pytest.mark.parametrize("kind", sorted(BAD))
def test_what_is_no_chroma_directory_is_refused_in_one_line_and_nothing_is_written(
    small: Path, tmp_path: Path, kind: str
) -> None:
    spoil, code = BAD[kind]
    spoil(small)
    before = tree(tmp_path)
    with pytest.raises(Terminal) as caught, open_source(Endpoint(path=str(small)), tmp_path / "scratch"):
        pass
    assert caught.value.code == code
    assert "\n" not in str(caught.value)
    assert str(small) in str(caught.value)
    assert tree(tmp_path) == before


def test_the_real_directory_of_0_3_is_refused_as_a_target_and_not_taken_for_an_empty_one(
    real_databases: Path,
) -> None:
    path = str(real_databases / "duckdb-parquet-0.3")
    with pytest.raises(Terminal, match=r"0\.3") as caught, open_target(Endpoint(path=path)):
        pass
    assert caught.value.code == "target_layout_0_3"


@contextmanager
def somebody_writes(folder: Path, *, to_the_index: bool) -> Iterator[None]:
    """While a directory is in use: commits without end to its database, journals coming and going; or to an index file."""
    stop, busy = threading.Event(), threading.Event()
    index = folder / str(uuid.uuid4()) / "data_level0.bin"
    index.parent.mkdir()
    index.write_bytes(bytes(64 * 2**20))  # so that a copy takes longer than the time between two writes

    def write() -> None:
        with closing(sqlite3.connect(folder / DATABASE, timeout=30)) as db, index.open("r+b") as file:
            db.execute("pragma synchronous = off")
            db.execute("create table noise(x)")
            while not stop.is_set():
                db.executemany("insert into noise values (?)", [(os.urandom(100),)] * 2)
                db.commit()
                if to_the_index:
                    os.pwrite(file.fileno(), os.urandom(8), 0)
                busy.set()

    writer = threading.Thread(target=write)
    writer.start()
    busy.wait(30)
    try:
        yield
    finally:
        stop.set()
        writer.join()


def test_a_directory_in_use_is_copied_as_it_was_at_one_moment(small: Path, tmp_path: Path) -> None:
    with somebody_writes(small, to_the_index=False):
        said = copy_directory(small, tmp_path / "copy")
    assert said[0].startswith("the directory is in use: written to while it was copied")
    with closing(sqlite3.connect(tmp_path / "copy" / DATABASE)) as db:
        assert db.execute("pragma integrity_check").fetchone() == ("ok",)
        rows = db.execute("select count(*) from noise").fetchone()[0]
    assert rows > 0
    assert rows % 2 == 0, "half a transaction was copied"


@pytest.mark.more
def test_a_directory_whose_index_changes_all_the_time_is_refused(small: Path, tmp_path: Path) -> None:
    with (
        somebody_writes(small, to_the_index=True),
        pytest.raises(Terminal, match="changed while it was copied") as caught,
    ):
        copy_directory(small, tmp_path / "copy")
    assert caught.value.code == "source_in_use"


WRITER = """
import sys
import chromadb
client = chromadb.PersistentClient(sys.argv[1])
notes = client.create_collection(
    "notes", configuration={"hnsw": {"batch_size": 100, "sync_threshold": 400}}, embedding_function=None
)
for start in range(0, 10**9, 20):
    numbers = range(start, start + 20)
    notes.add(ids=[f"n{n}" for n in numbers], documents=[f"text {n} " + 999 * "words " for n in numbers],
              embeddings=[[float(n), float(n % 7), 1.0, -0.5 * n] for n in numbers])
    if start == 1000:
        print("under way", flush=True)
"""


def _read_while_it_is_filled(source: Path, scratch: Path) -> bool:
    """Read one copy and hold it against what the writer writes; whether the copy was one of a directory in use."""
    with open_source(Endpoint(path=str(source)), scratch) as store:
        in_use = any("the directory is in use" in finding for finding in getattr(store, "findings", ()))
        count = store.count("notes")
        batch = store.read("notes", [f"n{n}" for n in range(count)])
    assert count >= 1020
    assert count % 20 == 0, "half a batch"
    assert len(batch) == count, "ids that are not the first ones"
    assert not batch.lost.any()
    n = np.arange(count, dtype=np.float32)
    assert (batch.embeddings == np.stack([n, n % 7, np.ones(count), -0.5 * n], axis=1).astype(np.float32)).all()
    assert batch.documents == [f"text {i} " + 999 * "words " for i in range(count)]
    return in_use


@pytest.mark.more
def test_a_directory_that_an_application_is_filling_is_read_whole_up_to_one_moment(tmp_path: Path) -> None:
    source, in_use = tmp_path / "source", False
    command = [sys.executable, "-c", WRITER, str(source)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        try:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "under way\n"
            for attempt in range(10):  # a copy that falls between two writes is one of a directory at rest
                try:
                    found = _read_while_it_is_filled(source, tmp_path / f"scratch-{attempt}")
                except Terminal as error:  # an index that never kept still is refused, not read by halves
                    if error.code != "source_in_use":
                        raise
                    continue
                assert writer.poll() is None, "the writer was disturbed"
                in_use = found
                if in_use:
                    break
        finally:
            writer.kill()
    assert in_use, "ten copies fell between two writes: the writer is too slow"


def test_only_what_belongs_to_chroma_is_copied(small: Path, tmp_path: Path) -> None:
    (small / "secrets.env").write_text("KEY=1")
    (small / "logs").mkdir()
    (small / "logs" / "huge.log").write_text("x")
    copy_directory(small, tmp_path / "copy")
    assert all(name.startswith(DATABASE) or len(Path(name).parts[0]) == 36 for name in tree(tmp_path / "copy"))


def test_a_look_at_a_directory_names_its_collections_and_writes_nothing(small: Path, tmp_path: Path) -> None:
    before = tree(tmp_path)
    endpoint = Endpoint(path=str(small))
    assert quick_names(endpoint, "source") == quick_names(endpoint, "target") == ["notes"]
    assert quick_names(Endpoint(path=str(tmp_path / "new")), "target") == []
    assert tree(tmp_path) == before


def test_a_target_of_an_older_chroma_is_refused_before_it_is_upgraded(real_databases: Path, tmp_path: Path) -> None:
    old = writable_copy(real_databases / "turkish-768-0.5", tmp_path / "old")
    before = tree(old)
    with pytest.raises(Terminal, match="older Chroma"), open_target(Endpoint(path=str(old))):
        pass
    assert tree(old) == before


@pytest.mark.parametrize("key", ["tenant", "database"])
def test_a_wrong_tenant_or_database_of_a_directory_is_an_error_and_not_an_empty_source(
    small: Path, tmp_path: Path, key: str
) -> None:
    endpoint = Endpoint.model_validate({"path": str(small), key: "typo"})
    with pytest.raises(Terminal, match=key) as caught, open_source(endpoint, tmp_path / "scratch"):
        pass
    assert "typo" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_directory_replaced_between_two_openings_is_seen_as_it_is_now(small: Path, tmp_path: Path) -> None:
    with embedded(small) as store:
        assert store.names() == ["notes"]
    shutil.rmtree(small)
    with embedded(small) as store:
        assert store.names() == []
        fill(store, "fresh", chunks(3, 4))
    with embedded(small) as store:
        assert store.names() == ["fresh"]
        assert_same(contents(store, "fresh"), chunks(3, 4))


def test_a_good_directory_is_recognised(small: Path) -> None:
    recognise(small)

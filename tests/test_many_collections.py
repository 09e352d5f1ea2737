"""More collections than Chroma's engine holds at a time: one for each file, as Open WebUI makes them, under a low limit."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from helpers.errors import Terminal
from helpers.stores import door
from tests.storage import chunks, contents, embedded, fill

ROOT = Path(__file__).resolve().parent.parent
AGAIN = """
import resource, sys
from pathlib import Path
hard = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_NOFILE, (min(100, hard), hard))
from helpers.parameters.endpoint import Endpoint
from helpers.stores import open_source
with open_source(Endpoint(path=sys.argv[1]), Path(sys.argv[3])) as store:
    names = store.names()
    for turn in range(2):  # an index thrown out of the engine's cache is found missing at the second turn
        for name in names:
            assert len(store.read(name, store.ids(name))) == 2, name
            assert store.query(name, [[1.0] * 8], 1)[0], name
print(len(names), resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


def many(path: Path, count: int) -> None:
    with embedded(path) as store:
        for n in range(count):
            store.client.create_collection(f"file-{n:04d}", embedding_function=None).add(
                ids=["a", "b"], embeddings=chunks(2, seed=n).embeddings, documents=[f"text {n}", "b"]
            )


@pytest.mark.more
def test_every_collection_is_read_again_and_again_under_a_low_limit(tmp_path: Path) -> None:
    """256 files, soft and hard, as on macOS; more collections than that leaves room for."""
    many(tmp_path / "db", 40)
    done = subprocess.run(
        [sys.executable, "-c", AGAIN, str(tmp_path / "db"), "256", str(tmp_path / "scratch")],
        cwd=ROOT, capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["40", "256"]  # the soft limit was raised to the hard one


def test_what_is_written_in_portions_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "_indexes", lambda: 2)
    with embedded(tmp_path / "db") as store:
        for n in range(7):
            fill(store, f"notes-{n}", chunks(30, seed=n))
        for n in range(7):
            store.add(f"notes-{n}", chunks(5, seed=100 + n, prefix="later"))
        for n in range(7):
            assert len(contents(store, f"notes-{n}")) == 35
            assert store.query(f"notes-{n}", chunks(30, seed=n).embeddings[:1], 1)[0][0][0] == "c0"


@pytest.mark.more
def test_portions_change_under_readers_that_notice_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many(tmp_path / "db", 8)
    monkeypatch.setattr(door, "_indexes", lambda: 2)
    with embedded(tmp_path / "db") as store, ThreadPoolExecutor(8) as pool:
        names = store.names()
        counts = pool.map(lambda turn: store.count(names[turn % 8]), range(160))
        assert set(counts) == {2}


def test_an_engine_that_does_not_open_anew_is_one_error_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many(tmp_path / "db", 4)
    monkeypatch.setattr(door, "_indexes", lambda: 2)

    def locked(engine: object) -> None:
        raise RuntimeError("database is locked")

    with embedded(tmp_path / "db") as store:
        first, second, third, fourth = store.names()
        assert (store.count(first), store.count(second)) == (2, 2)
        with monkeypatch.context() as patch:
            patch.setattr("chromadb.api.rust.RustBindingsAPI.start", locked)
            for _ in range(2):
                with pytest.raises(Terminal, match="database is locked"):
                    store.count(third)
        assert (store.count(third), store.count(fourth)) == (2, 2)


def test_a_limit_too_low_for_one_index_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (100, 100))
    with pytest.raises(Terminal, match="only 100 files may be open") as caught, embedded(tmp_path / "db"):
        pass
    assert caught.value.code == "too_few_files"
    assert "ulimit -n" in caught.value.next_step


@pytest.mark.slow
def test_fifteen_hundred_collections_migrate_under_1024_open_files(tmp_path: Path) -> None:
    """Steps 10 to 23 by the command, the limit soft and hard."""
    many(tmp_path / "db", 1500)
    given = {"name": "n", "source": {"path": str(tmp_path / "db")}, "target": {"path": str(tmp_path / "t")}}
    (tmp_path / "p.yaml").write_text(json.dumps(given))
    done = subprocess.run(
        ["sh", "-c", 'ulimit -n 1024; exec "$0" -m helpers run p.yaml --run-id r --until 23 --reports reports', sys.executable],
        cwd=tmp_path, capture_output=True, encoding="utf-8", check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "RUNBOOK_WORKSPACE": str(tmp_path / "ws")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    with embedded(tmp_path / "t") as store:
        assert sum(store.count(name) for name in store.names()) == 3000

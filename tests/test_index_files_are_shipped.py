"""`migration.method: files`: a target of copied index files is the one that rows make; what copying cannot say is refused."""

from __future__ import annotations

import errno
import fcntl
import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from helpers.chunks import ChunkBatch
from helpers.errors import Terminal, UsageError
from helpers.migration import shipping
from helpers.migration.shipping import ARRIVING, CLONED, COPIED, COPY, FOLDER, KEPT, Shipment
from helpers.migration.staging import Staged
from helpers.migration.target_lock import preflight
from helpers.parameters import parameters_from
from helpers.parameters.endpoint import Endpoint
from helpers.reason_codes import ReasonCode
from helpers.stores import LOCK_COLLECTION
from helpers.stores.layout import DATABASE
from helpers.stores.opening import MADE
from tests.commands import Runbook, only_line
from tests.commands import tree as digests
from tests.faults.command import AFTER, WRITTEN, Crash
from tests.plain_client import assert_same, opened
from tests.shipments import DOCS, NOTES, World, kept_copy, make_source, names_in
from tests.storage import chunks, embedded, fill, index_folder, lose_vectors, writable_copy


class Killed(BaseException):
    """What kill -9 would be: nothing in the toolkit may catch it."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_source(tmp_path_factory.mktemp("made") / "source")


@pytest.fixture
def source(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "source"))


@pytest.fixture
def shipment(source: Path, tmp_path: Path) -> Shipment:
    return kept_copy(source, tmp_path / "work")


# -- the whole way -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def both(made: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, World]:
    """The same source migrated by rows and by files, up to step 23."""
    found = {}
    for method in ("rows", "files"):
        found[method] = world = World(tmp_path_factory.mktemp(method), made)
        world.write(method)
        before = {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in (world.home / "source").rglob("*")}
        world.run("run", "trial.yaml", "--run-id", "one", "--until", "23")
        assert before == {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in (world.home / "source").rglob("*")}
        assert digests(world.home / "source") == digests(made), "the live source is only read"
    return found


def settings(world: World) -> dict[str, Any]:
    """Metadata and configuration of each collection, and the ten nearest of each of forty searches."""
    copy = world.home / "read"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(world.home / "target", copy)
    found: dict[str, Any] = {}
    with opened(copy) as client:
        for name, batch in (("docs", DOCS), ("notes", NOTES)):
            collection = client.get_collection(name, embedding_function=None)
            hits = collection.query(batch.embeddings[:40], n_results=10, include=["distances"])
            distances = np.round(hits["distances"], 4).tolist()
            found[name] = (collection.metadata, collection.configuration_json, hits["ids"], distances)
        empty = client.get_collection("empty", embedding_function=None)
        found["empty"] = (empty.metadata, empty.configuration_json, empty.count())
    return found


def test_files_make_the_target_that_rows_make(both: dict[str, World]) -> None:
    rows, files = both["rows"].held(), both["files"].held()
    assert_same(rows, files)
    assert_same(both["files"].held("source"), files)
    assert len(files["docs"].vectors) == len(DOCS) - 6
    assert files["docs"].metadatas == rows["docs"].metadatas
    assert settings(both["files"]) == settings(both["rows"])
    with pytest.raises(AssertionError):
        assert_same(
            rows, {**files, "notes": replace(files["notes"], documents={**files["notes"].documents, "n1": "x"})}
        )


def test_the_ledger_and_the_page_say_how_the_chunks_came(both: dict[str, World]) -> None:
    files, rows = both["files"], both["rows"]
    assert (files.ledger()["context"]["method"], "method" in rows.ledger()["context"]) == ("files", False)
    for world in (files, rows):
        states = {name: (t["completed"], t["created"]) for name, t in world.ledger()["targets"].items()}
        assert states == {"docs": (1294, True), "empty": (0, True), "notes": (40, True)}
    shipped = files.result("22")["facts"]["shipped"]
    copy = [p for p in (files.home / "workspace/one/shipping/copy").rglob("*") if p.is_file()]
    assert (shipped["files"], shipped["bytes"]) == (len(copy), sum(p.stat().st_size for p in copy))
    assert sum(shipped["ways"].values()) == len(copy)
    [check] = [c for c in files.result("22")["checks"] if c["name"] == "index files shipped"]
    assert check["verdict"] == "pass"
    assert f"{len(copy)} files" in check["detail"]
    assert "shipped" not in rows.result("22")["facts"]
    assert not list((files.home / "target").glob(".runbook-*"))
    with closing(sqlite3.connect(files.home / "target" / DATABASE)) as db:
        assert LOCK_COLLECTION not in {row[0] for row in db.execute("SELECT name FROM collections")}


def test_the_dry_run_predicts_both_ways_and_says_which_is_faster(both: dict[str, World]) -> None:
    for method, world in both.items():
        facts = world.result("13")["facts"]
        seconds = {row["method"]: row["seconds"] for row in facts["methods"]}
        bases = {row["method"]: row["basis"] for row in facts["methods"]}
        assert min(seconds.values()) > 0
        assert "chunks/s" in bases["rows"]
        assert "on the target's disk" in bases["files"]
        assert ("without the proof" in bases["files"]) is (method == "rows")
        assert [row["method"] for row in facts["methods"] if row["ordered"]] == [method]
        assert [row["method"] for row in facts["methods"] if row["faster"]] == [
            min(seconds, key=lambda name: seconds[name])
        ]
        parts = {row["part"]: row["seconds"] for row in facts["estimate"]}
        predicted = parts["22 import"] + parts.get("21 proof of the copy", 0)
        assert predicted == pytest.approx(seconds[method])
        assert not list((world.home / "workspace/one/dry-run").glob("target*"))
        assert not (world.home / "workspace/one/dry-run/shipping").exists()


@pytest.mark.slow
def test_the_dry_run_says_in_one_line_why_files_are_impossible(made: Path, tmp_path: Path) -> None:
    world = World(tmp_path, made)
    world.write("rows", "collections: {exclude: [empty]}\n")
    world.run("run", "trial.yaml", "--run-id", "one", "--until", "13")
    [rows, files] = world.result("13")["facts"]["methods"]
    assert rows["seconds"] > 0
    assert (files["seconds"], files["basis"]) == (
        None, "impossible: collections asks for something else than the source's own files",
    )  # fmt: skip


@pytest.mark.slow
def test_a_killed_shipment_is_no_target_and_the_resume_keeps_what_arrived(made: Path, tmp_path: Path) -> None:
    world = World(tmp_path, made)
    world.write("files")
    world.run("run", "trial.yaml", "--run-id", "one", "--until", "21")
    world.run("resume", "one", "--until", "22", crash=Crash("migration.shipping:_bring", AFTER, 4))
    assert (world.home / "target" / ARRIVING).is_dir()
    assert names_in(world.home / "target") == []
    world.run("resume", "one", "--until", "22", crash=Crash("migration.shipping:_switch", WRITTEN, 3))
    assert names_in(world.home / "target") == [], "index folders are there, the database is not yet"
    world.run("resume", "one", "--until", "23")
    every = len(Shipment.load(world.home / "workspace/one/shipping").files)  # type: ignore[union-attr]
    assert world.result("22")["facts"]["shipped"]["ways"] == {KEPT: every}
    assert_same(world.held("source"), world.held())
    assert not (world.home / "target" / ARRIVING).exists()


@pytest.mark.slow
def test_killed_once_the_target_is_there_the_resume_only_notes_it(made: Path, tmp_path: Path) -> None:
    world = World(tmp_path, made)
    world.write("files")
    world.run("run", "trial.yaml", "--run-id", "one", "--until", "21")
    number = 1 + len([p for p in (world.home / "workspace/one/shipping/copy").iterdir() if p.is_dir()])
    world.run("resume", "one", "--until", "22", crash=Crash("migration.shipping:_switch", AFTER, number))
    assert names_in(world.home / "target") == ["docs", "empty", "notes"]
    world.run("resume", "one", "--until", "23")
    assert KEPT not in world.result("22")["facts"]["shipped"]["ways"]
    assert_same(world.held("source"), world.held())


@pytest.mark.slow
@pytest.mark.parametrize("killed", [False, True])
def test_after_a_rollback_the_target_is_as_empty_as_before(killed: bool, made: Path, tmp_path: Path) -> None:
    world = World(tmp_path, made)
    world.write("files")
    world.run("run", "trial.yaml", "--run-id", "one", "--until", "21")
    before = sorted(p.name for p in (world.home / "target").iterdir())
    crash = Crash("migration.shipping:_switch", WRITTEN, 3) if killed else None  # two index folders, then the database
    world.run("resume", "one", "--until", "22", crash=crash)
    assert sorted(p.name for p in (world.home / "target").iterdir()) != before
    world.run("rollback", "one", "--why", "trial")
    assert sorted(p.name for p in (world.home / "target").iterdir()) == before == [DATABASE]
    assert names_in(world.home / "target") == []
    assert digests(world.home / "source") == digests(made)


@pytest.mark.slow
def test_a_retry_ships_again(made: Path, tmp_path: Path) -> None:
    world = World(tmp_path, made)
    world.write("files")
    world.run("run", "trial.yaml", "--run-id", "one", "--until", "22")
    world.run("resume", "one", "--retry", "22", "--until", "23")
    ways = world.result("22")["facts"]["shipped"]["ways"]
    assert KEPT not in ways
    assert sum(ways.values()) > 2
    assert_same(world.held("source"), world.held())


@pytest.mark.slow
def test_what_changed_in_the_source_since_is_caught_up_with_row_by_row(made: Path, tmp_path: Path) -> None:
    world = World(tmp_path, made)
    world.write("files")
    world.run("run", "trial.yaml", "--run-id", "one", "--until", "21")
    with embedded(world.home / "source") as store:
        store.delete("docs", DOCS.ids[20:30])
        store.add("notes", chunks(7, 6, seed=5, prefix="later"))
    world.run("resume", "one", "--until", "23")
    assert [r["added"] for r in world.result("22")["facts"]["catch_up"]["rounds"]] == [7]
    assert_same(world.held("source"), world.held())
    world.run(
        "run", "--run-id", "one", "--from", "22", "--until", "23"
    )  # nothing is shipped over what was caught up with
    assert_same(world.held("source"), world.held())


# -- refused -----------------------------------------------------------------------------------------------------------


def ordered(home: Path, **more: Any) -> Any:
    migration = {"method": "files", **more.pop("migration", {})}
    ends = {"source": {"path": str(home / "source")}, "target": {"path": str(home / "target")}}
    return parameters_from({"name": "n", **ends, "migration": migration, **more})


REFUSED: dict[str, dict[str, Any]] = {
    "source is a server": {"source": {"url": "http://127.0.0.1:9"}},
    "target is a server": {"target": {"url": "http://127.0.0.1:9"}},
    "target.tenant or target.database": {"target": {"path": "elsewhere", "database": "other", "create": True}},
    "schema asks": {"schema": "if_ttt"},
    "collections asks": {"collections": {"include": ["docs"]}},
    "migration.id_policy asks": {"migration": {"id_policy": "prefix"}},
    "migration.reembed asks": {"migration": {"reembed": "own"}},
    "migration.normalised asks": {"migration": {"normalised": "migrate"}},
    "migration.drop_indexes asks": {"migration": {"drop_indexes": ["docs"]}},
    "migration.index asks": {"migration": {"index": {"docs": {"ef_search": 9}}}},
}


@pytest.mark.parametrize("why", REFUSED)
def test_a_parameter_that_files_cannot_say_is_refused_by_name(why: str, source: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"migration.method: files is impossible: {why}") as refused:
        preflight(ordered(tmp_path, **REFUSED[why]))
    assert (refused.value.exit_code, "\n" in refused.value.line()) == (2, False)
    assert not (tmp_path / "target").exists()


def test_without_it_nothing_is_refused(source: Path, tmp_path: Path) -> None:
    preflight(ordered(tmp_path))
    shards = {"collections": {"shard": "1/2"}}
    preflight(ordered(tmp_path, migration={"method": "rows"}, **shards))
    with pytest.raises(UsageError, match="collections asks"):
        preflight(ordered(tmp_path, **shards))


def test_the_command_refuses_before_there_is_a_run(source: Path, tmp_path: Path) -> None:
    runbook = Runbook(tmp_path)
    done = runbook(
        "run", runbook.write("night", "path: source", "url: 'http://127.0.0.1:9'", "migration: {method: files}\n")
    )
    assert "target is a server" in only_line(done, 2)
    assert not (tmp_path / "reports").exists() or not list((tmp_path / "reports").glob("night*"))


def test_a_target_that_holds_something_is_refused_and_a_lock_is_nothing(
    source: Path, shipment: Shipment, tmp_path: Path
) -> None:
    with embedded(tmp_path / "target") as store:
        store.acquire_lock("one")
    preflight(ordered(tmp_path), run_id="one")
    with embedded(tmp_path / "target") as store:
        fill(store, "theirs", chunks(3))
    before = digests(tmp_path / "target")
    with pytest.raises(UsageError, match=r"target\.path already holds theirs"):
        preflight(ordered(tmp_path), run_id="one")
    with pytest.raises(Terminal, match="holds theirs") as refused:
        shipping.ship(shipment, tmp_path / "target")
    assert refused.value.code == ReasonCode.TARGET_NOT_EMPTY
    assert digests(tmp_path / "target") == before


def test_other_databases_are_refused_on_both_sides(source: Path, shipment: Shipment, tmp_path: Path) -> None:
    with embedded(tmp_path / "target"):
        pass
    for folder in (source, tmp_path / "target"):
        with closing(sqlite3.connect(folder / DATABASE)) as db, db:
            db.execute("INSERT INTO databases (id, name, tenant_id) VALUES ('x', 'second', 'default_tenant')")
    with pytest.raises(UsageError, match=r"source\.path holds other databases: default_tenant/second"):
        preflight(ordered(tmp_path))
    with pytest.raises(Terminal, match="holds database default_tenant/second"):
        shipping.ship(shipment, tmp_path / "target")
    assert not (tmp_path / "target" / ARRIVING).exists()


def no_fulltext(source: Path) -> None:
    with closing(sqlite3.connect(source / DATABASE)) as db, db:
        db.execute("DROP TABLE embedding_fulltext_search")


def short_index(source: Path) -> None:
    rows = index_folder(source, "docs") / "data_level0.bin"
    rows.write_bytes(rows.read_bytes()[:40_000])


def no_header(source: Path) -> None:
    (index_folder(source, "docs") / "header.bin").unlink()


def vectors_gone(source: Path) -> None:
    lose_vectors(source, "docs", ["lost1", "lost2"])


def poisoned_log(source: Path) -> None:
    with closing(sqlite3.connect(source / DATABASE)) as db, db:
        number = db.execute("SELECT max(seq_id) FROM embeddings_queue").fetchone()[0]
        db.execute("UPDATE embeddings_queue SET metadata = '{\"chroma:document\": null}' WHERE seq_id = ?", (number,))


@pytest.mark.parametrize("harm", [no_fulltext, short_index, no_header, vectors_gone, poisoned_log])
def test_a_source_that_is_not_whole_is_refused(harm: Any, source: Path, tmp_path: Path) -> None:
    harm(source)
    before = digests(source)
    with pytest.raises(UsageError, match="cannot be taken as they are: ") as refused:
        kept_copy(source, tmp_path / "work")
    assert (refused.value.exit_code, "\n" in refused.value.line()) == (2, False)
    assert not (tmp_path / "work" / FOLDER / COPY).exists(), "no copy is kept"
    assert digests(source) == before


def test_a_page_of_the_database_that_is_damaged_is_refused(source: Path, tmp_path: Path) -> None:
    """An index of SQLite that lacks a row: the quick look at a copy mends others, and sees nothing of this one."""
    snapshot: Any = SimpleNamespace(id="snap", manifest={"sessions": [{}]})
    kept_copy(source, tmp_path / "work")
    copy = tmp_path / "work" / FOLDER / COPY / DATABASE
    with closing(sqlite3.connect(copy)) as db:
        db.execute("PRAGMA writable_schema = ON")
        with db:
            db.execute("DELETE FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL")
        db.execute("PRAGMA writable_schema = RESET")
    with pytest.raises(UsageError, match=r"as they are: chroma\.sqlite3: "):
        shipping.keep(tmp_path / "work", source, snapshot)
    shipping.keep(tmp_path / "work", source, snapshot, prove=False)  # the control: only the proof sees it


def test_a_directory_of_an_older_chroma_is_refused(real_databases: Path, tmp_path: Path) -> None:
    source = writable_copy(real_databases / "turkish-768-0.5", tmp_path / "source")
    with pytest.raises(UsageError, match="as they are: its layout is that of another Chroma"):
        kept_copy(source, tmp_path / "work")
    assert "its layout is that of another Chroma" in shipping._unlike(source / DATABASE, newest_layout(tmp_path))


def newest_layout(folder: Path) -> Path:
    with embedded(folder / "new"):
        pass
    return folder / "new" / DATABASE


def test_a_source_that_changed_while_its_snapshot_was_interrupted_is_refused(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def changes(store: Any, snapshot: Any) -> Any:
        seen.append(snapshot.id)
        return SimpleNamespace(nothing=len(seen) > 1, sentence=lambda: "3 chunks added")

    monkeypatch.setattr(shipping, "source_changes", changes)
    kept_copy(source, tmp_path / "once")
    assert seen == []
    with pytest.raises(UsageError, match="changed while its snapshot was interrupted: 3 chunks added"):
        kept_copy(source, tmp_path / "work", sessions=2)
    kept_copy(source, tmp_path / "work", sessions=2)


@pytest.mark.parametrize(
    ("staged", "why"),
    [
        ({"quarantined": {"nan_embedding": 2}}, "2 chunks are set aside"),
        ({"left_out": 1}, "1 chunks are set aside"),
        ({"repairs": [{"chunks": 4}]}, "4 values are repaired"),
        ({"chunks_changed": 5}, "5 chunks are changed"),
        ({"rewritten": 6}, "6 ids are rewritten"),
    ],
)
def test_chunks_that_would_not_arrive_as_they_are_are_refused(staged: dict[str, Any], why: str, tmp_path: Path) -> None:
    shipping.require_unchanged(Staged(tmp_path))
    with pytest.raises(UsageError, match=why):
        shipping.require_unchanged(Staged(tmp_path, **staged))


def test_a_chunk_that_validation_sets_aside_stops_the_dry_run(made: Path, tmp_path: Path) -> None:
    world = World(tmp_path, made)
    world.write("files", target="path: target, limits: {document_bytes: 10}")
    said = world.run("run", "trial.yaml", "--run-id", "one", "--until", "22", code=2)
    assert "files is impossible: 1,334 chunks are set aside" in said
    assert not (world.home / "target").exists()


# -- files on their way ------------------------------------------------------------------------------------------------


def arrived(shipment: Shipment, target: Path) -> None:
    """The target is the copy, byte for byte, and nothing else."""
    assert digests(target) == digests(shipment.folder / COPY)


def test_files_are_copied_once(shipment: Shipment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bring, most = shipping._bring, 3

    def killed(*given: Any) -> str:
        nonlocal most
        most -= 1
        if most < 0:
            raise Killed
        return bring(*given)

    monkeypatch.setattr(shipping, "_bring", killed)
    with pytest.raises(Killed):
        shipping.ship(shipment, tmp_path / "target")
    assert not (tmp_path / "target" / DATABASE).exists()
    most = 100
    shipping.ship(shipment, tmp_path / "target")
    assert shipment.ways == {KEPT: 3, COPIED: len(shipment.files) - 3}
    assert (100 - most) == len(shipment.files) - 3
    assert Shipment.load(shipment.folder) == shipment
    arrived(shipment, tmp_path / "target")


def test_a_file_of_the_right_length_with_other_bytes_is_copied_again(shipment: Shipment, tmp_path: Path) -> None:
    name, (length, _) = next((n, f) for n, f in shipment.files.items() if n.endswith("data_level0.bin"))
    target = tmp_path / "target"
    half = target / ARRIVING / name
    half.parent.mkdir(parents=True)
    (target / ARRIVING / MADE).touch()
    half.write_bytes(b"\0" * length)
    (half.parent / f".{half.name}.77-{'0' * 16}.tmp").write_bytes(b"half written")
    (half.parent.parent / DATABASE).write_bytes((shipment.folder / COPY / DATABASE).read_bytes())
    shipping.ship(shipment, target)
    assert shipment.ways == {KEPT: 1, COPIED: len(shipment.files) - 1}
    arrived(shipment, target)


def test_an_index_folder_of_no_collection_stays_behind(source: Path, tmp_path: Path) -> None:
    stray = source / "0FC1D1A4-1111-4222-8333-123456789ABC"
    shutil.copytree(index_folder(source, "docs"), stray)
    shipment = kept_copy(source, tmp_path / "work")
    assert (shipment.folder / COPY / stray.name).is_dir()
    shipping.ship(shipment, tmp_path / "target")
    assert stray.name not in shipment.indexes
    assert sorted(p.name for p in (tmp_path / "target").iterdir()) == sorted([*shipment.indexes, DATABASE])


@pytest.mark.parametrize("where", ["copy", "copy, same length"])
def test_a_copy_that_was_changed_since_it_was_proven_becomes_no_target(
    where: str, shipment: Shipment, tmp_path: Path
) -> None:
    file = shipment.folder / COPY / next(n for n in shipment.files if n.endswith("data_level0.bin"))
    raw = bytearray(file.read_bytes())
    raw[50] ^= 1
    file.write_bytes(bytes(raw) + (b"" if "same" in where else b"more"))
    with pytest.raises(Terminal, match="is not as it was when it was proven whole") as refused:
        shipping.ship(shipment, tmp_path / "target")
    assert refused.value.code == ReasonCode.SNAPSHOT_ALTERED
    assert not (tmp_path / "target" / DATABASE).exists()


def test_files_are_cloned_where_the_file_system_can(
    shipment: Shipment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system call is a stand-in: what it is asked for, and each of its answers."""
    asked: list[int] = []

    def shares(target: int, request: int, source: int) -> int:
        asked.append(request)
        with open(source, "rb", closefd=False) as given, open(target, "wb", closefd=False) as taken:
            taken.write(given.read())
        return 0

    monkeypatch.setattr(fcntl, "ioctl", shares)
    shipping.ship(shipment, tmp_path / "cloned")
    assert shipment.ways == {CLONED: len(shipment.files)}
    assert set(asked) == {0x40049409}
    arrived(shipment, tmp_path / "cloned")

    def cannot(*_: Any) -> int:
        raise OSError(errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr(fcntl, "ioctl", cannot)
    shipping.ship(shipment, tmp_path / "copied")
    assert shipment.ways == {COPIED: len(shipment.files)}

    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(fcntl, "ioctl", full)
    with pytest.raises(Terminal, match="disk is full"):
        shipping.ship(shipment, tmp_path / "full")
    assert not (tmp_path / "full" / DATABASE).exists()


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Path]:
    """A target that another process has open."""
    with embedded(tmp_path / "target"):
        pass
    program = f"import sys; f = open({str(tmp_path / 'target' / DATABASE)!r}); print(1, flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        yield tmp_path / "target"
        other.kill()


def test_a_target_that_another_process_has_open_is_not_replaced(reader: Path, shipment: Shipment) -> None:
    before = digests(reader)
    with pytest.raises(Terminal, match="another process works on the target's database: process") as refused:
        shipping.ship(shipment, reader)
    assert refused.value.code == ReasonCode.TARGET_IN_USE
    assert digests(reader) == before


@pytest.mark.parametrize("name", ["../x/data_level0.bin", "/etc/passwd", "x/header.bin", "chroma.sqlite3-wal"])
def test_a_list_that_names_other_files_is_damaged(name: str, shipment: Shipment, tmp_path: Path) -> None:
    path = shipment.folder / Shipment.file
    kept = json.loads(path.read_bytes())
    kept["files"][name] = [1, "0" * 64]
    path.write_text(json.dumps(kept))
    with pytest.raises(Terminal, match="it names a file that no Chroma directory has"):
        Shipment.load(shipment.folder)


def test_an_undo_removes_index_folders_of_no_collection_and_no_others(
    shipment: Shipment, source: Path, tmp_path: Path
) -> None:
    target = Endpoint(path=str(tmp_path / "target"))
    shipping.ship(shipment, tmp_path / "target")
    mine = tmp_path / "target" / "their-own-folder"
    mine.mkdir()
    shipping.clear(tmp_path / "work", target)
    assert all((tmp_path / "target" / name).is_dir() for name in shipment.indexes), "collections still own them"
    (tmp_path / "target" / DATABASE).unlink()
    shipping.clear(tmp_path / "elsewhere", target)
    assert all((tmp_path / "target" / name).is_dir() for name in shipment.indexes), "no list, no removal"
    shipping.clear(tmp_path / "work", target)
    assert [p.name for p in (tmp_path / "target").iterdir()] == [mine.name]


def test_the_copy_that_is_shipped_is_the_one_that_the_snapshot_was_read_from(
    shipment: Shipment, tmp_path: Path
) -> None:
    snapshot: Any = SimpleNamespace(id="snap")
    assert shipping.load_kept(tmp_path / "work", snapshot) == shipment
    with pytest.raises(UsageError, match="no copy of the source is kept from which another was read"):
        shipping.load_kept(tmp_path / "work", SimpleNamespace(id="another"))  # type: ignore[arg-type]
    shutil.rmtree(shipment.folder / COPY)
    with pytest.raises(UsageError, match="no copy of the source is kept"):
        shipping.load_kept(tmp_path / "work", snapshot)


def test_vectors_are_those_of_the_source_bit_for_bit(shipment: Shipment, tmp_path: Path) -> None:
    shipping.ship(shipment, tmp_path / "target")
    with embedded(tmp_path / "target") as store:
        found: ChunkBatch = store.read("notes", NOTES.ids)
        assert (store.lock_holder() or {})["run_id"] == "one", "the lock comes with the files"
    assert found.embeddings.tobytes() == NOTES.embeddings.tobytes()
    assert found.documents == NOTES.documents

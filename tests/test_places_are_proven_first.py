"""Folders and names that would fail in the night are found before it, in one line; a target may be a mount point or a link."""

from __future__ import annotations

import datetime as dt
import os
import shutil
import sqlite3
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import chromadb
import numpy as np
import pytest

from helpers.errors import EnvironmentFailure, Terminal, UsageError
from helpers.migration import shipping, staging
from helpers.migration.importing import Job
from helpers.migration.shipping import COPIED, COPY
from helpers.migration.staging import Quarantine
from helpers.migration.target_lock import preflight
from helpers.parameters import Parameters, parameters_from
from helpers.parameters.endpoint import Endpoint
from helpers.results import Check, Verdict
from helpers.rollback.proof import open_for_writing
from helpers.run import folders as runs
from helpers.run.record import RunRecord
from helpers.schema import Context, load_schema
from helpers.snapshots.retention import directories
from helpers.snapshots.snapshot import write_snapshot
from helpers.steps.source_health import SourceHealthStep
from helpers.steps.target_readiness import TargetReadinessStep
from helpers.stores import copying, door, open_source, open_target, quick_names
from helpers.stores.layout import DATABASE
from helpers.stores.opening import MADE
from tests.commands import tree as digests
from tests.shipments import World, kept_copy, make_source
from tests.storage import chunks, embedded, fill

pytestmark = pytest.mark.usefixtures("own_folders")


def given(target: str = "new", **sections: Any) -> Parameters:
    return parameters_from({"name": "n", "source": {"path": "source"}, "target": {"path": target}, **sections})


@pytest.fixture
def source(tmp_path: Path) -> Path:
    with embedded(tmp_path / "source") as store:
        fill(store, "alpha", chunks(20, 4))
    return tmp_path / "source"


def check(run: RunRecord, name: str) -> Check:
    return next(c for c in run.result.checks if c.name == name)


# -- folders that a run writes to ------------------------------------------------------------------------------------------


def test_snapshots_move_with_the_workspace_unless_they_have_a_folder_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNBOOK_WORKSPACE", str(tmp_path / "elsewhere"))
    moved = given().snapshot.directory
    assert moved == str(tmp_path / "elsewhere" / "snapshots")
    assert given(snapshot={"directory": "mine"}).snapshot.directory == "mine"
    Path(moved).mkdir(parents=True)
    assert Path(moved) in directories()
    monkeypatch.delenv("RUNBOOK_WORKSPACE")
    assert given().snapshot.directory == "workspace/snapshots"


@pytest.mark.parametrize("place", ["snapshot.directory", "the workspace", "the reports folder"])
@pytest.mark.parametrize("obstacle", ["a file", "a folder of the system"])
def test_a_folder_that_cannot_be_written_to_ends_the_run_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, obstacle: str
) -> None:
    bad = tmp_path / "in-the-way" / "below" if obstacle == "a file" else Path("/proc/below")
    (tmp_path / "in-the-way").write_text("x", encoding="utf-8")
    sections: dict[str, Any] = {}
    if place == "snapshot.directory":
        sections = {"snapshot": {"directory": str(bad)}}
    else:
        monkeypatch.setenv("RUNBOOK_WORKSPACE" if place == "the workspace" else "RUNBOOK_REPORTS", str(bad))
        sections = {"snapshot": {"directory": str(tmp_path / "fine")}}
    with pytest.raises(EnvironmentFailure) as caught:
        runs.create(given(**sections), "night")
    assert (caught.value.code, place in caught.value.line()) == ("folder_unwritable", True)
    assert str(bad) in caught.value.line()
    assert not (tmp_path / "fine").exists(), "nothing is made by the look"


def test_a_home_is_expanded_and_an_unknown_one_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    assert given("~/new").target.path == str(tmp_path / "me" / "new")
    assert given("~").target.path == str(tmp_path / "me")
    assert given("./~/new").target.path == "./~/new"
    with pytest.raises(UsageError, match="begins with '~nobody-here', and no such home is known"):
        given("~nobody-here/new")


# -- a target that nothing can be renamed onto -----------------------------------------------------------------------------


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Path]:
    """An empty file system of its own, with the folder that a fresh one has."""
    folder = tmp_path / "volume"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "none", str(folder)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("a file system can be mounted by root only")
    (folder / "lost+found").mkdir()
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)  # Chroma closes its files a moment later


def written_and_read(target: Path) -> None:
    endpoint = Endpoint(path=str(target))
    assert quick_names(endpoint, "target") == []
    with open_target(endpoint) as store:
        fill(store, "alpha", chunks(5, 4))
    assert quick_names(endpoint, "target") == ["alpha"]
    assert not list(target.glob(".runbook-*"))


def test_a_mount_point_is_a_target(volume: Path) -> None:
    written_and_read(volume)
    assert (volume / DATABASE).is_file()


def test_a_link_is_a_target(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    written_and_read(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / DATABASE).is_file()


def test_what_a_killed_making_left_is_in_nobodys_way(tmp_path: Path) -> None:
    left = tmp_path / "new" / ".runbook-partial"
    left.mkdir(parents=True)
    (left / MADE).touch()
    (left / DATABASE).write_bytes(b"SQLite")
    (tmp_path / "new" / ".runbook-probe-0").mkdir()
    written_and_read(tmp_path / "new")


@pytest.mark.parametrize("kind", ["folder", "link", "file"])
def test_a_folder_in_a_new_target_that_only_has_a_name_of_ours_stays(tmp_path: Path, kind: str) -> None:
    theirs, target = tmp_path / "theirs", tmp_path / "new"
    for folder in (theirs, target):
        folder.mkdir()
    (theirs / "letter.txt").write_text("kept")
    left = target / ".runbook-backup"
    if kind == "folder":
        theirs.rename(left)
    elif kind == "link":
        left.symlink_to(theirs)
    else:
        left.write_text("kept")
    before = sorted(path.name for path in target.rglob("*"))
    said = r"\.runbook-backup was not made by this toolkit.* move it away"
    with pytest.raises(Terminal, match=said):
        quick_names(Endpoint(path=str(target)), "target")
    with pytest.raises(Terminal, match=said), open_target(Endpoint(path=str(target))):
        pass
    assert sorted(path.name for path in target.rglob("*")) == before
    if kind != "file":
        assert (left / "letter.txt").read_text() == "kept"


# -- a target that would write elsewhere -----------------------------------------------------------------------------------


def with_index(folder: Path, name: str) -> Path:
    """A directory with one collection whose index is on disk; the index folder."""
    client: Any = chromadb.PersistentClient(folder)
    try:
        hnsw = {"sync_threshold": 10, "batch_size": 5}
        made = client.create_collection(name, configuration={"hnsw": hnsw}, embedding_function=None)
        for at in range(0, 20, 5):
            made.add([f"{name}{i}" for i in range(at, at + 5)], np.random.default_rng(at).random((5, 8)))
    finally:
        client.close()
    return next(path for path in folder.iterdir() if path.is_dir())


PLANTED: dict[str, Callable[[Path, Path], None]] = {
    "index folder linked": lambda mine, theirs: put(mine, os.symlink, theirs),
    "index file linked": lambda mine, theirs: put(mine / "length.bin", os.symlink, theirs / "length.bin"),
    "index file, hard link": lambda mine, theirs: put(mine / "length.bin", os.link, theirs / "length.bin"),
    "database, hard link": lambda mine, theirs: os.link(mine.parent / DATABASE, theirs.parent.parent / "second"),
    "linked to a foreign file": lambda mine, theirs: put(mine / "data_level0.bin", os.symlink, theirs.parent.parent / "x"),
    "link anywhere": lambda mine, theirs: (mine.parent / "docs").symlink_to(theirs.parent.parent),
    "write-ahead log linked": lambda mine, theirs: (mine.parent / f"{DATABASE}-wal").symlink_to(theirs / "header.bin"),
    "pipe": lambda mine, theirs: os.mkfifo(mine / "pipe"),
}  # fmt: skip


def put(file: Path, link: Callable[[Path, Path], None], theirs: Path) -> None:
    shutil.rmtree(file) if file.is_dir() else file.unlink()
    link(theirs, file)


def openings() -> dict[str, Callable[[], object]]:
    """Each way to a target that is there."""
    parameters, target = given("target"), Endpoint(path="target")

    def opened() -> None:
        with open_target(target) as store:
            store.names()

    return {
        "before a run": lambda: preflight(parameters),
        "quick look": lambda: quick_names(target, "target"),
        "opening": opened,
        "step 12": lambda: TargetReadinessStep(RunRecord(runs.create(parameters, uuid.uuid4().hex), "12")).reach(),
    }  # fmt: skip


@pytest.mark.parametrize("kind", PLANTED)
def test_a_target_through_which_another_place_would_be_written_is_refused(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").write_text("precious " * 9000)
    theirs, mine = with_index(tmp_path / "source", "alpha"), with_index(tmp_path / "target", "existing")
    PLANTED[kind](mine, theirs)
    before = digests(tmp_path / "source"), digests(tmp_path / "target")
    for way, look in openings().items():
        with pytest.raises(Terminal, match=r"is a link|hard links|no plain file") as refused:
            look()
        assert (refused.value.code, "\n" in refused.value.line()) == ("target_foreign_file", False), way
        assert str(Path("target")) in refused.value.where
    assert (digests(tmp_path / "source"), digests(tmp_path / "target")) == before
    assert (tmp_path / "x").read_text() == "precious " * 9000


def test_a_target_of_files_and_folders_of_its_own_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    theirs, mine = with_index(tmp_path / "source", "alpha"), with_index(tmp_path / "target", "existing")
    shutil.copytree(theirs, mine.parent / "a-copy-of-theirs")
    for look in openings().values():
        look()
    monkeypatch.setattr(copying, "_MOST_ENTRIES", 5)
    with pytest.raises(Terminal, match="one of more than 5 files and folders"):
        quick_names(Endpoint(path="target"), "target")


def test_a_folder_of_the_source_mounted_in_a_target_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    theirs, mine = with_index(tmp_path / "source", "alpha"), with_index(tmp_path / "target", "existing")
    if subprocess.run(["mount", "--bind", str(theirs), str(mine)], capture_output=True, check=False).returncode:
        pytest.skip("a folder can be mounted by root only")
    try:
        with pytest.raises(Terminal, match="is also in the source"):
            preflight(given("target"))
    finally:
        subprocess.run(["umount", str(mine)], check=True)
    preflight(given("target"))


@pytest.mark.parametrize("kind", PLANTED)
def test_a_source_through_which_another_place_would_be_written_is_not_mended(kind: str, tmp_path: Path) -> None:
    """It is read as it is; beside what Chroma has there, anything may be a link."""
    (tmp_path / "x").write_text("precious " * 9000)
    theirs, mine = with_index(tmp_path / "other", "alpha"), with_index(tmp_path / "source", "existing")
    PLANTED[kind](mine, theirs)
    before = digests(tmp_path / "source"), digests(tmp_path / "other")
    if kind == "link anywhere":
        with open_for_writing(Endpoint(path=str(tmp_path / "source"))) as store:
            assert store.count("existing") == 20
        return
    source = Endpoint(path=str(tmp_path / "source"))
    with pytest.raises(Terminal, match=r"is a link|hard links|no plain file") as refused, open_for_writing(source):
        pytest.fail("it was opened")
    assert (refused.value.code, "\n" in refused.value.line()) == ("source_foreign_file", False)
    assert "Restore the snapshot into another place" in refused.value.line()
    assert (digests(tmp_path / "source"), digests(tmp_path / "other")) == before


@pytest.mark.parametrize("when", ["before it is opened", "while it is open", "never"])
@pytest.mark.parametrize("what", ["the folder", "an index"])
def test_a_target_that_is_exchanged_between_the_look_and_the_end_is_named(
    when: str, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_index(tmp_path / "other", "alpha")
    mine = with_index(tmp_path / "target", "existing")

    def exchange() -> None:
        if what == "the folder":
            (tmp_path / "target").rename(tmp_path / "aside")
            (tmp_path / "target").symlink_to(tmp_path / "other")
        else:
            put(mine, os.symlink, next(path for path in (tmp_path / "other").iterdir() if path.is_dir()))

    def opened(*given: Any, real: Any = door.embedded_client) -> Any:
        if when == "before it is opened":
            exchange()
        return real(*given)

    monkeypatch.setattr(door, "embedded_client", opened)
    reached = []

    def use() -> None:
        with open_target(Endpoint(path=str(tmp_path / "target"))) as store:
            reached.append(store.names())
            if when == "while it is open":
                exchange()

    if when == "never":
        use()
        assert reached == [["existing"]]
        return
    with pytest.raises(Terminal, match=r"is a link|was exchanged for another folder") as refused:
        use()
    assert (refused.value.code, bool(reached)) == ("target_foreign_file", when == "while it is open")


@pytest.mark.parametrize("kind", ["link", "others", "others beside ours", "ours"])
def test_an_index_folder_that_this_run_did_not_bring_is_refused(kind: str, tmp_path: Path) -> None:
    source = make_source(tmp_path / "source")
    shipment = kept_copy(source, tmp_path / "work")
    folder, target = source / shipment.indexes[0], tmp_path / "target"
    (folder / "notes.txt").write_text("of the operator")
    target.mkdir()
    if kind == "link":
        (target / folder.name).symlink_to(folder)
    else:
        shutil.copytree(shipment.folder / COPY / folder.name, target / folder.name)
    if kind.startswith("others"):
        (target / folder.name / "notes.txt" if "beside" in kind else target / folder.name / "header.bin").write_text(
            "x"
        )
    shipment.ways = {COPIED: 3}  # by an attempt that was taken back
    shipment.save(shipment.folder)
    before = digests(source), digests(target)
    if kind == "ours":  # byte for byte what a killed attempt moved up
        shipping.ship(shipment, target)
        assert digests(target) == digests(shipment.folder / COPY)
        return
    with pytest.raises(Terminal, match="is a link" if kind == "link" else "is not what this run brings") as refused:
        shipping.ship(shipment, target)
    shipping.clear(tmp_path / "work", Endpoint(path=str(target)))
    assert (refused.value.code, "\n" in refused.value.line()) == ("target_foreign_file", False)
    assert (digests(source), digests(target)) == before


@pytest.mark.slow
@pytest.mark.parametrize("planted", [True, False])
def test_a_rollback_cleans_no_target_that_leads_into_the_source(planted: bool, tmp_path: Path) -> None:
    """The link came after the import: nothing is removed, and the source stays as it is."""
    made = with_index(tmp_path / "made", "alpha")
    world = World(tmp_path / "world", made.parent)
    world.write("files")
    world.run("run", "trial.yaml", "--run-id", "one", "--until", "22")
    target = world.home / "target"
    if planted:
        put(target / made.name, os.symlink, world.home / "source" / made.name)
    before = digests(world.home / "source"), digests(target)
    said = world.run("rollback", "one", "--why", "trial", code=1 if planted else 0)
    assert ("is a link" in said) is planted
    assert digests(world.home / "source") == before[0] == digests(made.parent)
    assert (digests(target) == before[1]) is planted


@pytest.mark.usefixtures("source")
def test_step_12_probes_the_linked_folder_itself_and_leaves_it_empty(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    found = TargetReadinessStep(RunRecord(runs.create(given("link"), "night"), "12"))
    assert "a new folder; made by step 20" in found.reach().to_string()
    found.probe_writing()
    assert check(found.run, "write probe").verdict is Verdict.PASS
    assert list((tmp_path / "real").iterdir()) == []
    assert str(tmp_path / "link") in found.disk()["disk of"].str.cat()


@pytest.mark.usefixtures("source")
def test_a_link_into_nothing_is_refused_in_step_12(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("unmounted")
    found = TargetReadinessStep(RunRecord(runs.create(given("link"), "night"), "12"))
    with pytest.raises(EnvironmentFailure, match="a link to unmounted, which is not there"):
        found.reach()


# -- names and sizes -------------------------------------------------------------------------------------------------------


def test_every_name_that_a_current_chroma_refuses_is_found_in_step_10(source: Path) -> None:
    with embedded(source) as store:
        fill(store, "beta", chunks(2, 4))
        fill(store, "gamma", chunks(2, 4))
    with closing(sqlite3.connect(source / DATABASE)) as db, db:
        db.execute("update collections set name = 'x' where name = 'beta'")
        db.execute("update collections set name = 'café notes' where name = 'gamma'")
    run = RunRecord(runs.create(given(), "night"), "10")
    SourceHealthStep(run).shapes()
    found = check(run, "names that a current Chroma refuses")
    assert (found.verdict, found.measured, found.reason) == (Verdict.FAIL, 2, "collection_name")
    assert "'x': it has 1 characters" in found.detail
    assert "'café notes': only letters" in found.detail
    only = RunRecord(runs.create(given(collections={"include": ["alpha"]}), "other"), "10")
    SourceHealthStep(only).shapes()
    assert check(only, "names that a current Chroma refuses").verdict is Verdict.PASS


def test_a_document_larger_than_a_request_goes_to_quarantine_before_the_night(tmp_path: Path) -> None:
    batch, most = chunks(4, 4), 100_000
    batch.documents[1] = "x" * most
    batch.documents[2] = "é" * (most // 2 - 500)  # fits: UTF-8 is sent as it is
    with embedded(tmp_path / "source") as store:
        fill(store, "alpha", batch)
    with open_source(Endpoint(path=str(tmp_path / "source")), tmp_path / "scratch") as store:
        snapshot = write_snapshot(store, tmp_path / "snapshots", "one", ["alpha"], retention_days=7)
    context = Context(frozenset(["alpha"]), dt.date(2026, 11, 28), "fail")
    for limit, aside in (({"write_bytes": (most, "measured")}, {"too_large": 1}), ({}, {})):
        quarantine = Quarantine(tmp_path / "aside")
        staged = staging.stage(
            snapshot, load_schema("identity"), context, tmp_path / "staged", quarantine, limits=limit
        )
        assert staged.quarantined == aside
        assert [entry["id"] for entry in quarantine.entries()] == ["c1"] * len(aside)


def test_only_a_server_limits_what_a_request_may_hold() -> None:
    job = object.__new__(Job)
    for target, most in (({"path": "new"}, {}), ({"url": "http://localhost:8000"}, {"write_bytes": 40 * 2**20})):
        job.parameters = parameters_from({"source": {"path": "source"}, "target": target})
        assert {name: value for name, (value, _) in job.limits.items()} == most

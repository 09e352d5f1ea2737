"""Folders and names that would fail in the night are found before it, in one line; a target may be a mount point or a link."""

from __future__ import annotations

import datetime as dt
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from helpers.errors import Terminal, UsageError, WorldError
from helpers.migration import staging
from helpers.migration.importing import Job
from helpers.migration.staging import Quarantine
from helpers.parameters import Parameters, parameters_from
from helpers.parameters.endpoint import Endpoint
from helpers.results import Check, Verdict
from helpers.run import folders as runs
from helpers.run.record import RunRecord
from helpers.schema import Context, load_schema
from helpers.snapshots.retention import directories
from helpers.snapshots.snapshot import write_snapshot
from helpers.steps.source_health import SourceHealthStep
from helpers.steps.target_readiness import TargetReadinessStep
from helpers.stores import open_source, open_target, quick_names
from helpers.stores.layout import DATABASE
from helpers.stores.opening import MADE
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
    with pytest.raises(WorldError) as caught:
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
    with pytest.raises(WorldError, match="a link to unmounted, which is not there"):
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

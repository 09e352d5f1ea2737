"""A disk that fills, wherever the toolkit writes: one line that names the folder, nothing half written, and a resume goes on."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from helpers import audit, cli
from helpers.cli import evidence
from helpers.errors import EnvironmentFailure, RunbookError, Terminal
from helpers.migration.checkpoint import Checkpoint
from helpers.migration.staging import Quarantine
from helpers.parameters import parameters_from
from helpers.results import StepResult, append, disk_full, shortage, utc_now, write_bytes, write_json
from helpers.run import folders as runs
from helpers.run import kernel
from helpers.run.folders import RunFolder
from helpers.run.record import RunRecord
from helpers.snapshots.snapshot import Snapshot, write_snapshot
from helpers.steps.target_readiness import TargetReadinessStep
from tests.storage import chunks, embedded, fill

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MB."""
    disk = tmp_path / "small"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], check=False, capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting needs root")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def filled(disk: Path, free: int = 0) -> None:
    """Leave so many bytes, in steps of 4 KiB."""
    with (disk / "ballast").open("ab", buffering=0) as file:
        while shutil.disk_usage(disk).free > free:
            try:
                file.write(bytes(4096))
            except OSError:
                return


def test_a_full_workspace_is_named_by_what_is_written_beside_the_work(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Locks, the progress, copies of a source: neither the source nor the folder of the command or of temporary files is full."""
    monkeypatch.setenv("RUNBOOK_REPORTS", str(tmp_path / "reports"))
    monkeypatch.setenv("RUNBOOK_WORKSPACE", str(small))
    sections = {"name": "n", "source": {"path": "s"}, "target": {"path": "t"}, "snapshot": {"directory": str(tmp_path)}}
    run = runs.create(parameters_from(sections), "run")
    (whole := tmp_path / "whole").write_bytes(bytes(10_000))
    writes: list[Callable[[], object]] = [
        runs.RunLock(run, "step").acquire, RunRecord(run, "10").progress("reading", 10).__enter__,
        lambda: shutil.copyfile(whole, run.workspace / "copy"),
    ]  # fmt: skip
    filled(small)
    for write in writes:
        with pytest.raises(OSError, match="No space left") as caught:
            write()
        known = shortage(caught.value, tmp_path)
        assert known is not None
        assert known.line().startswith(f"{run.workspace}: the disk is full: 0 B free. Free space there")


def test_whatever_is_written_there_is_one_line_and_nothing_is_half_written(small: Path, tmp_path: Path) -> None:
    run = RunFolder("run", small / "reports", small / "workspace")
    for folder in (run.reports, run.workspace, small / "quarantine"):
        folder.mkdir()
    write_json(run.reports / "kept.json", {"a": 1})
    append(run.workspace / "log.jsonl", b"one\n")
    ledger = Checkpoint.open(run.workspace / "checkpoint.json", {})
    quarantine = Quarantine(small / "quarantine")
    filled(small)
    big = {str(n): "x" * 100 for n in range(1_000)}
    acts: dict[str, Callable[[], object]] = {
        "a file": lambda: write_json(run.reports / "kept.json", big),
        "a result": lambda: StepResult("10", "t", "run", utc_now(), facts=big).write(
            run.reports / "results" / "10.json"
        ),
        "the log": lambda: run.log("x" * 4_000),
        "a line": lambda: append(run.workspace / "log.jsonl", b"x" * 10_000),
        "the ledger": lambda: ledger.note("x" * 10_000),
        "the audit log": lambda: [audit.append(run.reports / audit.NAME, "x", text="y" * 5_000) for _ in range(2)],
        "a quarantined chunk": lambda: quarantine.add(
            {"target": "t", "collection": "c", "id": "c0", "reason": "r"}, chunks(1, 4_000)
        ),
    }
    for what, act in acts.items():
        with pytest.raises(RunbookError) as caught:
            act()
        line = str(caught.value)
        assert str(small) in line, what
        assert "\n" not in line
        assert isinstance(caught.value, EnvironmentFailure), what
        if what != "the audit log":
            assert (caught.value.code, "full" in line, "free" in line) == ("disk_full", True, True), what
    assert (run.reports / "kept.json").read_text(encoding="utf-8") == '{\n  "a": 1\n}\n'
    assert (run.workspace / "log.jsonl").read_bytes() == b"one\n"
    assert [p.name for p in small.rglob(".*.tmp")] == []
    assert Checkpoint.read(ledger.path).errors == []
    (small / "ballast").unlink()
    for act in acts.values():
        act()
    assert quarantine.counts() == {"r": 1}


def test_a_snapshot_that_does_not_fit_goes_on_when_there_is_room(small: Path, tmp_path: Path) -> None:
    with embedded(tmp_path / "source") as store:
        fill(store, "notes", chunks(1_200, 512))
        filled(small, 1_000_000)
        with pytest.raises(Terminal) as caught:
            write_snapshot(store, small, "snap", ["notes"], retention_days=7)
        assert caught.value.code == "disk_full"
        assert str(small / "snap.partial") in str(caught.value)
        subprocess.run(["mount", "-o", "remount,size=16m", small], check=True)
        taken = write_snapshot(store, small, "snap", ["notes"], retention_days=7)
        assert Snapshot.open(taken.folder).verify() == {"notes": 1_200}


@pytest.mark.usefixtures("own_folders")
def test_a_full_disk_under_an_archive_leaves_nothing(small: Path, tmp_path: Path) -> None:
    folder = tmp_path / "reports" / "run"
    folder.mkdir(parents=True)
    (folder / "big.bin").write_bytes(os.urandom(3_000_000))
    with pytest.raises(RunbookError, match=str(small)) as caught:
        evidence.archive(folder, small / "run.zip")
    assert "\n" not in str(caught.value)
    assert list(small.iterdir()) == []


def test_an_error_that_a_full_disk_led_to_is_told_as_such(tmp_path: Path) -> None:
    full = OSError(28, "No space left on device", str(tmp_path / "a" / "file"))
    wrapped = ValueError("papermill stopped")
    wrapped.__cause__ = full
    for error in (full, wrapped):
        said = kernel.failure(error)
        assert (said["code"], said["type"]) == ("disk_full", "Terminal")
        assert str(tmp_path / "a") in said["line"]
    assert disk_full(OSError(13, "Permission denied"), tmp_path) is None
    assert kernel.failure(ValueError("x"))["code"] == "unexpected"
    assert kernel.failure(RuntimeError("can't start new thread"))["code"] == "out_of_memory"


LACKS: list[tuple[Exception, str]] = [
    (MemoryError(), "the process ran out of memory. Let it have more (ulimit -v, the limit of its container), then repeat."),
    (OSError(24, "Too many"), "the process may not open any more files. Let it open more (ulimit -n 4096), then repeat."),
    (PermissionError(13, "Permission denied", "/there/run.log"),
     "/there/run.log: may not be read or written (Permission denied). Correct its permissions, or run as a user who may."),
]  # fmt: skip


@pytest.mark.parametrize(("error", "said"), LACKS)
def test_what_a_command_lacks_is_one_line(
    error: Exception, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def none_left(*_: object) -> None:
        raise error

    monkeypatch.setattr(runs, "find", none_left)
    assert cli.main(["verify", "one"]) == 1
    assert capsys.readouterr().err == f"runbook: {said}\n"


def test_an_append_that_fails_leads_to_no_error_but_its_own(tmp_path: Path) -> None:
    """An error that is its own cause is followed for ever by whoever asks what led to it."""
    with pytest.raises(IsADirectoryError) as failed:
        append(tmp_path, b"a line")
    assert failed.value.__cause__ is None
    assert disk_full(failed.value, tmp_path) is None


def limited() -> int:
    """Write more than a file may hold; run in a process of its own."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    try:
        write_bytes(Path("limited.bin"), bytes(30_000))
    except Terminal as error:
        print(error.code, error)
        return error.exit_code
    return 0


@pytest.mark.more
def test_a_limit_on_the_size_of_files_is_named(tmp_path: Path) -> None:
    code = "import sys; from tests.test_a_full_disk_is_one_line import limited; sys.exit(limited())"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.startswith("disk_full")
    assert "files may not be so large" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("own_folders")
def test_step_12_asks_for_room_for_the_reports(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with embedded(tmp_path / "source") as store:
        fill(store, "notes", chunks(20, 4))
    monkeypatch.setenv("RUNBOOK_REPORTS", str(small / "reports"))
    places = {"source": {"path": "source"}, "target": {"path": "target"}, "snapshot": {"directory": "kept"}}
    parameters = parameters_from({"name": "n", **places, "schema": "identity"})
    run = RunRecord(runs.create(parameters, "one"), "12")
    table = TargetReadinessStep(run).disk()
    [row] = [row for row in table.itertuples(index=False) if str(small) in row[0]]
    assert not row[3]
    assert row[2] > 30 * 2**20
    [found] = [c for c in run.result.checks if c.name.startswith("free disk") and str(small) in c.detail]
    assert (found.verdict, found.reason) == ("fail", "disk_full")


@pytest.mark.slow
def test_a_run_whose_reports_fill_the_disk_ends_in_one_line_and_goes_on(small: Path, tmp_path: Path) -> None:
    """Through the command: whatever it writes first, kernel, papermill, result, page or log."""
    with embedded(tmp_path / "source") as store:
        fill(store, "notes", chunks(20, 4))
    (tmp_path / "p.yaml").write_text("{name: n, source: {path: source}, target: {path: target}, schema: identity}\n")
    environment = {**os.environ, "RUNBOOK_REPORTS": str(small / "reports"), "RUNBOOK_WORKSPACE": str(tmp_path / "work")}

    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-m", "helpers", *arguments]
        environment["PYTHONPATH"] = str(ROOT)
        return subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    filled(small, 60_000)
    done = command("run", "p.yaml", "--run-id", "one", "--until", "10")
    assert done.returncode == 1
    assert "unexpected" not in done.stderr + done.stdout
    assert "Traceback" not in done.stderr + done.stdout
    assert done.stderr.count("\n") == 1
    assert str(small) in done.stderr
    (small / "ballast").unlink()
    subprocess.run(["mount", "-o", "remount,size=64m", small], check=True)
    again = command("resume", "one")
    assert (again.returncode, again.stderr) == (0, "")


def test_a_disk_that_turned_read_only_is_one_line_that_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / "results" / "22.json"
    found = shortage(OSError(errno.EROFS, os.strerror(errno.EROFS), str(file)), tmp_path)
    assert found is not None
    assert found.line() == f"{file}: cannot be written (Read-only file system). Mount it to be written, then repeat."
    assert found.code == "folder_unwritable"

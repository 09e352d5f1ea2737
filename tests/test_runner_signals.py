"""Ctrl-C, SIGTERM, SIGHUP, kill -9 and a closed terminal, sent to a real `runbook run` with a notebook at work."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from helpers.rehearsal import write_sample
from tests.conftest import ROOT
from tests.notebook_files import CHECK, FINISH, write_notebook

# The command with a notebooks folder of the test's own.
COMMAND = (
    "import pathlib, sys; from helpers import cli; from helpers.run import folders;"
    "folders.NOTEBOOKS = pathlib.Path(sys.argv[1]);"
    "sys.exit(cli.main(sys.argv[2:]))"
)
BATCHES = (
    "import os, pathlib, time\n"
    "bar = run.progress('work', 600)\n"
    "(run.workspace / 'kernel').write_text(str(os.getpid()))\n"
    "[(bar.advance(), time.sleep(0.05)) for _ in range(600)]"
)
STUCK = "import os, time\n(run.workspace / 'kernel').write_text(str(os.getpid()))\ntime.sleep(60)"

Start = Callable[..., "subprocess.Popen[str]"]
pytestmark = pytest.mark.usefixtures("ctrl_c")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts the command in tmp_path; what still runs afterwards is killed."""
    write_sample(tmp_path / "source", chunks=60, dimension=8)
    text = "name: trial\nsource: {path: source}\ntarget: {path: target}\nschema: identity\n"
    (tmp_path / "trial.yaml").write_text(text, encoding="utf-8")
    started: list[subprocess.Popen[str]] = []

    def run(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, str(tmp_path / "notebooks"), *arguments],
            cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
            env={
                **os.environ, "PYTHONPATH": str(ROOT), "RUNBOOK_REPORTS": str(tmp_path / "reports"),
                "RUNBOOK_WORKSPACE": str(tmp_path / "workspace"),
            },
        )  # fmt: skip
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def kernel_of(tmp_path: Path) -> int:
    """The process id of the kernel, once its working cell runs."""
    file = tmp_path / "workspace" / "one" / "kernel"
    for _ in range(2400):
        if file.is_file() and file.read_text():
            return int(file.read_text())
        time.sleep(0.05)
    raise AssertionError("the notebook did not get to work")


def gone(pid: int, within: float) -> bool:
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        if not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().split(")")[-1].split()[0]:
            return True
        time.sleep(0.05)
    return False


def error_of(tmp_path: Path) -> str:
    result = json.loads((tmp_path / "reports" / "one" / "results" / "10.json").read_text(encoding="utf-8"))
    return str(result["error"]["code"])


def begin_at_work(
    start: Start, tmp_path: Path, cell: str = BATCHES, until: str = "10"
) -> tuple[subprocess.Popen[str], int]:
    write_notebook(tmp_path / "notebooks" / "10_source_health.ipynb", CHECK, cell, FINISH)
    process = start("run", "trial.yaml", "--run-id", "one", "--until", until)
    return process, kernel_of(tmp_path)


def family(process: subprocess.Popen[str]) -> list[int]:
    """The kernel at work, and the template that it was forked from."""
    below = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
    assert len(below) == 2
    return below


@pytest.mark.slow  # test_forked_kernels_are_clean.py sees that the steps close theirs, however they end
def test_a_step_that_fails_leaves_no_kernel_ready(start: Start, tmp_path: Path) -> None:
    cell = f"{BATCHES.splitlines()[0]}\n{BATCHES.splitlines()[2]}\ntime.sleep(1)\n1 / 0"
    process, _ = begin_at_work(start, tmp_path, cell, until="11")
    below = family(process)
    process.communicate(timeout=180)
    assert process.returncode == 1
    assert all(gone(pid, 5) for pid in below)


@pytest.mark.slow  # test_forked_kernels_are_clean.py kills one, too
def test_a_runner_that_is_killed_leaves_no_kernel_ready(start: Start, tmp_path: Path) -> None:
    process, _ = begin_at_work(start, tmp_path, until="11")
    below = family(process)
    process.kill()
    process.communicate()
    assert all(gone(pid, 10) for pid in below)


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_request_to_stop_finishes_the_batch_and_says_how_to_go_on(
    start: Start, tmp_path: Path, number: signal.Signals
) -> None:
    process, kernel = begin_at_work(start, tmp_path, until="11")
    below = family(process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert len(errors.splitlines()) == 1
    assert "runbook resume one" in errors
    assert error_of(tmp_path) == "interrupted"
    assert kernel in below
    assert all(gone(pid, 5) for pid in below)

    for notebook in ("10_source_health", "11_explore_source"):
        write_notebook(tmp_path / "notebooks" / f"{notebook}.ipynb", CHECK, FINISH)
    resumed = start("resume", "one")
    resumed.communicate(timeout=180)
    assert resumed.returncode == 0, "the run ends where it was told to end"


@pytest.mark.more
def test_an_ignored_sigint_stays_ignored_and_sigterm_stops_the_run(start: Start, tmp_path: Path) -> None:
    """As cron, nohup and a shell's `&` start it: Ctrl-C at the terminal is not meant for it; the log says what is."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # a child inherits it
    try:
        process, kernel = begin_at_work(start, tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)
    process.send_signal(signal.SIGINT)
    time.sleep(1)
    assert process.poll() is None
    log = (tmp_path / "reports" / "one" / "run.log").read_text(encoding="utf-8")
    assert f"to stop the run: kill -TERM {process.pid}" in log
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=180)
    assert process.returncode == 130
    assert "runbook resume one" in errors
    assert error_of(tmp_path) == "interrupted"
    assert gone(kernel, 5)


@pytest.mark.slow
def test_a_second_request_ends_a_kernel_that_does_not_listen(start: Start, tmp_path: Path) -> None:
    process, kernel = begin_at_work(start, tmp_path, STUCK)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert (process.returncode, len(errors.splitlines())) == (130, 1)
    assert gone(kernel, 5)


@pytest.mark.more
def test_a_lost_terminal_does_not_stop_the_run(start: Start, tmp_path: Path) -> None:
    cell = BATCHES.replace("600", "60")
    process, _ = begin_at_work(start, tmp_path, cell)
    process.send_signal(signal.SIGHUP)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    process.stderr.close()
    assert process.wait(timeout=180) == 0
    result = json.loads((tmp_path / "reports" / "one" / "results" / "10.json").read_text(encoding="utf-8"))
    assert result["error"] is None


@pytest.mark.slow
def test_no_kernel_outlives_a_killed_runner_and_the_run_goes_on(start: Start, tmp_path: Path) -> None:
    process, kernel = begin_at_work(start, tmp_path)
    process.kill()
    process.communicate()
    assert gone(kernel, 2)

    write_notebook(tmp_path / "notebooks" / "10_source_health.ipynb", CHECK, FINISH)
    resumed = start("resume", "one")
    resumed.communicate(timeout=180)
    assert resumed.returncode == 0


@pytest.mark.slow
def test_two_processes_do_not_work_on_one_run(start: Start, tmp_path: Path) -> None:
    begin_at_work(start, tmp_path)
    second = start("resume", "one")
    _, errors = second.communicate(timeout=180)
    assert second.returncode == 1
    assert "is being worked on by process" in errors
    assert len(errors.splitlines()) == 1

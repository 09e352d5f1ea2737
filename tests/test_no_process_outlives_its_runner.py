"""kill -9 of a runner, or of whoever waits for a process of ours: on Linux it ends too, even while it computes in C."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path

import psutil
import pytest

from helpers.run import plan
from tests.conftest import ROOT
from tests.notebook_files import write_notebook
from tests.storage import chunks, embedded, fill

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
SECONDS = 30.0  # on a loaded machine, where one that is killed at its start has to load first; by itself it takes none

IN_C = "import re; re.match('(a+)+$', 'a' * 60 + 'b')"  # for years, and no other thread of Python gets its turn
EXECUTES = """
from pathlib import Path
from helpers.run import folders, plan
from helpers.run.folders import RunFolder
from helpers.runner.pipeline import Execution
folders.NOTEBOOKS = Path("notebooks")
execution = Execution(RunFolder("one", Path("reports/one"), Path("workspace/one")), plan.find("10"))
execution.start()
execution.wait(600)
"""
BECOMES = """
import os, sys, time
from pathlib import Path
from helpers.run import kernel
from helpers.runner.pipeline import every_kernel
template = kernel.KernelTemplate(every_kernel())
forked = template.fork(["-f", "connection.json"], {**os.environ, **every_kernel()}, ".", "printed.txt")
Path("begun").write_text(str(forked.pid))
time.sleep(600)
"""
OPENS = """
from pathlib import Path
from helpers.stores.opening import try_opening
try_opening(Path("copy"), "default_tenant", "default_database")
"""


def started(folder: Path, script: str) -> subprocess.Popen[bytes]:
    known = {
        "RUNBOOK_REPORTS": str(folder / "reports"),
        "RUNBOOK_WORKSPACE": str(folder / "workspace"),
        "PYTHONPATH": str(ROOT),
    }
    return subprocess.Popen(
        [sys.executable, "-c", script], cwd=folder, env={**os.environ, **known}, start_new_session=True
    )


def awaited(file: Path, process: subprocess.Popen[bytes]) -> psutil.Process:
    """The process whose number this file has."""
    deadline = time.monotonic() + 120
    while not (file.exists() and file.read_text()) and time.monotonic() < deadline:
        assert process.poll() is None, "it ended by itself"
        time.sleep(0.05)
    return psutil.Process(int(file.read_text()))


def killed(runner: subprocess.Popen[bytes], orphan: psutil.Process) -> bool:
    """Whether the orphan is gone soon after its runner was killed; it is ended in any case."""
    runner.kill()
    runner.wait()
    try:
        orphan.wait(SECONDS)
    except psutil.TimeoutExpired:
        return False
    finally:
        with suppress(psutil.NoSuchProcess):
            orphan.kill()
    return True


def test_a_cell_that_computes_in_c_ends_with_the_runner(tmp_path: Path) -> None:
    for folder in ("notebooks", "reports/one", "workspace/one"):
        (tmp_path / folder).mkdir(parents=True)
    begun = "import os; from pathlib import Path; from helpers.run import kernel; kernel.end_with_runner()\n"
    begun += f"Path({str(tmp_path / 'begun')!r}).write_text(str(os.getpid()))\n{IN_C}"
    write_notebook(tmp_path / "notebooks" / plan.find("10").notebook, begun, begins=False)
    runner = started(tmp_path, EXECUTES)
    orphan = awaited(tmp_path / "begun", runner)
    time.sleep(0.5)  # it computes
    assert killed(runner, orphan)


def test_a_kernel_whose_runner_is_killed_before_the_first_cell_ends(tmp_path: Path) -> None:
    runner = started(tmp_path, BECOMES)
    orphan = awaited(tmp_path / "begun", runner)
    assert killed(runner, orphan)


def test_an_engine_that_tries_a_copy_ends_with_who_waits_for_it(tmp_path: Path) -> None:
    """It waits for a lock of the database, and is stopped there: it does nothing by itself any more."""
    with embedded(tmp_path / "copy") as store:
        fill(store, "notes", chunks(3))
    with closing(sqlite3.connect(tmp_path / "copy" / "chroma.sqlite3")) as db:
        db.execute("begin exclusive")
        waiting = started(tmp_path, OPENS)
        engine, deadline = None, time.monotonic() + 120
        while engine is None and time.monotonic() < deadline:
            for child in psutil.Process(waiting.pid).children():
                with suppress(psutil.Error):
                    if any(file.path.endswith("chroma.sqlite3") for file in child.open_files()):
                        engine = child
            time.sleep(0.01)
        assert engine is not None
        engine.send_signal(signal.SIGSTOP)
        assert killed(waiting, engine)

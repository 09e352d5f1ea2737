"""kill -9 of a runner, or of whoever waits for a process of ours: on Linux it ends too, even while it computes in C."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from helpers.run import plan
from tests.conftest import ROOT
from tests.notebook_files import write_notebook

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
import os
from pathlib import Path
from helpers.stores.opening import try_opening
os.environ["PYTHONPATH"] = "engine"
try_opening(Path("copy"), "default_tenant", "default_database")
"""
ENGINE = f"""
import os
from pathlib import Path
class MigrationHash:
    MD5 = 0
class MigrationMode:
    Apply = 0
def SqliteDBConfig(**rest):
    Path({{begun!r}}).write_text(str(os.getpid()))
    {IN_C}
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


@pytest.mark.more
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


@pytest.mark.more
def test_a_kernel_whose_runner_is_killed_before_the_first_cell_ends(tmp_path: Path) -> None:
    runner = started(tmp_path, BECOMES)
    orphan = awaited(tmp_path / "begun", runner)
    assert killed(runner, orphan)


@pytest.mark.more
def test_an_engine_that_tries_a_copy_ends_with_who_waits_for_it(tmp_path: Path) -> None:
    """An engine that never ends, as on some damaged files."""
    (tmp_path / "engine").mkdir()
    engine = ENGINE.format(begun=str(tmp_path / "begun"))
    (tmp_path / "engine" / "chromadb_rust_bindings.py").write_text(engine, encoding="utf-8")
    waiting = started(tmp_path, OPENS)
    orphan = awaited(tmp_path / "begun", waiting)
    assert killed(waiting, orphan)

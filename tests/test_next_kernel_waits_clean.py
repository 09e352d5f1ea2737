"""The kernel of the next notebook is made ready while a step works: as clean as a new one, and never left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from helpers.parameters import parameters_from
from helpers.results import Verdict
from helpers.run import folders as runs
from helpers.run import kernel, plan
from helpers.run.folders import RunFolder
from helpers.runner.pipeline import Execution, every_kernel
from tests.notebook_files import CHECK, FINISH, write_notebook

STEP = plan.find("21")
WITHIN = 60.0  # seconds; the machine of the tests may be busy
# What a notebook can see of its kernel. Files for descriptors 0 to 2; threads, since a forked one would have none of them.
BEGIN = f"""
import os
begun_in = os.getcwd()
from helpers import begin
step = begin(globals(), "{STEP.number}")
run = step.run
"""
LOOK = """
import json, os, signal, sys, threading
seen = {
    "environment": dict(os.environ), "folder": begun_in, "arguments": sys.argv[:2], "path": sys.path, "parent": os.getppid(),
    "names": sorted(name for name in globals() if not name.startswith("_")), "session": os.getsid(0) == os.getpid(),
    "files": [os.readlink(f"/proc/self/fd/{n}") if os.path.exists("/proc") else "" for n in (1, 2)],
    "signals": [str(signal.getsignal(s)) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)],
    "main": sorted(vars(sys.modules["__main__"])) == sorted(globals()), "counter": get_ipython().execution_count,
    "backend": __import__("matplotlib").get_backend(),
}
(run.workspace / "seen.json").write_text(json.dumps(seen))
"""
OF_ITS_OWN = {kernel.EXECUTION, kernel.LAUNCHED, "JPY_SESSION_NAME"}  # variables that differ from kernel to kernel


@pytest.fixture
def folder(tmp_path: Path, own_folders: None, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    monkeypatch.setattr(runs, "NOTEBOOKS", tmp_path / "notebooks")
    places = {"source": {"path": str(tmp_path / "source")}, "target": {"path": str(tmp_path / "target")}}
    return runs.create(parameters_from({"name": "trial", **places}), "trial")


def seen(folder: RunFolder, ready: kernel.NextKernel | None) -> dict[str, Any]:
    execution = Execution(folder, STEP, ready=ready)
    execution.start()
    while not execution.wait(0.1):
        pass
    result = execution.result()
    assert (result.verdict, result.error) == (Verdict.PASS, None)
    assert result.facts["launched"] < result.started, "the result says when the kernel's start began"
    found: dict[str, Any] = json.loads((folder.workspace / "seen.json").read_text(encoding="utf-8"))
    for name in OF_ITS_OWN:
        found["environment"].pop(name, None)
    return found


def gone(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def in_time(what: Callable[[], bool]) -> bool:
    end = time.monotonic() + WITHIN
    while not (done := what()) and time.monotonic() < end:
        time.sleep(0.05)
    return done


def test_it_is_as_clean_as_a_new_one(folder: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_notebook(runs.NOTEBOOKS / STEP.notebook, BEGIN, LOOK, CHECK, FINISH, begins=False)
    new = seen(folder, None)
    home, other = Path.cwd(), tmp_path / "other"
    other.mkdir()
    # what is changed between its start and its turn reaches it as it reaches a new one
    with monkeypatch.context() as before:
        before.setenv("HTTP_PROXY", "http://before.invalid")
        before.chdir(other)
        ready = kernel.NextKernel(STEP.number, every_kernel())
    assert Path.cwd() == home
    waited = seen(folder, ready)
    assert waited == new
    assert (waited["folder"], waited["parent"]) == (str(home), os.getpid())
    assert "HTTP_PROXY" not in waited["environment"]
    assert ready.process.poll() is not None, "it was the kernel, and ended as one"


def test_where_it_has_died_a_new_one_is_started(folder: RunFolder) -> None:
    write_notebook(runs.NOTEBOOKS / STEP.notebook, BEGIN, LOOK, CHECK, FINISH, begins=False)
    ready = kernel.NextKernel(STEP.number, every_kernel())
    ready.process.kill()
    ready.process.wait()
    assert seen(folder, ready)["parent"] == os.getpid()


def test_one_that_nobody_takes_is_ended() -> None:
    ready = kernel.NextKernel(STEP.number, every_kernel())
    ready.close()
    assert gone(ready.process.pid)


def test_it_ends_with_a_runner_that_is_killed(tmp_path: Path) -> None:
    code = (
        "import time; from helpers.run import kernel; from helpers.runner.pipeline import every_kernel;"
        "print(kernel.NextKernel('21', every_kernel()).process.pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as runner:
        assert runner.stdout is not None
        waiting = int(runner.stdout.readline())
        assert not gone(waiting)
        runner.send_signal(signal.SIGKILL)
    assert in_time(lambda: gone(waiting))

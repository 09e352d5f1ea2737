"""A kernel that is forked from the template is as clean as a new one, and neither is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest

from helpers.parameters import parameters_from
from helpers.reason_codes import ReasonCode
from helpers.results import Verdict
from helpers.run import folders as runs
from helpers.run import kernel, plan
from helpers.run.folders import RunFolder
from helpers.runner.pipeline import Execution, every_kernel, kernel_template
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
import json, os, random, resource, signal, sys, warnings
import matplotlib, numpy
limits = {n: resource.getrlimit(getattr(resource, n)) for n in dir(resource) if n.startswith("RLIMIT_")}
others = [f"/proc/self/fd/{n}" for n in os.listdir("/proc/self/fd")]
others = [n for n in others if n != "/proc/self/fd/0" and os.path.lexists(n)]  # 0 is at its end in both
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
seen = {
    "environment": dict(os.environ), "folder": begun_in, "arguments": sys.argv[:2], "path": sys.path, "parent": os.getppid(),
    "names": sorted(name for name in globals() if not name.startswith("_")), "session": os.getsid(0) == os.getpid(),
    "files": [os.readlink(f"/proc/self/fd/{n}") for n in (1, 2)],
    "open": sorted(filter(lambda link: not link.startswith(("socket:", "anon_inode:")), map(os.readlink, others))),
    "signals": {s: str(signal.getsignal(s)) for s in signal.Signals if s not in (signal.SIGKILL, signal.SIGSTOP)},
    "masks": [status[name] for name in ("SigBlk", "SigIgn", "Umask")], "limits": limits, "priority": os.nice(0),
    "main": sorted(vars(sys.modules["__main__"])) == sorted(globals()), "counter": get_ipython().execution_count,
    "backend": matplotlib.get_backend(), "settings": dict(matplotlib.rcParams),
    "warnings": sorted(map(str, warnings.filters)), "drawn": [random.random(), numpy.random.rand()],
}
(run.workspace / "seen.json").write_text(json.dumps(seen, default=str))
"""
OF_ITS_OWN = {
    kernel.EXECUTION,
    kernel.LAUNCHED,
    "JPY_SESSION_NAME",
    "JPY_PARENT_PID",
}  # variables that differ from kernel to kernel


@pytest.fixture
def folder(tmp_path: Path, own_folders: None, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    monkeypatch.setattr(runs, "NOTEBOOKS", tmp_path / "notebooks")
    places = {"source": {"path": str(tmp_path / "source")}, "target": {"path": str(tmp_path / "target")}}
    return runs.create(parameters_from({"name": "trial", **places}), "trial")


def seen(folder: RunFolder, template: kernel.KernelTemplate | None) -> dict[str, Any]:
    execution = Execution(folder, STEP, template=template)
    execution.start()
    while not execution.wait(0.1):
        pass
    result = execution.result()
    assert (result.verdict, result.error) == (Verdict.PASS, None)
    assert "Ctrl-C will not work" not in folder.log_path.read_text(encoding="utf-8"), "IPython knows whose child it is"
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


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Iterator[kernel.KernelTemplate]:
    """One that began in another folder, with a variable more."""
    with pytest.MonkeyPatch.context() as before:
        before.setenv("HTTP_PROXY", "http://before.invalid")
        before.chdir(tmp_path_factory.mktemp("other"))
        made = kernel.KernelTemplate(every_kernel())
    with closing(made):
        yield made


@pytest.mark.more
def test_it_is_as_clean_as_a_new_one(folder: RunFolder, template: kernel.KernelTemplate) -> None:
    write_notebook(runs.NOTEBOOKS / STEP.notebook, BEGIN, LOOK, CHECK, FINISH, begins=False)
    new = seen(folder, None)
    drawn = new.pop("drawn")
    for _ in range(2):  # nor does one kernel leave anything to the next
        forked = seen(folder, template)
        assert (new.pop("parent", os.getpid()), forked.pop("parent")) == (os.getpid(), template.process.pid)
        drawn += forked.pop("drawn")
        assert forked == new
        assert forked["folder"] == str(Path.cwd())
        assert "HTTP_PROXY" not in forked["environment"]
        assert in_time(lambda: psutil.Process(template.process.pid).children() == []), "a kernel ends as one"
    assert len({*drawn}) == 6, "random numbers are not those of the kernel before"


@pytest.mark.more
def test_a_kernel_that_is_killed_fails_its_step_and_the_next_one_is_forked(
    folder: RunFolder, template: kernel.KernelTemplate
) -> None:
    write_notebook(runs.NOTEBOOKS / STEP.notebook, CHECK, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    execution = Execution(folder, STEP, template=template)
    execution.start()
    while not execution.wait(0.1):
        pass
    assert (execution.result().error or {})["code"] == ReasonCode.KERNEL_DIED
    write_notebook(runs.NOTEBOOKS / STEP.notebook, BEGIN, LOOK, CHECK, FINISH, begins=False)
    assert seen(folder, template)["parent"] == template.process.pid


def test_it_runs_no_other_thread(template: kernel.KernelTemplate, tmp_path: Path) -> None:
    """A lock that another thread holds at the fork would stay held in the kernel."""
    with (tmp_path / "printed").open("wb") as printed:
        assert template.fork(["--version"], dict(os.environ), str(tmp_path), printed.name) is not None
    assert psutil.Process(template.process.pid).num_threads() == 1


@pytest.mark.more
def test_a_kernel_ends_with_its_template_and_a_new_one_is_started(folder: RunFolder) -> None:
    """Also one that no other thread of its own can stop: nothing in it gives Python back."""
    busy = "import os; (run.workspace / 'pid').write_text(str(os.getpid())); sum(range(10**13))"
    write_notebook(runs.NOTEBOOKS / STEP.notebook, CHECK, busy)
    template = kernel.KernelTemplate(every_kernel())
    execution = Execution(folder, STEP, template=template)
    execution.start()
    assert in_time(lambda: (folder.workspace / "pid").is_file() and (folder.workspace / "pid").read_text() != "")
    template.process.kill()
    assert in_time(lambda: gone(int((folder.workspace / "pid").read_text())))
    assert in_time(lambda: execution.wait(0.1))
    assert (execution.result().error or {})["code"] == ReasonCode.KERNEL_DIED
    write_notebook(runs.NOTEBOOKS / STEP.notebook, BEGIN, LOOK, CHECK, FINISH, begins=False)
    assert seen(folder, template)["parent"] == os.getpid()


def test_the_steps_close_theirs() -> None:
    """However they end."""
    with pytest.raises(ZeroDivisionError), kernel_template(plan.LINE) as template:  # noqa: PT012
        assert template is not None
        assert not gone(template.process.pid)
        1 / 0  # noqa: B018
    assert gone(template.process.pid)  # type: ignore[union-attr]
    with kernel_template(plan.LINE[:1]) as none:
        assert none is None, "one kernel is as quick by itself"


@pytest.mark.more
def test_where_something_else_runs_in_it_new_kernels_are_started(
    folder: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As programs that watch an application do, by a `sitecustomize` that they put on Python's path."""
    agent = "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()"
    (tmp_path / "sitecustomize.py").write_text(agent, encoding="utf-8")
    write_notebook(runs.NOTEBOOKS / STEP.notebook, BEGIN, LOOK, CHECK, FINISH, begins=False)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with closing(kernel.KernelTemplate(every_kernel())) as template:
        assert seen(folder, template)["parent"] == os.getpid()
        assert template.process.poll() is not None


@pytest.mark.more
def test_it_ends_with_a_runner_that_is_killed(tmp_path: Path) -> None:
    code = (
        "import time; from helpers.run import kernel; from helpers.runner.pipeline import every_kernel;"
        "print(kernel.KernelTemplate(every_kernel()).process.pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as runner:
        assert runner.stdout is not None
        waiting = int(runner.stdout.readline())
        assert not gone(waiting)
        runner.send_signal(signal.SIGKILL)
    assert in_time(lambda: gone(waiting))

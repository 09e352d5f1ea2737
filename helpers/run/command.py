"""The operator's programs, and nginx: argument lists, never a shell, always with a time limit. What they and kernels see of the
environment. Which processes of this machine run.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import psutil

from helpers.errors import Terminal, one_line
from helpers.reason_codes import ReasonCode
from helpers.run import folders as runs

# -- environment -------------------------------------------------------------------------------------------------------

# What a kernel, and what it starts, sees of the operator's environment: the usual variables, none of which holds a key of a
# service, and those that the parameters name. Whatever might be made to read another variable finds none. The operator's
# own programs (restart, fence, notify.before, the application's tests) see all of it.


_USUAL = """
    PATH HOME USER LOGNAME SHELL PWD LANG LANGUAGE TZ TZDIR TERM COLUMNS LINES NO_COLOR TMPDIR TEMP TMP HOSTNAME
    VIRTUAL_ENV CONDA_PREFIX LD_LIBRARY_PATH LD_PRELOAD SSL_CERT_FILE SSL_CERT_DIR REQUESTS_CA_BUNDLE
    HTTP_PROXY HTTPS_PROXY ALL_PROXY NO_PROXY http_proxy https_proxy all_proxy no_proxy
    IPYTHONDIR JUPYTER_CONFIG_DIR JUPYTER_DATA_DIR JUPYTER_RUNTIME_DIR JUPYTER_PATH JUPYTER_PLATFORM_DIRS
    JPY_PARENT_PID JPY_SESSION_NAME MPLBACKEND MPLCONFIGDIR TOKENIZERS_PARALLELISM ANONYMIZED_TELEMETRY
    RUNBOOK_REPORTS RUNBOOK_WORKSPACE RUNBOOK_SAMPLE_CHUNKS RUNBOOK_RUNNER_PID RUNBOOK_EXECUTION RUNBOOK_LAUNCHED
"""
_USUAL_FAMILIES = (
    "LC_", "PYTHON", "XDG_", "DYLD_", "OMP_", "OPENBLAS_", "MKL_", "NUMEXPR_", "MALLOC_", "ARROW_", "RUST_", "COVERAGE_",
)  # fmt: skip
_set_aside: dict[str, str] = {}


def reduce_environment(named: Iterable[str]) -> None:
    """From now on this process, and what it starts, has the usual variables and the `named` ones."""
    wanted = {*_USUAL.split(), *named}
    for name in [n for n in os.environ if n not in wanted and not n.startswith(_USUAL_FAMILIES)]:
        _set_aside[name] = os.environ.pop(name)
    for name in wanted & set(_set_aside):  # another run in the same kernel may name others
        os.environ[name] = _set_aside.pop(name)


def set_aside() -> dict[str, str]:
    """The variables that `reduce_environment` took away: for programs of the operator only."""
    return dict(_set_aside)


def python_environment() -> dict[str, str]:
    """What a Python that we start needs of the environment: our modules come first, and those of the current folder never.

    A run works in a folder of the operator's; whoever can write there must not be able to put a `pandas.py` before ours.
    """
    path = os.pathsep.join(filter(None, [str(runs.REPOSITORY), os.environ.get("PYTHONPATH")]))
    return {"PYTHONPATH": path, "PYTHONSAFEPATH": "1"}


# -- programs ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Done:
    """How a program ended. `said` is all that it printed, standard error included."""

    code: int
    said: str

    @property
    def tail(self) -> str:
        """Its last lines, for a log: a program that prints its settings prints secrets that nobody can know."""
        lines = self.said.splitlines()
        left_out = f"({len(lines) - _TAIL} lines before these are not kept)\n" if len(lines) > _TAIL else ""
        return left_out + "\n".join(lines[-_TAIL:])

    @property
    def last_line(self) -> str:
        lines = [line for line in self.said.splitlines() if line.strip()]
        return one_line(lines[-1], 300) if lines else "it printed nothing"


_TAIL = 5
LIMIT = "fence.timeout_seconds"


def run_program(arguments: Sequence[str], seconds: float, what: str, limit: str = LIMIT) -> Done:
    """Run it and wait. `Terminal` where it cannot be started or takes longer; whatever it started is then ended too.

    `limit` is the parameter that says how long it may take.

    Its output goes to a file and not a pipe: a daemon that it leaves behind would keep a pipe open for ever.
    """
    shown = shlex.join(arguments)
    with tempfile.TemporaryFile() as out:
        try:
            process = subprocess.Popen(
                list(arguments), stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
                env={**os.environ, **_set_aside},
            )  # fmt: skip
        except OSError as error:
            raise Terminal(
                ReasonCode.PROGRAM_MISSING, f"{what} cannot be started ({error.strerror}): {shown}",
                next_step=f"Install {arguments[0]}, or give its whole path in the parameters.",
            ) from error  # fmt: skip
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            out.seek(0)
            said = Done(-1, out.read().decode("utf-8", "replace")).last_line
            raise Terminal(
                ReasonCode.PROGRAM_TIMEOUT, f"{what} took longer than {seconds:g} seconds and was ended: {shown} ({said})",
                next_step=f"Raise {limit}, or see what it waits for.",
            ) from None  # fmt: skip
        out.seek(0)
        return Done(code, out.read().decode("utf-8", "replace"))


def run_or_fail(arguments: Sequence[str], seconds: float, what: str, limit: str = LIMIT) -> Done:
    """As `run_program`; `Terminal` also where its exit code is not 0."""
    done = run_program(arguments, seconds, what, limit)
    if done.code:
        raise Terminal(
            ReasonCode.PROGRAM_FAILED, f"{what} ended with exit code {done.code}: {done.last_line}",
            next_step=f"Try it by hand: {shlex.join(arguments)}",
        )  # fmt: skip
    return done


# -- processes ---------------------------------------------------------------------------------------------------------


def name_of(pid: int) -> str:
    """The program's name, "" where it cannot be seen."""
    with suppress(psutil.Error):
        return str(psutil.Process(pid).name())
    return ""


def alive(pid: int) -> bool:
    """Whether it runs; one that has ended and that nobody has waited for yet does not, though its number exists."""
    with suppress(psutil.NoSuchProcess):
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    return False


def children(pid: int) -> set[int]:
    """The processes that `pid` started and that still run."""
    with suppress(psutil.NoSuchProcess):
        return {child.pid for child in psutil.Process(pid).children() if alive(child.pid)}
    return set()

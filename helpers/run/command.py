"""The operator's programs, and nginx: argument lists, never a shell, always with a time limit. What they and kernels see of the
environment. Which processes of this machine run, what files they have open, and who is connected to whom. Requests to stop.
"""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

from helpers.errors import Terminal
from helpers.formatting import masked
from helpers.parameters import Endpoint, resolve_path
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


# Blocks of megabytes go back to the system as soon as they are freed. glibc and mimalloc would keep them for the next
# one: a snapshot over HTTP peaked at 510 MB with their defaults, at 250 MB with these, in the same time.
_ARENAS, _MAPPED = 2, 2**20
FRUGAL = {
    "MALLOC_ARENA_MAX": str(_ARENAS),
    "MALLOC_MMAP_THRESHOLD_": str(_MAPPED),
    "ARROW_DEFAULT_MEMORY_POOL": "system",
}


def be_frugal() -> None:
    """What `FRUGAL` does for a process that is started, for this one; of its C library as far as that can (glibc)."""
    import ctypes

    import pyarrow as pa

    pa.set_memory_pool(pa.system_memory_pool())
    with suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-8, _ARENAS)  # M_ARENA_MAX
        mallopt(-3, _MAPPED)  # M_MMAP_THRESHOLD


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
        return masked(lines[-1]) if lines else "it printed nothing"


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


# -- holders -----------------------------------------------------------------------------------------------------------
#
# Other processes of this machine: who has a database's files open, who is connected to it, and a master's workers.
#
# Two processes on one embedded database destroy it without a word (chroma-facts 15).


_PROC = Path("/proc")


@dataclass(slots=True)
class Holders:
    """`processes` have a file of it open; `unseen` processes (of other users) could not be inspected."""

    processes: dict[int, str] = field(default_factory=dict)
    unseen: int = 0

    def sentence(self) -> str:
        return ", ".join(f"process {pid} ({name or 'unknown'})" for pid, name in sorted(self.processes.items()))


def used_by(endpoint: Endpoint) -> str:
    """Which other processes have the endpoint's directory open, for people; "" where none has, and for a server."""
    return who_has_open(resolve_path(endpoint.path)).sentence() if endpoint.path else ""


def who_has_open(folder: Path) -> Holders:
    """Every other process that has a file below `folder` open or locked, by inode: links and mounts change nothing."""
    files = {place for path in (folder, *folder.rglob("*")) if (place := _place_of_path(path)) is not None}
    found = Holders()
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        try:
            if any(_place_of_path(path) in files for path in _open_files(process)):
                found.processes[process.pid] = name_of(process.pid)
        except (PermissionError, psutil.AccessDenied):
            found.unseen += 1
        except (OSError, psutil.Error):  # it ended meanwhile
            continue
    for pid in _lockers(files) - {os.getpid()}:  # these are shown for processes of other users too
        found.processes.setdefault(pid, name_of(pid))
    return found


def _place_of_path(path: Path) -> tuple[int, int] | None:
    try:
        facts = path.stat()
    except OSError:  # gone meanwhile
        return None
    return facts.st_dev, facts.st_ino


def _open_files(process: psutil.Process) -> list[Path]:
    """The links of its open files: a name, as psutil has it, would mean another file where it is in a container."""
    links = _PROC / str(process.pid) / "fd"
    return list(links.iterdir()) if _PROC.is_dir() else [Path(file.path) for file in process.open_files()]


def _lockers(files: set[tuple[int, int]]) -> set[int]:
    """/proc/locks: `1: POSIX  ADVISORY  WRITE 1234 08:01:5678 0 EOF`. A locker that is not visible here is -1 or 0."""
    found = set()
    with suppress(OSError):
        for line in (_PROC / "locks").read_text(encoding="utf-8", errors="replace").splitlines():
            parts = [p for p in line.split() if p != "->"]
            with suppress(IndexError, ValueError):
                major, minor, inode = parts[5].split(":")
                if (os.makedev(int(major, 16), int(minor, 16)), int(inode)) in files and int(parts[4]) > 0:
                    found.add(int(parts[4]))
    return found


def connections(host: str, port: int) -> int:
    """Established TCP connections to this address that this process has no end of; 0 too where none can be seen."""
    with suppress(OSError, psutil.Error):
        places = {(_plain(row[4][0]), port) for row in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
        ends = [((_plain(c.laddr.ip), c.laddr.port), (_plain(c.raddr.ip), c.raddr.port), c.pid == os.getpid())
                for c in psutil.net_connections("tcp") if c.status == psutil.CONN_ESTABLISHED]  # fmt: skip
        own = {end for local, remote, ours in ends if ours for end in (local, remote)}
        return len({end for pair in ends for end in pair[:2] if places & set(pair[:2])} - places - own)
    return 0


def others_at(place: str, own: Collection[int]) -> int:
    """Connections to HOST:PORT whose client is none of `own` processes, in both of two looks; 0 too where none can be seen."""
    with suppress(OSError, psutil.Error):
        host, _, port = place.rpartition(":")
        places = {(_plain(row[4][0]), int(port)) for row in socket.getaddrinfo(host.strip("[]"), port)}
        if found := _others(places, own):
            time.sleep(0.2)  # of one that is being closed, a single look may see one end alone
        return len(found and found & _others(places, own))
    return 0


def _others(places: Collection[tuple[str, int]], own: Collection[int]) -> set[tuple[str, int]]:
    seen = [c for c in psutil.net_connections("tcp") if c.status == psutil.CONN_ESTABLISHED]
    ends = {(_plain(c.laddr.ip), c.laddr.port): (c.pid, (_plain(c.raddr.ip), c.raddr.port)) for c in seen}
    clients = {end for near, (_, far) in ends.items() for end, at in ((far, near), (near, far)) if at in places}
    return {c for c in clients if c not in ends or ends[c][0] not in {None, *own}}


def _plain(address: str | int) -> str:
    return str(address).partition("%")[0].removeprefix("::ffff:")


def own_addresses() -> set[str]:
    """This machine's addresses that others, or containers on it, can reach."""
    kinds = (socket.AF_INET, socket.AF_INET6)
    found = {str(a.address) for ends in psutil.net_if_addrs().values() for a in ends if a.family in kinds}
    return {a for a in found if not a.startswith("127.") and a != "::1" and "%" not in a}


# -- requests to stop --------------------------------------------------------------------------------------------------


@contextmanager
def stop_requests(handler: Callable[[int, FrameType | None], None]) -> Iterator[bool]:
    """SIGTERM and SIGINT go to the handler, SIGHUP to nobody; gives whether SIGINT is heard. Nothing but in the main thread.

    A SIGINT that was ignored when the command began (`nohup`, cron, `&` of a shell) stays ignored: who started it so meant
    no Ctrl-C of a terminal to reach it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield True
        return
    hears = signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
    before = {
        number: signal.signal(number, handler) for number in (signal.SIGTERM, *([signal.SIGINT] if hears else []))
    }
    before[signal.SIGHUP] = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield hears
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def child(command: Sequence[str], prepare: Callable[[], None] | None = None) -> subprocess.CompletedProcess[str]:
    """A process of the toolkit, of this interpreter, with this process's folders; not one of a runner's kernels."""
    mine = ("RUNBOOK_RUNNER_PID", "RUNBOOK_EXECUTION", "RUNBOOK_LAUNCHED")
    environment = {k: v for k, v in os.environ.items() if k not in mine} | {
        **python_environment(),
        "RUNBOOK_REPORTS": str(runs.reports_root()),
        "RUNBOOK_WORKSPACE": str(runs.workspace_root()),
    }
    how: dict[str, Any] = {"capture_output": True, "text": True, "check": False, "env": environment}
    return subprocess.run(list(command), preexec_fn=prepare, **how)

"""Start programs of the operator and nginx (argument lists, never a shell, always with a time limit); reduce the environment
of kernels; inspect processes, open files and connections of this machine; handle requests to stop.
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

# A kernel and its child processes see only the usual variables, none of which holds a service's key, and those that the
# parameters name. Foreign code in them cannot read other variables. The operator's own programs (restart, fence,
# notify.before, the application's tests) see all variables.


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
_withheld: dict[str, str] = {}


def reduce_environment(named: Iterable[str]) -> None:
    """Remove all variables from the environment of this process but the usual and the `named` ones."""
    wanted = {*_USUAL.split(), *named}
    for name in [n for n in os.environ if n not in wanted and not n.startswith(_USUAL_FAMILIES)]:
        _withheld[name] = os.environ.pop(name)
    for name in wanted & set(_withheld):  # another run in the same kernel may name others
        os.environ[name] = _withheld.pop(name)


def withheld_variables() -> dict[str, str]:
    """The variables that `reduce_environment` removed. Give them only to programs of the operator."""
    return dict(_withheld)


def python_environment() -> dict[str, str]:
    """The environment for a Python process of ours: our modules come first, those of the current folder are not imported.

    A run works in a folder of the operator: a `pandas.py` there must not be imported.
    """
    path = os.pathsep.join(filter(None, [str(runs.REPOSITORY), os.environ.get("PYTHONPATH")]))
    return {"PYTHONPATH": path, "PYTHONSAFEPATH": "1"}


# Return large blocks to the system when they are freed. With the defaults of glibc and mimalloc, a snapshot over HTTP
# peaked at 510 MB; with these settings at 250 MB, in the same time.
_ARENAS, _MAPPED = 2, 2**20
FRUGAL = {
    "MALLOC_ARENA_MAX": str(_ARENAS),
    "MALLOC_MMAP_THRESHOLD_": str(_MAPPED),
    "ARROW_DEFAULT_MEMORY_POOL": "system",
}


def be_frugal() -> None:
    """Apply the settings of `FRUGAL` to this process; those of the C library only with glibc."""
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
    """The exit code of a program and its output, standard error included."""

    code: int
    output: str

    @property
    def tail(self) -> str:
        """The last lines of the output, for a log. Not all of it: a program may print secrets that are not known here."""
        lines = self.output.splitlines()
        omitted = f"({len(lines) - _TAIL} lines before these are not kept)\n" if len(lines) > _TAIL else ""
        return omitted + "\n".join(lines[-_TAIL:])

    @property
    def last_line(self) -> str:
        lines = [line for line in self.output.splitlines() if line.strip()]
        return masked(lines[-1]) if lines else "it printed nothing"


_TAIL = 5
LIMIT = "fence.timeout_seconds"


def run_program(arguments: Sequence[str], seconds: float, name: str, limit: str = LIMIT) -> Done:
    """Run a program and wait. `Terminal` if it cannot be started or takes longer; it and its children are then killed.

    `limit`: the parameter that sets `seconds`, for the message.

    The output goes to a file, not a pipe: a daemon that the program starts would keep a pipe open.
    """
    command_line = shlex.join(arguments)
    with tempfile.TemporaryFile() as out:
        try:
            process = subprocess.Popen(
                list(arguments), stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
                env={**os.environ, **_withheld},
            )  # fmt: skip
        except OSError as error:
            raise Terminal(
                ReasonCode.PROGRAM_MISSING, f"{name} cannot be started ({error.strerror}): {command_line}",
                next_step=f"Install {arguments[0]}, or give its whole path in the parameters.",
            ) from error  # fmt: skip
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            out.seek(0)
            last_line = Done(-1, out.read().decode("utf-8", "replace")).last_line
            raise Terminal(
                ReasonCode.PROGRAM_TIMEOUT,
                f"{name} took longer than {seconds:g} seconds and was ended: {command_line} ({last_line})",
                next_step=f"Raise {limit}, or see what it waits for.",
            ) from None  # fmt: skip
        out.seek(0)
        return Done(code, out.read().decode("utf-8", "replace"))


def run_or_fail(arguments: Sequence[str], seconds: float, name: str, limit: str = LIMIT) -> Done:
    """As `run_program`; `Terminal` also for an exit code other than 0."""
    done = run_program(arguments, seconds, name, limit)
    if done.code:
        raise Terminal(
            ReasonCode.PROGRAM_FAILED, f"{name} ended with exit code {done.code}: {done.last_line}",
            next_step=f"Try it by hand: {shlex.join(arguments)}",
        )  # fmt: skip
    return done


# -- processes ---------------------------------------------------------------------------------------------------------


def name_of(pid: int) -> str:
    """The name of a process's program; "" if it cannot be read."""
    with suppress(psutil.Error):
        return str(psutil.Process(pid).name())
    return ""


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    with suppress(psutil.NoSuchProcess):
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    return False


def children(pid: int) -> set[int]:
    """The running child processes of `pid`."""
    with suppress(psutil.NoSuchProcess):
        return {child.pid for child in psutil.Process(pid).children() if alive(child.pid)}
    return set()


# -- holders -----------------------------------------------------------------------------------------------------------
#
# Other processes of this machine that have a database's files open or are connected to it.
#
# Two processes on one embedded database destroy it without an error (chroma-facts 15).


_PROC = Path("/proc")


@dataclass(slots=True)
class Holders:
    """The `processes` that have a file open (pid → name); the number of `unseen` ones, which could not be inspected."""

    processes: dict[int, str] = field(default_factory=dict)
    unseen: int = 0

    def sentence(self) -> str:
        return ", ".join(f"process {pid} ({name or 'unknown'})" for pid, name in sorted(self.processes.items()))


def used_by(endpoint: Endpoint) -> str:
    """The other processes that have the endpoint's directory open, in words; "" for none, and for a server."""
    return who_has_open(resolve_path(endpoint.path)).sentence() if endpoint.path else ""


def who_has_open(folder: Path) -> Holders:
    """Every other process that has a file below `folder` open or locked; compared by inode, also through links and mounts."""
    files = {place for path in (folder, *folder.rglob("*")) if (place := _place_of_path(path)) is not None}
    holders = Holders()
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        try:
            if any(_place_of_path(path) in files for path in _open_files(process)):
                holders.processes[process.pid] = name_of(process.pid)
        except (PermissionError, psutil.AccessDenied):
            holders.unseen += 1
        except (OSError, psutil.Error):  # it ended meanwhile
            continue
    for pid in _lockers(files) - {os.getpid()}:  # locks are listed for processes of other users, too
        holders.processes.setdefault(pid, name_of(pid))
    return holders


def _place_of_path(path: Path) -> tuple[int, int] | None:
    try:
        facts = path.stat()
    except OSError:  # gone meanwhile
        return None
    return facts.st_dev, facts.st_ino


def _open_files(process: psutil.Process) -> list[Path]:
    """Links to the open files of a process. Names, as psutil gives them, would mean other files for a process in a container."""
    links = _PROC / str(process.pid) / "fd"
    return list(links.iterdir()) if _PROC.is_dir() else [Path(file.path) for file in process.open_files()]


def _lockers(files: set[tuple[int, int]]) -> set[int]:
    """The processes that lock these files, by /proc/locks: `1: POSIX  ADVISORY  WRITE 1234 08:01:5678 0 EOF`.

    A process that is not visible here has the number -1 or 0 there, and is left out.
    """
    lockers = set()
    with suppress(OSError):
        for line in (_PROC / "locks").read_text(encoding="utf-8", errors="replace").splitlines():
            parts = [p for p in line.split() if p != "->"]
            with suppress(IndexError, ValueError):
                major, minor, inode = parts[5].split(":")
                if (os.makedev(int(major, 16), int(minor, 16)), int(inode)) in files and int(parts[4]) > 0:
                    lockers.add(int(parts[4]))
    return lockers


def connections(host: str, port: int) -> int:
    """The number of established TCP connections of other processes to this address; 0 if connections cannot be read."""
    with suppress(OSError, psutil.Error):
        places = {(_plain(row[4][0]), port) for row in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
        ends = [((_plain(c.laddr.ip), c.laddr.port), (_plain(c.raddr.ip), c.raddr.port), c.pid == os.getpid())
                for c in psutil.net_connections("tcp") if c.status == psutil.CONN_ESTABLISHED]  # fmt: skip
        own = {end for local, remote, ours in ends if ours for end in (local, remote)}
        return len({end for pair in ends for end in pair[:2] if places & set(pair[:2])} - places - own)
    return 0


def other_clients_at(place: str, own_pids: Collection[int]) -> int:
    """The number of clients connected to HOST:PORT, without the processes `own_pids`, in both of two samples; 0 if unreadable."""
    with suppress(OSError, psutil.Error):
        host, _, port = place.rpartition(":")
        addresses = {(_plain(row[4][0]), int(port)) for row in socket.getaddrinfo(host.strip("[]"), port)}
        if clients := _other_clients(addresses, own_pids):
            time.sleep(0.2)  # a single sample can see only one end of a closing connection
        return len(clients and clients & _other_clients(addresses, own_pids))
    return 0


def _other_clients(addresses: Collection[tuple[str, int]], own_pids: Collection[int]) -> set[tuple[str, int]]:
    seen = [c for c in psutil.net_connections("tcp") if c.status == psutil.CONN_ESTABLISHED]
    ends = {(_plain(c.laddr.ip), c.laddr.port): (c.pid, (_plain(c.raddr.ip), c.raddr.port)) for c in seen}
    clients = {end for near, (_, far) in ends.items() for end, at in ((far, near), (near, far)) if at in addresses}
    return {c for c in clients if c not in ends or ends[c][0] not in {None, *own_pids}}


def _plain(address: str | int) -> str:
    return str(address).partition("%")[0].removeprefix("::ffff:")


def own_addresses() -> set[str]:
    """This machine's addresses that other machines, or containers on it, can reach."""
    kinds = (socket.AF_INET, socket.AF_INET6)
    addresses = {str(a.address) for ends in psutil.net_if_addrs().values() for a in ends if a.family in kinds}
    return {a for a in addresses if not a.startswith("127.") and a != "::1" and "%" not in a}


# -- requests to stop --------------------------------------------------------------------------------------------------


@contextmanager
def stop_requests(handler: Callable[[int, FrameType | None], None]) -> Iterator[bool]:
    """Context manager: send SIGTERM and SIGINT to the handler, ignore SIGHUP; give whether SIGINT is handled.

    Does nothing outside of the main thread. A SIGINT that was ignored when the command began (`nohup`, cron, `&` of a
    shell) stays ignored: Ctrl-C is not meant for such a process.
    """
    if threading.current_thread() is not threading.main_thread():
        yield True
        return
    hears_sigint = signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
    before = {number: signal.signal(number, handler) for number in (signal.SIGTERM, *([signal.SIGINT] * hears_sigint))}
    before[signal.SIGHUP] = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield hears_sigint
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

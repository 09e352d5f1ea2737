"""Other processes of this machine: who has a database's files open, who is connected to it, and a master's workers.

Two processes on one embedded database destroy it without a word (chroma-facts 15).
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from helpers.parameters import Endpoint, resolve_path

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


def name_of(pid: int) -> str:
    """The program's name, "" where it cannot be seen."""
    with suppress(psutil.Error):
        return str(psutil.Process(pid).name())
    return ""


def children(pid: int) -> set[int]:
    """The processes that `pid` started and that still run; zombies are gone."""
    found = set()
    with suppress(psutil.NoSuchProcess):
        for child in psutil.Process(pid).children():
            with suppress(psutil.NoSuchProcess):
                if child.status() != psutil.STATUS_ZOMBIE:
                    found.add(child.pid)
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


def _plain(address: str | int) -> str:
    return str(address).partition("%")[0].removeprefix("::ffff:")

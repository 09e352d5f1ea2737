"""Who else has an embedded source open? Two processes on one directory destroy it without a word (chroma-facts 15)."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

# -- processes ---------------------------------------------------------------------------------------------------------

# Processes of this machine, as far as it shows them: a master's workers, and what is alive.


PROC = Path("/proc")


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def name_of(pid: int) -> str:
    """The program's name, "" where it cannot be seen."""
    try:
        return (PROC / str(pid) / "comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def children(pid: int) -> set[int]:
    """The processes that `pid` started and that still run; zombies are gone."""
    if not (PROC / "self" / "stat").exists():
        done = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,stat="], capture_output=True, text=True, check=False)
        rows = [line.split() for line in done.stdout.splitlines()]
        return {int(r[0]) for r in rows if len(r) > 2 and int(r[1]) == pid and not r[2].startswith("Z")}
    found = set()
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            try:
                # after the name, which is in brackets and may hold anything: state, parent
                state, parent = (
                    (entry / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[:2]
                )
            except (OSError, ValueError):  # it ended meanwhile
                continue
            if int(parent) == pid and state != "Z":
                found.add(int(entry.name))
    return found


# -- holders -----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Holders:
    """`processes` have a file of it open; `unseen` processes (of other users) could not be inspected.

    `known` is False where this system shows no open files at all: then nothing is proven.
    """

    processes: dict[int, str] = field(default_factory=dict)
    unseen: int = 0
    known: bool = True

    def sentence(self) -> str:
        return ", ".join(f"process {pid} ({name or 'unknown'})" for pid, name in sorted(self.processes.items()))


def who_has_open(folder: Path) -> Holders:
    """Every other process that has a file below `folder` open or locked, by inode: links and mounts change nothing."""
    if not (PROC / "self" / "fd").is_dir():
        return Holders(known=False)
    files = _inodes(folder)
    found = Holders()
    for entry in PROC.iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            held = _holds(entry / "fd", files)
        except PermissionError:
            found.unseen += 1
            continue
        except OSError:  # it ended meanwhile
            continue
        if held:
            found.processes[int(entry.name)] = name_of(int(entry.name))
    for pid in _lockers(files) - {os.getpid()}:  # these are shown for processes of other users too
        found.processes.setdefault(pid, name_of(pid))
    return found


def _inodes(folder: Path) -> set[tuple[int, int]]:
    found = set()
    for path in (folder, *folder.rglob("*")):
        try:
            facts = path.stat()
        except OSError:
            continue
        found.add((facts.st_dev, facts.st_ino))
    return found


def _holds(descriptors: Path, files: set[tuple[int, int]]) -> bool:
    for link in descriptors.iterdir():
        try:
            if str(link.readlink()).startswith("/"):  # not a pipe, not a socket
                facts = link.stat()
                if (facts.st_dev, facts.st_ino) in files:
                    return True
        except PermissionError:
            raise
        except OSError:  # closed meanwhile
            continue
    return False


def _lockers(files: set[tuple[int, int]]) -> set[int]:
    """/proc/locks: `1: POSIX  ADVISORY  WRITE 1234 08:01:5678 0 EOF`. A locker that is not visible here is -1 or 0."""
    try:
        lines = (PROC / "locks").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return set()
    found = set()
    for line in lines:
        parts = [p for p in line.split() if p != "->"]
        try:
            major, minor, inode = parts[5].split(":")
            place = (os.makedev(int(major, 16), int(minor, 16)), int(inode))
            pid = int(parts[4])
        except (IndexError, ValueError):
            continue
        if place in files and pid > 0:
            found.add(pid)
    return found

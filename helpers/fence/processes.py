"""Processes of this machine, as far as it shows them: a master's workers, and what is alive."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

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
                # after the name, which stands in brackets and may hold anything: state, parent
                state, parent = (
                    (entry / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[:2]
                )
            except (OSError, ValueError):  # it ended meanwhile
                continue
            if int(parent) == pid and state != "Z":
                found.add(int(entry.name))
    return found

"""The memory of the machine and of this process, in bytes."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path


def free_memory() -> int:
    """MemAvailable of /proc/meminfo, or all of the machine's where there is none (macOS)."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def peak_memory() -> int:
    """The most that this process has held."""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024

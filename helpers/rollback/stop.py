"""Stop our own migration process, known by the locks of its run, and nothing else."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import socket
import time
from contextlib import suppress

from helpers.errors import WorldError
from helpers.fence import who_has_open
from helpers.run.folders import RunFolder

LOCKS = ("runner", "step")
_HOLDER = re.compile(r"process (\d+) on (.+)")
PATIENCE = 20.0  # seconds for the batch in hand, as Ctrl-C gives; then its kernel is ended, then the process


def at_work(folder: RunFolder) -> dict[int, str]:
    """The processes that hold a lock of the run, with their hosts; {} where nobody works on it."""
    found: dict[int, str] = {}
    for name in LOCKS:
        path = folder.workspace / f"{name}.lock"
        try:
            file = path.open("r+", encoding="utf-8")
        except FileNotFoundError:
            continue
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                holder = _HOLDER.match(file.read(200))
                if holder:
                    found[int(holder[1])] = holder[2]
    return found


def stop(folder: RunFolder, patience: float = PATIENCE) -> list[int]:
    """Ask, then insist, until no other process works on the run; those that were stopped.

    Raises `WorldError` where one works on another machine, or does not end.
    """
    stopped: list[int] = []
    begun, asked = time.monotonic(), 0
    while working := {pid: host for pid, host in at_work(folder).items() if pid != os.getpid()}:
        _refuse_other_hosts(folder, working)
        waited = time.monotonic() - begun
        if asked == 0:
            folder.log(f"rollback stops process {', '.join(map(str, sorted(working)))}")
            folder.stop_file.touch()
        if waited >= asked * patience:
            if asked == 3:
                raise WorldError(
                    "migration_runs", f"process {min(working)} of run {folder.id} does not end",
                    next_step="End it yourself, then repeat the rollback.",
                )  # fmt: skip
            for pid in sorted(working):  # the second SIGTERM ends a runner's kernel at once
                _signal(folder, pid, signal.SIGKILL if asked == 2 else signal.SIGTERM)
            asked += 1
        stopped += [pid for pid in working if pid not in stopped]
        time.sleep(0.1)
    if stopped:
        folder.stop_file.unlink(missing_ok=True)
    return stopped


def _refuse_other_hosts(folder: RunFolder, working: dict[int, str]) -> None:
    elsewhere = {pid: host for pid, host in working.items() if host != socket.gethostname()}
    if elsewhere:
        pid, host = min(elsewhere.items())
        raise WorldError(
            "migration_runs", f"run {folder.id} is being worked on by process {pid} on {host}",
            next_step="Stop it there, then repeat the rollback.",
        )  # fmt: skip


def _signal(folder: RunFolder, pid: int, number: signal.Signals) -> None:
    """To a process that has the lock file open at this moment; a process id alone may be somebody else's by now."""
    for name in LOCKS:
        found = who_has_open(folder.workspace / f"{name}.lock")
        if pid in found.processes or not found.known:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
            return

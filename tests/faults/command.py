"""`runbook …` as a process that a fault can be done to, started in a tenth of a second: forked from one that has it loaded.

The command is the real one, with its locks, seals, notices and pages; only the cells of its notebooks are executed in the
process itself, not in a kernel of their own. `tests/faults/kinds.py` kills real kernels, too.

A crash point is a moment of a named write (`tests/faults/writes.py`). CPython tells an audit hook (PEP 578) of every file
that is opened and every rename, so the product has no hook of its own. `fsynced` keeps what was flushed to disk: a power
failure takes the rest, and `lose_power` takes it away.
"""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import random
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from tests.faults.writes import name_of

BEFORE, WRITTEN, AFTER = "before", "written, not renamed", "after"
MOMENTS = (BEFORE, WRITTEN, AFTER)
_WRITING = os.O_WRONLY | os.O_RDWR
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.faults.preload"])


@dataclass(frozen=True)
class Crash:
    """kill -9 of the process itself at the `nth` time (from 1) that it comes to this moment of this write."""

    write: str
    moment: str
    nth: int


@dataclass(frozen=True)
class Order:
    """What a child does: the command with these `arguments` in the folder `home`, under what is laid on it.

    `count` is a file that gets the named writes, as they first came, with how often each moment came. `output`: what it
    prints goes there. `limits`: resource.RLIMIT_… by number.
    `clock`: seconds added to the wall clock, one after another, a step each quarter of a second. `rootless`: permissions count,
    even where root runs the campaign.
    """

    home: Path
    arguments: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    crash: Crash | None = None
    count: Path | None = None
    limits: Mapping[int, int] = field(default_factory=dict)
    umask: int | None = None
    clock: tuple[float, ...] = ()
    rootless: bool = False
    pages: bool = False  # render pages and figures too: seconds
    output: str = "output.txt"  # its own, where two are at work at once
    does: Callable[[], int] | None = None  # in place of the command; a function of a module

    @property
    def flushed(self) -> Path:
        return self.home / f"{self.output}.fsynced.jsonl"


class Child:
    """A started order: `wait`, `kill`; `code` is the exit code, negative for a signal."""

    def __init__(self, order: Order) -> None:
        self.order, self.began = order, time.time()
        order.home.mkdir(parents=True, exist_ok=True)
        # What was there before has had its time to get to the disk.
        self.sizes = {(at := p.stat()).st_ino: at.st_size for p in order.home.rglob("*") if p.is_file()}
        order.flushed.unlink(missing_ok=True)
        self._process = _context.Process(target=_work, args=(order,))
        self._process.start()

    @property
    def pid(self) -> int:
        return self._process.pid or 0

    @property
    def ended(self) -> bool:
        return not self._process.is_alive()

    def wait(self, seconds: float) -> int | None:
        """The exit code; None where it has not ended, and is killed."""
        self._process.join(seconds)
        code = self._process.exitcode
        if code is None:
            self.kill()
        return code

    def kill(self) -> None:
        """The child and whatever it started, at once."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.join(30)

    @property
    def said(self) -> str:
        return (self.order.home / self.order.output).read_text(encoding="utf-8", errors="replace")


def lose_power(child: Child, chance: random.Random, folders: list[Path]) -> list[str]:
    """Take away from these folders what the child wrote and never flushed; what was taken, in words.

    A file that was never flushed may be empty, cut anywhere, or whole; one that has grown since it was flushed loses a
    part of what came after. SQLite flushes what it commits, out of sight of the hooks: its files are left as they are.
    """
    flushed: dict[int, int] = {}
    with suppress(FileNotFoundError):
        for line in child.order.flushed.read_bytes().splitlines():
            with suppress(ValueError):  # the line that the kill cut
                inode, size = json.loads(line)
                flushed[inode] = size
    taken = []
    for path in sorted(p for folder in folders for p in folder.rglob("*") if p.is_file() and not p.is_symlink()):
        at = path.stat()
        whole = max(flushed.get(at.st_ino, 0), child.sizes.get(at.st_ino, 0))
        sqlite = ".sqlite3" in path.name
        if sqlite or at.st_mtime < child.began or at.st_size <= whole or chance.random() < 0.3:
            continue
        left = chance.choice([whole, chance.randint(whole, at.st_size)])
        os.truncate(path, left)
        taken.append(f"{path.name} {at.st_size} → {left}")
    return taken


# -- in the child --------------------------------------------------------------------------------------------------------


def _work(order: Order) -> None:
    os.setsid()
    out = os.open(order.home / order.output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, descriptor in ((0, nothing), (1, out), (2, out)):
        os.dup2(descriptor, number)
    sys.stdout, sys.stderr = (os.fdopen(n, "w", encoding="utf-8", errors="backslashreplace") for n in (1, 2))
    os.chdir(order.home)
    os.environ |= {"RUNBOOK_REPORTS": str(order.home / "reports"), "RUNBOOK_WORKSPACE": str(order.home / "workspace"),
                   "RUNBOOK_BROWSER": "none", **order.environment}  # fmt: skip
    time.tzset()
    from tests.faults import preload

    preload.play_notebooks_here()
    preload.forget_the_disk_reserve()
    if not order.pages:
        preload.render_nothing()
    watch = _Watch(order)
    if order.clock:
        preload.wind_clock(order.clock)
    for number, most in order.limits.items():
        resource.setrlimit(number, (most, most))
    if order.umask is not None:
        os.umask(order.umask)
    if order.rootless and os.geteuid() == 0:
        _heed_permissions()
    code = 1
    try:
        code = order.does() if order.does is not None else preload.command(order.arguments)
    except BaseException:  # as an interpreter ends
        import traceback

        traceback.print_exc()
    finally:
        watch.keep()
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _heed_permissions() -> None:
    """Give up what lets root read and write everything (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH; capset(2))."""
    libc = ctypes.CDLL(None, use_errno=True)
    header, held = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    for call in (libc.capget, libc.capset):
        if call(header, held):
            raise OSError(ctypes.get_errno(), "capabilities")
        for at in range(3):  # effective, permitted, inheritable
            held[at] &= ~0b110


class _Watch:
    """Sees the named writes of this process: counts them, or kills it at one; keeps what is flushed to disk."""

    def __init__(self, order: Order) -> None:
        self.order, self.counts = order, dict[str, list[int]]()
        self.due: int | None = None  # the thread that dies at its next event
        self.guard = threading.RLock()
        self.busy = threading.local()
        self.log = os.open(order.flushed, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.set_inheritable(self.log, False)
        plain = os.fsync

        def fsync(descriptor: Any) -> None:
            plain(descriptor)
            at = os.fstat(descriptor if isinstance(descriptor, int) else descriptor.fileno())
            os.write(self.log, json.dumps([at.st_ino, at.st_size]).encode() + b"\n")

        os.fsync = fsync  # type: ignore[assignment]
        if order.crash is not None or order.count is not None:
            sys.addaudithook(self.heard)

    def heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.due is not None and self.due == threading.get_ident():
            self.die()
        if event == "open":
            if not _writes(arguments):
                return
            moment = BEFORE
        elif event == "os.rename":
            moment = WRITTEN
        else:
            return
        if getattr(self.busy, "now", False):
            return
        self.busy.now = True
        try:
            name = name_of(_caller())
            if name is not None:
                self.note(name, moment)
        finally:
            self.busy.now = False

    def note(self, name: str, moment: str) -> None:
        with self.guard:
            for at in (moment, AFTER):
                counted = self.counts.setdefault(name, [0, 0, 0])
                counted[MOMENTS.index(at)] += 1
                crash = self.order.crash
                if crash is None or (crash.write, crash.moment, crash.nth) != (name, at, counted[MOMENTS.index(at)]):
                    continue
                if at == AFTER:
                    self.due = threading.get_ident()
                else:
                    self.die()

    def die(self) -> None:
        self.due = None  # os.kill is an event, too
        os.kill(os.getpid(), signal.SIGKILL)

    def keep(self) -> None:
        if self.order.count is not None:
            self.order.count.write_text(json.dumps(self.counts), encoding="utf-8")


def _writes(arguments: tuple[Any, ...]) -> bool:
    _, mode, flags = arguments
    if isinstance(mode, str):
        return bool(set(mode) & set("wax+"))
    return isinstance(flags, int) and bool(flags & _WRITING)


def _caller() -> FrameType | None:
    return sys._getframe(2)

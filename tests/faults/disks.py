"""A disk that is full at any write of a command (the export, the staging, the target, reports, log), or turns read-only."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.faults.bench import HELD, MISSED, Bench, Fault
from tests.faults.crashes import begin, finish
from tests.faults.rounds import TO_22, TRIES, Round, resumed
from tests.faults.scenario import Scenario
from tests.faults.scenarios import SCENARIOS

PAGE = 4096  # of a tmpfs
DISKS = 4  # full ones in a round: five rounds, as many as two hundred have, come to every pair below
# Which folder is on a small disk while which command is at work. The audit log and run.log are below `reports`.
FULL = [
    (scenario, place)
    for scenario, places in {
        "begin": ("kept", "workspace", "target", "reports"),
        "catch-up": ("kept", "workspace", "target", "reports"),
        "decide": ("reports",),
        "sign": ("reports",),
        "cutover and closeout": ("workspace", "reports"),
        "rollback": ("workspace", "reports", "source"),
        "restore": ("restored",),
    }.items()
    for place in places
]


def disk_full(turn: Round) -> str:
    """The disk under one of the folders (a small tmpfs) is full at any write of a command; then there is room again."""
    for nth in range(DISKS):
        name, place = turn.turn(FULL, DISKS, nth)
        scenario = next(s for s in SCENARIOS if s.name == name)
        _filled(turn, scenario, scenario.bench(turn.shared), place)
    return HELD


def _filled(turn: Round, scenario: Scenario, bench: Bench, name: str) -> None:
    place = bench.home / name
    most: int = turn.shared.once(f"grows-{scenario.name}-{name}", lambda _: _growth(bench, scenario, place))
    for attempt in range(TRIES):
        begin(bench, scenario)
        command = scenario.command(bench)
        with small_disk(place) as disk:
            # Any page of what an undisturbed command fills; less with each try that no write met. From the beginning, or
            # (what checks of free space do not foresee) from the moment at which the command has written so much.
            room = turn.chance.randrange(max(1, most // PAGE // 2**attempt)) * PAGE
            sudden = turn.chance.random() < 0.6
            with full_after(disk, room) if sudden else nullcontext():
                if not sudden:
                    disk.leave(room)
                done = bench.run(*command, pages=scenario.pages, clock=scenario.clock, does=scenario.does)
            when = "suddenly" if sudden else "from the beginning"
            turn.say(
                f"{scenario.name}, {name}: {room // 1024} of {most // 1024} kB, {when}: exit {done.code}: {done.line}"
            )
            disk.leave(ENOUGH)
            if done.code not in scenario.codes:
                finish(bench, scenario)
                scenario.check(bench)
                return
        if scenario.over(done):
            return
    raise Fault(MISSED, f"{scenario.name} met no full disk under {name}")


def read_only(turn: Round) -> str:
    """The file system of one of the folders turns read-only while a command is at work, as after an error of its disk."""
    bench, state = turn.shared.bench(), turn.chance.choice(["ready", "snapshot"])
    name = turn.turn(["reports", "workspace", "kept", "target", "source"])
    for attempt in range(TRIES):
        bench.at(state)
        with small_disk(bench.home / name) as disk:
            last = attempt == TRIES - 1 and disk.turned("ro")  # from the beginning: no moment is missed
            child = bench.start(*TO_22)
            time.sleep(0 if last else turn.moment(attempt))
            while not disk.turned("ro") and not child.ended:  # while a file is open to be written it cannot turn
                time.sleep(0.005)
            done = bench.ended(child)
            turn.say(f"{name} is read-only: exit {done.code}: {done.line}")
            if not disk.turned("rw"):
                raise Fault(MISSED, f"{name} stays read-only")
            if done.code or name == "source":
                outcome = resumed(bench)
                bench.compare()
                return outcome
    raise Fault(MISSED, f"the command wrote nothing to {name} while it was read-only")


def _growth(bench: Bench, scenario: Scenario, place: Path) -> int:
    """Bytes that an undisturbed command needs at most on the disk of this folder, beyond what is there."""
    begin(bench, scenario)
    command = scenario.command(bench)
    seen: list[int] = []
    with small_disk(place) as disk:
        before = disk.used
        with looking(lambda: seen.append(disk.used - before)):
            bench.run(*command, pages=scenario.pages, clock=scenario.clock, does=scenario.does)
    if max(seen) < PAGE:
        raise Fault(MISSED, f"{scenario.name} writes nothing under {place.name}")
    return max(seen)


@contextmanager
def looking(look: Callable[[], object]) -> Iterator[None]:
    """Calls `look` again and again, and once at the end."""
    over = threading.Event()

    def work() -> None:
        while not over.wait(0.005):
            look()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        look()


@contextmanager
def full_after(disk: Disk, room: int) -> Iterator[None]:
    """The disk is full as soon as so many bytes more are on it."""
    before, full = disk.used, list[bool]()

    def look() -> None:
        if not full and disk.used - before >= room:
            with suppress(subprocess.CalledProcessError):  # more was written meanwhile: at the next look
                disk.leave(0)
                full.append(True)

    with looking(look):
        yield


ENOUGH = 200 * 2**20


@dataclass(frozen=True)
class Disk:
    place: Path

    @property
    def used(self) -> int:
        found = os.statvfs(self.place)
        return (found.f_blocks - found.f_bfree) * found.f_frsize

    def leave(self, room: int) -> None:
        """Make it so large that this many bytes are free."""
        size = max(self.used + room, PAGE)
        subprocess.run(["mount", "-o", f"remount,size={size}", str(self.place)], check=True, capture_output=True)

    def turned(self, how: str) -> bool:
        """ "ro" or "rw" from now on; whether that could be done."""
        done = subprocess.run(["mount", "-o", f"remount,{how}", str(self.place)], check=False, capture_output=True)
        return done.returncode == 0


@contextmanager
def small_disk(place: Path) -> Iterator[Disk]:
    """A tmpfs at `place` with what is there, which stays there afterwards. A `Fault` where this user may not mount."""
    kept = place.with_name(f"{place.name}.kept")
    made = not place.exists()
    place.mkdir(exist_ok=True)
    shutil.copytree(place, kept, symlinks=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={ENOUGH}", "none", str(place)]
    try:
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            raise Fault(MISSED, "this user may not mount a small disk")
        try:
            shutil.copytree(kept, place, symlinks=True, dirs_exist_ok=True)
            yield Disk(place)
        finally:
            subprocess.run(["umount", "-l", str(place)], check=True)
    finally:
        shutil.rmtree(kept)
        if made:
            with suppress(OSError):
                place.rmdir()

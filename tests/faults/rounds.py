"""What every kind of fault shares: a round with its chance, a command that must end well once the fault is over."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from tests.faults.bench import HELD, MISSED, STUCK, Bench, Ended, Fault
from tests.faults.command import Child
from tests.faults.shared import Shared

OVER = "has passed every step up to"  # the command had ended its work when it was killed
TO_22 = ("resume", "one", "--until", "22")
AGAIN_22 = ("run", "--run-id", "one", "--from", "22", "--until", "22")
TRIES = 4  # of a fault that depends on a moment or a limit, until the round counts as one that did not reach it
T = TypeVar("T")


@dataclass
class Round:
    """One round: its number, how many of its kind came before, the chance that decides the rest, what all rounds share."""

    number: int
    before: int
    chance: random.Random
    shared: Shared
    said: list[str] = field(default_factory=list)

    def say(self, text: str) -> None:
        self.said.append(text)

    def moment(self, attempt: int = 0) -> float:
        """Seconds after which a command is likely to be at work; less with each attempt that came too late."""
        return self.chance.random() * Bench.pace / 2.0**attempt

    def turn(self, faults: Sequence[T], each: int = 1, nth: int = 0) -> T:
        """The next of these faults: `each` of them a round, one after another, in an order of the seed's."""
        order = list(faults)
        random.Random(f"{self.shared.seed}-{len(order)}").shuffle(order)
        return order[(self.before * each + nth) % len(order)]


def resumed(bench: Bench, *command: str, codes: tuple[int, ...] = (0,)) -> str:
    """The fault is over: the command must end well."""
    done = bench.run(*(command or TO_22))
    if done.code in codes or OVER in done.line:
        return HELD
    raise Fault(STUCK, f"runbook {' '.join(command or TO_22)}: exit {done.code}: {done.line}")


def at_22(bench: Bench) -> str:
    """The run ends with step 22 for the source as it is now, and the target holds that."""
    outcome = resumed(bench)
    done = bench.run(*AGAIN_22)  # where the kill came before the first word, the resume had nothing to do
    if done.code != 0:
        raise Fault(STUCK, f"step 22 once more: exit {done.code}: {done.line}")
    bench.compare()
    return outcome


def ours(bench: Bench) -> list[Path]:
    """The folders whose files the toolkit writes; Chroma's own are Chroma's to flush."""
    return [f for f in (bench.home / "reports", bench.home / "workspace", bench.home / "kept") if f.is_dir()]


def while_at_work(child: Child, reached: Callable[[], bool], what: str, seconds: float = 120.0) -> None:
    """Wait until the command at work has come so far; a `Fault` where it ends before."""
    deadline = time.monotonic() + seconds
    while not reached():
        if child.ended or time.monotonic() > deadline:
            raise Fault(MISSED, f"the command did not come to: {what}: {child.said[-300:]}")
        time.sleep(0.01)


def interrupted(
    turn: Round, start: Callable[[], T], over: Callable[[T], bool], strike: Callable[[T], object], part: float = 1.0
) -> T:
    """What `start` began, struck at a moment while it is at work; `start` begins from the same state each time.

    `part`: how long it is at work, as a part of a migration.
    """
    for attempt in range(TRIES):
        child = start()
        time.sleep(turn.moment(attempt) * part)
        if not over(child):
            strike(child)
            return child
    raise Fault(MISSED, "the command had ended each time before the fault came")


def until_it_bites(turn: Round, bench: Bench, state: str, order: Callable[[int], Ended], tries: int = TRIES) -> Ended:
    """The command under a limit that `order` tightens with each try, from the same state, until it fails by it."""
    for attempt in range(tries):
        if attempt:
            bench.at(state)
        done = order(attempt)
        turn.say(f"try {attempt + 1}: exit {done.code}: {done.line}")
        if done.code:
            return done
    raise Fault(MISSED, "the command met no limit")

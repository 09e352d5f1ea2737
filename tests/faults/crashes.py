"""kill -9 at every named write of the toolkit: which round kills where, and that it really does."""

from __future__ import annotations

import json
import random
import signal
from functools import cache
from pathlib import Path

from tests.faults.bench import HELD, MISSED, STUCK, Bench, Fault
from tests.faults.command import MOMENTS, Crash, lose_power
from tests.faults.rounds import OVER, Round, ours
from tests.faults.scenario import Scenario
from tests.faults.scenarios import SCENARIOS
from tests.faults.shared import Shared

KILLS = 5  # of a round


@cache
def schedule(seed: str) -> list[tuple[Scenario, tuple[str, ...]]]:
    """Every named write once, in rounds of one scenario with at most `KILLS` writes each.

    A write belongs to the scenario with the fewest writes so far among those that come to it; a scenario that got none has
    one of its own all the same.
    """
    given: dict[str, list[str]] = {s.name: [] for s in SCENARIOS}
    by_rarity = sorted(
        {w for s in SCENARIOS for w in s.writes}, key=lambda w: (sum(w in s.writes for s in SCENARIOS), w)
    )
    for write in by_rarity:
        least = min((s for s in SCENARIOS if write in s.writes), key=lambda s: len(given[s.name]))
        given[least.name].append(write)
    rounds = []
    for scenario in SCENARIOS:
        writes = given[scenario.name] or sorted(scenario.writes)[:1]
        rounds += [(scenario, tuple(writes[at : at + KILLS])) for at in range(0, len(writes), KILLS)]
    random.Random(seed).shuffle(rounds)
    return rounds


def crash_point(turn: Round) -> str:
    """kill -9 at named writes of a scenario, one after another, each with a loss of what was never flushed."""
    rounds = schedule(turn.shared.seed)
    return strike(turn, *rounds[turn.before % len(rounds)])


def strike(turn: Round, scenario: Scenario, writes: tuple[str, ...]) -> str:
    """The scenario, killed at these writes one after another, and ended."""
    bench = scenario.bench(turn.shared)
    counts = _counted(turn.shared, bench, scenario)
    begin(bench, scenario)
    command = scenario.command(bench)
    for write in sorted(writes, key=list(counts).index):  # as they come in an undisturbed execution
        moments = [(moment, count) for moment, count in zip(MOMENTS, counts[write], strict=True) if count]
        moment, most = turn.chance.choice(moments)
        for nth in (turn.chance.randint(1, most), 1, 1):
            if _killed(turn, bench, scenario, command, Crash(write, moment, nth)):
                command = scenario.again(bench)
                break
            begin(bench, scenario)  # what was done before an earlier kill is not done again
            command = scenario.command(bench)
        else:
            raise Fault(MISSED, f"{scenario.name} was not killed at {write}, {moment}")
    outcome = finish(bench, scenario)
    scenario.check(bench)
    return outcome


def begin(bench: Bench, scenario: Scenario) -> None:
    bench.at(scenario.state)
    scenario.prepare(bench)


def _killed(turn: Round, bench: Bench, scenario: Scenario, command: tuple[str, ...], crash: Crash) -> bool:
    child = bench.start(*command, crash=crash, pages=scenario.pages, clock=scenario.clock, does=scenario.does)
    done = bench.ended(child)
    if done.code == -signal.SIGKILL:
        turn.say(f"{scenario.name}: killed at {crash.write}, {crash.moment}, time {crash.nth}")
        for taken in lose_power(child, turn.chance, ours(bench)):
            turn.say(f"power lost: {taken}")
        return True
    if done.code not in scenario.codes and OVER not in done.line and not scenario.over(done):
        raise Fault(STUCK, f"{scenario.name}: exit {done.code}: {done.line}")
    return False


def _counted(shared: Shared, bench: Bench, scenario: Scenario) -> dict[str, list[int]]:
    """How often an undisturbed execution comes to each moment of each named write; all that are promised are there."""

    def count(folder: Path) -> dict[str, list[int]]:
        begin(bench, scenario)
        file = folder / "counts.json"
        file.unlink(missing_ok=True)
        done = bench.run(
            *scenario.command(bench), count=file, pages=scenario.pages, clock=scenario.clock, does=scenario.does
        )
        if done.code not in scenario.codes:
            raise Fault(STUCK, f"{scenario.name}, undisturbed: exit {done.code}: {done.line or done.said[-500:]}")
        scenario.check(bench)
        found: dict[str, list[int]] = json.loads(file.read_text())
        if missing := sorted(set(scenario.writes) - found.keys()):
            raise Fault(MISSED, f"{scenario.name} does not come to {missing}")
        return found

    counted: dict[str, list[int]] = shared.once(f"counts-{scenario.name}", count)
    return counted


def finish(bench: Bench, scenario: Scenario) -> str:
    for _ in range(3):
        done = bench.run(*scenario.again(bench), clock=scenario.clock, does=scenario.does)
        if done.code in scenario.codes or scenario.over(done) or OVER in done.line:
            return HELD
    raise Fault(STUCK, f"{scenario.name}: {' '.join(scenario.again(bench))}: exit {done.code}: {done.line}")

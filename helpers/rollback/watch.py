"""After the way back: does the source answer, is what it says right, and is the application well? Measured, not assumed."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.cutover.application import ask
from helpers.errors import RunbookError, one_line
from helpers.parameters import Parameters
from helpers.progress import Progress
from helpers.results import utc_now
from helpers.snapshot import Snapshot
from helpers.stores import Reader, open_source

PROBES = 3  # stored vectors asked for in each collection, in each round
MOST_SECONDS = 60.0  # between two rounds


@dataclass(frozen=True, slots=True)
class Round:
    """One look: queries asked and answered, the slowest (ms), and what was wrong ("" where nothing)."""

    when: str
    queries: int
    answered: int
    slowest_ms: float
    problem: str = ""


def probes_of(snapshot: Snapshot) -> dict[str, Any]:
    """A few stored vectors by collection, the first of its snapshot, as (n, d) float32."""
    found = {}
    for info in snapshot.collections():
        parts = snapshot.parts(info.name)
        if parts:
            batch = snapshot.read(parts[0])
            vectors = batch.embeddings[~batch.lost][:PROBES]
            if len(vectors):
                found[info.name] = vectors
    return found


def look(parameters: Parameters, probes: dict[str, Any], health: list[str], scratch: Path) -> Round:
    """One round; it never raises for what it finds. A source that is a directory is copied and the copy asked."""
    when, problems = utc_now(), []
    problems = [f"{a.url} {a.problem}" for a in map(ask, health) if not a.well]
    asked = answered = 0
    slowest = 0.0
    try:
        with open_source(
            parameters.source,
            scratch,
            parameters.collections.selects,
            normalised=parameters.migration.normalised == "migrate",
        ) as store:
            for name, vectors in probes.items():
                asked += len(vectors)
                begun = time.monotonic()
                answered += _answered(store, name, vectors)
                slowest = max(slowest, 1000 * (time.monotonic() - begun) / len(vectors))
    except RunbookError as error:
        problems.append(error.line())
    if asked > answered and not problems:
        problems.append(f"{asked - answered} of {asked} queries found nothing")
    return Round(when, asked, answered, round(slowest, 1), one_line("; ".join(problems)))


def _answered(store: Reader, name: str, vectors: Any) -> int:
    return sum(bool(hits) for hits in store.query(name, vectors, 1))


def watch(
    parameters: Parameters, probes: dict[str, Any], health: list[str], scratch: Path, seconds: float, bar: Progress
) -> list[Round]:
    """Look at once, at the end, and in between every `monitoring.interval_seconds` (60 at most)."""
    begun, rounds = time.monotonic(), []
    pause = min(MOST_SECONDS, parameters.monitoring.interval_seconds, max(seconds / 2, 0.1))
    shown = 0
    while True:
        rounds.append(look(parameters, probes, health, scratch))
        until = min(begun + seconds, time.monotonic() + pause)
        while True:
            passed = min(int(time.monotonic() - begun), int(seconds))
            bar.advance(passed - shown)  # where a run that was asked to stop stops
            shown = passed
            left = until - time.monotonic()
            if left <= 0:
                break
            time.sleep(min(left, 0.5))
        if time.monotonic() >= begun + seconds:
            if seconds:
                rounds.append(look(parameters, probes, health, scratch))
            return rounds

"""The watch after the switch: health, queries of stored vectors at the target, and new lines in the application's logs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from helpers.cutover.application import Answer, ask_all
from helpers.cutover.evidence import Evidence, gather
from helpers.cutover.logs import LogWatch
from helpers.errors import RunbookError
from helpers.fence import who_has_open
from helpers.parameters import Endpoint, Parameters, resolve_path
from helpers.results import utc_now
from helpers.stores import Store, open_target

PER_COLLECTION = 5  # stored vectors that are searched for, in each collection
LONGEST_PAUSE = 10.0  # seconds between two rounds
ENOUGH = 2  # rounds in a row that must fail before it counts: one request can be lost on the way


@dataclass(slots=True)
class Round:
    """One look at everything. `problems` are sentences; `milliseconds` is the mean of its queries, None where none ran."""

    when: str
    second: float
    healthy: int
    queries: int
    milliseconds: float | None
    log_lines: int
    problems: list[str] = field(default_factory=list)
    fatal: bool = False

    def row(self) -> dict[str, Any]:
        return {
            "second": round(self.second, 1), "healthy": self.healthy, "queries": self.queries,
            "mean ms": None if self.milliseconds is None else round(self.milliseconds, 1),
            "new log lines": self.log_lines, "problems": "; ".join(self.problems),
        }  # fmt: skip


class Queries:
    """The same stored vectors searched for again and again, in every collection that the run filled.

    A target that is a directory is opened for each round only, and not at all once another process has it open: two
    processes on one directory destroy it (chroma-facts 15).
    """

    def __init__(self, target: Endpoint, collections: Sequence[str]) -> None:
        self.target, self.collections = target, list(collections)
        self.skipped = ""
        self._vectors: dict[str, npt.NDArray[np.float32]] = {}
        self._stack = ExitStack()
        self._store: Store | None = None

    def look(self) -> tuple[int, float | None, list[str]]:
        """(queries, mean milliseconds, problems) of one round."""
        if self.target.path is not None:
            holders = who_has_open(resolve_path(self.target.path))
            if holders.processes:
                self.skipped = f"{holders.sentence()} has the target open, which must stay its only user"
                return 0, None, []
        try:
            if self.target.path is not None:
                with open_target(self.target) as store:
                    return self._ask(store)
            if self._store is None:
                self._store = self._stack.enter_context(open_target(self.target))
            return self._ask(self._store)
        except RunbookError as error:
            self.close()
            return 0, None, [f"target: {error.what}"]

    def _ask(self, store: Store) -> tuple[int, float | None, list[str]]:
        seconds, problems = [], []
        for name in self.collections:
            if name not in self._vectors:
                self._vectors[name] = _stored(store, name)
            for vector in self._vectors[name]:
                begun = time.monotonic()
                hits = store.query(name, vector[None, :], 1)[0]
                seconds.append(time.monotonic() - begun)
                if not hits or not np.isfinite(hits[0][1]):
                    problems.append(f"target: a query of {name} found nothing")
        return len(seconds), 1000 * float(np.mean(seconds)) if seconds else None, problems[:3]

    def close(self) -> None:
        self._stack.close()
        self._store = None


def _stored(store: Store, name: str) -> npt.NDArray[np.float32]:
    """Some stored vectors of a collection, the same ones each time: spread over its sorted ids."""
    ids = sorted(store.ids(name))
    chosen = ids[:: max(1, len(ids) // PER_COLLECTION)][:PER_COLLECTION]
    return store.read(name, chosen).embeddings if chosen else np.zeros((0, 1), np.float32)


class Watch:
    """Rounds until the time is over, or until something failed for good."""

    def __init__(self, parameters: Parameters, collections: Sequence[str], logs: LogWatch) -> None:
        self.parameters, self.rules, self.logs = parameters, parameters.cutover, logs
        self.queries = Queries(parameters.target, collections)
        self.evidence = Evidence()
        self.rounds: list[Round] = []

    @property
    def failure(self) -> str:
        """Why the cutover must be taken back; "" while it need not."""
        return "; ".join(self.rounds[-1].problems) if self.rounds and self.rounds[-1].fatal else ""

    def run(self, minutes: float) -> Iterator[Round]:
        """Look, at least once, until so many minutes have gone by or something failed."""
        begun = time.monotonic()
        end = begun + 60 * minutes
        pause = min(LONGEST_PAUSE, max(0.5, 60 * minutes / 30))
        try:
            while True:
                last = time.monotonic() >= end
                yield self._look(time.monotonic() - begun, last=last)
                if self.failure or last:
                    return
                time.sleep(max(0.0, min(pause, end - time.monotonic())))
        finally:
            self.queries.close()
            self.logs.close()

    def _look(self, second: float, *, last: bool) -> Round:
        answers: list[Answer] = ask_all(self.rules.health)
        count, mean, problems = self.queries.look()
        gather(self.evidence, self.parameters.source, self.parameters.target, answers)
        before = self.logs.seen
        matches = self.logs.look(last=last)
        problems += [f"{a.url} {a.problem}" for a in answers if not a.well]
        shaky = bool(problems)
        problems += [f"{path}: {line}" for path, line in matches[:3]]
        found = Round(utc_now(), second, sum(a.well for a in answers), count, mean, self.logs.seen - before, problems)
        earlier = [r.problems for r in self.rounds[-(ENOUGH - 1) :]]
        # a line in the log stays; a request that failed once is asked again
        found.fatal = bool(matches) or (shaky and (last or (all(earlier) and len(earlier) == ENOUGH - 1)))
        self.rounds.append(found)
        return found

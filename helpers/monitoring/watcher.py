"""A figure that is drawn again in its place while a person watches; the runner, which nobody watches, gets the last one."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from helpers import plots
from helpers.cutover.application import LogWatch, ask_all, positions
from helpers.errors import RunbookError, one_line
from helpers.fence import who_has_open
from helpers.monitoring.probes import Asker, Probe, finds, timed, warm
from helpers.parameters import Parameters, resolve_path
from helpers.reason_codes import ReasonCode
from helpers.results import utc_now
from helpers.run import kernel
from helpers.run.folders import RunPath
from helpers.stores import Space, Store, open_target

# -- looks -------------------------------------------------------------------------------------------------------------

# One look at a target in use, the journal of all looks, and the rules by which a watch ends early.
#
# The journal is workspace/<run id>/monitoring/<when begun>.jsonl: its first line says when the watch began, each further
# one is a look, flushed to disk, and the last one says how it ended. What a killed process leaves is gone on with.


ERRORS_IN_A_ROW, SLOW_IN_A_ROW = 2, 3
RECOUNTS, RECOUNT_PAUSE = (
    3,
    0.4,
)  # times and seconds; of a collection that holds less than it did: an update may delete and add again
_NAMED = 5  # problems of one sample that are named


@dataclass(slots=True)
class Look:
    """What one look found. Latencies are milliseconds, None where no query was answered; `second` counts watched time.

    `problems` are queries and counts that failed, `ill` health URLs and new lines in the application's logs, `shrunk`
    collections below what was validated.
    """

    when: str
    second: float
    queries: int = 0
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    counts: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    ill: list[str] = field(default_factory=list)
    shrunk: list[str] = field(default_factory=list)
    moved: int = 0

    def row(self) -> dict[str, Any]:
        def shown(value: float | None) -> float | None:
            return None if value is None else round(value, 1)

        return {
            "when": self.when[11:19], "second": round(self.second, 1), "queries": self.queries, "p50 ms": shown(self.p50),
            "p95 ms": shown(self.p95), "p99 ms": shown(self.p99), "chunks": sum(self.counts.values()),
            "problems": "; ".join([*self.problems, *self.ill, *self.shrunk]),
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Breach:
    """Why a watch ends before its time: a reason code and a sentence."""

    code: ReasonCode
    sentence: str


def breach(looks: Sequence[Look], limit_ms: float) -> Breach | None:
    """The rules. A count that stays below what was validated ends the watch at once; errors and health in two looks in a
    row, a p95 above the limit in three: one request can be lost on the way, and one query can be slow."""
    if not looks:
        return None
    last = looks[-1]
    if last.shrunk:
        return Breach(ReasonCode.COUNT_SHRINKS, "; ".join(last.shrunk[:3]))
    recent = looks[-ERRORS_IN_A_ROW:]
    if len(recent) == ERRORS_IN_A_ROW and all(look.problems for look in recent):
        return Breach(ReasonCode.TARGET_ERRORS, f"errors in {ERRORS_IN_A_ROW} samples in a row: {last.problems[0]}")
    if len(recent) == ERRORS_IN_A_ROW and all(look.ill for look in recent):
        return Breach(ReasonCode.NOT_HEALTHY, f"in {ERRORS_IN_A_ROW} samples in a row: {last.ill[0]}")
    slow = [look.p95 for look in looks[-SLOW_IN_A_ROW:] if look.p95 is not None and look.p95 > limit_ms]
    if len(slow) == SLOW_IN_A_ROW:
        shown = ", ".join(f"{value:,.0f}" for value in slow)
        return Breach(
            ReasonCode.SLOW_QUERIES, f"p95 above {limit_ms:g} ms in {SLOW_IN_A_ROW} samples in a row: {shown} ms"
        )
    return None


class Watcher:
    """The same stored vectors searched for again and again, and every collection counted.

    A target that is a directory is opened for each look only, and not at all once another process has it open: two
    processes on one directory destroy it. `counts` are the validated ones by collection.
    """

    def __init__(self, parameters: Parameters, probes: Sequence[Probe], counts: Mapping[str, int]) -> None:
        rules = parameters.cutover
        self.target, self.probes, self.counts = parameters.target, list(probes), dict(counts)
        self.health = list(rules.health)
        self.logs = LogWatch(positions(rules.log_files), rules.log_pattern)  # lines from now on
        self.skipped = ""
        self.blind: set[str] = set()  # chunks that were not found from the beginning: timed, not judged
        self._moved: set[tuple[str, str]] = set()
        self._seen = False
        self._spaces: dict[str, Space] = {}
        self._stack = ExitStack()
        self._store: Store | None = None
        self._asks: dict[str, Asker] = {}

    def look(self, second: float) -> Look:
        found = Look(utc_now(), second)
        found.ill = [f"{a.url} {a.problem}" for a in ask_all(self.health) if not a.well]
        found.ill += [one_line(f"{path}: {line}", 300) for path, line in self.logs.look()[:_NAMED]]
        if self.target.path is not None:
            holders = who_has_open(resolve_path(self.target.path))
            if holders.processes:
                self.skipped = f"{holders.sentence()} has the target open, which must stay its only user"
                return found
        try:
            if self.target.path is not None:
                with open_target(self.target) as store:
                    self._ask(store, found)
                self._asks.clear()
            else:
                if self._store is None:
                    self._store = self._stack.enter_context(open_target(self.target))
                self._ask(self._store, found)
        except RunbookError as error:
            self._let_go()
            found.problems.append(one_line(f"{error.where}: {error.what}" if error.where else error.what, 300))
        del found.problems[_NAMED:]
        return found

    def close(self) -> None:
        self._let_go()
        self.logs.close()

    def _let_go(self) -> None:
        self._stack.close()
        self._store = None
        self._asks.clear()

    def _ask(self, store: Store, found: Look) -> None:
        times: list[float] = []
        missed: list[Probe] = []
        self._asks = self._asks or warm(
            store, self.probes
        )  # a directory was opened for this sample: not part of a latency
        try:
            for probe in self.probes:
                name = probe.collection
                hits, milliseconds = timed(self._asks[name], probe.vector)
                times.append(milliseconds)
                if name not in self._spaces:
                    self._spaces[name] = store.info(name).space
                if not finds(probe, hits, self._spaces[name]):
                    missed.append(probe)
        finally:
            found.queries = len(times)
            if times:
                found.p50, found.p95, found.p99 = (float(v) for v in np.percentile(times, [50, 95, 99]))
        self._judge(store, missed, found)
        self._count(store, found)

    def _judge(self, store: Store, missed: list[Probe], found: Look) -> None:
        """What is not found any more: a chunk that a client changed or took away is no fault."""
        for probe in missed:
            key = (probe.collection, probe.id)
            if key in self._moved:
                continue
            there = store.read(probe.collection, [probe.id])
            if not len(there) or not np.allclose(there.embeddings[0], probe.vector, rtol=1e-4, atol=1e-6):
                self._moved.add(key)
            elif not self._seen:
                self.blind.add(" ".join(key))
            elif " ".join(key) not in self.blind:
                found.problems.append(f"collection {probe.collection}: chunk {probe.id} is there and no longer found")
        self._seen = True
        found.moved = len(self._moved)
        for name in sorted({p.collection for p in missed}):
            whole = [p for p in self.probes if p.collection == name]
            lost = [p for p in missed if p.collection == name and (p.collection, p.id) not in self._moved]
            if len(lost) == len(whole):
                found.problems.append(
                    f"collection {name}: none of {len(whole)} stored chunks is found by its own vector"
                )

    def _count(self, store: Store, found: Look) -> None:
        for name, validated in self.counts.items():
            found.counts[name] = store.count(name)
            for _ in range(RECOUNTS):
                if found.counts[name] >= validated:
                    break
                time.sleep(RECOUNT_PAUSE)
                found.counts[name] = store.count(name)
            if found.counts[name] < validated:
                found.shrunk.append(f"{name} holds {found.counts[name]:,} chunks, {validated:,} were validated")


class Journal:
    """The looks of one watch on disk."""

    def __init__(self, workspace: Path) -> None:
        self.folder = workspace / RunPath.MONITORING
        self.looks: list[Look] = []
        self.path = self.folder / "none"
        self.resumed = False
        newest = max(self.folder.glob("*.jsonl"), default=None)
        if newest is not None and (looks := _unfinished(newest)) is not None:
            self.path, self.looks, self.resumed = newest, looks, bool(looks)
        else:
            self.path = self.folder / f"{utc_now().replace(':', '').removesuffix('+0000')}.jsonl"
            self._write({"begun": utc_now()})

    def add(self, look: Look) -> None:
        self.looks.append(look)
        self._write(asdict(look))

    def end(self, how: str) -> None:
        """The watch is over: `done`, or the code of its breach. The next one begins anew."""
        self._write({"ended": how})

    def gaps(self, interval: float) -> list[tuple[float, float]]:
        """(second of the watch, seconds that nobody watched) where looks lie further apart than they should."""
        found = []
        for before, after in zip(self.looks, self.looks[1:], strict=False):
            apart = (datetime.fromisoformat(after.when) - datetime.fromisoformat(before.when)).total_seconds()
            unseen = apart - (after.second - before.second)
            if unseen > max(2 * interval, 5.0):
                found.append((after.second, unseen))
        return found

    def _write(self, line: dict[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        torn = self.path.exists() and not self.path.read_bytes().endswith(b"\n")
        with self.path.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(("\n" if torn else "") + json.dumps(line, ensure_ascii=True) + "\n")
            file.flush()
            os.fsync(file.fileno())


def _unfinished(path: Path) -> list[Look] | None:
    """The looks of a journal that has no end yet; None where it is over. A torn line is left out."""
    looks = []
    for raw in _lines(path):
        if "ended" in raw:
            return None
        if "second" in raw:
            looks.append(Look(**raw))
    return looks


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            raw = json.loads(line)
        except ValueError:
            continue
        if isinstance(raw, dict):
            yield raw


# -- watcher -----------------------------------------------------------------------------------------------------------


MOST_OFTEN = 2.0  # seconds


class LiveFigure:
    """`show` draws at most every two seconds, in a kernel that no runner started."""

    def __init__(self) -> None:
        self._handle: Any = None
        self._shown = float("-inf")

    def show(self, draw: Callable[[], Figure]) -> None:
        shell = kernel.shell()
        now = time.monotonic()
        if shell is None or not hasattr(shell, "kernel") or kernel.under_runner() or now - self._shown < MOST_OFTEN:
            return
        from IPython.display import Image, display

        self._shown = now
        image = Image(data=plots.png(draw()), format="png")  # type: ignore[no-untyped-call]
        if self._handle is None:
            self._handle = display(image, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(image)

"""Samples of a database in use, at an interval: health, logs, stored vectors searched for, chunks counted; and when a watch ends.

Steps 25 and 50 watch the target, step 27 the source. What differs is handed in: how the store is opened, which vectors are
searched for, which counts it is held to, which health URLs and logs belong to it.

The journal of step 50 is workspace/<run id>/monitoring/<when begun>.jsonl: its first line says when the watch began, each further
one is a sample, flushed to disk, and the last one says how it ended. A journal without an end is continued.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from helpers import plots
from helpers.cutover.application import HealthAnswer, LogWatch, check_all_health
from helpers.errors import RunbookError, one_line
from helpers.formatting import count
from helpers.monitoring.measure import QueryProbe, Search, finds, timed, warm
from helpers.parameters import Endpoint, resolve_path
from helpers.reason_codes import ReasonCode
from helpers.results import append, as_kind, contents, json_in, utc_now
from helpers.run import kernel
from helpers.run.command import used_by
from helpers.run.folders import RunPath
from helpers.run.record import RunProgress
from helpers.stores import Reader, Space, open_target

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ERRORS_IN_A_ROW, SLOW_IN_A_ROW = 2, 3
RECOUNTS, RECOUNT_PAUSE = 3, 0.4  # times and seconds; collections that hold less: an update may delete and add again
_NAMED = 5  # problems of one sample that are named
_TICK = 0.25  # seconds between two looks at whether the run was asked to stop
_REDRAWN = 2.0  # seconds between two drawings of a live figure


@dataclass(slots=True)
class WatchSample:
    """The measurements of one moment. Latencies are milliseconds, None if no query was answered; `second` counts watched time.

    Sentences: `problems` of queries and counts, `ill` of health URLs and new log lines, `shrunk` of collections that lost more
    chunks than clients may delete, `fewer` of those that lost less. `moved`: chunks that clients changed or removed since they
    were chosen. `cold`: the time to open the database and to query each collection once; None if it was open and warm already.
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
    fewer: list[str] = field(default_factory=list)
    moved: int = 0
    mean: float | None = None
    slowest: float | None = None
    healthy: int = 0
    log_lines: int = 0
    cold: float | None = None

    @property
    def trouble(self) -> list[str]:
        return [*self.problems, *self.ill, *self.shrunk]

    def row(self) -> dict[str, Any]:
        latencies = {
            "mean ms": self.mean,
            "p50 ms": self.p50,
            "p95 ms": self.p95,
            "p99 ms": self.p99,
            "slowest ms": self.slowest,
            "cold start ms": self.cold,
        }
        return {
            "when": self.when[11:19], "second": round(self.second, 1), "healthy": self.healthy, "queries": self.queries,
            **{name: None if value is None else round(value, 1) for name, value in latencies.items()},
            "chunks": sum(self.counts.values()), "new log lines": self.log_lines, "problems": "; ".join(self.trouble),
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Breach:
    """Why a watch ends early: a reason code and a sentence."""

    code: ReasonCode
    sentence: str


def breach(samples: Sequence[WatchSample], limit_ms: float) -> Breach | None:
    """The rule that the newest samples break; None if none. A collection that lost too much ends the watch at once; errors and
    ill health do in two samples in a row, a p95 above `limit_ms` in three: one request can be lost, and one query be slow."""
    if not samples:
        return None
    last = samples[-1]
    if last.shrunk:
        return Breach(ReasonCode.COUNT_SHRINKS, "; ".join(last.shrunk[:3]))
    recent = samples[-ERRORS_IN_A_ROW:]
    if len(recent) == ERRORS_IN_A_ROW and all(sample.problems for sample in recent):
        return Breach(ReasonCode.TARGET_ERRORS, f"errors in {ERRORS_IN_A_ROW} samples in a row: {last.problems[0]}")
    if len(recent) == ERRORS_IN_A_ROW and all(sample.ill for sample in recent):
        return Breach(ReasonCode.NOT_HEALTHY, f"in {ERRORS_IN_A_ROW} samples in a row: {last.ill[0]}")
    slow = [sample.p95 for sample in samples[-SLOW_IN_A_ROW:] if sample.p95 is not None and sample.p95 > limit_ms]
    if len(slow) == SLOW_IN_A_ROW:
        shown = ", ".join(f"{value:,.0f}" for value in slow)
        return Breach(
            ReasonCode.SLOW_QUERIES, f"p95 above {limit_ms:g} ms in {SLOW_IN_A_ROW} samples in a row: {shown} ms"
        )
    return None


class Watcher:
    """Searches for the same stored vectors again and again, and counts each collection of `counts` (its validated chunks).

    Clients may delete `shrink_limit` of them, a share of each count. `open_store` gives the store of `place`. It stays open, so
    that latencies are warm; a directory is opened anew if its files were changed since the last sample. With `alone`, a directory
    that another process has open is closed and not queried: two processes on one directory destroy it (chroma-facts 15).
    """

    def __init__(
        self, open_store: Callable[[], AbstractContextManager[Reader]], probes: Sequence[QueryProbe], place: Endpoint, *,
        alone: bool = False, counts: Mapping[str, int] | None = None, shrink_limit: float = 0.0, health: Sequence[str] = (),
        logs: LogWatch | None = None,
    ) -> None:  # fmt: skip
        self.probes, self.counts, self.health = list(probes), dict(counts or {}), list(health)
        self.shrink_limit = shrink_limit
        self.logs = logs or LogWatch({}, "")
        self.answers: list[HealthAnswer] = []  # of the health URLs, in the last sample
        self.skipped = ""
        self.blind: set[str] = set()  # chunks that the first sample did not find: timed, not judged
        self._open_store, self._place, self._alone = open_store, place, alone
        self._files: set[tuple[str, int, int]] = set()  # of a directory, after the last sample
        self._moved: set[tuple[str, str]] = set()
        self._has_judged = False
        self._spaces: dict[str, Space] = {}
        self._stack = ExitStack()
        self._store: Reader | None = None
        self._searches: dict[str, Search] = {}

    @classmethod
    def of_target(cls, target: Endpoint, probes: Sequence[QueryProbe], **more: Any) -> Watcher:
        """The watcher of a target; no other process may have it open if it is a directory."""
        return cls(lambda: open_target(target), probes, target, alone=True, **more)

    def samples(
        self, seconds: float, interval: float, bar: RunProgress, watched: float | None = None
    ) -> Iterator[WatchSample]:
        """Give one sample at once, one every `interval` seconds, one at the end; repeat the last one once if it has a problem.

        `watched`: seconds that an earlier process watched; the first sample is then the next one due. `bar` counts seconds, and
        raises `Interrupted` if the run was asked to stop. The watch ends when the caller stops iterating.
        """
        begun = time.monotonic() - (watched or 0.0)
        due = 0.0 if watched is None else min(watched + interval, seconds)
        repeated = False
        try:
            while True:
                while (left := begun + due - time.monotonic()) > 0:
                    _advance(bar, time.monotonic() - begun)
                    time.sleep(min(_TICK, left))
                second = time.monotonic() - begun
                _advance(bar, second)
                sample = self.sample(second, last=second >= seconds)
                yield sample
                if second >= seconds and (repeated or not (sample.problems or sample.ill)):
                    return
                repeated = second >= seconds
                due = second + interval if repeated else min(next_due(due, second, interval), seconds)
        finally:
            self.close()

    def sample(self, second: float, *, last: bool = False) -> WatchSample:
        sample = WatchSample(utc_now(), second)
        self.answers, before = check_all_health(self.health), self.logs.line_count
        sample.healthy = sum(a.is_healthy for a in self.answers)
        sample.ill = [f"{a.url} {a.problem}" for a in self.answers if not a.is_healthy]
        sample.ill += [one_line(f"{path}: {line}", 300) for path, line in self.logs.new_matches(last=last)[:_NAMED]]
        sample.log_lines = self.logs.line_count - before
        if self._alone and (used := used_by(self._place)):
            self._close_store()
            self.skipped = f"{used} has the target open, which must stay its only user"
            return sample
        try:
            if self._files != self._directory_state():
                self._close_store()
            if self._store is None:
                begun = time.perf_counter()
                self._store = self._stack.enter_context(self._open_store())
                self._searches = warm(self._store, self.probes)
                sample.cold = 1000 * (time.perf_counter() - begun)
            self._query(self._store, sample)
            self._files = self._directory_state()
        except RunbookError as error:
            self._close_store()
            sample.problems.append(one_line(f"{error.where}: {error.what}" if error.where else error.what, 300))
        del sample.problems[_NAMED:]
        return sample

    def close(self) -> None:
        self._close_store()
        self.logs.close()

    def _close_store(self) -> None:
        self._stack.close()
        self._store = None
        self._searches.clear()

    def _directory_state(self) -> set[tuple[str, int, int]]:
        """The files of a directory with time and size, which show whether somebody changed it; empty for a server."""
        files = set()
        for path in resolve_path(self._place.path).rglob("*") if self._place.path else ():
            with suppress(OSError):  # gone meanwhile
                facts = path.stat()
                files.add((str(path), facts.st_mtime_ns, facts.st_size))
        return files

    def _query(self, store: Reader, sample: WatchSample) -> None:
        times: list[float] = []
        missed: list[QueryProbe] = []
        try:
            for probe in self.probes:
                name = probe.collection
                hits, milliseconds = timed(self._searches[name], probe.vector)
                times.append(milliseconds)
                if name not in self._spaces:
                    self._spaces[name] = store.info(name).space
                if not hits:
                    sample.problems.append(f"collection {name}: a query found nothing")
                elif not finds(probe, hits, self._spaces[name]):
                    missed.append(probe)
        finally:
            sample.queries = len(times)
            if times:
                sample.p50, sample.p95, sample.p99 = (float(v) for v in np.percentile(times, [50, 95, 99]))
                sample.mean, sample.slowest = float(np.mean(times)), max(times)
        self._judge(store, missed, sample)
        self._count(store, sample)

    def _judge(self, store: Reader, missed: list[QueryProbe], sample: WatchSample) -> None:
        """Judge the probes that were not found; a chunk that a client changed or removed is no fault."""
        for probe in missed:
            key = (probe.collection, probe.id)
            if key in self._moved:
                continue
            chunk = store.read(probe.collection, [probe.id])
            if not len(chunk) or not np.allclose(chunk.embeddings[0], probe.vector, rtol=1e-4, atol=1e-6):
                self._moved.add(key)
            elif not self._has_judged:
                self.blind.add(" ".join(key))
            elif " ".join(key) not in self.blind:
                sample.problems.append(f"collection {probe.collection}: chunk {probe.id} is there and no longer found")
        self._has_judged = True
        sample.moved = len(self._moved)
        for name in sorted({p.collection for p in missed}):
            probes = [p for p in self.probes if p.collection == name]
            lost = [p for p in missed if p.collection == name and (p.collection, p.id) not in self._moved]
            if len(lost) == len(probes):
                sample.problems.append(
                    f"collection {name}: none of {len(probes)} stored chunks is found by its own vector"
                )

    def _count(self, store: Reader, sample: WatchSample) -> None:
        low = list(self.counts)
        for attempt in range(1 + RECOUNTS):
            time.sleep(RECOUNT_PAUSE if attempt else 0.0)
            sample.counts |= {name: store.count(name) for name in low}
            low = [name for name in low if sample.counts[name] < self.counts[name]]
            if not low:
                break
        for name in low:
            held, validated = sample.counts[name], self.counts[name]
            allowed = int(self.shrink_limit * validated)
            sentence = f"{name} holds {count(held, 'chunk')}, {validated:,} were validated"
            sentence += f": {validated - held:,} fewer, monitoring.shrink_limit allows {allowed:,}"
            (sample.fewer if validated - held <= allowed else sample.shrunk).append(sentence)


def next_due(due: float, now: float, interval: float) -> float:
    """The next moment of the rhythm after `now`; missed samples are left out."""
    while due <= now:
        due += interval
    return due


def _advance(bar: RunProgress, second: float) -> None:
    bar.advance(max(0, min(bar.total, int(second)) - bar.done))


class SampleJournal:
    """The samples of one watch of step 50 on disk."""

    def __init__(self, workspace: Path) -> None:
        self.folder = workspace / RunPath.MONITORING
        self.samples: list[WatchSample] = []
        self.path = self.folder / "none"
        self.resumed = False
        newest = max(self.folder.glob("*.jsonl"), default=None)
        if newest is not None and (samples := _unfinished(newest)) is not None:
            self.path, self.samples, self.resumed = newest, samples, bool(samples)
        else:
            self.path = self.folder / f"{utc_now().replace(':', '').removesuffix('+0000')}.jsonl"
            self._write({"begun": utc_now()})

    def add(self, sample: WatchSample) -> None:
        self.samples.append(sample)
        self._write(asdict(sample))

    def end(self, how: str) -> None:
        """Note how the watch ended: `done`, or the code of its breach. The next watch begins anew."""
        self._write({"ended": how})

    def gaps(self, interval: float) -> list[tuple[float, float]]:
        """(second of the watch, unwatched seconds) for each gap of more than two intervals, at least 5 s, between samples."""
        gaps = []
        for before, after in zip(self.samples, self.samples[1:], strict=False):
            apart = (datetime.fromisoformat(after.when) - datetime.fromisoformat(before.when)).total_seconds()
            unwatched = apart - (after.second - before.second)
            if unwatched > max(2 * interval, 5.0):
                gaps.append((after.second, unwatched))
        return gaps

    def _write(self, line: dict[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        torn = self.path.exists() and not contents(self.path, 2**31).endswith(b"\n")
        append(self.path, (("\n" if torn else "") + json.dumps(line, ensure_ascii=True) + "\n").encode())


def _unfinished(path: Path) -> list[WatchSample] | None:
    """The samples of a journal without an end; None if the watch is over. Lines that hold no sample are left out."""
    samples = []
    for raw in _lines(path):
        if "ended" in raw:
            return None
        if "second" in raw:
            with suppress(ValueError):
                samples.append(as_kind(WatchSample, raw))
    return samples


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    for line in contents(path, 2**31).decode("utf-8", "replace").splitlines():
        try:
            raw = json_in(line)
        except ValueError:
            continue
        if isinstance(raw, dict):
            yield raw


class LiveFigure:
    """A figure that is drawn again, every two seconds at most, in a notebook that a person runs."""

    def __init__(self) -> None:
        self._handle: Any = None
        self._shown = float("-inf")

    def show(self, draw: Callable[[], Figure]) -> None:
        shell = kernel.shell()
        now = time.monotonic()
        if shell is None or not hasattr(shell, "kernel") or kernel.under_runner() or now - self._shown < _REDRAWN:
            return
        from IPython.display import Image, display

        self._shown = now
        image = Image(data=plots.png(draw()), format="png")  # type: ignore[no-untyped-call]
        if self._handle is None:
            self._handle = display(image, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(image)

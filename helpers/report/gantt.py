"""The steps of a run on a clock, against the maintenance window: the numbers of an inline SVG, one drawing a session.

Steps more than three hours apart belong to different sessions (the dry run of the day before, the window), each drawn to
its own scale: on one clock the window would be a thin line. The drawing repeats what the table below it says in words.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

from helpers.formatting import count, duration
from helpers.report.facts import RunView, StepRow
from helpers.run.plan import Step

LEFT, RIGHT, WIDTH, ROW, TOP = 220.0, 860.0, 1000.0, 26.0, 30.0  # units of the SVG; bars lie between LEFT and RIGHT
_THINNEST = 2.0
_SESSION = timedelta(hours=3)
_TICKS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)
_NIGHT = (Step.FENCE_WRITES, Step.CUTOVER)  # the first and the last step that belong inside the window


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a row or a band over all rows, in units of the SVG."""

    x: float
    width: float


@dataclass(frozen=True, slots=True)
class Row:
    """A step: its bar, the phases inside, and how long it took in words."""

    number: str
    title: str
    verdict: str
    y: float
    bar: Span
    phases: list[Span]
    took: str


@dataclass(frozen=True, slots=True)
class Session:
    """One drawing: `window` and `buffers` as bands, `ticks` as (x, label), `day` and `sentence` in words."""

    day: str
    sentence: str
    rows: list[Row]
    ticks: list[tuple[float, str]]
    window: Span | None
    buffers: list[Span]

    @property
    def height(self) -> float:
        return TOP + ROW * len(self.rows) + 8


@dataclass(slots=True)
class Timed:
    """A step with when it began and ended (UTC), and the phases inside it."""

    step: StepRow
    start: datetime
    end: datetime
    phases: list[tuple[datetime, datetime]] = field(default_factory=list)
    open: bool = False  # the process died before it could write when it ended


def sessions(view: RunView) -> list[Session]:
    """The drawings, in order of time; none where no step has run."""
    found = sorted(timed(view), key=lambda s: (s.start, s.step.number))
    groups: list[list[Timed]] = []
    for step in found:
        if groups and step.start - max(s.end for s in groups[-1]) <= _SESSION:
            groups[-1].append(step)
        else:
            groups.append([step])
    return [_session(group, _window(view)) for group in groups]


def window_sentence(view: RunView) -> str:
    """Whether the work stayed inside the maintenance window."""
    window = _window(view)
    if window is None:
        return "The parameters name no maintenance window."
    start, end, _ = window
    named = f"The window was {start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC"
    night = [s for s in timed(view) if _in_night(s)]
    if not night:
        return f"{named.replace(' was ', ' is ')}; no step of the window has run yet."
    last = max(night, key=lambda s: s.end)
    return outside_window(view) or (
        f"{named}; every step of the window ended inside it, the last with {_between(last.end, end)} to spare."
    )


def outside_window(view: RunView) -> str:
    """Which step began before the window or ended after it; "" where none did, or there is no window."""
    window = _window(view)
    night = [s for s in timed(view) if _in_night(s)] if window else []
    if window is None or not night:
        return ""
    start, end, _ = window
    named = f"The window was {start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC"
    first, last = min(night, key=lambda s: s.start), max(night, key=lambda s: s.end)
    if first.start < start:
        return f"{named}; step {first.step.number} began {_between(first.start, start)} before it."
    if last.end > end:
        return f"{named}; step {last.step.number} ended {_between(end, last.end)} after it."
    return ""


def _in_night(step: Timed) -> bool:
    return _NIGHT[0] <= step.step.number <= _NIGHT[1]


def _between(first: datetime, second: datetime) -> str:
    return duration((second - first).total_seconds())


def timed(view: RunView) -> Iterator[Timed]:
    """The steps that began, in the order of the steps."""
    for row in view.steps:
        start = instant(row.result.started) if row.result else None
        if row.result is None or start is None:
            continue
        phases = [(at, at + timedelta(seconds=p.seconds)) for p in row.result.phases if (at := instant(p.started))]
        end = instant(row.result.finished)
        last = max([start, *(stop for _, stop in phases)])
        yield Timed(row, start, end or last, phases, open=end is None)


def instant(text: Any) -> datetime | None:
    """An ISO 8601 time in UTC; None for anything else."""
    try:
        when = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).astimezone(UTC)


def _window(view: RunView) -> tuple[datetime, datetime, timedelta] | None:
    """Start, end and buffer of the maintenance window; None where there is none."""
    section = view.parameters.get("window")
    start = instant(section.get("start")) if isinstance(section, dict) else None
    if start is None:
        return None
    try:
        minutes, spare = (float(section.get(k, d)) for k, d in (("minutes", 120), ("buffer_minutes", 30)))  # type: ignore[union-attr]
        return start, start + timedelta(minutes=minutes), timedelta(minutes=spare)
    except (TypeError, ValueError, OverflowError):
        return None


def _session(steps: list[Timed], window: tuple[datetime, datetime, timedelta] | None) -> Session:
    first, last = min(s.start for s in steps), max(s.end for s in steps)
    if window and (window[0] - window[2] > last or window[1] + window[2] < first):
        window = None
    begin = min(first, window[0] - window[2]) if window else first
    end = max(last, window[1] + window[2]) if window else last
    whole = max((end - begin).total_seconds(), 1.0)

    def at(when: datetime) -> float:
        return round(LEFT + (RIGHT - LEFT) * (when - begin).total_seconds() / whole, 2)

    def span(start: datetime, stop: datetime) -> Span:
        x = min(at(start), RIGHT - _THINNEST)
        return Span(x, round(min(max(at(stop) - x, _THINNEST), RIGHT - x), 2))

    rows = [
        Row(
            s.step.number, s.step.title, s.step.verdict, TOP + ROW * n, span(s.start, s.end),
            [span(a, b) for a, b in sorted(s.phases)], "not finished" if s.open else _between(s.start, s.end),
        )
        for n, s in enumerate(steps)
    ]  # fmt: skip
    every = next((t for t in _TICKS if whole / t <= 8), _TICKS[-1])
    clock = "%H:%M:%S" if every < 60 else "%H:%M"
    stamp = begin.timestamp() - begin.timestamp() % every
    marks = [datetime.fromtimestamp(stamp + every * n, UTC) for n in range(11)]
    band = [] if window is None else [window[0] - window[2], window[0], window[1], window[1] + window[2]]
    parts = [Span(at(a), round(at(b) - at(a), 2)) for a, b in pairwise(band)]
    longest = max(steps, key=lambda s: s.end - s.start)
    worked = sum((s.end - s.start).total_seconds() for s in steps)
    said = (
        f"{count(len(steps), 'step')} from {first:%H:%M:%S} to {last:%H:%M:%S} UTC, {duration(worked)} of work; step "
        f"{longest.step.number} took longest, {_between(longest.start, longest.end)}."
    )
    return Session(
        f"{first:%Y-%m-%d}", said, rows, [(at(m), f"{m:{clock}}") for m in marks if begin <= m < end],
        parts[1] if parts else None, [p for p in parts[::2] if p.width],
    )  # fmt: skip

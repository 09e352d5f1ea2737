"""Does the night fit its window? The dry run's estimate on the clock, the way back included. Pure: it looks at figures only."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from helpers.parameters import Parameters
from helpers.run.window import Hours

_WAY_BACK = ("21", "22")  # a rollback reads the source once more, and removes what step 22 wrote


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of the night: seconds, where the figure comes from, and whether it is known or only bounded from above."""

    name: str
    seconds: float
    basis: str


@dataclass(frozen=True, slots=True)
class Night:
    """The parts in order, without people; `way_back` is the seconds that a rollback takes."""

    parts: list[Part]
    way_back: float

    @classmethod
    def of(cls, parameters: Parameters, estimate: Iterable[Mapping[str, Any]]) -> Night:
        """From the rows of the dry run's estimate (part, seconds, basis); its sum is left out."""
        rows = [
            Part(str(r["part"]), float(r["seconds"]), str(r["basis"])) for r in estimate if str(r["part"])[:2].isdigit()
        ]
        fence, cutover = parameters.fence, parameters.cutover
        fences = (
            [Part("20 fence", fence.timeout_seconds, "at most: fence.timeout_seconds")] if fence.kind != "none" else []
        )
        acts = len(cutover.restart) + bool(cutover.health)
        last = (
            [Part("25 restart and health", acts * cutover.timeout_seconds, "at most: cutover.timeout_seconds each")]
            if acts
            else []
        )
        watched = bool(cutover.config_files() or acts or cutover.log_files)
        last += [Part("25 watch", 60 * cutover.monitor_minutes, "cutover.monitor_minutes")] if watched else []
        back = sum(part.seconds for part in rows if part.name[:2] in _WAY_BACK)
        return cls([*fences, *rows, *last], back)

    @property
    def seconds(self) -> float:
        """Machine time of the night, without a rollback."""
        return sum(part.seconds for part in self.parts)

    def clock(self, start: dt.datetime) -> list[tuple[Part, dt.datetime, dt.datetime]]:
        """Each part with its beginning and end, where the night begins at `start` and nobody has to be waited for."""
        rows, at = [], start
        for part in self.parts:
            end = at + dt.timedelta(seconds=part.seconds)
            rows.append((part, at, end))
            at = end
        return rows

    def spare(self, hours: Hours) -> float:
        """Seconds of the window, buffers not counted, that are left for people after the night and a rollback behind it."""
        return (hours.end - hours.start).total_seconds() - self.seconds - self.way_back

    def last_safe_moment(self, hours: Hours) -> dt.datetime:
        """When a rollback must begin to end inside the window."""
        return hours.end - dt.timedelta(seconds=self.way_back)

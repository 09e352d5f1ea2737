"""Which chunks are behind a finding: how many there are, exactly, and where the first of them stand."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from helpers.errors import one_line

KEPT = 5_000  # places of a finding that are remembered
DETAIL = 120  # characters


@dataclass(frozen=True, slots=True)
class Place:
    """One chunk, and what was found at it."""

    collection: str
    id: str
    detail: str = ""


class Places:
    """By finding: `counts` is exact, by collection; `kept` are the first `KEPT` places in the order of reading."""

    def __init__(self, kept: int = KEPT) -> None:
        self._most = kept
        self.counts: dict[str, Counter[str]] = defaultdict(Counter)
        self.kept: dict[str, list[Place]] = defaultdict(list)

    def note(self, finding: str, collection: str, chunk: str, detail: str = "") -> None:
        self.counts[finding][collection] += 1
        places = self.kept[finding]
        if len(places) < self._most:
            places.append(Place(collection, chunk, one_line(detail, DETAIL)))

    def note_all(self, finding: str, collection: str, chunks: Iterable[str]) -> None:
        for chunk in chunks:
            self.note(finding, collection, chunk)

    def total(self, finding: str) -> int:
        """How many chunks (or, of ids that meet, places of them) have it."""
        return self.counts[finding].total() if finding in self.counts else 0

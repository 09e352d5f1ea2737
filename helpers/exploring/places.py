"""Which chunks are behind a finding: how many there are, and where each of them stands.

The first of a finding are in memory, the others in a file of the finding's own, so that memory does not grow with the source.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass
from hashlib import blake2b
from pathlib import Path

from helpers.errors import one_line

KEPT = 5_000  # places of a finding that are in memory
DETAIL = 120  # characters


@dataclass(frozen=True, slots=True)
class Place:
    """One chunk, and what was found at it."""

    collection: str
    id: str
    detail: str = ""


class Places:
    """By finding: `counts` by collection, and `every` place in the order of reading. What does not fit in memory goes into
    `folder`, which is emptied first.
    """

    def __init__(self, folder: Path, kept: int = KEPT) -> None:
        self._folder, self._most = folder, kept
        self.counts: dict[str, Counter[str]] = defaultdict(Counter)
        self._first: dict[str, list[Place]] = defaultdict(list)
        self._waiting: dict[str, list[Place]] = defaultdict(list)
        shutil.rmtree(folder, ignore_errors=True)

    def note(self, finding: str, collection: str, chunk: str, detail: str = "") -> None:
        self.counts[finding][collection] += 1
        place = Place(collection, chunk, one_line(detail, DETAIL))
        if len(self._first[finding]) < self._most:
            self._first[finding].append(place)
            return
        self._waiting[finding].append(place)
        if len(self._waiting[finding]) >= self._most:
            self._folder.mkdir(parents=True, exist_ok=True)
            with self._file(finding).open("a", encoding="ascii") as file:
                file.writelines(json.dumps(astuple(place)) + "\n" for place in self._waiting.pop(finding))

    def note_all(self, finding: str, collection: str, chunks: Iterable[str]) -> None:
        for chunk in chunks:
            self.note(finding, collection, chunk)

    def every(self, finding: str) -> Iterator[Place]:
        """All that was noted of the finding."""
        yield from self._first.get(finding, ())
        if self._file(finding).exists():
            with self._file(finding).open(encoding="ascii") as file:
                yield from (Place(*json.loads(line)) for line in file)
        yield from self._waiting.get(finding, ())

    def total(self, finding: str) -> int:
        """How many chunks (or, of ids that meet, places of them) have it."""
        return self.counts[finding].total() if finding in self.counts else 0

    def _file(self, finding: str) -> Path:
        return self._folder / f"{blake2b(finding.encode('utf-8', 'surrogatepass'), digest_size=16).hexdigest()}.jsonl"

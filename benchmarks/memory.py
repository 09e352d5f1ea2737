"""The highest memory of each Python process at and below one: shared pages counted by their part (PSS), and all (RSS).

A browser that prints a page, or ssh-keygen, is not ours.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import psutil

EVERY = 0.2  # seconds between two samples: what lives for less is not seen
MB = 1_000_000


@dataclass
class Memory:
    """Peaks in MB. `pss`, `rss`: of the process that had most; `tree`: of all at one moment, as PSS. `samples`: how many."""

    pss: float = 0.0
    rss: float = 0.0
    tree: float = 0.0
    samples: int = 0


@dataclass
class Watch:
    """Samples a process and all below it, until it is left; `seen` is what was found."""

    pid: int
    seen: Memory = field(default_factory=Memory)

    def __post_init__(self) -> None:
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        with suppress(psutil.NoSuchProcess):
            root = psutil.Process(self.pid)
            while root.is_running():
                self._sample([root, *root.children(recursive=True)])
                if self._ended.wait(EVERY):
                    return

    def _sample(self, processes: list[psutil.Process]) -> None:
        whole = 0.0
        for process in processes:
            with suppress(psutil.Error):  # it has just ended
                if not process.name().startswith("python"):
                    continue
                found = process.memory_full_info()
                pss, rss = getattr(found, "pss", found.rss) / MB, found.rss / MB  # macOS has no PSS
                self.seen.pss, self.seen.rss = max(self.seen.pss, pss), max(self.seen.rss, rss)
                whole += pss
        self.seen.tree = max(self.seen.tree, whole)
        self.seen.samples += bool(whole)

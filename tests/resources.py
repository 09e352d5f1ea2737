"""What a process holds, sample by sample, and whether any of it grows: memory, files, threads, processes, temporary files."""

from __future__ import annotations

import gc
import tempfile
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np
import psutil

MB = 2**20


@dataclass(frozen=True, slots=True)
class Held:
    """Of one moment: bytes of resident memory, open files and sockets, threads, child processes, files below TMPDIR."""

    memory: int
    handles: int
    threads: int
    processes: int
    temporary: int


# What may be added from the first sample that counts to the last, by the line through all of them.
LIMITS = Held(memory=24 * MB, handles=3, threads=2, processes=0, temporary=0)


def held() -> Held:
    """Of this process, now; garbage is collected first, so that what is left is held by somebody."""
    gc.collect()
    me = psutil.Process()
    temporary = sum(1 for _ in Path(tempfile.gettempdir()).rglob("*"))
    return Held(me.memory_info().rss, me.num_fds(), me.num_threads(), len(me.children(recursive=True)), temporary)


def growth(samples: list[Held], limits: Held = LIMITS) -> list[str]:
    """What grows, in words; [] where nothing does.

    The first third of the samples is warm-up. Through the rest goes a line (least squares), and where it rises by more than
    the limit between its ends that resource grows: one high sample is no growth, a little at each is.
    """
    counted = samples[len(samples) // 3 :]
    assert len(counted) >= 6, "too few samples for a line"
    at = np.arange(len(counted))
    said = []
    for field, values, limit in zip(
        fields(Held), np.array([astuple(s) for s in counted], dtype=float).T, astuple(limits), strict=True
    ):
        slope = np.polyfit(at, values, 1)[0]
        if (risen := slope * (len(counted) - 1)) > limit + 0.5:
            said.append(
                f"{field.name}: {risen:+,.0f} in {len(counted)} samples ({values[0]:,.0f} to {values[-1]:,.0f})"
            )
    return said

"""The measure of `make test-long` fails where something leaks, and names what; noise is no leak."""

from __future__ import annotations

import mmap
import tempfile
import threading
from pathlib import Path

import pytest

from tests.resources import MB, Held, growth, held


@pytest.mark.more
def test_what_leaks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A little is kept at each of twelve samples: memory, an open file with a temporary one, a thread."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    over, kept, samples = threading.Event(), list[object](), list[Held]()
    try:
        for number in range(12):
            fresh = mmap.mmap(-1, 4 * MB)  # from the system: an array may take memory that this process freed before
            fresh.write(b"1" * len(fresh))
            kept.append(fresh)
            kept.append((tmp_path / str(number)).open("wb"))
            thread = threading.Thread(target=over.wait)
            thread.start()
            kept.append(thread)
            samples.append(held())
        found = growth(samples, Held(10 * MB, 3, 2, 0, 0))
    finally:
        over.set()
        for thing in kept:
            if isinstance(thing, threading.Thread):
                thread.join()
            elif hasattr(thing, "close"):
                thing.close()
    assert [line.split(":")[0] for line in found] == ["memory", "handles", "threads", "temporary"]


def test_a_process_that_is_left_is_named_and_noise_is_not() -> None:
    steady = [Held(200 * MB + (n % 3) * 5 * MB, 30 + n % 2, 9 + n % 2, 2, 4) for n in range(30)]
    assert growth(steady) == []
    once = [*steady[:20], Held(260 * MB, 45, 9, 3, 4), *steady[21:]]
    assert growth(once) == []
    left = [Held(s.memory, s.handles, s.threads, 2 + n // 5, s.temporary) for n, s in enumerate(steady)]
    assert [line.split(":")[0] for line in growth(left)] == ["processes"]

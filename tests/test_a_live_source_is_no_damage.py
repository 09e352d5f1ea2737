"""Step 10 reads a source while clients write: what came or went between two of its questions is no damage."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any, cast

import pytest

from helpers.errors import Terminal
from helpers.results import silent
from helpers.snapshots.snapshot import write_snapshot
from helpers.stores import Store, counted_ids, every_id
from helpers.stores.diagnosis import _collection
from tests.storage import chunks, embedded, fill


class Written:
    """A store that runs `write` once, just before it is asked for `question`."""

    def __init__(self, store: Store, question: str, write: Callable[[Store], None]) -> None:
        self.store, self.question, self.write, self.done = store, question, write, False

    def __getattr__(self, name: str) -> Any:
        if name == self.question and not self.done:
            self.done = True
            self.write(self.store)
        return getattr(self.store, name)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with embedded(tmp_path / "source") as opened:
        fill(opened, "docs", chunks(30, 4))
        yield opened


@pytest.mark.parametrize("question", ["ids", "read"])
@pytest.mark.parametrize("kind", ["add", "delete"])
def test_what_clients_write_while_it_is_read_is_no_damage(store: Store, question: str, kind: str) -> None:
    def write(at: Store) -> None:
        if kind == "add":
            at.add("docs", chunks(2, 4, seed=3, prefix="new"))
        else:
            at.delete("docs", at.ids("docs")[:3])

    live = Written(store, question, write)
    health, _ = _collection(cast(Store, live), "docs", {}, time.monotonic() + 60, True, False, silent)
    assert live.done
    assert health.whole
    assert (health.unexplained, health.reported) == (False, health.read)


def test_one_that_always_lists_fewer_than_it_counts_stays_damage(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    real = type(store).ids
    monkeypatch.setattr(type(store), "ids", lambda self, name: real(self, name)[1:])
    health, _ = _collection(store, "docs", {}, time.monotonic() + 60, True, False, silent)
    assert (health.unexplained, health.reported, health.listed) == (True, 30, 29)


@pytest.mark.parametrize("seed", range(30))
def test_no_chunk_that_nobody_touched_is_left_out_of_a_list_in_pages(seed: int) -> None:
    """Between two pages clients delete chunks and add others: those behind move up, over the border of a page."""
    random, stored = Random(seed), [f"c{i:03d}" for i in range(200)]
    never_touched = {*stored}

    def page(at: int) -> list[str]:
        answer = stored[at : at + random.randint(2, 40)]
        for _ in range(random.randint(0, 3)):
            never_touched.discard(stored.pop(random.randrange(len(stored))))
            stored.append(f"n{random.random()}")
        return answer

    assert never_touched <= {*every_id(page, lambda: len(stored), "docs", {})}


def test_a_list_of_a_store_that_pays_no_heed_to_the_offset_ends() -> None:
    assert every_id(lambda at: ["a", "b", "c"], lambda: 3, "docs", {}) == ["a", "b", "c"]
    assert every_id(lambda at: [], lambda: 0, "docs", {}) == []


def test_a_busy_collection_is_listed_although_its_count_stays() -> None:
    """As many chunks come as go: a list in pages then holds more than the count, and another one each time."""

    class Busy:
        label, lists = "server", 0

        def count(self, name: str) -> int:
            return 3

        def ids(self, name: str) -> list[str]:
            self.lists += 1
            return ["a", "b", *(f"n{self.lists + i}" for i in range(2))]

    assert counted_ids(cast(Any, Busy()), "docs")[1][:2] == ["a", "b"]


def test_a_collection_that_is_made_anew_while_it_is_read_makes_no_backup(tmp_path: Path, store: Store) -> None:
    """An index that an application makes anew each night: what is left of the old one is no backup of either."""

    def anew(live: Any) -> None:
        live.drop("docs")
        fill(live, "docs", chunks(30, 4, prefix="v2-"))

    with pytest.raises(Terminal, match=r"collection docs of .*was dropped and made anew while it was read"):
        write_snapshot(cast(Store, Written(store, "read", anew)), tmp_path, "nightly", ["docs"], retention_days=1)
    whole = write_snapshot(store, tmp_path, "nightly", ["docs"], retention_days=1)
    assert [chunk for part in whole.parts("docs") for chunk in whole.ids(part)] == chunks(30, 4, prefix="v2-").ids

"""The watch after the cutover: by which rules it ends early, and what its journal keeps of a process that was killed."""

from __future__ import annotations

import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import chromadb
import httpx
import numpy as np
import pytest

from helpers.errors import EnvironmentFailure
from helpers.monitoring.measure import QueryProbe, finds, search_of
from helpers.monitoring.watcher import SampleJournal, Watcher, WatchSample, breach, next_due
from helpers.parameters import Endpoint
from helpers.results import utc_now
from helpers.run.record import RunProgress
from helpers.stores import open_target
from tests.storage import chunks, embedded, fill

BAD, ILL, SLOW = {"problems": ["timeout"]}, {"ill": ["answered 503"]}, {"p95": 900.0}


def look(second: float = 0.0, **facts: Any) -> WatchSample:
    return WatchSample(
        "2025-12-01T02:00:00.000+00:00", second, queries=40, **{"p50": 3.0, "p95": 9.0, "p99": 12.0, **facts}
    )


@pytest.mark.parametrize(
    ("looks", "code"),
    [
        ([], ""), ([{}], ""), ([BAD], ""), ([BAD, {}, BAD], ""), ([{}, BAD, BAD], "target_errors"),
        ([ILL, {}], ""), ([ILL, ILL], "not_healthy"), ([SLOW, SLOW], ""), ([SLOW, SLOW, {}], ""),
        ([SLOW, SLOW, SLOW], "slow_queries"), ([{"shrunk": ["docs holds 1 chunks, 2 were validated"]}], "count_shrinks"),
        ([{"p95": 500.0}] * 4, ""), ([{"p95": None, "p50": None}] * 4, ""),
    ],
)  # fmt: skip
def test_a_watch_ends_on_what_lasts_and_on_nothing_else(looks: list[dict[str, Any]], code: str) -> None:
    found = breach([look(**facts) for facts in looks], 500.0)
    assert (found.code if found else "") == code


def test_what_a_killed_process_leaves_is_gone_on_with_and_what_ended_is_not(tmp_path: Path) -> None:
    journal = SampleJournal(tmp_path)
    journal.add(look(0.0, counts={"docs": 3}))
    journal.add(look(60.0))
    with journal.path.open("ab") as file:
        file.write(b'{"when": "2025-12-01T02:0')  # the line in which it was killed
    again = SampleJournal(tmp_path)
    assert (again.resumed, [k.second for k in again.samples], again.samples[0].counts) == (
        True,
        [0.0, 60.0],
        {"docs": 3},
    )
    again.add(look(120.0))
    third = SampleJournal(tmp_path)
    assert [k.second for k in third.samples] == [0.0, 60.0, 120.0], "a torn line swallows no other"
    third.end("target_errors")
    assert SampleJournal(tmp_path).samples == [], "one that a rule ended begins anew"
    assert len(list(tmp_path.rglob("*.jsonl"))) == 2


def test_time_in_which_nobody_looked_is_known(tmp_path: Path) -> None:
    journal = SampleJournal(tmp_path)
    for when, second in (("02:00:00", 0.0), ("02:01:00", 60.0), ("02:31:00", 120.0)):
        found = look(second)
        found.when = f"2025-12-01T{when}+00:00"
        journal.add(found)
    assert journal.gaps(60.0) == [(120.0, 1740.0)]


def test_looks_that_were_missed_are_not_made_up_for() -> None:
    assert (next_due(60.0, 61.0, 60.0), next_due(60.0, 200.0, 60.0)) == (120.0, 240.0)


class Seconds:
    """A bar of seconds."""

    total, done = 1, 0

    def advance(self, n: int = 1) -> None:
        self.done += n


class Scripted(Watcher):
    """Finds what the test says, one problem or "" a sample, and nothing once that is told."""

    def __init__(self, *problems: str) -> None:
        super().__init__(lambda: nullcontext(), [], Endpoint(url="http://nowhere:1"))  # type: ignore[arg-type, return-value]
        self.coming, self.last, self.closed = list(problems), [False], False

    def sample(self, second: float, *, last: bool = False) -> WatchSample:
        self.last.append(last)
        problem = self.coming.pop(0) if self.coming else ""
        return WatchSample(utc_now(), second, problems=[problem] if problem else [])

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize(
    ("seconds", "problems", "found"),
    [
        (0.0, [], [0]), (0.0, ["lost"], [1, 0]), (0.0, ["lost"] * 9, [1, 1]), (0.2, ["lost"], [1, 0, 0]),
        (0.2, ["", "", "lost"], [0, 0, 1, 0]), (0.2, ["", "", "lost", "lost", "lost"], [0, 0, 1, 1]),
    ],
)  # fmt: skip
def test_every_watch_begins_at_once_and_repeats_a_last_sample_that_failed_once(
    seconds: float, problems: list[str], found: list[int]
) -> None:
    watcher, bar = Scripted(*problems), cast(RunProgress, Seconds())
    assert [len(sample.problems) for sample in watcher.samples(seconds, 0.1, bar)] == found
    assert watcher.closed
    assert watcher.last[-1], "a line of a log that is not finished counts in the last sample"


def test_a_watch_that_goes_on_waits_until_its_next_sample_is_due() -> None:
    bar = cast(RunProgress, Seconds())
    assert [round(s.second, 1) for s in Scripted().samples(0.3, 0.1, bar, watched=0.1)] == [0.2, 0.3]
    assert [s.second >= 0.3 for s in Scripted().samples(0.3, 0.1, bar, watched=0.3)] == [True]


def test_a_stored_chunk_is_found_by_itself_or_by_a_twin_and_not_by_another() -> None:
    probe = QueryProbe("docs", "a", np.array([3.0, 4.0], np.float32))
    assert finds(probe, [("a", 0.0)], "l2")
    assert finds(probe, [("twin", 0.0)], "l2")
    assert not finds(probe, [("b", 0.2)], "l2")
    assert not finds(probe, [], "l2")
    assert not finds(probe, [("b", float("nan"))], "cosine")
    assert finds(probe, [("longer", -30.0)], "ip"), "with ip a longer vector comes first"
    assert not finds(probe, [("b", -20.0)], "ip")


def test_a_query_that_is_measured_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A retry would count its waits as latency, and hide that a request failed."""
    calls = []

    def refused(*_: Any, **__: Any) -> None:
        calls.append(1)
        raise httpx.ConnectError("refused")

    with embedded(tmp_path / "target") as store:
        fill(store, "docs", chunks(3, 8))
        ask = search_of(store, "docs")
        monkeypatch.setattr(chromadb.Collection, "query", refused)
        with pytest.raises(EnvironmentFailure):
            ask(chunks(3, 8).embeddings[0], 2)
    assert len(calls) == 1


ADD = """
import sys
from tests.storage import chunks, embedded
with embedded(sys.argv[1]) as store:
    store.add("docs", chunks(12, 8).slice(10, 12))
"""


@pytest.mark.more
def test_a_directory_is_opened_once_and_anew_only_where_somebody_changed_it(tmp_path: Path) -> None:
    place = Endpoint(path=str(tmp_path / "target"))
    batch = chunks(10, 8)
    with embedded(tmp_path / "target") as store:
        fill(store, "docs", batch)
    opened = 0

    def counted() -> Any:
        nonlocal opened
        opened += 1
        return open_target(place)

    stored = [QueryProbe("docs", i, v) for i, v in zip(batch.ids[:4], batch.embeddings[:4], strict=True)]
    watcher = Watcher(counted, stored, place, alone=True, counts={"docs": 10})
    try:
        looks = [watcher.sample(float(second)) for second in range(3)]
        assert opened == 1
        subprocess.run([sys.executable, "-c", ADD, str(place.path)], check=True, cwd=Path(__file__).parents[1])
        looks.append(watcher.sample(3.0))
    finally:
        watcher.close()
    assert opened == 2, "two handles on one directory show two states"
    assert [look.trouble for look in looks] == [[], [], [], []]
    assert [look.counts["docs"] for look in looks] == [10, 10, 10, 12]
    assert [look.cold is not None for look in looks] == [True, False, False, True]
    assert (looks[0].cold or 0.0) > (looks[0].slowest or 0.0), "what opening took is no part of a latency"

"""Before new vectors are made, a step says what they take; then calls run at the ordered pace, and the vectors are the same."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from helpers.errors import Terminal, UsageError
from helpers.migration.reembedding import COST, MONEY, NEW_VECTORS, TEXTS, as_written, completed_record, make, reembed
from helpers.results import Verdict
from helpers.run import folders as runs
from helpers.run.record import RunRecord
from helpers.snapshots.snapshot import Snapshot, write_snapshot
from helpers.steps.dry_run import DryRunStep
from helpers.stores import limits, open_source
from helpers.stores.creation import RehearsalEmbedding
from tests.storage import chunks, embedded
from tests.storage import plan as collection
from tests.test_reembedding_of_collections import NUMBER, all_of, fill_source, new_vectors, order, ordered

Calls = list[list[str]]


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """60 chunks in three collections; 19 of `notes` have a text."""
    folder = tmp_path_factory.mktemp("three collections")
    fill_source(folder / "source")
    with open_source(ordered(folder).source, folder / "scratch") as store:
        return write_snapshot(store, folder / "snapshots", "s", ["notes", "papers", "plain"], retention_days=7)


def calling(monkeypatch: pytest.MonkeyPatch, before: Callable[[int, list[str]], None] = lambda n, texts: None) -> Calls:
    """The texts of each call of the function; `before` is called with its number first."""
    made, seen, guard = RehearsalEmbedding.vectors, Calls(), threading.Lock()

    def vectors(self: RehearsalEmbedding, texts: list[str]) -> Any:
        with guard:
            seen.append(list(texts))
            number = len(seen)
        before(number, texts)
        return made(self, texts)

    monkeypatch.setattr(RehearsalEmbedding, "vectors", vectors)
    return seen


def run_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str = "13", **more: Any) -> RunRecord:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RUNBOOK_REPORTS", str(tmp_path / "reports"))
    monkeypatch.setenv("RUNBOOK_WORKSPACE", str(tmp_path / "workspace"))
    folder = runs.create(ordered(tmp_path, order(cache=str(tmp_path / "cache"), **more)), "night")
    return RunRecord(folder.read(), step)


def right(snapshot: Snapshot, made: Path) -> bool:
    now = all_of(as_written(snapshot, made), "notes")
    return now.embeddings[~now.lost].tobytes() == new_vectors([d for d in now.documents if d]).tobytes()


def test_texts_tokens_time_and_money_are_said_before_they_are_spent(
    snapshot: Snapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(tmp_path, monkeypatch, cost_per_million_tokens=2_000, requests_per_minute=6_000)
    said_at: list[int] = []
    calls = calling(monkeypatch, lambda n, texts: said_at.append(len(run.result.facts.get(COST, {}))))
    make(run, snapshot, tmp_path / "made")
    told, documents = run.result.facts[COST], [d for d in all_of(snapshot, "notes").documents if d]
    letters = sum(map(len, documents))
    tokens = sum(-(-len(d.encode()) // 4) for d in documents)
    assert {k: told[k] for k in ("texts", "to_embed", "in_cache", "characters", "tokens", "requests")} == {
        "texts": 19, "to_embed": 19, "in_cache": 0, "characters": letters, "tokens": tokens, "requests": 5,
    }  # fmt: skip
    assert told["cost"] == pytest.approx(tokens * 2_000 / 1e6)
    assert told["rate"] > 0
    assert told["seconds"] >= 60 * 4 / 6_000, "the pace is part of it"
    assert [bool(n) for n in said_at] == [False, False, True, True, True], "two calls are measured, then it is said"
    assert [len(c) for c in calls] == [4, 4, 4, 4, 3]
    [check] = [c for c in run.result.checks if c.name == TEXTS]
    assert (check.verdict, check.measured) == (Verdict.PASS, 19)
    assert f"{letters:,} characters, about {tokens:,} tokens, in 5 requests" in check.detail
    assert "texts/s measured on 4" in check.detail
    assert f"about {tokens * 2_000 / 1e6:,.2f} at 2000 per million tokens" in check.detail
    assert NEW_VECTORS in [phase.name for phase in run.result.phases]
    made = completed_record(tmp_path / "made", snapshot)
    assert made is not None
    assert (made["embedded"], made["kept"], made["requests"]) == (19, 0, 5), "what was measured counts"
    assert right(snapshot, tmp_path / "made")
    # Another run finds all of it in the cache.
    calls.clear()
    make(run, snapshot, tmp_path / "again")
    told = run.result.facts[COST]
    assert (told["to_embed"], told["in_cache"], told["cost"], told["requests"], told["rate"]) == (0, 19, 0.0, 0, None)
    assert calls == []


def test_a_text_that_occurs_twice_is_embedded_and_counted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with embedded(tmp_path / "source") as store:
        for name in ("notes", "not-again"):
            store.create(collection(name))
            batch = chunks(6, 4, prefix=name[:3] + name[-1])
            batch.documents = ["one", "two", "one", "three", "two", "one"]
            store.add(name, batch)
    with open_source(ordered(tmp_path).source, tmp_path / "scratch") as store:
        twice = write_snapshot(store, tmp_path / "snapshots", "s", ["not-again", "notes"], retention_days=7)
    run = run_of(tmp_path, monkeypatch, collections=["no*"], parallel=4, batch=2)
    calls = calling(monkeypatch)
    make(run, twice, tmp_path / "made")
    told = run.result.facts[COST]
    assert (told["texts"], told["to_embed"], told["in_cache"]) == (12, 3, 9)
    assert sorted(text for call in calls for text in call) == ["one", "three", "two"]
    now = all_of(as_written(twice, tmp_path / "made"), "notes")
    assert now.embeddings.tobytes() == new_vectors(now.documents).tobytes()


def test_nothing_is_embedded_where_it_costs_more_than_is_allowed(
    snapshot: Snapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(tmp_path, monkeypatch, cost_per_million_tokens=1_000, maximum_cost=0.1)
    calls = calling(monkeypatch)
    with pytest.raises(Terminal, match=r"new vectors would cost about 0\.\d\d, allowed are 0\.10") as caught:
        make(run, snapshot, tmp_path / "made")
    assert (caught.value.code, calls) == ("reembed_cost", [])
    [check] = [c for c in run.result.checks if c.name == MONEY]
    assert (check.verdict, check.reason) == (Verdict.FAIL, "reembed_cost")
    with pytest.raises(UsageError, match="maximum_cost without cost_per_million_tokens"):
        ordered(tmp_path, order(maximum_cost=1))


def test_calls_at_once_are_bounded_and_give_the_same_vectors(
    snapshot: Snapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once, most, guard = [0], [0], threading.Lock()

    def slow(number: int, texts: list[str]) -> None:
        with guard:
            at_once[0] += 1
            most[0] = max(most[0], at_once[0])
        time.sleep(0.02 * (7 - number % 7))  # earlier calls end later
        with guard:
            at_once[0] -= 1

    calls = calling(monkeypatch, slow)
    reembed(snapshot, ordered(tmp_path, order(cache=str(tmp_path / "cache"), parallel=3, batch=2)), tmp_path / "made")
    assert 2 <= most[0] <= 3
    assert len(calls) == 10
    assert right(snapshot, tmp_path / "made")


def test_progress_moves_with_the_batches(snapshot: Snapshot, tmp_path: Path) -> None:
    class Bar:
        steps: list[int]

        def __init__(self) -> None:
            self.steps = []

        def advance(self, n: int = 1) -> None:
            self.steps.append(n)

    one, two = Bar(), Bar()
    parameters = ordered(tmp_path, order(cache=str(tmp_path / "cache")))
    reembed(snapshot, parameters, tmp_path / "one", one)
    reembed(snapshot, parameters, tmp_path / "two", two)
    assert [n for n in one.steps if n] == [4, 4, 4, 4, 3]
    assert [n for n in two.steps if n] == [19], "from the cache"


def test_calls_begin_no_faster_than_ordered(
    snapshot: Snapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[float] = []
    calling(monkeypatch, lambda n, texts: begun.append(time.monotonic()))
    slow = order(cache=str(tmp_path / "cache"), parallel=4, requests_per_minute=1_200)
    reembed(snapshot, ordered(tmp_path, slow), tmp_path / "made")
    assert len(begun) == 5
    assert max(begun) - min(begun) >= 0.12


def refusing(status: int, headers: dict[str, str]) -> httpx.HTTPStatusError:
    request = httpx.Request("POST", "https://models.example/v1/embeddings")
    answer = httpx.Response(status, headers=headers, request=request)
    return httpx.HTTPStatusError(f"{status} from the service", request=request, response=answer)


@pytest.mark.parametrize(("status", "wrapped"), [(429, False), (429, True), (503, False)])
def test_a_service_that_asks_for_patience_gets_it(
    snapshot: Snapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, wrapped: bool
) -> None:
    refused: list[float] = []

    def busy(number: int, texts: list[str]) -> None:
        if number in (2, 3):
            refused.append(time.monotonic())
            if not wrapped:
                raise refusing(status, {"Retry-After": "0.2"})
            try:
                raise refusing(status, {"Retry-After": "0.2"})
            except httpx.HTTPStatusError as error:
                raise ValueError("the library's own words") from error

    calls = calling(monkeypatch, busy)
    reembed(snapshot, ordered(tmp_path, order(cache=str(tmp_path / "cache"))), tmp_path / "made")
    assert [len(call) for call in calls] == [4, 4, 4, 4, 4, 4, 3], "two were asked again"
    assert refused[1] - refused[0] >= 0.2
    assert right(snapshot, tmp_path / "made")


def test_patience_ends_and_another_refusal_gets_none(
    snapshot: Snapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(status: int) -> tuple[Calls, Terminal]:
        def refuse(number: int, texts: list[str]) -> None:
            raise refusing(status, {"Retry-After": "0.1"})

        with monkeypatch.context() as patch:
            calls = calling(patch, refuse)
            with pytest.raises(Exception, match="embedding function runbook_rehearsal") as caught:
                reembed(snapshot, ordered(tmp_path, order(cache=str(tmp_path / "cache"))), tmp_path / "made")
        assert "\n" not in str(caught.value)
        return calls, caught.value  # type: ignore[return-value]

    monkeypatch.setattr(limits, "PATIENCE", 0.3)
    calls, error = fails(429)
    assert 2 <= len(calls) <= 3
    assert (error.code, "requests_per_minute" in error.next_step) == ("reembed_failed", True)
    calls, error = fails(401)
    assert (len(calls), error.code) == (1, "reembed_failed")


def test_the_dry_run_shows_it_and_the_estimate_does_not_pay_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_source(tmp_path / "source")
    run = run_of(tmp_path, monkeypatch, cost_per_million_tokens=1.0)
    calling(monkeypatch, lambda n, texts: time.sleep(0.1))
    step = DryRunStep(run)
    step.take_snapshot()
    [row] = step.new_vectors().to_dict("records")
    assert (row["collection"], row["chunks"], row["texts"], row["to_embed"]) == ("notes", NUMBER, 19, 19)
    assert row["seconds"] >= 0.4
    assert 0 < row["cost"] < 0.01
    step.validate()
    [again] = [row for row in step.estimate().to_dict("records") if row["part of the migration"] == "22 new vectors"]
    took = next(phase.seconds for phase in run.result.phases if phase.name == NEW_VECTORS)
    assert took >= 0.5
    assert again["seconds"] < took - 0.45
    assert "what changes until then is embedded besides, at " in again["basis"]

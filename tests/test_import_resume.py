"""Import: killed at any step and gone on with, the target is the one of an undisturbed run."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.chunks import ChunkBatch
from helpers.errors import Interrupted, Terminal, Transient
from helpers.migration import importing
from helpers.migration.checkpoint import Checkpoint
from helpers.migration.staging import Staged
from helpers.reason_codes import ReasonCode
from helpers.snapshots.snapshot import Snapshot, write_snapshot
from helpers.stores import CollectionInfo
from helpers.stores.client import ClientStore
from tests.storage import assert_same, chunks, contents, embedded, empty_plans, fill, importer, plan, staging


class Killed(BaseException):
    """What kill -9 would be: nothing in the toolkit may catch it."""


HELD = {"alpha": chunks(90, 4, prefix="a"), "beta": chunks(61, 6, seed=1, prefix="b")}


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    folder = tmp_path_factory.mktemp("source")
    with embedded(folder / "db") as store:
        for name, batch in HELD.items():
            fill(store, name, batch, "l2" if name == "alpha" else "ip")
        store.create(plan("empty"))
        return write_snapshot(store, folder / "snapshots", "snap", store.names(), retention_days=7)


@pytest.fixture
def staged(snapshot: Snapshot, tmp_path: Path) -> Staged:
    return staging(snapshot, tmp_path / "work")


class Work:
    """One migration: its folder, its target, and attempts at it."""

    def __init__(self, folder: Path, snapshot: Snapshot, staged: Staged) -> None:
        self.folder, self.snapshot, self.staged = folder, snapshot, staged

    def attempt(self, kind: type[ClientStore] = ClientStore, **more: Any) -> None:
        """Like a process of its own: a store opened anew, the checkpoint read from its file."""
        with embedded(self.folder / "target") as opened:
            store = kind(opened.client, opened.label, limits=opened.limits())
            work = importer(store, self.staged, self.folder / "work", **more)
            work.prepare(empty_plans(self.snapshot))
            work.write()

    def judge(self) -> None:
        """The target holds exactly the source, and the checkpoint says so."""
        with embedded(self.folder / "target") as store:
            assert store.names() == ["alpha", "beta", "empty"]
            for name, batch in HELD.items():
                assert sorted(store.ids(name)) == sorted(batch.ids)
                assert_same(store.read(name, batch.ids), batch)
            assert store.count("empty") == 0
            assert (store.info("alpha").space, store.info("beta").space) == ("l2", "ip")
        state = Checkpoint.read(self.folder / "work" / "checkpoint.json")
        assert {n: (t.completed, t.rejected, t.inflight) for n, t in state.targets.items()} == {
            "alpha": (90, 0, None), "beta": (61, 0, None), "empty": (0, 0, None),
        }  # fmt: skip


@pytest.fixture
def work(tmp_path: Path, snapshot: Snapshot, staged: Staged) -> Work:
    return Work(tmp_path, snapshot, staged)


@pytest.mark.more
@pytest.mark.parametrize("batch_size", [1, 7, 20, 10_000])
@pytest.mark.parametrize("workers", [1, 3])
def test_an_undisturbed_import(work: Work, batch_size: int, workers: int) -> None:
    seen: list[tuple[str, int]] = []
    guard = threading.Lock()

    def note(name: str, rows: int, seconds: float) -> None:
        with guard:
            seen.append((name, rows))

    work.attempt(batch_size=batch_size, workers=workers, on_batch=note)
    work.judge()
    assert sum(rows for _, rows in seen) == 151
    assert max(rows for _, rows in seen) == min(batch_size, 90)


@pytest.mark.parametrize("size", [1, 7, 90, 1000])
@pytest.mark.parametrize("start", [0, 5, 89, 90])
def test_the_staged_stream_is_the_same_from_any_row_in_any_size(staged: Staged, start: int, size: int) -> None:
    batches = list(staged.stream("alpha", start, size))
    assert all(len(b) == size for b in batches[:-1])
    assert [i for b in batches for i in b.ids] == HELD["alpha"].ids[start:]
    if batches:
        assert_same(ChunkBatch.concatenate(batches), HELD["alpha"].slice(start, 90))


def killer(moment: int) -> Callable[..., None]:
    """Raises at the `moment`-th call."""
    calls = iter(range(1, 10_000))

    def tick(*ignored: Any) -> None:
        if next(calls) == moment:
            raise Killed

    return tick


def mortal(before: Callable[..., None], after: Callable[..., None]) -> type[ClientStore]:
    """A real store that dies before or after a real write."""

    class Mortal(ClientStore):
        def add(self, name: str, batch: ChunkBatch) -> None:
            before()
            super().add(name, batch)
            after()

        def create(self, info: CollectionInfo) -> None:
            before()
            super().create(info)
            after()

    return Mortal


def alive(*ignored: Any) -> None:
    """Nothing happens."""


@pytest.mark.parametrize("moment", range(1, 11))
@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_around_any_write_and_resumed_with_another_batch_size(work: Work, moment: int, when: str) -> None:
    tick = killer(moment)
    kind = mortal(tick, alive) if when == "before" else mortal(alive, tick)
    with pytest.raises(Killed):
        work.attempt(kind, batch_size=20, workers=1)
    work.attempt(batch_size=3 if moment % 2 else 50)
    work.judge()


@pytest.mark.parametrize("moment", range(1, 9))
def test_killed_after_any_batch_and_while_telling_of_it(work: Work, moment: int) -> None:
    with pytest.raises(Killed):
        work.attempt(on_batch=killer(moment), workers=2)
    work.attempt()
    work.judge()


class StopAt:
    """Progress whose operator asks to stop."""

    def __init__(self, moment: int) -> None:
        self.tick = killer(moment)

    def advance(self, n: int = 1) -> None:
        try:
            self.tick()
        except Killed:
            raise Interrupted.by_signal(".venv/bin/runbook resume run-1") from None


def test_stopped_on_request_the_batches_in_hand_are_finished(work: Work) -> None:
    with pytest.raises(Interrupted, match="runbook resume run-1"):
        work.attempt(progress=StopAt(3))
    state = Checkpoint.read(work.folder / "work" / "checkpoint.json")
    assert all(t.inflight is None for t in state.targets.values())
    assert 0 < state.processed < 151
    work.attempt()
    work.judge()


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_stops_the_writers_after_the_batch_in_hand(work: Work) -> None:
    seen: list[int] = []
    main = threading.main_thread().ident or 0

    def note(name: str, rows: int, seconds: float) -> None:
        seen.append(rows)
        if len(seen) == 3:
            signal.pthread_kill(main, signal.SIGINT)
        threading.Event().wait(0.05 if len(seen) < 3 else 0.5)  # time for the signal to fall into the main thread

    with pytest.raises(KeyboardInterrupt):
        work.attempt(batch_size=2, on_batch=note)
    assert len(seen) < 30  # of 76
    work.attempt()
    work.judge()


def test_killed_again_and_again(work: Work) -> None:
    for round_ in range(1, 40):
        tick = killer(3)
        try:
            work.attempt(mortal(alive, tick), batch_size=max(4, 24 - round_), workers=1)
            break
        except Killed:
            pass
    work.judge()


def test_one_failing_target_stops_the_others_and_its_error_is_the_one_told(work: Work) -> None:
    class Broken(ClientStore):
        def add(self, name: str, batch: ChunkBatch) -> None:
            if name == "beta":
                raise Transient(ReasonCode.UNREACHABLE, "connection failed", where="beta")
            super().add(name, batch)

    with pytest.raises(Transient, match="beta: connection failed"):
        work.attempt(Broken, batch_size=5)
    work.attempt()
    work.judge()


def test_a_write_in_doubt_is_looked_up_and_only_what_is_absent_is_sent(work: Work) -> None:
    with pytest.raises(Killed):
        work.attempt(mortal(alive, killer(5)), batch_size=20, workers=1)  # three collections, two batches of alpha
    sent: list[str] = []

    class Watched(ClientStore):
        def add(self, name: str, batch: ChunkBatch) -> None:
            sent.extend(f"{name} {chunk}" for chunk in batch.ids)
            super().add(name, batch)

    state = Checkpoint.read(work.folder / "work" / "checkpoint.json").targets["alpha"]
    assert (state.completed, state.inflight) == (20, [20, 40])
    work.attempt(Watched)
    assert len(sent) == len(set(sent)) == 151 - 40
    work.judge()


@pytest.fixture
def foreign(tmp_path: Path) -> ChunkBatch:
    """A target that already holds a collection of the same name."""
    batch = chunks(4, 3, seed=8, prefix="theirs")
    with embedded(tmp_path / "target") as store:
        fill(store, "beta", batch)
    return batch


def test_a_target_that_holds_a_collection_already_is_refused_and_nothing_is_written(
    work: Work, foreign: ChunkBatch
) -> None:
    for _ in range(2):  # trying again changes nothing
        with pytest.raises(Terminal, match="already holds beta") as caught:
            work.attempt()
        assert caught.value.code == "target_not_empty"
    with embedded(work.folder / "target") as store:
        assert store.names() == ["beta"]
        assert_same(contents(store, "beta"), foreign)
        assert store.lock_holder() is None


def test_a_collection_that_somebody_makes_at_the_last_moment_is_not_ours_on_a_resume_either(work: Work) -> None:
    theirs = chunks(4, 3, seed=8, prefix="theirs")

    class Raced(ClientStore):
        def create(self, info: CollectionInfo) -> None:
            if info.name == "beta":
                super().create(plan("beta"))
                super().add("beta", theirs)
            super().create(info)

    with pytest.raises(Terminal) as caught:
        work.attempt(Raced)
    assert caught.value.code == "exists"
    with pytest.raises(Terminal, match="already holds beta"):
        work.attempt()
    with embedded(work.folder / "target") as store:
        assert_same(contents(store, "beta"), theirs)
        assert store.lock_holder() is None


def test_a_second_run_is_kept_out_while_the_first_is_at_work(work: Work) -> None:
    with pytest.raises(Killed):
        work.attempt(on_batch=killer(1))
    with pytest.raises(Terminal, match="run run-1 from host") as caught:
        work.attempt(run_id="run-2")
    assert caught.value.code == "lock_held"
    work.attempt()
    work.judge()


def test_a_full_disk_pauses_before_the_next_batch(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "DISK_RESERVE", 2**62)
    with pytest.raises(Terminal, match="disk free") as caught:
        work.attempt(watch=work.folder)
    assert caught.value.code == "paused_for_disk"
    monkeypatch.undo()
    work.attempt(watch=work.folder)
    work.judge()


def test_the_time_limit_stops_and_a_resume_goes_on(work: Work) -> None:
    with pytest.raises(Terminal, match="max_minutes") as caught:
        work.attempt(deadline=0.0)
    assert caught.value.code == "time_limit"
    work.attempt()
    work.judge()

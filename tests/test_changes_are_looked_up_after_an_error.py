"""A create, a drop, a lock, a database whose answer was lost: looked up, then taken as done, tried again, or refused."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from helpers.chunks import ChunkBatch
from helpers.errors import Terminal, Transient
from helpers.migration.checkpoint import Checkpoint
from helpers.migration.staging import Staged
from helpers.parameters.endpoint import Endpoint
from helpers.snapshots.snapshot import Snapshot, write_snapshot
from helpers.stores import open_target
from helpers.stores.opening import create_levels, missing_levels, remove_database
from tests.proxies import BUSY, BUSY_AFTER, CUT_AFTER, CUT_BEFORE, FAILS, TWICE, FaultyProxy
from tests.servers import ChromaServer
from tests.storage import assert_same, chunks, contents, embedded, empty_plans, fill, importer, in_order, plan, staging

pytestmark = [pytest.mark.servers, pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")]
FAULTS = [BUSY, BUSY_AFTER, CUT_BEFORE, CUT_AFTER, FAILS, TWICE]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChromaServer]:
    with ChromaServer(tmp_path_factory.mktemp("changes") / "db") as running:
        yield running


@pytest.fixture
def proxy(server: ChromaServer) -> Iterator[FaultyProxy]:
    with FaultyProxy(server.url) as running:
        yield running


@pytest.fixture
def target(server: ChromaServer, proxy: FaultyProxy) -> Endpoint:
    """A new database, reached through the proxy."""
    name = f"db-{uuid.uuid4().hex[:8]}"
    url = f"{server.url}/api/v2/tenants/default_tenant/databases"
    assert httpx.post(url, json={"name": name}, trust_env=False).is_success
    return Endpoint(url=proxy.url, database=name, timeout_seconds=20)


@pytest.mark.more
def test_the_lock_is_taken_and_given_back_once(proxy: FaultyProxy, target: Endpoint) -> None:
    with open_target(target) as store:
        for fault in FAULTS:
            proxy.faults.next("/collections", fault)
            store.acquire_lock("run-a")
            assert (store.lock_holder() or {})["run_id"] == "run-a"
            proxy.fault = first("DELETE", fault)
            store.release_lock("run-a")
            assert store.lock_holder() is None
            assert proxy.faults.planned == []
            proxy.fault = proxy.faults


def first(wanted: str, fault: str) -> Callable[[str, str], str]:
    """This fault for the first request of this method; all others pass."""
    left = [fault]
    return lambda method, path: left.pop() if left and method == wanted else "pass"


@pytest.mark.more
def test_a_create_whose_answer_was_lost_is_done_once(proxy: FaultyProxy, target: Endpoint) -> None:
    """Where a proxy repeats the request, whoever holds the lock decides: see the import."""
    with open_target(target) as store:
        for number, fault in enumerate(FAULTS[:-1]):
            proxy.faults.next("/collections", fault)
            store.create(plan(f"notes-{number}", "cosine"))
            assert store.info(f"notes-{number}").space == "cosine"
            assert proxy.faults.planned == []
        assert store.names() == [f"notes-{number}" for number in range(len(FAULTS) - 1)]


def test_what_somebody_else_made_is_never_taken_for_ours(proxy: FaultyProxy, target: Endpoint) -> None:
    theirs = chunks(3, prefix="theirs")
    with open_target(target) as store:
        fill(store, "notes", theirs)
        for fault in (BUSY, CUT_BEFORE, TWICE):
            proxy.faults.next("/collections", fault)
            with pytest.raises(Terminal) as caught:
                store.create(plan("notes"))
            assert caught.value.code == "exists"
        assert_same(in_order(contents(store, "notes")), in_order(theirs))


@pytest.mark.more
def test_a_drop_whose_answer_was_lost_is_done_once(proxy: FaultyProxy, target: Endpoint) -> None:
    with open_target(target) as store:
        fill(store, "others", chunks(2))
        for fault in FAULTS:
            fill(store, "notes", chunks(3))
            proxy.fault = first("DELETE", fault)
            store.drop("notes")
            proxy.fault = proxy.faults
            assert store.names() == ["others"]


@pytest.mark.parametrize("fault", [CUT_AFTER, TWICE])
@pytest.mark.more
def test_a_database_is_made_and_removed_once(proxy: FaultyProxy, target: Endpoint, fault: str) -> None:
    new = target.model_copy(update={"database": f"new-{uuid.uuid4().hex[:8]}"})
    proxy.faults.next("/databases", fault)
    create_levels(new, missing_levels(new))
    assert missing_levels(new) == ()
    assert proxy.faults.planned == []
    proxy.fault = first("DELETE", fault)
    assert remove_database(new)
    assert missing_levels(new) == ("database",)


@pytest.mark.more
def test_a_server_that_stays_away_is_one_line_and_its_state_is_not_guessed(
    proxy: FaultyProxy, target: Endpoint
) -> None:
    with open_target(target) as store:
        proxy.fault = lambda method, path: BUSY if method == "POST" and path.endswith("/collections") else "pass"
        with pytest.raises(Transient, match="503") as caught:
            store.create(plan("notes"))
        assert "\n" not in str(caught.value)
        assert sum(m == "POST" and p.endswith("/collections") for m, p, _ in proxy.requests) == 5
        assert store.names() == []


def staged_from(folder: Path, batch: ChunkBatch) -> tuple[Snapshot, Staged]:
    """A source of these chunks, snapshotted and staged."""
    with embedded(folder / "source") as store:
        fill(store, "notes", batch)
        snapshot = write_snapshot(store, folder / "snapshots", "snap", ["notes"], retention_days=7)
    return snapshot, staging(snapshot, folder / "work")


@pytest.mark.more
@pytest.mark.parametrize("fault", [BUSY, CUT_AFTER, TWICE])
def test_an_import_goes_through_with_each_create_in_doubt(
    proxy: FaultyProxy, target: Endpoint, tmp_path: Path, fault: str
) -> None:
    batch = chunks(20)
    snapshot, staged = staged_from(tmp_path, batch)
    with open_target(target) as store:
        work = importer(store, staged, tmp_path / "work")
        made = iter(["pass", fault])  # the lock, then the collection
        proxy.fault = lambda method, path: (
            next(made, "pass") if method == "POST" and path.endswith("/collections") else "pass"
        )
        work.prepare(empty_plans(snapshot))
        work.write()
        assert_same(in_order(contents(store, "notes")), in_order(batch))


@pytest.mark.more
def test_a_resume_takes_up_its_own_empty_collection_and_no_other(target: Endpoint, tmp_path: Path) -> None:
    """Killed between the request and the ledger's confirmation: empty, it is ours; with chunks in it, somebody else's."""
    snapshot, staged = staged_from(tmp_path, chunks(20))
    with open_target(target) as store:
        work = importer(store, staged, tmp_path / "work")
        work.checkpoint.intend("notes")
        theirs = chunks(4, prefix="theirs")
        fill(store, "notes", theirs)
        with pytest.raises(Terminal) as caught:
            work.prepare(empty_plans(snapshot))
        assert caught.value.code == "target_not_empty"
        assert_same(in_order(contents(store, "notes")), in_order(theirs))
        store.drop("notes")
        [ours] = empty_plans(snapshot)
        store.create(ours)
        work.prepare([ours])
        work.write()
        assert Checkpoint.read(work.checkpoint.path).targets["notes"].completed == 20
        assert store.count("notes") == 20


# -- what is the data's fault ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.more
def test_a_server_error_for_a_moment_sets_nothing_aside(
    proxy: FaultyProxy, target: Endpoint, tmp_path: Path, times: int
) -> None:
    batch = chunks(20)
    snapshot, staged = staged_from(tmp_path, batch)
    with open_target(target) as store:
        work = importer(store, staged, tmp_path / "work", most_refused=20, batch_size=1)  # the chunk is alone
        work.prepare(empty_plans(snapshot))
        proxy.faults.next("/add", *[FAILS] * times)
        work.write()
        assert_same(in_order(contents(store, "notes")), in_order(batch))
    assert work.quarantine.counts() == {}


@pytest.mark.more
def test_a_server_error_that_stays_is_an_error_and_sets_nothing_aside(
    proxy: FaultyProxy, target: Endpoint, tmp_path: Path
) -> None:
    snapshot, staged = staged_from(tmp_path, chunks(20))
    with open_target(target) as store:
        work = importer(store, staged, tmp_path / "work", most_refused=20)
        work.prepare(empty_plans(snapshot))
        proxy.fault = lambda method, path: FAILS if path.endswith("/add") else "pass"
        with pytest.raises(Transient, match=r"500.*out of breath") as caught:
            work.write()
        assert caught.value.code == "engine_failed"
    assert work.quarantine.counts() == {}


def test_a_server_that_fails_once_when_it_is_asked_for_its_version_is_asked_again(
    proxy: FaultyProxy, target: Endpoint
) -> None:
    failed: list[str] = []

    def first(method: str, path: str) -> str:
        if not path.endswith("/version") or failed:
            return "pass"
        failed.append(path)
        return FAILS

    proxy.fault = first
    with open_target(target) as store:
        assert list(store.collections()) == []
    assert failed


def test_a_reader_asks_again_after_a_server_error(proxy: FaultyProxy, target: Endpoint) -> None:
    """Also where the distance space is proven: a declaration that nobody checked would be taken for the truth."""
    with open_target(target) as store:
        fill(store, "notes", chunks(20), "cosine")
        proxy.faults.next("/get", FAILS)
        proxy.faults.next("/query", FAILS)
        proxy.faults.next("/count", FAILS)
        assert store.info("notes").space == "cosine"
        assert store.count("notes") == 20
        assert proxy.faults.planned == []

"""A server behind a network that fails: cut connections, busy gateways, silence; headers, tenants, and a second run."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from helpers.errors import RunbookError, Terminal, Transient
from helpers.parameters.endpoint import Endpoint
from helpers.stores import LOCK_COLLECTION, open_source, open_target, quick_names
from helpers.stores.creation import refused_name
from tests.proxies import BUSY, CUT_AFTER, CUT_BEFORE, SILENT, SLOW, FaultyProxy
from tests.servers import ChromaServer, free_port
from tests.storage import assert_same, chunks, contents, embedded, fill, in_order, plan

pytestmark = [
    pytest.mark.servers,
    # A client whose constructor fails (here on purpose) leaves its connections to the garbage collector.
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChromaServer]:
    with ChromaServer(tmp_path_factory.mktemp("network") / "db") as running:
        yield running


@pytest.fixture(autouse=True)
def tidy() -> Iterator[None]:
    """Connections that a test abandoned are collected here, and not in the middle of a later test."""
    yield
    for thread in threading.enumerate():
        if thread.name == "connect":
            thread.join(30)
    gc.collect()


@pytest.fixture
def database(server: ChromaServer) -> str:
    """A new database on the server, so that tests do not meet."""
    name = f"db-{uuid.uuid4().hex[:8]}"
    url = f"{server.url}/api/v2/tenants/default_tenant/databases"
    assert httpx.post(url, json={"name": name}, trust_env=False).is_success
    return name


@pytest.fixture
def proxy(server: ChromaServer) -> Iterator[FaultyProxy]:
    with FaultyProxy(server.url) as running:
        yield running


def at(url: str, database: str = "default_database", **more: Any) -> Endpoint:
    return Endpoint.model_validate({"url": url, "database": database, "timeout_seconds": 20.0, **more})


# -- reads -----------------------------------------------------------------------------------------------------------


@pytest.mark.more
@pytest.mark.parametrize("fault", [BUSY, CUT_BEFORE, CUT_AFTER, SLOW])
def test_reads_are_tried_again(proxy: FaultyProxy, database: str, fault: str) -> None:
    batch = chunks(30)
    with open_target(at(proxy.url, database)) as store:
        fill(store, "notes", batch)
        proxy.faults.next("/get", fault)
        proxy.faults.next("/count", fault)
        proxy.faults.next("/query", fault)
        assert store.count("notes") == 30
        assert_same(store.read("notes", batch.ids), batch)
        assert store.query("notes", batch.embeddings[:1], 1)[0][0][0] == "c0"
        assert proxy.faults.planned == []


def test_opening_survives_a_busy_moment(proxy: FaultyProxy, database: str) -> None:
    proxy.faults.next("/heartbeat", BUSY, CUT_BEFORE)
    proxy.faults.next(f"/databases/{database}", BUSY)
    proxy.faults.next("/auth/identity", BUSY, CUT_BEFORE)
    with open_source(at(proxy.url, database), Path("unused")) as store:
        assert store.names() == []


@pytest.mark.more
def test_a_server_that_stays_busy_is_given_up_with_one_line(proxy: FaultyProxy, database: str) -> None:
    with open_target(at(proxy.url, database)) as store:
        fill(store, "notes", chunks(3))
        proxy.fault = lambda method, path: BUSY if path.endswith("/count") else "pass"
        before = proxy.count("/count")
        with pytest.raises(Transient, match="503") as caught:
            store.count("notes")
        assert caught.value.code == "server_busy"
        assert "\n" not in str(caught.value)
        assert proxy.count("/count") - before == 5


@pytest.mark.more
def test_a_server_that_never_answers_does_not_hold_us_longer_than_the_time_out(
    proxy: FaultyProxy, database: str
) -> None:
    with open_target(at(proxy.url, database, timeout_seconds=0.3)) as store:
        proxy.fault = lambda method, path: SILENT
        begun = time.monotonic()
        with pytest.raises(Transient, match="no answer in time") as caught:
            store.names()
        taken = time.monotonic() - begun
    assert caught.value.code == "timeout"
    assert 5 * 0.3 <= taken < 12  # five tries and the pauses between them


@pytest.mark.more
@pytest.mark.parametrize("greeted", [0, 4])
def test_a_server_that_falls_silent_while_it_is_opened_does_not_hold_us(
    proxy: FaultyProxy, database: str, greeted: int
) -> None:
    """Also in the client's own constructor, which knows no time-out (chroma-facts 13)."""
    proxy.fault = lambda method, path: SILENT if len(proxy.requests) > greeted else "pass"
    begun = time.monotonic()
    with pytest.raises(Transient) as caught, open_target(at(proxy.url, database, timeout_seconds=0.2)):
        pass
    assert caught.value.code == "timeout"
    assert time.monotonic() - begun < 15


@pytest.mark.more
def test_a_server_that_is_down_is_one_line(tmp_path: Path) -> None:
    with (
        pytest.raises(Transient, match="connection failed") as caught,
        open_target(at(f"http://127.0.0.1:{free_port()}")),
    ):
        pass
    assert caught.value.code == "unreachable"
    assert "\n" not in str(caught.value)


# -- writes ----------------------------------------------------------------------------------------------------------


@pytest.mark.more
@pytest.mark.parametrize(
    "faults", [[CUT_AFTER], [CUT_BEFORE], [BUSY], [CUT_BEFORE, CUT_AFTER], [BUSY, CUT_BEFORE, CUT_AFTER]], ids=str
)
def test_an_add_that_was_cut_neither_doubles_nor_loses(proxy: FaultyProxy, database: str, faults: list[str]) -> None:
    batch = chunks(40)
    with open_target(at(proxy.url, database)) as store:
        store.create(plan("notes"))
        proxy.faults.next("/add", *faults)
        store.add("notes", batch)
        # What was written although nobody heard of it is not sent again.
        assert proxy.count("/add") == len(faults) + (faults[-1] != CUT_AFTER)
        assert store.count("notes") == 40
        assert_same(in_order(contents(store, "notes")), in_order(batch))


@pytest.mark.more
def test_an_add_that_outlasts_the_time_out_is_looked_up_before_it_is_sent_again(
    proxy: FaultyProxy, database: str
) -> None:
    batch = chunks(40)
    with open_target(at(proxy.url, database, timeout_seconds=3)) as store:
        store.create(plan("notes"))
        proxy.faults.next("/add", SILENT)  # never reaches the server
        store.add("notes", batch)
        assert store.count("notes") == 40
        assert proxy.count("/add") == 2


@pytest.mark.more
def test_an_add_that_never_gets_through_is_an_error_and_nothing_is_there(proxy: FaultyProxy, database: str) -> None:
    with open_target(at(proxy.url, database)) as store:
        store.create(plan("notes"))
        proxy.fault = lambda method, path: CUT_BEFORE if path.endswith("/add") else "pass"
        begun = time.monotonic()
        with pytest.raises(Transient, match="connection failed"):
            store.add("notes", chunks(5))
        assert time.monotonic() - begun > 1  # with pauses that grow
        assert store.count("notes") == 0
        assert proxy.count("/add") == 5


@pytest.mark.slow
def test_a_server_killed_in_the_middle_of_an_add_and_started_again_holds_each_chunk_once(
    tmp_path: Path,
) -> None:
    batch = chunks(2000, 64)
    with ChromaServer(tmp_path / "db") as server, open_target(at(server.url)) as store:
        store.create(plan("notes"))

        def crash() -> None:
            time.sleep(0.1)
            server.kill()
            server.start()

        crashing = threading.Thread(target=crash)
        crashing.start()
        try:
            store.add("notes", batch)
        except Transient:  # the server was away for longer than our patience: the run would be resumed
            crashing.join()
            present = set(store.ids("notes"))
            store.add("notes", batch.take([i for i, chunk in enumerate(batch.ids) if chunk not in present]))
        crashing.join()
        assert store.count("notes") == 2000
        assert_same(in_order(contents(store, "notes")), in_order(batch))


def test_deleting_is_tried_again(proxy: FaultyProxy, database: str) -> None:
    with open_target(at(proxy.url, database)) as store:
        fill(store, "notes", chunks(10))
        proxy.faults.next("/delete", CUT_AFTER, BUSY)
        store.delete("notes", ["c1", "c2"])
        assert store.count("notes") == 8


# -- who asks, and whom ----------------------------------------------------------------------------------------------


@pytest.mark.more
def test_headers_are_sent_with_every_request_and_their_secret_is_in_no_error(
    proxy: FaultyProxy, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHROMA_SECRET", "Bearer s3cr3t-value")
    endpoint = at(proxy.url, database, headers={"Authorization": "env:CHROMA_SECRET"}, timeout_seconds=0.5)
    with open_target(endpoint) as store:
        fill(store, "notes", chunks(3))
        assert {headers.get("authorization") for _, _, headers in proxy.requests} == {"Bearer s3cr3t-value"}
        proxy.fault = lambda method, path: CUT_BEFORE
        with pytest.raises(RunbookError) as caught:
            store.count("notes")
    texts = [str(caught.value), repr(caught.value), str(caught.value.__cause__)]
    assert not any("s3cr3t" in text for text in texts)


@pytest.mark.parametrize("value", ["Bearer s3cr3t ", " Bearer s3cr3t", "Bearer s3cr3té", "Bearer\ts3cr3t"])
def test_a_secret_that_http_cannot_carry_is_refused_without_being_shown(
    proxy: FaultyProxy, tmp_path: Path, value: str
) -> None:
    (tmp_path / "secret").write_text(value, encoding="utf-8")
    endpoint = at(proxy.url, headers={"Authorization": f"file:{tmp_path / 'secret'}"})
    with pytest.raises(RunbookError) as caught, open_target(endpoint):
        pass
    assert "s3cr3t" not in "".join(map(str, [caught.value, caught.value.__cause__, caught.value.__context__]))
    assert proxy.requests == []


@pytest.mark.parametrize("key", ["tenant", "database"])
@pytest.mark.parametrize("value", ["typo", "../default_tenant", "a b?c=d"])
def test_a_wrong_tenant_or_database_is_an_error_and_not_an_empty_source(
    server: ChromaServer, key: str, value: str
) -> None:
    endpoint = Endpoint.model_validate({"url": server.url, key: value})
    for opening in (lambda: quick_names(endpoint, "source"), lambda: open_target(endpoint).__enter__()):
        with pytest.raises(Terminal, match=key) as caught:
            opening()
        assert caught.value.code == f"unknown_{key}"
        assert f"source.{key}" in str(caught.value) or f"target.{key}" in str(caught.value)


def test_what_is_no_chroma_server_is_named_as_such() -> None:
    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>welcome</html>")

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            """Silence."""

    plain = HTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=plain.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        with (
            pytest.raises(Terminal, match="not as a Chroma server does") as caught,
            open_target(at(f"http://127.0.0.1:{plain.server_address[1]}")),
        ):
            pass
        assert caught.value.code == "target_not_chroma"
    finally:
        plain.shutdown()
        plain.server_close()


def test_two_databases_of_one_server_do_not_see_each_other(server: ChromaServer, database: str) -> None:
    with open_target(at(server.url, database)) as ours, open_target(at(server.url)) as theirs:
        fill(ours, "notes", chunks(3))
        assert (ours.names(), theirs.names()) == (["notes"], [])
        assert quick_names(at(server.url, database), "source") == ["notes"]


# -- the lock --------------------------------------------------------------------------------------------------------


def test_the_lock_keeps_a_second_run_out_and_names_the_first(server: ChromaServer, database: str) -> None:
    with open_target(at(server.url, database)) as ours, open_target(at(server.url, database)) as theirs:
        ours.acquire_lock("run-a")
        ours.acquire_lock("run-a")  # a run that was killed finds its own
        with pytest.raises(Terminal, match="run run-a from host") as caught:
            theirs.acquire_lock("run-b")
        assert caught.value.code == "lock_held"
        theirs.release_lock("run-b")  # not the holder: nothing happens
        assert (theirs.lock_holder() or {})["run_id"] == "run-a"
        assert ours.names() == []  # the marker is no data
        ours.release_lock("run-a")
        ours.release_lock("run-a")
        assert ours.lock_holder() is None
        theirs.acquire_lock("run-b")
        assert (ours.lock_holder() or {})["run_id"] == "run-b"


def test_a_lock_whose_answer_was_cut_is_ours_all_the_same(proxy: FaultyProxy, database: str) -> None:
    with open_target(at(proxy.url, database)) as store:
        proxy.faults.next("/collections", CUT_AFTER)
        store.acquire_lock("run-a")
        assert proxy.faults.planned == []
        assert (store.lock_holder() or {})["run_id"] == "run-a"


RACE = """
import sys, time
from helpers.parameters.endpoint import Endpoint
from helpers.errors import Terminal
from helpers.stores import open_target
url, database, run, start = sys.argv[1:]
with open_target(Endpoint(url=url, database=database)) as store:
    print("ready", flush=True)
    sys.stdin.readline()
    try:
        store.acquire_lock(run)
        print("won")
    except Terminal as error:
        print("lost", error.code)
"""


@pytest.mark.slow
def test_of_two_processes_that_take_the_lock_at_once_exactly_one_wins(server: ChromaServer, database: str) -> None:
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, server.url, database, f"run-{i}", "now"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
        )
        for i in range(2)
    ]  # fmt: skip
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline().strip() == "ready"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("\n")
        racer.stdin.flush()
    said = sorted(racer.communicate(timeout=60)[0].strip() for racer in racers)
    assert said == ["lost lock_held", "won"]


def test_many_threads_that_take_the_lock_at_once_make_one_holder(server: ChromaServer, database: str) -> None:
    outcomes: list[str] = []

    def take(run: str) -> None:
        with open_target(at(server.url, database)) as store:
            gate.wait()
            try:
                store.acquire_lock(run)
                outcomes.append(run)
            except Terminal:
                pass

    gate = threading.Barrier(6)
    threads = [threading.Thread(target=take, args=(f"run-{i}",)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with open_target(at(server.url, database)) as store:
        assert outcomes == [(store.lock_holder() or {})["run_id"]]


def test_a_marker_that_is_not_ours_keeps_us_out_too(tmp_path: Path) -> None:
    with embedded(tmp_path / "db") as store:
        store.create(plan(LOCK_COLLECTION))
        with pytest.raises(Terminal, match="holds the target") as caught:
            store.acquire_lock("run-a")
        assert caught.value.code == "lock_held"
        assert store.names() == [LOCK_COLLECTION], "a run's own marker says whose it is"


@pytest.mark.parametrize("named", [{}, {"run_id": "some-run"}], ids=["plain", "like a marker"])
def test_chunks_in_a_collection_of_the_markers_name_are_data(tmp_path: Path, named: dict[str, str]) -> None:
    with embedded(tmp_path / "db") as store:
        store.create(replace(plan(LOCK_COLLECTION), metadata=named or None))
        store.add(LOCK_COLLECTION, chunks(3))
    with open_source(Endpoint(path=str(tmp_path / "db")), tmp_path) as source:
        assert source.names() == [LOCK_COLLECTION], "nothing of a source is passed over for its name"
        assert source.count(LOCK_COLLECTION) == 3
    assert "marker" in refused_name(LOCK_COLLECTION), "step 10 asks for another name before anything is written"

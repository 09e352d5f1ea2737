"""Answers of a server as they are: JSON in UTF-8 whatever the header says, whole within the time, refused where they are none."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.chunks import ChunkBatch
from helpers.errors import Transient
from helpers.parameters.endpoint import Endpoint
from helpers.stores import creation, open_source, open_target
from helpers.stores.api_v1 import ApiV1Store
from helpers.stores.handshake import session_of
from helpers.stores.limits import attempt
from tests.proxies import LATIN, NULL, PAGE, SLOW_HEAD, TRICKLE, FaultyProxy
from tests.servers import ChromaServer
from tests.storage import assert_same, chunks, fill

pytestmark = pytest.mark.servers
COUNT = 400


def multilingual() -> ChunkBatch:
    batch = chunks(COUNT)
    batch.documents[:] = [f"Zürich – “naïve” 中文 🧪 {n}" for n in range(COUNT)]
    batch.metadatas[:] = [{"ort": f"Málaga {n}", "größe": n} for n in range(COUNT)]
    return batch


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultyProxy]:
    with (
        ChromaServer(tmp_path_factory.mktemp("answers") / "db") as server,
        FaultyProxy(server.url) as running,
        open_target(Endpoint(url=server.url)) as store,
    ):
        fill(store, "notes", multilingual())
        yield running


@pytest.fixture(autouse=True)
def well(proxy: FaultyProxy) -> Iterator[None]:
    yield
    proxy.fault = proxy.faults


def at(proxy: FaultyProxy, **more: Any) -> Endpoint:
    return Endpoint.model_validate({"url": proxy.url, "timeout_seconds": 30.0, **more})


def test_a_header_that_names_another_charset_changes_no_text(proxy: FaultyProxy, tmp_path: Path) -> None:
    """Each side of a comparison reads through such a wire, so nothing else would see it."""
    proxy.fault = lambda method, path: LATIN
    wanted = multilingual()
    with open_source(at(proxy), tmp_path) as store:
        assert_same(store.read("notes", wanted.ids), wanted)


@pytest.mark.parametrize("fault", [PAGE, NULL])
@pytest.mark.more
def test_an_answer_that_is_no_json_is_one_line(proxy: FaultyProxy, tmp_path: Path, fault: str) -> None:
    with open_source(at(proxy), tmp_path) as store:
        store.count("notes")
        for end, ask in {
            "/get": lambda: store.read("notes", ["c0"]),
            "/count": lambda: store.count("notes"),
            "/query": lambda: store.query("notes", [[1.0] * 8], 1),
            "/collections": store.names,
        }.items():
            proxy.fault = lambda method, path, end=end: fault if path.endswith(end) else "pass"  # type: ignore[misc]
            with pytest.raises(Transient) as caught:
                ask()
            assert caught.value.code == "not_json"
            assert "\n" not in caught.value.line()
            assert "proxy" in caught.value.next_step


def test_an_add_that_meets_a_page_is_sent_again_and_sets_nothing_aside(proxy: FaultyProxy) -> None:
    batch = chunks(20, prefix="more")
    with open_target(at(proxy)) as store:
        proxy.faults.next("/add", PAGE)
        fill(store, "more", batch)
        assert_same(store.read("more", batch.ids), batch)


@pytest.mark.more
@pytest.mark.parametrize("fault", [TRICKLE, SLOW_HEAD])
def test_a_trickle_ends_at_the_time_limit(proxy: FaultyProxy, tmp_path: Path, fault: str) -> None:
    """A byte each tenth of a second satisfies every limit on a single read, for ever."""
    with open_source(at(proxy, timeout_seconds=1.0), tmp_path) as store:
        proxy.fault = lambda method, path: fault if path.endswith("/count") else "pass"
        begun = time.monotonic()
        with pytest.raises(Transient) as caught:
            attempt(store.client.get_collection("notes", embedding_function=None).count, "here")  # type: ignore[attr-defined]
    assert caught.value.code == "timeout"
    assert 0.9 < time.monotonic() - begun < 8


@pytest.mark.more
@pytest.mark.parametrize("fault", [TRICKLE, SLOW_HEAD])
def test_a_service_that_trickles_vectors_ends_at_the_time_limit(
    proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """Its client is a library of others, which has no limit for a whole answer."""
    monkeypatch.setattr(creation, "ANSWER_SECONDS", 1.0)
    proxy.fault = lambda method, path: fault
    function = creation.own_function("huggingface_server", {"url": proxy.url}, {}, "here")
    for ask in (function.call, function.query):
        begun = time.monotonic()
        with pytest.raises(TimeoutError, match="no whole answer in 1 s"):
            ask(["a text"])
        assert 0.9 < time.monotonic() - begun < 8


@pytest.mark.more
def test_api_v1_reads_and_refuses_in_the_same_way(proxy: FaultyProxy) -> None:
    """Against no old server: what matters here is what stands between."""
    endpoint = at(proxy, timeout_seconds=1.0)
    for fault, code in {PAGE: "not_json", TRICKLE: "timeout"}.items():
        proxy.fault = lambda method, path, fault=fault: fault  # type: ignore[misc]
        with session_of(endpoint, {}) as session, pytest.raises(Transient) as caught:
            ApiV1Store(session, endpoint.label, tenant="default_tenant", database="default_database")
        assert caught.value.code == code

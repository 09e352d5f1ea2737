"""Answers of a server as they are: JSON in UTF-8 whatever the header says, whole within the time, refused where they are none."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pytest

from helpers.chunks import ChunkBatch
from helpers.errors import Transient
from helpers.parameters.endpoint import Endpoint
from helpers.stores import creation, open_source, open_target, wire
from helpers.stores.api_v1 import ApiV1Store
from helpers.stores.client import batch_of
from helpers.stores.limits import attempt
from helpers.stores.wire import session_of
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


def answer_of(content: bytes, path: str = "/api/v2/collections/x/get") -> Any:
    request = httpx.Request("POST", f"http://loopback{path}")
    answer = wire._Answer(200, content=content, request=request)
    return answer.json()


ODD = [
    rb'"\ud83d\ude00 \u0000 \/ "', rb'"\ud800"', b'"\xff"', b"12345678901234567890123", b"18446744073709551615", b"-0",
    b"-0.0", b"1e400", b"5e-324", b"NaN", b"01", b"[1,]", b"null", b"true", b'{"a":1,"a":[{"b":[]}]}', b"1.0", b"1",
    b"1" + b"0" * 20 + b".0",
]  # fmt: skip


@pytest.mark.parametrize("odd", ODD, ids=str)
def test_what_stands_beside_vectors_is_read_as_orjson_reads_it(odd: bytes) -> None:
    body = b'{"ids":["a","b"],"embeddings":[[1,2.5],[-0.0,3e-5]],"metadatas":[{"k":' + odd + b"},null]}"
    try:
        wanted = orjson.loads(body)
    except orjson.JSONDecodeError:
        with pytest.raises(orjson.JSONDecodeError):
            answer_of(body)
        return
    found = answer_of(body)
    assert np.array_equal(
        np.asarray(found.pop("embeddings"), np.float32), np.array(wanted.pop("embeddings"), np.float32)
    )
    assert repr(found) == repr(wanted)  # also the kinds of numbers, and the sign of zero


def test_vectors_are_the_same_bits_as_through_lists() -> None:
    numbers = np.random.default_rng(7).integers(0, 2**32, 60_000, dtype=np.uint32).view(np.float32)
    numbers = np.concatenate([numbers, np.array([0.0, -0.0, 1e-45, 3.4028235e38, 1.1754944e-38], np.float32)])
    numbers = numbers[np.isfinite(numbers)]
    rows = numbers[: len(numbers) // 5 * 5].reshape(-1, 5)
    body = orjson.dumps({"ids": [], "embeddings": rows}, option=orjson.OPT_SERIALIZE_NUMPY)
    found = answer_of(body)["embeddings"]
    assert found.dtype == np.float32
    assert np.array_equal(found.view(np.uint32), rows.view(np.uint32))
    assert isinstance(answer_of(body, "/api/v2/collections/x/query")["embeddings"], list)


@pytest.mark.parametrize(
    "vectors",
    ["null", "[]", "[[1,2],[3]]", "[[1,null]]", "[[1,[2,3]]]", '["ab"]', "[[true]]", "[null,[1]]", '"ab"', "7", "{}"],
)
def test_what_is_no_array_of_numbers_stays_as_it_was_sent(vectors: str) -> None:
    body = f'{{"ids":["a"],"embeddings":{vectors}}}'.encode()
    found = answer_of(body)
    assert {**found, "embeddings": np.asarray(found["embeddings"], object).tolist()} == orjson.loads(body)


def test_of_a_key_that_is_there_twice_the_last_one_counts() -> None:
    assert answer_of(b'{"ids":["a"],"embeddings":[[1.0]],"ids":["b"]}') == {"ids": ["b"], "embeddings": [[1.0]]}


def test_a_deep_answer_with_vectors_is_refused() -> None:
    body = b'{"embeddings":[[1]],"metadatas":' + b"[" * 200 + b"]" * 200 + b"}"
    with pytest.raises(orjson.JSONDecodeError, match="deeply"):
        answer_of(body)


NUMBERS = np.array([0x15AE43FC, 0x15AE43FD, 0x15AE43FE, 0x95AE43FD, 0x3F800000, 0x00000001, 0x7F7FFFFF], np.uint32)


@pytest.mark.parametrize("ragged", [False, True], ids=["array", "lists"])
def test_each_number_is_the_float32_that_was_printed(ragged: bool) -> None:
    """Of one the shortest text, read as a double, is halfway to its neighbour: a double that is rounded would be that one."""
    wanted = NUMBERS.view(np.float32)
    text = ",".join(np.format_float_scientific(number, unique=True, trim="-") for number in wanted)
    assert (np.array(orjson.loads(f"[{text}]")).astype(np.float32).view(np.uint32) != NUMBERS).sum() == 2, "so it is"
    more = ',"more":0,"more":0' if ragged else ""
    content = f'{{"ids":["a"],"embeddings":[[{text}]],"documents":[null],"metadatas":[null]{more}}}'.encode()
    answer = answer_of(content)
    assert isinstance(answer["embeddings"], list) == ragged
    (vector,) = batch_of(["a"], answer, len(wanted), True).embeddings
    assert vector.view(np.uint32).tolist() == NUMBERS.tolist()


def test_each_number_of_a_server_arrives_as_it_was_written(tmp_path: Path) -> None:
    wanted = chunks(1, len(NUMBERS))
    wanted.embeddings[:] = NUMBERS.view(np.float32)
    with ChromaServer(tmp_path / "db") as server, open_target(Endpoint(url=server.url)) as store:
        fill(store, "notes", wanted)
        found = store.read("notes", wanted.ids)
    assert found.embeddings.view(np.uint32).tolist() == [NUMBERS.tolist()]

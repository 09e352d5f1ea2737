"""What a source gives in one request is its own affair: asked within it, learnt from its refusals, gone on with."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.errors import Terminal, Transient
from helpers.parameters.endpoint import Endpoint
from helpers.reason_codes import ReasonCode
from helpers.snapshots.snapshot import write_snapshot
from helpers.stores import CollectionInfo, Reader, open_source, open_target
from helpers.stores import limits as retry_module
from helpers.stores.client import ClientStore
from helpers.stores.limits import CLOUD, NO_LIMIT, Limits, Requests
from tests.cloud_rules import QUOTAS
from tests.cloud_standin import CloudStandIn
from tests.servers import ChromaServer
from tests.storage import assert_same, chunks

CHUNKS = 701
Open = Callable[..., AbstractContextManager[Reader]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChromaServer]:
    with ChromaServer(tmp_path_factory.mktemp("cloud") / "db") as running:
        yield running


@pytest.fixture(scope="module")
def standin(server: ChromaServer) -> Iterator[CloudStandIn]:
    """701 chunks in `notes`."""
    batch = chunks(CHUNKS, 8)
    with CloudStandIn(server.url) as running:
        with running.client(behind=True) as client:
            notes = client.create_collection("notes", metadata={"hnsw:space": "cosine"}, embedding_function=None)
            notes.add(
                ids=batch.ids, embeddings=batch.embeddings, documents=batch.documents, metadatas=batch.metadatas,
                uris=[f"file:///{i}" for i in batch.ids],
            )  # fmt: skip
        yield running


@pytest.fixture
def cloud(standin: CloudStandIn) -> Iterator[CloudStandIn]:
    """The stand-in as it was, its counts at nought."""
    yield standin
    quotas = {name: value for name, (_, value) in QUOTAS.items()}
    concurrent = {"reads": 10, "writes": 10}
    standin.set(reset=True, quotas=quotas, concurrent=concurrent, delay=0.0, storm=0, retry_after=None, per_second=None)


@pytest.fixture
def opened(cloud: CloudStandIn, monkeypatch: pytest.MonkeyPatch) -> Open:
    monkeypatch.setenv("CHROMA_API_KEY", cloud.key)

    def source(**more: Any) -> AbstractContextManager[Reader]:
        headers = {"x-chroma-token": "env:CHROMA_API_KEY"}
        given = {"url": cloud.url, "headers": headers, "timeout_seconds": 60.0, **more}
        return open_source(Endpoint.model_validate(given), Path("unused"))

    return source


def question(cloud: CloudStandIn) -> np.ndarray[Any, Any]:
    return chunks(CHUNKS, 8).embeddings[:50]


# -- reading -----------------------------------------------------------------------------------------------------------


def test_a_known_cloud_is_read_whole_without_one_refusal(opened: Open, cloud: CloudStandIn) -> None:
    cloud.set(reset=True)
    with opened(cloud=True) as store:
        assert store.limits().within(CLOUD) == store.limits()
        assert store.names() == ["notes"]
        assert store.info("notes").space == "cosine"
        ids = store.ids("notes")
        assert len(ids) == len(set(ids)) == store.count("notes") == CHUNKS
        found = store.read("notes", ids)
        answers = store.query("notes", question(cloud), 1000)
    assert found.ids == ids
    assert all(uri == f"file:///{i}" for i, uri in zip(found.ids, found.uris, strict=True))
    assert [len(hits) for hits in answers] == [300] * 50
    assert [hits[0][0] for hits in answers] == chunks(CHUNKS, 8).ids[:50]
    assert cloud.counts()["violations"] == {}


def test_what_an_unknown_server_refuses_is_learnt_once_and_gone_on_with(opened: Open, cloud: CloudStandIn) -> None:
    cloud.set(reset=True)
    with opened() as store:
        assert store.limits().query_results == NO_LIMIT
        ids = store.ids("notes")
        assert store.read("notes", ids).ids == ids
        assert [len(hits) for hits in store.query("notes", question(cloud), 1000)] == [300] * 50
        learnt = store.limits()
        assert (learnt.page_rows, learnt.read_rows, learnt.query_results) == (300, 300, 300)
        assert store.usage.refusals == sum(cloud.counts()["violations"].values()) == 3
        store.ids("notes")
        store.query("notes", question(cloud), 1000)
        assert store.usage.refusals == 3
    assert cloud.counts()["violations"] == {"Limit value": 1, "Number of results": 1, "Number of query embeddings": 1}


def test_a_quota_that_falls_in_the_middle_of_a_snapshot_is_learnt(
    opened: Open, cloud: CloudStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(cloud=True) as store:
        assert isinstance(store, ClientStore)
        store.info("notes")  # its probe reads a few chunks
        read, pieces = store._read_piece, list[int]()

        def lowering(*asked: Any) -> Any:
            if len(pieces) == 1:
                cloud.set(reset=True, quotas={"limit_value": 100, "num_records": 100})
            pieces.append(len(asked[1]))
            return read(*asked)

        monkeypatch.setattr(store, "_read_piece", lowering)
        snapshot = write_snapshot(store, tmp_path, "lowered", ["notes"], retention_days=1, readers=1)
        assert pieces == [300, 300, 100, 100, 100, 100, 1]
        assert store.limits().read_rows == store.limits().page_rows == 100
        assert snapshot.total == CHUNKS
        assert [i for batch in snapshot.batches("notes") for i in batch.ids] == store.ids("notes")
    assert cloud.counts()["violations"] == {"Limit value": 1}


def test_a_refusal_that_names_no_figure_halves_what_was_asked(opened: Open, cloud: CloudStandIn) -> None:
    limits = Limits(300, 10**6)
    assert limits.narrowed("Quota exceeded: too many", {"page_rows": 1000}).page_rows == 500
    assert limits.narrowed("Quota exceeded: too many", {"query_results": 1000, "query_vectors": 1}).query_results == 500
    said = "Quota exceeded: 'Number of records' exceeded quota limit for action 'Add': current usage of 300 exceeds limit of 1,00"
    assert limits.narrowed(said.replace("1,00", "100"), {"write_rows": 300}) == Limits(100, 10**6)
    other = (
        "Quota exceeded: 'Limit value' exceeded quota limit for action 'Get': current usage of 9 exceeds limit of 300"
    )
    assert limits.narrowed(other, {"read_rows": 200}).read_rows == 100  # contradicts itself: halve all the same
    assert limits.narrowed("Quota exceeded: nobody knows", {"read_rows": 1}) == limits  # nothing smaller can be asked


def test_a_refusal_about_what_cannot_be_split_is_one_line(opened: Open, cloud: CloudStandIn) -> None:
    cloud.set(quotas={"num_where_document_predicates": 0})
    with opened(cloud=True) as store, pytest.raises(Terminal) as caught:
        store.document_contains("notes", "c0", "text")  # type: ignore[attr-defined]
    assert caught.value.code == "quota_exceeded"
    assert "predicates" in caught.value.line()
    assert "\n" not in caught.value.line()


def test_ids_that_are_not_there_are_absent_and_an_answer_that_is_cut_in_silence_is_not_taken_for_that(
    opened: Open, cloud: CloudStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(cloud=True) as store:
        ids = store.ids("notes")[:250]
        collection: Any = type(store._collection("notes"))  # type: ignore[attr-defined]
        whole = collection.get

        def cut(self: Any, **asked: Any) -> Any:
            if asked.get("ids"):
                asked["limit"] = min(asked["limit"], 60)
            return whole(self, **asked)

        monkeypatch.setattr(collection, "get", cut)
        found = store.read("notes", [*ids, "nobody"])
    assert found.ids == ids


# -- pace --------------------------------------------------------------------------------------------------------------


def test_no_more_requests_at_a_time_than_a_collection_takes(opened: Open, cloud: CloudStandIn) -> None:
    cloud.set(reset=True, delay=0.05, concurrent={"reads": 10})
    with opened(cloud=True) as store:
        ids = store.ids("notes")
        with ThreadPoolExecutor(24) as pool:
            parts = list(pool.map(lambda i: store.read("notes", ids[i::48]), range(48)))
    assert sum(map(len, parts)) == CHUNKS
    counts = cloud.counts()
    assert counts["violations"] == {}
    assert 4 <= counts["highest"]["reads"] <= 10


def test_ids_come_in_the_stores_order_though_several_pages_are_asked_for_at_a_time(
    opened: Open, cloud: CloudStandIn
) -> None:
    with opened(cloud=True) as store:
        cloud.set(reset=True, quotas={"limit_value": 50}, delay=0.05)
        assert store.ids("notes") == chunks(CHUNKS, 8).ids  # the limit is learnt by all readers together
        cloud.set(reset=True)
        assert store.ids("notes") == chunks(CHUNKS, 8).ids
    counts = cloud.counts()
    assert 2 <= counts["highest"]["reads"] <= 10
    assert counts["violations"] == {}
    assert (
        counts["requests"]["Get"] == 17
    )  # 16 pages, each with the last id of the one before, and one that proves the end


def test_a_storm_of_429_is_waited_out_and_counted(opened: Open, cloud: CloudStandIn) -> None:
    told: list[str] = []
    with opened(cloud=True) as store:
        store.usage.tell = told.append
        cloud.set(reset=True, storm=12, retry_after=0.05)  # more than the tries that a broken server gets
        ids = store.ids("notes")
        assert len(ids) == CHUNKS
        assert cloud.counts()["throttled"] == 12
        assert len(told) == 12
        assert store.usage.waited >= 12 * 0.05
    assert all("429" in sentence for sentence in told)


def test_a_storm_while_it_is_opened_is_waited_out(opened: Open, cloud: CloudStandIn) -> None:
    cloud.set(reset=True, storm=12, retry_after=0.05)
    with opened(cloud=True) as store:
        assert store.names() == ["notes"]
    assert cloud.counts()["throttled"] == 12


def test_looking_at_a_collection_takes_few_requests(opened: Open, cloud: CloudStandIn) -> None:
    with opened(cloud=True) as store:
        cloud.set(reset=True)
        assert store.info("notes").count == CHUNKS
        assert cloud.counts()["requests"]["all"] <= 6  # 1,500 collections are looked at one after another


def test_retry_after_is_kept_to(opened: Open, cloud: CloudStandIn) -> None:
    with opened(cloud=True) as store:
        cloud.set(storm=1, retry_after=1.5)
        begun = time.monotonic()
        store.count("notes")
        assert time.monotonic() - begun >= 1.5


def test_patience_has_an_end(opened: Open, cloud: CloudStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry_module, "PATIENCE", 2.0)
    with opened(cloud=True) as store:
        cloud.set(storm=10**6, retry_after=0.5)
        begun = time.monotonic()
        with pytest.raises(Transient) as caught:
            store.count("notes")
        assert time.monotonic() - begun < 30
    assert caught.value.code == "server_busy"
    assert "429" in caught.value.line()


def test_retry_after_may_be_a_date_and_nonsense_is_passed_over() -> None:
    soon = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 60))
    assert 50 < (retry_module.retry_after(soon) or 0) <= 61
    assert retry_module.retry_after("7") == 7
    assert retry_module.retry_after("Fri, 01 Jan 1999 00:00:00 GMT") == 0
    assert retry_module.retry_after("") is retry_module.retry_after("soon") is None


def test_a_limit_that_another_thread_has_learnt_is_not_learnt_twice() -> None:
    requests, together = Requests(Limits(10, 10)), threading.Barrier(2, timeout=10)

    def refused() -> None:
        together.wait()
        raise retry_module.QuotaExceeded(ReasonCode.QUOTA_EXCEEDED, "Quota exceeded: no figure")

    def ask() -> int:
        with pytest.raises(retry_module.Narrower):
            requests.send(refused, "here", read_rows=1000)
        return requests.limits.read_rows

    with ThreadPoolExecutor(2) as pool:
        assert set(pool.map(lambda _: ask(), range(2))) == {500}


# -- counting ----------------------------------------------------------------------------------------------------------


def test_requests_rows_and_bytes_are_counted_as_the_server_counts_them(opened: Open, cloud: CloudStandIn) -> None:
    with opened(cloud=True) as store:
        collection, before = store.ids("notes"), store.usage.counts()
        cloud.set(reset=True)
        store.read("notes", collection)
        after, seen = store.usage.counts(), cloud.counts()
        assert after["rows"] - before["rows"] == seen["rows"]["Get"] == CHUNKS
        assert after["requests"] - before["requests"] == seen["requests"]["all"]
        assert after["bytes"] - before["bytes"] > CHUNKS * 8 * 4


# -- a target with quotas ----------------------------------------------------------------------------------------------


def test_a_target_is_written_within_its_quotas_and_a_chunk_over_one_is_refused_by_name(
    cloud: CloudStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHROMA_API_KEY", cloud.key)
    batch, name = chunks(450, 4), f"copy-{uuid.uuid4().hex[:6]}"
    headers = {"x-chroma-token": "env:CHROMA_API_KEY"}
    place = Endpoint.model_validate({"url": cloud.url, "headers": headers, "timeout_seconds": 60.0})
    cloud.set(reset=True)
    with open_target(place) as store:
        assert store.limits().write_rows == 1000  # what the server says, and more than it takes
        store.create(CollectionInfo(name, 0, 4, "l2", "l2"))
        store.add(name, batch)
        assert_same(store.read(name, batch.ids), batch)
        assert store.limits().write_rows == 300
        assert cloud.counts()["violations"]["Number of records"] == 1
        long = batch.take([0])
        long.ids, long.documents = ["long"], ["x" * 17_000]
        with pytest.raises(Terminal) as caught:
            store.add(name, long)
        assert caught.value.code == "quota_exceeded"
        assert store.limits().document_bytes == 16_384
        store.drop(name)
        assert name not in store.names()

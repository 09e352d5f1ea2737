"""Servers that speak API v1, read and probed by our store: what they answer, what they refuse, and how the network fails."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from helpers.chunks import ChunkBatch
from helpers.errors import Terminal, Transient
from helpers.parameters.endpoint import Endpoint
from helpers.stores import open_source, open_target, quick_names
from helpers.stores.api_v1 import ApiV1Store
from tests.compat.environments import NoEnvironment, environment
from tests.compat.seeds import assert_read, plant
from tests.conftest import absent
from tests.proxies import BUSY, CUT_AFTER, CUT_BEFORE, SILENT, FaultyProxy
from tests.servers import ChromaServer
from tests.storage import assert_same, chunks, in_order, plan

pytestmark = pytest.mark.servers
Served = tuple[str, ChromaServer, list[dict[str, Any]]]


@pytest.fixture(scope="module", params=["0.4.24", "0.5.0", "0.5.23"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server of an old version, with what it was given to hold."""
    try:
        python = environment(request.param)
    except NoEnvironment as error:
        absent(f"an environment for chromadb {request.param}", str(error))
    folder = tmp_path_factory.mktemp("old") / "db"
    wanted = plant(python, folder, mixed=True)
    with ChromaServer(folder, python.with_name("chroma")) as server:
        yield request.param, server, wanted


def at(url: str, **more: Any) -> Endpoint:
    return Endpoint.model_validate({"url": url, "api": "v1", "timeout_seconds": 20.0, **more})


def test_the_protocol_is_asked_for_and_not_guessed(served: Served, tmp_path: Path) -> None:
    version, server, _ = served
    with open_source(Endpoint(url=server.url), tmp_path) as store:
        assert store.version == version
        assert store.protocol == ("API v2" if version == "0.5.23" else "API v1")
    with open_source(at(server.url), tmp_path) as store:
        assert (store.version, store.protocol) == (version, "API v1")
    if version != "0.5.23":
        with pytest.raises(Terminal, match="does not speak API v2") as caught:
            quick_names(Endpoint(url=server.url, api="v2"), "source")
        assert caught.value.code == "source_other_api"


@pytest.mark.parametrize("api", ["auto", "v1"])
def test_an_old_server_is_refused_as_a_target_in_one_line(served: Served, api: str) -> None:
    _, server, _ = served
    with pytest.raises(Terminal, match="can be a source but not a target") as caught:
        quick_names(at(server.url, api=api), "target")
    assert caught.value.code == "target_too_old"
    with pytest.raises(Terminal, match="can be a source but not a target"), open_target(at(server.url, api=api)):
        pass


@pytest.mark.parametrize("key", ["tenant", "database"])
@pytest.mark.parametrize("value", ["typo", "../default_tenant", "a b?c=d"])
def test_a_wrong_tenant_or_database_is_an_error_and_not_an_empty_source(served: Served, key: str, value: str) -> None:
    with pytest.raises(Terminal, match=key) as caught:
        quick_names(at(served[1].url, **{key: value}), "source")
    assert caught.value.code == f"unknown_{key}"


@pytest.mark.parametrize("api", ["auto", "v1"])
def test_everything_is_read_as_it_was_seeded(served: Served, tmp_path: Path, api: str) -> None:
    _, server, wanted = served
    with open_source(at(server.url, api=api), tmp_path) as store:
        assert_read(store, wanted)


def test_text_queries_are_refused_with_the_reason(served: Served, tmp_path: Path) -> None:
    with open_source(at(served[1].url), tmp_path) as store:
        assert "keep no embedding function" in store.why_no_text_queries("notes-l2")
        with pytest.raises(Terminal, match="keep no embedding function"):
            store.query_texts("notes-l2", ["plain words"], 3)
        with pytest.raises(Terminal) as caught:
            store.count("no such collection")
        assert caught.value.code == "not_found"


@pytest.mark.parametrize("fault", [BUSY, CUT_BEFORE, CUT_AFTER])
def test_reads_are_tried_again_and_carry_the_headers(
    served: Served, tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHROMA_SECRET", "Bearer s3cr3t-value")
    with FaultyProxy(served[1].url) as proxy:
        for path in ("/heartbeat", "/tenants/default_tenant", "/collections", "/count", "/get"):
            proxy.faults.next(path, fault)
        with open_source(at(proxy.url, headers={"Authorization": "env:CHROMA_SECRET"}), tmp_path) as store:
            assert len(store.names()) == 3
            assert len(store.read("notes-ip", store.ids("notes-ip"))) == store.count("notes-ip")
        assert proxy.faults.planned == []
        assert {headers.get("authorization") for _, _, headers in proxy.requests} == {"Bearer s3cr3t-value"}


def test_a_silent_server_does_not_hold_us_longer_than_the_time_out(served: Served, tmp_path: Path) -> None:
    with FaultyProxy(served[1].url) as proxy, open_source(at(proxy.url, timeout_seconds=0.5), tmp_path) as store:
        proxy.fault = lambda method, path: SILENT
        with pytest.raises(Transient, match="no answer in time"):
            store.names()


def test_what_is_written_is_read_back_and_goes_again(served: Served) -> None:
    """A write probe, and a restore: chunks with and without documents, an answer that was cut, an existing name."""
    _, server, _ = served
    batch = chunks(60)
    batch.documents[3:9] = [None] * 6
    batch.metadatas[7:12] = [None] * 5
    with FaultyProxy(server.url) as proxy, httpx.Client(base_url=proxy.url, timeout=20.0) as http:
        http.headers["Content-Type"] = "application/json"
        store = ApiV1Store(http, "old", tenant="default_tenant", database="default_database")
        store.create(plan("probe", "cosine"))
        with pytest.raises(Terminal) as caught:
            store.create(plan("probe", "l2"))
        assert caught.value.code == "exists"
        proxy.faults.next("/add", CUT_AFTER, CUT_BEFORE)
        store.add("probe", batch)
        assert (store.count("probe"), store.info("probe").space) == (60, "cosine")
        found = store.read("probe", batch.ids)
        np.testing.assert_allclose(found.embeddings, batch.embeddings, rtol=1e-6)
        found.embeddings = batch.embeddings
        assert_same(in_order(found), in_order(batch))
        store.delete("probe", batch.ids[:50])
        assert sorted(store.ids("probe")) == sorted(batch.ids[50:])
        store.drop("probe")
        assert "probe" not in store.names()


def test_an_empty_collection_has_its_declared_space_and_no_dimension(served: Served) -> None:
    with httpx.Client(base_url=served[1].url, timeout=20.0, headers={"Content-Type": "application/json"}) as http:
        store = ApiV1Store(http, "old", tenant="default_tenant", database="default_database")
        store.create(plan("nothing-yet", "ip"))
        try:
            info = store.info("nothing-yet")
            assert (info.count, info.dimension, info.space) == (0, None, "ip")
            assert store.ids("nothing-yet") == []
            assert_same(store.read("nothing-yet", []), ChunkBatch.empty())
        finally:
            store.drop("nothing-yet")

"""The stand-in for Chroma Cloud holds a client to what the hosted service holds it to, and counts."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import chromadb.errors
import httpx
import numpy as np
import pytest
from chromadb.base_types import SparseVector

from tests.cloud_standin import KEY, TENANT, CloudStandIn
from tests.servers import ChromaServer

BASE = f"/api/v2/tenants/{TENANT}/databases"


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChromaServer]:
    with ChromaServer(tmp_path_factory.mktemp("cloud") / "behind") as server:
        yield server


@pytest.fixture(scope="module")
def cloud(behind: ChromaServer) -> Iterator[CloudStandIn]:
    """700 records with everything that a record can have, in the collection `docs`."""
    with CloudStandIn(behind.url, databases=("production", "staging")) as cloud, cloud.client() as client:
        docs = client.create_collection("docs", embedding_function=None, metadata={"hnsw:space": "cosine"})
        vectors = np.random.default_rng(7).normal(size=(700, 8)).astype(np.float32)
        for start in range(0, 700, 300):
            rows = range(start, min(start + 300, 700))
            docs.add(
                ids=[f"d{i}" for i in rows], embeddings=vectors[rows.start : rows.stop],
                documents=[f"document {i}" for i in rows], uris=[f"s3://bucket/{i}" for i in rows],
                metadatas=[{"n": i, "sparse": SparseVector([1, i + 2], [0.5, -1e-07])} for i in rows],
            )  # fmt: skip
        yield cloud


@pytest.fixture(autouse=True)
def open_again(cloud: CloudStandIn) -> None:
    cloud.set(reset=True, reads="open", writes="open", per_second=None, storm=0, delay=0.0, quotas={"limit_value": 300})


def http_client(cloud: CloudStandIn, **headers: str) -> httpx.Client:
    return httpx.Client(base_url=cloud.url, trust_env=False, timeout=60, headers=headers)


def test_a_key_is_needed_and_opens_its_own_databases_alone(cloud: CloudStandIn) -> None:
    for headers in ({}, {"x-chroma-token": "wrong"}, {"authorization": f"Bearer {KEY}"}):
        with http_client(cloud, **headers) as client:
            assert client.get("/api/v2/heartbeat").status_code == 200
            answer = client.get("/api/v2/auth/identity")
            assert (answer.status_code, answer.json()["message"]) == (401, "Permission denied.")
    with http_client(cloud, **{"x-chroma-token": KEY}) as client:
        assert client.get("/api/v2/auth/identity").json() == {
            "user_id": "f47ac10b-58cc-4372-a567-0e02b2c3d479", "tenant": TENANT, "databases": ["production", "staging"],
        }  # fmt: skip
        assert client.get(f"{BASE}/staging/collections").json() == []
        for path in (f"{BASE}/other/collections", "/api/v2/tenants/default_tenant", BASE):
            assert client.get(path).status_code == 403
    with http_client(cloud, **{"x-chroma-token": cloud.wide_key}) as client:
        assert client.get("/api/v2/auth/identity").json()["databases"] == ["*"]
        assert {d["name"] for d in client.get(BASE).json()} == {"production", "staging"}


def test_refusals_say_which_quota_and_by_how_much(cloud: CloudStandIn) -> None:
    with cloud.client() as client:
        docs = client.get_collection("docs", embedding_function=None)
        one = {"ids": ["x"], "embeddings": [[1.0] * 8]}
        vector = [[1.0] * 8]
        refused: list[tuple[str, str, int, int, Callable[[], Any]]] = [
            ("Limit value", "Get", 1056, 300, lambda: docs.get(ids=["d1"], limit=1056)),
            ("Number of records", "Get", 301, 300, lambda: docs.get(ids=[f"d{i}" for i in range(301)])),
            ("Number of results", "Query", 301, 300, lambda: docs.query(query_embeddings=vector, n_results=301)),
            ("Number of query embeddings", "Query", 21, 20, lambda: docs.query(query_embeddings=vector * 21)),
            ("Number of where clause predicates", "Get", 9, 8, lambda: docs.get(where={"$and": [{"n": 1}] * 9})),
            ("Length of where document value", "Get", 131, 130, lambda: docs.get(where_document={"$contains": "x" * 131})),
            ("Number of records", "Delete", 301, 300, lambda: docs.delete(ids=[f"d{i}" for i in range(301)])),
            ("Document size (bytes)", "Add", 16385, 16384, lambda: docs.add(**one, documents=["é" * 8192 + "x"])),
            ("ID size (bytes)", "Upsert", 129, 128, lambda: docs.upsert(ids=["i" * 129], embeddings=vector)),
            ("URI size (bytes)", "Add", 257, 256, lambda: docs.add(**one, uris=["u" * 257])),
            ("Embedding dimension", "Add", 4097, 4096, lambda: docs.add(ids=["x"], embeddings=[[1.0] * 4097])),
            ("Number of metadata dictionary keys", "Add", 33, 32,
             lambda: docs.add(**one, metadatas=[{f"k{i}": i for i in range(33)}])),
            ("Size of metadata dictionary key (bytes)", "Update", 37, 36,
             lambda: docs.update(ids=["d1"], metadatas=[{"k" * 37: 1}])),
            ("Size of metadata dictionary value (bytes)", "Add", 8183, 8182,
             lambda: docs.add(**one, metadatas=[{"k": "v" * 8183}])),
            ("Size of metadata dictionary value (bytes)", "Create Collection", 257, 256,
             lambda: client.create_collection("c" * 9, metadata={"k": "v" * 257}, embedding_function=None)),
            ("Name size (bytes)", "Create Collection", 129, 128,
             lambda: client.create_collection("c" * 129, embedding_function=None)),
            ("Limit value", "List Collections", 301, 300, lambda: client.list_collections(limit=301)),
        ]  # fmt: skip
        for quota, action, usage, limit, call in refused:
            with pytest.raises(chromadb.errors.ChromaError) as error:
                call()
            assert str(error.value) == (
                f"Quota exceeded: '{quota}' exceeded quota limit for action '{action}': "
                f"current usage of {usage} exceeds limit of {limit}"
            )
        counts = cloud.counts()
        assert sum(counts["violations"].values()) == len(refused)
        assert counts["violations"]["Limit value"] == 2
        assert docs.count() == 700
        docs.get(ids=[f"d{i}" for i in range(300)], where={"$and": [{"n": {"$in": list(range(99))}}] * 8}, limit=300)
        assert cloud.counts()["violations"] == counts["violations"]


def test_a_get_that_names_no_limit_is_cut_in_silence(cloud: CloudStandIn) -> None:
    with cloud.client() as client:
        docs = client.get_collection("docs", embedding_function=None)
        assert (docs.count(), len(docs.get(include=[])["ids"])) == (700, 300)
        cloud.set(quotas={"limit_value": 100})
        assert len(docs.get(include=[])["ids"]) == 100
        assert client._server.get_max_batch_size() == 1000  # as Cloud declares, whatever it takes


def test_rows_are_counted_and_so_is_what_goes_out_twice(cloud: CloudStandIn) -> None:
    with cloud.client() as client:
        docs = client.get_collection("docs", embedding_function=None)
        docs.get(limit=250, include=[])
        for ids in (["d1", "d2", "d3"], ["d3", "d4"]):
            docs.get(ids=ids, include=["embeddings", "documents"])
        docs.query(query_embeddings=[[1.0] * 8] * 2, n_results=5)
    counts = cloud.counts()
    assert counts["rows"] == {"Get": 255, "Query": 10}
    assert (counts["vectors"], counts["vectors_again"]) == ({"docs": 5}, {"docs": 1})
    assert counts["requests"]["Get"] == 3
    cloud.set(reset=True)
    assert cloud.counts()["rows"] == {}


def test_sparse_vectors_and_the_rest_of_a_record_come_back(cloud: CloudStandIn) -> None:
    cloud.set(sparse_index={"docs": ["sparse"]}, quantized=["docs"])
    with cloud.client() as client, cloud.client(behind=True) as behind:
        found = client.get_collection("docs").get(ids=["d7"], include=["metadatas", "documents", "uris"])
        assert found["metadatas"] == [{"n": 7, "sparse": SparseVector([1, 9], [0.5, -1e-07])}]
        assert (found["documents"], found["uris"]) == (["document 7"], ["s3://bucket/7"])
        described = client.list_collections()[0].schema.serialize_to_json()
        embedding = described["keys"]["#embedding"]["float_list"]["vector_index"]["config"]
        assert embedding["space"] == "cosine"
        assert embedding["spann"]["search_nprobe"] == 64
        assert described["keys"]["sparse"]["sparse_vector"]["sparse_vector_index"]["enabled"]
        assert client.get_collection("docs").configuration_json["hnsw"] is None
        assert behind.get_collection("docs").configuration_json["hnsw"]["space"] == "cosine"
    with http_client(cloud, **{"x-chroma-token": KEY}) as plain:
        raw = plain.get(f"{BASE}/production/collections/docs").json()["schema"]
        spann = raw["keys"]["#embedding"]["float_list"]["vector_index"]["config"]["spann"]
        assert spann["quantize"] == "four_bit_rabit_q_with_u_search"


def test_closed_for_writes_reads_go_on_and_closed_for_reads_nothing_does(cloud: CloudStandIn) -> None:
    with cloud.client() as client, cloud.client(behind=True) as behind:
        docs = client.get_collection("docs", embedding_function=None)
        cloud.set(writes="closed")
        writes: list[Callable[[], Any]] = [
            lambda: docs.add(ids=["x"], embeddings=[[1.0] * 8]), lambda: docs.delete(ids=["d1"]),
            lambda: docs.modify(name="other"), lambda: client.delete_collection("docs"),
            lambda: client.create_collection("new", embedding_function=None),
        ]  # fmt: skip
        for write in writes:
            with pytest.raises(chromadb.errors.ChromaError, match=r"^Permission denied\.$"):
                write()
        assert (docs.count(), len(docs.get(limit=10)["ids"])) == (700, 10)
        cloud.set(reads="closed", closed=[410, "ChromaError", "This service has ended."])
        with pytest.raises(chromadb.errors.ChromaError, match="has ended"):
            docs.count()
        assert [c.name for c in behind.list_collections()] == ["docs"]
    cloud.set(closed=[403, "ChromaError", "Permission denied."])


def test_more_than_ten_readers_of_a_collection_and_a_storm_get_429(cloud: CloudStandIn) -> None:
    with http_client(cloud, **{"x-chroma-token": KEY}) as client:
        number = client.get(f"{BASE}/production/collections/docs").json()["id"]
        cloud.set(reset=True, delay=0.5, retry_after=2)
        together = threading.Barrier(14)

        def read(_: int) -> httpx.Response:
            together.wait()
            return client.post(f"{BASE}/production/collections/{number}/get", json={"limit": 1, "include": []})

        with ThreadPoolExecutor(14) as pool:
            answers = list(pool.map(read, range(14)))
        refused = [a for a in answers if a.status_code == 429]
        counts = cloud.counts()
        assert len(refused) == 4
        assert refused[0].json() == {"error": "ChromaError", "message": "Too many requests; backoff and try again"}
        assert refused[0].headers["retry-after"] == "2"
        assert (counts["violations"], counts["highest"]["reads"]) == ({"concurrent reads": 4}, 10)

        cloud.set(reset=True, delay=0.0, storm=3, retry_after=None)
        storm = [client.get("/api/v2/auth/identity") for _ in range(4)]
        assert [a.status_code for a in storm] == [429, 429, 429, 200]
        assert "retry-after" not in storm[0].headers
        assert cloud.counts()["throttled"] == 3
        cloud.set(per_second=5)
        assert {client.get("/api/v2/auth/identity").status_code for _ in range(12)} == {200, 429}


def test_a_list_of_collections_without_a_limit_ends_at_a_hundred(cloud: CloudStandIn) -> None:
    assert cloud.counts()["rules"]["listed"] == 100
    cloud.set(listed=2)
    with cloud.client("staging") as client:
        for name in ("one", "two", "three"):
            client.create_collection(name, embedding_function=None)
        assert len(client.list_collections()) == 2
        assert len(client.list_collections(limit=100)) == 3


def test_the_fixture_starts_one_and_it_survives_killed_clients(
    cloud_standin: Callable[..., CloudStandIn], behind: ChromaServer
) -> None:
    cloud = cloud_standin(behind, databases=("only",))
    with cloud.client() as client:
        client.create_collection("docs", embedding_function=None).add(ids=["a"], embeddings=[[1.0, 2.0]])
        number = client.get_collection("docs").id
        body = b'{"limit":1}'
        path = f"/api/v2/tenants/{TENANT}/databases/only/collections/{number}/get"
        for sent in (
            b"POST",
            f"POST {path} HTTP/1.1\r\nx-chroma-token: {KEY}\r\ncontent-length: 11\r\n\r\n".encode() + body,
        ):
            with socket.create_connection(("127.0.0.1", cloud.port)) as gone:
                gone.sendall(sent)
                gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # reset, as a kill does
        assert client.get_collection("docs").count() == 1
        cloud.restart()
        assert client.get_collection("docs").count() == 1

"""Writing: collections made fresh, chunks added in pieces that the store accepts, removed without a trace."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromadb.base_types import SparseVector

from helpers.chunks import ChunkBatch
from helpers.errors import Terminal
from helpers.parameters.endpoint import Endpoint
from helpers.stores import CollectionInfo, open_source, open_target
from helpers.stores.client import ClientStore, pieces
from helpers.stores.limits import Limits
from tests.servers import ChromaServer
from tests.storage import assert_same, chunks, contents, embedded, exact, fill, in_order, plan


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChromaServer]:
    with ChromaServer(tmp_path_factory.mktemp("served") / "db") as running:
        yield running


@pytest.fixture(params=["embedded", pytest.param("served", marks=pytest.mark.servers)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ClientStore]:
    """An empty target, a directory and a server in turn."""
    if request.param == "embedded":
        with embedded(tmp_path / "target") as opened:
            yield opened
        return
    running: ChromaServer = request.getfixturevalue("server")
    with open_target(Endpoint(url=running.url)) as opened:
        yield opened
        for name in opened.names():
            opened.drop(name)


def test_what_is_added_is_what_is_read(store: ClientStore) -> None:
    batch = chunks(60)
    batch.documents[3], batch.documents[4] = None, ""
    batch.metadatas[5] = batch.metadatas[6] = None
    batch.metadatas[7] = {"tags": ["x", "é"], "marks": [1, 2], "parts": [0.5], "flags": [True]}
    batch.uris[8] = "file:///eight"
    fill(store, "notes", batch)
    assert store.count("notes") == 60
    assert_same(store.read("notes", batch.ids), batch)


def test_a_list_in_the_metadata_of_a_collection_is_stopped_before_it_can_panic_the_engine(store: ClientStore) -> None:
    with pytest.raises(Terminal, match="has a list under tags, which no Chroma takes") as caught:
        store.create(replace(plan("notes"), metadata={"tags": ["a", "b"]}))
    assert caught.value.code == "unsupported_metadata"
    assert store.names() == []
    fill(store, "notes", chunks(2))


def test_a_batch_of_none_alone_is_written_without_asking_an_embedding_function(store: ClientStore) -> None:
    batch = ChunkBatch(["a", "b"], [None, None], np.ones((2, 3), np.float32), [None, None])
    fill(store, "bare", batch)
    assert_same(contents(store, "bare"), batch)


def test_no_metadata_and_empty_metadata_are_both_none_in_chroma(store: ClientStore) -> None:
    batch = ChunkBatch(["a"], ["x"], np.ones((1, 3), np.float32), [None])
    fill(store, "bare", batch)
    assert store.read("bare", ["a"]).metadatas == [None]
    with pytest.raises(Terminal, match="metadata"):
        store.add("bare", replace(batch, ids=["b"], metadatas=[{}]))
    assert store.ids("bare") == ["a"]


def test_a_sparse_vector_is_refused_by_a_local_chroma_alone(store: ClientStore) -> None:
    """Local Chroma keeps none; the write decides, with one clear error and nothing written (chroma-facts 20)."""
    batch = chunks(1, 3)
    batch.metadatas = [{"sparse": SparseVector([1, 5], [0.5, 0.25])}]
    store.create(plan("sparse"))
    with pytest.raises(Terminal) as caught:
        store.add("sparse", batch)
    assert caught.value.code == "refused"
    assert "\n" not in str(caught.value)
    assert store.ids("sparse") == []


REFUSED: dict[str, Callable[[ChunkBatch], ChunkBatch]] = {
    "NaN in a vector": lambda b: replace(b, embeddings=np.full_like(b.embeddings, np.nan)),
    "another dimension": lambda b: replace(b, embeddings=b.embeddings[:, :3]),
    "an empty id": lambda b: replace(b, ids=["", *b.ids[1:]]),
    "an id twice": lambda b: replace(b, ids=[b.ids[1], *b.ids[1:]]),
    "a key with #": lambda b: replace(b, metadatas=[{"#x": 1}, *b.metadatas[1:]]),
    "a key with $": lambda b: replace(b, metadatas=[{"$x": 1}, *b.metadatas[1:]]),
    "a numpy scalar": lambda b: replace(b, metadatas=[{"x": np.float32(1)}, *b.metadatas[1:]]),
    "a mixed list": lambda b: replace(b, metadatas=[{"x": [1, "a"]}, *b.metadatas[1:]]),
    "an empty list": lambda b: replace(b, metadatas=[{"x": []}, *b.metadatas[1:]]),
    "a dictionary": lambda b: replace(b, metadatas=[{"x": {"y": 1}}, *b.metadatas[1:]]),
}


@pytest.mark.parametrize("kind", sorted(REFUSED))
def test_a_batch_that_chroma_refuses_is_not_written_at_all(store: ClientStore, kind: str) -> None:
    fill(store, "notes", chunks(2, 4, prefix="before"))
    with pytest.raises(Terminal) as caught:
        store.add("notes", REFUSED[kind](chunks(5, 4)))
    assert caught.value.code == "refused"
    assert "\n" not in str(caught.value)
    assert sorted(store.ids("notes")) == ["before0", "before1"]


def test_adding_onto_an_id_leaves_the_old_chunk(store: ClientStore) -> None:
    fill(store, "notes", chunks(3, 4))
    store.add("notes", chunks(3, 4, seed=9))
    assert_same(contents(store, "notes"), chunks(3, 4))


def test_deleting_and_adding_replaces_a_chunk_with_its_metadata(store: ClientStore) -> None:
    batch = chunks(30, 4)
    fill(store, "notes", batch)
    new = replace(chunks(30, 4, seed=7).take([4, 9]), documents=[None, "new"], metadatas=[None, {"only": 1}])
    store.delete("notes", new.ids)
    assert store.count("notes") == 28
    store.add("notes", new)
    assert_same(store.read("notes", new.ids), new)
    assert all(store.query("notes", v[None, :], 1)[0][0][0] == i for i, v in zip(new.ids, new.embeddings, strict=True))


def test_more_ids_than_one_request_carries_are_deleted(store: ClientStore) -> None:
    batch = ChunkBatch([f"{i}" for i in range(1200)], [None] * 1200, np.ones((1200, 2), np.float32), [None] * 1200)
    fill(store, "many", batch)
    store.delete("many", [*batch.ids[:1100], "nobody"])
    assert sorted(store.ids("many")) == sorted(batch.ids[1100:])


def test_a_dropped_collection_leaves_no_lists_in_later_ones(store: ClientStore) -> None:
    lists = chunks(60, 4)
    lists.metadatas = [{"tags": [f"old {i}"]} for i in range(60)]
    fill(store, "first", lists)
    store.drop("first")
    assert store.names() == []
    later = chunks(60, 4)
    fill(store, "second", later)
    assert_same(in_order(contents(store, "second")), in_order(later))
    fill(store, "first", chunks(2, 3))
    assert store.info("first").dimension == 3


def test_create_never_changes_what_is_there(store: ClientStore) -> None:
    batch = chunks(5, 4)
    fill(store, "mine", batch, "cosine")
    for again in (plan("mine", "ip"), plan("mine", "cosine"), plan("mine", metadata={"new": 1})):
        with pytest.raises(Terminal, match="already exists") as caught:
            store.create(again)
        assert caught.value.code == "exists"
    info = store.info("mine")
    assert (info.space, info.metadata, info.count) == ("cosine", None, 5)


HNSW = {
    "space": "cosine",
    "ef_construction": 77,
    "ef_search": 55,
    "max_neighbors": 24,
    "num_threads": 2,
    "batch_size": 50,
    "sync_threshold": 500,
    "resize_factor": 1.5,
}


def stored(info: CollectionInfo) -> dict[str, Any]:
    """The index parameters as the schema has them: all eight, which the configuration does not show."""
    assert info.schema is not None
    index = info.schema["keys"]["#embedding"]["float_list"]["vector_index"]["config"]
    return {"space": index["space"], **index["hnsw"]}


@pytest.mark.parametrize("space", ["l2", "cosine", "ip"])
def test_a_clone_keeps_every_index_parameter(store: ClientStore, tmp_path: Path, space: Any) -> None:
    metadata = {"team": "docs", "n": 3, "share": 0.5, "live": True}
    function = {"type": "known", "name": "of_another_team", "config": {"dimension": 4, "key": "k"}}
    configuration = {"hnsw": {**HNSW, "space": space}, "spann": None, "embedding_function": function}
    with embedded(tmp_path / "source") as source:
        source.create(replace(plan("base", space, metadata=metadata), configuration=configuration))
        source.add("base", chunks(20, 4))
        info = source.info("base")
    assert stored(info) == {**HNSW, "space": space}
    store.create(info)
    store.add("base", chunks(20, 4))
    clone = store.info("base")
    assert stored(clone) == {**HNSW, "space": space}
    assert (clone.space, clone.metadata, clone.configuration) == (space, metadata, info.configuration)
    assert clone.embedding_function == "of_another_team"
    assert clone.configuration["embedding_function"] == function


@pytest.mark.parametrize("name", ["default", "of_another_team"])
def test_a_plain_collection_keeps_its_embedding_function(store: ClientStore, tmp_path: Path, name: str) -> None:
    """Its schema has nothing that anybody chose: given that alone, Chroma forgets the function (chroma-facts)."""
    function = {"type": "known", "name": name, "config": {}}
    with embedded(tmp_path / "source") as source:
        info = replace(plan("base"), configuration={"hnsw": {}, "spann": None, "embedding_function": function})
        source.create(info)
        batch = chunks(5, 4)
        batch.metadatas = [None] * 5
        source.add("base", batch)
        info = source.info("base")
    assert info.schema is None or set(info.schema["keys"]) == {"#document", "#embedding"}
    store.create(info)
    assert store.info("base").configuration == info.configuration
    assert store.info("base").configuration["embedding_function"] == function


def test_hnsw_metadata_of_old_collections_becomes_configuration(store: ClientStore) -> None:
    old = {
        "hnsw:space": "cosine", "hnsw:construction_ef": 200, "hnsw:search_ef": 40, "hnsw:M": 32,
        "hnsw:num_threads": 2, "hnsw:batch_size": 60, "hnsw:sync_threshold": 700, "hnsw:resize_factor": 1.3, "topic": "x",
    }  # fmt: skip
    info = CollectionInfo("old", 0, 4, "cosine", "l2", metadata=old, configuration={"hnsw": {"space": "l2"}})
    store.create(info)
    store.add("old", chunks(30, 4))
    found = store.info("old")
    assert store._proven_spaces("old") == ["cosine"]
    assert found.metadata == old
    assert stored(found) == {
        "space": "cosine", "ef_construction": 200, "ef_search": 40, "max_neighbors": 32, "num_threads": 2,
        "batch_size": 60, "sync_threshold": 700, "resize_factor": 1.3,
    }  # fmt: skip


def test_the_effective_space_is_cloned_also_where_metadata_and_configuration_lie(store: ClientStore) -> None:
    """0.4–0.6 let a `modify` rewrite `hnsw:space` while the index kept its own (chroma-facts 2)."""
    lying = CollectionInfo("lying", 0, 4, "ip", "l2", metadata={"hnsw:space": "cosine"},
                           configuration={"hnsw": {"space": "l2"}})  # fmt: skip
    store.create(lying)
    store.add("lying", chunks(30, 4))
    assert store._proven_spaces("lying") == ["ip"]
    assert store.info("lying").space == "ip"


def test_a_schema_that_declares_the_wrong_space_is_cloned_with_the_right_one(
    store: ClientStore, tmp_path: Path
) -> None:
    with embedded(tmp_path / "source") as source:
        fill(source, "base", chunks(20, 4), "l2")
        info = source.info("base")
    store.create(replace(info, space="cosine"))
    store.add("base", chunks(20, 4))
    assert store._proven_spaces("base") == ["cosine"]
    assert stored(store.info("base"))["space"] == "cosine"


def test_the_real_cosine_collections_are_cosine_in_the_target(
    store: ClientStore, real_databases: Path, tmp_path: Path
) -> None:
    endpoint = Endpoint(path=str(real_databases / "open-webui-cosine-0.5"))
    with open_source(endpoint, tmp_path / "scratch") as source:
        for info in source.collections()[:3]:
            batch = source.read(info.name, source.ids(info.name))
            store.create(info)
            store.add(info.name, batch)
            assert store._proven_spaces(info.name) == ["cosine"]
            found = store.read(info.name, batch.ids)
            assert found.documents == batch.documents
            assert [exact(m) for m in found.metadatas] == [exact(m) for m in batch.metadatas]
            assert np.allclose(found.embeddings, batch.embeddings, rtol=5e-7, atol=1e-9)


def test_batches_are_cut_by_rows_and_by_bytes() -> None:
    batch = chunks(100, 8)
    by_rows = list(pieces(batch, Limits(30, 10**9)))
    assert [len(p) for p in by_rows] == [30, 30, 30, 10]
    by_bytes = list(pieces(batch, Limits(1000, 2000)))
    assert all(len(json.dumps([p.documents, p.metadatas])) < 2000 for p in by_bytes)
    assert_same(ChunkBatch.concatenate(by_bytes), batch)
    alone = list(pieces(batch, Limits(1000, 1)))  # over the limit whatever we do: the store itself says no
    assert [len(p) for p in alone] == [1] * 100
    assert list(pieces(ChunkBatch.empty(8), Limits(10, 10))) == []


@pytest.mark.servers
@pytest.mark.slow
def test_a_full_batch_of_1536_dimensions_gets_past_the_limit_of_40_mib(server: ChromaServer) -> None:
    rows = 5461
    vectors = np.random.default_rng(2).standard_normal((rows, 1536)).astype(np.float32)
    batch = ChunkBatch([f"c{i}" for i in range(rows)], [f"t{i}" for i in range(rows)], vectors, [None] * rows)
    with open_target(Endpoint(url=server.url, timeout_seconds=120)) as store:
        assert store.limits().write_rows >= rows
        fill(store, "wide", batch)
        assert store.count("wide") == rows
        some = batch.take(range(0, rows, 500))
        assert_same(store.read("wide", some.ids), some)
        with pytest.raises(Terminal, match=r"Payload too large|413"):  # what a naive script meets
            ClientStore(store.client, "naive", limits=Limits(10**6, 10**12)).add(
                "wide", replace(batch, ids=[f"d{i}" for i in range(rows)])
            )
        store.drop("wide")


@pytest.mark.servers
@pytest.mark.slow
def test_long_texts_are_capped_by_bytes_too(server: ChromaServer) -> None:
    batch = chunks(12, 4)
    batch.metadatas = [{"text": c * 4_000_000} for c in "abcdefghij\u4e2d\u6587"]
    with open_target(Endpoint(url=server.url)) as store:
        fill(store, "long", batch)
        assert_same(store.read("long", batch.ids), batch)
        store.drop("long")

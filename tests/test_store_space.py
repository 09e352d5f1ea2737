"""The distance space that a collection really uses: proven by a probe, whatever its configuration says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import chromadb
import numpy as np
import pytest

from helpers.chunks import ChunkBatch
from helpers.parameters.endpoint import Endpoint
from helpers.stores import SPACES, Space, consistent_spaces, distance, legacy_parameters, open_source, resolve
from helpers.stores.client import ClientStore
from tests.storage import chunks, embedded, fill, plan


def with_vectors(vectors: Sequence[Sequence[float]] | np.ndarray) -> ChunkBatch:
    matrix = np.asarray(vectors, np.float32)
    return ChunkBatch([f"c{i}" for i in range(len(matrix))], [None] * len(matrix), matrix, [None] * len(matrix))


def test_real_cosine_collections_whose_configuration_says_l2_are_found_to_be_cosine(
    real_databases: Path, tmp_path: Path
) -> None:
    with open_source(Endpoint(path=str(real_databases / "open-webui-cosine-0.5")), tmp_path) as store:
        infos = store.collections()
    assert len(infos) == 8
    assert {(i.space, i.declared_space) for i in infos} == {("cosine", "l2")}
    assert all("queries answer cosine" in i.findings[0] for i in infos)


@pytest.mark.parametrize("space", SPACES)
def test_each_space_is_proven_also_on_unit_vectors(tmp_path: Path, space: Space) -> None:
    batch = chunks(30, 16)
    batch.embeddings /= np.linalg.norm(batch.embeddings, axis=1, keepdims=True)  # here cosine and ip look alike
    with embedded(tmp_path / "db") as store:
        fill(store, "units", batch, space)
        assert store._proven_spaces("units") == [space]
        assert store.info("units").space == space
        assert store.info("units").findings == ()


@pytest.mark.parametrize("space", SPACES)
def test_a_single_vector_is_enough_for_the_probe(tmp_path: Path, space: Space) -> None:
    with embedded(tmp_path / "db") as store:
        fill(store, "one", with_vectors([[0.5, -0.25, 0.125, 2.0]]), space)
        assert store._proven_spaces("one") == [space]


class MisledStore(ClientStore):
    """A store that was told l2 by the best source of truth."""

    def wrong(self, name: str) -> ClientStore:
        self._spaces = {str(self._collection(name).id): "l2"}
        return self


def test_the_probe_wins_over_a_declaration_that_lies(tmp_path: Path) -> None:
    with embedded(tmp_path / "db") as store:
        fill(store, "liar", chunks(20), "ip")
        misled = MisledStore(store.client, "misled", limits=store.limits()).wrong("liar")
        info = misled.info("liar")
    assert info.space == "ip"
    assert info.findings == ("declared as l2, but queries answer ip",)


def test_zero_vectors_alone_cannot_be_probed_and_the_declaration_is_taken(tmp_path: Path) -> None:
    with embedded(tmp_path / "db") as store:
        fill(store, "zeros", with_vectors(np.zeros((5, 4))), "cosine")
        assert store._proven_spaces("zeros") is None
        info = store.info("zeros")
    assert (info.space, info.count, info.findings) == ("cosine", 5, ())


def test_an_empty_collection_has_the_declared_space_and_no_dimension(tmp_path: Path) -> None:
    with embedded(tmp_path / "db") as store:
        store.create(plan("empty", "ip"))
        info = store.info("empty")
        assert (info.space, info.dimension, info.count, info.findings) == ("ip", None, 0, ())
        assert store.ids("empty") == []
        assert len(store.read("empty", ["nobody"])) == 0


def test_zero_vectors_among_others_do_not_disturb_the_probe(tmp_path: Path) -> None:
    batch = chunks(10, 6)
    batch.embeddings[:4] = 0
    with embedded(tmp_path / "db") as store:
        fill(store, "mixed", batch, "cosine")
        assert store._proven_spaces("mixed") == ["cosine"]


def test_the_space_of_old_metadata_is_what_counts(tmp_path: Path) -> None:
    """A current client made it from `hnsw:space`; the configuration follows there."""
    client: Any = chromadb.PersistentClient(str(tmp_path / "db"))
    made = client.create_collection("old", metadata={"hnsw:space": "cosine"}, embedding_function=None)
    made.add(ids=["a", "b"], embeddings=[[1.0, 2.0], [3.0, 1.0]])
    client.close()
    with embedded(tmp_path / "db") as store:
        assert store.info("old").space == "cosine"


def test_get_or_create_does_not_change_the_space_of_what_exists(tmp_path: Path) -> None:
    with embedded(tmp_path / "db") as store:
        fill(store, "kept", chunks(20), "cosine")
        store.client.get_or_create_collection("kept", metadata={"hnsw:space": "ip"}, embedding_function=None)
        assert store._proven_spaces("kept") == ["cosine"]
        assert store.info("kept").space == "cosine"


@pytest.mark.parametrize("space", SPACES)
def test_our_distances_are_those_of_chroma(tmp_path: Path, space: Space) -> None:
    batch = chunks(40, 12, seed=3)
    query = np.random.default_rng(4).standard_normal(12).astype(np.float32)
    with embedded(tmp_path / "db") as store:
        fill(store, "all", batch, space)
        answered = dict(store.query("all", query[None, :], 40)[0])
    wanted = dict(zip(batch.ids, distance(space, batch.embeddings, query), strict=True))
    assert answered == pytest.approx({i: wanted[i] for i in answered}, rel=1e-5, abs=1e-6)


def test_distances_to_a_zero_vector() -> None:
    assert distance("cosine", [[0.0, 0.0]], [1.0, 0.0]).tolist() == [1.0]
    assert distance("l2", [[1.0, 0.0]], [[0.0, 2.0]]).tolist() == [5.0]
    assert distance("ip", [[1.0, 3.0]], [2.0, 1.0]).tolist() == [-4.0]


def test_what_cannot_be_told_apart_is_decided_by_the_declaration() -> None:
    assert consistent_spaces(np.zeros(2, np.float32), np.ones((1, 2), np.float32), [1.0]) == ["cosine", "ip"]
    assert resolve([None, "ip", "l2"], ["cosine", "ip"]) == ("ip", "declared as l2, but queries answer ip")
    assert resolve(["cosine"], None) == ("cosine", "")
    assert resolve(["cosine", "l2"], None)[1].startswith("sources of truth disagree")
    assert resolve(["l2"], []) == ("l2", "the probe's distances fit no known space; taken as l2")
    assert resolve([], None) == ("l2", "")


def test_index_parameters_that_would_kill_a_server_are_left_out() -> None:
    odd = {"hnsw:M": 0, "hnsw:search_ef": "many", "hnsw:construction_ef": True, "hnsw:unknown": 3, "hnsw:space": "l2"}
    assert legacy_parameters(odd) == {}
    assert legacy_parameters({"hnsw:M": 2}) == {}
    fine = {"hnsw:M": 24, "hnsw:search_ef": 64, "hnsw:resize_factor": 2, "hnsw:num_threads": 3}
    assert legacy_parameters(fine) == {"max_neighbors": 24, "ef_search": 64, "resize_factor": 2.0, "num_threads": 3}

"""Reading: ids frozen first, chunks by id, aligned by id; what cannot be read is found alone."""

from __future__ import annotations

import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.chunks import ChunkBatch, align
from helpers.errors import Terminal
from helpers.parameters.endpoint import Endpoint
from helpers.stores import client as store_module
from helpers.stores import open_source
from helpers.stores.client import ClientStore
from tests.storage import (
    ODD_IDS,
    assert_same,
    chunks,
    contents,
    embedded,
    exact,
    fill,
    in_order,
    lose_vectors,
    plan,
)

VALUES: list[dict[str, Any] | None] = [
    None,
    {"flag": True, "one": 1, "also": 1.0, "no": False, "zero": 0, "nought": 0.0},
    {"tiny": 5e-324, "huge": 1.7976931348623157e308, "below": -(2**63), "top": 2**63 - 1},
    {"text": "", "long": "ж" * 5000, "key with blank": "x", "日本": "語"},
    {"texts": ["a", "", "é"], "ints": [1, -2], "floats": [0.5, -2.0], "flags": [True, False]},
]


def test_chunks_come_in_the_order_asked_and_unknown_ids_are_absent(tmp_path: Path) -> None:
    batch = chunks(50)
    wanted = [40, 3, 49, 0, 17]
    with embedded(tmp_path / "db") as store:
        fill(store, "notes", batch)
        asked = ["nobody", *(batch.ids[i] for i in wanted), "nor this"]
        found = store.read("notes", asked)
        assert_same(found, batch.take(wanted))
        without = store.read("notes", asked, embeddings=False)
        assert (without.ids, without.dimension) == (found.ids, 0)
        assert without.documents == found.documents


def test_an_id_asked_twice_is_answered_twice(tmp_path: Path) -> None:
    batch = chunks(5)
    with embedded(tmp_path / "db") as store:
        fill(store, "notes", batch)
        assert_same(store.read("notes", ["c3", "c1", "c3"]), batch.take([3, 1, 3]))


def test_ids_are_frozen_once_each_also_over_several_pages(tmp_path: Path) -> None:
    batch = chunks(200, 3)
    with embedded(tmp_path / "db") as store:
        store.requests.limits = replace(store.limits(), page_rows=7, read_rows=60)
        fill(store, "notes", batch)
        ids = store.ids("notes")
        assert len(ids) == len(set(ids)) == store.count("notes") == 200
        assert_same(store.read("notes", batch.ids), batch)


def test_more_ids_than_one_call_can_carry_are_read(tmp_path: Path) -> None:
    batch = ChunkBatch([f"{i:06d}" for i in range(17_000)], [None] * 17_000, np.ones((17_000, 1), np.float32),
                       [None] * 17_000)  # fmt: skip
    with embedded(tmp_path / "db") as store:
        fill(store, "many", batch)
        assert store.read("many", batch.ids).ids == batch.ids


def test_documents_metadata_uris_and_odd_ids_come_back_exactly(tmp_path: Path) -> None:
    count = len(ODD_IDS)
    batch = ChunkBatch(
        ids=ODD_IDS,
        documents=[None, "", "text", None, "\n\t", "中文", "🧪", "x", "'", None],
        embeddings=np.linspace(-1, 1, count * 4, dtype=np.float32).reshape(count, 4),
        metadatas=[VALUES[i % len(VALUES)] for i in range(count)],
        uris=[None, "file:///a b", None, "", *[None] * (count - 4)],
    )
    with embedded(tmp_path / "db") as store:
        fill(store, "odd", batch)
        assert sorted(store.ids("odd")) == sorted(ODD_IDS)
        assert_same(store.read("odd", ODD_IDS), batch)
    assert unicodedata.normalize("NFC", ODD_IDS[1]) == ODD_IDS[0]  # two ids that look alike stay two


@pytest.mark.parametrize("space", ["l2", "ip"])
def test_vectors_are_bit_exact_but_for_cosine(tmp_path: Path, space: Any) -> None:
    batch = chunks(4, 4)
    batch.embeddings[0] = [1e-45, -0.0, 1e-38, 3e38]
    with embedded(tmp_path / "db") as store:
        fill(store, "bits", batch, space)
        assert_same(contents(store, "bits"), batch)


def test_cosine_vectors_come_back_within_half_a_millionth(tmp_path: Path) -> None:
    batch = chunks(300, 64, seed=5)
    with embedded(tmp_path / "db") as store:
        fill(store, "near", batch, "cosine")
        found = store.read("near", batch.ids)
    assert np.allclose(found.embeddings, batch.embeddings, rtol=5e-7, atol=0)


def test_full_precision_floats_in_metadata_stay_within_an_ulp(tmp_path: Path) -> None:
    values = np.random.default_rng(1).random(500).tolist()
    batch = chunks(500, 2)
    batch.metadatas = [{"x": v} for v in values]
    with embedded(tmp_path / "db") as store:
        fill(store, "floats", batch)
        found = [m["x"] for m in store.read("floats", batch.ids).metadatas if m]
    assert found == pytest.approx(values, rel=1e-12, abs=0)


@pytest.mark.parametrize("lost", [["lost-1"], ["lost-1", "lost-2", "lost-3"]])
def test_lost_vectors_are_isolated_and_what_is_left_of_them_is_read(tmp_path: Path, lost: list[str]) -> None:
    batch = chunks(300, 4)
    with embedded(tmp_path / "db") as store:
        fill(store, "notes", batch)
    lose_vectors(tmp_path / "db", "notes", lost)
    with open_source(Endpoint(path=str(tmp_path / "db")), tmp_path / "scratch") as store:
        assert store.count("notes") == 300 + len(lost)
        assert isinstance(store, ClientStore)
        with pytest.raises(Exception, match="Error finding id"):  # what a naive reader meets
            store.client.get_collection("notes", embedding_function=None).get(include=["embeddings"])
        found = contents(store, "notes")
        assert [i for i, gone in zip(found.ids, found.lost, strict=True) if gone] == lost
        left = store.read("notes", lost)
        assert store.info("notes").space == "l2"
    assert left.documents == [f"left of {i}" for i in lost]
    assert [exact(m) for m in left.metadatas] == [exact({"rest": n}) for n in range(len(lost))]
    assert np.isnan(left.embeddings).all()
    assert_same(in_order(found.take(np.flatnonzero(~found.lost))), in_order(batch))


def test_the_answers_of_real_directories_are_whole(real_databases: Path, tmp_path: Path) -> None:
    path = real_databases / "no-documents-128-1.x"
    with open_source(Endpoint(path=str(path)), tmp_path) as store:
        [info] = store.collections()
        batch = contents(store, info.name)
    assert (info.dimension, len(batch)) == (128, 1000)
    assert set(batch.documents) == {None}
    assert np.isfinite(batch.embeddings).all()

    path = real_databases / "chinese-zero-vector-1.5"
    with open_source(Endpoint(path=str(path)), tmp_path) as store:
        batches = [contents(store, info.name) for info in store.collections()]
    assert sum(int((~b.embeddings.any(axis=1)).sum()) for b in batches) == 1
    assert any("\u4e00" <= c <= "\u9fff" for b in batches for d in b.documents for c in d or "")


def test_short_answers_are_attributed_to_nobody() -> None:
    """Five ids and one vector: whose vector it is cannot be known (chroma-facts 16)."""
    short = {"ids": ["a", "b"], "documents": [None, None], "metadatas": [None, None], "embeddings": np.ones((1, 2))}
    with pytest.raises(store_module.VectorLost):
        store_module.batch_of(["a", "b"], short, 2, True)
    holes = {**short, "embeddings": [[1.0, None], [1.0, 2.0]]}  # a cosine vector whose norm overflowed
    found = store_module.batch_of(["b", "a"], holes, 2, True).embeddings
    assert found[0].tolist() == [1.0, 2.0]
    assert np.isnan(found[1, 1])


def test_answers_are_aligned_by_id() -> None:
    assert align(["b", "x", "a"], {"a": 0, "b": 1}) == ([1, 0], ["x"])


def test_neighbours_are_best_first_and_never_more_than_asked(tmp_path: Path) -> None:
    batch = chunks(120, 6)
    with embedded(tmp_path / "db") as store:
        fill(store, "notes", batch)
        found = store.query("notes", batch.embeddings, 5)
        assert len(found) == 120
        assert all(row[0][0] == chunk for chunk, row in zip(batch.ids, found, strict=True))
        assert all(len(row) == 5 and row == sorted(row, key=lambda pair: pair[1]) for row in found)


def test_text_queries_without_a_usable_function_say_why(tmp_path: Path) -> None:
    with embedded(tmp_path / "db") as store:
        fill(store, "notes", chunks(3))
        assert store.why_no_text_queries("notes") == "the collection names no embedding function"
        with pytest.raises(Terminal, match="names no embedding function") as caught:
            store.query_texts("notes", ["what"], 2)
        assert caught.value.code == "embedding_function_unavailable"
        unknown = {"type": "known", "name": "of_another_team", "config": {}}
        configuration = {"hnsw": {"space": "l2"}, "spann": None, "embedding_function": unknown}
        store.create(replace(plan("theirs"), configuration=configuration))
        assert store.why_no_text_queries("theirs") == "embedding function of_another_team is not installed here"
        default = {"type": "known", "name": "default", "config": {}}
        configured = replace(plan("default"), configuration={**configuration, "embedding_function": default})
        store.create(configured)
        store.add("default", chunks(3, 4))
        assert "384 dimensions" in store.why_no_text_queries("default")


def test_a_collection_that_is_not_there_is_named(tmp_path: Path) -> None:
    with embedded(tmp_path / "db") as store:
        for call in (store.count, store.ids, store.info, lambda name: store.read(name, ["a"])):
            with pytest.raises(Terminal, match="nowhere") as caught:
                call("nowhere")
            assert caught.value.code == "not_found"


def test_collections_are_listed_by_name(tmp_path: Path) -> None:
    with embedded(tmp_path / "db") as store:
        for i in (3, 1, 4, 0, 2):
            store.create(plan(f"notes-{i}"))
        assert store.names() == [info.name for info in store.collections()] == [f"notes-{i}" for i in range(5)]

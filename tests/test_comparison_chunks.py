"""What counts as a difference between a chunk expected and a chunk found, and that each is found by name of id."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from helpers.chunks import ChunkBatch
from helpers.snapshots.comparison import compare, owners, same_value
from helpers.stores import SPACES, Space


def batch(n: int = 6, dimension: int = 8, seed: int = 1) -> ChunkBatch:
    vectors = np.random.default_rng(seed).normal(size=(n, dimension)).astype(np.float32)
    metadatas: list[Any] = [{"line": i, "score": i / 7, "tags": ["a", "b"], "open": i % 2 == 0} for i in range(n)]
    return ChunkBatch([f"c{i}" for i in range(n)], [f"text {i}" for i in range(n)], vectors, metadatas)


def copy(original: ChunkBatch) -> ChunkBatch:
    again = original.take(range(len(original)))
    again.metadatas = [None if m is None else dict(m) for m in original.metadatas]
    return again


def found(expected: ChunkBatch, changed: ChunkBatch, space: Space = "l2") -> list[tuple[str, str, str]]:
    rows = compare(expected, changed, space).differences
    return sorted(zip(rows["id"], rows["difference"], rows["field"], strict=True))


@pytest.mark.parametrize("space", SPACES)
def test_equal_batches_in_any_order_have_no_difference(space: Space) -> None:
    expected = batch()
    assert found(expected, expected.take([3, 1, 0, 5, 4, 2]), space) == []


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("dimension", [8, 1536])
def test_one_float_changed_by_a_thousandth_is_found(space: Space, dimension: int) -> None:
    expected = batch(dimension=dimension)
    changed = copy(expected)
    changed.embeddings[2, dimension // 2] += np.float32(1e-3)
    rows = compare(expected, changed, space).differences
    assert list(rows["id"]) == ["c2"]
    assert f"component {dimension // 2}:" in rows["detail"].iloc[0]


@pytest.mark.parametrize("space", SPACES)
def test_swapped_vectors_name_both_ids_and_whose_they_are(space: Space) -> None:
    expected = batch()
    changed = copy(expected)
    changed.embeddings[[1, 4]] = changed.embeddings[[4, 1]]
    rows = compare(expected, changed, space).differences
    assert list(rows["id"]) == ["c1", "c4"]
    assert rows["detail"].iloc[0].endswith("this is the vector of id c4")
    assert rows["detail"].iloc[1].endswith("this is the vector of id c1")


def test_vectors_swapped_between_batches_are_matched_too() -> None:
    first, second = batch(seed=1), batch(seed=2)
    second.ids = [f"d{i}" for i in range(6)]
    a, b = copy(first), copy(second)
    a.embeddings[0], b.embeddings[3] = second.embeddings[3], first.embeddings[0]
    wrong = [compare(first, a, "cosine").wrong, compare(second, b, "cosine").wrong]
    assert owners([w for w in wrong if w is not None], "cosine") == {"c0": "d3", "d3": "c0"}


def test_cosine_may_round_and_the_others_may_not() -> None:
    expected = batch()
    rounded = copy(expected)
    rounded.embeddings = np.nextafter(rounded.embeddings, np.float32(np.inf))
    assert found(expected, rounded, "cosine") == []
    assert len(found(expected, rounded, "l2")) == len(found(expected, rounded, "ip")) == 6


def test_the_tolerance_of_cosine_is_that_of_each_component_not_of_the_largest() -> None:
    expected = batch()
    expected.embeddings[0, :2] = 1000.0, 1e-4
    changed = copy(expected)
    changed.embeddings[0, 1] = 1.1e-4  # far below 5e-7 of the largest component, and a change of ten per cent
    assert [row[0] for row in found(expected, changed, "cosine")] == ["c0"]


@pytest.mark.parametrize("space", SPACES)
def test_a_zero_vector_only_equals_zero(space: Space) -> None:
    expected = batch()
    expected.embeddings[0] = 0
    assert found(expected, copy(expected), space) == []
    changed = copy(expected)
    changed.embeddings[0, 0] = 1e-30
    assert [row[0] for row in found(expected, changed, space)] == ["c0"]


def test_negative_zero_and_denormals_are_exact_on_l2() -> None:
    expected = batch()
    expected.embeddings[0, :2] = 0.0, 1e-42
    for value in (-0.0, 1.2e-42):
        changed = copy(expected)
        changed.embeddings[0, 0 if value == 0 else 1] = value
        assert [row[0] for row in found(expected, changed)] == ["c0"]


def test_nan_a_lost_vector_and_another_dimension_differ() -> None:
    expected = batch()
    changed = copy(expected)
    changed.embeddings[1, 0] = np.nan
    changed.embeddings[2] = np.nan
    changed.lost[2] = True
    assert [row[0] for row in found(expected, changed, "cosine")] == ["c1", "c2"]
    short = copy(expected)
    short.embeddings = short.embeddings[:, :4].copy()
    assert [row[:2] for row in found(expected, short)] == [(f"c{i}", "vector_differs") for i in range(6)]


def test_missing_extra_and_doubled_chunks() -> None:
    expected = batch()
    changed = expected.take([0, 1, 2, 3, 4, 4])
    changed.ids[0] = "stranger"
    assert found(expected, changed) == [
        ("c0", "chunk_missing", ""),
        ("c4", "chunk_doubled", ""),
        ("c5", "chunk_missing", ""),
        ("stranger", "chunk_extra", ""),
    ]


@pytest.mark.parametrize(
    ("was", "now"), [(None, ""), ("", None), ("a", "b"), ("é", "e\u0301"), ("x" * 90, "x" * 89 + "y")]
)
def test_documents_are_exact_and_none_is_not_empty(was: str | None, now: str | None) -> None:
    expected, changed = batch(), batch()
    expected.documents[3], changed.documents[3] = was, now
    assert found(expected, changed) == [("c3", "document_differs", "document")]


def test_uris_are_compared() -> None:
    expected, changed = batch(), batch()
    changed.uris[0] = "https://example.org/"
    assert found(expected, changed) == [("c0", "uri_differs", "uri")]


@pytest.mark.parametrize(
    ("field", "value", "difference"),
    [
        ("line", 99, "metadata_differs"),
        ("line", 2.0, "type_differs"),
        ("line", True, "type_differs"),
        ("line", "2", "type_differs"),
        ("tags", ["b", "a"], "metadata_differs"),
        ("tags", ["a"], "metadata_differs"),
        ("tags", [1, 2], "type_differs"),
        ("score", 2 / 7 * (1 + 1e-9), "metadata_differs"),
        ("score", float("nan"), "metadata_differs"),
        ("new", 1, "field_extra"),
    ],
)
def test_one_metadata_value(field: str, value: Any, difference: str) -> None:
    expected, changed = batch(), batch()
    metadata = changed.metadatas[2]
    assert metadata is not None
    metadata[field] = value
    assert found(expected, changed) == [("c2", difference, field)]


def test_a_field_left_out_and_metadata_left_out() -> None:
    expected, changed = batch(), batch()
    metadata = changed.metadatas[2]
    assert metadata is not None
    del metadata["score"]
    changed.metadatas[4] = None
    assert found(expected, changed) == [
        ("c2", "field_missing", "score"),
        *[("c4", "field_missing", name) for name in ("line", "open", "score", "tags")],
    ]


def test_floats_may_move_by_a_unit_in_the_last_place_and_empty_metadata_is_none() -> None:
    assert same_value(0.1, float(np.nextafter(0.1, 1)))
    assert not same_value(1764355000.123456, 1764355000.124456), "a time stamp that moved by a millisecond"
    assert not same_value(4111111111111111.0, 4111111111111113.0), "a number that is an id"
    assert same_value(float("nan"), float("nan"))
    assert same_value(float("inf"), float("inf"))
    assert not same_value(1.0, float("inf"))
    assert not same_value(1, True)
    expected, changed = batch(), batch()
    expected.metadatas[0], changed.metadatas[0] = {}, None
    assert found(expected, changed) == []


def test_foreign_text_in_a_detail_is_escaped_and_short() -> None:
    expected, changed = batch(), batch()
    changed.documents[0] = "\u202e\n<script>" + "x" * 10_000
    detail = compare(expected, changed, "l2").differences["detail"].iloc[0]
    assert detail.isprintable()
    assert len(detail) < 400


def test_the_measured_arrays_are_paired_by_id() -> None:
    expected = batch()
    changed = copy(expected).take([5, 4, 3, 2, 1, 0])
    changed.embeddings[0, 0] += 1
    seen = compare(expected, changed, "l2").measured()
    assert seen.ids == expected.ids
    assert np.flatnonzero(seen.relative).tolist() == [5]
    assert seen.distances[5] == pytest.approx(1, rel=1e-6)
    assert seen.mismatched.min() > 0.5


def test_empty_batches_and_batches_without_vectors() -> None:
    assert found(ChunkBatch.empty(), ChunkBatch.empty()) == []
    assert found(batch(), ChunkBatch.empty(8)) == [(f"c{i}", "chunk_missing", "") for i in range(6)]
    bare = ChunkBatch(["a"], [None], np.zeros((1, 0), np.float32), [None])
    assert found(bare, bare) == []

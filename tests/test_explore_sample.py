"""The sample that comparisons work on: bounded, the same in any order of reading, fair; and what is found in it."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from helpers.chunks import ChunkBatch
from helpers.profiling import MOST, MOST_BYTES, TEXT, Places, Sampler, quotas
from helpers.profiling.similarity import labels, near_documents, near_vectors
from helpers.stores import CollectionInfo


def info(name: str, count: int, dimension: int = 8) -> CollectionInfo:
    return CollectionInfo(name, count, dimension, "cosine", "cosine")


def batch(start: int, stop: int, dimension: int = 8) -> ChunkBatch:
    ids = [f"c{i}" for i in range(start, stop)]
    vectors = np.arange(start, stop, dtype=np.float32)[:, None] + np.ones(dimension, np.float32)
    return ChunkBatch(ids, [f"document {i}" for i in ids], vectors, [{"n": i} for i in range(start, stop)])


def test_up_to_its_size_the_sample_is_the_source() -> None:
    sampler = Sampler([info("a", 30), info("b", 5)], seed=1)
    for name, count in (("a", 30), ("b", 5)):
        sampler.add(name, batch(0, count), ["t"] * count)
    sample = sampler.sample(35)
    assert sample.is_whole
    assert sample.frame["id"].tolist() == [f"c{i}" for i in range(30)] + [f"c{i}" for i in range(5)]
    assert "35 chunks" in sample.description


def chosen(total: int, starts: range, most: int) -> tuple[list[str], int]:
    """The ids that are kept of `total` chunks read from these starts, and the most that were in memory after a batch."""
    sampler = Sampler([info("big", total), info("small", 100)], seed=7, most=most)
    step = abs(starts.step)
    vectors, nothing = np.zeros((step, 4), np.float32), [None] * step
    held = 0
    for start in starts:
        ids = [f"c{i}" for i in range(start, start + step)]
        sampler.add("big", ChunkBatch(ids, list(nothing), vectors, list(nothing)), ["t"] * step)
        held = max(held, sum(map(len, sampler.parts.values())))
    return sorted(kept.id for kept in sampler.sample(total).parts["big"]), held


@pytest.mark.parametrize("total", [100_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_of_many_chunks_a_bounded_and_fair_part_is_kept(total: int) -> None:
    ids, held = chosen(total, range(0, total, 500), most=500)
    assert len(ids) == quotas([info("big", total), info("small", 100)], most=500)["big"]
    assert held <= 2 * 500 + 500, "twice the sample and one batch"
    numbers = np.array([int(chunk[1:]) for chunk in ids])
    assert abs(numbers.mean() / total - 0.5) < 0.05, "every part of the source has its share"


def test_vectors_without_a_direction_are_in_the_sample_and_in_none_of_its_spaces() -> None:
    sampler, some = Sampler([info("a", 6)], seed=1), batch(0, 6)
    some.embeddings[2], some.embeddings[4, 1] = 0.0, np.inf
    sampler.add("a", some, ["t"] * 6)
    sample = sampler.sample(6)
    [(dimension, rows, vectors)] = sample.spaces()
    assert (dimension, rows.tolist(), len(sample)) == (8, [0, 1, 3, 5], 6)
    assert np.array_equal(vectors, some.embeddings[rows])
    assert all(np.shares_memory(sample.parts["a"][row].vector, vectors) for row in rows)
    assert not sample.parts["a"][2].vector.any()


def test_the_sample_does_not_depend_on_the_order_of_reading() -> None:
    forwards, _ = chosen(20_000, range(0, 20_000, 500), most=300)
    backwards, _ = chosen(20_000, range(19_500, -1, -500), most=300)
    assert forwards == backwards


def test_memory_follows_the_sample_and_not_the_source() -> None:
    def peak(total: int) -> int:
        sampler = Sampler([info("big", total, 64)], seed=7, most=300)
        tracemalloc.start()
        for start in range(0, total, 1_000):
            sampler.add("big", batch(start, start + 1_000, 64), ["t"] * 1_000)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    assert peak(20_000) < 1.3 * peak(4_000)


def test_quotas_keep_within_chunks_and_bytes_and_leave_no_collection_out() -> None:
    infos = [info("huge", 900_000, 1536), info("small", 20, 1536), info("empty", 0, 1536)]
    shares = quotas(infos)
    assert sum(shares.values()) <= MOST * 1.05
    assert 4 * 1536 * sum(shares.values()) <= MOST_BYTES * 1.05
    assert shares["small"] == 20
    wide = quotas([info("wide", 100_000, 8192)])
    assert 4 * 8192 * wide["wide"] <= MOST_BYTES


def test_long_documents_are_kept_by_their_beginning_and_their_length() -> None:
    sampler = Sampler([info("a", 1)], seed=1)
    long = ChunkBatch(["x"], ["y" * 10_000], np.ones((1, 8), np.float32), [{"t": "z" * 5_000}])
    sampler.add("a", long, ["t"])
    [row] = sampler.sample(1).frame.to_dict("records")
    assert (len(row["document"]), row["characters"]) == (TEXT, 10_000)
    assert len(row["t"]) < 1_000


def test_a_metadata_field_never_hides_a_column_of_the_frame() -> None:
    sampler = Sampler([info("a", 1)], seed=1)
    sampler.add("a", ChunkBatch(["x"], ["d"], np.ones((1, 8), np.float32), [{"id": "other", "norm": "n"}]), ["t"])
    [row] = sampler.sample(1).frame.to_dict("records")
    assert (row["id"], row["metadata.id"], row["metadata.norm"]) == ("x", "other", "n")


def test_near_documents_are_found_and_others_are_not() -> None:
    rng = np.random.default_rng(5)
    words = [f"w{i}" for i in range(400)]
    texts: list[str | None] = [" ".join(rng.choice(words, 120)) for _ in range(300)]
    texts += [None, ""]
    changed = str(texts[10]).replace("w1 ", "w2 ", 1) + " end"
    texts += [changed, str(texts[20]).upper().replace(" ", "  ")]
    pairs = {(a, b): similarity for a, b, similarity in near_documents(texts)}
    assert set(pairs) == {(302, 10), (303, 20)}
    assert pairs[303, 20] == 1.0
    assert 0.9 <= pairs[302, 10] < 1


def test_near_vectors_are_found_in_many_dimensions_too() -> None:
    rng = np.random.default_rng(5)
    vectors = rng.normal(size=(600, 1536)).astype(np.float32)
    vectors[400] = vectors[3] * 2.5 + rng.normal(scale=0.01, size=1536)
    vectors[550] = vectors[7] + rng.normal(scale=0.5, size=1536)  # cosine about 0.9: not near enough
    [(a, b, similarity)] = near_vectors(vectors, seed=1)
    assert (a, b) == (400, 3)
    assert 0.999 <= similarity <= 1


def test_a_hundred_copies_are_ninety_nine_rows() -> None:
    assert len(near_documents(["the same text, a hundred times over"] * 100)) == 99
    assert len(near_vectors(np.ones((100, 300), np.float32), seed=1)) == 99


def test_places_are_all_kept_the_first_of_them_in_memory(tmp_path: Path) -> None:
    places = Places(tmp_path / "findings", kept=3)
    for i in range(10):
        places.note("zero_vectors", "a" if i < 9 else "b", str(i))
    assert places.total("zero_vectors") == 10
    for _ in range(2):
        assert [place.id for place in places.every("zero_vectors")] == [str(i) for i in range(10)]
    assert len(list((tmp_path / "findings").iterdir())) == 1
    assert list(Places(tmp_path / "findings").every("zero_vectors")) == [], "a new pass begins anew"
    assert places.total("nothing") == 0


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["b", "a", "b", None], ["b", "a", "(missing)"]),
        ([True, False, True], ["True", "False"]),
        ([1, 2, 1, "x"], ["1", "2", "x"]),
        ([*range(100), None, "high"], ["0 to 19.8", "19.8 to 39.6", "39.6 to 59.4", "59.4 to 79.2",
          "79.2 to 99", "(no number)", "(missing)"]),
    ],
)  # fmt: skip
def test_values_get_labels_in_a_sensible_order(values: list[object], expected: list[str]) -> None:
    assert list(labels(pd.Series(values, dtype=object)).categories) == expected

"""The second opinion on metadata, and everything together that keeps a chunk from being written."""

from __future__ import annotations

import datetime as dt
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pandas as pd
import pytest

from helpers.chunks import ChunkBatch
from helpers.schema import Context, Schema, load_schema

CONTEXT = Context(frozenset({"c", "d"}), dt.date(2025, 12, 1), "prefix")


@pytest.fixture(scope="module")
def schema() -> Schema:
    return load_schema("if_ttt")


def batch(*metadatas: Any) -> ChunkBatch:
    n = len(metadatas)
    return ChunkBatch([f"id{i}" for i in range(n)], ["text"] * n, np.ones((n, 3), np.float32), list(metadatas))


@pytest.fixture
def good(schema: Schema) -> dict[str, Any]:
    found = schema.transform(batch({}), "c", CONTEXT).batch.metadatas[0]
    assert found is not None
    return found


def reasons(table: pd.DataFrame) -> list[tuple[str, str]]:
    return list(zip(table["id"], table["reason"], strict=True))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("source", ""),
        ("source", " "),
        ("author", 5),
        ("source_line", -1),
        ("source_line", 1.0),
        ("source_line", True),
        ("source_line", 2**63),
        ("authenticity_score", 1),
        ("authenticity_score", 1.5),
        ("authenticity_score", -0.1),
        ("authenticity_score", math.nan),
        ("authenticity_score", "0.5"),
        ("disputed", 0),
        ("confidence_level", "certain"),
        ("language", "english"),
        ("if_citation_uri", "if://citation/x-2025-02-30"),
        ("if_citation_uri", "if://citation/x"),
        ("collection_type", "humor"),
        ("collection_type", "essay"),
        ("source_collection", ""),
        ("word_count", "3"),
    ],
)
def test_every_wrong_value_is_named(schema: Schema, good: dict[str, Any], field: str, value: Any) -> None:
    found = schema.check(batch(good, good | {field: value}, good), "corpus", collection="t")
    assert reasons(found) == [("id1", f"invalid_{field}")]
    assert found["collection"][0] == "t"
    assert found["detail"][0] == repr(value)


def test_every_missing_field_is_named(schema: Schema, good: dict[str, Any]) -> None:
    for field in good:
        lacking = {k: v for k, v in good.items() if k != field}
        assert reasons(schema.check(batch(lacking), "corpus")) == [("id0", f"missing_{field}")]
    assert len(schema.check(batch(None), "corpus")) == len(good)


def test_many_faults_in_one_batch_are_all_found_in_order(schema: Schema, good: dict[str, Any]) -> None:
    bad = good | {"author": "", "disputed": None}
    found = schema.check(batch(bad, good, bad), "corpus")
    assert reasons(found) == [(i, r) for i in ("id0", "id2") for r in ("invalid_author", "missing_disputed")]


def test_a_good_batch_and_an_empty_one(schema: Schema, good: dict[str, Any]) -> None:
    columns = ["collection", "id", "reason", "detail"]
    for table in (schema.check(batch(good), "corpus"), schema.check(ChunkBatch.empty(), "corpus")):
        assert (len(table), list(table.columns)) == (0, columns)
    assert load_schema("identity").check(batch({"a": 1}, None), None).empty


def test_the_origin_must_be_a_collection_of_the_source(schema: Schema, good: dict[str, Any]) -> None:
    odd = batch(good, good | {"source_collection": "elsewhere"})
    assert schema.check(odd, "corpus").empty
    found = schema.check(odd, "corpus", source_collections={"c", "d"})
    assert reasons(found) == [("id1", "invalid_source_collection")]


def test_the_wrong_collection_is_found(schema: Schema, good: dict[str, Any]) -> None:
    found = reasons(schema.check(batch(good), "humor"))
    assert ("id0", "invalid_collection_type") in found
    assert ("id0", "missing_humor_type") in found


def test_several_threads_may_check_at_once(schema: Schema, good: dict[str, Any]) -> None:
    batches = [batch(*[good | ({"author": ""} if i == n else {}) for i in range(30)]) for n in range(12)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda b: reasons(schema.check(b, "corpus")), batches))
    assert found == [[(f"id{n}", "invalid_author")] for n in range(12)]


def test_failures_gather_everything_under_the_source_ids(schema: Schema) -> None:
    vectors = np.ones((5, 3), np.float32)
    vectors[1, 0] = np.nan
    given = ChunkBatch(
        ["a", "b", "c", "d", "e"], ["text", "text", None, "", "text"], vectors,
        [{"collection_type": "humor"}, None, {}, {}, {"$x": 1, "tags": []}],
    )  # fmt: skip
    done = schema.transform(given, "c", CONTEXT)
    assert done.batch.ids[0] == "c:a"
    found = schema.failures(done, CONTEXT, dimension=3, allowed_dimensions=(), space="cosine")
    assert reasons(found) == [("e", "unsupported_metadata"), ("b", "nan_embedding"), ("c", "missing_document")]
    broken = schema.transform(given, "c", CONTEXT)
    broken.batch.metadatas[0] = {k: v for k, v in (broken.batch.metadatas[0] or {}).items() if k != "author"}
    found = schema.failures(broken, CONTEXT, dimension=4, allowed_dimensions=(), space="l2")
    assert ("a", "missing_author") in reasons(found)
    assert sum(found["reason"] == "wrong_dimension") == 5

"""What a current Chroma refuses, drops or changes: our rules beside the real thing, embedded."""

from __future__ import annotations

import datetime as dt
import enum
import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import chromadb
import numpy as np
import pytest
from chromadb.base_types import SparseVector
from chromadb.config import Settings
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.chunks import ChunkBatch
from helpers.schema import Context, load_schema
from helpers.schema.rules import metadata_problems, plain, vector_failures

Client = Any  # chromadb's own annotations know neither `close` nor the values that these tests send it
CONTEXT = Context(frozenset({"c"}), dt.date(2025, 12, 1), "fail")
_numbers = itertools.count()


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    path: Path = tmp_path_factory.mktemp("chroma")
    opened: Client = chromadb.PersistentClient(str(path), settings=Settings(anonymized_telemetry=False))
    yield opened
    opened.close()


def fresh(client: Client, space: str = "l2") -> Any:
    name = f"test{next(_numbers):05d}"
    return client.create_collection(name, embedding_function=None, configuration={"hnsw": {"space": space}})


def arrives(collection: Any, metadata: Any, document: str | None = "x", chunk_id: str = "") -> bool:
    """Whether Chroma takes the chunk and gives exactly this metadata back."""
    chunk_id = chunk_id or f"id{next(_numbers)}"
    try:
        collection.add(ids=[chunk_id], embeddings=[[1.0, 2.0]], metadatas=[metadata], documents=[document])
        found = collection.get(ids=[chunk_id], include=["metadatas"])["metadatas"]
        collection.count()
    except (ValueError, TypeError, UnicodeEncodeError, chromadb.errors.ChromaError):
        return False
    return found is not None and same(dict(found[0]) if found[0] else None, metadata)


def same(found: Any, wanted: Any) -> bool:
    if type(found) is not type(wanted):
        return False
    if isinstance(wanted, float):
        return bool(found == pytest.approx(wanted, rel=1e-12, abs=0.0))  # 1 ulp of JSON parsing (chroma-facts 5)
    if isinstance(wanted, list):
        return len(found) == len(wanted) and all(map(same, found, wanted))
    if isinstance(wanted, dict):
        return found.keys() == wanted.keys() and all(same(found[k], wanted[k]) for k in wanted)
    return bool(found == wanted)


GOOD: dict[str, Any] = {
    "no metadata": None,
    "text": {"a": "x"},
    "empty text": {"a": ""},
    "nul": {"a\0": "x\0y"},
    "unicode": {"ключ": "🙂 é"},
    "sign inside": {"a$b#": 1},
    "other case": {"Chroma:x": 1, "chroma": 2},
    "blank key": {" ": 1},
    "int64": {"a": 2**63 - 1, "b": -(2**63), "c": 2**53 + 1},
    "floats": {"a": 1e308, "b": 5e-324, "c": -0.0, "d": 3.0, "e": 1e20},
    "bool": {"a": True, "b": False},
    "lists": {"a": ["x", "x"], "b": [1], "c": [1.5, 2.0], "d": [True, False], "e": [""]},
}
BAD: dict[str, Any] = {
    "no keys": {},
    "hash": {"#a": 1},
    "dollar": {"$a": 1},
    "reserved": {"chroma:x": 1, "b": 2},
    "reserved document": {"chroma:document": "x"},
    "empty key": {"": 1},
    "number as key": {1: 1},
    "big": {"a": 2**63},
    "small": {"a": -(2**63) - 1},
    "big in a list": {"a": [2**63]},
    "nan": {"a": math.nan, "b": 1},
    "infinite": {"a": -math.inf, "b": 1},
    "none": {"a": None, "b": 1},
    "empty list": {"a": []},
    "mixed list": {"a": [1, "x"]},
    "integers and floats": {"a": [1, 2.5]},
    "booleans and integers": {"a": [True, 1]},
    "none in a list": {"a": ["x", None]},
    "nested list": {"a": [[1]]},
    "dictionary": {"a": {"b": 1}},
    "tuple": {"a": (1, 2)},
    "bytes": {"a": b"x"},
    "lone surrogate": {"a": "\ud800"},
    "lone surrogate in a list": {"a": ["\udfff"]},
    "lone surrogate in a key": {"\ud800": 1},
    "float32": {"a": np.float32(1)},
    "int64 scalar": {"a": np.int64(1)},
    "bool scalar": {"a": np.bool_(True)},
    "array": {"a": np.array([1, 2])},
    "scalars in a list": {"a": [np.float64(1)]},
    "nan in a list": {"a": [1.0, math.nan]},  # last: it breaks its collection for good
}


@pytest.mark.parametrize("name", GOOD)
def test_what_we_let_through_arrives(client: Client, name: str) -> None:
    assert metadata_problems(GOOD[name]) == []
    assert arrives(fresh(client), GOOD[name])


@pytest.mark.parametrize("name", BAD)
def test_what_we_stop_would_not_arrive(client: Client, name: str) -> None:
    assert metadata_problems(BAD[name])
    assert not arrives(fresh(client), BAD[name])


def test_sparse_vectors_are_metadata_for_those_targets_that_have_them(client: Client) -> None:
    assert metadata_problems({"a": SparseVector([1, 2], [0.5, 1.0])}) == []
    assert metadata_problems({"a": SparseVector([1], [math.nan])})
    assert metadata_problems({"a": SparseVector([2**33], [1.0])})
    assert not arrives(fresh(client), {"a": SparseVector([1], [1.0])})  # "not supported for local chroma"


@pytest.mark.parametrize("text", ["", "é", "a\0b", "\ud800"])
def test_texts_and_ids(client: Client, text: str) -> None:
    as_id = ChunkBatch([text], ["x"], np.ones((1, 2), np.float32), [None])
    as_document = ChunkBatch(["i"], [text], np.ones((1, 2), np.float32), [None])
    identity = load_schema("identity")
    id_fails = list(identity.transform(as_id, "c", CONTEXT).failures["reason"])
    assert id_fails == {"": ["empty_id"], "\ud800": ["unsupported_text"]}.get(text, [])
    document_fails = list(identity.transform(as_document, "c", CONTEXT).failures["reason"])
    assert document_fails == (["unsupported_text"] if text == "\ud800" else [])
    assert arrives(fresh(client), None, document=text) is not bool(document_fails)
    if text:
        assert arrives(fresh(client), None, chunk_id=text) is not bool(id_fails)


def test_identity_names_the_key_and_never_drops_silently() -> None:
    bad: list[Any] = [value for name, value in BAD.items() if name != "no keys"]
    batch = ChunkBatch([f"{i}" for i in range(len(bad))], [None] * len(bad), np.ones((len(bad), 2), np.float32), bad)
    done = load_schema("identity").transform(batch, "c", CONTEXT)
    numpy_only = {i for i, metadata in enumerate(bad) if not metadata_problems(plain(metadata))}
    assert len(numpy_only) == 5
    assert set(done.failures["id"]) == {i for n, i in enumerate(batch.ids) if n not in numpy_only}
    assert set(done.failures["reason"]) == {"unsupported_metadata"}
    first = done.failures.set_index("id")["detail"]["0"]
    assert first == "'#a': the key begins with #"


def test_numpy_scalars_become_python(client: Client) -> None:
    level = enum.IntEnum("level", {"high": 3})
    guests = {
        np.str_("a"): np.float32(0.5), "b": np.int64(-1), "c": np.bool_(True), "d": np.array([1, 2]),
        "e": [np.float64(1.5)], "f": np.str_("x"), "g": np.float64(2.0), "h": level.high,
    }  # fmt: skip
    wanted = {"a": 0.5, "b": -1, "c": True, "d": [1, 2], "e": [1.5], "f": "x", "g": 2.0, "h": 3}
    assert same(plain(guests), wanted)
    assert arrives(fresh(client), plain(guests))


NORMS = [0.0, 1e-24, 1e-22, 1e-21, 9e-21, 2e-20, 1e-10, 1.0, 9e18, 2e19, 1e30]


@pytest.mark.parametrize("space", ["l2", "cosine", "ip"])
def test_norms_that_an_index_can_hold(client: Client, space: str) -> None:
    direction = np.random.default_rng(20251201).standard_normal(384)
    direction /= np.linalg.norm(direction)
    vectors = np.outer(NORMS, direction).astype(np.float32)
    ids = [str(norm) for norm in NORMS]
    batch = ChunkBatch(ids, [None] * len(ids), vectors, [None] * len(ids))
    failed = vector_failures(batch, 384, (), space, False)
    assert set(failed["reason"]) <= {"tiny_norm"}
    assert list(failed["id"]) == (["1e-24", "1e-22", "1e-21", "9e-21", "2e+19", "1e+30"] if space == "cosine" else [])
    collection = fresh(client, space)
    collection.add(ids=ids, embeddings=vectors)
    found = collection.get(ids=ids, include=["embeddings"])
    back = dict(zip(found["ids"], np.asarray(found["embeddings"]), strict=True))
    for name, vector in zip(ids, vectors, strict=True):
        if name not in set(failed["id"]):
            np.testing.assert_allclose(back[name], vector, rtol=5e-7 if space == "cosine" else 0)
    if space == "cosine":
        assert not back["1e-24"].any()
        assert np.isnan(back["2e+19"]).all()


def test_each_fault_of_a_vector_has_its_reason() -> None:
    vectors = np.ones((7, 4), np.float32)
    vectors[0, 1:3] = np.nan
    vectors[1, 0] = -np.inf
    vectors[2] = [np.nan, np.inf, 0, 0]
    vectors[3] = np.nan
    vectors[4] = 0
    lost = np.array([False, False, False, True, False, False, False])
    batch = ChunkBatch(["0", "1", "2", "3", "4", "", "6"], ["", None, *["x"] * 5], vectors, [None] * 7, lost=lost)
    found = vector_failures(batch, 4, (4, 8), "cosine", True, collection="c")
    assert found.to_numpy().tolist() == [
        ["c", "0", "nan_embedding", "2 of 4 components are NaN"],
        ["c", "1", "infinite_embedding", "1 of 4 components are infinite"],
        ["c", "1", "missing_document", "no document"],
        ["c", "2", "infinite_embedding", "1 of 4 components are infinite"],
        ["c", "2", "nan_embedding", "1 of 4 components are NaN"],
        ["c", "3", "missing_embedding", "no vector could be read"],
        ["c", "", "empty_id", "the id is empty"],
    ]
    without = vector_failures(batch, 4, (), "l2", False)
    assert "missing_document" not in set(without["reason"])
    wrong = vector_failures(batch, 5, (), "l2", False)
    assert list(wrong.loc[wrong["reason"] == "wrong_dimension", "id"]) == ["0", "1", "2", "4", "", "6"]
    assert "3" not in set(vector_failures(batch, None, (768, 1536), "l2", False)["id"][lambda ids: ids == "4"])
    unread = ChunkBatch(["a"], ["x"], np.zeros((1, 0), np.float32), [None])
    assert list(vector_failures(unread, 4, (4,), "cosine", False)["reason"]) == ["missing_embedding"]
    assert vector_failures(ChunkBatch.empty(4), 4, (), "cosine", True).empty


texts = st.text(st.characters(codec=None), max_size=8) | st.sampled_from(
    ["", "3", "0.5", "true", "[]", '["a"]', "\ud800"]
)
floats = st.floats() | st.sampled_from([0.0, -0.0, 1.0, 1.5, math.nan])
integers = st.integers() | st.sampled_from([0, 1, -1, 2**63, 2**63 - 1])
scalars = texts | floats | integers | st.booleans() | st.none() | st.floats(width=32).map(np.float32)
values = scalars | st.lists(scalars, max_size=3) | st.lists(texts, max_size=3) | st.just({"a": 1})
names = [rule.name for kind in ("corpus", "personality") for rule in load_schema("if_ttt").rules(kind)]
keys = st.sampled_from([*names, "tags", "#x", "$x", "chroma:x", ""]) | texts
kinds = st.sampled_from(["personality", "humor", "essay", "corpus"])
metadatas = st.none() | st.dictionaries(keys, values, max_size=6) | st.fixed_dictionaries({"collection_type": kinds})


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(st.lists(metadatas, max_size=4), st.sampled_from(["if_ttt", "identity"]), st.booleans())
@pytest.mark.more
def test_whatever_comes_in(client: Client, given_metadatas: list[Any], name: str, lists: bool) -> None:
    """No chunk is lost, a second pass changes nothing, and what has no failure arrives in Chroma as it is."""
    schema = load_schema(name)
    context = Context(frozenset({"c"}), dt.date(2025, 12, 1), "fail", lists)
    n = len(given_metadatas)
    batch = ChunkBatch([f"i{i}" for i in range(n)], ["a b"] * n, np.ones((n, 2), np.float32), given_metadatas)
    done = schema.transform(batch, "c", context)
    assert done.source_ids == done.batch.ids == batch.ids
    assert len(done.targets) == n
    failed = set(done.failures["id"])
    kept = [i for i in range(n) if batch.ids[i] not in failed]
    again = schema.transform(done.batch.take(kept), "c", context)
    assert all(same(again.batch.metadatas[p], done.batch.metadatas[i]) for p, i in enumerate(kept))
    assert again.repairs.empty
    assert again.failures.empty
    found = schema.failures(done, context, dimension=2, allowed_dimensions=(), space="cosine")
    assert set(found["id"]) == failed
    collection = client.get_or_create_collection("property", embedding_function=None)
    for i in kept:
        assert arrives(collection, done.batch.metadatas[i])

"""The source against its snapshot: what came, what changed, what went, down to one bit and one metadata key."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from helpers.chunks import ChunkBatch
from helpers.errors import Terminal
from helpers.migration.delta import different_settings
from helpers.migration.restore import prove
from helpers.migration.source_changes import SourceChanges, source_changes
from helpers.snapshots.snapshot import Snapshot, write_snapshot
from helpers.stores.client import ClientStore
from helpers.stores.limits import refuse_gateway_answers
from tests.storage import chunks, contents, embedded, fill, lose_vectors, plan

HELD = {"alpha": ("l2", chunks(230, 4, prefix="a")), "beta": ("cosine", chunks(40, 6, seed=1, prefix="b"))}


@pytest.fixture
def source(tmp_path: Path) -> Iterator[ClientStore]:
    with embedded(tmp_path / "db") as store:
        for name, (space, batch) in HELD.items():
            fill(store, name, batch, space)  # type: ignore[arg-type]
        store.create(plan("empty"))
        yield store


@pytest.fixture
def snapshot(source: ClientStore, tmp_path: Path) -> Snapshot:
    return write_snapshot(source, tmp_path / "snapshots", "snap", source.names(), retention_days=7)


def again(store: ClientStore, name: str, row: int, **values: Any) -> None:
    """A chunk written anew, with these columns changed."""
    chunk = HELD[name][1].slice(row, row + 1)
    for column, value in values.items():
        setattr(chunk, column, value)
    store.delete(name, chunk.ids)
    store.add(name, chunk)


def as_rows(found: SourceChanges) -> dict[str, tuple[list[str], list[str], list[str]]]:
    return {name: (c.added, c.changed, c.deleted) for name, c in found.collections.items()}


def test_an_untouched_source_has_not_changed_also_where_chunks_were_written_again_alike(
    source: ClientStore, snapshot: Snapshot
) -> None:
    seen: list[int] = []

    class Watched:
        def advance(self, n: int = 1) -> None:
            seen.append(n)

    found = source_changes(source, snapshot, Watched())
    assert (found.nothing, found.total, sum(seen)) == (True, 0, 270)
    assert "nothing had changed since snapshot snap" in found.sentence()
    again(source, "alpha", 7)
    again(source, "beta", 3)
    assert source_changes(source, snapshot).nothing


def test_every_kind_of_change_is_named_by_id(source: ClientStore, snapshot: Snapshot) -> None:
    batch = HELD["alpha"][1]
    bit = batch.embeddings[3:4].copy()
    bit.view(np.uint32)[0, 1] ^= 1  # the last bit of one component
    again(source, "alpha", 3, embeddings=bit)
    again(source, "alpha", 4, documents=["another text"])
    again(source, "alpha", 5, documents=[None])
    again(source, "alpha", 6, metadatas=[{k: v for k, v in (batch.metadatas[6] or {}).items() if k != "word"}])
    again(source, "alpha", 8, metadatas=[{**(batch.metadatas[8] or {}), "n": 8.0}])  # another type, not another value
    source.delete("alpha", ["a200", "a0"])
    source.add("alpha", chunks(2, 4, seed=5, prefix="new"))
    moved = HELD["beta"][1].embeddings[2:3] * np.float32(1.00001)
    again(source, "beta", 2, embeddings=moved)
    found = source_changes(source, snapshot)
    assert as_rows(found) == {
        "alpha": (["new0", "new1"], ["a3", "a4", "a5", "a6", "a8"], ["a0", "a200"]),
        "beta": ([], ["b2"], []),
    }
    assert (found.added, found.changed, found.deleted, found.total, found.nothing) == (2, 6, 2, 10, False)
    assert "2 chunks added, 6 changed, 2 deleted since snapshot snap" in found.sentence()
    assert found.examples(2) == [{"collection": "alpha", "id": f"a{i}", "change": "changed"} for i in (3, 4)]


def test_the_last_bits_of_a_cosine_vector_may_move(source: ClientStore, snapshot: Snapshot) -> None:
    vectors = HELD["beta"][1].embeddings[2:3].copy()
    vectors.view(np.uint32)[...] += 1
    again(source, "beta", 2, embeddings=vectors)
    assert source_changes(source, snapshot).nothing


def test_collections_that_come_go_or_are_made_anew(source: ClientStore, snapshot: Snapshot) -> None:
    source.drop("beta")
    source.drop("alpha")
    fill(source, "alpha", HELD["alpha"][1], "ip")
    fill(source, "gamma", chunks(2, 3, prefix="g"))
    found = source_changes(source, snapshot)
    assert (found.appeared, found.vanished) == (["gamma"], ["beta"])
    assert found.collections["alpha"].settings == ["space", "configuration"]
    assert found.collections["gamma"].added == ["g0", "g1"]
    assert found.collections["beta"].deleted == sorted(HELD["beta"][1].ids)
    assert not source_changes(source, snapshot, names=["alpha", "empty"]).appeared
    sentence = found.sentence()
    assert "collection gamma is new" in sentence
    assert "alpha has another space" in sentence


@pytest.mark.parametrize("what", ["text search", "a field", "a function", "nothing", "of an older server"])
def test_a_collection_made_anew_with_other_indexes_has_changed(
    source: ClientStore, snapshot: Snapshot, tmp_path: Path, what: str
) -> None:
    """Every chunk is as it was, and searches of the application fail, or its texts go elsewhere."""
    info = source.info("alpha")
    schema = copy.deepcopy(info.schema) or {}
    if what == "text search":
        schema["keys"]["#document"]["string"]["fts_index"]["enabled"] = False
    elif what == "a field":
        schema["keys"]["word"] = {"string": {"string_inverted_index": {"enabled": False, "config": {}}}}
    elif what == "a function":
        planted = {"type": "known", "name": "jina", "config": {}}
        schema["defaults"]["float_list"]["vector_index"]["config"]["embedding_function"] = planted
    now = replace(info, schema=schema or None) if what != "of an older server" else replace(info, schema=None)
    assert different_settings(info, now) == ([] if what in ("nothing", "of an older server") else ["index schema"])
    if what in ("text search", "a field"):
        batch = contents(source, "alpha")
        source.drop("alpha")
        source.create(now)
        source.add("alpha", batch)
        found = source_changes(source, snapshot)
        assert not found.nothing
        assert found.collections["alpha"].settings == ["index schema"]
        with pytest.raises(Terminal, match="its indexes, or the functions that its schema names, are others"):
            prove(source, snapshot, snapshot.collections()[0])
    else:
        assert source_changes(source, snapshot).nothing
        assert prove(source, snapshot, snapshot.collections()[0]) == 230


def test_a_source_that_lists_more_fields_or_is_of_another_version_has_no_other_indexes(
    source: ClientStore, snapshot: Snapshot
) -> None:
    again(source, "alpha", 0, metadatas=[{"new": "x", "newer": 1}])
    info = source.info("alpha")
    schema = copy.deepcopy(info.schema) or {}
    schema["keys"]["new"] = {"string": copy.deepcopy(schema["defaults"]["string"])}
    schema["defaults"]["string"]["of_a_newer_server"] = {"enabled": True, "config": {}}
    del schema["defaults"]["sparse_vector"]["sparse_vector_index"]["config"]["bm25"]
    schema["defaults"]["float_list"]["vector_index"]["config"]["space"] = "ip"  # the effective one is compared apart
    assert different_settings(snapshot.collections()[0], replace(info, schema=schema)) == []


def test_an_empty_collection_that_gets_its_first_chunks_keeps_its_settings(
    source: ClientStore, snapshot: Snapshot
) -> None:
    source.add("empty", chunks(1, 9, prefix="first"))
    found = source_changes(source, snapshot)
    assert as_rows(found) == {"empty": (["first0"], [], [])}
    assert not found.collections["empty"].settings


def test_a_vector_that_is_lost_on_both_sides_is_no_change_and_one_lost_since_is(tmp_path: Path) -> None:
    with embedded(tmp_path / "db") as store:
        fill(store, "alpha", chunks(30, 4, prefix="a"))
        store.create(plan("hollow"))  # which never had a vector, so it has no dimension either
    lose_vectors(tmp_path / "db", "alpha", ["gone1", "gone2"])
    lose_vectors(tmp_path / "db", "hollow", ["gone1"])
    (tmp_path / "db").rename(tmp_path / "damaged")
    with embedded(tmp_path / "damaged") as store:
        snapshot = write_snapshot(store, tmp_path / "snapshots", "snap", ["alpha", "hollow"], retention_days=7)
        assert source_changes(store, snapshot).nothing
    lose_vectors(tmp_path / "damaged", "alpha", ["gone3"])
    (tmp_path / "damaged").rename(tmp_path / "again")
    with embedded(tmp_path / "again") as store:
        assert as_rows(source_changes(store, snapshot)) == {"alpha": (["gone3"], [], [])}


def test_a_vector_that_is_hidden_for_a_moment_is_asked_for_again(source: ClientStore, snapshot: Snapshot) -> None:
    """Another client's delete-and-add makes a server answer `Error finding id` for a moment (chroma-facts 19)."""
    hidden = {"a5": 2, "a9": 1}

    class Flickering(ClientStore):
        def read(self, name: str, ids: Any, *, embeddings: bool = True) -> ChunkBatch:
            batch = super().read(name, ids, embeddings=embeddings)
            for row, chunk in enumerate(batch.ids):
                if hidden.get(chunk, 0) > 0:
                    hidden[chunk] -= 1
                    batch.lost[row] = True
                    batch.embeddings[row] = np.nan
            return batch

    store = Flickering(source.client, source.label, limits=source.limits())
    assert source_changes(store, snapshot).nothing
    hidden["a5"] = 100
    assert as_rows(source_changes(store, snapshot)) == {"alpha": ([], ["a5"], [])}


def test_an_answer_that_names_the_chunk_it_cannot_give_is_left_to_the_reader() -> None:
    """The session says how an answer is encoded after the hooks have looked at it."""
    request = httpx.Request("POST", "http://localhost/api/v2/tenants/t/databases/d/collections/x/get")
    answer = httpx.Response(500, request=request, text="Error executing plan: Internal error: Error finding id")
    refuse_gateway_answers(answer)
    answer.encoding = "utf-8"
    assert "Error finding id" in answer.text

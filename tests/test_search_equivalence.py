"""Search equivalence and the whole validation against a real embedded Chroma: copies pass, negative controls are named."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.chunks import ChunkBatch, Vectors
from helpers.parameters import Parameters, parameters_from
from helpers.parameters.endpoint import Endpoint
from helpers.rehearsal import write_sample
from helpers.results import Verdict
from helpers.schema import load_schema
from helpers.snapshots.snapshot import Snapshot, write_snapshot
from helpers.stores import CollectionInfo, Space, Store, open_source, open_target
from helpers.validation import Judgement
from helpers.validation.fidelity import Examination, Expectation
from helpers.validation.search import (
    OVER_QUERY_MAY_FALL_BY,
    RECALL_MAY_FALL_BY,
    SELF_MAY_FALL_BY,
    Truth,
    baseline,
    choose_probes,
    equivalence,
    lost_queries,
    named_queries,
)

DATE = datetime.date(2025, 12, 1)


def vectors(n: int, dimension: int = 16, seed: int = 3) -> Vectors:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(4, dimension))
    found = (centres[np.arange(n) % 4] + 0.3 * rng.normal(size=(n, dimension))).astype(np.float32)
    if n > 20:
        found[5] = 0
        found[11:15] = found[10]
        found[16] = found[15] * 3
    return found


def batch(n: int, prefix: str, seed: int = 3) -> ChunkBatch:
    metadatas: list[Any] = [{"line": i, "score": i / 3} for i in range(n)]
    return ChunkBatch(
        [f"{prefix}{i}" for i in range(n)], [f"text {i}" for i in range(n)], vectors(n, seed=seed), metadatas
    )


def info(name: str, space: Space) -> CollectionInfo:
    return CollectionInfo(name, 0, None, space, space)


COLLECTIONS: dict[str, tuple[int, Space]] = {
    "angles": (300, "cosine"),
    "plain": (120, "l2"),
    "inner": (60, "ip"),
    "single": (1, "cosine"),
}


class Place:
    """A source written once, its snapshot and baseline, and a target that is a copy."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.parameters: Parameters = parameters_from(
            {"source": {"path": str(folder / "source")}, "target": {"path": str(folder / "target")}}
        )
        for name in ("source", "target"):
            with self.store(name) as store:
                for collection, (n, space) in COLLECTIONS.items():
                    store.create(info(collection, space))
                    store.add(collection, batch(n, collection[0]))
                store.create(info("empty", "l2"))
        with self.store("source") as store:
            names = [*COLLECTIONS, "empty"]
            self.snapshot: Snapshot = write_snapshot(store, folder, "snap", names, retention_days=7)
            self.baseline = baseline(store, self.snapshot, self.parameters)

    def store(self, name: str) -> Any:
        return open_target(Endpoint(path=str(self.folder / name)))

    def validate(self, **changes: Any) -> Judgement:
        given = {"schema": load_schema("identity"), "quarantined": {}, "baseline": self.baseline, **changes}
        of = Expectation(snapshot=self.snapshot, parameters=self.parameters, date=DATE, **given)
        with self.store("target") as store:
            return Judgement(Examination(store, of).run(), of)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def replace(store: Store, collection: str, change: Callable[[ChunkBatch], ChunkBatch], *ids: str) -> None:
    """Delete the ids and add them again, changed."""
    chunks = store.read(collection, list(ids))
    store.delete(collection, list(ids))
    changed = change(chunks)
    if len(changed):
        store.add(collection, changed)


def failed(judged: Judgement) -> dict[str, list[str]]:
    return {c.name: sorted({row["id"] for row in c.ids}) for c in judged.all() if c.verdict is Verdict.FAIL}


def test_a_copy_passes_everything_that_applies(place: Place) -> None:
    judged = place.validate()
    verdicts = {check.name: check.verdict for check in judged.all()}
    assert {n for n, v in verdicts.items() if v is Verdict.PASS} == {
        "counts", "embeddings", "metadata", "search equivalence", "duplicates", "field types"
    }  # fmt: skip
    assert set(verdicts.values()) == {Verdict.PASS, Verdict.NOT_APPLICABLE, Verdict.NOT_EXERCISED}
    assert judged.findings.differing == 0
    inputs = judged.matrix_inputs()
    assert (inputs["collections_matching"], inputs["valid"], inputs["complete"]) == (5, 481, None)
    rows = {row["collection"]: row for row in judged.findings.search}
    assert rows["angles"]["recall_after"] == rows["plain"]["recall_after"] == 1.0
    assert rows["angles"]["overlap_exact@10"] == 1.0
    assert rows["single"]["probes"] == rows["single"]["paired"] == 1
    assert rows["empty"]["verdict"] is Verdict.NOT_APPLICABLE
    assert rows["angles"]["zero"] == 1


def test_the_five_negative_controls_are_found_by_id(place: Place) -> None:
    def swap(chunks: ChunkBatch) -> ChunkBatch:
        chunks.embeddings = chunks.embeddings[::-1].copy()
        return chunks

    def nudge(chunks: ChunkBatch) -> ChunkBatch:
        chunks.embeddings[0, 3] += np.float32(1e-3)
        return chunks

    def edit(chunks: ChunkBatch) -> ChunkBatch:
        chunks.metadatas = [{**(m or {}), "line": 10_000} for m in chunks.metadatas]
        return chunks

    def leave_out(chunks: ChunkBatch) -> ChunkBatch:
        chunks.metadatas = [{"line": (m or {})["line"]} for m in chunks.metadatas]
        return chunks

    with place.store("target") as store:
        replace(store, "angles", swap, "a20", "a21")
        replace(store, "angles", nudge, "a30")
        replace(store, "plain", lambda chunks: ChunkBatch.empty(16), "p7")
        replace(store, "plain", edit, "p8")
        replace(store, "inner", leave_out, "i9")
    judged = place.validate()
    found = failed(judged)
    assert found["embeddings"] == ["a20", "a21", "a30"]
    assert found["counts"] == ["p7"]
    assert found["metadata"] == ["i9", "p8"]
    details = judged.findings.differences.set_index("id")["detail"]
    assert str(details["a20"]).endswith("this is the vector of id a21")
    assert [row["id"] for row in judged.findings.worst[:3]] in (["a20", "a21", "a30"], ["a21", "a20", "a30"])
    assert judged.findings.differing == 6


def test_extra_chunks_another_space_and_a_collection_left_out(place: Place) -> None:
    with place.store("target") as store:
        store.add("plain", ChunkBatch(["stranger"], ["x"], vectors(1), [None]))
        store.drop("angles")
        store.drop("empty")
        store.create(info("angles", "l2"))
        store.add("angles", next(place.snapshot.batches("angles")))
    judged = place.validate()
    kinds = judged.findings.differences
    assert set(kinds["difference"]) == {"chunk_extra", "space_differs", "collection_missing"}
    assert failed(judged)["counts"] == ["", "stranger"]
    assert "embeddings" in failed(judged)


def test_the_quarantined_are_explained_and_must_not_be_in_the_target(place: Place) -> None:
    quarantined = {("plain", "p3"): "refused_by_target", ("plain", "gone"): "nan_embedding"}
    assert failed(place.validate(quarantined=quarantined)) == {"counts": ["p3"]}
    with place.store("target") as store:
        store.delete("plain", ["p3"])
    judged = place.validate(quarantined=quarantined)
    assert failed(judged) == {}
    assert judged.findings.reasons == {"refused_by_target": 1}
    assert judged.findings.unknown_ids == 1
    assert judged.matrix_inputs()["valid"] == 480


def test_without_a_baseline_search_is_only_measured(place: Place) -> None:
    check = place.validate(baseline=None).search()
    assert (check.verdict, check.reason) == (Verdict.WARNING, "search_baseline_missing")


def test_where_clients_changed_all_that_was_asked_search_is_not_exercised(place: Place) -> None:
    touched = {name: {**found, "probes": [], "moved": 7} for name, found in place.baseline["collections"].items()}
    check = place.validate(baseline={**place.baseline, "collections": touched}).search()
    assert (check.verdict, check.reason, check.measured) == (Verdict.NOT_EXERCISED, "", 0)
    assert "angles: nothing is left to compare; 7 pairs left out: clients changed them meanwhile" in check.detail
    some = {**place.baseline["collections"], "plain": touched["plain"]}
    check = place.validate(baseline={**place.baseline, "collections": some}).search()
    assert (check.verdict, check.reason, check.measured) == (Verdict.WARNING, "search_unsure", 3)
    few = {**place.baseline["collections"], "plain": {**place.baseline["collections"]["plain"], "moved": 2}}
    check = place.validate(baseline={**place.baseline, "collections": few}).search()
    assert check.verdict is Verdict.PASS
    assert "plain: 2 pairs left out: clients changed them meanwhile" in check.detail


def test_merged_collections_are_searched_within_their_origin(tmp_path: Path) -> None:
    """Two source collections with the same ids become one target collection."""
    schema = load_schema("if_ttt")
    parameters = parameters_from(
        {
            "source": {"path": str(tmp_path / "source")},
            "target": {"path": str(tmp_path / "target")},
            "schema": "if_ttt",
            "migration": {"id_policy": "prefix"},
        }
    )
    with open_target(Endpoint(path=str(tmp_path / "source"))) as store:
        for seed, name in enumerate(("notes", "papers")):
            store.create(info(name, "cosine"))
            store.add(name, batch(200, "x", seed))
        snapshot = write_snapshot(store, tmp_path, "snap", ["notes", "papers"], retention_days=7)
        before = baseline(store, snapshot, parameters)
    of = Expectation(snapshot, schema, parameters, DATE, {}, before)
    with open_target(Endpoint(path=str(tmp_path / "target"))) as store:
        for name in schema.targets(snapshot.names()):
            store.create(info(name, "cosine"))
        for name in snapshot.names():
            for part in snapshot.batches(name):
                moved = schema.transform(part, name, of.context())
                assert set(moved.targets) == {"sergio_corpus"}
                store.add("sergio_corpus", moved.batch)
        judged = Judgement(Examination(store, of).run(), of)
    verdicts = {c.name: c.verdict for c in judged.all()}
    assert [n for n, v in verdicts.items() if v is not Verdict.PASS] == ["named queries"]
    rows = judged.findings.search
    assert [row["paired"] for row in rows] == [20, 20]
    assert all(row["recall_after"] == row["self_after"] == 1.0 for row in rows)
    assert judged.matrix_inputs()["complete"] == 400


def test_probes_are_the_same_when_other_chunks_come_and_go() -> None:
    whole = batch(200, "x")
    first = choose_probes([whole], "c", 20, 1)
    again = choose_probes([whole.take(range(100, 200)), whole.take(range(100))], "c", 20, 1)
    assert first.ids == again.ids
    fewer = choose_probes([whole], "c", 20, 1, leave_out={first.ids[0]})
    assert len(set(first.ids) & set(fewer.ids)) == 19
    assert "x5" not in choose_probes([whole], "c", 500, 1).ids
    assert first.ids != choose_probes([whole], "c", 20, 2).ids


@pytest.mark.parametrize("space", ["l2", "cosine", "ip"])
def test_brute_force_in_a_stream_is_brute_force(space: Space) -> None:
    data, probes = vectors(500), vectors(8, seed=9)
    ids = [f"v{i}" for i in range(500)]
    truth = Truth(probes, space, 10, [ids[:3]] * 8)
    for start in range(0, 500, 70):
        truth.add(ids[start : start + 70], data[start : start + 70])
    a, b = probes.astype(np.float64), data.astype(np.float64)
    whole = {
        "l2": np.square(a[:, None] - b[None]).sum(axis=2),
        "ip": 1 - a @ b.T,
        "cosine": 1 - a @ b.T / np.maximum(np.outer(np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)), 1e-300),
    }[space]
    for p in range(8):
        assert [d for d, _ in truth.nearest[p]] == pytest.approx(sorted(whole[p])[:10], rel=1e-9, abs=1e-12)
        assert truth.distances[p]["v2"] == pytest.approx(whole[p, 2], rel=1e-9, abs=1e-12)


def record(chunk: str, **changes: Any) -> dict[str, Any]:
    good = {
        "id": chunk,
        "scale": 1.0,
        "self": True,
        "reachable": True,
        "recall": 1.0,
        "over_recall": 1.0,
        "judged": 10,
        "neighbours": 10,
    }
    return {**good, "plain": [[chunk, 0.0]], "over": [[chunk, 0.0]], **changes}


def test_noise_is_allowed_and_a_loss_is_not() -> None:
    before = [record(f"x{i}") for i in range(20)]
    noisy = [record(f"x{i}", recall=0.9 if i % 3 else 1.0) for i in range(20)]
    assert equivalence(before, noisy, "cosine")["verdict"] is Verdict.PASS
    worse = [record(f"x{i}", recall=0.6) for i in range(20)]
    assert "recall" in equivalence(before, worse, "cosine")["detail"]
    lost = [record(f"x{i}", reachable=i > 1, over_recall=1.0) for i in range(20)]
    assert "reachable" in equivalence(before, lost, "cosine")["detail"]
    over = [record(f"x{i}", over_recall=0.95) for i in range(20)]
    assert "over recall" in equivalence(before, over, "cosine")["detail"]
    shifted = [record(f"x{i}", plain=[[f"x{i}", 0.1]]) for i in range(20)]
    assert "distances" in equivalence(before, shifted, "cosine")["detail"]


@pytest.mark.parametrize("name", ["self", "recall", "over_recall"])
def test_a_mean_may_fall_to_its_limit_and_no_further(name: str) -> None:
    """All probes alike, so that the interval is a point: 0.005 before the limit passes, 0.005 beyond it fails."""
    fall = {"self": SELF_MAY_FALL_BY, "recall": RECALL_MAY_FALL_BY, "over_recall": OVER_QUERY_MAY_FALL_BY}[name]
    before = [record(f"x{i}", **{name: 0.99}) for i in range(40)]
    for more, expected in ((-0.005, Verdict.PASS), (0.005, Verdict.FAIL)):
        after = [record(f"x{i}", **{name: 0.99 - fall - more}) for i in range(40)]
        assert equivalence(before, after, "cosine")["verdict"] is expected


def test_a_query_that_only_the_source_can_be_asked_is_a_failed_one() -> None:
    after = [{"text": text, "applicable": False, "ok": False, "why": "no function"} for text in ("a", "b")]
    before = [{"text": "a", "applicable": True}, {"text": "b", "applicable": False}]
    found = lost_queries(after, before)
    assert [row["applicable"] for row in found] == [True, False]
    assert found[0]["why"] == "the source can be asked this, the target cannot: no function"


def test_named_queries_find_their_words_with_the_rehearsals_own_function(tmp_path: Path) -> None:
    """The rehearsal's source answers in words; a limit that nothing can meet fails on cosine, by name of the distance."""
    source = write_sample(tmp_path / "source", chunks=300, dimension=64)
    given: dict[str, Any] = {"source": {"path": str(source)}, "target": {"path": str(tmp_path / "target")}}
    queries = [{"text": "API authentication", "expect": "api"}, {"text": "database schema", "expect": "zebra"}]
    for limit, oks, why in ((0.8, [True, False], ""), (1e-9, [False, False], "distance")):
        parameters = parameters_from({**given, "validation": {"queries": queries, "maximum_distance": limit}})
        with open_source(parameters.source, tmp_path) as store:
            spaces = {i.name: i.space for i in store.collections()}
            found = named_queries(store, parameters, spaces, lambda _: [])
        assert [row["applicable"] for row in found] == [True, True]
        assert [row["ok"] for row in found] == oks
        assert why in found[0]["why"]
    assert found[1]["why"] == "the expected word is in none of the documents found"

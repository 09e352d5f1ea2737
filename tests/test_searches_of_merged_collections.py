"""What a report says of searches: the filter, the queries, an interval, what merging changes and what was lost."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.chunks import ChunkBatch
from helpers.formatting import merged_answers, percent
from helpers.results import Verdict
from helpers.run.folders import SEARCHES
from helpers.validation import interval, recall_text
from tests.test_own_schemas_are_validated import APART, FIELD, MERGED, chunks, judged, kind

K = 10


def nearest(query: np.ndarray, batches: list[ChunkBatch]) -> list[str]:
    """By brute force on cosine, written anew: the ids of the k nearest of these chunks."""
    ids = [chunk for batch in batches for chunk in batch.ids]
    vectors = np.concatenate([batch.embeddings for batch in batches]).astype(np.float64)
    cosines = vectors @ query / np.linalg.norm(vectors, axis=1)
    return [ids[i] for i in np.argsort(-cosines, kind="stable")[:K]]


def test_the_change_that_merging_makes_is_computed_from_the_data_and_is_no_loss(tmp_path: Path) -> None:
    sources = {name: chunks(name, 60, i) for i, name in enumerate(("alpha", "beta", "gamma"))}
    found = judged(tmp_path, MERGED, sources)
    rows = {row["collection"]: row for row in found.findings.merged}
    assert set(rows) == set(sources)
    queries = {row["query"] for row in found.findings.distances}
    for name, batch in sources.items():
        own = [i for i, chunk in enumerate(batch.ids) if chunk in queries]
        assert rows[name]["queries"] == len(own) == 20
        kept, others = [], []
        for i in own:
            before = nearest(batch.embeddings[i].astype(np.float64), [batch])
            merged = nearest(batch.embeddings[i].astype(np.float64), list(sources.values()))
            assert before[0] == merged[0] == batch.ids[i], "it finds itself, which is left out"
            kept.append(len(set(before[1:]) & set(merged)) / (K - 1))
            others.append(len(set(merged) - set(batch.ids)) / (K - 1))
        assert rows[name]["shared_expected"] == pytest.approx(np.mean(kept))
        assert rows[name]["from_others"] == pytest.approx(np.mean(others))
        assert rows[name]["shared_filtered"] == 1.0, "all of it is in one target: a filter finds what was found before"
        assert 0.1 < np.mean(kept) < 0.6, "three alike collections: most neighbours of before give way"
        assert rows[name]["shared_measured"] == pytest.approx(np.mean(kept), abs=0.02)
        assert (rows[name]["recall"], rows[name]["target"], rows[name]["merged"]) == (1.0, "everything", 3)
    check = found.search()
    assert check.verdict is Verdict.PASS
    assert "60 queries, own chunk left out, k = 10" in check.detail
    assert "merged collections are searched whole; no filter was sent" in check.detail
    assert "judged among chunks of the query's own source collection; no filter was sent" in check.detail


def test_no_chunk_counts_as_found_by_its_own_vector(tmp_path: Path) -> None:
    """The target answers each query with the query's own chunk, and of its neighbours with none."""
    sources = {name: chunks(name, 60, i) for i, name in enumerate(("alpha", "beta"))}

    def only_themselves(store: Any) -> None:
        ask = store.query
        store.query = lambda name, vectors, n: [hits[:1] for hits in ask(name, vectors, n)]

    found = judged(tmp_path, MERGED, sources, damage=only_themselves)
    assert {row["recall"] for row in found.recall()["rows"]} == {0.0}
    assert {row["over_recall"] for row in found.findings.merged} == {0.0}
    assert {row["shared_measured"] for row in found.findings.merged} == {0.0}
    assert all(row["self_after"] == 1.0 and row["overlap_plain@10"] == 0.0 for row in found.findings.search)


def recomputed(path: Path) -> dict[str, float]:
    """The page's figures, out of the file alone and by nothing but gzip, csv and json, as docs/evidence.md says."""
    lists: dict[tuple[str, ...], list[tuple[str, float]]] = {}
    reach, tie = dict[tuple[str, ...], float](), dict[tuple[str, ...], float]()
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            key = (row["kind"], row["collection"], row["query"], row["side"], row["answer"])
            pairs = zip(json.loads(row["ids"]), json.loads(row["distances"]), strict=True)
            lists[key] = [(chunk, d) for chunk, d in pairs if chunk != json.loads(row["own"])]
            reach[key], tie[key] = float(row["reach"] or "inf"), float(row["tie"])

    def share(of: tuple[str, ...], within: tuple[str, ...]) -> float | None:
        wanted = [(chunk, d) for chunk, d in lists[of] if d < reach[within] - tie[within]]
        if not wanted:
            return None
        ids, edge = {chunk for chunk, _ in wanted}, wanted[-1][1]
        found = lists[within][: len(wanted)] if of[0] == "restricted" else lists[within]
        return sum(chunk in ids or abs(d - edge) <= 2 * tie[of] for chunk, d in found) / len(wanted)

    def mean(kind: str, before: tuple[str, str], after: tuple[str, str]) -> float:
        queries = sorted({key[:3] for key in lists if key[0] == kind})
        shares = [share((*query, *before), (*query, *after)) for query in queries]
        return float(np.mean([n for n in shares if n is not None]))

    def own(of: tuple[str, str], within: tuple[str, str]) -> list[tuple[tuple[str, ...], float]]:
        queries = sorted({key[:3] for key in lists if key[0] == "restricted"})
        return [((*query, *within), d) for query in queries for _, d in lists[(*query, *of)]]

    old, new = ("source", "exact"), ("target", "exact")
    return {
        "restricted": mean("restricted", new, ("target", "k nearest")),
        "restricted before": mean("restricted", old, ("source", "k nearest")),
        "unrestricted": mean("unrestricted", new, ("target", "k nearest")),
        "same": mean("unrestricted", old, new),
        "same with a filter": mean("unrestricted", old, ("target", "exact, filtered by source collection")),
        "judged": sum(d < reach[key] - tie[key] for key, d in own(new, ("target", "k nearest"))),
        "neighbours": len(own(new, ("target", "k nearest"))),
    }


@pytest.mark.parametrize("schema", [MERGED, APART], ids=["merged", "routed apart"])
def test_an_auditor_recomputes_the_figures_of_the_page_from_the_file_of_searches(tmp_path: Path, schema: str) -> None:
    """Of a target whose searches leave out the second result, so that no figure is 1 by itself."""
    sources = {name: chunks(name, 60, i, kind) for i, name in enumerate(("alpha", "beta"))}

    def careless(store: Any) -> None:
        ask = store.query
        store.query = lambda name, vectors, n: [hits[:1] + hits[2:] for hits in ask(name, vectors, n)]

    told = judged(tmp_path, schema, sources, damage=careless).recall()["pooled"]
    own, whole = told["restricted"], told["unrestricted"]
    assert own["recall"] < 1
    assert whole["recall"] < 1
    assert recomputed(tmp_path / SEARCHES) == pytest.approx({
        "restricted": own["recall"], "restricted before": own["before"], "unrestricted": whole["recall"],
        "same": whole["shared_expected"], "same with a filter": whole["shared_filtered"],
        "judged": own["judged"], "neighbours": own["neighbours"],
    })  # fmt: skip
    with gzip.open(tmp_path / SEARCHES, "rt", encoding="utf-8", newline="") as file:
        depths = {(row["answer"], row["k"], row["depth"]) for row in csv.DictReader(file)}
    assert {("k nearest", "10", "10"), ("best k of the over-query", "10", "1000")} <= depths


def test_a_check_says_of_how_many_neighbours_recall_is_and_why_not_of_the_others(tmp_path: Path) -> None:
    sources = {name: chunks(name, 60, i) for i, name in enumerate(("alpha", "beta", "gamma"))}
    found = judged(tmp_path, MERGED, sources)
    own, check = found.recall()["pooled"]["restricted"], found.neighbours()
    assert own["neighbours"] == 60 * 9, "20 queries of each collection, own chunk left out"
    assert 0 < own["judged"] < own["neighbours"]
    assert (check.verdict, check.measured, check.threshold) == (Verdict.NOT_EXERCISED, own["judged"], own["neighbours"])
    why = "the others are no nearer than the last answer: chunks of other collections take the places before it"
    said = f"{own['judged']} of 540 neighbours ({why})"
    assert said in check.detail
    assert said in recall_text(found.recall())


def test_the_share_of_the_same_results_has_an_interval_by_queries(tmp_path: Path) -> None:
    sources = {name: chunks(name, 60, i) for i, name in enumerate(("alpha", "beta"))}
    whole = judged(tmp_path, MERGED, sources).recall()["pooled"]["unrestricted"]
    assert (whole["shared_low"], whole["shared_high"]) == interval(whole["shared_expected"], whole["queries"])


def test_a_filter_by_source_collection_finds_only_what_was_routed_to_the_same_target(tmp_path: Path) -> None:
    sources = {name: chunks(name, 60, i, kind) for i, name in enumerate(("alpha", "beta"))}
    told = judged(tmp_path, APART, sources).recall()
    queries = {
        (row["collection"], row["target"]): row["queries"] for row in told["rows"] if row["scope"] == "unrestricted"
    }
    assert len(queries) == 4
    for row in told["rows"]:
        if row["scope"] == "unrestricted":
            assert 0.2 < row["shared_filtered"] < 0.8
            assert row["shared_filtered"] >= row["shared_expected"], "a filter only takes away chunks of others"
    whole = told["pooled"]["unrestricted"]
    mean = sum(r["shared_filtered"] * r["queries"] for r in told["rows"] if "shared_filtered" in r) / whole["queries"]
    assert whole["shared_filtered"] == pytest.approx(mean)
    assert f"with a filter by source collection, calculated: {percent(mean)} are as before" in merged_answers(
        whole, told["k"]
    )


def test_what_the_merged_target_does_not_return_of_its_exact_answer_is_a_loss(tmp_path: Path) -> None:
    """A third of one source's chunks is gone: queries of the others miss them too, which restricted searches never see."""
    sources = {name: chunks(name, 60, i) for i, name in enumerate(("alpha", "beta", "gamma"))}
    found = judged(tmp_path, MERGED, sources, damage=lambda store: store.delete("everything", sources["beta"].ids[:20]))
    restricted = {row["collection"]: row["verdict"] for row in found.findings.search}
    assert restricted["alpha"] is restricted["gamma"] is Verdict.PASS
    unrestricted = {row["collection"]: row["recall"] for row in found.findings.merged}
    assert unrestricted["alpha"] < 0.95
    assert unrestricted["gamma"] < 0.95
    assert {row["verdict"] for row in found.findings.merged} == {Verdict.FAIL}
    assert "everything: searched whole: " in found.search().detail


def test_kept_collections_have_no_second_scope(tmp_path: Path) -> None:
    found = judged(tmp_path, FIELD, {"alpha": chunks("alpha", 40, 1), "beta": chunks("beta", 15, 2)})
    told, check = found.recall(), found.neighbours()
    assert (check.verdict, check.measured, check.threshold, check.detail) == (Verdict.PASS, 35 * 9, 35 * 9, "")
    assert told["pooled"]["unrestricted"] is None
    assert [(r["collection"], r["queries"], r["recall"], r["before"]) for r in told["rows"]] == [
        ("alpha", 20, 1.0, 1.0), ("beta", 15, 1.0, 1.0)
    ]  # fmt: skip
    pooled = told["pooled"]["restricted"]
    assert (pooled["queries"], pooled["recall"], pooled["high"]) == (35, 1.0, 1.0)
    assert pooled["low"] == pytest.approx(0.9011, abs=1e-4)
    assert pooled["filter"] == "each collection is searched whole; no filter was sent"
    assert recall_text(told).startswith(
        "recall 1.000 (95 % interval 0.901 to 1.000) in 35 queries, own chunk left out, k = 10"
    )


def test_the_interval_is_wilsons() -> None:
    """Against the formula's textbook values; never outside 0 to 1, wider for fewer queries."""
    assert interval(0.9, 20) == pytest.approx((0.6990, 0.9721), abs=1e-4)
    assert interval(0.0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert interval(1.0, 140)[0] == pytest.approx(0.9733, abs=1e-4)
    assert interval(1.0, 5)[0] < interval(1.0, 50)[0]
    assert np.isnan(interval(1.0, 0)).all()


def test_the_same_querys_distances_are_told_before_and_after(tmp_path: Path) -> None:
    sources = {name: chunks(name, 60, i) for i, name in enumerate(("alpha", "beta"))}
    found = judged(tmp_path, MERGED, sources).findings
    assert len(found.distances) == 40
    for row in found.distances:
        assert row["same_chunks"] >= 1
        assert row["largest_difference"] < 5e-6
        assert row["last_unrestricted"] <= row["last_before"] + 5e-6, "more chunks to choose from: never farther"
    nearer = [row["last_before"] - row["last_unrestricted"] for row in found.distances]
    assert np.mean(nearer) > 0.01
    assert all(row["distances"] > 0 and row["distance_largest"] < 5e-6 for row in found.search)


ORIGIN = APART.replace("fields: [", 'fields: [{name: origin, type: string, fixed: "{source_collection}"}, ')


def test_clients_who_ask_as_announced_get_what_they_got_before(tmp_path: Path) -> None:
    """Of each split and merged collection: every target is asked, filtered by the source collection, sorted by distance."""
    sources = {name: chunks(name, 60, i, kind) for i, name in enumerate(("alpha", "beta"))}
    sent: list[tuple[str, dict[str, Any]]] = []

    def watched(store: Any) -> None:
        ask = store.query_filtered

        def noted(name: str, vectors: Any, k: int, where: dict[str, Any]) -> Any:
            sent.append((name, where))
            return ask(name, vectors, k, where)

        store.query_filtered = noted

    found = judged(tmp_path, ORIGIN, sources, damage=watched)
    told = found.recall()["announced"]
    assert sent == [(name, {"origin": source}) for source in sources for name in ("evens", "odds")]
    assert [(r["collection"], r["targets"], r["queries"], r["same"]) for r in told["rows"]] == [
        (name, ["evens", "odds"], 20, 1.0) for name in sources
    ]
    whole = told["pooled"]
    assert (whole["same"], whole["queries"], whole["sent"]) == (1.0, 40, 80)
    assert (whole["low"], whole["high"]) == interval(1.0, 40)
    assert found.recall()["pooled"]["unrestricted"]["shared_expected"] < 0.6, "of one of them alone much is missing"
    check = found.announced()
    assert (check.verdict, check.measured, check.threshold) == (Verdict.PASS, 2, 2)
    assert "a sample: 40 queries, 80 searches sent" in check.detail


def test_a_filter_that_finds_nothing_is_a_warning(tmp_path: Path) -> None:
    sources = {name: chunks(name, 60, i, kind) for i, name in enumerate(("alpha", "beta"))}

    def nothing(store: Any) -> None:
        store.query_filtered = lambda name, vectors, k, where: [[] for _ in vectors]

    check = judged(tmp_path, ORIGIN, sources, damage=nothing).announced()
    assert (check.verdict, check.measured, check.threshold) == (Verdict.WARNING, 0, 2)
    assert "0 % of the nearest of before were answered" in check.detail


def test_an_auditor_recomputes_what_was_sent_as_announced(tmp_path: Path) -> None:
    sources = {name: chunks(name, 60, i, kind) for i, name in enumerate(("alpha", "beta"))}

    def careless(store: Any) -> None:
        ask = store.query_filtered
        store.query_filtered = lambda name, *more: [hits[:2] + hits[3:] for hits in ask(name, *more)]

    told = judged(tmp_path, ORIGIN, sources, damage=careless).recall()["announced"]["pooled"]
    assert told["same"] < 1
    with gzip.open(tmp_path / SEARCHES, "rt", encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["kind"] == "as announced"]
    lists = {(row["query"], row["side"]): set(json.loads(row["ids"])) - {json.loads(row["own"])} for row in rows}
    shares = [len(ids & lists[query, "target"]) / len(ids) for (query, side), ids in lists.items() if side == "source"]
    assert len(shares) == 40
    assert {row["target"] for row in rows} == {"evens, odds"}
    assert told["same"] == pytest.approx(float(np.mean(shares)))


def test_without_a_filter_that_tells_them_apart_every_collection_is_asked_whole(tmp_path: Path) -> None:
    """Then clients cannot have their old answers; the share says so, and judges nothing."""
    sources = {name: chunks(name, 60, i, kind) for i, name in enumerate(("alpha", "beta"))}
    found = judged(tmp_path, APART, sources)
    told, check = found.recall()["announced"], found.announced()
    assert 0.2 < told["pooled"]["same"] < 0.8
    assert [(row["filter"], row["told_apart"]) for row in told["rows"]] == [({}, False)] * 2
    assert check.verdict is Verdict.PASS
    (tmp_path / "kept").mkdir()
    kept = judged(tmp_path / "kept", FIELD, {"alpha": chunks("alpha", 40, 1)}).announced()
    assert (kept.verdict, kept.detail) == (
        Verdict.NOT_APPLICABLE,
        "no collection was split or merged: clients ask as before",
    )

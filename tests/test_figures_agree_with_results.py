"""A figure shows what the result says: in each class of figures a planted inconsistency is found, and an honest one is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from helpers import plots
from helpers.plots import style
from helpers.plots.style import EXPECTED, disagreements
from helpers.results import Phase, StepResult
from helpers.steps.validate import recall_frame

NAMES = ["openwebui_core", "openwebui_docs", "sergio_personality_notes"]
BEGUN = "2026-11-28T02:00:00+00:00"
Case = tuple[
    dict[str, Any], Callable[[Any], Figure], Any, Any
]  # facts, figure of a value, the right value, a wrong one

COUNTS = [{"collection": n, "source": s, "target": s - q, "quarantined": q, "matches": True}
          for n, s, q in zip(NAMES, (610, 427, 204), (3, 2, 0), strict=True)]  # fmt: skip
REPAIRS = [{"collection": "a", "field": f, "rule": r, "chunks": n}
           for f, r, n in (("author", "missing", 18), ("score", "clamp", 13), ("score", "missing", 12))]  # fmt: skip
ROUTES = [{"collection": NAMES[0], "target": "corpus", "chunks": 600}, {"collection": NAMES[0], "target": "", "chunks": 3},
          {"collection": NAMES[1], "target": "corpus", "chunks": 425}]  # fmt: skip
OVERLAPS = [{"collection": n, "k": 3, **{f"overlap_{kind}@{k}": share for kind in ("exact", "plain") for k in (1, 3)}}
            for n, share in zip(NAMES, (1.0, 0.98, 1.0), strict=True)]  # fmt: skip
RECALLS = [{"scope": "restricted", "collection": n, "before": 1.0, "recall": share, "before_low": 0.84, "before_high": 1.0,
            "low": share - 0.1, "high": share, "queries": 20}
           for n, share in zip(NAMES, (1.0, 0.97, 1.0), strict=True)]  # fmt: skip
PHASES = [Phase("1 export", BEGUN, 2.0), Phase("4 import", "2026-11-28T02:00:02+00:00", 40.0, 900)]
BATCHES = pd.DataFrame(
    {"target": "corpus", "finished_s": [1.0, 2.0, 4.0], "rows": [100, 100, 50], "seconds": [1.0, 1.0, 2.0]}
)
IMPORTED = {"chunks": 250, "batches": 3, "seconds": 4.0, "to_write": 250, "expected_seconds": 5.0}
LOOKS = [
    {"second": 60.0 * i, "p50": 2.04, "p95": 9.0 + i, "p99": 12.0 + i, "chunks": 100, "failed": False} for i in range(3)
]
QUANTILES = [round(v, 3) for v in np.linspace(1.0, 9.0, 101)]
LEVELS = [
    {"clients": c, "queries": 90, "mean_ms": 4.0 * c, "p95_ms": 9.0 * c, "rate": 200.0, "quantiles_ms": QUANTILES}
    for c in (1, 4)
]
SIDES = {"before": {"levels": LEVELS}, "after": {"levels": LEVELS}}
STEPS = [{"step": "22 Migrate", "actual": 95.0, "estimate": 80.0, "runbook_low": 2700, "runbook_high": 3600},
         {"step": "23 Validate", "actual": 20.0, "estimate": None, "runbook_low": None, "runbook_high": None}]  # fmt: skip
SHARES = [{"field": f, "chunks": 40, "before": before, "after": 40} for f, before in (("source", 40), ("author", 22))]
VECTORS = np.random.default_rng(1).normal(size=(300, 8))
DISTANCES = np.linspace(1e-8, 2e-7, 100)


def told(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The fact `recall` of collections that were merged."""
    whole = rows[0] | {
        "scope": "unrestricted",
        "collection": "all collections",
        "recall": 0.9,
        "low": 0.8,
        "high": 0.95,
    }
    return {"k": 10, "rows": rows, "pooled": {"unrestricted": whole}}


def both_sides(rows: Any) -> Figure:
    frame = pd.DataFrame(rows)
    return plots.completeness_before_after(
        frame.assign(**{side: frame[side] / frame["chunks"] for side in ("before", "after")})
    )


def counts(rows: Any) -> Figure:
    return plots.counts_by_collection(pd.DataFrame(rows))


def overlap(rows: Any) -> Figure:
    table = [(r["collection"], kind, k, r[f"overlap_{key}@{k}"]) for r in rows for k in (1, 3)
             for kind, key in (("exact", "exact"), ("approximate", "plain"))]  # fmt: skip
    return plots.overlap_heatmap(pd.DataFrame(table, columns=["collection", "kind", "k", "overlap"]))


def performance(levels: Any) -> Figure:
    rows = [
        {"side": side, "mean_low": level["mean_ms"], "mean_high": level["mean_ms"], **level}
        for side in SIDES
        for level in levels
    ]
    return plots.performance(pd.DataFrame(rows).drop(columns="quantiles_ms"), limit_ms=500.0, minimum_rate=10.0)


def latency(quantiles: Any) -> Figure:
    return plots.latency_cdf(QUANTILES, quantiles, limit_ms=500.0, clients=1, queries={"before": 90, "after": 90})


def watch(looks: Any) -> Figure:
    return plots.watch_timeline(pd.DataFrame(looks), limit_ms=500.0, validated=100, planned=3600.0)


def distances(values: Any) -> Figure:
    return plots.distance_ecdf(values, [0.5, 1.0], tolerance=5e-7, floor=6e-9, space="cosine")


def other(rows: list[dict[str, Any]], at: int, **changed: Any) -> list[dict[str, Any]]:
    return [row | changed if i == at else row for i, row in enumerate(rows)]


CASES: dict[str, Case] = {
    "23_counts": ({"counts": COUNTS}, counts, COUNTS, other(COUNTS, 1, target=424, quarantined=3)),
    "13_routing": (
        {"routing": ROUTES}, lambda rows: plots.routing(pd.DataFrame(rows).rename(columns={"collection": "source"})), ROUTES,
        other(ROUTES, 2, chunks=427),
    ),
    "13_repairs": (
        {"repairs": REPAIRS}, lambda rows: plots.repairs_bar(pd.DataFrame(rows)), REPAIRS, other(REPAIRS, 1, rule="missing"),
    ),
    "23_overlap": ({"search": OVERLAPS}, overlap, OVERLAPS, other(OVERLAPS, 1, **{"overlap_plain@3": 1.0})),
    "23_recall": (
        {"recall": told(RECALLS)}, lambda rows: plots.recall_by_collection(recall_frame(told(rows), {})), RECALLS,
        other(RECALLS, 1, low=0.96),
    ),
    "23_differences": (
        {"differences": {"chunk_missing": 2}},
        lambda n: plots.differences_bar(pd.DataFrame({"difference": ["chunk_missing"] * n, "collection": "a", "id": "x"})), 2, 1,
    ),
    "23_distances_cosine": (
        {"worst": [{"relative": 2e-7, "space": "cosine"}]}, distances, DISTANCES, DISTANCES / 2,
    ),
    "23_completeness": (
        {"metadata": {"fields": SHARES}}, both_sides, SHARES, other(SHARES, 1, before=30),
    ),
    "22_timeline": (
        {}, lambda phases: plots.phase_timeline(phases, "Migration"), PHASES, [PHASES[0], Phase("4 import", BEGUN, 4.0)],
    ),
    "22_throughput": ({"import": IMPORTED}, plots.throughput_per_batch, BATCHES, BATCHES.head(2)),
    "22_written": (
        {"import": IMPORTED}, lambda rows: plots.rows_over_time(rows, 250, 5.0), BATCHES, BATCHES.assign(rows=[100, 100, 40]),
    ),
    "50_latency": (
        {"monitoring": {"rows": [{f"{q} ms": round(k[q], 1) for q in ("p50", "p95", "p99")} for k in LOOKS]}}, watch, LOOKS,
        other(LOOKS, 1, p95=9.0),
    ),
    "51_performance": ({"performance": SIDES}, performance, LEVELS, other(LEVELS, 1, mean_ms=4.0)),
    "51_latency": ({"performance": SIDES}, latency, QUANTILES, [*QUANTILES[:-1], 4.0]),
    "53_durations": ({"durations": STEPS}, plots.durations, STEPS, other(STEPS, 0, estimate=40.0)),
}  # fmt: skip


def result(key: str, facts: dict[str, Any]) -> tuple[StepResult, str]:
    step, _, name = key.partition("_")
    found = StepResult(step=step, title="", run_id="", started=BEGUN)
    found.facts |= facts
    found.phases += PHASES
    return found, name


@pytest.mark.more
@pytest.mark.parametrize("key", CASES)
def test_a_planted_inconsistency_is_found(key: str) -> None:
    facts, draw, right, wrong = CASES[key]
    of, name = result(key, facts)
    assert disagreements(name, draw(right), of) == []
    assert disagreements(name, draw(wrong), of) != [], "the figure shows something else than the result"


def norms(values: Any) -> Figure:
    return plots.norms_before_after(values, values)


# Of what these draw the result keeps nothing: their words are held against their shapes.
BY_THEIR_WORDS: dict[str, tuple[Figure, str]] = {
    "11_completeness": (
        plots.completeness_heatmap(pd.DataFrame({"core": [1.0, 0.4]}, index=["source", "author"])),
        "40.0 %",
    ),
    "11_values": (plots.field_values(pd.Series([0.5] * 40 + [1.2]), "score", 0.0, 1.0, "All."), "1 of 41"),
    "11_map": (plots.pca_map(VECTORS[:, :2], ["a"] * 300, "collection", 0.5, "Sample of 300 of 900."), "300"),
    "23_plane": (plots.pca_overlay(VECTORS, VECTORS, ["a"] * 300), "300"),
    "23_norms": (norms([1.0, 2.0, 40.0]), "3 vectors"),
}


@pytest.mark.parametrize("key", BY_THEIR_WORDS)
def test_a_title_that_says_something_else_than_its_shapes_is_found(key: str) -> None:
    figure, said = BY_THEIR_WORDS[key]
    of, name = result(key, {})
    assert disagreements(name, figure, of) == []
    title = figure.get_suptitle()
    assert said in title.replace("\n", " ")
    style.headline(figure, title.replace("\n", " ").replace(said, "7 of 7"))
    assert disagreements(name, figure, of) != []


def test_every_figure_that_is_held_against_a_result_is_planted_here() -> None:
    covered = {*CASES, *BY_THEIR_WORDS}
    same = {
        "22_repairs": "13_repairs",
        "22_routing": "13_routing",
        "27_timeline": "22_timeline",
        "23_distances_l2": "23_distances_cosine",
        "23_distances_ip": "23_distances_cosine",
    }
    assert {same.get(key, key) for key in EXPECTED} <= covered


def test_repairs_of_each_kind_are_drawn_apart() -> None:
    """A field that the schema fills from the document for some chunks, and with a default for others."""
    rows = [
        {"collection": "a", "field": "language", "rule": rule, "chunks": n}
        for rule, n in (("missing", 7), ("derived", 13))
    ]
    figure = plots.repairs_bar(pd.DataFrame(rows))
    shown = {kind: style.drawn(figure)[kind] for kind in ("default", "derived", "set", "changed")}
    assert shown == {"default": [("language", 7.0)], "derived": [("language", 13.0)], "set": [("language", 0.0)],
                     "changed": [("language", 0.0)]}  # fmt: skip
    of, name = result("13_repairs", {"repairs": rows})
    assert disagreements(name, figure, of) == []
    of.facts["repairs"][1]["rule"] = "missing"
    assert disagreements(name, figure, of) != []


def test_an_empty_collection_and_two_spaces_are_no_disagreement() -> None:
    """An empty collection has no overlap; the worst of one space says nothing of another's curve."""
    nothing = {f"overlap_{kind}@{k}": float("nan") for kind in ("exact", "plain") for k in (1, 3)}
    rows = [*OVERLAPS, {"collection": "empty", "k": 3, **nothing}]
    of, name = result("23_overlap", {"search": rows})
    assert disagreements(name, overlap(rows), of) == []
    figure = plots.distance_ecdf(np.zeros(40), [0.5], tolerance=0.0, floor=5.96e-8, space="l2")
    of, name = result("23_distances_l2", {"worst": [{"relative": 7.2e-8, "space": "cosine"}]})
    assert disagreements(name, figure, of) == []
    of.facts["worst"].append({"relative": 3e-7, "space": "l2"})
    assert disagreements(name, figure, of) != []


def test_a_value_outside_of_the_axes_is_found() -> None:
    figure = plots.recall_by_collection(recall_frame(told(RECALLS), {}))
    figure.axes[0].set_xlim(0.99, 1.0)
    of, name = result("23_recall", {"recall": told(RECALLS)})
    assert disagreements(name, figure, of) == ["recall: 2 values of after outside of the axes"]


def test_a_sample_after_the_planned_end_is_inside_the_axes() -> None:
    figure = plots.watch_timeline(pd.DataFrame([LOOKS[0], LOOKS[1] | {"second": 5_000.0}]), limit_ms=500.0, validated=100,
                                  planned=3600.0)  # fmt: skip
    assert not [line for line in disagreements("latency", figure, result("50_latency", {})[0]) if "outside" in line]

"""Figures: titles that say what was found, thresholds that are drawn, and no input that breaks one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from helpers import plots
from helpers.results import Phase

HOSTILE = "$\\frac{x}$ <b>\u202e\x1b[2J\x00 \u4e2d\u6587 " + "n" * 5_000
NAMES = ["openwebui_core", "openwebui_docs"]
NAN = float("nan")


def title(figure: Figure) -> str:
    return figure.get_suptitle().replace("\n", " ")


def axes(figure: Figure) -> Axes:
    return figure.axes[0]


def legend(figure: Figure) -> list[str]:
    found = axes(figure).get_legend()
    return [text.get_text() for text in found.get_texts()] if found else []


def texts(figure: Figure) -> str:
    return "\n".join(t.get_text() for t in figure.findobj(mpl.text.Text))


def ecdf(distances: object, **more: object) -> Figure:
    given = {"tolerance": 1e-5, "floor": 6e-8, "space": "cosine", **more}
    return plots.distance_ecdf(distances, [0.5, 0.9, 1.1], **given)  # type: ignore[arg-type]


def overlap_table(overlap: float = 1.0, name: str = "core") -> pd.DataFrame:
    rows = [(name, kind, k, overlap) for kind in ("exact", "approximate") for k in (1, 10)]
    return pd.DataFrame(rows, columns=["collection", "kind", "k", "overlap"])


def recall_table(columns: dict[str, object]) -> pd.DataFrame:
    """With intervals of a twentieth around each share, of 20 queries."""
    frame = pd.DataFrame(columns)
    ends = {f"{side}_{end}": (frame[side] + by).clip(0, 1) for side in ("before", "after")
            for end, by in (("low", -0.05), ("high", 0.05))}  # fmt: skip
    return frame.assign(**ends, queries=20)


def counts_table(*rows: tuple[str, int, int, int]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["collection", "source", "target", "quarantined"])


def batches(n: int, target: str = "corpus") -> pd.DataFrame:
    seconds = np.linspace(0.1, 0.3, n)
    return pd.DataFrame({"target": [target] * n, "finished_s": seconds.cumsum(), "rows": [100] * n, "seconds": seconds})


def test_distances_within_tolerance() -> None:
    figure = ecdf([0.0] * 5 + [1e-7] * 4 + [2e-7], worst=("core:chunk-9", 2e-7))
    assert title(figure) == "All 10 vectors arrived: the worst differs by 2×10⁻⁷, allowed is 10⁻⁵"
    assert axes(figure).get_xscale() == "log"
    assert "tolerance 10⁻⁵" in legend(figure)
    assert "float32 floor 6×10⁻⁸" in legend(figure)
    assert any(label.startswith("mismatched pairs") for label in legend(figure))
    lines = {str(line.get_label()): line for line in axes(figure).get_lines()}
    assert set(np.asarray(lines["tolerance 10⁻⁵"].get_xdata())) == {1e-5}
    assert min(np.asarray(lines["source to target, same id"].get_xdata())) == 6e-8  # zeros stand at the floor
    assert "5 of 10 distances are zero or below" in texts(figure).replace("\n", " ")
    assert "core:chunk-9" in texts(figure)


def test_distances_beyond_tolerance_are_marked() -> None:
    figure = ecdf([0.0] * 998 + [0.7, 1e-3])
    assert title(figure) == "2 of 1,000 vectors differ from the source by more than 10⁻⁵"
    (marks,) = (line for line in axes(figure).get_lines() if str(line.get_label()).startswith("beyond tolerance"))
    assert list(np.asarray(marks.get_xdata())) == [1e-3, 0.7]
    exact = ecdf([0.0, 1e-9], tolerance=0.0, space="l2")
    assert title(exact) == "1 of 2 vectors differs from the source although none may"
    assert "tolerance 0 (exact; drawn at the floor)" in legend(exact)
    assert title(ecdf([0.0] * 3, tolerance=0.0)) == "All 3 vectors arrived without any difference"


def test_what_cannot_be_compared_is_no_success() -> None:
    figure = ecdf([0.0, NAN, np.inf])
    assert title(figure).startswith("2 of 3 vectors differ")
    assert "2 pairs could not be compared" in texts(figure).replace("\n", " ")
    assert title(ecdf([NAN])).startswith("1 of 1 vector differs")


def test_overlap_keeps_exact_and_approximate_apart() -> None:
    figure = plots.overlap_heatmap(overlap_table())
    assert title(figure) == "Source and target find the same neighbours in every search measured here"
    assert [panel.get_title(loc="left") for panel in figure.axes] == ["exact search", "approximate search"]
    table = overlap_table()
    table.loc[table["kind"] == "approximate", "overlap"] = 0.93
    said = title(plots.overlap_heatmap(table))
    assert said.startswith("Exact search finds the same neighbours on both sides; lowest overlap 93.0 %")
    assert title(plots.overlap_heatmap(overlap_table(0.4))).startswith(
        "Search finds other neighbours; lowest overlap 40"
    )
    alone = plots.overlap_heatmap(table[table["kind"] == "exact"])
    assert "approximate search was not measured" in title(plots.overlap_heatmap(overlap_table().head(2)))
    assert (
        figure.axes[1].get_title(loc="left")
        != alone.axes[1].get_title(loc="left")
        == "approximate search: not measured"
    )


def test_recall_shows_its_threshold() -> None:
    table = recall_table({"collection": NAMES, "before": [0.99, 0.98], "after": [0.99, 0.91], "floor": [0.9, 0.8]})
    figure = plots.recall_by_collection(table)
    assert title(figure) == "Recall falls most in openwebui_docs: 98.0 % before, 91.0 % after"
    assert "lowest allowed after" in legend(figure)
    assert axes(figure).get_xlim()[0] < 0.8
    assert title(plots.recall_by_collection(table.assign(floor=[0.9, 0.95]))) == (
        "Recall is too low in 1 collection: openwebui_docs 98.0 % before, 91.0 % after"
    )
    same = plots.recall_by_collection(table.assign(after=1.0))
    assert title(same) == "Recall falls in no collection; the lowest after is 100 %"
    assert "one side only" in title(plots.recall_by_collection(table.assign(before=NAN, floor=NAN)))


def test_counts_add_up_or_name_what_is_missing() -> None:
    good = plots.counts_by_collection(counts_table(("core", 3000, 2990, 10), ("docs", 2100, 2100, 0)))
    assert title(good) == "Every chunk is accounted for: 5,100 in the source, 5,090 in the target, 10 in quarantine"
    bad = plots.counts_by_collection(counts_table(("core", 3000, 2990, 9), ("docs", 2, 5, 0)))
    assert title(bad) == "1 chunk missing and 3 too many, in 2 of 2 collections"
    assert "✗ 1 missing" in texts(bad)


def test_norms_say_how_far_they_moved() -> None:
    same = plots.norms_before_after([1.0, 2.0], [1.0, 2.0])
    assert title(same) == "No norm changed (2 vectors)"
    moved = plots.norms_before_after([1.0, 2.0, np.inf], [1.0, 2.2, np.inf])
    assert title(moved) == "Norms change by at most 0.1 of their length (2 vectors, 1 not comparable)"
    assert moved.axes[1].get_xscale() == "log"
    assert title(plots.norms_histogram({"a": [1.0, 1.0]})) == "All 2 vectors have length 1"
    odd = plots.norms_histogram({"a": [1.0, 0.0, NAN], "b": [1.0, 900.0]})
    assert title(odd) == "Of 5 vectors: 1 zero, 1 not a number, the others 1 to 900 long"
    assert axes(odd).get_xscale() == "log"


def test_the_plane_is_called_an_illustration() -> None:
    vectors = np.random.default_rng(1).normal(size=(3000, 8))
    labels = ["a", "b", "c"] * 1000
    figure = plots.pca_overlay(vectors, vectors, labels)
    assert title(figure) == "Illustration: each target point lies on its source point (PCA of 2,000 vectors)"
    assert "not a test" in texts(figure)
    assert "Sample of 2,000 of 3,000 pairs" in texts(figure)
    swapped = vectors[::-1].copy()
    assert "some target points lie away" in title(plots.pca_overlay(vectors, swapped, labels))


def test_time_is_told_in_the_title() -> None:
    phases = [
        Phase("Import", "2025-12-01T02:00:10+00:00", 131.0, 9800),
        Phase("Export", "2025-12-01T02:00:00+00:00", 10.0),
    ]
    figure = plots.phase_timeline(phases, "Migration")
    assert title(figure) == "Migration took 2 min 21 s; longest: Import, 2 min 11 s"
    assert [label.get_text() for label in axes(figure).get_yticklabels()] == ["Export", "Import"]
    assert "2025-12-01 02:00:00 UTC" in texts(figure)
    rate = plots.throughput_per_batch(batches(9))
    assert title(rate).startswith("900 chunks in 9 batches: a batch runs at 500 chunks per second (median)")
    assert axes(rate).get_ylabel() == "chunks per second, per batch"


def test_metadata_figures() -> None:
    table = pd.DataFrame({"core": [1.0, 0.4], "docs": [1.0, 1.0]}, index=["source", "author"])
    assert (
        title(plots.completeness_heatmap(table))
        == "1 of 2 fields incomplete; lowest: author in core, 40.0 % of the chunks"
    )
    assert title(plots.completeness_heatmap(table.clip(lower=1))) == "All 2 fields are complete in all 2 collections"
    repairs = pd.DataFrame([("author", "missing", 7), ("score", "clamp", 2)], columns=["field", "rule", "chunks"])
    said = "Of missing values 7 got a default, 0 what the document tells, 0 set by the schema; 2 changed, in 2 fields"
    assert title(plots.repairs_bar(repairs)) == said


def test_differences_name_the_first_id_of_each_kind() -> None:
    rows = [("vector_differs", "core", "a"), ("vector_differs", "core", "b"), ("chunk_missing", "docs", "c")]
    figure = plots.differences_bar(pd.DataFrame(rows, columns=["difference", "collection", "id"]))
    assert title(figure) == "3 differences: 2 vector differs, 1 chunk missing"
    assert [t.get_text() for t in axes(figure).texts] == ["\u00a0a and 1 more", "\u00a0c"]


EMPTY: dict[str, Callable[[], Figure]] = {
    "distance_ecdf": lambda: ecdf([]),
    "overlap": lambda: plots.overlap_heatmap(pd.DataFrame()),
    "overlap_nan": lambda: plots.overlap_heatmap(overlap_table(NAN)),
    "recall": lambda: plots.recall_by_collection(pd.DataFrame()),
    "recall_nan": lambda: plots.recall_by_collection(
        recall_table({"collection": ["a"], "before": [NAN], "after": [NAN], "floor": [NAN]})
    ),
    "norms": lambda: plots.norms_before_after([], []),
    "norms_histogram": lambda: plots.norms_histogram({"a": []}),
    "counts": lambda: plots.counts_by_collection(pd.DataFrame()),
    "pca": lambda: plots.pca_overlay([], [], []),
    "pca_nan": lambda: plots.pca_overlay(np.full((9, 3), NAN), np.ones((9, 3)), ["a"] * 9),
    "phases": lambda: plots.phase_timeline([], "Migration"),
    "throughput": lambda: plots.throughput_per_batch(pd.DataFrame()),
    "completeness": lambda: plots.completeness_heatmap(pd.DataFrame()),
    "differences": lambda: plots.differences_bar(pd.DataFrame(columns=["difference", "collection", "id"])),
    "repairs": lambda: plots.repairs_bar(pd.DataFrame(columns=["field", "rule", "chunks"])),
}


@pytest.mark.parametrize("name", EMPTY)
def test_nothing_to_draw_is_said(name: str) -> None:
    figure = EMPTY[name]()
    assert len(title(figure)) > 10
    assert not axes(figure).axison
    assert plots.png(figure).startswith(b"\x89PNG")


SINGLE: dict[str, Callable[[str], Figure]] = {
    "distance_ecdf": lambda n: ecdf([1e-8], worst=(n, 1e-8), space=n[:40]),
    "overlap": lambda n: plots.overlap_heatmap(overlap_table(0.5, n)),
    "recall": lambda n: plots.recall_by_collection(
        recall_table({"collection": [n], "before": [1.0], "after": [0.5], "floor": [0.9]})
    ),
    "norms": lambda _: plots.norms_before_after([0.0], [0.0]),
    "norms_histogram": lambda n: plots.norms_histogram({n: [2.0]}),
    "counts": lambda n: plots.counts_by_collection(counts_table((n, 1, 0, 0))),
    "pca": lambda n: plots.pca_overlay(np.ones((3, 1)), np.ones((3, 1)), [n] * 3),
    "phases": lambda n: plots.phase_timeline([Phase(n, "2025-12-01T02:00:10+00:00", 0.0)], "Step 22"),
    "throughput": lambda n: plots.throughput_per_batch(batches(1, n)),
    "completeness": lambda n: plots.completeness_heatmap(pd.DataFrame({n: [0.1]}, index=[n])),
    "repairs": lambda n: plots.repairs_bar(pd.DataFrame({"field": [n], "rule": [n], "chunks": [1]})),
}


@pytest.mark.parametrize("name", SINGLE)
def test_one_point_with_a_hostile_name(name: str) -> None:
    figure = SINGLE[name](HOSTILE)
    assert plots.png(figure).startswith(b"\x89PNG")
    assert "\u202e" not in texts(figure)
    assert "\x1b" not in texts(figure)
    assert max(len(line) for line in texts(figure).split("\n")) < 200
    assert not any(t.get_parse_math() for t in figure.findobj(mpl.text.Text) if t.get_text())


def huge_names(n: int = 300) -> list[str]:
    return [f"collection_{i:04d}" for i in range(n)]


HUGE: dict[str, Callable[[], Figure]] = {
    "distance_ecdf": lambda: ecdf(np.random.default_rng(1).exponential(1e-7, 1_000_000)),
    "overlap": lambda: plots.overlap_heatmap(pd.concat([overlap_table(0.9, n) for n in huge_names()])),
    "recall": lambda: plots.recall_by_collection(
        recall_table({"collection": huge_names(), "before": 1.0, "after": 0.9, "floor": 0.8})
    ),
    "norms": lambda: plots.norms_before_after(np.ones(1_000_000), np.ones(1_000_000)),
    "norms_histogram": lambda: plots.norms_histogram({n: np.ones(100) for n in huge_names()}),
    "counts": lambda: plots.counts_by_collection(counts_table(*((n, 10**9, 10**9, 0) for n in huge_names()))),
    "phases": lambda: plots.phase_timeline([Phase(n, "2025-12-01T02:00:10+00:00", 1.0) for n in huge_names()], "Run"),
    "throughput": lambda: plots.throughput_per_batch(batches(20_000)),
    "completeness": lambda: plots.completeness_heatmap(pd.DataFrame(np.ones((200, 300)), columns=huge_names())),
    "repairs": lambda: plots.repairs_bar(pd.DataFrame({"field": huge_names(), "rule": "default", "chunks": 10**9})),
}


@pytest.mark.more
@pytest.mark.parametrize("name", HUGE)
def test_huge_input_stays_a_figure(name: str) -> None:
    figure = HUGE[name]()
    width, height = figure.get_size_inches()
    assert width == pytest.approx(8.0)
    assert height < 16
    assert len(plots.png(figure)) < 400_000


@pytest.mark.more
def test_the_same_data_give_the_same_bytes(tmp_path: Path) -> None:
    with mpl.rc_context({"font.size": 20, "text.parse_math": True}):  # what a notebook may have set
        first = plots.png(ecdf([1e-7] * 100))
    assert plots.png(ecdf([1e-7] * 100)) == first
    assert b"Software" not in first
    assert b"matplotlib" not in first
    plots.save(ecdf([1e-7] * 100), tmp_path / "figures" / "a.png")
    assert (tmp_path / "figures" / "a.png").read_bytes() == first
    ecdf([1e-7] * 100).savefig(tmp_path / "b.png", dpi=110, metadata={"Software": None})  # as RunRecord.figure does
    assert (tmp_path / "b.png").read_bytes() == first


def test_a_part_of_an_import_is_not_set_against_the_estimate_of_all_of_it_unsaid() -> None:
    rows = pd.DataFrame({"finished_s": [1.0, 2.0], "rows": [100, 100]})
    assert title(plots.rows_over_time(rows, 300, 5.0)).endswith("the dry run expected 5.0 s for all")
    assert title(plots.rows_over_time(rows, 200, 5.0)).endswith("the dry run expected 5.0 s")

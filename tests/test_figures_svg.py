"""Figures in pages: words stay words, the same figure gives the same bytes, and nothing but shapes and words passes."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from helpers import plots
from helpers.plots.vectors import beyond, fit_plane
from helpers.report import inline_svg, picture

HOSTILE = "<script>alert(1)</script> & \"x\" 'y' ]]> --> \u202e"
NUMBERS = np.random.default_rng(7)


def counts(name: str = "core") -> Figure:
    frame = pd.DataFrame([(name, 3000, 2990, 10)], columns=["collection", "source", "target", "quarantined"])
    return plots.counts_by_collection(frame)


def test_the_same_figure_gives_the_same_bytes_without_a_date() -> None:
    first = plots.svg(counts())
    assert plots.svg(counts()) == first
    assert not re.search(rb"\d{4}-\d\d-\d\d|Matplotlib|DOCTYPE", first)
    assert b"'DejaVu Sans', Verdana, sans-serif" in first


def test_words_are_words_and_foreign_ones_stay_text() -> None:
    drawn = plots.svg(counts(HOSTILE)).decode()
    assert re.search(
        r"<text [^>]*>2,990 in the target|<text [^>]*>Every chunk is accounted for: 3,000 in the source", drawn
    )
    assert "<script" not in drawn
    page = str(inline_svg(drawn.encode(), f"Counts of {HOSTILE}", "counts"))
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "\u202e" not in page
    assert 'role="img"' in page
    assert "in the target" in page


def test_many_points_are_pixels_inside_it() -> None:
    points = NUMBERS.normal(size=(20_000, 2))
    drawn = plots.svg(
        plots.pca_map(points, ["a", "b"] * 10_000, "collection", 0.5, "Sample of 20,000 of 90,000 chunks.")
    )
    assert len(drawn) < 300_000
    assert drawn.count(b"<image") >= 1
    assert b"first principal component" in drawn


def test_only_shapes_and_words_of_a_file_reach_a_page(tmp_path: Path) -> None:
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 9 9" onload="alert(1)">'
        "<script>alert(1)</script><style>*{color:red}</style><foreignObject><p>x</p></foreignObject>"
        '<a xlink:href="https://evil.test"><text>link</text></a><image xlink:href="https://evil.test/x.png"/>'
        '<defs><path id="m1" d="M 0 0"/></defs><use xlink:href="#m1" style="fill: url(https://evil.test)" onclick="x()"/>'
        '<g clip-path="url(#m1)"><text x="1">kept</text></g></svg>'
    )
    (tmp_path / "23_x.svg").write_text(svg)
    page = str(picture(tmp_path / "23_x.svg", "alt"))
    assert "kept" in page
    assert not re.search(r"script|evil|foreignObject|onload|onclick|<a |<style", page)
    assert 'id="23_x-m1"' in page
    assert 'href="#23_x-m1"' in page
    assert 'clip-path="url(#23_x-m1)"' in page


def test_a_figure_is_made_harmless_once_for_all_the_pages_that_show_it(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = plots.svg(counts())
    first = inline_svg(drawn, "Counts", "counts")
    monkeypatch.setattr(ElementTree, "fromstring", lambda data: pytest.fail("parsed again"))
    assert inline_svg(drawn, "Counts", "counts") == first


@pytest.mark.parametrize("data", [b"<svg", b"plain", b'<!DOCTYPE x [<!ENTITY a "b">]><svg xmlns="http://www.w3.org/2000/svg"/>',
                                  b"<html/>"])  # fmt: skip
def test_what_is_no_figure_is_not_shown(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.svg").write_bytes(data)
    assert picture(tmp_path / "a.svg", "alt") == ""
    assert picture(tmp_path / "gone.svg", "alt") == ""


def test_figures_of_older_runs_are_shown_as_they_are(tmp_path: Path) -> None:
    plots.save(counts(), tmp_path / "23_counts.png")
    assert str(picture(tmp_path / "23_counts.png", "Counts")).startswith('<img src="data:image/png;base64,')


def cloud_with_an_outlier() -> np.ndarray:
    vectors = NUMBERS.normal(size=(900, 16))
    vectors[:, 0] += np.repeat([0.0, 8.0, 16.0], 300)
    vectors[17] = 4_000.0
    return vectors


def test_one_outlier_does_not_squeeze_the_plane() -> None:
    vectors = cloud_with_an_outlier()
    figure = plots.pca_overlay(vectors, vectors, ["a"] * 900, 5_000)
    low, high = figure.axes[0].get_xlim()
    assert high - low < 40, "the other 899 fill the axes"
    assert "1 outlier drawn at the edge" in figure.get_supxlabel().replace("\n", " ")
    assert "Sample of 900 of 5,000 pairs" in figure.get_supxlabel().replace("\n", " ")
    assert len(plots.drawn(figure)["outliers"]) == 1
    assert abs(fit_plane(vectors).axes[0][0]) > 0.95, "the plane follows the three groups, not the outlier"
    assert beyond(fit_plane(vectors).points(vectors)).sum() == 1


def test_the_plane_is_that_of_a_full_decomposition_with_a_sign_that_stays() -> None:
    vectors = NUMBERS.normal(size=(300, 40)) * np.linspace(5, 1, 40)
    fitted = fit_plane(vectors)
    _, sizes, axes = np.linalg.svd(vectors - vectors.mean(axis=0), full_matrices=False)
    assert np.abs((fitted.axes * axes[:2]).sum(axis=1)) == pytest.approx([1, 1], abs=1e-4)
    assert fitted.explained_variance == pytest.approx(float((sizes[:2] ** 2).sum() / (sizes**2).sum()))
    assert (fit_plane(vectors).axes == fitted.axes).all()
    assert (fitted.axes[[0, 1], np.abs(fitted.axes).argmax(axis=1)] > 0).all()


def test_no_value_is_invisible_and_none_crosses_its_range() -> None:
    norms = plots.norms_before_after([1.0] * 500 + [40.0], [1.0] * 500 + [40.0])
    assert plots.drawn(norms)["few"], "one vector among five hundred has a dot"
    assert min(left for left, _, _ in plots.drawn(norms)["before"]) >= 0
    shown = plots.drawn(plots.field_values(pd.Series([*np.linspace(0, 1, 400), 1.3, -0.2]), "score", 0.0, 1.0, "All."))
    assert all(0 <= left < right <= 1 for left, right, _ in shown["good"])
    assert sum(n for *_, n in shown["good"]) == 400
    assert all(right <= 0 or left >= 1 for left, right, _ in shown["outside"])


def test_no_bar_lies_along_a_log_axis() -> None:
    step = {"step": "22 Migrate", "actual": 95.0, "estimate": 80.0, "runbook_low": 2700, "runbook_high": 3600}
    levels = pd.DataFrame([{"side": "after", "clients": 1, "mean_ms": 4.0, "p95_ms": 9.0, "rate": 200.0, "mean_low": 3.0,
                            "mean_high": 5.0}])  # fmt: skip
    for figure in (plots.durations([step]), plots.performance(levels, limit_ms=500.0, minimum_rate=10.0)):
        assert not any(axes.patches for axes in figure.axes)


def test_quarantine_is_seen_beside_thousands() -> None:
    figure = counts()
    assert plots.drawn(figure)["quarantined alone"] == [("core", 10.0)]
    assert figure.axes[1].get_xlim()[1] < 20

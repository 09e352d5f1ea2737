"""Figures of the desk at the source (11): one collection in short, values of a field, nearest neighbours, the map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from numpy.typing import ArrayLike, NDArray

from helpers.plots.style import (
    BLUE,
    GREY,
    INK,
    ORANGE,
    RED,
    SKY,
    count,
    draw,
    empty,
    finite,
    legend_above,
    legend_beside,
    log_axis,
    name,
    percent,
    rows_axis,
    small,
)
from helpers.plots.vectors import points_by_label

_FIELDS = 12
_VALUES = 15


def collection_portrait(
    collection: str, facts: str, complete: Mapping[str, float], characters: ArrayLike, norms: ArrayLike, said: str
) -> Figure:
    """One collection: the fields that its chunks lack most, the lengths of its documents, the norms of its vectors.

    `facts` ends the title's sentence; `complete` is the share of chunks that hold each field (0–1), exact; `characters`
    (n,) and `norms` (n,) are those of the sample that `said` describes.
    """
    lengths, lengths_of = finite(characters), finite(norms)
    title = f"{name(collection)}: {facts}"
    with draw(3.7, title, f"Fields: every chunk. Lengths and norms: {said}", panels=3) as (figure, axes):
        _fields(axes[0], complete)
        axes[1].set(title="Lengths of documents", xlabel="characters (log scale)", ylabel="chunks")
        positive = lengths[lengths > 0]
        if positive.size:
            log_axis(axes[1], max(1.0, float(positive.min())), max(10.0, float(positive.max())))
            low, high = axes[1].get_xlim()
            axes[1].hist(positive, np.geomspace(low, high, 31), color=BLUE)
        else:
            _nothing(axes[1], "no document has any text")
        axes[2].set(title="Norms of vectors", xlabel="norm (L2)", ylabel="chunks")
        positive = lengths_of[lengths_of > 0]
        if lengths_of.size:
            wide = positive.size and positive.max() > 20 * np.median(positive)
            top = float(np.quantile(positive, 0.99)) * 1.5 if wide else float(lengths_of.max())
            inside = lengths_of[lengths_of <= top]
            axes[2].hist(inside, _bins(inside), color=SKY)
            if inside.size < lengths_of.size:
                axes[2].set_xlabel(
                    f"norm (L2)\n{count(lengths_of.size - inside.size)} beyond, up to {small(lengths_of.max())}"
                )
            if lengths_of.min() <= 1 <= lengths_of.max():
                axes[2].axvline(1.0, color=INK, linestyle=":", label="1: normalised")
                axes[2].legend(loc="best")
        else:
            _nothing(axes[2], "no vector can be read")
    return figure


def field_values(values: pd.Series, field: str, low: float | None, high: float | None, said: str) -> Figure:
    """The values of one metadata field: a histogram of numbers, with its allowed range, or the commonest texts.

    `values` (n,) are those of the sample that `said` describes, NaN or None where a chunk lacks the field; `low` and `high`
    are the schema's range, None where it has none.
    """
    present = values.dropna()
    if present.empty:
        return empty(f"No chunk has the field {name(field)}", said)
    flags = present.map(lambda value: isinstance(value, (bool, np.bool_)))
    is_number = present.map(lambda value: isinstance(value, (int, float, np.number))) & ~flags
    if is_number.mean() > 0.5:
        return _numbers(present[is_number].astype(float), len(present) - int(is_number.sum()), field, (low, high), said)
    counts = present.map(str).value_counts(sort=False)
    counts = counts.sort_index().sort_values(ascending=False, kind="stable")
    shown = counts.head(_VALUES)
    title = f"{name(field)}: {count(len(counts), 'different value')}; the commonest, {name(shown.index[0], 28)}, in "
    title += f"{percent(float(shown.iloc[0]) / len(values))} of the chunks"
    note = said if len(shown) == len(counts) else f"The {_VALUES} commonest are drawn. {said}"
    with draw(1.7 + 0.27 * len(shown), title, note) as (figure, axes):
        axes.barh(range(len(shown)), shown, height=0.6, color=BLUE)
        for row, n in enumerate(shown):
            axes.text(n, row, f" {count(n)}", va="center", fontsize=9)
        rows_axis(axes, [name(value, 36) or "(empty)" for value in shown.index])
        axes.set_xlim(0, float(shown.max()) * 1.12)
        axes.set_xlabel(f"chunks; {count(len(values) - len(present))} lack the field")
    return figure


def _numbers(
    numbers: pd.Series, others: int, field: str, allowed: tuple[float | None, float | None], said: str
) -> Figure:
    low, high = allowed
    usable = finite(numbers)
    least, most = (-np.inf if low is None else low), (np.inf if high is None else high)
    outside = int(((usable < least) | (usable > most)).sum()) + numbers.size - usable.size
    title = (
        f"{name(field)}: {small(float(usable.min()))} to {small(float(usable.max()))}" if usable.size else name(field)
    )
    if low is not None or high is not None:
        within = f"{'-∞' if low is None else small(low)} to {'∞' if high is None else small(high)}"
        title += (
            f"; {count(outside)} of {count(numbers.size)} outside of {within}" if outside else f", all within {within}"
        )
    if others:
        title += f"; {count(others)} no number"
    with draw(3.4, title, said) as (figure, axes):
        if usable.size:
            edges = _bins(usable, 40)
            axes.hist(usable, edges, color=BLUE, label="within the range" if outside else "chunks")
            bad = usable[(usable < least) | (usable > most)]
            if bad.size:
                axes.hist(bad, edges, color=RED, hatch="///", label=f"outside ({count(bad.size)})")
            for edge in (edge for edge in (low, high) if edge is not None):
                axes.axvline(edge, color=INK, linestyle="--")
        axes.set(
            xlabel=f"{name(field)} (dashed: the schema's range)" if low is not None or high is not None else name(field)
        )
        axes.set_ylabel("chunks")
        if outside:
            legend_above(axes, 2)
    return figure


def neighbour_distances(table: pd.DataFrame, said: str) -> Figure:
    """How far the nearest neighbour is: in the own collection, and in the nearest other one.

    `table`: collection, id, space, distance, within (bool), one row for each chunk and collection. One panel for each of
    the first two spaces, whose distances cannot be compared.
    """
    if not len(table):
        return empty(
            "No distance to a neighbour was measured", "There are no two chunks with vectors of one dimension."
        )
    nearest = table.groupby(["space", "collection", "id", "within"], sort=True)["distance"].min().reset_index()
    spaces = nearest["space"].value_counts().index.sort_values()[:2].tolist()
    medians = nearest.groupby("within")["distance"].median()
    title = "How far chunks lie from their nearest neighbour"
    if len(spaces) == 1 and {True, False} <= set(medians.index):
        where = "closer at hand than" if medians[True] < medians[False] else "no closer than"
        title = (
            f"The nearest neighbour in the own collection is {where} in the others: {small(float(medians[True]))} and "
        )
        title += f"{small(float(medians[False]))} at the median"
    with draw(3.8, title, said, panels=len(spaces), squeeze=False) as (figure, panels):
        for axes, space in zip(panels[0], spaces, strict=True):
            for within, color, style, label in ((True, BLUE, "-", "own collection"), (False, ORANGE, "--", "others")):
                part = nearest[(nearest["space"] == space) & (nearest["within"] == within)]
                values = np.sort(finite(part["distance"]))
                if values.size:
                    share = np.arange(1, values.size + 1) / values.size
                    axes.step(
                        values,
                        share,
                        where="post",
                        color=color,
                        linestyle=style,
                        label=f"{label} ({count(values.size)})",
                    )
            axes.set_xlabel(f"distance to the nearest neighbour ({space}{', squared' if space == 'l2' else ''})")
            axes.set_ylabel("share of chunks at or below")
            axes.set_ylim(-0.02, 1.04)
            legend_above(axes, 2)
    return figure


def pca_map(points: ArrayLike, labels: Sequence[str], field: str, seen: float, note: str) -> Figure:
    """Chunks on their first two principal components, coloured by a field.

    `points` (n, 2); `labels` (n,) the value of `field` of each; `seen` the share of the variance that the plane shows.
    """
    flat = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    if len(flat) < 3:
        return empty("Illustration: too few vectors to draw a plane", "It needs three that are not zero.")
    different = len(set(labels))
    title = f"Illustration: {count(len(flat), 'chunk')} by {name(field)} ({count(different, 'value')}); "
    title += f"the plane shows {percent(seen)} of the variance"
    with draw(4.8, title, note) as (figure, axes):
        points_by_label(axes, flat, list(labels))
        axes.set_xlabel("first principal component (no unit)")
        axes.set_ylabel("second principal component (no unit)")
        legend_beside(axes, name(field))
    return figure


def _fields(axes: Axes, complete: Mapping[str, float]) -> None:
    axes.set_title("Least complete fields")
    shown = sorted(complete.items(), key=lambda item: (item[1], item[0]))[:_FIELDS]
    if not shown:
        _nothing(axes, "no chunk has any metadata")
        return
    shares = [share for _, share in shown]
    axes.barh(range(len(shown)), shares, height=0.6, color=[BLUE if s == 1 else ORANGE for s in shares])
    rows_axis(axes, [name(key, 20) for key, _ in shown])
    for row, share in enumerate(shares):
        ink = "white" if share == 1 else INK  # on the blue bar dark letters are faint
        axes.text(min(share, 0.70) + 0.02, row, percent(share), va="center", fontsize=8.5, color=ink)
    axes.set_xlim(0, 1.0)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
    axes.set_xlabel("share of chunks that hold it")


def _nothing(axes: Axes, why: str) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.text(0.5, 0.5, why, transform=axes.transAxes, ha="center", va="center", color=GREY)


def _bins(values: NDArray[np.float64], bins: int = 30) -> NDArray[np.float64]:
    """Edges over all values, never so narrow that rounding looks like a distribution."""
    low, high = float(values.min()), float(values.max())
    room = max(0.02 * abs(high) - (high - low), 0.0) / 2 + max((high - low) * 0.01, 1e-9)
    return np.linspace(low - room, high + room, bins + 1)

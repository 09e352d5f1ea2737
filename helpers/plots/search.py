"""Figures of search: overlap of results, recall before and after."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from helpers.plots.style import (
    BLUE,
    GREY,
    INK,
    ORANGE,
    RED,
    count,
    draw,
    empty,
    finite,
    legend_above,
    name,
    percent,
    rows_axis,
)

_ROWS = 24
_SHARES = LinearSegmentedColormap.from_list("shares", ["#a84300", "#e69f00", "#f6e3b8", "#e4eff7"])  # low stands out


def overlap_heatmap(df: pd.DataFrame) -> Figure:
    """Share of the source's k nearest that the target's k nearest hold.

    `df`: collection, kind, k, overlap (0–1), where kind is "exact" (brute force over the vectors) or "approximate"
    (what the index of each side answers).
    """
    if not len(df) or not finite(df["overlap"]).size:
        return empty("No overlap was measured: no probe was answered", "There is no collection with a vector to probe.")
    frame = df.assign(collection=df["collection"].astype(str), overlap=df["overlap"].astype(float))
    exact = finite(frame.loc[frame["kind"] == "exact", "overlap"])
    worst = frame.sort_values(["overlap", "collection", "k"], kind="stable").to_dict("records")[0]
    title = "Source and target find the same neighbours in every search"
    if absent := [kind for kind in ("exact", "approximate") if kind not in set(frame["kind"])]:
        title = f"Source and target find the same neighbours; {absent[0]} search was not measured"
    if worst["overlap"] < 1:
        same = bool(exact.size) and bool((exact == 1).all())
        title = "Exact search finds the same neighbours on both sides" if same else "Search finds other neighbours"
        title += f"; lowest overlap {percent(worst['overlap'])}, {name(worst['collection'], 28)}"
        title += f" ({worst['kind']}, k = {worst['k']})"
    rows = sorted(set(frame["collection"]))
    note = (
        "Exact: brute force over all vectors. Approximate: what the index of each side answers; below 100 % it may be "
        "the noise of an approximate index, so compare it with recall."
    )
    if len(rows) > _ROWS:
        lowest = frame.groupby("collection")["overlap"].min()
        note += f" The {_ROWS} lowest of {count(len(rows), 'collection')} are drawn."
        rows = sorted(str(c) for c in lowest.sort_values(kind="stable").index[:_ROWS])
    with draw(1.9 + 0.36 * len(rows), title, note, panels=2, sharey=True) as (figure, axes):
        for panel, kind in zip(axes, ("exact", "approximate"), strict=True):
            _overlap_panel(panel, frame[frame["kind"] == kind], rows, kind)
        axes[0].set_yticks(range(len(rows)), [name(r, 26) for r in rows])
        for panel in axes:
            panel.tick_params(axis="y", length=0)
    return figure


def _overlap_panel(axes: Axes, part: pd.DataFrame, rows: list[str], kind: str) -> None:
    axes.set_title(f"{kind} search" if len(part) else f"{kind} search: not measured")
    axes.grid(visible=False)
    axes.set_xlabel("k, number of nearest neighbours")
    ks = sorted(part["k"].unique()) if len(part) else [0]
    table = part.pivot_table(index="collection", columns="k", values="overlap", aggfunc="min")
    heat(axes, table.reindex(index=rows, columns=ks).to_numpy(dtype=np.float64))
    axes.set_xticks(range(len(ks)), [str(k) for k in ks] if len(part) else [""])


def heat(axes: Axes, values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> None:
    """Shares (rows, columns) as coloured cells with their number written in; a NaN is an empty hatched cell."""
    axes.set_facecolor("#f0f1f3")
    axes.imshow(values, cmap=_SHARES, vmin=0.0, vmax=1.0, aspect="auto", interpolation="nearest")
    if values.size > 600:
        return
    for (row, column), value in np.ndenumerate(values):
        color = GREY if not np.isfinite(value) else "white" if value < 0.2 else INK
        axes.text(column, row, percent(float(value)), ha="center", va="center", fontsize=8.5, color=color)


def recall_by_collection(df: pd.DataFrame) -> Figure:
    """Recall of the index against brute force, per collection, before (source) and after (target).

    `df`: collection, before, after, floor (0–1; NaN where not measured). Below its floor a collection fails.
    """
    if not len(df) or not finite(df[["before", "after"]]).size:
        return empty("Recall was not measured: no probe was answered", "There is no collection with a vector to probe.")
    frame = df.assign(
        collection=df["collection"].astype(str), **{c: df[c].astype(float) for c in ("before", "after", "floor")}
    ).sort_values("collection", kind="stable")
    frame = frame.assign(change=frame["after"] - frame["before"])
    title = f"Recall is measured on one side only in {count(len(frame), 'collection')}"
    if finite(frame["change"]).size:
        lowest = frame.sort_values("change", kind="stable").to_dict("records")[0]
        title = f"Recall falls in no collection; the lowest after is {percent(float(finite(frame['after']).min()))}"
        if lowest["change"] < 0:
            title = f"Recall falls most in {name(lowest['collection'], 28)}: {percent(lowest['before'])} before, "
            title += f"{percent(lowest['after'])} after"
    below = frame[frame["after"] < frame["floor"] - 1e-9].sort_values("change", kind="stable")
    if len(below):
        first = below.to_dict("records")[0]
        title = f"Recall is too low in {count(len(below), 'collection')}: {name(first['collection'], 28)} "
        title += f"{percent(first['before'])} before, {percent(first['after'])} after"
    note = (
        "Recall: share of the true nearest neighbours (brute force on the same side) that the index returns. It may "
        "fall as far as chance explains."
    )
    if len(frame) > _ROWS:
        note += f" The {_ROWS} lowest of {count(len(frame), 'collection')} are drawn."
        frame = frame.nsmallest(_ROWS, "after").sort_values("collection", kind="stable")
    low = min([0.9, *finite(frame[["before", "after", "floor"]])])
    with draw(1.9 + 0.34 * len(frame), title, note) as (figure, axes):
        rows = np.arange(len(frame))
        axes.hlines(rows, frame["before"], frame["after"], color="#c5cad0", linewidth=3)
        axes.plot(
            frame["before"],
            rows,
            "o",
            markerfacecolor="white",
            markeredgecolor=ORANGE,
            markersize=10,
            markeredgewidth=2,
            label="before (source)",
        )
        axes.plot(frame["after"].to_numpy(), rows, "o", color=BLUE, markersize=5.5, label="after (target)")
        axes.vlines(
            frame["floor"],
            rows - 0.32,
            rows + 0.32,
            color=RED,
            linestyle="--",
            linewidth=2,
            label="lowest allowed after",
        )
        rows_axis(axes, [name(c) for c in frame["collection"]])
        span = 1 - low
        axes.set_xlim(low - 0.06 * span - 0.005, 1 + 0.03 * span + 0.002)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value * 100:.4g} %")
        axes.set_xlabel("recall@k")
        legend_above(axes, 3)
    return figure

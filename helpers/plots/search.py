"""Figures of search: overlap of results, recall before and after."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from helpers.plots.style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PURPLE,
    RED,
    count,
    draw,
    empty,
    finite,
    legend_above,
    name,
    percent,
    rows_axis,
    whole_numbers,
)

_ROWS = 24
_SHARES = LinearSegmentedColormap.from_list(
    "shares", ["#a84300", "#e69f00", "#f6e3b8", "#e4eff7"]
)  # low is conspicuous


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


# -- chunks ------------------------------------------------------------------------------------------------------------

# Figures of chunks and their metadata: counts, differences, completeness, repairs.


_BARS = 30


def counts_by_collection(df: pd.DataFrame) -> Figure:
    """Chunks of each source collection: in the source, in the target, in quarantine.

    `df`: collection, source, target, quarantined (whole numbers). A count matches when target + quarantined = source.
    """
    if not len(df):
        return empty("There is no collection to count", "The source holds no collection, or the filter left none.")
    frame = df.fillna(0).assign(collection=df["collection"].astype(str)).sort_values("collection", kind="stable")
    frame = frame.assign(off=frame["target"] + frame["quarantined"] - frame["source"])
    wrong = frame[frame["off"] != 0]
    totals = frame[["source", "target", "quarantined"]].sum()
    if wrong.empty:
        title = (
            f"Every chunk is accounted for: {count(totals['source'])} in the source, {count(totals['target'])} in the "
            f"target, {count(totals['quarantined'])} in quarantine"
        )
    else:
        missing, extra = -wrong["off"].clip(upper=0).sum(), wrong["off"].clip(lower=0).sum()
        parts = [f"{count(missing, 'chunk')} missing"] * bool(missing) + [f"{count(extra)} too many"] * bool(extra)
        title = f"{' and '.join(parts)}, in {len(wrong)} of {count(len(frame), 'collection')}"
    note = ""
    if len(frame) > _BARS:
        note = (
            f"{_BARS} of {count(len(frame), 'collection')} are drawn: those that do not match first, then the largest."
        )
        order = frame.assign(_ok=frame["off"] == 0).sort_values(
            ["_ok", "source"], ascending=[True, False], kind="stable"
        )
        frame = order.head(_BARS)
    with draw(1.8 + 0.36 * len(frame), title, note) as (figure, axes):
        source, target, aside = (frame[c].to_numpy(dtype=np.int64) for c in ("source", "target", "quarantined"))
        rows = np.arange(len(frame))
        axes.barh(rows, target, height=0.52, color=BLUE, label="target")
        axes.barh(rows, aside, left=target, height=0.52, color=ORANGE, hatch="///", linewidth=0, label="quarantined")
        axes.barh(rows, source, height=0.74, facecolor="none", edgecolor=INK, linewidth=1, label="source")
        widest = int(max(source.max(), (target + aside).max(), 1))
        for row, (was, now, kept) in enumerate(zip(source.tolist(), target.tolist(), aside.tolist(), strict=True)):
            off = now + kept - was
            text = f"{count(was)} → {count(now)}" + (f" + {count(kept)} quarantined" if kept else "")
            text += f"   ✗ {count(abs(off))} {'missing' if off < 0 else 'too many'}" if off else ""
            end = max(was, now + kept) + 0.01 * widest
            axes.text(end, row, text, va="center", fontsize=9, color=RED if off else INK)
        axes.set_xlim(0, widest * 1.42)
        rows_axis(axes, [name(c) for c in frame["collection"]])
        whole_numbers(axes)
        axes.set_xlabel("chunks")
        legend_above(axes, 3)
    return figure


def differences_bar(df: pd.DataFrame) -> Figure:
    """Every kind of difference between target and expectation, by collection, with the first id of each.

    `df`: collection, id, difference, one row a difference.
    """
    if not len(df):
        return empty("Nothing in the target differs from what it should be", "Every chunk was compared, by id.")
    groups = df.assign(id=df["id"].astype(str)).groupby(["difference", "collection"], sort=True)["id"]
    table = groups.agg(["size", "first"]).reset_index().sort_values("size", ascending=False, kind="stable")
    kinds = table.groupby("difference")["size"].sum().sort_values(ascending=False, kind="stable")
    listed = [f"{count(n)} {str(kind).replace('_', ' ')}" for kind, n in kinds.items()]
    title = f"{count(len(df), 'difference')}: {', '.join(listed[:5])}" + (" …" if len(listed) > 5 else "")
    note = f"The {_BARS} most frequent of {count(len(table))} are drawn." if len(table) > _BARS else ""
    shown = table.head(_BARS)
    with draw(1.6 + 0.27 * len(shown), title, note) as (figure, axes):
        axes.barh(np.arange(len(shown)), shown["size"], height=0.6, color=RED)
        for row, (n, first) in enumerate(zip(shown["size"], shown["first"], strict=True)):
            more = f" and {count(n - 1)} more" if n > 1 else ""
            axes.text(n, row, f" {name(first, 44)}{more}" if first else f" {count(n)}", va="center", fontsize=9)
        labels = zip(shown["difference"], shown["collection"], strict=True)
        rows_axis(axes, [f"{str(d).replace('_', ' ')} · {name(c, 26)}" for d, c in labels])
        axes.set_xlim(0, float(shown["size"].max()) * 1.9)
        whole_numbers(axes)
        axes.set_xlabel("differences; beside each bar the first id")
    return figure


def completeness_heatmap(df: pd.DataFrame) -> Figure:
    """Share of chunks that hold each field. `df`: one row a field (its index), one column a collection, values 0–1."""
    values = df.to_numpy(dtype=np.float64)
    if not values.size or not finite(values).size:
        return empty("No metadata field was measured", "No chunk, or no field to look for.")
    worst_row, worst_column = divmod(int(np.nanargmin(values)), values.shape[1])
    partial = int((np.nanmin(np.where(np.isfinite(values), values, np.inf), axis=1) < 1).sum())
    title = f"All {count(len(df), 'field')} are complete in all {count(df.shape[1], 'collection')}"
    if partial:
        title = (
            f"{count(partial)} of {count(len(df), 'field')} incomplete; lowest: {name(df.index[worst_row], 28)} in "
            f"{name(df.columns[worst_column], 28)}, {percent(float(values[worst_row, worst_column]))} of the chunks"
        )
    rows = min(len(df), 40)
    note = "" if rows == len(df) else f"The first 40 of {count(len(df), 'field')} are drawn."
    with draw(2.2 + 0.3 * rows, title, note) as (figure, axes):
        heat(axes, values[:rows])
        axes.grid(visible=False)
        axes.set_yticks(range(rows), [name(f, 28) for f in df.index[:rows]])
        short = 24 if df.shape[1] <= 12 else 14
        step = max(1, df.shape[1] // 40)
        axes.set_xticks(
            range(0, df.shape[1], step), [name(c, short) for c in df.columns[::step]], rotation=35, ha="right"
        )
        axes.set_xlabel("collection (share of its chunks that hold the field)")
    return figure


def repairs_bar(df: pd.DataFrame) -> Figure:
    """How many chunks the schema repaired, by field and rule. `df`: field, rule, chunks."""
    frame = df[df["chunks"] > 0] if len(df) else df
    if not len(frame):
        return empty("The schema repaired nothing", "Every field of every chunk was as the schema wants it.")
    table = frame.groupby(["field", "rule"])["chunks"].sum().reset_index()
    table = table.sort_values(["chunks", "field", "rule"], ascending=[False, True, True], kind="stable")
    top = table.iloc[0]
    title = (
        f"{count(table['chunks'].sum(), 'repair')} in {count(table['field'].nunique(), 'field')}; most often "
        f"{name(top['field'], 28)} ({name(top['rule'], 20)}, {count(top['chunks'], 'chunk')})"
    )
    note = f"The {_BARS} most frequent of {count(len(table))} are drawn." if len(table) > _BARS else ""
    shown = table.head(_BARS)
    with draw(1.6 + 0.27 * len(shown), title, note) as (figure, axes):
        rows = np.arange(len(shown))
        palette = (BLUE, ORANGE, GREEN, PURPLE, GREY)
        colors = dict(zip(sorted(table["rule"].astype(str).unique()), palette, strict=False))
        axes.barh(rows, shown["chunks"], height=0.6, color=[colors.get(str(r), GREY) for r in shown["rule"]])
        for row, chunks in enumerate(shown["chunks"]):
            axes.text(chunks, row, f" {count(chunks)}", va="center", fontsize=9)
        rows_axis(axes, [f"{name(f, 26)} · {name(r, 16)}" for f, r in zip(shown["field"], shown["rule"], strict=True)])
        axes.set_xlim(0, float(shown["chunks"].max()) * 1.12)
        whole_numbers(axes)
        axes.set_xlabel("chunks repaired")
    return figure


# -- trees -------------------------------------------------------------------------------------------------------------

# A decision tree, top to bottom, with one way through it marked.


@dataclass(frozen=True, slots=True)
class Node:
    """A box: its text, its level from 0 at the top, and its place in the width (0 left, 1 right)."""

    text: str
    level: int
    across: float


def decision_tree(
    nodes: Mapping[str, Node], edges: Sequence[tuple[str, str]], way: Collection[str], title: str
) -> Figure:
    """Boxes and arrows; those of `way` have a bold blue frame, so that they stand out without colour too."""
    levels = max(node.level for node in nodes.values())
    with draw(1.1 * (levels + 1) + 0.8, title, "Bold frames and lines: the way of this run.") as (figure, axes):
        axes.set_axis_off()
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(levels + 0.5, -0.5)
        for start, end in edges:
            on_way = start in way and end in way
            axes.annotate(
                "", xy=(nodes[end].across, nodes[end].level - 0.28),
                xytext=(nodes[start].across, nodes[start].level + 0.28),
                arrowprops={"arrowstyle": "->", "color": BLUE if on_way else GREY, "lw": 2.5 if on_way else 0.8},
            )  # fmt: skip
        for key, node in nodes.items():
            on_way = key in way
            frame = {"boxstyle": "round,pad=0.4", "facecolor": "white", "edgecolor": BLUE if on_way else GREY,
                     "linewidth": 2.5 if on_way else 0.8}  # fmt: skip
            axes.text(
                node.across, node.level, node.text, ha="center", va="center", fontsize=8.5, color=INK, bbox=frame,
                fontweight="bold" if on_way else "normal",
            )  # fmt: skip
    return figure

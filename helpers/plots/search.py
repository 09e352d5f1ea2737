"""Figures of search: overlap of results, recall before and after."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray

from helpers.formatting import count, percent, small
from helpers.plots.style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    RED,
    SKY,
    bars,
    curve,
    draw,
    empty,
    finite,
    legend_above,
    name,
    only,
    rows_axis,
    share_axis,
    whole_numbers,
)
from helpers.results import kind_of

_ROWS = 24
_RECALL = ["before", "after", "floor", "before_low", "before_high", "after_low", "after_high"]
_LOW_IS_CONSPICUOUS = LinearSegmentedColormap.from_list("shares", ["#e08a4a", "#e69f00", "#f6e3b8", "#e4eff7"])


def overlap_heatmap(df: pd.DataFrame, asked: str = "", *, within: bool = False) -> Figure:
    """Draw the share of the source's k nearest that are among the target's k nearest.

    `df`: collection, kind, k, overlap (0–1); kind is "exact" (brute force over the vectors) or "approximate" (the answer of
    each side's index). `asked` states the queries and their filter. `within`: collections were merged, so only the target's
    chunks of the query's own source collection were compared.
    """
    if not len(df) or not finite(df["overlap"]).size:
        return empty("No overlap was measured: no probe was answered", "There is no collection with a vector to probe.")
    frame = df.assign(collection=df["collection"].astype(str), overlap=df["overlap"].astype(float))
    exact = finite(frame.loc[frame["kind"] == "exact", "overlap"])
    worst = frame.sort_values(["overlap", "collection", "k"], kind="stable").to_dict("records")[0]
    title = "Source and target find the same neighbours in every search measured here"
    if absent := [kind for kind in ("exact", "approximate") if kind not in set(frame["kind"])]:
        title = f"Source and target find the same neighbours; {absent[0]} search was not measured"
    if worst["overlap"] < 1:
        same = bool(exact.size) and bool((exact == 1).all())
        title = "Exact search finds the same neighbours on both sides" if same else "Search finds other neighbours"
        title += f"; lowest overlap {percent(worst['overlap'])}, {name(worst['collection'], 28)}"
        title += f" ({worst['kind']}, k = {worst['k']})"
    if within:
        title = f"Among chunks of one source collection: {title[0].lower()}{title[1:]}"
    note = f"{asked} ".lstrip() + (
        "Exact: brute force over all vectors that were migrated. Approximate: what the index of each side answers, in the source "
        "of quarantined chunks, too; below 100 % it may be one of these, or the noise of an approximate index: see recall."
        + only(_ROWS, "lowest", frame["collection"].nunique(), "collection")
    )
    lowest = frame.groupby("collection")["overlap"].min().sort_values(kind="stable")
    rows = sorted(str(c) for c in lowest.index[:_ROWS])
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
    heat(axes, table.reindex(index=rows, columns=ks).to_numpy(dtype=np.float64), kind)
    axes.set_xticks(range(len(ks)), [str(k) for k in ks] if len(part) else [""])


def heat(axes: Axes, values: NDArray[np.float64], series: str = "shares") -> None:
    """Draw shares (rows, columns) as coloured cells with their number; a NaN is a cell without colour."""
    axes.set_facecolor("#f0f1f3")
    axes.imshow(
        values, gid=series, cmap=_LOW_IS_CONSPICUOUS, vmin=0.0, vmax=1.0, aspect="auto", interpolation="nearest"
    )
    if values.size > 600:
        return
    for (row, column), value in np.ndenumerate(values):
        color = GREY if not np.isfinite(value) else INK
        axes.text(column, row, percent(float(value)), ha="center", va="center", fontsize=8.5, color=color)


def recall_by_collection(df: pd.DataFrame) -> Figure:
    """Draw recall of the index by collection, before (source) and after (target), with 95 % intervals.

    `df`: collection, before, after, floor, and the ends of the intervals before_low, before_high, after_low, after_high
    (0–1; NaN or None where not measured), queries. A collection below its floor fails.
    """
    if not len(df) or not finite(df[["before", "after"]]).size:
        return empty("Recall was not measured: no probe was answered", "There is no collection with a vector to probe.")
    frame = df.assign(collection=df["collection"].astype(str), **{c: df[c].astype(float) for c in _RECALL})
    frame = frame.sort_values("collection", kind="stable").assign(change=frame["after"] - frame["before"])
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
    asked = finite(frame["queries"])
    if asked.size:
        low, high = int(asked.min()), int(asked.max())
        many = count(high) if low == high else f"{count(low)} to {count(high)}"
        note += f" Bars: 95 % confidence interval (Wilson) of {many} queries a row. The verdict pairs equal queries."
    note += only(_ROWS, "lowest", len(frame), "collection")
    if len(frame) > _ROWS:
        frame = frame.nsmallest(_ROWS, "after").sort_values("collection", kind="stable")
    low = min([0.9, *finite(frame[_RECALL])])
    with draw(1.9 + 0.4 * len(frame), title, note) as (figure, axes):
        rows = np.arange(len(frame))
        for side, off, color in (("before", -0.16, ORANGE), ("after", 0.16, BLUE)):
            ends = frame[f"{side}_low"], frame[f"{side}_high"]
            axes.hlines(rows + off, *ends, color=color, linewidth=2.2, gid=f"{side} interval")
            _marks(axes, frame[side], rows + off, side, 7)
        limit = {"color": RED, "linestyle": "--", "linewidth": 2, "label": "lowest allowed after", "gid": "floor"}
        axes.vlines(frame["floor"], rows - 0.36, rows + 0.36, **limit)
        rows_axis(axes, [name(c, 44) for c in frame["collection"]])
        axes.set_xlim(max(0.0, low - 0.06 * (1 - low)), 1.0)
        share_axis(axes.xaxis)
        axes.set_xlabel("recall@k")
        legend_above(axes, 3)
    return figure


def _marks(axes: Axes, shares: pd.Series, rows: NDArray[Any], side: str, size: float) -> None:
    """Draw a ring for each row of the source ("before"), a dot for each row of the target ("after")."""
    label, color, face = ("before (source)", ORANGE, "white") if side == "before" else ("after (target)", BLUE, BLUE)
    axes.plot(shares, rows, "o", markerfacecolor=face, markeredgecolor=color, markersize=size, markeredgewidth=1.8,
              label=label, gid=side, clip_on=False)  # fmt: skip


def neighbour_distances(table: pd.DataFrame, note: str) -> Figure:
    """Draw the distance to the nearest neighbour in the own collection, and in the nearest other one.

    `table`: collection, id, space, distance, within (bool), one row for each chunk and collection. One panel for each of
    the two commonest spaces, whose distances cannot be compared. `note` describes the sample.
    """
    if not len(table):
        reason = "There are no two chunks with vectors of one dimension."
        return empty("No distance to a neighbour was measured", reason)
    nearest = table.groupby(["space", "collection", "id", "within"], sort=True)["distance"].min().reset_index()
    spaces = nearest["space"].value_counts().index.sort_values()[:2].tolist()
    medians = nearest.groupby("within")["distance"].median()
    title = "How far chunks lie from their nearest neighbour"
    if len(spaces) == 1 and {True, False} <= set(medians.index):
        where = "closer at hand than" if medians[True] < medians[False] else "no closer than"
        both = f"{small(float(medians[True]))} and {small(float(medians[False]))}"
        title = f"The nearest neighbour in the own collection is {where} in the others: {both} at the median"
    with draw(3.8, title, note, panels=len(spaces), squeeze=False) as (figure, panels):
        for axes, space in zip(panels[0], spaces, strict=True):
            for within, color, style, label in ((True, BLUE, "-", "own collection"), (False, ORANGE, "--", "others")):
                part = nearest[(nearest["space"] == space) & (nearest["within"] == within)]
                values = finite(part["distance"])
                curve(axes, values, color, style, f"{label} ({count(values.size)})")
            axes.set_xlabel(f"distance to the nearest neighbour ({space}{', squared' if space == 'l2' else ''})")
            axes.set_ylabel("share of chunks at or below")
            axes.set_xlim(left=min(0.0, axes.get_xlim()[0]) if space == "ip" else 0.0)
            legend_above(axes, 2)
    return figure


# -- chunks and their metadata: counts, differences, completeness, repairs ---------------------------------------------

_BARS = 30


def counts_by_collection(df: pd.DataFrame) -> Figure:
    """Draw the chunks of each source collection: in the source, in the target, in quarantine.

    `df`: collection, source, target, quarantined (whole numbers). A count matches when target + quarantined = source. Chunks
    that the schema leaves out (optional column `left_out`) are not drawn, but stated in the title.
    """
    if not len(df):
        return empty("There is no collection to count", "The source holds no collection, or the filter left none.")
    frame = df.fillna(0).assign(collection=df["collection"].astype(str)).sort_values("collection", kind="stable")
    whole = frame["source"].sum()
    if "left_out" in frame:  # older runs lack it
        frame = frame.assign(source=frame["source"] - frame["left_out"])
    frame = frame.assign(off=frame["target"] + frame["quarantined"] - frame["source"])
    unmatched = frame[frame["off"] != 0]
    totals = frame[["source", "target", "quarantined"]].sum()
    if unmatched.empty:
        title = (
            f"Every chunk is accounted for: {count(whole)} in the source, {count(totals['target'])} in the "
            f"target, {count(totals['quarantined'])} in quarantine"
        )
    else:
        missing, extra = -unmatched["off"].clip(upper=0).sum(), unmatched["off"].clip(lower=0).sum()
        parts = [f"{count(missing, 'chunk')} missing"] * bool(missing) + [f"{count(extra)} too many"] * bool(extra)
        title = f"{' and '.join(parts)}, in {len(unmatched)} of {count(len(frame), 'collection')}"
    left_out = int(frame["left_out"].sum()) if "left_out" in frame else 0
    if left_out:
        title += f", {count(left_out)} left out by the schema"
    note = "Right: the quarantined chunks alone, on a scale of their own."
    if len(frame) > _BARS:
        note += (
            f" {_BARS} of {count(len(frame), 'collection')} are drawn: those that do not match first, then the largest."
        )
        order = frame.assign(_ok=frame["off"] == 0).sort_values("source", ascending=False, kind="stable")
        frame = order.sort_values("_ok", kind="stable").head(_BARS)
    with draw(1.8 + 0.36 * len(frame), title, note, panels=2, sharey=True, width_ratios=[3.2, 1]) as (figure, panels):
        axes, alone = panels
        source, target, quarantined = (frame[c].to_numpy(dtype=np.int64) for c in ("source", "target", "quarantined"))
        rows = np.arange(len(frame))
        axes.barh(rows, target, height=0.52, color=BLUE, label="target", gid="target")
        axes.barh(rows, quarantined, left=target, height=0.52, color=ORANGE, label="quarantined", gid="quarantined")
        axes.barh(rows, source, height=0.74, facecolor="none", edgecolor=INK, linewidth=1, label="source", gid="source")
        widest = int(max(source.max(), (target + quarantined).max(), 1))
        for row, (was, now, held_back) in enumerate(
            zip(source.tolist(), target.tolist(), quarantined.tolist(), strict=True)
        ):
            excess = now + held_back - was
            text = f"{count(was)} → {count(now)}" + (f" + {count(held_back)}" if held_back else "")
            text += f"   ✗ {count(abs(excess))} {'missing' if excess < 0 else 'too many'}" if excess else ""
            end = max(was, now + held_back) + 0.01 * widest
            axes.text(end, row, text, va="center", fontsize=9, color=RED if excess else INK)
        axes.set_xlim(0, widest * 1.5)
        axes.set_xlabel("chunks: source → target + quarantined")
        names = [name(c) for c in frame["collection"]]
        rows_axis(axes, names)
        whole_numbers(axes)
        bars(alone, names, quarantined, ORANGE, 1.45, series="quarantined alone")
        whole_numbers(alone, 3)
        alone.set_xlabel("quarantined chunks")
        alone.tick_params(axis="y", labelleft=False)
        legend_above(axes, 3)
    return figure


def routing(df: pd.DataFrame) -> Figure:
    """Draw the target collections of each source collection's chunks: one dot for each pair, with its number.

    `df`: source, target, chunks; a target of "" is the quarantine.
    """
    frame = df[df["chunks"] > 0] if len(df) else df
    if not len(frame):
        return empty("No chunk was routed", "There is no chunk to route.")
    table = frame.astype({"source": str, "target": str}).groupby(["source", "target"])["chunks"].sum().reset_index()
    sources = table.groupby("source")["chunks"].sum().sort_index()
    targets = sorted(set(table["target"]) - {""}) + [""] * ("" in set(table["target"]))
    split = int((table[table["target"] != ""].groupby("source").size() > 1).sum())
    into = count(len(set(targets) - {""}), "target collection")
    title = f"{count(sources.sum(), 'chunk')} of {count(len(sources), 'source collection')} go to {into}"
    if split:
        title += f"; {count(split)} of them {'is' if split == 1 else 'are'} split"
    shown, across = list(sources.index[:_ROWS]), targets[:8]
    note = "Rows: from. Columns: to. The area of a dot is the number of chunks."
    note += only(_ROWS, "first", len(sources), "source collection") + only(8, "first", len(targets), "target")
    with draw(2.1 + 0.42 * len(shown), title, note) as (figure, axes):
        part = table[table["source"].isin(shown) & table["target"].isin(across)]
        rows, columns = part["source"].map(shown.index), part["target"].map(across.index)
        colors = [ORANGE if target == "" else BLUE for target in part["target"]]
        widest = int(part["chunks"].max())
        sizes = np.maximum(6.0, 420.0 * part["chunks"] / widest)
        axes.scatter(columns - 0.12, rows, s=sizes, c=colors, edgecolors="none", zorder=3)
        for x, y, n in zip(columns, rows, part["chunks"], strict=True):
            axes.text(x + 0.14, y, count(n), va="center", fontsize=9, color=INK, gid="chunks")
        for y, source in enumerate(shown):
            place = {"va": "center", "ha": "center", "fontsize": 9, "color": GREY, "gid": "sums"}
            axes.text(len(across) - 0.05, y, count(sources[source]), **place)
        rows_axis(axes, [name(s, 28) for s in shown])
        totals, room = table.groupby("target")["chunks"].sum(), max(7, 78 // len(across) - 1)
        labels = [f"{_stacked(t, room) or 'quarantine'}\n{count(totals[t])}" for t in across]
        axes.set_xticks(range(len(across) + 1), [*labels, f"all\n{count(sources.sum())}"])
        axes.xaxis.tick_top()
        axes.set_xlim(-0.6, len(across) + 0.4)
        axes.tick_params(axis="x", length=0)
        axes.set_xlabel("target collection and its chunks")
        axes.xaxis.set_label_position("top")
    return figure


def _stacked(text: str, room: int) -> str:
    """A name as a label of at most two lines of `room` characters, cut at a separator."""
    whole = name(text, 2 * room)
    if len(whole) <= room:
        return whole
    cuts = [at + 1 for at, sign in enumerate(whole[:-1]) if sign in "_-./: "] or [len(whole) // 2]
    at = min(cuts, key=lambda cut: abs(2 * cut - len(whole)))
    return f"{name(whole[:at], room)}\n{name(whole[at:], room)}"


def differences_bar(df: pd.DataFrame, total: int | None = None) -> Figure:
    """Draw the differences between target and expectation by kind and collection, with the first id of each.

    `df`: collection, id, difference, one row a difference; `total`: the number of all, where `df` does not hold all.
    """
    if not len(df):
        return empty("Nothing in the target differs from what it should be", "Every chunk was compared, by id.")
    groups = df.assign(id=df["id"].astype(str)).groupby(["difference", "collection"], sort=True)["id"]
    table = groups.agg(["size", "first"]).reset_index().sort_values("size", ascending=False, kind="stable")
    kinds = table.groupby("difference")["size"].sum().sort_values(ascending=False, kind="stable")
    listed = [f"{count(n)} {str(kind).replace('_', ' ')}" for kind, n in kinds.items()]
    every = len(df) if total is None else total
    title = f"{count(every, 'difference')}: {', '.join(listed[:5])}" + (" …" if len(listed) > 5 else "")
    note = only(_BARS, "most frequent", len(table), "bar").lstrip()
    if every > len(df):
        title = f"{count(every, 'difference')}, of which {count(len(df))} are listed: {', '.join(listed[:5])}"
        note += " Of each kind and collection the first are listed, so a bar may be shorter than the truth."
    shown = table.head(_BARS)
    with draw(1.6 + 0.27 * len(shown), title, note) as (figure, axes):
        firsts = [f"{name(first, 44)}{f' and {count(n - 1)} more' if n > 1 else ''}" if first else count(n)
                  for n, first in zip(shown["size"], shown["first"], strict=True)]  # fmt: skip
        labels = [f"{str(kind).replace('_', ' ')} · {name(collection, 26)}"
                  for kind, collection in zip(shown["difference"], shown["collection"], strict=True)]  # fmt: skip
        bars(axes, labels, shown["size"], RED, 1.9, firsts, "differences")
        whole_numbers(axes)
        axes.set_xlabel("differences; beside each bar the first id")
    return figure


def completeness_heatmap(df: pd.DataFrame, noun: str = "field", meaning: str = "") -> Figure:
    """Draw the share of chunks that hold each field. `df`: one row a field (its index), one column a collection, values 0–1.

    `noun` names the counted fields in the title, `meaning` describes them in the note.
    """
    values = df.to_numpy(dtype=np.float64)
    if not values.size or not finite(values).size:
        return empty("No metadata field was measured", "No chunk, or no field to look for.")
    worst_row, worst_column = divmod(int(np.nanargmin(values)), values.shape[1])
    partial = int((np.nanmin(np.where(np.isfinite(values), values, np.inf), axis=1) < 1).sum())
    title = f"All {count(len(df), noun)} are complete in all {count(df.shape[1], 'collection')}"
    if partial:
        lowest = f"{name(df.index[worst_row], 28)} in {name(df.columns[worst_column], 28)}, {percent(float(np.nanmin(values)))}"
        title = f"{count(partial)} of {count(len(df), noun)} incomplete; lowest: {lowest} of the chunks"
    rows = min(len(df), 40)
    note = (meaning + only(40, "first", len(df), noun)).lstrip()
    with draw(2.2 + 0.3 * rows, title, note) as (figure, axes):
        heat(axes, values[:rows])
        axes.grid(visible=False)
        axes.set_yticks(range(rows), [name(f, 28) for f in df.index[:rows]])
        short = 24 if df.shape[1] <= 12 else 14
        step = max(1, df.shape[1] // 40)
        shown = [name(c, short) for c in df.columns[::step]]
        axes.set_xticks(range(0, df.shape[1], step), shown, rotation=35, ha="right")
        axes.set_xlabel("collection (share of its chunks that hold the field)")
    return figure


def repairs_bar(df: pd.DataFrame) -> Figure:
    """Draw how many values the schema filled in, by their origin, and how many it changed, by field.

    `df`: field, rule, chunks.
    """
    frame = df[df["chunks"] > 0] if len(df) else df
    if not len(frame):
        reason = "Every field of every chunk was as the schema wants it."
        return empty("The schema changed no value and filled none", reason)
    frame = frame.assign(field=frame["field"].astype(str), kind=frame["rule"].map(kind_of))
    table = frame.pivot_table(index="field", columns="kind", values="chunks", aggfunc="sum", fill_value=0)
    table = table.reindex(columns=[*_FILLED, "changed"], fill_value=0)
    table = table.assign(all=table.sum(axis=1)).reset_index().sort_values(["all", "field"], ascending=[False, True])
    filled = [f"{count(table[kind].sum())} {words}" for kind, (_, words) in _FILLED.items()]
    title = f"Of missing values {', '.join(filled)}; {count(table['changed'].sum())} changed, in {count(len(table), 'field')}"
    note = "Counted: fields in which the schema filled or changed a value. Each side has its own scale."
    if len(table) > _BARS:
        changed = table.nlargest(_BARS // 3, "changed", keep="first")  # the most interesting ones
        ranked = pd.concat([changed[changed["changed"] > 0], table]).drop_duplicates("field")
        note += f" {_BARS} of {count(len(table), 'field')} are drawn: those with most changes, then the most frequent."
        table = ranked.head(_BARS).sort_values(["all", "field"], ascending=[False, True])
    with draw(2.1 + 0.26 * len(table), title, note, panels=2, sharey=True) as (figure, panels):
        end, names = np.zeros(len(table)), [name(f, 26) for f in table["field"]]
        for kind, (color, words) in _FILLED.items():
            part = panels[0].barh(
                range(len(table)), table[kind], left=end, height=0.6, color=color, gid=kind, label=words
            )
            end = end + table[kind].to_numpy(float)
        panels[0].bar_label(part, [f"\u00a0{count(n)}" if n else "" for n in end], fontsize=9)
        panels[0].set_xlim(0, 1.25 * max(1.0, *end))
        legend_above(panels[0], 1)
        texts = [count(n) if n else "" for n in table["changed"]]
        bars(panels[1], names, table["changed"], ORANGE, 2.4, texts, "changed")
        for panel, words in zip(panels, ("filled in", "changed"), strict=True):
            rows_axis(panel, names)
            whole_numbers(panel, 4)
            panel.set_xlabel(f"chunks with a value {words}")
        panels[1].tick_params(axis="y", labelleft=False)
        for row, field in enumerate(table["field"]):
            rules = frame[(frame["field"] == field) & (frame["kind"] == "changed")]
            if len(rules):
                named = ", ".join(sorted(set(rules["rule"].astype(str))))
                panels[1].annotate(name(named, 30), (table["changed"].iloc[row], row), (34, 0), color=GREY, fontsize=8.5,
                                   textcoords="offset points", va="center", annotation_clip=False)  # fmt: skip
    return figure


_FILLED = {  # kind of a filled value → its colour, and its origin in words
    "default": (BLUE, "got a default"), "derived": (GREEN, "what the document tells"), "set": (SKY, "set by the schema"),
}  # fmt: skip


def completeness_before_after(df: pd.DataFrame) -> Figure:
    """Draw the share of chunks that hold each field, in the source and in the target. `df`: field, before, after (0–1)."""
    if not len(df) or not finite(df[["before", "after"]]).size:
        return empty("No metadata field was measured", "No chunk, or no field to look for.")
    frame = df.assign(field=df["field"].astype(str)).sort_values(["before", "field"], kind="stable")
    gained = int((frame["after"] > frame["before"] + 1e-12).sum())
    lost = int((frame["after"] < frame["before"] - 1e-12).sum())
    title = f"{count(gained)} of {count(len(frame), 'field')} are held by more chunks after than before"
    title += f"; {count(lost)} by fewer" if lost else ", none by fewer"
    note = (
        "Counted: every field that the schema asks of some chunk, those of one collection type included. What a field gains, "
        "the schema filled in: a default, or what it derives from the document."
    )
    note += only(_BARS, "least complete", len(frame), "field")
    frame = frame.head(_BARS)
    with draw(1.9 + 0.28 * len(frame), title, note) as (figure, axes):
        rows = np.arange(len(frame))
        axes.hlines(rows, frame["before"], frame["after"], color="#c5cad0", linewidth=4, gid="change")
        _marks(axes, frame["before"], rows, "before", 9)
        _marks(axes, frame["after"], rows, "after", 5)
        rows_axis(axes, [name(f, 28) for f in frame["field"]])
        axes.set_xlim(-0.03, 1.03)  # so that a ring at an end covers no label
        axes.set_xticks(np.linspace(0, 1, 6))
        share_axis(axes.xaxis)
        axes.set_xlabel("share of chunks that hold the field")
        legend_above(axes, 2)
    return figure


# -- a decision tree, top to bottom, with one path through it marked ----------------------------------------------------


@dataclass(frozen=True, slots=True)
class DiagramNode:
    """A box: its text, its level (0 at the top), and its horizontal position (0 left, 1 right)."""

    text: str
    level: int
    across: float


def decision_tree(
    nodes: Mapping[str, DiagramNode], edges: Sequence[tuple[str, str]], path: Collection[str], title: str
) -> Figure:
    """Draw boxes and arrows; those of `path` are bold and blue, so that they stand out without colour too."""
    levels = max(node.level for node in nodes.values())
    with draw(1.1 * (levels + 1) + 0.8, title, "Bold frames and lines: the way of this run.") as (figure, axes):
        axes.set_axis_off()
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(levels + 0.5, -0.5)
        for start, end in edges:
            color, width = _frame(start in path and end in path)
            ends = (nodes[start].across, nodes[start].level + 0.28), (nodes[end].across, nodes[end].level - 0.28)
            axes.annotate("", xytext=ends[0], xy=ends[1], arrowprops={"arrowstyle": "->", "color": color, "lw": width})
        for key, node in nodes.items():
            color, width = _frame(key in path)
            frame = {"boxstyle": "round,pad=0.4", "facecolor": "white", "edgecolor": color, "linewidth": width}
            style = {"ha": "center", "va": "center", "fontsize": 8.5, "color": INK, "bbox": frame}
            axes.text(node.across, node.level, node.text, fontweight="bold" if key in path else "normal", **style)
    return figure


def _frame(on_path: bool) -> tuple[str, float]:
    return (BLUE, 2.5) if on_path else (GREY, 0.8)

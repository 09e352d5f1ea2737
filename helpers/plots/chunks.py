"""Figures of chunks and their metadata: counts, differences, completeness, repairs."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from helpers.plots.search import heat
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

_ROWS = 30


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
    if len(frame) > _ROWS:
        note = (
            f"{_ROWS} of {count(len(frame), 'collection')} are drawn: those that do not match first, then the largest."
        )
        order = frame.assign(_ok=frame["off"] == 0).sort_values(
            ["_ok", "source"], ascending=[True, False], kind="stable"
        )
        frame = order.head(_ROWS)
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
    note = f"The {_ROWS} most frequent of {count(len(table))} are drawn." if len(table) > _ROWS else ""
    shown = table.head(_ROWS)
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
    note = f"The {_ROWS} most frequent of {count(len(table))} are drawn." if len(table) > _ROWS else ""
    shown = table.head(_ROWS)
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

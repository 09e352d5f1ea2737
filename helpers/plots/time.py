"""Figures of time: phases of a step or a run, throughput of the import."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from helpers.plots.style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PURPLE,
    SKY,
    count,
    draw,
    duration,
    empty,
    finite,
    legend_beside,
    name,
    rasterised,
    rows_axis,
    small,
)
from helpers.results import Phase

_ROWS = 40
_BINS = 120


def phase_timeline(phases: Sequence[Phase], title: str) -> Figure:
    """Phases as bars on a clock that begins with the first of them; `title` names what is timed ("Step 22")."""
    known = [(p, datetime.fromisoformat(p.started)) for p in phases]
    if not known:
        return empty(f"{title}: no phase was timed", "Nothing ran.")
    known.sort(key=lambda pair: pair[1])
    start = known[0][1]
    begins = np.array([(when - start).total_seconds() for _, when in known])
    lengths = np.array([p.seconds if np.isfinite(p.seconds) and p.seconds > 0 else 0.0 for p, _ in known])
    total = float((begins + lengths).max())
    longest = int(lengths.argmax())
    headed = f"{title} took {duration(total)}"
    if len(known) > 1:
        headed += f"; longest: {name(known[longest][0].name, 40)}, {duration(lengths[longest])}"
    shown = range(len(known))
    note = f"Clock starts at {start:%Y-%m-%d %H:%M:%S} UTC."
    if len(known) > _ROWS:
        shown = sorted(np.argsort(-lengths, kind="stable")[:_ROWS].tolist())  # type: ignore[assignment]
        note += f" The {_ROWS} longest of {count(len(known), 'phase')} are drawn."
    with draw(1.7 + 0.32 * len(shown), headed, note) as (figure, axes):
        for row, i in enumerate(shown):
            phase = known[i][0]
            axes.barh(row, max(lengths[i], total * 0.002), left=begins[i], height=0.58, color=BLUE)
            text = duration(lengths[i])
            if phase.chunks:
                text += f", {count(phase.chunks, 'chunk')}"
                text += f", {count(phase.chunks / lengths[i])}/s" if lengths[i] >= 0.05 else ""
            axes.text(begins[i] + lengths[i] + total * 0.012, row, text, va="center", fontsize=8.5, color=INK)
        rows_axis(axes, [name(known[i][0].name, 48) for i in shown])  # our own names: whole sentences
        axes.set_xlim(0, max(total, 1e-3) * 1.34)
        axes.xaxis.set_major_locator(MaxNLocator(7))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: duration(value) if value else "0"))
        axes.set_xlabel("time since the start")
    return figure


def throughput_per_batch(df: pd.DataFrame) -> Figure:
    """Chunks per second of each batch, in the order in which they ended, by target collection.

    `df`: target, finished_s (seconds since the start), rows, seconds. More than a few thousand batches are averaged in
    slices of time.
    """
    usable = df[np.isfinite(df["finished_s"]) & (df["seconds"] > 0) & (df["rows"] > 0)] if len(df) else df
    if not len(usable):
        return empty("No batch was timed", "Nothing was imported.")
    usable = usable.sort_values(["finished_s", "target"], kind="stable")
    rate = usable["rows"] / usable["seconds"]
    end = float(usable["finished_s"].max())
    middle = float(np.median(rate))
    title = (
        f"{count(usable['rows'].sum(), 'chunk')} in {count(len(usable), 'batch', 'batches')}: a batch runs at "
        f"{small(middle)} chunks per second (median), the slowest at {small(float(rate.min()))}"
    )
    targets = usable.groupby("target")["rows"].sum().sort_values(ascending=False, kind="stable").index
    note = (
        "" if len(usable) == len(df) else f"{count(len(df) - len(usable), 'batch', 'batches')} without a time left out."
    )
    if rasterised(len(usable)):
        note += f" Averages over {_BINS} slices of time."
    with draw(3.8, title, note.strip()) as (figure, axes):
        styles = list(zip((BLUE, ORANGE, GREEN, PURPLE, SKY, INK), "os^Dvx", strict=True))
        for i, target in enumerate(targets):
            color, marker = styles[i] if i < len(styles) else (GREY, ".")
            part = usable[usable["target"] == target]
            x, y = (
                _slices(part, end) if rasterised(len(usable)) else (part["finished_s"], part["rows"] / part["seconds"])
            )
            label = name(target, 24) if i < len(styles) else f"{len(targets) - len(styles)} others"
            axes.plot(
                x,
                y,
                linestyle="",
                marker=marker,
                color=color,
                markersize=5,
                alpha=0.8,
                label=label if i <= len(styles) else None,
            )
        axes.axhline(middle, color=GREY, linestyle="--", label=f"median {small(middle)}")
        axes.set_ylim(0, float(finite(rate).max()) * 1.08)
        axes.set_xlim(0, end * 1.02 or 1.0)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: duration(value) if value else "0"))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 10 else f"{value:g}"))
        axes.set_xlabel("time since the import started")
        axes.set_ylabel("chunks per second, per batch")
        legend_beside(axes, "target collection")
    return figure


def _slices(part: pd.DataFrame, end: float) -> tuple[pd.Series[float], pd.Series[float]]:
    """Mean end and mean rate of the batches in each of `_BINS` slices of time."""
    slot = np.minimum((part["finished_s"] / max(end, 1e-9) * _BINS).astype(int), _BINS - 1)
    sums = part.groupby(slot)[["rows", "seconds"]].sum()
    return part.groupby(slot)["finished_s"].mean(), sums["rows"] / sums["seconds"]

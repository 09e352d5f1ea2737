"""Figures of time: phases of a step or a run, throughput of the import."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from helpers.formatting import count, duration, small
from helpers.plots.style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    draw,
    empty,
    finite,
    legend_above,
    legend_beside,
    log_axis,
    name,
    only,
    rasterised,
    rows_axis,
    share_axis,
    step_name,
    time_axis,
)
from helpers.results import Phase

_ROWS = 40
_BINS = 120
_POINTS = 1_500


def phase_timeline(phases: Sequence[Phase], title: str) -> Figure:
    """Draw phases as bars over the seconds since the first one began; `title` names what is timed ("Step 22")."""
    known = sorted(phases, key=lambda p: datetime.fromisoformat(p.started))
    if not known:
        return empty(f"{title}: no phase was timed", "Nothing ran.")
    begun = [datetime.fromisoformat(p.started) for p in known]
    begins = np.array([(when - begun[0]).total_seconds() for when in begun])
    lengths = np.array([p.seconds if np.isfinite(p.seconds) and p.seconds > 0 else 0.0 for p in known])
    total = float((begins + lengths).max())
    longest = int(lengths.argmax())
    headed = f"{title} took {duration(total)}"
    if len(known) > 1:
        headed += f"; longest: {name(known[longest].name, 64)}, {duration(lengths[longest])}"
    note = f"Clock starts at {begun[0]:%Y-%m-%d %H:%M:%S} UTC." + only(_ROWS, "longest", len(known), "phase")
    shown = sorted(np.argsort(-lengths, kind="stable")[:_ROWS].tolist())
    with draw(1.7 + 0.32 * len(shown), headed, note) as (figure, axes):
        for row, i in enumerate(shown):
            phase = known[i]
            axes.barh(row, max(lengths[i], total * 0.002), left=begins[i], height=0.58, color=BLUE, gid="phases")
            text = duration(lengths[i])
            if phase.chunks:
                text += f", {count(phase.chunks, 'chunk')}"
                text += f", {count(phase.chunks / lengths[i])}/s" if lengths[i] >= 0.05 else ""
            axes.text(begins[i] + lengths[i] + total * 0.012, row, text, va="center", fontsize=8.5, color=INK)
        rows_axis(axes, [name(known[i].name, 48) for i in shown])  # our own names: whole sentences
        axes.set_xlim(0, max(total, 1e-3) * 1.34)
        time_axis(axes, "time since the start")
    return figure


def throughput_per_batch(df: pd.DataFrame) -> Figure:
    """Draw chunks per second of each batch over time, by target collection.

    `df`: target, finished_s (seconds since the start), rows, seconds. Many batches are averaged in slices of time.
    """
    usable = df[np.isfinite(df["finished_s"]) & (df["seconds"] > 0) & (df["rows"] > 0)] if len(df) else df
    if not len(usable):
        return empty("No batch was timed", "Nothing was imported.")
    usable = usable.sort_values(["finished_s", "target"], kind="stable")
    rate = usable["rows"] / usable["seconds"]
    end = float(usable["finished_s"].max())
    middle = float(np.median(rate))
    title = (
        f"{count(usable['rows'].sum(), 'chunk')} in {count(len(usable), 'batch')}: a batch runs at "
        f"{small(middle)} chunks per second (median), the slowest at {small(float(rate.min()))}"
    )
    targets = usable.groupby("target")["rows"].sum().sort_values(ascending=False, kind="stable").index
    left_out = len(df) - len(usable)
    note = f"{count(left_out, 'batch')} without a time left out." if left_out else ""
    if rasterised(len(usable)):
        note += f" Averages over {_BINS} slices of time."
    with draw(3.8, title, note.strip()) as (figure, axes):
        styles = list(zip((BLUE, ORANGE, GREEN, PURPLE, SKY, INK), "os^Dvx", strict=True))
        for i, target in enumerate(targets):
            color, marker = styles[i] if i < len(styles) else (GREY, ".")
            part = usable[usable["target"] == target]
            x, y = part["finished_s"], part["rows"] / part["seconds"]
            if rasterised(len(usable)):
                x, y = _slices(part, end)
            label = name(target, 24) if i < len(styles) else f"{len(targets) - len(styles)} others"
            style = {"linestyle": "", "marker": marker, "color": color, "markersize": 5, "alpha": 0.8, "gid": "batches"}
            axes.plot(x, y, label=label if i <= len(styles) else None, **style)
        axes.axhline(middle, color=GREY, linestyle="--", label=f"median {small(middle)}")
        axes.set_ylim(0, float(finite(rate).max()) * 1.08)
        axes.set_xlim(0, end * 1.02 or 1.0)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 10 else f"{value:g}")
        time_axis(axes, "time since the import started")
        axes.set_ylabel("chunks per second, per batch")
        legend_beside(axes, "target collection")
    return figure


def rows_over_time(df: pd.DataFrame, total: int, estimate: float | None) -> Figure:
    """Draw the cumulative chunks written over the time of the import, with the dry run's estimate.

    `df`: finished_s (seconds since the start), rows, one row a batch. `total`: chunks to write. `estimate`: seconds that
    the dry run expected for the import, None where it gave none.
    """
    usable = df[np.isfinite(df["finished_s"]) & (df["rows"] > 0)] if len(df) else df
    if not len(usable):
        return empty("No batch was timed", "Nothing was imported.")
    usable = usable.sort_values("finished_s", kind="stable")
    seconds = np.concatenate([[0.0], usable["finished_s"].to_numpy(float)])
    rows = np.concatenate([[0], usable["rows"].to_numpy(np.int64)]).cumsum()
    end, written = float(seconds[-1]), int(rows[-1])
    title = f"{count(written)} of {count(total, 'chunk')} written in {duration(end)}"
    whole = " for all" if written < total else ""
    title += f"; the dry run expected {duration(estimate)}{whole}" if estimate else "; the dry run gave no estimate"
    note = "Counted when a batch was acknowledged by the target."
    if written < total:
        note += f" Not by this attempt: {count(total - written, 'chunk')}; step 23 says whether they are there."
    if rows.size > _POINTS:
        at = np.unique(np.linspace(0, rows.size - 1, _POINTS).astype(int))
        seconds, rows = seconds[at], rows[at]
    with draw(3.8, title, note) as (figure, axes):
        axes.step(seconds, rows, where="post", color=BLUE, label="written", gid="written")
        if estimate:
            style = {"color": ORANGE, "linestyle": "--", "label": "dry run's estimate", "gid": "estimate"}
            axes.plot([0, estimate], [0, total], **style)
        axes.axhline(total, color=GREY, linestyle=":", label=f"to write: {count(total)}")
        axes.set_ylim(0, 1.06 * max(total, written, 1))
        axes.set_xlim(0, 1.02 * max(end, estimate or 0.0) or 1.0)
        axes.yaxis.set_major_formatter("{x:,.0f}")
        time_axis(axes, "time since the import started")
        axes.set_ylabel("chunks written")
        legend_above(axes, 3)
    return figure


def _slices(part: pd.DataFrame, end: float) -> tuple[pd.Series[float], pd.Series[float]]:
    """(mean end, mean rate) of the batches in each of `_BINS` slices of time."""
    slot = np.minimum((part["finished_s"] / max(end, 1e-9) * _BINS).astype(int), _BINS - 1)
    sums = part.groupby(slot)[["rows", "seconds"]].sum()
    return part.groupby(slot)["finished_s"].mean(), sums["rows"] / sums["seconds"]


# -- planned and measured times, each period on its own scale ------------------------------------------------------------

_PLANNED: dict[str, Any] = {"facecolor": "white", "edgecolor": GREY, "hatch": "/////", "linewidth": 0.8}
_THINNEST = 0.003  # of the width, so that seconds in a window of hours are visible


@dataclass(frozen=True, slots=True)
class TimelineBar:
    """A row: `planned` and `real` are (begin, end) in the unit of the panel, or None; `text` is written beside the bar."""

    label: str
    planned: tuple[float, float] | None
    real: tuple[float, float] | None
    text: str


@dataclass(frozen=True, slots=True)
class Panel:
    """A period: its title, the label of its axis, its rows, and the present time in its unit."""

    title: str
    unit: str
    rows: list[TimelineBar] = field(default_factory=list)
    now: float | None = None


def plan_and_reality(panels: Sequence[Panel], title: str, note: str = "") -> Figure:
    """Draw the panels one below the other. Planned bars are hatched, real ones solid, so that both are visible in grey print."""
    rows = [max(len(panel.rows), 1) for panel in panels]
    height = 0.34 * sum(rows) + 0.85 * len(panels) + 1.0
    stacked: dict[str, Any] = {"panels": len(panels), "stacked": True, "squeeze": False, "height_ratios": rows}
    with draw(height, title, note, **stacked) as (figure, grid):
        for panel, axes in zip(panels, grid[:, 0], strict=True):
            _panel(panel, axes)
        keys: dict[str, Artist] = {"planned": Patch(**_PLANNED), "measured": Patch(facecolor=BLUE)}
        if any(axes.lines for axes in grid[:, 0]):
            keys["now"] = Line2D([], [], color=RED, linestyle="--", linewidth=1.4)
        place = {"loc": "lower right", "bbox_to_anchor": (1.0, 1.0), "borderaxespad": 0.2}
        grid[0, 0].legend(list(keys.values()), list(keys), ncols=3, frameon=False, **place)
    return figure


def _panel(panel: Panel, axes: Axes) -> None:
    ends = [end for bar in panel.rows for pair in (bar.planned, bar.real) if pair for end in pair]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    high = high if high > low else low + 1.0
    least = (high - low) * _THINNEST
    for row, bar in enumerate(panel.rows):
        if bar.planned:
            width = max(bar.planned[1] - bar.planned[0], least)
            axes.barh(row - 0.2, width, left=bar.planned[0], height=0.34, **_PLANNED)
        if bar.real:
            axes.barh(row + 0.2, max(bar.real[1] - bar.real[0], least), left=bar.real[0], height=0.34, color=BLUE)
        axes.text(1.012, row, bar.text, transform=axes.get_yaxis_transform(), va="center", fontsize=8.5, color=INK)
    rows_axis(axes, [name(bar.label, 34) for bar in panel.rows])
    axes.set_xlim(low - (high - low) * 0.01, high + (high - low) * 0.01)
    if panel.now is not None and low <= panel.now <= high:
        axes.axvline(panel.now, color=RED, linestyle="--", linewidth=1.4)
    axes.xaxis.set_major_locator(MaxNLocator(9, steps=[1, 1.5, 2, 3, 5, 6, 10]))
    axes.xaxis.set_major_formatter(lambda value, _: f"T{value:+g}".replace("-", "−") if value else "T")
    axes.set_xlabel(panel.unit)
    axes.set_title(panel.title)


# -- after the cutover: the watch of the first hour, performance on both sides, planned and real times ------------------


_TICKS = (0.1, 1, 10, 60, 600, 3600, 36_000)  # seconds


def watch_timeline(
    samples: pd.DataFrame, *, limit_ms: float, validated: int, planned: float, gaps: Sequence[tuple[float, float]] = (),
    ended: str = "",
) -> Figure:  # fmt: skip
    """Draw latency percentiles and chunks of a target over a watch of `planned` seconds.

    `samples`: second, p50, p95, p99 (ms or None), chunks, failed. `gaps`: (second, seconds without samples). `ended`: why
    the watch ended early, or "".
    """
    timed = samples[samples[["p50", "p95", "p99"]].notna().all(axis=1)] if len(samples) else samples
    if not len(timed):
        return empty("The target was not asked", "No sample has an answered query.")
    unit = _Clock(planned, float(samples["second"].max()))
    x = unit.of(timed["second"])
    worst = float(finite(timed["p95"]).max())
    within = "within" if worst <= limit_ms else "above"
    title = f"{count(len(samples), 'look')}: p95 at most {small(worst)} ms, {within} {limit_ms:g} ms"
    failed = int(samples["failed"].sum())
    title += f"; {count(failed, 'look')} failed" if failed else "; none failed"
    missed = "".join(f" No samples for {duration(s)} before {duration(at)} (dotted)." for at, s in gaps[:3])
    note = f"One dot per sample. Lower is better.{missed}"
    headed = f"Ended early: {ended}" if ended else title
    with draw(3.9, headed, note, panels=2, width_ratios=[2.2, 1]) as (figure, (left, right)):
        for column, color, marker in (("p99", SKY, "^"), ("p95", ORANGE, "s"), ("p50", BLUE, "o")):
            ms = timed[column].astype(float)
            left.plot(x, ms, color=color, marker=marker, markersize=4, label=column, gid=column)
        failed_samples = samples[samples["failed"].astype(bool)]
        if len(failed_samples):
            marks: dict[str, Any] = {"linestyle": "", "marker": "X", "color": RED, "markersize": 8, "clip_on": False}
            foot = np.full(len(failed_samples), 0.03)
            left.plot(
                unit.of(failed_samples["second"]),
                foot,
                transform=left.get_xaxis_transform(),
                label="failed sample",
                **marks,
            )
        top = float(finite(timed["p99"]).max())
        left.axhline(limit_ms, color=GREY, linestyle="--", label=f"limit for p95: {limit_ms:g} ms")
        if limit_ms > 3 * top:  # with a high limit the curves would be flat on a linear scale
            left.set_yscale("log")
            left.set_ylim(max(0.1, float(finite(timed["p50"]).min()) / 2), limit_ms * 1.6)
            left.yaxis.set_major_formatter("{x:g}")
            left.yaxis.set_minor_formatter("")
        else:
            left.set_ylim(0, max(top, limit_ms) * 1.1)
        left.set_ylabel("latency of a query, ms")
        unit.axis(left)
        legend_above(left, 3)
        for at, _ in gaps:
            left.axvline(at / unit.seconds, color=GREY, linestyle=":", linewidth=1.2)
        _chunks(right, samples, validated, unit)
    return figure


class _Clock:
    """The unit of the time axis: minutes, or seconds where the watch is shorter than three minutes."""

    def __init__(self, planned: float, last: float) -> None:
        self.end = max(planned, last, 1.0)  # the last sample may come after the planned end
        self.name, self.seconds = ("minutes", 60.0) if planned >= 180 else ("seconds", 1.0)

    def of(self, seconds: pd.Series[float]) -> NDArray[np.float64]:
        return np.asarray(seconds.to_numpy(float) / self.seconds, np.float64)

    def axis(self, axes: Axes) -> None:
        end = self.end / self.seconds
        axes.set_xlim(-0.02 * end, 1.04 * end)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.set_xlabel(f"{self.name} watched")


def _chunks(axes: Axes, samples: pd.DataFrame, validated: int, unit: _Clock) -> None:
    known = samples[samples["chunks"].notna()]
    style: dict[str, Any] = {"color": GREEN, "marker": "o", "markersize": 4, "label": "in the target", "gid": "chunks"}
    axes.plot(unit.of(known["second"]), known["chunks"].astype(float), **style)
    axes.axhline(validated, color=GREY, linestyle="--", label=f"validated: {validated:,}")
    values = [*known["chunks"].astype(float), float(validated)]
    room = max(2.0, 0.15 * (max(values) - min(values)), 0.0005 * max(values))
    axes.set_ylim(max(0.0, min(values) - room), max(values) + room)
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_ylabel("chunks")
    unit.axis(axes)
    legend_above(axes, 1)


_FALL = 0.8  # a level below this share of the source's queries per second is named in the title


def performance(rows: pd.DataFrame, *, limit_ms: float, minimum_rate: float) -> Figure:
    """Draw warm latency and queries per second before (source) and after (target), by number of clients.

    `rows`: side ("before" or "after"), clients, mean_ms, p95_ms, rate (queries per second), and mean_low, mean_high (the
    lowest and the highest mean of the repetitions).
    """
    after = rows[rows["side"] == "after"] if len(rows) else rows
    if not len(after):
        return empty("The target was not measured", "No query was answered.")
    one = after[after["clients"] == after["clients"].min()].iloc[0]
    good = one["mean_ms"] <= limit_ms and one["rate"] >= minimum_rate
    title = (
        f"The target answers one client in {small(float(one['mean_ms']))} ms on average and {small(float(one['rate']))} queries "
        f"a second: {'both within limits' if good else 'not within limits'}"
    )
    before = rows[rows["side"] == "before"]
    if len(before):
        was = before[before["clients"] == before["clients"].min()].iloc[0]
        title += f"; before, {small(float(was['mean_ms']))} ms and {small(float(was['rate']))}"
        pairs = before.merge(after, on="clients", suffixes=("", "_after"))
        pairs = pairs[pairs["clients"] > one["clients"]]
        fall = pairs.assign(share=pairs["rate_after"] / pairs["rate"]).sort_values("share").iloc[:1]
        for row in fall[fall["share"] < _FALL].itertuples():
            title += f". With {count(row.clients, 'client')}: {small(row.rate_after)} queries a second, {small(row.rate)} before"
    note = "Stored vectors searched for on warm connections. Whisker: lowest to highest repetition of the mean. Triangle: p95."
    clients = sorted({int(c) for c in rows["clients"]})
    with draw(4.9, title, note, panels=2) as (figure, (left, right)):
        sides = (("before", "source, before", ORANGE, "white", -0.12), ("after", "target, after", BLUE, BLUE, 0.12))
        for side, label, color, face, off in sides:
            part = rows[rows["side"] == side].set_index("clients").reindex(clients)
            if part["mean_ms"].notna().any():
                x = np.arange(len(clients)) + off
                style = {"color": color, "markerfacecolor": face, "markeredgewidth": 1.8, "linewidth": 1.2}
                left.vlines(x, part["mean_low"], part["mean_high"], color=color, linewidth=3, gid=f"{side} repetitions")
                left.plot(x, part["mean_ms"], marker="o", label=f"{label}: mean", gid=f"{side} mean", **style)
                style_p95 = style | {"marker": "^", "linestyle": ":", "label": f"{label}: p95", "gid": f"{side} p95"}
                left.plot(x, part["p95_ms"], **style_p95)
                right.plot(x, part["rate"], marker="o", label=label, gid=f"{side} rate", **style)
        left.axhline(limit_ms, color=RED, linestyle="--", label=f"limit of the mean, one client: {limit_ms:g} ms")
        right.axhline(minimum_rate, color=RED, linestyle="--", label=f"at least {minimum_rate:g} a second, one client")
        left.set_yscale("log")
        least = min([limit_ms, *finite(rows[["mean_ms", "mean_low"]])])
        left.set_ylim(least / 2, max([limit_ms, *finite(rows[["p95_ms", "mean_high"]])]) * 2)
        right.set_ylim(0, max([minimum_rate, *finite(rows["rate"])]) * 1.25)
        left.yaxis.set_major_formatter("{x:g}")
        left.yaxis.set_minor_formatter("")
        left.set_ylabel("latency of a query, ms (log scale)")
        right.set_ylabel("queries per second")
        for axes in (left, right):
            axes.set_xticks(range(len(clients)), [str(c) for c in clients])
            axes.set_xlim(-0.5, len(clients) - 0.5)
            axes.set_xlabel("clients at once")
            axes.grid(visible=False, axis="x")
            legend_above(axes, 1)
    return figure


def latency_cdf(
    before: Sequence[float], after: Sequence[float], *, limit_ms: float, clients: int, queries: Mapping[str, int]
) -> Figure:
    """Draw the share of queries answered within x milliseconds, of source and target, with the limit.

    `before` and `after`: latencies in ms at equally spaced shares from the fastest query to the slowest (as step 51 records
    them), empty where a side was not measured; `queries`: how many each side ("before", "after") answered.
    """
    sides = [
        ("source, before", finite(before), ORANGE, "--", "before"),
        ("target, after", finite(after), BLUE, "-", "after"),
    ]
    if not any(values.size for _, values, *_ in sides):
        return empty("No latency was measured", "No query was answered.")
    middles = [f"{label} {small(float(np.median(v)))} ms" for label, v, *_ in sides if v.size]
    title = f"Half of the queries are answered within: {'; '.join(middles)}"
    note = f"Warm, {count(clients, 'client')}, stored vectors. Further left is faster."
    with draw(3.6, title, note) as (figure, axes):
        every = np.concatenate([values for _, values, *_ in sides])
        log_axis(axes, max(float(every.min()), 1e-3), max(float(every.max()), limit_ms))
        for label, values, color, style, gid in sides:
            if values.size:
                text = f"{label} ({count(queries.get(gid, 0), 'query')})"
                axes.plot(values, np.linspace(0, 1, values.size), color=color, linestyle=style, gid=gid, label=text)
        axes.axvline(limit_ms, color=RED, linestyle="--", label=f"limit of the mean: {limit_ms:g} ms")
        axes.set_ylim(0, 1.03)
        share_axis(axes.yaxis)
        axes.set_xlabel("latency of a query, ms (log scale)")
        axes.set_ylabel("share of queries answered within")
        legend_above(axes, 3)
    return figure


def durations(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the duration of each step with the expected ones.

    `rows`, in seconds: step, actual, estimate (of the dry run, or None), runbook_low and runbook_high (or None); carried, of the
    attempts that this one continued.
    """
    timed = [r for r in rows if r.get("actual") is not None]
    if not timed:
        return empty("No step was timed", "Nothing ran.")
    actual = sum(float(r["actual"]) for r in timed)
    known = [r for r in timed if r.get("estimate") is not None]
    title = f"The steps took {duration(actual)}"
    if known:
        done = sum(float(r["actual"]) + float(r.get("carried", 0)) for r in known)
        estimated = sum(float(r["estimate"]) for r in known)
        title += f"; those that the dry run estimated, {duration(done)} instead of {duration(estimated)}"
    note = "Logarithmic: equal lengths are equal ratios. People, sign-offs and pauses between steps are not in it."
    keys = ("actual", "estimate", "runbook_low", "runbook_high")
    positive = [float(row[key]) for row in timed for key in keys if row.get(key)]
    low, high = max(0.05, min(positive, default=1.0) / 2), max(positive, default=1.0) * 4
    span = {"color": GREY, "marker": "|", "markersize": 15, "markeredgewidth": 3, "linewidth": 3, "gid": "runbook"}
    took = {"color": BLUE, "marker": "o", "markersize": 8, "linestyle": "", "gid": "took"}
    estimate = {
        "color": ORANGE,
        "marker": "D",
        "markersize": 7,
        "linestyle": "",
        "markeredgecolor": INK,
        "gid": "estimate",
    }
    with draw(1.9 + 0.36 * len(timed), title, note) as (figure, axes):
        for at, row in enumerate(timed):
            value = max(float(row["actual"]), low)
            if row.get("runbook_high"):
                ends = float(row.get("runbook_low") or row["runbook_high"]), float(row["runbook_high"])
                axes.plot(ends, [at, at], label=_once(axes, "the runbook's figure"), **span)
            axes.plot(value, at, label=_once(axes, "took"), **took)
            if row.get("estimate") is not None:
                axes.plot(max(float(row["estimate"]), low), at, label=_once(axes, "dry run's estimate"), **estimate)
            axes.text(value * 1.12, at - 0.3, duration(float(row["actual"])), va="center", fontsize=8.5, color=INK)
        axes.set_xscale("log")
        axes.set_xlim(low, high)
        axes.xaxis.set_major_formatter(lambda value, _: duration(value))
        axes.xaxis.set_major_locator(FixedLocator([s for s in _TICKS if low <= s <= high]))
        axes.xaxis.set_minor_locator(NullLocator())
        rows_axis(axes, [step_name(r["step"]) for r in timed])
        axes.set_xlabel("time of the step (log scale)")
        legend_above(axes, 3)
    return figure


def _once(axes: Axes, label: str) -> str | None:
    """The label for its first use in these axes, then None."""
    return label if label not in axes.get_legend_handles_labels()[1] else None

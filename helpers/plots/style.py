"""What every figure shares: the style file, the colours, how foreign names and numbers are written, the bytes of a PNG.

Figures are `matplotlib.figure.Figure` objects that no global list knows (no pyplot), so they work without a display, in
threads, and leave nothing open. `draw` is the frame of each of them: style, size, takeaway title, grey note.
"""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib.style as mpl_style
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle, StepPatch
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from helpers.errors import one_line
from helpers.formatting import count, duration, small
from helpers.results import write_bytes

STYLE = Path(__file__).with_name("runbook.mplstyle")
BLUE, ORANGE, GREEN, PURPLE, SKY, RED = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00"
GREY, INK = "#6a737d", "#1b1f24"
WIDTH = 8.0  # inches; 768 px of a page at 100 %, and about the width of a printed page
FEW = 400  # points; more are drawn as pixels
_CURVE_POINTS = 2_000
# Hash salt: element ids are digests of content and salt, and the salt is random by default.
_SVG = {"svg.fonttype": "none", "svg.hashsalt": "runbook", "svg.image_inline": True}


@contextmanager
def draw(
    height: float, title: str, note: str = "", *, panels: int = 1, stacked: bool = False, **kwargs: Any
) -> Iterator[tuple[Figure, Any]]:
    """A figure of `height` inches with its axes (one, or an array of `panels` side by side or `stacked`), drawn on leaving."""
    with mpl_style.context(STYLE, after_reset=True):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(*((panels, 1) if stacked else (1, panels)), **kwargs)
        headline(figure, title)
        if note:
            footnote(figure, note)
        yield figure, axes
        figure.draw_without_rendering()  # ticks are made while the style holds, whoever saves the figure later
        figure.set_layout_engine("none")  # the layout is computed once, not again for each format


def headline(figure: Figure, text: str) -> None:
    """The takeaway of the figure, left-aligned above it."""
    figure.suptitle(wrapped(text, 82), x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK)


def footnote(figure: Figure, text: str) -> None:
    """The grey note below the figure: what is drawn, of how many, and how to read it."""
    figure.supxlabel(wrapped(text, 118), x=0.01, ha="left", fontsize=8.5, color=GREY)


def png(figure: Figure) -> bytes:
    """The figure as PNG; the same figure gives the same bytes (no date, no version of the library in it)."""
    buffer = io.BytesIO()
    with mpl_style.context(STYLE, after_reset=True):
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def svg(figure: Figure) -> bytes:
    """The figure as SVG whose text is text; the same figure gives the same bytes. Many points are pixels inside it."""
    buffer = io.BytesIO()
    with mpl_style.context(STYLE, after_reset=True), mpl_style.context(_SVG):
        title = " ".join(figure.get_suptitle().split())
        figure.savefig(buffer, format="svg", dpi=160, metadata={"Date": None, "Creator": None, "Title": title})
    whole = buffer.getvalue()
    start = whole.index(b"<svg")  # no document type: nothing resolves it
    named = whole[start:].replace(b"'DejaVu Sans'", b"'DejaVu Sans', Verdana, sans-serif")
    return re.sub(rb'<g id="[^"]*"', b"<g", named)  # groups are numbered, and nothing refers to them


def drawn(figure: Figure) -> dict[str, list[tuple[Any, ...]]]:
    """What the figure shows, read back from its shapes: by series (their gid), one tuple a value.

    On axes with named rows: (row, length of a bar), (row, place of a mark), (row, from, to) of a line, (row, column, share)
    of a heat map, (row, column, text) of words. Elsewhere: (x, y) of a point, (left, right, height) of a histogram's bar.
    """
    found: dict[str, list[tuple[Any, ...]]] = {}
    for axes in figure.axes:
        rows = _fixed(axes.yaxis)
        for shape in (*axes.patches, *axes.lines, *axes.collections, *axes.images, *axes.texts):
            if series := shape.get_gid():
                found.setdefault(series, []).extend(_values(shape, rows, _fixed(axes.xaxis)))
    return found


def _fixed(axis: Axis) -> dict[int, str]:
    """The names on an axis by their whole-numbered place; none where it counts."""
    locator = axis.get_major_locator()
    if not isinstance(locator, FixedLocator) or axis.get_scale() != "linear":
        return {}
    return {round(float(at)): axis.get_major_formatter()(at, i) for i, at in enumerate(locator.tick_values(0, 0))}


def _values(shape: Artist, rows: dict[int, str], columns: dict[int, str]) -> list[tuple[Any, ...]]:
    if isinstance(shape, Text):
        x, y = shape.get_position()
        return [(rows.get(round(y), ""), columns.get(round(x), ""), shape.get_text())]
    if isinstance(shape, Rectangle):
        return [(rows.get(round(shape.get_y() + shape.get_height() / 2), ""), float(shape.get_width()))]
    if isinstance(shape, StepPatch):
        heights, edges, _ = shape.get_data()
        return [(float(a), float(b), float(n)) for a, b, n in zip(edges[:-1], edges[1:], heights, strict=True) if n]
    if isinstance(shape, AxesImage):
        table: NDArray[np.float64] = np.ma.filled(np.ma.asarray(shape.get_array()), np.nan)
        return [
            (rows.get(r, ""), columns.get(c, ""), float(v)) for (r, c), v in np.ndenumerate(table) if np.isfinite(v)
        ]
    if isinstance(shape, LineCollection):
        ends = [end for path in shape.get_segments() if (end := np.ma.filled(np.ma.asarray(path), np.nan)).size == 4]
        return [
            (rows.get(round(float(e[:, 1].mean())), ""), *(float(x) for x in e[:, 0]))
            for e in ends
            if np.isfinite(e).all()
        ]
    if not isinstance(shape, Line2D):
        return []
    points = zip(np.asarray(shape.get_xdata(), float), np.asarray(shape.get_ydata(), float), strict=True)
    if columns and not rows:
        return [(columns.get(round(x), ""), float(y)) for x, y in points if np.isfinite(y)]
    return [
        (rows[round(y)], float(x)) if rows else (float(x), float(y)) for x, y in points if np.isfinite([x, y]).all()
    ]


def save(figure: Figure, path: Path) -> str:
    """The figure written to `path`, as SVG or as PNG by its suffix; the SHA-256 of what was written."""
    return write_bytes(path, svg(figure) if path.suffix == ".svg" else png(figure))


def empty(title: str, why: str) -> Figure:
    """The figure of a question to which there are no data: says so, instead of an empty frame."""
    with draw(1.2, title) as (figure, axes):
        axes.set_axis_off()
        axes.text(0.0, 0.5, wrapped(why, 100), transform=axes.transAxes, va="center", fontsize=10.5, color=GREY)
    return figure


def name(text: object, limit: int = 32) -> str:
    """A foreign name (collection, id, field) as a label: one line, cut in its middle, unknown glyphs as escapes."""
    shown = "".join(c if ord(c) in _glyphs() else c.encode("unicode_escape").decode() for c in one_line(str(text)))
    if len(shown) <= limit:
        return shown
    head = (limit - 1) * 2 // 3
    return f"{shown[:head]}…{shown[len(shown) - (limit - 1 - head) :]}"


def step_name(text: str, limit: int = 44) -> str:
    """A step's name as a label; where it is too long its title is cut, never which attempt it was and what became of it."""
    title, mark, attempt = text.partition(", attempt ")
    rest = mark + attempt
    return name(title, max(8, limit - len(rest))) + rest


def wrapped(text: str, width: int) -> str:
    return "\n".join(textwrap.wrap(text, width))


def legend_above(axes: Axes, columns: int) -> None:
    """The legend between title and axes, where it hides nothing."""
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=columns, frameon=False, borderaxespad=0.2)


def legend_beside(axes: Axes, title: str) -> None:
    """The legend to the right of the axes, for many entries."""
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), title=title, alignment="left", borderaxespad=0.0)


def log_axis(axes: Axes, low: float, high: float) -> None:
    """A logarithmic x axis over whole decades from `low` to `high`, labelled without mathematical markup."""
    axes.set_xscale("log")
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    axes.set_xlim(10.0**first, 10.0 ** max(last, first + 1))
    axes.xaxis.set_major_locator(LogLocator(10, numticks=12))
    axes.xaxis.set_major_formatter(lambda value, _: small(value))
    axes.xaxis.set_minor_formatter(NullFormatter())


def time_axis(axes: Axes, label: str) -> None:
    """Durations on the x axis, from 0."""
    axes.xaxis.set_major_locator(MaxNLocator(7))
    axes.xaxis.set_major_formatter(lambda value, _: duration(value) if value else "0")
    axes.set_xlabel(label)


def whole_numbers(axes: Axes, most: int = 7) -> None:
    """At most so many whole numbers on the x axis, with thousands separators."""
    axes.xaxis.set_major_locator(MaxNLocator(most, steps=[1, 2, 5, 10], integer=True))
    axes.xaxis.set_major_formatter("{x:,.0f}")


def share_axis(axis: Axis) -> None:
    """Shares from 0 to 1 as percentages."""
    axis.set_major_formatter(lambda value, _: f"{value * 100:.4g} %")


def rows_axis(axes: Axes, labels: list[str]) -> None:
    """One horizontal row for each label, first on top."""
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)


def bars(
    axes: Axes,
    labels: list[str],
    lengths: Any,
    color: Any,
    room: float,
    texts: list[str] | None = None,
    series: str = "",
) -> None:
    """A row with a bar for each label and its text behind it (the number, where none is given).

    The axis ends at `room` times the longest bar; `color` may be a list of one for each bar.
    """
    shown = axes.barh(range(len(labels)), lengths, height=0.6, color=color, gid=series)
    axes.bar_label(shown, [f"\u00a0{text}" if text else "" for text in texts or map(count, lengths)], fontsize=9)
    rows_axis(axes, labels)
    axes.set_xlim(0, room * max(1.0, *map(float, lengths)))


def curve(axes: Axes, values: NDArray[np.float64], color: str, line: str, label: str, *, points: bool = False) -> None:
    """An empirical distribution as steps; more than a few thousand values are drawn by their quantiles, ends kept."""
    if not values.size:
        return
    ordered, share = np.sort(values), np.arange(1, values.size + 1) / values.size
    if ordered.size > _CURVE_POINTS:
        pick = np.linspace(0, ordered.size - 1, _CURVE_POINTS).astype(int)
        tail = np.arange(ordered.size - 50, ordered.size)  # the few worst are what the reader looks for
        pick = np.union1d(pick, tail)
        ordered, share = ordered[pick], share[pick]
    x, y = np.concatenate([ordered[:1], ordered]), np.concatenate([[0.0], share])
    marker = "o" if points else ""
    axes.step(x, y, where="post", color=color, linestyle=line, label=label, marker=marker, markersize=4, gid=label)
    axes.set_ylim(-0.02, 1.04)


def only(most: int, which: str, total: int, what: str) -> str:
    """The sentence that not all are drawn, after a blank; "" where all are."""
    return f" The {most} {which} of {count(total, what)} are drawn." if total > most else ""


def finite(values: Any) -> NDArray[np.float64]:
    """The finite ones of any numbers, as a flat float64 array."""
    array = np.asarray(values, dtype=np.float64).ravel()
    return array[np.isfinite(array)]


def rasterised(n: int) -> bool:
    """Whether so many points are drawn as pixels rather than as shapes."""
    return n > FEW


@cache
def _glyphs() -> frozenset[int]:
    return frozenset(get_font(findfont(FontProperties(family="DejaVu Sans"))).get_charmap())

"""What all figures share: style, colours, the format of foreign names and numbers, PNG and SVG, and the check of a figure.

Figures are `matplotlib.figure.Figure` objects without pyplot: they need no display, work in threads, and leave nothing open.
Each is drawn inside `draw`, which sets style, size, title and note.
"""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from functools import cache, partial
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
from helpers.formatting import count, duration, percent, small
from helpers.results import StepResult, kind_of, write_bytes

STYLE = Path(__file__).with_name("runbook.mplstyle")
BLUE, ORANGE, GREEN, PURPLE, SKY, RED = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00"
GREY, INK = "#6a737d", "#1b1f24"
WIDTH = 8.0  # inches; 768 px of a page at 100 %, and about the width of a printed page
FEW = 400  # points; more are rasterised
_CURVE_POINTS = 2_000
# Hash salt: element ids are digests of content and salt, and the salt is random by default.
_SVG = {"svg.fonttype": "none", "svg.hashsalt": "runbook", "svg.image_inline": True}


@contextmanager
def draw(
    height: float, title: str, note: str = "", *, panels: int = 1, stacked: bool = False, **kwargs: Any
) -> Iterator[tuple[Figure, Any]]:
    """Yield a figure of `height` inches and its axes (one, or `panels` side by side or `stacked`); draw it at exit."""
    with mpl_style.context(STYLE, after_reset=True):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(*((panels, 1) if stacked else (1, panels)), **kwargs)
        headline(figure, title)
        if note:
            footnote(figure, note)
        yield figure, axes
        figure.draw_without_rendering()  # ticks are made inside the style, not later when the figure is saved
        figure.set_layout_engine("none")  # the layout is computed once, not again for each format


def headline(figure: Figure, text: str) -> None:
    """Set the title of the figure, left-aligned above it."""
    figure.suptitle(wrapped(text, 82), x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK)


def footnote(figure: Figure, text: str) -> None:
    """Set the grey note below the figure: what is drawn, of how many, and how to read it."""
    figure.supxlabel(wrapped(text, 118), x=0.01, ha="left", fontsize=8.5, color=GREY)


def png(figure: Figure) -> bytes:
    """The figure as PNG; the same figure gives the same bytes (without date and version of the library)."""
    buffer = io.BytesIO()
    with mpl_style.context(STYLE, after_reset=True):
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def svg(figure: Figure) -> bytes:
    """The figure as SVG with text as text; the same figure gives the same bytes. Many points are rasterised."""
    buffer = io.BytesIO()
    with mpl_style.context(STYLE, after_reset=True), mpl_style.context(_SVG):
        title = " ".join(figure.get_suptitle().split())
        figure.savefig(buffer, format="svg", dpi=160, metadata={"Date": None, "Creator": None, "Title": title})
    whole = buffer.getvalue()
    start = whole.index(b"<svg")  # without the document type, which a reader might try to resolve
    named = whole[start:].replace(b"'DejaVu Sans'", b"'DejaVu Sans', Verdana, sans-serif")
    return re.sub(rb'<g id="[^"]*"', b"<g", named)  # groups are numbered, and nothing refers to them


def drawn(figure: Figure) -> dict[str, list[tuple[Any, ...]]]:
    """The values that the figure shows, read back from its shapes: series (their gid) → one tuple for each value.

    On axes with named rows: (row, length of a bar), (row, place of a mark), (row, from, to) of a line, (row, column, share)
    of a heat map, (row, column, text) of words. Elsewhere: (x, y) of a point, (left, right, height) of a histogram's bar.
    """
    series_values: dict[str, list[tuple[Any, ...]]] = {}
    for axes in figure.axes:
        rows = _fixed(axes.yaxis)
        for shape in (*axes.patches, *axes.lines, *axes.collections, *axes.images, *axes.texts):
            if series := shape.get_gid():
                series_values.setdefault(series, []).extend(_values(shape, rows, _fixed(axes.xaxis)))
    return series_values


def _fixed(axis: Axis) -> dict[int, str]:
    """Position → name on an axis with names; {} for a numeric axis."""
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
    """Write the figure to `path`, as SVG or PNG by its suffix; return the SHA-256 of the file."""
    return write_bytes(path, svg(figure) if path.suffix == ".svg" else png(figure))


def empty(title: str, reason: str) -> Figure:
    """A figure without data: it shows the reason instead of an empty frame."""
    with draw(1.2, title) as (figure, axes):
        axes.set_axis_off()
        axes.text(0.0, 0.5, wrapped(reason, 100), transform=axes.transAxes, va="center", fontsize=10.5, color=GREY)
    return figure


def name(text: object, limit: int = 32) -> str:
    """A foreign name (collection, id, field) as a label: one line of at most `limit` characters, cut in its middle, characters
    without a glyph as escapes."""
    shown = "".join(c if ord(c) in _glyphs() else c.encode("unicode_escape").decode() for c in one_line(str(text)))
    if len(shown) <= limit:
        return shown
    head = (limit - 1) * 2 // 3
    return f"{shown[:head]}…{shown[len(shown) - (limit - 1 - head) :]}"


def step_name(text: str, limit: int = 44) -> str:
    """A step's name as a label of about `limit` characters: its title is cut, never the number and outcome of the attempt."""
    title, mark, attempt = text.partition(", attempt ")
    rest = mark + attempt
    return name(title, max(8, limit - len(rest))) + rest


def wrapped(text: str, width: int) -> str:
    return "\n".join(textwrap.wrap(text, width))


def legend_above(axes: Axes, columns: int) -> None:
    """Put the legend between title and axes, where it hides nothing."""
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=columns, frameon=False, borderaxespad=0.2)


def legend_beside(axes: Axes, title: str) -> None:
    """Put the legend to the right of the axes, for many entries."""
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), title=title, alignment="left", borderaxespad=0.0)


def log_axis(axes: Axes, low: float, high: float) -> None:
    """Make the x axis logarithmic over whole decades from `low` to `high`, labelled without mathematical markup."""
    axes.set_xscale("log")
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    axes.set_xlim(10.0**first, 10.0 ** max(last, first + 1))
    axes.xaxis.set_major_locator(LogLocator(10, numticks=12))
    axes.xaxis.set_major_formatter(lambda value, _: small(value))
    axes.xaxis.set_minor_formatter(NullFormatter())


def time_axis(axes: Axes, label: str) -> None:
    """Show durations in seconds on the x axis."""
    axes.xaxis.set_major_locator(MaxNLocator(7))
    axes.xaxis.set_major_formatter(lambda value, _: duration(value) if value else "0")
    axes.set_xlabel(label)


def whole_numbers(axes: Axes, most: int = 7) -> None:
    """Show at most `most` whole numbers on the x axis, with thousands separators."""
    axes.xaxis.set_major_locator(MaxNLocator(most, steps=[1, 2, 5, 10], integer=True))
    axes.xaxis.set_major_formatter("{x:,.0f}")


def share_axis(axis: Axis) -> None:
    """Show shares from 0 to 1 as percentages."""
    axis.set_major_formatter(lambda value, _: f"{value * 100:.4g} %")


def rows_axis(axes: Axes, labels: list[str]) -> None:
    """Make one horizontal row for each label, the first on top."""
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
    """Draw a row for each label: a bar and its text (by default its length).

    The axis ends at `room` times the longest bar; `color` may be a list with one for each bar.
    """
    shown = axes.barh(range(len(labels)), lengths, height=0.6, color=color, gid=series)
    axes.bar_label(shown, [f"\u00a0{text}" if text else "" for text in texts or map(count, lengths)], fontsize=9)
    rows_axis(axes, labels)
    axes.set_xlim(0, room * max(1.0, *map(float, lengths)))


def curve(axes: Axes, values: NDArray[np.float64], color: str, line: str, label: str, *, points: bool = False) -> None:
    """Draw an empirical distribution as steps; of more than `_CURVE_POINTS` values the quantiles and both ends."""
    if not values.size:
        return
    ordered, share = np.sort(values), np.arange(1, values.size + 1) / values.size
    if ordered.size > _CURVE_POINTS:
        pick = np.linspace(0, ordered.size - 1, _CURVE_POINTS).astype(int)
        tail = np.arange(ordered.size - 50, ordered.size)  # the worst values matter most
        pick = np.union1d(pick, tail)
        ordered, share = ordered[pick], share[pick]
    x, y = np.concatenate([ordered[:1], ordered]), np.concatenate([[0.0], share])
    marker = "o" if points else ""
    axes.step(x, y, where="post", color=color, linestyle=line, label=label, marker=marker, markersize=4, gid=label)
    axes.set_ylim(-0.02, 1.04)


def only(most: int, which: str, total: int, noun: str) -> str:
    """A sentence, after a blank, that not all are drawn; "" where all are."""
    return f" The {most} {which} of {count(total, noun)} are drawn." if total > most else ""


def finite(values: Any) -> NDArray[np.float64]:
    """The finite values as a float64 array, shape (n,)."""
    array = np.asarray(values, dtype=np.float64).ravel()
    return array[np.isfinite(array)]


def rasterised(n: int) -> bool:
    """Whether `n` points are drawn as pixels rather than as shapes."""
    return n > FEW


@cache
def _glyphs() -> frozenset[int]:
    return frozenset(get_font(findfont(FontProperties(family="DejaVu Sans"))).get_charmap())


# -- consistency -------------------------------------------------------------------------------------------------------
#
# Check that a figure shows what the step's result says: read back what was drawn and compare it with the facts.
#
# The expected values come from the result alone, not from the function that drew. `RunRecord.finish` checks every figure.


Value = tuple[Any, ...]
Series = dict[str, list[Value]]
_LAST_DIGIT = 0.0500001  # samples of step 50 are recorded to a tenth of a millisecond


class Rounded(float):
    """A number that the result records with one decimal."""


def disagreements(figure_name: str, figure: Figure, result: StepResult) -> list[str]:
    """The differences between the figure and the result, and the values outside of its axes; [] where there are none.

    `figure_name`: the name under which the step saves it. Series that the result does not record are not checked.
    """
    shown = drawn(figure)
    lines = _outside(figure)
    key = next((k for k in EXPECTED if f"{result.step}_{figure_name}".startswith(k)), "")
    if key and shown:  # a figure without shapes says in words that there is nothing to draw
        title = " ".join(figure.get_suptitle().split())
        cut = " are drawn" in (figure.get_supxlabel() or "").replace("\n", " ")
        for series, values in EXPECTED[key](result, shown).items():
            if series == "title":
                lines += [f"the title lacks {word!r}" for (word,) in values if word not in title]
            else:
                lines += [f"{series}: {line}" for line in _differ(shown.get(series, []), values, cut)]
    return [f"{figure_name}: {line}" for line in lines]


def _differ(shown: list[Value], expected: list[Value], cut: bool) -> list[str]:
    """At most three lines about values of one series that only one side has; `cut`: the figure says that it omits some."""
    unmatched, lines = list(expected), []
    for value in shown:
        at = next((i for i, other in enumerate(unmatched) if _same(value, other)), None)
        if at is None:
            lines.append(f"{value} is drawn, and the result does not say so")
        else:
            del unmatched[at]
    if unmatched and not cut:
        lines.append(f"{unmatched[0]} is missing" + (f", and {len(unmatched) - 1} more" if len(unmatched) > 1 else ""))
    return lines[:3]


def _same(shown: Value, expected: Value) -> bool:
    """Whether words and numbers are equal; an expected None equals anything, a `Rounded` number within its last digit."""
    return len(shown) == len(expected) and all(
        y is None or (abs(x - y) <= _LAST_DIGIT if isinstance(y, Rounded) else x == y)
        if y is None or isinstance(x, str) or isinstance(y, str | Rounded)
        else math.isclose(x, y, rel_tol=1e-9, abs_tol=1e-12)
        for x, y in zip(shown, expected, strict=True)
    )


def _outside(figure: Figure) -> list[str]:
    """One line for each series with values beyond the limits of its axes, which a reader cannot see."""
    lines = []
    for axes in figure.axes:
        for line in axes.lines:
            if not line.get_gid():
                continue
            for data, ends in ((line.get_xdata(), axes.get_xlim()), (line.get_ydata(), axes.get_ylim())):
                values = np.asarray(data, np.float64)
                room = 1e-9 * max(map(abs, ends))
                off = int(((values < min(ends) - room) | (values > max(ends) + room)).sum())
                if off:
                    lines.append(f"{count(off, 'value')} of {line.get_gid()} outside of the axes")
    return lines


def _rows(result: StepResult, fact: str) -> list[dict[str, Any]]:
    return [dict(row) for row in result.facts.get(fact) or []]


def _counts(result: StepResult, _: Series) -> Series:
    rows = _rows(result, "counts")
    bars = [{**r, "source": r["source"] - (r.get("left_out") or 0)} for r in rows]  # the chunks to migrate
    series = {k: [(name(r["collection"]), float(r[k])) for r in bars] for k in ("source", "target", "quarantined")}
    words = [(count(sum(r[k] for r in rows)),) for k in ("source", "target") if all(r["matches"] for r in rows)]
    return {**series, "quarantined alone": series["quarantined"], "title": words}


def _routing(result: StepResult, shown: Series) -> Series:
    """Numbers by source. Names of columns are shortened, so a pair is recognised by its number."""
    sums: dict[tuple[str, str], int] = defaultdict(int)
    for row in _rows(result, "routing"):
        sums[str(row["collection"]), str(row["target"])] += int(row["chunks"])
    return {
        "chunks": [(name(source, 28), None, count(n)) for (source, _), n in sums.items() if n],
        "title": [(count(sum(sums.values())),)],
    }


def _repairs(result: StepResult, _: Series) -> Series:
    rows = _rows(result, "repairs")
    sums = {kind: {str(r["field"]): 0.0 for r in rows} for kind in ("default", "derived", "set", "changed")}
    for row in rows:
        sums[kind_of(row["rule"])][str(row["field"])] += row["chunks"]
    series: Series = {kind: [(name(f, 26), n) for f, n in fields.items()] for kind, fields in sums.items()}
    return {**series, "title": [(count(sum(fields.values())),) for fields in sums.values()]}


def _overlap(result: StepResult, _: Series) -> Series:
    series: Series = {"exact": [], "approximate": []}
    for row in _rows(result, "search"):
        for kind, key in (("exact", "overlap_exact@"), ("approximate", "overlap_plain@")):
            shares = [(k.removeprefix(key), v) for k, v in row.items() if k.startswith(key) and v is not None]
            series[kind] += [(name(row["collection"], 26), k, float(v)) for k, v in shares if math.isfinite(v)]
    return series


def _recall(result: StepResult, _: Series) -> Series:
    series: Series = {"before": [], "after": [], "before interval": [], "after interval": []}
    recall = result.facts.get("recall") or {"rows": [], "pooled": {"unrestricted": None}}
    whole = recall["pooled"]["unrestricted"]  # all merged collections together
    for row in [r for r in recall["rows"] if r["scope"] == "restricted"] + [whole] * bool(whole):
        label = name(row["collection"] if row["scope"] == "restricted" else f"{row['collection']}, without filter", 44)
        for side, share, prefix in (("before", row["before"], "before_"), ("after", row["recall"], "")):
            if share is not None:
                series[side].append((label, share))
                series[f"{side} interval"].append((label, row[f"{prefix}low"], row[f"{prefix}high"]))
    return series


def _differences(result: StepResult, _: Series) -> Series:
    total = sum((result.facts.get("differences") or {}).values())
    return {"title": [(count(total, "difference"),)]}


def _distances(space: str, result: StepResult, shown: Series) -> Series:
    """The right end of the curve is the worst chunk of this space, or the floor; not checked where the result lists none."""
    right = max(x for x, _ in shown["source to target, same id"])
    worst = [float(r["relative"]) for r in _rows(result, "worst") if r.get("space", space) == space]
    lines = any(math.isclose(right, w, rel_tol=1e-9) for w in worst) or all(w < right for w in worst)
    return {} if lines or not worst else {"source to target, same id": [(max(worst), 1.0)]}


def _norms(_: StepResult, shown: Series) -> Series:
    """The title states the numbers of vectors before and after."""
    before, after = (int(sum(n for *_, n in shown.get(side, []))) for side in ("before", "after"))
    return {"title": [(count(before),), (count(after),)]}


def _points(_: StepResult, shown: Series) -> Series:
    """The title states how many points are drawn of source and target."""
    words: list[Value] = [(count(len(shown[side])),) for side in ("points", "target") if side in shown]
    return {"title": words}


def _timeline(result: StepResult, _: Series) -> Series:
    """The length of every phase; the figure of a rollback ends before the source is watched."""
    phases = [p for p in result.phases if not p.name.startswith("Watch")]
    begins = [datetime.fromisoformat(p.started) for p in phases]
    ends = [(at - min(begins)).total_seconds() + p.seconds for at, p in zip(begins, phases, strict=True)]
    least = 0.002 * max(ends, default=0.0)  # the shortest phases are drawn as thin lines
    return {"phases": [(name(p.name, 48), max(p.seconds, least)) for p in phases]}


def _throughput(result: StepResult, shown: Series) -> Series:
    done = result.facts.get("import")
    if not done:
        return {}
    points = [(None, None)] * (done["batches"] if done["batches"] <= FEW else len(shown["batches"]))
    return {"batches": points, "title": [(count(done["chunks"], "chunk"),)]}


def _written(result: StepResult, shown: Series) -> Series:
    done = result.facts.get("import")
    if not done:
        return {}
    last, expected = shown["written"][-1], done["expected_seconds"]
    known = _same(last, (done["seconds"], float(done["chunks"])))
    series: Series = {"estimate": [(0.0, 0.0), (expected, float(done["to_write"]))] if expected else []}
    return series if known else {**series, "written": [(done["seconds"], float(done["chunks"]))]}


def _watch(result: StepResult, _: Series) -> Series:
    rows = (result.facts.get("monitoring") or {}).get("rows", [])
    if not rows or len(rows) >= 500:  # of a long watch the result records only the last samples
        return {}
    return {q: [(None, Rounded(r[f"{q} ms"])) for r in rows if r[f"{q} ms"] is not None] for q in ("p50", "p95", "p99")}


def _levels(result: StepResult) -> dict[str, list[dict[str, Any]]]:
    sides = (result.facts.get("performance") or {}).items()
    return {side: [level for level in measured.get("levels", []) if level["queries"]] for side, measured in sides}


def _performance(result: StepResult, _: Series) -> Series:
    return {
        f"{side} {key}": [(str(level["clients"]), float(level[fact])) for level in levels]
        for side, levels in _levels(result).items()
        for key, fact in (("mean", "mean_ms"), ("p95", "p95_ms"), ("rate", "rate"))
    }


def _latency(result: StepResult, _: Series) -> Series:
    return {
        side: [(q, None) for level in levels if level["clients"] == 1 for q in level["quantiles_ms"]]
        for side, levels in _levels(result).items()
    }


def _durations(result: StepResult, _: Series) -> Series:
    rows = _rows(result, "durations")
    if not rows:
        return {}
    marks = {"took": "actual", "estimate": "estimate"}
    return {s: [(step_name(r["step"]), r[key]) for r in rows if r[key] is not None] for s, key in marks.items()}


def _completeness(_: StepResult, shown: Series) -> Series:
    """The title states the lowest share that is drawn."""
    low = min((v for *_, v in shown["shares"] if math.isfinite(v)), default=1.0)
    return {"title": [(percent(low) if low < 1 else "All",)]}


def _completeness_of_both(result: StepResult, _: Series) -> Series:
    """Each field's share on each side; the title states how many fields gained."""
    rows = (result.facts.get("metadata") or {}).get("fields") or []
    shares = {
        side: [(name(r["field"], 28), r[side] / max(1, r["chunks"])) for r in rows] for side in ("before", "after")
    }
    both = [(field, before, after) for (field, before), (_, after) in zip(*shares.values(), strict=True)]
    gained = sum(after > before + 1e-12 for _, before, after in both)
    return (
        {**shares, "change": list(both), "title": [(f"{count(gained)} of {count(len(rows), 'field')}",)]}
        if rows
        else {}
    )


def _listed(_: StepResult, shown: Series) -> Series:
    """The title states how many values lie outside of the range."""
    outside = int(sum(n for *_, n in shown.get("outside", [])))
    return {"title": [(f"{count(outside)} of",)] if outside else []}


# Beginning of the file's name, `<step>_<name>` → function that gives the expected series.
EXPECTED: Mapping[str, Callable[[StepResult, Series], Series]] = {
    "11_completeness": _completeness, "11_values": _listed, "11_map": _points, "13_repairs": _repairs, "13_routing": _routing,
    "22_repairs": _repairs, "22_routing": _routing, "22_timeline": _timeline, "22_throughput": _throughput,
    "22_written": _written, "23_counts": _counts, "23_norms": _norms,
    **{f"23_distances_{space}": partial(_distances, space) for space in ("cosine", "l2", "ip")},
    "23_plane": _points, "23_completeness": _completeness_of_both,
    "23_overlap": _overlap, "23_recall": _recall, "23_differences": _differences, "27_timeline": _timeline,
    "50_latency": _watch, "51_performance": _performance, "51_latency": _latency, "53_durations": _durations,
}  # fmt: skip

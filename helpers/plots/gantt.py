"""A plan beside what became of it: one drawing, each stretch of the time to its own scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from helpers.plots.style import BLUE, GREY, INK, RED, draw, name, rows_axis

_THINNEST = 0.003  # of the width: what took seconds in a window of hours can still be seen


@dataclass(frozen=True, slots=True)
class Bar:
    """A row: `planned` and `real` as (begin, end) in the unit of the panel, each None where there is none; `text` beside it."""

    label: str
    planned: tuple[float, float] | None
    real: tuple[float, float] | None
    text: str


@dataclass(frozen=True, slots=True)
class Panel:
    """A stretch of the time: what it is called, the unit of its axis in words, its rows, and where now is on it."""

    title: str
    unit: str
    rows: list[Bar] = field(default_factory=list)
    now: float | None = None


def plan_and_reality(panels: Sequence[Panel], title: str, note: str = "") -> Figure:
    """The panels one below the other; planned bars are hatched, real ones solid below them: grey print shows both."""
    rows = [max(len(panel.rows), 1) for panel in panels]
    height = 0.34 * sum(rows) + 0.85 * len(panels) + 1.0
    with draw(height, title, note, panels=len(panels), stacked=True, squeeze=False, height_ratios=rows) as (
        figure,
        grid,
    ):
        for panel, axes in zip(panels, grid[:, 0], strict=True):
            _panel(panel, axes)
        keys: dict[str, Artist] = {
            "planned": Patch(facecolor="white", edgecolor=GREY, hatch="/////", linewidth=0.8),
            "measured": Patch(facecolor=BLUE),
        }
        if any(axes.lines for axes in grid[:, 0]):
            keys["now"] = Line2D([], [], color=RED, linestyle="--", linewidth=1.4)
        grid[0, 0].legend(
            list(keys.values()), list(keys), loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3, frameon=False,
            borderaxespad=0.2,
        )  # fmt: skip
    return figure


def _panel(panel: Panel, axes: Axes) -> None:
    ends = [end for bar in panel.rows for pair in (bar.planned, bar.real) if pair for end in pair]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    high = high if high > low else low + 1.0
    least = (high - low) * _THINNEST
    for row, bar in enumerate(panel.rows):
        if bar.planned:
            width = max(bar.planned[1] - bar.planned[0], least)
            axes.barh(row - 0.2, width, left=bar.planned[0], height=0.34, facecolor="white", edgecolor=GREY,
                      hatch="/////", linewidth=0.8)  # fmt: skip
        if bar.real:
            axes.barh(row + 0.2, max(bar.real[1] - bar.real[0], least), left=bar.real[0], height=0.34, color=BLUE)
        axes.text(1.012, row, bar.text, transform=axes.get_yaxis_transform(), va="center", fontsize=8.5, color=INK)
    rows_axis(axes, [name(bar.label, 34) for bar in panel.rows])
    axes.set_xlim(low - (high - low) * 0.01, high + (high - low) * 0.01)
    if panel.now is not None and low <= panel.now <= high:
        axes.axvline(panel.now, color=RED, linestyle="--", linewidth=1.4)
    axes.xaxis.set_major_locator(MaxNLocator(9, steps=[1, 1.5, 2, 3, 5, 6, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"T{value:+g}".replace("-", "−") if value else "T"))
    axes.set_xlabel(panel.unit)
    axes.set_title(panel.title)

"""The one figure of a benchmark: each measure over its goal, which is a line."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from benchmarks.results import Findings, Row, _value
from helpers.formatting import count
from helpers.plots.style import BLUE, GREY, INK, ORANGE, draw, legend_above, rows_axis

_SHORT = {
    "M1": "21–23 by notebooks", "M2": "work of 21–23", "M3": "writers out", "M4": "pause of reads", "M5": "rehearsal",
    "M6": "memory", "M7": "work of 21–23", "M8": "restore", "M9": "import",
}  # fmt: skip
_TICKS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20)


def picture(found: Findings) -> Figure | None:
    """None where nothing that has a goal was measured. A measure with goal 0 (chunks, failed reads) is in the table only."""
    rows = sorted((row for row in found.rows if row.goal and row.median > 0), key=lambda row: row.measure)
    if not rows:
        return None
    judged = [row for row in found.rows if row.met is not None]
    kept = sum(row.met is True for row in judged)
    title = (
        f"{kept} of {len(judged)} measurements meet their goal"
        if judged
        else "No size here is one that a goal is stated for"
    )
    turns = found.options["turns"]
    zero = sum(row.goal == 0 for row in judged)
    load = found.machine["load"]
    note = (
        f"Median of {turns} turns as a share of the goal, log scale; the line behind it is from the least to the most. "
        f"Goals are stated for 9,832 × 1536 and larger. The table also has {count(zero, 'measurement')} whose goal is 0. "
        f"Load average {min(load):.1f} to {max(load):.1f} on {found.machine['cpus']} CPUs."
    )
    with draw(1.8 + 0.4 * len(rows), title, note) as (figure, axes):
        axes.set_xscale("log")
        for at, row in enumerate(rows):
            assert row.goal
            shares = [value / row.goal for value in row.values if value > 0]
            axes.plot([min(shares), max(shares)], [at, at], color=GREY, linewidth=2.5, solid_capstyle="butt")
            within = row.median <= row.goal
            style = {"color": BLUE, "marker": "o"} if within else {"color": ORANGE, "marker": "D"}
            label = "within the goal" if within else "over the goal"
            known = axes.get_legend_handles_labels()[1]
            axes.plot(row.median / row.goal, at, **style, markersize=8, linestyle="", markeredgecolor=INK,
                      label=label if label not in known else None, gid="measured")  # fmt: skip
            axes.annotate(_value(row.median, row.shown_unit), (row.median / row.goal, at), (9, 5),
                          textcoords="offset points", fontsize=8.5, color=INK,
                          bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.85})  # fmt: skip
        axes.axvline(1.0, color=INK, linewidth=1.2, linestyle="--", label="goal")
        every = [value / row.goal for row in rows if row.goal for value in row.values if value > 0]
        axes.set_xlim(min(0.4, *every) / 1.3, max(2.5, *every) * 1.8)
        low, high = axes.get_xlim()
        axes.xaxis.set_major_locator(FixedLocator([tick for tick in _TICKS if low <= tick <= high]))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g} ×")
        axes.xaxis.set_minor_locator(NullLocator())
        rows_axis(axes, [_name(row) for row in rows])
        axes.set_xlabel("measured ÷ goal (log scale; less is better)")
        legend_above(axes, 3)
    return figure


def _name(row: Row) -> str:
    assert row.goal is not None
    place = f", {row.size.replace('x', ' × ')}" if row.size else ""
    more = f", {row.what}" if row.what else ""
    return f"{row.measure} {_SHORT[row.measure]}{place}{more}\n≤ {_value(row.goal, row.shown_unit)}"

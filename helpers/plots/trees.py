"""A decision tree, top to bottom, with one way through it marked."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from helpers.plots.style import BLUE, GREY, INK, draw


@dataclass(frozen=True, slots=True)
class Node:
    """A box: its text, its level from 0 at the top, and where it stands in the width (0 left, 1 right)."""

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

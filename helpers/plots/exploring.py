"""Figures of the desk at the source (11): one collection in short, values of a field, nearest neighbours, the map."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from numpy.typing import ArrayLike, NDArray

from helpers.plots.style import (
    BLUE,
    GREY,
    INK,
    ORANGE,
    SKY,
    draw,
    finite,
    log_axis,
    name,
    percent,
    rows_axis,
)

_FIELDS = 12


def collection_portrait(
    collection: str, facts: str, complete: Mapping[str, float], characters: ArrayLike, norms: ArrayLike, said: str
) -> Figure:
    """One collection: the fields that its chunks lack most, the lengths of its documents, the norms of its vectors.

    `facts` ends the title's sentence; `complete` is the share of chunks that hold each field (0–1), exact; `characters`
    (n,) and `norms` (n,) are those of the sample that `said` describes.
    """
    lengths, lengths_of = finite(characters), finite(norms)
    title = f"{name(collection)}: {facts}"
    with draw(3.7, title, f"Fields: every chunk. Lengths and norms: {said}", panels=3) as (figure, axes):
        _fields(axes[0], complete)
        axes[1].set(title="Lengths of documents", xlabel="characters (log scale)", ylabel="chunks")
        positive = lengths[lengths > 0]
        if positive.size:
            log_axis(axes[1], max(1.0, float(positive.min())), max(10.0, float(positive.max())))
            axes[1].hist(positive, np.geomspace(*axes[1].get_xlim(), 31), color=BLUE)
        else:
            _nothing(axes[1], "no document has any text")
        axes[2].set(title="Norms of vectors", xlabel="norm (L2)", ylabel="chunks")
        if lengths_of.size:
            axes[2].hist(lengths_of, _bins(lengths_of), color=SKY)
            if lengths_of.min() <= 1 <= lengths_of.max():
                axes[2].axvline(1.0, color=INK, linestyle=":", label="1: normalised")
                axes[2].legend(loc="best")
        else:
            _nothing(axes[2], "no vector can be read")
    return figure


def _fields(axes: Axes, complete: Mapping[str, float]) -> None:
    axes.set_title("Least complete fields")
    shown = sorted(complete.items(), key=lambda item: (item[1], item[0]))[:_FIELDS]
    if not shown:
        _nothing(axes, "no chunk has any metadata")
        return
    shares = [share for _, share in shown]
    axes.barh(range(len(shown)), shares, height=0.6, color=[BLUE if s == 1 else ORANGE for s in shares])
    rows_axis(axes, [name(key, 20) for key, _ in shown])
    for row, share in enumerate(shares):
        axes.text(min(share, 0.70) + 0.02, row, percent(share), va="center", fontsize=8.5, color=INK)
    axes.set_xlim(0, 1.0)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
    axes.set_xlabel("share of chunks that hold it")


def _nothing(axes: Axes, why: str) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.text(0.5, 0.5, why, transform=axes.transAxes, ha="center", va="center", color=GREY)


def _bins(values: NDArray[np.float64], bins: int = 30) -> NDArray[np.float64]:
    """Edges over all values, never so narrow that rounding looks like a distribution."""
    low, high = float(values.min()), float(values.max())
    room = max(0.02 * abs(high) - (high - low), 0.0) / 2 + max((high - low) * 0.01, 1e-9)
    return np.linspace(low - room, high + room, bins + 1)

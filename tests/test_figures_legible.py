"""Every figure of a whole rehearsal as a reader meets it at 100 %: letters large enough and whole, titles, units, colours.

The pictures of a run are drawn from their figures, and what is checked here is checked on those figures themselves.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from matplotlib import colors
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import Collection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.markers import MarkerStyle
from matplotlib.patches import Patch, StepPatch
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from helpers.plots import style
from helpers.rehearsal.setup import approve, prepare
from helpers.run import folders, plan
from helpers.run.folders import RunFolder
from tests.test_troubles_notebooks import executed

LEAST_POINTS = 8.5  # at 110 dots an inch 13 pixels: as high as 9.7 points on a page at 100 %
EDGE = 3.0  # pixels by which a letter may reach over the edge
# Okabe and Ito's eight; greys and near-greys besides (text, grids, frames), whose channels lie close together.
PALETTE = {"#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#000000"}
NEAR_GREY = 0.09
Color = tuple[float, float, float, float]
STEPS = [
    *("10", "11", "12", "13", "14", "20", "21", "22", "23", "24", "25", "50", "51", "52", "53"),
    *("26", "30", "40", "44", "48", "00"),
]


def faults(figure: Figure) -> Iterator[str]:
    """What keeps a reader from reading it."""
    title = " ".join(figure.get_suptitle().split())
    if len(title) < 15:
        yield f"no title that says what is seen: {title!r}"
    frame = figure.bbox
    figure.canvas.draw()
    undrawn = _undrawn(figure)
    for text in figure.findobj(Text):
        if not isinstance(text, Text) or not text.get_visible() or not text.get_text().strip() or text in undrawn:
            continue
        if float(text.get_fontsize()) < LEAST_POINTS:
            yield f"{text.get_fontsize()} points: {text.get_text()!r}"
        box = text.get_window_extent()
        if box.x0 < frame.x0 - EDGE or box.x1 > frame.x1 + EDGE or box.y0 < frame.y0 - EDGE or box.y1 > frame.y1 + EDGE:
            yield f"cut off at the edge: {text.get_text()!r}"
    for axes in figure.axes:
        yield from _overlaps(axes)
        yield from _covered(axes, undrawn)
        if axes.axison:
            yield from _axes_faults(axes, undrawn)
    for artist in figure.findobj(lambda a: isinstance(a, Line2D | Patch | Collection)):
        for color in _colors(artist):
            if not _allowed(color):
                yield f"{colors.to_hex(color)} is none of the colours: {artist}"


def _undrawn(figure: Figure) -> set[Artist]:
    """Labels that exist and are not drawn: of ticks beyond the limits, and of axes that are switched off."""
    found: set[Artist] = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            slack = 1e-9 * (abs(low) or high - low)
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                if not axes.axison or not low - slack <= float(tick.get_loc()) <= high + slack:
                    found |= {tick.label1, tick.label2}
            if not axes.axison:
                found.add(axis.label)
    return found


def _overlaps(axes: Axes) -> Iterator[str]:
    """Words inside the axes, with their frames where they have one."""
    boxes = [
        ((frame.get_window_extent() if (frame := t.get_bbox_patch()) else t.get_window_extent()), t.get_text())
        for t in axes.texts
        if t.get_text().strip()
    ]
    for (one, said), (other, also) in itertools.combinations(boxes, 2):
        if one.overlaps(other):
            yield f"{said!r} lies on {also!r}"


def _covered(axes: Axes, undrawn: set[Artist]) -> Iterator[str]:
    """A legend over bars or points, and marks over the names of rows."""
    shapes: list[Bbox] = []
    for patch in axes.patches:
        if isinstance(patch, StepPatch):
            heights, edges, base = patch.get_data()
            floors = np.broadcast_to(0.0 if base is None else base, heights.shape)
            ends = zip(edges[:-1], floors, edges[1:], heights, strict=True)
            shapes += [axes.transData.transform_bbox(Bbox([[a, b], [c, d]])) for a, b, c, d in ends if d != b]
        elif patch.get_gid():
            shapes.append(patch.get_window_extent())
    for line in axes.lines:
        reach = (
            float(line.get_markersize()) / 2 * axes.figure.dpi / 72
            if line.get_marker() not in ("", "None", None)
            else 0.0
        )
        places = line.get_transform().transform(line.get_xydata() if line.get_gid() else np.empty((0, 2)))
        shapes += [
            Bbox([[x - reach, y - reach], [x + reach, y + reach]]) for x, y in places if np.isfinite([x, y]).all()
        ]
    if (legend := axes.get_legend()) is not None:
        box = legend.get_window_extent()
        if any(box.overlaps(shape) for shape in shapes):
            yield f"the legend covers what is drawn: {[t.get_text() for t in legend.get_texts()]}"
    for label in axes.get_yticklabels():
        box = label.get_window_extent()
        if label.get_text().strip() and label not in undrawn and any(box.overlaps(shape) for shape in shapes):
            yield f"a mark lies on the label {label.get_text()!r}"


def _axes_faults(axes: Axes, undrawn: set[Artist]) -> Iterator[str]:
    named = {"x": axes.get_xlabel(), "y": axes.get_ylabel()}
    rows = [label.get_text() for label in axes.get_yticklabels()]
    words = any(any(c.isalpha() for c in row) for row in rows)  # names of rows say what they are
    for way, label in named.items():
        if not label.strip() and not (way == "y" and (words or not rows)) and not _shares(axes, way):
            yield f"the {way} axis does not say what it counts"
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        boxes = [
            t.get_window_extent() for t in labels if t.get_text().strip() and t not in undrawn and not t.get_rotation()
        ]
        for one, other in itertools.pairwise(boxes):
            if one.overlaps(other) and one.width and other.width:
                yield f"labels lie on each other: {[t.get_text() for t in labels]}"
                break


def _shares(axes: Axes, way: str) -> bool:
    """A panel beside or above another that has the label for both."""
    group = axes.get_shared_x_axes() if way == "x" else axes.get_shared_y_axes()
    return any(getattr(other, f"get_{way}label")().strip() for other in group.get_siblings(axes) if other is not axes)


def _colors(artist: Artist) -> list[Color]:
    if not artist.get_visible():
        return []
    found: list[object] = []
    if isinstance(artist, Line2D):
        filled = MarkerStyle(artist.get_marker()).is_filled()
        mark = artist.get_markerfacecolor() if filled else artist.get_markeredgecolor()
        found = [artist.get_color()] if artist.get_linestyle() not in ("None", "") else [mark]
    elif isinstance(artist, Patch):
        found = [artist.get_facecolor(), artist.get_edgecolor()]
    elif isinstance(artist, Collection) and artist.get_array() is None:
        found = [*artist.get_facecolor()]
    rgba = [colors.to_rgba(c) for c in found if c is not None and str(c) != "none"]  # type: ignore[arg-type]
    return [c for c in rgba if c[3] > 0]


def _allowed(color: Color) -> bool:
    if max(color[:3]) - min(color[:3]) <= NEAR_GREY:
        return True
    return any(max(abs(a - b) for a, b in zip(color, colors.to_rgb(one), strict=False)) < 0.01 for one in PALETTE)


def sample(draw: float) -> Figure:
    """A figure with every fault at once."""
    with style.draw(2.0, "short") as (figure, axes):
        axes.plot([0, 1], [0, 1], color="#ff00ff")
        axes.text(0.5, 0.5, "tiny", fontsize=draw)
        axes.text(3.5, 0.5, "outside the picture").set_in_layout(False)
        axes.stairs([5, 9], [0, 1, 2], fill=True, label="bars")
        axes.legend(loc="center")
        axes.plot([0.0], [5.0], "o", gid="ring", clip_on=False, markersize=30)
        axes.set(xlim=(0, 2), ylim=(0, 10))
        axes.set_yticks([5.0], ["a long name"])
    return figure


def test_what_cannot_be_read_is_found() -> None:
    found = "\n".join(faults(sample(6.0)))
    for fault in ("no title", "6.0 points: 'tiny'", "cut off at the edge", "#ff00ff is none", "x axis does not say",
                  "the legend covers what is drawn: ['bars']", "a mark lies on the label 'a long name'"):  # fmt: skip
        assert fault in found


@pytest.mark.slow
@pytest.mark.usefixtures("own_folders")
def test_every_figure_of_a_rehearsal_is_legible(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[str, Figure]] = []
    step = ""
    honest = Figure.draw_without_rendering

    def kept(figure: Figure) -> None:
        honest(figure)
        drawn.append((step, figure))

    monkeypatch.setattr(Figure, "draw_without_rendering", kept)
    folder = RunFolder.of("rehearsal")
    folders.create(prepare(folder.workspace, 240, 16), folder.id, rehearsal=True)
    for step in STEPS:
        executed(plan.find(step), folder.id)
        if plan.find(step).gate:
            approve(folder.read(), plan.find(step))
    assert {step for step, _ in drawn} >= {"00", "11", "13", "22", "23", "40", "50", "51", "53"}
    wrong = [f"{step} {figure.get_suptitle()[:60]!r}: {fault}" for step, figure in drawn for fault in faults(figure)]
    assert wrong == [], "\n".join(wrong)

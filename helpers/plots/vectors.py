"""Figures of embeddings: distances by id, norms, and projections on a plane."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from helpers.formatting import count, percent, small
from helpers.plots.style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    RED,
    SKY,
    bars,
    curve,
    draw,
    empty,
    finite,
    footnote,
    legend_above,
    legend_beside,
    log_axis,
    name,
    rasterised,
    rows_axis,
    share_axis,
)

_SAMPLE = 2_000
_SEED = 20251201
_ROWS = 16
_MARKED = 200
_NORM_FLOOR = 1e-9


def distance_ecdf(
    distances: ArrayLike,
    null: ArrayLike,
    *,
    tolerance: float,
    floor: float,
    space: str,
    worst: tuple[str, float] | None = None,
) -> Figure:
    """Draw the share of ids whose vector in the target is within x of their vector in the source.

    `distances` (n,) are paired by id, in the collection's own `space`; `null` (m,) are those of mismatched pairs, as if
    vectors were swapped. `floor` is the smallest distance in float32, where zero is drawn. `worst`: (id, distance).
    """
    values = np.asarray(distances, dtype=np.float64).ravel()
    good, mismatched = finite(values), finite(null)
    unreadable = values.size - good.size
    if not values.size:
        return empty("No distance was measured: there are no pairs of vectors", "Source and target share no id.")
    space = name(space, 60)
    floor = floor if np.isfinite(floor) and floor > 0 else 1e-12
    limit = max(tolerance, floor)
    bad = np.sort(good[good > tolerance])
    beyond = bad.size + unreadable
    note = (
        f"Paired by id ({space}). {count((good <= 0).sum())} of "
        f"{count(values.size)} distances are zero or below; everything under the float32 floor is drawn at the floor"
        + (f". {count(unreadable, 'pair')} could not be compared" if unreadable else "")
        + (f". Worst: {name(worst[0], 48)} at {small(worst[1])}" if worst else "")
        + "."
    )
    title = f"All {count(values.size, 'vector')} arrived"
    if beyond:
        allowed = f"by more than {small(tolerance)}" if tolerance > 0 else "although none may"
        title = f"{count(beyond)} of {count(values.size, 'vector')} {'differs' if beyond == 1 else 'differ'} from the source"
        title += f" {allowed}"
    elif good.max() <= 0:
        title += " without any difference"
    else:
        title += f": the worst differs by {small(float(good.max()))}, allowed is {small(tolerance)}"
    with draw(4.4, title, note) as (figure, axes):
        log_axis(axes, floor / 3, float(np.concatenate([good, mismatched, [limit * 10]]).max()))
        axes.axvspan(limit, axes.get_xlim()[1], color=RED, alpha=0.06, linewidth=0)
        curve(axes, np.maximum(mismatched, floor), ORANGE, "-.", "mismatched pairs (what swapped vectors look like)")
        curve(axes, np.maximum(good, floor), BLUE, "-", "source to target, same id", points=good.size < 60)
        if bad.size:
            share = (1 - np.arange(bad.size)[::-1] / good.size)[-_MARKED:]
            at, label = np.maximum(bad[-_MARKED:], floor), f"beyond tolerance ({count(beyond)})"
            axes.plot(at, share, "X", color=RED, markersize=9, label=label)
        axes.axvline(floor, color=GREY, linestyle=":", label=f"float32 floor {small(floor)}")
        exact = " (exact; drawn at the floor)" if tolerance < floor else ""
        axes.axvline(limit, color=RED, linestyle="--", label=f"tolerance {small(tolerance)}{exact}")
        axes.set_ylim(-0.02, 1.04)
        axes.set_xlabel(f"distance between source and target vector ({space}, log scale)")
        axes.set_ylabel("share of pairs at or below")
        legend_above(axes, 2)
    return figure


def norms_before_after(source: ArrayLike, target: ArrayLike) -> Figure:
    """Draw the norms (n,) of source and target, paired: both distributions, and the relative change by id."""
    before = np.asarray(source, dtype=np.float64).ravel()
    after = np.asarray(target, dtype=np.float64).ravel()
    if not before.size or not after.size:
        return empty("No norm was measured", "There are no vectors on one of the two sides.")
    known = np.array([])
    title = f"Source holds {count(before.size, 'norm')}, target {count(after.size)}: they cannot be paired"
    if before.size == after.size:
        with np.errstate(invalid="ignore"):  # infinity minus infinity counts as not comparable
            known = finite(np.abs(after - before) / np.maximum(np.abs(before), float(np.finfo(np.float32).tiny)))
        lost = before.size - known.size
        title = f"None of {count(before.size, 'norm')} can be compared: not a number"
        if known.size:
            largest = float(known.max())
            title = "No norm changed" if largest == 0 else f"Norms change by at most {small(largest)} of their length"
            title += f" ({count(known.size, 'vector')}" + (f", {count(lost)} not comparable)" if lost else ")")
    with draw(3.9, title, panels=2) as (figure, (left, right)):
        edges = _bins(np.concatenate([finite(before), finite(after)]), 60)
        heights, heights_after = (np.histogram(finite(norms), edges)[0] for norms in (before, after))
        left.stairs(heights, edges, fill=True, color=SKY, label=f"source ({count(before.size)})", gid="before")
        few(left, heights, edges)
        label = f"target ({count(after.size)})"
        left.stairs(heights_after, edges, color=INK, linewidth=1.2, label=label, gid="after")
        left.set(xlabel="norm of the vector (L2)", ylabel="vectors")
        left.set_ylim(bottom=0)
        right.set_xlabel(f"|target − source| / source (log; none: {small(_NORM_FLOOR)})")
        right.set_ylabel("share of ids at or below")
        log_axis(right, _NORM_FLOOR / 3, max(1e-3, float(known.max(initial=0.0))))
        right.set_ylim(-0.02, 1.04)
        curve(right, np.maximum(known, _NORM_FLOOR), BLUE, "-", "change by id", points=1 < known.size < 60)
        eps = float(np.finfo(np.float32).eps)
        right.axvline(eps, color=GREY, linestyle=":", label=f"float32 spacing {small(eps)}")
        for axes in (left, right):
            legend_above(axes, 1)
    return figure


def few(axes: Axes, heights: NDArray[Any], edges: NDArray[np.float64], base: float = 0.0, unit: float = 1.0) -> None:
    """Draw a dot on each bar that is too low to be seen. Bars begin at `base` of the y axis; one chunk is `unit` high."""
    low = (heights > 0) & (heights < 0.03 * max(1, heights.max()))
    if low.any():
        centres = (edges[:-1] + edges[1:])[low] / 2
        axes.plot(centres, base + unit * heights[low], linestyle="", marker=".", markersize=5, color=RED, gid="few",
                  label=f"fewer than 3 % of the highest bar ({count(heights[low].sum())})")  # fmt: skip


def norms_histogram(norms: Mapping[str, ArrayLike], sample: str = "") -> Figure:
    """Draw the norms of each collection's vectors (n,), one row each on a common axis; count zero and non-finite norms.

    `sample` states of how many vectors these are a sample, or that they are all.
    """
    arrays = {key: np.asarray(value, dtype=np.float64).ravel() for key, value in sorted(norms.items())}
    whole = np.concatenate([*arrays.values(), []])
    if not whole.size:
        return empty("No norm was measured", "None of the collections holds a vector.")
    every = finite(whole)
    positive = every[every > 0]
    zero, broken = int((every == 0).sum()), whole.size - every.size
    title = f"All {count(whole.size, 'vector')} have length 1"
    if zero or broken or not positive.size or np.abs(positive - 1).max() >= 1e-3:
        others = "no other"
        if positive.size:
            ends = f"{small(positive.min())} to {small(positive.max())} long"
            others = f"the others {'have length 1' if np.abs(positive - 1).max() < 1e-3 else ends}"
        title = f"Of {count(whole.size, 'vector')}: {count(zero)} zero, {count(broken)} not a number, {others}"
    wide = bool(positive.size) and positive.max() / positive.min() > 50
    note = f"{sample} Height: share of the collection's vectors, each row by itself. A dot: a bar too low to be seen."
    if len(arrays) > _ROWS:
        note += f" {len(arrays) - _ROWS} further collections are not drawn."
    shown = dict(list(arrays.items())[:_ROWS])
    with draw(1.9 + 0.45 * len(shown), title, note.strip()) as (figure, axes):
        edges = _bins(every if zero and not wide else positive, 60)
        if wide:
            log_axis(axes, float(positive.min()), float(positive.max()))
            edges = np.geomspace(float(positive.min()), float(positive.max()), 61)
        for row, array in enumerate(shown.values()):
            usable = finite(array)
            heights, _ = np.histogram(usable[usable > 0] if wide else usable, edges)
            foot, unit = row + 0.38, -0.74 / max(1, heights.max())
            axes.stairs(foot + unit * heights, edges, baseline=foot, fill=True, color=BLUE, gid="norms")
            few(axes, heights, edges, foot, unit)
            if wide and (usable == 0).any():  # a logarithmic axis has no zero
                left = axes.get_xlim()[0]
                axes.plot(left, foot - 0.05, marker="<", color=RED, markersize=7, clip_on=False, gid="zeros")
            axes.axhline(foot, color="#c5cad0", linewidth=0.8)
        rows_axis(axes, [f"{name(key)}\n{_norm_label(array)}" for key, array in shown.items()])
        scale = (", log scale; ◂: zero)" if zero else ", log scale)") if wide else ")"
        axes.set_xlabel(f"norm of the vector (L2{scale}")
    return figure


def _norm_label(array: NDArray[np.float64]) -> str:
    zero, broken = int((array == 0).sum()), array.size - finite(array).size
    odd = [f"{count(n)} {noun}" for n, noun in ((zero, "zero"), (broken, "not a number")) if n]
    return ", ".join([count(array.size, "vector"), *odd])


def pca_overlay(source: ArrayLike, target: ArrayLike, labels: Sequence[str], total: int | None = None) -> Figure:
    """Draw an illustration: vectors (n, d) of source and target on the source's first two principal components.

    Rows are paired by id; `labels` (n,) name their collections. They are a random sample of `total` pairs (None: all). The
    plane is fitted to the source without outliers; rows that are not finite are omitted and counted.
    """
    a, b = np.atleast_2d(np.asarray(source, dtype=np.float64)), np.atleast_2d(np.asarray(target, dtype=np.float64))
    too_few = "Illustration: too few paired vectors to draw a plane"
    if a.size == 0 or a.shape != b.shape or len(a) < 3:
        reason = f"Needs at least three pairs of vectors; got {a.shape} and {b.shape} (vectors, dimensions)."
        return empty(too_few, reason)
    rows = np.flatnonzero(np.isfinite(a).all(axis=1) & np.isfinite(b).all(axis=1))
    left_out, every = len(a) - rows.size, total if total is not None else len(a)
    if rows.size < 3:
        return empty(too_few, "The others hold NaN or infinity.")
    if rows.size > _SAMPLE:
        rows = np.sort(np.random.default_rng(_SEED).choice(rows, _SAMPLE, replace=False))
    plane = fit_plane(a[rows])
    flat, moved = plane.points(a[rows]), plane.points(b[rows])
    spread = float(np.linalg.norm(flat[~beyond(flat)].std(axis=0))) or 1.0
    distance = np.linalg.norm(flat - moved, axis=1)
    shift = float(distance.max()) / spread
    fate = "each target point lies on its source point"
    if shift >= 0.01:
        fate = f"some target points lie away from their source point, by up to {small(shift)} × the spread"
    note = f"An illustration, not a test: {percent(plane.explained_variance)} of the variance is seen. "
    note += f"Sample of {count(rows.size)} of" if rows.size < every else "All"
    note += f" {count(every, 'pair')}, drawn at random in each collection; the plane is fitted on the source alone"
    note += f"; {count(left_out)} with NaN or infinity left out" if left_out else ""
    with draw(5.2, f"Illustration: {fate} (PCA of {count(rows.size, 'vector')})") as (figure, axes):
        shown = points_by_label(axes, flat, [str(labels[i]) for i in rows.tolist()])
        _dots(axes, np.clip(moved, *shown), ".", INK, 2.5, "target, laid over", "target")
        for i in np.flatnonzero(distance > 0.01 * spread)[:200]:
            axes.plot(*np.clip([flat[i], moved[i]], *shown).T, color=RED, linewidth=0.9, gid="moved")
        _plane_axes(figure, axes, "source, by collection", f"{note}.{_pinned(flat)}")
    return figure


def _dots(
    axes: Axes, at: NDArray[np.float64], marker: str, color: str, size: float, label: str, series: str, **style: Any
) -> None:
    axes.plot(
        *at.T, linestyle="", marker=marker, color=color, markersize=size, label=label, gid=series,
        rasterized=rasterised(len(at)), **style,
    )  # fmt: skip


_BLOCK = 256  # vectors


@dataclass(frozen=True, slots=True)
class PlaneFit:
    """Two directions (2, d) around a centre (d,), and the share of the variance along them."""

    centre: NDArray[np.float64]
    axes: NDArray[np.float64]
    explained_variance: float

    def points(self, vectors: ArrayLike) -> NDArray[np.float64]:
        """Project vectors (n, d) on the plane (n, 2)."""
        return np.asarray(np.asarray(vectors) @ self.axes.T - self.centre @ self.axes.T, np.float64)


def fit_plane(vectors: ArrayLike) -> PlaneFit:
    """The first two principal components of vectors (n, d), d at least 1, fitted without outliers.

    By block power iteration from a seeded start; each direction's largest component is positive, so the same vectors give the
    same figure. float32 stays float32, to save memory.
    """
    every = np.asarray(vectors)
    every = every if every.dtype == np.float32 else every.astype(np.float64)
    middle, blocks = np.median(every, axis=0), range(0, len(every), _BLOCK)  # by blocks: no second copy of the vectors
    away = np.concatenate([np.linalg.norm(every[at : at + _BLOCK] - middle, axis=1) for at in blocks])
    moved = every[away <= _limits(away)[1]]
    centre = moved.mean(axis=0, dtype=np.float64)
    moved -= centre
    total = float(np.einsum("ij,ij->", moved, moved, dtype=np.float64))
    dimension = every.shape[1]
    if not total or dimension < 2:  # all equal, or on a line
        return PlaneFit(centre, np.eye(2, dimension), 1.0)
    basis = np.random.default_rng(_SEED).standard_normal((dimension, min(12, dimension))).astype(every.dtype)
    for _ in range(12):
        basis, _triangle = np.linalg.qr(moved.T @ (moved @ basis))
    _left, sizes, turned = np.linalg.svd((moved @ basis).astype(np.float64), full_matrices=False)
    axes = (turned @ basis.T)[:2]
    axes *= np.sign(axes[[0, 1], np.abs(axes).argmax(axis=1)])[:, None]
    return PlaneFit(centre, axes, float(np.square(sizes[:2]).sum()) / total)


def _limits(values: NDArray[np.float64]) -> tuple[float, float]:
    """(low, high) of values (n,) with a margin; one in two hundred at either end is ignored."""
    ordered = np.sort(values)
    trimmed = -(-ordered.size // 200) if ordered.size >= 8 else 0
    low, high = float(ordered[trimmed]), float(ordered[-1 - trimmed])
    room = 0.5 * (high - low) or 1e-9 + abs(high)
    return max(low - room, float(ordered[0])), min(high + room, float(ordered[-1]))


def _box(points: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lowest and highest drawn position (2,) of points (n, 2)."""
    low, high = zip(*(_limits(column) for column in points.T), strict=True)
    return np.array(low), np.array(high)


def beyond(points: NDArray[np.float64]) -> NDArray[np.bool_]:
    """A mask (n,) of the points (n, 2) that are so far from the others that they are drawn at the edge."""
    low, high = _box(points)
    return np.asarray(((points < low) | (points > high)).any(axis=1), np.bool_)


def _pinned(points: NDArray[np.float64]) -> str:
    number = int(beyond(points).sum())
    return f" {count(number, 'outlier')} drawn at the edge, marked ×." if number else ""


def points_by_label(
    axes: Axes, points: NDArray[np.float64], labels: list[str]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Draw points (n, 2) by label: the seven commonest labels in their own colour and marker, others grey, outliers at the edge.

    Return the lowest and the highest drawn position, each (2,).
    """
    low, high = _box(points)
    names, sizes = np.unique(labels, return_counts=True)
    ranked = [str(names[i]) for i in np.lexsort((names, -sizes))]
    styles = list(zip((BLUE, ORANGE, GREEN, "#CC79A7", SKY, "#F0E442", RED), "os^Dv<>", strict=True))
    own = np.asarray(labels)
    placed = np.clip(points, low, high)
    for key, (color, marker) in zip(ranked, styles, strict=False):
        part = placed[own == key]
        _dots(
            axes,
            part,
            marker,
            color,
            5,
            f"{name(key, 22)} ({count(len(part))})",
            "points",
            alpha=0.6,
            markeredgewidth=0,
        )
    others = placed[np.isin(own, ranked[len(styles) :])]
    if len(others):
        _dots(axes, others, ".", GREY, 4, f"{len(ranked) - len(styles)} others ({count(len(others))})", "points")
    far = placed[beyond(points)]
    if len(far):
        label = f"outlier, at the edge ({count(len(far))})"
        _dots(axes, far, "x", INK, 8, label, "outliers", markeredgewidth=1.6, clip_on=False)
    room = np.maximum(0.03 * (high - low), 1e-6)
    axes.set_xlim(low[0] - room[0], high[0] + room[0])
    axes.set_ylim(low[1] - room[1], high[1] + room[1])
    return low, high


def _plane_axes(figure: Figure, axes: Axes, title: str, note: str) -> None:
    footnote(figure, note)
    axes.set_xlabel("first principal component (no unit)")
    axes.set_ylabel("second principal component (no unit)")
    legend_beside(axes, title)


# -- notebook 11: one collection in short, values of a field, the map -------------------------------------------------

_FIELDS = 12
_VALUES = 15


def collection_portrait(
    collection: str, facts: str, complete: Mapping[str, float], characters: ArrayLike, norms: ArrayLike, sample: str
) -> Figure:
    """Draw one collection: its least complete fields, the lengths of its documents, the norms of its vectors.

    `facts` ends the title; `complete`: field → exact share of chunks that hold it (0–1); `characters` (n,) and `norms` (n,)
    are those of the sample that `sample` describes.
    """
    title = f"{name(collection)}: {facts}"
    with draw(3.7, title, f"Fields: every chunk. Lengths and norms: {sample}", panels=3) as (
        figure,
        (fields, left, right),
    ):
        _fields(fields, complete)
        left.set(title="Lengths of documents", xlabel="characters (log scale)", ylabel="chunks")
        lengths = finite(characters)
        lengths = lengths[lengths > 0]
        if lengths.size:
            log_axis(left, max(1.0, float(lengths.min())), max(10.0, float(lengths.max())))
            low, high = left.get_xlim()
            left.hist(lengths, np.geomspace(max(low, lengths.min()), min(high, lengths.max()) * 1.0001, 31), color=BLUE)
        else:
            _nothing(left, "no document has any text")
        right.set(title="Norms of vectors", xlabel="norm (L2)", ylabel="chunks")
        _norms(right, finite(norms))
    return figure


def _norms(axes: Axes, norms: NDArray[np.float64]) -> None:
    if not norms.size:
        _nothing(axes, "no vector can be read")
        return
    positive = norms[norms > 0]
    wide = positive.size and positive.max() > 20 * np.median(positive)
    inside = norms[norms <= float(np.quantile(positive, 0.99)) * 1.5] if wide else norms
    edges = _bins(inside)
    heights = np.histogram(inside, edges)[0]
    axes.stairs(heights, edges, fill=True, color=SKY, gid="norms")
    few(axes, heights, edges)
    notes = ["norm (L2)"]
    if inside.size < norms.size:
        notes.append(f"{count(norms.size - inside.size)} beyond, up to {small(norms.max())}")
    if norms.min() <= 1 <= norms.max():
        axes.axvline(1.0, color=INK, linestyle=":")
        notes.append("dotted: 1, normalised")
    if any(line.get_gid() == "few" for line in axes.lines):
        notes.append("dot: a bar too low to be seen")
    axes.set_xlabel("\n".join(notes))  # a legend would cover bars


def field_values(values: pd.Series, field: str, low: float | None, high: float | None, sample: str) -> Figure:
    """Draw the values of one metadata field: a histogram of numbers with the allowed range, or the commonest texts.

    `values` (n,) are those of the sample that `sample` describes, NaN or None where a chunk lacks the field; `low` and `high`
    are the schema's range, None where it has none.
    """
    present = values.dropna()
    if present.empty:
        return empty(f"No chunk has the field {name(field)}", sample)
    numbers = present[present.map(lambda v: isinstance(v, (int, float, np.number)) and not isinstance(v, bool))]
    if len(numbers) > 0.5 * len(present):
        return _numbers(
            finite(numbers.astype(float)), len(numbers), len(present) - len(numbers), field, (low, high), sample
        )
    counts = present.map(str).value_counts(sort=False)
    counts = counts.sort_index().sort_values(ascending=False, kind="stable")
    shown = counts.head(_VALUES)
    title = f"{name(field)}: {count(len(counts), 'different value')}; the commonest, {name(shown.index[0], 28)}, in "
    title += f"{percent(float(shown.iloc[0]) / len(values))} of the chunks"
    note = sample if len(shown) == len(counts) else f"The {_VALUES} commonest are drawn. {sample}"
    with draw(1.7 + 0.27 * len(shown), title, note) as (figure, axes):
        bars(axes, [name(value, 36) or "(empty)" for value in shown.index], shown, BLUE, 1.12)
        axes.set_xlabel(f"chunks; {count(len(values) - len(present))} lack the field")
    return figure


def _numbers(
    usable: NDArray[np.float64],
    numbers: int,
    others: int,
    field: str,
    allowed: tuple[float | None, float | None],
    sample: str,
) -> Figure:
    """The histogram of `field_values`; `usable` (n,) are the finite ones of so many `numbers`, `others` are no numbers."""
    low, high = allowed
    least, most = (-np.inf if low is None else low), (np.inf if high is None else high)
    bad = (usable < least) | (usable > most)
    outside = int(bad.sum()) + numbers - usable.size
    title = name(field)
    if usable.size:
        title += f": {small(float(usable.min()))} to {small(float(usable.max()))}"
    ranged = low is not None or high is not None
    if ranged:
        within = f"{'-∞' if low is None else small(low)} to {'∞' if high is None else small(high)}"
        title += f"; {count(outside)} of {count(numbers)} outside of {within}" if outside else f", all within {within}"
    if others:
        title += f"; {count(others)} no number"
    with draw(3.4, title, sample) as (figure, axes):
        if usable.size:
            edges = _ranged_bins(usable, least, most)
            good = edges[(edges >= least) & (edges <= most)]
            if good.size > 1:
                heights, label = np.histogram(usable[~bad], good)[0], "within the range" if outside else "chunks"
                axes.stairs(heights, good, fill=True, color=BLUE, label=label, gid="good")
            if bad.any():
                outside_heights, label = np.histogram(usable[bad], edges)[0], f"outside ({count(bad.sum())})"
                axes.stairs(outside_heights, edges, fill=True, color=RED, label=label, gid="outside")
            few(axes, np.histogram(usable, edges)[0], edges)
            for edge in (low, high):
                if edge is not None:
                    axes.axvline(edge, color=INK, linestyle="--")
            axes.set_ylim(bottom=0)
        axes.set(xlabel=f"{name(field)} (dashed: the schema's range)" if ranged else name(field), ylabel="chunks")
        if outside:
            legend_above(axes, 2)
    return figure


def _ranged_bins(values: NDArray[np.float64], least: float, most: float) -> NDArray[np.float64]:
    """Edges over all values, with the ends of the allowed range among them, so that no bar crosses an end."""
    edges = _bins(values, 40)
    inner = [edge for edge in (least, most) if edges[0] < edge < edges[-1]]
    width = edges[1] - edges[0]
    clear = [e for e in edges.tolist() if all(abs(e - edge) > 0.25 * width for edge in inner)]
    return np.array(sorted({*clear, *inner}))


def pca_map(points: ArrayLike, labels: Sequence[str], field: str, seen: float, note: str) -> Figure:
    """Draw chunks on their first two principal components, coloured by a field, with outliers at the edge.

    `points` (n, 2); `labels` (n,): the value of `field` of each; `seen`: the share of the variance that the plane shows.
    """
    flat = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    if len(flat) < 3:
        return empty("Illustration: too few vectors to draw a plane", "It needs three that are not zero.")
    different = len(set(labels))
    title = f"Illustration: {count(len(flat), 'chunk')} by {name(field)} ({count(different, 'value')}); "
    title += f"the plane shows {percent(seen)} of the variance"
    with draw(4.8, title) as (figure, axes):
        points_by_label(axes, flat, list(labels))
        _plane_axes(figure, axes, name(field), f"{note}{_pinned(flat)}")
    return figure


def _fields(axes: Axes, complete: Mapping[str, float]) -> None:
    axes.set_title("Least complete fields")
    shown = sorted(complete.items(), key=lambda item: (item[1], item[0]))[:_FIELDS]
    if not shown:
        _nothing(axes, "no chunk has any metadata")
        return
    shares = [share for _, share in shown]
    colors = [BLUE if share == 1 else ORANGE for share in shares]
    bars(axes, [name(key, 20) for key, _ in shown], shares, colors, 1.34, [percent(share) for share in shares])
    axes.set_xticks([0.0, 0.5, 1.0])
    share_axis(axes.xaxis)
    axes.set_xlabel("share of chunks that hold it")


def _nothing(axes: Axes, reason: str) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.text(0.5, 0.5, reason, transform=axes.transAxes, ha="center", va="center", color=GREY)


def _bins(values: NDArray[np.float64], bins: int = 30) -> NDArray[np.float64]:
    """Edges (bins + 1,) over all values, wide enough that rounding does not look like a distribution; no bar below zero
    where no value is."""
    if not values.size:
        return np.linspace(0.0, 1.0, bins + 1)
    low, high = float(values.min()), float(values.max())
    room = max(0.02 * abs(high) - (high - low), 2e-9) / 2
    first = max(low - room, 0.0) if low >= 0 else low - room
    return np.linspace(first, high + room, bins + 1)

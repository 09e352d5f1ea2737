"""Figures of embeddings: distances by id, norms, and a plane to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from helpers.plots.style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    RED,
    SKY,
    count,
    draw,
    empty,
    finite,
    legend_above,
    legend_beside,
    log_axis,
    name,
    percent,
    rasterised,
    rows_axis,
    small,
)

_CURVE_POINTS = 2_000
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
    """Share of ids whose vector in the target is within x of their vector in the source.

    `distances` (n,) are paired by id, in the collection's own `space`; `null` (m,) are distances of mismatched pairs:
    what the curve would look like had vectors been swapped. `tolerance` is the limit of the check, `floor` the smallest
    distance that float32 can show; distances of zero are drawn at the floor. `worst` is the worst id with its distance.
    """
    values = np.asarray(distances, dtype=np.float64).ravel()
    good, mismatched = finite(values), finite(null)
    unreadable = values.size - good.size
    if not values.size:
        return empty("No distance was measured: there are no pairs of vectors", "Source and target share no id.")
    space = name(space, 60)
    floor = floor if np.isfinite(floor) and floor > 0 else 1e-12
    limit = max(tolerance, floor)
    beyond = int((good > tolerance).sum()) + unreadable
    note = (
        f"Paired by id ({space}). {count((good <= 0).sum())} of "
        f"{count(values.size)} distances are zero or below; everything under the float32 floor is drawn at the floor"
        + (f". {count(unreadable, 'pair')} could not be compared" if unreadable else "")
        + (f". Worst: {name(worst[0], 48)} at {small(worst[1])}" if worst else "")
        + "."
    )
    high = max(float(np.max(part)) for part in (good, mismatched, np.array([limit * 10])) if part.size)
    with draw(4.4, _ecdf_title(values.size, beyond, good, tolerance), note) as (figure, axes):
        log_axis(axes, floor / 3, high)
        axes.axvspan(limit, axes.get_xlim()[1], color=RED, alpha=0.06, linewidth=0)
        _curve(axes, np.maximum(mismatched, floor), ORANGE, "-.", "mismatched pairs (what swapped vectors look like)")
        _curve(axes, np.maximum(good, floor), BLUE, "-", "source to target, same id", points=good.size < 60)
        bad = np.sort(good[good > tolerance])[-_MARKED:]
        if bad.size:
            share = 1 - np.arange(bad.size)[::-1] / good.size
            axes.plot(
                np.maximum(bad, floor), share, "X", color=RED, markersize=9, label=f"beyond tolerance ({count(beyond)})"
            )
        axes.axvline(floor, color=GREY, linestyle=":", label=f"float32 floor {small(floor)}")
        exact = " (exact; drawn at the floor)" if tolerance < floor else ""
        axes.axvline(limit, color=RED, linestyle="--", label=f"tolerance {small(tolerance)}{exact}")
        axes.set_ylim(-0.02, 1.04)
        axes.set_xlabel(f"distance between source and target vector ({space}, log scale)")
        axes.set_ylabel("share of pairs at or below")
        legend_above(axes, 2)
    return figure


def _ecdf_title(n: int, beyond: int, good: NDArray[np.float64], tolerance: float) -> str:
    if beyond:
        allowed = f"by more than {small(tolerance)}" if tolerance > 0 else "although none may"
        verb = "differs" if beyond == 1 else "differ"
        return f"{count(beyond)} of {count(n, 'vector')} {verb} from the source {allowed}"
    worst = float(np.max(good))
    if worst <= 0:
        return f"All {count(n, 'vector')} arrived without any difference"
    return f"All {count(n, 'vector')} arrived: the worst differs by {small(worst)}, allowed is {small(tolerance)}"


def _curve(
    axes: Axes, values: NDArray[np.float64], color: str, style: str, label: str, *, points: bool = False
) -> None:
    """An empirical distribution as steps; more than a few thousand values are drawn by their quantiles, ends kept."""
    if not values.size:
        return
    ordered = np.sort(values)
    share = np.arange(1, ordered.size + 1) / ordered.size
    if ordered.size > _CURVE_POINTS:
        pick = np.unique(np.linspace(0, ordered.size - 1, _CURVE_POINTS).astype(int))
        tail = np.arange(max(0, ordered.size - 50), ordered.size)  # the few worst are what the reader looks for
        pick = np.union1d(pick, tail)
        ordered, share = ordered[pick], share[pick]
    x = np.concatenate([ordered[:1], ordered])
    y = np.concatenate([[0.0], share])
    axes.step(x, y, where="post", color=color, linestyle=style, label=label, marker="o" if points else "", markersize=4)


def norms_before_after(source: ArrayLike, target: ArrayLike) -> Figure:
    """Norms of the vectors (n,) in source and target, paired: both distributions, and the relative change by id."""
    before = np.asarray(source, dtype=np.float64).ravel()
    after = np.asarray(target, dtype=np.float64).ravel()
    paired = before.size == after.size
    if not before.size or not after.size:
        return empty("No norm was measured", "There are no vectors on one of the two sides.")
    with np.errstate(invalid="ignore"):  # infinity minus infinity: counted below as not comparable
        tiny = float(np.finfo(np.float32).tiny)
        change = np.abs(after - before) / np.maximum(np.abs(before), tiny) if paired else np.array([])
    known = finite(change)
    lost = change.size - known.size
    title = f"Source holds {count(before.size, 'norm')}, target {count(after.size)}: they cannot be paired"
    if paired and known.size:
        largest = float(known.max())
        title = "No norm changed" if largest == 0 else f"Norms change by at most {small(largest)} of their length"
        title += f" ({count(known.size, 'vector')}" + (f", {count(lost)} not comparable)" if lost else ")")
    elif paired:
        title = f"None of {count(before.size, 'norm')} can be compared: not a number"
    with draw(3.9, title, panels=2) as (figure, (left, right)):
        edges = _edges(np.concatenate([finite(before), finite(after)]))
        left.hist(finite(before), edges, color=SKY, alpha=0.8, label=f"source ({count(before.size)})")
        left.hist(
            finite(after), edges, histtype="step", color=INK, linewidth=1.6, label=f"target ({count(after.size)})"
        )
        left.set(title="Distribution", xlabel="norm of the vector (L2)", ylabel="vectors")
        left.legend(loc="best")
        right.set(title=f"Change by id (no change is drawn at {small(_NORM_FLOOR)})", ylabel="share of ids at or below")
        right.set_xlabel("|target − source| / source (log scale)")
        log_axis(right, _NORM_FLOOR / 3, max(1e-3, float(known.max(initial=0.0))))
        right.set_ylim(-0.02, 1.04)
        _curve(right, np.maximum(known, _NORM_FLOOR), BLUE, "-", "", points=1 < known.size < 60)
        eps = float(np.finfo(np.float32).eps)
        right.axvline(eps, color=GREY, linestyle=":", label=f"float32 spacing {small(eps)}")
        right.legend(loc="lower right")
    return figure


def _edges(values: NDArray[np.float64], bins: int = 60) -> NDArray[np.float64]:
    """Bin edges over `values`, at least 2 % of their size wide, so that unit norms do not fill the axis with noise."""
    if not values.size:
        return np.linspace(0.0, 1.0, bins + 1)
    low, high = float(values.min()), float(values.max())
    room = max(high - low, 0.02 * abs(high), 1e-6) * 0.52
    middle = low / 2 + high / 2
    return np.linspace(middle - room, middle + room, bins + 1)


def norms_histogram(norms: Mapping[str, ArrayLike]) -> Figure:
    """Norms of the vectors of each collection, one row each on a common axis; zero and non-finite norms are counted."""
    arrays = {key: np.asarray(value, dtype=np.float64).ravel() for key, value in sorted(norms.items())}
    total = sum(a.size for a in arrays.values())
    if not total:
        return empty("No norm was measured", "None of the collections holds a vector.")
    shown = dict(list(arrays.items())[:_ROWS])
    zero = sum(int((a == 0).sum()) for a in arrays.values())
    broken = sum(a.size - finite(a).size for a in arrays.values())
    every = finite(np.concatenate(list(arrays.values())))
    positive = every[every > 0]
    unit = bool(positive.size) and bool(np.all(np.abs(positive - 1) < 1e-3))
    title = f"{'All' if unit and not zero and not broken else 'Of'} {count(total, 'vector')}"
    title += (
        " have length 1"
        if title.startswith("All")
        else f": {count(zero)} zero, {count(broken)} not a number, "
        + (
            "the others have length 1"
            if unit
            else f"the others {small(positive.min())} to {small(positive.max())} long"
            if positive.size
            else "no other"
        )
    )
    more = f" {len(arrays) - _ROWS} further collections are not drawn." if len(arrays) > _ROWS else ""
    wide = bool(positive.size) and positive.max() / positive.min() > 50
    note = f"Height: share of the collection's vectors, each row by itself.{more}"
    with draw(1.7 + 0.42 * len(shown), title, note) as (figure, axes):
        edges = _edges(positive)
        if wide:
            log_axis(axes, float(positive.min()), float(positive.max()))
            low, high = axes.get_xlim()
            edges = np.geomspace(low, high, 61)
        labels = []
        for row, (key, array) in enumerate(shown.items()):
            usable = finite(array)
            heights, _ = np.histogram(usable[usable > 0], edges)
            axes.stairs(
                row + 0.38 - 0.8 * heights / max(1, heights.max()),
                edges,
                baseline=row + 0.38,
                fill=True,
                color=BLUE,
                alpha=0.85,
            )
            axes.axhline(row + 0.38, color="#c5cad0", linewidth=0.8)
            labels.append(f"{name(key)}\n{_norm_label(array)}")
        rows_axis(axes, labels)
        axes.set_xlabel("norm of the vector (L2" + (", log scale)" if wide else ")"))
    return figure


def _norm_label(array: NDArray[np.float64]) -> str:
    zero, broken = int((array == 0).sum()), array.size - finite(array).size
    return (
        count(array.size, "vector")
        + (f", {count(zero)} zero" if zero else "")
        + (f", {count(broken)} not a number" if broken else "")
    )


def pca_overlay(source: ArrayLike, target: ArrayLike, labels: Sequence[str]) -> Figure:
    """An illustration: vectors (n, d) of the source on their first two principal components, the target laid over.

    Rows are paired by id; `labels` (n,) name the collection of each. The plane is fitted on the source alone, on a
    seeded sample. Rows that are not finite on either side are left out and counted. It proves nothing; tests do.
    """
    a, b = np.atleast_2d(np.asarray(source, dtype=np.float64)), np.atleast_2d(np.asarray(target, dtype=np.float64))
    if a.size == 0 or a.shape != b.shape or len(a) < 3:
        why = f"Needs at least three pairs of vectors; got {a.shape} and {b.shape} (vectors, dimensions)."
        return empty("Illustration: too few paired vectors to draw a plane", why)
    whole = np.isfinite(a).all(axis=1) & np.isfinite(b).all(axis=1)
    rows = np.flatnonzero(whole)
    if rows.size < 3:
        return empty("Illustration: too few paired vectors to draw a plane", "The others hold NaN or infinity.")
    if rows.size > _SAMPLE:
        rows = np.sort(np.random.default_rng(_SEED).choice(rows, _SAMPLE, replace=False))
    flat, moved, explained = _plane(a[rows], b[rows])
    spread = float(np.linalg.norm(flat.std(axis=0))) or 1.0
    shift = float(np.linalg.norm(flat - moved, axis=1).max()) / spread
    fate = (
        "each target point lies on its source point"
        if shift < 0.01
        else f"some target points lie away from their source point, by up to {small(shift)} × the spread"
    )
    left_out = len(a) - int(whole.sum())
    note = (
        f"An illustration, not a test: {percent(explained)} of the variance is seen. Sample of {count(rows.size)} of "
        f"{count(len(a), 'pair')}, seed {_SEED}; the plane is fitted on the source alone"
        + (f"; {count(left_out)} with NaN or infinity left out" if left_out else "")
        + "."
    )
    with draw(5.2, f"Illustration: {fate} (PCA of {count(rows.size, 'vector')})", note) as (figure, axes):
        points_by_label(axes, flat, [str(labels[i]) for i in rows.tolist()])
        axes.plot(
            moved[:, 0],
            moved[:, 1],
            linestyle="",
            marker=".",
            color=INK,
            markersize=2.5,
            label="target, laid over",
            rasterized=rasterised(rows.size),
        )
        far = np.linalg.norm(flat - moved, axis=1) > 0.01 * spread
        for i in np.flatnonzero(far)[:200]:
            axes.plot(*zip(flat[i], moved[i], strict=True), color=RED, linewidth=0.9)
        axes.set_xlabel("first principal component (no unit)")
        axes.set_ylabel("second principal component (no unit)")
        legend_beside(axes, "source, by collection")
    return figure


def _plane(a: NDArray[np.float64], b: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Both sides on the first two components of `a`, and the share of its variance that they hold."""
    from sklearn.decomposition import PCA  # type: ignore[import-untyped,unused-ignore]  # slow to import, and wanted by this figure only

    if a.shape[1] < 2:
        a, b = np.pad(a, ((0, 0), (0, 1))), np.pad(b, ((0, 0), (0, 1)))
    if not np.ptp(a, axis=0).any():  # all alike: there is no direction to fit
        return a[:, :2] - a[0, :2], b[:, :2] - a[0, :2], 1.0
    plane: Any = PCA(n_components=2, svd_solver="full" if a.shape[1] <= 256 else "randomized", random_state=_SEED)
    flat = np.asarray(plane.fit_transform(a))
    return flat, np.asarray(plane.transform(b)), float(plane.explained_variance_ratio_.sum())


def points_by_label(axes: Axes, points: NDArray[np.float64], labels: list[str]) -> None:
    """Points by label: the seven largest in a colour and a marker of their own, the others grey."""
    names, sizes = np.unique(labels, return_counts=True)
    ranked = [str(names[i]) for i in np.lexsort((names, -sizes))]
    styles = list(zip((BLUE, ORANGE, GREEN, "#CC79A7", SKY, "#F0E442", RED), "os^Dv<>", strict=True))
    own = np.asarray(labels)
    for key, (color, marker) in zip(ranked, styles, strict=False):
        part = points[own == key]
        axes.plot(
            part[:, 0],
            part[:, 1],
            linestyle="",
            marker=marker,
            color=color,
            markersize=7,
            alpha=0.6,
            markeredgewidth=0,
            label=name(key, 24),
            rasterized=rasterised(len(points)),
        )
    others = points[np.isin(own, ranked[len(styles) :])]
    if len(others):
        axes.plot(
            others[:, 0],
            others[:, 1],
            linestyle="",
            marker=".",
            color=GREY,
            markersize=4,
            label=f"{len(ranked) - len(styles)} others",
        )

"""Figures of embeddings: distances by id, norms, and a plane to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
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


# -- exploring ---------------------------------------------------------------------------------------------------------

# Figures of notebook 11: one collection in short, values of a field, nearest neighbours, the map.


_FIELDS = 12
_VALUES = 15


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
            low, high = axes[1].get_xlim()
            axes[1].hist(positive, np.geomspace(low, high, 31), color=BLUE)
        else:
            _nothing(axes[1], "no document has any text")
        axes[2].set(title="Norms of vectors", xlabel="norm (L2)", ylabel="chunks")
        positive = lengths_of[lengths_of > 0]
        if lengths_of.size:
            wide = positive.size and positive.max() > 20 * np.median(positive)
            top = float(np.quantile(positive, 0.99)) * 1.5 if wide else float(lengths_of.max())
            inside = lengths_of[lengths_of <= top]
            axes[2].hist(inside, _bins(inside), color=SKY)
            if inside.size < lengths_of.size:
                axes[2].set_xlabel(
                    f"norm (L2)\n{count(lengths_of.size - inside.size)} beyond, up to {small(lengths_of.max())}"
                )
            if lengths_of.min() <= 1 <= lengths_of.max():
                axes[2].axvline(1.0, color=INK, linestyle=":", label="1: normalised")
                axes[2].legend(loc="best")
        else:
            _nothing(axes[2], "no vector can be read")
    return figure


def field_values(values: pd.Series, field: str, low: float | None, high: float | None, said: str) -> Figure:
    """The values of one metadata field: a histogram of numbers, with its allowed range, or the commonest texts.

    `values` (n,) are those of the sample that `said` describes, NaN or None where a chunk lacks the field; `low` and `high`
    are the schema's range, None where it has none.
    """
    present = values.dropna()
    if present.empty:
        return empty(f"No chunk has the field {name(field)}", said)
    flags = present.map(lambda value: isinstance(value, (bool, np.bool_)))
    is_number = present.map(lambda value: isinstance(value, (int, float, np.number))) & ~flags
    if is_number.mean() > 0.5:
        return _numbers(present[is_number].astype(float), len(present) - int(is_number.sum()), field, (low, high), said)
    counts = present.map(str).value_counts(sort=False)
    counts = counts.sort_index().sort_values(ascending=False, kind="stable")
    shown = counts.head(_VALUES)
    title = f"{name(field)}: {count(len(counts), 'different value')}; the commonest, {name(shown.index[0], 28)}, in "
    title += f"{percent(float(shown.iloc[0]) / len(values))} of the chunks"
    note = said if len(shown) == len(counts) else f"The {_VALUES} commonest are drawn. {said}"
    with draw(1.7 + 0.27 * len(shown), title, note) as (figure, axes):
        axes.barh(range(len(shown)), shown, height=0.6, color=BLUE)
        for row, n in enumerate(shown):
            axes.text(n, row, f" {count(n)}", va="center", fontsize=9)
        rows_axis(axes, [name(value, 36) or "(empty)" for value in shown.index])
        axes.set_xlim(0, float(shown.max()) * 1.12)
        axes.set_xlabel(f"chunks; {count(len(values) - len(present))} lack the field")
    return figure


def _numbers(
    numbers: pd.Series, others: int, field: str, allowed: tuple[float | None, float | None], said: str
) -> Figure:
    low, high = allowed
    usable = finite(numbers)
    least, most = (-np.inf if low is None else low), (np.inf if high is None else high)
    outside = int(((usable < least) | (usable > most)).sum()) + numbers.size - usable.size
    title = (
        f"{name(field)}: {small(float(usable.min()))} to {small(float(usable.max()))}" if usable.size else name(field)
    )
    if low is not None or high is not None:
        within = f"{'-∞' if low is None else small(low)} to {'∞' if high is None else small(high)}"
        title += (
            f"; {count(outside)} of {count(numbers.size)} outside of {within}" if outside else f", all within {within}"
        )
    if others:
        title += f"; {count(others)} no number"
    with draw(3.4, title, said) as (figure, axes):
        if usable.size:
            edges = _bins(usable, 40)
            axes.hist(usable, edges, color=BLUE, label="within the range" if outside else "chunks")
            bad = usable[(usable < least) | (usable > most)]
            if bad.size:
                axes.hist(bad, edges, color=RED, hatch="///", label=f"outside ({count(bad.size)})")
            for edge in (edge for edge in (low, high) if edge is not None):
                axes.axvline(edge, color=INK, linestyle="--")
        axes.set(
            xlabel=f"{name(field)} (dashed: the schema's range)" if low is not None or high is not None else name(field)
        )
        axes.set_ylabel("chunks")
        if outside:
            legend_above(axes, 2)
    return figure


def neighbour_distances(table: pd.DataFrame, said: str) -> Figure:
    """How far the nearest neighbour is: in the own collection, and in the nearest other one.

    `table`: collection, id, space, distance, within (bool), one row for each chunk and collection. One panel for each of
    the first two spaces, whose distances cannot be compared.
    """
    if not len(table):
        return empty(
            "No distance to a neighbour was measured", "There are no two chunks with vectors of one dimension."
        )
    nearest = table.groupby(["space", "collection", "id", "within"], sort=True)["distance"].min().reset_index()
    spaces = nearest["space"].value_counts().index.sort_values()[:2].tolist()
    medians = nearest.groupby("within")["distance"].median()
    title = "How far chunks lie from their nearest neighbour"
    if len(spaces) == 1 and {True, False} <= set(medians.index):
        where = "closer at hand than" if medians[True] < medians[False] else "no closer than"
        title = (
            f"The nearest neighbour in the own collection is {where} in the others: {small(float(medians[True]))} and "
        )
        title += f"{small(float(medians[False]))} at the median"
    with draw(3.8, title, said, panels=len(spaces), squeeze=False) as (figure, panels):
        for axes, space in zip(panels[0], spaces, strict=True):
            for within, color, style, label in ((True, BLUE, "-", "own collection"), (False, ORANGE, "--", "others")):
                part = nearest[(nearest["space"] == space) & (nearest["within"] == within)]
                values = np.sort(finite(part["distance"]))
                if values.size:
                    share = np.arange(1, values.size + 1) / values.size
                    axes.step(
                        values,
                        share,
                        where="post",
                        color=color,
                        linestyle=style,
                        label=f"{label} ({count(values.size)})",
                    )
            axes.set_xlabel(f"distance to the nearest neighbour ({space}{', squared' if space == 'l2' else ''})")
            axes.set_ylabel("share of chunks at or below")
            axes.set_ylim(-0.02, 1.04)
            legend_above(axes, 2)
    return figure


def pca_map(points: ArrayLike, labels: Sequence[str], field: str, seen: float, note: str) -> Figure:
    """Chunks on their first two principal components, coloured by a field.

    `points` (n, 2); `labels` (n,) the value of `field` of each; `seen` the share of the variance that the plane shows.
    """
    flat = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    if len(flat) < 3:
        return empty("Illustration: too few vectors to draw a plane", "It needs three that are not zero.")
    different = len(set(labels))
    title = f"Illustration: {count(len(flat), 'chunk')} by {name(field)} ({count(different, 'value')}); "
    title += f"the plane shows {percent(seen)} of the variance"
    with draw(4.8, title, note) as (figure, axes):
        points_by_label(axes, flat, list(labels))
        axes.set_xlabel("first principal component (no unit)")
        axes.set_ylabel("second principal component (no unit)")
        legend_beside(axes, name(field))
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
        ink = "white" if share == 1 else INK  # on the blue bar dark letters are faint
        axes.text(min(share, 0.70) + 0.02, row, percent(share), va="center", fontsize=8.5, color=ink)
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

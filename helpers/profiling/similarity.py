"""Duplicates and colliding ids of a source; near-duplicates, outliers and a map of its sample.

`duplicates` and `collisions` are of the whole source, exact; all else works on the sample (`helpers.profiling`). Each
near-duplicate is listed with the most similar chunk before it, so that a hundred copies are 99 rows and not 4,950.
Documents: MinHash in bands finds candidates, then their true Jaccard similarity counts. Vectors: candidates by a seeded
random projection, then their true cosine.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from helpers.chunks import Vectors
from helpers.errors import one_line
from helpers.formatting import Digested, harmless, packed_rows
from helpers.profiling import Sample, lengths_of, plain_text
from helpers.profiling.profile import Profile, Scan
from helpers.reason_codes import ReasonCode
from helpers.results import Verdict, writing
from helpers.run import kernel
from helpers.run.folders import FINDINGS
from helpers.stores import Space

SHOWN = 100  # groups of duplicates or collisions in a table
MOST_QUERIES = 500  # chunks whose neighbours are searched for, in the whole sample
DRAWN = 2_000  # points of the map
FAR = 6.0  # robust standard deviations from the median of the collection
_FEW = 8  # chunks; smaller collections are not searched for outliers
_BLOCK = 128
NEAREST_COLUMNS = ["collection", "id", "space", "neighbour_collection", "neighbour_id", "distance", "within"]
OUTLIER_COLUMNS = ["rule", "collection", "id", "value", "median", "limit"]

Numbers = npt.NDArray[np.float64]


def nearest(sample: Sample, spaces: Mapping[str, Space]) -> pd.DataFrame:
    """The distance from chunks to their nearest neighbour in each collection of the same dimension.

    One row a pair (chunk, collection): collection, id, space, neighbour_collection, neighbour_id, distance, within (whether it is
    the chunk's own collection; the chunk itself is not its neighbour). Distances are exact, in the space of the chunk's own
    collection (l2: squared). Zero vectors are left out: on cosine they are equally far from everything.
    """
    frame = sample.frame
    collections, ids = frame["collection"].to_numpy(object), frame["id"].to_numpy(object)
    parts = []
    for _, at, vectors in sample.spaces():
        parts.append(_nearest(vectors, collections[at], ids[at], spaces, sample.seed))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=NEAREST_COLUMNS)


def _nearest(
    vectors: Vectors,
    names: npt.NDArray[np.object_],
    ids: npt.NDArray[np.object_],
    spaces: Mapping[str, Space],
    seed: int,
) -> pd.DataFrame:
    starts = np.flatnonzero(np.concatenate([[True], names[1:] != names[:-1]]))  # rows stand by collection
    ends = np.append(starts[1:], len(names))
    queries = _query_rows(starts, ends, seed)
    squares = np.square(lengths_of(vectors))
    part = np.repeat(np.arange(len(starts)), ends - starts)  # of each row: the number of its collection
    pairs: list[tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], Numbers]] = []  # queries, neighbours, distances
    for start in range(0, len(queries), _BLOCK):
        some = queries[start : start + _BLOCK]
        dots = (vectors[some] @ vectors.T).astype(np.float64)
        for i, row in enumerate(some.tolist()):
            far = _distances(spaces[names[row]], dots[i], squares, squares[row])
            far[row] = np.inf
            least = np.minimum.reduceat(far, starts)
            near = np.flatnonzero((far == least[part]) & np.isfinite(far))
            best = near[np.unique(part[near], return_index=True)[1]]  # of each collection the first
            pairs.append((np.full(len(best), row), best, far[best]))
    if not pairs:
        return pd.DataFrame(columns=NEAREST_COLUMNS)
    own, other, distances = (np.concatenate(column) for column in zip(*pairs, strict=True))
    space = np.array([spaces[name] for name in names[starts]], dtype=object)[part[own]]
    columns = (names[own], ids[own], space, names[other], ids[other], distances, part[own] == part[other])
    return pd.DataFrame(dict(zip(NEAREST_COLUMNS, columns, strict=True)))


def _distances(space: Space, dots: Numbers, squares: Numbers, square: float) -> Numbers:
    if space == "l2":
        return np.maximum(squares + square - 2 * dots, 0.0)
    if space == "ip":
        return 1.0 - dots
    return np.maximum(1.0 - dots / np.sqrt(squares * square), 0.0)


def _query_rows(starts: npt.NDArray[np.intp], ends: npt.NDArray[np.intp], seed: int) -> npt.NDArray[np.intp]:
    """At most `MOST_QUERIES` rows, of each collection a fair share, by the seed."""
    total = int(ends[-1]) if len(ends) else 0
    rng = np.random.default_rng(seed)
    picked = []
    for first, last in zip(starts.tolist(), ends.tolist(), strict=True):
        n = last - first
        share = n if total <= MOST_QUERIES else max(1, min(n, max(20, MOST_QUERIES * n // total)))
        picked.append(np.sort(rng.choice(np.arange(first, last), share, replace=False)))
    return np.concatenate(picked)[: 2 * MOST_QUERIES] if picked else np.zeros(0, np.intp)


def outliers(sample: Sample) -> pd.DataFrame:
    """Chunks that stand far from the others of their collection, by rule; collections of fewer than 8 are not judged.

    Rules: `direction` (1 − cosine to the mean direction of the collection), `norm` (L2), `length` (log10 of the document's
    characters). Far is more than 6 robust standard deviations (1.4826 × the median absolute deviation, at least 0.1 % of
    the median; of lengths at least 0.05, so that less than half or double is never far) from the median.
    """
    frame = sample.frame
    lengths = frame["characters"].to_numpy(np.float64)
    sizes = frame["norm"].to_numpy(np.float64)
    measures: list[tuple[str, Numbers]] = [
        ("direction", _directions(sample)),
        ("norm", np.where(sizes > 0, sizes, np.nan)),
        ("length", np.log10(lengths, out=np.full(len(lengths), np.nan), where=lengths > 0)),
    ]
    names, ids = frame["collection"].to_numpy(object), frame["id"].to_numpy(object)
    rows = []
    for rule, values in measures:
        for name in sample.parts:
            finite = np.flatnonzero((names == name) & np.isfinite(values))
            if len(finite) < _FEW:
                continue
            middle = float(np.median(values[finite]))
            away = np.abs(values[finite] - middle)
            limit = FAR * max(1.4826 * float(np.median(away)), 0.05 if rule == "length" else 1e-3 * abs(middle), 1e-9)
            rows += [(rule, name, ids[i], float(values[i]), middle, limit) for i in finite[away > limit]]
    table = pd.DataFrame(rows, columns=OUTLIER_COLUMNS)
    far = ((table["value"] - table["median"]).abs() / table["limit"]).rename("times_limit")
    return pd.concat([table, far], axis="columns").sort_values(
        ["times_limit", "collection", "id"], ascending=[False, True, True], kind="stable", ignore_index=True
    )


def _directions(sample: Sample) -> Numbers:
    """1 − cosine of each vector to the mean of its collection's unit vectors; NaN for zero, lost and not finite ones."""
    directions = np.full(len(sample), np.nan)
    names = sample.frame["collection"].to_numpy(object)
    for _, at, vectors in sample.spaces():
        for name in dict.fromkeys(names[at]):
            rows = np.flatnonzero(names[at] == name)
            blocks = [rows[start : start + _PAIR_BLOCK] for start in range(0, len(rows), _PAIR_BLOCK)]
            mean = sum(_unit(vectors[block]).sum(axis=0) for block in blocks) / len(rows)
            if (length := np.linalg.norm(mean)) > 0:
                for block in blocks:
                    directions[at[block]] = 1.0 - _unit(vectors[block]) @ (mean / length)
    return directions


def _unit(vectors: Vectors) -> Numbers:
    """Vectors (n, d) with a direction, of length 1."""
    return vectors / lengths_of(vectors)[:, None]


@dataclass(frozen=True, slots=True)
class Plane:
    """Chunks on the first two principal components: `rows` of the sample, `points` (n, 2), and their share of the variance."""

    rows: npt.NDArray[np.intp]
    points: Numbers
    explained_variance: float
    dimension: int


def plane(sample: Sample) -> Plane | None:
    """At most 2,000 chunks of the most frequent dimension, drawn by the seed, as unit vectors; None for fewer than three."""
    best = max(sample.spaces(), key=lambda group: (len(group[1]), group[0]), default=None)
    if best is None:
        return None
    dimension, at, vectors = best
    rows = np.arange(len(at))
    if len(rows) > DRAWN:
        rows = np.sort(np.random.default_rng(sample.seed).choice(rows, DRAWN, replace=False))
    if len(rows) < 3:
        return None
    unit = _unit(vectors[rows]).astype(np.float32)
    from helpers.plots import fit_plane  # with matplotlib

    fitted = fit_plane(unit)
    return Plane(at[rows], fitted.points(unit), fitted.explained_variance, dimension)


def labels(values: pd.Series, most: int = 8) -> pd.Categorical:
    """A label for each value to count or colour by, in a sensible order of labels; missing ones come last.

    Texts and flags are labelled as they are, the commonest first; more than `most` different numbers by ranges that hold
    about equally many, the smallest first.
    """
    missing = values.isna()
    shown = values.map(str).astype(object).mask(missing, "(missing)")
    numbers = pd.to_numeric(values.where(~values.map(_is_flag)), errors="coerce")
    if numbers.notna().sum() > 0.5 * (~missing).sum() and numbers.nunique() > most:
        edges = np.unique(np.quantile(numbers.dropna(), np.linspace(0, 1, 6)))
        ranges = [f"{low:.4g} to {high:.4g}" for low, high in itertools.pairwise(edges.tolist())]
        at = np.clip(np.searchsorted(edges, numbers.fillna(edges[0]).to_numpy(), side="right") - 1, 0, len(ranges) - 1)
        ranged = pd.Series([ranges[i] for i in at.tolist()], index=values.index, dtype=object)
        shown = ranged.mask(numbers.isna(), "(no number)").mask(missing, "(missing)")
        order = [*dict.fromkeys(ranges), "(no number)", "(missing)"]
        return pd.Categorical(shown, [label for label in order if label in set(shown)])
    counts = shown.value_counts().sort_index().sort_values(ascending=False, kind="stable")
    return pd.Categorical(shown, sorted(counts.index, key=lambda label: label == "(missing)"))


def _is_flag(value: object) -> bool:
    return isinstance(value, (bool, np.bool_))


JACCARD = 0.9  # of two documents' runs of characters, from here on they are near
COSINE = 0.999  # of two vectors
COLUMNS = ["what", "similarity", "identical", "collection", "id", "like_collection", "like_id"]
_RUN = 5  # characters
_BANDS, _ROWS = 8, 4  # finds 99.9 % of the pairs at 0.9
_CANDIDATES = 20_000  # pairs of documents that are compared in full
_CACHED = 256  # documents whose runs are held for that
_PROJECTED = 128  # dimensions; the error of a cosine near 1 stays far below the margin
_MARGIN = 0.01
_PAIR_BLOCK = 256  # rows compared at a time

Pairs = list[tuple[int, int, float]]  # row, an earlier row, similarity


def near_duplicates(sample: Sample) -> pd.DataFrame:
    """One row for each chunk that has a near-duplicate earlier in the sample; `identical` where both are the same exactly."""
    frame = sample.frame
    places = list(zip(frame["collection"], frame["id"], strict=True))
    documents = [kept.document for part in sample.parts.values() for kept in part]
    lengths = frame["characters"].tolist()
    rows = [
        (
            "document",
            round(similarity, 4),
            documents[a] == documents[b] and lengths[a] == lengths[b],
            *places[a],
            *places[b],
        )
        for a, b, similarity in near_documents(documents)
    ]
    for _, at, vectors in sample.spaces():
        rows += [
            ("vector", round(similarity, 6), bool((vectors[a] == vectors[b]).all()), *places[at[a]], *places[at[b]])
            for a, b, similarity in near_vectors(vectors, sample.seed)
        ]
    return pd.DataFrame(rows, columns=COLUMNS).astype({"identical": bool})


def near_vectors(vectors: Vectors, seed: int) -> Pairs:
    """Pairs of rows of `vectors` (n, d), each with a direction, whose cosine is at least `COSINE`."""
    if len(vectors) < 2:
        return []
    lengths, flat = lengths_of(vectors), _projected(vectors, seed)
    pairs: Pairs = []
    for start in range(0, len(vectors), _PAIR_BLOCK):
        stop = min(start + _PAIR_BLOCK, len(vectors))
        alike = flat[start:stop] @ flat[:stop].T
        alike[np.arange(stop) >= np.arange(start, stop)[:, None]] = -2.0  # only earlier ones
        best = alike.argmax(axis=1)
        for i in np.flatnonzero(alike[np.arange(stop - start), best] >= COSINE - _MARGIN):
            a, b = start + int(i), int(best[i])
            cosine = float(vectors[a].astype(np.float64) @ vectors[b].astype(np.float64) / (lengths[a] * lengths[b]))
            if a != b and cosine >= COSINE:
                pairs.append((a, b, min(cosine, 1.0)))
    return pairs


def _projected(vectors: Vectors, seed: int) -> Vectors:
    """The directions of vectors (n, d) in fewer dimensions, unit rows: cosines near 1 stay near 1."""
    dimension = vectors.shape[1]
    if dimension <= _PROJECTED:
        return _unit(vectors).astype(np.float32)
    onto = np.random.default_rng(seed).standard_normal((dimension, _PROJECTED), np.float32)
    flat = np.empty((len(vectors), _PROJECTED), np.float32)
    for start in range(0, len(vectors), _PAIR_BLOCK):  # not all at once: that would hold the sample twice
        block = slice(start, start + _PAIR_BLOCK)
        flat[block] = _unit(vectors[block]).astype(np.float32) @ onto
    scaled: Vectors = flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return scaled


def near_documents(documents: list[str | None]) -> Pairs:
    """Pairs of documents whose runs of five characters overlap by at least `JACCARD`."""
    runs = lru_cache(_CACHED)(lambda row: _runs(documents[row] or ""))
    best: dict[int, tuple[float, int]] = {}
    for a, b in _candidates(documents):
        shared = np.intersect1d(runs(a), runs(b), assume_unique=True).size
        similarity = shared / (runs(a).size + runs(b).size - shared)
        if similarity >= JACCARD:
            best[a] = max(best.get(a, (0.0, 0)), (similarity, -b))
    return [(a, -b, similarity) for a, (similarity, b) in sorted(best.items())]


def _runs(text: str) -> npt.NDArray[np.uint64]:
    """The distinct runs of characters of a text, as 64-bit hashes; a text shorter than a run is one itself."""
    plain = plain_text(text)
    codes = np.frombuffer(plain.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    if not codes.size:
        return codes
    width = min(_RUN, codes.size)
    hashed = np.zeros(codes.size - width + 1, np.uint64)
    for offset in range(width):  # a polynomial, modulo 2**64
        hashed = hashed * np.uint64(0x100000001B3) + codes[offset : offset + hashed.size] + np.uint64(1)
    return np.unique(hashed)


def _candidates(documents: list[str | None]) -> list[tuple[int, int]]:
    """Pairs (row, earlier row) that share a band of their MinHash signatures; each row with the band's first and last."""
    rng = np.random.default_rng(_RUN)
    factors = rng.integers(1, 2**63, _BANDS * _ROWS, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    rows, signatures = [], []
    for row, text in enumerate(documents):
        if text and (runs := _runs(text)).size:
            mixed = runs ^ (runs >> np.uint64(31))
            rows.append(row)
            signatures.append([_mix(mixed, factor).min() for factor in factors])
    table = np.array(signatures, np.uint64).reshape(len(rows), _BANDS, _ROWS)
    pairs: dict[tuple[int, int], None] = {}
    for band in range(_BANDS):
        first: dict[tuple[int, ...], tuple[int, int]] = {}
        for row, key in zip(rows, map(tuple, table[:, band].tolist()), strict=True):
            if key in first:
                one, last = first[key]
                pairs |= {(row, one): None, (row, last): None}
            first[key] = (first[key][0] if key in first else row, row)
        if len(pairs) > _CANDIDATES:
            break
    return sorted(pairs)[:_CANDIDATES]


def _mix(hashes: npt.NDArray[np.uint64], factor: np.uint64) -> npt.NDArray[np.uint64]:
    """Mix hashes into others, in another order for each odd factor."""
    product = hashes * factor
    return product ^ (product >> np.uint64(29))


# Tables


def duplicates(profile: Profile) -> pd.DataFrame:
    """Documents, and vectors but for zero ones, that stand in the source more than once, to the last bit."""
    rows, groups, findings = [], 0, profile.findings()
    for what, repeats in (("document", profile.scan.documents), ("vector", profile.scan.vectors)):
        groups += len(repeats.groups)
        largest = sorted(repeats.groups.values(), key=len, reverse=True)[:SHOWN]
        rows += [{"what": what, "chunks": len(group), "where": _places(group)} for group in largest]
        number = findings[f"duplicate_{what}s"]
        detail = f"Each repeats another, which is not counted; all are migrated; ids of both: {FINDINGS}."
        profile.check(f"repeated {what}s", number, ReasonCode.DUPLICATES, detail + profile.part)
    whole = "All: step.export('duplicate_documents'), step.export('duplicate_vectors')."
    return kernel.cut(pd.DataFrame(rows, columns=["what", "chunks", "where"]), groups, whole)


def keep(scan: Scan, path: Path) -> str:
    """Write a table of chunks with a zero vector, or with a document or vector that the source holds more than once: finding,
    group (equal chunks have one number), collection, id. Return the digest of the file; "" and no file if there is none."""
    places: list[tuple[str, int | str, Iterable[Sequence[str]]]] = [
        (what, number, group)
        for what, repeats in (("repeated document", scan.documents), ("repeated vector", scan.vectors))
        for number, group in enumerate(repeats.groups.values(), start=1)
    ]
    if scan.places.total("zero_vectors"):
        places.append(
            ("zero vector", "", ((place.collection, place.id) for place in scan.places.every("zero_vectors")))
        )
    if not places:
        path.unlink(missing_ok=True)
        return ""
    with writing(path) as temporary, temporary.open("wb") as raw, packed_rows(written := Digested(raw)) as line:
        line(["finding", "group", "collection", "id"])
        for what, number, group in places:
            for collection, chunk, *_ in group:
                line([what, number, harmless(collection), harmless(chunk)])
    return written.digest


def collisions(profile: Profile) -> pd.DataFrame:
    """Ids that more than one collection uses, and whether they would meet in one target collection."""
    groups = sorted(profile.scan.ids.groups.values())
    meet = [len({target for *_, target in group}) < len(group) for group in groups]
    apart = profile.run.parameters.migration.id_policy == "prefix"
    detail = ""
    if any(meet) and apart:
        detail = f"{sum(meet):,} are used by several collections; migration.id_policy: prefix tells them apart."
    elif any(meet):
        detail = (
            "The dry run would stop at them. Begin a new run with migration.id_policy: prefix, which writes every id as "
            "<source collection>:<id> (tell the clients), or rename them at the source."
        )
    colliding = 0 if apart else sum(meet)
    profile.run.judge("ids in common", measured=colliding, threshold=0, unit="ids", reason=ReasonCode.ID_COLLISION,
                      detail=detail + profile.part, offenders=colliding)  # fmt: skip
    _rewritten(profile)
    rows = [
        (
            one_line(group[0][1], 80),
            ", ".join(name for name, *_ in group),
            ", ".join(sorted({t for *_, t in group})),
            met,
        )
        for group, met in zip(groups[:SHOWN], meet, strict=False)
    ]
    frame = pd.DataFrame(rows, columns=["id", "collections", "targets", "meet"])
    return kernel.cut(frame, len(groups), "All: step.export('colliding_ids').")


def _rewritten(profile: Profile) -> None:
    """Record the ids that the migration rewrites: clients that keep ids have to know."""
    scan = profile.scan
    before, after = (one_line(text, 80) for text in scan.rewritten_example)
    example = {"chunks": scan.rewritten, "before": before, "after": after} if scan.rewritten else None
    profile.run.fact("ids_to_rewrite", example)
    profile.run.judge(
        "ids that the migration rewrites", Verdict.WARNING, measured=scan.rewritten, threshold=0, unit="ids",
        reason=ReasonCode.IDS_REWRITTEN, offenders=scan.rewritten, parameter="migration.id_policy",
        detail=f"{before} becomes {after}. A client that asks for an old id does not find it." if example else "",
    )  # fmt: skip


def _places(group: list[tuple[str, ...]]) -> str:
    named = "; ".join(f"{place[0]}: {one_line(place[1], 60)}" for place in group[:4])
    return named if len(group) <= 4 else f"{named}; and {len(group) - 4} more"

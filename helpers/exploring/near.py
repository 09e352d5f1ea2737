"""Near duplicates in the sample: documents that share nearly all of their text, vectors that point nearly the same way.

Each chunk is listed with the one before it that is most like it, so that a hundred copies are 99 rows and not 4,950.
Documents: characters in runs of five (of the text but for case and spaces), MinHash in bands to find candidates, and then
their true Jaccard similarity. Vectors: candidates by a seeded random projection, and then their true cosine.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.random_projection import GaussianRandomProjection  # type: ignore[import-untyped,unused-ignore]

from helpers.chunks import Vectors
from helpers.exploring.sample import Sample, lengths_of
from helpers.exploring.texts import plain_text

JACCARD = 0.9  # of two documents' runs of characters, from here on they are near
COSINE = 0.999  # of two vectors
COLUMNS = ["what", "similarity", "identical", "collection", "id", "like_collection", "like_id"]
_RUN = 5  # characters
_BANDS, _ROWS = 8, 4  # finds 99.9 % of the pairs at 0.9
_CANDIDATES = 20_000  # pairs of documents that are compared in full
_PROJECTED = 128  # dimensions; the error of a cosine near 1 stays far below the margin
_MARGIN = 0.01
_BLOCK = 1_024  # rows compared at a time

Pairs = list[tuple[int, int, float]]  # row, an earlier row, similarity


def near_duplicates(sample: Sample) -> pd.DataFrame:
    """One row for each chunk that has a near twin earlier in the sample; `identical` where both are the same exactly."""
    frame = sample.frame
    places = list(zip(frame["collection"], frame["id"], strict=True))
    documents = [part.documents[i] for part in sample.parts.values() for i in range(len(part.ids))]
    lengths = frame["characters"].tolist()
    rows = [
        ("document", round(similarity, 4), documents[a] == documents[b] and lengths[a] == lengths[b],
         *places[a], *places[b])
        for a, b, similarity in near_documents(documents)
    ]  # fmt: skip
    for _, at, vectors in sample.spaces():
        rows += [
            ("vector", round(similarity, 6), bool((vectors[a] == vectors[b]).all()), *places[at[a]], *places[at[b]])
            for a, b, similarity in near_vectors(vectors, sample.seed)
        ]
    return pd.DataFrame(rows, columns=COLUMNS).astype({"identical": bool})


# -- vectors -------------------------------------------------------------------------------------------------------


def near_vectors(vectors: Vectors, seed: int, threshold: float = COSINE) -> Pairs:
    """Pairs of rows of `vectors` (n, d) whose cosine is at least the threshold; zero vectors are like nothing."""
    lengths = lengths_of(vectors)
    rows = np.flatnonzero(lengths > 0)
    unit: Vectors = np.divide(vectors[rows], lengths[rows, None], dtype=np.float32, casting="same_kind")
    if len(rows) < 2:
        return []
    flat = _projected(unit, seed)
    found: Pairs = []
    for start in range(0, len(rows), _BLOCK):
        stop = min(start + _BLOCK, len(rows))
        alike = flat[start:stop] @ flat[:stop].T
        alike[np.arange(stop) >= np.arange(start, stop)[:, None]] = -2.0  # only earlier ones
        best = alike.argmax(axis=1)
        for i in np.flatnonzero(alike[np.arange(stop - start), best] >= threshold - _MARGIN):
            a, b = start + int(i), int(best[i])
            cosine = float(unit[a].astype(np.float64) @ unit[b].astype(np.float64))
            if a != b and cosine >= threshold:
                found.append((int(rows[a]), int(rows[b]), min(cosine, 1.0)))
    return found


def _projected(unit: Vectors, seed: int) -> Vectors:
    """Unit rows (n, d) in fewer dimensions, unit again: cosines near 1 stay near 1."""
    if unit.shape[1] <= _PROJECTED:
        return unit
    projection = GaussianRandomProjection(_PROJECTED, random_state=seed % 2**32)
    flat = np.asarray(projection.fit_transform(unit), np.float32)
    lengths = np.linalg.norm(flat, axis=1, keepdims=True)
    scaled: Vectors = np.divide(flat, lengths, out=np.zeros_like(flat), where=lengths > 0)
    return scaled


# -- documents -----------------------------------------------------------------------------------------------------


def near_documents(documents: list[str | None], threshold: float = JACCARD) -> Pairs:
    """Pairs of documents whose runs of five characters overlap by at least the threshold (Jaccard)."""
    runs = {i: found for i, text in enumerate(documents) if text and (found := _runs(text)).size}
    best: dict[int, tuple[float, int]] = {}
    for a, b in _candidates(runs):
        shared = np.intersect1d(runs[a], runs[b], assume_unique=True).size
        similarity = shared / (runs[a].size + runs[b].size - shared)
        if similarity >= threshold:
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


def _candidates(runs: dict[int, npt.NDArray[np.uint64]]) -> list[tuple[int, int]]:
    """Pairs (row, earlier row) that share a band of their MinHash signatures; each row with the band's first and last."""
    if len(runs) < 2:
        return []
    order = np.asarray(sorted(runs), np.intp)
    every = np.concatenate([runs[i] for i in order.tolist()])
    starts = np.concatenate([[0], np.cumsum([runs[i].size for i in order.tolist()])[:-1]])
    rng = np.random.default_rng(_RUN)
    factors = rng.integers(1, 2**63, _BANDS * _ROWS, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    mixed = every ^ (every >> np.uint64(31))
    pairs: dict[tuple[int, int], None] = {}
    for band in range(_BANDS):
        parts = [np.minimum.reduceat(_mix(mixed, factors[band * _ROWS + k]), starts) for k in range(_ROWS)]
        first: dict[tuple[int, ...], tuple[int, int]] = {}
        for row, key in zip(order.tolist(), zip(*(p.tolist() for p in parts), strict=True), strict=True):
            if key in first:
                one, last = first[key]
                pairs |= {(row, one): None, (row, last): None}
            first[key] = (first[key][0] if key in first else row, row)
        if len(pairs) > _CANDIDATES:
            break
    return sorted(pairs)[:_CANDIDATES]


def _mix(hashes: npt.NDArray[np.uint64], factor: np.uint64) -> npt.NDArray[np.uint64]:
    """Another order of the same hashes for each odd factor."""
    product = hashes * factor
    return product ^ (product >> np.uint64(29))

"""The comparator: the chunks that snapshot and schema expect in a collection, against those that the target returns.

Everything that `compare` reports is an unexplained difference. The only tolerances are measured behaviour of Chroma:

- vectors are bit-exact on l2 and ip; on cosine Chroma stores them normalised and multiplies back, so every component
  may move by 1–2 units in the last place at each write or read: 5e-7 relative, component by component (chroma-facts 4);
- floats in metadata may move by two units in the last place: 1.x moves a tenth of them by one as it writes them (chroma-facts 5);
- Chroma has no empty metadata: `{}` is sent as None, so the two are the same here;
- everything else is exact, types included: 1, 1.0 and True are three values, None and "" are two.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from helpers.chunks import ChunkBatch, Mask, Metadata, Vectors
from helpers.errors import one_line, short
from helpers.reason_codes import ReasonCode
from helpers.snapshots.export_journal import ahead
from helpers.stores import RETRY_AFTER, Reader, Space, distance

COSINE_TOLERANCE = 5e-7
FLOAT_UNITS = 2  # in the last place of a double
READERS = 2  # of a server nearby; measured: 1.6 times one reader, a third adds nothing
COLUMNS = ["id", "difference", "field", "detail"]
CONTENT = (  # differences in the content of a chunk, without those of its vector and of the types of its values
    ReasonCode.DOCUMENT_DIFFERS,
    ReasonCode.URI_DIFFERS,
    ReasonCode.METADATA_DIFFERS,
    ReasonCode.FIELD_MISSING,
    ReasonCode.FIELD_EXTRA,
)

_UNDERFLOW = 1.2e-38  # float32's smallest normal number: below it a normalised component loses its relative precision
_NEAR, _FAR = 10, 1_000  # neighbours requested by a probe, and by its second try
_NOISE = 1e-5  # two float32 sums of one distance differ by less, relative to the product of the norms
_SUSPECTS = 64  # wrong vectors kept for each batch to find whose vector they are

Floats = npt.NDArray[np.float64]
Row = tuple[str, str, str, str]


@dataclass(frozen=True, slots=True)
class WrongVectors:
    """At most 64 vectors of a batch that differ: ids, the expected and the actual vectors, each (n, d) float32."""

    ids: list[str]
    expected: Vectors
    actual: Vectors


@dataclass(frozen=True, slots=True)
class Measures:
    """One float64 for each chunk whose vector could be read on both sides, in the order of `ids`.

    `distances`: from source to target in the collection's space. `relative`: |a - b| / |a| (0 where both are zero, inf where
    only the source's is). `mismatched`: `relative` of pairs that do not belong together, the reference of the plots.
    """

    ids: list[str]
    distances: Floats
    relative: Floats
    norms_expected: Floats
    norms_actual: Floats
    mismatched: Floats


@dataclass(frozen=True, slots=True)
class Pair:
    """A batch as expected, the actual chunks of its ids, and a frame of differences: id, difference (a reason code), field,
    detail. `left` and `right`: the chunks of both sides, aligned. `wrong`: vectors that differ; None where none does."""

    expected: ChunkBatch
    actual: ChunkBatch
    space: Space
    differences: pd.DataFrame
    left: ChunkBatch
    right: ChunkBatch
    wrong: WrongVectors | None

    def measured(self) -> Measures:
        """Return the distances that the plots need."""
        left, right, empty = self.left, self.right, np.zeros(0, np.float64)
        if not len(left) or left.dimension != right.dimension or not left.dimension:
            return Measures([], empty, empty, empty, empty, empty)
        usable = np.isfinite(left.embeddings).all(axis=1) & np.isfinite(right.embeddings).all(axis=1)
        index = np.flatnonzero(usable)
        a, b = left.embeddings[index].astype(np.float64), right.embeddings[index].astype(np.float64)
        norms_expected, norms_actual = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
        gap = np.linalg.norm(a - b, axis=1)
        distances = distance(self.space, a, b)
        if self.space == "cosine":  # zero on both sides is no difference, though a zero vector has no direction
            distances = np.where((norms_expected == 0) & (norms_actual == 0), 0.0, distances)
        with np.errstate(divide="ignore", invalid="ignore"):
            relative = np.where(gap == 0, 0.0, gap / norms_expected)
            mismatched = np.linalg.norm(a - np.roll(b, 1, axis=0), axis=1) / norms_expected if len(index) > 1 else empty
        return Measures([left.ids[i] for i in index], distances, relative, norms_expected, norms_actual, mismatched)

    def differing(self) -> dict[str, bool]:
        """Return the ids of chunks that differ, and for each whether the store lacks it."""
        missing = set(self.differences.loc[self.differences["difference"] == ReasonCode.CHUNK_MISSING, "id"])
        return {chunk: chunk in missing for chunk in dict.fromkeys(self.differences["id"])}


def compared(
    store: Reader | None,
    name: str,
    batches: Iterable[ChunkBatch],
    space: Space,
    *,
    readers: int = 1,
    live: bool = False,
) -> Iterator[Pair]:
    """Compare a collection with its expected batches, in order, `readers` batches at a time.

    Without a `store` every chunk is missing. `live`: clients write meanwhile, so a vector that is missing is read again.
    """

    def pair(batch: ChunkBatch) -> Pair:
        if store is None:
            actual = ChunkBatch.empty(batch.dimension)
        else:
            actual = _read_patiently(store, name, batch) if live else store.read(name, batch.ids)
        return compare(batch, actual, space)

    return map(pair, batches) if readers < 2 else ahead(pair, batches, readers)


def _read_patiently(store: Reader, name: str, wanted: ChunkBatch) -> ChunkBatch:
    actual = store.read(name, wanted.ids)
    with_vector = {chunk for chunk, lost in zip(wanted.ids, wanted.lost, strict=True) if not lost}
    for seconds in RETRY_AFTER:
        hidden = [i for i, lost in enumerate(actual.lost) if lost and actual.ids[i] in with_vector]
        if not hidden:
            break
        time.sleep(seconds)
        reread = store.read(name, [actual.ids[i] for i in hidden])
        rest = actual.take(i for i in range(len(actual)) if i not in set(hidden))
        actual = ChunkBatch.concatenate([rest, reread]) if len(rest) else reread
    return actual


def compare(expected: ChunkBatch, actual: ChunkBatch, space: Space) -> Pair:
    """Compare every chunk of `expected` with the chunk of the same id in `actual`, in any order."""
    rows: list[Row] = []
    actual_at: dict[str, int] = {}
    for position, chunk in enumerate(actual.ids):
        if actual_at.setdefault(chunk, position) != position:
            rows.append((chunk, ReasonCode.CHUNK_DOUBLED, "", "the target gives this id more than once"))
    expected_at: dict[str, int] = {}
    for position, chunk in enumerate(expected.ids):
        if expected_at.setdefault(chunk, position) != position:
            rows.append((chunk, ReasonCode.CHUNK_DOUBLED, "", "two chunks of the source have this id"))
    rows += [
        (chunk, ReasonCode.CHUNK_MISSING, "", "not in the target") for chunk in expected_at if chunk not in actual_at
    ]
    detail = "in the target, but not expected there"
    rows += [(chunk, ReasonCode.CHUNK_EXTRA, "", detail) for chunk in actual_at if chunk not in expected_at]
    pairs = [(i, actual_at[chunk]) for chunk, i in expected_at.items() if chunk in actual_at]
    left, right = expected.take(i for i, _ in pairs), actual.take(j for _, j in pairs)
    wrong = _vectors(left, right, space, rows)
    for code, field, before, after in (
        (ReasonCode.DOCUMENT_DIFFERS, "document", left.documents, right.documents),
        (ReasonCode.URI_DIFFERS, "uri", left.uris, right.uris),
    ):
        texts = zip(left.ids, before, after, strict=True)
        rows += [(chunk, code, field, _changed(old, new)) for chunk, old, new in texts if old != new]
    for chunk, old, new in zip(left.ids, left.metadatas, right.metadatas, strict=True):
        rows += [(chunk, *difference) for difference in metadata_differences(old, new)]
    differences = pd.DataFrame(rows, columns=COLUMNS, dtype=object)
    return Pair(expected, actual, space, differences, left, right, wrong)


# Vectors


def same_vectors(expected: Vectors, actual: Vectors, space: Space) -> Mask:
    """Return which components (n, d) agree: bit for bit, or on cosine within 5e-7 relative (zero stays zero)."""
    bits: Mask = np.ascontiguousarray(expected).view(np.uint32) == np.ascontiguousarray(actual).view(np.uint32)
    if space != "cosine" or bits.all():
        return bits
    rows = np.flatnonzero(~bits.all(axis=1))  # float64 copies of these rows only
    a, b = expected[rows].astype(np.float64), actual[rows].astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        floor = _UNDERFLOW * np.linalg.norm(a, axis=1, keepdims=True)
        bits[rows] |= np.abs(a - b) <= COSINE_TOLERANCE * np.abs(a) + floor
    return bits


def _vectors(left: ChunkBatch, right: ChunkBatch, space: Space, rows: list[Row]) -> WrongVectors | None:
    if left.lost.all() and right.lost.all():  # without vectors there is no dimension
        return None
    if left.dimension != right.dimension:
        detail = f"{right.dimension} dimensions instead of {left.dimension}"
        rows += [(chunk, ReasonCode.VECTOR_DIFFERS, "", detail) for chunk in left.ids]
        return None
    agree = same_vectors(left.embeddings, right.embeddings, space)
    differing = np.flatnonzero(~agree.all(axis=1) | (right.lost & ~left.lost))
    if not len(differing):
        return None
    named = [i for i in differing if not right.lost[i]][:_SUSPECTS]
    wrong = WrongVectors([left.ids[i] for i in named], left.embeddings[named], right.embeddings[named])
    owner_of = owners([wrong], space)
    for i in differing:
        chunk = left.ids[i]
        if right.lost[i]:
            rows.append((chunk, ReasonCode.VECTOR_DIFFERS, "", "the target lists the id but cannot give its vector"))
            continue
        detail = _component(left.embeddings[i], right.embeddings[i], agree[i])
        detail += f"; {owner_sentence(owner_of[chunk])}" if chunk in owner_of else ""
        rows.append((chunk, ReasonCode.VECTOR_DIFFERS, "", detail))
    return wrong


def owner_sentence(chunk: str) -> str:
    """Return the sentence that names whose vector it is."""
    return f"this is the vector of id {one_line(chunk, 200)}"


def _component(a: Vectors, b: Vectors, same: Mask) -> str:
    with np.errstate(invalid="ignore", over="ignore"):
        gap = np.where(same, -1.0, np.abs(a.astype(np.float64) - b.astype(np.float64)))
    place = int(np.argmax(np.where(np.isnan(gap), np.inf, gap)))
    differing = int((~same).sum())
    others = "" if differing == 1 else f" ({differing:,} components differ, this one most)"
    return f"component {place}: {float(a[place])!r} became {float(b[place])!r}{others}"


def owners(suspects: Sequence[WrongVectors], space: Space) -> dict[str, str]:
    """Return for each wrong vector that belongs to another suspect: id → the id to which it belongs (swapped vectors)."""
    own_vectors: dict[bytes, list[tuple[str, Vectors]]] = {}
    for batch in suspects:
        for chunk, vector in zip(batch.ids, batch.expected, strict=True):
            own_vectors.setdefault(_coarse(vector, space), []).append((chunk, vector))
    owner_of: dict[str, str] = {}
    for batch in suspects:
        for chunk, vector in zip(batch.ids, batch.actual, strict=True):
            for owner, candidate in own_vectors.get(_coarse(vector, space), []):
                is_same = candidate.shape == vector.shape and same_vectors(candidate[None], vector[None], space).all()
                if is_same and owner != chunk:
                    owner_of[chunk] = owner
                    break
    return owner_of


def _coarse(vector: Vectors, space: Space) -> bytes:
    """Return a key that equal vectors share: their bits, or on cosine the signs, which rounding does not change."""
    return bytes(np.signbit(vector + np.float32(0)).tobytes() if space == "cosine" else vector.tobytes())


# Documents, uris, metadata


def metadata_differences(expected: Metadata | None, actual: Metadata | None) -> list[tuple[str, str, str]]:
    """Return (reason code, field, detail) for each field in which the two differ."""
    old, new = expected or {}, actual or {}
    differences = [(ReasonCode.FIELD_MISSING, k, f"{show(v)} is missing") for k, v in old.items() if k not in new]
    differences += [(ReasonCode.FIELD_EXTRA, k, f"{show(v)} was not expected") for k, v in new.items() if k not in old]
    for key, value in old.items():
        if key in new and not same_value(value, new[key]):
            code = ReasonCode.METADATA_DIFFERS if _kind(value) == _kind(new[key]) else ReasonCode.TYPE_DIFFERS
            differences.append((code, key, _changed(value, new[key])))
    return sorted(differences, key=lambda difference: (difference[1], difference[0]))


def same_value(a: Any, b: Any) -> bool:
    """Return whether two values are equal in type and value; floats within `FLOAT_UNITS`; lists item by item, in order."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        # Also where both are NaN or the same infinity.
        return bool(a == b or (a != a and b != b) or abs(a - b) <= FLOAT_UNITS * math.ulp(max(abs(a), abs(b))) < np.inf)
    if isinstance(a, list):
        return len(a) == len(b) and all(same_value(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def _kind(value: Any) -> str:
    """Return the type of a value for a reader: `list of int` rather than list."""
    return f"list of {type(value[0]).__name__}" if isinstance(value, list) and value else type(value).__name__


def _changed(old: Any, new: Any) -> str:
    if _kind(old) != _kind(new) and old is not None and new is not None:
        return f"{show(old)} ({_kind(old)}) became {show(new)} ({_kind(new)})"
    if isinstance(old, str) and isinstance(new, str):
        place = next((i for i, (x, y) in enumerate(zip(old, new, strict=False)) if x != y), min(len(old), len(new)))
        if place > 40:
            return f"from character {place}: {show(old[place:])} became {show(new[place:])}"
    return f"{show(old)} became {show(new)}"


def show(value: Any) -> str:
    """Return a value as one short line, foreign text escaped."""
    if isinstance(value, str) and len(value) > 60:
        return f"{short(value, 60)} ({len(value):,} characters)"
    return short(value, 120)


# Search by a chunk's own vector


def unreachable(store: Reader, name: str, batch: ChunkBatch, space: Space) -> list[str]:
    """Return the ids of chunks that a query by their own vector does not return, nor as many others that are as near.

    Among nearly parallel vectors the own one may have any rank; on cosine and ip a zero vector is not asked for.
    """
    norms = np.linalg.norm(batch.embeddings.astype(np.float64), axis=1) if len(batch) else np.zeros(0)
    pending = [i for i in range(len(batch)) if norms[i] > 0 or space == "l2"]
    for k in (_NEAR, _FAR):
        if pending:
            asked = batch.take(pending)
            own_distances = distance(space, asked.embeddings, asked.embeddings)
            answers = store.query(name, asked.embeddings, k)
            limit = min(k, store.limits().query_results)
            scale = np.square(norms[pending]) if space != "cosine" else np.ones(len(pending))
            reached = [
                any(chunk == i for i, _ in hits) or (len(hits) >= limit and hits[-1][1] <= own + _NOISE * size)
                for chunk, hits, own, size in zip(asked.ids, answers, own_distances, scale, strict=True)
            ]
            pending = [row for row, ok in zip(pending, reached, strict=True) if not ok]
    return [batch.ids[i] for i in pending]

"""Chunk by chunk: what the snapshot and the schema say a collection holds, against what the target gives back.

Fidelity has no degrees: everything that `compare` reports is a difference that nobody explained. What may differ, and
by how much, is measured behaviour of Chroma and written down here once:

- vectors are bit-exact on l2 and ip; on cosine Chroma stores them normalised and multiplies back, so every component
  may move by 1–2 units in the last place at each crossing: 5e-7 relative, component by component (chroma-facts 4);
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
from helpers.stores import AGAIN_AFTER, Reader, Space, distance

COSINE_TOLERANCE = 5e-7
FLOAT_UNITS = 2  # in the last place of a double
READERS = 2  # of a server nearby; measured: 1.6 times one reader, a third adds nothing
COLUMNS = ["id", "difference", "field", "detail"]
CONTENT = (  # the differences in what a chunk says; those of its vector and of the types of its values are others
    ReasonCode.DOCUMENT_DIFFERS,
    ReasonCode.URI_DIFFERS,
    ReasonCode.METADATA_DIFFERS,
    ReasonCode.FIELD_MISSING,
    ReasonCode.FIELD_EXTRA,
)

_UNDERFLOW = 1.2e-38  # float32's smallest normal number: below it a normalised component loses its relative precision
_NEAR, _FAR = 10, 1_000  # neighbours asked for by a probe, and by its second try
_NOISE = 1e-5  # two float32 sums of one distance differ by less, relative to the product of the norms
_SUSPECTS = 64  # wrong vectors kept per batch to say whose vector they are

Floats = npt.NDArray[np.float64]
Row = tuple[str, str, str, str]


@dataclass(frozen=True, slots=True)
class WrongVectors:
    """At most 64 vectors of a batch that differ: ids, what was expected, what was found; (n, d) float32 each."""

    ids: list[str]
    expected: Vectors
    found: Vectors


@dataclass(frozen=True, slots=True)
class Measures:
    """One float64 for each chunk whose vector could be read on both sides, in the order of `ids`.

    `distances` from source to target in the collection's space; `relative` is |a - b| / |a| (0 where both are zero, inf where
    only the source's is); `mismatched` is `relative` for pairs that do not belong together, the null that a plot needs.
    """

    ids: list[str]
    distances: Floats
    relative: Floats
    norms_expected: Floats
    norms_found: Floats
    mismatched: Floats


@dataclass(frozen=True, slots=True)
class Pair:
    """A batch as it should be, what is there for its ids, and what differs: a frame of id, difference (a reason code), field,
    detail, empty where all is well. `left` and `right` are the chunks that both have, aligned; `wrong` vectors that differ."""

    expected: ChunkBatch
    found: ChunkBatch
    space: Space
    differences: pd.DataFrame
    left: ChunkBatch
    right: ChunkBatch
    wrong: WrongVectors | None

    def measured(self) -> Measures:
        """The distances that the plots need."""
        left, right, none = self.left, self.right, np.zeros(0, np.float64)
        if not len(left) or left.dimension != right.dimension or not left.dimension:
            return Measures([], none, none, none, none, none)
        usable = np.isfinite(left.embeddings).all(axis=1) & np.isfinite(right.embeddings).all(axis=1)
        index = np.flatnonzero(usable)
        a, b = left.embeddings[index].astype(np.float64), right.embeddings[index].astype(np.float64)
        before, after = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
        gap = np.linalg.norm(a - b, axis=1)
        distances = distance(self.space, a, b)
        if self.space == "cosine":  # a zero vector that arrived as zero has moved nowhere, whatever its direction
            distances = np.where((before == 0) & (after == 0), 0.0, distances)
        with np.errstate(divide="ignore", invalid="ignore"):
            relative = np.where(gap == 0, 0.0, gap / before)
            mismatched = np.linalg.norm(a - np.roll(b, 1, axis=0), axis=1) / before if len(index) > 1 else none
        return Measures([left.ids[i] for i in index], distances, relative, before, after, mismatched)

    def differing(self) -> dict[str, bool]:
        """The ids of chunks that differ, and whether the store lacks them."""
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
    """Batch by batch what a collection should hold against what it holds, in order, `readers` batches at a time.

    Without a `store` every chunk is missing. `live`: clients write meanwhile, so a vector that cannot be found is asked for
    again.
    """

    def pair(batch: ChunkBatch) -> Pair:
        if store is None:
            found = ChunkBatch.empty(batch.dimension)
        else:
            found = _read_patiently(store, name, batch) if live else store.read(name, batch.ids)
        return compare(batch, found, space)

    return map(pair, batches) if readers < 2 else ahead(pair, batches, readers)


def _read_patiently(store: Reader, name: str, wanted: ChunkBatch) -> ChunkBatch:
    found = store.read(name, wanted.ids)
    had = {chunk for chunk, lost in zip(wanted.ids, wanted.lost, strict=True) if not lost}
    for seconds in AGAIN_AFTER:
        hidden = [i for i, lost in enumerate(found.lost) if lost and found.ids[i] in had]
        if not hidden:
            break
        time.sleep(seconds)
        again = store.read(name, [found.ids[i] for i in hidden])
        kept = found.take(i for i in range(len(found)) if i not in set(hidden))
        found = ChunkBatch.concatenate([kept, again]) if len(kept) else again
    return found


def compare(expected: ChunkBatch, found: ChunkBatch, space: Space) -> Pair:
    """Every chunk of `expected` against the chunk of the same id in `found`, in any order."""
    rows: list[Row] = []
    first: dict[str, int] = {}
    for position, chunk in enumerate(found.ids):
        if first.setdefault(chunk, position) != position:
            rows.append((chunk, ReasonCode.CHUNK_DOUBLED, "", "the target gives this id more than once"))
    wanted: dict[str, int] = {}
    for position, chunk in enumerate(expected.ids):
        if wanted.setdefault(chunk, position) != position:
            rows.append((chunk, ReasonCode.CHUNK_DOUBLED, "", "two chunks of the source have this id"))
    rows += [(chunk, ReasonCode.CHUNK_MISSING, "", "not in the target") for chunk in wanted if chunk not in first]
    extra = "in the target, but not expected there"
    rows += [(chunk, ReasonCode.CHUNK_EXTRA, "", extra) for chunk in first if chunk not in wanted]
    pairs = [(i, first[chunk]) for chunk, i in wanted.items() if chunk in first]
    left, right = expected.take(i for i, _ in pairs), found.take(j for _, j in pairs)
    wrong = _vectors(left, right, space, rows)
    for code, field, before, after in (
        (ReasonCode.DOCUMENT_DIFFERS, "document", left.documents, right.documents),
        (ReasonCode.URI_DIFFERS, "uri", left.uris, right.uris),
    ):
        texts = zip(left.ids, before, after, strict=True)
        rows += [(chunk, code, field, _changed(was, now)) for chunk, was, now in texts if was != now]
    for chunk, was, now in zip(left.ids, left.metadatas, right.metadatas, strict=True):
        rows += [(chunk, *difference) for difference in metadata_differences(was, now)]
    differences = pd.DataFrame(rows, columns=COLUMNS, dtype=object)
    return Pair(expected, found, space, differences, left, right, wrong)


# Vectors


def same_vectors(expected: Vectors, found: Vectors, space: Space) -> Mask:
    """Which components (n, d) agree: bit for bit, or on cosine within 5e-7 relative (zero stays zero)."""
    bits: Mask = np.ascontiguousarray(expected).view(np.uint32) == np.ascontiguousarray(found).view(np.uint32)
    if space != "cosine" or bits.all():
        return bits
    rows = np.flatnonzero(~bits.all(axis=1))  # float64 copies of these rows only
    a, b = expected[rows].astype(np.float64), found[rows].astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        floor = _UNDERFLOW * np.linalg.norm(a, axis=1, keepdims=True)
        bits[rows] |= np.abs(a - b) <= COSINE_TOLERANCE * np.abs(a) + floor
    return bits


def _vectors(left: ChunkBatch, right: ChunkBatch, space: Space, rows: list[Row]) -> WrongVectors | None:
    if left.lost.all() and right.lost.all():  # no vectors at all have no length either
        return None
    if left.dimension != right.dimension:
        detail = f"{right.dimension} dimensions instead of {left.dimension}"
        rows += [(chunk, ReasonCode.VECTOR_DIFFERS, "", detail) for chunk in left.ids]
        return None
    agree = same_vectors(left.embeddings, right.embeddings, space)
    bad = np.flatnonzero(~agree.all(axis=1) | (right.lost & ~left.lost))
    if not len(bad):
        return None
    kept = [i for i in bad if not right.lost[i]][:_SUSPECTS]
    wrong = WrongVectors([left.ids[i] for i in kept], left.embeddings[kept], right.embeddings[kept])
    whose = owners([wrong], space)
    for i in bad:
        chunk = left.ids[i]
        if right.lost[i]:
            rows.append((chunk, ReasonCode.VECTOR_DIFFERS, "", "the target lists the id but cannot give its vector"))
            continue
        detail = _component(left.embeddings[i], right.embeddings[i], agree[i])
        detail += f"; {owned(whose[chunk])}" if chunk in whose else ""
        rows.append((chunk, ReasonCode.VECTOR_DIFFERS, "", detail))
    return wrong


def owned(chunk: str) -> str:
    """The sentence that names whose vector it is."""
    return f"this is the vector of id {one_line(chunk, 200)}"


def _component(a: Vectors, b: Vectors, agree: Mask) -> str:
    with np.errstate(invalid="ignore", over="ignore"):
        gap = np.where(agree, -1.0, np.abs(a.astype(np.float64) - b.astype(np.float64)))
    at = int(np.argmax(np.where(np.isnan(gap), np.inf, gap)))
    number = int((~agree).sum())
    more = "" if number == 1 else f" ({number:,} components differ, this one most)"
    return f"component {at}: {float(a[at])!r} became {float(b[at])!r}{more}"


def owners(suspects: Sequence[WrongVectors], space: Space) -> dict[str, str]:
    """For each wrong vector that is another suspect's own vector: id → the id to which it belongs (swapped vectors)."""
    known: dict[bytes, list[tuple[str, Vectors]]] = {}
    for batch in suspects:
        for chunk, vector in zip(batch.ids, batch.expected, strict=True):
            known.setdefault(_coarse(vector, space), []).append((chunk, vector))
    whose: dict[str, str] = {}
    for batch in suspects:
        for chunk, vector in zip(batch.ids, batch.found, strict=True):
            for owner, own in known.get(_coarse(vector, space), []):
                alike = own.shape == vector.shape and same_vectors(own[None], vector[None], space).all()
                if alike and owner != chunk:
                    whose[chunk] = owner
                    break
    return whose


def _coarse(vector: Vectors, space: Space) -> bytes:
    """A key that equal vectors share: their bits, or on cosine the signs, which rounding does not turn."""
    return bytes(np.signbit(vector + np.float32(0)).tobytes() if space == "cosine" else vector.tobytes())


# Documents, uris, metadata


def metadata_differences(expected: Metadata | None, found: Metadata | None) -> list[tuple[str, str, str]]:
    """(reason code, field, detail) for each field in which the two differ."""
    was, now = expected or {}, found or {}
    out = [(ReasonCode.FIELD_MISSING, k, f"{show(v)} is missing") for k, v in was.items() if k not in now]
    out += [(ReasonCode.FIELD_EXTRA, k, f"{show(v)} was not expected") for k, v in now.items() if k not in was]
    for key, value in was.items():
        if key in now and not same_value(value, now[key]):
            code = ReasonCode.METADATA_DIFFERS if _kind(value) == _kind(now[key]) else ReasonCode.TYPE_DIFFERS
            out.append((code, key, _changed(value, now[key])))
    return sorted(out, key=lambda difference: (difference[1], difference[0]))


def same_value(a: Any, b: Any) -> bool:
    """Equal in type and value; floats within `FLOAT_UNITS`; lists item by item, in order."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        # Also where both are NaN or the same infinity.
        return bool(a == b or (a != a and b != b) or abs(a - b) <= FLOAT_UNITS * math.ulp(max(abs(a), abs(b))) < np.inf)
    if isinstance(a, list):
        return len(a) == len(b) and all(same_value(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def _kind(value: Any) -> str:
    """The type of a value for a reader: `list of int` rather than list."""
    return f"list of {type(value[0]).__name__}" if isinstance(value, list) and value else type(value).__name__


def _changed(was: Any, now: Any) -> str:
    if _kind(was) != _kind(now) and was is not None and now is not None:
        return f"{show(was)} ({_kind(was)}) became {show(now)} ({_kind(now)})"
    if isinstance(was, str) and isinstance(now, str):
        at = next((i for i, (x, y) in enumerate(zip(was, now, strict=False)) if x != y), min(len(was), len(now)))
        if at > 40:
            return f"from character {at}: {show(was[at:])} became {show(now[at:])}"
    return f"{show(was)} became {show(now)}"


def show(value: Any) -> str:
    """A value as one short safe line; foreign text cannot break out of it."""
    if isinstance(value, str) and len(value) > 60:
        return f"{short(value, 60)} ({len(value):,} characters)"
    return short(value, 120)


# Found by its own vector


def unreachable(store: Reader, name: str, batch: ChunkBatch, space: Space) -> list[str]:
    """Ids of chunks that a query by their own vector does not find, nor as many others that are as near.

    Among nearly parallel vectors the own one may stand anywhere; a zero vector has no direction to be found in.
    """
    norms = np.linalg.norm(batch.embeddings.astype(np.float64), axis=1) if len(batch) else np.zeros(0)
    left = [i for i in range(len(batch)) if norms[i] > 0 or space == "l2"]
    for k in (_NEAR, _FAR):
        if left:
            some = batch.take(left)
            own = distance(space, some.embeddings, some.embeddings)
            answers = store.query(name, some.embeddings, k)
            most = min(k, store.limits().query_results)
            scale = np.square(norms[left]) if space != "cosine" else np.ones(len(left))
            found = [
                any(chunk == i for i, _ in near) or (len(near) >= most and near[-1][1] <= mine + _NOISE * size)
                for chunk, near, mine, size in zip(some.ids, answers, own, scale, strict=True)
            ]
            left = [row for row, there in zip(left, found, strict=True) if not there]
    return [batch.ids[i] for i in left]

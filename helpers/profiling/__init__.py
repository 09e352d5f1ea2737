"""Exploring the source (notebook 11): a sample that fits into memory, the places of each finding, and what it means.

Counts are exact and come from the one pass over the source (`profiling.profile`). What compares chunks with each other
works on the sample, and of the places the first are in memory: a source of a million chunks fits into as much.

The sample is chosen by seeded hashes, the same whatever the order of reading: of each collection the chunks with the
smallest hashes of (seed, collection, id) are kept, so every chunk has the same chance, and no random number is drawn. Up to
`MOST` chunks and `MOST_BYTES` of vectors the sample is the whole source.
"""

from __future__ import annotations

import json
import shutil
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from functools import cached_property, partial
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from helpers.chunks import ChunkBatch, Metadata, Vectors
from helpers.errors import one_line
from helpers.formatting import count
from helpers.reason_codes import ReasonCode
from helpers.stores import CollectionInfo


def plain_text(document: str) -> str:
    """The text in one case, with single spaces and in one Unicode form (NFKC), for comparisons."""
    return " ".join(unicodedata.normalize("NFKC", document).casefold().split())


KEPT = 5_000  # places of a finding that are in memory
DETAIL = 120  # characters


@dataclass(frozen=True, slots=True)
class Place:
    """A chunk with a finding, and the detail of it."""

    collection: str
    id: str
    detail: str = ""


class Places:
    """The places of findings. `counts`: by finding and collection; `every`: all places of one, in the order of reading.

    Each finding keeps the first `kept` places in memory; the others go into `folder`, which is emptied first.
    """

    def __init__(self, folder: Path, kept: int = KEPT) -> None:
        self._folder, self._most = folder, kept
        self.counts: dict[str, Counter[str]] = defaultdict(Counter)
        self._first: dict[str, list[Place]] = defaultdict(list)
        self._waiting: dict[str, list[Place]] = defaultdict(list)
        shutil.rmtree(folder, ignore_errors=True)

    def note(self, finding: str, collection: str, chunk: str, detail: str = "") -> None:
        self.counts[finding][collection] += 1
        place = Place(collection, chunk, one_line(detail, DETAIL))
        if len(self._first[finding]) < self._most:
            self._first[finding].append(place)
            return
        self._waiting[finding].append(place)
        if len(self._waiting[finding]) >= self._most:
            self._folder.mkdir(parents=True, exist_ok=True)
            with self._file(finding).open("a", encoding="ascii") as file:
                file.writelines(json.dumps(astuple(place)) + "\n" for place in self._waiting.pop(finding))

    def every(self, finding: str) -> Iterator[Place]:
        """All places of the finding, in the order of reading."""
        yield from self._first.get(finding, ())
        if self._file(finding).exists():
            with self._file(finding).open(encoding="ascii") as file:
                yield from (Place(*json.loads(line)) for line in file)
        yield from self._waiting.get(finding, ())

    def total(self, finding: str) -> int:
        """The number of chunks (of colliding ids: of places) that have it."""
        return self.counts[finding].total() if finding in self.counts else 0

    def _file(self, finding: str) -> Path:
        return self._folder / f"{blake2b(finding.encode('utf-8', 'surrogatepass'), digest_size=16).hexdigest()}.jsonl"


MOST = 10_000  # chunks
MOST_BYTES = 64 * 2**20  # of vectors
LEAST = 50  # of a collection, if there is room for so many of each
TEXT = 2_000  # characters of a document that are kept
VALUE = 500  # characters of a metadata value that are kept
FIELDS = 60  # metadata fields that become columns of the frame
OWN = ("collection", "id", "target", "document", "characters", "norm")  # columns that are no metadata


class SampledChunk(NamedTuple):
    """What the sample keeps of a chunk. `vector`: (d,) float32, NaN if it is lost; a view of the block that was read with it."""

    hashed: int
    id: str
    target: str
    document: str | None
    characters: int
    metadata: Metadata | None
    vector: Vectors


class Sampler:
    """Draws the sample from all batches of the pass. `parts`, by collection, never hold more than twice the sample."""

    def __init__(self, infos: Sequence[CollectionInfo], seed: int, most: int = MOST) -> None:
        self.seed = seed
        self.quotas = quotas(infos, most)
        self.parts: dict[str, list[SampledChunk]] = {info.name: [] for info in infos}
        self._limits: dict[str, int] = {}  # hashes from here on are not kept any more

    def add(self, name: str, batch: ChunkBatch, targets: Sequence[str]) -> None:
        """Add the chunks of a batch of this collection that belong to the sample, by the limits so far."""
        part, limit = self.parts[name], self._limits.get(name, 2**64)
        texts = (f"{self.seed}/{name}/{chunk}".encode("utf-8", "surrogatepass") for chunk in batch.ids)
        hashes = [int.from_bytes(blake2b(text, digest_size=8).digest(), "big") for text in texts]
        chosen = [i for i, hashed in enumerate(hashes) if hashed < limit]
        for i, vector in zip(chosen, batch.embeddings[chosen], strict=True):
            document, metadata = batch.documents[i], _cut(batch.metadatas[i])
            beginning = document if document is None else document[:TEXT]
            part.append(
                SampledChunk(hashes[i], batch.ids[i], targets[i], beginning, len(document or ""), metadata, vector)
            )
        if len(part) > 2 * self.quotas[name]:
            self._prune(name)

    def _prune(self, name: str) -> None:
        part, quota = self.parts[name], self.quotas[name]
        if len(part) > quota:
            self._limits[name] = sorted(kept.hashed for kept in part)[quota - 1]
            few = (kept for kept in part if kept.hashed <= self._limits[name])
            self.parts[name] = [
                kept._replace(vector=kept.vector.copy()) for kept in few
            ]  # not the block it was read with

    def sample(self, total: int) -> Sample:
        """The sample of the `total` chunks that were added."""
        for name in self.parts:
            self._prune(name)
        return Sample(self.parts, total, self.seed)


def quotas(infos: Sequence[CollectionInfo], most: int = MOST) -> dict[str, int]:
    """How many chunks of each collection are kept: all, or shares by size with `LEAST` for the small ones."""
    widest = 4 * max((info.dimension or 0 for info in infos), default=0)
    room = max(1, min(most, MOST_BYTES // widest if widest else most))
    total = sum(info.count for info in infos)
    if total <= room:
        return {info.name: max(1, info.count) for info in infos}
    least = max(1, min(LEAST, room // len(infos)))
    return {info.name: max(min(info.count, least), room * info.count // total, 1) for info in infos}


class Sample:
    """The chunks of the sample, row by row; all methods and arrays use these rows in this order.

    `frame` has one row a chunk: collection, id, target (where the schema sends it), document (its beginning), characters (of
    the whole), norm (L2; NaN if the vector is lost or not finite), and one column for each metadata field (named
    `metadata.<field>` if it would hide one of the others).
    """

    def __init__(self, parts: dict[str, list[SampledChunk]], total: int, seed: int) -> None:
        self.parts, self.total, self.seed = parts, total, seed
        self._spaces = self._by_dimension()

    def __len__(self) -> int:
        return sum(map(len, self.parts.values()))

    @property
    def is_whole(self) -> bool:
        return len(self) == self.total

    @property
    def description(self) -> str:
        """The size of the sample, in a sentence for tables and figures."""
        if self.is_whole:
            return f"All {count(self.total, 'chunk')} were looked at."
        return f"A sample of {count(len(self))} of {count(self.total, 'chunk')}, by seeded hashes (seed {self.seed})."

    @cached_property
    def frame(self) -> pd.DataFrame:
        return self._framed(self.parts)

    def collection(self, name: str) -> pd.DataFrame:
        """The rows of one collection, without the columns that it leaves empty."""
        return self._framed({name: self.parts[name]}).drop(columns="collection")

    def _framed(self, parts: dict[str, list[SampledChunk]]) -> pd.DataFrame:
        chunks = [kept for part in parts.values() for kept in part]
        names = [name for name, part in parts.items() for _ in part]
        rows = [(name, k.id, k.target, k.document, k.characters, _norm(k.vector))
                for name, k in zip(names, chunks, strict=True)]  # fmt: skip
        frame = pd.DataFrame(rows, columns=list(OWN)).astype(
            dict.fromkeys(("collection", "id", "target", "document"), object) | {"characters": int, "norm": float}
        )
        key_counts = Counter(key for kept in chunks for key in kept.metadata or {})
        columns: dict[str, Any] = {}
        for key in sorted(sorted(key_counts), key=lambda key: -key_counts[key])[:FIELDS]:
            values = [(kept.metadata or {}).get(key) for kept in chunks]
            columns[f"metadata.{key}" if key in OWN else str(key)] = pd.Series(values, dtype=object).infer_objects()
        return pd.concat([frame, pd.DataFrame(columns)], axis="columns") if columns else frame

    def spaces(self) -> Iterator[tuple[int, npt.NDArray[np.intp], Vectors]]:
        """For each dimension: the dimension, the rows whose vectors have it, are finite and not zero, and those vectors (n, d).

        They are held once: the vectors of `parts` are their rows.
        """
        return iter(self._spaces)

    def _by_dimension(self) -> list[tuple[int, npt.NDArray[np.intp], Vectors]]:
        places = [(name, at) for name, part in self.parts.items() for at in range(len(part))]
        groups: dict[int, list[int]] = defaultdict(list)
        for row, (name, at) in enumerate(places):
            kept = self.parts[name][at]
            if kept.vector.size and np.isfinite(kept.vector).all() and kept.vector.any():
                groups[kept.vector.size].append(row)
            else:
                self.parts[name][at] = kept._replace(vector=kept.vector.copy())
        spaces = []
        for dimension, rows in sorted(groups.items()):
            vectors = np.empty((len(rows), dimension), np.float32)
            for i, row in enumerate(rows):  # one by one: each block that was read is free once its last row is here
                name, at = places[row]
                kept = self.parts[name][at]
                vectors[i] = kept.vector
                self.parts[name][at] = kept._replace(vector=vectors[i])
            spaces.append((dimension, np.array(rows, np.intp), vectors))
        return spaces


def _norm(vector: Vectors) -> float:
    """The L2 norm; NaN if the vector is lost or not finite."""
    return float(lengths_of(vector[None, :])[0]) if vector.size and np.isfinite(vector).all() else np.nan


def lengths_of(vectors: Vectors) -> npt.NDArray[np.float64]:
    """L2 norms (n,) of `vectors` (n, d), summed in float64 without a copy of them in it."""
    squares: npt.NDArray[np.float64] = np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64)
    return np.sqrt(squares)


def _cut(metadata: Metadata | None) -> Metadata | None:
    if metadata is None:
        return None
    return {k: v[:VALUE] if isinstance(v, str) and len(v) > VALUE else v for k, v in metadata.items()}


# -- findings ----------------------------------------------------------------------------------------------------------

# Findings by name: what each means, which reason code it has, which chunks are behind it

# A name, or its beginning before `_<field>` or ` <field> <rule>`: what it means, and the reason code of checks on it.
MEANINGS: dict[str, tuple[str, str]] = {
    "none_documents": ("no document (None)", ReasonCode.MISSING_DOCUMENT),
    "empty_documents": ("an empty document", ReasonCode.MISSING_DOCUMENT),
    "blank_documents": ("a document of nothing but spaces", ReasonCode.MISSING_DOCUMENT),
    "long_documents": ("a document of 100,000 characters or more", ""),
    "none_metadata": ("no metadata at all", ReasonCode.MISSING_METADATA),
    "lost_vectors": ("the store lists the chunk and cannot give its vector", ReasonCode.MISSING_EMBEDDING),
    "nonfinite_vectors": ("NaN or infinity in the vector", ReasonCode.NAN_EMBEDDING),
    "zero_vectors": ("a vector of zeros: on cosine equally far from everything, never found", ReasonCode.ZERO_VECTOR),
    "unnormalised_vectors": ("a norm other than 1, in a collection where others have 1", ""),
    "duplicate_documents": ("the same document, to the last letter, more than once", ReasonCode.DUPLICATES),
    "respaced_documents": ("the same document but for case, spaces or forms of letters", ReasonCode.DUPLICATES),
    "near_documents": ("nearly the same document (sample)", ReasonCode.DUPLICATES),
    "duplicate_vectors": ("the same vector, to the last bit, more than once", ReasonCode.DUPLICATES),
    "near_vectors": ("nearly the same vector (sample)", ReasonCode.DUPLICATES),
    "colliding_ids": ("an id that several collections use", ReasonCode.ID_COLLISION),
    "outliers": ("far from the others of its collection (sample)", ""),
    "cosine_trap": ("declared as another space than queries answer in: a copied configuration would search wrongly",
                    ReasonCode.DISTANCE_SPACE),
    "space_trap": ("as cosine_trap, and the space that queries answer in is not cosine", ReasonCode.DISTANCE_SPACE),
    "quarantined": ("set aside by the schema or the checks, for any reason", ReasonCode.QUARANTINED),
    "missing": ("the field is missing", ReasonCode.MISSING_METADATA),
    "wrong_type": ("a value of another type than the schema's", ReasonCode.INVALID_VALUES),
    "out_of_range": ("no number within the schema's range", ReasonCode.INVALID_SCORES),
    "unknown_value": ("a value that the schema does not list", ReasonCode.INVALID_VALUES),
    "contradicts": ("a value that the document rules out", ReasonCode.METADATA_CONTRADICTS),
    "repair": ("the schema would change the value", ""),
    "quarantine": ("would be set aside", ReasonCode.QUARANTINED),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class ChunkFinding:
    """A finding: the number of its chunks, and `every` place of it. A finding of groups has more places than chunks."""

    name: str
    chunks: int
    collections: int
    places: int
    every: Callable[[], Iterator[Place]]

    @property
    def meaning(self) -> str:
        return _meaning_and_reason(self.name)[0]

    @property
    def reason(self) -> str:
        return _meaning_and_reason(self.name)[1]

    @staticmethod
    def of(name: str, chunks: int, places: Sequence[Place]) -> ChunkFinding:
        return ChunkFinding(
            name, chunks, len({place.collection for place in places}), len(places), lambda: iter(places)
        )


def of_places(places: Places) -> list[ChunkFinding]:
    """The findings that the pass noted chunk by chunk."""
    return [
        ChunkFinding(name, counts.total(), len(counts), counts.total(), partial(places.every, name))
        for name, counts in places.counts.items()
    ]


def of_groups(name: str, groups: Iterable[list[tuple[str, ...]]]) -> ChunkFinding:
    """The finding of groups of equal chunks, (collection, id, …). All are places; all but the first of each group are counted."""
    groups = list(groups)

    def every() -> Iterator[Place]:
        for group in groups:
            first = f"group of {len(group)}: {group[0][0]}: {group[0][1]}"
            yield from (Place(place[0], place[1], first) for place in group)

    chunks = sum(map(len, groups))
    return ChunkFinding(
        name, chunks - len(groups), len({place[0] for group in groups for place in group}), chunks, every
    )


def is_finding(name: str) -> bool:
    """Whether there is a kind of finding of this name, in this source or not."""
    return _meaning_and_reason(name)[0] != name


def _meaning_and_reason(name: str) -> tuple[str, str]:
    if name in MEANINGS:
        return MEANINGS[name]
    start = next((key for key in MEANINGS if name.startswith((f"{key}_", f"{key} "))), "")
    return MEANINGS.get(start, (name, ""))

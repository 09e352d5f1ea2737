"""A sample of the source that fits into memory, and the places of each finding, of which the first fit into memory.

The sample is chosen by seeded hashes, the same whatever the order of reading: of each collection the chunks with the
smallest hashes of (seed, collection, id) are kept, so every chunk has the same chance, and no random number is drawn. Up to
`MOST` chunks and `MOST_BYTES` of vectors the sample is the whole source.
"""

from __future__ import annotations

import json
import shutil
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, field
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from helpers.chunks import ChunkBatch, Metadata, Vectors
from helpers.errors import one_line
from helpers.formatting import count
from helpers.stores import CollectionInfo


def plain_text(document: str) -> str:
    """The text but for case, spaces and the ways to write a letter (NFKC)."""
    return " ".join(unicodedata.normalize("NFKC", document).casefold().split())


KEPT = 5_000  # places of a finding that are in memory
DETAIL = 120  # characters


@dataclass(frozen=True, slots=True)
class Place:
    """One chunk, and what was found at it."""

    collection: str
    id: str
    detail: str = ""


class Places:
    """By finding: `counts` by collection, and `every` place in the order of reading. What does not fit in memory goes into
    `folder`, which is emptied first.
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
        """All that was noted of the finding."""
        yield from self._first.get(finding, ())
        if self._file(finding).exists():
            with self._file(finding).open(encoding="ascii") as file:
                yield from (Place(*json.loads(line)) for line in file)
        yield from self._waiting.get(finding, ())

    def total(self, finding: str) -> int:
        """How many chunks (or, of ids that meet, places of them) have it."""
        return self.counts[finding].total() if finding in self.counts else 0

    def _file(self, finding: str) -> Path:
        return self._folder / f"{blake2b(finding.encode('utf-8', 'surrogatepass'), digest_size=16).hexdigest()}.jsonl"


MOST = 10_000  # chunks
MOST_BYTES = 64 * 2**20  # of vectors
LEAST = 50  # of a collection, where there is room for so many of each
TEXT = 2_000  # characters of a document that are kept
VALUE = 500  # characters of a metadata value that are kept
FIELDS = 60  # metadata fields that become columns of the frame
OWN = ("collection", "id", "target", "document", "characters", "norm")  # columns that are no metadata


@dataclass(slots=True)
class Part:
    """What is kept of one collection: n chunks. `vectors` is (n, d) float32, NaN where a vector is lost."""

    ids: list[str] = field(default_factory=list)
    documents: list[str | None] = field(default_factory=list)
    characters: list[int] = field(default_factory=list)
    metadatas: list[Metadata | None] = field(default_factory=list)
    targets: list[str] = field(default_factory=list)
    vectors: list[Vectors] = field(default_factory=list)  # (d,) each
    hashes: list[int] = field(default_factory=list)

    def keep(self, positions: Sequence[int]) -> Part:
        return Part(
            [self.ids[i] for i in positions],
            [self.documents[i] for i in positions],
            [self.characters[i] for i in positions],
            [self.metadatas[i] for i in positions],
            [self.targets[i] for i in positions],
            [self.vectors[i] for i in positions],
            [self.hashes[i] for i in positions],
        )


class Sampler:
    """Takes every batch of the pass; never holds more than twice the sample."""

    def __init__(
        self, infos: Sequence[CollectionInfo], seed: int, most: int = MOST, most_bytes: int = MOST_BYTES
    ) -> None:
        self.seed = seed
        self.infos = {info.name: info for info in infos}
        self.quotas = quotas(infos, most, most_bytes)
        self._parts: dict[str, Part] = {info.name: Part() for info in infos}
        self._limits: dict[str, int] = {}  # hashes from here on are not kept any more

    def add(self, name: str, batch: ChunkBatch, targets: Sequence[str]) -> None:
        """The chunks of a batch of this collection that belong to the sample, as far as can be said by now."""
        part, quota = self._parts[name], self.quotas[name]
        limit = self._limits.get(name, 2**64)
        for i, chunk in enumerate(batch.ids):
            hashed = self._hash(name, chunk)
            if hashed >= limit:
                continue
            document = batch.documents[i]
            part.ids.append(chunk)
            part.documents.append(document if document is None else document[:TEXT])
            part.characters.append(len(document or ""))
            part.metadatas.append(_cut(batch.metadatas[i]))
            part.targets.append(targets[i])
            part.vectors.append(batch.embeddings[i].copy())
            part.hashes.append(hashed)
        if len(part.ids) > 2 * quota:
            self._prune(name)

    def _prune(self, name: str) -> None:
        part, quota = self._parts[name], self.quotas[name]
        if len(part.ids) <= quota:
            return
        kept = np.sort(np.argsort(np.asarray(part.hashes, np.uint64), kind="stable")[:quota]).tolist()
        self._parts[name] = part.keep(kept)
        self._limits[name] = max(self._parts[name].hashes, default=0)

    def _hash(self, name: str, chunk: str) -> int:
        text = f"{self.seed}/{name}/{chunk}".encode("utf-8", "surrogatepass")
        return int.from_bytes(blake2b(text, digest_size=8).digest(), "big")

    @property
    def held(self) -> int:
        """How many chunks are in memory now."""
        return sum(len(part.ids) for part in self._parts.values())

    def sample(self, total: int) -> Sample:
        """The sample of the `total` chunks seen."""
        for name in self._parts:
            self._prune(name)
        return Sample(self._parts, total, self.seed)


def quotas(infos: Sequence[CollectionInfo], most: int = MOST, most_bytes: int = MOST_BYTES) -> dict[str, int]:
    """How many chunks of each collection are kept: all, or shares by size with `LEAST` for the small ones."""
    widest = 4 * max((info.dimension or 0 for info in infos), default=0)
    room = max(1, min(most, most_bytes // widest if widest else most))
    total = sum(info.count for info in infos)
    if total <= room:
        return {info.name: max(1, info.count) for info in infos}
    least = max(1, min(LEAST, room // len(infos)))
    return {info.name: max(min(info.count, least), room * info.count // total, 1) for info in infos}


class Sample:
    """The chunks kept, row by row; every method and array speaks of these rows in this order.

    `frame` has one row a chunk: collection, id, target (where the schema sends it), document (its first 2,000
    characters), characters (of the whole), norm (L2; NaN where the vector is lost or not finite), and one column for each
    metadata field (named `metadata.<field>` where it would hide one of the others).
    """

    def __init__(self, parts: dict[str, Part], total: int, seed: int) -> None:
        self.parts, self.total, self.seed = parts, total, seed

    def __len__(self) -> int:
        return sum(len(part.ids) for part in self.parts.values())

    @property
    def is_whole(self) -> bool:
        return len(self) == self.total

    @property
    def said(self) -> str:
        """The size of the sample as a sentence for tables and figures."""
        if self.is_whole:
            return f"All {count(self.total, 'chunk')} were looked at."
        return f"A sample of {count(len(self))} of {count(self.total, 'chunk')}, by seeded hashes (seed {self.seed})."

    @cached_property
    def frame(self) -> pd.DataFrame:
        return self._framed(self.parts)

    def collection(self, name: str) -> pd.DataFrame:
        """The rows of one collection, without the columns that it leaves empty."""
        return self._framed({name: self.parts[name]}).drop(columns="collection")

    def _framed(self, parts: dict[str, Part]) -> pd.DataFrame:
        rows: dict[str, Any] = {key: [] for key in OWN}
        for name, part in parts.items():
            rows["collection"] += [name] * len(part.ids)
            rows["id"] += part.ids
            rows["target"] += part.targets
            rows["document"] += part.documents
            rows["characters"] += part.characters
            rows["norm"] += norms(part.vectors).tolist()
        frame = pd.DataFrame(rows).astype(dict.fromkeys(("collection", "id", "target", "document"), object))
        metadatas = [metadata or {} for part in parts.values() for metadata in part.metadatas]
        columns: dict[str, Any] = {}
        for key in _commonest(metadatas):
            values = [metadata.get(key) for metadata in metadatas]
            columns[f"metadata.{key}" if key in OWN else str(key)] = pd.Series(values, dtype=object).infer_objects()
        return pd.concat([frame, pd.DataFrame(columns)], axis="columns") if columns else frame

    def spaces(self) -> Iterator[tuple[int, npt.NDArray[np.intp], Vectors]]:
        """By dimension: the dimension, the rows whose vectors have it and are finite, and those vectors (n, d)."""
        at = 0
        groups: dict[int, tuple[list[int], list[Vectors]]] = {}
        for part in self.parts.values():
            for i, vector in enumerate(part.vectors):
                if vector.size and np.isfinite(vector).all():
                    rows, vectors = groups.setdefault(vector.size, ([], []))
                    rows.append(at + i)
                    vectors.append(vector)
            at += len(part.ids)
        for dimension, (rows, vectors) in sorted(groups.items()):
            yield dimension, np.asarray(rows, np.intp), np.stack(vectors)


def norms(vectors: Sequence[Vectors]) -> npt.NDArray[np.float64]:
    """L2 norms (n,) of vectors that may differ in dimension; NaN where one is lost or not finite."""
    known = [bool(vector.size) and bool(np.isfinite(vector).all()) for vector in vectors]
    return np.asarray(
        [lengths_of(v[None, :])[0] if k else np.nan for v, k in zip(vectors, known, strict=True)], np.float64
    )


def lengths_of(vectors: Vectors) -> npt.NDArray[np.float64]:
    """L2 norms (n,) of `vectors` (n, d), summed in float64 without a copy of them in it."""
    squares: npt.NDArray[np.float64] = np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64)
    return np.sqrt(squares)


def _commonest(metadatas: Sequence[Metadata]) -> list[str]:
    seen: dict[str, int] = {}
    for metadata in metadatas:
        for key in metadata:
            seen[key] = seen.get(key, 0) + 1
    return sorted(sorted(seen), key=lambda key: -seen[key])[:FIELDS]


def _cut(metadata: Metadata | None) -> Metadata | None:
    if metadata is None:
        return None
    return {k: v[:VALUE] if isinstance(v, str) and len(v) > VALUE else v for k, v in metadata.items()}

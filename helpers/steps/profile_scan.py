"""What one pass over a source gathers for its profile, in bounded memory.

Counts are exact, whatever the size. Above `LIMIT` chunks two things are sampled, by stable hashes and not by chance:
duplicates are sought among one content in `every`, and norms are kept of one chunk in a few (20,000 a collection). Of each
finding the first places are remembered, and what compares chunks with each other gets a sample (`exploring.sample`).
"""

from __future__ import annotations

import zlib
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from helpers.chunks import ChunkBatch, Metadata
from helpers.errors import one_line
from helpers.exploring.places import Places
from helpers.exploring.sample import Sampler
from helpers.exploring.texts import plain_text
from helpers.schema import Context, Schema, Transformed
from helpers.schema.file import FieldRule
from helpers.stores import CollectionInfo

LIMIT = 200_000  # chunks whose ids and contents are remembered
NORMS = 20_000  # norms kept of a collection, for the figure and the median
KEYS = 300  # metadata keys told apart
DISTINCT = 40  # values of a field told apart
LONG = 100_000  # characters
UNIT = 1e-3  # a norm this near to 1 counts as normalised
TYPES = {"string": "str", "integer": "int", "float": "float", "boolean": "bool", "strings": "list"}


@dataclass(slots=True)
class FieldSeen:
    """A metadata field, over all collections. `values` counts texts and booleans, as long as they are few."""

    present: Counter[str] = field(default_factory=Counter)  # by collection
    types: Counter[str] = field(default_factory=Counter)
    values: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)  # wrong_type, out_of_range, unknown_value
    minimum: float | None = None
    maximum: float | None = None

    def add(self, collection: str, value: Any, rule: FieldRule | None) -> str:
        """Count a value; what is wrong with it (see `fault`)."""
        self.present[collection] += 1
        self.types[type(value).__name__] += 1
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            self.minimum = value if self.minimum is None else min(self.minimum, value)
            self.maximum = value if self.maximum is None else max(self.maximum, value)
        elif isinstance(value, (str, bool)) and len(self.values) <= DISTINCT:
            self.values[one_line(str(value), 60)] += 1
        kind = fault(value, rule) if rule is not None else ""
        if kind:
            self.wrong[kind] += 1
        return kind

    def common(self) -> str:
        """The commonest values, or that there are too many to tell."""
        if len(self.values) > DISTINCT:
            return f"more than {DISTINCT} different"
        return ", ".join(f"{value} {n}" for value, n in self.values.most_common(8))


@dataclass(slots=True)
class CollectionSeen:
    """A collection's documents and vectors."""

    info: CollectionInfo
    chunks: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    characters: int = 0
    longest: int = 0
    languages: Counter[str] = field(default_factory=Counter)
    norms: list[float] = field(default_factory=list)


class Twins:
    """Which contents occur more than once, and where: the first place of each, and every place of the repeated.

    A place is (collection, id) and, for ids, the target collection.
    """

    def __init__(self, every: int = 1) -> None:
        self.every = every
        self._first: dict[int, tuple[str, ...]] = {}
        self.groups: dict[int, list[tuple[str, ...]]] = {}

    def add(self, content: bytes, place: tuple[str, ...]) -> None:
        digest = int.from_bytes(blake2b(content, digest_size=8).digest(), "big")
        if digest % self.every:
            return
        if digest in self._first:
            self.groups.setdefault(digest, [self._first[digest]]).append(place)
        else:
            self._first[digest] = place

    @property
    def surplus(self) -> int:
        """How many chunks repeat an earlier one."""
        return sum(len(group) - 1 for group in self.groups.values())


class Scan:
    """Everything that the pass has seen so far. `add` takes the chunks of a collection, batch by batch."""

    def __init__(
        self,
        schema: Schema,
        context: Context,
        dimensions: list[int],
        infos: Sequence[CollectionInfo],
        seed: int,
        folder: Path,
    ) -> None:
        self.schema, self.context, self.dimensions, self.seed = schema, context, dimensions, seed
        self.every = max(1, -(-sum(info.count for info in infos) // LIMIT))
        self.sampler = Sampler(infos, seed)
        self.places = Places(folder)
        self.fields: dict[str, FieldSeen] = defaultdict(FieldSeen)
        self.collections: dict[str, CollectionSeen] = {}
        self.documents, self.vectors, self.ids = Twins(self.every), Twins(self.every), Twins(self.every)
        self.texts = Twins(self.every)  # documents but for case, spaces and forms of the same letters
        self.repairs: Counter[tuple[Hashable, ...]] = Counter()  # field, rule
        self.examples: dict[tuple[Hashable, ...], str] = {}
        self.failures: Counter[str] = Counter()  # reason
        self.failed: list[dict[str, str]] = []  # the first 20
        self.targets: Counter[str] = Counter()
        self.quarantined = 0
        self.repaired = 0

    def open(self, info: CollectionInfo) -> None:
        self.collections[info.name] = CollectionSeen(info)

    def add(self, name: str, batch: ChunkBatch) -> None:
        seen = self.collections[name]
        seen.chunks += len(batch)
        self._documents(seen, batch)
        self._vectors(seen, batch)
        done = self.schema.transform(batch, name, self.context)
        self._metadata(seen, batch, done)
        self._outcome(seen, done)
        self.sampler.add(name, batch, done.targets)

    def _documents(self, seen: CollectionSeen, batch: ChunkBatch) -> None:
        name = seen.info.name
        seen.counts["uris"] += sum(uri is not None for uri in batch.uris)
        for chunk, document in zip(batch.ids, batch.documents, strict=True):
            if not document:
                self._count(seen, "none_documents" if document is None else "empty_documents", chunk)
                continue
            seen.characters += len(document)
            seen.longest = max(seen.longest, len(document))
            if len(document) >= LONG:
                self._count(seen, "long_documents", chunk, f"{len(document):,} characters")
            self.documents.add(document.encode("utf-8", "surrogatepass"), (name, chunk))
            plain = plain_text(document)
            if not plain:
                self._count(seen, "blank_documents", chunk)
                continue
            self.texts.add(plain.encode("utf-8", "surrogatepass"), (name, chunk))

    def _vectors(self, seen: CollectionSeen, batch: ChunkBatch) -> None:
        finite = np.isfinite(batch.embeddings).all(axis=1) & ~batch.lost
        norms = np.full(len(batch), np.nan)
        norms[finite] = np.linalg.norm(batch.embeddings[finite].astype(np.float64), axis=1)
        unit = np.abs(norms - 1) <= UNIT
        seen.counts["unit_vectors"] += int(unit.sum())
        for kind, those in (
            ("lost_vectors", batch.lost),
            ("nonfinite_vectors", ~finite & ~batch.lost),
            ("zero_vectors", norms == 0),
            ("unnormalised_vectors", finite & (norms != 0) & ~unit),
        ):
            for i in np.flatnonzero(those):
                self._count(seen, kind, batch.ids[i], f"norm {norms[i]:.6g}" if kind.startswith("un") else "")
        keep = max(1, seen.info.count // NORMS)
        for i in np.flatnonzero(finite):
            if zlib.crc32(batch.ids[i].encode("utf-8", "surrogatepass"), self.seed) % keep == 0:
                seen.norms.append(float(norms[i]))
            if norms[i] > 0:
                self.vectors.add(batch.embeddings[i].tobytes(), (seen.info.name, batch.ids[i]))

    def _count(self, seen: CollectionSeen, finding: str, chunk: str, detail: str = "") -> None:
        seen.counts[finding] += 1
        self.places.note(finding, seen.info.name, chunk, detail)

    def _metadata(self, seen: CollectionSeen, batch: ChunkBatch, done: Transformed) -> None:
        rules = {kind: {rule.name: rule for rule in self.schema.rules(kind)} for kind in set(done.types)}
        name, core = seen.info.name, [rule.name for rule in self.schema.fields]
        for chunk, found, kind in zip(batch.ids, batch.metadatas, done.types, strict=True):
            metadata = found or _NOTHING
            if found is None:
                self._count(seen, "none_metadata", chunk)
            for key in core:
                if key not in metadata:
                    self.places.note(f"missing_{key}", name, chunk)
            language = one_line(str(metadata.get("language", "(missing)")), 40)
            seen.languages[
                language if language in seen.languages or len(seen.languages) < DISTINCT else "(others)"
            ] += 1
            for key, value in metadata.items():
                known = key in self.fields or key in rules[kind] or len(self.fields) < KEYS
                shown = key if known else "(further keys)"
                if wrong := self.fields[shown].add(name, value, rules[kind].get(key)):
                    self.places.note(f"{wrong}_{shown}", name, chunk, repr(value))

    def _outcome(self, seen: CollectionSeen, done: Transformed) -> None:
        """What the schema would do: repair, set aside, route."""
        info = seen.info
        failures = self.schema.failures(
            done, self.context, dimension=info.dimension, allowed_dimensions=self.dimensions, space=info.space
        )
        bad = set(failures["id"])
        seen.counts["quarantined"] += len(bad)
        self.quarantined += len(bad)
        self.failures.update(failures["reason"])
        for chunk, reason, detail in zip(failures["id"], failures["reason"], failures["detail"], strict=True):
            self.places.note(f"quarantine {reason}", info.name, str(chunk), str(detail))
        for chunk, reasons in failures.groupby("id", sort=False)["reason"]:
            self.places.note("quarantined", info.name, str(chunk), ", ".join(reasons))
        for row in failures.head(20 - min(20, len(self.failed))).to_dict("records"):
            self.failed.append({str(key): str(value) for key, value in row.items()})
        self.repaired += done.repairs["id"].nunique()
        self._repairs(done.repairs, info.name)
        for chunk, target in zip(done.source_ids, done.targets, strict=True):
            self.targets[target] += chunk not in bad
            self.ids.add(chunk.encode("utf-8", "surrogatepass"), (info.name, chunk, target))

    def _repairs(self, repairs: pd.DataFrame, name: str) -> None:
        self.repairs.update(zip(repairs["field"], repairs["rule"], strict=True))
        columns = (repairs[key] for key in ("id", "field", "rule", "before", "after"))
        for chunk, field_name, rule, before, after in zip(*columns, strict=True):
            self.places.note(f"repair {field_name} {rule}", name, chunk, f"{before} → {after}")
        for row in repairs.drop_duplicates(["field", "rule"]).itertuples():
            self.examples.setdefault((row.field, row.rule), f"{row.before} → {row.after}")


_NOTHING: Metadata = {}


def fault(value: Any, rule: FieldRule) -> str:
    """What is wrong with a value that stands in the source: wrong_type, out_of_range, unknown_value, or ""."""
    if type(value).__name__ != TYPES[rule.type]:
        return "wrong_type"
    if rule.allows(value):
        return ""
    return "out_of_range" if rule.is_number else "unknown_value"

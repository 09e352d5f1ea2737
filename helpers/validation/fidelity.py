"""One streaming pass over a target: everything that validation judges, measured against snapshot and schema.

What the migration staged is not trusted: the expectation is computed again, part by part, from snapshot and schema, and each
expected chunk is read from the target by id. Memory holds one part, the ids of the target's collections, a few numbers per
chunk and at most a thousand differences of each kind and collection; every difference is counted.
"""

from __future__ import annotations

import datetime
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from helpers.chunks import ChunkBatch
from helpers.migration.delta import settings_of
from helpers.migration.reembedding import as_written, made_anew
from helpers.migration.staging import Shared
from helpers.parameters import Parameters
from helpers.reason_codes import ReasonCode
from helpers.results import Progress, silent
from helpers.run.executor import Order, Workers, opened
from helpers.schema import Context, Schema, Transformed
from helpers.schema.rules import over_limits
from helpers.snapshots import comparison as compare
from helpers.snapshots.comparison import Floats, Measures, WrongVectors
from helpers.snapshots.export_journal import SnapshotPart, ahead
from helpers.snapshots.snapshot import Snapshot
from helpers.stores import CollectionInfo, Space, Store
from helpers.stores.limits import known_of
from helpers.validation.equivalence import Merged, Search, Write, unwritten
from helpers.validation.properties import (
    FieldTests,
    FieldValues,
    KnownAnswers,
    compare_configuration,
    explained_function,
    of_merged,
)
from helpers.validation.search import (
    Probes,
    choose_probes,
    lost_queries,
    named_queries,
)

# -- the expectation, and one part of the target, compared here or by a worker of Dask ----------------------------------

_AHEAD = 8  # parts of both sides in memory, 25 MB each; the run takes them no faster than five workers give them
REFUSED = ReasonCode.REFUSED_BY_TARGET  # trusted: the target's refusal cannot be repeated here


def unexcused(
    schema: Schema, moved: Transformed, quarantined: Sequence[tuple[int, str]], context: Context, parameters: Parameters,
    source: CollectionInfo,
) -> list[tuple[int, str]]:  # fmt: skip
    """The chunks of `quarantined` (position, reason given) in which schema and vector checks find no fault."""
    if not (checked := [(position, reason) for position, reason in quarantined if reason != REFUSED]):
        return []
    dimensions = parameters.expected.dimensions
    failures = schema.failures(
        moved, context, dimension=source.dimension, allowed_dimensions=dimensions, space=source.space
    )
    failing = {*failures["id"], *over_limits(moved.batch, moved.source_ids, "", known_of(parameters.target))["id"]}
    left_out = set(failures["id"][failures["reason"] == ReasonCode.LEFT_OUT])
    return [
        (position, reason)
        for position, reason in checked
        if moved.source_ids[position] not in (left_out if reason == ReasonCode.LEFT_OUT else failing)
    ]


@dataclass(frozen=True, slots=True)
class Expectation:
    """What a target is compared with. `quarantined` maps (collection, source id) to the reason."""

    snapshot: Snapshot
    schema: Schema
    parameters: Parameters
    date: datetime.date
    quarantined: Mapping[tuple[str, str], str]
    baseline: Mapping[str, Any] | None = None
    reembedded: Path | None = None  # the folder of new vectors, where some were ordered

    def written(self) -> Snapshot:
        """The snapshot as the target must hold it: with the new vectors in place of lost ones."""
        return self.snapshot if self.reembedded is None else as_written(self.snapshot, self.reembedded)

    def context(self) -> Context:
        return Context.of(self.snapshot.names(), self.date, self.parameters.migration)


@dataclass(frozen=True, slots=True)
class Seen:
    """The chunks of a part that a target collection gave, and how they differ: rows of `comparison.COLUMNS`."""

    found: ChunkBatch
    differences: list[tuple[Any, ...]]
    wrong: WrongVectors | None
    measures: Measures


@dataclass(frozen=True, slots=True)
class Judged:
    """A part as it is in the snapshot and as it must be in the target; by target collection, the positions that belong there,
    and what was seen of them, if the collection exists."""

    batch: ChunkBatch
    moved: Transformed
    groups: dict[str, list[int]]
    seen: dict[str, Seen] = field(default_factory=dict)


def judged(
    store: Store, schema: Schema, context: Context, name: str, batch: ChunkBatch, quarantined: Collection[str],
    spaces: Mapping[str, Space],
) -> Judged:  # fmt: skip
    """Compare a part of source collection `name`, without the ids `quarantined`, with the target; `spaces`: its collections."""
    moved = schema.transform(batch, name, context)
    groups: dict[str, list[int]] = defaultdict(list)
    for position, chunk in enumerate(moved.source_ids):
        if chunk not in quarantined:
            groups[moved.targets[position]].append(position)
    result = Judged(batch, moved, dict(groups))
    for target, positions in sorted(groups.items()):
        if target in spaces:
            pair = next(compare.compared(store, target, [moved.batch.take(positions)], spaces[target]))
            rows = list(pair.differences.itertuples(index=False, name=None))
            result.seen[target] = Seen(pair.actual, rows, pair.wrong, pair.measured())
    return result


def judged_away(
    workers: Workers,
    of: Expectation,
    context: Context,
    name: str,
    excluded: Collection[str],
    spaces: Mapping[str, Space],
) -> Iterator[Judged]:
    """As `judged`, part by part in order, by workers."""
    shared = Shared.of(workers, of.snapshot, of.schema, of.reembedded)
    arguments = (name, frozenset(excluded), dict(spaces))
    call, limit = (_judged, workers.order, shared), min(_AHEAD, workers.at_once)
    yield from ahead(lambda part: workers.call(*call, part, context, *arguments), of.snapshot.parts(name), limit)


def _judged(order: Order, shared: Shared, part: SnapshotPart, context: Context, name: str, *rest: Any) -> Judged:
    return judged(opened(order, "target"), shared.schema, context, name, shared.read(part), *rest)


# -- the pass ----------------------------------------------------------------------------------------------------------

DIFFERENCE_COLUMNS = ["collection", "source_collection", "id", "source_id", "difference", "field", "detail"]

_KEPT = 1_000  # differences kept per kind and target collection
_WORST = 20
_PLANE = 1_500  # vectors kept for the illustration


@dataclass(slots=True)
class SourceCount:
    """A source collection's chunks: in the snapshot, in quarantine, left out, expected in the target, found there by id."""

    collection: str
    source: int = 0
    quarantined: int = 0
    left_out: int = 0
    expected: int = 0
    target: int = 0
    nan: int = 0
    lost: int = 0

    @property
    def matches(self) -> bool:
        """Whether target, quarantine and left-out chunks add up to the source."""
        return self.target + self.quarantined + self.left_out == self.source


@dataclass(slots=True)
class Findings:
    """The findings of the pass. Arrays have one float64 per chunk whose vector could be read on both sides."""

    fields: FieldTests
    values: FieldValues
    sources: list[SourceCount] = field(default_factory=list)
    settings: dict[str, dict[str, str]] = field(default_factory=dict)  # of each collection of the target
    targets: list[dict[str, Any]] = field(default_factory=list)  # collection, expected, target, space, expected_space
    differences: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=DIFFERENCE_COLUMNS))
    counted: Counter[str] = field(default_factory=Counter)  # every difference by kind
    differing: int = 0  # chunks with at least one
    reasons: Counter[str] = field(default_factory=Counter)  # quarantined chunks of this snapshot by reason
    left_out: Counter[str] = field(default_factory=Counter)  # by condition
    unknown_ids: int = 0  # quarantined ids that the snapshot does not hold
    not_finite: int = 0  # vectors of the target with NaN or infinity, or that cannot be read
    notes: list[str] = field(default_factory=list)  # collection metadata or configuration that changed
    configuration: list[dict[str, Any]] = field(default_factory=list)  # rows of `properties.COLUMNS`
    relative: dict[str, list[Floats]] = field(default_factory=dict)  # by space
    mismatched: dict[str, list[Floats]] = field(default_factory=dict)
    before: list[Floats] = field(default_factory=list)  # norms
    after: list[Floats] = field(default_factory=list)
    worst: list[dict[str, Any]] = field(default_factory=list)
    plane: list[tuple[str, ChunkBatch, ChunkBatch]] = field(default_factory=list)
    search: list[dict[str, Any]] = field(default_factory=list)  # one row per source collection
    merged: list[dict[str, Any]] = field(default_factory=list)  # one row per source and merged target, see `Merged`
    announced: list[dict[str, Any]] = field(default_factory=list)  # likewise, see `equivalence.announced`
    distances: list[dict[str, Any]] = field(default_factory=list)  # one row a query
    queries: list[dict[str, Any]] = field(default_factory=list)
    known_answers: list[dict[str, Any]] = field(default_factory=list)  # rows of `properties.KnownAnswers`
    anew: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # collections with new vectors throughout


@dataclass(slots=True)
class _Target:
    """A target collection in progress: its ids, and those that are not expected so far."""

    info: CollectionInfo
    ids: frozenset[str]
    unexpected: set[str]
    expected: int = 0
    sources: dict[str, CollectionInfo] = field(default_factory=dict)
    suspects: list[WrongVectors] = field(default_factory=list)


class Examination:
    """`Examination(store, expectation).run()` → `Findings`. Reads the target; writes nothing."""

    def __init__(
        self, store: Store, expectation: Expectation, write: Write = unwritten, workers: Workers | None = None
    ) -> None:
        """`write` gets every list that a search gave (`equivalence.searches`). `workers` compare a target that is a server."""
        self.store, self.expectation, self.write, self.workers = store, expectation, write, workers
        self.context = expectation.context()
        names = expectation.snapshot.names()
        self._kinds = expectation.schema.targets(names)
        fields = FieldTests(expectation.schema, self._kinds, self.context.source_collections)
        self.findings = Findings(fields, FieldValues(expectation.schema))
        self.written = expectation.written()
        self.anew = self.findings.anew = made_anew(self.written)
        self.own = {info.name: info.space for info in expectation.snapshot.collections()}
        """By source collection, its distance; `_sources` have the one that `migration.index` orders."""
        self._sources = {info.name: self._placed(info) for info in self.written.collections()}
        self._quarantined: dict[str, set[str]] = defaultdict(set)  # by source collection: its chunks in quarantine
        for collection, chunk in expectation.quarantined:
            self._quarantined[collection].add(chunk)
        self._chosen: dict[str, Probes] = {}
        self._known_answers = KnownAnswers(expectation.parameters.validation.retrieval)
        self._merged = Merged(expectation.schema, names, self.context, expectation.parameters.validation.k)
        self._rows: list[dict[str, str]] = []
        self._noted: Counter[tuple[str, str]] = Counter()
        self._targets: dict[str, _Target] = {}
        self._draw = np.random.default_rng(expectation.parameters.validation.seed)

    def _placed(self, info: CollectionInfo) -> CollectionInfo:
        targets = self.expectation.schema.targets([info.name])
        return replace(info, space=self.context.space(info.name, info.space, targets))

    def probes(self, name: str) -> Probes:
        """The probes of a source collection, chosen now or kept by `keep_probes`."""
        if name in self._chosen:
            return self._chosen.pop(name)
        rules, quarantined = self.expectation.parameters.validation, self._quarantined[name]
        snapshot = self.written if name in self.anew else self.expectation.snapshot
        return choose_probes(snapshot.batches(name), name, rules.probes, rules.seed, quarantined)

    def keep_probes(self, name: str) -> Probes:
        """Choose the probes and keep them for one more call of `probes`."""
        self._chosen[name] = self.probes(name)
        return self._chosen[name]

    def run(self, progress: Progress = silent) -> Findings:
        """Run the pass. `progress` advances by chunks of the snapshot, `snapshot.total` in all."""
        self.findings.settings = settings_of(collections := self.store.collections())
        for info in collections:
            if info.name in self._kinds:
                ids = self.store.ids(info.name)
                self._targets[info.name] = _Target(info, frozenset(ids), set(ids))
                if info.count != len(ids):
                    detail = f"the target counts {info.count} chunks and lists {len(ids)} ids"
                    self._note(ReasonCode.CHUNK_DOUBLED, info.name, detail)
        self._merged.prepare(self.keep_probes, {name: target.info.space for name, target in self._targets.items()})
        for source in self._sources.values():
            self._collection(source, progress)
        self.findings.merged = self._merged.rows(self.write)
        explained = sum(s.quarantined + s.left_out for s in self.findings.sources)
        self.findings.unknown_ids = len(self.expectation.quarantined) - explained
        for name in sorted(self._kinds):
            self._close(name)
        self._name_owners()
        self.findings.differences = pd.DataFrame(self._rows, columns=DIFFERENCE_COLUMNS, dtype=object)
        spaces = {name: target.info.space for name, target in self._targets.items()}
        answers = named_queries(self.store, self.expectation.parameters, spaces, self._homes)
        self.findings.known_answers = self._known_answers.rows(self.store)
        self.findings.queries = lost_queries(answers, (self.expectation.baseline or {}).get("queries", []))
        return self.findings

    # One source collection

    def _parts(self, name: str) -> Iterator[Judged]:
        """Each part of a source collection as expected and as the target has it."""
        spaces = {target: state.info.space for target, state in self._targets.items()}
        if self.workers is None:
            arguments, quarantined = (self.expectation.schema, self.context, name), self._quarantined[name]
            batches = self.written.batches(name)
            yield from ahead(lambda batch: judged(self.store, *arguments, batch, quarantined, spaces), batches)
            return
        yield from judged_away(self.workers, self.expectation, self.context, name, self._quarantined[name], spaces)

    def _collection(self, source: CollectionInfo, progress: Progress) -> None:
        name = source.name
        count = SourceCount(name)
        self.findings.sources.append(count)
        search = Search(
            source, self.own[name], self.probes(name), self.store, self._merged, self.expectation.parameters.validation,
            (self.expectation.baseline or {}).get("collections", {}).get(name, {}), self.write, anew=name in self.anew,
        )  # fmt: skip
        sample = max(3, _PLANE // max(1, len(self._sources)))
        count.lost = sum(part.lost for part in self.expectation.snapshot.parts(name))
        for part in self._parts(name):
            batch, moved = part.batch, part.moved
            search.feed_source(moved.batch)
            positions_kept = self._expected(batch, moved, count, source)
            self.findings.values.add_source(moved, batch, positions_kept)
            for target, positions in sorted(part.groups.items()):
                expected = moved.batch.take(positions)
                origins = [moved.source_ids[i] for i in positions]
                actual = self._compare(target, source, expected, origins, count, part.seen.get(target))
                search.feed(target, expected, actual, origins)
                self._known_answers.feed(target, expected.ids, origins)
                self._merged.feed(name, target, expected)
                self._sample(name, expected, actual, sample / max(1, source.count))
            progress.advance(len(batch))
        self.findings.search.append(search.row())
        self.findings.announced += search.announced(self.store, self.expectation.schema.origin_fields)
        self.findings.distances += search.distances()

    def _expected(self, batch: ChunkBatch, moved: Transformed, count: SourceCount, source: CollectionInfo) -> list[int]:
        """The positions that belong in the target; counts the others, and checks their reasons again."""
        finite = np.isfinite(batch.embeddings).all(axis=1) & (batch.dimension > 0)
        count.source += len(batch)
        count.nan += int((~finite & ~batch.lost).sum())
        migrated, quarantined = [], []
        for position, chunk in enumerate(moved.source_ids):
            reason = self.expectation.quarantined.get((count.collection, chunk))
            if reason is None:
                migrated.append(position)
            else:
                if reason == ReasonCode.LEFT_OUT:
                    count.left_out += 1
                else:
                    count.quarantined += 1
                    self.findings.reasons[reason] += 1
                quarantined.append((position, reason))
        for position, reason in unexcused(
            self.expectation.schema, moved, quarantined, self.context, self.expectation.parameters, source
        ):
            detail = f"in quarantine as {reason}, but nothing is wrong with it"
            place = (source.name, moved.batch.ids[position], moved.source_ids[position])
            self._note(ReasonCode.QUARANTINE_UNEXPLAINED, moved.targets[position], detail, *place)
        left_out = moved.failures[moved.failures["reason"] == ReasonCode.LEFT_OUT]
        self.findings.left_out.update(left_out["detail"])
        count.expected += len(migrated)
        return migrated

    def _compare(
        self, name: str, source: CollectionInfo, expected: ChunkBatch, origins: list[str], count: SourceCount, seen: Seen | None
    ) -> ChunkBatch:  # fmt: skip
        target = self._targets.get(name)
        if target is None or seen is None:
            for chunk, origin in zip(expected.ids, origins, strict=True):
                detail = "its collection is not in the target"
                self._note(ReasonCode.CHUNK_MISSING, name, detail, source.name, chunk, origin)
            self.findings.differing += len(expected)
            return ChunkBatch.empty(expected.dimension)
        target.expected += len(expected)
        target.sources[source.name] = source
        doubled = {chunk for chunk in expected.ids if chunk in target.ids and chunk not in target.unexpected}
        target.unexpected.difference_update(expected.ids)
        actual = seen.found
        count.target += len(set(actual.ids)) - len(doubled)
        origin_of = dict(zip(expected.ids, origins, strict=True))
        rows = list(seen.differences)
        rows += [(c, ReasonCode.CHUNK_DOUBLED, "", "another chunk of the source has this id") for c in sorted(doubled)]
        for chunk, difference, field_name, detail in rows:
            self._note(difference, name, detail, source.name, chunk, origin_of.get(chunk, ""), field_name)
        self.findings.differing += len({row[0] for row in rows})
        if seen.wrong is not None and len(target.suspects) < 16:
            target.suspects.append(seen.wrong)
        self._measure(name, source, actual, seen.measures, target.info.space)
        return actual

    def _measure(self, name: str, source: CollectionInfo, found: ChunkBatch, seen: Measures, space: Space) -> None:
        lists = self.findings
        broken = ~np.isfinite(found.embeddings).all(axis=1) | found.lost
        lists.not_finite += int(broken.sum()) if found.dimension else len(found)
        lists.fields.add(name, found)
        lists.values.add_target(name, self._kinds[name], found)
        lists.relative.setdefault(space, []).append(seen.relative)
        lists.mismatched.setdefault(space, []).append(seen.mismatched)
        lists.before.append(seen.norms_expected)
        lists.after.append(seen.norms_actual)
        for i in np.argsort(-seen.relative, kind="stable")[:_WORST]:
            row = {"collection": name, "source_collection": source.name, "id": seen.ids[i], "space": space}
            numbers = {"relative": seen.relative, "distance": seen.distances, "norm_before": seen.norms_expected,
                       "norm_after": seen.norms_actual}  # fmt: skip
            lists.worst.append(row | {key: float(values[i]) for key, values in numbers.items()})
        lists.worst = sorted(lists.worst, key=lambda r: (-r["relative"], r["collection"], r["id"]))[:_WORST]

    def _sample(self, name: str, expected: ChunkBatch, actual: ChunkBatch, share: float) -> None:
        """Keep a share of the pairs of vectors, drawn by the seed, for the illustration."""
        rows = {chunk: i for i, chunk in enumerate(actual.ids)}
        shared = [i for i, chunk in enumerate(expected.ids) if chunk in rows and self._draw.random() < share]
        if shared and expected.dimension == actual.dimension > 0:
            pair = expected.take(shared), actual.take(rows[expected.ids[i]] for i in shared)
            self.findings.plane.append((name, *pair))

    # Whole target collections

    def _close(self, name: str) -> None:
        target = self._targets.get(name)
        if target is None:
            if self.expectation.schema.is_identity or any(r["collection"] == name for r in self._rows):
                self._note(ReasonCode.COLLECTION_MISSING, name, "the target does not hold this collection")
            self.findings.targets.append({"collection": name, "expected": None, "target": None, "space": "not there"})
            return
        for chunk in sorted(target.unexpected):
            self._note(ReasonCode.CHUNK_EXTRA, name, "in the target, but not expected there", chunk=chunk)
        self.findings.differing += len(target.unexpected)
        spaces = sorted({i.space for n, i in (target.sources or self._sources).items() if target.sources or n == name})
        if any(space != target.info.space for space in spaces):
            detail = f"distances are {target.info.space}, the source's are {', '.join(spaces)}"
            self._note(ReasonCode.SPACE_DIFFERS, name, detail, where="space")
        self._settings(target.info, target.sources)
        counts = {"collection": name, "expected": target.expected, "target": len(target.ids)}
        self.findings.targets.append({**counts, "space": target.info.space, "expected_space": ", ".join(spaces)})

    def _settings(self, info: CollectionInfo, sources: Collection[str]) -> None:
        """Compare settings: with one source, a collection keeps its metadata and index settings, except ordered ones."""
        rules, had, schema = self.expectation.parameters.migration, self._sources, self.expectation.schema
        names = [only] if (only := schema.only_source(info.name, had)) else sorted(sources)
        infos = [replace(had[n], space=self.own[n], schema=schema.content.indexes(n, had[n].schema)) for n in names]
        if not only:
            self.findings.configuration += of_merged(infos, info, rules)
            return
        rows = compare_configuration(source := infos[0], info, rules)
        if only in self.anew:
            before = next(i for i in self.expectation.snapshot.collections() if i.name == only)
            rows = [explained_function(row, before) for row in rows]
        self.findings.configuration += rows
        old, new = ({k: v for k, v in (i.metadata or {}).items() if not k.startswith("hnsw:")} for i in (source, info))
        different = compare.metadata_differences(old, new)
        self.findings.notes += [f"{info.name}: collection metadata {key}: {detail}" for _, key, detail in different]

    def _homes(self, name: str) -> list[str]:
        """The existing target collections for a source collection."""
        return sorted({n for n in self.expectation.schema.targets([name]) if n in self._targets})

    def _name_owners(self) -> None:
        """Add to each wrong vector the chunk that owns it, even where the two are in different parts of the snapshot."""
        owner_of: dict[tuple[str, str], str] = {}
        for name, target in self._targets.items():
            owners = compare.owners(target.suspects, target.info.space)
            owner_of |= {(name, chunk): owner for chunk, owner in owners.items()}
        for row in self._rows:
            owner = owner_of.get((row["collection"], row["id"]))
            sentence = compare.owner_sentence(owner) if owner else ""
            if owner and row["difference"] == ReasonCode.VECTOR_DIFFERS and sentence not in row["detail"]:
                row["detail"] += f"; {sentence}"

    def _note(
        self,
        difference: str,
        target: str,
        detail: str,
        source: str = "",
        chunk: str = "",
        source_id: str = "",
        where: str = "",
    ) -> None:
        self.findings.counted[difference] += 1
        self._noted[target, difference] += 1
        if self._noted[target, difference] <= _KEPT:
            values = (target, source, chunk, source_id, difference, where, detail)
            self._rows.append(dict(zip(DIFFERENCE_COLUMNS, values, strict=True)))

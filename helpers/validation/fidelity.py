"""One streaming pass over a target: everything that validation judges, measured against snapshot and schema.

What the migration staged is not believed: the expectation is computed again, part by part, from snapshot and schema, and each
expected chunk is read from the target by id. Memory holds one part, the ids of the target's collections, a few numbers per
chunk and at most a thousand differences of each kind and collection; every difference is counted.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from helpers.chunks import ChunkBatch
from helpers.errors import WorldError
from helpers.migration.delta import settings_of
from helpers.migration.reembedding import made_anew
from helpers.reason_codes import ReasonCode
from helpers.results import Progress, Verdict, silent
from helpers.run.executor import Workers
from helpers.schema import Transformed
from helpers.snapshots import comparison as compare
from helpers.snapshots.comparison import Floats, Measures, WrongVectors
from helpers.snapshots.export_journal import ahead
from helpers.stores import CollectionInfo, Space, Store
from helpers.validation.expectation import Expectation, Judged, Seen, judged, judged_away, unexcused
from helpers.validation.merged import ANSWER, EXACT, OVER, RESTRICTED, Asked, Merged, Sent, Write, announced, unwritten
from helpers.validation.properties import (
    FieldTests,
    FieldValues,
    KnownAnswers,
    compare_configuration,
    explained_function,
    of_merged,
)
from helpers.validation.search import (
    Answers,
    Probes,
    Record,
    Truth,
    answers_within,
    ask_probes,
    choose_probes,
    equivalence,
    exact_overlap,
    lost_queries,
    mean_of,
    named_queries,
    noise,
    overlap,
    overlap_ks,
    records,
    shared,
)

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
        """Whether the target, the quarantine and what is left out make the source."""
        return self.target + self.quarantined + self.left_out == self.source


@dataclass(slots=True)
class Findings:
    """What the pass saw. Arrays have one float64 per chunk whose vector could be read on both sides."""

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
    strangers: int = 0  # quarantined ids that the snapshot does not hold
    not_finite: int = 0  # vectors of the target with NaN or infinity, or that cannot be read
    notes: list[str] = field(default_factory=list)  # collection metadata or configuration that changed
    configuration: list[dict[str, Any]] = field(default_factory=list)  # rows of `properties.COLUMNS`
    relative: dict[str, list[Floats]] = field(default_factory=dict)  # by space
    mismatched: dict[str, list[Floats]] = field(default_factory=dict)
    before: list[Floats] = field(default_factory=list)  # norms
    after: list[Floats] = field(default_factory=list)
    worst: list[dict[str, Any]] = field(default_factory=list)
    plane: list[tuple[str, ChunkBatch, ChunkBatch]] = field(default_factory=list)
    search: list[dict[str, Any]] = field(default_factory=list)  # one row a source collection
    merged: list[dict[str, Any]] = field(default_factory=list)  # one row a source and merged target, see `Merged`
    announced: list[dict[str, Any]] = field(default_factory=list)  # one row a source collection, see `merged.announced`
    distances: list[dict[str, Any]] = field(default_factory=list)  # one row a query
    queries: list[dict[str, Any]] = field(default_factory=list)
    known: list[dict[str, Any]] = field(default_factory=list)  # rows of `properties.KnownAnswers`
    anew: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # collections with new vectors throughout


@dataclass(slots=True)
class _Target:
    """A target collection at work: its ids, and those that nobody expected yet."""

    info: CollectionInfo
    ids: frozenset[str]
    left: set[str]
    expected: int = 0
    sources: dict[str, CollectionInfo] = field(default_factory=dict)
    suspects: list[WrongVectors] = field(default_factory=list)


class Examination:
    """`Examination(store, expectation).run()` → `Findings`. Reads the target; writes nothing."""

    def __init__(
        self, store: Store, expectation: Expectation, write: Write = unwritten, workers: Workers | None = None
    ) -> None:
        """`write` gets every list that a search gave (`merged.searches`). `workers` compare a target that is a server."""
        self.store, self.of, self.write, self.workers = store, expectation, write, workers
        self.context = expectation.context()
        names = expectation.snapshot.names()
        self._kinds = expectation.schema.targets(names)
        fields = FieldTests(expectation.schema, self._kinds, self.context.source_collections)
        self.found = Findings(fields, FieldValues(expectation.schema))
        self.written = expectation.written()
        self.anew = self.found.anew = made_anew(self.written)
        self.own = {info.name: info.space for info in expectation.snapshot.collections()}
        """By source collection, its distance there; `_sources` have the one that `migration.index` orders."""
        self._sources = {info.name: self._placed(info) for info in self.written.collections()}
        self._aside: dict[str, set[str]] = defaultdict(set)  # by source collection: its chunks in quarantine
        for collection, chunk in expectation.quarantined:
            self._aside[collection].add(chunk)
        self._chosen: dict[str, Probes] = {}
        self._known = KnownAnswers(expectation.parameters.validation.retrieval)
        self._merged = Merged(expectation.schema, names, self.context, expectation.parameters.validation.k)
        self._rows: list[dict[str, str]] = []
        self._kept: Counter[tuple[str, str]] = Counter()
        self._targets: dict[str, _Target] = {}
        self._draw = np.random.default_rng(expectation.parameters.validation.seed)

    def _placed(self, info: CollectionInfo) -> CollectionInfo:
        return replace(info, space=self.context.space(info.name, info.space, self.of.schema.targets([info.name])))

    def probes(self, name: str) -> Probes:
        """The probes of a source collection, chosen now or kept by `keep_probes`."""
        if name in self._chosen:
            return self._chosen.pop(name)
        rules, aside = self.of.parameters.validation, self._aside[name]
        of = self.written if name in self.anew else self.of.snapshot
        return choose_probes(of.batches(name), name, rules.probes, rules.seed, aside)

    def keep_probes(self, name: str) -> Probes:
        """The same, kept until they are asked for once more."""
        self._chosen[name] = self.probes(name)
        return self._chosen[name]

    def run(self, progress: Progress = silent) -> Findings:
        """One pass. `progress` advances by chunks of the snapshot, `snapshot.total` in all."""
        self.found.settings = settings_of(there := self.store.collections())
        for info in there:
            if info.name in self._kinds:
                ids = self.store.ids(info.name)
                self._targets[info.name] = _Target(info, frozenset(ids), set(ids))
                if info.count != len(ids):
                    detail = f"the target counts {info.count} chunks and lists {len(ids)} ids"
                    self._note(ReasonCode.CHUNK_DOUBLED, info.name, detail)
        self._merged.prepare(self.keep_probes, {name: target.info.space for name, target in self._targets.items()})
        for source in self._sources.values():
            self._collection(source, progress)
        self.found.merged = self._merged.rows(self.write)
        self.found.strangers = len(self.of.quarantined) - sum(s.quarantined + s.left_out for s in self.found.sources)
        for name in sorted(self._kinds):
            self._close(name)
        self._name_owners()
        self.found.differences = pd.DataFrame(self._rows, columns=DIFFERENCE_COLUMNS, dtype=object)
        where = {name: target.info.space for name, target in self._targets.items()}
        asked = named_queries(self.store, self.of.parameters, where, self._homes)
        self.found.known = self._known.rows(self.store)
        self.found.queries = lost_queries(asked, (self.of.baseline or {}).get("queries", []))
        return self.found

    # One source collection

    def _parts(self, name: str) -> Iterator[Judged]:
        """Each part of a source collection, as it should be and as the target has it."""
        spaces = {target: found.info.space for target, found in self._targets.items()}
        if self.workers is None:
            of, aside = (self.of.schema, self.context, name), self._aside[name]
            yield from ahead(lambda batch: judged(self.store, *of, batch, aside, spaces), self.written.batches(name))
            return
        yield from judged_away(self.workers, self.of, self.context, name, self._aside[name], spaces)

    def _collection(self, source: CollectionInfo, progress: Progress) -> None:
        name = source.name
        count = SourceCount(name)
        self.found.sources.append(count)
        search = _Search(self, source)
        sample = max(3, _PLANE // max(1, len(self._sources)))
        count.lost = sum(part.lost for part in self.of.snapshot.parts(name))
        for part in self._parts(name):
            batch, moved = part.batch, part.moved
            search.feed_source(moved.batch)
            kept = self._expected(batch, moved, count, source)
            self.found.values.add_source(moved, batch, kept)
            for target, positions in sorted(part.groups.items()):
                expected = moved.batch.take(positions)
                origins = [moved.source_ids[i] for i in positions]
                found = self._compare(target, source, expected, origins, count, part.seen.get(target))
                search.feed(target, expected, found, origins)
                self._known.feed(target, expected.ids, origins)
                self._merged.feed(name, target, expected)
                self._sample(name, expected, found, sample / max(1, source.count))
            progress.advance(len(batch))
        self.found.search.append(search.row())
        self.found.announced += search.announced(self.store, self.of.schema.origin_fields)
        self.found.distances += search.distances()

    def _expected(self, batch: ChunkBatch, moved: Transformed, count: SourceCount, source: CollectionInfo) -> list[int]:
        """The positions that belong in the target; counts the rest, whose excuse is judged anew."""
        finite = np.isfinite(batch.embeddings).all(axis=1) & (batch.dimension > 0)
        count.source += len(batch)
        count.nan += int((~finite & ~batch.lost).sum())
        kept, aside = [], []
        for position, chunk in enumerate(moved.source_ids):
            reason = self.of.quarantined.get((count.collection, chunk))
            if reason is None:
                kept.append(position)
            else:
                if reason == ReasonCode.LEFT_OUT:
                    count.left_out += 1
                else:
                    count.quarantined += 1
                    self.found.reasons[reason] += 1
                aside.append((position, reason))
        for position, reason in unexcused(self.of.schema, moved, aside, self.context, self.of.parameters, source):
            detail = f"in quarantine as {reason}, but nothing is wrong with it"
            place = (source.name, moved.batch.ids[position], moved.source_ids[position])
            self._note(ReasonCode.QUARANTINE_UNEXPLAINED, moved.targets[position], detail, *place)
        out = moved.failures[moved.failures["reason"] == ReasonCode.LEFT_OUT]
        self.found.left_out.update(out["detail"])
        count.expected += len(kept)
        return kept

    def _compare(
        self, name: str, source: CollectionInfo, expected: ChunkBatch, origins: list[str], count: SourceCount, seen: Seen | None
    ) -> ChunkBatch:  # fmt: skip
        target = self._targets.get(name)
        if target is None or seen is None:
            for chunk, origin in zip(expected.ids, origins, strict=True):
                detail = "its collection is not in the target"
                self._note(ReasonCode.CHUNK_MISSING, name, detail, source.name, chunk, origin)
            self.found.differing += len(expected)
            return ChunkBatch.empty(expected.dimension)
        target.expected += len(expected)
        target.sources[source.name] = source
        doubled = {chunk for chunk in expected.ids if chunk in target.ids and chunk not in target.left}
        target.left.difference_update(expected.ids)
        found = seen.found
        count.target += len(set(found.ids)) - len(doubled)
        origin_of = dict(zip(expected.ids, origins, strict=True))
        rows = list(seen.differences)
        rows += [(c, ReasonCode.CHUNK_DOUBLED, "", "another chunk of the source has this id") for c in sorted(doubled)]
        for chunk, difference, where, detail in rows:
            self._note(difference, name, detail, source.name, chunk, origin_of.get(chunk, ""), where)
        self.found.differing += len({row[0] for row in rows})
        if seen.wrong is not None and len(target.suspects) < 16:
            target.suspects.append(seen.wrong)
        self._measure(name, source, found, seen.measures, target.info.space)
        return found

    def _measure(self, name: str, source: CollectionInfo, found: ChunkBatch, seen: Measures, space: Space) -> None:
        lists = self.found
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

    def _sample(self, name: str, expected: ChunkBatch, found: ChunkBatch, share: float) -> None:
        """Keep a share of the pairs of vectors for the illustration, drawn by the seed."""
        rows = {chunk: i for i, chunk in enumerate(found.ids)}
        shared = [i for i, chunk in enumerate(expected.ids) if chunk in rows and self._draw.random() < share]
        if shared and expected.dimension == found.dimension > 0:
            pair = expected.take(shared), found.take(rows[expected.ids[i]] for i in shared)
            self.found.plane.append((name, *pair))

    # Whole target collections

    def _close(self, name: str) -> None:
        target = self._targets.get(name)
        if target is None:
            if self.of.schema.is_identity or any(r["collection"] == name for r in self._rows):
                self._note(ReasonCode.COLLECTION_MISSING, name, "the target does not hold this collection")
            self.found.targets.append({"collection": name, "expected": None, "target": None, "space": "not there"})
            return
        for chunk in sorted(target.left):
            self._note(ReasonCode.CHUNK_EXTRA, name, "in the target, but not expected there", chunk=chunk)
        self.found.differing += len(target.left)
        spaces = sorted({i.space for n, i in (target.sources or self._sources).items() if target.sources or n == name})
        if any(space != target.info.space for space in spaces):
            detail = f"distances are {target.info.space}, the source's are {', '.join(spaces)}"
            self._note(ReasonCode.SPACE_DIFFERS, name, detail, where="space")
        self._settings(target.info, target.sources)
        counts = {"collection": name, "expected": target.expected, "target": len(target.ids)}
        self.found.targets.append({**counts, "space": target.info.space, "expected_space": ", ".join(spaces)})

    def _settings(self, info: CollectionInfo, sources: Collection[str]) -> None:
        """A collection with one source keeps its metadata and the settings of its index, but for those that are ordered."""
        rules, had, schema = self.of.parameters.migration, self._sources, self.of.schema
        names = [only] if (only := schema.only_source(info.name, had)) else sorted(sources)
        every = [replace(had[n], space=self.own[n], schema=schema.content.indexes(n, had[n].schema)) for n in names]
        if not only:
            self.found.configuration += of_merged(every, info, rules)
            return
        rows = compare_configuration(source := every[0], info, rules)
        if only in self.anew:
            before = next(i for i in self.of.snapshot.collections() if i.name == only)
            rows = [explained_function(row, before) for row in rows]
        self.found.configuration += rows
        was, now = ({k: v for k, v in (i.metadata or {}).items() if not k.startswith("hnsw:")} for i in (source, info))
        different = compare.metadata_differences(was, now)
        self.found.notes += [f"{info.name}: collection metadata {key}: {detail}" for _, key, detail in different]

    def _homes(self, name: str) -> list[str]:
        """The target collections of a source collection, as far as its chunks went anywhere."""
        return sorted({n for n in self.of.schema.targets([name]) if n in self._targets})

    def _name_owners(self) -> None:
        """Say of each wrong vector whose it is, also where the two are in different parts of the snapshot."""
        whose: dict[tuple[str, str], str] = {}
        for name, target in self._targets.items():
            owners = compare.owners(target.suspects, target.info.space)
            whose |= {(name, chunk): owner for chunk, owner in owners.items()}
        for row in self._rows:
            owner = whose.get((row["collection"], row["id"]))
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
        self.found.counted[difference] += 1
        self._kept[target, difference] += 1
        if self._kept[target, difference] <= _KEPT:
            values = (target, source, chunk, source_id, difference, where, detail)
            self._rows.append(dict(zip(DIFFERENCE_COLUMNS, values, strict=True)))


class _Search:
    """Search equivalence of one source collection: asked before the pass, measured during it."""

    def __init__(self, exam: Examination, source: CollectionInfo) -> None:
        of, rules = exam.of, exam.of.parameters.validation
        self.k, self.space, self.name, self.merged = rules.k, source.space, source.name, exam._merged
        self.put, self.anew = exam.write, exam.anew
        self.probes = exam.probes(source.name)
        measured = (of.baseline or {}).get("collections", {}).get(source.name, {})
        self.baseline, self.doubt, self.left_out = (measured.get(key) for key in ("probes", "doubt", "moved"))
        self.known = {r["id"]: r for r in self.baseline or []}  # the source's records, by probe
        self.was_space = exam.own[source.name]
        self.moved = source.name in exam.anew or self.was_space != self.space  # distances of before are no measure
        if source.name in exam.anew:
            self.doubt = "its vectors are made anew by order (migration.reembed)"
        elif self.moved:
            self.doubt = f"its distance is {self.was_space}, the target's {self.space} by order (migration.index)"
        self.ordered, self.before = rules.overquery, measured.get("overquery") or rules.overquery
        self.ids: list[str] = []
        self.homes: list[str] = []  # per probe: the target collection that its own chunk went to
        if self.probes.ids:
            moved = of.schema.transform(self.probes.chunks, source.name, exam.context)
            self.ids, self.homes = moved.batch.ids, moved.targets
        homes = of.schema.targets([source.name])
        self.others = bool(self.merged.possible) or len(homes) > 1  # whether a client asks otherwise than before
        self.why = ""
        self.answers: dict[str, Answers] = {}  # by target collection, of all that it holds
        for name in sorted(homes) if self.probes.ids else ():
            count = exam.store.count(name) if name in exam._targets else 0
            if count:
                try:
                    self.answers[name] = ask_probes(exam.store, name, self.probes, self.k, rules.overquery, count)
                except WorldError as error:
                    self.why = error.line()
        own = [{chunk} for chunk in self.ids]
        wanted = [a.wanted(self.ids, rules.overquery + self.k) for a in self.answers.values()]
        self.wanted = [set().union(*parts) for parts in zip(own, *wanted, strict=True)]
        self.listed = set().union(*self.wanted)
        self.own: dict[str, set[str]] = {}  # target collection → ids there that are of this collection and were listed
        self.origin: dict[str, str] = {}  # their ids in the source
        self.sent: dict[
            str, str
        ] = {}  # chunks that were among a probe's nearest in the source → their target collection
        self.after: list[Record] = []
        self.source_truth = Truth(self.probes.vectors, self.space, self.k, [()] * len(self.ids))
        self.target_truth = Truth(self.probes.vectors, self.space, self.k, self.wanted)
        self.whole_truth = Truth(self.probes.vectors, self.space, self.k, [()] * len(self.ids))

    def feed_source(self, moved: ChunkBatch) -> None:
        """The next chunks of this collection, quarantined ones too, under their ids of the target."""
        if self.others:
            self.whole_truth.add(moved.ids, moved.embeddings)

    def feed(self, target: str, expected: ChunkBatch, found: ChunkBatch, origins: list[str]) -> None:
        """The next chunks of this collection that belong in a target collection, and what it holds; the target's ids."""
        self.source_truth.add(expected.ids, expected.embeddings)
        self.target_truth.add(found.ids, found.embeddings)
        near = {chunk for nearest in self.whole_truth.nearest for _, chunk in nearest}
        self.sent |= {chunk: target for chunk in expected.ids if chunk in near}
        known = self.listed.union(chunk for nearest in self.target_truth.nearest for _, chunk in nearest)
        listed = {c: o for c, o in zip(expected.ids, origins, strict=True) if c in known}
        self.own.setdefault(target, set()).update(listed)
        self.origin |= listed

    def row(self) -> dict[str, Any]:
        """The collection's row of `search.rows_frame`, with overlaps and the probes that could not be."""
        none: Answers = Answers([[] for _ in self.ids], [[] for _ in self.ids])
        asked = [(self.answers[name], self.own[name]) for name in sorted(self.own.keys() & self.answers.keys())]
        answers = answers_within(asked, self.k) if asked else none
        self.after = after = records(self.ids, answers, self.target_truth, self.space, self.k)
        for record in after:
            record["id"] = self.origin.get(record["id"], record["id"])
            for key in ("plain", "over", "exact"):
                record[key] = [[self.origin[chunk], d] for chunk, d in record[key]]
        row: dict[str, Any] = {"collection": self.name, "space": self.space}
        row |= equivalence(self.baseline, after, self.space, self.doubt or "", self.left_out or 0)
        missed = [r["id"] for r in after if r["reachable"] is False]
        row |= {"k": self.k, "zero": self.probes.zero, "unusable": self.probes.unusable, "unreachable": missed}
        for k in overlap_ks(self.k):
            row[f"overlap_exact@{k}"] = exact_overlap(self.ids, self.source_truth, self.target_truth, self.space, k)
            if not self.moved:
                row[f"overlap_plain@{k}"] = overlap(self.baseline or [], after, "plain", self.space, k)
        if self.moved:
            row |= self._by_another_distance()
        if self.name in self.anew and (same := row[f"overlap_plain@{self.k}"]) == same:
            row["detail"] += f"; for information: {same:.2f} of the {self.k} nearest of before are answered still"
        row |= self._over_queries(row)
        if self.why:
            row["detail"] = "; ".join(filter(None, [row["detail"], self.why]))
        self._client_view()
        self._write(answers, row["overquery_after"])
        return row

    def _by_another_distance(self) -> dict[str, Any]:
        """What is the same where distances are not: the chunks that both sides answer, the recall of each side's own index."""
        pairs = [(self.known[r["id"]], r) for r in self.after if r["id"] in self.known]
        recalls = [a["recall"] for a, b in pairs if None not in (a["recall"], b["recall"])]
        found = {"recall_before": mean_of(recalls), "recall_pairs": len(recalls)} if recalls else {}
        for k in overlap_ks(self.k):
            both = [[set([c for c, _ in r["plain"] if c != r["id"]][:k]) for r in pair] for pair in pairs]
            found[f"overlap_plain@{k}"] = mean_of([len(a & b) / len(a) for a, b in both if a])
        return found

    def _write(self, answers: Answers, depth: int) -> None:
        """Every list of both sides as evidence: of a query's own collection, under ids of the source."""
        for p, record in enumerate(self.after):
            reaches = {"plain": record["plain_reach"], "over": answers.over_reach[p] if answers.over_reach else None}
            for side, of, deep in (("source", self.known.get(record["id"]), self.before), ("target", record, depth)):
                if of is None:
                    continue
                for key, answer in (("plain", ANSWER), ("over", OVER), ("exact", EXACT)):
                    pairs, reach = of.get(key) or [], reaches.get(key) if side == "target" else of.get(f"{key}_reach")
                    tie = noise(
                        self.was_space if side == "source" else self.space,
                        max((abs(d) for _, d in pairs), default=0.0),
                        of["scale"],
                    )
                    reach = None if reach is None or np.isinf(reach) else reach
                    place = self.homes[p] if side == "target" else ""
                    self.put(self.name, record["id"], record["id"], place, RESTRICTED, side, answer, self.k,
                             deep if key == "over" else self.k, reach, tie, pairs)  # fmt: skip

    def _client_view(self) -> None:
        """Each probe as a client asks it, of the whole target collection, for `Merged`."""
        was = {} if self.doubt else self.known
        for p, (home, record) in enumerate(zip(self.homes, self.after, strict=True)):
            if home not in self.answers:
                continue
            plain, over = self.answers[home].plain[p], self.answers[home].over[p][: self.k]
            own, before = self.ids[p], was.get(record["id"])
            answered = [(d, self.origin.get(c, "")) for c, d in plain if c != own]  # "": of another collection
            named = [(d, c) for c, d in before["plain"][: self.k] if c != record["id"]] if before else []
            scale = max(record["scale"], before["scale"]) if before else record["scale"]
            same = shared(named, answered, self.space, scale) if named else None
            nearest = self.whole_truth.nearest[p]
            left = [pair for pair in nearest if self.sent.get(pair[1]) == home]
            depth = self.answers[home].given
            asked = Asked(record["id"], own, nearest, plain, over, depth, before, same, left)
            self.merged.asked[home, self.name, p] = asked

    def announced(self, store: Store, fields: Sequence[str]) -> list[dict[str, Any]]:
        """Its probes sent once more, see `merged.announced`."""
        homes = sorted(self.own.keys() & self.answers.keys())
        queries = [r["id"] for r in self.after]
        sent = Sent(self.name, self.space, self.k, self.probes.vectors, self.ids, queries, self.whole_truth, self.sent)
        return announced(store, homes, bool(self.merged.possible & set(homes)), fields, sent, self.put)

    def distances(self) -> list[dict[str, Any]]:
        """One row a query asked on both sides: the distances of the chunks that both answered, and of the k-th answer."""
        rows = []
        for p, record in enumerate(self.after):
            before = self.known.get(record["id"])
            if before is None:
                continue
            first = dict(before["plain"])
            gaps = [abs(d - first[chunk]) for chunk, d in record["plain"] if chunk in first]
            largest = None if self.moved else max(gaps, default=None)
            whole = self.answers[self.homes[p]].plain[p] if self.homes[p] in self.answers else []
            ends = [listed[-1][1] if listed else None for listed in (before["plain"], record["plain"], whole)]
            row = {"collection": self.name, "query": record["id"], "same_chunks": len(gaps),
                   "largest_difference": largest}  # fmt: skip
            rows.append(row | dict(zip(("last_before", "last_after", "last_unrestricted"), ends, strict=True)))
        return rows

    def _over_queries(self, row: dict[str, Any]) -> dict[str, Any]:
        """How many results both sides gave, and that a target which gives fewer than ordered is not failed for it.

        Only an over-query that is much longer than k tells a lost chunk from the chance of an approximate index.
        """
        after = min((a.given for a in self.answers.values() if a.given), default=self.ordered)
        told = [
            f"the {side} gives {given:,} results at most, not {self.ordered:,}"
            for side, given in (("source", self.before), ("target", after))
            if given < self.ordered
        ]
        found: dict[str, Any] = {"overquery_before": self.before, "overquery_after": after}
        if after < self.ordered and row["verdict"] is Verdict.FAIL and row["distance_excess"] <= 1.0:
            found |= {"verdict": Verdict.WARNING, "unsure": True}
            told.append("too few to tell a lost chunk from normal variation of the index")
        return {**found, "detail": "; ".join(filter(None, [row["detail"], *told]))}

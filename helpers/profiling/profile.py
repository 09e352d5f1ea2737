"""The contents of a source and what the migration would do with them: one pass over all chunks, and its tables.

`Scan` gathers in bounded memory. Counts are exact. Above `LIMIT` chunks two things are sampled, by stable hashes: duplicates are
searched for among one content in `every`, and norms are kept of one chunk in a few. `Profile` only warns; steps 13 and 24 judge.
"""

from __future__ import annotations

import zlib
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from helpers import plots
from helpers.chunks import ChunkBatch, Metadata
from helpers.errors import one_line
from helpers.formatting import core_missing, count
from helpers.profiling import Places, Sampler, plain_text
from helpers.profiling.search import Lookup
from helpers.reason_codes import ReasonCode
from helpers.results import Verdict, changes_in_words
from helpers.run.folders import FINDINGS
from helpers.run.plan import CONTRADICTIONS
from helpers.run.record import RunRecord, check_spaces
from helpers.schema import Context, Schema, Transformed, load_schema
from helpers.schema.file import FieldRule
from helpers.schema.rules import PYTHON_TYPES
from helpers.stores import CollectionInfo, listed_ids

LIMIT = 200_000  # chunks whose ids and contents are remembered
NORMS = 20_000  # norms kept of a collection, for the figure and the median
KEYS = 300  # metadata keys kept apart
DISTINCT = 40  # values of a field kept apart
LONG = 100_000  # characters
UNIT = 1e-3  # a norm this near to 1 counts as normalised
READ = 500  # chunks read at a time
_WRONG = ("wrong_type", "out_of_range", "unknown_value")
_COUNTED = ("none_metadata", "none_documents", "empty_documents", "long_documents", "uris", "lost_vectors", "nonfinite_vectors",
            "zero_vectors")  # fmt: skip


@dataclass(slots=True)
class FieldStats:
    """Counts of a metadata field, over all collections. `values` counts texts and booleans, while there are few."""

    present: Counter[str] = field(default_factory=Counter)  # by collection
    types: Counter[str] = field(default_factory=Counter)
    values: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)  # by `fault`
    no_numbers: int = 0  # of those out of range
    minimum: float | None = None
    maximum: float | None = None

    def add(self, collection: str, value: Any, rule: FieldRule | None) -> str:
        """Count a value; return what is wrong with it (see `fault`)."""
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
            self.no_numbers += kind == "out_of_range" and type(value) not in (int, float)
        return kind

    def common(self) -> str:
        """The most frequent values, or that there are too many."""
        return f"more than {DISTINCT} different" if len(self.values) > DISTINCT else _ranked(self.values, 8)


@dataclass(slots=True)
class CollectionStats:
    """Counts of a collection's documents and vectors."""

    info: CollectionInfo
    chunks: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    characters: int = 0
    longest: int = 0
    languages: Counter[str] = field(default_factory=Counter)
    norms: list[float] = field(default_factory=list)


class Repeats:
    """The contents that occur more than once, with all their places: (collection, id) and, for ids, the target collection."""

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
        """The number of chunks that repeat an earlier one."""
        return sum(len(group) - 1 for group in self.groups.values())


class Scan:
    """What the pass has counted so far. `add` takes the chunks of a collection, batch by batch."""

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
        self.fields: dict[str, FieldStats] = defaultdict(FieldStats)
        self.collections = {info.name: CollectionStats(info) for info in infos}
        self.documents, self.vectors, self.ids = Repeats(self.every), Repeats(self.every), Repeats(self.every)
        self.texts = Repeats(self.every)  # documents but for case, spaces and forms of the same letters
        self.repairs: Counter[tuple[Hashable, ...]] = Counter()  # field, rule
        self.examples: dict[tuple[Hashable, ...], str] = {}
        self.failures: Counter[str] = Counter()  # reason
        self.failed: list[dict[str, str]] = []  # the first 20
        self.targets: Counter[str] = Counter()
        self.routes: Counter[tuple[str, str]] = Counter()  # source, target
        self.rewritten = 0
        self.rewritten_example = ("", "")
        self.quarantined = 0
        self.left_out: Counter[str] = Counter()  # by condition
        self.repaired = 0

    def add(self, name: str, batch: ChunkBatch) -> None:
        stats = self.collections[name]
        stats.chunks += len(batch)
        self._documents(stats, batch)
        self._vectors(stats, batch)
        done = self.schema.transform(batch, name, self.context)
        self._metadata(stats, batch, done)
        self._outcome(stats, done)
        self.sampler.add(name, batch, done.targets)

    def _documents(self, stats: CollectionStats, batch: ChunkBatch) -> None:
        name = stats.info.name
        stats.counts["uris"] += sum(uri is not None for uri in batch.uris)
        for chunk, document in zip(batch.ids, batch.documents, strict=True):
            if not document:
                self._count(stats, "none_documents" if document is None else "empty_documents", chunk)
                continue
            stats.characters += len(document)
            stats.longest = max(stats.longest, len(document))
            if len(document) >= LONG:
                self._count(stats, "long_documents", chunk, f"{len(document):,} characters")
            self.documents.add(document.encode("utf-8", "surrogatepass"), (name, chunk))
            if plain := plain_text(document):
                self.texts.add(plain.encode("utf-8", "surrogatepass"), (name, chunk))
            else:
                self._count(stats, "blank_documents", chunk)

    def _vectors(self, stats: CollectionStats, batch: ChunkBatch) -> None:
        finite = np.isfinite(batch.embeddings).all(axis=1) & ~batch.lost
        norms = np.full(len(batch), np.nan)
        norms[finite] = np.linalg.norm(batch.embeddings[finite].astype(np.float64), axis=1)
        unit = np.abs(norms - 1) <= UNIT
        stats.counts["unit_vectors"] += int(unit.sum())
        for kind, those in (
            ("lost_vectors", batch.lost),
            ("nonfinite_vectors", ~finite & ~batch.lost),
            ("zero_vectors", norms == 0),
            ("unnormalised_vectors", finite & (norms != 0) & ~unit),
        ):
            for i in np.flatnonzero(those):
                self._count(stats, kind, batch.ids[i], f"norm {norms[i]:.6g}" if kind.startswith("un") else "")
        keep = max(1, stats.info.count // NORMS)
        for i in np.flatnonzero(finite):
            if zlib.crc32(batch.ids[i].encode("utf-8", "surrogatepass"), self.seed) % keep == 0:
                stats.norms.append(float(norms[i]))
            if norms[i] > 0:
                self.vectors.add(batch.embeddings[i].tobytes(), (stats.info.name, batch.ids[i]))

    def _count(self, stats: CollectionStats, finding: str, chunk: str, detail: str = "") -> None:
        stats.counts[finding] += 1
        self.places.note(finding, stats.info.name, chunk, detail)

    def _metadata(self, stats: CollectionStats, batch: ChunkBatch, done: Transformed) -> None:
        rules = {kind: {rule.name: rule for rule in self.schema.rules(kind)} for kind in set(done.types)}
        name, core = stats.info.name, [rule.name for rule in self.schema.fields]
        for i, field_name, detail in self.schema.contradictions(batch, done.types):
            self.places.note(f"contradicts_{field_name}", name, batch.ids[i], detail)
        for chunk, stored, kind in zip(batch.ids, batch.metadatas, done.types, strict=True):
            metadata: Metadata = stored or {}
            if stored is None:
                self._count(stats, "none_metadata", chunk)
            for key in core:
                if key not in metadata:
                    self.places.note(f"missing_{key}", name, chunk)
            language = one_line(str(metadata.get("language", "(missing)")), 40)
            full = language not in stats.languages and len(stats.languages) >= DISTINCT
            stats.languages["(others)" if full else language] += 1
            for key, value in metadata.items():
                is_listed = key in self.fields or key in rules[kind] or len(self.fields) < KEYS
                shown = key if is_listed else "(further keys)"
                if wrong := self.fields[shown].add(name, value, rules[kind].get(key)):
                    self.places.note(f"{wrong}_{shown}", name, chunk, repr(value))

    def _outcome(self, stats: CollectionStats, done: Transformed) -> None:
        """What the schema would do: repair, set aside, route."""
        info = stats.info
        failures = self.schema.failures(
            done, self.context, dimension=info.dimension, allowed_dimensions=self.dimensions, space=info.space
        )
        out = failures["reason"] == ReasonCode.LEFT_OUT
        left = set(failures["id"][out])
        self.left_out.update(failures["detail"][out])
        for chunk, why in zip(failures["id"][out], failures["detail"][out], strict=True):
            self.places.note("left out", info.name, str(chunk), str(why))
        failures = failures[~out]
        bad = set(failures["id"])
        stats.counts["quarantined"] += len(bad)
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
        for chunk, new, target in zip(done.source_ids, done.batch.ids, done.targets, strict=True):
            if chunk in left:
                continue
            self.targets[target] += chunk not in bad
            self.routes[info.name, target] += chunk not in bad
            if new != chunk and chunk not in bad:  # what is set aside keeps its id
                self.rewritten += 1
                self.rewritten_example = (chunk, new) if self.rewritten == 1 else self.rewritten_example
            shown = new if self.schema.content.id is not None else chunk
            self.ids.add(shown.encode("utf-8", "surrogatepass"), (info.name, chunk, target))

    def _repairs(self, repairs: pd.DataFrame, name: str) -> None:
        self.repairs.update(zip(repairs["field"], repairs["rule"], strict=True))
        columns = (repairs[key] for key in ("id", "field", "rule", "before", "after"))
        for chunk, field_name, rule, before, after in zip(*columns, strict=True):
            self.places.note(
                f"repair {field_name} {rule}", name, chunk, f"{one_line(before, 80)} → {one_line(after, 80)}"
            )
        for row in repairs.drop_duplicates(["field", "rule"]).itertuples():
            self.examples.setdefault(
                (row.field, row.rule), f"{one_line(str(row.before), 80)} → {one_line(str(row.after), 80)}"
            )


def fault(value: Any, rule: FieldRule) -> str:
    """What is wrong with a value of the source: wrong_type, out_of_range, unknown_value, or "".

    Where the schema has bounds, whatever is no number counts as out of range too: a score has one count.
    """
    if rule.has_bounds and (type(value) not in (int, float) or not rule.allows(value)):
        return "out_of_range"
    if type(value) is not PYTHON_TYPES[rule.type]:
        return "wrong_type"
    return "" if rule.allows(value) else "unknown_value"


class Profile:
    """The tables of one pass over a step's source, made when the first is needed. Tables of defects add a check to the step."""

    def __init__(self, run: RunRecord) -> None:
        self.run = run
        self.schema = load_schema(run.parameters.schema_name)
        self.lookup = Lookup(run)

    @cached_property
    def scan(self) -> Scan:
        """The counts of one pass over every chunk of the source."""
        p, run = self.run.parameters, self.run
        with run.phase("profile") as phase:
            store = self.lookup.reader
            infos = [store.info(name) for name in store.names() if p.collections.selects(name)]
            context = Context.of([i.name for i in infos], run.date, p.migration)
            folder = run.workspace / "findings"
            scan = Scan(self.schema, context, p.expected.dimensions, infos, p.validation.seed, folder)
            with run.progress("profiling", sum(info.count for info in infos)) as progress:
                for info in infos:
                    ids = listed_ids(store, info.name)
                    for start in range(0, len(ids), READ):
                        batch = store.read(info.name, ids[start : start + READ])
                        scan.add(info.name, batch)
                        progress.advance(len(batch))
                        phase.chunks += len(batch)
        run.fact("findings", self._findings(scan))
        return scan

    @property
    def chunks(self) -> int:
        return sum(stats.chunks for stats in self.scan.collections.values())

    def findings(self) -> dict[str, int]:
        """The number of each finding, by name. Those of a rehearsal are known beforehand (`sample.expected_findings`)."""
        return self._findings(self.scan)

    def _findings(self, scan: Scan) -> dict[str, int]:
        chunks = sum(stats.chunks for stats in scan.collections.values())
        counts = {key: sum(stats.counts[key] for stats in scan.collections.values()) for key in _COUNTED}
        counts |= {f"missing_{rule.name}": chunks - _present(scan, rule.name) for rule in self.schema.fields}
        for name, stats in sorted(scan.fields.items()):
            counts |= {f"{kind}_{name}": n for kind, n in stats.wrong.items()}
        return counts | {
            "chunks": chunks,
            "duplicate_documents": scan.documents.surplus,
            "duplicate_vectors": scan.vectors.surplus,
            "colliding_ids": len(scan.ids.groups),
            "quarantined": scan.quarantined,
            **{f"target_{name}": n for name, n in sorted(scan.targets.items())},
        }

    def overview(self) -> pd.DataFrame:
        """One row a collection: chunks, shape, documents, vectors, and how many chunks would be set aside."""
        rows = [
            {
                "collection": name,
                "chunks": stats.chunks,
                "dimension": stats.info.dimension,
                "space": stats.info.space,
                "declared": stats.info.declared_space,
                "no_document": stats.counts["none_documents"],
                "empty_document": stats.counts["empty_documents"],
                "no_metadata": stats.counts["none_metadata"],
                "mean_characters": round(stats.characters / max(1, stats.chunks)),
                "longest": stats.longest,
                "uris": stats.counts["uris"],
                "quarantined": stats.counts["quarantined"],
            }
            for name, stats in self.scan.collections.items()
        ]
        empty = count(self.findings()["empty_documents"], "chunk")
        detail = f"The schema requires one: these chunks are set aside. Migrated with an empty text: {empty}."
        number, needed = self.findings()["none_documents"], self.schema.requires_document
        self.check("chunks without a document", number, ReasonCode.MISSING_DOCUMENT, detail, needed)
        check_spaces(self.run, [stats.info for stats in self.scan.collections.values()], named=True)
        self.run.fact("chunks", self.chunks)
        return pd.DataFrame(rows)

    def completeness(self) -> pd.DataFrame:
        """Share of chunks that hold each field: one row a field, one column a collection. Draws the (core) fields."""
        scan = self.scan
        names = [rule.name for rule in self.schema.fields]
        names += sorted(name for name in scan.fields if name not in names)
        table = pd.DataFrame(
            {
                collection: [_count(scan, name, collection) / max(1, stats.chunks) for name in names]
                for collection, stats in scan.collections.items()
            },
            index=pd.Index(names, name="field", dtype=object),
        )
        own = [r.name for r in self.schema.fields if r.fixed is None and (r.value is None or r.when is not None)]
        missing = {name: self.chunks - _present(scan, name) for name in own}
        worst = sorted((name for name, n in missing.items() if n), key=lambda name: -missing[name])
        derivations = ("derived", "computed", "renamed")
        derived = {name: min(missing[name], sum(scan.repairs[name, rule] for rule in derivations)) for name in worst}
        number, derived_total = sum(missing.values()), sum(derived.values())
        named = ", ".join(
            f"{name} {missing[name]}{f' ({derived[name]} derived)' * bool(derived[name])}" for name in worst
        )
        self.run.fact("core_missing", {name: n for name, n in missing.items() if n})
        detail = f"{core_missing(number - derived_total, derived_total)}: {named}"
        detail += (
            f". Counted: the {count(len(missing), 'core field')} that the schema does not set itself; those of one collection "
            "type count from step 13 on, which routes the chunks"
        )
        self.check(
            "missing fields of the schema", number, ReasonCode.MISSING_METADATA, detail, bool(missing), unit="values"
        )
        figure = plots.completeness_heatmap(table)
        if core := list(missing):
            meaning = "Core fields: those that the schema asks of every chunk, and does not set itself."
            figure = plots.completeness_heatmap(table.loc[core], "core field", meaning)
        caption = "Share of the source's chunks that hold each metadata field, by collection."
        self.run.figure("completeness", figure, caption)
        return table

    def values(self) -> pd.DataFrame:
        """One row a field: types, range, the most frequent values, and how many the schema does not allow."""
        scan = self.scan
        expected = {rule.name: rule.type for kind in self.kinds() for rule in self.schema.rules(kind)}
        rows = [
            {
                "field": name,
                "wanted": expected.get(name, ""),
                "present": sum(stats.present.values()),
                "types": _ranked(stats.types),
                "minimum": stats.minimum,
                "maximum": stats.maximum,
                **{kind: stats.wrong[kind] for kind in _WRONG},
                "values": stats.common(),
            }
            for name, stats in sorted(scan.fields.items(), key=lambda item: (item[0] not in expected, item[0]))
        ]
        judged = not self.schema.is_identity
        wrong = {kind: sum(stats.wrong[kind] for stats in scan.fields.values()) for kind in _WRONG}
        out, other = wrong["out_of_range"], wrong["wrong_type"] + wrong["unknown_value"]
        no_numbers = sum(stats.no_numbers for stats in scan.fields.values())
        detail = f"{count(out - no_numbers)} out of range, {count(no_numbers)} no number where one is wanted"
        detail = "; ".join(filter(None, [detail, self._became(bounded=True)]))
        self.check("values out of range or no number", out, ReasonCode.INVALID_SCORES, detail, judged, unit="values")
        detail, name = self._became(bounded=False), "other values of a wrong type or not allowed"
        self.check(name, other, ReasonCode.INVALID_VALUES, detail, judged, unit="values")
        columns = ["field", "wanted", "present", "types", "minimum", "maximum", *_WRONG, "values"]
        return pd.DataFrame(rows, columns=columns)  # a source without any metadata has no rows

    def _became(self, *, bounded: bool) -> str:
        """`13 overwritten by a default, 1 converted`, of the values in fields with bounds, or in the others."""
        within = {rule.name for kind in self.kinds() for rule in self.schema.rules(kind) if rule.has_bounds}
        by_rule = Counter[str]()
        for (name, rule), n in self.scan.repairs.items():
            by_rule[str(rule)] += n if (name in within) is bounded else 0
        return changes_in_words(by_rule)

    def contradictions(self) -> pd.DataFrame:
        """Fields whose value contradicts the document, of those that the schema can derive: one row a collection and field."""
        places = self.scan.places
        rows: list[dict[str, Any]] = [
            {"collection": collection, "field": name, "chunks": n, "example": _example(self.scan, name, collection)}
            for name in self.schema.derivations
            for collection, n in sorted(places.counts.get(f"contradicts_{name}", {}).items())
        ]
        ids = ({"collection": place.collection, "id": place.id, "field": name, "detail": place.detail}
               for name in self.schema.derivations for place in places.every(f"contradicts_{name}"))  # fmt: skip
        detail = "; ".join(
            f"{row['collection']}: {row['field']} in {count(row['chunks'], 'chunk')}" for row in rows[:5]
        )
        detail += f"; {len(rows) - 5} more" if len(rows) > 5 else ""
        number, derives = sum(row["chunks"] for row in rows), bool(self.schema.derivations)
        code = ReasonCode.METADATA_CONTRADICTS
        self.check(CONTRADICTIONS, number, code, detail, derives, list(islice(ids, 20)), unit="values")
        self.run.fact("contradictions", rows)
        return pd.DataFrame(rows, columns=["collection", "field", "chunks", "example"])

    def vectors(self) -> pd.DataFrame:
        """One row a collection: lost, not finite, zero and unit vectors, and the norms (L2). Draws their histogram."""
        rows = []
        for name, stats in self.scan.collections.items():
            norms = np.asarray(stats.norms)
            low, middle, high = np.quantile(norms, [0, 0.5, 1]) if norms.size else (np.nan, np.nan, np.nan)
            counts = {k: stats.counts[f"{k}_vectors"] for k in ("lost", "nonfinite", "zero", "unit")}
            rows.append(
                {"collection": name, "vectors": stats.chunks, "dimension": stats.info.dimension, **counts,
                 "norm_minimum": low, "norm_median": middle, "norm_maximum": high, "norms_kept": norms.size}
            )  # fmt: skip
        findings, aside = self.findings(), "Would be set aside."
        self.check("lost vectors", findings["lost_vectors"], ReasonCode.MISSING_EMBEDDING, aside)
        self.check("vectors with NaN or infinity", findings["nonfinite_vectors"], ReasonCode.NAN_EMBEDDING, aside)
        undefined = "Zero vector: cosine similarity is undefined."
        self.check("zero vectors", findings["zero_vectors"], ReasonCode.ZERO_VECTOR, f"{undefined} Ids: {FINDINGS}.")
        caption = "Norms of the source's vectors, by collection."
        kept = {name: np.asarray(stats.norms) for name, stats in self.scan.collections.items()}
        drawn, unreadable = sum(n.size for n in kept.values()), findings["lost_vectors"] + findings["nonfinite_vectors"]
        caption_note = f"All {count(drawn, 'vector')}"
        if drawn + unreadable < self.chunks:
            caption_note = f"Sample of {count(drawn)} of {count(self.chunks - unreadable, 'vector')}, by stable hashes"
        caption_note += f"; {count(unreadable)} more lost or not finite." if unreadable else "."
        self.run.figure("norms", plots.norms_histogram(kept, caption_note), caption)
        return pd.DataFrame(rows)

    def routing(self) -> pd.DataFrame:
        """How many chunks of each source collection the schema would send to each target collection."""
        rows = [(source, target, n) for (source, target), n in sorted(self.scan.routes.items())]
        return pd.DataFrame(rows, columns=["source", "target", "chunks"])

    def schema_preview(self) -> pd.DataFrame:
        """What the schema would do with these chunks: repair, set aside, send to which target collection."""
        scan, total = self.scan, max(1, self.chunks)
        rows: list[tuple[str, str, str, int, str]] = [
            ("repair", str(name), str(rule), n, scan.examples.get((name, rule), ""))
            for (name, rule), n in scan.repairs.most_common()
        ]
        rows += [("left out", "", why, n, "") for why, n in scan.left_out.most_common()]
        rows += [("quarantine", "", reason, n, "") for reason, n in scan.failures.most_common()]
        rows += [("route", "", name, n, "") for name, n in sorted(scan.targets.items())]
        total -= scan.left_out.total()
        valid, minimum = (total - scan.quarantined) / max(1, total), self.run.parameters.migration.minimum_valid
        detail = ""
        if scan.quarantined:
            limit = f"{'below' if valid < minimum else 'at least'} the {minimum:g} (migration.minimum_valid) of steps 13 and 22"
            detail = f"{_ranked(scan.failures)}; {total - scan.quarantined:,} of {count(total, 'chunk')} is {limit}"
        self.run.judge(
            "chunks that would pass validation", Verdict.WARNING, measured=valid, relation="≥", threshold=1.0,
            reason=ReasonCode(next(iter(scan.failures))) if len(scan.failures) == 1 else ReasonCode.QUARANTINED,
            detail=detail, offenders=scan.quarantined, ids=scan.failed,
        )  # fmt: skip
        self.run.fact("repaired_chunks", scan.repaired)
        table = pd.DataFrame(rows, columns=["what", "field", "rule", "chunks", "example"])
        return table.assign(share=table["chunks"] / max(1, self.chunks))

    @property
    def part(self) -> str:
        """In which part of the contents repeats were searched for, in a sentence; "" if in all."""
        every = self.scan.every
        return "" if every == 1 else f" Sought among one content in {every}, chosen by its digest."

    def kinds(self) -> list[str | None]:
        """The collection types that chunks of this source may get."""
        return list(dict.fromkeys(self.schema.targets(list(self.scan.collections)).values()))

    def check(self, name: str, number: int, reason: ReasonCode, detail: str, applies: bool = True,
              ids: Sequence[dict[str, str]] = (), *, unit: str = "chunks") -> None:  # fmt: skip
        """Add a check to the step: a warning if `number` is not 0, not applicable if the schema has no rule.

        `unit`: "values" for a sum over fields, in which one chunk may count more than once.
        """
        bad = applies and number > 0
        verdict = Verdict.WARNING if bad else Verdict.PASS if applies else Verdict.NOT_APPLICABLE
        if not bad:
            detail = "" if applies else f"Schema {self.schema.name} has no rule for it."
        self.run.check(
            name, verdict, measured=number, threshold=0, unit=unit, reason=reason, detail=detail,
            offenders=number if bad else 0, ids=ids if bad else (),
        )  # fmt: skip


def _example(scan: Scan, name: str, collection: str) -> str:
    places = scan.places.every(f"contradicts_{name}")
    return next((f"{place.id}: {place.detail}" for place in places if place.collection == collection), "")


def _count(scan: Scan, name: str, collection: str) -> int:
    return scan.fields[name].present[collection] if name in scan.fields else 0


def _present(scan: Scan, name: str) -> int:
    return sum(scan.fields[name].present.values()) if name in scan.fields else 0


def _ranked(counts: Counter[str], most: int | None = None) -> str:
    return ", ".join(f"{name} {n}" for name, n in counts.most_common(most))

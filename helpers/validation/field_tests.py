"""What chunks show of a schema's fields: what the target holds by itself, and what of it the source held already.

`comparison` already says whether a chunk is what was expected. `FieldTests` ask the target alone, as the runbook's validator
(A27) does, so that an error in the expectation cannot hide one in the target. `FieldValues` counts values on both
sides apart, since a default fills a field and adds no knowledge.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from helpers.chunks import ChunkBatch
from helpers.results import kind_of
from helpers.snapshots.comparison import show

if TYPE_CHECKING:  # a schema brings pandera, for which a status need not wait
    from helpers.schema import Schema, Transformed

COMPLETENESS, DISTRIBUTION, TYPES, CITATIONS = "completeness", "distribution", "field_types", "citation_uris"
_KEPT = 1_000  # offenders named per test; all are counted


def type_field(schema: Schema) -> str:
    """The field that holds a chunk's type, by which it was routed; "" where the schema has none."""
    return next((rule.name for rule in schema.fields if rule.fixed == "{routing}"), "")


def dated_fields(schema: Schema) -> dict[str, re.Pattern[str]]:
    """The fields whose pattern holds a day of the calendar (a group named `date`): citation URIs."""
    patterns = {rule.name: re.compile(rule.pattern) for rule in schema.fields if rule.pattern is not None}
    return {name: pattern for name, pattern in patterns.items() if "date" in pattern.groupindex}


class FieldTests:
    """The four tests, fed batch by batch. `counts[test]` are chunks that fail, `offenders[test]` name at most 1,000."""

    def __init__(self, schema: Schema, targets: Mapping[str, str | None], sources: Collection[str]) -> None:
        self._schema, self._targets, self._sources = schema, targets, sources
        self._type, self._dated = type_field(schema), dated_fields(schema)
        self.checked = 0
        self.counts: Counter[str] = Counter()
        self.offenders: dict[str, list[dict[str, str]]] = defaultdict(list)

    def add(self, target: str, batch: ChunkBatch) -> None:
        """The next chunks of a target collection, as read back."""
        self.checked += len(batch)
        if self._schema.is_identity:
            return
        faults = self._schema.check(batch, self._targets[target], collection=target, source_collections=self._sources)
        for kind, test in (("missing_", COMPLETENESS), ("invalid_", TYPES)):
            these = faults[faults["reason"].str.startswith(kind)]
            for chunk, rows in these.groupby("id", sort=True):
                names = ", ".join(str(reason).removeprefix(kind) for reason in rows["reason"])
                details = "; ".join(str(detail) for detail in rows["detail"] if detail)
                self._note(test, target, str(chunk), f"{names}: {details}" if details else names)
        from helpers.schema.rules import real_match

        for chunk, metadata in zip(batch.ids, batch.metadatas, strict=True):
            values = metadata or {}
            if self._type and values.get(self._type) != self._targets[target]:
                self._note(DISTRIBUTION, target, chunk, f"{self._type} is {show(values.get(self._type))}")
            for name, pattern in self._dated.items():
                if not (isinstance(value := values.get(name), str) and real_match(pattern, value)):
                    self._note(CITATIONS, target, chunk, f"{name} is {show(value)}")

    def _note(self, test: str, target: str, chunk: str, detail: str) -> None:
        self.counts[test] += 1
        if len(self.offenders[test]) < _KEPT:
            self.offenders[test].append({"collection": target, "id": chunk, "detail": detail})


class FieldValues:
    """Values of the schema's fields before and after, and what the schema did in between, by field and rule.

    Of the same chunks on both sides: those that belong in the target. A field that is `optional` is not due.
    """

    KINDS = ("changed", "derived", "set", "default")

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self.chunks = 0
        self.complete = {"before": 0, "after": 0}  # chunks that hold every field that is due
        self.due: Counter[str] = Counter()  # by field
        self.present: dict[str, Counter[str]] = {"before": Counter(), "after": Counter()}
        self.changes: Counter[tuple[str, str, str]] = Counter()  # by field, rule and kind
        self.rewritten = 0
        self.rewritten_example: tuple[str, str] | None = None
        self.contradictions: dict[str, Counter[tuple[str, str]]] = {"before": Counter(), "after": Counter()}
        self.contradicting: dict[str, list[dict[str, str]]] = {"before": [], "after": []}  # the first 1,000 of each

    def add_source(self, moved: Transformed, batch: ChunkBatch, kept: Sequence[int]) -> None:
        """Chunks of a source collection as they are (`batch`) and as the schema moves them; `kept` go to the target."""
        self.chunks += len(kept)
        for i in kept:
            if moved.batch.ids[i] != moved.source_ids[i]:
                self.rewritten += 1
                self.rewritten_example = self.rewritten_example or (moved.source_ids[i], moved.batch.ids[i])
            names = self._due(moved.types[i])
            self.due.update(names)
            self._present("before", names, batch.metadatas[i])
        ids = {moved.source_ids[i] for i in kept}
        for chunk, name, rule in zip(*(moved.repairs[key] for key in ("id", "field", "rule")), strict=True):
            if chunk in ids:
                self.changes[str(name), rule, kind_of(rule)] += 1
        kinds = [moved.types[i] for i in kept]
        self._contradictions("before", moved.collection, batch.take(kept), kinds)

    def add_target(self, target: str, kind: str | None, found: ChunkBatch) -> None:
        """Chunks of a target collection as they were read back."""
        names = self._due(kind)
        for metadata in found.metadatas:
            self._present("after", names, metadata)
        self._contradictions("after", target, found, [kind] * len(found))

    def _due(self, kind: str | None) -> list[str]:
        return [rule.name for rule in self._schema.rules(kind) if not rule.optional]

    def _present(self, side: str, names: Sequence[str], metadata: Mapping[str, Any] | None) -> None:
        values = metadata or {}
        there = [name for name in names if values.get(name) is not None]
        self.present[side].update(there)
        self.complete[side] += len(there) == len(names)

    def _contradictions(self, side: str, collection: str, batch: ChunkBatch, kinds: Sequence[str | None]) -> None:
        for i, name, detail in self._schema.contradictions(batch, kinds):
            self.contradictions[side][collection, name] += 1
            if len(self.contradicting[side]) < _KEPT:
                row = {"collection": collection, "id": batch.ids[i], "field": name, "detail": detail}
                self.contradicting[side].append(row)

    def table(self) -> list[dict[str, Any]]:
        """One row a field: chunks that must have it, values before and after, kept as they were, and by kind what was done."""
        done: Counter[tuple[str, str]] = Counter()
        for (name, _, kind), chunks in self.changes.items():
            done[name, kind] += chunks
        rows = []
        for name, chunks in self.due.items():
            kinds = {kind: done[name, kind] for kind in self.KINDS}
            sides = {side: self.present[side][name] for side in ("before", "after")}
            rows.append({"field": name, "chunks": chunks, **sides, "kept": chunks - sum(kinds.values()), **kinds})
        return rows

    def summary(self) -> dict[str, Any]:
        """The fact `metadata` of a step; shares are of values that are due (0 to 1)."""
        due = sum(self.due.values())
        kinds: Counter[str] = Counter()
        for (_, _, kind), chunks in self.changes.items():
            kinds[kind] += chunks
        example = self.rewritten_example
        complete = {
            s: {"chunks": n, "share": n / self.chunks if self.chunks else 1.0} for s, n in self.complete.items()
        }
        shares = {f"values_{s}": there.total() / due if due else 1.0 for s, there in self.present.items()}
        changes = [
            dict(zip(("field", "rule", "kind"), k, strict=True), chunks=n) for k, n in sorted(self.changes.items())
        ]
        return {
            "chunks": self.chunks,
            **complete,
            "values": due,
            **shares,
            **{kind: kinds[kind] for kind in ("changed", "derived", "set")},
            "defaults": kinds["default"],
            "changes": changes,
            "fields": self.table(),
            "ids_rewritten": {"chunks": self.rewritten, "before": example[0], "after": example[1]} if example else None,
        }

    def contradicted(self, side: str) -> list[dict[str, Any]]:
        """One row a collection and field whose values the documents rule out: chunks, and those of the first 1,000 with ids."""
        named: dict[tuple[str, str], list[str]] = defaultdict(list)
        for row in self.contradicting[side]:
            named[row["collection"], row["field"]].append(f"{row['id']}: {row['detail']}")
        return [
            {"collection": place[0], "field": place[1], "chunks": n, "example": "; ".join(named[place][:20])}
            for place, n in sorted(self.contradictions[side].items())
        ]

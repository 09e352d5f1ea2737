"""What every chunk of the target must show by itself under a schema: fields, types, its collection, its citation URI.

`comparison` already says whether a chunk is what was expected. These tests ask the target alone, as the runbook's
validator (A27) does, so that an error in the expectation cannot hide one in the target.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from helpers.chunks import ChunkBatch
from helpers.snapshots.comparison import show

if TYPE_CHECKING:  # a schema brings pandera, for which a status need not wait
    from helpers.schema import Schema

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
        self.offenders: dict[str, list[dict[str, str]]] = {
            test: [] for test in (COMPLETENESS, DISTRIBUTION, TYPES, CITATIONS)
        }

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

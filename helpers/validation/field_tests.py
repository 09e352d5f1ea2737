"""What every chunk of the target must show by itself under a schema: fields, types, its collection, its citation URI.

`comparison` already says whether a chunk is what was expected. These tests ask the target alone, as the runbook's
validator (A27) does, so that an error in the expectation cannot hide one in the target.
"""

from __future__ import annotations

import datetime
import re
from collections import Counter
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from helpers.chunks import ChunkBatch
from helpers.snapshots.comparison import show

if TYPE_CHECKING:  # a schema brings pandera, for which a status need not wait
    from helpers.schema import Schema

COMPLETENESS, DISTRIBUTION, TYPES, CITATIONS = "completeness", "distribution", "field_types", "citation_uris"
TYPE_FIELD, CITATION_FIELD, ORIGIN_FIELD = "collection_type", "if_citation_uri", "source_collection"

_CITATION = re.compile(r"if://citation/.+-(\d{4}-\d{2}-\d{2})", re.DOTALL)
_KEPT = 1_000  # offenders named per test; all are counted


def has_field(schema: Schema, name: str) -> bool:
    """Whether the schema names this field."""
    return any(rule.name == name for rule in schema.fields)


def is_citation(value: Any) -> bool:
    """Empty, or if://citation/<id>-YYYY-MM-DD with a date that exists."""
    if value == "":
        return True
    found = _CITATION.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        return False
    try:
        datetime.date.fromisoformat(found[1])
    except ValueError:
        return False
    return True


class FieldTests:
    """The four tests, fed batch by batch. `counts[test]` are chunks that fail, `offenders[test]` name at most 1,000."""

    def __init__(self, schema: Schema, targets: Mapping[str, str | None], sources: Collection[str]) -> None:
        self._schema, self._targets, self._sources = schema, targets, sources
        self._typed, self._cited = has_field(schema, TYPE_FIELD), has_field(schema, CITATION_FIELD)
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
        for chunk, metadata in zip(batch.ids, batch.metadatas, strict=True):
            values = metadata or {}
            if self._typed and values.get(TYPE_FIELD) != self._targets[target]:
                self._note(DISTRIBUTION, target, chunk, f"{TYPE_FIELD} is {show(values.get(TYPE_FIELD))}")
            if self._cited and not is_citation(values.get(CITATION_FIELD)):
                self._note(CITATIONS, target, chunk, f"{CITATION_FIELD} is {show(values.get(CITATION_FIELD))}")

    def _note(self, test: str, target: str, chunk: str, detail: str) -> None:
        self.counts[test] += 1
        if len(self.offenders[test]) < _KEPT:
            self.offenders[test].append({"collection": target, "id": chunk, "detail": detail})

"""The independent check of metadata against a schema: columns of values under a pandera DataFrameSchema.

The transformation settles values one by one in Python; this looks at whole columns with pandas and shares none of that
code, so it can find its mistakes. Lazy: every fault of every chunk is found in one pass.
"""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

import pandas as pd
import pandera.pandas as pa

from helpers.chunks import Metadata
from helpers.schema.file import FieldRule
from helpers.schema.rules import INT64_MAX, INT64_MIN, show
from helpers.schema.values import listed

Column = pd.Series
Fault = tuple[int, str, str]
_lock = threading.Lock()  # pandera sets the name and state of its schema objects while it validates


class FieldChecks:
    """The fields of one collection type (None: a schema without types), compiled once."""

    def __init__(self, rules: Sequence[FieldRule], kind: str | None) -> None:
        self._rules = {rule.name: rule for rule in rules}
        self._origins = [rule.name for rule in rules if rule.fixed == "{source_collection}"]
        columns = {rule.name: _column(rule, kind) for rule in rules}
        self._schema = pa.DataFrameSchema(columns) if columns else None

    def faults(
        self, metadatas: Sequence[Metadata | None], source_collections: Collection[str] | None = None
    ) -> list[Fault]:
        """(position, reason, detail) of every fault, in order of position."""
        if self._schema is None or not metadatas:
            return []
        columns = {name: [(m or {}).get(name) for m in metadatas] for name in self._rules}
        frame = pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in columns.items()})
        found = self._failure_cases(frame)
        if source_collections is not None:
            for name in self._origins:
                wrong = frame[name].notna() & ~frame[name].isin(list(source_collections))
                found |= {(int(i), f"invalid_{name}") for i in frame.index[wrong]}
        return [(i, reason, self._detail(reason, columns, i)) for i, reason in sorted(found)]

    def _failure_cases(self, frame: pd.DataFrame) -> set[tuple[int, str]]:
        assert self._schema is not None
        try:
            with _lock:
                self._schema.validate(frame, lazy=True)
        except pa.errors.SchemaErrors as errors:
            cases = errors.failure_cases
            return {(int(i), str(reason)) for i, reason in zip(cases["index"], cases["check"], strict=True)}
        return set()

    def _detail(self, reason: str, columns: dict[str, list[Any]], i: int) -> str:
        kind, _, name = reason.partition("_")
        return "the field is missing" if kind == "missing" else show(columns[name][i])


def _column(rule: FieldRule, kind: str | None) -> pa.Column:
    """Nullable for pandera, whose idea of null includes NaN: that a value is missing is a check of our own."""
    checks = [pa.Check(partial(_valid, rule, kind), error=f"invalid_{rule.name}", ignore_na=False)]
    if not rule.optional:
        checks.append(pa.Check(_there, error=f"missing_{rule.name}", ignore_na=False))
    return pa.Column(object, checks, nullable=True)


def _there(column: Column) -> Column:
    return column.map(lambda value: value is not None).astype(bool)


def _valid(rule: FieldRule, kind: str | None, column: Column) -> Column:
    """Per value: absent (another check's matter), or of the field's type and within its rules."""
    absent = ~_there(column)
    typed = column.map(_IS_TYPE[rule.type]).astype(bool)
    values = column[typed]
    good = pd.Series(True, index=values.index)
    if rule.not_empty:
        good &= values.str.strip().str.len() > 0
    if rule.allowed:
        good &= values.isin(rule.allowed)
    if rule.pattern is not None:
        good &= _matches(values, rule.pattern)
    if rule.fixed == "{routing}":
        good &= values == kind
    if rule.minimum is not None:
        good &= values >= rule.minimum
    if rule.maximum is not None:
        good &= values <= rule.maximum
    return absent | good.astype(bool).reindex(column.index, fill_value=False)


def _matches(values: Column, pattern: str) -> Column:
    """Whole matches; what a group named `date` holds must be a day of the calendar, YYYY-MM-DD."""
    regex = re.compile(pattern)
    found = values.map(regex.fullmatch)
    good = found.notna()
    if "date" in regex.groupindex:
        days = found[good].map(lambda match: match["date"]).dropna().astype(object)
        real = pd.to_datetime(days, format="%Y-%m-%d", errors="coerce").notna() & (days.str.len() == 10)
        good[days.index] = real
    return good


def _is_texts(value: object) -> bool:
    """A list of texts with at least one, or the JSON text of one (a target without lists)."""
    texts = listed(value) if isinstance(value, str) else value
    return type(texts) is list and bool(texts) and all(type(text) is str for text in texts)


_IS_TYPE: dict[str, Callable[[Any], bool]] = {
    "string": lambda value: type(value) is str,
    "integer": lambda value: type(value) is int and INT64_MIN <= value <= INT64_MAX,
    "float": lambda value: type(value) is float and math.isfinite(value),
    "boolean": lambda value: type(value) is bool,
    "strings": _is_texts,
}

"""What a migration does to ids and metadata, as data: a schema file read into `Schema`.

`Schema.transform` routes, fills, coerces and repairs a batch; `Schema.check` proves the outcome by other means, and what the
target gives back. `identity` is the schema that changes nothing.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import math
import re
import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

import pandas as pd

from helpers.chunks import ChunkBatch, Metadata, is_sparse
from helpers.errors import UsageError
from helpers.parameters import IDENTITY, schema_file
from helpers.parameters.sections import Migration
from helpers.reason_codes import ReasonCode
from helpers.schema.file import FieldRule, Routing, SchemaFile, read_schema_file
from helpers.schema.rules import (
    ABSENT,
    DERIVATIONS_VERSION,
    INT64_MAX,
    INT64_MIN,
    Fault,
    certain,
    contradicts,
    failure_table,
    hazards,
    in_full,
    listed,
    placeholders,
    plain,
    show,
    vector_failures,
)

if TYPE_CHECKING:
    import pandera.pandas as pa

# -- check: metadata against a schema, as columns of values under a pandera DataFrameSchema ----------------------------
#
# The transformation settles values one by one in Python; this looks at whole columns with pandas and shares none of that
# code, so it can find its mistakes.

Column = pd.Series
_lock = threading.Lock()  # pandera sets the name and state of its schema objects while it validates


class FieldChecks:
    """The fields of one collection type (None: a schema without types), compiled once."""

    def __init__(self, rules: Sequence[FieldRule], kind: str | None) -> None:
        self._rules = {rule.name: rule for rule in rules}
        self._origins = [rule.name for rule in rules if rule.fixed == "{source_collection}"]
        columns = {rule.name: _column(rule, kind) for rule in rules}
        self._schema: pa.DataFrameSchema | None = None
        if columns:
            import pandera.pandas as pa

            self._schema = pa.DataFrameSchema(columns)

    def faults(self, metadatas: Sequence[Metadata | None], source_collections: Collection[str] | None) -> list[Fault]:
        """(position, reason, detail) of every fault, in order of position."""
        if self._schema is None or not metadatas:
            return []
        columns = {name: [(m or {}).get(name) for m in metadatas] for name in self._rules}
        frame = pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in columns.items()})
        found = self._failure_cases(frame)
        if source_collections is not None:
            for name in self._origins:
                wrong = frame[name].notna() & ~frame[name].isin(list(source_collections))
                found |= {(int(i), ReasonCode.INVALID.of(name)) for i in frame.index[wrong]}
        named = [(i, reason, *reason.partition("_")[::2]) for i, reason in sorted(found)]
        return [
            (i, reason, "the field is missing" if kind == "missing" else show(columns[name][i]))
            for i, reason, kind, name in named
        ]

    def _failure_cases(self, frame: pd.DataFrame) -> set[tuple[int, ReasonCode]]:
        import pandera.pandas as pa

        assert self._schema is not None
        try:
            with _lock:
                self._schema.validate(frame, lazy=True)
        except pa.errors.SchemaErrors as errors:
            cases = errors.failure_cases
            return {(int(i), ReasonCode(reason)) for i, reason in zip(cases["index"], cases["check"], strict=True)}
        return set()


def _column(rule: FieldRule, kind: str | None) -> pa.Column:
    """Nullable for pandera, whose idea of null includes NaN: that a value is missing is a check of our own."""
    import pandera.pandas as pa

    checks = [pa.Check(partial(_valid, rule, kind), error=ReasonCode.INVALID.of(rule.name), ignore_na=False)]
    if not rule.optional:
        checks.append(pa.Check(_there, error=ReasonCode.MISSING.of(rule.name), ignore_na=False))
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


# -- engine ------------------------------------------------------------------------------------------------------------

REPAIR_COLUMNS = ("collection", "id", "field", "rule", "before", "after")
NO_SPARSE = "a local Chroma holds no sparse vector; migration.drop_indexes keeps it as text"
REPAIRS: dict[str, str] = {
    "missing": "The field was missing and got its default.",
    "derived": "The field was missing; the document tells its value.",
    "set": "The field was missing; the schema sets it itself.",
    "replaced": "The value was not allowed and was replaced by what the document tells.",
    "coerce": "The value had another type and was converted without loss.",
    "clamp": "The number was out of range and was moved to the nearer bound.",
    "default": "The value was not allowed and was replaced by the default.",
    "fixed": "The schema sets this field itself; the source had another value.",
    "empty": "An empty list, or metadata without any key, became no value: Chroma has neither.",
    "json": "The target holds no lists; the list became a text of JSON.",
    "sparse": "A local Chroma holds no sparse vectors; migration.drop_indexes made it a text of JSON with the same numbers.",
    "drop": "The schema does not name the field and drops what it does not name.",
}


@dataclass(frozen=True, slots=True)
class Context:
    """What a transformation depends on besides the schema and the chunk.

    `date` is the day of the migration (UTC). `id_policy` "prefix" makes ids `<collection>:<id>`. `lists` is whether the
    target's metadata can hold lists. `drop_indexes` are patterns of source collections whose sparse vectors, which a local
    Chroma refuses, become text; elsewhere a chunk that has one is set aside.
    """

    source_collections: frozenset[str]
    date: dt.date
    id_policy: Literal["fail", "prefix"]
    lists: bool = True
    drop_indexes: tuple[str, ...] = ()

    @classmethod
    def of(cls, names: Collection[str], date: dt.date, rules: Migration) -> Context:
        """As the parameters say, for these source collections."""
        return cls(frozenset(names), date, rules.id_policy, drop_indexes=tuple(rules.drop_indexes))


@dataclass(slots=True)
class Transformed:
    """A batch as it is to stand in the target, position by position what came in. Chunks with a failure must not be written.

    `targets` names each chunk's target collection, `types` its collection type (None without routing). `repairs` has
    `REPAIR_COLUMNS`; `failures` collection, id, reason, detail, one row per reason; both with ids of the source.
    """

    batch: ChunkBatch
    collection: str
    targets: list[str]
    types: list[str | None]
    source_ids: list[str]
    repairs: pd.DataFrame
    failures: pd.DataFrame


class Schema:
    """A schema ready for use. `digest` (SHA-256 of its resolved content) is what a resumed run must find unchanged."""

    def __init__(self, content: SchemaFile) -> None:
        self.content = content
        self.name = content.name
        self.digest = _digest(content)
        self.requires_document = content.requires_document
        self.fields: tuple[FieldRule, ...] = tuple(content.fields)
        self.is_identity = not content.fields and content.routing is None and content.unknown == "keep"
        kinds: list[str | None] = list(content.routing.targets) if content.routing else [None]
        self._rules = {kind: (*self.fields, *content.extensions.get(kind or "", ())) for kind in kinds}
        self._checks = {kind: FieldChecks(rules, kind) for kind, rules in self._rules.items()}
        derived = {kind: [r for r in rules if r.derive is not None] for kind, rules in self._rules.items()}
        self._derived = {kind: rules for kind, rules in derived.items() if rules}
        self.derivations = {r.name: str(r.derive) for rules in derived.values() for r in rules}  # by field

    @property
    def origin_fields(self) -> list[str]:
        """The fields that hold every chunk's source collection: a search with one of them as its filter asks that one alone."""
        return [rule.name for rule in self.fields if rule.fixed == "{source_collection}"]

    def rules(self, kind: str | None) -> tuple[FieldRule, ...]:
        """The rules of all fields that a chunk of this type has, core fields first."""
        return self._rules[kind]

    def targets(self, source_collections: Sequence[str]) -> dict[str, str | None]:
        """Every target collection that chunks of these sources may reach, with its type (None without routing)."""
        if self.content.routing is None:
            return dict.fromkeys(source_collections)
        return {name: kind for kind, name in self.content.routing.targets.items()}

    def transform(self, batch: ChunkBatch, collection: str, context: Context) -> Transformed:
        """The batch of one source collection as the schema wants it. Never raises for what a chunk holds."""
        work = _Work(self, batch, collection, context)
        for kind, positions in work.by_type().items():
            for rule in self._rules[kind]:
                work.apply(rule, positions)
            if self.content.unknown == "drop":
                work.drop_unknown({rule.name for rule in self._rules[kind]}, positions)
        return work.finished()

    def check(
        self,
        batch: ChunkBatch,
        target_type: str | None,
        *,
        collection: str = "",
        source_collections: Collection[str] | None = None,
    ) -> pd.DataFrame:
        """Whether metadata keep the schema, by a second opinion: collection, id, reason, detail per fault.

        Only ids and metadata of the batch are looked at. Reasons are `missing_<field>` and `invalid_<field>`. A field fixed to
        `{source_collection}` may have the values `source_collections`, where given.
        """
        faults = self._checks[target_type].faults(batch.metadatas, source_collections)
        return failure_table([(collection, batch.ids[i], reason, detail) for i, reason, detail in faults])

    def failures(
        self,
        done: Transformed,
        context: Context,
        *,
        dimension: int | None,
        allowed_dimensions: Collection[int],
        space: str,
    ) -> pd.DataFrame:
        """All that keeps chunks of a transformed batch from being written: the transformation's failures, `check` and
        `vector_failures`, under the ids of the source, one row per id and reason.
        """
        batch = replace(done.batch, ids=done.source_ids)
        parts = [done.failures]
        for kind in dict.fromkeys(done.types):
            rows = [i for i, found in enumerate(done.types) if found == kind]
            ids, metadatas = [batch.ids[i] for i in rows], [batch.metadatas[i] for i in rows]
            some = ChunkBatch(ids, [None] * len(rows), batch.embeddings[rows, :0], metadatas)
            sources = context.source_collections
            parts.append(self.check(some, kind, collection=done.collection, source_collections=sources))
        needed = self.requires_document
        parts.append(vector_failures(batch, dimension, allowed_dimensions, space, needed, collection=done.collection))
        found = pd.concat([p for p in parts if len(p)] or [done.failures], ignore_index=True)
        return found.drop_duplicates(["collection", "id", "reason"], ignore_index=True)

    def contradictions(self, batch: ChunkBatch, kinds: Sequence[str | None]) -> list[tuple[int, str, str]]:
        """(position, field, detail) where a field with `derive` holds what its document rules out; a type for each chunk."""
        found = []
        for i, kind in enumerate(kinds if self._derived else ()):
            metadata = batch.metadatas[i] or {}
            rules = [rule for rule in self._derived.get(kind, ()) if metadata.get(rule.name) is not None]
            told = certain(batch.documents[i], self.derivations.values()) if rules else {}
            for rule in rules:
                value, document = metadata[rule.name], told.get(str(rule.derive))
                if document is not None and contradicts(str(rule.derive), value, document):
                    found.append((i, rule.name, f"{show(value)}, the document tells {show(document)}"))
        return found


def _digest(content: SchemaFile) -> str:
    """Of the content as read. A field without `derive`, and so every schema of before, has the digest that it had."""
    raw = content.model_dump(mode="json")
    rules = [*raw["fields"], *(rule for extra in raw["extensions"].values() for rule in extra)]
    if any(rule["derive"] for rule in rules):
        raw["derivations"] = DERIVATIONS_VERSION
    for rule in rules:
        if rule["derive"] is None:
            del rule["derive"]
    return hashlib.sha256(json.dumps(raw, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def load_schema(name_or_path: str) -> Schema:
    """`identity`, a schema of parameters/schemas by name, or a schema file by path. UsageError where it is unusable."""
    try:
        path = schema_file(name_or_path)
    except ValueError as error:
        raise UsageError(
            ReasonCode.SCHEMA_UNKNOWN, str(error), where="schema", next_step="Correct the parameter."
        ) from error
    return Schema(SchemaFile(name=IDENTITY) if path is None else read_schema_file(path))


class _Work:
    """One batch being transformed, field by field over all chunks of a type."""

    def __init__(self, schema: Schema, batch: ChunkBatch, collection: str, context: Context) -> None:
        self.batch, self.collection, self.context, self.schema = batch, collection, context, schema
        prefix = f"{collection}:" if context.id_policy == "prefix" else ""
        self.ids = [prefix + source_id for source_id in batch.ids]
        self.metadatas: list[Metadata] = [plain(m) if m else {} for m in batch.metadatas]
        self.repairs: list[tuple[str, str, str, str, str, str]] = []
        self.failures: list[Fault] = []
        self.told: dict[int, dict[str, Any]] = {}  # by position: what the document tells
        if not schema.is_identity:
            self.metadatas = [dict(m) for m in self.metadatas]  # the caller's own stay as they are
        self.types: list[str | None] = [None] * len(batch)
        if (routing := schema.content.routing) is not None:
            by_name = type_by_name(routing, collection)
            own = [m.get(routing.field) if routing.field else None for m in self.metadatas]
            self.types = [kind if type(kind) is str and kind in routing.targets else by_name for kind in own]

    def by_type(self) -> Mapping[str | None, list[int]]:
        groups: dict[str | None, list[int]] = defaultdict(list)
        for i, kind in enumerate(self.types):
            groups[kind].append(i)
        return groups

    def apply(self, rule: FieldRule, positions: list[int]) -> None:
        """Give the field its value in every chunk of these positions."""
        for i in positions:
            value = self.metadatas[i].get(rule.name, ABSENT)
            if rule.fixed is not None:
                wanted = self._render(rule.fixed, i)
                if type(value) is not str or value != wanted:
                    self._repair(i, rule.name, "set" if _missing(value) else "fixed", value, wanted)
            elif _missing(value):
                self._fill(rule, i, value)
            else:
                self._settle(rule, i, value)

    def _fill(self, rule: FieldRule, i: int, value: Any) -> None:
        if (told := self._told(rule, i)) is not ABSENT:
            self._repair(i, rule.name, "derived", value, told)
        elif rule.default is not None:
            self._repair(i, rule.name, "missing", value, self._default(rule, i))
        elif not rule.optional:
            self.failures.append((i, ReasonCode.MISSING.of(rule.name), "the field is missing"))
        elif value is None:
            self._repair(i, rule.name, "empty", value, ABSENT)

    def _settle(self, rule: FieldRule, i: int, value: Any) -> None:
        outcome, new = rule.settle(value)
        if outcome == "reject":
            self.failures.append((i, ReasonCode.INVALID.of(rule.name), show(value)))
        elif outcome == "coerce" and not self.context.lists and _as_json(new) == value:
            pass  # a list that already is the JSON text which it would become
        elif outcome == "default":
            told = self._told(rule, i)
            by, new = ("default", self._default(rule, i)) if told is ABSENT else ("replaced", told)
            self._repair(i, rule.name, by, value, new)
        elif outcome:
            self._repair(i, rule.name, outcome, value, new)
        if outcome == "empty" and not rule.optional:
            self.failures.append((i, ReasonCode.MISSING.of(rule.name), "the list is empty"))

    def _told(self, rule: FieldRule, i: int) -> Any:
        """What the document tells for this field; ABSENT where that is not certain, or not allowed."""
        if rule.derive is None:
            return ABSENT
        if i not in self.told:
            self.told[i] = certain(self.batch.documents[i], self.schema.derivations.values())
        value = self.told[i].get(rule.derive, ABSENT)
        return value if value is not ABSENT and rule.allows(value) else ABSENT

    def _default(self, rule: FieldRule, i: int) -> Any:
        if rule.default is None:
            return ABSENT
        if not isinstance(rule.default, str):
            return rule.default
        text = self._render(rule.default, i)
        return int(text) if rule.type == "integer" else text

    def _render(self, template: str, i: int) -> str:
        names = placeholders(template)
        return template.format_map({name: self._placeholder(name, i) for name in names})

    def _placeholder(self, name: str, i: int) -> str:
        if name == "word_count":
            return str(len((self.batch.documents[i] or "").split()))
        if name == "uri_id":
            return quote(self.ids[i], safe="", errors="surrogatepass")
        return {
            "source_collection": self.collection,
            "date": self.context.date.isoformat(),
            "routing": self.types[i] or "",
            "id": self.ids[i],
        }[name]

    def drop_unknown(self, known: set[str], positions: list[int]) -> None:
        for i in positions:
            for key in [k for k in self.metadatas[i] if k not in known]:
                self._repair(i, key, "drop", self.metadatas[i][key], ABSENT)

    def _repair(self, i: int, field: object, rule: str, before: Any, after: Any) -> None:
        if after is ABSENT:
            self.metadatas[i].pop(field, None)  # type: ignore[call-overload]  # a foreign key may be no text
        else:
            self.metadatas[i][str(field)] = after
        row = (self.collection, self.batch.ids[i], field if isinstance(field, str) else show(field), rule)
        self.repairs.append((*row, in_full(before), in_full(after)))

    def finished(self) -> Transformed:
        whole: list[Metadata | None] = [m or None for m in self.metadatas]
        for i, before in enumerate(self.batch.metadatas):
            if before is not None and not before:
                self.repairs.append((self.collection, self.batch.ids[i], "", "empty", "{}", show(whole[i])))
        batch = replace(self.batch, ids=self.ids, metadatas=whole)
        faults = [*self.failures, *hazards(self.batch.ids, batch)]
        if not self.context.lists:
            self._as_text("json", lambda value: type(value) is list, _as_json)
        if any(fnmatchcase(self.collection, pattern) for pattern in self.context.drop_indexes):
            self._as_text("sparse", is_sparse, sparse_as_text)
        for i, metadata in enumerate(self.metadatas):
            if keys := [key for key, value in metadata.items() if is_sparse(value)]:
                faults.append((i, ReasonCode.UNSUPPORTED_METADATA, f"{show(keys[0])}: {NO_SPARSE}"))
        batch.metadatas = [m or None for m in self.metadatas]
        rows = [(self.collection, self.batch.ids[i], reason, detail) for i, reason, detail in sorted(faults)]
        routing = self.schema.content.routing
        return Transformed(
            batch=batch,
            collection=self.collection,
            targets=[routing.targets[kind] if routing and kind else self.collection for kind in self.types],
            types=self.types,
            source_ids=list(self.batch.ids),
            repairs=pd.DataFrame(self.repairs, columns=list(REPAIR_COLUMNS), dtype=object),
            failures=failure_table(rows),
        )

    def _as_text(self, rule: str, applies: Callable[[Any], bool], spelled: Callable[[Any], str]) -> None:
        """Metadata values that the target cannot hold, as text."""
        for i, metadata in enumerate(self.metadatas):
            keys = [key for key, value in metadata.items() if applies(value)]
            if keys:
                self.metadatas[i] = dict(metadata)
            for key in keys:
                self._repair(i, key, rule, metadata[key], spelled(metadata[key]))


def sparse_as_text(vector: Any) -> str:
    """A sparse vector as the JSON that Chroma itself sends for it: `{"#type": "sparse_vector", "indices": …}`."""
    return json.dumps(vector.to_dict(), separators=(",", ":"))


def type_by_name(routing: Routing, collection: str) -> str:
    """The type of a source collection's chunks by its name: the first rule that fits, else `otherwise`."""
    name = collection.casefold()
    return next((rule.type for rule in routing.by_name if rule.contains.casefold() in name), routing.otherwise)


def _missing(value: Any) -> bool:
    return value is ABSENT or value is None


def _as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=repr)

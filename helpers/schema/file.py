"""A schema file: its typed form, reading and compiling it, and how one field settles one value.

People write it in YAML, as docs/schemas.md describes. Unknown and repeated keys are refused.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from ruamel.yaml import YAML

from helpers.chunks import Metadata
from helpers.errors import UsageError
from helpers.formatting import dotted
from helpers.parameters.model import NOT_YAML, explain, nearest, read_yaml_mapping
from helpers.reason_codes import ReasonCode
from helpers.results import contents
from helpers.schema.expressions import DERIVED_TYPES, FUNCTIONS, VARIABLES, Expression, Language, pattern, read_table
from helpers.schema.rules import (
    ABSENT,
    INT64_MAX,
    INT64_MIN,
    PYTHON_TYPES,
    FieldType,
    as_number,
    coerce,
    key_problem,
    placeholders,
    real_match,
    show,
)

_COLLECTION_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{1,510}[a-zA-Z0-9]")  # as chromadb 1.5.9 says in its refusal


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class FieldRule(_Part):
    """What one metadata field must be, what fills it when missing and what becomes of a wrong value.

    `default` and `fixed` are templates (see `placeholders`). `value` is an expression, which gives the field its value wherever
    the condition `when` holds.
    `derive` names what a missing or wrong value is taken from
    first, where the document tells it for certain (`schema.derive`). `repair` says what happens to a value that is neither
    right nor can be made right without loss: `clamp` moves a finite number to the nearer bound (any other value gets
    the default, or is rejected where there is none), `default` replaces it, `reject` sets the chunk aside.
    """

    name: str
    type: FieldType
    default: str | int | float | bool | None = None
    fixed: str | None = None
    value: str | None = None
    when: str | None = None
    derive: Literal["language", "includes_spanish", "word_count"] | None = None
    optional: bool = False
    not_empty: bool = False
    allowed: tuple[str, ...] = ()
    pattern: str | None = None
    minimum: int | float | None = None
    maximum: int | float | None = None
    repair: Literal["clamp", "default", "reject"] = "reject"

    @field_validator("name")
    @classmethod
    def _legal_key(cls, name: str) -> str:
        problem = key_problem(name)
        if problem:
            raise ValueError(f"{show(name)} cannot be a metadata field: {problem}")
        return name

    @field_validator("pattern")
    @classmethod
    def _legal_pattern(cls, pattern: str | None) -> str | None:
        try:
            re.compile(pattern or "")
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
        return pattern

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.type != "string" and (self.not_empty or self.allowed or self.pattern or self.fixed is not None):
            raise ValueError("not_empty, allowed, pattern and fixed are for fields of type string")
        if not self.is_number and self.has_bounds:
            raise ValueError("minimum and maximum are for fields of type integer and float")
        if self.is_number:
            self._number_bounds()
        if self.repair == "clamp" and not self.has_bounds:
            raise ValueError("repair: clamp needs a minimum or a maximum")
        if self.repair == "default" and self.default is None and not self.optional and self.fixed is None:
            raise ValueError("repair: default needs a default (or optional: true)")
        for text in (self.default, self.fixed):
            if isinstance(text, str):
                placeholders(text)
        if self.when is not None and self.value is None:
            raise ValueError("when needs a value, the expression to compute where it holds")
        if self.value is not None and (self.fixed is not None or self.derive is not None):
            raise ValueError("value has no effect beside fixed or derive: leave one out")
        self._legal_derive()
        self._legal_default()
        return self

    def _legal_derive(self) -> None:
        if self.derive is None:
            return
        required = DERIVED_TYPES[self.derive]
        if self.type != required:
            raise ValueError(f"derive: {self.derive} makes a value of type {required}, not {self.type}")
        if self.fixed is not None:
            raise ValueError("derive has no effect beside fixed: leave one out")
        refused = [v for v in ("es", "en", "es_en") if self.derive == "language" and not self.allows(v)]
        if refused:
            raise ValueError(f"derive: language gives {refused[0]!r}, which the field does not allow")

    def _number_bounds(self) -> None:
        kind = float if self.type == "float" else int
        for name in ("minimum", "maximum"):
            bound = getattr(self, name)
            if bound is not None and kind(bound) != bound:
                raise ValueError(f"{name} {bound} is not of type {self.type}")
            object.__setattr__(self, name, None if bound is None else kind(bound))  # 0 and 0.0 digest alike
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise ValueError(f"minimum {self.minimum} is above maximum {self.maximum}")

    def _legal_default(self) -> None:
        if self.default is None:
            return
        if self.optional or self.fixed is not None:
            raise ValueError("default has no effect beside optional or fixed: leave one out")
        if isinstance(self.default, str) and placeholders(self.default):
            if self.type == "string" or (self.type == "integer" and self.default == "{word_count}"):
                return
            raise ValueError(f"default {self.default!r} does not make a value of type {self.type}")
        if self.type == "float" and type(self.default) is int:
            object.__setattr__(self, "default", float(self.default))
        value = self.default.format() if isinstance(self.default, str) else self.default
        if type(value) is not PYTHON_TYPES[self.type] or not self.allows(value):
            raise ValueError(f"default {self.default!r} is not a legal value of the field itself")

    @property
    def is_number(self) -> bool:
        return self.type in ("integer", "float")

    @property
    def has_bounds(self) -> bool:
        return self.minimum is not None or self.maximum is not None

    @cached_property
    def _regex(self) -> re.Pattern[str]:
        return re.compile(self.pattern or "")

    def allows(self, value: Any) -> bool:
        """Whether a value that already has the field's type keeps its rules."""
        if self.type == "string":
            if (self.not_empty and not value.strip()) or (self.allowed and value not in self.allowed):
                return False
            return self.pattern is None or real_match(self._regex, value)
        return not self.is_number or self._bound(value) is None

    def _bound(self, number: float) -> float | None:
        """The bound that a number lies beyond, or None."""
        if self.minimum is not None and number < self.minimum:
            return self.minimum
        return self.maximum if self.maximum is not None and number > self.maximum else None

    def settle(self, value: Any) -> tuple[str, Any]:
        """What becomes of a value that is there: (rule, new value).

        Rules: "" (kept), "coerce", "clamp", "empty" (an empty list: no value), "default" (the caller fills it in) and
        "reject".
        """
        right_type = type(value) is PYTHON_TYPES[self.type] and self.type != "strings"
        if right_type and self._in_range(value) and self.allows(value):
            return "", value
        if self.type == "strings" and type(value) in (str, list) and value in ("", "[]", []):
            return "empty", ABSENT
        typed = coerce(value, self.type)
        if typed is not ABSENT and self.allows(typed):
            return ("" if type(typed) is type(value) and typed == value else "coerce"), typed
        if self.repair == "clamp":
            number = as_number(value)
            bound = None if number is None else self._bound(number)
            if bound is not None:
                return "clamp", bound
        fallible = self.repair == "reject" or (self.repair == "clamp" and self.default is None and not self.optional)
        return ("reject", value) if fallible else ("default", ABSENT)

    def _in_range(self, value: Any) -> bool:
        """Whether Chroma can hold the number as it is: 64 bits, finite."""
        if self.type == "integer":
            return bool(INT64_MIN <= value <= INT64_MAX)
        return self.type != "float" or math.isfinite(value)


def _legal_collection(name: str) -> None:
    if not _COLLECTION_NAME.fullmatch(name) or ".." in name:
        raise ValueError(f"{show(name)} cannot be the name of a collection")


class NameRule(_Part):
    """Source collections whose name contains the text (upper and lower case alike) hold chunks of this type."""

    contains: str = Field(min_length=1)
    type: str


class Routing(_Part):
    """Where a chunk goes: by its own `field` if that names a type, else by its source's name, else to `otherwise`."""

    targets: dict[str, str] = Field(min_length=1)  # type → target collection
    otherwise: str
    field: str | None = None
    by_name: tuple[NameRule, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for kind in (self.otherwise, *(rule.type for rule in self.by_name)):
            if kind not in self.targets:
                raise ValueError(f"type {kind!r} has no target; known types: {', '.join(self.targets)}")
        for name in self.targets.values():
            _legal_collection(name)
        if len(set(self.targets.values())) < len(self.targets):
            raise ValueError("two types share a target collection")
        return self


Texts = tuple[str, ...]
Place = tuple[str | int, ...]


class _Misplaced(ValueError):
    """A fault in a part of the file that only the whole file shows, and its place."""

    def __init__(self, place: Place, problem: str) -> None:
        super().__init__(f"'{dotted(place)}': {problem}")
        self.place = place


class _Scoped(_Part):
    """A rule for the source collections whose name fits one of `only` (globs); for all where there is none."""

    only: Texts = ()

    def applies(self, collection: str) -> bool:
        return not self.only or any(fnmatchcase(collection, glob) for glob in self.only)


class _OfFields(_Scoped):
    """A rule for fields, by name or glob."""

    fields: Texts = ()

    def matching_keys(self, metadata: Mapping[Any, Any]) -> list[str]:
        """The keys of these metadata that the rule applies to."""
        if not self.fields:
            return []
        return [key for key in metadata if isinstance(key, str) and any(fnmatchcase(key, glob) for glob in self.fields)]


class LookupTable(_Part):
    """A lookup table: two columns of a CSV file beside the schema. An expression asks it as `<its name>(key)`."""

    file: str
    key: str
    value: str
    _rows: dict[str, str] = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _read(self, info: ValidationInfo) -> Self:
        path = (info.context or {}).get("folder", Path()) / self.file
        self._rows.update(read_table(path, self.key, self.value))
        object.__setattr__(self, "file", str(path))  # absolute, so that a copy of the schema elsewhere finds it, too
        return self

    @property
    def rows(self) -> dict[str, str]:
        return self._rows

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self._rows, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()


class LeaveOut(_Scoped):
    """Chunks for which `when` holds are not migrated; `because` is what people who sign read."""

    when: str
    because: str = ""


class Move(_Part):
    """Chunks of the collections whose name fits `from` go to `to`, where `when` holds. The first rule that fits counts."""

    source: str = Field(alias="from", min_length=1)
    to: str
    when: str | None = None

    @model_validator(mode="after")
    def _legal(self) -> Self:
        unknown = [name for name in placeholders(self.to) if name != "source_collection"]
        if unknown:
            raise ValueError(f"'to' may hold {{source_collection}}, not {{{unknown[0]}}}")
        _legal_collection(self.target("abc"))
        return self

    def target(self, collection: str) -> str:
        return self.to.format(source_collection=collection)


class Rename(_Scoped):
    """The value of a field gets another name."""

    source: str = Field(alias="from", min_length=1)
    to: str

    @field_validator("to")
    @classmethod
    def _legal_key(cls, name: str) -> str:
        return FieldRule._legal_key(name)


class Drop(_OfFields):
    """Fields, by name or glob, that do not come along."""

    fields: Texts = Field(min_length=1)


class Replace(_OfFields):
    """What a pattern finds in fields (names or globs) or in the document is replaced; `\\1` is its first group."""

    pattern: str
    replacement: str = Field(alias="with")
    document: bool = False

    @model_validator(mode="after")
    def _legal(self) -> Self:
        regex = pattern(self.pattern)
        if not self.fields and not self.document:
            raise ValueError("name what it is for: fields, or document: true")
        groups = [int(number) for number in re.findall(r"(?<!\\)(?:\\\\)*\\([0-9])", self.replacement)]
        if groups and max(groups) > regex.groups:
            raise ValueError(f"with names group \\{max(groups)}, the pattern has {regex.groups}")
        return self

    def matches(self, text: str) -> bool:
        return pattern(self.pattern).search(text) is not None

    def apply(self, text: str) -> str:
        """The text with each match replaced, from left to right. RE2's binding gives some empty matches twice."""
        last = None

        def replaced(match: Any) -> str:
            nonlocal last
            again, last = match.span() == last, match.span()
            return "" if again else str(match.expand(self.replacement))

        return str(pattern(self.pattern).sub(replaced, text))


class Redact(Replace):
    """As `Replace`, after all other rules; what was there is in no report. `name` is what reports call it."""

    name: str = Field(min_length=1)
    replacement: str = Field("[redacted]", alias="with")

    @model_validator(mode="after")
    def _final(self) -> Self:
        if "\\" in self.replacement:
            raise ValueError("what is redacted is replaced by the same text everywhere: with names no group")
        if self.matches(self.replacement) or self.matches(""):
            raise ValueError(f"the pattern also finds what it would be replaced by, {show(self.replacement)}")
        return self


def _as_drop(value: object) -> object:
    """Expand `drop: [a, "b*"]` to one rule."""
    if isinstance(value, list) and value and all(isinstance(name, str) for name in value):
        return [{"fields": value}]
    return value


class SchemaFile(_Part):
    """The whole content of a schema file."""

    name: str = Field(min_length=1)
    description: str = ""
    requires_document: bool = False
    unknown: Literal["keep", "drop"] = "keep"
    tables: dict[str, LookupTable] = Field(default_factory=dict)
    leave_out: tuple[LeaveOut, ...] = ()
    collections: tuple[Move, ...] = ()
    routing: Routing | None = None
    id: str | None = None
    rename: tuple[Rename, ...] = ()
    replace: tuple[Replace, ...] = ()
    fields: tuple[FieldRule, ...] = ()
    extensions: dict[str, tuple[FieldRule, ...]] = Field(default_factory=dict)
    redact: tuple[Redact, ...] = ()
    drop: Annotated[tuple[Drop, ...], BeforeValidator(_as_drop, json_schema_input_type=tuple[Drop | str, ...])] = ()
    _compiled: dict[str, Expression] = PrivateAttr(default_factory=dict)

    @field_validator("tables")
    @classmethod
    def _legal_tables(cls, tables: dict[str, LookupTable]) -> dict[str, LookupTable]:
        for name in tables:
            if not re.fullmatch("[a-z][a-z0-9_]*", name) or name in (*VARIABLES, *FUNCTIONS, "has", "size", "in"):
                raise ValueError(
                    f"{show(name)} cannot be the name of a table: small letters, digits and _, and no name in use"
                )
        return tables

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.routing is not None and self.collections:
            raise ValueError("routing and collections both say where chunks go: leave one out")
        types = self.routing.targets if self.routing else [move.to for move in self.collections]
        for kind, extra in self.extensions.items() or [("", ())]:
            if kind and kind not in types:
                section = "collections" if self.collections else "routing.targets"
                raise ValueError(f"extensions for {show(kind)}, which {section} does not name")
            names = [rule.name for rule in (*self.fields, *extra)]
            duplicate = next((name for name in names if names.count(name) > 1), None)
            if duplicate is not None:
                raise ValueError(f"field {duplicate!r} is defined twice")
        texts = [t for r in self.fields for t in (r.default, r.fixed) if isinstance(t, str)]
        if self.routing is None and any("routing" in placeholders(text) for text in texts):
            raise ValueError("{routing} needs a routing section")
        return self

    @model_validator(mode="after")
    def _compile(self) -> Self:
        language = Language({name: table.rows for name, table in self.tables.items()})
        expressions: list[tuple[Place, str | None, str]] = [(("id",), self.id, "STRING")]
        for name in ("leave_out", "collections"):
            expressions += [((name, at, "when"), rule.when, "BOOL") for at, rule in enumerate(getattr(self, name))]
        lists: list[tuple[Place, tuple[FieldRule, ...]]] = [(("fields",), self.fields)]
        for start, rules in [*lists, *((("extensions", kind), extra) for kind, extra in self.extensions.items())]:
            expressions += [((*start, at, "value"), rule.value, "") for at, rule in enumerate(rules)]
            expressions += [((*start, at, "when"), rule.when, "BOOL") for at, rule in enumerate(rules)]
        for place, text, required in expressions:
            if text is not None:
                try:
                    self._compiled[text] = language.compile(text, required)
                except ValueError as error:
                    raise _Misplaced(place, str(error)) from error
        return self

    def expression(self, text: str) -> Expression:
        """The compiled expression of this text, which is in the file."""
        return self._compiled[text]

    @property
    def has_rules(self) -> bool:
        """Whether there are any rules besides those of single fields and `routing`."""
        rules = self.leave_out or self.collections or self.rename or self.replace or self.redact or self.drop
        return bool(rules) or self.id is not None

    def names_in_source(self, collection: str, source: Metadata, keys: Iterable[str]) -> dict[str, str]:
        """The name in this source collection of each of these fields of the target, by the rules of `rename` in their order.

        `source` is the chunk's metadata in the source: its fields are followed from there, so one that has the target's name
        already keeps it. A field that it lacks gets the first name that leads to it. Two fields may get one name.
        """
        rules = [rule for rule in self.rename if rule.applies(collection)]
        known = {key: key for key, value in source.items() if value is not None}  # name in the target → in the source
        leads = {rule.source: rule.source for rule in reversed(rules)}  # name in the source → in the target
        for rule in rules:
            if rule.source in known and rule.to not in known:
                known[rule.to] = known.pop(rule.source)
            leads |= {name: rule.to for name, target in leads.items() if target == rule.source}
        first = {leads[rule.source]: rule.source for rule in reversed(rules)}
        return {key: known.get(key) or first.get(key, key) for key in keys}

    def indexes(self, collection: str, schema: Mapping[str, Any] | None) -> dict[str, Any] | None:
        """Chroma's schema of a collection (indexes by field) with the field names that `rename` gives."""
        if schema is None:
            return None
        keys = dict(schema.get("keys") or {})
        for rule in self.rename:
            if rule.applies(collection) and rule.source in keys and rule.to not in keys:
                keys[rule.to] = keys.pop(rule.source)
        return {**schema, "keys": keys} if "keys" in schema else dict(schema)

    def moves(self, collection: str) -> list[Move]:
        """The rules of `collections` for this one, in order, up to the first without `when`."""
        rules: list[Move] = []
        for move in self.collections:
            if fnmatchcase(collection, move.source):
                rules.append(move)
                if move.when is None:
                    break
        return rules


def read_schema_file(path: Path) -> SchemaFile:
    """The schema in a YAML file. Raises `UsageError` of one line."""
    raw = read_yaml_mapping(path, what="schema file")
    try:
        return SchemaFile.model_validate(raw, context={"folder": path.parent})
    except ValidationError as error:
        problem = _unknown_key(error) or explain(error, SchemaFile)
        first = error.errors(include_url=False)[0]
        place = getattr(first.get("ctx", {}).get("error"), "place", first["loc"])
        where = f"{path}{_line(path, place)}"
        raise UsageError(ReasonCode.SCHEMA_INVALID, problem, where=where, next_step="See docs/schemas.md.") from error


def _unknown_key(error: ValidationError) -> str:
    """A message on the first unknown key in a list of rules, with the nearest known one; "" where there is none."""
    for problem in error.errors(include_url=False, include_context=False):
        place = problem["loc"]
        rule = _RULES.get(str(place[0])) if place else None
        if problem["type"] == "extra_forbidden" and rule is not None and len(place) > 1:
            names = [name.alias or key for key, name in rule.model_fields.items()]
            near = nearest(str(place[-1]), names)
            hint = f"did you mean '{near}'?" if near else f"known there: {', '.join(names)}"
            return f"unknown key '{dotted(place)}'; {hint}"
    return ""


_RULES: dict[str, type[_Part]] = {
    "fields": FieldRule, "extensions": FieldRule, "tables": LookupTable, "leave_out": LeaveOut, "collections": Move,
    "rename": Rename, "replace": Replace, "redact": Redact, "drop": Drop,
}  # fmt: skip


def _line(path: Path, place: Sequence[str | int]) -> str:
    """`, line 12`: the line of a place as far as the file has it; "" where unknown."""
    line = None
    with suppress(*NOT_YAML, OSError):
        node: Any = YAML(typ="rt").load(contents(path.resolve()).decode("utf-8"))
        for key in place:
            line = (node.lc.item(key) if isinstance(key, int) else node.lc.key(key))[0] + 1
            node = node[key]
    return f", line {line}" if line else ""


def schema_document() -> dict[str, Any]:
    """The JSON Schema of a schema file, for editors; parameters/schemas/schema.schema.json is a copy."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | SchemaFile.model_json_schema(by_alias=True)

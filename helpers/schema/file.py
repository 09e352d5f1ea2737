"""A schema file: its typed form, how it is read, and how one field settles one value.

Written in YAML by people; docs/schemas.md says how. Unknown and doubled keys are refused.
"""

from __future__ import annotations

import math
import re
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from helpers.errors import UsageError
from helpers.parameters.model import dotted, explain, nearest, read_yaml_mapping
from helpers.reason_codes import ReasonCode
from helpers.schema.rules import (
    ABSENT,
    DERIVED_TYPES,
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

    `default` and `fixed` are templates (see `placeholders`). `derive` names what a missing or wrong value is taken from
    first, where the document tells it for certain (`schema.derive`). `repair` says what happens to a value that is neither
    right nor can be made right without loss: `clamp` moves a finite number to the nearer bound (any other value gets
    the default, or is rejected where there is none), `default` replaces it, `reject` sets the chunk aside.
    """

    name: str
    type: FieldType
    default: str | int | float | bool | None = None
    fixed: str | None = None
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
        self._legal_derive()
        self._legal_default()
        return self

    def _legal_derive(self) -> None:
        if self.derive is None:
            return
        wanted = DERIVED_TYPES[self.derive]
        if self.type != wanted:
            raise ValueError(f"derive: {self.derive} makes a value of type {wanted}, not {self.type}")
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
            if not _COLLECTION_NAME.fullmatch(name) or ".." in name:
                raise ValueError(f"{show(name)} cannot be the name of a collection")
        if len(set(self.targets.values())) < len(self.targets):
            raise ValueError("two types share a target collection")
        return self


class SchemaFile(_Part):
    """The whole content of a schema file."""

    name: str = Field(min_length=1)
    description: str = ""
    requires_document: bool = False
    unknown: Literal["keep", "drop"] = "keep"
    routing: Routing | None = None
    fields: tuple[FieldRule, ...] = ()
    extensions: dict[str, tuple[FieldRule, ...]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        known = self.routing.targets if self.routing else {}
        for kind, extra in self.extensions.items() or [("", ())]:
            if kind and kind not in known:
                raise ValueError(f"extensions for type {kind!r}, which routing.targets does not name")
            names = [rule.name for rule in (*self.fields, *extra)]
            twice = next((name for name in names if names.count(name) > 1), None)
            if twice is not None:
                raise ValueError(f"field {twice!r} is defined twice")
        texts = [t for r in self.fields for t in (r.default, r.fixed) if isinstance(t, str)]
        if self.routing is None and any("routing" in placeholders(text) for text in texts):
            raise ValueError("{routing} needs a routing section")
        return self


def read_schema_file(path: Path) -> SchemaFile:
    """The schema in a YAML file, or a UsageError of one line."""
    raw = read_yaml_mapping(path, what="schema file")
    try:
        return SchemaFile.model_validate(raw)
    except ValidationError as error:
        what = _unknown_key(error) or explain(error, SchemaFile)
        raise UsageError(ReasonCode.SCHEMA_INVALID, what, where=str(path), next_step="See docs/schemas.md.") from error


def _unknown_key(error: ValidationError) -> str:
    """The first unknown key of a field with the nearest one that a field has; "" where no such key is at fault."""
    for problem in error.errors(include_url=False, include_context=False):
        place = problem["loc"]
        if problem["type"] == "extra_forbidden" and place[0] in ("fields", "extensions"):
            near = nearest(str(place[-1]), FieldRule.model_fields)
            hint = f"did you mean '{near}'?" if near else f"known there: {', '.join(FieldRule.model_fields)}"
            return f"unknown key '{dotted(place)}'; {hint}"
    return ""

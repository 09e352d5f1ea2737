"""Values of metadata fields: their types, what can be converted without loss, and the templates of defaults."""

from __future__ import annotations

import datetime as dt
import difflib
import json
import math
import re
from string import Formatter
from typing import Any, Literal

from helpers.schema.rules import INT64_MAX, INT64_MIN

FieldType = Literal["string", "integer", "float", "boolean", "strings"]
PLACEHOLDERS = ("source_collection", "routing", "id", "uri_id", "date", "word_count")

PYTHON_TYPES: dict[str, type] = {"string": str, "integer": int, "float": float, "boolean": bool, "strings": list}

_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")
_DECIMAL = re.compile(r"[+-]?(?:[0-9]{1,40}(?:\.[0-9]{0,40})?|\.[0-9]{1,40})(?:[eE][+-]?[0-9]{1,3})?")


class Absent:
    """No value: what stands where a key is missing (None would be a value)."""

    def __repr__(self) -> str:
        return "(absent)"


ABSENT = Absent()


def real_match(regex: re.Pattern[str], text: str) -> bool:
    """Whether the whole text matches; a group named `date` must hold a day of the calendar, YYYY-MM-DD."""
    match = regex.fullmatch(text)
    if match is None:
        return False
    found = match.groupdict().get("date")
    if found is None:
        return True
    try:
        return dt.date.fromisoformat(found).isoformat() == found
    except ValueError:
        return False


def as_number(value: Any) -> int | float | None:
    """A finite number that the value is or spells ("3", "0.5"), or None. A boolean is no number."""
    if type(value) is str and len(value) <= 90:
        if _WHOLE.fullmatch(value):
            return int(value)
        return as_number(float(value)) if _DECIMAL.fullmatch(value) else None
    if type(value) is int:
        return value
    return value if type(value) is float and math.isfinite(value) else None


def coerce(value: Any, kind: FieldType) -> Any:
    """The value in the type of a field, or ABSENT where something would be lost.

    "3" and 3.0 are the integer 3; 1 is the float 1.0 and the string "1"; "true" and 1 are True, but True is no number;
    a text is a list of one text, or the list that it spells as JSON.
    """
    if kind == "boolean":
        return _as_boolean(value)
    if kind == "string":
        return _as_string(value)
    if kind == "strings":
        return _as_strings(value)
    number = as_number(value)
    if number is None:
        return ABSENT
    if kind == "integer":
        whole = int(number)
        return whole if whole == number and INT64_MIN <= whole <= INT64_MAX else ABSENT
    if isinstance(number, int) and abs(number) > 2**53:
        return ABSENT
    return float(number)


def _as_boolean(value: Any) -> Any:
    if type(value) is bool:
        return value
    if type(value) is int and value in (0, 1):
        return bool(value)
    return {"true": True, "false": False}.get(value.lower(), ABSENT) if type(value) is str else ABSENT


def _as_string(value: Any) -> Any:
    if type(value) is str:
        return value
    return repr(value) if type(value) in (int, float) and as_number(value) is not None else ABSENT


def _as_strings(value: Any) -> Any:
    if type(value) is str:
        spelled = listed(value)
        value = [value] if spelled is None else spelled
    if type(value) is not list or not value:
        return ABSENT
    texts = [_as_string(v) for v in value]
    return ABSENT if ABSENT in texts else texts


def listed(text: str) -> list[Any] | None:
    """The list that a text spells as JSON, or None."""
    if not text.startswith("["):
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, list) and found else None


def placeholders(template: str) -> list[str]:
    """The placeholders of a template, or ValueError where it names one that does not exist."""
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"{template!r} is no template: {error}; write {{{{ for a brace") from error
    names = [name for _, name, _, _ in parts if name is not None]
    for name, spec, conversion in ((n, s, c) for _, n, s, c in parts if n is not None):
        if name not in PLACEHOLDERS or spec or conversion:
            near = difflib.get_close_matches(name, PLACEHOLDERS, 1)
            hint = f"; did you mean {{{near[0]}}}?" if near else f"; known: {', '.join(PLACEHOLDERS)}"
            raise ValueError(f"{{{name}}} is no placeholder{hint}")
    return names

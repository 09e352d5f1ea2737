"""A YAML file and a pydantic model: reading the one, and saying in one line why it does not fit the other.

Keys are dotted: `migration.batch_size`, `validation.queries[0].text`. A value that may be a
secret is never repeated.
"""

from __future__ import annotations

import difflib
import re
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.constructor import DuplicateKeyError, SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from helpers.errors import UsageError, one_line
from helpers.reason_codes import ReasonCode

Model = type[BaseModel]
MAXIMUM_SHOWN = 4  # errors named in one line; the rest is counted
_SECRET_KEYS = frozenset({"headers", "urls", "url", "health"})


class _Constructor(SafeConstructor):
    """Timestamps stay text: the model parses them, and a time zone is never lost on the way."""


_Constructor.add_constructor("tag:yaml.org,2002:timestamp", SafeConstructor.construct_yaml_str)


def parse_yaml(text: str, *, where: str = "") -> Any:
    """YAML 1.2 text as plain Python values. UsageError for no YAML, a repeated key, a second document."""
    reader = YAML(typ="safe", pure=True)
    reader.Constructor = _Constructor
    try:
        return reader.load(text)
    except RecursionError:
        problem = "nested too deeply"
    except DuplicateKeyError as error:  # its text goes on with both values
        problem = str(error.problem).split(" with value")[0] + _line_of(error)
    except MarkedYAMLError as error:
        problem = str(error.problem or error.context) + _line_of(error)
    except (YAMLError, ValueError) as error:
        problem = str(error).splitlines()[0]
    raise UsageError(
        ReasonCode.YAML_INVALID, f"not valid YAML: {problem}", where=where, next_step="Correct it and try again."
    )


def _line_of(error: MarkedYAMLError) -> str:
    return f" on line {error.problem_mark.line + 1}" if error.problem_mark is not None else ""


def read_yaml_mapping(path: Path, *, what: str = "parameters file") -> dict[str, Any]:
    """The mapping in a YAML file. UsageError where it is missing, unreadable, binary, empty or something else."""
    problem = ""
    try:
        if not path.exists():
            problem = f"no such {what}"
        elif not path.is_file():
            problem = f"not a file, so no {what}"
        else:
            text = path.read_bytes().decode("utf-8-sig")
            problem = f"binary data instead of a {what}" if "\0" in text else ""
    except UnicodeDecodeError:
        problem = f"not UTF-8 text, so no {what}"
    except (OSError, ValueError) as error:
        problem = f"unreadable {what} ({getattr(error, 'strerror', None) or error})"
    if problem:
        raise UsageError(ReasonCode.FILE_UNREADABLE, problem, where=str(path), next_step=_other_file(path))
    value = parse_yaml(text, where=str(path))
    if not isinstance(value, dict) or not value:
        found = "an empty file" if value is None or value == {} else f"{_described(value)} at the top"
        next_step = "Write 'key: value' lines; parameters/rehearsal.yaml is an example."
        what = f"{found} instead of keys with values"
        raise UsageError(ReasonCode.FILE_NOT_MAPPING, what, where=str(path), next_step=next_step)
    return value


def _other_file(path: Path) -> str:
    try:
        beside = sorted(entry.name for entry in path.parent.glob("*.yaml") if entry.is_file())
    except OSError:
        beside = []
    match = difflib.get_close_matches(path.name, beside, n=1)
    return f"Did you mean {path.parent / match[0]}?" if match else "Check the path."


def fields_of(model: Model) -> dict[str, Any]:
    """The keys of a model as a file spells them, each with its type."""
    return {field.alias or name: field.annotation for name, field in model.model_fields.items()}


def keys_of(model: Model, prefix: str = "") -> Iterator[str]:
    """Every dotted key that `--set` can reach, sections before their own keys."""
    for name, annotation in fields_of(model).items():
        yield prefix + name
        inner = _unwrapped(annotation)
        if _is_model(inner):
            yield from keys_of(inner, f"{prefix}{name}.")


def split_key(key: str, model: Model) -> list[str]:
    """A dotted key as its parts; what follows a mapping's key is one name, dots and all. UsageError where unknown."""
    parts, here = key.split("."), model
    for at, part in enumerate(parts):
        if part not in fields_of(here):
            raise _set_error(unknown_key(parts[: at + 1], model))
        inner, rest = _unwrapped(fields_of(here)[part]), parts[at + 1 :]
        if not rest:
            return parts
        if get_origin(inner) is dict:
            return [*parts[: at + 1], ".".join(rest)]
        if not _is_model(inner):
            kind = "a list" if get_origin(inner) is list else "one value"
            name = ".".join(parts[: at + 1])
            raise _set_error(f"unknown key '{key}': '{name}' holds {kind}; set it whole, --set {name}=…")
        here = inner
    return parts


def _set_error(what: str) -> UsageError:
    return UsageError(ReasonCode.SET_UNKNOWN, what, where="--set", next_step="Correct it and try again.")


def unknown_key(parts: Sequence[str | int], model: Model) -> str:
    """Why a key is refused, with the nearest valid one: beside it first, then anywhere."""
    here, name, key = model_at(parts[:-1], model), str(parts[-1]), dotted(parts)
    names = list(fields_of(here)) if here is not None else []
    beside = nearest(name, names)
    if beside:
        return f"unknown key '{key}'; did you mean '{dotted([*parts[:-1], beside])}'?"
    leaves = {full.rsplit(".", 1)[-1]: full for full in reversed(list(keys_of(model)))}
    elsewhere = nearest(name, leaves)
    if elsewhere:
        return f"unknown key '{key}'; did you mean '{leaves[elsewhere]}'?"
    return f"unknown key '{key}'; known there: {', '.join(names)}"


def nearest(name: str, choices: Any) -> str:
    """The choice most like a name that is none of them; "" where nothing comes near."""
    matches = difflib.get_close_matches(name.strip().lower().replace("-", "_"), list(choices), n=1, cutoff=0.6)
    return matches[0] if matches else ""


def model_at(parts: Sequence[str | int], model: Model) -> Model | None:
    """The model that a place in the data is read by; None inside a free mapping or a value."""
    here: Any = model
    for part in parts:
        if isinstance(part, int):
            continue
        inner = _unwrapped(fields_of(here).get(part)) if _is_model(here) else None
        here = _unwrapped(get_args(inner)[0]) if get_origin(inner) is list else inner
    return here if _is_model(here) else None


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _unwrapped(annotation: Any) -> Any:
    """A type without `Annotated[…]` and `… | None`."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _unwrapped(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return _unwrapped(next(part for part in get_args(annotation) if part is not type(None)))
    return annotation


def dotted(parts: Sequence[str | int]) -> str:
    """`("queries", 0, "text")` as `queries[0].text`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)
    return text.removeprefix(".")


def explain(error: ValidationError, model: Model) -> str:
    """The first errors of a validation, joined by '; ': which key, what it must be, what it is."""
    lines = [_sentence(one, model) for one in error.errors(include_url=False)]
    more = f"; and {len(lines) - MAXIMUM_SHOWN} more" if len(lines) > MAXIMUM_SHOWN else ""
    return "; ".join(lines[:MAXIMUM_SHOWN]) + more


_WANTED = {
    "int_type": "must be a whole number", "int_from_float": "must be a whole number", "float_type": "must be a number",
    "string_type": "must be text", "bool_type": "must be true or false", "list_type": "must be a list",
    "dict_type": "must be a mapping (key: value)", "model_type": "must be a mapping (key: value)",
    "model_attributes_type": "must be a mapping (key: value)", "finite_number": "must be a finite number",
    "greater_than": "must be more than {gt:g}", "greater_than_equal": "must be at least {ge:g}",
    "less_than": "must be less than {lt:g}", "less_than_equal": "must be at most {le:g}",
    "too_short": "must not be empty", "string_too_short": "must not be empty",
    "string_too_long": "must have at most {max_length} characters",
}  # fmt: skip


def _sentence(error: ErrorDetails, model: Model) -> str:
    place, kind, context = error["loc"], error["type"], error.get("ctx", {})
    key = dotted(place)
    if place and place[-1] == "[key]":
        problem = "must be text: quote it" if kind == "string_type" else "is not a name that is allowed there"
        return f"{_described(error['input'])} as a key in '{dotted(place[:-2])}' {problem}"
    if kind == "invalid_key":
        return f"{_described(error['input'])} as a key in '{dotted(place[:-1]) or 'the file'}' must be text: quote it"
    if kind == "extra_forbidden":
        return unknown_key(place, model)
    if kind == "missing":
        return f"'{key}' is missing"
    if kind == "value_error":
        return f"'{key}' {context['error']}" if place else str(context["error"])
    got = _described(error["input"], hidden=not _SECRET_KEYS.isdisjoint(map(str, place)))
    if kind == "literal_error":
        match = nearest(str(error["input"]), re.findall(r"'([^']*)'", context["expected"]))
        return f"'{key}' must be {context['expected']}, got {got}" + (f"; did you mean '{match}'?" if match else "")
    wanted = _WANTED.get(kind, "").format(**context) or f"is not accepted ({error['msg']})"
    quote = " (quote it)" if kind == "string_type" and isinstance(error["input"], (int, float)) else ""
    return f"'{key}' {wanted}, got {got}{quote}"


def _described(value: Any, *, hidden: bool = False) -> str:
    """A value in words. Text with an '@' or '://' may hold credentials and is not repeated."""
    if value is None or isinstance(value, (bool, dict, list)):
        names = {type(None): "nothing", dict: "a mapping", list: "a list"}
        return names.get(type(value), str(value).lower())
    if isinstance(value, str):
        shown = not (hidden or "@" in value or "://" in value)
        return f"the text '{one_line(value, 60)}'" if shown else "text (not shown)"
    if hidden or not isinstance(value, (int, float)):
        return f"a value of type {type(value).__name__}"
    return f"the number {one_line(str(value), 60)}"

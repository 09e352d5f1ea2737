"""The checked kinds of value that the sections of the parameters are made of.

A check's message is what follows the key in the error line: `'window.start' has no time zone; …`.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from string import Formatter
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from helpers.errors import one_line

Role = Literal["operations_lead", "dba", "security"]
ROLES: tuple[Role, ...] = ("operations_lead", "dba", "security")
Text = Annotated[str, Field(min_length=1)]
T = TypeVar("T")
_PLACES = ("target_url", "target_host", "target_port", "target_prefix", "target_path")
_ADDRESS = re.compile(r"(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5})")


def _distinct(values: list[T]) -> list[T]:
    twice = next((value for at, value in enumerate(values) if value in values[:at]), None)
    if twice is not None:
        raise ValueError(f"names {one_line(str(twice))!r} twice")
    return values


def _checked_glob(pattern: str) -> str:
    """fnmatch takes every text; these are the ones that can only be a mistake."""
    if not pattern or not pattern.isprintable() or pattern != pattern.strip():  # older names can have blanks inside
        raise ValueError(
            f"is no pattern for collection names: {one_line(pattern, 60)!r} is empty or has blanks at an end"
        )
    for group in re.finditer(r"\[(!?)(\]?[^\]]*)(\]?)", pattern):
        backwards = any(a > b for a, b in re.findall(r"(.)-(.)", group[2]))
        if not group[3] or backwards:
            problem = "has a range that runs backwards" if group[3] else "opens a '[' that nothing closes"
            raise ValueError(f"is no pattern for collection names: {one_line(pattern, 60)!r} {problem}")
    return pattern


def _checked_address(text: str) -> str:
    """`HOST:PORT` and nothing else: it is written into the configuration of nginx."""
    match = _ADDRESS.fullmatch(text)
    if match is None or not 1 <= int(match[1]) <= 65535:
        raise ValueError("must be HOST:PORT, such as 127.0.0.1:8001")
    return text


def _one_line(text: str) -> str:
    if not text.isprintable() or text.isspace():
        raise ValueError("must be one line of text without control characters")
    return text


def _checked_template(text: str) -> str:
    places = template_places(text)
    wrong = sorted(places - set(_PLACES))
    if wrong:
        raise ValueError(f"has the placeholder {{{one_line(wrong[0], 40)}}}; known: {', '.join(_PLACES)}")
    return text


def template_places(text: str) -> set[str]:
    """The placeholders in a configuration value. ValueError where its braces do not match."""
    try:
        parts = [part for part in Formatter().parse(text) if part[1] is not None]
    except ValueError:
        raise ValueError("has a single brace; write '{{' or '}}' for a brace that is meant as such") from None
    return {f"{name}{':' if spec else ''}{spec or ''}{'!' if how else ''}{how or ''}" for _, name, spec, how in parts}


def _checked_command(arguments: list[str]) -> list[str]:
    if not arguments[0].strip() or any("\0" in argument for argument in arguments):
        raise ValueError("must begin with the name of a program and have no NUL character")
    return arguments


def _checked_pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"is no regular expression ({error})") from None
    return text


def _instant(value: Any) -> datetime:
    """ISO 8601 with a time zone, in UTC."""
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise ValueError("must be a time in ISO 8601 with its zone, such as 2025-12-01T02:00:00Z") from None
    if moment.tzinfo is None:
        raise ValueError("has no time zone; write 2025-12-01T02:00:00Z or 2025-12-01T03:00:00+01:00")
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("is too near the end of the calendar") from None


Label = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_one_line)]
"""A short text that stands in titles, subjects and folder names."""
Glob = Annotated[str, AfterValidator(_checked_glob)]
Command = Annotated[list[str], Field(min_length=1), AfterValidator(_checked_command)]
"""A program and its arguments, one list item each; never a shell line."""
Template = Annotated[str, AfterValidator(_one_line), AfterValidator(_checked_template)]
"""Text in which `{target_url}`, `{target_host}`, `{target_port}`, `{target_prefix}` or `{target_path}` is the target's own."""
EnvKey = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Address = Annotated[str, AfterValidator(_checked_address)]
Instant = Annotated[datetime, BeforeValidator(_instant), WithJsonSchema({"type": "string", "format": "date-time"})]
Pattern = Annotated[str, Field(min_length=1), AfterValidator(_checked_pattern)]
Roles = Annotated[list[Role], AfterValidator(_distinct)]

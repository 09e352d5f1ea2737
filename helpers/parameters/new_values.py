"""Values in parameters that may be secrets: new values of configuration files, as text or by reference, and what is open."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from helpers.errors import secrets_of, secrets_within
from helpers.parameters.endpoint import SecretRef
from helpers.parameters.sections import Cutover


def reference(value: str) -> SecretRef | None:
    """The secret that a new value refers to (`env:NAME`, `file:PATH`); None where it is text."""
    try:
        return SecretRef.parse(value)
    except ValueError:
        return None


def references(cutover: Cutover) -> list[SecretRef]:
    """Every secret that the new values refer to."""
    values = (value for file in cutover.config_files() for value in file.keys.values())
    return [found for value in values if (found := reference(value)) is not None]


def dotted(parts: Sequence[str | int]) -> str:
    """`("queries", 0, "text")` as `queries[0].text`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)
    return text.removeprefix(".")


def leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """(Key with dots, value) of everything in a document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if inner is None:
        yield key, value
    for name, below in inner or ():
        yield from leaves(below, dotted([key, name] if key else [name]))


def open_secrets(document: Mapping[str, Any], cutover: Cutover) -> Iterator[tuple[str, str]]:
    """(Where, secret) of each token or password that the parameters hold themselves: in URLs, in headers, in new values."""
    yield from ((key, part) for key, value in leaves(document) for part in secrets_within(str(value)))
    for file in cutover.config_files():
        for key, value in file.keys.items():
            if reference(value) is None:
                yield from ((f"the new value of {key} in {file.path}", secret) for secret in secrets_of(key, value))


def written(template: str, values: Mapping[str, str]) -> str:
    """The value as it is written; UsageError where it refers to a secret that is not there."""
    found = reference(template)
    return found.resolve().reveal() if found is not None else template.format(**values)

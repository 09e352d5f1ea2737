"""Values in parameters that are or refer to secrets: new values of configuration files, and secrets written as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from helpers.errors import secrets_of, secrets_within
from helpers.parameters.endpoint import SecretRef
from helpers.parameters.sections import Cutover


def reference(value: str) -> SecretRef | None:
    """The reference in a new value (`env:NAME`, `file:PATH`); None for a plain text."""
    try:
        return SecretRef.parse(value)
    except ValueError:
        return None


def references(cutover: Cutover) -> list[SecretRef]:
    """Every secret that the new values refer to."""
    values = (value for file in cutover.config_files() for value in file.keys.values())
    return [secret for value in values if (secret := reference(value)) is not None]


def dotted(parts: Sequence[str | int]) -> str:
    """`("queries", 0, "text")` as `queries[0].text`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)
    return text.removeprefix(".")


def leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) for every value in a document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if items is None:
        yield key, value
    for name, inner in items or ():
        yield from leaves(inner, dotted([key, name] if key else [name]))


def open_secrets(document: Mapping[str, Any], cutover: Cutover) -> Iterator[tuple[str, str]]:
    """Yield (place, secret) for each token or password that the parameters hold as text: in URLs, headers, new values."""
    yield from ((key, part) for key, value in leaves(document) for part in secrets_within(str(value)))
    for file in cutover.config_files():
        for key, value in file.keys.items():
            if reference(value) is None:
                yield from ((f"the new value of {key} in {file.path}", secret) for secret in secrets_of(key, value))


def written(template: str, values: Mapping[str, str]) -> str:
    """The value to write: the secret, or the template with its placeholders filled in. UsageError for a missing secret."""
    secret = reference(template)
    return secret.resolve().reveal() if secret is not None else template.format(**values)

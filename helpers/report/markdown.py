"""The runbook's two documents, CHROMADB_MIGRATION_SUMMARY.md and CHROMADB_MIGRATION_SUCCESS.md, from measured values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from helpers import words

SUMMARY, SUCCESS = "CHROMADB_MIGRATION_SUMMARY.md", "CHROMADB_MIGRATION_SUCCESS.md"
_MEANS_SOMETHING = re.compile(r"([\\`*\[\]<>|#]|(?<![^\W_])_|_(?![^\W_]))")  # an underscore inside a word is none


def plain(value: Any, limit: int = 400) -> str:
    """Any value as one line in which nothing is markup: no table, link, heading or tag comes out of foreign text."""
    return _MEANS_SOMETHING.sub(r"\\\1", words.text(value, limit))


def code(value: Any) -> str:
    """A command or a path between backticks; with backticks inside it, as plain text."""
    shown = words.text(value, 600)
    if shown.partition(" ")[0] != "runbook" and "/" not in shown:
        return plain(shown, 600)
    return plain(shown, 600) if "`" in shown or "|" in shown else f"`{shown}`"


def summary(facts: Mapping[str, Any]) -> str:
    return _render("summary.md.j2", facts)


def success(facts: Mapping[str, Any]) -> str:
    return _render("success.md.j2", facts)


def _render(template: str, facts: Mapping[str, Any]) -> str:
    return re.sub(r"\n{3,}", "\n\n", _environment().get_template(template).render(**facts)).strip() + "\n"


@cache
def _environment() -> Environment:
    environment = Environment(  # Markdown: `plain` escapes what means something there
        loader=PackageLoader("helpers.report"), autoescape=False, undefined=StrictUndefined, trim_blocks=True,  # noqa: S701
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters.update(plain=plain, code=code, duration=words.duration, moment=words.moment, many=words.count)
    return environment

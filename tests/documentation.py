"""The pages of the documentation as the tests read them: pages, code blocks, command lines, tables, anchors."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.S | re.M)
_HIDDEN = re.compile(r"^( *)```.*?^\1```$|<!--.*?-->", re.S | re.M)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: the page, its language and its text without indentation."""

    page: str
    language: str
    text: str


def pages(root: Path) -> dict[str, str]:
    """Every Markdown page that people read: its path in the repository and its text."""
    found = [root / "README.md", root / "CONTRIBUTING.md", root / "reports" / "README.md"]
    found += sorted([*(root / "docs").rglob("*.md"), *(root / "parameters").rglob("*.md")])
    return {path.relative_to(root).as_posix(): path.read_text(encoding="utf-8") for path in found}


def blocks(root: Path, language: str = "") -> list[Block]:
    """The fenced blocks of all pages, also those inside lists; of one language where it is given."""
    found = [
        Block(page, match[2], textwrap.dedent(match[3]))
        for page, text in pages(root).items()
        for match in _FENCE.finditer(text)
    ]
    return [block for block in found if block.language == language] if language else found


def command_lines(root: Path) -> Iterator[tuple[str, str]]:
    """(page, command) of every line that a reader is told to type."""
    for block in blocks(root, "console"):
        for line in block.text.splitlines():
            assert line.startswith("$ "), f"{block.page}: a console block holds commands only, each after '$ ': {line}"
            yield block.page, line[2:]


def prose(text: str) -> str:
    """A page without its fenced blocks and comments."""
    return _HIDDEN.sub("", text)


def inline(text: str) -> list[str]:
    """The inline code of a page."""
    return re.findall(r"`([^`\n]+)`", prose(text))


def table(text: str, head: str) -> list[list[str]]:
    """The rows of the table whose head begins with this, as cells."""
    body = text.split(f"\n| {head} |", 1)[1].split("\n\n", 1)[0]
    rows = [re.split(r"(?<!\\)\|", line.strip())[1:-1] for line in body.splitlines()[2:]]
    assert rows, head
    return [[cell.strip() for cell in row] for row in rows]


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#{1,6} (.+)$", prose(text), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}

"""docs/runbook-map.md as rows: what each item of the runbook is done by, and by what it is held."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

KINDS = ("check", "cell", "code", "trigger", "parameter", "command", "test", "page", "file")
_NOTEBOOK = re.compile(r"\[(\d\d)\]\(\.\./(notebooks/[\w.]+)\)")
_HELD = re.compile(r"(\w+) `([^`]+)`")


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the map: `notebooks` are paths by their step's number, `held` is (kind, name)."""

    id: str
    text: str
    notebooks: dict[str, str]
    held: list[tuple[str, str]]
    note: str

    def names(self, kind: str) -> list[str]:
        return [name for of, name in self.held if of == kind]


def rows(root: Path) -> list[Row]:
    """Every row, in its order; AssertionError for a line of a table that is no row."""
    found, in_map = [], False
    for line in (root / "docs" / "runbook-map.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("| id |"):
            in_map = True
        elif not line.startswith("|"):
            in_map = False
        elif in_map and not line.startswith("|---"):
            found.append(_row(line))
    assert found
    return found


def _row(line: str) -> Row:
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert len(cells) == 5, line
    name, text, where, held, note = cells
    notebooks = _NOTEBOOK.findall(where)
    assert where == (", ".join(f"[{n}](../{p})" for n, p in notebooks) or "–"), line
    pairs = _HELD.findall(held)
    assert held == ", ".join(f"{kind} `{name}`" for kind, name in pairs), line
    return Row(name, text.strip("*"), dict(notebooks), pairs, note)

"""docs/sources.md names a test for each row, and each of them exists."""

from __future__ import annotations

import re
from pathlib import Path


def test_every_row_of_the_sources_names_tests_that_exist(root: Path) -> None:
    text = (root / "docs" / "sources.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    rows = [row for row in rows if not row.startswith(("| source", "| what", "|---"))]
    assert len(rows) > 10
    assert [row for row in rows if "::" not in row] == []
    named = re.findall(r"`((?:compat/)?test_\w+\.py)::(test_\w+)`", text)
    assert len(named) == text.count("::")
    absent = [
        f"{file}::{test}"
        for file, test in named
        if not (root / "tests" / file).is_file()
        or f"def {test}(" not in (root / "tests" / file).read_text(encoding="utf-8")
    ]
    assert absent == []

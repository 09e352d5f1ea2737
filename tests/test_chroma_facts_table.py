"""The table in docs/chroma-facts-tests.md is complete, and every test that it names exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

NAMED = re.compile(r"`((?:compat/)?test_\w+\.py)::(test_\w+)`")


@pytest.fixture(scope="module")
def rows(root: Path) -> dict[str, str]:
    """What each fact is held by, by the fact's number."""
    text = (root / "docs" / "chroma-facts-tests.md").read_text(encoding="utf-8")
    cells = [
        line.strip("|").split(" | ") for line in text.splitlines() if line.startswith("| ") and "held by" not in line
    ]
    assert all(len(row) == 3 for row in cells)
    return {row[0].strip(): row[2] for row in cells}


def test_every_fact_has_a_test(rows: dict[str, str]) -> None:
    wanted = [str(i) for i in range(1, 22)] + [f"W{i}" for i in range(1, 14)] + ["V1", "V2", "V3", "F1"]
    wanted += ["S1", "S2", "S3", "S4", "P1", "P2"]
    assert list(rows) == [*wanted[:21], "V1", "V2", "V3", *wanted[21:34], "F1", *wanted[38:]]
    assert all(NAMED.search(held) for held in rows.values())


def test_every_named_test_exists(rows: dict[str, str], root: Path) -> None:
    named = {pair for held in rows.values() for pair in NAMED.findall(held)}
    missing = []
    for file, test in sorted(named):
        path = root / "tests" / file
        tree = ast.parse(path.read_text(encoding="utf-8")) if path.is_file() else ast.Module([], [])
        if not any(isinstance(node, ast.FunctionDef) and node.name == test for node in tree.body):
            missing.append(f"{file}::{test}")
    assert missing == []
    assert len(named) > 40


def test_the_facts_themselves_have_as_many_numbers(root: Path, rows: dict[str, str]) -> None:
    facts = root.parent / "shared" / "chroma-facts.md"
    if not facts.is_file():
        pytest.skip("../shared/chroma-facts.md is missing: the numbered facts that the table must cover")
    numbers = re.findall(r"^(\d+)\. ", facts.read_text(encoding="utf-8"), re.M)
    assert set(numbers) <= set(rows)

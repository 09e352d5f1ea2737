"""Each promise of docs/security.md names a test that is there."""

from __future__ import annotations

import re

from tests.conftest import ROOT


def test_each_promise_names_a_test_that_is_there() -> None:
    text = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)
    promises = [line for line in text.splitlines() if line.startswith("| ") and "::" in line]
    assert len(named) >= len(promises) > 25
    absent = [
        f"{file}::{test}" for file, test in named if f"def {test}(" not in (ROOT / file).read_text(encoding="utf-8")
    ]
    assert absent == []

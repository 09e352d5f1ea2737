"""Each promise of docs/reliability.md names what attacks it, and that is there."""

from __future__ import annotations

import re

from tests.conftest import ROOT
from tests.faults.kinds import KINDS


def test_each_promise_names_a_test_that_is_there() -> None:
    text = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    rows = [line for line in text.split("## What is not promised")[0].splitlines() if line.startswith("| ")][1:]
    named = {name for row in rows for name in re.findall(r"`(tests/[\w/.]+(?:::\w+)?)`", row)}
    assert len(rows) >= 9
    assert all("`tests/" in row for row in rows)
    for name in named:
        path, _, function = name.partition("::")
        there = (ROOT / path).read_text(encoding="utf-8")
        assert not function or re.search(rf"^def {function}\(", there, re.M), name


def test_each_kind_of_the_campaign_attacks_a_promise() -> None:
    text = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    assert [k.name for k in KINDS if f"kinds.py::{k.play.__name__}`" not in text] == []
    assert sum(k.share for k in KINDS) == 100

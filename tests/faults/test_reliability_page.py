"""Each promise of docs/reliability.md names what attacks it, and that is there."""

from __future__ import annotations

import re

from tests.conftest import ROOT
from tests.faults.campaign import drawn
from tests.faults.crashes import schedule
from tests.faults.disks import DISKS, FULL
from tests.faults.kinds import KINDS
from tests.faults.network import ALL
from tests.faults.scenarios import SCENARIOS


def test_each_promise_names_a_test_that_is_there() -> None:
    text = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    rows = [line for line in text.split("## What is not promised")[0].splitlines() if line.startswith("| ")]
    rows = [row for row in rows if not row.startswith(("| promise |", "| fault |"))]
    named = {name for row in rows for name in re.findall(r"`(tests/[\w/.]+(?:::\w+)?)`", row)}
    assert len(rows) >= 9
    assert all("`tests/" in row for row in rows)
    assert {f"F{n}" for n in range(1, 12)} <= {row[2:].split(":")[0] for row in rows}, (
        "a fault that was found has no test"
    )
    for name in named:
        path, _, function = name.partition("::")
        there = (ROOT / path).read_text(encoding="utf-8")
        assert not function or re.search(rf"^def {function}\(", there, re.M), name


def test_each_kind_of_the_campaign_attacks_a_promise() -> None:
    text = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    named = {k.name: f"`{k.play.__module__.replace('.', '/')}.py::{k.play.__name__}`" for k in KINDS}
    assert [kind for kind, name in named.items() if name not in text] == []


def test_forty_rounds_have_every_kind_and_two_hundred_every_named_write_and_every_fault_on_both_sides() -> None:
    assert sum(k.share for k in KINDS) == 40
    for seed in ("1", "20261128"):
        drawn_ = [drawn(seed, number, KINDS) for number in range(200)]
        for deck in range(5):
            assert {k.name for k, _ in drawn_[40 * deck : 40 * deck + 40]} == {k.name for k in KINDS}
        by_kind = {k.name: sorted(before for kind, before in drawn_ if kind is k) for k in KINDS}
        assert all(before == list(range(5 * k.share)) for k in KINDS for before in [by_kind[k.name]])
        rounds = schedule(seed)
        assert len(rounds) <= len(by_kind["crash: named write"])
        assert {w for _, writes in rounds for w in writes} == {w for s in SCENARIOS for w in s.writes}
        assert len(ALL) <= len(by_kind["network: proxy"])
        assert len(FULL) <= DISKS * len(by_kind["resources: disk full"])

"""Each promise of docs/security.md names a test that is there and that `make test-attacks` runs; its table can say "broke"."""

from __future__ import annotations

import re

import pytest

from tests.attacks import attack_of
from tests.conftest import ROOT
from tests.tally import BROKE, HELD, NOT_EXERCISED, Tally, outcomes, table


def test_each_promise_names_a_test_that_is_there_and_attacks() -> None:
    text = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    named = [test.removeprefix("tests/") for test in re.findall(r"`(tests/[\w/]+\.py::\w+)`", text)]
    promises = [line for line in text.splitlines() if line.startswith("| ") and "::" in line]
    assert len(named) >= len(promises) > 25
    assert sorted(set(named) - set(attack_of())) == []


def test_each_attack_names_tests_that_are_there() -> None:
    absent = [
        test
        for test in attack_of()
        if not re.search(
            rf"^def {test.partition('::')[2]}\(", (ROOT / "tests" / test.partition("::")[0]).read_text(), re.M
        )
    ]
    assert absent == []


def report(test: str, outcome: str, when: str = "call") -> pytest.TestReport:
    why = ("file", 1, "Skipped: nginx is missing") if outcome == "skipped" else None
    return pytest.TestReport(f"tests/{test}", ("", 0, ""), {}, outcome, why, when)  # type: ignore[arg-type]


def test_an_attack_is_held_only_if_every_test_of_it_ran_and_none_failed() -> None:
    tests = {
        f"a.py::{name}": ("source", name.split("_")[1]) for name in ("test_x_1", "test_x_2", "test_y_1", "test_z_1")
    }
    tests["a.py::test_w_1"] = ("source", "w")
    tally = Tally()
    for test, outcome, when in [
        ("a.py::test_x_1[0]", "passed", "call"), ("a.py::test_x_1[1]", "passed", "call"), ("a.py::test_x_2", "passed", "call"),
        ("a.py::test_y_1[0]", "passed", "call"), ("a.py::test_y_1[1]", "failed", "call"), ("a.py::test_z_1", "skipped", "setup"),
        ("a.py::test_x_1[0]", "passed", "setup"),
    ]:  # fmt: skip
        tally.pytest_runtest_logreport(report(test, outcome, when))
    rows = {row[1]: row[2:] for row in outcomes(tally, tests)}
    assert rows == {
        "x": (HELD, "3 tries"), "y": (BROKE, "tests/a.py::test_y_1[1]"),
        "z": (NOT_EXERCISED, "Skipped: nginx is missing"), "w": (NOT_EXERCISED, "a.py::test_w_1 did not run"),
    }  # fmt: skip
    assert table(outcomes(tally, tests)).endswith("4 attacks: 1 held, 1 BROKE, 2 not exercised.")

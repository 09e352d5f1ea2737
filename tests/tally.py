"""What became of each attack of `tests.attacks`, as the tests that repeat it came out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import pytest

HELD, BROKE, NOT_EXERCISED = "held", "BROKE", "not exercised"


@dataclass
class Tally:
    """A pytest plugin: what became of each test, by its name without parameters."""

    held: dict[str, int] = field(default_factory=dict)
    broke: dict[str, list[str]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        test = report.nodeid.removeprefix("tests/").partition("[")[0]
        if report.failed:
            self.broke.setdefault(test, []).append(report.nodeid)
        elif report.skipped:
            self.skipped[test] = str(report.longrepr[-1] if isinstance(report.longrepr, tuple) else report.longrepr)
        elif report.when == "call":
            self.held[test] = self.held.get(test, 0) + 1


def outcomes(tally: Tally, tests: Mapping[str, tuple[str, str]]) -> list[tuple[str, str, str, str]]:
    """(Attacker, attack, outcome, detail) for each attack: one broken test breaks it; one that did not run leaves a gap."""
    found: dict[tuple[str, str], list[str]] = {}
    for test, key in tests.items():
        found.setdefault(key, []).append(test)
    rows = []
    for (who, attack), named in found.items():
        broke = [node for test in named for node in tally.broke.get(test, [])]
        gaps = [
            tally.skipped.get(test, f"{test} did not run")
            for test in named
            if test in tally.skipped or test not in tally.held
        ]
        tried = sum(tally.held.get(test, 0) for test in named)
        outcome = BROKE if broke else NOT_EXERCISED if gaps else HELD
        rows.append((who, attack, outcome, "; ".join(broke or gaps) or f"{tried} {'try' if tried == 1 else 'tries'}"))
    return rows


def table(rows: Iterable[tuple[str, str, str, str]]) -> str:
    """The rows for a terminal, and how many attacks came out how."""
    rows = list(rows)
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = ["  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[3]]) for row in rows]
    counts = [f"{sum(row[2] == outcome for row in rows)} {outcome}" for outcome in (HELD, BROKE, NOT_EXERCISED)]
    return "\n".join([*lines, f"{len(rows)} attacks: {', '.join(counts)}."])

"""What was measured, as a file that two versions can be compared by, and as tables in Markdown."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from helpers.results import write_json

FORMAT = 1
GOAL_SIZES = ("9832x1536", "40000x1536", "160000x1536", "1000000x64")  # for which the goals are stated

# Measure → what it is, its unit, its goal (less is better; None: shown beside the others). docs/benchmarks.md explains each.
MEASURES: dict[str, tuple[str, str, float | None]] = {
    "M1": ("21 begins → 23 ends, notebooks and pages", "× naive", 1.2),
    "M2": ("the same work without notebooks", "× naive", 0.9),
    "M3": ("writers are out, fence.when: cutover", "s", 10.0),
    "M3 start": ("writers are out, fence.when: start", "s", None),
    "M3 differing": ("chunks that differ after the cutover", "chunks", 0.0),
    "M4": ("longest pause between two reads of a client", "s", 0.4),
    "M4 failed": ("reads that failed", "reads", 0.0),
    "M5": ("a rehearsal, installed", "s", 120.0),
    "M6": ("highest memory of any process of ours (RSS)", "MB", 400.0),
    "M6 PSS": ("the same, shared pages counted by their part", "MB", None),
    "M7": ("work of 21 to 23", "× floor", 1.8),
    "M8": ("restore, every chunk compared", "× floor", 1.1),
    "M9": ("import of helpers in a kernel", "s", 0.8),
}


@dataclass(frozen=True)
class Row:
    """One measure at one size: a value for each turn. `what` tells apart what MEASURES does not: a peer, a phase, a setting."""

    measure: str
    size: str
    values: list[float]
    what: str = ""
    unit: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def key(self) -> tuple[str, str, str]:
        return self.measure, self.size, self.what

    @property
    def says(self) -> str:
        return MEASURES[self.measure][0] if self.measure in MEASURES else self.what

    @property
    def shown_unit(self) -> str:
        return self.unit or MEASURES[self.measure][1]

    @property
    def goal(self) -> float | None:
        return MEASURES[self.measure][2] if self.measure in MEASURES else None

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None where there is none for this size."""
        if self.goal is None or self.size not in ("", *GOAL_SIZES):
            return None
        return self.median <= self.goal


@dataclass
class Findings:
    """All of one run of the benchmark. `machine` says what it was measured on and how busy that was; `peers` what each did."""

    when: str
    commit: str
    options: dict[str, Any]
    machine: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    peers: list[dict[str, Any]] = field(default_factory=list)
    not_exercised: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    format: int = FORMAT

    def write(self, path: Path) -> None:
        write_json(path, asdict(self))

    @classmethod
    def read(cls, path: Path) -> Findings:
        """ValueError where it is no file of ours, or of another format."""
        document = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise ValueError(f"{path} is no result of `make bench` of format {FORMAT}")
        return cls(**document | {"rows": [Row(**row) for row in document["rows"]]})


def ratios(ours: Sequence[float], others: Sequence[float]) -> list[float]:
    """Turn by turn: what was measured next to each other is compared with each other."""
    return [a / b for a, b in zip(ours, others, strict=True)]


def tables(found: Findings) -> str:
    """Everything in Markdown: the measures, what they stand on, peers, what was not exercised."""
    load = found.machine["load"]
    lines = [
        "# Benchmark", "",
        (f"{found.when}, commit {found.commit or 'unknown'}. {found.machine['cpus']} CPUs, Python {found.machine['python']}, "
        f"Chroma {found.machine['chromadb']}; load average {min(load):.1f} to {max(load):.1f}, before each turn. "
        f"{found.options['turns']} turns, took {found.seconds / 60:.0f} min. Less is better; ratios travel, seconds do not."),
        "", "| measure | size | what | median | turns | goal | met |", "|---|---|---|---:|---|---:|---|",
    ]  # fmt: skip
    measured = [row for row in found.rows if row.measure in MEASURES]
    lines += [_line(row) for row in measured]
    lines += ["", "| what it stands on | size | what | median | turns |", "|---|---|---|---:|---|"]
    lines += [
        f"| {r.measure} | {r.size} | {r.what} | {_value(r.median, r.shown_unit)} | {_turns(r)} |"
        for r in found.rows
        if r not in measured
    ]
    if found.peers:
        lines += ["", "| peer | size | exit code | time | what it lost or changed |", "|---|---|---|---:|---|"]
        lines += [_peer(peer) for peer in found.peers]
    lines += ["", *(f"NOT EXERCISED: {what}: {why}" for what, why in found.not_exercised.items())]
    return "\n".join(lines).rstrip() + "\n"


def _line(row: Row) -> str:
    goal = "" if row.goal is None else f"≤ {_value(row.goal, row.shown_unit)}"
    met = {True: "yes", False: "no", None: ""}[row.met]
    said = f"{row.says}, {row.what}" if row.what else row.says
    shown = row.measure.split()[0]
    return f"| {shown} | {row.size} | {said} | {_value(row.median, row.shown_unit)} | {_turns(row)} | {goal} | {met} |"


def _peer(peer: dict[str, Any]) -> str:
    lost = ", ".join(f"{kind} {n:,}" for kind, n in peer["lost"].items()) or "nothing"
    codes = ", ".join(map(str, peer["exit_codes"]))
    said = f"; {peer['said']}" if peer["said"] else ""
    return f"| {peer['name']} | {peer['size']} | {codes} | {peer['ratio']:.1f} × naive | {lost}{said} |"


def _turns(row: Row) -> str:
    return " ".join(_number(value) for value in row.values)


def _value(value: float, unit: str) -> str:
    return f"{_number(value)} {unit}".strip()


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.2f}"


def compared(a: Findings, b: Findings) -> str:
    """Two runs of the benchmark side by side, in Markdown: medians of A and of B, and B over A (under 1: B is better)."""
    ours = {row.key: row for row in a.rows}
    theirs = {row.key: row for row in b.rows}
    lines = [
        f"A: {a.when}, commit {a.commit or 'unknown'}, load {min(a.machine['load']):.1f} to {max(a.machine['load']):.1f}",
        f"B: {b.when}, commit {b.commit or 'unknown'}, load {min(b.machine['load']):.1f} to {max(b.machine['load']):.1f}",
        "", "| measure | size | what | A | B | B / A |", "|---|---|---|---:|---:|---:|",
    ]  # fmt: skip
    for key in [*ours, *(key for key in theirs if key not in ours)]:
        one, other = ours.get(key), theirs.get(key)
        row = one or other
        assert row is not None
        said = f"{row.says}, {row.what}" if row.what and row.measure in MEASURES else row.says
        values = [_value(r.median, r.shown_unit) if r else "–" for r in (one, other)]
        lines.append(f"| {row.measure} | {row.size} | {said} | {' | '.join(values)} | {_over(one, other)} |")
    return "\n".join(lines) + "\n"


def _over(one: Row | None, other: Row | None) -> str:
    """B over A; a dash where one is missing or A is zero and B is not."""
    if one is None or other is None:
        return "–"
    if one.median == other.median:
        return "1.00"
    return f"{other.median / one.median:.2f}" if one.median and math.isfinite(one.median) else "–"

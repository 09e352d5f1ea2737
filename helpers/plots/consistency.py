"""Whether a figure shows what the step's result says: what was drawn is read back and compared with the facts.

The expectation is made from the result alone, not by the function that drew. `RunRecord.finish` asks for every figure.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from helpers.formatting import count
from helpers.plots.search import FILLED
from helpers.plots.style import drawn, name
from helpers.results import StepResult

Series = dict[str, list[tuple[Any, ...]]]
_TOLERANCE = 1e-9  # relative; of what a fact rounds, `_ROUNDED` besides
_ROUNDED = 0.0500001  # milliseconds: samples of step 50 are recorded to a tenth


def disagreements(figure_name: str, figure: Figure, result: StepResult) -> list[str]:
    """What the figure shows otherwise than the result says, and what it draws outside of its axes; empty where all is right.

    `figure_name` is the one under which the step saves it. Series of which the result keeps nothing are not judged.
    """
    shown = drawn(figure)
    title = " ".join(figure.get_suptitle().split())
    found = [f"{figure_name}: {line}" for line in _outside(figure)]
    if not shown:  # nothing to draw: the figure says so in words
        return found
    for begin, expect in EXPECTED.items():
        if figure_name != begin and not (begin.endswith("_") and figure_name.startswith(begin)):
            continue
        for series, values in expect(result).items():
            if series == "title":
                found += [f"{figure_name}: the title lacks {word!r}" for (word,) in values if word not in title]
            else:
                cut = " drawn." in (figure.get_supxlabel().replace("\n", " "))
                found += [f"{figure_name}, {series}: {line}" for line in _differ(shown.get(series, []), values, cut)]
    return found


def _differ(shown: list[tuple[Any, ...]], expected: list[tuple[Any, ...]], cut: bool) -> list[str]:
    """Values of one series that only one side has; `cut`: the figure says that it leaves some out."""
    left = list(expected)
    lines = []
    for value in shown:
        at = next((i for i, other in enumerate(left) if _same(value, other)), None)
        if at is None:
            lines.append(f"{value} is drawn, and the result does not say so")
        else:
            del left[at]
    if left and not cut:
        lines.append(f"{left[0]} is missing" + (f", and {len(left) - 1} more" if len(left) > 1 else ""))
    return lines[:5]


def _same(a: tuple[Any, ...], b: tuple[Any, ...]) -> bool:
    return len(a) == len(b) and all(
        x == y if isinstance(x, str) or isinstance(y, str) else math.isclose(x, y, rel_tol=_TOLERANCE, abs_tol=1e-12)
        for x, y in zip(a, b, strict=True)
    )


def _outside(figure: Figure) -> list[str]:
    """Series with points beyond the limits of their axes: a reader cannot see them."""
    lines = []
    for axes in figure.axes:
        for line in axes.lines:
            if not line.get_gid():
                continue
            for data, ends in ((line.get_xdata(), axes.get_xlim()), (line.get_ydata(), axes.get_ylim())):
                values = np.asarray(data, np.float64)
                room = 1e-9 * max(map(abs, ends))
                off = int(((values < min(ends) - room) | (values > max(ends) + room)).sum())
                if off:
                    lines.append(f"{count(off, 'value')} of {line.get_gid()} outside of the axes")
    return lines


# -- what each figure must show ----------------------------------------------------------------------------------------


def _rows(result: StepResult, fact: str) -> list[dict[str, Any]]:
    return [dict(row) for row in result.facts.get(fact) or []]


def _counts(result: StepResult) -> Series:
    rows = _rows(result, "counts")
    series: Series = {
        key: [(name(r["collection"]), float(r[key])) for r in rows] for key in ("source", "target", "quarantined")
    }
    return series | {
        "quarantined alone": series["quarantined"],
        "title": [(count(sum(r[k] for r in rows)),) for k in ("source", "target") if all(r["matches"] for r in rows)],
    }


def _routing(result: StepResult) -> Series:
    sums: dict[tuple[str, str], int] = defaultdict(int)
    for row in _rows(result, "routing"):
        sums[str(row["collection"]), str(row["target"])] += int(row["chunks"])
    return {
        "chunks": [(name(source, 28), _column(target), count(n)) for (source, target), n in sums.items() if n],
        "title": [(count(sum(sums.values())),)],
    }


def _column(target: str) -> str:
    return name(target, 60) or "quarantine"


def _repairs(result: StepResult) -> Series:
    sums: dict[str, dict[str, float]] = {"filled": defaultdict(float), "changed": defaultdict(float)}
    for row in _rows(result, "repairs"):
        for kind, other in (("filled", "changed"), ("changed", "filled")):
            mine = (row["rule"] in FILLED) == (kind == "filled")
            sums[kind][str(row["field"])] += row["chunks"] if mine else 0
            sums[other].setdefault(str(row["field"]), 0.0)
    series: Series = {kind: [(name(f, 26), float(n)) for f, n in fields.items()] for kind, fields in sums.items()}
    return series | {"title": [(count(sum(fields.values())),) for fields in sums.values()]}


def _overlap(result: StepResult) -> Series:
    series: Series = {"exact": [], "approximate": []}
    for row in _rows(result, "search"):
        for kind, key in (("exact", "overlap_exact@"), ("approximate", "overlap_plain@")):
            for k, share in ((k.removeprefix(key), v) for k, v in row.items() if k.startswith(key)):
                if share is not None and math.isfinite(share):
                    series[kind].append((name(row["collection"], 26), k, float(share)))
    return series


def _recall(result: StepResult) -> Series:
    series: Series = defaultdict(list)
    for row in (result.facts.get("recall") or {}).get("rows", []):
        label = name(row["collection"] if row["scope"] == "restricted" else f"{row['collection']}, without filter", 44)
        for side, key, low, high in (
            ("before", "before", "before_low", "before_high"),
            ("after", "recall", "low", "high"),
        ):
            if row[key] is not None:
                series[side].append((label, float(row[key])))
                series[f"{side} interval"].append((label, float(row[low]), float(row[high])))
    return dict(series)


def _differences(result: StepResult) -> Series:
    total = sum((result.facts.get("differences") or {}).values())
    return {"title": [(count(total, "difference"),)] if total else []}


def _distances(space: str) -> Callable[[StepResult], Series]:
    def expect(result: StepResult) -> Series:
        worst = max((r["relative"] for r in _rows(result, "worst") if r["space"] == space), default=None)
        return {"worst": [(float(worst),)]} if worst is not None else {}

    return expect


def _timeline(result: StepResult) -> Series:
    begun = min((p.started for p in result.phases), default="")
    from datetime import datetime

    start = datetime.fromisoformat(begun) if begun else None
    ends = [(datetime.fromisoformat(p.started) - start).total_seconds() + p.seconds for p in result.phases if start]
    least = 0.002 * max(ends, default=0.0)  # what took no time is drawn as a thin line
    return {"phases": [(name(p.name, 48), max(p.seconds, least)) for p in result.phases]}


def _written(result: StepResult) -> Series:
    done = result.facts.get("import") or {}
    return {"title": [(count(done["chunks"]),)]} if done else {}


def _latency(result: StepResult) -> Series:
    return {}


def _performance(result: StepResult) -> Series:
    series: Series = defaultdict(list)
    for side, found in (result.facts.get("performance") or {}).items():
        for level in found.get("levels", []):
            for key, fact in (("mean", "mean_ms"), ("p95", "p95_ms"), ("rate", "rate")):
                if level.get("queries") and level.get(fact) is not None:
                    series[f"{side} {key}"].append((str(level["clients"]), float(level[fact])))
    return dict(series)


def _durations(result: StepResult) -> Series:
    rows = _rows(result, "durations")
    return {
        "took": [(name(r["step"], 30), float(r["actual"])) for r in rows],
        "estimate": [(name(r["step"], 30), float(r["estimate"])) for r in rows if r.get("estimate") is not None],
    }


EXPECTED: Mapping[str, Callable[[StepResult], Series]] = {
    "counts": _counts,
}

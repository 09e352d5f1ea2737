"""Whether a figure shows what the step's result says: what was drawn is read back and compared with the facts.

The expectation is made from the result alone, not by the function that drew. `RunRecord.finish` asks for every figure.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from helpers.formatting import count, percent
from helpers.plots.style import FEW, drawn, name, step_name
from helpers.results import StepResult, kind_of

Value = tuple[Any, ...]
Series = dict[str, list[Value]]
_LAST_DIGIT = 0.0500001  # samples of step 50 are recorded to a tenth of a millisecond


class Rounded(float):
    """A number that the result keeps to one decimal only."""


def disagreements(figure_name: str, figure: Figure, result: StepResult) -> list[str]:
    """What the figure shows otherwise than the result says, and what it draws outside of its axes; empty where all is right.

    `figure_name` is the one under which the step saves it. Series of which the result keeps nothing are not judged.
    """
    shown = drawn(figure)
    found = _outside(figure)
    key = next((k for k in EXPECTED if f"{result.step}_{figure_name}".startswith(k)), "")
    if key and shown:  # without shapes the figure says in words that there is nothing to draw
        title = " ".join(figure.get_suptitle().split())
        cut = " are drawn" in (figure.get_supxlabel() or "").replace("\n", " ")
        for series, values in EXPECTED[key](result, shown).items():
            if series == "title":
                found += [f"the title lacks {word!r}" for (word,) in values if word not in title]
            else:
                found += [f"{series}: {line}" for line in _differ(shown.get(series, []), values, cut)]
    return [f"{figure_name}: {line}" for line in found]


def _differ(shown: list[Value], expected: list[Value], cut: bool) -> list[str]:
    """Values of one series that only one side has; `cut`: the figure says that it leaves some out."""
    left, lines = list(expected), []
    for value in shown:
        at = next((i for i, other in enumerate(left) if _same(value, other)), None)
        if at is None:
            lines.append(f"{value} is drawn, and the result does not say so")
        else:
            del left[at]
    if left and not cut:
        lines.append(f"{left[0]} is missing" + (f", and {len(left) - 1} more" if len(left) > 1 else ""))
    return lines[:3]


def _same(shown: Value, expected: Value) -> bool:
    """Equal words, equal numbers; an expected None is any, and a `Rounded` one is met within its last digit."""
    return len(shown) == len(expected) and all(
        y is None or (abs(x - y) <= _LAST_DIGIT if isinstance(y, Rounded) else x == y)
        if y is None or isinstance(x, str) or isinstance(y, str | Rounded)
        else math.isclose(x, y, rel_tol=1e-9, abs_tol=1e-12)
        for x, y in zip(shown, expected, strict=True)
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


def _rows(result: StepResult, fact: str) -> list[dict[str, Any]]:
    return [dict(row) for row in result.facts.get(fact) or []]


def _counts(result: StepResult, _: Series) -> Series:
    rows = _rows(result, "counts")
    drawn = [
        {**r, "source": r["source"] - (r.get("left_out") or 0)} for r in rows
    ]  # bars are of what was to be migrated
    series = {k: [(name(r["collection"]), float(r[k])) for r in drawn] for k in ("source", "target", "quarantined")}
    words = [(count(sum(r[k] for r in rows)),) for k in ("source", "target") if all(r["matches"] for r in rows)]
    return {**series, "quarantined alone": series["quarantined"], "title": words}


def _routing(result: StepResult, shown: Series) -> Series:
    """Numbers by source; columns have short names, so that a pair is known by its number."""
    sums: dict[tuple[str, str], int] = defaultdict(int)
    for row in _rows(result, "routing"):
        sums[str(row["collection"]), str(row["target"])] += int(row["chunks"])
    return {
        "chunks": [(name(source, 28), None, count(n)) for (source, _), n in sums.items() if n],
        "title": [(count(sum(sums.values())),)],
    }


def _repairs(result: StepResult, _: Series) -> Series:
    rows = _rows(result, "repairs")
    sums = {kind: {str(r["field"]): 0.0 for r in rows} for kind in ("default", "derived", "set", "changed")}
    for row in rows:
        sums[kind_of(row["rule"])][str(row["field"])] += row["chunks"]
    series: Series = {kind: [(name(f, 26), n) for f, n in fields.items()] for kind, fields in sums.items()}
    return {**series, "title": [(count(sum(fields.values())),) for fields in sums.values()]}


def _overlap(result: StepResult, _: Series) -> Series:
    series: Series = {"exact": [], "approximate": []}
    for row in _rows(result, "search"):
        for kind, key in (("exact", "overlap_exact@"), ("approximate", "overlap_plain@")):
            shares = [(k.removeprefix(key), v) for k, v in row.items() if k.startswith(key) and v is not None]
            series[kind] += [(name(row["collection"], 26), k, float(v)) for k, v in shares if math.isfinite(v)]
    return series


def _recall(result: StepResult, _: Series) -> Series:
    series: Series = {"before": [], "after": [], "before interval": [], "after interval": []}
    told = result.facts.get("recall") or {"rows": [], "pooled": {"unrestricted": None}}
    whole = told["pooled"]["unrestricted"]  # of merged collections, all as one
    for row in [r for r in told["rows"] if r["scope"] == "restricted"] + [whole] * bool(whole):
        label = name(row["collection"] if row["scope"] == "restricted" else f"{row['collection']}, without filter", 44)
        for side, share, prefix in (("before", row["before"], "before_"), ("after", row["recall"], "")):
            if share is not None:
                series[side].append((label, share))
                series[f"{side} interval"].append((label, row[f"{prefix}low"], row[f"{prefix}high"]))
    return series


def _differences(result: StepResult, _: Series) -> Series:
    total = sum((result.facts.get("differences") or {}).values())
    return {"title": [(count(total, "difference"),)]}


def _distances(space: str, result: StepResult, shown: Series) -> Series:
    """The right end of the curve is the worst chunk's of that space, or the floor; not judged where none is among the worst."""
    right = max(x for x, _ in shown["source to target, same id"])
    worst = [float(r["relative"]) for r in _rows(result, "worst") if r.get("space", space) == space]
    lines = any(math.isclose(right, w, rel_tol=1e-9) for w in worst) or all(w < right for w in worst)
    return {} if lines or not worst else {"source to target, same id": [(max(worst), 1.0)]}


def _norms(_: StepResult, shown: Series) -> Series:
    """As many vectors before as after, and as many as the title says."""
    before, after = (int(sum(n for *_, n in shown.get(side, []))) for side in ("before", "after"))
    return {"title": [(count(before),), (count(after),)]}


def _points(_: StepResult, shown: Series) -> Series:
    """The title counts what is drawn, and each point of the source has its point of the target."""
    words: list[Value] = [(count(len(shown[side])),) for side in ("points", "target") if side in shown]
    return {"title": words}


def _timeline(result: StepResult, _: Series) -> Series:
    """Every phase; that of a rollback ends before the source is watched."""
    phases = [p for p in result.phases if not p.name.startswith("Watch")]
    begins = [datetime.fromisoformat(p.started) for p in phases]
    ends = [(at - min(begins)).total_seconds() + p.seconds for at, p in zip(begins, phases, strict=True)]
    least = 0.002 * max(ends, default=0.0)  # what took no time is drawn as a thin line
    return {"phases": [(name(p.name, 48), max(p.seconds, least)) for p in phases]}


def _throughput(result: StepResult, shown: Series) -> Series:
    done = result.facts.get("import")
    if not done:
        return {}
    points = [(None, None)] * (done["batches"] if done["batches"] <= FEW else len(shown["batches"]))
    return {"batches": points, "title": [(count(done["chunks"], "chunk"),)]}


def _written(result: StepResult, shown: Series) -> Series:
    done = result.facts.get("import")
    if not done:
        return {}
    last, expected = shown["written"][-1], done["expected_seconds"]
    known = _same(last, (done["seconds"], float(done["chunks"])))
    found: Series = {"estimate": [(0.0, 0.0), (expected, float(done["to_write"]))] if expected else []}
    return found if known else {**found, "written": [(done["seconds"], float(done["chunks"]))]}


def _watch(result: StepResult, _: Series) -> Series:
    rows = (result.facts.get("monitoring") or {}).get("rows", [])
    if not rows or len(rows) >= 500:  # of a long watch the result keeps the last ones only
        return {}
    return {q: [(None, Rounded(r[f"{q} ms"])) for r in rows if r[f"{q} ms"] is not None] for q in ("p50", "p95", "p99")}


def _levels(result: StepResult) -> dict[str, list[dict[str, Any]]]:
    sides = (result.facts.get("performance") or {}).items()
    return {side: [level for level in found.get("levels", []) if level["queries"]] for side, found in sides}


def _performance(result: StepResult, _: Series) -> Series:
    return {
        f"{side} {key}": [(str(level["clients"]), float(level[fact])) for level in levels]
        for side, levels in _levels(result).items()
        for key, fact in (("mean", "mean_ms"), ("p95", "p95_ms"), ("rate", "rate"))
    }


def _latency(result: StepResult, _: Series) -> Series:
    return {
        side: [(q, None) for level in levels if level["clients"] == 1 for q in level["quantiles_ms"]]
        for side, levels in _levels(result).items()
    }


def _durations(result: StepResult, _: Series) -> Series:
    rows = _rows(result, "durations")
    if not rows:
        return {}
    marks = {"took": "actual", "estimate": "estimate"}
    return {s: [(step_name(r["step"]), r[key]) for r in rows if r[key] is not None] for s, key in marks.items()}


def _completeness(_: StepResult, shown: Series) -> Series:
    """The title names the lowest share that is drawn."""
    low = min((v for *_, v in shown["shares"] if math.isfinite(v)), default=1.0)
    return {"title": [(percent(low) if low < 1 else "All",)]}


def _completeness_of_both(result: StepResult, _: Series) -> Series:
    """Each field's share on each side; the title counts the fields that gained."""
    rows = (result.facts.get("metadata") or {}).get("fields") or []
    shares = {
        side: [(name(r["field"], 28), r[side] / max(1, r["chunks"])) for r in rows] for side in ("before", "after")
    }
    both = [(field, before, after) for (field, before), (_, after) in zip(*shares.values(), strict=True)]
    gained = sum(after > before + 1e-12 for _, before, after in both)
    return (
        {**shares, "change": list(both), "title": [(f"{count(gained)} of {count(len(rows), 'field')}",)]}
        if rows
        else {}
    )


def _values(_: StepResult, shown: Series) -> Series:
    """The title counts what is drawn outside of the range."""
    outside = int(sum(n for *_, n in shown.get("outside", [])))
    return {"title": [(f"{count(outside)} of",)] if outside else []}


# By the beginning of the file's name, `<step>_<name>`.
EXPECTED: Mapping[str, Callable[[StepResult, Series], Series]] = {
    "11_completeness": _completeness, "11_values": _values, "11_map": _points, "13_repairs": _repairs, "13_routing": _routing,
    "22_repairs": _repairs, "22_routing": _routing, "22_timeline": _timeline, "22_throughput": _throughput,
    "22_written": _written, "23_counts": _counts, "23_norms": _norms,
    **{f"23_distances_{space}": partial(_distances, space) for space in ("cosine", "l2", "ip")},
    "23_plane": _points, "23_completeness": _completeness_of_both,
    "23_overlap": _overlap, "23_recall": _recall, "23_differences": _differences, "27_timeline": _timeline,
    "50_latency": _watch, "51_performance": _performance, "51_latency": _latency, "53_durations": _durations,
}  # fmt: skip

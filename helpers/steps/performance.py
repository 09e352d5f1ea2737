"""Step 51: is the target fast enough, beside the source before it? Cold and warm, with 1, 4 and 16 clients. It never writes.

(Runbook, Section 5, Performance Verification.) Each side is measured in a process of its own. The source is still there
after the cutover, and reads of it go through a fence; a source that is a directory is read from a copy. Where it cannot be
reached any more, the target is measured alone. Nobody else is held off: a measurement while clients work includes their load.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import pandas as pd

from helpers import plots
from helpers.errors import one_line
from helpers.formatting import count
from helpers.monitoring.measure import QUERIES, SOURCE, TARGET, run_child
from helpers.reason_codes import ReasonCode
from helpers.results import Verdict
from helpers.run.record import NotebookStep, RunRecord

ABOUT_SECONDS, MOST_SECONDS = 12.0, 600.0
MUCH_SLOWER, TOO_SMALL_MS = (
    2.0,
    20.0,
)  # the mean of the target against the source's; a few milliseconds are nobody's trouble
_SIDES = {SOURCE: "before", TARGET: "after"}


class PerformanceStep(NotebookStep):
    """The notebook's view: before, after, side by side, and the two verdicts."""

    def __init__(self, run: RunRecord) -> None:
        self.run, self.rules = run, run.parameters.monitoring
        self.sides: dict[str, dict[str, Any]] = {}

    def source(self) -> pd.DataFrame:
        """Before: the source, as far as it can still be reached."""
        return self._measure(SOURCE)

    def target(self) -> pd.DataFrame:
        """After: the target that clients use."""
        return self._measure(TARGET)

    def _measure(self, side: str) -> pd.DataFrame:
        file = self.run.workspace / "performance" / f"{side}.json"
        file.unlink(missing_ok=True)
        command = [sys.executable, "-m", "helpers.monitoring.measure", self.run.id, side, str(file)]
        with self.run.phase(f"measure the {side}"):
            code = run_child(self.run, command, file.with_suffix(".log"), label=f"Measure the {side}", about=ABOUT_SECONDS,
                             most=MOST_SECONDS)  # fmt: skip
        if code == 0 and file.exists():
            found = json.loads(file.read_text(encoding="utf-8"))
        else:
            said = file.with_suffix(".log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
            self.run.home.log_block(f"measuring the {side} ended with {code}", "\n".join(said), self.run.step)
            line = one_line(said[-1], 300) if said else "it said nothing"
            found = {
                "error": {
                    "code": ReasonCode.NOT_MEASURED,
                    "line": f"took longer than {MOST_SECONDS:g} s" if code is None else line,
                }
            }
        self.sides[side] = found
        if error := found.get("error"):
            return pd.DataFrame([("not measured", error["line"])], columns=["what", "found"])
        return pd.DataFrame(_rows(found), columns=["what", "found"])

    def compare(self) -> pd.DataFrame:
        """Both sides: opening, cold, warm by number of clients, with what is wanted."""
        before, after = (self._side(s) for s in (SOURCE, TARGET))
        opened = [_shown(side["opened_ms"] if side else None) for side in (before, after)]
        cold = [_shown(max(side["cold_ms"].values()) if side else None) for side in (before, after)]
        rows = [
            ("opening it, ms", *opened, ""),
            ("cold: first query of a collection, worst, ms", *cold, ""),
        ]
        for clients in QUERIES:
            pair = [_level(s, clients) for s in (before, after)]
            wanted = clients == 1
            rows.append((f"warm, {count(clients, 'client')}: mean, ms", *(_shown(p.get("mean_ms")) for p in pair),
                         f"at most {self.rules.maximum_latency_ms:g}" if wanted else ""))  # fmt: skip
            rows.append((f"warm, {count(clients, 'client')}: p95, ms", *(_shown(p.get("p95_ms")) for p in pair), ""))
            rows.append((f"warm, {count(clients, 'client')}: queries a second", *(_shown(p.get("rate")) for p in pair),
                         f"more than {self.rules.minimum_queries_per_second:g}" if wanted else ""))  # fmt: skip
        self._judge(before, after)
        return pd.DataFrame(rows, columns=["what", "before: source", "after: target", "wanted"])

    def _side(self, side: str) -> dict[str, Any] | None:
        found = self.sides.get(side, {"error": {}})
        return None if "error" in found else found

    def _judge(self, before: dict[str, Any] | None, after: dict[str, Any] | None) -> None:
        run, rules = self.run, self.rules
        run.fact("performance", {_SIDES[side]: found for side, found in sorted(self.sides.items())})
        if after is None:
            error = self.sides.get(TARGET, {}).get("error") or {
                "code": ReasonCode.NOT_MEASURED,
                "line": "the target was not measured",
            }
            taken = error["code"] == ReasonCode.TARGET_IN_USE
            run.check("query latency", Verdict.WARNING if taken else Verdict.FAIL,
                      parameter="monitoring.maximum_latency_ms", threshold=rules.maximum_latency_ms, unit="ms",
                      reason=ReasonCode.NOT_QUERIED if taken else ReasonCode.NOT_MEASURED, detail=error["line"])  # fmt: skip
            return
        one = _level(after, 1)
        failed = sum(level["errors"] for level in after["levels"])
        mean, rate = one.get("mean_ms"), one["rate"]
        run.fact("mean_latency_ms", mean)
        run.fact("queries_per_second", rate)
        slow = mean is None or mean >= rules.maximum_latency_ms
        few = rate <= rules.minimum_queries_per_second
        told = f"mean of {one['queries']} queries, one client, warm"
        run.check("query latency", Verdict.FAIL if slow else Verdict.PASS, measured=mean,
                  parameter="monitoring.maximum_latency_ms", threshold=rules.maximum_latency_ms,
                  unit="ms", reason=ReasonCode.SLOW_QUERIES if slow else "", detail=told)  # fmt: skip
        run.check("throughput", Verdict.FAIL if few else Verdict.PASS, measured=rate, unit="queries/s",
                  parameter="monitoring.minimum_queries_per_second", threshold=rules.minimum_queries_per_second,
                  reason=ReasonCode.SLOW_QUERIES if few else "",
                  detail="one query after the other")  # fmt: skip
        such = next((level["such_as"] for level in after["levels"] if level["errors"]), "")
        run.check("queries without an error", Verdict.FAIL if failed else Verdict.PASS, measured=failed, threshold=0,
                  unit="errors", reason=ReasonCode.TARGET_ERRORS if failed else "", detail=such)  # fmt: skip
        self._beside(before, mean)

    def _beside(self, before: dict[str, Any] | None, mean: float | None) -> None:
        was = _level(before, 1).get("mean_ms") if before else None
        if was is None or mean is None:
            why = (self.sides.get(SOURCE, {}).get("error") or {}).get("line", "the source was not measured")
            self.run.check("not much slower than before", Verdict.NOT_APPLICABLE, detail=why)
            return
        slower = mean > MUCH_SLOWER * was and mean - was > TOO_SMALL_MS
        self.run.check("not much slower than before", Verdict.WARNING if slower else Verdict.PASS, measured=mean,
                       threshold=round(max(MUCH_SLOWER * was, was + TOO_SMALL_MS), 1), unit="ms",
                       reason=ReasonCode.SLOW_QUERIES if slower else "", detail=f"{was:g} ms before")  # fmt: skip

    def figure(self) -> None:
        """Latency and queries a second on both sides."""
        rows = [
            {"side": _SIDES[side], "clients": level["clients"], "mean_ms": level.get("mean_ms", float("nan")),
             "p95_ms": level.get("p95_ms", float("nan")), "rate": level["rate"]}
            for side in _SIDES for level in (self._side(side) or {"levels": []})["levels"] if level["queries"]
        ]  # fmt: skip
        frame = pd.DataFrame(rows, columns=["side", "clients", "mean_ms", "p95_ms", "rate"])
        drawn = plots.performance(
            frame, limit_ms=self.rules.maximum_latency_ms, minimum_rate=self.rules.minimum_queries_per_second
        )
        self.run.figure(
            "performance", drawn, "Latency and queries per second, before and after, with 1, 4 and 16 clients."
        )


def _rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    how = f"{found['label']}, {found['protocol']}"
    if found["protocol"] == "in this process":
        how += ": one process; its clients are threads that share one connection"
    return [
        ("read", how),
        ("collections", f"{found['collections']}, {count(found['chunks'], 'chunk')}"),
        ("opened in", f"{found['opened_ms']:,.0f} ms"),
        ("cold", "; ".join(f"{name} {ms:,.1f} ms" for name, ms in found["cold_ms"].items())),
        *((f"warm, {count(r['clients'], 'client')}", _told(r)) for r in found["levels"]),
    ]


def _told(row: dict[str, Any]) -> str:
    failed = f", {count(row['errors'], 'error')}: {row['such_as']}" if row["errors"] else ""
    if not row["queries"]:
        return f"no query was answered{failed}"
    return (
        f"{row['queries']} queries in {row['seconds']:.1f} s, {row['rate']:,.0f} a second, mean {row['mean_ms']:,.1f} ms, "
        f"p95 {row['p95_ms']:,.1f} ms, p99 {row['p99_ms']:,.1f} ms{failed}"
    )


def _level(side: dict[str, Any] | None, clients: int) -> dict[str, Any]:
    return next((level for level in (side or {"levels": []})["levels"] if level["clients"] == clients), {})


def _shown(value: float | None) -> str:
    return "not measured" if value is None else f"{value:,.1f}"

"""Step 51: is the target fast enough, compared with the source? Cold and warm, with 1, 4 and 16 clients. It never writes.

(Runbook, Section 5, Performance Verification.) Both sides are measured in one new process, the warm levels in turn. After the
cutover the source can still be read, also through a fence; a source that is a directory is read from a copy. Where it cannot
be reached, only the target is measured. Clients are not stopped: a measurement while they work includes their load.
"""

from __future__ import annotations

import sys
from functools import cached_property
from typing import Any

import pandas as pd

from helpers import plots
from helpers.errors import RUNBOOK, one_line
from helpers.formatting import count, duration
from helpers.monitoring.measure import CLIENTS, LATENCY, SOURCE, TARGET, run_child
from helpers.reason_codes import ReasonCode
from helpers.results import Verdict, contents, json_in
from helpers.run.record import NotebookStep, RunRecord

LEAST_LEVEL = 30.0  # seconds; a shorter level says little about a service, and is marked as shortened
_START_UP, _GRACE = 15.0, 600.0  # seconds: for imports and opening; beyond the plan, until the measurement is stopped
_SIDES = {SOURCE: "before", TARGET: "after"}


class PerformanceStep(NotebookStep):
    """The notebook's view: before, after, side by side, and the verdicts."""

    def __init__(self, run: RunRecord) -> None:
        self.run, self.rules = run, run.parameters.monitoring

    def plan(self) -> pd.DataFrame:
        """What will be measured, what latency means, and about how long it takes."""
        seconds, times = self.rules.level_seconds, count(self.rules.repetitions, "repetition")
        whole = f"of {LEAST_LEVEL:g} s" if seconds < LEAST_LEVEL else "a side"
        rows = [
            ("sides", "source and target, in turn"),
            ("latency is", LATENCY),
            ("cold", "opening, and the first query of each collection, in a new process"),
            ("warm", f"with {', '.join(map(str, CLIENTS))} clients: {seconds:g} s {whole}, in {times}"),
            ("takes", f"about {duration(self._about)}; the terminal and `{RUNBOOK} status` show how far it is"),
        ]
        self.run.log(f"measuring source and target takes about {duration(self._about)}")
        return pd.DataFrame(rows, columns=["what", "how"])

    @property
    def _about(self) -> float:
        """Seconds that the measurement should take."""
        return _START_UP + len(CLIENTS) * len(_SIDES) * self.rules.level_seconds

    def source(self) -> pd.DataFrame:
        """Measure both sides, in turn; return the rows of the source, where it can still be reached."""
        return self._shown_side(SOURCE)

    def target(self) -> pd.DataFrame:
        """The rows of the target that clients use, from the same measurement."""
        return self._shown_side(TARGET)

    @cached_property
    def sides(self) -> dict[str, dict[str, Any]]:
        """Side → its measurements, or its `error`."""
        file = self.run.workspace / "performance" / "measured.json"
        file.unlink(missing_ok=True)
        command = [sys.executable, "-m", "helpers.monitoring.measure", self.run.id, str(file)]
        most = self._about + _GRACE
        with self.run.phase("measure source and target"):
            code = run_child(self.run, command, file.with_suffix(".log"), label="Measure source and target",
                             about=self._about, most=most)  # fmt: skip
        if code == 0 and file.exists():
            return dict(json_in(contents(file)))
        lines = file.with_suffix(".log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
        self.run.home.log_block(f"the measurement ended with {code}", "\n".join(lines), self.run.step)
        line = one_line(lines[-1], 300) if lines else "it said nothing"
        line = f"took longer than {most:g} s" if code is None else line
        return {side: {"error": {"code": ReasonCode.NOT_MEASURED, "line": line}} for side in _SIDES}

    def _shown_side(self, side: str) -> pd.DataFrame:
        measured = self.sides[side]
        rows = [("not measured", measured["error"]["line"])] if "error" in measured else _rows(measured)
        return pd.DataFrame(rows, columns=["what", "found"])

    def compare(self) -> pd.DataFrame:
        """Both sides with the limits: opening, cold, and warm by number of clients, in ms and queries per second."""
        before, after = (self._side(s) for s in (SOURCE, TARGET))
        opened = [_shown(side["opened_ms"] if side else None) for side in (before, after)]
        cold = [_shown(max(side["cold_ms"].values()) if side else None) for side in (before, after)]
        rows = [
            ("opening it, ms", *opened, ""),
            ("cold: first query of a collection, worst, ms", *cold, ""),
        ]
        for clients in CLIENTS:
            pair = [_level(s, clients) for s in (before, after)]
            wanted = clients == 1
            rows.append((f"warm, {count(clients, 'client')}: mean, ms", *(_shown(p.get("mean_ms")) for p in pair),
                         f"at most {self.rules.maximum_latency_ms:g}" if wanted else ""))  # fmt: skip
            ratio = _ratio(*pair)
            rows.append((f"warm, {count(clients, 'client')}: mean, times the source's", "", _spread(*ratio) if ratio else
                         _shown(None), f"at most {self.rules.maximum_slowdown:g}"))  # fmt: skip
            rows.append((f"warm, {count(clients, 'client')}: p95, ms", *(_shown(p.get("p95_ms")) for p in pair), ""))
            rows.append((f"warm, {count(clients, 'client')}: queries a second", *(_shown(p.get("rate")) for p in pair),
                         f"more than {self.rules.minimum_queries_per_second:g}" if wanted else ""))  # fmt: skip
        self._judge(before, after)
        return pd.DataFrame(rows, columns=["what", "before: source", "after: target", "wanted"])

    def _side(self, side: str) -> dict[str, Any] | None:
        measured = self.sides.get(side, {"error": {}})
        return None if "error" in measured else measured

    def _judge(self, before: dict[str, Any] | None, after: dict[str, Any] | None) -> None:
        run, rules = self.run, self.rules
        run.fact("performance", {_SIDES[name]: side for name, side in sorted(self.sides.items())})
        for side in (before, after):
            if side is not None:
                run.sampled(f"stored vectors searched for in the {side['side']}", side["asked"], side["chunks"])
        if after is None:
            error = self.sides.get(TARGET, {}).get("error") or {
                "code": ReasonCode.NOT_MEASURED,
                "line": "the target was not measured",
            }
            taken = error["code"] == ReasonCode.TARGET_IN_USE
            run.check("query latency", Verdict.WARNING if taken else Verdict.FAIL,
                      parameter="monitoring.maximum_latency_ms", threshold=rules.maximum_latency_ms, relation="<", unit="ms",
                      measured="not measured", reason=ReasonCode.NOT_QUERIED if taken else ReasonCode.NOT_MEASURED,
                      detail=error["line"])  # fmt: skip
            return
        one = _level(after, 1)
        failed = sum(level["errors"] for level in after["levels"])
        mean, rate = one.get("mean_ms"), one["rate"]
        run.fact("mean_latency_ms", mean)
        run.fact("queries_per_second", rate)
        slow = mean is None or mean >= rules.maximum_latency_ms
        few = rate <= rules.minimum_queries_per_second
        detail = f"mean of {one['queries']:,} queries in {one['seconds']:.1f} s, one client, warm"
        run.check("query latency", Verdict.FAIL if slow else Verdict.PASS, measured=mean,
                  parameter="monitoring.maximum_latency_ms", threshold=rules.maximum_latency_ms, relation="<",
                  unit="ms", reason=ReasonCode.SLOW_QUERIES if slow else "", detail=detail)  # fmt: skip
        run.check("throughput", Verdict.FAIL if few else Verdict.PASS, measured=rate, unit="queries/s",
                  parameter="monitoring.minimum_queries_per_second", threshold=rules.minimum_queries_per_second, relation=">",
                  reason=ReasonCode.SLOW_QUERIES if few else "",
                  detail="one query after the other")  # fmt: skip
        such = next((level["such_as"] for level in after["levels"] if level["errors"]), "")
        run.check("queries with an error", Verdict.FAIL if failed else Verdict.PASS, measured=failed, threshold=0,
                  unit="errors", reason=ReasonCode.TARGET_ERRORS if failed else "", detail=such)  # fmt: skip
        self._judge_slowdown(before, after)
        self._judge_duration()

    def _judge_slowdown(self, before: dict[str, Any] | None, after: dict[str, Any]) -> None:
        """Check the target's mean latency against the source's, for each level, with the spread over the repetitions."""
        pairs = {clients: _ratio(_level(before, clients), _level(after, clients)) for clients in CLIENTS}
        ratios = {clients: pair for clients, pair in pairs.items() if pair is not None}
        limit = self.rules.maximum_slowdown
        if not ratios:
            reason = (self.sides[SOURCE].get("error") or {}).get("line", "the source was not measured")
            self.run.check("latency relative to the source", Verdict.NOT_EXERCISED, parameter="monitoring.maximum_slowdown",
                           measured="not measured", threshold=limit, relation="≤", unit="× source", detail=reason)  # fmt: skip
            return
        worst = max(ratio for ratio, _ in ratios.values())
        slower = worst > limit
        detail = "; ".join(f"{count(clients, 'client')}: {_spread(*pair)}" for clients, pair in ratios.items())
        detail = f"mean of all queries, target divided by source. {detail}"
        if any(each and min(each) <= limit < max(each) for _, each in ratios.values()):
            detail += "; repetitions lie on both sides of the limit"
        if before is not None and before["protocol"] != after["protocol"]:
            detail += f"; source: {before['protocol']}, target: {after['protocol']}"
        self.run.check("latency relative to the source", Verdict.WARNING if slower else Verdict.PASS,
                       measured=worst, parameter="monitoring.maximum_slowdown", threshold=limit, relation="≤",
                       unit="× source", reason=ReasonCode.SLOW_QUERIES if slower else "", detail=detail)  # fmt: skip

    def _judge_duration(self) -> None:
        seconds, times = self.rules.level_seconds, count(self.rules.repetitions, "repetition")
        enough = seconds >= LEAST_LEVEL
        self.run.check("seconds measured per level", Verdict.PASS if enough else Verdict.NOT_EXERCISED, measured=seconds,
                       threshold=LEAST_LEVEL, relation="≥", unit="s", parameter="monitoring.level_seconds",
                       detail=times if enough else f"shortened: {seconds:g} s of {LEAST_LEVEL:g} s, {times}")  # fmt: skip

    def figure(self) -> None:
        """Draw latency and queries per second of both sides, and the distribution of the latencies."""
        rows = [
            {"side": _SIDES[side], "clients": level["clients"], "mean_ms": level["mean_ms"], "p95_ms": level["p95_ms"],
             "rate": level["rate"], "mean_low": min(_means(level)), "mean_high": max(_means(level))}
            for side in _SIDES for level in (self._side(side) or {"levels": []})["levels"] if level["queries"]
        ]  # fmt: skip
        frame = pd.DataFrame(rows, columns=["side", "clients", "mean_ms", "p95_ms", "rate", "mean_low", "mean_high"])
        limit = self.rules.maximum_latency_ms
        drawn = plots.performance(frame, limit_ms=limit, minimum_rate=self.rules.minimum_queries_per_second)
        self.run.figure(
            "performance", drawn, "Latency and queries per second, before and after, with 1, 4 and 16 clients."
        )
        one = {_SIDES[side]: _level(self._side(side), 1) for side in _SIDES}
        curves = {side: level.get("quantiles_ms", []) for side, level in one.items()}
        queries = {side: level.get("queries", 0) for side, level in one.items()}
        curve = plots.latency_cdf(curves["before"], curves["after"], limit_ms=limit, clients=1, queries=queries)
        self.run.figure("latency", curve, "Share of queries answered within a time, one client, before and after.")


def _rows(measured: dict[str, Any]) -> list[tuple[str, str]]:
    how = f"{measured['label']}, {measured['protocol']}"
    if measured["protocol"] == "in this process":
        how += ": one process; its clients are threads that share one connection"
    return [
        ("read", how),
        ("collections", f"{measured['collections']}, {count(measured['chunks'], 'chunk')}"),
        ("opened in", f"{measured['opened_ms']:,.0f} ms"),
        ("cold", "; ".join(f"{name} {ms:,.1f} ms" for name, ms in measured["cold_ms"].items())),
        *((f"warm, {count(r['clients'], 'client')}", _level_text(r)) for r in measured["levels"]),
    ]


def _level_text(row: dict[str, Any]) -> str:
    failed = f", {count(row['errors'], 'error')}: {row['such_as']}" if row["errors"] else ""
    if not row["queries"]:
        return f"no query was answered{failed}"
    return (
        f"{row['queries']} queries in {row['seconds']:.1f} s, {row['rate']:,.0f} a second, mean {row['mean_ms']:,.1f} ms, "
        f"p95 {row['p95_ms']:,.1f} ms, p99 {row['p99_ms']:,.1f} ms{failed}"
    )


def _level(side: dict[str, Any] | None, clients: int) -> dict[str, Any]:
    return next((level for level in (side or {"levels": []})["levels"] if level["clients"] == clients), {})


def _means(level: dict[str, Any]) -> list[float]:
    return [r["mean_ms"] for r in level["repetitions"] if r["mean_ms"] is not None]


def _ratio(before: dict[str, Any], after: dict[str, Any]) -> tuple[float, list[float]] | None:
    """(mean latency after / before of all queries, the same of each pair of repetitions); None where one was not measured."""
    if not before.get("mean_ms") or not after.get("mean_ms"):
        return None
    pairs = zip(before["repetitions"], after["repetitions"], strict=False)
    each = [round(b["mean_ms"] / a["mean_ms"], 2) for a, b in pairs if a["mean_ms"] and b["mean_ms"]]
    return round(after["mean_ms"] / before["mean_ms"], 2), each


def _spread(ratio: float, each: list[float]) -> str:
    """`2.18 × (repetitions 1.71 to 2.84)`."""
    return f"{ratio:.2f} ×" + (f" (repetitions {min(each):.2f} to {max(each):.2f})" if len(each) > 1 else "")


def _shown(value: float | None) -> str:
    return "not measured" if value is None else f"{value:,.2f}" if value < 10 else f"{value:,.1f}"

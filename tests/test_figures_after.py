"""Figures of what comes after the cutover: they say what was found, and no input breaks one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
from matplotlib.figure import Figure

from helpers import plots

NAN = float("nan")
GOOD = "The target answers one client in 4 ms on average and 200 queries a second: both within limits"
LOOK = {"second": 0.0, "p50": 3.0, "p95": 9.0, "p99": 12.0, "chunks": 100, "failed": False}
LEVEL = {"side": "after", "clients": 1, "mean_ms": 4.0, "p95_ms": 9.0, "rate": 200.0, "mean_low": 3.5, "mean_high": 4.5}
STEP = {"step": "22 Migrate", "actual": 95.0, "estimate": 80.0, "runbook_low": 2700, "runbook_high": 3600}


def title(figure: Figure) -> str:
    return figure.get_suptitle().replace("\n", " ")


def watch(*looks: dict[str, Any], **more: Any) -> Figure:
    frame = pd.DataFrame([LOOK | look for look in looks], columns=list(LOOK))
    return plots.watch_timeline(frame, **{"limit_ms": 500.0, "validated": 100, "planned": 3600.0, **more})


def performance(*levels: dict[str, Any]) -> Figure:
    frame = pd.DataFrame([LEVEL | level for level in levels], columns=list(LEVEL))
    return plots.performance(frame, limit_ms=500.0, minimum_rate=10.0)


@pytest.mark.more
@pytest.mark.parametrize(
    ("draw", "said"),
    [
        (lambda: watch(), "The target was not asked"),
        (lambda: watch({}), "1 look: p95 at most 9 ms, within 500 ms; none failed"),
        (lambda: watch({}, {"second": 60.0, "p95": 700.0, "p99": 800.0, "failed": True}),
         "2 looks: p95 at most 700 ms, above 500 ms; 1 look failed"),
        (lambda: watch({"p50": None, "p95": None, "p99": None, "chunks": None, "failed": True}), "The target was not asked"),
        (lambda: watch({"failed": True}, {"second": 60.0, "p50": NAN, "p95": NAN, "p99": NAN}, ended="it is gone"),
         "Ended early: it is gone"),
        (lambda: watch({"second": 0.5}, planned=2.0, gaps=[(0.5, 90.0)]), "1 look: p95 at most 9 ms, within 500 ms; none failed"),
        (lambda: performance(), "The target was not measured"),
        (lambda: performance({}), GOOD),
        (lambda: performance({"side": "before"}), "The target was not measured"),
        (lambda: performance({"mean_ms": 900.0, "p95_ms": NAN, "rate": 1.1}),
         "The target answers one client in 900 ms on average and 1.1 queries a second: not within limits"),
        (lambda: performance({}, {"side": "before", "mean_ms": 2.0, "rate": 400.0}),
         f"{GOOD}; before, 2 ms and 400"),
        (lambda: performance({}, {"side": "before"}, {"clients": 4, "rate": 240.0},
                             {"side": "before", "clients": 4, "rate": 522.0}),
         f"{GOOD}; before, 4 ms and 200. With 4 clients: 240 queries a second, 522 before"),
        (lambda: plots.durations([]), "No step was timed"),
        (lambda: plots.durations([STEP]),
         "The steps took 1 min 35 s; those that the dry run estimated, 1 min 35 s instead of 1 min 20 s"),
        (lambda: plots.durations([STEP | {"step": "<b>\x1b$x$" * 9, "actual": 0.0, "estimate": None, "runbook_high": None}]),
         "The steps took 0.0 s"),
    ],
)  # fmt: skip
def test_each_says_what_was_found(draw: Callable[[], Figure], said: str) -> None:
    figure = draw()
    assert title(figure) == said
    assert plots.png(figure)[:4] == b"\x89PNG"


@pytest.mark.parametrize("title", ["22 Migrate", "14 Schedule the window and notify everybody who is concerned by it"])
def test_a_label_is_never_cut_so_that_another_attempt_is_meant(title: str) -> None:
    """`22 Migrate, attempt 1 of 2: failed` once read `22 Migrate, attempt… 2: failed`."""
    figure = plots.durations([STEP | {"step": f"{title}, attempt 1 of 2: failed"}])
    (label,) = (text.get_text() for text in figure.axes[0].get_yticklabels())
    assert label.endswith(", attempt 1 of 2: failed")
    assert len(label) <= 44

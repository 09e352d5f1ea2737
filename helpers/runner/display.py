"""What a notebook shows at its beginning and its end: the run, its parameters, how the step came out."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

from helpers.errors import one_line
from helpers.parameters import Parameters, parameters_from
from helpers.results import Verdict
from helpers.run import folders as runs
from helpers.run import plan
from helpers.run.record import RunRecord
from helpers.troubleshooting.map import advised
from helpers.words import duration


def opening(run: RunRecord, banner: str) -> str:
    rows = [("run", run.id), ("step", f"{run.step} {run.result.title}"), *_shown_parameters(run.parameters)]
    mark = f"<p><strong>{html.escape(banner)}</strong></p>" if banner else ""
    if run.rehearsal and not banner:
        mark = "<p><strong>REHEARSAL</strong></p>"
    if run.dry_run:
        mark += "<p><strong>DRY RUN: the target is not touched.</strong></p>"
    return mark + _table(("parameter", "value"), rows)


def _shown_parameters(parameters: Parameters) -> list[tuple[str, str]]:
    """The parameters that say what this run is, and those that differ from their defaults."""
    document = parameters.document()
    least = {"name": document["name"], "source": document["source"], "target": document["target"]}
    default = runs.flatten(parameters_from(least).document())
    always = ("name", "source.", "target.", "schema")
    shown = {k: v for k, v in runs.flatten(document).items() if v != default.get(k) or k.startswith(always)}
    return [(k, "" if v is None else str(v)) for k, v in shown.items() if v not in (None, {}, [], "")]


def closing(run: RunRecord, digest: str) -> str:
    result = run.result
    counts = {v: sum(c.verdict is v for c in result.checks) for v in Verdict}
    said = ", ".join(f"{n} {v}" for v, n in counts.items() if n) or "no checks"
    verdict = f"<strong>{html.escape(result.title)}: {result.verdict.upper()}</strong>"
    head = f"<p>{verdict} ({said}; {duration(result.seconds)})</p>"
    order = sorted(result.checks, key=lambda c: -list(Verdict).index(c.verdict))
    rows = [(c.verdict, c.name, _value(c.measured), _value(c.threshold), c.detail) for c in order[:20]]
    rest = f"<p>{len(order) - 20} more in the file.</p>" if len(order) > 20 else ""
    table = _table(("verdict", "check", "measured", "threshold", "detail"), rows) if rows else ""
    remedies = "".join(f"<p><code>{html.escape(line)}</code></p>" for line in _advice(run))
    foot = remedies + f"<p>results/{run.step}.json, SHA-256 <code>{digest}</code></p>"
    return head + table + rest + foot


def _advice(run: RunRecord) -> list[str]:
    """The commands that open the remedies of what failed, was marginal or warned here; none in those notebooks themselves."""
    if plan.find(run.step).troubleshoots:
        return []
    codes = [c.reason for c in run.result.checks if c.verdict in (Verdict.FAIL, Verdict.MARGINAL, Verdict.WARNING)]
    return advised(codes, run, 3)


def _value(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else one_line(str(value), 120)


def _table(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Plain HTML, every cell escaped: names and values may be foreign text."""
    head = "".join(f"<th style='text-align:left'>{html.escape(c)}</th>" for c in columns)
    body = "".join(
        "<tr>" + "".join(f"<td style='text-align:left'>{html.escape(one_line(str(c)))}</td>" for c in row) + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

"""The way back on one page, for notebook 00: Appendix E with commands that work, and the times that this run measured.

`tests/test_rapid_rollback.py` reads the commands out of the executed notebook and runs them.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from helpers.results import StepResult
from helpers.rollback import outline
from helpers.rollback.state import FILES, REMOVE, TITLES
from helpers.run.folders import RunFolder
from helpers.runner.status import measured_rollback, rollback_seconds
from helpers.words import duration

# Appendix E: "Service restoration: ~10 minutes, total downtime: ~15 minutes".
_PROMISED = {FILES: "about 10 min", REMOVE: "about 15 min"}
_REASON = "REASON"


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the page: when it is due, what it does, the command."""

    when: str
    what: str
    command: str


def lines(folder: RunFolder) -> list[Line]:
    """The commands in the order in which they are needed."""
    back = folder.command
    return [
        Line("1. First", "says what would be done, and touches nothing", back("rollback", "--dry-run")),
        Line("2. Then",
             "stops the migration, proves the source, puts the configuration back, restarts, lifts the fence, takes from "
             "the target what this run put there, watches", back("rollback")),
        Line("if it is killed", "the same again: it does the rest", back("rollback")),
        Line("if it stops: clients wrote to the target", "writes that to the source and compares it there",
             back("rollback", "--replay")),
        Line("", "or gives it up, for a reason that goes on record; it stays exported",
             back("rollback", "--discard-with-reason", _REASON)),
        Line("if it stops: the source is damaged", "writes back from the snapshot what differs",
             back("rollback", "--restore-source")),
        Line("", "or takes it as it is, for a reason that goes on record", back("rollback", "--accept-source", _REASON)),
        Line("if only the fence is in the way", "lets writes to the source through again, and does nothing else",
             back("fence", "--lift")),
        Line("3. Afterwards", "says that the run is rolled back", back("status")),
        Line("", "checks every file, seal and signature", back("verify")),
    ]  # fmt: skip


def times(folder: RunFolder) -> list[tuple[str, str, str]]:
    """(what, what the runbook promises, what is known of this run) of the way back."""
    done = measured_rollback(folder) if folder.exists else None
    if done is None:
        seconds, how = rollback_seconds(folder) if folder.exists else (0.0, "")
        known = f"about {duration(seconds)} ({how})" if how else "not known before step 22 has passed"
        return [("the way back, in all", _PROMISED[REMOVE], known)]
    how = "measured in this run's drill" if folder.facts().get("drills") else "measured in this run"
    ends = ((FILES, "clients are back at the source"), (REMOVE, "the target holds nothing of this run"))
    return [(what, _PROMISED[stage], f"{duration(_until(done, stage))} ({how})") for stage, what in ends]


def _until(done: StepResult, stage: str) -> float:
    """Seconds from the beginning of the rollback to the end of this stage."""
    ended = next((p for p in done.phases if p.name == TITLES[stage]), None)
    if ended is None:
        return float("nan")
    begun, at = datetime.fromisoformat(done.started), datetime.fromisoformat(ended.started)
    return (at - begun).total_seconds() + ended.seconds


def sheet(folder: RunFolder) -> str:
    """The page as HTML: commands, times, and what the rollback would do as things stand."""
    commands = _table(("when", "what it does", "command"), [
        (html.escape(line.when), html.escape(line.what), f'<code style="white-space: nowrap">{html.escape(line.command)}</code>')
        for line in lines(folder)
    ])  # fmt: skip
    known = _table(("how long", "runbook", "this run"), [tuple(map(html.escape, row)) for row in times(folder)])
    if not folder.exists:
        return commands + known
    stages = [tuple(map(html.escape, row)) for row in outline.outline(folder)]
    more = _table(("stage", "as things stand"), stages)
    return f"{commands}{known}<details><summary>What it would do, stage by stage</summary>{more}</details>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells are HTML already."""
    left = 'style="text-align: left"'
    top = "".join(f"<th {left}>{cell}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td {left}>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"

"""Notebook 00: the state of the runs, the plan with the measured times, whom to call, the rollback on one page."""

from __future__ import annotations

import datetime as dt
import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from helpers import plots
from helpers import rollback as outline
from helpers.formatting import duration, moment
from helpers.notify import levels
from helpers.parameters import Parameters
from helpers.report import instant, numbers, read_run, timed
from helpers.results import Verdict, passed
from helpers.run import folders as runs
from helpers.run import plan
from helpers.run.advice import rapid_rollback, steps_for, symptoms_of
from helpers.run.folders import REPOSITORY, RunFolder, RunPath, RunState
from helpers.run.kernel import show, show_figure
from helpers.run.plan import Step
from helpers.run.window import Hours, now_utc
from helpers.status import (
    RUN_COLUMNS,
    TO_DO,
    escalation,
    estimated_seconds,
    measured_rollback,
    next_action,
    rollback_seconds,
    rolled_back,
    run_rows,
    state,
)
from helpers.steps import troubleshooting

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


class IndexStep:
    """The notebook's view. It has no run of its own and records no result: an overview is no evidence.

    It shows the run with this id, else the newest run of these parameters, else the newest run.
    """

    def __init__(self, run_id: str = "", parameters: Parameters | None = None) -> None:
        every = [runs.find(run_id)] if run_id else runs.every_run()
        if parameters is not None and not run_id:
            every = [folder for folder in every if folder.is_of(parameters)]
        self._folder = every[0] if every else None
        self.parameters = self._folder.parameters if self._folder is not None else parameters

    @property
    def folder(self) -> RunState | None:
        """The run, read again for each cell: this notebook stays open while a run continues."""
        return self._folder.read() if self._folder is not None else None

    def steps(self) -> pd.DataFrame:
        """Every notebook in the order of the runbook: step, title, section, state, seconds, notebook.

        `state` is "" for a notebook on demand that has not run.
        """
        import pandas as pd

        folder, rows = self.folder, []
        for step in list(plan.Step)[1:]:
            result = folder.result(step.number) if folder is not None else None
            step_state = state(result) if result is not None or step.on_line else ""
            rows.append(
                [step.number, step.title, step.section, step_state, result.seconds if result else 0.0, step.notebook]
            )
        return pd.DataFrame(rows, columns=["step", "title", "section", "state", "seconds", "notebook"])

    def map(self) -> None:
        """Show the steps with links: in JupyterLab to the notebook, on a page to the results of the notebooks that ran."""
        body, section = "", ""
        for step, title, part, step_state, seconds, notebook in self.steps().itertuples(index=False):
            if part != section:
                section = part
                body += f'<tr><th colspan="4" {_LEFT}>{html.escape(section)}</th></tr>'
            cells = (step, self._link(notebook, title), _marked(step_state), duration(seconds) if seconds else "")
            body += "<tr>" + "".join(f"<td {_LEFT}>{cell}</td>" for cell in cells) + "</tr>"
        head = "".join(f"<th {_LEFT}>{name}</th>" for name in ("step", "notebook", "state", "took"))
        show(f"<p>{self._which()}</p><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")

    def _which(self) -> str:
        if self.folder is None:
            return "No run yet."
        page = self.folder.reports / RunPath.PAGE
        name = f"Run <strong>{html.escape(self.folder.id)}</strong>"
        if not page.is_file():
            return f"{name}."
        if self.folder.reports.parent == REPOSITORY / "reports":
            return f'{name}; <a class="desk" href="../reports/{html.escape(self.folder.id)}/index.html">its page</a>.'
        return f"{name}; its page: <code>{html.escape(str(page))}</code>"

    def _link(self, notebook: str, title: str) -> str:
        """A link of class `desk` leads to nothing of this run, so a page does not show it (helpers.report.notebook)."""
        ran = self.folder is not None and (self.folder.reports / notebook).is_file()
        return f'<a {"" if ran else "class=desk "}href="{notebook}">{html.escape(title)}</a>'

    def next_action(self) -> str:
        """One sentence: what to do next."""
        return next_action(self.folder)

    def timeline(self) -> pd.DataFrame:
        """Draw the plan from T−24 h to T+7 d with the measured times; return it as a table, times in UTC."""
        import pandas as pd

        timeline = plan_and_measured(self.folder, self.parameters)
        show_figure(figure(timeline, now_utc()))
        return pd.DataFrame(table(timeline), columns=COLUMNS).set_index("step")

    def escalation(self) -> pd.DataFrame:
        """Appendix C: whom to call, by the time since the first failure; the current level is marked."""
        folder = self.folder
        current = escalation(folder, now_utc()) if folder is not None else None
        contacts = self.parameters.contacts.named if self.parameters is not None else None
        return levels(contacts, current[2] if current is not None else 0).set_index("level")

    def war_room(self) -> str:
        """The channel and the war room, one line each."""
        contacts = self.parameters.contacts.named if self.parameters is not None else None
        named = {"channel": contacts.channel, "war room": contacts.war_room} if contacts is not None else {}
        lines = [f"{label}: {value}" for label, value in named.items() if value]
        return "\n".join(lines) or "contacts.channel and contacts.war_room are not named."

    def rapid_rollback(self) -> None:
        """Show Appendix E with the commands and the measured times of this run."""
        folder = self.folder or RunFolder.of("RUN_ID").read()
        sentence = rolled_back(folder) if folder.exists else ""
        show((f"<p><strong>{html.escape(sentence)}</strong></p>" if sentence else "") + sheet(folder))

    def go_no_go(self) -> None:
        """Draw Appendix B, go or no-go: the path of this run."""
        folder = self.folder
        results = [folder.result(number) if folder else None for number in (Step.VALIDATE, Step.REVIEW)]
        show_figure(troubleshooting.go_no_go(*results))

    def troubles(self) -> None:
        """Draw Appendix B, troubleshooting: the notebooks for the reasons that this run's checks give."""
        folder = self.folder
        if folder is None:
            show_figure(troubleshooting.troubles(None))
            return
        results = [result for step in plan.LINE if (result := folder.result(step.number)) is not None]
        rows = [row for result in results for row in symptoms_of(result)]
        named = {step.number for step in steps_for(str(row["reason"]) for row in rows)}
        failed = any(row["verdict"] in (Verdict.FAIL, "error") for row in rows)
        show_figure(troubleshooting.troubles(named, failed=failed))

    def runs(self) -> pd.DataFrame:
        """Every run, the newest first."""
        import pandas as pd

        return pd.DataFrame(run_rows(), columns=RUN_COLUMNS).set_index("run")

    def finish(self) -> None:
        """Record nothing."""


_LEFT = 'style="text-align: left"'


def _marked(state: str) -> str:
    """HTML of a state, highlighted unless the step passed or has not run."""
    return state if state in ("", TO_DO, "pass") else f"<strong>{html.escape(state)}</strong>"


# -- timeline ----------------------------------------------------------------------------------------------------------
#
# The plan from T−24 h to T+7 d with the measured times of a run: Appendix A, for notebook 00.
#
# T is when the fence goes up: the window's start where the parameters name one, else when step 20 of the run began.
# The plan is the runbook's. Where the run's dry run estimated a step of the window, its estimate replaces the runbook's
# figure, and the steps after it move. The measured times are those of the run's page.


BEFORE, NIGHT, AFTER = "The day before", "The window", "The week after"
_MINUTE, _HOUR, _DAY = 60.0, 3600.0, 86400.0
# (step, title, minutes, section of the runbook), in order.
_DAY_BEFORE = (
    (Step.SOURCE_HEALTH, "Source health", 5, "1.2"),
    (Step.EXPLORE_SOURCE, "Explore the source", 10, "1.5"),
    (Step.TARGET_READINESS, "Target readiness", 5, "1.3"),
    (Step.DRY_RUN, "Backup and dry run", 70, "1.1 and 1.4"),
    (Step.SCHEDULE_AND_NOTIFY, "Schedule and notify", 0, "1.6 and 1.7"),
)
_THE_NIGHT = (
    (Step.FENCE_WRITES, "Fence off writes", 5, "Step 1"),
    (Step.SNAPSHOT, "Snapshot", 5, "Step 2"),
    (Step.MIGRATE, "Migrate", 55, "Step 3"),
    (Step.VALIDATE, "Validate", 10, "Step 4"),
    (Step.REVIEW, "Review and decide", 5, "Step 5"),
    (Step.CUTOVER, "Cut over", 10, "Step 6a"),
)
_BACK = (Step.ROLLBACK, "Rollback, if NO-GO", 10, "Step 7b")
_AFTERWARDS = (
    (Step.PERFORMANCE, "Performance"),
    (Step.INTEGRATION, "Integration tests"),
    (Step.CLOSEOUT, "Close out"),
)  # no durations in the runbook
_KEPT = "Snapshot kept"


@dataclass(frozen=True, slots=True)
class PlanRow:
    """One line of the plan. `planned` and `real` are (begin, end) in seconds from T; `basis` is the source of the plan."""

    part: str
    step: str
    title: str
    planned: tuple[float, float]
    basis: str
    real: tuple[float, float] | None = None
    open: bool = False  # it began, but no end is recorded

    @property
    def took(self) -> str:
        """The measured duration in words; "" where nothing was measured."""
        if self.real is None:
            return ""
        return "not finished" if self.open else in_words(self.real[1] - self.real[0])


@dataclass(frozen=True, slots=True)
class Timeline:
    """The rows, T (None where it is not known yet), and a sentence that says what T is."""

    rows: list[PlanRow]
    start: dt.datetime | None
    start_is: str

    def of(self, step: str) -> PlanRow:
        """The row of this step."""
        return next(row for row in self.rows if row.step == step)


def plan_and_measured(folder: RunState | None, parameters: Parameters | None) -> Timeline:
    """The plan of a run, or of parameters that have no run yet, with the measured times."""
    measured = {t.step.number: t for t in timed(read_run(folder.reports).steps)} if folder is not None else {}
    hours = Hours.of(parameters) if parameters is not None else None
    start, start_is = None, "T is not named: window.start in the parameters file"
    if hours is not None:
        start, start_is = hours.start, f"T is the window's start, {moment(hours.start)}"
    elif Step.FENCE_WRITES in measured:
        start = measured[Step.FENCE_WRITES].start
        start_is = f"T is when the fence went up, {moment(start)}"
    rows = []
    for row in _planned(folder, parameters):
        step = measured.get(row.step) if row.step != _BACK[0] else None
        if step is not None and start is not None:
            real = ((step.start - start).total_seconds(), (step.end - start).total_seconds())
            rows.append(PlanRow(row.part, row.step, row.title, row.planned, row.basis, real, step.open))
        else:
            rows.append(row)
    rows = [_measured_elsewhere(row, folder, start) for row in rows]
    return Timeline(rows, start, start_is)


def _planned(folder: RunState | None, parameters: Parameters | None) -> Sequence[PlanRow]:
    rows, at = [], -_DAY
    for step, title, minutes, section in _DAY_BEFORE:
        rows.append(PlanRow(BEFORE, step, title, (at, at + minutes * _MINUTE), f"runbook, {section}"))
        at = rows[-1].planned[1]
    at = 0.0
    for step, title, minutes, section in _THE_NIGHT:
        seconds, basis = minutes * _MINUTE, f"runbook, {section}"
        if folder is not None and (estimate := estimated_seconds(folder, step)):
            seconds, basis = estimate, "estimate of step 13"
        rows.append(PlanRow(NIGHT, step, title, (at, at + seconds), basis))
        at += seconds
    step, title, minutes, section = _BACK
    rows.append(PlanRow(NIGHT, step, title, (at, at + minutes * _MINUTE), f"runbook, {section}"))
    watch = parameters.monitoring.minutes * _MINUTE if parameters is not None else _HOUR
    rows.append(
        PlanRow(
            AFTER,
            Step.MONITOR,
            "Monitor",
            (at, at + watch),
            "monitoring.minutes" if parameters else "runbook, Section 5",
        )
    )
    rows += [PlanRow(AFTER, step, title, (at + watch, at + watch), "runbook, Section 5") for step, title in _AFTERWARDS]
    days = parameters.snapshot.retention_days if parameters is not None else 7
    taken = next(row for row in rows if row.step == Step.SNAPSHOT).planned[1]
    basis = "snapshot.retention_days" if parameters else "runbook, Appendix A"
    return [*rows, PlanRow(AFTER, "", _KEPT, (taken, taken + days * _DAY), basis)]


def _measured_elsewhere(row: PlanRow, folder: RunState | None, start: dt.datetime | None) -> PlanRow:
    """The row with the times of the rollback, which is on demand, or of the snapshot, which states until when it is kept."""
    if folder is None or start is None:
        return row
    begun = ended = None
    open_ = False
    if row.step == Step.ROLLBACK:
        result = measured_rollback(folder)
        rollback = numbers.rollback(result)
        begun = numbers.ordered(result) if rollback is not None else None
        if rollback is not None and begun is not None:
            ended = begun + dt.timedelta(seconds=rollback.clean)
    elif row.title == _KEPT:
        snapshot = folder.result(Step.SNAPSHOT)
        if snapshot is not None and passed(snapshot):
            begun, ended = instant(snapshot.finished), instant(snapshot.facts["snapshot"]["retain_until"])
        open_ = ended is not None and ended > now_utc()
        ended = now_utc() if open_ else ended
    if begun is None or ended is None:
        return row
    real = ((begun - start).total_seconds(), (ended - start).total_seconds())
    return PlanRow(row.part, row.step, row.title, row.planned, row.basis, real, open_)


COLUMNS = ("step", "what", "planned at", "planned", "from", "began", "took")


def table(timeline: Timeline) -> list[tuple[str, ...]]:
    """The rows in words, in the order of `COLUMNS`; times in UTC where T is known, else from T."""

    def at(seconds: float) -> str:
        if timeline.start is not None:
            return moment((timeline.start + dt.timedelta(seconds=seconds)).isoformat()).removesuffix(" UTC")
        return _from_start(seconds)

    return [
        (r.step, r.title, at(r.planned[0]), in_words(r.planned[1] - r.planned[0]) if r.planned[1] > r.planned[0] else "",
         r.basis, at(r.real[0]) if r.real else "", r.took)
        for r in timeline.rows
    ]  # fmt: skip


def figure(timeline: Timeline, now: dt.datetime) -> Figure:
    """The Gantt chart: the day before in hours, the window in minutes, the week after in days."""
    elapsed = (now - timeline.start).total_seconds() if timeline.start is not None else None
    panels = []
    for part, unit, words in ((BEFORE, _HOUR, "hours"), (NIGHT, _MINUTE, "minutes"), (AFTER, _DAY, "days")):
        bars = [
            plots.TimelineBar(f"{r.step} {r.title}".strip(), _in(r.planned, unit), _in(r.real, unit) if r.real else None,
                      _bar_text(r))
            for r in timeline.rows if r.part == part
        ]  # fmt: skip
        panels.append(plots.Panel(part, f"{words} from T", bars, elapsed / unit if elapsed is not None else None))
    return plots.plan_and_reality(panels, sentence(timeline), f"{timeline.start_is}. {_basis(timeline)}")


def _in(span: tuple[float, float], unit: float) -> tuple[float, float]:
    return span[0] / unit, span[1] / unit


def _bar_text(row: PlanRow) -> str:
    begin, end = row.planned
    if row.title == _KEPT:
        return f"{(end - begin) / _DAY:g} days, until T+{(row.real or row.planned)[1] / _DAY:.1f} d"
    planned = f"planned {in_words(end - begin)}" if end > begin else f"planned at {_from_start(begin)}"
    return f"{planned}, took {row.took}" if row.took else planned


def _from_start(seconds: float) -> str:
    return f"T{'+' if seconds >= 0 else '−'}{in_words(abs(seconds))}"


def in_words(seconds: float) -> str:
    """A duration without seconds of 0: 5 min, not 5 min 00 s; from two days on in days."""
    if seconds >= 2 * _DAY:
        return f"{seconds / _DAY:.3g} days"
    return duration(seconds).removesuffix(" 00 s")


def _basis(timeline: Timeline) -> str:
    estimated = [row.step for row in timeline.rows if row.basis == "estimate of step 13"]
    if not estimated:
        return "Planned: the runbook's figures."
    return f"Planned: the estimate of step 13 for {', '.join(estimated)}, else the runbook's figures."


def sentence(timeline: Timeline) -> str:
    """One sentence: the migration's times compared with the plan."""
    plan = in_words(timeline.of(Step.CUTOVER).planned[1])
    night = [row for row in timeline.rows if row.part == NIGHT and row.step != _BACK[0] and row.real is not None]
    if not night:
        return f"Planned: cut over {plan} after the fence goes up; no step of the window has run"
    work = sum(row.real[1] - row.real[0] for row in night if row.real is not None)
    rollback = timeline.of(_BACK[0])
    text = f"Steps {', '.join(row.step for row in night)} took {duration(work)} of work"
    cutover = timeline.of(Step.CUTOVER)
    if cutover.real is not None and not cutover.open:
        text = f"Cut over {_after(cutover.real[1])}; planned {_after(cutover.planned[1])}"
    return text + (f"; rollback took {rollback.took}" if rollback.real is not None else "")


def _after(seconds: float) -> str:
    return f"{in_words(abs(seconds))} {'after' if seconds >= 0 else 'before'} T"


# -- rapid rollback ----------------------------------------------------------------------------------------------------

# The rollback on one page, for notebook 00: Appendix E with the commands and the measured times of this run.
#
# `tests/test_rapid_rollback.py` reads the commands out of the executed notebook and runs them.


# Appendix E: "Service restoration: ~10 minutes, total downtime: ~15 minutes".
_SERVICE, _CLEAN = ("Service back", "about 10 min"), ("Target clean", "about 15 min")


def times(folder: RunState) -> list[tuple[str, str, str]]:
    """(what, the runbook's time, the time known of this run) of the rollback."""
    measured = numbers.rollback(measured_rollback(folder)) if folder.exists else None
    if measured is None:
        seconds, how = rollback_seconds(folder) if folder.exists else (0.0, "")
        known = f"about {duration(seconds)} ({how})" if how else "not known before step 22 has passed"
        return [(*_CLEAN, known)]
    how = "measured in this run's drill" if folder.facts.get("drills") else "measured in this run"
    ends = f"{duration(measured.service)} ({how}: {numbers.service_ends(measured)})"
    return [(*_SERVICE, ends), (*_CLEAN, f"{duration(measured.clean)} ({how})")]


def sheet(folder: RunState) -> str:
    """The page as HTML: commands, times, and what a rollback would do now."""
    commands = _table(("when", "what it does", "command"), [
        (html.escape(line.when), html.escape(line.what), f'<code style="white-space: nowrap">{html.escape(line.command)}</code>')
        for line in rapid_rollback(folder.command)
    ])  # fmt: skip
    known = _table(("how long", "runbook", "this run"), [tuple(map(html.escape, row)) for row in times(folder)])
    if not folder.exists:
        return commands + known
    stages = [tuple(map(html.escape, row)) for row in outline.outline(folder)]
    more = _table(("stage", "what would be done now"), stages)
    return f"{commands}{known}<details><summary>What it would do, stage by stage</summary>{more}</details>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """An HTML table. `head` and `rows` are HTML already."""
    left = 'style="text-align: left"'
    top = "".join(f"<th {left}>{cell}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td {left}>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"

"""The pages: a run's page, the index of all runs, a rollback's page, and the HTML of an executed notebook.

All are derived from the run's files and give the same text each time. Each is one file that works from disk without a network
and without scripts; a content security policy in it forbids both.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import islice, pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from helpers import audit, formatting
from helpers.errors import RUNBOOK
from helpers.evidence import at_rest, due, trusted
from helpers.evidence.seals import chain
from helpers.evidence.signoffs import CLOSEOUT, CUTOVER, DRY_RUN, GATES, gate_state
from helpers.evidence.statement import sha256
from helpers.formatting import count, moment, percent, text
from helpers.notify import read as read_notices
from helpers.report import RunView, Timed, between, numbers, read_run, record, timed
from helpers.report.clients import (
    UNKNOWN,
    Tile,
    answers,
    asks_instead,
    carries_over,
    downtime_parts,
    downtime_tile,
    recall_tiles,
    rollback_options,
    rollback_sentence,
    rollback_tile,
    to_source,
    when_to_roll_back,
    who_orders,
)
from helpers.report.outcome import CLASSES, decision_tree, ends, outcome, owed, writers
from helpers.report.record import checklist
from helpers.results import Check, Verdict, changes_in_words, contents, passed, utc_now, write_bytes, write_text
from helpers.run import advice
from helpers.run.advice import impact
from helpers.run.folders import CHANGED, RunFolder, RunPath, RunState
from helpers.run.plan import CONTRADICTIONS, EMBEDDINGS, Step

_MARKS = {"pass": "✓", "not exercised": "○", "warning": "!", "marginal": "~", "fail": "✗", "failed": "✗",
          "unreadable": "✗"}  # fmt: skip
_KINDS = {"pass": "pass", "warning": "warning", "marginal": "marginal", "not exercised": "skipped", "interrupted": "warning",
          "waiting": "warning", "void": "warning", "fail": "fail",
          "failed": "fail", "unreadable": "fail"}  # fmt: skip


def run_page(run: RunState | Path, kept: str = "") -> str:
    """Return the page of one run, `reports/<run id>/index.html`, from its files; a path names their folder.

    `kept`: for a copy that does not change any more, the sentence in its head.
    """
    return _run_page(_view(run), kept)


def _run_page(view: RunView, kept: str = "") -> str:
    review = view.step(Step.REVIEW)
    rollback = numbers.rollback(view.results.get(Step.ROLLBACK))
    return rendered(
        "run.html.j2",
        view=view,
        kept=kept,
        outcome=view.outcome,
        signable=bool(review and review.result and view.outcome.kind in ("go", "waiting")),
        checklist=checklist(view),
        sessions=sessions(view),
        window_sentence=numbers.window_sentence(view),
        layout={"width": WIDTH, "top": TOP},
        tree=decision_tree(view),
        ends=ends(view),
        to_source=to_source(view),
        tiles=tiles(view),
        notes=notes(view),
        untried=record.untried(view),
        disagreements=numbers.disagreements(view.results, view.attempts),
        back=numbers.rollback_words(rollback) if rollback is not None else "",
        rollback_sentence=rollback_sentence(view),
        who_orders=who_orders(view),
        rollback_options=rollback_options(view),
        when_to_roll_back=when_to_roll_back(view),
        histories=advice.HISTORIES if writers(view) else "",
        replay_ordered=numbers.REPLAY_ORDERED if rollback is not None and rollback.replayed is not None else "",
        rollback_times=numbers.rollback_rows(view.results, view.drill),
        downtime_parts=downtime_parts(view.results, view.attempts),
        carries_over=carries_over(view),
        more_downtimes=numbers.more_downtimes(view.results, view.drill),
        answers=answers(view.table("recall")),
        asks=asks_instead(view),
        routes=numbers.routes(view.results),
        counted=numbers.counts(view.results),
        repaired=record.values(view),
        known=record.known_at_decision(view),
        changes=list(islice(view.changes, _LISTED)),
        changes_file=CHANGED,
        aside=list(islice(view.quarantined, _LISTED)),
        aside_file=view.quarantine_file,
        rapid=advice.rapid_rollback(lambda name, *more: shlex.join([RUNBOOK, name, view.id, *more])),
        contacts=record.contacts_of(view),
        record_status=record.status(view),
        deviations=record.deviations(view),
        notices=read_notices(view.folder),
    )


def index_page(reports: Path, known: RunView | None = None) -> str:
    """Return the page of all runs, `reports/index.html`, the newest first; `known`: one of them that was already read."""
    folders = [path.parent for path in sorted(reports.glob("*/run.json")) if not path.parent.name.startswith(".")]
    views = [known if known is not None and known.folder == folder else _view(folder) for folder in folders]
    views.sort(key=lambda v: (str(v.run.get("created", "")), v.id), reverse=True)
    return rendered("runs.html.j2", views=views)


def notebook_html(ipynb: Path, data: bytes | None = None) -> str:
    """Return an executed notebook as one HTML file; `data`: its bytes, where known. Raises the errors of nbformat."""
    from helpers.report import notebook as report_notebook

    notebook = report_notebook.read_notebook(contents(ipynb) if data is None else data)
    title = report_notebook.title_of(notebook)
    cells = list(report_notebook.cells(notebook, ipynb.parent / RunPath.FIGURES))
    headed = any("<h1" in str(c["html"]) for c in cells if c["kind"] == "markdown")
    return rendered("notebook.html.j2", title=title, name=ipynb.name, cells=cells, headed=headed)


def rollback_page(**facts: Any) -> str:
    """Return the post-mortem page of a rollback, `reports/<run id>/rollback.html`; its template names the facts."""
    return rendered("rollback.html.j2", **facts)


def _view(run: RunState | Path) -> RunView:
    view = read_run(run)
    view.outcome = outcome(view)
    return view


_NAMED = re.compile(
    rf"(?P<command>{re.escape(RUNBOOK)} .+?(?=[.;]? *$|[.;] ))"
    r"|(?P<notebooks>[Nn]otebooks? )(?P<numbers>\d\d\b(?:(?:, | and | or )\d\d\b)*)"
    r"|(?P<file>(?:results/\d\d|(?:drills/)?[A-Za-z0-9_-]+)\.(?:html|jsonl?(?:\.gz)?|csv\.gz|log|md|txt|yaml|ipynb)\b)"
)


def linked(value: str, folder: Path) -> Markup:
    """Return the text with its commands as code, and each notebook and file of the run as a link, if it exists."""
    parts, at = [], 0
    for match in _NAMED.finditer(value):
        parts.append(escape(value[at : match.start()]))
        if match["command"]:
            parts.append(Markup("<code>{}</code>").format(match["command"]))
        elif match["file"]:
            parts.append(_link(name := match["file"], name, folder, " (not there)" * name.startswith("results/")))
        else:
            parts.append(escape(match["notebooks"]))
            for piece in re.split(r"(\d\d)", match["numbers"]):
                page = next((path.name for path in sorted(folder.glob(f"{piece}_*.html"))), "")
                parts.append(_link(piece, page, folder, _not_run(piece)) if piece.isdigit() else escape(piece))
        at = match.end()
    return Markup("").join([*parts, escape(value[at:])])


def _not_run(number: str) -> str:
    step = next((s for s in Step if s == number), None)
    return f" (not run: notebooks/{step.notebook} of the repository)" if step else " (not run)"


def _link(words: str, name: str, folder: Path, otherwise: str) -> Markup:
    if name and (folder / name).is_file():
        return Markup('<a href="{}">{}</a>').format(quote(name), words)
    return escape(words + otherwise)


def rendered(template: str, **context: Any) -> str:
    return _environment().get_template(template).render(**context).rstrip() + "\n"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("helpers.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        text=formatting.text,
        lines=formatting.lines,
        moment=formatting.moment,
        duration=formatting.duration,
        size=formatting.size,
        many=formatting.count,
        own_chunk=formatting.own_chunk,
        percent=percent,
        linked=linked,
    )
    environment.globals.update(runbook=RUNBOOK, work_of=numbers.work, marks=_MARKS, classes=CLASSES, kinds=_KINDS)
    return environment


# -- first screen ------------------------------------------------------------------------------------------------------

# What those who sign need: source and target, the figures, deviations, and what was not exercised.


@dataclass(frozen=True, slots=True)
class Note:
    """A check that did not simply pass: its steps, what was measured, what it means for the migration, what to do."""

    verdict: str
    step: str
    name: str
    measured: str
    impact: str
    remedy: str
    check: Check


def tiles(view: RunView) -> list[Tile]:
    """Return the figures of the first screen; a figure that no step has measured is shown as not measured."""
    n, results = numbers.counts(view.results), view.results
    return [
        _collections(view, n),
        _chunks("Chunks in source", n.source, "as snapshotted" if Step.SNAPSHOT in results else ""),
        _chunks("Migrated", n.migrated, _altered(view, n), good=n.migrated == n.source),
        replace(_chunks("Quarantined", n.quarantined, _reasons(view), good=n.quarantined == 0),
                file="#quarantined" if next(view.quarantined, None) else ""),
        *([_chunks("Left out", n.left_out, "by the conditions of the schema, listed with each")] if n.left_out else []),
        _chunks("Different", n.different, "every chunk compared; not as expected", good=n.different == 0, bad="fail"),
        replace(_chunks("Values changed", n.changed, _in_chunks(n)),
                file="#replaced" if view.rows("replaced") else "#changes" if next(view.changes, None) else ""),
        replace(_chunks("Defaults filled", n.filled, record.defaults(n)), file="#values" if n.filled else ""),
        _chunks("Values derived", n.derived, "missing fields that got what the document or a rule of the schema tells"
                + (f"; {n.set:,} more are set by the schema" if n.set else "")),
        _ids(view, n),
        *recall_tiles(view),
        downtime_tile(view),
        rollback_tile(view),
        _contradicting(view),
        replace(_chunks("Not exercised", untried := len(record.untried_here(view)), "not run or in part; samples are beside",
                        good=not untried), file="#not-exercised" if untried else ""),
        _signatures_tile(view, CUTOVER, "Decision signatures"),
        *([_signatures_tile(view, CLOSEOUT, "Closeout signatures")] if _due_of(view, CLOSEOUT) else []),
    ]  # fmt: skip


def _collections(view: RunView, n: numbers.Counts) -> Tile:
    before, after = n.collections
    if before is None or after is None:
        return Tile("Collections", UNKNOWN)
    merged = numbers.merged(view.results)
    several = f"{len(merged):,} of these {after} {'hold' if len(merged) > 1 else 'holds'} chunks of several source collections"
    note = f"{several}, of up to {max(merged.values())}" if merged else "none is merged"
    return Tile("Collections, source → target", f"{before} → {after}", note,
                file="#routing" if numbers.routes(view.results) else "")  # fmt: skip


def _altered(view: RunView, n: numbers.Counts) -> str:
    """Return the migrated share of the source, and how many of these chunks differ from it, by field."""
    if not n.source or n.migrated is None:
        return ""
    share = f"{percent(n.migrated / n.source)} of the source"
    metadata = view.results[Step.VALIDATE].facts.get("metadata") or {} if Step.VALIDATE in view.results else {}
    parts = ", ".join(f"{field} in {chunks:,}" for field, chunks in (metadata.get("altered") or {}).items())
    whole = any(c.name == EMBEDDINGS and c.verdict is Verdict.PASS for c in view.checks(Step.VALIDATE))
    farthest = max((row["relative"] for row in view.rows("worst")), default=0)
    vectors = (
        f"; no vector beyond tolerance{f' (farthest: {farthest:.0e} relative, on cosine)' if farthest else ''}"
        if whole
        else ""
    )
    return f"{share}; other than in the source: {parts}{vectors}" if parts else share


def _in_chunks(found: numbers.Counts) -> str:
    place = "" if found.changed_chunks is None else f"in {count(found.changed_chunks, 'chunk')}; "
    return place + changes_in_words(found.by_rule) if found.by_rule else place.rstrip("; ")


def _chunks(label: str, n: int | None, note: str = "", *, good: bool | None = None, bad: str = "warning") -> Tile:
    if n is None:
        return Tile(label, UNKNOWN)
    return Tile(label, f"{n:,}", note, "open" if good is None else "pass" if good else bad)


def _contradicting(view: RunView) -> Tile:
    """Show the values of the target that contradict their document, and what was done about them."""
    label, step = "Contradict their document", next((n for n in (Step.VALIDATE, Step.DRY_RUN) if view.checks(n)), "")
    check = next((c for c in view.checks(step) if c.name == CONTRADICTIONS), None)
    if check is None or check.verdict is Verdict.NOT_APPLICABLE or not isinstance(check.measured, int):
        return Tile(label, UNKNOWN if check is None else str(check.verdict), text(check.detail, 100) if check else "")
    fields: Counter[str] = Counter()
    for row in view.results[step].facts.get("contradictions") or []:
        fields[str(row["field"])] += int(row["chunks"])
    named = ", ".join(f"{text(name, 40)} in {count(n, 'chunk')}" for name, n in fields.most_common(3))
    note = (
        f"values: {named}; migrated as the source has them, none was corrected"
        if named
        else "values that documents tell"
    )
    return Tile(
        label, f"{check.measured:,}", note, "warning" if check.measured else "pass", "#tests" * bool(view.tests)
    )


def _reasons(view: RunView) -> str:
    most = sorted(view.table("quarantine").items(), key=lambda row: -row[1])[:3]
    return ", ".join(f"{text(reason.replace('_', ' '), 40)} {n:,}" for reason, n in most)


def _ids(view: RunView, n: numbers.Counts) -> Tile:
    policy = section.get("id_policy") if isinstance(section := view.parameters.get("migration"), dict) else None
    if n.rewritten is None:
        return Tile("Ids rewritten", "all" if policy == "prefix" else UNKNOWN,
                    "as <collection>:<id>; clients that keep ids must know" if policy == "prefix" else "",
                    "warning" if policy == "prefix" else "open")  # fmt: skip
    rule = "as <collection>:<id>" if policy == "prefix" else "by the schema"
    note = f"{rule}; clients that keep ids must know" if n.rewritten else "every chunk keeps its id"
    return Tile("Ids rewritten", f"{n.rewritten:,}", note, "warning" if n.rewritten else "pass")


def _due_of(view: RunView, name: str) -> set[str]:
    """Return the roles whose signature this gate needs."""
    gate = view.gates.get(name)
    return gate.keys.keys() | set(gate.missing) if gate is not None else set()


def _signatures_tile(view: RunView, name: str, label: str) -> Tile:
    gate, due = view.gates.get(name), _due_of(view, name)
    if gate is None:
        return Tile(label, "unknown", "parameters.yaml cannot be read")
    if not due:
        return Tile(label, "none due", "the parameters require none")
    counting = gate.keys.keys() - set(gate.missing)
    given = [s for s in view.signoffs if s.gate == name and not s.superseded and s.role in counting]
    names = ", ".join(f"{text(s.name, 60)} ({text(s.role.replace('_', ' '), 40)})" for s in given)
    names += f"; the last {moment(max(s.when for s in given))}" if given else ""
    early = name == CLOSEOUT and not view.passed(Step.CLOSEOUT)
    kind = "fail" if gate.blocked else "open" if early else "warning" if gate.missing else "pass"
    return Tile(label, f"{len(given)} of {len(due)}", names or ("due after step 53" if early else "nobody yet"), kind)


def notes(view: RunView) -> list[Note]:
    """Return every finding, the gravest first. Findings with the same meaning and remedy follow each other and show it once."""
    order = list(reversed([v.value for v in Verdict]))
    ranked = sorted(view.findings, key=lambda f: (order.index(f.check.verdict.value), f.steps[0]))
    alike: dict[tuple[str, str, str], list[Note]] = {}
    for finding in ranked:
        check = finding.check
        meaning, remedy = impact(check.reason), owed(view, check, at_decision=finding.at_decision)
        name = text(check.name, 80) + " (after the decision)" * (not finding.at_decision)
        note = Note(check.verdict.value, finding.where, name, record.finding_text(check), meaning, remedy, check)
        alike.setdefault((note.verdict, meaning, remedy), []).append(note)
    return [
        replace(n, impact="As above.", remedy="") if at and n.impact else n
        for group in alike.values()
        for at, n in enumerate(group)
    ]


# -- the steps on a clock ---------------------------------------------------------------------------------------------

# The numbers of an inline SVG of the steps and the maintenance window, one drawing for each session. Steps more than three hours
# apart belong to different sessions (the dry run of the day before, the window), each with its own scale: with one scale the
# window would be a thin line. The table beside the drawing holds the same in words.

LEFT, RIGHT, WIDTH, ROW, TOP = 220.0, 860.0, 1000.0, 26.0, 30.0  # units of the SVG; bars lie between LEFT and RIGHT
_THINNEST, _TOO_LONG = 2.0, 8  # _TOO_LONG: in a window of so many times the steps' time the bars would be unreadable
_SESSION = timedelta(hours=3)
_TICKS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a row, or a band over all rows, in units of the SVG."""

    x: float
    width: float


@dataclass(frozen=True, slots=True)
class TimelineRow:
    """A step: its bar, the phases inside, and its duration in words."""

    number: str
    title: str
    verdict: str
    y: float
    bar: Span
    phases: list[Span]
    took: str


@dataclass(frozen=True, slots=True)
class WindowChart:
    """One drawing: `window` and `buffers` as bands, `ticks` as (x, label), `day` and `sentence` in words."""

    day: str
    sentence: str
    rows: list[TimelineRow]
    ticks: list[tuple[float, str]]
    window: Span | None
    buffers: list[Span]

    @property
    def height(self) -> float:
        return TOP + ROW * len(self.rows) + 8


def sessions(view: RunView) -> list[WindowChart]:
    """Return the drawings, in order of time, with every execution; [] where no step has run."""
    steps = sorted(timed(view.executions), key=lambda s: (s.start, s.step.number))
    groups: list[list[Timed]] = []
    for step in steps:
        if groups and step.start - max(s.end for s in groups[-1]) <= _SESSION:
            groups[-1].append(step)
        else:
            groups.append([step])
    return [_session(group, numbers.window_of(view)) for group in groups]


def _session(steps: list[Timed], window: tuple[datetime, datetime, timedelta] | None) -> WindowChart:
    first, last = min(s.start for s in steps), max(s.end for s in steps)
    if window and (window[0] - window[2] > last or window[1] + window[2] < first):
        window = None
    outside = window is not None and window[1] - window[0] > _TOO_LONG * (last - first)
    window = None if outside else window
    begin = min(first, window[0] - window[2]) if window else first
    end = max(last, window[1] + window[2]) if window else last
    whole = max((end - begin).total_seconds(), 1.0)

    def at(when: datetime) -> float:
        return round(LEFT + (RIGHT - LEFT) * (when - begin).total_seconds() / whole, 2)

    def span(start: datetime, stop: datetime) -> Span:
        x = min(at(start), RIGHT - _THINNEST)
        return Span(x, round(min(max(at(stop) - x, _THINNEST), RIGHT - x), 2))

    rows = [
        TimelineRow(
            s.step.number, s.step.title + (s.step.attempt and f" ({s.step.attempt.split(' ')[1]})"), s.step.verdict,
            TOP + ROW * n, span(s.start, s.end),
            [span(a, b) for a, b in sorted(s.phases)], "not finished" if s.open else between(s.start, s.end),
        )
        for n, s in enumerate(steps)
    ]  # fmt: skip
    tick_seconds = next((t for t in _TICKS if whole / t <= 8), _TICKS[-1])
    clock = "%H:%M:%S" if tick_seconds < 60 else "%H:%M"
    stamp = begin.timestamp() - begin.timestamp() % tick_seconds
    marks = [datetime.fromtimestamp(stamp + tick_seconds * n, UTC) for n in range(11)]
    edges = [] if window is None else [window[0] - window[2], window[0], window[1], window[1] + window[2]]
    bands = [Span(at(a), round(at(b) - at(a), 2)) for a, b in pairwise(edges)]
    longest = max(steps, key=lambda s: s.end - s.start)
    sentence = (
        f"{count(len({s.step.number for s in steps}), 'step')} from {first:%H:%M:%S} to {last:%H:%M:%S} UTC; step "
    )
    sentence += f"{longest.step.number} took longest, {between(longest.start, longest.end)}."
    sentence += " The window is too long to be drawn beside them." * outside
    return WindowChart(
        f"{first:%Y-%m-%d}", sentence, rows, [(at(m), f"{m:{clock}}") for m in marks if begin <= m < end],
        bands[1] if bands else None, [p for p in bands[::2] if p.width],
    )  # fmt: skip


# -- rendering ---------------------------------------------------------------------------------------------------------

# The pages of a run, rendered from its folder; separate from the pipeline, so that `sign` does not import papermill.


def leave(run: RunState) -> RunState:
    """End a command that changed a run: seal everything, render the pages; return the state after it."""
    for line in keep_final(run):
        run.log(line)
    run = at_rest(run)
    render_pages(run)
    return run


def render_pages(run: RunState) -> None:
    """Write the run's page and the page of all runs."""
    with _not_worth_a_failure(run):
        view = _view(run)
        write_text(run.reports / RunPath.PAGE, _run_page(view))
        write_text(run.reports.parent / RunPath.PAGE, index_page(run.reports.parent, view))


def keep_signed(folder: RunState) -> Iterator[str]:
    """Keep the page that people are about to sign, and its PDF, where a seal with approvals is due; yield messages.

    `as-signed-<gate>-<number of the seal>.html` is covered by that seal, and so by every signature over it.
    """
    rules = folder.parameters.signoff
    roles = {CUTOVER: rules.required, DRY_RUN: rules.dry_run, CLOSEOUT: rules.closeout}
    gates: dict[str, str] = {GATES[gate]: gate for gate in roles if roles[gate]}
    for step in due(folder):
        if step in gates:
            name = f"{AS_SIGNED}{gates[step]}-{len(chain(folder)) + 1:04d}.html"
            yield from _keep(folder, name, f"put before those who sign the {gates[step]}; their signatures follow it")


def keep_final(folder: RunState) -> Iterator[str]:
    """Keep the page once the run is closed out and fully signed, and its PDF; yield messages."""
    gate = gate_state(folder, CLOSEOUT) if passed(folder.result(Step.CLOSEOUT)) else None
    if gate is not None and not gate.missing and not gate.blocked and not _final_kept(folder):
        name = f"{FINAL}{len(chain(folder)) + 1:04d}.html"
        yield from _keep(folder, name, "the run was closed out, with every signature")


def _final_kept(folder: RunState) -> bool:
    log = audit.entries(folder.reports / audit.NAME, trusted(folder.reports), (audit.PAGE_KEPT,))
    return any(str(e["facts"]["file"]).startswith(FINAL) for e in log)


def _keep(folder: RunState, name: str, reason: str) -> Iterator[str]:
    page = folder.reports / name
    with _not_worth_a_failure(folder):
        html = run_page(folder, f"This page as it was at {formatting.moment(utc_now())}: {reason}.")
        folder.rewrite(name, html)  # the log names it before a browser has it
        (pdf := page.with_suffix(".pdf")).unlink(missing_ok=True)  # nobody's: a page is kept once
        failed, printed = print_pdf(page, data := html.encode("utf-8", errors="backslashreplace"))
        digests = {name: sha256(data), pdf.name: printed}
        audit.append(folder.reports / audit.NAME, audit.PAGE_KEPT, file=name, pdf=failed or "made", digests=digests)
        if failed:
            yield f"No PDF of {name}: {failed}"


def print_pdf(page: Path, data: bytes) -> tuple[str, str]:
    """Print this page, whose bytes are `data`, as a PDF beside it, with a browser of this machine: ("", the digest of the PDF),
    or (the reason, ""). The browser gets a copy, so that no change by others is printed; a page that changed fails.
    """
    browser = os.environ.get("RUNBOOK_BROWSER", "")
    program = shutil.which(browser) if browser else next(filter(None, map(shutil.which, _BROWSERS)), None)
    if program is None:
        missing = f"{browser} is not" if browser else "no browser (chromium, google-chrome, msedge) is"
        return f"{missing} on the PATH; print the page from any browser, or set RUNBOOK_BROWSER", ""
    with tempfile.TemporaryDirectory(prefix="runbook-browser-") as profile:
        copy, output = Path(profile) / page.name, Path(profile) / "page.pdf"
        copy.write_bytes(data)
        command = [program, "--headless", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--no-pdf-header-footer",
                   f"--user-data-dir={profile}", f"--print-to-pdf={output}", copy.as_uri()]  # fmt: skip
        if os.geteuid() == 0:
            command.insert(
                1, "--no-sandbox"
            )  # root cannot use the sandbox; the page has no script and needs no network
        try:
            subprocess.run(command, timeout=_PDF_SECONDS, check=True, capture_output=True, start_new_session=True)
        except (OSError, subprocess.SubprocessError) as error:
            return f"{Path(program).name} does not print it ({type(error).__name__})", ""
        if not output.is_file() or not (printed := output.read_bytes()).startswith(b"%PDF"):
            return f"{Path(program).name} printed nothing", ""
        if copy.read_bytes() != data or page.read_bytes() != data:
            return "the page was changed while it was printed", ""
    write_bytes(page.with_suffix(".pdf"), printed)
    return "", sha256(printed)


AS_SIGNED, FINAL = "as-signed-", "final-"
_LISTED = 200  # changed values and quarantined chunks that the page lists; the files have all
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
_PDF_SECONDS = 60.0


def render_notebook(folder: RunFolder, notebook: Path, data: bytes | None = None) -> str:
    """Write an executed notebook as a page beside it; return the page's SHA-256, or "". `data`: its bytes, where known."""
    digests = []
    with _not_worth_a_failure(folder):
        digests.append(write_text(notebook.with_suffix(".html"), notebook_html(notebook, data)))
    return "".join(digests)


@contextmanager
def _not_worth_a_failure(folder: RunFolder) -> Iterator[None]:
    """Log a page that cannot be rendered: pages are derived, and none of them may end a migration."""
    try:
        yield
    except Exception:
        folder.log_block("a page could not be rendered", traceback.format_exc())

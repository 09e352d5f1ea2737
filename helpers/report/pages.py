"""The pages: a run's page, the index of all runs, a rollback's page, and the HTML of an executed notebook.

All are derived: they read the run's files, write nothing, and give the same text each time. Each is one file that
works from disk without a network and without scripts; a content security policy in it forbids both.
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
    rollback_tile,
    to_source,
    way_back,
    ways_back,
    when_to_roll_back,
    who_orders,
)
from helpers.report.outcome import (
    CLASSES,
    decision_tree,
    ends,
    outcome,
    owed,
    writers,
)  # fmt: skip
from helpers.report.record import checklist
from helpers.results import Check, Verdict, changes_told, contents, passed, utc_now, write_bytes, write_text
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
    """The page of one run, `reports/<run id>/index.html`, from its files; a path names their folder.

    `kept`: what a copy is that stays as it is now, for its head.
    """
    return _run_page(_view(run), kept)


def _run_page(view: RunView, kept: str = "") -> str:
    review = view.step(Step.REVIEW)
    back = numbers.rollback(view.results.get(Step.ROLLBACK))
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
        back=numbers.rollback_words(back) if back is not None else "",
        way_back=way_back(view),
        who_orders=who_orders(view),
        ways_back=ways_back(view),
        when_to_roll_back=when_to_roll_back(view),
        histories=advice.HISTORIES if writers(view) else "",
        replay_ordered=numbers.REPLAY_ORDERED if back is not None and back.replayed is not None else "",
        rollback_times=numbers.rollback_rows(view.results, view.drill),
        downtime_parts=downtime_parts(view.results, view.attempts),
        carries_over=carries_over(view),
        again=numbers.again(view.results, view.drill),
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
        rapid=advice.rapid(lambda name, *more: shlex.join([RUNBOOK, name, view.id, *more])),
        contacts=record.contacts_of(view),
        record_status=record.status(view),
        deviations=record.deviations(view),
        notices=read_notices(view.folder),
    )


def index_page(reports: Path, known: RunView | None = None) -> str:
    """The page of all runs, `reports/index.html`, the newest first; `known` is one of them that was read already."""
    folders = [path.parent for path in sorted(reports.glob("*/run.json")) if not path.parent.name.startswith(".")]
    views = [known if known is not None and known.folder == folder else _view(folder) for folder in folders]
    views.sort(key=lambda v: (str(v.run.get("created", "")), v.id), reverse=True)
    return rendered("runs.html.j2", views=views)


def notebook_html(ipynb: Path, data: bytes | None = None) -> str:
    """An executed notebook, which holds `data` where that is known, as one HTML file; `nbformat` errors where it is none."""
    from helpers.report import notebook as report_notebook

    notebook = report_notebook.read_notebook(contents(ipynb) if data is None else data)
    title = report_notebook.title_of(notebook)
    cells = list(report_notebook.cells(notebook, ipynb.parent / RunPath.FIGURES))
    headed = any("<h1" in str(c["html"]) for c in cells if c["kind"] == "markdown")
    return rendered("notebook.html.j2", title=title, name=ipynb.name, cells=cells, headed=headed)


def rollback_page(**facts: Any) -> str:
    """The post-mortem page of a rollback, `reports/<run id>/rollback.html`; its template says which facts it shows."""
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
    """The text with its commands as code, and each notebook and file of the run that it names as a link, if it is there."""
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

# What a person needs who signs: where from and where to, the figures, what is not as it should be, and what nobody tried.


@dataclass(frozen=True, slots=True)
class Note:
    """A check that did not simply pass: where, what was found, what it means for the migration, what to do."""

    verdict: str
    step: str
    name: str
    found: str
    impact: str
    remedy: str
    check: Check


def tiles(view: RunView) -> list[Tile]:
    """The figures of the first screen; what no step has measured is said to be not measured."""
    found, results = numbers.counts(view.results), view.results
    return [
        _collections(view, found),
        _chunks("Chunks in source", found.source, "as snapshotted" if Step.SNAPSHOT in results else ""),
        _chunks("Migrated", found.migrated, _altered(view, found), good=found.migrated == found.source),
        replace(_chunks("Quarantined", found.quarantined, _reasons(view), good=found.quarantined == 0),
                file="#quarantined" if next(view.quarantined, None) else ""),
        *([_chunks("Left out", found.left_out, "by the conditions of the schema, listed with each")] if found.left_out else []),
        _chunks("Different", found.different, "every chunk compared; not as expected", good=found.different == 0, bad="fail"),
        replace(_chunks("Values changed", found.changed, _in_chunks(found)),
                file="#replaced" if view.rows("replaced") else "#changes" if next(view.changes, None) else ""),
        replace(_chunks("Defaults filled", found.filled, record.defaults(found)), file="#values" if found.filled else ""),
        _chunks("Values derived", found.derived, "missing fields that got what the document or a rule of the schema tells"
                + (f"; {found.set:,} more are set by the schema" if found.set else "")),
        _ids(view, found),
        *recall_tiles(view),
        downtime_tile(view),
        rollback_tile(view),
        _contradicting(view),
        replace(_chunks("Not exercised", left := len(record.untried_here(view)), "not run or in part; samples are beside",
                        good=not left), file="#not-exercised" if left else ""),
        _signatures_tile(view, CUTOVER, "Decision signatures"),
        *([_signatures_tile(view, CLOSEOUT, "Closeout signatures")] if _due_of(view, CLOSEOUT) else []),
    ]  # fmt: skip


def _collections(view: RunView, found: numbers.Counts) -> Tile:
    before, after = found.collections
    if before is None or after is None:
        return Tile("Collections", UNKNOWN)
    several = numbers.merged(view.results)
    held = f"{len(several):,} of these {after} {'hold' if len(several) > 1 else 'holds'} chunks of several source collections"
    note = f"{held}, of up to {max(several.values())}" if several else "none is merged"
    return Tile("Collections, source → target", f"{before} → {after}", note,
                file="#routing" if numbers.routes(view.results) else "")  # fmt: skip


def _altered(view: RunView, found: numbers.Counts) -> str:
    """Which share of the source that is, and how many of these chunks are not as the source has them."""
    if not found.source or found.migrated is None:
        return ""
    share = f"{percent(found.migrated / found.source)} of the source"
    told = view.results[Step.VALIDATE].facts.get("metadata") or {} if Step.VALIDATE in view.results else {}
    parts = ", ".join(f"{what} in {chunks:,}" for what, chunks in (told.get("altered") or {}).items())
    whole = any(c.name == EMBEDDINGS and c.verdict is Verdict.PASS for c in view.checks(Step.VALIDATE))
    near = max((row["relative"] for row in view.rows("worst")), default=0)
    vectors = (
        f"; no vector beyond tolerance{f' (farthest: {near:.0e} relative, on cosine)' if near else ''}" if whole else ""
    )
    return f"{share}; other than in the source: {parts}{vectors}" if parts else share


def _in_chunks(found: numbers.Counts) -> str:
    place = "" if found.changed_chunks is None else f"in {count(found.changed_chunks, 'chunk')}; "
    return place + changes_told(found.by_rule) if found.by_rule else place.rstrip("; ")


def _chunks(label: str, n: int | None, note: str = "", *, good: bool | None = None, bad: str = "warning") -> Tile:
    if n is None:
        return Tile(label, UNKNOWN)
    return Tile(label, f"{n:,}", note, "open" if good is None else "pass" if good else bad)


def _contradicting(view: RunView) -> Tile:
    """Values of the target that their document rules out, and what was done about them."""
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


def _ids(view: RunView, found: numbers.Counts) -> Tile:
    policy = section.get("id_policy") if isinstance(section := view.parameters.get("migration"), dict) else None
    if found.rewritten is None:
        return Tile("Ids rewritten", "all" if policy == "prefix" else UNKNOWN,
                    "as <collection>:<id>; clients that keep ids must know" if policy == "prefix" else "",
                    "warning" if policy == "prefix" else "open")  # fmt: skip
    how = "as <collection>:<id>" if policy == "prefix" else "by the schema"
    note = f"{how}; clients that keep ids must know" if found.rewritten else "every chunk keeps its id"
    return Tile("Ids rewritten", f"{found.rewritten:,}", note, "warning" if found.rewritten else "pass")


def _due_of(view: RunView, name: str) -> set[str]:
    """The roles whose signature this gate needs."""
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
    """Every finding, the gravest first."""
    order = list(reversed([v.value for v in Verdict]))
    ranked = sorted(view.findings, key=lambda f: (order.index(f.check.verdict.value), f.steps[0]))
    alike: dict[tuple[str, str, str], list[Note]] = {}
    for found in ranked:  # what means the same and has the same remedy stands together, and says so once
        check = found.check
        said, remedy = impact(check.reason), owed(view, check, at_decision=found.at_decision)
        name = text(check.name, 80) + " (after the decision)" * (not found.at_decision)
        note = Note(check.verdict.value, found.where, name, record.found(check), said, remedy, check)
        alike.setdefault((note.verdict, said, remedy), []).append(note)
    return [
        replace(n, impact="As above.", remedy="") if at and n.impact else n
        for group in alike.values()
        for at, n in enumerate(group)
    ]


# -- the steps on a clock ---------------------------------------------------------------------------------------------

# The numbers of an inline SVG against the maintenance window, one drawing a session. Steps more than three hours apart belong to
# different sessions (the dry run of the day before, the window), each drawn to its own scale: on one clock the window would be
# a thin line. The drawing repeats what the table beside it says in words.

LEFT, RIGHT, WIDTH, ROW, TOP = 220.0, 860.0, 1000.0, 26.0, 30.0  # units of the SVG; bars lie between LEFT and RIGHT
_THINNEST, _TOO_LONG = 2.0, 8  # _TOO_LONG: a window of so many times the steps' time would make them unreadable
_SESSION = timedelta(hours=3)
_TICKS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a row or a band over all rows, in units of the SVG."""

    x: float
    width: float


@dataclass(frozen=True, slots=True)
class Row:
    """A step: its bar, the phases inside, and how long it took in words."""

    number: str
    title: str
    verdict: str
    y: float
    bar: Span
    phases: list[Span]
    took: str


@dataclass(frozen=True, slots=True)
class Session:
    """One drawing: `window` and `buffers` as bands, `ticks` as (x, label), `day` and `sentence` in words."""

    day: str
    sentence: str
    rows: list[Row]
    ticks: list[tuple[float, str]]
    window: Span | None
    buffers: list[Span]

    @property
    def height(self) -> float:
        return TOP + ROW * len(self.rows) + 8


def sessions(view: RunView) -> list[Session]:
    """The drawings, in order of time, with every execution; none where no step has run."""
    found = sorted(timed(view.executions), key=lambda s: (s.start, s.step.number))
    groups: list[list[Timed]] = []
    for step in found:
        if groups and step.start - max(s.end for s in groups[-1]) <= _SESSION:
            groups[-1].append(step)
        else:
            groups.append([step])
    return [_session(group, numbers.window_of(view)) for group in groups]


def _session(steps: list[Timed], window: tuple[datetime, datetime, timedelta] | None) -> Session:
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
        Row(
            s.step.number, s.step.title + (s.step.attempt and f" ({s.step.attempt.split(' ')[1]})"), s.step.verdict,
            TOP + ROW * n, span(s.start, s.end),
            [span(a, b) for a, b in sorted(s.phases)], "not finished" if s.open else between(s.start, s.end),
        )
        for n, s in enumerate(steps)
    ]  # fmt: skip
    every = next((t for t in _TICKS if whole / t <= 8), _TICKS[-1])
    clock = "%H:%M:%S" if every < 60 else "%H:%M"
    stamp = begin.timestamp() - begin.timestamp() % every
    marks = [datetime.fromtimestamp(stamp + every * n, UTC) for n in range(11)]
    band = [] if window is None else [window[0] - window[2], window[0], window[1], window[1] + window[2]]
    parts = [Span(at(a), round(at(b) - at(a), 2)) for a, b in pairwise(band)]
    longest = max(steps, key=lambda s: s.end - s.start)
    said = f"{count(len({s.step.number for s in steps}), 'step')} from {first:%H:%M:%S} to {last:%H:%M:%S} UTC; step "
    said += f"{longest.step.number} took longest, {between(longest.start, longest.end)}."
    said += " The window is too long to be drawn beside them." * outside
    return Session(
        f"{first:%Y-%m-%d}", said, rows, [(at(m), f"{m:{clock}}") for m in marks if begin <= m < end],
        parts[1] if parts else None, [p for p in parts[::2] if p.width],
    )  # fmt: skip


# -- rendering ---------------------------------------------------------------------------------------------------------

# The pages of a run, rendered from what is in its folder: apart from the pipeline, so that `sign` waits for no papermill.


def leave(run: RunState) -> RunState:
    """What a command that changed a run ends with: everything sealed, the pages as the files are now; the run so."""
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
    """Keep the page that people are about to sign, and its PDF, where a seal with approvals is due; yields what to tell.

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
    """Keep the page once the run is closed out and nobody has to sign any more, and its PDF; yields what to tell."""
    gate = gate_state(folder, CLOSEOUT) if passed(folder.result(Step.CLOSEOUT)) else None
    if gate is not None and not gate.missing and not gate.blocked and not _final_kept(folder):
        name = f"{FINAL}{len(chain(folder)) + 1:04d}.html"
        yield from _keep(folder, name, "the run was closed out, with every signature")


def _final_kept(folder: RunState) -> bool:
    log = audit.entries(folder.reports / audit.NAME, trusted(folder.reports), (audit.PAGE_KEPT,))
    return any(str(e["facts"]["file"]).startswith(FINAL) for e in log)


def _keep(folder: RunState, name: str, what: str) -> Iterator[str]:
    page = folder.reports / name
    with _not_worth_a_failure(folder):
        made = run_page(folder, f"This page as it was at {formatting.moment(utc_now())}: {what}.")
        folder.rewrite(name, made)  # the log names it before a browser has it
        (pdf := page.with_suffix(".pdf")).unlink(missing_ok=True)  # nobody's: a page is kept once
        failed, printed = print_pdf(page, data := made.encode("utf-8", errors="backslashreplace"))
        digests = {name: sha256(data), pdf.name: printed}
        audit.append(folder.reports / audit.NAME, audit.PAGE_KEPT, file=name, pdf=failed or "made", digests=digests)
        if failed:
            yield f"No PDF of {name}: {failed}"


def print_pdf(page: Path, data: bytes) -> tuple[str, str]:
    """Print this page, which holds `data`, as a PDF beside it, by a browser of this machine: ("", the digest of the PDF), or (why
    not, ""). The browser has a copy, so that what others do to the page meanwhile is not printed; such a page is not, either.
    """
    wanted = os.environ.get("RUNBOOK_BROWSER", "")
    program = shutil.which(wanted) if wanted else next(filter(None, map(shutil.which, _BROWSERS)), None)
    if program is None:
        missing = f"{wanted} is not" if wanted else "no browser (chromium, google-chrome, msedge) is"
        return f"{missing} on the PATH; print the page from any browser, or set RUNBOOK_BROWSER", ""
    with tempfile.TemporaryDirectory(prefix="runbook-browser-") as profile:
        copy, made = Path(profile) / page.name, Path(profile) / "page.pdf"
        copy.write_bytes(data)
        command = [program, "--headless", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--no-pdf-header-footer",
                   f"--user-data-dir={profile}", f"--print-to-pdf={made}", copy.as_uri()]  # fmt: skip
        if os.geteuid() == 0:
            command.insert(1, "--no-sandbox")  # root may not use it; the page has no script and asks no network
        try:
            subprocess.run(command, timeout=_PDF_SECONDS, check=True, capture_output=True, start_new_session=True)
        except (OSError, subprocess.SubprocessError) as error:
            return f"{Path(program).name} does not print it ({type(error).__name__})", ""
        if not made.is_file() or not (printed := made.read_bytes()).startswith(b"%PDF"):
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
    """Write an executed notebook, which holds `data` where that is known, as a page beside it; the page's SHA-256, or ""."""
    made = []
    with _not_worth_a_failure(folder):
        made.append(write_text(notebook.with_suffix(".html"), notebook_html(notebook, data)))
    return "".join(made)


@contextmanager
def _not_worth_a_failure(folder: RunFolder) -> Iterator[None]:
    """Pages are derived and can be rendered again; a migration does not end because one cannot be drawn."""
    try:
        yield
    except Exception:
        folder.log_block("a page could not be rendered", traceback.format_exc())

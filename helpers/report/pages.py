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
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from helpers import audit, formatting
from helpers.errors import RUNBOOK
from helpers.evidence import at_rest, due
from helpers.evidence.seals import chain
from helpers.evidence.signoffs import CLOSEOUT, CUTOVER, DRY_RUN, GATES
from helpers.notify import read as read_notices
from helpers.parameters.sections import is_placeholder
from helpers.report import numbers, record
from helpers.report.facts import CHANGED, RunView, read_run
from helpers.report.outcome import CLASSES, decision_tree, ends, notes, outcome, tiles
from helpers.report.record import checklist
from helpers.results import write_bytes, write_text
from helpers.run.folders import RunFolder, RunPath, RunState
from helpers.run.plan import Step

_MARKS = {"pass": "✓", "not exercised": "○", "warning": "!", "marginal": "~", "fail": "✗", "failed": "✗",
          "unreadable": "✗"}  # fmt: skip
_KINDS = {"pass": "pass", "warning": "warning", "marginal": "marginal", "not exercised": "skipped", "interrupted": "warning",
          "waiting": "warning", "void": "warning", "fail": "fail",
          "failed": "fail", "unreadable": "fail"}  # fmt: skip


def run_page(run: RunState | Path) -> str:
    """The page of one run, `reports/<run id>/index.html`, from its files; a path names their folder."""
    return _run_page(_view(run))


def _run_page(view: RunView) -> str:
    review = view.step(Step.REVIEW)
    back = numbers.rollback(view.results.get(Step.ROLLBACK))
    return _page(
        "run.html.j2",
        view=view,
        outcome=view.outcome,
        signable=bool(review and review.result and view.outcome.kind in ("go", "waiting")),
        checklist=checklist(view),
        sessions=numbers.sessions(view),
        window_sentence=numbers.window_sentence(view),
        layout={"width": numbers.WIDTH, "top": numbers.TOP},
        tree=decision_tree(view),
        ends=ends(view),
        tiles=tiles(view),
        notes=notes(view),
        untried=record.untried(view),
        disagreements=numbers.disagreements(view.results),
        work=numbers.work(view.results),
        forward=numbers.forward(view.results),
        back=numbers.rollback_words(back) if back is not None else "",
        rollback_times=numbers.rollback_rows(view.results, view.drill),
        routes=numbers.routes(view.results),
        counted=numbers.counts(view.results),
        changes=list(islice(view.changes, _CHANGES)),
        changes_file=CHANGED,
        rapid=record.rapid(lambda name, *more: shlex.join([RUNBOOK, name, view.id, *more])),
        contacts=record.contacts(_contacts(view)),
        record_status=record.status(view),
        deviations=record.deviations(view),
        notices=read_notices(view.folder),
    )


def _contacts(view: RunView) -> dict[str, str]:
    """Those of the parameters; a placeholder that nobody filled in is none."""
    found = view.parameters.get("contacts")
    return {k: str(v) for k, v in found.items() if v and not is_placeholder(str(v))} if isinstance(found, dict) else {}


def index_page(reports: Path, known: RunView | None = None) -> str:
    """The page of all runs, `reports/index.html`, the newest first; `known` is one of them that was read already."""
    folders = [path.parent for path in sorted(reports.glob("*/run.json")) if not path.parent.name.startswith(".")]
    views = [known if known is not None and known.folder == folder else _view(folder) for folder in folders]
    views.sort(key=lambda v: (str(v.run.get("created", "")), v.id), reverse=True)
    return _page("runs.html.j2", views=views)


def notebook_html(ipynb: Path) -> str:
    """An executed notebook as one HTML file; `nbformat` errors where it is none."""
    from helpers.report import notebook as report_notebook

    notebook = report_notebook.read_notebook(ipynb)
    title = report_notebook.title_of(notebook)
    cells = list(report_notebook.cells(notebook, ipynb.parent / RunPath.FIGURES))
    headed = any("<h1" in str(c["html"]) for c in cells if c["kind"] == "markdown")
    return _page("notebook.html.j2", title=title, name=ipynb.name, cells=cells, headed=headed)


def rollback_page(**facts: Any) -> str:
    """The post-mortem page of a rollback, `reports/<run id>/rollback.html`; its template says which facts it shows."""
    return _page("rollback.html.j2", **facts)


def _view(run: RunState | Path) -> RunView:
    view = read_run(run)
    view.outcome = outcome(view)
    return view


_NAMED = re.compile(
    r"(?P<notebooks>[Nn]otebooks? )(?P<numbers>\d\d\b(?:(?:, | and | or )\d\d\b)*)"
    r"|(?P<file>(?:results/\d\d|[A-Za-z0-9_-]+)\.(?:html|jsonl?(?:\.gz)?|csv\.gz|log|md|txt|yaml|ipynb)\b)"
)


def linked(value: str, folder: Path) -> Markup:
    """The text with each notebook and file of the run that it names as a link; one that is not there says so."""
    parts, at = [], 0
    for match in _NAMED.finditer(value):
        parts.append(escape(value[at : match.start()]))
        if match["file"]:
            parts.append(
                _link(match["file"], match["file"], folder, " (not there)" * match["file"].startswith("results/"))
            )
        else:
            parts.append(escape(match["notebooks"]))
            for piece in re.split(r"(\d\d)", match["numbers"]):
                page = (
                    next((path.name for path in sorted(folder.glob(f"{piece}_*.html"))), "") if piece.isdigit() else ""
                )
                parts.append(_link(piece, page, folder, " (not run)") if piece.isdigit() else escape(piece))
        at = match.end()
    return Markup("").join([*parts, escape(value[at:])])


def _link(words: str, name: str, folder: Path, otherwise: str) -> Markup:
    if name and (folder / name).is_file():
        return Markup('<a href="{}">{}</a>').format(quote(name), words)
    return escape(words + otherwise)


def _page(template: str, **context: Any) -> str:
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
        linked=linked,
    )
    environment.globals.update(runbook=RUNBOOK, work_of=numbers.work, marks=_MARKS, classes=CLASSES, kinds=_KINDS)
    return environment


# -- rendering ---------------------------------------------------------------------------------------------------------

# The pages of a run, rendered from what is in its folder: apart from the pipeline, so that `sign` waits for no papermill.


def leave(run: RunState) -> None:
    """What a command that changed a run ends with: everything sealed, the pages as the files are now."""
    render_pages(at_rest(run))


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
            page = folder.reports / f"{AS_SIGNED}{gates[step]}-{len(chain(folder)) + 1:04d}.html"
            with _not_worth_a_failure(folder):
                write_text(page, run_page(folder))
                failed = print_pdf(page)
                audit.append(
                    folder.reports / audit.NAME, "page kept for those who sign", file=page.name, pdf=failed or "made"
                )
                if failed:
                    yield f"No PDF of {page.name}: {failed}"


def print_pdf(page: Path) -> str:
    """Print the page as a PDF beside it, by a browser of this machine; "" where that went well, else why it did not."""
    wanted = os.environ.get("RUNBOOK_BROWSER", "")
    program = shutil.which(wanted) if wanted else next(filter(None, map(shutil.which, _BROWSERS)), None)
    if program is None:
        missing = f"{wanted} is not" if wanted else "no browser (chromium, google-chrome, msedge) is"
        return f"{missing} on the PATH; print the page from any browser, or set RUNBOOK_BROWSER"
    pdf = page.with_suffix(".pdf")
    with tempfile.TemporaryDirectory(prefix="runbook-browser-") as profile:
        made = Path(profile) / "page.pdf"
        command = [program, "--headless", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--no-pdf-header-footer",
                   f"--user-data-dir={profile}", f"--print-to-pdf={made}", page.resolve().as_uri()]  # fmt: skip
        if os.geteuid() == 0:
            command.insert(
                1, "--no-sandbox"
            )  # Chromium refuses root with it; the page has no script and asks no network
        try:
            subprocess.run(command, timeout=_PDF_SECONDS, check=True, capture_output=True, start_new_session=True)
        except (OSError, subprocess.SubprocessError) as error:
            return f"{Path(program).name} does not print it ({type(error).__name__})"
        if not made.is_file() or not made.read_bytes().startswith(b"%PDF"):
            return f"{Path(program).name} printed nothing"
        write_bytes(pdf, made.read_bytes())
    return ""


AS_SIGNED = "as-signed-"
_CHANGES = 200  # changed values that the page lists; the file has all
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
_PDF_SECONDS = 60.0


def render_notebook(folder: RunFolder, notebook: Path) -> None:
    """Write an executed notebook as a page beside it; nothing where it is not there."""
    if notebook.is_file():
        with _not_worth_a_failure(folder):
            write_text(notebook.with_suffix(".html"), notebook_html(notebook))


@contextmanager
def _not_worth_a_failure(folder: RunFolder) -> Iterator[None]:
    """Pages are derived and can be rendered again; a migration does not end because one cannot be drawn."""
    try:
        yield
    except Exception:
        folder.log_block("a page could not be rendered", traceback.format_exc())

"""The pages of a run, rendered from what is in its folder: apart from the line, so that `sign` waits for no papermill."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from helpers.evidence import at_rest
from helpers.report.pages import index_page, notebook_html, run_page
from helpers.results import write_text
from helpers.run.folders import RunFolder


def leave(folder: RunFolder) -> None:
    """What a command that changed a run ends with: everything sealed, the pages as the files are now."""
    at_rest(folder)
    render_pages(folder)


def render_pages(folder: RunFolder) -> None:
    """Write the run's page and the page of all runs, from what is in the folders now."""
    with _not_worth_a_failure(folder):
        write_text(folder.reports / "index.html", run_page(folder.reports))
        write_text(folder.reports.parent / "index.html", index_page(folder.reports.parent))


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

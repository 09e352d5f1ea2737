"""Pages: a run, all runs, a rollback, and executed notebooks as HTML that works offline."""

from helpers.report.pages import index_page, notebook_html, rollback_page, run_page

__all__ = [
    "index_page",
    "notebook_html",
    "rollback_page",
    "run_page",
]

"""Who looks at this notebook: a person at a front end that shows widgets and runs scripts, or nobody (papermill).

The rule needs no parameter: a request to run a cell that comes from JupyterLab, Notebook 7 or VS Code names the cell in
its metadata (`cellId`); papermill, nbclient, nbconvert and nbval do not. Under the runner it is always nobody. Without a
person, or where it is not known, everything is shown as plain tables and pictures, which need neither script nor kernel.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets as widgets  # type: ignore[import-untyped,unused-ignore]
import pandas as pd

from helpers.errors import RunbookError, one_line
from helpers.run import kernel

Draw = Callable[[str], list[dict[str, Any]]]


class Picker:
    """`choice` is the drop-down, `shown` the outputs below it, `box` both: what a cell displays.

    The outputs are set whole, not written by a captured cell: what is shown belongs to the choice, always.
    """

    def __init__(self, names: Sequence[str], draw: Draw) -> None:
        self._draw = draw
        self.choice = widgets.Dropdown(
            options=[(one_line(name, 80), name) for name in names],
            description="Collection",
            layout=widgets.Layout(width="32em"),
        )
        self.shown = widgets.Output()
        self.choice.observe(self._chosen, names="value")
        self.box = widgets.VBox([self.choice, self.shown])
        self._chosen({"new": self.choice.value})

    def _chosen(self, change: Any) -> None:
        try:
            self.shown.outputs = tuple(self._draw(change["new"]))
        except RunbookError as error:
            self.shown.outputs = ({"output_type": "stream", "name": "stderr", "text": f"{error}\n"},)


ROWS = 1_000  # of a table that can be sorted and searched
ONE_LINE = ".dt-container td {max-width: 24em; overflow: hidden; text-overflow: ellipsis}"  # long texts stay searchable
HEAD = 20  # rows of the same table on paper
_begun_in: dict[str, str] = {}


def cell() -> str:
    """The id of the cell that a person runs now; "" where there is no person."""
    shell = kernel.shell()
    if kernel.under_runner() or shell is None or not hasattr(shell, "kernel"):
        return ""
    try:
        parent = shell.kernel.get_parent()
    except (AttributeError, LookupError, TypeError):  # a kernel of another make
        return ""
    return str((parent or {}).get("metadata", {}).get("cellId") or "")


def attended() -> bool:
    """Whether a person looks on."""
    return bool(cell())


def begin_tables() -> None:
    """Put the table library into the page, from this machine: no network is asked.

    It has to be in the output of one cell of the saved notebook. It is written again where that cell is run again.
    """
    here = cell()
    if _begun_in.setdefault("cell", here) == here:
        from itables import init_notebook_mode

        init_notebook_mode(all_interactive=False, connected=False)


def table_html(frame: pd.DataFrame) -> str:
    """The frame as a table to sort and search (needs `begin_tables`), of its first 1,000 rows; values as plain text.

    Where scripts do not run, the first rows are shown as they are.
    """
    from itables import to_html_datatable

    with pd.option_context("display.max_rows", None):
        shown = kernel.readable(frame.head(ROWS))
    page = to_html_datatable(
        shown, connected=False, display_logo_when_loading=False, maxBytes=0, maxColumns=0,
        showIndex=not isinstance(frame.index, pd.RangeIndex),
        pageLength=10, lengthMenu=[10, 25, 100, ROWS], scrollX=True, classes="display compact cell-border nowrap", css=ONE_LINE,
        warn_on_unexpected_types=False, text_in_header_can_be_selected=False,  # else only the small arrow sorts
        columnDefs=[{"targets": "_all", "className": "dt-left"}],
    )  # fmt: skip
    return f'<div class="tex2jax_ignore mathjax_ignore">{page}</div>'


def show_table(frame: pd.DataFrame) -> None:
    """To sort and search where a person looks on, else the first rows as they are."""
    if not attended():
        show_frame(frame, HEAD)
        return
    begin_tables()
    said = rows_said(frame, ROWS)
    show_outputs([html_output(table_html(frame), repr(kernel.readable(frame.head(HEAD))))])
    show_outputs([html_output(f"<p>{said}</p>", said)] if said else [])


def show_frame(frame: pd.DataFrame, rows: int = ROWS, caption: str = "") -> None:
    """The first rows, as text and as plain HTML, and how many there are where that is not all."""
    shown = frame.head(rows)
    with pd.option_context("display.max_rows", rows, "display.max_colwidth", 200):
        output = html_output(kernel.as_html(shown), repr(kernel.readable(shown)))
    said = ". ".join(filter(None, [caption, rows_said(frame, rows)]))
    show_outputs([*([html_output(f"<p>{html.escape(said)}</p>", said)] if said else []), output])


def rows_said(frame: pd.DataFrame, most: int) -> str:
    """How much of a frame is shown, and of what there is; "" where it is all."""
    shown = "" if len(frame) <= most else f"The first {most:,} of {len(frame):,} rows are shown."
    return " ".join(filter(None, [shown, kernel.cut_said(frame)]))


def html_output(page: str, text: str = "") -> dict[str, Any]:
    """An output of a cell, as notebooks keep it."""
    return {"output_type": "display_data", "data": {"text/html": page, "text/plain": text}, "metadata": {}}


def picture_output(png: bytes, alt: str) -> dict[str, Any]:
    encoded = base64.b64encode(png).decode("ascii")
    return {"output_type": "display_data", "data": {"image/png": encoded, "text/plain": alt},
            "metadata": {"image/png": {"alt": alt}}}  # fmt: skip


def show_outputs(outputs: list[dict[str, Any]]) -> None:
    """Outputs of the cell that runs now; outside a kernel nothing is shown."""
    shell = kernel.shell()
    if shell is None or not hasattr(shell, "kernel"):
        return
    from IPython.display import display

    for output in outputs:
        display(output["data"], metadata=output["metadata"], raw=True)  # type: ignore[no-untyped-call]

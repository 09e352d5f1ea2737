"""DataFrames in notebooks: what they hold comes from a source, and a cell of a table shows it as text, nothing else.

pandas escapes HTML. It leaves in control characters and bidirectional overrides, which reorder what a reader sees, and
dollar signs, which Jupyter would set as formulas with links in them.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import pandas as pd

from helpers.errors import one_line

_LONGEST = 2_000  # characters of a value; pandas cuts further
_CONTAINERS = (list, tuple, dict, set)
Table = TypeVar("Table", pd.DataFrame, pd.Series)


def show_tables_as_text(shell: Any) -> None:
    """From now on this kernel shows DataFrames and Series so; `shell` is IPython's, or None outside of it."""
    if shell is None:
        return
    formatters = shell.display_formatter.formatters
    formatters["text/html"].for_type(pd.DataFrame, as_html)
    for kind in (pd.DataFrame, pd.Series):
        formatters["text/plain"].for_type(kind, lambda table, printer, _: printer.text(repr(readable(table))))


def as_html(frame: pd.DataFrame) -> str:
    """The frame as pandas would show it, readable."""
    with pd.option_context("display.html.use_mathjax", False):
        return str(readable(frame)._repr_html_())  # type: ignore[operator]


def readable(table: Table) -> Table:
    """A copy in which foreign text is one printable line: values of the rows that are shown, and every label."""
    if isinstance(table, pd.Series):
        return _frame(table.to_frame()).iloc[:, 0].rename(_text(table.name))
    return _frame(table)


def _frame(frame: pd.DataFrame) -> pd.DataFrame:
    shown = max(int(pd.get_option("display.max_rows") or len(frame)), 1)
    copy = frame.copy()
    for at, kind in enumerate(copy.dtypes):
        if pd.api.types.is_object_dtype(kind) or pd.api.types.is_string_dtype(kind):
            values = copy.iloc[:, at].tolist()
            for row in {*range(min(shown, len(values))), *range(max(len(values) - shown, 0), len(values))}:
                values[row] = _text(values[row])
            copy.isetitem(at, np.fromiter(values, dtype=object, count=len(values)))
    copy = copy.rename(index=_text, columns=_text)
    copy.index.names = [_text(name) for name in copy.index.names]
    copy.columns.names = [_text(name) for name in copy.columns.names]
    return copy


def _text(value: Any) -> Any:
    if isinstance(value, _CONTAINERS):
        return one_line(str(value), _LONGEST)
    return one_line(value, _LONGEST) if isinstance(value, str) else value

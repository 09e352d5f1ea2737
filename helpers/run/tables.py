"""DataFrames in notebooks: what they hold comes from a source, and a cell of a table shows it as text, nothing else.

pandas escapes HTML. It leaves in control characters and bidirectional overrides, which reorder what a reader sees, and
dollar signs, which Jupyter would set as formulas with links in them.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from helpers.errors import one_line
from helpers.words import duration, size, text

_LONGEST = 2_000  # characters of a value; pandas cuts further
_LARGE = 500  # rows
_CONTAINERS = (list, tuple, dict, set)
Table = TypeVar("Table", pd.DataFrame, pd.Series)


def show_tables_as_text(shell: Any) -> None:
    """From now on this kernel shows DataFrames and Series so; `shell` is IPython's, or None outside of it."""
    if shell is None:
        return
    formatters = shell.display_formatter.formatters
    formatters["text/html"].for_type(pd.DataFrame, as_html)
    for kind in (pd.DataFrame, pd.Series):
        formatters["text/plain"].for_type(kind, lambda table, printer, _: printer.text(_as_text(table)))


def as_html(frame: pd.DataFrame) -> str:
    """The frame as pandas would show it, readable; where it is cut, a line below says so."""
    with pd.option_context("display.html.use_mathjax", False):
        page = str(for_people(frame)._repr_html_())  # type: ignore[operator]
    said = cut_said(frame)
    return page + (f"<p>{html.escape(said)}</p>" if said else "")


def _as_text(table: Table) -> str:
    return "\n".join(filter(None, [repr(for_people(table)), cut_said(table)]))


def cut(frame: pd.DataFrame, of: int, whole: str = "") -> pd.DataFrame:
    """Mark a frame that holds fewer rows than there are (`of`): in its `attrs`, which every table on the screen tells.

    `whole` says where all of them are. Nothing is marked where the frame is whole.
    """
    if of > len(frame):
        frame.attrs |= {"rows_held": len(frame), "rows_in_all": of, "whole": whole}
    return frame


def cut_said(frame: pd.DataFrame | pd.Series[Any]) -> str:
    """What a cut frame says of itself; "" where it is whole."""
    if "rows_in_all" not in frame.attrs:
        return ""
    held, every, whole = (frame.attrs[key] for key in ("rows_held", "rows_in_all", "whole"))
    return f"Not all: the first {held:,} of {every:,} rows.{f' {whole}' if whole else ''}"


def for_people(table: Table) -> Table:
    """As `readable`, and numbers as people read them: 9,832, 0.474, 3.1×10⁻⁷, 1 min 05 s, 1.2 GB. The table itself keeps its own.

    What a column counts is told by its name: seconds, bytes. Large tables are left as they are: most of one is not shown.
    """
    shown = readable(table)
    if len(shown) > _LARGE:
        return shown
    if isinstance(shown, pd.Series):
        return _numbers(shown, str(shown.name)) if pd.api.types.is_numeric_dtype(shown) else shown
    for at, kind in enumerate(shown.dtypes):
        if pd.api.types.is_numeric_dtype(kind) and not pd.api.types.is_bool_dtype(kind):
            shown.isetitem(at, _numbers(shown.iloc[:, at], str(shown.columns[at])).to_numpy())
    return shown


def _numbers(column: pd.Series[Any], name: str) -> pd.Series[Any]:
    unit = name.rsplit(" ", 1)[-1]
    write: Callable[[Any], str] = {"seconds": duration, "bytes": _size}.get(unit, _number)
    values = ["–" if pd.isna(n) else write(n) for n in column.tolist()]
    return pd.Series(values, index=column.index, name=column.name, dtype=object)


def _size(value: float) -> str:
    return size(int(value))


def _number(value: float) -> str:
    """Four digits; more where fewer would make a whole number of what is none: 0.99996 is not 1."""
    if not isinstance(value, float) or not math.isfinite(value) or value.is_integer() or abs(value) < 1e-3:
        return text(value)
    return next(
        (s for s in (f"{value:,.{n}g}" for n in (4, 6, 9)) if not float(s.replace(",", "")).is_integer()), repr(value)
    )


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

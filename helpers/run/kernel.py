"""The kernel of a notebook: its template, its end with the runner, the capture of errors, and how tables are shown."""

from __future__ import annotations

import contextlib
import ctypes
import html
import json
import math
import os
import resource
import select
import signal
import subprocess
import sys
import threading
import time
import traceback
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import psutil

from helpers import errors
from helpers.errors import RunbookError, one_line
from helpers.formatting import duration, size, text
from helpers.reason_codes import ReasonCode
from helpers.results import contents, reading, shortage
from helpers.run.folders import NOTEBOOKS, REPOSITORY

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


# -- machine -----------------------------------------------------------------------------------------------------------

# The memory of the machine and of this process.


def free_memory() -> int:
    """Bytes that processes can get without swapping."""
    return int(psutil.virtual_memory().available)


def peak_memory() -> int:
    """Peak memory of this process in bytes; on Linux without what its parent held when it started this one."""
    with contextlib.suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024


# -- kernel ------------------------------------------------------------------------------------------------------------


LONGEST_CELL = 1_000  # characters

RUNNER_PID = "RUNBOOK_RUNNER_PID"  # set by the runner for the kernels that it starts
FLEET_PID = "RUNBOOK_FLEET_PID"  # set by a fleet for the processes of its rows
EXECUTION = "RUNBOOK_EXECUTION"  # a token that the result repeats: it proves that this execution wrote it
LAUNCHED = "RUNBOOK_LAUNCHED"  # when the runner began to start the kernel, ISO 8601: the start is part of the wait

OnFailure = Callable[[BaseException], None]


LAUNCHER = "ipykernel_launcher"  # the module of a kernel


class KernelTemplate:
    """A process that has imported what the steps need; the kernel of each notebook is forked from it.

    It has neither notebook nor parameters, has opened nothing, and runs no other thread. Where a library has started one, it
    ends, and kernels are started as new processes. A forked kernel gets arguments, environment, working folder and output file
    as a new process does. The template ends with the runner, and its kernels with it.
    """

    LEAST_MEMORY = 2**30  # bytes that must be free; otherwise the running step needs them
    _FORK_SECONDS = 60.0  # as long as papermill waits for a kernel

    def __init__(self, environment: Mapping[str, str]) -> None:
        code = "from helpers.runner.notebook import be_template; be_template()"
        threads = {"JE_ARROW_MALLOC_CONF": "background_thread:false"}  # no thread of Arrow's allocator
        self.process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env={**os.environ, **environment, **threads}, start_new_session=True,
        )  # fmt: skip

    def fork(
        self, arguments: Sequence[str], environment: Mapping[str, str], folder: str, printed: str
    ) -> ForkedKernel | None:
        """Fork a kernel with IPython's arguments, its whole environment, its working folder, and the file for its output.

        None where the template has ended or does not answer: the caller must start a new process.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        order = json.dumps([list(arguments), dict(environment), folder, printed])
        try:
            self.process.stdin.write(order.encode() + b"\n")
            self.process.stdin.flush()
            if select.select([self.process.stdout], [], [], self._FORK_SECONDS)[0]:
                return ForkedKernel(int(self.process.stdout.readline()))
        except (OSError, ValueError, psutil.NoSuchProcess):
            pass
        self.close()
        return None

    def close(self) -> None:
        """Kill the process, and the running kernel with it."""
        self.process.kill()
        with contextlib.suppress(OSError, ValueError):  # already ended; already closed
            self.process.communicate()


class ForkedKernel(psutil.Process):  # type: ignore[misc]  # psutil has no types
    """A kernel that a template forked, with the interface of a process that Jupyter started."""

    stdin = stdout = stderr = None

    def poll(self) -> int | None:
        """None while it runs, then 0: its exit code is not known, the step's result tells how it ended."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return None if self.is_running() and self.status() != psutil.STATUS_ZOMBIE else 0
        return 0

    def send_signal(self, sig: int) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            super().send_signal(sig)


forked_by = 0  # process id of the template that this kernel was forked from
_PR_SET_PDEATHSIG = 1  # <sys/prctl.h>


def under_runner() -> bool:
    return RUNNER_PID in os.environ


def shell() -> Any:
    """The IPython shell this code runs in, or None."""
    from IPython import get_ipython

    return get_ipython()


def go_home() -> None:
    """Change to the repository's root, where JupyterLab or nbval started the kernel in notebooks/."""
    if Path.cwd().resolve() == NOTEBOOKS.resolve():
        os.chdir(REPOSITORY)


def end_with_runner() -> None:
    """Let this kernel end within 0.3 s after the runner that started it, so that no orphan writes to a target.

    A cell that computes in C may block all threads of Python, so Linux is asked to kill the process, too.
    """
    if not under_runner():
        return
    parent = forked_by or int(os.environ[RUNNER_PID])
    if sys.platform == "linux":
        die_with(parent)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.1)
        os._exit(1)

    if not any(t.name == "runbook-watchdog" for t in threading.enumerate()):
        threading.Thread(target=watch, name="runbook-watchdog", daemon=True).start()


def end_with_fleet() -> None:
    """Let the process of a row stop after the fleet's process has ended: as at Ctrl-C, and a minute later at once."""
    parent = int(os.environ.get(FLEET_PID) or 0)
    if not parent:
        return

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        for _ in range(3):  # before a step runs, the first one ends the process
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)

    threading.Thread(target=watch, name="runbook-fleet", daemon=True).start()


def die_with(parent: int) -> None:
    """Ask Linux to kill this process when its parent ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the parent has already ended
        os._exit(1)


def show_errors_in_one_line() -> None:
    """Show a `RunbookError` without its traceback, which is in run.log once there is a run."""
    ipython = shell()
    if ipython is not None:
        ipython.set_custom_exc((RunbookError,), _show_one_line)


class CellWatch:
    """Watches the cells of the running step and calls `on_failure` with the error of each that fails."""

    def __init__(self, on_failure: OnFailure) -> None:
        self._on_failure = on_failure
        self._shell = shell()

    def start(self) -> None:
        """Watch from the cell that runs now."""
        if self._shell is None:
            return
        self._shell.events.register("post_run_cell", self._after_cell)
        self._shell.system_raise_on_error = True  # by default a failing `!command` passes (measured on papermill 2.7)

    def stop(self) -> None:
        if self._shell is not None and self._after_cell in self._shell.events.callbacks["post_run_cell"]:
            self._shell.events.unregister("post_run_cell", self._after_cell)

    def _after_cell(self, result: Any) -> None:
        error = result.error_before_exec or result.error_in_exec
        if error is not None:
            self._on_failure(error)


def _show_one_line(
    ipython: Any, kind: type[BaseException], error: Any, trace: Any, tb_offset: int | None = None
) -> None:
    ipython._showtraceback(kind, error, [f"{kind.__name__}: {error}"])


def failure(error: BaseException) -> dict[str, str]:
    """An exception as results and pages record it: code, type, line (one printable line)."""
    if isinstance(error, RunbookError):
        return {"code": error.code, "type": type(error).__name__, "line": error.line()}
    if isinstance(error, SystemExit):
        return {
            "code": ReasonCode.NOTEBOOK_EXITED,
            "type": "SystemExit",
            "line": "a cell called exit; a step ends with step.finish()",
        }
    if isinstance(error, KeyboardInterrupt):
        return {"code": ReasonCode.INTERRUPTED, "type": "Interrupted", "line": "the kernel was interrupted"}
    known = shortage(error, Path.cwd())
    if known is not None:
        return failure(known)
    line = one_line(f"{type(error).__name__}: {error}")
    return {"code": ReasonCode.UNEXPECTED, "type": type(error).__name__, "line": line}


def trace_of(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


def is_whole(notebook: Path) -> bool:
    """Whether every code cell of an executed notebook ran without an error; False where the file cannot be read."""
    try:
        return notebook.is_file() and first_error(notebook) is None and not cells_not_executed(notebook)
    except RunbookError:
        return False


def first_error(notebook: Path, data: bytes | None = None) -> dict[str, str] | None:
    """The first error among the outputs, as `failure` gives it; None where there is none. `data`: the content of the file, which
    is then not read."""
    with reading(notebook):
        outputs = [output for cell in _code_cells(notebook, data) for output in cell.get("outputs", [])]
        failed = next((output for output in outputs if output["output_type"] == "error"), None)
        if failed is None:
            return None
        kind, line = str(failed["ename"]), one_line(str(failed["evalue"]))
    if kind == "SystemExit":
        return failure(SystemExit(line))
    ours = isinstance(getattr(errors, kind, None), type)
    return {"code": ReasonCode.CELL_FAILED, "type": kind, "line": one_line(line if ours else f"{kind}: {line}")}


def cells_not_executed(notebook: Path, data: bytes | None = None) -> int:
    return sum(cell.get("execution_count") is None for cell in _code_cells(notebook, data))


def _code_cells(notebook: Path, data: bytes | None) -> list[Any]:
    import nbformat

    with reading(notebook):
        data = contents(notebook) if data is None else data
        try:
            document = nbformat.reads(data.decode(), as_version=4)  # type: ignore[no-untyped-call]
        except nbformat.ValidationError as error:
            raise ValueError(str(error).splitlines()[0]) from error
        return [cell for cell in document.cells if cell.cell_type == "code" and cell.source.strip()]


def show_whole_sentences() -> None:
    """Show sentences in tables in full: by default pandas cuts a cell after 50 characters.

    Call it after the import of the step: one without tables does not import pandas.
    """
    pandas = sys.modules.get("pandas")
    if pandas is not None:
        pandas.set_option("display.max_colwidth", LONGEST_CELL)


def show_figure(figure: Figure) -> None:
    """Show the figure as a picture, with its title as alternative text. (A Figure by itself shows nothing.)"""
    if shell() is not None:
        from IPython.display import display

        from helpers.plots import png, svg

        alt = {"alt": " ".join(figure.get_suptitle().split())}
        pictures = {"image/png": b64encode(png(figure)).decode("ascii"), "image/svg+xml": svg(figure).decode()}
        display(pictures, raw=True, metadata=dict.fromkeys(pictures, alt))  # type: ignore[no-untyped-call]


def show(content: str) -> None:
    if shell() is not None:
        from IPython.display import HTML, display

        display(HTML(content))  # type: ignore[no-untyped-call]


# -- tables ------------------------------------------------------------------------------------------------------------

# DataFrames in notebooks hold values of a source; a table shows them as plain text.
#
# pandas escapes HTML. It does not escape control characters and bidirectional overrides, which reorder what a reader sees, nor
# dollar signs, which Jupyter would render as formulas, with links in them.


_LONGEST = 2_000  # characters of a value; pandas cuts further
_LARGE = 500  # rows
_ABSENT = "–"
_CONTAINERS = (list, tuple, dict, set)
Table = TypeVar("Table", "pd.DataFrame", "pd.Series[Any]")


def show_tables_as_text(shell: Any) -> None:
    """Make this kernel show DataFrames and Series as plain text; `shell` is IPython's, or None outside of it."""
    if shell is None:
        return
    formatters = shell.display_formatter.formatters
    formatters["text/html"].for_type_by_name("pandas", "DataFrame", as_html)
    for kind in ("DataFrame", "Series"):
        formatters["text/plain"].for_type_by_name(
            "pandas", kind, lambda table, printer, _: printer.text(_as_text(table))
        )


def as_html(frame: pd.DataFrame) -> str:
    """The frame as HTML of pandas with readable values; a line below says where it is cut, or has no row."""
    import pandas as pd

    with pd.option_context("display.html.use_mathjax", False):
        page = str(for_people(frame)._repr_html_())  # type: ignore[operator]
    note = cut_note(frame) or "No row." * (not len(frame))
    return page + (f"<p>{html.escape(note)}</p>" if note else "")


def _as_text(table: Table) -> str:
    return "\n".join(filter(None, [repr(for_people(table)), cut_note(table)]))


def cut(frame: pd.DataFrame, of: int, whole: str = "") -> pd.DataFrame:
    """Mark a frame that holds fewer rows than there are (`of`), in its `attrs`; every table shows that. Return the frame.

    `whole` says where all rows are. A frame with all rows is not marked.
    """
    if of > len(frame):
        frame.attrs |= {"rows_held": len(frame), "rows_in_all": of, "whole": whole}
    return frame


def cut_note(frame: pd.DataFrame | pd.Series[Any]) -> str:
    """The note of a frame that is cut; "" where it is whole."""
    if "rows_in_all" not in frame.attrs:
        return ""
    held, every, whole = (frame.attrs[key] for key in ("rows_held", "rows_in_all", "whole"))
    return f"Not all: the first {held:,} of {every:,} rows.{f' {whole}' if whole else ''}"


def for_people(table: Table) -> Table:
    """A copy as of `readable`, with formatted numbers: 9,832, 0.474, 3.1×10⁻⁷, 1 min 05 s, 1.2 GB.

    NaN and None become a dash. The unit of a column follows from the end of its name: seconds, bytes. Numbers of large tables
    are not formatted, because most rows are not shown.
    """
    import pandas as pd

    shown = readable(table)
    if len(shown) > _LARGE:
        return shown
    if isinstance(shown, pd.Series):
        return _numbers(shown, str(shown.name)) if pd.api.types.is_numeric_dtype(shown) else shown
    for at, kind in enumerate(shown.dtypes):
        if pd.api.types.is_numeric_dtype(kind) and not pd.api.types.is_bool_dtype(kind):
            shown.isetitem(at, _numbers(shown.iloc[:, at], str(shown.columns[at])).to_numpy())
        elif pd.api.types.is_object_dtype(kind) or pd.api.types.is_string_dtype(kind):
            values = [
                _ABSENT if _is_absent(v) else _number(v) if isinstance(v, float) else v for v in shown.iloc[:, at]
            ]
            shown.isetitem(at, pd.Series(values, index=shown.index, dtype=object).to_numpy())
    return shown


def _is_absent(value: Any) -> bool:
    """Whether a value is None, NaN, or NA or NaT of pandas."""
    return (
        value is None
        or type(value).__name__ in ("NAType", "NaTType")
        or (isinstance(value, float) and math.isnan(value))
    )


def _numbers(column: pd.Series[Any], name: str) -> pd.Series[Any]:
    import pandas as pd

    unit = name.rsplit(" ", 1)[-1]
    write: Callable[[Any], str] = {"seconds": duration, "bytes": _size}.get(unit, _number)
    values = [_ABSENT if pd.isna(n) else write(n) for n in column.tolist()]
    return pd.Series(values, index=column.index, name=column.name, dtype=object)


def _size(value: float) -> str:
    return size(int(value))


def _number(value: float) -> str:
    """Format with four digits, or with up to nine where fewer would look like a whole number: 0.99996 is not 1."""
    if not isinstance(value, float) or not math.isfinite(value) or value.is_integer() or abs(value) < 1e-3:
        return text(value)
    return next(
        (s for s in (f"{value:,.{n}g}" for n in (4, 6, 9)) if not float(s.replace(",", "")).is_integer()),
        text(float(f"{value:.9g}")),  # the rest is rounding noise: 925.9999999999998 is 926
    )


def readable(table: Table) -> Table:
    """A copy in which foreign text is one printable line: the values of the rows that are shown, and all labels."""
    import pandas as pd

    if isinstance(table, pd.Series):
        return _frame(table.to_frame()).iloc[:, 0].rename(_text(table.name))
    return _frame(table)


def _frame(frame: pd.DataFrame) -> pd.DataFrame:
    import numpy as np
    import pandas as pd

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

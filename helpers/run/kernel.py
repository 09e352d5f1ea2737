"""What a notebook's kernel is made to do: end with its runner, fail where a command fails, leave a result always."""

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

# The memory of the machine and of this process, in bytes.


def free_memory() -> int:
    """What can be given to processes without swapping."""
    return int(psutil.virtual_memory().available)


def peak_memory() -> int:
    """The most that this process has held; what a parent held when it started this one does not count, where Linux tells."""
    with contextlib.suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024


# -- kernel ------------------------------------------------------------------------------------------------------------


LONGEST_CELL = 1_000  # characters

RUNNER_PID = "RUNBOOK_RUNNER_PID"  # set by the runner for the kernels that it starts
FLEET_PID = "RUNBOOK_FLEET_PID"  # set by a fleet for the processes of its rows
EXECUTION = "RUNBOOK_EXECUTION"  # a token that a result repeats, so that the runner knows it for this execution's

LAUNCHED = (
    "RUNBOOK_LAUNCHED"  # when the runner began to start the kernel, ISO 8601: what a start takes is part of the wait
)

OnFailure = Callable[[BaseException], None]


LAUNCHER = "ipykernel_launcher"  # the module that is a kernel


class KernelTemplate:
    """A process that has imported what the steps need; the kernel of each notebook is forked from it.

    It has neither notebook nor parameters, has opened nothing, and runs no other thread: where a library has started one,
    it ends, and kernels are started as new processes. Arguments, environment, working folder and the file for what is
    printed reach a kernel as they reach a new process. It ends with the runner, and its kernels with it.
    """

    LEAST_MEMORY = 2**30  # bytes that must be free; with fewer the step at work needs them
    _FORK_SECONDS = 60.0  # as long as papermill waits for a kernel

    def __init__(self, environment: Mapping[str, str]) -> None:
        code = "from helpers.runner.notebook import be_template; be_template()"
        threads = {"JE_ARROW_MALLOC_CONF": "background_thread:false"}  # of Arrow's allocator, which kernels do not use
        self.process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env={**os.environ, **environment, **threads}, start_new_session=True,
        )  # fmt: skip

    def fork(
        self, arguments: Sequence[str], environment: Mapping[str, str], folder: str, printed: str
    ) -> ForkedKernel | None:
        """A kernel: IPython's arguments, its whole environment, its working folder, the file for what it prints.

        None where the template has ended or does not answer: then a new process must be started.
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
        """End the process, and the kernel that is at work."""
        self.process.kill()
        with contextlib.suppress(OSError, ValueError):  # ended before; closed before
            self.process.communicate()


class ForkedKernel(psutil.Process):  # type: ignore[misc]  # psutil has no types
    """A kernel that a template has forked, as Jupyter wants a process that it started itself."""

    stdin = stdout = stderr = None

    def poll(self) -> int | None:
        """None while it is there. How it ended is not known here; the step's result says it."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return None if self.is_running() and self.status() != psutil.STATUS_ZOMBIE else 0
        return 0

    def send_signal(self, sig: int) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            super().send_signal(sig)


forked_by = 0  # the template of this kernel
_PR_SET_PDEATHSIG = 1  # <sys/prctl.h>


def under_runner() -> bool:
    return RUNNER_PID in os.environ


def shell() -> Any:
    """The IPython shell this code runs in, or None."""
    from IPython import get_ipython

    return get_ipython()


def go_home() -> None:
    """A kernel that JupyterLab or nbval started in notebooks/ works from the repository's root instead."""
    if Path.cwd().resolve() == NOTEBOOKS.resolve():
        os.chdir(REPOSITORY)


def end_with_runner() -> None:
    """Where a runner started this kernel: die within 0.3 s of it, so that no orphan goes on writing to a target.

    A cell that computes in C may let no thread of Python run, so Linux is asked to do it, too.
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
    """In the process of a row, from its begin: once the fleet's process is gone, stop as at Ctrl-C, a minute later at once."""
    if not (parent := int(os.environ.get(FLEET_PID) or 0)):
        return

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        for _ in range(3):  # before a step is at work the first one ends the process
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)

    threading.Thread(target=watch, name="runbook-fleet", daemon=True).start()


def die_with(parent: int) -> None:
    """From now on Linux kills this process when its parent ends, whatever either is doing then."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has ended before
        os._exit(1)


def show_errors_in_one_line() -> None:
    """Errors of ours without their traceback, which is in run.log once there is a run."""
    if (ipython := shell()) is not None:
        ipython.set_custom_exc((RunbookError,), _show_one_line)


class CellWatch:
    """Sees every cell of the step at work: the first that fails is handed to `on_failure`."""

    def __init__(self, on_failure: OnFailure) -> None:
        self._on_failure = on_failure
        self._shell = shell()

    def start(self) -> None:
        """From the cell that runs now."""
        if self._shell is None:
            return
        self._shell.events.register("post_run_cell", self._after_cell)
        self._shell.system_raise_on_error = True  # by itself a failing `!command` passes (measured on papermill 2.7)

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
    """An exception as results and pages keep it: code, type, line (one printable line)."""
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
    if (known := shortage(error, Path.cwd())) is not None:
        return failure(known)
    line = one_line(f"{type(error).__name__}: {error}")
    return {"code": ReasonCode.UNEXPECTED, "type": type(error).__name__, "line": line}


def trace_of(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


def is_whole(notebook: Path) -> bool:
    """Whether every code cell of an executed notebook ran and none shows an error. One that was cut short is not whole."""
    try:
        return notebook.is_file() and first_error(notebook) is None and not cells_not_executed(notebook)
    except RunbookError:
        return False


def first_error(notebook: Path, data: bytes | None = None) -> dict[str, str] | None:
    """The first error among the outputs, as results keep it. `data`: what was written to the file, which is then not read."""
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
    """Tables cut no sentence short: pandas itself ends a cell after 50 characters, in the middle of what a DBA must read.

    Once the step is imported: one without tables does not import pandas.
    """
    if (pandas := sys.modules.get("pandas")) is not None:
        pandas.set_option("display.max_colwidth", LONGEST_CELL)


def show_figure(figure: Figure) -> None:
    """The figure as a picture whose text, for those who cannot see it, is its title. (A Figure by itself shows nothing.)"""
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

# DataFrames in notebooks: what they hold comes from a source, and a cell of a table shows it as text, nothing else.
#
# pandas escapes HTML. It leaves in control characters and bidirectional overrides, which reorder what a reader sees, and
# dollar signs, which Jupyter would set as formulas with links in them.


_LONGEST = 2_000  # characters of a value; pandas cuts further
_LARGE = 500  # rows
_ABSENT = "–"
_CONTAINERS = (list, tuple, dict, set)
Table = TypeVar("Table", "pd.DataFrame", "pd.Series[Any]")


def show_tables_as_text(shell: Any) -> None:
    """From now on this kernel shows DataFrames and Series so; `shell` is IPython's, or None outside of it."""
    if shell is None:
        return
    formatters = shell.display_formatter.formatters
    formatters["text/html"].for_type_by_name("pandas", "DataFrame", as_html)
    for kind in ("DataFrame", "Series"):
        formatters["text/plain"].for_type_by_name(
            "pandas", kind, lambda table, printer, _: printer.text(_as_text(table))
        )


def as_html(frame: pd.DataFrame) -> str:
    """The frame as pandas would show it, readable; where it is cut, or has no row, a line below says so."""
    import pandas as pd

    with pd.option_context("display.html.use_mathjax", False):
        page = str(for_people(frame)._repr_html_())  # type: ignore[operator]
    note = cut_note(frame) or "No row." * (not len(frame))
    return page + (f"<p>{html.escape(note)}</p>" if note else "")


def _as_text(table: Table) -> str:
    return "\n".join(filter(None, [repr(for_people(table)), cut_note(table)]))


def cut(frame: pd.DataFrame, of: int, whole: str = "") -> pd.DataFrame:
    """Mark a frame that holds fewer rows than there are (`of`): in its `attrs`, which every table on the screen tells.

    `whole` says where all of them are. Nothing is marked where the frame is whole.
    """
    if of > len(frame):
        frame.attrs |= {"rows_held": len(frame), "rows_in_all": of, "whole": whole}
    return frame


def cut_note(frame: pd.DataFrame | pd.Series[Any]) -> str:
    """What a cut frame says of itself; "" where it is whole."""
    if "rows_in_all" not in frame.attrs:
        return ""
    held, every, whole = (frame.attrs[key] for key in ("rows_held", "rows_in_all", "whole"))
    return f"Not all: the first {held:,} of {every:,} rows.{f' {whole}' if whole else ''}"


def for_people(table: Table) -> Table:
    """As `readable`, and numbers as people read them: 9,832, 0.474, 3.1×10⁻⁷, 1 min 05 s, 1.2 GB. The table itself keeps its own.

    What is not there, be it NaN or None, is a dash. What a column counts follows from its name: seconds, bytes. Large tables are
    left as they are: most of one is not shown.
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
    """None, NaN and what pandas puts for them; no list, whatever is in it."""
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
    """Four digits; more where fewer would make a whole number of what is none: 0.99996 is not 1, 0.9999999999999999 is."""
    if not isinstance(value, float) or not math.isfinite(value) or value.is_integer() or abs(value) < 1e-3:
        return text(value)
    return next(
        (s for s in (f"{value:,.{n}g}" for n in (4, 6, 9)) if not float(s.replace(",", "")).is_integer()),
        text(float(f"{value:.9g}")),  # what is left is noise of the arithmetic: 925.9999999999998 is 926
    )


def readable(table: Table) -> Table:
    """A copy in which foreign text is one printable line: values of the rows that are shown, and every label."""
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

"""What a notebook's kernel is made to do: end with its runner, fail where a command fails, leave a result always."""

from __future__ import annotations

import os
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from helpers.errors import RunbookError, one_line
from helpers.run.folders import NOTEBOOKS, REPOSITORY

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LONGEST_CELL = 1_000  # characters

RUNNER_PID = "RUNBOOK_RUNNER_PID"  # set by the runner for the kernels that it starts
EXECUTION = "RUNBOOK_EXECUTION"  # a token that a result repeats, so that the runner knows it for this execution's

OnFailure = Callable[[BaseException], None]


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
    """Where a runner started this kernel: die within 0.3 s of it, so that no orphan goes on writing to a target."""
    if not under_runner():
        return
    runner = int(os.environ[RUNNER_PID])

    def watch() -> None:
        while os.getppid() == runner:
            time.sleep(0.1)
        os._exit(1)

    if not any(t.name == "runbook-watchdog" for t in threading.enumerate()):
        threading.Thread(target=watch, name="runbook-watchdog", daemon=True).start()


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
            "code": "notebook_exited",
            "type": "SystemExit",
            "line": "a cell called exit; a step ends with run.finish()",
        }
    if isinstance(error, KeyboardInterrupt):
        return {"code": "interrupted", "type": "Interrupted", "line": "the kernel was interrupted"}
    if isinstance(error, MemoryError):
        return {"code": "out_of_memory", "type": "WorldError", "line": "the kernel ran out of memory"}
    line = one_line(f"{type(error).__name__}: {error}")
    return {"code": "unexpected", "type": type(error).__name__, "line": line}


def trace_of(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


def show_whole_sentences() -> None:
    """Tables cut no sentence short: pandas itself ends a cell after 50 characters, in the middle of what a DBA must read."""
    pd.set_option("display.max_colwidth", LONGEST_CELL)


def show_figure(figure: Figure) -> None:
    """The figure as a picture whose text, for those who cannot see it, is its title. (A Figure by itself shows nothing.)"""
    if shell() is not None:
        from IPython.display import Image, display

        from helpers.plots import png

        alt = " ".join(figure.get_suptitle().split())
        display(Image(data=png(figure), format="png", alt=alt))  # type: ignore[no-untyped-call]


def show(content: str) -> None:
    if shell() is not None:
        from IPython.display import HTML, display

        display(HTML(content))  # type: ignore[no-untyped-call]

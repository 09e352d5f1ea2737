"""One notebook through papermill, and what really became of it.

Papermill is not believed (measured on 2.7: after a dead kernel or a cell time-out the output says "completed";
`sys.exit(0)` in a cell ends the run with exit code 0). A step has passed only if the result file of this very execution
says so, every code cell was executed, and no output is an error.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import nbformat
import papermill
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from jupyter_core.utils import ensure_event_loop
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.exceptions import PapermillExecutionError

from helpers import audit, errors
from helpers.errors import RunbookError, one_line
from helpers.results import StepResult, Verdict, utc_now
from helpers.run import folders as runs
from helpers.run import kernel, plan
from helpers.run.folders import RunFolder

# Blocks of megabytes go back to the system as soon as they are freed. glibc and mimalloc would keep them for the next
# one: a snapshot over HTTP peaked at 510 MB with their defaults, at 250 MB with these, in the same time.
_FRUGAL = {
    "MALLOC_ARENA_MAX": "2",
    "MALLOC_MMAP_THRESHOLD_": str(2**20),
    "ARROW_DEFAULT_MEMORY_POOL": "system",
}


class Execution:
    """One notebook at work in a thread, so that signals stay with the caller; `wait` in a loop, then `result`."""

    def __init__(
        self, folder: RunFolder, step: plan.Step, *, dry_run: bool = False, timeout: int | None = None
    ) -> None:
        """`timeout`: seconds that one cell may take, None for any time."""
        self.folder, self.step = folder, step
        self.output = folder.reports / step.notebook
        self._dry_run, self._timeout = dry_run, timeout
        self._token = uuid.uuid4().hex
        self._error: BaseException | None = None
        self._group: int | None = None
        self._started = utc_now()
        self._thread = threading.Thread(target=self._run, name=f"notebook-{step.number}", daemon=True)

    def start(self) -> None:
        self._take_over_what_was_printed()  # of a kernel whose runner was killed
        runs.supersede(self.folder, [(s.number, s.name) for s in plan.outdated_by(self.step)])
        self.folder.log("notebook begins", self.step.number)
        self._thread.start()

    def wait(self, seconds: float) -> bool:
        """True once the notebook has ended."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def kill(self) -> None:
        """End the kernel at once, with whatever it started."""
        if self._group is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._group, signal.SIGKILL)

    def result(self) -> StepResult:
        """What became of the step. A failure that the step could not record itself is written to its result here."""
        said = self._said()
        if said is not None and said.error is not None and self._error_is_of_a_cell():
            return said
        fault = self._fault(said)
        if fault is None and said is not None:
            return said
        if said is None:
            if isinstance(self._error, PapermillExecutionError):
                self.folder.log_block("a cell failed before the step began", str(self._error), self.step.number)
            said = StepResult(self.step.number, self.step.title, self.folder.id, self._started)
        said.error, said.verdict, said.finished = fault, Verdict.FAIL, utc_now()
        said.write(self.folder.reports / "results" / f"{self.step.number}.json")
        outcome = said.error["code"] if said.error else "failed"
        audit.append(self.folder.reports / audit.NAME, "step ends", outcome=outcome, step=self.step.number)
        self.folder.log(f"step failed: {said.error['line'] if said.error else ''}", self.step.number)
        return said

    def _run(self) -> None:
        try:
            papermill.execute_notebook(
                _as_template(runs.NOTEBOOKS / self.step.notebook),
                _as_template(self.output),
                parameters={"run_id": self.folder.id, "dry_run": self._dry_run},
                kernel_name="python3",
                progress_bar=False,
                kernel_manager_class=_kernel_class(self),
                execution_timeout=self._timeout,
            )
        except BaseException as error:  # judged in `result`
            self._error = error
            if not isinstance(error, PapermillExecutionError):  # then the step has written the cell's own traceback
                self.folder.log_block("papermill stopped", "".join(traceback.format_exception(error)), self.step.number)
        finally:
            ensure_event_loop().close()  # this thread's, which Jupyter made and leaves open
            self._take_over_what_was_printed()

    @property
    def printed(self) -> Path:
        """What the kernel's process itself prints; a library may print what a source holds, so it is no log yet."""
        return self.folder.workspace / "kernel.log"

    def _take_over_what_was_printed(self) -> None:
        """Into run.log, escaped and indented: no text of a source can look like a line of ours."""
        with suppress(FileNotFoundError):
            text = self.printed.read_text(encoding="utf-8", errors="backslashreplace")
            if text.strip():
                self.folder.log_block("the kernel printed", text, self.step.number)
            self.printed.unlink()

    def kernel_environment(self) -> dict[str, str]:
        path = os.pathsep.join(filter(None, [str(runs.REPOSITORY), os.environ.get("PYTHONPATH")]))
        return {
            kernel.RUNNER_PID: str(os.getpid()),
            kernel.EXECUTION: self._token,
            "RUNBOOK_REPORTS": str(runs.reports_root()),
            "PYTHONPATH": path,
            **_FRUGAL,
        }

    def kernel_started(self, group: int | None) -> None:
        self._group = group

    def _said(self) -> StepResult | None:
        """The result file, if this execution wrote it."""
        try:
            found = self.folder.result(self.step.number)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return found if found is not None and found.facts.get("execution") == self._token else None

    def _error_is_of_a_cell(self) -> bool:
        return not isinstance(self._error, DeadKernelError | CellTimeoutError)

    def _fault(self, said: StepResult | None) -> dict[str, str] | None:
        """Why the step has not passed whatever its result says; None where there is nothing against it."""
        name = f"notebook {self.step.notebook}"
        if isinstance(self._error, DeadKernelError):
            return _error("kernel_died", f"{name}: its kernel died (out of memory, or killed)", "WorldError")
        if isinstance(self._error, CellTimeoutError):
            return _error("cell_timeout", f"{name}: a cell took longer than its time-out", "WorldError")
        if not self.output.is_file():
            return _error("not_executed", f"{name} was not executed: {self._error}", "WorldError")
        shown = first_error(self.output)
        if shown is not None:
            return shown
        if self._error is not None:
            return _error("not_executed", f"{name}: {type(self._error).__name__}: {self._error}", "WorldError")
        skipped = cells_not_executed(self.output)
        if skipped:
            return _error(
                "cells_not_executed", f"{name}: {skipped} of its code cells were never executed", "WorldError"
            )
        if said is None or not said.finished:
            return _error(
                "no_result", f"{name} ended without a result; its last cell must be run.finish()", "WorldError"
            )
        return None


def is_whole(notebook: Path) -> bool:
    """Whether every code cell of an executed notebook ran and none shows an error."""
    return notebook.is_file() and first_error(notebook) is None and not cells_not_executed(notebook)


def first_error(notebook: Path) -> dict[str, str] | None:
    """The first error among the outputs, as results keep it."""
    for cell in _code_cells(notebook):
        for output in cell.get("outputs", []):
            if output["output_type"] == "error":
                kind, line = str(output["ename"]), one_line(str(output["evalue"]))
                if kind == "SystemExit":
                    return kernel.failure(SystemExit(line))
                ours = isinstance(getattr(errors, kind, None), type)
                return _error("cell_failed", line if ours else f"{kind}: {line}", kind)
    return None


def cells_not_executed(notebook: Path) -> int:
    return sum(cell.get("execution_count") is None for cell in _code_cells(notebook))


def _code_cells(notebook: Path) -> Iterator[Any]:
    document = nbformat.read(notebook, as_version=4)  # type: ignore[no-untyped-call]
    return (cell for cell in document.cells if cell.cell_type == "code" and cell.source.strip())


def error_of(result: StepResult) -> RunbookError | None:
    """The error of a step as the exception that it was (a WorldError where it was none of ours)."""
    if result.error is None:
        return None
    kind = getattr(errors, result.error["type"], None)
    ours = kind if isinstance(kind, type) and issubclass(kind, RunbookError) else errors.WorldError
    return ours(result.error["code"], result.error["line"])


def _error(code: str, line: str, kind: str) -> dict[str, str]:
    return {"code": code, "type": kind, "line": one_line(line)}


def _as_template(path: Path) -> str:
    """Papermill formats paths with the parameters; braces in a folder's name are meant as they are."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _kernel_class(execution: Execution) -> type[AsyncKernelManager]:
    """Kernels of this very interpreter, whatever "python3" means here; what they print goes to run.log at their end."""

    class OwnKernel(AsyncKernelManager):
        @property
        def kernel_spec(self) -> KernelSpec:
            command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", "--log-level=40"]
            environment = {k: v.replace("$", "$$") for k, v in execution.kernel_environment().items()}
            return KernelSpec(argv=command, display_name="Python 3", language="python", env=environment)

        async def start_kernel(self, **arguments: Any) -> None:  # type: ignore[override]
            with execution.printed.open("ab") as log:
                await super().start_kernel(**{**arguments, "stdout": log, "stderr": log})
            execution.kernel_started(getattr(self.provisioner, "pgid", None))

    return OwnKernel

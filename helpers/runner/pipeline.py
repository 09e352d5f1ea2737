"""Execute the notebooks of a run in order, until a gate is closed, a step fails, or a stop is requested."""

from __future__ import annotations

import hashlib
import logging
import os
import signal
import sys
import threading
import traceback
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from importlib.metadata import EntryPoint
from pathlib import Path
from types import FrameType
from typing import Any

import papermill
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning.factory import KernelProvisionerFactory
from jupyter_client.provisioning.local_provisioner import LocalProvisioner
from jupyter_core.utils import ensure_event_loop
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.exceptions import PapermillExecutionError
from papermill.iorw import LocalHandler, papermill_io

from helpers import audit, errors
from helpers.cutover import CutoverState
from helpers.errors import Interrupted, NoGo, RunbookError, WaitingForSignoffs, one_line
from helpers.evidence import at_rest, keep_sealed, not_pushed
from helpers.evidence.signoffs import CUTOVER, open_gate
from helpers.fence import FenceState, lift
from helpers.migration.target_lock import give_back_target
from helpers.reason_codes import ReasonCode
from helpers.report.pages import keep_final, keep_signed, render_notebook, render_pages
from helpers.results import StepResult, Verdict, disk_full, flush_file, passed, utc_now
from helpers.run import folders as runs
from helpers.run import kernel, plan, window
from helpers.run.advice import advice_lines
from helpers.run.command import FRUGAL, python_environment, stop_requests
from helpers.run.folders import RunFolder, RunLock, RunPath, RunState
from helpers.run.plan import Step
from helpers.runner import notices
from helpers.status import Console, step_line, summary

# -- execute -----------------------------------------------------------------------------------------------------------

# Execute one notebook through papermill, and determine its outcome.
#
# Papermill's own outcome is not used (measured on 2.7: after a dead kernel or a cell time-out the output says "completed";
# `sys.exit(0)` in a cell ends the run with exit code 0). A step has passed only if the result file of this execution says
# so, every code cell was executed, and no output is an error.

Choice = Sequence[plan.Step] | Callable[[RunState], Sequence[plan.Step]]  # the steps, or a function that chooses them


def every_kernel() -> dict[str, str]:
    """The environment variables of every kernel of this runner."""
    own = {kernel.RUNNER_PID: str(os.getpid()), "RUNBOOK_REPORTS": str(runs.reports_root())}
    return {**own, **python_environment(), **FRUGAL}


class _Files(LocalHandler):  # type: ignore[misc]
    """Papermill's file handler. `written`: path → what it wrote last; the file itself may be replaced by others."""

    def __init__(self) -> None:
        super().__init__()
        self.written: dict[str, bytes] = {}

    def write(self, buf: str, path: str) -> None:
        self.written.pop(path, None)  # a write that fails must leave no entry
        super().write(buf, path)
        self.written[path] = buf.encode()


papermill_io.register("/", _files := _Files())


class Execution:
    """One notebook that runs in a thread, so that the caller gets signals: `start`, `wait` in a loop, then `result`."""

    def __init__(
        self, folder: RunFolder, step: plan.Step, *, dry_run: bool = False, timeout: int | None = None,
        template: kernel.KernelTemplate | None = None,
    ) -> None:  # fmt: skip
        """`timeout`: seconds that one cell may take, None for no limit. `template`: the process to fork the kernel from."""
        self.folder, self.step = folder, step
        self.output = folder.reports / step.notebook
        self._dry_run, self._timeout = dry_run, timeout
        self.template = template
        self._token = uuid.uuid4().hex
        self._error: BaseException | None = None
        self._group: int | None = None
        self._started = utc_now()
        self._thread = threading.Thread(target=self._run, name=f"notebook-{step.number}", daemon=True)

    def start(self) -> None:
        self._log_kernel_output()  # left by a kernel whose runner was killed
        runs.supersede(self.folder, plan.outdated_by(self.step))
        _files.written.pop(str(self.output), None)
        self.folder.log(audit.NOTEBOOK_BEGINS, self.step.number)
        audit.append(self.folder.reports / audit.NAME, audit.NOTEBOOK_BEGINS, step=self.step.number)
        self._thread.start()

    def wait(self, seconds: float) -> bool:
        """True once the notebook has ended."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def kill(self) -> None:
        """Kill the kernel at once, with all processes that it started."""
        if self._group is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._group, signal.SIGKILL)

    def result(self) -> StepResult:
        """The result of the step. A failure that the step could not record itself is written to its result file here."""
        result = self._recorded()
        if result is not None and result.error is not None and self._error_is_of_a_cell():
            return result
        fault = self._fault(result)
        if fault is None and result is not None:
            return result
        if result is None:
            if isinstance(self._error, PapermillExecutionError):
                self.folder.log_block("a cell failed before the step began", str(self._error), self.step.number)
            result = StepResult(self.step.number, self.step.title, self.folder.id, self._started)
        result.error, result.verdict, result.finished = fault, Verdict.FAIL, utc_now()
        path = self.folder.reports / RunPath.RESULTS / f"{self.step.number}.json"
        digest = result.write(path)
        outcome = result.error["code"] if result.error else "failed"
        digests = {f"{RunPath.RESULTS}/{path.name}": digest}
        about = {"step": self.step.number, "result": digest, "digests": digests, "died": True}
        audit.append(self.folder.reports / audit.NAME, audit.STEP_ENDS, outcome=outcome, **about)
        self.folder.log(f"step failed: {result.error['line'] if result.error else ''}", self.step.number)
        return result

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
            if not isinstance(error, PapermillExecutionError):  # of those the step has logged the cell's traceback
                with suppress(RunbookError):  # the disk may be full
                    trace = "".join(traceback.format_exception(error))
                    self.folder.log_block("papermill stopped", trace, self.step.number)
        finally:
            ensure_event_loop().close()  # Jupyter leaves this thread's loop open
            with suppress(OSError):  # it may not exist; papermill does not flush it, and a passed step needs it
                flush_file(self.output)
            self._log_kernel_output()

    @property
    def notebook(self) -> bytes | None:
        """The executed notebook as it was last written; None where it was not, or the write failed."""
        return _files.written.get(str(self.output))

    @property
    def printed(self) -> Path:
        """The file for the output of the kernel's process. It may hold values of a source, so it is not a log yet."""
        return self.folder.workspace / "kernel.log"

    def _log_kernel_output(self) -> None:
        """Move the output to run.log, escaped and indented, so that no text of a source looks like a line of the log."""
        with suppress(FileNotFoundError, RunbookError):
            text = self.printed.read_text(encoding="utf-8", errors="backslashreplace")
            if text.strip():
                self.folder.log_block("the kernel printed", text, self.step.number)
            self.printed.unlink()

    def kernel_environment(self) -> dict[str, str]:
        return {**every_kernel(), kernel.EXECUTION: self._token, kernel.LAUNCHED: self._started}

    def kernel_started(self, group: int | None) -> None:
        self._group = group

    def _recorded(self) -> StepResult | None:
        """The result file; None where it cannot be read, or another execution wrote it."""
        try:
            result = self.folder.read().result(self.step.number)
        except RunbookError:
            return None
        return result if result is not None and result.facts.get("execution") == self._token else None

    def _error_is_of_a_cell(self) -> bool:
        return not isinstance(self._error, DeadKernelError | CellTimeoutError)

    def _fault(self, result: StepResult | None) -> dict[str, str] | None:
        """Why the step has not passed, whatever its result says; None where nothing speaks against it."""
        name = f"notebook {self.step.notebook}"
        if isinstance(self._error, DeadKernelError):
            cause = notices.kernel_death(self.folder)
            return _error(ReasonCode.KERNEL_DIED, f"{name}: its kernel {cause}", "EnvironmentFailure")
        if isinstance(self._error, CellTimeoutError):
            return _error(
                ReasonCode.CELL_TIMEOUT, f"{name}: a cell took longer than its time-out", "EnvironmentFailure"
            )
        full = disk_full(self._error, self.output.parent) if self._error is not None else None
        if full is not None:
            return _error(full.code, full.line(), "EnvironmentFailure")
        written = self.notebook
        if written is None:
            return _error(ReasonCode.NOT_EXECUTED, f"{name} was not executed: {self._error}", "EnvironmentFailure")
        try:
            shown = kernel.first_error(self.output, written)
        except RunbookError as error:
            return _error(error.code, error.line(), "EnvironmentFailure")
        if shown is not None:
            return shown
        if self._error is not None:
            return _error(
                ReasonCode.NOT_EXECUTED, f"{name}: {type(self._error).__name__}: {self._error}", "EnvironmentFailure"
            )
        skipped = kernel.cells_not_executed(self.output, written)
        if skipped:
            problem = f"{name}: {skipped} of its code cells were never executed"
            return _error(ReasonCode.CELLS_NOT_EXECUTED, problem, "EnvironmentFailure")
        if result is None or not result.finished:
            problem = f"{name} ended without a result; its last cell must be step.finish()"
            return _error(ReasonCode.NO_RESULT, problem, "EnvironmentFailure")
        return None


def error_of(result: StepResult) -> RunbookError | None:
    """The error of a step as an exception of its type (EnvironmentFailure for one that is not ours); None without an error."""
    if result.error is None:
        return None
    kind = getattr(errors, result.error["type"], None)
    ours = kind if isinstance(kind, type) and issubclass(kind, RunbookError) else errors.EnvironmentFailure
    return ours(ReasonCode.known(result.error["code"]) or ReasonCode.UNEXPECTED, result.error["line"])


def _error(code: ReasonCode, line: str, kind: str) -> dict[str, str]:
    return {"code": code, "type": kind, "line": one_line(line)}


def _as_template(path: Path) -> str:
    """Escape the braces of a path: papermill formats paths with the parameters."""
    return str(path).replace("{", "{{").replace("}", "}}")


class ForkProvisioner(LocalProvisioner):
    """Forks the kernel from the template where there is one, else starts it as Jupyter does."""

    async def launch_kernel(self, cmd: list[str], **options: Any) -> Any:
        template: kernel.KernelTemplate | None = options.pop("template", None)
        if template is not None:
            folder = str(options.get("cwd") or Path.cwd())
            arguments = cmd[cmd.index(kernel.LAUNCHER) + 1 :]
            forked = template.fork(arguments, options["env"], folder, options["stdout"].name)
            if forked is not None:
                self.process, self.pid, self.pgid = forked, forked.pid, forked.pid
                return self.connection_info
        return await super().launch_kernel(cmd, **options)


_FORK = "runbook-fork"
KernelProvisionerFactory.instance().provisioners[_FORK] = EntryPoint(
    _FORK, f"{__name__}:{ForkProvisioner.__name__}", ""
)


def _kernel_class(execution: Execution) -> type[AsyncKernelManager]:
    """A manager of kernels that run this interpreter, whatever "python3" means here, and print to `execution.printed`."""

    class OwnKernel(AsyncKernelManager):
        @property
        def kernel_spec(self) -> KernelSpec:
            command = [sys.executable, "-m", kernel.LAUNCHER, "-f", "{connection_file}", "--log-level=40",
                       "--InteractiveShellApp.ignore_cwd=True"]  # fmt: skip
            environment = {k: v.replace("$", "$$") for k, v in execution.kernel_environment().items()}
            by = {"kernel_provisioner": {"provisioner_name": _FORK}}
            return KernelSpec(argv=command, display_name="Python 3", language="python", env=environment, metadata=by)

        async def start_kernel(self, **arguments: Any) -> None:  # type: ignore[override]
            with execution.printed.open("ab") as log:
                await super().start_kernel(
                    **{**arguments, "stdout": log, "stderr": log, "template": execution.template}
                )
            execution.kernel_started(getattr(self.provisioner, "pgid", None))

    return OwnKernel


# -- pipeline ----------------------------------------------------------------------------------------------------------


_NO_VERDICT = {
    ReasonCode.OUTSIDE_WINDOW: "none yet, outside the maintenance window",
    ReasonCode.SOURCE_CHANGED: "none yet, the source changed since it was migrated",
}


_DECISION = next(step.number for step in plan.LINE if step.gate == CUTOVER)
_ON_DEMAND = {Step.HOLD_AND_TROUBLESHOOT: "held; see step 26 for what to do", Step.ROLLBACK: "Rollback succeeded"}


class Stop:
    """Handles Ctrl-C and SIGTERM: the first lets the step finish its batch, the second kills its kernel. SIGHUP is ignored.

    Where SIGINT stays ignored (`stop_requests`), SIGTERM still stops the run, and run.log says so.
    """

    def __init__(self, folder: RunFolder, terminal: Console) -> None:
        self.requested = False
        self.execution: Execution | None = None
        self._folder, self._terminal = folder, terminal

    @contextmanager
    def watching(self) -> Iterator[None]:
        with stop_requests(self._asked) as hears_ctrl_c:
            if not hears_ctrl_c:
                ignored = "SIGINT is ignored, as this command was started; to stop the run: kill -TERM"
                self._folder.log(f"{ignored} {os.getpid()}")
            yield

    def _asked(self, number: int, frame: FrameType | None) -> None:
        if self.requested and self.execution is not None:
            self.execution.kill()
            return
        self.requested = True
        self._folder.stop_file.touch()
        self._terminal.say(
            "Stopping after the current batch. Ctrl-C again stops at once; a resume then repeats the batch."
        )


def run_line(folder: RunFolder, steps: Choice, terminal: Console, *, dry_run: bool = False) -> str:
    """Run the steps, show them, render the pages; return the verdict in words.

    The steps are chosen under the run's lock: another command that has just ended may have passed some.
    Raises what stopped the run: NoGo, WaitingForSignoffs, Interrupted, or the error of the step that failed.
    """
    with RunLock(folder, "runner").acquire():
        # wait for the kernel of a killed runner, which ends within a second
        RunLock(folder, "step").acquire().release()
        folder.stop_file.unlink(missing_ok=True)
        (folder.workspace / RunPath.PROGRESS).unlink(missing_ok=True)
        with _library_messages_in(folder):
            return _run_line(folder, list(steps(folder.read()) if callable(steps) else steps), terminal, dry_run)


def _run_line(folder: RunFolder, steps: Sequence[plan.Step], terminal: Console, dry_run: bool) -> str:
    terminal.say(f"Run {folder.id}. Everything is recorded in {folder.log_path}")
    stop = Stop(folder, terminal)
    with stop.watching():
        run, at, error = _turns(folder.read(), steps, terminal, stop, dry_run)
    if error is None:
        run, error = _gates(run, steps or plan.LINE, terminal)
    ends_early = steps and at is steps[-1] is not plan.LINE[-1] and at.on_line
    # After the decision the fence must stay. Lifted and put up again, it would void the signatures; after the cutover, writes
    # to the source would be lost. Step 53 lifts it.
    if ends_early and steps[-1].number < _DECISION and not stop.requested:
        error = _stand_down(run, terminal) or error
    notices.pipeline_ended(run, steps, error, terminal.say)
    verdict = _verdict(run, steps or plan.LINE, error, dry_run)
    run.log(f"line ends: {verdict}")
    remedies = _advice(run, steps)
    for line in remedies:
        run.log(line)
    for line in keep_final(run) if error is None else ():
        run.log(line)
        terminal.say(line)
    run, error = _sealed(run, terminal, error)
    render_pages(run)
    terminal.say(summary(run, steps, verdict))
    if warning := not_pushed(run):
        terminal.say(warning)
    for line in remedies:
        terminal.say(line)
    state = FenceState.load(folder.workspace)
    if state is not None and state.may_be_active:
        terminal.say(f"Fence:   {state.sentence()}")
    cutover = CutoverState.load(folder.workspace)
    if cutover is not None:
        terminal.say(f"Cutover: {cutover.status(rehearsal=bool(run.facts['rehearsal']))}")
    if error is not None:
        raise error
    return verdict


def _turns(
    run: RunState, steps: Sequence[plan.Step], terminal: Console, stop: Stop, dry_run: bool
) -> tuple[RunState, plan.Step | None, RunbookError | None]:
    """Execute the steps in order; return the run afterwards, the last step that was reached, and the error that stopped it.

    A turn is from the end of one step to the end of the next. The run is read once in each: before the first step, then when
    a step has ended.
    """
    at: plan.Step | None = None
    error: RunbookError | None = None
    with kernel_template(steps) as template:
        for step in steps:
            run, error = _gates(run, plan.LINE[: plan.LINE.index(step)], terminal) if step.on_line else (run, None)
            if error is None and not (dry_run or run.facts["dry_run"]):
                error = window.refusal(run, step)
            if error is not None:
                return run, at, error
            at = step
            if stop.requested:
                return run, at, Interrupted.by_signal(run.command("resume"))
            run, error = _one(run, step, terminal, stop, template, dry_run)
            decided_later = step.decides in [s.number for s in steps]
            if error is not None and not (isinstance(error, NoGo) and decided_later):
                return run, at, error
    return run, at, error


@contextmanager
def kernel_template(steps: Sequence[plan.Step]) -> Iterator[kernel.KernelTemplate | None]:
    """Yield the process to fork the kernels of these steps from; None where that gains nothing or is not safe."""
    # The libraries that Python uses on macOS do not all survive a fork.
    if len(steps) < 2 or sys.platform != "linux" or kernel.free_memory() < kernel.KernelTemplate.LEAST_MEMORY:
        yield None
        return
    with closing(kernel.KernelTemplate(every_kernel())) as template:
        yield template


def _one(
    run: RunState, step: plan.Step, terminal: Console, stop: Stop, template: kernel.KernelTemplate | None, dry_run: bool
) -> tuple[RunState, RunbookError | None]:
    """Execute one step and send its notices; return the run afterwards, and the error of the step."""
    notices.before_step(run, step, terminal.say, dry_run=dry_run)
    result = _executed(run, step, terminal, stop, template, dry_run)
    run = run.after(result)
    render_pages(run)
    error = _stopped_by(run, step, result, stop)
    notices.after_step(run, step, error, terminal.say, dry_run=dry_run)
    return run, error


def _executed(
    folder: RunFolder, step: plan.Step, terminal: Console, stop: Stop, template: kernel.KernelTemplate | None, dry_run: bool
) -> StepResult:  # fmt: skip
    execution = Execution(folder, step, dry_run=dry_run, template=template)
    stop.execution = execution
    execution.start()
    while not execution.wait(0.25):
        terminal.follow(folder, step)
    stop.execution = None
    result = execution.result()
    terminal.say(step_line(step, result))
    _keep_notebook(folder, execution)
    return result


def _keep_notebook(folder: RunFolder, execution: Execution) -> None:
    """Render the executed notebook, and log the digests of both files as they were written: a seal accepts no others."""
    written = execution.notebook
    if written is not None:
        digests = {execution.output.name: hashlib.sha256(written).hexdigest()}
        page = render_notebook(folder, execution.output, written)
        if page:
            digests[execution.output.with_suffix(".html").name] = page
        audit.append(folder.reports / audit.NAME, audit.NOTEBOOK_KEPT, step=execution.step.number, digests=digests)
        del _files.written[str(execution.output)]


def _stopped_by(folder: RunFolder, step: plan.Step, result: StepResult, stop: Stop) -> RunbookError | None:
    """The error of the step, as the command reports it; None where the run continues."""
    error = error_of(result)
    if error is None:
        return None
    if isinstance(error, Interrupted) or stop.requested:
        return Interrupted.by_signal(folder.command("resume"))
    return type(error)(error.code, f"step {step.stem}: {error.what}")


def _advice(folder: RunState, steps: Sequence[plan.Step]) -> list[str]:
    """At most two lines of advice about what failed or was marginal in these steps."""
    codes: list[str] = []
    for result in filter(None, (folder.result(step.number) for step in steps)):
        codes += [c.reason for c in result.checks if c.verdict in (Verdict.FAIL, Verdict.MARGINAL)]
        if result.error is not None and result.error["code"] != ReasonCode.INTERRUPTED:
            codes.append(result.error["code"])
    return advice_lines(codes, folder, 2)


def _stand_down(folder: RunState, terminal: Console) -> RunbookError | None:
    """Lift the fence after a run that `--until` ended early, and release the target where nothing was written; return the error,
    or None."""
    state = FenceState.load(folder.workspace)
    try:
        if passed(folder.result(Step.FENCE_WRITES)):
            give_back_target(folder)
        if state is not None and state.may_be_active:
            terminal.say(lift(folder))
    except RunbookError as error:
        folder.log(f"the fence was not lifted: {error}")
        return error
    finally:
        notices.run_held(folder, terminal.say)
    return None


def _sealed(run: RunState, terminal: Console, error: RunbookError | None) -> tuple[RunState, RunbookError | None]:
    """Seal what this command changed; return the run and the error. The error that stopped the run comes before that of the
    seal, which is then only shown."""
    try:
        return at_rest(run), error
    except RunbookError as unsealed:
        run.log(f"not sealed: {unsealed}")
        if error is not None and str(error) != str(unsealed):
            terminal.say(f"Not sealed: {unsealed}")
        return run, error or unsealed


def _gates(run: RunState, steps: Sequence[plan.Step], terminal: Console) -> tuple[RunState, RunbookError | None]:
    """Seal the steps that have passed, then check their gates; a rehearsal signs, through the real gate. Return the run and the
    error of the first closed gate."""
    try:
        for line in keep_signed(run):
            run.log(line)
            terminal.say(line)
        run = keep_sealed(run)
    except RunbookError as error:
        return run, error
    shut = open_gate(run, steps)
    if run.facts["rehearsal"] and isinstance(shut, WaitingForSignoffs):
        from helpers.rehearsal.setup import approve

        for step in steps:
            if step.gate and passed(run.result(step.number)):
                approve(run, step)
        shut = open_gate(run, steps)
    return run, shut


def _verdict(folder: RunState, steps: Sequence[plan.Step], error: RunbookError | None, dry_run: bool) -> str:
    if isinstance(error, NoGo):
        return "NO-GO"
    if isinstance(error, WaitingForSignoffs):
        if passed(folder.result(Step.CLOSEOUT)):
            return "GO, closed out, waiting for the sign-off of the closeout"
        return "GO, waiting for sign-offs" if passed(folder.result(Step.REVIEW)) else "waiting for sign-offs"
    if isinstance(error, Interrupted):
        return "none yet, stopped on request"
    if error is not None:
        return _NO_VERDICT.get(error.code, "failed")
    if steps and not steps[-1].on_line:
        if dry_run and steps[-1] is Step.ROLLBACK:
            return "none, dry run: nothing was rolled back; the plan says what a rollback would do"
        return _ON_DEMAND.get(steps[-1], f"step {steps[-1]} passed")
    line = [step for step in plan.LINE if step.number <= steps[-1].number]
    decided = any(step.gate == CUTOVER and passed(folder.result(step.number)) for step in line)
    return "GO" if decided else f"passed up to step {steps[-1].number}"


class _RunLog(logging.Handler):
    """Writes each warning as a line of run.log, with control characters escaped."""

    def __init__(self, folder: RunFolder) -> None:
        super().__init__(logging.WARNING)
        self._folder = folder

    def emit(self, record: logging.LogRecord) -> None:
        self._folder.log(f"{record.name}: {record.getMessage()}")


@contextmanager
def _library_messages_in(folder: RunFolder) -> Iterator[None]:
    """Send the log messages of libraries to run.log: standard error is for the one line of an error."""
    handler = _RunLog(folder)
    root, quiet = logging.getLogger(), logging.getLogger("papermill")
    root.addHandler(handler)
    before, quiet.level = quiet.level, logging.WARNING
    try:
        yield
    finally:
        quiet.level = before
        root.removeHandler(handler)
        handler.close()

"""The line of a run: its notebooks one after another, until a gate that stays shut, a failure, or a request to stop."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from helpers.cutover import CutoverState
from helpers.errors import Interrupted, NoGo, RunbookError, WaitingForSignoffs
from helpers.evidence import at_rest, keep_sealed
from helpers.fence import FenceState, lift
from helpers.results import StepResult, Verdict, passed
from helpers.run import plan, window
from helpers.run.folders import RunFolder, RunLock
from helpers.runner import notices
from helpers.runner.execute import Execution, error_of, is_whole
from helpers.runner.gates import open_gate
from helpers.runner.rendering import render_notebook, render_pages
from helpers.runner.terminal import Terminal, step_line, summary
from helpers.signoffs import CUTOVER
from helpers.steps.claim import give_back_target
from helpers.troubleshooting.map import advised

_NO_VERDICT = {
    "outside_window": "none yet, outside the maintenance window",
    "source_changed": "none yet, the source changed since it was migrated",
}


_DECISION = next(step.number for step in plan.LINE if step.gate == CUTOVER)
_OFF_THE_LINE = {"26": "held; see step 26 for what to do", "27": "the way back ended well"}


class Stop:
    """Ctrl-C and SIGTERM: the first lets the step finish its batch, the second ends its kernel; SIGHUP is ignored.

    A SIGINT that was ignored when the command began (`nohup`, cron, `&` of a shell) stays ignored: who started it so meant
    no Ctrl-C of a terminal to reach it. SIGTERM stops it all the same, and run.log says so.
    """

    def __init__(self, folder: RunFolder, terminal: Terminal) -> None:
        self.requested = False
        self.execution: Execution | None = None
        self._folder, self._terminal = folder, terminal

    @contextmanager
    def watching(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        heard = [signal.SIGTERM]
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            self._folder.log(
                f"SIGINT is ignored, as this command was started; to stop the run: kill -TERM {os.getpid()}"
            )
        else:
            heard.append(signal.SIGINT)
        before = {number: signal.signal(number, self._asked) for number in heard}
        before[signal.SIGHUP] = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _asked(self, number: int, frame: FrameType | None) -> None:
        if self.requested and self.execution is not None:
            self.execution.kill()
            return
        self.requested = True
        self._folder.stop_file.touch()
        self._terminal.say("Stopping after the batch in hand. Again to stop at once (a resume then repeats the batch).")


def run_line(folder: RunFolder, steps: Sequence[plan.Step], terminal: Terminal, *, dry_run: bool = False) -> str:
    """Run the steps, show them, render the pages; the verdict in words.

    Raises what stopped the line: NoGo, WaitingForSignoffs, Interrupted, or the error of the step that failed.
    """
    with RunLock(folder, "runner").acquire():
        RunLock(folder, "step").acquire().release()  # a kernel of a runner that was killed dies within a second
        folder.stop_file.unlink(missing_ok=True)
        (folder.workspace / "progress.json").unlink(missing_ok=True)
        with _library_messages_in(folder):
            return _run_line(folder, steps, terminal, dry_run)


def _run_line(folder: RunFolder, steps: Sequence[plan.Step], terminal: Terminal, dry_run: bool) -> str:
    terminal.say(f"Run {folder.id}. Everything is written down in {folder.log_path}")
    stop = Stop(folder, terminal)
    error: RunbookError | None = None
    at: plan.Step | None = None
    with stop.watching():
        for step in steps:
            error = _gates(folder, plan.LINE[: plan.LINE.index(step)]) if step.on_line else None
            if error is None and not (dry_run or folder.facts()["dry_run"]):
                error = window.refusal(folder, step)
            if error is not None:
                break
            at = step
            error = _interrupted(folder) if stop.requested else _one(folder, step, terminal, stop, dry_run)
            decided_later = step.decides in [s.number for s in steps]
            if error is not None and not (isinstance(error, NoGo) and decided_later):
                break
    error = error or _gates(folder, steps or plan.LINE)
    ends_early = steps and at is steps[-1] is not plan.LINE[-1] and at.on_line
    # Behind the decision the fence must stay: lifted and put up again it would void what was signed, and after the cutover
    # whoever still writes to the source would write for nobody. Step 53 lifts it.
    if ends_early and steps[-1].number < _DECISION and not stop.requested:
        error = _stand_down(folder, terminal) or error
    notices.line_ended(folder, steps, error, terminal.say)
    verdict = _verdict(folder, steps or plan.LINE, error)
    folder.log(f"line ends: {verdict}")
    remedies = _advice(folder, steps)
    for line in remedies:
        folder.log(line)
    error = _sealed(folder, terminal, error)
    render_pages(folder)
    terminal.say(summary(folder, steps, verdict))
    for line in remedies:
        terminal.say(line)
    state = FenceState.read(folder.workspace)
    if state is not None and state.may_stand:
        terminal.say(f"Fence:   {state.sentence()}")
    cutover = CutoverState.read(folder.workspace)
    if cutover is not None:
        terminal.say(f"Cutover: {cutover.sentence()}")
    if error is not None:
        raise error
    return verdict


def _one(folder: RunFolder, step: plan.Step, terminal: Terminal, stop: Stop, dry_run: bool) -> RunbookError | None:
    """Execute one step, and tell people what concerns them; what it failed with, or None."""
    notices.before_step(folder, step, terminal.say, dry_run=dry_run)
    error = _executed(folder, step, terminal, stop, dry_run)
    notices.after_step(folder, step, error, terminal.say, dry_run=dry_run)
    return error


def _executed(folder: RunFolder, step: plan.Step, terminal: Terminal, stop: Stop, dry_run: bool) -> RunbookError | None:
    execution = Execution(folder, step, dry_run=dry_run)
    stop.execution = execution
    execution.start()
    while not execution.wait(0.25):
        terminal.follow(folder, step)
    stop.execution = None
    result = execution.result()
    terminal.say(step_line(step, result))
    render_notebook(folder, execution.output)
    render_pages(folder)
    error = error_of(result)
    if error is None:
        return None
    if isinstance(error, Interrupted) or stop.requested:
        return _interrupted(folder)
    return type(error)(error.code, f"step {step.number}_{step.name}: {error.what}")


def _advice(folder: RunFolder, steps: Sequence[plan.Step]) -> list[str]:
    """What leads out of what failed or was marginal in these steps, at most two lines."""
    codes: list[str] = []
    for result in filter(None, (folder.result(step.number) for step in steps)):
        codes += [c.reason for c in result.checks if c.verdict in (Verdict.FAIL, Verdict.MARGINAL)]
        if result.error is not None and result.error["code"] != "interrupted":
            codes.append(result.error["code"])
    return advised(codes, folder, 2)


def _stand_down(folder: RunFolder, terminal: Terminal) -> RunbookError | None:
    """What `--until` ends in, unless the run goes on to its end: clients may write again, and the target is free for other
    runs where nothing was written. What it failed with, or None."""
    state = FenceState.read(folder.workspace)
    try:
        if passed(folder.result(plan.FENCE)):
            give_back_target(folder)
        if state is not None and state.may_stand:
            terminal.say(lift(folder))
    except RunbookError as error:
        folder.log(f"the fence was not lifted: {error}")
        return error
    finally:
        notices.stands_down(folder, terminal.say)
    return None


def with_fence(folder: RunFolder, steps: Sequence[plan.Step]) -> list[plan.Step]:
    """The steps, step 20 before them where one of them wants the fence and it was lifted since."""
    fence = plan.find(plan.FENCE)
    wanted = fence not in steps and any(step.fenced for step in steps) and folder.parameters().fence.kind != "none"
    state = FenceState.read(folder.workspace) if wanted else None
    return [fence, *steps] if wanted and (state is None or not state.stands) else list(steps)


def _interrupted(folder: RunFolder) -> Interrupted:
    return Interrupted("interrupted", "stopped on request", next_step=f"Go on with: {folder.command('resume')}")


def _sealed(folder: RunFolder, terminal: Terminal, error: RunbookError | None) -> RunbookError | None:
    """Seal what this command changed. What stopped the line stays the first error; that of the seal is said beside it."""
    try:
        at_rest(folder)
    except RunbookError as unsealed:
        folder.log(f"not sealed: {unsealed}")
        if error is not None and str(error) != str(unsealed):
            terminal.say(f"Not sealed: {unsealed}")
        return error or unsealed
    return error


def _gates(folder: RunFolder, steps: Sequence[plan.Step]) -> RunbookError | None:
    """The gates behind the steps that have passed, sealed first; a rehearsal signs, through the real gate."""
    try:
        keep_sealed(folder)
    except RunbookError as error:
        return error
    if folder.facts()["rehearsal"] and isinstance(open_gate(folder, steps), WaitingForSignoffs):
        from helpers.runner.rehearsal import approve

        for step in steps:
            if step.gate and passed(folder.result(step.number)):
                approve(folder, step)
    return open_gate(folder, steps)


def _verdict(folder: RunFolder, steps: Sequence[plan.Step], error: RunbookError | None) -> str:
    if isinstance(error, NoGo):
        return "NO-GO"
    if isinstance(error, WaitingForSignoffs):
        return "GO, waiting for sign-offs" if passed(folder.result("24")) else "waiting for sign-offs"
    if isinstance(error, Interrupted):
        return "none yet, stopped on request"
    if error is not None:
        return _NO_VERDICT.get(error.code, "failed")
    if steps and not steps[-1].on_line:
        return _OFF_THE_LINE.get(steps[-1].number, f"step {steps[-1].number} passed")
    line = [step for step in plan.LINE if step.number <= steps[-1].number]
    decided = any(step.gate == CUTOVER and passed(folder.result(step.number)) for step in line)
    return "GO" if decided else f"passed up to step {steps[-1].number}"


def open_steps(folder: RunFolder, last: plan.Step) -> list[plan.Step]:
    """The steps from the first that has not passed up to `last`. A pass counts only while its notebook is whole."""
    for step in plan.LINE:
        if step.number > last.number:
            break
        if not _really_passed(folder, step):
            return plan.between(step, last)
    return []


def _really_passed(folder: RunFolder, step: plan.Step) -> bool:
    result: StepResult | None = folder.result(step.number)
    if result is None or not passed(result):
        return False
    by_runner = bool(result.facts.get("execution"))  # a notebook run by hand is kept where its owner likes
    return is_whole(folder.reports / step.notebook) if by_runner else True


class _RunLog(logging.Handler):
    """A line of run.log for each warning; its control characters are escaped as those of every line there."""

    def __init__(self, folder: RunFolder) -> None:
        super().__init__(logging.WARNING)
        self._folder = folder

    def emit(self, record: logging.LogRecord) -> None:
        self._folder.log(f"{record.name}: {record.getMessage()}")


@contextmanager
def _library_messages_in(folder: RunFolder) -> Iterator[None]:
    """What libraries log goes to run.log: standard error is for one line of ours."""
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

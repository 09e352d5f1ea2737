"""`begin`: from a notebook's parameters to the step of `helpers.steps` that has the notebook's name."""

from __future__ import annotations

import ast
import contextlib
import gc
import html
import json
import os
import runpy
import shutil
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import psutil

from helpers import audit
from helpers.cutover import CutoverState
from helpers.errors import RUNBOOK, EnvironmentFailure, NoGo, RunbookError, UsageError, one_line
from helpers.evidence import enter
from helpers.formatting import duration, flatten
from helpers.migration.checkpoint import Checkpoint
from helpers.parameters import SECTIONS, Parameters, is_sample, parameters_from
from helpers.parameters.model import nearest
from helpers.reason_codes import ReasonCode
from helpers.results import StateFile, Verdict, passed, utc_now, worst
from helpers.run import folders as runs
from helpers.run import kernel, plan, window
from helpers.run.advice import advice, advice_lines
from helpers.run.command import reduce_environment
from helpers.run.folders import RunFolder, RunLock, RunPath, RunState
from helpers.run.plan import Step
from helpers.run.record import PEAK_MEMORY, RunRecord, step_missing
from helpers.runner import notices
from helpers.status import refuse_rolled_back, rolled_back

# -- find a run --------------------------------------------------------------------------------------------------------

# Which run a notebook works on: the one that is named, the newest of the same source, target and schema, or a new one.


SOURCE_ONLY = (Step.SOURCE_HEALTH, Step.EXPLORE_SOURCE)  # the steps that need no target


def find_run(row: plan.Step, sections: Mapping[str, Any], run_id: str, dry_run: bool) -> RunState:
    """The run of this id; without an id the newest with the same source, target and schema; else a new one.

    Sections given for a run that exists change it, unless its source, target or schema would change: a UsageError.
    Step 10, the first, begins a new one also where that was rolled back; for another new one an id is given.
    """
    if run_id:
        runs.check_run_id(run_id)
    if run_id and (not sections or RunFolder.of(run_id).exists):
        run = _apply_sections(runs.find(run_id), sections)
        enter(run)
        return run
    completed = sections
    if row.number in SOURCE_ONLY and sections.get("source") and not sections.get("target"):
        completed = {**sections, "target": {"path": plan.NO_TARGET}}
    parameters = parameters_from(completed)
    if (
        not run_id
        and (newest := _newest(parameters)) is not None
        and (row is not plan.LINE[0] or not rolled_back(newest))
    ):
        return _apply_sections(newest, sections)
    from helpers.migration.target_lock import preflight
    from helpers.rehearsal.setup import require_built

    require_built(parameters)
    if row.needs:
        raise step_missing(row, plan.find(row.needs[0]), run_id)
    preflight(parameters)
    return runs.create(parameters, run_id, dry_run=dry_run and row.on_line)


def require_target(row: plan.Step, folder: RunState) -> None:
    """Raises UsageError where the step needs a target and the run was started without one, to examine its source."""
    if folder.parameters.target.path == plan.NO_TARGET and row.number not in SOURCE_ONLY:
        raise UsageError(
            ReasonCode.NO_TARGET, f"run {folder.id} was begun without a target, to look at its source",
            next_step="Name a target in the parameters and begin a new run.",
        )  # fmt: skip


def _apply_sections(run: RunState, sections: Mapping[str, Any]) -> RunState:
    """Merge the sections into the run's parameters; the run. Keys that a section leaves out keep the run's values."""
    if not sections or kernel.under_runner():
        return run
    document = run.parameters.document()
    if run.facts["rehearsal"]:  # what is expected of its source was fitted to it when it was built
        sections = {name: value for name, value in sections.items() if name != "expected"}
    for name, value in sections.items():
        current = document.get(name)
        if isinstance(current, dict) and isinstance(value, dict):
            moved = name in ("source", "target") and any(
                (current.get(key) or None) != (value.get(key) or None) for key in ("url", "path", "cloud")
            )
            value = value if moved else current | value
        document[name] = value
    runs.change_parameters(run, parameters_from(document))
    return run.read()


def _newest(parameters: Parameters) -> RunState | None:
    """The newest run of this folder with the same source, target and schema; None where there is none."""
    for run in runs.every_run():
        if run.is_of(parameters) and (run.workspace / audit.FIRST_LINE).is_file():  # else it was received
            enter(run)
            return run
    return None


# -- display -----------------------------------------------------------------------------------------------------------

# What a notebook shows at its beginning and its end: the run, its parameters, how the step came out.


def opening_html(run: RunRecord, banner: str) -> str:
    rows = [("run", run.id), ("step", f"{run.step} {run.result.title}"), *_shown_parameters(run.parameters)]
    mark = f"<p><strong>{html.escape(banner)}</strong></p>" if banner else ""
    if run.rehearsal and not banner:
        mark = "<p><strong>REHEARSAL</strong></p>"
    if run.dry_run:
        mark += "<p><strong>DRY RUN: the target is not touched.</strong></p>"
    return mark + _table(("parameter", "value"), rows)


def _shown_parameters(parameters: Parameters) -> list[tuple[str, str]]:
    """The parameters that identify this run, and those that differ from their defaults."""
    document = parameters.document()
    minimal = {"name": document["name"], "source": document["source"], "target": document["target"]}
    default = flatten(parameters_from(minimal).document())
    always = ("name", "source.", "target.", "schema")
    shown = {k: v for k, v in flatten(document).items() if v != default.get(k) or k.startswith(always)}
    return [(k, "" if v is None else str(v)) for k, v in shown.items() if v not in (None, {}, [], "")]


def closing_html(run: RunRecord, digest: str) -> str:
    result = run.result
    counts = {v: sum(c.verdict is v for c in result.checks) for v in Verdict}
    summary = ", ".join(f"{n} {v}" for v, n in counts.items() if n) or "no checks"
    verdict = f"<strong>{html.escape(result.title)}: {result.verdict.upper()}</strong>"
    head = f"<p>{verdict} ({summary}; {duration(result.seconds)})</p>"
    order = sorted(result.checks, key=lambda c: -list(Verdict).index(c.verdict))
    first, rest = order[:20], f"<p>{len(order) - 20} more in the file.</p>" if len(order) > 20 else ""
    rows = [(c.verdict, c.name, one_line(c.measured_text, 120), one_line(c.expected, 120), c.detail) for c in first]
    table = _table(("verdict", "check", "measured", "expected", "detail"), rows) if rows else ""
    remedies = "".join(f"<p><code>{html.escape(line)}</code></p>" for line in _advice(run))
    foot = remedies + f"<p>results/{run.step}.json, SHA-256 <code>{digest}</code></p>"
    return head + table + rest + foot


def _advice(run: RunRecord) -> list[str]:
    """The commands that open the remedies of failed, marginal and warning checks; none in the troubleshooting notebooks."""
    if plan.find(run.step).troubleshoots:
        return []
    codes = [c.reason for c in run.result.checks if c.verdict in (Verdict.FAIL, Verdict.MARGINAL, Verdict.WARNING)]
    return advice_lines(codes, run, 3)


def _table(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A table in plain HTML with every cell escaped: names and values may be foreign text."""
    head = "".join(f"<th style='text-align:left'>{html.escape(c)}</th>" for c in columns)
    body = "".join(
        "<tr>" + "".join(f"<td style='text-align:left'>{html.escape(one_line(str(c)))}</td>" for c in row) + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


# -- notebook ----------------------------------------------------------------------------------------------------------


NOT_SECTIONS = ("run_id", "dry_run")
_NO_SOURCE = (
    "SAMPLE: no source was given, so this is a small database that the toolkit made for itself. "
    "For your own: papermill … -f PARAMETERS.yaml, or fill in the cell above."
)


def begin(namespace: dict[str, Any], step: str) -> Any:
    """The step of this notebook: the class of `helpers/steps/<name>.py`, ready to work.

    `namespace` is the notebook's globals(): its parameters, and what papermill injected. Reads the sections, `run_id` and
    `dry_run`; refuses any other name; finds the run, or begins one; takes its lock.
    UsageError where a parameter is wrong, EnvironmentFailure where the source or target cannot be used.
    """
    row = plan.find(step)
    kernel.go_home()
    kernel.end_with_runner()
    kernel.show_errors_in_one_line()
    kernel.show_tables_as_text(kernel.shell())
    if isinstance(previous := getattr(namespace.get("step"), "run", None), Run):
        previous.close()
    sections, run_id, dry_run = _read_parameters(namespace)
    step_type = step_class(row)
    kernel.show_whole_sentences()
    if row.number == Step.INDEX:
        return step_type(run_id, None if is_sample(sections) else parameters_from(sections))
    banner = ""
    if is_sample(sections) and not run_id:
        from helpers.rehearsal.setup import sample_run

        folder, banner = sample_run(row, sections), _NO_SOURCE
    else:
        folder = find_run(row, sections, run_id, dry_run)
        require_target(row, folder)
    if kernel.shell() is not None:
        reduce_environment(folder.parameters.environment())
    run = Run(folder, row.number, dry_run=dry_run)
    run.open(banner)
    return step_type(run)


def step_class(row: plan.Step) -> Any:
    """The class that the notebook of this step works with, in the module of the notebook's name."""
    return getattr(import_module(f"helpers.steps.{row.module}"), row.class_name)


def be_template() -> None:
    """The main function of a `kernel.KernelTemplate`: import what the steps need, then fork a kernel for each order on stdin."""
    kernel.die_with(int(os.environ[kernel.RUNNER_PID]))
    # What IPython reads when it is imported: whose child a kernel is, and what it sets before matplotlib is imported.
    os.environ["JPY_PARENT_PID"] = str(template := os.getpid())
    os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    for name in ("ipykernel.ipkernel", "ipykernel.kernelapp", *(f"helpers.steps.{row.module}" for row in plan.LINE)):
        import_module(name)
    import_module("helpers.plots").drawn  # noqa: B018
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # a kernel that has ended leaves nothing
    gc.freeze()
    if _fork() == 0:
        os._exit(0)
    # OpenBLAS ends its threads before a fork. What still runs may hold a lock that nobody would give back in a kernel.
    if psutil.Process().num_threads() > 1:
        return
    while (order := sys.stdin.buffer.readline()).endswith(b"\n"):  # else the runner has ended
        if _fork() == 0:
            kernel.die_with(template)
            kernel.forked_by = template
            _become_kernel(*json.loads(order))
            return


def _fork() -> int:
    with warnings.catch_warnings():  # of Python 3.12, of the threads that OpenBLAS has ended: there are no others
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _become_kernel(arguments: list[str], environment: dict[str, str], folder: str, printed: str) -> None:
    import numpy as np

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    os.write(1, b"%d\n" % os.getpid())
    os.environ.clear()
    os.environ.update({**environment, "JPY_PARENT_PID": str(kernel.forked_by)})
    os.chdir(folder)
    np.random.seed()  # noqa: NPY002  # Python's own generator has a new seed after a fork
    with Path(printed).open("ab") as out, Path(os.devnull).open("rb") as nothing:
        for file, standard in ((nothing, 0), (out, 1), (out, 2)):
            os.dup2(file.fileno(), standard)
    sys.argv[1:] = arguments
    runpy.run_module(kernel.LAUNCHER, run_name="__main__", alter_sys=True)


class Run(RunRecord):
    """A step at work in a notebook: it takes the locks of its run, watches the cells, and ends in `finish`."""

    _locks: tuple[RunLock, ...] = ()
    _watch: kernel.CellWatch | None = None
    _finished = False

    def open(self, banner: str = "") -> None:
        """Take the run's lock, set aside earlier results of this step, watch the cells, show the parameters.

        A step of Section 4 that changes nothing (dry run) may read a run while another process works on it.
        Raises `EnvironmentFailure` outside the maintenance window, `UsageError` where a retry is unfinished.
        """
        permission = self._may_start()
        if kernel.under_runner():
            self._locks = (RunLock(self.home, "step").acquire(),)
            self.fact("execution", os.environ.get(kernel.EXECUTION, ""))
            self.fact("launched", os.environ.get(kernel.LAUNCHED, ""))
        else:
            self._locks = self._acquire_locks()
            if not self.watches_only:
                self.home.stop_file.unlink(missing_ok=True)
            runs.supersede(self.home, plan.outdated_by(plan.find(self.step)))
        self._watch = kernel.CellWatch(self._cell_failed)
        self._watch.start()
        self.log(f"step begins in process {os.getpid()}")
        audit.append(self.folder / audit.NAME, audit.STEP_BEGINS, step=self.step, dry_run=self.dry_run)
        if permission:
            self.check("start in the maintenance window", Verdict.WARNING, measured="outside", threshold="inside",
                       reason=ReasonCode.OUTSIDE_WINDOW, detail=permission)  # fmt: skip
        kernel.show(opening_html(self, banner))
        if not kernel.under_runner():  # else the runner tells
            notices.before_step(self.home, plan.find(self.step), print, dry_run=self.dry_run)

    def _acquire_locks(self) -> tuple[RunLock, ...]:
        only_reads = plan.find(self.step).troubleshoots and self.dry_run
        try:
            return RunLock(self.home, "runner").acquire(1), RunLock(self.home, "step").acquire(1)
        except EnvironmentFailure:
            if not only_reads:
                raise
            self.watches_only = True
            return (RunLock(self.home, f"look-{self.step}").acquire(1),)

    @contextlib.contextmanager
    def unlocked(self) -> Iterator[None]:
        """Release the run's locks inside the context, so that a child process can work on it."""
        for lock in self._locks:
            lock.release()
        try:
            yield
        finally:
            for lock in self._locks:
                lock.acquire()

    def _may_start(self) -> str:
        """ "" where the step may start; where the operator permitted it outside the window, that permission and the reason."""
        row = plan.find(self.step)
        if not row.on_line:
            return ""
        refuse_rolled_back(self.home)
        if pending := pending_retry(self.home):
            raise UsageError(
                ReasonCode.RETRY_UNFINISHED, f"taking back step {pending} of run {self.id} was interrupted",
                next_step=f"Finish it: {RUNBOOK} resume {self.id}",
            )  # fmt: skip
        if row.number == Step.SNAPSHOT and (self.workspace / RunPath.CHECKPOINT).exists():
            # before anything is set aside: step 22 would refuse the new one, and 23 to 25 would have lost their results
            raise UsageError(
                ReasonCode.ALREADY_MIGRATING, f"run {self.id} has begun to migrate from the snapshot that it has",
                next_step=f"To write everything again from a new snapshot: {RUNBOOK} resume {self.id} --retry {row.number}",
            )  # fmt: skip
        if self.dry_run or not (reason := window.outside(row, self.parameters)):
            return ""
        if (error := window.refusal(self.home, row)) is not None:
            raise error
        return f"{window.permission(self.home)}: {reason}"

    def close(self) -> None:
        """Release the run, so that another process can work on it."""
        self.leaving.close()
        if self._watch is not None:
            self._watch.stop()
        for lock in self._locks:
            lock.release()

    def finish(self) -> None:
        """Write results/<step>.json, show how the step came out, and fail the notebook where the step failed."""
        if self.result.error is not None:
            raise UsageError(
                ReasonCode.STEP_BROKEN,
                "an earlier cell of this step failed",
                next_step="Run the notebook again from its first cell.",
            )
        self.judge_figures()
        self.result.verdict = worst(check.verdict for check in self.result.checks)
        error = _verdict_error(self) if self.result.verdict is Verdict.FAIL else None
        if error is not None:
            self.result.error = kernel.failure(error)
        digest = self._write()
        kernel.show(closing_html(self, digest))
        self._finished = True
        if not kernel.under_runner():
            notices.after_step(self.home, plan.find(self.step), error, print, dry_run=self.dry_run)
            if not self.dry_run:
                notices.pipeline_ended(self.home, [plan.find(self.step)], error, print)
        self.close()
        if error is not None:
            raise error

    def _write(self) -> str:
        self.fact(PEAK_MEMORY, kernel.peak_memory())
        digest = self.write_result()
        self.log(f"step ends: {self.result.verdict}")
        outcome = self.result.error["code"] if self.result.error else str(self.result.verdict)
        facts = {"step": self.step, "result": digest, "digests": self.files}
        audit.append(self.folder / audit.NAME, audit.STEP_ENDS, outcome=outcome, **facts)
        return digest

    def _cell_failed(self, error: BaseException) -> None:
        if self._finished or self.result.error is not None:
            return
        self.result.error = kernel.failure(error)
        self.result.verdict = Verdict.FAIL
        self.home.log_block(f"a cell failed: {self.result.error['line']}", kernel.trace_of(error), self.step)
        if remedy := advice(self.result.error["code"], self):
            self.log(remedy)
        self._write()
        self.close()


_OF_A_PARAMETER = (str, dict, bool, int, float, list, tuple, type(None))


def _read_parameters(namespace: Mapping[str, Any]) -> tuple[dict[str, Any], str, bool]:
    """The sections with something in them, run_id and dry_run. UsageError for a name that is none of them.

    The parameters cell declares few sections; every other one may be written into it or injected by papermill.
    """
    names = (*SECTIONS, *NOT_SECTIONS)
    given: dict[str, Any] = {}
    for name in _parameter_names(namespace):
        if name not in names:
            suggestion = nearest(name, names)
            hint = f"Did you mean {suggestion!r}?" if suggestion else f"The sections are {', '.join(SECTIONS)}."
            raise UsageError(
                ReasonCode.UNKNOWN_PARAMETER, f"{name!r} is not a section of the parameters", next_step=hint
            )
        given[name] = value = namespace.get(name)
        if not isinstance(value, _OF_A_PARAMETER):
            kind = type(value).__name__
            hint = "Run the notebook again from its first cell, and use another name for your own variable."
            raise UsageError(ReasonCode.PARAMETERS_INVALID, f"{name!r} is a {kind}, not a parameter", next_step=hint)
    sections = {name: given[name] for name in SECTIONS if given.get(name)}
    return sections, str(given.get("run_id") or ""), bool(given.get("dry_run"))


def _parameter_names(namespace: Mapping[str, Any]) -> list[str]:
    """The names that the parameters cell, and papermill's cell after it, assign (from the notebook's history of cells).

    Not simply every global: a notebook that has run already holds results too. Of cells that ran since, known names
    count. Outside a notebook every name counts whose value a parameter could have: modules, functions and
    tables are none.
    """
    history = namespace.get("In")
    if not isinstance(history, list):
        values = {name: value for name, value in namespace.items() if not name.startswith("_") and name != "step"}
        return [name for name, value in values.items() if isinstance(value, _OF_A_PARAMETER)]
    declared: list[str] = []
    for source in history:
        names = _assigned(source)
        if source.startswith("# Parameters"):
            declared += names
        elif {"source", "run_id"} <= set(names):
            declared = names
        else:
            declared += [name for name in names if name in (*SECTIONS, *NOT_SECTIONS)]
    return declared


def _assigned(source: str) -> list[str]:
    """The names that a cell binds; not those whose items it changes."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):  # a cell with magics
        return []
    statements = [node for node in tree.body if isinstance(node, ast.Assign | ast.AnnAssign)]
    targets = [target for s in statements for target in (s.targets if isinstance(s, ast.Assign) else [s.target])]
    return [n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]


def _verdict_error(run: Run) -> RunbookError:
    """The error of a failed step: NO-GO where it judged the data, else a plain failure."""
    failed = [check for check in run.result.checks if check.verdict is Verdict.FAIL]
    names = "; ".join(f"{c.name} ({c.detail or c.measured})" if c.detail or c.measured else c.name for c in failed[:3])
    more = f"; {len(failed) - 3} more" if len(failed) > 3 else ""
    row = plan.find(run.step)
    page = f"{row.stem}.html" if kernel.under_runner() else f"results/{row.number}.json"
    where = f"See {run.folder / page}."
    if row.follows_cutover:
        where += f" Clients still use the target; to roll back: {run.home.command('rollback', '--dry-run')}"
    if row.judges:
        return NoGo(ReasonCode.NO_GO, f"NO-GO: {one_line(names)}{more}", next_step=where)
    return EnvironmentFailure(ReasonCode.STEP_FAILED, f"failed: {one_line(names)}{more}", next_step=where)


# -- retry -------------------------------------------------------------------------------------------------------------
#
# `runbook resume RUN_ID --retry STEP`: undo what this run made from that step on, then run it again.
#
# Removed are the collections that the run made in the target, its checkpoint, its staging and its quarantine. Results,
# figures and executed notebooks that rest on them are history: they are set aside, never deleted. Sign-offs stay where they
# are; what they were given over has changed, which makes them void. Snapshots stay (`runbook snapshots prune`), and so does
# the write fence: clients are not let in between two attempts.
#
# `retry.json` is on disk before anything is touched and goes last, so a retry that was killed is finished before the run goes
# on, whichever command comes next.


# Files of step 22 beside its checkpoint.
_MIGRATION_FILES = (RunPath.STAGED, RunPath.QUARANTINE, RunPath.CATCH_UP, RunPath.BATCHES, RunPath.CHECKPOINT_CHANGES)


@dataclass(slots=True)
class Retry(StateFile):
    """An unfinished retry from this step on. Its file exists until the retry has ended."""

    file = RunPath.RETRY
    damaged = ReasonCode.RETRY_STATE_DAMAGED
    remedy = f"Remove this file and repeat: {RUNBOOK} resume ID --retry STEP"

    step: str
    begun: str


def pending_retry(folder: RunFolder) -> str:
    """The step of an unfinished retry; "" where there is none."""
    retry = Retry.load(folder.workspace)
    return retry.step if retry is not None else ""


def require_retriable(folder: RunState, step: plan.Step, changed: Parameters | None = None) -> None:
    """Raises `UsageError` where the step of this run cannot be undone, or undoing it would cause an outage.

    `changed` are the new parameters of the same command: their window applies.
    """
    if not step.on_line:
        _refuse(folder, step, "is on demand, not part of the standard sequence", f"Open notebooks/{step.notebook}.")
    cutover = CutoverState.load(folder.workspace)
    switched = passed(folder.result(Step.CUTOVER)) or (cutover is not None and cutover.may_be_applied)
    if switched and not step.follows_cutover:  # those look, and can look again
        next_step = f"Roll back first: {folder.command('rollback')}"
        _refuse(folder, step, "cannot be undone: the application was pointed to the target", next_step)
    if not _has_begun(folder, step):
        _refuse(folder, step, "has not been run", f"Go on with: {folder.command('resume')}")
    undoes = step.number <= Step.MIGRATE and _has_begun(folder, Step.MIGRATE)
    if undoes and (error := window.refusal(folder, Step.MIGRATE, changed=changed)) is not None:
        raise error


def _refuse(folder: RunFolder, step: plan.Step, why: str, next_step: str) -> None:
    raise UsageError(
        ReasonCode.NO_RETRY, f"step {step.number} ({step.title}) {why}", where=f"run {folder.id}", next_step=next_step
    )


def _has_begun(folder: RunState, step: plan.Step) -> bool:
    ledger = step.number == Step.MIGRATE and (folder.workspace / RunPath.CHECKPOINT).exists()
    return ledger or folder.result(step.number) is not None


def undo_from(folder: RunState, step: plan.Step, say: Callable[[str], None]) -> None:
    """Undo what the run did from `step` on. The caller holds the run's lock. It can be repeated after a kill."""
    with RunLock(folder, "step").acquire(1):
        pending = pending_retry(folder)
        first = plan.find(min(pending or step.number, step.number))
        # A pending retry from step 22 or before checked this before it removed anything.
        if first.number <= Step.MIGRATE < (pending or "99"):
            from helpers.rollback.return_writes import leave_undone_cutover

            leave_undone_cutover(folder)
        Retry(first, utc_now()).save(folder.workspace)
        audit.append(folder.reports / audit.NAME, "retry", outcome="begun", step=first.number)
        folder.log(f"retry: taking back from step {first.number} on")
        runs.supersede(folder, [s for s in Step if s >= first])
        removed = _empty_target(folder) if first.number <= Step.MIGRATE else {}
        (folder.workspace / RunPath.RETRY).unlink()
        audit.append(folder.reports / audit.NAME, "retry", step=first.number, removed=removed)
    chunks = ", ".join(f"{name} ({count:,} chunks)" for name, count in removed.items())
    say(f"Undone from step {first.number} on; earlier results are kept in {folder.reports / RunPath.EARLIER}.")
    if removed:
        say(f"Removed from the target what this run had made there: {chunks}.")


def _empty_target(folder: RunState) -> dict[str, int]:
    """Remove the collections that this run made, then its checkpoint; removed chunks by collection. The target stays locked."""
    ledger = folder.workspace / RunPath.CHECKPOINT
    removed, target = dict[str, int](), folder.parameters.target
    checkpoint = Checkpoint.read(ledger) if ledger.exists() else Checkpoint(ledger, {})
    from helpers.migration import shipping
    from helpers.stores import open_target, quick_names

    if (owned := set(checkpoint.owned())) and owned & set(quick_names(target, "target")):
        with open_target(target) as store:
            store.acquire_lock(folder.id)
            if replaced := checkpoint.replaced(store.identities()):
                folder.log(f"retry: made anew by somebody since the run began, left alone: {', '.join(replaced)}")
            for name in sorted(owned & set(store.names()) - set(replaced)):
                removed[name] = store.count(name)
                store.drop(name)
                folder.log(f"retry: removed {name} from the target, {removed[name]} chunks")
    shipping.clear(folder.workspace, target)
    if ledger.exists():
        earlier = folder.workspace / RunPath.EARLIER / utc_now().replace(":", "").removesuffix("+0000")
        earlier.mkdir(parents=True)
        for name in _MIGRATION_FILES[1:]:
            if (folder.workspace / name).exists():
                (folder.workspace / name).rename(earlier / name)
        shutil.rmtree(folder.workspace / _MIGRATION_FILES[0], ignore_errors=True)
        ledger.rename(earlier / ledger.name)
    return removed

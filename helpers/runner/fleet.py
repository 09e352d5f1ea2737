"""A fleet: many migrations at once, each an ordinary run of its own in a process of its own.

`reports/fleets/<name>/` holds `fleet.json` (which runs, how each process ended, the seals that they left), the parameters of
each row under `rows/`, the output of the processes, and one page. The state of a run is read from the files of that run.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any

from helpers.errors import RUNBOOK, RunbookError, Terminal, UsageError, one_line
from helpers.evidence.seals import LAST, bound_by
from helpers.formatting import count
from helpers.parameters import load_parameters
from helpers.reason_codes import ReasonCode
from helpers.results import StateFile, StepResult, append, contents, file_digest, json_text, utc_now, whole, write_text
from helpers.rollback import at_work
from helpers.run import folders as runs
from helpers.run import plan
from helpers.run.command import python_environment, stop_requests
from helpers.run.folders import RunFolder, RunLock, RunPath, RunState
from helpers.run.kernel import FLEET_PID
from helpers.runner.fleet_table import FleetTable, run_id
from helpers.runner.group import WORST, order_changed, record_order, recorded_orders
from helpers.status import RunStatus, run_status, table

ROWS, OUTPUT, LOCK, CHANGE = "rows", "output", "runner", "change"
_VERSION = 1
_PATIENCE = 90.0  # seconds for the process of a killed fleet to finish its batch and end
_AT_WORK = "at work"
_CODES = {"done": 0, "waiting": 4, "NO-GO": 3, "rolled back": 3, "interrupted": 130}
_FAILED = 1


def _row_name(name: str) -> str:
    """The name, if it can be part of a run's id and of a path. Raises ValueError where it cannot."""
    try:
        return runs.check_run_id(name)
    except UsageError:
        raise ValueError(f"a row is named {one_line(name, 80)}, which cannot be part of a run's id") from None


@dataclass(slots=True)
class FleetRow:
    """A row: its run, the SHA-256 of its parameters, how its last process ended with its last line, the digests of the run's
    seals, and the shard of the source that it reads, "" for all of it."""

    name: str
    run: str
    sha256: str
    begun: str = ""
    ended: str = ""
    code: int | None = None
    line: str = ""
    seals: list[str] = field(default_factory=list)
    shard: str = ""

    @property
    def ordered(self) -> tuple[str, ...]:
        """The fields that were ordered, without those of the execution."""
        return self.name, self.run, self.sha256, *([self.shard] if self.shard else [])  # an older toolkit has no shard


@dataclass(slots=True)
class Fleet(StateFile):
    """The rows of one order, and the step after which each stops. Relative paths of the parameters start at `directory`."""

    file = "fleet.json"
    damaged = ReasonCode.RUN_DAMAGED
    remedy = f"Put it back from a backup. Each run goes on by itself, too: {RUNBOOK} resume RUN_ID."

    id: str
    created: str
    directory: str
    table: str
    table_sha256: str
    until: str
    dry_run: bool
    outside_window: str
    rows: list[FleetRow]
    version: int = _VERSION

    @classmethod
    def content(cls, path: Path) -> dict[str, Any]:
        data = super(Fleet, cls).content(path)
        if data.get("version", _VERSION) > _VERSION:
            raise ValueError(f"a newer toolkit wrote it (version {data['version']})")
        for row in data["rows"]:
            if row["run"] != run_id(data["id"], _row_name(row["name"])):
                raise ValueError(f"row {row['name']} names the run of another")
        return data

    def digest(self) -> str:
        """SHA-256 of the order, without the state of its execution."""
        ordered = [self.id, self.created, self.directory, self.table_sha256, self.until, self.dry_run, self.outside_window,
                   [row.ordered for row in self.rows]]  # fmt: skip
        return hashlib.sha256(json_text(ordered).encode()).hexdigest()

    @property
    def order(self) -> str:
        """The name of this order in run.json of each of its runs, which is sealed."""
        return f"{runs.FLEETS}/{self.id}"

    @property
    def last(self) -> plan.Step:
        return plan.find(self.until)

    def command(self, name: str, *options: str) -> str:
        """The command line `runbook fleet NAME` for this fleet, quoted for a shell."""
        usual = runs.reports_root() == runs.REPOSITORY / "reports"
        elsewhere = [] if usual else ["--reports", str(runs.reports_root())]
        return shlex.join([RUNBOOK, "fleet", name, self.id, *options, *elsewhere])


def folder_of(fleet: str) -> RunFolder:
    """The folders of the fleet: reports for its state and page, workspace for its locks."""
    runs.check_run_id(fleet)
    return RunFolder(fleet, runs.reports_root() / runs.FLEETS / fleet, runs.workspace_root() / runs.FLEETS / fleet)


def read(fleet: str) -> Fleet:
    """The fleet of this name. Raises UsageError where there is none, Terminal where its file is of another fleet."""
    state = Fleet.load(folder_of(fleet).reports)
    if state is None:
        names = sorted(path.parent.name for path in (runs.reports_root() / runs.FLEETS).glob(f"*/{Fleet.file}"))
        raise UsageError(
            ReasonCode.NO_SUCH_RUN, f"there is no fleet {fleet}", where=str(runs.reports_root() / runs.FLEETS),
            next_step=f"There are: {', '.join(names[:5])}." if names else "No fleet has been started there yet.",
        )  # fmt: skip
    if state.id != fleet:
        raise Terminal(Fleet.damaged, "it is of another fleet than its folder is named after", next_step=Fleet.remedy,
                       where=str(folder_of(fleet).reports / Fleet.file))  # fmt: skip
    return state


def name_taken(fleet: str) -> UsageError:
    """The error for a name that another fleet already has."""
    return UsageError(ReasonCode.RUN_EXISTS, f"fleet {fleet} exists already", where=str(folder_of(fleet).reports),
                      next_step=f"Go on with it: {RUNBOOK} fleet resume {fleet}; or name another: --name.")  # fmt: skip


def begin(fleet: str, checked: FleetTable, *, until: plan.Step, dry_run: bool, outside_window: str) -> Fleet:
    """A new fleet from a checked table. Its folder is created whole or not at all. Raises UsageError where the name is taken."""
    folder = folder_of(fleet)
    if folder.reports.exists():
        raise name_taken(fleet)
    rows: list[FleetRow] = []
    with whole(folder.reports) as partial:
        partial.chmod(runs.PRIVATE_FOLDER)
        for row in checked.rows:
            assert row.parameters is not None
            digest = write_text(partial / ROWS / f"{row.name}.yaml", runs.parameters_text(row.parameters))
            shard = row.parameters.collections.shard or ""
            rows.append(FleetRow(row.name, run_id(fleet, row.name), digest, shard=shard))
        state = Fleet(fleet, utc_now(), str(Path.cwd()), str(checked.path.absolute()), checked.sha256, until, dry_run,
                      outside_window, rows)  # fmt: skip
        record_order(folder, state.digest())  # before the folder is there
        state.save(partial)
    return state


def require_own(fleet: Fleet) -> Fleet:
    """The fleet, if its file is what was ordered; UsageError where somebody wrote another: it names what is executed."""
    folder = folder_of(fleet.id)
    if fleet.digest() not in (recorded_orders(folder) or ()):
        raise order_changed(folder, Fleet.file, "go on with each run by itself")
    return fleet


def missing_run(row: FleetRow) -> str:
    """One line where the run of a started row is missing; "" where it exists, or the row was never started.

    A row counts as started where fleet.json says so, or where this workspace has a folder for it. A row whose process ended
    before it created a run, without a seal, does not count.
    """
    run = RunFolder.of(row.run)
    if run.exists or not ((row.begun and row.code is None) or row.seals or run.workspace.is_dir()):
        return ""
    ended = f"; its process said: {row.line}" if row.line and not row.seals else ""
    message = f"it was begun, and {run.reports / RunPath.RUN} is not there: put it back from a backup{ended}"
    return one_line(message, 900)


def deviation(fleet: Fleet, row: FleetRow) -> str:
    """One line where this row's run differs from the order; "" where it matches, or does not exist.

    Parameters that a resume may change are not compared. Raises `RunbookError` where the run cannot be read.
    """
    run, file = RunFolder.of(row.run).read(), folder_of(fleet.id).reports / ROWS / f"{row.name}.yaml"
    if run.exists and run.facts["directory"] != fleet.directory:
        return one_line(f"run {run.id} was begun in {run.facts['directory']}, the fleet in {fleet.directory}")
    if not run.exists or hashlib.sha256(run.once(runs.raw, RunPath.PARAMETERS)).hexdigest() == row.sha256:
        return ""
    if file.is_symlink() or not file.is_file() or file_digest(file) != row.sha256:
        return f"run {run.id} cannot be compared with what was ordered: {file} is gone, or another"
    own, ordered = bound_by(run.parameters), bound_by(load_parameters(file))
    keys = ", ".join(sorted(key for key in {*own, *ordered} if own.get(key) != ordered.get(key)))
    return f"run {run.id} has other parameters than were ordered: {keys}" if keys else ""


def require_ordered(fleet: Fleet, row: FleetRow) -> None:
    """Raises UsageError where the run of this row differs from the order."""
    if difference := deviation(fleet, row):
        raise UsageError(ReasonCode.OTHER_CONTEXT, difference, where=f"fleet {fleet.id}, row {row.name}",
                         next_step=f"Find out who changed it. The run by itself: {RUNBOOK} status {row.run}")  # fmt: skip


def inconsistencies(fleet: Fleet) -> Iterator[str]:
    """One line for each inconsistency of the fleet with the order, the files of its rows, and the runs that name it."""
    folder = folder_of(fleet.id)
    file, recorded = folder.reports / Fleet.file, recorded_orders(folder)
    if recorded is not None and fleet.digest() not in recorded:
        yield f"{file}: not the order that was given: something else changed it"
    names, run_ids = {row.name for row in fleet.rows}, {row.run for row in fleet.rows}
    if len(names) < len(fleet.rows):
        yield f"{file}: two rows have one name"
    for row in fleet.rows:
        parameters_file = folder.reports / ROWS / f"{row.name}.yaml"
        if parameters_file.is_symlink() or not parameters_file.is_file() or file_digest(parameters_file) != row.sha256:
            yield f"{parameters_file}: gone, or not the parameters whose digest {Fleet.file} has"
        with suppress(RunbookError):  # a run that cannot be read is named with its row
            if difference := deviation(fleet, row):
                yield f"row {row.name}: {difference}"
    for parameters_file in sorted((folder.reports / ROWS).glob("*.yaml")):
        if parameters_file.stem not in names:
            yield f"{parameters_file}: {Fleet.file} has no row {parameters_file.stem}"
    for path in sorted(runs.reports_root().glob(f"*/{RunPath.RUN}")):
        with suppress(RunbookError):  # a run that cannot be read is named with its row
            run = RunFolder.of(path.parent.name).read()
            if (run.facts.get("group") == fleet.order) != (run.id in run_ids):
                yield f"{path}: " + (f"it does not name {fleet.order}" if run.id in run_ids
                                     else f"it names {fleet.order}, and {Fleet.file} has no row for it")  # fmt: skip


@contextmanager
def changing_order(fleet: str) -> Iterator[Fleet]:
    """As `changing`, where the order itself changes: the digests of both orders are recorded first."""
    with changing(fleet) as state:
        before = require_own(state).digest()
        yield state
        record_order(folder_of(fleet), before, state.digest())  # whichever of the two a kill leaves in the fleet's file
    record_order(folder_of(fleet), read(fleet).digest())


@contextmanager
def changing(fleet: str) -> Iterator[Fleet]:
    """The current fleet, to be changed, under a lock that one thread of one process holds. It is saved at the end."""
    folder = folder_of(fleet)
    with RunLock(folder, CHANGE).acquire(60):
        state = read(fleet)
        yield state
        _save(state)


def _save(fleet: Fleet) -> None:
    fleet.save(folder_of(fleet.id).reports)


def record_row(fleet: str, name: str, **facts: Any) -> None:
    """Set these fields of a row, and add the newest seal of its run to it."""
    with changing(fleet) as state:
        row = next(r for r in state.rows if r.name == name)
        for key, value in facts.items():
            setattr(row, key, value)
        with suppress(FileNotFoundError):
            newest = contents(RunFolder.of(row.run).workspace / LAST).decode("ascii").strip()
            row.seals += [newest] if newest and newest not in row.seals else []


# -- states of the rows ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RowState:
    """A row with its run: its state in `word`, whom or what it waits for, and its exit code."""

    row: FleetRow
    run: RunState
    status: RunStatus
    word: str
    waits: str
    code: int

    @property
    def step(self) -> str:
        return str(self.status.step or "")

    @property
    def settled(self) -> bool:
        """Whether a resume skips it: it is done, or a person has to act on this run first."""
        judged = self.word == "NO-GO" and self.row.code == _CODES["NO-GO"]
        return judged or self.word in ("done", "waiting", "rolled back", "damaged")

    @property
    def line(self) -> str:
        """Why it stopped, in one line; "" where it is done or at work."""
        if self.word in ("done", _AT_WORK):
            return ""
        error = (result.error if (result := self.result(self.step)) is not None else None) or {}
        return one_line(error.get("line", "") or self.row.line, 600)

    def result(self, number: str) -> StepResult | None:
        """The result of a step; None for none, or one that cannot be read."""
        with suppress(RunbookError):
            return self.run.result(number) if number else None
        return None

    def results(self) -> dict[str, StepResult]:
        return {step.number: result for step in plan.LINE if (result := self.result(step.number)) is not None}


def states(fleet: Fleet) -> list[RowState]:
    """The current state of every row."""
    return [_state(fleet, row) for row in fleet.rows]


def _state(fleet: Fleet, row: FleetRow) -> RowState:
    run = RunFolder.of(row.run).read()
    sealed = bool(row.seals) or (run.workspace / LAST).is_file()  # else a resume begins it anew
    problem = missing_run(row) if sealed else ""
    try:
        status = RunStatus("damaged") if problem else run_status(run, fleet.last)
    except RunbookError as error:
        problem = error.line()
    if problem:
        damaged_row = replace(row, line=problem)
        return RowState(damaged_row, run, RunStatus("damaged"), "damaged", "", _FAILED)
    word, waits = status.word, ""
    if at_work(run):
        word = _AT_WORK
    elif word == "waiting":
        waits = ", ".join(role.replace("_", " ") for role in status.missing) + f" ({status.gate})"
    elif word == "not begun" and row.code:
        word = "failed"
    elif word == "to do":
        word, waits = ("interrupted" if row.code == 130 else f"passed up to {_before(status)}"), f"step {status.step}"
    code = _CODES.get(word, row.code if row.code in WORST and row.code else _FAILED)
    return RowState(row, run, status, word, waits, code)


def _before(status: RunStatus) -> str:
    passed_steps = plan.LINE[: plan.LINE.index(status.step)] if status.step is not None else plan.LINE
    return str(passed_steps[-1]) if passed_steps else "nothing"


def overview(fleet: Fleet, row_states: Sequence[RowState]) -> str:
    """A row for each migration: row, shard if any has one, run, step, state, what it waits for; below why, and what is next."""
    shards = any(s.row.shard for s in row_states)
    rows = [
        {"row": s.row.name, **({"shard": s.row.shard} if shards else {}), "run": s.row.run, "step": s.step, "state": s.word,
         "waits for": s.waits} for s in row_states
    ]  # fmt: skip
    lines = [table(rows), "", summary(row_states)]
    lines += [f"{one_line(s.row.name)}: {s.line}" for s in row_states if s.line and s.word != "waiting"]
    lines += [f"Next: {command}" for command in next_commands(fleet, row_states)]
    return "\n".join([*lines, f"Open: {folder_of(fleet.id).reports / RunPath.PAGE}"])


def summary(row_states: Sequence[RowState]) -> str:
    """`60 rows: 55 done, 5 failed`."""
    words = [s.word for s in row_states]
    return f"{count(len(words), 'row')}: " + ", ".join(f"{words.count(w)} {w}" for w in sorted(set(words)))


def next_commands(fleet: Fleet, row_states: Sequence[RowState]) -> Iterator[str]:
    """The commands that continue the fleet."""
    if any(not s.settled and s.word != _AT_WORK for s in row_states):
        yield fleet.command("resume")
    for gate in dict.fromkeys(s.status.gate for s in row_states if s.word == "waiting"):
        signer = ("--role", "ROLE", "--name", "NAME", "--decision", "go", "--key", "FILE")
        yield fleet.command("sign", "--gate", gate, *signer)


def worst(row_states: Sequence[RowState]) -> int:
    """The exit code of the whole: that of its worst row."""
    return max((s.code for s in row_states), key=WORST.index, default=0)


# -- work --------------------------------------------------------------------------------------------------------------

Say = Callable[[str], None]


class _Work:
    """The processes of the rows. The first signal lets each finish its current batch, the second stops it at once."""

    def __init__(self, fleet: Fleet, say: Say) -> None:
        self.fleet, self.stopping = fleet, False
        self._say, self._lock = say, threading.Lock()
        self._processes: dict[str, subprocess.Popen[str]] = {}

    def start(self, row: FleetRow) -> None:
        """Run one row's process to its end, and record how it ended."""
        run = RunFolder.of(row.run)
        _wait_until_idle(run)
        code, line = _FAILED, ""
        try:
            process = self._start_process(row, run)
            if process is None:
                return
            try:
                _, printed = process.communicate()
            finally:
                _end(process)
            code, line = process.returncode, _error_line(printed, process.returncode)
        except RunbookError as error:
            code, line = error.exit_code, error.line()
        finally:
            self._processes.pop(row.name, None)
        code = code if code in WORST else _FAILED
        record_row(self.fleet.id, row.name, ended=utc_now(), code=code, line=line)

    def _start_process(self, row: FleetRow, run: RunFolder) -> subprocess.Popen[str] | None:
        arguments = _arguments(self.fleet, row, run)
        record_row(self.fleet.id, row.name, begun=utc_now(), ended="", code=None, line="")
        output = folder_of(self.fleet.id).reports / OUTPUT / f"{row.name}.log"
        output.parent.mkdir(exist_ok=True)
        append(output, f"{utc_now()} {one_line(shlex.join(arguments[1:]), 4000)}\n".encode(), log=True)
        environment = {FLEET_PID: str(os.getpid()), "RUNBOOK_REPORTS": str(runs.reports_root()),
                 "RUNBOOK_WORKSPACE": str(runs.workspace_root())}  # fmt: skip
        with self._lock, output.open("ab") as out:
            if self.stopping:
                return None
            process = subprocess.Popen(
                arguments, cwd=self.fleet.directory, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.PIPE, text=True,
                encoding="utf-8", errors="backslashreplace", start_new_session=True,
                env={**os.environ, **python_environment(), **environment},
            )  # fmt: skip
            self._processes[row.name] = process
            return process

    def request_stop(self, number: int, frame: FrameType | None) -> None:
        """Ctrl-C or SIGTERM: no further row starts, and each at work is asked as its own command is."""
        if not self.stopping:
            self.stopping = True
            self._say("Stopping each row after its current batch. Ctrl-C again stops at once.")
        for process in list(self._processes.values()):
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)

    @contextmanager
    def watching(self) -> Iterator[None]:
        try:
            with stop_requests(self.request_stop):
                yield
        finally:
            for process in list(self._processes.values()):
                _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    """Kill the process group of a row, so that no child process survives it."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _error_line(printed: str, code: int) -> str:
    """The error line of a failed command, from what it printed to standard error; "" where it succeeded."""
    lines = [line.removeprefix("runbook: ") for line in printed.splitlines() if line.startswith("runbook: ")]
    if code < 0:
        return f"its process was ended by signal {-code}; a resume goes on with it"
    if not code:
        return ""
    return one_line(lines[-1] if lines else (printed.splitlines() or ["it printed nothing"])[-1], 600)


def _wait_until_idle(run: RunFolder) -> None:
    """Wait until no process works on the run: one of a killed fleet still finishes its batch and holds the lock."""
    deadline = time.monotonic() + _PATIENCE
    while at_work(run) and time.monotonic() < deadline:
        time.sleep(0.3)


def _arguments(fleet: Fleet, row: FleetRow, run: RunFolder) -> list[str]:
    """The ordinary command that begins or continues this row's run."""
    permission = ["--outside-window", fleet.outside_window] if fleet.outside_window else []
    command = [sys.executable, "-m", "helpers"]
    if run.exists:
        require_ordered(fleet, row)
        return [*command, "resume", row.run, "--until", fleet.until, *permission]
    file = folder_of(fleet.id).reports / ROWS / f"{row.name}.yaml"
    if not file.is_file() or file_digest(file) != row.sha256:
        raise Terminal(ReasonCode.RUN_DAMAGED, "it is not what was checked when the fleet began", where=str(file),
                       next_step="Put it back, or begin a new fleet; nothing was started for this row.")  # fmt: skip
    dry = ["--dry-run"] if fleet.dry_run else []
    begin = ["run", str(file), "--run-id", row.run, "--fleet", fleet.id, "--until", fleet.until]
    return [*command, *begin, *dry, *permission]


def work(fleet: Fleet, parallel: int, say: Say) -> int:
    """Begin or go on with every row that is not done, `parallel` at a time; the exit code of the worst row.

    A failed row stops no other. Rows that are done, wait for signatures, are NO-GO or rolled back are not touched.
    """
    with RunLock(folder_of(require_own(fleet).id), LOCK).acquire(1):
        row_states = states(fleet)
        for s in row_states:
            if s.word == "done" and not s.row.ended:  # it ended after the fleet had been killed: nobody noted its seal
                record_row(fleet.id, s.row.name, ended=utc_now(), code=0, line="")
        open_rows = [s.row for s in row_states if not s.settled]
        say(f"Fleet {fleet.id}: {len(open_rows)} of {count(len(fleet.rows), 'row')} to go, {parallel} at a time")
        render(fleet)
        workers = _Work(fleet, say)
        with workers.watching(), ThreadPoolExecutor(parallel) as pool:
            pending: dict[Future[None], FleetRow] = {pool.submit(workers.start, row): row for row in open_rows}
            while pending:
                finished, _ = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
                for future in finished:
                    _report_row(read(fleet.id), pending.pop(future), future, say)
                if workers.stopping:
                    for future in [f for f in pending if f.cancel()]:
                        pending.pop(future)
        fleet = read(fleet.id)
        row_states = states(fleet)
        render(fleet)
        say("\n" + overview(fleet, row_states))
        return 130 if workers.stopping else worst(row_states)


def _report_row(fleet: Fleet, row: FleetRow, future: Future[None], say: Say) -> None:
    """Report how a row ended, on the terminal and on the page."""
    future.result()
    state = _state(fleet, next(r for r in fleet.rows if r.name == row.name))
    if state.row.ended:
        reason = one_line(f"waits for {state.waits}") if state.waits else state.line
        say(f"  {one_line(state.row.name):<24} {state.word:<12} {reason}".rstrip())
        render(fleet)


# -- page --------------------------------------------------------------------------------------------------------------

# A cell has a letter, a colour that those who see no red or green can tell apart, and its word for who hears the page.
_LETTERS: Mapping[str, tuple[str, str]] = {
    "pass": ("P", "pass"), "warning": ("W", "warning"), "marginal": ("M", "marginal"), "fail": ("F", "fail"),
    "failed": ("F", "fail"), "NO-GO": ("N", "fail"), "interrupted": ("I", "warning"), "not exercised": ("O", "skipped"),
    "not applicable": ("A", "open"), "dry run": ("D", "open"), "to do": ("–", "open"),
}  # fmt: skip
LEGEND = [
    ("P", "pass", "passed"), ("W", "warning", "passed with a warning"), ("M", "marginal", "passed, marginal"),
    ("O", "skipped", "not exercised"), ("A", "open", "not applicable"), ("F", "fail", "failed"), ("N", "fail", "NO-GO"),
    ("I", "warning", "interrupted"), ("–", "open", "not run"),
]  # fmt: skip
_OUTCOMES = {"done": "pass", "waiting": "warning", _AT_WORK: "open", "not begun": "open", "interrupted": "warning"}


def page(fleet: Fleet, row_states: Sequence[RowState]) -> str:
    """The page: how many rows are where, steps by runs, chunks of each row and in all, what waits for whom, what failed."""
    from helpers.report import numbers, pages
    from helpers.status import state

    steps = [step for step in plan.LINE if step.number <= fleet.last.number]
    rows, totals = [], {"source": 0, "migrated": 0, "quarantined": 0}
    for s in row_states:
        results = s.results()
        try:
            chunks = numbers.counts(results)
        except (KeyError, TypeError, ValueError):  # of a result of another version
            chunks = numbers.Counts()
        for key in totals:
            totals[key] += getattr(chunks, key) or 0
        cells = []
        for step in steps:
            word = state(results.get(step.number))
            letter, kind = _LETTERS.get(word, ("?", "open"))
            cells.append({"letter": letter, "kind": kind, "word": "not run" if word == "to do" else word})
        rows.append({"state": s, "cells": cells, "chunks": chunks, "kind": _outcome(s),
                     "counted": chunks.source is not None})  # fmt: skip
    words = [s.word for s in row_states]
    sums = [(word, words.count(word), kind) for word, kind in {s.word: _outcome(s) for s in row_states}.items()]
    return pages.rendered(
        "fleet.html.j2", fleet=fleet, steps=steps, rows=rows, totals=totals, sums=sums, legend=LEGEND,
        waiting=[s for s in row_states if s.waits], failed=[s for s in row_states if s.line and s.word != "waiting"],
        next=list(next_commands(fleet, row_states)), now=utc_now(), shards=any(s.row.shard for s in row_states),
        counted=sum(1 for r in rows if r["counted"]),
    )  # fmt: skip


def _outcome(row: RowState) -> str:
    return _OUTCOMES.get(row.word, "open" if row.word.startswith("passed") else "fail")


def render(fleet: Fleet) -> None:
    """Write the page. It is derived from the runs' files, and nothing fails because it cannot be written."""
    with suppress(OSError, RunbookError):
        write_text(folder_of(fleet.id).reports / RunPath.PAGE, page(fleet, states(fleet)))

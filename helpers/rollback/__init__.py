"""A rollback that loses nothing, causes no outage except the restart, and can itself be killed and repeated.

This module has what was ordered, what the rollback will do, its progress, and stopping the migration. It reads only the run's
files.
"""

from __future__ import annotations

import fcntl
import os
import re
import shlex
import signal
import socket
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from helpers import audit
from helpers.cutover import CutoverState, clients_came
from helpers.errors import EnvironmentFailure
from helpers.fence import FenceState
from helpers.formatting import count, duration
from helpers.migration.checkpoint import Checkpoint
from helpers.parameters.sections import Cutover
from helpers.reason_codes import ReasonCode
from helpers.results import StateFile, private, utc_now
from helpers.run import kernel
from helpers.run.command import who_has_open
from helpers.run.folders import RunFolder, RunPath, RunState

LOCKS = ("runner", "step")
_HOLDER = re.compile(r"process (\d+) on (.+)")
PATIENCE = 20.0  # seconds for the current batch, as after Ctrl-C; then its kernel is ended, then the process


def at_work(folder: RunFolder) -> dict[int, str]:
    """The processes that hold a lock of the run, with their hosts; {} where there are none."""
    holders: dict[int, str] = {}
    for name in LOCKS:
        path = folder.workspace / f"{name}.lock"
        try:
            file = open(path, "r+", encoding="utf-8", opener=private)  # noqa: SIM115  (a path's own takes no opener)
        except FileNotFoundError:
            continue
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                holder = _HOLDER.match(file.read(200))
                if holder:
                    holders[int(holder[1])] = holder[2]
    return holders


def others_at_work(folder: RunFolder) -> dict[int, str]:
    """`at_work` without this process and the runner that started it: what a rollback has to stop."""
    own = {os.getpid(), int(os.environ.get(kernel.RUNNER_PID) or 0)}
    return {pid: host for pid, host in at_work(folder).items() if pid not in own}


def stop(folder: RunFolder, patience: float = PATIENCE) -> list[int]:
    """Ask, then force, until no other process works on the run. Gives the processes that were stopped.

    Raises `EnvironmentFailure` where one works on another machine, or does not end.
    """
    stopped: list[int] = []
    begun, asked = time.monotonic(), 0
    while working := others_at_work(folder):
        _refuse_other_hosts(folder, working)
        waited = time.monotonic() - begun
        if asked == 0:
            folder.log(f"rollback stops process {', '.join(map(str, sorted(working)))}")
            folder.stop_file.touch()
        if waited >= asked * patience:
            if asked == 3:
                raise EnvironmentFailure(
                    ReasonCode.MIGRATION_RUNS, f"process {min(working)} of run {folder.id} does not end",
                    next_step="End it yourself, then repeat the rollback.",
                )  # fmt: skip
            for pid in sorted(working):  # the second SIGTERM ends a runner's kernel at once
                _signal(folder, pid, signal.SIGKILL if asked == 2 else signal.SIGTERM)
            asked += 1
        stopped += [pid for pid in working if pid not in stopped]
        time.sleep(0.1)
    if stopped:
        folder.stop_file.unlink(missing_ok=True)
    return stopped


def _refuse_other_hosts(folder: RunFolder, working: dict[int, str]) -> None:
    elsewhere = {pid: host for pid, host in working.items() if host != socket.gethostname()}
    if elsewhere:
        pid, host = min(elsewhere.items())
        raise EnvironmentFailure(
            ReasonCode.MIGRATION_RUNS, f"run {folder.id} is being worked on by process {pid} on {host}",
            next_step="Stop it there, then repeat the rollback.",
        )  # fmt: skip


def _signal(folder: RunFolder, pid: int, number: signal.Signals) -> None:
    """Send a signal to a process that has the lock file open now; a process id alone may belong to another one by now."""
    for name in LOCKS:
        users = who_has_open(folder.workspace / f"{name}.lock")
        if pid in users.processes:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
            return


def outline(folder: RunState) -> list[tuple[str, str]]:
    """(stage, what will be done), in order."""
    state = RollbackState.load(folder.workspace)
    orders = state.orders if state is not None else Orders()
    cutover, fence = CutoverState.load(folder.workspace), FenceState.load(folder.workspace)
    parameters = folder.parameters
    target_used = clients_came(folder.workspace)
    actions = {
        STOP: _stop(folder),
        SOURCE: _source(orders),
        WRITES: f"compare {parameters.target.label} with what this run put there; export what clients changed"
        if target_used else "nothing to do: no client was ever sent to the target",
        REPLAY: _replay(orders, parameters.rollback.replay) if target_used else "nothing to do",
        FILES: _files(cutover),
        SETTLE: "the same comparison again: only what came since the first one is replayed" if target_used else "nothing to do",
        LIFT: (fence.sentence() if fence else "") or "there is no fence to lift",
        TRY: _try(cutover.cutover if cutover is not None else parameters.cutover),
        REMOVE: _remove(folder),
        WATCH: f"for {duration(60 * parameters.rollback.monitor_minutes)}: health URLs, and queries of {parameters.source.label}",
    }  # fmt: skip
    return [(TITLES[stage], action) for stage, action in actions.items()]


def _stop(folder: RunFolder) -> str:
    others = others_at_work(folder)
    processes = ", ".join(f"process {pid} on {host}" for pid, host in sorted(others.items()))
    remark = "; the rollback's own are left out" * (len(at_work(folder)) > len(others))
    return (f"stop {processes}" if others else "no other process works on the run") + remark


def _source(orders: Orders) -> str:
    comparison = "every chunk of the source against the snapshot"
    if orders.restore:
        which = ", ".join(orders.collections) or "whatever is damaged"
        return f"{comparison}; ordered: write {which} back from the snapshot"
    if orders.accept_source:
        return f"{comparison}; damage is accepted: {orders.accept_source}"
    return f"{comparison}; where it is damaged, stop for a decision"


def _replay(orders: Orders, by_parameter: bool) -> str:
    if orders.replay or by_parameter:
        return "write it to the source, and compare every chunk"
    if orders.discard:
        return f"it stays exported and is not replayed: {orders.discard}"
    return "where there is anything, stop for a decision (--replay or --discard-with-reason)"


def _files(cutover: CutoverState | None) -> str:
    if cutover is None or not cutover.may_be_applied:
        return "no configuration file was changed"
    names = ", ".join(f.path for f in cutover.files) or "no file"
    rules = cutover.cutover
    restarts, health = count(len(rules.restart), "restart command"), count(len(rules.health), "health URL")
    return f"{names} byte for byte; then {restarts} and {health}"


def _try(rules: Cutover) -> str:
    return shlex.join(rules.write_probe) if rules.write_probe else "nothing to do: cutover.write_probe names no program"


def _remove(folder: RunState) -> str:
    ledger = folder.workspace / RunPath.CHECKPOINT
    owned = Checkpoint.read(ledger).owned() if ledger.is_file() else []
    target = folder.parameters.target.label
    return f"from {target}: {', '.join(owned)}" if owned else f"this run has made nothing in {target}"


# -- state -------------------------------------------------------------------------------------------------------------
#
# workspace/<run id>/rollback.json: what was ordered, and the progress. Written before each stage begins.


STOP, SOURCE, WRITES, REPLAY, FILES, SETTLE, LIFT, TRY, REMOVE, WATCH = (
    "stop", "source", "writes", "replay", "files", "settle", "lift", "try", "remove", "watch",
)  # fmt: skip
STAGES = (STOP, SOURCE, WRITES, REPLAY, FILES, SETTLE, LIFT, TRY, REMOVE, WATCH)
TITLES = {
    STOP: "Stop the migration",
    SOURCE: "Prove the source",
    WRITES: "Export what clients wrote to the target",
    REPLAY: "Replay it to the source",
    FILES: "Put configuration files back, restart, health",
    SETTLE: "Check the target for late writes",
    LIFT: "Lift the write fence",
    TRY: "Wait until a write of the application is taken",
    REMOVE: "Remove from the target what the run made",
    WATCH: "Watch the source",
}
BEGUN, DONE = "begun", "done"
KILL_DRILL = "drill-kill"  # in the workspace, while a step that a drill killed is not resumed yet
DRILL = "drill of the rehearsal"  # `Orders.why` of the rollback that a rehearsal measures


@dataclass(slots=True)
class Orders:
    """What the operator ordered. Everything is off by default: then a rollback stops where a person has to decide.

    `restore` allows writing the source from the snapshot where it is damaged, `collections` limits that to these;
    `accept_source` is the reason to accept a damaged source. `replay` writes to the source what clients wrote to the target;
    `replay_to` names the source collection for new chunks that nothing else assigns; `discard` is the reason to give the
    clients' writes up (they stay exported).
    """

    restore: bool = False
    collections: list[str] = field(default_factory=list)
    accept_source: str = ""
    replay: bool = False
    discard: str = ""
    why: str = ""
    replay_to: str = ""

    @property
    def any(self) -> bool:
        return any(asdict(self).values())


@dataclass(slots=True)
class RollbackState(StateFile):
    """One run's rollback. `stages` holds for each one that began: state (begun, done), when, seconds, said."""

    file = RunPath.ROLLBACK
    damaged = ReasonCode.ROLLBACK_STATE_DAMAGED
    remedy = "Set this file aside and repeat the rollback: every stage looks first what is there."

    run_id: str
    since: str = ""
    by: str = ""
    orders: Orders = field(default_factory=Orders)
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    finished: str = ""

    @classmethod
    def begin(cls, workspace: Path, run_id: str, orders: Orders) -> RollbackState:
        """The rollback to resume, or a new one, on disk. New orders replace earlier ones; without any, these stay."""
        state = cls.load(workspace) or cls(run_id, utc_now(), audit.operator())
        if orders.any:
            state.orders = orders
        state.save(workspace)
        return state

    def did(self, stage: str) -> bool:
        return bool(self.stages.get(stage, {}).get("state") == DONE)

    def began(self, stage: str) -> bool:
        return stage in self.stages

    @property
    def at(self) -> str:
        """The first stage that is not done; "" where all are."""
        return next((stage for stage in STAGES if not self.did(stage)), "")

    @property
    def removed(self) -> bool:
        """Whether the target holds nothing of the run any more: then only the watch remains."""
        return self.did(REMOVE)

    def sentence(self) -> str:
        """One sentence for status and pages."""
        if self.finished:
            return f"Rolled back, finished {self.finished[:19].replace('T', ' ')} UTC."
        stage = f"at: {TITLES[self.at]}" if self.at else "complete"
        return f"A rollback is under way since {self.since[:19].replace('T', ' ')} UTC, {stage}."

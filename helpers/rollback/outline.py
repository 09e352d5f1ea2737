"""What a rollback will do, said before it does anything: read from the run's own files, without asking source or target."""

from __future__ import annotations

from helpers.cutover import CutoverState
from helpers.cutover.state import APPLYING
from helpers.fence import FenceState
from helpers.migration.checkpoint import Checkpoint
from helpers.rollback.state import (
    FILES,
    LIFT,
    REMOVE,
    REPLAY,
    SETTLE,
    SOURCE,
    STOP,
    TITLES,
    WATCH,
    WRITES,
    Orders,
    RollbackState,
)  # fmt: skip
from helpers.rollback.stop import at_work
from helpers.run.folders import RunFolder
from helpers.words import duration


def clients_came(cutover: CutoverState | None) -> bool:
    """Whether clients may ever have used the target: a cutover began to change files, be it taken back since."""
    return cutover is not None and any(event["state"] == APPLYING for event in cutover.events)


def outline(folder: RunFolder) -> list[tuple[str, str]]:
    """(stage, what will be done), in order."""
    state = RollbackState.read(folder.workspace)
    orders = state.orders if state is not None else Orders()
    cutover, fence = CutoverState.read(folder.workspace), FenceState.read(folder.workspace)
    parameters = folder.parameters()
    used = clients_came(cutover)
    say = {
        STOP: _stop(folder),
        SOURCE: _source(orders),
        WRITES: f"compare {parameters.target.label} with what this run put there; export what clients changed"
        if used else "nothing to do: no client was ever sent to the target",
        REPLAY: _replay(orders, parameters.rollback.replay) if used else "nothing to do",
        FILES: _files(cutover),
        SETTLE: "the same comparison again, for what came in until the restart" if used else "nothing to do",
        LIFT: (fence.sentence() if fence else "") or "there is no fence to lift",
        REMOVE: _remove(folder),
        WATCH: f"for {duration(60 * parameters.rollback.monitor_minutes)}: health URLs, and queries of {parameters.source.label}",
    }  # fmt: skip
    return [(TITLES[stage], what) for stage, what in say.items()]


def _stop(folder: RunFolder) -> str:
    working = at_work(folder)
    if not working:
        return "no process works on the run"
    return "stop " + ", ".join(f"process {pid} on {host}" for pid, host in sorted(working.items()))


def _source(orders: Orders) -> str:
    said = "every chunk of the source against the snapshot"
    if orders.restore:
        which = ", ".join(orders.collections) or "whatever is damaged"
        return f"{said}; ordered: write {which} back from the snapshot"
    if orders.accept_source:
        return f"{said}; damage is accepted: {orders.accept_source}"
    return f"{said}; where it is damaged, stop for a decision"


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
    return f"{names} byte for byte; then {len(rules.restart)} restart commands and {len(rules.health)} health URLs"


def _remove(folder: RunFolder) -> str:
    ledger = folder.workspace / "checkpoint.json"
    owned = Checkpoint.read(ledger).owned() if ledger.is_file() else []
    target = folder.parameters().target.label
    return f"from {target}: {', '.join(owned)}" if owned else f"this run has made nothing in {target}"

"""What a rehearsal drills when its line has ended with GO: the restore of its snapshot, and the way back. Timed, proven.

The restore goes into a scratch directory that is removed again. The rollback is the real one, of the run itself, and comes
last: it takes from the target what the run put there. The decision stays what it was, GO; what was drilled is written
into run.json (`drills`), from where the page has it.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from helpers import audit
from helpers.parameters.endpoint import Endpoint
from helpers.restore import restore
from helpers.rollback.state import Orders, RollbackState
from helpers.run.folders import RunFolder
from helpers.runner import rollback_command
from helpers.runner.line import leave
from helpers.runner.terminal import Terminal
from helpers.snapshot import Snapshot
from helpers.words import count, duration

WHY = "drill of the rehearsal"


def drill(folder: RunFolder, terminal: Terminal) -> list[str]:
    """Both drills; a sentence each. Raises what made one of them fail."""
    said = [drill_restore(folder)]
    terminal.say(f"  Drill: {said[0]}")
    said.append(drill_rollback(folder, terminal))
    keep(folder, said)
    return said


def keep(folder: RunFolder, said: list[str]) -> None:
    """Write down what was drilled, seal it, and show it on the run's page."""
    folder.note(drills=said)
    leave(folder)


def drill_restore(folder: RunFolder) -> str:
    """The snapshot of step 21 into a directory of its own, every chunk read back and compared."""
    taken = folder.result("21")
    assert taken is not None  # the line has passed
    snapshot = Snapshot.open(Path(taken.facts["snapshot"]["folder"]))
    scratch = folder.workspace / "drill-restore"
    shutil.rmtree(scratch, ignore_errors=True)  # of a drill that was killed
    begun = time.monotonic()
    try:
        done = restore(snapshot, Endpoint.model_validate({"path": str(scratch)}), without_lost=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    seconds = time.monotonic() - begun
    proven, lost = sum(done.proven.values()), sum(map(len, done.lost.values()))
    audit.append(folder.reports / audit.NAME, "drill", what="restore", chunks=proven, seconds=round(seconds, 1))
    more = f"; {count(lost, 'chunk')} without a vector listed, as in the source" if lost else ""
    return f"restore of snapshot {snapshot.id}: {count(proven, 'chunk')} proven in {duration(seconds)}{more}"


def drill_rollback(folder: RunFolder, terminal: Terminal) -> str:
    """The way back of the run itself, with its watch left out of the time."""
    rollback_command.execute(folder, Orders(why=WHY), terminal, locked=True)
    state, result = RollbackState.read(folder.workspace), folder.result("27")
    assert state is not None  # the command has passed
    assert result is not None
    watched = float(state.stages.get("watch", {}).get("seconds") or 0.0)
    seconds = result.seconds - watched
    audit.append(folder.reports / audit.NAME, "drill", what="rollback", seconds=round(seconds, 1))
    return (
        f"rollback: source proven, configuration files back, target as it was before, in {duration(seconds)} "
        f"(and {duration(watched)} of watching)"
    )

"""What a rehearsal drills when its line has ended with GO: the restore of its snapshot, and the way back. Timed, proven.

The restore goes into a scratch directory that is removed again. The rollback is the real one, of the run itself: it takes
from the target what the run put there. Then the rehearsal is put back to where it stood after the cutover, so that its
target can be looked at, and its validation run again. The decision stays what it was, GO; what was drilled is written into
run.json (`drills`), from where the page has it.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from helpers import audit
from helpers.parameters.endpoint import Endpoint
from helpers.restore import restore
from helpers.rollback.state import Orders, RollbackState
from helpers.run.folders import RunFolder
from helpers.runner import rollback_command
from helpers.runner.rendering import leave
from helpers.runner.terminal import Terminal
from helpers.snapshot import Snapshot
from helpers.words import count, duration

WHY = "drill of the rehearsal"


def drill(folder: RunFolder, terminal: Terminal) -> list[str]:
    """Both drills; a sentence each. Raises what made one of them fail."""
    said = [drill_restore(folder)]
    terminal.say(f"  Drill: {said[0]}")
    with _as_it_stands(folder):
        said.append(drill_rollback(folder, terminal))
    said[-1] += "; then all was put back to where it stood after the cutover"
    keep(folder, said)
    return said


@contextmanager
def _as_it_stands(folder: RunFolder) -> Iterator[None]:
    """Put target, application and the workspace's own files back to what they are now, if what is done meanwhile succeeds."""
    kept, target = folder.workspace / "drill-rollback", Path(folder.parameters().target.path or "")
    shutil.rmtree(kept, ignore_errors=True)  # of a drill that was killed
    kept.mkdir()
    places = [target, folder.workspace / "application", *sorted(folder.workspace.glob("*.json"))]
    for number, place in enumerate(places):
        _copy(place, kept / str(number))
    yield
    for path in [RollbackState.path(folder.workspace), folder.workspace / "rollback"]:
        _remove(path)
    for number, place in enumerate(places):
        _remove(place)
        _copy(kept / str(number), place)
    shutil.rmtree(kept)
    audit.append(folder.reports / audit.NAME, "drill", what="rollback", outcome="put back")


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True)
    else:
        shutil.copy2(source, target)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


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

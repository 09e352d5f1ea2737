"""The way back: every configuration file byte for byte as it was, the application restarted on it, and healthy."""

from __future__ import annotations

from pathlib import Path

from helpers import audit
from helpers.cutover.application import restart, wait_until_well
from helpers.cutover.files import beside, digest_of, put_in_place, stage
from helpers.cutover.state import BACKED_UP, PLANNED, REVERTED, REVERTING, ChangedFile, CutoverState
from helpers.errors import Terminal
from helpers.run.folders import RunFolder


def put_back(folder: RunFolder, why: str = "") -> list[str]:
    """Take the cutover of this run back; what was done, in sentences. Repeating it, also after a kill, does the rest.

    To be called in the folder in which the run began (`RunFolder.enter`), with the run's lock held: the restart commands
    work there. Every file byte for byte with its mode and owner, then the restart commands, then health. Nothing is
    touched where a file was changed by somebody else since (`Terminal`, `config_changed`). `WorldError` where a restart
    or a health URL fails: the files are back by then, and repeating goes on from there.
    """
    state = CutoverState.read(folder.workspace)
    if state is None:
        return [f"Run {folder.id} has cut nothing over; there is nothing to put back."]
    if state.state == REVERTED:
        return ["The configuration files were put back already."]
    if state.state in (PLANNED, BACKED_UP):
        _clear(state, folder)
        state.enter(folder.workspace, REVERTED)
        return ["No configuration file had been changed yet."]
    state.refuse_changed()
    log = folder.reports / audit.NAME
    audit.append(log, "cutover taken back", outcome="begun", why=why, files=[f.path for f in state.files])
    state.why_reverted = why or state.why_reverted
    state.enter(folder.workspace, REVERTING)
    said = []
    for file in state.files:
        changed = _file_back(file, folder.id)
        said.append(f"{file.path} {'is byte for byte as it was' if changed else 'was as before'}")
    rules = state.cutover
    said += restart(rules, folder)
    said += [f"{a.url} answers {a.status}" for a in wait_until_well(rules.health, rules.timeout_seconds)]
    _clear(state, folder)
    state.enter(folder.workspace, REVERTED)
    audit.append(log, "cutover taken back", files={f.path: f.before for f in state.files})
    folder.log("cutover taken back: " + "; ".join(said), "25")
    return said or ["The cutover had changed no file and restarted nothing."]


def _file_back(file: ChangedFile, run_id: str) -> bool:
    """Put one file back from its backup; whether it had to be."""
    real, backup = Path(file.real), Path(file.backup)
    if file.now == "before":
        return False
    if digest_of(backup) != file.before:
        raise Terminal("backup_damaged", "is not the file that was kept", where=str(backup),
                       next_step=f"Put {file.path} back by hand from a backup of your own.")  # fmt: skip
    content = backup.read_bytes()
    put_in_place(stage(real, content, run_id, mode=file.mode, uid=file.uid, gid=file.gid), real)
    return True


def _clear(state: CutoverState, folder: RunFolder) -> None:
    """Take away what a kill may have left beside the files."""
    for file in state.files:
        beside(Path(file.real), folder.id).unlink(missing_ok=True)

"""workspace/<run id>/cutover.json: which files the cutover changes and how far it came. On disk before anything is touched.

The states in order: planned → backed up → applying → applied → restarted → watching → done; from any of them, when it goes
wrong or is taken back, reverting → reverted. What a killed process leaves is finished by the next one, or undone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from helpers import audit
from helpers.audit import operator
from helpers.cutover.application import restart, wait_until_well
from helpers.cutover.files import beside, digest_of, put_in_place, stage
from helpers.errors import Terminal
from helpers.parameters.sections import Cutover
from helpers.reason_codes import ReasonCode
from helpers.results import StateFile, utc_now
from helpers.run.folders import RunFolder, RunPath
from helpers.run.plan import Step

PLANNED, BACKED_UP, APPLYING, APPLIED = "planned", "backed up", "applying", "applied"
RESTARTED, WATCHING, DONE = "restarted", "watching", "done"
REVERTING, REVERTED = "reverting", "reverted"


@dataclass(slots=True)
class ChangedFile:
    """One configuration file: its place, its backup, and the SHA-256 that it had before and has after."""

    path: str
    real: str
    backup: str
    before: str
    after: str
    mode: int
    uid: int
    gid: int

    @property
    def now(self) -> str:
        """`before`, `after`, or `changed` where somebody else has been at the file (or at the link that led to it)."""
        try:
            moved = str(Path(self.path).resolve(strict=True)) != self.real
        except (OSError, RuntimeError):
            moved = True
        found = "" if moved else digest_of(Path(self.real))
        return "before" if found == self.before else "after" if found == self.after else "changed"


@dataclass(slots=True)
class CutoverState(StateFile):
    """The cutover of one run. `rules` are the parameters that it was begun with: it is taken back with these."""

    file = RunPath.CUTOVER
    damaged = ReasonCode.CUTOVER_STATE_DAMAGED
    remedy = f"The files as they were lie in {{folder}}/{RunPath.CONFIGURATION}; set this file aside."

    state: str = PLANNED
    target: str = ""
    since: str = ""
    by: str = ""
    files: list[ChangedFile] = field(default_factory=list)
    rules: dict[str, Any] = field(default_factory=dict)
    logs: dict[str, dict[str, int]] = field(default_factory=dict)
    why_reverted: str = ""
    collections: list[str] | None = None
    """The target's, just before clients were sent there: what is there beside them later, clients made."""
    events: list[dict[str, str]] = field(default_factory=list)

    def enter(self, workspace: Path, state: str) -> None:
        """Go over to this state, on disk before anything else happens."""
        self.state = state
        self.events.append({"when": utc_now(), "by": operator(), "state": state})
        self.save(workspace)

    @property
    def cutover(self) -> Cutover:
        """The section of the parameters that it was begun with."""
        return Cutover.model_validate(self.rules)

    @property
    def may_be_applied(self) -> bool:
        """Whether a file may differ from what it was, or the application may have been restarted on the new ones."""
        return self.state not in (PLANNED, BACKED_UP, REVERTED)

    @property
    def is_done(self) -> bool:
        return self.state == DONE

    def refuse_changed(self) -> None:
        """`Terminal` (`config_changed`) where a file is neither as it was nor as the cutover made it."""
        changed = [file for file in self.files if file.now == "changed"]
        if changed:
            file = changed[0]
            raise Terminal(
                ReasonCode.CONFIG_CHANGED, "was changed by somebody else since the cutover began and is not overwritten",
                where=file.path,
                next_step=f"Compare it with {file.backup}, make it as it was, and repeat; nothing was put back yet.",
            )  # fmt: skip

    def sentence(self) -> str:
        """For status: `The cutover to … is done since …`."""
        said = {
            DONE: "is done",
            REVERTED: "was undone: every configuration file is as before",
            REVERTING: "is being undone, or a process ended while it did so",
        }
        words = said.get(self.state, f"is under way, or a process ended in it ({self.state})")
        return f"The cutover to {self.target} {words} since {self.events[-1]['when'][:19]} UTC."


def put_back(folder: RunFolder, why: str = "") -> list[str]:
    """Take the cutover of this run back; what was done, in sentences. Repeating it, also after a kill, does the rest.

    To be called in the folder in which the run began (`RunFolder.enter`), with the run's lock held: the restart commands
    work there. Every file byte for byte with its mode and owner, then the restart commands, then health. Nothing is
    touched where a file was changed by somebody else since (`Terminal`, `config_changed`). `WorldError` where a restart
    or a health URL fails: the files are back by then, and repeating goes on from there.
    """
    state = CutoverState.load(folder.workspace)
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
    folder.log("cutover taken back: " + "; ".join(said), Step.CUTOVER)
    return said or ["The cutover had changed no file and restarted nothing."]


def _file_back(file: ChangedFile, run_id: str) -> bool:
    """Put one file back from its backup; whether it had to be."""
    real, backup = Path(file.real), Path(file.backup)
    if file.now == "before":
        return False
    if digest_of(backup) != file.before:
        raise Terminal(ReasonCode.BACKUP_DAMAGED, "is not the file that was kept", where=str(backup),
                       next_step=f"Put {file.path} back by hand from a backup of your own.")  # fmt: skip
    content = backup.read_bytes()
    put_in_place(stage(real, content, run_id, mode=file.mode, uid=file.uid, gid=file.gid), real, file.after)
    return True


def _clear(state: CutoverState, folder: RunFolder) -> None:
    """Take away what a kill may have left beside the files."""
    for file in state.files:
        beside(Path(file.real), folder.id).unlink(missing_ok=True)

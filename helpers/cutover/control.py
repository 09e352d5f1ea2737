"""The cutover of one run: planned, backed up, applied all or none, restarted. Each act can be repeated after a kill."""

from __future__ import annotations

from pathlib import Path

from helpers import audit
from helpers.cutover.application import positions, restart
from helpers.cutover.edits import Edit, all_edits
from helpers.cutover.files import digest_of, keep, put_in_place, stage
from helpers.cutover.state import (
    APPLIED,
    APPLYING,
    BACKED_UP,
    PLANNED,
    RESTARTED,
    REVERTED,
    REVERTING,
    ChangedFile,
    CutoverState,
    put_back,
)
from helpers.errors import RunbookError, Terminal, UsageError, WorldError
from helpers.parameters import Parameters
from helpers.reason_codes import ReasonCode
from helpers.results import utc_now
from helpers.run.folders import RunFolder, RunPath
from helpers.stores.opening import quick_names


class Control:
    """What step 25 does, act by act; `state` is on disk before each."""

    def __init__(self, folder: RunFolder, parameters: Parameters) -> None:
        self.folder, self.parameters = folder, parameters
        self.rules = parameters.cutover
        self.audit = folder.reports / audit.NAME

    @property
    def state(self) -> CutoverState | None:
        return CutoverState.load(self.folder.workspace)

    @property
    def under_way(self) -> CutoverState | None:
        """The state of a cutover that was begun and neither taken back nor never applied."""
        state = self.state
        return state if state is not None and state.may_be_applied and state.state != REVERTING else None

    def edits(self) -> list[Edit]:
        """Every edit in memory; of files that this run has changed already, from their backups."""
        state, originals = self.under_way, {}
        for file in state.files if state else []:
            if file.now == "after":
                originals[file.real] = _kept(file)
        return all_edits(self.parameters, originals)

    def finish_undoing(self) -> list[str]:
        """Finish undoing a cutover, where a killed process had begun to; what was done."""
        state = self.state
        return put_back(self.folder) if state is not None and state.state == REVERTING else []

    def begin(self, edits: list[Edit]) -> CutoverState:
        """Plan and backups, both on disk; a cutover that is under way already goes on as it was begun."""
        state = self.under_way
        if state is not None:
            if state.rules != self._document():
                raise UsageError(ReasonCode.CUTOVER_CHANGED, "a cutover with other parameters is under way",
                                 next_step=f"Roll that one back first: {self.folder.command('rollback')}")  # fmt: skip
            state.refuse_changed()
            undone = [f.path for f in state.files if state.is_done and f.now != "after"]
            if undone:
                raise Terminal(ReasonCode.CONFIG_CHANGED, "was done, and the file points elsewhere now",
                               where=undone[0], next_step=f"Roll it back: {self.folder.command('rollback')}")  # fmt: skip
            return state
        folder = self.folder.workspace / RunPath.CONFIGURATION
        files = [
            ChangedFile(
                str(e.file.path), str(e.file.real), str(folder / f"{n:02d}-{e.file.real.name}"), e.file.digest, e.after,
                e.file.mode, e.file.uid, e.file.gid,
            )
            for n, e in enumerate(edits, start=1) if e.changes
        ]  # fmt: skip
        state = CutoverState(
            PLANNED, self.parameters.target.label, utc_now(), audit.operator(), files, self._document()
        )
        state.enter(self.folder.workspace, PLANNED)
        for file, e in zip(files, (e for e in edits if e.changes), strict=True):
            keep(Path(file.backup), e.file.content)
        state.enter(self.folder.workspace, BACKED_UP)
        return state

    def apply(self, state: CutoverState, edits: list[Edit]) -> list[str]:
        """Every new content under its file's name, or none of them; a sentence each."""
        if state.state not in (BACKED_UP, APPLYING):
            return [f"{file.path} points to the target" for file in state.files]
        new = {str(e.file.real): e for e in edits}
        for file in state.files:
            if new[file.real].after != file.after:
                raise Terminal(ReasonCode.CONFIG_CHANGED, "would become something else than what was planned", where=file.path,
                               next_step=f"Roll the cutover back first: {self.folder.command('rollback')}")  # fmt: skip
        state.refuse_changed()
        facts = {f.path: {"before": f.before, "after": f.after} for f in state.files}
        audit.append(self.audit, "cutover", outcome="begun", target=state.target, files=facts)
        waiting = [f for f in state.files if f.now == "before"]
        staged = [(f, stage(Path(f.real), new[f.real].new, self.folder.id, mode=f.mode, uid=f.uid, gid=f.gid))
                  for f in waiting]  # fmt: skip
        if state.collections is None:
            state.collections = quick_names(self.parameters.target, "target")
        state.enter(self.folder.workspace, APPLYING)
        for file, temporary in staged:
            state.refuse_changed()
            put_in_place(temporary, Path(file.real), file.before)
        wrong = [f.path for f in state.files if f.now != "after"]
        if wrong:
            raise WorldError(ReasonCode.CONFIG_NOT_WRITTEN, "does not hold what was written", where=wrong[0])
        state.logs = positions(self.rules.log_files)
        state.enter(self.folder.workspace, APPLIED)
        audit.append(self.audit, "cutover", outcome="files changed", target=state.target)
        return [f"{file.path} now points to the target" for file in state.files]

    def restart(self, state: CutoverState) -> list[str]:
        """Run the restart commands; not again where they succeeded before a kill."""
        if state.state != APPLIED:
            return []
        said = restart(self.rules, self.folder)
        audit.append(self.audit, "cutover", outcome="restarted", commands=self.rules.restart)
        state.enter(self.folder.workspace, RESTARTED)
        return said

    def enter(self, state: CutoverState, name: str) -> None:
        state.enter(self.folder.workspace, name)
        audit.append(self.audit, "cutover", outcome=name, target=state.target)

    def take_back(self, why: str) -> list[str]:
        """Everything as it was; what was done. `WorldError` (`put_back_failed`) says both what failed and what is left."""
        try:
            return put_back(self.folder, why)
        except (RunbookError, OSError) as error:
            said = error.what if isinstance(error, RunbookError) else str(error)
            where = f"{error.where}: " if isinstance(error, RunbookError) and error.where else ""
            raise WorldError(
                ReasonCode.PUT_BACK_FAILED, f"the cutover failed ({why}), and undoing it did not finish: {where}{said}",
                next_step=f"Correct that, then: {self.folder.command('rollback')}",
            ) from error  # fmt: skip

    def _document(self) -> dict[str, object]:
        return self.rules.model_dump(mode="json", exclude_none=True)


def taken_back(state: CutoverState | None) -> bool:
    return state is not None and state.state == REVERTED


def _kept(file: ChangedFile) -> bytes:
    backup = Path(file.backup)
    if digest_of(backup) != file.before:
        raise Terminal(ReasonCode.BACKUP_DAMAGED, "is not the file that was kept", where=str(backup),
                       next_step=f"Compare {file.path} with a backup of your own.")  # fmt: skip
    return backup.read_bytes()

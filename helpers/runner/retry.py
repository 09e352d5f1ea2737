"""`runbook resume RUN_ID --retry STEP`: take back what this run made from that step on, then run it again.

Taken back are the collections that the run made in the target, its ledger, its staging and its quarantine. Results,
figures and executed notebooks that rest on them are history: they are set aside, never deleted. Sign-offs stay where they
are; what they were given over has changed, which makes them void. Snapshots stay (`runbook snapshots prune`), and so does
the write fence: clients are not let in between two attempts.

`retry.json` is on disk before anything is touched and goes last, so a retry that was killed is finished before the run goes
on, whichever command comes next.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass

from helpers import audit
from helpers.cutover import CutoverState
from helpers.errors import RUNBOOK, UsageError
from helpers.migration.checkpoint import Checkpoint
from helpers.parameters import Parameters
from helpers.reason_codes import ReasonCode
from helpers.results import StateFile, passed, utc_now
from helpers.run import folders as runs
from helpers.run import plan, window
from helpers.run.folders import RunFolder, RunLock, RunPath, RunState
from helpers.run.plan import Step

_LEFT = (
    RunPath.STAGED,
    RunPath.QUARANTINE,
    RunPath.CATCH_UP,
    RunPath.BATCHES,
    RunPath.CHECKPOINT_CHANGES,
)  # of step 22, beside its ledger


@dataclass(slots=True)
class Retry(StateFile):
    """A retry that was begun: from this step on. The file is there until it has ended."""

    file = RunPath.RETRY
    damaged = ReasonCode.RETRY_STATE_DAMAGED
    remedy = f"Remove this file and repeat: {RUNBOOK} resume ID --retry STEP"

    step: str
    begun: str


def pending(folder: RunFolder) -> str:
    """The step whose retry was begun and not finished, or ""."""
    begun = Retry.load(folder.workspace)
    return begun.step if begun is not None else ""


def require_retriable(folder: RunState, step: plan.Step, changed: Parameters | None = None) -> None:
    """Raises `UsageError` where taking the step back makes no sense for this run, or would make an outage.

    `changed` are the parameters that the same command brings: the window that they name counts.
    """
    if not step.on_line:
        _refuse(folder, step, "is on demand, not part of the standard sequence", f"Open notebooks/{step.notebook}.")
    cutover = CutoverState.load(folder.workspace)
    moved = passed(folder.result(Step.CUTOVER)) or (cutover is not None and cutover.may_be_applied)
    if moved and not step.follows_cutover:  # those look, and can look again
        told = f"Roll back first: {folder.command('rollback')}"
        _refuse(folder, step, "cannot be undone: the application was pointed to the target", told)
    if not _has_begun(folder, step):
        _refuse(folder, step, "has not been run", f"Go on with: {folder.command('resume')}")
    migrated = _has_begun(folder, Step.MIGRATE)  # else nothing of the migration is undone
    if (
        migrated
        and step.number <= Step.MIGRATE
        and (error := window.refusal(folder, Step.MIGRATE, changed=changed)) is not None
    ):
        raise error


def _refuse(folder: RunFolder, step: plan.Step, why: str, told: str) -> None:
    raise UsageError(
        ReasonCode.NO_RETRY, f"step {step.number} ({step.title}) {why}", where=f"run {folder.id}", next_step=told
    )


def _has_begun(folder: RunState, step: plan.Step) -> bool:
    ledger = step.number == Step.MIGRATE and (folder.workspace / RunPath.CHECKPOINT).exists()
    return ledger or folder.result(step.number) is not None


def take_back(folder: RunState, step: plan.Step, say: Callable[[str], None]) -> None:
    """Undo what the run did from `step` on. Repeating it after a kill ends the same."""
    with RunLock(folder, "runner").acquire(1), RunLock(folder, "step").acquire(1):
        begun = pending(folder)
        first = plan.find(min(begun or step.number, step.number))
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
    """Remove the collections that this run made, then its ledger: chunks by collection. The target's lock stays ours."""
    ledger = folder.workspace / RunPath.CHECKPOINT
    removed: dict[str, int] = {}
    target = folder.parameters.target
    owned = Checkpoint.read(ledger).owned() if ledger.exists() else []
    from helpers.stores import open_target, quick_names

    if owned and set(owned) & set(quick_names(target, "target")):
        with open_target(target) as store:
            store.acquire_lock(folder.id)
            for name in sorted(set(owned) & set(store.names())):
                removed[name] = store.count(name)
                store.drop(name)
                folder.log(f"retry: removed {name} from the target, {removed[name]} chunks")
    if ledger.exists():
        aside = folder.workspace / RunPath.EARLIER / utc_now().replace(":", "").removesuffix("+0000")
        aside.mkdir(parents=True)
        for name in _LEFT[1:]:
            if (folder.workspace / name).exists():
                (folder.workspace / name).rename(aside / name)
        shutil.rmtree(folder.workspace / _LEFT[0], ignore_errors=True)
        ledger.rename(aside / ledger.name)
    return removed

"""workspace/<run id>/rollback.json: what was ordered and how far the rollback got. Written before each stage begins."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from helpers import audit
from helpers.reason_codes import ReasonCode
from helpers.results import StateFile, utc_now
from helpers.run.folders import RunPath

STOP, SOURCE, WRITES, REPLAY, FILES, SETTLE, LIFT, REMOVE, WATCH = (
    "stop", "source", "writes", "replay", "files", "settle", "lift", "remove", "watch",
)  # fmt: skip
STAGES = (STOP, SOURCE, WRITES, REPLAY, FILES, SETTLE, LIFT, REMOVE, WATCH)
TITLES = {
    STOP: "Stop the migration",
    SOURCE: "Prove the source",
    WRITES: "Export what clients wrote to the target",
    REPLAY: "Replay it to the source",
    FILES: "Put configuration files back, restart, health",
    SETTLE: "Look at the target once more",
    LIFT: "Lift the write fence",
    REMOVE: "Remove from the target what the run made",
    WATCH: "Watch the source",
}
BEGUN, DONE = "begun", "done"


@dataclass(slots=True)
class Orders:
    """What the operator ordered. All of it is off by default: then a rollback stops where somebody has to decide.

    `restore` lets the source be written from the snapshot where it is damaged, `collections` limits that to these;
    `accept_source` is the reason to take a damaged source as it is. `replay` writes to the source what clients wrote to
    the target, `replay_to` names the source collection for new chunks that nothing else places; `discard` is the reason to
    give that up (it stays exported).
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
    """One run's rollback. `stages` holds of each one that began: state (begun, done), when, seconds, said."""

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
        """The rollback to go on with, or a new one, on disk. New orders replace the earlier ones; none keep them."""
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
        """Whether the target holds nothing of the run any more: from then on there is only the watch."""
        return self.did(REMOVE)

    def sentence(self) -> str:
        """For status and pages."""
        if self.finished:
            return f"Rolled back, finished {self.finished[:19].replace('T', ' ')} UTC."
        where = f"at: {TITLES[self.at]}" if self.at else "complete"
        return f"A rollback is under way since {self.since[:19].replace('T', ' ')} UTC, {where}."

"""Which snapshot a run migrates from now: step 21's, or the one of the last catch-up round that was applied in full.

workspace/<run id>/catch-up/ledger.json is written before a round touches the target, so that a run that is killed in
the middle of one knows it, and finishes that round before it looks at the source again.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from helpers.errors import WorldError
from helpers.results import write_json
from helpers.run.record import RunRecord
from helpers.snapshot import Snapshot

FOLDER = "catch-up"
APPLYING, SWITCHING, APPLIED = "applying", "switching", "applied"


@dataclass(slots=True)
class Ledger:
    """The catch-up of one run. `base` is the id of step 21's snapshot, `current` the folder of the one that holds now.

    `rounds` have number, state, snapshot (folder), began, added, changed, deleted, seconds. While the last one is
    `applying` the target is between two states; while it is `switching` the target is right and the run's own files are
    being moved.
    """

    path: Path
    base: str
    current: str
    rounds: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def read(cls, run: RunRecord) -> Ledger:
        """As it stands on disk, or a new one. One that was begun on another snapshot of step 21 says nothing any more."""
        taken = run.require("21").facts["snapshot"]
        path = run.workspace / FOLDER / "ledger.json"
        fresh = cls(path, taken["id"], taken["folder"])
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            found = cls(path, raw["base"], raw["current"], raw["rounds"])
        except FileNotFoundError:
            return fresh
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise WorldError(
                "catch_up_ledger_damaged", f"cannot be read: {error}", where=str(path),
                next_step="Start a new run; the target holds what this one wrote.",
            ) from error  # fmt: skip
        return found if found.base == fresh.base else fresh

    @property
    def open_round(self) -> dict[str, Any] | None:
        """The round that a run was killed in, or None."""
        return self.rounds[-1] if self.rounds and self.rounds[-1]["state"] != APPLIED else None

    @property
    def applied(self) -> int:
        """Rounds applied in full."""
        return sum(r["state"] == APPLIED for r in self.rounds)

    def enter(self, state: str, **facts: Any) -> None:
        """The last round goes over to this state, on disk before anything else happens."""
        self.rounds[-1].update(state=state, **facts)
        if state == APPLIED:
            self.current = self.rounds[-1]["snapshot"]
        self.save()

    def save(self) -> None:
        write_json(self.path, {k: v for k, v in asdict(self).items() if k != "path"})


def current_snapshot(run: RunRecord) -> Snapshot:
    """The snapshot that the target is held to. Raises `UsageError` before step 21, `Terminal` where it cannot be read."""
    return Snapshot.open(Path(Ledger.read(run).current))

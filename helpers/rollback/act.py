"""What every stage of a rollback shares: the run, what it made, the state on disk, and the record of a stage."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from helpers import audit
from helpers.cutover import CutoverState
from helpers.errors import RunbookError
from helpers.results import utc_now
from helpers.rollback import outline
from helpers.rollback import state as st
from helpers.rollback.made import Made
from helpers.rollback.state import RollbackState
from helpers.run.record import RunRecord


class Act:
    """`in_use`: clients may have used the target. In a dry run nothing is recorded and nothing is touched."""

    def __init__(self, run: RunRecord) -> None:
        self.run, self.made = run, Made(run)
        found = RollbackState.read(run.workspace)
        self.state = found or RollbackState(run.id, utc_now(), audit.user())
        if not run.dry_run:
            self.state.save(run.workspace)
        self.cutover = CutoverState.read(run.workspace)
        self.in_use = outline.clients_came(self.cutover)
        run.fact("dry_run", run.dry_run)

    @contextmanager
    def stage(self, name: str) -> Iterator[dict[str, Any]]:
        """Record a stage on disk and in the audit log, before and after. What it did goes into the row's "said"."""
        row: dict[str, Any] = {"state": st.BEGUN, "when": utc_now(), "seconds": 0.0, "said": ""}
        if self.run.dry_run:
            with self.run.phase(st.TITLES[name]):
                yield row
            return
        before = self.state.stages.get(name)
        if before is None or before["state"] != st.DONE:
            self.state.stages[name] = row
            self.state.save(self.run.workspace)
        log, action = self.run.folder / audit.NAME, f"rollback: {st.TITLES[name].lower()}"
        audit.append(log, action, outcome="begun")
        begun = time.monotonic()
        try:
            with self.run.phase(st.TITLES[name]):
                yield row
        except BaseException as error:
            why = error.line() if isinstance(error, RunbookError) else type(error).__name__
            audit.append(log, action, outcome="failed", why=why)
            raise
        row |= {"state": st.DONE, "seconds": round(time.monotonic() - begun, 3), "finished": utc_now()}
        self.state.stages[name] = row
        self.state.save(self.run.workspace)
        audit.append(log, action, said=row["said"])

    @property
    def settled(self) -> bool:
        """Whether source and clients' writes are done with: afterwards clients write to the source, and it moves on."""
        return not self.run.dry_run and self.state.did(st.SETTLE)

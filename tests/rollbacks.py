"""What the tests of the rollback share: a run brought as far as wanted, in this process, and what was there before it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from helpers import audit
from helpers.cutover.application import DONE
from helpers.errors import Interrupted
from helpers.migration.delta import settings_of
from helpers.parameters import parameters_from
from helpers.parameters.endpoint import Endpoint
from helpers.results import Verdict, file_digest, utc_now, worst
from helpers.rollback import Orders, RollbackState
from helpers.run import folders as runs
from helpers.run.folders import RunFolder
from helpers.run.record import RunRecord
from helpers.steps.cutover import CutoverControl
from helpers.steps.migrate import MigrateStep
from helpers.steps.rollback import RollbackStep
from helpers.steps.snapshot import SnapshotStep
from helpers.stores import open_target
from tests.storage import chunks, contents, embedded, exact, fill

ENV = "# where Chroma is\r\nOTHER=1\r\nCHROMA_URL='before'  # keep\r\n"


class Night:
    """A source, a target that holds a collection of other people, a configuration file, and a run."""

    def __init__(self, home: Path, *, source: dict[str, Any] | None = None, target: dict[str, Any] | None = None,
                 schema: str = "identity", **sections: Any) -> None:  # fmt: skip
        self.home = home
        self.source, self.target = source or {"path": "source"}, target or {"path": "target"}
        (home / "app.env").write_bytes(ENV.encode())
        everything: dict[str, Any] = {
            "name": "night", "schema": schema, "source": self.source, "target": self.target,
            "snapshot": {"directory": "kept"}, "migration": {"batch_size": 10, "workers": 1, "id_policy": "prefix"},
            "cutover": {"env_files": [{"path": "app.env", "keys": {"CHROMA_URL": "after"}}], "monitor_minutes": 0},
            "rollback": {"monitor_minutes": 0},
            **sections,
        }  # fmt: skip
        if schema == "identity":
            everything["migration"].pop("id_policy", None)
        self.folder: RunFolder = runs.create(parameters_from(everything), "night")

    def snapshot(self) -> None:
        record = RunRecord(self.folder.read(), "21")
        SnapshotStep(record).verify()
        self.keep(record)

    def migrate(self, batches: int = 0) -> None:
        """Step 22; `batches`: the operator asks to stop after so many."""
        record = RunRecord(self.folder.read(), "22")
        work = MigrateStep(record)
        self.folder.stop_file.unlink(missing_ok=True)
        work.validate()
        if batches:
            clock, left = work._batch_clock, [batches]

            def stopping(phase: Any) -> Any:
                note = clock(phase)

                def each(target: str, rows: int, seconds: float) -> None:
                    note(target, rows, seconds)
                    left[0] -= 1
                    if not left[0]:
                        self.folder.stop_file.touch()

                return each

            work._batch_clock = stopping  # type: ignore[method-assign]
        work.import_chunks()
        work.verify()
        work.catch_up()
        self.keep(record)

    def migrate_half(self) -> None:
        with pytest.raises(Interrupted):
            self.migrate(batches=4)
        self.folder.stop_file.unlink()

    def cut_over(self) -> None:
        """What step 23 notes of the target, and step 25 does once it may: the file is changed, and the cutover is done."""
        record = RunRecord(self.folder.read(), "23")
        with open_target(record.parameters.target) as store:
            record.fact("settings", settings_of(store.collections()))
        self.keep(record)
        control = CutoverControl(self.folder, self.folder.read().parameters)
        edits = control.edits()
        state = control.begin(edits)
        control.apply(state, edits)
        control.restart(state)
        control.enter(state, DONE)

    def keep(self, record: RunRecord) -> None:
        record.result.finished, record.result.verdict = utc_now(), worst(c.verdict for c in record.result.checks)
        record.result.write(path := self.folder.reports / "results" / f"{record.step}.json")
        about = {"step": record.step, "result": file_digest(path)}
        audit.append(self.folder.reports / audit.NAME, audit.STEP_ENDS, outcome=record.result.verdict, **about)

    def rollback(self, *, dry_run: bool = False, **orders: Any) -> dict[str, Verdict]:
        """Every stage, as the notebook has them; the checks by name."""
        if not dry_run:
            RollbackState.begin(self.folder.workspace, self.folder.id, Orders(**orders))
        record = RunRecord(self.folder.read(), "27", dry_run=dry_run)
        run_stages(RollbackStep(record))
        self.keep(record)
        return {c.name: c.verdict for c in record.result.checks}

    @property
    def state(self) -> RollbackState:
        found = RollbackState.load(self.folder.workspace)
        assert found is not None
        return found

    @property
    def env(self) -> bytes:
        return (self.home / "app.env").read_bytes()


def run_stages(rollback: RollbackStep) -> None:
    rollback.plan()
    rollback.stop()
    rollback.prove_source()
    rollback.client_writes()
    rollback.replay()
    rollback.put_back()
    rollback.settle()
    rollback.lift()
    rollback.remove()
    rollback.report()
    rollback.watch()


def snapshotted(home: Path) -> Night:
    """A run that has taken its snapshot of the usual source, before a target that holds a collection of others."""
    usual_source(home / "source")
    others(home / "target")
    made = Night(home)
    made.snapshot()
    return made


def everything(endpoint: dict[str, Any]) -> dict[str, Any]:
    """All that a target or source holds, in a form that can be compared: configuration, and every chunk to the bit."""
    with open_target(Endpoint(**endpoint)) as store:
        found = {}
        for name in store.names():
            batch, info = contents(store, name), store.info(name)
            rows = zip(batch.ids, batch.documents, batch.metadatas, batch.embeddings, strict=True)
            held = {i: (d, sorted((exact(m) or {}).items()), e.tobytes()) for i, d, m, e in rows}
            found[name] = (info.space, info.metadata, repr(info.configuration), held)
        with suppress(KeyError):
            assert store.lock_holder() is None
        return found


def usual_source(path: Path) -> None:
    with embedded(path) as store:
        fill(store, "alpha", chunks(60, 4, prefix="a"))
        fill(store, "beta", chunks(25, 3, prefix="b"), "cosine")


def others(path: Path) -> None:
    with embedded(path) as store:
        fill(store, "other-people", chunks(12, 5, prefix="o"))

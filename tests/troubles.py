"""What the tests of Section 4 share: a small run that has migrated, the same from a server to a server, desks at work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from helpers.parameters import parameters_from
from helpers.results import Check, Verdict
from helpers.run import folders as runs
from helpers.run import plan
from helpers.run.folders import RunFolder
from helpers.run.record import RunRecord
from helpers.runner.notebook import step_class
from helpers.steps.migrate import MigrateStep
from helpers.steps.snapshot import SnapshotStep
from helpers.troubleshooting import AFTER, BEFORE, Troubleshooter


def begun(name: str = "night", **sections: Any) -> RunFolder:
    """A run with its snapshot taken and nothing migrated; sources and targets are the folders `source` and `target`."""
    given = {
        "name": name, "schema": "identity", "source": {"path": "source"}, "target": {"path": "target"},
        "snapshot": {"directory": "kept"}, "migration": {"batch_size": 10, "workers": 1}, **sections,
    }  # fmt: skip
    folder = runs.create(parameters_from(given), name)
    record = RunRecord(folder.read(), "21")
    SnapshotStep(record).verify()
    keep(folder, record)
    return folder


def migrated(folder: RunFolder) -> RunFolder:
    """Steps 22 as its notebook does it, its result kept, also of a failure."""
    record = RunRecord(folder.read(), "22")
    work = MigrateStep(record)
    try:
        work.validate()
        work.import_chunks()
        work.verify()
        work.catch_up()
    except Exception as error:
        from helpers.run.kernel import failure

        record.result.error, record.result.verdict = failure(error), Verdict.FAIL
        raise
    finally:
        keep(folder, record)
    return folder


def keep(folder: RunFolder, record: RunRecord) -> None:
    record.write_result()


def at(folder: RunFolder, step: str, *, dry_run: bool = False) -> Any:
    """The desk of a step, as its notebook has it."""
    return step_class(plan.find(step))(RunRecord(folder.read(), step, dry_run=dry_run))


def probe(desk: Troubleshooter) -> tuple[Verdict, int, pd.DataFrame]:
    """The probe: its verdict, how many things are wrong, its table."""
    table = desk.probe()
    check = [c for c in desk.run.result.checks if c.name in (BEFORE, AFTER)][-1]
    return check.verdict, check.measured, table


def check_of(desk: Troubleshooter, name: str) -> Check:
    return next(c for c in desk.run.result.checks if c.name == name)


def target_of(folder: RunFolder) -> Path:
    return Path(str(folder.read().parameters.target.path))

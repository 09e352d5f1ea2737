"""What the tests of the cutover share: a run that is decided and signed, and its step 25 as the notebook has it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from helpers import evidence
from helpers.migration.delta import settings_of
from helpers.parameters import parameters_from
from helpers.results import StepResult, Verdict, utc_now
from helpers.run import folders as runs
from helpers.run.folders import RunFolder
from helpers.run.record import RunRecord
from helpers.steps.cutover import CutoverStep
from helpers.steps.migrate import MigrateStep
from helpers.steps.snapshot import SnapshotStep
from helpers.stores import open_target
from tests.signers import Signers, vouch
from tests.storage import chunks, embedded, fill


def keep(folder: RunFolder, record: RunRecord) -> StepResult:
    record.result.finished = utc_now()
    record.result.write(folder.reports / "results" / f"{record.step}.json")
    return record.result


def migrated(home: Path, cutover: dict[str, Any], **more: Any) -> RunFolder:
    """A run whose source has been taken to the target; both are directories where `more` names no others."""
    if "source" not in more:
        with embedded(home / "source") as store:
            fill(store, "alpha", chunks(40, 4, prefix="a"))
            fill(store, "beta", chunks(15, 3, prefix="b"))
    sections: dict[str, Any] = {
        "name": "night", "schema": "identity", "source": {"path": "source"}, "target": {"path": "target"},
        "snapshot": {"directory": "kept"}, "cutover": {"monitor_minutes": 0.0, "timeout_seconds": 3.0, **cutover},
        "signoff": {"allowed_signers": str(Signers(home / "keys").allowed)}, **more,
    }  # fmt: skip
    folder = runs.create(parameters_from(sections), "night")
    record = RunRecord(folder.read(), "21")
    SnapshotStep(record).verify()
    keep(folder, record)
    record = RunRecord(folder.read(), "22")
    work = MigrateStep(record)
    work.validate()
    work.import_chunks()
    work.verify()
    keep(folder, record)
    return folder


def decided(
    folder: RunFolder, decision: str = "GO", roles: tuple[str, ...] = ("operations_lead", "dba", "security")
) -> None:
    """A decision as step 24 leaves it, and these signatures."""
    for step in ("23", "24"):
        record = RunRecord(folder.read(), step)
        record.fact("decision", decision)
        if step == "23":  # what it notes of the target that it has read
            with open_target(record.parameters.target) as store:
                record.fact("settings", settings_of(store.collections()))
        keep(folder, record)
    if decision == "GO":
        vouch(folder.reports)
        evidence.seal(folder.read(), "24")
        if roles:
            signers(folder).approve(folder.reports, roles)


def signers(folder: RunFolder) -> Signers:
    """Those who may sign this run."""
    allowed = folder.read().parameters.signoff.allowed_signers
    assert allowed is not None
    return Signers.of(Path(allowed).parent)


def step(folder: RunFolder, *, dry_run: bool = False) -> StepResult:
    """All cells of notebook 25; the step's result, kept as `finish` keeps it."""
    with cells(folder, dry_run=dry_run) as switch:
        switch.switch()
        switch.watch()
        switch.evidence()
        switch.undo()
        return keep(folder, switch.run)


@contextmanager
def cells(folder: RunFolder, *, dry_run: bool = False) -> Iterator[CutoverStep]:
    """The notebook up to the switch."""
    folder.stop_file.unlink(missing_ok=True)
    switch = CutoverStep(RunRecord(folder.read(), "25", dry_run=dry_run))
    switch.gate()
    switch.plan()
    switch.before()
    switch.unchanged()
    yield switch


def verdicts(result: StepResult) -> dict[str, Verdict]:
    return {check.name: check.verdict for check in result.checks}


def details(result: StepResult) -> str:
    return "; ".join(f"{check.name}: {check.detail}" for check in result.checks)

"""What the tests of the steps after the cutover share: a run that was cut over, and its steps as their notebooks have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from helpers.fence import FenceControl
from helpers.results import StepResult, utc_now
from helpers.run.record import RunRecord
from helpers.steps.closeout import CloseoutStep
from helpers.steps.integration import IntegrationStep
from helpers.steps.monitor import MonitorStep
from helpers.steps.performance import PerformanceStep
from helpers.stores import open_target
from tests.rollbacks import Night, usual_source

QUICK = {"minutes": 0.02, "interval_seconds": 0.2, "level_seconds": 0.6, "repetitions": 2}


def night_after(home: Path, *, fenced: bool = False, **sections: Any) -> Night:
    """Migrated and cut over, with what steps 23 to 25 leave in their results; `fenced`: behind the fence of its parameters."""
    if "source" not in sections:
        usual_source(home / "source")
    sections["monitoring"] = {**QUICK, **sections.get("monitoring", {})}
    night = Night(home, **sections)
    night.snapshot()
    night.migrate()
    cut_over: dict[str, Any] = {"when": "2025-12-01T02:59:00+00:00", "target": "target", "files": []}
    up: tuple[tuple[str, dict[str, Any]], ...] = ()
    if fenced:
        begun = utc_now()
        FenceControl(night.folder, night.folder.read().parameters).put_up()
        up = (("20", {"fence": {"kind": "command", "up": begun}}),)
    night.cut_over()
    if fenced:
        cut_over["writes_again"] = utc_now()
    for step, facts in (
        *up,
        ("23", {"targets": _counts(night), "matrix_inputs": {"checked": 85, "chunks": 85, "valid": 85}}),
        ("24", {"decision": "GO"}),
        ("25", {"cut_over": cut_over}),
    ):
        record = RunRecord(night.folder.read(), step)
        record.result.facts |= facts
        night.keep(record)
    return night


def _counts(night: Night) -> list[dict[str, Any]]:
    with open_target(night.folder.read().parameters.target) as store:
        return [{"collection": name, "target": store.count(name)} for name in store.names()]


def monitor(night: Night, *, dry_run: bool = False) -> StepResult:
    """Notebook 50."""
    record = RunRecord(night.folder.read(), "50", dry_run=dry_run)
    desk = MonitorStep(record)
    desk.plan()
    desk.before()
    desk.watch()
    desk.timeline()
    desk.counts()
    record.fact("said", desk.what_to_do())
    return _kept(night, record)


def performance(night: Night) -> StepResult:
    """Notebook 51."""
    record = RunRecord(night.folder.read(), "51")
    desk = PerformanceStep(record)
    desk.plan()
    desk.source()
    desk.target()
    record.fact("table", desk.compare().to_dict("records"))
    desk.figure()
    return _kept(night, record)


def integration(night: Night) -> StepResult:
    """Notebook 52."""
    record = RunRecord(night.folder.read(), "52")
    desk = IntegrationStep(record)
    desk.plan()
    desk.test()
    record.fact("said", desk.summary())
    return _kept(night, record)


def passed(night: Night, *steps: str) -> None:
    """Results of steps that have passed, for a closeout that is tested by itself."""
    for step in steps:
        night.keep(RunRecord(night.folder.read(), step))


def closeout(night: Night, *, dry_run: bool = False) -> StepResult:
    """Notebook 53, with what its cells print as the fact `said`."""
    record = RunRecord(night.folder.read(), "53", dry_run=dry_run)
    desk = CloseoutStep(record)
    desk.completed()
    desk.durations()
    desk.timeline()
    desk.lessons()
    desk.retention()
    record.fact("cleaned", desk.clean().to_dict("records"))
    desk.fence()
    said = [desk.lift_fence(), desk.release_target()]
    desk.contacts()
    desk.record()
    record.fact("said", [*said, desk.write()])
    return _kept(night, record) if not dry_run else record.result


def _kept(night: Night, record: RunRecord) -> StepResult:
    night.keep(record)
    return record.result

"""Which run a notebook works on: the one that is named, the newest of the same source, target and schema, or a new one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from helpers.errors import UsageError
from helpers.parameters import Parameters, parameters_from
from helpers.run import folders as runs
from helpers.run import kernel, plan
from helpers.run.folders import RunFolder
from helpers.run.record import step_missing
from helpers.runner.overview import rolled_back

SOURCE_ONLY = ("10", "11")  # the steps that look at a source, and at nothing else


def find_run(row: plan.Step, sections: Mapping[str, Any], run_id: str, dry_run: bool) -> RunFolder:
    """The run of this id; without an id the newest with the same source, target and schema; else a new one.

    Step 10, the first, begins a new one also where that was rolled back; for another new one an id is given.
    """
    if run_id:
        runs.check_run_id(run_id)
    if row.number in SOURCE_ONLY and sections.get("source") and not sections.get("target"):
        sections = {**sections, "target": {"path": plan.NO_TARGET}}
    parameters = parameters_from(sections) if sections else None
    if run_id and (parameters is None or RunFolder.of(run_id).exists):
        folder = runs.find(run_id)
        if parameters is not None and not kernel.under_runner():
            runs.change_parameters(folder, parameters)
        folder.enter()
        return folder
    assert parameters is not None
    if (
        not run_id
        and (found := _newest(parameters)) is not None
        and (row is not plan.LINE[0] or not rolled_back(found))
    ):
        return found
    from helpers.runner.rehearsal import require_built  # these bring Chroma's client, which many steps do not need
    from helpers.steps.preflight import preflight

    require_built(parameters)
    if row.needs:
        raise step_missing(row, plan.find(row.needs[0]), run_id)
    preflight(parameters)
    return runs.create(parameters, run_id, dry_run=dry_run and row.on_line)


def require_target(row: plan.Step, folder: RunFolder) -> None:
    """UsageError where the step needs a target and the run was begun without one, to look at its source."""
    if folder.parameters().target.path == plan.NO_TARGET and row.number not in SOURCE_ONLY:
        raise UsageError(
            "no_target", f"run {folder.id} was begun without a target, to look at its source",
            next_step="Name a target in the parameters and begin a new run.",
        )  # fmt: skip


def _newest(parameters: Parameters) -> RunFolder | None:
    """The newest run that was begun in this folder with the same source, target and schema."""
    return next((folder for folder in runs.every_run() if folder.is_of(parameters)), None)

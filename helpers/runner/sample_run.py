"""The run of a notebook that was given no source: a small sample of its own, the steps before it done."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from helpers.errors import WorldError
from helpers.run import folders as runs
from helpers.run import plan
from helpers.run.folders import RunFolder, RunLock
from helpers.runner import rehearsal


def sample_run(row: plan.Step, sections: Mapping[str, Any]) -> RunFolder:
    """A run of this notebook's own on a small sample, made anew, with the steps before this one done."""
    folder = RunFolder.of(f"sample-{row.number}")
    with RunLock(folder, "runner").acquire(1):
        for path in (folder.reports, *(p for p in folder.workspace.glob("*") if p.suffix != ".lock")):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        chunks = int(os.environ.get("RUNBOOK_SAMPLE_CHUNKS") or rehearsal.SAMPLE_CHUNKS)
        parameters = rehearsal.prepare(folder.workspace, chunks, rehearsal.SAMPLE_DIMENSION, sections)
        runs.create(parameters, folder.id, rehearsal=True)
    for number in row.needs:
        needed = plan.find(number)
        _run_first(folder, needed)
        if needed.gate:
            rehearsal.approve(folder, needed)
    return folder


def _run_first(folder: RunFolder, step: plan.Step) -> None:
    """Another notebook on the sample, in a process of its own: a kernel cannot run one inside its own loop."""
    notebook, output = runs.NOTEBOOKS / step.notebook, folder.reports / step.notebook
    command = [
        sys.executable,
        "-m",
        "papermill",
        "-k",
        "python3",
        "-p",
        "run_id",
        folder.id,
        str(notebook),
        str(output),
    ]
    path = os.pathsep.join(filter(None, [str(runs.REPOSITORY), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"step {step.number} failed"]
        raise WorldError("sample_failed", lines[-1], next_step=f"See {folder.log_path}.")

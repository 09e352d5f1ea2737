"""A process of our own at work beside a step: bounded in time, ended when the run is asked to stop, never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from helpers.errors import Interrupted
from helpers.run import folders as runs
from helpers.run import kernel
from helpers.run.record import RunRecord

_GRACE = 5.0  # seconds between asking it to end and ending it


def run_child(
    run: RunRecord, command: Sequence[str], output: Path, *, label: str, about: float, most: float,
    environment: Mapping[str, str] | None = None,
) -> int | None:  # fmt: skip
    """Its exit code, None where it took longer than `most` seconds and was ended. What it prints goes to `output`.

    `about` is how many seconds it should take, for those who wait.

    Raises `Interrupted` where the run is asked to stop; it is ended then, with whatever it started.
    """
    path = os.pathsep.join(filter(None, [str(runs.REPOSITORY), os.environ.get("PYTHONPATH")]))
    known = {
        kernel.RUNNER_PID: str(
            os.getpid()
        ),  # it ends with us, however we end: two processes on one directory destroy it
        "PYTHONPATH": path,
        "RUNBOOK_REPORTS": str(run.folder.parent),
        "RUNBOOK_WORKSPACE": str(run.workspace.parent),
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("wb") as out:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                                 start_new_session=True, env={**os.environ, **known, **(environment or {})})  # fmt: skip
    begun = time.monotonic()
    try:
        with run.progress(label, max(1, round(about)), "seconds") as bar:
            while child.poll() is None:
                if time.monotonic() - begun > most:
                    return None
                with suppress(subprocess.TimeoutExpired):
                    child.wait(0.2)
                bar.advance(max(0, min(bar.total, int(time.monotonic() - begun)) - bar.done))
        return child.returncode
    except Interrupted:
        run.log(f"{label}: ended, because the run was asked to stop")
        raise
    finally:
        _end(child)


def _end(child: subprocess.Popen[bytes]) -> None:
    """It and what it started: SIGTERM to the group, then SIGKILL."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if child.poll() is not None and number is signal.SIGTERM:
            return
        with suppress(ProcessLookupError):
            os.killpg(child.pid, number)
        with suppress(subprocess.TimeoutExpired):
            child.wait(_GRACE)

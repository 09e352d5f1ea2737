"""A pytest plugin: the target of a run as fixtures, and what became of each test as one line of JSON.

An operator's own test asks for `target`, Chroma's client of the target, or for `target_collections`, the names of the
collections that the run filled. The variables RUNBOOK_TARGET_URL, RUNBOOK_TARGET_PATH, RUNBOOK_TARGET_TENANT and
RUNBOOK_TARGET_DATABASE say where it is to tests that open it by themselves. Credentials are in none of them.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.errors import one_line
from helpers.migration.checkpoint import Checkpoint
from helpers.run import folders as runs
from helpers.run import kernel
from helpers.run.folders import RunFolder, RunPath, RunState
from helpers.stores import open_target
from helpers.stores.client import ClientStore
from helpers.stores.creation import register_allowed

RUN, OUTCOMES = "RUNBOOK_TESTED_RUN", "RUNBOOK_TEST_OUTCOMES"
_LONGEST = 400


def pytest_configure(config: pytest.Config) -> None:
    """Tests do not outlive the step that runs them; they may import what lies beside them, and hides no module of ours."""
    kernel.end_with_runner()
    sys.path += {str(path if path.is_dir() else path.parent): None for path in map(Path, config.args)}


@pytest.fixture(scope="session")
def runbook_run() -> RunFolder:
    """The run whose target is tested."""
    return runs.find(os.environ[RUN])


@pytest.fixture(scope="session")
def target_store(runbook_run: RunState) -> Iterator[ClientStore]:
    """The target as the toolkit reads it, opened once for all tests."""
    place = runbook_run.parameters.target
    register_allowed(place.embedding_functions)
    with open_target(place) as store:
        yield store


@pytest.fixture(scope="session")
def target(target_store: ClientStore) -> Any:
    """Chroma's own client of the target. What a test does with it is its own affair."""
    return target_store.client


@pytest.fixture(scope="session")
def target_collections(runbook_run: RunFolder) -> list[str]:
    """The target's collections that the run filled."""
    return sorted(Checkpoint.read(runbook_run.workspace / RunPath.CHECKPOINT).owned())


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """A line for the call of each test, and for a set-up or an end that failed or was skipped."""
    if report.when == "call" or report.outcome != "passed":
        _write({"test": _name(report), "when": report.when, "outcome": report.outcome, "seconds": round(report.duration, 3),
                "why": _why(report)})  # fmt: skip


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """A file that cannot be read as tests is a failure, not an absence."""
    if report.failed:
        _write({"test": report.nodeid or "collection", "when": "collect", "outcome": "failed", "seconds": 0.0,
                "why": _last(str(report.longrepr))})  # fmt: skip


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    _write({"finished": int(exitstatus)})


def _name(report: pytest.TestReport) -> str:
    """`file.py::test`: an id from pytest has no file where that lies outside of its root."""
    file, _, test = report.location
    return f"{Path(file).name}::{test}"


def _why(report: pytest.TestReport) -> str:
    if report.outcome == "skipped" and isinstance(report.longrepr, tuple):
        return one_line(str(report.longrepr[2]).removeprefix("Skipped: "), _LONGEST)
    crash = getattr(report.longrepr, "reprcrash", None)
    return one_line(str(crash.message), _LONGEST) if crash is not None else _last(report.longreprtext)


def _last(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return one_line(lines[-1].strip(), _LONGEST) if lines else ""


def _write(line: dict[str, Any]) -> None:
    with Path(os.environ[OUTCOMES]).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")

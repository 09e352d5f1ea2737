"""A run of 2026-11 is read by today's code: an update of the toolkit between two nights takes no run away.

`tests/data/run-of-2026-11.tar.xz` is a rehearsal of 120 chunks, complete but for notebooks, pages and figures (8 MB).
"""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from helpers import audit
from helpers.evidence import signoffs
from helpers.evidence.seals import seals
from helpers.evidence.statement import FIRST
from helpers.migration.checkpoint import Checkpoint
from helpers.results import StepResult
from helpers.run import plan
from helpers.run.folders import RunFolder
from tests.commands import Runbook

RUN = "old-run"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("older")
    with tarfile.open(Path(__file__).parent / "data" / "run-of-2026-11.tar.xz") as packed:
        packed.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module")
def run(home: Path) -> RunFolder:
    return RunFolder(RUN, home / "reports" / RUN, home / "workspace" / RUN)


def test_every_result_is_read_with_the_verdict_that_it_had(run: RunFolder) -> None:
    verdicts = {path.stem: StepResult.read(path).verdict for path in sorted((run.reports / "results").glob("*.json"))}
    assert set(verdicts) == {*(step.number for step in plan.LINE), "27"}
    assert {number for number, verdict in verdicts.items() if verdict == "warning"} == {"11", "20", "24", "25"}
    assert set(verdicts.values()) == {"pass", "warning"}


def test_the_parameters_are_those_that_the_checkpoint_was_made_with(run: RunFolder) -> None:
    """Keys that are new since then have defaults that change nothing, so the run could go on."""
    checkpoint = Checkpoint.read(run.workspace / "checkpoint.json")
    now = run.read().parameters.context()
    assert {key: checkpoint.context[key] for key in now} == now
    assert (checkpoint.phase, checkpoint.total_chunks) == ("complete", 120)


def test_seals_signatures_and_the_audit_log_hold(run: RunFolder) -> None:
    chain = seals(run.reports)
    assert len(chain) == 8
    assert [seal.previous for seal in chain] == [FIRST, *(seal.digest for seal in chain[:-1])]
    assert all(signer and not why for why, signer in signoffs.statements(run.read()).values())
    assert audit.check(run.reports / audit.NAME) is None


def test_the_commands_know_it(home: Path) -> None:
    runbook = Runbook(home)
    listed = runbook("status")
    assert (listed.returncode, listed.stderr) == (0, "")
    assert "old-run  rehearsal  2026-11-28" in listed.stdout
    shown = runbook("status", RUN)
    assert (shown.returncode, shown.stderr) == (0, "")
    for step in plan.LINE:
        assert step.notebook in shown.stdout
    log = runbook("audit", RUN)
    assert (log.returncode, log.stderr) == (0, "")
    assert log.stdout.count("step ends") >= len(plan.LINE)

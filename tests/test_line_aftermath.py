"""What follows a line that ended: hold, the way back where it is due and automatic, one more catch-up, or nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers import cli
from helpers import status as terminals
from helpers.errors import EnvironmentFailure, Interrupted, NoGo, RunbookError, Terminal, UsageError, WaitingForSignoffs
from helpers.parameters import parameters_from
from helpers.reason_codes import ReasonCode
from helpers.results import Verdict
from helpers.rollback import STAGES, Orders, RollbackState
from helpers.run import folders as runs
from helpers.run import plan
from helpers.run.folders import RunFolder
from helpers.run.record import RunRecord
from helpers.runner import outcome
from helpers.runner.notebook import Run
from helpers.runner.pipeline import Choice, _verdict
from helpers.status import next_action, run_rows
from tests.signers import vouch

MIGRATE = plan.find("22")


class Line:
    """Stands for the line and the rollback: what each call ends with is told beforehand, and what was run is kept."""

    def __init__(self, *ends: RunbookError | None) -> None:
        self.ends, self.ran = list(ends), []  # type: tuple[list[RunbookError | None], list[str]]

    def run_line(self, folder: RunFolder, steps: Choice, terminal: Any, *, dry_run: bool = False) -> str:
        self.ran.append(" ".join(step.number for step in (steps(folder.read()) if callable(steps) else steps)))
        if end := self.ends.pop(0):
            raise end
        return "GO"

    def execute(self, folder: RunFolder, orders: Orders, terminal: Any, *, locked: bool) -> int:
        assert locked
        self.ran.append(f"rollback: {orders.why}")
        return 0


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    monkeypatch.setenv("RUNBOOK_REPORTS", str(tmp_path / "reports"))
    monkeypatch.setenv("RUNBOOK_WORKSPACE", str(tmp_path / "workspace"))
    monkeypatch.chdir(tmp_path)
    return a_run("night", automatic=True)


def a_run(name: str, *, automatic: bool) -> RunFolder:
    sections = {"name": "n", "source": {"path": "s"}, "target": {"path": "t"}, "rollback": {"automatic": automatic}}
    folder = runs.create(parameters_from(sections), name)
    RunRecord(folder.read(), "21").result.write(folder.reports / "results" / "21.json")
    return folder


def failed(folder: RunFolder, number: str, code: str, **facts: Any) -> None:
    result = RunRecord(folder.read(), number).result
    result.facts |= facts
    result.error, result.verdict = {"code": code, "type": "EnvironmentFailure", "line": code}, Verdict.FAIL
    result.write(folder.reports / "results" / f"{number}.json")
    vouch(folder.reports)


def missing(folder: RunFolder) -> None:
    rows = [{"collection": "c", "source": 1000, "target": 800, "quarantined": 0, "missing": 200, "extra": 0}]
    failed(folder, "22", "no_go", arrivals=rows)


@pytest.fixture
def ends(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Line, RunbookError | None]]:
    def run(*how: RunbookError | None, of: RunFolder = folder) -> tuple[Line, RunbookError | None]:
        line = Line(*how)
        monkeypatch.setattr(outcome, "run_line", line.run_line)
        monkeypatch.setattr("helpers.runner.outcome.execute", line.execute)
        try:
            outcome.run_to_outcome(of, [MIGRATE], terminals.Console())
        except RunbookError as error:
            return line, error
        return line, None

    return run


Ends = Callable[..., tuple[Line, RunbookError | None]]


def test_a_no_go_is_held(folder: RunFolder, ends: Ends) -> None:
    failed(folder, "22", "no_go")
    line, error = ends(NoGo(ReasonCode.NO_GO, "one vector differs"), None)
    assert line.ran == ["22", "26"]
    assert error is not None
    assert (error.code, error.exit_code) == ("no_go", 3)


def test_a_trigger_rolls_back_where_the_parameters_say_so(folder: RunFolder, ends: Ends) -> None:
    missing(folder)
    line, error = ends(NoGo(ReasonCode.NO_GO, "chunks missing"), None)
    assert line.ran == ["22", "26", "rollback: automatic: 200 chunks are missing in the target, more than 50"]
    assert error is not None
    assert (error.code, error.exit_code) == ("rolled_back", 3)
    assert "rollback.html" in error.line()


def test_a_trigger_is_left_to_a_person_where_they_do_not(folder: RunFolder, ends: Ends) -> None:
    other = a_run("other", automatic=False)
    missing(other)
    line, error = ends(NoGo(ReasonCode.NO_GO, "chunks missing"), None, of=other)
    assert line.ran == ["22", "26"]
    assert error is not None
    assert error.code == "no_go"


def test_a_migration_that_took_too_long_is_a_trigger_and_no_no_go_by_itself(folder: RunFolder, ends: Ends) -> None:
    failed(folder, "22", "time_limit")
    line, error = ends(Terminal(ReasonCode.TIME_LIMIT, "too long"), None)
    assert [ran.split(":")[0] for ran in line.ran] == ["22", "26", "rollback"]
    assert error is not None
    assert error.exit_code == 3


def test_a_rollback_that_must_stop_is_what_the_command_ends_with(
    folder: RunFolder, ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing(folder)
    stop = Terminal(ReasonCode.SOURCE_DAMAGED, "a person decides")
    monkeypatch.setattr(Line, "execute", lambda *_, **__: (_ for _ in ()).throw(stop))
    _, error = ends(NoGo(ReasonCode.NO_GO, "chunks missing"), None)
    assert error is stop


@pytest.mark.parametrize(
    "error",
    [
        Interrupted(ReasonCode.INTERRUPTED, "stopped"), WaitingForSignoffs(ReasonCode.SIGNOFFS_MISSING, "sign"),
        EnvironmentFailure(ReasonCode.OUTSIDE_WINDOW, "opens later"), EnvironmentFailure(ReasonCode.UNREACHABLE, "no answer"),
    ],
)  # fmt: skip
def test_what_judges_nothing_is_followed_by_nothing(error: RunbookError, ends: Ends) -> None:
    line, ended = ends(error)
    assert (line.ran, ended) == (["22"], error)


def test_a_source_that_changed_is_caught_up_and_waits_for_new_signatures(folder: RunFolder, ends: Ends) -> None:
    failed(folder, "25", "source_changed")
    line, error = ends(
        EnvironmentFailure(ReasonCode.SOURCE_CHANGED, "2 chunks"),
        WaitingForSignoffs(ReasonCode.SIGNOFFS_MISSING, "sign"),
    )
    assert line.ran == ["22", "22 23 24"]
    assert error is not None
    assert error.exit_code == 4


def test_a_source_that_changes_for_ever_is_no_go(folder: RunFolder, ends: Ends) -> None:
    failed(folder, "25", "source_changed")
    changed = EnvironmentFailure(ReasonCode.SOURCE_CHANGED, "again")
    line, error = ends(changed, None, changed, None, changed, None)
    assert line.ran[1::2] == ["22 23 24"] * 3
    assert error is not None
    assert (error.code, error.exit_code) == ("source_changed", 3)


def test_a_run_that_goes_back_does_not_go_on(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    state = RollbackState.begin(folder.workspace, folder.id, Orders(why="trial"))
    for command in (["resume", "night"], ["run", "--run-id", "night", "--from", "21"]):
        assert cli.main(command) == 2
        assert "runbook rollback night" in capsys.readouterr().err
    with pytest.raises(UsageError, match="does not go on"):
        Run(folder.read(), "25").open()
    state.stages = {stage: {"state": "done"} for stage in STAGES}
    state.finished = "2025-12-01T03:00:00+00:00"
    state.save(folder.workspace)
    assert cli.main(["resume", "night"]) == 2
    assert "Begin a new run" in capsys.readouterr().err
    assert "Rolled back, finished 2025-12-01 03:00:00 UTC" in next_action(folder.read())
    assert run_rows()[0]["due"] == "nothing: rolled back"


def test_a_dry_run_of_the_rollback_claims_no_rollback(own_folders: None) -> None:
    ends = {"source": {"path": "old"}, "target": {"path": "new"}}
    folder = runs.create(parameters_from({"name": "night", **ends}), "night")
    assert _verdict(folder, [plan.Step.ROLLBACK], None, True).startswith("none, dry run: nothing was rolled back")
    assert _verdict(folder, [plan.Step.ROLLBACK], None, False) == "Rollback succeeded"

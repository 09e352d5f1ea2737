"""A fence of the operator's own commands, directories, and the fence on the line of a run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers import cli
from helpers.errors import Terminal, UsageError
from helpers.fence import FenceControl, FenceState, lift
from helpers.parameters import parameters_from
from helpers.rehearsal import write_sample
from helpers.results import Verdict
from helpers.run import folders as runs
from helpers.run import plan
from helpers.run.command import who_has_open
from helpers.run.folders import RunFolder, RunState
from helpers.runner.outcome import with_fence
from helpers.runner.pipeline import run_line
from helpers.status import Console as Screen
from helpers.steps.fence_writes import FenceWritesStep
from tests.fences import at_step, wait_for

Made = Callable[..., RunState]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sample(tmp_path_factory.mktemp("sample") / "source", chunks=60, dimension=8)


@pytest.fixture
def made(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    """`made(fence)`: a run whose source is a directory."""
    monkeypatch.setenv("RUNBOOK_REPORTS", str(tmp_path / "reports"))
    monkeypatch.setenv("RUNBOOK_WORKSPACE", str(tmp_path / "workspace"))

    def make(fence: dict[str, Any] | None = None, run_id: str = "night") -> RunState:
        sections = {"name": "t", "source": {"path": str(source)}, "target": {"path": str(tmp_path / "target")}}
        return runs.create(parameters_from(sections | ({"fence": fence} if fence else {})), run_id)

    return make


def commands(folder: Path, lock: str = "exit 0", unlock: str = "exit 0") -> dict[str, Any]:
    """Small programs that write down that they ran, and then do as told."""
    made = {}
    for name, body in (("lock", lock), ("unlock", unlock)):
        path = folder / f"{name}.sh"
        path.write_text(f'#!/bin/sh\necho "$0 $1" >> {folder}/ran\n{body}\n', encoding="utf-8")
        path.chmod(0o755)
        made[name] = [str(path), f"a b;$(touch {folder}/shell)"]
    return {"kind": "command", "command": made, "timeout_seconds": 5.0}


def ran(folder: Path) -> list[str]:
    file = folder / "ran"
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return [Path(line.split()[0]).stem for line in lines]


def step(folder: RunFolder, *, dry_run: bool = False) -> Any:
    """All cells of the notebook; the step's result, without its end."""
    with at_step(folder, dry_run=dry_run) as run:
        fence = FenceWritesStep(run)
        fence.urls()
        fence.plan()
        fence.before()
        fence.put_up()
        fence.prove()
        fence.undo()
        return run.result


def unused(source: Path) -> Verdict:
    """How a directory that nobody uses comes out: proven only where every process can be looked at."""
    found = who_has_open(source)
    return Verdict.WARNING if found.unseen else Verdict.PASS


def checks(result: Any) -> dict[str, Verdict]:
    return {c.name: c.verdict for c in result.checks}


@pytest.fixture
def holder(source: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the source's database open."""
    code = "import sys; f = open(sys.argv[1], 'rb'); print('open', flush=True); sys.stdin.read()"
    database = str(source / "chroma.sqlite3")
    with subprocess.Popen(
        [sys.executable, "-c", code, database], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        yield process
        process.kill()


def test_commands_lock_and_unlock_without_a_shell(made: Made, source: Path, tmp_path: Path) -> None:
    folder = made(commands(tmp_path))
    untried = dict.fromkeys(
        ("writes before the fence", "writes through the fence", "write fence"), Verdict.NOT_EXERCISED
    )
    assert checks(step(folder)) == {"processes that use the source": unused(source), **untried}
    assert ran(tmp_path) == ["lock"]
    assert "is lifted" in lift(folder.read())
    assert "lifted already" in lift(folder.read())
    assert ran(tmp_path) == ["lock", "unlock"]
    assert not (tmp_path / "shell").exists()


@pytest.mark.parametrize(
    ("lock", "said"),
    [("echo no right >&2; exit 3", "exit code 3: no right"), ("sleep 30", "took longer than 1 seconds and was ended")],
)
def test_a_lock_that_fails_or_hangs_is_undone(made: Made, tmp_path: Path, lock: str, said: str) -> None:
    folder = made(commands(tmp_path, lock=lock) | {"timeout_seconds": 1.0})
    with pytest.raises(Terminal, match=said):
        FenceControl(folder, folder.read().parameters).put_up()
    assert ran(tmp_path) == ["lock", "unlock"]
    state = FenceState.load(folder.workspace)
    assert state is not None
    assert not state.may_be_active


def test_an_unlock_that_fails_leaves_the_fence_recorded(made: Made, tmp_path: Path) -> None:
    folder = made(commands(tmp_path, unlock="exit 1"))
    step(folder)
    with pytest.raises(Terminal, match="the unlock command ended with exit code 1"):
        lift(folder.read())
    state = FenceState.load(folder.workspace)
    assert state is not None
    assert "may be in place" in state.sentence()
    commands(tmp_path)
    assert "is lifted" in lift(folder.read())


def test_a_fence_is_lifted_as_it_was_set_whatever_the_parameters_say_now(made: Made, tmp_path: Path) -> None:
    folder = made(commands(tmp_path))
    step(folder)
    before = folder.read().parameters
    other_text = runs.parameters_text(before.model_copy(update={"fence": type(before.fence)()}))
    (folder.reports / "parameters.yaml").write_text(other_text, encoding="utf-8")
    lift(folder.read())
    assert ran(tmp_path) == ["lock", "unlock"]

    step_again = FenceControl(folder, before)
    step_again.put_up()
    other = type(before.fence).model_validate(commands(tmp_path) | {"command": {"lock": ["x"], "unlock": ["y"]}})
    with pytest.raises(UsageError, match="was set with other parameters"):
        FenceControl(folder, before, other).put_up()


def test_none_is_a_warning_and_runs_nothing(made: Made, source: Path) -> None:
    folder = made()
    result = step(folder)
    assert checks(result) == {"write fence": Verdict.NOT_EXERCISED, "processes that use the source": unused(source)}
    assert [c.reason for c in result.checks if c.name == "write fence"] == ["no_fence"]
    assert FenceState.load(folder.workspace) is None


def test_a_dry_run_runs_no_command(made: Made, tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    result = step(made(commands(tmp_path)), dry_run=True)
    assert checks(result) == {"write fence": Verdict.NOT_EXERCISED, "processes that use the source": Verdict.WARNING}
    assert ran(tmp_path) == []


def test_a_directory_that_another_process_has_open_fails(
    made: Made, source: Path, tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    found = who_has_open(source)
    assert list(found.processes) == [holder.pid]
    folder = made(commands(tmp_path))
    result = step(folder)
    check = next(c for c in result.checks if c.name == "processes that use the source")
    assert check.verdict is Verdict.FAIL
    assert f"process {holder.pid}" in check.detail
    assert ran(tmp_path) == ["lock", "unlock"], "a fence that is not proven keeps clients out for nothing"
    holder.kill()
    wait_for(lambda: not who_has_open(source).processes)


def test_steps_that_want_the_fence_have_it_put_up_again(made: Made, tmp_path: Path) -> None:
    night = [plan.find(n) for n in ("21", "22", "23")]
    assert with_fence(made(run_id="bare"), night) == night
    folder = made(commands(tmp_path))
    assert [s.number for s in with_fence(folder.read(), night)] == ["20", "21", "22", "23"]
    assert with_fence(folder.read(), night[2:]) == night[2:]
    step(folder)
    assert with_fence(folder.read(), night) == night
    lift(folder.read())
    assert [s.number for s in with_fence(folder.read(), night[1:])] == ["20", "22", "23"]
    # What was signed covers the earlier result of step 20: the decision is made and sealed anew, or nobody could sign.
    assert [s.number for s in with_fence(folder.read(), [plan.find("25")])] == ["20", "24", "25"]


@pytest.mark.more
def test_until_lifts_the_fence_that_the_run_set(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Through the real notebook, on the line; the end of the line itself keeps the fence for cutover and closeout."""
    folder = made(commands(tmp_path))
    run_line(folder, [plan.find("20")], Screen())
    assert f"The write fence of run {folder.id} is lifted" in capsys.readouterr().out
    assert ran(tmp_path) == ["lock", "unlock"]
    result = folder.read().result("20")
    assert result is not None
    assert checks(result)["write fence"] is Verdict.NOT_EXERCISED, "no write was tried"
    assert "write fence" in (folder.reports / "20_fence_writes.html").read_text(encoding="utf-8")


def test_the_command_says_where_the_fence_stands_and_lifts_it(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = made(commands(tmp_path))
    assert cli.main(["fence", folder.id]) == 0
    assert "Run night has no active write fence." in capsys.readouterr().out
    step(folder)
    assert cli.main(["status", folder.id]) == 0
    assert "The write fence (command) is up since" in capsys.readouterr().out
    with runs.RunLock(folder, "runner").acquire():
        assert cli.main(["fence", folder.id, "--lift"]) == 1
    assert "is being worked on by" in capsys.readouterr().err
    assert cli.main(["fence", folder.id, "--lift"]) == 0
    assert cli.main(["fence", folder.id, "--lift"]) == 0
    assert ran(tmp_path) == ["lock", "unlock"]


def test_the_begin_of_a_fence_is_one_time_wherever_it_is_told() -> None:
    """It was first set in the second after the command began, and set again by a repeated step."""
    begun, up, later = (f"2026-11-29T02:00:{second}.900+00:00" for second in ("08", "09", "30"))
    events = [{"when": when, "by": "x", "state": state} for when, state in
              ((begun, "setting"), (up, "up"), (later, "setting"), (later, "up"))]  # fmt: skip
    state = FenceState("command", "up", "lift it", since=begun, events=events)
    assert state.up_at == up
    assert "is up since 2026-11-29 02:00:09 UTC" in state.sentence()
    state.events.append({"when": later, "by": "x", "state": "lifting"})
    assert state.up_at == ""

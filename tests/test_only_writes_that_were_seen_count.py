"""What keeps writes out, and when they get through again, is said only where a write of the application was seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from helpers.fence import UNTRIED
from helpers.parameters import Parameters, parameters_from
from helpers.rehearsal.setup import application_at_work, prepare, with_application
from helpers.report import instant, numbers
from helpers.results import StepResult, Verdict
from helpers.run import folders as runs
from helpers.run.command import run_or_fail, run_program
from helpers.run.folders import RunState
from helpers.stores import open_target
from tests.cutovers import decided, details, migrated, step, verdicts
from tests.rollbacks import Night, usual_source
from tests.test_fence_command import commands
from tests.test_fence_command import step as fenced

THROUGH, FENCE = "writes through the fence", "write fence"
AT_TARGET, END = "writes of the application at the target", "end of the write fence"


@pytest.fixture(autouse=True)
def home(own_folders: None, tmp_path: Path) -> Path:
    return tmp_path


def probe(folder: Path, body: str) -> list[str]:
    """A program by which an application tries a write."""
    path = folder / "probe.sh"
    path.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    path.chmod(0o755)
    return [str(path)]


def made(home: Path, fence: dict[str, Any], write_probe: list[str] | None = None) -> RunState:
    usual_source(home / "source")
    sections: dict[str, Any] = {"name": "t", "source": {"path": "source"}, "target": {"path": "target"}, "fence": fence}
    return runs.create(
        parameters_from(sections | {"cutover": {"write_probe": write_probe, "timeout_seconds": 1.0}}), "night"
    )


def test_a_fence_before_a_directory_is_not_proven_where_no_write_was_tried(home: Path) -> None:
    result = fenced(made(home, commands(home)))
    found = {c.name: c for c in result.checks}
    assert found[THROUGH].verdict is found[FENCE].verdict is Verdict.NOT_EXERCISED
    assert "no write was tried" in found[THROUGH].detail
    assert "proven" not in found[FENCE].detail
    assert result.facts["fence"]["proven"] is False


@pytest.mark.parametrize(
    ("body", "lock", "expected"),
    [
        ("test ! -e locked", "touch locked", (Verdict.PASS, Verdict.PASS, Verdict.PASS)),
        ("exit 0", "exit 0", (Verdict.PASS, Verdict.FAIL, None)),  # the fence is taken down again
        ("exit 1", "exit 0", (Verdict.NOT_EXERCISED, Verdict.NOT_EXERCISED, Verdict.NOT_EXERCISED)),  # never taken
        ("exit 127", "exit 0", (Verdict.NOT_EXERCISED, Verdict.NOT_EXERCISED, Verdict.NOT_EXERCISED)),
        ("sleep 9", "exit 0", (Verdict.NOT_EXERCISED, Verdict.NOT_EXERCISED, Verdict.NOT_EXERCISED)),
    ],
)
def test_a_fence_before_a_directory_is_proven_by_a_write_of_the_application(
    home: Path, body: str, lock: str, expected: tuple[Verdict | None, ...]
) -> None:
    result = fenced(made(home, commands(home, lock=lock), probe(home, body)))
    said = {c.name: c.verdict for c in result.checks}
    assert (said["writes before the fence"], said[THROUGH], said.get(FENCE)) == expected
    assert result.facts["fence"].get("proven", False) is (expected[2] is Verdict.PASS)


@pytest.mark.more
@pytest.mark.parametrize(
    ("body", "verdict", "words"),
    [
        ("exit 1", Verdict.WARNING, "writes to the source refused since"),
        (None, Verdict.NOT_EXERCISED, "until the restart ended; no write was observed"),
    ],
)
def test_the_write_downtime_ends_with_a_write_or_says_that_none_was_seen(
    home: Path, body: str | None, verdict: Verdict, words: str
) -> None:
    (home / "app.env").write_text("CHROMA_URL=before\n", encoding="utf-8")
    files = [{"path": "app.env", "keys": {"CHROMA_URL": "{target_path}"}}]
    folder = migrated(home, {"env_files": files, "write_probe": probe(home, body) if body else None})
    decided(folder)
    result = step(folder)
    assert verdicts(result)[AT_TARGET] is verdict, details(result)
    assert result.verdict is not Verdict.FAIL
    fence = StepResult(
        "20", "Fence", "night", result.started, facts={"fence": {"kind": "command", "up": result.started}}
    )
    assert words in numbers.downtime({"20": fence, "25": result})[1]


def rolled_back(home: Path, write_probe: list[str] | None = None) -> tuple[Verdict, StepResult]:
    """A run that was cut over, fenced and rolled back: how the end of the fence came out, and the result of step 27."""
    usual_source(home / "source")
    night = Night(home, fence=commands(home))
    if write_probe is not None:
        sections = night.folder.read().parameters.document()
        sections["cutover"]["write_probe"] = write_probe
        runs.change_parameters(night.folder, parameters_from(sections))
    for act in (night.snapshot, night.migrate, night.cut_over):
        act()
    fenced(night.folder.read())
    verdict = night.rollback()[END]
    result = night.folder.read().result("27")
    assert result is not None
    return verdict, result


@pytest.mark.more
def test_a_rollback_without_an_observed_write_says_so(home: Path) -> None:
    verdict, result = rolled_back(home)
    assert verdict is Verdict.NOT_EXERCISED
    result.facts["ordered"] = result.started
    found = numbers.rollback(result)
    assert found is not None
    assert not found.observed
    assert "no write was observed" in numbers.rollback_words(found)


@pytest.mark.more
def test_service_is_back_with_the_write_that_was_seen(home: Path) -> None:
    verdict, result = rolled_back(home, probe(home, "exit 0"))
    assert verdict is Verdict.PASS
    found = numbers.rollback(result)
    assert found is not None
    assert found.observed
    taken = instant(result.facts["fence"]["write_taken"])
    begun = numbers.ordered(result)
    assert taken is not None
    assert begun is not None
    assert found.service == (taken - begun).total_seconds()
    assert "a write was taken" in numbers.rollback_words(found)
    said = next(c.detail for c in result.checks if c.name == END)
    assert "a write of the application was taken" in said
    assert UNTRIED not in said
    assert "no write was tried" not in UNTRIED, "the log says it before the application tries one"


@pytest.fixture
def rehearsal(home: Path) -> Parameters:
    folder = home / "workspace" / "try"
    return with_application(prepare(folder, 50, 8), folder / "application")


@pytest.mark.more
def test_the_application_of_a_rehearsal_writes_for_real_and_not_while_its_database_is_locked(
    rehearsal: Parameters,
) -> None:
    fence, tries = rehearsal.fence.command, rehearsal.cutover.write_probe
    assert fence is not None
    assert tries is not None

    def chunks() -> int:
        with open_target(rehearsal.source) as store:
            return sum(store.count(name) for name in store.names())

    with application_at_work(rehearsal):
        assert run_program(tries, 60, "probe").code == 0
        assert chunks() == 50, "what it wrote is removed"
        run_or_fail(fence.lock, 60, "lock")
        refused = run_program(tries, 60, "probe")
        assert (refused.code, refused.last_line) == (1, '403 {"problem": "read-only"}')
        run_or_fail(fence.unlock, 60, "unlock")
        run_or_fail([*tries[:-3], "write", *tries[-2:]], 60, "write")
        assert chunks() == 51

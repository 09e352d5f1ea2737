"""Data walks one way: from the start of a turn of the pipeline to the seal no file of the run is read twice.

Counted is what is opened, in the runner and in the kernel of a real step: run.json, parameters.yaml and each result where
they are parsed (read as text), each seal however it is read, since whoever reads one hashes it.
"""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers import audit, evidence
from helpers.parameters import parameters_from
from helpers.results import StepResult, file_digest, utc_now
from helpers.run import folders as runs
from helpers.run import plan
from helpers.run.folders import RunState
from helpers.runner import pipeline
from helpers.status import Console

pytestmark = pytest.mark.usefixtures("own_folders")

BEGINS = "a step begins"
# What `site` imports first in a kernel of the runner: the same count there.
IN_KERNEL = """
import io, os
opened, log = io.open, os.environ["OPENED"]
def counted(file, mode="r", *rest, **named):
    how = "r" if getattr(named.get("opener"), "__name__", "") == "_plainly" else mode
    with opened(log, "a") as lines:
        lines.write(f"{how} {os.fspath(file) if not isinstance(file, int) else file}\\n")
    return opened(file, mode, *rest, **named)
io.open = counted
"""


@pytest.fixture
def run() -> RunState:
    """A run before step 14, with the results of the steps before it and two seals."""
    given = {"name": "books", "source": {"path": "old"}, "target": {"path": "new"}}
    made = runs.create(parameters_from(given), "night", until="14")
    for step in ("10", "11", "12", "13"):
        estimate = [{"part": "22 import", "seconds": 60.0, "basis": "measured"}] if step == "13" else []
        result = StepResult(step, "", made.id, utc_now(), utc_now(), facts={"estimate": estimate, "execution": ""})
        result.write(path := made.reports / "results" / f"{step}.json")
        audit.append(made.reports / audit.NAME, audit.STEP_ENDS, step=step, result=file_digest(path))
        if step in ("12", "13"):
            evidence.at_rest(made.read())
    return made


def counts(lines: list[str], reports: Path) -> list[Counter[str]]:
    """How often each file of the run is read, by turn."""
    turns: list[Counter[str]] = [Counter()]
    for line in lines:
        mode, _, path = line.partition(" ")
        if line == BEGINS:
            turns.append(Counter())
        elif path.startswith(f"{reports}{os.sep}") and not set(mode) & set("wax+"):
            name = Path(path).relative_to(reports)
            parsed = name.parts[0] in ("run.json", "parameters.yaml", "results") and "b" not in mode
            if parsed or name.parts[0] == "seals":
                turns[-1][name.as_posix()] += 1
    return turns


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], tuple[list[str], list[str]]]:
    """What was opened here, and in kernels: as `mode path`, in order."""
    here: list[str] = []
    there = tmp_path / "opened"
    there.touch()
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(IN_KERNEL, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    monkeypatch.setenv("OPENED", str(there))
    real, start = io.open, pipeline.Execution.start

    def counted(file: Any, mode: str = "r", *rest: Any, **named: Any) -> Any:
        parsed = getattr(named.get("opener"), "__name__", "") == "_plainly"
        here.append(f"{'r' if parsed else mode} {file}")
        return real(file, mode, *rest, **named)

    def begins(execution: pipeline.Execution) -> None:
        start(execution)
        here.append(BEGINS)

    monkeypatch.setattr(pipeline.Execution, "start", begins)
    monkeypatch.setattr(io, "open", counted)
    return lambda: (list(here), there.read_text(encoding="utf-8").splitlines())


def test_a_turn_of_the_pipeline_and_a_kernel_read_each_file_once(
    run: RunState, opened: Callable[[], tuple[list[str], list[str]]]
) -> None:
    assert pipeline.run_line(run, [plan.find("14")], Console()) == "passed up to step 14"
    here, there = opened()
    before, after = counts(here, run.reports)
    kernel = counts(there, run.reports)[0]
    assert [seal.after for seal in evidence.seals(run.reports)] == ["", "", "14", ""], "14 is sealed, and the end"
    every = {"run.json", "parameters.yaml", "results/13.json"}
    assert every < set(after), "the count sees what is read"
    assert {"run.json", "parameters.yaml"} < set(kernel)
    assert sum(name.startswith("seals/") for name in after) == 10, "of two seals: three files made, two read"
    for what, found in (("before the step", before), ("from its end to the seal", after), ("its kernel", kernel)):
        assert {name: n for name, n in found.items() if n > 1} == {}, what


def test_the_same_parameters_are_parsed_once_and_each_reader_has_its_own(
    run: RunState, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run.read().document
    monkeypatch.setattr(runs, "YAML", lambda **options: pytest.fail("parsed again"))
    again = run.read().document
    assert again == first
    again["source"]["path"] = "elsewhere"
    assert run.read().document == first

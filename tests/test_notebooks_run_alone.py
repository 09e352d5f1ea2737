"""Every notebook by plain papermill with parameters/rehearsal.yaml as it stands: alone, in a fresh clone.

Without a rehearsal each says in one line what is missing. With one each runs, in any order that the preconditions of
helpers/run/plan.py allow; here the order is drawn anew for each seed. The checks that docs/runbook-map.md names are in the
results that this leaves, each in that of the notebook beside it.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import pytest

from helpers.run import plan
from tests.runbook_map import rows
from tests.test_frame import tracked

pytestmark = pytest.mark.slow

SEED = 20251201
# As `runbook rehearse` begins: its source, its keys, its application, its run; none of its steps.
PREPARE = """\
from helpers.run import folders
from helpers.rehearsal.setup import FIRST, prepare
folder = folders.RunFolder.of(FIRST)
folders.create(prepare(folder.workspace, 160, 16), folder.id, rehearsal=True)
"""


@dataclass(frozen=True, slots=True)
class Clone:
    """A copy of the repository as a clone has it, with its own reports/ and workspace/."""

    root: Path

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("RUNBOOK_")}
        environment["PYTHONPATH"] = str(self.root)
        return subprocess.run(
            [sys.executable, *command], cwd=self.root, env=environment, capture_output=True, text=True, check=False
        )

    def papermill(self, step: plan.Step) -> subprocess.CompletedProcess[str]:
        """As an operator types it; the executed notebook is out/<notebook>."""
        (self.root / "out").mkdir(exist_ok=True)
        given = ("-f", "parameters/rehearsal.yaml", "--no-progress-bar")
        return self.run("-m", "papermill", f"notebooks/{step.notebook}", f"out/{step.notebook}", *given)

    def said(self, step: plan.Step) -> list[str]:
        """What its cells printed as errors, line by line."""
        book: Any = nbformat.read(self.root / "out" / step.notebook, as_version=4)  # type: ignore[no-untyped-call]
        found = [o for c in book.cells if c.cell_type == "code" for o in c.outputs if o.output_type == "error"]
        return [line for output in found for line in output.traceback]


def cloned(root: Path, there: Path) -> Clone:
    for path in tracked(root):
        copy = there / path.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, copy)
    return Clone(there)


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Clone:
    return cloned(root, tmp_path_factory.mktemp("fresh") / "clone")


@pytest.mark.parametrize("step", plan.Step, ids=lambda step: step.module)
def test_without_a_rehearsal_it_says_in_one_line_what_is_missing(empty: Clone, step: plan.Step) -> None:
    before = sorted(path.name for path in (empty.root / "reports").iterdir())
    done = empty.papermill(step)
    if step.number == "00":  # it looks at runs, and there is none yet
        assert done.returncode == 0, done.stderr
        return
    missing = "workspace/rehearsal/source does not exist: the source of the rehearsal has not been made"
    last = [line for line in done.stderr.splitlines() if line.strip()][-1]
    assert done.returncode == 1
    assert last == f"UsageError: {missing}. make rehearse makes it, and takes it through the whole runbook."
    assert empty.said(step) == [last]
    assert sorted(path.name for path in (empty.root / "reports").iterdir()) == before
    assert not (empty.root / "workspace").exists()


def order(seed: int) -> list[plan.Step]:
    """All notebooks in an order drawn by chance from those that the plan allows; the way back is the last."""
    draw = random.Random(seed)
    left = [step for step in plan.Step if step.number != "27"]
    after: dict[str, set[str]] = {step.number: set(step.needs) for step in left}
    for step in left:
        for outdated in step.outdates:  # what would be outdated by it comes after it
            after[outdated].add(step.number)
    drawn: list[plan.Step] = []
    while left:
        ready = [s for s in left if not after[s.number] & {other.number for other in left}]
        drawn.append(draw.choice(ready))
        left.remove(drawn[-1])
    return [*drawn, plan.find("27")]


def test_the_order_is_another_for_another_seed_and_keeps_what_is_needed() -> None:
    assert len({tuple(step.number for step in order(seed)) for seed in range(20)}) == 20
    for seed in range(20):
        numbers = [step.number for step in order(seed)]
        assert sorted(numbers) == [step.number for step in plan.Step]
        assert all(numbers.index(n) < numbers.index(s.number) for s in plan.Step for n in s.needs if s.number != "27")


@pytest.fixture
def rehearsed(tmp_path: Path, root: Path) -> Clone:
    """The rehearsal before its first step."""
    clone = cloned(root, tmp_path / "clone")
    done = clone.run("-c", PREPARE)
    assert done.returncode == 0, done.stderr
    return clone


# Seals the run and signs for the three roles with its keys, as the runner of a rehearsal does: 25 needs that.
SIGN = """\
from helpers.run import plan
from helpers.run.folders import RunFolder
from helpers.rehearsal.setup import approve
approve(RunFolder.of("rehearsal").read(), plan.find("24"))
"""


def sign(clone: Clone) -> None:
    """By hand it is one line that says what is missing: plain papermill seals nothing."""
    words = ("--role", "dba", "--name", "REHEARSAL dba", "--decision", "go")
    refused = clone.run("-m", "helpers", "sign", "rehearsal", *words, "--key", "workspace/rehearsal/rehearsal_keys/dba")
    assert refused.stderr.splitlines() == [
        "runbook: run rehearsal: step 24 is not sealed yet. Let the runner seal it: .venv/bin/runbook resume rehearsal"
    ]
    done = clone.run("-c", SIGN)
    assert done.returncode == 0, done.stderr


def test_each_runs_alone_in_any_order_that_its_preconditions_allow(rehearsed: Clone, root: Path) -> None:
    for step in order(SEED):
        if step.number == "27":
            looked_at_again(rehearsed)
        done = rehearsed.papermill(step)
        assert done.returncode == 0, f"{step.notebook}: {done.stderr.strip().splitlines()[-1]}"
        if step.gate == "cutover":
            sign(rehearsed)
    checks_of_the_map_are_given(rehearsed, root)


def looked_at_again(clone: Clone) -> None:
    """A finished run: looking is always possible, and what would spoil it is refused in one line."""
    for number in ("10", "12"):
        done = clone.papermill(plan.find(number))
        assert done.returncode == 0, done.stderr
    assert [p.parent.name for p in (clone.root / "reports").glob("*/run.json")] == ["rehearsal"], "10 found the run"
    results = {p.name for p in (clone.root / "reports" / "rehearsal" / "results").iterdir()}
    done = clone.papermill(plan.find("21"))
    assert done.returncode == 1
    assert "has begun to migrate from the snapshot that it has" in done.stderr.strip().splitlines()[-1]
    assert {p.name for p in (clone.root / "reports" / "rehearsal" / "results").iterdir()} == results


def checks_of_the_map_are_given(clone: Clone, root: Path) -> None:
    """In the results of the notebook beside it; a check that this run has no use for is asked for by a test of its own."""
    given: dict[str, set[str]] = {}
    for path in (clone.root / "reports" / "rehearsal").rglob("results/*.json"):
        checks = json.loads(path.read_text(encoding="utf-8"))["checks"]
        given.setdefault(path.stem, set()).update(check["name"] for check in checks)
    tests = "\n".join(p.read_text(encoding="utf-8") for p in sorted((root / "tests").rglob("test_*.py")))
    unseen = [
        (row.id, name) for row in rows(root) for name in row.names("check")
        if not any(name in given.get(number, ()) for number in row.notebooks) and f'"{name}"' not in tests
    ]  # fmt: skip
    assert unseen == []

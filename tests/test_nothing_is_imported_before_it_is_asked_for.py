"""What a kernel and a command import, and no more: a library takes up to two seconds, sixteen times in a run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from helpers.run.plan import Step

# Before `begin` knows its step, and for a command that computes nothing: these third-party packages, and no others.
FEW = {
    "annotated_types", "helpers", "markupsafe", "psutil", "pydantic", "pydantic_core", "ruamel", "tqdm", "typing_extensions",
    "typing_inspection",
}  # fmt: skip
FIGURES_AND_CHECKS = {"matplotlib", "nbconvert", "nbformat", "pandera", "papermill", "scipy", "sklearn"}  # on first use
WITHOUT_CHROMA = (Step.SCHEDULE_AND_NOTIFY, Step.REVIEW, Step.HOLD_AND_TROUBLESHOOT)

_IMPORTED = """
import contextlib, io, json, sys
before = set(sys.modules)
{code}
found = sorted({{name.split(".")[0] for name in set(sys.modules) - before}} - set(sys.stdlib_module_names))
print(json.dumps([name for name in found if not name.startswith("_")]))
"""


def imported(code: str, **environment: str) -> set[str]:
    """The top-level packages outside the standard library that a new process has imported after `code`."""
    done = subprocess.run(
        [sys.executable, "-c", _IMPORTED.format(code=code)], capture_output=True, text=True, timeout=120,
        env={**os.environ, **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def command(line: str) -> str:
    """Code that runs a command in its process; how it ends does not matter here."""
    return f"""
from helpers.cli import main
with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    main({line.split()!r})
"""


def classes_of(steps: list[Step]) -> str:
    return f"""
from helpers.run import plan
from helpers.runner.notebook import step_class
for number in {[str(step) for step in steps]!r}:
    step_class(plan.find(number))
"""


@pytest.fixture(scope="module")
def old_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reports folder of a finished run."""
    home = tmp_path_factory.mktemp("run")
    with tarfile.open(Path(__file__).parent / "data" / "run-of-2026-11.tar.xz") as packed:
        packed.extractall(home, filter="data")
    return next((home / "reports").iterdir())


def test_begin_imports_few_packages() -> None:
    found = imported("from helpers import begin")
    assert "pydantic" in found
    assert found <= FEW, sorted(found - FEW)


def test_a_command_reads_no_source_of_python() -> None:
    """As Pydantic would for the texts below the keys of the parameters, a fifth of a command's start."""
    code = "import helpers.cli, linecache; print([name for name in linecache.cache if 'parameters' in name])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "[]\n"


def test_a_command_that_computes_nothing_imports_few_packages(old_run: Path) -> None:
    folders = {"RUNBOOK_REPORTS": str(old_run.parent), "RUNBOOK_WORKSPACE": str(old_run.parent.parent / "workspace")}
    name = old_run.name
    lines = [
        "--help",
        "status",
        f"status {name}",
        f"fence {name}",
        f"sign {name} --role dba --name A --decision go --key /no",
    ]
    found = imported("".join(map(command, lines)), **folders)
    assert found <= FEW, sorted(found - FEW)
    found = imported(command(f"verify {old_run.name}"), **folders)  # it renders the pages again
    assert found <= FEW | {"jinja2"}, sorted(found - FEW)


@pytest.mark.more
def test_figures_and_checks_are_imported_by_their_first_use() -> None:
    found = imported(classes_of([step for step in Step if step is not Step.INDEX]))
    assert "chromadb" in found
    assert not found & FIGURES_AND_CHECKS


def test_a_step_without_a_database_does_without_its_client() -> None:
    found = imported(classes_of(list(WITHOUT_CHROMA)))
    assert "pandas" in found
    assert not found & {"chromadb", "jinja2", *FIGURES_AND_CHECKS}

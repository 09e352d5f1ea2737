"""A step passes only if its own result of this execution says so, every cell ran, and no output is an error."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from helpers import audit, results
from helpers.errors import EnvironmentFailure, NoGo
from helpers.migration.staging import Quarantine
from helpers.parameters import parameters_from
from helpers.plots.style import empty
from helpers.profiling import similarity
from helpers.results import StepResult, Verdict
from helpers.run import folders as runs
from helpers.run import plan
from helpers.run.folders import RunFolder
from helpers.run.kernel import is_whole
from helpers.run.record import RunRecord
from helpers.runner import pipeline
from helpers.runner.pipeline import Execution, error_of
from helpers.validation.equivalence import searches
from tests import kernels
from tests.notebook_files import CHECK, FINISH, write_notebook

STEP = plan.find("21")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    monkeypatch.setenv("RUNBOOK_REPORTS", str(tmp_path / "reports"))
    monkeypatch.setenv("RUNBOOK_WORKSPACE", str(tmp_path / "workspace"))
    monkeypatch.setattr(runs, "NOTEBOOKS", tmp_path / "notebooks")
    places = {"source": {"path": str(tmp_path / "source")}, "target": {"path": str(tmp_path / "target")}}
    return runs.create(parameters_from({"name": "trial", **places}), "trial")


def execute(
    folder: RunFolder, *cells: str, begins: bool = True, step: plan.Step = STEP, timeout: int | None = None
) -> StepResult:
    write_notebook(runs.NOTEBOOKS / step.notebook, *cells, begins=begins)
    execution = Execution(folder, step, timeout=timeout, template=kernels.template())
    execution.start()
    while not execution.wait(0.2):
        pass
    return execution.result()


def test_a_notebook_that_finishes_passes(folder: RunFolder) -> None:
    result = execute(folder, CHECK, FINISH)
    assert (result.verdict, result.error) == (Verdict.PASS, None)
    assert folder.read().result("21") == result
    assert is_whole(folder.reports / STEP.notebook)


@pytest.mark.parametrize(
    ("cells", "code"),
    [
        ((CHECK, "import sys; sys.exit(0)", FINISH), "notebook_exited"),
        pytest.param((CHECK, FINISH, "import sys; sys.exit(0)"), "notebook_exited", marks=pytest.mark.slow),
        pytest.param((CHECK, "import os; os._exit(0)", FINISH), "kernel_died", marks=pytest.mark.slow),
        ((CHECK, FINISH, "import os; os._exit(0)"), "kernel_died"),
        (("1 / 0", FINISH), "unexpected"),
        pytest.param((CHECK, FINISH, "1 / 0"), "cell_failed", marks=pytest.mark.slow),
        pytest.param(("this is no Python", FINISH), "unexpected", marks=pytest.mark.slow),
        pytest.param(("!exit 3", FINISH), "unexpected", marks=pytest.mark.slow),
        (("found = !exit 3", FINISH), "unexpected"),
        ((CHECK,), "no_result"),
    ],
)
def test_a_notebook_that_does_not_finish_fails(folder: RunFolder, cells: tuple[str, ...], code: str) -> None:
    result = execute(folder, *cells)
    assert result.verdict is Verdict.FAIL
    assert result.error is not None
    assert result.error["code"] == code
    assert folder.read().result("21") == result, "what was found is written down"
    assert isinstance(error_of(result), EnvironmentFailure)


@pytest.mark.more
def test_a_cell_that_takes_too_long_fails(folder: RunFolder) -> None:
    result = execute(folder, "import time; time.sleep(30)", FINISH, timeout=2)
    assert result.error is not None
    assert result.error["code"] == "cell_timeout"


@pytest.mark.more
def test_an_older_result_is_not_this_execution_s(folder: RunFolder) -> None:
    assert execute(folder, CHECK, FINISH).verdict is Verdict.PASS
    result = execute(folder, "2 + 2")
    assert result.verdict is Verdict.FAIL
    kept = list((folder.reports / "earlier").rglob("results/21.json"))
    assert [StepResult.read(path).verdict for path in kept] == [Verdict.PASS], "the earlier result is kept aside"


def test_a_result_that_the_notebook_wrote_itself_counts_for_nothing(folder: RunFolder) -> None:
    forge = (
        "from helpers.results import StepResult\nfrom helpers.run.folders import RunFolder\n"
        f"path = RunFolder.of('{folder.id}').reports / 'results' / '21.json'\n"
        "StepResult('21', 'Snapshot', 'trial', '2025-12-01T00:00:00+00:00', '2025-12-01T00:00:01+00:00').write(path)"
    )
    result = execute(folder, forge, begins=False)
    assert result.error is not None
    assert result.error["code"] == "no_result"


def test_an_error_before_the_step_begins_keeps_its_kind(folder: RunFolder) -> None:
    raising = (
        "from helpers.errors import UsageError\nraise UsageError('bad', 'no such thing', next_step='Try another.')"
    )
    result = execute(folder, raising, begins=False)
    error = error_of(result)
    assert error is not None
    assert (error.exit_code, error.line()) == (2, "no such thing. Try another.")


def test_a_failed_check_of_a_judging_step_is_no_go(folder: RunFolder) -> None:
    fail = "from helpers.results import Verdict\nrun.check('counts', Verdict.FAIL, measured=9, threshold=10)"
    result = execute(folder, fail, FINISH, step=plan.find("13"))
    assert isinstance(error_of(result), NoGo)
    assert result.checks[0].measured == 9
    assert result.error is not None
    assert "counts" in result.error["line"]


@pytest.mark.more
def test_our_errors_are_shown_as_one_line_and_traced_in_the_log(folder: RunFolder) -> None:
    execute(folder, "run.require('13')", FINISH)
    shown = (folder.reports / STEP.notebook).read_text(encoding="utf-8")
    assert "UsageError: step 21 needs step 13" in shown
    assert "record.py" not in shown
    assert "record.py" in folder.log_path.read_text(encoding="utf-8")


def test_what_a_kernel_prints_past_the_notebook_cannot_forge_a_line_of_the_log(folder: RunFolder) -> None:
    forged = "2025-12-01T02:00:00.000+00:00 24 step ends: pass"
    noise = f"import os; os.write(2, b'a warning\\n{forged}\\x1b[2J\\n')"
    execute(folder, CHECK, noise, FINISH)
    lines = folder.log_path.read_text(encoding="utf-8").splitlines()
    assert any(line == "    a warning" for line in lines), "what it printed is kept"
    assert not any(line.startswith(forged) for line in lines)
    assert "\x1b" not in folder.log_path.read_text(encoding="utf-8")


def test_braces_in_the_name_of_a_folder_are_kept(
    tmp_path: Path, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "NOTEBOOKS", tmp_path / "note{books}")
    assert execute(folder, CHECK, FINISH).error is None


def test_the_log_names_a_notebook_as_the_runner_wrote_it(folder: RunFolder) -> None:
    """What somebody writes into it before that line is neither judged, nor shown on its page, nor named."""
    write_notebook(runs.NOTEBOOKS / STEP.notebook, CHECK, FINISH)
    execution = Execution(folder, STEP, template=kernels.template())
    execution.start()
    while not execution.wait(0.2):
        pass
    genuine = execution.output.read_bytes()
    execution.output.write_bytes(
        genuine.replace(b'"cell_type"', b'"x": "forged", "cell_type"').replace(b"check", b"forged")
    )
    assert execution.result().error is None
    pipeline._keep_notebook(folder, execution)
    said = audit.logged_files(folder.reports, None)
    page = execution.output.with_suffix(".html")
    assert said.newest[execution.output.name] == hashlib.sha256(genuine).hexdigest()
    assert said.newest[page.name] == hashlib.sha256(page.read_bytes()).hexdigest()
    assert b"forged" not in page.read_bytes()
    assert said.unnamed({execution.output.name: hashlib.sha256(execution.output.read_bytes()).hexdigest()})


def test_the_log_names_a_result_and_a_figure_as_they_were_written(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are exchanged at once when they lie there."""
    record = RunRecord(folder.read(), STEP.number)
    whole = results.publish

    def exchanged(temporary: Path, path: Path) -> None:
        written[path.relative_to(folder.reports).as_posix()] = hashlib.sha256(temporary.read_bytes()).hexdigest()
        whole(temporary, path)
        path.write_bytes(b"forged")

    written: dict[str, str] = {}
    monkeypatch.setattr(results, "publish", exchanged)
    record.figure("one", empty("Nothing", "no data"), "Nothing is there")
    digest = record.write_result()
    assert record.files == written
    assert written[f"results/{STEP.number}.json"] == digest


@pytest.mark.parametrize("which", ["searches", "quarantine", "findings"])
def test_a_list_is_named_as_it_was_streamed(
    which: str, folder: RunFolder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It is exchanged at once when it lies there; its digest was taken from the disk after that."""
    record, path = RunRecord(folder.read(), STEP.number), folder.reports / "list.gz"

    def write() -> None:
        if which == "searches":
            with searches(path, record.wrote) as line:
                line("alpha", "q", [0.5], "alpha", "restricted", "k nearest", 3, [("a", 0.1)])
        elif which == "quarantine":
            Quarantine(tmp_path / "none").evidence(path, wrote=record.wrote)
        else:
            groups = SimpleNamespace(groups={"x": [("alpha", "a"), ("beta", "b")]})
            places = SimpleNamespace(total=lambda _: 0)
            scan: Any = SimpleNamespace(documents=groups, vectors=SimpleNamespace(groups={}), places=places)
            record.wrote(path, similarity.keep(scan, path))

    write()
    genuine = hashlib.sha256(path.read_bytes()).hexdigest()
    assert record.files == {"list.gz": genuine}
    record.files.clear()
    whole = results.publish

    def exchanged(temporary: Path, path: Path) -> None:
        whole(temporary, path)
        path.write_bytes(b"forged")

    monkeypatch.setattr(results, "publish", exchanged)
    write()
    assert (record.files, path.read_bytes()) == ({"list.gz": genuine}, b"forged")

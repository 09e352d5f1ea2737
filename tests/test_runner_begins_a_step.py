"""What `begin` makes of a notebook's variables: the sections, the run, the lock, and one line for what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from helpers import audit, begin
from helpers.errors import EnvironmentFailure, NoGo, RunbookError, Terminal, UsageError
from helpers.rehearsal import write_sample
from helpers.results import Verdict, file_digest
from helpers.run import folders as runs
from helpers.run.folders import RunLock
from helpers.runner.notebook import Run
from helpers.steps.explore_source import ExploreSourceStep
from helpers.steps.index import IndexStep
from helpers.steps.source_health import SourceHealthStep


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sample(tmp_path_factory.mktemp("sample") / "source", chunks=60, dimension=8)


pytestmark = pytest.mark.usefixtures("own_folders")


@pytest.fixture
def variables(source: Path) -> dict[str, Any]:
    """A parameters cell's variables, as papermill left them."""
    places = {"source": {"path": str(source)}, "target": {"path": "target"}}
    return {"name": "trial", **places, "collections": {}, "schema": "", "run_id": "", "dry_run": False}


def begun(variables: dict[str, Any], step: str) -> Run:
    run = begin(variables, step=step).run
    assert isinstance(run, Run)
    return run


def test_the_sections_become_the_parameters_of_a_new_run(variables: dict[str, Any]) -> None:
    run = begun({**variables, "run_id": "one", "migration": {"workers": 2}}, "10")
    assert (run.id, run.step, run.parameters.migration.workers) == ("one", "10", 2)
    assert run.home.read().parameters == run.parameters
    run.close()


def test_a_name_that_is_no_section_is_refused(variables: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Did you mean 'migration'"):
        begin({**variables, "migraton": {"workers": 2}}, step="10")
    assert list(tmp_path.iterdir()) == []


def test_only_the_parameters_and_the_injected_cell_are_searched_for_names(variables: dict[str, Any]) -> None:
    declared = "name = ''\nsource, target = {}, {}\nrun_id = ''\ndry_run = False"
    again = {**variables, "frame": 1, "In": ["", declared, "# Parameters\nname = 'trial'", "frame = 1"]}
    begun({**again, "run_id": "one"}, "10").close()
    injected = {**again, "In": ["", declared, "# Parameters\nsauce = 1", "frame = 1"], "sauce": 1}
    with pytest.raises(UsageError, match=r"'sauce' .* Did you mean 'source'"):
        begin(injected, step="10")
    corrected = {**again, "In": ["", declared + "\nsauce = {}", declared], "sauce": {}}
    begun({**corrected, "run_id": "one"}, "10").close()


def test_what_a_script_has_imported_is_no_parameter(variables: dict[str, Any]) -> None:
    """`begin(globals())` of a script: modules, functions, classes and tables beside the parameters."""
    imported = {"pd": pd, "Path": Path, "write_sample": write_sample, "frame": pd.DataFrame({"a": [1]})}
    begun({**variables, **imported, "run_id": "one"}, "10").close()
    with pytest.raises(UsageError, match="Did you mean 'migration'"):
        begin({**variables, **imported, "run_id": "two", "migraton": {}}, step="10")


@pytest.mark.parametrize("step", ["10", "11"])
def test_who_looks_at_a_source_needs_no_target(variables: dict[str, Any], tmp_path: Path, step: str) -> None:
    run = begun({**variables, "target": {}, "run_id": "look"}, step)
    if step == "11":
        assert ExploreSourceStep(run).facts()["chunks"].sum() == 60
    else:
        assert len(SourceHealthStep(run).reach())
    run.close()
    assert not list(tmp_path.rglob("no-target-named")), "nothing is made there"
    begun({**variables, "target": {}, "run_id": "look"}, "11").close()
    for later in ("12", "13", "14"):
        with pytest.raises(UsageError, match="begun without a target"):
            begin({"run_id": "look"}, step=later)


@pytest.mark.parametrize("bad", ["../x", "a/b", ".x"])
def test_a_bad_id_is_refused_and_nothing_written(variables: dict[str, Any], bad: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be the id"):
        begin({**variables, "run_id": bad}, step="10")
    assert list(tmp_path.iterdir()) == []


def test_a_source_that_is_not_there_is_one_line_and_nothing_written(variables: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFailure, match="nowhere"):
        begin({**variables, "source": {"path": "nowhere"}}, step="10")
    assert list(tmp_path.iterdir()) == []


def test_a_step_that_comes_too_early_names_the_one_to_run(variables: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="21_snapshot"):
        begin({**variables, "run_id": "one"}, step="22")
    assert list(tmp_path.iterdir()) == []


def test_without_an_id_a_later_step_finds_the_newest_run_of_the_same_migration(variables: dict[str, Any]) -> None:
    first = begun(variables, "10")
    first.close()
    other = begun({**variables, "target": {"path": "other"}}, "10")
    other.close()
    found = begun({**variables, "validation": {"probes": 5}}, "12")
    assert found.id == first.id
    found.close()


def test_the_run_alone_is_enough(variables: dict[str, Any]) -> None:
    begun({**variables, "run_id": "one"}, "10").close()
    run = begun({"run_id": "one"}, "11")
    assert run.parameters.name == "trial"
    run.close()


def test_another_target_needs_another_run(variables: dict[str, Any]) -> None:
    begun({**variables, "run_id": "one"}, "10").close()
    with pytest.raises(UsageError, match="another target"):
        begin({**variables, "run_id": "one", "target": {"path": "other"}}, step="11")


def test_a_step_at_work_keeps_others_out_until_it_has_finished(variables: dict[str, Any]) -> None:
    run = begun({**variables, "run_id": "one"}, "10")
    with pytest.raises(EnvironmentFailure, match="is being worked on"):
        RunLock(run.home, "runner").acquire(wait=0)
    run.check("looked", Verdict.PASS)
    run.finish()
    RunLock(run.home, "runner").acquire(wait=0).release()
    result = run.home.read().result("10")
    assert result is not None
    assert (result.verdict, result.error) == (Verdict.PASS, None)


def test_beginning_again_in_the_same_notebook_starts_afresh(variables: dict[str, Any]) -> None:
    step = begin({**variables, "run_id": "one"}, "10")
    step.run.check("looked", Verdict.FAIL)
    again = begun({**variables, "run_id": "one", "step": step}, "10")
    assert again.result.checks == []
    again.close()


@pytest.mark.parametrize(("step", "kind"), [("10", Terminal), ("13", NoGo)])
def test_a_failed_check_is_written_down_and_raised(
    variables: dict[str, Any], step: str, kind: type[RunbookError]
) -> None:
    run = begun({**variables, "run_id": "one"}, step)
    run.check("counts", Verdict.FAIL, measured=9, threshold=10)
    with pytest.raises(EnvironmentFailure if kind is Terminal else kind, match="counts"):
        run.finish()
    result = run.home.read().result(step)
    assert result is not None
    assert result.verdict is Verdict.FAIL
    assert result.error is not None


def test_the_index_works_before_there_is_any_run(variables: dict[str, Any], tmp_path: Path) -> None:
    index = begin({"run_id": ""}, step="00")
    assert isinstance(index, IndexStep)
    assert set(index.steps()["state"]) == {"to do", ""}
    assert "runbook rehearse" in index.next_action()
    assert index.runs().empty
    index.finish()
    assert list(tmp_path.iterdir()) == []
    begun({**variables, "run_id": "one"}, "10").close()
    newest = begin({"run_id": ""}, step="00")
    assert isinstance(newest, IndexStep)
    assert list(newest.runs().index) == ["one"]
    assert "Step 10" in newest.next_action()
    assert runs.find("one").read().result("00") is None


def test_the_audit_log_says_when_a_step_began_and_how_it_ended(variables: dict[str, Any]) -> None:
    run = begun({**variables, "run_id": "one"}, "10")
    run.check("looked", Verdict.PASS, measured=1)
    run.finish()
    log = run.folder / audit.NAME
    begun_run, *entries = audit.entries(log)
    assert begun_run["action"] == audit.BEGUN
    assert [(e["action"], e["outcome"], e["facts"]["step"]) for e in entries] == [
        ("step begins", "done", "10"), ("step ends", "pass", "10"),
    ]  # fmt: skip
    assert audit.entries(log)[-1]["facts"]["result"] == file_digest(run.folder / "results" / "10.json")
    assert audit.check(log) is None


CELL = 'source = {}\ntarget = {}\nschema = ""\nrun_id = ""\ndry_run = False'


def test_a_section_that_the_cell_does_not_declare_is_used_when_it_is_written_or_injected(
    variables: dict[str, Any],
) -> None:
    injected = {
        **variables,
        "monitoring": {"minutes": 5},
        "In": ["", CELL, "# Parameters\nmonitoring = {'minutes': 5}"],
    }
    run = begun({**injected, "run_id": "one"}, "10")
    assert run.parameters.monitoring.minutes == 5
    run.close()
    written = {**variables, "run_id": "two", "migration": {"workers": 2}, "dry_run": True}
    for history in (
        [f"{CELL}\nmigration: dict = {{'workers': 2}}"],
        [CELL, "migration = {'workers': 2}\nrun_id = 'two'"],
    ):
        run = begun({**written, "In": ["", *history]}, "10")
        assert (run.parameters.migration.workers, run.dry_run) == (2, True)
        run.close()


def test_a_table_by_the_name_of_a_section_is_no_parameter(variables: dict[str, Any]) -> None:
    """A person's own variable, from a cell that ran after the parameters: not taken for a section, and not ignored."""
    history = ["", CELL, "expected = step.counts()"]
    with pytest.raises(UsageError, match=r"'expected' is a DataFrame, not a parameter\. Run"):
        begin({**variables, "expected": pd.DataFrame({"a": [1]}), "In": history}, step="10")
    begun({**variables, "expected": pd.DataFrame({"a": [1]}), "In": [*history, CELL]}, "10").close()


def test_what_a_notebook_leaves_out_stays_as_the_run_has_it(variables: dict[str, Any], source: Path) -> None:
    whole = {"migration": {"workers": 2, "batch_size": 50}, "validation": {"probes": 5}}
    slow = {"path": str(source), "timeout_seconds": 7}
    begun({**variables, **whole, "source": slow, "run_id": "one"}, "10").close()
    for again in ({"run_id": "one"}, {"source": {"path": str(source)}, "target": {"path": "target"}}):
        run = begun({**again, "migration": {"workers": 1}}, "12")
        assert (run.id, run.parameters.migration.workers, run.parameters.migration.batch_size) == ("one", 1, 50)
        assert (run.parameters.validation.probes, run.parameters.source.timeout_seconds) == (5, 7)
        run.close()
    assert [sorted(change["from"]) for change in run.home.read().facts["changes"]] == [["migration.workers"]]
    with pytest.raises(UsageError, match="begun with another id_policy"):
        begin({"run_id": "one", "migration": {"id_policy": "prefix"}}, step="12")


def test_the_table_of_checks_says_by_which_limit_and_parameter_each_was_judged(variables: dict[str, Any]) -> None:
    given = {**variables, "run_id": "one", "expected": {"total": 61, "tolerance": 1}}
    step = begin(given, "10")
    step.counts()
    [row] = step.checks().query("check == 'chunks in all'").to_dict("records")
    assert (row["verdict"], row["expected"], row["measured"], row["parameter"]) == (
        "pass",
        "≤ 1 too many or too few",
        "1 too many or too few",
        "expected.total",
    )
    step.finish()
    result = step.run.home.read().result("10")
    assert {c.parameter for c in result.checks} >= {"expected.collections", "expected.total"}

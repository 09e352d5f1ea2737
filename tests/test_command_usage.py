"""Whatever is wrong costs one line on standard error and the right exit code, and nothing is written."""

from __future__ import annotations

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from helpers import cli
from helpers.parameters import load_parameters
from helpers.results import StepResult, Verdict, utc_now
from helpers.run import folders as runs

FOUR_LINES = "name: trial\nsource: {path: nowhere}\ntarget: {path: target}\nschema: identity\n"

Run = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNBOOK_REPORTS", str(tmp_path / "reports"))
    monkeypatch.setenv("RUNBOOK_WORKSPACE", str(tmp_path / "workspace"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trial.yaml").write_text(FOUR_LINES, encoding="utf-8")
    (tmp_path / "misspelt.yaml").write_text(FOUR_LINES + "migraton: {}\n", encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ("", 2, "COMMAND"),
        ("migrate", 2, "invalid choice"),
        ("run", 2, "needs a parameters file"),
        ("run missing.yaml", 2, "missing.yaml"),
        ("run misspelt.yaml", 2, "migration"),
        ("run trial.yaml --set migration.batchsize=3", 2, "migration.batch_size"),
        ("run trial.yaml --run-id ../../x", 2, "cannot be the id of a run"),
        ("run trial.yaml --from 99", 2, "there is no step '99'"),
        ("run trial.yaml --until validat", 2, "Did you mean 23_validate?"),
        ("run trial.yaml --from 23 --until 22", 2, "comes after"),
        ("run trial.yaml --from 22", 2, "--run-id"),
        ("run trial.yaml --dry-run --from 22", 2, "comes after"),
        ("run --run-id nobody", 2, "there is no run nobody"),
        ("resume nobody", 2, "there is no run nobody"),
        ("resume ../../x", 2, "cannot be the id of a run"),
        ("status nobody", 2, "there is no run nobody"),
        ("sign nobody --role dba --name A --decision go --key k", 2, "there is no run nobody"),
        ("rehearse --chunks 0", 2, "--chunks"),
        ("rehearse --chunks many", 2, "--chunks"),
        ("rehearse --chunks 10", 2, "10 chunks"),
        ("rehearse --run-id a/b", 2, "cannot be the id of a run"),
        ("schema missing.yaml", 2, "missing.yaml"),
        ("run trial.yaml", 1, "nowhere"),
    ],
)
def test_one_line_and_nothing_written(arguments: str, code: int, said: str, capsys: Run, tmp_path: Path) -> None:
    assert cli.main(arguments.split()) == code
    errors = capsys.readouterr().err
    assert errors.startswith("runbook: ")
    assert said in errors
    assert len(errors.splitlines()) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["misspelt.yaml", "trial.yaml"]


def test_verbose_shows_the_traceback_before_the_line(capsys: Run) -> None:
    assert cli.main(["run", "trial.yaml", "--verbose"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("Traceback")
    assert lines[-1].startswith("runbook: ")


def test_an_error_that_nobody_expected_says_where_its_traceback_is(
    capsys: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(run_id: str) -> runs.RunFolder:
        raise ZeroDivisionError("by\nzero")

    monkeypatch.setattr(runs, "find", broken)
    assert cli.main(["resume", "some"]) == 1
    line = capsys.readouterr().err
    assert len(line.splitlines()) == 1
    trace = Path(line.strip().split("The traceback is in ")[1])
    assert "ZeroDivisionError" in trace.read_text(encoding="utf-8")
    trace.unlink()


def made(run_id: str = "one") -> runs.RunFolder:
    return runs.create(load_parameters(Path("trial.yaml")), run_id)


def put(folder: runs.RunFolder, step: str, verdict: Verdict = Verdict.PASS) -> None:
    result = StepResult(step, "A step", folder.id, utc_now(), utc_now(), verdict)
    result.write(folder.reports / "results" / f"{step}.json")


def test_a_run_that_exists_is_resumed_or_run_in_part(capsys: Run) -> None:
    made()
    assert cli.main(["run", "trial.yaml", "--run-id", "one"]) == 2
    assert "runbook resume one" in capsys.readouterr().err
    assert cli.main(["run", "--run-id", "one", "--from", "22"]) == 2
    assert "needs step 10" in capsys.readouterr().err


def test_a_resume_changes_speed_and_nothing_else(capsys: Run) -> None:
    folder = made()
    for key in ("source.path=elsewhere", "target.path=elsewhere", "schema=if_ttt", "snapshot.directory=x", "name=x"):
        assert cli.main(["resume", "one", "--set", key]) == 2
        assert "cannot change" in capsys.readouterr().err
    assert cli.main(["resume", "one", "--set", "migration.batch_size=0"]) == 2
    assert folder.parameters() == load_parameters(Path("trial.yaml"))


def test_other_parameters_than_the_run_s_are_refused(capsys: Run) -> None:
    folder = made()
    put(folder, "10")
    assert cli.main(["run", "trial.yaml", "--run-id", "one", "--from", "11", "--set", "target.path=b"]) == 2
    assert "another target" in capsys.readouterr().err


def test_schema_prints_the_resolved_parameters(capsys: Run) -> None:
    assert cli.main(["schema", "trial.yaml", "--set", "migration.workers=2"]) == 0
    document = YAML(typ="safe").load(capsys.readouterr().out)
    assert document == load_parameters(Path("trial.yaml"), ["migration.workers=2"]).document()


def test_a_source_that_is_down_at_the_start_gets_a_remedy_that_needs_no_run(capsys: Run) -> None:
    assert cli.main(["run", "trial.yaml", "--set", "source={url: 'http://127.0.0.1:9', timeout_seconds: 1}"]) == 1
    said = capsys.readouterr().err
    assert "No run was begun. Once it answers (curl -fsS http://127.0.0.1:9/api/v2/heartbeat" in said
    assert "give the same command again" in said
    assert "papermill" not in said
    assert list(Path("reports").glob("*/run.json")) == []


@pytest.mark.parametrize(
    ("schema", "wrong"),
    [
        ("fields: [{name: a, type: string, defualt: x}]", "did you mean 'default'"),
        ("fields: [{name: a, type: string, default: '{datum}'}]", "did you mean {date}"),
        ("feilds: []", "feilds"),
    ],
)
def test_schema_checks_the_schema_file_too(capsys: Run, schema: str, wrong: str) -> None:
    Path("mine.yaml").write_text(f"name: mine\n{schema}\n", encoding="utf-8")
    assert cli.main(["schema", "trial.yaml", "--set", "schema=mine.yaml"]) == 2
    said = capsys.readouterr()
    assert wrong in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""


def test_schema_says_what_is_still_to_be_named(capsys: Run) -> None:
    assert cli.main(["schema", "trial.yaml", "--set", "contacts.dba=<name and phone>"]) == 2
    said = capsys.readouterr()
    assert "still to be named, where <…> stands: contacts.dba" in said.err
    assert YAML(typ="safe").load(said.out)["contacts"]["dba"] == "<name and phone>", "shown all the same"


def test_status_shows_the_runs_and_what_is_next(capsys: Run) -> None:
    assert cli.main(["status"]) == 0
    assert "runbook rehearse" in capsys.readouterr().out
    folder = made()
    put(folder, "10")
    put(folder, "11", Verdict.WARNING)
    assert cli.main(["status"]) == 0
    assert "one" in capsys.readouterr().out
    assert cli.main(["status", "one"]) == 0
    out = capsys.readouterr().out
    assert "warning" in out
    assert "Step 12" in out
    assert "runbook resume one" in out


def test_reports_may_be_elsewhere(capsys: Run, tmp_path: Path) -> None:
    made()
    assert cli.main(["status", "one", "--reports", "other"]) == 2
    assert str(tmp_path / "other") in capsys.readouterr().err


def test_an_approval_needs_a_decision_to_approve(capsys: Run) -> None:
    made()
    assert cli.main(["sign", "one", "--role", "dba", "--name", "A", "--decision", "go", "--key", "k"]) == 2
    assert "step 24" in capsys.readouterr().err
    assert cli.main(["sign", "one", "--role", "cook", "--name", "A", "--decision", "go", "--key", "k"]) == 2
    assert "cook" in capsys.readouterr().err

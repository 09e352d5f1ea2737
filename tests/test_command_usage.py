"""Whatever is wrong costs one line on standard error and the right exit code, and nothing is written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from helpers import audit, cli
from helpers.cli import run
from helpers.parameters import load_parameters
from helpers.results import StepResult, Verdict, utc_now
from helpers.run import folders as runs
from helpers.snapshots.snapshot import write_snapshot
from tests.conftest import ROOT
from tests.signers import vouch
from tests.storage import chunks, embedded, fill, tree

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
        ("rehearse --chunks 300 --dimension 16", 2, "--dimension 24 or more"),
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


@pytest.mark.parametrize(
    "arguments",
    ["status one", "--help", "nonsense",
     *(pytest.param(a, marks=pytest.mark.slow) for a in
       ("status", "audit one", "schema trial.yaml", "verify one", "fence one", "snapshots list",
        "rollback one --dry-run"))],
)  # fmt: skip
def test_a_reader_that_has_seen_enough_breaks_no_command(capsys: Run, arguments: str) -> None:
    """`runbook … | grep -q`: the same exit code as with a reader who stays, no traceback, nothing in the run's log."""
    folder = made()
    command = [sys.executable, "-m", "helpers", *arguments.split()]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    whole = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    log = folder.log_path.read_text(encoding="utf-8") if folder.log_path.exists() else ""
    read, write = os.pipe()
    os.close(read)
    try:
        cut = subprocess.run(command, env=environment, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
        deaf = subprocess.run(command, env=environment, stdout=write, stderr=write, check=False)
    finally:
        os.close(write)
    assert cut.returncode == deaf.returncode == whole.returncode
    assert cut.stderr == whole.stderr
    assert "Traceback" not in log
    assert "BrokenPipe" not in (folder.log_path.read_text(encoding="utf-8") if folder.log_path.exists() else "")


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


def made(*settings: str) -> runs.RunFolder:
    return runs.create(load_parameters(Path("trial.yaml"), settings), "one")


def put(folder: runs.RunFolder, step: str, verdict: Verdict = Verdict.PASS) -> None:
    result = StepResult(step, "A step", folder.id, utc_now(), utc_now(), verdict)
    result.write(folder.reports / "results" / f"{step}.json")
    vouch(folder.reports)


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
    assert folder.read().parameters == load_parameters(Path("trial.yaml"))


def test_a_window_is_moved_by_a_resume_and_people_are_told_again(capsys: Run) -> None:
    """On record with its name and values; the steps behind the announcement of the old hours are set aside."""
    folder = made("window={start: '2031-01-01T02:00:00Z'}")
    for step in ("10", "11", "12", "13", "14"):
        put(folder, step)
    assert cli.main(["resume", "one", "--set", "window.start=2031-01-08T02:00:00Z", "--set", "window.minutes=90"]) == 1
    assert "Undone from step 14 on" in capsys.readouterr().out
    rules = folder.read().parameters.window
    assert (str(rules.start), rules.minutes) == ("2031-01-08 02:00:00+00:00", 90)
    assert folder.read().result("14") is None
    assert folder.read().result("13") is not None
    [change] = [e for e in audit.entries(folder.reports / audit.NAME) if e["action"] == "parameters changed"]
    assert change["facts"]["names"] == ["window.minutes", "window.start"]
    put(folder, "14")
    put(folder, "20")  # the night has begun: nothing is taken back
    assert cli.main(["resume", "one", "--set", "window.minutes=100"]) == 1
    assert folder.read().result("14") is not None


def test_an_edited_parameters_file_is_noticed_by_a_resume(capsys: Run) -> None:
    folder = made()
    file = Path("trial.yaml")
    run.remember_file(folder, file, [])
    assert cli.main(["resume", "one"]) == 1
    assert "was changed since" not in capsys.readouterr().out
    file.write_text(f"# a comment\n{FOUR_LINES}", encoding="utf-8")
    assert cli.main(["resume", "one"]) == 1
    assert "was changed since" not in capsys.readouterr().out, "it says the same"
    file.write_text(f"{FOUR_LINES}migration: {{workers: 2}}\nsnapshot: {{retention_days: 30}}\n", encoding="utf-8")
    assert cli.main(["resume", "one"]) == 1
    said = capsys.readouterr().out
    assert "trial.yaml was changed since the run began: migration.workers, snapshot.retention_days." in said
    assert "--set KEY=VALUE" in said
    assert "was changed since" in folder.log_path.read_text(encoding="utf-8")
    assert folder.read().parameters.snapshot.retention_days != 30
    file.write_text("no: [yaml", encoding="utf-8")
    assert cli.main(["resume", "one"]) == 1
    assert "cannot be read now" in capsys.readouterr().out


def test_a_resume_may_end_early(capsys: Run) -> None:
    folder = made()
    assert cli.main(["resume", "one", "--until", "9"]) == 2
    assert "there is no step '9'" in capsys.readouterr().err
    assert cli.main(["resume", "one", "--until", "12"]) == 1  # nowhere is no source
    assert folder.read().facts["until"] == "12"
    for step in ("10", "11", "12"):
        put(folder, step)
    assert cli.main(["resume", "one", "--until", "12"]) == 2
    assert "run one has passed every step up to 12" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["--until", "12"], "has passed every step up to 12"),
        (["--until", "11"], "has passed every step up to 11"),
        (["--retry", "22"], "has not been run"),
        (["--retry", "12", "--until", "11"], "has passed every step up to 11"),
        (["--outside-window", "two\nlines"], "one line of text"),
        (["--set", "signoff.allowed_signers=nowhere"], "cannot be read"),
        (["--set", "migration.batch_size=0"], "batch_size"),
        (["--until", "12", "--outside-window", "the night is short"], "has passed every step up to 12"),
    ],
)
def test_a_resume_that_is_refused_changes_nothing(capsys: Run, wrong: list[str], said: str) -> None:
    folder = made()
    for step in ("10", "11", "12"):
        put(folder, step)
    before = tree(folder.reports)
    assert cli.main(["resume", "one", "--set", "migration.workers=2", *wrong]) == 2
    assert said in capsys.readouterr().err
    assert tree(folder.reports) == before
    assert folder.read().parameters == load_parameters(Path("trial.yaml"))


@pytest.mark.parametrize(
    "order",
    [
        ["resume", "one", "--set", "migration.workers=2", "--until", "13"],
        ["resume", "one", "--retry", "12", "--outside-window", "the night is short"],
        ["run", "--run-id", "one", "--from", "10", "--set", "migration.workers=2"],
        ["run", "trial.yaml", "--run-id", "one", "--from", "10", "--set", "migration.workers=2"],
    ],
)
def test_nothing_is_changed_beside_a_run_that_is_at_work(
    capsys: Run, monkeypatch: pytest.MonkeyPatch, order: list[str]
) -> None:
    folder = made()
    for step in ("10", "11", "12"):
        put(folder, step)
    patient = runs.RunLock.acquire
    monkeypatch.setattr(runs.RunLock, "acquire", lambda lock, wait=0.0: patient(lock, 0))
    before = tree(folder.reports)
    with runs.RunLock(folder, "runner"):
        assert cli.main(order) == 1
    assert "is being worked on by process" in capsys.readouterr().err
    assert tree(folder.reports) == before


@pytest.mark.parametrize("wrong", [["--from", "22"], ["--from", "10", "--outside-window", "two\nlines"]])
def test_a_run_in_part_that_is_refused_changes_nothing(capsys: Run, wrong: list[str]) -> None:
    folder = made()
    before = tree(folder.reports)
    for parameters in ([], ["trial.yaml"]):
        assert cli.main(["run", *parameters, "--run-id", "one", "--set", "migration.workers=2", *wrong]) == 2
        capsys.readouterr()
        assert tree(folder.reports) == before


@pytest.mark.parametrize("named", [["--collection", "gamma"], ["--replay-to", "gamma"]])
def test_a_rollback_that_names_an_unknown_collection_begins_nothing(
    tmp_path: Path, capsys: Run, named: list[str]
) -> None:
    with embedded(tmp_path / "nowhere") as store:
        fill(store, "notes", chunks(3))
        snapshot = write_snapshot(store, tmp_path / "kept", "one-21", ["notes"], retention_days=1)
    folder = made()
    result = StepResult("21", "Snapshot", folder.id, utc_now(), utc_now(), Verdict.PASS)
    result.facts["snapshot"] = {"id": "one-21", "folder": str(snapshot.folder), "retain_until": utc_now()}
    result.write(folder.reports / "results" / "21.json")
    before = tree(folder.reports), tree(folder.workspace)
    assert cli.main(["rollback", "one", *named]) == 2
    assert "has no collection gamma. It has notes. Nothing was done." in capsys.readouterr().err
    assert (tree(folder.reports), tree(folder.workspace)) == before


def test_who_signs_at_the_wrong_gate_is_told_which_one_waits(capsys: Run) -> None:
    folder = made("signoff={dry_run: [dba], required: [dba, security]}")
    put(folder, "14")
    sign = ["sign", "one", "--name", "A", "--decision", "go", "--key", "k", "--role"]
    assert cli.main([*sign, "dba"]) == 2
    assert "sign with --gate dry-run" in capsys.readouterr().err
    assert cli.main([*sign, "security", "--gate", "dry-run"]) == 2
    assert "Roles that do: dba." in capsys.readouterr().err
    result = StepResult("24", "A step", folder.id, utc_now(), utc_now(), Verdict.PASS, facts={"decision": "GO"})
    result.write(folder.reports / "results" / "24.json")
    assert cli.main([*sign, "security", "--gate", "dry-run"]) == 2
    assert "sign without --gate" in capsys.readouterr().err


def test_other_parameters_than_the_run_s_are_refused(capsys: Run) -> None:
    folder = made()
    put(folder, "10")
    assert cli.main(["run", "trial.yaml", "--run-id", "one", "--from", "11", "--set", "target.path=b"]) == 2
    assert "another target" in capsys.readouterr().err


def test_schema_prints_the_resolved_parameters(capsys: Run) -> None:
    assert cli.main(["schema", "trial.yaml", "--set", "migration.workers=2"]) == 0
    document = YAML(typ="safe").load(capsys.readouterr().out)
    assert document == load_parameters(Path("trial.yaml"), ["migration.workers=2"]).document()


@pytest.mark.more
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


def test_status_of_a_run_works_from_any_folder(capsys: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own schema file is named by a path from the folder where it began."""
    Path("mine.yaml").write_text("name: mine\n", encoding="utf-8")
    made("schema=mine.yaml")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert cli.main(["status", "one"]) == 0
    assert "one" in capsys.readouterr().out


def test_schema_says_what_is_still_to_be_named(capsys: Run) -> None:
    assert cli.main(["schema", "trial.yaml", "--set", "contacts.dba=<name and phone>"]) == 2
    said = capsys.readouterr()
    assert "these still hold <…>, a placeholder: contacts.dba" in said.err
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

"""Run ids, folders, locks, and what may change in a run that has begun."""

from __future__ import annotations

import datetime as dt
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers import audit
from helpers.errors import EnvironmentFailure, UsageError
from helpers.evidence import signing
from helpers.parameters import Parameters, parameters_from
from helpers.reason_codes import ReasonCode
from helpers.results import Verdict
from helpers.rollback import at_work
from helpers.run import folders as runs
from helpers.run import plan
from helpers.run.folders import RunFolder, RunLock
from helpers.run.record import RunRecord, describe

BAD_IDS = ["../../x", "a/b", "", ".", "..", ".hidden", "-x", "a..b", "end.", "x" * 65, "a b", "ü", "a\n", "a\x00"]
OURS = ["snapshots", "runner_key", "runner_key.pub", "sample", "index.html", "README.md"]

BEGAN = dt.datetime(2026, 11, 30, 2, tzinfo=dt.UTC)


pytestmark = pytest.mark.usefixtures("own_folders")


def parameters(**sections: object) -> Parameters:
    return parameters_from({"name": "A night's trial!", "source": {"path": "s"}, "target": {"path": "t"}, **sections})


@pytest.mark.parametrize("bad", BAD_IDS)
def test_an_id_that_is_no_plain_name_is_refused_and_nothing_written(bad: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be the id of a run"):
        runs.check_run_id(bad)
    if bad:
        with pytest.raises(UsageError):
            runs.create(parameters(), bad)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [*OURS, "Snapshots", "RUNNER_KEY"])
def test_a_name_that_the_folders_of_runs_use_themselves_is_no_id(name: str, tmp_path: Path) -> None:
    """A run of the name would lie among the snapshots, or in the place of the key; disks may not tell a letter's case."""
    with pytest.raises(UsageError, match=r"cannot be the id of a run\. .*no name of ours"):
        runs.create(parameters(), name)
    assert list(tmp_path.iterdir()) == []
    assert runs.check_run_id(f"night-{name}") == f"night-{name}"


@pytest.mark.parametrize("good", ["a", "night-1", "A.b_c-9", "x" * 64])
def test_plain_names_are_ids(good: str) -> None:
    assert runs.check_run_id(good) == good


def test_a_made_up_id_says_what_and_when_and_is_free() -> None:
    first = runs.create(parameters())
    assert re.fullmatch(r"a-night-s-trial-\d{8}-\d{6}", first.id)
    assert runs.create(parameters()).id != first.id


def test_a_made_up_id_is_not_that_of_a_run_that_was_killed_as_it_began(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the same second: what it left in the workspace is there, its reports are not."""
    monkeypatch.setattr("helpers.run.folders.dt.datetime", type("At", (), {"now": staticmethod(lambda _: BEGAN)}))
    first = runs.new_run_id("trial")
    (runs.workspace_root() / first).mkdir(parents=True)
    assert runs.new_run_id("trial") == f"{first}-2"


def test_a_run_is_created_once() -> None:
    folder = runs.create(parameters(), "one")
    with pytest.raises(UsageError, match="runbook resume one"):
        runs.create(parameters(), "one")
    assert [f.id for f in runs.every_run()] == ["one"]
    assert folder.read().parameters == parameters()
    assert sorted(p.name for p in folder.reports.parent.iterdir()) == ["one"], "no temporary folder is left"


def test_secrets_stay_references(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN_OF_TEST", "hush-hush")
    source = {"url": "http://localhost:8000", "headers": {"Authorization": "env:TOKEN_OF_TEST"}}
    folder = runs.create(parameters(source=source), "one")
    written = "".join(p.read_text(encoding="utf-8") for p in folder.reports.rglob("*") if p.is_file())
    assert "env:TOKEN_OF_TEST" in written
    assert "hush-hush" not in written


def test_context_never_changes_the_rest_is_recorded() -> None:
    folder = runs.create(parameters(), "one")
    assert runs.change_parameters(folder, parameters(migration={"batch_size": 7})) == ["migration.batch_size"]
    assert folder.read().parameters.migration.batch_size == 7
    assert folder.read().facts["changes"][0]["from"] == {"migration.batch_size": 500}
    with pytest.raises(UsageError, match=r"another .*target"):
        runs.change_parameters(folder, parameters(target={"path": "elsewhere"}))
    assert folder.read().parameters.target.path == "t"


def test_relative_paths_are_those_of_the_folder_in_which_the_run_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = runs.create(parameters(), "one")
    other = tmp_path / "other"
    other.mkdir()
    monkeypatch.chdir(other)
    with pytest.raises(UsageError, match="was begun in the folder"):
        runs.change_parameters(folder, parameters())
    folder.enter()
    assert Path.cwd() == tmp_path


def test_an_unknown_run_names_those_there_are() -> None:
    runs.create(parameters(), "one")
    with pytest.raises(UsageError, match="one"):
        runs.find("two")


def test_a_lock_is_dropped_when_its_holder_is_killed(tmp_path: Path) -> None:
    folder = runs.create(parameters(), "one")
    hold = "from helpers.run.folders import *; lock = RunLock(RunFolder.of('one'), 'step').acquire(); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=_with_package()
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(EnvironmentFailure, match=f"process {holder.pid}"):
            RunLock(folder, "step").acquire(wait=0.2)
        holder.kill()
        begun = time.monotonic()
        with RunLock(folder, "step").acquire(wait=10):
            assert time.monotonic() - begun < 5


@pytest.mark.parametrize("how", ["a link", "a link to nothing", "a pipe"])
def test_a_lock_that_is_no_plain_file_is_refused_in_one_line(tmp_path: Path, how: str) -> None:
    """A link in its place had its file emptied and written to; a pipe held up whoever asked."""
    folder, other = runs.create(parameters(), "one"), tmp_path / "other"
    lock = folder.workspace / "step.lock"
    if how == "a pipe":
        os.mkfifo(lock)
    else:
        lock.symlink_to(other)
    if how == "a link":
        other.write_text("mine", encoding="utf-8")
    with pytest.raises(EnvironmentFailure, match="is a link or a special file") as refused:
        RunLock(folder, "step").acquire(0)
    assert refused.value.where == str(lock)
    assert other.exists() == (how == "a link")
    assert how != "a link" or other.read_text(encoding="utf-8") == "mine"
    if how != "a link to nothing":
        with pytest.raises(EnvironmentFailure, match="is a link or a special file"):
            _ = RunLock(folder, "step").is_held_elsewhere
    with pytest.raises(EnvironmentFailure, match="is a link or a special file"):
        at_work(folder)


def test_who_holds_a_lock_is_told_apart() -> None:
    folder = runs.create(parameters(), "one")
    assert not RunLock(folder, "step").is_held_elsewhere
    with RunLock(folder, "step"):
        assert not RunLock(folder, "step").is_held_elsewhere
        (folder.workspace / "step.lock").write_text("process 1 on elsewhere", encoding="utf-8")
        assert RunLock(folder, "step").is_held_elsewhere


def _with_package() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}


def test_a_later_step_s_result_does_not_outlive_the_step_it_rests_on() -> None:
    folder = runs.create(parameters(), "one")
    for number in ("13", "21", "22", "23", "24"):
        RunRecord(folder.read(), number).result.write(folder.reports / "results" / f"{number}.json")
    runs.supersede(folder, plan.outdated_by(plan.find("22")))
    left = sorted(p.stem for p in (folder.reports / "results").iterdir())
    assert left == ["13", "21"]
    assert len(list((folder.reports / "earlier").rglob("*.json"))) == 3


def test_a_record_keeps_what_a_step_found(tmp_path: Path) -> None:
    folder = runs.create(parameters(), "one")
    run = RunRecord(folder.read(), "10")
    many = [{"collection": "c", "id": str(i)} for i in range(50)]
    check = run.check("duplicates", Verdict.FAIL, measured=50, reason=ReasonCode.DUPLICATES, ids=many)
    assert (len(check.ids), check.offenders) == (20, 50)
    with run.phase("reading") as phase:
        phase.chunks = 5
    assert [(p.name, p.chunks) for p in run.result.phases] == [("reading", 5)]
    run.log("one\nline \x1b[31m\u202e")
    assert len(folder.log_path.read_text(encoding="utf-8").splitlines()) == 3
    assert "\x1b" not in folder.log_path.read_text(encoding="utf-8")


def test_steps_are_found_by_number_and_name() -> None:
    for name in ("23", "validate", "23_validate", "23_validate.ipynb", "notebooks/23_validate.ipynb"):
        assert plan.find(name).number == "23"
    with pytest.raises(UsageError, match="Did you mean 23_validate"):
        plan.find("valdate")
    with pytest.raises(UsageError, match="10_source_health"):
        plan.find("99")
    with pytest.raises(UsageError, match="not part of the standard sequence"):
        plan.on_line("00")
    with pytest.raises(UsageError, match="comes after"):
        plan.between(plan.find("23"), plan.find("22"))


def test_progress_in_words() -> None:
    assert describe("Watch", 1, 1, "seconds", 1.3) == "Watch: 1 second in 1.3 s"
    assert (
        describe("writing", 4500, 9832, "chunks", 12) == "writing: 4,500 of 9,832 chunks (46 %), 12 s, about 14 s to go"
    )
    assert describe("writing", 10, 10, "chunks", 12) == "writing: 10 chunks in 12 s"
    resumed = describe("writing", 4500, 9832, "chunks", 12, before=4000)
    assert resumed.endswith("about 2 min 08 s to go"), "chunks that an earlier attempt wrote say nothing about the pace"
    ended = describe("Import", 1993, 1993, "chunks", 3, before=100)
    assert ended == "Import: 1,993 chunks, 100 of them before this attempt and 1,893 in it, in 3.0 s"
    assert describe("Stage", 20, 20, "chunks", 3, before=20) == "Stage: 20 chunks, all before this attempt, in 3.0 s"


def test_a_resumed_bar_begins_where_the_run_stopped() -> None:
    folder = RunFolder.of(runs.create(parameters(), "one").id)
    with RunRecord(folder.read(), "22").progress("writing", 10) as bar:
        bar.already(6)
    assert '"done": 6' in (folder.workspace / "progress.json").read_text(encoding="utf-8")


def test_a_run_that_was_asked_to_stop_stops_at_the_next_batch() -> None:
    folder = RunFolder.of(runs.create(parameters(), "one").id)
    with RunRecord(folder.read(), "22").progress("writing", 10) as bar:
        bar.advance(5)
        folder.stop_file.touch()
        with pytest.raises(Exception, match="runbook resume one"):
            bar.advance(5)
    assert '"done": 10' in (folder.workspace / "progress.json").read_text(encoding="utf-8")


def test_of_two_commands_that_make_the_runners_key_at_once_one_key_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its private half and its public half are of one pair, or no seal is ever signed again."""
    plain, inside = audit.make_key, list[Path]()

    def make(key: Path, comment: str) -> None:
        plain(key, comment)
        if not inside:  # another command makes its own meanwhile, from the beginning to the end
            inside.append(key)
            audit.runner_key(None, tmp_path)

    monkeypatch.setattr(audit, "make_key", make)
    key = audit.runner_key(None, tmp_path)
    assert len(inside) == 1
    assert audit.public_key(key) == audit.public_key(key.with_suffix(".pub"))
    assert signing.sign(b"{}", "seal", key)

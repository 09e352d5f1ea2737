"""Step 25 on a directory: all files or none, what it refuses, what it takes back, and how it goes on after a kill."""

from __future__ import annotations

import json
import shutil
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from helpers import audit
from helpers.cutover import CutoverState, put_back
from helpers.cutover import application as cutover_state
from helpers.cutover.application import APPLIED, APPLYING, BACKED_UP, DONE, REVERTED, REVERTING
from helpers.cutover.files import put_in_place
from helpers.errors import EnvironmentFailure, NoGo, RunbookError, Terminal, WaitingForSignoffs
from helpers.evidence.signoffs import NO_GO, open_gate
from helpers.migration.source_changes import SourceChanges, prove_unchanged
from helpers.parameters import Endpoint, parameters_from
from helpers.results import Verdict, file_digest
from helpers.run import folders as runs
from helpers.run import plan
from helpers.run.command import used_by
from helpers.run.folders import RunFolder
from helpers.run.record import RunRecord
from helpers.steps.cutover import CutoverControl
from helpers.stores.layout import DATABASE
from tests.conftest import at_home
from tests.cutovers import cells, decided, details, migrated, signers, step, verdicts
from tests.plain_client import opened
from tests.signers import read, sign, vouch
from tests.storage import chunks, embedded, fill

ENV = b'\xef\xbb\xbf# who\r\nexport CHROMA_PATH="/old"  # here\r\nAPI_KEY=s3cret\r\nCHROMA_PATH=/old'
COMPOSE = b"services:\n  app:\n    environment: {API_KEY: s3cret, CHROMA_PATH: /old}\n"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is migrated, once for all tests: each gets a copy, decided and signed."""
    home = tmp_path_factory.mktemp("night")
    with at_home(home):
        migrated(home, _section())
    return home


def _section() -> dict[str, Any]:
    return {
        "env_files": [{"path": "app.env", "keys": {"CHROMA_PATH": "{target_path}"}}],
        "compose_files": [{"path": "compose.yml", "keys": {"CHROMA_PATH": "{target_path}"}}],
        "restart": [["sh", "restart.sh"]],
        "log_files": ["app.log"],
    }


@pytest.fixture
def night(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    home = tmp_path / "home"
    shutil.copytree(template, home)
    monkeypatch.setenv("RUNBOOK_REPORTS", str(home / "reports"))
    monkeypatch.setenv("RUNBOOK_WORKSPACE", str(home / "workspace"))
    monkeypatch.chdir(home)
    folder = runs.find("night")
    for file in [*folder.reports.rglob("*.json"), *folder.reports.glob("*.yaml"), *folder.workspace.rglob("*.json")]:
        if "results" not in file.parts:
            file.write_text(file.read_text().replace(str(template), str(home)))
    vouch(folder.reports)
    folder.note(parameters_sha256=file_digest(folder.reports / "parameters.yaml"))
    decided(folder)
    (home / "app.env").write_bytes(ENV)
    (home / "app.env").chmod(0o640)
    (home / "compose.yml").write_bytes(COMPOSE)
    (home / "app.log").write_bytes(b"an old error\n")
    restarts(home, "exit 0")
    return folder


def restarts(home: Path, body: str) -> None:
    (home / "restart.sh").write_text(f"cat app.env >> seen\necho restarted >> ran\n{body}\n")


def untouched() -> bool:
    kept = (Path("app.env").read_bytes(), Path("compose.yml").read_bytes()) == (ENV, COMPOSE)
    return kept and stat.S_IMODE(Path("app.env").stat().st_mode) == 0o640 and not list(Path().glob(".*.tmp"))


def ran() -> int:
    return Path("ran").read_text().count("restarted") if Path("ran").exists() else 0


def state(night: RunFolder) -> str:
    found = CutoverState.load(night.workspace)
    return found.state if found else ""


def test_files_change_application_restarts_and_the_way_back_is_exact(night: RunFolder) -> None:
    result = step(night)
    new = str(Path("target").absolute()).encode()
    assert Path("app.env").read_bytes() == ENV.replace(b"/old", new)
    assert Path("compose.yml").read_bytes() == COMPOSE.replace(b"/old", new)
    assert stat.S_IMODE(Path("app.env").stat().st_mode) == 0o640
    assert (ran(), state(night)) == (1, DONE)
    found = verdicts(result)
    assert found["cutover"] is Verdict.PASS
    assert found["changes in the source since it was migrated"] is Verdict.PASS
    assert found["application at the target"] is Verdict.WARNING, "nobody can be asked"
    assert found["restart command"] is found["new log lines that mean trouble"] is Verdict.PASS
    assert Verdict.FAIL not in found.values()
    assert "s3cret" not in json.dumps(result.facts) + details(result) + night.log_path.read_text()
    said = put_back(night)
    assert untouched()
    assert (ran(), state(night)) == (2, REVERTED)
    assert any("byte for byte" in line for line in said)
    assert put_back(night) == ["The configuration files were put back already."]
    assert ran() == 2
    log = audit.entries(night.reports / audit.NAME)
    assert [e["outcome"] for e in log if e["action"].startswith("cutover")][-2:] == ["begun", "done"]
    assert audit.check(night.reports / audit.NAME) is None


def test_a_cutover_that_nobody_had_to_sign_does_not_say_that_it_was_signed(night: RunFolder) -> None:
    for name in ("seals", "signoffs"):
        shutil.rmtree(night.reports / name)
    (night.reports / audit.NAME).unlink()
    for name in ("last-seal", "first-line"):
        (night.workspace / name).unlink()
    vouch(night.reports)
    document = night.read().parameters.document()
    document["signoff"]["required"] = []
    runs.change_parameters(night, parameters_from(document))
    decided(night, roles=())
    (found,) = (check for check in step(night).checks if check.name == "decision and sign-offs")
    assert (found.verdict, found.measured, found.threshold) == (
        Verdict.PASS,
        "GO, nobody had to sign",
        "GO, nobody had to sign",
    )


def test_what_a_resume_changes_after_the_cutover_voids_no_signature(night: RunFolder) -> None:
    gate = [plan.find("24")]

    def change(minutes: float) -> None:
        runs.change_parameters(night, night.read().parameters.for_resume([f"monitoring.minutes={minutes}"]))

    change(30)
    assert isinstance(open_gate(night.read(), gate), WaitingForSignoffs), (
        "before it, those who sign see other parameters"
    )
    change(60)
    step(night)
    change(10)
    assert open_gate(night.read(), gate) is None
    (night.reports / "results" / "22.json").write_text("{}")
    assert isinstance(open_gate(night.read(), gate), WaitingForSignoffs), "a result that changed voids them at any time"


def test_a_dry_run_shows_the_diff_and_touches_nothing(night: RunFolder) -> None:
    before = {p: p.read_bytes() for p in Path().rglob("*") if p.is_file() and "reports" not in p.parts}
    with cells(night, dry_run=True) as switch:
        text = switch.plan()
        switch.switch()
    assert '-export CHROMA_PATH="/old" #…' in text
    assert f"+CHROMA_PATH={Path('target').absolute()}" in text
    assert "s3cret" not in text
    assert untouched()
    after = {p: p.read_bytes() for p in Path().rglob("*") if p.is_file() and "reports" not in p.parts}
    assert after.keys() - before.keys() <= {Path("workspace/night/progress.json")}
    assert state(night) == ""


@pytest.mark.parametrize("why", ["unsigned", "no-go signed", "decision", "stale"])
def test_nothing_is_touched_without_go_and_signatures(night: RunFolder, why: str) -> None:
    error: type[RunbookError] = WaitingForSignoffs
    if why == "unsigned":
        for file in (night.reports / "signoffs").glob("cutover-dba-*"):
            file.unlink()
    elif why == "no-go signed":
        sign(read(night.reports), "dba", "D. B. A.", NO_GO, reason="not tonight", key=signers(night).key("dba"))
        error = NoGo
    elif why == "stale":
        file = night.reports / "results" / "22.json"
        file.write_text(file.read_text().replace('"phases"', '"phases" '))
    else:
        decided(night, "NO-GO")
    with pytest.raises(error):
        step(night)
    assert untouched()
    assert (ran(), state(night)) == (0, "")


def test_a_source_that_changed_since_stops_it(night: RunFolder) -> None:
    with embedded(Path("source")) as store:
        store.delete("alpha", ["a3"])
    with pytest.raises(EnvironmentFailure, match="the source changed since") as caught:
        step(night)
    assert caught.value.code == "source_changed"
    assert untouched()
    assert (ran(), state(night)) == (0, "")


@pytest.mark.parametrize(
    ("body", "said"),
    [("echo no such service; exit 3", "exit code 3: no such service"), ("sleep 30", "took longer than 3")],
)
@pytest.mark.more
def test_a_restart_that_fails_takes_everything_back(night: RunFolder, body: str, said: str) -> None:
    restarts(Path(), f"grep -q /old app.env || {{ {body}; }}")
    result = step(night)
    assert untouched()
    assert state(night) == REVERTED
    assert verdicts(result)["cutover"] is Verdict.FAIL
    assert said in details(result)
    assert ran() == 2, "restarted again on the old files"
    restarts(Path(), "exit 0")
    assert verdicts(step(night))["cutover"] is Verdict.PASS


def test_a_restart_that_fails_on_the_way_back_too_says_both_and_can_be_repeated(night: RunFolder) -> None:
    restarts(Path(), "echo broken; exit 4")
    with pytest.raises(EnvironmentFailure, match="undoing it did not finish") as caught:
        step(night)
    assert caught.value.code == "put_back_failed"
    assert untouched(), "the files are back all the same"
    assert state(night) == REVERTING
    restarts(Path(), "exit 0")
    put_back(night)
    assert state(night) == REVERTED


def test_a_new_line_in_the_log_takes_it_back_and_an_old_one_does_not(night: RunFolder) -> None:
    restarts(Path(), "grep -q /old app.env || echo 'ERROR no chroma' >> app.log")
    result = step(night)
    assert untouched()
    assert "app.log: ERROR no chroma" in details(result)


@pytest.mark.more
def test_a_file_that_somebody_else_changed_meanwhile_is_never_overwritten(night: RunFolder) -> None:
    step(night)
    theirs = Path("compose.yml").read_bytes() + b"# mine\n"
    Path("compose.yml").write_bytes(theirs)
    mine = Path("app.env").read_bytes()
    with pytest.raises(Terminal, match="changed by somebody else") as caught:
        put_back(night)
    assert "\n" not in str(caught.value)
    assert (Path("compose.yml").read_bytes(), Path("app.env").read_bytes()) == (theirs, mine), "not one half"
    assert state(night) == DONE


def test_one_file_that_cannot_be_edited_leaves_all_as_they_are(night: RunFolder) -> None:
    Path("compose.yml").chmod(0o444)
    with pytest.raises(Terminal, match=r"compose\.yml: has no write permission"):
        step(night)
    assert Path("app.env").read_bytes() == ENV
    assert state(night) == ""


@pytest.mark.parametrize("at", [BACKED_UP, APPLYING, APPLIED])
def test_what_a_kill_leaves_is_finished_by_repeating(
    night: RunFolder, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_at(night, at, monkeypatch)
    assert state(night) == at
    assert verdicts(step(night))["cutover"] is Verdict.PASS
    assert state(night) == DONE
    assert b"/old" not in Path("app.env").read_bytes() + Path("compose.yml").read_bytes()
    put_back(night)
    assert untouched()


@pytest.mark.more
@pytest.mark.parametrize("at", [BACKED_UP, APPLYING, APPLIED])
def test_what_a_kill_leaves_is_undone_by_putting_back(
    night: RunFolder, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_at(night, at, monkeypatch)
    put_back(night)
    assert untouched()
    assert state(night) == REVERTED


@pytest.mark.more
def test_a_way_back_that_was_killed_half_way_is_finished(night: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    step(night)
    real, left = put_in_place, [1]

    def one(temporary: Path, place: Path, before: str) -> None:
        if not left[0]:
            raise Killed
        left[0] -= 1
        real(temporary, place, before)

    with monkeypatch.context() as patch:
        patch.setattr(cutover_state, "put_in_place", one)
        with pytest.raises(Killed):
            put_back(night)
    assert state(night) == REVERTING
    assert not untouched()
    put_back(night)
    assert untouched()
    assert state(night) == REVERTED


class Killed(BaseException):
    """Passes every `except Exception`, as a kill does."""


def killed_at(night: RunFolder, at: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cutover until it has entered this state and, where it applies, changed one file of two."""
    from helpers.steps import cutover as control

    def die(*_: object, **__: object) -> Any:
        raise Killed

    real, left = put_in_place, [1]

    def one(temporary: Path, place: Path, before: str) -> None:
        if not left[0]:
            raise Killed
        left[0] -= 1
        real(temporary, place, before)

    with monkeypatch.context() as patch:
        if at == APPLYING:
            patch.setattr(control, "put_in_place", one)
        else:
            patch.setattr(CutoverControl, {BACKED_UP: "apply", APPLIED: "restart"}[at], die)
        with pytest.raises(Killed):
            step(night)


@pytest.mark.more
def test_done_is_done_and_repeating_restarts_nothing(night: RunFolder) -> None:
    step(night)
    assert verdicts(step(night))["cutover"] is Verdict.PASS
    assert ran() == 1
    Path("app.env").write_bytes(ENV)
    with pytest.raises(Terminal, match="points elsewhere now"):
        step(night)


def test_a_target_that_lost_a_collection_is_found_before_anything_is_touched(night: RunFolder) -> None:
    with opened(Path("target")) as client:
        client.get_collection("beta").delete(ids=[f"b{n}" for n in range(15)])
    result = step(night)
    assert verdicts(result)["answers of the target"] is Verdict.FAIL
    assert untouched()
    assert ran() == 0


@pytest.mark.parametrize("how", ["one deleted", "one altered", "one added", "all gone"])
def test_a_target_that_changed_since_it_was_validated_is_not_cut_over(night: RunFolder, how: str) -> None:
    """Hours may pass until the last signature; whoever can write there would decide what clients get."""
    with embedded(Path("target")) as store:
        name = store.names()[0]
        ids = sorted(store.ids(name))
        batch = store.read(name, ids[:1])
        if how == "one altered":
            store.delete(name, ids[:1])
            batch.documents = ["somebody's"]
            store.add(name, batch)
        elif how == "one added":
            batch.ids = ["somebody-s"]
            store.add(name, batch)
        else:
            store.delete(name, ids[:1] if how == "one deleted" else ids)
    result = step(night)
    [check] = [check for check in result.checks if check.name == "target as it was validated"]
    kind = {"one altered": "1 changed", "one added": "1 added", "one deleted": "1 gone"}.get(how, f"{len(ids):,} gone")
    assert (check.verdict, check.reason) == (Verdict.FAIL, "target_changed")
    assert kind in check.detail
    assert check.ids[0]["collection"] == name
    assert untouched()
    assert (ran(), state(night)) == (0, "")


def test_a_target_that_changes_while_the_source_is_read_is_not_cut_over(
    night: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_source = prove_unchanged

    def meanwhile(run: RunRecord) -> SourceChanges:
        with embedded(Path("target")) as store:
            name = store.names()[0]
            store.delete(name, sorted(store.ids(name))[:1])
        return read_source(run)

    monkeypatch.setattr("helpers.steps.cutover.prove_unchanged", meanwhile)
    result = step(night)
    assert verdicts(result)["target as it was validated"] is Verdict.FAIL
    assert untouched()
    assert (ran(), state(night)) == (0, "")


SETTINGS = {
    "space": "its space, configuration, indexes changed",
    "metadata": "its metadata changed",
    "function": "its configuration, indexes changed",
}


@pytest.mark.parametrize("how", SETTINGS)
def test_a_target_whose_settings_changed_since_it_was_validated_is_not_cut_over(night: RunFolder, how: str) -> None:
    """Every chunk is as it was, and clients would get other answers, or send their texts to somebody else."""
    with embedded(Path("target")) as store:
        name = store.names()[0]
        info, batch = store.info(name), store.read(name, sorted(store.ids(name)))
        configuration = json.loads(json.dumps(info.configuration))
        space = info.space
        if how == "space":
            space = "l2" if info.space != "l2" else "cosine"
        elif how == "function":
            configuration["embedding_function"] = {"type": "known", "name": "openai", "config": {
                "api_base": "https://thief.example/v1", "api_key_env_var": "OPENAI_API_KEY", "model_name": "m"}}  # fmt: skip
        metadata = {"owner": "somebody"} if how == "metadata" else info.metadata
        store.drop(name)
        store.create(replace(info, space=space, metadata=metadata, configuration=configuration, schema=None))
        store.add(name, batch)
    result = step(night)
    found = {check.name: check for check in result.checks}
    assert found["target as it was validated"].verdict is Verdict.PASS, "the chunks are the same"
    check = found["settings of the target as validated"]
    assert (check.verdict, check.reason) == (Verdict.FAIL, "target_changed")
    assert f"{name}: {SETTINGS[how]}" in check.detail
    assert untouched()
    assert (ran(), state(night)) == (0, "")


@pytest.mark.parametrize("place", ["defaults", "source_key"])
def test_what_a_client_would_build_by_a_changed_schema_is_seen_before_the_cutover(night: RunFolder, place: str) -> None:
    """The configuration says nothing of either; a plain client builds the function, and sends it the application's texts."""
    with embedded(Path("target")) as store:
        name = store.names()[0]
    with closing(sqlite3.connect(Path("target") / DATABASE)) as db, db:
        [text] = db.execute("select schema_str from collections where name = ?", (name,)).fetchone()
        schema = json.loads(text)
        types = schema["defaults"] if place == "defaults" else schema["keys"]["#embedding"]
        planted = {"embedding_function": {"type": "known", "name": "jina", "config": {}}, "source_key": "secret"}
        key = "embedding_function" if place == "defaults" else "source_key"
        types["float_list"]["vector_index"]["config"][key] = planted[key]
        db.execute("update collections set schema_str = ? where name = ?", (json.dumps(schema), name))
    check = next(c for c in step(night).checks if c.name == "settings of the target as validated")
    assert (check.verdict, check.reason) == (Verdict.FAIL, "target_changed")
    assert f"{name}: its indexes changed" in check.detail
    assert (untouched(), ran(), state(night)) == (True, 0, "")


def test_a_collection_that_somebody_made_at_the_target_is_named(night: RunFolder) -> None:
    with embedded(Path("target")) as store:
        fill(store, "planted", chunks(2))
    check = next(c for c in step(night).checks if c.name == "settings of the target as validated")
    assert (check.verdict, check.reason) == (Verdict.WARNING, "target_changed")
    assert check.detail == "made there since, by somebody else: planted"


def test_a_validation_of_an_older_version_is_not_taken_for_a_comparison_of_settings(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folders)
    night = migrated(folders, {})
    monkeypatch.setattr("tests.cutovers.settings_of", lambda _: None)
    decided(night)
    check = next(c for c in step(night).checks if c.name == "settings of the target as validated")
    assert check.verdict is Verdict.NOT_EXERCISED


def test_a_target_that_somebody_has_open_is_not_cut_over(night: RunFolder) -> None:
    """It cannot be compared with what was signed, and who has it open may have changed it."""
    hold = "held = open('target/chroma.sqlite3'); input()"
    with subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE) as process:
        try:
            while used_by(night.read().parameters.target) == "":
                assert process.poll() is None
            result = step(night)
        finally:
            process.kill()
    check = next(c for c in result.checks if c.name == "target as it was validated")
    assert (check.verdict, check.reason) == (Verdict.FAIL, "target_in_use")
    assert untouched()
    assert (ran(), state(night)) == (0, "")


def test_connections_of_before_the_switch_show_no_application(monkeypatch: pytest.MonkeyPatch) -> None:
    target, source = Endpoint(url="http://new:8000"), Endpoint(url="http://old:8000")
    monkeypatch.setattr(cutover_state, "connections", lambda host, port: 3)
    seen = cutover_state.Evidence.before_the_switch(target)
    cutover_state.gather(seen, source, target, [])
    assert not seen.is_present
    monkeypatch.setattr(cutover_state, "connections", lambda host, port: 5)
    cutover_state.gather(seen, source, target, [])
    assert seen.sentence() == "2 connections of other processes to the target"

"""A fleet: rows are runs of their own, one that fails stops no other, a kill and Ctrl-C lose nothing, done rows are not touched.

The processes of the rows are stand-ins here but for one test; tests/heavy/test_fleets_migrate_and_survive_kills.py has real ones.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from bs4 import BeautifulSoup

from helpers import cli, evidence
from helpers.errors import UsageError
from helpers.evidence.signoffs import gate_state
from helpers.parameters import parameters_from
from helpers.report.pages import leave
from helpers.results import StepResult, file_digest, utc_now
from helpers.rollback import at_work
from helpers.run import folders as runs
from helpers.run import plan
from helpers.run.folders import RunFolder
from helpers.runner import fleet
from tests.conftest import ROOT
from tests.fleets import begun, checked, made, ordered, stand_in, write
from tests.fleets import source as new_source
from tests.signers import Signers, small_run
from tests.storage import tree

pytestmark = pytest.mark.usefixtures("folders")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def work(
    monkeypatch: pytest.MonkeyPatch, home: Path, orders: dict[str, dict[str, Any]], parallel: int = 3
) -> tuple[int, str]:
    """The exit code and what was said, with stand-ins that follow these orders."""
    said: list[str] = []
    monkeypatch.setattr(fleet, "_arguments", stand_in(home, orders))
    return fleet.work(fleet.read("f"), parallel, said.append), "\n".join(said)


# -- one row and the others --------------------------------------------------------------------------------------------


def test_three_rows_one_of_them_broken_are_three_runs(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Real runs, of their first step."""
    for name in ("s0", "s1", "s2"):
        new_source(here / name)
    rows = [{"name": n, "source": f"s{i}", "target": f"t{i}"} for i, n in enumerate("abc")]
    rows[1]["expected.total"] = 999  # type: ignore[assignment]
    table, base = write(here, rows)
    assert cli.main(["fleet", str(table), str(base), "--name", "f", "--until", "10", "--parallel", "3"]) == 1
    said = capsys.readouterr()
    assert "3 rows: 2 done, 1 failed" in said.out
    assert "b: failed: chunks in all (4 of 999 expected (expected.total).)" in said.out
    assert said.err == ""
    for name in "abc":
        run = RunFolder.of(f"f-{name}").read()
        assert run.facts["group"] == "fleets/f"
        assert run.result("10") is not None
        assert (run.reports / "VERIFY.txt").is_file()
    assert all(row.seals for row in fleet.read("f").rows)
    assert cli.main(["fleet", "verify", "f"]) == 0
    seals = here / "reports" / "f-a" / "seals"
    for file in seals.iterdir():
        file.unlink()
    capsys.readouterr()
    assert cli.main(["fleet", "verify", "f"]) == 1
    assert f"no seal has the expected SHA-256 {fleet.read('f').rows[0].seals[0]}" in capsys.readouterr().out


def test_a_failed_row_stops_no_other_and_only_what_is_open_is_resumed(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(here, "abcd")
    code, said = work(monkeypatch, here, {"b": {"breaks": "22"}}, parallel=2)
    assert code == 1
    assert "4 rows: 3 done, 1 failed" in said
    assert "b: step broken: 3 chunks are missing." in said
    assert "Next: .venv/bin/runbook fleet resume f --reports" in said
    assert sorted(begun(here)) == ["f-a", "f-b", "f-c", "f-d"]
    before = {name: tree(here / "reports" / f"f-{name}") for name in "acd"}
    code, said = work(monkeypatch, here, {})
    assert code == 0
    assert sorted(begun(here)) == ["f-a", "f-b", "f-b", "f-c", "f-d"]
    assert {name: tree(here / "reports" / f"f-{name}") for name in "acd"} == before
    assert "4 rows: 4 done" in said


@pytest.mark.parametrize(
    ("codes", "worst"), [((0, 4), 4), ((4, 3), 3), ((3, 2, 0), 2), ((3, 1, 4), 1), ((1, 130), 130)]
)
def test_the_exit_code_is_that_of_the_worst_row(codes: tuple[int, ...], worst: int) -> None:
    rows: Any = [type("Row", (), {"code": code}) for code in codes]
    assert fleet.worst(rows) == worst


@pytest.mark.more
def test_so_many_rows_are_at_work_at_a_time_and_no_more(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(here, "abcde")
    orders = {name: {"sleep": 1.0} for name in "abcde"}
    code, _ = work(monkeypatch, here, orders, parallel=2)
    assert code == 0
    spans = [(row.begun, row.ended) for row in fleet.read("f").rows]
    at_once = max(sum(other[0] <= moment < other[1] for other in spans) for moment, _ in spans)
    assert at_once == 2


def test_a_row_whose_parameters_were_changed_is_not_started(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(here, "a")
    file = fleet.folder_of("f").reports / "rows" / "a.yaml"
    file.write_text(file.read_text().replace("target-a", "elsewhere"))
    said: list[str] = []
    assert fleet.work(fleet.read("f"), 1, said.append) == 1
    assert "it is not what was checked when the fleet began" in "\n".join(said)
    assert not RunFolder.of("f-a").exists


def test_an_order_that_something_else_wrote_begins_and_signs_nothing(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The files of a fleet name what is executed, and lie with the evidence; the workspace knows what was ordered."""
    made(here, "ab")
    folder = fleet.folder_of("f").reports
    assert folder.stat().st_mode & 0o777 == 0o700
    file = folder / "rows" / "a.yaml"
    planted = file.read_text().replace("signoff:\n", "signoff:\n  push_digest: [sh, -c, touch planted]\n")
    assert "planted" in planted
    file.write_text(planted)
    state = fleet.read("f")
    state.rows[0].sha256 = file_digest(file)
    state.save(folder)
    words = ["--role", "dba", "--name", "A", "--decision", "go", "--key", "k"]
    for command in (
        ["resume", "f"],
        ["resume", "f", "--until", "53"],
        ["sign", "f", *words],
        ["rollback", "f", "--all-rows"],
    ):
        assert cli.main(["fleet", *command]) == 2
        assert "fleet.json is not the order that was given" in capsys.readouterr().err
    assert not runs.every_run()


def test_an_order_may_be_changed_by_its_own_command_and_a_kill_in_between_leaves_one_of_the_two(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        """As kill -9."""

    def die(*_: object) -> None:
        raise Killed

    made(here, "a")

    def change() -> None:
        with fleet.changing_order("f") as state:
            state.until = "24"

    with monkeypatch.context() as dying:
        dying.setattr(fleet, "_save", die)
        with pytest.raises(Killed):
            change()
    assert fleet.require_own(fleet.read("f")).until == "23"
    change()
    assert fleet.require_own(fleet.read("f")).until == "24"
    assert len((fleet.folder_of("f").workspace / "order").read_text().split()) == 1


# -- kills and signals -------------------------------------------------------------------------------------------------

AT_WORK = """
import json, sys
from pathlib import Path
from helpers.runner import fleet
from tests.fleets import stand_in
fleet._arguments = stand_in(Path.cwd(), json.loads(sys.argv[1]))
sys.exit(fleet.work(fleet.read("f"), 2, lambda text: print(text, flush=True)))
"""


def start(home: Path, orders: str) -> subprocess.Popen[str]:
    with (home / "output.txt").open("w", encoding="utf-8") as out:
        return subprocess.Popen(
            [sys.executable, "-c", AT_WORK, orders], cwd=home, stdout=out, stderr=out, text=True, start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip


def until(true: Any, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def runners(home: Path) -> list[str]:
    """The runs that a process works on."""
    return [row.run for row in fleet.read("f").rows if at_work(RunFolder.of(row.run))]


@pytest.mark.more
def test_what_a_killed_fleet_began_ends_and_is_resumed(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(here, "abc")
    killed = start(here, '{"b": {"sleep": 60}, "c": {"sleep": 60}}')
    until(lambda: len(begun(here)) == 3 and "f-a" not in runners(here))
    before = tree(here / "reports" / "f-a")
    assert sorted(runners(here)) == ["f-b", "f-c"]
    killed.kill()
    killed.wait()
    until(lambda: runners(here) == [], 20)
    code, said = work(monkeypatch, here, {})
    assert (code, sorted(begun(here))) == (0, ["f-a", "f-b", "f-b", "f-c", "f-c"]), said
    assert tree(here / "reports" / "f-a") == before


def test_a_row_that_ended_after_its_fleet_was_killed_is_noted_by_the_next_command(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(here, "a")
    assert work(monkeypatch, here, {})[0] == 0
    ended = fleet.read("f").rows[0]
    fleet.record_row("f", "a", ended="", code=None)  # as the kill left it
    assert work(monkeypatch, here, {})[0] == 0
    row = fleet.read("f").rows[0]
    assert (row.code, row.seals, begun(here)) == (0, ended.seals, ["f-a"])
    assert row.ended


@pytest.mark.more
def test_ctrl_c_lets_the_rows_end_and_says_how_to_go_on(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(here, "abcd")
    stopped = start(here, '{"a": {"sleep": 60}, "b": {"sleep": 60}}')
    until(lambda: len(begun(here)) == 2)
    stopped.send_signal(signal.SIGINT)
    assert stopped.wait(30) == 130
    said = (here / "output.txt").read_text(encoding="utf-8")
    assert "Stopping each row after its current batch" in said
    assert "fleet resume f" in said
    assert runners(here) == []
    assert sorted(begun(here)) == ["f-a", "f-b"]  # c and d were not started
    assert [row.code for row in fleet.read("f").rows] == [130, 130, None, None]
    assert work(monkeypatch, here, {})[0] == 0


def test_a_state_that_was_being_written_is_the_one_before(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        """As kill -9."""

    def die(*_: object) -> None:
        raise Killed

    found = made(here, "ab")
    with monkeypatch.context() as dying:
        dying.setattr("helpers.results.publish", die)
        with pytest.raises(Killed):
            fleet.record_row("f", "a", code=1)
    assert fleet.read("f") == found
    fleet.record_row("f", "a", code=1)  # its lock is free again
    assert fleet.read("f").rows[0].code == 1


# -- sign, roll back, page ---------------------------------------------------------------------------------------------


def waiting(name: str, group: str = "fleets/f", **more: Any) -> None:
    """A run of a row that has passed step 24 and waits."""
    run = runs.create(parameters_from(ordered(name, **more)), f"f-{name}", group=group)
    for number in ("10", "11", "12", "13", "14", "20", "21", "22", "23", "24"):
        StepResult(number, number, run.id, utc_now(), utc_now()).write(run.reports / "results" / f"{number}.json")


def test_a_run_that_does_not_name_the_fleet_is_not_signed_with_it(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made(here, "ab", until="25")
    waiting("a", "fleets/f")
    waiting("b", "")
    assert cli.main(["fleet", "status", "f"]) == 0
    shown = capsys.readouterr().out
    assert "2 rows: 2 waiting" in shown
    assert "dba (cutover)" in shown
    assert "fleet sign f --gate cutover --role ROLE" in shown
    words = ["--role", "dba", "--name", "A", "--decision", "go"]
    assert cli.main(["fleet", "sign", "f", *words]) == 2
    assert "with --key only" in capsys.readouterr().err
    assert cli.main(["fleet", "sign", "f", *words, "--key", "k"]) == 2
    assert "run f-b does not say that it is of fleets/f; nothing was signed" in capsys.readouterr().err
    assert cli.main(["fleet", "sign", "f", *words, "--gate", "closeout", "--key", "k"]) == 2
    assert "no run of fleets/f waits for dba now. See: .venv/bin/runbook fleet status f" in capsys.readouterr().err


def test_each_row_that_waits_is_signed_over_its_own_seal(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made(here, "abc", until="25")
    signers = Signers(here / "keys")
    for name in "ab":
        run = small_run(
            f"f-{name}", signers, group="fleets/f", **ordered(name, signoff={"allowed_signers": str(signers.allowed)})
        )
        evidence.seal(evidence.seal(run.read(), "14"), "24")
        fleet.record_row("f", name, begun=utc_now(), ended=utc_now(), code=4)
    seals = [list(row.seals) for row in fleet.read("f").rows]
    assert [len(s) for s in seals] == [1, 1, 0]
    key = str(signers.key("dba"))
    assert cli.main(["fleet", "sign", "f", "--role", "dba", "--name", "A", "--decision", "go", "--key", key]) == 0
    shown = capsys.readouterr().out
    for name, (seal,) in zip("ab", seals[:2], strict=True):
        assert f"Run f-{name}: " in shown
        assert f"SHA-256 {seal}" in shown
        run = RunFolder.of(f"f-{name}")
        (signed,) = run.reports.glob("signoffs/cutover-dba-*.json")
        assert signed.with_name(f"{signed.name}.sig").is_file()
        assert "dba" not in gate_state(run.read()).missing
    after = fleet.read("f").rows
    assert [len(row.seals) for row in after] == [2, 2, 0]  # a signature is sealed, and that is noted
    assert cli.main(["fleet", "sign", "f", "--role", "dba", "--name", "A", "--decision", "go", "--key", key]) == 2


def test_rows_that_wait_are_not_started_again(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(here, "ab", until="25")
    waiting("a", "fleets/f")
    code, said = work(monkeypatch, here, {"b": {"until": "23", "breaks": "23"}})
    assert (code, begun(here)) == (1, ["f-b"])
    assert "1 failed, 1 waiting" in said


def test_a_rollback_names_its_rows(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made(here, "ab")
    for wrong in ([], ["--rows", "a", "--all-rows"], ["--rows", "z"]):
        assert cli.main(["fleet", "rollback", "f", *wrong]) == 2
    said = capsys.readouterr().err
    assert "needs --rows ROW or --all-rows" in said
    assert "no row is named z" in said
    assert cli.main(["fleet", "rollback", "f", "--all-rows"]) == 0
    assert "Row a: not begun; nothing was done." in capsys.readouterr().out


# -- verify ------------------------------------------------------------------------------------------------------------


def sealed(here: Path) -> fleet.Fleet:
    """A fleet with two rows that were begun, sealed and noted, and one that was not."""
    made(here, "abc", until="25")
    signers = Signers(here / "keys")
    for name in "ab":
        run = small_run(
            f"f-{name}", signers, group="fleets/f", **ordered(name, signoff={"allowed_signers": str(signers.allowed)})
        )
        leave(evidence.seal(run.read(), "14"))
        fleet.record_row("f", name, begun=utc_now(), ended=utc_now(), code=0)
    return fleet.read("f")


def verified(capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, str]:
    capsys.readouterr()
    return cli.main(["fleet", "verify", "f", *more]), capsys.readouterr().out


def without(name: str, folder: Path) -> None:
    """Take a row out of fleet.json."""
    state = fleet.read("f")
    state.rows = [row for row in state.rows if row.name != name]
    state.save(folder)


def forget(folder: Path) -> None:
    """Leave nothing in fleet.json of what became of its rows."""
    state = fleet.read("f")
    for row in state.rows:
        row.begun, row.ended, row.code, row.seals = "", "", None, []
    state.save(folder)


def test_a_fleet_that_is_whole_fits_and_a_row_that_was_never_begun_is_no_fault(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = sealed(here)
    code, said = verified(capsys, "--expect", state.rows[1].seals[0].upper())
    assert code == 0, said
    assert code == 0
    assert "Row c: not begun; nothing was done." in said
    assert "fleet.json has the 3 rows of the order that this workspace knows." in said
    code, said = verified(capsys, "--expect", "0" * 64)
    assert code == 1
    assert f"no seal of a row has the expected SHA-256 {'0' * 64}" in said


@pytest.mark.parametrize(("code", "verdict"), [(1, 0), (None, 1)])
def test_a_row_that_ended_before_it_made_a_run_is_no_fault_and_one_that_was_killed_is(
    code: int | None, verdict: int, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sealed(here)
    fleet.record_row("f", "c", begun=utc_now(), ended=utc_now(), code=code, line="source.path x: no such folder.")
    found, said = verified(capsys)
    assert found == verdict, said
    assert ("Row c: it made no run: source.path x: no such folder." in said) is (verdict == 0)


@pytest.mark.parametrize("what", ["", "run.json"])
@pytest.mark.parametrize("told", [True, False])
def test_a_begun_row_that_is_gone_is_named(
    what: str, told: bool, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whether fleet.json says that it was begun, or only the workspace knows."""
    sealed(here)
    if not told:
        forget(fleet.folder_of("f").reports)
        assert verified(capsys)[0] == 0
    gone = here / "reports" / "f-b" / what
    gone.rename(here / "aside")
    code, said = verified(capsys)
    assert code == 1
    assert f"Row b: it was begun, and {here / 'reports' / 'f-b' / 'run.json'} is not there" in said
    assert "Row c: not begun; nothing was done." in said
    assert cli.main(["fleet", "status", "f"]) == 0
    assert "1 damaged" in capsys.readouterr().out
    assert cli.main(["fleet", "rollback", "f", "--rows", "b"]) == 1
    (here / "aside").rename(gone)
    assert verified(capsys)[0] == 0
    gone.rename(here / "aside")
    assert work(monkeypatch, here, {})[0] == 1
    assert "f-b" not in begun(here)  # a resume does not begin it anew


def test_a_row_whose_process_ended_before_it_made_its_run_is_begun_again(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made(here, "a")
    fleet.record_row("f", "a", begun=utc_now(), ended=utc_now(), code=1, line="it broke")
    code, said = verified(capsys)
    assert (code, "Row a: it made no run: it broke" in said) == (0, True)
    assert work(monkeypatch, here, {})[0] == 0
    assert begun(here) == ["f-a"]


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_row_taken_out_is_named(elsewhere: bool, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = sealed(here)
    folder = fleet.folder_of("f")
    if elsewhere:
        folder.workspace.rename(here / "aside")
        code, said = verified(capsys, "--expect", state.rows[1].seals[0])
        assert code == 0
        assert "Nothing vouches for fleet.json here" in said
    without("b", folder.reports)
    code, said = verified(capsys)
    assert code == 1
    assert ("fleet.json: not the order that was given" in said) is not elsewhere
    assert "b.yaml: fleet.json has no row b" in said
    assert f"{here / 'reports' / 'f-b' / 'run.json'}: it names fleets/f, and fleet.json has no row for it" in said
    (folder.reports / "rows" / "b.yaml").unlink()
    (here / "reports" / "f-b").rename(here / "away")
    code, said = verified(capsys, "--expect", state.rows[1].seals[0])
    assert code == 1
    assert "no seal of a row has the expected SHA-256" in said
    assert verified(capsys)[0] == (0 if elsewhere else 1)  # what nobody noted elsewhere, nobody misses there


def test_other_parameters_and_runs_are_named(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sealed(here)
    file = fleet.folder_of("f").reports / "rows" / "c.yaml"
    text = file.read_text()
    file.write_text(text + "# other\n")
    code, said = verified(capsys)
    assert code == 1
    assert "c.yaml: gone, or not the parameters whose digest fleet.json has" in said
    file.write_text(text)
    assert verified(capsys)[0] == 0
    waiting("c", "")
    assert "f-c/run.json: it does not name fleets/f" in verified(capsys)[1]


def test_a_row_that_does_something_else_than_was_ordered_is_named_and_left_alone(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of three rows that wait one has other workers, which a resume may change, one reads a shard, one works elsewhere."""
    made(here, "abc", until="25")
    waiting("a", migration={"workers": 7})
    waiting("b", collections={"shard": "1/2"})
    (here / "else").mkdir()
    with contextlib.chdir(here / "else"):
        waiting("c")
    said = verified(capsys)[1]
    wrong = {"b": "run f-b has other parameters than were ordered: collections.shard",
             "c": f"run f-c was begun in {here}/else, the fleet in {here}"}  # fmt: skip
    assert [line for line in said.splitlines() if line.startswith("row ")] == [
        f"row {n}: {w}" for n, w in wrong.items()
    ]
    assert cli.main(["fleet", "sign", "f", "--role", "dba", "--name", "A", "--decision", "go", "--key", "k"]) == 2
    assert f"fleet f, row b: {wrong['b']}. Find out who" in capsys.readouterr().err
    assert cli.main(["fleet", "rollback", "f", "--rows", "b"]) == 2
    assert wrong["b"] in capsys.readouterr().err
    found = fleet.read("f")
    for row in found.rows[1:]:
        with pytest.raises(UsageError, match=re.escape(wrong[row.name])):
            fleet._arguments(found, row, RunFolder.of(row.run))
    assert "resume" in fleet._arguments(found, found.rows[0], RunFolder.of("f-a"))


def test_texts_do_not_act_on_the_terminal(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made(here, "a")
    folder, act = fleet.folder_of("f").reports, "\x1b[2K\x1b]0;OWNED\x07"
    state = fleet.read("f")
    state.rows[0].line, state.rows[0].code, state.outside_window = act, 1, act
    state.save(folder)
    assert cli.main(["fleet", "status", "f"]) == 0
    said = capsys.readouterr().out
    assert "a: \\x1b[2K" in said
    for name, run in ((act, f"f-{act}"), ("../x", "f-../x"), ("a", "f-b")):
        state.rows[0].name, state.rows[0].run = name, run
        state.save(folder)
        for command in ("status", "verify", "resume"):
            assert cli.main(["fleet", command, "f"]) == 1
            shown = capsys.readouterr()
            said += shown.out + shown.err
            assert "fleet.json: cannot be read: " in shown.err
            assert ("names the run of another" if name == "a" else "cannot be part of a run's id") in shown.err
    state.rows[0].name, state.rows[0].run, state.id = "b", "x-b", "x"
    state.save(folder)
    assert cli.main(["fleet", "status", "f"]) == 1
    assert "it is of another fleet than its folder is named after" in capsys.readouterr().err
    assert "\x1b" not in said
    assert "\x07" not in said


def test_the_page_shows_steps_chunks_and_who_waits(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(here, "abc", until="25")
    waiting("a", "fleets/f")
    work(monkeypatch, here, {"b": {"breaks": "22"}, "c": {"breaks": "10"}})
    run = RunFolder.of("f-b").read()
    found = StepResult("21", "Snapshot", run.id, utc_now(), utc_now())
    found.facts = {"snapshot": {"chunks": 17}, "chunks": 17, "total": 17}
    found.write(run.reports / "results" / "21.json")
    state = fleet.read("f")
    page = BeautifulSoup(fleet.page(state, fleet.states(state)), "html.parser")
    heat = page.select_one("table.heat")
    assert heat is not None
    letters = [[cell.get_text() for cell in line.select("td.c")] for line in heat.select("tbody tr")]
    assert ["".join(line) for line in letters] == ["PPPPPPPPPP–", "PPPPPPPF–––", "F––––––––––"]
    assert all(abbr["aria-label"] for abbr in heat.select("td abbr"))
    failed = page.select_one('[aria-label="Rows that stopped, each with its line"]')
    assert failed is not None
    assert "step broken: 3 chunks are missing." in failed.get_text()
    waits = page.select_one('[aria-label="Rows that wait, each with what it waits for"]')
    assert waits is not None
    assert "dba (cutover)" in waits.get_text()
    assert page.select_one('a[href="../../f-a/index.html"]') is not None


def test_the_shard_of_each_row_is_shown_where_rows_have_one(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = str(new_source(here / "source"))
    rows = [{"name": f"s{n}", "source": place, "target": f"t{n}", "collections.shard": f"{n}/2"} for n in (1, 2)]
    fleet.begin("g", checked(here, rows, name="g"), until=plan.find("23"), dry_run=False, outside_window="")
    made(here, "a")
    for name, said in (("g", "row  shard  run"), ("f", "row  run")):
        assert cli.main(["fleet", "status", name]) == 0
        assert capsys.readouterr().out.startswith(said)
    state = fleet.read("g")
    assert "1/2" in fleet.overview(state, fleet.states(state)).splitlines()[1]
    page = BeautifulSoup(fleet.page(state, fleet.states(state)), "html.parser")
    for table in ("table.heat", '[aria-label^="Chunks"] table'):
        (found,) = page.select(table)
        assert found.select("thead th")[1].get_text() == "Shard"
        assert [line.select("td")[0].get_text() for line in found.select("tbody tr")][:2] == ["1/2", "2/2"]
    state.rows[0].shard = "2/2"
    with pytest.raises(UsageError, match="not the order that was given"):
        fleet.require_own(state)
    other = fleet.read("f")
    assert "Shard" not in fleet.page(other, fleet.states(other))


def test_commands_refuse_what_is_no_fleet(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("status", "resume", "verify"):
        assert cli.main(["fleet", name, "none"]) == 2
        assert "there is no fleet none" in capsys.readouterr().err
    with pytest.raises(UsageError):
        fleet.folder_of("../x")
    assert cli.main(["run", "x.yaml", "--fleet", "../x"]) == 2

"""A seal takes a file only as it was written: what was changed, dropped or taken away since stops it, in one line."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers import audit, evidence
from helpers.cli.evidence import verify
from helpers.errors import Terminal, UsageError
from helpers.parameters import parameters_from
from helpers.results import file_digest
from helpers.run import folders as runs
from helpers.run.folders import RunFolder
from helpers.run.plan import Step
from tests.signers import Signers, changed_toolkit, finish, finish_step, plain, signed_run, small_run


@pytest.fixture
def home(folders: Path, signers: Signers) -> RunFolder:
    return signed_run(signers)


STEPS_FILES = ["results/23.json", "figures/23_counts.png", "23_validate.ipynb", "23_validate.html"]


@pytest.mark.more
@pytest.mark.parametrize("how", ["changed", "gone"])
@pytest.mark.parametrize("name", STEPS_FILES)
def test_a_file_that_changed_between_the_end_of_a_step_and_the_seal_is_not_sealed(
    name: str, how: str, folders: Path, signers: Signers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the step wrote: its line in the log names every file as it was written."""
    home = small_run("night-30", signers)
    path = home.reports / name
    if how == "changed":
        path.write_bytes(path.read_bytes() + b"\n")
        said = f"{name} is not what audit.jsonl names"
    else:
        path.unlink()
        said = f"{name} is gone, and audit.jsonl names it"
    with pytest.raises(Terminal, match=re.escape(said)) as refused:
        evidence.keep_sealed(home.read())
    assert "--from 23" in refused.value.line()
    assert not list(home.reports.glob("seals/*.json"))
    changed_toolkit(monkeypatch)
    finish(home)
    named = f"{name}: audit.jsonl names " + ("no such file" if how == "changed" else "it, and it is gone")
    assert named in verify(home.reports).problems
    assert how == "gone" or f"{name}: audit.jsonl names no such file" in plain(home)


@pytest.mark.more
@pytest.mark.parametrize("name", ["APPROVAL.md", "figures/23_forged.svg", "approval.log", "23_searches.csv.gz", "x/y"])
def test_a_file_that_somebody_dropped_is_not_sealed(name: str, home: RunFolder) -> None:
    (path := home.reports / name).parent.mkdir(exist_ok=True)
    path.write_text("Approved by all.", encoding="utf-8")
    sealed = len(evidence.seals(home.reports))
    with pytest.raises(Terminal, match=rf"{re.escape(name)}: audit\.jsonl names no such file.*out of the folder"):
        evidence.at_rest(home.read())
    assert len(evidence.seals(home.reports)) == sealed
    path.unlink()
    if name == "x/y":
        path.parent.rmdir()
    home.log("goes on")
    finish(home)
    assert verify(home.reports).problems == []


def assert_review_is_sealed(home: RunFolder) -> None:
    """Step 24 ends, and all that is there fits."""
    finish_step(home, "24")
    finish(home)
    assert verify(home.reports).problems == []
    assert "Everything fits" in plain(home)


def test_a_move_that_was_killed_behind_its_line_in_the_log_is_made_by_the_next_one(
    folders: Path, signers: Signers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So far each seal after it refused: the place that the first line names was never there."""
    home, real = small_run("night-31", signers), Path.replace

    def dies(path: Path, target: Path) -> Path:
        if path.name == "24.json":
            raise KeyboardInterrupt
        return real(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", dies)
        with pytest.raises(KeyboardInterrupt):
            runs.supersede(home, [Step.REVIEW])
    assert (home.reports / "results" / "24.json").is_file()
    time.sleep(0.002)  # each move has a folder by the time
    runs.supersede(home, [Step.REVIEW])
    assert len(list(home.reports.glob("earlier/*/results/24.json"))) == 1
    assert_review_is_sealed(home)


def test_two_killed_attempts_that_left_the_same_bytes_are_both_named(folders: Path, signers: Signers) -> None:
    """A notebook that a power failure emptied twice: the first was taken for a move that was never made, and sealed nothing."""
    home = small_run("night-32", signers)
    for _ in range(3):
        audit.append(home.reports / audit.NAME, audit.STEP_BEGINS, step="24")
        (home.reports / "24_review.ipynb").write_bytes(b"")
        time.sleep(0.002)  # each move has a folder by the time
        runs.supersede(home, [Step.REVIEW])
    assert len(list(home.reports.glob("earlier/*/24_review.ipynb"))) == 3
    assert_review_is_sealed(home)


def test_what_a_killed_step_left_is_set_aside_and_named(home: RunFolder) -> None:
    """Killed between the writing of a figure and the line that would name it; the step is not run again before the seal."""
    audit.append(home.reports / audit.NAME, audit.STEP_BEGINS, step="50")
    (home.reports / "figures" / "50_looks.svg").write_text("<svg/>", encoding="utf-8")
    audit.append(home.reports / audit.NAME, audit.NOTEBOOK_BEGINS, step="51")
    (home.reports / "51_performance.ipynb").write_text("{}", encoding="utf-8")
    (home.reports / "signoffs" / ".half.sig").write_text("half", encoding="utf-8")
    (home.reports / "figures" / ".23_overlap.svg.15868-c2f99515d5ea3101.tmp").write_text("<svg", encoding="utf-8")
    (home.reports / ".as-signed-cutover-0005.html.16190-3054e13ac93e0fa0.tmp").write_text("<html", encoding="utf-8")
    finish(home)
    found = verify(home.reports)
    assert found.problems == []
    left = [note for note in found.notes if "a killed step left it" in note]
    assert sorted(note.split(": ")[0].split("/", 2)[2] for note in left) == [
        ".as-signed-cutover-0005.html.16190-3054e13ac93e0fa0.tmp", "51_performance.ipynb",
        "figures/.23_overlap.svg.15868-c2f99515d5ea3101.tmp", "figures/50_looks.svg", "signoffs/.half.sig",
    ]  # fmt: skip
    assert "Everything fits." in plain(home)


def test_files_of_a_step_at_work_wait_for_a_later_seal(home: RunFolder, signers: Signers) -> None:
    """Somebody signs meanwhile: what the step goes on writing would else differ from what was sealed."""
    audit.append(home.reports / audit.NAME, audit.STEP_BEGINS, step="50")
    figure = home.reports / "figures" / "50_looks.svg"
    figure.write_text("<svg/>", encoding="utf-8")
    hold = f"import fcntl, time; f = open({str(home.workspace / 'step.lock')!r}, 'a+'); fcntl.flock(f, 2); print(1, flush=True)"
    with subprocess.Popen([sys.executable, "-c", f"{hold}; time.sleep(60)"], stdout=subprocess.PIPE) as step:
        assert step.stdout is not None
        step.stdout.readline()
        evidence.at_rest(home.read())
        step.kill()
    assert figure.is_file()
    assert "figures/50_looks.svg" not in evidence.seals(home.reports)[-1].subjects
    figure.write_text("<svg>more</svg>", encoding="utf-8")
    digests = {"figures/50_looks.svg": file_digest(figure)}
    audit.append(home.reports / audit.NAME, audit.STEP_ENDS, step="50", digests=digests)
    finish(home)
    assert evidence.seals(home.reports)[-1].subjects["figures/50_looks.svg"] == file_digest(figure)
    assert verify(home.reports).problems == []


def test_an_edit_of_a_run_that_the_toolkit_never_changed_is_not_sealed(folders: Path, signers: Signers) -> None:
    """The line with which its log begins names run.json and parameters.yaml; without that line nothing is sealed."""
    home = small_run("night-31", signers)
    path = home.reports / "run.json"
    path.write_text(
        path.read_text(encoding="utf-8").replace('"rehearsal": false', '"rehearsal": true'), encoding="utf-8"
    )
    with pytest.raises(Terminal, match=r"run\.json is not what audit\.jsonl names"):
        evidence.keep_sealed(home.read())
    log = home.reports / audit.NAME
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines[1:]))
    with pytest.raises(Terminal, match="its first line is not the one with which the run began"):
        evidence.keep_sealed(home.read())
    log.unlink()
    with pytest.raises(Terminal, match="its first line is not the one with which the run began"):
        evidence.keep_sealed(home.read())


@pytest.mark.more
@pytest.mark.parametrize("name", ["nothing", ".hidden", "0001-x.json.tsr"])
def test_an_empty_folder_among_the_seals_is_named_by_both(name: str, home: RunFolder) -> None:
    first = evidence.seals(home.reports)[0].path.name
    (home.reports / "seals" / name.replace("0001-x.json", first)).mkdir()
    assert any(f"seals/{name.replace('0001-x.json', first)}: " in line for line in verify(home.reports).problems)
    assert f"not a seal: seals/{name.replace('0001-x.json', first)}" in plain(home)


@pytest.mark.parametrize("name", ["run.json", "parameters.yaml"])
def test_an_edit_between_two_commands_is_not_taken_over(name: str, folders: Path, signers: Signers) -> None:
    """Whoever changes one field of the file would else name the edit in the log as a change of the toolkit's own."""
    home = small_run("night-33", signers)
    path = home.reports / name
    genuine = path.read_bytes()
    changed = parameters_from(home.read().document | {"migration": {"batch_size": 7}})
    path.write_bytes(genuine.replace(b"night", b"knight"))
    log = (home.reports / audit.NAME).read_bytes()
    for order in (
        lambda: home.note(until="14") if name == "run.json" else home.rewrite(name, "name: other"),
        lambda: runs.change_parameters(home, changed),
        lambda: evidence.enter(home.read()),
    ):
        with pytest.raises(UsageError, match=rf"{re.escape(name)} is not what audit\.jsonl last named") as refused:
            order()
        assert refused.value.exit_code == 2
    assert path.read_bytes() == genuine.replace(b"night", b"knight")
    assert (home.reports / audit.NAME).read_bytes() == log
    path.write_bytes(genuine)
    home.note(until="14")


def test_a_change_that_was_killed_before_its_file_is_repeated(folders: Path, signers: Signers) -> None:
    """The log names a change before the file is written: twice killed there, the file is still the toolkit's own."""
    home = small_run("night-34", signers)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "write_text", lambda *_: (_ for _ in ()).throw(OSError("killed")))
        for until in ("13", "14"):
            with pytest.raises(OSError, match="killed"):
                home.note(until=until)
    assert home.note(until="20").facts["until"] == "20"
    evidence.keep_sealed(home.read())


def test_a_line_that_another_key_signed_names_no_edit(
    folders: Path, signers: Signers, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = small_run("night-35", signers)
    path = home.reports / "run.json"
    path.write_bytes(path.read_bytes().replace(b"night", b"knight"))
    with monkeypatch.context() as patch:
        patch.setenv("RUNBOOK_WORKSPACE", str(folders / "elsewhere"))
        audit.append(home.reports / audit.NAME, audit.WRITTEN, file="run.json", sha256=file_digest(path))
    with pytest.raises(UsageError, match=r"run\.json is not what audit\.jsonl last named"):
        home.note(until="14")


def test_a_run_without_its_log_is_not_taken_for_one_of_an_older_toolkit(folders: Path, signers: Signers) -> None:
    """The log is gone with all that knows how it began; the next line of the toolkit would else begin another."""
    home = small_run("night-36", signers)
    (home.reports / "results" / "23.json").write_text("{}", encoding="utf-8")
    (home.reports / audit.NAME).unlink()
    (home.workspace / "first-line").unlink()
    with pytest.raises(UsageError, match=r"run\.json is not what audit\.jsonl last named"):
        evidence.enter(home.read())
    finish_step(home, "24")
    with pytest.raises(Terminal, match=r"audit\.jsonl: the line with which the run began is gone"):
        evidence.keep_sealed(home.read())


def test_a_seal_says_how_long_the_log_was(home: RunFolder) -> None:
    """Cut short, or gone, it is refused by whoever would build on it."""
    log = home.reports / audit.NAME
    for data in (b"\n".join(log.read_bytes().split(b"\n")[:2]) + b"\n", b""):
        log.write_bytes(data)
        with pytest.raises(Terminal, match=r"audit\.jsonl changed after seal"):
            evidence.at_rest(home.read())

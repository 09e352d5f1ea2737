"""`runbook snapshots`: what is there, what it holds, whether it is whole, what may go, and bringing it back."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from helpers import audit, cli
from helpers.errors import UsageError
from helpers.parameters import parameters_from
from helpers.results import StepResult, file_digest, utc_now
from helpers.run import folders as runs
from helpers.run.folders import RunFolder
from helpers.run.record import RunRecord
from helpers.snapshots import retention, snapshot
from helpers.snapshots.snapshot import Snapshot
from helpers.steps.snapshot import SnapshotStep
from tests.signers import vouch
from tests.storage import assert_same, chunks, contents, embedded, fill, in_order, tree

Said = pytest.CaptureFixture[str]


pytestmark = pytest.mark.usefixtures("own_folders")


@pytest.fixture
def night(tmp_path: Path) -> RunFolder:
    """A run that has taken its snapshot, as step 21 does."""
    with embedded(tmp_path / "source") as store:
        fill(store, "alpha", chunks(30, 4, prefix="a"))
        fill(store, "beta", chunks(5, 3, prefix="b"))
    return taken("night")


def taken(run_id: str, *, dry_run: bool = False) -> RunFolder:
    places = {"source": {"path": "source"}, "target": {"path": "target"}, "snapshot": {"directory": "kept"}}
    folder = runs.create(parameters_from({"name": "night", **places, "schema": "identity"}), run_id, dry_run=dry_run)
    record = RunRecord(folder.read(), "21")
    SnapshotStep(record).verify()
    record.result.finished = utc_now()
    record.result.write(folder.reports / "results" / "21.json")
    return folder


def aged(name: str = "night-21") -> Path:
    """The snapshot as if its retention had ended yesterday."""
    found = Snapshot.open(Path("kept").absolute() / name)
    found.manifest["retain_until"] = (datetime.now(UTC) - timedelta(days=1)).isoformat(timespec="seconds")
    found.mark("verified")
    path = Path("reports") / name.removesuffix("-21") / "results" / "21.json"  # as the run itself says
    text = path.read_text(encoding="utf-8")
    old = json.loads(text)["facts"]["snapshot"]["manifest"]
    path.write_text(text.replace(old, found.manifest_digest), encoding="utf-8")
    retention.record(found.folder.parent, taken=found)  # and the line beside it
    return found.folder


def run(*arguments: str, code: int = 0) -> None:
    assert cli.main(["snapshots", *arguments]) == code


def test_list_names_source_size_retention_and_the_run_that_needs_it(night: RunFolder, capsys: Said) -> None:
    (Path("kept") / "night-21-2.partial").mkdir()
    run("list")
    out = capsys.readouterr().out
    row = next(line for line in out.splitlines() if line.startswith("night-21 "))
    assert all(word in row for word in ("source", "35", "verified", "UTC", "night"))
    assert "interrupted" in next(line for line in out.splitlines() if line.startswith("night-21-2"))
    assert "closed out" in out


def test_where_there_is_none_it_says_so(capsys: Said, tmp_path: Path) -> None:
    run("list")
    assert "no snapshots" in capsys.readouterr().out
    run("list", "--directory", "nowhere", code=2)
    assert "no folder nowhere" in capsys.readouterr().err
    run("verify", "unknown", code=2)
    assert "there is no snapshot unknown" in capsys.readouterr().err
    run("verify", "../..", code=1)  # a folder, but no snapshot
    assert "no readable manifest" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_info_shows_each_collection(night: RunFolder, capsys: Said) -> None:
    run("info", "night-21")
    out = capsys.readouterr().out
    held = Snapshot.open(Path("kept/night-21"))
    assert held.digest in out
    assert "35 chunks in 2 collections" in out
    row = next(line for line in out.splitlines() if line.startswith("alpha"))
    assert row.split()[1:4] == ["30", "4", "l2"]


def test_verify_reads_every_byte_and_names_the_damaged_file(night: RunFolder, capsys: Said) -> None:
    run("verify", "night-21")
    assert "every byte as its manifest says" in capsys.readouterr().out
    held = Snapshot.open(Path("kept/night-21").absolute())
    part = held.folder / held.parts("beta")[0].file
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)
    run("verify", "night-21", code=1)
    error = capsys.readouterr().err
    assert str(part) in error
    assert len(error.splitlines()) == 1
    assert Snapshot.open(held.folder).manifest["status"] == "failed"
    done = [(e["action"], e["outcome"]) for e in audit.entries(Path("kept") / audit.NAME)]
    assert done == [
        ("snapshot created", "begun"), ("snapshot created", "done"), ("verify", "done"), ("verify", "failed"),
    ]  # fmt: skip


def test_prune_keeps_what_is_within_retention(night: RunFolder, capsys: Said) -> None:
    retention.abandon("night")
    run("prune", "--yes")
    assert "kept until" in capsys.readouterr().out
    assert Path("kept/night-21").is_dir()


def test_prune_keeps_what_a_run_needs_until_it_is_closed_out(night: RunFolder, capsys: Said) -> None:
    folder = aged()
    run("prune", "--yes")
    assert "needed by run night, not closed out" in capsys.readouterr().out
    assert folder.is_dir()
    StepResult("53", "Closeout", "night", utc_now(), utc_now()).write(night.reports / "results" / "53.json")
    vouch(night.reports)
    before = tree(Path("kept"))
    run("prune")
    out = capsys.readouterr().out
    assert "would go  night-21" in out
    assert "Nothing was changed" in out
    assert tree(Path("kept")) == before
    run("prune", "--yes")
    assert not folder.exists()
    assert [p.name for p in Path("kept").iterdir()] == [audit.NAME]
    done = [(e["action"], e["outcome"]) for e in audit.entries(Path("kept") / audit.NAME)]
    assert done[-2:] == [("prune", "begun"), ("prune", "done")]
    assert audit.check(Path("kept") / audit.NAME) is None


@pytest.mark.parametrize("file", ["run.json", "results/53.json"])
def test_an_end_that_no_signed_line_of_its_log_names_frees_no_snapshot(
    night: RunFolder, capsys: Said, file: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An edit by hand, a result that somebody dropped, and a line of another key for them."""
    folder, place = aged(), night.reports / file
    if file == "run.json":
        place.write_text(json.dumps({**json.loads(place.read_text()), "abandoned": utc_now()}))
    else:
        StepResult("53", "Closeout", "night", utc_now(), utc_now()).write(place)
    why = f"needed by run night (no line of its {audit.NAME} that was signed here names its {file} as it is)"
    run("prune", "--yes")
    assert why in capsys.readouterr().out
    with monkeypatch.context() as other:
        other.setenv("RUNBOOK_WORKSPACE", str(tmp_path / "other"))
        audit.append(night.reports / audit.NAME, audit.NOTEBOOK_KEPT, digests={file: file_digest(place)})
    planted = {"predicate": {audit.LOG_KEY: audit.fingerprint(b"anybody's"), "prefixes": []}}
    (night.reports / "seals").mkdir()
    (night.reports / "seals" / "0001.json").write_text(json.dumps(planted))
    run("prune", "--yes")
    assert why in capsys.readouterr().out
    assert folder.is_dir()


def test_a_run_declared_abandoned_holds_nothing(night: RunFolder, capsys: Said) -> None:
    folder = aged()
    run("prune", "--abandoned", "nobody", "--yes", code=2)
    run("prune", "--abandoned", "night")
    assert "would go  night-21" in capsys.readouterr().out
    assert folder.is_dir()
    assert "abandoned" not in night.read().facts
    run("prune", "--abandoned", "night", "--yes")
    assert not folder.exists()
    assert night.read().facts["abandoned"]
    assert audit.entries(night.reports / audit.NAME)[-1]["action"] == "abandoned"


def test_a_run_reported_elsewhere_still_holds_its_snapshot(
    night: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> None:
    folder = aged()
    monkeypatch.setenv("RUNBOOK_REPORTS", str(tmp_path / "other"))
    run("prune", "--yes", "--directory", "kept")
    assert "needed by run night" in capsys.readouterr().out
    night.reports.rename(tmp_path / "moved")
    run("prune", "--yes", "--directory", "kept")
    assert "its reports are not at hand" in capsys.readouterr().out
    assert folder.is_dir()


def test_a_dry_run_holds_its_snapshot_for_its_retention_only(night: RunFolder) -> None:
    taken("try", dry_run=True)
    aged()
    old = aged("try-21")
    run("prune", "--yes")
    assert not old.exists()
    assert Path("kept/night-21").is_dir()


def test_what_cannot_be_read_is_never_removed(night: RunFolder, capsys: Said) -> None:
    folder = aged()
    retention.abandon("night")
    (folder / "manifest.json").write_text("{}", encoding="utf-8")
    (Path("kept") / "x.partial").mkdir()
    run("prune", "--yes")
    assert capsys.readouterr().out.count("remove it yourself") == 2
    assert folder.is_dir()
    assert Path("kept/x.partial").is_dir()


def test_a_prune_that_was_killed_is_ended_by_the_next(night: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    aged()
    retention.abandon("night")

    def dies(path: Path) -> None:
        raise SystemExit(9)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", dies)
        with pytest.raises(SystemExit):
            run("prune", "--yes")
    assert not Path("kept/night-21").exists()
    run("prune", "--yes")
    assert sorted(p.suffix for p in Path("kept").iterdir()) == [".jsonl"]


def test_what_somebody_renamed_as_a_prune_does_is_not_removed(night: RunFolder, capsys: Said) -> None:
    """Also not where a prune was begun of one snapshot, and another one has its name."""
    for name in ("night-21", "gone"):
        retention.record(Path("kept").absolute(), "prune", outcome="begun" if name == "gone" else "done", snapshot=name)
    for aside in (Path("kept/.night-21.pruned"), Path("kept/.gone.pruned")):
        Path("kept/night-21").rename(aside)
        run("prune", "--directory", "kept", "--yes")
        said = capsys.readouterr().out
        assert f"{aside.absolute()} stays: no prune that was begun here left it" in said
        aside.rename("kept/night-21")
    assert Snapshot.open(Path("kept/night-21")).verify()


def test_a_log_of_another_key_begins_no_prune(
    night: RunFolder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("RUNBOOK_WORKSPACE", str(tmp_path / "theirs"))
        retention.record(Path("kept").absolute(), "prune", outcome="begun", snapshot="night-21")
    Path("kept/night-21").rename("kept/.night-21.pruned")
    run("prune", "--directory", "kept", "--yes")
    assert Path("kept/.night-21.pruned").is_dir()


def test_restore_brings_back_what_is_asked_for(night: RunFolder, capsys: Said) -> None:
    run("restore", "night-21", "--into", "back", "--collection", "alpha", "--dry-run")
    assert "create" in capsys.readouterr().out
    assert not Path("back").exists()
    run("restore", "night-21", "--into", "back", "--collection", "alpha")
    assert "every chunk was read back" in capsys.readouterr().out
    with embedded(Path("back")) as store:
        assert store.names() == ["alpha"]
        assert_same(contents(store, "alpha"), in_order(chunks(30, 4, prefix="a")))


@pytest.mark.more
@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        ("--into back --collection gamma", 2, "holds no collection gamma"),
        ("--into http://127.0.0.1:1/api/v2", 2, "--into must end before /api"),
        ("--into back --header A=env:B", 2, "--into is a directory (path), which has no headers"),
        ("--into http://h:1 --header A=hunter2", 2, "--header must be a reference"),
        ("--into http://h:1 --header A", 2, "--header takes NAME=env:VAR"),
        ("--into http://127.0.0.1:1", 1, "127.0.0.1:1"),
        ("--into source", 1, "already holds alpha, beta"),
        ("", 2, "--into"),
    ],
)
def test_a_restore_that_cannot_be_is_one_line(
    night: RunFolder, capsys: Said, options: str, code: int, said: str
) -> None:
    before = tree(Path("source"))
    capsys.readouterr()
    run("restore", "night-21", *options.split(), code=code)
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1
    assert "hunter2" not in error
    assert tree(Path("source")) == before
    assert not Path("back").exists()


def test_one_id_in_two_places_is_told_apart_by_its_folder(night: RunFolder, capsys: Said, tmp_path: Path) -> None:
    other = tmp_path / "workspace" / "snapshots" / "night-21"
    for path in Path("kept/night-21").rglob("*"):
        if path.is_file():
            there = other / path.relative_to("kept/night-21")
            there.parent.mkdir(parents=True, exist_ok=True)
            there.write_bytes(path.read_bytes())
    run("verify", "night-21", code=2)
    assert "there are 2 snapshots" in capsys.readouterr().err
    run("verify", str(other))
    run("verify", "night-21", "--directory", "kept")


def test_status_says_until_when_the_snapshot_is_kept(night: RunFolder, capsys: Said) -> None:
    assert cli.main(["status", "night"]) == 0
    until = json.loads(Path("kept/night-21/manifest.json").read_text(encoding="utf-8"))["retain_until"]
    assert f"Snapshot night-21, kept until {until[:16].replace('T', ' ')} UTC" in capsys.readouterr().out


def test_a_snapshot_that_must_stay_cannot_be_removed_by_a_call_either(night: RunFolder) -> None:
    item = retention.snapshots_in(Path("kept").absolute())[0]
    with pytest.raises(UsageError, match="stays: needed by run night"):
        retention.remove([item])
    assert dataclasses.replace(item, needed_by=()).keep_reason.startswith("kept until")
    assert snapshot.Snapshot.open(Path("kept/night-21")).verify() == {"alpha": 30, "beta": 5}


@pytest.mark.parametrize("change", ["another run", "torn", "unnamed"])
def test_prune_removes_nothing_on_the_word_of_a_log_that_does_not_verify(
    night: RunFolder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Said, change: str
) -> None:
    """One changed word of the log would otherwise say that no run needs a snapshot whose run is reported elsewhere."""
    folder, log = aged(), Path("kept") / audit.NAME
    monkeypatch.setenv("RUNBOOK_REPORTS", str(tmp_path / "other"))
    lines = log.read_text(encoding="utf-8").splitlines(keepends=True)
    if change == "unnamed":
        log.unlink()
    else:
        last = lines[-1].replace(str(night.reports), "/nowhere").replace('"snapshot":', '"other":')
        log.write_text("".join([last, *lines[1:]] if change == "torn" else [*lines[:-2], last]), encoding="utf-8")
    run("prune", "--yes", "--directory", "kept")
    assert "look at it and remove it yourself" in capsys.readouterr().out
    assert folder.is_dir()


def test_a_log_that_was_written_again_as_a_whole_frees_no_snapshot(
    night: RunFolder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Said
) -> None:
    """Its chain fits, and it says that the snapshot is of a run that needs it no more; but nobody with the key here signed it."""
    folder, log = aged(), Path("kept") / audit.NAME
    settled = tmp_path / "settled" / night.id
    shutil.copytree(night.reports, settled)
    facts = json.loads((settled / "run.json").read_text(encoding="utf-8"))
    (settled / "run.json").write_text(json.dumps({**facts, "abandoned": "2026-01-01T00:00:00Z"}), encoding="utf-8")
    monkeypatch.setenv("RUNBOOK_REPORTS", str(tmp_path / "other"))
    previous, forged = audit.FIRST, ""
    for entry in audit.entries(log):
        del entry["signature"]
        entry["previous"], entry["facts"]["reports"] = previous, str(settled)
        line = json.dumps(entry, sort_keys=True)
        previous, forged = hashlib.sha256(line.encode()).hexdigest(), f"{forged}{line}\n"
    log.write_text(forged, encoding="utf-8")
    assert audit.check(log) is None
    run("prune", "--yes", "--directory", "kept")
    assert "that was signed here names it" in capsys.readouterr().out
    assert folder.is_dir()


def test_a_snapshot_that_is_a_link_is_left_alone_and_holds_up_no_other(
    night: RunFolder, tmp_path: Path, capsys: Said
) -> None:
    taken("try", dry_run=True)
    old, folder = aged("try-21"), aged()
    retention.abandon("night")
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    run("prune", "--yes")
    assert "a link to" in capsys.readouterr().out
    assert not old.exists()
    assert (tmp_path / "elsewhere" / "manifest.json").is_file()
    assert folder.is_symlink()


def test_one_that_cannot_be_removed_whole_is_one_line_and_the_next_prune_goes_on(
    night: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> None:
    aged()
    retention.abandon("night")
    real = shutil.rmtree

    def refused(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path / "001-alpha"))

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", refused)
        run("prune", "--yes", code=1)
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert "cannot be removed whole" in error
    assert "001-alpha" in error
    assert shutil.rmtree is real
    run("prune", "--yes")
    assert sorted(p.suffix for p in Path("kept").iterdir()) == [".jsonl"]

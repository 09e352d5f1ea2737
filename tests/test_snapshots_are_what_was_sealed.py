"""A snapshot that somebody without any key has rewritten, manifest and all: nothing is taken from it, wherever it is opened."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from helpers import audit, cli, evidence
from helpers.errors import Terminal
from helpers.migration.source_changes import open_sealed
from helpers.results import Verdict, file_digest, write_json
from helpers.run.record import RunRecord
from helpers.snapshots import retention
from helpers.snapshots.export_journal import signed, write_parquet
from helpers.snapshots.retention import CREATED, recorded
from helpers.snapshots.snapshot import Snapshot, to_table
from helpers.steps.closeout import temporary
from helpers.steps.migrate import MigrateStep
from helpers.steps.snapshot import SnapshotStep
from tests.rollbacks import Night, everything, snapshotted
from tests.storage import embedded, tree

pytestmark = pytest.mark.usefixtures("own_folders")
Said = pytest.CaptureFixture[str]
FORGED = "FORGED: pay to account 666"


@pytest.fixture
def night(tmp_path: Path) -> Night:
    return snapshotted(tmp_path)


def forge(folder: Path = Path("kept/night-21")) -> str:
    """Another document in one chunk, with a new digest of the part and of the manifest; the snapshot's digest then."""
    found = Snapshot.open(folder)
    entry = next(e for e in found.manifest["collections"] if e["name"] == "beta")
    part = entry["parts"][0]
    batch = found.read(found.parts("beta")[0])
    batch.documents[0] = FORGED
    write_parquet(folder / part["file"], to_table(batch, entry["dimension"]))
    part |= {"sha256": file_digest(folder / part["file"]), "bytes": (folder / part["file"]).stat().st_size}
    write_json(folder / "manifest.json", signed({k: v for k, v in found.manifest.items() if k != "sha256"}))
    return Snapshot.open(folder).digest


def test_a_forged_snapshot_is_neither_restored_nor_called_whole(night: Night, capsys: Said) -> None:
    was = Snapshot.open(Path("kept/night-21")).digest
    forged = forge()
    for command in (["verify", "night-21"], ["restore", "night-21", "--into", "back"]):
        assert cli.main(["snapshots", *command]) == 1
        said = capsys.readouterr()
        assert "every byte" not in said.out
        (line,) = said.err.splitlines()
        assert all(part in line for part in (was, forged, "kept/night-21", "Put another copy there"))
    assert not Path("back").exists()


def test_the_run_names_it_and_keeps_it_as_evidence(night: Night, capsys: Said) -> None:
    evidence.at_rest(night.folder.read())
    cli.main(["verify", "night"])
    assert "kept/night-21" not in capsys.readouterr().out
    forge()
    assert cli.main(["verify", "night"]) == 1
    assert any("kept/night-21: its digest is " in line for line in capsys.readouterr().out.splitlines())
    cli.main(["snapshots", "prune", "--abandoned", "night", "--yes"])
    assert "stays  night-21  its digest is" in capsys.readouterr().out
    assert Path("kept/night-21").is_dir()


def test_a_retention_that_was_shortened_in_the_manifest_removes_nothing(night: Night, capsys: Said) -> None:
    found = Snapshot.open(Path("kept/night-21"))
    found.manifest["retain_until"] = "2020-01-01T00:00:00+00:00"
    found.mark("verified")
    cli.main(["snapshots", "prune", "--abandoned", "night", "--yes"])
    assert "stays  night-21  the digest of its manifest is" in capsys.readouterr().out
    assert found.folder.is_dir()


@pytest.mark.more
def test_a_rollback_writes_nothing_of_it_into_the_source(night: Night) -> None:
    night.migrate()
    night.cut_over()
    with embedded(Path("source")) as store:
        store.drop("beta")
    forge()
    before = tree(Path("source"))
    with pytest.raises(Terminal, match=r"kept/night-21: its digest is .*--accept-source") as caught:
        night.rollback(restore=True)
    assert caught.value.code == "snapshot_altered"
    assert tree(Path("source")) == before
    assert b"after" in night.env, "clients were not sent back to a source that nobody could prove"
    verdicts = night.rollback(accept_source="beta is known to be gone")
    assert verdicts["source against the snapshot"] is Verdict.WARNING
    assert night.state.finished
    assert "The source was not compared: its digest is" in (night.folder.reports / "rollback.html").read_text()
    assert "beta" not in everything(night.source)


def test_nothing_is_migrated_or_replayed_from_it(night: Night) -> None:
    forge()
    work = MigrateStep(RunRecord(night.folder.read(), "22"))
    with pytest.raises(Terminal, match="kept/night-21: its digest is"):
        work.validate()


def test_a_forged_result_does_not_vouch_for_it_once_it_is_sealed(night: Night) -> None:
    """Whoever can write to the reports, too, has to forge the seals."""
    evidence.at_rest(night.folder.read())
    was = Snapshot.open(Path("kept/night-21")).digest
    now = forge()
    for path in (night.folder.reports / "results" / "21.json", night.folder.reports / audit.NAME):
        path.write_text(path.read_text(encoding="utf-8").replace(was, now), encoding="utf-8")
    with pytest.raises(Terminal, match=f"its digest is {now}, but was {was} according to seal 0001-"):
        open_sealed(night.folder.read(), Path("kept/night-21"))


def test_another_snapshot_in_its_place_is_none_of_the_run(night: Night) -> None:
    """The ledger of the catch-up is in the workspace: it may name a folder that this run has never taken."""
    shutil.copytree("kept/night-21", "kept/night-21-catch-up-1")
    with pytest.raises(Terminal, match="has taken no snapshot of this name"):
        open_sealed(night.folder.read(), Path("kept/night-21-catch-up-1"))


def test_a_name_stands_for_one_snapshot_also_where_it_is_gone(night: Night) -> None:
    shutil.rmtree("kept/night-21")
    record = RunRecord(night.folder.read(), "21")
    step = SnapshotStep(record)
    step.take()
    assert step.snapshot is not None
    assert step.snapshot.id == "night-21-2"
    assert {line.name for line in recorded(night.folder)} == {"night-21", "night-21-2"}


def test_bytes_that_change_after_the_proof_are_not_read(night: Night) -> None:
    found = Snapshot.open(Path("kept/night-21"))
    assert found.verify() == {"alpha": 60, "beta": 25}
    forge()
    with pytest.raises(Terminal, match=r"001-alpha|002-beta.*not those that were written"):
        list(found.batches("beta"))
    with pytest.raises(Terminal, match="exchanged while it was in use"):
        found.verify()


def test_elsewhere_it_is_said_that_nothing_vouches_for_it(
    night: Night, capsys: Said, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    digest = Snapshot.open(Path("kept/night-21")).digest
    shutil.copytree("kept", "elsewhere/kept")
    monkeypatch.setenv("RUNBOOK_REPORTS", str(tmp_path / "elsewhere" / "reports"))
    assert cli.main(["snapshots", "restore", "elsewhere/kept/night-21", "--into", "back", "--dry-run"]) == 0
    assert (
        f"Its digest {digest} is the one of the signed line beside it (written in another folder)."
        in capsys.readouterr().out
    )
    (tmp_path / "elsewhere" / "kept" / audit.NAME).unlink()
    copy = str(tmp_path / "elsewhere" / "kept" / "night-21")
    assert cli.main(["snapshots", "restore", copy, "--into", "back", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert f"Its digest {digest} was not compared with anything outside its folder: no run here has taken it." in said
    assert "--expect SHA256" in said
    assert cli.main(["snapshots", "restore", copy, "--into", "back", "--expect", digest]) == 0
    assert f"Its digest {digest} is the one of --expect." in capsys.readouterr().out
    shutil.rmtree("back")
    forged = forge(Path(copy))
    assert cli.main(["snapshots", "restore", copy, "--into", "back", "--expect", digest]) == 1
    assert f"its digest is {forged}, and {digest} is expected" in capsys.readouterr().err
    assert not Path("back").exists()


@pytest.mark.parametrize("seals", ["none", "of another run", "edited"])
def test_a_folder_with_an_invented_result_vouches_for_no_snapshot(night: Night, capsys: Said, seals: str) -> None:
    """run.json and the one result, with seals that nobody set for this run: whoever can write to the reports can make it."""
    evidence.at_rest(night.folder.read())
    capsys.readouterr()
    evil = night.folder.reports.with_name("evil")
    (evil / "results").mkdir(parents=True)
    for name in ("run.json", "parameters.yaml", "results/21.json"):
        shutil.copy(night.folder.reports / name, evil / name)
    facts = json.loads((evil / "run.json").read_text(encoding="utf-8"))
    (evil / "run.json").write_text(json.dumps(facts | {"id": "evil"}), encoding="utf-8")
    if seals != "none":
        shutil.copytree(night.folder.reports / "seals", evil / "seals")
    if seals == "edited":
        (seal,) = (evil / "seals").glob("*.json")
        seal.write_text(seal.read_text(encoding="utf-8").replace('"id": "night"', '"id": "evil"'), encoding="utf-8")
    assert cli.main(["snapshots", "verify", "night-21", "--directory", "kept"]) == 0
    said = capsys.readouterr().out
    assert "the evidence of run night and the signed line beside it." in said
    assert "run evil and" not in said
    shutil.rmtree(night.folder.reports)
    Path("kept/audit.jsonl").unlink()
    assert cli.main(["snapshots", "verify", "night-21", "--directory", "kept"]) == 0
    said = capsys.readouterr().out
    assert "was not compared with anything outside its folder" in said
    assert "run evil names it, but in no seal or line of its log that was proven" in said


def test_a_closeout_removes_exports_of_its_own_run_and_no_id_that_begins_alike(night: Night) -> None:
    kept, reports = Path("kept"), night.folder.reports
    for run_id, snapshot in (("night", "night-21-2"), ("night-21-eu", "night-21-eu-21")):
        (kept / f"{snapshot}.partial").mkdir()
        about = {"run": run_id, "reports": str(reports.with_name(run_id)), "snapshot": snapshot}
        audit.append(kept / audit.NAME, CREATED, outcome="begun", **about)
    found = [path.name for path in temporary(night.folder, night.folder.read().parameters)]
    assert found == ["night-21-2.partial"]


def test_a_prune_keeps_what_belongs_to_a_snapshot_whose_name_begins_alike(night: Night) -> None:
    other = Path("kept/night-21.restore-eu-21.restore-0123456789abcdef.json")
    own = Path("kept/night-21.restore-0123456789abcdef.json")
    for path in (other, own):
        path.write_text("{}")
    held = next(item for item in retention.snapshots_in(Path("kept").absolute()) if item.id == "night-21")
    manifest = {**held.snapshot.manifest, "retain_until": "2020-01-01T00:00:00+00:00"} if held.snapshot else {}
    old = replace(held, snapshot=Snapshot(held.folder, manifest), needed_by=())
    assert retention.remove([old]) == ["night-21"]
    assert (other.exists(), own.exists()) == (True, False)

"""Evidence of one place proves nothing in another, what is archived is what was verified, and what is invented is unsigned."""

from __future__ import annotations

import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers import audit, cli, errors, evidence
from helpers.cli import evidence as commands
from helpers.cli.evidence import verify
from helpers.errors import Terminal
from helpers.evidence.verification import Verified
from helpers.run.folders import RunFolder
from helpers.snapshots import retention
from helpers.snapshots.snapshot import Snapshot
from tests.rollbacks import snapshotted
from tests.signers import Signers, finish, plain, signed_run, small_run

pytestmark = pytest.mark.usefixtures("own_folders")
Said = pytest.CaptureFixture[str]
SEALS = sys.modules["helpers.evidence.seals"]  # the package's `seals` is the function


# -- logs --------------------------------------------------------------------------------------------------------------


def test_the_log_of_another_run_of_the_same_name_is_refused_and_named(
    signers: Signers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Both are signed by one key over one name. The first line of a log names run.json, and each line all those before it."""
    other = small_run("night-1", signers)
    monkeypatch.setenv("RUNBOOK_REPORTS", str(tmp_path / "reports-2"))
    home = small_run("night-1", signers)
    assert (home.id, home.reports == other.reports) == (other.id, False)
    log = home.reports / audit.NAME
    own, foreign = log.read_bytes(), (other.reports / audit.NAME).read_bytes()
    trust = audit.Trust(frozenset({audit.own_key()}))
    log.write_bytes(own + foreign.splitlines(keepends=True)[-1])
    assert list(audit.unsigned(log, trust)) == []  # the signature alone fits
    with pytest.raises(Terminal, match="does not follow the line before it"):
        evidence.seal(home.read())
    log.write_bytes(foreign)
    with pytest.raises(Terminal, match="its first line is not the one with which the run began"):
        evidence.seal(home.read())
    (home.workspace / audit.FIRST_LINE).unlink()
    with pytest.raises(Terminal, match=r"is not what audit\.jsonl names"):
        evidence.seal(home.read())
    log.write_bytes(own)
    for path in home.reports.glob("packages-*"):  # named in the log that was not its own
        path.unlink()
    evidence.keep_sealed(home.read())
    finish(home)
    assert verify(home.reports).problems == []
    log.write_bytes(foreign)
    found = verify(home.reports).problems
    assert any(line.startswith(f"{audit.NAME}: changed since seal") for line in found)
    assert f"run.json: {audit.NAME} names no such file" in found


def test_the_log_of_another_folder_of_snapshots_proves_nothing(tmp_path: Path, capsys: Said) -> None:
    """Of the same name, signed with the same key: it vouched for what somebody had copied in place of a snapshot."""
    snapshotted(tmp_path)
    elsewhere = Path(shutil.copytree("kept", "elsewhere/kept"))
    folder = Path("kept").absolute()
    assert set(retention.digests(folder)) == {"night-21"}
    assert retention.digests(elsewhere) == {}
    (held,) = (item for item in retention.snapshots_in(elsewhere) if item.id == "night-21")
    assert "that was signed here names it" in held.keep_reason
    old = [{k: v for k, v in e["facts"].items() if k != "directory"} for e in audit.entries(folder / audit.NAME)]
    (folder / audit.NAME).unlink()
    for facts in old:  # as an older toolkit wrote it
        audit.append(folder / audit.NAME, retention.CREATED, **facts)
    assert set(retention.digests(folder)) == {"night-21"}


def test_a_line_that_nobody_has_proven_is_not_called_signed(
    tmp_path: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a workspace without a key, and where there is no ssh-keygen: an invented line was called signed."""
    snapshotted(tmp_path)
    digest = Snapshot.open(Path("kept/night-21")).digest
    assert cli.main(["snapshots", "verify", "night-21", "--directory", "kept"]) == 0
    assert (
        f"Its digest {digest} is the one of the evidence of run night and the signed line beside it."
        in capsys.readouterr().out
    )
    monkeypatch.setenv("RUNBOOK_REPORTS", str(tmp_path / "none"))
    for tool in (True, False):
        monkeypatch.setenv("RUNBOOK_WORKSPACE", str(tmp_path / f"empty-{tool}"))
        with monkeypatch.context() as patch:
            if not tool:
                patch.setattr(shutil, "which", lambda name: None)
            copy = str(Path("kept/night-21").absolute())
            assert cli.main(["snapshots", "restore", copy, "--into", "back", "--dry-run"]) == 0
        said = capsys.readouterr().out
        assert "signed line beside it" not in said
        assert f"Its digest {digest} was not compared with anything outside its folder" in said
        assert ("that nobody has proven" in said) is not tool
    with monkeypatch.context() as patch:
        patch.setenv("RUNBOOK_WORKSPACE", str(tmp_path / "empty"))
        (held,) = (item for item in retention.snapshots_in(Path("kept").absolute()) if item.id == "night-21")
    assert "that was signed here names it" in held.keep_reason


# -- archive -----------------------------------------------------------------------------------------------------------


@pytest.mark.more
@pytest.mark.parametrize("moment", [1, 2])
def test_what_changes_after_the_check_is_not_archived(
    signers: Signers, monkeypatch: pytest.MonkeyPatch, capsys: Said, moment: int
) -> None:
    """Between the look at the files and their way into the archive somebody writes another page in place of the signed one."""
    home = signed_run(signers)
    page = home.reports / "24_review.html"
    genuine, looked = page.read_bytes(), 0

    def watched(*given: Any) -> Verified:
        nonlocal looked
        found, looked = verify(*given), looked + 1
        if looked == moment:
            page.write_text("<h1>GO</h1>", encoding="utf-8")
        return found

    monkeypatch.setattr(commands, "verify", watched)
    code = cli.main(["archive", home.id, "--output", "out.zip"])
    said = capsys.readouterr()
    if moment == 1:
        assert (code, Path("out.zip").exists()) == (2, False)
        assert "24_review.html: changed since seal" in said.err
    else:
        assert code == 0
        with zipfile.ZipFile("out.zip") as zipped:
            assert zipped.read(f"{home.id}/24_review.html") == genuine
    assert not list(home.workspace.glob("archive-*"))


def test_no_archive_is_written_into_the_folder_of_a_database(signers: Signers, capsys: Said) -> None:
    home = signed_run(signers)
    for name in ("from", "to", "from-afar"):
        Path(name).mkdir()
    for name in ("from", "to"):
        assert cli.main(["archive", home.id, "--output", f"{name}/out.zip"]) == 2
        assert "lies inside the database" in capsys.readouterr().err
        assert not list(Path(name).iterdir())
    assert cli.main(["archive", home.id, "--output", "from-afar/out.zip"]) == 0


def test_the_copy_that_is_archived_lies_where_nobody_else_can_exchange_it(
    signers: Signers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever may rename files beside the archive exchanged a folder that lay there."""
    home, seen = signed_run(signers), list[Path]()

    def watched(folder: Path, *given: Any) -> Verified:
        seen.append(folder)
        return verify(folder, *given)

    monkeypatch.setattr(commands, "verify", watched)
    Path("shared").mkdir()
    assert cli.main(["archive", home.id, "--output", "shared/out.zip"]) == 0
    assert seen[1].is_relative_to(home.workspace)
    assert [path.name for path in Path("shared").iterdir()] == ["out.zip"]


@pytest.mark.more
def test_an_older_copy_of_the_folder_is_named_where_the_newest_seal_is_known(signers: Signers, capsys: Said) -> None:
    """Whatever followed is gone with its seals: what is left fits in itself, and this machine knows better."""
    home = signed_run(signers)
    finish(home)
    older = Path("older", home.id)
    shutil.copytree(home.reports, older)
    home.log("and then it was rolled back")
    evidence.at_rest(home.read())
    assert verify(older).problems == []
    shutil.rmtree(home.reports)
    shutil.copytree(older, home.reports)
    said = f"the seal that {home.workspace / 'last-seal'} names is missing"
    assert cli.main(["verify", home.id]) == 1
    assert said in capsys.readouterr().out
    assert cli.main(["archive", home.id, "--output", "out.zip"]) == 2
    assert said in capsys.readouterr().err
    assert not Path("out.zip").exists()


@pytest.mark.more
def test_an_archive_is_the_same_each_time(signers: Signers) -> None:
    home = signed_run(signers)
    for name in ("one.zip", "deep/er/two.zip"):
        assert cli.main(["archive", home.id, "--output", name]) == 0
    assert Path("one.zip").read_bytes() == Path("deep/er/two.zip").read_bytes()


# -- an unexpected error -----------------------------------------------------------------------------------------------


def test_a_traceback_shows_no_secret_and_nobody_else_can_read_it(
    signers: Signers, monkeypatch: pytest.MonkeyPatch, capsys: Said, tmp_path: Path
) -> None:
    home, secret = signed_run(signers), "tiger-lily-42-tiger"
    monkeypatch.setattr(errors, "_HIDDEN", {})
    errors.hide(secret, "env:TOKEN")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()

    def fails(*_: object) -> Verified:
        raise AssertionError(f"\x1b[2Jthe server said {secret}\n{secret}")

    monkeypatch.setattr(commands, "verify", fails)
    before = {path: path.read_bytes() for path in home.reports.rglob("*") if path.is_file()}
    for place in (home.workspace, tmp_path / "temporary"):
        assert cli.main(["verify", home.id, "--verbose"]) == 1
        said = capsys.readouterr().err
        (kept,) = place.glob("runbook-*.log")
        text = kept.read_text(encoding="utf-8")
        assert str(kept) in said
        assert kept.stat().st_mode & 0o077 == 0
        for shown in (text, said):
            assert "AssertionError" in shown
            assert "env:TOKEN" in shown
            assert secret not in shown
            assert "\x1b" not in shown
        shutil.rmtree(home.workspace, ignore_errors=True)
    assert {path: path.read_bytes() for path in home.reports.rglob("*") if path.is_file()} == before


# -- all of it deleted -------------------------------------------------------------------------------------------------


def invented(home: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """What anybody can make who deletes all evidence, and the records of the workspace: a run as toolkits of long ago left it."""
    shutil.rmtree(home.reports / "seals")
    for path in (home.reports / audit.NAME, home.workspace / SEALS.LAST, home.workspace / audit.FIRST_LINE):
        path.unlink()
    new = {"runner", "log_key", "moves", "sealed", "work", "files", "bound", "approvals"}
    as_now: Callable[..., bytes] = SEALS.statement
    with monkeypatch.context() as patch:
        patch.setattr(audit, "_signed", lambda line, name: line)
        patch.setattr(audit, "own_key", lambda: "")
        patch.setattr(SEALS, "own_files", lambda run, chain, there, said: there)
        patch.setattr(SEALS, "_runner", lambda run: (None, {"unsigned": "no key"}))
        patch.setattr(SEALS, "statement", lambda m, p: as_now(m, {k: v for k, v in p.items() if k not in new}))
        patch.setattr(SEALS, "name_seals", lambda *_: None)
        evidence.seal(home.read(), "24")
        finish(home)


@pytest.mark.more
def test_a_chain_that_was_invented_is_unsigned_and_fits_nothing_that_was_kept_elsewhere(
    signers: Signers, monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> None:
    """docs/security.md, "Not promised": alone it verifies as an old toolkit's run, and `verify` says that nothing is signed."""
    home = small_run("night-1", signers)
    evidence.keep_sealed(home.read())
    noted = evidence.seals(home.reports)[-1].digest
    public, _ = audit.public_key(home.workspace.parent / "runner_key")
    elsewhere = Path("kept_elsewhere")
    elsewhere.write_text(
        signers.allowed.read_text(encoding="ascii") + f'runner namespaces="runbook-seal" {public}\n', encoding="ascii"
    )
    invented(home, monkeypatch)
    chain = evidence.seals(home.reports)
    numbers = ", ".join(str(seal.number) for seal in chain)
    found = verify(home.reports)
    assert found.problems == []
    assert f"seals/: not signed: {numbers}" in found.notes
    assert any("are chained, not signed" in line for line in found.notes)
    assert f"seals/{chain[0].path.name} is not signed" in plain(home)
    assert cli.main(["verify", home.id, "--expect", noted]) == 1
    assert f"no seal has the expected SHA-256 {noted}" in capsys.readouterr().out
    assert cli.main(["verify", home.id, "--allowed-signers", str(elsewhere)]) == 1
    assert "seals/: not signed, so that nobody can vouch for them" in capsys.readouterr().out
    assert cli.main(["audit", home.id, "--allowed-signers", str(elsewhere)]) == 1
    assert "no trusted key signed line" in capsys.readouterr().out

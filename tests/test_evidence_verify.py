"""A sealed run: every byte of every file counts, for `runbook verify` and for the plain commands of VERIFY.txt."""

from __future__ import annotations

import json
import shutil
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from helpers import audit, cli, evidence
from helpers.cli.evidence import archive, verify
from helpers.errors import Terminal, UsageError
from helpers.evidence import secret_scan, signing
from helpers.evidence.statement import canonical
from helpers.report.pages import run_page
from helpers.results import file_digest, write_text
from helpers.run import folders as runs
from helpers.run.folders import RunFolder
from helpers.run.plan import Step
from tests.signers import Signers, changed_toolkit, make_key, read, sign, small_run

Out = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """RUNBOOK_REPORTS and RUNBOOK_WORKSPACE of this module."""
    place = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUNBOOK_REPORTS", str(place / "reports"))
        patch.setenv("RUNBOOK_WORKSPACE", str(place / "workspace"))
        yield place


def finish(home: RunFolder) -> None:
    """What the runner does when a command ends."""
    evidence.at_rest(home.read())
    write_text(home.reports / "index.html", run_page(home.reports))


@pytest.fixture(scope="module")
def sealed(folders: Path, signers: Signers) -> Path:
    """A run that was sealed, signed by three, and went on; tests that change it take a copy."""
    home = small_run("night-1", signers)
    evidence.keep_sealed(home.read())
    signers.approve(home.reports, ["dba"], gate="dry-run")
    signers.approve(home.reports)
    home.log("line ends")
    finish(home)
    return home.reports


@pytest.fixture
def run(sealed: Path, tmp_path: Path) -> Path:
    """A copy elsewhere, under the same name, as an archive is unpacked."""
    return Path(shutil.copytree(sealed, tmp_path / sealed.name))


def problems(run: Path) -> list[str]:
    return verify(run).problems


def plain(run: Path) -> tuple[int, str]:
    """Exactly the commands of VERIFY.txt, in the run's folder."""
    done = subprocess.run(["bash", "VERIFY.txt"], cwd=run, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def everything(run: Path) -> list[str]:
    return sorted(path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file())


def test_an_untouched_run_fits_also_in_another_place(run: Path, sealed: Path) -> None:
    assert problems(sealed) == []
    found = verify(run)
    assert found.problems == []
    assert found.newest == file_digest(max((run / "seals").glob("*.json")))
    code, said = plain(run)
    assert (code, said.splitlines()[-1]) == (0, "Everything fits."), said
    assert (said.count('Good "runbook-seal"'), said.count("Good ")) == (3, 7)


def test_one_bit_in_any_file_is_named(run: Path) -> None:
    """Every file, in its first, middle and last byte."""
    names = everything(run)
    assert {"run.json", "run.log", "audit.jsonl", "index.html", "VERIFY.txt", "24_review.html", "allowed_signers"} <= {
        *names
    }
    missed = []
    for at, name in enumerate(names):
        path = run / name
        whole = path.read_bytes()
        place = (0, len(whole) // 2, len(whole) - 1)[at % 3]
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        if not any(name in line for line in problems(run)):
            missed.append(name)
        path.write_bytes(whole)
    assert missed == []
    assert problems(run) == []


@pytest.mark.more
def test_any_file_taken_away_is_named(run: Path) -> None:
    missed = []
    for name in everything(run):
        (run / name).rename(run.parent / "aside")
        if not any(name in line for line in problems(run)):
            missed.append(name)
        (run.parent / "aside").rename(run / name)
    assert missed == []


@pytest.mark.slow
def test_the_plain_commands_find_the_same(run: Path) -> None:
    missed = []
    for name in everything(run):
        path, whole = run / name, (run / name).read_bytes()
        if name in ("index.html", "VERIFY.txt"):  # derived: the one is not evidence, the other is the check itself
            continue
        place = len(whole) // 2 if name.endswith(".json.sig") else len(whole) - 1  # ssh-keygen reads over line ends
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        if not name.endswith(".dsse") and plain(run)[0] != 1:  # only its summary of the seal is read there
            missed.append(f"{name} changed")
        path.unlink()
        if plain(run)[0] != 1:
            missed.append(f"{name} taken away")
        path.write_bytes(whole)
    assert missed == []
    assert plain(run)[0] == 0


@pytest.mark.parametrize(
    "name", ["results/99.json", "note.txt", "figures/.hidden", "signoffs/cutover-dba.json", "seals/x.json"]
)
def test_a_file_that_is_added_is_named(run: Path, name: str) -> None:
    (run / name).write_text("{}", encoding="utf-8")
    assert any(name in line for line in problems(run))
    assert plain(run)[0] == 1


def test_a_link_in_place_of_a_file_is_named(run: Path, tmp_path: Path) -> None:
    (run / "results" / "23.json").rename(tmp_path / "23.json")
    (run / "results" / "23.json").symlink_to(tmp_path / "23.json")
    assert any("results/23.json" in line for line in problems(run))


@pytest.mark.more
def test_two_audit_lines_in_another_order(run: Path) -> None:
    path = run / "audit.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], lines[3], lines[2], *lines[4:]]))
    assert any(line.startswith("audit.jsonl: line 3: it does not follow") for line in problems(run))
    code, said = plain(run)
    assert (code, "audit.jsonl: broken before" in said) == (1, True)


def newest_of(run: Path, role: str) -> Path:
    return next((run / "signoffs").glob(f"cutover-{role}-*.json"))


def test_a_signature_in_the_place_of_another_roles(run: Path) -> None:
    dba, security = (newest_of(run, role) for role in ("dba", "security"))
    shutil.copyfile(f"{security}.sig", f"{dba}.sig")
    assert any(
        f"signoffs/{dba.name}: it was signed in the namespace runbook-security" in line for line in problems(run)
    )
    assert f"signoffs/{dba.name} is not signed by one who may" in plain(run)[1]


@pytest.mark.more
def test_a_signature_of_another_run(run: Path, folders: Path, signers: Signers) -> None:
    other = small_run("night-2", signers)
    evidence.keep_sealed(other.read())
    stranger = sign(read(other.reports), "dba", "A", "go", key=signers.key("dba"))
    for path in (stranger, stranger.with_name(stranger.name + ".sig")):
        shutil.copy(path, run / "signoffs" / path.name)
    assert any(line == f"signoffs/{stranger.name}: it is of run night-2" for line in problems(run))
    assert plain(run)[0] == 1


def test_an_expired_key(run: Path, signers: Signers) -> None:
    """A list in which the key was valid until the day before, sealed or not: the signature does not count by it."""
    text = "".join(signers.line(r, 'valid-before="20250101Z"' if r == "dba" else "") for r in signers.roles)
    (run / "allowed_signers").write_text(text, encoding="ascii")
    name = f"signoffs/{newest_of(run, 'dba').name}"
    assert any(line.startswith(name) and "not valid at the time of signing" in line for line in problems(run))
    assert f"{name} is not signed by one who may" in plain(run)[1]


def test_a_result_that_its_notebook_does_not_show(folders: Path, signers: Signers) -> None:
    """Changed before it was sealed: the seal fits, the notebook tells."""
    home = small_run("night-3", signers)
    path = home.reports / "results" / "23.json"
    path.write_bytes(path.read_bytes().replace(b'"pass"', b'"warning"', 1))
    with pytest.MonkeyPatch.context() as patch:
        changed_toolkit(patch)
        finish(home)
    said = ("audit.jsonl names no such file", "it is not the result that 23_validate.ipynb shows")
    assert problems(home.reports) == [f"results/23.json: {why}" for why in said]


def test_a_seal_whose_content_was_forged_does_not_follow(run: Path) -> None:
    first = min((run / "seals").glob("*.json"))
    said = json.loads(first.read_bytes())
    said["predicate"]["decision"] = "GO, really"
    first.write_bytes(canonical(said))
    assert any(first.name in line for line in problems(run))
    assert "does not follow the seal before it" in plain(run)[1]


# -- setting seals -----------------------------------------------------------------------------------------------------


@pytest.fixture
def fresh(folders: Path, signers: Signers, request: pytest.FixtureRequest) -> RunFolder:
    return small_run(f"run-{abs(hash(request.node.name)) % 10**9}", signers)


def test_a_changed_file_is_never_sealed_over(fresh: RunFolder) -> None:
    evidence.keep_sealed(fresh.read())
    (fresh.reports / "results" / "23.json").write_text("{}", encoding="utf-8")
    with pytest.raises(Terminal, match=r"results/23\.json changed after seal 2"):
        evidence.at_rest(fresh.read())


def test_what_a_step_left_before_it_ran_again_is_kept(fresh: RunFolder, signers: Signers) -> None:
    finish(fresh)
    runs.supersede(fresh, [Step.REVIEW])
    small_run(fresh.id, signers, again="24")
    evidence.keep_sealed(fresh.read())
    finish(fresh)
    assert problems(fresh.reports) == []
    assert plain(fresh.reports)[0] == 0


def test_nothing_new_sets_no_seal(fresh: RunFolder) -> None:
    finish(fresh)
    before = everything(fresh.reports)
    finish(fresh)
    assert everything(fresh.reports) == before


def test_what_a_killed_sealing_left_is_sealed_over(fresh: RunFolder) -> None:
    """The audit log names a seal that never was; half a seal and no VERIFY.txt lie there."""
    evidence.keep_sealed(fresh.read())
    audit.append(fresh.reports / audit.NAME, "seal", number=3, after="")
    (fresh.reports / "seals" / ".0003-x.json.1.tmp").write_text("{", encoding="utf-8")
    (fresh.reports / "VERIFY.txt").unlink()
    finish(fresh)
    assert problems(fresh.reports) == []
    assert plain(fresh.reports)[0] == 0


def test_a_seal_says_what_made_the_run(sealed: Path, root: Path) -> None:
    seal = next(s for s in evidence.seals(sealed) if s.after == "24")
    statement = json.loads(seal.path.read_bytes())
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert {"24_review.ipynb", "24_review.html", "results/24.json", "parameters.yaml", "figures/23_counts.png"} <= {
        subject["name"] for subject in statement["subject"]
    }
    said = statement["predicate"]
    assert said["verdicts"]["24"]["verdict"] == "pass"
    assert said["decision"] == "GO"
    assert said["notebooks"]["24_review.ipynb"] == file_digest(root / "notebooks" / "24_review.ipynb")
    assert said["requirements_lock"] == file_digest(root / "requirements.lock")
    assert {"chromadb", "python"} <= said["versions"].keys()
    assert [p["name"] for p in said["prefixes"]] == ["audit.jsonl", "run.log"]
    assert seal.previous == evidence.seals(sealed)[0].digest


# -- commands ----------------------------------------------------------------------------------------------------------


def test_verify_and_audit_and_archive(
    sealed: Path, tmp_path: Path, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["verify", "night-1"]) == 0
    assert "Run night-1 fits: " in capsys.readouterr().out
    assert cli.main(["audit", "night-1"]) == 0
    assert "signed" in capsys.readouterr().out
    assert cli.main(["archive", "night-1"]) == 0
    said = archive(sealed, tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == (tmp_path / "night-1.zip").read_bytes()
    assert file_digest(tmp_path / "again.zip") in said
    with zipfile.ZipFile(tmp_path / "night-1.zip") as zipped:
        zipped.extractall(tmp_path / "elsewhere")
    assert plain(tmp_path / "elsewhere" / "night-1")[0] == 0
    assert problems(tmp_path / "elsewhere" / "night-1") == []
    with pytest.raises(UsageError, match="exists already"):
        archive(sealed, tmp_path / "again.zip")


def test_verify_names_what_does_not_fit_and_fails(fresh: RunFolder, capsys: Out) -> None:
    finish(fresh)
    with (fresh.reports / "results" / "24.json").open("ab") as file:
        file.write(b" ")
    assert cli.main(["verify", fresh.id]) == 1
    assert "results/24.json: changed since seal" in capsys.readouterr().out


def test_audit_names_a_line_that_no_trusted_key_signed(
    fresh: RunFolder, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(fresh)
    with monkeypatch.context() as stranger:
        stranger.setattr(audit, "_signed", lambda line, name: line)
        audit.append(fresh.reports / audit.NAME, "drill", what="restore")
    lines = len((fresh.reports / audit.NAME).read_text().splitlines())
    assert cli.main(["audit", fresh.id]) == 1
    assert f"no trusted key signed line {lines}: what they say proves nothing" in capsys.readouterr().out


@pytest.mark.parametrize("how", ["nobody signed the seal", "the seal of a stranger", "not of the list"])
def test_audit_trusts_no_key_that_only_an_untrusted_seal_names(
    fresh: RunFolder, capsys: Out, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, how: str
) -> None:
    """Whoever makes up a key for the log names it in a seal of their own."""
    finish(fresh)
    key = make_key(tmp_path / "runner_key")
    newest = evidence.seals(fresh.reports)[-1]
    public, fingerprint = audit.public_key(key)
    signed = {"principal": "me", "key": public, "fingerprint": fingerprint}
    predicate = {
        **newest.predicate, "number": newest.number + 1, "previous": newest.digest, "previous_name": newest.name,
        "log_key": fingerprint, "runner": {"unsigned": "no key"} if how == "nobody signed the seal" else signed,
    }  # fmt: skip
    path = newest.path.with_name(f"{newest.number + 1:04d}-20270101T000000.000Z.json")
    path.write_bytes(canonical({**json.loads(newest.data), "predicate": predicate}))
    if how != "nobody signed the seal":
        path.with_name(f"{path.name}.sig").write_bytes(signing.sign(path.read_bytes(), signing.SEAL, key))
    with monkeypatch.context() as stranger:
        stranger.setattr(audit, "workspace_root", lambda: tmp_path)
        audit.append(fresh.reports / audit.NAME, "drill", what="restore")
    lines = len((fresh.reports / audit.NAME).read_text().splitlines())
    given = []
    if how == "not of the list":
        runner, _ = audit.public_key(fresh.workspace.parent / "runner_key")
        (tmp_path / "list").write_text(f'runner namespaces="runbook-seal" {runner}\n')
        given = ["--allowed-signers", str(tmp_path / "list")]
    assert cli.main(["audit", fresh.id, *given]) == 1
    assert f"no trusted key signed line {lines}: what they say proves nothing" in capsys.readouterr().out


@pytest.mark.more
@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("its last lines are cut off", "cut short or changed since seals/0002"),
        ("it is gone", "gone, cut short or changed since seals/0002"),
        ("the newest seal is gone, too", "last-seal names is missing"),
        ("the first seal is gone", "does not follow the seal before it"),
        ("seals are gone", "last-seal names is missing"),
        ("seals are gone, elsewhere", "the run was sealed, and its seals are gone"),
        ("forged elsewhere", "nothing proves what it says"),
    ],
)
def test_audit_names_a_log_that_is_not_as_sealed(
    fresh: RunFolder, capsys: Out, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, how: str, said: str
) -> None:
    evidence.keep_sealed(fresh.read())
    finish(fresh)
    log, chain = fresh.reports / audit.NAME, evidence.seals(fresh.reports)
    assert cli.main(["audit", fresh.id]) == 0
    lines = log.read_bytes().splitlines(keepends=True)
    if "cut off" in how:
        log.write_bytes(b"".join(lines[:4]))
    elif how == "it is gone":
        log.unlink()
    elif "seal " in how:
        chain[-1 if "newest" in how else 0].path.unlink()
    else:
        shutil.rmtree(fresh.reports / "seals")
    if "elsewhere" in how:
        monkeypatch.setenv("RUNBOOK_WORKSPACE", str(tmp_path))
    if "forged" in how:
        (fresh.reports / "VERIFY.txt").unlink()
        log.unlink()
        monkeypatch.setattr(audit, "_signed", lambda line, name: line)
        audit.append(log, "approved by telephone")
    assert cli.main(["audit", fresh.id]) == 1
    assert said in capsys.readouterr().out


def test_audit_takes_the_keys_of_a_list_from_outside(fresh: RunFolder, capsys: Out, tmp_path: Path) -> None:
    finish(fresh)
    for name, code in (("runner_key", 0), ("other", 1)):
        key = fresh.workspace.parent / name
        if name == "other":
            make_key(key)
        (tmp_path / name).write_text(f'runner namespaces="runbook-seal" {audit.public_key(key)[0]}\n')
        assert cli.main(["audit", fresh.id, "--allowed-signers", str(tmp_path / name)]) == code
        assert ("no trusted key signed line 1, 2" in capsys.readouterr().out) is (code == 1)


@pytest.mark.more
def test_signing_on_the_command_line(
    fresh: RunFolder, signers: Signers, tmp_path: Path, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    evidence.keep_sealed(fresh.read())
    command: Callable[..., list[str]] = lambda role, *more: ["sign", fresh.id, *signers.command(role)[:-2], *more]  # noqa: E731
    assert cli.main(command("dba")) == 2
    assert "one of --key, --export and --import" in capsys.readouterr().err
    assert cli.main(["sign", fresh.id, *signers.command("dba")]) == 0
    assert cli.main(command("security", "--export", "security.json")) == 0
    shown = next(line for line in capsys.readouterr().out.splitlines() if "ssh-keygen -Y sign" in line).strip()
    subprocess.run(["bash", "-c", shown.replace("KEY", str(signers.key("security")))], check=True, capture_output=True)
    assert cli.main(["sign", fresh.id, "--import", "security.json.sig"]) == 0
    assert problems(fresh.reports) == []
    assert plain(fresh.reports)[0] == 0
    assert cli.main(["sign", fresh.id, "--import", "security.json.sig"]) == 2


def test_the_packages_whose_digest_a_seal_names_are_in_the_folder_and_sealed(sealed: Path) -> None:
    newest = evidence.seals(sealed)[-1]
    (path,) = sealed.glob("packages-*.txt")
    assert file_digest(path) == newest.predicate["code"]["packages"]
    assert any("  chromadb-" in line for line in path.read_text(encoding="utf-8").splitlines())
    assert path.name in newest.subjects


def test_the_list_of_packages_names_what_python_runs_when_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of a package that is edited later is not seen, and docs/evidence.md says so."""
    listed = secret_scan._packages.__wrapped__
    monkeypatch.syspath_prepend(str(tmp_path))
    before = listed()
    (tmp_path / "sitecustomize.py").write_text("import os\n", encoding="utf-8")
    added = sorted({*listed().splitlines()} - {*before.splitlines()})
    assert added == [f"{file_digest(tmp_path / 'sitecustomize.py')}  {tmp_path.name}/sitecustomize.py"]
    assert ".pth\n" in before

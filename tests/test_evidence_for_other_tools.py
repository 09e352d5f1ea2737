"""Code identity, envelopes for other tools, digests in places outside, names of signers: what an auditor has beside the seals."""

from __future__ import annotations

import base64
import json
import marshal
import os
import py_compile
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from helpers import audit, evidence
from helpers.cli.evidence import verify
from helpers.errors import Terminal, UsageError
from helpers.evidence.secret_scan import attestation
from helpers.evidence.signoffs import open_gate
from helpers.report.pages import index_page
from helpers.results import file_digest
from helpers.run import folders as runs
from helpers.run import plan
from helpers.run.folders import RunFolder
from tests.signers import Signers, finish, sign, signed_run, small_run

SEALS = sys.modules["helpers.evidence.seals"]  # the package's `seals` is the function
CODE = sys.modules["helpers.evidence.secret_scan"]


@pytest.fixture
def home(folders: Path, signers: Signers) -> RunFolder:
    """A run that was sealed and signed by three."""
    return signed_run(signers)


def test_bytecode_that_is_not_of_its_source_stops_the_seal(
    folders: Path, signers: Signers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A planted cache decides what runs while every source has its digest."""
    package = tmp_path / "package"
    package.mkdir()
    source = package / "review.py"
    source.write_text("def decide():\n    return 'NO-GO'\n", encoding="utf-8")
    cached = Path(str(py_compile.compile(str(source), doraise=True)))
    assert CODE.foreign_bytecode(package) == []
    header = cached.read_bytes()[:16]
    cached.write_bytes(header + marshal.dumps(compile("def decide():\n    return 'GO'\n", str(source), "exec")))
    assert CODE.foreign_bytecode(package) == [cached.as_posix()]
    home = small_run("night-8", signers)
    monkeypatch.setattr(CODE, "_foreign", lambda: ["steps/__pycache__/review.cpython-311.pyc"])
    with pytest.raises(Terminal, match=r"review\.cpython-311\.pyc.*not the bytecode of its source"):
        evidence.seal(home.read(), "14")
    source.write_text("def decide():\n    return 'another one'\n", encoding="utf-8")
    assert CODE.foreign_bytecode(package) == [], "Python itself does not read a cache that is older than its source"


def as_documented(seal: Path, folder: Path) -> str:
    """What the commands of docs/evidence.md say of the envelope beside this seal: openssl and coreutils, nothing of ours."""
    page = (runs.REPOSITORY / "docs" / "evidence.md").read_text(encoding="utf-8")
    (script,) = (block for block in page.split("```")[1::2] if "pkeyutl" in block)
    commands = "\n".join(line.removeprefix("$ ").removeprefix("> ") for line in script.splitlines()[1:])
    path = {"SEAL": str(seal), "TMPDIR": str(folder), "PATH": os.environ["PATH"]}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands], cwd=folder, env=path, capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr


@pytest.mark.more
def test_every_seal_has_an_envelope_that_other_tools_verify(home: RunFolder, tmp_path: Path) -> None:
    chain = evidence.seals(home.reports)
    for seal in chain:
        envelope = json.loads(seal.path.with_suffix(".json.dsse").read_bytes())
        assert (envelope["payloadType"], len(envelope["signatures"])) == ("application/vnd.in-toto+json", 1)
        said = json.loads(base64.b64decode(envelope["payload"]))
        assert said["predicateType"] == "https://in-toto.io/attestation/test-result/v0.1"
        assert {"name": seal.name, "digest": {"sha256": seal.digest}} in said["subject"]
        assert "Signature Verified Successfully" in as_documented(seal.path, tmp_path)
    said = json.loads(base64.b64decode(json.loads(chain[-1].path.with_suffix(".json.dsse").read_bytes())["payload"]))
    assert said["predicate"]["result"] == "PASSED"
    assert {"23_validate", "24_review"} <= {*said["predicate"]["passedTests"]}
    assert said["predicate"]["configuration"][0] == {
        "name": "parameters.yaml", "digest": {"sha256": file_digest(home.reports / "parameters.yaml")},
    }  # fmt: skip
    last = chain[-1].path
    altered = last.with_suffix(".json.dsse")
    altered.write_bytes(evidence.seals(home.reports)[0].path.with_suffix(".json.dsse").read_bytes())
    assert f"seals/{altered.name}: it does not say what its seal says" in verify(home.reports).problems
    altered.unlink()
    assert f"seals/{altered.name}: missing" in verify(home.reports).problems


def test_a_failed_step_and_a_no_go_are_said_to_other_tools(home: RunFolder) -> None:
    seal = evidence.seals(home.reports)[-1]
    about = {step: dict(said) for step, said in seal.predicate["verdicts"].items()}
    about["13"]["verdict"], about["14"]["verdict"], about["23"]["error"] = "marginal", "not exercised", "disk_full"

    def of(**changes: Any) -> dict[str, Any]:
        return dict(json.loads(attestation(replace(seal, predicate={**seal.predicate, **changes})))["predicate"])

    said = of(verdicts=about)
    lists = {name: said[name] for name in ("passedTests", "warnedTests", "failedTests")}
    assert lists == {"passedTests": ["24_review"], "warnedTests": ["13_dry_run"], "failedTests": ["23_validate"]}
    assert [said["result"], of(decision="NO-GO")["result"]] == ["FAILED", "FAILED"]


@pytest.mark.more
@pytest.mark.parametrize(("kind", "why"), [("rsa", "ssh-rsa, not ssh-ed25519"), ("ed25519", "without a passphrase")])
def test_a_key_that_cannot_sign_so_signs_seals_without_an_envelope(
    folders: Path, signers: Signers, tmp_path: Path, kind: str, why: str
) -> None:
    key = tmp_path / "vault"
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", str(key)], check=True, capture_output=True)
    if kind == "ed25519":  # as an agent holds it: only its public half is in a file
        key.rename(tmp_path / "elsewhere")
        agent = subprocess.run(["ssh-agent", "-s"], check=True, capture_output=True, text=True).stdout
        found = dict(re.findall(r"(SSH_\w+)=([^;]+);", agent))
    else:
        found = {}
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in found.items():
                patch.setenv(name, value)
            if found:
                subprocess.run(["ssh-add", str(tmp_path / "elsewhere")], check=True, capture_output=True)
                key = key.with_suffix(".pub")
            signoff = {"allowed_signers": str(signers.allowed), "runner_key": str(key)}
            home = small_run(f"night-{kind}", signers, signoff=signoff)
            finish(home)
    finally:
        if found:
            os.kill(int(found["SSH_AGENT_PID"]), signal.SIGTERM)
    verified = verify(home.reports)
    assert verified.problems == []
    assert [line for line in verified.notes if "without a DSSE envelope" in line and why in line]
    assert not list(home.reports.glob("seals/*.dsse"))


@pytest.mark.more
def test_a_notice_names_the_runners_key_without_asking_ssh_keygen(
    home: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest = evidence.seals(home.reports)[-1]
    monkeypatch.setattr(audit, "program", lambda: pytest.fail("ssh-keygen was asked"))
    said = SEALS.custody(home.read())
    assert f"The newest seal before this: {newest.path.name}, SHA-256 {newest.digest}." in said
    assert newest.predicate["runner"]["fingerprint"] in said


# -- places outside ----------------------------------------------------------------------------------------------------


def pushing(folders: Path, signers: Signers, run_id: str) -> tuple[RunFolder, Path, Path]:
    """A run whose digests go to a file, the place outside; it takes nothing while there is no `open` beside it."""
    place, door = folders / "outside", folders / "open"
    take = [
        "sh",
        "-c",
        'if test ! -e "$1"; then echo "it is shut"; exit 1; fi; echo "$2  $3" >> "$0"',
        str(place),
        str(door),
    ]
    signoff = {"allowed_signers": str(signers.allowed), "push_digest": [*take, "{digest}", "{run}/{seal}"]}
    return small_run(run_id, signers, signoff=signoff), place, door


def test_every_digest_is_pushed_to_the_place_outside_and_its_result_recorded(folders: Path, signers: Signers) -> None:
    home, place, door = pushing(folders, signers, "night-9")
    door.touch()
    evidence.keep_sealed(home.read())
    signers.approve(home.reports)
    finish(home)
    chain = evidence.seals(home.reports)
    assert place.read_text(encoding="utf-8").splitlines() == [f"{s.digest}  night-9/{s.path.name}" for s in chain]
    assert evidence.not_pushed(home.read()) == ""
    for line in place.read_text(encoding="utf-8").splitlines():
        found = verify(home.reports, [line.split()[0]])
        assert found.problems == []
    assert f"seals/: their digests were pushed: {', '.join(str(s.number) for s in chain)}" in found.notes
    before = sorted(home.reports.rglob("*"))
    finish(home)
    assert sorted(home.reports.rglob("*")) == before, "that a digest was pushed makes no new seal due"
    assert subprocess.run(["bash", "VERIFY.txt"], cwd=home.reports, check=False, capture_output=True).returncode == 0


def test_a_place_outside_that_is_shut_is_a_warning_and_tried_again_at_the_next_seal(
    folders: Path, signers: Signers
) -> None:
    home, place, door = pushing(folders, signers, "night-10")
    run = evidence.keep_sealed(home.read())
    said = evidence.not_pushed(run)
    assert said.startswith("Warning: the digest of 0001-")
    assert "signoff.push_digest ended with exit code" in said
    assert b"it is shut" not in (home.reports / audit.NAME).read_bytes(), "what it prints may hold a secret"
    assert any("its digest was not pushed: " in line for line in verify(home.reports).notes)
    log = [entry for entry in audit.entries(home.reports / audit.NAME) if entry["action"] == "digest pushed"]
    assert {(entry["outcome"], entry["facts"]["reason"]) for entry in log} == {("failed", "digest_not_pushed")}
    assert not place.exists()
    door.touch()
    home.log("goes on")
    finish(home)
    assert [line.split()[0] for line in place.read_text(encoding="utf-8").splitlines()] == [
        seal.digest for seal in evidence.seals(home.reports)
    ]
    assert evidence.not_pushed(home.read()) == ""
    assert verify(home.reports).problems == []


def test_a_digest_that_was_pushed_and_is_of_no_seal_is_named(folders: Path, signers: Signers) -> None:
    home, _, door = pushing(folders, signers, "night-11")
    door.touch()
    evidence.keep_sealed(home.read())
    audit.append(home.reports / audit.NAME, "digest pushed", number=9, digest="ab" * 32)
    finish(home)
    assert any(line.startswith("audit.jsonl: the digest abab") for line in verify(home.reports).problems)


@pytest.mark.parametrize("words", [["true"], ["sh", "-c", "{digest} {target_url}"], ["send", "{digest"]])
def test_a_command_that_could_not_push_a_digest_is_refused(folders: Path, signers: Signers, words: list[str]) -> None:
    rules = {"allowed_signers": str(signers.allowed), "push_digest": words}
    with pytest.raises(UsageError, match=r"signoff\.push_digest"):
        small_run("night-12", signers, signoff=rules)


@pytest.mark.more
@pytest.mark.parametrize("name", ["run.log", "audit.jsonl"])
def test_lines_that_were_added_to_a_log_after_the_seal_are_named(home: RunFolder, name: str) -> None:
    if name == "run.log":
        home.log("decision: NO-GO was withdrawn")
    else:
        audit.append(home.reports / name, "signed", gate="cutover", role="dba", decision="go")
    newest = evidence.seals(home.reports)[-1].number
    assert f"{name}: 1 line added after seal {newest}, which no seal covers" in verify(home.reports).problems
    plain = subprocess.run(["bash", "VERIFY.txt"], cwd=home.reports, check=False, capture_output=True, text=True)
    assert (plain.returncode, f"{name}: lines added later" in plain.stdout) == (1, True)


# -- signers -----------------------------------------------------------------------------------------------------------


def test_the_name_shown_is_that_of_the_key_and_not_what_a_signer_calls_themselves(
    folders: Path, signers: Signers
) -> None:
    home = small_run("night-13", signers)
    evidence.keep_sealed(home.read())
    sign(home.read(), "dba", "Grace Hopper", "go", key=signers.key("dba"))
    sign(home.read(), "security", "Alan Turing", "no-go", reason="not tonight", key=signers.key("security"))
    finish(home)
    page = (home.reports / "index.html").read_text(encoding="utf-8")
    everywhere = page + index_page(home.reports.parent) + str(open_gate(home.read(), plan.LINE))
    assert "Grace Hopper" not in everywhere
    assert "Alan Turing" not in everywhere
    assert "dba@example.org" in page
    assert "security (security@example.org) says NO-GO: not tonight" in everywhere
    log = [e["facts"] for e in audit.entries(home.reports / audit.NAME) if e["action"] == "signed"]
    assert [facts["signer"] for facts in log] == ["dba@example.org", "security@example.org"]

"""Who held the evidence: seals signed by the runner, digests noted elsewhere, changes that nobody announced."""

from __future__ import annotations

import json
import re
import shutil
import sys
import time
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from helpers import audit, cli, evidence
from helpers.cli.evidence import verify
from helpers.errors import Terminal, UsageError
from helpers.evidence import signing
from helpers.evidence.seals import after
from helpers.evidence.signoffs import gate_state, open_gate, record, statement
from helpers.evidence.statement import canonical, read_seal
from helpers.parameters import parameters_from
from helpers.results import file_digest, write_json
from helpers.run import folders as runs
from helpers.run import plan
from helpers.run.folders import RunFolder
from helpers.run.plan import Step
from helpers.runner.group import Group, GroupRow
from tests.signers import (
    Signers,
    changed_toolkit,
    finish,
    finish_step,
    forge,
    make_key,
    plain,
    sign,
    signed_run,
    small_run,
    vouch,
)

STATEMENT = sys.modules["helpers.evidence.statement"]
SEALS = sys.modules["helpers.evidence.seals"]  # the package's `seals` is the function


@pytest.fixture
def home(folders: Path, signers: Signers) -> RunFolder:
    """A run that was sealed and signed by three."""
    return signed_run(signers)


def made_again(home: RunFolder, signers: Signers) -> None:
    """What an operator can do who trusts nobody to have noted a digest: another decision, sealed and signed anew."""
    for name in ("seals", "signoffs"):
        shutil.rmtree(home.reports / name)
    (home.reports / audit.NAME).unlink()  # it names what was signed
    (home.reports / "allowed_signers").unlink()  # taken again, as the new log says
    for name in ("last-seal", "first-line"):
        (home.workspace / name).unlink()
    vouch(home.reports)
    for number in ("13", "14", "23"):
        finish_step(home, number)
    result = home.reports / "results" / "24.json"
    result.write_text(result.read_text(encoding="utf-8").replace('"GO"', '"GO "'), encoding="utf-8")
    small_run(home.id, signers, again="24")
    evidence.keep_sealed(home.read())
    signers.approve(home.reports, ["dba"], gate="dry-run")
    signers.approve(home.reports)
    finish(home)


@pytest.mark.parametrize("who", ["nobody", "a stranger", "the operator, in part"])
def test_nothing_is_built_on_a_seal_that_the_runner_did_not_sign(home: RunFolder, signers: Signers, who: str) -> None:
    """Whoever can write in the run's folder and has no key puts a seal behind the last one, or takes that away."""
    finish(home)
    newest = evidence.seals(home.reports)[-1]
    if who == "the operator, in part":
        for file in (home.reports / "seals").glob(f"{newest.path.name}*"):
            file.unlink()
    else:
        predicate = {
            **newest.predicate,
            "number": newest.number + 1,
            "previous": newest.digest,
            "previous_name": newest.name,
        }
        if who == "nobody":
            predicate["runner"] = {"principal": "me", "unsigned": "no key"}
        path = newest.path.with_name(f"{newest.number + 1:04d}-20270101T000000.000Z.json")
        data = json.loads(newest.path.read_bytes())
        path.write_bytes(canonical({**data, "predicate": predicate}))
        if who == "a stranger":
            audit.make_key(home.workspace.parent / "other", "a stranger")
            signature = signing.sign(path.read_bytes(), signing.SEAL, home.workspace.parent / "other")
            path.with_name(f"{path.name}.sig").write_bytes(signature)
    with pytest.raises(Terminal, match=r"not signed|signed with|is missing"):
        evidence.keep_sealed(home.read())


@pytest.mark.more
def test_a_seal_whose_run_has_no_plain_id_is_none(home: RunFolder) -> None:
    """VERIFY.txt, which people run, names it."""
    newest = evidence.seals(home.reports)[-1]
    document = json.loads(newest.path.read_bytes())
    document["predicate"]["run"]["id"] = "x$(touch PWNED)"
    with pytest.raises(ValueError, match="not a seal"):
        read_seal(newest.path, canonical(document))


def allowing_seals(home: RunFolder, signers: Signers) -> Path:
    """The list that an auditor keeps elsewhere: the people, and the runner's key for seals."""
    public, _ = audit.public_key(home.workspace.parent / "runner_key")
    path = home.workspace.parent / "kept_elsewhere"
    path.write_text(
        signers.allowed.read_text(encoding="ascii") + f'runner namespaces="runbook-seal" {public}\n', encoding="ascii"
    )
    return path


@pytest.mark.more
def test_every_seal_is_signed_by_the_key_that_it_names(home: RunFolder, signers: Signers) -> None:
    key = home.workspace.parent / "runner_key"
    _, fingerprint = audit.public_key(key)
    assert key.stat().st_mode & 0o077 == 0
    chain = evidence.seals(home.reports)
    for seal in chain:
        assert seal.predicate["runner"]["fingerprint"] == fingerprint
        assert signing.signed_by(seal.path.read_bytes(), seal.path.with_suffix(".json.sig"), "seal") == fingerprint
    found = verify(home.reports, signers=allowing_seals(home, signers))
    assert found.problems == []
    assert any(fingerprint in line for line in found.notes)


@pytest.mark.more
def test_seals_made_again_with_another_key_do_not_fit_what_was_noted_elsewhere(
    home: RunFolder, signers: Signers
) -> None:
    noted = evidence.seals(home.reports)[-1].digest
    listed = allowing_seals(home, signers)
    (home.workspace.parent / "runner_key").unlink()
    made_again(home, signers)
    assert verify(home.reports).problems == [], "without anything from outside nobody can tell"
    assert any(noted in line for line in verify(home.reports, [noted]).problems)
    assert any("not among the allowed signers" in line for line in verify(home.reports, signers=listed).problems)


@pytest.mark.more
def test_seals_made_again_with_the_same_key_do_not_fit_the_digest_that_was_noted(
    home: RunFolder, signers: Signers
) -> None:
    noted = evidence.seals(home.reports)[-1].digest
    assert verify(home.reports, [noted]).problems == []
    made_again(home, signers)
    assert any(noted in line for line in verify(home.reports, [noted]).problems)


@pytest.mark.more
def test_a_seal_that_came_later_is_named_beside_the_expected_one(home: RunFolder) -> None:
    noted = evidence.seals(home.reports)[0].digest
    found = verify(home.reports, [noted])
    assert found.problems == []
    assert any("is the expected one; seals made later: 2 (after step 24)" in line for line in found.notes)


@pytest.mark.more
@pytest.mark.parametrize("what", ["taken away", "by another key"])
def test_a_seal_without_its_runner_s_signature_is_named(home: RunFolder, what: str, tmp_path: Path) -> None:
    last = evidence.seals(home.reports)[-1].path
    signature = last.with_suffix(".json.sig")
    signature.unlink()
    if what == "by another key":
        signature.write_bytes(signing.sign(last.read_bytes(), "seal", make_key(tmp_path / "other")))
    assert any(line.startswith(f"seals/{last.name}") for line in verify(home.reports).problems)


@pytest.mark.more
def test_a_new_runner_key_in_the_middle_of_a_run_is_named(home: RunFolder) -> None:
    for name in ("runner_key", "runner_key.pub"):
        (home.workspace.parent / name).unlink()
    home.log("goes on")
    finish(home)
    assert any("not with the key of seal" in line for line in verify(home.reports).problems)


@pytest.mark.more
def test_fewer_roles_by_an_edit_of_the_parameters_are_never_sealed(home: RunFolder) -> None:
    path = home.reports / "parameters.yaml"
    path.write_text(
        path.read_text(encoding="utf-8").replace("  - security\n", "").replace("  - operations_lead\n", ""),
        encoding="utf-8",
    )
    with pytest.raises(Terminal, match=r"parameters\.yaml changed after seal"):
        evidence.seal(home.read(), "24")
    with pytest.raises(Terminal, match=r"in parameters\.yaml after seal 1"):
        evidence.keep_sealed(home.read())
    assert any("parameters.yaml" in line for line in verify(home.reports).problems)


def change(home: RunFolder, **signoff: Any) -> None:
    """Edit parameters.yaml and write the lines of the log that the toolkit would have written."""
    document = home.read().parameters.document()
    document["signoff"] |= signoff
    home.rewrite("parameters.yaml", runs.parameters_text(parameters_from(document)))
    audit.append(home.reports / audit.NAME, "parameters changed", names=[f"signoff.{name}" for name in signoff])


@pytest.mark.more
def test_fewer_roles_are_never_sealed_whatever_the_log_says(home: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    change(home, required=["operations_lead"])
    for attempt in (evidence.keep_sealed, evidence.at_rest):
        with pytest.raises(Terminal, match=r"signoff\.required changed .* fell: cutover: dba, security"):
            attempt(home.read())
    monkeypatch.setattr(SEALS, "_refuse_other_binding", lambda *_: None)  # an operator with a changed toolkit
    finish(home)
    named = [line for line in verify(home.reports).problems if "signoff.required" in line]
    assert any("approvals that fell: cutover: dba, security" in line for line in named), named


@pytest.mark.more
def test_who_has_to_sign_is_changed_by_no_command_after_the_first_seal(
    home: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home.read().facts["directory"])
    before = (home.reports / "parameters.yaml").read_bytes()
    document = home.read().parameters.document()
    with pytest.raises(UsageError, match=r"who has to sign never changes in a run: signoff\.required"):
        runs.change_parameters(home, parameters_from(document, ["signoff.required=[]"]))
    assert (home.reports / "parameters.yaml").read_bytes() == before
    runs.change_parameters(home, parameters_from(document, ["migration.minimum_valid=0.5"]))
    finish(home)
    found = verify(home.reports)
    assert any("changed since seal 1, as audit.jsonl says" in line for line in found.notes)
    assert gate_state(home.read()).missing == ["operations_lead", "dba", "security"], "they approved something else"


def test_a_cutover_that_nobody_had_to_sign_is_named(folders: Path, signers: Signers) -> None:
    home = small_run("night-14", signers, signoff={"required": []})
    evidence.keep_sealed(home.read())
    finish_step(home, Step.CUTOVER)
    evidence.keep_sealed(home.read())
    finish(home)
    assert any("nobody had to sign" in line for line in verify(home.reports).notes)


@pytest.mark.more
def test_a_sealed_result_is_not_replaced_by_a_copy_below_earlier(
    home: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    forge(home, "results/23.json")
    with pytest.raises(Terminal, match=r"results/23\.json.* changed after seal"):
        evidence.at_rest(home.read())
    changed_toolkit(monkeypatch)
    finish(home)
    assert any(line.startswith("results/23.json: changed between seal") for line in verify(home.reports).problems)
    assert "results/23.json: changed between" in plain(home)


@pytest.mark.more
def test_what_a_step_that_runs_again_moves_is_named_in_the_log(folders: Path, signers: Signers) -> None:
    home = small_run("night-21", signers)
    evidence.keep_sealed(home.read())
    was = file_digest(home.reports / "results" / "24.json")
    runs.supersede(home, [Step.REVIEW])
    small_run(home.id, signers, again="24")
    evidence.keep_sealed(home.read())
    signers.approve(home.reports)
    finish(home)
    told = [e["facts"] for e in audit.entries(home.reports / audit.NAME) if e["action"] == "set aside"]
    (row,) = (facts for facts in told if facts["file"] == "results/24.json")
    assert (row["digest"], file_digest(home.reports / row["to"])) == (was, was)
    assert verify(home.reports).problems == []
    assert "Everything fits." in plain(home)


@pytest.mark.more
def test_a_move_in_a_run_of_an_older_toolkit_is_a_note(folders: Path, signers: Signers) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audit, "BEGUN", "not yet written")
        home = small_run("night-15", signers)
    (home.workspace / audit.FIRST_LINE).unlink()  # it is noted since the log begins so
    with pytest.MonkeyPatch.context() as patch:  # seals as they were set before the log named what was moved
        new, as_now = {"moves", "bound", "approvals"}, SEALS.statement
        patch.setattr(SEALS, "statement", lambda m, p: as_now(m, {k: v for k, v in p.items() if k not in new}))
        patch.setattr(SEALS, "own_files", lambda run, chain, there, said: there)
        evidence.keep_sealed(home.read())
    assert not new & evidence.seals(home.reports)[0].predicate.keys()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audit, "append", lambda *_, **__: "")
        runs.supersede(home, [Step.REVIEW])
    small_run(home.id, signers, again="24")
    evidence.keep_sealed(home.read())
    signers.approve(home.reports)
    finish(home)
    found = verify(home.reports)
    assert found.problems == []
    assert any("its log names no moves" in line for line in found.notes)
    assert "Everything fits." in plain(home)


def test_an_edit_before_the_first_seal_is_never_sealed(folders: Path, signers: Signers) -> None:
    home = small_run("night-2", signers)
    path = home.reports / "parameters.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace("dry_run:", "dry_run: "), encoding="utf-8")
    with pytest.raises(Terminal, match=r"parameters\.yaml is not what audit\.jsonl names"):
        evidence.seal(home.read(), "14")


def test_an_edit_of_both_files_before_the_first_seal_is_never_sealed(folders: Path, signers: Signers) -> None:
    """No signature is asked for any more, and run.json names the parameters that say so."""
    home = small_run("night-3", signers)
    home.note(until="24")
    parameters, facts = home.reports / "parameters.yaml", home.reports / "run.json"
    parameters.write_text(
        re.sub(r"required:(\n\s*- \w+)+", "required: []", parameters.read_text(encoding="utf-8")), encoding="utf-8"
    )
    write_json(facts, json.loads(facts.read_text(encoding="utf-8")) | {"parameters_sha256": file_digest(parameters)})
    with pytest.raises(Terminal, match=r"run\.json is not what audit\.jsonl names"):
        evidence.seal(home.read(), "14")


def test_a_change_by_resume_is_announced_and_sealed(home: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home.read().facts["directory"])
    runs.change_parameters(home, home.read().parameters.for_resume(["migration.batch_size=50"]))
    finish(home)
    found = verify(home.reports).problems
    assert not any(line.startswith(("parameters.yaml", "run.json", "seals/")) for line in found), found


def test_a_change_between_two_seals_that_the_log_does_not_name_is_a_problem(
    home: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An operator with the runner's key who seals by a changed toolkit."""
    path = home.reports / "run.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"until": ""', '"until": "24"'), encoding="utf-8")
    changed_toolkit(monkeypatch)
    finish(home)
    assert any("run.json: changed between seal 2 and seal 3" in line or "names no such change" in line
               for line in verify(home.reports).problems)  # fmt: skip


@pytest.mark.more
def test_a_change_after_a_seal_that_was_killed_is_announced(home: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log says that the seal began, twice; what changed in between came before the seal that was set."""

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    home.log("goes on")
    with monkeypatch.context() as patch:
        patch.setattr(SEALS, "statement", killed)
        with pytest.raises(KeyboardInterrupt):
            evidence.at_rest(home.read())
    home.note(until="24")
    finish(home)
    assert verify(home.reports).problems == []


def test_the_time_of_seals_rises(home: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    home.log("goes on")
    monkeypatch.setattr(SEALS, "utc_now", lambda: "2020-01-01T00:00:00.000+00:00")
    finish(home)
    assert any("is before that of seal" in line for line in verify(home.reports).problems)


def test_one_key_signs_for_one_role(folders: Path, tmp_path: Path) -> None:
    keys = Signers(tmp_path / "one")
    both = f"{signing.namespace('dba')},{signing.namespace('operations_lead')}"
    keys.allowed.write_text(keys.line("dba", namespaces=both) + keys.line("security"), encoding="ascii")
    home = small_run("night-3", keys)
    evidence.keep_sealed(home.read())
    sign(home.read(), "dba", "A", "go", key=keys.key("dba"))
    with pytest.raises(UsageError, match="signed as dba already"):
        sign(home.read(), "operations_lead", "B", "go", key=keys.key("dba"))
    with pytest.raises(UsageError, match=r"may not sign|namespace"):
        sign(home.read(), "security", "C", "go", key=keys.key("dba"))
    assert "operations_lead" in gate_state(home.read()).missing


@pytest.mark.more
def test_one_key_signs_for_one_role_at_all_gates(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dry run as the DBA, the cutover as another: four eyes would be two."""
    keys = Signers(tmp_path / "gates")
    both = f"{signing.namespace('dba')},{signing.namespace('operations_lead')}"
    keys.allowed.write_text(keys.line("dba", namespaces=both) + keys.line("security"), encoding="ascii")
    home = small_run("night-9", keys)
    evidence.keep_sealed(home.read())
    sign(home.read(), "dba", "A", "go", key=keys.key("dba"), gate="dry-run")
    with pytest.raises(UsageError, match="signed as dba already"):
        sign(home.read(), "operations_lead", "B", "go", key=keys.key("dba"))
    monkeypatch.setattr("helpers.evidence.signoffs._signed_before", lambda *_: "")  # by a toolkit of one's own
    sign(home.read(), "operations_lead", "B", "go", key=keys.key("dba"))
    assert "signed as dba already" in gate_state(home.read()).refused["operations_lead"]
    finish(home)
    assert any("signed as dba already" in line for line in verify(home.reports).problems)
    assert "one key signed in several roles" in plain(home)


def test_one_key_signs_for_two_roles_where_the_parameters_say_so(folders: Path, tmp_path: Path) -> None:
    keys = Signers(tmp_path / "one")
    both = f"{signing.namespace('dba')},{signing.namespace('operations_lead')}"
    keys.allowed.write_text(keys.line("dba", namespaces=both), encoding="ascii")
    signoff = {"allowed_signers": str(keys.allowed), "one_key_for_roles": True}
    home = small_run("night-6", keys, signoff={**signoff, "required": ["dba", "operations_lead"]})
    evidence.keep_sealed(home.read())
    for role in ("dba", "operations_lead"):
        sign(home.read(), role, "A", "go", key=keys.key("dba"))
    assert gate_state(home.read()).is_open


@pytest.mark.more
def test_a_key_that_has_expired_records_nothing_under_an_earlier_time(folders: Path, tmp_path: Path) -> None:
    keys = Signers(tmp_path / "keys")
    home = small_run("night-4", keys)
    evidence.keep_sealed(home.read())
    data = statement(home.read(), "dba", "A. Person", "go")
    ended = (datetime.now(UTC) + timedelta(seconds=2)).strftime("%Y%m%d%H%M%SZ")
    # In the sealed copy, as if the key had been given until then from the start.
    (home.reports / "allowed_signers").write_text(keys.line("dba", f'valid-before="{ended}"'), encoding="ascii")
    signature = signing.sign(data, "dba", keys.key("dba"))
    time.sleep(3)
    with pytest.raises(UsageError, match=r"not valid at the time of signing.*as it is recorded"):
        record(home.read(), data, signature)


def test_a_signature_that_a_kill_left_without_its_seal_is_named_and_then_taken_away(home: RunFolder) -> None:
    orphan = home.reports / "seals" / "0009-20990101T000000000Z.json.sig"
    shutil.copy(evidence.seals(home.reports)[0].path.with_suffix(".json.sig"), orphan)
    assert any(orphan.name in line for line in verify(home.reports).problems)
    home.log("goes on")
    finish(home)
    assert verify(home.reports).problems == []


def test_what_does_not_verify_is_not_archived(
    home: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "night.zip"
    options = ["--output", str(target), "--reports", str(home.reports.parent)]
    assert cli.main(["archive", home.id, "--expect", "0" * 64, *options]) == 2
    assert "no seal has the expected SHA-256" in capsys.readouterr().err
    (home.reports / "24_review.html").write_text("<h1>GO</h1>", encoding="utf-8")
    assert cli.main(["archive", home.id, *options]) == 2
    assert "24_review.html: changed since seal" in capsys.readouterr().err
    assert not target.exists()


def test_a_key_of_one_s_own_signs_seals(folders: Path, signers: Signers, tmp_path: Path) -> None:
    key = make_key(tmp_path / "vault")
    home = small_run("night-5", signers, signoff={"allowed_signers": str(signers.allowed), "runner_key": str(key)})
    evidence.seal(home.read(), "14")
    seal = evidence.seals(home.reports)[-1]
    assert seal.predicate["runner"]["fingerprint"] == audit.public_key(key)[1]
    assert seal.predicate["log_key"] == audit.own_key() != seal.predicate["runner"]["fingerprint"]
    key.unlink()
    with pytest.raises(UsageError, match="there is no such key for seals"):
        evidence.seal(home.read())


@pytest.mark.more
def test_the_closeout_is_signed_where_the_parameters_ask_for_it(folders: Path, signers: Signers) -> None:
    signoff = {"allowed_signers": str(signers.allowed), "required": ["dba"], "closeout": ["security"]}
    home = small_run("night-7", signers, signoff=signoff)
    evidence.keep_sealed(home.read())
    signers.approve(home.reports, ["dba"])
    assert open_gate(home.read(), plan.LINE) is None
    for number in (Step.CUTOVER, Step.CLOSEOUT):
        finish_step(home, number)
    evidence.keep_sealed(home.read())
    assert "waits for the approval of security" in str(open_gate(home.read(), plan.LINE))
    signers.approve(home.reports, ["security"], gate="closeout")
    finish(home)
    assert open_gate(home.read(), plan.LINE) is None
    (path,) = (home.reports / "signoffs").glob("closeout-security-*.json")
    sealed = after(evidence.seals(home.reports), Step.CLOSEOUT)
    assert sealed is not None
    assert json.loads(path.read_bytes())["seal"]["sha256"] == sealed.digest
    assert verify(home.reports).problems == []
    with pytest.MonkeyPatch.context() as patch:
        forge(home, "results/53.json")
        changed_toolkit(patch)
        evidence.seal(home.read(), Step.CLOSEOUT)
        finish(home)
    assert any(
        line.startswith(f"signoffs/{path.name}: security: given before") for line in verify(home.reports).problems
    )
    (home.reports / "results" / "53.json").write_text("{}", encoding="utf-8")
    assert any("53.json" in line for line in verify(home.reports).problems)


@pytest.mark.more
def test_a_no_go_that_was_recorded_after_the_go_is_seen_by_plain_commands_too(folders: Path, signers: Signers) -> None:
    home = small_run("night-22", signers, signoff={"allowed_signers": str(signers.allowed), "required": ["dba"]})
    evidence.keep_sealed(home.read())
    data = statement(home.read(), "dba", "A", "no-go")
    signers.approve(home.reports, ["dba"])
    path = record(home.read(), data, signing.sign(data, "dba", signers.key("dba")))
    finish_step(home, Step.CUTOVER)  # by a toolkit that was changed
    evidence.keep_sealed(home.read())
    finish(home)
    assert any(line.startswith("signoffs/: step 25 ran although dba") for line in verify(home.reports).problems)
    assert f"step 25 ran although signoffs/{path.name} is no-go" in plain(home)


@pytest.mark.more
def test_every_no_go_is_named_and_none_is_lost_below_earlier(folders: Path, signers: Signers) -> None:
    signoff = {"allowed_signers": str(signers.allowed), "required": ["dba"], "closeout": ["security"]}
    home = small_run("night-16", signers, signoff=signoff)
    evidence.keep_sealed(home.read())
    signers.approve(home.reports, ["dba"])
    for number in (Step.CUTOVER, Step.CLOSEOUT):
        finish_step(home, number)
    evidence.keep_sealed(home.read())
    path = sign(
        home.read(), "security", "S", "no-go", "closeout", reason="400 chunks lost", key=signers.key("security")
    )
    finish(home)
    name = f"signoffs/{path.name}"
    assert f"{name}: security says NO-GO: 400 chunks lost" in verify(home.reports).notes
    assert verify(home.reports).problems == []
    assert f"no-go: {name}" in plain(home)
    aside = home.reports / "earlier" / "X" / "signoffs"
    aside.mkdir(parents=True)
    for each in (path, path.with_name(f"{path.name}.sig")):
        each.rename(aside / each.name)
    with pytest.raises(Terminal, match=re.escape(name)):
        evidence.at_rest(home.read())
    with pytest.MonkeyPatch.context() as patch:
        changed_toolkit(patch)
        finish(home)
    found = verify(home.reports)
    assert any(line.startswith(f"{name}: audit.jsonl says that it was signed") for line in found.problems)
    assert f"earlier/X/{name}: security says NO-GO: 400 chunks lost" in found.notes
    assert f"{name}: changed between" in plain(home)


def test_principals_are_those_of_the_list_outside(folders: Path, tmp_path: Path) -> None:
    keys = Signers(tmp_path / "mine")
    home = small_run("night-17", keys)
    evidence.keep_sealed(home.read())
    keys.approve(home.reports)
    finish(home)
    outside = tmp_path / "outside"
    seals = f'runner namespaces="runbook-seal" {audit.public_key(home.workspace.parent / "runner_key")[0]}\n'
    text = keys.allowed.read_text(encoding="ascii") + seals
    outside.write_text(text, encoding="ascii")
    assert verify(home.reports, signers=outside).problems == []
    text = re.sub(r"^(dba|security)@example.org", "alice@example.org", text, flags=re.M)
    outside.write_text(text, encoding="ascii")
    found = verify(home.reports, signers=outside)
    assert not any("signed with security@" in line or "signed with dba@" in line for line in found.notes)
    assert any("that of dba@example.org in the run's list of signers, and of alice@example.org" in line
               for line in found.problems)  # fmt: skip
    assert set(gate_state(home.read(), allowed_now=outside).missing) == {"dba", "security"}


def test_a_signer_sees_what_is_signed_before_it_is(
    folders: Path, signers: Signers, capsys: pytest.CaptureFixture[str]
) -> None:
    home = small_run("night-18", signers)
    evidence.keep_sealed(home.read())
    sealed = after(evidence.seals(home.reports), Step.REVIEW)
    assert sealed is not None
    assert cli.main(["sign", home.id, *signers.command("dba")[:-1], str(folders / "no-key")]) == 2
    shown = capsys.readouterr().out
    parameters = home.read().parameters
    for text in (home.id, parameters.source.label, parameters.target.label, "GO of dba, gate cutover", sealed.digest):
        assert text in shown
    assert not list(home.reports.glob("signoffs/*.json"))


@pytest.mark.more
def test_a_group_signs_for_its_own_runs_only(
    folders: Path, signers: Signers, capsys: pytest.CaptureFixture[str]
) -> None:
    made = Group("harmless", "", str(folders), False, "53", {}, [GroupRow("test-db", "night-19", {}, {})])
    made.save()
    for group, code in (("", 2), ("harmless", 0)):
        run_id = f"night-{'19' if not group else '20'}"
        home = small_run(run_id, signers, **({"group": group} if group else {}))
        evidence.keep_sealed(home.read())
        order = folders / "reports" / "harmless" / "group.json"
        write_json(order, asdict(replace(made, rows=[GroupRow("a", run_id, {}, {})])))
        (folders / "workspace" / "harmless" / "order").write_text(file_digest(order))
        assert cli.main(["sign", "harmless", *signers.command("dba")]) == code
        said = capsys.readouterr()
        assert ("does not say that it is of harmless" in said.err) == (not group)
        assert len(list(home.reports.glob("signoffs/*.json"))) == len(group[:1])

"""Who verifies sees whether steps 20 and 25 had their approvals when they acted, whatever was signed or moved afterwards.

The operator has the runner's key, and a toolkit of their own that seals whatever is there.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from helpers import audit, evidence
from helpers.cli.evidence import verify
from helpers.errors import UsageError
from helpers.evidence import approvals, signing, signoffs
from helpers.evidence.seals import after
from helpers.evidence.statement import KIND, canonical, stamp
from helpers.parameters import ROLES, parameters_from
from helpers.results import StepResult, Verdict, file_digest, utc_now, write_bytes
from helpers.run import folders as runs
from helpers.run import plan
from helpers.run.folders import RunFolder
from helpers.run.plan import Step
from tests.signers import Signers, finish, finish_step, make_key, plain, read, sign, signed_run, small_run

SEALS = sys.modules["helpers.evidence.seals"]  # the package's `seals` is the function


def reviewed(signers: Signers) -> RunFolder:
    """A run whose dry run is approved, and whose cutover is not."""
    home = small_run("night-1", signers)
    evidence.keep_sealed(home.read())
    signers.approve(home.reports, ["dba"], gate="dry-run")
    finish(home)
    return home


def act(home: RunFolder, step: str) -> None:
    finish_step(home, step)
    evidence.keep_sealed(home.read())
    finish(home)


def named(home: RunFolder) -> str:
    return "\n".join(verify(home.reports).problems)


def test_what_was_approved_before_it_ran_verifies(folders: Path, signers: Signers) -> None:
    home = signed_run(signers)
    act(home, Step.FENCE_WRITES)
    act(home, Step.CUTOVER)
    runs.supersede(home, [Step.CUTOVER])
    act(home, Step.CUTOVER)
    assert verify(home.reports).problems == []
    assert plain(home).endswith("Everything fits.\n")


@pytest.mark.more
def test_a_cutover_that_was_approved_afterwards_is_named(folders: Path, signers: Signers) -> None:
    home = reviewed(signers)
    act(home, Step.CUTOVER)
    signers.approve(home.reports)
    finish(home)
    assert [
        line
        for role in ROLES
        if (line := f"cutover-{role}: when step 25 acted, {role} had not signed") not in named(home)
    ] == []


@pytest.mark.more
def test_a_fence_that_was_approved_afterwards_is_named(folders: Path, signers: Signers) -> None:
    home = small_run("night-1", signers)
    evidence.keep_sealed(home.read())
    act(home, Step.FENCE_WRITES)
    signers.approve(home.reports, ["dba"], gate="dry-run")
    finish(home)
    assert "dry-run-dba: when step 20 acted, dba had not signed" in named(home)


@pytest.mark.more
def test_a_cutover_that_was_set_aside_is_named(folders: Path, signers: Signers) -> None:
    home = reviewed(signers)
    act(home, Step.CUTOVER)
    runs.supersede(home, [Step.CUTOVER])
    signers.approve(home.reports)
    finish(home)
    assert "when step 25 acted, security had not signed" in named(home)
    assert "step 25 acted, and security had not signed go by then" in plain(home)


@pytest.mark.parametrize("lacking", [audit.STEP_BEGINS, audit.STEP_ENDS])
@pytest.mark.more
def test_a_cutover_that_the_log_leaves_out_is_seen_by_its_seal(
    folders: Path, signers: Signers, monkeypatch: pytest.MonkeyPatch, lacking: str
) -> None:
    home, append = reviewed(signers), audit.append
    with monkeypatch.context() as patch:
        patch.setattr(audit, "append", lambda path, action, **facts: append(
            path, audit.NOTEBOOK_KEPT if action == lacking else action, **facts))  # fmt: skip
        act(home, Step.CUTOVER)
    signers.approve(home.reports)
    finish(home)
    assert "when step 25 acted, security had not signed" in named(home)


def test_files_that_were_changed_without_approval_are_a_cutover_though_the_step_failed(
    folders: Path, signers: Signers
) -> None:
    home = reviewed(signers)
    audit.append(home.reports / audit.NAME, audit.STEP_BEGINS, step=Step.CUTOVER)
    audit.append(home.reports / audit.NAME, "cutover", outcome="begun", target="to", files={})
    audit.append(home.reports / audit.NAME, audit.STEP_ENDS, outcome="killed", step=Step.CUTOVER, died=True)
    finish(home)
    assert "when step 25 acted, security had not signed" in named(home)


@pytest.mark.more
def test_a_step_that_began_and_was_refused_is_no_cutover(folders: Path, signers: Signers) -> None:
    home = reviewed(signers)
    audit.append(home.reports / audit.NAME, audit.STEP_BEGINS, step=Step.CUTOVER)
    audit.append(home.reports / audit.NAME, audit.STEP_ENDS, outcome="not_signed", step=Step.CUTOVER, died=True)
    audit.append(home.reports / audit.NAME, audit.STEP_BEGINS, step=Step.CUTOVER, dry_run=True)
    audit.append(home.reports / audit.NAME, audit.STEP_ENDS, outcome="pass", step=Step.CUTOVER)
    signers.approve(home.reports)
    act(home, Step.CUTOVER)
    assert named(home) == ""


@pytest.mark.more
def test_a_no_go_at_the_time_is_named_though_a_go_followed(folders: Path, signers: Signers) -> None:
    home = signed_run(signers)
    sign(read(home.reports), "security", "Sec", "no-go", key=signers.key("security"), reason="data leak")
    act(home, Step.CUTOVER)
    signers.approve(home.reports, ["security"])
    finish(home)
    assert "cutover-security: when step 25 acted, security had said NO-GO" in named(home)


@pytest.mark.more
def test_approvals_of_an_earlier_review_are_named_though_new_ones_followed(folders: Path, signers: Signers) -> None:
    home = signed_run(signers)
    runs.supersede(home, [Step.REVIEW])
    act(home, Step.REVIEW)
    act(home, Step.CUTOVER)
    signers.approve(home.reports)
    finish(home)
    assert "cutover-dba: when step 25 acted, dba had signed another seal than that after step 24 by then" in named(home)


@pytest.mark.more
def test_an_approval_that_nobody_gave_and_that_was_set_aside_is_named(folders: Path, signers: Signers) -> None:
    home = signed_run(signers)
    path = signoffs.newest(home.reports, "cutover", "security")
    assert path is not None
    signature = path.with_name(f"{path.name}.sig")
    signature.write_bytes(signing.sign(path.read_bytes(), "dba", signers.key("dba")))
    act_by_the_operator = (home.reports / audit.NAME, audit.STEP_BEGINS)
    audit.append(*act_by_the_operator, step=Step.CUTOVER)
    audit.append(home.reports / audit.NAME, "cutover", outcome="begun", target="to", files={})
    runs.set_aside(home, [path, signature])
    assert "security had given an approval that counts for nothing" in "\n".join(
        approvals.unapproved(read(home.reports))
    )


def stated(home: RunFolder, role: str, **said: Any) -> dict[str, Any]:
    """What a statement of this role says over the newest seal after step 24: GO, now, but for what is `said`."""
    seal = after(evidence.seals(home.reports), Step.REVIEW)
    assert seal is not None
    of = {"type": KIND, "run": home.id, "gate": "cutover", "role": role, "name": "N", "rehearsal": False}
    go = {"decision": "go", "reason": "", "accept": [], "when": utc_now()}
    return of | go | {"seal": {"name": seal.name, "sha256": seal.digest}} | said


def record_by_hand(home: RunFolder, said: dict[str, Any], key: Path, named: str = "") -> list[Path]:
    """A statement that a line alone records, and its signature. `named`: the time in its name; none: the one that it states."""
    data, role = canonical(said), said["role"]
    signature = signing.sign(data, role, key)
    path = home.reports / "signoffs" / f"cutover-{role}-{named or stamp(said['when'])}.json"
    path.parent.mkdir(exist_ok=True)
    write_bytes(path, data)
    write_bytes(path.with_name(f"{path.name}.sig"), signature)
    audit.append(home.reports / audit.NAME, audit.SIGNED, file=f"signoffs/{path.name}",
                 statement=hashlib.sha256(data).hexdigest(), sig=hashlib.sha256(signature).hexdigest(),
                 gate="cutover", role=role, signer=f"{role}@example.org", decision=said["decision"])  # fmt: skip
    return [path, path.with_name(f"{path.name}.sig")]


def approve_by_hand(home: RunFolder, key: Callable[[str], Path], named: str = "") -> list[Path]:
    """Approvals of all three roles that lines alone record."""
    return [path for role in ROLES for path in record_by_hand(home, stated(home, role), key(role), named)]


@pytest.mark.more
@pytest.mark.parametrize("foreign", [True, False])
def test_an_approval_that_was_set_aside_counts_by_the_list_of_its_seal(
    folders: Path, signers: Signers, tmp_path: Path, foreign: bool
) -> None:
    real, outside = signers.allowed.read_text(), tmp_path / "auditor"
    signers.allowed.write_text("# people of 2026\n" + real)
    home = small_run("night-1", signers, signoff={"allowed_signers": str(signers.allowed)})
    evidence.keep_sealed(home.read())
    finish(home)
    signers.allowed.write_text(real)  # narrower: nobody has to order it
    runs.supersede(home, [Step.REVIEW])
    act(home, Step.REVIEW)
    mallory = make_key(tmp_path / "mallory")
    files = approve_by_hand(home, (lambda _: mallory) if foreign else signers.key)
    audit.append(home.reports / audit.NAME, "cutover", outcome="begun", target="to", files={})
    finish_step(home, Step.CUTOVER)
    runs.set_aside(home, files)
    runs.supersede(home, [Step.CUTOVER])
    finish(home)
    key = (runs.workspace_root() / "runner_key.pub").read_text().split()[:2]
    outside.write_text(real + f'runner namespaces="runbook-seal" {" ".join(key)}\n')
    problems = "\n".join(verify(home.reports, signers=outside).problems)
    told = plain(home, outside)
    if foreign:
        assert "when step 25 acted, security had given an approval that counts for nothing" in problems
        assert "is not signed by one who may, as allowed_signers says" in told
        assert f"is not signed by one whom {outside} allows" in told
    else:
        assert (problems, told.endswith("Everything fits.\n")) == ("", True), told


def test_a_list_of_signers_that_another_replaced_still_judges_what_was_signed_under_it(
    folders: Path, signers: Signers, tmp_path: Path
) -> None:
    real = signers.allowed.read_text()
    signers.allowed.write_text("# people of 2026\n" + real)
    home = small_run("night-1", signers, signoff={"allowed_signers": str(signers.allowed)})
    evidence.keep_sealed(home.read())
    finish(home)
    files = approve_by_hand(home, signers.key)
    act(home, Step.CUTOVER)
    runs.set_aside(home, files)
    runs.supersede(home, [Step.REVIEW, Step.CUTOVER])
    signers.allowed.write_text(real)
    act(home, Step.REVIEW)
    assert named(home) == ""
    assert plain(home).endswith("Everything fits.\n")
    for path in home.reports.glob("earlier/*/allowed_signers"):
        path.unlink()
    assert "the list of signers under which it was given is not here" in named(home)
    assert "the list of signers under which it was given is not here" in plain(home)


@pytest.mark.more
@pytest.mark.parametrize("says", [{}, {"cut_over": {"target": "to"}}])
def test_a_line_that_says_dry_run_excuses_no_cutover_whose_result_says_another(
    folders: Path, signers: Signers, monkeypatch: pytest.MonkeyPatch, says: dict[str, Any]
) -> None:
    home, append, write = reviewed(signers), audit.append, StepResult.write

    def wrote(self: StepResult, path: Path) -> str:
        self.facts |= says if self.step == Step.CUTOVER else {}
        return write(self, path)

    with monkeypatch.context() as patch:
        patch.setattr(audit, "append", lambda path, action, **facts: append(
            path, action, **(facts | {"dry_run": True} if action == audit.STEP_BEGINS else facts)))  # fmt: skip
        patch.setattr(StepResult, "write", wrote)
        act(home, Step.CUTOVER)
    runs.supersede(home, [Step.CUTOVER])
    finish(home)
    assert ("when step 25 acted, security had not signed" in named(home)) is bool(says)
    assert ("step 25 acted, and security had not signed go by then" in plain(home)) is bool(says)


@pytest.mark.more
@pytest.mark.parametrize("way", ["set aside", "approved afterwards"])
def test_one_person_s_approval_under_the_names_of_others_counts_for_none_of_them(
    folders: Path, signers: Signers, way: str
) -> None:
    home = reviewed(signers)
    (mine,) = signers.approve(home.reports, ["dba"])
    others = ("security", "operations_lead")
    copies = [mine.with_name(f"cutover-{role}-{stamp(utc_now())}.json") for role in others]
    for role, path in zip(others, copies, strict=True):
        shutil.copy(mine, path)
        audit.append(home.reports / audit.NAME, audit.SIGNED, file=f"signoffs/{path.name}", statement=file_digest(mine),
                     sig="", gate="cutover", role=role, signer=f"{role}@example.org", decision="go")  # fmt: skip
    audit.append(home.reports / audit.NAME, "cutover", outcome="begun", target="to", files={})
    finish_step(home, Step.CUTOVER)
    runs.set_aside(home, copies)
    if way == "set aside":
        runs.supersede(home, [Step.CUTOVER])
    else:
        signers.approve(home.reports, others)
    finish(home)
    assert "cutover-security: when step 25 acted, security had given an approval that counts for nothing" in named(home)
    assert re.search(r"signoffs/cutover-security-\S+ is no approval of security for cutover", plain(home))


@pytest.mark.more
def test_a_file_of_another_form_below_signoffs_is_no_approval(folders: Path, signers: Signers) -> None:
    home = reviewed(signers)
    for role in ROLES:
        path = home.reports / "signoffs" / f"cutover-{role}-1" / "s.json"
        path.parent.mkdir()
        write_bytes(path, canonical({"decision": "go", "gate": "cutover", "role": role}))
        audit.append(home.reports / audit.NAME, audit.SIGNED, file=path.relative_to(home.reports).as_posix(),
                     statement=file_digest(path), sig="", gate="cutover", role=role, signer=role, decision="go")  # fmt: skip
    audit.append(home.reports / audit.NAME, "cutover", outcome="begun", target="to", files={})
    finish_step(home, Step.CUTOVER)
    evidence.keep_sealed(home.read())
    assert "when step 25 acted, security had not signed" in named(home)
    assert "audit.jsonl: a line that security signed names signoffs/cutover-security-1/s.json" in named(home)
    assert "audit.jsonl: a line that somebody signed names another statement" in plain(home)
    assert re.search(r"no statement: (signoffs/\S+\n)*signoffs/cutover-security-1\n", plain(home))


@pytest.mark.more
def test_a_go_that_is_recorded_again_after_a_no_go_counts_for_nothing(folders: Path, signers: Signers) -> None:
    home = signed_run(signers)
    last = [json.loads(line)["facts"] for line in (home.reports / audit.NAME).read_text().splitlines()
            if json.loads(line)["action"] == audit.SIGNED and json.loads(line)["facts"]["role"] == "security"][-1]  # fmt: skip
    sign(read(home.reports), "security", "Sec", "no-go", key=signers.key("security"), reason="data leak")
    audit.append(home.reports / audit.NAME, audit.SIGNED, **last)
    act(home, Step.CUTOVER)
    assert "cutover-security: when step 25 acted, security had said NO-GO" in named(home)
    assert "recorded twice: signoffs/cutover-security" in plain(home)


# -- what was approved -------------------------------------------------------------------------------------------------


def cut_over(home: RunFolder) -> None:
    """As an operator does with a toolkit that has no gate; the seal follows at once."""
    audit.append(home.reports / audit.NAME, "cutover", outcome="begun", target="to", files={})
    finish_step(home, Step.CUTOVER)
    evidence.seal(home.read(), Step.CUTOVER)


@pytest.mark.more
@pytest.mark.parametrize("other", ["restart", "target", "another before the line"])
def test_a_cutover_with_other_parameters_than_were_approved_is_named_though_they_were_put_back(
    folders: Path, signers: Signers, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    home = small_run("night-1", signers, cutover={"restart": [["systemctl", "restart", "app"]]})
    evidence.keep_sealed(home.read())
    signers.approve(home.reports, ["dba"], gate="dry-run")
    signers.approve(home.reports)
    finish(home)
    signed = home.read().parameters
    said = signed.document() | {"cutover": {"restart": [["sh", "-c", "another"]]}}
    if other == "target":
        said["target"] = {"path": "somewhere-else"}
        monkeypatch.setattr(type(signed), "context", lambda _: {})
    runs.change_parameters(home.read(), parameters_from(said))
    if other == "another before the line":
        audit.append(home.reports / audit.NAME, "cutover", outcome="begun", target="to", files={})
        runs.change_parameters(home.read(), signed)
        finish_step(home, Step.CUTOVER)
    else:
        cut_over(home)
        runs.change_parameters(home.read(), signed)
    finish(home)
    was = "target, parameters.yaml" if other == "target" else "parameters.yaml"
    assert f"step 25 acted, and {was} was another than in this seal, which was to be approved" in named(home)
    if other != "another before the line":
        assert "step 25 acted with other parameters or results than" in plain(home)


@pytest.mark.more
def test_a_cutover_behind_results_that_were_not_reviewed_is_named(folders: Path, signers: Signers) -> None:
    home = signed_run(signers)
    runs.supersede(home, [plan.find("23")])
    finish_step(home, "23")
    cut_over(home)
    finish(home)
    assert "step 25 acted, and results/23.json was another than in this seal, which was to be approved" in named(home)
    assert "step 25 acted with other parameters or results than" in plain(home)


@pytest.mark.more
def test_what_was_marginal_and_accepted_afterwards_is_named(
    folders: Path, signers: Signers, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = StepResult.write

    def wrote(self: StepResult, path: Path) -> str:
        self.facts |= {"accept": ["lost vectors"]} if self.step == Step.REVIEW else {}
        return write(self, path)

    monkeypatch.setattr(StepResult, "write", wrote)
    home = signed_run(signers)
    cut_over(home)
    signers.approve(home.reports, accept=["lost vectors"])
    finish(home)
    assert "cutover-dba: when step 25 acted, dba had not accepted what was marginal: lost vectors" in named(home)


def test_a_key_that_had_expired_when_its_statement_was_sealed_approves_nothing(folders: Path, tmp_path: Path) -> None:
    end = datetime.now(UTC) + timedelta(seconds=20)
    signers = Signers(tmp_path / "keys", {"security": f'valid-before="{end:%Y%m%d%H%M%SZ}"'})
    home = small_run("night-1", signers)
    evidence.keep_sealed(home.read())
    approve_by_hand(home, signers.key)  # each states a time at which the key was valid
    time.sleep(max(0.0, (end - datetime.now(UTC)).total_seconds() + 1.5))
    cut_over(home)
    finish(home)
    assert "security had given an approval that counts for nothing" in named(home)
    assert re.search(r"signoffs/cutover-security-\S+: its key was not valid when it was sealed", plain(home))


# -- the decision ------------------------------------------------------------------------------------------------------


def decided_no_go(monkeypatch: pytest.MonkeyPatch) -> None:
    write = StepResult.write

    def wrote(self: StepResult, path: Path) -> str:
        if self.step == Step.REVIEW:
            self.facts["decision"] = "NO-GO"
        if self.step == "23":
            self.verdict = Verdict.FAIL
        return write(self, path)

    monkeypatch.setattr(StepResult, "write", wrote)


@pytest.mark.more
def test_a_go_on_a_no_go_is_not_recorded_and_named_where_it_was(
    folders: Path, signers: Signers, monkeypatch: pytest.MonkeyPatch
) -> None:
    decided_no_go(monkeypatch)
    home = reviewed(signers)
    seal = after(evidence.seals(home.reports), Step.REVIEW)
    assert seal is not None

    def go(role: str) -> None:
        data = canonical(stated(home, role))
        signoffs.record(read(home.reports), data, signing.sign(data, role, signers.key(role)))

    with pytest.raises(UsageError, match="is not GO and cannot be signed off as go"):
        go("dba")
    with monkeypatch.context() as patch:  # an operator's own toolkit
        patch.setattr(signoffs, "_facts", lambda *_: {"decision": "GO"})
        for role in ROLES:
            go(role)
    act(home, Step.CUTOVER)
    assert f"{seal.name}: step 25 acted, and the decision was NO-GO" in named(home)


@pytest.mark.more
def test_a_seal_that_says_other_verdicts_than_the_results_is_named(
    folders: Path, signers: Signers, monkeypatch: pytest.MonkeyPatch
) -> None:
    decided_no_go(monkeypatch)
    about = SEALS._run_facts

    def lie(run: Any) -> dict[str, Any]:
        found = about(run)
        good = {step: {**said, "verdict": "pass", "error": ""} for step, said in found["verdicts"].items()}
        return {**found, "decision": "GO", "verdicts": {**good, "52": {"verdict": "pass", "error": "", "result": ""}}}

    monkeypatch.setattr(SEALS, "_run_facts", lie)
    home = reviewed(signers)
    assert "results/23.json: the seal says another verdict" in plain(home)
    assert "results/24.json: the seal says another decision" in plain(home)
    runs.supersede(home, [Step.REVIEW])  # what an earlier seal covers is compared where it lies now
    finish(home)
    first = evidence.seals(home.reports)[0].name
    assert f"{first}: what it says of step 23 is not what results/23.json says" in named(home)
    assert f"{first}: what it says of step 52 is not what results/52.json says" in named(home)
    assert f"{first}: it says the decision GO, and results/24.json NO-GO" in named(home)
    assert json.loads((home.reports / "results" / "23.json").read_text())["verdict"] == "fail"

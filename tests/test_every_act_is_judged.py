"""Who verifies sees each time that a step acted, whatever the log leaves out, says late or says of somebody else.

The operator has the runner's key, and a toolkit of their own.
"""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest

from helpers import audit, evidence
from helpers.errors import Terminal
from helpers.evidence import approvals
from helpers.evidence.statement import stamp
from helpers.parameters import ROLES, parameters_from
from helpers.results import file_digest, utc_now, write_bytes
from helpers.run import folders as runs
from helpers.run.folders import RunFolder
from helpers.run.plan import Step
from tests.signers import Signers, finish, finish_step, plain, read, sign, signed_run, small_run
from tests.test_a_step_that_needs_approvals_had_them_before import (
    act,
    approve_by_hand,
    cut_over,
    named,
    record_by_hand,
    reviewed,
    stated,
)


def without(patch: pytest.MonkeyPatch, *actions: str) -> None:
    """A toolkit of the operator's own leaves out these lines of the log."""
    append = audit.append
    patch.setattr(audit, "append", lambda path, action, **facts: (
        "" if action in actions else append(path, action, **facts)))  # fmt: skip


def anew(home: RunFolder) -> None:
    """The decision is made again; nobody has signed it."""
    runs.supersede(home, [Step.REVIEW, Step.CUTOVER])
    act(home, Step.REVIEW)


def test_a_second_cutover_without_its_line_is_one_too(
    folders: Path, signers: Signers, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = signed_run(signers)
    cut_over(home)
    finish(home)
    assert named(home) == ""
    anew(home)
    with monkeypatch.context() as patch:
        without(patch, audit.STEP_BEGINS)
        act(home, Step.CUTOVER)
    signers.approve(home.reports)
    finish(home)
    assert "cutover-security: when step 25 acted, security had signed another seal" in named(home)
    assert re.search(r"signoffs/cutover-security-\S+ signs another seal than", plain(home))


@pytest.mark.parametrize("where", ["", "notes.txt"])
def test_a_line_whose_statement_is_nowhere_approves_nothing(folders: Path, signers: Signers, where: str) -> None:
    home = reviewed(signers)
    for role in ROLES:
        name, digest = f"signoffs/cutover-{role}-{stamp(utc_now())}.json", ""
        if where:
            path = home.reports / f"{role}-{where}"
            write_bytes(path, role.encode())
            digest = file_digest(path)
            audit.append(home.reports / audit.NAME, audit.SET_ASIDE, file=name, digest=digest, to=path.name)
        audit.append(home.reports / audit.NAME, audit.SIGNED, file=name, statement=digest, sig="", gate="cutover", role=role,
                     signer=role, decision="go")  # fmt: skip
    audit.append(home.reports / audit.NAME, "cutover", outcome="begun", target="to", files={})
    finish_step(home, Step.CUTOVER)
    runs.supersede(home, [Step.CUTOVER])
    found = "\n".join(approvals.unapproved(read(home.reports)))
    assert re.search(r"cutover-security: when step 25 acted, security had signed \S+, which is not here", found)


@pytest.mark.parametrize("lacking", [("sealed",), ("seal", "sealed")])
def test_lines_on_seals_that_are_missing_or_late_move_no_act(
    folders: Path, signers: Signers, monkeypatch: pytest.MonkeyPatch, lacking: tuple[str, ...]
) -> None:
    """Where a seal ends in the log is what it holds of it."""
    home = signed_run(signers)
    with monkeypatch.context() as patch:
        without(patch, *lacking)
        anew(home)
    audit.append(home.reports / audit.NAME, "cutover", outcome="begun", target="to", files={})
    finish_step(home, Step.CUTOVER)
    evidence.seal(home.read(), Step.CUTOVER)
    signers.approve(home.reports)
    finish(home)
    assert "cutover-security: when step 25 acted, security had signed another seal" in named(home)
    assert re.search(r"signoffs/cutover-security-\S+ signs another seal than", plain(home))


def test_a_seal_that_is_begun_again_after_it_was_set_is_named(folders: Path, signers: Signers) -> None:
    home = signed_run(signers)
    audit.append(home.reports / audit.NAME, "seal", number=evidence.seals(home.reports)[-1].number)
    assert "was begun again after it was set" in named(home)


def test_one_key_for_two_roles_is_named_at_whichever_gate(folders: Path, signers: Signers) -> None:
    line = signers.line("dba", namespaces="runbook-dba,runbook-security")
    signers.allowed.write_text("".join([line, *(signers.line(role) for role in ROLES if role != "dba")]))
    home = reviewed(signers)  # the dry run is approved by the DBA's key
    files = approve_by_hand(home, lambda role: signers.key("dba" if role == "security" else role))
    cut_over(home)
    runs.set_aside(home, files)
    runs.supersede(home, [Step.CUTOVER])
    finish(home)
    assert "security had given an approval that counts for nothing: its key had signed as dba" in named(home)
    assert "one key signed in several roles" in plain(home)


def test_a_statement_whose_name_has_another_time_is_named(folders: Path, signers: Signers) -> None:
    home = reviewed(signers)
    files = approve_by_hand(home, signers.key, stamp(utc_now()))
    cut_over(home)
    runs.set_aside(home, files[2:4])
    finish(home)
    assert "is not a sign-off of this role for this gate" in named(home)
    told = plain(home)
    assert re.search(r"^signoffs/cutover-\S+: its name has another time", told, re.M)
    assert re.search(r"^earlier/\S+/signoffs/cutover-\S+: its name has another time", told, re.M)


def test_a_result_that_was_set_aside_twice_is_gone(folders: Path, signers: Signers) -> None:
    """Nobody looks for it below a folder of what was set aside: what the seal says of it could be compared with nothing."""
    home = signed_run(signers)
    runs.supersede(home, [Step.REVIEW])
    finish(home)
    [once] = home.reports.glob("earlier/*/results/24.json")
    runs.set_aside(home, [once])
    with pytest.raises(Terminal, match=r"earlier/\S+/results/24.json changed after seal"):
        finish(home)
    assert "results/24.json" in named(home)
    assert re.search(r"earlier/\S+/results/24.json: FAILED", plain(home))


def test_parameters_that_were_sealed_between_approval_and_cutover_are_named(folders: Path, signers: Signers) -> None:
    home = signed_run(signers)
    signed = home.read().parameters
    other = signed.document() | {"cutover": {"restart": [["sh", "-c", "another"]]}}
    runs.change_parameters(home.read(), parameters_from(other))
    evidence.seal(home.read(), "")
    audit.append(home.reports / audit.NAME, "cutover", outcome="begun", target="to", files={})
    runs.change_parameters(home.read(), signed)
    finish_step(home, Step.CUTOVER)
    finish(home)
    assert "step 25 acted, and parameters.yaml was another than in this seal, which was to be approved" in named(home)
    assert "step 25 acted with other parameters or results than" in plain(home)


def test_a_no_go_that_was_given_later_stands_though_a_go_was_recorded_last(folders: Path, signers: Signers) -> None:
    home = reviewed(signers)
    approve_by_hand(home, signers.key)
    key, go = signers.key("security"), stated(home, "security")
    time.sleep(0.01)  # the time of a statement is in milliseconds
    record_by_hand(home, stated(home, "security", decision="no-go", reason="leak"), key)
    record_by_hand(home, go, key)  # given before, recorded behind
    cut_over(home)
    signers.approve(home.reports)
    finish(home)
    assert "cutover-security: when step 25 acted, security had said NO-GO" in named(home)
    assert "is no-go" in plain(home)


def test_a_line_of_another_role_than_its_statement_is_named(folders: Path, signers: Signers) -> None:
    home = signed_run(signers)
    path = sign(read(home.reports), "security", "Sec", "no-go", key=signers.key("security"), reason="leak")
    facts = [json.loads(line)["facts"] for line in (home.reports / audit.NAME).read_text().splitlines()][-1]
    audit.append(
        home.reports / audit.NAME, audit.SIGNED, **(facts | {"role": "nobody", "file": f"signoffs/{path.name}"})
    )
    assert "audit.jsonl: a line that nobody signed names signoffs/cutover-security" in "\n".join(
        approvals.unapproved(read(home.reports))
    )


def test_a_fence_that_was_not_approved_is_named_however_its_step_ended(folders: Path, signers: Signers) -> None:
    home = small_run("night-1", signers)
    evidence.keep_sealed(home.read())
    audit.append(home.reports / audit.NAME, audit.STEP_BEGINS, step=Step.FENCE_WRITES)
    audit.append(home.reports / audit.NAME, audit.STEP_ENDS, outcome="killed", step=Step.FENCE_WRITES, died=True)
    signers.approve(home.reports, ["dba"], gate="dry-run")
    finish(home)
    assert "dry-run-dba: when step 20 acted, dba had not signed" in named(home)

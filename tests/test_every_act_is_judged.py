"""Who verifies sees each time that a step acted, whatever the log leaves out, says late or says of somebody else.

The operator has the runner's key, and a toolkit of their own.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import asdict
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from helpers import audit, evidence
from helpers.cli.evidence import verify
from helpers.errors import RunbookError, Terminal, UsageError
from helpers.evidence import approvals, signing
from helpers.evidence.signoffs import record
from helpers.evidence.statement import canonical, stamp
from helpers.parameters import ROLES, parameters_from
from helpers.results import StepResult, Verdict, file_digest, json_text, utc_now, write_bytes, write_text
from helpers.run import folders as runs
from helpers.run.folders import RunFolder
from helpers.run.plan import Step
from helpers.run.record import RunRecord
from helpers.steps.fence_writes import FenceWritesStep
from tests import signers as signers_module
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


@pytest.mark.more
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


@pytest.mark.more
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


@pytest.mark.more
def test_a_seal_that_is_begun_again_after_it_was_set_is_named(folders: Path, signers: Signers) -> None:
    home = signed_run(signers)
    audit.append(home.reports / audit.NAME, "seal", number=evidence.seals(home.reports)[-1].number)
    assert "was begun again after it was set" in named(home)


@pytest.mark.more
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


@pytest.mark.more
@pytest.mark.parametrize("acted", [False, True])
def test_a_dry_run_by_hand_is_no_cutover_unless_its_result_says_another(
    folders: Path, signers: Signers, acted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, append = reviewed(signers), audit.append
    with monkeypatch.context() as patch:
        patch.setattr(audit, "append", lambda path, action, **facts: append(
            path, action, **(facts | {"dry_run": True} if action == audit.STEP_BEGINS else facts)))  # fmt: skip
        if acted:
            patch.setattr(StepResult, "write", lambda self, path: write_text(path, json_text(asdict(self) | {
                "facts": self.facts | ({"cut_over": {"target": "to"}} if self.step == Step.CUTOVER else {})})))  # fmt: skip
        act(home, Step.CUTOVER)
    assert ("when step 25 acted" in named(home), named(home) == "") == (acted, not acted)
    told = plain(home)
    assert ("step 25 acted, and security had not signed go by then" in told, "Everything fits." in told) == (
        acted,
        not acted,
    )


def test_a_statement_that_says_that_it_was_given_after_the_act_approves_nothing(
    folders: Path, signers: Signers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The operator cut over, had it approved, and wrote the log again with the lines in another order."""
    home = signed_run(signers)
    with monkeypatch.context() as patch:
        early = f"{datetime.now(UTC) - timedelta(minutes=6):%Y-%m-%dT%H:%M:%S.%f}"[:-3] + "+00:00"
        patch.setattr(audit, "utc_now", lambda: early)
        cut_over(home)
    finish(home)
    assert "when step 25 acted, security had signed nothing: the statement says that it was given at" in named(home)


@pytest.mark.more
def test_another_principal_in_the_list_outside_is_named_by_both(
    folders: Path, signers: Signers, tmp_path: Path
) -> None:
    home = signed_run(signers)
    kind, blob = (runs.workspace_root() / "runner_key.pub").read_text().split()[:2]
    outside, runner = tmp_path / "outside", f'runner namespaces="runbook-seal" {kind} {blob}\n'
    for names, same in (
        (signers.allowed.read_text(), True),
        (signers.allowed.read_text().replace("dba@", "eve@"), False),
    ):
        outside.write_text(names + runner)
        found, told = verify(home.reports, signers=outside).problems, plain(home, outside)
        assert (found == [], told.endswith("Everything fits.\n")) == (same, same), told
    assert any(
        "is that of dba@example.org in the run's list of signers, and of eve@example.org" in line for line in found
    )
    assert re.search(r"its key is that of dba@example.org in allowed_signers, and of eve@example.org in ", told)


@pytest.mark.more
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


LIMIT = {"changes": 5000, "chunks": 100_000}
OTHER_STATEMENTS: dict[
    str, tuple[dict[str, object], str, str]
] = {  # what is otherwise, how verify names it, and how VERIFY.txt
    "a lower limit": (
        {"delta_limit": {"changes": 0, "chunks": 100_000}},
        "its limit of changes",
        "its limit of changes",
    ),
    "no limit": ({"delta_limit": None}, "its limit of changes", "its limit of changes"),
    "another limit": ({"delta_limit": {"nothing": "may change"}}, "its delta_limit is not", "is no statement"),
    "one key more": ({"conditions": "none"}, "'conditions' is no part", "is no statement"),
    "two lines in a name": ({"name": "Eve\nGO of security"}, "its name is not", "is no statement"),
    "a name that turns the line": ({"name": "Dr. \u202eevE"}, "its name is not", "is no statement"),
    "a number for a reason": ({"reason": 5}, "its reason is not", "is no statement"),
    "another seal's name": ({"seal": "0001.json"}, "it names no seal of this run", "by another name"),
    "another clock": ({"when": "+02:00"}, "its when is not", "is no statement"),
}


def stated_otherwise(home: RunFolder, **changes: object) -> dict[str, object]:
    """What the toolkit would write for the dba now, but for these changes; None: without that key."""
    said = stated(home, "dba", delta_limit=LIMIT)
    time.sleep(0.002)  # each has its own name
    if "when" in changes:
        elsewhere = datetime.fromisoformat(said["when"]).astimezone(timezone(timedelta(hours=2)))
        changes["when"] = elsewhere.isoformat(timespec="milliseconds")
    if "seal" in changes:
        changes["seal"] = {**said["seal"], "name": changes["seal"]}
    return {key: value for key, value in (said | changes).items() if value is not None}


@pytest.fixture
def limited(folders: Path, signers: Signers, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A reviewed run whose decision allows 5,000 changes until the cutover."""

    def result(number: str, *words: object, **facts: dict[str, object]) -> StepResult:
        facts["facts"] |= {"delta_limit": LIMIT} if number == Step.REVIEW else {}
        return StepResult(number, *words, **facts)  # type: ignore[arg-type]

    monkeypatch.setattr(signers_module, "StepResult", result)
    return reviewed(signers)


@pytest.mark.parametrize("what", OTHER_STATEMENTS)
def test_a_statement_that_says_other_than_ours_is_not_recorded(limited: RunFolder, signers: Signers, what: str) -> None:
    """Neither a limit that the run does not have, nor anything that VERIFY.txt would refuse for ever."""
    before = [*limited.reports.glob("signoffs/*")]
    data = canonical(stated_otherwise(limited, **OTHER_STATEMENTS[what][0]))
    with pytest.raises(UsageError) as refused:
        record(read(limited.reports), data, signing.sign(data, "dba", signers.key("dba")))
    assert refused.value.exit_code == 2
    assert OTHER_STATEMENTS[what][1] in refused.value.line()
    assert "\n" not in refused.value.line()
    assert [*limited.reports.glob("signoffs/*")] == before
    data = canonical(stated_otherwise(limited))
    assert record(read(limited.reports), data, signing.sign(data, "dba", signers.key("dba"))).is_file()


def test_a_statement_that_says_other_than_ours_is_named_by_both_verifiers(limited: RunFolder, signers: Signers) -> None:
    signers.approve(limited.reports)
    finish(limited)
    assert json.loads(max(limited.reports.glob("signoffs/cutover-*.json")).read_bytes())["delta_limit"] == LIMIT
    assert (named(limited), plain(limited).splitlines()[-1]) == ("", "Everything fits.")
    put = {what: record_by_hand(limited, stated_otherwise(limited, **changes), signers.key("dba"))[0].name
           for what, (changes, _, _) in OTHER_STATEMENTS.items()}  # fmt: skip
    finish(limited)
    found, told = named(limited), plain(limited)
    for what, name in put.items():
        _, by_verify, by_shell = OTHER_STATEMENTS[what]
        assert re.search(rf"signoffs/{name}: .*{re.escape(by_verify)}", found), (what, found)
        assert re.search(rf"^signoffs/{name}.* {by_shell}", told, re.M), (what, told)


@pytest.mark.more
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


@pytest.mark.more
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


@pytest.mark.more
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


@pytest.mark.more
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


@pytest.mark.more
@pytest.mark.parametrize(("code", "may_have_acted"), [("health_failed", True), ("signoffs_missing", False)])
def test_a_cutover_that_failed_may_have_acted_though_no_line_says_so(
    folders: Path, signers: Signers, monkeypatch: pytest.MonkeyPatch, code: str, may_have_acted: bool
) -> None:
    """The operator's toolkit leaves out the lines on files that were changed; only a shut gate is no act."""
    home, write, append = reviewed(signers), StepResult.write, audit.append

    def wrote(self: StepResult, path: Path) -> str:
        if self.step == Step.CUTOVER:
            self.verdict, self.error = Verdict.FAIL, {"type": "EnvironmentFailure", "code": code, "line": "it failed"}
        return write(self, path)

    with monkeypatch.context() as patch:
        patch.setattr(StepResult, "write", wrote)
        patch.setattr(audit, "append", lambda path, action, **facts: append(
            path, action, **(facts | {"outcome": code} if action == audit.STEP_ENDS else facts)))  # fmt: skip
        finish_step(home, Step.CUTOVER)
    evidence.at_rest(home.read())
    signers.approve(home.reports)
    finish(home)
    assert ("when step 25 acted, security had not signed" in named(home)) is may_have_acted
    assert ("step 25 acted, and security had not signed go by then" in plain(home)) is may_have_acted


def test_step_20_by_hand_waits_for_the_approval_of_the_dry_run(folders: Path, signers: Signers) -> None:
    """The runner asks at the gate; a notebook that somebody opens has to ask, too."""
    home = small_run("night-1", signers)
    evidence.keep_sealed(home.read())

    def urls(*, dry_run: bool = False) -> int:
        return len(FenceWritesStep(RunRecord(home.read(), Step.FENCE_WRITES, dry_run=dry_run)).urls())

    with pytest.raises(RunbookError, match="dba"):
        urls()
    assert urls(dry_run=True)
    signers.approve(home.reports, ["dba"], gate="dry-run")
    assert urls()
    runs.supersede(home, [Step.SCHEDULE_AND_NOTIFY])
    with pytest.raises(RunbookError, match="14"):
        urls()


def test_a_fence_that_was_not_approved_is_named_however_its_step_ended(folders: Path, signers: Signers) -> None:
    home = small_run("night-1", signers)
    evidence.keep_sealed(home.read())
    audit.append(home.reports / audit.NAME, audit.STEP_BEGINS, step=Step.FENCE_WRITES)
    audit.append(home.reports / audit.NAME, audit.STEP_ENDS, outcome="killed", step=Step.FENCE_WRITES, died=True)
    signers.approve(home.reports, ["dba"], gate="dry-run")
    finish(home)
    assert "dry-run-dba: when step 20 acted, dba had not signed" in named(home)

"""Sign-offs: real signatures over what was sealed, refused when they do not fit, one NO-GO blocks."""

from __future__ import annotations

import json
import re
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from helpers import audit, evidence
from helpers.errors import RunbookError, Terminal, UsageError
from helpers.evidence import signing
from helpers.evidence.signoffs import GateState, gate_state, newest, record, statement
from helpers.evidence.statement import canonical, stamp
from helpers.parameters import ROLES, parameters_from
from helpers.results import StepResult, file_digest, write_json
from helpers.run import folders as runs
from helpers.run.folders import RunFolder
from helpers.run.plan import Step
from tests.signers import Signers, finish_step, make_key, read, sign, small_run, vouch


@pytest.fixture
def home(tmp_path: Path, signers: Signers, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    monkeypatch.setenv("RUNBOOK_REPORTS", str(tmp_path / "reports"))
    monkeypatch.setenv("RUNBOOK_WORKSPACE", str(tmp_path / "workspace"))
    signers.write({})
    return small_run("night-1", signers)


@pytest.fixture
def run(home: RunFolder) -> Path:
    evidence.keep_sealed(home.read())
    return home.reports


def state(run: Path, gate: str = "cutover", now: Path | None = None) -> GateState:
    return gate_state(read(run), gate, now)


def facts(run: Path, **changes: Any) -> None:
    result = StepResult.read(run / "results" / "24.json")
    result.facts.update(changes)
    result.write(run / "results" / "24.json")


def days(n: float) -> str:
    return f'"{datetime.now(UTC) + timedelta(days=n):%Y%m%d}Z"'


def test_all_three_open_the_gate(run: Path, signers: Signers) -> None:
    assert state(run).missing == list(ROLES)
    signers.approve(run)
    found = state(run)
    assert found.is_open
    assert [found.missing, found.refused, found.stale] == [[], {}, {}]
    assert found.keys["dba"].startswith("dba@example.org SHA256:")
    path = newest(run, "cutover", "dba")
    assert path is not None
    signed = json.loads(path.read_bytes())
    assert (signed["role"], signed["decision"]) == ("dba", "go")
    assert signed["seal"]["sha256"] == file_digest(run / signed["seal"]["name"])


@pytest.mark.parametrize(
    "name", ["results/23.json", "24_review.ipynb", "24_review.html", "parameters.yaml", "figures/23_counts.png",
             "allowed_signers", "run.log", "audit.jsonl"],
)  # fmt: skip
def test_a_sealed_file_changed_afterwards_voids_the_approvals_and_is_named(
    run: Path, signers: Signers, name: str
) -> None:
    signers.approve(run)
    data = bytearray((run / name).read_bytes())
    data[0 if name == "allowed_signers" else 3] ^= 1
    (run / name).write_bytes(bytes(data))
    try:
        found = state(run)
    except RunbookError:  # parameters or a list that cannot be read say nothing about who may sign
        return
    assert not found.is_open
    assert found.stale == {role: [name] for role in ROLES} or name == "allowed_signers"
    with pytest.raises(UsageError, match="changed since seals/0002"):
        sign(read(run), "dba", "A", "go", key=signers.key("dba"))


def test_a_rehearsal_made_of_a_production_run_voids_them(run: Path, signers: Signers) -> None:
    signers.approve(run)
    write_json(run / "run.json", {**RunFolder.of(run.name).read().facts, "rehearsal": True})
    assert state(run).stale["dba"] == ["run.json"]


def test_where_a_run_is_told_to_end_voids_nothing(run: Path, signers: Signers) -> None:
    signers.approve(run)
    RunFolder.of(run.name).note(until="25")
    assert state(run).is_open


def test_a_later_step_voids_nothing(run: Path, signers: Signers) -> None:
    signers.approve(run)
    finish_step(RunFolder.of(run.name), "25")
    evidence.at_rest(RunFolder.of(run.name).read())
    assert state(run).is_open


def test_a_review_that_ran_again_is_sealed_and_signed_again(home: RunFolder, run: Path, signers: Signers) -> None:
    signers.approve(run)
    runs.supersede(home, [Step.REVIEW])
    small_run("night-1", signers, again="24")
    evidence.keep_sealed(home.read())
    assert [seal.after for seal in evidence.seals(run)] == ["14", "24", "24"]
    assert state(run).missing == list(ROLES)
    assert "results/24.json" in state(run).stale["dba"]
    signers.approve(run)
    assert state(run).is_open


def test_one_no_go_blocks_until_that_role_signs_again(run: Path, signers: Signers) -> None:
    signers.approve(run)
    sign(read(run), "security", "S. Moreno", "no-go", reason="the audit log is missing", key=signers.key("security"))
    assert state(run).blocked == ["security (security@example.org) says NO-GO: the audit log is missing"]
    assert not state(run).is_open
    signers.approve(run, ["security"])
    assert state(run).is_open


def worded(run: Path, role: str, decision: str, signers: Signers, seconds: float = 0) -> tuple[bytes, bytes]:
    """A statement of this role with its signature, its time moved by so many seconds, as made on another machine."""
    said = json.loads(statement(read(run), role, "A", decision, reason="chunks are missing" * (decision == "no-go")))
    said["when"] = (datetime.fromisoformat(said["when"]) + timedelta(seconds=seconds)).isoformat(
        timespec="milliseconds"
    )
    data = canonical(said)
    return data, signing.sign(data, role, signers.key(role))


def test_a_no_go_that_was_recorded_later_blocks_whatever_time_it_bears(run: Path, signers: Signers) -> None:
    no_go = worded(run, "dba", "no-go", signers)
    signers.approve(run)
    assert state(run).is_open
    path = record(read(run), *no_go)
    assert path.name < max(p.name for p in path.parent.glob("cutover-dba-*.json")), "the GO bears a later time"
    assert newest(run, "cutover", "dba") == path
    assert state(run).blocked == ["dba (dba@example.org) says NO-GO: chunks are missing"]
    signers.approve(run, ["dba"])
    assert state(run).is_open


def test_a_go_of_the_future_is_not_recorded_and_a_no_go_is(run: Path, signers: Signers) -> None:
    with pytest.raises(UsageError, match="is in the future"):
        record(read(run), *worded(run, "dba", "go", signers, 280))
    signers.approve(run, ["security", "operations_lead"])
    record(read(run), *worded(run, "dba", "no-go", signers, 280))
    with pytest.raises(UsageError, match=r"dba signed at .* and this is not later"):
        signers.approve(run, ["dba"])
    assert len(state(run).blocked) == 1
    with pytest.raises(UsageError, match="This NO-GO does not block the run"):
        record(read(run), *worded(run, "security", "no-go", signers, 600))


def test_an_older_go_is_not_recorded_over_a_no_go_and_does_not_count_without_the_log(
    run: Path, signers: Signers
) -> None:
    go, signature = worded(run, "dba", "go", signers)
    path = sign(read(run), "dba", "A", "no-go", key=signers.key("dba"))
    with pytest.raises(UsageError, match="this is not later; sign anew"):
        record(read(run), go, signature)
    by_hand = path.with_name(f"cutover-dba-{stamp(json.loads(go)['when'])}.json")
    by_hand.write_bytes(go)
    by_hand.with_name(f"{by_hand.name}.sig").write_bytes(signature)
    assert len(state(run).blocked) == 1
    about = {"gate": "cutover", "role": "dba", "statement": file_digest(by_hand)}
    audit.append(run / "audit.jsonl", "signed", file=f"signoffs/{by_hand.name}", **about)
    assert len(state(run).blocked) == 1, "a NO-GO counts until a GO was given and recorded after it"


def test_two_lines_that_share_a_principal_are_one_person(home: RunFolder, signers: Signers) -> None:
    text = signers.allowed.read_text(encoding="ascii")
    same = text.replace("dba@example.org", "alice,dba@x").replace("security@example.org", "alice,security@x")
    signers.allowed.write_text(same, encoding="ascii")
    evidence.seal(home.read(), "24")
    signed = []
    for role in ("dba", "security"):
        try:
            signed.append(sign(home.read(), role, "A", "go", key=signers.key(role)))
        except UsageError:
            continue
    assert len(signed) <= 1
    assert not {"dba", "security"} <= state(home.reports).keys.keys()


def test_a_no_go_taken_away_leaves_the_gate_shut(run: Path, signers: Signers) -> None:
    signers.approve(run)
    path = sign(read(run), "security", "S. Moreno", "no-go", key=signers.key("security"))
    path.unlink()
    assert not state(run).is_open
    assert path.name in state(run).refused["security"]


def test_what_a_retry_sets_aside_is_no_loss_but_an_older_go_counts_no_more(
    home: RunFolder, run: Path, signers: Signers
) -> None:
    signers.approve(run, ["dba"])
    path = sign(read(run), "dba", "D. B. A.", "no-go", key=signers.key("dba"))
    runs.set_aside(home, [path, path.with_name(path.name + ".sig")])
    assert path.name in state(run).refused["dba"], "the GO before the NO-GO does not come back"
    runs.set_aside(home, sorted((run / "signoffs").glob("cutover-dba-*")))
    assert (state(run).refused, state(run).missing) == ({}, list(ROLES))
    evidence.at_rest(home.read())
    signers.approve(run)
    assert state(run).is_open


def test_what_is_marginal_must_be_accepted_by_everybody_by_name(home: RunFolder, signers: Signers) -> None:
    facts(home.reports, accept=["named queries"])
    vouch(home.reports)
    evidence.seal(home.read(), "24")
    signers.approve(home.reports)
    assert state(home.reports).missing == list(ROLES)
    signers.approve(home.reports, accept=["named queries"])
    assert state(home.reports).is_open
    assert state(home.reports).accepted["dba"] == ["named queries"]
    with pytest.raises(UsageError, match="not marginal"):
        sign(read(home.reports), "dba", "A", "go", accept=["everything"], key=signers.key("dba"))


@pytest.mark.parametrize(
    ("role", "name", "decision", "gate"),
    [
        ("cook", "A", "go", "cutover"),
        ("dba", "", "go", "cutover"),
        ("dba", "  ", "go", "cutover"),
        ("dba", "A\nB", "go", "cutover"),
        ("dba", "A\u202eB", "go", "cutover"),
        ("dba", "A", "maybe", "cutover"),
        ("dba", "A", "go", "garden"),
        ("security", "A", "go", "dry-run"),
    ],
)
def test_refused_words_write_nothing(
    run: Path, signers: Signers, role: str, name: str, decision: str, gate: str
) -> None:
    with pytest.raises(UsageError):
        sign(read(run), role, name, decision, gate, key=signers.key("dba"))
    assert not (run / "signoffs").exists()


def test_what_cannot_be_signed(home: RunFolder, signers: Signers) -> None:
    with pytest.raises(UsageError, match="not sealed yet"):
        signers.approve(home.reports)
    facts(home.reports, decision="NO-GO")
    with pytest.raises(UsageError, match="NO-GO"):
        signers.approve(home.reports)
    (home.reports / "results" / "24.json").unlink()
    with pytest.raises(UsageError, match="step 24"):
        signers.approve(home.reports)


def test_without_a_list_of_signers_nobody_signs(home: RunFolder, signers: Signers) -> None:
    signers.allowed.unlink()
    evidence.seal(home.read(), "24")
    with pytest.raises(UsageError, match=r"--set signoff\.allowed_signers=FILE"):
        signers.approve(home.reports)
    signers.write({})
    evidence.keep_sealed(home.read())  # what `resume` does first
    signers.approve(home.reports)
    assert state(home.reports).is_open


def test_the_dry_run_is_approved_the_same_way_and_what_a_resume_may_change_leaves_that_alone(
    home: RunFolder, run: Path, signers: Signers
) -> None:
    signers.approve(run, ["dba"], gate="dry-run")
    runs.change_parameters(home, home.read().parameters.for_resume(["migration.batch_size=50"]))
    assert state(run, "dry-run").is_open
    other = parameters_from(home.read().parameters.document(), ["migration.minimum_valid=0"])
    (run / "parameters.yaml").write_text(runs.parameters_text(other), encoding="utf-8")
    assert state(run, "dry-run").stale == {"dba": ["parameters.yaml"]}


# -- keys --------------------------------------------------------------------------------------------------------------


def refused(run: Path, key: Path, role: str = "dba") -> str:
    with pytest.raises(UsageError) as caught:
        sign(read(run), role, "A", "go", key=key)
    assert not list((run / "signoffs").glob("*"))
    return caught.value.what


def test_keys_that_do_not_count(home: RunFolder, signers: Signers, tmp_path: Path) -> None:
    signers.write({"security": f"valid-before={days(-1)}", "operations_lead": f"valid-after={days(2)}"})
    evidence.seal(home.read(), "24")
    assert "is not among the allowed signers" in refused(home.reports, make_key(tmp_path / "stranger"))
    assert "was not valid at the time of signing" in refused(home.reports, signers.key("security"), "security")
    assert "was not valid at the time of signing" in refused(
        home.reports, signers.key("operations_lead"), "operations_lead"
    )
    with pytest.raises(UsageError, match="there is no key"):
        sign(read(home.reports), "dba", "A", "go", key=tmp_path / "nowhere")


def test_another_roles_key_signs_nothing(run: Path, signers: Signers) -> None:
    assert "may not sign as dba" in refused(run, signers.key("security"))


@pytest.mark.more
def test_a_revoked_key_signs_nothing_and_a_key_taken_from_the_list_counts_no_longer(
    home: RunFolder, run: Path, signers: Signers, tmp_path: Path
) -> None:
    signers.approve(run)
    now = tmp_path / "now"
    now.write_text("".join(signers.line(role) for role in ROLES if role != "dba"), encoding="ascii")
    assert state(run, now=now).missing == ["dba"]
    assert state(run).is_open
    revoked = signers.allowed.with_name("allowed_signers.revoked")
    shutil.copy(signers.key("dba").with_suffix(".pub"), revoked)
    try:
        assert "is revoked" in state(run, now=signers.allowed).refused["dba"]
        evidence.keep_sealed(home.read())
        with pytest.raises(UsageError, match="is revoked"):
            signers.approve(run, ["dba"])
    finally:
        revoked.unlink()


def forged(folder: Path, signers: Signers, key: str = "dba", signed_as: str = "dba", **changes: Any) -> str:
    """Why the gate refuses a statement with these changes, signed with this key, put into the folder by hand."""
    said = json.loads(statement(read(folder), "dba", "A", "go")) | changes
    data = canonical(said)
    path = folder / "signoffs" / f"cutover-dba-{stamp(said['when'])}.json"
    shutil.rmtree(path.parent, ignore_errors=True)
    path.parent.mkdir()
    path.write_bytes(data)
    path.with_name(path.name + ".sig").write_bytes(signing.sign(data, signed_as, signers.key(key)))
    assert "dba" in state(folder).missing
    return state(folder).refused["dba"]


def test_forged_statements(run: Path, signers: Signers) -> None:
    assert "is of run other" in forged(run, signers, run="other")
    assert "names no seal of this run" in forged(run, signers, seal={"name": "seals/0001.json", "sha256": "0" * 64})
    assert "is a rehearsal's" in forged(run, signers, rehearsal=True)
    assert "is not a sign-off of this role" in forged(run, signers, role="security")
    assert "is not a sign-off of this role" in forged(run, signers, decision="perhaps")
    assert "before that of the seal" in forged(run, signers, when="2025-01-01T00:00:00.000+00:00")
    assert "in the future" in forged(run, signers, when="2999-01-01T00:00:00.000+00:00")
    assert "in the namespace runbook-security" in forged(run, signers, "security", "security")
    assert "may not sign as dba" in forged(run, signers, "security")


def test_a_signature_moved_between_statements(run: Path, signers: Signers) -> None:
    first, _, third = (path.with_name(path.name + ".sig") for path in signers.approve(run, sorted(ROLES)))
    first.write_bytes(third.read_bytes())
    assert "in the namespace runbook-security" in state(run).refused["dba"]
    first.unlink()
    assert "is missing" in state(run).refused["dba"]


def test_the_keys_of_a_rehearsal_are_refused_by_a_production_run(
    home: RunFolder, signers: Signers, tmp_path: Path
) -> None:
    throw_away = signing.throw_away_keys(tmp_path / "keys", ROLES)
    assert throw_away == signing.throw_away_keys(tmp_path / "keys", ROLES)
    assert list(signing.problems(throw_away, ROLES, datetime.now(UTC))) == [
        "it lists the throw-away keys of a rehearsal"
    ]
    shutil.copy(throw_away, signers.allowed)
    evidence.keep_sealed(home.read())
    assert "throw-away key" in refused(home.reports, tmp_path / "keys" / "dba")


def test_a_seal_that_is_none_is_an_error_and_not_an_open_gate(run: Path, signers: Signers) -> None:
    signers.approve(run)
    path = evidence.seals(run)[0].path
    path.write_bytes(path.read_bytes().replace(b"GO", b"GX", 1))
    with pytest.raises(Terminal, match="does not follow the seal before it"):
        state(run)


# -- elsewhere ---------------------------------------------------------------------------------------------------------


def test_a_statement_signed_elsewhere_is_recorded_once(run: Path, signers: Signers) -> None:
    data = statement(read(run), "dba", "A", "go")
    signature = signing.sign(data, "dba", signers.key("dba"))
    with pytest.raises(UsageError, match="not a statement"):
        record(read(run), data.replace(b'"A"', b'"A" '), signature)
    with pytest.raises(UsageError, match="does not fit the statement"):
        record(read(run), data.replace(b'"A"', b'"B"'), signature)
    with pytest.raises(UsageError, match="is not a signature"):
        record(read(run), data, b"no signature")
    assert not list((run / "signoffs").iterdir())
    record(read(run), data, signature)
    with pytest.raises(UsageError, match="recorded already"):
        record(read(run), data, signature)


def test_lists_of_signers(tmp_path: Path, signers: Signers) -> None:
    now = datetime.now(UTC)
    assert list(signing.problems(signers.allowed, ROLES, now)) == []
    late = f"valid-before={days(-1)}"
    path = tmp_path / "list"
    path.write_text(
        "# comment\n\n" + signers.line("dba", late) + signers.line("security", namespaces="git"), encoding="ascii"
    )
    said = list(signing.problems(path, ["dba", "security"], now))
    assert said[0].startswith("no key of dba is valid at")
    assert said[1] == "nobody may sign as security (no line has namespaces='runbook-security')"
    path.write_text("dba@example.org ssh-ed25519\n", encoding="ascii")
    with pytest.raises(UsageError, match="line 1 is not an allowed signer"):
        signing.read_allowed(path)
    with pytest.raises(UsageError, match="cannot be read"):
        signing.read_allowed(tmp_path / "nowhere")


def test_a_list_without_some_of_its_lines_lets_no_key_sign_what_it_could_not(tmp_path: Path, signers: Signers) -> None:
    """Whoever may change the list, and nothing else, gains nothing by what its lines hid or kept from counting."""
    dba, security = signers.line("dba"), signers.line("security")
    audit_only = signers.line("dba", namespaces="runbook-audit")
    revoked, lists = dba.split(maxsplit=2)[2], ("allowed_signers", "allowed_signers.revoked")

    def narrower(now: str, there: str, gone: str = "", was_gone: str = "") -> bool:
        both = ((now, gone), (there, was_gone))
        now_, there_ = (dict(zip(lists, (text.encode() or None for text in each), strict=True)) for each in both)
        return signing.is_narrower(now_, there_)

    assert narrower(security, dba + security)
    assert narrower(security + dba, "# since May\n" + dba + security)
    assert narrower("", dba)
    assert narrower(dba, dba + audit_only)
    assert narrower(dba, dba, gone=revoked)
    assert narrower(dba, dba, gone=revoked + security, was_gone=revoked)
    for mark in "\r\x0b\x0c\x1c\x1e\x85\u2028":  # a line for some readers, and the end of a comment for ssh-keygen
        assert not narrower(security, f"{dba}# left in May: {mark}{security}"), ascii(mark)
    assert not narrower(dba, audit_only + dba)  # the first line of a key counts
    assert not narrower(security, dba + "x@example.org ssh-ed25519\n" + security)  # what cannot be read proves nothing
    assert not narrower(dba, dba, gone=revoked.rstrip("\n") + "A\n", was_gone=revoked.rstrip("\n"))
    assert not narrower(dba, dba, was_gone=revoked)


@pytest.mark.parametrize("mark", ["\r", "\x0b", "\x00", "\x85", "\u2028"])
def test_a_list_with_what_others_take_for_the_end_of_a_line_is_refused_in_one_line(
    tmp_path: Path, signers: Signers, mark: str
) -> None:
    path, now = tmp_path / "list", datetime.now(UTC)
    signature = tmp_path / "x.sig"
    signature.write_bytes(signing.sign(b"x", "dba", signers.key("dba")))
    path.write_bytes(("# by Ada\r\n" + signers.line("dba")).encode())
    assert signing.verify(b"x", signature, "dba", path, now).principal == "dba@example.org"
    path.write_bytes((signers.line("dba") + f"# left: {mark}" + signers.line("security")).encode())
    said = re.escape(f"has the control character {mark!a} on line 2")
    with pytest.raises(UsageError, match=said):
        signing.read_allowed(path)
    with pytest.raises(signing.Refused, match=said):
        signing.verify(b"x", signature, "dba", path, now)


def test_the_shipped_example_can_be_filled_in(root: Path, tmp_path: Path, signers: Signers) -> None:
    text = (root / "parameters" / "allowed_signers.example").read_text(encoding="utf-8")
    lines = [line[2:] for line in text.splitlines() if "ssh-ed25519" in line]
    keys = [signers.key(role).with_suffix(".pub").read_text(encoding="ascii").split()[1] for role in ROLES]
    path = tmp_path / "allowed_signers"
    path.write_text(
        "".join(f"{a.replace('PUBLIC_KEY', b)}\n" for a, b in zip(lines, keys, strict=True)), encoding="ascii"
    )
    assert list(signing.problems(path, ROLES, datetime(2025, 12, 1, tzinfo=UTC))) == []


def test_a_machine_without_ssh_keygen_is_told_what_to_install(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(RunbookError, match="apt-get install openssh-client"):
        sign(read(run), "dba", "A", "go", key=run / "run.json")

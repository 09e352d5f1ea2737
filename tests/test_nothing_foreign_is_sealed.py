"""What nobody of this run wrote is neither sealed nor counted, and what a run is never changes."""

from __future__ import annotations

import json
import re
import shutil
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from helpers import audit, errors, evidence, notify
from helpers.cli.evidence import verify
from helpers.cutover import readiness
from helpers.errors import NoGo, Terminal, UsageError
from helpers.evidence import signing, verification
from helpers.evidence.signoffs import gate_state, record, statement
from helpers.parameters import parameters_from
from helpers.report import pages
from helpers.results import file_digest
from helpers.run import folders as runs
from helpers.run.folders import RunFolder
from helpers.run.plan import Step
from helpers.runner import notebook
from helpers.steps.cutover import CutoverStep
from tests.signers import Signers, changed_toolkit, finish, finish_step, forge, plain, sign, signed_run, small_run

STATEMENT = sys.modules["helpers.evidence.statement"]
SEALS = sys.modules["helpers.evidence.seals"]  # the package's `seals` is the function


@pytest.fixture
def home(folders: Path, signers: Signers) -> RunFolder:
    return signed_run(signers)


def unnamed(home: RunFolder) -> list[str]:
    said = audit.logged_files(home.reports, STATEMENT.trusted(home.reports))
    return said.unnamed(STATEMENT.measure(home.reports).subjects)


@pytest.mark.more
def test_a_result_of_a_step_that_never_ran_is_not_sealed(home: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written by hand, with a notebook that shows its digest: the log knows no such step."""
    log = (home.reports / audit.NAME).read_bytes()
    finish_step(home, Step.MONITOR)
    (home.reports / audit.NAME).write_bytes(log)
    with pytest.raises(Terminal, match=r"results/50\.json: audit\.jsonl names no such file"):
        evidence.at_rest(home.read())
    changed_toolkit(monkeypatch)  # an operator with a changed toolkit
    finish(home)
    assert "results/50.json: audit.jsonl names no such file" in verify(home.reports).problems
    assert "results/50.json: audit.jsonl names no such file" in plain(home)


def forged_line(home: RunFolder, key: Path | None, action: str, **facts: Any) -> None:
    """A line of the log as the toolkit writes it, chained, by somebody who has no key, or another one."""
    workspace = home.workspace.parent.parent / "thief"
    workspace.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUNBOOK_WORKSPACE", str(workspace))
        if key is None:
            patch.setattr(audit, "_signed", lambda line, name: line)
        else:
            shutil.copy(key, workspace / "runner_key")
        audit.append(home.reports / audit.NAME, action, **facts)


@pytest.mark.parametrize("key", ["no key", "another key"])
@pytest.mark.more
def test_a_line_that_the_runner_did_not_sign_proves_no_result_page_or_drill(
    home: RunFolder, key: str, signers: Signers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chained as the toolkit chains it, and with the right digest: what it announces is sealed no more than without it."""
    signs = signers.key("dba") if key == "another key" else None
    log = (home.reports / audit.NAME).read_bytes()
    finish_step(home, Step.MONITOR)
    (home.reports / audit.NAME).write_bytes(log)
    digest = file_digest(home.reports / "results" / "50.json")
    forged_line(home, signs, audit.STEP_ENDS, step="50", result=digest)
    for name, action in (("final-0009.pdf", audit.PAGE_KEPT), ("drills/rollback.json", audit.DRILL)):
        (path := home.reports / name).parent.mkdir(exist_ok=True)
        path.write_bytes(b"forged")
        forged_line(home, signs, action, file=name, digests={name: file_digest(path)})
    assert audit.check(home.reports / audit.NAME) is None
    names = ["50_monitor.html", "50_monitor.ipynb", "drills/rollback.json", "final-0009.pdf", "results/50.json"]
    assert unnamed(home) == names
    assert not pages._final_kept(home.read())
    with pytest.raises(Terminal, match=r"audit\.jsonl: line \d+ is not signed by the toolkit's key, and is not sealed"):
        evidence.at_rest(home.read())
    changed_toolkit(monkeypatch)  # an operator with a changed toolkit
    finish(home)
    said, text = verify(home.reports).problems, plain(home)
    assert [line for line in said if line.endswith("names no such file")] == [
        f"{n}: audit.jsonl names no such file" for n in names
    ]
    assert sum("is not signed by the key that the seals name" in line for line in said) == 3, said
    assert text.count("audit.jsonl: not signed by the key that the seals name") == 3


def test_a_line_that_the_runner_did_not_sign_neither_records_a_statement_nor_names_a_change(
    folders: Path, signers: Signers
) -> None:
    home = small_run("night-23", signers, signoff={"allowed_signers": str(signers.allowed), "required": ["dba"]})
    evidence.keep_sealed(home.read())
    path = unrecorded(home, signers)
    facts = {"gate": "cutover", "role": "dba", "signer": "dba@example.org", "decision": "go"}
    forged_line(home, None, "signed", file=f"signoffs/{path.name}", statement=file_digest(path), **facts)
    assert "was never recorded" in gate_state(home.read()).refused["dba"]
    (home.reports / "rollback.html").write_text("forged", encoding="utf-8")
    text = (home.reports / "run.json").read_text("utf-8").replace('"until": ""', '"until": "53"')
    (home.reports / "run.json").write_text(text, encoding="utf-8")
    forged_line(home, None, "file written", file="run.json", sha256=file_digest(home.reports / "run.json"))
    with pytest.raises(Terminal, match=r"run\.json changed after seal"):
        evidence.at_rest(home.read())


def test_a_signed_line_of_another_run_is_none_of_this_one(home: RunFolder, signers: Signers) -> None:
    """The whole log of another run, which the same key signed, in the place of this one's."""
    other = small_run("night-2", signers)
    log = (other.reports / audit.NAME).read_bytes()
    assert len(audit.entries(other.reports / audit.NAME, STATEMENT.trusted(other.reports))) == 9
    (home.reports / audit.NAME).write_bytes(log)
    assert audit.entries(home.reports / audit.NAME, STATEMENT.trusted(home.reports)) == []


def test_a_run_whose_log_an_older_toolkit_wrote_goes_on_and_says_what_it_lacks(
    folders: Path, signers: Signers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first seals hold those lines; what is written from then on is signed."""
    with pytest.MonkeyPatch.context() as older:
        older.setattr(audit, "_signed", lambda line, name: line)
        older.setattr(audit, "own_key", lambda: "")
        home = small_run("night-3", signers)
        evidence.keep_sealed(home.read())
        signers.approve(home.reports, ["dba"], gate="dry-run")
        finish(home)
    signers.approve(home.reports)
    finish(home)
    found = verify(home.reports)
    assert found.problems == []
    assert any("audit.jsonl: its lines before seal 3 are chained, not signed" in note for note in found.notes), (
        found.notes
    )
    said = plain(home)
    assert "bytes are chained, not signed" in said
    assert "Everything fits." in said
    forged_line(home, None, "rollback", why="all lost")
    assert any("is not signed by the key" in line for line in verify(home.reports).problems)


def test_a_page_that_lay_there_before_is_neither_kept_nor_sealed(
    home: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNBOOK_BROWSER", "none")
    forged = home.reports / "as-signed-cutover-0009.pdf"
    forged.write_bytes(b"%PDF forged")
    with pytest.raises(Terminal, match=r"as-signed-cutover-0009\.pdf: audit\.jsonl names no such file"):
        evidence.at_rest(home.read())
    list(pages._keep(home.read(), "as-signed-cutover-0009.html", "put before those who sign"))
    assert not forged.exists()
    (home.reports / "final-0009.html").write_text("forged", encoding="utf-8")
    assert not pages._final_kept(home.read())
    (home.reports / "final-0009.html").unlink()
    finish(home)
    assert verify(home.reports).problems == []
    kept = home.reports / "as-signed-cutover-0009.html"
    kept.write_text("another page", encoding="utf-8")
    assert unnamed(home) == [kept.name]


@pytest.mark.more
@pytest.mark.parametrize(("name", "value"), [("rehearsal", True), ("directory", "/tmp"), ("group", "others")])
def test_what_a_run_is_never_changes_after_the_first_seal(
    home: RunFolder, name: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the toolkit itself writes the file again, and names its digest: a production run is never a rehearsal."""
    home.note(**{name: value})
    for attempt in (evidence.keep_sealed, evidence.at_rest, evidence.enter):
        with pytest.raises(Terminal, match=f"{name} changed in run.json after seal 1"):
            attempt(home.read())
    monkeypatch.setattr(SEALS, "_refuse_other_binding", lambda *_: None)
    finish(home)
    assert any(f"{name} of the run: not as seal 1 says" in line for line in verify(home.reports).problems)


def unrecorded(home: RunFolder, signers: Signers) -> Path:
    """A true approval, put into the folder by hand."""
    data = statement(home.read(), "dba", "A", "go")
    path = home.reports / "signoffs" / f"cutover-dba-{STATEMENT.stamp(json.loads(data)['when'])}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    path.with_name(f"{path.name}.sig").write_bytes(signing.sign(data, "dba", signers.key("dba")))
    return path


def test_a_statement_that_was_never_recorded_opens_no_gate(folders: Path, signers: Signers) -> None:
    home = small_run("night-23", signers, signoff={"allowed_signers": str(signers.allowed), "required": ["dba"]})
    evidence.keep_sealed(home.read())
    unrecorded(home, signers)
    state = gate_state(home.read())
    assert (state.is_open, state.missing) == (False, ["dba"])
    assert "was never recorded" in state.refused["dba"]


@pytest.mark.more
def test_a_line_that_says_two_things_is_no_line_of_the_log(home: RunFolder) -> None:
    """Of two equal names the last one counts for Python, the first one for whoever looks at how the line begins."""
    path = home.reports / audit.NAME
    digest = evidence.seals(home.reports)[-1].digest
    audit.append(path, "digest pushed", number=3, digest=digest)
    assert verify(home.reports).problems == [], "that a digest was pushed is logged behind its seal"
    *before, last = path.read_bytes().splitlines(keepends=True)
    entry = last.replace(b', "host"', b', "action": "rollback", "facts": {"why": "all lost"}, "host"', 1)
    path.write_bytes(b"".join([*before, entry]))
    assert not [e for e in audit.entries(path) if e["action"] == "rollback"]
    said = verify(home.reports).problems
    assert any("audit.jsonl: line" in line for line in said)
    assert any("audit.jsonl: 1 line added after seal" in line for line in said)
    assert "audit.jsonl: lines added later" in plain(home)


@pytest.mark.more
def test_no_line_counts_behind_the_sealed_part_of_a_log_that_nobody_signs(folders: Path, signers: Signers) -> None:
    """Not even one as the audit log has it there, where a key signs it; nor an empty one."""
    home = small_run("night-33", signers, signoff={"allowed_signers": str(signers.allowed), "required": []})
    notify.by_hand(home.reports, "plan", "Ada")
    finish(home)
    newest = evidence.seals(home.reports)[-1]
    assert verify(home.reports).problems == []
    for name in ("run.log", "notices.jsonl"):
        log = home.reports / name
        before = log.read_bytes()
        for forged in (b"", b"\n", b"\r\n", b"\n\n"):
            if forged:
                log.write_bytes(before + forged)
            else:
                audit.append(log, "digest pushed", outcome="delivered", number=9, digest=newest.digest)
            said = f"added after seal {newest.number}, which no seal covers"
            assert [line for line in verify(home.reports).problems if line.startswith(f"{name}: ") and said in line], (
                forged
            )
            assert f"{name}: lines added later" in plain(home), forged
            log.write_bytes(before)
    assert verify(home.reports).problems == []
    assert "Everything fits." in plain(home)


@pytest.mark.more
def test_the_plain_commands_judge_the_closeout(folders: Path, signers: Signers) -> None:
    signoff = {"allowed_signers": str(signers.allowed), "required": ["dba"], "closeout": ["security"]}
    home = small_run("night-24", signers, signoff=signoff)
    evidence.keep_sealed(home.read())
    signers.approve(home.reports, ["dba"])
    for number in (Step.CUTOVER, Step.CLOSEOUT):
        finish_step(home, number)
    evidence.keep_sealed(home.read())
    finish(home)
    assert "closeout: security has not signed" in plain(home)
    signers.approve(home.reports, ["security"], gate="closeout")
    finish(home)
    assert "Everything fits." in plain(home)
    forge(home, "results/53.json")
    with pytest.MonkeyPatch.context() as patch:
        changed_toolkit(patch)
        evidence.seal(home.read(), Step.CLOSEOUT)
        finish(home)
    assert "was given before what it approves was sealed anew" in plain(home)


def test_a_no_go_that_comes_while_the_cutover_reads_stops_it(home: RunFolder, signers: Signers) -> None:
    step = object.__new__(CutoverStep)
    step.run = SimpleNamespace(home=home.read())  # type: ignore[assignment]
    step.control = SimpleNamespace(state=None)  # type: ignore[assignment]
    step._refuse_if_shut()
    sign(home.read(), "security", "S", "no-go", reason="400 chunks lost", key=signers.key("security"))
    with pytest.raises(NoGo, match="400 chunks lost"):
        step._refuse_if_shut()


def test_no_decision_is_recorded_between_the_last_look_at_it_and_the_begin_of_the_cutover(
    home: RunFolder, signers: Signers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A NO-GO is there before the look, and stops the cutover, or comes after the begin, and says that it comes late."""
    data = statement(home.read(), "security", "S", "no-go", reason="400 chunks lost")
    signature = signing.sign(data, "security", signers.key("security"))
    signer = threading.Thread(target=lambda: record(home.read(), data, signature))
    monkeypatch.setattr(readiness, "count_again", lambda *_: {})
    refused = list(home.reports.glob("signoffs/cutover-security-*.json"))

    def begin(_: object) -> SimpleNamespace:
        signer.start()
        signer.join(1.0)
        assert list(home.reports.glob("signoffs/cutover-security-*.json")) == refused
        return SimpleNamespace(is_done=True)

    step = object.__new__(CutoverStep)
    step.run = SimpleNamespace(home=home.read(), dry_run=False)  # type: ignore[assignment]
    step.control = SimpleNamespace(state=None, begin=begin)  # type: ignore[assignment]
    step._failure, step._edits, step._counts = "", [], {}
    step.switch()
    signer.join(30)
    assert len(list(home.reports.glob("signoffs/cutover-security-*.json"))) == len(refused) + 1


def test_another_decision_other_code_and_other_signers_between_two_seals_are_named(home: RunFolder) -> None:
    one, two = evidence.seals(home.reports)[1:3]
    old = {**one.subjects, "allowed_signers": "0" * 64}
    before = replace(one, predicate={**one.predicate, "decision": "NO-GO", "code": {"commit": "a" * 40}}, subjects=old)
    found, same = verification.Verified(), verification.Verified()
    assert (
        list(verification._note_changes([before, two], found))
        == list(verification._note_changes([one, two], same))
        == []
    )
    said = found.notes
    assert any(line == f"{two.name}: the decision is GO; at seal 2 it was NO-GO" for line in said)
    assert any("the code is not that of seal 2: code (commit aaaaaaaaaaaa, then " in line for line in said)
    assert any(line.startswith("allowed_signers: changed between seal 2 and seal 3") for line in said)
    assert same.notes == []


def test_the_page_says_what_ran(home: RunFolder) -> None:
    page = (home.reports / "index.html").read_text(encoding="utf-8")
    (said,) = re.findall(r"What ran, as the newest seal names it: ([^<]*)</p>", page)
    code = evidence.seals(home.reports)[-1].predicate["code"]
    assert code["packages"][:16] in said
    assert code["commit"] in said
    assert "Other code" not in page


def test_a_page_of_another_version_of_the_toolkit_is_not_compared(
    home: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home.reports / "index.html").write_text("as another version makes it", encoding="utf-8")
    assert verify(home.reports).problems == ["index.html: it is not what the files of the run give"]
    monkeypatch.setattr(verification, "tree", lambda _: "another version")
    found = verify(home.reports)
    assert found.problems == []
    assert any(line.startswith("index.html: not compared, since") for line in found.notes)


def test_run_json_and_the_log_agree_on_parameters(home: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever may name a change of run.json in the log still has to say there what was changed, and by whom."""
    monkeypatch.chdir(home.read().facts["directory"])
    runs.change_parameters(home, home.read().parameters.for_resume(["migration.batch_size=50"]))
    finish(home)
    assert not any(line.startswith("run.json") for line in verify(home.reports).problems)
    home.note(changes=[], parameters_sha256="0" * 64)
    finish(home)
    said = verify(home.reports).problems
    assert "run.json: a change of migration.batch_size is named in audit.jsonl only" in said
    assert "parameters.yaml: it is not the one that run.json names" in said


def test_a_list_that_lets_others_sign_is_taken_only_by_a_resume_that_names_it(
    folders: Path, signers: Signers, tmp_path: Path
) -> None:
    """The file that `signoff.allowed_signers` names lies outside the run, where others may write."""
    listed = tmp_path / "listed"
    listed.write_text(signers.allowed.read_text(encoding="ascii"), encoding="ascii")
    thief = Signers(tmp_path / "thief")
    home = small_run("night-31", signers, signoff={"allowed_signers": str(listed)})
    evidence.keep_sealed(home.read())
    kept = (home.reports / "allowed_signers").read_bytes()
    shutil.copy(thief.allowed, listed)
    with pytest.raises(Terminal, match=r"lets others sign than the list that seals/\S+ holds, and nobody ordered it"):
        evidence.keep_sealed(home.read())
    evidence.at_rest(home.read())
    assert (home.reports / "allowed_signers").read_bytes() == kept
    assert set(gate_state(home.read(), allowed_now=listed).missing) == {"operations_lead", "dba", "security"}

    listed.unlink()  # away while somebody resumes: afterwards any list would be the first one
    with pytest.raises(Terminal, match=r"is not there any more.*Put back what seals/\S+ holds"):
        evidence.keep_sealed(home.read())
    evidence.at_rest(home.read())
    assert (home.reports / "allowed_signers").read_bytes() == kept

    listed.write_text(signers.line("security") + signers.line("dba"), encoding="ascii")  # nobody new: taken
    evidence.keep_sealed(home.read())
    assert (home.reports / "allowed_signers").read_bytes() == listed.read_bytes()

    other = tmp_path / "other"
    shutil.copy(thief.allowed, other)
    changed = {**home.read().parameters.document()}
    changed["signoff"] = {**changed["signoff"], "allowed_signers": str(other)}
    runs.change_parameters(home, parameters_from(changed))
    before = other.read_bytes()
    other.write_text(thief.line("dba"), encoding="ascii")  # another than was ordered
    with pytest.raises(Terminal, match="lets others sign"):
        evidence.keep_sealed(home.read())
    other.write_bytes(before)
    evidence.keep_sealed(home.read())
    assert (home.reports / "allowed_signers").read_bytes() == before

    other.write_text(thief.line("dba"), encoding="ascii")
    evidence.keep_sealed(home.read())
    other.write_bytes(before)  # ordered once, and not again
    with pytest.raises(Terminal, match="lets others sign"):
        evidence.keep_sealed(home.read())


def test_a_run_that_was_received_is_taken_by_no_notebook_and_names_no_secrets(
    folders: Path, signers: Signers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lies below the reports to be verified. What its parameters name is neither opened nor executed."""
    monkeypatch.chdir(folders)
    words = tmp_path / "words"
    words.write_text("not-in-any-log\n")
    pushed = tmp_path / "pushed"
    told = {"allowed_signers": str(signers.allowed), "push_digest": ["touch", str(pushed), "{digest}"]}
    home = small_run("night-35", signers, notify={"urls": [f"file:{words}"]}, signoff=told)
    evidence.keep_sealed(home.read())
    finish(home)
    assert pushed.exists()
    pushed.unlink()
    words.write_text("step ends\n")
    monkeypatch.setenv("RUNBOOK_WORKSPACE", str(tmp_path / "another" / "workspace"))
    monkeypatch.setattr(errors, "_HIDDEN", {})
    wanted = {"name": "night", "source": {"path": "from"}, "target": {"path": "to"}}
    assert notebook._newest(parameters_from(wanted)) is None
    evidence.at_rest(home.read())
    assert not pushed.exists()
    assert errors._HIDDEN == {}


def test_a_file_that_is_no_seal_lends_its_key_to_no_line(folders: Path, signers: Signers, tmp_path: Path) -> None:
    """Whoever writes in the folder of a run signs a line with a key of their own, and plants a file that names it."""
    home = small_run("night-34", signers)
    evidence.keep_sealed(home.read())
    text = (home.reports / "parameters.yaml").read_text().replace("required:", "required: []\n  closeout:", 1)
    (home.reports / "parameters.yaml").write_text(text)
    thief = tmp_path / "thief" / "workspace"
    thief.mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUNBOOK_WORKSPACE", str(thief))
        signing.runner(None, thief, True, ".dsse")
        about = {"file": "parameters.yaml", "sha256": file_digest(home.reports / "parameters.yaml")}
        audit.append(home.reports / audit.NAME, audit.WRITTEN, **about)
        key = audit.own_key()
    planted = home.reports / "seals" / "9999-x.json"
    planted.write_text(json.dumps({"predicate": {"log_key": key, "prefixes": []}}))
    for refused in (evidence.enter, gate_state):
        with pytest.raises(Terminal, match=r"9999-x\.json"):
            refused(home.read())
    planted.rename(planted.with_name(".x.json"))  # a leftover, which no chain holds
    with pytest.raises(UsageError, match=r"parameters.yaml is not what audit.jsonl last named"):
        evidence.enter(home.read())


@pytest.mark.parametrize("put_back", [True, False])
def test_a_kill_while_a_replaced_list_is_kept_stops_no_seal(
    folders: Path, signers: Signers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, put_back: bool
) -> None:
    listed, write = tmp_path / "listed", STATEMENT.write_bytes
    whole = signers.allowed.read_text(encoding="ascii")
    listed.write_text("# of 2026\n" + whole, encoding="ascii")
    home = small_run("night-33", signers, signoff={"allowed_signers": str(listed)})
    evidence.keep_sealed(home.read())
    listed.write_text(whole, encoding="ascii")

    def die(path: Path, data: bytes) -> None:
        if path.parent.parent.name == "earlier":
            raise KeyboardInterrupt
        write(path, data)

    with monkeypatch.context() as killed:
        killed.setattr(STATEMENT, "write_bytes", die)
        runs.supersede(home, [Step.REVIEW])
        finish_step(home, Step.REVIEW)
        with pytest.raises(KeyboardInterrupt):
            evidence.keep_sealed(home.read())
    if put_back:
        listed.write_text("# of 2026\n" + whole, encoding="ascii")
    evidence.keep_sealed(home.read())
    finish(home)
    assert verify(home.reports).problems == []
    assert (home.reports / "allowed_signers").read_bytes() == listed.read_bytes()
    assert [path.read_text() for path in home.reports.glob("earlier/signers-*/*")] == ["# of 2026\n" + whole]


@pytest.mark.more
@pytest.mark.parametrize("name", ["allowed_signers", "allowed_signers.revoked"])
def test_a_list_of_signers_that_somebody_put_there_is_not_sealed(
    folders: Path, signers: Signers, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = {"allowed_signers": str(signers.allowed)} if name.endswith("revoked") else {}
    home = small_run("night-32", signers, signoff={"allowed_signers": None, "required": [], **rules})
    evidence.keep_sealed(home.read())
    shutil.copy(signers.key("dba").with_suffix(".pub"), home.reports / name)
    said = f"{name}: audit.jsonl names no such file"
    with pytest.raises(Terminal, match=re.escape(said)):
        evidence.at_rest(home.read())
    changed_toolkit(monkeypatch)
    finish(home)
    assert said in verify(home.reports).problems
    assert said in plain(home)


def test_a_page_that_is_exchanged_while_the_browser_has_it_is_not_printed(
    home: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log names the page before the browser gets it, and the browser gets what the log names."""
    name = "as-signed-cutover-0009.html"
    page = home.reports / name
    browser = tmp_path / "browser"
    lines = (
        "#!/bin/bash",
        f"cp {page} {tmp_path}/before.html",
        f"printf forged > {page}",
        f"grep -c {name} {home.reports}/audit.jsonl > {tmp_path}/named",
        f'cp "$(echo "${{@: -1}}" | cut -c8-)" {tmp_path}/printed.html',
        'for word in "$@"; do case $word in --print-to-pdf=*) printf %%PDF > "${word#*=}";; esac; done',
    )
    browser.write_text("\n".join(lines), encoding="utf-8")
    browser.chmod(0o700)
    monkeypatch.setenv("RUNBOOK_BROWSER", str(browser))
    said = list(pages._keep(home.read(), name, "put before those who sign"))
    assert said == [f"No PDF of {name}: the page was changed while it was printed"]
    assert (tmp_path / "printed.html").read_bytes() == (tmp_path / "before.html").read_bytes() != b"forged"
    assert int((tmp_path / "named").read_text()) >= 1
    assert not page.with_suffix(".pdf").exists()
    with pytest.raises(Terminal, match=rf"{re.escape(name)} is not what audit\.jsonl names"):
        evidence.at_rest(home.read())

"""Ways in which the archive of a finished run is forged, and what names each: see tests/test_sixty_forgeries_are_named.py."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from helpers import audit, evidence
from helpers.evidence import signing
from helpers.evidence.statement import canonical
from helpers.report.pages import run_page
from helpers.results import file_digest, write_text
from helpers.run import folders as runs
from helpers.run.folders import RunFolder, RunState
from helpers.run.plan import Step
from tests.signers import Signers, changed_toolkit, closed_run, finish_step

SEALS = sys.modules["helpers.evidence.seals"]  # the package's `seals` is the function
RUN = "night-1"
# What a bare machine has: no Python, no jq, no openssl.
PROGRAMS = (
    "base64", "basename", "bash", "cat", "cut", "dirname", "xargs", "comm", "env", "find", "grep", "head", "mkdir",
    "mktemp", "printf", "rm", "sed", "sha256sum", "sort", "ssh-keygen", "tail", "test", "tr", "uniq", "wc",
)  # fmt: skip
NOT_SEEN = "It cannot see"  # VERIFY.txt's first lines


@dataclass
class Thief:
    """Who forges: the folder of the run, keys of the thief's own, and (`RUNNER`) the toolkit with the runner's key."""

    home: RunFolder
    keys: Signers
    others: Path  # the signed statements of another run
    patch: pytest.MonkeyPatch

    @property
    def run(self) -> Path:
        return self.home.reports

    @property
    def seals(self) -> list[Path]:
        return sorted((self.run / "seals").glob("*.json"))

    def signoff(self, role: str, gate: str = "cutover", at: int = -1) -> Path:
        return sorted((self.run / "signoffs").glob(f"{gate}-{role}-*.json"))[at]

    def edit(self, name: str | Path, old: str, new: str) -> None:
        path = self.run / name
        text = path.read_text(encoding="utf-8")
        assert old in text, f"{name} does not hold {old}"
        path.write_text(text.replace(old, new), encoding="utf-8")

    def log(self, change: Callable[[list[bytes]], list[bytes]], *, chained: bool = False) -> None:
        """Change the lines of the audit log; `chained`: and make the chain of those that follow again."""
        path = self.run / audit.NAME
        lines, previous = change(path.read_bytes().splitlines(keepends=True)), audit.FIRST
        if chained:
            for at, line in enumerate(lines):
                entry = {**json.loads(line), "previous": previous}
                lines[at] = json.dumps(entry, sort_keys=True).encode() + b"\n"
                previous = hashlib.sha256(lines[at][:-1]).hexdigest()
        path.write_bytes(b"".join(lines))

    def reseal(self, at: int, *, key: Path | None = None, **changes: Any) -> None:
        """The seals from the `at`th on with other content, each naming the one before as it is now; signed with `key`, if any."""
        chain = self.seals
        for number, path in enumerate(chain[at:], start=at):
            said = json.loads(path.read_bytes())
            said["predicate"] |= changes
            if number:
                said["predicate"]["previous"] = hashlib.sha256(chain[number - 1].read_bytes()).hexdigest()
            if key is not None:
                public, fingerprint = audit.public_key(key)
                said["predicate"]["runner"] |= {"key": public, "fingerprint": fingerprint}
            path.write_bytes(canonical(said))
            if key is not None:
                path.with_name(f"{path.name}.sig").write_bytes(signing.sign(path.read_bytes(), signing.SEAL, key))

    def named(self, seal: Path) -> None:
        """Make VERIFY.txt name this seal as the newest."""
        named = f"newest={file_digest(seal)}  # seals/{seal.name}"
        text = re.sub(r"(?m)^newest=\S+  # \S+$", named, (self.run / "VERIFY.txt").read_text(encoding="utf-8"))
        (self.run / "VERIFY.txt").write_text(text, encoding="utf-8")

    def sealed(self, step: str = "") -> None:
        """Seal what is there by a toolkit whose own refusals were taken out, and make what is derived."""
        changed_toolkit(self.patch)
        self.patch.setattr(SEALS, "_refuse_other_binding", lambda *_: None)
        self.patch.setattr(SEALS, "_read_chain", lambda run: SEALS.seals(run.reports))
        (self.home.workspace / "last-seal").unlink(missing_ok=True)
        evidence.seal(self.home.read(), step)
        write_text(self.run / "index.html", run_page(self.run))

    def all_again(self) -> None:
        """The whole run once more, under its own name, as the thief wants it; each role signed by the thief."""
        shutil.rmtree(self.run)
        (self.home.workspace / "last-seal").unlink(missing_ok=True)
        closed_run(RUN, self.keys, {"allowed_signers": str(self.keys.allowed), "dry_run": ["dba"]}, refusal=False)


@dataclass(frozen=True)
class Forgery:
    do: Callable[[Thief], object]
    named: str  # what a line of verify says
    plain: str  # what VERIFY.txt prints; "" where it says in its first lines that it cannot see this


FOLDER: list[Forgery] = []
RUNNER: list[Forgery] = []
Do = Callable[[Thief], object]


def folder(named: str, plain: str) -> Callable[[Do], Do]:
    return lambda do: FOLDER.append(Forgery(do, named, plain)) or do  # type: ignore[func-returns-value]


def runner(named: str, plain: str) -> Callable[[Do], Do]:
    return lambda do: RUNNER.append(Forgery(do, named, plain)) or do  # type: ignore[func-returns-value]


def changed(name: str) -> tuple[str, str]:
    return rf"^{re.escape(name)}: changed since seal", rf"{re.escape(name)}: FAILED"


def missing(name: str) -> tuple[str, str]:
    return rf"^{re.escape(name)}: missing since seal", rf"{re.escape(name)}: FAILED open or read"


def added(name: str) -> tuple[str, str]:
    return rf"^{re.escape(name)}: not sealed; it was added", rf"not sealed: .*{re.escape(name)}"


EDITS = {
    "the decision": ("results/24.json", '"GO"', '"NO-GO"'), "a verdict": ("results/23.json", '"pass"', '"warning"'),
    "who must sign": ("parameters.yaml", "  - security\n", ""), "the source": ("parameters.yaml", "path: from", "path: other"),
    "whose machine it was": ("run.json", '"host":', '"hosts":'),
    "a rehearsal": ("run.json", '"rehearsal": false', '"rehearsal": true'),
    "what a notebook shows": ("24_review.ipynb", "SHA-256", "SHA-512"), "a page": ("24_review.html", "<h1>", "<h1>GO: "),
    "what another run had": ("23_validate.ipynb", '"execution_count": 1', '"execution_count": 2'),
}  # fmt: skip
GONE = (
    "results/24.json",
    "13_dry_run.ipynb",
    "14_schedule_and_notify.html",
    "parameters.yaml",
    "figures/23_counts.png",
)
MORE = ("results/99.json", "note.txt", "figures/.hidden.png", "earlier/20250101T000000Z/24.json")


def put(t: Thief, name: str) -> None:
    (t.run / name).parent.mkdir(parents=True, exist_ok=True)
    (t.run / name).write_text("{}")


def take(t: Thief, name: str) -> None:
    (t.run / name).unlink()


FOLDER += [Forgery(partial(Thief.edit, name=n, old=o, new=w), *changed(n)) for n, o, w in EDITS.values()]
FOLDER += [Forgery(partial(take, name=name), *missing(name)) for name in GONE]
FOLDER += [Forgery(partial(put, name=name), *added(name)) for name in MORE]
FOLDER.append(Forgery(partial(put, name="results/24.json "), "has a name that cannot be sealed", "commands misread: "))


@folder(*changed("figures/23_counts.png"))
def a_figure_of_another_run(t: Thief) -> None:
    (t.run / "figures" / "23_counts.png").write_bytes(b"\x89PNG another")


@folder(*changed("24_review.html"))
def an_empty_page(t: Thief) -> None:
    (t.run / "24_review.html").write_bytes(b"")


@folder(*changed("results/24.json"))
def two_results_in_each_other_s_place(t: Thief) -> None:
    one, two = (t.run / "results" / f"{step}.json" for step in ("23", "24"))
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)


@folder(*missing("results/24.json"))
def a_file_under_another_name(t: Thief) -> None:
    (t.run / "results" / "24.json").rename(t.run / "results" / "24.JSON")


@folder(*changed("run.json"))
def another_time_at_which_it_began(t: Thief) -> None:
    t.edit("run.json", '"created": "20', '"created": "19')


@folder(r"^results/23\.json.* is a link", "not a file: ./results/23.json")
def a_link_to_the_same_bytes(t: Thief) -> None:
    (t.run / "results" / "23.json").rename(t.run.parent / "23.json")
    (t.run / "results" / "23.json").symlink_to(t.run.parent / "23.json")


@folder(r"^results/77\.json.* is a link", "not a file|not sealed")
def a_link_that_was_added(t: Thief) -> None:
    (t.run / "results" / "77.json").symlink_to("24.json")


@folder(r"^seals.*(link|special)", "not a file: ./seals")
def a_folder_of_seals_that_is_elsewhere(t: Thief) -> None:
    (t.run / "seals").rename(t.run.parent / "elsewhere")
    (t.run / "seals").symlink_to(t.run.parent / "elsewhere")


@folder(r"^VERIFY\.txt.* is a link", "not a file: ./VERIFY.txt")
def a_check_that_is_elsewhere(t: Thief) -> None:
    (t.run / "VERIFY.txt").rename(t.run.parent / "VERIFY")
    (t.run / "VERIFY.txt").symlink_to(t.run.parent / "VERIFY")


@folder(r"^results/77\.json.* special file", "not a file: ./results/77.json")
def a_pipe_among_the_results(t: Thief) -> None:
    os.mkfifo(t.run / "results" / "77.json")


@folder("^approvals: an empty folder", "an empty folder: ./approvals")
def an_empty_folder(t: Thief) -> None:
    (t.run / "approvals").mkdir()


@folder(r"^pipe.* special file", "not a file: ./pipe")
def a_pipe(t: Thief) -> None:
    os.mkfifo(t.run / "pipe")


@folder("has a name that cannot be sealed", r"control characters in a name: \./\?--index\.html")
def a_name_that_begins_with_a_newline(t: Thief) -> None:
    (t.run / "\n--index.html").write_text("<h1>GO</h1>")


@folder("has a name that cannot be sealed", "control characters in a name: ")
def a_name_of_two_lines(t: Thief) -> None:
    (t.run / "results" / "23.json\nresults").mkdir()
    (t.run / "results" / "23.json\nresults" / "24.json").write_text("{}")


LOG = (r"^audit\.jsonl: ", r"audit\.jsonl: (changed|broken)")


@folder(*LOG)
def a_line_of_the_audit_log_changed(t: Thief) -> None:
    t.edit(audit.NAME, '"user":', '"users":')


@folder(LOG[0], r"audit\.jsonl does not say that it was set")
def the_last_line_cut_off(t: Thief) -> None:
    t.log(lambda lines: lines[:-1])


@folder(*LOG)
def the_log_as_it_was_before_the_refusal(t: Thief) -> None:
    t.log(lambda lines: [line for line in lines if b"no-go" not in line], chained=True)


@folder(*LOG)
def two_lines_in_another_order(t: Thief) -> None:
    t.log(lambda lines: [lines[1], lines[0], *lines[2:]])


@folder(*LOG)
def a_line_put_in_with_the_whole_chain_made_again(t: Thief) -> None:
    t.log(lambda lines: [*lines[:3], lines[2], *lines[3:]], chained=True)


@folder(*LOG)
def a_log_that_says_nothing(t: Thief) -> None:
    (t.run / audit.NAME).write_bytes(b"")


@folder(r"^audit\.jsonl: missing since seal", "audit.jsonl: changed")
def no_audit_log(t: Thief) -> None:
    (t.run / audit.NAME).unlink()


@folder(r"^run\.log: changed since seal", "run.log: changed")
def a_line_of_the_run_log_changed(t: Thief) -> None:
    t.edit("run.log", "line begins", "line began")


@folder(r"^run\.log: changed since seal", "run.log: changed")
def a_run_log_cut_short(t: Thief) -> None:
    os.truncate(t.run / "run.log", 20)


@folder(r"^audit\.jsonl: .*after seal", r"audit\.jsonl: lines added later")
def an_audit_line_behind_the_last_seal(t: Thief) -> None:
    audit.append(t.run / audit.NAME, "approved by telephone", outcome="done")


@folder(r"^run\.log: .*after seal", r"run\.log: lines added later")
def a_log_line_behind_the_last_seal(t: Thief) -> None:
    with (t.run / "run.log").open("a") as file:
        file.write("2026-01-01T00:00:00.000+00:00 - all is well\n")


@folder(*added("more.log"))
def a_log_of_another_name(t: Thief) -> None:
    (t.run / "more.log").write_text("2026-01-01T00:00:00.000+00:00 - approved\n")


NO_DIGEST = r"^seals/: no seal has the expected SHA-256"


@folder(NO_DIGEST, "is not the newest seal as it was set")
def the_newest_seal_taken_away(t: Thief) -> None:
    for path in t.run.glob(f"seals/{t.seals[-1].name}*"):
        path.unlink()


@folder(NO_DIGEST, "")
def the_newest_seal_taken_away_and_verify_txt_made_to_fit(t: Thief) -> None:
    the_newest_seal_taken_away(t)
    t.named(t.seals[-1])


@folder(r"^seals/0002.*: it does not follow|^seals/0001.*: missing", "does not follow the seal before it")
def the_first_seal_taken_away(t: Thief) -> None:
    for path in t.run.glob(f"seals/{t.seals[0].name}*"):
        path.unlink()


@folder(r"^seals/0003.*: it does not follow", "does not follow the seal before it")
def a_seal_in_the_middle_taken_away(t: Thief) -> None:
    for path in t.run.glob(f"seals/{t.seals[1].name}*"):
        path.unlink()


@folder(r"^seals/0002.*: it does not follow", "does not follow the seal before it")
def the_first_seal_says_something_else(t: Thief) -> None:
    said = json.loads(t.seals[0].read_bytes())
    said["predicate"]["decision"] = "GO, really"
    t.seals[0].write_bytes(canonical(said))


@folder(r"^seals/0001.*\.sig: ", "is not signed with")
def all_seals_from_the_first_on_without_a_new_signature(t: Thief) -> None:
    t.reseal(0, decision="GO, really")
    t.named(t.seals[-1])


@folder(r"^seals/0001.*\.sig: ", "is not signed with")
def a_signature_of_a_seal_taken_away(t: Thief) -> None:
    t.seals[0].with_name(f"{t.seals[0].name}.sig").unlink()


@folder(r"^seals/0001.*\.sig: ", "is not signed with")
def the_signature_of_another_seal(t: Thief) -> None:
    first, second = t.seals[:2]
    shutil.copy(f"{second}.sig", f"{first}.sig")


@folder(r"^seals/.*: it belongs to a seal that is not here", "belongs to no seal")
def a_signature_without_its_seal(t: Thief) -> None:
    shutil.copy(f"{t.seals[0]}.sig", t.run / "seals" / "0099-20990101T000000000Z.json.sig")


@folder(r"^seals/0001.*\.tsr: ", "")
def a_token_that_is_none(t: Thief) -> None:
    t.seals[0].with_name(f"{t.seals[0].name}.tsr").write_bytes(b"0\x03\x02\x01\x00")


@folder(r"^seals/.*: it is not a seal", "does not follow the seal before it")
def a_file_among_the_seals(t: Thief) -> None:
    (t.run / "seals" / "zz.json").write_text("{}")


@folder(r"key.*not among the allowed signers|no principal", "is not signed with")
def a_seal_behind_the_last_by_a_key_of_one_s_own(t: Thief) -> None:
    last = t.seals[-1]
    said = json.loads(last.read_bytes())
    number = said["predicate"]["number"] + 1
    said["predicate"] |= {
        "number": number, "previous": hashlib.sha256(last.read_bytes()).hexdigest(), "previous_name": f"seals/{last.name}",
    }  # fmt: skip
    path = last.with_name(f"{number:04d}-{last.name.partition('-')[2]}")
    path.write_bytes(canonical(said))
    path.with_name(f"{path.name}.sig").write_bytes(signing.sign(path.read_bytes(), signing.SEAL, t.keys.key("dba")))
    t.named(path)


@folder(NO_DIGEST, "")
def all_seals_made_again_with_a_key_of_one_s_own(t: Thief) -> None:
    t.reseal(0, key=t.keys.key("dba"), decision="NO-GO")
    t.named(t.seals[-1])


@folder(NO_DIGEST, "")
def another_run_under_this_name(t: Thief) -> None:
    for name in ("runner_key", "runner_key.pub"):
        (t.home.workspace.parent / name).unlink()
    t.all_again()


NOT_ALLOWED = r"^signoffs/cutover-security-\S+: "


@folder(r"^signoffs/cutover-security-\S+\.json: ", "is not signed by one who may")
def a_refusal_that_says_go(t: Thief) -> None:
    t.edit(t.signoff("security", at=0), '"no-go"', '"go"')


@folder(r"^signoffs/cutover-dba-\S+\.json: ", "is not signed by one who may")
def another_name_under_a_signature(t: Thief) -> None:
    t.edit(t.signoff("dba"), "Name of dba", "Name of ceo")


@folder(r"^signoffs/cutover-security-\S+\.json\S*: missing since seal", r"signoffs/\S+: FAILED open or read")
def a_refusal_taken_away(t: Thief) -> None:
    path = t.signoff("security", at=0)
    path.with_name(f"{path.name}.sig").unlink()
    path.unlink()


@folder(r"^signoffs/cutover-dba-\S+: .*missing", "is not signed by one who may")
def a_signature_taken_away(t: Thief) -> None:
    path = t.signoff("dba")
    path.with_name(f"{path.name}.sig").unlink()


@folder(r"^signoffs/cutover-dba-\S+: it was signed in the namespace runbook-security", "is not signed by one who may")
def the_signature_of_another_role(t: Thief) -> None:
    shutil.copy(f"{t.signoff('security')}.sig", f"{t.signoff('dba')}.sig")


@folder(r"^signoffs/cutover-dba-\S+: it is of run night-2", "is of another run")
def an_approval_of_another_run(t: Thief) -> None:
    for path in t.others.glob("cutover-dba-*"):
        shutil.copy(path, t.run / "signoffs" / path.name)
    write_text(t.run / "VERIFY.txt", recipe(t.run))


@folder(r"^signoffs/cutover-security-20990101T000000000Z\.json: ", r"not sealed: signoffs/cutover-security-2099")
def an_approval_once_more_under_a_later_time(t: Thief) -> None:
    path = t.signoff("security")
    for end in ("", ".sig"):
        shutil.copy(f"{path}{end}", path.with_name(f"cutover-security-20990101T000000000Z.json{end}"))


@folder(r"^signoffs/cutover-security-\S+: ", "is not signed by one who may")
def the_thief_s_signature_in_place_of_a_person_s(t: Thief) -> None:
    path = t.signoff("security")
    path.with_name(f"{path.name}.sig").write_bytes(signing.sign(path.read_bytes(), "security", t.keys.key("security")))


@folder(r"^signoffs/cutover-security-\S+: ", "allowed_signers: FAILED")
def the_thief_s_signature_and_key_in_the_list(t: Thief) -> None:
    the_thief_s_signature_in_place_of_a_person_s(t)
    path = t.run / "allowed_signers"
    path.write_text(path.read_text() + t.keys.line("security"), encoding="ascii")


@folder(*missing("allowed_signers"))
def no_list_of_signers(t: Thief) -> None:
    (t.run / "allowed_signers").unlink()


@folder(*added("allowed_signers.revoked"))
def a_person_s_key_revoked_afterwards(t: Thief) -> None:
    shutil.copy(t.keys.key("dba").with_suffix(".pub"), t.run / "allowed_signers.revoked")


@folder(r"^index\.html: it is not what the files of the run give", "")
def a_page_that_says_something_else(t: Thief) -> None:
    t.edit("index.html", "</body>", "<h1>Approved by all</h1></body>")


@folder(r"^index\.html: missing", "")
def no_page(t: Thief) -> None:
    (t.run / "index.html").unlink()


@folder(r"^VERIFY\.txt: it is not what the files of the run give", "")
def a_check_that_ends_before_it_begins(t: Thief) -> None:
    t.edit("VERIFY.txt", "export LC_ALL=C", "echo 'Everything fits.'; exit 0")


@folder(r"^VERIFY\.txt: missing", "")
def no_check(t: Thief) -> None:
    (t.run / "VERIFY.txt").unlink()


@runner(NO_DIGEST, "")
def a_whole_run_made_again(t: Thief) -> None:
    t.all_again()


@runner(NO_DIGEST, "")
def another_decision_under_the_same_signatures(t: Thief) -> None:
    t.edit("results/24.json", '"GO"', '"GO "')
    shutil.rmtree(t.run / "seals")
    t.sealed("24")


@runner(NO_DIGEST, "")
def the_seals_after_the_review_made_again(t: Thief) -> None:
    for path in t.seals[2:]:
        for each in t.run.glob(f"seals/{path.name}*"):
            each.unlink()
    t.edit("results/25.json", '"pass"', '"warning"')
    t.sealed()


@runner(NO_DIGEST, "")
def the_decision_of_every_seal_signed_anew(t: Thief) -> None:
    t.reseal(0, key=t.home.workspace.parent / "runner_key", decision="NO-GO")
    t.named(t.seals[-1])


@runner(r"^results/25\.json: changed between seal \d and seal \d", "")
def a_result_changed_and_sealed_once_more(t: Thief) -> None:
    t.edit("results/25.json", '"pass"', '"warning"')
    t.sealed()


@runner(r"^results/25\.json: changed between seal", "")
def a_result_taken_away_and_sealed_once_more(t: Thief) -> None:
    (t.run / "results" / "25.json").unlink()
    t.sealed()


@runner(r"^signoffs/cutover-security-\S+: changed between seal", "")
def a_refusal_taken_away_and_sealed_once_more(t: Thief) -> None:
    a_refusal_taken_away(t)
    t.sealed()


@runner(r"^parameters\.yaml: changed between seal .*audit\.jsonl names no such change", "")
def fewer_roles_sealed_once_more(t: Thief) -> None:
    t.edit("parameters.yaml", "  - security\n", "")
    t.sealed()


@runner(r"^audit\.jsonl: .*seal", "")
def a_log_without_the_refusal_sealed_once_more(t: Thief) -> None:
    """Every seal before held the log as it was then."""
    t.log(lambda lines: [line for line in lines if b"no-go" not in line], chained=True)
    t.sealed()


@runner(r"^run\.log: .*seal", "")
def a_run_log_without_a_line_sealed_once_more(t: Thief) -> None:
    t.edit("run.log", "line begins", "line began")
    t.sealed()


@runner(r"^seals/.*: its time, .* is before that of seal", "")
def a_seal_of_2020(t: Thief) -> None:
    t.patch.setattr(SEALS, "utc_now", lambda: "2020-01-01T00:00:00.000+00:00")
    t.home.log("goes on")
    t.sealed()


@runner(r"^seals/\S+: .*(not among the allowed signers|no principal)", "")
def a_seal_by_another_runner_s_key(t: Thief) -> None:
    for name in ("runner_key", "runner_key.pub"):
        (t.home.workspace.parent / name).unlink()
    t.home.log("goes on")
    t.sealed()


@runner(r"^signoffs/cutover-security-\S+: ", "")
def the_thief_listed_announced_signed_and_sealed_once_more(t: Thief) -> None:
    path = t.run / "allowed_signers"
    path.write_text(path.read_text() + t.keys.line("security"), encoding="ascii")
    audit.append(t.run / audit.NAME, "allowed signers taken", file=path.name, sha256=file_digest(path))
    the_thief_s_signature_in_place_of_a_person_s(t)
    t.sealed()


@runner(r"^signoffs/cutover-dba-\S+: .*given before .*24", "")
def a_review_that_ran_again_under_the_old_signatures(t: Thief) -> None:
    runs.supersede(t.home, [Step.REVIEW])
    finish_step(t.home, Step.REVIEW)
    t.sealed("24")


def recipe(run: Path) -> str:
    from helpers.evidence.verify_script import recipe as text

    return text(RunState(run.name, run, run), evidence.seals(run)[-1])

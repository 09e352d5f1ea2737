"""Notices: real channels, well and ill; nothing that they do stops a run, and nothing that they know is kept."""

from __future__ import annotations

import email
import email.policy
import json
import re
import socketserver
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from helpers import audit, errors, evidence
from helpers.errors import EnvironmentFailure, NoGo, redacted
from helpers.evidence import secret_scan
from helpers.notify import CommandHooks, Event, read, send_notice, sender, trusted_text
from helpers.parameters import SecretRef, parameters_from
from helpers.reason_codes import ReasonCode
from helpers.report.pages import run_page
from helpers.results import StepResult, Verdict
from helpers.rollback import Orders, RollbackState
from helpers.run import folders as runs
from helpers.run import plan
from helpers.run.folders import RunFolder, RunState
from helpers.runner import notices
from helpers.status import report
from tests.listeners import TOKEN, Listener
from tests.signers import Signers, small_run

CONTACTS = {
    "dba": "Ada 555",
    "on_call": "Cy 777",
    "operations_lead": "Lee 111",
    "channel": "#night",
    "war_room": "https://call",
}

pytestmark = pytest.mark.usefixtures("own_folders")


@pytest.fixture(autouse=True)
def nothing_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errors, "_HIDDEN", {})


def a_run(*channels: str, run_id: str = "night", rehearsal: bool = False, **notify: object) -> RunState:
    sections = {
        "name": "books", "source": {"path": "old"}, "target": {"path": "new"}, "contacts": CONTACTS,
        "notify": {"urls": list(channels), "timeout_seconds": 1.5, "stakeholders": ["Web team"], **notify},
    }  # fmt: skip
    return runs.create(parameters_from(sections), run_id, rehearsal=rehearsal)


def put(folder: RunFolder, step: str, error: str = "", **facts: object) -> None:
    result = StepResult(
        step, "", folder.id, "2026-01-01T02:00:00+00:00", "2026-01-01T02:10:00+00:00", facts=dict(facts)
    )
    if error:
        result.error, result.verdict = {"code": error, "type": "NoGo", "line": error}, Verdict.FAIL
    result.write(folder.reports / "results" / f"{step}.json")


def everything(folder: RunFolder) -> bytes:
    return b"".join(
        p.read_bytes() for root in (folder.reports, folder.workspace) for p in root.rglob("*") if p.is_file()
    )


def test_a_dead_a_refusing_and_a_missing_channel_cost_seconds_and_a_good_one_is_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Listener() as good, Listener(hang=300) as hangs, Listener(500) as refuses:
        monkeypatch.setenv("GOOD", good.url)
        monkeypatch.setenv("HANGS", hangs.url)
        monkeypatch.setenv("REFUSES", refuses.url)
        monkeypatch.setenv("NONSENSE", f"no-such-service://{TOKEN}")
        folder = a_run("env:HANGS", "env:GOOD", "env:REFUSES", "env:NOT_SET", "env:NONSENSE")
        said: list[str] = []
        begun = time.monotonic()
        told = send_notice(folder.read(), Event.START, key="night 1", say=said.append)
        took = time.monotonic() - begun
    assert took < 100, "1.5 seconds, and the start of a process on a busy machine; the channel hangs for 300"
    assert [(d.channel, d.result) for d in told.deliveries] == [
        ("env:HANGS", "failed"), ("env:GOOD", "delivered"), ("env:REFUSES", "failed"), ("env:NOT_SET", "failed"),
        ("env:NONSENSE", "failed"),
    ]  # fmt: skip
    why = {d.channel: d.said for d in told.deliveries}
    assert why["env:HANGS"] == "no answer within 1.5 seconds"
    assert why["env:REFUSES"] == "answered 500 Internal Server Error"
    assert "is not set" in why["env:NOT_SET"]
    assert "not a usable Apprise URL" in why["env:NONSENSE"]
    [(path, body)] = good.got
    assert path == f"/hook/{TOKEN}"
    assert body["title"] == "books: the migration begins"
    assert said == [line for line in said if "1 of 5 channels" in line]
    kept = read(folder.reports)
    assert [(e.event, e.channel, e.result) for e in kept] == [("start", d.channel, d.result) for d in told.deliveries]
    assert audit.check(folder.reports / "notices.jsonl") is None
    assert "<td>env:HANGS</td><td>failed: no answer within 1.5 seconds</td>" in run_page(folder.reports)
    assert any("start: env:REFUSES failed (answered 500" in line for line in report(folder.read(), datetime.now(UTC)))


def test_no_byte_of_the_run_holds_a_token_and_a_seal_looks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with Listener(500) as refuses:
        monkeypatch.setenv("REFUSES", refuses.url)
        folder = a_run("env:REFUSES")
        send_notice(folder.read(), Event.NO_GO, key="1", why=f"the server said {TOKEN}")
        folder.log(f"it said {refuses.url} and {TOKEN}")
    assert TOKEN.encode() not in everything(folder)
    [kept] = read(folder.reports)
    assert kept.subject == "books: NO-GO"
    assert "NO-GO: the server said <secret env:REFUSES>" in kept.text, (
        "what was sent can be read, and its secret cannot"
    )
    page = run_page(folder.reports)
    assert "the server said &lt;secret env:REFUSES&gt;" in page[page.index('id="notices"') :]
    evidence.at_rest(folder.read())
    seal = evidence.seals(folder.reports)[-1]
    assert seal.predicate["secrets"] == {"searched": ["env:REFUSES"], "unknown": {}}
    assert "notices.jsonl" in seal.prefixes
    (folder.reports / "leak.txt").write_text(f"token {TOKEN}")
    with pytest.raises(EnvironmentFailure, match=r"leak\.txt holds the value of env:REFUSES"):
        evidence.at_rest(folder.read())


@pytest.mark.parametrize(
    ("url", "secret", "open_"),
    [
        ("slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ/#night-2025", ["TIiajkdnlazkcOXrIdevi7FQ", "T1JJ3T3L2"],
         "night-2025"),
        ("mailto://alerts:pa55%21word@mail2.example.org?to=dba@example.org", ["pa55%21word", "pa55!word"], "dba@example.org"),
        ("tgram://123456789:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw/-100", ["AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw"], "100"),
        ("json://chroma2prod:9000/alerts?+X-Token=s3cr3tV4lue", ["s3cr3tV4lue"], "chroma2prod"),
    ],
)  # fmt: skip
def test_the_tokens_of_a_url_are_secrets_and_its_names_are_not(
    url: str, secret: list[str], open_: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHANNEL", url)
    SecretRef.parse("env:CHANNEL").resolve()
    for token in secret:
        assert redacted(f"<{token}>") == "<<secret env:CHANNEL>>"
        (tmp_path / "kept").mkdir(exist_ok=True)
        (tmp_path / "kept" / "page.html").write_text(token)
        assert secret_scan.search(tmp_path / "kept", [SecretRef.parse("env:CHANNEL")]).hits
    assert redacted(open_) == open_
    (tmp_path / "kept" / "page.html").write_text(open_)
    assert not secret_scan.search(tmp_path / "kept", [SecretRef.parse("env:CHANNEL")]).hits


def test_an_event_is_told_once_and_a_channel_that_failed_only_where_that_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Listener() as good, Listener(503) as ill:
        monkeypatch.setenv("GOOD", good.url)
        monkeypatch.setenv("ILL", ill.url)
        folder = a_run("env:GOOD", "env:ILL")
        send_notice(folder.read(), Event.DECISION_GO, key="a")
        ill.status = 200
        send_notice(folder.read(), Event.DECISION_GO, key="a")
        assert (len(good.got), len(ill.got)) == (1, 1)
        again = send_notice(folder.read(), Event.DECISION_GO, key="a", again=True)
        send_notice(folder.read(), Event.DECISION_GO, key="a", again=True)
        assert (len(good.got), len(ill.got)) == (1, 2)
        assert [d.said for d in again.deliveries] == ["notified before", ""]
        send_notice(folder.read(), Event.DECISION_GO, key="b")
        assert len(good.got) == 2


def test_what_is_wrong_says_whom_to_call_and_what_it_means(monkeypatch: pytest.MonkeyPatch) -> None:
    with Listener() as good:
        monkeypatch.setenv("GOOD", good.url)
        folder = a_run("env:GOOD")
        put(folder, "20")
        put(folder, "22", "count_mismatch")
        notices.run_stopped(folder.read(), NoGo(ReasonCode.NO_GO, "one chunk is missing"), print)
        notices.run_stopped(folder.read(), NoGo(ReasonCode.NO_GO, "one chunk is missing"), print)
    [(_, body)] = good.got
    text = str(body["message"])
    assert body["title"] == "books: NO-GO"
    assert body["type"] == "failure"
    parts = [
        "one chunk is missing", "clients stay with", "Escalation: level 3 now", "Level 2, from 30 min", "Ada 555",
        "Level 4, on a rollback trigger", "Cy 777", "War room: https://call", "Run night", " UTC", "runbook status night",
    ]  # fmt: skip
    for part in parts:
        assert part in text, part


def test_before_the_night_and_in_a_dry_run_nobody_is_told_of_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Listener() as good:
        monkeypatch.setenv("GOOD", good.url)
        folder = a_run("env:GOOD", before=[["true"]])
        notices.run_stopped(folder.read(), NoGo(ReasonCode.NO_GO, "in the dry run"), print)
        notices.before_step(folder.read(), plan.find("20"), print, dry_run=True)
        assert good.got == []
    said = capsys.readouterr().out
    assert "DRY RUN: notify.before would run true" in said
    assert "this would be sent to env:GOOD" in said
    assert "What it means for you" in said
    assert not (folder.workspace / "notify.json").exists()


def test_people_are_told_of_the_decision_then_of_the_signatures_and_the_text_is_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    people = Signers(tmp_path / "keys")
    with Listener() as good:
        monkeypatch.setenv("GOOD", good.url)
        folder = small_run("night-1", people, notify={"urls": ["env:GOOD"]})
        notices.after_step(folder.read(), plan.find("24"), None, print)
        notices.before_step(folder.read(), plan.find("25"), print)  # nobody has signed: nothing to say
        evidence.keep_sealed(folder.read())
        for role in people.roles:
            people.sign_any(folder.reports, role)
        notices.before_step(folder.read(), plan.find("25"), print)
        notices.before_step(folder.read(), plan.find("25"), print)  # after a kill
    decided, signed = read(folder.reports)
    assert good.subjects == ["night: decision GO, waiting for signatures", "night: GO signed, the cutover begins"]
    assert (decided.event, signed.event) == ("decision GO", "signed")
    assert "once these have signed: operations_lead, dba, security." in decided.text
    assert all(f"{role} ({role}@example.org)" in signed.text for role in people.roles)


def test_a_rollback_says_its_beginning_and_sends_its_own_notice_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    with Listener() as good:
        monkeypatch.setenv("GOOD", good.url)
        folder = a_run("env:GOOD")
        RollbackState.begin(folder.workspace, folder.id, Orders(why="searches are wrong"))
        (folder.reports / "rollback-notice.txt").write_text(
            "Migration books was rolled back (night)\n\nWhy: searches are wrong\n"
        )
        step = plan.find("27")
        notices.before_step(folder.read(), step, print)
        notices.after_step(folder.read(), step, None, print)
        notices.after_step(
            folder.read(), step, EnvironmentFailure(ReasonCode.SOURCE_DAMAGED, "two chunks differ"), print
        )
    assert good.subjects == ["books: rollback begins", "books: rolled back", "books: the rollback has stopped"]
    texts = [str(body["message"]) for _, body in good.got]
    assert "searches are wrong" in texts[0]
    assert "level 4" in texts[0]
    assert "Migration books was rolled back (night)" in texts[1]
    assert "two chunks differ" in texts[2]


def test_a_rehearsal_is_marked_and_tells_nobody_of_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    silent = a_run(run_id="silent", rehearsal=True)
    assert send_notice(silent.read(), Event.START).deliveries == []
    with Listener() as good:
        monkeypatch.setenv("GOOD", good.url)
        send_notice(a_run("env:GOOD", run_id="loud", rehearsal=True), Event.START)
    assert good.subjects == ["REHEARSAL: books: the migration begins"]


def test_a_notice_that_cannot_even_be_written_down_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with Listener() as good:
        monkeypatch.setenv("GOOD", good.url)
        folder = a_run("env:GOOD")
        (folder.reports / "notices.jsonl").mkdir()
        said: list[str] = []
        notices.before_step(folder.read(), plan.find("20"), said.append)
    assert any("was not sent" in line for line in said)
    (folder.workspace / "notify.json").write_text("{")
    notices.before_step(folder.read(), plan.find("20"), said.append)
    assert "The run goes on." in said[-1]


# -- the commands around the night -------------------------------------------------------------------------------------


def append(path: Path, text: str, code: int = 0) -> list[str]:
    return [sys.executable, "-c", f"import sys; open({str(path)!r}, 'a').write({text!r}); sys.exit({code})"]


def test_commands_run_once_each_and_those_after_only_where_those_before_were_begun(tmp_path: Path) -> None:
    file = tmp_path / "done"
    folder = a_run(before=[append(file, "a", 3), append(file, "b")], after=[append(file, "c"), ["no-such-program"]])
    said: list[str] = []
    CommandHooks(folder.read()).after(said.append)
    assert not file.exists(), "nothing was silenced, so nothing is let through again"
    CommandHooks(folder.read()).before(said.append)
    CommandHooks(folder.read()).before(said.append)
    assert file.read_text() == "ab"
    assert len(CommandHooks(folder.read()).pending) == 2
    CommandHooks(folder.read()).after(said.append)
    CommandHooks(folder.read()).after(said.append)
    assert file.read_text() == "abc"
    assert CommandHooks(folder.read()).pending == []
    assert [line[:7] for line in said] == ["WARNING", "WARNING"]
    assert "exit code 3" in said[0]
    assert "no-such-program" in said[1]
    outcomes = [
        (e["action"], e["outcome"]) for e in audit.entries(folder.reports / audit.NAME)[1:] if e["outcome"] != "begun"
    ]
    assert outcomes == [
        ("notify.before", "failed"), ("notify.before", "done"), ("notify.after", "done"), ("notify.after", "failed"),
    ]  # fmt: skip
    CommandHooks(folder.read()).before(said.append)
    assert (file.read_text(), CommandHooks(folder.read()).night) == ("abcab", 2), "a night begun anew is silenced anew"


def test_after_a_kill_only_the_command_in_hand_is_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "done"
    folder = a_run(before=[append(file, "a"), append(file, "b"), append(file, "c")], after=[append(file, "z")])
    saves = 0

    def killed(self: CommandHooks, state: object) -> None:
        nonlocal saves
        saves += 1
        if saves == 3:  # the second command has ended, and nothing says so
            raise KeyboardInterrupt
        save(self, state)  # type: ignore[arg-type]

    save = CommandHooks._save
    monkeypatch.setattr(CommandHooks, "_save", killed)
    with pytest.raises(KeyboardInterrupt):
        CommandHooks(folder.read()).before(print)
    monkeypatch.setattr(CommandHooks, "_save", save)
    CommandHooks(folder.read()).before(print)
    assert file.read_text() == "abbc"
    CommandHooks(folder.read()).after(print)
    assert file.read_text() == "abbcz"


def test_the_end_is_told_also_where_the_run_was_killed_behind_its_last_step(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "done"
    with Listener() as good:
        monkeypatch.setenv("GOOD", good.url)
        folder = a_run("env:GOOD", after=[append(file, "z")])
        CommandHooks(folder.read()).before(print)
        for step in plan.LINE:
            put(folder, step.number)
        notices.pipeline_ended(folder.read(), [], None, print)
        notices.pipeline_ended(folder.read(), [], None, print)
    assert good.subjects == ["books: the migration has ended"]
    assert file.read_text() == "z"


def test_what_a_kill_kept_from_being_told_is_told_when_the_line_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    with Listener() as good:
        monkeypatch.setenv("GOOD", good.url)
        folder = a_run("env:GOOD")
        for step in plan.LINE:
            put(folder, step.number, **({"decision": "GO"} if step.number == "24" else {}))
        notices.pipeline_ended(folder.read(), [], None, print)
        assert good.subjects == ["books: the migration has ended"], "of a night whose start nobody was told of"
        other = a_run("env:GOOD", run_id="other")
        notices.before_step(other.read(), plan.find("20"), print)
        for step in plan.LINE:
            put(other, step.number, **({"decision": "GO"} if step.number == "24" else {}))
        notices.pipeline_ended(other.read(), [], None, print)
        notices.pipeline_ended(other.read(), [], None, print)
    told = [subject.removeprefix("books: ") for subject in good.subjects[1:]]
    assert told == [
        "the migration begins",
        "decision GO, waiting for signatures",
        "cut over",
        "the migration has ended",
    ]


class Mailbox:
    """A mail server of one mail, on loopback."""

    def __init__(self) -> None:
        self.mail = b""
        outer = self

        class Session(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                self.wfile.write(b"220 here\r\n")
                while line := self.rfile.readline():
                    if line.upper().startswith(b"DATA"):
                        self.wfile.write(b"354 go on\r\n")
                        while (text := self.rfile.readline()) not in (b".\r\n", b""):
                            outer.mail += text
                    self.wfile.write(b"221 bye\r\n" if line.upper().startswith(b"QUIT") else b"250 ok\r\n")

        self.server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Session)
        self.server.daemon_threads = True
        self.url = (
            f"mailto://127.0.0.1:{self.server.server_address[1]}/?from=a@example.org&to=b@example.org&mode=insecure"
        )
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def test_a_mail_is_plain_text_so_that_names_in_it_are_no_markup() -> None:
    box, hostile = (
        Mailbox(),
        "NO-GO: collection <img src=http://evil/track><a href=http://evil>Sign here</a>\n\nsecond line",
    )
    order = {
        "urls": [box.url],
        "title": "t",
        "body": hostile,
        "kind": "failure",
        "attach": "",
        "seconds": 20,
        "trusted": "",
    }
    try:
        done = subprocess.run([sys.executable, "-I", sender.__file__], input=json.dumps(order), text=True,
                              capture_output=True, check=True)  # fmt: skip
    finally:
        box.server.shutdown()
        box.server.server_close()
    assert json.loads(done.stdout.splitlines()[-1])["error"] == ""
    parts = [
        part
        for part in email.message_from_bytes(box.mail, policy=email.policy.default).walk()
        if not part.is_multipart()
    ]
    assert [part.get_content_type() for part in parts] == ["text/plain"]
    assert hostile in parts[0].get_content().replace("\r\n", "\n")


@pytest.mark.parametrize(
    "chat", ["mmost://{}/hook", "nctalk://u:p@{}/room", "misskey://token@{}", "humhub://token@{}/1"]
)
def test_names_in_a_notice_call_nobody_and_make_no_link_in_a_chat(chat: str) -> None:
    """Services that render Markdown get the same words, with nothing that they would act on."""
    body = "NO-GO: collection x [Sign](https://evil/s) @all @**all** @everyone <!channel> dana@example.org www.evil.org"
    with Listener() as room, Listener() as tool:
        urls = [chat.format(room.url.split("/")[2]), tool.url]
        order = {
            "urls": urls,
            "title": "t",
            "body": body,
            "kind": "failure",
            "attach": "",
            "seconds": 20,
            "trusted": "",
        }
        subprocess.run([sys.executable, "-I", sender.__file__], input=json.dumps(order), text=True, check=True)
        shown, kept = json.dumps(room.got[0][1], ensure_ascii=False), tool.got[0][1]["message"]
    assert kept == body
    assert body in shown.replace("\u200b", "")
    for active in ("](", "@all", "@*", "@everyone", "@example", "<!", "https://evil", "www.evil"):
        assert active not in shown


def test_a_bare_host_makes_no_link() -> None:
    """Telegram and others make a link of a name alone, and a collection can have the name of a host."""
    foreign = ("evil.example.com/login", "t.me/x", "T.ME", "www.x", "evil\u3002com", "a.xn--p1ai", "login.acme.example",
               "evil.com.json", "evil.com/login.json", "t.me-x")  # fmt: skip
    parameters = parameters_from({
        "name": "acme.search", "source": {"url": "http://chroma.acme.example:8000"}, "target": {"path": "data.new/chroma"},
        "collections": {"include": ["evil.example.com", "t.me"]}, "contacts": {"channel": "ops.acme.example"},
    })  # fmt: skip
    own = trusted_text(parameters, "acme.search-2026-12-01")
    for text in foreign:
        assert re.search("[.\u3002]\u200b", sender._inert(text, own)), text
    kept = ("9,832 chunks, 1.5.9, 0.6.dev19, 12.5 s, 10.0.0.5, e.g. chroma.sqlite3 and run.json, a.jsonl, b.html; window.start, "
            "contacts.channel, chroma.acme.example:8000, ops.acme.example, data.new/chroma, acme.search-2026-12-01")  # fmt: skip
    assert sender._inert(kept, own) == kept
    assert sender._inert("contacts.channel", "") != "contacts.channel", "what is ours is known by being said so"


def test_a_redirect_of_a_webhook_is_not_followed_with_its_secrets() -> None:
    with Listener() as other, Listener(leads_to=other.url.replace("json:", "http:")) as hook:
        secret = f"{hook.url}?+X-Api-Token={TOKEN}"
        order = {
            "urls": [secret, other.url],
            "title": "t",
            "body": "b",
            "kind": "info",
            "attach": "",
            "seconds": 20,
            "trusted": "",
        }
        sent = subprocess.run(
            [sys.executable, "-I", sender.__file__], input=json.dumps(order), text=True, check=True, capture_output=True
        )
        said = {answer["number"]: answer["error"] for answer in map(json.loads, sent.stdout.splitlines())}
        assert said == {
            0: "answered 307 Temporary Redirect, which is not followed: give the address that it leads to",
            1: "",
        }
        assert (hook.asked, other.asked) == (1, 1), "the other one was asked by its own address only"

"""A whole night by the command: who is told what, in which order, and that no token is left anywhere."""

from __future__ import annotations

import datetime as dt
import sys
from pathlib import Path

import pytest

from helpers.evidence import secret_scan
from helpers.notify import read
from tests.commands import Runbook
from tests.listeners import TOKEN, Listener
from tests.signers import Signers
from tests.storage import chunks, embedded, fill

pytestmark = pytest.mark.slow


def mark(file: Path, text: str) -> list[str]:
    return [sys.executable, "-c", f"open({str(file)!r}, 'a').write({text!r})"]


def test_announcement_start_go_cutover_end_and_the_rollback_arrive_in_order(tmp_path: Path) -> None:
    with embedded(tmp_path / "source") as store:
        fill(store, "alpha", chunks(40, 4))
    (tmp_path / ".env").write_text("CHROMA_PATH=old\n")
    people, runbook, done = Signers(tmp_path / "keys"), Runbook(tmp_path), tmp_path / "around"
    start = dt.datetime.now(dt.UTC) - dt.timedelta(minutes=1)
    more = people.parameter("dry_run: [dba]") + (
        f"window: {{start: '{start.isoformat(timespec='seconds')}', minutes: 120}}\n"
        "notify:\n  urls: ['env:GOOD', 'env:DEAD']\n  timeout_seconds: 3\n  stakeholders: [Web team]\n"
        f"  before: [{mark(done, 'b')}]\n  after: [{mark(done, 'a')}]\n"
        "cutover: {monitor_minutes: 0.02, env_files: [{path: .env, keys: {CHROMA_PATH: '{target_path}'}}]}\n"
        "rollback: {monitor_minutes: 0.02}\n"
        "monitoring: {minutes: 0.05, interval_seconds: 1, level_seconds: 0.6, repetitions: 2}\n"
    )
    file = runbook.write("night", "path: source", "path: target", more)
    with Listener() as good, Listener(hang=60) as dead:
        given = {"GOOD": good.url, "DEAD": dead.url}
        first = runbook("run", file, "--run-id", "one", environment=given)
        assert first.returncode == 4, first.stdout + first.stderr
        assert good.subjects[0].startswith("night: database migration, maintenance window")
        assert "--gate dry-run" in first.stderr, "the approvals are due behind step 14"
        assert not done.exists()
        assert runbook("sign", "one", *people.command("dba"), "--gate", "dry-run", environment=given).returncode == 0
        second = runbook("resume", "one", environment=given)
        assert second.returncode == 4, second.stdout + second.stderr
        assert done.read_text() == "b"
        assert good.subjects[-1] == "night: decision GO, waiting for signatures"
        assert "once these have signed: operations_lead, dba, security." in str(good.got[-1][1]["message"])
        for role in ("operations_lead", "dba", "security"):
            assert runbook("sign", "one", *people.command(role), environment=given).returncode == 0
        third = runbook("resume", "one", environment=given)
        assert third.returncode == 0, third.stdout + third.stderr
        assert "Notice 'cutover': 1 of 2 channels took it; env:DEAD failed (no answer within 3 seconds)" in third.stdout
        told = [s.removeprefix("night: ") for s in good.subjects]
        decided, signed = "decision GO, waiting for signatures", "GO signed, the cutover begins"
        assert told[1:] == ["the migration begins", decided, signed, "cut over", "the migration has ended"]
        assert done.read_text() == "ba"
        back = runbook("rollback", "one", "--why", "drill", environment=given)
        assert back.returncode == 0, back.stdout + back.stderr
        assert [s.removeprefix("night: ") for s in good.subjects[6:]] == ["rollback begins", "rolled back"]
        assert "Migration night was rolled back (one)" in str(good.got[-1][1]["message"])
        assert done.read_text() == "ba", "they had run; nothing was silenced since"
        kept_texts = {e.event: (e.subject, e.text) for e in read(tmp_path / "reports" / "one") if e.text}
        sent = {str(got["title"]): str(got["message"]).strip() for _, got in good.got}
        assert sorted(kept_texts) == [
            "announcement", "cutover", "decision GO", "end", "rollback begins", "rollback ends", "signed", "start",
        ]  # fmt: skip
        assert {subject: text.strip() for subject, text in kept_texts.values()} == sent
        assert all(f"{role} (" in kept_texts["signed"][1] for role in ("operations_lead", "dba", "security"))
        verified = runbook("verify", "one", environment=given)
        assert verified.returncode == 0, verified.stdout + verified.stderr
    outputs = "".join(r.stdout + r.stderr for r in (first, second, third, back)).encode()
    kept = [p.read_bytes() for home in ("reports", "workspace") for p in (tmp_path / home).rglob("*") if p.is_file()]
    needles = [needle for _, needle in secret_scan.byte_encodings(TOKEN)]
    assert [n for n in needles for data in [outputs, *kept] if n in data] == []
    page = (tmp_path / "reports" / "one" / "index.html").read_text(encoding="utf-8")
    assert "<td>env:DEAD</td><td>failed: no answer within 3 seconds</td>" in page


def test_a_no_go_is_told_and_what_was_silenced_is_heard_again_when_the_run_stands_down(tmp_path: Path) -> None:
    with embedded(tmp_path / "source") as store:
        fill(store, "alpha", chunks(40, 4))
    runbook, done = Runbook(tmp_path), tmp_path / "around"
    more = (
        f"notify: {{urls: ['env:GOOD'], before: [{mark(done, 'b')}], after: [{mark(done, 'a')}]}}\n"
        "contacts: {on_call: Cy 777, dba: Ada 555}\nrollback: {monitor_minutes: 0.02}\nsignoff: {required: []}\n"
    )
    file = runbook.write("night", "path: source", "path: target", more)
    with Listener() as good:
        given = {"GOOD": good.url}
        stood = runbook("run", file, "--run-id", "one", "--until", "22", environment=given)
        assert stood.returncode == 0, stood.stdout + stood.stderr
        assert done.read_text() == "ba", "--until stands down"
        with embedded(tmp_path / "target") as store:
            store.delete("alpha", ["c7"])
        held = runbook("run", "--run-id", "one", "--from", "23", environment=given)
        assert held.returncode == 3, held.stdout + held.stderr
        assert good.subjects[-1] == "night: NO-GO"
        text = str(good.got[-1][1]["message"])
        assert "Escalation: level 1 now" in text
        assert "papermill notebooks/48_count_mismatch.ipynb" in text
        assert runbook("verify", "one", environment=given).returncode == 0

"""Step 14: the window against the dry run, the invitation, the announcement, and the checklist of who was told."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import icalendar
import pytest

from helpers import evidence
from helpers.errors import UsageError
from helpers.formatting import moment
from helpers.notify import Event, render
from helpers.parameters import parameters_from
from helpers.results import Check, StepResult, Verdict
from helpers.run import folders as runs
from helpers.run import plan
from helpers.run.folders import RunFolder
from helpers.run.record import RunRecord
from helpers.run.window import Hours, WindowEstimate
from helpers.steps.schedule_and_notify import ScheduleAndNotifyStep, invitation
from tests.listeners import Listener
from tests.signers import vouch

START = dt.datetime(2025, 12, 1, 2, tzinfo=dt.UTC)
DAY_BEFORE = START - dt.timedelta(hours=25)
WINDOW = {"start": START.isoformat(), "minutes": 120, "buffer_minutes": 30, "blackout": "No frontend deployments"}
ESTIMATE = {
    "21 snapshot": 600.0,
    "22 transform and validate": 1200.0,
    "22 import": 1800.0,
    "23 validation suite": 600.0,
}

pytestmark = pytest.mark.usefixtures("own_folders")


def a_run(estimate: dict[str, float] | None = None, *, rehearsal: bool = False, **sections: Any) -> RunFolder:
    given = {"name": "books", "source": {"path": "old"}, "target": {"path": "new"}, "window": WINDOW, **sections}
    folder = runs.create(parameters_from(given), "night", rehearsal=rehearsal)
    result = StepResult("13", "", "night", START.isoformat(), START.isoformat())
    rows = ESTIMATE if estimate is None else estimate
    result.facts = {
        "estimate": [*({"part": p, "seconds": s, "basis": "measured"} for p, s in rows.items()),
                     {"part": "sum", "seconds": sum(rows.values()), "basis": ""}],
        "matrix_inputs": {"chunks": 9832},
    }  # fmt: skip
    result.write(folder.reports / "results" / "13.json")
    return folder


def desk(folder: RunFolder, now: dt.datetime = DAY_BEFORE, *, dry_run: bool = False) -> ScheduleAndNotifyStep:
    return ScheduleAndNotifyStep(RunRecord(folder.read(), "14", dry_run=dry_run), now)


def check(found: ScheduleAndNotifyStep, name: str) -> Check:
    return next(c for c in found.run.result.checks if c.name == name)


def test_a_night_that_fits_says_how_much_is_left_and_when_a_rollback_must_begin() -> None:
    found = desk(a_run())
    table = found.fits()
    assert list(table["part of the migration"]) == [*ESTIMATE, "27 rollback, at the latest"]
    assert list(table["from"])[:2] == ["02:00:00", "02:10:00"]
    assert tuple(table.iloc[-1][["from", "to"]]) == ("03:00:00", "04:00:00")
    assert check(found, "time needed in the window").verdict is Verdict.WARNING, (
        "70 min of work, 60 min back: 10 too many"
    )


@pytest.mark.parametrize(
    ("factor", "verdict"),
    [(0.5, Verdict.PASS), (0.92, Verdict.PASS), (0.93, Verdict.WARNING), (1.15, Verdict.WARNING), (1.16, Verdict.FAIL)],
)
def test_the_way_back_counts_and_only_the_buffer_may_be_used_up(factor: float, verdict: Verdict) -> None:
    """130 minutes with a rollback behind the work: the window has 120, its buffer 30."""
    found = desk(a_run({name: seconds * factor for name, seconds in ESTIMATE.items()}))
    found.fits()
    told = check(found, "time needed in the window")
    assert told.verdict is verdict
    assert ("; most for 22 import, " in told.detail) is (verdict is not Verdict.PASS), "a warning names its cause"


def test_what_the_parameters_let_the_night_wait_for_counts_too() -> None:
    sections: dict[str, Any] = {
        "source": {"url": "http://old:8000"}, "fence": {"kind": "command", "command": {"lock": ["a"], "unlock": ["b"]}},
        "cutover": {"restart": [["x"], ["y"]], "health": ["http://app/health"], "monitor_minutes": 5},
    }  # fmt: skip
    estimate = WindowEstimate.of(
        a_run(**sections).read().parameters, [{"part": "21 snapshot", "seconds": 1, "basis": ""}]
    )
    assert [(p.name, p.seconds) for p in estimate.parts] == [
        ("20 fence", 60.0), ("21 snapshot", 1.0), ("25 restart and health", 180.0), ("25 watch", 300.0),
    ]  # fmt: skip


def test_without_a_window_or_channels_there_is_nothing_to_do() -> None:
    folder = runs.create(parameters_from({"name": "n", "source": {"path": "s"}, "target": {"path": "t"}}), "night")
    found = desk(folder)
    found.window()
    found.fits()
    assert "no time has been fixed" in found.announcement()
    assert "nothing to invite" in found.invitation()
    found.commands()
    assert found.send().empty
    assert found.checklist().empty
    verdicts = {c.name: c.verdict for c in found.run.result.checks}
    assert verdicts.pop("contacts without a name") is Verdict.WARNING
    assert set(verdicts.values()) == {Verdict.NOT_EXERCISED}
    assert not (folder.reports / "notices.jsonl").exists()


def test_a_window_needs_the_dry_run_and_says_so_in_one_line() -> None:
    folder = runs.create(
        parameters_from({"name": "n", "source": {"path": "s"}, "target": {"path": "t"}, "window": WINDOW}), "night"
    )
    with pytest.raises(UsageError, match=r"13_dry_run\.ipynb"):
        desk(folder).fits()


def test_a_window_that_has_passed_and_a_late_announcement_are_told() -> None:
    late = desk(a_run(notify={"stakeholders": ["Web team"]}), START - dt.timedelta(hours=3))
    late.window()
    assert check(late, "notice before the window").reason == "late_notice"
    over = ScheduleAndNotifyStep(late.run, START + dt.timedelta(days=1))
    over.run.result.checks.clear()
    over.window()
    assert check(over, "maintenance window").reason == "outside_window"


def test_the_announcement_is_the_runbooks_template_filled_in() -> None:
    notify = {"stakeholders": ["Web team", "Security"], "impact": "Slower answers.", "affected": ["Semantic search"]}
    found = desk(a_run(notify=notify, contacts={"operations_lead": "Lee 111", "war_room": "https://call"}))
    text = found.announcement()
    assert text.startswith("Subject: books: database migration, maintenance window 2025-12-01 02:00-04:00 UTC\n")
    for part in ("Blackout: No frontend deployments", "Impact:   Slower answers.", "- Semantic search", "9,832 chunks",
                 "Rollback plan", "no action is required", "Web team, Security", "Questions: Lee 111",
                 "War room: https://call", "2025-12-01 01:30:00 UTC", "operations_lead, dba, security sign"):  # fmt: skip
        assert part in text, part
    assert (found.run.folder / "announcement.txt").read_text(encoding="utf-8") == text


def test_the_invitation_is_read_by_a_calendar_and_has_the_same_bytes_each_time() -> None:
    folder = a_run(contacts={"war_room": "https://call"})
    parameters, hours = folder.read().parameters, Hours.of(folder.read().parameters)
    assert hours is not None
    data = invitation(folder.read(), parameters, hours)
    assert data == invitation(folder.read(), parameters, hours)
    [entry] = icalendar.Calendar.from_ical(data).walk("VEVENT")
    assert (entry.decoded("dtstart"), entry.decoded("dtend")) == (hours.start, hours.end)
    [alarm] = entry.walk("VALARM")
    assert entry.decoded("dtstart") + alarm.decoded("trigger") == hours.opens
    assert f"begins at {moment(entry.decoded('dtstart'))}" in str(alarm["description"]), "the time of the entry itself"
    assert str(entry["uid"]) == "night@chroma-migration-runbook"
    assert entry.decoded("dtstamp") == dt.datetime.fromisoformat(folder.read().facts["created"]).replace(microsecond=0)
    assert (entry.decoded("sequence"), str(entry["location"])) == (0, "https://call")
    moved = parameters_from({**parameters.document(), "window": {**WINDOW, "start": "2025-12-02T02:00:00Z"}})
    runs.change_parameters(folder, moved)
    later = Hours.of(moved)
    assert later is not None
    [again] = icalendar.Calendar.from_ical(invitation(folder.read(), moved, later)).walk("VEVENT")
    assert (str(again["uid"]), again.decoded("sequence")) == (str(entry["uid"]), 1), "the same meeting, moved"


def test_the_checklist_says_who_was_told_by_which_channel_and_what_is_left_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    notify = {"urls": ["env:GOOD", "env:GONE"], "timeout_seconds": 2, "stakeholders": ["Web team", "Security"],
              "by_hand": ["Status page: enter the window"]}  # fmt: skip
    folder = a_run(notify=notify)
    with Listener() as good:
        monkeypatch.setenv("GOOD", good.url)
        monkeypatch.delenv("GONE", raising=False)
        found = desk(folder)
        found.announcement()
        sent = found.send()
        assert list(sent["result"]) == ["delivered", "failed"]
        again = desk(folder)
        again.send()
        assert len(good.got) == 1, "the announcement of a window goes out once"
    [(_, body)] = good.got
    assert "maintenance window 2025-12-01 02:00-04:00 UTC" in body["title"]
    assert check(found, "announcement").reason == "notice_failed"
    assert "env:GONE failed" in check(found, "announcement").detail
    rows = found.checklist()
    assert [tuple(r) for r in rows[["who or what", "channel"]].to_numpy()] == [
        ("Web team", "env:GOOD"), ("Web team", "env:GONE"), ("Security", "env:GOOD"), ("Security", "env:GONE"),
        ("Status page: enter the window", "by hand"),
        ("Alerts: silence them for the window (no command in notify.before does it)", "by hand"),
    ]  # fmt: skip
    assert check(found, "stakeholders").verdict is Verdict.PASS
    assert check(found, "done by hand").reason == "by_hand_open"
    with pytest.raises(UsageError, match="Status page: enter the window"):
        found.done("Status page", by="Ada")
    for item in found._by_hand:
        found.done(item, by="Ada")
    after = desk(folder)
    assert list(after.checklist()["result"])[-2:] == ["done by Ada"] * 2
    assert check(after, "done by hand").verdict is Verdict.PASS


def test_a_dry_run_prints_the_announcement_and_tells_nobody(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Listener() as good:
        monkeypatch.setenv("GOOD", good.url)
        found = desk(a_run(notify={"urls": ["env:GOOD"]}), dry_run=True)
        assert list(found.send()["result"]) == ["dry run"]
        assert good.got == []
    assert "DRY RUN: this would be sent to env:GOOD" in capsys.readouterr().out
    assert "--from 14" in check(found, "announcement").detail
    assert check(found, "announcement").verdict is Verdict.NOT_EXERCISED


def test_contacts_that_nobody_named_and_programs_that_are_not_there_are_warnings(
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = a_run(
        contacts={"dba": "<name and phone>"},
        notify={"before": [["no-such-program", "x"]], "stakeholders": ["Web team"]},
    )
    found = desk(folder)
    found.commands()
    found.checklist()
    assert check(found, "commands around the migration").reason == "program_missing"
    keys = [f"contacts.{key}" for key in ("dba", "channel", "on_call", "operations_lead")]
    options = [part for key in keys for part in ("--set", f"{key}=TEXT")]
    said = f"still <…>: contacts.dba; nobody is named: {', '.join(keys[1:])}"
    assert check(found, "contacts without a name").detail == said
    assert f"before step 20: {folder.command('resume', '--retry', '14', *options)}\n" in capsys.readouterr().out
    assert check(found, "stakeholders").reason == "nobody_told"


def test_a_placeholder_is_sent_to_nobody_and_the_resume_that_names_it_sends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither by the announcement nor by a notice of the night; the e-mail address of a person is no placeholder."""
    contacts = {"operations_lead": "Cy <cy@example.org>", "channel": "<link of the channel>", "on_call": "call <phone>"}
    notify = {"urls": ["env:GOOD"], "affected": ["The search", "<what else>"], "impact": "<what users notice>"}
    folder = a_run(contacts=contacts, notify=notify)
    keys = ["contacts.channel", "contacts.on_call", "notify.affected[1]", "notify.impact"]
    assert folder.read().parameters.placeholders() == keys
    with Listener() as good:
        monkeypatch.setenv("GOOD", good.url)
        found = desk(folder)
        assert list(found.send()["result"]) == ["not sent"]
        refused = check(found, "announcement")
        assert (refused.verdict, refused.reason) == (Verdict.FAIL, "nobody_named")
        assert all(key in refused.detail for key in keys)
        assert good.got == []
        for text in (found.announcement(), *render(folder.read(), Event.STOPPED, why="x", critical=True)):
            assert "<" not in text.replace("<cy@example.org>", "")
        assert "Cy <cy@example.org>" in found.announcement()
        named = ["contacts.channel=#night", "contacts.on_call=Bo", "notify.affected=[The search]", "notify.impact=Slow"]
        runs.change_parameters(folder, folder.read().parameters.for_resume(named))
        assert list(desk(folder).send()["result"]) == ["delivered"]
        assert len(good.got) == 1


def test_a_new_dry_run_outdates_the_schedule_and_the_approvals_given_over_it() -> None:
    assert "14" in {s.number for s in plan.outdated_by(plan.find("13"))}
    assert plan.find("14").gate == "dry-run"
    assert plan.LAST_OF_DRY_RUN == "14"


def test_a_file_that_says_something_else_now_leaves_the_old_one_as_history(tmp_path: Path) -> None:
    folder = a_run(contacts={"war_room": "https://call"})
    desk(folder).invitation()
    vouch(folder.reports)
    evidence.at_rest(folder.read())
    desk(folder).invitation()
    assert not (folder.reports / "earlier").exists()
    document = folder.read().parameters.document()
    runs.change_parameters(folder, parameters_from({**document, "window": {**WINDOW, "minutes": 90}}))
    desk(folder).invitation()
    assert len(list((folder.reports / "earlier").glob("*/invitation.ics"))) == 1
    evidence.at_rest(folder.read())

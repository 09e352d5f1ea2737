"""What the page of a run tells about its night: the clock against the window, the path of the decision, the record."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from helpers.cutover.application import DONE, ChangedFile, CutoverState
from helpers.reason_codes import ReasonCode
from helpers.report import RunView, numbers, pages, read_run
from helpers.report.outcome import DecisionNode, decision_tree, outcome
from helpers.report.pages import keep_final, run_page, tiles
from helpers.report.record import deviations, not_exercised, record, status
from helpers.results import Check, Phase, StepResult, Verdict, write_json
from helpers.run.folders import RunState
from tests.test_pages_run import ROLES, Result, cells, keys, make_run, read, result, sign, whole_night

__all__ = ["keys"]  # a fixture: real keys for `sign`

WINDOW = "window: {start: '2025-12-01T02:00:00Z', minutes: 120, buffer_minutes: 30}\n"


def step(number: str, start: str, end: str, **more: Any) -> StepResult:
    """A step between two times of 2025, such as "12-01T02:00:00"."""
    begun, finished = (f"2025-{t}.000+00:00" if t else "" for t in (start, end))
    return Result(number, f"Step {number}", "night-1", begun, finished, Verdict.PASS, **more)


def run(folder: Path, results: list[StepResult], parameters: str = WINDOW, **facts: Any) -> RunView:
    """The view of a run with these results and these lines added to its parameters."""
    make_run(folder, results, **facts)
    with (folder / "parameters.yaml").open("a", encoding="utf-8") as file:
        file.write(parameters)
    return view_of(folder)


def view_of(folder: Path) -> RunView:
    view = read_run(folder)
    view.outcome = outcome(view)
    return view


def answers(nodes: list[DecisionNode]) -> list[tuple[str, str]]:
    return [(node.answer, node.verdict) for node in nodes]


# -- the clock ---------------------------------------------------------------------------------------------------------


def test_the_day_before_and_the_night_are_drawn_apart_each_to_its_scale(tmp_path: Path) -> None:
    view = run(tmp_path / "r", [
        step("10", "11-30T10:00:00", "11-30T10:01:00"), step("13", "11-30T10:02:00", "11-30T10:30:00"),
        step("21", "12-01T02:05:00", "12-01T02:10:00"), step("22", "12-01T02:10:00", "12-01T03:00:00"),
    ])  # fmt: skip
    before, night = pages.sessions(view)
    assert (before.day, [row.number for row in before.rows]) == ("2025-11-30", ["10", "13"])
    assert (night.day, [row.number for row in night.rows]) == ("2025-12-01", ["21", "22"])
    assert before.window is None
    assert night.window is not None
    # 01:30 to 04:30 is drawn, so the window of 2 h is two thirds of the width, and 22 begins at 40 of 180 minutes
    whole = pages.RIGHT - pages.LEFT
    assert night.window.width == pytest.approx(whole * 120 / 180, abs=0.1)
    assert night.rows[1].bar.x == pytest.approx(pages.LEFT + whole * 40 / 180, abs=0.1)
    assert night.rows[1].bar.width == pytest.approx(whole * 50 / 180, abs=0.1)
    assert [label for _, label in night.ticks][:2] == ["01:30", "02:00"]
    assert "step 22 took longest, 50 min 00 s" in night.sentence


@pytest.mark.parametrize(
    ("start", "end", "said", "outside"),
    [
        (
            "12-01T02:00:00",
            "12-01T03:30:00",
            "steps 20 to 25 ended inside it, step 22 with 30 min 00 s to spare",
            False,
        ),
        ("12-01T01:50:00", "12-01T03:30:00", "step 22 began 10 min 00 s before it", True),
        ("12-01T02:10:00", "12-01T04:12:00", "step 22 ended 12 min 00 s after it", True),
    ],
)
def test_the_night_is_measured_against_the_window(
    tmp_path: Path, start: str, end: str, said: str, outside: bool
) -> None:
    view = run(tmp_path / "r", [step("22", start, end)])
    assert said in numbers.window_sentence(view)
    assert bool(numbers.outside_window(view)) is outside
    assert any(said in line for line in deviations(view)) is outside


def test_a_window_of_many_times_the_steps_is_not_drawn_beside_them(tmp_path: Path) -> None:
    view = run(tmp_path / "r", [step("22", "12-01T02:00:00", "12-01T02:10:00")], WINDOW)
    (session,) = pages.sessions(view)
    assert session.window is None
    assert session.rows[0].bar.width == pages.RIGHT - pages.LEFT
    assert "too long to be drawn" in session.sentence


def test_a_step_that_never_ended_and_times_that_are_none(tmp_path: Path) -> None:
    phases = [Phase("import", "2025-12-01T02:01:00+00:00", 120.0, 50), Phase("odd", "no time", 1.0)]
    view = run(tmp_path / "r", [step("22", "12-01T02:00:00", "", phases=phases)], "window: {start: never}\n")
    (session,) = pages.sessions(view)
    assert session.rows[0].took == "not finished"
    assert len(session.rows[0].phases) == 1
    assert session.window is None
    assert numbers.window_sentence(view) == "The parameters name no maintenance window."
    assert pages.sessions(run(tmp_path / "empty", [])) == []


def test_every_bar_stays_in_the_drawing(tmp_path: Path) -> None:
    page = read(run_page(make_run(tmp_path / "r", whole_night())))
    for bar in page.select("svg rect"):
        x, width = float(str(bar["x"])), float(str(bar["width"]))
        assert 0 <= x <= x + width <= pages.WIDTH
        assert width > 0


# -- the decision ------------------------------------------------------------------------------------------------------


def test_the_path_of_a_signed_go(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "r", whole_night())
    waiting = decision_tree(view_of(folder))
    path = [("YES", "pass")] * 3 + [("nothing to accept", "not applicable")]
    assert answers(waiting)[:5] == [*path, ("not yet", "waiting")]
    for role in ROLES:
        sign(folder, role)
    nodes = decision_tree(view_of(folder))
    assert answers(nodes)[:5] == [*path, ("YES", "pass")]
    assert [child.question for child in nodes[4].children] == ["operations lead", "dba", "security"]
    assert [node.verdict for node in nodes[5:]] == ["open", "not taken", "not taken"]
    result("21", checks=[]).write(folder / "results" / "21.json")
    void = decision_tree(view_of(folder))
    assert answers(void)[4] == ("not yet", "waiting")
    assert {child.verdict for child in void[4].children} == {"void"}


def test_checks_that_warn_are_no_simple_pass_in_the_tree(tmp_path: Path) -> None:
    night = whole_night()
    night[3].checks.append(
        Check("fields that contradict their document", Verdict.WARNING, 4, 0, "values", ReasonCode.METADATA_CONTRADICTS)
    )
    folder = make_run(tmp_path / "r", night)
    node = decision_tree(view_of(folder))[2]
    assert (node.question, node.answer, node.verdict) == ("Do all checks pass or warn?", "YES", "warning")
    assert node.why == (
        "1 warned: 3 of 3 tests were asked. Of 1 warning known at the decision, 1 is new here; all are shown to those who sign."
    )
    for role in ROLES:
        sign(folder, role)
    assert decision_tree(view_of(folder))[2].why.endswith(
        "1 is new here; all are shown to dba, operations lead, security, who signed GO."
    )


def test_every_test_is_in_the_tree_with_its_verdict(tmp_path: Path) -> None:
    """Also one that was not exercised beside one that warned."""
    night = whole_night()
    night[3].checks += [
        Check(
            "search equivalence", Verdict.WARNING, 6, 7, "collections", ReasonCode.SEARCH_UNSURE, "docs: no baseline"
        ),
        Check("neighbours judged for recall", Verdict.NOT_EXERCISED, 700, 1260, "neighbours", detail="of 140 queries"),
        Check("named queries", Verdict.NOT_APPLICABLE, detail="none is named"),
    ]
    nodes = decision_tree(view_of(make_run(tmp_path / "r", night)))
    said = " ".join(child.why for child in nodes[2].children)
    for check in night[3].checks:
        assert f"{check.name} ({check.verdict})" in said
    known = f"{len(night[3].checks) - 2} of {len(night[3].checks)} tests were asked, 1 not exercised, 1 not applicable"
    assert nodes[0].why.startswith(known)
    assert f"1 warned: {known}." in nodes[2].why


def test_the_path_of_a_no_go_and_of_one_by_sign_off(tmp_path: Path) -> None:
    nodes = decision_tree(view_of(make_run(tmp_path / "r", whole_night(Verdict.FAIL))))
    assert answers(nodes)[2] == ("NO", "fail")
    assert nodes[2].children[0].why == "embeddings (fail): vector differs: 1"
    assert [node.verdict for node in nodes[3:6]] == ["not taken"] * 3
    assert nodes[6].verdict == "open"
    signed = make_run(tmp_path / "s", whole_night())
    sign(signed, "security", "no-go", reason="key not rotated")
    nodes = decision_tree(view_of(signed))
    assert answers(nodes)[4] == ("NO", "fail")
    assert [node.verdict for node in nodes[5:7]] == ["not taken", "open"]


def test_marginal_waits_for_names_and_a_stopped_run_reaches_nothing(tmp_path: Path) -> None:
    night = whole_night()
    night[-1].facts["accept"] = ["named queries"]
    nodes = decision_tree(view_of(make_run(tmp_path / "r", night)))
    assert (answers(nodes)[3], nodes[3].why) == (("not yet", "waiting"), "Marginal: named queries.")
    error = {"code": "disk_full", "type": "Terminal", "line": "disk is full"}
    stopped = decision_tree(view_of(make_run(tmp_path / "s", [result("22", Verdict.FAIL, error=error)])))
    assert stopped[0].why == "Stopped at step 22 (Migrate): failed."
    assert {node.verdict for node in stopped[1:]} == {"not reached"}


def test_a_rollback_comes_before_everything_else_that_the_page_says(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "r", cut_over(whole_night()))
    for role in ROLES:
        sign(folder, role)
    assert view_of(folder).outcome.headline == "CUT OVER"
    result("27", facts={"dry_run": True}).write(folder / "results" / "27.json")
    assert view_of(folder).outcome.headline == "CUT OVER"
    error = {"code": "source_changed", "type": "EnvironmentFailure", "line": "clients wrote to the target. Decide."}
    result("27", Verdict.FAIL, error=error, facts={"dry_run": False}).write(folder / "results" / "27.json")
    half = view_of(folder).outcome
    assert (half.kind, half.headline) == ("failed", "ROLLBACK NOT FINISHED")
    assert half.next == ["Go on with: .venv/bin/runbook rollback r"]
    result("27", facts={"dry_run": False}).write(folder / "results" / "27.json")
    back = view_of(folder)
    assert back.outcome.headline == "ROLLED BACK: the source is in service"
    assert back.outcome.reasons[0] == "Before that: CUT OVER."
    assert [node.verdict for node in decision_tree(back)[5:]] == ["pass", "not taken", "pass"]
    assert status(back)[0] == "ROLLED BACK"
    assert read(run_page(folder)).select_one(".banner.warning") is not None


def test_new_names_of_collections_are_an_act_that_is_due_and_what_nobody_tried_is_counted(tmp_path: Path) -> None:
    routing = [{"collection": c, "target": t, "chunks": 3} for c, t in (("a", "all"), ("b", "all"), ("same", "same"))]
    night = [r for r in cut_over(whole_night()) if r.step != "22"]
    folder = make_run(
        tmp_path / "r", [*night, result("22", facts={"routing": routing})], rehearsal=True, drills=["restore in 2 s"]
    )
    for role in ROLES:
        sign(folder, role)
    view = view_of(folder)
    due = [line for line in view.outcome.next if "another name in the target" in line]
    assert len(due) == 1
    assert "in the target: 2 (see “What clients ask instead”)" in due[0]
    page = read(run_page(folder))
    tile = next(t for t in page.select(".tile") if t.get_text().startswith("Not exercised"))
    listed = page.select("#not-exercised li")
    assert tile.select_one(".value").get_text() == str(len(listed))  # type: ignore[union-attr]
    reads = [item for item in listed if "Reads of clients" in item.get_text()]
    assert len(reads) == (1 if view.ran("20") else 0)


def test_a_rehearsal_that_drilled_the_way_back_stays_a_go(tmp_path: Path) -> None:
    night = [*cut_over(whole_night()), result("27", facts={"dry_run": False})]
    folder = make_run(tmp_path / "r", night, rehearsal=True, drills=["restore of 400 chunks in 2 s", "rollback in 3 s"])
    for role in ROLES:
        sign(folder, role)
    switched = (
        "The sample application of this rehearsal was switched to db2: 1 configuration file changed. "
        "No other client was touched."
    )
    view = view_of(folder)
    assert view.outcome.headline == "REHEARSED: sample application cut over and rolled back; drilled: restore, rollback"
    assert view.outcome.reasons[0] == (
        f"{switched} The rollback was a drill that was not put back: the sample application uses the source again."
    )
    assert len(view.outcome.reasons) == 1
    assert view.drills == ["restore of 400 chunks in 2 s", "rollback in 3 s"]
    page = read(run_page(folder))
    listed = page.select("section[aria-labelledby=drills] li")
    assert [item.get_text() for item in listed] == view.drills, "behind the figures, with a heading of their own"
    assert page.select_one("nav a[href='#drills']") is not None
    drill = {"drill": "rollback", "ended": "2025-12-01T03:20:00+00:00", "put_back": {"compared": {"a": 3}}}
    write_json(folder / "drills" / "rollback.json", drill)
    view = view_of(folder)
    assert view.outcome.headline == "REHEARSED: sample application cut over; drilled: restore, rollback"
    told = f"{switched} The rollback was a drill and was put back at 2025-12-01 03:20:00 UTC: the cutover remains in effect."
    assert (view.outcome.reasons[0], status(view)) == (told, ("REHEARSED", told))


@pytest.mark.parametrize(
    ("more", "rehearsal", "headline", "said"),
    [
        ({}, False, "MIGRATED, no clients switched", "No clients were switched to db2: no configuration file was changed"),
        ({"files": ["a", "b"], "restarts": 1}, False, "CUT OVER",
         "The application was switched to db2: 2 configuration files changed, 1 restart command run."),
        ({"restarts": 1}, True, "SAMPLE APPLICATION CUT OVER",
         "The sample application of this rehearsal was switched to db2: 1 restart command run. No other client was touched."),
        ({}, True, "MIGRATED, no clients switched", "No clients were switched to db2: no configuration file was changed"),
    ],
)  # fmt: skip
def test_who_was_switched_is_one_sentence_everywhere(
    tmp_path: Path, more: dict[str, Any], rehearsal: bool, headline: str, said: str
) -> None:
    night = [
        *whole_night(),
        result("25", facts={"cut_over": {"when": "2025-12-01T02:59:00+00:00", "target": "db2", **more}}),
    ]
    folder = make_run(tmp_path / "r", night, rehearsal=rehearsal)
    for role in ROLES:
        sign(folder, role)
    view = view_of(folder)
    assert view.outcome.headline == headline
    assert view.outcome.reasons[0].startswith(said)
    assert status(view)[1].startswith(said)
    page = read(run_page(folder))
    banner, record = page.select_one(".banner"), page.find(id="record")
    assert banner is not None
    assert record is not None
    paragraph = record.find_next("p")
    assert paragraph is not None
    assert said in banner.get_text()
    assert said in paragraph.get_text()
    rules: dict[str, Any] = {"restart": [["app", "restart"]] * more.get("restarts", 0)}
    files = [ChangedFile(name, name, "", "", "", 0, 0, 0) for name in more.get("files", [])]
    state = CutoverState(DONE, "db2", files=files, rules=rules)
    assert state.clients(rehearsal=rehearsal).startswith(said), "what notices and status say"


# -- the record --------------------------------------------------------------------------------------------------------


def cut_over(night: list[StepResult]) -> list[StepResult]:
    return [
        *night,
        result("25", facts={"cut_over": {"when": "2025-12-01T02:59:00+00:00", "target": "db2", "files": ["a"]}}),
    ]


def test_success_is_said_only_when_everything_after_the_cutover_passed(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "r", whole_night())
    assert status(view_of(folder)) == ("NOT YET", "No clients were switched: there was no cutover.")
    for role in ROLES:
        sign(folder, role)
    for found in cut_over([]):
        found.write(folder / "results" / "25.json")
    said, why = status(view_of(folder))
    assert said == "NOT YET"
    assert "Monitoring after the cutover, Performance, Integration tests, Closeout" in why
    for number in ("50", "51", "52", "53"):
        result(number).write(folder / "results" / f"{number}.json")
    assert status(view_of(folder))[0] == "SUCCESS"
    result("27", facts={"dry_run": True}).write(folder / "results" / "27.json")
    assert status(view_of(folder))[0] == "SUCCESS"  # a dry run of the rollback undoes nothing
    result("27", facts={"dry_run": False}).write(folder / "results" / "27.json")
    assert status(view_of(folder))[0] == "ROLLED BACK"
    failed = view_of(make_run(tmp_path / "f", whole_night(Verdict.FAIL)))
    assert status(failed) == ("NO SUCCESS", "NO-GO")


def test_the_record_holds_what_was_measured_and_nothing_else(tmp_path: Path) -> None:
    night = whole_night()
    night[3].facts["matrix_inputs"] |= {"chunks": 2100, "valid": 2090}
    night[3].facts["targets"] = [{"collection": "docs", "target": 2090, "space": "cosine"}]
    folder = make_run(tmp_path / "r", [*night, result("20", facts={"fence": {"kind": "nginx"}})])
    page = read(run_page(folder))
    said = {item.label: item.measured for item in record(view_of(folder))}
    assert said["Chunks migrated"] == "2,090 of 2,100 chunks"
    assert said["Validation pass rate"] == "99.5 % (2,090 of 2,100)"
    assert said["Collection docs"] == "2,090 chunks"
    assert said["Query latency, mean"] == "not recorded"
    assert said["Rollback triggered"] == "No"
    assert said["Write downtime"] == "writes to the source refused since 2025-12-01 02:59:30 UTC; reads are not refused"
    assert said["Execution time (runbook: 90 to 120 min)"].startswith("39 min 30 s from step 20 to the end of step 25")
    assert cells(page, "Overall result")[1] == "PASS, 99.5 % acceptance rate (2,090 of 2,100)"


def test_deviations_name_a_missing_fence_and_changed_parameters(tmp_path: Path) -> None:
    fence = Check(
        "write fence", Verdict.WARNING, "none", reason=ReasonCode.NO_FENCE, detail="nothing keeps clients from writing"
    )
    changes = [{"migration.batch_size": [500, 50]}]
    folder = make_run(tmp_path / "r", [result("20", Verdict.WARNING, checks=[fence])], changes=changes)
    said = deviations(view_of(folder))
    assert said[0].startswith("Parameters were changed by a resume:")
    assert "batch_size" in said[0]
    assert said[1] == "Step 20: nothing keeps clients from writing"
    assert [line.partition(": ")[2][:12] for line in deviations(view_of(make_run(tmp_path / "s", whole_night())))] == [
        "Rollback: no", "Restore of a"]  # fmt: skip


def test_an_answer_given_again_replaces_the_earlier_one(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "r", whole_night())
    sign(folder, "dba", "no-go", reason="not yet")
    sign(folder, "dba", "go", name="Mr Later")
    page = read(run_page(folder))
    (block,) = [b for b in page.select(".sign") if "dba@example.org" in b.get_text()]
    assert "SHA256:" in block.get_text()
    assert "dba: NO-GO by dba@example.org" in page.get_text()
    assert "Does not count" not in block.get_text()


def test_a_closeout_that_waits_for_its_signature_says_so(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "r", cut_over(whole_night()))
    text = (folder / "parameters.yaml").read_text(encoding="utf-8")
    (folder / "parameters.yaml").write_text(text.replace("signoff: {", "signoff: {closeout: [dba], "), encoding="utf-8")
    for role in ROLES:
        sign(folder, role)
    for number in ("50", "51", "52", "53"):
        result(number).write(folder / "results" / f"{number}.json")
    found = view_of(folder).outcome
    assert found.headline == "CUT OVER and closed out"
    assert "The closeout is not signed yet by: dba." in found.reasons
    assert found.next[0].endswith("sign r --role dba --name NAME --decision go --gate closeout --key FILE")
    shown = tiles(view_of(folder))[-2:]
    assert [(tile.label, tile.value, tile.kind) for tile in shown] == [
        ("Decision signatures", "3 of 3", "pass"), ("Closeout signatures", "0 of 1", "warning")
    ]  # fmt: skip


def test_a_kept_page_says_what_it_is_and_the_last_one_is_made_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNBOOK_BROWSER", "no-such-browser")
    folder = make_run(tmp_path / "r", cut_over(whole_night()))
    for role in ROLES:
        sign(folder, role)
    state = RunState("r", folder, tmp_path / "w")
    assert list(keep_final(state)) == []
    result("53").write(folder / "results" / "53.json")
    state = RunState("r", folder, tmp_path / "w")
    (said,) = keep_final(state)
    (kept,) = folder.glob("final-*.html")
    assert said.startswith(f"No PDF of {kept.name}: no-such-browser is not on the PATH")
    head = read(kept.read_text(encoding="utf-8")).header.get_text()  # type: ignore[union-attr]
    assert re.search(r"This page as it was at \d{4}-.* UTC: the run was closed out, with every signature\.", head)
    assert "This page as it was" not in run_page(folder)
    assert kept.name in run_page(folder)
    assert list(keep_final(state)) == []


def test_what_was_shortened_is_said_once(tmp_path: Path) -> None:
    watched = Check("time watched", Verdict.NOT_EXERCISED, 3.0, 300.0, "s", detail="3.0 s of 5 min 00 s", relation="≥")
    folder = make_run(tmp_path / "r", [result("25", Verdict.NOT_EXERCISED, checks=[watched])])
    assert not_exercised(view_of(folder)) == ["Step 25, time watched: 3.0 s of 5 min 00 s"]

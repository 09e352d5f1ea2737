"""Those who sign see what a client must ask instead, and from which state a rollback is possible, by what, and who decides."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

from bs4 import BeautifulSoup

from helpers.reason_codes import ReasonCode
from helpers.report import numbers, read_run
from helpers.report.clients import (
    Tile,
    asks_instead,
    carries_over,
    rollback_options,
    rollback_sentence,
    when_to_roll_back,
    who_orders,
)
from helpers.report.pages import run_page, tiles
from helpers.report.record import deviations, tools, untried_here
from helpers.results import Check, Phase, StepResult, Verdict
from helpers.run.advice import CONDITIONS
from helpers.run.plan import CONTRADICTIONS, Step
from helpers.steps.migrate import by_value
from tests.test_pages_run import make_run, read, result, whole_night

BEGAN = dt.datetime(2026, 11, 28, 2, tzinfo=dt.UTC)
WAYS = [
    {"collection": "docs", "target": "corpus", "chunks": 60},
    {"collection": "docs", "target": "humor", "chunks": 5},
    {"collection": "docs", "target": "", "chunks": 1},
    {"collection": "core", "target": "corpus", "chunks": 30},
    {"collection": "jokes", "target": "jests", "chunks": 4},
]
SHARES = {"scope": "unrestricted", "collection": "core", "target": "corpus", "queries": 20, "shared_expected": 0.25,
          "shared_filtered": 1.0, "from_others": 0.7, "recall": 1.0}  # fmt: skip


def at(seconds: float) -> str:
    return (BEGAN + dt.timedelta(seconds=seconds)).isoformat()


def routed(folder: Path, announced: Any = None, shares: Any = None, **facts: Any) -> Path:
    pooled = {"unrestricted": shares} if shares else {}
    told = result(
        Step.VALIDATE, facts={"recall": {"k": 10, "rows": [SHARES], "pooled": pooled, "announced": announced}}
    )
    return make_run(folder, [result(Step.MIGRATE, facts={"routing": WAYS, **facts}), told])


def table(page: BeautifulSoup, label: str) -> list[list[str]]:
    rows = page.select(f'[aria-label="{label}"] tbody tr')
    return [[cell.get_text(" ", strip=True) for cell in row.find_all(["th", "td"])] for row in rows]


def test_each_route_has_the_filter_that_asks_for_the_old_collection_alone(tmp_path: Path) -> None:
    folder = routed(tmp_path / "r", origin_fields=["source_collection"])
    asks = {row.source: row for row in asks_instead(read_run(folder))}
    assert asks["core"].ask == 'where={"source_collection": "core"}'
    assert (asks["core"].same, asks["core"].filtered) == (0.25, 1.0)
    assert asks["docs"].ask == 'where={"source_collection": "docs"}; ask all 2, then sort by distance'
    assert asks["jokes"].ask == "no filter is needed"
    page = read(run_page(folder))
    core, docs, jokes = table(page, "What clients ask instead, by routing")
    assert core == ["core", "corpus 30", 'where={"source_collection": "core"}', "–", "25.0 %", "100 %"]
    assert docs[1] == "(quarantine) 1, corpus 60, humor 5"
    assert jokes[1:] == ["jests 4", "no filter is needed", "–", "–", "–"]
    caption = page.find(id="routing").find_next("caption").get_text()  # type: ignore[union-attr]
    assert "NOT EXERCISED: no search was sent to the target as" in caption
    assert page.select_one('nav a[href="#routing"]') is not None


def test_each_route_shows_what_came_back_of_searches_sent_as_announced(tmp_path: Path) -> None:
    row = {"collection": "docs", "targets": ["corpus", "humor"], "filter": {"source_collection": "docs"}, "queries": 20,
           "same": 0.99, "low": 0.8, "high": 1.0, "why": ""}  # fmt: skip
    whole = {"queries": 20, "sent": 40, "same": 0.99, "possible": 1.0, "low": 0.8, "high": 1.0}
    page = read(
        run_page(
            routed(tmp_path / "r", announced={"rows": [row], "pooled": whole}, origin_fields=["source_collection"])
        )
    )
    core, docs, _ = table(page, "What clients ask instead, by routing")
    assert docs[3] == "99.0 % (20 queries; 80.0 % to 100 %)"
    assert core[3] == "–"
    caption = page.find(id="routing").find_next("caption").get_text()  # type: ignore[union-attr]
    assert "searches that step 23 sent as “Ask there” says, a sample" in caption
    assert "NOT EXERCISED" not in caption
    asked = next(
        found for found in tiles(read_run(tmp_path / "r")) if found.label == "Same results, asked as announced"
    )
    assert (asked.value, asked.file) == ("99.0 %", "#routing")
    alone = next(found for found in tiles(read_run(routed(tmp_path / "s", shares={"shared_expected": 0.25, "queries": 20})))
                 if found.label.startswith("Same results"))  # fmt: skip
    assert (alone.label, alone.value) == ("Same results, one collection alone", "25.0 %")


def test_that_no_filter_tells_merged_collections_apart_is_said(tmp_path: Path) -> None:
    [ask, *_] = asks_instead(read_run(routed(tmp_path / "r", origin_fields=[])))
    assert ask.ask == "no filter gives the answers of before: the schema writes no source collection into the chunks"
    [ask, *_] = asks_instead(read_run(routed(tmp_path / "s")))
    assert ask.ask.startswith("no filter is recorded"), "a run of before says nothing of it"


def rolled_back(begun: float) -> StepResult:
    phases = [Phase(numbers.SERVICE_BACK, at(begun + 2), 5.0), Phase(numbers.CLEAN, at(begun + 8), 4.0)]
    return StepResult(Step.ROLLBACK, "Rollback", "r", at(begun), at(begun + 20), Verdict.PASS, phases=phases)


def night(begun: float) -> list[StepResult]:
    cut, closed = result(Step.CUTOVER, facts={"cut_over": {"writes_again": at(50)}}), result(Step.CLOSEOUT)
    closed.started, closed.finished = at(190), at(200)
    return [*whole_night(), cut, rolled_back(begun), closed]


def test_a_rollback_is_measured_only_in_the_state_in_which_it_was_tried(tmp_path: Path) -> None:
    for begun, row in ((100, 1), (300, 2)):
        took = [
            option.took for option in rollback_options(read_run(make_run(tmp_path / str(begun) / "r", night(begun))))
        ]
        assert took[row].startswith("measured: service back after 7.0 s")
        assert [said for at, said in enumerate(took) if at != row] == ["NOT EXERCISED in this run"] * 2
    before = rollback_options(read_run(make_run(tmp_path / "b" / "r", [*whole_night(), rolled_back(10)])))
    assert before[0].took.startswith("measured: ")


def test_each_state_has_its_command_its_writes_and_who_decides(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "r", whole_night())
    with (folder / "parameters.yaml").open("a", encoding="utf-8") as file:
        file.write("contacts: {operations_lead: Ada 555, on_call: Bob 777}\n")
    rows = table(read(run_page(folder)), "Rollback by state")
    assert [row[0] for row in rows] == ["before the cutover: possible", "after the cutover: possible",
                                        "after the closeout: possible until the snapshots may go"]  # fmt: skip
    assert [row[3] for row in rows] == ["NOT EXERCISED in this run"] * 3
    assert rows[0][1].endswith("rollback r")
    assert all(row[1].endswith("rollback r") and "--replay" in row[2] + rows[1][2] for row in rows[1:])
    assert rows[0][4:] == [
        "on a rollback trigger: on-call engineer; for NO-GO: operations lead",
        "nobody: there is one history",
    ]
    assert {tuple(row[4:]) for row in rows[1:]} == {
        ("on a rollback trigger: on-call engineer; or: operations lead", "operations lead")
    }
    assert "a chunk changed on both sides stops the replay" in rows[2][2]
    nobody = who_orders(read_run(make_run(tmp_path / "s", whole_night())))
    assert "the operations lead, level 3: not named (contacts.operations_lead)" in nobody


def test_the_page_says_when_to_roll_back_and_which_trigger_was_met(tmp_path: Path) -> None:
    calm = when_to_roll_back(read_run(make_run(tmp_path / "a", whole_night())))
    assert all(condition in calm for condition in CONDITIONS)
    assert "): none." in calm
    night = whole_night()
    next(step for step in night if step.step == Step.VALIDATE).facts["validation_pass_rate"] = 0.9
    page = read(run_page(make_run(tmp_path / "b", night)))
    assert "23): 90.00 % of the chunks are valid, below 95 %." in page.find(id="rollback").parent.get_text()  # type: ignore[union-attr]


def test_the_first_screen_and_the_rapid_rollback_say_who_orders_a_rollback(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "r", whole_night())
    with (folder / "parameters.yaml").open("a", encoding="utf-8") as file:
        file.write("contacts: {operations_lead: Ada 555, on_call: Bob 777}\n")
    page = read(run_page(folder))
    said = ("Who orders it: on a rollback trigger, before or after the cutover, the on-call engineer, level 4: Bob 777; "
            "for NO-GO, or where nobody is on call, the operations lead, level 3: Ada 555.")  # fmt: skip
    assert said in page.select_one("header").get_text()  # type: ignore[union-attr]
    assert said in page.find(id="rollback").find_next("p").get_text()  # type: ignore[union-attr]
    with (folder / "parameters.yaml").open("a", encoding="utf-8") as file:
        file.write("rollback: {automatic: true}\n")
    assert "begins it without an order (rollback.automatic)" in who_orders(read_run(folder))


def tile(folder: Path, label: str) -> Tile:
    return next(found for found in tiles(read_run(folder)) if found.label == label)


def test_values_that_their_document_rules_out_are_counted_on_the_first_screen(tmp_path: Path) -> None:
    rows = [
        {"collection": c, "field": "includes_spanish", "chunks": n, "example": ""} for c, n in (("a", 300), ("b", 64))
    ]
    found = Check(CONTRADICTIONS, Verdict.WARNING, 364, 0, "values", ReasonCode.METADATA_CONTRADICTS)
    folder = make_run(tmp_path / "r", [result(Step.VALIDATE, checks=[found], facts={"contradictions": rows})])
    shown = tile(folder, "Contradict their document")
    assert (shown.value, shown.kind) == ("364", "warning")
    assert shown.note == "values: includes_spanish in 364 chunks; migrated as the source has them, none was corrected"
    sound = result(Step.DRY_RUN, checks=[Check(CONTRADICTIONS, Verdict.PASS, 0, 0, "values")])
    assert tile(make_run(tmp_path / "s", [sound]), "Contradict their document").kind == "pass"
    none = result(Step.DRY_RUN, checks=[Check(CONTRADICTIONS, Verdict.NOT_APPLICABLE, detail="nothing is derived")])
    assert tile(make_run(tmp_path / "t", [none]), "Contradict their document").value == "not applicable"
    assert tile(make_run(tmp_path / "u", []), "Contradict their document").value == "not measured"


def measured(folder: Path, **cut: Any) -> Path:
    """Writes stopped for 140 s: 60 s of them work on 300 chunks, 40 s between the decision and the cutover."""
    moved, review = result(Step.MIGRATE, facts={"launched": at(5)}), result(Step.REVIEW)
    moved.started, moved.finished, review.started, review.finished = at(5), at(65), at(66), at(70)
    over = result(Step.CUTOVER, facts={"launched": at(110), "cut_over": {"write_taken": at(140)}, **cut})
    over.started, over.finished = at(110), at(150)
    fence = result(Step.FENCE_WRITES, facts={"fence": {"kind": "nginx", "up": at(0)}})
    took = result(Step.SNAPSHOT, facts={"snapshot": {"chunks": 300}})
    took.started = took.finished = at(4)
    return make_run(folder, [fence, took, moved, review, over], rehearsal=True)


def test_what_a_measured_downtime_does_not_hold_is_beside_it(tmp_path: Path) -> None:
    folder = measured(tmp_path / "r")
    said = carries_over(read_run(folder))
    assert "1 min 00 s of it are work on 300 chunks, which grows with their number" in said
    assert "40 s for signatures signed by the machine: people who sign are not in it" in said
    assert "fence.when cutover, where writers are out in step 25 only: NOT EXERCISED" in said
    page = read(run_page(folder))
    assert said in page.find(id="downtime").find_next("p").get_text()  # type: ignore[union-attr]
    assert tile(folder, "Write downtime").note.endswith("holds for this run only")


def test_a_check_or_figure_of_a_rollback_is_not_exercised_until_one_was_tried(tmp_path: Path) -> None:
    kept = result(Step.SNAPSHOT, facts={"snapshot": {"id": "r-21", "retain_until": "2026-12-06T10:08:19+00:00"}})
    before = read_run(make_run(tmp_path / "r", [*whole_night(), kept]))
    assert tile(before.folder, "Rollback").value == "NOT EXERCISED"
    assert "may go; NOT EXERCISED in this run." in rollback_sentence(before)
    left = untried_here(before)
    assert any(line.startswith("Rollback: not tried") for line in left)
    assert any(line.startswith("Restore of a snapshot: not tried") for line in left)
    assert dict(tools(before))["A28 snapshot and rollback"].endswith("; rollback: NOT EXERCISED")
    after = read_run(
        make_run(tmp_path / "after" / "r", night(100), rehearsal=True, drills=["restore of snapshot r-21"])
    )
    assert not [line for line in untried_here(after) if line.startswith(("Rollback: not", "Restore"))]
    assert "NOT EXERCISED" not in dict(tools(after))["A28 snapshot and rollback"]


def test_page_and_documents_count_what_was_not_exercised_alike(tmp_path: Path) -> None:
    view = read_run(make_run(tmp_path / "r", [result(Step.FENCE_WRITES), *whole_night()]))
    listed = [line for line in deviations(view) if line.startswith("Shortened or not exercised: ")]
    assert [line.partition(": ")[2] for line in listed] == untried_here(view)
    assert tile(view.folder, "Not exercised").value == str(len(listed))
    assert len(listed) == 3


def test_a_warning_about_time_names_the_step_and_the_part_that_took_most(tmp_path: Path) -> None:
    steps = [result(Step.MIGRATE), result(Step.CUTOVER)]
    steps[0].title, steps[0].started, steps[0].finished = "Migrate", at(0), at(3600)
    steps[0].phases = [Phase("2 transform", at(0), 600.0), Phase("4 import", at(600), 3000.0)]
    steps[1].started, steps[1].finished = at(3600), at(3700)
    folder = make_run(tmp_path / "r", steps)
    with (folder / "parameters.yaml").open("a", encoding="utf-8") as file:
        file.write(f"window: {{start: '{at(0)}', minutes: 60}}\n")
    said = numbers.outside_window(read_run(folder))
    assert said.endswith("; step 22 (Migrate) took most, 1 h 00 min, of it 50 min 00 s for 4 import.")


def test_values_that_a_default_replaced_are_shown_old_and_new_apart_from_those_it_filled(tmp_path: Path) -> None:
    changes = [
        *({"field": "language", "old": "'Spanish (Chile)'", "new": "'en'", "rule": "default"} for _ in range(3)),
        {"field": "disputed", "old": "'perhaps'", "new": "False", "rule": "default"},
        *({"field": "score", "old": f"{n}", "new": "1.0", "rule": "clamp"} for n in range(2, 2002)),
    ]
    rows = by_value(changes)
    assert sum(row["chunks"] for row in rows) == len(changes) == 2004
    assert [(r["field"], r["old"], r["new"], r["chunks"]) for r in rows[:2]] == [
        ("language", "'Spanish (Chile)'", "'en'", 3), ("disputed", "'perhaps'", "False", 1)
    ]  # fmt: skip
    assert (rows[-1]["field"], rows[-1]["rule"], len(rows)) == (None, "clamp", 1001)
    filled = [{"field": "author", "value": "unknown", "chunks": 7}]
    page = read(run_page(make_run(tmp_path / "r", [result(Step.MIGRATE, facts={"replaced": rows, "filled": filled})])))
    shown = table(page, "Values that were replaced, by value")
    assert shown[:2] == [
        ["language", "'Spanish (Chile)'", "'en'", "3", "default"],
        ["disputed", "'perhaps'", "False", "1", "default"],
    ]
    assert shown[-1] == ["further values", "1,962", "all rules"]
    assert len(shown) == 41
    caption = page.find(id="replaced").find_next("caption").get_text()  # type: ignore[union-attr]
    assert "2,004 values in all, of which 4 values by the rule default" in caption
    assert table(page, "Defaults that missing fields got, by value") == [["author", "unknown", "7"]]

"""What two readers would not sign: a figure without its condition, a title that contradicts its neighbour, a pass of nothing."""

from __future__ import annotations

import csv
import datetime as dt
import gzip
import json
import re
import tracemalloc
from pathlib import Path

import pandas as pd
import pytest

from helpers import notify, plots
from helpers.formatting import harmless, moment, unpacked_rows
from helpers.parameters import parameters_from
from helpers.reason_codes import ReasonCode
from helpers.report import numbers, read_run, record
from helpers.report.clients import beside_prediction, downtime_parts, rollback_sentence, to_source
from helpers.report.outcome import decision_tree, due_by_warnings, ends, writers
from helpers.report.pages import rollback_page, run_page, tiles
from helpers.report.record import untried
from helpers.results import Check, Phase, StepResult, Verdict
from helpers.run import folders as runs
from helpers.run.advice import HISTORIES, needs_action, page_remedy
from helpers.run.plan import Step
from helpers.run.record import RunRecord
from helpers.steps.dry_run import predictions, rows
from tests.test_pages_run import cells_of, make_run, read, result, whole_night

HELPERS = Path(numbers.__file__).parents[1]
BEGAN = dt.datetime(2026, 11, 28, 2, tzinfo=dt.UTC)


def at(seconds: float) -> str:
    return (BEGAN + dt.timedelta(seconds=seconds)).isoformat()


def rolled_back(*checks: Check) -> StepResult:
    phases = [Phase(numbers.SERVICE_BACK, at(10), 5.0), Phase(numbers.CLEAN, at(16), 4.0)]
    return StepResult(Step.ROLLBACK, "Rollback", "r", at(0), at(30), Verdict.PASS, phases=phases, checks=list(checks))


def test_a_rollback_with_an_ordered_replay_says_so_beside_its_time() -> None:
    plain = numbers.rollback(rolled_back())
    replayed = numbers.rollback(rolled_back(Check(numbers.REPLAYED, Verdict.PASS, 3, unit="chunks")))
    assert plain is not None
    assert replayed is not None
    assert "ordered" not in numbers.rollback_words(plain)
    said = numbers.rollback_words(replayed)
    assert "the replay of clients' writes was ordered beforehand, 3 chunks" in said
    assert numbers.rollback_words(replayed, brief=True).endswith("ordered beforehand, 3 chunks")
    assert "without that order a rollback that finds such writes stops before service is back" in said


def some_warnings() -> list[Check]:
    nobody = "nobody is named: contacts.dba, contacts.channel"
    return [
        Check("contacts without a name", Verdict.WARNING, 2, 0, "keys", ReasonCode.NOBODY_NAMED, nobody),
        Check("ids that the migration rewrites", Verdict.WARNING, 9, 0, "ids", ReasonCode.IDS_REWRITTEN),
        Check("values out of range", Verdict.WARNING, 3, 0, "values", ReasonCode.INVALID_SCORES),
        Check("repeated documents", Verdict.WARNING, 3, 0, "chunks", ReasonCode.DUPLICATES),
    ]


def test_each_act_that_a_warning_asks_for_is_due_with_its_command_and_its_keys(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "r", [result("14", Verdict.WARNING, checks=some_warnings())])
    contacts, ids, left = due_by_warnings(read_run(folder))
    assert contacts.startswith("Operations lead, before the cutover: “contacts without a name”: Name them")
    assert contacts.endswith(" resume r --retry 14 --set contacts.dba=TEXT --set contacts.channel=TEXT")
    assert ids.startswith("Operations lead, before the cutover: “ids that the migration rewrites”: Tell the owners")
    assert left.startswith(
        "2 other warnings ask for no act in this run: the page shows them to whoever signs; to change"
    )
    assert due_by_warnings(read_run(make_run(tmp_path / "s", [result("10")]))) == [
        "There was no warning; nothing is due."
    ]


def test_a_run_that_is_cut_over_is_given_no_command_that_it_would_refuse_or_that_would_undo_it(tmp_path: Path) -> None:
    steps = [
        result("14", Verdict.WARNING, checks=some_warnings()),
        *(result(n) for n in ("20", "22", "24", "25", "53")),
    ]
    due = due_by_warnings(read_run(make_run(tmp_path / "r", steps)))
    assert "Tell people yourself whom to call" in due[0]
    assert "--retry" not in run_page(tmp_path / "r")


def test_what_is_due_has_a_role_and_a_time_of_this_run(tmp_path: Path) -> None:
    slow = Check("latency", Verdict.WARNING, 2.3, 2, "× source", ReasonCode.SLOW_QUERIES, relation="≤")
    snapshot = result("21", facts={"snapshot": {"id": "s", "retain_until": "2026-12-06T22:18:30+00:00"}})
    steps = [
        result("14", Verdict.WARNING, checks=some_warnings()), result("20"), snapshot, result("22"), result("24"),
        result("25", facts={"cut_over": {"target": "t"}}), result("51", Verdict.WARNING, checks=[slow]), result("53"),
    ]  # fmt: skip
    view = read_run(make_run(tmp_path / "r", steps))
    names, ids, latency, _ = due_by_warnings(view)
    began = moment(view.results["25"].started)
    assert names.startswith("Operations lead, was due before the cutover, else now: “contacts without a name”"), (
        "the right to roll back ends with that date"
    )
    assert ids.startswith(f"Operations lead, was due at the cutover ({began}), else now: “ids that")
    assert latency.startswith("Database administrator, by 2026-12-06 22:18:30 UTC: “latency”")
    early = make_run(tmp_path / "e", [result("14", Verdict.WARNING, checks=some_warnings())])
    with (early / "parameters.yaml").open("a", encoding="utf-8") as file:
        file.write("window: {start: 2026-12-01T02:00:00+00:00, minutes: 120}\n")
    assert due_by_warnings(read_run(early))[0].startswith(
        "Operations lead, before the cutover, in the window 2026-12-01 02:00 to 2026-12-01 04:00 UTC: "
    )


def test_a_warning_that_came_after_the_decision_says_so_and_that_nobody_signed_knowing_it(tmp_path: Path) -> None:
    slow = Check("latency", Verdict.WARNING, 2.27459, 2, "× source", ReasonCode.SLOW_QUERIES, relation="≤")
    steps = [*whole_night(), result("25"), result("51", Verdict.WARNING, checks=[slow]), result("53")]
    page = read(run_page(make_run(tmp_path / "r", steps)))
    assert "1 found after it (step 51): nobody had signed knowing them by then" in page.get_text()
    row = cells_of(page, "latency").get_text(" ", strip=True)
    assert "51 latency (after the decision)" in row
    assert "2.27 × source (expected: ≤ 2 × source)" in row


@pytest.mark.parametrize(("value", "said"), [(2.27459, "2.27"), (2.0004, "2.0004"), (1.99951, "2"), (0.41, "0.41")])
def test_a_measured_value_has_three_digits_unless_they_would_cross_its_limit(value: float, said: str) -> None:
    assert Check("x", Verdict.PASS, value, 2, relation="≤").measured_text == said


def test_no_remedy_takes_back_a_step_that_cannot_be_taken_back_any_more() -> None:
    for code in ReasonCode:
        again = re.search(r"--retry (\d\d)", code.remedy)
        after = page_remedy(code, "r", Step.CLOSEOUT)
        assert not re.search(r"--retry (1\d|2\d)", after), code
        if again and "20" <= again[1] <= "22":
            assert "signatures become void" in page_remedy(code, "r", Step.REVIEW)
        if again and again[1] < "20":
            assert "--retry" not in page_remedy(code, "r", Step.MIGRATE)
            assert "void" not in page_remedy(code, "r", Step.SCHEDULE_AND_NOTIFY)


def test_a_remedy_that_asks_for_no_act_says_so_or_lies_at_the_source() -> None:
    for code in ReasonCode:
        if (
            (remedy := page_remedy(code, "r"))
            and not needs_action(remedy)
            and not remedy.startswith(("Notebook", "Nothing is due"))
        ):
            assert re.search("at the source|Embed these documents again", remedy), code
    assert needs_action(page_remedy(ReasonCode.SLOW_QUERIES, "r"))
    assert needs_action(page_remedy(ReasonCode.IDS_REWRITTEN, "r"))


@pytest.mark.parametrize(
    ("measured", "verdict", "said"),
    [
        ("lifted", Verdict.PASS, "every client to http://db2:8000, none to old. The write fence is lifted"),
        (
            "lifted",
            Verdict.NOT_EXERCISED,
            "Since then no write to the source was tried: the application uses the target.",
        ),
        ("active", Verdict.WARNING, "Writes to the source are still refused"),
    ],
)
def test_who_may_write_after_the_closeout_is_said(tmp_path: Path, measured: str, verdict: Verdict, said: str) -> None:
    check = Check("end of the write fence", verdict, measured, "lifted")
    assert said in writers(read_run(make_run(tmp_path / "r", [result(Step.CLOSEOUT, checks=[check])])))
    none = Check("end of the write fence", Verdict.NOT_APPLICABLE)
    assert writers(read_run(make_run(tmp_path / "s", [result(Step.CLOSEOUT, checks=[none])]))) == ""


def test_the_way_back_is_said_with_its_end_its_place_and_both_histories(tmp_path: Path) -> None:
    kept = result(Step.SNAPSHOT, facts={"snapshot": {"id": "r-21", "retain_until": "2026-12-06T10:08:19+00:00"}})
    end = Check("end of the write fence", Verdict.NOT_EXERCISED, "lifted", "lifted")
    lifted = result(Step.CLOSEOUT, checks=[end])
    folder = make_run(
        tmp_path / "r", [kept, rolled_back(Check(numbers.REPLAYED, Verdict.PASS, 3, unit="chunks")), lifted]
    )
    page = read(run_page(folder))
    place = f"Run its commands on db1 in {folder} as dba."
    for part in (page.select_one("header"), page.find(id="rollback").find_next("p")):  # type: ignore[union-attr]
        said = " ".join(part.get_text().split())  # type: ignore[union-attr]
        assert place in said
    assert HISTORIES in page.get_text()
    paper = " ".join(page.select_one("header .paper").get_text().split())  # type: ignore[union-attr]
    assert "“Contacts” and “Rapid rollback” are last" in paper
    [tile] = [t for t in tiles(read_run(folder)) if t.label == "Rollback measured"]
    assert tile.note.endswith("before closeout, fence up")
    assert len(tile.note) <= 180
    before = make_run(tmp_path / "s", [kept])
    assert "A rollback is possible until 2026-12-06 10:08:19 UTC" in rollback_sentence(read_run(before))
    assert HISTORIES not in run_page(before), "one history, as long as the fence is up"


def test_nothing_is_cut_off_on_the_page_of_a_rollback() -> None:
    names = ("name", "why", "state", "took", "outage", "source", "target", "drill")
    long = {name: f"{name} " * 100 for name in names}
    rows = [{"title": "t", "when": "", "state": "done", "seconds": 1.0, "said": "said " * 300}]
    lists = {name: [f"{name} " * 300] for name in ("data", "causes", "next")}
    page = rollback_page(
        **long, **lists, stages=rows, run="r", begun=at(0), by="b", rehearsal=True, over=False, contacts=[]
    )
    assert "in all)" not in page


def test_no_notice_says_of_reads_what_nobody_observed() -> None:
    templates = list((Path(notify.__file__).parent / "templates").glob("*.j2"))
    assert templates
    assert [path.name for path in templates if re.search(r"(?i)\breads?\b", path.read_text(encoding="utf-8"))] == []


def test_a_title_of_merged_collections_says_within_what_was_compared() -> None:
    table = pd.DataFrame(
        [{"collection": "a", "kind": kind, "k": 10, "overlap": 1.0} for kind in ("exact", "approximate")]
    )
    merged = " ".join(plots.overlap_heatmap(table, within=True).get_suptitle().split())
    assert merged.startswith("Among chunks of one source collection: source and target find the same neighbours")
    assert "Among" not in plots.overlap_heatmap(table).get_suptitle()


def test_clients_answers_have_a_range_and_a_table_by_collection(tmp_path: Path) -> None:
    share = {
        "scope": "unrestricted",
        "target": "all",
        "queries": 20,
        "recall": 1.0,
        "from_others": 0.5,
        "shared_filtered": 0.75,
    }
    told = [{**share, "collection": name, "shared_expected": n} for name, n in (("a", 0.1), ("b", 0.95))]
    told.append({**share, "collection": "b", "target": "other", "queries": 60, "shared_expected": 0.35})
    own = [{"scope": "restricted", "collection": name, "queries": 20} for name in ("a", "b")]
    whole = {"filter": "none", "verdict": "pass", "low": 0.9, "high": 1.0, "collection": "all collections"}
    facts = {
        "recall": {
            "k": 10,
            "rows": [*own, *told],
            "pooled": {"unrestricted": {**share, **whole, "shared_expected": 0.5}},
        }
    }
    found = [step for step in whole_night() if step.step != "23"] + [
        result("23", facts=facts, checks=whole_night()[3].checks)
    ]
    page = read(run_page(make_run(tmp_path / "r", found)))
    assert "10.0 % to 50.0 % by source collection" in page.select_one(".tiles").get_text()  # type: ignore[union-attr]
    table = page.find(id="answers").find_next("table")  # type: ignore[union-attr]
    assert [row.get_text(" ", strip=True) for row in table.select("tbody tr")] == [  # type: ignore[union-attr]
        "a all 20 10.0 % 50.0 % 75.0 % 100 %", "b all 20 95.0 % 50.0 % 75.0 % 100 %",
        "b other 60 35.0 % 50.0 % 75.0 % 100 %",
    ]  # fmt: skip
    assert "calculated" in table.caption.get_text()  # type: ignore[union-attr]
    checklist = page.find(id="search").get_text()  # type: ignore[union-attr]
    assert "search as the source does" not in checklist
    assert "2 of the source, each among its own chunks, and 2 merged ones" in checklist
    assert "characters in all" not in checklist


def test_missing_values_and_filled_defaults_name_what_each_counts(tmp_path: Path) -> None:
    migrate = result("22", facts={"repairs": [{"field": "author", "rule": "missing", "chunks": 20},
                                              {"field": "author", "rule": "derived", "chunks": 13},
                                              {"field": "humor_style", "rule": "missing", "chunks": 300}]})  # fmt: skip
    found = numbers.counts({"11": result("11", facts={"core_missing": {"author": 33}}), "22": migrate})
    assert (found.filled, found.filled_core) == (320, 20)
    assert record.defaults(found) == (
        "33 missing in core fields: 20 get a default, 13 what the document tells (step 11); 300 in those of some types only"
    )


def test_each_default_that_was_filled_is_shown_with_its_value(tmp_path: Path) -> None:
    filled = [
        {"field": "format", "value": "'transcript'", "chunks": 1531},
        {"field": "score", "value": "0.5", "chunks": 12},
    ]
    page = read(run_page(make_run(tmp_path / "r", [result("22", facts={"filled": filled})])))
    table = page.find(id="defaults").find_next("table")  # type: ignore[union-attr]
    assert "1,543 values in all" in table.caption.get_text()  # type: ignore[union-attr]
    assert [row.get_text(" ", strip=True) for row in table.select("tbody tr")] == [  # type: ignore[union-attr]
        "format 'transcript' 1,531", "score 0.5 12",
    ]  # fmt: skip


def test_values_overwritten_by_a_default_are_counted_as_such(tmp_path: Path) -> None:
    repairs = [{"field": "language", "rule": "default", "chunks": 13}, {"field": "score", "rule": "clamp", "chunks": 30},
               {"field": "origin", "rule": "fixed", "chunks": 3}, {"field": "kind", "rule": "missing", "chunks": 9}]  # fmt: skip
    migrate = result("22", facts={"repairs": repairs, "chunks_changed": 40})
    page = read(run_page(folder := make_run(tmp_path / "r", [migrate])))
    tile = next(t.get_text(" ", strip=True) for t in page.select(".tile") if "Values changed" in t.get_text())
    said = "30 moved to the nearer bound, 13 overwritten by a default, 3 set by the schema"
    assert tile.startswith(f"Values changed 46 in 40 chunks; {said}")
    assert record.values(read_run(folder)).startswith(f"46 changed ({said})")


@pytest.mark.parametrize(
    ("made", "said"),
    [("opened by 1.x last", "opened by 1.x last"), ("0.5.6 to 1.0", "written by Chroma 0.5.6 to 1.0"),
     (None, "what wrote it is not recorded")],
)  # fmt: skip
def test_the_version_of_a_directory_is_what_is_known_of_it(tmp_path: Path, made: str | None, said: str) -> None:
    seen = {"source_version": "1.5.9", "source_written_by": made}
    folder = make_run(tmp_path / "r", [result("10", facts=seen), result("12", facts={"target_version": "1.5.9"})])
    (folder / "parameters.yaml").write_text("source: {path: old}\ntarget: {path: new}\n", encoding="utf-8")
    source, target = (kind for _, _, kind in ends(read_run(folder)))
    assert source == f"directory, {said}; read here by Chroma 1.5.9"
    assert target == "directory, written and read here by Chroma 1.5.9, which reads the source too"
    (folder / "results" / "12.json").unlink()  # a run whose target is a directory names the version in run.json alone
    about = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    (folder / "run.json").write_text(json.dumps({**about, "versions": {"chromadb": "1.5.9"}}), encoding="utf-8")
    assert ends(read_run(folder))[1][2] == target


def test_the_parts_of_the_write_downtime_add_up_and_say_what_was_predicted() -> None:
    def step(number: str, launched: float, began: float, ended: float, **facts: object) -> StepResult:
        return StepResult(number, "", "r", at(began), at(ended), facts={"launched": at(launched), **facts})

    parts = [{"part": "22 import", "seconds": 50.0}, {"part": "20–25 notebook starts", "seconds": 12.0}]
    said = [{"what": "write downtime", "value": 65.0, "unit": "s", "basis": ""}]
    found = [
        step(Step.DRY_RUN, -900, -899, -800, prediction=said, estimate=parts),
        step(Step.FENCE_WRITES, 0, 2, 4, fence={"kind": "nginx", "up": at(3)}), step(Step.MIGRATE, 6, 8, 98),
        step(Step.REVIEW, 120, 122, 130), step(Step.CUTOVER, 180, 182, 205, cut_over={"write_taken": at(200)}),
    ]  # fmt: skip
    found[-1].phases += [Phase(numbers.UNCHANGED, at(183), 4.0), Phase(numbers.RESTART, at(190), 5.0)]
    found[-1].phases.append(Phase(numbers.COMPARED, at(187), 2.0))
    results = {r.step: r for r in found}
    shown = {part.name: part for part in downtime_parts(results)}
    assert sum(part.seconds for part in shown.values()) == pytest.approx(numbers.downtime(results)[0])
    assert (shown["Work of step 22"].seconds, shown["Work of step 22"].predicted) == (90.0, 50.0)
    assert shown["Step 25: source and target read once more"] == ("Step 25: source and target read once more", 6.0, 3.0)
    assert shown["Between steps 24 and 25: signatures and seals"].seconds == 50.0
    assert "Failed attempts" not in shown
    assert shown["Step 25: restart and health"].predicted is None


def test_the_write_downtime_is_compared_with_its_prediction_in_one_way(tmp_path: Path) -> None:
    """Like with like, on the first screen, in its table and in the summary: 60 of 140 s are what the dry run predicted."""
    said = [{"what": "write downtime", "value": 89.0, "unit": "s", "basis": ""}]
    work = result("22", facts={"launched": at(5)})
    work.started, work.finished = at(5), at(65)
    steps = [
        result("13", facts={"prediction": said, "estimate": [{"part": "22 import", "seconds": 89.0}]}),
        result("20", facts={"fence": {"kind": "nginx", "up": at(0)}}), work,
        result("25", facts={"cut_over": {"write_taken": at(140)}}),
    ]  # fmt: skip
    view = read_run(make_run(tmp_path / "r", steps))
    page = read(run_page(view.folder))
    told = "predicted: 1 min 29 s, the same parts took 1 min 00 s"
    tile = next(t.get_text(" ", strip=True) for t in page.select(".tile") if "Write downtime" in t.get_text())
    assert tile.startswith(f"Write downtime 2 min 20 s {told}; ")
    assert beside_prediction(view.results) == told
    predicted = next(row for row in predictions(view.results) if row.what == "write downtime")
    assert (predicted.predicted, predicted.measured) == (89.0, 60.0)
    rows = [[cell.get_text() for cell in row.find_all(["th", "td"])] for row in page.select("#downtime + .scroll tr")]
    assert rows[-2:] == [["All that was predicted", "1 min 29 s", "1 min 00 s"], ["All", "–", "2 min 20 s"]]


def test_the_first_screen_says_what_was_written_to_the_source(tmp_path: Path) -> None:
    nothing = read_run(make_run(tmp_path / "n", whole_night()))
    assert to_source(nothing) == "nothing."
    fenced = result("20", checks=[
        Check("writes before the fence", Verdict.PASS, "taken", "taken"),
        Check("writes through the fence", Verdict.PASS, 0, 0),
    ])  # fmt: skip
    back = result("27", checks=[
        Check("replayed chunks", Verdict.PASS, 1_203),
        Check("end of the write fence", Verdict.PASS, "lifted", "lifted"),
    ])  # fmt: skip
    end = result("53", checks=[Check("end of the write fence", Verdict.NOT_EXERCISED, "lifted", "lifted")])
    folder = make_run(tmp_path / "r", [fenced, back, end])
    said = "2 write probes (each removes what it wrote), 1,203 chunks of clients, replayed by the rollback; "
    said += "1 write probe was refused."
    assert to_source(read_run(folder)) == said
    drills = {"rollback": {"put_back": "x"}, "put-back": {"write_behind_the_fence": "not taken",
              "source": {"compared": 2_000, "differing": 0}}}  # fmt: skip
    (folder / "drills").mkdir()
    for name, facts in drills.items():
        (folder / "drills" / f"{name}.json").write_text(json.dumps(facts), encoding="utf-8")
    said = said.replace("of clients", "of the client of the drill")
    ends_of = read(run_page(folder)).select_one("dl.ends")
    assert ends_of is not None
    assert f"Written to the source {said}".replace("1 write probe was", "2 write probes were")[:-1] in ends_of.get_text(
        " "
    )
    assert "copy from before the drill: 2,000 chunks compared with the snapshot, none different." in ends_of.get_text()
    back.facts["dry_run"] = True
    assert to_source(read_run(make_run(tmp_path / "d", [back]))) == "nothing."


def test_what_the_tests_of_step_23_found_is_not_cut_and_ends_once(tmp_path: Path) -> None:
    told = "recall 1.000 in 127 queries of 140 asked; " * 20 + "expected there: 25.7 % as before"
    steps = [
        result("23", checks=[Check("search equivalence", Verdict.PASS, 10, 10, "collections", detail=told)]),
        result("53", checks=[Check("end of the write fence", Verdict.NOT_EXERCISED, detail="No write to it was tried.")]),
    ]  # fmt: skip
    page = read(run_page(make_run(tmp_path / "r", steps))).get_text()
    assert told in page
    assert ".;" not in page


def test_what_was_not_exercised_is_printed_once(tmp_path: Path) -> None:
    idle = result("53", checks=[Check("end of the write fence", Verdict.NOT_EXERCISED, detail="none was tried")])
    fenced = result(
        "20", checks=[Check("write fence", Verdict.WARNING, "none", reason=ReasonCode.NO_FENCE, detail="no fence")]
    )
    page = read(run_page(make_run(tmp_path / "r", [fenced, idle])))
    printed = [e.get_text() for e in page.find_all("li") if "screen" not in (e.get("class") or [])]
    assert sum("none was tried" in line for line in printed) == 1
    assert any("no fence" in line for line in printed), "another deviation is printed"


def test_whatever_a_step_says_it_sampled_is_listed(tmp_path: Path, own_folders: None) -> None:
    record = RunRecord(
        runs.create(parameters_from({"source": {"path": "s"}, "target": {"path": "t"}}), "one").read(), "23"
    )
    for asked, of in ((80, 1_993), (140, 1_993), (20, 20), (0, 20)):  # of the last two nothing was left out
        record.sampled(f"case {asked}", asked, of)
    record.sampled("case 140", 127, 1_993)  # a cell that was run again
    steps = [record.result, result("11", facts={"sampled": [{"what": "neighbours", "asked": 497, "of": 2_000}]})]
    (listed,) = (
        lines for verdict, lines in untried(read_run(make_run(tmp_path / "one", steps))) if verdict == "sampled"
    )
    assert listed == [
        "Step 11, neighbours: 497 of 2,000 chunks",
        "Step 23, case 80: 80 of 1,993 chunks", "Step 23, case 140: 127 of 1,993 chunks",
    ]  # fmt: skip


def test_what_draws_a_sample_to_judge_by_says_so() -> None:
    """Whoever draws some of the stored chunks and judges by them records it; only figures and a rollback's repair do not."""
    draws = re.compile(r"default_rng\(|some_ids\(|choose_probes\(|\.flatnonzero\(~batch\.lost\)\[:")
    silent = {
        "profiling/similarity.py", "profiling/__init__.py",  # step 11 says it
        "validation/search.py", "validation/fidelity.py",  # steps 13 and 23 say it
        "steps/target_readiness.py",  # its vectors are of its own
        "rollback/replay.py",  # beside what was replayed, some others: whether the write hid them
    }  # fmt: skip
    found = {path.relative_to(HELPERS).as_posix(): path.read_text(encoding="utf-8") for path in HELPERS.rglob("*.py")}
    judging = ("migration/", "monitoring/", "profiling/", "rollback/", "steps/", "validation/")
    drawing = {name for name, text in found.items() if draws.search(text) and name.startswith(judging)} - silent
    assert {"monitoring/measure.py", "validation/properties.py"} <= drawing
    quiet = {name for name in drawing if ".sampled(" not in found[name] and "measure.choose_probes(" not in found[name]}
    assert not quiet
    told = {name for name, text in found.items() if ".sampled(" in text}
    assert {f"steps/{name}.py" for name in ("source_health", "explore_source", "validate", "performance")} <= told


def test_a_list_of_changed_values_is_read_without_what_spreadsheets_need(tmp_path: Path) -> None:
    values = ["'essay'", "0.8", "-1x", "plain", "'"]
    with gzip.open(tmp_path / "c.csv.gz", "wt", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["old"], *([harmless(value)] for value in values)])
    assert [row["old"] for row in unpacked_rows(tmp_path / "c.csv.gz", ())] == values


def test_what_was_not_asked_is_not_counted_and_nothing_marginal_is_no_pass(tmp_path: Path) -> None:
    found = whole_night()
    found[3].checks += [Check("configuration", Verdict.NOT_APPLICABLE), Check("field types", Verdict.WARNING, 1, 0)]
    nodes = decision_tree(read_run(make_run(tmp_path / "r", found)))
    assert nodes[0].why.startswith("3 of 4 tests were asked, 1 not applicable")
    assert nodes[2].why.startswith("1 warned: 3 of 4 tests were asked")
    assert (nodes[3].answer, nodes[3].verdict) == ("nothing to accept", "not applicable")


def test_the_table_of_times_has_the_rollback(tmp_path: Path) -> None:
    table = rows({"22": result("22"), Step.ROLLBACK: rolled_back()})
    assert [row["step"] for row in table if row["number"] == Step.ROLLBACK] == ["27 Rollback"]


def test_a_contact_that_no_level_calls_is_said_to_be_uncounted() -> None:
    shown = dict(record.contacts({}))
    assert shown["War room"].endswith("no escalation level calls it, so no warning counts it")
    assert sum("no escalation level" in said for said in shown.values()) == 1


def test_a_notebook_of_the_repository_has_its_path(tmp_path: Path) -> None:
    scores = Check("values out of range", Verdict.WARNING, 3, 0, "values", ReasonCode.INVALID_SCORES)
    page = read(run_page(make_run(tmp_path / "r", [result("10", Verdict.WARNING, checks=[scores])])))
    assert "notebooks/42_invalid_scores.ipynb" in cells_of(page, "values out of range").get_text()


_HEAD = b"collection,id,field,old,new,rule\n"


@pytest.mark.parametrize(
    ("file", "head", "piece", "why"),
    [
        ("22_changes.csv.gz", _HEAD, b"a" * 1000, "a line is longer than 2.0 MB"),
        ("22_changes.csv.gz", _HEAD, b'"a\n",' * 200, "a row is longer than 2.0 MB"),
        ("22_quarantine.jsonl.gz", b"", b"a" * 1000, "a line is longer than 2.0 MB"),
    ],
)
@pytest.mark.more
def test_a_list_with_a_line_of_gigabytes_is_not_read_into_memory(
    tmp_path: Path, file: str, head: bytes, piece: bytes, why: str
) -> None:
    """A judged folder is written by others: 3 MB of gzip are a line of 3 GB. The last row says where the list ends."""
    run = make_run(tmp_path / "r", [result("22")])
    with gzip.open(run / file, "wb", compresslevel=1) as packed:
        packed.write(head + piece * 30_000)
    view = read_run(run)
    tracemalloc.start()
    (row,) = view.changes if head else view.quarantined
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 25_000_000
    assert f"{file} cannot be read on: {why}" in row.values()


@pytest.mark.parametrize("damage", [b"a,b\n", b"a,b,c,d,e,f,g\n", b"\xff\n"])
def test_a_list_with_a_damaged_row_says_where_it_ends(tmp_path: Path, damage: bytes) -> None:
    run = make_run(tmp_path / "r", [result("22")])
    (run / "22_changes.csv.gz").write_bytes(gzip.compress(_HEAD + b"notes,a,f,1,2,clamp\n" + damage))
    first, last = read_run(run).changes
    assert (first["id"], first["new"]) == ("a", "2")
    assert last["new"].startswith("22_changes.csv.gz cannot be read on: ")
    (run / "22_changes.csv.gz").write_bytes(gzip.compress(b"a,b\n1,2\n"))
    (only,) = read_run(run).changes
    assert only["new"].endswith("it has no column collection")

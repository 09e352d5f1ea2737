"""Every number of a run is the same wherever it is shown, and can be computed again from its results; a planted one is named."""

from __future__ import annotations

import csv
import datetime as dt
import gzip
import json
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bs4 import BeautifulSoup

from helpers import status
from helpers.formatting import count, duration, harmless, merged_answers
from helpers.report import numbers, read_run
from helpers.report.pages import index_page, run_page
from helpers.report.record import findings, record
from helpers.results import write_json
from helpers.run.folders import RunFolder
from helpers.steps import index
from helpers.steps.dry_run import rows

RUN = "old-run"
Edit = Callable[[dict[str, Any]], None]


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A finished rehearsal of 120 chunks, made by the toolkit itself; its pages are rendered by today's."""
    with tarfile.open(Path(__file__).parent / "data" / "run-of-2026-11.tar.xz") as packed:
        packed.extractall(tmp_path, filter="data")
    return RunFolder(RUN, tmp_path / "reports" / RUN, tmp_path / "workspace" / RUN)


def raw(run: RunFolder, step: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run.reports / "results" / f"{step}.json").read_text(encoding="utf-8"))
    return found


def edit(run: RunFolder, step: str, change: Edit) -> None:
    found = raw(run, step)
    change(found)
    write_json(run.reports / "results" / f"{step}.json", found)


def page(run: RunFolder) -> BeautifulSoup:
    return BeautifulSoup(run_page(run.reports), "html.parser")


def tiles(found: BeautifulSoup) -> dict[str, tuple[str, str]]:
    """Label → (value, note); what a tile leads to is on the page."""
    for link in found.select(".tile a"):
        assert found.find(id=str(link["href"]).removeprefix("#")) is not None, link
    for link in found.select(".tile a"):
        link.extract()
    parts = [[d.get_text(" ", strip=True) for d in tile.find_all("div")] for tile in found.select(".tile")]
    return {label: (value, note) for label, value, note in parts}


def took(result: dict[str, Any]) -> float:
    begun, ended = (dt.datetime.fromisoformat(result[key]) for key in ("started", "finished"))
    return (ended - begun).total_seconds()


def test_the_figures_of_the_first_screen_are_those_of_the_results(run: RunFolder) -> None:
    shown, by_collection, repairs = (
        tiles(page(run)),
        raw(run, "23")["facts"]["counts"],
        raw(run, "22")["facts"]["repairs"],
    )
    assert shown["Chunks in source"][0] == f"{sum(row['source'] for row in by_collection):,}"
    assert shown["Migrated"] == (f"{sum(row['target'] for row in by_collection):,}", "100 % of the source")
    assert shown["Quarantined"][0] == f"{sum(raw(run, '23')['facts']['quarantine'].values()):,}"
    assert shown["Different"][0] == f"{raw(run, '23')['facts']['differing_chunks']:,}"
    filled = sum(row["chunks"] for row in repairs if row["rule"] == "missing")
    kinds = {rule: sum(row["chunks"] for row in repairs if row["rule"] == rule) for rule in ("derived", "set")}
    assert (shown["Defaults filled"][0], shown["Values changed"][0]) == (f"{filled:,}", "0")
    assert shown["Values derived"][0] == f"{kinds['derived']:,}"
    assert filled > 0
    words = f"0 changed; missing before: {filled:,} got a default, {kinds['derived']:,} what the document tells, {kinds['set']:,}"
    assert any(caption.get_text().startswith(f"{sum(kinds.values()) + filled:,} values in all: {words}")
               for caption in page(run).select("caption"))  # fmt: skip
    said = {item.label: item.measured for item in record(read_run(run.reports))}
    assert said["Field values"].startswith(words)
    assert shown["Write downtime"][0] == "none"


def test_a_rollback_takes_the_same_time_wherever_one_looks(run: RunFolder) -> None:
    result = raw(run, "27")
    phases = {
        p["name"]: dt.datetime.fromisoformat(p["started"]) + dt.timedelta(seconds=p["seconds"])
        for p in result["phases"]
    }
    begun = dt.datetime.fromisoformat(result["started"])
    back, clean = ((phases[name] - begun).total_seconds() for name in ("Lift the write fence",
                                                                     "Remove from the target what the run made"))  # fmt: skip
    ends = "restarted and fence lifted; no write was observed"
    words = f"service back after {back:.1f} s ({ends}), target clean after {clean:.1f} s"
    assert 0 < back < clean < 10
    found = page(run)
    assert tiles(found)["Rollback measured"] == (
        f"{back:.1f} s",
        f"until service is back: {ends}; target clean after {clean:.1f} s; before closeout, fence up",
    )
    assert words in found.find(id="rollback").find_next("caption").get_text()  # type: ignore[union-attr]
    said = {item.label: item.measured for item in record(read_run(run.reports))}
    assert said["Rollback triggered"].endswith(words)
    seconds, how = status.rollback_seconds(run.read())
    assert (seconds, how) == (clean, f"measured: {words}")
    assert [known for _, _, known in index.times(run.read())] == [
        f"{back:.1f} s (measured in this run's drill: {ends})", f"{clean:.1f} s (measured in this run's drill)",
    ]  # fmt: skip


def test_every_time_of_a_rollback_is_in_one_table_with_what_it_counts(run: RunFolder) -> None:
    drill = {"began": "2026-11-28T07:26:50+00:00", "ended": "2026-11-28T07:27:21.500+00:00", "put_back": {"a": 1}}
    write_json(run.reports / "drills" / "rollback.json", drill)
    edit(run, "14", lambda r: r["facts"].update(night={"way_back_seconds": 14.2}))
    table = page(run).find(id="rollback-times").find_next("table")  # type: ignore[union-attr]
    shown = {row.find("th").get_text(): row.find_all("td")[1].get_text() for row in table.select("tbody tr")}  # type: ignore[union-attr]
    found = numbers.rollback(read_run(run.reports).results["27"])
    assert found is not None
    guess = took(raw(run, "21")) + took(raw(run, "22"))
    phases = {p["name"]: (dt.datetime.fromisoformat(p["started"]), p["seconds"]) for p in raw(run, "27")["phases"]}
    last, seconds = phases["Remove from the target what the run made"]
    stages = (last - min(at for at, _ in phases.values())).total_seconds() + seconds
    expected = {
        "Estimate announced": 14.2, "Estimate after step 22": guess, "Service back": found.service, "Target clean": found.clean,
        "Stages of step 27": stages,
        "Step 27": took(raw(run, "27")), "Whole rollback": found.whole, "Whole drill": 31.5,
    }  # fmt: skip
    assert {name: shown[name] for name in expected} == {name: duration(seconds) for name, seconds in expected.items()}
    assert status.rollback_seconds(run.read())[0] == found.clean
    assert tiles(page(run))["Rollback measured"][0] == shown["Service back"]
    known = {row.find("th").get_text(): row.find_all("td")[2].get_text() for row in table.select("tbody tr")}  # type: ignore[union-attr]
    parts = [f"step {n} {duration(took(raw(run, n)))} (measured)" for n in ("21", "22")]
    assert known["Estimate after step 22"] == " + ".join(parts)


def test_the_basis_of_a_rollbacks_estimate_is_beside_it(run: RunFolder) -> None:
    """Step 22 was killed and resumed: what its second half took is not what the whole takes."""
    edit(run, "22", lambda r: r["facts"].update(resumed=1))
    by_part = {p["part"]: p["seconds"] for p in raw(run, "13")["facts"]["estimate"]}
    estimated = sum(seconds for part, seconds in by_part.items() if part.startswith("22 "))
    row = next(
        r for r in numbers.rollback_rows(read_run(run.reports).results, {}) if r.name == "Estimate after step 22"
    )
    assert row.seconds == pytest.approx(took(raw(run, "21")) + estimated)
    assert row.known == (f"step 21 {duration(took(raw(run, '21')))} (measured) + step 22 {duration(estimated)} "
                         "(dry run's estimate; it was resumed)")  # fmt: skip


def killed_before(run: RunFolder, seconds: float = 5.4) -> None:
    """Step 22 was killed once, before it went through."""
    ended = dt.datetime.fromisoformat(raw(run, "22")["started"]) - dt.timedelta(seconds=3)
    error = {"code": "kernel_died", "line": "its kernel died (out of memory, or killed)", "type": "EnvironmentFailure"}
    nothing: dict[str, Any] = {
        "checks": [],
        "phases": [],
        "facts": {},
        "figures": [],
        "error": error,
        "verdict": "fail",
    }
    first = raw(run, "22") | nothing
    first |= {"started": (ended - dt.timedelta(seconds=seconds)).isoformat(), "finished": ended.isoformat()}
    write_json(run.reports / "earlier" / "2026-11-28T072535.000" / "results" / "22.json", first)


def test_an_attempt_that_does_not_count_is_in_every_table_of_times(run: RunFolder) -> None:
    killed_before(run)
    view, found = read_run(run.reports), page(run)
    lines = found.find(id="steps").find_next("table").select("tbody tr")  # type: ignore[union-attr]
    shown = [[cell.get_text(" ", strip=True) for cell in row.find_all(["th", "td"])] for row in lines]
    mine = [(row[0], row[1].split()[-1], row[4]) for row in shown if row[0].startswith("22 ")]
    last = duration(took(raw(run, "22")))
    assert mine == [("22 Migrate, attempt 1 of 2", "failed", "5.4 s"), ("22 Migrate, attempt 2 of 2", "pass", last)]
    listed = [(r["step"], round(r["actual"], 1)) for r in rows(view.results, view.attempts) if r["number"] == "22"]
    assert listed == [
        ("22 Migrate, attempt 1 of 2: failed", 5.4),
        ("22 Migrate, attempt 2 of 2", round(took(raw(run, "22")), 1)),
    ]
    said = next(item.measured for item in record(view) if item.label.startswith("Execution time"))
    assert "5.4 s of earlier attempts" in said
    assert sum(text.get_text() == "22 Migrate (1)" for text in found.select(".gantt text")) == 1
    assert numbers.disagreements(view.results, view.attempts) == []


def test_what_several_steps_found_is_one_warning_wherever_warnings_are_counted(run: RunFolder) -> None:
    again = {"name": "fields that contradict", "verdict": "warning", "measured": 4, "threshold": 0, "unit": "values",
             "relation": "=", "reason": "metadata_contradicts"}  # fmt: skip
    for step, detail in (
        ("11", "core: language in 4 chunks"),
        ("13", "corpus: 4"),
        ("23", "corpus: 4; in the source: 4"),
    ):
        edit(run, step, lambda r, detail=detail: r["checks"].append(again | {"detail": detail}))  # type: ignore[misc]
    edit(run, "53", lambda r: r["checks"].append(again | {"name": "time", "reason": "too_slow", "detail": "47 s"}))
    warned: dict[tuple[str, str, str], list[str]] = {}
    for path in sorted((run.reports / "results").glob("*.json")):
        for c in json.loads(path.read_text())["checks"]:
            if c["verdict"] in ("warning", "marginal", "fail") and c["name"] != "decision":
                warned.setdefault((c["reason"], c["name"], str(c["measured"])), []).append(path.stem)
    assert ["11", "13", "23"] in warned.values()
    found, view = page(run), read_run(run.reports)
    heading = found.find(id="findings")
    assert heading is not None
    assert heading.get_text() == f"Warnings and failures: {len(warned)}"
    lines = findings(view)
    assert len(lines) == len(warned)
    assert sum(line.startswith("Steps 11, 13, 23, fields that contradict (warning): 4 values") for line in lines) == 1
    before = sum(steps[0] <= "24" for steps in warned.values())
    caption = heading.find_next("caption").get_text()  # type: ignore[union-attr]
    assert caption.startswith(f"{before} known at the decision (steps 11, ")
    assert f"{len(warned) - before} found after it (step" in caption
    tree = found.select_one(".tree")
    assert tree is not None
    new = sum("23" <= steps[0] <= "24" for steps in warned.values())
    assert f"Of {before} warnings known at the decision, {new} {'is' if new == 1 else 'are'} new here" in tree.get_text(
        " ", strip=True
    )


def test_quarantined_chunks_are_listed_by_name_and_the_whole_file_says_how_it_is_read(run: RunFolder) -> None:
    chunks = [{"collection": "core", "id": f"c{n}", "reason": "missing_document", "detail": "no document", "embedding": [0.1]}
              for n in range(3)]  # fmt: skip
    with gzip.open(run.reports / "22_quarantine.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(f"{json.dumps(chunk)}\n" for chunk in chunks)
    edit(run, "23", lambda r: r["facts"].update(quarantine={"missing_document": 3}))
    table = page(run).find(id="quarantined").find_next("table")  # type: ignore[union-attr]
    listed = [[cell.get_text() for cell in row.find_all(["td", "th"])] for row in table.select("tbody tr")]  # type: ignore[union-attr]
    assert listed == [[c["collection"], c["id"], c["reason"], c["detail"]] for c in chunks]
    assert "zcat 22_quarantine.jsonl.gz | less" in table.caption.get_text()  # type: ignore[union-attr]


def test_whom_to_call_is_one_click_from_the_headline(run: RunFolder) -> None:
    found = page(run)
    links = [link["href"] for link in found.h1.find_next("p").find_all("a")]  # type: ignore[union-attr]
    assert links == ["#contacts", "#rollback"]
    assert all(found.find(id=str(link).removeprefix("#")) for link in links)


def test_what_clients_of_merged_collections_are_answered_sums_to_all() -> None:
    said = merged_answers({"shared_expected": 0.332, "from_others": 0.65}, 10)
    assert sum(map(float, re.findall(r"([\d.]+) %", said))) == pytest.approx(100.0)
    assert merged_answers({"shared_expected": 0.4, "from_others": 0.6}, 10).count("%") == 2


def test_collections_changed_chunks_and_results_of_merged_ones_are_on_the_first_screen(run: RunFolder) -> None:
    changed = [
        ("core", f"c{n}", field, "'1.4'", "1.0", "clamp") for n, field in ((1, "score"), (1, "line"), (2, "score"))
    ]
    rows = [{"collection": "core", "field": f, "rule": "clamp", "chunks": n} for f, n in (("score", 2), ("line", 1))]
    edit(run, "22", lambda r: r["facts"].update(repairs=rows, chunks_changed=2, changes_file=3))
    with gzip.open(run.reports / "22_changes.csv.gz", "wt", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(
            [("collection", "id", "field", "old", "new", "rule"), *[map(harmless, row) for row in changed]]
        )
    whole = {"recall": 0.93, "low": 0.9, "high": 0.95, "queries": 40, "filter": "none", "scope": "unrestricted"}
    whole |= {"verdict": "pass", "shared_expected": 0.33, "from_others": 0.65, "shared_filtered": 0.75}
    whole |= {"shared_low": 0.205, "shared_high": 0.485}
    sent = {"queries": 140, "sent": 420, "same": 0.985, "possible": 0.99, "low": 0.949, "high": 0.996}
    asked = {"collection": "core", "targets": ["a", "b"], "filter": {"origin": "core"}, "told_apart": True, "asked": 20,
             "why": "", "queries": 20, "same": 0.985, "possible": 1.0, "short": "", "low": 0.8, "high": 1.0}  # fmt: skip
    recall = {"k": 10, "others": True, "rows": [], "pooled": {"unrestricted": whole}}
    recall |= {"announced": {"rows": [asked], "pooled": sent}}
    edit(run, "23", lambda r: r["facts"].update(recall=recall))
    found = page(run)
    shown = tiles(found)
    by_source, by_target = raw(run, "23")["facts"]["counts"], raw(run, "23")["facts"]["targets"]
    assert shown["Collections, source → target"][0] == f"{len(by_source)} → {len(by_target)}"
    assert shown["Values changed"][0] == "3"
    assert "in 2 chunks" in shown["Values changed"][1]
    assert shown["Same results, asked as announced"][0] == "98.5 %"
    assert shown["Same results, asked as announced"][1] == (
        "a sample, really sent: 140 queries, own chunk left out; 95 % (Wilson): 94.9 % to 99.6 %; "
        "with the new name alone: 33.0 % of 40, with its filter, too, calculated: 75.0 %"
    )
    assert max(len(note) for _, note in shown.values()) <= 170, (
        "a longer note pushes the sign-offs off the first paper page"
    )
    table = found.find(id="changes").find_next("table")  # type: ignore[union-attr]
    listed = [[cell.get_text() for cell in row.find_all(["td", "th"])] for row in table.select("tbody tr")]  # type: ignore[union-attr]
    assert listed == [list(row) for row in changed]
    assert "3 values in 2 chunks" in table.caption.get_text()  # type: ignore[union-attr]
    assert table.caption.a["href"] == "22_changes.csv.gz"  # type: ignore[union-attr,index]
    assert numbers.disagreements(read_run(run.reports).results) == []


def test_what_the_window_took_is_one_number(run: RunFolder) -> None:
    window = {n: raw(run, n) for n in ("20", "21", "22", "23", "24", "25")}
    worked = sum(map(took, window.values()))
    wall = dt.datetime.fromisoformat(window["25"]["finished"]) - dt.datetime.fromisoformat(window["20"]["started"])
    view = read_run(run.reports)
    found = numbers.forward(view.results)
    assert found is not None
    assert (found.work, found.starts, found.wall) == pytest.approx((worked, 0.0, wall.total_seconds()))
    said = next(item.measured for item in record(view) if item.label.startswith("Execution time"))
    assert said == f"1 min 22 s from step 20 to the end of step 25: {worked:.0f} s of work, the rest between the steps"
    every = sum(took(json.loads(p.read_text())) for p in (run.reports / "results").glob("*.json") if p.stem != "27")
    assert f"{int(every // 60)} min {round(every % 60):02d} s" in index_page(run.reports.parent)


def test_notebook_starts_are_in_the_estimate_and_in_what_it_is_compared_with(run: RunFolder) -> None:
    edit(run, "22", lambda r: r["facts"].update(launched="2026-11-28T07:25:36.084+00:00"))  # 8 s before it began
    edit(
        run,
        "13",
        lambda r: r["facts"]["estimate"].append({"part": "20–25 notebook starts", "seconds": 48.0, "basis": ""}),
    )
    results = read_run(run.reports).results
    assert numbers.start_seconds(results["22"]) == pytest.approx(8.0)
    row = next(r for r in rows(results) if r["number"] == "22")
    assert row["actual"] == pytest.approx(took(raw(run, "22")) + 8.0)
    assert row["estimate"] == pytest.approx(1.793 + 8.0)
    assert status.estimated_seconds(run.read(), "22") == pytest.approx(1.793)  # the step's own work
    found = numbers.forward(results)
    assert found is not None
    assert found.starts == pytest.approx(8.0)


def sum_off(facts: dict[str, Any], table: str, key: str) -> None:
    facts[table][0][key] += 1


PLANTED: dict[str, tuple[str, Edit, str]] = {
    "source": ("21", lambda r: r["facts"]["snapshot"].update(chunks=121), "chunks in the source: 121 (step 21) and 120 (s"),
    "source by name": ("23", lambda r: sum_off(r["facts"], "counts", "source"), "chunks in the source: 120 (step 22) and 1"),
    "source of the matrix": ("23", lambda r: r["facts"]["matrix_inputs"].update(chunks=119),
                             "chunks in the source: 120 (step 23, by collection) and 119 (step 23, matrix)"),
    "target": ("22", lambda r: sum_off(r["facts"], "arrivals", "target"), "chunks in the target: 121 (step 22) and 120"),
    "target by collection": ("23", lambda r: sum_off(r["facts"], "targets", "target"),
                             "chunks in the target: 120 (step 23, by source collection) and 121 (step 23, by target collection)"),
    "routing": ("22", lambda r: sum_off(r["facts"], "routing", "chunks"),
                "chunks: 121 (routed, to quarantine included) and 120 (in the source)"),
    "quarantine": ("23", lambda r: r["facts"]["quarantine"].update(missing_document=3), "chunks quarantined: 0 (step 22) and 3"),
    "collections": ("22", lambda r: r["facts"]["routing"][0].update(target="other"),
                    "collections in the target: 5 (step 22, routed) and 4 (step 23, counted)"),
    "changed values": ("22", lambda r: r["facts"].update(changes_file=2), "values changed: 0 (step 22, by field) and 2 ("),
    "changed chunks": ("22", lambda r: r["facts"].update(chunks_changed=2), "changed: 2 (chunks, step 22) and 0 (values"),
    "changed, counted twice": (
        "23", lambda r: r["facts"].update(metadata={"changed": 4}), "values, changed: 0 (step 22) and 4 (step 23)",
    ),
    "derived for defaults": ("23", lambda r: r["facts"].update(metadata={"derived": 1}), "values, derived: 0 (step 22) and 1 ("),
    "ids rewritten": ("23", lambda r: r["facts"].update(metadata={"ids_rewritten": {"chunks": 7}}),
                      "ids rewritten: 120 (step 22) and 7 (step 23)"),
    "queries asked": (
        "23", lambda r: r["facts"].update(recall={"k": 10, "rows": [{"scope": "restricted", "queries": 3}],
                                                  "pooled": {"restricted": {"queries": 4, "recall": None}}}),
        "queries, restricted: 4 (step 23, pooled) and 3 (step 23, by collection)",
    ),
    "write downtime": ("53", lambda r: r["facts"].update(downtime_seconds=90.1), "write downtime: 0.0 s (steps 20 and 25) and"),
    "an attempt": ("22", lambda r: r.update(started="2026-11-28T07:20:00.000+00:00"), "step 22 Migrate, attempt 1 of 2: it e"),
    "a step's end": ("24", lambda r: r.update(finished="2026-11-28T07:20:00.000+00:00"), "step 24: it ended"),
    "a phase": ("22", lambda r: r["phases"][0].update(seconds=900.0), "step 22: its phase 1 export does not lie between"),
}  # fmt: skip


def test_a_run_whose_figures_agree_says_nothing(run: RunFolder) -> None:
    assert numbers.disagreements(read_run(run.reports).results) == []
    assert "FIGURES DISAGREE" not in run_page(run.reports)


@pytest.mark.parametrize("kind", PLANTED)
def test_a_planted_contradiction_is_on_the_first_screen(run: RunFolder, kind: str) -> None:
    step, change, said = PLANTED[kind]
    moved = sum(row["target"] for row in raw(run, "22")["facts"]["arrivals"])
    edit(run, "22", lambda r: r["facts"].update({"import": {"to_write": moved}, "ids_rewritten": 120}))
    if kind == "an attempt":
        killed_before(run)
    edit(run, step, change)
    view = read_run(run.reports)
    assert any(line.startswith(said) for line in numbers.disagreements(view.results, view.attempts))
    banner = page(run).select_one(".banner")
    assert banner is not None
    assert re.search(f"FIGURES DISAGREE: .*{re.escape(said)}", banner.get_text(" ", strip=True))


def test_a_number_and_its_noun_agree() -> None:
    said = [count(n, noun) for noun in ("query", "batch", "chunk of others", "day") for n in (1, 9832)]
    assert said == ["1 query", "9,832 queries", "1 batch", "9,832 batches", "1 chunk of others", "9,832 chunks of others",
                    "1 day", "9,832 days"]  # fmt: skip
    assert count(2) == "2"

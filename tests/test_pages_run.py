"""The page of a run and the index of runs: what they say, from files alone, whatever those files hold."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pandas as pd
import pytest
from bs4 import BeautifulSoup, Tag

from helpers import plots
from helpers.reason_codes import ReasonCode
from helpers.report.pages import index_page, linked, run_page
from helpers.results import Check, Phase, StepResult, Verdict, write_json
from tests.signers import Signers

HOSTILE = "<script>alert(1)</script>\x1b[2J\u202egnp.exe\x00 ${jndi:x} =HYPERLINK(1) \ud800"
ROLES = ["operations_lead", "dba", "security"]
TITLES = {"10": "Source health", "21": "Snapshot", "22": "Migrate", "23": "Validate", "24": "Review and decide"}


class Result(StepResult):
    """A result that belongs to the run in whose folder it is written."""

    def write(self, path: Path) -> str:
        self.run_id = path.parent.parent.name
        return super().write(path)


def result(number: str, verdict: Verdict = Verdict.PASS, **more: Any) -> StepResult:
    """A finished step that took 90 seconds."""
    hour = f"2025-12-01T02:{number}"
    more = {"checks": [Check("counts", Verdict.PASS, 9800, 9800, "chunks")], **more}
    return Result(
        number, TITLES.get(number, "Step"), "night-1", f"{hour}:00.000+00:00", f"{hour[:-2]}59:30.000+00:00", verdict, **more
    )  # fmt: skip


def make_run(folder: Path, results: list[StepResult], **facts: Any) -> Path:
    """A run's folder with these results and what every run has."""
    run = {"id": folder.name, "name": "Production", "created": "2025-12-01T02:00:00.000+00:00", "rehearsal": False}
    run |= {"date": "2025-12-01", "directory": str(folder)}
    write_json(folder / "run.json", {**run, "dry_run": False, "until": "", "user": "dba", "host": "db1", **facts})
    (folder / "parameters.yaml").write_text(
        "source: {path: old}\ntarget: {url: 'http://db2:8000'}\nschema: if_ttt\n"
        f"signoff: {{required: {json.dumps(ROLES)}}}\n", encoding="utf-8",
    )  # fmt: skip
    for found in results:
        found.write(folder / "results" / f"{found.step}.json")
        (folder / f"{found.step}_notebook.ipynb").write_text("{}", encoding="utf-8")
        (folder / f"{found.step}_notebook.html").write_text("x", encoding="utf-8")
    return folder


KEYS: list[Signers] = []


@pytest.fixture(scope="module", autouse=True)
def keys(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Real keys for the three roles, with which `sign` signs."""
    KEYS[:] = [Signers(tmp_path_factory.mktemp("keys"))]


def sign(folder: Path, role: str, decision: str = "go", **more: Any) -> None:
    """A signature over the results as they were when somebody first signed."""
    KEYS[0].sign_any(folder, role, decision, **more)


def scribble(folder: Path, role: str, **said: Any) -> None:
    """A file in the place of a statement that nobody signed."""
    write_json(folder / "signoffs" / f"cutover-{role}.json", {"role": role, "accept": [], "rehearsal": False, **said})


def whole_night(verdict: Verdict = Verdict.PASS) -> list[StepResult]:
    """A night's results with every fact that the page reads."""
    bad = {"collection": "docs", "id": "chunk-7", "detail": "swapped"}
    failed = verdict is Verdict.FAIL
    tests = [
        Check("embeddings", verdict, int(failed), 0, "differences", ReasonCode.VECTOR_DIFFERS if failed else "",
              "vector differs: 1" if failed else "", int(failed), [bad] if failed else []),
        Check("search equivalence", Verdict.PASS, 7, 7, "collections"),
    ]  # fmt: skip
    facts = {
        "counts": [{"collection": "docs", "source": 2100, "target": 2090, "quarantined": 10}],
        "quarantine": {"document_missing": 10},
        "queries": [{"text": "API authentication", "ok": True, "applicable": True, "found": 10, "distance": 0.41}],
        "matrix_inputs": {"complete": 2090, "checked": 2090, "nan": 0, "lost": 0},
    }
    row = {"criterion": "Validation pass rate", "measured": "99.5 %", "verdict": verdict.value}
    matrix = [{**row, "pass": "> 99 %", "marginal": "95–99 %", "fail": "< 95 %"}]
    migrate = result("22", phases=[Phase("Import", "2025-12-01T02:22:10.000+00:00", 40.0, 2090)])
    migrate.facts = {"repairs": [{"field": "language", "rule": "default", "chunks": 4}] * 2}
    error = {"code": "no_go", "type": "NoGo", "line": "Validate: embeddings"} if failed else None
    decision = "NO-GO" if failed else "GO"
    return [
        result("10", facts={"dimensions": {"docs": 1536}}), result("21"), migrate,
        result("23", verdict, checks=tests, facts=facts, error=error),
        result("24", verdict, facts={"matrix": matrix, "decision": decision}, error=error),
    ]  # fmt: skip


def read(html: str) -> BeautifulSoup:
    return BeautifulSoup(html, "html.parser")


def banner(page: BeautifulSoup) -> str:
    found, head = page.select_one(".banner"), page.h1
    assert found is not None
    assert head is not None
    return f"{head.get_text(' ', strip=True)} {found.get_text(' ', strip=True)}"


def cells(page: BeautifulSoup, heading: str) -> list[str]:
    """Texts of the row whose first cell begins with `heading`."""
    row = next(r for r in page.find_all("tr") if r.get_text(" ", strip=True).startswith(heading))
    return [cell.get_text(" ", strip=True) for cell in row.find_all(["td", "th"])]


def cells_of(page: BeautifulSoup, name: str) -> Tag:
    """The row of the warnings whose check has this name."""
    return next(row for row in page.select("table.notes tbody tr") if name in row.th.get_text())  # type: ignore[union-attr]


@pytest.fixture
def night(tmp_path: Path) -> Path:
    return make_run(tmp_path / "night-1", whole_night())


def test_a_signed_go(night: Path) -> None:
    for role in ROLES:
        sign(night, role)
    page = read(run_page(night))
    assert banner(page).startswith("GO, signed ")
    assert "Cut over" in banner(page)
    assert "Production" in page.header.get_text()  # type: ignore[union-attr]
    assert len(page.select(".sign")) == 3
    assert "dba@example.org" in page.select(".sign")[1].get_text()


def test_it_waits_for_those_who_have_not_signed(night: Path) -> None:
    sign(night, "dba")
    said = banner(read(run_page(night)))
    assert said.startswith("GO, waiting for signatures: 1 of 3")
    assert "Missing: operations lead, security" in said
    assert "runbook sign night-1 --role security --name NAME --decision go" in said
    assert "--role dba" not in said


def test_an_approval_of_other_results_does_not_count(night: Path) -> None:
    for role in ROLES:
        sign(night, role)
    result("21", checks=[]).write(night / "results" / "21.json")
    page = read(run_page(night))
    assert "waiting for signatures: 0 of 3" in banner(page)
    assert "The approval of dba is void: results/21.json changed since." in banner(page)
    assert "Does not count" in page.select(".sign")[0].get_text()


def test_unreadable_parameters_approve_nothing(night: Path) -> None:
    for role in ROLES:
        sign(night, role)
    (night / "parameters.yaml").write_text("[", encoding="utf-8")
    assert banner(read(run_page(night))).startswith("GO by the figures; the signatures cannot be judged")


def test_one_no_go_blocks(night: Path) -> None:
    for role in ROLES:
        sign(night, role)
    sign(night, "security", "no-go", reason="key not rotated")
    said = banner(read(run_page(night)))
    assert said.startswith("NO-GO by signature")
    assert "key not rotated" in said


def test_a_judged_no_go_names_check_and_chunk(tmp_path: Path) -> None:
    page = read(run_page(make_run(tmp_path / "night-1", whole_night(Verdict.FAIL))))
    assert banner(page).startswith("NO-GO")
    assert "embeddings: vector differs: 1" in banner(page)
    assert "Do not cut over" in banner(page)
    findings = page.find(id="findings")
    assert findings is not None
    assert "chunk-7" in findings.find_next("table").get_text()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("code", "headline"),
    [("source_unreachable", "FAILED in step 12 "), ("interrupted", "STOPPED on request in step 12 (Target readiness)")],
)
def test_a_run_that_stopped_at_12(tmp_path: Path, code: str, headline: str) -> None:
    broken = result(
        "12", Verdict.FAIL, error={"code": code, "type": "Transient", "line": "no answer in db2. Start it."}
    )
    broken.title = "" if code == "source_unreachable" else "Target readiness"
    page = read(run_page(make_run(tmp_path / "r", [result("10"), broken])))
    assert banner(page).startswith(headline)
    assert "runbook resume r" in banner(page)
    assert cells(page, "24 Review")[1] == "not run"
    assert page.find(id="matrix") is None
    assert "not recorded" in cells(page, "Counts by collection")[1]


def test_empty_and_broken_folders_still_have_a_page(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert banner(read(run_page(tmp_path / "empty"))).startswith("NOT STARTED")
    broken = make_run(tmp_path / "broken", [result("10"), result("22")])
    (broken / "results" / "22.json").write_text('{"step": "22", "ver', encoding="utf-8")
    (broken / "parameters.yaml").write_text(": [", encoding="utf-8")
    (broken / "run.json").write_text("nonsense", encoding="utf-8")
    assert "results/22.json cannot be read" in banner(read(run_page(broken)))


def test_tables_hold_the_facts(night: Path) -> None:
    page = read(run_page(night))
    assert cells(page, "Validation pass rate") == [
        "Validation pass rate",
        "99.5 %",
        "✓ pass",
        "> 99 %",
        "95–99 %",
        "< 95 %",
    ]
    assert cells(page, "docs")[1:] == ["2,100 → 2,090 + 10 quarantined (MATCH)", "✓ pass"]
    assert cells(page, "author field present")[1] == "YES (2,090/2,090, defaults not recorded)"
    assert cells(page, "Query “API authentication”")[1] == "YES (10 results, top distance 0.41)"
    assert cells(page, "Dimension consistency")[1] == "all 1536"
    assert cells(page, "Target http")[1] == "http://db2:8000 (2,090 chunks)"
    assert cells(page, "Vectors that differ")[1:] == ["0 differences (expected = 0 differences)", "✓ pass"]
    assert cells(page, "document_missing")[1] == "10"
    assert cells(page, "language · changed (default)")[1] == "8"
    assert cells(page, "22 Import")[2:] == ["40 s", "2,090", "52"]
    assert cells(page, "22 Migrate")[4] == "37 min 30 s"


def test_a_notebook_or_file_that_the_page_names_is_a_link_or_said_not_to_be_there(night: Path) -> None:
    found = Check(
        "values out of range", Verdict.WARNING, 3, 0, "values", ReasonCode.INVALID_SCORES, "See results/10.json."
    )
    result("10", Verdict.WARNING, checks=[found]).write(night / "results" / "10.json")
    row = cells_of(read(run_page(night)), "10 values out of range")
    assert "Notebook 42 (not run: notebooks/42_invalid_scores.ipynb of the repository)" in row.get_text()
    assert [a["href"] for a in row.find_all("a")] == ["results/10.json"]
    (night / "42_invalid_scores.html").write_text("x", encoding="utf-8")
    row = cells_of(read(run_page(night)), "10 values out of range")
    assert [a["href"] for a in row.find_all("a")] == ["results/10.json", "42_invalid_scores.html"]
    assert "not run" not in row.get_text()
    (night / "drills").mkdir()
    (night / "drills" / "put-back.json").write_text("{}", encoding="utf-8")
    drilled = linked("Drilled: rollback: all was put back (drills/rollback.json, drills/put-back.json).", night)
    assert [a["href"] for a in read(drilled).find_all("a")] == ["drills/put-back.json"]
    hostile = linked('<b>see results/11.json and "run.json"</b>, notebooks 10, 42 and 99', night)
    assert "<b>" not in hostile
    assert [a["href"] for a in read(hostile).find_all("a")] == [
        "run.json",
        "10_notebook.html",
        "42_invalid_scores.html",
    ]
    assert "results/11.json (not there)" in hostile
    assert "99 (not run)" in hostile


def test_links_lead_to_files_of_the_run(night: Path) -> None:
    links = [str(a["href"]) for a in read(run_page(night)).find_all("a", href=True)]
    local = [link for link in links if not link.startswith(("#", "../"))]
    assert "23_notebook.html" in local
    assert all((night / link).is_file() for link in local)


def test_figures_are_inside_with_their_text(night: Path) -> None:
    plots.save(plots.counts_by_collection(pd.DataFrame()), night / "figures" / "23_counts.png")
    listed = result("23", figures=[{"name": "counts", "file": "23_counts.png", "caption": "Counts <b>now</b>"},
                                   {"name": "gone", "file": "../../etc/passwd", "caption": "Gone"}])  # fmt: skip
    listed.write(night / "results" / "23.json")
    page = read(run_page(night))
    (image,) = page.find_all("img")
    assert str(image["src"]).startswith("data:image/png;base64,iVBOR")
    assert image["alt"] == "Counts <b>now</b>"
    assert "figures/passwd is not in the folder" in page.get_text()


def test_a_rehearsal_is_marked(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "r", whole_night(), rehearsal=True)
    for role in ROLES:
        sign(folder, role)
    text = read(run_page(folder)).get_text()
    assert "REHEARSAL" in text
    assert "signatures are made by the machine, with throw-away keys" in text
    assert text.count("signed by the machine with a throw-away key, not by a person.") == 3, "at each signature"


def hostile_run(tmp_path: Path) -> Path:
    """Hostile text in every place that the page shows."""
    check = Check(
        HOSTILE, Verdict.FAIL, HOSTILE, HOSTILE, HOSTILE, cast(ReasonCode, HOSTILE), HOSTILE + "x" * 5_000_000, 1,
        [{HOSTILE: HOSTILE}],
    )  # fmt: skip
    bad = result("23", Verdict.FAIL, checks=[check], phases=[Phase(HOSTILE, "2025-12-01T02:22:10+00:00", 4.0, 1)])
    bad.title = HOSTILE
    bad.facts = {
        "counts": [{"collection": HOSTILE, "source": 1, "target": 1, "quarantined": 0}],
        "matrix": [{"criterion": HOSTILE, "measured": HOSTILE, "verdict": HOSTILE}],
        "quarantine": {HOSTILE: 3}, "queries": [{"text": HOSTILE, "ok": False, "why": HOSTILE}],
        "repairs": [{"field": HOSTILE, "rule": HOSTILE, "chunks": 1}],
    }  # fmt: skip
    bad.figures = [{"name": HOSTILE, "file": HOSTILE, "caption": HOSTILE}]
    folder = make_run(tmp_path / "r", [bad], name=HOSTILE, user=HOSTILE, host=HOSTILE)
    scribble(folder, "dba", decision=HOSTILE, name=HOSTILE, reason=HOSTILE, when=HOSTILE, gate=HOSTILE)
    (folder / "parameters.yaml").write_text(f"source: {{path: '{HOSTILE[:25]}'}}\n", encoding="utf-8")
    return folder


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    folder = hostile_run(tmp_path)
    for html in (run_page(folder), index_page(tmp_path)):
        assert html.encode("utf-8")  # no lone surrogate
        assert read(html).find_all(["script", "iframe", "object", "form", "foreignobject"]) == []
        assert "<script>" not in html
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]", html)
        assert "\\u202egnp.exe" in html
    assert len(run_page(folder)) < 200_000
    assert "characters in all" in run_page(folder)


def test_nothing_is_asked_of_the_network_and_no_script_runs(night: Path) -> None:
    for html in (run_page(night), index_page(night.parent)):
        page = read(html)
        assert not re.search(r"(src|href|url\(|@import)[^>]{0,5}(https?:)?//", html)
        policy = page.select_one("meta[http-equiv=Content-Security-Policy]")
        assert policy is not None
        assert str(policy["content"]).startswith("default-src 'none'")
        assert page.html is not None
        assert page.html["lang"] == "en"


def test_headings_tables_and_skip_link_serve_a_screen_reader(night: Path) -> None:
    page = read(run_page(night))
    levels = [int(h.name[1]) for h in page.find_all(re.compile("^h[1-6]$"))]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    tables = page.find_all("table")
    assert tables
    assert all(t.caption is not None and t.find("th", scope="col") is not None for t in tables)
    assert all(t.find_parent(attrs={"tabindex": "0"})["aria-label"] for t in tables)  # type: ignore[index]
    skip = page.find("a")
    assert skip is not None
    assert page.find(id=str(skip["href"])[1:]) is not None
    ids = [str(e["id"]) for e in page.find_all(id=True)]
    assert len(ids) == len(set(ids))


def test_rendering_again_gives_the_same_bytes_and_writes_nothing(night: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in night.rglob("*")}
    first, index = run_page(night), index_page(night.parent)
    (night / "index.html").write_text(first, encoding="utf-8")
    (night / "run.log").write_text("grows", encoding="utf-8")
    assert "run.log" in run_page(night)
    assert run_page(night) == run_page(night)
    (night / "run.log").unlink()
    assert run_page(night) == first
    assert index_page(night.parent) == index
    (night / "index.html").unlink()
    assert {p: p.stat().st_mtime_ns for p in night.rglob("*")} == before


def test_the_index_lists_every_run_newest_first(tmp_path: Path) -> None:
    assert "No run yet" in index_page(tmp_path)
    make_run(tmp_path / "b-old", whole_night(Verdict.FAIL), created="2025-11-30T00:00:00.000+00:00")
    new = make_run(tmp_path / "a-new", whole_night(), rehearsal=True)
    sign(new, "dba")
    rows = read(index_page(tmp_path)).select("tbody tr")
    assert [r.code.get_text() for r in rows if r.code] == ["a-new", "b-old"]
    assert "waiting" in rows[0].get_text()
    assert "dba@example.org (dba, GO)" in rows[0].get_text()
    assert "rehearsal" in rows[0].get_text()
    assert "NO-GO" in rows[1].get_text()
    links = [str(a["href"]) for a in rows[0].find_all("a")]
    assert links == ["a-new/index.html", *(f"a-new/index.html#{part}" for part in ("steps", "signoffs", "record"))]
    ids = {str(e["id"]) for e in read(run_page(new)).find_all(id=True)}
    assert {link.partition("#")[2] for link in links[1:]} <= ids

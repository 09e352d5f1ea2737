"""Every page can be read with a screen reader, a keyboard, on paper and on a telephone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from helpers import plots
from helpers.reason_codes import ReasonCode
from helpers.report.pages import index_page, notebook_html, print_pdf, run_page
from helpers.results import Check, Verdict
from helpers.runner import fleet
from tests.browser import A4_LANDSCAPE, A4_PORTRAIT, BEYOND, END_OF_SIGNOFFS, PAGE_HEIGHT, Browser
from tests.browser import find as find_browser
from tests.conftest import absent, at_home
from tests.test_pages_run import ROLES, keys, make_run, read, result, sign, whole_night

__all__ = ["keys"]  # a fixture: real keys for `sign`

KINDS = ("go", "waiting", "no-go", "failed", "dry run", "empty", "index", "notebook", "fleet")


def render(kind: str, home: Path) -> str:
    """The page of a run of this kind, the page of all runs, or that of a notebook."""
    if kind == "go":
        folder = make_run(home / "r", whole_night(), rehearsal=True)
        for role in ROLES:
            sign(folder, role)
        return run_page(folder)
    if kind == "waiting":
        return run_page(make_run(home / "r", whole_night()))
    if kind == "no-go":
        return run_page(make_run(home / "r", whole_night(Verdict.FAIL)))
    if kind == "failed":
        error = {"code": "disk_full", "type": "Terminal", "line": "target: disk is full. Free disk space, then resume."}
        return run_page(make_run(home / "r", [*whole_night()[:2], result("22", Verdict.FAIL, error=error)]))
    if kind == "dry run":
        return run_page(make_run(home / "r", [result("10"), result("13")], dry_run=True, until="13"))
    if kind == "empty":
        return run_page(make_run(home / "r", []))
    if kind == "index":
        render("go", home / "x")
        make_run(home / "x" / "other", whole_night(Verdict.FAIL))
        return index_page(home / "x")
    return fleet_page(home) if kind == "fleet" else notebook_html(notebook(home))


def fleet_page(home: Path) -> str:
    """Of a fleet with a row that is done, one that failed, one that waits and one that has not begun."""
    with at_home(home):
        make_run(home / "reports" / "f-a", whole_night())
        make_run(home / "reports" / "f-b", [result("10"), result("11", Verdict.WARNING), result("12", Verdict.FAIL)])
        make_run(home / "reports" / "f-c", [*whole_night()[:2], result("13", Verdict.MARGINAL)])
        rows = [fleet.FleetRow(name, f"f-{name}", "") for name in "abcd"]
        rows[1].code, rows[1].line = 1, "step 12: the target is full. Free disk space, then resume."
        made = fleet.Fleet("f", "2025-12-01T02:00:00.000+00:00", str(home), "table.csv", "", "25", False, "", rows)
        return fleet.page(made, fleet.states(made))


def notebook(home: Path) -> Path:
    outputs: list[Any] = []
    for name in ("stdout", "stderr"):
        outputs.append(new_output("stream", name=name, text="words\n"))  # type: ignore[no-untyped-call]
    table = "<table><thead><tr><th></th><th>n</th></tr></thead><tbody><tr><th>core</th><td>3</td></tr></tbody></table>"
    outputs += [
        new_output("display_data", data={"text/html": table}),  # type: ignore[no-untyped-call]
        new_output("error", ename="NoGo", evalue="x", traceback=["NoGo: x"]),  # type: ignore[no-untyped-call]
    ]
    source = "# a comment\nfrom x import y\nrun = begin(globals(), step='23')  # why\nfor i in range(10): print('text', i, None)"
    cells = [
        new_markdown_cell("# Validate\n\nSome `code` and a [link](24_review.ipynb).\n\n## Next\n\n> a remark"),  # type: ignore[no-untyped-call]
        new_code_cell(source, outputs=outputs, execution_count=1),  # type: ignore[no-untyped-call]
    ]
    home.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=cells), home / "23_validate.ipynb")  # type: ignore[no-untyped-call]
    return home / "23_validate.ipynb"


@pytest.fixture(scope="module", params=KINDS)
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> BeautifulSoup:
    return read(render(request.param, tmp_path_factory.mktemp("page")))


def test_headings_begin_at_one_and_skip_no_level(page: BeautifulSoup) -> None:
    levels = [int(h.name[1]) for h in page.find_all(re.compile("^h[1-6]$"))]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_language_title_landmarks_and_a_way_past_the_head(page: BeautifulSoup) -> None:
    assert page.html is not None
    assert page.html["lang"] == "en"
    assert page.title is not None
    assert page.title.get_text(strip=True)
    assert len(page.find_all("main")) == 1
    assert page.find("header") is not None
    skip = page.find("a")
    assert skip is not None
    target = page.find(id=str(skip["href"])[1:])
    assert target is not None
    assert target.name == "main"


def test_pictures_have_words(page: BeautifulSoup) -> None:
    for image in page.find_all("img"):
        assert str(image["alt"]).strip()
    for drawing in page.find_all("svg"):
        assert drawing["role"] == "img"
        assert page.find(id=str(drawing["aria-labelledby"])).get_text(strip=True)  # type: ignore[union-attr]


def test_tables_say_what_their_heads_head(page: BeautifulSoup) -> None:
    for head in page.find_all("th"):
        assert head.get("scope") in ("col", "row", "colgroup", "rowgroup")
    for table in page.find_all("table"):
        assert table.find("th", scope="col") is not None
        assert table.caption is not None or table.find_parent(attrs={"aria-label": True}) is not None


def test_what_scrolls_can_be_reached_with_the_keyboard_and_has_a_name(page: BeautifulSoup) -> None:
    for box in page.select(".scroll, .output"):
        assert box["tabindex"] == "0"
        assert str(box["aria-label"]).strip()
    assert not page.find_all(tabindex=re.compile("[1-9]"))


def test_ids_are_unique_and_links_say_where_they_lead(page: BeautifulSoup) -> None:
    ids = [str(e["id"]) for e in page.find_all(id=True)]
    assert len(ids) == len(set(ids))
    by_text: dict[str, set[str]] = {}
    for link in page.find_all("a"):
        text = str(link.get("aria-label") or link.get_text(" ", strip=True))
        assert text
        assert not str(link["href"]).startswith("#") or str(link["href"])[1:] in ids
        by_text.setdefault(text, set()).add(str(link["href"]))
    ambiguous = {text: places for text, places in by_text.items() if len(places) > 1}
    assert ambiguous == {}


def test_a_verdict_is_a_word_and_not_a_colour(page: BeautifulSoup) -> None:
    for badge in page.select(".v"):
        assert re.search("[a-z]", badge.get_text(), re.IGNORECASE)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with Browser(
        find_browser() or absent("chromium", "it measures the contrast of the pages as they are shown")
    ) as found:
        yield found


@pytest.mark.more
@pytest.mark.parametrize("kind", ["go", "no-go", "index", "notebook", "fleet"])
def test_every_text_has_the_contrast_of_wcag_aa_and_fits_a_telephone(
    kind: str, tmp_path: Path, chromium: Browser
) -> None:
    page = tmp_path / "page.html"
    page.write_text(render(kind, tmp_path), encoding="utf-8")
    assert chromium.visit(page, width=390, picture=tmp_path / "390.png").seen["wide"] <= 0
    assert chromium.faint() == []


def test_the_measure_of_contrast_sees_faint_text(tmp_path: Path, chromium: Browser) -> None:
    page = tmp_path / "page.html"
    page.write_text("<body><p style='color:#888;background:#999'>faint</p><p>plain</p>", encoding="utf-8")
    chromium.visit(page)
    (found,) = chromium.faint()
    assert "faint" in found


def test_paper_shows_what_the_screen_folds_away_and_no_navigation(tmp_path: Path, chromium: Browser) -> None:
    page = tmp_path / "page.html"
    page.write_text(render("no-go", tmp_path), encoding="utf-8")
    chromium.visit(page, unfold=False)
    assert not chromium.shows("details:not(.screen):not([open]) li", paper=False)
    assert chromium.shows("details:not(.screen) li", paper=True)
    assert not chromium.shows("details.screen", paper=True)  # the list of files and the parameters are in the folder
    assert chromium.shows("nav", paper=False)
    assert not chromium.shows("nav", paper=True)
    chromium.pdf(tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")


def test_every_column_of_a_wide_table_is_on_the_paper(tmp_path: Path, chromium: Browser) -> None:
    heads = "".join(f"<th>a_field_of_metadata_{n}</th>" for n in range(28))
    row = "".join(f"<td>value {n} of some length</td>" for n in range(28))
    table = f"<table><thead><tr>{heads}</tr></thead><tbody><tr>{row}</tr></tbody></table>"
    shown = new_output("display_data", data={"text/html": table})  # type: ignore[no-untyped-call]
    cell = new_code_cell("table", outputs=[shown], execution_count=1)  # type: ignore[no-untyped-call]
    nbformat.write(new_notebook(cells=[cell]), tmp_path / "wide.ipynb")  # type: ignore[no-untyped-call]
    (tmp_path / "wide.html").write_text(notebook_html(tmp_path / "wide.ipynb"), encoding="utf-8")
    chromium.visit(tmp_path / "wide.html", width=A4_LANDSCAPE)
    assert chromium.on_paper(A4_LANDSCAPE, BEYOND) == 0
    chromium.shows("table", paper=False)


@pytest.mark.more
def test_a_run_page_is_twelve_pages_at_most_and_signed_on_the_first(tmp_path: Path, chromium: Browser) -> None:
    """With sixteen warnings and two dozen figures, as a large run has."""
    night = whole_night()
    night[0].checks = [
        Check(f"check {n}", Verdict.WARNING, n, 0, "chunks", ReasonCode.MISSING_METADATA, "What was found, in a sentence "
              "as long as they are: language 20, author 18, category 16, source 14") for n in range(16)
    ]  # fmt: skip
    counted = pd.DataFrame({"collection": list("abcdefg"), "source": 9, "target": 9, "quarantined": 0})
    plots.save(plots.counts_by_collection(counted),
               tmp_path / "r" / "figures" / "10_0.png")  # fmt: skip
    night[0].figures = [
        {"name": f"f{n}", "file": "10_0.png", "caption": "All of it, by collection."} for n in range(24)
    ]
    folder = make_run(tmp_path / "r", night)
    for role in ROLES:
        sign(folder, role)
    (folder / "index.html").write_text(run_page(folder), encoding="utf-8")
    chromium.visit(folder / "index.html", width=A4_PORTRAIT, unfold=False)
    assert chromium.on_paper(A4_PORTRAIT, END_OF_SIGNOFFS) < PAGE_HEIGHT
    assert chromium.on_paper(A4_PORTRAIT, BEYOND) == 0
    chromium.shows("table", paper=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUNBOOK_BROWSER", str(find_browser()))
        page = folder / "index.html"
        assert print_pdf(page, page.read_bytes())[0] == ""
    pages = len(re.findall(rb"/Type\s*/Page[^s]", (folder / "index.pdf").read_bytes()))
    assert 4 <= pages <= 12


def test_a_machine_without_a_browser_says_so_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "page.html").write_text("<p>x", encoding="utf-8")
    monkeypatch.setenv("RUNBOOK_BROWSER", "")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert print_pdf(tmp_path / "page.html", b"<p>x") == (
        "no browser (chromium, google-chrome, msedge) is on the PATH; print the page from any browser, or set RUNBOOK_BROWSER",
        "",
    )
    assert not (tmp_path / "page.pdf").exists()

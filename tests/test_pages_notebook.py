"""The HTML of an executed notebook: complete, offline, readable, and nothing from its outputs can act in it."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from helpers import plots
from helpers.report.pages import notebook_html

EVIL = (
    "<script>alert(1)</script><img src=x onerror=alert(2)><img src='http://evil.test/p.png'>"
    "<a href='javascript:alert(3)'>go</a><a href='data:text/html,x'>go</a><iframe src='//evil.test'></iframe>"
    "<style>@import url(http://evil.test/x.css)</style><svg onload=alert(4)></svg><p onclick='x()' style='color:red'>kept</p>"
    "<form action='http://evil.test'><input></form>"
)


def page_of(folder: Path, *cells: Any) -> tuple[str, BeautifulSoup]:
    path = folder / "23_validate.ipynb"
    nbformat.write(new_notebook(cells=list(cells)), path)  # type: ignore[no-untyped-call]
    html = notebook_html(path)
    return html, BeautifulSoup(html, "html.parser")


def code(source: str, *outputs: Any, **more: Any) -> Any:
    return new_code_cell(source, outputs=list(outputs), execution_count=1, **more)  # type: ignore[no-untyped-call]


def markdown(source: str) -> Any:
    return new_markdown_cell(source)  # type: ignore[no-untyped-call]


def shown(**data: str) -> Any:
    mimes = {name.replace("_", "/"): value for name, value in data.items()}
    return new_output("display_data", data=mimes, metadata={"image/png": {"alt": "Counts match"}})  # type: ignore[no-untyped-call]


def stream(text: str) -> Any:
    return new_output("stream", name="stdout", text=text)  # type: ignore[no-untyped-call]


def test_it_holds_prose_code_tables_pictures_and_errors(tmp_path: Path) -> None:
    picture = base64.b64encode(plots.png(plots.counts_by_collection(pd.DataFrame()))).decode()
    table = pd.DataFrame({"chunks": [3000]}, index=["core"]).to_html()
    trace = ["\x1b[0;31mNoGo\x1b[0m", "  line <b>"]
    html, page = page_of(
        tmp_path,
        markdown("# Validate\n\nSee [review](24_review.ipynb#x) and `code`."),
        code("run = begin(globals(), step='23')", stream("ready & set\n"), metadata={"tags": ["injected-parameters"]}),
        code("run.counts()", shown(text_html=table, text_plain="plain"), shown(image_png=picture)),
        code("run.finish()", new_output("error", ename="NoGo", evalue="x", traceback=trace)),  # type: ignore[no-untyped-call]
    )
    assert page.title is not None
    assert page.title.get_text() == "Validate"
    assert [h.get_text(strip=True).rstrip("¶") for h in page.find_all("h1")] == ["Validate"]
    assert page.html is not None
    assert page.html["lang"] == "en"
    assert page.find("a", href="24_review.html#x") is not None
    assert "begin(globals(), step='23')" in page.get_text()
    assert "parameters of this run" in page.get_text()
    assert "ready & set" in page.get_text()
    assert page.find("th", scope="row", string="core") is not None
    assert [image["alt"] for image in page.find_all("img")] == ["Counts match"]
    assert "NoGo\n  line <b>" in page.get_text()
    assert html == notebook_html(tmp_path / "23_validate.ipynb")


def test_code_that_is_tagged_so_is_folded_and_its_output_shown(tmp_path: Path) -> None:
    _, page = page_of(tmp_path, code("begin()", stream("the run"), metadata={"tags": ["hide-input"]}), code("step.x()"))
    [folded] = page.find_all("details")
    assert "begin()" in folded.get_text()
    assert not folded.has_attr("open")
    assert "the run" not in folded.get_text()
    assert "the run" in page.get_text()


def test_outputs_cannot_act_or_call_out(tmp_path: Path) -> None:
    html, page = page_of(
        tmp_path,
        markdown(f"# Title\n\n{EVIL}\n\n![x](http://evil.test/a.png)\n\n$$x$$"),
        code("show()", shown(text_html=EVIL), shown(text_markdown=EVIL), shown(image_svg="<svg onload=alert(1)/>")),
        code("js()", shown(application_javascript="alert(5)"), stream(EVIL)),
    )
    assert page.find_all(["script", "iframe", "form", "input", "svg", "object", "embed"]) == []
    for element in page.find_all(True):
        assert not [name for name in element.attrs if name.startswith("on")]
        assert not str(element.get("href", "")).lower().startswith(("javascript:", "data:text", "//"))
        assert not str(element.get("src", "")).startswith(("http", "//", "x"))
    assert "@import" not in "".join(style.get_text() for style in page.find_all("style"))
    assert "kept" in page.get_text()
    assert "require.js" not in html
    assert "mathjax" not in html.lower()


def test_control_characters_are_visible_and_progress_bars_end(tmp_path: Path) -> None:
    hostile = "a\x1b[2Jb \u202egnp.exe \x00 \x07"
    html, page = page_of(
        tmp_path,
        code("x", stream(f"10 %\r50 %\rdone\n{hostile}"), shown(text_html=f"<p>{hostile}&#x202e;</p>")),
        code("'\u202e'", shown(text_plain=hostile)),
    )
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e]|&#x202e;", html)
    text = page.get_text()
    assert "done" in text
    assert "50 %" not in text
    assert text.count("\\u202egnp.exe") == 3


def test_giant_outputs_are_cut_with_their_length(tmp_path: Path) -> None:
    table = "<table><tr><td>" + "x" * 2_100_000 + "</td></tr></table>"
    html, page = page_of(tmp_path, code("x", stream("y" * 5_000_000), shown(text_html=table)))
    assert len(html) < 300_000
    assert "5,000,000 characters in all" in page.get_text()
    assert f"{len(table):,} characters is not shown here" in page.get_text()


def test_cells_that_never_ran_say_so(tmp_path: Path) -> None:
    cell = new_code_cell("run.finish()")  # type: ignore[no-untyped-call]
    _, page = page_of(tmp_path, cell, code(""))
    assert "not run" in page.get_text()
    assert page.h1 is not None
    assert page.h1.get_text() == "Notebook"
    assert len(page.select(".cell")) == 1


def test_a_table_with_few_columns_keeps_its_words_whole_on_paper(tmp_path: Path) -> None:
    """Nine columns and their index fit on a landscape page with room for `not exercised`; more have to shrink."""
    frames = [pd.DataFrame([range(n)], columns=[f"c{i}" for i in range(n)]) for n in (6, 15)]
    html, page = page_of(tmp_path, code("a", *(shown(text_html=str(f.to_html())) for f in frames)))
    assert ["few" in table["class"] for table in page.select("table")] == [True, False]
    printed = html[html.index("@media print { /* every column") :]
    assert ".output table.few th, .output table.few td { min-width: 8.5em; }" in printed

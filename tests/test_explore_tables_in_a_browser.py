"""The table to sort and search, in a real browser without a network: it works, and what a chunk says cannot act in it."""

from __future__ import annotations

from pathlib import Path

import itables
import pandas as pd
import pytest

from helpers.profiling.search import table_html
from tests.browser import Browser, find
from tests.conftest import absent

EVIL = (
    "</script><script>document.title = 'taken'</script>",
    "<img src=x onerror=\"document.title = 'taken'\">",
    "<!--<script>document.title = 'taken'//",
    "${document.title = 'taken'}` \\u003cscript>document.title = 'taken'</script>",
    "$$\\href{javascript:document.title='taken'}{x}$$",
)


@pytest.fixture
def browser() -> Browser:
    program = find()
    return Browser(program) if program else absent("chromium", "it shows the table")


def page(frame: pd.DataFrame) -> str:
    bundle = itables.javascript.generate_init_offline_itables_html(itables.options.dt_bundle)
    # what init_notebook_mode puts into a notebook besides waits for JupyterLab's colours
    return f"<!doctype html><meta charset=utf-8><title>mine</title>{bundle}{table_html(frame)}"


@pytest.mark.slow
def test_a_chunk_cannot_act_in_the_table(browser: Browser, tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"id": [*EVIL[:-1], EVIL[-1] + " word" * 300], "<b>column</b>": [1.5, 2.5, 0.5, 9.0, 3.0], EVIL[1]: EVIL}
    )
    file = tmp_path / "table.html"
    file.write_text(page(frame), encoding="utf-8")
    with browser as opened:
        tallest = "Math.max(...[...document.querySelectorAll('.dt-container tbody tr')].map(e => e.clientHeight))"
        seen = opened.visit(file, picture=tmp_path / "table.png")
        count = "document.querySelectorAll('.dt-container tbody tr').length"
        assert opened._evaluate(count) == len(EVIL), "the table was not built"
        assert opened._evaluate(tallest) < 40, "a long document takes one line"
        opened._evaluate("document.querySelectorAll('.dt-container thead th')[1].click()")
        opened._listen(0.5)  # it sorts after it has shown that it is at work
        first = opened._evaluate("document.querySelector('.dt-container tbody tr td:nth-child(2)').innerText")
        title = opened._evaluate("document.title")
        foreign = opened._evaluate(
            "document.querySelectorAll('.dt-container tbody img, .dt-container tbody script').length"
        )
    assert first == "0.5", "a click on the head of the column sorts"
    assert title == "mine"
    assert foreign == 0
    assert not seen.dialogs
    assert all(EVIL[i] in seen.seen["text"] for i in (0, 1)), "what a chunk says is shown as text"
    assert all(url.startswith(("file:", "data:", "blob:")) for url in seen.requests), seen.requests

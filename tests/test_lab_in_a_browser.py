"""`make lab` as a person has it: JupyterLab and a real browser, cells run, a collection picked, a table sorted.

How it looked is kept in .pictures/ (lab-*.png).
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from helpers.rehearsal import write_sample
from tests import browser
from tests.commands import Runbook, tree
from tests.conftest import ROOT, absent
from tests.lab_browser import Lab, LabBrowser, clone

pytestmark = pytest.mark.slow

PICTURES = ROOT / ".pictures"
PANEL = "document.querySelector('.jp-NotebookPanel:not(.lm-mod-hidden)')"
CHOICE = f"[...{PANEL}.querySelectorAll('.widget-dropdown')].find(e => /Collection/.test(e.textContent)).querySelector('select')"
TAB = "[...document.querySelectorAll('.lm-DockPanel-tabBar .lm-TabBar-tabLabel')].find(e => e.textContent === '{}')"
# What belongs to the choice: the outputs below the drop-down, in the same cell.
CELL = f"{CHOICE}.closest('.jp-CodeCell')"
FIGURE = f"[...{CELL}.querySelectorAll('img')].find(i => i.naturalWidth > 100).src"
ROWS = f"[...{CELL}.querySelectorAll('table.dataTable tbody tr')].map(r => r.textContent).join('|')"


@pytest.fixture(scope="module")
def before() -> dict[str, str]:
    """The digests of the repository's own notebooks."""
    return tree(ROOT / "notebooks")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, before: dict[str, str]) -> Iterator[tuple[Lab, LabBrowser]]:
    """JupyterLab on a clone of the repository, in which a run came as far as its dry run, and a browser."""
    program = browser.find()
    if program is None:
        absent("Chromium", "it works in JupyterLab")
    home = tmp_path_factory.mktemp("lab")
    copy = clone(home)
    runbook = Runbook(home)
    runbook.reports, runbook.workspace = copy / "reports", copy / "workspace"
    write_sample(home / "source", chunks=240, dimension=16)
    file = runbook.write("night", "path: source", "path: target")
    done = runbook("run", file, "--run-id", "evening", "--until", "13")
    assert done.returncode == 0, done.stdout + done.stderr
    with Lab(copy, RUNBOOK_SAMPLE_CHUNKS="240") as server, LabBrowser(program) as window:
        yield server, window


def test_make_lab_opens_the_index_and_it_runs(lab: tuple[Lab, LabBrowser]) -> None:
    server, window = lab
    assert "/lab/tree/notebooks/00_index.ipynb?token=" in server.address
    window.open(server, "00_index.ipynb")
    window.picture(PICTURES / "lab-00-opened.png")
    shown = window.run_all()
    assert (shown["name"], shown["errors"]) == ("00_index.ipynb", [])
    assert shown["pictures"] == 3, "the plan and both trees"
    window.see(f"[...{PANEL}.querySelectorAll('table')].find(t => /what it does/.test(t.textContent))")
    assert "runbook rollback" in window.look(f"{PANEL}.textContent")
    window.picture(PICTURES / "lab-00-rollback.png")
    window.see(f"[...{PANEL}.querySelectorAll('.jp-OutputArea-output img')][0]")
    window.picture(PICTURES / "lab-00-timeline.png")
    for text, opened in (("Source health", "10_source_health.ipynb"), ("its page", "index.html")):
        window.click(TAB.format("00_index.ipynb"))
        window.click(f"[...{PANEL}.querySelectorAll('.jp-OutputArea-output a')].find(a => a.textContent === '{text}')")
        window.until(f"{TAB.format(opened)}.closest('.lm-TabBar-tab').classList.contains('jp-mod-current')", opened)
    window.picture(PICTURES / "lab-00-page.png")


def test_a_collection_is_picked_and_its_table_sorted(lab: tuple[Lab, LabBrowser]) -> None:
    server, window = lab
    window.open(server, "11_explore_source.ipynb")
    shown = window.run_all()
    assert shown["errors"] == []
    assert shown["said"] == []
    window.until(f"{ROWS}.length", "the table of the first collection")
    window.see(CHOICE)
    window.picture(PICTURES / "lab-11-first.png")

    figure, rows = window.look(FIGURE), window.look(ROWS)
    window.choose(CHOICE, 1)
    window.until(f"{FIGURE} !== {figure!r}", "another figure", 90)
    window.until(f"{ROWS}.length && {ROWS} !== {rows!r}", "another table", 90)
    window.see(CHOICE)
    window.picture(PICTURES / "lab-11-picked.png")

    unsorted = window.look(ROWS)
    header = (
        f"[...{CELL}.querySelectorAll('thead th')].find(e => e.checkVisibility() && e.textContent === 'characters')"
    )
    column = window.look(f"{header}.cellIndex")
    lengths = (
        f"[...{CELL}.querySelectorAll('table.dataTable tbody tr')].map(r => Number(r.cells[{column}].textContent))"
    )
    for way in ("ascending", "descending"):
        window.click(f"{header}.querySelector('.dt-column-order')")
        window.until(f"{header}.getAttribute('aria-sort') === '{way}'", f"{way} order")
    assert window.look(ROWS) != unsorted
    found = window.look(lengths)
    assert len(set(found)) > 1
    assert found == sorted(found, reverse=True)
    window.see(header)
    window.picture(PICTURES / "lab-11-sorted.png")


def test_nothing_is_asked_of_the_network_and_nobody_is_disturbed(lab: tuple[Lab, LabBrowser]) -> None:
    server, window = lab
    window.open(server, "00_index.ipynb")
    here = server.address.split("/")[2]
    foreign = {url for url in window.requests if url.startswith(("http", "ws")) and url.split("/")[2] != here}
    assert foreign == set()
    assert window.look("[...document.querySelectorAll('.jp-Dialog, .Toastify__toast')].map(e => e.textContent)") == []
    assert [said for said in window.heard if "error" in said.lower()] == []


def test_the_repository_itself_is_not_written_to(lab: tuple[Lab, LabBrowser], before: dict[str, str]) -> None:
    server, _ = lab
    assert server.home != ROOT
    assert tree(ROOT / "notebooks") == before

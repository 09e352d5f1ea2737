"""Every notebook is prose with short calls into the package: one H1, Markdown before code, no logic."""

from __future__ import annotations

import ast
import itertools
import json
import re
import statistics
from pathlib import Path
from typing import Any

import pytest

import helpers
from helpers.parameters import SECTIONS
from helpers.run import plan
from helpers.runner.notebook import NOT_SECTIONS
from tests.conftest import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LONGEST = 12
Cells = list[dict[str, Any]]
LOGIC = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.For, ast.AsyncFor, ast.While, ast.Lambda)


def source(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.name)
def notebook(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


@pytest.fixture
def cells(notebook: Path) -> Cells:
    found: Cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return found


def code(cells: Cells) -> list[str]:
    return [source(cell) for cell in cells if cell["cell_type"] == "code"]


def test_every_step_has_its_notebook_and_every_notebook_its_step() -> None:
    assert [path.name for path in NOTEBOOKS] == sorted(step.notebook for step in plan.STEPS)


def test_it_opens_with_its_only_h1(cells: Cells) -> None:
    headings = [
        line for c in cells if c["cell_type"] == "markdown" for line in source(c).splitlines() if line[:2] == "# "
    ]
    assert cells[0]["cell_type"] == "markdown"
    assert source(cells[0]).startswith("# ")
    assert len(headings) == 1


def test_it_says_what_it_needs(notebook: Path, cells: Cells) -> None:
    """One line in its first cell; the steps that it cannot do without are among those that it names."""
    (said,) = re.findall(r"^\*\*Needs:\*\* (.+\.)$", source(cells[0]), re.M)
    ranges = [range(int(a), int(b) + 1) for a, b in re.findall(r"(\d\d) to (\d\d)", said)]
    named = {f"{n:02}" for numbers in ranges for n in numbers} | set(re.findall(r"\b\d\d\b", said))
    assert set(plan.find(notebook.stem).needs) <= named


def test_markdown_stands_before_every_code_cell(cells: Cells) -> None:
    for before, cell in itertools.pairwise(cells):
        if cell["cell_type"] == "code":
            assert before["cell_type"] == "markdown", f"no prose before: {source(cell)}"


def test_headings_tell_what_to_do(cells: Cells) -> None:
    """Imperative: not a question, no -ing, no full stop."""
    for cell in cells:
        for heading in re.findall(r"^#+ (.+)$", source(cell), re.MULTILINE) if cell["cell_type"] == "markdown" else []:
            assert not heading.endswith((".", "?", "!")), heading
            assert not heading.split()[0].endswith("ing"), heading


def test_the_parameters_cell_declares_every_section_and_nothing_else(notebook: Path, cells: Cells) -> None:
    tagged = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    assert len(tagged) == 1
    assert tagged[0] is next(cell for cell in cells if cell["cell_type"] == "code")
    namespace: dict[str, Any] = {}
    exec(source(tagged[0]), {}, namespace)
    assert set(namespace) == {*SECTIONS, *NOT_SECTIONS}
    assert namespace.pop("dry_run") is plan.find(notebook.name).troubleshoots, "Section 4 changes nothing by itself"
    assert not any(namespace.values()), "defaults live in the typed model"


def test_the_next_cell_begins_the_step_and_the_last_finishes_it(notebook: Path, cells: Cells) -> None:
    begin = code(cells)[1].split()
    assert begin == [
        "from",
        "helpers",
        "import",
        "begin",
        *f'step = begin(globals(), "{notebook.name[:2]}")'.split(),
    ]
    assert code(cells)[-1].strip() == "step.finish()"


def test_code_cells_are_short(cells: Cells) -> None:
    lengths = [len([line for line in text.splitlines() if line.strip()]) for text in code(cells)]
    assert max(lengths) <= LONGEST
    assert statistics.median(lengths) <= 3


def test_code_cells_hold_no_logic_no_shell_and_no_other_import(cells: Cells) -> None:
    for text in code(cells):
        nodes = list(ast.walk(ast.parse(text)))
        assert not [n for n in nodes if isinstance(n, LOGIC)], text
        imported = [n for n in nodes if isinstance(n, ast.Import | ast.ImportFrom)]
        assert all(isinstance(n, ast.ImportFrom) and n.module == "helpers" for n in imported), text


def test_the_name_of_a_section_is_not_used_for_something_else(cells: Cells) -> None:
    """Else the first cells could not be run a second time in the same kernel."""
    for text in code(cells)[1:]:
        stored = {n.id for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        assert not stored & {*SECTIONS, *NOT_SECTIONS}, text


def test_it_is_kept_without_outputs_and_with_the_plain_kernel(notebook: Path, cells: Cells) -> None:
    document = json.loads(notebook.read_text(encoding="utf-8"))
    assert document["metadata"]["kernelspec"]["name"] == "python3"
    assert all(c["outputs"] == [] and c["execution_count"] is None for c in cells if c["cell_type"] == "code")
    assert len({cell["id"] for cell in cells}) == len(cells)


def test_no_cell_is_pasted_from_notebook_to_notebook() -> None:
    seen: dict[str, str] = {}
    for path in NOTEBOOKS:
        cells: Cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        for text in (source(c) for c in cells if c["cell_type"] == "code" and not c["metadata"].get("tags")):
            if len(text.splitlines()) > 3:
                assert text not in seen, f"{path.name} repeats a cell of {seen[text]}"
                seen[text] = path.name


def test_few_public_names_serve_all_notebooks() -> None:
    assert helpers.__all__ == ["begin"]
    assert callable(helpers.begin)

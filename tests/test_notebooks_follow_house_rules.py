"""Every notebook is prose with short calls into the package: one H1, Markdown before code, no logic."""

from __future__ import annotations

import ast
import itertools
import json
import re
import statistics
from pathlib import Path
from typing import Any

import papermill
import pytest

import helpers
from helpers.parameters import SECTIONS, Parameters
from helpers.run import plan
from helpers.runner.notebook import NOT_SECTIONS
from tests.conftest import ROOT
from tests.plain_english import QUAINT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LONGEST = 12
Cells = list[dict[str, Any]]
RIDDLES = (
    *QUAINT, "better class", "clients stay where", "computed, not", "from all", "is what it is", "its edges", "ledger",
    "of its own", "type and list",
)  # fmt: skip
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
    assert [path.name for path in NOTEBOOKS] == sorted(step.notebook for step in plan.Step)


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


def parameters_cell(cells: Cells) -> str:
    (found,) = (source(cell) for cell in cells if "parameters" in cell["metadata"].get("tags", []))
    return found


def test_the_parameters_cell_is_the_first_and_short(notebook: Path, cells: Cells) -> None:
    """What every step needs, and the sections of its own; `begin` takes the others all the same."""
    text = parameters_cell(cells)
    assert text == code(cells)[0]
    assert len(text.splitlines()) <= 8
    namespace: dict[str, Any] = {}
    exec(text, {}, namespace)
    common = {"source", "target", "schema", "run_id"} | (set() if notebook.name[:2] == "00" else {"dry_run"})
    assert common <= set(namespace) <= {*SECTIONS, *NOT_SECTIONS}
    dry_run = namespace.pop("dry_run", False)
    assert dry_run is plan.find(notebook.name).troubleshoots, "Section 4 changes nothing by itself"
    assert not any(namespace.values()), "defaults live in the typed model"


def test_each_parameter_says_on_its_line_what_it_is_and_its_true_default(cells: Cells) -> None:
    """As `default: …`, or as `key: default` for keys of a section, which are compared with the model."""
    book: Any = Parameters.model_validate({"source": {"path": "a"}, "target": {"path": "b"}})
    for line in parameters_cell(cells).splitlines():
        name, comment = re.fullmatch(r"(\w+) = (?:\{\}|\"\"|True|False)  # (.+)", line).groups()  # type: ignore[union-attr]
        if name in ("source", "target", "schema", *NOT_SECTIONS):
            assert "; default: " in comment, line
            continue
        keys = re.findall(r"(\w+): (\[.*?\]|\{.*?\}|\".*?\"|[\d.]+|None|True|False)", comment)
        assert keys, line
        section = getattr(book, name)
        assert {k: ast.literal_eval(v) for k, v in keys} == {k: getattr(section, k) for k, _ in keys}, line


def test_papermill_understands_every_line_of_the_parameters_cell(
    notebook: Path, cells: Cells, caplog: pytest.LogCaptureFixture
) -> None:
    """`papermill --help-notebook` shows them; a line that it cannot parse would be a warning in each run."""
    found = papermill.inspect_notebook(str(notebook))
    assert list(found) == [line.split(" = ")[0] for line in parameters_cell(cells).splitlines()]
    assert all(parameter["help"] for parameter in found.values())
    assert caplog.messages == []


def test_the_first_and_last_cells_are_the_same_in_every_notebook(notebook: Path, cells: Cells) -> None:
    """Begin, hidden where a front end knows the tag; at the end the checks as a table, and the result."""
    step = f'from helpers import begin\n\nstep = begin(globals(), "{notebook.name[:2]}")'
    assert code(cells)[1] == step
    (begins,) = (cell for cell in cells if source(cell) == step)
    assert begins["metadata"]["tags"] == ["hide-input"]
    assert code(cells)[-1] == "step.finish()"
    if notebook.name[:2] == "00":  # it records nothing
        return
    assert code(cells)[-2] == "step.checks()"
    first: Cells = json.loads(NOTEBOOKS[1].read_text(encoding="utf-8"))["cells"]
    for at in (0, 1, -2, -1):
        assert prose_before(cells, code(cells)[at]) == prose_before(first, code(first)[at])


def prose_before(cells: Cells, text: str) -> str:
    return next(source(before) for before, cell in itertools.pairwise(cells) if source(cell) == text)


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


def test_it_is_written_in_plain_english(cells: Cells) -> None:
    """In prose, comments and names: rollback, checkpoint, maintenance window, near-duplicates, on demand."""
    text = "\n".join(source(cell) for cell in cells)
    found = re.finditer(rf"\b(?:{'|'.join(RIDDLES)})s?\b", text.replace("_", " "), re.IGNORECASE)
    assert [match[0] for match in found] == []


def test_a_paragraph_is_one_line(cells: Cells) -> None:
    for cell in cells:
        lines = source(cell).splitlines() if cell["cell_type"] == "markdown" else []
        assert not [pair for pair in itertools.pairwise(lines) if all(line and line[0] not in "#>" for line in pair)]


def test_the_parameters_that_its_prose_names_exist(cells: Cells) -> None:
    book: Any = Parameters.model_validate({"source": {"path": "a"}, "target": {"path": "b"}})
    text = "\n".join(source(cell) for cell in cells if cell["cell_type"] == "markdown")
    for section, key in re.findall(r"`(\w+)\.(\w+)`", text):
        assert section not in SECTIONS or hasattr(getattr(book, section), key), f"{section}.{key}"


def test_few_public_names_serve_all_notebooks() -> None:
    assert helpers.__all__ == ["begin"]
    assert callable(helpers.begin)

"""docs/runbook-map.md names every item of the runbook and nothing else, and everything that it names is there.

That its checks are given by a run, each in the result of the notebook beside it, is seen in test_notebooks_run_alone.py.
"""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from pydantic import BaseModel

from helpers import cli
from helpers.parameters import Parameters
from helpers.reason_codes import ReasonCode
from helpers.run import plan
from tests import runbook_items
from tests.conftest import absent
from tests.runbook_map import KINDS, Row, rows

DESKS = {step.number for step in plan.Step if step.troubleshoots}


@pytest.fixture(scope="module")
def mapped(root: Path) -> list[Row]:
    return rows(root)


@pytest.fixture(scope="module")
def said(root: Path) -> list[ast.expr]:
    """Every text in the package: plain ones and f-strings."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in sorted((root / "helpers").rglob("*.py"))]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    return [n for n in nodes if isinstance(n, ast.JoinedStr) or (isinstance(n, ast.Constant) and type(n.value) is str)]


def test_every_item_of_the_runbook_has_its_row_and_no_row_is_invented(root: Path, mapped: list[Row]) -> None:
    seed = root.parent / "shared" / "seed" / "chromadb-migration-runbook.md"
    if not seed.is_file():
        absent("../shared/seed/chromadb-migration-runbook.md", "the runbook whose items the map must hold")
    wanted = runbook_items.items(seed.read_text(encoding="utf-8"))
    assert len(wanted) > 400
    assert [(row.id, row.text) for row in mapped] == [(item.id, item.text) for item in wanted]


def test_the_list_of_items_misses_no_box_heading_or_row(root: Path) -> None:
    """Counted another way: by what stands in the runbook's lines."""
    seed = root.parent / "shared" / "seed" / "chromadb-migration-runbook.md"
    if not seed.is_file():
        absent("../shared/seed/chromadb-migration-runbook.md", "the runbook whose items are counted")
    text = seed.read_text(encoding="utf-8")
    taken = {item.line for item in runbook_items.items(text)}
    lost = []
    code = False
    for number, line in enumerate(text.splitlines(), 1):
        code ^= line.startswith("```")
        heading = not code and re.match(r"##+ ", line)
        body = not code and line.startswith("|") and not re.match(r"\|[-| :]+$", line)
        if ("[ ]" in line or heading or body) and number not in taken:
            lost.append(line)
    heads = [line for line in lost if line.startswith("|")]  # of tables: as many as there are lines of dashes
    assert len(heads) == len(re.findall(r"^\|[-| :]+$", text, re.M))
    assert [line for line in lost if not line.startswith("|")] == []


def test_every_row_says_where_it_is_done_and_what_holds_it(mapped: list[Row]) -> None:
    bare = [row.id for row in mapped if not row.held and not (row.note and not row.notebooks)]
    assert bare == []
    assert {kind for row in mapped for kind, _ in row.held} == set(KINDS)


def test_every_notebook_named_is_there(root: Path, mapped: list[Row]) -> None:
    missing = []
    for row in mapped:
        for number, path in row.notebooks.items():
            step = next((s for s in plan.Step if s.number == number), None)
            named = step is not None and path == f"notebooks/{step.notebook}" and (root / path).is_file()
            if not named:
                missing.append((row.id, path))
    assert missing == []
    assert {n for row in mapped for n in row.notebooks} >= {step.number for step in plan.Step}


def test_every_check_named_is_given_by_the_package(mapped: list[Row], said: list[ast.expr]) -> None:
    plain = {node.value for node in said if isinstance(node, ast.Constant)}
    patterns = [_pattern(node) for node in said if isinstance(node, ast.JoinedStr)]
    named = {(row.id, name) for row in mapped for name in row.names("check")}
    unknown = [
        pair for pair in sorted(named) if pair[1] not in plain and not any(p.fullmatch(pair[1]) for p in patterns)
    ]
    assert unknown == []
    assert len({name for _, name in named}) > 50


def _pattern(node: ast.JoinedStr) -> re.Pattern[str]:
    """An f-string whose own words are most of it, as a pattern; of others none fits."""
    parts = [re.escape(str(v.value)) if isinstance(v, ast.Constant) else r"\w+" for v in node.values]
    words = "".join(str(v.value) for v in node.values if isinstance(v, ast.Constant))
    return re.compile("".join(parts) if len(re.findall(r"[a-z]{2,}", words)) else r"(?!)")


def test_every_cell_named_stands_in_one_of_its_notebooks(root: Path, mapped: list[Row]) -> None:
    sources = {s.number: _code(root / "notebooks" / s.notebook) for s in plan.Step}
    missing = [
        (row.id, name) for row in mapped for name in row.names("cell")
        if not any(name in sources.get(number, "") for number in row.notebooks)
    ]  # fmt: skip
    assert missing == []


def _code(path: Path) -> str:
    book: Any = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    return "\n".join(cell.source for cell in book.cells if cell.cell_type == "code")


def test_every_reason_code_leads_to_a_notebook_of_its_row(mapped: list[Row]) -> None:
    wrong = []
    for row in mapped:
        desks = DESKS & set(row.notebooks) - {"40"}
        steps = {name: found.step if (found := ReasonCode.known(name)) else "" for name in row.names("code")}
        wrong += [(row.id, name, step) for name, step in steps.items() if not step or (desks and step not in desks)]
    assert wrong == []


def test_every_trigger_named_is_one(root: Path, mapped: list[Row]) -> None:
    tree = ast.parse((root / "helpers" / "run" / "advice.py").read_text(encoding="utf-8"))
    codes = [n.value.elts[0] for n in ast.walk(tree) if isinstance(n, ast.Yield) and isinstance(n.value, ast.Tuple)]
    given = {code.value for code in codes if isinstance(code, ast.Constant)}
    given |= {ReasonCode[code.attr] for code in codes if isinstance(code, ast.Attribute)}
    assert {name for row in mapped for name in row.names("trigger")} <= given


def test_every_parameter_named_is_one(mapped: list[Row]) -> None:
    known = set(_keys(Parameters, ""))
    assert [(r.id, name) for r in mapped for name in r.names("parameter") if name not in known] == []


def test_every_parameter_that_judges_a_check_is_one(root: Path) -> None:
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in sorted((root / "helpers").rglob("*.py"))]
    calls = [n for tree in trees for n in ast.walk(tree) if isinstance(n, ast.Call) and _ends_in_check(n.func)]
    named = [
        k.value.value for n in calls for k in n.keywords if k.arg == "parameter" and isinstance(k.value, ast.Constant)
    ]
    assert set(named) <= set(_keys(Parameters, ""))
    assert len(named) > 15


def _ends_in_check(function: ast.expr) -> bool:
    return (getattr(function, "attr", "") or getattr(function, "id", "")).lower() == "check"


def _keys(model: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        key = prefix + (field.alias or name)
        yield key
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _keys(field.annotation, f"{key}.")


def test_every_command_named_is_understood(mapped: list[Row]) -> None:
    named = {name for row in mapped for name in row.names("command")}
    for line in sorted(named):
        words = shlex.split(line)
        assert words[0] == "runbook", line
        cli.parser().parse_args(words[1:])  # ends the test where an option or a command does not exist
    assert len(named) > 20


def test_every_test_named_is_there(root: Path, mapped: list[Row]) -> None:
    missing = []
    for row in mapped:
        for name in row.names("test"):
            file, _, test = name.partition("::")
            text = (root / file).read_text(encoding="utf-8") if (root / file).is_file() else ""
            if not text or (test and not re.search(rf"^def {test}\(", text, re.M)):
                missing.append((row.id, name))
    assert missing == []


def test_every_page_and_file_named_is_one(root: Path, mapped: list[Row]) -> None:
    readme = (root / "reports" / "README.md").read_text(encoding="utf-8")
    pages = {name for row in mapped for name in row.names("page")}
    assert [page for page in pages if f"`{page}`" not in readme] == []
    files = {name for row in mapped for name in row.names("file")}
    assert [file for file in files if not (root / file).is_file()] == []

"""Every check of every step has a name of its own in that step, what was expected and what was measured."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.parameters import parameters_from
from helpers.results import Check, Verdict
from helpers.run import folders as runs
from helpers.run.record import RunRecord

FIELDS = ("name", "verdict", "measured", "threshold")


def calls(tree: ast.AST, *, loop: bool = False) -> Iterator[tuple[ast.Call, bool]]:
    """Calls that put a check on the record, and whether each is inside a loop."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Call) and _records(node):
            yield node, loop
        inner = isinstance(node, ast.For | ast.While) or (loop and not isinstance(node, ast.FunctionDef))
        yield from calls(node, loop=inner)


def _records(call: ast.Call) -> bool:
    """`run.check(…)`, `self.run.check(…)`, `self.check(…)` with a verdict, `Check(…)`."""
    if isinstance(call.func, ast.Attribute) and call.func.attr == "check":
        return ast.unparse(call.func.value) in ("run", "self.run", "profile.run", "self") and "Verdict" in _verdict(
            call
        )
    return isinstance(call.func, ast.Name) and call.func.id == "Check" and "Verdict" in _verdict(call)


def _verdict(call: ast.Call) -> str:
    told = [ast.unparse(call.args[1])] if len(call.args) > 1 else []
    return "".join(told + [ast.unparse(k.value) for k in call.keywords if k.arg == "verdict"])


def silent(source: str) -> list[str]:
    """Each check of this module that lacks something, or whose one name is given in a loop."""
    found = []
    for call, loop in calls(ast.parse(source)):
        given = {*FIELDS[: len(call.args)], *(k.arg for k in call.keywords)}
        only_moot = _verdict(call) == "Verdict.NOT_APPLICABLE"
        lacking = [] if only_moot else [field for field in FIELDS if field not in given]
        if lacking:
            found.append(f"line {call.lineno}: no {', '.join(lacking)}")
        if loop and isinstance(call.args[0], ast.Constant):
            found.append(f"line {call.lineno}: one name in a loop: only the last answer would stay")
    return found


def test_no_module_records_a_check_without_expected_and_measured(root: Path) -> None:
    modules = sorted((root / "helpers").rglob("*.py"))
    number = sum(len(list(calls(ast.parse(path.read_text(encoding="utf-8"))))) for path in modules)
    assert number > 120, "the search finds them"
    wrong = {
        str(path.relative_to(root)): lines for path in modules if (lines := silent(path.read_text(encoding="utf-8")))
    }
    assert wrong == {}


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ('run.check("files", Verdict.PASS, measured=1)', "no threshold"),
        ('self.run.check("files", Verdict.NOT_EXERCISED, detail="none")', "no measured, threshold"),
        ('for f in files:\n    run.check("files", Verdict.PASS, measured=1, threshold=1)', "one name in a loop"),
        ('Check("files", Verdict.FAIL, 3)', "no threshold"),
    ],
)
def test_the_search_finds_a_check_that_says_too_little(source: str, said: str) -> None:
    [line] = silent(source)
    assert said in line


def test_a_check_says_what_it_leaves_open() -> None:
    assert Check("files", Verdict.PASS, 1, 1).missing_figures == ""
    assert Check("files", Verdict.NOT_APPLICABLE).missing_figures == ""
    assert Check("files", Verdict.PASS, 1).missing_figures == "files: pass, and not what was expected"
    assert "not what was expected and measured" in Check("files", Verdict.NOT_EXERCISED, detail="none").missing_figures


def test_a_later_answer_takes_the_place_of_an_earlier_one(folders: Path) -> None:
    (folders / "source").mkdir()
    given = {"source": {"path": str(folders / "source")}, "target": {"path": str(folders / "target")}}
    run = RunRecord(runs.create(parameters_from(given), "one"), "27")
    for found in (3, 0):  # a cell that is executed again
        run.judge("files", measured=found, threshold=0, unit="files", reason="config_changed")
    run.check("reads", Verdict.PASS, measured="answered", threshold="answered")
    assert [(c.name, c.verdict, c.measured) for c in run.result.checks] == [
        ("files", Verdict.PASS, 0), ("reads", Verdict.PASS, "answered"),
    ]  # fmt: skip

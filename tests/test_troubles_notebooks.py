"""Notebooks 40 to 48, every cell in one process against one small run: quick, where nbval starts nine kernels.

`make test-slow` runs them under nbval, each alone on its own sample, and through papermill against real faults.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.reason_codes import ReasonCode
from helpers.results import StepResult, Verdict, utc_now
from helpers.run import plan
from helpers.run.folders import RunFolder
from tests.conftest import ROOT, at_home
from tests.storage import chunks, embedded, fill
from tests.troubles import begun, migrated

STEPS = [step for step in plan.Step if step.troubleshoots]


def executed(step: plan.Step, run_id: str, **parameters: Any) -> dict[str, Any]:
    """The notebook's cells in order, as papermill would give them the parameters; the last value of each in `shown`."""
    document = json.loads((ROOT / "notebooks" / step.notebook).read_text(encoding="utf-8"))
    sources = ["".join(c["source"]) for c in document["cells"] if c["cell_type"] == "code"]
    given = "# Parameters\n" + "\n".join(f"{k} = {v!r}" for k, v in {"run_id": run_id, **parameters}.items())
    namespace: dict[str, Any] = {"In": [sources[0], given]}
    shown: list[Any] = []
    for source in [sources[0], given, *sources[1:]]:
        tree = ast.parse(source)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, step.notebook, "exec"), namespace)
        if isinstance(last, ast.Expr):
            shown.append(eval(compile(ast.Expression(last.value), step.notebook, "eval"), namespace))
    return {**namespace, "shown": shown}


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunFolder]:
    home = tmp_path_factory.mktemp("night")
    with at_home(home):
        with embedded(Path("source")) as store:
            fill(store, "alpha", chunks(60, 4, prefix="a"))
        yield migrated(begun())


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.module)
def test_every_cell_runs_and_finds_nothing_wrong_with_a_sound_run(night: RunFolder, step: plan.Step) -> None:
    executed(step, night.id)
    result = night.read().result(step.number)
    assert result is not None
    assert (result.verdict, result.error) == (Verdict.PASS, None)


def test_a_notebook_finds_resolves_and_passes(night: RunFolder) -> None:
    """48 on a target from which a chunk was deleted: a dry run warns and leaves it, then the resolution is applied."""
    with embedded(Path("target")) as store:
        store.delete("alpha", ["a3"])
    executed(plan.find("48"), night.id)
    looked = night.read().result("48")
    assert looked is not None
    assert [(c.name, c.verdict, c.reason) for c in looked.checks] == [
        ("probe before", Verdict.WARNING, "count_mismatch"), ("probe after", Verdict.WARNING, "count_mismatch"),
    ]  # fmt: skip
    executed(plan.find("48"), night.id, dry_run=False)
    done = night.read().result("48")
    assert done is not None
    verdicts = {c.name: c.verdict for c in done.checks}
    assert verdicts["probe before"] is Verdict.WARNING
    assert verdicts["probe after"] is Verdict.PASS


def test_the_tree_names_the_notebooks_of_a_failed_run(night: RunFolder) -> None:
    failed = StepResult("23", "Validate", night.id, utc_now(), utc_now(), Verdict.FAIL)
    failed.error = {"code": "chunk_missing", "type": "NoGo", "line": "a3 is missing"}
    failed.write(night.reports / "results" / "23.json")
    try:
        table = executed(plan.find("40"), night.id)["symptoms"]
        assert table[["reason", "notebook"]].to_numpy().tolist() == [["chunk_missing", "48_count_mismatch.ipynb"]]
        result = night.read().result("40")
        assert result is not None
        assert {f["name"] for f in result.figures} == {"go_no_go", "troubles"}
        assert "48" in next(f for f in result.figures if f["name"] == "troubles")["alt"]
    finally:
        (night.reports / "results" / "23.json").unlink()


def test_each_quotes_the_runbook_and_asks_the_same_probe_twice() -> None:
    for step in STEPS[1:]:
        text = (ROOT / "notebooks" / step.notebook).read_text(encoding="utf-8")
        assert "> **Symptom:**" in text
        assert "> **Root cause:**" in text
        assert text.count("step.probe()") == 2
        assert any(code.step == step.number for code in ReasonCode)

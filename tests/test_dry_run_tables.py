"""Step 13: the runbook's table of issues, every row of it filled in from what was found."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from helpers.parameters import parameters_from
from helpers.results import Verdict
from helpers.run import folders as runs
from helpers.run.record import RunRecord
from helpers.steps import dry_run
from helpers.steps.dry_run import DryRunStep
from tests.storage import chunks, embedded, fill

pytestmark = pytest.mark.usefixtures("own_folders")


@pytest.mark.more
def test_every_row_of_the_runbooks_table_is_filled_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = chunks(30, 4)
    batch.documents[3] = None
    with embedded(tmp_path / "source") as store:
        fill(store, "alpha", batch)
    sections = {"name": "n", "source": {"path": "source"}, "target": {"path": "target"}, "schema": "if_ttt"}
    step = DryRunStep(RunRecord(runs.create(parameters_from(sections), "night"), "13"))
    step.take_snapshot()
    step.transform()
    missing = Counter(dict(step.transform().query("kind == 'default'").groupby("field")["chunks"].sum()))
    told = next(c for c in step.run.result.checks if c.name == dry_run.DEFAULTED)
    assert (told.verdict, told.measured) == (Verdict.WARNING, missing.total()), "step 11 has counted none"
    assert told.detail.endswith(f" and {len(missing) - 3} more fields")
    assert told.detail.count(", ") == 2
    table = step.issues().set_index("issue")
    assert [i for i in table.index if i in _OF_THE_RUNBOOK] == _OF_THE_RUNBOOK
    assert tuple(table.loc["missing_document", ["state", "measured"]]) == ("found", "1 chunk")
    assert table.loc["nan_embedding", "state"] == "not found"
    assert table.loc["out of memory", "state"] == "not found"
    assert table.loc["timeout on export", "state"] == "not applicable"
    monkeypatch.setattr(dry_run, "free_memory", lambda: 10**6)
    assert step.issues().set_index("issue").loc["out of memory", "state"] == "found"
    assert [row["issue"] for row in step.run.result.facts["issues"]] == list(table.index)


_OF_THE_RUNBOOK = ["missing_embedding", "invalid scores", "nan_embedding", "out of memory", "timeout on export"]

"""Every reason code leads to a notebook or a sentence, and is given by something."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from helpers import cli
from helpers.migration.staging import Quarantine
from helpers.reason_codes import ReasonCode
from helpers.run import plan
from helpers.run.advice import advice, advised, notebook_for, steps_for
from helpers.run.folders import RunFolder
from helpers.schema import load_schema
from helpers.schema.rules import REASONS
from helpers.steps.review import decision_matrix
from tests.conftest import ROOT

MATRIX = {"chunks": 1, "valid": 1, "complete": 1, "checked": 1, "nan": 0, "queries_ok": None, "queries": 0,
          "collections_matching": 1, "collections": 1}  # fmt: skip
# Codes made of a role, a kind or a criterion in a message: `ReasonCode(f"{role}_missing")`.
MADE = re.compile(r"(source|target|unknown|mixed|matrix)_\w+")
SOURCE = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "helpers").rglob("*.py")))


def test_every_code_is_given_by_something() -> None:
    used = set(re.findall(r"ReasonCode\.([A-Z0-9_]+)", SOURCE))
    assert [c for c in ReasonCode if c.name not in used and not MADE.fullmatch(c)] == []
    assert {f"matrix_{row['criterion'].replace(' ', '_')}" for row in decision_matrix(MATRIX)} <= set(ReasonCode)


def test_a_code_is_named_as_files_hold_it() -> None:
    fields = {ReasonCode.INVALID, ReasonCode.MISSING}
    assert [code for code in ReasonCode if code not in fields and code.name.lower() != code.lower()] == []


def test_no_code_is_quoted_outside_the_table() -> None:
    """mypy refuses a text where a code is given; a comparison with a text it would let pass."""
    quoted = re.findall(r"""(?:reason|code)(?:"\]|"\))? [!=]= "(\w+)\"""", SOURCE)
    assert [word for word in quoted if ReasonCode.known(word)] == []


@pytest.mark.parametrize("schema", ["identity", "if_ttt"])
def test_what_a_schema_can_find_has_a_row(schema: str) -> None:
    for code in [*load_schema(schema).reasons(), *REASONS]:
        assert notebook_for(code) is not None, code


def test_a_code_by_name_goes_before_a_pattern() -> None:
    numbers = {code: step.number for code in ("missing_author", "missing_embedding", "invalid_authenticity_score")
               if (step := notebook_for(code))}  # fmt: skip
    assert numbers == {"missing_author": "46", "missing_embedding": "47", "invalid_authenticity_score": "42"}
    assert notebook_for("bad_run_id") is None
    assert advice("bad_run_id", "night-1") == ""


def test_every_row_leads_to_a_notebook_of_section_4() -> None:
    steps = [plan.find(code.step) for code in ReasonCode if code.step]
    assert {s.number for s in steps} == {"40", "41", "42", "43", "44", "45", "46", "47", "48"}
    assert all((ROOT / "notebooks" / s.notebook).is_file() and not s.on_line for s in steps)


def test_advice_is_a_command_for_this_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RUNBOOK_REPORTS", raising=False)
    monkeypatch.delenv("RUNBOOK_WORKSPACE", raising=False)
    expected = "Troubleshoot: papermill notebooks/48_count_mismatch.ipynb OUT.ipynb -p run_id night-1"
    assert advice("count_mismatch", "night-1") == expected
    monkeypatch.setenv("RUNBOOK_REPORTS", str(tmp_path / "my reports"))
    run = RunFolder.of("night-1")
    words = shlex.split(advice("count_mismatch", run).removeprefix("Troubleshoot: "))
    assert words[0] == f"RUNBOOK_REPORTS={tmp_path / 'my reports'}"
    assert words[1:] == ["papermill", "notebooks/48_count_mismatch.ipynb", "OUT.ipynb", "-p", "run_id", "night-1"]


def test_the_trouble_that_explains_most_comes_first() -> None:
    assert [s.number for s in steps_for(["unexpected", "chunk_missing", "missing_author", "missing_category"])] == [
        "46",
        "48",
    ]
    assert [s.number for s in steps_for(["unexpected"])] == ["40"]
    assert steps_for(["bad_run_id"]) == []


def test_quarantine_reasons_are_of_the_map(tmp_path: Path) -> None:
    """What stands in a quarantine of an earlier night is explained as well."""
    aside = Quarantine(tmp_path)
    aside.write([{"collection": "a", "id": "1", "reason": "invalid_effectiveness_rating", "detail": "7"}])
    assert {step.number for step in steps_for(aside.counts())} == {"42"}


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("source_missing", "Next: Correct the path"),
        ("id_collision", "Next: Begin a new run with migration.id_policy: prefix"),
        ("interrupted", "Next: Go on with: .venv/bin/runbook resume night-1"),
        ("lock_held", "Next: Wait until the other run or command has ended; stop nothing and remove nothing"),
        ("outside_window", "Next: Inside the window: .venv/bin/runbook resume night-1."),
        ("paused_for_disk", "Next: Free space on the disk named above. Then: .venv/bin/runbook resume night-1"),
        (
            "nginx_refuses",
            "Next: Correct what is named above; state of the fence: .venv/bin/runbook fence night-1.",
        ),
        ("sealed_file_changed", "Next: .venv/bin/runbook verify night-1 names what changed."),
        (
            "checkpoint_behind",
            "Next: Progress so far, and whether the run may continue: papermill notebooks/30_checkpoint",
        ),
        ("count_mismatch", "Troubleshoot: papermill notebooks/48"),
        ("unreachable", "Troubleshoot: papermill notebooks/45"),
    ],
)
def test_a_remedy_leads_to_what_helps(monkeypatch: pytest.MonkeyPatch, code: str, said: str) -> None:
    """Where a sentence with a command is enough, no notebook on networks or counts stands in the way at night."""
    monkeypatch.delenv("RUNBOOK_REPORTS", raising=False)
    assert advice(code, "night-1").startswith(said)


def test_every_remedy_names_commands_that_exist() -> None:
    for code in ReasonCode:
        line = advice(code, "night-1")
        assert line.count("\n") == 0
        for command in re.findall(r"runbook ([a-z]+)", line):
            cli.parser().parse_args([command, "x"])


def test_sentences_come_before_notebooks_and_none_comes_twice() -> None:
    lines = advised(["chunk_missing", "source_missing", "target_missing", "count_mismatch"], "night-1", 3)
    assert [line.split(":")[0] for line in lines] == ["Next", "Troubleshoot"]

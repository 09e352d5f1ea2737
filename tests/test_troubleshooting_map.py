"""Every reason code leads to a notebook or a sentence, and is given by something."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from matplotlib.figure import Figure

from helpers import cli
from helpers.migration.staging import Quarantine
from helpers.parameters import parameters_from
from helpers.parameters.endpoint import Endpoint
from helpers.reason_codes import ReasonCode
from helpers.results import Check, StepResult, Verdict, utc_now
from helpers.run import plan
from helpers.run.advice import advice, advice_lines, notebook_for, steps_for
from helpers.run.folders import RunFolder, create
from helpers.schema import load_schema
from helpers.steps.network import layers
from helpers.steps.review import decision_matrix
from helpers.steps.troubleshooting import go_no_go, troubles
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
    loaded = load_schema(schema)
    names = {rule.name for kind in loaded.targets(["any"]).values() for rule in loaded.rules(kind)}
    for code in [f"{kind}_{name}" for name in names for kind in ("missing", "invalid")]:
        assert notebook_for(code) is not None, code
    for code in (ReasonCode.EMPTY_ID, ReasonCode.MISSING_EMBEDDING, ReasonCode.NAN_EMBEDDING, ReasonCode.INFINITE_EMBEDDING,
                 ReasonCode.WRONG_DIMENSION, ReasonCode.TINY_NORM, ReasonCode.MISSING_DOCUMENT, ReasonCode.UNSUPPORTED_TEXT,
                 ReasonCode.UNSUPPORTED_METADATA, ReasonCode.TOO_LARGE):  # fmt: skip
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
    lines = advice_lines(["chunk_missing", "source_missing", "target_missing", "count_mismatch"], "night-1", 3)
    assert [line.split(":")[0] for line in lines] == ["Next", "Troubleshoot"]


# What the probe of each notebook can find, and the test that plants it. A trouble that no probe looks for has a sentence.
PLANTED = {
    "the target refuses chunks": ("41", "test_a_chunk_that_the_target_refuses_is_alone_in_quarantine_and_named"),
    "values are outside what the schema or Chroma allows": (
        "42", "test_scores_out_of_range_stop_the_migration_and_a_repaired_schema_lets_it_through"),
    "too many chunks do not pass validation": (
        "42", "test_scores_out_of_range_stop_the_migration_and_a_repaired_schema_lets_it_through"),
    "a process ran out of memory or of open files, or was killed": (
        "43", "test_too_little_memory_is_found_and_a_batch_that_fits_is_proposed"),
    "the target does not find what the source finds": ("44", "test_vectors_of_another_model_are_known_and_replaced"),
    "vectors, distances or index settings differ": ("44", "test_vectors_of_another_model_are_known_and_replaced"),
    "the application's queries or tests fail": ("44", "test_vectors_of_another_model_are_known_and_replaced"),
    "a server does not answer, or not in time": ("45", "test_a_port_cut_off_is_named_and_waited_for"),
    "a server refuses, or is not the one that was meant": ("45", "test_the_ladder_tells_what_it_saw"),
    "a directory is not the database that was meant, or cannot be read": ("45", "test_45_finds_a_directory_that_is_no_database"),
    "the application does not come up with the target, or its configuration is not what it was": (
        "45", "test_a_port_cut_off_is_named_and_waited_for"),
    "the target in use answers with errors, or the watch was interrupted": ("45", "test_a_slow_server_gets_a_longer_time_out"),
    "fields or documents are missing or differ": ("46", "test_missing_fields_are_found_and_brought_back"),
    "vectors are NaN, infinite, lost or of another dimension": ("47", "test_nan_vectors_are_named_and_set_aside"),
    "counts do not match: chunks are missing, duplicated or unexpected": (
        "48", "test_deleted_and_strange_chunks_are_named_and_mended"),
    "chunks in the source or the target have changed": ("48", "test_deleted_and_strange_chunks_are_named_and_mended"),
    "the target in use holds less than was validated": ("48", "test_deleted_and_strange_chunks_are_named_and_mended"),
}  # fmt: skip


def test_each_code_leads_to_a_sentence_or_to_a_notebook_whose_probe_finds_its_trouble() -> None:
    opened = {(code.trouble, code.step) for code in ReasonCode if code.step not in ("", "40") and not code.remedy}
    assert opened == {(trouble, step) for trouble, (step, _) in PLANTED.items()}
    tests = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "tests").glob("test_troubl*.py")))
    assert [name for _, name in PLANTED.values() if f"def {name}(" not in tests] == []


def test_45_finds_a_directory_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("no database")
    assert layers(Endpoint.model_validate({"path": str(tmp_path)}), "source")[-1].ok is False
    assert layers(Endpoint.model_validate({"path": str(tmp_path / "typo")}), "source")[-1].ok is False


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("no_fence", "Next: Stop whatever writes to the source, or name a fence"),
        ("source_missing", "Next: Correct the path"),
        ("late_notice", "Next: Accept the shorter notice, or move the window: .venv/bin/runbook resume night-1"),
        (
            "disk_unknown",
            "Next: Look at the free disk of the target's server and say what you saw: .venv/bin/runbook resume",
        ),
    ],
)
def test_what_no_probe_looks_for_opens_no_notebook(monkeypatch: pytest.MonkeyPatch, code: str, said: str) -> None:
    monkeypatch.delenv("RUNBOOK_REPORTS", raising=False)
    assert advice(code, "night-1").startswith(said)
    assert steps_for([code]) == []


def test_before_step_22_a_run_is_led_to_40_which_needs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """42 looks at what steps 21 and 22 left: advised after step 11 it could not run."""
    monkeypatch.setenv("RUNBOOK_REPORTS", str(tmp_path / "reports"))
    monkeypatch.setenv("RUNBOOK_WORKSPACE", str(tmp_path / "workspace"))
    (tmp_path / "source").mkdir()
    given = {"source": {"path": str(tmp_path / "source")}, "target": {"path": str(tmp_path / "target")}}
    folder = create(parameters_from(given), "early")
    assert "notebooks/40_troubleshooting.ipynb" in advice("invalid_scores", "early")
    for number in ("21", "22"):
        StepResult(number, number, "early", utc_now(), utc_now()).write(folder.reports / "results" / f"{number}.json")
    assert "notebooks/42_invalid_scores.ipynb" in advice("invalid_scores", "early")


def drawn(figure: Figure) -> str:
    words = " | ".join(text.get_text() for axes in figure.axes for text in axes.texts)
    plt.close(figure)
    return words.replace("\n", " ")


def test_the_go_no_go_tree_shows_only_the_path_of_the_run() -> None:
    validated = StepResult("23", "Validate", "one", utc_now(), utc_now(), checks=[Check("counts", Verdict.PASS)])
    matrix = [{"criterion": "validation pass rate", "value": 0.9965}]
    decided = StepResult("24", "Review", "one", utc_now(), utc_now(), Verdict.WARNING, facts={"matrix": matrix})
    said = drawn(go_no_go(validated, decided))
    assert "Pass rate at least 95 %? yes, 99.7 %" in said or "yes, 99.6 %" in said
    assert "GO Step 6a" in said
    assert not any(word in said for word in ("HOLD", "ROLLBACK", "Which issue", "no,"))
    validated.checks = [Check("metadata", Verdict.FAIL)]
    decided.verdict = Verdict.FAIL
    said = drawn(go_no_go(validated, decided))
    assert "no: metadata" in said
    assert "HOLD" in said
    assert "GO Step 6a" not in said
    assert {"GO", "HOLD", "ROLLBACK"} <= set(re.findall(r"GO|HOLD|ROLLBACK", drawn(go_no_go(None, None))))


def test_the_troubleshooting_tree_shows_only_the_branches_of_the_run() -> None:
    said = drawn(troubles({"48"}))
    assert "MIGRATION FAILED" in said
    assert "48 Count mismatch" in said
    assert not any(number in said for number in ("41", "42", "43", "44", "45", "46", "47"))
    assert "MIGRATION FAILED" not in drawn(troubles({"48"}, failed=False))
    assert drawn(troubles(set())) == "Nothing here needs a notebook of Section 4"
    assert "45 Network" in drawn(troubles(None))

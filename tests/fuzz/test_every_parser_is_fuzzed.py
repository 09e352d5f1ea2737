"""Generated inputs through every parser, one each unless RUNBOOK_FUZZ_INPUTS says more; and whatever decodes foreign bytes in the package is reached by them."""


# ruff: noqa: E501  tables are read by column

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.fuzz.sites import all_of_them

pytestmark = pytest.mark.slow
INPUTS = int(os.environ.get("RUNBOOK_FUZZ_INPUTS", "1"))
CHILD = "the order to, or the answer of, a process of our own"
OWN = "what the toolkit made a moment before, or ships"
REHEARSAL = "the sample application of a rehearsal, which the rehearsal itself sets up"
RULES = "rules of fence.json, which were checked when the file was read"
LOG = "lines of nginx's log; one that cannot be read is a reason to compare all"
EXCUSED = {
    "cli.rehearse:_record": REHEARSAL, "cli.rehearse:drill_restore": REHEARSAL, "rehearsal.sample_application:_collections": REHEARSAL, "rehearsal.sample_application:_write_in_child": REHEARSAL,
    "rehearsal.sample_application:write": REHEARSAL,
    "rehearsal.setup:Client._read": REHEARSAL, "stores.creation:RehearsalEmbedding._hashed": OWN,
    "parameters.snapshots:rules_of": "words of a command line, as parameters: tests/test_directories_of_snapshots.py",
    "parameters.snapshots:_keys_of": "the operator's own file of credentials: tests/test_parameters_secrets.py",
    "snapshots.objects:Objects._abort": "a checked URL of the parameters",
    "snapshots.objects:Objects._uploads": "what a driver made of an answer: tests/test_directories_of_snapshots.py",
    "snapshots.retention:_own_manifest": "a manifest that counts with a proof only: tests/test_directories_of_snapshots.py",
    "cli.doctor:destination_of": "words of a command line, as an endpoint: tests/test_snapshots_command.py",
    "evidence.signoffs:sign": OWN,
    "evidence.secret_scan:foreign_bytecode": "the installed package", "evidence.verification:_check_envelope": "envelopes are forged in tests/forgeries.py",
    "migration.importing:show_transform": OWN, "migration.target_lock:_runs_that_made": "documents of runs, behind a guard of its own",
    "notify.__init__:_answers": CHILD, "notify.sender:main": CHILD, "runner.notebook:be_template": CHILD,
    "steps.out_of_memory:OutOfMemoryStep.measure": CHILD, "stores.engine_page:main": CHILD, "stores.opening:_last": CHILD,
    "steps.integration:IntegrationStep._outcomes": CHILD, "steps.performance:PerformanceStep.sides": CHILD,
    "profiling.similarity:_runs": OWN, "run.folders:parameters_text": OWN, "runner.notebook:_assigned": OWN, "steps.invalid_scores:_write_yaml": OWN,
    "steps.invalid_scores:InvalidScoresStep.proposal": OWN,
    "parameters.endpoint:Section.__get_pydantic_json_schema__": OWN, "rollback.proof:writing_endpoint": RULES, "fence.nginx:_change_by": LOG, "fence.nginx:touched": LOG, "migration.delta:_write_changes": OWN, "steps.closeout:FenceEnd.__init__": RULES, "steps.rollback:RollbackStep.control": RULES,
    "audit:_is_trusted": "a line whose signature was looked at first: tests/test_audit_log.py",
    "audit:is_older": "the first seal; what it lacks makes no older run: tests/test_audit_log.py", "run.folders:RunFolder.note": OWN,
    "schema.file:_line": "where an error lies that was found: tests/test_schema_files.py",
    "schema.rules:listed": "values of metadata: tests/test_schema_hazards.py",
    "stores.copying:_back_up": "a database in use: tests/test_store_directories.py", "stores.copying:newest": "a look at a source: tests/test_a_look_writes_nothing_beside_a_source.py",
    "stores.copying:own_database": "a file of ours: tests/test_reembedding_of_collections.py", "migration.reembedding:VectorCache._read": "behind own_database, with a proof by the workspace's key",
    "stores.rescue:_from_log": "tests/test_rescue_of_damaged_directories.py", "stores.rescue:_take": "tests/test_rescue_of_damaged_directories.py",
}  # fmt: skip


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, str, set[str]]:
    """The campaign in a process of its own, which watches all that it opens: its code, what it printed, the functions entered."""
    entered = tmp_path_factory.mktemp("fuzz") / "entered.json"
    command = [sys.executable, "-m", "tests.fuzz.campaign", "--jobs=1", f"--inputs={INPUTS}", f"--entered={entered}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=900)
    return (
        done.returncode,
        done.stdout + done.stderr,
        set(json.loads(entered.read_text())) if entered.exists() else set(),
    )


def test_each_input_is_accepted_or_refused_in_one_line(played: tuple[int, str, set[str]]) -> None:
    code, said, _ = played
    assert code == 0, said


def test_every_parser_of_the_package_is_fuzzed(played: tuple[int, str, set[str]]) -> None:
    entered = played[2]
    assert entered, played[1]
    assert " ".join(sorted(all_of_them() - entered - set(EXCUSED))) == "", (
        "give each a file and a reader in tests/fuzz/parsers.py, or a reason in EXCUSED"
    )


def test_what_is_excused_is_there_and_is_not_fuzzed(played: tuple[int, str, set[str]]) -> None:
    assert sorted(set(EXCUSED) - all_of_them()) == []
    assert [name for name in EXCUSED if name in played[2]] == []

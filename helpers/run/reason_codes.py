"""One map: every reason code that a check or a failure at run time can give → what leads out of it.

That is a sentence with the command to give, where one is enough (`REMEDIES`), else the notebook of its row (`ROWS`).

Wrong parameters (`UsageError`) and gates that wait for people explain themselves and have no row. A test finds the codes
in the source and fails on one without a row (tests/test_troubleshooting_map.py).
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Protocol

from helpers.errors import RUNBOOK
from helpers.run import folders as runs
from helpers.run import plan

TREE = "40"  # the notebook that reads a run and says which of the others comes first


class HasId(Protocol):
    """A run, a run's folder: whatever has the id of a run."""

    @property
    def id(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Row:
    """Codes that mean the same trouble: the step whose notebook leads out of it, and the trouble in a few words.

    A `*` in a code means a field of the schema or a criterion of the decision matrix.
    """

    step: str
    trouble: str
    codes: tuple[str, ...]


ROWS: tuple[Row, ...] = tuple(
    Row(step, trouble, tuple(codes.split()))
    for step, trouble, codes in (
        ("41", "the migration stopped before its end", "interrupted time_limit too_slow cell_timeout night_too_long"),
        ("41", "another process holds the run or the target", "lock_held run_locked snapshot_in_use"),
        ("41", "the disk is full, or nobody knows whether it is", "paused_for_disk disk_full disk_unknown"),
        (
            "41",
            "a folder cannot be written, or is gone",
            "audit_unwritable folder_gone folder_unwritable read_only target_unwritable sample_path_in_use",
        ),
        ("41", "the target refuses chunks", "refused refused_by_target too_many_refused"),
        (
            "41",
            "the checkpoint does not fit what is there",
            "checkpoint_behind checkpoint_unreadable context_changed nothing_staged staging_changed",
        ),
        (
            "42",
            "values are outside what the schema or Chroma allows",
            """
            invalid_* invalid_citation_uri invalid_field invalid_scores invalid_values empty_id type_differs
            collection_name too_large unsupported_metadata unsupported_text wrong_collection_type
            """,
        ),
        (
            "42",
            "too many chunks do not pass validation",
            "matrix_validation_pass_rate quarantined validation_below_minimum",
        ),
        (
            "43",
            "a process ran out of memory or of open files, or was killed",
            "kernel_died out_of_memory too_few_files",
        ),
        (
            "44",
            "the target does not find what the source finds",
            """
            fulltext_misses matrix_named_queries query_without_answer search_baseline_missing search_not_equivalent
            search_unsure
            """,
        ),
        (
            "44",
            "vectors, distances or index settings differ",
            """
            configuration_differs distance_space embedding_function_unavailable index_dropped index_unsupported
            mixed_spaces space_differs vector_differs zero_vector
            """,
        ),
        (
            "45",
            "a server does not answer, or not in time",
            "not_json proxy_unusable server_busy server_does_not_start timeout unreachable",
        ),
        (
            "45",
            "a server refuses, or is not the one that was meant",
            """
            forbidden header_illegal not_found nothing_to_migrate other_source quota_exceeded source_not_chroma source_other_api
            answers_anybody target_database_made target_not_chroma target_other_api target_too_old target_unsound
            unknown_database unknown_tenant
            """,
        ),
        (
            "45",
            "a directory is not the database that was meant, or cannot be read",
            """
            source_damaged source_empty source_foreign_file source_layout_0_3 source_lfs_pointer source_link_broken source_missing
            source_not_a_folder source_truncated source_unreadable target_damaged target_empty
            target_foreign_file target_layout_0_3 target_lfs_pointer target_link_broken target_missing target_not_a_folder
            target_truncated target_unreadable unknown_collection
            not_embedded rename_not_0_3 source_doubled_names source_engine_failed source_incomplete source_older_layout
            target_older_layout
            """,
        ),
        (
            "45",
            "the write fence, or the proxy that makes it",
            """
            config_unwritable counts_move fence_bypass fence_elsewhere fence_not_lifted fence_of_other_run
            fence_open fence_state_damaged nginx_reads_other_files nginx_refuses nginx_reload_refused
            nginx_two_servers no_fence no_nginx old_workers probe_left_behind program_failed program_missing
            program_timeout reads_refused source_in_use source_use_unknown
            """,
        ),
        (
            "46",
            "fields or documents are missing or differ",
            """
            missing_* collection_metadata_differs document_differs field_extra field_missing
            matrix_metadata_completeness metadata_differs missing_document missing_metadata uri_differs
            """,
        ),
        (
            "47",
            "vectors are NaN, infinite, lost or of another dimension",
            """
            infinite_embedding matrix_NaN_embeddings_in_the_source missing_embedding mixed_dimensions
            nan_embedding reembed_dimension reembed_failed reembedded source_unreadable_ids tiny_norm
            vectors_lost vectors_not_found vectors_rescued
            wrong_dimension
            """,
        ),
        (
            "48",
            "counts do not match: chunks are missing, duplicated or unexpected",
            """
            chunk_doubled chunk_extra chunk_missing collection_missing count_mismatch duplicates id_collision
            matrix_collection_counts quarantine_unexplained quarantine_unknown restore_differs
            source_doubled_ids source_findings
            """,
        ),
        (
            "48",
            "the snapshot is not what was taken",
            "restore_ledger_unreadable snapshot_damaged snapshot_exists snapshot_too_small snapshot_unreadable",
        ),
        ("48", "the target already holds collections of these names", "exists target_not_empty"),
        (
            "41",
            "the run cannot go on from this state",
            """
            migration_runs outside_window target_database_state_damaged notify_state_damaged parameters_unreadable
            retry_state_damaged staged_gone
            """,
        ),
        (
            "45",
            "the application does not come up with the target, or its configuration is not what it was",
            """
            application_unseen backup_damaged config_changed config_file config_not_written cutover_reverted
            cutover_state_damaged cutover_unwell log_unreadable loopback_in_container not_healthy put_back_failed
            rollback_state_damaged source_ill source_settings
            """,
        ),
        (
            "44",
            "queries are slow, were not run, or do not find what is there",
            "filters_change not_measured not_queried nothing_to_ask replay_unfound slow_queries",
        ),
        (
            "45",
            "people were not notified, or nobody to notify is named",
            "by_hand_open late_notice nobody_named nobody_told notice_failed",
        ),
        ("44", "the application's queries or tests fail", "integration_failed no_application_queries tests_broken"),
        (
            "45",
            "the target in use answers with errors, or the watch was interrupted",
            "target_errors watch_interrupted",
        ),
        ("48", "the target in use holds less than was validated", "count_shrinks"),
        (
            "40",
            "the closeout is not complete",
            "closeout_state_damaged fence_kept not_cleaned not_ready_to_close",
        ),
        (
            "48",
            "chunks in the source or the target have changed",
            """
            catch_up_ledger_damaged catch_up_not_proven client_writes foreign_chunks replay_differs replay_open
            source_changed source_keeps_changing source_moved_on source_restored target_in_use target_not_clean
            """,
        ),
        (
            "40",
            "the evidence, the approvals or the decision block the run, not the data",
            """
            allowed_signers_bad cut_over_and_held dry_run gate_shut held no_decision not_archived not_sealable nothing_to_cut_over
            rolled_back seal_broken sealed_file_changed secret_found ssh_keygen_missing
            """,
        ),
        (
            "40",
            "several causes, or an unknown one: the decision tree says where to begin",
            """
            cell_failed cells_not_executed check_failed marginal no_go no_result not_executed notebook_exited
            client_does_not_work precondition_failed rehearsal_failed sample_failed signed_no_go step_failed unexpected
            """,
        ),
    )
)

# What to do in one sentence, where a notebook would only keep people from it: {resume} and the like are commands of the run.
REMEDIES: tuple[tuple[str, str], ...] = (
    ("Go on with: {resume}", "interrupted watch_interrupted"),
    (
        (
            f"Correct the path, address, tenant, database or filter in the parameters file, check it with {RUNBOOK} schema FILE, "
            "and begin a new run: a run keeps the source and target that it began with."
        ),
        """
        source_missing source_not_a_folder source_empty target_missing target_not_a_folder nothing_to_migrate
        unknown_tenant unknown_database header_illegal source_other_api target_other_api
        """,
    ),
    (
        "Name a new folder, or a server of a current Chroma, as the target, and begin a new run.",
        "target_older_layout target_too_old target_empty target_foreign_file target_layout_0_3 target_lfs_pointer",
    ),
    (
        (
            "Copy the database again from the machine that Chroma runs on, or take the last backup, and begin a new run with it. "
            "docs/sources.md says what can be read and repaired."
        ),
        "source_damaged source_foreign_file source_lfs_pointer source_truncated source_incomplete",
    ),
    (
        "Correct the folder or the file's permissions, as named above. Then: {resume}",
        """
        audit_unwritable config_unwritable folder_gone folder_unwritable read_only source_unreadable target_unreadable
        target_unwritable
        """,
    ),
    (
        (
            "Wait until the other run or command has ended; stop nothing and remove nothing that it writes. State of "
            "this run: {status}. Then: {resume}"
        ),
        "lock_held run_locked snapshot_in_use",
    ),
    ("Free space on the disk named above. Then: {resume}", "paused_for_disk disk_full"),
    (
        (
            "Begin a new run with migration.id_policy: prefix, which writes every id as <source collection>:<id> (tell the "
            "clients), or rename these ids at the source."
        ),
        "id_collision",
    ),
    (
        "Name another target in a new run. Remove a collection there only if you know whose it was and that it may go.",
        "exists target_not_empty",
    ),
    (
        (
            "Inside the window: {resume}. To move it: {resume} --set window.start=TIME. If it cannot wait: {resume} "
            "--outside-window REASON"
        ),
        "outside_window",
    ),
    (
        "Move or lengthen the window: {resume} --retry 14 --set window.start=TIME --set window.minutes=N",
        "night_too_long",
    ),
    (
        "Progress so far, and whether the run may continue: {recovery}",
        "checkpoint_behind checkpoint_unreadable context_changed nothing_staged staging_changed staged_gone",
    ),
    (
        "{verify} names what changed. Put the file back from the run's archive or a backup. Then: {resume}",
        """
        notify_state_damaged parameters_unreadable retry_state_damaged cutover_state_damaged rollback_state_damaged
        closeout_state_damaged fence_state_damaged seal_broken sealed_file_changed
        """,
    ),
    (
        "Correct what is named above; state of the fence: {fence}. Then: {resume}",
        """
        fence_elsewhere fence_not_lifted nginx_reads_other_files nginx_refuses nginx_reload_refused nginx_two_servers
        no_nginx old_workers program_failed program_missing program_timeout source_in_use fence_bypass fence_open reads_refused
        """,
    ),
    (f"State of the fence of that run, and how to lift it: {RUNBOOK} fence ID", "fence_of_other_run"),
    (
        (
            "Give what is missing, and send the notice again: {resume} --retry 14 --set KEY=TEXT; or notify people yourself: "
            "the text is announcement.txt in the run's folder."
        ),
        "nobody_named nobody_told notice_failed",
    ),
    ("Correct the file, or name another: {resume} --set signoff.allowed_signers=FILE", "allowed_signers_bad"),
    ("Install OpenSSH, which brings ssh-keygen. Then give the same command again.", "ssh_keygen_missing"),
)

_REMEDY = {code: said for said, codes in REMEDIES for code in codes.split()}
_BY_CODE = {code: row for row in ROWS for code in row.codes}
_PATTERNS = [code for code in _BY_CODE if "*" in code]


def row_of(code: str) -> Row | None:
    """The row of a reason code, a code by its own name before one by pattern; None where it explains itself."""
    found = _BY_CODE.get(code)
    if found is None:
        found = next((_BY_CODE[p] for p in _PATTERNS if fnmatchcase(code, p)), None)
    return found


def notebook_for(code: str) -> plan.Step | None:
    """The step whose notebook leads out of this trouble, or None where the code explains itself."""
    row = row_of(code)
    return plan.find(row.step) if row is not None else None


def advice(code: str, run: HasId | str) -> str:
    """One line with the remedy of this run's trouble; "" where the code explains itself.

    `interrupted` → `Next: go on with: .venv/bin/runbook resume night-1`;
    `count_mismatch` → `Troubleshoot: papermill notebooks/48_count_mismatch.ipynb OUT.ipynb -p run_id night-1`.
    """
    return next(iter(advised([code], run, 1)), "")


def advised(codes: Iterable[str], run: HasId | str, most: int) -> list[str]:
    """The remedies for many codes, each once and `most` at most: sentences first, then notebooks as in `steps_for`."""
    listed = list(codes)
    said = [f"Next: {remedy(code, run)}" for code in listed if code in _REMEDY]
    opened = [f"Troubleshoot: {command(step, run)}" for step in steps_for(c for c in listed if c not in _REMEDY)]
    return list(dict.fromkeys([*said, *opened]))[:most]


def remedy(code: str, run: HasId | str) -> str:
    """What to do in a sentence, with this run's commands in it; "" where a notebook says more, or the code itself."""
    if code not in _REMEDY:
        return ""
    folder = runs.RunFolder.of(run if isinstance(run, str) else run.id)
    names = ("resume", "status", "fence", "verify")
    return _REMEDY[code].format(
        **{name: folder.command(name) for name in names}, recovery=command(plan.find("30"), folder)
    )


def command(step: plan.Step, run: HasId | str, output: str = "OUT.ipynb") -> str:
    """The papermill command that runs a step's notebook on this run, wherever its reports are."""
    run_id = run if isinstance(run, str) else run.id
    elsewhere = runs.reports_root() != runs.REPOSITORY / "reports"
    where = f"RUNBOOK_REPORTS={shlex.quote(str(runs.reports_root()))} " if elsewhere else ""
    if os.environ.get("RUNBOOK_WORKSPACE") and runs.workspace_root() != runs.REPOSITORY / "workspace":
        where += f"RUNBOOK_WORKSPACE={shlex.quote(str(runs.workspace_root()))} "
    return f"{where}papermill notebooks/{step.notebook} {output} -p run_id {shlex.quote(run_id)}"


def lab(step: plan.Step) -> str:
    """The command that opens a step's notebook in JupyterLab, to fill in `run_id` and change cells."""
    return f"jupyter lab notebooks/{step.notebook}"


def steps_for(codes: Iterable[str]) -> list[plan.Step]:
    """The steps for many codes, each once, the one that explains most of them first; 40 only where nothing else does."""
    counted: dict[str, int] = {}
    for code in codes:
        if (row := row_of(code)) is not None:
            counted[row.step] = counted.get(row.step, 0) + 1
    named = sorted((s for s in counted if s != TREE), key=lambda s: (-counted[s], s))
    return [plan.find(s) for s in named or counted]

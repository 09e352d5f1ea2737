"""The commands that crash points fall on: from which state, what a DBA does after the kill, what must be true in the end.

`writes` of all scenarios together are the named writes of the code, but for those of `WITHOUT`, which say why;
`tests/faults/test_every_write_has_a_crash_point.py` holds the two to the code.
"""

from __future__ import annotations

from tests.faults.scenario import (
    FENCED,
    Damaged,
    Scenario,
    always,
    begin_or_resume,
    cut_over,
    export_statement,
    exported,
    fence_again,
    fronted,
    interrupt_export,
    lifted,
    lose_chunks,
    lose_fields,
    lose_quarantine,
    names,
    no_go,
    one_quarantined,
    open_again,
    pruned,
    recorded,
    reembed,
    remedy,
    restore,
    restored,
    rolled_back,
    sign,
    signed,
    step_22,
)
from tests.faults.special import (
    GIVEN_UP,
    Anew,
    FencedUp,
    InStorage,
    Many,
    Rejected,
    Repaired,
    Ruled,
    Shipped,
    anew,
    archive_unverified,
    begin_or_resume_all,
    damage_source,
    database_gone,
    drop_in_target,
    in_storage,
    late_kept,
    listed_as_open,
    migrate_all,
    migrate_past_a_dead_kernel,
    migrate_with_a_refusal,
    new_database,
    printed,
    printing,
    refused_kept,
    rehearse_at_once,
    rehearsed,
    rejected,
    repaired,
    restored_source,
    roll_back_past_a_late_write,
    ruled,
    zipped,
)

SCENARIOS: list[Scenario] = [
    Scenario(
        "begin", "new", begin_or_resume, begin_or_resume, names("""
            audit:append evidence.seals:_write_recipe evidence.seals:seal evidence.statement:copy_allowed
            audit:runner_key evidence.signing:sign migration.checkpoint:Checkpoint._changed
            migration.checkpoint:Checkpoint.enter migration.checkpoint:Checkpoint.open
            migration.checkpoint:Checkpoint.stage migration.staging:Quarantine.write migration.staging:_Staging._write
            migration.staging:_Staging.finish notify.__init__:CommandHooks._save run.folders:RunFolder._append
            run.folders:RunFolder._replace run.folders:RunLock.acquire run.folders:_claim run.folders:create
            run.record:RunProgress._write run.record:RunRecord.figure runner.notebook:Run._write
            snapshots.export_journal:ExportJournal._append snapshots.export_journal:ExportJournal.freeze
            snapshots.snapshot:write_part snapshots.snapshot:Snapshot.mark snapshots.snapshot:complete
            snapshots.snapshot:write_manifest steps.migrate:MigrateStep._keep_batches
            stores.copying:_copy_file stores.opening:_make_directory
        """),
    ),
    Scenario(
        "migrate", "snapshot", always("resume", "one", "--until", "22"), always("resume", "one", "--until", "22"), names("""
            audit:append evidence.seals:_write_recipe evidence.seals:seal evidence.signing:sign
            migration.checkpoint:Checkpoint._changed migration.checkpoint:Checkpoint.enter
            migration.checkpoint:Checkpoint.open migration.checkpoint:Checkpoint.stage migration.staging:Quarantine.write
            migration.staging:_Staging._write migration.staging:_Staging.finish run.folders:RunFolder._append
            run.folders:RunFolder._replace run.folders:RunLock.acquire run.record:RunProgress._write
            run.record:RunRecord.figure runner.notebook:Run._write snapshots.snapshot:Snapshot.mark
            steps.migrate:MigrateStep._keep_batches stores.copying:_copy_file
        """),
    ),
    Scenario("catch-up", "changed", step_22, step_22, names("""
            audit:append evidence.seals:_write_recipe evidence.seals:seal evidence.signing:sign migration.source_changes:switch
            migration.checkpoint:Checkpoint._changed migration.checkpoint:Checkpoint.enter
            migration.checkpoint:Checkpoint.open migration.checkpoint:Checkpoint.rebase
            migration.checkpoint:Checkpoint.stage migration.source_changes:CatchUpLedger.enter migration.delta:_append
            migration.delta:make_delta migration.staging:Quarantine.write migration.staging:_Staging._write
            migration.staging:_Staging.finish run.folders:RunFolder._append run.folders:RunLock.acquire
            run.folders:set_aside run.record:RunProgress._write run.record:RunRecord.figure runner.notebook:Run._write
            migration.delta:_restage_changed snapshots.snapshot:_linked snapshots.snapshot:write_part
            snapshots.snapshot:Snapshot.mark snapshots.snapshot:complete snapshots.snapshot:write_manifest
            steps.migrate:MigrateStep._keep_batches stores.copying:_copy_file
        """)),
    Scenario("rules of a schema", "new", begin_or_resume, begin_or_resume, names("""
            migration.staging:_Staging._write migration.staging:_Staging.finish migration.checkpoint:Checkpoint.enter
        """), check=ruled, bench=lambda shared: shared.once("ruled", Ruled)),
    Scenario("catch-up beside a quarantine", "changed", step_22, step_22, names("""
            migration.staging:Quarantine.write migration.staging:Quarantine.keep
        """), check=rejected, bench=lambda shared: shared.once("rejected", Rejected)),
    Scenario("staged in a storage", "new", begin_or_resume, begin_or_resume, names("""
            snapshots.objects:send migration.staging:_Staging._write migration.staging:_Staging.finish
            snapshots.snapshot:complete snapshots.snapshot:write_manifest
        """), check=in_storage, bench=lambda shared: shared.once("in-storage", InStorage)),
    Scenario(
        "decide", "migrated", always("resume", "one"), always("resume", "one"), names("""
            audit:append evidence.seals:_write_recipe evidence.seals:seal evidence.signing:sign
            report.pages:render_notebook report.pages:render_pages run.folders:RunFolder._append
            run.folders:RunFolder._replace run.folders:RunLock.acquire run.record:RunProgress._write
            run.record:RunRecord.figure runner.notebook:Run._write
        """),
        codes=(4,), pages=True,
    ),
    Scenario(
        "sign", "decided", sign, sign, names("""
            audit:append evidence.seals:_write_recipe evidence.seals:seal evidence.signing:sign evidence.signoffs:_record
            report.pages:render_pages rollback.__init__:at_work run.folders:RunFolder._append run.folders:RunLock.acquire
        """),
        codes=(0, 4), check=signed, over=lambda done: "already" in done.line,
    ),
    Scenario(
        "cutover and closeout", "signed", always("resume", "one"), always("resume", "one"), names("""
            audit:append cutover.application:CutoverState.enter cutover.files:keep cutover.files:put_in_place
            cutover.files:stage evidence.seals:_write_recipe evidence.seals:seal evidence.signing:sign
            monitoring.measure:run_child monitoring.watcher:SampleJournal._write
            run.folders:RunFolder._append run.folders:RunFolder._replace run.folders:RunLock.acquire
            run.record:RunProgress._write run.record:RunRecord.figure runner.notebook:Run._write
            steps.closeout:CloseoutStep.clean steps.closeout:Lessons.begin
            steps.integration:IntegrationStep._pytest stores.copying:_copy_file
        """),
        codes=(0, 4), check=cut_over,
    ),
    Scenario(
        "rollback", "cutover", always("rollback", "one", "--why", "trial", "--replay"),
        always("rollback", "one", "--why", "trial", "--replay"), names("""
            audit:append cutover.application:CutoverState.enter cutover.files:stage evidence.seals:_write_recipe
            evidence.seals:seal evidence.signing:sign rollback.__init__:RollbackState.begin rollback.__init__:at_work
            rollback.proof:StageContext.__init__ rollback.proof:StageContext.stage rollback.replay:export
            rollback.return_writes:ReturnWrites._export rollback.return_writes:ReturnWrites._write rollback.replay:note_done
            rollback.return_writes:ReturnWrites._replay run.folders:RunFolder._append run.folders:RunFolder._replace
            run.folders:RunLock.acquire run.record:RunProgress._write run.record:RunRecord.figure runner.notebook:Run._write
            steps.rollback:RollbackStep.watch stores.copying:_copy_file
        """), check=rolled_back,
    ),
    Scenario(
        "retry", "migrated", always("resume", "one", "--retry", "21", "--until", "22"),
        always("resume", "one", "--until", "22"), names("""
            audit:append evidence.seals:_write_recipe evidence.seals:seal evidence.signing:sign
            migration.checkpoint:Checkpoint._changed migration.checkpoint:Checkpoint.enter
            migration.checkpoint:Checkpoint.open migration.checkpoint:Checkpoint.stage migration.staging:Quarantine.write
            migration.staging:_Staging._write migration.staging:_Staging.finish run.folders:RunFolder._append
            run.folders:RunLock.acquire run.folders:set_aside run.record:RunProgress._write run.record:RunRecord.figure
            runner.notebook:Run._write runner.notebook:_empty_target runner.notebook:undo_from
            snapshots.export_journal:ExportJournal._append snapshots.export_journal:ExportJournal.freeze
            snapshots.snapshot:write_part snapshots.snapshot:Snapshot.mark snapshots.snapshot:complete
            snapshots.snapshot:write_manifest steps.migrate:MigrateStep._keep_batches stores.copying:_copy_file
        """),
    ),
    Scenario(
        "gone on with an export, then index files", "ready", always("resume", "one", "--until", "22"),
        always("resume", "one", "--until", "22"), names("""
            migration.shipping:_bring migration.shipping:_switch migration.shipping:keep migration.shipping:ship
            snapshots.export_journal:ExportJournal.open
        """), prepare=interrupt_export, bench=lambda shared: shared.once("shipped", Shipped),
    ),
    Scenario(
        "sign elsewhere", "decided", export_statement, export_statement, names("""
            cli.evidence:_sign
        """), check=exported, over=lambda done: "something is there already" in done.line,
    ),
    Scenario("restore", "snapshot", restore, restore, names("""
            audit:append migration.restore:RestoreLedger.put migration.restore:in_use snapshots.snapshot:Snapshot.mark
            stores.opening:_make_directory
        """), check=restored),
    Scenario(
        "prune", "migrated", always("snapshots", "prune", "--yes", "--abandoned", "one"),
        always("snapshots", "prune", "--yes", "--abandoned", "one"), names("""
            audit:append run.folders:RunFolder._append run.folders:RunFolder._replace snapshots.retention:remove
        """), check=pruned, clock=(400 * 86400.0,),
    ),
    Scenario(
        "fence", "new", begin_or_resume, begin_or_resume, names("""
            fence.__init__:FenceState.enter
        """), bench=lambda shared: shared.bench("fenced", more=FENCED),
    ),
    Scenario(  # step 20 puts the fence up, the end of the command takes it away again
        "nginx's fence", "new", always("run", "trial.yaml", "--run-id", "one", "--until", "20"), fence_again, names("""
            fence.nginx:Nginx.keep fence.nginx:Nginx.put_back fence.nginx:Nginx.write
        """), check=lifted, bench=fronted,
    ),
    Scenario(
        "nginx's log of writes", "new", begin_or_resume, begin_or_resume, names("""
            fence.__init__:FenceControl.record fence.__init__:FenceControl.read_since
        """), check=open_again, bench=recorded,
    ),
    Scenario("validation fails", "migrated", always("resume", "one", "--until", "23"), always("resume", "one", "--until", "23"),
        names("""
            runner.notebook:Run._write
        """), codes=(1, 3), prepare=lose_chunks, check=no_go,
    ),
    Scenario("reembedding and quarantine", "new", reembed, reembed, names("""
            migration.reembedding:_part migration.reembedding:reembed migration.staging:Quarantine.keep
            migration.staging:Quarantine.evidence
        """), check=one_quarantined, bench=lambda shared: shared.once("damaged", Damaged),
    ),
    Scenario("new vectors of whole collections", "new", begin_or_resume, begin_or_resume, names("""
            migration.reembedding:_part migration.reembedding:reembed migration.checkpoint:Checkpoint.enter
            migration.staging:_Staging._write migration.staging:_Staging.finish
        """), check=anew, bench=lambda shared: shared.once("anew", Anew)),
    Scenario("remedy 46", "migrated", always(), always(), names("""
            troubleshooting:Repair._export
        """), prepare=lose_fields, does=remedy("46"),
    ),
    Scenario("remedy 47", "migrated", always(), always(), names("""
            steps.nan_embeddings:NanEmbeddingsStep.set_aside
        """), prepare=lose_quarantine, check=one_quarantined, does=remedy("47"),
        bench=lambda shared: shared.once("damaged", Damaged),
    ),
    Scenario("remedy 48", "migrated", always(), always(), names("""
            troubleshooting:Repair._export troubleshooting:_set_state
        """), prepare=lose_chunks, does=remedy("48"),
    ),
    Scenario("a new database", "new", begin_or_resume, begin_or_resume, names("""
            migration.target_lock:ensure_database
        """), bench=new_database,
    ),
    Scenario(  # and is stopped before anything is written: what was made goes again
        "a new database, for nothing", "new", fence_again, fence_again, names("""
            migration.target_lock:ensure_database migration.target_lock:remove_made_database
        """), check=database_gone, bench=new_database,
    ),
    Scenario(
        "a new database, rolled back", "new", always("rollback", "one", "--why", "trial"),
        always("rollback", "one", "--why", "trial"), names("""
            migration.target_lock:remove_made_database
        """), prepare=migrate_all, check=database_gone, bench=new_database,
    ),
    Scenario("a chunk is refused", "snapshot", always(), always(), names("""
            migration.staging:Quarantine.add
        """), check=refused_kept, does=migrate_with_a_refusal,
    ),
    Scenario("a schema repairs", "new", begin_or_resume, begin_or_resume, names("""
            steps.migrate:MigrateStep._arrived
        """), check=repaired, bench=lambda shared: shared.once("repaired", Repaired),
    ),
    Scenario("a kernel dies", "snapshot", always(), always(), names("""
            runner.pipeline:Execution.result
        """), does=migrate_past_a_dead_kernel,
    ),
    Scenario("many databases", "new", begin_or_resume_all, begin_or_resume_all, names("""
            runner.group:begin
        """), bench=lambda shared: shared.once("many", Many),
    ),
    Scenario("archive", "decided", always(), always(), names("""
            cli.evidence:archive cli.evidence:_private_copy
        """), check=zipped, over=lambda done: "exists already" in done.line, does=archive_unverified,
    ),
    Scenario("print", "migrated", always("resume", "one"), always("resume", "one"), names("""
            report.pages:print_pdf
        """), codes=(4,), check=printed, pages=True, bench=printing,
    ),
    Scenario("restore the source", "up", always("rollback", "one", "--why", "trial", "--restore-source"),
        always("rollback", "one", "--why", "trial", "--restore-source"), names("""
            rollback.proof:SourceProof._restore rollback.proof:_export
        """), prepare=damage_source, check=restored_source, bench=lambda shared: shared.once("fenced up", FencedUp),
    ),
    Scenario("a write that nobody can replay", "cutover", always(*GIVEN_UP), always(*GIVEN_UP), names("""
            rollback.return_writes:ReturnWrites._list_open
        """), prepare=drop_in_target, check=listed_as_open,
    ),
    Scenario("a late write", "cutover", always(), always(), names("""
            rollback.return_writes:ReturnWrites.keep_late
        """), check=late_kept, does=roll_back_past_a_late_write,
    ),
]  # fmt: skip

# Too slow for a round: tests/heavy/test_killed_rehearsals_are_begun_anew.py plays it.
REHEARSAL = Scenario("rehearsal", "new", always(), always(), names("""
        cli.rehearse:_recording evidence.signing:throw_away_keys rehearsal.sample_source:write_sample
        rehearsal.setup:_application rehearsal.setup:application_at_work rehearsal.setup:with_application
    """), check=rehearsed, does=rehearse_at_once,
)  # fmt: skip

# Writes at which nothing is killed here: what they leave is made again, or killed in another test.
WITHOUT: dict[str, str] = {
    name: why
    for why, written in {
        "no file of a run":
            """
            cli.__init__:_ResilientStream._guarded evidence.signing:request_timestamp run.kernel:readable evidence.signing:raw
            evidence.signing:raw_signed runner.notebook:_become_kernel
            runner.pipeline:_kernel_class
        """,
        "of the application and the client beside a rehearsal: processes of their own, which end with it":
            """
            rehearsal.sample_application:log rehearsal.sample_application:main rehearsal.sample_application:serve
            rehearsal.setup:Client.work
        """,
        "of a rehearsal between servers, which is begun anew; what it writes beside the run is a log and a .env":
            """cli.rehearse:_process cli.rehearse:rehearse_servers""",
        "needs an authority: tests/test_evidence_timestamps.py":
            """evidence.seals:_push_outside""",
        "of a child that measures, or of the application's own tests":
            """monitoring.measure:main monitoring.integration_cases:_write""",
        "asked for by a person in notebook 11, who asks again":
                        """
            profiling.__init__:Places.note profiling.search:write_csv profiling.similarity:outliers
            steps.explore_source:ExploreSourceStep.distribution
        """,
        "of a record without a notebook, which only tests make; of a notebook's: runner.notebook:Run._write":
            """run.record:RunRecord.finish""",
        "proposals and tables of notebooks 42 and 46, which are made again: tests/test_troubles_of_the_data.py":
            """steps.invalid_scores:_write_yaml steps.missing_metadata:MissingMetadataStep.look""",
        "lists of steps 11 and 23, before the result of the step, which makes them again: tests/test_explore_findings.py":
            """profiling.similarity:keep validation.equivalence:searches""",
        "of an export or an import of files, which is begun anew: tests/test_snapshots_without_a_migration.py":
            """snapshots.backup:_collection snapshots.backup:_to_jsonl snapshots.backup:export""",
        "of snapshots in a storage, killed at its requests: tests/test_snapshots_in_object_storage.py":
            """snapshots.remote:Remote.bring snapshots.remote:Remote.mirror snapshots.remote:prepared
            snapshots.objects:Objects._write""",
        "one renaming of what is not ours: before and after it the next command finds either name":
            """snapshots.export_journal:ExportJournal.clear""",
        "of a fleet, whose runs' own writes are killed here: tests/test_fleets.py, test_the_table_of_a_fleet_is_checked_first.py":
            """
            runner.fleet:begin runner.fleet:_save runner.fleet:render runner.fleet:_Work._start_process
            runner.fleet_table:discover runner.group:record_order
        """,
        "of workers of Dask, which are killed with their scheduler and the run: tests/heavy/test_killed_workers_end_the_same.py":
            """migration.staging:_piece snapshots.retention:_by_workers""",
        "a file that shows whether workers see a folder, with a name of a leftover: it says nothing to anybody later":
            """run.executor:_tokens""",
        "one renaming of a copy of the source in the workspace, which step 21 makes again":
            """stores.opening:open_source""",
        "an empty file, which SQLite takes for a new database":
            """stores.copying:own_database""",
        "one renaming of a cutover that was taken back: before it the next command compares the target again":
            """rollback.return_writes:leave_undone_cutover""",
        "an empty file that asks a run to stop":
            """runner.outcome:_stop_migration""",
    }.items()
    for name in written.split()
}  # fmt: skip

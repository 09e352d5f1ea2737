"""The commands that crash points fall on: from which state, what a DBA does after the kill, what must be true in the end.

`writes` of all scenarios together are the named writes of the code, but for those of `WITHOUT`, which say why;
`tests/faults/test_every_write_has_a_crash_point.py` holds the two to the code.
"""

from __future__ import annotations

import gzip
import json
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from helpers.errors import RunbookError
from helpers.run import plan
from tests.faults.bench import CONTENT, DOUBLED, LOST, STUCK, Bench, Contents, Ended, Fault, differences
from tests.faults.command import Crash
from tests.faults.services import Fronted
from tests.faults.shared import Shared
from tests.signers import Signers
from tests.storage import embedded
from tests.test_reembedding import damaged

FENCED = "fence: {kind: command, command: {lock: [touch, locked], unlock: [rm, -f, locked]}}\n"
Command = Callable[[Bench], tuple[str, ...]]


def _same(bench: Bench) -> None:
    bench.compare()


def _nothing(bench: Bench) -> None:
    """The scenario begins with its state as it is."""


@dataclass(frozen=True)
class Scenario:
    """`over` says of a refusal that the work was done already, by the command that was killed."""

    name: str
    state: str
    command: Command
    again: Command
    writes: frozenset[str]
    codes: tuple[int, ...] = (0,)
    check: Callable[[Bench], None] = _same
    prepare: Callable[[Bench], None] = _nothing
    over: Callable[[Ended], bool] = lambda done: False
    pages: bool = False
    clock: tuple[float, ...] = ()
    bench: Callable[[Shared], Bench] = lambda shared: shared.bench()
    does: Callable[[], int] | None = None  # in place of the command, such as a notebook of Section 4


def always(*words: str) -> Command:
    return lambda bench: words


def export_statement(bench: Bench) -> tuple[str, ...]:
    """The statement for a role whose key is on another machine."""
    return (*sign(bench)[:-2], "--export", "statement.json")


def exported(bench: Bench) -> None:
    """What is to be signed elsewhere is whole."""
    json.loads((bench.home / "statement.json").read_text(encoding="utf-8"))


def interrupt_export(bench: Bench) -> None:
    """A snapshot of which a part was written."""
    child = bench.start("resume", "one", "--until", "21", crash=Crash("snapshots.snapshot:_write_part", "after", 1))
    if (done := bench.ended(child)).code != -signal.SIGKILL:
        raise Fault(STUCK, f"the export was not killed: exit {done.code}: {done.line}")


def begin_or_resume(bench: Bench) -> tuple[str, ...]:
    if (bench.home / "reports/one/run.json").is_file():
        return ("resume", "one", "--until", "22")
    return ("run", "trial.yaml", "--run-id", "one", "--until", "22")


def step_22(bench: Bench) -> tuple[str, ...]:
    """Step 22 once more: the source is read again, and what changed is brought over."""
    return ("run", "--run-id", "one", "--from", "22", "--until", "22")


def sign(bench: Bench) -> tuple[str, ...]:
    keys = Signers.of(bench.home / "keys")
    return ("sign", "one", *keys.command(keys.roles[0]))


def restore(bench: Bench) -> tuple[str, ...]:
    return ("snapshots", "restore", snapshot(bench).name, "--into", "restored")


def snapshot(bench: Bench) -> Path:
    return next(p for p in sorted((bench.home / "kept").iterdir()) if (p / "manifest.json").is_file())


def restored(bench: Bench) -> None:
    bench.compare("restored")


def signed(bench: Bench) -> None:
    """The first role has signed: the run waits for the others only."""
    done = bench.run("resume", "one")
    if done.code != 4 or f"approval of {Signers.of(bench.home / 'keys').roles[0]}" in done.line:
        raise Fault(STUCK, f"the signature does not count: exit {done.code}: {done.line}")


def rolled_back(bench: Bench) -> None:
    """The source as it was, or with what clients wrote since; nothing of ours in the target; the file as it was."""
    wanted = {n: dict(c) for n, c in bench.wanted.items()}
    source = bench.contents("source")
    wanted["alpha"] |= {i: row for i, row in source["alpha"].items() if i.startswith("client")}
    if len(wanted["alpha"]) != CONTENT["alpha"][0] + 5:
        raise Fault("LOST", "what a client wrote to the target is not in the source")
    differences(wanted, source, "the source")
    if left := [n for n in bench.contents("target") if n in CONTENT]:
        raise Fault(DOUBLED, f"rolled back, and the target still holds {left}")
    if b"CHROMA_URL=before" not in (bench.home / "app.env").read_bytes():
        raise Fault("ALTERED", "app.env was not put back")


def cut_over(bench: Bench) -> None:
    """The target has what the source has, and the application's file names it."""
    bench.compare()
    text = (bench.home / "app.env").read_text(encoding="utf-8")
    if text != "# the application\nOTHER=1\nCHROMA_URL=after  # where Chroma is\n":
        raise Fault("ALTERED", f"app.env: {text!r}")


def pruned(bench: Bench) -> None:
    """The snapshot is gone, or whole; the run's own evidence is."""
    folders = [p for p in (bench.home / "kept").iterdir() if (p / "manifest.json").is_file()]
    for folder in folders:
        if bench.run("snapshots", "verify", folder.name).code:
            raise Fault("LOST", f"half removed: {bench.log[-1]}")


def remedy(step: str, **parameters: object) -> Callable[[], int]:
    """A notebook of Section 4, applied: what stands in the place of the command."""
    return partial(_remedy, step, parameters)


def _remedy(step: str, parameters: dict[str, object]) -> int:
    from tests.test_troubles_notebooks import executed

    try:
        executed(plan.find(step), "one", **{"dry_run": False, **parameters})
    except RunbookError as error:
        print(f"runbook: {error.line()}")
        return 1
    return 0


def lose_chunks(bench: Bench) -> None:
    """Chunks of the target go, one of a collection, and come back under other metadata."""
    with embedded(bench.home / "target") as store:
        store.delete("beta", ["b7", "b8"])
        store.delete("alpha", ["a3"])


def lose_fields(bench: Bench) -> None:
    with embedded(bench.home / "target") as store:
        rows = store.read("alpha", [f"a{n}" for n in range(10)])
        for metadata in rows.metadatas:
            (metadata or {}).pop("word")
        store.delete("alpha", rows.ids)
        store.add("alpha", rows)


def no_go(bench: Bench) -> None:
    """The validation has failed, and says so; nothing was decided for it."""
    if bench.passed("23"):
        raise Fault(LOST, "chunks are missing in the target, and step 23 passed")


class Damaged(Bench):
    """A bench whose source lost vectors: some are made again by the collection's own function, one chunk is quarantined."""

    STATES = ("new", "migrated")

    def _make_new(self) -> None:
        super()._make_new()
        shutil.rmtree(self.home / "source")
        damaged(self.home / "source")

    def _make_migrated(self) -> None:
        self.must(*reembed(self))

    def contents(self, place: str) -> Contents:
        return {} if place == "source" else super().contents(place)  # Chroma's own client cannot read this source


def reembed(bench: Bench) -> tuple[str, ...]:
    if (bench.home / "reports/one/run.json").is_file():
        return ("resume", "one", "--until", "22")
    return ("run", "trial.yaml", "--run-id", "one", "--set", "migration.reembed=own", "--until", "22")


def one_quarantined(bench: Bench) -> None:
    """33 chunks with vectors in the target; the one without a text is in quarantine, and in the evidence."""
    found = bench.contents("target")
    wanted = {f"c{n}" for n in range(30)} | {f"lost-{n}" for n in range(3)}
    if gone := sorted(wanted - found["notes"].keys()):
        raise Fault(LOST, f"notes: {gone} are missing")
    if more := sorted(found["notes"].keys() - wanted):
        raise Fault(DOUBLED, f"notes: {more} are too many")
    listed = (bench.home / "workspace/one/quarantine/checked.jsonl").read_text().splitlines()
    kept = gzip.decompress((bench.home / "reports/one/22_quarantine.jsonl.gz").read_bytes()).splitlines()
    if len(listed) != 1 or len(kept) != 1 or b"lost-3" not in kept[0]:
        raise Fault(
            LOST, f"of the chunk without a vector {len(listed)} entries and {len(kept)} lines of evidence are left"
        )


def lose_quarantine(bench: Bench) -> None:
    shutil.rmtree(bench.home / "workspace/one/quarantine")


def fence_again(bench: Bench) -> tuple[str, ...]:
    if (bench.home / "reports/one/run.json").is_file():
        return ("run", "--run-id", "one", "--from", "20", "--until", "20")
    return ("run", "trial.yaml", "--run-id", "one", "--until", "20")


def lifted(bench: Bench) -> None:
    """nginx has the file from before the fence, and lets a client's write through."""
    assert isinstance(bench, Fronted)
    if bench.config.read_text() != bench.before or not bench.writes(5):
        raise Fault(STUCK, "the fence is lifted, and nginx is not what it was")


def fronted(shared: Shared) -> Bench:
    found: Bench = shared.once("fronted", lambda folder: Fronted(folder, shared.stack))
    return found


def recorded(shared: Shared) -> Bench:
    """Writers go on until the cutover; nginx logs what they write from step 20 on."""
    found: Bench = shared.once("recorded", lambda folder: Fronted(folder, shared.stack, "cutover"))
    return found


def open_again(bench: Bench) -> None:
    """Source and target agree, and nginx lets a client's write through, then and before."""
    bench.compare()
    assert isinstance(bench, Fronted)
    if not bench.writes(5):
        raise Fault(STUCK, "writers were never stopped, and nginx refuses a write")


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


SCENARIOS: list[Scenario] = [
    Scenario(
        "begin", "new", begin_or_resume, begin_or_resume, _names("""
            audit:append evidence.seals:_copy_allowed evidence.seals:_write_recipe evidence.seals:seal
            evidence.secret_scan:list_packages
            audit:runner_key evidence.signing:sign migration.checkpoint:Checkpoint._changed
            migration.checkpoint:Checkpoint.enter migration.checkpoint:Checkpoint.open
            migration.checkpoint:Checkpoint.stage migration.staging:Quarantine.write migration.staging:_Staging._write
            migration.staging:_Staging.finish notify.delivery:Around._save run.folders:RunFolder._append
            run.folders:RunFolder.rewrite run.folders:RunLock.acquire run.folders:_claim run.folders:create
            run.record:Progress._write run.record:RunRecord.figure runner.notebook:Run._write
            snapshots.export_journal:Journal._append snapshots.export_journal:Journal.freeze
            snapshots.snapshot:_write_part snapshots.snapshot:Snapshot.mark snapshots.snapshot:_complete
            snapshots.snapshot:write_snapshot steps.migrate:MigrateStep._keep_batches
            steps.schedule_and_notify:ScheduleAndNotifyStep._keep stores.copying:_copy_file stores.opening:_make_directory
        """),
    ),
    Scenario(
        "migrate", "snapshot", always("resume", "one", "--until", "22"), always("resume", "one", "--until", "22"), _names("""
            audit:append evidence.seals:_write_recipe evidence.seals:seal evidence.signing:sign
            migration.checkpoint:Checkpoint._changed migration.checkpoint:Checkpoint.enter
            migration.checkpoint:Checkpoint.open migration.checkpoint:Checkpoint.stage migration.staging:Quarantine.write
            migration.staging:_Staging._write migration.staging:_Staging.finish run.folders:RunFolder._append
            run.folders:RunFolder.rewrite run.folders:RunLock.acquire run.record:Progress._write
            run.record:RunRecord.figure runner.notebook:Run._write snapshots.snapshot:Snapshot.mark
            steps.migrate:MigrateStep._keep_batches stores.copying:_copy_file
        """),
    ),
    Scenario("catch-up", "changed", step_22, step_22, _names("""
            audit:append evidence.seals:_write_recipe evidence.seals:seal evidence.signing:sign migration.catch_up:switch
            migration.checkpoint:Checkpoint._changed migration.checkpoint:Checkpoint.enter
            migration.checkpoint:Checkpoint.open migration.checkpoint:Checkpoint.rebase
            migration.checkpoint:Checkpoint.stage migration.source_changes:Ledger.enter migration.source_changes:_keep
            migration.source_changes:make_delta migration.staging:Quarantine.write migration.staging:_Staging._write
            migration.staging:_Staging.finish run.folders:RunFolder._append run.folders:RunLock.acquire
            run.folders:set_aside run.record:Progress._write run.record:RunRecord.figure runner.notebook:Run._write
            snapshots.export_journal:Journal._append snapshots.export_journal:Journal.freeze
            snapshots.snapshot:_write_part snapshots.snapshot:Snapshot.mark snapshots.snapshot:_complete
            snapshots.snapshot:write_snapshot steps.migrate:MigrateStep._keep_batches stores.copying:_copy_file
        """)),
    Scenario(
        "decide", "migrated", always("resume", "one"), always("resume", "one"), _names("""
            audit:append evidence.seals:_write_recipe evidence.seals:seal evidence.signing:sign report.pages:_keep
            report.pages:render_notebook report.pages:render_pages run.folders:RunFolder._append
            run.folders:RunFolder.rewrite run.folders:RunLock.acquire run.record:Progress._write
            run.record:RunRecord.figure runner.notebook:Run._write
        """),
        codes=(4,), pages=True,
    ),
    Scenario(
        "sign", "decided", sign, sign, _names("""
            audit:append evidence.seals:_write_recipe evidence.seals:seal evidence.signing:sign evidence.signoffs:_record
            report.pages:render_pages rollback.outline:at_work run.folders:RunFolder._append run.folders:RunLock.acquire
        """),
        codes=(0, 4), check=signed, over=lambda done: "already" in done.line,
    ),
    Scenario(
        "cutover and closeout", "signed", always("resume", "one"), always("resume", "one"), _names("""
            audit:append cutover.application:CutoverState.enter cutover.files:keep cutover.files:put_in_place
            cutover.files:stage evidence.seals:_write_recipe evidence.seals:seal evidence.signing:sign
            monitoring.measure:run_child monitoring.watcher:Journal._write report.pages:_keep
            run.folders:RunFolder._append run.folders:RunFolder.rewrite run.folders:RunLock.acquire
            run.record:Progress._write run.record:RunRecord.figure runner.notebook:Run._write
            steps.closeout:CloseoutStep.clean steps.closeout:CloseoutStep.write steps.closeout:Lessons.begin
            steps.integration:IntegrationStep._pytest stores.copying:_copy_file
        """),
        codes=(0, 4), check=cut_over,
    ),
    Scenario(
        "rollback", "cutover", always("rollback", "one", "--why", "trial", "--replay"),
        always("rollback", "one", "--why", "trial", "--replay"), _names("""
            audit:append cutover.application:CutoverState.enter cutover.files:stage evidence.seals:_write_recipe
            evidence.seals:seal evidence.signing:sign rollback.outline:RollbackState.begin rollback.outline:at_work
            rollback.proof:StageContext.__init__ rollback.proof:StageContext.stage rollback.replay:export
            rollback.replay:whole rollback.return_writes:ReturnWrites._export
            rollback.return_writes:ReturnWrites._replay run.folders:RunFolder._append run.folders:RunFolder.rewrite
            run.folders:RunLock.acquire run.record:Progress._write run.record:RunRecord.figure runner.notebook:Run._write
            steps.rollback:RollbackStep.watch stores.copying:_copy_file
        """), check=rolled_back,
    ),
    Scenario(
        "retry", "migrated", always("resume", "one", "--retry", "21", "--until", "22"),
        always("resume", "one", "--until", "22"), _names("""
            audit:append evidence.seals:_write_recipe evidence.seals:seal evidence.signing:sign
            migration.checkpoint:Checkpoint._changed migration.checkpoint:Checkpoint.enter
            migration.checkpoint:Checkpoint.open migration.checkpoint:Checkpoint.stage migration.staging:Quarantine.write
            migration.staging:_Staging._write migration.staging:_Staging.finish run.folders:RunFolder._append
            run.folders:RunLock.acquire run.folders:set_aside run.record:Progress._write run.record:RunRecord.figure
            runner.notebook:Run._write runner.notebook:_empty_target runner.notebook:take_back
            snapshots.export_journal:Journal._append snapshots.export_journal:Journal.freeze
            snapshots.snapshot:_write_part snapshots.snapshot:Snapshot.mark snapshots.snapshot:_complete
            snapshots.snapshot:write_snapshot steps.migrate:MigrateStep._keep_batches stores.copying:_copy_file
        """),
    ),
    Scenario(
        "gone on with an export", "ready", always("resume", "one", "--until", "21"), always("resume", "one", "--until", "21"),
        _names("""
            snapshots.export_journal:Journal.open
        """), prepare=interrupt_export, check=_nothing,
    ),
    Scenario(
        "sign elsewhere", "decided", export_statement, export_statement, _names("""
            cli.evidence:_sign
        """), check=exported, over=lambda done: "something is there already" in done.line,
    ),
    Scenario("restore", "snapshot", restore, restore, _names("""
            audit:append migration.restore:Ledger.put migration.restore:in_use snapshots.snapshot:Snapshot.mark
            stores.opening:_make_directory
        """), check=restored),
    Scenario(
        "prune", "migrated", always("snapshots", "prune", "--yes", "--abandoned", "one"),
        always("snapshots", "prune", "--yes", "--abandoned", "one"), _names("""
            audit:append run.folders:RunFolder._append run.folders:RunFolder.rewrite snapshots.retention:remove
        """), check=pruned, clock=(400 * 86400.0,),
    ),
    Scenario(
        "fence", "new", begin_or_resume, begin_or_resume, _names("""
            fence.control:FenceState.enter
        """), bench=lambda shared: shared.bench("fenced", more=FENCED),
    ),
    Scenario(  # step 20 puts the fence up, the end of the command takes it away again
        "nginx's fence", "new", always("run", "trial.yaml", "--run-id", "one", "--until", "20"), fence_again, _names("""
            fence.nginx:Nginx.keep fence.nginx:Nginx.put_back fence.nginx:Nginx.write
        """), check=lifted, bench=fronted,
    ),
    Scenario(
        "nginx's log of writes", "new", begin_or_resume, begin_or_resume, _names("""
            fence.control:Control.record fence.control:Control.read_since
        """), check=open_again, bench=recorded,
    ),
    Scenario("validation fails", "migrated", always("resume", "one", "--until", "23"), always("resume", "one", "--until", "23"),
        _names("""
            runner.notebook:Run._write
        """), codes=(1, 3), prepare=lose_chunks, check=no_go,
    ),
    Scenario("reembedding and quarantine", "new", reembed, reembed, _names("""
            migration.staging:_part migration.staging:reembed migration.staging:Quarantine.keep
            migration.staging:Quarantine.evidence
        """), check=one_quarantined, bench=lambda shared: shared.once("damaged", Damaged),
    ),
    Scenario("remedy 46", "migrated", always(), always(), _names("""
            troubleshooting.target:Mend._export
        """), prepare=lose_fields, does=remedy("46"),
    ),
    Scenario("remedy 47", "migrated", always(), always(), _names("""
            steps.nan_embeddings:NanEmbeddingsStep.set_aside
        """), prepare=lose_quarantine, check=one_quarantined, does=remedy("47"),
        bench=lambda shared: shared.once("damaged", Damaged),
    ),
    Scenario("remedy 48", "migrated", always(), always(), _names("""
            troubleshooting.target:Mend._export troubleshooting.target:_state
        """), prepare=lose_chunks, does=remedy("48"),
    ),
]  # fmt: skip

# Writes at which nothing is killed here: what they leave is made again, or killed in another test.
WITHOUT: dict[str, str] = {
    name: why
    for why, names in {
        "no file of a run":
            """
            cli.__init__:_Steady._guarded evidence.signing:request_timestamp run.kernel:readable evidence.signing:raw
            evidence.signing:raw_signed runner.notebook:_become_kernel
            runner.pipeline:_kernel_class
        """,
        "only of notebooks that kernels executed, and a file for another machine: tests/test_evidence_verify.py":
            """cli.evidence:archive""",
        "of a rehearsal, which is begun anew":
                        """
            cli.rehearse:_process cli.rehearse:_recorded cli.rehearse:rehearse_servers rehearsal.sample_application:log
            rehearsal.sample_application:main rehearsal.sample_application:serve
            rehearsal.sample_source:write_sample rehearsal.setup:Client.work rehearsal.setup:_application
            rehearsal.setup:application_at_work
            rehearsal.setup:with_application
        """,
        "needs an authority: tests/test_evidence_timestamps.py":
            """evidence.seals:_tell_outside""",
        "keys of a rehearsal":
            """evidence.signing:throw_away""",
        "refused by the target: tests/test_import_quarantine.py, tests/heavy/test_killed_runs_end_the_same.py":
            """migration.staging:Quarantine.add""",
        "what a schema repaired, copied to the evidence: tests/test_numbers_agree.py":
            """steps.migrate:MigrateStep._arrived""",
        "a new database of a server: tests/test_store_new_target.py":
            """
            migration.target_lock:ensure_database migration.target_lock:remove_made_database
        """,
        "of a child that measures, or of the application's own tests":
            """monitoring.measure:main monitoring.pytest_target:_write""",
        "asked for by a person in notebook 11, who asks again":
                        """
            profiling.sample:Places.note profiling.search:write_csv profiling.similarity:outliers
            steps.explore_source:ExploreSourceStep.distribution
        """,
        "a PDF of a page, printed again":
            """report.pages:print_pdf""",
        "what came after the last look, exported before anything of it is removed: tests/test_rollback_parts.py":
            """rollback.return_writes:ReturnWrites.keep_late""",
        "tests/heavy/test_killed_rollbacks_end_the_same.py":
            """
            rollback.proof:SourceProof._restore rollback.proof:_keep rollback.return_writes:ReturnWrites._list_open
        """,
        "the result of a step that ended outside of its cells; of any other: runner.notebook:Run._write":
            """run.record:RunRecord.finish runner.pipeline:Execution.result""",
        "proposals and tables of notebooks 42 and 46, which are made again: tests/test_troubles_of_the_data.py":
            """steps.invalid_scores:_write_yaml steps.missing_metadata:MissingMetadataStep.look""",
        "tests/test_many_databases_in_one_order.py":
            """runner.group:begin""",
        "an empty file that asks a run to stop":
            """runner.outcome:_stop""",
    }.items()
    for name in names.split()
}  # fmt: skip

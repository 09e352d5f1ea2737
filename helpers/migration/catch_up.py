"""Phase 6: apply what changed in the source since its snapshot to the target, in rounds that shrink, or refuse.

A round reads the source and compares it with the current snapshot. Where anything changed, it takes a new snapshot, for
which only the changes are read again; stages that with the same schema and date; applies the difference of the two
stagings; and makes the new snapshot the current one.
The first round without a difference ends the catch-up. From then on the target is compared with the current snapshot by
code that knows of no catch-up: the run's staged files, quarantine and checkpoint are those of that snapshot.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from helpers import audit
from helpers.errors import RUNBOOK, EnvironmentFailure, NoGo, Terminal
from helpers.fence import FenceControl, FenceState, takes_no_writes
from helpers.formatting import count, duration
from helpers.migration import reembedding, target_lock
from helpers.migration.checkpoint import Checkpoint
from helpers.migration.delta import Delta, make_delta, refused_by_target, restage, settings_of
from helpers.migration.importing import Job, context_of, judge_arrivals, judge_staging, plan_targets
from helpers.migration.source_changes import (
    APPLIED,
    APPLYING,
    FOLDER,
    SWITCHING,
    CatchUpLedger,
    SourceChanges,
    open_sealed,
    selected,
    source_changes,
    switch,
    to_read,
    validated_rounds,
)
from helpers.migration.staging import Quarantine, Staged, stage
from helpers.migration.target_lock import OVER_LIMITS
from helpers.reason_codes import Reason, ReasonCode
from helpers.results import Progress, Verdict, silent
from helpers.run.folders import RunPath
from helpers.run.plan import Step
from helpers.run.record import RunRecord, open_chosen
from helpers.schema import Context
from helpers.snapshots.comparison import compared, unreachable
from helpers.snapshots.retention import take
from helpers.snapshots.snapshot import Snapshot, from_table
from helpers.stores import CollectionInfo, Space, Store, listed_ids, open_target

_BATCH = 500  # chunks deleted or probed at a time
_SAMPLE, _SAMPLE_FILES = 500, 4  # untouched chunks searched for beside removed ones, from so many files
AHEAD = 500  # changes that may wait for the fence: so many are applied in the time that a round before it would take
UNFOUND = 0.01  # of a collection: outliers that no query finds although the index is new; up to 0.6 % on 1.5.9
UNREACHED = "not found by its vector"
UNCHANGED = "changes in the source since the snapshot"
PROBED = "chunks written by catch-up"
CAUGHT_UP = "catch-up with changes"


@dataclasses.dataclass(slots=True)
class Round:
    """The delta of one round and its way into the target. `folder` is the round's own.

    The round has a checkpoint of its own (workspace/<run id>/catch-up/<round>/checkpoint.json). Its phases: `drop` until
    everything that must go is removed; a kill only repeats this part, since nothing was added yet. `import` as in the import
    itself. `probe` when only reading, and the repair of what the probe detects, remain.
    """

    run: RunRecord
    job: Job
    snapshot: Snapshot
    folder: Path
    delta: Delta
    plans: Sequence[CollectionInfo]
    checkpoint: Checkpoint
    quarantine: Quarantine
    unfound: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    """Chunks that `prove` read back as staged but no query found: too few to be a fault of the index."""

    @classmethod
    def of(
        cls, run: RunRecord, job: Job, snapshot: Snapshot, folder: Path, plans: Sequence[CollectionInfo],
        *, anew: Collection[str] = (),
    ) -> Round:  # fmt: skip
        """The round in `folder`, new or resumed; after a failed probe it only rewrites the collections `anew`, whole."""
        context = context_of(run, snapshot, job.schema, "catch-up")
        checkpoint = Checkpoint.open(folder / RunPath.CHECKPOINT, context)
        delta, quarantine = Delta.load(folder / "delta"), Quarantine(folder / RunPath.QUARANTINE)
        if anew:
            staged = Staged.load(folder / RunPath.STAGED)
            assert staged is not None  # saved before the round began
            part = dataclasses.replace(staged, files={name: staged.files[name] for name in anew})
            delta, plans = Delta(part, sorted(anew), sorted(anew)), [plan for plan in plans if plan.name in anew]
        return cls(run, job, snapshot, folder, delta, plans, checkpoint, quarantine)

    def refuse_foreign(self, store: Store) -> None:
        """Raise `Terminal` ("target_not_empty") where a collection to create, or one that the run created, is another's."""
        owned, replaced = self.job.checkpoint.owned(), self.job.checkpoint.replaced(store.identities())
        if foreign := replaced or sorted(set(self.delta.create) & set(store.names()) - set(owned)):
            cause = "made anew by somebody" if replaced else "new in the source"
            lead = f"{'It is' if len(foreign) == 1 else 'They are'} {cause} since the run began. "
            raise target_lock.target_not_empty(
                foreign, self.job.parameters.target, store.label, None, self.run.id, lead
            )

    def apply(self, store: Store, progress: Progress = silent, watch: Path | None = None) -> None:
        """Bring the target to the new state. What an earlier attempt completed is not repeated.

        `watch` is the folder whose disk must not fill; `progress` advances by `delta.rows` in all.
        """
        state = self.checkpoint
        if state.phase in ("export", "drop"):
            state.stage(self.delta.add.total, 0, {name: self.delta.add.rows(name) for name in self.delta.add.files})
            state.enter("drop")
            self.refuse_foreign(store)
            self._drop(store)
            for name in sorted(set(state.targets) - set(self.delta.create)):
                state.confirm(name, self.job.checkpoint.targets[name].uuid)
            state.enter("import")
        if state.phase == "import":
            for name in self.delta.create:  # before it exists: a rollback must know that it is ours
                self.job.checkpoint.own(name, state.targets[name].uuid)
            progress.advance(sum(t.completed for t in state.targets.values()))
            work = dataclasses.replace(self.job, checkpoint=state, quarantine=self.quarantine)
            importer = work.importer(store, self.delta.add, progress, lambda *_: None, watch)
            importer.prepare(self.plans)
            for name in self.delta.create:
                self.job.checkpoint.own(name, state.targets[name].uuid)
            importer.write()
            state.enter("probe")

    def _drop(self, store: Store) -> None:
        for name in set(store.names()).intersection(self.delta.drop):
            store.drop(name)  # the records first: fact 18
        for name, ids in self.delta.remove.items():
            store.delete(name, ids)

    def prove(self, store: Store) -> list[dict[str, Any]]:
        """Check every chunk written: equal to the staged one, and found by its own vector. The failures: `{collection, id,
        problem}`.

        Removed chunks must be absent, and a sample of the others in their collection is searched for. An outlier may be out
        of reach even in an index that was only added to: up to one in a hundred go to `unfound` instead.
        """
        problems = self._probe(store)
        if problems:  # the next attempt rewrites their collections
            self.checkpoint.path.unlink()
        else:
            self.checkpoint.enter("complete")
        return problems

    def _probe(self, store: Store) -> list[dict[str, Any]]:
        problems: list[dict[str, Any]] = []
        spaces = {plan.name: plan.space for plan in self.plans}
        for name in sorted(self.delta.add.files):
            refused, unreached, rows = self._refused(name), [], 0
            batches = (
                batch.take(i for i, chunk in enumerate(batch.ids) if chunk not in refused)
                for batch in self.delta.add.stream(name, 0, _BATCH)
            )
            for pair in compared(store, name, batches, spaces[name]):
                missed = unreachable(store, name, pair.expected, spaces[name])
                problems += [{"collection": name, "id": i, "problem": "not as staged"} for i in pair.differing()]
                unreached += [{"collection": name, "id": i, "problem": UNREACHED} for i in missed]
                rows += len(pair.expected)
            problems += self._without_outliers(unreached, rows)
        for name, ids in self.delta.remove.items():
            remaining = {chunk for start in range(0, len(ids), _BATCH)
                     for chunk in store.read(name, ids[start : start + _BATCH], embeddings=False).ids}  # fmt: skip
            added = {chunk for _, some in self.delta.add.ids(name) for chunk in some}
            problems += [{"collection": name, "id": i, "problem": "not removed"} for i in sorted(remaining - added)]
            problems += self._without_outliers(*self._probe_untouched(store, name, spaces[name], added))
        return problems

    def _without_outliers(self, unreached: list[dict[str, Any]], rows: int) -> list[dict[str, Any]]:
        """The unreached of `rows` chunks where they are too many to be outliers; else [], and they go to `unfound`."""
        if len(unreached) > max(1, UNFOUND * rows):
            return unreached
        self.unfound += unreached
        return []

    def _probe_untouched(
        self, store: Store, name: str, space: Space, added: Collection[str]
    ) -> tuple[list[dict[str, Any]], int]:
        """Search for a sample of the untouched chunks beside removed ones: those no query finds, and how many were searched."""
        staged = Staged.load(self.folder / RunPath.STAGED)
        assert staged is not None  # saved before the round began
        excluded = {*added, *self._refused(name)}
        files, unreached, rows = [file for file, *_ in staged.files[name]], list[dict[str, Any]](), 0
        files = files[:: -(-len(files) // _SAMPLE_FILES) or 1]
        for file in files:
            table = staged.table(file)
            sample = from_table(table.take(list(range(0, len(table), max(1, len(table) * len(files) // _SAMPLE)))))
            for start in range(0, len(sample), _BATCH):
                batch = sample.slice(start, start + _BATCH)
                batch = batch.take(i for i, chunk in enumerate(batch.ids) if chunk not in excluded)
                rows += len(batch)
                missed = unreachable(store, name, batch, space)
                unreached += [{"collection": name, "id": i, "problem": UNREACHED} for i in missed]
        return unreached, rows

    def _refused(self, name: str) -> set[str]:
        """Target ids of the chunks that the target refused in this round."""
        refused = refused_by_target(self.quarantine.entries())
        if not refused:
            return set()
        origins = self.delta.add.origins(name, 0, self.delta.add.rows(name))
        ids = [chunk for _, some in self.delta.add.ids(name) for chunk in some]
        return {chunk for chunk, origin in zip(ids, origins, strict=True) if origin in refused}


@dataclass(slots=True)
class CatchUp:
    """The catch-up of a run whose import is complete and which holds the target's lock: `CatchUp(...).work()`.

    `applied` counts the rounds of this execution. `last` is the last comparison with the source.
    """

    run: RunRecord
    job: Job
    staged: Staged
    store: Store
    watch: Path
    ledger: CatchUpLedger
    applied: int = 0
    last: SourceChanges | None = None
    seconds: list[float] = field(default_factory=list)  # duration of each round of this execution
    probed: int = 0
    logged: dict[str, set[str]] = field(default_factory=dict)
    """By collection, the ids of all chunks that may have changed, where the log of writes names every one."""
    coverage: str = "every collection was read"
    position: tuple[int, str] | None = None  # end of the log of writes when the last comparison began
    unfound: list[dict[str, Any]] = field(default_factory=list)

    def work(self) -> None:
        """Apply rounds until the source equals its snapshot, or a check has failed."""
        ledger = self.ledger
        if ledger.open_round is not None and not self._finish():
            return
        fenced = self._fenced()
        rules = self.run.parameters.migration
        limit = 1 if fenced else rules.catch_up_rounds
        totals: list[int] = []
        while True:
            begun = time.monotonic()
            changes = self.last = self._compare_source()
            totals.append(changes.total)
            if changes.nothing or rules.catch_up == "block" or (self._fence_pending and changes.total <= self.allowed):
                break
            if len(totals) > limit or (len(totals) > 2 and totals[-1] >= totals[-2]):  # rounds do not shrink any more
                break
            if not self._apply(changes, begun):
                return
        self._judge(changes, fenced)

    def last_round(self, validated: int, *, apply: bool) -> int:
        """Apply and prove what changed since the validation, behind a fence just proven. Gives the number of changes.

        `validated` is the number of rounds that step 23 validated. One comparison is enough: nobody writes after it. Raises
        `NoGo` (`delta_over_limit`) where more changed than the signers allowed, and `EnvironmentFailure` (`source_changed`) where
        anything changed and `apply` is false, since clients may use the target already; then nothing was applied. A round
        that is not proven is a failed check.
        """
        if self.ledger.open_round is not None and not self._finish():
            return self._since(validated)
        begun = time.monotonic()
        self._read_write_log()
        changes = self.last = self._compare_source(logged=True)
        if changes.unexplained:
            doubt = f"collection {changes.unexplained[0]} changed, and the log of writes does not say so"
            self.logged, self.coverage = {}, f"every collection was read: {doubt}"
            self.run.log(f"the last changes: {self.coverage}")
            changes = self.last = self._compare_source()
        total = self._within(validated, changes)
        if not changes.nothing and not apply:
            raise EnvironmentFailure(
                ReasonCode.SOURCE_CHANGED, f"the source changed since the cutover was begun: {changes.sentence()}",
                where=f"source {self.run.parameters.source.label}",
                next_step=f"Repeat it, the changes are brought over then: {self.run.home.command('resume')}",
            )  # fmt: skip
        if not changes.nothing and self._apply(changes, begun):
            self._judge_probes([])
        return total

    def ahead(self, validated: int) -> None:
        """Apply what the log names while clients still write. The next comparison begins at the log's end of when this one
        began. Raises `NoGo` as `last_round`."""
        for _ in range(self.run.parameters.migration.catch_up_rounds):
            begun = time.monotonic()
            self._read_write_log()
            waiting = sum(map(len, self.logged.values()))
            if not self.logged or (waiting < AHEAD and len(self.logged) == len(self.job.snapshot.names())):
                return
            changes = self._compare_source(logged=True)
            self._within(validated, changes)
            if changes.nothing or not self._apply(changes, begun):
                return
            self._judge_probes([])

    def _within(self, validated: int, changes: SourceChanges) -> int:
        total = self._since(validated) + changes.total
        if total > self.allowed:
            raise NoGo(
                ReasonCode.DELTA_OVER_LIMIT,
                f"{changes.sentence()}: {total:,} changes since the validation, migration.delta_limit allows {self.allowed:,}",
                where=f"source {self.run.parameters.source.label}",
                next_step=f"Catch up, validate and sign again: {RUNBOOK} run --run-id {self.run.id} --from 22",
            )
        return total

    def _read_write_log(self) -> None:
        """Determine which collections need no reading, and of which the log names every chunk that may have changed."""
        snapshot, fence = self.job.snapshot, FenceControl(self.run.home, self.run.parameters)
        names, self.logged, self.position = snapshot.names(), {}, fence.position()
        writes, doubt = fence.logged_changes(snapshot.id, names)
        with open_chosen(self.run) as source:
            for name in sorted(set(source.names()) & {name for name, write in writes.items() if not write.whole}):
                self.logged[name] = writes[name].ids
                if writes[name].filtered:  # such a request can only have deleted
                    ids = set(listed_ids(source, name))
                    self.logged[name] |= {chunk for part in snapshot.parts(name) for chunk in snapshot.ids(part)} - ids
        if self.logged:
            sizes = [len(ids) for ids in self.logged.values() if ids]
            reread = len(names) - len(self.logged) + len(sizes)
            by_id = f" ({len(sizes)} by the ids of {count(sum(sizes), 'chunk')})" if sizes else ""
            self.coverage = (
                f"{reread} of {count(len(names), 'collection')} read again{by_id}; nginx logged no write to the others, and "
                "their counts and settings stayed"
            )
        elif doubt:
            self.coverage = f"every collection was read: {doubt}"
        self.run.log(f"the last changes: {self.coverage}")

    def _since(self, validated: int) -> int:
        """Changes applied by rounds after the validation: those of an attempt of step 25 that did not end."""
        return sum(r["added"] + r["changed"] + r["deleted"] for r in self.ledger.rounds[validated:])

    def _apply(self, changes: SourceChanges, begun: float) -> bool:
        if not self._round(changes):
            return False
        self.seconds.append(round(time.monotonic() - begun, 3))
        self.ledger.enter(APPLIED, seconds=self.seconds[-1])  # the reading and the snapshot included
        return True

    @property
    def allowed(self) -> int:
        """Changes that may remain for step 25; 0 where the fence comes first."""
        parameters = self.run.parameters
        return parameters.migration.delta_limit.of(self.job.snapshot.total) if parameters.fence.late else 0

    @property
    def _fence_pending(self) -> bool:
        return self.run.parameters.fence.late and not self._fenced()

    def _fenced(self) -> bool:
        fence = FenceState.load(self.run.workspace)
        return fence is not None and fence.active

    @property
    def stop_seconds(self) -> float:
        """How long writes must stop for a last round, in seconds: a round as long as the last, and the comparison after it."""
        return round((self.seconds[-1] if self.seconds else 0.0) + (self.last.seconds if self.last else 0.0), 1)

    def _compare_source(self, *, logged: bool = False) -> SourceChanges:
        snapshot = self.job.snapshot
        if not logged:
            self.position = FenceControl(self.run.home, self.run.parameters).position()
        with (
            self.run.phase("6 compare the source", snapshot.total),
            self.run.progress("Compare the source with its snapshot", snapshot.total) as bar,
            open_chosen(self.run) as source,
        ):
            return source_changes(source, snapshot, bar, run=self.run, logged=self.logged)

    def _round(self, changes: SourceChanges) -> bool:
        """Run one round. False where a check failed: then the target is untouched, or not proven."""
        ledger = self.ledger
        number = len(ledger.rounds) + 1
        folder = self.run.workspace / FOLDER / f"{number:03d}"
        shutil.rmtree(folder, ignore_errors=True)  # of an attempt that was killed before it touched the target
        old, snapshot = self.job.snapshot, self._snapshot(f"{ledger.base}-catch-up-{number}", changes)
        vectors, rules = folder / reembedding.REEMBEDDED, self.run.parameters
        context = Context.of(snapshot.names(), self.run.date, rules.migration)
        # new vectors belong to a whole snapshot, and a schema may depend on the collections that the source has
        same = self.job.schema.is_identity or set(old.names()) == set(snapshot.names())
        whole = rules.migration.reembed is not None or not same
        reembedding.make(self.run, snapshot, vectors)
        with (
            self.run.phase("6 transform and validate", snapshot.total if whole else snapshot.less(old).total) as phase,
            self.run.progress("Transform and validate", phase.chunks) as bar,
        ):

            def stage_part(part: Snapshot, name: str, quarantine: Quarantine) -> Staged:
                return stage(
                    reembedding.as_written(part, vectors), self.job.schema, context, folder / name, quarantine,
                    dimensions=rules.expected.dimensions, limits=self.job.limits,
                    progress=silent if name == "gone" else bar, storage=self.job.storage_for(folder) if name != "gone" else None,
                )  # fmt: skip

            restaged = restage(self.staged, self.job.quarantine, old, snapshot, folder, stage_part, whole=whole)
        staged = restaged.now
        self.run.forget("chunks that pass validation", "ids in common", OVER_LIMITS)
        judge_staging(self.run, staged, self.run.parameters)
        reembedding.judge_reembedded(self.run, snapshot, vectors)
        if any(c.verdict is Verdict.FAIL for c in self.run.result.checks):
            self._judge_source(
                Verdict.FAIL, changes, ReasonCode.SOURCE_CHANGED, "what the source holds now does not pass validation"
            )
            return False
        plans = self._plans(old, self.staged, self.job.reembedded), self._plans(snapshot, staged, vectors)
        refused = refused_by_target(self.job.quarantine.entries())
        make_delta(restaged, folder / "delta", plans=plans, refused=refused)
        Round.of(self.run, self.job, snapshot, folder, plans[1]).refuse_foreign(self.store)
        ledger.rounds.append(
            {
                "number": number, "snapshot": str(snapshot.folder), "id": snapshot.id, "began": changes.began,
                "added": changes.added, "changed": changes.changed, "deleted": changes.deleted,
                "appeared": changes.appeared, "vanished": changes.vanished, "seconds": None,
            }
        )  # fmt: skip
        ledger.enter(APPLYING)
        return self._finish()

    def _snapshot(self, name: str, changes: SourceChanges) -> Snapshot:
        """Take the current snapshot with the changes; every chunk of it was read or compared by this round."""
        old = self.job.snapshot
        with (
            self.run.phase("6 snapshot", changes.total),
            self.run.progress("Snapshot of what the source holds now", old.total) as bar,
            open_chosen(self.run) as source,
        ):
            names = selected(self.run, source)
            if not names:
                raise Terminal(
                    ReasonCode.NOTHING_TO_MIGRATE, "no collection of the migration is left there", where=f"source {source.label}",
                    next_step="Nothing was taken out of the target; see what became of the source, then resume.",
                )  # fmt: skip
            refused = refused_by_target(self.job.quarantine.entries())
            snapshot = take(self.run, source, names, name, bar, old, to_read(source, names, old, changes, refused))
        FenceControl(self.run.home, self.run.parameters).read_since(snapshot.id, self.position)
        snapshot.verify(since=old)
        return snapshot

    def _plans(self, snapshot: Snapshot, staged: Staged, vectors: Path) -> list[Any]:
        collections, rules = reembedding.as_written(snapshot, vectors).collections(), self.run.parameters.migration
        return plan_targets(collections, staged, rules, self.job.schema)

    def _finish(self) -> bool:
        """Apply the open round, prove it, and make its snapshot the current one. False where the proof failed.

        Where an index only lost chunks to its queries, as current servers do at times, its collection is rewritten at once.
        """
        ledger = self.ledger
        entry, begun = ledger.rounds[-1], time.monotonic()
        folder = self.run.workspace / FOLDER / f"{entry['number']:03d}"
        snapshot = open_sealed(self.run.home, Path(entry["snapshot"]))
        staged = Staged.load(folder / RunPath.STAGED)
        assert staged is not None  # the ledger was written after it
        plans, anew = self._plans(snapshot, staged, folder / reembedding.REEMBEDDED), entry.get("anew") or ()
        work = Round.of(self.run, self.job, snapshot, folder, plans, anew=anew)
        log, fields = self.run.folder / audit.NAME, {"round": entry["number"], "snapshot": snapshot.id}
        audit.append(log, "catch-up", outcome="begun", **fields, rows=work.delta.rows)
        with (
            self.run.phase(f"6 apply round {entry['number']}", work.delta.rows),
            self.run.progress(f"Catch up, round {entry['number']}", work.delta.rows) as bar,
        ):
            work.apply(self.store, bar, self.watch)
            problems = work.prove(self.store)
        self.probed += work.delta.rows
        self.unfound += work.unfound
        if problems:
            rejected = {name: state.rejected for name, state in work.checkpoint.targets.items()}
            ledger.enter(APPLYING, anew=sorted({row["collection"] for row in problems}),
                         rejected=entry.get("rejected", {}) | rejected)  # fmt: skip
            audit.append(log, "catch-up", outcome="not proven", **fields)
            if not anew and all(row["problem"] == UNREACHED for row in problems):
                collections = ", ".join(ledger.rounds[-1]["anew"])
                lost = count(len(problems), "chunk")
                self.run.log(f"{lost} not found by a search after the catch-up; written afresh: {collections}")
                return self._finish()
            self._judge_probes(problems)
            return False
        ledger.enter(SWITCHING, seconds=time.monotonic() - begun, settings=settings_of(self.store.collections()))
        self.staged = switch(self.run, ledger)
        self.job.checkpoint = Checkpoint.read(self.job.checkpoint.path)
        self.job.snapshot = snapshot
        names = frozenset(snapshot.names())
        self.job.context = Context.of(names, self.run.date, self.run.parameters.migration)
        audit.append(log, "catch-up", **fields, digest=snapshot.digest)
        self.applied += 1
        return True

    def _judge(self, changes: SourceChanges, fenced: bool) -> None:
        if self.probed:
            self._judge_probes([])
        if self._fence_pending and changes.total <= self.allowed:
            self._judge_source(Verdict.PASS, changes, "", "; writers go on, step 25 applies the rest", self.allowed)
        elif changes.nothing:
            closed = fenced or takes_no_writes(self.run.earlier(Step.FENCE_WRITES))
            remark = "; without a fence it may change again until step 25 looks once more"
            self._judge_source(Verdict.PASS, changes, "", "" if closed else remark)
        elif self.run.parameters.migration.catch_up == "block":
            hint = f"migration.catch_up is block. Stop the writers, then: {self.run.home.command('resume')} --retry 21"
            self._judge_source(Verdict.FAIL, changes, ReasonCode.SOURCE_CHANGED, hint)
        elif fenced:
            hint = f"The fence is active, but the source still changes: find who writes, then {self.run.home.command('resume')}"
            self._judge_source(Verdict.FAIL, changes, ReasonCode.FENCE_BYPASS, hint)
        else:
            hint = f"Writes have to stop for about {duration(self.stop_seconds)}: stop the writers or put up a fence, then "
            hint += self.run.home.command("resume")
            self._judge_source(Verdict.FAIL, changes, ReasonCode.SOURCE_KEEPS_CHANGING, hint)

    def _judge_source(
        self, verdict: Verdict, changes: SourceChanges, reason: Reason, remark: str, limit: int | None = None
    ) -> None:
        detail = changes.sentence() + (f". {remark}" if verdict is Verdict.FAIL else remark)
        self.run.check(
            UNCHANGED, verdict, measured=changes.total, threshold=limit or 0, relation="=" if limit is None else "≤",
            parameter="" if limit is None else "migration.delta_limit", unit="changes", reason=reason, detail=detail,
            offenders=changes.total, ids=changes.examples(),
        )  # fmt: skip

    def _judge_probes(self, problems: list[dict[str, Any]]) -> None:
        detail = f"{self.probed:,} chunks written and read back equal"
        if problems:
            detail = f"{self.run.home.command('resume')} writes their collections afresh and probes again"
        elif self.unfound:
            detail += "; these few are found by no query, as outliers are in an index that is new, too"
        else:
            detail += ", each found by its own vector"
        verdict = Verdict.FAIL if problems else Verdict.WARNING if self.unfound else Verdict.PASS
        n, reason = len(offenders := problems or self.unfound), ReasonCode.CATCH_UP_NOT_PROVEN
        self.run.forget(PROBED)  # of an earlier round
        self.run.check(PROBED, verdict, measured=n, threshold=0, unit="chunks", offenders=n, ids=offenders, detail=detail,
                       reason=reason if problems else "")  # fmt: skip


def bring_over(run: RunRecord, *, apply: bool) -> dict[str, Any]:
    """Step 25, behind its own fence: apply what changed in the source since step 23 validated the target.

    The target is locked meanwhile; each chunk that is written is compared, and the ids of every collection are counted. A
    check fails where that shows a difference. Gives `{"total", "allowed", "added", "changed", "deleted", "seconds"}`, in
    `unread` the collections that were not read thanks to the log of writes, in `read` why these. Raises as `CatchUp.last_round`.
    """
    begun = time.monotonic()
    with _late_work(run) as (work, validated):
        ledger, job, store = work.ledger, work.job, work.store
        allowed, total = work.allowed, work.last_round(validated, apply=apply)
        if len(ledger.rounds) > validated and ledger.open_round is None:  # also rounds of an attempt before this
            table = job.arrivals(store, work.staged, counted=True)
            judge_arrivals(run, table, run.parameters.expected.minimum_imported)
            run.fact("arrivals", table.to_dict("records"))
            run.fact("quarantine", job.quarantine.counts())
            run.fact("left_out", job.quarantine.left_out())
            run.fact("targets", {name: store.count(name) for name in sorted(work.staged.files)})
    path = run.folder / f"{run.step}_quarantine.jsonl.gz"
    if len(ledger.rounds) > validated and job.quarantine.entries():
        job.quarantine.evidence(path, job.schema.shown, run.wrote)
    rounds = ledger.rounds[validated:]
    totals = {key: sum(r[key] for r in rounds) for key in ("added", "changed", "deleted")}
    return {
        "total": total, "allowed": allowed, **totals, "seconds": round(time.monotonic() - begun, 1),
        "read": work.coverage, "unread": sorted(name for name, ids in work.logged.items() if not ids),
        "by_id": {name: len(ids) for name, ids in sorted(work.logged.items()) if ids},
    }  # fmt: skip


def bring_ahead(run: RunRecord) -> None:
    """Step 25, before it stops writers: apply most of what changed since the validation while they write.

    Raises `NoGo` as `CatchUp.last_round`, `EnvironmentFailure` (`catch_up_not_proven`) where one of its checks failed.
    """
    with run.phase("bring over changes while clients write"), _late_work(run) as (work, validated):
        if work.ledger.open_round is None or work._finish():
            work.ahead(validated)
    if failing := [check.name for check in run.result.checks if check.verdict is Verdict.FAIL]:
        raise EnvironmentFailure(ReasonCode.CATCH_UP_NOT_PROVEN, f"what was brought over is not proven: {', '.join(failing)}",
                         next_step=f"Repeat it: {run.home.command('resume')}")  # fmt: skip


@contextmanager
def _late_work(run: RunRecord) -> Iterator[tuple[CatchUp, int]]:
    """Give the catch-up of step 25, holding the target's lock, and the number of rounds that step 23 validated."""
    ledger = CatchUpLedger.read(run)
    if ledger.open_round is not None and ledger.open_round["state"] == SWITCHING:
        switch(run, ledger)
    job = Job.of(run, open_sealed(run.home, Path(ledger.current)), run.workspace, "migration")
    with open_target(run.parameters.target) as store:
        store.acquire_lock(run.id)
        try:
            yield CatchUp(run, job, job.stage(), store, run.workspace, ledger), validated_rounds(run)
        finally:
            store.release_lock(run.id)

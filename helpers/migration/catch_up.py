"""Phase 6: what changed in the source since its snapshot, applied to the target in rounds that shrink, or refused.

A round reads the source and compares it with the current snapshot. Where anything changed it takes a new snapshot, for which only
what changed is read again; stages that with the same schema and date; applies the difference of the two stagings; and makes
the new snapshot the current one.
The first round that finds nothing ends it. From then on the target is held to the current snapshot by code that knows of
no catch-up: the run's staged files, quarantine and checkpoint are those of that snapshot.
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
from helpers.errors import RUNBOOK, NoGo, Terminal, WorldError
from helpers.fence import Control, FenceState, takes_no_writes
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
    Ledger,
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
_BESIDE, _FILES = 500, 4  # chunks that stayed where others went, searched for after it, of so many files
AHEAD = 500  # chunks that wait; fewer are brought over behind the fence in the time that a round before it would take
UNFOUND = 0.01  # of a collection that no query finds although its index is new: outliers; up to 0.6 % measured on 1.5.9
UNREACHED = "not found by its vector"
UNCHANGED = "changes in the source since the snapshot"
PROBED = "chunks written by catch-up"
CAUGHT_UP = "catch-up with changes"


@dataclasses.dataclass(slots=True)
class Round:
    """A round's delta, on its way into the target. `folder` is the round's own.

    Its own checkpoint (workspace/<run id>/catch-up/<round>/checkpoint.json) is in phase `drop` until everything that goes
    is gone: that part is simply repeated after a kill, for nothing was added yet. In phase `import` it is the checkpoint of
    the adds, as in the import itself. In phase `probe` only reading, and a repair of what the probe found, is left.
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
    """Chunks that `prove` read back as staged and found by no query, too few to say anything against the index."""

    @classmethod
    def of(
        cls, run: RunRecord, job: Job, snapshot: Snapshot, folder: Path, plans: Sequence[CollectionInfo],
        *, anew: Collection[str] = (),
    ) -> Round:  # fmt: skip
        """The round in `folder`, begun or gone on with; after a failed probe it only writes the collections `anew`, whole."""
        context = context_of(run, snapshot, job.schema, "catch-up")
        checkpoint = Checkpoint.open(folder / RunPath.CHECKPOINT, context)
        delta, quarantine = Delta.load(folder / "delta"), Quarantine(folder / RunPath.QUARANTINE)
        if anew:
            staged = Staged.load(folder / RunPath.STAGED)
            assert staged is not None  # it was made before the round was begun
            some = dataclasses.replace(staged, files={name: staged.files[name] for name in anew})
            delta, plans = Delta(some, sorted(anew), sorted(anew)), [plan for plan in plans if plan.name in anew]
        return cls(run, job, snapshot, folder, delta, plans, checkpoint, quarantine)

    def refuse_foreign(self, store: Store) -> None:
        """Raises `Terminal` ("target_not_empty") where a collection that would be made, or that the run made, is another's."""
        owned, others = self.job.checkpoint.owned(), self.job.checkpoint.replaced(store.identities())
        if taken := others or sorted(set(self.delta.create) & set(store.names()) - set(owned)):
            what = "made anew by somebody" if others else "new in the source"
            new = f"{'It is' if len(taken) == 1 else 'They are'} {what} since the run began. "
            raise target_lock.taken(taken, self.job.parameters.target, store.label, None, self.run.id, new)

    def apply(self, store: Store, progress: Progress = silent, watch: Path | None = None) -> None:
        """Bring the target to the new state; what an earlier attempt completed is not done again.

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
        """Every chunk written: as staged, and found by its own vector? Those that are not, as `{collection, id, problem}`.

        Where chunks were removed these must be gone, and a sample of the others in the collection is searched for. Even in
        an index that was only added to, an outlier may be out of reach; below one in a hundred they are `unfound`.
        """
        found = self._probe(store)
        if found:  # the next attempt writes their collections afresh
            self.checkpoint.path.unlink()
        else:
            self.checkpoint.enter("complete")
        return found

    def _probe(self, store: Store) -> list[dict[str, Any]]:
        wrong: list[dict[str, Any]] = []
        spaces = {plan.name: plan.space for plan in self.plans}
        for name in sorted(self.delta.add.files):
            refused, beyond, rows = self._refused(name), [], 0
            batches = (
                batch.take(i for i, chunk in enumerate(batch.ids) if chunk not in refused)
                for batch in self.delta.add.stream(name, 0, _BATCH)
            )
            for pair in compared(store, name, batches, spaces[name]):
                lost = unreachable(store, name, pair.expected, spaces[name])
                wrong += [{"collection": name, "id": i, "problem": "not as staged"} for i in pair.differing()]
                beyond += [{"collection": name, "id": i, "problem": UNREACHED} for i in lost]
                rows += len(pair.expected)
            wrong += self._judged(beyond, rows)
        for name, ids in self.delta.remove.items():
            still = {chunk for start in range(0, len(ids), _BATCH)
                     for chunk in store.read(name, ids[start : start + _BATCH], embeddings=False).ids}  # fmt: skip
            added = {chunk for _, some in self.delta.add.ids(name) for chunk in some}
            wrong += [{"collection": name, "id": i, "problem": "not removed"} for i in sorted(still - added)]
            wrong += self._judged(*self._beside(store, name, spaces[name], added))
        return wrong

    def _judged(self, beyond: list[dict[str, Any]], rows: int) -> list[dict[str, Any]]:
        """Those of `rows` chunks that no query finds, where they are too many for outliers; else they are `unfound`."""
        if len(beyond) > max(1, UNFOUND * rows):
            return beyond
        self.unfound += beyond
        return []

    def _beside(
        self, store: Store, name: str, space: Space, added: Collection[str]
    ) -> tuple[list[dict[str, Any]], int]:
        """Of a sample of the chunks that stayed beside removed ones, those that no query finds, and how many were searched."""
        whole = Staged.load(self.folder / RunPath.STAGED)
        assert whole is not None  # it was made before the round was begun
        left_out = {*added, *self._refused(name)}
        files, lost, rows = [file for file, *_ in whole.files[name]], list[dict[str, Any]](), 0
        files = files[:: -(-len(files) // _FILES) or 1]
        for file in files:
            table = whole.table(file)
            some = from_table(table.take(list(range(0, len(table), max(1, len(table) * len(files) // _BESIDE)))))
            for start in range(0, len(some), _BATCH):
                asked = some.slice(start, start + _BATCH)
                asked = asked.take(i for i, chunk in enumerate(asked.ids) if chunk not in left_out)
                rows += len(asked)
                named = unreachable(store, name, asked, space)
                lost += [{"collection": name, "id": i, "problem": UNREACHED} for i in named]
        return lost, rows

    def _refused(self, name: str) -> set[str]:
        """The target's ids of chunks that it refused in this round."""
        refused = refused_by_target(self.quarantine.entries())
        if not refused:
            return set()
        origins = self.delta.add.origins(name, 0, self.delta.add.rows(name))
        ids = [chunk for _, some in self.delta.add.ids(name) for chunk in some]
        return {chunk for chunk, origin in zip(ids, origins, strict=True) if origin in refused}


@dataclass(slots=True)
class CatchUp:
    """`CatchUp(...).work()` for a run whose import is complete, with the target's lock held.

    `applied` counts the rounds of this execution. `last` is the last reading of the source.
    """

    run: RunRecord
    job: Job
    staged: Staged
    store: Store
    watch: Path
    ledger: Ledger
    applied: int = 0
    last: SourceChanges | None = None
    seconds: list[float] = field(default_factory=list)  # of each round of this execution
    probed: int = 0
    known: dict[str, set[str]] = field(default_factory=dict)
    """Collections of which the log of writes names every chunk that may be another; these ids."""
    read: str = "every collection was read"
    position: tuple[int, str] | None = None  # of the log of writes when the last reading began
    unfound: list[dict[str, Any]] = field(default_factory=list)

    def work(self) -> None:
        """Rounds until the source is as its snapshot, or a check has failed."""
        ledger = self.ledger
        if ledger.open_round is not None and not self._finish():
            return
        fenced = self._fenced()
        rules = self.run.parameters.migration
        most = 1 if fenced else rules.catch_up_rounds
        seen: list[int] = []
        while True:
            begun = time.monotonic()
            changes = self.last = self._read()
            seen.append(changes.total)
            if changes.nothing or rules.catch_up == "block" or (self._late and changes.total <= self.allowed):
                break
            if len(seen) > most or (len(seen) > 2 and seen[-1] >= seen[-2]):  # another round would find as much
                break
            if not self._apply(changes, begun):
                return
        self._judge(changes, fenced)

    def last_round(self, validated: int, *, apply: bool) -> int:
        """Behind a fence that has just been proven: apply what changed since the validation, and prove it; how much that was.

        `validated` is the number of rounds that step 23 knew. One reading is enough: nobody writes after it. Raises
        `NoGo` (`delta_over_limit`) where more changed than those who signed allowed, and `WorldError` (`source_changed`)
        where anything changed and `apply` is false: clients may use the target already. Then nothing was applied. A
        round that is not proven is a failed check.
        """
        if self.ledger.open_round is not None and not self._finish():
            return self._since(validated)
        begun = time.monotonic()
        self._ask_the_log()
        changes = self.last = self._read(logged=True)
        if changes.unexplained:
            doubt = f"collection {changes.unexplained[0]} changed, and the log of writes does not say so"
            self.known, self.read = {}, f"every collection was read: {doubt}"
            self.run.log(f"the last changes: {self.read}")
            changes = self.last = self._read()
        total = self._within(validated, changes)
        if not changes.nothing and not apply:
            raise WorldError(
                ReasonCode.SOURCE_CHANGED, f"the source changed since the cutover was begun: {changes.sentence()}",
                where=f"source {self.run.parameters.source.label}",
                next_step=f"Repeat it, the changes are brought over then: {self.run.home.command('resume')}",
            )  # fmt: skip
        if not changes.nothing and self._apply(changes, begun):
            self._probed([])
        return total

    def ahead(self, validated: int) -> None:
        """While clients write: what the log names is brought over. The next reading begins where the log ended when this one did
        begin. Raises `NoGo` as `last_round`."""
        for _ in range(self.run.parameters.migration.catch_up_rounds):
            begun = time.monotonic()
            self._ask_the_log()
            waiting = sum(map(len, self.known.values()))
            if not self.known or (waiting < AHEAD and len(self.known) == len(self.job.snapshot.names())):
                return
            changes = self._read(logged=True)
            self._within(validated, changes)
            if changes.nothing or not self._apply(changes, begun):
                return
            self._probed([])

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

    def _ask_the_log(self) -> None:
        """Which collections need no reading, and of which the log names every chunk that may be another."""
        snapshot, fence = self.job.snapshot, Control(self.run.home, self.run.parameters)
        every, self.known, self.position = snapshot.names(), {}, fence.position()
        written, doubt = fence.written(snapshot.id, every)
        with open_chosen(self.run) as source:
            for name in sorted(set(source.names()) & {name for name, one in written.items() if not one.whole}):
                self.known[name] = written[name].ids
                if written[name].filtered:  # it can only have deleted
                    left = set(listed_ids(source, name))
                    self.known[name] |= {chunk for part in snapshot.parts(name) for chunk in snapshot.ids(part)} - left
        if self.known:
            some = [len(ids) for ids in self.known.values() if ids]
            again = len(every) - len(self.known) + len(some)
            by_id = f" ({len(some)} by the ids of {count(sum(some), 'chunk')})" if some else ""
            self.read = (
                f"{again} of {count(len(every), 'collection')} read again{by_id}; nginx logged no write to the others, and their "
                "counts and settings stayed"
            )
        elif doubt:
            self.read = f"every collection was read: {doubt}"
        self.run.log(f"the last changes: {self.read}")

    def _since(self, validated: int) -> int:
        """Changes that rounds after the validation brought: those of an attempt of step 25 that did not come to its end."""
        return sum(r["added"] + r["changed"] + r["deleted"] for r in self.ledger.rounds[validated:])

    def _apply(self, changes: SourceChanges, begun: float) -> bool:
        if not self._round(changes):
            return False
        self.seconds.append(round(time.monotonic() - begun, 3))
        self.ledger.enter(APPLIED, seconds=self.seconds[-1])  # the reading and the snapshot included
        return True

    @property
    def allowed(self) -> int:
        """Changes that may be left for step 25; 0 where the fence comes first."""
        parameters = self.run.parameters
        return parameters.migration.delta_limit.of(self.job.snapshot.total) if parameters.fence.late else 0

    @property
    def _late(self) -> bool:
        return self.run.parameters.fence.late and not self._fenced()

    def _fenced(self) -> bool:
        fence = FenceState.load(self.run.workspace)
        return fence is not None and fence.active

    @property
    def stop_seconds(self) -> float:
        """For how long writes have to stop for a last round: one round as long as the last, and the reading after it."""
        return round((self.seconds[-1] if self.seconds else 0.0) + (self.last.seconds if self.last else 0.0), 1)

    def _read(self, *, logged: bool = False) -> SourceChanges:
        snapshot = self.job.snapshot
        if not logged:
            self.position = Control(self.run.home, self.run.parameters).position()
        with (
            self.run.phase("6 compare the source", snapshot.total),
            self.run.progress("Compare the source with its snapshot", snapshot.total) as bar,
            open_chosen(self.run) as source,
        ):
            return source_changes(source, snapshot, bar, run=self.run, known=self.known)

    def _round(self, changes: SourceChanges) -> bool:
        """One round; False where a check failed, and then the target was not touched or is not proven."""
        ledger = self.ledger
        number = len(ledger.rounds) + 1
        folder = self.run.workspace / FOLDER / f"{number:03d}"
        shutil.rmtree(folder, ignore_errors=True)  # of an attempt that was killed before it touched the target
        was, snapshot = self.job.snapshot, self._snapshot(f"{ledger.base}-catch-up-{number}", changes)
        made, rules = folder / reembedding.REEMBEDDED, self.run.parameters
        context = Context.of(snapshot.names(), self.run.date, rules.migration)
        # new vectors are made for a whole snapshot, and a schema may ask which collections the source has
        whole = rules.migration.reembed is not None or not (
            self.job.schema.is_identity or set(was.names()) == set(snapshot.names())
        )
        reembedding.make(self.run, snapshot, made)
        with (
            self.run.phase("6 transform and validate", snapshot.total if whole else snapshot.less(was).total) as phase,
            self.run.progress("Transform and validate", phase.chunks) as bar,
        ):

            def make(some: Snapshot, name: str, quarantine: Quarantine) -> Staged:
                return stage(
                    reembedding.as_written(some, made), self.job.schema, context, folder / name, quarantine,
                    dimensions=rules.expected.dimensions, limits=self.job.limits,
                    progress=silent if name == "gone" else bar, there=self.job.there(folder) if name != "gone" else None,
                )  # fmt: skip

            both = restage(self.staged, self.job.quarantine, was, snapshot, folder, make, whole=whole)
        new = both.now
        self.run.forget("chunks that pass validation", "ids in common", OVER_LIMITS)
        judge_staging(self.run, new, self.run.parameters)
        reembedding.judge_reembedded(self.run, snapshot, made)
        if any(c.verdict is Verdict.FAIL for c in self.run.result.checks):
            self._say(
                Verdict.FAIL, changes, ReasonCode.SOURCE_CHANGED, "what the source holds now does not pass validation"
            )
            return False
        plans = self._plans(was, self.staged, self.job.reembedded), self._plans(snapshot, new, made)
        refused = refused_by_target(self.job.quarantine.entries())
        make_delta(both, folder / "delta", plans=plans, refused=refused)
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
        """The current snapshot with what changed; every chunk of it was read by this round, or compared by it."""
        was = self.job.snapshot
        with (
            self.run.phase("6 snapshot", changes.total),
            self.run.progress("Snapshot of what the source holds now", was.total) as bar,
            open_chosen(self.run) as source,
        ):
            names = selected(self.run, source)
            if not names:
                raise Terminal(
                    ReasonCode.NOTHING_TO_MIGRATE, "no collection of the migration is left there", where=f"source {source.label}",
                    next_step="Nothing was taken out of the target; see what became of the source, then resume.",
                )  # fmt: skip
            refused = refused_by_target(self.job.quarantine.entries())
            snapshot = take(self.run, source, names, name, bar, was, to_read(source, names, was, changes, refused))
        Control(self.run.home, self.run.parameters).read_since(snapshot.id, self.position)
        snapshot.verify(since=was)
        return snapshot

    def _plans(self, snapshot: Snapshot, staged: Staged, made: Path) -> list[Any]:
        collections, rules = reembedding.as_written(snapshot, made).collections(), self.run.parameters.migration
        return plan_targets(collections, staged, rules, self.job.schema)

    def _finish(self) -> bool:
        """Apply the open round, prove it, make its snapshot the current one; False where the proof failed.

        An index that only lost chunks to its queries, as those of current servers do at times, is written afresh at once.
        """
        ledger = self.ledger
        at, begun = ledger.rounds[-1], time.monotonic()
        folder = self.run.workspace / FOLDER / f"{at['number']:03d}"
        snapshot = open_sealed(self.run.home, Path(at["snapshot"]))
        new = Staged.load(folder / RunPath.STAGED)
        assert new is not None  # the checkpoint was written after it
        plans, anew = self._plans(snapshot, new, folder / reembedding.REEMBEDDED), at.get("anew") or ()
        work = Round.of(self.run, self.job, snapshot, folder, plans, anew=anew)
        log, about = self.run.folder / audit.NAME, {"round": at["number"], "snapshot": snapshot.id}
        audit.append(log, "catch-up", outcome="begun", **about, rows=work.delta.rows)
        with (
            self.run.phase(f"6 apply round {at['number']}", work.delta.rows),
            self.run.progress(f"Catch up, round {at['number']}", work.delta.rows) as bar,
        ):
            work.apply(self.store, bar, self.watch)
            wrong = work.prove(self.store)
        self.probed += work.delta.rows
        self.unfound += work.unfound
        if wrong:
            rejected = {name: state.rejected for name, state in work.checkpoint.targets.items()}
            ledger.enter(APPLYING, anew=sorted({row["collection"] for row in wrong}),
                         rejected=at.get("rejected", {}) | rejected)  # fmt: skip
            audit.append(log, "catch-up", outcome="not proven", **about)
            if not anew and all(row["problem"] == UNREACHED for row in wrong):
                named = ", ".join(ledger.rounds[-1]["anew"])
                self.run.log(
                    f"{count(len(wrong), 'chunk')} not found by a search after the catch-up; written afresh: {named}"
                )
                return self._finish()
            self._probed(wrong)
            return False
        ledger.enter(SWITCHING, seconds=time.monotonic() - begun, settings=settings_of(self.store.collections()))
        self.staged = switch(self.run, ledger)
        self.job.checkpoint = Checkpoint.read(self.job.checkpoint.path)
        self.job.snapshot = snapshot
        names = frozenset(snapshot.names())
        self.job.context = Context.of(names, self.run.date, self.run.parameters.migration)
        audit.append(log, "catch-up", **about, digest=snapshot.digest)
        self.applied += 1
        return True

    def _judge(self, changes: SourceChanges, fenced: bool) -> None:
        if self.probed:
            self._probed([])
        if self._late and changes.total <= self.allowed:
            self._say(Verdict.PASS, changes, "", "; writers go on, and step 25 brings over what is left", self.allowed)
        elif changes.nothing:
            closed = fenced or takes_no_writes(self.run.earlier(Step.FENCE_WRITES))
            more = "; without a fence it may change again until step 25 looks once more"
            self._say(Verdict.PASS, changes, "", "" if closed else more)
        elif self.run.parameters.migration.catch_up == "block":
            hint = f"migration.catch_up is block. Stop the writers, then: {self.run.home.command('resume')} --retry 21"
            self._say(Verdict.FAIL, changes, ReasonCode.SOURCE_CHANGED, hint)
        elif fenced:
            hint = f"The fence is active, but the source still changes: find who writes, then {self.run.home.command('resume')}"
            self._say(Verdict.FAIL, changes, ReasonCode.FENCE_BYPASS, hint)
        else:
            hint = f"Writes have to stop for about {duration(self.stop_seconds)}: stop the writers or put up a fence, then "
            hint += self.run.home.command("resume")
            self._say(Verdict.FAIL, changes, ReasonCode.SOURCE_KEEPS_CHANGING, hint)

    def _say(
        self, verdict: Verdict, changes: SourceChanges, reason: Reason, more: str, most: int | None = None
    ) -> None:
        detail = changes.sentence() + (f". {more}" if verdict is Verdict.FAIL else more)
        self.run.check(
            UNCHANGED, verdict, measured=changes.total, threshold=most or 0, relation="=" if most is None else "≤",
            parameter="" if most is None else "migration.delta_limit", unit="changes", reason=reason, detail=detail,
            offenders=changes.total, ids=changes.examples(),
        )  # fmt: skip

    def _probed(self, wrong: list[dict[str, Any]]) -> None:
        detail = f"{self.probed:,} chunks written and read back equal"
        if wrong:
            detail = f"{self.run.home.command('resume')} writes their collections afresh and probes again"
        elif self.unfound:
            detail += "; these few are found by no query, as outliers are in an index that is new, too"
        else:
            detail += ", each found by its own vector"
        verdict = Verdict.FAIL if wrong else Verdict.WARNING if self.unfound else Verdict.PASS
        n, reason = len(named := wrong or self.unfound), ReasonCode.CATCH_UP_NOT_PROVEN
        self.run.forget(PROBED)  # of a round before
        self.run.check(PROBED, verdict, measured=n, threshold=0, unit="chunks", offenders=n, ids=named, detail=detail,
                       reason=reason if wrong else "")  # fmt: skip


def bring_over(run: RunRecord, *, apply: bool) -> dict[str, Any]:
    """Step 25, behind the fence that it put up: what changed in the source since step 23 validated the target.

    The target is locked meanwhile; each chunk that is written is compared, and the ids of every collection are counted. A
    check fails where that shows a difference. `{"total", "allowed", "added", "changed", "deleted", "seconds"}`, in `unread`
    the collections that the log of writes made it pass by, and in `read` why these; raises as `CatchUp.last_round`.
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
    kept = run.folder / f"{run.step}_quarantine.jsonl.gz"
    if len(ledger.rounds) > validated and job.quarantine.entries():
        job.quarantine.evidence(kept, job.schema.shown, run.wrote)
    rounds = ledger.rounds[validated:]
    found = {key: sum(r[key] for r in rounds) for key in ("added", "changed", "deleted")}
    return {
        "total": total, "allowed": allowed, **found, "seconds": round(time.monotonic() - begun, 1),
        "read": work.read, "unread": sorted(name for name, ids in work.known.items() if not ids),
        "by_id": {name: len(ids) for name, ids in sorted(work.known.items()) if ids},
    }  # fmt: skip


def bring_ahead(run: RunRecord) -> None:
    """Step 25, before it stops writers: most of what changed since the validation is brought over while they write.

    Raises `NoGo` as `CatchUp.last_round`, `WorldError` (`catch_up_not_proven`) where a check of it failed.
    """
    with run.phase("bring over changes while clients write"), _late_work(run) as (work, validated):
        if work.ledger.open_round is None or work._finish():
            work.ahead(validated)
    if failing := [check.name for check in run.result.checks if check.verdict is Verdict.FAIL]:
        raise WorldError(ReasonCode.CATCH_UP_NOT_PROVEN, f"what was brought over is not proven: {', '.join(failing)}",
                         next_step=f"Repeat it: {run.home.command('resume')}")  # fmt: skip


@contextmanager
def _late_work(run: RunRecord) -> Iterator[tuple[CatchUp, int]]:
    """The catch-up of step 25, with the target's lock, and how many rounds step 23 knew."""
    ledger = Ledger.read(run)
    if ledger.open_round is not None and ledger.open_round["state"] == SWITCHING:
        switch(run, ledger)
    job = Job.of(run, open_sealed(run.home, Path(ledger.current)), run.workspace, "migration")
    with open_target(run.parameters.target) as store:
        store.acquire_lock(run.id)
        try:
            yield CatchUp(run, job, job.stage(), store, run.workspace, ledger), validated_rounds(run)
        finally:
            store.release_lock(run.id)

"""One round of catch-up put into the target: drop, add, probe each chunk written; repeatable at any moment.

Its own checkpoint (workspace/<run id>/catch-up/<round>/checkpoint.json) is in phase `drop` until everything that goes
is gone: that part is simply repeated after a kill, for nothing was added yet. In phase `import` it is the ledger of the
adds, as in the import itself. In phase `probe` only reading, and a repair of what the probe found, is left.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from helpers.chunks import ChunkBatch
from helpers.migration import owners
from helpers.migration.checkpoint import Checkpoint
from helpers.migration.delta import Delta, refused_by_target
from helpers.migration.job import Job, context_of
from helpers.migration.quarantine import Quarantine
from helpers.migration.source_changes import differing
from helpers.migration.staging import Staged
from helpers.progress import Progress, silent
from helpers.run.record import RunRecord
from helpers.snapshot import Snapshot
from helpers.stores import CollectionInfo, Store
from helpers.stores.space import Space, distance

_BATCH = 500  # chunks deleted or probed at a time
_NEAR, _FAR = 10, 1_000  # neighbours asked for by a probe, and by its second try
UNFOUND = 0.01  # of a collection that no query finds although its index is new: outliers; up to 0.6 % measured on 1.5.9
_NOISE = 1e-5  # two float32 sums of one distance differ by less, relative to the product of the norms


@dataclasses.dataclass(slots=True)
class Round:
    """A round's delta, on its way into the target. `folder` is the round's own."""

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
        cls,
        run: RunRecord,
        job: Job,
        snapshot: Snapshot,
        folder: Path,
        plans: Sequence[CollectionInfo],
        *,
        anew: bool = False,
    ) -> Round:
        """The round in `folder`, begun or gone on with; `anew` writes every collection afresh (after a failed probe)."""
        context = context_of(run, snapshot, job.schema, "catch-up")
        checkpoint = Checkpoint.open(folder / "checkpoint.json", context)
        delta, quarantine = Delta.load(folder / "delta"), Quarantine(folder / "quarantine")
        if anew:
            staged = Staged.load(folder / "staged")
            assert staged is not None  # it was made before the round was begun
            delta = Delta(staged, sorted({*delta.drop, *staged.files}), sorted(staged.files))
        return cls(run, job, snapshot, folder, delta, plans, checkpoint, quarantine)

    def refuse_foreign(self, store: Store) -> None:
        """Raises `Terminal` ("target_not_empty") where a collection that would be made is there and not this run's own."""
        taken = sorted(set(self.delta.create) & set(store.names()) - set(self.job.checkpoint.owned()))
        if taken:
            new = f"{'It is' if len(taken) == 1 else 'They are'} new in the source since the run began. "
            raise owners.taken(taken, self.job.parameters.target, store.label, None, self.run.id, new)

    def apply(self, store: Store, progress: Progress = silent, watch: Path | None = None) -> None:
        """Bring the target to the new state; what an earlier attempt completed is not done again.

        `watch` is the folder whose disk must not fill; `progress` advances by `delta.rows` in all.
        """
        state = self.checkpoint
        if state.phase in ("export", "drop"):
            state.stage(self.delta.add.total, 0, {name: self.delta.add.rows(name) for name in self.delta.add.files})
            state.enter("drop")
            self._drop(store)
            for name in self.delta.create:
                self.job.checkpoint.own(name)  # before it exists: a rollback must know that it is ours
            for name in sorted(set(state.targets) - set(self.delta.create)):
                state.intend(name)
                state.confirm(name)
            state.enter("import")
        if state.phase == "import":
            progress.advance(sum(t.completed for t in state.targets.values()))
            work = dataclasses.replace(self.job, checkpoint=state, quarantine=self.quarantine)
            importer = work.importer(store, self.delta.add, progress, lambda *_: None, watch)
            importer.prepare(self.plans)
            importer.write()
            state.enter("probe")

    def _drop(self, store: Store) -> None:
        present = set(store.names())
        for name in self.delta.drop:
            if name in present:
                store.drop(name)  # the records first: fact 18

    def prove(self, store: Store) -> list[dict[str, Any]]:
        """Every chunk written: as staged, and found by its own vector? Those that are not, as `{collection, id, problem}`.

        Even in an index that was only added to, an outlier may be out of reach; below one in a hundred they are `unfound`.
        """
        found = self._probe(store)
        if found:  # the next attempt begins this round anew
            self.checkpoint.path.unlink()
        else:
            self.checkpoint.enter("complete")
        return found

    def _probe(self, store: Store) -> list[dict[str, Any]]:
        wrong: list[dict[str, Any]] = []
        spaces = {plan.name: plan.space for plan in self.plans}
        for name in sorted(self.delta.add.files):
            refused, beyond, rows = self._refused(name), [], 0
            for batch in self.delta.add.stream(name, 0, _BATCH):
                kept = batch.take(i for i, chunk in enumerate(batch.ids) if chunk not in refused)
                differ = differing(kept, store.read(name, kept.ids), spaces[name])
                lost = unreachable(store, name, kept, spaces[name])
                wrong += [{"collection": name, "id": i, "problem": "not as staged"} for i in differ]
                beyond += [{"collection": name, "id": i, "problem": "not found by its vector"} for i in lost]
                rows += len(kept)
            if len(beyond) > max(1, UNFOUND * rows):
                wrong += beyond
            else:
                self.unfound += beyond
        return wrong

    def _refused(self, name: str) -> set[str]:
        """The target's ids of chunks that it refused in this round."""
        refused = refused_by_target(self.quarantine.entries())
        if not refused:
            return set()
        origins = self.delta.add.origins(name, 0, self.delta.add.rows(name))
        ids = [chunk for _, some in self.delta.add.ids(name) for chunk in some]
        return {chunk for chunk, origin in zip(ids, origins, strict=True) if origin in refused}


def unreachable(store: Store, name: str, batch: ChunkBatch, space: Space) -> list[str]:
    """Ids of chunks that a query by their own vector does not find, nor as many others that are as near.

    Among nearly parallel vectors the own one may stand anywhere; a zero vector has no direction to be found in.
    """
    norms = np.linalg.norm(batch.embeddings.astype(np.float64), axis=1) if len(batch) else np.zeros(0)
    left = [i for i in range(len(batch)) if norms[i] > 0 or space == "l2"]
    for k in (_NEAR, _FAR):
        if left:
            some = batch.take(left)
            own = distance(space, some.embeddings, some.embeddings)
            answers = store.query(name, some.embeddings, k)
            most = min(k, store.limits().query_results)
            scale = np.square(norms[left]) if space != "cosine" else np.ones(len(left))
            found = [
                any(chunk == i for i, _ in near) or (len(near) >= most and near[-1][1] <= mine + _NOISE * size)
                for chunk, near, mine, size in zip(some.ids, answers, own, scale, strict=True)
            ]
            left = [row for row, there in zip(left, found, strict=True) if not there]
    return [batch.ids[i] for i in left]

"""One migration as work to do: a snapshot, a schema, a folder and the checkpoint in it.

It knows no notebook, so that the dry run (step 13), the migration (22) and its catch-up run the same code.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from helpers.migration import reembedding
from helpers.migration.checkpoint import Checkpoint
from helpers.migration.importing import Importer, plan_targets
from helpers.migration.quarantine import Quarantine
from helpers.migration.staging import Staged, stage
from helpers.parameters import Parameters
from helpers.progress import Progress, silent
from helpers.run.record import RunRecord
from helpers.schema import Context, Schema, load_schema
from helpers.snapshot import Snapshot
from helpers.stores import CollectionInfo, Store
from helpers.stores.opening import MOST_BODY_BYTES


@dataclass(slots=True)
class Job:
    """A migration from a snapshot: staged under `folder`, remembered in its checkpoint."""

    snapshot: Snapshot
    schema: Schema
    parameters: Parameters
    context: Context
    folder: Path
    run_id: str
    checkpoint: Checkpoint
    quarantine: Quarantine

    @classmethod
    def of(cls, run: RunRecord, snapshot: Snapshot, folder: Path, purpose: str) -> Job:
        """The job of this run in `folder`; an earlier attempt's checkpoint is gone on with if its context is the same."""
        schema = load_schema(run.parameters.schema_name)
        names = frozenset(snapshot.names())
        context = Context.of(names, run.date, run.parameters.migration)
        checkpoint = Checkpoint.open(folder / "checkpoint.json", context_of(run, snapshot, schema, purpose))
        return cls(
            snapshot, schema, run.parameters, context, folder, run.id, checkpoint, Quarantine(folder / "quarantine")
        )

    @property
    def reembedded(self) -> Path:
        """Where vectors made anew are kept (`reembedding`)."""
        return self.folder / reembedding.FOLDER

    @property
    def most_bytes(self) -> int | None:
        """What one request to the target may hold; None for a directory, which takes any number."""
        return MOST_BODY_BYTES if self.parameters.target.url else None

    def stage(self, progress: Progress = silent) -> Staged:
        """Phases 2 and 3. What an earlier attempt finished is used again: staging is deterministic."""
        staged = Staged.load(self.folder / "staged") if self.checkpoint.targets else None
        if staged is None:
            self.checkpoint.enter("transform")
            reembedding.make(self.snapshot, self.parameters, self.reembedded)
            staged = stage(
                reembedding.as_written(self.snapshot, self.reembedded),
                self.schema,
                self.context,
                self.folder / "staged",
                self.quarantine,
                dimensions=self.parameters.expected.dimensions,
                most_bytes=self.most_bytes,
                progress=progress,
            )
            rows = {name: staged.rows(name) for name in staged.files}
            self.checkpoint.stage(staged.total, sum(staged.quarantined.values()), rows)
        return staged

    def plans(self, staged: Staged) -> list[CollectionInfo]:
        """The collections to create in the target (`plan_targets`)."""
        rules = self.parameters.migration
        return plan_targets(
            self.snapshot.collections(), staged, identity=self.schema.is_identity, drop_indexes=rules.drop_indexes
        )

    def importer(self, store: Store, staged: Staged, progress: Progress, on_batch: Any, watch: Path | None) -> Importer:
        rules = self.parameters.migration
        return Importer(
            store=store,
            staged=staged,
            checkpoint=self.checkpoint,
            quarantine=self.quarantine,
            run_id=self.run_id,
            target=self.parameters.target,
            batch_size=rules.batch_size,
            workers=rules.workers,
            watch=watch,
            most_refused=int(staged.total * (1 - rules.minimum_valid) + 1e-6) - sum(staged.quarantined.values()),
            deadline=time.monotonic() + 60 * rules.max_minutes,
            progress=progress,
            on_batch=on_batch,
        )

    def arrivals(self, store: Store, staged: Staged) -> pd.DataFrame:
        """Phase 5: per source collection the chunks in the snapshot, in the target, in quarantine, and those missing.

        Compares ids, not counts; step 23 compares contents. Columns: collection, source, target, quarantined, missing,
        extra (ids in the collection's targets that nobody staged are counted on the first of them).
        """
        aside = Counter(entry["collection"] for entry in self.quarantine.entries())
        refused = {tuple(key) for key, reason in self.quarantine.reasons().items() if reason == "refused_by_target"}
        arrived: Counter[str] = Counter()
        missing: Counter[str] = Counter()
        extra: Counter[str] = Counter()
        for target in sorted(staged.files):
            present = set(store.ids(target))
            for (file, collection, rows), (_, ids) in zip(staged.files[target], staged.ids(target), strict=True):
                absent = [i for i, chunk in enumerate(ids) if chunk not in present]
                if absent and refused:
                    start = sum(r for f, _, r in staged.files[target] if f < file)
                    origins = staged.origins(target, start, start + rows)
                    absent = [i for i in absent if origins[i] not in refused]
                arrived[collection] += len(set(ids) & present)
                missing[collection] += len(absent)
                present.difference_update(ids)
            if present:
                extra[(staged.contributors(target) or [target])[0]] += len(present)
        rows_ = [
            (i.name, i.count, arrived[i.name], aside[i.name], missing[i.name], extra[i.name])
            for i in self.snapshot.collections()
        ]
        return pd.DataFrame(rows_, columns=["collection", "source", "target", "quarantined", "missing", "extra"])


def context_of(run: RunRecord, snapshot: Snapshot, schema: Schema, purpose: str) -> dict[str, Any]:
    """What must be the same for a checkpoint to be gone on with."""
    return {
        **run.parameters.context(),
        "purpose": purpose,
        "schema_digest": schema.digest,
        "snapshot": snapshot.id,
        "snapshot_digest": snapshot.digest,
        "date": run.date.isoformat(),
    }

"""Phase 4: writing what was staged, one writer per target collection, resumable at any row.

Collections are created fresh and chunks are added, never upserted: an upsert merges metadata and makes current servers
lose other records (chroma-facts 7, 17). An `add` onto an existing id would be ignored silently, so what was in flight
when a run died is looked up by id first, and only what is absent is sent.
"""

from __future__ import annotations

import dataclasses
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

from helpers.chunks import ChunkBatch
from helpers.errors import RUNBOOK, Interrupted, Terminal
from helpers.migration import owners
from helpers.migration.checkpoint import Checkpoint
from helpers.migration.quarantine import Quarantine
from helpers.migration.staging import Staged
from helpers.parameters.endpoint import Endpoint
from helpers.progress import Progress, silent
from helpers.stores import CollectionInfo, Store
from helpers.stores.creation import effective_configuration
from helpers.stores.indexes import as_created

_ABOUT_THE_DATA = {
    "refused",
    "quota_exceeded",
}  # refusals that may be one chunk's fault; others concern the whole target
DISK_RESERVE = 100 * 2**20  # bytes; the runbook pauses below it


@dataclass(slots=True)
class Importer:
    """Writes a staging into a store. `run_id` owns the target's lock; `watch` is the folder whose disk must not fill."""

    store: Store
    staged: Staged
    checkpoint: Checkpoint
    quarantine: Quarantine
    run_id: str
    batch_size: int
    workers: int
    target: Endpoint | None = None  # where the store is, to say whose the collections there are
    watch: Path | None = None
    most_refused: int = 0
    deadline: float | None = None  # on time.monotonic()
    progress: Progress = silent
    on_batch: Callable[[str, int, float], None] = lambda target, rows, seconds: None
    _before: int = 0  # chunks that earlier attempts saw refused
    _refused: set[tuple[str, str]] = field(default_factory=set)  # (target, id) of this attempt

    def prepare(self, plans: Sequence[CollectionInfo]) -> None:
        """Take the lock and create the collections that are missing.

        Raises `Terminal` where the target holds one of them that this run did not make; then nothing was created.
        """
        self.store.acquire_lock(self.run_id)
        present = set(self.store.names())
        foreign = sorted(p.name for p in plans if p.name in present and not self.checkpoint.targets[p.name].intended)
        if foreign:
            self.store.release_lock(self.run_id)
            raise owners.taken(foreign, self.target, self.store.label, None, self.run_id)
        for plan in plans:
            if plan.name not in present:
                self._create(plan)
            self.checkpoint.confirm(plan.name)

    def _create(self, plan: CollectionInfo) -> None:
        self.checkpoint.intend(plan.name)
        try:
            self.store.create(plan)
        except Terminal as error:
            if error.code == "exists":  # made by somebody else since we looked: not ours on a resume either
                self.checkpoint.disown(plan.name)
                self.store.release_lock(self.run_id)
            raise

    def write(self) -> None:
        """Write what is not yet completed. Every chunk ends in the target or in quarantine, or an error is raised."""
        stop = threading.Event()
        self._before = sum(t.rejected for t in self.checkpoint.targets.values())
        self._refused.clear()
        with ThreadPoolExecutor(max_workers=max(1, self.workers), thread_name_prefix="write") as pool:
            futures = [pool.submit(self._write_target, name, stop) for name in sorted(self.staged.files)]
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
            finally:  # one failed, or Ctrl-C fell in here: the others finish the batch in hand
                stop.set()
        errors = [e for f in futures if (e := f.exception())]
        if errors:
            raise next((e for e in errors if not isinstance(e, Interrupted)), errors[0])

    def _write_target(self, name: str, stop: threading.Event) -> None:
        state = self.checkpoint.targets[name]
        in_doubt = state.inflight[1] if state.inflight else state.completed
        at = state.completed
        for batch in self.staged.stream(name, at, self.batch_size):
            if stop.is_set():
                return
            self._require_room_and_time()
            begun = time.monotonic()
            self.checkpoint.begin(name, at, at + len(batch))
            fresh = self._absent(name, batch) if at < in_doubt else batch
            refused = self._add(name, fresh)
            seconds = time.monotonic() - begun
            self.checkpoint.complete(name, at + len(batch), refused, seconds)
            self.on_batch(name, len(batch), seconds)
            at += len(batch)
            self.progress.advance(len(batch))

    def _absent(self, name: str, batch: ChunkBatch) -> ChunkBatch:
        present = set(self.store.read(name, batch.ids, embeddings=False).ids)
        return batch.take([i for i, chunk in enumerate(batch.ids) if chunk not in present])

    def _add(self, name: str, batch: ChunkBatch) -> int:
        """Add a batch; where the target refuses it, halve it until the bad chunk is alone. Returns chunks refused."""
        if not len(batch):
            return 0
        try:
            self.store.add(name, batch)
            return 0
        except Terminal as error:
            if error.code not in _ABOUT_THE_DATA:
                raise
            if len(batch) == 1:
                self._refuse(name, batch, error)
                return 1
        middle = len(batch) // 2
        left, right = batch.slice(0, middle), batch.slice(middle, len(batch))
        # A piece of the batch may have been written before the refusal (byte-capped requests).
        return self._add(name, self._absent(name, left)) + self._add(name, self._absent(name, right))

    def _refuse(self, name: str, chunk: ChunkBatch, error: Terminal) -> None:
        self.checkpoint.note(f"{name}: {chunk.ids[0]}: {error.what}")
        self._refused.add((name, chunk.ids[0]))
        refused = self._before + len(self._refused)  # those of batches still in hand count too
        if refused > self.most_refused:
            raise Terminal(
                "too_many_refused", f"the target refused {refused} chunks, last: {error.what}",
                where=f"collection {name} of {self.store.label}", next_step="See notebook 41.",
            ) from error  # fmt: skip
        collection, source_id = self._origin(name, chunk.ids[0])
        entry = {"collection": collection, "id": source_id, "reason": "refused_by_target", "detail": error.what,
                 "target": name}  # fmt: skip
        self.quarantine.add(entry, chunk)

    def _origin(self, name: str, chunk: str) -> tuple[str, str]:
        at = 0
        for _, ids in self.staged.ids(name):
            if chunk in ids:
                position = at + ids.index(chunk)
                return self.staged.origins(name, position, position + 1)[0]
            at += len(ids)
        raise AssertionError(f"{chunk} was never staged for {name}")

    def _require_room_and_time(self) -> None:
        if self.watch is not None and shutil.disk_usage(self.watch).free < DISK_RESERVE:
            raise Terminal(
                "paused_for_disk", "less than 100 MB of disk free", where=str(self.watch),
                next_step=f"Free disk space, then: {RUNBOOK} resume {self.run_id}",
            )  # fmt: skip
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise Terminal(
                "time_limit", "the migration took longer than migration.max_minutes",
                next_step=f"Decide: {RUNBOOK} resume {self.run_id} goes on; the target is not in use yet.",
            )  # fmt: skip


def plan_targets(
    sources: Sequence[CollectionInfo], staged: Staged, *, identity: bool, drop_indexes: Sequence[str] = ()
) -> list[CollectionInfo]:
    """The collections to create. Under identity the sources' own; else one per target, with what its sources share.

    Raises `Terminal` where sources that merge differ in space or dimension: no one collection can hold both; and where
    one has an index that a local Chroma cannot hold and that `drop_indexes` does not give up.
    """
    by_name = {info.name: as_created(info, drop_indexes) for info in sources}
    plans = []
    for target in sorted(staged.files):
        names = staged.contributors(target) or sorted(by_name)
        infos = [by_name[n] for n in ([target] if identity else names)]
        if identity:
            plans.append(infos[0])
            continue
        for what, values in (
            ("space", {i.space for i in infos}),
            ("dimension", {i.dimension for i in infos if i.dimension}),
        ):
            if len(values) > 1 and staged.files[target]:
                raise Terminal(
                    f"mixed_{what}s", f"sources of {target} differ in {what}: {', '.join(sorted(map(str, values)))}",
                    next_step="Route them to different targets in the schema file, or migrate them apart.",
                )  # fmt: skip
        plans.append(_merged(target, infos))
    return plans


def _merged(target: str, infos: Sequence[CollectionInfo]) -> CollectionInfo:
    """One target for many sources: their configuration where it is the same for all, else only the space.

    Their schemas are not used: a server adds every metadata key that it meets to them, so no two are alike.
    """
    first = infos[0]
    configurations = [effective_configuration(i) for i in infos]
    alike = all(c == configurations[0] for c in configurations)
    plain = {"hnsw": {"space": first.space}, "spann": None, "embedding_function": None}
    return dataclasses.replace(
        first,
        name=target,
        count=0,
        declared_space=first.space,
        metadata=None,
        configuration=configurations[0] if alike else plain,
        schema=None,
        embedding_function=first.embedding_function if alike else None,
        findings=(),
    )

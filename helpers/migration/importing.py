"""Phase 4: write what was staged, one writer per target collection, resumable at any row.

Collections are created fresh and chunks are added, never upserted: an upsert merges metadata and makes current servers
lose other records (chroma-facts 7, 17). An `add` onto an existing id would be ignored silently, so what was in flight
when a run died is looked up by id first, and only what is absent is sent.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from helpers import plots
from helpers.chunks import ChunkBatch
from helpers.errors import RUNBOOK, Terminal, UsageError, one_line
from helpers.formatting import count
from helpers.migration import reembedding, target_lock
from helpers.migration.checkpoint import Checkpoint
from helpers.migration.staging import Quarantine, Staged, stage, staged_in
from helpers.parameters import Parameters
from helpers.parameters.endpoint import Endpoint
from helpers.parameters.sections import Migration, index_order
from helpers.reason_codes import ReasonCode
from helpers.results import Check, Progress, Verdict, kind_of, silent
from helpers.run.executor import Order, Workers, opened, workers_of
from helpers.run.folders import RunPath
from helpers.run.plan import Step
from helpers.run.record import RunRecord
from helpers.schema import DOCUMENT, Context, Schema, load_schema
from helpers.snapshots.export_journal import together
from helpers.snapshots.remote import StagedFiles, for_staging
from helpers.snapshots.snapshot import Snapshot
from helpers.stores import HNSW_METADATA, CollectionInfo, Store, absent, add_singly, listed_ids, vector_configs
from helpers.stores.creation import allowed, as_created, effective_configuration, listed, refusal, unsupported
from helpers.stores.limits import known_of

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
    target: Endpoint | None = None  # of the store, to tell whose its collections are
    watch: Path | None = None
    most_refused: int = 0
    deadline: float | None = None  # on time.monotonic()
    progress: Progress = silent
    on_batch: Callable[[str, int, float], None] = lambda target, rows, seconds: None
    away: Workers | None = None  # the workers that write, where the target is a server
    _before: int = 0  # chunks refused in earlier attempts
    _refused: set[tuple[str, str]] = field(default_factory=set)  # (target, id), in this attempt

    def prepare(self, plans: Sequence[CollectionInfo]) -> None:
        """Take the lock and create the collections that are missing.

        Raises `Terminal` where the target holds one of them that this run did not create; then nothing was created.
        """
        self.store.acquire_lock(self.run_id)
        present, uuids = set(self.store.names()), self.store.identities()
        foreign = sorted(p.name for p in plans if p.name in present and not self._is_ours(p, uuids[p.name]))
        if foreign:
            self.store.release_lock(self.run_id)
            anew = "Made anew by somebody since the run made its own. " if self.checkpoint.replaced(uuids) else ""
            raise target_lock.target_not_empty(foreign, self.target, self.store.label, None, self.run_id, anew)
        for plan in plans:
            if plan.name not in present:
                self._create(plan)
            self.checkpoint.confirm(plan.name, uuids.get(plan.name) or self.store.identity(plan.name))

    def _is_ours(self, plan: CollectionInfo, uuid: str) -> bool:
        """Whether this run created the collection: by its uuid; without one, created, or intended and still empty."""
        state = self.checkpoint.targets[plan.name]
        return uuid == state.uuid if state.uuid else state.created or (state.intended and self.store.as_created(plan))

    def _create(self, plan: CollectionInfo) -> None:
        self.checkpoint.intend(plan.name)
        try:
            self.store.create(plan)
        except Terminal as error:
            if error.code == ReasonCode.EXISTS and self.store.as_created(plan):
                return  # our request was sent twice: we hold the lock, and the collection was not there before
            if error.code == ReasonCode.EXISTS:  # somebody else created it since the check: not ours on a resume either
                self.checkpoint.disown(plan.name)
                self.store.release_lock(self.run_id)
            raise

    def write(self) -> None:
        """Write what is not yet completed. Every chunk ends up in the target or in quarantine, or an error is raised."""
        self._before = sum(t.rejected for t in self.checkpoint.targets.values())
        self._refused.clear()
        together(self._write_target, sorted(self.staged.files), self.workers)

    def _write_target(self, name: str, stop: threading.Event) -> None:
        state = self.checkpoint.targets[name]
        in_doubt = state.inflight[1] if state.inflight else state.completed
        at = state.completed
        for batch in self.staged.stream(name, at, self.batch_size) if self.away is None else self._ranges(name, at):
            if stop.is_set():
                return
            self._require_room_and_time()
            begun = time.monotonic()
            self.checkpoint.begin(name, at, at + len(batch))
            if isinstance(batch, range):
                refused = self._add_away(name, batch)
            else:
                refused = self._add(name, absent(self.store, name, batch) if at < in_doubt else batch)
            seconds = time.monotonic() - begun
            self.checkpoint.complete(name, at + len(batch), refused, seconds)
            self.on_batch(name, len(batch), seconds)
            at += len(batch)
            self.progress.advance(len(batch))

    def _ranges(self, name: str, start: int) -> Iterator[range]:
        rows = self.staged.rows(name)
        return (range(at, min(rows, at + self.batch_size)) for at in range(start, rows, self.batch_size))

    def _add(self, name: str, batch: ChunkBatch) -> int:
        return add_singly(self.store, name, batch, partial(self._refuse, name))

    def _add_away(self, name: str, rows: range) -> int:
        """As `_add`, by a worker, which may be the second to try; the target's refusals are recorded here."""
        assert self.away is not None
        most = max(0, self.most_refused - self._before - len(self._refused))
        refused = self.away.call(_added, self.away.order, self.staged.folder, name, rows, most)
        for chunk, error in refused:
            self._refuse(name, chunk, error)
        return len(refused)

    def _refuse(self, name: str, chunk: ChunkBatch, error: Terminal) -> None:
        self.checkpoint.note(f"{name}: {chunk.ids[0]}: {error.what}")
        self._refused.add((name, chunk.ids[0]))
        refused = self._before + len(self._refused)  # those of unfinished batches included
        if refused > self.most_refused:
            raise Terminal(
                ReasonCode.TOO_MANY_REFUSED, f"the target refused {count(refused, 'chunk')}, last: {error.what}",
                where=f"collection {name} of {self.store.label}", next_step="See notebook 41.",
            ) from error  # fmt: skip
        collection, source_id = self._origin(name, chunk.ids[0])
        entry = {"collection": collection, "id": source_id, "reason": ReasonCode.REFUSED_BY_TARGET, "detail": error.what,
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
                ReasonCode.PAUSED_FOR_DISK, "less than 100 MB of disk free", where=str(self.watch),
                next_step=f"Free disk space, then: {RUNBOOK} resume {self.run_id}",
            )  # fmt: skip
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise Terminal(
                ReasonCode.TIME_LIMIT, "the migration took longer than migration.max_minutes",
                next_step=f"Decide: {RUNBOOK} resume {self.run_id} goes on; the target is not in use yet.",
            )  # fmt: skip


_Refused = list[tuple[ChunkBatch, Terminal]]


def _added(order: Order, folder: Path, name: str, rows: range, most: int) -> _Refused:
    """On a worker: write these rows of what is staged for a target. Gives the chunks that the target refused.

    Dask gives the slice of a dead worker to another one, so existing ids are always looked up first. After more than `most`
    refusals the rest is not tried: the run stops anyway.
    """
    store, refused = opened(order, "target"), _Refused()
    batch = absent(store, name, staged_in(folder).between(name, rows.start, rows.stop))

    def refuse(chunk: ChunkBatch, error: Terminal) -> None:
        refused.append((chunk, error))
        if len(refused) > most:
            raise _Enough

    with suppress(_Enough):
        add_singly(store, name, batch, refuse)
    return refused


class _Enough(Exception):
    """Enough refusals: the run stops."""


def plan_targets(
    sources: Sequence[CollectionInfo], staged: Staged, rules: Migration, schema: Schema
) -> list[CollectionInfo]:
    """The collections to create. One that can get chunks of a single source has its metadata, settings and indexes; any other
    has what its sources share. The index settings that `migration.index` orders are applied.

    Raises `Terminal` where sources to merge differ in space or dimension, which one collection cannot hold, and where one
    has an index that a local Chroma cannot hold and `migration.drop_indexes` does not name; `UsageError` where
    `migration.index` names no collection of the target.
    """
    for pattern in rules.index:
        if not any(fnmatchcase(target, pattern) for target in staged.files):
            raise UsageError(
                ReasonCode.USAGE, f"{one_line(pattern, 60)!r} fits no collection of the target", where="migration.index",
                next_step=f"The target gets {', '.join(sorted(one_line(name, 60) for name in staged.files)[:8])}.",
            )  # fmt: skip
    by_name = {info.name: as_created(info, rules.drop_indexes) for info in sources}
    plans = []
    for target in sorted(staged.files):
        order = index_order(rules.index, target)
        if only := schema.only_source(target, by_name):
            info = by_name[only]
            indexes = schema.content.indexes(only, info.schema)
            plans.append(with_index(dataclasses.replace(info, name=target, schema=indexes), order))
            continue
        infos = [by_name[n] for n in staged.contributors(target) or sorted(by_name)]
        for setting, values in (
            ("space", {order.get("space", i.space) for i in infos}),
            ("dimension", {i.dimension for i in infos if i.dimension}),
        ):
            if len(values) > 1 and staged.files[target]:
                shown = ", ".join(sorted(map(str, values)))
                raise Terminal(
                    ReasonCode(f"mixed_{setting}s"), f"sources of {target} differ in {setting}: {shown}",
                    next_step="Route them to different targets in the schema file, or migrate them apart.",
                )  # fmt: skip
        plans.append(with_index(_merged(target, infos), order))
    return plans


def _merged(target: str, infos: Sequence[CollectionInfo]) -> CollectionInfo:
    """One target for several sources: their configuration where all have the same, else only the space.

    Their schemas are not used: a server adds every metadata key that it meets to them, so no two are equal.
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


def with_index(info: CollectionInfo, order: Mapping[str, Any]) -> CollectionInfo:
    """The collection with these settings of its HNSW index, in every place where Chroma reads them."""
    if not order:
        return info
    space = order.get("space", info.space)
    metadata = {key: order.get(HNSW_METADATA.get(key, ""), value) for key, value in (info.metadata or {}).items()}
    metadata |= {"hnsw:space": space} if "hnsw:space" in metadata else {}
    schema, settings = copy.deepcopy(info.schema), {key: value for key, value in order.items() if key != "space"}
    for config in vector_configs(schema):
        config |= {"space": space, "hnsw": {**(config.get("hnsw") or {}), **settings}}
    configuration = {**info.configuration, "hnsw": {**(effective_configuration(info)["hnsw"] or {}), **order}}
    return dataclasses.replace(
        info, space=space, declared_space=space, metadata=metadata or None, schema=schema, configuration=configuration
    )


@dataclass(slots=True)
class Job:
    """A migration from a snapshot: staged under `folder`, with its progress in a checkpoint.

    It depends on no step, so the dry run (step 13), the migration (22) and its catch-up run the same code.
    """

    snapshot: Snapshot
    schema: Schema
    parameters: Parameters
    context: Context
    folder: Path
    run_id: str
    checkpoint: Checkpoint
    quarantine: Quarantine
    run: RunRecord | None = None  # its workers, if any, do the work

    @classmethod
    def of(cls, run: RunRecord, snapshot: Snapshot, folder: Path, purpose: str) -> Job:
        """The job of this run in `folder`; resumes an earlier attempt's checkpoint if its context is the same."""
        schema = load_schema(run.parameters.schema_name)
        names = frozenset(snapshot.names())
        context = Context.of(names, run.date, run.parameters.migration)
        checkpoint = Checkpoint.open(folder / RunPath.CHECKPOINT, context_of(run, snapshot, schema, purpose))
        quarantine = Quarantine(folder / RunPath.QUARANTINE)
        return cls(snapshot, schema, run.parameters, context, folder, run.id, checkpoint, quarantine, run)

    @property
    def reembedded(self) -> Path:
        """The folder of new vectors (`reembedding`)."""
        return self.folder / reembedding.REEMBEDDED

    @property
    def limits(self) -> dict[str, tuple[int, str]]:
        """The target's known limits; a directory has only those given."""
        return known_of(self.parameters.target)

    def stage(self, progress: Progress = silent) -> Staged:
        """Phases 2 and 3. Reuses what an earlier attempt completed: staging is deterministic."""
        staged = Staged.load(self.folder / RunPath.STAGED) if self.checkpoint.targets else None
        if staged is None:
            self.checkpoint.enter("transform")
            staged = self.staged_in(self.folder / RunPath.STAGED, self.quarantine, progress)
            rows = {name: staged.rows(name) for name in staged.files}
            self.checkpoint.stage(staged.total, staged.unstaged, rows)
        return staged

    def staged_in(self, folder: Path, quarantine: Quarantine, progress: Progress) -> Staged:
        """Stage the snapshot under `folder`; repeating it gives the same."""
        reembedding.reembed(self.snapshot, self.parameters, self.reembedded)
        workers = workers_of(self.run) if self.run is not None else None
        vectors = self.reembedded if self.parameters.migration.embedding else None
        return stage(
            reembedding.as_written(self.snapshot, self.reembedded), self.schema, self.context, folder, quarantine,
            dimensions=self.parameters.expected.dimensions, limits=self.limits, progress=progress,
            away=(workers, vectors) if workers else None, storage=self.storage_for(folder),
        )  # fmt: skip

    def storage_for(self, folder: Path) -> StagedFiles | None:
        """The storage for what is staged in a folder of the run; None where it stays in that folder."""
        stored = self.parameters.migration.staging == "storage"
        return for_staging(self.parameters.snapshot, folder) if stored else None

    def plans(self, staged: Staged) -> list[CollectionInfo]:
        """The collections to create in the target (`plan_targets`)."""
        collections = reembedding.as_written(self.snapshot, self.reembedded).collections()
        return plan_targets(collections, staged, self.parameters.migration, self.schema)

    def importer(
        self, store: Store, staged: Staged, progress: Progress, on_batch: Any, watch: Path | None, away: Workers | None = None
    ) -> Importer:  # fmt: skip
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
            most_refused=int((staged.total - staged.left_out) * (1 - rules.minimum_valid) + 1e-6)
            - sum(staged.quarantined.values()),
            deadline=time.monotonic() + 60 * rules.max_minutes,
            progress=progress,
            on_batch=on_batch,
            away=away,
        )

    def arrivals(self, store: Store, staged: Staged, *, counted: bool = False) -> pd.DataFrame:
        """Phase 5: by source collection the chunks in snapshot, target and quarantine, left out, and missing.

        Compares ids, not counts; step 23 compares contents. Columns: collection, source, target, quarantined, left_out,
        missing, extra (ids in the collection's targets that nobody staged, counted on the first of them). `counted`: list the
        ids of a collection only where its count differs from what it must be.
        """
        entries = self.quarantine.entries()
        quarantined = Counter(entry["collection"] for entry in entries if entry["reason"] != ReasonCode.LEFT_OUT)
        omitted = Counter(entry["collection"] for entry in entries if entry["reason"] == ReasonCode.LEFT_OUT)
        refused = {
            tuple(key) for key, reason in self.quarantine.reasons().items() if reason == ReasonCode.REFUSED_BY_TARGET
        }
        arrived: Counter[str] = Counter()
        missing: Counter[str] = Counter()
        extra: Counter[str] = Counter()
        for target in sorted(staged.files):
            left_out = Counter(e["collection"] for e in self.quarantine.entries() if e.get("target") == target)
            if counted and store.count(target) == staged.rows(target) - left_out.total():
                for _, collection, rows in staged.files[target]:
                    arrived[collection] += rows
                arrived.subtract(left_out)
                continue
            present = set(listed_ids(store, target))
            start = 0
            for collection, ids in staged.ids(target):
                absent = [i for i, chunk in enumerate(ids) if chunk not in present]
                if absent and refused:
                    origins = staged.origins(target, start, start + len(ids))
                    absent = [i for i in absent if origins[i] not in refused]
                arrived[collection] += len(set(ids) & present)
                missing[collection] += len(absent)
                present.difference_update(ids)
                start += len(ids)
            if present:
                extra[(staged.contributors(target) or [target])[0]] += len(present)
        rows_ = [
            (i.name, i.count, arrived[i.name], quarantined[i.name], omitted[i.name], missing[i.name], extra[i.name])
            for i in self.snapshot.collections()
        ]
        columns = ["collection", "source", "target", "quarantined", "left_out", "missing", "extra"]
        return pd.DataFrame(rows_, columns=columns)


def context_of(run: RunRecord, snapshot: Snapshot, schema: Schema, purpose: str) -> dict[str, Any]:
    """What must be unchanged for a checkpoint to be resumed."""
    return {
        **run.parameters.context(),
        "purpose": purpose,
        "schema_digest": schema.digest,
        "snapshot": snapshot.id,
        "snapshot_digest": snapshot.digest,
        "date": run.date.isoformat(),
    }


# -- phase checks ------------------------------------------------------------------------------------------------------
#
# How the phases of a migration are judged and shown; the same in the dry run and the real one.


def show_transform(
    run: RunRecord, staged: Staged, quarantined: Iterable[Mapping[str, Any]], schema: Schema
) -> pd.DataFrame:  # fmt: skip
    """Repairs (field, rule, kind, chunks) summed over the collections; drawn, with the routes, unless the dry run drew them.

    `quarantined`: the chunks in quarantine, each with its `collection`. Records the facts `repairs`; `routing`, whose target
    is "" for the quarantine and for what the schema leaves out; and `origin_fields`, by which a client distinguishes source
    collections in a merged one.
    """
    quarantined = list(quarantined)
    run.fact("origin_fields", schema.origin_fields)
    routed: Counter[tuple[str, str]] = Counter()
    for target, files in staged.files.items():
        for _, collection, rows in files:
            routed[collection, target] += rows
    routed.update((str(row["collection"]), "") for row in quarantined)
    routes = [{"collection": c, "target": t, "chunks": n} for (c, t), n in sorted(routed.items())]
    table = pd.DataFrame(staged.repairs, columns=["collection", "field", "rule", "chunks"])
    run.fact("derived", staged.derived)
    run.fact("filled", staged.filled)
    omitted = Counter(str(row["detail"]) for row in quarantined if row["reason"] == ReasonCode.LEFT_OUT)
    run.fact("left_out", dict(sorted(omitted.items())))
    judge_documents(run, staged)
    figures = {
        "repairs": (staged.repairs, "Values that the schema fills in or changes, by field."),
        "routing": (routes, "Where the chunks of each source collection go."),
    }
    dry = run.earlier(Step.DRY_RUN) if run.step != Step.DRY_RUN else None
    for name, (data, caption) in figures.items():
        run.fact(name, data)
        earlier = dry.facts.get(name) if dry is not None else None
        if data and json.loads(json.dumps(data)) != earlier:
            frame = pd.DataFrame(routes).rename(columns={"collection": "source"})
            run.figure(name, plots.repairs_bar(table) if name == "repairs" else plots.routing(frame), caption)
    summed = pd.DataFrame(table.groupby(["field", "rule"], as_index=False)["chunks"].sum())
    summed.insert(2, "kind", [kind_of(str(rule)) for rule in summed["rule"]])
    return summed


def judge_documents(run: RunRecord, staged: Staged) -> None:
    """Check documents that the schema changes, where it changes any: their vectors were made from the old text."""
    order = run.parameters.migration.embedding
    changed = sum(
        row["chunks"]
        for row in staged.repairs
        if row["field"] == DOCUMENT and not (order and order.selects(row["collection"]))  # made from the new text
    )
    if changed:
        run.check(
            "vectors of changed documents", Verdict.WARNING, measured=changed, threshold=0, unit="changes",
            reason=ReasonCode.DOCUMENTS_CHANGED, offenders=changed,
            detail="The schema changes documents. Their vectors stay: they were made from the old text.",
        )  # fmt: skip


def routing_table(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """The fact `routing` as a table: source, target, chunks; one row per pair, and one per source with chunks not staged."""
    table = [(r["collection"], r["target"] or "(quarantine or left out)", r["chunks"]) for r in rows]
    return pd.DataFrame(table, columns=["source", "target", "chunks"])


def judge_indexes(run: RunRecord, infos: Iterable[CollectionInfo], *, refuse: bool) -> None:
    """Check for indexes that a local Chroma cannot hold: a warning that names each one, if there are any.

    `refuse`: raise `Terminal` ("index_unsupported") for those that `migration.drop_indexes` does not name.
    """
    patterns = run.parameters.migration.drop_indexes
    dropped = [(index, allowed(info, patterns)) for info in infos for index in unsupported(info)]
    if not dropped:
        return
    open_ = [index for index, accepted in dropped if not accepted]
    shown = open_ or [index for index, _ in dropped]
    decision = "not named in migration.drop_indexes" if open_ else "migration.drop_indexes gives it up"
    run.check(
        "indexes of Chroma Cloud alone", Verdict.FAIL if open_ and refuse else Verdict.WARNING, measured=len(dropped),
        threshold=0, unit="indexes", reason=ReasonCode.INDEX_UNSUPPORTED if open_ else ReasonCode.INDEX_DROPPED,
        detail=f"{listed(shown)}: {decision}",
        ids=[{"collection": i.collection, "index": i.kind, "key": i.key, "becomes": i.becomes if accepted else "undecided"}
             for i, accepted in dropped],
    )  # fmt: skip
    if open_ and refuse:
        raise refusal(open_)


def judge_staging(run: RunRecord, staged: Staged, parameters: Parameters) -> None:
    """The checks of phase 3: enough chunks are valid; no two chunks have one id in one target."""
    quarantined, expected = sum(staged.quarantined.values()), staged.total - staged.left_out
    share = (expected - quarantined) / expected if expected else 1.0  # 0.001, not 0.0010000000000000009
    least = parameters.migration.minimum_valid
    run.check(
        "chunks that pass validation", Verdict.PASS if share >= least else Verdict.FAIL, measured=share,
        parameter="migration.minimum_valid", threshold=least, relation="≥",
        unit="share", reason="" if share >= least else ReasonCode.VALIDATION_BELOW_MINIMUM, offenders=quarantined,
        detail=", ".join(f"{reason} {n}" for reason, n in staged.quarantined.items()),
    )  # fmt: skip
    clashes = staged.collided
    run.check(
        "ids in common", Verdict.FAIL if clashes else Verdict.PASS, measured=clashes, threshold=0,
        unit="ids", reason=ReasonCode.ID_COLLISION if clashes else "", offenders=clashes, ids=staged.collisions,
        detail="Set migration.id_policy: prefix, route these collections apart, or correct the schema's id." if clashes else "",
    )  # fmt: skip
    target_lock.judge_limits(
        run, {name: staged.rows(name) for name in staged.files}, lambda name, at: staged.origins(name, at, at + 1)[0]
    )
    if staged.left_out:
        run.check("chunks left out by the schema", Verdict.PASS, measured=staged.left_out, threshold="listed", unit="chunks",
                  detail="each is listed with its condition; none is in the target")  # fmt: skip
    run.fact("validation_pass_rate", share)


def judge_arrivals(run: RunRecord, table: pd.DataFrame, minimum: int) -> None:
    """The checks of phase 5: nothing missing, nothing extra, enough chunks imported."""
    for column, reason in (("missing", ReasonCode.CHUNK_MISSING), ("extra", ReasonCode.CHUNK_EXTRA)):
        off = table[table[column] > 0]
        count = int(off[column].sum())
        run.check(
            f"chunks {column}", Verdict.FAIL if count else Verdict.PASS, measured=count, threshold=0, unit="chunks",
            reason=reason if count else "", offenders=count,
            ids=[{"collection": c, column: int(n)} for c, n in zip(off["collection"], off[column], strict=True)],
        )  # fmt: skip
    imported = int(table["target"].sum())
    if minimum:
        run.check("chunks imported", Verdict.PASS if imported >= minimum else Verdict.FAIL, measured=imported,
                  parameter="expected.minimum_imported", threshold=minimum, relation="≥", unit="chunks",
                  reason="" if imported >= minimum else ReasonCode.COUNT_MISMATCH)  # fmt: skip
    run.fact("imported", imported)


def refuse_failed(run: RunRecord) -> None:
    """Raise `Terminal` where a check of this step failed: nothing is written after a failed check."""
    failed: list[Check] = [c for c in run.result.checks if c.verdict is Verdict.FAIL]
    if failed:
        raise Terminal(
            failed[0].reason or ReasonCode.CHECK_FAILED,
            f"{failed[0].name}: {failed[0].measured_text} where {failed[0].expected} is expected",
            where=f"step {run.step}",
            next_step=failed[0].detail or "Nothing was written.",
        )

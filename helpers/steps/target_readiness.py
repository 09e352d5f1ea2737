"""Step 12: can the target take what the source holds? (Runbook, Section 1.3.)

The write probe uses its own collection, which is removed again. An embedded target that does not exist yet is probed in a
neighbouring folder on the same disk; an empty one, which may be a mount point, inside itself.
"""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import cached_property, partial
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np
import pandas as pd

from helpers import audit
from helpers.chunks import ChunkBatch
from helpers.cutover.readiness import CutoverReadiness
from helpers.errors import RUNBOOK, RunbookError
from helpers.formatting import count, size
from helpers.migration.checkpoint import Checkpoint
from helpers.migration.importing import DISK_RESERVE, judge_indexes
from helpers.migration.reembedding import refuse_order
from helpers.migration.target_lock import (
    FILES,
    NOT_THERE,
    chosen,
    judge_limits,
    limits_table,
    refuse_taken,
)
from helpers.parameters.endpoint import DEFAULT_DATABASE, DEFAULT_TENANT
from helpers.reason_codes import ReasonCode
from helpers.results import Verdict
from helpers.run.folders import RunPath
from helpers.run.plan import Step
from helpers.run.record import NotebookStep, RunRecord, check_connection, open_chosen
from helpers.schema import load_schema
from helpers.stores import CollectionInfo, Store, open_embedded, open_target
from helpers.stores.layout import OURS, VOLUMES, is_new
from helpers.stores.opening import make_ours, missing_levels, require_place, temporary_database
from helpers.stores.wire import tried, with_candidates
from helpers.validation.properties import known_answers

PROBE_CHUNKS = 200
ROUNDS = 9  # timed requests and queries; the median counts
SHOWN = 20  # collections of the target that are listed
LEAST_FREE = 2 * 2**30  # bytes; the runbook's "at least 2 GB"
# Notebooks, pages, figures, PDFs, evidence: 11 MB in a rehearsal of 2,000 chunks; twice where steps are repeated.
_REPORTS = 30 * 2**20
_PER_CHUNK = 3.0  # a Chroma directory takes about 2.3 times its vectors (SQLite log and HNSW); measured on 1.5.9


class TargetReadinessStep(NotebookStep):
    """The notebook's view: each method returns a table, and adds its checks to the step."""

    def __init__(self, run: RunRecord) -> None:
        self.run = run
        self.target = run.parameters.target
        self._lacks: tuple[str, ...] = ()  # the missing ones of tenant and database

    @cached_property
    def _source(self) -> list[CollectionInfo]:
        with open_chosen(self.run) as store:
            return [store.info(name) for name in chosen(store.names(), self.run.parameters)]

    def reach(self) -> pd.DataFrame:
        """The target's address, state, limits, collections and lock. Raises where it cannot be reached."""
        if self.target.path:
            require_place(Path(self.target.path))
        self._refuse_absent()
        if self._is_new or self._lacks:
            state = "a new folder; made by step 20" if self._is_new else "reachable"
            rows = [("target", self.target.label), ("state", state), ("collections", "0")]
            if self._lacks:
                missing = " and ".join(f"{name} {getattr(self.target, name)}" for name in self._lacks)
                rows.append(("to be made by step 20", missing))
                self._judge_absent(missing)
            self.run.check("connection to the target", Verdict.PASS, measured="reachable", threshold="reachable",
                           detail="a new folder, can be written" if self._is_new else "the database is new")  # fmt: skip
            return pd.DataFrame(rows + self._limits({}), columns=["what", "found"])
        begun = time.monotonic()
        check_connection(self.run, "target", self.target)
        with open_target(self.target) as store:
            seconds = time.monotonic() - begun
            present, holder = store.names(), store.lock_holder()
            counts = [(f"holds {name}", count(store.count(name), "chunk")) for name in present[:SHOWN]]
            rows = [
                ("target", store.label),
                ("version it gives", store.version),
                ("time to open", f"{seconds * 1000:.0f} ms"),
                ("rows per write, at most", f"{store.limits().write_rows:,}"),
                ("bytes per write, at most", f"{store.limits().write_bytes:,}"),
                *self._limits({"write_rows": store.limits().write_rows} if self.target.url else {}),
                ("collections", str(len(present))),
                ("locked by", _named(holder)),
            ]
        self.run.fact("target_version", str(rows[1][1]))
        locked = str(rows[-1][1])
        if self.target.url and not present:
            rows.append(("holds nothing", f"If it should hold something: {VOLUMES}"))
        elif self.target.url:
            rows.append(("compare", f"Are these the counts that you expect there? If not: {VOLUMES}"))
        rows += counts + ([("and", f"{len(present) - SHOWN} more collections")] if len(present) > SHOWN else [])
        self.run.check("connection to the target", Verdict.PASS, measured="reachable", threshold="reachable",
                       detail=f"opened in {seconds * 1000:,.0f} ms")  # fmt: skip
        other = bool(holder) and holder is not None and holder.get("run_id") != self.run.id
        self.run.check("lock of the target", Verdict.FAIL if other else Verdict.PASS,
                       measured=locked if other else "free to this run", threshold="free to this run",
                       reason=ReasonCode.LOCK_HELD if other else "",
                       detail="the collections there are that run's: remove nothing, wait until it has ended" if other else "",
                       )  # fmt: skip
        self._check_room_for_names(present)
        return pd.DataFrame(rows, columns=["what", "found"])

    def _judge_absent(self, missing: str) -> None:
        """Check what step 20 will make: pass where it was ordered, warn where nothing was said, fail where it is forbidden."""
        unsure = f"Step 20 makes {missing}. If it should be there already, the name is wrong: correct target."
        outcomes: dict[bool | None, tuple[Verdict, str, ReasonCode | Literal[""], str]] = {
            True: (Verdict.PASS, "to be made", "", f"Step 20 makes {missing}, as ordered by target.create."),
            False: (Verdict.FAIL, "there (target.create is false)", ReasonCode.TARGET_DATABASE_MADE,
                    f"Make {missing} there, or correct target; target.create: true lets step 20 make it."),
            None: (Verdict.WARNING, "there", ReasonCode.TARGET_DATABASE_MADE, f"{unsure} Else say target.create: true."),
        }  # fmt: skip
        verdict, expected, reason, detail = outcomes[self.target.create]
        measured = expected if self.target.create else f"no {missing}"
        self.run.check("tenant and database of the target", verdict, measured=measured, threshold=expected,
                       parameter="target.create", reason=reason, detail=detail)  # fmt: skip

    def _limits(self, asked: Mapping[str, int]) -> list[tuple[str, str]]:
        """The target's limits and their origin; check now which collections exceed them."""
        schema, counts = load_schema(self.run.parameters.schema_name), {i.name: i.count for i in self._source}
        judge_limits(self.run, counts if schema.is_identity else dict.fromkeys(schema.targets(list(counts)), 0))
        return limits_table(self.run, asked)

    def _refuse_absent(self) -> None:
        """Find out whether the target lacks tenant or database; make nothing.

        Where the named server does not answer, try the runbook's other names on its port, report them, and never use them.
        """
        try:
            self._lacks = missing_levels(self.target)
        except RunbookError as error:
            if self.target.url is None or error.code not in NOT_THERE:
                raise
            candidates = tried(self.target)
            self.run.fact("candidates", [[c.url, c.answers, c.result] for c in candidates])
            self.run.check("connection to the target", Verdict.FAIL, measured="none", threshold="reachable", reason=error.code,
                           detail=error.what,
                           ids=[{"id": c.url, "found": c.result} for c in candidates])  # fmt: skip
            raise with_candidates(error, candidates) from None

    def _judge_function(self) -> None:
        """Check that the embedding function works here: ask it for one vector. Raises where it does not."""
        known_answers(self.run.parameters.validation.retrieval)  # raises for a bad file
        order = self.run.parameters.migration.embedding
        dimension = refuse_order(order, [info.name for info in self._source]) if order is not None else None
        if order is not None and dimension is not None:
            chunks = sum(info.count for info in self._source if order.selects(info.name))
            self.run.check(
                "embedding function of new vectors", Verdict.PASS, measured=dimension, threshold=order.dimension or 1,
                relation="=" if order.dimension else "≥", unit="dimensions",
                detail=f"{order.function}, for {count(chunks, 'chunk')} of migration.reembed.collections; step 13 says first "
                "what they take",
            )  # fmt: skip

    def probe_writing(self) -> pd.DataFrame:
        """Write, read back, query and remove 200 random vectors of the source's dimension; the milliseconds of each."""
        judge_indexes(self.run, self._source, refuse=True)
        self._judge_function()
        dimension = max((i.dimension or 0 for i in self._source), default=0) or 8
        space = self._source[0].space
        rng = np.random.default_rng(self.run.parameters.validation.seed)
        vectors = rng.standard_normal((PROBE_CHUNKS, dimension), dtype=np.float32)
        # All of length 1: by inner product a longer vector would be nearer than the vector itself.
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        ids = [f"probe-{n}" for n in range(PROBE_CHUNKS)]
        batch = ChunkBatch(
            ids, [f"probe {n}" for n in range(PROBE_CHUNKS)], vectors, [{"probe": n} for n in range(PROBE_CHUNKS)]
        )
        name = f"runbook-probe-{uuid.uuid4().hex[:12]}"
        seconds: dict[str, float] = {}
        with self._probe_target() as store:
            with _timed(seconds, "create"):
                store.create(CollectionInfo(name, 0, None, space, space, configuration={"hnsw": {"space": space}}))
            try:
                with _timed(seconds, "write"):
                    store.add(name, batch)
                with _timed(seconds, "read"):
                    back = store.read(name, ids)
                with _timed(seconds, "query"):
                    nearest = store.query(name, vectors[:1], 1)[0][0][0]
                trips = [_seconds(store.names) for _ in range(ROUNDS)]
                queries = [_seconds(partial(store.query, name, vectors[n : n + 1], 10)) for n in range(ROUNDS)]
            finally:
                with _timed(seconds, "remove"):
                    store.drop(name)
            dropped = name not in store.names()
        same = back.ids == ids and np.allclose(back.embeddings, vectors, rtol=1e-5) and nearest == ids[0]
        self.run.check(
            "write probe",
            Verdict.PASS if same else Verdict.FAIL,
            measured="read back as written" if same else "differs",
            threshold="read back as written",
            reason="" if same else ReasonCode.TARGET_UNSOUND,
            detail=f"{count(PROBE_CHUNKS, 'chunk')} written, read back, one searched",
        )
        self.run.check("write probes left behind", Verdict.PASS if dropped else Verdict.FAIL, measured=int(not dropped),
                       threshold=0, reason="" if dropped else ReasonCode.PROBE_LEFT_BEHIND,
                       detail=f"collection {name}")  # fmt: skip
        self._judge_latency(trips, queries)
        seconds |= {f"round trip, median of {ROUNDS}": median(trips), f"query, median of {ROUNDS}": median(queries)}
        self.run.fact("probe_write_chunks_per_second", PROBE_CHUNKS / max(seconds["write"], 1e-6))
        self.run.fact("probe_dimension", dimension)
        return pd.DataFrame([(k, round(v * 1000, 1)) for k, v in seconds.items()], columns=["action", "milliseconds"])

    def _judge_latency(self, trips: list[float], queries: list[float]) -> None:
        """Check the median latency of the queries: the first one also loads the index."""
        latency, limit = 1000 * median(queries), self.run.parameters.monitoring.maximum_latency_ms
        slow = latency > limit
        self.run.fact("target_latency_ms", {"round_trip": 1000 * median(trips), "query": latency})
        detail = f"median of {ROUNDS} queries of the probe; a bare request takes {1000 * median(trips):.1f} ms"
        self.run.check("latency", Verdict.WARNING if slow else Verdict.PASS, measured=round(latency, 1),
                       parameter="monitoring.maximum_latency_ms", threshold=limit, relation="≤",
                       unit="ms", reason=ReasonCode.SLOW_QUERIES if slow else "", detail=detail)  # fmt: skip

    def disk(self) -> pd.DataFrame:
        """Check free space, in bytes, against an estimate of what target, snapshots, staging and reports need; a row a disk."""
        vectors = sum(i.count * (i.dimension or 0) * 4 for i in self._source)
        # The dry run's throw-away target at 2.3 times, and staging, which needs little here where it goes to a storage.
        in_storage = self.run.parameters.migration.staging == "storage"
        needs = {self.run.workspace: int((2.3 if in_storage else 3) * vectors)}
        if self.run.parameters.migration.method == FILES:  # the source's copy, which is kept
            needs[self.run.workspace] += int(_PER_CHUNK * vectors)
        # Quarantined chunks as JSON, compressed.
        quarantined = int(3 * vectors * (1 - self.run.parameters.migration.minimum_valid))
        needs[self.run.folder] = _REPORTS + quarantined
        snapshots = self.run.parameters.snapshot.folder
        needs[snapshots] = needs.get(snapshots, 0) + 2 * vectors
        if self.target.path:
            folder = _existing(Path(self.target.path))
            needs[folder] = needs.get(folder, 0) + int(_PER_CHUNK * vectors)
        rows: list[tuple[str, float, int, bool]] = []
        devices: dict[int, list[tuple[Path, int]]] = {}
        for folder, need in needs.items():
            devices.setdefault(_existing(folder).stat().st_dev, []).append((folder, need))
        for uses in devices.values():
            need = sum(n for _, n in uses) + DISK_RESERVE
            least = max(LEAST_FREE, need) if vectors > 2**28 else need
            free = shutil.disk_usage(_existing(uses[0][0])).free
            ok, folders = free >= least, sorted(str(f) for f, _ in uses)
            self.run.check(
                "free disk" if len(devices) == 1 else f"free disk of {folders[0]}",
                Verdict.PASS if ok else Verdict.FAIL,
                measured=free,
                threshold=least,
                relation="≥",
                unit="bytes",
                reason="" if ok else ReasonCode.DISK_FULL,
                detail=", ".join(folders),
            )
            rows.append((", ".join(folders), free, least, ok))
        if not self.target.path:
            rows.append(self._attested(max(LEAST_FREE, int(_PER_CHUNK * vectors))))
        return pd.DataFrame(rows, columns=["disk of", "free bytes", "needed bytes", "enough"])

    def _attested(self, least: int) -> tuple[str, float, int, bool]:
        """The row of a server, which does not tell its free disk: a named person attests it (`expected.target_disk`)."""
        name, seen = "free disk of the target's server", self.run.parameters.expected.target_disk
        if seen is None:
            hint = f"A server does not tell its free disk: look there, {size(least)} at least"
            if self.run.earlier(Step.FENCE_WRITES) is None:
                options = "--retry 12 --set 'expected.target_disk={free_gb: GB, attested_by: NAME}'"
                hint += f", and say what you saw: {RUNBOOK} resume {self.run.id} {options}"
            self.run.check(
                name,
                Verdict.WARNING,
                measured="not known",
                reason=ReasonCode.DISK_UNKNOWN,
                unit="bytes",
                parameter="expected.target_disk",
                threshold=least,
                relation="≥",
                detail=hint,
            )
            return name, float("nan"), least, False
        free = int(seen.free_gb * 10**9)
        ok = free >= least
        self.run.check(name, Verdict.PASS if ok else Verdict.FAIL, measured=free,
                       parameter="expected.target_disk", threshold=least, relation="≥", unit="bytes",
                       reason="" if ok else ReasonCode.DISK_FULL, detail=f"attested by {seen.attested_by}")  # fmt: skip
        audit.append(self.run.folder / audit.NAME, "target disk attested", free_gb=seen.free_gb, by=seen.attested_by)
        return f"{name}, attested by {seen.attested_by}", free, least, ok

    def prerequisites(self) -> pd.DataFrame:
        """What steps 20 to 27 will need: files, commands, signers, health URLs, logs. Write nothing."""
        return CutoverReadiness(self.run).table()

    @property
    def _is_new(self) -> bool:
        return bool(self.target.path) and is_new(Path(str(self.target.path)))

    def _check_room_for_names(self, present: list[str]) -> None:
        names = [i.name for i in self._source]
        wanted = load_schema(self.run.parameters.schema_name).targets(names)
        ledger = self.run.workspace / RunPath.CHECKPOINT
        own = Checkpoint.read(ledger).owned() if ledger.exists() else []  # this step may be repeated after step 22
        refuse_taken(wanted, present, own, self.run.parameters, self.run.id)
        made_here = f"; made by this run: {', '.join(own)}" if own else ""
        self.run.check("collections in the way", Verdict.PASS, measured=0, threshold=0, unit="collections",
                       detail=(f"the target holds {', '.join(present[:20])}" if present else "") + made_here)  # fmt: skip

    @contextmanager
    def _probe_target(self) -> Iterator[Store]:
        if not self._is_new:
            opened = temporary_database(self.target) if self._lacks else nullcontext(self.target)
            with opened as place, open_target(place) as store:
                yield store
            return
        folder = make_ours(_existing(Path(str(self.target.path))) / f"{OURS}probe-{uuid.uuid4().hex[:8]}")
        try:
            usual = {"path": str(folder), "tenant": DEFAULT_TENANT, "database": DEFAULT_DATABASE}
            with open_embedded(folder, self.target.model_copy(update=usual), role="target", label=str(folder)) as store:
                yield store
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _named(holder: Mapping[str, Any] | None) -> str:
    """Who holds the target's lock, where and since when."""
    if not holder:
        return "nobody"
    return f"run {holder.get('run_id')} on host {holder.get('host', '?')}, since {holder.get('time', '?')}"


def _existing(path: Path) -> Path:
    """The nearest folder that exists: the path itself or one above it, which may be another volume."""
    return next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())


def _seconds(act: Callable[[], object]) -> float:
    begun = time.monotonic()
    act()
    return time.monotonic() - begun


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    begun = time.monotonic()
    yield
    seconds[name] = time.monotonic() - begun

"""Step 12: can the target take what the source holds? (Runbook, Section 1.3.)

The probe that writes goes into a collection of its own and is removed again; an embedded target that does not exist yet
is probed in a neighbouring folder on the same disk, so that the target stays untouched.
"""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from helpers.chunks import ChunkBatch
from helpers.migration.checkpoint import Checkpoint
from helpers.migration.importing import DISK_RESERVE
from helpers.results import Verdict
from helpers.run.record import RunRecord
from helpers.run.source import open_chosen
from helpers.schema import load_schema
from helpers.steps.night_needs import NightNeeds
from helpers.steps.preflight import chosen, refuse_taken
from helpers.stores import CollectionInfo, Store, open_embedded, open_target

PROBE_CHUNKS = 200
LEAST_FREE = 2 * 2**30  # bytes; the runbook's "at least 2 GB"
_PER_CHUNK = 3.0  # a Chroma directory weighs about 2.3 times its vectors (SQLite log and HNSW); measured on 1.5.9


class Readiness:
    """Tables to look at; each adds its checks to the step."""

    def __init__(self, run: RunRecord) -> None:
        self.run = run
        self.target = run.parameters.target

    @cached_property
    def _source(self) -> list[CollectionInfo]:
        with open_chosen(self.run) as store:
            return [store.info(name) for name in chosen(store.names(), self.run.parameters)]

    def reach(self) -> pd.DataFrame:
        """Where the target is, what it is, what it already holds, who locks it."""
        if self._is_new:
            rows = [("target", self.target.label), ("state", "a new folder; made by step 22"), ("collections", "0")]
            self.run.check("target reachable", Verdict.PASS, measured="new folder")
            return pd.DataFrame(rows, columns=["what", "found"])
        begun = time.monotonic()
        with open_target(self.target) as store:
            seconds = time.monotonic() - begun
            present, holder = store.names(), store.lock_holder()
            rows = [
                ("target", store.label),
                ("version it gives", store.version),
                ("time to open", f"{seconds * 1000:.0f} ms"),
                ("rows a write may carry", f"{store.limits().max_rows:,}"),
                ("bytes a write may carry", f"{store.limits().max_bytes:,}"),
                ("collections", str(len(present))),
                ("locked by", str(holder.get("run_id")) if holder else "nobody"),
            ]
        self.run.check("target reachable", Verdict.PASS, measured=seconds * 1000, unit="ms")
        other = bool(holder) and holder is not None and holder.get("run_id") != self.run.id
        self.run.check("target not locked", Verdict.FAIL if other else Verdict.PASS, measured=rows[-1][1],
                       reason="lock_held" if other else "")  # fmt: skip
        self._check_room_for_names(present)
        return pd.DataFrame(rows, columns=["what", "found"])

    def probe_writing(self) -> pd.DataFrame:
        """Write, read back, query and remove 200 random vectors of the source's dimension; how fast that went."""
        dimension = max((i.dimension or 0 for i in self._source), default=0) or 8
        space = self._source[0].space
        rng = np.random.default_rng(self.run.parameters.validation.seed)
        vectors = rng.standard_normal((PROBE_CHUNKS, dimension), dtype=np.float32)
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
            finally:
                with _timed(seconds, "remove"):
                    store.drop(name)
            gone = name not in store.names()
        same = back.ids == ids and np.allclose(back.embeddings, vectors, rtol=1e-5) and nearest == ids[0]
        self.run.check(
            "write probe",
            Verdict.PASS if same else Verdict.FAIL,
            measured="read back as written" if same else "differs",
            reason="" if same else "target_unsound",
            detail=f"{PROBE_CHUNKS} chunks written, read back, one searched",
        )
        self.run.check("write probe removed", Verdict.PASS if gone else Verdict.FAIL, measured=gone,
                       reason="" if gone else "probe_left_behind", detail=f"collection {name}")  # fmt: skip
        self.run.fact("probe_write_chunks_per_second", PROBE_CHUNKS / max(seconds["write"], 1e-6))
        self.run.fact("probe_dimension", dimension)
        return pd.DataFrame([(k, round(v * 1000, 1)) for k, v in seconds.items()], columns=["action", "milliseconds"])

    def disk(self) -> pd.DataFrame:
        """Free space against an estimate of what the target, the snapshots and the staging need."""
        vectors = sum(i.count * (i.dimension or 0) * 4 for i in self._source)
        here = {self.run.workspace: 4 * vectors}  # two snapshots, staging, the dry run's throw-away target at 2.3 times
        if self.target.path:
            folder = _existing(Path(self.target.path))
            here[folder] = here.get(folder, 0) + int(_PER_CHUNK * vectors)
        rows = []
        devices: dict[int, list[tuple[Path, int]]] = {}
        for folder, need in here.items():
            devices.setdefault(_existing(folder).stat().st_dev, []).append((folder, need))
        for uses in devices.values():
            need = sum(n for _, n in uses) + DISK_RESERVE
            least = max(LEAST_FREE, need) if vectors > 2**28 else need
            free = shutil.disk_usage(_existing(uses[0][0])).free
            ok = free >= least
            self.run.check("free disk", Verdict.PASS if ok else Verdict.FAIL, measured=free, threshold=least, unit="bytes",
                           reason="" if ok else "disk_full", detail=", ".join(sorted(str(f) for f, _ in uses)))  # fmt: skip
            rows.append((", ".join(sorted(str(f) for f, _ in uses)), free, least, ok))
        if not self.target.path:
            self.run.check(
                "free disk of the target's server", Verdict.WARNING, reason="disk_unknown", unit="bytes",
                threshold=max(LEAST_FREE, int(_PER_CHUNK * vectors)),
                detail="A server does not tell its free disk: look there, 2 GB at least.",
            )  # fmt: skip
        return pd.DataFrame(rows, columns=["disk of", "free bytes", "needed bytes", "enough"])

    def tonight(self) -> pd.DataFrame:
        """What steps 20 to 27 will need: files, commands, signers, health URLs, logs. Nothing is written."""
        return NightNeeds(self.run).table()

    @property
    def _is_new(self) -> bool:
        if not self.target.path:
            return False
        path = Path(self.target.path)
        return not path.exists() or (path.is_dir() and not any(path.iterdir()))

    def _check_room_for_names(self, present: list[str]) -> None:
        names = [i.name for i in self._source]
        wanted = load_schema(self.run.parameters.schema_name).targets(names)
        ledger = self.run.workspace / "checkpoint.json"
        own = Checkpoint.read(ledger).owned() if ledger.exists() else []  # looked at again after step 22
        refuse_taken(wanted, present, own, self.run.parameters)
        mine = f"; made by this run: {', '.join(own)}" if own else ""
        self.run.check("target holds none of the collections to be made", Verdict.PASS, measured=len(present),
                       detail=", ".join(present[:20]) + mine, unit="collections present")  # fmt: skip

    @contextmanager
    def _probe_target(self) -> Iterator[Store]:
        if not self._is_new:
            with open_target(self.target) as store:
                yield store
            return
        folder = _existing(Path(str(self.target.path))) / f".runbook-probe-{uuid.uuid4().hex[:8]}"
        try:
            with open_embedded(folder, self.target.model_copy(update={"path": str(folder)}), role="target",
                               label=str(folder)) as store:  # fmt: skip
                yield store
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _existing(path: Path) -> Path:
    """The nearest folder that exists, upwards; never the target itself when it is empty."""
    return next(p for p in (path.absolute().parent, *path.absolute().parents) if p.exists())


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    begun = time.monotonic()
    yield
    seconds[name] = time.monotonic() - begun

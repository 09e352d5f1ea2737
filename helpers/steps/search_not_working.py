"""Notebook 44: search does not work: vectors of another model, another distance space, or ids that the index does not find."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from helpers.chunks import ChunkBatch
from helpers.reason_codes import ReasonCode
from helpers.stores.client import ClientStore
from helpers.troubleshooting import NEAR, ProbeResult, StagedTroubleshooter, staged_chunks, unreachable_ids
from helpers.validation.search import named_queries

COLUMNS = [
    "target", "chunks", "dimension", "space", "other vectors", "median change", "probed", "beyond reach", "wrong", "says",
]  # fmt: skip
ANOTHER_MODEL = 0.5  # share of vectors that differ by more than half their length: too many for an accident


class SearchNotWorkingStep(StagedTroubleshooter):
    """Compares every vector with the staged one, and searches every id (or `probes` of each target) by its own vector.

    The repair deletes and adds again the chunks that differ or that the index does not find, and then probes each of them.
    """

    code = ReasonCode.SEARCH_NOT_EQUIVALENT
    kinds = (ReasonCode.VECTOR_DIFFERS,)
    probes = 2_000  # at most, for each target collection
    _unreachable: dict[str, list[str]] | None = None

    def look(self) -> ProbeResult:
        self.all_differences(refresh=True)
        self._unreachable = {}
        rows, staged = [], self.staged
        assert staged is not None
        with self.target() as (store, names):
            for name in sorted(staged.files):
                if store is not None and name in names and staged.rows(name):
                    rows.append(self._target(store, name))
        table = pd.DataFrame(rows, columns=COLUMNS)
        sentence = "; ".join(f"{name}: {says}" for name, says in table[["target", "says"]].to_numpy() if says)
        return ProbeResult(table, int(table["wrong"].sum()), sentence, "chunks")

    def _target(self, store: ClientStore, name: str) -> tuple[Any, ...]:
        info = store.info(name)
        differing = self.differences()
        other = set(differing[differing["target"] == name]["id"])
        change = self._median_change(store, name, other) if other else 0.0
        probed, lost = self._reach(store, name)
        assert self._unreachable is not None
        self._unreachable[name] = lost
        says = []
        if other:
            model = len(other) >= ANOTHER_MODEL * info.count and change > 0.5
            says.append("the vectors are of another model" if model else f"{len(other):,} vectors are others")
        if lost:
            says.append(f"{len(lost):,} of {probed:,} ids are not found by their own vector")
        expected = {i.space for i in self.snapshot.collections() if i.name == name}
        if expected and info.space not in expected:
            says.append(f"distances are {info.space}, the source's {', '.join(sorted(expected))}: migrate it again")
        affected = len(other | set(lost)) + bool(expected and info.space not in expected)
        shape = (info.count, info.dimension, info.space)
        return (name, *shape, len(other), change, probed, len(lost), affected, "; ".join(says))

    def _median_change(self, store: ClientStore, name: str, other: set[str]) -> float:
        """Median of |staged - target| / |staged| over at most 500 of the vectors that differ."""
        some, changes = set(sorted(other)[:500]), []
        staged = self.staged
        assert staged is not None
        for batch in staged_chunks(staged, self.quarantine, name):
            mine = batch.take([i for i, chunk in enumerate(batch.ids) if chunk in some])
            stored = store.read(name, mine.ids) if len(mine) else ChunkBatch.empty()
            where = {chunk: i for i, chunk in enumerate(stored.ids)}
            for i, chunk in enumerate(mine.ids):
                if chunk in where and stored.dimension == mine.dimension:
                    a = mine.embeddings[i].astype(np.float64)
                    gap = float(np.linalg.norm(a - stored.embeddings[where[chunk]]))
                    changes.append(gap / max(float(np.linalg.norm(a)), 1e-300))
        return round(float(np.median(changes)), 4) if changes else float("inf")

    def _reach(self, store: ClientStore, name: str) -> tuple[int, list[str]]:
        """(number of ids probed, evenly over the sorted ids; those that their own stored vector does not find)."""
        ids = sorted(store.ids(name))
        every = max(1, -(-len(ids) // self.probes))
        chosen = ids[::every]
        return len(chosen), unreachable_ids(store, name, chosen)

    def wrong_ids(self) -> dict[str, list[str]]:
        ids = super().wrong_ids()
        for name, lost in (self._unreachable or {}).items():
            ids[name] = sorted({*ids.get(name, []), *lost})
        return {name: some for name, some in ids.items() if some}

    def apply(self, **options: Any) -> pd.DataFrame:
        touched = self.wrong_ids()
        done = super().apply(**options)
        with self.target() as (store, _):
            assert store is not None
            unreachable = {name: unreachable_ids(store, name, ids) for name, ids in touched.items()}
        self.run.fact("touched_and_beyond_reach", unreachable)
        return done.assign(**{"beyond reach": [len(unreachable[name]) for name in done["target"]]})

    def queries(self) -> pd.DataFrame:
        """Ask the target the named text queries of the parameters."""
        with self.target() as (store, names):
            if store is None:
                return pd.DataFrame()
            spaces = {name: store.info(name).space for name in sorted(names)}
            return pd.DataFrame(named_queries(store, self.run.parameters, spaces, lambda _: sorted(names)))

    def ask(self, target: str, chunk: str, k: int = NEAR) -> pd.DataFrame:
        """The `k` nearest to one chunk's stored vector in a target: id, distance, document."""
        with self.target() as (store, _):
            assert store is not None
            answer = store.query(target, store.read(target, [chunk]).embeddings, k)[0]
            batch = store.read(target, [i for i, _ in answer], embeddings=False)
        documents = dict(zip(batch.ids, batch.documents, strict=True))
        return pd.DataFrame([(i, d, documents.get(i)) for i, d in answer], columns=["id", "distance", "document"])

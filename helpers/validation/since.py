"""What the dry run's baseline still says on the night: nothing of chunks that have another vector by then, or are gone.

A day lies between the two, and clients write. A pair of chunks has the distance that was measured only while both vectors
are the same; judged by an old one, a target that is right would be NO-GO.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from helpers.snapshot import Snapshot

_LISTS = ("plain", "over")
_NEAR = 1e-5  # of the vector's length: reads of one cosine vector differ by an ulp or two (chroma-facts 4)


def still_true(baseline: Mapping[str, Any], before: Snapshot, now: Snapshot) -> dict[str, Any]:
    """The baseline without probes and answers that no longer hold. `before` is the snapshot that it was measured with."""
    kept = dict(baseline["collections"])
    for name in sorted(set(kept) & set(before.names()) & set(now.names())):
        if [p.sha256 for p in before.parts(name)] == [p.sha256 for p in now.parts(name)]:
            continue
        probes = kept[name]["probes"]
        named = {r["id"] for r in probes} | {chunk for r in probes for key in _LISTS for chunk, _ in r[key]}
        was, has = _marks(before, name, named), _marks(now, name, named)
        same = {chunk for chunk in was.keys() & has.keys() if _alike(was[chunk], has[chunk])}
        kept[name] = {**kept[name], "probes": [_without(r, same) for r in probes if r["id"] in same]}
    return {**baseline, "collections": kept}


def _without(record: Mapping[str, Any], same: set[str]) -> dict[str, Any]:
    return {**record, **{key: [pair for pair in record[key] if pair[0] in same] for key in _LISTS}}


def _marks(snapshot: Snapshot, name: str, ids: set[str]) -> dict[str, np.ndarray]:
    """By id: the length of its vector and four projections of it, enough to tell vectors apart in little memory."""
    found: dict[str, np.ndarray] = {}
    for batch in snapshot.batches(name):
        rows = [at for at, chunk in enumerate(batch.ids) if chunk in ids]
        if rows:
            vectors = batch.embeddings[rows].astype(np.float64)
            onto = np.random.default_rng(vectors.shape[1]).standard_normal((vectors.shape[1], 4))
            marks = np.column_stack([np.linalg.norm(vectors, axis=1), vectors @ onto])
            found |= {batch.ids[at]: mark for at, mark in zip(rows, marks, strict=True)}
    return found


def _alike(a: np.ndarray, b: np.ndarray) -> bool:
    with np.errstate(invalid="ignore"):  # what is not finite is like nothing
        return bool(np.all(np.abs(a - b) <= _NEAR * max(a[0], b[0])))

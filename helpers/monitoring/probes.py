"""Which stored vectors are searched for after the cutover, and what is known of the answer before it is asked.

They are taken from what the run staged and validated, or from its snapshot, never from a database: so the first query is
really the first, and a changed target is distinguished from one that answers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from helpers.chunks import ChunkBatch
from helpers.migration.staging import Staged
from helpers.migration.written_data import WrittenData
from helpers.run.record import RunRecord
from helpers.snapshots.export_journal import read_parquet
from helpers.snapshots.snapshot import Snapshot, from_table
from helpers.stores import Reader, Space
from helpers.stores.client import ClientStore
from helpers.stores.limits import attempt

MOST_FILES = 4  # of a collection that probes are taken from, spread over it
T = TypeVar("T")
Vector = npt.NDArray[np.float32]
Hits = list[tuple[str, float]]
Asker = Callable[[Vector, int], Hits]
HITS = 5  # nearest neighbours asked for, as the runbook does


@dataclass(frozen=True, slots=True)
class Probe:
    """One stored vector (d,) of a collection: a search for it must find `id` first, or another at the same distance."""

    collection: str
    id: str
    vector: Vector


def of_target(run: RunRecord, per_collection: int) -> list[Probe]:
    """Of each target collection that the run filled, from what it staged. Raises `WorldError` (`staged_gone`)."""
    made = WrittenData(run)
    staged = made.require_staged()
    return [p for name in made.collections for p in _of_files(run, staged, name, per_collection)]


def _of_files(run: RunRecord, staged: Staged, name: str, number: int) -> list[Probe]:
    files = [file for file, _, rows in staged.files.get(name, []) if rows]
    parts = [from_table(read_parquet(staged.folder / f).drop_columns(["source_id"])) for f in _spread(files)]
    return _choose(name, parts, number, run.parameters.validation.seed)


def of_snapshot(run: RunRecord, snapshot: Snapshot, per_collection: int) -> list[Probe]:
    """Of each collection of the source, from the snapshot that the target is held to."""
    found = []
    for name in snapshot.names():
        parts = [snapshot.read(part) for part in _spread(snapshot.parts(name))]
        found += _choose(name, parts, per_collection, run.parameters.validation.seed)
    return found


def _spread(items: Sequence[T]) -> list[T]:
    step = max(1, len(items) // MOST_FILES)
    return list(items[::step][:MOST_FILES])


def _choose(name: str, parts: Sequence[ChunkBatch], number: int, seed: int) -> list[Probe]:
    """So many chunks that have a vector, by a seeded draw."""
    if not parts:
        return []
    whole = ChunkBatch.concatenate(list(parts))
    rows = np.flatnonzero(~whole.lost)
    drawn = np.sort(np.random.default_rng(seed).permutation(rows)[:number])
    return [Probe(name, whole.ids[i], whole.embeddings[i]) for i in drawn]


def asker(store: Reader, name: str) -> Asker:
    """A search of this collection, best hit first, without a second try. Its handle is fetched once, as applications do."""
    if not isinstance(store, ClientStore):
        return lambda vector, k: store.query(name, vector[None, :], k)[0]
    where = f"collection {name} of {store.label}"
    collection = attempt(lambda: store.client.get_collection(name, embedding_function=None), where)

    def ask(vector: Vector, k: int) -> Hits:
        answer = store.requests.send(
            lambda: collection.query(query_embeddings=vector[None, :], n_results=k, include=["distances"]),
            where,
            again=False,
        )
        distances = (answer["distances"] or [[]])[0]
        return [(i, float(d)) for i, d in zip(answer["ids"][0], distances, strict=True)]

    return ask


def warm(store: Reader, probes: Sequence[Probe]) -> dict[str, Asker]:
    """Searches by collection of these probes; each has answered once, so that what is timed next opens and loads nothing."""
    asks: dict[str, Asker] = {}
    for probe in probes:
        if probe.collection not in asks:
            ask = asker(store, probe.collection)
            ask(probe.vector, HITS)
            asks[probe.collection] = ask
    return asks


def timed(ask: Asker, vector: Vector) -> tuple[Hits, float]:
    """The hits and the latency in milliseconds: the one definition of it, in 25, 50 and 51.

    One query for a stored vector and its `HITS` nearest ids with distances, from the call to the answer in Python's hands.
    The connection is open; unless a cold start is measured, `warm` has asked the collection before.
    """
    begun = time.perf_counter()
    hits = ask(vector, HITS)
    return hits, 1000 * (time.perf_counter() - begun)


def own_distance(vector: Vector, space: Space) -> float:
    """The distance of a stored vector to itself as Chroma has it: 0 for l2 and cosine, 1 - v·v for ip."""
    return 1.0 - float(np.dot(vector, vector)) if space == "ip" else 0.0


def finds(probe: Probe, hits: Hits, space: Space) -> bool:
    """Whether the answer is right: the chunk itself comes first, or another that lies as near."""
    if not hits or not np.isfinite(hits[0][1]):
        return False
    own = own_distance(probe.vector, space)
    return hits[0][0] == probe.id or hits[0][1] <= own + 1e-5 * max(1.0, abs(own))

"""Which stored vectors are searched for after the cutover, and what is known of the answer before it is asked.

They are taken from what the run staged and validated, or from its snapshot, never from a database: so the first query is
really the first, and a changed target is distinguished from one that answers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from helpers.chunks import ChunkBatch
from helpers.migration.written_data import WrittenData
from helpers.run.record import RunRecord
from helpers.snapshots.export_journal import read_parquet
from helpers.snapshots.snapshot import from_table
from helpers.stores import Reader, Space
from helpers.stores.client import ClientStore
from helpers.stores.limits import attempt

SOURCE, TARGET = "source", "target"
_FILES = 4  # of a collection that probes are taken from, spread over it
T = TypeVar("T")
Vector = npt.NDArray[np.float32]
Hits = list[tuple[str, float]]
Asker = Callable[[Vector, int], Hits]
HITS = 5  # nearest neighbours asked for, as the runbook does
# The one definition, in 25, 50 and 51; what opening and first queries take is a cold start, which is given apart.
LATENCY = (
    f"one query for a stored vector and its {HITS} nearest, from call to answer, warm: open, and asked once before"
)


@dataclass(frozen=True, slots=True)
class Probe:
    """One stored vector (d,) of a collection: a search for it must find `id` first, or another at the same distance."""

    collection: str
    id: str
    vector: Vector


def choose(run: RunRecord, side: str, number: int) -> list[Probe]:
    """So many stored vectors of each collection, by a seeded draw over at most four files of it.

    `TARGET`: of the collections that the run filled, from what it staged; raises `WorldError` (`staged_gone`). `SOURCE`: of
    the snapshot that the target is held to, [] where the run has taken none.
    """
    made, seed, found = WrittenData(run), run.parameters.validation.seed, []
    parts: dict[str, Iterator[ChunkBatch]] = {}
    if side == TARGET:
        staged = made.require_staged()
        for name in made.collections:
            files = [file for file, _, rows in staged.files.get(name, []) if rows]
            parts[name] = (from_table(read_parquet(staged.folder / file)) for file in _spread(files))
    elif made.snapshot is not None:
        parts = {name: map(made.snapshot.read, _spread(made.snapshot.parts(name))) for name in made.snapshot.names()}
    for name, batches in parts.items():
        whole = ChunkBatch.concatenate(list(batches))
        drawn = np.sort(np.random.default_rng(seed).permutation(np.flatnonzero(~whole.lost))[:number])
        found += [Probe(name, whole.ids[i], whole.embeddings[i]) for i in drawn]
    return found


def _spread(items: Sequence[T]) -> Sequence[T]:
    return items[:: max(1, len(items) // _FILES)][:_FILES]


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
    """The hits and the latency in milliseconds, as `LATENCY` says. Unless a cold start is measured, `warm` goes before it."""
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

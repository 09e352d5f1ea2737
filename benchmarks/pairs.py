"""The pairs: A is the baseline, B what the toolkit does. Each function does the work once and returns its seconds."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from benchmarks.ground import Ground, clock
from benchmarks.outage import writers_out
from helpers.parameters.endpoint import Endpoint
from helpers.stores import open_target
from tests.servers import client_of

Way = Callable[[Ground], float]


@dataclass(frozen=True, slots=True)
class Pair:
    name: str
    says_a: str
    a: Way
    says_b: str
    b: Way


def naive(ground: Ground) -> float:
    """The script that everybody writes first: get(limit, offset), then upsert, one after the other, 100 at a time."""
    taken: list[float] = []
    with ground.target() as (url, _), client_of(ground.server.url) as source, client_of(url) as target, clock(taken):
        for old in source.list_collections():
            new = target.create_collection(old.name, embedding_function=None)
            for offset in range(0, old.count(), 100):
                some = old.get(limit=100, offset=offset, include=["documents", "metadatas", "embeddings"])
                new.upsert(some["ids"], some["embeddings"], some["metadatas"], some["documents"])
    return taken[0]


def toolkit(ground: Ground) -> float:
    """Snapshot, staging and import, as steps 21 and 22 do them; without the proofs, which the script has none of."""
    taken: list[float] = []
    with ground.target() as (url, folder), open_target(Endpoint(url=url)) as store, clock(taken):
        snapshot = ground.take_snapshot(folder, readers=2)
        ground.write(store, ground.stage(snapshot, folder), folder)
    return taken[0]


def snapshot(ground: Ground, readers: int) -> float:
    taken: list[float] = []
    folder = ground.new_folder()
    with clock(taken):
        ground.take_snapshot(folder, readers=readers)
    shutil.rmtree(folder)
    return taken[0]


def write(ground: Ground, batch_size: int, workers: int) -> float:
    taken: list[float] = []
    with ground.target() as (url, folder), open_target(Endpoint(url=url)) as store, clock(taken):
        ground.write(store, ground.staged, folder, batch_size=batch_size, workers=workers)
    return taken[0]


def transform(ground: Ground, schema: str) -> float:
    taken: list[float] = []
    folder = ground.new_folder()
    with clock(taken):
        ground.stage(ground.snapshot, folder, schema)
    shutil.rmtree(folder)
    return taken[0]


PAIRS = [
    Pair("migration", "get(limit, offset) and upsert", naive, "snapshot, stage, import", toolkit),
    Pair("reading", "1 reader", partial(snapshot, readers=1), "2 readers", partial(snapshot, readers=2)),
    Pair(
        "batches", "batches of 100", partial(write, batch_size=100, workers=1),
        "batches of 500", partial(write, batch_size=500, workers=1),
    ),
    Pair(
        "writers", "1 worker", partial(write, batch_size=500, workers=1),
        "4 workers", partial(write, batch_size=500, workers=4),
    ),
    Pair(
        "transform", "schema if_ttt", partial(transform, schema="if_ttt"),
        "schema identity", partial(transform, schema="identity"),
    ),
    Pair(
        "outage", "fence.when: start", partial(writers_out, when="start"),
        "fence.when: cutover", partial(writers_out, when="cutover"),
    ),
]  # fmt: skip

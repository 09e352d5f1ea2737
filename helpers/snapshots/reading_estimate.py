"""What it takes to read a whole server: requests, minutes, bytes and, of Chroma Cloud, money; measured on a sample first.

The sample is one request's worth of the largest collections. The figures are for one reading; 11, 13, 21, the catch-up of
22 and the proof of 25 each read the source.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from helpers.formatting import count, duration, size
from helpers.parameters import Parameters
from helpers.run.plan import Step
from helpers.run.record import RunRecord
from helpers.snapshots.snapshot import part_rows
from helpers.stores import CollectionInfo, Reader

FACT = "reading_estimate"
SAMPLED = 5  # collections
GIB, TIB = 2**30, 2**40
# docs.trychroma.com/cloud/pricing as of August 2026, in US dollars
PER_GIB_RETURNED, PER_TIB_QUERIED = 0.09, 0.0075
PRICES = "docs.trychroma.com/cloud/pricing, August 2026; check them, they may have changed"


@dataclass(frozen=True, slots=True)
class Estimate:
    """One reading of all collections: `bytes` as they come over the network, `seconds` at the sample's pace."""

    chunks: int
    requests: int
    seconds: float
    bytes: int
    sampled: int  # chunks
    readers: int

    def sentence(self) -> str:
        """For a person, before it is read."""
        return (
            f"{count(self.requests, 'request')}, about {duration(self.seconds)}, about {size(self.bytes)} read "
            f"at the pace of {count(self.sampled, 'chunk')} sampled"
        )

    def fact(self) -> dict[str, Any]:
        return asdict(self)


def estimate(store: Reader, infos: Sequence[CollectionInfo], workers: int) -> Estimate:
    """Read a sample and reckon. Collections beyond the `SAMPLED` largest are taken to weigh, for their dimension, the same."""
    limits, usage = store.limits(), store.usage
    readers = limits.readers(min(2, workers))
    weights: list[tuple[float, float, float]] = []  # (bytes, seconds, dimension) a chunk
    sampled, requests, fetched, seconds, page = 0, 0, 0.0, 0.0, 0.0
    for number, info in enumerate(sorted(infos, key=lambda i: -i.count)):
        if not info.count:
            continue
        width = info.dimension or 0
        step = limits.read_step(width)
        if number < SAMPLED:
            begun = time.monotonic()
            ids = store.some_ids(info.name, step)
            page = time.monotonic() - begun  # seconds for a page of ids
            before, begun = usage.bytes, time.monotonic()
            store.read(info.name, ids)
            if ids:
                sampled += len(ids)
                weights.append(((usage.bytes - before) / len(ids), (time.monotonic() - begun) / len(ids), width))
        if not weights:
            continue
        near = min(weights, key=lambda w: abs(w[2] - width)) if number >= SAMPLED else weights[-1]
        fetched += near[0] * info.count
        pages = math.ceil(info.count / limits.page_rows)
        seconds += near[1] * info.count + page * pages
        rows = part_rows(width, limits.read_rows)
        parts, last = divmod(info.count, rows)
        requests += parts * (1 + math.ceil(rows / step)) + (1 + math.ceil(last / step) if last else 0)
        requests += 2 + pages
    return Estimate(sum(i.count for i in infos), requests, round(seconds / readers, 1), int(fetched), sampled, readers)


def of_run(run: RunRecord, store: Reader, names: Sequence[str]) -> Estimate:
    """What step 10 of this run measured; only where it did not, a sample is read (and paid for) again."""
    health = run.earlier(Step.SOURCE_HEALTH)
    known = health.facts.get(FACT) if health else None
    found = (
        Estimate(**known) if known else estimate(store, list(map(store.info, names)), run.parameters.migration.workers)
    )
    run.fact(FACT, found.fact())
    return found


def table(found: Estimate, store_limits: dict[str, int], learnt: Sequence[str], parameters: Parameters) -> pd.DataFrame:
    """One row a fact: what one reading takes, within which limits, and what Cloud charges for it."""
    rows = [
        ("requests", f"{found.requests:,}"),
        ("time", f"about {duration(found.seconds)} with {count(found.readers, 'reader')}, if nobody else asks"),
        ("read over the network", f"about {size(found.bytes)}"),
        ("measured on", count(found.sampled, "chunk")),
    ]
    rows += [(f"limit: {name.replace('_', ' ')}", f"{value:,}") for name, value in store_limits.items()
             if name in ("read_rows", "page_rows", "query_results", "query_vectors", "concurrent_reads")]  # fmt: skip
    rows += [("learnt from a refusal", sentence) for sentence in learnt]
    if parameters.source.is_cloud:
        rules = parameters.validation
        searched = 2 * rules.probes * found.bytes
        read, asked = found.bytes / GIB * PER_GIB_RETURNED, searched / TIB * PER_TIB_QUERIED
        rows += [
            (
                "price of one reading",
                f"about ${read:,.2f}: {found.bytes / GIB:,.3f} GiB × ${PER_GIB_RETURNED} per GiB returned",
            ),
            (
                "price of the probes",
                f"about ${asked:,.2f}: {2 * rules.probes} queries a collection × ${PER_TIB_QUERIED} per TiB",
            ),
            ("prices from", PRICES),
        ]
    return pd.DataFrame({"value": pd.Series(dict(rows), dtype=object)})

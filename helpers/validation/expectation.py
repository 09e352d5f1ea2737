"""What a target is held to, and one part of it against what the target gives back: here, or by a worker of Dask."""

from __future__ import annotations

import datetime
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from helpers.chunks import ChunkBatch
from helpers.migration.reembedding import as_written
from helpers.migration.staging import Shared
from helpers.parameters import Parameters
from helpers.reason_codes import ReasonCode
from helpers.run.executor import Order, Workers, opened
from helpers.schema import Context, Schema, Transformed
from helpers.schema.rules import over_limits
from helpers.snapshots import comparison as compare
from helpers.snapshots.comparison import Measures, WrongVectors
from helpers.snapshots.export_journal import Part, ahead
from helpers.snapshots.snapshot import Snapshot
from helpers.stores import CollectionInfo, Space, Store
from helpers.stores.limits import known_of

_AHEAD = 8  # parts of both sides that the run holds, 25 MB each; it takes them in no faster than five workers give them
REFUSED = ReasonCode.REFUSED_BY_TARGET  # believed: nobody here can repeat what the target said


def unexcused(
    schema: Schema, moved: Transformed, aside: Sequence[tuple[int, str]], context: Context, parameters: Parameters,
    source: CollectionInfo,
) -> list[tuple[int, str]]:  # fmt: skip
    """Those of `aside` (position, reason given) with which schema and vector checks find nothing wrong."""
    if not (checked := [(position, reason) for position, reason in aside if reason != REFUSED]):
        return []
    dimensions = parameters.expected.dimensions
    failures = schema.failures(
        moved, context, dimension=source.dimension, allowed_dimensions=dimensions, space=source.space
    )
    failing = {*failures["id"], *over_limits(moved.batch, moved.source_ids, "", known_of(parameters.target))["id"]}
    out = set(failures["id"][failures["reason"] == ReasonCode.LEFT_OUT])
    return [
        (position, reason)
        for position, reason in checked
        if moved.source_ids[position] not in (out if reason == ReasonCode.LEFT_OUT else failing)
    ]


@dataclass(frozen=True, slots=True)
class Expectation:
    """What a target is held to. `quarantined` maps (collection, source id) to the reason."""

    snapshot: Snapshot
    schema: Schema
    parameters: Parameters
    date: datetime.date
    quarantined: Mapping[tuple[str, str], str]
    baseline: Mapping[str, Any] | None = None
    reembedded: Path | None = None  # the folder of vectors made anew, where some were ordered

    def written(self) -> Snapshot:
        """The snapshot as the target must hold it: lost vectors replaced by those that were made for them."""
        return self.snapshot if self.reembedded is None else as_written(self.snapshot, self.reembedded)

    def context(self) -> Context:
        return Context.of(self.snapshot.names(), self.date, self.parameters.migration)


@dataclass(frozen=True, slots=True)
class Seen:
    """What a target collection gave for the chunks of a part, and how that differs: rows of `comparison.COLUMNS`."""

    found: ChunkBatch
    differences: list[tuple[Any, ...]]
    wrong: WrongVectors | None
    measures: Measures


@dataclass(frozen=True, slots=True)
class Judged:
    """A part as the snapshot has it and as it is to stand in the target; by target collection the positions that belong there,
    and what was seen of them, where the collection is there."""

    batch: ChunkBatch
    moved: Transformed
    groups: dict[str, list[int]]
    seen: dict[str, Seen] = field(default_factory=dict)


def judged(
    store: Store, schema: Schema, context: Context, name: str, batch: ChunkBatch, aside: Collection[str],
    spaces: Mapping[str, Space],
) -> Judged:  # fmt: skip
    """A part of source collection `name` against the target, whose collections have these `spaces`; without the ids `aside`."""
    moved = schema.transform(batch, name, context)
    groups: dict[str, list[int]] = defaultdict(list)
    for position, chunk in enumerate(moved.source_ids):
        if chunk not in aside:
            groups[moved.targets[position]].append(position)
    found = Judged(batch, moved, dict(groups))
    for target, positions in sorted(groups.items()):
        if target in spaces:
            pair = next(compare.compared(store, target, [moved.batch.take(positions)], spaces[target]))
            rows = list(pair.differences.itertuples(index=False, name=None))
            found.seen[target] = Seen(pair.actual, rows, pair.wrong, pair.measured())
    return found


def judged_away(
    workers: Workers, of: Expectation, context: Context, name: str, aside: Collection[str], spaces: Mapping[str, Space]
) -> Iterator[Judged]:
    """As `judged`, part by part in order, done by workers."""
    shared, rest = Shared.of(workers, of.snapshot, of.schema, of.reembedded), (name, frozenset(aside), dict(spaces))
    given, most = (_judged, workers.order, shared), min(_AHEAD, workers.at_once)
    yield from ahead(lambda part: workers.call(*given, part, context, *rest), of.snapshot.parts(name), most)


def _judged(order: Order, shared: Shared, part: Part, context: Context, name: str, *rest: Any) -> Judged:
    return judged(opened(order, "target"), shared.schema, context, name, shared.read(part), *rest)

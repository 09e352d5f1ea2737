"""Whether quarantined chunks are rightly in quarantine: judged anew, so that nothing hides there."""

from __future__ import annotations

from collections.abc import Sequence

from helpers.parameters import Parameters
from helpers.schema import Context, Schema, Transformed
from helpers.stores import CollectionInfo

REFUSED = "refused_by_target"  # believed: nobody here can repeat what the target said


def unexcused(
    schema: Schema,
    moved: Transformed,
    aside: Sequence[tuple[int, str]],
    context: Context,
    parameters: Parameters,
    source: CollectionInfo,
) -> list[tuple[int, str]]:
    """Those of `aside` (position in the batch, reason given) with which schema and vector checks find nothing wrong."""
    checked = [(position, reason) for position, reason in aside if reason != REFUSED]
    if not checked:
        return []
    failures = schema.failures(
        moved,
        context,
        dimension=source.dimension,
        allowed_dimensions=parameters.expected.dimensions,
        space=source.space,
    )
    failing = set(failures["id"])
    return [(position, reason) for position, reason in checked if moved.source_ids[position] not in failing]

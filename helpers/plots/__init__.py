"""Every figure of the toolkit: plain numbers in, a matplotlib Figure out.

Each title is a sentence computed from the data. Thresholds are drawn and named, units are on the axes, colour-blind readers can
distinguish the colours, and names from the source are cut and escaped. No figure fails on an empty table, a
single point or a NaN; where there is nothing to draw, the figure says so. `save` writes the same bytes each time.

The figures live by topic in the modules beside this one; this is their one public name. matplotlib takes a second to import: so
they are imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from helpers.plots.search import (
        Node,
        completeness_before_after,
        completeness_heatmap,
        counts_by_collection,
        decision_tree,
        differences_bar,
        neighbour_distances,
        overlap_heatmap,
        recall_by_collection,
        repairs_bar,
        routing,
    )
    from helpers.plots.style import drawn, png, save, svg
    from helpers.plots.time import (
        Bar,
        Panel,
        durations,
        latency_cdf,
        performance,
        phase_timeline,
        plan_and_reality,
        rows_over_time,
        throughput_per_batch,
        watch_timeline,
    )
    from helpers.plots.vectors import (
        collection_portrait,
        distance_ecdf,
        field_values,
        norms_before_after,
        norms_histogram,
        pca_map,
        pca_overlay,
    )

__all__ = [
    "Bar",
    "Node",
    "Panel",
    "collection_portrait",
    "completeness_before_after",
    "completeness_heatmap",
    "counts_by_collection",
    "decision_tree",
    "differences_bar",
    "distance_ecdf",
    "drawn",
    "durations",
    "field_values",
    "latency_cdf",
    "neighbour_distances",
    "norms_before_after",
    "norms_histogram",
    "overlap_heatmap",
    "pca_map",
    "pca_overlay",
    "performance",
    "phase_timeline",
    "plan_and_reality",
    "png",
    "recall_by_collection",
    "repairs_bar",
    "routing",
    "rows_over_time",
    "save",
    "svg",
    "throughput_per_batch",
    "watch_timeline",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        modules = (import_module(f"helpers.plots.{topic}") for topic in ("search", "style", "time", "vectors"))
        return next(getattr(module, name) for module in modules if hasattr(module, name))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

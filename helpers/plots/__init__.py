"""Every figure of the toolkit: plain numbers in, a matplotlib Figure out.

Each title is a sentence computed from the data. Thresholds are drawn and named, units are on the axes, colour-blind readers can
distinguish the colours, and names from the source are cut and escaped. No figure fails on an empty table, a single point or a
NaN; where there is nothing to draw, it says so. matplotlib takes a second to import, so the modules are imported on first use.
"""

from __future__ import annotations

import sys
from contextlib import chdir
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from helpers.plots.search import *  # noqa: F403
    from helpers.plots.style import *  # noqa: F403
    from helpers.plots.time import *  # noqa: F403
    from helpers.plots.vectors import *  # noqa: F403


def __getattr__(name: str) -> Any:
    for topic in () if name.startswith("_") else ("search", "style", "time", "vectors"):
        if (module := sys.modules.get(f"{__name__}.{topic}")) is None:
            # matplotlib reads a `matplotlibrc` in the current folder, which may be another user's
            with chdir(Path(__file__).parent):
                module = import_module(f"{__name__}.{topic}")
        if hasattr(module, name):
            return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

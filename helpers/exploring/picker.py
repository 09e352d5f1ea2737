"""A list to choose a collection from, and below it what belongs to the chosen one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets as widgets  # type: ignore[import-untyped,unused-ignore]

from helpers.errors import RunbookError, one_line

Draw = Callable[[str], list[dict[str, Any]]]


class Picker:
    """`choice` is the drop-down, `shown` the outputs below it, `box` both: what a cell displays.

    The outputs are set whole, not written by a captured cell: what stands there belongs to the choice, always.
    """

    def __init__(self, names: Sequence[str], draw: Draw) -> None:
        self._draw = draw
        self.choice = widgets.Dropdown(
            options=[(one_line(name, 80), name) for name in names],
            description="Collection",
            layout=widgets.Layout(width="32em"),
        )
        self.shown = widgets.Output()
        self.choice.observe(self._chosen, names="value")
        self.box = widgets.VBox([self.choice, self.shown])
        self._chosen({"new": self.choice.value})

    def _chosen(self, change: Any) -> None:
        try:
            self.shown.outputs = tuple(self._draw(change["new"]))
        except RunbookError as error:
            self.shown.outputs = ({"output_type": "stream", "name": "stderr", "text": f"{error}\n"},)

"""A figure that is drawn again in its place while a person watches; the runner, which nobody watches, gets the last one."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from matplotlib.figure import Figure

from helpers import plots
from helpers.run import kernel

MOST_OFTEN = 2.0  # seconds


class LiveFigure:
    """`show` draws at most every two seconds, in a kernel that no runner started."""

    def __init__(self) -> None:
        self._handle: Any = None
        self._shown = float("-inf")

    def show(self, draw: Callable[[], Figure]) -> None:
        shell = kernel.shell()
        now = time.monotonic()
        if shell is None or not hasattr(shell, "kernel") or kernel.under_runner() or now - self._shown < MOST_OFTEN:
            return
        from IPython.display import Image, display

        self._shown = now
        image = Image(data=plots.png(draw()), format="png")  # type: ignore[no-untyped-call]
        if self._handle is None:
            self._handle = display(image, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(image)

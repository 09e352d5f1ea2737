"""Progress of long work, as the code that does it sees it: something to tell how far it came.

Who shows it (a terminal bar, a notebook line, nobody) is decided above; see `record`.
"""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """`advance` may raise `errors.Interrupted`: the operator asked to stop, and the work in hand is consistent."""

    def advance(self, n: int = 1) -> None: ...


class Silent:
    """Progress that nobody watches."""

    def advance(self, n: int = 1) -> None:
        """Nothing."""


silent = Silent()

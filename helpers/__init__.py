"""Take a Chroma database through a production migration: the package behind the notebooks and the `runbook` command.

Notebooks call `begin`; everything else they need hangs on what it returns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from helpers.runner.notebook import begin

__all__ = ["begin"]


def __getattr__(name: str) -> Any:
    """`begin`, on first use: importing the package, or one module of it, stays cheap."""
    if name == "begin":
        from helpers.runner.notebook import begin

        return begin
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

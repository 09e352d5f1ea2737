"""Take a Chroma database through a production migration: the package behind the notebooks and the `runbook` command.

Notebooks call `begin`; everything else they need hangs on what it returns.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from helpers.runner.notebook import begin

__all__ = ["begin"]


def _lend_a_home() -> None:
    """In a container whose user has neither HOME nor an account, Chroma's client cannot even be imported: such a process,
    and the kernels that it starts, get an empty private folder for its time.
    """
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = tempfile.mkdtemp(prefix="runbook-home-")
        atexit.register(shutil.rmtree, os.environ["HOME"], ignore_errors=True)


_lend_a_home()


def __getattr__(name: str) -> Any:
    """`begin`, on first use: importing the package, or one module of it, stays cheap."""
    if name == "begin":
        from helpers.runner.notebook import begin

        return begin
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

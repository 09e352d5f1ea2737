"""Take a Chroma database through a production migration: the package behind the notebooks and the `runbook` command.

Notebooks call `begin`; everything else they need hangs on what it returns.
"""

from __future__ import annotations

import atexit
import os
import shutil
import stat
import sys
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


def _own_bytecode() -> None:
    """Compiled modules are kept in a folder of this user's, for each interpreter one, and read from nowhere else, here and in
    the processes that we start: whoever can write a `__pycache__` beside the sources or the libraries decides nothing.

    Where that folder is not this user's alone, a new one serves this process and those that it starts.
    """
    if sys.pycache_prefix is not None:
        return
    name = f"{sys.implementation.cache_tag}-{sys.hexversion:x}"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "chroma-migration" / name
    try:
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        about = cache.lstat()
        ours = stat.S_ISDIR(about.st_mode) and about.st_uid == os.geteuid() and not about.st_mode & 0o022
    except OSError:
        ours = False
    if not ours:
        cache = Path(tempfile.mkdtemp(prefix="runbook-bytecode-"))
        atexit.register(shutil.rmtree, cache, ignore_errors=True)
    sys.pycache_prefix, sys.dont_write_bytecode = str(cache), False
    os.environ["PYTHONPYCACHEPREFIX"] = str(cache)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


_lend_a_home()
_own_bytecode()


def __getattr__(name: str) -> Any:
    """`begin`, on first use: importing the package, or one module of it, stays cheap."""
    if name == "begin":
        from helpers.runner.notebook import begin

        return begin
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

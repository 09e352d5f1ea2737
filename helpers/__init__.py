"""Take a Chroma database through a production migration: the package behind the notebooks and the `runbook` command.

Notebooks call `begin`; what it returns gives them everything else.
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
    """Give this process and its children an empty private folder as HOME, until it ends, where the user has neither HOME nor an
    account, as in a container: Chroma's client cannot be imported without one.
    """
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = tempfile.mkdtemp(prefix="runbook-home-")
        atexit.register(shutil.rmtree, os.environ["HOME"], ignore_errors=True)


def _own_bytecode() -> None:
    """Keep compiled modules in a folder of this user, one for each interpreter, and read them from nowhere else, here and in
    child processes: a `__pycache__` that others can write beside the sources or the libraries has no effect.

    Where others can write in that folder, or replace a folder above it, this process and its children use a new one.
    """
    if sys.pycache_prefix is not None and is_ours(Path(sys.pycache_prefix)):
        return
    name = f"{sys.implementation.cache_tag}-{sys.hexversion:x}"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "chroma-migration" / name
    try:
        for folder in (*reversed(cache.parents), cache):
            folder.mkdir(mode=0o700, exist_ok=True)
        cache.parent.chmod(0o700)
    except OSError:
        pass
    if not is_ours(cache):
        cache = Path(tempfile.mkdtemp(prefix="runbook-bytecode-"))
        atexit.register(shutil.rmtree, cache, ignore_errors=True)
    if not is_ours(cache):
        cache = Path(os.devnull)  # nothing can be below it: each process compiles again
    sys.pycache_prefix, sys.dont_write_bytecode = str(cache), False
    os.environ["PYTHONPYCACHEPREFIX"] = str(cache)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def is_ours(folder: Path) -> bool:
    """Whether only this user and the owner of the system can write in this folder, or replace it."""
    try:
        own, above = folder.lstat(), [place.stat() for place in {*folder.parents, *folder.resolve().parents}]
    except OSError:
        return False
    system = {0, os.geteuid(), Path("/").stat().st_uid}
    fixed = all(a.st_uid in system and (not a.st_mode & 0o022 or a.st_mode & stat.S_ISVTX) for a in above)
    return fixed and stat.S_ISDIR(own.st_mode) and own.st_uid == os.geteuid() and not own.st_mode & 0o022


_lend_a_home()
_own_bytecode()


def __getattr__(name: str) -> Any:
    """Import `begin` on first use, so that importing the package, or one module of it, stays cheap."""
    if name == "begin":
        from helpers.runner.notebook import begin

        return begin
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

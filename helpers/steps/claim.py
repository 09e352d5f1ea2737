"""The target is claimed before anybody's writes are stopped: a second run, from whichever machine, stops at step 20.

The claim is the lock that step 22 writes under; step 22 gives it back when every chunk has arrived. Until then it is given
back only where nothing of this run is in the target.
"""

from __future__ import annotations

from helpers.migration.checkpoint import Checkpoint
from helpers.migration.database import ensure_database, remove_made_database
from helpers.parameters import resolve_path
from helpers.run.folders import RunFolder
from helpers.stores import open_target
from helpers.stores.databases import lacking


def claim_target(folder: RunFolder) -> str:
    """Take the target's lock for this run, or keep it; the target's name. A database that is not there yet is made.

    Raises `Terminal` ("lock_held").
    """
    target = folder.parameters().target
    ensure_database(folder)
    with open_target(target) as store:
        store.acquire_lock(folder.id)
        return store.label


def give_back_target(folder: RunFolder) -> bool:
    """Give the lock back where this run holds it and has written nothing yet; whether that was so."""
    ledger = folder.workspace / "checkpoint.json"
    if ledger.exists() and Checkpoint.read(ledger).owned():
        return False
    target = folder.parameters().target
    if (target.path and not resolve_path(target.path).exists()) or lacking(target):
        return False
    with open_target(target) as store:
        holder = store.lock_holder() or {}
        store.release_lock(folder.id)
    remove_made_database(folder)
    return holder.get("run_id") == folder.id

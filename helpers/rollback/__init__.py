"""A rollback that loses nothing, causes no outage but the restart, and can itself be killed and repeated."""

from __future__ import annotations

from helpers.rollback.outline import Orders, RollbackState

__all__ = ["Orders", "RollbackState"]

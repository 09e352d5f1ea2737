"""The way back: a rollback that loses nothing, makes no outage but the restart, and can itself be killed and repeated."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from helpers.rollback.state import Orders, RollbackState

if TYPE_CHECKING:
    from helpers.rollback.stages import Rollback

__all__ = ["Orders", "Rollback", "RollbackState"]


def __getattr__(name: str) -> Any:
    """`Rollback`, on first use: who only asks how far a rollback is does not wait for Chroma's client."""
    if name == "Rollback":
        from helpers.rollback.stages import Rollback

        return Rollback
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

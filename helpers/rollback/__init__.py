"""The way back: a rollback that loses nothing, makes no outage but the restart, and can itself be killed and repeated."""

from helpers.rollback.stages import Rollback
from helpers.rollback.state import Orders, RollbackState

__all__ = ["Orders", "Rollback", "RollbackState"]

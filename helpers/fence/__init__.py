"""The write fence before the source: what puts it up, what proves it, what takes it away again."""

from helpers.fence.control import Control, FenceState, lift, takes_no_writes
from helpers.run.command import Holders, connections, used_by, who_has_open

__all__ = ["Control", "FenceState", "Holders", "connections", "lift", "takes_no_writes", "used_by", "who_has_open"]

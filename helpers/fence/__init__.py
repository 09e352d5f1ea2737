"""The write fence before the source: what puts it up, what proves it, what takes it away again."""

from helpers.fence.control import Control, FenceState, lift, takes_no_writes
from helpers.fence.nginx import Holders, connections, used_by, who_has_open
from helpers.fence.probe import Answer, Probe

__all__ = [
    "Answer", "Control", "FenceState", "Holders", "Probe", "connections", "lift", "takes_no_writes", "used_by", "who_has_open",
]  # fmt: skip

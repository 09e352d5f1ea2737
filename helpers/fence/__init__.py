"""The write fence before the source: what puts it up, what proves it, what takes it away again."""

from helpers.fence.control import Control, FenceState, lift, takes_no_writes
from helpers.fence.holders import Holders, who_has_open
from helpers.fence.probe import Answer, Probe

__all__ = ["Answer", "Control", "FenceState", "Holders", "Probe", "lift", "takes_no_writes", "who_has_open"]

"""The cutover: configuration files changed all or none, the application restarted and watched, and the way back."""

from helpers.cutover.back import put_back
from helpers.cutover.state import ChangedFile, CutoverState

__all__ = ["ChangedFile", "CutoverState", "put_back"]

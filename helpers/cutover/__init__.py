"""The cutover: configuration files changed all or none, the application restarted and watched, and undone."""

from helpers.cutover.application import (
    ChangedFile,
    CutoverState,
    clients_came,
    clients_switched,
    put_back,
    source_takes_writes,
)

__all__ = ["ChangedFile", "CutoverState", "clients_came", "clients_switched", "put_back", "source_takes_writes"]

"""Notices: who is notified of what, by which channel, with what result. A notice that fails never stops a migration."""

from helpers.notify.delivery import (
    DELIVERED,
    FAILED,
    NAME,
    Around,
    Delivery,
    Entry,
    Event,
    Notified,
    announcement,
    read,
    tell,
)

__all__ = [
    "DELIVERED",
    "FAILED",
    "NAME",
    "Around",
    "Delivery",
    "Entry",
    "Event",
    "Notified",
    "announcement",
    "read",
    "tell",
]

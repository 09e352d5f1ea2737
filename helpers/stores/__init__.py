"""Where chunks live: `open_source` and `open_target` give a store for an endpoint; `quick_names` looks without touching.

What opens a store brings Chroma's client, which takes seconds to import: so it is imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from helpers.stores.base import LOCK_COLLECTION, SPACES, CollectionInfo, Reader, Space, Store, distance
from helpers.stores.limits import Limits

if TYPE_CHECKING:
    from helpers.stores.opening import open_embedded, open_source, open_target, quick_holder, quick_names

__all__ = [
    "LOCK_COLLECTION",
    "SPACES",
    "CollectionInfo",
    "Limits",
    "Reader",
    "Space",
    "Store",
    "distance",
    "open_embedded",
    "open_source",
    "open_target",
    "quick_holder",
    "quick_names",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("helpers.stores.opening"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

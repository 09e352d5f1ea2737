"""Where chunks live: `open_source` and `open_target` give a store for an endpoint; `quick_names` looks without touching."""

from helpers.stores import door as door  # first: it imports Chroma without reading the environment
from helpers.stores.base import LOCK_COLLECTION, CollectionInfo, Reader, Store
from helpers.stores.limits import Limits
from helpers.stores.opening import open_embedded, open_source, open_target, quick_holder, quick_names
from helpers.stores.space import SPACES, Space, distance

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

"""A probe query: which distance space does a collection really answer in? What it declares may be wrong (chroma-facts 2)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from helpers.errors import Terminal
from helpers.stores.base import Reader
from helpers.stores.space import Space, consistent_spaces


def proven_spaces(store: Reader, name: str, sample: Sequence[str]) -> list[Space] | None:
    """The spaces that fit the distances of a probe query, or None where the collection cannot be probed.

    `sample` are some ids of the collection; the probe is made from the first of their vectors that can be used.
    """
    known = store.read(name, sample)
    usable = ~known.lost & np.isfinite(known.embeddings).all(axis=1) & known.embeddings.any(axis=1)
    if not usable.any():
        return None
    # A vector of no special length: on unit vectors cosine and ip, and l2 up to a factor, would look alike.
    vectors = known.embeddings[usable]
    tilt = np.linspace(0.5, 1.5, vectors.shape[1], dtype=np.float32)
    query = (vectors[0] * 3.0 * tilt).astype(np.float32)
    try:
        answer = store.query(name, query[None, :], 10)[0]
    except Terminal:
        return None
    near = store.read(name, [i for i, _ in answer])
    distances = dict(answer)
    fit = ~near.lost & np.isfinite(near.embeddings).all(axis=1) & near.embeddings.any(axis=1)
    if not fit.any():
        return None
    answered = [distances[i] for i, ok in zip(near.ids, fit, strict=True) if ok]
    return consistent_spaces(query, near.embeddings[fit], answered)

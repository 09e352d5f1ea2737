"""Searches in the source: by text, with each collection's own embedding function, or by a chunk that is there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from helpers.errors import RunbookError, Terminal, UsageError, one_line
from helpers.exploring.lookup import EXCERPT, Lookup
from helpers.exploring.places import Place

COLUMNS = ["collection", "id", "distance", "space", "document", "remark"]


def by_text(lookup: Lookup, collections: Sequence[str], text: str, k: int) -> pd.DataFrame:
    """The k chunks of each collection that lie nearest to the text, best first.

    A collection that cannot be asked has one row that says why. Distances of different collections can be compared where
    space and embedding function are the same.
    """
    reader = lookup.reader
    rows: list[dict[str, Any]] = []
    for name in collections:
        space = reader.info(name).space
        if why := reader.text_queries_available(name):
            rows.append(_remark(name, space, f"cannot be asked: {why}"))
            continue
        try:
            hits = reader.query_texts(name, [text], k)[0]
        except Terminal as error:  # the function is here and does not work: a service, a key, a model
            rows.append(_remark(name, space, f"cannot be asked: {error.what}"))
            continue
        rows += [
            {"collection": name, "id": i, "distance": d, "space": space, "document": (t or "")[:EXCERPT], "remark": ""}
            for i, d, t in hits
        ]
    return _sorted(rows)


def by_id(lookup: Lookup, collections: Sequence[str], chunk: str, home: str, k: int) -> pd.DataFrame:
    """The k chunks of each collection that lie nearest to this chunk's vector, best first; the chunk itself is left out.

    `home` is the collection that the chunk is in. Raises `UsageError` where it is in none of them, or has no vector to
    search with.
    """
    reader = lookup.reader
    batch = lookup.read(home, [chunk], embeddings=True)
    if not len(batch):
        raise UsageError(
            "chunk_unknown", f"no chunk {one_line(chunk, 80)}", where=f"collection {home}",
            next_step="Take an id from desk.sample.frame or from desk.behind(…).",
        )  # fmt: skip
    vector = batch.embeddings[0]
    if batch.lost[0] or not np.isfinite(vector).all():
        raise UsageError(
            "chunk_without_vector", f"chunk {one_line(chunk, 80)} has no vector that can be read",
            where=f"collection {home}", next_step="Take another chunk.",
        )  # fmt: skip
    rows: list[dict[str, Any]] = []
    for name in collections:
        info = reader.info(name)
        if info.dimension != len(vector):
            rows.append(_remark(name, info.space, f"has {info.dimension or 'no'} dimensions, the chunk {len(vector)}"))
            continue
        try:
            hits = reader.query(name, vector[None, :], k + (name == home))[0]
        except RunbookError as error:
            rows.append(_remark(name, info.space, f"cannot be asked: {error.what}"))
            continue
        others = [(i, d) for i, d in hits if (name, i) != (home, chunk)][:k]
        texts = lookup.chunks([Place(name, i) for i, _ in others])["document"]
        rows += [
            {"collection": name, "id": i, "distance": d, "space": info.space, "document": text or "", "remark": ""}
            for (i, d), text in zip(others, texts, strict=True)
        ]
    return _sorted(rows)


def _remark(name: str, space: str, why: str) -> dict[str, Any]:
    return {
        "collection": name,
        "id": "",
        "distance": np.nan,
        "space": space,
        "document": "",
        "remark": one_line(why, 300),
    }


def _sorted(rows: list[dict[str, Any]]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=COLUMNS)
    return table.sort_values(["distance", "collection", "id"], kind="stable", ignore_index=True)

"""The cases of step 52 as tests: pytest runs this file in a process of its own, against the live target. It never writes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from helpers.monitoring.integration_cases import Case
from helpers.stores.client import ClientStore

CASES = "RUNBOOK_CASES"


def _cases() -> list[Any]:
    path = os.environ.get(CASES)
    rows = json.loads(Path(path).read_text(encoding="utf-8")) if path else []
    return [pytest.param(Case.model_validate(row), id=f"{n + 1:03d}") for n, row in enumerate(rows)]


@pytest.mark.parametrize("case", _cases())
def test_case(case: Case, target_store: ClientStore) -> None:
    """The answer has what the case expects."""
    collection = target_store.client.get_collection(case.collection, embedding_function=None)
    asked: dict[str, Any] = {"n_results": case.k, "include": ["distances", "documents"]}
    asked |= {k: v for k in ("where", "where_document") if (v := getattr(case, k)) is not None}
    if case.text is not None:
        if why := target_store.text_queries_available(case.collection):
            pytest.skip(f"no text queries: {why}")
        answer = collection.query(query_embeddings=target_store.text_vectors(case.collection, [case.text]), **asked)
    else:
        vector: Any = case.embedding
        if case.like is not None:
            found = target_store.read(case.collection, [case.like])
            assert len(found), f"collection {case.collection} has no chunk {case.like}"
            vector = found.embeddings[0]
        answer = collection.query(query_embeddings=[vector], **asked)
    ids, documents = answer["ids"][0], (answer["documents"] or [[]])[0]
    distances = (answer["distances"] or [[]])[0]
    assert len(ids) >= case.expect.at_least, f"{len(ids)} hits, at least {case.expect.at_least} are expected"
    if case.expect.id is not None:
        assert _has(case, ids, distances), f"chunk {case.expect.id} is not among the {len(ids)} hits"
    if case.expect.word is not None:
        word = case.expect.word.casefold()
        assert any(word in (d or "").casefold() for d in documents), (
            f"no document of {len(ids)} hits holds {case.expect.word!r}"
        )
    if case.maximum_distance is not None:
        assert distances[0] <= case.maximum_distance, (
            f"the best hit is at {distances[0]:.4g}, beyond {case.maximum_distance:g}"
        )


def _has(case: Case, ids: list[str], distances: list[float]) -> bool:
    """Among the hits, or, for a chunk that is asked for by itself, as near as duplicates of it that crowd it out."""
    duplicates = case.like is not None and case.like == case.expect.id and max(distances) - min(distances) <= 1e-5
    return case.expect.id in ids or (duplicates and len(ids) == case.k)

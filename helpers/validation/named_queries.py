"""The runbook's text queries, asked of the collections whose own embedding function is at hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from helpers.parameters import Parameters
from helpers.stores.base import Reader
from helpers.stores.space import Space


def named_queries(
    store: Reader, parameters: Parameters, spaces: Mapping[str, Space], resolve: Callable[[str], Sequence[str]]
) -> list[dict[str, Any]]:
    """The runbook's text queries: answered well when a collection finds something, with the expected keyword in a
    document, and on cosine nearer than `maximum_distance` (a rule for cosine only).

    `spaces` are the store's collections; `resolve` turns the name that a query gives (a collection of the source) into
    names of the store. Where no collection can embed a text, the query is not applicable and `why` says so.
    """
    reasons = {name: store.text_queries_available(name) for name in spaces} if parameters.validation.queries else {}
    out = []
    for query in parameters.validation.queries:
        asked = query.collection
        names = (
            sorted(spaces)
            if asked is None
            else [asked]
            if asked in spaces
            else [n for n in resolve(asked) if n in spaces]
        )
        able = [n for n in names if not reasons[n]]
        row: dict[str, Any] = {"text": query.text, "expect": query.expect, "collection": asked, "ok": False}
        if not able:
            why = "; ".join(sorted({reasons[n] for n in names})) or f"no collection {asked}"
            out.append({**row, "applicable": bool(asked) and not names, "why": why})
            continue
        answers = [_text_answer(store, n, spaces[n], query.text, query.expect, parameters) for n in able]
        out.append(
            {**row, "applicable": True, **min(answers, key=lambda a: (not a["ok"], a["distance"], a["found_in"]))}
        )
    return out


def lost_queries(after: Sequence[dict[str, Any]], before: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The target's answers; a query that the source can be asked and the target cannot is a failed one, not a moot one."""
    could = {query["text"] for query in before if query["applicable"]}
    return [
        row
        if row["applicable"] or row["text"] not in could
        else {**row, "applicable": True, "why": f"the source can be asked this, the target cannot: {row['why']}"}
        for row in after
    ]


def _text_answer(
    store: Reader, name: str, space: Space, text: str, expect: str | None, parameters: Parameters
) -> dict[str, Any]:
    found = store.query_texts(name, [text], parameters.validation.k)[0] if store.count(name) else []
    nearest = min((d for _, d, _ in found), default=float("inf"))
    keyword = expect is None or any(expect.casefold() in (document or "").casefold() for _, _, document in found)
    limit = parameters.validation.maximum_distance
    why = ""
    if not found:
        why = "nothing found"
    elif not keyword:
        why = "the expected word is in none of the documents found"
    elif space == "cosine" and not nearest < limit:
        why = f"distance {nearest:.3f}, allowed below {limit}"
    first = found[0][0] if found else None
    return {
        "ok": not why,
        "why": why,
        "found": len(found),
        "distance": nearest,
        "found_in": name,
        "id": first,
        "keyword": keyword,
    }

"""The target's full-text index, asked for some documents: an import that counts right may leave `where_document` blind."""

from __future__ import annotations

from collections.abc import Sequence

from helpers.errors import WorldError
from helpers.results import Verdict
from helpers.run.record import RunRecord
from helpers.stores.client import ClientStore

CHECK = "full-text search finds documents"
_ASKED = 20  # documents a collection
_LENGTH = 24  # characters asked for; an index of trigrams answers from three on


def judge_fulltext(run: RunRecord, store: ClientStore, names: Sequence[str]) -> None:
    """Each of some documents of every target collection must be found by a part of its own text."""
    asked, missed, refused = 0, [], []
    for name in names:
        try:
            found, absent = probe_fulltext(store, name)
        except WorldError as error:  # a schema may have switched the index off
            refused.append(f"{name}: {error.what}")
            continue
        asked += found + len(absent)
        missed += [{"collection": name, "id": chunk} for chunk in absent]
    verdict = Verdict.FAIL if missed else Verdict.PASS if asked else Verdict.NOT_APPLICABLE
    run.result.checks[:] = [check for check in run.result.checks if check.name != CHECK]  # a cell may run twice
    run.check(
        CHECK, verdict, measured=len(missed), threshold=0, unit="documents", reason="fulltext_misses" if missed else "",
        detail="; ".join([f"{asked:,} documents asked for by a part of their text", *refused[:3]]), offenders=len(missed),
        ids=missed[:20],
    )  # fmt: skip


def probe_fulltext(store: ClientStore, name: str) -> tuple[int, list[str]]:
    """How many of some documents are found by a part of their text, and the ids of those that are not."""
    batch = store.read(name, store.some_ids(name, _ASKED), embeddings=False)
    found, missed = 0, []
    for chunk, document in zip(batch.ids, batch.documents, strict=True):
        piece = (document or "").partition("\0")[0][:_LENGTH]
        if len(piece) < 3:
            continue
        if store.document_contains(name, chunk, piece):
            found += 1
        else:
            missed.append(chunk)
    return found, missed

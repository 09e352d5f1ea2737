"""After an import the target's full-text index is asked for documents by their own text."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from helpers.stores.layout import DATABASE
from helpers.validation.properties import probe_fulltext
from tests.storage import chunks, embedded, fill


def test_documents_that_the_full_text_index_does_not_find_are_named(tmp_path: Path) -> None:
    batch = chunks(12)
    batch.documents[3:6] = [
        None,
        "ab",
        "with\0nul and more",
    ]  # none, too short to ask for, found by what is before the NUL
    with embedded(tmp_path / "target") as store:
        fill(store, "texts", batch)
        assert probe_fulltext(store, "texts") == (10, [])
    with closing(sqlite3.connect(tmp_path / "target" / DATABASE)) as db, db:
        db.execute("delete from embedding_fulltext_search where string_value in ('text 7 of c', 'text 9 of c')")
    with embedded(tmp_path / "target") as store:
        assert probe_fulltext(store, "texts") == (8, ["c7", "c9"])

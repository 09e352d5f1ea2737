"""A finding as a CSV file that a spreadsheet opens without doing what a chunk says."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from helpers.exploring.lookup import READ, Lookup
from helpers.exploring.places import Place

COLUMNS = ("collection", "id", "detail", "document", "metadata")
_FORMULA = tuple("=+-@＝＋－＠|%\t\r\n\x00")


def write_csv(path: Path, lookup: Lookup, places: Iterable[Place]) -> int:
    """One row for each place, with the whole document and the metadata as JSON; the number of rows.

    Whole or not at all; UTF-8 with its mark, so that spreadsheets read the letters right. Read in pieces: memory does not
    grow with the finding.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    rows = 0
    with temporary.open("w", encoding="utf-8-sig", errors="backslashreplace", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\r\n")
        writer.writerow(COLUMNS)
        for row in _rows(lookup, places):
            writer.writerow([harmless(value) for value in row])
            rows += 1
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    return rows


def _rows(lookup: Lookup, places: Iterable[Place]) -> Iterator[list[Any]]:
    left = iter(places)
    while piece := list(islice(left, READ)):
        frame = lookup.chunks(piece, excerpt=None)
        for row in frame.itertuples(index=False):
            metadata = "" if row.metadata is None else json.dumps(row.metadata, ensure_ascii=False, default=str)
            yield [row.collection, row.id, row.detail, row.document, metadata]


def harmless(value: Any) -> str:
    """A cell that is text and nothing else: what would begin a formula begins with an apostrophe, as spreadsheets write it."""
    text = "" if value is None else str(value).replace("\x00", "")
    return f"'{text}" if text.lstrip(" \u00a0").startswith(_FORMULA) or text.startswith("'") else text


def file_name(finding: str) -> str:
    """`11_<finding>.csv`."""
    return f"11_{file_stem(finding)}.csv"


def file_stem(name: str) -> str:
    """A foreign name in letters that every file system takes."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip("_.")[:80] or "unnamed"

"""Quarantine: every chunk that does not reach the target, whole, with the reason.

Two parts, each replaced or extended atomically: what the schema and the vector checks turned away (rewritten by every
staging, which is deterministic), and what the target itself refused (`add`, kept over a resume).
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from helpers.chunks import ChunkBatch
from helpers.results import write_text
from helpers.snapshot import to_table


class Quarantine:
    """The folder `quarantine/` of a run: an index of reasons and the chunks themselves as Parquet."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._guard = threading.Lock()

    def entries(self) -> list[dict[str, str]]:
        """`{collection, id, reason, detail}`, ids as in the source; one entry a chunk (its first reason), in order."""
        found: dict[tuple[str, str], dict[str, str]] = {}
        for entry in self._lines():
            found.setdefault((entry["collection"], entry["id"]), entry)
        return [found[key] for key in sorted(found)]

    def reasons(self) -> dict[tuple[str, str], str]:
        """(collection, source id) → reason."""
        return {(e["collection"], e["id"]): e["reason"] for e in self.entries()}

    def counts(self) -> dict[str, int]:
        """Chunks by reason."""
        return dict(sorted(Counter(e["reason"] for e in self.entries()).items()))

    def write(self, entries: list[dict[str, Any]]) -> None:
        """Replace the index of what was turned away before import."""
        write_text(self.folder / "checked.jsonl", "".join(json.dumps(e, ensure_ascii=True) + "\n" for e in entries))

    def keep(self, name: str, batch: ChunkBatch) -> None:
        """Keep these chunks themselves, as `name`.parquet in the form of a snapshot part."""
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / f".{name}.tmp"
        pq.write_table(to_table(batch), temporary, compression="zstd")
        temporary.replace(self.folder / f"{name}.parquet")

    def add(self, entry: dict[str, str], chunk: ChunkBatch) -> None:
        """A chunk that the target refused: kept, then listed. Repeating it after a kill changes nothing."""
        # A file name from the id itself, so that a resumed run, which counts rows otherwise, replaces its own file.
        key = hashlib.sha256(json.dumps([entry["target"], chunk.ids[0]]).encode()).hexdigest()[:32]
        with self._guard:
            self.keep(f"refused-{key}", chunk)
            file = self.folder / "refused.jsonl"
            before = file.read_text(encoding="utf-8") if file.exists() else ""
            write_text(file, before + json.dumps(entry, ensure_ascii=True) + "\n")

    def chunks(self) -> Iterator[pa.Table]:
        """The quarantined chunks, file by file."""
        for file in sorted(self.folder.glob("*.parquet")):
            yield pq.read_table(file)

    def _lines(self) -> Iterator[dict[str, str]]:
        for name in ("checked.jsonl", "refused.jsonl"):
            file = self.folder / name
            if file.exists():
                yield from (json.loads(line) for line in file.read_text(encoding="utf-8").splitlines())

"""New vectors for chunks whose own are lost, where the operator orders it by `migration.reembed`.

They are made once, from the chunks' documents, before the target is touched, and kept as Parquet beside the staging, one
file for each part of the snapshot that lost some. `as_written` gives the snapshot with them in place: staging writes that,
and step 23 compares the target with that, vector by vector. Only a chunk whose vector the snapshot lost can take one, so
nothing else hides behind the order. A chunk without a text, or to which the function gives no usable vector, stays lost
and goes to quarantine.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from helpers.chunks import ChunkBatch, Vectors
from helpers.errors import RunbookError, Terminal, one_line
from helpers.parameters import Parameters
from helpers.reason_codes import ReasonCode
from helpers.results import Verdict, write_json
from helpers.run.record import RunRecord
from helpers.snapshots.export_journal import read_parquet
from helpers.snapshots.snapshot import Part, Snapshot, from_table, to_table
from helpers.stores import CollectionInfo
from helpers.stores.embedding_functions import Function, own_function

FOLDER = "reembedded"  # beside the staging
CHECK = "vectors recreated"
_MADE, _CONTEXT = "made.json", "context.json"
_DOCUMENTS = 64  # in one call of the function
_NAMED = 1_000  # chunks named in the results; made.json names all


class Reembedded(Snapshot):
    """A snapshot as it is written to the target: lost vectors replaced by those that were made, all else as it was."""

    def __init__(self, snapshot: Snapshot, folder: Path) -> None:
        super().__init__(snapshot.folder, snapshot.manifest)
        self._made = folder

    def read(self, part: Part) -> ChunkBatch:
        batch = super().read(part)
        file = self._made / part.file
        if not part.lost or not file.is_file():
            return batch
        made = from_table(read_parquet(file))
        rows = {chunk: row for row, chunk in enumerate(made.ids)}
        places = [i for i in np.flatnonzero(batch.lost) if batch.ids[i] in rows]
        if batch.dimension != made.dimension and len(places):  # no vector of the collection could be read
            batch.embeddings = np.full((len(batch), made.dimension), np.nan, np.float32)
        batch.embeddings[places] = made.embeddings[[rows[batch.ids[i]] for i in places]]
        batch.lost[places] = False
        return batch


def as_written(snapshot: Snapshot, folder: Path) -> Snapshot:
    """The snapshot with the vectors that were made in `folder`; as it is where none were."""
    return Reembedded(snapshot, folder) if _finished(folder, snapshot) is not None else snapshot


def make(snapshot: Snapshot, parameters: Parameters, folder: Path) -> None:
    """Make the vectors that are ordered and not yet there.

    What an interrupted attempt on the same snapshot, with the same function, has made is kept. Raises `Terminal` where the
    function is not available for a collection that needs it ("embedding_function_unavailable"), fails
    ("reembed_failed") or makes another dimension than the collection has ("reembed_dimension").
    """
    rules = parameters.migration
    if rules.reembed is None:
        shutil.rmtree(folder, ignore_errors=True)
        return
    context = {"snapshot": snapshot.digest, "function": rules.reembed, "config": rules.reembed_config}
    if _read(folder / _CONTEXT) != context:
        shutil.rmtree(folder, ignore_errors=True)
        write_json(folder / _CONTEXT, context)
    if _finished(folder, snapshot) is not None:
        return
    chunks: list[dict[str, str]] = []
    functions: dict[str, str] = {}
    for info in snapshot.collections():
        parts = [part for part in snapshot.parts(info.name) if part.lost]
        if not parts:
            continue
        function = own_function(
            rules.reembed, rules.reembed_config, info.configuration, f"collection {info.name}",
            parameters.source.embedding_functions,
        )  # fmt: skip
        functions[info.name] = function.name
        size = info.dimension
        for part in parts:
            made = _part(snapshot, info, part, function, size, folder)
            size = made.dimension or size
            chunks += [{"collection": info.name, "id": chunk} for chunk in made.ids]
    write_json(folder / _MADE, {**context, "functions": functions, "chunks": chunks})


def _part(
    snapshot: Snapshot, info: CollectionInfo, part: Part, function: Function, size: int | None, folder: Path
) -> ChunkBatch:
    """The new vectors of one part, from an earlier attempt where that made them."""
    file = folder / part.file
    if file.is_file():
        return from_table(read_parquet(file))
    batch = snapshot.read(part)
    rows = [i for i in np.flatnonzero(batch.lost) if (batch.documents[i] or "").strip()]
    texts = [str(batch.documents[i]) for i in rows]
    where = f"collection {info.name}"
    found: list[Vectors] = []
    for start in range(0, len(texts), _DOCUMENTS):
        found.append(_vectors(function, texts[start : start + _DOCUMENTS], size, where))
        size = found[-1].shape[1]
    vectors = np.concatenate(found) if found else np.zeros((0, size or 0), np.float32)
    usable = np.flatnonzero(np.isfinite(vectors).all(axis=1) & vectors.any(axis=1))
    made = ChunkBatch([batch.ids[rows[i]] for i in usable], [None] * len(usable), vectors[usable], [None] * len(usable))
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    pq.write_table(to_table(made), partial, compression="zstd")
    partial.replace(file)
    return made


def _vectors(function: Function, texts: Sequence[str], size: int | None, where: str) -> Vectors:
    """(n, d) float32 of the texts, d the size where one is given."""
    try:
        made = [np.asarray(vector, np.float32) for vector in function.call(texts)]
    except RunbookError:
        raise
    except Exception as error:  # a foreign model, or the service behind it
        raise Terminal(
            ReasonCode.REEMBED_FAILED, f"embedding function {function.name} failed: {one_line(str(error), 200)}", where=where,
            next_step="Nothing was written. Make it work here, then resume; or start without migration.reembed.",
        ) from error  # fmt: skip
    sizes = sorted({vector.shape[0] if vector.ndim == 1 else -1 for vector in made})
    if len(made) != len(texts) or len(sizes) != 1 or sizes[0] < 1:
        raise Terminal(
            ReasonCode.REEMBED_FAILED,
            f"embedding function {function.name} gave {len(made)} vectors of {sizes} to {len(texts)} texts",
            where=where,
            next_step="Nothing was written. Start again with another function, or without migration.reembed.",
        )
    if size is not None and sizes[0] != size:
        raise Terminal(
            ReasonCode.REEMBED_DIMENSION,
            f"embedding function {function.name} makes {sizes[0]} dimensions, the collection has {size}", where=where,
            next_step="Nothing was written. Name the function that made its vectors, or leave migration.reembed out.",
        )  # fmt: skip
    return np.stack(made)


def judge(run: RunRecord, snapshot: Snapshot, folder: Path) -> None:
    """The mark in a step's results: a warning with count, ids and function; nothing where nothing was ordered."""
    made = _finished(folder, snapshot)
    if made is None:
        return
    chunks, lost = made["chunks"], sum(part.lost for name in snapshot.names() for part in snapshot.parts(name))
    functions = ", ".join(sorted(set(made["functions"].values()))) or made["function"]
    detail = f"by embedding function {functions}, of {lost:,} lost; the rest has no text or got no usable vector"
    run.forget(CHECK)  # a cell may run twice
    run.check(
        CHECK, Verdict.WARNING if chunks else Verdict.PASS, measured=len(chunks), threshold=0, unit="chunks",
        reason=ReasonCode.REEMBEDDED if chunks else "", detail=detail if lost else "no vector is lost", offenders=len(chunks),
        ids=chunks[:20],
    )  # fmt: skip
    run.fact(
        "reembedded",
        {
            "function": made["function"],
            "config": made["config"],
            "functions": made["functions"],
            "lost": lost,
            "count": len(chunks),
            "chunks": chunks[:_NAMED],
            "all": str(folder / _MADE),
        },
    )


def _finished(folder: Path, snapshot: Snapshot) -> dict[str, Any] | None:
    """What was made for this snapshot, once all of it is there."""
    made = _read(folder / _MADE)
    return made if made is not None and made["snapshot"] == snapshot.digest else None


def _read(file: Path) -> dict[str, Any] | None:
    if not file.is_file():
        return None
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found

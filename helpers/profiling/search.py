"""What a person asks of a source: chunks by id, searches by text or by a chunk, findings by name, a finding as a CSV file."""

from __future__ import annotations

import base64
import contextlib
import csv
import html
import json
import re
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import ipywidgets as widgets  # type: ignore[import-untyped,unused-ignore]
import numpy as np
import pandas as pd

from helpers.chunks import ChunkBatch
from helpers.errors import RunbookError, Terminal, UsageError, one_line
from helpers.formatting import harmless
from helpers.profiling.sample import Place, Places
from helpers.reason_codes import ReasonCode
from helpers.results import writing
from helpers.run import kernel
from helpers.run.record import RunRecord, open_chosen
from helpers.stores import Reader

READ = 500  # chunks read at a time
EXCERPT = 300  # characters of a document in a table


class Lookup:
    """Reads chunks by id. An embedded source is copied once, not for every question; `close` removes the copy."""

    def __init__(self, run: RunRecord) -> None:
        self._run = run
        self._stack = contextlib.ExitStack()
        self._reader: Reader | None = None
        weakref.finalize(self, self._stack.close)  # also at the end of the process

    @property
    def reader(self) -> Reader:
        if self._reader is None:
            self._reader = self._stack.enter_context(open_chosen(self._run))
            self._run.leaving.callback(self.close)
        return self._reader

    def close(self) -> None:
        """Let go of the source; the next question opens it again."""
        self._reader = None
        self._stack.close()

    def read(self, collection: str, ids: Sequence[str], *, embeddings: bool = False) -> ChunkBatch:
        """These chunks as they are in the source now; those that it does not hold any more are left out."""
        parts = [
            self.reader.read(collection, ids[start : start + READ], embeddings=embeddings)
            for start in range(0, len(ids), READ)
        ]
        return ChunkBatch.concatenate(parts) if parts else ChunkBatch.empty()

    def chunks(self, places: Iterable[Place], excerpt: int | None = EXCERPT) -> pd.DataFrame:
        """A row for each place, in their order: collection, id, detail, document (its beginning), metadata.

        `excerpt` is how many characters of a document are kept (None: all). What is not there any more has neither.
        """
        listed = list(places)
        held: dict[tuple[str, str], tuple[str | None, object]] = {}
        for name in dict.fromkeys(place.collection for place in listed):
            batch = self.read(name, list(dict.fromkeys(p.id for p in listed if p.collection == name and p.id)))
            for chunk, document, metadata in zip(batch.ids, batch.documents, batch.metadatas, strict=True):
                held[name, chunk] = (document if document is None else document[:excerpt], metadata)
        gone: tuple[str | None, object] = (None, None)
        rows = [(p.collection, p.id, p.detail, *held.get((p.collection, p.id), gone)) for p in listed]
        return pd.DataFrame(rows, columns=list(EXPORT_COLUMNS), dtype=object)


# Searches: by text, with each collection's own embedding function, or by a chunk that is there

COLUMNS = ["collection", "id", "distance", "space", "document", "remark"]


def by_text(lookup: Lookup, collections: Sequence[str], text: str, k: int) -> pd.DataFrame:
    """The k chunks of each collection nearest to the text, best first; one row says why a collection cannot be asked."""
    reader, rows = lookup.reader, []
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
        rows += [(name, chunk, distance, space, (document or "")[:EXCERPT], "") for chunk, distance, document in hits]
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
            ReasonCode.CHUNK_UNKNOWN, f"no chunk {one_line(chunk, 80)}", where=f"collection {home}",
            next_step="Take an id from step.sample.frame or from step.behind(…).",
        )  # fmt: skip
    vector = batch.embeddings[0]
    if batch.lost[0] or not np.isfinite(vector).all():
        raise UsageError(
            ReasonCode.CHUNK_WITHOUT_VECTOR, f"chunk {one_line(chunk, 80)} has no vector that can be read",
            where=f"collection {home}", next_step="Take another chunk.",
        )  # fmt: skip
    rows = []
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
        rows += [(name, i, d, info.space, text or "", "") for (i, d), text in zip(others, texts, strict=True)]
    return _sorted(rows)


def _remark(name: str, space: str, why: str) -> tuple[object, ...]:
    return (name, "", np.nan, space, "", one_line(why, 300))


def _sorted(rows: list[tuple[object, ...]]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=COLUMNS)
    return table.sort_values(["distance", "collection", "id"], kind="stable", ignore_index=True)


# A finding as a CSV file that a spreadsheet opens without doing what a chunk says

EXPORT_COLUMNS = ("collection", "id", "detail", "document", "metadata")


def write_csv(path: Path, lookup: Lookup, places: Iterable[Place]) -> int:
    """One row for each place, with the whole document and the metadata as JSON; the number of rows.

    Whole or not at all; UTF-8 with its mark, for spreadsheets. Memory does not grow with the finding.
    """
    rows = 0
    with (
        writing(path) as temporary,
        temporary.open("w", encoding="utf-8-sig", errors="backslashreplace", newline="") as file,
    ):
        writer = csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\r\n")
        writer.writerow(EXPORT_COLUMNS)
        for row in _rows(lookup, places):
            writer.writerow([harmless(value) for value in row])
            rows += 1
    return rows


def _rows(lookup: Lookup, places: Iterable[Place]) -> Iterator[list[Any]]:
    left = iter(places)
    while piece := list(islice(left, READ)):
        frame = lookup.chunks(piece, excerpt=None)
        for row in frame.itertuples(index=False):
            metadata = "" if row.metadata is None else json.dumps(row.metadata, ensure_ascii=False, default=str)
            yield [row.collection, row.id, row.detail, row.document, metadata]


def file_stem(name: str) -> str:
    """A foreign name in letters that every file system takes."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip("_.")[:80] or "unnamed"


# Findings by name: what each means, which reason code it has, which chunks are behind it

# A name, or its beginning before `_<field>` or ` <field> <rule>`: what it means, and the reason code of checks on it.
MEANINGS: dict[str, tuple[str, str]] = {
    "none_documents": ("no document (None)", ReasonCode.MISSING_DOCUMENT),
    "empty_documents": ("an empty document", ReasonCode.MISSING_DOCUMENT),
    "blank_documents": ("a document of nothing but spaces", ReasonCode.MISSING_DOCUMENT),
    "long_documents": ("a document of 100,000 characters or more", ""),
    "none_metadata": ("no metadata at all", ReasonCode.MISSING_METADATA),
    "lost_vectors": ("the store lists the chunk and cannot give its vector", ReasonCode.MISSING_EMBEDDING),
    "nonfinite_vectors": ("NaN or infinity in the vector", ReasonCode.NAN_EMBEDDING),
    "zero_vectors": ("a vector of zeros: on cosine equally far from everything, never found", ReasonCode.ZERO_VECTOR),
    "unnormalised_vectors": ("a norm other than 1, in a collection where others have 1", ""),
    "duplicate_documents": ("the same document, to the last letter, more than once", ReasonCode.DUPLICATES),
    "respaced_documents": ("the same document but for case, spaces or forms of letters", ReasonCode.DUPLICATES),
    "near_documents": ("nearly the same document (sample)", ReasonCode.DUPLICATES),
    "duplicate_vectors": ("the same vector, to the last bit, more than once", ReasonCode.DUPLICATES),
    "near_vectors": ("nearly the same vector (sample)", ReasonCode.DUPLICATES),
    "colliding_ids": ("an id that several collections use", ReasonCode.ID_COLLISION),
    "outliers": ("far from the others of its collection (sample)", ""),
    "cosine_trap": ("declared as another space than queries answer in: a copied configuration would search wrongly",
                    ReasonCode.DISTANCE_SPACE),
    "space_trap": ("as cosine_trap, and the space that queries answer in is not cosine", ReasonCode.DISTANCE_SPACE),
    "quarantined": ("set aside by the schema or the checks, for any reason", ReasonCode.QUARANTINED),
    "missing": ("the field is missing", ReasonCode.MISSING_METADATA),
    "wrong_type": ("a value of another type than the schema's", ReasonCode.INVALID_VALUES),
    "out_of_range": ("no number within the schema's range", ReasonCode.INVALID_SCORES),
    "unknown_value": ("a value that the schema does not list", ReasonCode.INVALID_VALUES),
    "contradicts": ("a value that the document rules out", ReasonCode.METADATA_CONTRADICTS),
    "repair": ("the schema would change the value", ""),
    "quarantine": ("would be set aside", ReasonCode.QUARANTINED),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Finding:
    """`chunks` counts them, `every` goes through their `places`: more than chunks where a group is shown with its first."""

    name: str
    chunks: int
    collections: int
    places: int
    every: Callable[[], Iterator[Place]]

    @property
    def meaning(self) -> str:
        return _known(self.name)[0]

    @property
    def reason(self) -> str:
        return _known(self.name)[1]

    @staticmethod
    def of(name: str, chunks: int, places: Sequence[Place]) -> Finding:
        return Finding(name, chunks, len({place.collection for place in places}), len(places), lambda: iter(places))


def of_places(places: Places) -> list[Finding]:
    """What the pass noted chunk by chunk."""
    return [
        Finding(name, counts.total(), len(counts), counts.total(), partial(places.every, name))
        for name, counts in places.counts.items()
    ]


def of_groups(name: str, groups: Iterable[list[tuple[str, ...]]]) -> Finding:
    """Chunks that repeat each other, (collection, id, …): all but the first of a group count, and every one is a place."""
    known = list(groups)

    def every() -> Iterator[Place]:
        for group in known:
            first = f"group of {len(group)}: {group[0][0]}: {group[0][1]}"
            yield from (Place(place[0], place[1], first) for place in group)

    chunks = sum(map(len, known))
    return Finding(name, chunks - len(known), len({place[0] for group in known for place in group}), chunks, every)


def is_known(name: str) -> bool:
    """Whether a finding can have this name, be it here or not."""
    return _known(name)[0] != name


def _known(name: str) -> tuple[str, str]:
    if name in MEANINGS:
        return MEANINGS[name]
    start = next((key for key in MEANINGS if name.startswith((f"{key}_", f"{key} "))), "")
    return MEANINGS.get(start, (name, ""))


# -- widgets -----------------------------------------------------------------------------------------------------------
#
# A request to run a cell that comes from JupyterLab, Notebook 7 or VS Code names the cell in its metadata (`cellId`); papermill,
# nbclient, nbconvert and nbval do not. Without a person everything is shown as plain tables and pictures.


Draw = Callable[[str], list[dict[str, Any]]]


class Picker:
    """`choice` is the drop-down, `shown` the outputs below it, `box` both: what a cell displays.

    The outputs are set whole, not written by a captured cell: what is shown belongs to the choice, always.
    """

    def __init__(self, names: Sequence[str], draw: Draw) -> None:
        self._draw = draw
        options, layout = [(one_line(name, 80), name) for name in names], widgets.Layout(width="32em")
        self.choice = widgets.Dropdown(options=options, description="Collection", layout=layout)
        self.shown = widgets.Output()
        self.choice.observe(self._chosen, names="value")
        self.box = widgets.VBox([self.choice, self.shown])
        self._chosen({"new": self.choice.value})

    def _chosen(self, change: Any) -> None:
        try:
            self.shown.outputs = tuple(self._draw(change["new"]))
        except RunbookError as error:
            self.shown.outputs = ({"output_type": "stream", "name": "stderr", "text": f"{error}\n"},)


ROWS = 1_000  # of a table that can be sorted and searched
ONE_LINE = ".dt-container td {max-width: 24em; overflow: hidden; text-overflow: ellipsis}"  # long texts stay searchable
HEAD = 20  # rows of the same table on paper
_begun_in: dict[str, str] = {}


def cell() -> str:
    """The id of the cell that a person runs now; "" where there is no person."""
    shell = kernel.shell()
    if kernel.under_runner() or shell is None or not hasattr(shell, "kernel"):
        return ""
    try:
        parent = shell.kernel.get_parent()
    except (AttributeError, LookupError, TypeError):  # a kernel of another make
        return ""
    return str((parent or {}).get("metadata", {}).get("cellId") or "")


def attended() -> bool:
    """Whether a person looks on."""
    return bool(cell())


def begin_tables() -> None:
    """Put the table library into the page, from this machine; once in a notebook, and again where that cell is run again."""
    here = cell()
    if _begun_in.setdefault("cell", here) == here:
        from itables import init_notebook_mode

        init_notebook_mode(all_interactive=False, connected=False)


def table_html(frame: pd.DataFrame) -> str:
    """The frame as a table to sort and search (needs `begin_tables`), of its first 1,000 rows; values as plain text."""
    from itables import to_html_datatable

    with pd.option_context("display.max_rows", None):
        shown = kernel.readable(frame.head(ROWS))
    page = to_html_datatable(
        shown, connected=False, display_logo_when_loading=False, maxBytes=0, maxColumns=0,
        showIndex=not isinstance(frame.index, pd.RangeIndex),
        pageLength=10, lengthMenu=[10, 25, 100, ROWS], scrollX=True, classes="display compact cell-border nowrap", css=ONE_LINE,
        warn_on_unexpected_types=False, text_in_header_can_be_selected=False,  # else only the small arrow sorts
        columnDefs=[{"targets": "_all", "className": "dt-left"}],
    )  # fmt: skip
    return f'<div class="tex2jax_ignore mathjax_ignore">{page}</div>'


def show_table(frame: pd.DataFrame) -> None:
    """To sort and search where a person looks on, else the first rows as they are."""
    if not attended():
        show_frame(frame, HEAD)
        return
    begin_tables()
    said = rows_said(frame, ROWS)
    show_outputs([html_output(table_html(frame), repr(kernel.readable(frame.head(HEAD))))])
    show_outputs([html_output(f"<p>{said}</p>", said)] if said else [])


def show_frame(frame: pd.DataFrame, rows: int = ROWS, caption: str = "") -> None:
    """The first rows, as text and as plain HTML, and how many there are where that is not all."""
    shown = frame.head(rows)
    with pd.option_context("display.max_rows", rows, "display.max_colwidth", 200):
        output = html_output(kernel.as_html(shown), repr(kernel.readable(shown)))
    said = ". ".join(filter(None, [caption, rows_said(frame, rows)]))
    show_outputs([*([html_output(f"<p>{html.escape(said)}</p>", said)] if said else []), output])


def rows_said(frame: pd.DataFrame, most: int) -> str:
    """How much of a frame is shown, and of what there is; "" where it is all."""
    shown = "" if len(frame) <= most else f"The first {most:,} of {len(frame):,} rows are shown."
    return " ".join(filter(None, [shown, kernel.cut_note(frame)]))


def html_output(page: str, text: str = "") -> dict[str, Any]:
    """An output of a cell, as notebooks keep it."""
    return {"output_type": "display_data", "data": {"text/html": page, "text/plain": text}, "metadata": {}}


def picture_output(png: bytes, alt: str) -> dict[str, Any]:
    encoded = base64.b64encode(png).decode("ascii")
    return {"output_type": "display_data", "data": {"image/png": encoded, "text/plain": alt},
            "metadata": {"image/png": {"alt": alt}}}  # fmt: skip


def show_outputs(outputs: list[dict[str, Any]]) -> None:
    """Outputs of the cell that runs now; outside a kernel nothing is shown."""
    shell = kernel.shell()
    if shell is None or not hasattr(shell, "kernel"):
        return
    from IPython.display import display

    for output in outputs:
        display(output["data"], metadata=output["metadata"], raw=True)  # type: ignore[no-untyped-call]

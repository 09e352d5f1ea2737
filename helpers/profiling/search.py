"""Requests of a person in notebook 11: chunks by id, searches, a finding as a CSV file, what a schema makes of one chunk."""

from __future__ import annotations

import base64
import contextlib
import csv
import html
import json
import re
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import chain, islice
from pathlib import Path
from typing import Any

import ipywidgets as widgets  # type: ignore[import-untyped,unused-ignore]
import numpy as np
import pandas as pd

from helpers.chunks import ChunkBatch, Metadata
from helpers.errors import RunbookError, Terminal, UsageError, one_line, short
from helpers.formatting import count, harmless
from helpers.parameters import Parameters
from helpers.profiling import Place
from helpers.reason_codes import ReasonCode
from helpers.results import writing
from helpers.run import kernel
from helpers.run.record import RunRecord, open_chosen
from helpers.schema import DOCUMENT, REPAIRS, Context, Schema
from helpers.schema.file import Drop, FieldRule, LeaveOut, Redact, Rename, Replace
from helpers.schema.rules import unicode_problem
from helpers.stores import CollectionInfo, Reader

READ = 500  # chunks read at a time
EXCERPT = 300  # characters of a document in a table


class Lookup:
    """Reads chunks by id. An embedded source is copied once, not for every request; `close` removes the copy."""

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
        """Close the source; the next request opens it again."""
        self._reader = None
        self._stack.close()

    def read(self, collection: str, ids: Sequence[str], *, embeddings: bool = False) -> ChunkBatch:
        """These chunks as the source has them now; those that it has no more are left out."""
        parts = [
            self.reader.read(collection, ids[start : start + READ], embeddings=embeddings)
            for start in range(0, len(ids), READ)
        ]
        return ChunkBatch.concatenate(parts) if parts else ChunkBatch.empty()

    def chunks(self, places: Iterable[Place], excerpt: int | None = EXCERPT) -> pd.DataFrame:
        """A row for each place, in their order: collection, id, detail, document (its beginning), metadata.

        `excerpt`: how many characters of a document are kept (None: all). A chunk that is missing has no document and metadata.
        """
        listed = list(places)
        texts: dict[tuple[str, str], tuple[str | None, object]] = {}
        for name in dict.fromkeys(place.collection for place in listed):
            batch = self.read(name, list(dict.fromkeys(p.id for p in listed if p.collection == name and p.id)))
            for chunk, document, metadata in zip(batch.ids, batch.documents, batch.metadatas, strict=True):
                texts[name, chunk] = (document if document is None else document[:excerpt], metadata)
        missing: tuple[str | None, object] = (None, None)
        rows = [(p.collection, p.id, p.detail, *texts.get((p.collection, p.id), missing)) for p in listed]
        return pd.DataFrame(rows, columns=list(EXPORT_COLUMNS), dtype=object)


# Searches: by text, with each collection's own embedding function, or by a chunk that is there

COLUMNS = ["collection", "id", "distance", "space", "document", "remark"]


def by_text(lookup: Lookup, collections: Sequence[str], text: str, k: int) -> pd.DataFrame:
    """The k chunks of each collection nearest to the text, best first; a row says why a collection cannot be searched."""
    reader, rows = lookup.reader, []
    for name in collections:
        space = reader.info(name).space
        if why := reader.why_no_text_queries(name):
            rows.append(_remark(name, space, f"cannot be searched: {why}"))
            continue
        try:
            hits = reader.query_texts(name, [text], k)[0]
        except Terminal as error:  # the function is here and does not work: a service, a key, a model
            rows.append(_remark(name, space, f"cannot be searched: {error.what}"))
            continue
        rows += [(name, chunk, distance, space, (document or "")[:EXCERPT], "") for chunk, distance, document in hits]
    return _sorted(rows)


def by_id(lookup: Lookup, collections: Sequence[str], chunk: str, home: str, k: int) -> pd.DataFrame:
    """The k chunks of each collection nearest to this chunk's vector, best first, without the chunk itself.

    `home`: the collection of the chunk. Raises `UsageError` if the chunk is not there, or has no vector to search with.
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
            rows.append(_remark(name, info.space, f"cannot be searched: {error.what}"))
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
    """Write one row for each place, with the whole document and the metadata as JSON; return the number of rows.

    The file is written whole or not at all, in UTF-8 with a mark for spreadsheets. Memory does not grow with the finding.
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
    """A name of a field or finding, in characters that every file system accepts."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip("_.")[:80] or "unnamed"


# -- widgets -----------------------------------------------------------------------------------------------------------
#
# A request to run a cell that comes from JupyterLab, Notebook 7 or VS Code names the cell in its metadata (`cellId`); papermill,
# nbclient, nbconvert and nbval do not. Without a person everything is shown as plain tables and pictures.


Draw = Callable[[str], list[dict[str, Any]]]


class Picker:
    """`choice`: a drop-down; `shown`: the outputs below it; `box`: both, for a cell to display.

    The outputs are replaced as a whole, so that they always belong to the choice.
    """

    def __init__(self, names: Sequence[str], draw: Draw) -> None:
        self._draw = draw
        options, layout = [(one_line(name, 80), name) for name in names], widgets.Layout(width="32em")
        self.choice = widgets.Dropdown(options=options, description="Collection", layout=layout)
        self.shown = widgets.Output()
        self.choice.observe(self._on_change, names="value")
        self.box = widgets.VBox([self.choice, self.shown])
        self._on_change({"new": self.choice.value})

    def _on_change(self, change: Any) -> None:
        try:
            self.shown.outputs = tuple(self._draw(change["new"]))
        except RunbookError as error:
            self.shown.outputs = ({"output_type": "stream", "name": "stderr", "text": f"{error}\n"},)


ROWS = 1_000  # of a table that can be sorted and searched
ONE_LINE = ".dt-container td {max-width: 24em; overflow: hidden; text-overflow: ellipsis}"  # long texts stay searchable
HEAD = 20  # rows of the same table on paper
_begun_in: dict[str, str] = {}


def cell() -> str:
    """The id of the cell that a person runs now; "" if no person does."""
    shell = kernel.shell()
    if kernel.under_runner() or shell is None or not hasattr(shell, "kernel"):
        return ""
    try:
        parent = shell.kernel.get_parent()
    except (AttributeError, LookupError, TypeError):  # a kernel of another make
        return ""
    return str((parent or {}).get("metadata", {}).get("cellId") or "")


def attended() -> bool:
    """Whether a person runs the cell."""
    return bool(cell())


def begin_tables() -> None:
    """Put the table library into the page, from this machine; once in a notebook, and again if that cell is run again."""
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
    """Show a table to sort and search if a person runs the cell; else the first rows."""
    if not attended():
        show_frame(frame, HEAD)
        return
    begin_tables()
    note = rows_note(frame, ROWS)
    show_outputs([html_output(table_html(frame), repr(kernel.readable(frame.head(HEAD))))])
    show_outputs([html_output(f"<p>{note}</p>", note)] if note else [])


def show_frame(frame: pd.DataFrame, rows: int = ROWS, caption: str = "") -> None:
    """Show the first rows, as text and as plain HTML, and how many there are if that is not all."""
    shown = frame.head(rows)
    with pd.option_context("display.max_rows", rows, "display.max_colwidth", 200):
        output = html_output(kernel.as_html(shown), repr(kernel.readable(shown)))
    note = ". ".join(filter(None, [caption, rows_note(frame, rows)]))
    show_outputs([*([html_output(f"<p>{html.escape(note)}</p>", note)] if note else []), output])


def rows_note(frame: pd.DataFrame, most: int) -> str:
    """How much of a frame is shown; "" if it is all."""
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
    """Show outputs in the cell that runs now; outside a kernel nothing is shown."""
    shell = kernel.shell()
    if shell is None or not hasattr(shell, "kernel"):
        return
    from IPython.display import display

    for output in outputs:
        display(output["data"], metadata=output["metadata"], raw=True)  # type: ignore[no-untyped-call]


# -- one chunk before and after a schema, rule by rule: `runbook schema --explain` and notebook 11 -----------------------

EXPLAIN_COLUMNS = ("part", "what", "before", "after", "why")


def explain_chunk(
    schema: Schema, batch: ChunkBatch, info: CollectionInfo, context: Context, rules: Parameters
) -> pd.DataFrame:
    """The one chunk of this batch: as the source holds it, what each rule of the schema does, and the result.

    `part` is "source", "rule", "idle" (a rule that does nothing here, and why), "target" or "not migrated". Values that the
    schema redacts are not shown.
    """
    transformed = schema.transform(batch, info.name, context)
    failures = schema.failures(
        transformed, context, dimension=info.dimension, allowed_dimensions=rules.expected.dimensions, space=info.space
    ).to_dict("records")
    new, target, chunk = transformed.batch, transformed.targets[0], batch.ids[0]
    rows = [("source", "collection", info.name, "", ""), ("source", "id", chunk, "", "")]
    values = {"document": batch.documents[0], **{f"field {k}": v for k, v in _by_key(batch.metadatas[0])}}
    hidden = "what is redacted is not shown; the source holds the text"
    rows += [("source", k, _excerpt(schema.shown(v)), "", hidden * (schema.shown(v) != v)) for k, v in values.items()]
    content = schema.content
    if target != info.name:
        rows.append(("rule", "collection", info.name, target, _why_moved(schema, info.name, target)))
    if new.ids[0] != chunk:
        why = [f"The schema computes ids: {content.id}."] if content.id is not None else []
        why += ["The prefix is set by migration.id_policy."] if context.id_policy == "prefix" else []
        rows.append(("rule", "id", chunk, new.ids[0], " ".join(why)))
    for row in transformed.repairs.to_dict("records"):
        what = "document" if row["field"] == DOCUMENT else f"field {row['field']}" if row["field"] else "metadata"
        before, after = row["before"], row["after"]
        if row["rule"] == "renamed":
            name, _, before = before.partition(" = ")
            what, after = f"field {name}", f"{what}: {after}"
        rows.append(("rule", what, before, after, _why(schema, transformed.types[0], info.name, row, values.get(what))))
    left_out = any(row["reason"] == ReasonCode.LEFT_OUT for row in failures)
    rows += [("idle", what, "", "", why) for what, why in _idle(schema, info.name, values, target, left_out)]
    wrong = {
        str(row["reason"]).removeprefix("invalid_") for row in failures if str(row["reason"]).startswith("invalid_")
    }
    for row in failures:
        out = row["reason"] == ReasonCode.LEFT_OUT
        if str(row["reason"]).removeprefix("missing_") in wrong:
            continue  # its value could not be computed, so it is missing: once is enough
        field = str(row["reason"]).partition("_")[2]
        rule = next((rule for rule in schema.rules(transformed.types[0]) if rule.name == field), None)
        about = f"field {field} ({row['reason']})" if rule else row["reason"]
        name = "the rule that leaves it out" if out else f"quarantine, {about}"
        requirement = f". {_requirement(rule)}" if rule is not None and field in wrong else ""
        requirement = requirement or ". The schema requires one (requires_document)." * (
            row["reason"] == ReasonCode.MISSING_DOCUMENT
        )
        rows.append(("not migrated", name, "", "", f"{row['detail']}{requirement}"))
    if not failures:
        rows += [("target", "collection", "", target, ""), ("target", "id", "", new.ids[0], "")]
        rows.append(("target", "document", "", _excerpt(new.documents[0]), ""))
        rows += [("target", f"field {k}", "", _excerpt(v), "") for k, v in _by_key(new.metadatas[0])]
        old = "It stays as it is."
        if new.documents[0] != batch.documents[0]:
            old += (
                " It was made from the source's text, and searches find it by that; migration.reembed makes a new one."
            )
        if (order := rules.migration.embedding) is not None and order.selects(info.name):
            old = f"It is replaced: migration.reembed makes a new one by {order.function}."
        rows.append(("target", "vector", "", f"{batch.dimension} numbers", old))
    return pd.DataFrame(rows, columns=list(EXPLAIN_COLUMNS), dtype=object)


def _why_moved(schema: Schema, collection: str, target: str) -> str:
    """The rule that sends chunks of this collection there."""
    moves = [move for move in schema.content.moves(collection) if move.target(collection) == target]
    if not moves:
        return "The schema sends the chunk to the collection of its type (routing)."
    where = f" where {moves[0].when}" if moves[0].when else ""
    return f"The schema sends chunks of {moves[0].source} to {moves[0].to}{where} (collections)."


def _why(schema: Schema, kind: str | None, collection: str, row: Mapping[Any, Any], before: Any) -> str:
    """What a rule did, with its part of the schema: the expression, the pattern, the bounds, the names."""
    content, name, action = schema.content, str(row["field"]), str(row["rule"])
    meaning = REPAIRS[action]
    rule = next((rule for rule in schema.rules(kind) if rule.name == name), None)
    if action in ("computed", "recomputed") and rule is not None:
        return f"{meaning.removesuffix('.')}: {rule.value}"
    if action == "clamp" and rule is not None:
        return f"The number must be {_bounds(rule)}; it gets the nearest number that is allowed (repair: clamp)."
    if action == "coerce" and rule is not None:
        return f"The schema wants the type {rule.type}; the value had another type and was converted without loss."
    if action == "default" and rule is not None:
        return f"The value was not allowed and was replaced by the default. {_allowed(rule)}".rstrip()
    if action in ("rewritten", "redacted"):
        rules = content.replace if action == "rewritten" else content.redact
        applied = [
            one
            for one in rules
            if one.applies(collection) and (one.document if name == DOCUMENT else one.matching_keys({name: 0}))
        ]
        texts = [
            text
            for text in (before if isinstance(before, list) else [before])
            if isinstance(text, str) and not unicode_problem(text)
        ]
        applied = [one for one in applied if any(map(one.matches, texts))] or applied
        names = ", ".join(
            one.name if isinstance(one, Redact) else f"{one.pattern} by {one.replacement!r}" for one in applied
        )
        return f"{meaning.removesuffix('.')}: {names}" if action == "rewritten" else f"{meaning} (redact: {names})"
    if action == "renamed":
        return "The schema gives the field another name (rename); its value is as it was."
    if action == "drop":
        fits = (
            glob for one in content.drop if one.applies(collection) for glob in one.fields if fnmatchcase(name, glob)
        )
        return f"The field does not come along ({f'drop: {g}' if (g := next(fits, '')) else 'unknown: drop'})."
    return meaning


def _bounds(rule: FieldRule) -> str:
    bounds = [f"at least {rule.minimum:g}"] if rule.minimum is not None else []
    bounds += [f"at most {rule.maximum:g}"] if rule.maximum is not None else []
    return " and ".join(bounds)


def _requirement(rule: FieldRule) -> str:
    """What a value of this field must be."""
    return _allowed(rule) or f"The schema wants the type {rule.type}{f', {_bounds(rule)}' * rule.has_bounds}."


def _allowed(rule: FieldRule) -> str:
    """What a text of this field may be."""
    if rule.allowed:
        return f"Allowed: {', '.join(rule.allowed[:8])}{', …' * (len(rule.allowed) > 8)}."
    return f"It must match {rule.pattern}" if rule.pattern is not None else ""


def _by_key(metadata: Metadata | None) -> list[tuple[str, Any]]:
    return sorted(((str(key), value) for key, value in (metadata or {}).items()), key=lambda pair: pair[0])


def _excerpt(value: object) -> str:
    return "(none)" if value is None else short(value, EXCERPT)


def _idle(
    schema: Schema, collection: str, values: Mapping[str, Any], target: str, left_out: bool
) -> Iterator[tuple[str, str]]:
    """The rules that do nothing to this chunk, and why: those on whole chunks, names, texts and fields to be dropped."""
    content = schema.content
    moves = [move for move in content.moves(collection) if move.target(collection) == target != collection][:1]
    is_moved = False
    for move in content.collections:
        why = (
            f"its condition is not met: {move.when}"
            if fnmatchcase(collection, move.source)
            else f"only for collections {move.source}; this one is {collection}"
        )
        if move not in moves:
            yield f"collections, to {move.to}", "an earlier rule moves the chunk" if is_moved else why
        is_moved = is_moved or move in moves
    fields = [what.removeprefix("field ") for what in values if what.startswith("field ")]
    texts = {what: [one for one in (value if isinstance(value, list) else [value])
                    if isinstance(one, str) and not unicode_problem(one)] for what, value in values.items()}  # fmt: skip
    by_text = (*content.replace, *content.redact)
    every: tuple[LeaveOut | Rename | Drop | Replace, ...] = (
        *content.leave_out,
        *content.rename,
        *by_text,
        *content.drop,
    )
    for rule in every:
        if isinstance(rule, LeaveOut):
            what, why = (
                f'leave_out "{rule.because or rule.when}"',
                "" if left_out else f"its condition is not met: {rule.when}",
            )
        elif isinstance(rule, Rename):
            what, why = f"rename, {rule.source}", "" if rule.source in fields else "no such field here"
        elif isinstance(rule, Drop):
            what = f"drop, {', '.join(rule.fields)}"
            why = "" if rule.matching_keys(dict.fromkeys(fields)) else "no such field here"
        else:
            what = f"redact, {rule.name}" if isinstance(rule, Redact) else f"replace, {rule.pattern}"
            names = [
                *(f"field {name}" for name in rule.matching_keys(dict.fromkeys(fields))),
                *(["document"] if rule.document else []),
            ]
            matches = any(map(rule.matches, chain(*(texts[name] for name in names))))
            why = "" if matches else "the pattern finds nothing here"
        if not rule.applies(collection):
            why = f"only for collections {', '.join(rule.only)}; this one is {collection}"
        if why:
            yield what, why


def explanation(table: pd.DataFrame, schema: str) -> str:
    """The table of `explain_chunk` as plain text, the result first."""
    parts: dict[str, list[dict[str, str]]] = {}
    for row in table.to_dict("records"):
        parts.setdefault(str(row["part"]), []).append({str(k): one_line(str(v), 2_000) for k, v in row.items()})
    source, rules, aside, target = (parts.get(part, []) for part in ("source", "rule", "not migrated", "target"))
    lines = [f"Chunk {source[1]['before']} of collection {source[0]['before']}, by schema {schema}"]
    if target:
        changes = f"{count(len(rules), 'change')}" if rules else "unchanged"
        lines += [f"Would be migrated to collection {target[0]['after']}, as {target[1]['after']}, {changes}."]
    elif any(row["what"].startswith("quarantine") for row in aside):
        lines += [
            "Would not be migrated: it stays in the source, and a copy goes to the quarantine of the run, with the reason."
        ]
    else:
        lines += [
            "Would not be migrated: the schema leaves it out. It stays in the source, and the run counts and lists it."
        ]
    for each in aside:
        lines += [f"  {each['what']}:", f"    {each['why']}"]
    lines += ["", "In the source"]
    lines += [f"  {row['what']}: {row['before']}" + f" ({row['why']})" * bool(row["why"]) for row in source[2:]]
    if rules and target:
        lines += ["", "What the schema does"]
    elif rules:
        lines += ["", "What the schema would do; the chunk is not migrated, so none of it is done"]
    for at, rule in enumerate(rules, start=1):
        lines += [f"  {at}. {rule['what']}: {rule['before']}  becomes  {rule['after']}", f"     {rule['why']}"]
    if "idle" in parts:
        lines += ["", "Rules that do nothing to this chunk"]
        lines += [f"  {row['what']}: {row['why']}" for row in parts["idle"]]
    if target:
        lines += ["", "In the target"]
        lines += [f"  {row['what']}: {row['after']}" + (f". {row['why']}" if row["why"] else "") for row in target]
    return "\n".join(lines)

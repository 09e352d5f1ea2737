"""What a person asks of a source: chunks by id, searches, a finding as a CSV file, what a schema makes of one chunk."""

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
        if why := reader.why_no_text_queries(name):
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


# -- one chunk before and after a schema, rule by rule: `runbook schema --explain` and notebook 11 -----------------------

EXPLAINED = ("part", "what", "before", "after", "why")


def explained(
    schema: Schema, batch: ChunkBatch, info: CollectionInfo, context: Context, rules: Parameters
) -> pd.DataFrame:
    """The chunk of this batch: as the source holds it, what each rule of the schema does, and what becomes of it.

    `part` is "source", "rule", "idle" (a rule that does nothing here, and why), "target" or "not migrated". Values that the
    schema redacts are not shown.
    """
    done = schema.transform(batch, info.name, context)
    failures = schema.failures(
        done, context, dimension=info.dimension, allowed_dimensions=rules.expected.dimensions, space=info.space
    ).to_dict("records")
    new, target, chunk = done.batch, done.targets[0], batch.ids[0]
    rows = [("source", "collection", info.name, "", ""), ("source", "id", chunk, "", "")]
    held = {"document": batch.documents[0], **{f"field {k}": v for k, v in _by_key(batch.metadatas[0])}}
    hidden = "what is redacted is not shown; the source holds the text"
    rows += [("source", k, _said(schema.shown(v)), "", hidden * (schema.shown(v) != v)) for k, v in held.items()]
    content = schema.content
    if target != info.name:
        rows.append(("rule", "collection", info.name, target, _why_moved(schema, info.name, target)))
    if new.ids[0] != chunk:
        why = [f"The schema computes ids: {content.id}."] if content.id is not None else []
        why += ["The prefix is set by migration.id_policy."] if context.id_policy == "prefix" else []
        rows.append(("rule", "id", chunk, new.ids[0], " ".join(why)))
    for row in done.repairs.to_dict("records"):
        what = "document" if row["field"] == DOCUMENT else f"field {row['field']}" if row["field"] else "metadata"
        before, after = row["before"], row["after"]
        if row["rule"] == "renamed":
            name, _, before = before.partition(" = ")
            what, after = f"field {name}", f"{what}: {after}"
        rows.append(("rule", what, before, after, _why(schema, done.types[0], info.name, row, held.get(what))))
    left_out = any(row["reason"] == ReasonCode.LEFT_OUT for row in failures)
    rows += [("idle", what, "", "", why) for what, why in _idle(schema, info.name, held, target, left_out)]
    wrong = {
        str(row["reason"]).removeprefix("invalid_") for row in failures if str(row["reason"]).startswith("invalid_")
    }
    for row in failures:
        out = row["reason"] == ReasonCode.LEFT_OUT
        if str(row["reason"]).removeprefix("missing_") in wrong:
            continue  # its value could not be computed, so it is missing: once is enough
        field = str(row["reason"]).partition("_")[2]
        named = next((rule for rule in schema.rules(done.types[0]) if rule.name == field), None)
        about = f"field {field} ({row['reason']})" if named else row["reason"]
        name = "the rule that leaves it out" if out else f"quarantine, {about}"
        wanted = f". {_wanted(named)}" if named is not None and field in wrong else ""
        wanted = wanted or ". The schema requires one (requires_document)." * (
            row["reason"] == ReasonCode.MISSING_DOCUMENT
        )
        rows.append(("not migrated", name, "", "", f"{row['detail']}{wanted}"))
    if not failures:
        rows += [("target", "collection", "", target, ""), ("target", "id", "", new.ids[0], "")]
        rows.append(("target", "document", "", _said(new.documents[0]), ""))
        rows += [("target", f"field {k}", "", _said(v), "") for k, v in _by_key(new.metadatas[0])]
        old = "It stays as it is."
        if new.documents[0] != batch.documents[0]:
            old += (
                " It was made from the source's text, and searches find it by that; migration.reembed makes a new one."
            )
        if (order := rules.migration.embedding) is not None and order.selects(info.name):
            old = f"It is replaced: migration.reembed makes a new one by {order.function}."
        rows.append(("target", "vector", "", f"{batch.dimension} numbers", old))
    return pd.DataFrame(rows, columns=list(EXPLAINED), dtype=object)


def _why_moved(schema: Schema, collection: str, target: str) -> str:
    """The rule that sends chunks of this collection there."""
    moves = [move for move in schema.content.moves(collection) if move.target(collection) == target]
    if not moves:
        return "The schema sends the chunk to the collection of its type (routing)."
    where = f" where {moves[0].when}" if moves[0].when else ""
    return f"The schema sends chunks of {moves[0].source} to {moves[0].to}{where} (collections)."


def _why(schema: Schema, kind: str | None, collection: str, row: Mapping[Any, Any], was: Any) -> str:
    """What a rule did, with what the schema says there: the expression, the pattern, the bounds, the names."""
    content, name, did = schema.content, str(row["field"]), str(row["rule"])
    said = REPAIRS[did]
    rule = next((rule for rule in schema.rules(kind) if rule.name == name), None)
    if did in ("computed", "recomputed") and rule is not None:
        return f"{said.removesuffix('.')}: {rule.value}"
    if did == "clamp" and rule is not None:
        return f"The number must be {_bounds(rule)}; it gets the nearest number that is allowed (repair: clamp)."
    if did == "coerce" and rule is not None:
        return f"The schema wants the type {rule.type}; the value had another type and was converted without loss."
    if did == "default" and rule is not None:
        return f"The value was not allowed and was replaced by the default. {_allowed(rule)}".rstrip()
    if did in ("rewritten", "redacted"):
        rules = content.replace if did == "rewritten" else content.redact
        of = [
            one
            for one in rules
            if one.applies(collection) and (one.document if name == DOCUMENT else one.matching_keys({name: 0}))
        ]
        texts = [
            text
            for text in (was if isinstance(was, list) else [was])
            if isinstance(text, str) and not unicode_problem(text)
        ]
        of = [one for one in of if any(map(one.matches, texts))] or of
        names = ", ".join(
            one.name if isinstance(one, Redact) else f"{one.pattern} by {one.replacement!r}" for one in of
        )
        return f"{said.removesuffix('.')}: {names}" if did == "rewritten" else f"{said} (redact: {names})"
    if did == "renamed":
        return "The schema gives the field another name (rename); its value is as it was."
    if did == "drop":
        fits = (
            glob for one in content.drop if one.applies(collection) for glob in one.fields if fnmatchcase(name, glob)
        )
        return f"The field does not come along ({f'drop: {g}' if (g := next(fits, '')) else 'unknown: drop'})."
    return said


def _bounds(rule: FieldRule) -> str:
    bounds = [f"at least {rule.minimum:g}"] if rule.minimum is not None else []
    bounds += [f"at most {rule.maximum:g}"] if rule.maximum is not None else []
    return " and ".join(bounds)


def _wanted(rule: FieldRule) -> str:
    """What a value of this field must be."""
    return _allowed(rule) or f"The schema wants the type {rule.type}{f', {_bounds(rule)}' * rule.has_bounds}."


def _allowed(rule: FieldRule) -> str:
    """What a text of this field may be."""
    if rule.allowed:
        return f"Allowed: {', '.join(rule.allowed[:8])}{', …' * (len(rule.allowed) > 8)}."
    return f"It must match {rule.pattern}" if rule.pattern is not None else ""


def _by_key(metadata: Metadata | None) -> list[tuple[str, Any]]:
    return sorted(((str(key), value) for key, value in (metadata or {}).items()), key=lambda pair: pair[0])


def _said(value: object) -> str:
    return "(none)" if value is None else short(value, EXCERPT)


def _idle(
    schema: Schema, collection: str, held: Mapping[str, Any], target: str, left_out: bool
) -> Iterator[tuple[str, str]]:
    """The rules that do nothing to this chunk, and why: those on whole chunks, names, texts and fields to be dropped."""
    content = schema.content
    moves = [move for move in content.moves(collection) if move.target(collection) == target != collection][:1]
    moved = False
    for move in content.collections:
        why = (
            f"its condition is not met: {move.when}"
            if fnmatchcase(collection, move.source)
            else f"only for collections {move.source}; this one is {collection}"
        )
        if move not in moves:
            yield f"collections, to {move.to}", "an earlier rule moves the chunk" if moved else why
        moved = moved or move in moves
    fields = [what.removeprefix("field ") for what in held if what.startswith("field ")]
    texts = {what: [one for one in (value if isinstance(value, list) else [value])
                    if isinstance(one, str) and not unicode_problem(one)] for what, value in held.items()}  # fmt: skip
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
            of = [
                *(f"field {name}" for name in rule.matching_keys(dict.fromkeys(fields))),
                *(["document"] if rule.document else []),
            ]
            why = (
                "" if any(map(rule.matches, chain(*(texts[name] for name in of)))) else "the pattern finds nothing here"
            )
        if not rule.applies(collection):
            why = f"only for collections {', '.join(rule.only)}; this one is {collection}"
        if why:
            yield what, why


def explanation(table: pd.DataFrame, schema: str) -> str:
    """The same as plain text, what becomes of the chunk first."""
    parts: dict[str, list[dict[str, str]]] = {}
    for row in table.to_dict("records"):
        parts.setdefault(str(row["part"]), []).append({str(k): one_line(str(v), 2_000) for k, v in row.items()})
    source, rules, aside, target = (parts.get(part, []) for part in ("source", "rule", "not migrated", "target"))
    lines = [f"Chunk {source[1]['before']} of collection {source[0]['before']}, by schema {schema}"]
    if target:
        done = f"{count(len(rules), 'change')}" if rules else "unchanged"
        lines += [f"Would be migrated to collection {target[0]['after']}, as {target[1]['after']}, {done}."]
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

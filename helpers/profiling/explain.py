"""One chunk before and after a schema, rule by rule: `runbook schema --explain` and notebook 11."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from itertools import chain
from typing import Any

import pandas as pd

from helpers.chunks import ChunkBatch, Metadata
from helpers.errors import one_line, short
from helpers.formatting import count
from helpers.parameters import Parameters
from helpers.profiling.search import EXCERPT
from helpers.reason_codes import ReasonCode
from helpers.schema import DOCUMENT, REPAIRS, Context, Schema
from helpers.schema.file import Drop, FieldRule, LeaveOut, Redact, Rename, Replace
from helpers.schema.rules import unicode_problem
from helpers.stores import CollectionInfo

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
            if one.applies(collection) and (one.document if name == DOCUMENT else one.named({name: 0}))
        ]
        texts = [
            text
            for text in (was if isinstance(was, list) else [was])
            if isinstance(text, str) and not unicode_problem(text)
        ]
        of = [one for one in of if any(map(one.found_in, texts))] or of
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
            why = "" if rule.named(dict.fromkeys(fields)) else "no such field here"
        else:
            what = f"redact, {rule.name}" if isinstance(rule, Redact) else f"replace, {rule.pattern}"
            of = [
                *(f"field {name}" for name in rule.named(dict.fromkeys(fields))),
                *(["document"] if rule.document else []),
            ]
            why = (
                ""
                if any(map(rule.found_in, chain(*(texts[name] for name in of))))
                else "the pattern finds nothing here"
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

"""What a migration does to ids and metadata, as data: a schema file read into `Schema`.

`Schema.transform` routes, fills, coerces and repairs a batch; `Schema.check` proves the outcome by other means, and what the
target gives back. `identity` is the schema that changes nothing.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

import pandas as pd

from helpers.chunks import ChunkBatch, Metadata, is_sparse
from helpers.errors import Terminal, UsageError
from helpers.parameters import IDENTITY, schema_file
from helpers.parameters.sections import IndexSettings, Migration, index_order
from helpers.reason_codes import ReasonCode
from helpers.schema.expressions import DERIVATIONS_VERSION, ExpressionFailed, certain, contradicts, readable
from helpers.schema.file import FieldRule, Move, Rename, Replace, Routing, SchemaFile, read_schema_file
from helpers.schema.rules import (
    ABSENT,
    Fault,
    FieldChecks,
    failure_table,
    hazards,
    in_full,
    placeholders,
    plain,
    show,
    unicode_problem,
    vector_failures,
)

if TYPE_CHECKING:
    from helpers.stores import Space

# -- engine ------------------------------------------------------------------------------------------------------------

REPAIR_COLUMNS = ("collection", "id", "field", "rule", "before", "after")
DOCUMENT = "(document)"  # the document among the fields of repairs; no field that Chroma's clients write is called so
NO_SPARSE = "a local Chroma holds no sparse vector; migration.drop_indexes keeps it as text"
REPAIRS: dict[str, str] = {
    "missing": "The field was missing and got its default.",
    "derived": "The field was missing; the document tells its value.",
    "set": "The field was missing; the schema sets it itself.",
    "renamed": "The field has another name; its value is as it was.",
    "computed": "The field was missing; the schema's expression gives its value.",
    "recomputed": "The schema's expression gives the field another value.",
    "rewritten": "The schema's pattern was found and replaced.",
    "redacted": "What the schema redacts was found and replaced. Reports do not show what it was.",
    "replaced": "The value was not allowed and was replaced by what the document tells.",
    "coerce": "The value had another type and was converted without loss.",
    "clamp": "The number was out of range and was moved to the nearer bound.",
    "default": "The value was not allowed and was replaced by the default.",
    "fixed": "The schema sets this field itself; the source had another value.",
    "empty": "An empty list, or metadata without any key, became no value: Chroma has neither.",
    "json": "The target holds no lists; the list became a text of JSON.",
    "sparse": "A local Chroma holds no sparse vectors; migration.drop_indexes made it a text of JSON with the same numbers.",
    "drop": "The schema drops the field, by name or because it names all that it keeps.",
}


@dataclass(frozen=True, slots=True)
class Context:
    """What a transformation depends on besides the schema and the chunk.

    `date` is the day of the migration (UTC). `id_policy` "prefix" makes ids `<collection>:<id>`. `lists` is whether the
    target's metadata can hold lists. `drop_indexes` are patterns of source collections whose sparse vectors, which a local
    Chroma refuses, become text; elsewhere a chunk that has one is set aside. `index` is `migration.index`.
    """

    source_collections: frozenset[str]
    date: dt.date
    id_policy: Literal["fail", "prefix"]
    lists: bool = True
    drop_indexes: tuple[str, ...] = ()
    index: Mapping[str, IndexSettings] = field(default_factory=dict)

    @classmethod
    def of(cls, names: Collection[str], date: dt.date, rules: Migration) -> Context:
        """As the parameters say, for these source collections."""
        return cls(frozenset(names), date, rules.id_policy, True, tuple(rules.drop_indexes), rules.index)

    def space(self, collection: str, own: Space, targets: Collection[str]) -> Space:
        """The distance by which the chunks of this collection are searched in the target: one, or `Terminal`."""
        found: set[Space] = {index_order(self.index, target).get("space", own) for target in targets} or {own}
        if len(found) > 1:
            what = f"chunks of one collection go to targets that search by {' and '.join(sorted(found))}"
            raise Terminal(ReasonCode.MIXED_SPACES, what, where=collection, next_step="Correct migration.index.")
        return found.pop()


@dataclass(slots=True)
class Transformed:
    """A batch as it is to stand in the target, position by position what came in. Chunks with a failure must not be written.

    `targets` names each chunk's target collection, `types` its collection type (None without routing). `repairs` has
    `REPAIR_COLUMNS`; `failures` collection, id, reason, detail, one row per reason; both with ids of the source.
    """

    batch: ChunkBatch
    collection: str
    targets: list[str]
    types: list[str | None]
    source_ids: list[str]
    repairs: pd.DataFrame
    failures: pd.DataFrame


class Schema:
    """A schema ready for use. `digest` (SHA-256 of its resolved content) is what a resumed run must find unchanged."""

    def __init__(self, content: SchemaFile) -> None:
        self.content = content
        self.name = content.name
        self.digest = _digest(content)
        self.requires_document = content.requires_document
        self.fields: tuple[FieldRule, ...] = tuple(content.fields)
        routing, moves = content.routing, content.collections
        self.is_identity = not (content.fields or routing or content.has_rules) and content.unknown == "keep"
        self.changes_documents = any(rule.document for rule in (*content.replace, *content.redact))
        kinds: list[str | None] = [None, *content.extensions] if moves else list(routing.targets) if routing else [None]
        self._rules = {kind: (*self.fields, *content.extensions.get(kind or "", ())) for kind in kinds}
        self._checks = {kind: FieldChecks(rules, kind) for kind, rules in self._rules.items()}
        derived = {kind: [r for r in rules if r.derive is not None] for kind, rules in self._rules.items()}
        self._derived = {kind: rules for kind, rules in derived.items() if rules}
        self.derivations = {r.name: str(r.derive) for rules in derived.values() for r in rules}  # by field

    @property
    def origin_fields(self) -> list[str]:
        """The fields that hold every chunk's source collection: a search with one of them as its filter asks that one alone."""
        return [rule.name for rule in self.fields if rule.fixed == "{source_collection}"]

    def rules(self, kind: str | None) -> tuple[FieldRule, ...]:
        """The rules of all fields that a chunk of this type has, core fields first."""
        return self._rules[kind]

    def targets(self, source_collections: Sequence[str]) -> dict[str, str | None]:
        """Every target collection that chunks of these sources may reach, with its type (None without one)."""
        if self.content.collections:
            found: dict[str, str | None] = {}
            for name in source_collections:
                moves = self.content.moves(name)
                found |= {move.target(name): self.type_of(move) for move in moves}
                if not moves or moves[-1].when is not None:  # a chunk that no rule fits keeps its collection
                    found.setdefault(name, None)
            return found
        if self.content.routing is None:
            return dict.fromkeys(source_collections)
        return {name: kind for kind, name in self.content.routing.targets.items()}

    def only_source(self, target: str, names: Iterable[str]) -> str:
        """The one of these source collections whose chunks can reach this target collection; "" where several can, or none."""
        able = [name for name in names if target in self.targets([name])]
        return able[0] if len(able) == 1 else ""

    def type_of(self, move: Move) -> str | None:
        """The type of the chunks that a rule of `collections` moves: its target, where that has fields of its own."""
        return move.to if move.to in self.content.extensions else None

    def shown(self, value: Any) -> Any:
        """A value as reports may show it: what any rule of `redact` finds in a text is replaced, whatever field it is for."""
        if not self.content.redact:
            return value
        if isinstance(value, str):
            for rule in self.content.redact:
                with suppress(UnicodeEncodeError):  # such a chunk goes to quarantine
                    value = rule.apply(value)
            return value
        if isinstance(value, list):
            return [self.shown(part) for part in value]
        return {self.shown(k): self.shown(v) for k, v in value.items()} if isinstance(value, dict) else value

    def transform(self, batch: ChunkBatch, collection: str, context: Context) -> Transformed:
        """The batch of one source collection as the schema wants it. Never raises for what a chunk holds."""
        work = _Work(self, batch, collection, context)
        if self.content.has_rules:
            work.before_fields()
        for kind, positions in work.by_type().items():
            for rule in self._rules[kind]:
                work.apply(rule, positions)
            if self.content.unknown == "drop":
                work.drop_unknown({rule.name for rule in self._rules[kind]}, positions)
        if self.content.has_rules:
            work.after_fields()
        return work.finished()

    def check(
        self,
        batch: ChunkBatch,
        target_type: str | None,
        *,
        collection: str = "",
        source_collections: Collection[str] | None = None,
    ) -> pd.DataFrame:
        """Whether metadata keep the schema, by a second opinion: collection, id, reason, detail per fault.

        Only ids, documents and metadata of the batch are looked at. Reasons are `missing_<field>` and `invalid_<field>`. A
        field fixed to `{source_collection}` may have the values `source_collections`, where given.
        """
        faults = self._checks[target_type].faults(batch.metadatas, source_collections)
        if self.content.redact:
            faults = sorted([*faults, *self._unredacted(batch)])
        return failure_table([(collection, batch.ids[i], reason, detail) for i, reason, detail in faults])

    def _unredacted(self, batch: ChunkBatch) -> Iterator[Fault]:
        """What the rules of `redact` for all collections still find in the outcome."""
        for rule in (rule for rule in self.content.redact if not rule.only):
            for i, metadata in enumerate(batch.metadatas):
                texts = [(DOCUMENT, batch.documents[i])] if rule.document else []
                for key in rule.named(metadata or {}):
                    value = (metadata or {})[key]
                    texts += [(key, text) for text in (value if type(value) is list else [value])]
                for name, text in texts:
                    if isinstance(text, str) and not unicode_problem(text) and rule.found_in(text):
                        reason = ReasonCode.INVALID.of("document" if name is DOCUMENT else name)
                        yield i, reason, f"redact {show(rule.name)} still finds something"

    def failures(
        self,
        done: Transformed,
        context: Context,
        *,
        dimension: int | None,
        allowed_dimensions: Collection[int],
        space: Space,
    ) -> pd.DataFrame:
        """All that keeps chunks of a transformed batch from being written: the transformation's failures, `check` and
        `vector_failures`, under the ids of the source, one row per id and reason.
        """
        batch = replace(done.batch, ids=done.source_ids)
        parts = [done.failures]
        for kind in dict.fromkeys(done.types):
            rows = [i for i, found in enumerate(done.types) if found == kind]
            ids, metadatas = [batch.ids[i] for i in rows], [batch.metadatas[i] for i in rows]
            documents = [batch.documents[i] for i in rows]
            some = ChunkBatch(ids, documents, batch.embeddings[rows, :0], metadatas)
            sources = context.source_collections
            parts.append(self.check(some, kind, collection=done.collection, source_collections=sources))
        needed, space = self.requires_document, context.space(done.collection, space, set(done.targets))
        parts.append(vector_failures(batch, dimension, allowed_dimensions, space, needed, collection=done.collection))
        found = pd.concat([p for p in parts if len(p)] or [done.failures], ignore_index=True)
        if self.content.leave_out and len(found):  # what does not come along needs no other reason
            out = found["reason"] == ReasonCode.LEFT_OUT
            found = found[out | ~found["id"].isin(found["id"][out])]
        return found.drop_duplicates(["collection", "id", "reason"], ignore_index=True)

    def contradictions(self, batch: ChunkBatch, kinds: Sequence[str | None]) -> list[tuple[int, str, str]]:
        """(position, field, detail) where a field with `derive` holds what its document rules out; a type for each chunk."""
        found = []
        for i, kind in enumerate(kinds if self._derived else ()):
            metadata = batch.metadatas[i] or {}
            rules = [rule for rule in self._derived.get(kind, ()) if metadata.get(rule.name) is not None]
            told = certain(batch.documents[i], self.derivations.values()) if rules else {}
            for rule in rules:
                value, document = metadata[rule.name], told.get(str(rule.derive))
                if document is not None and contradicts(str(rule.derive), value, document):
                    held, told_by_document = show(self.shown(value)), show(self.shown(document))
                    found.append((i, rule.name, f"{held}, the document tells {told_by_document}"))
        return found


def _digest(content: SchemaFile) -> str:
    """Of the content as read. A field without `derive`, and so every schema of before, has the digest that it had."""
    raw = content.model_dump(mode="json", by_alias=True)
    for name in ("tables", "leave_out", "collections", "id", "rename", "replace", "redact", "drop"):
        if not raw[name]:
            del raw[name]
    if content.tables:
        raw["tables"] = {name: table.digest for name, table in content.tables.items()}  # wherever the file is
    rules = [*raw["fields"], *(rule for extra in raw["extensions"].values() for rule in extra)]
    if any(rule["derive"] for rule in rules):
        raw["derivations"] = DERIVATIONS_VERSION
    for rule in rules:
        for name in ("derive", "value", "when"):
            if rule[name] is None:
                del rule[name]
    return hashlib.sha256(json.dumps(raw, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def load_schema(name_or_path: str) -> Schema:
    """`identity`, a schema of parameters/schemas by name, or a schema file by path. UsageError where it is unusable."""
    try:
        path = schema_file(name_or_path)
    except ValueError as error:
        raise UsageError(
            ReasonCode.SCHEMA_UNKNOWN, str(error), where="schema", next_step="Correct the parameter."
        ) from error
    return Schema(SchemaFile(name=IDENTITY) if path is None else read_schema_file(path))


class _Work:
    """One batch being transformed, field by field over all chunks of a type."""

    def __init__(self, schema: Schema, batch: ChunkBatch, collection: str, context: Context) -> None:
        self.batch, self.collection, self.context, self.schema = batch, collection, context, schema
        self.documents = list(batch.documents)
        self.failures: list[Fault] = []
        self.left_out: dict[int, str] = {}  # by position: the condition
        self.hides = bool(schema.content.redact)
        self._given: dict[int, dict[str, Any]] = {}  # by position: what expressions see
        prefix = f"{collection}:" if context.id_policy == "prefix" else ""
        ids = batch.ids if schema.content.id is None else [self._new_id(i) for i in range(len(batch))]
        self.ids = [prefix + new for new in ids]
        self.metadatas: list[Metadata] = [plain(m) if m else {} for m in batch.metadatas]
        self.repairs: list[tuple[str, str, str, str, str, str]] = []
        self.told: dict[int, dict[str, Any]] = {}  # by position: what the document tells
        if not schema.is_identity:
            self.metadatas = [dict(m) for m in self.metadatas]  # the caller's own stay as they are
        self.types: list[str | None] = [None] * len(batch)
        if (routing := schema.content.routing) is not None:
            by_name = type_by_name(routing, collection)
            own = [m.get(routing.field) if routing.field else None for m in self.metadatas]
            self.types = [kind if type(kind) is str and kind in routing.targets else by_name for kind in own]
        self.targets = [routing.targets[kind] if routing and kind else collection for kind in self.types]
        if moves := schema.content.moves(collection):
            for i in range(len(batch)):
                self._move(i, moves)

    # What the schema's expressions give for a chunk; they see it as it is in the source, whatever rules came before.

    def _computed(self, text: str, i: int) -> Any:
        if i not in self._given:
            metadata = self.batch.metadatas[i]
            self._given[i] = {
                "fields": readable(plain(metadata) if metadata else {}), "document": self.batch.documents[i] or "",
                "id": self.batch.ids[i], "uri": self.batch.uris[i] or "", "collection": self.collection,
                "date": self.context.date.isoformat(),
            }  # fmt: skip
        return self.schema.content.expression(text).of(self._given[i], self.schema.shown)

    def _holds(self, text: str, i: int, name: str) -> bool:
        """Whether a condition is true; one that cannot be computed for this chunk, or gives no truth, is a failure."""
        try:
            value = self._computed(text, i)
        except ExpressionFailed as error:
            self.failures.append((i, ReasonCode.INVALID.of(name), f"{text}: {error}"))
            return False
        if type(value) is not bool:
            self.failures.append((i, ReasonCode.INVALID.of(name), f"{text}: gives neither true nor false"))
        return value is True

    def _new_id(self, i: int) -> str:
        text = str(self.schema.content.id)
        try:
            value = self._computed(text, i)
        except ExpressionFailed as error:
            value, why = ABSENT, str(error)
        else:
            why = "gives no text" if type(value) is not str or not value else ""
        if why:
            self.failures.append((i, ReasonCode.INVALID.of("id"), f"{text}: {why}"))
            return self.batch.ids[i]
        return str(value)

    def _move(self, i: int, moves: Sequence[Move]) -> None:
        for move in moves:
            if move.when is None or self._holds(move.when, i, "collection"):
                self.targets[i], self.types[i] = move.target(self.collection), self.schema.type_of(move)
                return

    # Rules of whole chunks, in the order in which docs/schemas.md lists them.

    def before_fields(self) -> None:
        content, every = self.schema.content, range(len(self.batch))
        for out in (rule for rule in content.leave_out if rule.applies(self.collection)):
            for i in (i for i in every if i not in self.left_out):
                if self._holds(out.when, i, "leave_out"):
                    self.left_out[i] = f"{out.because}: {out.when}" if out.because else out.when
        for rename in (rule for rule in content.rename if rule.applies(self.collection)):
            for i in every:
                self._rename(rename, i)
        for rule in (rule for rule in content.replace if rule.applies(self.collection)):
            self._replace(rule, "rewritten", every)
        for redact in (rule for rule in content.redact if rule.applies(self.collection) and rule.document):
            self._replace(redact.model_copy(update={"fields": ()}), "redacted", every)

    def after_fields(self) -> None:
        content, every = self.schema.content, range(len(self.batch))
        for redact in (rule for rule in content.redact if rule.applies(self.collection) and rule.fields):
            self._replace(redact.model_copy(update={"document": False}), "redacted", every)
        for drop in (rule for rule in content.drop if rule.applies(self.collection)):
            for i in every:
                for key in drop.named(self.metadatas[i]):
                    self._repair(i, key, "drop", self.metadatas[i][key], ABSENT)

    def _rename(self, rule: Rename, i: int) -> None:
        metadata = self.metadatas[i]
        if rule.source not in metadata:
            return
        if not _missing(metadata.get(rule.to, ABSENT)):
            both = f"the field is there, and so is {show(rule.source)}, which would be renamed to it"
            self.failures.append((i, ReasonCode.INVALID.of(rule.to), both))
            return
        value = metadata.pop(rule.source)
        self._repair(i, rule.to, "renamed", f"{rule.source} = {in_full(self.schema.shown(value))}", value)

    def _replace(self, rule: Replace, how: str, positions: Iterable[int]) -> None:
        def new(value: Any) -> Any:
            if type(value) is list:
                return [new(part) for part in value]
            return rule.apply(value) if type(value) is str and not unicode_problem(value) else value

        for i in positions:
            if (
                rule.document
                and self.documents[i] is not None
                and (text := new(self.documents[i])) != self.documents[i]
            ):
                before, self.documents[i] = self.documents[i], text
                self._repaired(i, DOCUMENT, how, before, text)
            for key in rule.named(self.metadatas[i]):
                value = self.metadatas[i][key]
                if (type(value) is str or type(value) is list) and (changed := new(value)) != value:
                    self._repair(i, key, how, value, changed)

    def by_type(self) -> Mapping[str | None, list[int]]:
        groups: dict[str | None, list[int]] = defaultdict(list)
        for i, kind in enumerate(self.types):
            groups[kind].append(i)
        return groups

    def apply(self, rule: FieldRule, positions: list[int]) -> None:
        """Give the field its value in every chunk of these positions."""
        for i in positions:
            value = self.metadatas[i].get(rule.name, ABSENT)
            if rule.value is not None and (rule.when is None or self._holds(rule.when, i, rule.name)):
                self._set(rule, rule.value, i, value)
            elif rule.fixed is not None:
                wanted = self._render(rule.fixed, i)
                if type(value) is not str or value != wanted:
                    self._repair(i, rule.name, "set" if _missing(value) else "fixed", value, wanted)
            elif _missing(value):
                self._fill(rule, i, value)
            else:
                self._settle(rule, i, value)

    def _set(self, rule: FieldRule, text: str, i: int, value: Any) -> None:
        """The field gets what its expression gives; null is as if the field were missing."""
        try:
            wanted = self._computed(text, i)
        except ExpressionFailed as error:
            self.failures.append((i, ReasonCode.INVALID.of(rule.name), f"{text}: {error}"))
            return
        if wanted is ABSENT:
            if not _missing(value):
                self._repair(i, rule.name, "recomputed", value, ABSENT)
            self._fill(rule, i, ABSENT)
            return
        if type(value) is not type(wanted) or value != wanted:
            self._repair(i, rule.name, "computed" if _missing(value) else "recomputed", value, wanted)
        self._settle(rule, i, wanted)

    def _fill(self, rule: FieldRule, i: int, value: Any) -> None:
        if (told := self._told(rule, i)) is not ABSENT:
            self._repair(i, rule.name, "derived", value, told)
        elif rule.default is not None:
            self._repair(i, rule.name, "missing", value, self._default(rule, i))
        elif not rule.optional:
            self.failures.append((i, ReasonCode.MISSING.of(rule.name), "the field is missing"))
        elif value is None:
            self._repair(i, rule.name, "empty", value, ABSENT)

    def _settle(self, rule: FieldRule, i: int, value: Any) -> None:
        outcome, new = rule.settle(value)
        if outcome == "reject":
            self.failures.append((i, ReasonCode.INVALID.of(rule.name), show(self.schema.shown(value))))
        elif outcome == "coerce" and not self.context.lists and _as_json(new) == value:
            pass  # a list that already is the JSON text which it would become
        elif outcome == "default":
            told = self._told(rule, i)
            by, new = ("default", self._default(rule, i)) if told is ABSENT else ("replaced", told)
            self._repair(i, rule.name, by, value, new)
        elif outcome:
            self._repair(i, rule.name, outcome, value, new)
        if outcome == "empty" and not rule.optional:
            self.failures.append((i, ReasonCode.MISSING.of(rule.name), "the list is empty"))

    def _told(self, rule: FieldRule, i: int) -> Any:
        """What the document tells for this field; ABSENT where that is not certain, or not allowed."""
        if rule.derive is None:
            return ABSENT
        if i not in self.told:
            self.told[i] = certain(self.documents[i], self.schema.derivations.values())
        value = self.told[i].get(rule.derive, ABSENT)
        return value if value is not ABSENT and rule.allows(value) else ABSENT

    def _default(self, rule: FieldRule, i: int) -> Any:
        if rule.default is None:
            return ABSENT
        if not isinstance(rule.default, str):
            return rule.default
        text = self._render(rule.default, i)
        return int(text) if rule.type == "integer" else text

    def _render(self, template: str, i: int) -> str:
        names = placeholders(template)
        return template.format_map({name: self._placeholder(name, i) for name in names})

    def _placeholder(self, name: str, i: int) -> str:
        if name == "word_count":
            return str(len((self.documents[i] or "").split()))
        if name == "uri_id":
            return quote(self.ids[i], safe="", errors="surrogatepass")
        return {
            "source_collection": self.collection,
            "date": self.context.date.isoformat(),
            "routing": self.types[i] or "",
            "id": self.ids[i],
        }[name]

    def drop_unknown(self, known: set[str], positions: list[int]) -> None:
        for i in positions:
            for key in [k for k in self.metadatas[i] if k not in known]:
                self._repair(i, key, "drop", self.metadatas[i][key], ABSENT)

    def _repair(self, i: int, field: object, rule: str, before: Any, after: Any) -> None:
        if after is ABSENT:
            self.metadatas[i].pop(field, None)  # type: ignore[call-overload]  # a foreign key may be no text
        else:
            self.metadatas[i][str(field)] = after
        if rule == "renamed" or self.hides:
            self._repaired(i, field, rule, before, after)
            return
        row = (self.collection, self.batch.ids[i], field if isinstance(field, str) else show(field), rule)
        self.repairs.append((*row, in_full(before), in_full(after)))

    def _repaired(self, i: int, field: object, rule: str, before: Any, after: Any) -> None:
        """The same for what is shown in another way: redacted, or with the name that the field had."""
        shown = "(not shown)" if rule == "redacted" else str(before)
        if rule not in ("redacted", "renamed"):
            shown = in_full(self.schema.shown(before))
        row = (self.collection, self.batch.ids[i], field if isinstance(field, str) else show(field), rule)
        self.repairs.append((*row, shown, in_full(self.schema.shown(after))))

    def finished(self) -> Transformed:
        whole: list[Metadata | None] = [m or None for m in self.metadatas]
        for i, before in enumerate(self.batch.metadatas):
            if before is not None and not before:
                self.repairs.append((self.collection, self.batch.ids[i], "", "empty", "{}", show(whole[i])))
        batch = replace(self.batch, ids=self.ids, documents=self.documents, metadatas=whole)
        faults = [*self.failures, *hazards(self.batch.ids, batch)]
        if not self.context.lists:
            self._as_text("json", lambda value: type(value) is list, _as_json)
        if any(fnmatchcase(self.collection, pattern) for pattern in self.context.drop_indexes):
            self._as_text("sparse", is_sparse, sparse_as_text)
        for i, metadata in enumerate(self.metadatas):
            if keys := [key for key, value in metadata.items() if is_sparse(value)]:
                faults.append((i, ReasonCode.UNSUPPORTED_METADATA, f"{show(keys[0])}: {NO_SPARSE}"))
        batch.metadatas = [m or None for m in self.metadatas]
        faults = [fault for fault in faults if fault[0] not in self.left_out]
        faults += [(i, ReasonCode.LEFT_OUT, why) for i, why in self.left_out.items()]
        rows = [(self.collection, self.batch.ids[i], reason, detail) for i, reason, detail in sorted(faults)]
        return Transformed(
            batch=batch,
            collection=self.collection,
            targets=self.targets,
            types=self.types,
            source_ids=list(self.batch.ids),
            repairs=pd.DataFrame(self.repairs, columns=list(REPAIR_COLUMNS), dtype=object),
            failures=failure_table(rows),
        )

    def _as_text(self, rule: str, applies: Callable[[Any], bool], spelled: Callable[[Any], str]) -> None:
        """Metadata values that the target cannot hold, as text."""
        for i, metadata in enumerate(self.metadatas):
            keys = [key for key, value in metadata.items() if applies(value)]
            if keys:
                self.metadatas[i] = dict(metadata)
            for key in keys:
                self._repair(i, key, rule, metadata[key], spelled(metadata[key]))


def sparse_as_text(vector: Any) -> str:
    """A sparse vector as the JSON that Chroma itself sends for it: `{"#type": "sparse_vector", "indices": …}`."""
    return json.dumps(vector.to_dict(), separators=(",", ":"))


def type_by_name(routing: Routing, collection: str) -> str:
    """The type of a source collection's chunks by its name: the first rule that fits, else `otherwise`."""
    name = collection.casefold()
    return next((rule.type for rule in routing.by_name if rule.contains.casefold() in name), routing.otherwise)


def _missing(value: Any) -> bool:
    return value is ABSENT or value is None


def _as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=repr)

"""What a migration does to ids and metadata, as data: a schema file read into `Schema`.

`Schema.transform` routes, fills, coerces and repairs a batch. `Schema.check` checks the result, and what the target returns,
by independent code. `identity` is the schema that changes nothing.
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
DOCUMENT = "(document)"  # the document's name among the fields of repairs; Chroma's clients write no field of this name
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

    `date` is the day of the migration (UTC). `id_policy` "prefix" makes ids `<collection>:<id>`. `lists` tells whether the
    target's metadata can hold lists. `drop_indexes` are patterns of source collections whose sparse vectors, which a local
    Chroma refuses, become text; elsewhere a chunk that has one goes to quarantine. `index` is `migration.index`.
    """

    source_collections: frozenset[str]
    date: dt.date
    id_policy: Literal["fail", "prefix"]
    lists: bool = True
    drop_indexes: tuple[str, ...] = ()
    index: Mapping[str, IndexSettings] = field(default_factory=dict)

    @classmethod
    def of(cls, names: Collection[str], date: dt.date, rules: Migration) -> Context:
        """The context of these source collections under the parameters `rules`."""
        return cls(frozenset(names), date, rules.id_policy, True, tuple(rules.drop_indexes), rules.index)

    def space(self, collection: str, own: Space, targets: Collection[str]) -> Space:
        """The distance by which the target searches the chunks of this collection. `Terminal` where there are several."""
        spaces: set[Space] = {index_order(self.index, target).get("space", own) for target in targets} or {own}
        if len(spaces) > 1:
            problem = f"chunks of one collection go to targets that search by {' and '.join(sorted(spaces))}"
            raise Terminal(ReasonCode.MIXED_SPACES, problem, where=collection, next_step="Correct migration.index.")
        return spaces.pop()


@dataclass(slots=True)
class Transformed:
    """A batch as it is to be in the target, in the order of the input. Chunks with a failure must not be written.

    `targets` names each chunk's target collection, `types` its collection type (None without routing). `repairs` has
    `REPAIR_COLUMNS`; `failures` has collection, id, reason, detail, one row per reason; both with ids of the source.
    """

    batch: ChunkBatch
    collection: str
    targets: list[str]
    types: list[str | None]
    source_ids: list[str]
    repairs: pd.DataFrame
    failures: pd.DataFrame


class Schema:
    """A schema ready for use. `digest` (SHA-256 of its resolved content) must be unchanged when a run is resumed."""

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
        """The fields that hold every chunk's source collection: a search can select one collection by them."""
        return [rule.name for rule in self.fields if rule.fixed == "{source_collection}"]

    def rules(self, kind: str | None) -> tuple[FieldRule, ...]:
        """The rules of all fields of chunks of this type, core fields first."""
        return self._rules[kind]

    def targets(self, source_collections: Sequence[str]) -> dict[str, str | None]:
        """Every target collection that chunks of these sources may reach, with its type (None without one)."""
        if self.content.collections:
            targets: dict[str, str | None] = {}
            for name in source_collections:
                moves = self.content.moves(name)
                targets |= {move.target(name): self.type_of(move) for move in moves}
                if not moves or moves[-1].when is not None:  # a chunk that no rule matches keeps its collection
                    targets.setdefault(name, None)
            return targets
        if self.content.routing is None:
            return dict.fromkeys(source_collections)
        return {name: kind for kind, name in self.content.routing.targets.items()}

    def only_source(self, target: str, names: Iterable[str]) -> str:
        """The only one of these source collections whose chunks can reach this target collection; "" if several or none."""
        candidates = [name for name in names if target in self.targets([name])]
        return candidates[0] if len(candidates) == 1 else ""

    def type_of(self, move: Move) -> str | None:
        """The type of the chunks that a rule of `collections` moves: its target, if that has fields of its own."""
        return move.to if move.to in self.content.extensions else None

    def shown(self, value: Any) -> Any:
        """The value as reports may show it: every match of a rule of `redact` replaced, whatever field the rule is for."""
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
        """Apply the schema to a batch of one source collection. Never raises for the content of a chunk."""
        work = _BatchTransform(self, batch, collection, context)
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
        """Check metadata against the schema by independent code: collection, id, reason, detail per fault.

        Reads only ids, documents and metadata of the batch. Reasons are `missing_<field>` and `invalid_<field>`. A field
        fixed to `{source_collection}` may have the values `source_collections`, where given.
        """
        faults = self._checks[target_type].faults(batch.metadatas, source_collections)
        if self.content.redact:
            faults = sorted([*faults, *self._unredacted(batch)])
        return failure_table([(collection, batch.ids[i], reason, detail) for i, reason, detail in faults])

    def _unredacted(self, batch: ChunkBatch) -> Iterator[Fault]:
        """Faults where the rules of `redact` for all collections still match the result."""
        for rule in (rule for rule in self.content.redact if not rule.only):
            for i, metadata in enumerate(batch.metadatas):
                texts = [(DOCUMENT, batch.documents[i])] if rule.document else []
                for key in rule.matching_keys(metadata or {}):
                    value = (metadata or {})[key]
                    texts += [(key, text) for text in (value if type(value) is list else [value])]
                for name, text in texts:
                    if isinstance(text, str) and not unicode_problem(text) and rule.matches(text):
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
        """Every reason against writing chunks of a transformed batch: the transformation's failures, `check` and
        `vector_failures`, under the ids of the source, one row per id and reason.
        """
        batch = replace(done.batch, ids=done.source_ids)
        parts = [done.failures]
        for kind in dict.fromkeys(done.types):
            rows = [i for i, type_ in enumerate(done.types) if type_ == kind]
            ids, metadatas = [batch.ids[i] for i in rows], [batch.metadatas[i] for i in rows]
            documents = [batch.documents[i] for i in rows]
            some = ChunkBatch(ids, documents, batch.embeddings[rows, :0], metadatas)
            sources = context.source_collections
            parts.append(self.check(some, kind, collection=done.collection, source_collections=sources))
        needed, space = self.requires_document, context.space(done.collection, space, set(done.targets))
        parts.append(vector_failures(batch, dimension, allowed_dimensions, space, needed, collection=done.collection))
        failures = pd.concat([p for p in parts if len(p)] or [done.failures], ignore_index=True)
        if self.content.leave_out and len(failures):  # a chunk that is left out needs no other reason
            out = failures["reason"] == ReasonCode.LEFT_OUT
            failures = failures[out | ~failures["id"].isin(failures["id"][out])]
        return failures.drop_duplicates(["collection", "id", "reason"], ignore_index=True)

    def contradictions(self, batch: ChunkBatch, kinds: Sequence[str | None]) -> list[tuple[int, str, str]]:
        """(position, field, detail) where a field with `derive` contradicts its document; `kinds`: the type of each chunk."""
        rows = []
        for i, kind in enumerate(kinds if self._derived else ()):
            metadata = batch.metadatas[i] or {}
            rules = [rule for rule in self._derived.get(kind, ()) if metadata.get(rule.name) is not None]
            derived = certain(batch.documents[i], self.derivations.values()) if rules else {}
            for rule in rules:
                value, document = metadata[rule.name], derived.get(str(rule.derive))
                if document is not None and contradicts(str(rule.derive), value, document):
                    held, given = show(self.shown(value)), show(self.shown(document))
                    rows.append((i, rule.name, f"{held}, the document tells {given}"))
        return rows


def _digest(content: SchemaFile) -> str:
    """The digest of the content as read. A schema without the newer keys keeps the digest that it had before them."""
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
    """`identity`, a schema of parameters/schemas by name, or a schema file by path. `UsageError` where it is unusable."""
    try:
        path = schema_file(name_or_path)
    except ValueError as error:
        raise UsageError(
            ReasonCode.SCHEMA_UNKNOWN, str(error), where="schema", next_step="Correct the parameter."
        ) from error
    return Schema(SchemaFile(name=IDENTITY) if path is None else read_schema_file(path))


class _BatchTransform:
    """One batch being transformed, field by field over all chunks of a type."""

    def __init__(self, schema: Schema, batch: ChunkBatch, collection: str, context: Context) -> None:
        self.batch, self.collection, self.context, self.schema = batch, collection, context, schema
        self.documents = list(batch.documents)
        self.failures: list[Fault] = []
        self.left_out: dict[int, str] = {}  # position → condition
        self.redacts = bool(schema.content.redact)
        self._inputs: dict[int, dict[str, Any]] = {}  # position → variables of expressions
        prefix = f"{collection}:" if context.id_policy == "prefix" else ""
        ids = batch.ids if schema.content.id is None else [self._new_id(i) for i in range(len(batch))]
        self.ids = [prefix + new for new in ids]
        self.metadatas: list[Metadata] = [plain(m) if m else {} for m in batch.metadatas]
        self.repairs: list[tuple[str, str, str, str, str, str]] = []
        self.derived: dict[int, dict[str, Any]] = {}  # position → what the document tells
        if not schema.is_identity:
            self.metadatas = [dict(m) for m in self.metadatas]  # the caller's dictionaries are not changed
        self.types: list[str | None] = [None] * len(batch)
        if (routing := schema.content.routing) is not None:
            by_name = type_by_name(routing, collection)
            own = [m.get(routing.field) if routing.field else None for m in self.metadatas]
            self.types = [kind if type(kind) is str and kind in routing.targets else by_name for kind in own]
        self.targets = [routing.targets[kind] if routing and kind else collection for kind in self.types]
        if moves := schema.content.moves(collection):
            for i in range(len(batch)):
                self._move(i, moves)

    # Values of the schema's expressions for a chunk; they see it as it is in the source, whatever rules came before.

    def _computed(self, text: str, i: int) -> Any:
        if i not in self._inputs:
            metadata = self.batch.metadatas[i]
            self._inputs[i] = {
                "fields": readable(plain(metadata) if metadata else {}), "document": self.batch.documents[i] or "",
                "id": self.batch.ids[i], "uri": self.batch.uris[i] or "", "collection": self.collection,
                "date": self.context.date.isoformat(),
            }  # fmt: skip
        return self.schema.content.expression(text).of(self._inputs[i], self.schema.shown)

    def _holds(self, text: str, i: int, name: str) -> bool:
        """Whether a condition is true; one that fails for this chunk, or gives no boolean, is a failure."""
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
            value, problem = ABSENT, str(error)
        else:
            problem = "gives no text" if type(value) is not str or not value else ""
        if problem:
            self.failures.append((i, ReasonCode.INVALID.of("id"), f"{text}: {problem}"))
            return self.batch.ids[i]
        return str(value)

    def _move(self, i: int, moves: Sequence[Move]) -> None:
        for move in moves:
            if move.when is None or self._holds(move.when, i, "collection"):
                self.targets[i], self.types[i] = move.target(self.collection), self.schema.type_of(move)
                return

    # Rules for whole chunks, in the order of docs/schemas.md.

    def before_fields(self) -> None:
        content, positions = self.schema.content, range(len(self.batch))
        for rule_out in (rule for rule in content.leave_out if rule.applies(self.collection)):
            for i in (i for i in positions if i not in self.left_out):
                if self._holds(rule_out.when, i, "leave_out"):
                    self.left_out[i] = f"{rule_out.because}: {rule_out.when}" if rule_out.because else rule_out.when
        for rename in (rule for rule in content.rename if rule.applies(self.collection)):
            for i in positions:
                self._rename(rename, i)
        for rule in (rule for rule in content.replace if rule.applies(self.collection)):
            self._replace(rule, "rewritten", positions)
        for redact in (rule for rule in content.redact if rule.applies(self.collection) and rule.document):
            self._replace(redact.model_copy(update={"fields": ()}), "redacted", positions)

    def after_fields(self) -> None:
        content, positions = self.schema.content, range(len(self.batch))
        for redact in (rule for rule in content.redact if rule.applies(self.collection) and rule.fields):
            self._replace(redact.model_copy(update={"document": False}), "redacted", positions)
        for drop in (rule for rule in content.drop if rule.applies(self.collection)):
            for i in positions:
                for key in drop.matching_keys(self.metadatas[i]):
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
            for key in rule.matching_keys(self.metadatas[i]):
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
                new = self._render(rule.fixed, i)
                if type(value) is not str or value != new:
                    self._repair(i, rule.name, "set" if _missing(value) else "fixed", value, new)
            elif _missing(value):
                self._fill(rule, i, value)
            else:
                self._settle(rule, i, value)

    def _set(self, rule: FieldRule, text: str, i: int, value: Any) -> None:
        """Give the field the value of its expression; null counts as a missing field."""
        try:
            new = self._computed(text, i)
        except ExpressionFailed as error:
            self.failures.append((i, ReasonCode.INVALID.of(rule.name), f"{text}: {error}"))
            return
        if new is ABSENT:
            if not _missing(value):
                self._repair(i, rule.name, "recomputed", value, ABSENT)
            self._fill(rule, i, ABSENT)
            return
        if type(value) is not type(new) or value != new:
            self._repair(i, rule.name, "computed" if _missing(value) else "recomputed", value, new)
        self._settle(rule, i, new)

    def _fill(self, rule: FieldRule, i: int, value: Any) -> None:
        if (derived := self._derive(rule, i)) is not ABSENT:
            self._repair(i, rule.name, "derived", value, derived)
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
            derived = self._derive(rule, i)
            by, new = ("default", self._default(rule, i)) if derived is ABSENT else ("replaced", derived)
            self._repair(i, rule.name, by, value, new)
        elif outcome:
            self._repair(i, rule.name, outcome, value, new)
        if outcome == "empty" and not rule.optional:
            self.failures.append((i, ReasonCode.MISSING.of(rule.name), "the list is empty"))

    def _derive(self, rule: FieldRule, i: int) -> Any:
        """The value that the document gives this field; ABSENT where it is uncertain or not allowed."""
        if rule.derive is None:
            return ABSENT
        if i not in self.derived:
            self.derived[i] = certain(self.documents[i], self.schema.derivations.values())
        value = self.derived[i].get(rule.derive, ABSENT)
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

    def drop_unknown(self, names: set[str], positions: list[int]) -> None:
        for i in positions:
            for key in [k for k in self.metadatas[i] if k not in names]:
                self._repair(i, key, "drop", self.metadatas[i][key], ABSENT)

    def _repair(self, i: int, field: object, rule: str, before: Any, after: Any) -> None:
        if after is ABSENT:
            self.metadatas[i].pop(field, None)  # type: ignore[call-overload]  # a foreign key may be no text
        else:
            self.metadatas[i][str(field)] = after
        if rule == "renamed" or self.redacts:
            self._repaired(i, field, rule, before, after)
            return
        row = (self.collection, self.batch.ids[i], field if isinstance(field, str) else show(field), rule)
        self.repairs.append((*row, in_full(before), in_full(after)))

    def _repaired(self, i: int, field: object, rule: str, before: Any, after: Any) -> None:
        """Record a repair whose old value is shown in another way: redacted, or with the field's old name."""
        shown = "(not shown)" if rule == "redacted" else str(before)
        if rule not in ("redacted", "renamed"):
            shown = in_full(self.schema.shown(before))
        row = (self.collection, self.batch.ids[i], field if isinstance(field, str) else show(field), rule)
        self.repairs.append((*row, shown, in_full(self.schema.shown(after))))

    def finished(self) -> Transformed:
        metadatas: list[Metadata | None] = [m or None for m in self.metadatas]
        for i, before in enumerate(self.batch.metadatas):
            if before is not None and not before:
                self.repairs.append((self.collection, self.batch.ids[i], "", "empty", "{}", show(metadatas[i])))
        batch = replace(self.batch, ids=self.ids, documents=self.documents, metadatas=metadatas)
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
        faults += [(i, ReasonCode.LEFT_OUT, condition) for i, condition in self.left_out.items()]
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
        """Write metadata values that the target cannot hold as text."""
        for i, metadata in enumerate(self.metadatas):
            keys = [key for key, value in metadata.items() if applies(value)]
            if keys:
                self.metadatas[i] = dict(metadata)
            for key in keys:
                self._repair(i, key, rule, metadata[key], spelled(metadata[key]))


def sparse_as_text(vector: Any) -> str:
    """A sparse vector as the JSON that Chroma sends for it: `{"#type": "sparse_vector", "indices": …}`."""
    return json.dumps(vector.to_dict(), separators=(",", ":"))


def type_by_name(routing: Routing, collection: str) -> str:
    """The type of a source collection's chunks by its name: that of the first rule that matches, else `otherwise`."""
    name = collection.casefold()
    return next((rule.type for rule in routing.by_name if rule.contains.casefold() in name), routing.otherwise)


def _missing(value: Any) -> bool:
    return value is ABSENT or value is None


def _as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=repr)

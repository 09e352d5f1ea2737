"""Which properties of the source the target keeps: the configuration of collections, the full-text index, the answers of queries
with known answers, and the fields of a schema, chunk by chunk."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers.chunks import ChunkBatch
from helpers.errors import EnvironmentFailure, UsageError, one_line
from helpers.parameters import resolve_path
from helpers.parameters.endpoint import Retrieval
from helpers.parameters.model import read_yaml_mapping
from helpers.parameters.sections import Migration, index_order
from helpers.reason_codes import ReasonCode
from helpers.results import Check, Verdict, kind_of
from helpers.run.record import RunRecord
from helpers.snapshots.comparison import metadata_differences, same_value, show
from helpers.stores import (
    HNSW_METADATA,
    VECTORS,
    CollectionInfo,
    Reader,
    excessive_settings,
    legacy_parameters,
    moderate,
    switches,
)
from helpers.stores.client import ClientStore
from helpers.stores.creation import allowed, effective_configuration, reduced, unsupported

if TYPE_CHECKING:  # a schema imports pandera; a status need not wait for it
    from helpers.schema import Schema, Transformed

# -- configuration -----------------------------------------------------------------------------------------------------

COLUMNS = ["collection", "setting", "source", "target", "state", "why"]
KEPT, EXPLAINED, DIFFERENT = "kept", "explained", "DIFFERENT"
ORDERED = "migration.index orders it"
SILENT = "the target does not say"
EXCESSIVE = "no index has as much; the default is used"
MERGED = "several collections of the source become one, which has what they share"
NAME, REASON = "configuration", ReasonCode.CONFIGURATION_DIFFERS


def compare_configuration(source: CollectionInfo, target: CollectionInfo, rules: Migration) -> list[dict[str, Any]]:
    """A row per setting of the index, the embedding function, and each key of the collection's metadata.

    A loss that a local Chroma cannot avoid is explained where `migration.drop_indexes` names the collection, another index
    setting where `migration.index` orders it.
    """
    dropped: list[dict[str, Any]] = []
    if allowed(source, rules.drop_indexes):
        reason = "migration.drop_indexes gives it up"
        dropped = [_row(source.name, f"{i.kind} on {i.key}", "yes", i.becomes, reason) for i in unsupported(source)]
    excessive, source = excessive_settings(source), reduced(source) if dropped else moderate(source)
    old, new = effective_configuration(source), effective_configuration(target)
    kind = "spann" if old.get("spann") else "hnsw"
    before, after = dict(old[kind] or {}), dict(new.get(kind) or {})
    order = index_order(rules.index, target.name)
    rows = [] if "space" in order else [_row(source.name, "space", source.space, target.space)]
    rows += ordered_settings(target, rules, {**before, **excessive})
    for setting in sorted(before.keys() - {"space"} - order.keys()):
        reason = "" if setting in after else SILENT
        rows.append(_row(source.name, setting, before[setting], after.get(setting), reason))
    metadata = source.metadata or {}
    refused = "current servers refuse this value or break on it; the default is used"
    usable = legacy_parameters(metadata)
    left_out = [key for key in sorted(metadata) if key in HNSW_METADATA and HNSW_METADATA[key] not in usable]
    rows += [_row(source.name, HNSW_METADATA[key], metadata[key], None, refused) for key in left_out]
    rows += [
        _row(source.name, name, value, after.get(name), EXCESSIVE)
        for name, value in sorted(excessive.items())
        if name not in order
    ]
    rows.append(_function(source.name, old["embedding_function"], new["embedding_function"]))
    return rows + dropped + _switches(source, target) + _metadata(source, target, order)


def ordered_settings(target: CollectionInfo, rules: Migration, before: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row per setting that `migration.index` orders: explained where the target has it, else different."""
    after = effective_configuration(target)["hnsw"] or {}
    return [
        _row(target.name, setting, before.get(setting), value, ORDERED)
        if after.get(setting) == value
        else _row(target.name, setting, value, after.get(setting))
        for setting, value in sorted(index_order(rules.index, target.name).items())
    ]


def of_merged(sources: Sequence[CollectionInfo], target: CollectionInfo, rules: Migration) -> list[dict[str, Any]]:
    """The rows of a collection that gets chunks of several: what is ordered, and which of their settings it does not keep."""
    order = index_order(rules.index, target.name)
    rows = ordered_settings(target, rules, {})
    by_setting: dict[str, list[dict[str, Any]]] = {}  # one row per setting in the end, however many collections had it
    for source in sources:
        for row in compare_configuration(source, target, rules):
            if row["state"] == DIFFERENT and row["setting"] not in order:
                by_setting.setdefault(row["setting"], []).append(row)
    for lost in by_setting.values():
        many = f"{len(lost)} collections that become {target.name}"
        owner = lost[0]["collection"] if len(lost) == 1 else many
        values = ", ".join(sorted({row["source"] for row in lost} - {""}))
        rows.append(lost[0] | {"collection": owner, "source": values, "state": EXPLAINED, "why": MERGED})
    return rows


def judge_configuration(rows: list[dict[str, Any]]) -> Check:
    """Fail where a setting differs without an explanation."""
    if not rows:
        return Check(NAME, Verdict.NOT_APPLICABLE, detail="the schema creates new collections")
    different = [row for row in rows if row["state"] == DIFFERENT]
    listed = different or [row for row in rows if row["why"] in (MERGED, SILENT)]
    shown = [(r["collection"], r["setting"], r["source"] or "none", r["target"] or "none") for r in listed[:5]]
    detail = "; ".join(f"{name}: {setting} {before} became {after}" for name, setting, before, after in shown)
    detail += f"; and {len(listed) - 5} more" * (len(listed) > 5)
    detail += f". Explained: {', '.join(sorted({r['why'] for r in listed}))}" if listed and not different else ""
    verdict = Verdict.FAIL if different else Verdict.PASS
    return Check(NAME, verdict, len(rows) - len(different), len(rows), "settings", REASON if different else "", detail,
                 len(different), [{k: r[k] for k in ("collection", "setting")} for r in different[:20]])  # fmt: skip


def _row(collection: str, setting: str, before: Any, after: Any, reason: str = "") -> dict[str, Any]:
    equal = type(before) is type(after) and before == after
    state = KEPT if equal else EXPLAINED if reason else DIFFERENT
    texts = ["" if value is None else str(value) for value in (before, after)]
    return dict(zip(COLUMNS, (collection, setting, *texts, state, "" if equal else reason), strict=True))


def _function(collection: str, before: Any, after: Any) -> dict[str, Any]:
    nothing = {"none", "legacy"}
    names = [_function_name(function) for function in (before, after)]
    if set(names) <= nothing:
        return _row(collection, "embedding function", "none", "none")
    if names[0] == names[1] and (before or {}).get("config") != (after or {}).get("config"):
        names[1] = "another config"
    return _row(collection, "embedding function", *names)


def explained_function(row: dict[str, Any], source: CollectionInfo) -> dict[str, Any]:
    """The row of a collection with new vectors: its function is the ordered one instead of the source's."""
    if row["setting"] != "embedding function":
        return row
    old = _function_name(effective_configuration(source)["embedding_function"])
    if row["state"] != KEPT:
        return row | {"source": old}
    new = "another config" if row["target"] == old else row["target"]
    return row | {"source": old, "target": new, "state": EXPLAINED, "why": "migration.reembed orders it"}


def _function_name(function: Any) -> str:
    if not isinstance(function, Mapping):
        return "none"
    return "legacy" if function.get("type") == "legacy" else str(function.get("name", "none"))


def _switches(source: CollectionInfo, target: CollectionInfo) -> list[dict[str, Any]]:
    """Which indexes of metadata and documents are on: a row for each that is unusual or differs."""
    if source.schema is None:
        return []
    before, after = switches(source.schema), switches(target.schema or {})  # older servers have no schemas
    usual = [{(kind, index): on for (key, kind, index), on in side.items() if key == ""} for side in (before, after)]
    rows = []
    for place in sorted({*before, *after}):
        key, kind, index = place
        if key in ("", VECTORS):
            continue
        sides = zip((before, after), usual, strict=True)
        pair = [side.get(place, fallback.get((kind, index))) for side, fallback in sides]
        normal = _DOCUMENTS[index] if key == "#document" and index in _DOCUMENTS else usual[0].get((kind, index))
        if (pair[0] != pair[1] and target.schema is not None) or pair[0] != normal:
            texts = [None if on is None else "on" if on else "off" for on in pair]
            reason = SILENT if pair[1] is None else ""
            rows.append(_row(source.name, f"{index} of {key}", texts[0], texts[1], reason))
    return rows


_DOCUMENTS = {"fts_index": True, "string_inverted_index": False}  # of `#document`, by default


def _metadata(source: CollectionInfo, target: CollectionInfo, order: Mapping[str, Any]) -> list[dict[str, Any]]:
    before, after = source.metadata or {}, target.metadata or {}
    different = {key: detail for _, key, detail in metadata_differences(before, after)}
    rows = []
    for key in sorted({*before, *after, *different}):
        reason = "turned into configuration" if key in HNSW_METADATA and key not in after else ""
        reason = reason or (ORDERED if HNSW_METADATA.get(key, key.removeprefix("hnsw:")) in order else "")
        value = before.get(key) if key not in different else after.get(key)
        rows.append(_row(source.name, f"metadata {key}", before.get(key), value, reason))
    return rows


# The full-text index, tested with some documents: after an import with correct counts `where_document` may still be blind

CHECK = "documents that full-text search misses"
_ASKED = 20  # documents per collection
_LENGTH = 24  # characters to search for; an index of trigrams answers from three on


# -- queries with known answers ----------------------------------------------------------------------------------------

KNOWN, AGREEMENT = "queries with known answers", "neighbours as before"  # checks
_AT_ONCE, _SHOWN = 20, 200  # queries in one request; rows kept as a fact, those without an answer first


def known_answers(rules: Retrieval | None) -> dict[str, list[str]]:
    """Query → source ids. Raises `UsageError` where the file, or the mapping, is not that."""
    if rules is None:
        return {}
    place, answers = "validation.retrieval.queries", dict[str, list[str]]()
    queries: Mapping[Any, Any]
    if isinstance(rules.queries, str):
        place = str(resolve_path(rules.queries))
        queries = read_yaml_mapping(Path(place), what="file of queries")
    else:
        queries = rules.queries
    for query, value in queries.items():
        ids = [value] if isinstance(value, str) else value
        if not (isinstance(query, str) and isinstance(ids, list) and ids and all(isinstance(i, str) for i in ids)):
            raise UsageError(
                ReasonCode.PARAMETERS_INVALID, f"the query {one_line(str(query), 60)!r} has no list of ids as texts",
                where=place, next_step="Write lines such as  how to reset a password: ['doc-17']; quote numbers.",
            )  # fmt: skip
        answers[query] = ids
    return answers


class KnownAnswers:
    """The places of the chunks that queries must find, collected as a side is read; `rows` asks the queries."""

    def __init__(self, rules: Retrieval | None) -> None:
        self.answers = known_answers(rules)
        self.k = rules.k if rules else 0
        self._expected = {chunk for ids in self.answers.values() for chunk in ids}
        self._places: dict[str, set[tuple[str, str]]] = defaultdict(set)  # source id → (collection, id there)

    def feed(self, collection: str, ids: Sequence[str], origins: Sequence[str]) -> None:
        """Take chunks of a collection: their ids there and in the source."""
        if self._expected:
            for chunk, origin in zip(ids, origins, strict=True):
                if origin in self._expected:
                    self._places[origin].add((collection, chunk))

    def rows(self, store: Reader) -> list[dict[str, Any]]:
        """One row per query: expected ids, the best rank of one of them (None: not among the first k), and why there is none.

        Each query is asked in the collections that hold its chunks, embedded by their own function.
        """
        places = {query: set().union(*(self._places[i] for i in ids)) for query, ids in self.answers.items()}
        names = {c for homes in places.values() for c, _ in homes}
        unavailable = {name: store.why_no_text_queries(name) for name in names}
        rank: dict[str, int] = {}
        for name in sorted(name for name in unavailable if not unavailable[name]):
            queries = [query for query, homes in places.items() if any(c == name for c, _ in homes)]
            for start in range(0, len(queries), _AT_ONCE):
                batch = queries[start : start + _AT_ONCE]
                for query, hits in zip(batch, store.query_texts(name, batch, self.k), strict=True):
                    place = next((n for n, hit in enumerate(hits, 1) if (name, hit[0]) in places[query]), None)
                    if place is not None:
                        rank[query] = min(place, rank.get(query, place))
        rows = []
        for query, ids in self.answers.items():
            unasked = sorted({unavailable[c] for c, _ in places[query] if unavailable[c]}) if query not in rank else []
            reason = "" if query in rank else f"not among the first {self.k}"
            reason = "no collection holds an expected id" if not places[query] else "; ".join(unasked) or reason
            askable = not places[query] or any(not unavailable[c] for c, _ in places[query])
            rows.append({"query": query, "expect": ids, "rank": rank.get(query), "asked": askable, "why": reason})
        return rows


def answers_of_source(store: Reader, names: Sequence[str], rules: Retrieval | None) -> dict[str, int] | None:
    """How many queries the source answers, for information; None where it cannot be asked, or no query is named."""
    answers = KnownAnswers(rules)
    for name in names if answers.answers else ():
        ids = store.read(name, sorted(answers._expected), embeddings=False).ids
        answers.feed(name, ids, ids)
    asked = [row for row in answers.rows(store) if row["asked"]]
    return {"queries": len(asked), "found": sum(row["rank"] is not None for row in asked)} if asked else None


def judge_known(
    rows: Sequence[Mapping[str, Any]], rules: Retrieval | None, before: Mapping[str, int] | None
) -> Check | None:
    """Check whether enough queries find one of their known chunks; None where no query is named."""
    if rules is None or not rows:
        return None
    asked = [row for row in rows if row["asked"]]
    name, limit = "validation.retrieval.at_least", rules.at_least
    if not asked:
        reason = "; ".join(sorted({str(row["why"]) for row in rows})[:3])
        return Check(KNOWN, Verdict.NOT_EXERCISED, 0, limit, "", detail=reason, relation="≥", parameter=name)
    unanswered = [row for row in rows if row["rank"] is None]
    share = (len(rows) - len(unanswered)) / len(rows)
    detail = f"{len(rows) - len(unanswered):,} of {len(rows):,} find an expected id among the first {rules.k}"
    detail += f"; the source answered {before['found']:,} of {before['queries']:,}" if before else ""
    detail += "".join(f"; {one_line(str(row['query']), 60)}: {row['why']}" for row in unanswered[:3])
    failed = share + 1e-9 < limit
    first = unanswered[:20]
    ids = [{"query": row["query"], "expect": ", ".join(row["expect"][:3]), "why": row["why"]} for row in first]
    return Check(
        KNOWN, Verdict.FAIL if failed else Verdict.PASS, round(share, 4), limit, "",
        ReasonCode.QUERY_WITHOUT_ANSWER if failed else "", detail, len(unanswered), ids, name, "≥",
    )  # fmt: skip


def known_fact(rows: Sequence[Mapping[str, Any]], before: Mapping[str, int] | None) -> dict[str, Any]:
    """The fact `retrieval` of a step; rows of queries without an answer first, up to `_SHOWN`."""
    answered = sum(row["rank"] is not None for row in rows)
    first = sorted(rows, key=lambda row: row["rank"] is not None)[:_SHOWN]
    return {"queries": len(rows), "found": answered, "source": before, "rows": first}


def judge_agreement(
    search: Sequence[Mapping[str, Any]], anew: Collection[str], rules: Retrieval | None
) -> Check | None:  # fmt: skip
    """Check whether enough of the previous nearest are still answered, per collection with new vectors; None: not ordered."""
    if rules is None or rules.neighbours is None or not anew:
        return None
    rows = [(str(row["collection"]), row["k"], row.get(f"overlap_plain@{row['k']}")) for row in search]
    shares = [(share, name, k) for name, k, share in rows if name in anew and share is not None and share == share]
    name, limit = "validation.retrieval.neighbours", rules.neighbours
    if not shares:
        reason = "the source's answers were not measured"
        return Check(AGREEMENT, Verdict.NOT_EXERCISED, None, limit, "", detail=reason, relation="≥", parameter=name)
    worst, below = min(shares), [row for row in sorted(shares) if row[0] + 1e-9 < limit]
    lowest = sorted(shares)[:5]
    detail = "; ".join(f"{one_line(where, 60)}: {share:.3f} of the {k} nearest" for share, where, k in lowest)
    return Check(
        AGREEMENT, Verdict.FAIL if below else Verdict.PASS, round(worst[0], 4), limit, "",
        ReasonCode.SEARCH_NOT_EQUIVALENT if below else "", detail, len(below),
        [{"collection": where, "share": round(share, 4)} for share, where, _ in below[:20]], name, "≥",
    )  # fmt: skip


def judge_fulltext(run: RunRecord, store: ClientStore, names: Sequence[str]) -> None:
    """Check that some documents of every target collection are found by a part of their own text."""
    asked, missed, refused = 0, [], []
    for name in names:
        try:
            hits, misses = probe_fulltext(store, name)
        except EnvironmentFailure as error:  # a schema may have switched the index off
            refused.append(f"{name}: {error.what}")
            continue
        asked += hits + len(misses)
        missed += [{"collection": name, "id": chunk} for chunk in misses]
    run.sampled("documents that full-text search is asked for", asked, sum(map(store.count, names)))
    verdict = Verdict.FAIL if missed else Verdict.PASS if asked else Verdict.NOT_EXERCISED
    run.result.checks[:] = [check for check in run.result.checks if check.name != CHECK]  # a cell may run twice
    run.check(
        CHECK, verdict, measured=len(missed), threshold=0, unit="documents", reason=ReasonCode.FULLTEXT_MISSES,
        detail="; ".join([f"{asked:,} documents asked for by a part of their text", *refused[:3]]), offenders=len(missed),
        ids=missed[:20],
    )  # fmt: skip


def probe_fulltext(store: ClientStore, name: str) -> tuple[int, list[str]]:
    """Search for some documents by a part of their text. Gives how many are found, and the ids of the others."""
    batch = store.read(name, store.some_ids(name, _ASKED), embeddings=False)
    hits, missed = 0, []
    for chunk, document in zip(batch.ids, batch.documents, strict=True):
        piece = (document or "").partition("\0")[0][:_LENGTH]
        if len(piece) < 3:
            continue
        if store.document_contains(name, chunk, piece):
            hits += 1
        else:
            missed.append(chunk)
    return hits, missed


# -- fields ------------------------------------------------------------------------------------------------------------
#
# `comparison` tells whether a chunk is as expected. `FieldTests` look at the target alone, as the runbook's validator (A27)
# does, so that an error in the expectation cannot hide one in the target. `FieldValues` counts values on both sides
# separately, since a default fills a field and adds no knowledge.

_KEPT = 1_000  # offenders named per test; all are counted


def type_field(schema: Schema) -> str:
    """The field that holds a chunk's type, by which it was routed; "" where the schema has none."""
    return next((rule.name for rule in schema.fields if rule.fixed == "{routing}"), "")


def dated_fields(schema: Schema) -> dict[str, re.Pattern[str]]:
    """The fields whose pattern holds a date (a group named `date`): citation URIs."""
    patterns = {rule.name: re.compile(rule.pattern) for rule in schema.fields if rule.pattern is not None}
    return {name: pattern for name, pattern in patterns.items() if "date" in pattern.groupindex}


class FieldTests:
    """The four tests, fed batch by batch. `counts[test]` are chunks that fail, `offenders[test]` names at most 1,000."""

    COMPLETE, PLACED, TYPED, CITED = "completeness", "distribution", "field_types", "citation_uris"

    def __init__(self, schema: Schema, targets: Mapping[str, str | None], sources: Collection[str]) -> None:
        self._schema, self._targets, self._sources = schema, targets, sources
        self.type, self.dated = type_field(schema), dated_fields(schema)
        self.checked = 0
        self.counts: Counter[str] = Counter()
        self.offenders: dict[str, list[dict[str, str]]] = defaultdict(list)

    def add(self, target: str, batch: ChunkBatch) -> None:
        """Take the next chunks of a target collection, as read back."""
        self.checked += len(batch)
        if self._schema.is_identity:
            return
        faults = self._schema.check(batch, self._targets[target], collection=target, source_collections=self._sources)
        for kind, test in (("missing_", self.COMPLETE), ("invalid_", self.TYPED)):
            matching = faults[faults["reason"].str.startswith(kind)]
            for chunk, rows in matching.groupby("id", sort=True):
                names = ", ".join(str(reason).removeprefix(kind) for reason in rows["reason"])
                details = "; ".join(str(detail) for detail in rows["detail"] if detail)
                self._note(test, target, str(chunk), f"{names}: {details}" if details else names)
        from helpers.schema.rules import real_match

        for chunk, metadata in zip(batch.ids, batch.metadatas, strict=True):
            values = metadata or {}
            if self.type and values.get(self.type) != self._targets[target]:
                self._note(self.PLACED, target, chunk, f"{self.type} is {show(values.get(self.type))}")
            for name, pattern in self.dated.items():
                if not (isinstance(value := values.get(name), str) and real_match(pattern, value)):
                    self._note(self.CITED, target, chunk, f"{name} is {show(value)}")

    def _note(self, test: str, target: str, chunk: str, detail: str) -> None:
        self.counts[test] += 1
        if len(self.offenders[test]) < _KEPT:
            self.offenders[test].append({"collection": target, "id": chunk, "detail": detail})


class FieldValues:
    """Values of the schema's fields before and after, and what the schema did in between, by field and rule.

    For the same chunks on both sides: those that belong in the target. An `optional` field is not required.
    """

    KINDS = ("changed", "derived", "set", "default")

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self.chunks = 0
        self.complete = {"before": 0, "after": 0}  # chunks with every required field
        self.defaulted = 0  # chunks with a default in at least one of them, which adds no knowledge
        self.required: Counter[str] = Counter()  # by field
        self.present: dict[str, Counter[str]] = {"before": Counter(), "after": Counter()}
        self.changes: Counter[tuple[str, str, str]] = Counter()  # by field, rule and kind
        self.rewritten = 0
        self.rewritten_example: tuple[str, str] | None = None
        self.altered = {"metadata": 0, "document": 0}  # chunks in which it differs from the source
        self.contradictions: dict[str, Counter[tuple[str, str]]] = {"before": Counter(), "after": Counter()}
        self.contradicting: dict[str, list[dict[str, str]]] = {"before": [], "after": []}  # the first 1,000 of each

    def add_source(self, transformed: Transformed, batch: ChunkBatch, positions: Sequence[int]) -> None:
        """Take chunks of a source collection as they are (`batch`) and transformed; `positions` go to the target."""
        self.chunks += len(positions)
        required: dict[str, list[str]] = {}
        for i in positions:
            before, after = batch.metadatas[i] or {}, transformed.batch.metadatas[i] or {}
            equal = before.keys() == after.keys() and all(same_value(x, after[name]) for name, x in before.items())
            self.altered["metadata"] += not equal
            self.altered["document"] += transformed.batch.documents[i] != batch.documents[i]
            if transformed.batch.ids[i] != transformed.source_ids[i]:
                self.rewritten += 1
                self.rewritten_example = self.rewritten_example or (transformed.source_ids[i], transformed.batch.ids[i])
            names = required[transformed.source_ids[i]] = self._required_fields(transformed.types[i])
            self.required.update(names)
            self._count_present("before", names, batch.metadatas[i])
        defaulted = set()
        for chunk, name, rule in zip(*(transformed.repairs[key] for key in ("id", "field", "rule")), strict=True):
            if chunk in required:
                self.changes[str(name), rule, kind_of(rule)] += 1
                if name in required[chunk] and rule in ("missing", "default"):  # also one that replaces a value
                    defaulted.add(chunk)
        self.defaulted += len(defaulted)
        kinds = [transformed.types[i] for i in positions]
        self._contradictions("before", transformed.collection, batch.take(positions), kinds)

    def add_target(self, target: str, kind: str | None, batch: ChunkBatch) -> None:
        """Take chunks of a target collection as they were read back."""
        names = self._required_fields(kind)
        for metadata in batch.metadatas:
            self._count_present("after", names, metadata)
        self._contradictions("after", target, batch, [kind] * len(batch))

    def _required_fields(self, kind: str | None) -> list[str]:
        return [rule.name for rule in self._schema.rules(kind) if not rule.optional]

    def _count_present(self, side: str, names: Sequence[str], metadata: Mapping[str, Any] | None) -> None:
        values = metadata or {}
        present = [name for name in names if values.get(name) is not None]
        self.present[side].update(present)
        self.complete[side] += len(present) == len(names)

    def _contradictions(self, side: str, collection: str, batch: ChunkBatch, kinds: Sequence[str | None]) -> None:
        for i, name, detail in self._schema.contradictions(batch, kinds):
            self.contradictions[side][collection, name] += 1
            if len(self.contradicting[side]) < _KEPT:
                row = {"collection": collection, "id": batch.ids[i], "field": name, "detail": detail}
                self.contradicting[side].append(row)

    def table(self) -> list[dict[str, Any]]:
        """One row per field: chunks that must have it, values before and after, values kept, and changes by kind."""
        done: Counter[tuple[str, str]] = Counter()
        for (name, _, kind), chunks in self.changes.items():
            done[name, kind] += chunks
        rows = []
        for name, chunks in self.required.items():
            kinds = {kind: done[name, kind] for kind in self.KINDS}
            sides = {side: self.present[side][name] for side in ("before", "after")}
            rows.append({"field": name, "chunks": chunks, **sides, "kept": chunks - sum(kinds.values()), **kinds})
        return rows

    def summary(self) -> dict[str, Any]:
        """The fact `metadata` of a step; shares are of required values (0 to 1)."""
        required = sum(self.required.values())
        kinds: Counter[str] = Counter()
        for (_, _, kind), chunks in self.changes.items():
            kinds[kind] += chunks
        example = self.rewritten_example
        complete = {
            s: {"chunks": n, "share": n / self.chunks if self.chunks else 1.0} for s, n in self.complete.items()
        }
        shares = {f"values_{s}": present.total() / required if required else 1.0 for s, present in self.present.items()}
        changes = [
            dict(zip(("field", "rule", "kind"), k, strict=True), chunks=n) for k, n in sorted(self.changes.items())
        ]
        return {
            "chunks": self.chunks,
            **complete,
            "values": required,
            **shares,
            **{kind: kinds[kind] for kind in ("changed", "derived", "set")},
            "defaults": kinds["default"],
            "defaulted_chunks": self.defaulted,
            "changes": changes,
            "fields": self.table(),
            "altered": {"id": self.rewritten, **self.altered},
            "ids_rewritten": {"chunks": self.rewritten, "before": example[0], "after": example[1]} if example else None,
        }

    def contradicted(self, side: str) -> list[dict[str, Any]]:
        """One row per collection and field whose values contradict their documents: chunks, and examples with ids."""
        examples: dict[tuple[str, str], list[str]] = defaultdict(list)
        for row in self.contradicting[side]:
            examples[row["collection"], row["field"]].append(f"{row['id']}: {row['detail']}")
        return [
            {"collection": place[0], "field": place[1], "chunks": n, "example": "; ".join(examples[place][:20])}
            for place, n in sorted(self.contradictions[side].items())
        ]

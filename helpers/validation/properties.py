"""What the target keeps of the source's properties: the configuration of collections, setting by setting, whether the full-text
index answers, whether queries find the chunks that they are known for, and the fields of a schema, chunk by chunk."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers.chunks import ChunkBatch
from helpers.errors import UsageError, WorldError, one_line
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

if TYPE_CHECKING:  # a schema brings pandera, for which a status need not wait
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

    What a local Chroma cannot hold is explained where `migration.drop_indexes` names the collection, another setting of the
    index where `migration.index` orders it.
    """
    dropped: list[dict[str, Any]] = []
    if allowed(source, rules.drop_indexes):
        why = "migration.drop_indexes gives it up"
        dropped = [_row(source.name, f"{i.kind} on {i.key}", "yes", i.becomes, why) for i in unsupported(source)]
    beyond, source = excessive_settings(source), reduced(source) if dropped else moderate(source)
    was, now = effective_configuration(source), effective_configuration(target)
    kind = "spann" if was.get("spann") else "hnsw"
    before, after = dict(was[kind] or {}), dict(now.get(kind) or {})
    order = index_order(rules.index, target.name)
    rows = [] if "space" in order else [_row(source.name, "space", source.space, target.space)]
    rows += ordered_settings(target, rules, {**before, **beyond})
    for setting in sorted(before.keys() - {"space"} - order.keys()):
        why = "" if setting in after else SILENT
        rows.append(_row(source.name, setting, before[setting], after.get(setting), why))
    metadata = source.metadata or {}
    refused, kept = "current servers refuse this value or break on it; the default is used", legacy_parameters(metadata)
    left_out = [key for key in sorted(metadata) if key in HNSW_METADATA and HNSW_METADATA[key] not in kept]
    rows += [_row(source.name, HNSW_METADATA[key], metadata[key], None, refused) for key in left_out]
    rows += [
        _row(source.name, name, value, after.get(name), EXCESSIVE)
        for name, value in sorted(beyond.items())
        if name not in order
    ]
    rows.append(_function(source.name, was["embedding_function"], now["embedding_function"]))
    return rows + dropped + _switches(source, target) + _metadata(source, target, order)


def ordered_settings(target: CollectionInfo, rules: Migration, before: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row per setting that `migration.index` orders: explained where the target has it so; the target must."""
    after = effective_configuration(target)["hnsw"] or {}
    return [
        _row(target.name, setting, before.get(setting), value, ORDERED)
        if after.get(setting) == value
        else _row(target.name, setting, value, after.get(setting))
        for setting, value in sorted(index_order(rules.index, target.name).items())
    ]


def of_merged(sources: Sequence[CollectionInfo], target: CollectionInfo, rules: Migration) -> list[dict[str, Any]]:
    """The rows of a collection that gets chunks of several: what is ordered, and what it does not keep of each of them."""
    order = index_order(rules.index, target.name)
    rows = ordered_settings(target, rules, {})
    lost: dict[str, list[dict[str, Any]]] = {}  # by setting: a row each, however many collections had it
    for source in sources:
        for row in compare_configuration(source, target, rules):
            if row["state"] == DIFFERENT and row["setting"] not in order:
                lost.setdefault(row["setting"], []).append(row)
    for had in lost.values():
        who = had[0]["collection"] if len(had) == 1 else f"{len(had)} collections that become {target.name}"
        was = ", ".join(sorted({row["source"] for row in had} - {""}))
        rows.append(had[0] | {"collection": who, "source": was, "state": EXPLAINED, "why": MERGED})
    return rows


def judge_configuration(rows: list[dict[str, Any]]) -> Check:
    """FAIL where a setting differs and nothing explains it."""
    if not rows:
        return Check(NAME, Verdict.NOT_APPLICABLE, detail="the schema creates new collections")
    wrong = [row for row in rows if row["state"] == DIFFERENT]
    told = wrong or [row for row in rows if row["why"] in (MERGED, SILENT)]
    shown = [(r["collection"], r["setting"], r["source"] or "none", r["target"] or "none") for r in told[:5]]
    detail = "; ".join(f"{name}: {setting} {was} became {now}" for name, setting, was, now in shown)
    detail += f"; and {len(told) - 5} more" * (len(told) > 5)
    detail += f". Explained: {', '.join(sorted({r['why'] for r in told}))}" if told and not wrong else ""
    verdict = Verdict.FAIL if wrong else Verdict.PASS
    return Check(NAME, verdict, len(rows) - len(wrong), len(rows), "settings", REASON if wrong else "", detail,
                 len(wrong), [{k: r[k] for k in ("collection", "setting")} for r in wrong[:20]])  # fmt: skip


def _row(collection: str, setting: str, was: Any, now: Any, why: str = "") -> dict[str, Any]:
    same = type(was) is type(now) and was == now
    state = KEPT if same else EXPLAINED if why else DIFFERENT
    shown = ["" if value is None else str(value) for value in (was, now)]
    return dict(zip(COLUMNS, (collection, setting, *shown, state, "" if same else why), strict=True))


def _function(collection: str, was: Any, now: Any) -> dict[str, Any]:
    nothing = {"none", "legacy"}
    names = [_function_name(function) for function in (was, now)]
    if set(names) <= nothing:
        return _row(collection, "embedding function", "none", "none")
    if names[0] == names[1] and (was or {}).get("config") != (now or {}).get("config"):
        names[1] = "another config"
    return _row(collection, "embedding function", *names)


def explained_function(row: dict[str, Any], source: CollectionInfo) -> dict[str, Any]:
    """The row of a collection whose vectors are made anew: its function is the ordered one, and not the source's."""
    if row["setting"] != "embedding function":
        return row
    was = _function_name(effective_configuration(source)["embedding_function"])
    if row["state"] != KEPT:
        return row | {"source": was}
    now = "another config" if row["target"] == was else row["target"]
    return row | {"source": was, "target": now, "state": EXPLAINED, "why": "migration.reembed orders it"}


def _function_name(function: Any) -> str:
    if not isinstance(function, Mapping):
        return "none"
    return "legacy" if function.get("type") == "legacy" else str(function.get("name", "none"))


def _switches(source: CollectionInfo, target: CollectionInfo) -> list[dict[str, Any]]:
    """Which indexes of metadata and documents are on: a row for each that is not as usual, or that differs."""
    if source.schema is None:
        return []
    was, now = switches(source.schema), switches(target.schema or {})  # older servers have no schemas
    usual = [{(kind, index): on for (key, kind, index), on in side.items() if key == ""} for side in (was, now)]
    rows = []
    for place in sorted({*was, *now}):
        key, kind, index = place
        if key in ("", VECTORS):
            continue
        pair = [side.get(place, fallback.get((kind, index))) for side, fallback in zip((was, now), usual, strict=True)]
        normal = _DOCUMENTS[index] if key == "#document" and index in _DOCUMENTS else usual[0].get((kind, index))
        if (pair[0] != pair[1] and target.schema is not None) or pair[0] != normal:
            shown = [None if on is None else "on" if on else "off" for on in pair]
            why = SILENT if pair[1] is None else ""
            rows.append(_row(source.name, f"{index} of {key}", shown[0], shown[1], why))
    return rows


_DOCUMENTS = {"fts_index": True, "string_inverted_index": False}  # of `#document`, where nobody chose


def _metadata(source: CollectionInfo, target: CollectionInfo, order: Mapping[str, Any]) -> list[dict[str, Any]]:
    was, now = source.metadata or {}, target.metadata or {}
    different = {key: detail for _, key, detail in metadata_differences(was, now)}
    rows = []
    for key in sorted({*was, *now, *different}):
        why = "turned into configuration" if key in HNSW_METADATA and key not in now else ""
        why = why or (ORDERED if HNSW_METADATA.get(key, key.removeprefix("hnsw:")) in order else "")
        equal = was.get(key) if key not in different else now.get(key)
        rows.append(_row(source.name, f"metadata {key}", was.get(key), equal, why))
    return rows


# The full-text index, asked for some documents: an import that counts right may leave `where_document` blind

CHECK = "documents that full-text search misses"
_ASKED = 20  # documents a collection
_LENGTH = 24  # characters asked for; an index of trigrams answers from three on


# -- queries with known answers ----------------------------------------------------------------------------------------

KNOWN, AGREEMENT = "queries with known answers", "neighbours as before"  # checks
_AT_ONCE, _SHOWN = 20, 200  # queries in one request; rows kept as a fact, those without an answer first


def known_answers(rules: Retrieval | None) -> dict[str, list[str]]:
    """Query → ids of the source. UsageError where the file, or the mapping, is not that."""
    if rules is None:
        return {}
    where, found = "validation.retrieval.queries", dict[str, list[str]]()
    given: Mapping[Any, Any]
    if isinstance(rules.queries, str):
        where = str(resolve_path(rules.queries))
        given = read_yaml_mapping(Path(where), what="file of queries")
    else:
        given = rules.queries
    for query, named in given.items():
        ids = [named] if isinstance(named, str) else named
        if not (isinstance(query, str) and isinstance(ids, list) and ids and all(isinstance(i, str) for i in ids)):
            raise UsageError(
                ReasonCode.PARAMETERS_INVALID, f"the query {one_line(str(query), 60)!r} has no list of ids as texts",
                where=where, next_step="Write lines such as  how to reset a password: ['doc-17']; quote numbers.",
            )  # fmt: skip
        found[query] = ids
    return found


class KnownAnswers:
    """Where the chunks are that queries must find, gathered as a side is read, and whether they do: `rows` asks them."""

    def __init__(self, rules: Retrieval | None) -> None:
        self.answers = known_answers(rules)
        self.k = rules.k if rules else 0
        self._wanted = {chunk for ids in self.answers.values() for chunk in ids}
        self._places: dict[str, set[tuple[str, str]]] = defaultdict(set)  # id of the source → (collection, id there)

    def feed(self, collection: str, ids: Sequence[str], origins: Sequence[str]) -> None:
        """Chunks of a collection: their ids there and in the source."""
        if self._wanted:
            for chunk, origin in zip(ids, origins, strict=True):
                if origin in self._wanted:
                    self._places[origin].add((collection, chunk))

    def rows(self, store: Reader) -> list[dict[str, Any]]:
        """One row a query: expected ids, the best rank of one of them (None: not among the first k), and why it was not found.

        Each query is asked in the collections that hold its chunks, embedded by their own function.
        """
        places = {query: set().union(*(self._places[i] for i in ids)) for query, ids in self.answers.items()}
        why = {name: store.text_queries_available(name) for name in {c for found in places.values() for c, _ in found}}
        rank: dict[str, int] = {}
        for name in sorted(name for name in why if not why[name]):
            queries = [query for query, found in places.items() if any(c == name for c, _ in found)]
            for start in range(0, len(queries), _AT_ONCE):
                some = queries[start : start + _AT_ONCE]
                for query, hits in zip(some, store.query_texts(name, some, self.k), strict=True):
                    at = next((n for n, hit in enumerate(hits, 1) if (name, hit[0]) in places[query]), None)
                    if at is not None:
                        rank[query] = min(at, rank.get(query, at))
        rows = []
        for query, ids in self.answers.items():
            unasked = sorted({why[c] for c, _ in places[query] if why[c]}) if query not in rank else []
            told = "" if query in rank else f"not among the first {self.k}"
            told = "no collection holds an expected id" if not places[query] else "; ".join(unasked) or told
            askable = not places[query] or any(not why[c] for c, _ in places[query])
            rows.append({"query": query, "expect": ids, "rank": rank.get(query), "asked": askable, "why": told})
        return rows


def answers_of_source(store: Reader, names: Sequence[str], rules: Retrieval | None) -> dict[str, int] | None:
    """How many queries the source answers, for information; None where it cannot be asked, or nothing is."""
    known = KnownAnswers(rules)
    for name in names if known.answers else ():
        found = store.read(name, sorted(known._wanted), embeddings=False).ids
        known.feed(name, found, found)
    asked = [row for row in known.rows(store) if row["asked"]]
    return {"queries": len(asked), "found": sum(row["rank"] is not None for row in asked)} if asked else None


def judge_known(
    rows: Sequence[Mapping[str, Any]], rules: Retrieval | None, before: Mapping[str, int] | None
) -> Check | None:
    """Whether enough queries find a chunk that they are known for; None where none is named."""
    if rules is None or not rows:
        return None
    asked = [row for row in rows if row["asked"]]
    name, limit = "validation.retrieval.at_least", rules.at_least
    if not asked:
        why = "; ".join(sorted({str(row["why"]) for row in rows})[:3])
        return Check(KNOWN, Verdict.NOT_EXERCISED, 0, limit, "", detail=why, relation="≥", parameter=name)
    bad = [row for row in rows if row["rank"] is None]
    share = (len(rows) - len(bad)) / len(rows)
    detail = f"{len(rows) - len(bad):,} of {len(rows):,} find an expected id among the first {rules.k}"
    detail += f"; the source answered {before['found']:,} of {before['queries']:,}" if before else ""
    detail += "".join(f"; {one_line(str(row['query']), 60)}: {row['why']}" for row in bad[:3])
    fails = share + 1e-9 < limit
    ids = [{"query": row["query"], "expect": ", ".join(row["expect"][:3]), "why": row["why"]} for row in bad[:20]]
    return Check(
        KNOWN, Verdict.FAIL if fails else Verdict.PASS, round(share, 4), limit, "",
        ReasonCode.QUERY_WITHOUT_ANSWER if fails else "", detail, len(bad), ids, name, "≥",
    )  # fmt: skip


def known_fact(rows: Sequence[Mapping[str, Any]], before: Mapping[str, int] | None) -> dict[str, Any]:
    """The fact `retrieval` of a step; rows of queries without an answer first, some hundred of them."""
    found = sum(row["rank"] is not None for row in rows)
    first = sorted(rows, key=lambda row: row["rank"] is not None)[:_SHOWN]
    return {"queries": len(rows), "found": found, "source": before, "rows": first}


def judge_agreement(
    search: Sequence[Mapping[str, Any]], anew: Collection[str], rules: Retrieval | None
) -> Check | None:  # fmt: skip
    """Whether enough of the nearest of before are still answered, in each collection with new vectors; None: not ordered."""
    if rules is None or rules.neighbours is None or not anew:
        return None
    rows = [(str(row["collection"]), row["k"], row.get(f"overlap_plain@{row['k']}")) for row in search]
    known = [(share, name, k) for name, k, share in rows if name in anew and share is not None and share == share]
    name, limit = "validation.retrieval.neighbours", rules.neighbours
    if not known:
        why = "the source's answers were not measured"
        return Check(AGREEMENT, Verdict.NOT_EXERCISED, None, limit, "", detail=why, relation="≥", parameter=name)
    worst, bad = min(known), [row for row in sorted(known) if row[0] + 1e-9 < limit]
    told = "; ".join(f"{one_line(where, 60)}: {share:.3f} of the {k} nearest" for share, where, k in sorted(known)[:5])
    return Check(
        AGREEMENT, Verdict.FAIL if bad else Verdict.PASS, round(worst[0], 4), limit, "",
        ReasonCode.SEARCH_NOT_EQUIVALENT if bad else "", told, len(bad),
        [{"collection": where, "share": round(share, 4)} for share, where, _ in bad[:20]], name, "≥",
    )  # fmt: skip


def judge_fulltext(run: RunRecord, store: ClientStore, names: Sequence[str]) -> None:
    """Each of some documents of every target collection must be found by a part of its own text."""
    asked, missed, refused = 0, [], []
    for name in names:
        try:
            found, absent = probe_fulltext(store, name)
        except WorldError as error:  # a schema may have switched the index off
            refused.append(f"{name}: {error.what}")
            continue
        asked += found + len(absent)
        missed += [{"collection": name, "id": chunk} for chunk in absent]
    run.sampled("documents that full-text search is asked for", asked, sum(map(store.count, names)))
    verdict = Verdict.FAIL if missed else Verdict.PASS if asked else Verdict.NOT_EXERCISED
    run.result.checks[:] = [check for check in run.result.checks if check.name != CHECK]  # a cell may run twice
    run.check(
        CHECK, verdict, measured=len(missed), threshold=0, unit="documents", reason=ReasonCode.FULLTEXT_MISSES,
        detail="; ".join([f"{asked:,} documents asked for by a part of their text", *refused[:3]]), offenders=len(missed),
        ids=missed[:20],
    )  # fmt: skip


def probe_fulltext(store: ClientStore, name: str) -> tuple[int, list[str]]:
    """How many of some documents are found by a part of their text, and the ids of those that are not."""
    batch = store.read(name, store.some_ids(name, _ASKED), embeddings=False)
    found, missed = 0, []
    for chunk, document in zip(batch.ids, batch.documents, strict=True):
        piece = (document or "").partition("\0")[0][:_LENGTH]
        if len(piece) < 3:
            continue
        if store.document_contains(name, chunk, piece):
            found += 1
        else:
            missed.append(chunk)
    return found, missed


# -- fields ------------------------------------------------------------------------------------------------------------
#
# `comparison` already says whether a chunk is what was expected. `FieldTests` ask the target alone, as the runbook's validator
# (A27) does, so that an error in the expectation cannot hide one in the target. `FieldValues` counts values on both
# sides apart, since a default fills a field and adds no knowledge.

_KEPT = 1_000  # offenders named per test; all are counted


def type_field(schema: Schema) -> str:
    """The field that holds a chunk's type, by which it was routed; "" where the schema has none."""
    return next((rule.name for rule in schema.fields if rule.fixed == "{routing}"), "")


def dated_fields(schema: Schema) -> dict[str, re.Pattern[str]]:
    """The fields whose pattern holds a day of the calendar (a group named `date`): citation URIs."""
    patterns = {rule.name: re.compile(rule.pattern) for rule in schema.fields if rule.pattern is not None}
    return {name: pattern for name, pattern in patterns.items() if "date" in pattern.groupindex}


class FieldTests:
    """The four tests, fed batch by batch. `counts[test]` are chunks that fail, `offenders[test]` name at most 1,000."""

    COMPLETE, PLACED, TYPED, CITED = "completeness", "distribution", "field_types", "citation_uris"

    def __init__(self, schema: Schema, targets: Mapping[str, str | None], sources: Collection[str]) -> None:
        self._schema, self._targets, self._sources = schema, targets, sources
        self.type, self.dated = type_field(schema), dated_fields(schema)
        self.checked = 0
        self.counts: Counter[str] = Counter()
        self.offenders: dict[str, list[dict[str, str]]] = defaultdict(list)

    def add(self, target: str, batch: ChunkBatch) -> None:
        """The next chunks of a target collection, as read back."""
        self.checked += len(batch)
        if self._schema.is_identity:
            return
        faults = self._schema.check(batch, self._targets[target], collection=target, source_collections=self._sources)
        for kind, test in (("missing_", self.COMPLETE), ("invalid_", self.TYPED)):
            these = faults[faults["reason"].str.startswith(kind)]
            for chunk, rows in these.groupby("id", sort=True):
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

    Of the same chunks on both sides: those that belong in the target. A field that is `optional` is not due.
    """

    KINDS = ("changed", "derived", "set", "default")

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self.chunks = 0
        self.complete = {"before": 0, "after": 0}  # chunks that hold every field that is due
        self.defaulted = 0  # chunks with a default in at least one of these fields: nothing is known of it
        self.due: Counter[str] = Counter()  # by field
        self.present: dict[str, Counter[str]] = {"before": Counter(), "after": Counter()}
        self.changes: Counter[tuple[str, str, str]] = Counter()  # by field, rule and kind
        self.rewritten = 0
        self.rewritten_example: tuple[str, str] | None = None
        self.altered = {"metadata": 0, "document": 0}  # chunks in which it is another than in the source
        self.contradictions: dict[str, Counter[tuple[str, str]]] = {"before": Counter(), "after": Counter()}
        self.contradicting: dict[str, list[dict[str, str]]] = {"before": [], "after": []}  # the first 1,000 of each

    def add_source(self, moved: Transformed, batch: ChunkBatch, kept: Sequence[int]) -> None:
        """Chunks of a source collection as they are (`batch`) and as the schema moves them; `kept` go to the target."""
        self.chunks += len(kept)
        due: dict[str, list[str]] = {}
        for i in kept:
            was, now = batch.metadatas[i] or {}, moved.batch.metadatas[i] or {}
            kept_whole = was.keys() == now.keys() and all(same_value(value, now[name]) for name, value in was.items())
            self.altered["metadata"] += not kept_whole
            self.altered["document"] += moved.batch.documents[i] != batch.documents[i]
            if moved.batch.ids[i] != moved.source_ids[i]:
                self.rewritten += 1
                self.rewritten_example = self.rewritten_example or (moved.source_ids[i], moved.batch.ids[i])
            names = due[moved.source_ids[i]] = self._due(moved.types[i])
            self.due.update(names)
            self._present("before", names, batch.metadatas[i])
        defaulted = set()
        for chunk, name, rule in zip(*(moved.repairs[key] for key in ("id", "field", "rule")), strict=True):
            if chunk in due:
                self.changes[str(name), rule, kind_of(rule)] += 1
                if name in due[chunk] and rule in ("missing", "default"):  # one that replaces a value knows as little
                    defaulted.add(chunk)
        self.defaulted += len(defaulted)
        kinds = [moved.types[i] for i in kept]
        self._contradictions("before", moved.collection, batch.take(kept), kinds)

    def add_target(self, target: str, kind: str | None, found: ChunkBatch) -> None:
        """Chunks of a target collection as they were read back."""
        names = self._due(kind)
        for metadata in found.metadatas:
            self._present("after", names, metadata)
        self._contradictions("after", target, found, [kind] * len(found))

    def _due(self, kind: str | None) -> list[str]:
        return [rule.name for rule in self._schema.rules(kind) if not rule.optional]

    def _present(self, side: str, names: Sequence[str], metadata: Mapping[str, Any] | None) -> None:
        values = metadata or {}
        there = [name for name in names if values.get(name) is not None]
        self.present[side].update(there)
        self.complete[side] += len(there) == len(names)

    def _contradictions(self, side: str, collection: str, batch: ChunkBatch, kinds: Sequence[str | None]) -> None:
        for i, name, detail in self._schema.contradictions(batch, kinds):
            self.contradictions[side][collection, name] += 1
            if len(self.contradicting[side]) < _KEPT:
                row = {"collection": collection, "id": batch.ids[i], "field": name, "detail": detail}
                self.contradicting[side].append(row)

    def table(self) -> list[dict[str, Any]]:
        """One row a field: chunks that must have it, values before and after, kept as they were, and by kind what was done."""
        done: Counter[tuple[str, str]] = Counter()
        for (name, _, kind), chunks in self.changes.items():
            done[name, kind] += chunks
        rows = []
        for name, chunks in self.due.items():
            kinds = {kind: done[name, kind] for kind in self.KINDS}
            sides = {side: self.present[side][name] for side in ("before", "after")}
            rows.append({"field": name, "chunks": chunks, **sides, "kept": chunks - sum(kinds.values()), **kinds})
        return rows

    def summary(self) -> dict[str, Any]:
        """The fact `metadata` of a step; shares are of values that are due (0 to 1)."""
        due = sum(self.due.values())
        kinds: Counter[str] = Counter()
        for (_, _, kind), chunks in self.changes.items():
            kinds[kind] += chunks
        example = self.rewritten_example
        complete = {
            s: {"chunks": n, "share": n / self.chunks if self.chunks else 1.0} for s, n in self.complete.items()
        }
        shares = {f"values_{s}": there.total() / due if due else 1.0 for s, there in self.present.items()}
        changes = [
            dict(zip(("field", "rule", "kind"), k, strict=True), chunks=n) for k, n in sorted(self.changes.items())
        ]
        return {
            "chunks": self.chunks,
            **complete,
            "values": due,
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
        """One row a collection and field whose values the documents rule out: chunks, and those of the first 1,000 with ids."""
        named: dict[tuple[str, str], list[str]] = defaultdict(list)
        for row in self.contradicting[side]:
            named[row["collection"], row["field"]].append(f"{row['id']}: {row['detail']}")
        return [
            {"collection": place[0], "field": place[1], "chunks": n, "example": "; ".join(named[place][:20])}
            for place, n in sorted(self.contradictions[side].items())
        ]

"""The searches of one pass over a target: of a source collection as before, and of merged collections as clients ask them.

For merged collections, the expected change by merging is separated from what the target has lost.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from helpers.chunks import ChunkBatch, Vectors
from helpers.errors import EnvironmentFailure
from helpers.formatting import Digested, Wrote, harmless, no_record, packed_rows
from helpers.parameters.sections import Validation
from helpers.results import Verdict, writing
from helpers.schema import Context, Schema
from helpers.stores import CollectionInfo, Neighbours, Space, Store
from helpers.validation.search import (
    OVER_QUERY_MAY_FALL_BY,
    QUERIES,
    RECALL_MAY_FALL_BY,
    SOUND,
    Answers,
    Probes,
    Record,
    Truth,
    answers_within,
    ask_probes,
    equivalence,
    exact_overlap,
    fall_of,
    mean_of,
    noise,
    overlap,
    overlap_ks,
    records,
    shared,
)

# The columns of the evidence: one row per query and list, whole, with the query's own chunk.
COLUMNS = ("collection", "query", "own", "target", "kind", "side", "answer", "k", "depth", "reach", "tie", "ids",
           "distances")  # fmt: skip
RESTRICTED, UNRESTRICTED, ANNOUNCED = "restricted", "unrestricted", "as announced"  # kind
ANSWER, OVER, EXACT, FILTERED = "k nearest", "best k of the over-query", "exact", "exact, filtered by source collection"
BY_DISTANCE = "k nearest of every collection asked, sorted by distance"
Write = Callable[..., None]  # takes the columns but the last two, and the list of (id, distance)


def unwritten(*row: object) -> None:
    """A `Write` that keeps no evidence."""


@contextmanager
def searches(path: Path, wrote: Wrote = no_record) -> Iterator[Write]:
    """The file of every list that a search gave, written as they come, whole or not at all; `docs/evidence.md` explains it.

    Names are safe for spreadsheets; `own`, `ids` and `distances` are JSON. `wrote` takes the digest of the file.
    """
    with writing(path) as temporary, temporary.open("wb") as raw, packed_rows(digested := Digested(raw)) as line:
        line(COLUMNS)

        def write(collection: str, query: str, own: str, target: str, *rest: Any) -> None:
            ids, distances = ([pair[at] for pair in rest[-1]] for at in (0, 1))
            names = (harmless(collection), harmless(query), json.dumps(own), harmless(target))
            line([*names, *rest[:-1], json.dumps(ids), json.dumps(distances)])

        yield write
    wrote(path, digested.digest)


def id_first(nearest: Sequence[tuple[float, str]]) -> list[tuple[str, float]]:
    return [(chunk, d) for d, chunk in nearest]


FEW = 5  # with fewer queries, plain recall is decided by the chance of an approximate index


@dataclass(frozen=True, slots=True)
class Asked:
    """A probe as a client asks it: of the whole target collection that has its chunk.

    The lists contain its own chunk, which finds itself; `shared` and `Merged.rows` leave it out.
    """

    query: str  # the id of its own chunk in the source
    own: str  # and in the target
    exact: list[tuple[float, str]]  # its k nearest in the source collection, by brute force, under ids of the target
    plain: list[tuple[str, float]]  # what the target answered
    over: list[tuple[str, float]]  # the first k of its over-query
    depth: int  # results that the over-query asked for
    before: Record | None  # the baseline's record of it
    shared: float | None  # share of what the source answered that the target answered too
    filtered: list[tuple[float, str]]  # those of `exact` in this target, as a client's filter gives them


class Merged:
    """Searches in target collections that hold chunks of several source collections, as clients ask them: unrestricted.

    Two exact answers, both from the snapshot, separate what merging changes from what is lost. The k nearest in the source
    collection against the k nearest in the merged one are the expected change; what the target does not return of the
    second is a loss.
    """

    MOST = 200  # queries of one target collection

    def __init__(self, schema: Schema, sources: Sequence[str], context: Context, k: int) -> None:
        self.schema, self.sources, self.context, self.k = schema, sources, context, k
        reach = Counter(target for name in sources for target in schema.targets([name]))
        self.possible = frozenset(target for target, sources in reach.items() if sources > 1)
        self.asked: dict[tuple[str, str, int], Asked] = {}  # by target, source and position among its probes
        self._chunks: dict[str, Counter[str]] = {}  # by target: chunks of each source collection
        self._queries: dict[str, list[tuple[str, int]]] = {}  # by target: source, position
        self._truth: dict[str, Truth] = {}
        self.spaces: Mapping[str, Space] = {}
        self._owner: dict[str, dict[str, str]] = {}  # by target: the source collection of ids that were near

    def prepare(self, probes_of: Callable[[str], Probes], spaces: Mapping[str, Space]) -> None:
        """Choose the queries of each merged target: of every source collection as many as fit into `MOST`.

        `spaces` are the target's collections.
        """
        self.spaces = spaces
        by_target: dict[str, list[tuple[int, str, Probes]]] = {target: [] for target in self.possible}
        for source in self.sources if self.possible else ():
            probes = probes_of(source)
            if probes.ids:
                homes = self.schema.transform(probes.chunks, source, self.context).targets
                for p, home in enumerate(homes):
                    if home in by_target:
                        by_target[home].append((p, source, probes))
        for target, queries in by_target.items():
            if target not in spaces or not queries:
                continue
            width = Counter(probes.vectors.shape[1] for *_, probes in queries).most_common(1)[0][0]
            fitting = [query for query in queries if query[2].vectors.shape[1] == width]
            chosen = sorted(fitting, key=lambda query: query[:2])[: self.MOST]
            self._queries[target] = [(source, p) for p, source, _ in chosen]
            vectors = np.stack([probes.vectors[p] for p, _, probes in chosen])
            self._truth[target] = Truth(vectors, spaces[target], self.k, [()] * len(chosen))

    def feed(self, source: str, target: str, expected: ChunkBatch) -> None:
        """Take the next chunks of a source collection that the target collection must hold."""
        if (truth := self._truth.get(target)) is None:
            return
        self._chunks.setdefault(target, Counter())[source] += len(expected)
        truth.add(expected.ids, expected.embeddings)
        owner, ids = self._owner.setdefault(target, {}), set(expected.ids)
        owner |= {chunk: source for near in truth.nearest for _, chunk in near if chunk in ids}

    def rows(self, write: Write = unwritten) -> list[dict[str, Any]]:
        """One row per source collection and merged target; shares are means over its queries.

        The query's own chunk is left out of every answer; `write` gets the lists whole.

        collection (source), target, merged (number of sources), queries, recall and over_recall (share of the exact merged
        answer that the target returned), before (recall of the source, same queries), shared_expected and shared_measured
        (share of the source's k nearest that are still returned: exact on both sides, and as both sides answered),
        shared_filtered (the same, exact, for a client that filters by the source collection: the others went to other targets,
        or to quarantine), from_others (share of the exact merged answer from other sources), verdict, detail.
        """
        merged = sorted(target for target in self._truth if len(self._chunks.get(target, ())) > 1)
        return [row for target in merged for row in self._rows(target, write)]

    def _rows(self, target: str, write: Write) -> list[dict[str, Any]]:
        truth, space = self._truth[target], self.spaces[target]
        owner, shares = self._owner[target], []
        for i, (source, p) in enumerate(self._queries[target]):
            if (asked := self.asked.get((target, source, p))) is None:
                continue
            scale, own = float(truth.scale[i]), asked.own
            nearest, exact = ([pair for pair in near if pair[1] != own] for near in (asked.exact, truth.nearest[i]))
            plain, over = ([(d, chunk) for chunk, d in hits if chunk != own] for hits in (asked.plain, asked.over))
            filtered = [pair for pair in asked.filtered if pair[1] != own]
            if not exact:
                continue
            for side, answer, depth, pairs in (
                ("source", EXACT, self.k, id_first(asked.exact)), ("target", EXACT, self.k, id_first(truth.nearest[i])),
                ("target", FILTERED, self.k, id_first(asked.filtered)), ("target", ANSWER, self.k, asked.plain),
                ("target", OVER, asked.depth, asked.over),
            ):  # fmt: skip
                tie = noise(space, max((abs(d) for _, d in pairs), default=0.0), scale)
                write(source, asked.query, own, target, UNRESTRICTED, side, answer, self.k, depth, None, tie, pairs)
            shares.append(
                {
                    "collection": source,
                    "recall": shared(exact, plain, space, scale),
                    "over_recall": shared(exact, over, space, scale),
                    "before": asked.before["recall"] if asked.before else None,
                    "over_before": asked.before["over_recall"] if asked.before else None,
                    "shared_expected": shared(nearest, exact, space, scale) if nearest else None,
                    "shared_measured": asked.shared,
                    "shared_filtered": len(filtered) / len(nearest) if nearest else None,
                    "from_others": sum(owner.get(chunk) != source for _, chunk in exact) / len(exact),
                }
            )
        if not shares:
            return []
        verdict, detail = _verdict(shares, space)
        table = pd.DataFrame(shares).astype(dict.fromkeys(list(shares[0])[1:], float))
        means = table.groupby("collection").mean()
        rows = means.astype(object).where(means.notna(), None).reset_index().to_dict("records")
        common = {"target": target, "merged": len(self._chunks[target]), "verdict": verdict, "detail": detail}
        sizes = table["collection"].value_counts()
        named = [{str(k): v for k, v in row.items()} for row in rows]
        return [row | common | {"queries": int(sizes[row["collection"]])} for row in named]


def ask_all(store: Store, counts: Mapping[str, int], vectors: Vectors, k: int, where: Mapping[str, str]) -> Neighbours:
    """Search as announced to clients: each vector in every one of these collections (name → chunks), with the filter if there
    is one; of all answers, sorted by distance, the first k."""
    answers: list[list[tuple[str, float]]] = [[] for _ in vectors]
    for name, chunks in counts.items():
        for start in range(0, len(vectors), QUERIES):
            part, limit = vectors[start : start + QUERIES], min(k, chunks)
            neighbours = store.query_filtered(name, part, limit, where) if where else store.query(name, part, limit)
            for answer, further in zip(answers[start:], neighbours, strict=False):
                answer += further
    return [sorted(answer, key=lambda hit: (hit[1], hit[0]))[:k] for answer in answers]


@dataclass(frozen=True, slots=True)
class Sent:
    """The queries of a source collection: vectors, ids in target and source, the nearest in the source, expected chunks."""

    name: str
    space: Space
    k: int
    vectors: Vectors
    ids: Sequence[str]
    queries: Sequence[str]
    before: Truth
    expected: Container[str]


def announced(
    store: Store, homes: Sequence[str], merged: bool, fields: Sequence[str], of: Sent, write: Write
) -> list[dict[str, Any]]:
    """Send queries as announced to the collections that hold the chunks (`homes`). One row; none where clients ask as before.

    collection, targets (asked), filter (as sent, or none), queries, asked, same, possible, short, why (it was not asked).
    """
    if not homes or not of.ids or (len(homes) == 1 and not merged):
        return []
    where = {fields[0]: of.name} if merged and fields else {}
    row = {"collection": of.name, "targets": list(homes), "filter": where, "told_apart": bool(where) or not merged,
           "asked": len(of.ids), "why": ""}  # fmt: skip
    near, scales = of.before.nearest, [float(n) for n in of.before.scale]
    try:
        answers = ask_all(store, {name: store.count(name) for name in homes}, of.vectors, of.k, where)
    except EnvironmentFailure as error:
        return [row | {"queries": 0, "same": None, "possible": None, "short": "", "why": error.line()}]
    for query, own, before, answer, scale in zip(of.queries, of.ids, near, answers, scales, strict=True):
        for side, kind, pairs in (("source", EXACT, id_first(before)), ("target", BY_DISTANCE, answer)):
            tie = noise(of.space, max((abs(d) for _, d in pairs), default=0.0), scale)
            write(of.name, query, own, ", ".join(homes), ANNOUNCED, side, kind, of.k, of.k, None, tie, pairs)
    return [row | announced_row(near, of.expected, answers, of.ids, of.space, scales)]


def announced_row(
    before: Sequence[Sequence[tuple[float, str]]], expected: Container[str], answers: Neighbours, ids: Sequence[str],
    space: Space, scales: Sequence[float],
) -> dict[str, Any]:  # fmt: skip
    """The result of searches by `ask_all`, without the queries' own chunks (`ids`).

    `before`: the k nearest of each query in its source collection, by brute force; `expected`: chunks the target must hold.
    queries; same (share of `before` that was answered), possible (share of it that is `expected`); short: how far same lies
    below possible, "" where chance explains it.
    """
    same, possible = [], []
    for near, answer, own, scale in zip(before, answers, ids, scales, strict=True):
        if nearest := [pair for pair in near if pair[1] != own]:
            hits = [(d, chunk) for chunk, d in answer if chunk != own]
            same.append(shared(nearest, hits, space, scale))
            possible.append(sum(chunk in expected for _, chunk in nearest) / len(nearest))
    if not same:
        return {"queries": 0, "same": None, "possible": None, "short": ""}
    shortfall = fall_of("same results", np.array(possible), np.array(same), RECALL_MAY_FALL_BY, True)[1]
    return {"queries": len(same), "same": mean_of(same), "possible": mean_of(possible), "short": "; ".join(shortfall)}


def _verdict(shares: Sequence[Mapping[str, Any]], space: Space) -> tuple[Verdict, str]:
    """Judge whether a merged target returns its exact answer; `shares` are queries, see `Merged.rows`.

    It may fall short of it as far as the source falls short of its own exact answer, plus slack and chance; without a
    baseline its over-query must be nearly exact.
    """
    after = [float(s["over_recall"]) for s in shares]
    shortfalls: list[str] = []
    for name, share, reference, slack in (
        ("recall", "recall", "before", RECALL_MAY_FALL_BY),
        ("over-query recall", "over_recall", "over_before", OVER_QUERY_MAY_FALL_BY),
    ):
        pairs = [(float(s[reference]), float(s[share])) for s in shares if s[reference] is not None]
        if len(pairs) >= (FEW if share == "recall" else 1):
            a, b = (np.array(side) for side in zip(*pairs, strict=True))
            shortfalls += fall_of(name, a, b, slack, share == "recall" or space == "ip")[1]
    if shortfalls:
        return Verdict.FAIL, "searched whole: " + "; ".join(shortfalls)
    if all(s["over_before"] is None for s in shares) and mean_of(after) < SOUND:
        detail = f"searched whole: over-query recall {mean_of(after):.3f}, and no baseline to compare with"
        return Verdict.WARNING, detail
    return Verdict.PASS, ""


# -- one source collection ---------------------------------------------------------------------------------------------


class Search:
    """Search equivalence of one source collection: asked before the pass, measured during it."""

    def __init__(
        self, source: CollectionInfo, old_space: Space, probes: Probes, store: Store, merged: Merged, rules: Validation,
        baseline: Mapping[str, Any], write: Write, *, anew: bool,
    ) -> None:  # fmt: skip
        """`old_space`: the distance that `source` had; `baseline`: what was measured of it; `anew`: all vectors are new."""
        self.k, self.space, self.name, self.probes, self.merged = merged.k, source.space, source.name, probes, merged
        self.write_list, self.anew, self.was_space = write, anew, old_space
        self.baseline, self.doubt, self.left_out = (baseline.get(key) for key in ("probes", "doubt", "moved"))
        self.source_records = {r["id"]: r for r in self.baseline or []}  # the source's records, by probe
        self.moved = anew or self.was_space != self.space  # distances of before are no measure
        if anew:
            self.doubt = "its vectors are made anew by order (migration.reembed)"
        elif self.moved:
            self.doubt = f"its distance is {self.was_space}, the target's {self.space} by order (migration.index)"
        self.ordered, self.before = rules.overquery, baseline.get("overquery") or rules.overquery
        self.ids: list[str] = []
        self.homes: list[str] = []  # per probe: the target collection that its own chunk went to
        if self.probes.ids:
            transformed = merged.schema.transform(self.probes.chunks, source.name, merged.context)
            self.ids, self.homes = transformed.batch.ids, transformed.targets
        homes = merged.schema.targets([source.name])
        self.asked_otherwise = bool(self.merged.possible) or len(homes) > 1  # by clients
        self.problem = ""
        self.answers: dict[str, Answers] = {}  # by target collection, of all that it holds
        for name in sorted(homes) if self.probes.ids else ():
            count = store.count(name) if name in merged.spaces else 0
            if count:
                try:
                    self.answers[name] = ask_probes(store, name, self.probes, self.k, rules.overquery, count)
                except EnvironmentFailure as error:
                    self.problem = error.line()
        own = [{chunk} for chunk in self.ids]
        wanted = [a.wanted(self.ids, rules.overquery + self.k) for a in self.answers.values()]
        self.wanted = [set().union(*parts) for parts in zip(own, *wanted, strict=True)]
        self.listed = set().union(*self.wanted)
        self.own: dict[str, set[str]] = {}  # target collection → ids there that are of this collection and were listed
        self.origin: dict[str, str] = {}  # their ids in the source
        self.sent: dict[str, str] = {}  # chunk among a probe's nearest in the source → its target collection
        self.after: list[Record] = []
        self.source_truth = Truth(self.probes.vectors, self.space, self.k, [()] * len(self.ids))
        self.target_truth = Truth(self.probes.vectors, self.space, self.k, self.wanted)
        self.whole_truth = Truth(self.probes.vectors, self.space, self.k, [()] * len(self.ids))

    def feed_source(self, transformed: ChunkBatch) -> None:
        """Take the next chunks of this collection, quarantined ones included, under their target ids."""
        if self.asked_otherwise:
            self.whole_truth.add(transformed.ids, transformed.embeddings)

    def feed(self, target: str, expected: ChunkBatch, actual: ChunkBatch, origins: list[str]) -> None:
        """Take the next chunks of this collection for a target collection, as expected and as held there, by target id."""
        self.source_truth.add(expected.ids, expected.embeddings)
        self.target_truth.add(actual.ids, actual.embeddings)
        near = {chunk for nearest in self.whole_truth.nearest for _, chunk in nearest}
        self.sent |= {chunk: target for chunk in expected.ids if chunk in near}
        near_ids = self.listed.union(chunk for nearest in self.target_truth.nearest for _, chunk in nearest)
        listed = {c: o for c, o in zip(expected.ids, origins, strict=True) if c in near_ids}
        self.own.setdefault(target, set()).update(listed)
        self.origin |= listed

    def row(self) -> dict[str, Any]:
        """The collection's row of `search.rows_frame`, with overlaps and the chunks that could not be probes."""
        none: Answers = Answers([[] for _ in self.ids], [[] for _ in self.ids])
        asked = [(self.answers[name], self.own[name]) for name in sorted(self.own.keys() & self.answers.keys())]
        answers = answers_within(asked, self.k) if asked else none
        self.after = after = records(self.ids, answers, self.target_truth, self.space, self.k)
        for record in after:
            record["id"] = self.origin.get(record["id"], record["id"])
            for key in ("plain", "over", "exact"):
                record[key] = [[self.origin[chunk], d] for chunk, d in record[key]]
        row: dict[str, Any] = {"collection": self.name, "space": self.space}
        row |= equivalence(self.baseline, after, self.space, self.doubt or "", self.left_out or 0)
        missed = [r["id"] for r in after if r["reachable"] is False]
        row |= {"k": self.k, "zero": self.probes.zero, "unusable": self.probes.unusable, "unreachable": missed}
        for k in overlap_ks(self.k):
            row[f"overlap_exact@{k}"] = exact_overlap(self.ids, self.source_truth, self.target_truth, self.space, k)
            if not self.moved:
                row[f"overlap_plain@{k}"] = overlap(self.baseline or [], after, "plain", self.space, k)
        if self.moved:
            row |= self._by_another_distance()
        if self.anew and (same := row[f"overlap_plain@{self.k}"]) == same:
            row["detail"] += f"; for information: {same:.2f} of the {self.k} nearest of before are answered still"
        row |= self._over_queries(row)
        if self.problem:
            row["detail"] = "; ".join(filter(None, [row["detail"], self.problem]))
        self._client_view()
        self._write(answers, row["overquery_after"])
        return row

    def _by_another_distance(self) -> dict[str, Any]:
        """What is comparable between different distances: the chunks that both sides answer, and each index's own recall."""
        pairs = [(self.source_records[r["id"]], r) for r in self.after if r["id"] in self.source_records]
        recalls = [a["recall"] for a, b in pairs if None not in (a["recall"], b["recall"])]
        fields = {"recall_before": mean_of(recalls), "recall_pairs": len(recalls)} if recalls else {}
        for k in overlap_ks(self.k):
            answer_sets = [[set([c for c, _ in r["plain"] if c != r["id"]][:k]) for r in pair] for pair in pairs]
            fields[f"overlap_plain@{k}"] = mean_of([len(a & b) / len(a) for a, b in answer_sets if a])
        return fields

    def _write(self, answers: Answers, depth: int) -> None:
        """Write every list of both sides as evidence: of a query's own collection, under source ids."""
        for p, record in enumerate(self.after):
            reaches = {"plain": record["plain_reach"], "over": answers.over_reach[p] if answers.over_reach else None}
            source = self.source_records.get(record["id"])
            for side, kept, deep in (("source", source, self.before), ("target", record, depth)):
                if kept is None:
                    continue
                for key, answer in (("plain", ANSWER), ("over", OVER), ("exact", EXACT)):
                    pairs = kept.get(key) or []
                    reach = reaches.get(key) if side == "target" else kept.get(f"{key}_reach")
                    space = self.was_space if side == "source" else self.space
                    tie = noise(space, max((abs(d) for _, d in pairs), default=0.0), kept["scale"])
                    reach = None if reach is None or np.isinf(reach) else reach
                    place = self.homes[p] if side == "target" else ""
                    self.write_list(self.name, record["id"], record["id"], place, RESTRICTED, side, answer, self.k,
                             deep if key == "over" else self.k, reach, tie, pairs)  # fmt: skip

    def _client_view(self) -> None:
        """Record each probe as a client asks it, of the whole target collection, for `Merged`."""
        baseline = {} if self.doubt else self.source_records
        for p, (home, record) in enumerate(zip(self.homes, self.after, strict=True)):
            if home not in self.answers:
                continue
            plain, over = self.answers[home].plain[p], self.answers[home].over[p][: self.k]
            own, before = self.ids[p], baseline.get(record["id"])
            answered = [(d, self.origin.get(c, "")) for c, d in plain if c != own]  # "": of another collection
            source_answer = [(d, c) for c, d in before["plain"][: self.k] if c != record["id"]] if before else []
            scale = max(record["scale"], before["scale"]) if before else record["scale"]
            share = shared(source_answer, answered, self.space, scale) if source_answer else None
            nearest = self.whole_truth.nearest[p]
            filtered = [pair for pair in nearest if self.sent.get(pair[1]) == home]
            depth = self.answers[home].result_limit
            asked = Asked(record["id"], own, nearest, plain, over, depth, before, share, filtered)
            self.merged.asked[home, self.name, p] = asked

    def announced(self, store: Store, fields: Sequence[str]) -> list[dict[str, Any]]:
        """Send the probes once more, see `equivalence.announced`."""
        homes = sorted(self.own.keys() & self.answers.keys())
        queries = [r["id"] for r in self.after]
        sent = Sent(self.name, self.space, self.k, self.probes.vectors, self.ids, queries, self.whole_truth, self.sent)
        return announced(store, homes, bool(self.merged.possible & set(homes)), fields, sent, self.write_list)

    def distances(self) -> list[dict[str, Any]]:
        """One row per query asked on both sides: distances of the chunks that both answered, and of the k-th answer."""
        rows = []
        for p, record in enumerate(self.after):
            before = self.source_records.get(record["id"])
            if before is None:
                continue
            first = dict(before["plain"])
            gaps = [abs(d - first[chunk]) for chunk, d in record["plain"] if chunk in first]
            largest = None if self.moved else max(gaps, default=None)
            unrestricted = self.answers[self.homes[p]].plain[p] if self.homes[p] in self.answers else []
            ends = [listed[-1][1] if listed else None for listed in (before["plain"], record["plain"], unrestricted)]
            row = {"collection": self.name, "query": record["id"], "same_chunks": len(gaps),
                   "largest_difference": largest}  # fmt: skip
            rows.append(row | dict(zip(("last_before", "last_after", "last_unrestricted"), ends, strict=True)))
        return rows

    def _over_queries(self, row: dict[str, Any]) -> dict[str, Any]:
        """How many results both sides gave; a target that gives fewer than ordered does not fail for it.

        Only an over-query that is much longer than k can tell a lost chunk from the chance of an approximate index.
        """
        after = min((a.result_limit for a in self.answers.values() if a.result_limit), default=self.ordered)
        remarks = [
            f"the {side} gives {given:,} results at most, not {self.ordered:,}"
            for side, given in (("source", self.before), ("target", after))
            if given < self.ordered
        ]
        fields: dict[str, Any] = {"overquery_before": self.before, "overquery_after": after}
        if after < self.ordered and row["verdict"] is Verdict.FAIL and row["distance_excess"] <= 1.0:
            fields |= {"verdict": Verdict.WARNING, "unsure": True}
            remarks.append("too few to tell a lost chunk from normal variation of the index")
        return {**fields, "detail": "; ".join(filter(None, [row["detail"], *remarks]))}

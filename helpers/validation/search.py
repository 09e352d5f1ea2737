"""Search equivalence: the target answers as well as the source, apart from the noise of approximate indexes.

Two HNSW indexes built from the same vectors do not return the same ten neighbours (chroma-facts, Search equivalence),
so lists are not compared. Per probe, a stored vector, four questions are measured against brute force over the same side:

- self: does the vector find its own id first, or another at the same distance?
- reachable: does the over-query (1,000 results) find it at all?
- recall: how many of the true k nearest, its own chunk left out, does the plain query return?
- over-query recall: the same among the first k of 1,000 results, which on a sound index is nearly exact.

A stored vector finds itself, which tells nothing about its neighbours: except for the first two questions, its own chunk is
left out of every answer, on both sides.

`baseline` asks the source (step 13); validation asks the target (step 23); `equivalence` compares the two. Memory holds
the probes and their best k, never a collection.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from helpers.chunks import ChunkBatch, Vectors
from helpers.formatting import count
from helpers.parameters import Parameters
from helpers.results import Progress, Verdict, silent
from helpers.snapshots.snapshot import Snapshot
from helpers.stores import CollectionInfo, Neighbours, Reader, Space

# The named text queries, asked of the collections whose embedding function is available


def named_queries(
    store: Reader, parameters: Parameters, spaces: Mapping[str, Space], resolve: Callable[[str], Sequence[str]]
) -> list[dict[str, Any]]:
    """The runbook's text queries: answered well when a collection finds something, with the expected keyword in a
    document, and on cosine nearer than `maximum_distance` (a rule for cosine only).

    `spaces` are the store's collections; `resolve` gives the store's names for a source collection that a query names. Where
    no collection can embed a text, the query is not applicable, with the reason in `why`.
    """
    reasons = {name: store.why_no_text_queries(name) for name in spaces} if parameters.validation.queries else {}
    rows = []
    for query in parameters.validation.queries:
        collection = query.collection
        names = (
            sorted(spaces)
            if collection is None
            else [collection]
            if collection in spaces
            else [n for n in resolve(collection) if n in spaces]
        )
        available = [n for n in names if not reasons[n]]
        row: dict[str, Any] = {"text": query.text, "expect": query.expect, "collection": collection, "ok": False}
        if not available:
            reason = "; ".join(sorted({reasons[n] for n in names})) or f"no collection {collection}"
            rows.append({**row, "applicable": bool(collection) and not names, "why": reason})
            continue
        answers = [_text_answer(store, n, spaces[n], query.text, query.expect, parameters) for n in available]
        best = min(answers, key=lambda a: (not a["ok"], a["distance"], a["found_in"]))
        rows.append({**row, "applicable": True, **best})
    return rows


def lost_queries(after: Sequence[dict[str, Any]], before: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The target's answers, with the source's best distance (`distance_before`).

    A query that the source can be asked and the target cannot has failed.
    """
    distances = {query["text"]: query.get("distance") for query in before if query["applicable"]}
    return [
        {**row, "distance_before": distances.get(row["text"])}
        if row["applicable"] or row["text"] not in distances
        else {**row, "applicable": True, "why": f"the source can be asked this, the target cannot: {row['why']}"}
        for row in after
    ]


def _text_answer(
    store: Reader, name: str, space: Space, text: str, expect: str | None, parameters: Parameters
) -> dict[str, Any]:
    hits = store.query_texts(name, [text], parameters.validation.k)[0] if store.count(name) else []
    nearest = min((d for _, d, _ in hits), default=float("inf"))
    keyword = expect is None or any(expect.casefold() in (document or "").casefold() for _, _, document in hits)
    limit = parameters.validation.maximum_distance
    reason = ""
    if not hits:
        reason = "nothing found"
    elif not keyword:
        reason = "the expected word is in none of the documents found"
    elif space == "cosine" and not nearest < limit:
        reason = f"distance {nearest:.3f}, allowed below {limit}"
    first = hits[0][0] if hits else None
    row = {"ok": not reason, "why": reason, "found": len(hits), "distance": nearest}
    return row | {"found_in": name, "id": first, "keyword": keyword}


# Noise, slack and intervals

Numbers = npt.NDArray[np.float64]
Record = dict[str, Any]  # of one probe, JSON-able: id, scale, self, reachable, recall, over_recall, plain, over, exact

_ROWS = 2048  # vectors compared at a time: 2048 x 1536 float64 is 25 MB
QUERIES = 20  # probes in one request

# The mean of the target's probes may lie this much below the source's; docs/steps.md gives the reasons.
SELF_MAY_FALL_BY = 0.05
RECALL_MAY_FALL_BY = 0.05
OVER_QUERY_MAY_FALL_BY = 0.02  # of over-query recall: 0.998 of it is exact on a sound index
REACH_MAY_FALL_BY = 0.05  # one probe in twenty
SOUND = 0.98  # a source whose own over-query is below this has an index in which chance decides


def noise(space: Space, distance: float, scale: float) -> float:
    """How far two stores' float32 distances of one pair may differ.

    Measured on 1.5.9 at 1536-d, against float64: cosine 1.5e-6, l2 1e-6 of the distance, ip 4e-7 of `scale`, the
    product of the norms; two stores with other builds of hnswlib can each be off by as much.
    """
    if space == "cosine":
        return 5e-6
    return 3e-6 * abs(distance) + 1e-12 * scale if space == "l2" else 2e-6 * scale


# Probes


@dataclass(frozen=True, slots=True)
class Probes:
    """The chunks whose vectors are searched for. `zero` and `unusable` count those that cannot be probes."""

    chunks: ChunkBatch
    zero: int = 0
    unusable: int = 0

    @property
    def ids(self) -> list[str]:
        return self.chunks.ids

    @property
    def vectors(self) -> Vectors:
        return self.chunks.embeddings


def choose_probes(
    batches: Iterable[ChunkBatch], collection: str, number: int, seed: int, leave_out: Container[str] = ()
) -> Probes:
    """`number` chunks, or all where there are fewer: those with the smallest digest of seed, collection and id.

    So one chunk more or less changes one probe at most. Zero, lost and non-finite vectors cannot be probes.
    """
    chosen: list[tuple[int, str, ChunkBatch]] = []
    zero = unusable = 0
    key = f"{seed}\0{collection}\0".encode("utf-8", "surrogatepass")
    for batch in batches:
        finite = np.isfinite(batch.embeddings).all(axis=1) & ~batch.lost & (batch.dimension > 0)
        empty = finite & ~batch.embeddings.any(axis=1)
        zero, unusable = zero + int(empty.sum()), unusable + int((~finite).sum())
        for i in np.flatnonzero(finite & ~empty):
            chunk = batch.ids[i]
            if chunk in leave_out:
                continue
            digest = hashlib.blake2b(key + chunk.encode("utf-8", "surrogatepass"), digest_size=8).digest()
            rank = -int.from_bytes(digest, "big")
            if len(chosen) < number:
                heapq.heappush(chosen, (rank, chunk, batch.take([int(i)])))
            elif rank > chosen[0][0]:
                heapq.heapreplace(chosen, (rank, chunk, batch.take([int(i)])))
    chosen.sort(key=lambda probe: probe[1])
    return Probes(ChunkBatch.concatenate([chunk for _, _, chunk in chosen]), zero, unusable)


# Brute force


class Truth:
    """Streaming brute force: fed with a side's vectors, it holds each probe's k nearest and the wanted distances.

    `nearest[p]` are (distance, id), best first, ties by id. `distances[p]` has the true distance of each wanted id seen.
    `scale[p]` is the probe's norm times the largest norm seen.
    """

    def __init__(self, probes: Vectors, space: Space, k: int, wanted: Sequence[Collection[str]]) -> None:
        self._q = probes.astype(np.float64)
        self._norms = np.linalg.norm(self._q, axis=1) if len(probes) else np.zeros(0)
        self._space, self.k = space, k
        self._askers: dict[str, list[int]] = {}
        for p, ids in enumerate(wanted):
            for chunk in ids:
                self._askers.setdefault(chunk, []).append(p)
        self.nearest: list[list[tuple[float, str]]] = [[] for _ in range(len(probes))]
        self.distances: list[dict[str, float]] = [{} for _ in range(len(probes))]
        self.scale = self._norms * 0.0

    def add(self, ids: Sequence[str], vectors: Vectors) -> None:
        """Take the next vectors (n, d) of this side; skips rows that are not finite, or of another dimension."""
        if not len(self._q) or not len(ids) or vectors.shape[1] != self._q.shape[1]:
            return
        for start in range(0, len(ids), _ROWS):
            part = vectors[start : start + _ROWS].astype(np.float64)
            rows = np.flatnonzero(np.isfinite(part).all(axis=1))
            if len(rows):
                self._add([ids[start + int(r)] for r in rows], part[rows])

    def _add(self, ids: list[str], vectors: npt.NDArray[np.float64]) -> None:
        norms = np.linalg.norm(vectors, axis=1)
        self.scale = np.maximum(self.scale, self._norms * norms.max())
        table = self._distances(vectors, norms)
        for column, chunk in enumerate(ids):
            for p in self._askers.get(chunk, ()):
                self.distances[p][chunk] = float(table[p, column])
        for p, row in enumerate(table):
            edge = np.partition(row, self.k - 1)[self.k - 1] if len(row) > self.k else np.inf
            near = np.flatnonzero(row <= edge)
            best = self.nearest[p] + [(float(row[i]), ids[i]) for i in near]
            self.nearest[p] = sorted(best)[: self.k]

    def _distances(self, vectors: npt.NDArray[np.float64], norms: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """(p, n) distances of probes to vectors, by one matrix product; otherwise as `stores.distance`."""
        dot = self._q @ vectors.T
        if self._space == "ip":
            return np.asarray(1.0 - dot)
        if self._space == "l2":
            return np.maximum(np.square(self._norms)[:, None] + np.square(norms)[None, :] - 2.0 * dot, 0.0)
        product = np.outer(self._norms, norms)
        return np.where(product > 0, 1.0 - dot / np.where(product > 0, product, 1.0), 1.0)


# Asking and measuring


@dataclass(frozen=True, slots=True)
class Answers:
    """A store's answers to the probes: of the plain query and the over-query.

    `plain_reach` and `over_reach` are, per probe, the distance up to which the answer could list the chunks in question;
    empty: not limited. See `answers_within`.
    """

    plain: Neighbours
    over: Neighbours
    plain_reach: Sequence[float] = ()
    over_reach: Sequence[float] = ()
    result_limit: int = 0  # results that the store gives at most, where fewer than the over-query asks for

    def wanted(self, ids: Sequence[str], k: int) -> list[set[str]]:
        """Per probe: the ids whose true distance is needed."""
        return [
            {own, *(i for i, _ in plain), *(i for i, _ in over[:k])}
            for own, plain, over in zip(ids, self.plain, self.over, strict=True)
        ]


def ask_probes(store: Reader, name: str, probes: Probes, k: int, overquery: int, count: int) -> Answers:
    """Send both queries of every probe; for at most as many results as the store has chunks (`count`), or gives."""
    if not probes.ids or not count:
        return Answers([[] for _ in probes.ids], [[] for _ in probes.ids])

    def ask(most: int) -> Neighbours:
        answers: Neighbours = []
        for start in range(0, len(probes.vectors), QUERIES):
            answers += store.query(name, probes.vectors[start : start + QUERIES], min(most, count))
        return answers

    plain, over = ask(k), ask(max(overquery, k))
    return Answers(plain, over, result_limit=min(max(overquery, k), store.limits().query_results))


def answers_within(answers: Sequence[tuple[Answers, Container[str]]], k: int) -> Answers:
    """The part of target collections' answers that is of one source collection; each comes with its ids of that source.

    A target collection that holds chunks of other sources, too, spends its results on all of them. So it lists chunks of
    this source only up to the distance of its last result, which becomes the probe's reach.
    """
    plain, plain_reach = _within([(a.plain, own) for a, own in answers])
    over, over_reach = _within([(a.over, own) for a, own in answers])
    return Answers([hits[:k] for hits in plain], over, plain_reach, over_reach)


def _within(parts: Sequence[tuple[Neighbours, Container[str]]]) -> tuple[Neighbours, list[float]]:
    neighbours: Neighbours = []
    reaches: list[float] = []
    for answers in zip(*(listed for listed, _ in parts), strict=True):
        pairs: list[tuple[str, float]] = []
        reach = float("inf")
        for answer, (_, own) in zip(answers, parts, strict=True):
            own_pairs = [pair for pair in answer if pair[0] in own]
            pairs += own_pairs
            if len(own_pairs) < len(answer):
                reach = min(reach, answer[-1][1])
        neighbours.append(sorted(pairs, key=lambda pair: pair[1]))
        reaches.append(reach)
    return neighbours, reaches


def records(ids: Sequence[str], answers: Answers, truth: Truth, space: Space, k: int) -> list[Record]:
    """One record per probe. A returned id is right if its true distance is not beyond that of the k-th nearest.

    A share that the answer could not show (see `Answers`) is None. Of the `neighbours`, the k nearest without its own chunk,
    `judged` are within the reach of the plain answer: recall is of them alone.
    """
    rows = []
    for p, own in enumerate(ids):
        distances, nearest, scale = truth.distances[p], truth.nearest[p], float(truth.scale[p])
        plain, over = answers.plain[p], answers.over[p]
        plain_reach = answers.plain_reach[p] if answers.plain_reach else float("inf")
        over_reach = answers.over_reach[p] if answers.over_reach else float("inf")
        own_distance = distances.get(own, float("-inf"))
        within = partial(_within_distance, distances, space, scale)
        first = bool(plain) and within(plain[0][0], own_distance)
        reachable = any(chunk == own for chunk, _ in over) or (bool(over) and within(over[0][0], own_distance))
        recalls: dict[str, float | None] = {}
        judged = 0
        for key, pairs, reach in (("recall", plain, plain_reach), ("over_recall", over, over_reach)):
            countable = [d for d, chunk in nearest if chunk != own and _closer(d, reach, space, scale)]
            others = [chunk for chunk, _ in pairs if chunk != own]
            hits = sum(within(chunk, countable[-1]) for chunk in others[: len(countable)]) if countable else 0
            recalls[key] = hits / len(countable) if countable else None if nearest else 0.0
            judged = len(countable) if key == "recall" else judged
        rows.append(
            {
                "id": own,
                "scale": scale,
                "self": first if first or _closer(own_distance, plain_reach, space, scale) else None,
                "reachable": reachable if reachable or _closer(own_distance, over_reach, space, scale) else None,
                **recalls,
                "judged": judged,
                "neighbours": sum(chunk != own for _, chunk in nearest),
                "plain": [[chunk, float(d)] for chunk, d in plain[:k]],
                "over": [[chunk, float(d)] for chunk, d in over[:k]],
                "exact": [[chunk, d] for d, chunk in nearest],
                "plain_reach": None if np.isinf(plain_reach) else plain_reach,
            }
        )
    return rows


def _within_distance(distances: Mapping[str, float], space: Space, scale: float, chunk: str, limit: float) -> bool:
    return chunk in distances and distances[chunk] <= limit + noise(space, limit, scale)


def _closer(distance: float, reach: float, space: Space, scale: float) -> bool:
    """Whether an answer with this reach had to list a chunk at this distance."""
    return bool(np.isinf(reach)) or distance < reach - noise(space, reach, scale)


def baseline(
    store: Reader, snapshot: Snapshot, parameters: Parameters, *, progress: Progress = silent
) -> dict[str, Any]:
    """Ask the source every probe and named query: JSON for `facts["search_baseline"]` of step 13.

    `progress` advances by the chunks of each part after brute force: `snapshot.total` in all. `moved` counts the pairs of a
    probe and a chunk that are left out, because a client changed one of them after the snapshot was read.
    """
    rules = parameters.validation
    collections: dict[str, Any] = {}
    for info in snapshot.collections():
        probes = choose_probes(snapshot.batches(info.name), info.name, rules.probes, rules.seed)
        answers = ask_probes(store, info.name, probes, rules.k, rules.overquery, store.count(info.name))
        truth = Truth(probes.vectors, info.space, rules.k, answers.wanted(probes.ids, 2 * rules.k))
        for batch in snapshot.batches(info.name):
            truth.add(batch.ids, batch.embeddings)
            progress.advance(len(batch))
        changed = set() if parameters.source.is_embedded else _changed_meanwhile(store, info, probes, answers, truth)
        pairs = zip(probes.ids, answers.wanted(probes.ids, rules.k), strict=True)
        left_out = sum(len(ids if own in changed else ids & changed) for own, ids in pairs)
        if changed:
            truth.nearest = [[pair for pair in near if pair[1] not in changed] for near in truth.nearest]
            answered = {chunk for hits in (*answers.plain, *answers.over) for chunk, _ in hits}
            within, limit = answers_within([(answers, answered - changed)], rules.k), answers.result_limit
            answers = replace(within, result_limit=limit)
        measured = [r for r in records(probes.ids, answers, truth, info.space, rules.k) if r["id"] not in changed]
        collections[info.name] = {
            "space": info.space,
            "zero": probes.zero,
            "unusable": probes.unusable,
            "overquery": answers.result_limit,
            "doubt": _doubt(store, info, measured, answers, truth) if parameters.source.is_cloud else "",
            "moved": left_out,
            "probes": measured,
        }
    spaces = {info.name: info.space for info in snapshot.collections()}
    queries = named_queries(store, parameters, spaces, lambda _: list(spaces))
    return {"k": rules.k, "collections": collections, "queries": queries}


def _changed_meanwhile(store: Reader, info: CollectionInfo, probes: Probes, answers: Answers, truth: Truth) -> set[str]:
    """The answered or nearest chunks that were added, deleted or changed after the snapshot was read.

    They are read again: one whose distance to a probe differs from that in the snapshot has another vector now.
    """
    answered = answers.wanted(probes.ids, 2 * truth.k)
    ids_by_probe = [ids.union(chunk for _, chunk in near) for ids, near in zip(answered, truth.nearest, strict=True)]
    current = Truth(probes.vectors, info.space, truth.k, ids_by_probe)
    ids_in_all = sorted(set().union(*ids_by_probe))
    for start in range(0, len(ids_in_all), _ROWS):
        batch = store.read(info.name, ids_in_all[start : start + _ROWS])
        current.add(batch.ids, batch.embeddings)
    changed: set[str] = set()
    for p, ids in enumerate(ids_by_probe):
        before, scale = {chunk: d for d, chunk in truth.nearest[p]} | truth.distances[p], float(truth.scale[p])
        for chunk in ids:
            a, b = before.get(chunk), current.distances[p].get(chunk)
            close = a is not None and b is not None and abs(a - b) <= noise(info.space, max(abs(a), abs(b)), scale)
            if not close and (a is not None or b is not None):
                changed.add(chunk)
    return changed


def pairs_of(measured: Iterable[Record]) -> int:
    """The number of pairs of a probe and a chunk, itself included, whose distance these records hold."""
    return sum(len({r["id"], *(chunk for key in ("plain", "over") for chunk, _ in r[key])}) for r in measured)


def _doubt(store: Reader, info: CollectionInfo, measured: Sequence[Record], answers: Answers, truth: Truth) -> str:
    """Why Cloud's own search is no reference for the target; "" where it is one.

    Cloud indexes recent writes later, and may search quantised vectors: then it finds less, at other distances, than the
    vectors that it gives.
    """
    reasons = []
    if waiting := store.unindexed(info.name):
        reasons.append(f"{waiting:,} writes are not indexed there yet")
    missed = sum(r["reachable"] is False for r in measured)
    if missed > (1 - SOUND) * len(measured):
        reasons.append(f"it does not find {missed} of {count(len(measured), 'chunk')} by their own vector")
    deviating = [
        abs(d - distances[chunk]) > noise(info.space, distances[chunk], float(scale))
        for hits, distances, scale in zip(answers.plain, truth.distances, truth.scale, strict=True)
        for chunk, d in hits
        if chunk in distances
    ]
    if any(deviating):
        reasons.append(f"{sum(deviating)} of {len(deviating)} distances that it answers are not those of its vectors")
    return "; ".join(reasons)


# Comparing


def equivalence(
    before: Sequence[Record] | None, after: Sequence[Record], space: Space, doubt: str = "", moved: int = 0
) -> dict[str, Any]:
    """One collection's row: shares of the source (`before`) and the target (`after`), verdict, and reason.

    `doubt` tells why the source's search is no reference: then the target is judged alone, by whether it finds its chunks.
    `moved` pairs were left out of `before`, because clients changed them; where nothing else was asked on both sides,
    equivalence is NOT EXERCISED.

    Only probes asked on both sides are paired. A share may fall by its slack plus, where chance has a part (plain
    queries; any query on ip, which is no metric, or on an index whose own over-query is not nearly exact), three
    standard errors of the paired difference.
    """
    row: dict[str, Any] = {"probes": len(after), "recall_queries": sum(r["recall"] is not None for r in after)}
    row |= {key: sum(r[key] for r in after) for key in ("judged", "neighbours")}
    row["moved"], left_out = moved, f"{count(moved, 'pair')} left out: clients changed them meanwhile"
    for share in ("self", "reachable", "recall", "over_recall"):
        row[f"{share}_after"] = mean_of([r[share] for r in after if r[share] is not None])
    by_id = {r["id"]: r for r in before or []}
    pairs = [(by_id[r["id"]], r) for r in after if r["id"] in by_id]
    if not pairs and not (doubt and after):
        verdict = Verdict.NOT_APPLICABLE if not after else Verdict.WARNING
        detail = "no vector that could be a probe" if not after else "no baseline of the source: only measured"
        if after and moved:
            verdict, detail = Verdict.NOT_EXERCISED, f"nothing is left to compare; {left_out}"
        return {**row, "paired": 0, "distance_excess": 0.0, "verdict": verdict, "detail": detail}
    if doubt:
        reachable = row["reachable_after"]
        lost = space != "ip" and reachable < 1 - REACH_MAY_FALL_BY
        detail = f"the target finds {reachable:.3f} of the probes; the source cannot be the measure: {doubt}"
        verdict = Verdict.FAIL if lost else Verdict.WARNING
        return {**row, "paired": 0, "distance_excess": 0.0, "verdict": verdict, "detail": detail, "unsure": True}
    shortfalls = []
    compared = 0
    slacks = {
        "self": SELF_MAY_FALL_BY,
        "recall": RECALL_MAY_FALL_BY,
        "reachable": REACH_MAY_FALL_BY,
        "over_recall": OVER_QUERY_MAY_FALL_BY,
    }
    for share, slack in slacks.items():
        both = [pair for pair in pairs if None not in (pair[0][share], pair[1][share])]
        if not both:
            continue
        compared += 1
        a, b = (np.array([float(r[share]) for r in side]) for side in zip(*both, strict=True))
        row[f"{share}_before"] = float(a.mean())
        allowed, worse = fall_of(share.replace("_", " "), a, b, slack, share in ("self", "recall") or space == "ip")
        row[f"{share}_floor"] = max(0.0, float(a.mean()) - allowed)
        shortfalls += worse
    row["recall_pairs"] = sum(None not in (a["recall"], b["recall"]) for a, b in pairs)
    gaps = [gap for a, b in pairs for gap in _distance_gaps(a, b, space)]
    excess = max((gap / allowed for gap, allowed in gaps), default=0.0)
    row |= {"distances": len(gaps), "distance_largest": max((gap for gap, _ in gaps), default=0.0)}
    if excess > 1.0:
        shortfalls.append(f"distances of the same pairs differ by {excess:.3g} times what float32 explains")
    if not shortfalls and not compared:
        detail = "chunks of other collections fill the target's answers: nothing to compare"
        verdict = Verdict.NOT_EXERCISED if moved else Verdict.WARNING
        detail = f"nothing is left to compare; {left_out}" if moved else detail
        return {**row, "paired": 0, "distance_excess": excess, "verdict": verdict, "detail": detail}
    verdict = Verdict.FAIL if shortfalls else Verdict.PASS
    detail = "; ".join([*shortfalls, *([left_out] if moved else [])])
    return {**row, "paired": len(pairs), "distance_excess": excess, "verdict": verdict, "detail": detail}


def mean_of(values: Sequence[float]) -> float:
    return float(np.mean([float(v) for v in values])) if values else float("nan")


def fall_of(name: str, before: Numbers, after: Numbers, slack: float, by_chance: bool) -> tuple[float, list[str]]:
    """How far a share of paired queries may fall, and a sentence if it fell further."""
    error = float((before - after).std(ddof=1) / np.sqrt(len(before))) if len(before) > 1 else 0.0
    allowed = slack + (3.0 * error if by_chance or float(before.mean()) < SOUND else 0.0)
    if float((before - after).mean()) <= allowed + 1e-9:
        return allowed, []
    return allowed, [f"{name} {before.mean():.3f} before, {after.mean():.3f} after (allowed fall {allowed:.3f})"]


def _distance_gaps(a: Record, b: Record, space: Space) -> list[tuple[float, float]]:
    """For each chunk that both sides answered to one query: the difference of its two distances, and the allowed noise."""
    first = {chunk: d for key in ("plain", "over") for chunk, d in a[key]}
    scale = max(a["scale"], b["scale"])
    return [
        (abs(d - first[chunk]), max(noise(space, max(abs(d), abs(first[chunk])), scale), 1e-300))
        for key in ("plain", "over")
        for chunk, d in b[key]
        if chunk in first
    ]


def overlap_ks(k: int) -> list[int]:
    """The numbers of neighbours at which the overlap is shown, up to k."""
    return sorted({n for n in (1, 3, 5, 10) if n < k} | {k})


def overlap(first: Sequence[Record], second: Sequence[Record], key: str, space: Space, k: int) -> float:
    """Mean share of two sides' first k answers that is the same, over probes asked on both; NaN where there are none.

    An id at the distance of the k-th answer is a tie, and counts. Answers of the first side beyond the second one's reach are
    left out, and so is the probe's own chunk.
    """
    answers = {r["id"]: _others(r[key], r["id"])[:k] for r in first}
    shares = []
    for record in second:
        reach, scale = record.get(f"{key}_reach"), record["scale"]
        limit = float("inf") if reach is None else reach
        ours = [(d, chunk) for chunk, d in answers.get(record["id"], []) if _closer(d, limit, space, scale)]
        if ours:
            theirs = [(d, chunk) for chunk, d in _others(record[key], record["id"])[: len(ours)]]
            shares.append(shared(ours, theirs, space, scale))
    return mean_of(shares)


def _others(answer: Sequence[Sequence[Any]], own: str) -> list[Sequence[Any]]:
    return [pair for pair in answer if pair[0] != own]


def exact_overlap(ids: Sequence[str], before: Truth, after: Truth, space: Space, k: int) -> float:
    """As `overlap`, for brute force on both sides; `ids` are the probes' own chunks."""
    shares = []
    for own, *sides, scale in zip(ids, before.nearest, after.nearest, before.scale, strict=True):
        ours, theirs = ([pair for pair in side if pair[1] != own][:k] for side in sides)
        shares += [shared(ours, theirs, space, float(scale))] if ours else []
    return mean_of(shares)


def shared(ours: Sequence[tuple[float, str]], theirs: Sequence[tuple[float, str]], space: Space, scale: float) -> float:
    """Share of `ours` (distance, id; best first) that is in `theirs`; an id at the distance of our last one is a tie."""
    edge, ids = ours[-1][0], {chunk for _, chunk in ours}
    allowed = noise(space, edge, scale)
    return min(1.0, sum(chunk in ids or abs(d - edge) <= allowed for d, chunk in theirs) / len(ours))


def rows_frame(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Rows of `equivalence` as a table in a fixed order of columns."""
    asked = ("self", "reachable", "recall", "over_recall")
    shares = [f"{share}_{side}" for share in asked for side in ("before", "after")]
    columns = [
        "collection",
        "space",
        "probes",
        "paired",
        "judged",
        "neighbours",
        *shares,
        "distance_excess",
        "verdict",
        "detail",
    ]
    return pd.DataFrame(list(rows)).reindex(columns=columns)

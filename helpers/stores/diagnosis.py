"""The diagnosis of a database, for `runbook doctor` and for step 10: its facts, its problems, what can be saved.

A directory is copied, repaired and rescued as for a migration (`opening.prepare`); then every collection is read. So the
diagnosis is exactly what a migration would find.
"""

from __future__ import annotations

import dataclasses
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from helpers.chunks import ChunkBatch
from helpers.errors import EnvironmentFailure, UsageError, one_line
from helpers.formatting import count, size
from helpers.parameters.endpoint import ALL, Endpoint, resolve_path
from helpers.results import Progress, silent
from helpers.stores import CollectionInfo, Finding, Reader, Severity, distance
from helpers.stores.copying import newest
from helpers.stores.creation import refused_name, unsupported
from helpers.stores.index_files import PICKLE, IndexDamage, bloat, read_pickle
from helpers.stores.layout import DATABASE, VOLUMES, is_duckdb_layout, reading
from helpers.stores.opening import databases_of, holds_nothing
from helpers.stores.repair import migrations

PIECE = 1_000  # chunks read at a time
_LISTINGS = 3  # of a collection whose count and ids do not agree
PROBES = 20  # vectors searched for, of each collection
SECONDS = 60.0  # for reading, where not everything was asked for
REQUESTS = 200  # for the ids of one collection, likewise
CLOUD_REQUESTS = 3  # where reading is paid for
_MOST_ASKED = 50  # databases of a server
_HOLDING = """SELECT d.tenant_id, d.name FROM databases d WHERE d.id IN (SELECT database_id FROM collections)
    ORDER BY d.tenant_id, d.name"""
TIE = 1e-4  # a distance up to which a stored vector counts as found: another chunk may have the same one


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem: `what`, `where` (a collection, or "" for the whole database), and its meaning for a migration."""

    severity: Severity
    what: str
    where: str = ""
    meaning: str = ""


@dataclass(slots=True)
class CollectionHealth:
    """The state of one collection. Counts are of chunks.

    `reported`: the store's own count. `listed`: the ids that it lists (None: not asked). `read`: the chunks that were read with
    their vectors; of these `rescued` have an exact vector from the files of a damaged index, `normalised` one without its norm,
    `lost` none. `texts`, `metadata`: the chunks that have any. `probed`: the vectors that were searched for, of which `unfound`
    were not found; for `contradicted` of these the store returned another id at distance 0 whose vector lies elsewhere. `asked`:
    whether every chunk was asked for, not a sample. `unreadable`: why reading ended. `not_local`: what a local Chroma cannot
    hold of it.
    """

    name: str
    reported: int | None = None
    listed: int | None = None
    read: int = 0
    rescued: int = 0
    normalised: int = 0
    lost: int = 0
    texts: int = 0
    metadata: int = 0
    probed: int = 0
    unfound: int = 0
    contradicted: int = 0
    dimension: int | None = None
    space: str = ""
    asked: bool = False
    unreadable: str = ""
    not_local: list[str] = field(default_factory=list)

    @property
    def exact(self) -> int:
        """The number of vectors that are as they were stored."""
        return self.read - self.lost - self.normalised

    @property
    def swapped(self) -> bool:
        """Whether vectors come back under the ids of others."""
        return swapped(self.contradicted, self.probed)

    @property
    def unexplained(self) -> bool:
        """Whether its answers contradict its counts, so that step 10 stops at it."""
        return self.swapped or (self.whole and not self.reported == self.listed == self.read)

    @property
    def whole(self) -> bool:
        """Whether every chunk that is listed was asked for, and not a sample."""
        return self.asked

    def add(self, batch: ChunkBatch, fates: Mapping[str, set[str]]) -> None:
        """Count a batch that was read; `fates`: ids of this collection by what the rescue did (`Reader.repairs`)."""
        ids = set(batch.ids)
        directions = ids & (fates.get("vector_normalised", set()) | fates.get("norm_lost", set()))
        self.read += len(batch)
        self.rescued += sum(len(ids & fates.get(kind, set())) for kind in ("vector_from_log", "vector_from_index"))
        self.normalised += len(directions)
        self.lost += sum(
            bool(lost) and chunk not in directions for chunk, lost in zip(batch.ids, batch.lost, strict=True)
        )
        self.texts += sum(text is not None for text in batch.documents)
        self.metadata += sum(bool(values) for values in batch.metadatas)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The diagnosis. `facts`: properties of the database, in order. `problems`: the worst first."""

    facts: dict[str, str]
    collections: list[CollectionHealth]
    problems: list[Problem] = field(default_factory=list)
    unlisted: int = 0  # chunks that the database holds and no collection lists

    @property
    def verdict(self) -> str:
        """ "sound", or the severity of the worst problem; with only notes and warnings a database is sound."""
        worst = self.problems[0].severity if self.problems else Severity.NOTE
        return "sound" if worst.sound else str(worst)

    @property
    def headline(self) -> str:
        """The diagnosis in one sentence: the severity, and how much can be saved."""
        if not self.collections:
            return "Nothing to read: it has no collection."
        unread = sum(bool(c.unreadable) for c in self.collections)
        lost = sum(c.lost for c in self.collections)
        if self.collections and unread == len(self.collections):
            return "Unusable: no collection can be read."
        read, sampled = sum(c.read for c in self.collections), " read (a sample)" if self.sampled else ""
        if self.verdict == "sound":
            return f"Sound: {'all ' if not sampled else ''}{count(read, 'chunk')}{sampled} can be read."
        exact, directions = (sum(getattr(c, name) for c in self.collections) for name in ("exact", "normalised"))
        norms = f", {directions:,} without their norm" if directions else ""
        unread_part = f"{unread} of {count(len(self.collections), 'collection')} cannot be read. " if unread else ""
        if self.unexplained:
            return "Damaged: it does not give what it says it holds. Do not migrate it before this is explained."
        if lost:
            return f"Damaged: {unread_part}{lost:,} of {read:,} vectors{sampled} are lost, {exact:,} can be saved exactly{norms}."
        if unread_part or directions:
            return f"Damaged: {unread_part}{exact:,} of {count(read, 'vector')}{sampled} can be saved exactly{norms}."
        all_ = "all " if not sampled else ""
        if self.unlisted:
            unlisted = f"{count(self.unlisted, 'chunk')} that no collection lists cannot be migrated"
            return f"Damaged: {unlisted}; {all_}{count(read, 'chunk')}{sampled} that are listed can be saved."
        return f"Damaged, but no chunk and no vector is lost: {all_}{count(read, 'chunk')}{sampled} can be saved."

    @property
    def unexplained(self) -> list[str]:
        """The collections whose answers contradict their counts."""
        return [c.name for c in self.collections if not c.unreadable and c.unexplained]

    def grouped(self) -> list[Problem]:
        """Return the problems; equal ones of several collections are one."""
        places: dict[tuple[Severity, str, str], list[str]] = {}
        for p in self.problems:
            places.setdefault((p.severity, p.what, p.meaning), []).append(p.where)
        return [Problem(severity, what, _listed(where), meaning) for (severity, what, meaning), where in places.items()]

    @property
    def minimum_valid(self) -> float:
        """The share of chunks (0-1) that can be migrated with their exact vectors, rounded down, but to 0 only if there is none.

        For a sample it is an estimate, rounded to hundredths.
        """
        read, exact = (sum(getattr(c, name) for c in self.collections) for name in ("read", "exact"))
        digits = 2 if self.sampled else 4
        while exact and not exact * 10**digits // read:
            digits += 1
        return exact * 10**digits // read / 10**digits if read else 1.0

    @property
    def sampled(self) -> list[str]:
        """The collections of which not every chunk was read."""
        return [c.name for c in self.collections if not c.whole and not c.unreadable]

    def table(self) -> pd.DataFrame:
        """Return one row for each collection: what can be saved, in chunks; `exact vectors`: read as they were stored."""
        columns = [
            "collection",
            "dimension",
            "space",
            "chunks",
            "read",
            "exact vectors",
            "without norm",
            "lost",
            "documents",
            "metadata",
        ]
        rows = [
            [c.name, c.dimension, c.space, c.listed if c.listed is not None else c.reported, c.read,
             c.exact, c.normalised, c.lost, c.texts, c.metadata]
            for c in self.collections
        ]  # fmt: skip
        return pd.DataFrame(rows, columns=columns).astype({"dimension": "Int64", "chunks": "Int64"})

    def problem_table(self) -> pd.DataFrame:
        """Return one row for each problem, the worst first."""
        rows = [(str(p.severity), p.where or "the database", p.what, p.meaning) for p in self.problems]
        return pd.DataFrame(rows, columns=["severity", "where", "what", "meaning"])

    def document(self) -> dict[str, Any]:
        """Return the whole diagnosis for JSON."""
        return {
            "verdict": self.verdict,
            "facts": self.facts,
            "collections": [dataclasses.asdict(c) for c in self.collections],
            "problems": [{"severity": str(p.severity), "where": p.where, "what": p.what, "meaning": p.meaning}
                         for p in self.problems],
        }  # fmt: skip


def _listed(places: Sequence[str]) -> str:
    """Return the names of collections; of many the first three and the number of others."""
    shown = ", ".join(one_line(place, 40) for place in places[:3] if place)
    return (
        f"{len(places)} collections ({shown}{f' and {len(places) - 3} more' if len(places) > 3 else ''})"
        if len(places) > 1
        else shown
    )


def examine(
    store: Reader, endpoint: Endpoint, names: Sequence[str], *, full: bool = False, progress: Progress = silent
) -> Diagnosis:
    """Read these collections of an open source and diagnose them.

    With `full` all chunks are read; else reading ends after `SECONDS`, and a collection whose ids alone need more than `REQUESTS`
    requests is only counted. Chunks are read in strides through the collection, so that an unfinished reading is a fair sample.
    Never raises for a damaged collection: it reports the damage.
    """
    deadline = time.monotonic() + SECONDS
    fates = _fates(store)
    damaged = {
        r["collection"]: r["removed"]
        for r in getattr(store, "repairs", ())
        if r["repair"] == "index_folder" and "collection" in r
    }
    collections: list[CollectionHealth] = []
    problems = list(_source_problems(store, endpoint))
    for name in names:
        health, info = _collection(store, name, fates.get(name, {}), deadline, full, endpoint.is_cloud, progress)
        collections.append(health)
        problems += _problems(health, info)
        if name in damaged:
            problems.append(_broken_index(health, damaged[name], fates.get(name, {})))
    if any("never writes" in why for why in damaged.values()):
        problems += _foreign_pickles(endpoint)
    order = list(Severity)
    facts = _facts(store, endpoint, collections)
    unlisted = sum(r["repair"] == "not_listed" for r in getattr(store, "repairs", ()))
    return Diagnosis(facts, collections, sorted(problems, key=lambda p: order.index(p.severity)), unlisted)


def _fates(store: Reader) -> dict[str, dict[str, set[str]]]:
    """Return the ids of each collection whose vector the rescue read from a file, or lost, by the kind of the record."""
    fates: dict[str, dict[str, set[str]]] = {}
    for record in getattr(store, "repairs", ()):
        if "ids" in record:
            fates.setdefault(record["collection"], {}).setdefault(record["repair"], set()).update(record["ids"])
    return fates


def _collection(
    store: Reader,
    name: str,
    fates: Mapping[str, set[str]],
    deadline: float,
    full: bool,
    cloud: bool,
    progress: Progress,
) -> tuple[CollectionHealth, CollectionInfo | None]:
    health = CollectionHealth(name)
    try:
        health.reported = store.count(name)
        info = store.info(name)
        health.dimension, health.space = info.dimension, info.space
        health.not_local = [f"{index.kind} on {one_line(index.key, 80)}" for index in unsupported(info)]
        requests = CLOUD_REQUESTS if cloud else REQUESTS
        if not full and (health.reported > store.limits().page_rows * requests or time.monotonic() > deadline):
            return health, info
        health.reported, ids = _counted(store, name)
        health.listed = len(ids)
        missing: set[str] = set()
        stride = -(-len(ids) // PIECE) or 1
        for start in range(stride):
            batch = store.read(name, ids[start::stride])
            health.add(batch, fates)
            missing.update(set(ids[start::stride]).difference(batch.ids))
            if not start:
                sample = batch.take(np.flatnonzero(~batch.lost)[:PROBES])
                health.probed = len(sample)
                health.unfound, health.contradicted = _unfound(store, info, sample)
            progress.advance(len(batch))
            if not full and time.monotonic() > deadline and start < stride - 1:
                break
        else:
            health.asked = True
        if missing:  # a client may have deleted chunks since they were listed
            counted, ids_now = _counted(store, name)
            deleted = len(missing.difference(ids_now)) if counted == len(ids_now) else 0
            health.listed, health.reported = health.listed - deleted, health.reported - deleted
        return health, info
    except EnvironmentFailure as error:
        health.unreadable = error.what
        return health, None


def _counted(store: Reader, name: str) -> tuple[int, list[str]]:
    """Return (chunks that a collection counts, its ids). Clients may write between the two requests, so retry if they differ."""
    before = store.count(name)
    for _ in range(_LISTINGS):
        ids, after = store.ids(name), store.count(name)
        if min(before, after) <= len(ids) <= max(before, after):
            return len(ids), ids
        before = after
    return before, ids


def swapped(contradicted: int, probed: int) -> bool:
    """Return whether so many searches for a stored vector return another id at distance 0 that vectors must have wrong ids.

    A poor graph misses chunks, too, but contradicts nothing. One, or one in ten, may be chunks that a writer changed meanwhile.
    """
    return contradicted > max(1, probed // 10)


def _unfound(store: Reader, info: CollectionInfo, sample: ChunkBatch) -> tuple[int, int]:
    """Return how many of these stored vectors a search does not find, and how many of the answers contradict stored vectors.

    A vector counts as found if another chunk with an equally near vector is returned; an answer that claims so falsely is a
    contradiction. For inner product, where the nearest need not be the vector itself, (0, 0).
    """
    if info.space == "ip" or not len(sample):
        return 0, 0
    answers = store.query(info.name, sample.embeddings, min(10, store.limits().query_results))
    misses = {
        row: answer[0][0] if answer and answer[0][1] <= TIE else None
        for row, (chunk, answer) in enumerate(zip(sample.ids, answers, strict=True))
        if chunk not in {i for i, _ in answer}
    }
    others = store.read(info.name, sorted({chunk for chunk in misses.values() if chunk is not None}))
    row_of = {chunk: row for row, chunk in enumerate(others.ids)}
    ties = sum(
        chunk in row_of
        and bool(distance(info.space, others.embeddings[[row_of[chunk]]], sample.embeddings[row])[0] <= TIE)
        for row, chunk in misses.items()
    )
    claimed = sum(chunk is not None for chunk in misses.values())
    return len(misses) - ties, claimed - ties


def _problems(c: CollectionHealth, info: CollectionInfo | None) -> Iterator[Problem]:
    if c.unreadable:
        yield Problem(Severity.LOST, f"cannot be read: {c.unreadable}", c.name,
                      "A migration stops here. Leave it out (collections.exclude), or take a backup of it.")  # fmt: skip
        return
    if c.lost:
        share = f"{c.lost:,} of {count(c.read, 'chunk')}{'' if c.whole else ' read'}"
        preserved = "Documents and metadata are" if c.texts else "Ids and metadata are"
        no_documents = "" if c.texts else " It has no documents, so no new vectors can be made."
        yield Problem(Severity.LOST, f"{share}: the vector is lost", c.name,
                      f"{preserved} kept in workspace/<run id>/quarantine.{no_documents}")  # fmt: skip
    if c.listed is not None and c.reported is not None and c.listed != c.reported:
        yield Problem(Severity.LOST, f"counts {c.reported:,} chunks and lists {c.listed:,}", c.name,
                      "What is not listed cannot be read.")  # fmt: skip
    if c.whole and c.read != c.listed:
        yield Problem(Severity.LOST, f"lists {c.listed:,} chunks and answers {c.read:,}", c.name,
                      "The others were asked for by id and did not come.")  # fmt: skip
    if c.normalised:
        yield Problem(Severity.DAMAGED, f"{count(c.normalised, 'vector')} without a norm", c.name,
                      "The direction is known, the length is lost: cosine search would answer as before. They are kept in "
                      "workspace/<run id>/quarantine, unless you decide to migrate them with the length 1.")  # fmt: skip
    if c.swapped:
        yield Problem(Severity.LOST, f"{c.contradicted} of {c.probed} stored vectors are found under another id", c.name,
                      "Vectors may come back under the ids of others. Do not migrate it before this is explained.")  # fmt: skip
    elif c.unfound:
        yield Problem(Severity.DAMAGED, f"{c.unfound} of {c.probed} stored vectors are not found by a search", c.name,
                      "Searches miss chunks today. A migration builds a new index.")  # fmt: skip
    if reason := refused_name(c.name):
        yield Problem(Severity.WARNING, f"a current Chroma refuses the name: {reason}", c.name,
                      "A migration stops at it: route it to another name by a schema file, or leave it out "
                      "(collections.exclude).")  # fmt: skip
    if c.not_local:
        yield Problem(Severity.WARNING, f"a local Chroma cannot hold: {', '.join(c.not_local)}", c.name,
                      "A migration to one gives it up (migration.drop_indexes); those who sign see it.")  # fmt: skip
    yield from _of_findings(info.findings if info else (), c.name)


def _of_findings(sentences: Sequence[str], where: str) -> Iterator[Problem]:
    """Yield the findings of the stores, except those that the counts include."""
    for finding in map(Finding.of, sentences):
        if not finding.counted:
            yield Problem(finding.severity, str(finding), where, finding.meaning)


def _broken_index(c: CollectionHealth, reason: str, fates: Mapping[str, set[str]]) -> Problem:
    """Return the problem of a damaged index folder, with the files from which the vectors were rescued."""
    sources = [
        f"{len(fates[kind]):,} from {place}"
        for kind, place in (("vector_from_log", "the log"), ("vector_from_index", "the rows of the index"))
        if kind in fates
    ]
    rest = ""
    if "no sound row" in reason and not c.lost and c.whole and "vector_from_log" in fates:
        rest = " None of these is lost: the log holds their newest vectors."
    if "was saved up to" in reason:
        rest += " The likely cause: database and index were restored from different copies."
    files = f" Vectors were read from the files instead: {' and '.join(sources)}." if sources else ""
    problem = reason.replace("its index was saved", "it was saved")
    meaning = f"{rest} Chroma may fail on it or miss chunks.{files}".strip()
    return Problem(Severity.DAMAGED, f"its index is damaged: {problem}", c.name, meaning)


def _foreign_pickles(endpoint: Endpoint) -> Iterator[Problem]:
    """Yield a problem for each pickle of the original that asks for something that Chroma never writes; nothing of it is run."""
    for file in sorted(resolve_path(endpoint.path or "").glob(f"*/{PICKLE}")):
        try:
            read_pickle(file)
        except IndexDamage as damage:
            if damage.code == "pickle_foreign":
                yield Problem(
                    Severity.ATTACK, f"{file.parent.name}/{PICKLE} may be an attack", "",
                    "Do not open this directory with Chroma: some versions run what the file asks for. Nothing of it was "
                    "run here. Find out who can write to the folder.",
                )  # fmt: skip


def _source_problems(store: Reader, endpoint: Endpoint) -> Iterator[Problem]:
    yield from _of_findings(getattr(store, "findings", ()), "")
    if (
        endpoint.url
        and endpoint.headers
        and not endpoint.tls
        and endpoint.host not in ("localhost", "127.0.0.1", "::1")
    ):
        yield Problem(Severity.NOTE, "secrets are sent over plain http", "", "Use https, or a tunnel.")
    if endpoint.url and not store.names():
        yield Problem(Severity.NOTE, "the server holds no collection", "", f"If it should: {VOLUMES}.")
    if endpoint.tls and not endpoint.verify_tls:
        yield Problem(Severity.NOTE, "the server's certificate is not checked", "", "Set verify_tls: true.")


def _facts(store: Reader, endpoint: Endpoint, collections: Sequence[CollectionHealth]) -> dict[str, str]:
    chunks = sum(c.listed if c.listed is not None else c.reported or 0 for c in collections)
    facts = {
        "place": store.label,
        "layout": source_layout(endpoint),
        "version": source_version(endpoint, store.version),
    }
    facts["holds"] = f"{count(len(collections), 'collection')}, {count(chunks, 'chunk')}"
    if endpoint.path:
        path = resolve_path(endpoint.path)
        facts["size"] = _directory_size(path)
        if databases := stored_databases(path):
            if len(databases) > 1:
                facts["read"] = (
                    f"{one_line(endpoint.tenant, 60)}/{one_line(endpoint.database, 60)} (--tenant, --database: another)"
                )
            facts["databases"] = ", ".join(databases[:5]) + (
                f" and {len(databases) - 5} more" if len(databases) > 5 else ""
            )
    else:
        facts["protocol"] = store.protocol
        client = getattr(store, "client", endpoint)  # it has the tenant and database that the key opens
        facts["database"] = f"{one_line(client.tenant, 60)}/{one_line(client.database, 60)}"
        facts["limits"] = ", ".join(
            f"{name.replace('_', ' ')} {number:,}" for name, number in store.limits().known().items()
        )
    return facts


def source_layout(endpoint: Endpoint) -> str:
    """Return in words how the source stores or serves its chunks."""
    if not endpoint.path:
        return "a server over HTTP"
    if is_duckdb_layout(resolve_path(endpoint.path)):
        return "a directory of Chroma 0.3: two Parquet files"
    return "a directory with chroma.sqlite3 and an index folder per collection, read from a copy"


def source_version(endpoint: Endpoint, reported: str) -> str:
    """Return the version as far as it is known; a directory's migrations are more exact than the engine that opens its copy."""
    if not endpoint.path:
        return f"reports {reported}" + (" (every 1.x server says 1.0.0)" if reported == "1.0.0" else "")
    if is_duckdb_layout(resolve_path(endpoint.path)):
        return f"reports {reported}"
    migrated = dict(migrations(resolve_path(endpoint.path) / DATABASE))
    shown = ", ".join(f"{name} {number}" for name, number in migrated.items())
    if not migrated:
        return "unknown: its migrations cannot be read without opening it"
    if of_1_x(migrated):
        return f"opened by 1.x last ({shown})"
    if migrated.get("embeddings_queue", 0) >= 2:
        return f"0.5.6 to 1.0 ({shown})"
    return f"0.4 to 0.5.5 ({shown})"


def of_1_x(migrated: dict[str, int]) -> bool:
    """Return whether a Chroma of 1.x has opened the directory, by its migrations: the newest number of each part."""
    return migrated.get("sysdb", 0) >= 10 or migrated.get("metadb", 0) >= 5


def stored_databases(path: Path) -> list[str]:
    """Return each `tenant/database` of a directory, without writing a byte; [] before 0.4.15 and where it cannot be read."""
    try:
        with reading(path / DATABASE) as db:
            return [f"{one_line(t, 60)}/{one_line(d, 60)}"
                    for t, d in db.execute("SELECT tenant_id, name FROM databases ORDER BY tenant_id, name")]  # fmt: skip
    except sqlite3.Error:
        return []


def other_databases(source: Endpoint, own: tuple[str, str]) -> list[str] | None:
    """`tenant/database` of a source that hold a collection, other than its `own`; None where it does not list them. Nothing is
    written. A server lists those of one tenant; at most `_MOST_ASKED` of them are asked.
    """
    try:
        if not source.path:
            places = [pair for pair in databases_of(source.model_copy(update={"database": ALL})) if pair != own]
            held = (source.model_copy(update={"tenant": t, "database": d}) for t, d in places[:_MOST_ASKED])
            found = [(there.tenant, there.database) for there in held if not holds_nothing(there)]
        elif is_duckdb_layout(path := resolve_path(source.path)):
            return []
        else:
            with newest(path / DATABASE) as db:
                if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'databases'").fetchone():
                    return []
                found = [pair for pair in db.execute(_HOLDING) if pair != own]
    except (EnvironmentFailure, UsageError, sqlite3.Error):
        return None
    return [f"{one_line(str(tenant), 60)}/{one_line(str(database), 60)}" for tenant, database in found]


def _directory_size(path: Path) -> str:
    """Return the size of the directory on disk; the apparent size, too, where that is much larger (a torn, sparse file)."""
    claimed = stored = 0
    for file in path.rglob("*"):
        if file.is_file():
            file_size = bloat(file)
            claimed, stored = claimed + file_size.apparent, stored + file_size.stored
    sparse = claimed > 10 * stored and claimed > stored + 10**8
    return f"{size(stored)} on disk" + (
        f", {size(claimed)} apparent (holes: a file claims far more than it holds)" if sparse else ""
    )

"""Restore: bring collections of a snapshot into a directory or a server, exactly as they were, and prove it chunk by chunk.

Nothing that is already there is touched: a collection of the same name that no restore of this snapshot created is refused
before anything is written. A small ledger beside the snapshot records which collections this restore created, so the same
command after a kill goes on: ids are looked up, and what is absent is added. Every chunk is compared afterwards, also those
that an earlier attempt wrote.

Vectors that the source had lost cannot be restored, nor can what a local Chroma does not hold of a collection of Chroma
Cloud (`stores.creation`). Unless the operator accepts that (`without_lost`, `drop_indexes`), nothing is written.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import shlex
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from helpers import audit
from helpers.chunks import ChunkBatch, is_sparse
from helpers.errors import Terminal, UsageError, one_line
from helpers.migration import target_lock
from helpers.parameters.endpoint import Endpoint, resolve_path
from helpers.reason_codes import ReasonCode
from helpers.results import Progress, StateFile, contents, json_in, private, silent, utc_now, write_json
from helpers.schema import sparse_as_text
from helpers.snapshots.comparison import READERS, compared
from helpers.snapshots.export_journal import Stopping, signed, together
from helpers.snapshots.snapshot import Snapshot
from helpers.stores import VECTORS, CollectionInfo, Store, excessive_settings, listed_ids, open_target, same_choices
from helpers.stores.creation import RESTORE, Index, allowed, effective_configuration, listed, reduced, unsupported
from helpers.stores.opening import quick_holder, quick_identities, quick_names

BATCH = 500  # chunks in one write: chroma-facts, Speed
AT_ONCE = 2  # collections in parallel: one is compared while the next is written


@dataclass(slots=True)
class Restored:
    """What a restore did, by collection: `written` in this attempt, `proven` compared and equal, `lost` not restorable.
    `dropped` names what was given up, as ordered or because no index can hold it; `version` is the target's Chroma.
    """

    snapshot: str
    into: str
    written: dict[str, int] = field(default_factory=dict)
    proven: dict[str, int] = field(default_factory=dict)
    lost: dict[str, list[str]] = field(default_factory=dict)
    dropped: list[Index] = field(default_factory=list)
    version: str = ""


@dataclass(slots=True)
class _Restored(StateFile):
    file = ""  # the name depends on snapshot and destination
    damaged = ReasonCode.RESTORE_LEDGER_UNREADABLE
    remedy = "Remove it once you know that nothing there is half restored, then restore again."

    context: dict[str, str]
    collections: dict[str, str]
    timestamp: str = ""
    proof: str = ""
    sha256: str = ""

    @classmethod
    def content(cls, path: Path) -> dict[str, Any]:
        return dict(json_in(contents(path)))


class RestoreLedger:
    """Which collections a restore of this snapshot created at one destination: intended, then complete. One JSON file.

    It holds the uuid of each collection once created: one of that name with another uuid is somebody else's. A kill just
    before the uuid is noted leaves none, as older toolkits did; then the name counts, and foreign chunks in it stop the restore.
    """

    def __init__(self, snapshot: Snapshot, endpoint: Endpoint) -> None:
        place = str(resolve_path(endpoint.path)) if endpoint.path else endpoint.address
        context = {"snapshot_digest": snapshot.digest, "place": place, "tenant": endpoint.tenant,
                   "database": endpoint.database}  # fmt: skip
        key = hashlib.sha256(json.dumps(context, sort_keys=True).encode()).hexdigest()[:16]
        self.path = snapshot.folder.parent / f"{snapshot.id}.restore-{key}.json"
        self.context = context
        self._guard = threading.Lock()
        self.states: dict[str, str] = {}
        self.uuids: dict[str, str] = {}
        # Others may write beside the snapshot, and a restore writes into what its ledger claims. What this workspace has not
        # signed, or wrote for another destination, is ignored.
        saved = _Restored.read_file(self.path)
        proven = saved is not None and asdict(saved) == signed(asdict(saved), proven=True)
        self.doubted = saved is not None and not (proven and saved.context == context)
        if saved is not None and not self.doubted:
            entries = {name: text.partition(" ") for name, text in saved.collections.items()}
            self.states = {name: state for name, (state, _, _) in entries.items()}
            self.uuids = {name: uuid for name, (_, _, uuid) in entries.items() if uuid}

    def put(self, name: str, state: str, uuid: str = "") -> None:
        """Record `intended` before the collection is created, `complete` once it is proven, "" where it is not ours."""
        with self._guard:
            self.states[name], self.uuids[name] = state, uuid
            self.states = {n: s for n, s in self.states.items() if s}
            entries = {name: f"{state} {self.uuids.get(name, '')}".strip() for name, state in self.states.items()}
            write_json(self.path, signed(asdict(_Restored(self.context, entries, utc_now())), proven=True))

    def is_ours(self, name: str, uuid: str) -> bool:
        """Whether a restore of this ledger created the collection of this name; `uuid` is "" where unknown."""
        return name in self.states and not (uuid and self.uuids.get(name) and uuid != self.uuids[name])


@contextlib.contextmanager
def in_use(folder: Path) -> Iterator[None]:
    """Hold the snapshot in `folder` against other restores and prunes. Raises `Terminal` where another process holds it.

    Raises it, too, for a lock file that is a link, which would create any file, or a pipe, which would never open.
    """
    with open(folder.parent / f"{folder.name}.lock", "a", opener=private) as file:  # a path's own open takes no opener
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Terminal(
                ReasonCode.SNAPSHOT_IN_USE, "another process restores or prunes this snapshot", where=str(folder),
                next_step="Wait until it ends.",
            ) from None  # fmt: skip
        yield


def restore(
    snapshot: Snapshot,
    endpoint: Endpoint,
    names: Sequence[str] = (),
    *,
    without_lost: bool = False,
    drop_indexes: Sequence[str] = (),
    progress: Progress = silent,
) -> Restored:
    """Bring these collections (none named: all) of a snapshot into `endpoint`, and prove every chunk.

    `drop_indexes` are names or patterns of collections to restore without what a local Chroma cannot hold. Raises `Terminal`
    where a collection exists there and is not of this restore ("target_not_empty"), has lost vectors ("vectors_lost") or such
    an index ("index_unsupported"), or differs afterwards ("restore_differs"); `UsageError` for a name that the snapshot does
    not hold.
    The snapshot's own bytes are verified first. Every attempt is in the audit log beside the snapshot.
    """
    log = snapshot.folder.parent / audit.NAME
    about: dict[str, Any] = {"snapshot": snapshot.id, "into": endpoint.label, "collections": list(names) or "all"}
    with in_use(snapshot.folder):
        audit.append(log, "restore begins", **about)
        try:
            done = _Restore(snapshot, endpoint, drop_indexes, progress).work(names, without_lost=without_lost)
        except BaseException as error:
            audit.append(log, "restore ends", outcome="failed", why=one_line(str(error)), **about)
            raise
        snapshot.mark("restored")
        lost = sum(map(len, done.lost.values()))
        dropped = [str(index) for index in done.dropped]
        audit.append(log, "restore ends", **about, written=done.written, proven=done.proven, lost=lost, dropped=dropped)
    return done


def look(
    snapshot: Snapshot, endpoint: Endpoint, names: Sequence[str] = (), drop_indexes: Sequence[str] = ()
) -> list[tuple[CollectionInfo, str]]:
    """What a restore would do, by collection: create, go on, prove again, or refuse. Writes nothing."""
    ledger, present = RestoreLedger(snapshot, endpoint), _present(endpoint)
    rows = []
    for info in chosen(snapshot, names):
        state = ledger.states.get(info.name, "") if ledger.is_ours(info.name, present.get(info.name, "")) else ""
        action = {"": "refuse: it exists there", "intended": "go on", "complete": "prove again"}[state]
        if unsupported(info) and not allowed(info, drop_indexes):
            action = "refuse: a local Chroma needs --drop-indexes for it"
        elif info.name not in present:
            action = "create"
        rows.append((info, action))
    return rows


def _present(endpoint: Endpoint) -> dict[str, str]:
    """The collections of a target with their uuids. Writes nothing."""
    uuids = quick_identities(endpoint) if (names := quick_names(endpoint, "target")) else {}
    return {name: uuids.get(name, "") for name in names}


def chosen(snapshot: Snapshot, names: Sequence[str]) -> list[CollectionInfo]:
    """The collections of these names, all if none is given. Raises `UsageError` for a name that the snapshot does not hold."""
    infos = {info.name: info for info in snapshot.collections()}
    unknown = sorted(set(names) - set(infos))
    if unknown:
        raise UsageError(
            ReasonCode.NO_SUCH_COLLECTION, f"snapshot {snapshot.id} holds no collection {unknown[0]}",
            next_step=f"It holds {', '.join(list(infos)[:8]) or 'none'}{' …' if len(infos) > 8 else ''}.",
        )  # fmt: skip
    return [info for name, info in infos.items() if not names or name in names]


@dataclass(slots=True)
class _Restore:
    """One restore in progress."""

    snapshot: Snapshot
    endpoint: Endpoint
    drop_indexes: Sequence[str]
    progress: Progress

    def work(self, names: Sequence[str], *, without_lost: bool) -> Restored:
        snapshot, endpoint, infos = self.snapshot, self.endpoint, chosen(self.snapshot, names)
        done = Restored(snapshot.id, endpoint.label)
        undecided = [index for info in infos if not allowed(info, self.drop_indexes) for index in unsupported(info)]
        if undecided:
            raise _not_held(listed(undecided), [index.collection for index in undecided])
        done.dropped = [index for info in infos for index in unsupported(info)]
        done.dropped += [
            Index(info.name, f"{name} {value}", VECTORS)
            for info in infos for name, value in sorted(excessive_settings(info).items())
        ]  # fmt: skip
        infos = [reduced(info) for info in infos]
        snapshot.verify()
        done.lost = lost_vectors(snapshot, infos)
        lost = sum(map(len, done.lost.values()))
        if lost and not without_lost:
            first = next(iter(done.lost))
            raise Terminal(
                ReasonCode.VECTORS_LOST, f"{lost} chunks have no vector in it, such as {done.lost[first][0]} of {first}",
                where=f"snapshot {snapshot.id}",
                next_step="Nothing was written. To restore everything but these: --without-lost, which lists them.",
            )  # fmt: skip
        holder = f"{RESTORE}{hashlib.sha256(snapshot.id.encode()).hexdigest()[:12]}"
        self._refuse_foreign(RestoreLedger(snapshot, endpoint), infos, _present(endpoint), holder)
        with open_target(endpoint) as store:
            done.version = store.version
            store.acquire_lock(holder)
            try:  # a kill leaves the lock; the same command recognises it as its own
                ledger = RestoreLedger(snapshot, endpoint)
                uuids = store.identities()
                self._refuse_foreign(ledger, infos, {name: uuids[name] for name in store.names()}, holder)
                together(partial(self._collection, store, ledger, done), infos, AT_ONCE)
                for counts in (done.written, done.proven):  # in the order of the snapshot, whichever ended first
                    counts.update({info.name: counts.pop(info.name) for info in infos})
            finally:
                store.release_lock(holder)
        return done

    def _refuse_foreign(
        self, ledger: RestoreLedger, infos: Sequence[CollectionInfo], present: Mapping[str, str], own: str
    ) -> None:
        foreign = [i.name for i in infos if i.name in present and not ledger.is_ours(i.name, present[i.name])]
        if foreign:
            holder = quick_holder(self.endpoint)
            lead = "Nothing was written. "
            if ledger.doubted:
                lead += f"{ledger.path} is not of this workspace and destination, and says nothing of what is there. "
            raise target_lock.target_not_empty(foreign, self.endpoint, self.endpoint.label, holder, own, lead)

    def _collection(
        self, store: Store, ledger: RestoreLedger, done: Restored, info: CollectionInfo, stop: threading.Event
    ) -> None:
        name, progress = info.name, Stopping(self.progress, stop)
        if name not in store.names():
            ledger.put(name, "intended")
            try:
                store.create(info)
            except Terminal as error:
                if error.code == ReasonCode.EXISTS:  # somebody else created it since the check
                    ledger.put(name, "")
                raise
            ledger.put(name, "intended", store.identity(name))
        present = set(listed_ids(store, name))
        extra = present.difference(*map(self.snapshot.ids, self.snapshot.parts(name)))
        if extra:  # somebody replaced or uses the collection since an earlier attempt
            raise Terminal(
                ReasonCode.TARGET_NOT_EMPTY, f"holds {len(extra)} chunks that are not of this snapshot, such as {min(extra)}",
                where=f"collection {name} of {store.label}", next_step="Nothing was changed there. Restore elsewhere.",
            )  # fmt: skip
        done.written[name] = 0
        if (
            ledger.states[name] != "complete"
        ):  # else an earlier command finished: nothing is written, all is proven again
            for batch in _restorable(self.snapshot, info, self.drop_indexes):
                progress.advance(len(batch))
                absent = batch.take([i for i, chunk in enumerate(batch.ids) if chunk not in present])
                for start in range(0, len(absent), BATCH):
                    store.add(name, absent.slice(start, start + BATCH))
                done.written[name] += len(absent)
        done.proven[name] = prove(store, self.snapshot, info, progress, self.drop_indexes)
        ledger.put(name, "complete", ledger.uuids.get(name, ""))


def _restorable(snapshot: Snapshot, info: CollectionInfo, drop_indexes: Sequence[str]) -> Iterator[ChunkBatch]:
    """The chunks to restore: without those that were lost, sparse vectors as text where that was ordered."""
    for batch in snapshot.batches(info.name):
        sparse = [(i, key) for i, m in enumerate(batch.metadatas) for key, v in (m or {}).items() if is_sparse(v)]
        if sparse and not allowed(info, drop_indexes):
            raise _not_held(f"the sparse vectors in the metadata of {one_line(info.name, 80)}", [info.name])
        for i, key in sparse:
            batch.metadatas[i] = {**(batch.metadatas[i] or {}), key: sparse_as_text((batch.metadatas[i] or {})[key])}
        yield batch.take(np.flatnonzero(~batch.lost)) if batch.lost.any() else batch


def _not_held(content: str, names: Sequence[str]) -> Terminal:
    options = " ".join(f"--drop-indexes {shlex.quote(name)}" for name in list(dict.fromkeys(names))[:5])
    return Terminal(
        ReasonCode.INDEX_UNSUPPORTED, f"a local Chroma cannot hold {content}", where="target",
        next_step=f"To restore without, sparse vectors as text of JSON, add: {options}",
    )  # fmt: skip


def lost_vectors(snapshot: Snapshot, infos: Sequence[CollectionInfo]) -> dict[str, list[str]]:
    """Ids whose vector is lost in the snapshot, by collection."""
    ids: dict[str, list[str]] = {}
    for info in infos:
        for part in snapshot.parts(info.name):
            if part.lost:
                batch = snapshot.read(part)
                ids.setdefault(info.name, []).extend(batch.ids[i] for i in np.flatnonzero(batch.lost))
    return ids


def prove(
    store: Store,
    snapshot: Snapshot,
    info: CollectionInfo,
    progress: Progress = silent,
    drop_indexes: Sequence[str] = (),
) -> int:
    """Compare a collection with its snapshot: ids, every chunk, space, metadata, configuration, and the indexes where
    both have a schema. Gives the number of chunks compared.

    Raises `Terminal` ("restore_differs") that names the first difference.
    """
    name, chunks = info.name, 0
    extra = set(listed_ids(store, name))
    batches = _restorable(snapshot, info, drop_indexes)
    for pair in compared(store, name, batches, info.space, readers=store.limits().readers(READERS)):
        for row in pair.differences.itertuples():
            raise _differs(store, name, f"{row.id}: {row.difference} {row.field} {row.detail}")
        extra.difference_update(pair.expected.ids)
        chunks += len(pair.expected)
        progress.advance(len(pair.expected))
    if extra:
        raise _differs(store, name, f"{len(extra)} chunks that the snapshot does not hold, such as {min(extra)}")
    actual = store.info(name)
    expected, current = effective_configuration(info), effective_configuration(actual)
    for setting, before, after in (
        ("space", info.space, actual.space),
        ("metadata", info.metadata or None, actual.metadata or None),
        ("configuration", expected, _same_keys(expected, current)),
    ):
        if before != after:
            raise _differs(store, name, f"its {setting} is {after} and was {before}")
    if info.schema and actual.schema and not same_choices(info.schema, actual.schema):
        raise _differs(store, name, "its indexes, or the functions that its schema names, are others")
    return chunks


def _same_keys(expected: Any, actual: Any) -> Any:
    """The values of `actual` at the keys of `expected`: a newer server adds parameters with their defaults."""
    if not isinstance(expected, dict) or not isinstance(actual, dict):
        return actual
    return {key: _same_keys(value, actual.get(key)) for key, value in expected.items()}


def _differs(store: Store, name: str, difference: str) -> Terminal:
    return Terminal(
        ReasonCode.RESTORE_DIFFERS, one_line(difference), where=f"collection {name} of {store.label}",
        next_step="Do not use it. Remove it yourself, then restore again.",
    )  # fmt: skip

"""Whether a source still holds what a snapshot of it says, chunk by chunk, and what changed where it does not.

Ids alone prove nothing: an update keeps them. So every chunk is read again and compared as step 23 compares: documents,
uris and metadata exactly (doubles within 1e-12), vectors bit for bit, on cosine within 5e-7 relative, because a flush of
a 0.x server changes their last bits (chroma-facts 4, 5, 14). Memory holds a few parts and the ids of one collection.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from helpers.chunks import ChunkBatch
from helpers.comparison import CHUNK_MISSING, compare_batch
from helpers.migration.current import current_snapshot
from helpers.progress import Progress, silent
from helpers.results import utc_now
from helpers.run.record import RunRecord
from helpers.run.source import open_chosen
from helpers.snapshot import Part, Snapshot
from helpers.stores import CollectionInfo, Reader
from helpers.stores.space import Space

READERS = 2  # of a server nearby; measured: 1.6 times one reader, a third adds nothing
_AGAIN_AFTER = (0.2, 0.4, 0.8)  # seconds; another client's delete-and-add hides a vector for a moment (chroma-facts 19)


@dataclass(slots=True)
class CollectionChanges:
    """What changed in one collection: source ids, sorted. `settings` names what of its configuration is another."""

    added: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    settings: list[str] = field(default_factory=list)

    @property
    def chunks(self) -> int:
        return len(self.added) + len(self.changed) + len(self.deleted)


@dataclass(slots=True)
class SourceChanges:
    """The source at `began` (UTC) against a snapshot: every change made before `began` is seen; later ones may be missed.

    `collections` has those with a difference only, `appeared` and `vanished` among them. `chunks` is how many of the
    snapshot were compared, in `seconds`.
    """

    snapshot: str
    began: str
    chunks: int = 0
    seconds: float = 0.0
    collections: dict[str, CollectionChanges] = field(default_factory=dict)
    appeared: list[str] = field(default_factory=list)
    vanished: list[str] = field(default_factory=list)

    @property
    def nothing(self) -> bool:
        """Whether the source holds exactly what the snapshot says."""
        return not self.collections

    @property
    def added(self) -> int:
        return sum(len(c.added) for c in self.collections.values())

    @property
    def changed(self) -> int:
        return sum(len(c.changed) for c in self.collections.values())

    @property
    def deleted(self) -> int:
        return sum(len(c.deleted) for c in self.collections.values())

    @property
    def total(self) -> int:
        """Chunks that are not as the snapshot says, and collections that are not."""
        settings = sum(1 for c in self.collections.values() if c.settings)
        return self.added + self.changed + self.deleted + len(self.appeared) + len(self.vanished) + settings

    def sentence(self) -> str:
        """For a person: what changed since the snapshot, or that nothing did, and when that was so."""
        at = f"{self.began[:19]} UTC"
        if self.nothing:
            return f"nothing had changed since snapshot {self.snapshot} at {at}: {self.chunks:,} chunks compared"
        parts = [f"{self.added:,} chunks added, {self.changed:,} changed, {self.deleted:,} deleted"]
        parts += [f"collection {name} is new" for name in self.appeared[:3]]
        parts += [f"collection {name} is gone" for name in self.vanished[:3]]
        parts += [f"{n} has another {', '.join(c.settings)}" for n, c in self.collections.items() if c.settings][:3]
        return f"{'; '.join(parts)} since snapshot {self.snapshot}, seen at {at}"

    def examples(self, most: int = 20) -> list[dict[str, str]]:
        """Some of what changed, as `{collection, id, change}`; id is "" where the collection itself is meant."""
        return list(_first(most, self._rows()))

    def _rows(self) -> Iterator[dict[str, str]]:
        for name, found in sorted(self.collections.items()):
            words = [
                ("new", name in self.appeared),
                ("gone", name in self.vanished),
                *((s, True) for s in found.settings),
            ]
            yield from ({"collection": name, "id": "", "change": word} for word, true in words if true)
        for name, found in sorted(self.collections.items()):
            for change in ("changed", "deleted", "added"):
                yield from ({"collection": name, "id": i, "change": change} for i in getattr(found, change))


def source_changes(
    store: Reader,
    snapshot: Snapshot,
    progress: Progress = silent,
    *,
    names: Sequence[str] | None = None,
    readers: int | None = None,
) -> SourceChanges:
    """Read the source again and compare it with the snapshot. `progress` advances by chunks of the snapshot.

    `names` are the collections that the source should be judged by now (none given: all that it holds); one of them that
    the snapshot lacks has appeared. Raises `WorldError` where the source cannot be read.
    """
    readers = store.limits().readers(READERS) if readers is None else readers
    begun, found = time.monotonic(), SourceChanges(snapshot.id, utc_now())
    there = sorted(names if names is not None else store.names())
    before = {info.name: info for info in snapshot.collections()}
    found.appeared = sorted(set(there) - set(before))
    found.vanished = sorted(set(before) - set(there))
    for name in found.appeared:
        found.collections[name] = CollectionChanges(added=sorted(store.ids(name)))
    for name in found.vanished:
        gone = [chunk for part in snapshot.parts(name) for chunk in snapshot.ids(part)]
        found.collections[name] = CollectionChanges(deleted=sorted(gone))
        progress.advance(before[name].count)
    with ThreadPoolExecutor(max_workers=max(1, readers), thread_name_prefix="compare") as pool:
        for name in sorted(set(before) & set(there)):
            changes = _collection(store, snapshot, before[name], pool, readers, progress)
            if changes.chunks or changes.settings:
                found.collections[name] = changes
    found.chunks, found.seconds = snapshot.total, round(time.monotonic() - begun, 3)
    return found


def prove_unchanged(run: RunRecord) -> SourceChanges:
    """The source of a run against its current snapshot, read now (step 25); a directory is copied anew and the copy read."""
    snapshot = current_snapshot(run)
    with (
        run.phase("prove the source unchanged", snapshot.total),
        run.progress("Compare the source with the snapshot", snapshot.total) as bar,
        open_chosen(run) as store,
    ):
        return source_changes(store, snapshot, bar, names=selected(run, store))


def selected(run: RunRecord, store: Reader) -> list[str]:
    """The collections of the source that the run's filter lets through; [] where none is left."""
    return sorted(name for name in store.names() if run.parameters.collections.selects(name))


def different_settings(before: CollectionInfo, now: CollectionInfo) -> list[str]:
    """Which of space, dimension, metadata and configuration differ.

    Not the server's schema: it grows by every metadata key that arrives. A dimension that was not yet known is no change.
    """
    found = [name for name in ("space", "metadata", "configuration") if _plain(before, name) != _plain(now, name)]
    return ["dimension", *found] if before.dimension and now.dimension not in (None, before.dimension) else found


def _plain(info: CollectionInfo, name: str) -> str:
    """A setting as a snapshot's manifest would hold it."""
    return json.dumps(getattr(info, name) or None, sort_keys=True, default=str)


def _collection(
    store: Reader,
    snapshot: Snapshot,
    before: CollectionInfo,
    pool: ThreadPoolExecutor,
    readers: int,
    progress: Progress,
) -> CollectionChanges:
    """The ids are listed first, so a chunk that comes or goes while its collection is read is a change, not an error."""
    changes = CollectionChanges(settings=different_settings(before, store.info(before.name)))
    present = set(store.ids(before.name))
    unseen = set(present)
    pending: list[Future[tuple[ChunkBatch, list[str], list[str]]]] = []

    def settle(done: Future[tuple[ChunkBatch, list[str], list[str]]]) -> None:
        batch, changed, deleted = done.result()
        unseen.difference_update(batch.ids)
        changes.changed += changed
        changes.deleted += deleted
        progress.advance(len(batch))

    for part in snapshot.parts(before.name):
        pending.append(pool.submit(_part, store, snapshot, before, part, present))
        if len(pending) > readers:  # a bounded window, as when a snapshot is written
            settle(pending.pop(0))
    while pending:
        settle(pending.pop(0))
    changes.added = sorted(unseen)
    changes.changed.sort()
    changes.deleted.sort()
    return changes


def _part(
    store: Reader, snapshot: Snapshot, info: CollectionInfo, part: Part, present: set[str]
) -> tuple[ChunkBatch, list[str], list[str]]:
    """A part of the snapshot against the source: its chunks, the ids that changed and those that are gone."""
    was = snapshot.read(part)
    left = was.take(i for i, chunk in enumerate(was.ids) if chunk in present)
    now = read_patiently(store, info.name, left)
    differences = differing(left, now, info.space)
    gone = {chunk for chunk, missing in differences.items() if missing}
    return was, [c for c in differences if c not in gone], [c for c in was.ids if c not in present or c in gone]


def differing(expected: ChunkBatch, found: ChunkBatch, space: Space) -> dict[str, bool]:
    """The ids of `expected` whose chunk in `found` is another, and whether it is missing there."""
    if len(expected) and expected.lost.all() and found.lost.all():  # no vectors at all have no length either
        found.embeddings = np.full((len(found), expected.dimension), np.nan, np.float32)
    rows = compare_batch(expected, found, space)
    missing = set(rows.loc[rows["difference"] == CHUNK_MISSING, "id"])
    return {chunk: chunk in missing for chunk in dict.fromkeys(rows["id"])}


def read_patiently(store: Reader, name: str, wanted: ChunkBatch) -> ChunkBatch:
    """The chunks of these ids; a vector that `wanted` has and the store cannot find now is asked for again."""
    found = store.read(name, wanted.ids)
    had = {chunk for chunk, lost in zip(wanted.ids, wanted.lost, strict=True) if not lost}
    for seconds in _AGAIN_AFTER:
        hidden = [i for i, lost in enumerate(found.lost) if lost and found.ids[i] in had]
        if not hidden:
            break
        time.sleep(seconds)
        again = store.read(name, [found.ids[i] for i in hidden])
        kept = found.take(i for i in range(len(found)) if i not in set(hidden))
        found = ChunkBatch.concatenate([kept, again]) if len(kept) else again
    return found


def _first(most: int, rows: Iterator[dict[str, str]]) -> Iterator[dict[str, Any]]:
    for _, row in zip(range(most), rows, strict=False):
        yield row

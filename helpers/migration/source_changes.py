"""Compare a source with a snapshot of it, chunk by chunk, and report what changed.

Ids alone prove nothing, since an update keeps them. So every chunk is read again and compared as step 23 compares: documents,
uris and metadata exactly (doubles within two units in the last place), vectors bit for bit, on cosine within 5e-7 relative,
because a flush of a 0.x server changes their last bits (chroma-facts 4, 5, 14). Memory holds a few parts and the ids of one
collection.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from helpers import audit
from helpers.chunks import ChunkBatch
from helpers.errors import RUNBOOK, EnvironmentFailure, Terminal
from helpers.evidence import trusted
from helpers.evidence.seals import chain
from helpers.evidence.signing import custody
from helpers.fence import FenceControl
from helpers.formatting import count
from helpers.migration.checkpoint import Checkpoint, TargetState
from helpers.migration.delta import different_settings, settings_of
from helpers.migration.importing import context_of
from helpers.migration.reembedding import REEMBEDDED
from helpers.migration.staging import Quarantine, Staged, opened
from helpers.reason_codes import ReasonCode
from helpers.results import Progress, StateFile, silent, utc_now
from helpers.run.executor import Workers, workers_of
from helpers.run.folders import RunPath, RunState
from helpers.run.plan import Step
from helpers.run.record import RunRecord, open_chosen
from helpers.schema import Schema, load_schema
from helpers.snapshots import remote
from helpers.snapshots.comparison import READERS, compared
from helpers.snapshots.export_journal import SnapshotPart, ahead
from helpers.snapshots.retention import Recorded, differences, logged, recorded, take
from helpers.snapshots.snapshot import Changed, Snapshot, from_table
from helpers.stores import RETRY_AFTER, CollectionInfo, Reader, Space, counted_ids, incomplete, listed_ids
from helpers.stores.client import ClientStore

FOLDER = RunPath.CATCH_UP
APPLYING, SWITCHING, APPLIED = "applying", "switching", "applied"
_BY_ID = 500  # chunks read in one request, where the log names those written to


@dataclass(slots=True)
class CatchUpLedger(StateFile):
    """The catch-up of one run. `base` is the id of step 21's snapshot, `current` the folder of the current one.

    `rounds` have number, state, snapshot (folder), began, added, changed, deleted, seconds. While the last one is `applying`,
    the target is between two states; while it is `switching`, the target is right and the run's own files are being moved.

    workspace/<run id>/catch-up/ledger.json is written before a round touches the target. So a run that was killed in a round
    finishes that round before it reads the source again.
    """

    file = "ledger.json"
    damaged = ReasonCode.CATCH_UP_LEDGER_DAMAGED
    remedy = "Start a new run; the target holds what this one wrote."

    folder: Path
    base: str
    current: str
    rounds: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def read(cls, run: RunRecord) -> CatchUpLedger:
        """The ledger on disk, or a new one; one that was begun on another snapshot of step 21 is ignored."""
        snapshot = run.require(Step.SNAPSHOT).facts["snapshot"]
        fresh = cls(run.workspace / FOLDER, snapshot["id"], snapshot["folder"])
        ledger = cls.load(fresh.folder)
        return ledger if ledger is not None and ledger.base == fresh.base else fresh

    @property
    def open_round(self) -> dict[str, Any] | None:
        """The round that a run was killed in, or None."""
        return self.rounds[-1] if self.rounds and self.rounds[-1]["state"] != APPLIED else None

    @property
    def applied(self) -> int:
        """Rounds applied in full."""
        return sum(r["state"] == APPLIED for r in self.rounds)

    def enter(self, state: str, **facts: Any) -> None:
        """Put the last round into this state, on disk before anything else happens."""
        self.rounds[-1].update(state=state, **facts)
        if state == APPLIED:
            self.current = self.rounds[-1]["snapshot"]
        self.save(self.folder)


def current_snapshot(run: RunRecord) -> Snapshot:
    """The snapshot that the target is compared with. Raises `UsageError` before step 21, `Terminal` as `open_sealed`."""
    return open_sealed(run.home, Path(CatchUpLedger.read(run).current))


def open_sealed(run: RunState, folder: Path) -> Snapshot:
    """Open a snapshot of this run. Raises `Terminal` where it cannot be read, or is not the one that the run took.

    Whoever can write to the snapshots can make a manifest that fits other chunks, so it is compared with the run's seals,
    results and audit log. Its parts are compared with the manifest whenever they are read.
    """
    if not run.judged:
        remote.manifest_at_hand(run.parameters.snapshot, folder)
    snapshot, lines = Snapshot.open(folder), evidence_of(run)
    differs = next(differences(snapshot, lines), "")
    older = not any(line.manifest for line in lines)  # a toolkit that did not record every snapshot
    if differs or not (older or folder.name in {line.name for line in lines}):
        raise Terminal(
            ReasonCode.SNAPSHOT_ALTERED, differs or f"run {run.id} has taken no snapshot of this name", where=str(folder),
            next_step="Nothing is taken from it. Put another copy there, then compare: "
            f"{RUNBOOK} snapshots verify {folder.name}.",
        )  # fmt: skip
    return snapshot


def proven_by(run: RunState, name: str) -> str:
    """The fingerprint of the key that signed a line or a seal on the run's taking the snapshot of this name; "" where none did.

    Anybody can put a folder with invented results among the reports. Our own key has priority over those that a seal brings.
    """
    own, keys = audit.own_key(), []
    if own and any(line.name == name for line in logged(run, audit.Trust(frozenset({own})))):
        return own
    for seal, key, wrong in custody(chain(run), lambda: own):
        named = {Recorded.of(t, "").name for t in seal.predicate.get("snapshots", {}).values() if "digest" in t}
        if key and not wrong and name in named and seal.predicate["run"]["id"] == run.id:
            keys.append(key)
    return own if own in keys else next(iter(keys), "")


def evidence_of(run: RunState) -> list[Recorded]:
    """What a run's seals say of its snapshots, then its results and its audit log."""
    sealed = [
        Recorded.of(taken, f"seal {seal.path.name} of run {run.id}")
        for seal in chain(run) for taken in seal.predicate.get("snapshots", {}).values() if "digest" in taken
    ]  # fmt: skip
    return [*sealed, *recorded(run, trusted(run.reports))]


@dataclass(slots=True)
class CollectionChanges:
    """What changed in one collection: source ids, sorted. `settings` names what of its configuration differs."""

    added: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    settings: list[str] = field(default_factory=list)

    @property
    def chunks(self) -> int:
        return len(self.added) + len(self.changed) + len(self.deleted)


@dataclass(slots=True)
class SourceChanges:
    """The source at `began` (UTC) against a snapshot: changes made before `began` are all seen; later ones may be missed.

    `collections` has only those with a difference, `appeared` and `vanished` among them. `chunks` is how many of the
    snapshot were compared, in `seconds`.
    """

    snapshot: str
    began: str
    chunks: int = 0
    seconds: float = 0.0
    collections: dict[str, CollectionChanges] = field(default_factory=dict)
    appeared: list[str] = field(default_factory=list)
    vanished: list[str] = field(default_factory=list)
    unexplained: list[str] = field(default_factory=list)
    """Collections of which only the logged chunks were read, and whose count or settings show that others changed, too."""

    @property
    def nothing(self) -> bool:
        """Whether the source equals the snapshot."""
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
        """Number of chunks and collections that differ from the snapshot."""
        settings = sum(1 for c in self.collections.values() if c.settings)
        return self.added + self.changed + self.deleted + len(self.appeared) + len(self.vanished) + settings

    def sentence(self) -> str:
        """A sentence on what changed since the snapshot, if anything, and when that was so."""
        at = f"{self.began[:19]} UTC"
        if self.nothing:
            return f"nothing had changed since snapshot {self.snapshot} at {at}: {count(self.chunks, 'chunk')} compared"
        parts = [f"{count(self.added, 'chunk')} added, {self.changed:,} changed, {self.deleted:,} deleted"]
        parts += [f"collection {name} is new" for name in self.appeared[:3]]
        parts += [f"collection {name} is gone" for name in self.vanished[:3]]
        parts += [f"{n} has another {', '.join(c.settings)}" for n, c in self.collections.items() if c.settings][:3]
        return f"{'; '.join(parts)} since snapshot {self.snapshot}, seen at {at}"

    def examples(self, most: int = 20) -> list[dict[str, str]]:
        """Some of the changes, as `{collection, id, change}`; id is "" for a change of the collection itself."""
        return list(islice(self._rows(), most))

    def _rows(self) -> Iterator[dict[str, str]]:
        for name, changes in sorted(self.collections.items()):
            words = [
                ("new", name in self.appeared),
                ("gone", name in self.vanished),
                *((s, True) for s in changes.settings),
            ]
            yield from ({"collection": name, "id": "", "change": word} for word, true in words if true)
        for name, changes in sorted(self.collections.items()):
            for change in ("changed", "deleted", "added"):
                yield from ({"collection": name, "id": i, "change": change} for i in getattr(changes, change))


def take_logged(run: RunRecord, store: Reader, names: Sequence[str], base: str, progress: Progress) -> Snapshot:
    """Take a new snapshot as `take` does, and keep where the log of writes ended when its reading began."""
    fence = FenceControl(run.home, run.parameters)
    position = fence.position()
    snapshot = take(run, store, names, base, progress)
    if len(snapshot.manifest["sessions"]) == 1:  # else its reading began in an earlier process
        fence.read_since(snapshot.id, position)
    return snapshot


def source_changes(
    store: Reader,
    snapshot: Snapshot,
    progress: Progress = silent,
    *,
    names: Sequence[str] | None = None,
    readers: int | None = None,
    run: RunRecord | None = None,
    logged: Mapping[str, Collection[str]] = MappingProxyType({}),
) -> SourceChanges:
    """Read the source again and compare it with the snapshot. `progress` advances by chunks of the snapshot.

    `names` are the collections of the source to compare (not given: all); one of them that the snapshot lacks has appeared.
    Of those in `logged` only the chunks with these ids may have changed, and only they are read.
    `run`: its filter names the collections, and its workers read and compare a source that is a server.
    Raises `EnvironmentFailure` where the source cannot be read.
    """
    names = selected(run, store) if run is not None else names
    workers = workers_of(run) if run is not None and not run.parameters.source.is_embedded else None
    readers = store.limits().readers(workers.at_once if workers else READERS) if readers is None else readers
    begun, result = time.monotonic(), SourceChanges(snapshot.id, utc_now())
    names_now = sorted(names if names is not None else store.names())
    before = {info.name: info for info in snapshot.collections()}
    result.appeared = sorted(set(names_now) - set(before))
    result.vanished = sorted(set(before) - set(names_now))
    for name in result.appeared:
        result.collections[name] = CollectionChanges(added=sorted(listed_ids(store, name)))
    for name in result.vanished:
        ids = [chunk for part in snapshot.parts(name) for chunk in snapshot.ids(part)]
        result.collections[name] = CollectionChanges(deleted=sorted(ids))
        progress.advance(before[name].count)
    for name in sorted(set(before) & set(names_now)):
        if name in logged:
            changes = _by_id(store, snapshot, before[name], logged[name])
            if changes.settings or before[name].count + len(changes.added) - len(changes.deleted) != store.count(name):
                result.unexplained.append(name)
            progress.advance(before[name].count)
        else:
            changes = _collection(store, snapshot, before[name], readers, progress, workers)
        if changes.chunks or changes.settings:
            result.collections[name] = changes
    result.chunks, result.seconds = snapshot.total, round(time.monotonic() - begun, 3)
    return result


def to_read(
    source: Reader, names: Sequence[str], old: Snapshot, changes: SourceChanges, refused: Collection[tuple[str, str]]
) -> Changed:
    """By collection the ids that are not as in snapshot `old`, and those of them that the next one must read. Chunks that the
    target `refused` (collection, id) are read, too: they are offered again."""
    ids: dict[str, tuple[Collection[str], Collection[str]]] = {}
    for name in names:
        changed, repeat = changes.collections.get(name), {chunk for collection, chunk in refused if collection == name}
        if name not in old.names():
            ids[name] = (), changed.added if changed is not None else listed_ids(source, name)
        elif changed is not None and changed.settings:
            ids[name] = [chunk for part in old.parts(name) for chunk in old.ids(part)], listed_ids(source, name)
        elif changed is not None or repeat:
            changed = changed or CollectionChanges()
            repeat = {*repeat, *changed.changed} - {*changed.deleted}
            ids[name] = {*repeat, *changed.deleted, *changed.added}, {*repeat, *changed.added}
    return ids


def prove_unchanged(run: RunRecord) -> SourceChanges:
    """Compare the source of a run with its current snapshot now (step 25); of a directory, a new copy is read."""
    snapshot = current_snapshot(run)
    with (
        run.phase("prove the source unchanged", snapshot.total),
        run.progress("Compare the source with the snapshot", snapshot.total) as bar,
        open_chosen(run) as store,
    ):
        return source_changes(store, snapshot, bar, run=run)


def selected(run: RunRecord, store: Reader) -> list[str]:
    """The collections of the source that the run's filter selects; [] where there are none."""
    return sorted(name for name in store.names() if run.parameters.collections.selects(name))


def _collection(
    store: Reader, snapshot: Snapshot, before: CollectionInfo, readers: int, progress: Progress, workers: Workers | None
) -> CollectionChanges:
    """List the ids first, so that a chunk added or deleted while its collection is read is a change, not an error."""
    changes = CollectionChanges(settings=different_settings(before, store.info(before.name)))
    count, ids = counted_ids(store, before.name)
    unseen, deleted = set(ids), set[str]()
    for expected, differing in _compared(store, snapshot, before, readers, workers):
        unseen.difference_update(expected)
        for chunk, missing in differing.items():
            (deleted.add if missing else changes.changed.append)(chunk)
        progress.advance(len(expected))
    returned = _added_again(store, before.name, count, deleted.intersection(ids))
    changes.changed += returned
    changes.deleted += deleted.difference(returned)
    changes.added, changes.changed, changes.deleted = sorted(unseen), sorted(changes.changed), sorted(changes.deleted)
    return changes


_Compared = tuple[list[str], dict[str, bool]]  # the ids of a part; those that differ, and whether they are missing


def _compared(
    store: Reader, snapshot: Snapshot, before: CollectionInfo, readers: int, workers: Workers | None
) -> Iterator[_Compared]:
    """Part by part, in order."""
    name, space = before.name, before.space
    if workers is None:
        for pair in compared(store, name, snapshot.batches(name), space, readers=readers, live=True):
            yield pair.expected.ids, pair.differing()
        return

    def compare(part: SnapshotPart) -> _Compared:
        return workers.read(store, _compare_part, snapshot.folder, snapshot.digest, part, name, space)

    yield from ahead(compare, snapshot.parts(name), readers)


def _compare_part(store: Reader, folder: Path, digest: str, part: SnapshotPart, name: str, space: Space) -> _Compared:
    """On a worker: compare a part of the snapshot with the source."""
    pair = next(compared(store, name, [opened(folder, digest).read(part)], space, live=True))
    return pair.expected.ids, pair.differing()


def _added_again(store: Reader, name: str, count: int, missing: set[str]) -> set[str]:
    """The `missing` ids, listed but not read, that are in the collection now: somebody replaced these chunks meanwhile.

    Raises `Terminal` ("count_mismatch") where the store keeps listing what it does not give: that is no deletion.
    """
    returned: set[str] = set()
    for seconds in (0.0, *RETRY_AFTER):
        time.sleep(seconds)
        missing = missing.intersection(listed_ids(store, name)) if missing else missing
        if not missing:
            return returned
        present = store.read(name, sorted(missing), embeddings=False).ids
        returned.update(present)
        missing = missing.difference(present)
    if not missing:
        return returned
    raise incomplete(store, name, count, f"gives {count - len(missing):,}")


def _by_id(store: Reader, snapshot: Snapshot, before: CollectionInfo, ids: Collection[str]) -> CollectionChanges:
    """The changes among these chunks."""
    changes = CollectionChanges(settings=different_settings(before, store.info(before.name)))
    unseen = set(ids)
    for part in snapshot.parts(before.name) if ids else ():
        expected = snapshot.some(part, ids)
        unseen.difference_update(expected.ids)
        batches = (expected.slice(at, at + _BY_ID) for at in range(0, len(expected), _BY_ID))
        for pair in compared(store, before.name, batches, before.space, live=True):
            for chunk, missing in pair.differing().items():
                (changes.deleted if missing else changes.changed).append(chunk)
    fresh = sorted(unseen)
    for at in range(0, len(fresh), _BY_ID):
        changes.added += store.read(before.name, fresh[at : at + _BY_ID], embeddings=False).ids
    changes.added, changes.changed, changes.deleted = map(sorted, (changes.added, changes.changed, changes.deleted))
    return changes


def switch(run: RunRecord, ledger: CatchUpLedger) -> Staged:
    """Make the applied round the run's own state: staged files, quarantine, checkpoint, current snapshot.

    Every move can be repeated: a new folder that is not at its place any more was moved before.
    """
    at = ledger.rounds[-1]
    folder = run.workspace / FOLDER / f"{at['number']:03d}"
    for name in (RunPath.STAGED, RunPath.QUARANTINE, REEMBEDDED):
        new, place, before = folder / name, run.workspace / name, folder / f"{name}-before"
        if new.exists():
            if place.exists():
                shutil.rmtree(before, ignore_errors=True)
                place.rename(before)
            new.rename(place)
    staged = Staged.load(run.workspace / RunPath.STAGED)
    assert staged is not None
    snapshot = open_sealed(run.home, Path(at["snapshot"]))
    done = Checkpoint.read(folder / RunPath.CHECKPOINT)  # every chunk that the target refused was offered in this round
    rejected = at.get("rejected", {}) | {name: state.rejected for name, state in done.targets.items()}
    checkpoint = Checkpoint.read(run.workspace / RunPath.CHECKPOINT)
    targets = {
        name: TargetState(rows, rows, rejected[name], intended=True, created=True, uuid=checkpoint.targets[name].uuid)
        for name in staged.files
        for rows in [staged.rows(name)]
    }
    schema = schema_of_run(run)
    checkpoint.rebase(context_of(run, snapshot, schema, "migration"), staged.total, staged.unstaged, targets)
    ledger.enter(APPLIED)
    shutil.rmtree(folder)
    return staged


# -- written data ------------------------------------------------------------------------------------------------------
#
# What a run wrote to the target: its ledger, its staged files, and the snapshot that they were made from.


Origin = tuple[str, str]  # source collection, id in it


def schema_of_run(run: RunRecord) -> Schema:
    """The schema of this run. `Terminal` ("context_changed") where its file is not the one that the migration began with."""
    name, path = run.parameters.schema_name, run.workspace / RunPath.CHECKPOINT
    schema = load_schema(name)
    if path.is_file() and Checkpoint.read(path).context.get("schema_digest", schema.digest) != schema.digest:
        raise Terminal(
            ReasonCode.CONTEXT_CHANGED, "the schema is not the one with which the migration of this run began", where=name,
            next_step="Put the file, and the tables beside it, back as they were; then repeat.",
        )  # fmt: skip
    return schema


@dataclass(slots=True)
class Piece:
    """One staged file: the chunks meant for the target, and the origin of each row."""

    rows: ChunkBatch
    origins: list[Origin]


class WrittenData:
    """What a run wrote to the target, read from the run's folders alone."""

    def __init__(self, run: RunRecord) -> None:
        self.run, self.folder = run, run.home
        ledger = run.workspace / RunPath.CHECKPOINT
        self.checkpoint = Checkpoint.read(ledger) if ledger.is_file() else None

    @property
    def collections(self) -> list[str]:
        """The target's collections that this run created, or was about to create when it died."""
        return self.checkpoint.owned() if self.checkpoint is not None else []

    def replaced(self, target: Reader | Mapping[str, str]) -> list[str]:
        """The names of `collections` under which the target, or this map of uuids, has others' (`Checkpoint.replaced`)."""
        uuids = target.identities() if isinstance(target, ClientStore) else cast(Mapping[str, str], target)
        return self.checkpoint.replaced(uuids) if self.checkpoint is not None else []

    @cached_property
    def noted(self) -> dict[str, dict[str, str]] | None:
        """The target's `settings_of` when step 23 or a later round compared it last; None where neither did."""
        if (validated := self.run.earlier(Step.VALIDATE)) is None:
            return None
        rounds = CatchUpLedger.read(self.run).rounds
        last = rounds[-1] if len(rounds) > validated_rounds(self.run) else validated.facts
        return cast(dict[str, dict[str, str]] | None, last.get("settings"))

    def other_settings(self, info: CollectionInfo) -> dict[str, str]:
        """The settings of a collection, as clients can change them, that differ from `noted`: name → digest now."""
        if (old := (self.noted or {}).get(info.name)) is None:
            return {}
        new = settings_of([info])[info.name]
        return {name: new[name] for name in _differing(old, new) if name in ("metadata", "configuration", "indexes")}

    @cached_property
    def snapshot(self) -> Snapshot | None:
        """The snapshot that the target is compared with, None where the run has taken none."""
        result = self.folder.result(Step.SNAPSHOT)
        if result is not None and result.error is None:  # else it was stopped while it took the first one
            return current_snapshot(self.run)
        if self.checkpoint is None:
            return None
        directory = self.run.parameters.snapshot.folder  # step 21 is just being run again
        return open_sealed(self.folder, directory / str(self.checkpoint.context["snapshot"]))

    @cached_property
    def staged(self) -> Staged | None:
        return Staged.load(self.folder.workspace / RunPath.STAGED)

    def require_staged(self) -> Staged:
        """Raise `EnvironmentFailure` where what the run wrote can no longer be distinguished from what others wrote."""
        if self.staged is None:
            raise EnvironmentFailure(
                ReasonCode.STAGED_GONE, "what the run staged is gone, so its chunks cannot be distinguished from those of others",
                where=str(self.folder.workspace / RunPath.STAGED),
                next_step=f"Remove these collections yourself if they may go: {', '.join(self.collections)}.",
            )  # fmt: skip
        return self.staged

    def pieces(self, target: str) -> Iterator[Piece]:
        """The staged files of a target collection, in order."""
        staged = self.require_staged()
        for file, collection, _ in staged.files.get(target, []):
            table = staged.table(file)
            sources = cast(list[str], table.column("source_id").to_pylist())
            yield Piece(from_table(table), [(collection, i) for i in sources])

    def ids(self, target: str) -> set[str]:
        """Every id that this run wrote, or may have written, to a target collection, in any of its stagings."""
        ids: set[str] = set()
        for staged in self._stagings:
            if target in staged.files:
                ids.update(chunk for _, ids in staged.ids(target) for chunk in ids)
        return ids

    @cached_property
    def _stagings(self) -> list[Staged]:
        """The run's own staging and those of a catch-up round in which it was killed: the target may hold chunks of both."""
        places = [self.folder.workspace / RunPath.STAGED, *self._rounds()]
        return [staged for place in places if (staged := Staged.load(place)) is not None] or [self.require_staged()]

    def _rounds(self) -> list[Path]:
        return [index.parent for index in sorted((self.folder.workspace / FOLDER).rglob("index.json"))]

    @cached_property
    def refused(self) -> frozenset[Origin]:
        """Chunks that the target refused, and never held."""
        reasons = Quarantine(self.folder.workspace / RunPath.QUARANTINE).reasons()
        return frozenset(key for key, reason in reasons.items() if reason == ReasonCode.REFUSED_BY_TARGET)


def validated_rounds(run: RunRecord) -> int:
    """How many rounds of catch-up step 23 validated: those of step 22."""
    return len((run.require(Step.MIGRATE).facts.get("catch_up") or {}).get("rounds") or [])


def _differing(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    return [name for name in new if new[name] != old.get(name)]


def settings_changed(store: Reader, data: WrittenData) -> tuple[list[str] | None, list[str]]:
    """Sentences on this run's collections whose settings differ from those `noted`, None where none were noted; names of
    collections that are new since then."""
    data.run.require(Step.VALIDATE)
    if (old := data.noted) is None:
        return None, []
    new = settings_of(store.collections())
    differing = [(name, _differing(old[name], new[name])) for name in data.collections if name in old.keys() & new]
    sentences = [f"{name}: its {', '.join(names)} changed" for name, names in differing if names]
    return sentences, sorted(new.keys() - old.keys())


def altered(store: Reader, data: WrittenData, progress: Progress = silent) -> tuple[Counter[str], list[dict[str, str]]]:
    """How the target's collections of this run differ from what the run wrote, every chunk read again: the number of chunks
    `gone`, `changed`, `added`; the first twenty as `{collection, id, change}`."""
    counted, examples, names = Counter[str](), list[dict[str, str]](), set(store.names())
    for name in data.collections:
        space = store.info(name).space if name in names else "l2"
        unread = set(listed_ids(store, name)) if name in names else set[str]()
        changes: list[tuple[str, str]] = []
        for piece in data.pieces(name):
            rows = piece.rows.take([i for i, origin in enumerate(piece.origins) if origin not in data.refused])
            for pair in compared(store if name in names else None, name, [rows], space):
                changes += [(chunk, "gone" if missing else "changed") for chunk, missing in pair.differing().items()]
            unread.difference_update(rows.ids)
            progress.advance(len(rows))
        changes += [(chunk, "added") for chunk in sorted(unread)]
        counted.update(change for _, change in changes)
        shown = changes[: 20 - len(examples)]
        examples += [{"collection": name, "id": chunk, "change": change} for chunk, change in shown]
    return counted, examples

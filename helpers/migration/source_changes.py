"""Whether a source still holds what a snapshot of it says, chunk by chunk, and what changed where it does not.

Ids alone prove nothing: an update keeps them. So every chunk is read again and compared as step 23 compares: documents,
uris and metadata exactly (doubles within two units in the last place), vectors bit for bit, on cosine within 5e-7
relative, because a flush of a 0.x server changes their last bits (chroma-facts 4, 5, 14). Memory holds a few parts and the
ids of one collection.
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
from helpers.errors import RUNBOOK, Terminal, WorldError
from helpers.evidence import trusted
from helpers.evidence.seals import chain
from helpers.evidence.signing import custody
from helpers.fence import Control
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
from helpers.snapshots.export_journal import Part, ahead
from helpers.snapshots.retention import Recorded, differences, logged, recorded, take
from helpers.snapshots.snapshot import Changed, Snapshot, from_table
from helpers.stores import RETRY_AFTER, CollectionInfo, Reader, Space, counted_ids, incomplete, listed_ids
from helpers.stores.client import ClientStore

FOLDER = RunPath.CATCH_UP
APPLYING, SWITCHING, APPLIED = "applying", "switching", "applied"
_BY_ID = 500  # chunks read in one request, of those that are known to have been written to


@dataclass(slots=True)
class Ledger(StateFile):
    """The catch-up of one run. `base` is the id of step 21's snapshot, `current` the folder of the one that holds now.

    `rounds` have number, state, snapshot (folder), began, added, changed, deleted, seconds. While the last one is
    `applying` the target is between two states; while it is `switching` the target is right and the run's own files are
    being moved.

    workspace/<run id>/catch-up/ledger.json is written before a round touches the target, so that a run that is killed in
    the middle of one knows it, and finishes that round before it looks at the source again.
    """

    file = "ledger.json"
    damaged = ReasonCode.CATCH_UP_LEDGER_DAMAGED
    remedy = "Start a new run; the target holds what this one wrote."

    folder: Path
    base: str
    current: str
    rounds: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def read(cls, run: RunRecord) -> Ledger:
        """As it is on disk, or a new one. One that was begun on another snapshot of step 21 says nothing any more."""
        taken = run.require(Step.SNAPSHOT).facts["snapshot"]
        fresh = cls(run.workspace / FOLDER, taken["id"], taken["folder"])
        found = cls.load(fresh.folder)
        return found if found is not None and found.base == fresh.base else fresh

    @property
    def open_round(self) -> dict[str, Any] | None:
        """The round that a run was killed in, or None."""
        return self.rounds[-1] if self.rounds and self.rounds[-1]["state"] != APPLIED else None

    @property
    def applied(self) -> int:
        """Rounds applied in full."""
        return sum(r["state"] == APPLIED for r in self.rounds)

    def enter(self, state: str, **facts: Any) -> None:
        """The last round goes over to this state, on disk before anything else happens."""
        self.rounds[-1].update(state=state, **facts)
        if state == APPLIED:
            self.current = self.rounds[-1]["snapshot"]
        self.save(self.folder)


def current_snapshot(run: RunRecord) -> Snapshot:
    """The snapshot that the target is held to. Raises `UsageError` before step 21, `Terminal` as `open_sealed`."""
    return open_sealed(run.home, Path(Ledger.read(run).current))


def open_sealed(run: RunState, folder: Path) -> Snapshot:
    """A snapshot of this run. Raises `Terminal` where it cannot be read, or is not the one that the run took.

    Whoever can write to the snapshots can make a manifest that fits other chunks, so it is compared with what the run's
    seals, results and audit log say. Its parts are compared with the manifest whenever they are read.
    """
    if not run.judged:
        remote.manifest_at_hand(run.parameters.snapshot, folder)
    snapshot, lines = Snapshot.open(folder), evidence_of(run)
    differs = next(differences(snapshot, lines), "")
    older = not any(line.manifest for line in lines)  # a toolkit that did not tell of every snapshot
    if differs or not (older or folder.name in {line.name for line in lines}):
        raise Terminal(
            ReasonCode.SNAPSHOT_ALTERED, differs or f"run {run.id} has taken no snapshot of this name", where=str(folder),
            next_step="Nothing is taken from it. Put another copy there, then compare: "
            f"{RUNBOOK} snapshots verify {folder.name}.",
        )  # fmt: skip
    return snapshot


def proven_by(run: RunState, name: str) -> str:
    """The key (its fingerprint) of a signed line or a seal by which the run took the snapshot of this name; "" where none is.

    Anybody can put a folder with invented results among the reports. Our own key comes before others, which a seal brings.
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
    unexplained: list[str] = field(default_factory=list)
    """Collections of which some chunks only were read, and whose count or settings say that others changed, too."""

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
            return f"nothing had changed since snapshot {self.snapshot} at {at}: {count(self.chunks, 'chunk')} compared"
        parts = [f"{count(self.added, 'chunk')} added, {self.changed:,} changed, {self.deleted:,} deleted"]
        parts += [f"collection {name} is new" for name in self.appeared[:3]]
        parts += [f"collection {name} is gone" for name in self.vanished[:3]]
        parts += [f"{n} has another {', '.join(c.settings)}" for n, c in self.collections.items() if c.settings][:3]
        return f"{'; '.join(parts)} since snapshot {self.snapshot}, seen at {at}"

    def examples(self, most: int = 20) -> list[dict[str, str]]:
        """Some of what changed, as `{collection, id, change}`; id is "" where the collection itself is meant."""
        return list(islice(self._rows(), most))

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


def take_logged(run: RunRecord, store: Reader, names: Sequence[str], base: str, progress: Progress) -> Snapshot:
    """A new snapshot as `take` takes it; keeps where the log of writes ended when its reading began."""
    fence = Control(run.home, run.parameters)
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
    known: Mapping[str, Collection[str]] = MappingProxyType({}),
) -> SourceChanges:
    """Read the source again and compare it with the snapshot. `progress` advances by chunks of the snapshot.

    `names` are the collections that the source should be judged by now (none given: all that it holds); one of them that
    the snapshot lacks has appeared. Of those in `known` only the chunks of these ids may be others, and only they are read.
    `run`: one whose filter names the collections, and whose workers read and compare a source that is a server.
    Raises `WorldError` where the source cannot be read.
    """
    names = selected(run, store) if run is not None else names
    workers = workers_of(run) if run is not None and not run.parameters.source.is_embedded else None
    readers = store.limits().readers(workers.at_once if workers else READERS) if readers is None else readers
    begun, found = time.monotonic(), SourceChanges(snapshot.id, utc_now())
    there = sorted(names if names is not None else store.names())
    before = {info.name: info for info in snapshot.collections()}
    found.appeared = sorted(set(there) - set(before))
    found.vanished = sorted(set(before) - set(there))
    for name in found.appeared:
        found.collections[name] = CollectionChanges(added=sorted(listed_ids(store, name)))
    for name in found.vanished:
        gone = [chunk for part in snapshot.parts(name) for chunk in snapshot.ids(part)]
        found.collections[name] = CollectionChanges(deleted=sorted(gone))
        progress.advance(before[name].count)
    for name in sorted(set(before) & set(there)):
        if name in known:
            changes = _by_id(store, snapshot, before[name], known[name])
            if changes.settings or before[name].count + len(changes.added) - len(changes.deleted) != store.count(name):
                found.unexplained.append(name)
            progress.advance(before[name].count)
        else:
            changes = _collection(store, snapshot, before[name], readers, progress, workers)
        if changes.chunks or changes.settings:
            found.collections[name] = changes
    found.chunks, found.seconds = snapshot.total, round(time.monotonic() - begun, 3)
    return found


def to_read(
    source: Reader, names: Sequence[str], was: Snapshot, changes: SourceChanges, refused: Collection[tuple[str, str]]
) -> Changed:
    """What a snapshot after `was` must read; with it what the target `refused` (collection, id): it is offered again."""
    found: dict[str, tuple[Collection[str], Collection[str]]] = {}
    for name in names:
        seen, again = changes.collections.get(name), {chunk for collection, chunk in refused if collection == name}
        if name not in was.names():
            found[name] = (), seen.added if seen is not None else listed_ids(source, name)
        elif seen is not None and seen.settings:
            found[name] = [chunk for part in was.parts(name) for chunk in was.ids(part)], listed_ids(source, name)
        elif seen is not None or again:
            seen = seen or CollectionChanges()
            again = {*again, *seen.changed} - {*seen.deleted}
            found[name] = {*again, *seen.deleted, *seen.added}, {*again, *seen.added}
    return found


def prove_unchanged(run: RunRecord) -> SourceChanges:
    """The source of a run against its current snapshot, read now (step 25); a directory is copied anew and the copy read."""
    snapshot = current_snapshot(run)
    with (
        run.phase("prove the source unchanged", snapshot.total),
        run.progress("Compare the source with the snapshot", snapshot.total) as bar,
        open_chosen(run) as store,
    ):
        return source_changes(store, snapshot, bar, run=run)


def selected(run: RunRecord, store: Reader) -> list[str]:
    """The collections of the source that the run's filter lets through; [] where none is left."""
    return sorted(name for name in store.names() if run.parameters.collections.selects(name))


def _collection(
    store: Reader, snapshot: Snapshot, before: CollectionInfo, readers: int, progress: Progress, workers: Workers | None
) -> CollectionChanges:
    """The ids are listed first, so a chunk that comes or goes while its collection is read is a change, not an error."""
    changes = CollectionChanges(settings=different_settings(before, store.info(before.name)))
    count, ids = counted_ids(store, before.name)
    unseen, deleted = set(ids), set[str]()
    for expected, differing in _compared(store, snapshot, before, readers, workers):
        unseen.difference_update(expected)
        for chunk, missing in differing.items():
            (deleted.add if missing else changes.changed.append)(chunk)
        progress.advance(len(expected))
    back = _added_again(store, before.name, count, deleted.intersection(ids))
    changes.changed += back
    changes.deleted += deleted.difference(back)
    changes.added, changes.changed, changes.deleted = sorted(unseen), sorted(changes.changed), sorted(changes.deleted)
    return changes


_Seen = tuple[list[str], dict[str, bool]]  # the ids of a part, and those that differ: whether they are missing


def _compared(
    store: Reader, snapshot: Snapshot, before: CollectionInfo, readers: int, workers: Workers | None
) -> Iterator[_Seen]:
    """Part by part, in order."""
    name, space = before.name, before.space
    if workers is None:
        for pair in compared(store, name, snapshot.batches(name), space, readers=readers, live=True):
            yield pair.expected.ids, pair.differing()
        return

    def seen(part: Part) -> _Seen:
        return workers.read(store, _seen, snapshot.folder, snapshot.digest, part, name, space)

    yield from ahead(seen, snapshot.parts(name), readers)


def _seen(store: Reader, folder: Path, digest: str, part: Part, name: str, space: Space) -> _Seen:
    """On a worker: a part of the snapshot against the source."""
    pair = next(compared(store, name, [opened(folder, digest).read(part)], space, live=True))
    return pair.expected.ids, pair.differing()


def _added_again(store: Reader, name: str, count: int, gone: set[str]) -> set[str]:
    """Those of `gone`, which were listed but not given, that are in the collection now: somebody replaced them meanwhile.

    Raises `Terminal` ("count_mismatch") where the store goes on listing what it does not give: that is no deletion.
    """
    back: set[str] = set()
    for seconds in (0.0, *RETRY_AFTER):
        time.sleep(seconds)
        gone = gone.intersection(listed_ids(store, name)) if gone else gone
        if not gone:
            return back
        given = store.read(name, sorted(gone), embeddings=False).ids
        back.update(given)
        gone = gone.difference(given)
    if not gone:
        return back
    raise incomplete(store, name, count, f"gives {count - len(gone):,}")


def _by_id(store: Reader, snapshot: Snapshot, before: CollectionInfo, ids: Collection[str]) -> CollectionChanges:
    """Those of these chunks that changed."""
    changes = CollectionChanges(settings=different_settings(before, store.info(before.name)))
    left = set(ids)
    for part in snapshot.parts(before.name) if ids else ():
        was = snapshot.some(part, ids)
        left.difference_update(was.ids)
        batches = (was.slice(at, at + _BY_ID) for at in range(0, len(was), _BY_ID))
        for pair in compared(store, before.name, batches, before.space, live=True):
            for chunk, missing in pair.differing().items():
                (changes.deleted if missing else changes.changed).append(chunk)
    fresh = sorted(left)
    for at in range(0, len(fresh), _BY_ID):
        changes.added += store.read(before.name, fresh[at : at + _BY_ID], embeddings=False).ids
    changes.added, changes.changed, changes.deleted = map(sorted, (changes.added, changes.changed, changes.deleted))
    return changes


def switch(run: RunRecord, ledger: Ledger) -> Staged:
    """Make the round that was applied the run's own state: staged files, quarantine, checkpoint, current snapshot.

    Every move is repeatable: a new folder that is no longer at its place was moved before.
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
    checkpoint.rebase(context_of(run, snapshot, schema, "migration"), staged.total, staged.aside, targets)
    ledger.enter(APPLIED)
    shutil.rmtree(folder)
    return staged


# -- written data ------------------------------------------------------------------------------------------------------
#
# What a run put into the target: its ledger, its staged files, and the snapshot that they were made from.


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
    """One staged file: what was to be in the target, and where each row came from."""

    rows: ChunkBatch
    origins: list[Origin]


class WrittenData:
    """Read from the run's folders alone: nothing is asked of source or target."""

    def __init__(self, run: RunRecord) -> None:
        self.run, self.folder = run, run.home
        ledger = run.workspace / RunPath.CHECKPOINT
        self.checkpoint = Checkpoint.read(ledger) if ledger.is_file() else None

    @property
    def collections(self) -> list[str]:
        """The target's collections that this run made, or was about to make when it died."""
        return self.checkpoint.owned() if self.checkpoint is not None else []

    def replaced(self, target: Reader | Mapping[str, str]) -> list[str]:
        """Names of `collections` under which the target, or these uuids of it, have others' (`Checkpoint.replaced`)."""
        there = target.identities() if isinstance(target, ClientStore) else cast(Mapping[str, str], target)
        return self.checkpoint.replaced(there) if self.checkpoint is not None else []

    @cached_property
    def noted(self) -> dict[str, dict[str, str]] | None:
        """What `settings_of` said of the target when step 23 or a later round compared it last; None where neither did."""
        if (validated := self.run.earlier(Step.VALIDATE)) is None:
            return None
        rounds = Ledger.read(self.run).rounds
        last = rounds[-1] if len(rounds) > validated_rounds(self.run) else validated.facts
        return cast(dict[str, dict[str, str]] | None, last.get("settings"))

    def other_settings(self, info: CollectionInfo) -> dict[str, str]:
        """What clients can change of a collection itself and that is not as it was `noted`: its digest now, by name."""
        if (was := (self.noted or {}).get(info.name)) is None:
            return {}
        now = settings_of([info])[info.name]
        return {what: now[what] for what in _differing(was, now) if what in ("metadata", "configuration", "indexes")}

    @cached_property
    def snapshot(self) -> Snapshot | None:
        """The snapshot that the target is held to, None where the run has taken none."""
        taken = self.folder.result(Step.SNAPSHOT)
        if taken is not None and taken.error is None:  # else it was stopped while it took the first one
            return current_snapshot(self.run)
        if self.checkpoint is None:
            return None
        directory = self.run.parameters.snapshot.folder  # step 21 is just being run again
        return open_sealed(self.folder, directory / str(self.checkpoint.context["snapshot"]))

    @cached_property
    def staged(self) -> Staged | None:
        return Staged.load(self.folder.workspace / RunPath.STAGED)

    def require_staged(self) -> Staged:
        """Raises `WorldError` where what the run wrote can no longer be distinguished from what others wrote."""
        if self.staged is None:
            raise WorldError(
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
        """Every id that this run wrote, or may have written, to a target collection: by any of its stagings."""
        found: set[str] = set()
        for staged in self._stagings:
            if target in staged.files:
                found.update(chunk for _, ids in staged.ids(target) for chunk in ids)
        return found

    @cached_property
    def _stagings(self) -> list[Staged]:
        """The run's own and those of a catch-up round that it was killed in: the target may hold chunks of both."""
        places = [self.folder.workspace / RunPath.STAGED, *self._rounds()]
        return [staged for place in places if (staged := Staged.load(place)) is not None] or [self.require_staged()]

    def _rounds(self) -> list[Path]:
        return [index.parent for index in sorted((self.folder.workspace / FOLDER).rglob("index.json"))]

    @cached_property
    def refused(self) -> frozenset[Origin]:
        """Chunks that the target itself refused: they were never there."""
        reasons = Quarantine(self.folder.workspace / RunPath.QUARANTINE).reasons()
        return frozenset(key for key, reason in reasons.items() if reason == ReasonCode.REFUSED_BY_TARGET)


def validated_rounds(run: RunRecord) -> int:
    """How many rounds of catch-up step 23 knew: those of step 22."""
    return len((run.require(Step.MIGRATE).facts.get("catch_up") or {}).get("rounds") or [])


def _differing(was: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    return [what for what in now if now[what] != was.get(what)]


def settings_changed(store: Reader, made: WrittenData) -> tuple[list[str] | None, list[str]]:
    """Sentences on collections of this run whose settings are not as they were `noted`, None where nothing was; names of others
    that were not there then."""
    made.run.require(Step.VALIDATE)
    if (was := made.noted) is None:
        return None, []
    now = settings_of(store.collections())
    both = [(name, _differing(was[name], now[name])) for name in made.collections if name in was.keys() & now]
    said = [f"{name}: its {', '.join(found)} changed" for name, found in both if found]
    return said, sorted(now.keys() - was.keys())


def altered(store: Reader, made: WrittenData, progress: Progress = silent) -> tuple[Counter[str], list[dict[str, str]]]:
    """What the target's collections of this run hold other than the run put there, every chunk read again: how many chunks are
    `gone`, `changed`, `added`; the first twenty as `{collection, id, change}`."""
    counted, examples, there = Counter[str](), list[dict[str, str]](), set(store.names())
    for name in made.collections:
        space, left = (
            ("l2", set[str]()) if name not in there else (store.info(name).space, set(listed_ids(store, name)))
        )
        found: list[tuple[str, str]] = []
        for piece in made.pieces(name):
            rows = piece.rows.take([i for i, origin in enumerate(piece.origins) if origin not in made.refused])
            for pair in compared(store if name in there else None, name, [rows], cast(Space, space)):
                found += [(chunk, "gone" if missing else "changed") for chunk, missing in pair.differing().items()]
            left.difference_update(rows.ids)
            progress.advance(len(rows))
        found += [(chunk, "added") for chunk in sorted(left)]
        counted.update(change for _, change in found)
        examples += [{"collection": name, "id": chunk, "change": change} for chunk, change in found][
            : 20 - len(examples)
        ]
    return counted, examples

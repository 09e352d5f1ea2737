"""The snapshots in a directory, the runs that need them, and the removal of those that may be removed.

A snapshot may be removed when its retention has ended and no run needs it. A run needs every snapshot that its results name until
it is closed out (step 53 passed) or was declared abandoned; a dry run needs its own until the end of retention only. A run that
cannot be found counts as one that needs its snapshot.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import shutil
import sys
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers import audit
from helpers.errors import RUNBOOK, RunbookError, Terminal, UsageError
from helpers.formatting import count
from helpers.parameters.snapshots import default_snapshots
from helpers.reason_codes import ReasonCode
from helpers.results import Progress, contents, flush_folder, json_in, passed, utc_now
from helpers.run import folders as runs
from helpers.run.executor import Workers, workers_of
from helpers.run.folders import RunFolder, RunPath, RunState
from helpers.run.plan import Step
from helpers.run.record import RunRecord
from helpers.snapshots import remote
from helpers.snapshots.objects import made_here

if TYPE_CHECKING:
    from helpers.snapshots.export_journal import (
        ExportJournal,  # with pyarrow, which `status` does not wait for
        SnapshotPart,
    )
    from helpers.snapshots.snapshot import Changed, Snapshot, WritePart
    from helpers.stores import Reader

CREATED = "snapshot created"  # the action in both audit logs: that beside the snapshots, and the run's
PRUNE = "prune"
TAKEN_BY = (Step.DRY_RUN, Step.SNAPSHOT, Step.MIGRATE)  # the steps that take snapshots; 22 where it catches up


@dataclass(frozen=True, slots=True)
class SnapshotFolder:
    """A folder in a directory of snapshots. `snapshot`: None where it is not readable as one; `problem`: the reason then.

    `export`: the journal of an export that is at work, or was interrupted and can be continued.
    """

    folder: Path
    snapshot: Snapshot | None
    problem: str
    needed_by: tuple[str, ...]
    export: ExportJournal | None = None
    doubt: str = ""  # why the runs that need it are not known
    differs: str = ""  # how it differs from the snapshot that a run took
    stays: str = ""  # why it stays beyond its retention: as the newest whole one of its collections, or for that one

    @property
    def id(self) -> str:
        return self.folder.name

    @property
    def retain_until(self) -> datetime | None:
        """The end of its retention; None where nothing readable names it."""
        if self.export is not None:
            return self.export.retain_until
        return datetime.fromisoformat(self.snapshot.manifest["retain_until"]) if self.snapshot else None

    @property
    def size(self) -> int:
        """Bytes of its parts."""
        return self.snapshot.size() if self.snapshot else self.export.size if self.export else 0

    @property
    def keep_reason(self) -> str:
        """The reason why it may not be removed; "" where it may."""
        if self.retain_until is None:
            return f"{self.problem}; look at it and remove it yourself"
        if self.differs:
            return f"{self.differs}; look at it and remove it yourself"
        if self.doubt:
            return f"which runs need it is not certain: {self.doubt}; look at it and remove it yourself"
        if self.needed_by:
            return f"needed by run {', '.join(self.needed_by)}, not closed out"
        if self.retain_until > datetime.now(UTC):
            return f"kept until {self.retain_until.isoformat(timespec='seconds')}"
        return self.stays


def directories() -> list[Path]:
    """Return the directories of snapshots: the parameters' default folder, the folders of known storages, and those that runs
    of this workspace used (`places`)."""
    folders = dict.fromkeys([Path(default_snapshots()).absolute(), *remote.every()])
    for folder in (*runs.every_run(), *runs.damaged_runs()):
        folders |= {place.parent: None for place in places(folder)}
    return [directory for directory in folders if directory.is_dir()]


def places(run: RunFolder) -> list[Path]:
    """Return the folders of a run's snapshots, begun ones too, from the lines of its log that were signed here.

    Other files of a run prove nothing, its results neither: anybody may have written them, so no path that they name is used.
    Snapshots that only the results name are taken from this workspace's own folder.
    """
    default, own_key = Path(default_snapshots()).absolute(), audit.own_key()
    directory_of = {name: default for taken in taken_by(run) if _is_plain(name := Path(taken["folder"]).name)}
    for entry in (
        audit.entries(run.reports / audit.NAME, audit.Trust(frozenset({own_key})), (CREATED,)) if own_key else ()
    ):
        if _names_a_snapshot(entry, "directory"):
            directory_of[entry["facts"]["snapshot"]] = Path(entry["facts"]["directory"])
    return [directory / name for name, directory in directory_of.items()]


def snapshots_in(directory: Path) -> list[SnapshotFolder]:
    """Return every snapshot in a directory, the oldest first, and the folders of unfinished exports."""
    from helpers.snapshots.export_journal import ExportJournal
    from helpers.snapshots.snapshot import Snapshot

    runs_of = _needs(directory)
    unproven, named = _unproven(directory)
    in_storage, taken = remote.at(directory) is not None, digests(directory)
    evidence: list[Recorded] = [*taken.values()]
    for run in runs.every_run():
        with suppress(RunbookError):  # a damaged run proves nothing about the snapshots of others
            evidence += recorded(run)
    items = []
    for folder in sorted(p for p in directory.iterdir() if p.is_dir() and not p.name.startswith(".")):
        snapshot, problem, export = None, "", None
        if folder.is_symlink():
            problem = f"a link to {folder.resolve()}"
        elif folder.name.endswith(".partial"):
            export = ExportJournal.read(folder)
            problem = "an export at work, or one that was interrupted"
            if export is not None:
                problem = f"unfinished: {count(export.chunks)} of {count(export.listed, 'chunk')}"
        else:
            try:
                snapshot = Snapshot.open(folder)
            except RunbookError as error:
                problem = error.what
        name = folder.name.removesuffix(".partial")
        doubt = unproven or ("" if name in named else f"no line of {audit.NAME} that was signed here names it")
        differs = next(differences(snapshot, evidence), "") if snapshot is not None else ""
        if in_storage and snapshot is not None and name not in taken and not made_here(snapshot.manifest):
            doubt = doubt or "another workspace put it into the storage"  # under an id that was begun here
        items.append(
            SnapshotFolder(folder, snapshot, problem, tuple(sorted(runs_of.get(name, ()))), export, doubt, differs)
        )
    items.sort(key=lambda h: (str(h.snapshot.manifest["created"]) if h.snapshot else "", h.id))
    return _replaced(items, taken)


def _replaced(items: list[SnapshotFolder], taken: Mapping[str, Recorded]) -> list[SnapshotFolder]:
    """Set `stays` of each whole snapshot and of the first later one of its collections that is not whole, if any, unless a whole
    snapshot of all of its collections follows."""
    last: dict[int, int] = {}  # position of a whole snapshot: that of the first after it that is not, else its own
    for position, item in enumerate(items):
        if item.snapshot is None or item.doubt or item.differs:  # an unproven snapshot replaces none
            continue
        names, line = set(item.snapshot.names()), taken.get(item.id)
        whole = not item.snapshot.failed and (not item.snapshot.missing() or (line is not None and line.without_lost))
        for earlier, later in [*last.items()]:
            before, now = items[earlier].snapshot, item.snapshot
            # Older toolkits do not say from where a relative path counts: such a pair may keep one another, and frees nothing.
            old, new = (str(Path(one.manifest["source"])) if one else "" for one in (before, now))
            if before is None or (before.place not in (now.place, new) and now.place != old):
                continue
            if whole and before.place == now.place and names.issuperset(before.names()):
                del last[earlier]
            elif not whole and later == earlier and names.intersection(before.names()):
                last[earlier] = position
        if whole:
            last[position] = position
    for earlier, later in last.items():
        if later != earlier:
            (kept, newer), newest = (items[earlier], items[later]), "the newest whole one of its collections"
            how = "damaged" if newer.snapshot and newer.snapshot.failed else "incomplete, which nobody has accepted"
            items[earlier] = dataclasses.replace(kept, stays=f"{newest}: {newer.id} is {how}")
            items[later] = dataclasses.replace(newer, stays=f"as long as it is here, {kept.id} is known to be {newest}")
    return items


def find(name: str, places: Sequence[Path]) -> Snapshot:
    """Return the snapshot of this id (or at this path). Raises `UsageError` where there is none, or more than one."""
    from helpers.snapshots.snapshot import Snapshot

    if Path(name).is_dir() and "/" in name:
        return Snapshot.open(Path(name).absolute())
    folders = [place / name for place in places if _is_plain(name) and (place / name).is_dir()]
    if len(folders) == 1:
        return Snapshot.open(folders[0])
    if folders:
        raise UsageError(
            ReasonCode.SNAPSHOT_AMBIGUOUS, f"there are {len(folders)} snapshots {name}",
            next_step=f"Give its folder, such as {folders[0]}.",
        )  # fmt: skip
    ids = [h.id for place in places for h in snapshots_in(place) if h.snapshot is not None]
    raise UsageError(
        ReasonCode.NO_SUCH_SNAPSHOT, f"there is no snapshot {name}", where=", ".join(map(str, places)) or str(Path.cwd()),
        next_step=f"There are {', '.join(ids[-5:])}." if ids else "None is there; --directory says where to look.",
    )  # fmt: skip


def _is_plain(name: str) -> bool:
    """Return whether a name can only be that of one folder."""
    return bool(name) and name not in (".", "..") and "/" not in name and "\0" not in name


def taken_by(folder: RunFolder) -> list[dict[str, Any]]:
    """Return the entries on the snapshots that a run took, from its results, earlier executions included."""
    snapshots = []
    for number in TAKEN_BY:
        for path in sorted([*folder.reports.glob(f"results/{number}.json"),
                            *folder.reports.glob(f"earlier/*/results/{number}.json")]):  # fmt: skip
            try:
                snapshot = json_in(contents(path))["facts"].get("snapshot")
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                continue
            if isinstance(snapshot, dict) and isinstance(snapshot.get("folder"), str):
                snapshots.append(snapshot)
    return snapshots


@dataclass(frozen=True, slots=True)
class Recorded:
    """A snapshot as evidence records it: the name of its folder, its digests ("" where there is none), the source of this."""

    name: str
    digest: str
    manifest: str
    where: str
    without_lost: bool = False  # what the source had lost was accepted

    @classmethod
    def of(cls, taken: dict[str, Any], where: str) -> Recorded:
        return cls(Path(taken["folder"]).name, str(taken["digest"]), str(taken.get("manifest", "")), where)


def recorded(run: RunFolder, trust: audit.Trust | None = None) -> list[Recorded]:
    """Return what results and audit log of a run record of its snapshots; the snapshots lie where others may write."""
    lines = [Recorded.of(taken, f"the results of run {run.id}") for taken in taken_by(run) if "digest" in taken]
    return [*lines, *logged(run, trust)]


def logged(run: RunFolder, trust: audit.Trust | None) -> list[Recorded]:
    """Return what the audit log of a run records of its snapshots; with `trust` only from trusted lines."""
    lines = []
    for entry in audit.entries(run.reports / audit.NAME, trust, (CREATED, "catch-up")):
        facts = entry.get("facts")
        if isinstance(facts, dict) and facts.get("digest"):
            where = f"{audit.NAME} of run {run.id}"
            lines.append(
                Recorded(str(facts.get("snapshot")), str(facts["digest"]), str(facts.get("manifest", "")), where)
            )
    return lines


def differences(snapshot: Snapshot, lines: Iterable[Recorded]) -> Iterator[str]:
    """Yield the differences between a snapshot and what these lines record for the name of its folder."""
    for line in lines:
        if line.name == snapshot.folder.name:
            for subject, actual, expected in (("its digest", snapshot.digest, line.digest),
                                      ("the digest of its manifest", snapshot.manifest_digest, line.manifest)):  # fmt: skip
                if expected not in ("", actual):
                    yield f"{subject} is {actual}, but was {expected} according to {line.where}"


def take(
    run: RunRecord, store: Reader, names: Sequence[str], base: str, progress: Progress, previous: Snapshot | None = None,
    changed: Changed | None = None,
) -> Snapshot:  # fmt: skip
    """Take a new snapshot of these collections. Its id is `base` or, if an earlier attempt used that, `base`-2 and so on.

    An interrupted export of this id is continued. With `previous` only what `changed` names is read (`follow_snapshot`).
    """
    from helpers.snapshots.snapshot import follow_snapshot, write_snapshot

    rules = run.parameters.snapshot
    directory = remote.prepared(rules)
    if (storage := remote.of(rules)) is not None:
        storage.mirror()  # an id that another machine used is not free
        run.log(f"what is read is put to {storage.url}, its manifest last; it is made in {directory}")
    used_ids = {line.name for line in recorded(run.home)}  # also of removed ones: an id stands for one digest
    candidates = [base, *(f"{base}-{n}" for n in range(2, 1000))]
    new_id = next(i for i in candidates if i not in used_ids and not (directory / i).exists())
    owner = {"run": run.id, "reports": str(run.folder)}
    audit.append(run.folder / audit.NAME, CREATED, outcome="begun", snapshot=new_id, directory=str(directory.resolve()))
    begin(directory, new_id, **owner)
    if previous is not None:
        snapshot = follow_snapshot(
            store,
            directory,
            new_id,
            names,
            previous,
            changed or {},
            retention_days=rules.retention_days,
            progress=progress,
        )
    else:
        workers = None if run.parameters.source.is_embedded else workers_of(run)
        readers = store.limits().readers(workers.at_once if workers else min(2, run.parameters.migration.workers))
        snapshot = write_snapshot(
            store, directory, new_id, names, retention_days=rules.retention_days, readers=readers, progress=progress,
            write=_by_workers(workers, store) if workers else None,
        )  # fmt: skip
    for note in snapshot.manifest["notes"]:
        run.log(note)
    facts: dict[str, Any] = {"snapshot": snapshot.id, "digest": snapshot.digest, "chunks": snapshot.total}
    audit.append(run.folder / audit.NAME, CREATED, **facts)  # where those who can write to the snapshots cannot
    record(directory, taken=snapshot, **owner)
    return snapshot


def _by_workers(workers: Workers, store: Reader) -> WritePart:
    """Return `write_part` by a worker, which reads the source itself. The file gets its name here: a worker that is taken for
    dead may still write for a while, and what it writes then must not count."""

    def write(root: Path, file: str, name: str, ids: Sequence[str], dimension: int) -> SnapshotPart:
        part = workers.read(store, _write_aside, root, name, ids, dimension)
        (root / part.file).replace(root / file)
        flush_folder((root / file).parent)
        return dataclasses.replace(part, file=file)

    return write


def _write_aside(store: Reader, root: Path, name: str, ids: Sequence[str], dimension: int) -> SnapshotPart:
    """On a worker: write a part under a unique name, in the folder that is removed once the snapshot is whole."""
    from helpers.snapshots.export_journal import EXPORT
    from helpers.snapshots.snapshot import write_part

    return write_part(store, root, f"{EXPORT}/{uuid.uuid4().hex}.parquet", name, ids, dimension)


def begin(directory: Path, snapshot_id: str, **owner: Any) -> None:
    """Record that this snapshot is begun, or continued. Raises `Terminal` where it exists, or where an unfinished one was not
    begun from here: its chunks might be anything."""
    partial, final = directory / f"{snapshot_id}.partial", directory / snapshot_id
    if os.path.lexists(final):  # perhaps of another workspace: no line of this log may name it
        raise Terminal(ReasonCode.SNAPSHOT_EXISTS, "a snapshot of this id exists", where=str(final))
    exists = partial.is_symlink() or partial.exists()
    own_ids = {entry["facts"]["snapshot"] for entry in _signed_lines(directory) if _names_a_snapshot(entry)}
    if exists and (partial.is_symlink() or partial.stat().st_uid != os.getuid() or snapshot_id not in own_ids):
        problem = (
            f"this unfinished snapshot was not begun from here: no line of {audit.NAME} that was signed here names it"
        )
        raise Terminal(
            ReasonCode.SNAPSHOT_EXISTS, problem, where=str(partial), next_step="Find out whose it is, and move it away."
        )
    record(directory, outcome="begun", snapshot=snapshot_id, gone_on=exists, **owner)


def record(directory: Path, action: str = CREATED, taken: Snapshot | None = None, **about: Any) -> None:
    """Append a line to the log beside the snapshots. It names this directory, so that a copy elsewhere proves nothing.

    For a snapshot that was `taken` it holds the digests of content and manifest.
    """
    if taken is not None:
        about |= {
            "snapshot": taken.id,
            "digest": taken.digest,
            "manifest": taken.manifest_digest,
            "chunks": taken.total,
        }
    audit.append(directory / audit.NAME, action, directory=str(directory.resolve()), **about)


def digests(directory: Path, *, copied: bool = False) -> dict[str, Recorded]:
    """Return what the newest line that was signed here (`_signed_lines`) records of each snapshot that was taken there.

    Lines of older toolkits have no digest of the manifest.
    """
    lines = (entry["facts"] for entry in _signed_lines(directory, copied=copied) if _names_a_snapshot(entry, "digest"))
    return {
        f["snapshot"]: Recorded(
            f["snapshot"],
            f["digest"],
            str(f.get("manifest", "")),
            f"{audit.NAME} beside it",
            f.get("without_lost") is True,
        )
        for f in lines
    }


def begun(directory: Path, run: RunFolder) -> set[str]:
    """Return the ids of the snapshots that exactly this run began there."""
    log = [e["facts"] for e in _signed_lines(directory) if _names_a_run(e)]
    return {facts["snapshot"] for facts in log if (facts["run"], facts["reports"]) == (run.id, str(run.reports))}


def described(snapshot: Snapshot) -> dict[str, Any]:
    """Return the entry on a snapshot for the results of the step that took it."""
    return {
        "id": snapshot.id,
        "folder": str(snapshot.folder),
        "digest": snapshot.digest,
        "manifest": snapshot.manifest_digest,
        "chunks": snapshot.total,
        "bytes": snapshot.size(),
        "retain_until": snapshot.manifest["retain_until"],
        **({"stored": storage.url} if (storage := remote.at(snapshot.folder.parent)) else {}),
        "source_version": snapshot.manifest["chroma_version"]["source"],
    }


def abandon(run_id: str) -> None:
    """Declare that a run will not be continued, so that its snapshots need not be kept for it."""
    folder = runs.find(run_id)
    folder.note(abandoned=utc_now())
    folder.log("declared abandoned: its snapshots may be pruned after their retention")
    audit.append(folder.reports / audit.NAME, "abandoned", run=run_id)


def settled(folder: RunState) -> bool:
    """Return whether, by its files, a run does not need its snapshots after their retention (`_unsettled` requires proof)."""
    facts = folder.facts
    return bool(facts.get("abandoned")) or bool(facts["dry_run"]) or passed(folder.result(Step.CLOSEOUT))


def _needs(directory: Path) -> dict[str, set[str]]:
    """Return snapshot id → the runs that need it."""
    needs: dict[str, set[str]] = defaultdict(set)
    known = {folder.reports: folder for folder in runs.every_run()}
    lines = [e for e in audit.entries(directory / audit.NAME) if _names_a_run(e)]
    for entry in lines:
        facts = entry["facts"]
        if Path(facts["reports"]) in known:
            continue
        run_id = str(facts["run"])
        elsewhere = RunFolder(run_id, Path(facts["reports"]), runs.workspace_root() / run_id).read()
        if not elsewhere.exists:
            needs[str(facts["snapshot"])].add(f"{elsewhere.id} (its reports are not at hand)")
        elif user := _unsettled(elsewhere):
            needs[str(facts["snapshot"])].add(user)
    for folder in [*known.values(), *runs.damaged_runs()]:
        taken = [t for t in taken_by(folder) if Path(t["folder"]).parent == directory]
        created = [e["facts"]["snapshot"] for e in lines if Path(e["facts"]["reports"]) == folder.reports]
        if (taken or created) and (user := _unsettled(folder)):
            for name in {*(Path(t["folder"]).name for t in taken), *created}:
                needs[str(name)].add(user)
    return needs


def _unproven(directory: Path) -> tuple[str, set[str]]:
    """Return (why the log beside the snapshots proves nothing, or ""; the ids of snapshots that its signed lines name).

    A signed line cannot be changed, moved or removed unseen. Unsigned lines can only keep a snapshot (`_needs`).
    """
    path = directory / audit.NAME
    try:
        broken = audit.check(path, torn=True)
        ids = {str(e["facts"]["snapshot"]) for e in _signed_lines(directory) if _names_a_snapshot(e)}
    except OSError as error:
        return f"{path} cannot be read ({error.strerror})", set()
    return (f"line {broken.line} of {path}: {broken.why}" if broken else ""), ids


def _signed_lines(directory: Path, *more_actions: str, copied: bool = False) -> list[dict[str, Any]]:
    """Return the lines on snapshots there that were signed with this workspace's key; none where it has no key.

    Lines that name another directory count only with `copied`; those of older toolkits name none. Without ssh-keygen nothing
    can be signed or proven: then all lines are returned, and callers say so (`audit.own_key`). `more_actions`: other actions
    whose lines are returned, too.
    """
    key = audit.own_key()
    # Workspaces may share a directory of snapshots: lines with other keys are not forged.
    trusted = audit.Trust(frozenset({key} - {""}), forged=sys.maxsize)
    trust = trusted if key or shutil.which("ssh-keygen") else None
    lines, resolved = audit.entries(directory / audit.NAME, trust, (CREATED, *more_actions)), str(directory.resolve())
    return [entry for entry in lines if copied or entry["facts"].get("directory", resolved) == resolved]


def _names_a_snapshot(entry: dict[str, Any], *more_keys: str) -> bool:
    facts = entry.get("facts")
    is_named = isinstance(facts, dict) and all(isinstance(facts.get(key), str) for key in ("snapshot", *more_keys))
    return is_named and entry["action"] == CREATED


def _names_a_run(entry: dict[str, Any]) -> bool:
    """Return whether a line names a run; lines of `snapshots create` and `snapshots import` do not."""
    return _names_a_snapshot(entry, "run", "reports")


def _unsettled(folder: RunState) -> str:
    """Return the run's id and the reason where it needs its snapshots; "" where it does not.

    A run that cannot be read needs them. So does a run whose end is only in a file that no signed line of its log names: anybody
    may have put it there.
    """
    try:
        if not settled(folder):
            return folder.id
        over = folder.facts.get("abandoned") or folder.facts["dry_run"]
        name = RunPath.RUN if over else f"results/{Step.CLOSEOUT}.json"
        digest = hashlib.sha256(contents(folder.reports / name)).hexdigest()
        signed = bool(audit.own_key() or shutil.which("ssh-keygen"))  # else nothing can be signed or proven here
        if digest in audit.logged_digests(folder.reports, name, folder.workspace, own_only=signed):
            return ""
        return f"{folder.id} (no line of its {audit.NAME} that was signed here names its {name} as it is)"
    except RunbookError:
        return f"{folder.id} (damaged: {RUNBOOK} status {folder.id})"


def remove(items: Iterable[SnapshotFolder]) -> list[str]:
    """Remove snapshots, each recorded before and after; return their ids. Raises `UsageError` for one that may not be removed.

    A kill leaves no half snapshot: the folder is renamed first, and `sweep` removes the rest.
    """
    removed = []
    for item in items:
        if item.keep_reason:
            raise UsageError(ReasonCode.SNAPSHOT_KEPT, f"snapshot {item.id} stays: {item.keep_reason}")
        digest = item.snapshot.digest if item.snapshot else ""
        record(item.folder.parent, PRUNE, outcome="begun", snapshot=item.id, digest=digest)
        renamed = item.folder.with_name(f".{item.id}.pruned")
        manifest = item.snapshot.manifest if item.snapshot else _own_manifest(item.folder)
        if manifest is not None and (storage := remote.at(item.folder.parent)) is not None:
            storage.remove(item.id.removesuffix(".partial"), manifest)
        try:
            item.folder.rename(renamed)
            ledger = re.compile(rf"{re.escape(item.id)}\.restore-[0-9a-f]{{16}}\.json")  # not of an id that begins so
            for file in item.folder.parent.glob("*.json"):
                if ledger.fullmatch(file.name):
                    file.unlink()
            (item.folder.parent / f"{item.id}.lock").unlink(missing_ok=True)
            shutil.rmtree(renamed)
        except OSError as error:
            raise Terminal(
                ReasonCode.SNAPSHOT_KEPT, f"snapshot {item.id} cannot be removed whole: {error.strerror}",
                where=str(error.filename),
                next_step="Correct the permissions there; the next prune removes what is left, and others are not touched by it.",
            ) from error  # fmt: skip
        record(item.folder.parent, PRUNE, snapshot=item.id)
        removed.append(item.id)
    return removed


def _own_manifest(partial: Path) -> dict[str, Any] | None:
    """Return the manifest of a snapshot that was made here and lacks only its final name; None before it is written."""
    with suppress(OSError, ValueError, LookupError, TypeError, AttributeError):
        manifest = json_in(contents(partial / "manifest.json"))
        if manifest["id"] == partial.name.removesuffix(".partial") and made_here(manifest):
            return dict(manifest)
    return None


def sweep(directory: Path) -> list[str]:
    """Remove the leftovers of an interrupted `remove`; return a sentence for each that cannot be removed.

    Anybody who can write there can give a snapshot such a name. So it is removed only where its newest signed line is the begin
    of a `remove` from here, and where no other snapshot is in it.
    """
    from helpers.snapshots.export_journal import holds_another

    newest = {e["facts"].get("snapshot"): e for e in _signed_lines(directory, PRUNE)}
    problems = []
    for folder in sorted(directory.glob(".*.pruned")):
        name = folder.name.removeprefix(".").removesuffix(".pruned")
        line = newest.get(name, {})
        if (line.get("action"), line.get("outcome")) != (PRUNE, "begun") or holds_another(folder, name):
            problems.append(
                f"{folder} stays: no prune that was begun here left it. Find out who named it so, and name it as it was"
            )
            continue
        try:
            if folder.is_symlink():
                folder.unlink()
            else:
                shutil.rmtree(folder)
        except OSError as error:
            problems.append(f"{folder} cannot be removed: {error.strerror} ({error.filename})")
            continue
        record(directory, PRUNE, snapshot=name)
    return problems


def retention_lines(folder: RunFolder) -> str:
    """Return the snapshots of a run and until when they are kept, one line each; "" where it has none."""
    missing = {place.name for place in places(folder) if not place.is_dir()}
    lines = {
        t["id"]: f"Snapshot {t['id']}, kept until {str(t['retain_until'])[:16].replace('T', ' ')} UTC at least"
        + (f", in {t['stored']}" if t.get("stored") else "; its folder is gone" * (Path(t["folder"]).name in missing))
        for t in taken_by(folder)
    }
    return "\n".join(lines.values())

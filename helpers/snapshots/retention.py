"""The snapshots there are, which run still needs each of them, and the removal of those that may go.

A snapshot may go when its retention has ended and no run needs it. A run needs every snapshot that its results name until
it is closed out (step 53 passed) or was declared abandoned; a dry run needs its own for the time of retention only. A run that
cannot be found is taken to need its snapshot.
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
        Journal,  # with pyarrow, which `status` does not wait for
        Part,
    )
    from helpers.snapshots.snapshot import Changed, Snapshot, WritePart
    from helpers.stores import Reader

CREATED = "snapshot created"  # the word of both audit logs: that beside the snapshots, and the run's
PRUNE = "prune"
TAKEN_BY = (Step.DRY_RUN, Step.SNAPSHOT, Step.MIGRATE)  # the steps that take snapshots; 22 where it catches up


@dataclass(frozen=True, slots=True)
class Held:
    """A folder among the snapshots: `snapshot` is None where it is none that can be read, `problem` then says why.

    `export` is the journal of an export that is at work, or was interrupted and can be gone on with.
    """

    folder: Path
    snapshot: Snapshot | None
    problem: str
    needed_by: tuple[str, ...]
    export: Journal | None = None
    doubt: str = ""  # why nobody knows which runs need it
    differs: str = ""  # how it is not the snapshot that a run took
    not_replaced: str = ""  # how a newer one of its collections is not whole, where no whole one after it has them all
    reason_for: str = ""  # the whole one that stays because of this newer one

    @property
    def id(self) -> str:
        return self.folder.name

    @property
    def retain_until(self) -> datetime | None:
        """The end of its retention; None where nothing readable says."""
        if self.export is not None:
            return self.export.retain_until
        return datetime.fromisoformat(self.snapshot.manifest["retain_until"]) if self.snapshot else None

    @property
    def size(self) -> int:
        """Bytes of its parts."""
        return self.snapshot.size() if self.snapshot else self.export.size if self.export else 0

    @property
    def why_kept(self) -> str:
        """Why it may not be removed; "" where it may."""
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
        if self.not_replaced:
            return f"the newest whole one of its collections: {self.not_replaced}"
        if self.reason_for:
            return f"as long as it is here, {self.reason_for} is known to be the newest whole one of its collections"
        return ""


def directories() -> list[Path]:
    """Where snapshots are: the parameters' default folder here, the folders of storages that are known here, and wherever runs
    put theirs from here (`places`)."""
    found = dict.fromkeys([Path(default_snapshots()).absolute(), *remote.every()])
    for folder in (*runs.every_run(), *runs.damaged_runs()):
        found |= {place.parent: None for place in places(folder)}
    return [directory for directory in found if directory.is_dir()]


def places(run: RunFolder) -> list[Path]:
    """The folders of a run's snapshots, those that were begun too: where lines of its log say, which were signed here.

    What else a run names proves nothing, its results neither: anybody may have written them, so no path is looked at because
    one of them names it. Of snapshots that only they name, what lies in this workspace's own folder is looked at.
    """
    here, own = Path(default_snapshots()).absolute(), audit.own_key()
    found = {name: here for taken in taken_by(run) if _is_plain(name := Path(taken["folder"]).name)}
    for entry in audit.entries(run.reports / audit.NAME, audit.Trust(frozenset({own})), (CREATED,)) if own else ():
        if _names_a_snapshot(entry, "directory"):
            found[entry["facts"]["snapshot"]] = Path(entry["facts"]["directory"])
    return [directory / name for name, directory in found.items()]


def held(directory: Path) -> list[Held]:
    """Every snapshot in a directory, the oldest first, and what is left of interrupted exports."""
    from helpers.snapshots.export_journal import Journal
    from helpers.snapshots.snapshot import Snapshot

    needs = _needs(directory)
    unproven, named = _doubt(directory)
    stored, taken = remote.at(directory) is not None, digests(directory)
    every: list[Told] = [*taken.values()]
    for run in runs.every_run():
        with suppress(RunbookError):  # a damaged run says nothing of the snapshots of others
            every += told(run)
    found = []
    for folder in sorted(p for p in directory.iterdir() if p.is_dir() and not p.name.startswith(".")):
        snapshot, problem, export = None, "", None
        if folder.is_symlink():
            problem = f"a link to {folder.resolve()}"
        elif folder.name.endswith(".partial"):
            export = Journal.read(folder)
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
        differs = next(differences(snapshot, every), "") if snapshot is not None else ""
        if stored and snapshot is not None and name not in taken and not made_here(snapshot.manifest):
            doubt = doubt or "another workspace put it into the storage"  # under an id that one was begun with here
        found.append(Held(folder, snapshot, problem, tuple(sorted(needs.get(name, ()))), export, doubt, differs))
    found.sort(key=lambda h: (str(h.snapshot.manifest["created"]) if h.snapshot else "", h.id))
    return _replaced(found, taken)


def _replaced(found: list[Held], taken: Mapping[str, Told]) -> list[Held]:
    """A whole one names the first incomplete one after it that has a collection of it, until a whole one has all of them."""
    last: dict[int, int] = {}  # of a whole one the first after it that is not; itself where there is none
    for place, each in enumerate(found):
        if each.snapshot is None or each.doubt or each.differs:  # what nobody proves replaces nothing
            continue
        names, told_here = set(each.snapshot.names()), taken.get(each.id)
        complete = not each.snapshot.missing() or (told_here is not None and told_here.without_lost)
        whole = complete and not each.snapshot.failed
        for earlier in [*last]:
            before = found[earlier].snapshot
            if before is None or before.place != each.snapshot.place:
                continue
            if whole and names.issuperset(before.names()):
                del last[earlier]
            elif not whole and names.intersection(before.names()):
                last[earlier] = place if last[earlier] == earlier else last[earlier]
        if whole:
            last[place] = place
    for earlier, later in last.items():
        if later != earlier:
            is_not, newer = found[earlier], found[later]
            how = "damaged" if newer.snapshot and newer.snapshot.failed else "incomplete, which nobody has accepted"
            found[earlier] = dataclasses.replace(is_not, not_replaced=f"{newer.id} is {how}")
            found[later] = dataclasses.replace(newer, reason_for=is_not.id)
    return found


def find(name: str, places: Sequence[Path]) -> Snapshot:
    """The snapshot of this id (or at this path). Raises `UsageError` where there is none, or more than one."""
    from helpers.snapshots.snapshot import Snapshot

    if Path(name).is_dir() and "/" in name:
        return Snapshot.open(Path(name).absolute())
    here = [place / name for place in places if _is_plain(name) and (place / name).is_dir()]
    if len(here) == 1:
        return Snapshot.open(here[0])
    if here:
        raise UsageError(
            ReasonCode.SNAPSHOT_AMBIGUOUS, f"there are {len(here)} snapshots {name}",
            next_step=f"Give its folder, such as {here[0]}.",
        )  # fmt: skip
    known = [h.id for place in places for h in held(place) if h.snapshot is not None]
    raise UsageError(
        ReasonCode.NO_SUCH_SNAPSHOT, f"there is no snapshot {name}", where=", ".join(map(str, places)) or str(Path.cwd()),
        next_step=f"There are {', '.join(known[-5:])}." if known else "None is there; --directory says where to look.",
    )  # fmt: skip


def _is_plain(name: str) -> bool:
    """Whether a name can be that of one folder and nothing else."""
    return bool(name) and name not in (".", "..") and "/" not in name and "\0" not in name


def taken_by(folder: RunFolder) -> list[dict[str, Any]]:
    """What the results of a run, earlier executions included, say of the snapshots that it took."""
    found = []
    for number in TAKEN_BY:
        for path in sorted([*folder.reports.glob(f"results/{number}.json"),
                            *folder.reports.glob(f"earlier/*/results/{number}.json")]):  # fmt: skip
            try:
                taken = json_in(contents(path))["facts"].get("snapshot")
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                continue
            if isinstance(taken, dict) and isinstance(taken.get("folder"), str):
                found.append(taken)
    return found


@dataclass(frozen=True, slots=True)
class Told:
    """What the evidence of a run says of a snapshot: the name of its folder, its digests ("" where it says none), and where."""

    name: str
    digest: str
    manifest: str
    where: str
    without_lost: bool = False  # what the source had lost was accepted

    @classmethod
    def of(cls, taken: dict[str, Any], where: str) -> Told:
        return cls(Path(taken["folder"]).name, str(taken["digest"]), str(taken.get("manifest", "")), where)


def told(run: RunFolder, trust: audit.Trust | None = None) -> list[Told]:
    """What results and audit log of a run say of its snapshots; a snapshot itself is in a folder where others may write."""
    found = [Told.of(taken, f"the results of run {run.id}") for taken in taken_by(run) if "digest" in taken]
    return [*found, *logged(run, trust)]


def logged(run: RunFolder, trust: audit.Trust | None) -> list[Told]:
    """What the audit log of a run says of its snapshots; with `trust` by lines that prove something."""
    found = []
    for entry in audit.entries(run.reports / audit.NAME, trust, (CREATED, "catch-up")):
        facts = entry.get("facts")
        if isinstance(facts, dict) and facts.get("digest"):
            where = f"{audit.NAME} of run {run.id}"
            found.append(Told(str(facts.get("snapshot")), str(facts["digest"]), str(facts.get("manifest", "")), where))
    return found


def differences(snapshot: Snapshot, lines: Iterable[Told]) -> Iterator[str]:
    """How the snapshot is not the one that these lines tell of, by the name of its folder; nothing where it is."""
    for line in lines:
        if line.name == snapshot.folder.name:
            for what, is_now, was in (("its digest", snapshot.digest, line.digest),
                                      ("the digest of its manifest", snapshot.manifest_digest, line.manifest)):  # fmt: skip
                if was not in ("", is_now):
                    yield f"{what} is {is_now}, but was {was} according to {line.where}"


def take(
    run: RunRecord, store: Reader, names: Sequence[str], base: str, progress: Progress, was: Snapshot | None = None,
    changed: Changed | None = None,
) -> Snapshot:  # fmt: skip
    """A new snapshot of these collections, its id `base` or, where an earlier attempt left that, `base`-2 and so on.

    An export of this id that was interrupted is gone on with. With `was` only what `changed` names is read (`follow_snapshot`).
    """
    from helpers.snapshots.snapshot import follow_snapshot, write_snapshot

    rules = run.parameters.snapshot
    directory = remote.prepared(rules)
    if (storage := remote.of(rules)) is not None:
        storage.mirror()  # a name that another machine has given is taken
        run.log(f"what is read is put to {storage.url}, its manifest last; it is made in {directory}")
    known = {line.name for line in told(run.home)}  # one that was removed is another one: a name stands for one digest
    names_of = [base, *(f"{base}-{n}" for n in range(2, 1000))]
    free = next(i for i in names_of if i not in known and not (directory / i).exists())
    by = {"run": run.id, "reports": str(run.folder)}
    audit.append(run.folder / audit.NAME, CREATED, outcome="begun", snapshot=free, directory=str(directory.resolve()))
    begin(directory, free, **by)
    if was is not None:
        snapshot = follow_snapshot(
            store, directory, free, names, was, changed or {}, retention_days=rules.retention_days, progress=progress
        )
    else:
        workers = None if run.parameters.source.is_embedded else workers_of(run)
        readers = store.limits().readers(workers.at_once if workers else min(2, run.parameters.migration.workers))
        snapshot = write_snapshot(
            store, directory, free, names, retention_days=rules.retention_days, readers=readers, progress=progress,
            write=_by_workers(workers, store) if workers else None,
        )  # fmt: skip
    for note in snapshot.manifest["notes"]:
        run.log(note)
    about: dict[str, Any] = {"snapshot": snapshot.id, "digest": snapshot.digest, "chunks": snapshot.total}
    audit.append(run.folder / audit.NAME, CREATED, **about)  # where those who can write to the snapshots cannot
    record(directory, taken=snapshot, **by)
    return snapshot


def _by_workers(workers: Workers, store: Reader) -> WritePart:
    """As `write_part`, done by a worker, which asks the source itself. The file gets its name here: a worker that is taken for
    dead may write for a while yet, and nothing that it writes then counts."""

    def write(root: Path, file: str, name: str, ids: Sequence[str], dimension: int) -> Part:
        made = workers.read(store, _write_aside, root, name, ids, dimension)
        (root / made.file).replace(root / file)
        flush_folder((root / file).parent)
        return dataclasses.replace(made, file=file)

    return write


def _write_aside(store: Reader, root: Path, name: str, ids: Sequence[str], dimension: int) -> Part:
    """On a worker: a part under a name that no other attempt has, in the folder that goes once the snapshot is whole."""
    from helpers.snapshots.export_journal import EXPORT
    from helpers.snapshots.snapshot import write_part

    return write_part(store, root, f"{EXPORT}/{uuid.uuid4().hex}.parquet", name, ids, dimension)


def begin(directory: Path, snapshot_id: str, **by: Any) -> None:
    """Record that this snapshot is begun, or gone on with. Raises `Terminal` where what lies there was not begun from here:
    its chunks might be anything."""
    partial, whole = directory / f"{snapshot_id}.partial", directory / snapshot_id
    if os.path.lexists(whole):  # perhaps another workspace's: no line of this one may name it
        raise Terminal(ReasonCode.SNAPSHOT_EXISTS, "a snapshot of this id exists", where=str(whole))
    gone_on = partial.is_symlink() or partial.exists()
    ours = {entry["facts"]["snapshot"] for entry in _signed(directory) if _names_a_snapshot(entry)}
    if gone_on and (partial.is_symlink() or partial.stat().st_uid != os.getuid() or snapshot_id not in ours):
        what = (
            f"this unfinished snapshot was not begun from here: no line of {audit.NAME} that was signed here names it"
        )
        raise Terminal(
            ReasonCode.SNAPSHOT_EXISTS, what, where=str(partial), next_step="Find out whose it is, and move it away."
        )
    record(directory, outcome="begun", snapshot=snapshot_id, gone_on=gone_on, **by)


def record(directory: Path, action: str = CREATED, taken: Snapshot | None = None, **about: Any) -> None:
    """A line of the log beside the snapshots, which names this directory: it proves nothing in another of the same name.

    Of a snapshot that was `taken` it holds both digests: a manifest says when, and until when, beside what it holds.
    """
    if taken is not None:
        about |= {
            "snapshot": taken.id,
            "digest": taken.digest,
            "manifest": taken.manifest_digest,
            "chunks": taken.total,
        }
    audit.append(directory / audit.NAME, action, directory=str(directory.resolve()), **about)


def digests(directory: Path, *, copied: bool = False) -> dict[str, Told]:
    """What the newest line that was signed here (`_signed`) says of each snapshot that was taken there.

    Those of older toolkits have no digest of the manifest.
    """
    lines = (entry["facts"] for entry in _signed(directory, copied=copied) if _names_a_snapshot(entry, "digest"))
    return {
        f["snapshot"]: Told(
            f["snapshot"],
            f["digest"],
            str(f.get("manifest", "")),
            f"{audit.NAME} beside it",
            f.get("without_lost") is True,
        )
        for f in lines
    }


def begun(directory: Path, run: RunFolder) -> set[str]:
    """The ids of the snapshots that this run, and no other of a similar id, began there."""
    log = [e["facts"] for e in _signed(directory) if _names_a_run(e)]
    return {facts["snapshot"] for facts in log if (facts["run"], facts["reports"]) == (run.id, str(run.reports))}


def described(snapshot: Snapshot) -> dict[str, Any]:
    """What the results of a step that took a snapshot say of it."""
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
    """Declare that a run will not be gone on with, so that its snapshots need not be kept for it."""
    folder = runs.find(run_id)
    folder.note(abandoned=utc_now())
    folder.log("declared abandoned: its snapshots may be pruned after their retention")
    audit.append(folder.reports / audit.NAME, "abandoned", run=run_id)


def settled(folder: RunState) -> bool:
    """Whether a run needs its snapshots no more, once their retention has ended, as its files say (`_unsettled` wants proof)."""
    facts = folder.facts
    return bool(facts.get("abandoned")) or bool(facts["dry_run"]) or passed(folder.result(Step.CLOSEOUT))


def _needs(directory: Path) -> dict[str, set[str]]:
    """Snapshot id → the runs that need it."""
    needs: dict[str, set[str]] = defaultdict(set)
    known = {folder.reports: folder for folder in runs.every_run()}
    log = [e for e in audit.entries(directory / audit.NAME) if _names_a_run(e)]
    for entry in log:
        facts = entry["facts"]
        if Path(facts["reports"]) in known:
            continue
        run_id = str(facts["run"])
        elsewhere = RunFolder(run_id, Path(facts["reports"]), runs.workspace_root() / run_id).read()
        if not elsewhere.exists:
            needs[str(facts["snapshot"])].add(f"{elsewhere.id} (its reports are not at hand)")
        elif why := _unsettled(elsewhere):
            needs[str(facts["snapshot"])].add(why)
    for folder in [*known.values(), *runs.damaged_runs()]:
        taken = [t for t in taken_by(folder) if Path(t["folder"]).parent == directory]
        created = [e["facts"]["snapshot"] for e in log if Path(e["facts"]["reports"]) == folder.reports]
        if (taken or created) and (why := _unsettled(folder)):
            for name in {*(Path(t["folder"]).name for t in taken), *created}:
                needs[str(name)].add(why)
    return needs


def _doubt(directory: Path) -> tuple[str, set[str]]:
    """(Why the log beside the snapshots proves nothing, "" where it does; the snapshots that its signed lines name).

    A signed line cannot be changed, moved or taken out of the chain unseen. Unsigned ones may only keep a snapshot (`_needs`).
    """
    path = directory / audit.NAME
    try:
        broken = audit.check(path, torn=True)
        named = {str(e["facts"]["snapshot"]) for e in _signed(directory) if _names_a_snapshot(e)}
    except OSError as error:
        return f"{path} cannot be read ({error.strerror})", set()
    return (f"line {broken.line} of {path}: {broken.why}" if broken else ""), named


def _signed(directory: Path, *besides: str, copied: bool = False) -> list[dict[str, Any]]:
    """Which snapshots were taken there by the word of lines signed with this workspace's key; none where it has no key.

    Lines that name another directory count only where those `copied` from there are asked for; older toolkits name none.
    Without ssh-keygen nothing can be signed or proven here: all lines, and whoever tells of them says so (`audit.own_key`).
    `besides` are other actions whose lines are asked for.
    """
    key = audit.own_key()
    # Workspaces may share a directory of snapshots: the lines of others are not forged.
    own = audit.Trust(frozenset({key} - {""}), forged=sys.maxsize)
    trust = own if key or shutil.which("ssh-keygen") else None
    log, here = audit.entries(directory / audit.NAME, trust, (CREATED, *besides)), str(directory.resolve())
    return [entry for entry in log if copied or entry["facts"].get("directory", here) == here]


def _names_a_snapshot(entry: dict[str, Any], *besides: str) -> bool:
    facts = entry.get("facts")
    named = isinstance(facts, dict) and all(isinstance(facts.get(key), str) for key in ("snapshot", *besides))
    return named and entry["action"] == CREATED


def _names_a_run(entry: dict[str, Any]) -> bool:
    """Those of `snapshots create` and `snapshots import` name none."""
    return _names_a_snapshot(entry, "run", "reports")


def _unsettled(folder: RunState) -> str:
    """The run as one that needs its snapshots, "" where it needs them no more. One that cannot be read needs them.

    So does one whose end only a file tells that no signed line of its log names as it is: anybody may have put it there.
    """
    try:
        if not settled(folder):
            return folder.id
        over = folder.facts.get("abandoned") or folder.facts["dry_run"]
        name = RunPath.RUN if over else f"results/{Step.CLOSEOUT}.json"
        digest = hashlib.sha256(contents(folder.reports / name)).hexdigest()
        signed = bool(audit.own_key() or shutil.which("ssh-keygen"))  # else nothing can be signed or proven here
        if digest in audit.named(folder.reports, name, folder.workspace, own=signed):
            return ""
        return f"{folder.id} (no line of its {audit.NAME} that was signed here names its {name} as it is)"
    except RunbookError:
        return f"{folder.id} (damaged: {RUNBOOK} status {folder.id})"


def remove(found: Iterable[Held]) -> list[str]:
    """Remove snapshots that may go, each recorded before and after; their ids. A kill in the middle leaves no half one:
    the folder is renamed first, and `sweep` takes away what is left of it."""
    gone = []
    for item in found:
        if item.why_kept:
            raise UsageError(ReasonCode.SNAPSHOT_KEPT, f"snapshot {item.id} stays: {item.why_kept}")
        digest = item.snapshot.digest if item.snapshot else ""
        record(item.folder.parent, PRUNE, outcome="begun", snapshot=item.id, digest=digest)
        aside = item.folder.with_name(f".{item.id}.pruned")
        own = item.snapshot.manifest if item.snapshot else _made(item.folder)
        if own is not None and (storage := remote.at(item.folder.parent)) is not None:
            storage.remove(item.id.removesuffix(".partial"), own)
        try:
            item.folder.rename(aside)
            ledger = re.compile(rf"{re.escape(item.id)}\.restore-[0-9a-f]{{16}}\.json")  # not of an id that begins so
            for beside in item.folder.parent.glob("*.json"):
                if ledger.fullmatch(beside.name):
                    beside.unlink()
            (item.folder.parent / f"{item.id}.lock").unlink(missing_ok=True)
            shutil.rmtree(aside)
        except OSError as error:
            raise Terminal(
                ReasonCode.SNAPSHOT_KEPT, f"snapshot {item.id} cannot be removed whole: {error.strerror}",
                where=str(error.filename),
                next_step="Correct the permissions there; the next prune removes what is left, and others are not touched by it.",
            ) from error  # fmt: skip
        record(item.folder.parent, PRUNE, snapshot=item.id)
        gone.append(item.id)
    return gone


def _made(partial: Path) -> dict[str, Any] | None:
    """The manifest of a snapshot that was made here and lacks only its name; None before it is written: nothing was put then."""
    with suppress(OSError, ValueError, LookupError, TypeError, AttributeError):
        manifest = json_in(contents(partial / "manifest.json"))
        if manifest["id"] == partial.name.removesuffix(".partial") and made_here(manifest):
            return dict(manifest)
    return None


def sweep(directory: Path) -> list[str]:
    """Take away what an interrupted `remove` left; a sentence for each that cannot be taken away, which stops nothing else.

    Anybody who can write there can give a snapshot such a name. So it goes only where a `remove` of it was begun from here, as
    the newest signed line of it says, and where no other snapshot is in it.
    """
    from helpers.snapshots.export_journal import holds_another

    newest = {e["facts"].get("snapshot"): e for e in _signed(directory, PRUNE)}
    left = []
    for aside in sorted(directory.glob(".*.pruned")):
        name = aside.name.removeprefix(".").removesuffix(".pruned")
        line = newest.get(name, {})
        if (line.get("action"), line.get("outcome")) != (PRUNE, "begun") or holds_another(aside, name):
            left.append(
                f"{aside} stays: no prune that was begun here left it. Find out who named it so, and name it as it was"
            )
            continue
        try:
            if aside.is_symlink():
                aside.unlink()
            else:
                shutil.rmtree(aside)
        except OSError as error:
            left.append(f"{aside} cannot be removed: {error.strerror} ({error.filename})")
            continue
        record(directory, PRUNE, snapshot=name)
    return left


def kept_line(folder: RunFolder) -> str:
    """The snapshots of a run and until when they are kept, one line each; "" where it has none."""
    gone = {place.name for place in places(folder) if not place.is_dir()}
    lines = {
        t["id"]: f"Snapshot {t['id']}, kept until {str(t['retain_until'])[:16].replace('T', ' ')} UTC at least"
        + (f", in {t['stored']}" if t.get("stored") else "; its folder is gone" * (Path(t["folder"]).name in gone))
        for t in taken_by(folder)
    }
    return "\n".join(lines.values())

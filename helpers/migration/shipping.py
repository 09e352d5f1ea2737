"""`migration.method: files`: a proven copy of a source directory becomes the target, file by file instead of row by row.

A source directory is copied before it is opened. The copy that the snapshot is read from is kept, proven whole and listed
with the digest of each file (`keep`). It holds the target's lock of this run already. Step 22 brings its files into a folder
of ours inside the target's (`ship`): by reflink where the file system supports it. A file that arrived before a kill, by size
and digest, is not brought again. The index folders are moved up, then one renaming puts the database in place of the empty
one: before it the target is empty, after it the target is whole.

The content of the files is not compared here: steps 22 and 23 compare the source and every chunk of the target as always.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import shutil
import sqlite3
import stat
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, cast

from helpers.errors import RUNBOOK, RunbookError, Terminal, UsageError, one_line
from helpers.formatting import count, duration, size
from helpers.migration.source_changes import source_changes
from helpers.migration.staging import Staged
from helpers.migration.target_lock import FILES, already_holds, files_excluded, files_refused, target_names
from helpers.parameters import resolve_path
from helpers.parameters.endpoint import DEFAULT_DATABASE, DEFAULT_TENANT, Endpoint
from helpers.reason_codes import ReasonCode
from helpers.results import (
    PRIVATE,
    Progress,
    StateFile,
    file_digest,
    flush_file,
    flush_folder,
    is_leftover,
    naming,
    silent,
    writing,
)
from helpers.run.command import who_has_open
from helpers.run.record import RunRecord
from helpers.snapshots.snapshot import Snapshot
from helpers.stores import LOCK_COLLECTION, Finding, Reader
from helpers.stores.client import ClientStore
from helpers.stores.copying import newest, require_room
from helpers.stores.creation import refused_name, unsupported
from helpers.stores.diagnosis import examine
from helpers.stores.layout import DATABASE, LOGS, OURS
from helpers.stores.opening import MADE, make_ours, require_place
from helpers.stores.repair import migrations

FOLDER = "shipping"  # in the workspace of a run: the kept copy, and the list of its files
COPY = "copy"
ARRIVING = f"{OURS}shipping"  # in the target's folder, until every file has arrived
PROOF, LISTING = "prove the copy", "list the copy"  # phases of steps 13 and 21
CLONED, COPIED, KEPT = "cloned (reflink)", "copied", "kept from before"
_FICLONE = 0x40049409  # Linux: a file shares the blocks of another one, on btrfs, XFS and the like
_OF_AN_INDEX = re.compile(r"(?i)[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/\w{1,40}\.(bin|pickle)")
_PIECE_BYTES = 8 * 2**20


@dataclass(slots=True)
class Shipment(StateFile):
    """The files of a kept copy: relative path → (bytes, SHA-256). `snapshot` was read from this copy.

    `ways` counts files by how they came into the target (`CLONED`, `COPIED`, `KEPT`), `seconds` is how long that took; both
    are set once all have arrived.
    """

    file = "shipping.json"
    damaged = ReasonCode.CHECKPOINT_UNREADABLE
    remedy = f"Take the snapshot again: {RUNBOOK} resume ID --retry 21"

    folder: Path
    snapshot: str
    files: dict[str, tuple[int, str]]
    ways: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    def __post_init__(self) -> None:
        """Check the names: each is also a path below the target, and part of it a folder that `clear` removes."""
        if not all(name == DATABASE or _OF_AN_INDEX.fullmatch(name) for name in self.files):
            raise ValueError("it names a file that no Chroma directory has")

    @property
    def bytes(self) -> int:
        return sum(length for length, _ in self.files.values())

    @property
    def indexes(self) -> list[str]:
        """The index folders, by name."""
        return sorted({name.split("/")[0] for name in self.files if "/" in name})

    def summary(self) -> str:
        """One line: how many files and bytes, and how they were brought."""
        ways = ", ".join(f"{number:,} {way}" for way, number in sorted(self.ways.items()))
        return f"{count(len(self.files), 'file')}, {size(self.bytes)}: {ways}"


# -- the copy of the source --------------------------------------------------------------------------------------------


def place(folder: Path) -> Path:
    """Empty the place for the copy whose list is to lie in `folder`, and give its path, for `open_source`."""
    shutil.rmtree(folder / FOLDER, ignore_errors=True)
    (folder / FOLDER).mkdir(parents=True)
    return folder / FOLDER / COPY


def require_whole(store: Reader, snapshot: Snapshot, endpoint: Endpoint, run_id: str) -> None:
    """Mark the open copy with the lock of this run. Raises `UsageError` where it is damaged, or differs from the snapshot.

    Judged as `runbook doctor` judges a directory.
    """
    if problem := not_whole(store) or _diagnosed(store, endpoint):
        raise damaged_source(problem)
    if len(snapshot.manifest["sessions"]) > 1:  # its first parts were read from an earlier copy
        changes = source_changes(store, snapshot)
        if not changes.nothing:
            raise UsageError(
                ReasonCode.SOURCE_CHANGED, f"the source changed while its snapshot was interrupted: {changes.sentence()}",
                where="migration.method: files", next_step=f"Take the snapshot again: {RUNBOOK} resume {run_id} --retry 21",
            )  # fmt: skip
    cast(ClientStore, store).acquire_lock(run_id)


def not_whole(store: Reader) -> str:
    """Why the files of this open copy may not be shipped, by what its opening showed; "" where they may."""
    if getattr(store, "repairs", ()):
        return "values or records were repaired on the copy"
    for info in store.collections():
        name = one_line(info.name, 60)
        if info.space != info.declared_space:
            return f"{name} searches by {info.space} and its settings say {info.declared_space}"
        if reason := refused_name(info.name) or ", ".join(map(str, unsupported(info))):
            return f"{name} is none that a current Chroma would make: {reason}"
        if worst := _worst(info.findings):
            return f"{name}: {worst}"
    return _worst(getattr(store, "findings", ()))


def _worst(findings: tuple[str, ...]) -> str:
    return next((str(one) for one in map(Finding.of, findings) if not one.severity.sound), "")


def _diagnosed(store: Reader, endpoint: Endpoint) -> str:
    diagnosis = examine(store, endpoint, store.names())
    if diagnosis.verdict == "sound":
        return ""
    worst = diagnosis.problems[0]
    return f"{f'{one_line(worst.where, 60)}: ' if worst.where else ''}{worst.what}"


def damaged_source(problem: str) -> UsageError:
    """The error for a source whose files cannot be copied."""
    return UsageError(
        ReasonCode.PARAMETERS_INVALID, f"files is impossible, the source's files cannot be taken as they are: {problem}",
        where="migration.method",
        next_step=f"Begin a new run with rows, the default, which mends a copy; {RUNBOOK} doctor says more. "
        "Nothing was written to the target.",
    )  # fmt: skip


def keep(folder: Path, source: Path, snapshot: Snapshot, *, prove: bool = True) -> Shipment:
    """List the closed copy at `place(folder)`: its files with their digests, on disk when this returns.

    `prove`: check its database page by page, with its indexes, and flush the copy, too. Raises `UsageError` where that fails,
    where its layout is not that of the Chroma here, so that opening changed it, or where its database was not closed.
    """
    copy = folder / FOLDER / COPY
    if problem := _unlike(source / DATABASE, copy / DATABASE) or (_unsound(copy / DATABASE) if prove else ""):
        raise damaged_source(problem)
    owned = _segments(copy / DATABASE)  # index folders of no collection are not shipped
    indexes = sorted(str(path.relative_to(copy)) for path in copy.glob("*/*") if path.parent.name in owned)
    names = [*indexes, DATABASE]  # the database last
    files = {name: ((copy / name).stat().st_size, file_digest(copy / name)) for name in names}
    if prove:
        for name in names:
            flush_file(copy / name)
        for path in (copy.parent, copy, *(path for path in copy.iterdir() if path.is_dir())):
            flush_folder(path)
    shipment = Shipment(folder / FOLDER, snapshot.id, files)
    shipment.save(folder / FOLDER)
    return shipment


def _segments(database: Path) -> set[str]:
    """The segments of all collections of a database: the names of the index folders in use."""
    with newest(database) as db:
        return {str(row[0]) for row in db.execute("SELECT id FROM segments")}


def _unlike(source: Path, copy: Path) -> str:
    """How the copy's layout differs from the source's, or that it was not closed; "" where neither."""
    try:
        with newest(source) as db:
            rows = db.execute("SELECT dir, max(version) FROM migrations GROUP BY dir ORDER BY dir").fetchall()
    except sqlite3.Error as error:
        return f"its layout cannot be read ({one_line(str(error), 80)})"
    before, now = dict(rows), dict(migrations(copy))
    if before != now:
        parts = (
            f"{part} {before.get(part, 0)} instead of {now[part]}" for part in now if before.get(part) != now[part]
        )
        return f"its layout is that of another Chroma ({', '.join(parts)})"
    journals = [suffix for suffix in LOGS if copy.with_name(f"{copy.name}{suffix}").exists()]
    return f"its database was not closed, {copy.name}{journals[0]} is there" if journals else ""


def _unsound(database: Path) -> str:
    try:
        with newest(database) as db:
            (result,) = db.execute("PRAGMA integrity_check(1)").fetchone()
    except sqlite3.DatabaseError as error:
        result = str(error)
    return "" if result == "ok" else f"{database.name}: {one_line(result, 100)}"


def load_kept(folder: Path, snapshot: Snapshot) -> Shipment:
    """The list of the copy that this snapshot was read from. Raises `UsageError` where there is none."""
    shipment = Shipment.load(folder / FOLDER)
    if shipment is None or shipment.snapshot != snapshot.id or not (folder / FOLDER / COPY).is_dir():
        raise UsageError(
            ReasonCode.SNAPSHOT_ALTERED, f"no copy of the source is kept from which {snapshot.id} was read",
            where=str(folder / FOLDER), next_step=f"Take the snapshot again: {RUNBOOK} resume ID --retry 21",
        )  # fmt: skip
    return shipment


def rule_changes(staged: Staged) -> str:
    """How many chunks the rules change, set aside or leave out; "" where none, as files hold every chunk unchanged."""
    for change, number in (
        ("chunks are set aside", staged.unstaged),
        ("values are repaired", sum(row["chunks"] for row in staged.repairs)),
        ("chunks are changed", staged.chunks_changed),
        ("ids are rewritten", staged.rewritten),
    ):
        if number:
            return f"{number:,} {change}, and files hold every chunk as it is"
    return ""


def require_unchanged(staged: Staged) -> None:
    """Raise `UsageError` where the rules change any chunk (`rule_changes`)."""
    if change := rule_changes(staged):
        raise files_refused(change)


# -- into the target ---------------------------------------------------------------------------------------------------


def ship(shipment: Shipment, target: Path, progress: Progress = silent) -> None:
    """Make the copy's files the database in this folder, which is new or holds no collection and which nobody has open.

    What a killed attempt brought is not brought again. `progress` advances by bytes. Raises `Terminal`: "target_not_empty",
    "target_foreign_file", "target_in_use", "disk_full", and "snapshot_altered" where the copy is not as it was listed.
    """
    begun, counts = time.monotonic(), Counter[str]()
    require_place(target)
    _require_empty(target)
    arriving = target / ARRIVING
    if shipment.ways and not (arriving / MADE).is_file():  # an undo removed what had been moved up
        shipment.ways = {}
        shipment.save(shipment.folder)
    arrived = _moved_up(shipment, target)
    if not (arriving / MADE).is_file():
        shutil.rmtree(arriving, ignore_errors=True)
        target.mkdir(parents=True, exist_ok=True)
        make_ours(arriving)
    _sweep(arriving)
    mode = stat.S_IMODE((target / DATABASE).stat().st_mode) if (target / DATABASE).exists() else PRIVATE
    require_room(arriving, _missing(shipment, arriving, arrived))
    for name, (length, digest) in shipment.files.items():
        if name in arrived or _is(arriving / name, length, digest):
            way = KEPT
        else:
            way = _bring(shipment.folder / COPY / name, arriving / name, digest, mode)
        counts[way] += 1
        progress.advance(length)
    shipment.ways, shipment.seconds = dict(counts), time.monotonic() - begun
    shipment.save(shipment.folder)
    _switch(shipment, target)


def _moved_up(shipment: Shipment, target: Path) -> set[str]:
    """The files in index folders that were moved up before a kill: whole, byte for byte, and with nothing beside them.

    Raises `Terminal` ("target_foreign_file") where a folder of that name holds anything else: this run did not make it.
    """
    arrived = set[str]()
    for folder in shipment.indexes:
        if not os.path.lexists(target / folder):
            continue
        expected = {name for name in shipment.files if name.startswith(f"{folder}/")}
        actual = {str(path.relative_to(target)) for path in (target / folder).glob("*")}
        if actual != expected or not all(_is(target / name, *shipment.files[name]) for name in expected):
            raise Terminal(
                ReasonCode.TARGET_FOREIGN_FILE, f"{folder} is there already, and is not what this run brings: the folder of an "
                "index in the source has this name", where=f"target.path {target}",
                next_step="See what it is, and move it away, or name another target.",
            )  # fmt: skip
        arrived |= expected
    return arrived


def _missing(shipment: Shipment, arriving: Path, arrived: set[str]) -> int:
    return sum(
        length for name, (length, _) in shipment.files.items()
        if name not in arrived and (not (arriving / name).is_file() or (arriving / name).stat().st_size != length)
    )  # fmt: skip


def _sweep(arriving: Path) -> None:
    """Remove files that a killed attempt left half written."""
    for path in arriving.rglob("*"):
        if path.is_file() and is_leftover(path.name):
            path.unlink()


def _is(path: Path, length: int, digest: str) -> bool:
    if not path.is_file() or path.is_symlink() or path.stat().st_size != length:
        return False
    return file_digest(path) == digest


def _bring(file: Path, path: Path, digest: str, mode: int) -> str:
    """Clone or copy a file, whole and flushed or not at all. Gives `CLONED` or `COPIED`."""
    path.parent.mkdir(exist_ok=True)
    with writing(path, mode, file.stat().st_size) as temporary:
        with naming(temporary), file.open("rb") as source, temporary.open("r+b") as target:
            way = CLONED if _clone(source.fileno(), target.fileno()) else COPIED
            target.seek(0)
            actual = hashlib.file_digest(target, "sha256").hexdigest() if way == CLONED else _copy(source, target)
        if actual != digest:
            raise Terminal(
                ReasonCode.SNAPSHOT_ALTERED, "is not as it was when it was proven whole", where=str(file),
                next_step=f"Take the snapshot again: {RUNBOOK} resume ID --retry 21",
            )  # fmt: skip
    return way


def _clone(source: int, target: int) -> bool:
    """Let one open file share the blocks of another; False where the file system cannot."""
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        return False
    return True


def _copy(source: BinaryIO, target: BinaryIO) -> str:
    """Copy the bytes. Gives their SHA-256."""
    digest = hashlib.sha256()
    while piece := source.read(_PIECE_BYTES):
        digest.update(piece)
        target.write(piece)
    return digest.hexdigest()


def _require_empty(target: Path) -> None:
    """Raise `Terminal` unless this folder is new, or its database holds at most the lock of a run and nobody has it open."""
    if not (target / DATABASE).exists():
        return
    with newest(target / DATABASE) as db:
        content = sorted(row[0] for row in db.execute("SELECT name FROM collections") if row[0] != LOCK_COLLECTION)
        databases = db.execute("SELECT tenant_id, name FROM databases").fetchall()
    content += [f"database {t}/{d}" for t, d in databases if (t, d) != (DEFAULT_TENANT, DEFAULT_DATABASE)]
    if content:
        raise Terminal(
            ReasonCode.TARGET_NOT_EMPTY, f"holds {one_line(content[0], 60)}; files become a target that holds nothing",
            where=f"target.path {target}", next_step="Name another target, or import by rows, in a new run.",
        )  # fmt: skip
    journals = [f"{DATABASE}{suffix}" for suffix in LOGS if (target / f"{DATABASE}{suffix}").exists()]
    if users := who_has_open(target).sentence() or ", ".join(journals):
        raise Terminal(
            ReasonCode.TARGET_IN_USE, f"another process works on the target's database: {users}", where=f"target.path {target}",
            next_step="Stop it, then repeat.",
        )  # fmt: skip


def _switch(shipment: Shipment, target: Path) -> None:
    """Move the index folders first, then the database: its renaming is the moment in which the target exists."""
    arriving = target / ARRIVING
    for folder in shipment.indexes:
        if (arriving / folder).is_dir():
            flush_folder(arriving / folder)
            (arriving / folder).rename(target / folder)
    flush_folder(target)
    (arriving / DATABASE).replace(target / DATABASE)
    flush_folder(target)
    shutil.rmtree(arriving)


def clear(folder: Path, place: Endpoint) -> None:
    """Remove what an unfinished shipment left in the target's folder: our folder, and index folders of no collection.

    `folder` is the workspace of the run. For an undo, once its collections are removed; does nothing where no files were shipped.
    """
    if not place.path:
        return
    target, shipment = resolve_path(place.path), None
    if (target / ARRIVING / MADE).is_file():
        shutil.rmtree(target / ARRIVING)
    with suppress(Terminal):  # without that list, folders of no collection stay: they do no harm
        shipment = Shipment.load(folder / FOLDER)
    if shipment is None or not target.is_dir() or not shipment.ways:  # before all have arrived none is moved up
        return
    used = _segments(target / DATABASE) if (target / DATABASE).exists() else set()
    for name in set(shipment.indexes) - used:
        shutil.rmtree(target / name, ignore_errors=True)


# -- the dry run -------------------------------------------------------------------------------------------------------


class Trial:
    """Step 13: copy files into a throw-away folder to measure it, and test them there where files are ordered.

    `impossible` tells why files are impossible, "" where they are not. Raises `UsageError` where they are, but are ordered.
    """

    def __init__(self, run: RunRecord, folder: Path) -> None:
        self.run, self.folder, self.target = run, folder, folder / "target-of-files"
        self.ordered = run.parameters.migration.method == FILES
        self.impossible, self.done = "", cast(Shipment | None, None)

    @property
    def by_rows(self) -> str:
        """The name of the phase that imports rows; "4 import" is what the run will do."""
        return "4 import by rows" if self.ordered else "4 import"

    def place(self) -> Path | None:
        """The place for the source's copy; None where parameters, or the target's content, make files impossible."""
        try:
            self.impossible = files_excluded(self.run.parameters)
            if not self.impossible and (held := set(target_names(self.run.parameters)) - {LOCK_COLLECTION}):
                self.impossible = already_holds(held)
        except RunbookError as error:
            if self.ordered:
                raise
            self.impossible = error.what
        if self.impossible and self.ordered:
            raise files_refused(self.impossible)
        return None if self.impossible else place(self.folder)

    def judge(self, store: Reader, snapshot: Snapshot) -> None:
        """Judge the open copy: in full where files are ordered, else by what its opening showed."""
        if self.ordered:
            with self.run.phase(PROOF, snapshot.total):
                require_whole(store, snapshot, self.run.parameters.source, self.run.id)
        elif not self.impossible:
            self.impossible = not_whole(store)

    def ship(self, snapshot: Snapshot) -> None:
        """Copy the files and measure it; the copy is removed again."""
        source = resolve_path(str(self.run.parameters.source.path))
        try:
            if not self.impossible:
                with self.run.phase(LISTING, snapshot.total):
                    self.done = keep(self.folder, source, snapshot, prove=self.ordered)
                with self.run.phase("4 import" if self.ordered else "4 import by files", snapshot.total):
                    ship(self.done, self.target)
        except (RunbookError, OSError, sqlite3.Error) as error:
            if self.ordered:
                raise
            self.done = None
            self.impossible = error.what if isinstance(error, RunbookError) else one_line(str(error), 100)
        finally:
            shutil.rmtree(self.folder / FOLDER, ignore_errors=True)
            if not self.ordered:
                shutil.rmtree(self.target, ignore_errors=True)

    def require_unchanged(self, staged: Staged) -> None:
        if self.ordered:
            require_unchanged(staged)
        elif not self.impossible:
            self.impossible = rule_changes(staged)

    def estimates(self, took: Mapping[str, float], chunks: int, rate: float | None) -> list[tuple[str, float, str]]:
        """Rows of the estimate (part, seconds, basis) for what the run will do. Records both methods, and the faster one.

        `took` are seconds by phase, `rate` is the write probe of the target in chunks per second.
        """
        seconds = took.get(self.by_rows, 0.0)
        basis = "measured into a throw-away embedded Chroma on this machine"
        if rate:
            seconds = max(seconds, chunks / rate)
            basis = f"the slower of the throw-away Chroma and the target's write probe ({rate:,.0f} chunks/s)"
        before = took.get(PROOF, 0.0) + took.get(LISTING, 0.0)
        methods = {"rows": (seconds, basis), FILES: self._by_files(before)}
        possible = {name: took for name, (took, _) in methods.items() if took is not None}
        fastest = min(possible, key=lambda name: possible[name]) if len(possible) > 1 else None
        self.run.fact("methods", [
            {"method": name, "ordered": name == self.run.parameters.migration.method, "seconds": took, "basis": source,
             "faster": fastest and name == fastest} for name, (took, source) in methods.items()
        ])  # fmt: skip
        if not self.ordered:
            return [("22 import", seconds, basis)]
        whole, basis = methods[FILES]
        return [
            ("21 proof of the copy", before, "measured here, same source"),
            ("22 import", (whole or 0.0) - before, basis),
        ]

    def _by_files(self, before: float) -> tuple[float | None, str]:
        """Seconds, with those of the proof of the copy if it was made, and the basis; (None, reason) where impossible."""
        done = self.done
        if done is None or self.impossible:
            return None, f"impossible: {self.impossible}"
        pace = f" at {size(int(done.bytes / done.seconds))}/s" if done.seconds > 0.01 else ""
        on_target = _device(resolve_path(str(self.run.parameters.target.path))) == _device(self.folder)
        disk = "on the target's disk" if on_target else "on the workspace's disk, which is not the target's"
        proof = f"with {duration(before)} to prove the copy" if self.ordered else "without the proof of the copy"
        return before + done.seconds, f"{done.summary()}{pace}, measured {disk}, {proof}"


def _device(path: Path) -> int:
    """The disk on which this path is, or will be."""
    return next(p for p in (path.absolute(), *path.absolute().parents) if p.exists()).stat().st_dev

"""Snapshots in a storage of objects: whole files, copied to and from the folder in which they are made and read.

Layout below `snapshot.directory`, where that is a URL::

    chroma-snapshots.json     the purpose and format of this storage
    parts/<sha256>.parquet    a file of chunks, named by its digest: snapshots share equal files
    begun/<id>.json           the manifest of a snapshot whose files are being put there; it does not count
    snapshots/<id>.json       the manifest, put there after all files that it names: a snapshot without it does not count
    staged/<run id>-<proof>/<sha256>.parquet   files staged by a run (`migration.staging`); its `staged/index.json` names them

The proof needs the key of the run's workspace: runs of two workspaces may have the same id, and each removes only its own files.

A snapshot is made in a folder of this workspace, then put into the storage, then given its name here. It is read here, too: a
missing file is brought first, and its digest is compared. Credentials are references (`parameters.snapshots`), kept in
`storage.json` of the folder, so that commands without a parameters file find the storage.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ValidationError

from helpers import audit
from helpers.errors import RUNBOOK, RunbookError, Terminal, redacted
from helpers.formatting import count
from helpers.parameters.endpoint import moved_with_workspace, resolve_path
from helpers.parameters.snapshots import STORED, SnapshotSection, is_url, rules_of
from helpers.reason_codes import ReasonCode
from helpers.results import (
    MOST_READ,
    Progress,
    StateFile,
    contents,
    file_digest,
    json_in,
    reading,
    silent,
    whole,
    write_bytes,
    write_json,
    writing,
)
from helpers.run import folders as runs
from helpers.run.folders import RunFolder, RunPath
from helpers.snapshots.objects import (
    MANIFEST,
    PART,
    Inventory,
    Longer,
    Objects,
    digest,
    digests_of,
    files_of,
    get,
    matching,
    part_name,
    read_small,
    same,
    send,
    send_missing,
)

FORMAT = 1
MARK = "chroma-snapshots.json"
LONGEST_MARK = 4096  # bytes
AT_ONCE = 4  # files that are sent or brought at the same time
KNOWN = "storage.json"  # in the folder of a storage in a workspace
REMEDY = "Remove this file: it is brought from the storage again."  # for a damaged file that was brought


@dataclass(slots=True)
class _Known(StateFile):
    """The content of `storage.json` in the folder of a storage: its address, and the references to its credentials."""

    file: ClassVar[str] = KNOWN
    damaged: ClassVar[ReasonCode] = ReasonCode.RUN_DAMAGED
    remedy: ClassVar[str] = "Remove it, and name the storage again: --directory URL, or a parameters file."

    folder: Path
    directory: str
    storage: dict[str, Any] = field(default_factory=dict)
    proof: str = ""
    sha256: str = ""


class Remote(Objects):
    """Snapshots in a storage; raises as `Objects`."""

    def require(self, *, write: bool = True) -> None:
        """Require that the storage can be reached, is empty or holds snapshots, and with `write` accepts a file."""
        mark = self._call("read", MARK, partial(_mark, self.rules.driver))
        try:
            if mark is not None and json_in(mark)["format"] != FORMAT:
                raise ValueError
        except (ValueError, LookupError, TypeError):
            raise self._unusable(f"{MARK} there is of another version of the toolkit, or of something else") from None
        if write:
            content = {"what": "snapshots of Chroma databases", "format": FORMAT}
            self._write(MARK, json.dumps(content).encode())
        elif mark is None:  # an empty bucket is accepted
            driver = self.rules.driver
            self._call("list", "", lambda fs, path: fs.ls(path.split("/")[0] if driver else path, detail=False))

    def inventory(self) -> Inventory:
        """Return what the storage holds now."""
        parts = dict(matching(PART, self._list("parts")))
        whole, begun = (frozenset(dict(matching(MANIFEST, self._list(where)))) for where in ("snapshots", "begun"))
        return Inventory(parts, whole, begun - whole)

    def mirror(self) -> Inventory:
        """Copy the manifests of all snapshots there to the folder, so that commands find them; return the inventory."""
        self.require(write=False)
        inventory = self.inventory()
        for name in sorted(inventory.snapshots):
            if not (self.folder / name).exists() and not (self.folder / f"{name}.partial").exists():
                data = self._read(f"snapshots/{name}.json")
                if redacted(text := data.decode("utf-8", "replace")) != text:
                    problem = f"snapshots/{name}.json there repeats a credential"
                    raise self._unusable(problem, "Find out who writes there.")
                with whole(self.folder / name) as folder:
                    write_bytes(folder / "manifest.json", data)
        return inventory

    def warnings(self, inventory: Inventory) -> list[str]:
        """Return sentences on begun snapshots that are not whole, unfinished uploads, and folders of unknown runs."""
        lines = []
        for name in sorted(inventory.begun):
            manifest = self._manifest(f"begun/{name}.json") or {"retain_until": "not known"}
            present = len(digests := digests_of(manifest)) - len(inventory.lacks(manifest))
            share = f"{present:,} of {count(len(digests), 'file')} are there"
            lines.append(f"{name}: begun in the storage, not whole, counts for nothing; "
                         f"{share}, kept until {manifest['retain_until'][:16]}")  # fmt: skip
        uploads, unknown = self._unfinished_uploads()
        if uploads:
            number = count(len(uploads), "file")
            lines.append(f"{number} whose upload never ended: snapshots prune --yes removes what is left")
        return [*lines, *unknown, *self._warnings_on_staged()]

    # -- what is put there and brought from there ----------------------------------------------------------------------

    def put(self, folder: Path, progress: Progress = silent) -> None:
        """Put the whole snapshot in `folder` into the storage: the files that are missing there, and last its manifest.

        Files that were put there before a kill are not put again. Raises `Terminal` ("snapshot_exists") where another snapshot
        has its id there.
        """
        data = contents(folder / "manifest.json", MOST_READ)
        manifest = json_in(data)
        name, files = manifest["id"], {sha256: file for file, sha256, _ in files_of(manifest)}
        inventory = self.inventory()
        if name in inventory.snapshots and (existing := self._manifest(f"snapshots/{name}.json")) != manifest:
            raise Terminal(
                ReasonCode.SNAPSHOT_EXISTS,
                "another snapshot of this id is in the storage" if existing else "what has this id there cannot be read",
                where=f"{self.url}/snapshots/{name}.json", next_step="Take it under another id.",
            )  # fmt: skip
        if name not in inventory.snapshots:
            self._write(f"begun/{name}.json", data)

        def put(sha256: str) -> None:
            file = folder / files[sha256]
            self._call("put", part_name(sha256), partial(send, file, self.rules.driver), moves=file.stat().st_size)

        for _ in range(3):  # repeated only where a `prune` on another machine removes files of the inventory
            with self.threads() as pool:
                for _ in pool.map(put, inventory.lacks(manifest)):
                    progress.advance(0)  # raises where the run was asked to stop
            if not (inventory := self.inventory()).lacks(manifest):
                self._write(f"snapshots/{name}.json", data)
                if not (inventory := self.inventory()).lacks(manifest):
                    self._remove(f"begun/{name}.json")
                    return
        raise self._unusable(f"{part_name(inventory.lacks(manifest)[0])} was put there, and is not there in its size")

    @contextmanager
    def threads(self) -> Iterator[ThreadPoolExecutor]:
        """Give a pool for `AT_ONCE` requests. After an error they give up, and none is waited for."""
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="put") as pool:
            try:
                yield pool
            except BaseException:
                self._end.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def bring(self, path: Path, sha256: str, size: int) -> None:
        """Bring the file of chunks with this digest and size (bytes) to this path, whole or not at all.
        Raises `Terminal` ("snapshot_damaged") where the storage has another file, or none."""
        self._require_size(name := part_name(sha256), size)
        with writing(path, needed=size) as temporary:
            self._call("get", name, partial(get, temporary, size, self.rules.driver), True, size)
            self._compare(name, sha256, file_digest(temporary))

    def prove(self, path: Path, sha256: str, size: int) -> None:
        """Read this file of chunks in the storage, and compare it with its digest; bring it to `path` where that is missing.

        Raises `Terminal` ("snapshot_damaged").
        """
        if not path.is_file():
            self.bring(path, sha256, size)
            return
        try:
            read = partial(digest, size, self.rules.driver)
            self._compare(name := part_name(sha256), sha256, self._call("read", name, read, True, size))
        except Terminal as error:
            if error.code == ReasonCode.SNAPSHOT_DAMAGED and file_digest(path) == sha256:
                error.next_step = f"Put {path}, which is whole, there in its place."
            raise

    def require_manifest(self, snapshot_id: str, manifest: Mapping[str, Any]) -> None:
        """Require that the manifest there equals this one, but for its status. Raises `Terminal` ("snapshot_altered")."""
        stored = self._manifest(f"snapshots/{snapshot_id}.json")
        if not same(stored, manifest):
            what = "its manifest in the storage is another one" if stored else "its manifest is not in the storage"
            raise Terminal(ReasonCode.SNAPSHOT_ALTERED, what, where=f"{self.url}/snapshots/{snapshot_id}.json",
                           next_step="Find out who writes there. What is here is as it was.")  # fmt: skip

    def has(self, inventory: Inventory, snapshot_id: str, manifest: Mapping[str, Any]) -> bool:
        """Return whether the snapshot is there whole: its manifest as it was put there, its files in their sizes."""
        complete = snapshot_id in inventory.snapshots and not inventory.lacks(manifest)
        return complete and same(self._manifest(f"snapshots/{snapshot_id}.json"), manifest)

    def remove(self, snapshot_id: str, manifest: Mapping[str, Any]) -> None:
        """Remove the manifest of this snapshot, so that it does not count there; `sweep` removes the files only it named.

        Another snapshot of the same id there, as of another machine, stays.
        """
        for folder in ("snapshots", "begun"):
            if same(self._manifest(f"{folder}/{snapshot_id}.json"), manifest):
                self._remove(f"{folder}/{snapshot_id}.json")

    def sweep(self, *, remove: bool) -> Iterator[str]:
        """Yield a sentence for each kind of unused object there; with `remove` remove them.

        Unused are begun snapshots past their retention, files that no manifest names, and unfinished uploads; none of these is
        removed where a manifest cannot be read. Then the staged files of each run of this workspace that none of its `index.json`
        names, except those of a run at work, and all where no key proves whose they are.
        """
        yield from self._sweep_snapshots(remove)
        yield from self._sweep_staged(remove)

    def _sweep_snapshots(self, remove: bool) -> Iterator[str]:
        inventory = self.inventory()
        named, expired = set[str](), list[str]()
        for kind, name in [*(("snapshots", n) for n in inventory.snapshots), *(("begun", n) for n in inventory.begun)]:
            if (manifest := self._manifest(f"{kind}/{name}.json")) is None:
                yield f"{self.url}/{kind}/{name}.json cannot be read, so no file is removed there: look at it"
                return
            if kind == "begun" and datetime.fromisoformat(manifest["retain_until"]) < datetime.now(UTC):
                expired.append(name)
            else:
                named |= digests_of(manifest)
        unnamed, (uploads, unknown) = sorted(inventory.parts.keys() - named), self._unfinished_uploads()
        yield from unknown
        counts = {"unfinished snapshot past its retention": len(expired), "file that no snapshot names": len(unnamed),
                "file whose upload never ended": len(uploads)}  # fmt: skip
        for text, n in counts.items():
            if n:
                yield f"{self.url}: {'removed' if remove else 'would go'}: {n:,} × {text}"
        if remove:
            yield from self._remove_unused(expired, unnamed, uploads, inventory)

    def _remove_unused(
        self, expired: list[str], unnamed: list[str], uploads: list[tuple[str, str]], inventory: Inventory
    ) -> Iterator[str]:
        for name in expired:
            self._remove(f"begun/{name}.json")
        for sha256 in unnamed:
            self._remove(part_name(sha256))
        for key, upload in uploads:
            if upload:
                self._abort(key, upload)
            else:
                self._remove(key)
        # A snapshot that another machine put there meanwhile may need one of these files.
        for name in sorted(self.inventory().snapshots - inventory.snapshots) if unnamed else ():
            if digests_of(self._manifest(f"snapshots/{name}.json") or {}) & set(unnamed):
                yield f"snapshot {name}, put there meanwhile, lacks a file: take it again; prune while nothing is put there"

    def staged(self) -> dict[str, dict[str, int]]:
        """Return the bytes of each staged file in the storage by its digest, by the folder of its run (`folder_of`)."""
        names = (name for name in self._list("staged", "directory") if redacted(name) == name)
        return {name: dict(matching(PART, self._list(f"staged/{name}"))) for name in sorted(names)}

    def _warnings_on_staged(self) -> Iterator[str]:
        own_runs = _own_runs()
        for name, files in self.staged().items():
            if files and name not in own_runs:
                phrase = f"{count(len(files), 'staged file')} of a run that this workspace does not have"
                yield f"staged/{name}: {phrase}; prune where it is, or remove them yourself once nobody needs that run"

    def _sweep_staged(self, remove: bool) -> Iterator[str]:
        own_runs = _own_runs() if audit.secret() else {}
        for name, files in self.staged().items():
            if (run := own_runs.get(name)) is None or not files:
                continue
            try:
                with ExitStack() as locks:
                    for lock in ("runner", "step") if run.workspace.is_dir() else ():
                        locks.enter_context(runs.RunLock(run, lock).acquire(0))
                    unnamed = sorted(files.keys() - staged_in_use(run.workspace).keys())
                    for sha256 in unnamed if remove else ():
                        self._remove(f"staged/{name}/{sha256}.parquet")
            except RunbookError as error:
                if error.code not in (ReasonCode.RUN_LOCKED, ReasonCode.RUN_DAMAGED):
                    raise
                yield f"staged files of run {run.id} stay: {error.line()}"
                continue
            if unnamed:
                phrase = f"{count(len(unnamed), 'staged file')} of run {run.id} that nothing names"
                yield f"{self.url}: {'removed' if remove else 'would go'}: {phrase}"

    def _manifest(self, name: str) -> dict[str, Any] | None:
        """Return a manifest of the storage; None where there is none, or none that can be read."""
        from helpers.snapshots.export_journal import manifest_in

        try:
            return manifest_in(self._read(name))
        except ValueError:
            return None
        except RunbookError as error:
            if error.code != ReasonCode.SNAPSHOT_UNREADABLE:
                raise
            return None

    def _require_size(self, name: str, size: int) -> None:
        """Require the size of an object before it is read: others may have put an object of any length there."""
        actual = self._call("read", name, lambda fs, path: int(fs.info(path)["size"]), True)
        if actual != size:
            raise self._damaged(name, f"it has {actual:,} bytes, and {size:,} were put there")

    def _compare(self, name: str, sha256: str, actual: str) -> None:
        if actual != sha256:
            raise self._damaged(name, f"its bytes are not those that were put there: {actual}")


# -- the storage of a folder -------------------------------------------------------------------------------------------


def named(directory: str, options: Sequence[str] = ()) -> SnapshotSection:
    """Return the rules for the directory of a command. `options`: KEY=VALUE of its storage; without them the known ones.

    Raises `UsageError` for values that a parameters file may not have.
    """
    storages = [storage for storage in map(at, every()) if storage and storage.url == directory.rstrip("/")]
    if not options and len(storages) == 1:
        return storages[0].rules
    return rules_of(directory, dict(option.partition("=")[::2] for option in options))


def prepared(rules: SnapshotSection, workspace: Path | None = None) -> Path:
    """Return the folder in which these snapshots are made and read; for a storage, create it with the storage's address in it.
    `workspace`: the workspace with the folder of the storage, if not the one of the current folder."""
    from helpers.snapshots.export_journal import signed

    folder = workspace / STORED / rules.folder.name if workspace is not None else rules.folder
    if is_url(rules.directory):
        if shutil.which("ssh-keygen"):  # else nothing can be proven here
            audit.runner_key(None, audit.workspace_root())
        state = _state(rules)
        if not ((path := folder / _Known.file).is_file() and _known_rules(folder) == state):
            write_json(path, signed(state, proven=True))
    return folder


def of(rules: SnapshotSection) -> Remote | None:
    """Return the storage in which these snapshots are kept; None where that is a folder."""
    return Remote(rules) if is_url(rules.directory) else None


def at(directory: Path) -> Remote | None:
    """Return the storage whose snapshots are made and read in this folder; None for an ordinary folder.

    The address must be proven by this workspace's key: otherwise anybody who can write there could redirect snapshots.
    """
    if directory.parent.name != STORED or not (directory / _Known.file).is_file():
        return None
    if (known := _known_rules(directory)) is None:
        return None
    try:
        rules = SnapshotSection(directory=known["directory"], storage=known["storage"] or None)
    except ValidationError:
        return None
    return Remote(rules, directory) if rules.folder.name == directory.name else None


def every() -> list[Path]:
    """Return the folders of all storages that this workspace knows."""
    return sorted(path.parent for path in resolve_path(moved_with_workspace(STORED)).glob(f"*/{_Known.file}"))


def _state(rules: SnapshotSection) -> dict[str, Any]:
    storage = rules.storage.model_dump(mode="json", exclude_none=True) if rules.storage else {}
    secrets = {name: value for name, value in storage.items() if str(value).startswith("file:")}
    storage |= {name: f"file:{resolve_path(value.removeprefix('file:'))}" for name, value in secrets.items()}
    return {"directory": rules.directory, "storage": storage}


def _known_rules(folder: Path) -> dict[str, Any] | None:
    """Return directory and storage from `storage.json`; None where nothing proves that this workspace wrote it."""
    from helpers.snapshots.export_journal import signed  # with pyarrow, which `status` does not wait for

    with suppress(Terminal):
        known = _Known.load(folder)
        if known is not None:
            content = {"directory": known.directory, "storage": known.storage}
            if {**content, "proof": known.proof, "sha256": known.sha256} == signed(content, proven=True):
                return content
    return None


def at_hand(path: Path, sha256: str, size: int) -> Path:
    """Return the path of this file of a snapshot; bring it here first where only the storage has it."""
    if not path.exists() and (storage := at(path.parent.parent.parent)) is not None:
        storage.bring(path, sha256, size)
    return path


def prover(folder: Path, manifest: Mapping[str, Any]) -> Callable[[str, str, int], None]:
    """Return a function that proves a file of the snapshot (name, SHA-256, bytes) in the storage, if there is one."""
    if (storage := at(folder.parent)) is None:
        return lambda file, sha256, size: None
    storage.require_manifest(folder.name, manifest)
    return lambda file, sha256, size: storage.prove(folder / file, sha256, size)


def manifest_at_hand(rules: SnapshotSection, folder: Path) -> None:
    """Copy the manifest of the snapshot of this folder from the storage of `rules`, if it is there and not here."""
    if not folder.exists() and is_url(rules.directory) and folder.parent == rules.folder:
        prepared(rules)
        Remote(rules).mirror()


def put_whole(partial_folder: Path, progress: Progress = silent) -> None:
    """Put a snapshot that lacks only its final name into the storage, if there is one. Raises `Terminal` ("run_damaged")."""
    if (storage := at(partial_folder.parent)) is not None:
        storage.put(partial_folder, progress)
    elif partial_folder.parent.parent.name == STORED:
        raise Terminal(_Known.damaged, "it does not say where the storage is, or not by this workspace's key",
                       where=str(partial_folder.parent / _Known.file), next_step=_Known.remedy)  # fmt: skip


def _mark(driver: str, fs: Any, path: str) -> bytes | None:
    """Return the storage's `chroma-snapshots.json`; None where there is none, b"" where it is too long to be ours."""
    try:
        return read_small(LONGEST_MARK, driver, fs, path)
    except FileNotFoundError:
        return None
    except Longer:
        return b""


# -- staged files ------------------------------------------------------------------------------------------------------
#
# The files that runs stage in the storage (`migration.staging: storage`). A file counts where an `index.json` of its run names
# it; other files are leftovers of a kill or of a former staging. Only a file with the digest and the bytes of the index is read.

_DAMAGED = (ReasonCode.SNAPSHOT_DAMAGED, ReasonCode.SNAPSHOT_UNREADABLE)


class StagedFiles(Remote):
    """The files that one run staged. Methods raise as those of `Objects`."""

    def __init__(self, rules: SnapshotSection, folder: Path, run_id: str) -> None:
        super().__init__(rules, folder)
        self.run_id, self.where = run_id, f"staged/{folder_of(run_id)}"

    @property
    def storage(self) -> str:
        """The name of the storage's folder in the workspace; the index of a staging records it."""
        return self.folder.name

    def send(self, file: Path, sha256: str) -> tuple[str, int]:
        """Put this file there, unless it is there with its size, and remove it here; return its digest and bytes."""
        size, request = file.stat().st_size, partial(send_missing, file, self.rules.driver)
        self._call("put", f"{self.where}/{sha256}.parquet", request, moves=size)
        file.unlink()
        return sha256, size

    @contextmanager
    def sending(self) -> Iterator[Callable[[Path, str], None]]:
        """Give a function that takes a file and its digest, and sends it in a pool; at the end all of them are sent."""
        pending: deque[Future[tuple[str, int]]] = deque()
        with self.threads() as pool:

            def send(file: Path, sha256: str) -> None:
                if len(pending) >= AT_ONCE:
                    pending.popleft().result()
                pending.append(pool.submit(self.send, file, sha256))

            yield send
            for each in pending:
                each.result()

    def require_all(self, stored: Iterable[tuple[str, int]]) -> None:
        """Require that all of these (digest, bytes) are there in their sizes. Raises `UsageError` where one is not."""
        sizes = self._list(self.where)
        for sha256, size in stored:
            if sizes.get(f"{sha256}.parquet") != size:
                problem = f"{self.where}/{sha256}.parquet was put there, and is not there in its size"
                remedy = f"Repeat it: {RUNBOOK} resume {self.run_id}. What is there is not sent again."
                raise self._unusable(problem, remedy)

    @lru_cache(maxsize=4)  # noqa: B019  (few such objects live, and batches of one file follow each other)
    def read(self, sha256: str, size: int, step: str) -> bytes:
        """Return the bytes of a file that `step` staged. Raises `Terminal` ("staging_unreadable") for another object, or none."""
        name = f"{self.where}/{sha256}.parquet"
        try:
            self._require_size(name, size)
            data = self._call("get", name, partial(read_small, size, self.rules.driver), True, size)
            self._compare(name, sha256, hashlib.sha256(data).hexdigest())
        except Terminal as error:
            if error.code not in _DAMAGED:
                raise
            command = f"{RUNBOOK} resume {self.run_id} --retry {step}"
            remedy = f"Bring back this object from a version or a copy. Or remove it there, and stage again: {command}"
            raise Terminal(ReasonCode.STAGING_UNREADABLE, error.what, where=error.where, next_step=remedy) from None
        return data


def folder_of(run_id: str) -> str:
    """Return the name of the folder in a storage for the files that this run of this workspace staged."""
    return f"{run_id}-{hmac.new(audit.secret(), f'staged by {run_id}'.encode(), 'sha256').hexdigest()[:16]}"


def staged_at(folder: Path, storage: str) -> StagedFiles:
    """Return the staged files of this folder of a run; `storage` is the name of the storage's folder in the run's workspace.

    Raises `Terminal` ("staging_unreadable") where nothing that this workspace wrote names the storage.
    """
    folder = folder.absolute()
    for root in folder.parents:
        if (known := root / STORED / storage / KNOWN).is_file():
            return _storage_at(known, folder.relative_to(root).parts[0], known.stat().st_mtime_ns)
    return _storage_at(folder / STORED / storage / KNOWN, "", 0)


@lru_cache(maxsize=4)
def _storage_at(known: Path, run_id: str, _version: int) -> StagedFiles:
    if (storage := at(known.parent)) is None:
        raise Terminal(
            ReasonCode.STAGING_UNREADABLE, "its files are in a storage, and nothing that this workspace wrote says where that is",
            where=str(known), next_step=f"Name the storage again: {RUNBOOK} snapshots list --directory URL --storage KEY=VALUE",
        )  # fmt: skip
    return StagedFiles(storage.rules, storage.folder, run_id)


def for_staging(rules: SnapshotSection, folder: Path) -> StagedFiles:
    """Return the staged files of this folder of a run in the storage of these snapshots; the workspace records the storage."""
    storage = staged_at(folder, prepared(rules, runs.workspace_root()).name)
    return StagedFiles(
        storage.rules, storage.folder, storage.run_id
    )  # a new one: after an error one sends nothing more


def staged_in_use(folder: Path) -> dict[str, int]:
    """Return bytes by digest of the files that each `index.json` below this folder of a run names, without `earlier/`.

    Raises `Terminal` ("run_damaged") where one cannot be read.
    """
    used: dict[str, int] = {}
    for index in sorted(folder.rglob("index.json")):
        if RunPath.EARLIER not in index.relative_to(folder).parts:
            with reading(index):
                stored = dict(json_in(contents(index, 2**31)).get("stored") or {})
                used |= {str(sha256): int(size) for sha256, size in stored.values()}
    return used


def _own_runs() -> dict[str, RunFolder]:
    """Return the runs of this workspace by the names of their folders in a storage."""
    ids = {path.name for path in runs.workspace_root().glob("[!.]*") if path.is_dir()}
    ids |= {run.id for run in runs.every_run()}
    return {folder_of(name): RunFolder(name, runs.reports_root() / name, runs.workspace_root() / name) for name in ids}


def staged_at_closeout(folder: Path, rules: SnapshotSection, run_id: str) -> tuple[str, str, int]:
    """For closeout: return where the data of this folder of a run is, the command after its `rm -r`, the bytes in a storage."""
    with suppress(RunbookError):
        used = staged_in_use(folder) if (folder / "index.json").is_file() else {}
        if used and (storage := of(rules)) is not None:
            where = f"{folder}, and {storage.url}/staged/{folder_of(run_id)}"
            return where, f"; {RUNBOOK} snapshots prune --yes", sum(used.values())
    return str(folder), "", 0

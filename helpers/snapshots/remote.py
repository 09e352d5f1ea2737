"""Snapshots in a storage of objects: whole files, moved to and from the folder in which they are made and read.

Layout below `snapshot.directory`, where that is a URL::

    chroma-snapshots.json     says what this is
    parts/<sha256>.parquet    a file of chunks, by the digest of what it holds: snapshots share what is the same
    begun/<id>.json           the manifest of a snapshot whose files are being put there; it counts for nothing
    snapshots/<id>.json       the manifest, put there after all that it names: a snapshot without it does not count
    staged/<run id>-<proof>/<sha256>.parquet   what a run staged (`migration.staging`); `staged/index.json` of the run names it

The proof needs the key of the run's workspace: runs of two workspaces may have one id, and each removes only its own files.

A snapshot is made in a folder of this workspace as any other, then put there, then given its name here. What is read is here
too: a file that is not is brought first, and its digest is compared. Credentials are references (`parameters.snapshots`); the
folder has them in `storage.json`, so that commands without a parameters file find the storage.
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
    Longer,
    Look,
    Objects,
    digest,
    digests_of,
    files_of,
    fitting,
    get,
    part_name,
    same,
    send,
    send_missing,
    small,
)

FORMAT = 1
MARK = "chroma-snapshots.json"
LONGEST_MARK = 4096  # bytes
AT_ONCE = 4  # files that are on their way at the same time
KNOWN = "storage.json"  # in the folder of a storage in a workspace
REMEDY = "Remove this file: it is brought from the storage again."  # where one that was brought is damaged


@dataclass(slots=True)
class _Known(StateFile):
    """What `storage.json` in the folder of a storage keeps: where it is, and which references lead there."""

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
        """The storage can be reached, is one of snapshots or empty, and with `write` takes a file."""
        found = self._call("read", MARK, partial(_mark, self.rules.driver))
        try:
            if found is not None and json_in(found)["format"] != FORMAT:
                raise ValueError
        except (ValueError, LookupError, TypeError):
            raise self._unusable(f"{MARK} there is of another version of the toolkit, or of something else") from None
        if write:
            about = {"what": "snapshots of Chroma databases", "format": FORMAT}
            self._write(MARK, json.dumps(about).encode())
        elif found is None:  # an empty bucket is one
            self._call(
                "list", "", lambda fs, path: fs.ls(path.split("/")[0] if self.rules.driver else path, detail=False)
            )

    def look(self) -> Look:
        """What is there now."""
        parts = dict(fitting(PART, self._list("parts")))
        done, begun = (frozenset(dict(fitting(MANIFEST, self._list(where)))) for where in ("snapshots", "begun"))
        return Look(parts, done, begun - done)

    def mirror(self) -> Look:
        """The manifests of all snapshots there are here, too: commands find them as if they were. What is there now."""
        self.require(write=False)
        look = self.look()
        for name in sorted(look.snapshots):
            if not (self.folder / name).exists() and not (self.folder / f"{name}.partial").exists():
                data = self._read(f"snapshots/{name}.json")
                if redacted(text := data.decode("utf-8", "replace")) != text:
                    raise self._unusable(
                        f"snapshots/{name}.json there repeats a credential", "Find out who writes there."
                    )
                with whole(self.folder / name) as made:
                    write_bytes(made / "manifest.json", data)
        return look

    def told(self, look: Look) -> list[str]:
        """A sentence for each snapshot that was begun there and is not whole, for pieces of files that never ended, and for each
        folder of a run that this workspace does not have."""
        said = []
        for name in sorted(look.begun):
            manifest = self._manifest(f"begun/{name}.json") or {"retain_until": "not known"}
            there = len(files := digests_of(manifest)) - len(look.lacks(manifest))
            about = f"{there:,} of {count(len(files), 'file')} are there, kept until {manifest['retain_until'][:16]}"
            said.append(f"{name}: begun in the storage, not whole, counts for nothing; {about}")
        pieces, doubt = self._pieces()
        if pieces:
            said.append(
                f"{count(len(pieces), 'file')} whose upload never ended: snapshots prune --yes removes what is left"
            )
        return [*said, *doubt, *self._told_of_staged()]

    # -- what is put there and brought from there ----------------------------------------------------------------------

    def put(self, folder: Path, progress: Progress = silent) -> None:
        """Put the snapshot in `folder`, which is whole, there: the files that are not there yet, and last its manifest.

        What was put there before a kill is not put there again. Raises `Terminal` ("snapshot_exists") where another snapshot
        has its id there.
        """
        data = contents(folder / "manifest.json", MOST_READ)
        manifest = json_in(data)
        name, files = manifest["id"], {sha256: file for file, sha256, _ in files_of(manifest)}
        look = self.look()
        if name in look.snapshots and (other := self._manifest(f"snapshots/{name}.json")) != manifest:
            what = "another snapshot of this id is in the storage" if other else "what has this id there cannot be read"
            raise Terminal(ReasonCode.SNAPSHOT_EXISTS, what, where=f"{self.url}/snapshots/{name}.json",
                           next_step="Take it under another id.")  # fmt: skip
        if name not in look.snapshots:
            self._write(f"begun/{name}.json", data)

        def put(sha256: str) -> None:
            file = folder / files[sha256]
            self._call("put", part_name(sha256), partial(send, file, self.rules.driver), moves=file.stat().st_size)

        for _ in range(3):  # more than once only where a `prune` on another machine removed what this one found there
            with self.threads() as pool:
                for _ in pool.map(put, look.lacks(manifest)):
                    progress.advance(0)  # where a run stops that was asked to
            if not (look := self.look()).lacks(manifest):
                self._write(f"snapshots/{name}.json", data)
                if not (look := self.look()).lacks(manifest):
                    self._remove(f"begun/{name}.json")
                    return
        raise self._unusable(f"{part_name(look.lacks(manifest)[0])} was put there, and is not there in its size")

    @contextmanager
    def threads(self) -> Iterator[ThreadPoolExecutor]:
        """For `AT_ONCE` requests. Once an error comes they give up, and nothing is waited for."""
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="put") as pool:
            try:
                yield pool
            except BaseException:
                self._end.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def bring(self, path: Path, sha256: str, size: int) -> None:
        """The file of chunks of this digest and so many bytes, to this path, whole or not at all.

        Raises `Terminal` ("snapshot_damaged") where the storage has another one, or none.
        """
        self._require_size(name := part_name(sha256), size)
        with writing(path, needed=size) as temporary:
            self._call("get", name, partial(get, temporary, size, self.rules.driver), True, size)
            self._compare(name, sha256, file_digest(temporary))

    def prove(self, path: Path, sha256: str, size: int) -> None:
        """Read this file of chunks there, and compare it with its digest; it is brought to `path` where it is not there."""
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

    def require_manifest(self, snapshot_id: str, held: Mapping[str, Any]) -> None:
        """The manifest there says what `held` does, but for its status. Raises `Terminal` ("snapshot_altered")."""
        there = self._manifest(f"snapshots/{snapshot_id}.json")
        if not same(there, held):
            what = "its manifest in the storage is another one" if there else "its manifest is not in the storage"
            raise Terminal(ReasonCode.SNAPSHOT_ALTERED, what, where=f"{self.url}/snapshots/{snapshot_id}.json",
                           next_step="Find out who writes there. What is here is as it was.")  # fmt: skip

    def has(self, look: Look, snapshot_id: str, held: Mapping[str, Any]) -> bool:
        """Whether the snapshot of this manifest is there whole: its manifest as it was put there, its files in their sizes."""
        whole = snapshot_id in look.snapshots and not look.lacks(held)
        return whole and same(self._manifest(f"snapshots/{snapshot_id}.json"), held)

    def remove(self, snapshot_id: str, held: Mapping[str, Any]) -> None:
        """From now on the snapshot of this manifest does not count there; `sweep` removes what it alone named.

        Another one that has its id there, as that of another machine, stays.
        """
        for where in ("snapshots", "begun"):
            if same(self._manifest(f"{where}/{snapshot_id}.json"), held):
                self._remove(f"{where}/{snapshot_id}.json")

    def sweep(self, *, remove: bool) -> Iterator[str]:
        """A sentence for each kind of thing there that counts for nothing; with `remove` it is removed.

        Files that no manifest names, of snapshots and of those that were begun and may still be gone on with; the latter once
        their time is over; pieces of files that never ended. Nothing where a manifest cannot be read: what it names is not known.

        Files of each run of this workspace that no `index.json` of it names. Those of a run at work stay, and all where no key
        proves whose they are.
        """
        yield from self._sweep_snapshots(remove)
        yield from self._sweep_staged(remove)

    def _sweep_snapshots(self, remove: bool) -> Iterator[str]:
        look = self.look()
        named, over = set[str](), list[str]()
        for where, name in [*(("snapshots", n) for n in look.snapshots), *(("begun", n) for n in look.begun)]:
            if (manifest := self._manifest(f"{where}/{name}.json")) is None:
                yield f"{self.url}/{where}/{name}.json cannot be read, so no file is removed there: look at it"
                return
            if where == "begun" and datetime.fromisoformat(manifest["retain_until"]) < datetime.now(UTC):
                over.append(name)
            else:
                named |= digests_of(manifest)
        loose, (pieces, doubt) = sorted(look.parts.keys() - named), self._pieces()
        yield from doubt
        said = {"unfinished snapshot past its retention": len(over), "file that no snapshot names": len(loose),
                "file whose upload never ended": len(pieces)}  # fmt: skip
        for text, found in said.items():
            if found:
                yield f"{self.url}: {'removed' if remove else 'would go'}: {found:,} × {text}"
        if remove:
            yield from self._swept(over, loose, pieces, look)

    def _swept(self, over: list[str], loose: list[str], pieces: list[tuple[str, str]], look: Look) -> Iterator[str]:
        for name in over:
            self._remove(f"begun/{name}.json")
        for sha256 in loose:
            self._remove(part_name(sha256))
        for key, upload in pieces:
            if upload:
                self._abort(key, upload)
            else:
                self._remove(key)
        # What another machine put there meanwhile may have relied on one of them.
        for name in sorted(self.look().snapshots - look.snapshots) if loose else ():
            if digests_of(self._manifest(f"snapshots/{name}.json") or {}) & set(loose):
                yield f"snapshot {name}, put there meanwhile, lacks a file: take it again; prune while nothing is put there"

    def staged(self) -> dict[str, dict[str, int]]:
        """Bytes of each staged file there by its digest, by the folder of its run (`folder_of`)."""
        names = (name for name in self._list("staged", "directory") if redacted(name) == name)
        return {name: dict(fitting(PART, self._list(f"staged/{name}"))) for name in sorted(names)}

    def _told_of_staged(self) -> Iterator[str]:
        own = _own_runs()
        for name, files in self.staged().items():
            if files and name not in own:
                about = f"{count(len(files), 'staged file')} of a run that this workspace does not have"
                yield f"staged/{name}: {about}; prune where it is, or remove them yourself once nobody needs that run"

    def _sweep_staged(self, remove: bool) -> Iterator[str]:
        own = _own_runs() if audit.secret() else {}
        for name, files in self.staged().items():
            if (run := own.get(name)) is None or not files:
                continue
            try:
                with ExitStack() as held:
                    for lock in ("runner", "step") if run.workspace.is_dir() else ():
                        held.enter_context(runs.RunLock(run, lock).acquire(0))
                    loose = sorted(files.keys() - staged_in_use(run.workspace).keys())
                    for sha256 in loose if remove else ():
                        self._remove(f"staged/{name}/{sha256}.parquet")
            except RunbookError as error:
                if error.code not in (ReasonCode.RUN_LOCKED, ReasonCode.RUN_DAMAGED):
                    raise
                yield f"staged files of run {run.id} stay: {error.line()}"
                continue
            if loose:
                about = f"{count(len(loose), 'staged file')} of run {run.id} that nothing names"
                yield f"{self.url}: {'removed' if remove else 'would go'}: {about}"

    def _manifest(self, name: str) -> dict[str, Any] | None:
        """A manifest that is there, None where there is none that can be read."""
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
        """Before it is read: whoever writes there may have put anything of any length."""
        found = self._call("read", name, lambda fs, path: int(fs.info(path)["size"]), True)
        if found != size:
            raise self._damaged(name, f"it has {found:,} bytes, and {size:,} were put there")

    def _compare(self, name: str, sha256: str, found: str) -> None:
        if found != sha256:
            raise self._damaged(name, f"its bytes are not those that were put there: {found}")


# -- the storage of a folder -------------------------------------------------------------------------------------------


def named(directory: str, options: Sequence[str] = ()) -> SnapshotSection:
    """The rules for a directory that a command was given; `options` are KEY=VALUE of its storage, without them as they are known.

    Raises `UsageError` for what parameters would not take.
    """
    storage = dict(option.partition("=")[::2] for option in options)
    known = [found.rules for found in map(at, every()) if found is not None and found.url == directory.rstrip("/")]
    return known[0] if not storage and len(known) == 1 else rules_of(directory, storage)


def prepared(rules: SnapshotSection, workspace: Path | None = None) -> Path:
    """The folder in which these snapshots are made and read; of a storage, it is made, and keeps where the storage is.

    With `workspace` the folder of the storage in that one, which may be another than the current folder has.
    """
    from helpers.snapshots.export_journal import signed

    folder = workspace / STORED / rules.folder.name if workspace is not None else rules.folder
    if is_url(rules.directory):
        if shutil.which("ssh-keygen"):  # else nothing can be proven here
            audit.runner_key(None, audit.workspace_root())
        state = _state(rules)
        if not ((path := folder / _Known.file).is_file() and _kept(folder) == state):
            write_json(path, signed(state, proven=True))
    return folder


def of(rules: SnapshotSection) -> Remote | None:
    """The storage in which these snapshots are kept; None where that is a folder."""
    return Remote(rules) if is_url(rules.directory) else None


def at(directory: Path) -> Remote | None:
    """The storage whose snapshots are made and read in this folder; None where it is an ordinary folder.

    Only a folder of this workspace can be one, by a file that needs the workspace's key: else who can write there could say where
    snapshots go.
    """
    if directory.parent.name != STORED or not (directory / _Known.file).is_file() or (kept := _kept(directory)) is None:
        return None
    try:
        rules = SnapshotSection(directory=kept["directory"], storage=kept["storage"] or None)
    except ValidationError:
        return None
    return Remote(rules, directory) if rules.folder.name == directory.name else None


def every() -> list[Path]:
    """The folders of all storages that this workspace knows."""
    return sorted(path.parent for path in resolve_path(moved_with_workspace(STORED)).glob(f"*/{_Known.file}"))


def _state(rules: SnapshotSection) -> dict[str, Any]:
    storage = rules.storage.model_dump(mode="json", exclude_none=True) if rules.storage else {}
    files = {name: value for name, value in storage.items() if str(value).startswith("file:")}
    storage |= {name: f"file:{resolve_path(value.removeprefix('file:'))}" for name, value in files.items()}
    return {"directory": rules.directory, "storage": storage}


def _kept(folder: Path) -> dict[str, Any] | None:
    """What the file there keeps, None where nothing proves that it was written here."""
    from helpers.snapshots.export_journal import signed  # with pyarrow, which `status` does not wait for

    with suppress(Terminal):
        found = _Known.load(folder)
        if found is not None:
            kept = {"directory": found.directory, "storage": found.storage}
            if {**kept, "proof": found.proof, "sha256": found.sha256} == signed(kept, proven=True):
                return kept
    return None


def at_hand(path: Path, sha256: str, size: int) -> Path:
    """This file of a snapshot, brought here first where it is in the storage only."""
    if not path.exists() and (remote := at(path.parent.parent.parent)) is not None:
        remote.bring(path, sha256, size)
    return path


def prover(folder: Path, manifest: Mapping[str, Any]) -> Callable[[str, str, int], None]:
    """For `verify`: what reads a file of the snapshot (name, digest, bytes) in the storage, where there is one."""
    if (remote := at(folder.parent)) is None:
        return lambda file, sha256, size: None
    remote.require_manifest(folder.name, manifest)
    return lambda file, sha256, size: remote.prove(folder / file, sha256, size)


def manifest_at_hand(rules: SnapshotSection, folder: Path) -> None:
    """The manifest of the snapshot that belongs into this folder is here, if the storage of `rules` has it."""
    if not folder.exists() and is_url(rules.directory) and folder.parent == rules.folder:
        prepared(rules)
        Remote(rules).mirror()


def put_whole(partial_folder: Path, progress: Progress = silent) -> None:
    """Put a snapshot that lacks only its name into the storage, where there is one."""
    if (remote := at(partial_folder.parent)) is not None:
        remote.put(partial_folder, progress)
    elif partial_folder.parent.parent.name == STORED:
        raise Terminal(_Known.damaged, "it does not say where the storage is, or not by this workspace's key",
                       where=str(partial_folder.parent / _Known.file), next_step=_Known.remedy)  # fmt: skip


def _mark(driver: str, fs: Any, path: str) -> bytes | None:
    """What the storage says that it is, None where it says nothing; b"" where that is too long to be ours."""
    try:
        return small(LONGEST_MARK, driver, fs, path)
    except FileNotFoundError:
        return None
    except Longer:
        return b""


# -- what runs stage there ---------------------------------------------------------------------------------------------
#
# `migration.staging: storage`. A file counts where an `index.json` of its run names it; whatever else is there was left by a
# kill, or by a staging that is gone. What the storage holds is data: only what has the digest and the bytes of the index is read.

_DAMAGED = (ReasonCode.SNAPSHOT_DAMAGED, ReasonCode.SNAPSHOT_UNREADABLE)


class StagedFiles(Remote):
    """The files that one run staged. Raises as `Objects`."""

    def __init__(self, rules: SnapshotSection, folder: Path, run_id: str) -> None:
        super().__init__(rules, folder)
        self.run_id, self.where = run_id, f"staged/{folder_of(run_id)}"

    @property
    def storage(self) -> str:
        """The name of the storage's folder in the workspace, which an index keeps."""
        return self.folder.name

    def send(self, file: Path, sha256: str) -> tuple[str, int]:
        """Put this file there, where it is not in its size, and remove it here; its digest and bytes."""
        size, put = file.stat().st_size, partial(send_missing, file, self.rules.driver)
        self._call("put", f"{self.where}/{sha256}.parquet", put, moves=size)
        file.unlink()
        return sha256, size

    @contextmanager
    def sending(self) -> Iterator[Callable[[Path, str], None]]:
        """Gives what takes a file and its digest to `send` it, few at a time; at the end all of them were sent."""
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
        """All of these (digest, bytes) are there in their sizes. Raises `UsageError` where one is not."""
        there = self._list(self.where)
        for sha256, size in stored:
            if there.get(f"{sha256}.parquet") != size:
                what = f"{self.where}/{sha256}.parquet was put there, and is not there in its size"
                raise self._unusable(
                    what, f"Repeat it: {RUNBOOK} resume {self.run_id}. What is there is not sent again."
                )

    @lru_cache(maxsize=4)  # noqa: B019  (few such objects live, and batches of one file follow each other)
    def read(self, sha256: str, size: int, step: str) -> bytes:
        """What was put there; `step` staged it. Raises `Terminal` ("staging_unreadable") for another object, or none."""
        name = f"{self.where}/{sha256}.parquet"
        try:
            self._require_size(name, size)
            data = self._call("get", name, partial(small, size, self.rules.driver), True, size)
            self._compare(name, sha256, hashlib.sha256(data).hexdigest())
        except Terminal as error:
            if error.code not in _DAMAGED:
                raise
            again = f"{RUNBOOK} resume {self.run_id} --retry {step}"
            told = f"Bring back this object from a version or a copy. Or remove it there, and stage again: {again}"
            raise Terminal(ReasonCode.STAGING_UNREADABLE, error.what, where=error.where, next_step=told) from None
        return data


def folder_of(run_id: str) -> str:
    """The name of the folder in a storage that has what this run of this workspace staged."""
    return f"{run_id}-{hmac.new(audit.secret(), f'staged by {run_id}'.encode(), 'sha256').hexdigest()[:16]}"


def staged_at(folder: Path, storage: str) -> StagedFiles:
    """Where what is staged in this folder of a run is, by the name of the storage's folder in the run's workspace.

    Raises `Terminal` ("staging_unreadable") where nothing that was written here says where the storage is.
    """
    folder = folder.absolute()
    for root in folder.parents:
        if (known := root / STORED / storage / KNOWN).is_file():
            return _staged_at(known, folder.relative_to(root).parts[0], known.stat().st_mtime_ns)
    return _staged_at(folder / STORED / storage / KNOWN, "", 0)


@lru_cache(maxsize=4)
def _staged_at(known: Path, run_id: str, _version: int) -> StagedFiles:
    if (found := at(known.parent)) is None:
        raise Terminal(
            ReasonCode.STAGING_UNREADABLE, "its files are in a storage, and nothing that this workspace wrote says where that is",
            where=str(known), next_step=f"Name the storage again: {RUNBOOK} snapshots list --directory URL --storage KEY=VALUE",
        )  # fmt: skip
    return StagedFiles(found.rules, found.folder, run_id)


def for_staging(rules: SnapshotSection, folder: Path) -> StagedFiles:
    """The storage of these snapshots for what is staged in this folder of a run; the workspace keeps where it is."""
    found = staged_at(folder, prepared(rules, runs.workspace_root()).name)
    return StagedFiles(found.rules, found.folder, found.run_id)  # one that gave up does so for good


def staged_in_use(folder: Path) -> dict[str, int]:
    """Bytes by digest of the files that each `index.json` below this folder of a run names; `earlier/` is history.

    Raises `Terminal` ("run_damaged") where one cannot be read.
    """
    found: dict[str, int] = {}
    for index in sorted(folder.rglob("index.json")):
        if RunPath.EARLIER not in index.relative_to(folder).parts:
            with reading(index):
                stored = dict(json_in(contents(index, 2**31)).get("stored") or {})
                found |= {str(sha256): int(size) for sha256, size in stored.values()}
    return found


def _own_runs() -> dict[str, RunFolder]:
    """The runs of this workspace by the names of their folders in a storage."""
    ids = {path.name for path in runs.workspace_root().glob("[!.]*") if path.is_dir()}
    ids |= {run.id for run in runs.every_run()}
    return {folder_of(name): RunFolder(name, runs.reports_root() / name, runs.workspace_root() / name) for name in ids}


def staged_at_closeout(folder: Path, rules: SnapshotSection, run_id: str) -> tuple[str, str, int]:
    """For closeout: where what lies in this folder of a run is, what follows its `rm -r`, and the bytes in a storage."""
    with suppress(RunbookError):
        there = staged_in_use(folder) if (folder / "index.json").is_file() else {}
        if there and (storage := of(rules)) is not None:
            where = f"{folder}, and {storage.url}/staged/{folder_of(run_id)}"
            return where, f"; {RUNBOOK} snapshots prune --yes", sum(there.values())
    return str(folder), "", 0

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

import hmac
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ValidationError

from helpers import audit
from helpers.errors import RunbookError, Terminal, UsageError, redacted
from helpers.formatting import count
from helpers.parameters.endpoint import moved_with_workspace, resolve_path
from helpers.parameters.snapshots import FOLDERS, STORED, SnapshotSection, is_url, rules_of
from helpers.reason_codes import ReasonCode
from helpers.results import (
    MOST_READ,
    Progress,
    StateFile,
    contents,
    file_digest,
    is_leftover,
    json_in,
    silent,
    whole,
    write_bytes,
    write_json,
    writing,
)
from helpers.snapshots.objects import (
    MANIFEST,
    PART,
    Longer,
    Objects,
    digest,
    fitting,
    get,
    part_name,
    root_of,
    send,
    small,
)

FORMAT = 1
MARK = "chroma-snapshots.json"
LONGEST_MARK = 4096  # bytes
AT_ONCE = 4  # files that are on their way at the same time
BROKEN_OFF = timedelta(days=1)  # a file that is sent in pieces, and was begun earlier, is no longer being sent
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


@dataclass(frozen=True, slots=True)
class Look:
    """What is in a storage: bytes of each file of chunks by its digest, the ids of snapshots, and those that were begun."""

    parts: Mapping[str, int]
    snapshots: frozenset[str]
    begun: frozenset[str]

    def lacks(self, manifest: Mapping[str, Any]) -> list[str]:
        """The digests of the files that a manifest names and the storage does not have in their size."""
        return sorted({sha256 for _, sha256, size in files_of(manifest) if self.parts.get(sha256) != size})

    def where(self, folder: Path, manifest: Mapping[str, Any] | None) -> str:
        """Where the snapshot in this folder is: in the storage, and how much of it here."""
        name = folder.name.removesuffix(".partial")
        if manifest is None:
            return "begun in the storage" if name in self.begun else ""
        files = {folder / file for file, _, _ in files_of(manifest)}
        here = sum(file.is_file() for file in files)
        cached = "all files here, too" if here == len(files) else f"{here:,} of {count(len(files), 'file')} here"
        if name not in self.snapshots:
            return f"NOT in the storage, {cached}"
        return f"in the storage, {cached}" if not self.lacks(manifest) else f"in the storage, NOT whole there, {cached}"


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
        """A sentence for each snapshot that was begun there and is not whole, and for pieces of files that never ended."""
        said = []
        for name in sorted(look.begun):
            manifest = self._manifest(f"begun/{name}.json") or {"retain_until": "not known"}
            there = len(files := _digests(manifest)) - len(look.lacks(manifest))
            about = f"{there:,} of {count(len(files), 'file')} are there, kept until {manifest['retain_until'][:16]}"
            said.append(f"{name}: begun in the storage, not whole, counts for nothing; {about}")
        pieces, doubt = self._pieces()
        if pieces:
            said.append(
                f"{count(len(pieces), 'file')} whose upload never ended: snapshots prune --yes removes what is left"
            )
        return [*said, *doubt]

    def _pieces(self) -> tuple[list[tuple[str, str]], list[str]]:
        """What `broken_off` gives, and a sentence where the storage does not tell: not everybody may ask."""
        try:
            return self.broken_off(), []
        except UsageError as error:
            return [], [f"{self.url}: whether uploads were broken off is not known: {error.what}"]

    def broken_off(self) -> list[tuple[str, str]]:
        """(Key, id) of files that were sent in pieces and never ended; such pieces are no file. Google and Azure drop them."""
        since = datetime.now(UTC) - BROKEN_OFF
        if self.rules.driver == "s3fs":
            found = [each for where in FOLDERS for each in self._uploads(where)]
            return [(each["Key"], each["UploadId"]) for each in found if each["Initiated"] < since]
        if self.rules.driver:
            return []
        root = Path(root_of(self.url))
        folders = ["parts", *(f"staged/{name}" for name in self._list("staged", "directory"))]
        left = (path for where in folders if self._list(where) is not None for path in (root / where).glob(".*.tmp"))
        old = (path for path in left if path.lstat().st_mtime < since.timestamp())
        return [(path.relative_to(root).as_posix(), "") for path in old if is_leftover(path.name)]

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
        if not _same(there, held):
            what = "its manifest in the storage is another one" if there else "its manifest is not in the storage"
            raise Terminal(ReasonCode.SNAPSHOT_ALTERED, what, where=f"{self.url}/snapshots/{snapshot_id}.json",
                           next_step="Find out who writes there. What is here is as it was.")  # fmt: skip

    def has(self, look: Look, snapshot_id: str, held: Mapping[str, Any]) -> bool:
        """Whether the snapshot of this manifest is there whole: its manifest as it was put there, its files in their sizes."""
        whole = snapshot_id in look.snapshots and not look.lacks(held)
        return whole and _same(self._manifest(f"snapshots/{snapshot_id}.json"), held)

    def remove(self, snapshot_id: str, held: Mapping[str, Any]) -> None:
        """From now on the snapshot of this manifest does not count there; `sweep` removes what it alone named.

        Another one that has its id there, as that of another machine, stays.
        """
        for where in ("snapshots", "begun"):
            if _same(self._manifest(f"{where}/{snapshot_id}.json"), held):
                self._remove(f"{where}/{snapshot_id}.json")

    def sweep(self, *, remove: bool) -> Iterator[str]:
        """A sentence for each kind of thing there that counts for nothing; with `remove` it is removed.

        Files that no manifest names, of snapshots and of those that were begun and may still be gone on with; the latter once
        their time is over; pieces of files that never ended. Nothing where a manifest cannot be read: what it names is not known.
        """
        look = self.look()
        named, over = set[str](), list[str]()
        for where, name in [*(("snapshots", n) for n in look.snapshots), *(("begun", n) for n in look.begun)]:
            if (manifest := self._manifest(f"{where}/{name}.json")) is None:
                yield f"{self.url}/{where}/{name}.json cannot be read, so no file is removed there: look at it"
                return
            if where == "begun" and datetime.fromisoformat(manifest["retain_until"]) < datetime.now(UTC):
                over.append(name)
            else:
                named |= _digests(manifest)
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
            if _digests(self._manifest(f"snapshots/{name}.json") or {}) & set(loose):
                yield f"snapshot {name}, put there meanwhile, lacks a file: take it again; prune while nothing is put there"

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


def files_of(manifest: Mapping[str, Any]) -> Iterator[tuple[str, str, int]]:
    """(File, SHA-256, bytes) of each part that a manifest names."""
    for collection in manifest.get("collections", ()):
        for part in collection["parts"]:
            yield part["file"], part["sha256"], part["bytes"]


def _digests(manifest: Mapping[str, Any]) -> set[str]:
    return {sha256 for _, sha256, _ in files_of(manifest)}


def _lasting(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What of a manifest never changes, as `Snapshot.manifest_digest` has it."""
    return {k: v for k, v in manifest.items() if k not in ("status", "sha256") and not k.endswith("_at")}


def _same(there: Mapping[str, Any] | None, held: Mapping[str, Any]) -> bool:
    return there is not None and _lasting(there) == _lasting(held)


def made_here(manifest: Mapping[str, Any]) -> bool:
    """Whether this workspace made the manifest, as its proof says, which needs the workspace's key."""
    from helpers.snapshots.export_journal import proof_of

    proof = str(manifest.get("proof", ""))
    made = proof_of({**_lasting(manifest), "status": "created"}, secret := audit.secret())
    return bool(secret) and hmac.compare_digest(proof.encode(errors="replace"), made.encode())


def _mark(driver: str, fs: Any, path: str) -> bytes | None:
    """What the storage says that it is, None where it says nothing; b"" where that is too long to be ours."""
    try:
        return small(LONGEST_MARK, driver, fs, path)
    except FileNotFoundError:
        return None
    except Longer:
        return b""

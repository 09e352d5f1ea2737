"""The files that runs stage in the storage of their snapshots (`migration.staging: storage`): put, brought, removed by `prune`.

`remote` has the layout. A file counts where an `index.json` of its run names it; other files are leftovers of a kill or of a
former staging. Only a file with the digest and the bytes of the index is read.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from functools import lru_cache, partial
from pathlib import Path

from helpers import audit
from helpers.errors import RUNBOOK, RunbookError, Terminal, redacted
from helpers.formatting import count
from helpers.parameters.snapshots import STORED, SnapshotSection
from helpers.reason_codes import ReasonCode
from helpers.results import contents, json_in, reading
from helpers.run import folders as runs
from helpers.run.folders import RunFolder, RunPath
from helpers.snapshots import remote
from helpers.snapshots.objects import PART, matching, read_small, send_missing

_DAMAGED = (ReasonCode.SNAPSHOT_DAMAGED, ReasonCode.SNAPSHOT_UNREADABLE)


class StagedFiles(remote.Remote):
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
                if len(pending) >= remote.AT_ONCE:
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
                raise self._unusable(
                    problem, f"Repeat it: {RUNBOOK} resume {self.run_id}. What is there is not sent again."
                )

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
        if (known := root / STORED / storage / remote.KNOWN).is_file():
            return _storage_at(known, folder.relative_to(root).parts[0], known.stat().st_mtime_ns)
    return _storage_at(folder / STORED / storage / remote.KNOWN, "", 0)


@lru_cache(maxsize=4)
def _storage_at(known: Path, run_id: str, _version: int) -> StagedFiles:
    if (storage := remote.at(known.parent)) is None:
        raise Terminal(
            ReasonCode.STAGING_UNREADABLE, "its files are in a storage, and nothing that this workspace wrote says where that is",
            where=str(known), next_step=f"Name the storage again: {RUNBOOK} snapshots list --directory URL --storage KEY=VALUE",
        )  # fmt: skip
    return StagedFiles(storage.rules, storage.folder, run_id)


def for_staging(rules: SnapshotSection, folder: Path) -> StagedFiles:
    """Return the staged files of this folder of a run in the storage of these snapshots; the workspace records the storage."""
    storage = staged_at(folder, remote.prepared(rules, runs.workspace_root()).name)
    return StagedFiles(
        storage.rules, storage.folder, storage.run_id
    )  # a new one: after an error one sends nothing more


# -- removal -----------------------------------------------------------------------------------------------------------


def in_use(folder: Path) -> dict[str, int]:
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


def staged_files(storage: remote.Remote) -> dict[str, dict[str, int]]:
    """Return the bytes of each staged file in the storage by its digest, by the folder of its run (`folder_of`)."""
    names = (name for name in storage._list("staged", "directory") if redacted(name) == name)
    return {name: dict(matching(PART, storage._list(f"staged/{name}"))) for name in sorted(names)}


def warnings(storage: remote.Remote, inventory: remote.Inventory) -> list[str]:
    """Return `Remote.warnings`, and a sentence for each folder of a run that this workspace does not have."""
    own_runs, lines = _own_runs(), storage.warnings(inventory)
    for name, files in staged_files(storage).items():
        if files and name not in own_runs:
            phrase = f"{count(len(files), 'staged file')} of a run that this workspace does not have"
            lines.append(
                f"staged/{name}: {phrase}; prune where it is, or remove them yourself once nobody needs that run"
            )
    return lines


def sweep(storages: Iterable[remote.Remote], *, remove: bool) -> Iterator[str]:
    """Yield from `Remote.sweep`, and a sentence for each run of this workspace with files there that none of its `index.json`
    names; with `remove` remove them. Files of a run at work stay, and all where no key proves whose they are."""
    for storage in storages:
        yield from storage.sweep(remove=remove)
        yield from _remove_unused(storage, remove)


def _remove_unused(storage: remote.Remote, remove: bool) -> Iterator[str]:
    own_runs = _own_runs() if audit.secret() else {}
    for name, files in staged_files(storage).items():
        if (run := own_runs.get(name)) is None or not files:
            continue
        try:
            with ExitStack() as locks:
                for lock in ("runner", "step") if run.workspace.is_dir() else ():
                    locks.enter_context(runs.RunLock(run, lock).acquire(0))
                unnamed = sorted(files.keys() - in_use(run.workspace).keys())
                for sha256 in unnamed if remove else ():
                    storage._remove(f"staged/{name}/{sha256}.parquet")
        except RunbookError as error:
            if error.code not in (ReasonCode.RUN_LOCKED, ReasonCode.RUN_DAMAGED):
                raise
            yield f"staged files of run {run.id} stay: {error.line()}"
            continue
        if unnamed:
            phrase = f"{count(len(unnamed), 'staged file')} of run {run.id} that nothing names"
            yield f"{storage.url}: {'removed' if remove else 'would go'}: {phrase}"


def _own_runs() -> dict[str, RunFolder]:
    """Return the runs of this workspace by the names of their folders in a storage."""
    ids = {path.name for path in runs.workspace_root().glob("[!.]*") if path.is_dir()}
    ids |= {run.id for run in runs.every_run()}
    return {folder_of(name): RunFolder(name, runs.reports_root() / name, runs.workspace_root() / name) for name in ids}


def location(folder: Path, rules: SnapshotSection, run_id: str) -> tuple[str, str, int]:
    """For closeout: return where the data of this folder of a run is, the command after its `rm -r`, the bytes in a storage."""
    with suppress(RunbookError):
        used = in_use(folder) if (folder / "index.json").is_file() else {}
        if used and (storage := remote.of(rules)) is not None:
            where = f"{folder}, and {storage.url}/staged/{folder_of(run_id)}"
            return where, f"; {RUNBOOK} snapshots prune --yes", sum(used.values())
    return str(folder), "", 0

"""What runs stage in the storage of their snapshots (`migration.staging: storage`): put there, brought, and removed by `prune`.

`remote` has the layout. A file counts where an `index.json` of its run names it; whatever else is there was left by a kill, or
by a staging that is gone. What the storage holds is data: only what has the digest and the bytes of the index is read.
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
from helpers.snapshots.objects import PART, fitting, send_missing, small

_DAMAGED = (ReasonCode.SNAPSHOT_DAMAGED, ReasonCode.SNAPSHOT_UNREADABLE)


class StagedFiles(remote.Remote):
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
                if len(pending) >= remote.AT_ONCE:
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
        if (known := root / STORED / storage / remote.KNOWN).is_file():
            return _staged_at(known, folder.relative_to(root).parts[0], known.stat().st_mtime_ns)
    return _staged_at(folder / STORED / storage / remote.KNOWN, "", 0)


@lru_cache(maxsize=4)
def _staged_at(known: Path, run_id: str, _version: int) -> StagedFiles:
    if (found := remote.at(known.parent)) is None:
        raise Terminal(
            ReasonCode.STAGING_UNREADABLE, "its files are in a storage, and nothing that this workspace wrote says where that is",
            where=str(known), next_step=f"Name the storage again: {RUNBOOK} snapshots list --directory URL --storage KEY=VALUE",
        )  # fmt: skip
    return StagedFiles(found.rules, found.folder, run_id)


def for_staging(rules: SnapshotSection, folder: Path) -> StagedFiles:
    """The storage of these snapshots for what is staged in this folder of a run; the workspace keeps where it is."""
    found = staged_at(folder, remote.prepared(rules, runs.workspace_root()).name)
    return StagedFiles(found.rules, found.folder, found.run_id)  # one that gave up does so for good


# -- what may go -------------------------------------------------------------------------------------------------------


def in_use(folder: Path) -> dict[str, int]:
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


def look(storage: remote.Remote) -> dict[str, dict[str, int]]:
    """Bytes of each staged file there by its digest, by the folder of its run (`folder_of`)."""
    names = (name for name in storage._list("staged", "directory") if redacted(name) == name)
    return {name: dict(fitting(PART, storage._list(f"staged/{name}"))) for name in sorted(names)}


def told(storage: remote.Remote, seen: remote.Look) -> list[str]:
    """As `Remote.told`, and a sentence for each folder of a run that this workspace does not have."""
    own, said = _own_runs(), storage.told(seen)
    for name, files in look(storage).items():
        if files and name not in own:
            about = f"{count(len(files), 'staged file')} of a run that this workspace does not have"
            said.append(
                f"staged/{name}: {about}; prune where it is, or remove them yourself once nobody needs that run"
            )
    return said


def sweep(storages: Iterable[remote.Remote], *, remove: bool) -> Iterator[str]:
    """As `Remote.sweep`, and a sentence for each run of this workspace with files there that no `index.json` of it names; with
    `remove` they go. Those of a run at work stay, and all where no key proves whose they are."""
    for storage in storages:
        yield from storage.sweep(remove=remove)
        yield from _swept(storage, remove)


def _swept(storage: remote.Remote, remove: bool) -> Iterator[str]:
    own = _own_runs() if audit.secret() else {}
    for name, files in look(storage).items():
        if (run := own.get(name)) is None or not files:
            continue
        try:
            with ExitStack() as held:
                for lock in ("runner", "step") if run.workspace.is_dir() else ():
                    held.enter_context(runs.RunLock(run, lock).acquire(0))
                loose = sorted(files.keys() - in_use(run.workspace).keys())
                for sha256 in loose if remove else ():
                    storage._remove(f"staged/{name}/{sha256}.parquet")
        except RunbookError as error:
            if error.code not in (ReasonCode.RUN_LOCKED, ReasonCode.RUN_DAMAGED):
                raise
            yield f"staged files of run {run.id} stay: {error.line()}"
            continue
        if loose:
            about = f"{count(len(loose), 'staged file')} of run {run.id} that nothing names"
            yield f"{storage.url}: {'removed' if remove else 'would go'}: {about}"


def _own_runs() -> dict[str, RunFolder]:
    """The runs of this workspace by the names of their folders in a storage."""
    ids = {path.name for path in runs.workspace_root().glob("[!.]*") if path.is_dir()}
    ids |= {run.id for run in runs.every_run()}
    return {folder_of(name): RunFolder(name, runs.reports_root() / name, runs.workspace_root() / name) for name in ids}


def kept(folder: Path, rules: SnapshotSection, run_id: str) -> tuple[str, str, int]:
    """For closeout: where what lies in this folder of a run is, what follows its `rm -r`, and the bytes in a storage."""
    with suppress(RunbookError):
        there = in_use(folder) if (folder / "index.json").is_file() else {}
        if there and (storage := remote.of(rules)) is not None:
            where = f"{folder}, and {storage.url}/staged/{folder_of(run_id)}"
            return where, f"; {RUNBOOK} snapshots prune --yes", sum(there.values())
    return str(folder), "", 0

"""What a run put into the target: its ledger, its staged files, and the snapshot that they were made from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import cast

from helpers.chunks import ChunkBatch
from helpers.errors import WorldError
from helpers.migration.checkpoint import Checkpoint
from helpers.migration.source_changes import FOLDER, current_snapshot
from helpers.migration.staging import Quarantine, Staged
from helpers.parameters.endpoint import resolve_path
from helpers.reason_codes import ReasonCode
from helpers.run.folders import RunPath
from helpers.run.plan import Step
from helpers.run.record import RunRecord
from helpers.snapshots.export_journal import read_parquet
from helpers.snapshots.snapshot import Snapshot, from_table

Origin = tuple[str, str]  # source collection, id in it


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

    @cached_property
    def snapshot(self) -> Snapshot | None:
        """The snapshot that the target is held to, None where the run has taken none."""
        if self.folder.result(Step.SNAPSHOT) is not None:
            return current_snapshot(self.run)
        if self.checkpoint is None:
            return None
        directory = resolve_path(self.run.parameters.snapshot.directory)  # step 21 is just being run again
        return Snapshot.open(directory / str(self.checkpoint.context["snapshot"]))

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
            table = read_parquet(staged.folder / file)
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

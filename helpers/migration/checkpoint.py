"""The checkpoint of a migration: what is completed, and in which context.

`checkpoint.json` is replaced atomically, so it is valid after a kill at any moment. Work is counted in rows of each target's
staged stream, whose order never changes; so a resumed run may use another batch size. A range of rows is `inflight` before
it is sent and `completed` after; what was in flight is looked up by id before it is sent again.

With many targets, writing the whole file for each change of one would cost more than the migration. So a change is a line,
flushed to disk, in `checkpoint.jsonl` beside it, until there are an eighth as many lines as targets; then the whole file is
written again. With fewer than eight targets there are no lines. A line names the `id` of its file; others are ignored.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from helpers.errors import Terminal, UsageError
from helpers.reason_codes import ReasonCode
from helpers.results import StateFile, append, contents, json_in, utc_now, write_json
from helpers.run.folders import RunFolder, RunPath

FILE = RunPath.CHECKPOINT
_ERRORS_KEPT = 50
_TARGETS_PER_LINE = 8


def checkpoint_id(run_id: str) -> str:
    """The id of a run's one checkpoint, for people and for `resume --checkpoint`."""
    return f"{run_id}-22"


def require_checkpoint(folder: RunFolder, given: str) -> None:
    """Raise `UsageError` unless `given` is the id or the path of this run's checkpoint, and the checkpoint exists."""
    path = folder.workspace / FILE
    own = checkpoint_id(folder.id)
    if given != own and Path(given).absolute() != path:
        raise UsageError(
            ReasonCode.OTHER_CHECKPOINT, f"{given!r} is not the checkpoint of run {folder.id}", where="--checkpoint",
            next_step=f"It has one, {own}; a checkpoint can continue only its own run.",
        )  # fmt: skip
    if not path.is_file():
        raise UsageError(
            ReasonCode.NO_CHECKPOINT, f"run {folder.id} has no checkpoint yet", where=str(path),
            next_step=f"Without one, step 22 starts from the beginning: {folder.command('resume')}",
        )  # fmt: skip


@dataclass(slots=True)
class TargetState:
    """One target collection: `rows` staged, `completed` of them done, `inflight` the range being written."""

    rows: int
    completed: int = 0
    rejected: int = 0
    inflight: list[int] | None = None
    intended: bool = False  # about to be created
    created: bool = False  # creation was confirmed
    uuid: str = ""  # of the created collection; "" before it is noted, and in checkpoints of older toolkits


@dataclass(slots=True)
class CheckpointFile(StateFile):
    """The content of a checkpoint's file with its later changes. Times are in seconds; None where nothing was measured."""

    file = RunPath.CHECKPOINT
    damaged = ReasonCode.CHECKPOINT_UNREADABLE
    remedy = "Start a new run; the target holds what this one wrote."

    context: dict[str, Any]
    phase: str
    total_chunks: int
    quarantined: int
    targets: dict[str, TargetState]
    errors: list[str]
    last_batch_index: int
    resumed: int
    timestamp: str = ""
    stats: dict[str, float | None] = field(default_factory=dict)

    @classmethod
    def of(cls, path: Path) -> CheckpointFile:
        """Give the checkpoint at `path` as `read_file` does; raise `Terminal` also where the file is absent."""
        if (state := cls.read_file(path)) is None:
            raise Terminal(cls.damaged, "cannot be read: there is no such file", where=str(path), next_step=cls.remedy)
        return state

    @classmethod
    def content(cls, path: Path) -> dict[str, Any]:
        """Read the lines first: if the whole is written meanwhile, it contains them, and has another `id`."""
        try:
            log = contents(_log(path), 2**31)
        except FileNotFoundError:
            log = b""
        raw = super(CheckpointFile, cls).content(path)
        for line in log[: log.rfind(b"\n") + 1].splitlines():  # what follows the last end of a line is torn
            change = json_in(line)
            if change["id"] == raw.get("id"):
                raw["targets"].update(change.pop("targets"))
                raw |= change
        return raw


@dataclass(slots=True)
class Checkpoint:
    """The record of one migration; every public method writes it and may be called from any thread."""

    path: Path
    context: dict[str, Any]
    phase: str = "export"
    total_chunks: int = 0
    quarantined: int = 0
    targets: dict[str, TargetState] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    last_batch_index: int = -1
    resumed: int = 0
    _batches: list[float] = field(default_factory=list)
    _begun: float = field(default_factory=time.monotonic)
    _before: int = 0
    _guard: Any = field(default_factory=threading.RLock)
    _id: str = ""  # of the file as it was last written whole
    _lines_left: int = 0  # before it is written whole again

    @classmethod
    def open(cls, path: Path, context: dict[str, Any]) -> Checkpoint:
        """The checkpoint at `path`, or a new one. Raises `UsageError` where it was made in another context."""
        if not path.exists():
            fresh = cls(path, context)
            fresh.save()
            return fresh
        checkpoint = cls.read(path)
        before = checkpoint.context
        different = sorted(k for k in context.keys() | before.keys() if context.get(k) != before.get(k))
        if different:
            raise UsageError(
                ReasonCode.CONTEXT_CHANGED,
                f"this run's checkpoint was made with another {', '.join(different)}",
                where=str(path),
                next_step="Resume with the parameters that the run began with, or start a new run.",
            )
        checkpoint.resumed += 1
        checkpoint._before = checkpoint.processed
        return checkpoint

    @classmethod
    def read(cls, path: Path) -> Checkpoint:
        """The checkpoint as it is on disk, to read only. Raises `Terminal` where the file is no checkpoint."""
        state = CheckpointFile.of(path)
        return cls(
            path=path, context=state.context, phase=state.phase, total_chunks=state.total_chunks,
            quarantined=state.quarantined, targets=state.targets, errors=state.errors,
            last_batch_index=state.last_batch_index, resumed=state.resumed,
        )  # fmt: skip

    @property
    def processed(self) -> int:
        """Chunks decided on: written, refused by the target, or quarantined before."""
        return self.quarantined + sum(t.completed for t in self.targets.values())

    @property
    def failed(self) -> int:
        return self.quarantined + sum(t.rejected for t in self.targets.values())

    def enter(self, phase: str) -> None:
        with self._guard:
            self.phase = phase
            self.save()

    def stage(self, total: int, quarantined: int, rows: dict[str, int]) -> None:
        """Record what the transform made. Rows already completed by an earlier attempt are kept."""
        with self._guard:
            self.total_chunks, self.quarantined = total, quarantined
            for name, count in rows.items():
                state = self.targets.setdefault(name, TargetState(count))
                if state.rows != count:
                    raise Terminal(
                        ReasonCode.STAGING_CHANGED, f"{name}: {count} rows staged where the checkpoint knows {state.rows}",
                        where=str(self.path), next_step="Start a new run.",
                    )  # fmt: skip
            self._begun, self._before = time.monotonic(), self.processed  # what follows is the import's own pace
            self.save()

    def intend(self, name: str) -> None:
        """About to create this collection: from here on it is this run's own, should it exist after a kill."""
        with self._guard:
            self.targets[name].intended, self.targets[name].uuid = True, ""
            self._changed(name)

    def own(self, name: str, uuid: str = "") -> None:
        """About to create a collection that was perhaps not staged when the migration began (catch-up), or it is made: `uuid`."""
        with self._guard:
            state = self.targets.setdefault(name, TargetState(0))
            state.intended, state.uuid = True, uuid
            self._changed(name)

    def rebase(self, context: dict[str, Any], total: int, quarantined: int, targets: dict[str, TargetState]) -> None:
        """Go over to another snapshot whose chunks are all in the target already (catch-up)."""
        with self._guard:
            self.context, self.total_chunks, self.quarantined = context, total, quarantined
            self.targets = targets
            self._before = self.processed
            self.save()

    def disown(self, name: str) -> None:
        """The collection turned out to be somebody else's."""
        with self._guard:
            self.targets[name].intended = False
            self._changed(name)

    def confirm(self, name: str, uuid: str) -> None:
        """The collection is there; `uuid` tells it from one that somebody makes under its name later."""
        with self._guard:
            state = self.targets[name]
            state.intended, state.created, state.uuid = True, True, uuid
            self._changed(name)

    def begin(self, name: str, start: int, stop: int) -> None:
        """Rows [start, stop) of this target are about to be sent."""
        with self._guard:
            before = self.targets[name].inflight
            self.targets[name].inflight = [start, max(stop, before[1] if before else stop)]
            self._changed(name)

    def complete(self, name: str, stop: int, rejected: int, seconds: float) -> None:
        """Rows up to `stop` are in the target, but for `rejected` ones that are in quarantine."""
        with self._guard:
            state = self.targets[name]
            doubt = state.inflight[1] if state.inflight else stop
            # A resumed run with smaller batches has completed only a part of what was in flight when it died.
            state.completed, state.inflight = stop, [stop, doubt] if doubt > stop else None
            state.rejected += rejected
            self.last_batch_index += 1
            self._batches.append(seconds)
            self._changed(name)

    def note(self, error: str) -> None:
        """Keep an error for people to read; the last 50."""
        with self._guard:
            self.errors = [*self.errors, f"{utc_now()} {error}"][-_ERRORS_KEPT:]
            self._changed()

    def owned(self) -> list[str]:
        """Collections in the target that this run made, or was about to make."""
        return sorted(name for name, state in self.targets.items() if state.intended)

    def replaced(self, uuids: Mapping[str, str]) -> list[str]:
        """Collections that are not the ones this run made, but have their names: somebody's, whatever they hold.

        `uuids`: the target's uuids by name. A kill between a creation and its note leaves a name without a uuid, as older
        toolkits did: that collection counts as this run's own, and a resume of the import takes it only while it is empty.
        """
        return sorted(n for n, s in self.targets.items() if s.uuid and uuids.get(n, s.uuid) != s.uuid)

    def stats(self) -> dict[str, Any]:
        """Average batch time (s), throughput (chunks/s) and estimated remaining time (s) of this attempt."""
        return self._pace(self.processed)

    def _pace(self, processed: int) -> dict[str, Any]:
        elapsed = time.monotonic() - self._begun
        done = processed - self._before
        rate = done / elapsed if done > 0 and elapsed > 0 else 0.0
        remaining = max(0, self.total_chunks - processed)
        return {
            "average_batch_seconds": round(sum(self._batches) / len(self._batches), 3) if self._batches else None,
            "chunks_per_second": round(rate, 1) if rate else None,
            "estimated_remaining_seconds": round(remaining / rate, 1) if rate else None,
        }

    def save(self) -> None:
        """Write the whole."""
        with self._guard:
            self._id = uuid.uuid4().hex
            targets = {name: asdict(state) for name, state in self.targets.items()}
            write_json(self.path, {**self._figures(), "context": self.context, "targets": targets})
            _log(self.path).unlink(missing_ok=True)
            self._lines_left = len(self.targets) // _TARGETS_PER_LINE

    def _changed(self, *names: str) -> None:
        """Write what changed: the state of these targets, and the figures."""
        if not self._lines_left:
            self.save()
            return
        self._lines_left -= 1
        change = {**self._figures(), "targets": {name: asdict(self.targets[name]) for name in names}}
        append(_log(self.path), json.dumps(change).encode() + b"\n")

    def _figures(self) -> dict[str, Any]:
        processed, failed = self.processed, self.failed
        return {
            "id": self._id,
            "timestamp": utc_now(),
            "phase": self.phase,
            "total_chunks": self.total_chunks,
            "processed_chunks": processed,
            "successful_chunks": processed - failed,
            "failed_chunks": failed,
            "quarantined": self.quarantined,
            "last_batch_index": self.last_batch_index,
            "errors": self.errors,
            "stats": self._pace(processed),
            "resumed": self.resumed,
        }


def _log(path: Path) -> Path:
    """The changes after the checkpoint at `path` was written whole."""
    return path.with_suffix(".jsonl")

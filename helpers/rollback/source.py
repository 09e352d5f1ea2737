"""The source before anybody is sent back to it: proven against the snapshot, or mended from it where that was ordered.

Under a fence that stood all the time, any difference is damage. Without one, clients may have gone on writing: chunks that
came, changed or went are then reported, and only what no client does by itself (a collection that is gone or has another
configuration) counts as damage. Mending touches the chunks that differ and no others, so readers of the rest see no gap;
what it overwrites or deletes is exported first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from helpers.chunks import ChunkBatch
from helpers.errors import RUNBOOK, Terminal, WorldError
from helpers.fence import Control, FenceState, takes_no_writes, who_has_open
from helpers.fence.state import LIFTED, LIFTING, UP
from helpers.migration.source_changes import CollectionChanges, SourceChanges
from helpers.parameters import Parameters
from helpers.parameters.endpoint import Endpoint
from helpers.parameters.sections import Fence
from helpers.progress import Progress, silent
from helpers.restore import chosen, lost_vectors
from helpers.run.folders import RunFolder
from helpers.snapshot import Snapshot, to_table
from helpers.stores import Store, open_target
from helpers.stores.opening import open_server

BATCH = 100


@dataclass(slots=True)
class Damage:
    """What of the changes is damage, by collection, and what clients may have done themselves."""

    damaged: dict[str, CollectionChanges] = field(default_factory=dict)
    by_clients: dict[str, CollectionChanges] = field(default_factory=dict)
    vanished: list[str] = field(default_factory=list)

    @property
    def nothing(self) -> bool:
        return not self.damaged


def fenced_since_snapshot(folder: RunFolder, snapshot: Snapshot) -> bool:
    """Whether the fence that stands was up before the snapshot was taken, and has not been lifted since; or the source
    was proven before it to take no writes at all."""
    taken, proof = datetime.fromisoformat(snapshot.manifest["created"]), folder.result("20")
    if proof is not None and takes_no_writes(proof):
        return datetime.fromisoformat(proof.started).replace(microsecond=0) <= taken
    state = FenceState.read(folder.workspace)
    if state is None or not state.stands:
        return False
    lifted = [n for n, event in enumerate(state.events) if event["state"] in (LIFTING, LIFTED)]
    standing = state.events[lifted[-1] + 1 :] if lifted else state.events
    up = next(event["when"] for event in standing if event["state"] == UP)
    return datetime.fromisoformat(up).replace(microsecond=0) <= taken


def judge(changes: SourceChanges, *, fenced: bool, ours: set[tuple[str, str]], remade: Sequence[str] = ()) -> Damage:
    """`ours` are chunks that a replay of this rollback wrote: they differ from the snapshot because they should.

    `remade` are collections that it made anew; their settings are proven otherwise.
    """
    found = Damage(vanished=list(changes.vanished))
    for name, change in changes.collections.items():
        rest = CollectionChanges(
            added=[i for i in change.added if (name, i) not in ours],
            changed=[i for i in change.changed if (name, i) not in ours],
            deleted=[i for i in change.deleted if (name, i) not in ours],
            settings=[] if name in remade else list(change.settings),
        )
        if not rest.chunks and not rest.settings and name not in changes.vanished and name not in changes.appeared:
            continue
        broken = name in changes.vanished or bool(rest.settings)
        if name in changes.appeared:
            found.by_clients[name] = rest  # nothing of the snapshot is touched by it
        elif fenced or broken:
            found.damaged[name] = rest
        else:
            found.by_clients[name] = rest
    return found


def said(changes: dict[str, CollectionChanges], vanished: Sequence[str] = ()) -> str:
    """`alpha is gone; beta: 1 added, 2 changed, 3 deleted`, at most three collections."""
    parts = []
    for name, change in list(changes.items())[:3]:
        if name in vanished:
            parts.append(f"{name} is gone")
            continue
        numbers = [(len(change.added), "added"), (len(change.changed), "changed"), (len(change.deleted), "deleted")]
        words = [f"{n:,} {word}" for n, word in numbers if n] + [f"another {s}" for s in change.settings]
        parts.append(f"{name}: {', '.join(words) or 'new'}")
    more = len(changes) - 3
    return "; ".join(parts) + (f"; and {more} more collections" if more > 0 else "")


def writing_endpoint(folder: RunFolder, parameters: Parameters) -> Endpoint:
    """Where the source can be written while the fence stands: the port behind it."""
    state = FenceState.read(folder.workspace)
    source = parameters.source
    if state is None or not state.may_stand or not source.url:
        return source
    control = Control(folder, parameters, Fence.model_validate(state.rules))
    behind = control.behind_url
    if not behind or source.address.rstrip("/") != control.clients_url.rstrip("/"):
        return source
    return source.model_copy(update={"url": behind})


@contextmanager
def open_for_writing(endpoint: Endpoint) -> Iterator[Store]:
    """The source itself, to be mended or replayed to; a directory in place, which nobody else may have open.

    Raises `WorldError` where another process has it open; `Terminal` where an older Chroma wrote the directory: opening
    it here would upgrade it for good.
    """
    if endpoint.url:
        with open_server(endpoint, "source") as store:
            yield store  # type: ignore[misc]
        return
    path = Path(str(endpoint.path))
    found = who_has_open(path)
    if found.processes:
        raise WorldError(
            "source_in_use", f"{found.sentence()} has it open; two writers destroy a directory", where=str(path),
            next_step="Stop that process, then repeat the rollback.",
        )  # fmt: skip
    try:
        with open_target(endpoint) as embedded:
            yield embedded
    except Terminal as error:
        if error.code != "target_older_layout":
            raise
        raise Terminal(
            "source_older_layout", "written by an older Chroma; writing to it here would upgrade it for good", where=str(path),
            next_step=f"Restore the snapshot into another place ({RUNBOOK} snapshots restore), or repeat without writing to it.",
        ) from error  # fmt: skip


def mend(
    store: Store, snapshot: Snapshot, damage: Damage, names: Sequence[str], export: Path, progress: Progress = silent
) -> dict[str, int]:
    """Bring these damaged collections (none named: all) back to what the snapshot says; chunks written by collection.

    What is there now and differs is exported into `export` before it is touched. Repeating it after a kill does the rest.
    """
    infos = [info for info in chosen(snapshot, names) if info.name in damage.damaged]
    refuse_settings(store, damage, [info.name for info in infos])
    lost = lost_vectors(snapshot, infos)
    done: dict[str, int] = {}
    for number, info in enumerate(infos, start=1):
        name, change = info.name, damage.damaged[info.name]
        if name not in store.names():
            store.create(info)
        there = set(store.ids(name))
        strange = sorted(there & {*change.added, *change.changed})
        if strange:
            _keep(store, name, strange, export, number)
            store.delete(name, strange)
        wanted = {*change.changed, *change.deleted} - set(lost.get(name, []))
        done[name] = _put(store, snapshot, name, wanted, progress)
    return done


def refuse_settings(store: Store, damage: Damage, names: Sequence[str]) -> None:
    """Raises `Terminal` where a collection has another configuration: only dropping it whole could change that back."""
    for name in names:
        settings = damage.damaged[name].settings
        if settings and name not in damage.vanished:
            raise Terminal(
                "source_settings", f"has another {', '.join(settings)} than in the snapshot, which cannot be changed back",
                where=f"collection {name} of {store.label}",
                next_step=f"Restore it elsewhere ({RUNBOOK} snapshots restore), or repeat with --accept-source REASON.",
            )  # fmt: skip


def _put(store: Store, snapshot: Snapshot, name: str, wanted: set[str], progress: Progress) -> int:
    """Add what is absent of these ids, as the snapshot has it."""
    written = 0
    there = set(store.ids(name))
    for part in snapshot.parts(name):
        rows = [i for i, chunk in enumerate(snapshot.ids(part)) if chunk in wanted and chunk not in there]
        if not rows:
            continue
        batch = snapshot.read(part).take(rows)
        batch = batch.take(np.flatnonzero(~batch.lost))
        for at in range(0, len(batch), BATCH):
            piece = batch.slice(at, at + BATCH)
            store.add(name, piece)
            written += len(piece)
            progress.advance(len(piece))
    return written


def _keep(store: Store, name: str, ids: Sequence[str], export: Path, number: int) -> None:
    export.mkdir(parents=True, exist_ok=True)
    batch: ChunkBatch = store.read(name, ids)
    taken = len(list(export.glob(f"{number:03d}-*.parquet")))
    pq.write_table(to_table(batch), export / f"{number:03d}-{taken + 1}.parquet", compression="zstd")

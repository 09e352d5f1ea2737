"""The source, before clients are sent back to it: proven against the snapshot, or restored from it where that was ordered.

Under a fence that was active all the time, any difference is damage. Without one, clients may have continued to write: added,
changed and deleted chunks are then reported, and only what no client does by itself (a collection that is gone or has another
configuration) counts as damage. A restore touches only the chunks that differ, so readers of the others see no gap; what it
overwrites or deletes is exported first.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from helpers import audit, rollback
from helpers.chunks import ChunkBatch
from helpers.cutover import CutoverState, clients_came
from helpers.errors import RUNBOOK, EnvironmentFailure, RunbookError, Terminal, UsageError
from helpers.fence import FenceControl, FenceState, takes_no_writes
from helpers.formatting import count
from helpers.migration.restore import chosen, lost_vectors, prove
from helpers.migration.source_changes import CollectionChanges, SourceChanges, WrittenData, selected, source_changes
from helpers.parameters import Parameters
from helpers.parameters.endpoint import Endpoint
from helpers.parameters.sections import Fence
from helpers.reason_codes import Reason, ReasonCode
from helpers.results import Progress, Verdict, silent, utc_now
from helpers.rollback import SOURCE, RollbackState, replay
from helpers.rollback.replay import next_folder
from helpers.run.command import used_by
from helpers.run.folders import RunFolder, RunState
from helpers.run.plan import Step
from helpers.run.record import RunRecord, open_chosen
from helpers.snapshots.export_journal import write_parquet
from helpers.snapshots.snapshot import Snapshot, to_table
from helpers.stores import Store, listed_ids, open_target
from helpers.stores.copying import fingerprint, require_own_files
from helpers.stores.opening import open_server

BATCH = 100
_AS_TAKEN = "no difference"
AFTERWARDS = "source after the removal"
COLUMNS = ["collection", "in the snapshot", "added", "changed", "deleted", "verdict"]


@dataclass(slots=True)
class Damage:
    """The changes that are damage, by collection, and those that clients may have made themselves."""

    damaged: dict[str, CollectionChanges] = field(default_factory=dict)
    by_clients: dict[str, CollectionChanges] = field(default_factory=dict)
    vanished: list[str] = field(default_factory=list)

    @property
    def nothing(self) -> bool:
        return not self.damaged


def fenced_since_snapshot(folder: RunState, snapshot: Snapshot) -> bool:
    """Whether the active fence was up before the snapshot was taken and was not lifted since, or the source was proven before
    it to take no writes at all."""
    taken, proof = datetime.fromisoformat(snapshot.manifest["created"]), folder.result(Step.FENCE_WRITES)
    if proof is not None and takes_no_writes(proof):
        return datetime.fromisoformat(proof.started).replace(microsecond=0) <= taken
    state = FenceState.load(folder.workspace)
    if state is None or not state.active:
        return False
    return datetime.fromisoformat(state.up_at).replace(microsecond=0) <= taken


def judge(
    changes: SourceChanges, *, fenced: bool, replayed: set[tuple[str, str]], remade: Sequence[str] = ()
) -> Damage:
    """Split the changes into damage and clients' writes. `replayed` are chunks that a replay of this rollback wrote: they must
    differ from the snapshot, but in a collection that is gone. `remade` are collections that it recreated; their settings are
    proven in another way.
    """
    damage = Damage(vanished=list(changes.vanished))
    for name, change in changes.collections.items():
        own = {i for collection, i in replayed if collection == name and name not in changes.vanished}
        rest = CollectionChanges(
            added=[i for i in change.added if i not in own],
            changed=[i for i in change.changed if i not in own],
            deleted=[i for i in change.deleted if i not in own],
            settings=[] if name in remade else list(change.settings),
        )
        if not rest.chunks and not rest.settings and name not in changes.vanished and name not in changes.appeared:
            continue
        broken = name in changes.vanished or bool(rest.settings)
        if name in changes.appeared:
            damage.by_clients[name] = rest  # it touches nothing of the snapshot
        elif fenced or broken:
            damage.damaged[name] = rest
        else:
            damage.by_clients[name] = rest
    return damage


def changes_text(changes: dict[str, CollectionChanges], vanished: Sequence[str] = ()) -> str:
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
    """Where the source can be written while the fence is active: the port behind it."""
    state = FenceState.load(folder.workspace)
    source = parameters.source
    if state is None or not state.may_be_active or not source.url:
        return source
    control = FenceControl(folder, parameters, Fence.model_validate(state.rules))
    behind = control.behind_url
    if not behind or source.address.rstrip("/") != control.clients_url.rstrip("/"):
        return source
    return source.model_copy(update={"url": behind})


@contextmanager
def open_for_writing(endpoint: Endpoint) -> Iterator[Store]:
    """Open the source itself for writing; a directory in place, which no other process may have open.

    Raises `EnvironmentFailure` where another process has it open; `Terminal` where an older Chroma wrote the directory, since
    opening it here would upgrade it for good, and "source_foreign_file" where Chroma would write through it into another place.
    """
    if endpoint.url:
        with open_server(endpoint, "source") as store:
            yield store  # type: ignore[misc]
        return
    path = Path(str(endpoint.path))
    if used := used_by(endpoint):
        raise EnvironmentFailure(
            ReasonCode.SOURCE_IN_USE, f"{used} has it open; two writers destroy a directory", where=str(path),
            next_step="Stop that process, then repeat the rollback.",
        )  # fmt: skip
    try:
        require_own_files(path, role="source")
        with open_target(endpoint, role="source") as embedded:
            yield embedded
    except Terminal as error:
        if error.code != ReasonCode.TARGET_OLDER_LAYOUT:
            raise
        raise Terminal(
            ReasonCode.SOURCE_OLDER_LAYOUT,
            "written by an older Chroma; writing to it here would upgrade it for good",
            where=str(path),
            next_step=f"Restore the snapshot into another place ({RUNBOOK} snapshots restore), or repeat without writing to it.",
        ) from error


def mend(
    store: Store, snapshot: Snapshot, damage: Damage, names: Sequence[str], export: Path, progress: Progress = silent
) -> dict[str, int]:
    """Restore these damaged collections (none named: all) from the snapshot. Gives the chunks written by collection.

    Present chunks that differ are exported into `export` before they are touched. Repeating it after a kill does the rest.
    """
    infos = [info for info in chosen(snapshot, names) if info.name in damage.damaged]
    refuse_settings(store, damage, [info.name for info in infos])
    lost = lost_vectors(snapshot, infos)
    done: dict[str, int] = {}
    for number, info in enumerate(infos, start=1):
        name, change = info.name, damage.damaged[info.name]
        if name not in store.names():
            store.create(info)
        present = set(listed_ids(store, name))
        differing = sorted(present & {*change.added, *change.changed})
        if differing:
            _export(store, name, differing, export, number)
            store.delete(name, differing)
        ids = {*change.changed, *change.deleted} - set(lost.get(name, []))
        done[name] = _add_absent(store, snapshot, name, ids, progress)
    return done


def refuse_settings(store: Store, damage: Damage, names: Sequence[str]) -> None:
    """Raise `Terminal` where a collection has another configuration: only dropping it whole could change that back."""
    for name in names:
        settings = damage.damaged[name].settings
        if settings and name not in damage.vanished:
            raise Terminal(
                ReasonCode.SOURCE_SETTINGS,
                f"has another {', '.join(settings)} than in the snapshot, which cannot be changed back",
                where=f"collection {name} of {store.label}",
                next_step=f"Restore it elsewhere ({RUNBOOK} snapshots restore), or repeat with --accept-source REASON.",
            )


def _add_absent(store: Store, snapshot: Snapshot, name: str, ids: set[str], progress: Progress) -> int:
    """Add those of these ids that are absent, from the snapshot. Gives the number of chunks added."""
    written = 0
    present = set(listed_ids(store, name))
    for part in snapshot.parts(name):
        rows = [i for i, chunk in enumerate(snapshot.ids(part)) if chunk in ids and chunk not in present]
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


def _export(store: Store, name: str, ids: Sequence[str], export: Path, number: int) -> None:
    batch: ChunkBatch = store.read(name, ids)
    files = len(list(export.glob(f"{number:03d}-*.parquet")))
    write_parquet(export / f"{number:03d}-{files + 1}.parquet", to_table(batch))


class StageContext:
    """What every stage of a rollback shares: the run, what it wrote, the state on disk, and the record of a stage.

    `in_use`: clients may have used the target. In a dry run nothing is recorded and nothing is touched.
    """

    def __init__(self, run: RunRecord) -> None:
        self.run, self.data = run, WrittenData(run)
        state = RollbackState.load(run.workspace)
        self.state = state or RollbackState(run.id, utc_now(), audit.user())
        if not run.dry_run:
            self.state.save(run.workspace)
        self.cutover = CutoverState.load(run.workspace)
        self.in_use = clients_came(run.workspace)
        run.fact("dry_run", run.dry_run)
        run.fact("ordered", self.state.since)

    @contextmanager
    def stage(self, name: str) -> Iterator[dict[str, Any]]:
        """Record a stage on disk and in the audit log, before and after. What it did goes into the row's "said"."""
        row: dict[str, Any] = {"state": rollback.BEGUN, "when": utc_now(), "seconds": 0.0, "said": ""}
        if self.run.dry_run:
            with self.run.phase(rollback.TITLES[name]):
                yield row
            return
        before = self.state.stages.get(name)
        if before is None or before["state"] != rollback.DONE:
            self.state.stages[name] = row
            self.state.save(self.run.workspace)
        log, action = self.run.folder / audit.NAME, f"rollback: {rollback.TITLES[name].lower()}"
        audit.append(log, action, outcome="begun")
        begun = time.monotonic()
        try:
            with self.run.phase(rollback.TITLES[name]):
                yield row
        except BaseException as error:
            cause = error.line() if isinstance(error, RunbookError) else type(error).__name__
            audit.append(log, action, outcome="failed", why=cause)
            raise
        row |= {"state": rollback.DONE, "seconds": round(time.monotonic() - begun, 3), "finished": utc_now()}
        self.state.stages[name] = row
        self.state.save(self.run.workspace)
        audit.append(log, action, said=row["said"])

    @property
    def settled(self) -> bool:
        """Whether source and clients' writes are final: from then on clients write to the source, and it changes."""
        return not self.run.dry_run and self.state.did(rollback.SETTLE)


class SourceProof:
    """`prove` fills `moved`: (collection, id) of chunks that differ from the snapshot, except for our own replay."""

    def __init__(self, context: StageContext) -> None:
        self.context, self.run = context, context.run
        self.moved: set[tuple[str, str]] = set()

    def prove(self) -> pd.DataFrame:
        """Prove the source. Raises `Terminal` ("source_damaged") where a person must decide first; nothing was touched then."""
        try:
            snapshot = None if self.context.settled else self.context.data.snapshot
        except Terminal as error:
            self._accept_unproven(error)
            return pd.DataFrame(columns=COLUMNS)
        if self.context.settled or snapshot is None:
            detail = (
                "proven before the fence was lifted" if self.context.settled else "this run has taken no snapshot yet"
            )
            self._check(Verdict.NOT_EXERCISED, "not compared", detail)
            return pd.DataFrame(columns=COLUMNS)
        with self.context.stage(SOURCE) as row:
            changes, damage = self._compare(snapshot)
            if not damage.nothing:
                damage = self._decide(snapshot, damage)
            self.moved = {(n, i) for n, c in (damage.by_clients | damage.damaged).items()
                          for i in (*c.added, *c.changed, *c.deleted)}  # fmt: skip
            row["said"] = self._judge(snapshot, changes, damage)
            compared = f"The source was compared with snapshot {snapshot.id}, {count(snapshot.total, 'chunk')}."
            if damage.by_clients:
                compared += f" What clients wrote to it since stays there: {changes_text(damage.by_clients)}."
            self.context.state.facts |= {"compared": compared, "unproven": False}
        return self._table(snapshot, damage)

    def files(self) -> list[tuple[str, int, int]] | None:
        """The files of an embedded source; None for a server, or where they cannot be listed."""
        path = self.run.parameters.source.path
        with suppress(OSError, Terminal):
            return fingerprint(Path(path)) if path else None
        return None

    def prove_after(self, before: list[tuple[str, int, int]] | None) -> str:
        """Check that the removal from the target left an embedded source unchanged: its files equal `before`, or every chunk is
        compared once more. Gives a sentence, "" where there is nothing to report; fails where it is damaged or unreadable.
        """
        if before is None:
            return ""
        if self.files() == before:
            detail = f"{count(len(before), 'file')} of the source: none changed while the target was cleaned"
            self.run.check(AFTERWARDS, Verdict.PASS, measured=_AS_TAKEN, threshold=_AS_TAKEN, detail=detail)
            return ""
        reason: Reason = ""
        try:
            if (snapshot := self.context.data.snapshot) is None:
                raise EnvironmentFailure(
                    ReasonCode.SOURCE_MOVED_ON, "its files changed, and this run has no snapshot to compare with"
                )
            _, damage = self._compare(snapshot)
            changes, verdict = changes_text(damage.by_clients), Verdict.PASS
            if damage.damaged:
                changes = changes_text(damage.damaged, damage.vanished)
                verdict, reason = Verdict.FAIL, ReasonCode.SOURCE_DAMAGED
            elif damage.by_clients:
                verdict, reason = Verdict.WARNING, ReasonCode.SOURCE_MOVED_ON
        except RunbookError as error:
            not_damage = error.code in (ReasonCode.SOURCE_IN_USE, ReasonCode.SOURCE_MOVED_ON)
            changes, verdict, reason = error.line(), Verdict.WARNING if not_damage else Verdict.FAIL, error.code
        changes = changes or _AS_TAKEN
        detail = f"files of the source changed while the target was cleaned, so it was read again: {changes}"
        self.run.check(AFTERWARDS, verdict, measured=changes, threshold=_AS_TAKEN, reason=reason, detail=detail)
        return f"; {detail}"

    def _accept_unproven(self, error: Terminal) -> None:
        """Raise the error, as no snapshot proves the source; go on where the source was accepted."""
        reason = self.context.state.orders.accept_source
        if not reason and not self.run.dry_run:
            command = self.run.home.command("rollback", "--accept-source", "REASON")
            advice = f"{error.next_step} Or take the source as it is, not compared: {command}"
            raise Terminal(error.code, error.what, where=error.where, next_step=advice) from error
        with self.context.stage(SOURCE) as row:
            row["said"] = f"not compared: {error.what}" + (f"; accepted: {reason}" if reason else "")
            self._check(Verdict.WARNING, "not compared", row["said"], error.code)
            self.context.state.facts |= {"compared": f"The source was {row['said']}.", "unproven": True}
            if reason:
                audit.append(self.run.folder / audit.NAME, "source accepted unproven", reason=reason, why=error.what)

    def _compare(self, snapshot: Snapshot) -> tuple[SourceChanges, Damage]:
        replayed = {key for plan in replay.saved(self.run.workspace) for key in plan.ids()}
        with (
            self.run.progress("Prove the source", snapshot.total) as bar,
            open_chosen(self.run) as store,
        ):
            changes = source_changes(store, snapshot, bar, names=selected(self.run, store))
        fenced = fenced_since_snapshot(self.run.home, snapshot)
        return changes, judge(changes, fenced=fenced, replayed=replayed, remade=self._remade)

    @property
    def _remade(self) -> list[str]:
        """Collections that this rollback recreated: a current server may add settings that the old one did not have."""
        return list(self.context.state.facts.get("remade", []))

    def _decide(self, snapshot: Snapshot, damage: Damage) -> Damage:
        orders, run_id = self.context.state.orders, self.run.id
        changes = changes_text(damage.damaged, damage.vanished)
        if self.run.dry_run:
            stops = "a rollback would stop here until --restore-source or --accept-source is given"
            self._check(Verdict.WARNING, changes, stops, ReasonCode.SOURCE_DAMAGED)
            return damage
        snapshot.verify()  # the snapshot may be what is damaged; nothing is written from bytes that are not proven
        if orders.restore:
            damage = self._restore(snapshot, damage)
            changes = changes_text(damage.damaged, damage.vanished)
        if damage.nothing or orders.accept_source:
            return damage
        raise Terminal(
            ReasonCode.SOURCE_DAMAGED,
            f"the source is not what the snapshot says: {changes}",
            where=self.run.parameters.source.label,
            next_step=f"Clients were not sent back. Bring it back: {RUNBOOK} rollback {run_id} --restore-source; "
            f"or take it as it is: --accept-source REASON",
        )

    def _restore(self, snapshot: Snapshot, damage: Damage) -> Damage:
        orders, state = self.context.state.orders, self.context.state
        names = [n for n in orders.collections or sorted(damage.damaged) if n in damage.damaged]
        unknown = sorted(set(orders.collections) - set(snapshot.names()))
        if unknown:
            raise UsageError(ReasonCode.NO_SUCH_COLLECTION, f"snapshot {snapshot.id} holds no collection {unknown[0]}",
                             next_step=f"It holds {', '.join(snapshot.names()[:8])}.")  # fmt: skip
        if not names:
            return damage
        export = next_folder(self.run.workspace, "source-before")
        log = self.run.folder / audit.NAME
        audit.append(
            log, "source restored", outcome="begun", snapshot=snapshot.id, collections=names, export=str(export)
        )
        with open_for_writing(writing_endpoint(self.run.home, self.run.parameters)) as store:
            refuse_settings(store, damage, names)
            state.facts["remade"] = sorted({*self._remade, *(n for n in names if n in damage.vanished)})
            state.save(self.run.workspace)
            chunks = sum(c.chunks for n, c in damage.damaged.items() if n in names)
            replay.note_restored(self.run.workspace)
            with self.run.progress("Restore the source", chunks) as bar:
                done = mend(store, snapshot, damage, names, export, bar)
            for info in chosen(snapshot, state.facts["remade"]) if state.facts["remade"] else []:
                if info.name in names:
                    prove(store, snapshot, info)
        audit.append(log, "source restored", snapshot=snapshot.id, written=done)
        state.facts["restored"] = {**state.facts.get("restored", {}), **done}
        state.save(self.run.workspace)
        self.run.check(
            "source restored",
            Verdict.WARNING,
            measured=sum(done.values()),
            threshold=0,
            unit="chunks",
            reason=ReasonCode.SOURCE_RESTORED,
            detail=f"from snapshot {snapshot.id}, as ordered: {', '.join(names)}",
        )
        return self._compare(snapshot)[1]

    def _judge(self, snapshot: Snapshot, changes: SourceChanges, damage: Damage) -> str:
        if not damage.nothing and not self.run.dry_run:
            reason = self.context.state.orders.accept_source
            text = changes_text(damage.damaged, damage.vanished)
            self._check(Verdict.WARNING, text, f"accepted: {reason}", ReasonCode.SOURCE_DAMAGED)
            audit.append(self.run.folder / audit.NAME, "damaged source accepted", reason=reason, damage=text)
            return f"{text}; accepted: {reason}"
        if damage.by_clients:
            text = changes_text(damage.by_clients)
            unfenced = "no fence kept clients from writing to the source; their writes stay"
            self._check(Verdict.WARNING, text, unfenced, ReasonCode.SOURCE_MOVED_ON)
            return f"{count(changes.chunks, 'chunk')} compared; written by clients since: {text}"
        if damage.nothing:
            detail = f"{count(snapshot.total, 'chunk')} compared with snapshot {snapshot.id}"
            detail += "; what differs is what this rollback replayed" if changes.total else ""
            self._check(Verdict.PASS, _AS_TAKEN, detail)
            return f"{snapshot.total:,} chunks are as in snapshot {snapshot.id}"
        return changes_text(damage.damaged, damage.vanished)

    def _check(self, verdict: Verdict, measured: str, detail: str, reason: Reason = "") -> None:
        self.run.forget("source against the snapshot")
        self.run.check("source against the snapshot", verdict, measured=measured, threshold=_AS_TAKEN, reason=reason,
                       detail=detail)  # fmt: skip

    def _table(self, snapshot: Snapshot, damage: Damage) -> pd.DataFrame:
        rows = []
        all_changes = damage.damaged | damage.by_clients
        counts = {i.name: i.count for i in snapshot.collections()}
        for name in sorted({*counts, *all_changes}):
            changes = all_changes.get(name)
            verdict = "as in the snapshot" if changes is None else "damaged" if name in damage.damaged else "moved on"
            numbers = [len(x) for x in (changes.added, changes.changed, changes.deleted)] if changes else [0, 0, 0]
            rows.append([name, counts.get(name, 0), *numbers, verdict])
        return pd.DataFrame(rows, columns=COLUMNS)

"""The stage that proves the source, and mends it where that was ordered."""

from __future__ import annotations

import pandas as pd

from helpers import audit
from helpers.errors import RUNBOOK, Terminal, UsageError
from helpers.migration.source_changes import SourceChanges, selected, source_changes
from helpers.restore import chosen, prove
from helpers.results import Verdict
from helpers.rollback import replay
from helpers.rollback.act import Act
from helpers.rollback.source import (
    Damage,
    fenced_since_snapshot,
    judge,
    mend,
    open_for_writing,
    refuse_settings,
    said,
    writing_endpoint,
)  # fmt: skip
from helpers.rollback.state import SOURCE
from helpers.rollback.writes import next_folder
from helpers.run.source import open_chosen
from helpers.snapshot import Snapshot

COLUMNS = ["collection", "in the snapshot", "added", "changed", "deleted", "verdict"]


class SourceProof:
    """`moved` is filled by `prove`: (collection, id) of chunks that are not as in the snapshot, but for our own replay."""

    def __init__(self, act: Act) -> None:
        self.of, self.run = act, act.run
        self.moved: set[tuple[str, str]] = set()

    def prove(self) -> pd.DataFrame:
        """Raises `Terminal` ("source_damaged") where somebody has to decide first; nothing was touched then."""
        snapshot = self.of.made.snapshot
        if self.of.settled or snapshot is None:
            detail = "proven before the fence was lifted" if self.of.settled else "this run has taken no snapshot yet"
            self.run.check("source proven", Verdict.NOT_APPLICABLE, detail=detail)
            return pd.DataFrame(columns=COLUMNS)
        with self.of.stage(SOURCE) as row:
            changes, damage = self._compare(snapshot)
            if not damage.nothing:
                damage = self._decide(snapshot, damage)
            self.moved = {(n, i) for n, c in (damage.by_clients | damage.damaged).items()
                          for i in (*c.added, *c.changed, *c.deleted)}  # fmt: skip
            row["said"] = self._judge(snapshot, changes, damage)
        return self._table(snapshot, damage)

    def _compare(self, snapshot: Snapshot) -> tuple[SourceChanges, Damage]:
        ours = {key for plan in replay.saved(self.run.workspace) for key in plan.ids()}
        with (
            self.run.progress("Prove the source", snapshot.total) as bar,
            open_chosen(self.run) as store,
        ):
            changes = source_changes(store, snapshot, bar, names=selected(self.run, store))
        fenced = fenced_since_snapshot(self.run.home, snapshot)
        return changes, judge(changes, fenced=fenced, ours=ours, remade=self._remade)

    @property
    def _remade(self) -> list[str]:
        """Collections that this rollback made anew: a current server may add settings that the old one did not have."""
        return list(self.of.state.facts.get("remade", []))

    def _decide(self, snapshot: Snapshot, damage: Damage) -> Damage:
        orders, run_id = self.of.state.orders, self.run.id
        what = said(damage.damaged, damage.vanished)
        if self.run.dry_run:
            self.run.check("source as in the snapshot", Verdict.WARNING, measured=what, reason="source_damaged",
                           detail="a rollback would stop here until --restore-source or --accept-source is given")  # fmt: skip
            return damage
        snapshot.verify()  # it may be the snapshot that is damaged; nothing is written from bytes that are not proven
        if orders.restore:
            damage = self._restore(snapshot, damage)
            what = said(damage.damaged, damage.vanished)
        if damage.nothing or orders.accept_source:
            return damage
        raise Terminal(
            "source_damaged", f"the source is not what the snapshot says: {what}", where=self.run.parameters.source.label,
            next_step=f"Clients were not sent back. Bring it back: {RUNBOOK} rollback {run_id} --restore-source; "
            f"or take it as it is: --accept-source REASON",
        )  # fmt: skip

    def _restore(self, snapshot: Snapshot, damage: Damage) -> Damage:
        orders, state = self.of.state.orders, self.of.state
        names = [n for n in orders.collections or sorted(damage.damaged) if n in damage.damaged]
        unknown = sorted(set(orders.collections) - set(snapshot.names()))
        if unknown:
            raise UsageError("no_such_collection", f"snapshot {snapshot.id} holds no collection {unknown[0]}",
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
            with self.run.progress("Restore the source", chunks) as bar:
                done = mend(store, snapshot, damage, names, export, bar)
            for info in chosen(snapshot, state.facts["remade"]) if state.facts["remade"] else []:
                if info.name in names:
                    prove(store, snapshot, info)
        audit.append(log, "source restored", snapshot=snapshot.id, written=done)
        state.facts["restored"] = {**state.facts.get("restored", {}), **done}
        state.save(self.run.workspace)
        self.run.check("source restored", Verdict.WARNING, measured=sum(done.values()), unit="chunks", reason="source_restored",
                       detail=f"from snapshot {snapshot.id}, as ordered: {', '.join(names)}")  # fmt: skip
        return self._compare(snapshot)[1]

    def _judge(self, snapshot: Snapshot, changes: SourceChanges, damage: Damage) -> str:
        if not damage.nothing and not self.run.dry_run:
            reason = self.of.state.orders.accept_source
            what = said(damage.damaged, damage.vanished)
            self.run.check("source as in the snapshot", Verdict.WARNING, measured=what, reason="source_damaged",
                           detail=f"accepted: {reason}")  # fmt: skip
            audit.append(self.run.folder / audit.NAME, "damaged source accepted", reason=reason, damage=what)
            return f"{what}; accepted: {reason}"
        if damage.by_clients:
            what = said(damage.by_clients)
            self.run.check("source as in the snapshot", Verdict.WARNING, measured=what, reason="source_moved_on",
                           detail="no fence kept clients from writing to the source; their writes stay")  # fmt: skip
            return f"{changes.chunks:,} chunks compared; written by clients since: {what}"
        if damage.nothing:
            self.run.check("source as in the snapshot", Verdict.PASS, measured=snapshot.total, unit="chunks",
                           detail=f"every chunk compared with snapshot {snapshot.id}")  # fmt: skip
            return f"{snapshot.total:,} chunks are as in snapshot {snapshot.id}"
        return said(damage.damaged, damage.vanished)

    def _table(self, snapshot: Snapshot, damage: Damage) -> pd.DataFrame:
        rows = []
        every = damage.damaged | damage.by_clients
        counts = {i.name: i.count for i in snapshot.collections()}
        for name in sorted({*counts, *every}):
            found = every.get(name)
            verdict = "as in the snapshot" if found is None else "damaged" if name in damage.damaged else "moved on"
            numbers = [len(x) for x in (found.added, found.changed, found.deleted)] if found else [0, 0, 0]
            rows.append([name, counts.get(name, 0), *numbers, verdict])
        return pd.DataFrame(rows, columns=COLUMNS)

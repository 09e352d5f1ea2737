"""What 44, 46, 47 and 48 share: the target compared with what was staged, and mended by id."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any, ClassVar

import pandas as pd

from helpers.errors import Terminal
from helpers.migration.importing import plan_targets
from helpers.migration.staging import Staged
from helpers.results import Verdict
from helpers.schema import load_schema
from helpers.stores.client import ClientStore
from helpers.troubleshooting import target as target_side
from helpers.troubleshooting.desk import Condition, Desk
from helpers.troubleshooting.target import Mend


class StagedDesk(Desk):
    """A desk whose resolution deletes chunks of the target and adds them again as they were staged.

    `kinds` are the differences that are this notebook's; others are left to theirs.
    """

    kinds: ClassVar[Collection[str]]
    _differences: pd.DataFrame | None = None

    def differences(self) -> pd.DataFrame:
        """Every difference of this notebook's kinds, by chunk: target, id, difference, field, detail."""
        found = self.all_differences()
        return found[found["difference"].isin(self.kinds)].reset_index(drop=True)

    def all_differences(self, *, anew: bool = False) -> pd.DataFrame:
        """The whole comparison, read once; a probe reads it anew."""
        if self._differences is None or anew:
            staged = self.staged
            if staged is None:
                raise Terminal(
                    "nothing_staged", "this run has staged nothing yet", where=f"run {self.run.id}",
                    next_step=f"Run step 22 first: {self.run.home.command('resume')}",
                )  # fmt: skip
            total = sum(staged.rows(name) for name in staged.files)
            with self.target() as (store, there), self.run.progress("comparing with the target", total) as bar:
                self._differences = target_side.differences(store, there, staged, self.aside, bar)
        return self._differences

    def wrong_ids(self) -> dict[str, list[str]]:
        """target → the ids that the resolution deletes and, where they were staged, adds again."""
        rows = self.differences()
        return {str(name): sorted(set(part["id"])) for name, part in rows.groupby("target", sort=True)}

    def conditions(self, **options: Any) -> list[Condition]:
        staged = self.staged
        found = [
            self.nobody_at_work(),
            Condition("the staged chunks are there", staged is not None, "" if staged else "run step 22 first"),
        ]
        if staged is None or self.run.watches_only:
            return found
        ledger = self.ledger()
        done = ledger is not None and all(t.completed == t.rows for t in ledger.targets.values())
        found += self.settled()
        found.append(
            Condition("every batch was written", done, "" if done else f"{self.run.home.command('resume')} first")
        )
        with self.target() as (store, there):
            holder = (store.lock_holder() or {}).get("run_id", "") if store is not None else ""
        absent = sorted(name for name in staged.files if staged.rows(name) and name not in there)
        cut = {name for f in target_side.exports(self.run.workspace / "undo") for name in target_side.unfinished(f)}
        absent = [name for name in absent if name not in cut]
        why = f"{', '.join(absent)}: written by the migration, not mended: {self.run.home.command('resume')} --retry 22"
        found.append(Condition("the target's collections are there", not absent, why if absent else ""))
        found.append(Condition("no other run holds the target", holder in ("", self.run.id), str(holder)))
        return found

    def plan(self, **options: Any) -> pd.DataFrame:
        ids = self.wrong_ids()
        rows = [(name, len(chunks), ", ".join(chunks[:3])) for name, chunks in ids.items()]
        return pd.DataFrame(rows, columns=["target", "would be deleted and added again", "such as"])

    def apply(self, **options: Any) -> pd.DataFrame:
        ids = self.wrong_ids()
        staged = self.staged
        assert staged is not None
        with self.target() as (store, _):
            done = self._mend(store, staged).apply(ids)
        self.note("chunks deleted and added again", chunks={k: len(v) for k, v in ids.items()})
        self.run.fact("mended", done.to_dict("records"))
        return done

    def _mend(self, store: ClientStore | None, staged: Staged) -> Mend:
        assert store is not None, "the preconditions hold"
        identity = load_schema(self.run.parameters.schema_name).is_identity
        plans = plan_targets(
            self.snapshot.collections(), staged, identity=identity,
            drop_indexes=self.run.parameters.migration.drop_indexes,
        )  # fmt: skip
        return Mend(self.run, {plan.name: plan for plan in plans}, store, staged, self.aside)

    def undoable(self) -> pd.DataFrame:
        """The mends of this run that are not undone, the oldest first: name, time, chunks."""
        rows = []
        for folder in target_side.exports(self.run.workspace / "undo"):
            manifest = json.loads((folder / "undo.json").read_text(encoding="utf-8"))
            rows.append((folder.name, manifest["when"], sum(len(ids) for ids in manifest["ids"].values())))
        return pd.DataFrame(rows, columns=["mend", "when", "chunks"])

    def undo(self) -> pd.DataFrame:
        """Put back what the mends of this run replaced, the newest first; in a dry run, what would be."""
        waiting = self.undoable()
        if self.run.dry_run or waiting.empty:
            return waiting
        staged = self.staged
        assert staged is not None
        with self.target() as (store, _):
            done = self._mend(store, staged).undo()
        self.run.check("mend undone", Verdict.WARNING, measured=len(waiting), unit="mends", reason=self.code,
                       detail="the target is as it was before")  # fmt: skip
        return done

"""The target against what was staged, chunk by chunk, and the chunks of it put right by delete-and-add.

Never by upsert, which merges metadata and makes current servers lose other records (chroma-facts 7, 17). Deletes can do
that too, more rarely, so a collection from which anything was deleted is probed id by id, and written afresh where a search does
not find one. What the target holds is exported first: a mend can be undone, and a killed one is put right by the next.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from helpers import audit
from helpers.chunks import ChunkBatch
from helpers.migration import target_lock
from helpers.migration.checkpoint import Checkpoint
from helpers.migration.staging import Quarantine, Staged
from helpers.reason_codes import ReasonCode
from helpers.results import Progress, as_kind, contents, json_in, reading, silent, utc_now, write_json
from helpers.run import folders as runs
from helpers.run import plan
from helpers.run.folders import RunPath
from helpers.run.plan import Step
from helpers.run.record import RunRecord
from helpers.snapshots import comparison as compare
from helpers.snapshots.export_journal import OwnFile, read_parquet, write_parquet
from helpers.snapshots.snapshot import from_table, to_table
from helpers.stores import CollectionInfo
from helpers.stores.client import ClientStore
from helpers.validation.search import noise

SLICE = 200  # chunks in hand at a time
NEAR, FAR = 10, 1_000  # results of a probe; of the second one, where the first does not find its own id


def beyond_reach(store: ClientStore, name: str, ids: list[str]) -> list[str]:
    """The ids that a search by their own stored vector does not find among 1,000 results.

    Finding another id at the same distance will do: many chunks may share a vector. On ip a vector need not be its own
    nearest, so there only an index smaller than the query can be judged. Zero vectors have no direction.
    """
    space, count = store.info(name).space, store.count(name)
    lost: list[str] = []
    for start in range(0, len(ids), SLICE):
        batch = store.read(name, ids[start : start + SLICE])
        usable = np.isfinite(batch.embeddings).all(axis=1) & ~batch.lost & batch.embeddings.any(axis=1)
        lost += [batch.ids[i] for i in np.flatnonzero(batch.lost)]
        asked = batch.take(np.flatnonzero(usable))
        for k in (NEAR, FAR):
            if len(asked):
                answers = store.query(name, asked.embeddings, min(k, count))
                missed = [i for i in range(len(asked)) if not _found(asked, i, answers[i], space)]
                asked = asked.take(missed)
        if space != "ip" or count <= min(FAR, store.limits().query_results):
            lost += asked.ids
    return sorted(lost)


def _found(batch: ChunkBatch, row: int, answer: list[tuple[str, float]], space: str) -> bool:
    if any(chunk == batch.ids[row] for chunk, _ in answer):
        return True
    if not answer or space == "ip":
        return False
    scale = float(np.square(batch.embeddings[row].astype(np.float64)).sum())
    return answer[0][1] <= noise("cosine" if space == "cosine" else "l2", 0.0, scale)


COLUMNS = ["target", "id", "difference", "field", "detail"]
_DETAILED = 1000  # rows of a kind and target that say more than which id


def refused(aside: Quarantine, staged: Staged, target: str) -> set[int]:
    """The staged rows of this target that it refused when they were written: they stand in quarantine."""
    keys = {key for key, reason in aside.reasons().items() if reason == ReasonCode.REFUSED_BY_TARGET}
    if not keys:
        return set()
    return {i for i, origin in enumerate(staged.origins(target, 0, staged.rows(target))) if origin in keys}


def staged_chunks(staged: Staged, aside: Quarantine, target: str) -> Iterator[ChunkBatch]:
    """What is to stand in a target, without what it refused, in the staged order."""
    left_out, at = refused(aside, staged, target), 0
    for batch in staged.stream(target, 0, SLICE):
        kept = [i for i in range(len(batch)) if at + i not in left_out]
        at += len(batch)
        yield batch if len(kept) == len(batch) else batch.take(kept)


def differences(
    store: ClientStore | None, there: set[str], staged: Staged, aside: Quarantine, progress: Progress = silent
) -> pd.DataFrame:
    """Every chunk in which the target is not what was staged: target, id, difference (a reason code), field, detail."""
    rows: list[tuple[str, str, str, str, str]] = []
    for target in sorted(staged.files):
        present = store is not None and target in there
        space = store.info(target).space if store is not None and present else "l2"
        left = set(store.ids(target)) if store is not None and present else set()
        for pair in compare.compared(store if present else None, target, staged_chunks(staged, aside, target), space):
            left.difference_update(pair.expected.ids)
            rows += [(target, *row) for row in pair.differences.itertuples(index=False, name=None)]
            progress.advance(len(pair.expected))
        extra = "in the target, but staged by nobody"
        rows += [(target, chunk, ReasonCode.CHUNK_EXTRA, "", extra) for chunk in sorted(left)]
    found = pd.DataFrame(rows, columns=COLUMNS, dtype=object)
    brief = found.groupby(["target", "difference"]).cumcount() >= _DETAILED
    return found.assign(detail=found["detail"].mask(brief, ""))


@dataclass(slots=True)
class Mend:
    """Chunks of a target put right: `ids[target]` are deleted, and those of them that were staged are added again.

    `plans[target]` is the collection as it is created where it has to be written afresh.
    """

    run: RunRecord
    plans: Mapping[str, CollectionInfo]
    store: ClientStore
    staged: Staged
    aside: Quarantine

    @property
    def folder(self) -> Path:
        return self.run.workspace / RunPath.UNDO

    @property
    def ledger(self) -> Checkpoint:
        return Checkpoint.read(self.run.workspace / RunPath.CHECKPOINT)

    def _refuse_others(self, names: Iterable[str]) -> None:
        """Raises `Terminal` ("target_not_empty") where one of these collections is not the one that this run made."""
        if taken := sorted(set(names).intersection(self.ledger.replaced(self.store.identities()))):
            anew = "Made anew by somebody since the run began; nothing was changed there. "
            raise target_lock.target_not_empty(
                taken, self.run.parameters.target, self.store.label, None, self.run.id, anew
            )

    def apply(self, ids: dict[str, list[str]]) -> pd.DataFrame:
        """One row a target: chunks that were there (exported, deleted), added, whether it was written afresh."""
        void_verdicts(self.run)
        held = self._lock()
        try:
            self._refuse_others(ids)
            exported = self._export(ids)
            self._audit("target mended", "begun", ids, export=exported.name)
            rows = [(name, *self._one(name, wanted)) for name, wanted in sorted(ids.items()) if wanted]
            _state(exported, "done")
            self._audit("target mended", "done", ids, export=exported.name)
        finally:
            if not held:
                self.store.release_lock(self.run.id)
        return pd.DataFrame(rows, columns=["target", "there before", "added", "afresh"])

    def undo(self) -> pd.DataFrame:
        """Every mend of this run that is not undone, the newest first: puts back what was there."""
        void_verdicts(self.run)
        held, rows = self._lock(), []
        try:
            for folder in reversed(exports(self.folder)):
                manifest = manifest_of(folder)
                self._refuse_others(manifest["ids"])
                self._audit("repairs undone", "begun", manifest["ids"], export=folder.name)
                for name, wanted in sorted(manifest["ids"].items()):
                    rows.append((folder.name, name, *self._back(folder, name, wanted, manifest["files"][name])))
                _state(folder, "undone")
                self._audit("repairs undone", "done", manifest["ids"], export=folder.name)
        finally:
            if not held:
                self.store.release_lock(self.run.id)
        return pd.DataFrame(rows, columns=["mend", "target", "deleted", "put back", "without a vector"])

    def _one(self, name: str, wanted: Sequence[str]) -> tuple[int, int, bool]:
        if name not in self.store.names():  # a mend that was killed while it wrote the collection afresh
            return 0, self._afresh(name), True
        there = set(self.store.ids(name)).intersection(wanted)
        self.store.delete(name, sorted(there))
        added = self._add(name, set(wanted))
        if there and (lost := beyond_reach(self.store, name, self.store.ids(name))):
            self.run.log(f"{name}: {len(lost)} ids beyond reach after deleting {len(there)}; written afresh")
            self.store.drop(name)
            self._afresh(name)
            return len(there), added, True
        return len(there), added, False

    def _afresh(self, name: str) -> int:
        """The collection created, and all that is staged for it added; adds alone keep an index whole."""
        ledger = self.ledger
        ledger.intend(name)  # it gets another uuid
        self.store.create(self.plans[name])
        ledger.confirm(name, self.store.identity(name))
        return self._add(name, None)

    def _add(self, name: str, todo: set[str] | None) -> int:
        """Add these of the staged chunks, or all of them."""
        added = 0
        for batch in staged_chunks(self.staged, self.aside, name):
            mine = [i for i, chunk in enumerate(batch.ids) if todo is None or chunk in todo]
            if mine:
                self.store.add(name, batch.take(mine))
                added += len(mine)
        return added

    def _back(self, folder: Path, name: str, wanted: Sequence[str], files: Sequence[str]) -> tuple[int, int, int]:
        there = sorted(set(self.store.ids(name)).intersection(wanted))
        self.store.delete(name, there)
        put = lost = 0
        for file in files:
            batch = from_table(read_parquet(folder / file))
            whole = [i for i in range(len(batch)) if not batch.lost[i]]
            if whole:
                self.store.add(name, batch.take(whole))
            put, lost = put + len(whole), lost + len(batch) - len(whole)
        return len(there), put, lost

    def _export(self, ids: dict[str, list[str]]) -> Path:
        """Everything under these ids, exported to disk, before anything is touched."""
        number = len(list(self.folder.glob("*/undo.json"))) + 1
        folder = self.folder / f"{number:04d}-{self.run.step}"
        folder.mkdir(parents=True, exist_ok=True)
        files: dict[str, list[str]] = {}
        present = set(self.store.names())
        for position, (name, wanted) in enumerate(sorted(ids.items()), 1):
            files[name] = []
            for start in range(0, len(wanted) if name in present else 0, SLICE):
                batch = self.store.read(name, wanted[start : start + SLICE])
                if len(batch):
                    file = f"{position:03d}-{start // SLICE + 1:05d}.parquet"
                    write_parquet(folder / file, to_table(batch))
                    files[name].append(file)
        manifest = {"run_id": self.run.id, "step": self.run.step, "when": utc_now(), "ids": ids, "files": files}
        write_json(folder / "undo.json", {**manifest, "state": "intended"})
        return folder

    def _lock(self) -> bool:
        """Take the target's lock; whether this run held it before (a migration that is not finished keeps it)."""
        held = (self.store.lock_holder() or {}).get("run_id") == self.run.id
        self.store.acquire_lock(self.run.id)
        return held

    def _audit(self, action: str, outcome: str, ids: dict[str, list[str]], **facts: Any) -> None:
        counts = {name: len(chunks) for name, chunks in sorted(ids.items()) if chunks}
        audit.append(self.run.folder / audit.NAME, action, outcome=outcome, step=self.run.step, chunks=counts, **facts)


def exports(folder: Path) -> list[Path]:
    """The exports of mends that are not undone, the oldest first; `intended` ones were killed and may be half done."""
    every = [file.parent for file in sorted(folder.glob("*/undo.json"))]
    return [export for export in every if manifest_of(export)["state"] != "undone"]


def manifest_of(export: Path) -> dict[str, Any]:
    """What an export says of itself: state, when, ids and files by target."""
    with reading(path := export / "undo.json"):
        found = dict(json_in(contents(path, 2**31)))
        ids, files = as_kind(dict[str, list[str]], found["ids"]), as_kind(dict[str, list[OwnFile]], found["files"])
        if not {*ids} <= {*files} or not isinstance(found["state"], str) or not isinstance(found["when"], str):
            raise ValueError("it lacks the files of a target, or its state or time is no text")
        return found


def unfinished(export: Path) -> list[str]:
    """The targets of a mend that was begun and not finished."""
    manifest = manifest_of(export)
    return sorted(manifest["ids"]) if manifest["state"] == "intended" else []


def void_verdicts(run: RunRecord) -> None:
    """A target that is changed was judged by nobody: the results of 23 and later, and approvals that rest on them, go."""
    steps = [plan.find(number) for number in Step.MIGRATE.outdates]
    runs.supersede(run.home, steps)


def _state(folder: Path, state: str) -> None:
    write_json(folder / "undo.json", {**manifest_of(folder), "state": state})

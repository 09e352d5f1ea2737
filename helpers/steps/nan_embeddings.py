"""Notebook 47: vectors that are NaN, infinite, zero, lost, or of another dimension: where they are, in quarantine or not."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from helpers.errors import Terminal
from helpers.migration.importing import Job
from helpers.migration.reembedding import REEMBEDDED, as_written
from helpers.migration.staging import Quarantine
from helpers.parameters import parameters_from
from helpers.reason_codes import ReasonCode
from helpers.run.folders import RunPath
from helpers.schema.rules import vector_failures
from helpers.snapshots.snapshot import Snapshot
from helpers.stores import CollectionInfo
from helpers.troubleshooting import SLICE, Condition, ProbeResult, StagedTroubleshooter

REASONS = (
    ReasonCode.NAN_EMBEDDING,
    ReasonCode.INFINITE_EMBEDDING,
    ReasonCode.MISSING_EMBEDDING,
    ReasonCode.WRONG_DIMENSION,
    ReasonCode.TINY_NORM,
)
COLUMNS = ["collection", "id", "reason", "detail", "in quarantine", "whole in quarantine", "in target"]


class NanEmbeddingsStep(StagedTroubleshooter):
    """Checks that each vector that no index can hold is in quarantine, and that the target has a vector for each id."""

    code = ReasonCode.NAN_EMBEDDING
    kinds = (ReasonCode.VECTOR_DIFFERS,)
    _lost: dict[str, list[str]] | None = None

    def look(self) -> ProbeResult:
        self._lost = None
        table = self.unusable()
        detail = "the target lists the id and cannot give its vector"
        lost = [
            (name, chunk, ReasonCode.MISSING_EMBEDDING, detail, False, False, True)
            for name, ids in self.wrong_ids().items()
            for chunk in ids
        ]
        counts = table["reason"].value_counts().to_dict()
        sentences = [", ".join(f"{reason} {n:,}" for reason, n in sorted(counts.items())) or "every vector can be used"]
        sentences += [f"{len(_open(table)):,} of them not set aside"] if len(table) else []
        sentences += [f"{len(lost):,} of the target without a vector"] if lost else []
        shown = pd.concat([table, pd.DataFrame(lost, columns=COLUMNS)], ignore_index=True) if lost else table
        return ProbeResult(shown, len(_open(table)) + len(lost), "; ".join(sentences), "chunks")

    def unusable(self) -> pd.DataFrame:
        """One row for each chunk of the snapshot whose vector no index can hold: the reason, and where the chunk is now."""
        listed = self.quarantine.reasons()
        whole = {chunk for part in self.quarantine.chunks() for chunk in part.column("id").to_pylist()}
        snapshot = as_written(self.snapshot, self.run.workspace / REEMBEDDED)  # new vectors can be used
        rows = [(*key, reason, detail) for key, reason, detail in _broken(snapshot, self._allowed())]
        present = self._present({(collection, chunk) for collection, chunk, _, _ in rows})
        return pd.DataFrame(
            [(c, i, reason, detail, (c, i) in listed, i in whole, (c, i) in present) for c, i, reason, detail in rows],
            columns=COLUMNS,
        )

    def zeros(self) -> pd.DataFrame:
        """Zero vectors. Chroma stores them; their cosine distance to every vector is the same. Nothing is done about them."""
        rows = []
        for name in self.snapshot.names():
            for batch in self.snapshot.batches(name):
                zero = ~batch.lost & ~batch.embeddings.any(axis=1) if batch.dimension else batch.lost & False
                rows += [(name, batch.ids[i]) for i in np.flatnonzero(zero)]
        return pd.DataFrame(rows, columns=["collection", "id"])

    def ways(self) -> pd.DataFrame:
        """The two solutions, and whether this run can use them."""
        try:
            document = self.run.parameters.document()
            parameters_from({**document, "migration": {**document["migration"], "reembed": "default"}})
            reason, possible = "", True
        except Exception as error:  # a version that cannot re-embed refuses the parameter
            reason, possible = str(error).splitlines()[0][:160], False
        rows = [
            ("set aside", True, "resolve(): they stand in quarantine, whole; the decision matrix weighs them (0.1 %)"),
            ("give new vectors", possible, reason or "a new run with migration.reembed: FUNCTION"),
        ]
        return pd.DataFrame(rows, columns=["way", "possible", "detail"])

    def documents(self) -> pd.DataFrame:
        """The documents of these chunks, to embed them again: collection, id, document."""
        table = self.unusable()
        wanted = set(zip(table["collection"], table["id"], strict=True))
        rows = []
        for name in sorted(set(table["collection"])):
            for batch in self.snapshot.batches(name):
                pairs = zip(batch.ids, batch.documents, strict=True)
                rows += [(name, i, text) for i, text in pairs if (name, i) in wanted]
        return pd.DataFrame(rows, columns=["collection", "id", "document"])

    def conditions(self, **options: Any) -> list[Condition]:
        staged = self.staged
        return super().conditions(**options) if staged is not None else [self.idle_condition()]

    def plan(self, **options: Any) -> pd.DataFrame:
        table = _open(self.unusable())
        quarantine = [("set aside", c, n) for c, n in table["collection"].value_counts(sort=False).items()]
        repeat = [("delete and add again", name, len(ids)) for name, ids in self.wrong_ids().items()]
        return pd.DataFrame([*quarantine, *repeat], columns=["what", "collection", "chunks"])

    def apply(self, **options: Any) -> pd.DataFrame:
        """Write the quarantine again from the snapshot; delete and add again the target's chunks without a vector.

        Before step 22 has staged anything, this stages the chunks for it. Afterwards only the quarantine is written, and the
        staged rows must be the same.
        """
        broken = self.wrong_ids()
        self.set_aside()
        done = super().apply() if broken else pd.DataFrame(columns=["target", "there before", "added"])
        entries = pd.DataFrame(self.quarantine.entries(), columns=["collection", "id", "reason", "detail"])
        return entries if done.empty else done

    def set_aside(self) -> None:
        """Write the quarantine again. After a kill in the middle, the next call writes the rest. Raises Terminal where the staged
        rows are not the same."""
        before = self.staged
        job = Job.of(self.run, self.snapshot, self.run.workspace, "migration")
        with self.run.progress("Transform and validate", self.snapshot.total) as bar:
            if before is None:
                job.stage(bar)
                return
            trial = self.run.workspace / "restaged"
            quarantine = Quarantine(trial / RunPath.QUARANTINE)
            restaged = job.staged_in(trial / RunPath.STAGED, quarantine, bar)
        same = {n: restaged.rows(n) for n in restaged.files} == {n: before.rows(n) for n in before.files}
        if not same:
            raise Terminal(
                ReasonCode.STAGING_CHANGED, "the snapshot does not come out as it was staged", where=str(trial),
                next_step="Start a new run: the schema or the parameters are others.",
            )  # fmt: skip
        self.quarantine.folder.mkdir(parents=True, exist_ok=True)
        for file in sorted(quarantine.folder.glob("*.parquet")):
            file.replace(self.quarantine.folder / file.name)
        self.quarantine.write(quarantine.entries())
        shutil.rmtree(trial)
        self.note("quarantine made again from the snapshot", chunks=len(self.quarantine.entries()))

    def wrong_ids(self) -> dict[str, list[str]]:
        """Target collection → ids that it lists without a vector, or with one that is not finite."""
        if self._lost is None:
            self._lost = {}
            with self.target() as (store, names):
                staged = self.staged
                for name in sorted(names & set(staged.files)) if store is not None and staged is not None else ():
                    assert store is not None
                    ids = store.ids(name)
                    for start in range(0, len(ids), SLICE):
                        batch = store.read(name, ids[start : start + SLICE])
                        bad = batch.lost | ~np.isfinite(batch.embeddings).all(axis=1)
                        self._lost.setdefault(name, []).extend(batch.ids[i] for i in np.flatnonzero(bad))
            self._lost = {name: sorted(ids) for name, ids in self._lost.items() if ids}
        return self._lost

    def _allowed(self) -> list[int]:
        return list(self.run.parameters.expected.dimensions)

    def _present(self, keys: set[tuple[str, str]]) -> set[tuple[str, str]]:
        """Those of (collection, source id) that are in the target: in the collection and under the id that the schema gives."""
        present: set[tuple[str, str]] = set()
        with self.target() as (store, names):
            for target, origins in self.places(keys).items() if store is not None else ():
                assert store is not None
                if target in names:
                    present |= {origins[i] for i in store.read(target, list(origins), embeddings=False).ids}
        return present


def _open(table: pd.DataFrame) -> pd.DataFrame:
    """The rows that are not whole in quarantine, or are in the target nevertheless."""
    settled = table["in quarantine"].astype(bool) & table["whole in quarantine"].astype(bool)
    return table[~settled | table["in target"].astype(bool)]


def _broken(snapshot: Snapshot, allowed: list[int]) -> Iterator[tuple[tuple[str, str], str, str]]:
    """((collection, id), reason, detail) of the snapshot's chunks with a vector that no index can hold."""
    infos: dict[str, CollectionInfo] = {info.name: info for info in snapshot.collections()}
    for name, info in infos.items():
        for batch in snapshot.batches(name):
            failures = vector_failures(batch, info.dimension, allowed, info.space, False, collection=name)
            first = failures[failures["reason"].isin(REASONS)].drop_duplicates("id")
            yield from (
                ((name, str(i)), str(reason), str(detail))
                for i, reason, detail in first[["id", "reason", "detail"]].to_numpy()
            )

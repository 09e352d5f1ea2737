"""A schema through the whole line on real Chroma: source, snapshot, staging, target, comparison."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from helpers.chunks import ChunkBatch, Metadata
from helpers.migration.importing import plan_targets
from helpers.migration.staging import Quarantine, Staged, stage
from helpers.parameters import parameters_from
from helpers.parameters.endpoint import Endpoint
from helpers.results import Verdict
from helpers.schema import load_schema
from helpers.snapshots.snapshot import write_snapshot
from helpers.stores import Space, Store, open_target
from helpers.validation import Judgement
from helpers.validation.fidelity import Examination, Expectation
from helpers.validation.search import baseline
from tests.storage import plan

DATE = datetime.date(2025, 12, 1)


def chunks(rows: Mapping[str, tuple[str | None, Metadata | None]], seed: int = 1) -> ChunkBatch:
    """By id: document and metadata; each gets a vector of its own."""
    vectors = np.random.default_rng(seed).normal(size=(len(rows), 8)).astype(np.float32)
    return ChunkBatch(list(rows), [d for d, _ in rows.values()], vectors, [m for _, m in rows.values()])


@dataclass
class Migrated:
    """What came of it. `target` has every chunk of the target: collection → id → (document, metadata)."""

    staged: Staged
    aside: dict[str, tuple[str, str]]  # id of the source → reason, detail
    target: dict[str, dict[str, tuple[str | None, Metadata | None]]]
    judgement: Judgement

    @property
    def wrong(self) -> dict[str, str]:
        """The tests of step 23 that did not pass, each with its reason."""
        return {c.name: str(c.reason) for c in self.judgement.all() if c.verdict in (Verdict.FAIL, Verdict.WARNING)}


def nothing(store: Store) -> None:
    """No damage."""


def migrated(
    folder: Path,
    schema: Path | str,
    sources: Mapping[str, ChunkBatch],
    damage: Callable[[Store], None] = nothing,
    listed: Mapping[tuple[str, str], str] | None = None,
    *,
    spaces: Mapping[str, Space] | None = None,
    **migration: Any,
) -> Migrated:
    """As steps 21 to 23 do it; `damage` may change the target before that, `listed` adds to the quarantine's reasons. The
    source's distances are `spaces`, else cosine; `migration` is that section.
    """
    given: dict[str, Any] = {name: {"path": str(folder / name)} for name in ("source", "target")}
    parameters = parameters_from({**given, "schema": str(schema), "migration": migration})
    rules = load_schema(str(schema))
    with open_target(Endpoint(path=str(folder / "source"))) as store:
        for name, batch in sources.items():
            space = (spaces or {}).get(name, "cosine")
            store.create(plan(name, space))
            store.add(name, batch)
        snapshot = write_snapshot(store, folder, "snap", list(sources), retention_days=7)
        before = baseline(store, snapshot, parameters)
    quarantine = Quarantine(folder / "quarantine")
    context = Expectation(snapshot, rules, parameters, DATE, {}).context()
    staged = stage(snapshot, rules, context, folder / "staged", quarantine)
    again = stage(snapshot, rules, context, folder / "again", Quarantine(folder / "quarantine again"))
    assert contents(folder / "staged") == contents(folder / "again")  # a resumed staging gives the same bytes
    assert (staged.repairs, staged.quarantined) == (again.repairs, again.quarantined)
    of = Expectation(snapshot, rules, parameters, DATE, {**quarantine.reasons(), **(listed or {})}, before)
    with open_target(Endpoint(path=str(folder / "target"))) as store:
        if not staged.collided:
            for info in plan_targets(snapshot.collections(), staged, parameters.migration, rules):
                store.create(info)
                for part in staged.stream(info.name, 0, 100):
                    store.add(info.name, part)
        damage(store)
        found = Judgement(Examination(store, of).run(), of)
        target = {
            info.name: {
                i: (d, m) for batch in [store.read(info.name, store.ids(info.name))]
                for i, d, m in zip(batch.ids, batch.documents, batch.metadatas, strict=True)
            } for info in store.collections()
        }  # fmt: skip
    aside = {e["id"]: (e["reason"], e["detail"]) for e in quarantine.entries()}
    return Migrated(staged, aside, target, found)


def contents(folder: Path) -> dict[str, bytes]:
    """Each staged file by its path, but for the index, which names the folder."""
    return {
        str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file() and f.name != "index.json"
    }


def changed(
    collection: str, chunk: str, document: str | None = None, metadata: Metadata | None = None
) -> Callable[[Store], None]:
    """Damage: this chunk of the target has another document, or other metadata."""

    def damage(store: Store) -> None:
        batch = store.read(collection, [chunk])
        if document is not None:
            batch.documents = [document]
        if metadata is not None:
            batch.metadatas = [metadata]
        store.delete(collection, [chunk])
        store.add(collection, batch)

    return damage

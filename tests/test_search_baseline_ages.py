"""A day lies between the dry run's baseline and the night: what clients changed since says nothing about the migration."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from helpers.chunks import ChunkBatch
from helpers.parameters import parameters_from
from helpers.parameters.endpoint import Endpoint
from helpers.run.record import RunRecord
from helpers.snapshots.snapshot import Snapshot, write_snapshot
from helpers.steps.validate import ValidateStep, still_true
from helpers.stores import CollectionInfo, Store, open_target
from helpers.validation.search import baseline, equivalence
from tests.cutovers import migrated

CHUNKS, DIMENSION = 60, 8


def taken(store: Store, folder: Path, name: str) -> Snapshot:
    return write_snapshot(store, folder, name, store.names(), retention_days=7)


@pytest.mark.parametrize("space", ["l2", "cosine"])
def test_chunks_that_have_another_vector_by_then_are_left_out_of_it(tmp_path: Path, space: str) -> None:
    parameters = parameters_from(
        {"name": "n", "source": {"path": "s"}, "target": {"path": "t"}, "validation": {"k": 60}}
    )
    rng = np.random.default_rng(5)
    ids = [f"c{n}" for n in range(CHUNKS)]
    vectors = rng.standard_normal((CHUNKS, DIMENSION), dtype=np.float32)
    with open_target(Endpoint.model_validate({"path": str(tmp_path / "source")})) as store:
        for name in ("docs", "quiet"):
            store.create(CollectionInfo(name, 0, None, space, space, configuration={"hnsw": {"space": space}}))  # type: ignore[arg-type]
            store.add(name, ChunkBatch(ids, ["text"] * CHUNKS, vectors, [{"n": 1}] * CHUNKS))
        before = taken(store, tmp_path / "kept", "day")
        measured = baseline(store, before, parameters)
        assert still_true(measured, before, before) == measured
        first = {r["id"] for r in measured["collections"]["docs"]["probes"]}
        changed, gone = sorted(first)[:2]
        store.delete("docs", [changed, gone])
        fresh = rng.standard_normal((1, DIMENSION), dtype=np.float32)
        store.add("docs", ChunkBatch([changed], ["other"], fresh, [{"n": 2}]))
        now = taken(store, tmp_path / "kept", "night")
        answers = baseline(store, now, parameters)["collections"]["docs"]["probes"]
    kept = still_true(measured, before, now)
    assert kept["collections"]["quiet"] == measured["collections"]["quiet"]
    probes = kept["collections"]["docs"]["probes"]
    assert {r["id"] for r in probes} == first - {changed, gone}
    assert not {changed, gone} & {chunk for r in probes for key in ("plain", "over") for chunk, _ in r[key]}
    old, new = (equivalence(found["collections"]["docs"]["probes"], answers, space) for found in (measured, kept))  # type: ignore[arg-type]
    assert (str(old["verdict"]), str(new["verdict"])) == ("fail", "pass"), "the source changed, the migration is right"


def test_a_run_whose_source_was_never_searched_shows_an_empty_table(folders: Path, own_folders: None) -> None:
    record = RunRecord(migrated(folders, {}).read(), "23")
    suite = ValidateStep(record)
    suite.read_target()
    assert suite.distances().empty
    assert "same_chunks" in suite.distances().describe()  # as notebook 23 shows it

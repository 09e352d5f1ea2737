"""A day lies between the dry run's baseline and the night: what clients changed since says nothing about the migration."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from helpers.chunks import ChunkBatch
from helpers.parameters import parameters_from
from helpers.parameters.endpoint import Endpoint
from helpers.results import Verdict
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
    assert kept["collections"]["docs"]["moved"] > 0
    assert not {changed, gone} & {chunk for r in probes for key in ("plain", "over") for chunk, _ in r[key]}
    old, new = (equivalence(found["collections"]["docs"]["probes"], answers, space) for found in (measured, kept))  # type: ignore[arg-type]
    assert (str(old["verdict"]), str(new["verdict"])) == ("fail", "pass"), "the source changed, the migration is right"


class Written:
    """A source in which clients go on to write: once its snapshot is read, before it is searched."""

    def __init__(self, store: Store, changed: list[str], gone: list[str], new: list[str]) -> None:
        self.store, self.changed, self.gone, self.new, self.done = store, changed, gone, new, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    def query(self, name: str, vectors: Any, k: int) -> Any:
        if not self.done:
            self.done = True
            self.store.delete(name, [*self.changed, *self.gone])
            came = [*self.changed, *self.new]
            fresh = np.random.default_rng(9).standard_normal((len(came), DIMENSION)).astype(np.float32)
            self.store.add(name, ChunkBatch(came, ["other"] * len(came), fresh, [{"n": 2}] * len(came)))
        return self.store.query(name, vectors, k)


@pytest.mark.parametrize("space", ["l2", "cosine", "ip"])
@pytest.mark.parametrize(("changed", "gone", "new"), [(6, 5, 5), (0, 0, 8), (0, 8, 0), (CHUNKS, 0, 0)])
def test_what_clients_change_between_the_reading_and_the_search_is_left_out_and_counted(
    tmp_path: Path, space: str, changed: int, gone: int, new: int
) -> None:
    parameters = parameters_from({"name": "n", "source": {"url": "http://s:1"}, "target": {"path": "t"}})
    rng = np.random.default_rng(5)
    ids = [f"c{n}" for n in range(CHUNKS)]
    whole = ChunkBatch(
        ids, ["text"] * CHUNKS, rng.standard_normal((CHUNKS, DIMENSION)).astype(np.float32), [{"n": 1}] * CHUNKS
    )
    with (
        open_target(Endpoint.model_validate({"path": str(tmp_path / "source")})) as store,
        open_target(Endpoint.model_validate({"path": str(tmp_path / "target")})) as copy,
    ):
        for place in (store, copy):
            place.create(CollectionInfo("docs", 0, None, space, space, configuration={"hnsw": {"space": space}}))  # type: ignore[arg-type]
            place.add("docs", whole)
        snapshot = taken(store, tmp_path / "kept", "day")
        still = baseline(store, snapshot, parameters)["collections"]["docs"]
        source = Written(store, ids[:changed], ids[changed : changed + gone], [f"n{n}" for n in range(new)])
        live = baseline(cast(Store, source), snapshot, parameters)["collections"]["docs"]
        answers = baseline(copy, snapshot, parameters)["collections"]["docs"]["probes"]
    assert still["moved"] == 0
    assert source.done
    assert live["moved"] > 0
    touched = {*ids[: changed + gone], *source.new}
    assert not touched & {r["id"] for r in live["probes"]}
    assert not touched & {chunk for r in live["probes"] for key in ("plain", "over") for chunk, _ in r[key]}
    assert all(r["recall"] in (1.0, None) and r["over_recall"] in (1.0, None) for r in live["probes"])
    found = equivalence(live["probes"], answers, space, moved=live["moved"])  # type: ignore[arg-type]
    assert found["verdict"] is (Verdict.PASS if changed < CHUNKS else Verdict.NOT_EXERCISED)
    assert f"{live['moved']} pairs left out: clients changed them meanwhile" in found["detail"]


def test_a_run_whose_source_was_never_searched_shows_an_empty_table(folders: Path, own_folders: None) -> None:
    record = RunRecord(migrated(folders, {}).read(), "23")
    suite = ValidateStep(record)
    suite.read_target()
    assert suite.distances().empty
    assert "same_chunks" in suite.distances().describe()  # as notebook 23 shows it

"""A chunk in quarantine with which nothing is wrong is a chunk lost: found by id, and NO-GO."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import numpy as np

from helpers.chunks import ChunkBatch
from helpers.parameters import parameters_from
from helpers.reason_codes import ReasonCode
from helpers.results import Verdict
from helpers.schema import load_schema
from helpers.snapshots.snapshot import write_snapshot
from helpers.stores import CollectionInfo, open_source, open_target
from helpers.validation import Judgement
from helpers.validation.fidelity import Examination, Expectation


def test_only_what_is_wrong_may_be_set_aside(tmp_path: Path) -> None:
    parameters = parameters_from(
        {"name": "n", "source": {"path": str(tmp_path / "a")}, "target": {"path": str(tmp_path / "b")}}
    )
    vectors = np.random.default_rng(1).standard_normal((30, 8)).astype(np.float32)
    ids = [f"c{n}" for n in range(30)]
    info = CollectionInfo("abc", 0, None, "l2", "l2", configuration={"hnsw": {"space": "l2"}})
    here = parameters.target.model_copy(update={"path": str(tmp_path / "a")})
    with open_target(here) as store:
        store.create(info)
        store.add("abc", ChunkBatch(ids, [f"text {i}" for i in ids], vectors, [{"n": 1}] * 30))
    with open_source(parameters.source, tmp_path) as store:
        snapshot = write_snapshot(store, tmp_path / "snapshots", "s", ["abc"], retention_days=7)
    with open_target(parameters.target) as store:
        store.create(info)
        store.add("abc", ChunkBatch(ids[2:], [f"text {i}" for i in ids[2:]], vectors[2:], [{"n": 1}] * 28))
        aside = {("abc", "c0"): "nan_embedding", ("abc", "c1"): "refused_by_target"}
        of = Expectation(snapshot, load_schema("identity"), parameters, dt.date(2026, 1, 1), aside)
        found = Examination(store, of).run()
    check = Judgement(found, of).counts()
    assert dict(found.counted) == {ReasonCode.QUARANTINE_UNEXPLAINED: 1}
    assert (check.verdict, check.reason, [i["id"] for i in check.ids]) == (
        Verdict.FAIL,
        ReasonCode.QUARANTINE_UNEXPLAINED,
        ["c0"],
    )

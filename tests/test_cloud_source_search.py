"""Search compared with a source that gives few results, indexes later or answers approximate distances: no false failure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from helpers.parameters import Parameters, parameters_from
from helpers.results import Verdict
from helpers.snapshots.comparison import unreachable
from helpers.snapshots.snapshot import Snapshot, write_snapshot
from helpers.stores import Reader, open_source
from helpers.validation.search import baseline, equivalence
from tests.cloud_standin import CloudStandIn
from tests.servers import ChromaServer
from tests.storage import chunks, embedded, fill

KEY = {"x-chroma-token": "env:CHROMA_API_KEY"}


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CloudStandIn]:
    batch = chunks(500, 8)
    with ChromaServer(tmp_path_factory.mktemp("cloud") / "db") as server, CloudStandIn(server.url) as running:
        with running.client(behind=True) as client:
            notes = client.create_collection("notes", metadata={"hnsw:space": "cosine"}, embedding_function=None)
            notes.add(ids=batch.ids, embeddings=batch.embeddings, documents=batch.documents)
        yield running


@pytest.fixture
def parameters(cloud: CloudStandIn, monkeypatch: pytest.MonkeyPatch) -> Parameters:
    monkeypatch.setenv("CHROMA_API_KEY", cloud.key)
    return parameters_from(
        {"source": {"cloud": True, "url": cloud.url, "timeout_seconds": 60.0}, "target": {"path": "new"}}
    )


@pytest.fixture
def source(parameters: Parameters, tmp_path: Path) -> Iterator[Reader]:
    with open_source(parameters.source, tmp_path) as store:
        yield store


@pytest.fixture
def snapshot(source: Reader, tmp_path: Path) -> Snapshot:
    return write_snapshot(source, tmp_path / "snapshots", "cloud", ["notes"], retention_days=1)


def measured(source: Reader, snapshot: Snapshot, parameters: Parameters) -> dict[str, Any]:
    return cast(dict[str, Any], baseline(source, snapshot, parameters)["collections"]["notes"])


def test_the_baseline_asks_for_what_the_source_gives_and_says_how_many_that_were(
    cloud: CloudStandIn, source: Reader, snapshot: Snapshot, parameters: Parameters
) -> None:
    cloud.set(reset=True)
    found = measured(source, snapshot, parameters)
    assert found["overquery"] == 300 < parameters.validation.overquery
    assert found["doubt"] == ""
    assert len(found["probes"]) == parameters.validation.probes
    assert cloud.counts()["violations"] == {}
    assert equivalence(found["probes"], found["probes"], "cosine", found["doubt"])["verdict"] is Verdict.PASS


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        ("behind", "7 writes are not indexed there yet"),
        ("blind", "it does not find 20 of 20 chunks by their own vector"),
        ("approximate", "distances that it answers are not those of its vectors"),
    ],
)
def test_a_search_of_cloud_that_is_no_measure_warns_and_never_fails_a_sound_target(
    source: Reader, snapshot: Snapshot, parameters: Parameters, monkeypatch: pytest.MonkeyPatch, trouble: str, said: str
) -> None:
    sound = measured(source, snapshot, parameters)["probes"]
    whole = type(source).query
    if trouble == "behind":
        monkeypatch.setattr(type(source), "unindexed", lambda self, name: 7)
    elif trouble == "blind":
        monkeypatch.setattr(
            type(source), "query", lambda self, n, v, k, **w: [a[50:] for a in whole(self, n, v, k, **w)]
        )
    else:
        monkeypatch.setattr(
            type(source),
            "query",
            lambda self, n, v, k, **w: [[(i, d + 0.01) for i, d in a] for a in whole(self, n, v, k, **w)],
        )
    found = measured(source, snapshot, parameters)
    assert said in found["doubt"]
    row = equivalence(found["probes"], sound, "cosine", found["doubt"])
    assert row["verdict"] is Verdict.WARNING
    assert said in row["detail"]
    lost = [{**probe, "reachable": i > 4} for i, probe in enumerate(sound)]
    assert (
        equivalence(found["probes"], lost, "cosine", found["doubt"])["verdict"] is Verdict.FAIL
    )  # the target's own fault


def test_a_probe_takes_what_a_target_gives_for_a_whole_answer(tmp_path: Path) -> None:
    """Two hundred chunks with one vector, of which the store gives forty: the own one need not be among them."""
    batch = chunks(200, 4)
    batch.embeddings = np.ones((200, 4), np.float32)
    with embedded(tmp_path / "db") as store:
        fill(store, "notes", batch)
        store.requests.limits = replace(store.limits(), query_results=40)
        assert unreachable(store, "notes", batch, "l2") == []

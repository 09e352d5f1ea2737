"""Chroma Cloud through the steps: every reader within the quotas, what it takes told before and recorded after."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.errors import RunbookError
from helpers.fence import probe
from helpers.migration.source_changes import source_changes
from helpers.monitoring import measure
from helpers.monitoring.watcher import Watcher
from helpers.parameters import parameters_from
from helpers.run import folders as runs
from helpers.run.record import PLACE, USAGE, RunRecord, open_chosen
from helpers.snapshots.retention import described
from helpers.snapshots.snapshot import Snapshot
from helpers.steps import source_health
from helpers.steps.explore_source import ExploreSourceStep
from helpers.steps.snapshot import take_snapshot
from helpers.steps.source_health import SourceHealthStep
from tests.cloud_standin import TENANT, CloudStandIn
from tests.servers import ChromaServer
from tests.storage import chunks

SIZES = {"notes": 650, "papers": 340}
Begin = Callable[..., RunRecord]
SPARSE = {"#type": "sparse_vector", "indices": [3, 70_000], "values": [0.5, 1.25]}


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CloudStandIn]:
    """Two collections with documents, uris, metadata lists; in `papers` every chunk has a sparse vector."""
    with ChromaServer(tmp_path_factory.mktemp("cloud") / "db") as server, CloudStandIn(server.url) as running:
        with running.client(behind=True) as client:
            for name, number in SIZES.items():
                batch = chunks(number, 16, prefix=name)
                found = client.create_collection(name, metadata={"hnsw:space": "cosine"}, embedding_function=None)
                more = {"tags": ["a", "b"], **({"sparse": "@sparse:3,70000:0.5,1.25"} if name == "papers" else {})}
                found.add(
                    ids=batch.ids, embeddings=batch.embeddings, documents=batch.documents,
                    metadatas=[{**(m or {}), **more} for m in batch.metadatas], uris=[f"file:///{i}" for i in batch.ids],
                )  # fmt: skip
        running.set(sparse_index={"papers": ["sparse"]}, quantized=["notes"])
        yield running


@pytest.fixture
def begin(cloud: CloudStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Begin:
    monkeypatch.setenv("RUNBOOK_REPORTS", str(tmp_path / "reports"))
    monkeypatch.setenv("RUNBOOK_WORKSPACE", str(tmp_path / "workspace"))
    monkeypatch.setenv("CHROMA_API_KEY", cloud.key)
    cloud.set(reset=True)

    def start(step: str, run_id: str = "") -> RunRecord:
        source = {"cloud": True, "url": cloud.url, "timeout_seconds": 60.0}
        sections = {"snapshot": {"directory": str(tmp_path / "snapshots")}, "target": {"path": str(tmp_path / "new")}}
        parameters = parameters_from({"name": "out", "source": source, **sections})
        folder = runs.find(run_id) if run_id else runs.create(parameters, f"out-{step}")
        return RunRecord(folder.read(), step, parameters)

    return start


def taken(run: RunRecord) -> Snapshot:
    with open_chosen(run) as store:
        return take_snapshot(run, store)


@pytest.mark.more
def test_10_shows_the_place_the_limits_and_what_reading_takes(begin: Begin, cloud: CloudStandIn) -> None:
    run = begin("10")
    health = SourceHealthStep(run)
    reached = health.reach()["value"]
    assert reached["tenant / database"] == f"{TENANT} / production"
    assert TENANT in reached["source"]
    shapes = health.shapes().set_index("collection")
    assert list(shapes["space"]) == ["cosine", "cosine"]
    told = health.reading()["value"]
    assert told["limit: read rows"] == "300"
    assert told["limit: concurrent reads"] == "10"
    assert "$0.09 per GiB returned" in told["price of one reading"]
    assert "check them" in told["prices from"]
    assert run.result.facts[source_health.READING]["chunks"] == sum(SIZES.values())
    assert run.home.read().facts[PLACE] == f"{cloud.url} ({TENANT}/production)"
    assert cloud.counts()["violations"] == {}


def test_a_snapshot_takes_what_was_estimated_and_keeps_everything(begin: Begin, cloud: CloudStandIn) -> None:
    run = begin("21")
    snapshot = taken(run)
    counts, used, told = cloud.counts(), run.result.facts[USAGE], run.result.facts[source_health.READING]
    assert counts["violations"] == {}
    assert {i.name: i.count for i in snapshot.collections()} == SIZES
    # the sample and the collections' own probes are read besides
    assert used["requests"] == pytest.approx(told["requests"], abs=60)
    assert 0.8 * told["bytes"] < used["bytes"] < 2.5 * told["bytes"]
    assert used["rows"] >= 2 * sum(SIZES.values())  # ids, then chunks
    papers = chunks(SIZES["papers"], 16, prefix="papers")
    read = {i: row for batch in snapshot.batches("papers") for row, i in enumerate(batch.ids)}
    assert set(read) == set(papers.ids)
    for batch in snapshot.batches("papers"):
        where = [papers.ids.index(i) for i in batch.ids]
        assert np.allclose(batch.embeddings, papers.embeddings[where], rtol=1e-6)
        assert batch.documents == [papers.documents[i] for i in where]
        assert batch.uris == [f"file:///{i}" for i in batch.ids]
        for metadata in batch.metadatas:
            assert metadata is not None
            assert metadata["tags"] == ["a", "b"]
            kept: Any = metadata["sparse"]
            assert (list(kept.indices), list(kept.values)) == (SPARSE["indices"], SPARSE["values"])
    spann = next(i for i in snapshot.collections() if i.name == "notes")
    assert "spann" in json.dumps(spann.schema)
    assert "quantize" in json.dumps(spann.schema)


@pytest.mark.more
def test_11_and_the_proof_of_25_and_the_watch_of_27_stay_within_the_quotas(begin: Begin, cloud: CloudStandIn) -> None:
    first = begin("21")
    snapshot = taken(first)
    first.fact("snapshot", described(snapshot))
    first.finish()
    cloud.set(reset=True)
    desk = ExploreSourceStep(begin("11"))
    assert desk.profile.chunks == sum(SIZES.values())
    chunk = snapshot.read(snapshot.parts("notes")[0]).ids[0]
    assert len(desk.like(chunk, k=3)) > 0
    run = begin("25", first.id)
    with open_chosen(run) as store:
        assert source_changes(store, snapshot).nothing
    chosen = measure.choose_probes(run, measure.SOURCE, 3)
    found = Watcher(lambda: open_chosen(run), chosen, run.parameters.source).sample(0.0)
    assert (found.trouble, found.queries, len(chosen)) == ([], 6, 6)
    counts = cloud.counts()
    assert counts["violations"] == {}
    assert counts["highest"]["reads"] <= 10


def test_waiting_is_said_beside_the_bar_and_in_the_log(begin: Begin, cloud: CloudStandIn) -> None:
    run = begin("21")
    shown: list[str] = []
    with open_chosen(run) as store, run.progress("Snapshot", 10) as bar:
        bar.advance(1)
        cloud.set(storm=3, retry_after=0.4)
        store.count("notes")
        shown.append(json.loads((run.workspace / "progress.json").read_text())["label"])
        bar.advance(9)
    assert "Snapshot (asked to slow down (429): waiting" in shown[0]
    assert "(429)" not in json.loads((run.workspace / "progress.json").read_text())["label"]
    assert "asked to slow down (429)" in (run.folder / "run.log").read_text()
    assert run.result.facts[USAGE]["waited"] >= 3 * 0.4


def test_a_key_that_opens_another_place_does_not_go_on_with_the_run(begin: Begin, cloud: CloudStandIn) -> None:
    run = begin("10")
    with open_chosen(run) as store:
        assert store.names() == sorted(SIZES)
    run.home.note(**{PLACE: f"{cloud.url} (somebody-else/production)"})
    with pytest.raises(RunbookError) as caught, open_chosen(begin("11", run.id)):
        pass
    assert caught.value.code == "other_source"
    assert "somebody-else" in caught.value.line()
    assert "\n" not in caught.value.line()


def test_the_probe_of_20_asks_at_the_place_of_the_key_and_counts_every_page(
    begin: Begin, cloud: CloudStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "_PAGE", 1)
    with probe.ServerProbe(cloud.url, begin("20").parameters.source, "source") as asked:
        assert [(a.action, a.outcome) for a in asked.reads()] == [
            ("list collections", probe.WRITTEN), ("count", probe.WRITTEN), ("get", probe.WRITTEN), ("query", probe.WRITTEN),
        ]  # fmt: skip
        assert sorted(asked.counts().values()) == sorted(SIZES.values())


def test_21_reads_no_sample_again_where_10_has_measured_it(begin: Begin, cloud: CloudStandIn) -> None:
    run = begin("10")
    SourceHealthStep(run).reading()
    run.result.write(run.folder / "results" / "10.json")
    cloud.set(reset=True)
    again = begin("21", run.id)
    taken(again)
    assert again.result.facts[source_health.READING] == run.result.facts[source_health.READING]
    assert sum(cloud.counts()["vectors_again"].values()) <= 2 * 30  # those that prove each collection's space

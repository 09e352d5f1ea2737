"""A source that does not give what it says it holds is refused by the health check and by the dry run."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import chromadb
import pytest

from helpers.chunks import ChunkBatch
from helpers.errors import Terminal
from helpers.migration.source_changes import source_changes
from helpers.parameters import parameters_from
from helpers.parameters.endpoint import Endpoint
from helpers.results import Check, Verdict
from helpers.run import folders as runs
from helpers.run.record import RunRecord
from helpers.snapshots.snapshot import write_snapshot
from helpers.steps.dry_run import DryRunStep
from helpers.steps.source_health import SourceHealthStep
from helpers.stores import listed_ids, open_source
from tests.proxies import EMPTY, PASS, SWAPPED, FaultyProxy
from tests.servers import ChromaServer, client_of
from tests.storage import chunks

CHUNKS = 120
FOUND = "stored vectors not found by a search"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChromaServer]:
    with ChromaServer(tmp_path_factory.mktemp("source") / "db") as running:
        with client_of(running.url) as client:
            batch = chunks(CHUNKS, 16)
            client.create_collection("notes", embedding_function=None).add(ids=batch.ids, embeddings=batch.embeddings)
        yield running


@pytest.fixture
def proxy(server: ChromaServer) -> Iterator[FaultyProxy]:
    with FaultyProxy(server.url) as between:
        yield between


def begun(step: str, proxy: FaultyProxy, tmp_path: Path, run_id: str = "one") -> RunRecord:
    places = {"target": {"path": str(tmp_path / "new")}, "snapshot": {"directory": str(tmp_path / "snapshots")}}
    parameters = parameters_from({"name": "n", "source": {"url": proxy.url}, **places})
    return RunRecord(runs.create(parameters, f"{run_id}-{step}"), step)


def check(run: RunRecord, name: str) -> Check:
    [found] = [check for check in run.result.checks if check.name == name]
    return found


@pytest.mark.usefixtures("own_folders")
@pytest.mark.more
def test_one_that_counts_and_lists_nothing(proxy: FaultyProxy, tmp_path: Path) -> None:
    proxy.fault = lambda _, path: EMPTY if path.endswith("/get") else PASS
    health = begun("10", proxy, tmp_path)
    SourceHealthStep(health).diagnosis()
    told = check(health, "collections that give less than they count")
    assert (told.verdict, told.detail) == (Verdict.FAIL, f"notes: counts {CHUNKS}, lists 0, gives 0")
    with pytest.raises(Terminal, match=f"counts {CHUNKS} chunks and lists 0") as caught:
        DryRunStep(begun("13", proxy, tmp_path)).take_snapshot()
    assert caught.value.code == "count_mismatch"
    assert not (tmp_path / "new").exists()


def after(passing: int, fault: str) -> Callable[[str, str], str]:
    """This fault for all requests for chunks but the first ones."""
    seen = itertools.count()
    return lambda _, path: fault if path.endswith("/get") and next(seen) >= passing else PASS


@pytest.mark.more
def test_every_reading_is_held_against_the_count(proxy: FaultyProxy, tmp_path: Path) -> None:
    """An answer that leaves chunks out would look like their deletion: a catch-up would delete them in the target."""
    with open_source(Endpoint(url=proxy.url), tmp_path) as store:
        taken = write_snapshot(store, tmp_path / "snapshots", "snap", ["notes"], retention_days=7)
        assert source_changes(store, taken).chunks == CHUNKS
        for passing in (0, 2):  # the ids come in two requests, the second is empty
            proxy.fault = after(passing, EMPTY)
            with pytest.raises(Terminal, match=f"counts {CHUNKS} chunks and lists 0") as caught:
                source_changes(store, taken)
            assert caught.value.code == "count_mismatch"
        proxy.fault = lambda _, path: EMPTY if path.endswith("/get") else PASS
        with pytest.raises(Terminal, match="lists 0"):
            listed_ids(store, "notes")
        proxy.fault = proxy.faults
        assert len(listed_ids(store, "notes")) == CHUNKS


@pytest.mark.more
def test_one_that_lists_what_it_does_not_give_is_told_from_a_deletion(proxy: FaultyProxy, tmp_path: Path) -> None:
    """The ids are asked for by a request that names none of them."""
    with open_source(Endpoint(url=proxy.url), tmp_path) as store:
        taken = write_snapshot(store, tmp_path / "snapshots", "snap", ["notes"], retention_days=7)
        store.read = lambda name, ids, **_: ChunkBatch.empty(16)  # type: ignore[method-assign]
        with pytest.raises(Terminal, match=f"counts {CHUNKS} chunks and gives 0") as caught:
            source_changes(store, taken)
    assert caught.value.code == "count_mismatch"


@pytest.mark.more
@pytest.mark.parametrize("comes_back", [False, True])
def test_a_client_that_replaces_a_chunk_meanwhile_is_a_change_and_no_contradiction(
    server: ChromaServer, proxy: FaultyProxy, tmp_path: Path, comes_back: bool
) -> None:
    """The count stays as it was: as many chunks came as went."""
    with open_source(Endpoint(url=proxy.url), tmp_path) as store, client_of(server.url) as client:
        notes = client.create_collection("swaps", embedding_function=None)
        notes.add(ids=["a", "b", "c"], embeddings=chunks(3, 16).embeddings)
        taken = write_snapshot(store, tmp_path / "snapshots", "snap", ["swaps"], retention_days=7)
        gets, counts = itertools.count(), itertools.count()

        def behind(_: str, path: str) -> str:
            """The chunk goes after the ids were listed, in two requests; another comes then, or it again before the next list."""
            read = path.endswith("/get") and next(gets) == 2
            listed_again = path.endswith("/count") and next(counts) == 2
            if read:
                notes.delete(ids=["a"])
            if listed_again if comes_back else read:
                notes.add(ids=["a" if comes_back else "d"], embeddings=chunks(1, 16).embeddings)
            return PASS

        proxy.fault = behind
        try:
            [changes] = source_changes(store, taken, names=["swaps"]).collections.values()
        finally:
            client.delete_collection("swaps")
        assert (changes.changed, changes.deleted) == ((["a"], []) if comes_back else ([], ["a"]))


@pytest.mark.usefixtures("own_folders")
@pytest.mark.more
def test_one_whose_vectors_come_back_under_the_ids_of_others(proxy: FaultyProxy, tmp_path: Path) -> None:
    for fault, verdict in ((PASS, Verdict.PASS), (SWAPPED, Verdict.FAIL)):
        proxy.fault = lambda _, path, fault=fault: fault if path.endswith("/get") else PASS  # type: ignore[misc]
        health, dry = begun("10", proxy, tmp_path, fault), begun("13", proxy, tmp_path, fault)
        SourceHealthStep(health).diagnosis()
        DryRunStep(dry).measure_source()
        for run in (health, dry):
            told = check(run, FOUND)
            assert told.verdict is verdict, run.step
            assert ("notes: " in told.detail) == (fault == SWAPPED)


@pytest.mark.usefixtures("own_folders")
def test_a_poor_graph_that_misses_most_is_a_warning(tmp_path: Path) -> None:
    """It contradicts nothing: what is listed comes, and a migration builds a better graph."""
    poor = {"hnsw": {"max_neighbors": 2, "ef_construction": 2, "ef_search": 2}}
    client = chromadb.PersistentClient(str(tmp_path / "source"))
    many = chunks(1500, 256)
    collection = client.create_collection("notes", embedding_function=None, configuration=poor)  # type: ignore[arg-type]
    collection.add(ids=many.ids, embeddings=many.embeddings)
    client.close()  # type: ignore[attr-defined]
    places = {"target": {"path": str(tmp_path / "new")}, "snapshot": {"directory": str(tmp_path / "snapshots")}}
    parameters = parameters_from({"name": "n", "source": {"path": str(tmp_path / "source")}, **places})
    health, dry = (RunRecord(runs.create(parameters, f"poor-{step}"), step) for step in ("10", "13"))
    SourceHealthStep(health).diagnosis()
    DryRunStep(dry).measure_source()
    told = check(health, FOUND)
    assert told.verdict is Verdict.WARNING
    assert told.measured > 10
    assert check(dry, FOUND).verdict is Verdict.PASS

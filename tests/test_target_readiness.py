"""Step 12: what a target tells of itself, what a person says by name, and where else a server was looked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers import audit
from helpers.errors import RunbookError
from helpers.migration.target_lock import preflight
from helpers.parameters import parameters_from
from helpers.parameters.endpoint import Endpoint
from helpers.results import Check, Verdict
from helpers.run import folders as runs
from helpers.run.folders import RunState
from helpers.run.record import RunRecord
from helpers.steps.target_readiness import TargetReadinessStep
from helpers.stores import open_target
from helpers.stores.wire import tried
from tests.servers import ChromaServer, free_port
from tests.storage import chunks, embedded, fill

pytestmark = pytest.mark.usefixtures("own_folders")


def a_run(target: dict[str, Any], run_id: str = "night", **sections: Any) -> RunState:
    given = {"name": "books", "source": {"path": "source"}, "target": target, **sections}
    return runs.create(parameters_from(given), run_id)


def check(found: TargetReadinessStep, name: str) -> Check:
    return next(c for c in found.run.result.checks if c.name == name)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChromaServer]:
    """One target for both tests: neither leaves anything that the other minds."""
    started = ChromaServer(tmp_path_factory.mktemp("target")).start()
    yield started
    started.stop()


@pytest.fixture
def source(tmp_path: Path) -> None:
    with embedded(tmp_path / "source") as store:
        fill(store, "alpha", chunks(20, 4))


def test_the_probe_of_an_inner_product_finds_what_it_wrote(tmp_path: Path) -> None:
    """By inner product a long vector is nearer to a short one than that is to itself."""
    with embedded(tmp_path / "source") as store:
        fill(store, "alpha", chunks(20, 4), space="ip")
    found = TargetReadinessStep(RunRecord(a_run({"path": "target"}), "12"))
    found.reach()
    found.probe_writing()
    assert check(found, "write probe").verdict is Verdict.PASS


@pytest.mark.usefixtures("source")
def test_a_server_tells_what_it_holds_takes_and_how_fast_and_a_person_its_disk(
    server: ChromaServer,
) -> None:
    with open_target(Endpoint(url=server.url)) as store:
        fill(store, "theirs", chunks(7, 4))
    found = TargetReadinessStep(RunRecord(a_run({"url": server.url}), "12"))
    table = dict(found.reach().to_numpy().tolist())
    assert table["holds theirs"] == "7 chunks"
    assert {"version it gives", "rows per write, at most", "bytes per write, at most", "locked by"} <= set(table)
    probe = dict(found.probe_writing().to_numpy().tolist())
    assert probe["round trip, median of 9"] > 0
    assert check(found, "latency").verdict is Verdict.PASS
    assert check(found, "write probes left behind").verdict is Verdict.PASS
    found.disk()
    unknown = check(found, "free disk of the target's server")
    assert (unknown.verdict, unknown.reason) == (Verdict.WARNING, "disk_unknown")
    assert "runbook resume night --retry 12 --set 'expected.target_disk=" in unknown.detail

    said = {"target_disk": {"free_gb": 40, "attested_by": "A. Person"}}
    folder = a_run({"url": server.url}, "two", expected=said)
    attested = TargetReadinessStep(RunRecord(folder.read(), "12"))
    attested.disk()
    assert check(attested, "free disk of the target's server").verdict is Verdict.PASS
    assert check(attested, "free disk of the target's server").detail == "attested by A. Person"
    assert audit.entries(folder.reports / audit.NAME)[-1]["facts"] == {"free_gb": 40.0, "by": "A. Person"}
    little = {"target_disk": {"free_gb": 1.5, "attested_by": "A. Person"}}
    full = TargetReadinessStep(RunRecord(a_run({"url": server.url}, "three", expected=little), "12"))
    full.disk()
    assert check(full, "free disk of the target's server").reason == "disk_full"


@pytest.mark.usefixtures("source")
@pytest.mark.more
def test_where_the_named_target_is_not_there_others_are_told_and_none_is_taken(
    server: ChromaServer,
) -> None:
    port = server.url.rsplit(":", 1)[1]
    wrong = {"url": f"http://127.0.0.9:{port}", "timeout_seconds": 2}
    folder = a_run(wrong)
    with pytest.raises(RunbookError) as before:
        preflight(folder.read().parameters)
    found = TargetReadinessStep(RunRecord(folder.read(), "12"))
    with pytest.raises(RunbookError) as caught:
        found.reach()
    for error in (before.value, caught.value):
        assert f"If http://localhost:{port} is the target, put it into target.url" in error.line()
        assert "chromadb-service" in error.line()
        assert len(error.line().splitlines()) == 1
    rows = found.run.result.facts["candidates"]
    assert [(url.split("//")[1].split(":")[0], answers) for url, answers, _ in rows] == [
        ("localhost", True), ("host.docker.internal", False), ("chromadb-service", False),
    ]  # fmt: skip
    assert check(found, "connection to the target").verdict is Verdict.FAIL
    assert folder.read().parameters.target.url == wrong["url"], "it was told, not taken"


def test_the_name_that_was_given_is_not_tried_again_and_nothing_there_is_said_too() -> None:
    found = tried(Endpoint(url=f"http://localhost:{free_port()}"))
    assert [c.url.split("//")[1].split(":")[0] for c in found] == ["host.docker.internal", "chromadb-service"]
    assert [c.answers for c in found] == [False, False]
    assert all(c.result for c in found)

"""Steps 50, 51 and 53 between servers: a target that goes away, both sides measured, the end of the fence."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers import audit
from helpers.fence import FenceState
from helpers.parameters import parameters_from
from helpers.results import Verdict
from helpers.run import folders as runs
from tests.aftermaths import closeout, monitor, night_after, passed, performance
from tests.cutovers import details, verdicts
from tests.rollbacks import Night
from tests.servers import ChromaServer, client_of
from tests.storage import chunks

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_folders")]

Ends = tuple[ChromaServer, ChromaServer]


@pytest.fixture
def ends(chroma_server: Callable[..., ChromaServer]) -> Ends:
    source, target = chroma_server(), chroma_server()
    batch = chunks(300, 16)
    with client_of(source.url) as client:
        docs = client.create_collection("docs", embedding_function=None)
        docs.add(ids=batch.ids, embeddings=batch.embeddings, metadatas=batch.metadatas)  # type: ignore[arg-type]
    return source, target


def made(ends: Ends, home: Path, *, up: bool = False, **sections: Any) -> Night:
    touch = {"lock": ["touch", "locked"], "unlock": ["rm", "-f", "locked"]}
    return night_after(
        home, fenced=up, source={"url": ends[0].url}, target={"url": ends[1].url, "timeout_seconds": 2},
        fence={"kind": "command", "command": touch, **sections.pop("fence", {})}, **sections,
    )  # fmt: skip


def test_a_target_that_goes_away_ends_the_watch_and_the_next_one_begins_anew(ends: Ends, tmp_path: Path) -> None:
    night = made(ends, tmp_path)
    assert verdicts(monitor(night))["answers of the target"] is Verdict.PASS
    ends[1].kill()
    result = monitor(night)
    found = {c.name: c for c in result.checks}["answers of the target"]
    assert (found.verdict, found.reason) == (Verdict.FAIL, "target_errors")
    assert "errors in 2 samples in a row" in found.detail
    assert "runbook rollback night --dry-run" in found.detail
    assert result.facts["monitoring"]["looks"] == 2
    ends[1].start()
    again = monitor(night)
    assert verdicts(again)["answers of the target"] is Verdict.PASS
    assert again.facts["monitoring"]["failed_looks"] == 0
    assert len(list((night.folder.workspace / "monitoring").glob("*.jsonl"))) == 3


def test_both_sides_are_measured_and_a_source_that_is_gone_is_said_to_be(ends: Ends, tmp_path: Path) -> None:
    night = made(ends, tmp_path)
    result = performance(night)
    assert Verdict.FAIL not in verdicts(result).values(), details(result)
    sides = result.facts["performance"]
    for side in ("before", "after"):
        assert [level["clients"] for level in sides[side]["levels"]] == [1, 4, 16]
        assert all(level["queries"] > 10 and level["seconds"] >= 0.6 for level in sides[side]["levels"])
        assert all(len(level["repetitions"]) == 2 for level in sides[side]["levels"])
        assert set(sides[side]["cold_ms"]) == {"docs"}
    assert sides["after"]["protocol"] == "API v2"
    assert 0 < result.facts["mean_latency_ms"] < 500
    assert result.facts["queries_per_second"] > 10
    assert [figure["name"] for figure in result.figures] == ["performance", "latency"]
    assert verdicts(result)["seconds measured per level"] is Verdict.NOT_EXERCISED  # 0.6 s of 30 s

    ends[0].stop()
    document = night.folder.read().parameters.document()
    document["monitoring"] |= {"maximum_latency_ms": 0.01, "minimum_queries_per_second": 1e6}
    runs.change_parameters(night.folder, parameters_from(document))
    result = performance(night)
    found = verdicts(result)
    assert (found["query latency"], found["throughput"]) == (Verdict.FAIL, Verdict.FAIL)
    assert found["latency relative to the source"] is Verdict.NOT_EXERCISED
    assert result.facts["table"][0]["before: source"] == "not measured"


def test_the_fence_is_lifted_at_closeout_and_the_downtime_is_known(ends: Ends, tmp_path: Path) -> None:
    night = fenced(ends, tmp_path)
    result = closeout(night)
    assert verdicts(result)["end of the write fence"] is Verdict.PASS, details(result)
    assert not Path("locked").exists()
    state = FenceState.load(night.folder.workspace)
    assert state is not None
    assert not state.may_be_active
    assert result.facts["downtime_seconds"] > 0
    told = [
        e["outcome"]
        for e in audit.entries(night.folder.reports / audit.NAME)
        if e["action"] == "fence lifted at closeout"
    ]
    assert told == ["begun", "done"]
    again = {c.name: c for c in closeout(night).checks}["end of the write fence"]
    assert (again.verdict, again.measured) == (Verdict.NOT_EXERCISED, "lifted"), "repeating it still says who may write"
    assert verdicts(result)["rollback after the closeout"] is Verdict.NOT_EXERCISED


def test_the_fence_stays_while_somebody_is_seen_at_it(ends: Ends, tmp_path: Path) -> None:
    night = fenced(ends, tmp_path)
    program = "import httpx, sys; c = httpx.Client(); c.get(sys.argv[1]); print('on', flush=True); sys.stdin.read()"
    address = f"{ends[0].url}/api/v2/heartbeat"
    with subprocess.Popen(
        [sys.executable, "-c", program, address], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "on\n"
        result = closeout(night)
        other.kill()
    found = {c.name: c for c in result.checks}["end of the write fence"]
    assert (found.verdict, found.reason) == (Verdict.WARNING, "fence_kept")
    assert "runbook fence night --lift" in found.detail
    assert Path("locked").exists()


def test_a_fence_that_is_to_be_kept_is_kept(ends: Ends, tmp_path: Path) -> None:
    night = fenced(ends, tmp_path, fence={"at_closeout": "keep"})
    assert verdicts(closeout(night))["end of the write fence"] is Verdict.WARNING
    assert Path("locked").exists()


def fenced(ends: Ends, home: Path, **sections: Any) -> Night:
    """A fence that was up when the application was moved, and stands still."""
    night = made(ends, home, up=True, **sections)
    assert Path("locked").exists()
    passed(night, "50", "51", "52")
    return night

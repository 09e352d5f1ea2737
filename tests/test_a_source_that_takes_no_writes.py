"""A source that takes no writes needs no fence: step 20 proves it by the source's own answer, and says what it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.fence import takes_no_writes
from helpers.fence.probe import WRITTEN, ProbeAnswer, closed_by_itself, refused_to_us
from helpers.parameters import parameters_from
from helpers.results import Check, StepResult, Verdict
from helpers.run import folders as runs
from helpers.run.folders import RunFolder
from helpers.run.record import RunRecord
from helpers.steps.fence_writes import FenceWritesStep
from helpers.steps.review import ReviewStep
from tests.cloud_standin import CloudStandIn
from tests.fences import at_step, rows
from tests.servers import ChromaServer

WIND_DOWN = (403, "ChromaError", "Chroma Cloud is winding down: this database is read-only.")
NO_RIGHTS = (403, "AuthorizationError", "Permission denied.")
GONE = (410, "ChromaError", "Gone")
QUOTA = (422, "ChromaError", "Quota exceeded: 'num_collections' for action 'Create Collection'")


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CloudStandIn]:
    with ChromaServer(tmp_path_factory.mktemp("cloud") / "chroma") as server, CloudStandIn(server.url) as made:
        with made.client() as chroma:
            chroma.create_collection("docs", embedding_function=None).add(**rows(20))
        yield made


@pytest.fixture
def step(cloud: CloudStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., RunFolder]:
    """`step(closed)`: step 20 done, with `fence.kind: none`, on a source that answers writes like this."""
    monkeypatch.setenv("RUNBOOK_REPORTS", str(tmp_path / "reports"))
    monkeypatch.setenv("RUNBOOK_WORKSPACE", str(tmp_path / "workspace"))
    monkeypatch.setenv("CLOUD_KEY", cloud.key)

    def make(closed: tuple[int, str, str] | None, *, dry_run: bool = False) -> RunFolder:
        cloud.set(reset=True, writes="closed" if closed else "open", **({"closed": closed} if closed else {}))
        source: dict[str, Any] = {
            "url": cloud.url, "tenant": cloud.tenant, "database": cloud.databases[0],
            "headers": {"x-chroma-token": "env:CLOUD_KEY"},
        }  # fmt: skip
        folder = runs.create(parameters_from({"source": source, "target": {"path": str(tmp_path / "target")}}), "night")
        with at_step(folder, dry_run=dry_run) as run:
            guard = FenceWritesStep(run)
            guard.urls()
            guard.before()
            print(guard.put_up())
            guard.prove()
            run.finish()
        return folder

    return make


def fence_check(folder: RunFolder) -> Check:
    found = folder.read().result("20")
    assert found is not None
    return next(check for check in found.checks if check.name == "write fence")


def warned_of(folder: RunFolder) -> list[str]:
    review = object.__new__(ReviewStep)  # without the step that it needs, which the fence has nothing to do with
    review.run = RunRecord(folder.read(), "24", folder.read().parameters)
    table = review.warnings()
    return [detail for detail, reason in zip(table["detail"], table["reason"], strict=True) if reason == "no_fence"]


@pytest.mark.more
@pytest.mark.parametrize("closed", [WIND_DOWN, GONE])
def test_a_source_that_says_it_is_closed_passes_and_nobody_is_warned(
    step: Callable[..., RunFolder], closed: tuple[int, str, str]
) -> None:
    folder = step(closed)
    check = fence_check(folder)
    assert check.verdict is Verdict.PASS
    assert f"({closed[0]})" in check.detail
    assert closed[2] in check.detail
    assert takes_no_writes(folder.read().result("20"))
    assert warned_of(folder) == []


@pytest.mark.parametrize(
    ("closed", "said"), [(NO_RIGHTS, "with this key writes are refused"), (QUOTA, "nothing keeps clients")]
)
def test_a_refusal_that_others_need_not_get_stays_a_warning(
    step: Callable[..., RunFolder], closed: tuple[int, str, str], said: str
) -> None:
    folder = step(closed)
    check = fence_check(folder)
    assert (check.verdict, check.reason) == (Verdict.NOT_EXERCISED, "no_fence")
    assert said in check.detail
    assert str(closed[0]) in check.detail
    assert not takes_no_writes(folder.read().result("20"))
    assert warned_of(folder) == [check.detail]


def test_a_write_that_gets_through_is_removed_and_said(step: Callable[..., RunFolder], cloud: CloudStandIn) -> None:
    folder = step(None)
    check = fence_check(folder)
    assert (check.verdict, check.reason) == (Verdict.NOT_EXERCISED, "no_fence")
    assert "create collection got through" in check.detail
    assert "removed again" in check.detail
    with cloud.client() as chroma:
        assert [c.name for c in chroma.list_collections()] == ["docs"]
        assert chroma.get_collection("docs", embedding_function=None).count() == 20


def test_a_dry_run_sends_no_write(step: Callable[..., RunFolder], cloud: CloudStandIn) -> None:
    folder = step(WIND_DOWN, dry_run=True)
    assert fence_check(folder).verdict is Verdict.NOT_EXERCISED
    asked = cloud.counts()["requests"]
    assert not {"Create Collection", "Delete", "Add"} & set(asked)


def test_a_source_that_is_closed_is_told_from_a_server_in_trouble() -> None:
    assert not closed_by_itself([])
    assert not closed_by_itself([ProbeAnswer("create collection", "failed", 500, "disk full")])
    assert not closed_by_itself([ProbeAnswer("create collection", WRITTEN, 200, "read-only")])
    assert not refused_to_us([ProbeAnswer("create collection", "no answer")])
    said = StepResult("20", "fence_writes", "n", "2026-11-28T00:00:00+00:00")
    assert not takes_no_writes(said)
    assert not takes_no_writes(None)

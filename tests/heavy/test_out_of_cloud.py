"""Out of Chroma Cloud, whole: through the stand-in, with kills, a storm of 429 and a quota that is lowered in the middle.

Sized by RUNBOOK_CLOUD_CHUNKS and RUNBOOK_CLOUD_DIMENSION. What the stand-in counted is printed (`make test-cloud`).
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.snapshots.export_journal import ExportJournal
from helpers.snapshots.snapshot import Snapshot, part_rows
from helpers.stores.limits import CLOUD
from tests.cloud_data import Held, assert_arrived, fill, made
from tests.cloud_standin import CloudStandIn
from tests.heavy.commands import Trial, descendants, kill_all
from tests.servers import ChromaServer

CHUNKS = int(os.environ.get("RUNBOOK_CLOUD_CHUNKS", "9832"))
DIMENSION = int(os.environ.get("RUNBOOK_CLOUD_DIMENSION", "1536"))
KILLS = 10
READERS = CLOUD.readers(2)
PARAMETERS = """\
name: out-of-cloud
source: {{cloud: true, url: {url}, database: production}}
target: {{path: target}}
schema: identity
migration: {{drop_indexes: ["*"]}}
expected: {{total: {chunks}}}
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def held() -> list[Held]:
    return made(CHUNKS, DIMENSION)


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory, held: list[Held]) -> Iterator[CloudStandIn]:
    with (
        ChromaServer(tmp_path_factory.mktemp("cloud") / "behind") as server,
        CloudStandIn(server.url) as cloud,
        pytest.MonkeyPatch.context() as patch,
    ):
        fill(cloud, held)
        cloud.set(writes="closed")
        patch.setenv("CHROMA_API_KEY", cloud.key)
        yield cloud


def begun(cloud: CloudStandIn, folder: Path) -> Trial:
    """A run that has gone through its checks, and whose next step takes the snapshot; counts begin anew."""
    trial = Trial(folder)
    trial.write_parameters(PARAMETERS.format(url=cloud.url, chunks=CHUNKS))
    assert trial.run("run", "trial.yaml", "--run-id", "one", "--until", "20", timeout=3600) == 0, trial.output
    said("steps 10 to 20", cloud)
    assert cloud.set(reset=True)["violations"] == {}
    return trial


def said(what: str, cloud: CloudStandIn) -> dict[str, Any]:
    counts = cloud.counts()
    del counts["rules"]
    print(f"\n{what}: {json.dumps(counts)}", flush=True)
    return counts


def given_out(cloud: CloudStandIn) -> int:
    return int(sum(cloud.counts()["vectors"].values()))


def killed_in_export(process: subprocess.Popen[str], cloud: CloudStandIn, trial: Trial, rows: int) -> int | None:
    """Kill the whole tree once the export has written this many more; the vectors that it had in hand, None if it ended.

    What the step reads before, to say what the export will take, is not counted.
    """
    sessions = journaled(trial)[0]
    while process.poll() is None and journaled(trial)[0] == sessions:
        time.sleep(0.01)
    before, written = given_out(cloud), journaled(trial)[1]
    while process.poll() is None and journaled(trial)[1] < written + rows:
        time.sleep(0.01)
    over = process.poll() is not None
    kill_all([process.pid, *descendants(process.pid)])
    process.wait()
    time.sleep(1)  # answers that were on their way when their reader died
    return None if over else given_out(cloud) - before - (journaled(trial)[1] - written)


def journaled(trial: Trial) -> tuple[int, int]:
    """Sessions of the unfinished export, and chunks in its whole parts, as its journal says."""
    journal = ExportJournal.read(trial.folder / "workspace" / "snapshots" / "one-21.partial")
    return (len(journal.sessions), journal.chunks) if journal else (0, 0)


def snapshot_of(trial: Trial) -> Snapshot:
    return Snapshot.open(trial.folder / "workspace" / "snapshots" / "one-21")


def ended_go(trial: Trial, held: list[Held]) -> None:
    """The run goes through migration and tests to the decision, and everything has arrived."""
    assert trial.run("run", "--run-id", "one", "--from", "22", "--until", "24", timeout=3600) in (0, 4), trial.output
    decision = json.loads((trial.reports / "results" / "24.json").read_text(encoding="utf-8"))
    assert decision["facts"]["decision"] == "GO", trial.output
    print(f"{assert_arrived(held, trial.folder / 'target')} chunks compared", flush=True)


def test_killed_ten_times_and_throttled_nothing_is_read_twice_but_the_batch_in_hand(
    cloud: CloudStandIn, held: list[Held], tmp_path: Path
) -> None:
    trial = begun(cloud, tmp_path)
    dice = random.Random(20261222)
    in_hand: list[int | None] = []
    command = ["run", "--run-id", "one", "--from", "21", "--until", "21"]
    for turn in range(KILLS):
        if turn in (2, 5):
            cloud.set(storm=40, retry_after=0.5)
        in_hand.append(killed_in_export(trial.start(*command), cloud, trial, dice.randint(1, max(2, CHUNKS // 14))))
        command = ["resume", "one"]
    assert trial.run(*command, timeout=3600) == 0, trial.output
    counts = said(f"step 21, {KILLS} kills", cloud)
    rows, probes = part_rows(DIMENSION, CLOUD.read_rows), 20 * len(held)  # 20 of each prove its space in every session
    snapshot = snapshot_of(trial)
    sessions = [session["chunks"] for session in snapshot.manifest["sessions"]]
    print(f"sessions of {sessions} chunks; in hand at the kills {in_hand}", flush=True)
    assert snapshot.total == sum(sessions) == CHUNKS  # no part was written twice
    assert len(sessions) == KILLS + 1
    assert all(rest is not None and rest <= READERS * rows + probes for rest in in_hand)
    assert counts["throttled"] == 80
    assert counts["violations"] == {}
    ended_go(trial, held)
    assert said("steps 21 to 24", cloud)["violations"] == {}


def test_a_quota_that_is_lowered_in_the_middle_is_learnt_and_gone_on_with(
    cloud: CloudStandIn, held: list[Held], tmp_path: Path
) -> None:
    trial = begun(cloud, tmp_path)
    process = trial.start("run", "--run-id", "one", "--from", "21", "--until", "21")
    while process.poll() is None and given_out(cloud) < CHUNKS // 3:
        time.sleep(0.02)
    cloud.set(quotas={"limit_value": 100, "num_records": 100, "num_results": 100})
    try:
        assert process.wait(3600) == 0, trial.output
        counts = said("step 21, quota lowered to 100", cloud)
        assert snapshot_of(trial).total == CHUNKS
        assert 1 <= sum(counts["violations"].values()) <= READERS + 1  # the requests that were on their way
        assert sum(counts["vectors_again"].values()) <= 2 * len(held) * 20
        ended_go(trial, held)
        said("steps 21 to 24", cloud)
    finally:
        cloud.set(quotas={"limit_value": 300, "num_records": 300, "num_results": 300})

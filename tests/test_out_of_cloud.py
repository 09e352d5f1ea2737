"""docs/chroma-cloud.md holds: its four lines and its commands, as printed, bring a database out of Cloud's stand-in, whole.

tests/heavy/test_out_of_cloud.py does the same at full size, with ten kills: so the quick form is left to test-slow.
"""

from __future__ import annotations

import json
import re
import shlex
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.parameters import load_parameters
from helpers.snapshots.snapshot import Snapshot
from helpers.stores.limits import CLOUD
from tests.cloud_data import COLLECTIONS, assert_arrived, fill, made
from tests.cloud_standin import CloudStandIn
from tests.heavy.commands import Trial, descendants, kill_all

CHUNKS, DIMENSION = 420, 16


@pytest.fixture(scope="module")
def page(root: Path) -> str:
    return (root / "docs" / "chroma-cloud.md").read_text(encoding="utf-8")


def blocks(page: str) -> list[str]:
    """The fenced blocks, in the order of the page, without the prompt of their commands."""
    return [re.sub(r"(?m)^\$ ", "", block) for block in re.findall(r"^```\w+\n(.*?)^```$", page, re.S | re.M)]


def commands(block: str) -> list[list[str]]:
    """What follows `runbook` in each line that runs it."""
    lines = [shlex.split(line, comments=True) for line in block.splitlines()]
    return [line[1:] for line in lines if line and line[0].endswith("/runbook")]


def test_the_example_says_what_the_page_says_and_the_page_says_the_dates(root: Path, page: str, tmp_path: Path) -> None:
    (tmp_path / "page.yaml").write_text(blocks(page)[0], encoding="utf-8")
    shown = load_parameters(tmp_path / "page.yaml").document()
    shipped = load_parameters(root / "parameters" / "chroma-cloud.yaml").document()
    assert {**shown, "name": ""} == {**shipped, "name": ""}
    assert shown["source"]["cloud"] is True
    for words in (
        "2026-11-22",
        "2026-12-22",
        "docs.topk.io/migrate/from-chroma",
        "the only report that we found",
        "Check",
    ):
        assert words in page


@pytest.mark.slow
def test_the_commands_of_the_page_bring_everything_out_killed_throttled_and_with_a_lowered_quota(
    page: str, cloud_standin: Callable[..., CloudStandIn], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parameters, first, again = blocks(page)[:3]
    schema, look, migrate, verify = commands(first)
    [resume] = commands(again)
    held, cloud = made(CHUNKS, DIMENSION), cloud_standin()
    fill(cloud, held)
    cloud.set(writes="closed", reset=True)
    monkeypatch.setenv("CHROMA_API_KEY", cloud.key)
    trial = Trial(tmp_path / "out", "out")
    text = parameters.replace("cloud: true", f"cloud: true, url: '{cloud.url}'")
    (trial.folder / "parameters.yaml").write_text(text, encoding="utf-8")

    assert trial.run(*schema) == 0, trial.output
    assert trial.run(*look) == 0, trial.output
    assert all(name in (trial.reports / "results" / "10.json").read_text(encoding="utf-8") for name, *_ in COLLECTIONS)

    process = trial.start(*migrate)
    journal = trial.folder / "workspace" / "snapshots" / "out-21.partial" / ".export" / "journal.jsonl"
    while process.poll() is None and not (journal.is_file() and b'"part"' in journal.read_bytes()):
        time.sleep(0.005)
    assert process.poll() is None, trial.output
    kill_all([process.pid, *descendants(process.pid)])
    process.wait()
    assert cloud.counts()["violations"] == {}
    cloud.set(reset=True, storm=5, quotas={"limit_value": 100, "num_records": 100, "num_results": 100})
    assert trial.run(*resume) == 0, trial.output
    assert trial.run(*verify) == 0, trial.output

    counts = cloud.counts()
    assert counts["throttled"] == 5
    assert set(counts["violations"]) <= {
        "Limit value",
        "Number of records",
        "Number of results",
    }  # learnt, once a process
    assert counts["highest"]["reads"] <= CLOUD.concurrent_reads
    sessions = Snapshot.open(trial.folder / "workspace" / "snapshots" / "out-21").manifest["sessions"]
    assert len(sessions) == 2
    assert sum(session["chunks"] for session in sessions) == CHUNKS
    compared = json.loads((trial.reports / "results" / "23.json").read_text(encoding="utf-8"))
    assert compared["finished"]
    assert assert_arrived(held, trial.folder / "chroma-new") == CHUNKS

"""`runbook status`: what is due, the time that is left, the last safe moment to roll back, whom to call."""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.migration.checkpoint import Checkpoint, TargetState
from helpers.parameters import parameters_from
from helpers.results import Verdict
from helpers.run import folders as runs
from helpers.run import plan
from helpers.run.folders import RunFolder
from helpers.run.record import RunRecord
from helpers.run.window import refusal
from helpers.status import last_safe_moment, report, run_rows

START = dt.datetime(2025, 12, 1, 2, tzinfo=dt.UTC)
SECONDS = {"21": 60, "22": 300, "23": 120}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    monkeypatch.setenv("RUNBOOK_REPORTS", str(tmp_path / "reports"))
    monkeypatch.setenv("RUNBOOK_WORKSPACE", str(tmp_path / "workspace"))
    monkeypatch.chdir(tmp_path)
    return runs.create(
        parameters_from({
            "name": "n", "source": {"path": "s"}, "target": {"path": "t"},
            "window": {"start": START.isoformat(), "minutes": 120, "buffer_minutes": 30},
            "contacts": {"dba": "Ada 555", "on_call": "Cy 777", "war_room": "https://call"},
        }), "night",
    )  # fmt: skip


def step(folder: RunFolder, number: str, seconds: float = 1, error: str = "", at: dt.datetime = START) -> None:
    result = RunRecord(folder.read(), number).result
    result.started = at.isoformat()
    result.finished = (at + dt.timedelta(seconds=seconds)).isoformat()
    if number == "13":
        result.facts["estimate"] = [{"part": f"{n} x", "seconds": s, "basis": ""} for n, s in SECONDS.items()]
    if error:
        result.error, result.verdict = {"code": error, "type": "EnvironmentFailure", "line": error}, Verdict.FAIL
    result.write(folder.reports / "results" / f"{number}.json")


def upto(folder: RunFolder, last: str, **changes: float) -> None:
    for row in plan.LINE:
        if row.number <= last:
            step(folder, row.number, changes.get(f"s{row.number}", 1))


def told(folder: RunFolder, minutes: float) -> dict[str, str]:
    """The screen so many minutes after the window's start, by head."""
    found: dict[str, str] = {}
    head = ""
    for line in report(folder.read(), START + dt.timedelta(minutes=minutes)):
        if line[:10].rstrip().endswith(":") and not line.startswith("Run"):
            head = line[:10].strip(" :")
            found[head] = line[10:]
        elif head:
            found[head] += "\n" + line.strip()
    return found


def test_before_the_night_the_dry_run_says_how_long_it_takes(folder: RunFolder) -> None:
    upto(folder, "14")
    said = told(folder, -60)
    assert "opens in 30 min" in said["Window"]
    assert "about 8 min 00 s for steps 21, 22, 23 (estimated)" in said["To do"]
    refused = refusal(folder.read(), plan.find("20"), START - dt.timedelta(minutes=60))
    assert said["Due"] == str(refused), "as `resume` would say"
    assert "step 20 (Fence off writes) does not start now" in said["Due"]
    assert "Step 20 (Fence off writes) is next" in told(folder, 1)["Due"]
    assert not {"Rollback", "Call"} & set(said)


def test_while_an_import_hangs_it_names_process_progress_and_last_write(folder: RunFolder) -> None:
    upto(folder, "21")
    holder = (
        "import sys, time; from pathlib import Path; from helpers.run.folders import RunFolder, RunLock\n"
        "p = Path(sys.argv[1]); lock = RunLock(RunFolder('night', p, p), 'runner').acquire()\n"
        "print('held', flush=True); time.sleep(600)"
    )
    checkpoint = Checkpoint.open(folder.workspace / "checkpoint.json", {})
    checkpoint.total_chunks, checkpoint.last_batch_index = 9832, 8
    checkpoint.targets["docs"] = TargetState(rows=9832, completed=4500)
    checkpoint.save()
    progress = {"step": "22", "label": "Import", "done": 4500, "total": 9832, "unit": "chunks", "seconds": 60.0,
                "workers": "2 of Dask, dashboard http://127.0.0.1:8787/status"}  # fmt: skip
    (folder.workspace / "progress.json").write_text(json.dumps(progress), encoding="utf-8")
    quiet = (START + dt.timedelta(minutes=10)).timestamp()
    os.utime(folder.workspace / "progress.json", (quiet, quiet))
    with subprocess.Popen(
        [sys.executable, "-c", holder, str(folder.workspace)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        due = told(folder, 15)["Due"]
        process.kill()
    assert f"process {process.pid} on {socket.gethostname()} is at work on it" in due
    assert "Step 22 (Migrate), Import: 4,500 of 9,832 chunks; last progress 5 min 00 s ago" in due
    assert "Workers: 2 of Dask, dashboard http://127.0.0.1:8787/status" in due
    assert re.search("Last write to the target: 20.* UTC, batch 9; 4,500 of 9,832 chunks", due)
    assert "is next" not in due
    assert "Step 22 (Migrate) is next" in told(folder, 15)["Due"], "nobody works on it any more"


def test_what_was_measured_in_the_night_counts_more_than_the_estimate(folder: RunFolder) -> None:
    upto(folder, "22", s21=100, s22=400)
    said = told(folder, 20)
    assert "1 h 40 min left" in said["Window"]
    assert "about 2 min 00 s for steps 23" in said["To do"]
    assert "8 min 20 s (estimated from steps 21 and 22)" in said["Rollback"]
    assert last_safe_moment(folder.read()) == START + dt.timedelta(minutes=120, seconds=-500)
    assert "2025-12-01 03:51:40 UTC, in 1 h 31 min" in said["Rollback"]


def test_the_watch_after_the_cutover_is_no_matter_of_the_window(folder: RunFolder) -> None:
    upto(folder, "22", s21=100, s22=400)
    assert "NOT ENOUGH TIME" not in told(folder, 110)["To do"], "an hour of watching comes after the window"
    upto(folder, "25")
    said = told(folder, 110)["To do"]
    assert said == "steps 50, 51, 52, 53, after the window; 50 watches for 1 h 00 min"


def test_a_night_that_is_too_short_is_said_aloud(folder: RunFolder) -> None:
    upto(folder, "21")
    said = told(folder, 115)
    assert "NOT ENOUGH TIME: that ends at 2025-12-01 04:02:00 UTC" in said["To do"]
    assert "over; 20 min 00 s of its buffer left" in told(folder, 130)["Window"]
    assert "PASSED" in told(folder, 130)["Rollback"]
    assert "closed 10 min 00 s ago" in told(folder, 160)["Window"]


def test_whom_to_call_depends_on_how_long_the_trouble_lasts(folder: RunFolder) -> None:
    upto(folder, "21")
    step(folder, "22", error="source_unreachable")
    assert "level 1" in told(folder, 10)["Call"]
    assert "level 2: contact the DBA, review the logs with the team: Ada 555" in told(folder, 40)["Call"]
    assert "(contacts.operations_lead is not named)" in told(folder, 70)["Call"]
    assert "level 4: page the on-call engineer, begin the rollback: Cy 777" in told(folder, 119)["Call"]
    assert "war room https://call" in told(folder, 10)["Call"]


def test_every_run_says_what_it_waits_for(folder: RunFolder) -> None:
    upto(folder, "24")
    [row] = run_rows()
    assert row["due"] == "sign cutover: operations_lead, dba, security"
    (folder.workspace / "fence.json").write_text("{")
    assert run_rows()[0]["fence"] == "unknown (fence_state_damaged)", "a damaged file hides no run"

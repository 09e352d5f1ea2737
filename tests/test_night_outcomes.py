"""Whole nights with the real notebooks: a source that changes after the decision, a target that was damaged, a rehearsal
between two servers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import chromadb
import pytest

from helpers.rehearsal import write_sample
from tests.commands import Runbook, only_line
from tests.conftest import ROOT, require_component
from tests.signers import Signers
from tests.storage import tree

pytestmark = pytest.mark.slow

ROLES = ("operations_lead", "dba", "security")
ENV = "CHROMA_PATH=/srv/old  # where it is\n"


@pytest.fixture
def runbook(tmp_path: Path) -> Runbook:
    write_sample(tmp_path / "source", chunks=300, dimension=16)
    (tmp_path / "app.env").write_text(ENV)
    return Runbook(tmp_path)


@pytest.fixture
def people(tmp_path: Path) -> Signers:
    return Signers(tmp_path / "keys")


def parameters(runbook: Runbook, people: Signers, *, automatic: bool = False) -> str:
    cutover = "cutover: {env_files: [{path: app.env, keys: {CHROMA_PATH: '{target_path}'}}], monitor_minutes: 0}\n"
    rollback = f"rollback: {{automatic: {str(automatic).lower()}, monitor_minutes: 0}}\n"
    watch = "monitoring: {minutes: 0.02, interval_seconds: 0.5, level_seconds: 0.6, repetitions: 2}\n"
    return runbook.write("night", "path: source", "path: target", cutover + rollback + watch + people.parameter())


def sign(runbook: Runbook, people: Signers) -> None:
    for role in ROLES:
        done = runbook("sign", "night", *people.command(role))
        assert done.returncode == 0, done.stderr


def change(folder: Path) -> str:
    """Change one chunk and its vector, add one, delete one; the collection."""
    client = chromadb.PersistentClient(folder)
    collection = min(client.list_collections(), key=lambda c: c.name)
    found = collection.get(limit=3, include=["embeddings"])
    collection.update(ids=found["ids"][:1], documents=["changed after the decision"])
    collection.add(ids=["brand-new"], embeddings=found["embeddings"][:1], documents=["added after the decision"])  # type: ignore[index]
    collection.delete(ids=found["ids"][1:2])
    client.close()  # type: ignore[attr-defined]
    return collection.name


def test_a_source_that_changed_after_the_signatures_needs_new_ones(
    runbook: Runbook, people: Signers, tmp_path: Path
) -> None:
    only_line(runbook("run", parameters(runbook, people), "--run-id", "night"), 4)
    sign(runbook, people)
    changed = change(tmp_path / "source")
    again = runbook("resume", "night")
    assert "changed" in only_line(again, 4), "the approvals were for other results"
    assert "step 22 catches up" in again.stdout
    assert (tmp_path / "app.env").read_text() == ENV
    sign(runbook, people)
    done = runbook("resume", "night")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert str(tmp_path / "target") in (tmp_path / "app.env").read_text()
    client = chromadb.PersistentClient(tmp_path / "target")
    assert client.get_collection(changed).get(ids=["brand-new"])["documents"] == ["added after the decision"]
    client.close()  # type: ignore[attr-defined]

    only_line(runbook("resume", "night", "--retry", "22"), 2)
    assert runbook("rollback", "night").returncode == 0, "a run that was cut over can be rolled back"
    assert (tmp_path / "app.env").read_text() == ENV
    assert "does not go on" in only_line(runbook("resume", "night"), 2)


def test_a_trigger_goes_all_the_way_back_by_itself(runbook: Runbook, people: Signers, tmp_path: Path) -> None:
    file = parameters(runbook, people, automatic=True)
    before = tree(tmp_path / "source")
    assert runbook("run", file, "--run-id", "night", "--until", "22").returncode == 0
    client = chromadb.PersistentClient(tmp_path / "target")
    for collection in client.list_collections():
        collection.delete(ids=collection.get(include=[])["ids"][: collection.count() // 3 + 1])
    client.close()  # type: ignore[attr-defined]
    done = runbook("run", "--run-id", "night", "--from", "23")
    assert "was rolled back" in only_line(done, 3)
    assert "What the rollback of run night does now:" in done.stdout
    results = tmp_path / "reports" / "night" / "results"
    assert {"26.json", "27.json"} <= {p.name for p in results.iterdir()}
    client = chromadb.PersistentClient(tmp_path / "target")
    assert client.list_collections() == []
    client.close()  # type: ignore[attr-defined]
    assert tree(tmp_path / "source") == before
    assert "rolled back" in runbook("status", "night").stdout.lower()


def test_the_rehearsal_between_two_servers_holds(tmp_path: Path) -> None:
    require_component("nginx", "the fence of the rehearsal is one")
    runbook = Runbook(tmp_path)
    done = runbook("rehearse", "--servers", "--chunks", "400", "--dimension", "32", "--run-id", "servers")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    for said in ("each as AuthorizationError", "none failed", ".env after the cutover", "Verdict: GO"):
        assert said in done.stdout
    seen = json.loads((tmp_path / "workspace" / "servers" / "client.json").read_text())
    assert seen["refused"]
    assert not seen["failed_reads"]
    assert left_over(tmp_path) == []


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_stops_all_that_the_rehearsal_started(tmp_path: Path) -> None:
    require_component("nginx", "the fence of the rehearsal is one")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RUNBOOK_REPORTS": str(tmp_path / "reports"),
                   "RUNBOOK_WORKSPACE": str(tmp_path / "workspace")}  # fmt: skip
    command = [sys.executable, "-m", "helpers", "rehearse", "--servers", "--chunks", "200", "--dimension", "24"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("  10 "):
                break
        assert left_over(tmp_path)
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.wait(120) == 130
    assert left_over(tmp_path) == []


def left_over(tmp_path: Path) -> list[str]:
    """Processes that work below this folder."""
    time.sleep(0.5)
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(tmp_path / "workspace") in line:
            found.append(line)
    return found

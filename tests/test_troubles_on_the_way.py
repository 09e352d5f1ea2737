"""41, 43 and 45: a server paused, cut off or slow, a chunk that the target refuses, too little memory."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from helpers.errors import Terminal, Transient
from helpers.migration.importing import Importer
from helpers.results import Verdict
from helpers.run.folders import RunFolder, RunLock
from helpers.steps.count_mismatch import CountMismatchStep
from helpers.steps.out_of_memory import OutOfMemoryStep
from helpers.troubleshooting import Troubleshooter
from tests.proxies import SLOW, FaultyProxy
from tests.servers import ChromaServer
from tests.storage import chunks, embedded, fill
from tests.troubles import at, begun, migrated, probe

Servers = Callable[..., ChromaServer]


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNBOOK_REPORTS", str(tmp_path / "reports"))
    monkeypatch.setenv("RUNBOOK_WORKSPACE", str(tmp_path / "workspace"))
    monkeypatch.chdir(tmp_path)
    with embedded(Path("source")) as store:
        fill(store, "alpha", chunks(60, 4, prefix="a"))


def to_server(url: str, seconds: float = 1.0) -> RunFolder:
    return begun(target={"url": url, "timeout_seconds": seconds})


def resumed_here(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """`resume` without a process of its own: step 22 in this one, with the settings given. The command has its own tests."""
    given: list[dict[str, Any]] = []

    def resume(desk: Troubleshooter, **settings: Any) -> pd.DataFrame:
        given.append(settings)
        from helpers.run import folders as runs

        new = desk.run.parameters.for_resume([f"{k}={v}" for k, v in settings.items()])
        runs.change_parameters(desk.run.home, new)
        migrated(desk.run.home)
        return pd.DataFrame()

    monkeypatch.setattr(Troubleshooter, "resume", resume)
    return given


@pytest.mark.slow
def test_a_paused_server_is_found_and_the_migration_goes_on(
    chroma_server: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGSTOP after the second batch: the port is open, nothing answers. 41 and 45 both see it; SIGCONT is the remedy."""
    server = chroma_server()
    folder = to_server(server.url)
    process = server._process
    assert process is not None
    written = [0]
    honest = Importer._add

    def pausing(importer: Importer, name: str, batch: Any) -> int:
        written[0] += 1
        if written[0] == 3:
            process.send_signal(signal.SIGSTOP)
        return honest(importer, name, batch)

    monkeypatch.setattr(Importer, "_add", pausing)
    monkeypatch.setattr("helpers.stores.limits.ATTEMPTS", 1)
    try:
        with pytest.raises(Transient) as stuck:
            migrated(folder)
        assert stuck.value.code == "timeout"
        desk = at(folder, "41")
        verdict, wrong, table = probe(desk)
        assert (verdict, wrong) == (Verdict.WARNING, 3)
        bad = table[~table["well"].astype(bool)]["what"].tolist()
        assert bad == ["the checkpoint", "connection to the target", "the lock of the target"]
        assert desk.batch()[["completed", "in flight", "first in flight", "last in flight"]].to_numpy().tolist() == [
            [20, 10, "a20", "a29"]
        ]
        network = at(folder, "45")
        assert network.symptom()["reason"].tolist() == ["timeout"]
        rungs = probe(network)[2]
        last = rungs[rungs["endpoint"] == "target"].iloc[-1]
        assert (last["check"], last["ok"]) == ("server", False)
        assert "no answer in time" in last["seen"]
        with pytest.raises(Terminal, match="the target answers: server"):
            desk.resolve()
    finally:
        process.send_signal(signal.SIGCONT)
    assert desk.precondition()["holds"].all()
    given = resumed_here(monkeypatch)
    desk.resolve()
    assert given == [{"migration.batch_size": 5}]
    assert probe(desk)[:2] == (Verdict.PASS, 0)
    assert probe(network)[:2] == (Verdict.PASS, 0)


@pytest.mark.slow
def test_a_port_cut_off_is_named_and_waited_for(chroma_server: Servers, tmp_path: Path) -> None:
    server = chroma_server(tmp_path / "kept")
    folder = to_server(server.url)
    server.stop()
    desk = at(folder, "45")
    verdict, wrong, table = probe(desk)
    assert (verdict, wrong) == (Verdict.WARNING, 1)
    last = table.iloc[-1]
    assert (last["endpoint"], last["check"]) == ("target", "port")
    assert "Connection refused" in last["seen"]
    assert "firewall" in last["what to do"]
    assert desk.resolve(wait_seconds=0).iloc[-1]["target"].startswith("port: ")
    assert probe(desk)[0] is Verdict.FAIL
    server.start()
    assert desk.resolve(wait_seconds=20).iloc[-1]["target"] == "answers"
    assert probe(desk)[:2] == (Verdict.PASS, 0)


@pytest.mark.slow
def test_a_slow_server_gets_a_longer_time_out(chroma_server: Servers) -> None:
    """A proxy whose answers take half a second, before a run whose time-out is 0.2: found, changed, passed."""
    server = chroma_server()
    with FaultyProxy(server.url) as proxy:
        folder = to_server(proxy.url, 0.2)
        proxy.fault = lambda method, path: SLOW
        desk = at(folder, "45")
        assert probe(desk)[1] == 1
        look = at(folder, "45", dry_run=True)
        assert look.resolve(target_timeout=10)["then"].tolist() == ["10.0", "60 s at most"]
        assert folder.read().parameters.target.timeout_seconds == 0.2
        desk.resolve(target_timeout=10, wait_seconds=0)
        assert folder.read().parameters.target.timeout_seconds == 10
        assert probe(desk)[:2] == (Verdict.PASS, 0)
        undo = desk.undo()
        assert (undo[:30], undo[-32:]) == (".venv/bin/runbook resume night", "--set target.timeout_seconds=0.2")


def test_a_name_that_nobody_knows_ends_the_climb_at_its_first_rung() -> None:
    folder = to_server("http://no-such-host.invalid:8000")
    table = probe(at(folder, "45"))[2]
    mine = table[table["endpoint"] == "target"]
    assert mine["check"].tolist() == ["name"]
    assert "not known here" in mine["what to do"].iloc[0]


def test_the_ladder_tells_what_it_saw(chroma_server: Servers) -> None:
    folder = to_server(chroma_server().url)
    table = probe(at(folder, "45"))[2]
    mine = table[table["endpoint"] == "target"]
    assert mine["check"].tolist() == ["name", "port", "server", "tenant and database", "collections", "pace"]
    assert "p95" in mine["seen"].iloc[-1]
    assert table[table["endpoint"] == "source"]["check"].tolist() == ["folder", "collections"]


@pytest.mark.more
@pytest.mark.parametrize("schema", ["identity", "new-ids.yaml"])
def test_a_chunk_that_the_target_refuses_is_alone_in_quarantine_and_named(chroma_server: Servers, schema: str) -> None:
    """A gateway takes less than the server says: the batch is halved until the heavy chunk is alone."""
    Path("new-ids.yaml").write_text("name: new ids\nid: '\"n/\" + id'\n", encoding="utf-8")
    heavy = chunks(30, 4, prefix="h")
    heavy.documents[17] = "x" * 2**20
    with embedded(Path("source")) as store:
        fill(store, "heavy", heavy)
    with FaultyProxy(chroma_server().url, most_bytes=2**19) as gateway:
        folder = begun(target={"url": gateway.url}, schema=schema,
                       migration={"batch_size": 10, "workers": 1, "minimum_valid": 0.9})  # fmt: skip
        migrated(folder)
        desk = at(folder, "41")
        refused = desk.refused()
        assert refused[["collection", "id"]].to_numpy().tolist() == [["heavy", "h17"]]
        assert refused["bytes"].iloc[0] > 2**20
        assert probe(desk)[:2] == (Verdict.PASS, 0)
        assert probe(at(folder, "48"))[1] == 0


def test_a_run_at_work_is_looked_at_and_not_touched() -> None:
    from helpers.runner.notebook import Run

    folder = migrated(begun())
    with RunLock(folder, "runner").acquire():
        folder.stop_file.touch()
        run = Run(folder.read(), "48", dry_run=True)
        run.open()
        assert run.watches_only
        assert folder.stop_file.exists()
        desk = CountMismatchStep(run)
        with pytest.raises(Terminal, match="two processes in one destroy it"):
            desk.probe()
        assert not desk.precondition()["holds"].iloc[0]
        run.close()


@pytest.mark.more
def test_too_little_memory_is_found_and_a_batch_that_fits_is_proposed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine is made to look small; what is proposed and measured is real."""
    folder = migrated(begun(migration={"batch_size": 500_000, "workers": 4}))
    honest = OutOfMemoryStep._at_hand
    with monkeypatch.context() as patch:
        desk = at(folder, "43", dry_run=True)
        assert isinstance(desk, OutOfMemoryStep)
        short = desk._needed() - 1  # of a batch that holds the whole collection
        patch.setattr(OutOfMemoryStep, "_at_hand", lambda desk: {"available on the machine": short})
        assert probe(desk)[1] == 1
        plan = desk.resolve().set_index("what")
        assert list(plan.loc["migration.batch_size"]) == ["500000", "50"]
        assert list(plan.loc["migration.workers"]) == ["4", "1"]
    assert min(honest(desk).values()) > 0
    assert desk.batches()["chunks"].tolist() == [60]
    measured = desk.measure(10)
    assert measured[["batch size", "chunks read"]].to_numpy().tolist() == [[10, 60]]
    assert 0 < measured["peak MB"].iloc[0] < 1500

"""A cutover between two real servers, of a real application that reads its `.env` when it is restarted."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from helpers.cutover import CutoverState, put_back
from helpers.cutover.application import DONE, REVERTED
from helpers.results import StepResult, Verdict
from helpers.run import folders as runs
from tests import application
from tests.commands import Runbook, only_line
from tests.cutovers import cells, decided, details, keep, migrated, step, verdicts
from tests.fences import rows
from tests.servers import ChromaServer, client_of, free_port
from tests.signers import Signers

pytestmark = [pytest.mark.servers, pytest.mark.slow]

Start = Callable[..., ChromaServer]


class Application:
    """The application in a folder, at a port; `env` is its configuration as it was before the night."""

    def __init__(self, folder: Path, source: str, target: str) -> None:
        self.folder, self.port = folder, free_port()
        self.url = f"http://127.0.0.1:{self.port}/health"
        self.env = f'# the assistant\r\nexport CHROMADB_URL="{source}"  # Chroma\r\nREFUSES=no\r\nTOKEN=s3cret'.encode()
        self.file = folder / ".env"
        self.file.write_bytes(self.env)
        self.target = target

    @property
    def command(self) -> list[str]:
        return [sys.executable, application.__file__, "restart", str(self.folder), str(self.port)]

    def start(self) -> None:
        subprocess.run(self.command, check=True)
        with httpx.Client(trust_env=False, transport=httpx.HTTPTransport(retries=8)) as client:
            assert client.get(self.url, timeout=10).status_code == 200

    def uses(self) -> str:
        return str(httpx.get(self.url, trust_env=False).json()["database"])

    def section(self, **more: Any) -> dict[str, Any]:
        return {
            "env_files": [{"path": str(self.file), "keys": {"CHROMADB_URL": "{target_url}"}}],
            "restart": [self.command], "health": [self.url], "log_files": [str(self.folder / "app.log")],
            "timeout_seconds": 30.0, "monitor_minutes": 0.03, **more,
        }  # fmt: skip


@pytest.fixture
def ends(chroma_server: Start) -> tuple[ChromaServer, ChromaServer]:
    source, target = chroma_server(), chroma_server()
    with client_of(source.url) as client:
        client.create_collection("docs", embedding_function=None).add(**rows(30))
    return source, target


@pytest.fixture
def app(ends: tuple[ChromaServer, ChromaServer], tmp_path: Path) -> Iterator[Application]:
    folder = tmp_path / "application"
    folder.mkdir()
    made = Application(folder, ends[0].url, ends[1].url)
    yield made
    application.stop(folder)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RUNBOOK_REPORTS", str(tmp_path / "reports"))
    monkeypatch.setenv("RUNBOOK_WORKSPACE", str(tmp_path / "workspace"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_one_command_signatures_and_the_application_uses_the_target(
    ends: tuple[ChromaServer, ChromaServer], app: Application, here: Path
) -> None:
    source, target = ends
    runbook = Runbook(here)
    app.start()

    people = Signers(here / "keys")
    more = f"cutover: {json.dumps(app.section())}\n{people.parameter()}"
    file = runbook.write("night", f"url: '{source.url}'", f"url: '{target.url}'", more)
    waiting = only_line(runbook("run", file, "--run-id", "one", "--until", "25"), 4)
    assert "waits for the approval of operations_lead, dba, security" in waiting
    assert app.file.read_bytes() == app.env
    for role in ("operations_lead", "dba", "security"):
        assert runbook("sign", "one", *people.command(role)).returncode == 0
    done = runbook("resume", "one")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "Verdict: GO\n" in done.stdout
    assert f"The cutover to {target.url} is done" in done.stdout
    assert app.file.read_bytes() == app.env.replace(source.url.encode(), target.url.encode())
    assert app.uses() == target.url
    found = StepResult.read(here / "reports" / "one" / "results" / "25.json")
    used = next(c for c in found.checks if c.name == "application at the target")
    assert (used.verdict, "names the target" in used.detail) == (Verdict.PASS, True)
    assert "s3cret" not in (here / "reports" / "one" / "25_cutover.html").read_text()
    put_back(runs.find("one"))
    assert app.file.read_bytes() == app.env
    assert app.uses() == source.url


@pytest.mark.parametrize(
    ("line", "said"),
    [("REFUSES={target}", "answered 503"), ("COMPLAINS={target}", "ERROR cannot use"), ("", "")],
)
def test_an_application_that_is_not_well_on_the_target_is_taken_back(
    ends: tuple[ChromaServer, ChromaServer], app: Application, here: Path, line: str, said: str
) -> None:
    source, target = ends
    app.env += b"\r\n" + line.format(target=target.url).encode()
    app.file.write_bytes(app.env)
    app.start()
    section = app.section(timeout_seconds=6.0)
    if not line:  # the file is changed, but nothing makes the application read it
        section["restart"], said = [], "still names the source"
    folder = migrated(here, section, source={"url": source.url}, target={"url": target.url})
    decided(folder)
    result = step(folder)
    assert verdicts(result)["cutover"] is Verdict.FAIL
    assert said in details(result)
    state = CutoverState.load(folder.workspace)
    assert state is not None
    assert state.state == REVERTED
    assert app.file.read_bytes() == app.env
    assert app.uses() == source.url


@pytest.mark.parametrize("before", [False, True])
def test_connections_are_seen_where_the_health_answer_names_nothing(
    ends: tuple[ChromaServer, ChromaServer], here: Path, before: bool
) -> None:
    """One that was there before the switch is no sign of it."""
    source, target = ends
    folder = migrated(here, {}, source={"url": source.url}, target={"url": target.url})
    decided(folder)
    program = "import httpx, sys; c = httpx.Client(); c.get(sys.argv[1]); print('on', flush=True); sys.stdin.read()"
    with ExitStack() as stack:

        def connect() -> None:
            command = [sys.executable, "-c", program, f"{target.url}/api/v2/heartbeat"]
            other = stack.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            stack.callback(other.kill)
            assert other.stdout is not None
            assert other.stdout.readline() == "on\n"

        if before:
            connect()
        with cells(folder) as switch:
            switch.switch()
            if not before:
                connect()
            switch.watch()
            switch.evidence()
            result = keep(folder, switch.run)
    used = next(c for c in result.checks if c.name == "application at the target")
    assert used.verdict is (Verdict.WARNING if before else Verdict.PASS)
    assert ("1 connections of other processes" in used.detail) is not before
    assert CutoverState.load(folder.workspace).state == DONE  # type: ignore[union-attr]

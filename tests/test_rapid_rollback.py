"""The way back on one page, as notebook 00 shows it: its commands are read from the executed notebook and given to a shell."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import nbformat
import pytest
from bs4 import BeautifulSoup

from helpers.cli import parser
from helpers.fence import FenceControl
from helpers.run.advice import rapid_rollback
from helpers.run.folders import RunFolder
from helpers.steps import index
from helpers.steps.index import plan_and_measured
from tests.commands import Runbook, only_line
from tests.conftest import ROOT
from tests.fences import Fenced, client, fenced_server, rows
from tests.rollbacks import Night
from tests.servers import ChromaServer
from tests.signers import Signers

ROLES = ("operations_lead", "dba", "security")


class World:
    """A source behind nginx, a target, an application's file, and a run that is cut over."""

    def __init__(self, home: Path, fenced: Fenced, target: ChromaServer) -> None:
        self.home, self.fenced, self.target = home, fenced, target
        self.runbook = Runbook(home)
        self.env = home / "app.env"
        self.env.write_text(f"CHROMA_URL={fenced.url}  # the application's\n")
        self.before = self.env.read_bytes()

    def by_command(self) -> Self:
        """The whole line, signed."""
        people = Signers(self.home / "keys")
        fence = f"fence: {json.dumps(self.fenced.section())}\n"
        cutover = "cutover: {env_files: [{path: app.env, keys: {CHROMA_URL: '{target_url}'}}], monitor_minutes: 0}\n"
        file = self.runbook.write("night", f"url: '{self.fenced.server.url}'", f"url: '{self.target.url}'",
                                  fence + cutover + "rollback: {monitor_minutes: 0}\n" + people.parameter())  # fmt: skip
        self.must(self.runbook("run", file, "--run-id", "night", "--until", "24"), 4)
        for role in ROLES:
            self.must(self.runbook("sign", "night", *people.command(role)), 0)
        self.must(self.runbook("run", "--run-id", "night", "--from", "25", "--until", "25"), 0)
        assert self.target.url in self.env.read_text()
        return self

    def at_once(self) -> Self:
        """The steps that matter to a rollback, in this process: quicker by minutes, and nobody signs."""
        cutover = {"env_files": [{"path": "app.env", "keys": {"CHROMA_URL": self.target.url}}], "monitor_minutes": 0}
        night = Night(self.home, source={"url": self.fenced.server.url}, target={"url": self.target.url},
                      fence=self.fenced.section(), cutover=cutover)  # fmt: skip
        self.env.write_bytes(self.before)
        FenceControl(night.folder, night.folder.read().parameters).put_up()
        night.snapshot()
        night.migrate()
        night.cut_over()
        return self

    @staticmethod
    def must(done: subprocess.CompletedProcess[str], code: int) -> None:
        assert done.returncode == code, done.stdout + done.stderr

    @property
    def environment(self) -> dict[str, str]:
        """An operator's shell: the commands of this environment are on its path."""
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        folders = {"RUNBOOK_REPORTS": str(self.runbook.reports), "RUNBOOK_WORKSPACE": str(self.runbook.workspace)}
        return {**os.environ, **folders, "PATH": path, "PYTHONPATH": str(ROOT)}

    def page(self) -> dict[str, list[str]]:
        """When → commands, as the executed notebook shows them."""
        out = self.home / "00_index.ipynb"
        papermill = [sys.executable, "-m", "papermill", "-k", "python3", "-p", "run_id", "night"]
        done = subprocess.run([*papermill, str(ROOT / "notebooks" / "00_index.ipynb"), str(out)], cwd=self.home,
                              env=self.environment, capture_output=True, text=True, check=False)  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        cell = next(c for c in nbformat.read(out, 4).cells if c.source == "step.rapid_rollback()")  # type: ignore[no-untyped-call]
        table = BeautifulSoup(cell.outputs[0].data["text/html"], "html.parser").find("table")
        assert table is not None
        found: dict[str, list[str]] = {}
        when = ""
        for row in table.find_all("tr")[1:]:
            cells = row.find_all("td")
            when = cells[0].get_text() or when
            found.setdefault(when, []).append(cells[2].get_text())
        return found

    def give(self, command: str) -> subprocess.CompletedProcess[str]:
        """The command, as it is, to a shell in a folder whose .venv is this environment."""
        if not (self.home / ".venv").exists():
            (self.home / ".venv").symlink_to(sys.prefix)
        return subprocess.run(["/bin/sh", "-c", command], cwd=self.home, env=self.environment, capture_output=True,
                              text=True, check=False, timeout=300)  # fmt: skip

    def clients_write(self) -> None:
        with client(self.target.url) as chroma:
            chroma.get_collection("docs", embedding_function=None).add(**rows(2, prefix="new"))

    def serves(self) -> set[str]:
        """The source takes a read and a write by the address that clients use; the ids that it held before that write."""
        assert self.env.read_bytes() == self.before
        with client(self.fenced.url) as chroma:
            docs = chroma.get_collection("docs", embedding_function=None)
            ids = set(docs.get(include=[])["ids"])
            docs.add(**rows(1, prefix="after"))
            assert docs.count() == len(ids) + 1
        with client(self.target.url) as chroma:
            assert chroma.list_collections() == []
        return ids

    def says_so(self, page: dict[str, list[str]]) -> None:
        assert "Rolled back, finished" in self.give(page["3. Afterwards"][0]).stdout


@pytest.fixture
def world(tmp_path: Path, own_folders: None) -> Iterator[World]:
    with ExitStack() as stack:
        fenced = stack.enter_context(fenced_server(tmp_path))
        yield World(tmp_path, fenced, stack.enter_context(ChromaServer(tmp_path / "new")))


ORIGINAL = {f"c{n}" for n in range(20)}
WROTE, DAMAGED = "if it stops: clients wrote to the target", "if it stops: the source is damaged"


@pytest.mark.slow
def test_what_the_page_says_brings_the_source_back_with_what_clients_wrote(world: World) -> None:
    page = world.by_command().page()
    world.clients_write()
    cut_over = world.env.read_bytes()
    world.must(world.give(page["1. First"][0]), 0)
    assert world.env.read_bytes() == cut_over, "the first line touches nothing"
    assert "--replay" in only_line(world.give(page["2. Then"][0]), 1)
    world.must(world.give(page[WROTE][0]), 0)
    world.must(world.give(page["if it is killed"][0]), 0)
    assert world.serves() == ORIGINAL | {"new0", "new1"}
    world.says_so(page)
    world.must(world.give(page["3. Afterwards"][1]), 0)
    folder = RunFolder("night", world.runbook.reports / "night", world.runbook.workspace / "night")
    back = plan_and_measured(folder.read(), folder.read().parameters).of("27")
    assert back.real is not None
    assert "measured in this run" in index.times(folder.read())[0][2]


@pytest.mark.slow
def test_the_fence_alone_is_lifted_and_what_clients_wrote_is_given_up(world: World) -> None:
    page = world.at_once().page()
    world.clients_write()
    world.must(world.give(page["if only the fence is in the way"][0]), 0)
    with client(world.fenced.url) as chroma:
        chroma.get_collection("docs", embedding_function=None).add(**rows(1, prefix="late"))
    world.must(world.give(page[WROTE][1]), 0)
    assert world.serves() == ORIGINAL | {"late0"}
    world.says_so(page)


@pytest.mark.slow
def test_a_damaged_source_is_written_back_by_the_line_that_says_so(world: World) -> None:
    page = world.at_once().page()
    with client(world.fenced.server.url) as chroma:
        chroma.get_collection("docs", embedding_function=None).delete(ids=["c3", "c4"])
    assert "--restore-source" in only_line(world.give(page["2. Then"][0]), 1)
    world.must(world.give(page[DAMAGED][0]), 0)
    assert world.serves() == ORIGINAL
    world.says_so(page)


def test_every_command_of_the_page_is_one_that_the_command_line_takes(own_folders: None) -> None:
    commands: list[Any] = [line.command.split() for line in rapid_rollback(RunFolder.of("night-1").command)]
    for command in commands:
        assert command[0] == ".venv/bin/runbook"
        assert parser().parse_args(command[1:]).run_id == "night-1"
    assert "RUN_ID" in index.sheet(RunFolder.of("RUN_ID").read()), "also before there is a run"

"""The same four lines with the source, or both ends, served by a real `chroma run`."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.commands import Runbook
from tests.plain_client import Held, assert_same, held, opened
from tests.servers import ChromaServer, client_of

pytestmark = pytest.mark.servers

Start = Callable[..., ChromaServer]


def served(database: Path, tmp_path: Path, chroma_server: Start) -> ChromaServer:
    shutil.copytree(database, tmp_path / "source", copy_function=shutil.copyfile)
    (tmp_path / "source").chmod(0o755)
    return chroma_server(tmp_path / "source")


def over_http(server: ChromaServer) -> dict[str, Held]:
    with client_of(server.url) as client:
        return held(client)


@pytest.mark.parametrize(
    "database",
    [
        pytest.param("open-webui-cosine-0.5", marks=pytest.mark.slow),
        pytest.param("no-documents-128-1.x", marks=pytest.mark.slow),
        pytest.param("chinese-zero-vector-1.5", marks=pytest.mark.slow),
        pytest.param("turkish-768-0.5", marks=pytest.mark.slow),
    ],
)
def test_a_served_database_arrives_whole_in_a_directory(
    database: str, tmp_path: Path, real_databases: Path, chroma_server: Start
) -> None:
    server = served(real_databases / database, tmp_path, chroma_server)
    before = over_http(server)
    runbook = Runbook(tmp_path)
    done = runbook("run", runbook.write("night", f"url: '{server.url}'", "path: target"), "--until", "23")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    with opened(tmp_path / "target") as client:
        assert_same(before, held(client))
    assert_same(before, over_http(server))
    if database.startswith("open-webui"):
        assert {c.space for c in before.values()} == {"cosine"}


@pytest.mark.slow  # make test-compat takes servers of every version to another one
def test_a_served_database_arrives_whole_on_another_server(
    tmp_path: Path, real_databases: Path, chroma_server: Start
) -> None:
    server = served(real_databases / "no-documents-128-1.x", tmp_path, chroma_server)
    target = chroma_server(tmp_path / "target")
    before = over_http(server)
    runbook = Runbook(tmp_path)
    file = runbook.write("night", f"url: '{server.url}'", f"url: '{target.url}'")
    done = runbook("run", file, "--until", "23")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert_same(before, over_http(target))
    assert_same(before, over_http(server))

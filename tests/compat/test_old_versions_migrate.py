"""Old versions of Chroma, served and as directories, migrated by the command to a current server: nothing is lost."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from helpers.errors import Terminal
from helpers.parameters.endpoint import Endpoint
from helpers.stores import open_source, quick_names
from tests.compat.environments import VERSIONS, NoEnvironment, environment
from tests.compat.seeds import assert_held, assert_read, plant
from tests.conftest import ROOT, absent
from tests.servers import ChromaServer, client_of
from tests.storage import tree, writable_copy

pytestmark = [pytest.mark.servers, pytest.mark.slow]


def python_of(version: str) -> Path:
    try:
        return environment(version)
    except NoEnvironment as error:
        absent(f"an environment for chromadb {version}", str(error))


@pytest.fixture(scope="session")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChromaServer]:
    """A current server; each case gets a database of its own."""
    with ChromaServer(tmp_path_factory.mktemp("target") / "db") as server:
        yield server


@pytest.fixture
def database(target: ChromaServer) -> str:
    name = f"db-{uuid.uuid4().hex[:8]}"
    url = f"{target.url}/api/v2/tenants/default_tenant/databases"
    assert httpx.post(url, json={"name": name}, trust_env=False).is_success
    return name


def migrate(folder: Path, source: str, target: ChromaServer, database: str) -> str:
    """`runbook run … --until 23` from `source` (a YAML mapping); what it printed."""
    text = (
        f"name: compat\nsource: {source}\n"
        f"target: {{url: '{target.url}', database: {database}}}\nschema: identity\n"
    )  # fmt: skip
    (folder / "compat.yaml").write_text(text, encoding="utf-8")
    folders = {"RUNBOOK_REPORTS": str(folder / "reports"), "RUNBOOK_WORKSPACE": str(folder / "workspace")}
    done = subprocess.run(
        [sys.executable, "-m", "helpers", "run", "compat.yaml", "--run-id", "one", "--until", "23"],
        cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, **folders, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert (done.returncode, done.stderr) == (0, ""), said
    return said


@pytest.mark.parametrize("version", VERSIONS)
def test_an_old_version_is_read_whole_served_and_as_a_directory(version: str, tmp_path: Path) -> None:
    python = python_of(version)
    wanted = plant(python, tmp_path / "directory", mixed=False)
    before = tree(tmp_path / "directory")
    with open_source(Endpoint(path=str(tmp_path / "directory")), tmp_path / "scratch") as store:
        assert_read(store, wanted)
    assert tree(tmp_path / "directory") == before
    wanted = plant(python, tmp_path / "served", mixed=True)
    with ChromaServer(tmp_path / "served", python.with_name("chroma")) as server:
        assert quick_names(Endpoint(url=server.url), "source") == sorted(c["name"] for c in wanted)
        with open_source(Endpoint(url=server.url), tmp_path) as store:
            assert store.protocol == ("API v1" if version in ("0.4.24", "0.5.0") else "API v2")
            assert_read(store, wanted)
        if version != "1.0.20":  # 0.5.16 to 0.6.3 speak API v2, and no current client can create a collection there
            with pytest.raises(Terminal, match="can be a source but not a target"):
                quick_names(Endpoint(url=server.url), "target")


@pytest.mark.parametrize("version", VERSIONS)
def test_a_server_of_an_old_version_migrates_whole(
    version: str, tmp_path: Path, target: ChromaServer, database: str
) -> None:
    python = python_of(version)
    wanted = plant(python, tmp_path / "source", mixed=True)
    with ChromaServer(tmp_path / "source", python.with_name("chroma")) as server:
        migrate(tmp_path, f"{{url: '{server.url}'}}", target, database)
    assert_held(target.url, database, wanted)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_directory_of_an_old_version_migrates_whole_and_stays_as_it_was(
    version: str, tmp_path: Path, target: ChromaServer, database: str
) -> None:
    wanted = plant(python_of(version), tmp_path / "source", mixed=False)
    before = tree(tmp_path / "source")
    migrate(tmp_path, "{path: source}", target, database)
    assert tree(tmp_path / "source") == before
    assert_held(target.url, database, wanted)


def test_cosine_collections_of_an_application_served_by_0_5_23_become_cosine(
    real_databases: Path, tmp_path: Path, target: ChromaServer, database: str
) -> None:
    """Their configuration says l2 (chroma-facts 2)."""
    python = python_of("0.5.23")
    folder = writable_copy(real_databases / "open-webui-cosine-0.5", tmp_path / "source")
    with ChromaServer(folder, python.with_name("chroma")) as server:
        migrate(tmp_path, f"{{url: '{server.url}'}}", target, database)
    with client_of(target.url, database) as client:
        spaces = [c.configuration["hnsw"]["space"] for c in client.list_collections()]  # type: ignore[index]
    assert spaces == ["cosine"] * 8

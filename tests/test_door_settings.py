"""No setting of Chroma comes from outside, for any field: neither exported variables nor the `.env` of the working folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromadb.config import Settings

from helpers.errors import Terminal
from helpers.parameters.endpoint import Endpoint
from helpers.stores import door, open_source, quick_names
from tests.servers import ChromaServer, client_of, free_port
from tests.storage import chunks, embedded, fill
from tests.test_source_layout_0_3 import write_old

ROOT = Path(__file__).resolve().parent.parent
FIELDS = sorted(Settings.model_fields)
READ = """
import json
from helpers.stores import door
print(json.dumps([made.model_dump(mode="json") for made in (door.settings(), door.Settings())]))
"""


def hostile_value(name: str) -> str:
    """A value that Chroma would take for this field, other than its default."""
    kind = str(Settings.model_fields[name].annotation)
    default = Settings.model_fields[name].default
    if "bool" in kind and "str" not in kind:
        return "false" if default else "true"
    if "Dict" in kind:
        return '{"x": "y"}' if "List" not in kind else '{"x": ["y"]}'
    if "List" in kind:
        return '["x"]'
    if "int" in kind or "float" in kind:
        return "7"
    if "APIVersion" in kind:
        return "/api/v1"
    if "RoutingMode" in kind:
        return "node"
    if "Literal" in kind:
        return {"migrations": "none", "migrations_hash_algorithm": "sha256"}[name]
    return "elsewhere"


HOSTILE = {name.upper(): hostile_value(name) for name in FIELDS}


@pytest.mark.more
@pytest.mark.parametrize("way", ["exported", "env file"])
def test_every_field_keeps_its_value(tmp_path: Path, way: str) -> None:
    """Each of Chroma's fields at once; without the door each of them is another one."""

    given = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]}
    if way == "exported":
        given |= HOSTILE
    else:
        (tmp_path / ".env").write_text("".join(f"{k}='{v}'\n" for k, v in HOSTILE.items()))
    done = subprocess.run(
        [sys.executable, "-c", READ], cwd=tmp_path, env=given, capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    ours, beside_the_door = json.loads(done.stdout)
    assert len(FIELDS) > 60
    assert ours == json.loads(door.settings().model_dump_json())
    default = json.loads(Settings.model_construct().model_dump_json())
    assert [name for name in FIELDS if beside_the_door[name] == default[name]] == []  # each of these values is a threat


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChromaServer]:
    """Another server, which nobody means, with a collection of its own."""
    with ChromaServer(tmp_path_factory.mktemp("other") / "data") as server:
        with client_of(server.url) as client:
            client.create_collection("not_yours", embedding_function=None)
        yield server


def redirect(folder: Path, server: ChromaServer) -> dict[str, str]:
    """The `.env` and the variables that send every opening to this server."""
    lines = {
        "CHROMA_API_IMPL": "chromadb.api.fastapi.FastAPI", "CHROMA_SERVER_HOST": "127.0.0.1",
        "CHROMA_SERVER_HTTP_PORT": str(server.port), "CHROMA_SERVER_SSL_ENABLED": "false", "IS_PERSISTENT": "false",
        "PERSIST_DIRECTORY": str(folder / "persisted-elsewhere"), "ALLOW_RESET": "true",
    }  # fmt: skip
    (folder / ".env").write_text("".join(f"{k}={v}\n" for k, v in lines.items()))
    return lines


@pytest.mark.servers
@pytest.mark.parametrize(
    "source",
    ["directory", pytest.param("server", marks=pytest.mark.slow), pytest.param("0.3", marks=pytest.mark.slow)],
)
@pytest.mark.more
def test_a_dry_run_touches_what_is_named_and_nothing_else(tmp_path: Path, other: ChromaServer, source: str) -> None:
    """By the command and its kernels and other children: steps 10 to 13."""

    home = tmp_path / "home"
    home.mkdir()
    given = redirect(home, other)
    batch = chunks(6)
    named: dict[str, Any] = {"path": str(tmp_path / "a")}
    running: ChromaServer | None = None
    if source == "0.3":
        vector = np.ones(4, np.float32).tolist()
        write_old(tmp_path / "a", [{"id": "x", "document": "text", "embedding": vector, "metadata": None}])
    else:
        with embedded(tmp_path / "a") as store:
            fill(store, "yours", batch)
    if source == "server":
        running = ChromaServer(tmp_path / "a").start()
        named = {"url": running.url}
    try:
        (home / "p.yaml").write_text(
            json.dumps({"name": "n", "source": named, "target": {"path": str(tmp_path / "t")}})
        )
        done = subprocess.run(
            [sys.executable, "-m", "helpers", "run", "p.yaml", "--run-id", "r", "--dry-run", "--reports", str(home / "reports")],
            cwd=home, env={**os.environ, **given, "PYTHONPATH": str(ROOT), "RUNBOOK_WORKSPACE": str(home / "ws")},
            capture_output=True, encoding="utf-8", check=False,
        )  # fmt: skip
    finally:
        if running:
            running.stop()
    assert done.returncode == 0, done.stderr[-2000:]
    facts = "".join(p.read_text() for p in (home / "reports" / "r" / "results").glob("*.json"))
    assert "not_yours" not in facts
    assert source == "0.3" or "yours" in facts
    assert not (home / "persisted-elsewhere").exists()
    with client_of(other.url) as client:
        assert [c.name for c in client.list_collections()] == ["not_yours"]


def test_an_engine_that_is_not_here_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever makes Chroma use another folder than ours: here a patched library."""
    honest = door.settings
    monkeypatch.setattr(door, "settings", lambda **given: honest(**{**given, "is_persistent": False}))
    with pytest.raises(Terminal, match="did not open this folder") as caught, embedded(tmp_path / "a"):
        pass
    assert caught.value.code == "not_embedded"


@pytest.mark.servers
def test_exported_host_and_port_do_not_confuse_a_server(
    tmp_path: Path, other: ChromaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHROMA_SERVER_HOST", "elsewhere")
    monkeypatch.setenv("CHROMA_SERVER_HTTP_PORT", str(free_port()))
    endpoint = Endpoint(url=other.url)
    assert quick_names(endpoint, "source") == ["not_yours"]
    with open_source(endpoint, tmp_path) as store:
        assert store.count("not_yours") == 0

"""One door: nothing in the package constructs a Chroma client, its settings, its engine or an HTTP session beside it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_frame import code, nothing

DOOR, WIRE, PROBE = "helpers/stores/door.py", "helpers/stores/wire.py", "helpers/stores/engine_page.py"
PLAYED = "helpers/rehearsal/sample_application.py"  # the application of a rehearsal, a process of its own
MAKERS = {
    "PersistentClient", "HttpClient", "AsyncHttpClient", "EphemeralClient", "CloudClient", "RustClient", "AdminClient",
    "Settings", "System", "get_settings", "configure", "FastAPI", "RustBindingsAPI", "SegmentAPI",
}  # fmt: skip
HTTP = {
    "Client",
    "AsyncClient",
    "HTTPTransport",
    "AsyncHTTPTransport",
    "get",
    "post",
    "put",
    "delete",
    "request",
    "stream",
}
FOREIGN = {"requests", "urllib3", "aiohttp", "http.client", "urllib.request"}


def imported(tree: ast.Module) -> dict[str, str]:
    """Local name → what it is: `from chromadb.config import Settings as S` gives S → chromadb.config.Settings."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {
                (a.asname or a.name.split(".")[0]): (a.name if a.asname else a.name.split(".")[0]) for a in node.names
            }
            found |= {a.name: a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    return found


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def beside_the_door(text: str, name: str = "x.py") -> list[str]:
    """What a module does that only the door may, one line each."""
    tree = ast.parse(text)
    names = imported(tree)
    found = [f"{name}: imports {what}" for what in names.values() if what in FOREIGN]
    found += [f"{name}: imports the engine" for what in names.values() if what.startswith("chromadb_rust_bindings")]
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        first, _, rest = dotted(node.func).partition(".")
        whole = f"{names.get(first, first)}{'.' if rest else ''}{rest}"
        last = whole.rpartition(".")[2]
        if whole.startswith("chromadb") and last in MAKERS | {"Client", "from_system"}:
            found.append(f"{name}:{node.lineno}: {whole}(…)")
        if whole.startswith("httpx.") and last in HTTP:
            found.append(f"{name}:{node.lineno}: {whole}(…)")
    return found


@pytest.mark.more
def test_nothing_passes_beside_the_door(root: Path) -> None:
    seen = 0
    problems: list[str] = []
    for path in code(root, "helpers"):
        name = path.relative_to(root).as_posix()
        seen += 1
        if name not in (DOOR, WIRE, PROBE, PLAYED):
            problems += beside_the_door(path.read_text(encoding="utf-8"), name)
    assert seen > 150
    nothing(problems)


@pytest.mark.parametrize(
    "text",
    [
        "import chromadb\nchromadb.PersistentClient('x')",
        "from chromadb.config import Settings as S\nS()",
        "from chromadb import HttpClient\nHttpClient()",
        "from chromadb.api.client import Client\nClient()",
        "import httpx\nhttpx.Client(timeout=3)",
        "import httpx as h\nh.get('http://x')",
        "from httpx import Client\nClient()",
        "import urllib.request\n",
        "import chromadb_rust_bindings as engine\n",
    ],
)
def test_the_search_sees_each_way_past(text: str) -> None:
    assert beside_the_door(text)


def test_a_type_is_no_way_past() -> None:
    assert not beside_the_door(
        "import httpx\nfrom chromadb.api.client import Client\ndef f(c: Client) -> httpx.URL: ..."
    )


@pytest.mark.more
def test_chroma_is_imported_through_the_door_alone(root: Path) -> None:
    """Chroma reads the environment while it is imported; only the door imports it with that shut off."""
    nothing(
        f"{path.relative_to(root)} imports {what}: take it from helpers.stores.door"
        for path in code(root, "helpers")
        if path.relative_to(root).as_posix() != DOOR
        for what in imported(ast.parse(path.read_bytes())).values()
        if what.partition(".")[0] == "chromadb"
    )


@pytest.mark.more
def test_the_package_imports_in_a_folder_whose_settings_are_malformed(tmp_path: Path, root: Path) -> None:
    (tmp_path / ".env").write_text("CHROMA_SERVER_HTTP_PORT=no number\nCHROMA_SERVER_CORS_ALLOW_ORIGINS=[broken\n")
    done = subprocess.run(
        [sys.executable, "-c", "import helpers.stores.client, helpers.schema.rules"], cwd=tmp_path, capture_output=True,
        encoding="utf-8", check=False, env={"PYTHONPATH": str(root), "CHROMA_MEMORY_LIMIT_BYTES": "much"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-1000:]

"""The address of a server is used whole: IPv6, hosts that begin with "http", a path prefix, proxies of the environment."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, Request, build_opener

import pytest

from helpers.cutover.application import check_health
from helpers.errors import RunbookError, Terminal, Transient
from helpers.parameters.endpoint import Endpoint, overlap
from helpers.steps.network import broken, layers
from helpers.stores import open_source, open_target, quick_names
from helpers.stores.wire import Session, tried
from tests.conftest import require_component
from tests.fences import wait_for
from tests.servers import ChromaServer, free_port
from tests.storage import assert_same, chunks, contents, fill

pytestmark = pytest.mark.servers
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChromaServer]:
    with ChromaServer(tmp_path_factory.mktemp("addresses") / "db") as running:
        yield running


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def at(url: str, **more: Any) -> Endpoint:
    return Endpoint.model_validate({"url": url, "timeout_seconds": 30.0, **more})


def written_and_read(endpoint: Endpoint, tmp_path: Path, name: str) -> None:
    batch = chunks(12)
    with open_target(endpoint) as store:
        fill(store, name, batch)
        assert_same(store.read(name, batch.ids), batch)
    with open_source(endpoint, tmp_path) as source:
        assert len(contents(source, name)) == 12
        assert source.query(name, batch.embeddings[:1], 1)[0][0][0] == "c0"
    assert name in quick_names(endpoint, "source")


def test_a_server_on_an_ipv6_address(tmp_path: Path) -> None:
    if not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    with ChromaServer(tmp_path / "six", host="::1") as six:
        endpoint = at(six.url)
        assert endpoint.address == f"http://[::1]:{six.port}"
        written_and_read(endpoint, tmp_path, "six")
        assert broken(layers(endpoint, "source")) == ""


def test_a_host_whose_name_begins_with_http(
    server: ChromaServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo",
        lambda host, *more, **options: real("127.0.0.1" if host == "http-vectors" else host, *more, **options),
    )  # fmt: skip
    written_and_read(at(f"http://http-vectors:{server.port}"), tmp_path, "named")


# -- a path prefix -----------------------------------------------------------------------------------------------------


@contextmanager
def nginx(folder: Path, upstream: int) -> Iterator[int]:
    """A real nginx that offers the server under /chroma/ and nothing else; its port."""
    program, port = require_component("nginx", "a server behind a path prefix"), free_port()
    folder.mkdir()
    lines = f"""
        daemon off; pid {folder}/pid; error_log {folder}/error.log;
        events {{}}
        http {{
            access_log off; client_max_body_size 64m;
            client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
            uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
            server {{
                listen 127.0.0.1:{port};
                location /chroma/ {{ proxy_pass http://127.0.0.1:{upstream}/; }}
                location / {{ return 404; }}
            }}
        }}
    """
    (folder / "nginx.conf").write_text(lines)
    running = subprocess.Popen([program, "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")])
    try:
        wait_for((folder / "pid").exists, 60)
        yield port
    finally:
        running.terminate()
        running.wait(30)


@pytest.mark.parametrize("end", ["/chroma", "/chroma/"])
def test_a_server_under_a_path_prefix(server: ChromaServer, tmp_path: Path, end: str) -> None:
    with nginx(tmp_path / "nginx", server.port) as port:
        endpoint = at(f"http://127.0.0.1:{port}{end}")
        assert endpoint.address == endpoint.label == f"http://127.0.0.1:{port}/chroma"
        written_and_read(endpoint, tmp_path, f"prefix-{len(end)}")
        assert broken(layers(endpoint, "target")) == ""
        assert [c.url for c in tried(endpoint) if c.answers] == [f"http://localhost:{port}/chroma"]
        with pytest.raises(RunbookError) as caught:
            quick_names(at(f"http://127.0.0.1:{port}"), "source")
        assert caught.value.code == "source_not_chroma"


def test_a_prefix_tells_two_servers_apart_and_is_given_to_the_application() -> None:
    first, second = at("http://host/a/"), at("http://host:80/b")
    assert overlap(first, second) == ""
    assert overlap(first, at("http://HOST:80/a")) != ""
    assert second.template_values() == {
        "target_url": "http://host:80/b", "target_host": "host", "target_port": "80", "target_prefix": "/b",
    }  # fmt: skip


# -- proxies of the environment ----------------------------------------------------------------------------------------


class _Proxy(BaseHTTPRequestHandler):
    seen: list[str]
    upstream: int

    def do_GET(self) -> None:
        self.seen.append(self.path)
        path = "/" + self.path.partition("://")[2].partition("/")[2]
        with build_opener(ProxyHandler({})).open(
            Request(f"http://127.0.0.1:{self.upstream}{path}"), timeout=60
        ) as reply:
            body, status = reply.read(), reply.status
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Silence."""


@contextmanager
def forward_proxy(upstream: int) -> Iterator[tuple[str, list[str]]]:
    """An HTTP proxy that answers for every host with this server; its URL and what it was asked."""
    handler = type("Handler", (_Proxy,), {"seen": [], "upstream": upstream})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}", handler.seen  # type: ignore[attr-defined]
        running.shutdown()


@pytest.mark.parametrize("variable", ["ALL_PROXY", "HTTP_PROXY"])
@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:9", "http://127.0.0.1:9"])
def test_loopback_never_goes_through_a_proxy(
    server: ChromaServer, monkeypatch: pytest.MonkeyPatch, variable: str, proxy: str
) -> None:
    monkeypatch.setenv(variable, proxy)
    assert quick_names(at(server.url), "source") is not None
    with open_target(at(server.url.replace("127.0.0.1", "localhost"))) as store:
        store.names()
    assert check_health(f"{server.url}/api/v2/heartbeat").is_healthy


def test_a_proxy_is_honoured_and_no_proxy_too(server: ChromaServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with forward_proxy(server.port) as (url, seen), Session(timeout=30) as session:
        monkeypatch.setenv("HTTP_PROXY", url)
        assert "heartbeat" in session.get("http://vectors.example/api/v2/heartbeat").text
        assert seen == ["http://vectors.example/api/v2/heartbeat"]
        monkeypatch.setenv("NO_PROXY", "vectors.example")
        with pytest.raises(Exception, match=r"(?i)name|resolve|address"):
            session.get("http://vectors.example/api/v2/heartbeat")
        assert len(seen) == 1


@pytest.mark.more
def test_a_proxy_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://joe:hunter22@127.0.0.1:{(port := free_port())}")
    with pytest.raises(Transient) as caught:
        quick_names(at("http://vectors.example:8000"), "source")
    line = caught.value.line()
    assert f"through the proxy http://127.0.0.1:{port} of HTTP_PROXY" in line
    assert "NO_PROXY=vectors.example" in line
    assert "hunter22" not in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("proxy", "why"), [("socks5://127.0.0.1:9", "socksio"), ("gopher://127.0.0.1:9", "socks5 are known")]
)
def test_a_proxy_that_cannot_be_used_is_one_clear_line(monkeypatch: pytest.MonkeyPatch, proxy: str, why: str) -> None:
    if why == "socksio":
        monkeypatch.setitem(__import__("sys").modules, "socksio", None)
    monkeypatch.setenv("ALL_PROXY", proxy)
    with pytest.raises(Terminal, match=why) as caught:
        quick_names(at("http://vectors.example:8000"), "source")
    assert caught.value.code == "proxy_unusable"
    assert f"the proxy {proxy} of ALL_PROXY" in caught.value.line()
    assert not check_health("http://vectors.example:8000/health").is_healthy
    assert all(not c.answers for c in tried(at("http://vectors.example:8000"), ["other.example"]))

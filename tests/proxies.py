"""A small proxy between a client and a real Chroma server, for the faults that a network has.

It forwards HTTP request by request over its own TCP connections, and asks `fault` before each one what to do with it.
"""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

Fault = Callable[[str, str], str]  # (method, path) → what happens to this request
PASS = "pass"
CUT_BEFORE = "cut before"  # the connection ends, the server never sees the request
CUT_AFTER = "cut after"  # the server does what was asked, the client never hears of it
BUSY_AFTER = "busy after"  # the server does it, the gateway answers 503
TWICE = "twice"  # a gateway sends the request twice, and passes on the second answer
FAILS = "fails"  # 500, and the server never sees the request
BUSY = "busy"  # 503, as a gateway in front of the server answers
SILENT = "silent"  # no answer, as long as the proxy lives
ECHO = "echo"  # 500 whose body repeats the Authorization header that came
LATIN = "latin"  # the answer as it is, under a header that says charset=iso-8859-1
PAGE = "page"  # 200 with a page of HTML
NULL = "null"  # 200 with JSON that is no answer
TRICKLE = "trickle"  # the head of the answer, then a byte each tenth of a second, as long as the proxy lives
SLOW_HEAD = "slow head"  # the same, before the head is whole
EMPTY = "empty"  # 200 with an answer of `get` that has no row
SWAPPED = "swapped"  # an answer of `get` in which each row has the vector of the next one
SLOW = "slow"  # the answer comes after half a second
_FIXED = {
    BUSY: (503, b"<html>no server is available</html>", "text/html"),
    FAILS: (500, b'{"error":"InternalError","message":"out of breath"}', "application/json"),
    PAGE: (200, b"<!doctype html><title>Sign in</title>", "text/html"),
    NULL: (200, b"null", "application/json"),
}


@dataclass
class Faults:
    """A `Fault` that lets requests pass but for the next ones whose path ends in a given way."""

    planned: list[tuple[str, str]] = field(default_factory=list)
    guard: threading.Lock = field(default_factory=threading.Lock)

    def next(self, path_end: str, *faults: str) -> None:
        with self.guard:
            self.planned += [(path_end, fault) for fault in faults]

    def __call__(self, method: str, path: str) -> str:
        with self.guard:
            for at, (end, fault) in enumerate(self.planned):
                if path.endswith(end):
                    del self.planned[at]
                    return fault
        return PASS


class FaultyProxy:
    """`with FaultyProxy(server.url) as proxy:` — `proxy.url` is what the client is given.

    `requests` lists (method, path, headers in lower case) of all that came in. `fault` may be replaced at any time. A body
    of more than `most_bytes` is refused with 413.
    """

    def __init__(
        self, upstream: str, most_bytes: int | None = None, *, forward: type[Forward] | None = None, port: int = 0
    ) -> None:
        self.most_bytes = most_bytes
        parts = urlsplit(upstream)
        self.upstream = (parts.hostname or "127.0.0.1", parts.port or 80)
        self.faults = Faults()
        self.fault: Fault = self.faults
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.closing = threading.Event()
        proxy = self

        class Handler(forward or Forward):  # type: ignore[misc]  # a class made for this proxy
            owner = proxy

        self._server = _QuietServer(("127.0.0.1", port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def count(self, path_end: str) -> int:
        """Requests so far whose path ends like this."""
        return sum(path.endswith(path_end) for _, path, _ in self.requests)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()


def changed(fault: str, content: bytes) -> bytes:
    """An answer of `get`, as a faulty source gives it; any answer as it is where the fault is another one."""
    if fault not in (EMPTY, SWAPPED):
        return content
    found: dict[str, Any] = json.loads(content)
    if fault == EMPTY:
        found = {key: [] if isinstance(value, list) and key != "include" else value for key, value in found.items()}
    elif vectors := found.get("embeddings"):
        found["embeddings"] = vectors[1:] + vectors[:1]
    return json.dumps(found).encode()


class _QuietServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that a test cut is no event."""


class Forward(BaseHTTPRequestHandler):
    owner: FaultyProxy
    protocol_version = "HTTP/1.1"

    def forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        path = urlsplit(self.path).path
        self.owner.requests.append((self.command, path, {k.lower(): v for k, v in self.headers.items()}))
        if self.owner.most_bytes is not None and len(body) > self.owner.most_bytes:
            return self.answer(413, b"<html>413 Request Entity Too Large</html>", "text/html")
        fault = self.owner.fault(self.command, path)
        if fault == SILENT:
            self.owner.closing.wait()
        if fault in (SILENT, CUT_BEFORE):
            return self.cut()
        if fault in _FIXED:
            return self.answer(*_FIXED[fault])
        if fault == ECHO:
            said = json.dumps({"error": "InternalError", "message": f"bad token {self.headers.get('authorization')}"})
            return self.answer(500, said.encode(), "application/json")
        if fault in (TRICKLE, SLOW_HEAD):
            return self.trickle(fault)
        if fault == SLOW:
            time.sleep(0.5)
        try:
            status, content, kind = self.upstream(body, 2 if fault == TWICE else 1)
        except OSError:
            return self.cut()
        if fault == CUT_AFTER:
            return self.cut()
        if fault == BUSY_AFTER:
            return self.answer(*_FIXED[BUSY])
        if fault == LATIN:
            kind = "application/json; charset=iso-8859-1"
        return self.answer(status, changed(fault, content), kind)

    def upstream(self, body: bytes, times: int) -> tuple[int, bytes, str]:
        """Status, content and content type of the server's answer, the last of so many."""
        connection = http.client.HTTPConnection(*self.owner.upstream, timeout=60)
        headers = {k: v for k, v in self.headers.items() if k != "Host"}
        try:
            for _ in range(times):
                connection.request(self.command, self.path, body, headers)
                reply = connection.getresponse()
                content = reply.read()
            return reply.status, content, reply.headers.get("content-type", "application/json")
        finally:
            connection.close()

    do_GET = do_POST = do_PUT = do_DELETE = forward  # the names that http.server looks for

    def answer(self, status: int, content: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def trickle(self, fault: str) -> None:
        """Never more than a byte at a time, and never an end."""
        self.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n")
        self.wfile.write(b"x-slow: " if fault == SLOW_HEAD else b"content-length: 1000000\r\n\r\n[")
        try:
            while not self.owner.closing.wait(0.1):
                self.wfile.write(b" ")
        except OSError:  # the client gave up
            pass
        self.close_connection = True

    def cut(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the name in http.server
        """Silence: pytest's output is for results."""

"""A proxy before a real server that does to answers whatever networks, gateways and dying servers do."""

from __future__ import annotations

import http.client
import random
import socket
import struct
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from email.utils import formatdate
from typing import Any, cast

from tests import proxies
from tests.proxies import FaultyProxy, Forward

# Before the server sees the request.
REFUSALS = {
    "429 with Retry-After": (429, b'{"error":"RateLimited","message":"slow down"}', "application/json"),
    "500": (500, b'{"error":"InternalError","message":"out of luck"}', "application/json"),
    "500 without a body": (500, b"", "text/plain"),
    "501": (501, b"<h1>501 Not Implemented</h1>", "text/html"),
    "502": (502, b"<html><head><title>502 Bad Gateway</title></head></html>", "text/html"),
    "504": (504, b"upstream request timeout", "text/plain"),
    "302 to a page": (302, b"", "text/html"),
    "307 to itself": (307, b"", "text/html"),
    "301 elsewhere": (301, b"", "text/html"),
    "429 until a moment": (429, b"", "text/plain"),
    "half a JSON": (200, b'{"ids": ["a1", "a', "application/json"),
    "200 without a body": (200, b"", "application/json"),
    "another shape": (200, b'[1, {"a": null}]', "application/json"),
    "not UTF-8": (200, b'{"ids": ["\xff\xfe"]}', "application/json"),
}
LEADS_TO = {301: "http://127.0.0.1:9/api/v2/elsewhere", 302: "/login", 307: ""}
# The server has done what was asked.
ANSWERS = (
    "reset in the body", "truncated", "executed, then 500", "executed twice", "wrong type", "latency", "jitter",
    "bandwidth", "byte order mark",
)  # fmt: skip
OLD = (
    proxies.CUT_BEFORE, proxies.CUT_AFTER, proxies.BUSY, proxies.SILENT, proxies.LATIN, proxies.PAGE, proxies.NULL,
    proxies.TRICKLE, proxies.SLOW_HEAD, proxies.SLOW,
)  # fmt: skip
ALL: tuple[str, ...] = (*REFUSALS, *ANSWERS, *OLD)


class _Wild(Forward):
    def forward(self) -> None:
        self.drawn = self.owner.fault(self.command, self.path)  # once for each request
        if self.drawn not in REFUSALS and self.drawn not in ANSWERS:
            plain: Any = self.owner
            self.owner = cast(Any, _Drawn(plain, self.drawn))
            try:
                super().forward()
            finally:
                self.owner = plain
            return None
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.drawn in REFUSALS:
            return self.refuse(*REFUSALS[self.drawn])
        try:
            status, content, kind = self.ask(body)
            if self.drawn == "executed twice":
                status, content, kind = self.ask(body)
        except OSError:
            return self.cut()
        return self.pass_on(status, content, kind)

    do_GET = do_POST = do_PUT = do_DELETE = forward

    def ask(self, body: bytes) -> tuple[int, bytes, str]:
        connection = http.client.HTTPConnection(*self.owner.upstream, timeout=60)
        try:
            connection.request(self.command, self.path, body, {k: v for k, v in self.headers.items() if k != "Host"})
            reply = connection.getresponse()
            return reply.status, reply.read(), reply.headers.get("content-type", "application/json")
        finally:
            connection.close()

    def refuse(self, status: int, content: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(content)))
        if status == 429:
            self.send_header("retry-after", "1" if content else formatdate(time.time() + 1, usegmt=True))
        if status in LEADS_TO:
            self.send_header("location", LEADS_TO[status] or self.path)
        self.end_headers()
        self.wfile.write(content)

    def pass_on(self, status: int, content: bytes, kind: str) -> None:
        chance = random.random()
        if self.drawn == "executed, then 500":
            return self.refuse(*REFUSALS["500"])
        if self.drawn in ("latency", "jitter"):
            time.sleep(0.2 if self.drawn == "latency" else chance * 0.6)
        if self.drawn == "wrong type":
            kind = "text/plain"
        if self.drawn == "byte order mark":
            content = b"\xef\xbb\xbf" + content
        if self.drawn == "bandwidth":
            return self.slowly(status, content, kind)
        if self.drawn not in ("reset in the body", "truncated"):
            return self.answer(status, content, kind)
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: int(len(content) * chance)])
        self.close_connection = True
        if self.drawn == "truncated":
            return self.cut()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        return None

    def slowly(self, status: int, content: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        piece = max(1, len(content) // 20)
        for at in range(0, len(content), piece):
            self.wfile.write(content[at : at + piece])
            time.sleep(0.02)


class _Drawn:
    """The proxy as its forwarding sees it while the fault of this request is known."""

    def __init__(self, owner: Any, fault: str) -> None:
        self._owner, self._fault = owner, fault

    def fault(self, method: str, path: str) -> str:
        return self._fault

    def __getattr__(self, name: str) -> Any:
        return getattr(self._owner, name)


class WildProxy(FaultyProxy):
    """`upset(faults, share, chance)`: a share of the requests meets one of the faults; `calm()`: none does."""

    def __init__(self, upstream: str, port: int = 0) -> None:
        super().__init__(upstream, forward=_Wild, port=port)
        self.guard = threading.Lock()
        self.met: list[str] = []
        self.calm()

    def calm(self) -> None:
        self.fault = lambda method, path: proxies.PASS

    def upset(self, faults: Sequence[str], share: float, chance: random.Random, first: int = 1) -> None:
        """From the request number `first` on, which meets the first of the faults; so one is met in any case."""
        self.met, asked = [], [0]

        def fault(method: str, path: str) -> str:
            with self.guard:
                asked[0] += 1
                if asked[0] < first or (asked[0] > first and chance.random() >= share):
                    return proxies.PASS
                drawn = faults[0] if asked[0] == first else chance.choice(faults)
                self.met.append(f"{drawn} at {method} …{path.split('?')[0][-24:]}")
                return drawn

        self.fault = fault

    def forget(self) -> None:
        with suppress(AttributeError):
            self.requests.clear()

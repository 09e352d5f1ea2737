"""Where notices go in the tests: a real HTTP server that keeps what Apprise's json:// posts to it, well or ill."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

TOKEN = "T0kenOf7heN1ght"


class Listener:
    """`status` is what it answers; with `hang` seconds it answers nobody before. `got` are (path, JSON body), in order.

    With `leads_to` it answers 307, with this address.
    """

    def __init__(self, status: int = 200, hang: float = 0.0, leads_to: str = "") -> None:
        self.status, self.hang, self.leads_to = 307 if leads_to else status, hang, leads_to
        self.got: list[tuple[str, dict[str, Any]]] = []
        self.asked = 0  # requests of any kind
        self._released = threading.Event()
        listener = self

        class Handler(BaseHTTPRequestHandler):
            def parse_request(self) -> bool:
                listener.asked += 1
                return super().parse_request()

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                listener.got.append((self.path, json.loads(body)))
                if listener.hang:
                    listener._released.wait(listener.hang)
                answer = f"no: {self.path}".encode()  # it repeats what it was sent, token and all
                try:
                    self.send_response(listener.status)
                    if listener.leads_to:
                        self.send_header("Location", listener.leads_to)
                    self.send_header("Content-Length", str(len(answer)))
                    self.end_headers()
                    self.wfile.write(answer)
                except OSError:
                    pass  # who asked has left

            def log_message(self, *said: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def url(self) -> str:
        """What a channel's variable holds; the token stands in its path."""
        return f"json://127.0.0.1:{self._server.server_port}/hook/{TOKEN}"

    @property
    def subjects(self) -> list[str]:
        return [str(body["title"]) for _, body in self.got]

    def wait_for(self, number: int, seconds: float = 10.0) -> None:
        end = time.monotonic() + seconds
        while len(self.got) < number and time.monotonic() < end:
            time.sleep(0.05)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

"""Real Chroma servers on loopback, for tests that need one: started, killed and started again."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import chromadb
import httpx
from chromadb.api import ClientAPI

START_SECONDS = 240.0  # a cold start takes 1 to 6 s; 100 on a machine that does ten other things
STOP_SECONDS = 15.0


class ChromaServer:
    """One `chroma run` process over the directory `path`. Its URL stays the same through `restart`.

    `program` is the `chroma` of another environment: an older version.

    Use it as a context manager, or call `start` and `stop`. `log` holds what the server printed.
    """

    def __init__(self, path: Path, program: Path | None = None, host: str = "127.0.0.1") -> None:
        self.path = path
        self._program = program or Path(sys.executable).with_name("chroma")
        self.log = path.with_name(f"{path.name}.server.log")
        self.port = free_port()
        self.host = host
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> Self:
        """Start the server and return when it answers its heartbeat. RuntimeError with its output where it does not."""
        if self.running:
            return self
        self.path.mkdir(parents=True, exist_ok=True)
        command = [
            str(self._program),
            "run",
            "--path",
            str(self.path.absolute()),
            "--port",
            str(self.port),
            "--host",
            self.host,
        ]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                env={**os.environ, "ANONYMIZED_TELEMETRY": "False"},
                cwd=self.path.parent,  # old versions leave a chroma.log where they are started
            )  # fmt: skip
        try:
            self._wait_until_it_answers()
        except BaseException:
            self.kill()
            raise
        return self

    def stop(self) -> None:
        """Ask the server to end (SIGTERM), and kill it where it does not."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process = None

    def kill(self) -> None:
        """End the server at once (SIGKILL), as a power failure would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(STOP_SECONDS)
        self._process = None

    def restart(self) -> Self:
        """Stop the server if it runs, and start it again on the same port and directory."""
        self.stop()
        return self.start()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        # trust_env=False: a proxy of the machine must not stand between a test and loopback
        with httpx.Client(trust_env=False, timeout=5) as client:
            while time.monotonic() < deadline and self.running:
                try:
                    if any(client.get(f"{self.url}/api/{api}/heartbeat").is_success for api in ("v2", "v1")):
                        return
                except httpx.TransportError:
                    pass
                time.sleep(0.1)
        raise RuntimeError(f"no Chroma server on {self.url}: {self.log.read_text(errors='replace')[-2000:]}")


@contextmanager
def client_of(url: str, database: str = "default_database") -> Iterator[ClientAPI]:
    """Chroma's own client of a server. Its `close` leaves its connections to the garbage collector; here they end."""
    host, port = url.removeprefix("http://").split(":")
    client: Any = chromadb.HttpClient(host=host, port=int(port), database=database)
    try:
        yield client
    finally:
        client.close()
        for part in (client, client._admin_client):
            part._server._session.close()


def free_port() -> int:
    """A TCP port of loopback on which nobody listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

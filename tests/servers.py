"""Servers on loopback, for tests that need one: started, killed and started again. `ChromaServer` is a real one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import httpx

if TYPE_CHECKING:
    from chromadb.api import ClientAPI

START_SECONDS = 240.0  # a cold start takes 1 to 6 s; 100 on a machine that does ten other things
STOP_SECONDS = 15.0
# The engine's own command: `chroma` is this behind an import of the whole client, which takes a second and a half.
_CHROMA = [
    sys.executable,
    "-c",
    "import sys, chromadb_rust_bindings; chromadb_rust_bindings.cli(['chroma', *sys.argv[1:]])",
]


class Server:
    """A process that serves on `url`: started, killed and started again on the same port.

    Use it as a context manager, or call `start` and `stop`. `log` holds what it printed.
    """

    def __init__(self, log: Path | None = None, *, port: int | None = None, host: str = "127.0.0.1") -> None:
        self.log, self.host = log, host
        self.port = port or free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        """What to run."""
        raise NotImplementedError

    def answers(self, client: httpx.Client) -> bool:
        """Whether it is ready; transport errors are a no."""
        raise NotImplementedError

    folder: Path | None = None  # in which it runs

    @property
    def url(self) -> str:
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> Self:
        """Start it and return when it answers. RuntimeError with its output where it does not."""
        if self.running:
            return self
        with self.log.open("ab") if self.log else nullcontext(subprocess.DEVNULL) as log:
            self._process = subprocess.Popen(
                self.command(), stdout=log, stderr=log if self.log else None, stdin=subprocess.DEVNULL, cwd=self.folder,
                env={**os.environ, "ANONYMIZED_TELEMETRY": "False"},
            )  # fmt: skip
        try:
            self._wait_until_it_answers()
        except BaseException:
            self.kill()
            raise
        return self

    def stop(self) -> None:
        """Ask it to end (SIGTERM), and kill it where it does not."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process = None

    def kill(self) -> None:
        """End it at once (SIGKILL), as a power failure would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(STOP_SECONDS)
        self._process = None

    def restart(self) -> Self:
        """Stop it if it runs, and start it again on the same port."""
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
        with httpx.Client(base_url=self.url, trust_env=False, timeout=5) as client:
            while time.monotonic() < deadline and self.running:
                try:
                    if self.answers(client):
                        return
                except httpx.TransportError:
                    pass
                time.sleep(0.05)
        said = self.log.read_text(errors="replace")[-2000:] if self.log else ""
        raise RuntimeError(f"no {type(self).__name__} on {self.url}: {said}")


class ChromaServer(Server):
    """One `chroma run` process over the directory `path`. `program` is the `chroma` of another environment: an older version."""

    log: Path

    def __init__(self, path: Path, program: Path | None = None, host: str = "127.0.0.1") -> None:
        super().__init__(path.with_name(f"{path.name}.server.log"), host=host)
        self.path = path
        self.folder = path.parent  # old versions leave a chroma.log where they are started
        self._program = [str(program)] if program else _CHROMA

    def start(self) -> Self:
        self.path.mkdir(parents=True, exist_ok=True)
        return super().start()

    def command(self) -> list[str]:
        place = ["--path", str(self.path.absolute()), "--port", str(self.port), "--host", self.host]
        return [*self._program, "run", *place]

    def answers(self, client: httpx.Client) -> bool:
        return any(client.get(f"/api/{api}/heartbeat").is_success for api in ("v2", "v1"))


@contextmanager
def client_of(url: str, database: str = "default_database", **options: Any) -> Iterator[ClientAPI]:
    """Chroma's own client of a server. Its `close` leaves its connections to the garbage collector; here they end."""
    import chromadb  # here, since a stand-in's own process needs none of it: seconds at each start

    host, port = url.removeprefix("http://").split(":")
    client: Any = chromadb.HttpClient(host=host, port=int(port), database=database, **options)
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

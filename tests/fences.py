"""What the tests of the fence share: a Chroma server with an nginx of its own before it, and a run that fences it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import chromadb
import httpx
import numpy as np
from chromadb.api import ClientAPI
from chromadb.config import Settings

from helpers.parameters import parameters_from
from helpers.run import folders as runs
from helpers.run.folders import RunFolder
from helpers.runner.notebook import Run
from tests.conftest import require_component
from tests.servers import ChromaServer, free_port


@contextmanager
def client(url: str) -> Iterator[ClientAPI]:
    """A client as an application has it."""
    parts = httpx.URL(url)
    made = chromadb.HttpClient(parts.host, parts.port or 80, settings=Settings(anonymized_telemetry=False))
    try:
        yield made
    finally:
        parts_of: tuple[Any, ...] = (made, made._admin_client)  # type: ignore[attr-defined]
        parts_of[0].close()
        for part in parts_of:  # `close` leaves the connections of both to the garbage collector
            part._server._session.close()


def rows(count: int, dimension: int = 8, prefix: str = "c") -> dict[str, Any]:
    vectors = np.random.default_rng(3).standard_normal((count, dimension)).astype(np.float32)
    return {"ids": [f"{prefix}{n}" for n in range(count)], "embeddings": vectors, "documents": ["text"] * count}


class Fenced:
    """A server, where nginx stands before it, and runs whose step 20 is at hand."""

    def __init__(self, folder: Path, server: ChromaServer) -> None:
        self.folder, self.server = folder, server
        self.program = str(require_component("nginx", "the write fence is an nginx before Chroma"))
        self.listen = f"127.0.0.1:{free_port()}"
        self.config = folder / "fence.conf"
        self.url = f"http://{self.listen}"

    def section(self, **more: Any) -> dict[str, Any]:
        """The fence's parameters; an nginx whose whole configuration is the file."""
        nginx: dict[str, Any] = {
            "listen": self.listen,
            "upstream": f"127.0.0.1:{self.server.port}",
            "config": str(self.config),
        }
        nginx |= {"command": [self.program, "-c", str(self.config)], **more.pop("nginx", {})}
        return {"kind": "nginx", "nginx": nginx, "timeout_seconds": 20.0, **more}

    def run(
        self, run_id: str = "night", fence: dict[str, Any] | None = None, source: dict[str, Any] | None = None
    ) -> RunFolder:
        sections = {
            "name": "trial", "source": source or {"url": self.server.url}, "target": {"path": str(self.folder / "target")},
            "fence": fence or self.section(),
        }  # fmt: skip
        return runs.create(parameters_from(sections), run_id)

    def stop(self) -> None:
        """End our nginx, known by its pid file, and wait until its port is free."""
        pid_file = Path(f"{self.config}.pid")
        if not pid_file.exists() or not pid_file.read_text().strip():  # `nginx -t` leaves an empty one
            return
        with suppress(ProcessLookupError):
            os.kill(int(pid_file.read_text()), signal.SIGTERM)
            wait_for(lambda: not pid_file.exists())


def wait_for(condition: Callable[[], bool], seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


@contextmanager
def at_step(folder: RunFolder, *, dry_run: bool = False) -> Iterator[Run]:
    """Step 20 of the run, as its notebook has it."""
    run = Run(folder.read(), "20", dry_run=dry_run)
    run.open()
    try:
        yield run
    finally:
        run.close()


@contextmanager
def fenced_server(folder: Path) -> Iterator[Fenced]:
    with ExitStack() as stack:
        server = stack.enter_context(ChromaServer(folder / "chroma"))
        fenced = Fenced(folder, server)
        stack.callback(fenced.stop)
        with client(server.url) as chroma:
            chroma.create_collection("docs", embedding_function=None).add(**rows(20))
        yield fenced

"""What rounds of the campaign use again: benches and servers, made when first wanted."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from tests.faults.bench import (
    Bench,
    fill_source,
)
from tests.faults.command import Child, Order
from tests.faults.network import WildProxy
from tests.servers import ChromaServer
from tests.storage import embedded


class Shared:
    """What rounds use again: benches and servers, made when first wanted."""

    def __init__(self, folder: Path, stack: ExitStack, seed: str) -> None:
        self.folder, self.stack, self.seed = folder, stack, seed
        self.benches: dict[str, Any] = {}

    def once(self, name: str, make: Callable[[Path], Any]) -> Any:
        if name not in self.benches:
            folder = self.folder / name
            folder.mkdir(parents=True, exist_ok=True)
            self.benches[name] = make(folder)
        return self.benches[name]

    def bench(self, name: str = "directories", **more: Any) -> Bench:
        found: Bench = self.once(name, lambda folder: Bench(folder, **more))
        return found

    @property
    def served(self) -> Served:
        found: Served = self.once("served", lambda folder: Served(folder, self.stack))
        return found


class Served:
    """A bench whose source and target are servers behind wild proxies."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        with embedded(folder / "source-server") as store:
            fill_source(store)
        self.source = stack.enter_context(ChromaServer(folder / "source-server"))
        self.target = stack.enter_context(ChromaServer(folder / "target-server"))
        self.source_proxy = stack.enter_context(WildProxy(self.source.url))
        self.target_proxy = stack.enter_context(WildProxy(self.target.url))
        self.bench = Bench(
            folder,
            source=f"{{url: '{self.source_proxy.url}', timeout_seconds: 4}}", source_url=self.source.url,
            target=f"{{url: '{self.target_proxy.url}', timeout_seconds: 4}}", target_url=self.target.url,
        )  # fmt: skip


class Written:
    """A bench whose source is a server that clients write to, and whose target is a directory."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.source = stack.enter_context(ChromaServer(folder / "source-server"))
        self.bench = Bench(folder, source=f"{{url: '{self.source.url}'}}", source_url=self.source.url)
        self.refill(0)

    def refill(self, seed: int) -> None:
        fill_server(self.source.url, self.bench.scratch)


def fill_server(url: str, scratch: Path) -> None:
    """The source's content, and nothing else, into this server."""
    scratch.mkdir(parents=True, exist_ok=True)
    assert Child(Order(scratch, (), does=partial(_fill, url))).wait(120) == 0


def _fill(url: str) -> int:
    from helpers.parameters.endpoint import Endpoint
    from helpers.stores import open_target

    with open_target(Endpoint(url=url)) as store:
        for name in store.names():
            store.drop(name)
        fill_source(store)
    return 0

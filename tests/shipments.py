"""What the tests of `migration.method: files` share: a source, the copy of it that is kept, a folder to run the command in."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import chromadb

from helpers.migration import shipping
from helpers.migration.shipping import Shipment
from helpers.parameters.endpoint import Endpoint
from helpers.stores import LOCK_COLLECTION, open_source
from tests.faults.command import Child, Crash, Order
from tests.plain_client import held, opened
from tests.storage import chunks

MIGRATION = "migration: {{method: {method}, minimum_valid: 0}}\nrollback: {{monitor_minutes: 0}}\n"
DOCS, NOTES = (
    chunks(1300, 8, prefix="d"),
    chunks(40, 6, seed=1, prefix="n"),
)  # beyond an index's threshold, and below it


def make_source(folder: Path) -> Path:
    """A source as applications make it: settings of its index, metadata of its own, records that only the log has."""
    client: Any = chromadb.PersistentClient(folder)
    try:
        hnsw = {"space": "cosine", "max_neighbors": 24, "ef_search": 150}
        docs = client.create_collection(
            "docs", configuration={"hnsw": hnsw}, metadata={"owner": "me", "n": 3}, embedding_function=None
        )
        notes = client.create_collection("notes", metadata={"hnsw:space": "ip"}, embedding_function=None)
        client.create_collection("empty", embedding_function=None)
        for collection, batch in ((docs, DOCS), (notes, NOTES)):
            for at in range(0, len(batch), 500):
                some = batch.slice(at, at + 500)
                collection.add(some.ids, some.embeddings, some.metadatas, some.documents)
        docs.delete(DOCS.ids[3:9])
    finally:
        client.close()
    return folder


def kept_copy(source: Path, folder: Path, run_id: str = "one", sessions: int = 1, **more: Any) -> Shipment:
    """As step 21 keeps and lists the copy that it read."""
    snapshot: Any = SimpleNamespace(id="snap", manifest={"sessions": [{}] * sessions})
    endpoint = Endpoint(path=str(source))
    with open_source(endpoint, folder / "scratch", keep=shipping.place(folder)) as store:
        shipping.require_whole(store, snapshot, endpoint, run_id)
    return shipping.keep(folder, source, snapshot, **more)


def names_in(folder: Path) -> list[str]:
    """The collections that Chroma sees there, in a copy: opening one may change it."""
    copy = folder.parent / "looked-at"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    with opened(copy) as client:
        return sorted(c.name for c in client.list_collections() if c.name != LOCK_COLLECTION)


class World:
    """A folder with a source; `run` is the command, with the cells of its notebooks in the process itself."""

    def __init__(self, home: Path, made: Path) -> None:
        self.home = home
        home.mkdir(parents=True, exist_ok=True)
        shutil.copytree(made, home / "source")

    def write(self, method: str, more: str = "", target: str = "path: target") -> None:
        ends = f"name: trial\nsource: {{path: source}}\ntarget: {{{target}}}\nschema: identity\n{more}"
        (self.home / "trial.yaml").write_text(ends + MIGRATION.format(method=method))

    def run(self, *arguments: str, code: int = 0, crash: Crash | None = None) -> str:
        child = Child(Order(self.home, arguments, crash=crash))
        assert child.wait(300) == (code if crash is None else -signal.SIGKILL), child.said
        return child.said

    def result(self, step: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.home / f"reports/one/results/{step}.json").read_bytes())
        return found

    def ledger(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.home / "workspace/one/checkpoint.json").read_bytes())
        return found

    def held(self, place: str = "target") -> Any:
        copy = self.home / "read"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.home / place, copy)
        with opened(copy) as client:
            return held(client)

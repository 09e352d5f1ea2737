"""Rollback between two real servers with nginx before the source: no gap for readers, nothing lost, and how long it takes."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from chromadb.errors import ChromaError

from helpers.chunks import ChunkBatch
from helpers.fence import FenceControl, FenceState
from helpers.parameters.endpoint import Endpoint
from helpers.results import Verdict
from helpers.stores import open_target
from tests.fences import client, fenced_server, rows
from tests.rollbacks import Night, everything
from tests.servers import ChromaServer
from tests.storage import plan

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_folders")]


class Reader(threading.Thread):
    """Reads one chunk again and again, by the URL that the configuration file names at that moment."""

    def __init__(self, file: Path) -> None:
        super().__init__(daemon=True)
        self.file, self.done = file, threading.Event()
        self.gap, self.bad, self.urls = 0.0, [], set()  # type: ignore[var-annotated]

    def run(self) -> None:
        last = time.monotonic()
        with httpx.Client(trust_env=False, timeout=10) as http:
            while not self.done.is_set():
                url = self.file.read_text().split("CHROMA_URL='")[-1].split("CHROMA_URL=")[-1].split("'")[0].split()[0]
                base = f"{url}/api/v2/tenants/default_tenant/databases/default_database/collections"
                try:
                    answer = http.get(f"{base}/docs")
                    found = (
                        http.post(f"{base}/{answer.json()['id']}/get", json={"ids": ["c1"]})
                        if answer.is_success
                        else answer
                    )
                    if found.is_success and found.json()["ids"] == ["c1"]:
                        self.gap, last = max(self.gap, time.monotonic() - last), time.monotonic()
                        self.urls.add(url)
                    else:
                        self.bad.append(f"{url}: {found.status_code} {found.text[:80]}")
                except httpx.HTTPError as error:
                    self.bad.append(f"{url}: {error!r}")
                time.sleep(0.02)


@contextmanager
def reading(file: Path) -> Iterator[Reader]:
    reader = Reader(file)
    reader.start()
    yield reader
    reader.done.set()
    reader.join(15)


def test_clients_read_on_and_their_writes_come_back(tmp_path: Path) -> None:
    with fenced_server(tmp_path) as fenced, ChromaServer(tmp_path / "new") as target:
        sections: dict[str, Any] = {
            "cutover": {"env_files": [{"path": "app.env", "keys": {"CHROMA_URL": target.url}}], "monitor_minutes": 0}
        }
        night = Night(
            tmp_path, source={"url": fenced.server.url}, target={"url": target.url}, fence=fenced.section(), **sections
        )
        with client(target.url) as chroma:
            chroma.create_collection("theirs", embedding_function=None).add(**rows(7))
        (tmp_path / "app.env").write_text(f"# the app\nCHROMA_URL='{fenced.url}'\n")
        configured, before = night.env, everything(night.target)
        FenceControl(night.folder, night.folder.read().parameters).put_up()
        night.snapshot()
        night.migrate()
        with reading(tmp_path / "app.env") as reader:
            time.sleep(0.5)
            night.cut_over()
            with client(target.url) as chroma:
                docs = chroma.get_collection("docs", embedding_function=None)
                docs.add(**rows(3, prefix="new"))
                docs.update(ids=["c5"], metadatas=[{"by": "client"}])
                docs.delete(ids=["c9"])
            with client(fenced.url) as chroma, pytest.raises(ChromaError):
                chroma.get_collection("docs", embedding_function=None).add(**rows(1, prefix="refused"))
            wanted = everything(night.target)["docs"]
            time.sleep(0.5)
            verdicts = night.rollback(replay=True)
            time.sleep(0.5)
        assert reader.bad == []
        assert reader.urls == {fenced.url, target.url}
        assert reader.gap < 3, reader.gap
        assert verdicts["source against the snapshot"] is Verdict.PASS
        assert verdicts["reads of the source"] is verdicts["end of the write fence"] is Verdict.PASS
        found = everything(night.source)["docs"]
        assert found[3] == wanted[3]
        assert found[3].keys() >= {"new0", "new1", "new2"}
        assert "c9" not in found[3]
        assert everything(night.target) == before
        assert night.env == configured
        state = FenceState.load(night.folder.workspace)
        assert state is not None
        assert not state.may_be_active
        with client(fenced.url) as chroma:
            chroma.get_collection("docs", embedding_function=None).add(**rows(1, prefix="after"))


def cpu_seconds(*servers: ChromaServer) -> float:
    """What this process and these servers have worked so far: on a busy machine the wall says little."""
    ticks = 0
    for server in servers:
        assert server._process is not None
        fields = Path(f"/proc/{server._process.pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def test_nine_thousand_chunks_are_rolled_back_within_a_minute(
    tmp_path: Path, chroma_server: Callable[..., ChromaServer], capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = chroma_server(), chroma_server()
    random = np.random.default_rng(1)
    with open_target(Endpoint(url=source.url)) as store:
        for number, name in enumerate(("alpha", "beta", "gamma", "delta")):
            store.create(plan(name))
            for start in range(0, 2458, 500):
                ids = [f"{number}-{i}" for i in range(start, min(2458, start + 500))]
                texts: list[str | None] = ["a text of some length " * 20] * len(ids)
                vectors = random.standard_normal((len(ids), 1536)).astype(np.float32)
                store.add(name, ChunkBatch(ids, texts, vectors, [{"n": i, "of": name} for i in range(len(ids))]))
    night = Night(
        tmp_path, source={"url": source.url}, target={"url": target.url}, migration={"batch_size": 500, "workers": 4}
    )
    night.snapshot()
    night.migrate()
    night.cut_over()
    begun, worked = time.monotonic(), cpu_seconds(source, target)
    verdicts = night.rollback()
    seconds, work = time.monotonic() - begun, cpu_seconds(source, target) - worked
    stages: dict[str, Any] = {name: row["seconds"] for name, row in night.state.stages.items()}
    with capsys.disabled():
        load = os.getloadavg()[0]
        print(
            f"\nrollback of 9,832 x 1536 between servers: {seconds:.1f} s, {work:.1f} s of CPU, load {load:.1f}; {stages}"
        )
    assert Verdict.FAIL not in verdicts.values()
    with open_target(Endpoint(url=target.url)) as store:
        assert store.names() == []
    assert seconds < 60 * max(1.0, os.getloadavg()[0] / 2)  # other work on the machine is none of ours

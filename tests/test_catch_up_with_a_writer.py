"""No fence, two real servers, and a client that writes 20 times a second until the last round of the catch-up."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.migration.catch_up import UNCHANGED
from helpers.parameters import parameters_from
from helpers.results import Verdict
from helpers.run import folders as runs
from helpers.run.record import RunRecord
from helpers.steps.snapshot import SnapshotStep
from helpers.steps.validate import ValidateStep
from tests.plain_client import Held, assert_same, assert_same_vector, held
from tests.servers import ChromaServer, client_of
from tests.source_writer import at_work
from tests.test_catch_up import keep, migrate, verdict

pytestmark = [pytest.mark.servers, pytest.mark.slow]

CHUNKS, DIMENSION, RATE = 1_500, 64, 20.0
SPACES = {"openwebui_docs": "l2", "some_humor": "cosine"}
TARGETS = {"openwebui_docs": "sergio_corpus", "some_humor": "sergio_humor"}


def make_source(url: str) -> None:
    random = np.random.default_rng(7)
    with client_of(url) as client:
        for name, space in SPACES.items():
            collection: Any = client.create_collection(name, metadata={"hnsw:space": space}, embedding_function=None)
            for start in range(0, CHUNKS, 500):
                ids = [f"c{i}" for i in range(start, start + 500)]
                collection.add(
                    ids=ids,
                    embeddings=random.standard_normal((500, DIMENSION)).astype(np.float32),
                    documents=[f"text of {i}" for i in ids],
                    metadatas=[{"note": f"first {i}", "revision": 0} for i in ids],
                )


@contextmanager
def writing(url: str, seed: int) -> Iterator[subprocess.Popen[str]]:
    """The writer at work; at the end it is asked to stop, and must have written all the while."""
    with at_work("tests.source_writer", url, seed, RATE, *SPACES) as process:
        try:
            yield process
            assert process.poll() is None, "the writer died"
        finally:
            process.terminate()
            said, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        print("written:", said.strip(), flush=True)
        assert all(n > 5 for n in json.loads(said).values()), said


def everything(server: ChromaServer) -> dict[str, Held]:
    with client_of(server.url) as client:
        return held(client)


def assert_agree(source: dict[str, Held], target: dict[str, Held]) -> None:
    """Under if_ttt: the same chunks, texts, vectors, and every metadata value of the source and no key it took away."""
    for name, was in source.items():
        now = target[TARGETS[name]]
        mine = {f"{name}:{chunk}": chunk for chunk in was.vectors}
        assert sorted(now.vectors) == sorted(mine), "lost, or risen from the dead"
        assert now.space == was.space
        for there, chunk in mine.items():
            assert now.documents[there] == was.documents[chunk], "stale"
            assert_same_vector(was.vectors[chunk], now.vectors[there], was.space, chunk)
            before, after = was.metadatas[chunk] or {}, now.metadatas[there] or {}
            assert {k: after.get(k) for k in ("note", "revision")} == {k: before.get(k) for k in ("note", "revision")}


@pytest.mark.parametrize("schema", ["identity", "if_ttt"])
def test_nothing_is_lost_stale_or_risen_from_the_dead(
    schema: str, tmp_path: Path, chroma_server: Callable[..., ChromaServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RUNBOOK_REPORTS", str(tmp_path / "reports"))
    monkeypatch.setenv("RUNBOOK_WORKSPACE", str(tmp_path / "workspace"))
    source, target = chroma_server(), chroma_server()
    make_source(source.url)
    sections: dict[str, Any] = {
        "name": "trial", "schema": schema, "source": {"url": source.url}, "target": {"url": target.url},
        "migration": {"id_policy": "prefix" if schema == "if_ttt" else "fail"},
    }  # fmt: skip
    folder = runs.create(parameters_from(sections), "one")
    with writing(source.url, 1):
        record = RunRecord(folder.read(), "21")
        SnapshotStep(record).verify()
        keep(folder, record)
        time.sleep(3)
        record = migrate(folder)
    assert verdict(record) == (Verdict.FAIL, "source_keeps_changing")
    check = next(c for c in record.result.checks if c.name == UNCHANGED)
    assert "Writes have to stop for about" in check.detail
    rounds = record.result.facts["catch_up"]["rounds"]
    assert len(rounds) >= 2
    assert all(r["added"] + r["changed"] + r["deleted"] for r in rounds)

    record = migrate(folder)  # the writer has stopped: what runbook resume does
    assert {c.verdict for c in record.result.checks} == {Verdict.PASS}
    last = record.result.facts["catch_up"]
    print([(r["added"], r["changed"], r["deleted"], r["seconds"]) for r in last["rounds"]], check.detail, flush=True)
    assert len(last["rounds"]) == len(rounds) + 1
    suite = ValidateStep(RunRecord(folder.read(), "23"))
    suite.read_target()
    assert suite.findings.differing == 0
    before, after = everything(source), everything(target)
    if schema == "identity":
        assert_same(before, after)
    else:
        assert_agree(before, after)

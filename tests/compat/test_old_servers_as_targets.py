"""Older servers of 1.x as targets: what an order asks of the index, and what the source has, is there or said; 10 to 23."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from chromadb import Schema
from chromadb.api.types import FtsIndexConfig, HnswIndexConfig, VectorIndexConfig

from helpers.parameters.endpoint import Endpoint
from helpers.stores import open_target
from tests.compat.environments import TARGETS, NoEnvironment, environment
from tests.conftest import ROOT, absent
from tests.servers import ChromaServer
from tests.storage import chunks, embedded, fill

pytestmark = [pytest.mark.servers, pytest.mark.slow]

NIGHT = """\
name: compat
source: {{path: source}}
target: {{url: '{url}', tenant: made, database: here, create: true, limits: {{document_bytes: 5000}}}}
schema: own.yaml
migration:
  minimum_valid: 0.9
  index:
    papers: {{space: l2, ef_construction: 150, ef_search: 120, max_neighbors: 24}}
"""


WANTED = {"ef_construction": 150, "ef_search": 120, "max_neighbors": 24, "resize_factor": 1.4}


@pytest.mark.parametrize("version", TARGETS)
def test_an_order_is_held_by_an_older_server_and_its_pages_say_so(version: str, tmp_path: Path) -> None:
    try:
        program = environment(version).with_name("chroma")
    except NoEnvironment as error:
        absent(f"an environment for chromadb {version}", str(error))
    batch = chunks(60, 8)
    batch.documents[7] = "x" * 6_000
    schema = Schema()
    schema.delete_index(config=FtsIndexConfig(), key="#document")
    schema.create_index(config=VectorIndexConfig(space="cosine", hnsw=HnswIndexConfig(resize_factor=1.4)))
    with embedded(tmp_path / "source") as store:
        store.client.create_collection("notes", schema=schema, metadata={"owner": "Ada"}, embedding_function=None)
        store.add("notes", batch)
        fill(store, "plain", chunks(20, 4))
    (tmp_path / "own.yaml").write_text("name: own\ncollections: [{from: notes, to: papers}]\n", encoding="utf-8")
    with ChromaServer(tmp_path / "db", program) as server:
        (tmp_path / "night.yaml").write_text(NIGHT.format(url=server.url), encoding="utf-8")
        folders = {"RUNBOOK_REPORTS": str(tmp_path / "reports"), "RUNBOOK_WORKSPACE": str(tmp_path / "workspace")}
        done = subprocess.run(
            [sys.executable, "-m", "helpers", "run", "night.yaml", "--run-id", "one", "--until", "23"],
            cwd=tmp_path, capture_output=True, text=True, check=False,
            env={**os.environ, **folders, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
        with open_target(Endpoint(url=server.url, tenant="made", database="here")) as store:
            assert {name: store.count(name) for name in store.names()} == {"papers": 59, "plain": 20}
            info = store.info("papers")
            held = {key: info.configuration["hnsw"][key] for key in WANTED}
            assert (info.space, held, info.metadata) == ("l2", WANTED, {"owner": "Ada"})
    result = json.loads((tmp_path / "reports" / "one" / "results" / "23.json").read_text(encoding="utf-8"))
    [check] = [c for c in result["checks"] if c["name"] == "configuration"]
    assert check["verdict"] == "pass", check
    rows = {(row["collection"], row["setting"]): row for row in result["facts"]["configuration"]}
    index = rows["notes", "fts_index of #document"]
    if version < "1.3":  # it has no such switch
        assert (index["source"], index["target"], index["state"]) == ("off", "", "explained")
        assert "fts_index of #document off became none" in check["detail"]
    else:
        assert (index["source"], index["target"], index["state"]) == ("off", "off", "kept")
    assert rows["papers", "max_neighbors"]["why"] == "migration.index orders it"
    dry = json.loads((tmp_path / "reports" / "one" / "results" / "13.json").read_text(encoding="utf-8"))
    assert dry["facts"]["quarantine"] == {"too_large": 1}
    page = (tmp_path / "reports" / "one" / "index.html").read_text(encoding="utf-8")
    assert "too_large" in page

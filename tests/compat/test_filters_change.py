"""What filters mean before and after an upgrade: measured on old versions and on the current one, chunk by chunk."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.parameters.endpoint import Endpoint
from helpers.steps.source_health import is_of_0_x
from tests.compat.environments import NoEnvironment, environment
from tests.conftest import absent
from tests.storage import writable_copy

pytestmark = pytest.mark.servers

# Runs under the old version and under ours: fills a new directory, then prints the ids that each filter lets through.
_ASK = """
import json, sys, chromadb
client = chromadb.PersistentClient(sys.argv[1])
rows = client.get_or_create_collection("filters", embedding_function=None)
if rows.count() == 0:
    rows.add(ids=["int", "float", "one", "keyless"], embeddings=[[1.0, 2.0], [2.0, 3.0], [4.0, 4.0], [1.0, 0.0]],
             documents=["a_b", "axb", "A_B", "other"], metadatas=[{"a": 3}, {"a": 2.5}, {"a": 1}, {"b": True}])
asked = [dict(where={"a": {"$ne": 3}}), dict(where={"a": 3.0}), dict(where_document={"$contains": "a_b"}),
         dict(where={"a": {"$gte": 2}})]
print(json.dumps([sorted(rows.get(**filter)["ids"]) for filter in asked]))
"""
NOW = [["float", "keyless", "one"], ["int"], ["int"], ["float", "int"]]
OLDEST = [["one"], [], ["float", "int"], ["float", "int"]]
OLD = [["float", "keyless", "one"], ["int"], ["float", "int"], ["float", "int"]]
THEN = {"0.4.24": OLDEST, "0.5.0": OLDEST, "0.5.23": OLD, "0.6.3": OLD, "1.0.20": NOW}


def answers(python: Path | str, directory: Path) -> list[list[str]]:
    done = subprocess.run([str(python), "-c", _ASK, str(directory)], capture_output=True, text=True, check=True)
    found: list[list[str]] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("version", THEN)
def test_filters_mean_something_else_after_the_upgrade(version: str, tmp_path: Path) -> None:
    try:
        python = environment(version)
    except NoEnvironment as error:
        absent(f"an environment for chromadb {version}", str(error))
    old = tmp_path / "old"
    assert answers(python, old) == THEN[version]
    assert is_of_0_x(Endpoint(path=str(old)), "1.0.0") is version.startswith("0."), "step 10 says so"
    assert answers(sys.executable, writable_copy(old, tmp_path / "copy")) == NOW

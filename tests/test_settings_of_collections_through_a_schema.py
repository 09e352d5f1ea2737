"""A collection with one source keeps its metadata, settings and indexes under any schema; a merged one says what is lost."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import numpy as np
import pytest
from chromadb import Schema
from chromadb.api.types import (
    FtsIndexConfig,
    HnswIndexConfig,
    IntInvertedIndexConfig,
    StringInvertedIndexConfig,
    VectorIndexConfig,
)

from helpers.chunks import ChunkBatch
from helpers.migration.delta import settings_of
from helpers.migration.importing import plan_targets
from helpers.migration.staging import Quarantine, stage
from helpers.parameters import parameters_from
from helpers.parameters.endpoint import Endpoint
from helpers.results import Verdict
from helpers.schema import load_schema
from helpers.snapshots.snapshot import write_snapshot
from helpers.stores import open_target
from helpers.stores.client import ClientStore
from helpers.validation.fidelity import Examination, Expectation
from helpers.validation.properties import judge_configuration
from tests.schema_lines import DATE
from tests.servers import ChromaServer
from tests.storage import chunks, plan

RULES = {
    "renamed": "rename: [{from: writer, to: author}]",
    "renamed and its index with it": "rename: [{from: price, to: cost}]",
    "moved": "collections: [{from: notes, to: papers}]",
    "split": 'collections: [{from: notes, to: papers, when: id == "a"}]',
    "merged": 'collections: [{from: "*", to: everything}]',
}


def source(store: ClientStore) -> None:
    """`notes`: no full-text index, no index of a field, own settings of HNSW, metadata of its own; `plain` as anybody's."""
    schema = Schema()
    schema.delete_index(config=FtsIndexConfig(), key="#document")
    schema.delete_index(config=StringInvertedIndexConfig(), key="price")
    schema.create_index(config=VectorIndexConfig(space="l2", hnsw=HnswIndexConfig(ef_construction=150)))
    store.client.create_collection("notes", schema=schema, metadata={"owner": "Ada"}, embedding_function=None)
    store.create(plan("plain"))
    batch = ChunkBatch(
        ["a", "b"], ["one", "two"], np.eye(2, 4, dtype=np.float32), [{"writer": "x", "price": "1"}, None]
    )
    store.add("notes", batch)
    batch.ids = ["c", "d"]
    store.add("plain", batch)


def expected(folder: Path, rules: str) -> Expectation:
    """What these rules make of the source, from its snapshot."""
    (folder / "own.yaml").write_text(f"name: own\n{RULES[rules]}\n", encoding="utf-8")
    schema = load_schema(str(folder / "own.yaml"))
    parameters = parameters_from({"source": {"path": "a"}, "target": {"path": "b"}, "schema": str(folder / "own.yaml")})
    with open_target(Endpoint(path=str(folder / "source"))) as store:
        source(store)
        snapshot = write_snapshot(store, folder, "snap", ["notes", "plain"], retention_days=7)
    return Expectation(snapshot, schema, parameters, DATE, {})


@pytest.mark.parametrize("rules", RULES)
def test_what_a_collection_has_besides_its_chunks_is_kept_or_said(tmp_path: Path, rules: str) -> None:
    of = expected(tmp_path, rules)
    snapshot, schema, parameters = of.snapshot, of.schema, of.parameters
    with open_target(Endpoint(path=str(tmp_path / "target"))) as store:
        staged = stage(snapshot, schema, of.context(), tmp_path / "staged", Quarantine(tmp_path / "quarantine"))
        made = plan_targets(snapshot.collections(), staged, parameters.migration, schema)
        for info in made:
            store.create(info)
            for part in staged.stream(info.name, 0, 100):
                store.add(info.name, part)
        found = Examination(store, of).run()
        infos = {name: store.info(name) for name in store.names()}
    assert not found.differing
    check = judge_configuration(found.configuration)
    assert check.verdict is Verdict.PASS, check.detail
    rows = {(r["collection"], r["setting"]): (r["state"], r["source"], r["target"]) for r in found.configuration}
    if rules == "merged":
        assert rows["notes", "fts_index of #document"] == ("explained", "off", "on")
        assert rows["notes", "metadata owner"] == ("explained", "Ada", "")
        assert rows["notes", "ef_construction"] == ("explained", "150", "100")
        assert "several collections of the source become one" in check.detail
        return
    homes = [info for name, info in infos.items() if name != "plain"]
    assert {info.name for info in homes} == {info.name for info in made} - {"plain"}
    for info in homes:
        assert info.metadata == {"owner": "Ada"}
        assert info.configuration["hnsw"]["ef_construction"] == 150
        assert info.schema is not None
        assert not info.schema["keys"]["#document"]["string"]["fts_index"]["enabled"]
        field = "cost" if "index" in rules else "price"
        assert not info.schema["keys"][field]["string"]["string_inverted_index"]["enabled"]
        assert rows["notes", f"string_inverted_index of {field}"] == ("kept", "off", "off")
    assert rows["notes", "fts_index of #document"] == ("kept", "off", "off")
    assert rows["notes", "metadata owner"][0] == "kept"


def test_a_setting_that_a_renamed_collection_lost_fails(tmp_path: Path) -> None:
    of = expected(tmp_path, "moved")
    with open_target(Endpoint(path=str(tmp_path / "target"))) as store:
        for name, home in (("notes", "papers"), ("plain", "plain")):
            store.create(plan(home))
            for batch in of.snapshot.batches(name):
                store.add(home, batch)
        check = judge_configuration(Examination(store, of).run().configuration)
    assert check.verdict is Verdict.FAIL
    assert "notes: ef_construction 150 became 100" in check.detail


@pytest.mark.parametrize("own", [True, False])
def test_metadata_that_arrives_and_a_restart_of_the_server_change_no_settings(tmp_path: Path, own: bool) -> None:
    """A server lists the keys that came once it has written them down; what somebody chose is another digest at once."""
    schema = Schema()
    schema.delete_index(config=StringInvertedIndexConfig(), key="word")
    schema.delete_index(config=IntInvertedIndexConfig())
    with ChromaServer(tmp_path / "target") as server:

        def settings() -> dict[str, dict[str, str]]:
            with open_target(Endpoint(url=server.url)) as store:
                return settings_of(store.collections())

        with open_target(Endpoint(url=server.url)) as store:
            store.client.create_collection("notes", schema=schema if own else None, embedding_function=None)
            store.add("notes", chunks(2, 4))
            listed = [set((store.info("notes").schema or {})["keys"])]
            was = settings_of(store.collections())
            batch = chunks(3, 4, prefix="d")
            batch.metadatas = [{"a": "x", "b": 1, "c": 0.5, "d": True}, {"a": 1, "word": 2}, {"b": "one"}]
            store.add("notes", batch)
        assert settings() == was
        server.restart()
        assert settings() == was
        with open_target(Endpoint(url=server.url)) as store:
            other = copy.deepcopy(store.info("notes").schema) or {}
            listed.append(set(other["keys"]))
            assert listed[0] < listed[1], "the server's schema has grown"
            other["keys"]["a"]["string"]["string_inverted_index"]["enabled"] = False
            changed = settings_of([dataclasses.replace(store.info("notes"), schema=other)])
        assert [key for key in was["notes"] if changed["notes"][key] != was["notes"][key]] == ["indexes"]

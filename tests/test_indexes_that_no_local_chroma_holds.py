"""What a local Chroma cannot hold of a collection is named, never dropped in silence; the rest of it is kept."""

from __future__ import annotations

import copy
import dataclasses
import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromadb import Schema
from chromadb.base_types import SparseVector

from helpers import audit
from helpers.chunks import ChunkBatch
from helpers.cli import main
from helpers.errors import Terminal
from helpers.migration.staging import Quarantine, stage
from helpers.parameters import parameters_from
from helpers.parameters.endpoint import Endpoint
from helpers.parameters.sections import Migration
from helpers.results import Verdict
from helpers.schema import Context, load_schema
from helpers.snapshots.snapshot import write_snapshot
from helpers.stores import CollectionInfo, open_target
from helpers.stores.client import ClientStore
from helpers.stores.creation import as_created, reduced, unsupported
from helpers.stores.limits import CLOUD, Limits
from helpers.validation.properties import compare_configuration, judge_configuration
from tests.servers import ChromaServer
from tests.storage import chunks, plan

SPANN = {"search_nprobe": 64, "write_nprobe": 32, "ef_construction": 200, "ef_search": 200, "max_neighbors": 64}
FUNCTION = {"type": "known", "name": "openai", "config": {"model_name": "m", "api_key_env_var": "KEY"}}
SPARSE = SparseVector([1, 5, 2**31], [0.5, -0.25, 0.1])
TEXT = '{"#type":"sparse_vector","indices":[1,5,2147483648],"values":[0.5,-0.25,0.1]}'


def cloud(name: str = "notes", *, quantize: str = "none", sparse: bool | None = True) -> CollectionInfo:
    """A collection as Chroma Cloud describes it: SPANN by cosine, a sparse index, full text off, one key not indexed."""
    schema: dict[str, Any] = copy.deepcopy(Schema().serialize_to_json())
    config = {"space": "cosine", "embedding_function": FUNCTION, "spann": {**SPANN, "quantize": quantize}}
    schema["defaults"]["float_list"]["vector_index"]["config"] = config
    schema["keys"]["#embedding"]["float_list"]["vector_index"]["config"] = {**config, "source_key": "#document"}
    schema["keys"]["#document"]["string"]["fts_index"]["enabled"] = False
    schema["keys"]["page"] = {"int": {"int_inverted_index": {"enabled": False, "config": {}}}}
    if sparse is not None:
        index = {"enabled": sparse, "config": {"embedding_function": {"type": "unknown"}, "bm25": False}}
        schema["keys"]["sparse"] = {"sparse_vector": {"sparse_vector_index": index}}
    configuration = {"hnsw": None, "spann": {**SPANN, "space": "cosine"}, "embedding_function": FUNCTION}
    return CollectionInfo(name, 0, 8, "cosine", "cosine", configuration=configuration, schema=schema,
                          metadata={"owner": "me"}, embedding_function="openai")  # fmt: skip


@pytest.fixture(scope="module", params=["directory", "server"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClientStore]:
    folder = tmp_path_factory.mktemp(request.param) / "target"
    if request.param == "directory":
        with open_target(Endpoint(path=str(folder))) as opened:
            yield opened
        return
    with ChromaServer(folder) as server, open_target(Endpoint(url=server.url)) as opened:
        yield opened


def test_each_index_is_named_with_its_key() -> None:
    found = [str(index) for index in unsupported(cloud(quantize="four_bit_rabit_q_with_u_search"))]
    assert found == [
        "notes: SPANN index on #embedding",
        "notes: quantisation on #embedding",
        "notes: sparse index on sparse",
    ]
    assert [i.kind for i in unsupported(cloud(sparse=False))] == ["SPANN index", "sparse vectors"]
    assert unsupported(plan("notes")) == []
    kept = plan("notes")
    assert reduced(kept) is kept


def test_without_the_operators_word_nothing_is_created(store: ClientStore) -> None:
    for make in (lambda: store.create(cloud()), lambda: as_created(cloud(), ["other*"])):
        with pytest.raises(Terminal) as caught:
            make()
        assert caught.value.code == "index_unsupported"
        assert "sparse index on sparse" in caught.value.line()
        assert "migration.drop_indexes: [notes]" in caught.value.line()
        assert "\n" not in caught.value.line()
    assert "notes" not in store.names()


def test_what_can_be_kept_is_kept_and_every_difference_is_explained(store: ClientStore) -> None:
    source = cloud("kept")
    store.create(as_created(source, ["k*"]))
    found = store.info("kept")
    assert (found.space, found.embedding_function, found.metadata) == ("cosine", "openai", {"owner": "me"})
    rows = {row["setting"]: row for row in compare_configuration(source, found, Migration(drop_indexes=["k*"]))}
    assert rows["space"]["state"] == rows["embedding function"]["state"] == "kept"
    assert rows["fts_index of #document"] | {"why": ""} == {
        "collection": "kept", "setting": "fts_index of #document", "source": "off", "target": "off", "state": "kept", "why": "",
    }  # fmt: skip
    assert rows["int_inverted_index of page"]["state"] == "kept"
    assert {s for s, row in rows.items() if row["state"] == "explained"} == {"SPANN index on #embedding",
                                                                          "sparse index on sparse"}  # fmt: skip
    assert judge_configuration(list(rows.values())).verdict is Verdict.PASS


def test_a_difference_that_nobody_signed_for_still_fails(store: ClientStore) -> None:
    source = cloud("other")
    changed = copy.deepcopy(reduced(source).schema)
    assert changed is not None
    changed["keys"]["#document"]["string"]["fts_index"]["enabled"] = True
    store.create(dataclasses.replace(reduced(source), schema=changed))
    check = judge_configuration(compare_configuration(source, store.info("other"), Migration(drop_indexes=["other"])))
    assert (check.verdict, check.offenders) == (Verdict.FAIL, 1)
    assert "fts_index of #document" in check.detail
    assert (
        judge_configuration(compare_configuration(source, store.info("other"), Migration())).verdict is Verdict.FAIL
    )  # no index was given up


def rich(count: int) -> ChunkBatch:
    """Chunks with uris, lists of each type, 32 keys and a sparse vector in every other one."""
    batch = chunks(count)
    batch.uris = [f"s3://bucket/{i}" if i % 3 else None for i in range(count)]
    lists = {"words": ["a", "b"], "numbers": [1, 2, 3], "shares": [0.5, 0.1], "flags": [True, False]}
    for i in range(count):
        filler = {f"key_{n:02}": n * i for n in range(23)}
        batch.metadatas[i] = {**(batch.metadatas[i] or {}), **lists, **filler, **({"sparse": SPARSE} if i % 2 else {})}
    assert max(len(m or {}) for m in batch.metadatas) == 32
    return batch


class Held:
    """A reader of one collection of Cloud, for a snapshot: sparse vectors come back as the client gives them."""

    label, version, protocol = "cloud", "1.0.0", "API v2"

    def __init__(self, batch: ChunkBatch) -> None:
        self.batch = batch

    def limits(self) -> Limits:
        return CLOUD

    def names(self) -> list[str]:
        return ["rich"]

    def identity(self, name: str) -> str:
        return ""

    def info(self, name: str) -> CollectionInfo:
        return dataclasses.replace(cloud(name), count=len(self.batch))

    def count(self, name: str) -> int:
        return len(self.batch)

    def ids(self, name: str) -> list[str]:
        return self.batch.ids

    def read(self, name: str, ids: list[str], *, embeddings: bool = True) -> ChunkBatch:
        return self.batch.take([self.batch.ids.index(i) for i in ids])


def test_sparse_vectors_arrive_as_text_with_the_same_numbers_and_all_else_exactly(
    store: ClientStore, tmp_path: Path
) -> None:
    batch = rich(40)
    snapshot = write_snapshot(Held(batch), tmp_path, "one", ["rich"], retention_days=7)  # type: ignore[arg-type]
    [held] = snapshot.batches("rich")
    assert held.metadatas == batch.metadatas
    assert held.uris == batch.uris
    identity, day = load_schema("identity"), dt.date(2026, 11, 28)
    asked = Context.of(snapshot.names(), day, Migration(drop_indexes=["rich"]))
    staged = stage(snapshot, identity, asked, tmp_path / "staged", Quarantine(tmp_path / "aside"))
    assert staged.quarantined == {}
    assert staged.repairs == [{"collection": "rich", "field": "sparse", "rule": "sparse", "chunks": 20}]
    store.create(as_created(snapshot.collections()[0], ["rich"]))
    for piece in staged.stream("rich", 0, 100):
        store.add("rich", piece)
    found = store.read("rich", batch.ids)
    assert found.documents == batch.documents
    assert found.uris == batch.uris
    assert found.metadatas == [
        {**(m or {}), **({"sparse": TEXT} if "sparse" in (m or {}) else {})} for m in batch.metadatas
    ]
    assert np.allclose(found.embeddings, batch.embeddings, rtol=5e-7)


def test_a_sparse_vector_that_nobody_gave_up_is_set_aside_with_its_reason(tmp_path: Path) -> None:
    snapshot = write_snapshot(Held(rich(4)), tmp_path, "one", ["rich"], retention_days=7)  # type: ignore[arg-type]
    asked = Context.of(snapshot.names(), dt.date(2026, 11, 28), Migration(drop_indexes=["poor"]))
    aside = Quarantine(tmp_path / "aside")
    staged = stage(snapshot, load_schema("identity"), asked, tmp_path / "staged", aside)
    assert staged.quarantined == {"unsupported_metadata": 2}
    assert all("migration.drop_indexes" in entry["detail"] for entry in aside.entries())


def test_what_is_given_up_is_part_of_what_a_resume_must_find_unchanged() -> None:
    base: dict[str, Any] = {"source": {"path": "s"}, "target": {"path": "t"}}
    named = parameters_from({**base, "migration": {"drop_indexes": ["notes"]}})
    assert named.context()["drop_indexes"] == ["notes"]
    assert "drop_indexes" not in parameters_from(base).context()


def test_a_snapshot_of_cloud_is_restored_without_them_only_where_that_was_ordered(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    batch = rich(40)
    snapshot = write_snapshot(Held(batch), tmp_path, "one", ["rich"], retention_days=7)  # type: ignore[arg-type]
    place = tmp_path / "new"
    order = ["snapshots", "restore", str(snapshot.folder), "--into", str(place)]
    assert main([*order, "--dry-run"]) == 0
    assert "refuse: a local Chroma needs --drop-indexes for it" in capsys.readouterr().out
    assert main(order) == 1
    said = capsys.readouterr().err
    assert "rich: sparse index on sparse" in said
    assert said.strip().endswith("add: --drop-indexes rich")
    assert "\n" not in said.strip()
    assert not place.exists()
    assert main([*order, "--drop-indexes", "ri*"]) == 0
    said = capsys.readouterr().out
    assert "dropped, as ordered: rich: sparse index on sparse: no index; its vectors are kept as text of JSON" in said
    assert "every chunk was read back and compared" in said
    with open_target(Endpoint(path=str(place))) as store:
        found = store.read("rich", batch.ids)
        assert store.info("rich").space == "cosine"
    assert (found.documents, found.uris) == (batch.documents, batch.uris)
    assert [(m or {}).get("sparse") for m in found.metadatas] == [TEXT if i % 2 else None for i in range(40)]
    entries = [e for e in audit.entries(tmp_path / audit.NAME) if e["action"] == "restore ends"]
    assert entries[-1]["facts"]["dropped"] == [str(index) for index in unsupported(snapshot.collections()[0])]

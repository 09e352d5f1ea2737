"""`migration.index` gives collections of the target other settings of their index, and step 23 looks whether they have them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.chunks import ChunkBatch
from helpers.errors import Terminal, UsageError
from helpers.migration.importing import with_index
from helpers.parameters import parameters_from
from helpers.parameters.endpoint import Endpoint
from helpers.parameters.sections import Migration, index_order
from helpers.results import Verdict
from helpers.run.record import RunRecord
from helpers.steps.validate import ValidateStep
from helpers.stores import CollectionInfo, Space, Store, open_target
from helpers.validation.properties import NAME, compare_configuration, judge_configuration
from tests.schema_lines import migrated
from tests.servers import ChromaServer
from tests.storage import chunks, embedded, plan
from tests.test_catch_up import migrate, new_run
from tests.test_configuration_fidelity import LEGACY, SETTINGS, collection

ORDER = {"space": "l2", "ef_construction": 321, "ef_search": 123, "max_neighbors": 40, "num_threads": 3, "batch_size": 77,
         "sync_threshold": 888, "resize_factor": 1.7}  # fmt: skip


def ordered(**orders: Any) -> Migration:
    return Migration.model_validate({"index": orders})


def states(rows: list[dict[str, Any]]) -> dict[str, tuple[str, str]]:
    return {row["setting"]: (row["state"], row["why"]) for row in rows}


@pytest.mark.parametrize(
    "source",
    [collection("ip", {"owner": "me"}, **SETTINGS), collection("cosine", LEGACY), plan("notes", "ip")],
    ids=["configuration", "metadata", "nothing"],
)
def test_each_setting_that_is_ordered_is_there(
    tmp_path: Path, source: CollectionInfo, chroma_server: Callable[[], ChromaServer]
) -> None:
    """A source made by configuration, by metadata as of old, by nothing; the target as Chroma opens it again."""
    rules = ordered(**{"no*": ORDER})
    with embedded(tmp_path / "first") as store:
        store.create(source)
        source = store.info("notes")
    for place in (Endpoint(path=str(tmp_path / "target")), Endpoint(url=chroma_server().url)):
        with open_target(place) as store:
            store.create(with_index(source, index_order(rules.index, "notes")))
        with open_target(place) as store:
            rows = compare_configuration(source, store.info("notes"), rules)
            store.drop("notes")
        found = states(rows)
        assert {found[setting] for setting in ORDER} == {("explained", "migration.index orders it")}, rows
        assert judge_configuration(rows).verdict is Verdict.PASS


def test_a_setting_that_the_target_did_not_take_fails(tmp_path: Path) -> None:
    rules = ordered(notes={"ef_search": 123})
    with embedded(tmp_path / "target") as store:
        store.create(plan("notes"))
        found = store.info("notes")
    rows = compare_configuration(found, found, rules)
    check = judge_configuration(rows)
    assert (check.verdict, check.reason) == (Verdict.FAIL, "configuration_differs")
    assert check.detail == "notes: ef_search 123 became 100"


def test_another_distance_is_judged_by_the_chunks_themselves(tmp_path: Path) -> None:
    """The source's answers are shown, and are no measure: what l2 finds near is not what cosine does."""
    batch, tiny = chunks(200, 8), chunks(1, 8, prefix="tiny")
    batch.embeddings *= np.linspace(0.1, 9.0, 200, dtype=np.float32)[:, None]
    tiny.embeddings *= np.float32(1e-25)
    source = {"alpha": ChunkBatch.concatenate([batch, tiny]), "beta": chunks(20, 8, prefix="b")}
    done = migrated(
        tmp_path, "identity", source, spaces={"alpha": "l2", "beta": "l2"}, index={"alpha": {"space": "cosine"}}
    )
    assert {chunk: reason for chunk, (reason, _) in done.aside.items()} == {"tiny0": "tiny_norm"}, "l2 can hold it"
    check = done.judgement.search()
    assert (check.verdict, check.reason) == (Verdict.WARNING, "search_unsure")
    assert "alpha: the target finds 1.000 of the probes" in check.detail
    assert "its distance is l2, the target's cosine by order (migration.index)" in check.detail
    assert done.wrong == {check.name: "search_unsure"}
    alpha, beta = done.judgement.findings.search
    assert 0.1 < alpha["overlap_plain@10"] < 0.95 < beta["overlap_plain@10"]
    assert (alpha["overlap_exact@10"], alpha["recall_before"], alpha["recall_after"]) == (1.0, 1.0, 1.0)
    rows = {r["setting"]: (r["source"], r["target"], r["state"]) for r in done.judgement.findings.configuration
            if r["collection"] == "alpha"}  # fmt: skip
    assert rows["space"] == ("l2", "cosine", "explained")
    distances = {row["collection"]: row["largest_difference"] for row in done.judgement.findings.distances}
    assert distances["alpha"] is None
    assert distances["beta"] < 1e-3


def test_a_lost_chunk_fails_under_another_distance_too(tmp_path: Path) -> None:
    def swap(store: Store) -> None:
        rows = store.read("alpha", ["c1", "c2"])
        store.delete("alpha", rows.ids)
        rows.embeddings = rows.embeddings[::-1].copy()
        store.add("alpha", rows)

    done = migrated(
        tmp_path,
        "identity",
        {"alpha": chunks(60, 8)},
        swap,
        spaces={"alpha": "l2"},
        index={"alpha": {"space": "cosine"}},
    )
    assert done.wrong["embeddings"] == "vector_differs"


def test_collections_of_two_distances_can_be_merged_by_order(tmp_path: Path) -> None:
    schema = tmp_path / "one.yaml"
    schema.write_text('name: one\nunknown: keep\ncollections: [{from: "*", to: books}]\nfields: []\n')
    source = {"alpha": chunks(60, 8), "beta": chunks(50, 8, prefix="b", seed=1)}
    spaces: dict[str, Space] = {"alpha": "l2", "beta": "cosine"}
    with pytest.raises(Terminal, match="sources of books differ in space"):
        migrated(tmp_path / "not", schema, source, spaces=spaces)
    done = migrated(tmp_path, schema, source, spaces=spaces, index={"books": {"space": "l2"}})
    assert {r["collection"]: r["verdict"] for r in done.judgement.findings.search} == {
        "alpha": Verdict.PASS, "beta": Verdict.WARNING,
    }  # fmt: skip
    assert not any(c.verdict is Verdict.FAIL for c in done.judgement.all())


def test_a_collection_that_would_be_searched_by_two_distances_is_refused(tmp_path: Path) -> None:
    schema = tmp_path / "two.yaml"
    schema.write_text(
        "name: two\nunknown: keep\ncollections: [{from: alpha, to: even, when: fields.even}]\nfields: []\n"
    )
    with pytest.raises(Terminal, match="alpha: chunks of one collection go to targets that search by cosine and l2"):
        migrated(
            tmp_path, schema, {"alpha": chunks(60, 8)}, spaces={"alpha": "l2"}, index={"even": {"space": "cosine"}}
        )


@pytest.mark.more
@pytest.mark.usefixtures("own_folders")
@pytest.mark.parametrize("schema", ["identity", "one.yaml"])
def test_a_run_creates_them_and_its_validation_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, schema: str
) -> None:
    (tmp_path / "one.yaml").write_text(
        "name: one\nunknown: keep\ncollections: [{from: alpha, to: books}]\nfields: []\n"
    )
    name = "alpha" if schema == "identity" else "books"
    orders = {"batch_size": 10, "index": {name: {"max_neighbors": 32}, "*": {"ef_search": 250}}}
    night = new_run(tmp_path, monkeypatch, schema=schema, migration=orders)
    assert night.read().parameters.context()["index"] == orders["index"]
    migrate(night)
    record = RunRecord(night.read(), "23")
    step = ValidateStep(record)
    rows = step.configuration().to_dict("records")
    assert next(c for c in record.result.checks if c.name == NAME).verdict is Verdict.PASS
    table = {(row["collection"], row["setting"]): (row["source"], row["target"]) for row in rows if row["why"]}
    assert table[name, "max_neighbors"][1] == "32"
    assert table["beta", "ef_search"][1] == "250"
    assert (name, "ef_search") not in table, "the first pattern that fits counts"
    with embedded(Path("target")) as store:
        assert store.info("beta").configuration["hnsw"]["ef_search"] == 250
        assert store.info(name).configuration["hnsw"]["max_neighbors"] == 32


@pytest.mark.usefixtures("own_folders")
def test_an_order_for_a_collection_that_the_target_does_not_get_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    night = new_run(tmp_path, monkeypatch, migration={"index": {"alhpa": {"ef_search": 250}}})
    with pytest.raises(UsageError, match=r"migration\.index: 'alhpa' fits no collection of the target.*alpha, beta"):
        migrate(night)
    assert not Path("target").exists()


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ({"notes": {"ef_search": 0}}, "ef_search"),
        ({"notes": {"ef_serch": 3}}, "ef_search"),
        ({"notes": {"max_neighbors": 3}}, "max_neighbors"),
        ({"notes": {"space": "l1"}}, "space"),
        ({" ": {"ef_search": 3}}, "not a name that is allowed"),
    ],
)
def test_an_order_that_cannot_be_is_one_line(index: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        parameters_from({"source": {"path": "a"}, "target": {"path": "b"}, "migration": {"index": index}})
    assert "\n" not in caught.value.line()


def test_nothing_is_changed_where_nothing_is_ordered() -> None:
    info = dataclasses.replace(plan("notes"), metadata={"hnsw:M": 24})
    assert with_index(info, {}) is info
    assert "index" not in parameters_from({"source": {"path": "a"}, "target": {"path": "b"}}).context()

"""`migration.index` gives collections of the target other settings of their index, and step 23 looks whether they have them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.errors import UsageError
from helpers.migration.importing import with_index
from helpers.parameters import parameters_from
from helpers.parameters.endpoint import Endpoint
from helpers.parameters.sections import Migration
from helpers.results import Verdict
from helpers.run.record import RunRecord
from helpers.steps.validate import ValidateStep
from helpers.stores import CollectionInfo, open_target
from helpers.validation.properties import NAME, compare_configuration, judge_configuration
from tests.servers import ChromaServer
from tests.storage import embedded, plan
from tests.test_catch_up import migrate, new_run
from tests.test_configuration_fidelity import LEGACY, SETTINGS, collection

ORDER = {"ef_construction": 321, "ef_search": 123, "max_neighbors": 40, "num_threads": 3, "batch_size": 77,
         "sync_threshold": 888, "resize_factor": 1.7}  # fmt: skip


def ordered(**orders: Any) -> Migration:
    return Migration.model_validate({"index": orders})


def states(rows: list[dict[str, Any]]) -> dict[str, tuple[str, str]]:
    return {row["setting"]: (row["state"], row["why"]) for row in rows}


@pytest.mark.parametrize(
    "source",
    [collection("ip", {"owner": "me"}, **SETTINGS), collection("cosine", LEGACY), plan("notes")],
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
            store.create(with_index(source, rules.index_of("notes")))
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
        ({"notes": {}}, "orders nothing"),
        ({"notes": {"ef_serch": 3}}, "ef_search"),
        ({"notes": {"max_neighbors": 3}}, "max_neighbors"),
        ({"notes": {"space": "ip"}}, "space"),
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

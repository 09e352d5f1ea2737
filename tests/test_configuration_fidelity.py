"""Under identity a collection keeps its configuration, and each setting that it does not keep is explained or a failure."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
from chromadb import Schema

from helpers.migration.importing import with_index
from helpers.parameters.sections import Migration
from helpers.results import Verdict
from helpers.stores import CollectionInfo, Space
from helpers.stores.creation import as_created
from helpers.validation.properties import compare_configuration, judge_configuration, of_merged
from tests.storage import embedded

FOREIGN = {"type": "known", "name": "openai", "config": {"model_name": "m", "api_key_env_var": "KEY"}}
SETTINGS = {"ef_construction": 150, "ef_search": 60, "max_neighbors": 24, "num_threads": 2, "batch_size": 60,
            "sync_threshold": 700, "resize_factor": 1.4}  # fmt: skip
LEGACY = {"hnsw:space": "cosine", "hnsw:construction_ef": 150, "hnsw:search_ef": 60, "hnsw:M": 24, "hnsw:num_threads": 2,
          "hnsw:batch_size": 60, "hnsw:sync_threshold": 700, "hnsw:resize_factor": 1.4, "owner": "me"}  # fmt: skip


def collection(space: Space, metadata: dict[str, Any] | None, **settings: Any) -> CollectionInfo:
    configuration = {"hnsw": {"space": "l2", **settings}, "spann": None, "embedding_function": FOREIGN}
    return CollectionInfo("notes", 0, 4, space, "l2", metadata=metadata, configuration=configuration)


def sinking() -> dict[str, Any]:
    """A schema with a field that is not indexed, and the links of its vectors' index."""
    schema: dict[str, Any] = json.loads(json.dumps(Schema().serialize_to_json()))
    schema["keys"]["page"] = {"int": {"int_inverted_index": {"enabled": False, "config": {}}}}
    for types in (schema["defaults"], schema["keys"]["#embedding"]):
        config = types["float_list"]["vector_index"]["config"]
        config |= {"embedding_function": FOREIGN, "hnsw": {"max_neighbors": 400_000, "ef_search": 60}}
    return schema


def states(rows: list[dict[str, Any]]) -> dict[str, str]:
    return {row["setting"]: row["state"] for row in rows}


@pytest.mark.parametrize("source", [collection("ip", {"owner": "me"}, **SETTINGS), collection("cosine", LEGACY)])
def test_every_setting_and_a_function_that_is_not_installed_arrive(tmp_path: Path, source: CollectionInfo) -> None:
    with embedded(tmp_path / "target") as store:
        store.create(source)
        rows = compare_configuration(source, store.info("notes"), Migration())
    assert {"space", *SETTINGS, "embedding function", "metadata owner"} <= states(rows).keys()
    assert set(states(rows).values()) == {"kept"}, rows
    assert judge_configuration(rows).verdict is Verdict.PASS


@pytest.mark.parametrize("setting", ["space", *SETTINGS, "embedding function", "metadata owner"])
def test_any_setting_that_differs_without_a_reason_fails(setting: str) -> None:
    source = collection("l2", {"owner": "me"}, **SETTINGS)
    configuration: dict[str, Any] = {**source.configuration, "hnsw": dict(source.configuration["hnsw"])}
    changes: dict[str, Any] = {"configuration": configuration}
    if setting == "space":
        changes["space"] = "ip"
    elif setting == "embedding function":
        configuration["embedding_function"] = {**FOREIGN, "config": {"model_name": "another"}}
    elif setting == "metadata owner":
        changes["metadata"] = {"owner": "you"}
    else:
        configuration["hnsw"][setting] += 1
    check = judge_configuration(
        rows := compare_configuration(source, dataclasses.replace(source, **changes), Migration())
    )
    assert [name for name, state in states(rows).items() if state == "DIFFERENT"] == [setting]
    assert (check.verdict, check.reason, check.offenders) == (Verdict.FAIL, "configuration_differs", 1)
    assert setting in check.detail


def test_what_cannot_be_kept_is_explained() -> None:
    source = collection("l2", {"hnsw:M": 1, "hnsw:search_ef": 60})
    configuration = {**source.configuration, "hnsw": {"space": "l2", "ef_search": 60}}
    target = dataclasses.replace(source, metadata=None, configuration=configuration)
    rows = compare_configuration(source, target, Migration())
    assert judge_configuration(rows).verdict is Verdict.PASS
    explained = {row["setting"]: row["why"] for row in rows if row["state"] == "explained"}
    assert "refuse" in explained["max_neighbors"]
    assert explained["metadata hnsw:search_ef"] == "turned into configuration"
    silent = dataclasses.replace(target, configuration={"hnsw": {"space": "l2"}, "embedding_function": FOREIGN})
    assert states(compare_configuration(source, silent, Migration()))["ef_search"] == "explained"
    assert judge_configuration([]).verdict is Verdict.NOT_APPLICABLE


SINKS = {
    "metadata": collection("l2", {"hnsw:M": 400_000, "hnsw:batch_size": math.inf, "hnsw:search_ef": 60, "owner": "me"}),
    "configuration": collection("l2", {"owner": "me"}, max_neighbors=400_000, ef_search=60),
    "schema": dataclasses.replace(collection("l2", {"owner": "me"}, ef_search=60), schema=sinking()),
}


@pytest.mark.parametrize("place", SINKS)
def test_settings_that_no_index_has_are_not_taken_over_and_said(tmp_path: Path, place: str) -> None:
    """400,000 links for each of 1,200 chunks took 4 GB of the target. Nobody is stopped by it; other settings arrive."""
    source, rules = SINKS[place], Migration()
    with embedded(tmp_path / "target") as store:
        store.create(as_created(source, []))
        made = store.info("notes")
        assert (made.configuration["hnsw"]["max_neighbors"], made.configuration["hnsw"]["ef_search"]) == (16, 60)
        assert "400000" not in json.dumps([made.schema, made.metadata])
        rows = compare_configuration(source, made, rules)
        assert judge_configuration(rows).verdict is Verdict.PASS, rows
        [row] = [row for row in rows if row["setting"] == "max_neighbors"]
        assert (row["source"], row["target"], row["state"]) == ("400000", "16", "explained")
        store.drop("notes")
        order = {"max_neighbors": 4000}
        store.create(with_index(as_created(source, []), order))
        made = store.info("notes")
        assert made.configuration["hnsw"]["max_neighbors"] == 4000, "what the operator orders is taken"
        rows = compare_configuration(source, made, Migration.model_validate({"index": {"notes": order}}))
        assert judge_configuration(rows).verdict is Verdict.PASS, rows
        store.drop("notes")
        fine = collection("l2", None, max_neighbors=2048)
        assert as_created(fine, []) is fine


def test_what_merged_collections_share_no_more_is_a_row_a_setting() -> None:
    sources = [
        dataclasses.replace(collection("l2", {"owner": owner, "topic": "x"}), name=name)
        for name, owner in (("a", "one"), ("b", "two"), ("c", "one"))
    ]
    target = dataclasses.replace(collection("l2", {"topic": "x"}), name="all")
    rows = of_merged(sources, target, Migration())
    assert [(row["collection"], row["setting"], row["source"], row["state"]) for row in rows] == [
        ("3 collections that become all", "metadata owner", "one, two", "explained")
    ]

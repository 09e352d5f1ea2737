"""A chunk, or a collection, over a limit of the target is found in the dry run, by name, with what helps; 12 says each limit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from helpers.chunks import ChunkBatch
from helpers.errors import RunbookError, UsageError
from helpers.parameters import parameters_from
from helpers.parameters.endpoint import TargetLimits
from helpers.results import Check, Verdict
from helpers.run import folders as runs
from helpers.run.record import RunRecord
from helpers.steps.dry_run import DryRunStep
from helpers.steps.target_readiness import TargetReadinessStep
from helpers.stores import open_target
from helpers.stores.client import pieces
from helpers.stores.limits import Limits, known_of
from tests.storage import chunks, embedded, fill

pytestmark = pytest.mark.usefixtures("own_folders")


def a_run(target: dict[str, Any], step: str = "13", run_id: str = "night") -> RunRecord:
    given = {"source": {"path": "source"}, "target": {"path": "target", **target}, "migration": {"minimum_valid": 0.5}}
    return RunRecord(runs.create(parameters_from(given), run_id), step)


def check(run: RunRecord, name: str) -> Check:
    return next(c for c in run.result.checks if c.name == name)


def long_id(batch: ChunkBatch) -> None:
    batch.ids[1] = "i" * 40


def long_document(batch: ChunkBatch) -> None:
    batch.documents[1] = "é" * 600  # 1,200 bytes


def long_uri(batch: ChunkBatch) -> None:
    batch.uris[1] = "s3://" + "u" * 60


def metadata(**values: Any) -> Callable[[ChunkBatch], None]:
    def change(batch: ChunkBatch) -> None:
        batch.metadatas[1] = values

    return change


@pytest.mark.more
@pytest.mark.parametrize(
    ("limit", "most", "change", "said", "helps"),
    [
        ("id_bytes", 39, long_id, "the id has 40 bytes", "(id)"),
        ("document_bytes", 1_199, long_document, "the document has 1,200 bytes", "split or shorten it at the source"),
        ("uri_bytes", 64, long_uri, "the URI has 65 bytes", "at the source"),
        ("keys", 11, metadata(**{f"k{n}": n for n in range(12)}), "the metadata has 12 keys", "(drop)"),
        ("key_bytes", 19, metadata(**{"k" * 20: 1}), f"a key '{'k' * 20}' has 20 bytes", "(rename)"),
        ("value_bytes", 199, metadata(tags=["a" * 150, "b" * 50]), "a value 'tags' has 200 bytes", "(replace)"),
        ("metadata_bytes", 400, metadata(a="x" * 200, b="y" * 200), "the metadata has 418 bytes", "(drop)"),
        ("request_bytes", 1_200, long_document, "the chunk in one request has", "leave the chunk out by the schema"),
    ],
)
def test_a_chunk_over_a_limit_is_found_by_id_with_what_helps(
    tmp_path: Path, limit: str, most: int, change: Callable[[ChunkBatch], None], said: str, helps: str
) -> None:
    batch = chunks(4, 4)
    change(batch)
    with embedded(tmp_path / "source") as store:
        fill(store, "notes", batch)
    step = DryRunStep(a_run({"limits": {limit: most}}))
    [(collection, chunk, reason, detail)] = step.validate().itertuples(index=False, name=None)
    assert (collection, chunk, reason) == ("notes", batch.ids[1], "too_large")
    assert said in detail
    assert f"the target takes {most:,} (target.limits.{limit})" in detail
    assert helps in detail
    [issue] = [row for row in step.issues().itertuples(index=False, name=None) if row[0] == "too large"]
    assert issue[1:3] == ("found", "1 chunk")
    raised = DryRunStep(a_run({"limits": {limit: most + 2_000}}, run_id="raised"))
    assert not len(raised.validate())


def test_vectors_of_more_dimensions_are_all_found(tmp_path: Path) -> None:
    with embedded(tmp_path / "source") as store:
        fill(store, "notes", chunks(4, 4))
        fill(store, "wide", chunks(2, 8))
    found = DryRunStep(a_run({"limits": {"dimension": 4}})).validate()
    assert found["collection"].tolist() == ["wide", "wide"]
    assert "has 8 dimensions, the target takes 4" in found["detail"][0]
    assert "migration.reembed" in found["detail"][0]


@pytest.mark.parametrize(
    ("limits", "said", "first"),
    [
        ({"name_bytes": 4}, "notes: 5 bytes in its name, it takes 4 (target.limits.name_bytes)", {}),
        ({"collection_rows": 3}, "notes: 4 chunks, it takes 3", {"from": "notes", "id": "c3"}),
    ],
)
def test_a_collection_over_a_limit_stops_12_and_13_before_anything_is_written(
    tmp_path: Path, limits: dict[str, int], said: str, first: dict[str, str]
) -> None:
    with embedded(tmp_path / "source") as store:
        fill(store, "notes", chunks(4, 4))
        fill(store, "few", chunks(3, 4))
    readiness = TargetReadinessStep(a_run({"limits": limits}, "12", "night-12"))
    readiness.reach()
    dry = DryRunStep(a_run({"limits": limits}, "13", "night-13"))
    dry.validate()
    for run in (readiness.run, dry.run):
        found = check(run, "collections over a limit of the target")
        assert (found.verdict, found.measured, found.reason) == (Verdict.FAIL, 1, "too_large")
        assert said in found.detail
        assert "by the schema (collections)" in found.detail
    assert {key: value for key, value in found.ids[0].items() if key in ("from", "id")} == first
    with pytest.raises(RunbookError, match="collections over a limit of the target: 1"):
        dry.import_and_validate()


def test_step_12_says_each_limit_and_whose_word_it_is(tmp_path: Path) -> None:
    with embedded(tmp_path / "source") as store:
        fill(store, "notes", chunks(4, 4))
    run = a_run({"limits": {"document_bytes": 16_384, "collection_rows": 10}}, "12")
    shown = dict(TargetReadinessStep(run).reach().itertuples(index=False, name=None))
    assert shown["limit: document bytes"] == "16,384 (target.limits.document_bytes)"
    assert shown["limit: collection rows"] == "10 (target.limits.collection_rows)"
    assert check(run, "collections over a limit of the target").verdict is Verdict.PASS


def test_cloud_has_its_documented_limits_unless_others_are_given() -> None:
    given = {"source": {"path": "source"}, "target": {"cloud": True, "limits": {"document_bytes": 32_768}}}
    known = known_of(parameters_from(given).target)
    assert known["document_bytes"] == (32_768, "target.limits.document_bytes")
    assert known["key_bytes"] == (36, "Chroma Cloud's documentation")
    assert known["collection_rows"][0] == 5_000_000
    named = {"batch": "write_rows", "request_bytes": "write_bytes"}
    assert {named.get(name, name) for name in TargetLimits.model_fields} <= {field.name for field in fields(Limits)}


def test_writes_keep_to_the_limits_that_are_given(tmp_path: Path) -> None:
    target = parameters_from(
        {
            "source": {"path": "source"},
            "target": {"path": str(tmp_path / "target"), "limits": {"batch": 3, "request_bytes": 1_000}},
        }
    ).target
    with open_target(target) as store:
        assert store.limits().write_rows == 3
        assert store.limits().write_bytes == 800
        assert [len(piece) for piece in pieces(chunks(7, 4), store.limits())] == [3, 3, 1]


def test_a_source_has_no_limits_of_its_own() -> None:
    with pytest.raises(UsageError, match=r"'source.limits' and 'source.create' mean nothing"):
        parameters_from({"source": {"path": "a", "limits": {"keys": 1}}, "target": {"path": "b"}})


def test_a_chunk_that_is_set_aside_for_a_limit_is_explained_to_the_validation(tmp_path: Path) -> None:
    batch = chunks(4, 4)
    long_document(batch)
    with embedded(tmp_path / "source") as store:
        fill(store, "notes", batch)
    step = DryRunStep(a_run({"limits": {"document_bytes": 500}}))
    step.validate()
    table = step.import_and_validate().set_index("test")
    assert table.loc["counts", "verdict"] == "pass", table.loc["counts", "detail"]
    assert step.run.result.facts["quarantine"] == {"too_large": 1}

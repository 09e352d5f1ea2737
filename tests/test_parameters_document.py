"""The resolved document, its digest, what a resume compares, and the small sample."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from helpers.errors import UsageError
from helpers.parameters import is_sample, load_parameters, parameters_from

LEAST: dict[str, Any] = {"source": {"path": "old"}, "target": {"path": "new"}}
FULL: dict[str, Any] = {
    "source": {"url": "http://old:8000", "headers": {"X-Token": "env:OLD"}},
    "target": {"url": "http://new:8000", "timeout_seconds": 5},
    "expected": {"collections": {"a.b": 1}, "total": 2, "unlisted": 1},
    "fence": {"kind": "nginx", "nginx": {"listen": "0.0.0.0:1", "upstream": "localhost:2", "config": "f"}},
    "validation": {"queries": [{"text": "ä"}]},
    "cutover": {"env_files": [{"path": ".env", "keys": {"URL": "{target_url}"}}], "restart": [["a", ""]]},
    "window": {"start": "2025-12-01T02:00:00+02:00"},
    "notify": {"urls": ["file:slack"]},
}


@pytest.mark.parametrize("sections", [LEAST, FULL])
def test_round_trip(sections: dict[str, Any]) -> None:
    parameters = parameters_from(sections)
    document = json.loads(json.dumps(parameters.document()))
    again = parameters_from(document)
    assert again == parameters
    assert (again.document(), again.digest(), again.context()) == (document, parameters.digest(), parameters.context())


@pytest.mark.parametrize("name", ["rehearsal", "production"])
def test_round_trip_of_the_shipped_files(root: Path, name: str) -> None:
    parameters = load_parameters(root / "parameters" / f"{name}.yaml")
    assert parameters_from(parameters.document()) == parameters


def test_the_document_is_complete_and_spells_keys_as_the_file_does() -> None:
    document = parameters_from(LEAST).document()
    assert document["migration"]["batch_size"] == 500
    assert document["schema"] == "identity"
    assert "schema_name" not in document
    assert "url" not in document["source"]


def test_the_digest_sees_values_and_not_their_spelling() -> None:
    first = parameters_from(LEAST | {"monitoring": {"minutes": 60}})
    assert first.digest() == parameters_from(LEAST).digest()
    assert first.digest() != parameters_from(LEAST | {"monitoring": {"minutes": 61}}).digest()
    assert len(first.digest()) == 64


@pytest.mark.parametrize(
    ("sections", "same"),
    [
        ({"migration": {"batch_size": 1, "workers": 1}}, True),
        ({"source": {"path": "./old", "timeout_seconds": 1}}, True),
        ({"validation": {"probes": 1}}, True),
        ({"migration": {"id_policy": "prefix"}}, False),
        ({"source": {"path": "older"}}, False),
        ({"target": {"path": "new", "tenant": "t"}}, False),
        ({"collections": {"exclude": ["x"]}}, False),
        ({"schema": "if_ttt"}, False),
    ],
)
def test_context(sections: dict[str, Any], same: bool) -> None:
    context = parameters_from(LEAST | sections).context()
    assert set(context) == {"source", "target", "schema", "collections", "id_policy"}
    assert (context == parameters_from(LEAST).context()) is same
    assert json.loads(json.dumps(context)) == context


def test_a_relative_path_in_another_folder_is_another_context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = parameters_from(LEAST).context()
    monkeypatch.chdir(tmp_path)
    assert parameters_from(LEAST).context() != before


@pytest.mark.parametrize(
    ("sections", "sample"),
    [({}, True), ({"source": {}, "target": {}}, True), ({"source": None}, True), ({"migration": {"workers": 2}}, True),
     ({"source": {"path": "a"}}, False), ({"target": {"path": "a"}}, False), (LEAST, False)],
)  # fmt: skip
def test_is_sample(sections: dict[str, Any], sample: bool) -> None:
    assert is_sample(sections) is sample


def test_without_source_and_target_it_is_the_sample() -> None:
    empty: dict[str, Any] = {key: {} for key in ("name", "source", "target", "schema", "migration")}
    parameters = parameters_from(empty)
    assert parameters == parameters_from({})
    assert (parameters.name, parameters.schema_name, parameters.migration.id_policy) == ("sample", "if_ttt", "prefix")
    assert (parameters.source.path, parameters.target.path) == ("workspace/sample/source", "workspace/sample/target")
    assert (parameters.expected.total, len(parameters.validation.queries)) == (None, 5)


def test_given_sections_go_over_the_sample() -> None:
    parameters = parameters_from({"migration": {"workers": 1}, "name": "mine"}, ["migration.batch_size=9"])
    assert (parameters.name, parameters.migration.workers, parameters.migration.batch_size) == ("mine", 1, 9)
    assert parameters.migration.id_policy == "prefix"
    with pytest.raises(UsageError, match=r"unknown key 'migration\.wrkers'; did you mean 'migration\.workers'"):
        parameters_from({"migration": {"wrkers": 1}})
    with pytest.raises(UsageError, match="unknown key 'quatsch'"):
        parameters_from({"quatsch": 1})

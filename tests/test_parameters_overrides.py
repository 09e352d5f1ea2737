"""`--set a.b=VALUE` reaches every key, reads VALUE as YAML, and refuses what it does not know."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from helpers.errors import UsageError
from helpers.parameters import Parameters, load_parameters, parameters_from

LEAST: dict[str, Any] = {"source": {"path": "old"}, "target": {"path": "new"}}


def overridden(*overrides: str) -> Parameters:
    return parameters_from(LEAST, overrides)


def refusal(*overrides: str) -> UsageError:
    with pytest.raises(UsageError) as caught:
        overridden(*overrides)
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("migration.batch_size=100", "migration.batch_size", 100),
        (" migration.batch_size = 100", "migration.batch_size", 100),
        ("migration={batch_size: 7}", "migration.batch_size", 7),
        ("source.path=/data/chroma=old", "source.path", "/data/chroma=old"),
        ("source.verify_tls=false", "source.verify_tls", False),
        ("signoff.dry_run=[dba]", "signoff.dry_run", ["dba"]),
        ("name='2025'", "name", "2025"),
        ("contacts.channel=#chromadb-migration", "contacts.channel", "#chromadb-migration"),
        ("contacts.war_room=room #4", "contacts.war_room", "room #4"),
        ("contacts.war_room='room #4'", "contacts.war_room", "room #4"),
        ("expected.total=null", "expected.total", None),
        ("expected.total=", "expected.total", None),
        ("expected.collections.my.name=5", "expected.collections", {"my.name": 5}),
        ("window.start=2025-12-01T02:00:00Z", "window.minutes", 120.0),
        ("fence.command={lock: [a], unlock: [b]}", "fence.kind", "none"),
        ("validation.queries=[{text: a}]", "validation.k", 10),
        ("schema=identity", "schema_name", "identity"),
    ],
)
def test_values_are_yaml(override: str, key: str, value: Any) -> None:
    found: Any = overridden(override)
    for part in key.split("."):
        found = getattr(found, part)
    assert found == value


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("migration.batchsize=1", "unknown key 'migration.batchsize'; did you mean 'migration.batch_size'?"),
        ("migratoin.batch_size=1", "unknown key 'migratoin'; did you mean 'migration'?"),
        ("batch_size=1", "unknown key 'batch_size'; did you mean 'migration.batch_size'?"),
        ("validation.queries.0.text=a", "'validation.queries' holds a list; set it whole"),
        ("migration.batch_size.x=1", "'migration.batch_size' holds one value; set it whole"),
        ("fence.nginx.listn=a:1", "unknown key 'fence.nginx.listn'; did you mean 'fence.nginx.listen'?"),
    ],
)
def test_unknown_key(override: str, message: str) -> None:
    error = refusal(override)
    assert error.code == "set_unknown"
    assert message in str(error)


@pytest.mark.parametrize(
    "override",
    ["", "migration.batch_size", "=5", ".=5", "migration.=5", "migration..workers=5", "name={", "name=a: b: c",
     "name='x"],
)  # fmt: skip
def test_malformed(override: str) -> None:
    error = refusal(override)
    assert error.code == "set_malformed"
    assert "Write --set section.key=VALUE" in str(error)


def test_malformed_override_shows_no_value() -> None:
    assert "hunter2" not in str(refusal("source.headers.Authorization: Bearer hunter2"))
    assert "hunter2" not in str(refusal("source={url: 'http://u:hunter2@h'}"))
    assert "hunter2" not in str(refusal("source.headers={X: hunter2}"))


def test_a_value_of_the_wrong_type_is_named() -> None:
    assert "'migration.workers' must be a whole number, got the text 'many'" in str(refusal("migration.workers=many"))


def test_later_overrides_win_and_the_given_sections_stay_as_they_were() -> None:
    sections: dict[str, Any] = {**LEAST, "migration": {"workers": 2}}
    parameters = parameters_from(sections, ["migration.workers=3", "migration.workers=5", "source.path=older"])
    assert (parameters.migration.workers, parameters.source.path) == (5, "older")
    assert sections == {**LEAST, "migration": {"workers": 2}}
    assert LEAST["source"] == {"path": "old"}


def test_from_path_to_url() -> None:
    assert "'source' has both url and path" in str(refusal("source.url=http://old:8000"))
    assert overridden("source.url=http://old:8000", "source.path=null").source.address == "http://old:8000"


def test_override_below_what_is_no_mapping() -> None:
    with pytest.raises(UsageError, match="'migration' is not a mapping"):
        parameters_from({**LEAST, "migration": [1]}, ["migration.workers=2"])


def test_the_line_of_a_file_says_that_overrides_took_part(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("source: {path: old}\ntarget: {path: new}\n")
    assert load_parameters(path, ["name=night"]).name == "night"
    with pytest.raises(UsageError, match=r"p\.yaml with --set"):
        load_parameters(path, ["migration.workers=0"])


def test_a_resume_may_change_batch_size_workers_and_timeouts() -> None:
    before = overridden("migration.id_policy=prefix")
    after = before.for_resume(["migration.batch_size=50", "migration.workers=1", "source.timeout_seconds=60"])
    assert (after.migration.batch_size, after.migration.workers, after.source.timeout_seconds) == (50, 1, 60.0)
    assert after.context() == before.context()
    assert before.for_resume([]) == before


@pytest.mark.parametrize("override", ["source.path=x", "schema=identity", "migration.id_policy=prefix", "migration={}"])
def test_a_resume_may_change_nothing_else(override: str) -> None:
    with pytest.raises(UsageError, match="a resume cannot change") as caught:
        overridden().for_resume([override])
    assert "It may change migration.batch_size, migration.workers" in str(caught.value)


def test_a_resume_names_an_unknown_key_as_such() -> None:
    with pytest.raises(UsageError, match=r"did you mean 'migration\.batch_size'"):
        overridden().for_resume(["migration.batchsize=5"])

"""Unknown keys are refused wherever they stand, with the nearest valid one suggested."""

from __future__ import annotations

from typing import Any

import pytest

from helpers.errors import UsageError
from helpers.parameters import SECTIONS, Parameters, parameters_from
from helpers.parameters.model import keys_of

LEAST: dict[str, Any] = {"source": {"path": "old"}, "target": {"path": "new"}}


def refusal(**sections: Any) -> str:
    with pytest.raises(UsageError) as caught:
        parameters_from(LEAST | sections)
    assert (caught.value.code, caught.value.exit_code) == ("parameters_invalid", 2)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("sections", "key", "suggestion"),
    [
        ({"migratoin": {}, "x": 1}, "migratoin", "migration"),
        ({"migration": {"batchsize": 5}}, "migration.batchsize", "migration.batch_size"),
        ({"migration": {"batch-size": 5}}, "migration.batch-size", "migration.batch_size"),
        ({"source": {"path": "old", "tennant": "t"}}, "source.tennant", "source.tenant"),
        ({"schema_name": "identity"}, "schema_name", "schema"),
        ({"batch_size": 5}, "batch_size", "migration.batch_size"),
        ({"probs": 5}, "probs", "validation.probes"),
        ({"validation": {"queries": [{"text": "a", "colection": "b"}]}}, "validation.queries[0].colection",
         "validation.queries[0].collection"),
        ({"fence": {"command": {"lock": ["a"], "unlock": ["b"], "unlok": []}}}, "fence.command.unlok",
         "fence.command.unlock"),
        ({"cutover": {"env_files": [{"path": "a", "keys": {"A": "b"}, "pth": "c"}]}}, "cutover.env_files[0].pth",
         "cutover.env_files[0].path"),
    ],
)  # fmt: skip
def test_unknown_key_gets_a_suggestion(sections: dict[str, Any], key: str, suggestion: str) -> None:
    assert f"unknown key '{key}'; did you mean '{suggestion}'?" in refusal(**sections)


def test_unknown_key_like_nothing_lists_what_is_known() -> None:
    line = refusal(rollback={"zzz": 1})
    assert "unknown key 'rollback.zzz'; known there: automatic, replay, monitor_minutes" in line


def test_control_characters_in_a_key_stay_escaped() -> None:
    line = refusal(**{"x\n\x1b[31m": 1})
    assert "\x1b" not in line
    assert r"x\n\x1b[31m" in line


def test_several_errors_share_the_line_and_the_rest_is_counted() -> None:
    line = refusal(migration={"batch_size": 0, "workers": 0, "max_minutes": 0, "minimum_valid": 2, "id_policy": "x"})
    assert line.count("; ") == 4
    assert line.startswith("'migration.batch_size' must be more than 0, got the number 0; 'migration.workers'")
    assert "; and 1 more. Correct" in line


def test_sections_are_those_of_the_design() -> None:
    assert " ".join(SECTIONS) == (
        "name source target collections expected schema migration snapshot fence validation signoff cutover rollback "
        "window notify contacts monitoring"
    )


def test_every_key_has_a_description() -> None:
    schema = Parameters.model_json_schema()
    models = {"Parameters": schema, **schema["$defs"]}
    bare = [
        f"{model}.{key}"
        for model, definition in models.items()
        for key, facts in definition["properties"].items()
        if "description" not in facts and "$ref" not in facts
    ]
    assert bare == []
    assert all("description" in definition for definition in models.values())


def test_keys_of_the_design_exist() -> None:
    keys = set(keys_of(Parameters))
    wanted = """source.url source.path source.api source.tenant source.database source.headers source.verify_tls
        source.timeout_seconds collections.include collections.exclude expected.collections expected.unlisted
        expected.total expected.tolerance expected.dimensions expected.minimum_imported migration.batch_size
        migration.workers migration.id_policy migration.minimum_valid migration.max_minutes migration.catch_up
        migration.reembed snapshot.directory snapshot.retention_days fence.kind validation.probes validation.queries
        validation.maximum_distance signoff.required signoff.dry_run signoff.allowed_signers cutover.env_files
        cutover.compose_files cutover.restart cutover.health cutover.log_files cutover.monitor_minutes
        rollback.automatic rollback.monitor_minutes window.start window.minutes window.buffer_minutes notify.urls
        notify.stakeholders notify.before notify.after contacts.on_call contacts.dba contacts.operations_lead
        contacts.channel contacts.war_room monitoring.minutes monitoring.interval_seconds
        monitoring.maximum_latency_ms monitoring.minimum_queries_per_second monitoring.maximum_slowdown
        monitoring.level_seconds monitoring.repetitions monitoring.shrink_limit"""
    assert set(wanted.split()) <= keys

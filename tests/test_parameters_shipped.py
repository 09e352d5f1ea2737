"""The files in parameters/: they load, say what the runbook says, and the JSON Schema is the model's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from helpers.parameters import Parameters, json_schema, load_parameters, parameters_from
from helpers.parameters.model import read_yaml_mapping

REGENERATE = "parameters/parameters.schema.json is not the model's; write it again: make docs"
SIX = {
    "openwebui_core": 3000, "openwebui_docs": 2100, "openwebui_functions": 1200,
    "openwebui_pipelines": 900, "openwebui_pain_points": 800, "openwebui_careers": 832,
}  # fmt: skip
QUERIES = [
    ("API authentication", "API"), ("error handling", "error"), ("performance optimization", "performance"),
    ("security best practices", "security"), ("database schema", "database"),
]  # fmt: skip
THREE = ["operations_lead", "dba", "security"]


@pytest.fixture
def production(root: Path) -> Parameters:
    return load_parameters(root / "parameters" / "production.yaml")


@pytest.fixture
def rehearsal(root: Path) -> Parameters:
    return load_parameters(root / "parameters" / "rehearsal.yaml")


def test_json_schema_is_the_models(root: Path) -> None:
    stored = (root / "parameters" / "parameters.schema.json").read_text(encoding="utf-8")
    assert stored == json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n", REGENERATE


@pytest.mark.parametrize("name", ["rehearsal", "production", "chroma-cloud"])
def test_json_schema_accepts_the_shipped_files(root: Path, name: str) -> None:
    path = root / "parameters" / f"{name}.yaml"
    validator = jsonschema.Draft202012Validator(json_schema())
    validator.validate(read_yaml_mapping(path))
    validator.validate(load_parameters(path).document())
    assert path.read_text(encoding="utf-8").startswith("# yaml-language-server: $schema=parameters.schema.json\n")


@pytest.mark.parametrize(
    "sections",
    [{"source": {"path": "a", "url": "http://b"}}, {"migration": {"batchsize": 1}}, {"migration": {"workers": 0}},
     {"source": {"url": "http://b", "headers": {"X": "hunter2"}}}, {"fence": {"kind": "moat"}}],
)  # fmt: skip
def test_json_schema_refuses_what_the_model_refuses(sections: dict[str, Any]) -> None:
    validator = jsonschema.Draft202012Validator(json_schema())
    document = {"source": {"path": "old"}, "target": {"path": "new"}}
    validator.validate(document)
    with pytest.raises(jsonschema.ValidationError):
        validator.validate(document | sections)


def test_production_counts(production: Parameters) -> None:
    expected = production.expected
    assert expected.collections == SIX
    assert (sum(SIX.values()), expected.unlisted, expected.total, expected.tolerance) == (8832, 1000, 9832, 5)
    assert (expected.dimensions, expected.minimum_imported) == ([768, 1024, 1536], 9000)


def test_production_is_the_runbooks(production: Parameters) -> None:
    assert (production.source.address, production.target.address) == (
        "http://85.239.243.227:8000", "http://localhost:8000")  # fmt: skip
    migration = production.migration
    assert (production.schema_name, migration.batch_size, migration.id_policy) == ("if_ttt", 100, "fail")
    assert (migration.minimum_valid, migration.max_minutes, migration.catch_up) == (0.95, 120.0, "apply")
    assert (production.signoff.required, production.signoff.dry_run) == (THREE, THREE)
    window, monitoring = production.window, production.monitoring
    assert (window.minutes, window.buffer_minutes) == (120.0, 30.0)
    assert (monitoring.minutes, monitoring.maximum_latency_ms, monitoring.minimum_queries_per_second) == (60, 500, 10)
    assert (production.cutover.monitor_minutes, production.rollback.monitor_minutes) == (5.0, 30.0)
    assert len(production.notify.stakeholders) == 6


def test_production_configuration_files(production: Parameters) -> None:
    cutover = production.cutover
    assert [file.path for file in cutover.env_files] == [
        "/home/setup/infrafabric/.env", "/home/setup/navidocs/.env", "/root/openwebui-knowledge/.env"]  # fmt: skip
    assert all(file.keys == {"CHROMADB_URL": "{target_url}"} for file in cutover.env_files)
    assert [(file.path, file.keys) for file in cutover.compose_files] == [
        ("/root/docker-compose.yml", {"CHROMA_SERVER_HOST": "{target_host}"})]  # fmt: skip
    values = production.target.template_values()
    assert "{target_url}".format_map(values) == "http://localhost:8000"
    assert "{target_host}".format_map(values) == "localhost"
    assert cutover.restart == [["docker-compose", "-f", "/root/docker-compose.yml", "restart", "openwebui"]]
    assert cutover.health == ["http://localhost:3000/health"]
    assert cutover.log_files == ["/var/log/openwebui/openwebui.log"]


def test_production_contacts_must_be_named(production: Parameters) -> None:
    assert production.placeholders() == [
        "contacts.dba", "contacts.on_call", "contacts.operations_lead", "contacts.war_room"]  # fmt: skip
    named = parameters_from(production.document(), ["contacts={dba: Ada, on_call: Bo, operations_lead: Cy}"])
    assert named.placeholders() == []


def test_rehearsal(rehearsal: Parameters) -> None:
    assert (rehearsal.source.path, rehearsal.target.path) == (
        "workspace/rehearsal/source", "workspace/rehearsal/target")  # fmt: skip
    assert rehearsal.expected.collections == SIX | {"sergio_personality_notes": 1000}
    assert (rehearsal.expected.total, rehearsal.expected.unlisted) == (9832, 0)
    assert (rehearsal.schema_name, rehearsal.migration.id_policy, rehearsal.fence.kind) == ("if_ttt", "prefix", "none")
    assert (rehearsal.signoff.required, rehearsal.signoff.dry_run) == (THREE, [])
    watches = (rehearsal.cutover.monitor_minutes, rehearsal.rollback.monitor_minutes, rehearsal.monitoring.minutes)
    assert 60 * sum(watches) < 15  # seconds


@pytest.mark.parametrize("name", ["production", "rehearsal"])
def test_both_ask_the_runbooks_queries(root: Path, name: str) -> None:
    queries = load_parameters(root / "parameters" / f"{name}.yaml").validation.queries
    assert [(query.text, query.expect) for query in queries] == QUERIES
    assert {query.collection for query in queries} == {"sergio_corpus"}


def test_the_example_of_signers_admits_nobody(root: Path) -> None:
    lines = (root / "parameters" / "allowed_signers.example").read_text(encoding="utf-8").splitlines()
    assert all(line.startswith("#") for line in lines)
    assert all(any(f'namespaces="runbook-{role}"' in line for line in lines) for role in THREE)

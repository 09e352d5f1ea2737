"""What cannot all be true is found before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from helpers.errors import UsageError
from helpers.parameters import Parameters, parameters_from, schema_names

LEAST: dict[str, Any] = {"source": {"path": "old"}, "target": {"path": "new"}}


def accepted(**sections: Any) -> Parameters:
    return parameters_from(LEAST | sections)


def refusal(**sections: Any) -> str:
    with pytest.raises(UsageError) as caught:
        accepted(**sections)
    return str(caught.value)


def test_counts_must_sum() -> None:
    listed = {"a": 8000, "b": 832}
    line = refusal(expected={"collections": listed, "total": 9832})
    assert "'expected' has counts that do not sum to its total: 8832 listed + 0 unlisted = 8832, not 9832" in line
    assert "expected.unlisted: 1000 would make it so" in line
    assert "not 8000" in refusal(expected={"collections": listed, "total": 8000, "tolerance": 5000})
    accepted(expected={"collections": listed, "unlisted": 1000, "total": 9832})
    accepted(expected={"collections": listed})


def test_a_total_alone_contradicts_nothing() -> None:
    assert accepted(expected={"total": 9832}).expected.total == 9832


def test_floor_above_the_total() -> None:
    assert "minimum_imported 11, more than its total 10" in refusal(expected={"total": 10, "minimum_imported": 11})


def test_expected_collection_that_is_left_out() -> None:
    line = refusal(expected={"collections": {"core": 1}}, collections={"exclude": ["co*"]})
    assert "'expected.collections' counts 'core', which 'collections' leaves out" in line


def test_unknown_schema() -> None:
    assert "'schema' names no schema: 'identiy'; did you mean 'identity'?" in refusal(schema="identiy")
    assert "known: identity" in refusal(schema="zzzzzzz")
    assert "names no schema" in refusal(schema="missing/schema.yaml")
    assert "names no schema" in refusal(schema="x" * 5000)
    assert "names no schema" in refusal(schema="a\0b")
    assert "'schema' must be text" in refusal(schema=5)


def test_schema_by_name_and_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("name: mine\n")
    assert accepted(schema="mine.yaml").schema_name == "mine.yaml"
    assert accepted(schema={}).schema_name == "identity"
    assert {"identity", "if_ttt"} <= set(schema_names())
    for name in schema_names():
        accepted(schema=name)


def test_a_folder_is_no_schema(tmp_path: Path) -> None:
    assert "names no schema" in refusal(schema=str(tmp_path))


def test_overquery_below_k() -> None:
    assert "overquery 5 below k 10" in refusal(validation={"overquery": 5})


def test_snapshots_inside_a_database() -> None:
    for place in ("old", "old/snapshots", "new/x"):
        assert "'snapshot.directory' lies inside" in refusal(snapshot={"directory": place})
    accepted(snapshot={"directory": "older"})


def test_fence_needs_what_its_kind_needs() -> None:
    assert "is of kind nginx but has no 'nginx' with listen, upstream and config" in refusal(fence={"kind": "nginx"})
    assert "is of kind command but has no 'command'" in refusal(fence={"kind": "command"})
    command = {"lock": ["fence", "up"], "unlock": ["fence", "down"]}
    parameters = accepted(fence={"kind": "command", "command": command})
    assert parameters.fence.command is not None
    assert parameters.fence.command.lock == ["fence", "up"]


@pytest.mark.parametrize("address", ["8001", "host", "host:0", "host:99999", "host:80;", "host:80\n", "h o:80"])
def test_fence_addresses_are_host_and_port(address: str) -> None:
    nginx = {"listen": address, "upstream": "127.0.0.1:8000", "config": "fence.conf"}
    assert "'fence.nginx.listen' must be HOST:PORT" in refusal(fence={"kind": "nginx", "nginx": nginx})


def test_fence_in_front_of_itself() -> None:
    nginx = {"listen": "[::1]:8000", "upstream": "[::1]:8000", "config": "fence.conf"}
    assert "listens on its own upstream" in refusal(fence={"kind": "nginx", "nginx": nginx})


def test_configuration_value_that_the_target_does_not_have() -> None:
    files = [{"path": ".env", "keys": {"CHROMADB_URL": "{target_url}"}}]
    line = refusal(cutover={"env_files": files})
    assert "'cutover' writes {target_url} into a file, but 'target' is a directory" in line
    accepted(cutover={"env_files": files}, target={"url": "http://new:8000"})
    literal = [{"path": ".env", "keys": {"A": "{{kept}}", "B": "{target_path}"}}]
    accepted(cutover={"env_files": literal})


def test_one_file_named_twice() -> None:
    one = {"path": ".env", "keys": {"A": "b"}}
    line = refusal(cutover={"env_files": [one], "compose_files": [{"path": "./.env", "keys": {"C": "d"}}]})
    assert "names the file './.env' twice" in line


@pytest.mark.parametrize("url", ["http://user:hunter2@app/health", "app/health", "file://app/health"])
def test_health_urls(url: str) -> None:
    line = refusal(cutover={"health": [url]})
    assert "'cutover.health[0]'" in line
    assert "hunter2" not in line
    accepted(cutover={"health": ["http://localhost:3000/health?deep=1"]})


def test_contradictions_are_named_together() -> None:
    line = refusal(target={"path": "old"}, expected={"collections": {"x": 1}}, collections={"include": ["y"]})
    assert "are the same folder" in line
    assert "counts 'x'" in line

"""Where a database is: exactly one place, nothing secret in it, and source and target apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from helpers.errors import UsageError
from helpers.parameters import parameters_from, resolve_path


def refusal(source: Any, target: Any) -> str:
    with pytest.raises(UsageError) as caught:
        parameters_from({"source": source, "target": target})
    return str(caught.value)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://user:hunter2@host:8000", "must not hold a user name or password"),
        ("user:hunter2@host:8000", "must not hold a user name or password"),
        ("http://host:8000/api/v2", "must end before /api"),
        ("http://host:8000/chroma/api/v1/", "must end before /api"),
        ("http://host:8000/../chroma", "has a path that cannot be a proxy's prefix"),
        ("http://host:8000//chroma", "has a path that cannot be a proxy's prefix"),
        ("http://host:8000/?token=hunter2", "must not have a query"),
        ("http://host:8000/#hunter2", "must not have a query"),
        ("http://host:8000?", "must not have a query"),
        ("ftp://host", "must begin with http:// or https://, got ftp://"),
        ("host:8000", "has no scheme; write 'http://host:8000'"),
        ("localhost", "has no scheme"),
        ("", "has no scheme"),
        ("http://", "has no host"),
        ("http://:8000", "has no host"),
        ("http://host:0", "has no host, or a host or port"),
        ("http://host:99999", "is not a URL"),
        ("http://host:port", "is not a URL"),
        ("http://[::1", "is not a URL"),
        ("http://ho st", "has characters that a URL cannot have"),
        ("http://host\n:8000", "has characters that a URL cannot have"),
        ("http://host\\x", "has characters that a URL cannot have"),
        (8000, "must be text, got a value of type int"),
    ],
)
def test_url_refused(url: object, message: str) -> None:
    line = refusal({"url": url}, {"path": "new"})
    assert f"'source.url' {message}" in line
    assert "hunter2" not in line


def test_url_instead_of_a_mapping_shows_nothing_of_it() -> None:
    line = refusal("http://user:hunter2@host", {"path": "new"})
    assert "'source' must be a mapping (key: value), got text (not shown)" in line


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"url": "http://a", "path": "b"}, "has both url and path; give exactly one"),
        ({"tenant": "t"}, "has neither url nor path"),
        ({"path": ""}, "must be a path"),
        ({"path": "a\0b"}, "must be a path"),
        ({"path": "a", "api": "v1"}, "is a directory (path), which has no headers and no api"),
        ({"path": "a", "headers": {"X": "env:X"}}, "is a directory (path)"),
        ({"url": "http://a", "headers": {"X Y": "env:X"}}, "header name that HTTP does not allow: 'X Y'"),
        ({"url": "http://a", "headers": {"X": "env:X", "x": "env:Y"}}, "has one header twice"),
        ({"url": "http://a", "tenant": ""}, "must not be empty"),
    ],
)
def test_endpoint_refused(source: dict[str, Any], message: str) -> None:
    assert message in refusal(source, {"path": "new"})


@pytest.mark.parametrize(("source", "target"), [({"path": "a"}, {}), ({}, {"path": "a"}), ({"path": "a"}, None)])
def test_one_of_source_and_target_is_not_enough(source: Any, target: Any) -> None:
    assert "is missing" in refusal(source, target)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("http://localhost:8000", "http://localhost:8000/"),
        ("http://LOCALHOST:8000", "http://localhost:8000"),
        ("http://localhost:8000", "http://127.0.0.1:8000"),
        ("http://localhost:8000", "http://[::1]:8000"),
        ("http://localhost:8000", "http://0.0.0.0:8000"),
        ("http://127.1:8000", "http://127.0.0.1:8000"),
        ("http://[::ffff:127.0.0.1]:8000", "http://localhost:8000"),
        ("http://localhost.:8000", "http://localhost:8000"),
        ("http://chroma.example", "http://CHROMA.example:80"),
        ("https://chroma.example", "https://chroma.example:443"),
        ("http://chroma.example:8000", "https://chroma.example:8000"),
        ("http://[fe80:0::1]:8000", "http://[fe80::1]:8000"),
    ],
)
def test_same_server_refused(first: str, second: str) -> None:
    assert "'source' and 'target' are the same server, tenant and database" in refusal({"url": first}, {"url": second})


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"url": "http://localhost:8000"}, {"url": "http://localhost:8001"}),
        ({"url": "http://85.239.243.227:8000"}, {"url": "http://localhost:8000"}),
        ({"url": "http://localhost:8000"}, {"url": "http://localhost:8000", "tenant": "other"}),
        ({"url": "http://localhost:8000"}, {"url": "http://localhost:8000", "database": "other"}),
        ({"url": "http://localhost:8000"}, {"path": "new"}),
        ({"path": "old"}, {"path": "older"}),
    ],
)
def test_places_apart_are_accepted(first: dict[str, Any], second: dict[str, Any]) -> None:
    parameters_from({"source": first, "target": second})


@pytest.mark.parametrize("target", ["old", "old/", "./old", "x/../old", "link", "{tmp}/old", "link/../old"])
def test_same_folder_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old").mkdir()
    (tmp_path / "link").symlink_to("old")
    line = refusal({"path": "old"}, {"path": target.format(tmp=tmp_path), "tenant": "other"})
    assert "'source' and 'target' are the same folder" in line


def test_folders_inside_one_another_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old").mkdir()
    (tmp_path / "link").symlink_to("old")
    for source, target in (("old", "old/new"), ("old/sub", "old"), ("old", "link/new"), ("old", ".")):
        assert "lie inside one another" in refusal({"path": source}, {"path": target})


def test_a_loop_of_links_does_not_break_the_comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    parameters_from({"source": {"path": "loop"}, "target": {"path": "new"}})
    parameters_from({"source": {"path": "a" * 300}, "target": {"path": "new"}})


def test_label_and_parts() -> None:
    parameters = parameters_from(
        {"source": {"url": "HTTPS://Host", "tenant": "t", "database": "d"}, "target": {"path": "./new\x1b"}}
    )
    source, target = parameters.source, parameters.target
    assert (source.label, source.address, source.host, source.port) == ("https://host:443 (t/d)", "https://host:443",
                                                                       "host", 443)  # fmt: skip
    assert (source.tls, source.is_embedded, target.is_embedded) == (True, False, True)
    assert target.label == "./new\\x1b"
    assert source.template_values() == {
        "target_url": "https://host:443", "target_host": "host", "target_port": "443", "target_prefix": ""}  # fmt: skip


def test_ipv6_address_keeps_its_brackets() -> None:
    source = parameters_from({"source": {"url": "http://[::1]:8000/"}, "target": {"path": "new"}}).source
    assert (source.address, source.host) == ("http://[::1]:8000", "::1")


def test_paths_stay_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    parameters = parameters_from({"source": {"path": "./old/"}, "target": {"path": "./~/new"}})
    assert (parameters.source.path, parameters.target.path) == ("./old/", "./~/new")
    assert resolve_path("./~/new") == tmp_path / "~" / "new"

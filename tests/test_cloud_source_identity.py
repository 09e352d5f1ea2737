"""Chroma Cloud as a source: the key says whose it is; tenant and database follow from it, or contradict it in one line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.errors import RunbookError, UsageError
from helpers.parameters import parameters_from
from helpers.parameters.endpoint import CLOUD_URL, Endpoint
from helpers.stores import open_source, quick_names
from tests.cloud_standin import TENANT, CloudStandIn
from tests.servers import ChromaServer

KEY = {"x-chroma-token": "env:CHROMA_API_KEY"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChromaServer]:
    with ChromaServer(tmp_path_factory.mktemp("cloud") / "db") as running:
        yield running


@pytest.fixture(scope="module")
def cloud(server: ChromaServer) -> Iterator[CloudStandIn]:
    with CloudStandIn(server.url, databases=("production", "staging")) as running:
        with running.client("production") as client:
            client.create_collection("notes", embedding_function=None).add(ids=["a"], embeddings=[[1.0, 0.0]])
        yield running


def endpoint(url: str, **more: Any) -> Endpoint:
    return Endpoint.model_validate({"cloud": True, "url": url, **more})


# -- parameters ------------------------------------------------------------------------------------------------------


def test_cloud_stands_for_its_address_and_for_the_header_with_the_key() -> None:
    source = parameters_from({"source": {"cloud": True, "database": "docs"}, "target": {"path": "new"}}).source
    assert (source.url, source.port, source.tls, source.is_cloud) == (CLOUD_URL, 443, True, True)
    assert {name: str(value) for name, value in source.headers.items()} == KEY
    assert source.label == f"{CLOUD_URL} (default_tenant/docs)"


def test_the_plain_address_means_the_same_and_a_key_of_ones_own_is_kept() -> None:
    plain = Endpoint.model_validate({"url": "https://api.trychroma.com", "headers": {"X-Chroma-Token": "env:MINE"}})
    assert plain.is_cloud
    assert {n: str(v) for n, v in plain.headers.items()} == {"X-Chroma-Token": "env:MINE"}
    assert {n: str(v) for n, v in Endpoint(url="https://api.trychroma.com").headers.items()} == KEY
    for other in ("https://api.trychroma.com.evil.example", "http://mytrychroma.com", "http://127.0.0.1:8000"):
        found = Endpoint(url=other)
        assert not found.is_cloud
        assert not found.headers


def test_resolved_parameters_say_the_same_when_they_are_read_again() -> None:
    first = parameters_from({"source": {"cloud": True, "database": "docs"}, "target": {"path": "new"}})
    again = parameters_from(first.document())
    assert again == first
    assert again.context() == first.context()
    assert again.digest() == first.digest()


def test_cloud_and_a_directory_are_two_places() -> None:
    with pytest.raises(UsageError, match="has both path and cloud; give exactly one"):
        parameters_from({"source": {"cloud": True, "path": "old"}, "target": {"path": "new"}})


# -- the key's identity ------------------------------------------------------------------------------------------------


def test_the_tenant_is_the_keys_and_is_shown(cloud: CloudStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHROMA_API_KEY", cloud.key)
    with open_source(endpoint(cloud.url, database="production"), Path("unused")) as store:
        assert store.label == f"{cloud.url} ({TENANT}/production)"
        assert store.names() == ["notes"]
        assert store.read("notes", ["a"]).ids == ["a"]


def test_a_url_without_the_word_cloud_finds_it_too(cloud: CloudStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHROMA_API_KEY", cloud.key)
    plain = Endpoint.model_validate({"url": cloud.url, "database": "production", "headers": KEY})
    assert quick_names(plain, "source") == ["notes"]


@pytest.mark.parametrize(
    ("given", "code", "line"),
    [
        ({}, "unknown_database", "several databases: production, staging. Name one of them in source.database."),
        ({"database": "prodution"}, "unknown_database", "does not open database prodution; it opens production, staging."),
        ({"tenant": "acme", "database": "production"}, "unknown_tenant", f"the key belongs to tenant {TENANT}, not to acme"),
    ],
)  # fmt: skip
def test_a_contradiction_is_one_line_that_says_what_there_is(
    cloud: CloudStandIn, monkeypatch: pytest.MonkeyPatch, given: dict[str, str], code: str, line: str
) -> None:
    monkeypatch.setenv("CHROMA_API_KEY", cloud.key)
    with pytest.raises(RunbookError) as caught:
        quick_names(endpoint(cloud.url, **given), "source")
    assert caught.value.code == code
    assert line in caught.value.line()
    assert "\n" not in caught.value.line()


def test_a_key_of_every_database_opens_the_one_that_is_named(
    cloud: CloudStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHROMA_API_KEY", cloud.wide_key)
    assert quick_names(endpoint(cloud.url, database="production"), "source") == ["notes"]
    with pytest.raises(RunbookError) as caught:
        quick_names(endpoint(cloud.url, database="nowhere"), "source")
    assert caught.value.code == "unknown_database"


def test_a_wrong_key_is_refused_in_one_line_that_does_not_show_it(
    cloud: CloudStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHROMA_API_KEY", "ck-of-somebody-else")
    with pytest.raises(RunbookError) as caught:
        quick_names(endpoint(cloud.url, database="production"), "source")
    assert caught.value.code == "forbidden"
    assert "x-chroma-token" in caught.value.line()
    assert "somebody" not in caught.value.line()


def test_a_server_that_knows_nobody_changes_nothing(server: ChromaServer) -> None:
    assert quick_names(Endpoint(url=server.url), "source") == []
    with pytest.raises(RunbookError) as caught:  # its identity lists the default database alone, which is no promise
        quick_names(Endpoint(url=server.url, database="production"), "source")
    assert caught.value.code == "unknown_database"
    assert "(404)" in caught.value.line()
    place = Endpoint(url=server.url, tenant=TENANT, database="production")
    assert quick_names(place, "source") == ["notes"]

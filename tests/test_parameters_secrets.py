"""Secrets: by reference in the parameters, redacted in memory, revealed only on request."""

from __future__ import annotations

import base64
import copy
import json
import pickle
import secrets
import traceback
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from helpers.errors import UsageError, redacted
from helpers.evidence import secret_scan
from helpers.parameters import Parameters, Secret, SecretRef, parameters_from

VALUE = "Bearer hunter2"


def with_header(reference: object) -> dict[str, Any]:
    return {"source": {"url": "http://old:8000", "headers": {"Authorization": reference}}, "target": {"path": "new"}}


@pytest.mark.parametrize(
    "reference",
    [VALUE, "hunter2", "ENV:NAME", "env:", "env:1X", "env:A B", "file:", "file:a\nb", " env:X", 12345, None, ["env:X"],
     True],
)  # fmt: skip
def test_anything_but_a_reference_is_refused_and_not_repeated(reference: object) -> None:
    with pytest.raises(UsageError) as caught:
        parameters_from(with_header(reference))
    shown = "".join(traceback.format_exception(caught.value))
    assert "'source.headers.Authorization' must be a reference, 'env:NAME' or 'file:PATH'" in str(caught.value)
    for text in ("hunter2", "12345"):
        assert text not in shown


def test_headers_given_as_text_are_not_repeated() -> None:
    with pytest.raises(UsageError) as caught:
        parameters_from({"source": {"url": "http://old", "headers": VALUE}, "target": {"path": "new"}})
    assert "must be a mapping" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_notification_urls_are_references() -> None:
    with pytest.raises(UsageError) as caught:
        parameters_from({"source": {"path": "a"}, "target": {"path": "b"}, "notify": {"urls": ["slack://hunter2"]}})
    assert "'notify.urls[0]' must be a reference" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHROMA_TOKEN", VALUE)
    parameters = parameters_from(with_header("env:CHROMA_TOKEN"))
    assert parameters.source.headers["Authorization"].resolve().reveal() == VALUE
    assert "hunter2" not in repr(parameters) + json.dumps(parameters.document()) + str(parameters.context())
    assert parameters.document()["source"]["headers"] == {"Authorization": "env:CHROMA_TOKEN"}


def test_loading_does_not_read_the_secret_and_resolving_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CHROMA_TOKEN", raising=False)
    reference = parameters_from(with_header("env:CHROMA_TOKEN")).source.headers["Authorization"]
    with pytest.raises(UsageError, match=r"environment variable 'CHROMA_TOKEN'.* is not set\. Export it") as caught:
        reference.resolve()
    assert caught.value.code == "secret_missing"
    monkeypatch.setenv("CHROMA_TOKEN", " ")
    with pytest.raises(UsageError, match="is empty"):
        reference.resolve()
    monkeypatch.setenv("CHROMA_TOKEN", "hunter2\r\nX-Evil: 1")
    with pytest.raises(UsageError, match="more than one line") as caught:
        reference.resolve()
    assert "hunter2" not in str(caught.value)


def test_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "token").write_bytes(VALUE.encode() + b"\r\n")
    assert SecretRef.parse("file:token").resolve().reveal() == VALUE


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot be read"), (b"", "is empty"), (b"hunter2\nhunter3\n", "more than one line"),
     (b"hunter2\xff", "is not UTF-8 text")],
)  # fmt: skip
def test_file_that_is_no_secret(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=message) as caught:
        SecretRef.parse(f"file:{path}").resolve()
    assert "hunter" not in "".join(traceback.format_exception(caught.value))


def test_a_secret_shows_itself_to_nobody() -> None:
    secret = Secret(VALUE, "env:CHROMA_TOKEN")
    redacted = "<secret env:CHROMA_TOKEN>"
    ways = [str(secret), repr(secret), f"{secret}", f"{secret!r:>3}", "%s" % secret, "".join([secret]),  # noqa: UP031
            json.loads(json.dumps(secret)), json.loads(json.dumps({"a": [secret]}))["a"][0], secret.encode().decode(),
            repr([secret])[1:-1], f"{secret:s}"]  # fmt: skip
    assert set(ways) == {redacted}
    assert secret.reveal() == VALUE
    assert not hasattr(secret, "__dict__")
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="not pickled"):
            attempt(secret)


def test_references_are_listed_once() -> None:
    sections = with_header("env:B") | {"notify": {"urls": ["env:B", "file:a"]}}
    assert [str(reference) for reference in parameters_from(sections).secrets()] == ["env:B", "file:a"]


def test_what_an_embedding_function_reads_from_the_environment_is_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer of the service may repeat the key; a text that the parameters name themselves is none."""
    monkeypatch.setenv("SERVICE_KEY", "hf_SuperSecretKey0123456789")
    monkeypatch.setenv("SERVICE_URL", "http://service:8000")
    function = {"name": "huggingface", "config": {"api_key_env_var": "SERVICE_KEY", "url": "http://service:8000"},
                "variables": ["SERVICE_URL", "NOT_SET"]}  # fmt: skip
    given = {"source": {"path": "old", "embedding_functions": [function]}, "target": {"path": "new"}}
    parameters = parameters_from(given)
    assert [str(secret) for secret in parameters.secrets()] == ["env:SERVICE_KEY"]
    assert parameters.environment() == ["NOT_SET", "SERVICE_KEY", "SERVICE_URL"]
    parameters.hide_secrets()
    assert "SuperSecret" not in redacted("could not convert string to float: 'hf_SuperSecretKey0123456789'")


def of_google() -> tuple[dict[str, Any], list[str]]:
    """A key file as Google gives them, and what of it nobody may see."""
    body = [base64.b64encode(secrets.token_bytes(48)).decode() for _ in range(3)]
    kind = "PRIVATE KEY"  # apart: a search for keys in this repository finds none
    pem = "\n".join([f"-----BEGIN {kind}-----", *body, f"-----END {kind}-----", ""])
    inner = f"r-{secrets.token_hex(20)}"
    held = {"type": "service_account", "client_email": "backup@project.example", "private_key": pem,
            "source_credentials": {"refresh_token": inner}}  # fmt: skip
    return held, ["".join(body), pem, inner]


@pytest.mark.parametrize("named", ["snapshot.storage.token", "GOOGLE_APPLICATION_CREDENTIALS", "of gcloud"])
def test_keys_in_a_file_of_google_are_neither_shown_nor_sealed(
    named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, hidden = of_google()
    file = tmp_path / "application_default_credentials.json"
    file.write_text(json.dumps(held), encoding="utf-8")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path if named == "of gcloud" else tmp_path / "none"))
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    rules: dict[str, Any] = {"directory": "gs://bucket/pre"}
    if named == "snapshot.storage.token":
        rules["storage"] = {"token": f"file:{file}"}
    elif named != "of gcloud":
        monkeypatch.setenv(named, str(file))
    assert_hidden(
        parameters_from({"source": {"path": "a"}, "target": {"path": "b"}, "snapshot": rules}), hidden, tmp_path
    )


@pytest.mark.parametrize("beside", [True, False], ids=["beside the account", "alone"])
def test_keys_that_the_driver_of_azure_finds_are_neither_shown_nor_sealed(
    beside: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The account may be named: the driver takes its key from the environment."""
    key, sas, password = (base64.b64encode(secrets.token_bytes(48)).decode() for _ in range(3))
    (tmp_path / "federated").write_text(token := f"ey-{secrets.token_hex(30)}\n", encoding="utf-8")
    for name, value in {
        "AZURE_STORAGE_CONNECTION_STRING": f"DefaultEndpointsProtocol=https;AccountName=kept;AccountKey={key};EndpointSuffix=x",
        "AZURE_STORAGE_SAS_TOKEN": f"sv=2024-01-01&sp=rw&sig={quote(sas, safe='')}", "AZURE_CLIENT_SECRET": password,
        "AZURE_FEDERATED_TOKEN_FILE": str(tmp_path / "federated"), "ACCOUNT": "kept-account",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    rules: dict[str, Any] = {"directory": "az://container/pre"}
    rules |= {"storage": {"key": "env:ACCOUNT"}} if beside else {}
    parameters = parameters_from({"source": {"path": "a"}, "target": {"path": "b"}, "snapshot": rules})
    assert {"AZURE_STORAGE_CONNECTION_STRING", "AZURE_CLIENT_SECRET"} <= {*parameters.environment()}
    assert_hidden(parameters, [key, sas, password, token.strip()], tmp_path)


def assert_hidden(parameters: Parameters, hidden: list[str], place: Path) -> None:
    """Before the parameters hide it each of these texts is shown; afterwards none is, and a seal finds each in a file."""
    assert [redacted(f"said {text}") for text in hidden] == [f"said {text}" for text in hidden]
    parameters.hide_secrets()
    for number, text in enumerate(hidden):
        assert text not in redacted(f"said {text}"), number
        (place / f"run-{number}").mkdir()
        (place / f"run-{number}" / "log.txt").write_text(f"said {text} once", encoding="utf-8")
        found = secret_scan.search(place / f"run-{number}", parameters.secrets(), parameters.secrets_of_files())
        assert {hit[0] for hit in found.hits} == {"log.txt"}, number
    (place / "clean").mkdir()
    (place / "clean" / "log.txt").write_text("backup@project.example kept", encoding="utf-8")
    assert secret_scan.search(place / "clean", parameters.secrets(), parameters.secrets_of_files()).hits == []

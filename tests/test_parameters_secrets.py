"""Secrets: by reference in the parameters, redacted in memory, revealed only on request."""

from __future__ import annotations

import copy
import json
import pickle
import traceback
from pathlib import Path
from typing import Any

import pytest

from helpers.errors import UsageError, redacted
from helpers.parameters import Secret, SecretRef, parameters_from

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

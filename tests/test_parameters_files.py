"""A parameters file that is none: one line, no traceback, nothing secret repeated."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from helpers.errors import UsageError
from helpers.parameters import load_parameters

FOUR_LINES = "name: night\nsource: {path: old}\ntarget: {path: new}\nschema: identity\n"


def refusal(path: Path) -> str:
    with pytest.raises(UsageError) as caught:
        load_parameters(path)
    line = str(caught.value)
    assert "\n" not in line
    assert str(path) in line
    assert caught.value.exit_code == 2
    return line


def test_four_lines_are_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(FOUR_LINES)
    parameters = load_parameters(path)
    assert (parameters.name, parameters.migration.batch_size, parameters.migration.workers) == ("night", 500, 4)
    assert parameters.signoff.required == ["operations_lead", "dba", "security"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "an empty file instead of keys with values"),
        (b"# only a comment\n", "an empty file"),
        (b"{}\n", "an empty file"),
        (b"- a\n- b\n", "a list at the top"),
        (b"just text\n", "the text 'just text' at the top"),
        (b"a: [1\n", "not valid YAML"),
        (b"a: b: c\n", "on line 1"),
        (b"\ta: 1\n", "not valid YAML"),
        (b"a: 1\n---\nb: 2\n", "not valid YAML"),
        (b"a: !!python/object:os.system x\n", "not valid YAML"),
        (b"a: *unknown\n", "not valid YAML"),
        (b"a: " + b"[" * 400, "not valid YAML"),
        (b"\x00\x01\x02", "binary data instead of a parameters file"),
        (b"\x89PNG\r\n\x1a\n", "not UTF-8 text"),
        ("name: n\u00e4cht\n".encode("utf-16"), "not UTF-8 text"),
        (
            b"source: {path: old, 5: 1}\ntarget: {path: new}\n",
            "the number 5 as a key in 'source' must be text: quote it",
        ),
        (b"source: {path: old}\ntarget: {path: new}\n1: 2\n", "the number 1 as a key in 'the file' must be text"),
        (b"source: {path: old}\ntarget: {path: new}\nname: &a [*a]\n", "'name' must be text, got a list"),
        (b"name: night\n", "'source' is missing; 'target' is missing"),
        (b"source:\ntarget: {path: new}\n", "'source' is missing"),
    ],
)
def test_not_a_parameters_file(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "p.yaml"
    path.write_bytes(content)
    assert message in refusal(path)


def test_a_repeated_key_shows_no_value(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("source:\n  headers:\n    X: hunter2\n    X: hunter3\n")
    line = refusal(path)
    assert 'found duplicate key "X" on line 4' in line
    assert "hunter" not in line


def test_missing_file_suggests_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "production.yaml").write_text(FOUR_LINES)
    line = refusal(tmp_path / "prodution.yaml")
    assert "no such parameters file" in line
    assert f"Did you mean {tmp_path / 'production.yaml'}?" in line
    assert "Check the path." in refusal(tmp_path / "nowhere" / "p.yaml")


def test_a_folder_and_an_impossible_name(tmp_path: Path) -> None:
    assert "not a file" in refusal(tmp_path)
    assert "unreadable parameters file" in refusal(tmp_path / ("x" * 300))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_file(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(FOUR_LINES)
    path.chmod(0)
    assert "unreadable parameters file" in refusal(path)


def test_byte_order_mark_and_crlf_are_harmless(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + FOUR_LINES.replace("\n", "\r\n").encode())
    assert load_parameters(path).name == "night"


def test_an_unquoted_time_keeps_its_zone(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(FOUR_LINES + "window: {start: 2025-12-01T03:00:00+01:00}\n")
    assert load_parameters(path).document()["window"]["start"] == "2025-12-01T02:00:00Z"


def test_a_section_without_keys_has_its_defaults(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(FOUR_LINES + "migration:\nfence: {}\n")
    assert load_parameters(path).migration.batch_size == 500


def test_the_error_names_file_and_next_step(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(FOUR_LINES + "migration: {batchsize: 5}\n")
    line = refusal(path)
    assert "unknown key 'migration.batchsize'; did you mean 'migration.batch_size'?" in line
    assert f"runbook schema {path}" in line

"""The watch of log files sees each new line once: through rotation, truncation, and lines that are still being written."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.cutover.application import LogWatch, positions


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "app.log"
    path.write_bytes(b"an old ERROR\nhalf of an old ")
    return path


def watching(log: Path) -> LogWatch:
    return LogWatch(positions([str(log)]), "(?i)error")


def append(log: Path, text: bytes) -> None:
    with log.open("ab") as file:
        file.write(text)


def lines(watch: LogWatch, *, last: bool = False) -> list[str]:
    return [line for _, line in watch.new_matches(last=last)]


def test_only_lines_written_since_count_and_each_once(log: Path) -> None:
    watch = watching(log)
    assert lines(watch) == []
    append(log, b"line\nError 1\nall well\nerr")
    assert lines(watch) == ["Error 1"]
    append(log, b"or 2\r\nerror of http://me:pw@host\x1b[0m")
    assert lines(watch) == ["error 2"]
    assert lines(watch, last=True) == ["error of http://…@host\\x1b[0m"]
    assert lines(watch, last=True) == []
    watch.close()


def test_a_rotated_log_is_read_to_its_end_and_then_the_new_one(log: Path) -> None:
    watch = watching(log)
    watch.new_matches()
    append(log, b"\nerror before\nerror cut")
    log.rename(log.with_suffix(".1"))
    log.write_bytes(b"error after\n")
    assert lines(watch) == ["error before", "error cut", "error after"]
    watch.close()


@pytest.mark.parametrize("more", [b"error\n", b"x" * 100 + b"\nerror\n" + b"y" * 100 + b"\n"])
def test_a_truncated_log_is_read_from_its_start(log: Path, more: bytes) -> None:
    watch = watching(log)
    watch.new_matches()
    log.write_bytes(more)  # the same file, emptied; it may have grown past the old position
    assert lines(watch) == ["error"]
    watch.close()


def test_a_log_that_comes_later_and_one_that_goes(log: Path) -> None:
    log.unlink()
    watch = watching(log)
    assert lines(watch) == []
    log.write_bytes(b"error\n")
    assert lines(watch) == ["error"]
    log.unlink()
    assert lines(watch) == []
    log.write_bytes(b"error again\n")
    assert lines(watch) == ["error again"]
    watch.close()


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_a_log_that_cannot_be_read_is_named(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "log")
    watch = watching(tmp_path / "log")
    assert lines(watch) == []
    assert watch.unreadable == {str(tmp_path / "log"): "it is no plain file"}
    watch.close()


SECRET = "-".join(("sk", "live", "51Hq8tT0pSecret99"))  # of no service
LINES = {  # an application's line by how it shows a secret, and what of it a reader needs
    'error: 401 {"headers": {"Authorization": "Bearer %s"}}': "error: 401",
    "error request failed Authorization: Bearer %s": "request failed",
    "error sent Bearer %s to the service": "to the service",
    'error config {"colour": "red", "api_key": "%s", "password": "hunter2"}': '"colour": "red"',
    r"error config {\"colour\": \"red\", \"password\": \"%s\"}": "red",
    "error {'pwd': '%s'} of notes": "of notes",
    "error of postgres://app:%s@db/notes": "@db/notes",
    "error X-Chroma-Token: %s": "X-Chroma-Token",
    "error key %s was refused": "was refused",
    "error password=%s": "password=",
}


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("secret", [SECRET, SECRET + "x" * 5000])
def test_no_line_of_a_log_shows_a_secret(log: Path, line: str, secret: str) -> None:
    watch = watching(log)
    append(log, f"\n{line % secret}\n".encode())
    (shown,) = lines(watch)
    assert (secret[:12] in shown, secret[-12:] in shown, "hunter2" in shown) == (False, False, False)
    assert LINES[line] in shown or len(secret) > 5000
    assert len(shown) <= 301
    watch.close()


@pytest.mark.parametrize("line", [
    "2026-11-30T22:08:49.123Z error in notes: KeyError: 'documents' (request 550e8400-e29b-41d4-a716-446655440000)",
    "error: 512 tokens of 8191, token: expired", "error: basic authentication is needed",
    'error: GET https://db.example.org:8000/api/v2/heartbeat {"status": 503, "collection": "notes"}',
])  # fmt: skip
def test_a_line_without_a_secret_is_shown_whole(log: Path, line: str) -> None:
    watch = watching(log)
    append(log, f"\n{line}\n".encode())
    assert lines(watch) == [line]
    watch.close()

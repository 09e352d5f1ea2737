"""A configuration file that somebody writes at the moment of its change: no line of theirs is lost, whenever it comes."""

from __future__ import annotations

import hashlib
import os
import sys
import threading
from pathlib import Path

import pytest

from helpers.cutover import files
from helpers.cutover.files import digest_of, put_in_place, stage
from helpers.errors import Terminal


def test_a_line_written_while_the_file_is_changed_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a writer that opens the file, and by one that replaces it, between the last look and the change."""
    real, new = tmp_path / ".env", b"URL=new\n"
    exchange = files._exchange
    for replaces in (False, True):
        real.write_bytes(b"URL=old\n")
        before = digest_of(real)

        def writer(one: Path, other: Path, replaces: bool = replaces) -> bool:
            monkeypatch.setattr(files, "_exchange", exchange)
            if replaces:
                (tmp_path / "other").write_bytes(b"URL=old\nLINE=kept\n")
                (tmp_path / "other").replace(other)
            else:
                with other.open("ab") as file:
                    file.write(b"LINE=kept\n")
            return exchange(one, other)

        monkeypatch.setattr(files, "_exchange", writer)
        staged = stage(real, new, "night", mode=0o644, uid=os.getuid(), gid=os.getgid())
        with pytest.raises(Terminal, match="at this very moment"):
            put_in_place(staged, real, before)
        assert real.read_bytes() == b"URL=old\nLINE=kept\n"
        assert sorted(p.name for p in tmp_path.iterdir()) == [".env"]
    put_in_place(stage(real, new, "night", mode=0o644, uid=os.getuid(), gid=os.getgid()), real, digest_of(real))
    assert real.read_bytes() == new
    assert sorted(p.name for p in tmp_path.iterdir()) == [".env"]


def test_a_line_written_while_the_change_is_taken_back_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer changes the old file, so the change is taken back; another line comes into the new file just before that."""
    real, exchange, lines = tmp_path / ".env", files._exchange, iter((b"LINE=1\n", b"LINE=2\n"))
    real.write_bytes(b"URL=old\n")

    def writer(one: Path, other: Path) -> bool:
        with other.open("ab") as file:
            file.write(next(lines))
        return exchange(one, other)

    monkeypatch.setattr(files, "_exchange", writer)
    staged = stage(real, b"URL=new\n", "night", mode=0o644, uid=os.getuid(), gid=os.getgid())
    with pytest.raises(Terminal, match=r"what they wrote into the new content is in .*\.env\.meanwhile-1"):
        put_in_place(staged, real, digest_of(real))
    assert real.read_bytes() == b"URL=old\nLINE=1\n"
    assert (tmp_path / ".env.meanwhile-1").read_bytes() == b"URL=new\nLINE=2\n"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says whether a file is open for writing")
def test_a_line_of_a_slow_writer_is_not_lost(tmp_path: Path) -> None:
    """The writer opened the file before the change, and writes and closes it 0.3 s after it."""
    real = tmp_path / ".env"
    real.write_bytes(b"URL=old\n")
    file = real.open("ab")

    def write() -> None:
        file.write(b"LINE=1\n")
        file.close()

    staged = stage(real, b"URL=new\n", "night", mode=0o644, uid=os.getuid(), gid=os.getgid())
    writer = threading.Timer(0.3, write)
    writer.start()
    with pytest.raises(Terminal, match="at this very moment"):
        put_in_place(staged, real, digest_of(real))
    writer.join()
    assert real.read_bytes() == b"URL=old\nLINE=1\n"
    assert [p.name for p in tmp_path.iterdir()] == [".env"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says whether a file is open for writing")
def test_a_file_that_stays_open_is_not_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_PATIENCE", 0.2)
    real = tmp_path / ".env"
    real.write_bytes(b"URL=old\n")
    staged = stage(real, b"URL=new\n", "night", mode=0o644, uid=os.getuid(), gid=os.getgid())
    with real.open("ab"), pytest.raises(Terminal, match="is open for writing"):
        put_in_place(staged, real, digest_of(real))
    assert real.read_bytes() == b"URL=old\n"
    assert [p.name for p in tmp_path.iterdir()] == [".env"]


def test_of_many_changes_beside_a_busy_writer_no_line_is_lost(tmp_path: Path) -> None:
    real, done, lines = tmp_path / ".env", threading.Event(), 0
    real.write_bytes(b"URL=old\n")

    def write() -> None:
        nonlocal lines
        while not done.is_set():
            with real.open("ab") as file:
                file.write(b"LINE=%d\n" % lines)
            lines += 1
            done.wait(0.01)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for n in range(40):
            before = hashlib.sha256(content := real.read_bytes()).hexdigest()
            staged = stage(real, content + b"N=%d\n" % n, "night", mode=0o644, uid=os.getuid(), gid=os.getgid())
            try:
                put_in_place(staged, real, before)
            except Terminal:
                continue
    finally:
        done.set()
        writer.join()
    held = b"".join(p.read_bytes() for p in tmp_path.iterdir())
    assert [n for n in range(lines) if b"LINE=%d\n" % n not in held] == []

"""The audit log: entries chained by digest; whatever was changed, taken out or cut short is found and said."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import pwd
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import audit
from helpers.errors import EnvironmentFailure
from helpers.results import file_digest
from helpers.run.folders import RunFolder
from tests.conftest import ROOT


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "new" / audit.NAME
    for number in range(5):
        audit.append(path, "counted", number=number, text="a\nb\u2028 é")
    return path


def test_an_entry_says_who_when_what_and_how_it_came_out(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "alice.ceo")  # whoever likes can set these
    monkeypatch.setenv("USER", "alice.ceo")
    digest = audit.append(log, "prune", outcome="failed", snapshot="s")
    entry = audit.entries(log)[-1]
    assert (entry["action"], entry["outcome"], entry["facts"]) == ("prune", "failed", {"snapshot": "s"})
    assert entry["user"] == pwd.getpwuid(os.getuid()).pw_name
    assert entry["host"]
    assert entry["when"].endswith("+00:00")
    assert digest == hashlib.sha256(log.read_bytes().splitlines()[-1]).hexdigest()


def test_every_line_holds_the_digest_of_the_one_before(log: Path) -> None:
    lines = log.read_bytes().splitlines()
    assert len(lines) == 5
    assert json.loads(lines[0])["previous"] == audit.FIRST
    for before, line in itertools.pairwise(lines):
        assert json.loads(line)["previous"] == hashlib.sha256(before).hexdigest()
    assert audit.check(log) is None


def test_a_log_that_is_not_there_is_whole_and_empty(tmp_path: Path) -> None:
    assert audit.check(tmp_path / "none") is None
    assert audit.entries(tmp_path / "none") == []


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda rows: [rows[0], rows[1].replace(b'"number": 1', b'"number": 7'), *rows[2:]], 3),
        (lambda rows: [*rows[:2], *rows[3:]], 3),
        (lambda rows: rows[1:], 1),
        (lambda rows: [rows[0], rows[2], rows[1], *rows[3:]], 2),
        (lambda rows: [*rows[:2], rows[1], *rows[2:]], 3),
        (lambda rows: [*rows[:3], b"", *rows[3:]], 4),
        (lambda rows: [*rows[:3], b"[]", *rows[3:]], 4),
        (lambda rows: [*rows[:3], b"\xff\xfe", *rows[3:]], 4),
    ],
)
def test_the_first_broken_line_is_named(log: Path, change: object, line: int) -> None:
    assert callable(change)
    log.write_bytes(b"".join(row + b"\n" for row in change(log.read_bytes().splitlines())))
    broken = audit.check(log)
    assert broken is not None
    assert broken.line == line


@pytest.mark.parametrize("kept", [1, 20, -2, -1])
def test_a_torn_last_line_stays_and_the_next_line_says_so(log: Path, kept: int) -> None:
    lines = log.read_bytes().splitlines(keepends=True)
    torn = lines[-1][:kept]
    log.write_bytes(b"".join(lines[:-1]) + torn)
    broken = audit.check(log)
    assert broken is not None
    assert (broken.line, "crash" in broken.why) == (5, True)
    audit.append(log, "after the crash")
    audit.append(log, "and on")
    assert log.read_bytes().startswith(b"".join(lines[:-1]) + torn + b"\n")
    assert audit.check(log) is None
    if kept == -1:  # the whole line had been written, only its newline was missing
        assert [entry["action"] for entry in audit.entries(log)] == [*["counted"] * 5, "after the crash", "and on"]
        return
    closing = audit.entries(log)[-3]
    digest = hashlib.sha256(torn).hexdigest()
    assert (closing["action"], closing["facts"]) == (audit.CLOSED, {"bytes": len(torn), "sha256": digest})
    assert audit.closed(audit.lines_of(log)) == {5: 6}
    log.write_bytes(log.read_bytes().replace(b"\n" + torn + b"\n", b"\n" + torn + b"x\n"))  # another than was closed
    changed = audit.check(log)
    assert changed is not None
    assert changed.line == 5


@pytest.mark.more
@pytest.mark.parametrize("written", [1, 40, 200])
def test_a_kill_in_the_middle_of_a_line_and_of_the_one_that_closes_it_breaks_no_log(log: Path, written: int) -> None:
    code = f"""
import os, signal
from pathlib import Path
from helpers import audit
write = audit._write
def half(file, data):
    write(file, data[:{written}])
    os.kill(os.getpid(), signal.SIGKILL)
audit._write = half
audit.append(Path({str(log)!r}), "killed")
"""
    for _ in range(3):  # the second and the third are killed while they close what the first one left
        assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == -signal.SIGKILL
    assert audit.check(log) is not None  # nobody has closed it yet
    audit.append(log, "goes on")
    assert audit.check(log) is None
    assert [entry["action"] for entry in audit.entries(log)] == [*["counted"] * 5, audit.CLOSED, "goes on"]
    trust = audit.Trust(frozenset({audit.own_key()}))
    assert list(audit.unsigned(log, trust)) == []
    assert sorted(audit.closed(audit.lines_of(log))) == list(range(6, len(audit.lines_of(log)) - 2))


def test_long_entries_are_chained_too(log: Path) -> None:
    for _ in range(2):
        audit.append(log, "long", text="x" * 200_000)
    audit.append(log, "short")
    assert audit.check(log) is None


def test_processes_that_write_at_once_take_turns(log: Path) -> None:
    code = f"""
from pathlib import Path
from helpers import audit
for n in range(20): audit.append(Path({str(log)!r}), "together", n=n)
"""
    running = [subprocess.Popen([sys.executable, "-c", code], cwd=ROOT) for _ in range(3)]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    assert audit.check(log) is None
    assert len(audit.entries(log)) == 65


def test_what_cannot_be_recorded_is_an_error(tmp_path: Path) -> None:
    (tmp_path / audit.NAME).mkdir()
    with pytest.raises(EnvironmentFailure, match="cannot be written"):
        audit.append(tmp_path / audit.NAME, "anything")


@pytest.mark.parametrize("how", ["no more open files", "killed for its memory"])
def test_a_line_that_cannot_be_signed_now_is_not_written_and_nothing_is_done(
    log: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """An unsigned line proves nothing: a change of run.json that only it named stopped every command after it."""
    folder = RunFolder("new", log.parent, log.parent)
    (log.parent / "run.json").write_text("{}", encoding="utf-8")
    audit.append(log, audit.WRITTEN, file="run.json", sha256=file_digest(log.parent / "run.json"))
    before, plain = log.read_bytes(), subprocess.run

    def run(asked: list[str], **more: object) -> object:
        if "sign" not in asked:
            return plain(asked, **more)  # type: ignore[call-overload]
        if how == "no more open files":
            raise OSError(errno.EMFILE, "Too many open files")
        return subprocess.CompletedProcess(asked, -9, b"", b"")

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(EnvironmentFailure, match="audit log cannot be written"):
        folder.rewrite("run.json", '{"until": "22"}')
    assert log.read_bytes() == before
    assert (log.parent / "run.json").read_text(encoding="utf-8") == "{}"


@pytest.mark.parametrize("how", ["a link", "a link to nothing", "a pipe"])
def test_nothing_is_written_through_a_log_that_is_no_plain_file(tmp_path: Path, how: str) -> None:
    """A link beside the snapshots led to a file of the operator's, which got a line; a pipe held up the command for ever."""
    path, other = tmp_path / audit.NAME, tmp_path / "other"
    if how == "a pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(other)
    if how == "a link":
        other.write_text("mine\n", encoding="utf-8")
    with pytest.raises(EnvironmentFailure, match="is a link or a special file") as refused:
        audit.append(path, "prune")
    assert (refused.value.where, other.exists()) == (str(path), how == "a link")
    assert how != "a link" or other.read_text(encoding="utf-8") == "mine\n"
    with pytest.raises(EnvironmentFailure, match="cannot be read"):
        audit.entries(path)

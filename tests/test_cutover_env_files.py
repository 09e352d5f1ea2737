"""`.env` files as they really are: changed only where meant, byte by byte, or refused in one line."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path

import pytest
from dotenv import dotenv_values
from hypothesis import given
from hypothesis import strategies as st

from helpers.cutover.files import put_in_place, read_config, stage, unified
from helpers.cutover.readiness import edit_env
from helpers.errors import RunbookError, Terminal

NEW = "http://new:8000"
FILE = Path("app.env")


def edited(text: str, value: str = NEW) -> str:
    return edit_env(text.encode(), {"URL": value}, FILE)[0].decode()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("A=1\nURL=http://old\nB=2\n", f"A=1\nURL={NEW}\nB=2\n"),
        ("A=1\nURL=http://old", f"A=1\nURL={NEW}"),
        ("\n# URL=old\n\n  export URL = old  # why\n", f"\n# URL=old\n\n  export URL = {NEW}  # why\n"),
        ("URL=\"http://old\" # why\r\nA='x'\r\n", f"URL=\"{NEW}\" # why\r\nA='x'\r\n"),
        ("URL='old'\n", f"URL='{NEW}'\n"),
        ('URL="o\\"ld"\n', f'URL="{NEW}"\n'),
        ("URL=\nB=2", f"URL={NEW}\nB=2"),
        ("URL= # none yet\n", f"URL= {NEW} # none yet\n"),
        ("\ufeffURL=old\r\n", f"\ufeffURL={NEW}\r\n"),
        ("URL=old\nURL='old'\nexport URL=older\n", f"URL={NEW}\nURL='{NEW}'\nexport URL={NEW}\n"),
        ('PEM="-----\nURL=inside\n-----"\nURL=old\n', f'PEM="-----\nURL=inside\n-----"\nURL={NEW}\n'),
        ("MY_URL=a\nURL2=b\nURL=old#not-a-comment\n", f"MY_URL=a\nURL2=b\nURL={NEW}\n"),
        ("'URL'=old\n", f"'URL'={NEW}\n"),
        ("URL=http://${HOST}:8000\nHOST=old\n", f"URL={NEW}\nHOST=old\n"),
        ("free text\nURL=old\n", f"free text\nURL={NEW}\n"),
        (f"URL='{NEW}'\n", f"URL='{NEW}'\n"),
        ("A=ü\nURL=ß\n", f"A=ü\nURL={NEW}\n"),
        ("A=1\rURL=old\rB=2", f"A=1\rURL={NEW}\rB=2"),
    ],
)
def test_only_the_value_changes(before: str, after: str) -> None:
    assert edited(before) == after


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"A=1\n", "does not set URL"),
        (b"#URL=1\n", "does not set URL"),
        (b"URL\n", "line 1 names URL without a value"),
        (b'\n\nURL="a\nb"\n', "URL on line 3 has a value of several lines"),
        (b'URL="open\nB=2\n', "line 1 is not KEY=value, or has a quote that nothing closes"),
        (b"URL=ok\nB='open\n", "line 2 is not KEY=value"),
        (b"URL=#x\n", "begins with '#'"),
        (b"URL=\xff\n", "is not UTF-8 text"),
        ("URL=a\n".encode("utf-16"), "is not UTF-8 text"),
        (b"URL=a\0\n", "NUL"),
        (b"", "does not set URL"),
    ],
)
def test_what_cannot_be_changed_safely_is_refused_in_one_line(content: bytes, said: str) -> None:
    with pytest.raises(Terminal, match=r"app\.env") as caught:
        edit_env(content, {"URL": NEW}, FILE)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ["a'b", 'a"b', "a\\b", "$HOME", "a`b", "", " a"])
def test_values_that_programs_read_differently_are_not_written(value: str) -> None:
    with pytest.raises(Terminal, match="cannot take the value of URL"):
        edited("URL=old\n", value)


def test_a_value_with_a_blank_gets_quotes() -> None:
    assert edited("URL=old # c\n", "/srv/new data") == 'URL="/srv/new data" # c\n'


def test_the_diff_shows_changed_lines_only_and_no_credentials() -> None:
    text = "SECRET=s3cret\nURL=http://me:pw@old/?token=abc&a=1\nPASSWORD=geheim\n"
    shown = unified(FILE, edit_env(text.encode(), {"URL": NEW}, FILE)[1])
    assert shown.splitlines() == [
        "--- app.env", "+++ app.env", "@@ -2 +2 @@ URL", "-URL=http://…@old/?token=…", f"+URL={NEW}",
    ]  # fmt: skip


LINES = st.sampled_from(
    [
        "A=1",
        "URL=old",
        "export URL='old'",
        '  URL = "old" # c',
        "# URL=x",
        "",
        "B='x # y'",
        'C="1\n2"',
        "D",
        "'E'=2",
        "URL=",
        "x y",
        "F='",
    ]
)


@given(st.lists(LINES, max_size=8), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_any_file_means_the_same_but_for_the_key(lines: list[str], end: str, ended: bool) -> None:
    text = end.join(lines) + (end if ended else "")
    try:
        after = edited(text)
    except RunbookError:
        return
    old = dotenv_values(stream=io.StringIO(text, newline=""))
    new = dotenv_values(stream=io.StringIO(after, newline=""))
    assert new == {**old, "URL": NEW}
    assert list(new) == list(old)
    assert edited(after) == after


# -- on disk -----------------------------------------------------------------------------------------------------------


def replace(path: Path, content: bytes) -> None:
    file = read_config(path)
    put_in_place(stage(file.real, content, "night", mode=file.mode, uid=file.uid, gid=file.gid), file.real)


def test_a_link_stays_and_mode_and_owner_too(tmp_path: Path) -> None:
    real, link = tmp_path / "real" / ".env", tmp_path / ".env"
    real.parent.mkdir()
    real.write_bytes(b"URL=old")
    real.chmod(0o604)
    if os.geteuid() == 0:
        os.chown(real, 12345, 54321)
    link.symlink_to(Path("real") / ".env")
    before = real.stat()
    replace(link, b"URL=new")
    after = real.stat()
    assert link.is_symlink()
    assert link.read_bytes() == b"URL=new"
    assert stat.S_IMODE(after.st_mode) == 0o604
    assert (after.st_uid, after.st_gid) == (before.st_uid, before.st_gid)
    assert [p.name for p in real.parent.iterdir()] == [".env"]


@pytest.mark.parametrize("kind", ["folder", "missing", "read-only", "hard link", "loop", "fifo", "huge"])
def test_files_that_cannot_be_replaced_as_they_must_are_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ".env"
    path.write_bytes(b"URL=old\n")
    said = {
        "folder": "not a regular file", "missing": "is not there", "read-only": "no write permission", "hard link": "hard links",
        "loop": "cannot be inspected", "fifo": "not a regular file", "huge": "too many",
    }[kind]  # fmt: skip
    if kind == "read-only":
        path.chmod(0o444)
    elif kind == "hard link":
        os.link(path, tmp_path / "other")
    elif kind == "huge":
        os.truncate(path, 5 * 2**20)
    else:
        path.unlink()
        if kind == "folder":
            path.mkdir()
        elif kind == "loop":
            path.symlink_to(path)
        elif kind == "fifo":
            os.mkfifo(path)
    with pytest.raises(Terminal, match=said) as caught:
        read_config(path)
    assert "\n" not in str(caught.value)

"""A container's user with neither HOME nor an account: the command and its kernels work, and leave nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

# What such a user sees, whoever runs the tests: no account by that number, and no HOME.
NO_ACCOUNT = """
import os, pwd, sys
def unknown(uid): raise KeyError(f"getpwuid(): uid not found: {uid}")
pwd.getpwuid = unknown
"""
COMMAND = NO_ACCOUNT + "from helpers.cli import main\nsys.exit(main(sys.argv[1:]))\n"
CHROMA = NO_ACCOUNT + (
    "import helpers.stores, pathlib, subprocess\n"
    "home = pathlib.Path.home()\n"
    "assert home.is_dir() and home.stat().st_mode & 0o077 == 0, home\n"
    "subprocess.run([sys.executable, '-c', 'import pathlib; print(pathlib.Path.home())'], check=True)\n"
)


def run(code: str, temporary: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("HOME", "USER", "LOGNAME", "USERNAME")}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False, timeout=300, cwd=temporary,
        env=kept | {"TMPDIR": str(temporary), "PYTHONPATH": str(ROOT), "LOGNAME": ""},
    )  # fmt: skip


def test_chroma_can_be_imported_and_children_have_the_same_home(tmp_path: Path) -> None:
    done = run(CHROMA, tmp_path)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).parent == tmp_path
    assert list(tmp_path.iterdir()) == [], "the home that was lent is gone with the process"


@pytest.mark.more
def test_the_command_answers(tmp_path: Path) -> None:
    (tmp_path / "night.yaml").write_text("name: n\nsource: {path: nowhere}\ntarget: {path: new}\n", encoding="utf-8")
    done = run(COMMAND, tmp_path, "run", "night.yaml", "--reports", str(tmp_path / "reports"))
    assert done.returncode == 1
    assert "source.path nowhere: no such folder" in done.stderr
    assert "home directory" not in done.stderr

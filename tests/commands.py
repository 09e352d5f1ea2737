"""The real command in a process of its own, as an operator starts it, and what it leaves on disk."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.conftest import ROOT


class Runbook:
    """`Runbook(home)("run", "night.yaml", …)` is `runbook run night.yaml …` in the folder home, with folders below it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.reports, self.workspace = home / "reports", home / "workspace"

    def __call__(
        self,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        through: Sequence[str] = (),
        encoding: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """`environment` is added to the process's; `through` is a program that starts it; `encoding` what it prints in."""
        folders = {"RUNBOOK_REPORTS": str(self.reports), "RUNBOOK_WORKSPACE": str(self.workspace)}
        return subprocess.run(
            [*through, sys.executable, "-m", "helpers", *arguments],
            cwd=self.home, capture_output=True, text=True, encoding=encoding, check=False, timeout=1200,
            env={**os.environ, **folders, "PYTHONPATH": str(ROOT), **(environment or {})},
        )  # fmt: skip

    def write(self, name: str, source: str, target: str, more: str = "") -> str:
        """The four lines of a whole parameters file; its name. `source` and `target` are the inside of a mapping."""
        file = f"{name}.yaml"
        text = f"name: {name}\nsource: {{{source}}}\ntarget: {{{target}}}\nschema: identity\n{more}"
        (self.home / file).write_text(text, encoding="utf-8")
        return file


def only_line(done: subprocess.CompletedProcess[str], code: int) -> str:
    """The one line on standard error of a command that ended with this exit code."""
    lines = done.stderr.splitlines()
    assert (done.returncode, len(lines)) == (code, 1), f"exit {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr}"
    assert lines[0].startswith("runbook: ")
    return lines[0]


def tree(folder: Path) -> dict[str, str]:
    """Every path below the folder: the SHA-256 of a file, "" of a folder."""
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() if p.is_file() else ""
        for p in sorted(folder.rglob("*"))
    }

"""The real command, here or in a process of its own as an operator starts it, and what it leaves on disk."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from helpers import cli
from helpers.runner import pipeline
from tests import kernels
from tests.conftest import ROOT


class Runbook:
    """`Runbook(home)("run", "night.yaml", …)` is `runbook run night.yaml …` in the folder home, with folders below it.

    With `own_kernels` its runner forks the kernels from a template of its own, else from that of this process.
    """

    def __init__(self, home: Path, *, own_kernels: bool = False) -> None:
        self.home, self._own_kernels = home, own_kernels
        self.reports, self.workspace = home / "reports", home / "workspace"

    def __call__(
        self,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        through: Sequence[str] = (),
        encoding: str | None = None,
        process: bool = False,
    ) -> subprocess.CompletedProcess[str]:
        """`environment` is added to the process's; `through` is a program that starts it; `encoding` what it prints in.

        In this process, which has the libraries loaded (its notebooks run in kernels in any case); in one of
        its own with `process`, which every command has in some test, and for `through` and `encoding`.
        """
        given = {"RUNBOOK_REPORTS": str(self.reports), "RUNBOOK_WORKSPACE": str(self.workspace), **(environment or {})}
        if not through and not encoding and not process:
            return self._here(arguments, given)
        return subprocess.run(
            [*through, sys.executable, "-m", "helpers", *arguments],
            cwd=self.home, capture_output=True, text=True, encoding=encoding, check=False, timeout=1200,
            env={**os.environ, "PYTHONPATH": str(ROOT), **given},
        )  # fmt: skip

    def _here(self, arguments: Sequence[str], given: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        out, err = io.StringIO(), io.StringIO()
        with (
            pytest.MonkeyPatch.context() as patch,
            warnings.catch_warnings(),
            redirect_stdout(out),
            redirect_stderr(err),
        ):
            patch.chdir(self.home)
            for name, value in given.items():
                patch.setenv(name, value)
            if not self._own_kernels:
                patch.setattr(pipeline, "kernel_template", kernels.shared)
            try:
                code = cli.main(arguments)
            except SystemExit as ended:  # --help
                code = int(ended.code or 0)
        return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())

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

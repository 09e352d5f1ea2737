"""What people learned: a file of the workspace, written at the post-mortem, that the next closeout takes into the record.

The record itself is sealed and never written again: `runbook run --run-id ID --from 53` keeps it under `earlier/` and
writes a new one.
"""

from __future__ import annotations

from pathlib import Path

from helpers.errors import RUNBOOK, one_line
from helpers.results import write_text
from helpers.run.record import RunRecord

NAME = "lessons.md"
_HEAD = """\
# Lessons of run {run}, one to a line; lines that begin with # are left out.
# Then: {again}
"""


class Lessons:
    """The file of one run."""

    def __init__(self, run: RunRecord) -> None:
        self.run = run
        self.path: Path = run.workspace / NAME

    def begin(self) -> None:
        """An empty one to fill in, where there is none."""
        if not self.path.exists():
            write_text(self.path, _HEAD.format(run=self.run.id, again=self.again))

    @property
    def again(self) -> str:
        """The command that takes them into the record."""
        elsewhere = self.run.home.command("status").partition(" --reports ")[2]
        return f"{RUNBOOK} run --run-id {self.run.id} --from 53" + (f" --reports {elsewhere}" if elsewhere else "")

    def written(self) -> list[str]:
        """What stands in it, one line each."""
        if not self.path.is_file():
            return []
        lines = self.path.read_text(encoding="utf-8", errors="backslashreplace").splitlines()
        found = [
            one_line(line.strip().removeprefix("- ").strip()) for line in lines if not line.lstrip().startswith("#")
        ]
        return [line for line in found if line]

"""The `runbook` command as a process of its own, in a folder of its own, and what is seen of it from outside."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from tests.conftest import ROOT


class Trial:
    """A folder with `trial.yaml`, reports/ and workspace/, in which commands of one run work."""

    def __init__(self, folder: Path, run_id: str = "one") -> None:
        self.folder, self.run_id = folder, run_id
        self.reports, self.workspace = folder / "reports" / run_id, folder / "workspace" / run_id
        folder.mkdir(parents=True, exist_ok=True)

    def write_parameters(self, text: str) -> None:
        (self.folder / "trial.yaml").write_text(text, encoding="utf-8")

    def start(self, *arguments: str, program: tuple[str, ...] = ("-m", "helpers")) -> subprocess.Popen[str]:
        """`runbook ARGUMENTS`, or another program of Python's, in a session of its own; it prints to `output.txt`."""
        folders = {
            "RUNBOOK_REPORTS": str(self.reports.parent),
            "RUNBOOK_WORKSPACE": str(self.workspace.parent),
            "PYTHONPATH": str(ROOT),
        }
        with (self.folder / "output.txt").open("w", encoding="utf-8") as output:
            return subprocess.Popen(
                [sys.executable, *program, *arguments],
                cwd=self.folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
                text=True, env={**os.environ, **folders},
            )  # fmt: skip

    def run(self, *arguments: str, timeout: float = 900) -> int:
        """The exit code of `runbook ARGUMENTS`."""
        process = self.start(*arguments)
        try:
            return process.wait(timeout)
        finally:
            kill_all([process.pid, *descendants(process.pid)])
            process.wait()

    @property
    def output(self) -> str:
        return (self.folder / "output.txt").read_text(encoding="utf-8")


def descendants(pid: int) -> list[int]:
    """Every process below this one, whatever its process group: kernels have a group of their own."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found = list(children.get(pid, []))
    for child in found:
        found += children.get(child, [])
    return found


def kernel_of(runner: int) -> int | None:
    """The process id of the notebook's kernel at work below this runner: started anew, or forked from a template."""
    for pid in descendants(runner):
        with suppress(OSError):
            if b"ipykernel_launcher" in (command := Path(f"/proc/{pid}/cmdline").read_bytes()):
                return pid
            if b"be_template" in command and (forked := descendants(pid)):
                return forked[0]
    return None


def kill_all(pids: list[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

"""What people wait for: who asks how a run stands, or signs, loads neither Chroma's client nor papermill.

Nor does a notebook as it begins; its step then loads what it needs, and most need no figure and no schema.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

SLOW = ("chromadb", "papermill", "nbformat", "nbconvert", "matplotlib", "pandera", "IPython")  # a second or more each


@pytest.mark.more
@pytest.mark.parametrize(
    "modules",
    [
        ["helpers.cli"],
        ["helpers.cli", "helpers.status", "helpers.runner.group"],
        [
            "helpers.cli",
            "helpers.evidence.signoffs",
            "helpers.evidence.signing",
            "helpers.report.pages",
            "helpers.status",
        ],
        ["helpers.cli", "helpers.cli.evidence", "helpers.report"],
        ["helpers.runner.notebook"],
    ],
    ids=["the command itself", "status", "sign", "verify", "a notebook"],
)
def test_a_command_at_the_prompt_imports_nothing_slow(modules: list[str]) -> None:
    code = f"import sys, {', '.join(modules)}\nprint(*[m for m in {SLOW!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")


def test_help_and_usage_errors_load_no_numbers_pages_or_http() -> None:
    wanted = ("pandas", "numpy", "pyarrow", "jinja2", "httpx")
    code = f"import sys, helpers.cli\nhelpers.cli.parser()\nprint(*[m for m in {wanted!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")

"""A terminal whose encoding lacks characters: what it cannot show is escaped, no command fails, and files are UTF-8."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from helpers.stores.layout import DATABASE
from tests.commands import Runbook
from tests.storage import chunks, embedded, fill


@pytest.fixture
def latin(tmp_path: Path) -> dict[str, str]:
    """An environment of ISO-8859-1: a real locale where this machine can make one, else Python told so."""
    made = tmp_path / "locales" / "en_US.ISO-8859-1"
    made.parent.mkdir()
    if shutil.which("localedef"):
        subprocess.run(["localedef", "-i", "en_US", "-f", "ISO-8859-1", str(made)], capture_output=True, check=False)
    if made.is_dir():
        return {"LOCPATH": str(made.parent), "LC_ALL": made.name, "PYTHONUTF8": "0"}
    return {"PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"}


@pytest.mark.more
def test_names_beyond_the_encoding_are_escaped_on_the_screen_and_whole_in_the_pages(
    tmp_path: Path, latin: dict[str, str]
) -> None:
    name, document = "東京 café", "Straße, запись"
    with embedded(tmp_path / "source") as store:
        batch = chunks(5, 4)
        batch.documents[0] = document
        fill(store, "alpha", batch)
        fill(store, "beta", chunks(2, 4))
    with closing(sqlite3.connect(tmp_path / "source" / DATABASE)) as db, db:
        db.execute("update collections set name = ? where name = 'beta'", (name,))
    runbook = Runbook(tmp_path)
    shown = runbook("--help", environment=latin, encoding="latin-1")
    assert (shown.returncode, shown.stderr) == (0, "")
    told = runbook("doctor", "source", environment=latin, encoding="latin-1")
    assert (told.returncode, told.stderr) == (0, "")
    assert r"WARNING  \u6771\u4eac café: a current Chroma refuses the name" in told.stdout
    # The file is UTF-8 whatever the terminal is.
    file = runbook.write("night", "path: source", "path: target", f'collections: {{exclude: ["{name}"]}}\n')
    done = runbook("run", file, "--run-id", "one", "--until", "11", environment=latin, encoding="latin-1")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert name in (runbook.reports / "one" / "10_source_health.html").read_text(encoding="utf-8")
    state = runbook("status", "one", environment=latin, encoding="latin-1")
    assert (state.returncode, state.stderr) == (0, "")
    if "LC_ALL" in latin:  # the file system's names are of the locale as well
        beyond = runbook.write("beyond", "path: 東京", "path: target")
        said = runbook("schema", beyond, environment=latin, encoding="latin-1")
        assert said.returncode == 2
        assert "is a path that iso8859-1 cannot name; set LC_ALL=C.UTF-8" in said.stderr
        assert len(said.stderr.splitlines()) == 1

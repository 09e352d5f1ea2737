"""Four lines and one command take a directory that a real application wrote into a new one, every bit of it.

`open-webui-cosine-0.5` is migrated, and compared in the same way, by test_negative_controls.py.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.commands import Runbook, tree
from tests.plain_client import assert_same, held, opened


@pytest.mark.parametrize(
    ("database", "chunks"),
    [
        pytest.param("chinese-zero-vector-1.5", 4, marks=pytest.mark.slow),
        pytest.param("no-documents-128-1.x", 1000, marks=pytest.mark.slow),
        pytest.param("turkish-768-0.5", 51, marks=pytest.mark.slow),  # test_negative_controls drives the fourth
    ],
)
def test_a_directory_arrives_whole(database: str, chunks: int, tmp_path: Path, real_databases: Path) -> None:
    runbook = Runbook(tmp_path)
    shutil.copytree(real_databases / database, tmp_path / "source", copy_function=shutil.copyfile)
    before = tree(tmp_path / "source")
    done = runbook("run", runbook.write("night", "path: source", "path: target"), "--until", "23", process=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert "Verdict: passed up to step 23" in done.stdout
    assert tree(tmp_path / "source") == before

    with opened(tmp_path / "source") as was, opened(tmp_path / "target") as now:
        expected = held(was)
        assert_same(expected, held(now))
    assert sum(len(c.vectors) for c in expected.values()) == chunks

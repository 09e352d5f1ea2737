"""The layout of index folders, proven on sound indexes of old versions: every vector is what their own engine reads."""

from __future__ import annotations

import json
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from helpers.stores.index_files import IndexFolder
from helpers.stores.layout import DATABASE
from tests.compat.environments import VERSIONS, NoEnvironment, environment
from tests.conftest import absent
from tests.storage import index_folder

SAVED = 120  # of the 275 ids at the end, at least; what changed later is in the log


def changed_later(folder: Path, collection: str, reader: IndexFolder) -> set[str]:
    """Ids that changed after the index was saved: up to which record is in SQLite or, before 0.5.6, in the pickle."""
    with closing(sqlite3.connect(folder / DATABASE)) as db:
        [(own,)] = db.execute("select id from collections where name = ?", (collection,)).fetchall()
        row = db.execute("select seq_id from max_seq_id where segment_id = ?", (reader.folder.name,)).fetchone()
        saved = reader.health.max_seq_id if row is None else row[0]
        saved = int.from_bytes(saved, "big") if isinstance(saved, bytes) else saved
        assert saved, collection
        later = "select id from embeddings_queue where topic like ? and seq_id > ?"
        return {chunk for (chunk,) in db.execute(later, (f"%/{own}", saved))}


@pytest.mark.parametrize("version", VERSIONS)
def test_every_row_is_the_vector_that_the_version_itself_reads(version: str, tmp_path: Path) -> None:
    try:
        python = environment(version)
    except NoEnvironment as error:
        absent(f"an environment for chromadb {version}", str(error))
    folder, answers = tmp_path / "db", tmp_path / "answers.json"
    command = [str(python), str(Path(__file__).with_name("churn.py")), str(folder), str(answers)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    for name, held in json.loads(answers.read_text(encoding="utf-8")).items():
        reader = IndexFolder(index_folder(folder, name), dimension=10, m=8, cosine=name == "c-cosine")
        assert (reader.health.state, reader.health.problems) == ("sound", ()), name
        waiting = changed_later(folder, name, reader)
        ids = [chunk for chunk in held if chunk in reader.rows and chunk not in waiting]
        assert len(ids) > SAVED, name
        vectors, found, normalised = reader.vectors(ids)
        assert found.all()
        assert not normalised.any()
        wanted = np.asarray([held[chunk] for chunk in ids], np.float32)
        assert vectors.tobytes() == wanted.tobytes(), name
        derived = IndexFolder(index_folder(folder, name), dimension=10, m=8, cosine=name == "c-cosine")
        (derived.folder / "header.bin").unlink()
        assert derived.vectors(ids)[0].tobytes() == wanted.tobytes(), "and without header.bin"

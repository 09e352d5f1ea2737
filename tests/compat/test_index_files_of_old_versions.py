"""The layout of index folders, proven on sound indexes of old versions: every vector is what their own engine reads."""

from __future__ import annotations

import json
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from helpers.parameters.endpoint import Endpoint
from helpers.stores import open_source
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


def churned(version: str, home: Path) -> tuple[Path, dict[str, dict[str, list[float]]]]:
    """A directory that this version filled and changed, and the vectors that it reads there, by collection and id."""
    try:
        python = environment(version)
    except NoEnvironment as error:
        absent(f"an environment for chromadb {version}", str(error))
    folder, answers = home / "db", home / "answers.json"
    command = [str(python), str(Path(__file__).with_name("churn.py")), str(folder), str(answers)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=home)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder, json.loads(answers.read_text(encoding="utf-8"))


@pytest.mark.parametrize("version", VERSIONS)
def test_every_row_is_the_vector_that_the_version_itself_reads(version: str, tmp_path: Path) -> None:
    folder, read = churned(version, tmp_path)
    for name, held in read.items():
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


@pytest.mark.parametrize("version", ["0.4.24", "0.5.0"])
def test_the_number_in_the_pickle_is_put_into_sqlite(version: str, tmp_path: Path) -> None:
    """Upstream #7104: up to 0.5.5 only the pickle says up to which log record an index was saved. 1.5.9 does not read it."""
    folder, held = churned(version, tmp_path)
    with open_source(Endpoint(path=str(folder)), tmp_path / "scratch") as store:
        kinds = [(r["repair"], r["id"]) for r in store.repairs]  # type: ignore[attr-defined]
        assert kinds == [("bookmark", "")] * 3
        for name, wanted in held.items():
            assert any("only its pickle said" in finding for finding in store.info(name).findings)
            batch = store.read(name, list(wanted))
            assert not batch.lost.any()
            vectors = np.asarray(list(wanted.values()), np.float32)
            np.testing.assert_allclose(batch.embeddings, vectors, rtol=1e-6, atol=1e-9)

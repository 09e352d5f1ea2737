"""Section 4 through papermill and the command, against real databases and servers. All of it is slow."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from helpers.errors import Interrupted
from helpers.migration.importing import Importer
from helpers.results import Verdict
from helpers.run.advice import command, notebook_for
from helpers.run.folders import RunFolder
from tests.commands import Runbook
from tests.conftest import ROOT
from tests.servers import ChromaServer
from tests.storage import assert_same, chunks, contents, embedded, fill, in_order
from tests.troubles import at, begun, migrated, probe

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_folders")]
Servers = Callable[..., ChromaServer]


def advised(code: str, folder: RunFolder, *more: str) -> subprocess.CompletedProcess[str]:
    """The command that the map gives for a code, as an operator types it in the toolkit's folder."""
    step = notebook_for(code)
    assert step is not None
    words = shlex.split(command(step, folder, str(folder.workspace / "OUT.ipynb")))
    settings = dict(word.split("=", 1) for word in words if re.fullmatch(r"RUNBOOK_\w+=.*", word))
    words = [word for word in words if not word.startswith("RUNBOOK_")]
    assert words[0] == "papermill"
    return subprocess.run(
        [sys.executable, "-m", *words, *more, "-k", "python3"], cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, **settings, "PYTHONPATH": str(ROOT)}, timeout=600,
    )  # fmt: skip


def test_the_advised_command_finds_another_model_and_replaces_it(chroma_server: Servers) -> None:
    with embedded(Path("source")) as store:
        fill(store, "alpha", chunks(120, 8, prefix="a"))
    folder = migrated(begun(target={"url": chroma_server().url}))
    other = chunks(120, 8, prefix="a")
    other.embeddings[:] = np.random.default_rng(7).standard_normal(other.embeddings.shape)
    from helpers.stores import open_target

    with open_target(folder.read().parameters.target) as store:
        store.delete("alpha", other.ids)
        store.add("alpha", other)
    looked = advised("search_not_equivalent", folder)
    assert looked.returncode == 0, looked.stderr[-2000:]
    found = folder.read().result("44")
    assert found is not None
    assert found.verdict is Verdict.WARNING
    assert "another model" in found.checks[0].detail
    done = advised("search_not_equivalent", folder, "-p", "dry_run", "False")
    assert done.returncode == 0, done.stderr[-2000:]
    found = folder.read().result("44")
    assert found is not None
    assert {c.name: c.verdict for c in found.checks}["probe after"] is Verdict.PASS
    with open_target(folder.read().parameters.target) as store:
        assert_same(contents(store, "alpha"), in_order(chunks(120, 8, prefix="a")))


def test_a_stuck_batch_is_freed_by_the_command(tmp_path: Path) -> None:
    """A run of the command, stopped in its second batch; 41 goes on with it by `runbook resume`, in a process of its own."""
    with embedded(Path("source")) as store:
        fill(store, "alpha", chunks(60, 4, prefix="a"))
    runbook = Runbook(tmp_path)
    file = runbook.write("night", "path: source", "path: target", "migration: {batch_size: 10, workers: 1}\n")
    done = runbook("run", file, "--run-id", "night", "--until", "21")
    assert done.returncode == 0, done.stderr
    folder, honest, written = RunFolder.of("night"), Importer._add, [0]

    def stopping(importer: Importer, name: str, batch: object) -> int:
        written[0] += 1
        if written[0] == 2:
            folder.stop_file.touch()
        return honest(importer, name, batch)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Importer, "_add", stopping)
        with pytest.raises(Interrupted):
            migrated(folder)
    folder.stop_file.unlink()
    desk = at(folder, "41")
    assert probe(desk)[:2] == (Verdict.WARNING, 1)
    assert desk.batch()["completed"].tolist() == [20]
    said = dict(desk.resolve()[["what", "value"]].to_numpy().tolist())
    assert said["command"] == ".venv/bin/runbook resume night --set migration.batch_size=5"
    assert desk.run.parameters.migration.batch_size == 5
    assert probe(desk)[:2] == (Verdict.PASS, 0), said
    with embedded(Path("target")) as store:
        assert_same(contents(store, "alpha"), in_order(chunks(60, 4, prefix="a")))


def test_the_command_line_names_the_notebook(tmp_path: Path) -> None:
    """Scores that the schema rejects: step 13 stops, and the command says which notebook leads out of it."""
    batch = chunks(40, 4, prefix="s")
    for metadata in batch.metadatas:
        assert metadata is not None
        metadata["authenticity_score"] = 7.5
    with embedded(Path("source")) as store:
        fill(store, "notes", batch)
    schema = "name: strict\nfields:\n  - {name: authenticity_score, type: float, maximum: 1.0, repair: reject}\n"
    Path("strict.yaml").write_text(schema, encoding="utf-8")
    runbook = Runbook(tmp_path)
    Path("night.yaml").write_text(
        "name: night\nsource: {path: source}\ntarget: {path: target}\nschema: strict.yaml\n", encoding="utf-8"
    )
    done = runbook("run", "night.yaml", "--run-id", "night", "--until", "13")
    assert done.returncode == 1
    line = next(line for line in done.stdout.splitlines() if line.startswith("Troubleshoot: "))
    assert line.endswith("papermill notebooks/42_invalid_scores.ipynb OUT.ipynb -p run_id night")
    assert line in RunFolder.of("night").log_path.read_text(encoding="utf-8")

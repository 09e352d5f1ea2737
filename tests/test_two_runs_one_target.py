"""Two runs against one target: the second stops before it shuts anybody's clients out."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from helpers.chunks import ChunkBatch
from helpers.errors import Terminal
from helpers.migration import target_lock
from helpers.migration.checkpoint import Checkpoint
from helpers.migration.target_lock import claim_target, give_back_target, preflight
from helpers.parameters import parameters_from
from helpers.parameters.endpoint import Endpoint
from helpers.run import folders as runs
from helpers.run.folders import RunFolder
from helpers.runner.notebook import Run
from helpers.steps.fence_writes import FenceWritesStep
from helpers.stores import CollectionInfo, open_target
from tests.conftest import ROOT
from tests.servers import ChromaServer

# Step 20 as its notebook runs it, with a command that leaves a file as the fence. Both wait for one moment to begin.
STEP_20 = """
import sys, time
from helpers.errors import RunbookError
from helpers.run.folders import RunFolder
from helpers.runner.notebook import Run
from helpers.steps.fence_writes import FenceWritesStep
run = Run(RunFolder.of(sys.argv[1]).read(), "20")
run.open()
fence = FenceWritesStep(run)
fence.before()
print("ready", flush=True)
sys.stdin.readline()
try:
    fence.put_up()
except RunbookError as error:
    print(error.code, flush=True)
    sys.exit(error.exit_code)
"""


pytestmark = pytest.mark.usefixtures("own_folders")


def a_run(name: str, target: dict[str, str], source: dict[str, str]) -> RunFolder:
    lock = [sys.executable, "-c", f"open('fenced-by-{name}', 'w').close()"]
    fence = {"kind": "command", "command": {"lock": lock, "unlock": [sys.executable, "-c", ""]}}
    sections = {"name": name, "source": source, "target": target, "fence": fence}
    return runs.create(parameters_from(sections), name)


@pytest.mark.more
def test_of_two_runs_at_once_one_fences_and_the_other_touches_nothing(
    chroma_server: Callable[..., ChromaServer], tmp_path: Path
) -> None:
    source, target = {"path": str(tmp_path / "source")}, {"url": chroma_server().url}
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    started = []
    for name in ("one", "two"):
        a_run(name, target, source)
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", STEP_20, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                env=environment,
            )
        )  # fmt: skip
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in started:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    ended = sorted((p.wait(60), p.communicate()[0]) for p in started)
    assert ended == [(0, ""), (1, "lock_held\n")]
    assert len(list(tmp_path.glob("fenced-by-*"))) == 1, "who may not write to the target shuts nobody out"


def test_a_claim_is_kept_over_a_retry_and_given_back_where_nothing_was_written(tmp_path: Path) -> None:
    first, second = (a_run(name, {"path": "target"}, {"path": "source"}) for name in ("one", "two"))
    assert not give_back_target(first.read())
    assert not (tmp_path / "target").exists(), "no folder is made to give back what was never taken"
    claim_target(first.read())
    claim_target(first.read())
    with pytest.raises(Terminal, match="run one from host"):
        claim_target(second.read())
    assert not give_back_target(second.read())
    assert give_back_target(first.read())
    claim_target(second.read())


def test_a_fence_that_cannot_be_put_up_gives_the_target_back() -> None:
    lock = [sys.executable, "-c", "raise SystemExit(9)"]
    fence = {"kind": "command", "command": {"lock": lock, "unlock": lock}}
    sections = {"name": "n", "source": {"path": "source"}, "target": {"path": "target"}, "fence": fence}
    folder = runs.create(parameters_from(sections), "one")
    run = Run(folder, "20")
    run.open()
    with pytest.raises(Exception, match="lock command"):
        FenceWritesStep(run).put_up()
    run.close()
    with open_target(folder.read().parameters.target) as store:
        assert store.lock_holder() is None


@pytest.mark.parametrize("kind", ["directory", "server"])
def test_collections_that_another_run_writes_are_never_called_free_to_remove(
    chroma_server: Callable[..., ChromaServer], kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second run is told whose they are, since when, and that they stay: while they are written, and afterwards."""
    target = {"path": "target"} if kind == "directory" else {"url": chroma_server().url}
    notes = ChunkBatch(["a"], ["text"], np.ones((1, 3), np.float32), [None])
    with open_target(Endpoint(path="source")) as store:
        store.create(CollectionInfo("notes", 0, None, "l2", "l2"))
        store.add("notes", notes)
    first, second = (a_run(name, target, {"path": "source"}) for name in ("one", "two"))
    claim_target(first.read())
    ledger = Checkpoint.open(first.workspace / "checkpoint.json", {})
    ledger.own("notes")
    with open_target(first.read().parameters.target) as store:
        store.create(CollectionInfo("notes", 0, None, "l2", "l2"))

    with pytest.raises(Terminal) as caught:
        preflight(second.read().parameters, (), second.id)
    assert caught.value.code == "lock_held"
    assert re.search(rf"run one on host {socket.gethostname()} has been writing there since 20\d\d-", str(caught.value))
    assert "Remove nothing" in str(caught.value)
    preflight(first.read().parameters, ledger.owned(), first.id)

    with open_target(
        first.read().parameters.target
    ) as store:  # it has imported everything, and waits for its signatures
        store.release_lock(first.id)
    with pytest.raises(Terminal) as caught:
        preflight(second.read().parameters, (), second.id)
    assert caught.value.code == "target_not_empty"
    assert f"run one, begun {first.read().facts['created']}, made them" in str(caught.value)
    assert "Remove nothing" in str(caught.value)

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)  # the run's relative paths, its schema among them, are of the folder where it began
    own = first.reports / "parameters.yaml"
    own.write_text(own.read_text().replace("schema: identity", "schema: mine.yaml"), encoding="utf-8")
    at = parameters_from({"source": {"path": "x"}, "target": target if kind == "server" else {"path": "../target"}})
    assert "run one, begun" in str(target_lock.target_not_empty(["notes"], at.target, at.target.label, None))
    monkeypatch.chdir(tmp_path)

    (first.workspace / "checkpoint.json").unlink()  # nothing tells any more whose they are
    with pytest.raises(Terminal, match=r"none reported in .* made them") as caught:
        preflight(second.read().parameters, (), second.id)
    assert "only if you know whose it was" in str(caught.value)

"""43 with a real limit: `ulimit -v` under which step 22 dies with its batch, and passes with the one that 43 goes on with.

A chunk has 16,384 dimensions, 64 KB, so that a batch of few of them is heavy. Source and target are servers without the
limit: what is short of memory is the migration. How much a process of the toolkit takes before it holds a chunk depends on
the machine, so it is measured first, with a run of a few small chunks.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.results import Verdict
from helpers.run.folders import RunFolder
from tests.commands import Runbook
from tests.conftest import ROOT
from tests.heavy.commands import Trial, descendants, kill_all
from tests.servers import ChromaServer, client_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux holds a process to ulimit -v"),
    pytest.mark.usefixtures("own_folders"),
]
Servers = Callable[..., ChromaServer]
CHUNKS, DIMENSION = 3_600, 16_384
BATCH = 3_600  # 236 MB of vectors, and more than one copy of them
ROOM = 150  # MB above what a process takes that holds a few chunks
# Few threads, few arenas: address space that nobody uses would hide what a batch takes.
LEAN = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}


def fill(server: ChromaServer, chunks: int, dimension: int) -> None:
    rng = np.random.default_rng(1)
    few: Any = {"hnsw": {"ef_construction": 10, "max_neighbors": 4}}
    with client_of(server.url) as client:
        collection = client.create_collection("alpha", embedding_function=None, configuration=few)
        for at in range(0, chunks, 200):
            ids = [f"chunk-{n:05}" for n in range(at, min(at + 200, chunks))]
            vectors = rng.standard_normal((len(ids), dimension)).astype(np.float32)
            collection.add(ids=ids, embeddings=vectors, documents=[f"document {n}" for n in ids])


def parameters(name: str, source: ChromaServer, target: ChromaServer) -> str:
    ends = f"source: {{url: '{source.url}'}}\ntarget: {{url: '{target.url}'}}\n"
    Path(f"{name}.yaml").write_text(
        f"name: {name}\n{ends}schema: identity\nmigration: {{batch_size: {BATCH}, workers: 1}}\n", encoding="utf-8"
    )
    return f"{name}.yaml"


def address_space(folder: Path, file: str) -> int:
    """MB at their highest of the processes of a whole small run, the command's own among them."""
    trial, most = Trial(folder, "small"), 0
    process = trial.start("run", str(Path(file).absolute()), "--run-id", "small", "--until", "22")
    try:
        while process.poll() is None:
            for pid in [process.pid, *descendants(process.pid)]:
                with suppress(OSError, AttributeError):
                    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
                    most = max(most, int(re.search(r"VmPeak:\s+(\d+) kB", status).group(1)) // 1024)  # type: ignore[union-attr]
            time.sleep(0.1)
    finally:
        kill_all([process.pid, *descendants(process.pid)])
        process.wait()
    assert process.returncode == 0, trial.output
    return most


def test_a_batch_too_heavy_for_the_memory_dies_and_a_lighter_one_passes(
    chroma_server: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in LEAN.items():
        monkeypatch.setenv(name, value)
    small, source, target = chroma_server(), chroma_server(), chroma_server()
    fill(small, 60, 8)
    fill(source, CHUNKS, DIMENSION)
    megabytes = address_space(tmp_path / "small", parameters("small", small, chroma_server())) + ROOM
    limited = ("bash", "-c", f'ulimit -v {megabytes * 1024}; exec "$@"', "-")

    runbook = Runbook(tmp_path)
    done = runbook("run", parameters("night", source, target), "--run-id", "night", "--until", "21")
    assert done.returncode == 0, done.stdout + done.stderr
    died = runbook("run", "--run-id", "night", "--from", "22", "--until", "22", through=limited)
    assert died.returncode == 1, died.stdout + died.stderr
    folder = RunFolder.of("night")
    failed = folder.read().result("22")
    assert failed is not None
    assert failed.error is not None
    assert failed.error["code"] in ("out_of_memory", "kernel_died"), failed.error
    advice = next(line for line in died.stdout.splitlines() if line.startswith("Troubleshoot: "))
    assert "notebooks/43_out_of_memory.ipynb" in advice

    notebook = ("papermill", str(ROOT / "notebooks" / "43_out_of_memory.ipynb"), "out.ipynb")
    given = ("-p", "run_id", "night", "-p", "dry_run", "False", "-k", "python3")
    mended = subprocess.run(
        [*limited, sys.executable, "-m", *notebook, *given], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=900,
    )  # fmt: skip
    assert mended.returncode == 0, mended.stderr[-3000:]
    found = folder.read().result("43")
    assert found is not None
    verdicts = {check.name: check.verdict for check in found.checks}
    assert verdicts == {"probe before": Verdict.WARNING, "probe after": Verdict.PASS}
    told = json.dumps(found.facts["resume"])
    assert "--set migration.batch_size=" in told
    print(f"limit {megabytes} MB; before: {found.checks[0].detail}; {told}")
    after = folder.read().result("22")
    assert after is not None
    assert after.error is None
    with client_of(target.url) as client:
        assert client.get_collection("alpha", embedding_function=None).count() == CHUNKS

"""Chroma's engine, refused a thread or its memory while it starts, waits for ever and holds the interpreter: asked for first."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from helpers.results import shortage
from tests.conftest import ROOT
from tests.storage import chunks, embedded, fill

OPEN = """
import os, resource, sys
from pathlib import Path
from helpers.errors import Terminal
from helpers.stores.door import embedded_client

with open("/proc/self/statm") as statm:
    used = int(statm.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[2]) * 2**20,) * 2)
try:
    with embedded_client(Path(sys.argv[1]), "default_tenant", "default_database") as client:
        print(client.get_collection("alpha").count())
except Terminal as error:
    print(error.code.value, error)
os._exit(0)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="measures its own memory as Linux tells it")
@pytest.mark.more
def test_an_engine_opens_or_is_refused_and_never_waits_for_ever(tmp_path: Path) -> None:
    with embedded(tmp_path / "db") as store:
        fill(store, "alpha", chunks(5, 4))
    said = {}
    for more in (3, 4, 5, 20, 60, 2_000):  # MiB; 3, 4 and 5 held it for ever
        done = subprocess.run([sys.executable, "-c", OPEN, str(tmp_path / "db"), str(more)], cwd=ROOT, timeout=120,
                              capture_output=True, text=True, check=False)  # fmt: skip
        said[more] = done.stdout.strip()
        assert done.returncode == 0, done
    assert "too little memory, or too few threads" in said[3], said
    assert said[3].startswith("out_of_memory"), said
    assert said[2_000] == "5", said


@pytest.mark.parametrize(
    "words",
    [
        "can't allocate lock",
        'Expect it to be fetched: Io(Os { code: 11, message: "Resource temporarily unavailable" })',
    ],
)
def test_what_python_and_the_engine_say_of_it_is_one_line(words: str, tmp_path: Path) -> None:
    known = shortage(RuntimeError(words), tmp_path)
    assert known is not None
    assert str(known).startswith("the process ran out of memory")

"""A process that a round of the campaign left behind is named and ended; the campaign's own servers are not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.faults import campaign

SLEEPS = "import time; time.sleep(600)"
LEAVES = f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {SLEEPS!r}], stdout=subprocess.DEVNULL).pid)"


@pytest.mark.more
@pytest.mark.skipif(sys.platform != "linux", reason="the campaign runs on Linux")
def test_an_orphan_is_named_and_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(campaign, "ORPHAN_SECONDS", 0.5)
    server = subprocess.Popen([sys.executable, "-c", SLEEPS], cwd=tmp_path)
    try:
        before = campaign.at_work_in(tmp_path)
        left = int(subprocess.check_output([sys.executable, "-c", LEAVES], cwd=tmp_path, text=True))
        orphan = psutil.Process(left)
        found = campaign.left_behind(tmp_path, before)
        assert [line.split()[0] for line in found] == [str(left)]
        orphan.wait(30)
        assert server.poll() is None
        assert campaign.left_behind(tmp_path, before) == []
    finally:
        server.kill()
        server.wait()

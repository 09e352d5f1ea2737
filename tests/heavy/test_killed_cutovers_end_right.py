"""kill -9 at 10 random moments of a cutover: repeating the command finishes it, putting back undoes it; never half.

The moments are seeded; where they fall depends on the machine's pace, so each trial says what it hit.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cutovers import decided, migrated
from tests.heavy.commands import Trial, descendants, kill_all

SEED = int(os.environ.get("RUNBOOK_KILL_SEED", "20251201"))
TRIALS = 10
BEFORE = {f"app-{n}.env": f'# {n}\r\nexport CHROMA_PATH="/old"  # c\r\nN={n}'.encode() for n in range(6)}
RESTART = "sleep 0.3; echo restarted >> ran"
FOLDER = "from helpers.run import folders; folder = folders.find('night'); folder.enter(); "
PUT_BACK = f"{FOLDER}from helpers.cutover import put_back; print(put_back(folder))"
# the cells of notebook 25 without a kernel, which would only add seconds before the first of them
STEP = f"""\
{FOLDER}from helpers.runner.notebook import Run
from helpers.steps.cutover import CutoverStep
run = Run(folder, "25")
run.open()
switch = CutoverStep(run)
for cell in ("gate", "unchanged", "plan", "before", "switch", "watch", "evidence", "undo"):
    print(getattr(switch, cell)(), flush=True)
run.finish()
"""

pytestmark = pytest.mark.slow


class Bench:
    """One run, decided and signed, whose step 25 is tried again and again from the same state."""

    def __init__(self, folder: Path) -> None:
        self.trial = Trial(folder, "night")
        self.write_files()
        files = [{"path": name, "keys": {"CHROMA_PATH": "{target_path}"}} for name in BEFORE]
        decided(migrated(folder, {"env_files": files, "restart": [["sh", "-c", RESTART]], "monitor_minutes": 0.02}))
        self.kept = folder.parent / "pristine"
        for name in ("reports", "workspace", "target"):
            shutil.copytree(folder / name, self.kept / name)
        self.new = str((folder / "target").absolute()).encode()
        self.seconds = 0.0

    def write_files(self) -> None:
        for name, content in BEFORE.items():
            (self.trial.folder / name).write_bytes(content)

    def start(self) -> Any:
        return self.trial.start(program=("-c", STEP))

    def repeat(self, program: str) -> None:
        process = self.trial.start(program=("-c", program))
        assert process.wait(300) == 0, self.trial.output

    def restore(self) -> None:
        for name in ("reports", "workspace", "target"):
            shutil.rmtree(self.trial.folder / name)
            shutil.copytree(self.kept / name, self.trial.folder / name)
        self.write_files()

    @property
    def state(self) -> str:
        path = self.trial.workspace / "cutover.json"
        return str(json.loads(path.read_text(encoding="utf-8"))["state"]) if path.is_file() else "before"

    def changed(self) -> int:
        """How many of the files point to the target; every other one is byte for byte as it was."""
        found = {name: (self.trial.folder / name).read_bytes() for name in BEFORE}
        new = [name for name, content in BEFORE.items() if found[name] == content.replace(b"/old", self.new)]
        old = [name for name, content in BEFORE.items() if found[name] == content]
        assert sorted(new + old) == sorted(BEFORE), "a file is neither as before nor as after"
        return len(new)

    def left_over(self) -> list[str]:
        return [p.name for p in self.trial.folder.glob(".*.tmp")]


def strike(bench: Bench, process: Any, chance: random.Random) -> str | None:
    """Kill the whole tree; a third anywhere in the step, the others between its first file on disk and its end."""
    if chance.random() < 0.33:
        time.sleep(chance.random() * bench.seconds)
    else:
        while process.poll() is None and bench.state == "before":
            time.sleep(0.001)
        time.sleep(chance.random() ** 3 * 2.5)
    over = process.poll() is not None
    kill_all([process.pid, *descendants(process.pid)])
    process.wait()
    return None if over else bench.state


def test_a_killed_cutover_is_finished_or_undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "night"
    home.mkdir()
    monkeypatch.setenv("RUNBOOK_REPORTS", str(home / "reports"))
    monkeypatch.setenv("RUNBOOK_WORKSPACE", str(home / "workspace"))
    monkeypatch.chdir(home)
    bench = Bench(home)
    begun = time.monotonic()
    bench.repeat(STEP)
    bench.seconds = time.monotonic() - begun
    assert bench.changed() == len(BEFORE)
    hits = []
    for number in range(TRIALS):
        chance, hit = random.Random(f"{SEED}-cutover-{number}"), None
        for _ in range(20):
            bench.restore()
            if (hit := strike(bench, bench.start(), chance)) is not None:
                break
        assert hit is not None, "twenty kills came too late"
        half = bench.changed()
        bench.repeat(PUT_BACK if number % 2 else STEP)
        wanted = (0, {"reverted", "before"}) if number % 2 else (len(BEFORE), {"done"})
        assert bench.changed() == wanted[0], hit
        assert bench.state in wanted[1], hit
        assert bench.left_over() == [], hit
        hits.append(hit)
        print(
            f"trial {number}: killed while {hit} with {half} of {len(BEFORE)} files, {'undone' if number % 2 else 'finished'}",
            flush=True,
        )
    assert set(hits) - {"before"}, hits

"""A fleet of small databases of mixed versions and spaces, some broken on purpose, killed at random moments and resumed.

RUNBOOK_FLEET_ROWS is how many (60), RUNBOOK_FLEET_KILLS how often its process is killed (10), RUNBOOK_FLEET_PARALLEL how many
rows are at work at a time (2). One row in twelve is broken. Every chunk of every other target is compared with its source.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from bs4 import BeautifulSoup

from helpers.rollback import at_work
from helpers.run import folders as runs
from tests.commands import tree
from tests.fleets import source
from tests.heavy.commands import Trial, descendants, kill_all
from tests.plain_client import assert_same, held, opened
from tests.signers import Signers
from tests.storage import chunks, embedded, plan

ROWS = int(os.environ.get("RUNBOOK_FLEET_ROWS", "60"))
KILLS = int(os.environ.get("RUNBOOK_FLEET_KILLS", "10"))
PARALLEL = os.environ.get("RUNBOOK_FLEET_PARALLEL", "2")
SEED = int(os.environ.get("RUNBOOK_KILL_SEED", "20251201"))
KINDS = ["cosine", "l2", "ip", "turkish-768-0.5", "chinese-zero-vector-1.5", "two", "duckdb-parquet-0.3",
         "no-documents-128-1.x", "open-webui-cosine-0.5"]  # fmt: skip
BROKEN = ["damaged", "count", "listed", "dimension", "gone"]
EVERY = 12  # one row in so many is broken

pytestmark = pytest.mark.slow


class Fleet:
    """The table, its sources, and what is known of the rows from outside."""

    def __init__(self, home: Path, real: Path) -> None:
        self.home, self.trial = home, Trial(home, "unused")
        self.kind: dict[str, str] = {}
        self.broken: dict[str, str] = {}
        rows = [self._row(n, real) for n in range(ROWS)]
        (home / "table.yaml").write_text(json.dumps(rows))
        signers = Signers(home / "keys")
        (home / "base.yaml").write_text(f"schema: identity\nsignoff: {{allowed_signers: '{signers.allowed}'}}\n")

    def _row(self, number: int, real: Path) -> dict[str, Any]:
        name, kind = f"row-{number:02}", KINDS[number % len(KINDS)]
        place = self.home / "sources" / name
        if kind in ("cosine", "l2", "ip"):
            source(place, 20 + number, kind)  # type: ignore[arg-type]
        elif kind == "two":
            with embedded(place) as store:
                store.create(plan("first", "cosine"))
                store.create(plan("second", "l2"))
                for collection in ("first", "second"):
                    store.add(collection, chunks(15, prefix=f"{name}-"))
        else:
            shutil.copytree(real / kind, place, copy_function=shutil.copyfile)
        self.kind[name] = kind
        row: dict[str, Any] = {"name": name, "source": f"sources/{name}", "target": f"targets/{name}"}
        if number % EVERY == EVERY // 2:
            row |= self._break(name, place, BROKEN[number // EVERY % len(BROKEN)])
        return row

    def _break(self, name: str, place: Path, how: str) -> dict[str, Any]:
        self.broken[name] = how
        if how in ("damaged", "gone"):  # of a kind that has the file
            shutil.rmtree(place)
            source(place, 400)
        if how == "damaged":
            file = place / "chroma.sqlite3"
            size = file.stat().st_size
            with file.open("r+b") as data:
                data.seek(size // 2 // 4096 * 4096)
                data.write(random.Random(1).randbytes(size // 4))
        cells: dict[str, dict[str, Any]] = {
            "count": {"expected.total": 1},
            "listed": {"expected.collections": {"absent": 1}},
            "dimension": {"expected.dimensions": [7]},
        }
        return cells.get(how, {})

    @property
    def folder(self) -> Path:
        return self.home / "reports" / "fleets" / "f"

    @property
    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "fleet.json").read_text())
        return found

    def done(self) -> dict[str, str]:
        """Rows that are done, with a digest of all their evidence."""
        return {r["name"]: self.evidence(r["run"]) for r in self.state["rows"] if r["code"] == 0}

    def evidence(self, run: str) -> str:
        return hashlib.sha256(json.dumps(tree(self.home / "reports" / run)).encode()).hexdigest()

    def work(self) -> Any:
        begun = (self.folder / "fleet.json").is_file()
        if begun:
            return self.trial.start("fleet", "resume", "f", "--parallel", PARALLEL)
        command = ("fleet", "table.yaml", "base.yaml", "--name", "f", "--until", "23", "--parallel", PARALLEL)
        return self.trial.start(*command)

    def wait_for_its_rows(self) -> float:
        """Seconds until nobody works on a row any more, once the fleet is dead."""
        begun = time.monotonic()
        while any(at_work(runs.RunFolder.of(r["run"])) for r in self.state["rows"]):
            assert time.monotonic() - begun < 120, "a row's process outlives its fleet"
            time.sleep(0.2)
        return time.monotonic() - begun


def test_a_fleet_is_killed_and_resumed_until_every_sound_row_is_done(
    folders: Path, real_databases: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folders)
    it, chance = Fleet(folders, real_databases), random.Random(SEED)
    begun = time.monotonic()
    for kill in range(KILLS):
        process = it.work()
        if kill == 0:
            while "to go," not in it.trial.output:
                assert process.poll() is None, it.trial.output
                time.sleep(0.1)
            for name, how in it.broken.items():
                if how == "gone":
                    (it.home / "sources" / name).rename(it.home / "sources" / f"{name}-gone")
        time.sleep(20 + chance.random() * 120)
        before = it.done()
        ended = process.poll() is not None
        process.kill()
        process.wait()
        waited = it.wait_for_its_rows()
        assert descendants(process.pid) == []
        after = it.done()
        assert {name: after[name] for name in before} == before, "a kill changed a row that was done"
        print(
            f"kill {kill + 1}: {'had ended' if ended else 'at work'}, {len(after)} done, rows ended in {waited:.1f} s"
        )
    before = it.done()
    last = it.work()
    try:
        code = last.wait(60 * 60 * 4)
    finally:
        kill_all([last.pid, *descendants(last.pid)])
    output = it.trial.output
    print(f"{ROWS} rows, {KILLS} kills, {PARALLEL} at a time: {time.monotonic() - begun:.0f} s in all\n{output}")
    assert code == (1 if it.broken else 0), output
    after = it.done()
    assert {name: after[name] for name in before} == before, "a resume changed a row that was done"

    sound = sorted(set(it.kind) - set(it.broken))
    assert sorted(after) == sound
    for name in it.broken:  # why, in a line each
        (line,) = re.findall(rf"^{name}: (.+)$", output, re.M)
        assert len(line) > 20
        print(f"{name} ({it.broken[name]}): {line}")
    compared = 0
    for name in sound:
        told = json.loads((it.home / "reports" / f"f-{name}" / "results" / "23.json").read_text())
        assert told["verdict"] != "fail"
        if it.kind[name] == "duckdb-parquet-0.3":  # no client of today reads it; step 23 has compared it
            continue
        copy = it.home / "copy"
        shutil.copytree(it.home / "sources" / name, copy, copy_function=shutil.copyfile)
        with opened(copy) as was, opened(it.home / "targets" / name) as now:
            expected = held(was)
            assert_same(expected, held(now))
        compared += sum(len(c.vectors) for c in expected.values())
        shutil.rmtree(copy)
    print(f"{compared:,} chunks compared by the plain client")

    page = BeautifulSoup((it.folder / "index.html").read_text(), "html.parser")
    heat = page.select_one("table.heat")
    assert heat is not None
    assert len(heat.select("tbody tr")) == ROWS
    assert it.trial.run("fleet", "verify", "f") == 0, it.trial.output

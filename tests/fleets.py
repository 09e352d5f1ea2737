"""Fleets in a test's own folder: tables, small sources, and a stand-in for the process of a row."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from helpers.parameters import load_parameters
from helpers.run import plan
from helpers.runner import fleet, fleet_table
from helpers.stores import Space
from tests.storage import chunks, embedded
from tests.storage import plan as planned

# What the process of a row does in place of `runbook run`: it makes the run, with results up to a step, and ends as it is told.
STAND_IN = """
import json, os, signal, sys, time
from pathlib import Path
from helpers.results import StepResult, Verdict, utc_now
from helpers.parameters import load_parameters
from helpers.run import folders as runs, plan
from helpers.run.kernel import end_with_fleet
run, file, fleet, order = sys.argv[1], sys.argv[2], sys.argv[3], json.loads(sys.argv[4])
folder = runs.RunFolder.of(run)
with runs.RunLock(folder, "runner").acquire():
    end_with_fleet()
    signal.signal(signal.SIGTERM, lambda *_: (print("runbook: stopped on request", file=sys.stderr), sys.exit(130)))
    if not folder.exists:
        runs.create(load_parameters(Path(file)), run, until="23", group=fleet)
    Path(order["log"]).open("a").write(run + "\\n")
    time.sleep(order.get("sleep", 0))
    for step in [s for s in plan.LINE if s.number <= order.get("until", "23")]:
        broken = order.get("breaks") == step.number
        found = StepResult(step.number, step.title, run, utc_now(), utc_now())
        if broken:
            found.verdict = Verdict.FAIL
            found.error = {"code": "count_mismatch", "type": "EnvironmentFailure", "line": "step broken: 3 chunks are missing."}
        found.write(folder.reports / "results" / f"{step}.json")
        if broken:
            print("runbook: step broken: 3 chunks are missing.", file=sys.stderr)
            sys.exit(1)
"""


def stand_in(home: Path, orders: dict[str, dict[str, Any]]) -> Any:
    """To be set as `fleet._arguments`: each row's process follows its order, by the row's name."""

    def arguments(found: fleet.Fleet, row: fleet.FleetRow, run: Any) -> list[str]:
        file = fleet.folder_of(found.id).reports / fleet.ROWS / f"{row.name}.yaml"
        order = {"log": str(home / "begun.txt"), **orders.get(row.name, {})}
        return [sys.executable, "-c", STAND_IN, row.run, str(file), found.order, json.dumps(order)]

    return arguments


def begun(home: Path) -> list[str]:
    """The runs whose stand-in was started, in that order, each as often as it was."""
    file = home / "begun.txt"
    return file.read_text(encoding="utf-8").split() if file.is_file() else []


def source(path: Path, count: int = 4, space: Space = "cosine") -> Path:
    with embedded(path) as store:
        store.create(planned("notes", space))
        store.add("notes", chunks(count, prefix=f"{path.name}-"))
    return path


def write(home: Path, rows: list[dict[str, Any]], base: str = "schema: identity\n") -> tuple[Path, Path]:
    """`table.yaml` with these rows and `base.yaml`; their paths."""
    (home / "table.yaml").write_text(json.dumps(rows), encoding="utf-8")
    (home / "base.yaml").write_text(base, encoding="utf-8")
    return home / "table.yaml", home / "base.yaml"


def checked(
    home: Path, rows: list[dict[str, Any]], base: str = "schema: identity\n", name: str = "f"
) -> fleet_table.FleetTable:
    path, parameters = write(home, rows, base)
    table = fleet_table.read_table(path)
    fleet_table.check(table, parameters, [], name)
    return table


def made(home: Path, names: str, until: str = "23") -> fleet.Fleet:
    """A fleet `f` with a row for each letter, which the role dba signs; all of them read one source."""
    place = source(home / "source") if not (home / "source").exists() else home / "source"
    rows = [{"name": n, "source": str(place), "target": str(home / f"target-{n}")} for n in names]
    table = checked(home, rows, "schema: identity\nsignoff: {required: [dba]}\n")
    assert [row.line() for row in table.rows if row.problems] == []
    return fleet.begin("f", table, until=plan.find(until), dry_run=False, outside_window="")


def ordered(name: str, **more: Any) -> dict[str, Any]:
    """The sections of the parameters of a row of fleet `f`, with these keys of them changed."""
    file = fleet.folder_of("f").reports / fleet.ROWS / f"{name}.yaml"
    sections = load_parameters(file).document()
    return sections | {key: {**sections[key], **changes} for key, changes in more.items()}

"""Whoever adds a write to the toolkit says which scenario of the campaign kills the process there, or why none must."""

from __future__ import annotations

import ast
import contextlib
import sys
from pathlib import Path

from tests.faults.command import Child, Crash, Order
from tests.faults.scenarios import REHEARSAL, SCENARIOS, WITHOUT
from tests.faults.writes import HELPERS, _writes, name_of, named_writes


def test_each_named_write_of_the_code_is_killed_in_a_scenario_or_excused() -> None:
    killed = {name for scenario in (*SCENARIOS, REHEARSAL) for name in scenario.writes}
    assert not killed & WITHOUT.keys(), "excused, and killed all the same"
    assert sorted(named_writes() - killed - WITHOUT.keys()) == [], "no scenario of the campaign is killed there"
    assert sorted((killed | WITHOUT.keys()) - named_writes()) == [], "the code has no such write any more"
    assert all(reason.strip() for reason in WITHOUT.values())


def test_writes_are_recognised() -> None:
    yes = ["p.write_text(x)", "write_json(p, x)", "open(p, 'ab')", "p.open('w')", "os.open(p, os.O_WRONLY | os.O_CREAT)",
           "a.replace(b)", "os.replace(a, b)", "a.rename(b)", "self.save(folder)", "os.fdopen(n, 'wb')"]  # fmt: skip
    no = ["text.replace(a, b)", "open(p)", "p.open()", "p.open('rb')", "os.open(p, os.O_RDONLY)", "file.write(x)"]
    assert [c for c in yes if not _writes(ast.parse(c, mode="eval").body)] == []
    assert [c for c in no if _writes(ast.parse(c, mode="eval").body)] == []


def test_a_frame_has_the_name_that_the_code_gives() -> None:
    from helpers.migration.checkpoint import Checkpoint

    seen: list[str | None] = []

    class Spy(dict):  # type: ignore[type-arg]
        def items(self) -> object:  # type: ignore[override]
            seen.append(name_of(sys._getframe()))
            return super().items()

    checkpoint = Checkpoint(Path("/nowhere/checkpoint.json"), {}, targets=Spy())
    with contextlib.suppress(OSError):
        checkpoint.enter("import")
    assert seen[0] == "migration.checkpoint:Checkpoint.enter"
    assert seen[0] in named_writes()
    assert (HELPERS / "migration/checkpoint.py").is_file()


def test_a_child_dies_at_the_write_that_is_named(tmp_path: Path) -> None:
    """`archive` of no run refuses before it writes anything; `status` of an empty folder writes nothing at all."""
    plain = Child(Order(tmp_path, ("run", "none.yaml")))
    assert (plain.wait(240), "runbook: " in plain.said) == (2, True), plain.said
    crash = Crash("run.folders:create", "before", 1)
    (tmp_path / "trial.yaml").write_text(
        "name: trial\nsource: {path: source}\ntarget: {path: target}\nschema: identity\n"
    )
    from tests.faults.bench import fill_source
    from tests.storage import embedded

    with embedded(tmp_path / "source") as store:
        fill_source(store)
    killed = Child(Order(tmp_path, ("run", "trial.yaml", "--run-id", "one", "--until", "10"), crash=crash))
    assert killed.wait(240) == -9, killed.said
    assert not (tmp_path / "reports/one").exists(), "a run appears whole or not at all"

"""A state file that was damaged is one clear line, whichever it is; an older or newer one is read."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from helpers.cutover.application import ChangedFile, CutoverState
from helpers.errors import Terminal
from helpers.fence import FenceState
from helpers.migration.checkpoint import Checkpoint, CheckpointFile, TargetState
from helpers.migration.restore import _Restored
from helpers.migration.shipping import Shipment
from helpers.migration.source_changes import CatchUpLedger
from helpers.migration.staging import Staged
from helpers.migration.target_lock import MadeDatabase
from helpers.notify import HookState
from helpers.results import StateFile, write_json
from helpers.rollback import Orders, RollbackState
from helpers.runner.fleet import Fleet, FleetRow
from helpers.runner.notebook import Retry
from helpers.snapshots.remote import _Known
from helpers.steps.closeout import Closeout

HERE = Path("not-written")
STATES: list[Any] = [
    FenceState("nginx", "up", "lift it", events=[{"when": "now", "state": "up"}]),
    CutoverState("done", "new", files=[ChangedFile("env", ".env", "0", "a", "b", 0o600, 0, 0)], collections=["a"]),
    RollbackState("run", orders=Orders(restore=True), stages={"fence": {"state": "done"}}),
    HookState("before", 1, 2, "now", ["one"]),
    Retry("22", "now"),
    Closeout("run", "now", "me", {"file": 5}),
    Fleet("june", "now", "/", "t.csv", "a", "24", False, "", [FleetRow("shop", "june-shop", "b", "now")]),
    MadeDatabase(["database"], "now"),
    CatchUpLedger(HERE, "base", "snapshots/a", [{"number": 1, "state": "applied"}]),
    Staged(HERE, {"a": [("a.parquet", "a", 3)]}, 3, {"missing_author": 1}),
    CheckpointFile({"source": "s"}, "import", 3, 0, {"a": TargetState(3, 1, 0, [1, 2])}, [], 0, 0),
    _Restored({"place": "p"}, {"a": "complete"}),
    Shipment(HERE, "snap", {"chroma.sqlite3": (5, "0")}),
    _Known(HERE, "s3://backups/chroma", {"key": "env:KEY"}, "0", "1"),
]


def test_every_kind_of_state_file_is_tried() -> None:
    assert {type(state).__qualname__ for state in STATES} == {kind.__qualname__ for kind in StateFile.__subclasses__()}


@pytest.fixture(params=STATES, ids=lambda state: type(state).__name__)
def state(request: pytest.FixtureRequest) -> Any:
    return request.param


def written(state: Any, folder: Path) -> Path:
    path = folder / (state.file or "restore.json")
    write_json(path, {k: v for k, v in dataclasses.asdict(state).items() if k != "folder"})
    return path


@pytest.mark.parametrize("damage", [b"", b"{", b"[1]", b"null", b"\xff\xfe", b"3"])
def test_a_damaged_state_file_is_one_line_with_what_to_do(state: Any, damage: bytes, tmp_path: Path) -> None:
    path = written(state, tmp_path)
    path.write_bytes(damage)
    check_line(state, path)


def test_a_value_of_another_type_is_named(state: Any, tmp_path: Path) -> None:
    path = written(state, tmp_path)
    raw = json.loads(path.read_text())
    key = next(k for k, v in raw.items() if isinstance(v, list | dict | str))
    path.write_text(json.dumps({**raw, key: 3.5}))
    assert f" {key}: " in check_line(state, path)


def check_line(state: Any, path: Path) -> str:
    with pytest.raises(Terminal) as caught:
        type(state).read_file(path)
    error, line = caught.value, caught.value.line()
    assert error.code == state.damaged
    assert line.startswith(f"{path}: cannot be read: ")
    assert error.next_step
    assert line.endswith(error.next_step)
    assert line.isprintable()
    return line


def test_a_state_file_of_another_version_is_read(state: Any, tmp_path: Path) -> None:
    path = written(state, tmp_path)
    raw = json.loads(path.read_text())
    defaults = {f.name for f in dataclasses.fields(state)
                if f.default is not dataclasses.MISSING or f.default_factory is not dataclasses.MISSING}  # fmt: skip
    older = {k: v for k, v in raw.items() if k not in defaults}
    path.write_text(json.dumps({**older, "a key of a later version": 1}))
    found = type(state).read_file(path)
    assert all(getattr(found, name) == getattr(state, name) for name in older)


def test_what_is_written_is_read(state: Any, tmp_path: Path) -> None:
    path = written(state, tmp_path)
    expected = dataclasses.replace(state, folder=tmp_path) if hasattr(state, "folder") else state
    assert type(state).read_file(path) == expected
    assert type(state).read_file(tmp_path / "absent.json") is None


def test_a_checkpoint_that_is_gone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(Terminal, match="there is no such file"):
        Checkpoint.read(tmp_path / "checkpoint.json")

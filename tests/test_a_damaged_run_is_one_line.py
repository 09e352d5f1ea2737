"""A damaged file of a run is one line that names it, and stops no other run; what is whole is still found."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from helpers import audit, cli
from helpers.errors import RunbookError, Terminal
from helpers.fence import FenceControl, FenceState
from helpers.migration.staging import Quarantine
from helpers.parameters import parameters_from
from helpers.results import StepResult, Verdict, utc_now, writing
from helpers.rollback import replay
from helpers.run import folders as runs
from helpers.run.folders import RunFolder
from helpers.run.kernel import is_whole
from helpers.run.plan import Step
from helpers.runner.group import read as read_group
from helpers.snapshots import retention
from helpers.status import open_steps
from helpers.troubleshooting import exports

Said = pytest.CaptureFixture[str]
pytestmark = pytest.mark.usefixtures("own_folders")
DAMAGE = [b"", b"{", b"null", b"[1]", b"\xff\xfe", b'{"facts": 5}']


def made(run_id: str) -> RunFolder:
    parameters = parameters_from({
        "name": run_id, "source": {"path": "source"}, "target": {"path": f"target-{run_id}"}, "schema": "identity",
        "snapshot": {"directory": "kept"},
        "fence": {"kind": "command", "command": {"lock": ["true"], "unlock": ["touch", "lifted"]}},
    })  # fmt: skip
    folder = runs.create(parameters, run_id)
    for step in (Step.SOURCE_HEALTH, Step.SNAPSHOT):
        result = StepResult(step.number, step.title, run_id, utc_now(), utc_now(), Verdict.PASS)
        if step is Step.SNAPSHOT:
            taken = str(Path("kept").absolute() / f"{run_id}-21")
            result.facts["snapshot"] = {"id": f"{run_id}-21", "folder": taken, "retain_until": utc_now()}
        result.write(folder.reports / "results" / f"{step.number}.json")
    return folder


@pytest.fixture
def hurt() -> RunFolder:
    """One of two runs."""
    made("whole")
    return made("hurt")


def said(capsys: Said, *arguments: str) -> tuple[int, str, str]:
    code = cli.main(list(arguments))
    out, err = capsys.readouterr()
    assert "unexpected" not in err
    assert "Traceback" not in out + err
    assert err.count("\n") <= 1
    return code, out, err


@pytest.mark.more
@pytest.mark.parametrize("file", ["run.json", "parameters.yaml", "results/10.json"])
def test_other_runs_and_commands_go_on(hurt: RunFolder, capsys: Said, file: str) -> None:
    path = hurt.reports / file
    whole = path.read_bytes()
    for damage in [*DAMAGE, whole[: len(whole) // 2]]:
        path.write_bytes(damage)
        code, out, _ = said(capsys, "status")
        assert code == 0
        row = next(line for line in out.splitlines() if line.startswith("whole"))
        assert "step 11" in row or "sign" in row or "11" in row
        assert any(line.startswith("hurt") for line in out.splitlines())
        assert said(capsys, "status", "whole")[0] == 0
        assert said(capsys, "snapshots", "list")[0] == 0
        assert said(capsys, "snapshots", "prune")[0] == 0
        for command in ("status", "verify", "archive"):
            code, _, err = said(capsys, command, "hurt")
            assert code in (0, 1, 2)
        if file != "results/10.json":
            for command in ("resume", "rollback"):
                code, _, err = said(capsys, command, "hurt")
                assert code in (1, 2)
                assert err


def test_the_damaged_run_is_named_with_what_to_do(hurt: RunFolder, capsys: Said) -> None:
    (hurt.reports / "run.json").write_text("{", encoding="utf-8")
    out = said(capsys, "status")[1]
    [row] = [line for line in out.splitlines() if line.startswith("hurt")]
    assert "damaged" in row
    code, _, err = said(capsys, "status", "hurt")
    assert code == 1
    assert "run.json: cannot be read" in err
    assert "Put the file back" in err


def test_a_result_of_another_run_or_step_is_none_of_this_run(hurt: RunFolder, capsys: Said) -> None:
    path = hurt.reports / "results" / "10.json"
    for other in (runs.reports_root() / "whole" / "results" / "10.json", hurt.reports / "results" / "21.json"):
        shutil.copy(other, path)
        with pytest.raises(RunbookError, match=r"10\.json: cannot be read: .*it is the result of step"):
            hurt.read().result("10")
        assert said(capsys, "status")[0] == 0


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_result_with_values_of_the_wrong_kind_is_no_result(hurt: RunFolder, damage: bytes) -> None:
    path = hurt.reports / "results" / "10.json"
    path.write_bytes(damage)
    with pytest.raises(Terminal, match=r"10\.json: cannot be read") as caught:
        StepResult.read(path)
    assert caught.value.code == "run_damaged"
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changed", ['"started": "soon"', '"facts": [1]', '"error": "no"', '"checks": [5]', '"phases": {"a": 1}']
)
def test_a_result_whose_values_nobody_can_use_is_no_result(hurt: RunFolder, changed: str) -> None:
    path = hurt.reports / "results" / "10.json"
    key = changed.partition(":")[0]
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith(f"  {key}")]
    path.write_text("\n".join([lines[0], f"  {changed},", *lines[1:]]), encoding="utf-8")
    with pytest.raises(RunbookError, match=r"10\.json"):
        StepResult.read(path)


@pytest.mark.parametrize(
    "gone", [["run.json"], ["parameters.yaml"], ["results/10.json"], ["run.json", "parameters.yaml", "audit.jsonl"]]
)
def test_a_fence_is_lifted_by_its_own_file_alone(
    hurt: RunFolder, capsys: Said, gone: list[str], tmp_path: Path
) -> None:
    FenceControl(hurt, hurt.read().parameters).put_up()
    for name in gone:
        (hurt.reports / name).write_bytes(b"{")
    os.chdir("/")
    _, out, _ = said(capsys, "fence", "hurt", "--lift")
    assert "The write fence of run hurt is lifted" in out
    assert (tmp_path / "lifted").exists()
    state = FenceState.load(hurt.workspace)
    assert state is not None
    assert state.state == "lifted"


@pytest.mark.parametrize("cut", [0, 1, 200, 0.5])
def test_a_truncated_notebook_beside_a_passed_result_is_done_again(hurt: RunFolder, cut: float) -> None:
    result = StepResult.read(hurt.reports / "results" / "10.json")
    result.facts["execution"] = "token"
    result.write(hurt.reports / "results" / "10.json")
    notebook = hurt.reports / Step.SOURCE_HEALTH.notebook
    whole = (runs.NOTEBOOKS / notebook.name).read_bytes()
    notebook.write_bytes(whole[: int(cut if cut >= 1 else len(whole) * cut)])
    assert not is_whole(notebook)
    assert open_steps(hurt.read(), Step.SOURCE_HEALTH) == [Step.SOURCE_HEALTH]


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_steps_keep_beside_their_state_is_read_behind_the_same_guard(hurt: RunFolder, damage: bytes) -> None:
    def put(name: str) -> Path:
        path = hurt.workspace / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(damage)
        return path

    quarantine = put("quarantine/checked.jsonl")
    if damage:  # an empty index lists nothing
        with pytest.raises(RunbookError, match=r"checked\.jsonl"):
            list(Quarantine(quarantine.parent).entries())
    with pytest.raises(RunbookError, match=r"undo\.json"):
        exports(put("undo/1/undo.json").parent.parent)
    with pytest.raises(RunbookError, match=r"index\.json"):
        replay.exported([str(put("rollback/export-1/index.json").parent)])
    with pytest.raises(RunbookError, match=r"plan\.json"):
        replay.load(put("rollback/replay-1/plan.json").parent)
    group = runs.reports_root() / "many" / runs.GROUP
    group.parent.mkdir(exist_ok=True)
    group.write_bytes(damage)
    with pytest.raises(RunbookError, match=r"group.json"):
        read_group("many")


# -- written whole -----------------------------------------------------------------------------------------------------


def test_a_file_has_its_name_only_when_it_and_the_name_are_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a crash would find it: what was not flushed before the rename, or a name that was not, is gone."""
    seen: list[str] = []
    real = os.fsync

    def spied(handle: int) -> None:
        seen.append(str(Path(f"/proc/self/fd/{handle}").readlink()))
        real(handle)

    monkeypatch.setattr(os, "fsync", spied)
    with writing(tmp_path / "a" / "file") as temporary:
        temporary.write_bytes(b"data")
        assert not (tmp_path / "a" / "file").exists()
    assert seen == [str(temporary), str(tmp_path / "a")]

    def fails() -> None:
        with writing(tmp_path / "a" / "file") as temporary:
            temporary.write_bytes(b"half")
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert [p.read_bytes() for p in (tmp_path / "a").iterdir()] == [b"data"]


# -- prune -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["run.json", "parameters.yaml", "results/53.json"])
def test_a_damaged_run_needs_its_snapshots(hurt: RunFolder, file: str) -> None:
    kept = Path("kept").absolute()
    (kept / "hurt-21").mkdir(parents=True)
    audit.append(kept / audit.NAME, "snapshot created", snapshot="hurt-21", run="hurt", reports=str(hurt.reports))
    (hurt.reports / file).write_bytes(b"{")
    [item] = retention.snapshots_in(kept)
    if file == "parameters.yaml":  # nothing of it is asked
        assert item.needed_by == ("hurt",)
    else:
        assert item.needed_by[0].startswith("hurt (damaged")
    shutil.rmtree(kept)

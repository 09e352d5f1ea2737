"""A folder that is judged was written by others: nothing in it holds up who judges it, and nothing outside of it is opened."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers import audit, cli, evidence
from helpers.report.pages import run_page
from helpers.results import write_text
from tests.conftest import ROOT
from tests.signers import Signers, small_run

RUN = "night-1"
DEEP = b"[" * 100_000
HUGE = 2**40  # bytes, none of which is on disk


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    place = tmp_path_factory.mktemp("judged")
    signers = Signers(place / "keys")
    outside = place / "outside"
    outside.mkdir()
    for name, text in {"token": "secret-of-the-auditor", "app.env": "CHROMA_URL=x\n", "compose.yaml": "a: b\n"}.items():
        (outside / name).write_text(text, encoding="utf-8")
    shutil.copy(ROOT / "parameters" / "schemas" / "if_ttt.yaml", outside / "own.yaml")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUNBOOK_REPORTS", str(place / "reports"))
        patch.setenv("RUNBOOK_WORKSPACE", str(place / "workspace"))
        sections: dict[str, Any] = {
            "schema": str(outside / "own.yaml"),
            "notify": {"urls": [f"file:{outside / 'token'}"]},
            "cutover": {
                "env_files": [{"path": str(outside / "app.env"), "keys": {"CHROMA_URL": "{target_path}"}}],
                "restart": [["true"]],
            },
        }
        home = small_run(RUN, signers, **sections)
        evidence.keep_sealed(home.read())
        signers.approve(home.reports, ["dba"], gate="dry-run")
        evidence.at_rest(home.read())
        write_text(home.reports / "index.html", run_page(home.reports))
        yield home.reports


@pytest.fixture
def run(sealed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy under the same name; one page of it is changed, which is always to be named, too."""
    copy = Path(shutil.copytree(sealed, tmp_path / "reports" / sealed.name))
    (copy / "24_review.html").write_text("<h1>GO</h1>", encoding="utf-8")
    monkeypatch.setenv("RUNBOOK_REPORTS", str(copy.parent))
    monkeypatch.setenv("RUNBOOK_WORKSPACE", str(tmp_path / "workspace"))
    monkeypatch.chdir(tmp_path)
    return copy


def bomb(path: Path) -> None:
    """Four hundred bytes that are a hundred million names."""
    lines = ['a0: &a0 "x"', *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9))]
    text = path.read_text(encoding="utf-8").replace("notify:\n", "notify:\n  stakeholders: *a8\n", 1)
    path.write_text("\n".join(lines) + "\n" + text, encoding="utf-8")


def giant(path: Path) -> None:
    with path.open("ab") as file:
        file.truncate(HUGE)


def deep(path: Path) -> None:
    path.write_bytes(DEEP)


HOSTILE: dict[str, tuple[str, Callable[[Path], object]]] = {
    "aliases of YAML": ("parameters.yaml", bomb),
    "deep YAML": ("parameters.yaml", deep),
    "giant parameters": ("parameters.yaml", giant),
    "deep result": ("results/23.json", deep),
    "giant result": ("results/23.json", giant),
    "deep run.json": ("run.json", deep),
    "giant log": ("run.log", giant),
    "giant audit log": (audit.NAME, giant),
    "deep line of the log": (audit.NAME, lambda path: path.write_bytes(path.read_bytes() + DEEP + b"\n")),
    "deep notebook": ("23_validate.ipynb", deep),
    "giant list of signers": ("allowed_signers", giant),
    "giant page": ("index.html", giant),
    "giant figure": ("figures/23_counts.png", giant),
}


def state(run: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file: what was written shows."""
    return {p.relative_to(run).as_posix(): (p.stat().st_size, p.stat().st_mtime_ns) for p in run.rglob("*")}


# Each fourth in `make test`, all of them in `make test-attacks` and `make test-slow`.
@pytest.mark.parametrize(
    "what", [pytest.param(each, marks=[pytest.mark.slow] if at % 4 else []) for at, each in enumerate(HOSTILE)]
)
def test_a_hostile_file_is_named_in_one_line_with_all_else_that_is_wrong(
    run: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name, make = HOSTILE[what]
    make(run / name)
    before, began = state(run), time.process_time()
    assert cli.main(["verify", RUN]) in ((1, 3) if name == "run.json" else (1,))
    said = capsys.readouterr()
    lines = (said.out + said.err).splitlines()
    assert any(name in line for line in lines), lines
    assert max(map(len, lines)) <= 2000
    if name != "run.json":  # without it there is no run of this id
        assert "24_review.html: changed since seal 3" in lines, lines
    for command in ("audit", "archive", "status"):
        cli.main([command, RUN])
        said = capsys.readouterr()
        assert "unexpected" not in said.err, said.err
    assert state(run) == before
    assert not (run.parent.parent / f"{RUN}.zip").exists()
    assert time.process_time() - began < 10


def test_a_seal_that_is_nested_or_giant_is_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second, last = sorted((run / "seals").glob("*.json"))
    giant(first)
    deep(second)
    giant(last.with_name(f"{last.name}.sig"))
    before = state(run)
    assert cli.main(["verify", RUN]) == 1
    said = capsys.readouterr().out
    for path in (first, second, last):
        assert f"seals/{path.name}" in said
    assert state(run) == before


OPENED = """
import sys
opened = []
sys.addaudithook(lambda event, given: opened.append(given[0]) if event in ("open", "os.listdir", "os.scandir") else None)
from helpers import cli
for command in (["verify"], ["audit"], ["archive", "--output", sys.argv[2]]):
    print(command, cli.main([*command, sys.argv[1]]))
print(*(f"OPENED {path}" for path in opened), sep="\\n")
"""


@pytest.mark.more
def test_nothing_that_the_folder_names_is_opened(sealed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Secrets, configuration files, the schema, the list of signers: who judges need not have them, and does not read them."""
    place = Path(shutil.copytree(sealed.parent.parent, tmp_path / "elsewhere"))
    shutil.rmtree(place / "workspace")
    monkeypatch.setenv("RUNBOOK_REPORTS", str(place / "reports"))
    monkeypatch.setenv("RUNBOOK_WORKSPACE", str(tmp_path / "none"))
    asked = [sys.executable, "-c", OPENED, RUN, str(tmp_path / "run.zip")]
    done = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True)
    assert [line for line in done.stdout.splitlines() if line.startswith("[")] == [
        "['verify'] 0", "['audit'] 0", f"{['archive', '--output', str(tmp_path / 'run.zip')]} 0",
    ], done.stdout[:4000] + done.stderr  # fmt: skip
    opened = {line.removeprefix("OPENED ") for line in done.stdout.splitlines() if line.startswith("OPENED ")}
    assert any(path.endswith("parameters.yaml") for path in opened)
    named = (str(sealed.parent.parent), str(place / "outside"), str(place / "keys"))
    assert [path for path in opened if path.startswith(named)] == []


def test_no_folder_is_opened_because_a_result_names_it(run: Path, tmp_path: Path) -> None:
    """Not even where this workspace has a run of that id: another snapshot, or anything else, lies where the result says."""
    (tmp_path / "workspace" / RUN).mkdir(parents=True)
    others = tmp_path / "others" / "of-another"
    others.mkdir(parents=True)
    (others / "manifest.json").write_text("{}", encoding="utf-8")
    taken = {"id": "of-another", "folder": str(others), "digest": "0" * 64, "retain_until": "2030-01-01T00:00:00+00:00"}
    path = run / "results" / "21.json"
    path.write_text(json.dumps({"step": "21", "facts": {"snapshot": taken}}), encoding="utf-8")
    every = OPENED.replace('["audit"]', '["status"], ["snapshots", "list"], ["audit"]').replace(
        "*command, sys.argv[1]", "*command, *sys.argv[1:2] * (command[0] != 'snapshots')"
    )
    asked = [sys.executable, "-c", every, RUN, str(tmp_path / "run.zip")]
    done = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "['snapshots', 'list'] 0" in done.stdout, done.stderr
    opened = [line for line in done.stdout.splitlines() if line.startswith("OPENED ")]
    assert any(line.endswith("results/21.json") for line in opened)
    assert [line for line in opened if str(others.parent) in line] == []


def test_a_run_is_judged_where_its_schema_is_not(sealed: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(sealed, tmp_path / sealed.name))
    own = sealed.parent.parent / "outside" / "own.yaml"
    own.rename(own.with_name("gone"))
    try:
        from helpers.cli.evidence import verify

        found = verify(copy)
    finally:
        own.with_name("gone").rename(own)
    assert found.problems == []
    assert json.loads((copy / "run.json").read_bytes())["id"] == RUN

"""Reports and workspace never lie in the folder of a database: nothing is written beside its files."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.cli import main
from tests.commands import tree
from tests.storage import chunks, embedded, fill


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    with embedded(tmp_path / "source") as store:
        fill(store, "notes", chunks(3, 4))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RUNBOOK_REPORTS", str(tmp_path / "reports"))
    monkeypatch.setenv("RUNBOOK_WORKSPACE", str(tmp_path / "workspace"))
    (tmp_path / "p.yaml").write_text(
        "name: one\nsource: {path: source}\ntarget: {path: target}\nschema: identity\nsnapshot: {directory: kept}\n"
    )
    return tmp_path / "source"


@pytest.mark.parametrize(
    "words", [("run", "p.yaml", "--until", "10"), ("snapshots", "create", "p.yaml"), ("doctor", "source")]
)
@pytest.mark.parametrize("name", ["REPORTS", "WORKSPACE"])
def test_a_folder_inside_the_source_is_refused_before_anything_is_made(
    source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, words: tuple[str, ...]
) -> None:
    before = tree(source)
    monkeypatch.setenv(f"RUNBOOK_{name}", str(source / "ours"))
    assert main([*words]) == 2
    said = capsys.readouterr().err
    assert (
        f"the folder of the {name.lower()} lies inside the database" in said
        or "'snapshot.directory' lies inside" in said
    )
    assert tree(source) == before


def test_folders_beside_the_source_are_fine(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["snapshots", "create", "p.yaml"]) == 0, capsys.readouterr().err
    assert main(["doctor", "source"]) == 0

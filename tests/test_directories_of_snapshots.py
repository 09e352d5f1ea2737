"""`snapshot.directory`: a folder, which needs no driver, or the URL of a storage; what its section takes, and what not."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from helpers import cli
from helpers.errors import UsageError
from helpers.parameters import parameters_from
from helpers.snapshots import remote
from tests.conftest import ROOT
from tests.storage import chunks, embedded, fill

Said = pytest.CaptureFixture[str]

pytestmark = pytest.mark.usefixtures("own_folders")


def run(*arguments: str, code: int = 0) -> None:
    assert cli.main(["snapshots", *arguments]) == code


def only_line(said: Said) -> str:
    (line,) = said.readouterr().err.splitlines()
    return line


PLACES = {
    "s3://bucket": "",
    "file:///mnt/backups": "",
    "ftp://host/x": "must be a folder, or a URL of s3://",
    "s3://": "names no bucket",
    "s3://key:word@bucket/x": "must not have a blank, a query, a fragment or credentials",
    "s3://bucket/x?versionId=1": "must not have a blank, a query, a fragment or credentials",
    "s3://bucket/../x": "has an empty part, '.' or '..'",
    "file://host/x": "must be file:///FOLDER",
}
STORAGES = {
    "s3://bucket": [({"key": "env:A"}, "wants key and secret"), ({"token": "env:A"}, "wants key and secret"),
                    ({"secret": "plain"}, "must be a reference"), ({"password": "x"}, "password")],
    "gs://bucket": [({"token": "env:A"}, "Google wants token: file:PATH"), ({"region": "x"}, "which S3 has only")],
    "az://container": [({"secret": "env:A"}, "Azure wants key")],
    "kept": [({"region": "x"}, "its directory is no URL")],
    "file:///mnt": [({"region": "x"}, "its directory is no URL")],
}  # fmt: skip


def refusal(**snapshot: Any) -> str:
    document = {"source": {"path": "a"}, "target": {"path": "b"}, "snapshot": snapshot}
    try:
        parameters_from(document)
    except UsageError as error:
        return error.line()
    return ""


@pytest.mark.parametrize("directory", PLACES)
def test_a_directory_is_a_folder_or_a_url_of_a_storage(directory: str) -> None:
    said = refusal(directory=directory)
    assert (PLACES[directory] in said) if PLACES[directory] else not said
    assert "word" not in said


def test_what_a_storage_needs_is_asked_for() -> None:
    for directory, cases in STORAGES.items():
        for storage_, said in cases:
            line = refusal(directory=directory, storage=storage_)
            assert said in line, line
            assert "plain" not in line
    assert not refusal(directory="az://container", storage={"key": "env:A", "secret": "env:B"})
    assert "must hold the database only" in refusal(directory=f"file://{Path('a').absolute()}/kept")


def test_what_a_command_is_given_is_checked_as_parameters_are(capsys: Said) -> None:
    for given, said in {
        ("--directory", "ftp://x"): "--directory must be a folder, or a URL of s3://",
        ("--directory", "s3://b", "--storage", "secret=s3cr3t-in-clear"): "--storage secret must be a reference",
        ("--directory", "s3://b", "--storage", "colour=red"): "--storage colour",
    }.items():
        run("list", *given, code=2)
        line = only_line(capsys)
        assert said in line, line
        assert "s3cr3t-in-clear" not in line


def test_a_disk_by_its_url_is_a_storage_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said) -> None:
    with embedded(tmp_path / "source") as made:
        fill(made, "alpha", chunks(30, 8))
    text = f"name: nightly\nsource: {{path: source}}\nsnapshot: {{directory: 'file://{tmp_path}/disk'}}\n"
    Path("backup.yaml").write_text(text, encoding="utf-8")
    run("create", "backup.yaml", "--id", "first")
    names = {str(p.relative_to(tmp_path / "disk")) for p in (tmp_path / "disk").rglob("*.json")}
    assert names == {"chroma-snapshots.json", "snapshots/first.json"}
    (part,) = (tmp_path / "disk" / "parts").iterdir()
    part.with_name(f".{'0' * 64}.parquet.1-{'0' * 16}.tmp").write_bytes(b"half")
    monkeypatch.setattr(remote, "BROKEN_OFF", timedelta(0))
    run("prune", "--yes")
    assert "removed: 1 × file whose upload never ended" in capsys.readouterr().out
    assert list((tmp_path / "disk" / "parts").iterdir()) == [part]
    monkeypatch.setenv("RUNBOOK_WORKSPACE", str(tmp_path / "elsewhere"))
    run("restore", "first", "--into", "back", "--directory", f"file://{tmp_path}/disk")


@pytest.mark.more
def test_a_folder_needs_no_driver(tmp_path: Path) -> None:
    with embedded(tmp_path / "source") as made:
        fill(made, "alpha", chunks(30, 8))
    Path("backup.yaml").write_text("name: n\nsource: {path: source}\nsnapshot: {directory: kept}\n", encoding="utf-8")
    code = """
import sys
from helpers import cli
for line in ("create backup.yaml --id first", "list --directory kept", "verify first --directory kept",
             "prune --directory kept --yes"):
    assert cli.main(["snapshots", *line.split()]) == 0, line
print(sorted({name.partition(".")[0] for name in sys.modules} & {"fsspec", "s3fs", "botocore", "aiobotocore"}))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.splitlines()[-1] == "[]", done.stdout + done.stderr
    assert not (tmp_path / "workspace" / ".stored").exists()

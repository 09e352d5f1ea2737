"""A pipe, a socket or a device in the place of a file: whoever opens it would wait for ever."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers import cli
from helpers.errors import RunbookError, Terminal, UsageError
from helpers.parameters import parameters_from
from helpers.parameters.endpoint import Endpoint, SecretRef
from helpers.run import folders as runs
from helpers.run.folders import RunPath
from helpers.stores import open_source
from helpers.stores.copying import copy_directory
from helpers.stores.index_files import IndexDamage, read_header, read_pickle
from helpers.stores.layout import DATABASE
from tests.signers import Signers, signed_run
from tests.storage import chunks, embedded, fill

INDEX = "6f1e3a52-2f0b-4d86-9e6b-0d9c7f1d9f10"
FILES = [
    DATABASE, f"{DATABASE}-wal", f"{DATABASE}-journal", "chroma-collections.parquet", "chroma-embeddings.parquet",
    *(f"{INDEX}/{name}" for name in ("header.bin", "data_level0.bin", "length.bin", "link_lists.bin", "index_metadata.pickle")),
]  # fmt: skip


@contextlib.contextmanager
def alarm(seconds: int) -> Iterator[None]:
    """An error where what is inside takes longer, also where it waits in the kernel of the machine."""

    def late(*_: object) -> None:
        raise TimeoutError(f"it took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize(("name", "read"), [("header.bin", read_header), ("index_metadata.pickle", read_pickle)])
def test_a_pipe_in_place_of_an_index_file_holds_nobody(
    tmp_path: Path, name: str, read: Callable[[Path], object]
) -> None:
    os.mkfifo(tmp_path / name)
    with alarm(5), pytest.raises(IndexDamage, match="no plain file"):
        read(tmp_path / name)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with one collection, and an index folder that is not its own."""
    folder = tmp_path_factory.mktemp("made") / "source"
    with embedded(folder) as store:
        fill(store, "alpha", chunks(3))
    (folder / INDEX).mkdir()
    for name in FILES[5:]:
        (folder / name).touch()
    return folder


@pytest.mark.parametrize("kind", ["pipe", "socket"])
@pytest.mark.parametrize("name", FILES)
def test_each_file_of_a_source_is_read_past_or_refused_in_one_line(
    made: Path, tmp_path: Path, name: str, kind: str
) -> None:
    source = tmp_path / "source"
    shutil.copytree(made, source)
    (source / name).unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(source / name)
    else:
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as listener, contextlib.chdir((source / name).parent):
            listener.bind(Path(name).name)
    said, names = "", []
    with alarm(60):
        try:
            with open_source(Endpoint(path=str(source)), tmp_path / "work") as store:
                names = store.names()
        except RunbookError as error:
            said = error.line()
    assert names == ["alpha"] or (said and "\n" not in said)


@pytest.mark.parametrize("name", [f"{INDEX}/header.bin", f"{DATABASE}-wal"])
@pytest.mark.parametrize("leads_to", ["/proc/self/pagemap", "secret"])
def test_no_file_behind_a_link_is_copied(made: Path, tmp_path: Path, name: str, leads_to: str) -> None:
    """It may have no end, and be anybody's."""
    source, secret = tmp_path / "source", tmp_path / "secret"
    shutil.copytree(made, source)
    secret.write_text("the key of somebody", encoding="utf-8")
    (source / name).unlink(missing_ok=True)
    (source / name).symlink_to(secret if leads_to == "secret" else leads_to)
    with alarm(30), pytest.raises(Terminal, match="is a link or no plain file, and is not copied") as refused:
        copy_directory(source, tmp_path / "work")
    assert Path(name).name in refused.value.line()
    assert not any(b"the key" in file.read_bytes() for file in (tmp_path / "work").rglob("*") if file.is_file())


def test_an_index_folder_that_is_a_link_brings_its_index_only_and_to_its_size(made: Path, tmp_path: Path) -> None:
    """Such as one that leads to the files of a process, of which some have no end."""
    source, behind = tmp_path / "source", tmp_path / "behind"
    shutil.copytree(made, source)
    shutil.move(source / INDEX, behind)
    (behind / "key").write_text("the key of somebody", encoding="utf-8")
    (source / INDEX).symlink_to(behind)
    (source / INDEX.replace("6f", "7f")).symlink_to("/proc/self")
    with alarm(30):
        copy_directory(source, tmp_path / "work")
    assert sorted(path.name for path in (tmp_path / "work" / INDEX).iterdir()) == sorted(
        Path(f).name for f in FILES[5:]
    )


PLACES = {  # of a run, or of its parameters: what names a file
    "source.headers": {"source": {"url": "http://127.0.0.1:9", "headers": {"X-Key": "file:PIPE"}}},
    "target.headers": {"target": {"url": "http://127.0.0.1:9", "headers": {"X-Key": "file:PIPE"}}},
    "notify.urls": {"notify": {"urls": ["file:PIPE"]}},
    "cutover.env_files": {"cutover": {"env_files": [{"path": "PIPE", "keys": {"URL": "{target_path}"}}]}},
    "cutover.compose_files": {"cutover": {"compose_files": [{"path": "PIPE", "keys": {"URL": "{target_path}"}}]}},
    "cutover.log_files": {"cutover": {"log_files": ["PIPE"]}},
    "signoff.allowed_signers": {"signoff": {"allowed_signers": "PIPE"}},
    "signoff.runner_key": {"signoff": {"runner_key": "PIPE"}},
    "monitoring.queries": {"monitoring": {"queries": "PIPE"}},
}


def special(path: Path, kind: str) -> str:
    """Put something that is no plain file there; its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    if kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as listener, contextlib.chdir(path.parent):
            listener.bind(path.name)
    return str(path)


@pytest.mark.parametrize("kind", ["pipe", "socket", "device"])
@pytest.mark.parametrize("place", PLACES)
def test_what_the_parameters_name_holds_no_command(
    folders: Path, capsys: pytest.CaptureFixture[str], place: str, kind: str
) -> None:
    text = json.dumps(PLACES[place]).replace("PIPE", special(folders / "named", kind))
    sections: dict[str, Any] = {"name": "night", "source": {"path": "from"}, "target": {"path": "to"}} | json.loads(
        text
    )
    parameters = parameters_from(sections)
    with alarm(30):
        runs.create(parameters, "night-1")
        for words in (["status", "night-1"], ["status"], ["verify", "night-1"], ["sign", "night-1", "--role", "dba"]):
            code, said = cli.main(words), capsys.readouterr()
            assert code in (0, 1, 2), said
            assert "Traceback" not in said.err


@pytest.mark.parametrize("kind", ["pipe", "socket", "device"])
def test_a_secret_in_what_is_no_plain_file_is_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "secret"
    path.write_text("s3cret-Tr0ub4dor\n", encoding="utf-8")
    (tmp_path / "link").symlink_to(path)
    assert (
        SecretRef("file", str(tmp_path / "link")).resolve().reveal() == "s3cret-Tr0ub4dor"
    )  # as orchestrators give it
    named = special(tmp_path / "other", kind)
    with alarm(5), pytest.raises(UsageError, match="which a secret refers to, cannot be read") as refused:
        SecretRef("file", named).resolve()
    assert "\n" not in refused.value.line()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders of a run that was signed and sealed."""
    place = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUNBOOK_REPORTS", str(place / "reports"))
        patch.setenv("RUNBOOK_WORKSPACE", str(place / "workspace"))
        signed_run(Signers(place / "people"))
    return place


def test_no_file_of_a_run_that_is_a_pipe_holds_status(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{top}/night-1/{p.relative_to(finished / top / 'night-1')}" for top in ("reports", "workspace")
             for p in sorted((finished / top / "night-1").rglob("*")) if p.is_file()]  # fmt: skip
    state = (
        RunPath.CUTOVER,
        RunPath.FENCE,
        RunPath.ROLLBACK,
        RunPath.CHECKPOINT,
        RunPath.PROGRESS,
        RunPath.NOTIFY,
        RunPath.RETRY,
    )
    names += [f"workspace/night-1/{name}" for name in state]
    assert len(names) > 40
    for number, name in enumerate(names):
        place = tmp_path / str(number)
        shutil.copytree(finished, place)
        monkeypatch.setenv("RUNBOOK_REPORTS", str(place / "reports"))
        monkeypatch.setenv("RUNBOOK_WORKSPACE", str(place / "workspace"))
        special(place / name, "pipe")
        with alarm(20):
            code = cli.main(["status", "night-1"])
        said = capsys.readouterr()
        assert code in (0, 1, 2, 3), (name, said)
        assert "Traceback" not in said.err, (name, said)
        shutil.rmtree(place)

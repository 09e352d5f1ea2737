"""Wrong parameters and a wrong world: one clear line, the right exit code, and not a byte written anywhere."""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from helpers import cli
from tests.commands import Runbook, only_line, tree
from tests.conftest import require_component
from tests.servers import ChromaServer, free_port

FULL = "chinese-zero-vector-1.5"  # 2 collections, 4 chunks, written by a current Chroma
OLD = "open-webui-cosine-0.5"
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 1228800\n"


class _NoChroma(BaseHTTPRequestHandler):
    """Answers every request with a page."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>It works!</html>")

    def log_message(self, *_: object) -> None:
        """Nothing: the test's output stays readable."""


@dataclass(frozen=True)
class World:
    """What a case may use: a folder of its own, real databases, a server that holds FULL, a server that is none."""

    home: Path
    real: Path
    url: str
    page: str

    def copy(self, name: str, to: str) -> Path:
        there = self.home / to
        shutil.copytree(self.real / name, there)
        for path in (there, *there.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        return there

    def database(self, folder: str, content: bytes) -> None:
        (self.home / folder).mkdir()
        (self.home / folder / "chroma.sqlite3").write_bytes(content)


@pytest.fixture(scope="module")
def urls(real_databases: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A Chroma server that holds FULL, and a server that is no Chroma: no case writes to either."""
    folder = tmp_path_factory.mktemp("server") / "chroma"
    shutil.copytree(real_databases / FULL, folder)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    page = ThreadingHTTPServer(("127.0.0.1", 0), _NoChroma)
    thread = threading.Thread(target=page.serve_forever, daemon=True)
    thread.start()
    with ChromaServer(folder) as server:
        yield server.url, f"http://127.0.0.1:{page.server_port}"
    page.shutdown()
    page.server_close()
    thread.join()


@pytest.fixture
def world(tmp_path: Path, real_databases: Path, urls: tuple[str, str]) -> World:
    return World(tmp_path, real_databases, *urls)


Case = Callable[[World], tuple[str, str]]  # prepares the world; source and target as the inside of a mapping


def _source(name: str) -> Case:
    def prepare(world: World) -> tuple[str, str]:
        world.copy(name, "source")
        return "path: source", "path: target"

    return prepare


def _half_of_0_3(world: World) -> tuple[str, str]:
    world.copy("duckdb-parquet-0.3", "source")
    (world.home / "source" / "chroma-collections.parquet").unlink()
    return "path: source", "path: target"


def _damaged(content: bytes) -> Case:
    def prepare(world: World) -> tuple[str, str]:
        world.database("source", content)
        return "path: source", "path: target"

    return prepare


def _endpoints(source: str, target: str) -> Case:
    """The endpoints as they are, with {url}, {page}, {down} put in; `source` of "full" is a copy of FULL."""

    def prepare(world: World) -> tuple[str, str]:
        if "path: source" in source:
            world.copy(FULL, "source")
        words = {"url": world.url, "page": world.page, "down": f"http://127.0.0.1:{free_port()}"}
        return source.format(**words), target.format(**words)

    return prepare


def _empty_folder(world: World) -> tuple[str, str]:
    (world.home / "source").mkdir()
    return "path: source", "path: target"


def _file_as_source(world: World) -> tuple[str, str]:
    (world.home / "source").write_text("not a folder", encoding="utf-8")
    return "path: source", "path: target"


def _truncated(world: World) -> tuple[str, str]:
    file = world.copy(OLD, "source") / "chroma.sqlite3"
    file.write_bytes(file.read_bytes()[:500_000])
    return "path: source", "path: target"


def _garbled(world: World) -> tuple[str, str]:
    """The header and the size are right; the schema's page is not."""
    file = world.copy(FULL, "source") / "chroma.sqlite3"
    content = bytearray(file.read_bytes())
    content[100:4096] = b"\xff" * 3996
    file.write_bytes(content)
    return "path: source", "path: target"


def _foreign_sqlite(world: World) -> tuple[str, str]:
    (world.home / "source").mkdir()
    with sqlite3.connect(world.home / "source" / "chroma.sqlite3") as db:
        db.execute("CREATE TABLE bookmarks (url TEXT)")
    db.close()
    return "path: source", "path: target"


def _target_taken(world: World) -> tuple[str, str]:
    world.copy(FULL, "target")
    return _source(FULL)(world)


def _target_foreign(world: World) -> tuple[str, str]:
    (world.home / "target").mkdir()
    (world.home / "target" / "letters.txt").write_text("mine", encoding="utf-8")
    return _source(FULL)(world)


def _target_is_file(world: World) -> tuple[str, str]:
    (world.home / "target").write_text("mine", encoding="utf-8")
    return _source(FULL)(world)


def _target_older(world: World) -> tuple[str, str]:
    world.copy(OLD, "target")
    return _source(FULL)(world)


def _target_below_a_file(world: World) -> tuple[str, str]:
    (world.home / "file").write_text("mine", encoding="utf-8")
    world.copy(FULL, "source")
    return "path: source", "path: file/below/target"


WORLDS: list[tuple[str, Case, str]] = [
    ("an incomplete 0.3 folder", _half_of_0_3, "a directory of Chroma 0.3 without this file"),
    ("a Git LFS pointer", _damaged(LFS.encode()), "git lfs pull"),
    ("an empty file", _damaged(b""), "not an SQLite database"),
    ("a foreign file", _damaged(b"PK\x03\x04" * 50), "not an SQLite database"),
    ("an empty folder", _empty_folder, "no chroma.sqlite3"),
    ("a missing folder", _endpoints("path: nowhere", "path: target"), "nowhere: no such folder"),
    ("a file for a folder", _file_as_source, "not a folder"),
    ("a truncated database", _truncated, "truncated"),
    ("a garbled database", _garbled, "source"),
    ("a foreign SQLite database", _foreign_sqlite, "not one that Chroma wrote"),
    ("a server that is down", _endpoints("url: '{down}', timeout_seconds: 2", "path: target"), "source"),
    ("a host that does not exist", _endpoints("url: 'http://no.such.host.invalid:8000'", "path: target"), "invalid"),
    ("a target server that is down", _endpoints("path: source", "url: '{down}'"), "target"),
    ("a server that is no Chroma", _endpoints("url: '{page}'", "path: target"), "not as a Chroma server does"),
    ("a target that is no Chroma", _endpoints("path: source", "url: '{page}'"), "not as a Chroma server does"),
    ("TLS where there is none", _endpoints("url: 'https://127.0.0.1:1'", "path: target"), "source"),
    ("a wrong tenant", _endpoints("url: '{url}', tenant: acme", "path: target"), "no tenant acme"),
    ("a wrong database", _endpoints("url: '{url}', database: acme", "path: target"), "no database acme"),
    ("a wrong database of a directory", _endpoints("path: source, database: acme", "path: target"), "acme"),
    ("a target that holds the collections", _target_taken, "already holds"),
    ("a target server that holds them", _endpoints("path: source", "url: '{url}'"), "already holds"),
    ("a target folder of something else", _target_foreign, "no chroma.sqlite3"),
    ("a target that is a file", _target_is_file, "not a folder"),
    ("a target of an older Chroma", _target_older, "older Chroma"),
    ("a target below a file", _target_below_a_file, "file"),
]  # fmt: skip


# Arguments for the command; "one" is no run, and {file} is a parameters file of these endpoints and further lines.
FINE = ("path: source", "path: target")
PARAMETERS: list[tuple[str, tuple[str, str], str, str, str]] = [
    ("a run id that leaves the folder", FINE, "", "run {file} --run-id ../../x", "cannot be the id of a run"),
    ("an unknown step", FINE, "", "run {file} --until 99", "there is no step '99'"),
    ("a step off the line", FINE, "", "run {file} --from index", "not part of the standard sequence"),
    ("--from without a run", FINE, "", "run {file} --from 23", "--run-id"),
    ("--from a run that is not there", FINE, "", "run --run-id one --from 23", "there is no run one"),
    ("steps the wrong way round", FINE, "", "run {file} --from 23 --until 21", "comes after"),
    ("a misspelt section", FINE, "migraton: {{batch_size: 5}}\n", "run {file}", "did you mean 'migration'?"),
    ("a misspelt key", FINE, "migration: {{batchsize: 5}}\n", "run {file}", "batch_size"),
    ("a misspelt key of --set", FINE, "", "run {file} --set source.pth=x", "source.path"),
    ("both url and path", ("path: source, url: 'http://localhost:8000'", "path: target"), "", "run {file}", "url"),
    ("neither url nor path", ("tenant: acme", "path: target"), "", "run {file}", "source"),
    ("source equal to target", ("path: source", "path: ./x/../source"), "", "run {file}", "the same folder"),
    ("a target inside the source", ("path: source", "path: source/new"), "", "run {file}", "inside one another"),
    ("a query after the path", ("url: 'http://localhost:8000/x?a=b'", "path: target"), "", "run {file}", "query"),
    ("an unknown schema", FINE, "", "run {file} --set schema=if_tt", "if_ttt"),
    ("contradictory counts", FINE, "expected: {{collections: {{a: 1}}, total: 3}}\n", "run {file}", "total"),
    ("a batch size of 0", FINE, "", "run {file} --set migration.batch_size=0", "batch_size"),
    ("a key twice", FINE, "name: again\n", "run {file}", "name"),
    ("a secret that nobody set", ("url: 'http://localhost:8000', headers: {{X-A: 'env:NOBODY_SET_THIS'}}", "path: target"),
     "", "run {file}", "NOBODY_SET_THIS"),
    ("a file that is not there", FINE, "", "run nowhere.yaml", "nowhere.yaml"),
    ("a folder for a file", FINE, "", "run .", "not a file"),
    ("no mapping", FINE, "", "run list.yaml", "a list at the top"),
    ("no YAML", FINE, "", "run broken.yaml", "broken.yaml"),
    ("no text", FINE, "", "run bytes.yaml", "bytes.yaml"),
    ("an empty file", FINE, "", "run empty.yaml", "empty.yaml"),
    ("resume of no run", FINE, "", "resume one", "there is no run one"),
    ("status of no run", FINE, "", "status one", "there is no run one"),
    ("sign for no run", FINE, "", "sign one --role dba --name A --decision go --key k", "there is no run one"),
    ("sign without a decision", FINE, "", "sign one --role dba --name A --decision maybe", "--decision"),
    ("no command", FINE, "", "", "COMMAND"),
    ("an unknown option", FINE, "", "run {file} --fast", "--fast"),
]  # fmt: skip

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture) -> Callable[..., str]:
    """`refusal(code, "run", …)`: the one line with which the command in this process ends; nothing may be written.

    Starting a process for each case would take minutes; those of `test_the_command_itself` are started.
    """
    monkeypatch.setenv("RUNBOOK_REPORTS", str(tmp_path / "reports"))
    monkeypatch.setenv("RUNBOOK_WORKSPACE", str(tmp_path / "workspace"))
    monkeypatch.chdir(tmp_path)

    def run(code: int, *arguments: str) -> str:
        before = tree(tmp_path)
        ended = cli.main(list(arguments))
        said = capfd.readouterr()
        assert (ended, len(said.err.splitlines()), said.out) == (code, 1, ""), said.err + said.out
        assert said.err.startswith("runbook: ")
        assert tree(tmp_path) == before, "something was written"
        return said.err

    return run


@pytest.mark.parametrize(("prepare", "said"), [c[1:] for c in WORLDS], ids=[c[0] for c in WORLDS])
def test_a_wrong_world_costs_one_line(world: World, refusal: Callable[..., str], prepare: Case, said: str) -> None:
    file = Runbook(world.home).write("night", *prepare(world))
    assert said in refusal(1, "run", file, "--until", "23")


@pytest.mark.parametrize(("ends", "more", "arguments", "said"), [c[1:] for c in PARAMETERS],
                         ids=[c[0] for c in PARAMETERS])  # fmt: skip
def test_wrong_parameters_cost_one_line(
    tmp_path: Path, refusal: Callable[..., str], ends: tuple[str, str], more: str, arguments: str, said: str
) -> None:
    (tmp_path / "list.yaml").write_text("- name: night\n", encoding="utf-8")
    (tmp_path / "broken.yaml").write_text("name: [night\nsource: }", encoding="utf-8")
    (tmp_path / "bytes.yaml").write_bytes(b"name: \xff\xfe\x00")
    (tmp_path / "empty.yaml").touch()
    file = Runbook(tmp_path).write("night", ends[0].format(), ends[1].format(), more.format())
    assert said in refusal(2, *arguments.format(file=file).split())


@pytest.mark.parametrize(
    ("prepare", "arguments", "code"),
    [
        (_target_taken, "--until 23", 1),
        pytest.param(_half_of_0_3, "--until 23", 1, marks=pytest.mark.slow),
        pytest.param(_endpoints("url: '{url}', tenant: acme", "path: target"), "--until 23", 1, marks=pytest.mark.slow),
        pytest.param(_endpoints("path: source", "path: target"), "--run-id ../../x", 2, marks=pytest.mark.slow),
        (_endpoints("path: source", "path: target"), "--set migraton.workers=2", 2),
    ],
)
def test_the_command_itself(world: World, prepare: Case, arguments: str, code: int) -> None:
    runbook = Runbook(world.home)
    file = runbook.write("night", *prepare(world))
    before = tree(world.home)
    done = runbook("run", file, *arguments.split(), process=True)
    assert only_line(done, code)
    assert done.stdout == ""
    assert tree(world.home) == before


@pytest.mark.more
def test_a_target_below_a_folder_that_may_not_be_written(world: World) -> None:
    through: list[str] = []
    if os.geteuid() == 0:  # root passes over permissions unless it gives its capabilities up
        reason = "a folder that even root may not write to"
        through = [str(require_component("setpriv", reason)), "--bounding-set=-all", "--inh-caps=-all"]
    world.copy(FULL, "source")
    (world.home / "closed").mkdir(mode=0o555)
    runbook = Runbook(world.home)
    file = runbook.write("night", "path: source", "path: closed/below/target")
    before = tree(world.home)
    assert "not writable" in only_line(runbook("run", file, through=through), 1)
    assert tree(world.home) == before

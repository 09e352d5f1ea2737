"""The table of a fleet: each bad row is one line with row, column and what to do, and nothing is started; discovery."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers import cli
from helpers.errors import UsageError
from helpers.parameters import load_parameters
from helpers.parameters.endpoint import Endpoint
from helpers.run import folders as runs
from helpers.run import plan
from helpers.runner import fleet, fleet_table
from tests.fleets import checked, made, source, write
from tests.servers import ChromaServer
from tests.storage import tree
from tests.test_many_databases_in_one_order import PLACES, filled

pytestmark = pytest.mark.usefixtures("folders")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return source(tmp_path_factory.mktemp("small") / "s")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, small: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("s0", "s1", "s2", "source"):
        shutil.copytree(small, tmp_path / name)
    return tmp_path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChromaServer]:
    with ChromaServer(tmp_path_factory.mktemp("served") / "source") as server:
        filled({"url": server.url}, PLACES)
        yield server


def row(name: str = "a", source: str = "s0", target: str = "t0", **more: Any) -> dict[str, Any]:
    return {"name": name, "source": source, "target": target, **more}


def lines(rows: list[dict[str, Any]], home: Path, base: str = "schema: identity\n") -> list[str]:
    return [row.line() for row in checked(home, rows, base).rows if row.problems]


# -- bad rows ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([row(name="")], "row 1: column name is empty; give each row a name of its own"),
        ([row(name="a b")], "row 1 (a b): column name: 'a b' cannot be part of a run's id"),
        ([row(name="x" * 63)], "cannot be part of a run's id"),
        ([row(), row(name="A", source="s1", target="t1")], "row 2 (A): column name: row 1 has this name, too"),
        ([row(source="")], "row 1 (a): column source is empty, and the parameters file names no source"),
        ([row(source="nowhere")], "nowhere: no such folder"),
        ([row(source="http://127.0.0.1:1")], "Connection refused"),
        ([row(target="http://127.0.0.1:1")], "Connection refused"),
        ([row(target="s0")], "are the same folder"),
        ([row(), row(name="b", source="s1", target="./t0/")], "row 2 (b): column target is the target of row 1 (a), too"),
        ([row(), row(name="b", source="s1", target="link")], "row 2 (b): column target is the target of row 1 (a), too"),
        ([row(), row(name="b", source="s1", target="t0/inside")], "row 2 (b): column target lies inside the target of row 1"),
        ([row(), row(name="b", source="s1", target="../{here}/s0")], "row 2 (b): column target is the source of row 1 (a)"),
        (
            [
                row(target="http://localhost:9/"),
                row(name="b", source="s1", target="http://127.0.0.1:9", **{"target.database": "default_database"}),
            ],
            "row 2 (b): column target is the target of row 1 (a), too",
        ),
        (
            [row(target="http://DB:80"), row(name="b", source="http://db/", target="t1")],
            "row 1 (a): column target is the source of row 2 (b)",
        ),
        ([row(**{"migration.batch_size": "many"})], "'migration.batch_size' must be a whole number, got the text 'many'"),
        ([row(**{"source.database": "*"})], "source: * means many databases; give each a row"),
        ([row(**{"source.database": "other"})], "other"),
    ],
)  # fmt: skip
def test_a_bad_row_is_one_line_that_names_row_and_column(rows: list[dict[str, Any]], said: str, here: Path) -> None:
    (here / "link").symlink_to("t0")
    rows = [{**r, "target": r["target"].format(here=here.name)} for r in rows]
    found = lines(rows, here)
    assert any(said in line for line in found), found
    assert all(line.startswith("row ") and "\n" not in line for line in found)


def test_all_rows_are_checked_and_the_command_does_nothing_at_all(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, base = write(here, [row(), row("b", "s1", "t0"), row("c", "gone", "t2"), row("d", "s2", "t3")])
    before = tree(here)
    assert cli.main(["fleet", str(table), str(base), "--name", "f"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    first, second, last = said.err.splitlines()
    assert first.startswith(
        "runbook: row 2 (b): column target is the target of row 1 (a), too; each row needs a target"
    )
    assert first.endswith("of its own")
    assert second.startswith("runbook: row 3 (c): source.path gone: no such folder")
    assert "2 rows of 4 cannot go; nothing was started. Correct these rows" in last
    assert tree(here) == before


def test_rows_of_one_source_and_databases_of_one_server_are_no_mistake(here: Path, server: ChromaServer) -> None:
    rows = [row(str(n), "s0", server.url, **{"target.database": f"made-{n}"}) for n in range(3)]
    assert lines(rows, here) == []


def test_what_the_parameters_file_names_is_for_every_row(here: Path, server: ChromaServer) -> None:
    base = f"schema: identity\nsource: {{path: s0, timeout_seconds: 7.0}}\ntarget: {{url: '{server.url}'}}\n"
    rows: list[dict[str, Any]] = [
        {"name": "a", "target.database": "new-a"},
        {"name": "b", "source": "s1", "target.database": "new-b", "migration.batch_size": 10},
    ]
    table = checked(here, rows, base)
    assert [r.line() for r in table.rows if r.problems] == []
    a, b = (r.parameters for r in table.rows)
    assert a is not None
    assert b is not None
    assert (a.name, a.source.path, a.source.timeout_seconds, a.target.database) == ("a", "s0", 7.0, "new-a")
    assert (b.name, b.source.path, b.source.timeout_seconds, b.migration.batch_size) == ("b", "s1", 7.0, 10)


# -- the file ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("t.txt", "name\na\n", "a table is a .csv or a .yaml file"),
        ("gone.csv", None, "cannot be read"),
        ("t.csv", "", "it has no rows"),
        ("t.csv", "name,name\na,b\n", "the column 'name' is there twice"),
        ("t.csv", "name,source,migration.bach_size\na,s,1\n", "did you mean 'migration.batch_size'?"),
        ("t.csv", "name,,target\na,b,c\n", "a column has cells and no name"),
        ("t.csv", 'name,source\n"a,b\n', "not a CSV file"),
        ("t.yaml", "name: a\n", "it is not a list of rows"),
        ("t.yaml", "- a\n", "row 1 is not a mapping"),
        ("t.yaml", "- name: [\n", "not valid YAML"),
        ("t.csv", b"name\n\xff\n", "not UTF-8 text"),
    ],
)
def test_a_file_that_is_no_table_is_one_line(name: str, text: Any, said: str, here: Path) -> None:
    if text is not None:
        (here / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UsageError) as caught:
        fleet_table.read_table(here / name)
    assert said in caught.value.line()


def test_spreadsheets_and_yaml_say_the_same(here: Path) -> None:
    (here / "t.csv").write_text("\ufeffname;source;migration.batch_size;target.database\r\n\r\n7;s0;10;12\r\n")
    (here / "t.yaml").write_text(
        "- {name: 7, source: s0, migration.batch_size: 10, target.database: 12, expected.total: }\n"
    )
    wanted = {"name": "7", "source": "s0", "migration.batch_size": 10, "target.database": "12"}
    assert [fleet_table.read_table(here / name).rows[0].cells for name in ("t.csv", "t.yaml")] == [wanted, wanted]
    (here / "t.csv").write_text("name,source,target\na,s0\n")
    (short,) = fleet_table.read_table(here / "t.csv").rows
    assert "it has 2 cells, and the head of the table 3" in short.line()


# -- the fleet ---------------------------------------------------------------------------------------------------------


def test_a_fleet_is_there_whole_or_not_at_all_and_its_rows_are_what_was_checked(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        """As kill -9."""

    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as dying:
        dying.setattr(fleet.Fleet, "save", die)
        with pytest.raises(Killed):
            made(here, "ab")
    assert not fleet.folder_of("f").reports.exists()
    found = made(here, "ab")
    assert fleet.read("f") == found
    assert [r.run for r in found.rows] == ["f-a", "f-b"]
    written = load_parameters(fleet.folder_of("f").reports / "rows" / "a.yaml")
    assert (written.name, written.target.path) == ("a", str(here / "target-a"))
    with pytest.raises(UsageError, match="fleet f exists already"):
        made(here, "ab")
    assert runs.every_run() == []


def test_a_fleet_of_a_newer_toolkit_and_one_that_is_not_there_cost_one_line(here: Path) -> None:
    with pytest.raises(UsageError, match="there is no fleet f"):
        fleet.read("f")
    found = made(here, "a")
    found.version = 99
    found.save(fleet.folder_of("f").reports)
    with pytest.raises(Exception, match="a newer toolkit wrote it"):
        fleet.read("f")
    with pytest.raises(UsageError, match="cannot be the id of a run"):
        runs.check_run_id("fleets")


# -- discover ----------------------------------------------------------------------------------------------------------


def test_a_table_is_made_of_the_databases_that_hold_something(
    here: Path, server: ChromaServer, capsys: pytest.CaptureFixture[str]
) -> None:
    filled({"path": "many"}, PLACES)
    assert cli.main(["fleet", "discover", "many", "--to", "t.yaml"]) == 0
    assert "3 rows. Left out, for they hold no collection: default_tenant/default_database." in capsys.readouterr().out
    rows = fleet_table.read_table(here / "t.yaml").rows
    assert [(r.name, r.cells["source.tenant"], r.cells["target.database"]) for r in rows] == [
        ("people", "acme", "people"), ("sales", "acme", "sales"), ("beta-people", "beta", "people"),
    ]  # fmt: skip
    command = ["fleet", "--discover", server.url, "--tenant", "acme", "--tenant", "beta", "--to", "t.csv"]
    assert cli.main(command) == 0
    assert [r.name for r in fleet_table.read_table(here / "t.csv").rows] == ["people", "sales", "beta-people"]
    kept = (here / "t.csv").read_bytes()
    assert cli.main(command) == 2
    assert "something is there already" in capsys.readouterr().err
    assert (here / "t.csv").read_bytes() == kept
    base = f"schema: identity\ntarget: {{url: '{server.url}'}}\n"
    (here / "base.yaml").write_text(base)
    table = fleet_table.read_table(here / "t.yaml")
    fleet_table.check(table, here / "base.yaml", [], "f")
    assert all("already holds notes" in r.line() for r in table.rows)  # the databases of that server are full already


def test_a_discovered_name_is_text_in_every_table(here: Path) -> None:
    filled({"path": "odd"}, [("acme", "=1+1"), ("acme", "a\u202eb")])
    place = Endpoint(path="odd")
    with pytest.raises(UsageError, match="a spreadsheet runs or hides"):
        fleet_table.discover(place, [], here / "t.csv")
    assert not (here / "t.csv").exists()
    fleet_table.discover(place, [], here / "t.yaml")
    assert (here / "t.yaml").read_text().isascii()
    found = fleet_table.read_table(here / "t.yaml").rows
    assert sorted(r.cells["source.database"] for r in found) == ["=1+1", "a\u202eb"]
    assert all(plan.LINE and runs.check_run_id(r.name) for r in found)


def test_a_row_is_begun_by_hand_with_the_file_of_its_row_only(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begun: list[str] = []

    def begin(parameters: Any, folder: runs.RunFolder, *_: Any) -> int:
        begun.append(folder.id)
        return 0

    monkeypatch.setattr(cli.run, "_begin", begin)
    made(here, "ab")
    file, other = (fleet.folder_of("f").reports / "rows" / f"{name}.yaml" for name in "ab")
    for given, run, more in ((other, "f-a", []), (file, "f-a", ["--set", "collections.shard=1/2"]), (file, "f-z", [])):
        assert cli.main(["run", str(given), "--run-id", run, "--fleet", "f", *more]) == 2
        assert f" is not what fleet f orders for run {run} in {here}" in capsys.readouterr().err
    (here / "else").mkdir()
    with contextlib.chdir(here / "else"):
        assert cli.main(["run", str(file), "--run-id", "f-a", "--fleet", "f"]) == 2
    assert begun == []
    assert cli.main(["run", str(file), "--run-id", "f-a", "--fleet", "f"]) == 0
    assert begun == ["f-a"]

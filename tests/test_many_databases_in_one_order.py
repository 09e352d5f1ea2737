"""`source.database: "*"`: a run for each database, one after another; what the target lacks is made, and taken away again."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers import audit, cli
from helpers.errors import Interrupted, NoGo, RunbookError, Terminal, UsageError, WaitingForSignoffs
from helpers.migration.target_lock import (
    MadeDatabase,
    claim_target,
    ensure_database,
    give_back_target,
    preflight,
    remove_made_database,
)
from helpers.parameters import parameters_from
from helpers.parameters.endpoint import Endpoint
from helpers.reason_codes import ReasonCode
from helpers.results import Check, write_text
from helpers.run import folders as runs
from helpers.run.folders import RunFolder
from helpers.run.record import RunRecord
from helpers.runner import group
from helpers.steps.source_health import SourceHealthStep
from helpers.steps.target_readiness import TargetReadinessStep
from helpers.stores import open_target
from helpers.stores.opening import create_levels, databases_of, holds_nothing, missing_levels
from tests.cloud_standin import CloudStandIn
from tests.servers import ChromaServer
from tests.storage import chunks, plan, tree

PLACES = [("acme", "people"), ("acme", "sales"), ("beta", "people")]


def filled(place: dict[str, Any], databases: list[tuple[str, str]], count: int = 4) -> None:
    """These tenants and databases, each with a collection `notes` of its own chunks."""
    for number, (tenant, database) in enumerate(databases):
        there = Endpoint(**place, tenant=tenant, database=database)
        create_levels(there, missing_levels(there))
        with open_target(there) as store:
            store.create(plan("notes", "cosine"))
            store.add("notes", chunks(count, seed=number, prefix=f"{tenant}-{database}-"))


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("many") / "source"
    filled({"path": str(path)}, PLACES)
    return path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChromaServer]:
    with ChromaServer(tmp_path_factory.mktemp("served") / "source") as server:
        filled({"url": server.url}, PLACES)
        yield server


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNBOOK_REPORTS", str(tmp_path / "reports"))
    monkeypatch.setenv("RUNBOOK_WORKSPACE", str(tmp_path / "workspace"))
    monkeypatch.chdir(tmp_path)


def ordered(source: dict[str, Any], target: dict[str, Any] | None = None, **more: Any) -> group.Group:
    parameters = parameters_from({"source": source, "target": target or {"path": "target"}, **more})
    return group.begin(parameters, "many", dry_run=False, until="53")


# -- which databases ---------------------------------------------------------------------------------------------------


def test_a_directory_lists_its_tenants_and_databases_and_stays_as_it_is(directory: Path) -> None:
    before = tree(directory)
    usual = ("default_tenant", "default_database")
    assert databases_of(Endpoint(path=str(directory), tenant="*", database="*")) == [*PLACES, usual]
    assert databases_of(Endpoint(path=str(directory), tenant="acme", database="*")) == PLACES[:2]
    assert holds_nothing(Endpoint(path=str(directory)))
    assert not holds_nothing(Endpoint(path=str(directory), tenant="acme", database="sales"))
    assert tree(directory) == before


def others(source: dict[str, Any], run_id: str, group: str = "") -> Check:
    parameters = parameters_from({"source": source, "target": {"path": "t"}, "signoff": {"required": []}})
    run = RunRecord(runs.create(parameters, run_id, group=group), "10", parameters)
    SourceHealthStep(run).reach()
    return next(check for check in run.result.checks if check.name == "other databases with collections")


def test_step_10_warns_of_other_databases_where_nobody_chose(
    directory: Path, server: ChromaServer, tmp_path: Path
) -> None:
    shutil.copytree(directory, source := tmp_path / "source")
    place: dict[str, Any] = {"path": str(source)}
    with open_target(Endpoint(**place)) as store:
        store.create(plan("mine", "cosine"))
    before = tree(source)
    warned = others(place, "one")
    assert (warned.verdict, warned.measured, warned.reason) == ("warning", 3, "source_findings")
    assert "acme/people, acme/sales, beta/people" in warned.detail
    named = others({**place, "tenant": "acme", "database": "sales"}, "named")
    listed = others(place, "listed", "a-table")
    for noted in (named, listed):
        assert (noted.verdict, noted.measured) == ("pass", 3)
        assert "beta/people" in noted.detail
    assert tree(source) == before
    served = others({"url": server.url, "tenant": "acme", "database": "sales"}, "served")
    assert (served.verdict, served.measured) == ("pass", 1), "tenants are not listed"
    assert "acme/people" in served.detail
    alone = others({"url": server.url, "tenant": "beta", "database": "people"}, "alone")
    assert (alone.verdict, alone.measured, alone.detail) == ("pass", 0, "")


def test_a_server_lists_the_databases_of_one_tenant_and_no_tenants(server: ChromaServer) -> None:
    assert databases_of(Endpoint(url=server.url, tenant="acme", database="*")) == PLACES[:2]
    with pytest.raises(UsageError, match="does not list its tenants") as caught:
        databases_of(Endpoint(url=server.url, tenant="*", database="*"))
    assert "Name one tenant" in caught.value.line()


def test_cloud_says_which_databases_the_key_opens(server: ChromaServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with CloudStandIn(server.url, tenant="team-1", databases=("first", "second")) as cloud:
        monkeypatch.setenv("KEY", cloud.key)
        monkeypatch.setenv("WIDE", cloud.wide_key)
        for name in ("KEY", "WIDE"):
            source = Endpoint(url=cloud.url, headers={"x-chroma-token": f"env:{name}"}, database="*")  # type: ignore[dict-item]
            assert databases_of(source) == [("team-1", "first"), ("team-1", "second")]


class Killed(BaseException):
    """As kill -9."""


def test_an_order_is_there_whole_or_not_at_all(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed before its file is written it is no order: the same command begins it, and is not told that it exists already."""
    source = {"path": str(directory), "tenant": "*", "database": "*"}

    def die(path: Path, text: str) -> None:
        if path.name == runs.GROUP:
            raise Killed
        write_text(path, text)

    with monkeypatch.context() as dying:
        dying.setattr(group, "write_text", die)
        with pytest.raises(Killed):
            ordered(source)
    assert not RunFolder.of("many").reports.exists()
    assert group.read("many") is None
    assert ordered(source) == group.read("many")
    assert [p.name for p in runs.reports_root().iterdir()] == ["many"]


def test_an_order_that_something_else_wrote_begins_nothing(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its file names what is executed, and who has to sign."""
    ordered({"path": str(directory), "tenant": "*", "database": "*"})
    file = runs.reports_root() / "many" / runs.GROUP
    assert file.parent.stat().st_mode & 0o777 == 0o700
    said = json.loads(file.read_text())
    said["parameters"]["signoff"] |= {"required": [], "push_digest": ["sh", "-c", "touch planted"]}
    file.write_text(json.dumps(said))
    for command in (
        ["resume", "many"],
        ["sign", "many", "--role", "dba", "--decision", "go", "--key", "k", "--name", "N"],
    ):
        assert cli.main(command) == 2
        assert "group.json is not the order that was given" in capsys.readouterr().err
    assert [path.name for path in runs.reports_root().iterdir()] == ["many"]


def test_what_was_ordered_is_recorded_once_by_whichever_command_goes_on(directory: Path) -> None:
    made = ordered({"path": str(directory), "tenant": "*", "database": "*"})
    for _ in range(2):
        group.record(made)
    [entry] = audit.entries(runs.reports_root() / "many" / audit.NAME)
    assert (entry["action"], entry["facts"]["runs"]) == ("group begun", [row.run for row in made.rows])


def test_each_database_is_a_run_with_a_target_of_the_same_name(directory: Path) -> None:
    made = ordered({"path": str(directory), "tenant": "*", "database": "*"})
    assert [row.name for row in made.rows] == [
        "acme/people",
        "acme/sales",
        "beta/people",
        "default_tenant/default_database",
    ]
    assert [row.run for row in made.rows][:3] == ["many-acme-people", "many-acme-sales", "many-beta-people"]
    for row, (tenant, database) in zip(made.rows, PLACES, strict=False):
        one = made.parameters_of(row)
        assert (one.source.tenant, one.source.database, one.target.tenant, one.target.database) == (
            tenant,
            database,
        ) * 2
    assert group.read("many") == made
    assert group.read("other") is None


def test_names_that_no_folder_could_have_get_a_run_of_their_own(tmp_path: Path) -> None:
    names = ["a..b/c", "a-b-c", "A-b-c", "é" * 200, "x" * 120, "x" * 121]
    taken: set[str] = set()
    for name in names:
        taken.add(group._run_id("many", name, taken))
    assert len({run.lower() for run in taken}) == len(names)
    assert all(runs.check_run_id(run) for run in taken)


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"source": {"database": "*"}, "target": {"database": "one"}}, "target.database names one"),
        ({"source": {}, "target": {"database": "*"}}, "target.database is *, but source.database names one"),
        ({"source": {"tenant": "*"}, "target": {}}, "source.tenant is *, but source.database names one"),
        ({"source": {"database": "*"}, "target": {}, "expected": {"total": 4}}, "expected counts"),
    ],
)
def test_orders_that_make_no_sense_cost_one_line(directory: Path, sections: dict[str, Any], said: str) -> None:
    given = {**sections, "source": {"path": str(directory), **sections["source"]},
             "target": {"path": "target", **sections["target"]}}  # fmt: skip
    with pytest.raises(UsageError, match=said.replace("*", r"\*")):
        ordered(given.pop("source"), given.pop("target"), **given)
    assert group.read("many") is None


def test_one_run_alone_refuses_the_star(directory: Path) -> None:
    parameters = parameters_from({"source": {"path": str(directory), "database": "*"}, "target": {"path": "target"}})
    with pytest.raises(UsageError, match="means many databases"):
        preflight(parameters)


# -- one after another -------------------------------------------------------------------------------------------------


def test_a_failed_run_stops_no_other_and_the_exit_code_is_the_worst(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = ordered({"path": str(directory), "tenant": "*", "database": "*"})
    ends: dict[str, RunbookError] = {
        "acme/people": WaitingForSignoffs(ReasonCode.SIGNOFFS_MISSING, "waits"),
        "acme/sales": Terminal(ReasonCode.DISK_FULL, "no room", next_step="Free disk space."),
        "beta/people": NoGo(ReasonCode.NO_GO, "differs"),
    }
    begun: list[str] = []

    def start(row: group.GroupRow) -> None:
        begun.append(row.name)
        raise ends[row.name]

    said: list[str] = []
    assert group.work(made, start, said.append) == 1
    assert begun == ["acme/people", "acme/sales", "beta/people"]  # the empty database is passed over
    lines = {line.split()[0]: line for line in said[-1].splitlines() if "/" in line[:20]}
    assert "waiting for sign-offs" in lines["acme/people"]
    assert "failed (disk_full)" in lines["acme/sales"]
    assert "NO-GO" in lines["beta/people"]
    assert "empty" in lines["default_tenant/default_database"]
    assert said[-1].splitlines()[-1].startswith("Next: .venv/bin/runbook resume many")
    assert "runbook: acme/sales: no room. Free disk space." in capsys.readouterr().err

    ends |= {"acme/sales": Interrupted(ReasonCode.INTERRUPTED, "stopped on request")}
    begun.clear()
    assert group.work(made, start, said.append) == 130
    assert begun == ["acme/people", "acme/sales"]


def test_commands_take_the_group_or_say_that_they_want_one_run(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = ordered({"path": str(directory), "tenant": "*", "database": "*"})
    runs.create(made.parameters_of(made.rows[0]), made.rows[0].run)
    assert cli.main(["status", "many"]) == 0
    shown = capsys.readouterr().out
    assert "many-acme-people" in shown
    assert "not begun" in shown
    assert cli.main(["rollback", "many"]) == 2
    assert "is a group of 4 runs" in capsys.readouterr().err
    assert cli.main(["resume", "many", "--retry", "22"]) == 2
    assert "one run of a group" in capsys.readouterr().err
    assert cli.main(["sign", "many", "--role", "dba", "--name", "A", "--decision", "go", "--key", "k"]) == 2
    assert "no run of many waits for dba" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_runs_each_database_and_resumes_what_is_left(
    directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_target(Endpoint(path=str(tmp_path / "target"))) as store:
        store.create(plan("other"))
    there = Endpoint(path=str(tmp_path / "target"), database="sales")
    create_levels(there, missing_levels(there))
    with open_target(there) as store:
        store.create(plan("notes"))  # somebody else's
    order = {
        "name": "many",
        "source": {"path": str(directory), "tenant": "acme", "database": "*"},
        "target": {"path": "target"},
    }
    Path("p.yaml").write_text(json.dumps(order), encoding="utf-8")
    assert cli.main(["run", "p.yaml", "--run-id", "many", "--until", "10"]) == 1
    out = capsys.readouterr()
    assert "passed up to 10" in out.out
    assert "failed (target_not_empty)" in out.out
    assert RunFolder.of("many-people").exists
    assert not RunFolder.of("many-sales").exists
    with open_target(there) as store:
        store.drop("notes")
    assert cli.main(["resume", "many"]) in (0, 1, 4)  # the first goes on to the end of the line, the second begins
    assert RunFolder.of("many-sales").read().result("10") is not None


# -- what the target lacks ---------------------------------------------------------------------------------------------


@pytest.fixture(params=["new folder", "folder", "server"])
def target(request: pytest.FixtureRequest, tmp_path: Path, server: ChromaServer) -> dict[str, Any]:
    """A place without tenant `made` and database `<kind>`."""
    name = request.param.replace(" ", "-")
    if request.param == "server":
        return {"url": server.url, "tenant": "made", "database": name}
    if request.param == "folder":
        with open_target(Endpoint(path=str(tmp_path / "target"))):
            pass
    return {"path": str(tmp_path / "target"), "tenant": "made", "database": name}


@pytest.fixture
def night(directory: Path, target: dict[str, Any]) -> RunFolder:
    source = {"path": str(directory), "tenant": "acme", "database": "people"}
    return runs.create(parameters_from({"source": source, "target": target}), "night")


def test_step_12_says_what_will_be_made_and_leaves_no_trace(night: RunFolder, target: dict[str, Any]) -> None:
    preflight(night.read().parameters)
    place = Path(target["path"]) if "path" in target else None
    step = TargetReadinessStep(RunRecord(night.read(), "12", night.read().parameters))
    shown = dict(step.reach().itertuples(index=False, name=None))
    assert shown["to be made by step 20"].endswith(f"database {target['database']}")
    step.probe_writing()
    assert not [c for c in step.run.result.checks if c.verdict == "fail"]
    [made] = [
        c for c in step.run.result.checks if c.reason == "target_database_made"
    ]  # a wrong name must not pass unseen
    assert made.verdict == "warning"
    assert target["database"] in str(made.measured)
    assert "database" in missing_levels(night.read().parameters.target)
    if place is not None and place.exists():
        assert databases_of(Endpoint(path=str(place), tenant="*", database="*")) == [
            ("default_tenant", "default_database")
        ]


@pytest.mark.parametrize(("order", "verdict"), [(True, "pass"), (None, "warning"), (False, "fail")])
def test_step_20_makes_it_as_the_operator_ordered(
    night: RunFolder, target: dict[str, Any], order: bool | None, verdict: str
) -> None:
    given = {"source": night.read().parameters.source.model_dump(mode="json"), "target": {**target, "create": order}}
    folder = runs.create(parameters_from(given), "ordered")
    step = TargetReadinessStep(RunRecord(folder, "12", folder.parameters))
    step.reach()
    [made] = [c for c in step.run.result.checks if c.name == "tenant and database of the target"]
    assert (made.verdict, made.parameter) == (verdict, "target.create")
    if order is False:
        with pytest.raises(RunbookError, match="made"):
            preflight(folder.parameters)
        with pytest.raises(UsageError, match=r"target\.create is false"):
            ensure_database(folder)
        assert "database" in missing_levels(folder.parameters.target)
    else:
        preflight(folder.parameters)


@pytest.mark.more
def test_what_step_20_makes_is_taken_away_when_nothing_was_written(night: RunFolder, target: dict[str, Any]) -> None:
    claim_target(night.read())
    there = night.read().parameters.target
    assert missing_levels(there) == ()
    assert claim_target(night.read())  # again, as after a kill
    assert give_back_target(night.read())
    assert "database" in missing_levels(there)
    assert remove_made_database(night.read()) == ""
    claim_target(night.read())
    with open_target(there) as store:
        store.create(plan("theirs"))
        store.release_lock("night")
    assert "stays" in remove_made_database(night.read())  # somebody else's collection keeps it
    with open_target(there) as store:
        store.drop("theirs")
    assert "removed" in remove_made_database(night.read())


def test_a_database_that_was_there_is_never_taken_away(night: RunFolder) -> None:
    create_levels(night.read().parameters.target, missing_levels(night.read().parameters.target))
    assert ensure_database(night.read()) == ()
    assert not (night.workspace / MadeDatabase.file).exists()
    assert remove_made_database(night.read()) == ""
    assert missing_levels(night.read().parameters.target) == ()


# -- forty -------------------------------------------------------------------------------------------------------------

FORTY = """
import resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
import numpy as np
from helpers.migration.target_lock import ensure_database
from helpers.migration.importing import Job
from helpers.parameters import parameters_from
from helpers.results import silent
from helpers.run import folders as runs
from helpers.run.record import RunRecord
from helpers.snapshots.retention import take
from helpers.run.record import open_chosen
from helpers.runner import group
from helpers.stores import open_target
from helpers.validation.fidelity import Expectation
from helpers.validation.fidelity import Examination

source, target = (dict(kind=p) for p in sys.argv[1:3])
def place(text):
    return {"url": text} if text.startswith("http") else {"path": text}
tenants = sys.argv[3].split(",")
done = 0
for tenant in tenants:
    given = {"source": {**place(sys.argv[1]), "tenant": tenant, "database": "*"}, "target": place(sys.argv[2])}
    if tenant != "*":
        given["target"]["tenant"] = tenant
    many = group.begin(parameters_from(given), f"many-{len(tenant)}-{done}", dry_run=False, until="53")
    for row in many.rows:
        if row.name.endswith("default_database"):
            continue
        folder = runs.create(many.parameters_of(row), row.run)
        run = RunRecord(folder.read(), "22", folder.read().parameters)
        with open_chosen(run) as store:
            snapshot = take(run, store, store.names(), row.run, silent)
        ensure_database(folder)
        job = Job.of(run, snapshot, run.workspace, "migration")
        staged = job.stage()
        with open_target(run.parameters.target) as store:
            work = job.importer(store, staged, silent, lambda *_: None, None)
            work.prepare(job.plans(staged))
            work.write()
            store.release_lock(run.id)
            found = Examination(store, Expectation(snapshot, job.schema, run.parameters, run.date, {})).run()
        assert found.differing == 0 and not len(found.differences), found.differences
        assert [(s.source, s.target) for s in found.sources] == [(4, 4)]
        done += 1
print("migrated", done, "of", resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["directory", "server"])
def test_forty_tenants_and_databases_migrate_under_1024_open_files(
    kind: str, tmp_path: Path, root: Path, served: Callable[[Path], ChromaServer]
) -> None:
    places = [(f"tenant-{n:02}", f"base-{n:02}") for n in range(40)]
    ends: list[str] = []
    for side in ("source", "target"):
        path = tmp_path / side
        if kind == "server":
            url = served(path).url
            ends.append(url)
        else:
            ends.append(str(path))
    filled({"url": ends[0]} if kind == "server" else {"path": ends[0]}, places)
    tenants = "*" if kind == "directory" else ",".join(tenant for tenant, _ in places)
    done = subprocess.run(
        [sys.executable, "-c", FORTY, *ends, tenants], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip().endswith("migrated 40 of 1024")


@pytest.fixture
def served() -> Iterator[Callable[[Path], ChromaServer]]:
    """Servers that may have 1,024 files open."""
    started: list[ChromaServer] = []

    def start(path: Path) -> ChromaServer:
        started.append(ChromaServer(path).start())
        import resource

        assert started[-1]._process is not None
        if sys.platform == "linux":
            resource.prlimit(started[-1]._process.pid, resource.RLIMIT_NOFILE, (1024, 1024))
        return started[-1]

    yield start
    for server in started:
        server.stop()

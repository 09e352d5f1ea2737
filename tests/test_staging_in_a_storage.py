"""`migration.staging: storage`: the target is the same, nothing is read that was not put there, and nothing needed goes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from helpers import cli
from helpers.errors import RunbookError, Terminal, Transient, UsageError
from helpers.evidence import secret_scan
from helpers.migration.catch_up import Round
from helpers.migration.staging import Staged
from helpers.parameters import SecretRef, parameters_from
from helpers.rehearsal import write_sample
from helpers.run.folders import RunFolder, RunLock
from helpers.run.record import RunRecord
from helpers.snapshots import objects, remote
from helpers.snapshots import snapshot as module
from helpers.steps.closeout import what_stays
from helpers.steps.migrate import MigrateStep
from helpers.steps.target_readiness import TargetReadinessStep
from helpers.stores import CollectionInfo
from tests.commands import Runbook
from tests.conftest import ROOT
from tests.proxies import CUT_AFTER, CUT_BEFORE, PASS, FaultyProxy
from tests.s3 import KEY, SECRET, S3Server, from_the, killing, s3_proxy, some, without_machine_credentials
from tests.storage import assert_same, chunks, contents, embedded, fill, in_order, tree
from tests.test_catch_up import ALPHA, assert_target_is_source, at_the_source, migrate, new_run
from tests.workers import Dask, answers, bench, outcome, steps

Said = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PART_BYTES", 100 * 4 * 4)
    remote.StagedFiles.read.cache_clear()


def on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **migration: Any) -> RunFolder:
    """A run whose snapshot is taken, and whose staged files go to a storage in a folder."""
    (tmp_path / "disk").mkdir()
    rules = {"batch_size": 10, "staging": "storage", **migration}
    return new_run(tmp_path, monkeypatch, snapshot={"directory": f"file://{tmp_path}/disk"}, migration=rules)


def objects_of(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "disk" / "staged").rglob("*.parquet"))


def index(folder: RunFolder) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder.workspace / "staged" / "index.json").read_text(encoding="utf-8"))
    return found


def prune(*arguments: str) -> None:
    assert cli.main(["snapshots", "prune", *arguments]) == 0


def test_a_storage_is_asked_for_where_a_folder_is_named() -> None:
    ends = {"source": {"path": "a"}, "target": {"path": "b"}, "migration": {"staging": "storage"}}
    with pytest.raises(
        UsageError, match=r"'migration\.staging' is storage, but 'snapshot\.directory' is a folder"
    ) as told:
        parameters_from({**ends, "snapshot": {"directory": "kept"}})
    assert "\n" not in told.value.line()
    assert parameters_from({**ends, "snapshot": {"directory": "s3://bucket"}}).migration.staging == "storage"
    with pytest.raises(UsageError, match="has a folder there"):
        parameters_from({**ends, "source": {"path": "/d/staged/x"}, "snapshot": {"directory": "file:///d"}})


def test_the_target_is_the_same_and_no_staged_file_is_left_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as here:
        (tmp_path / "plain").mkdir()
        plain = new_run(tmp_path / "plain", here)
        migrate(plain)
        files = tree(plain.workspace / "staged")
        was = index(plain)
    (tmp_path / "there").mkdir()
    folder = on_disk(tmp_path / "there", monkeypatch)
    record = migrate(folder)
    now = index(folder)
    assert not list((folder.workspace / "staged").rglob("*.parquet"))
    assert {f: d for f, (d, _) in now["stored"].items()} == {f: d for f, d in files.items() if f.endswith(".parquet")}
    kept = {path.stem for path in objects_of(tmp_path / "there")}
    assert kept == {sha256 for sha256, _ in now["stored"].values()}
    assert {k: v for k, v in now.items() if k not in ("stored", "storage")} == {
        k: v for k, v in was.items() if k not in ("stored", "storage")
    }
    assert (was["stored"], was["storage"]) == ({}, "")
    assert "disk" not in json.dumps(now["storage"]) or "://" not in json.dumps(now)
    assert not [check for check in record.result.checks if check.verdict == "fail"]
    assert_target_is_source(folder)


def test_a_damaged_or_missing_object_is_one_line_and_a_retry_stages_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = on_disk(tmp_path, monkeypatch)
    step = MigrateStep(RunRecord(folder.read(), "22"))
    step.export()
    step.transform()
    path = objects_of(tmp_path)[0]
    data = path.read_bytes()
    flipped = data[:-1] + bytes([data[-1] ^ 1])
    for content, said in (
        (flipped, "its bytes are not those"),
        (data + b"x", "bytes, and "),
        (None, "not in the storage"),
    ):
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        remote.StagedFiles.read.cache_clear()
        found = Staged.load(folder.workspace / "staged")
        assert found is not None
        with pytest.raises(Terminal, match=said) as told:
            read_all(found)
        assert told.value.code == "staging_unreadable"
        assert told.value.where == f"file://{tmp_path}/disk/{path.relative_to(tmp_path / 'disk')}"
        assert "resume night --retry 22" in told.value.next_step
    migrate_again(folder)
    assert path.read_bytes() == data
    assert_target_is_source(folder)


def read_all(found: Staged) -> None:
    for target in found.files:
        list(found.stream(target, 0, 50))


def migrate_again(folder: RunFolder) -> None:
    """As `--retry 22` does before the step."""
    shutil.rmtree(folder.workspace / "staged")
    (folder.workspace / "checkpoint.json").unlink()
    migrate(folder)


def test_an_index_leads_to_no_storage_that_this_workspace_did_not_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = on_disk(tmp_path, monkeypatch)
    migrate(folder)
    (known,) = (tmp_path / "workspace" / ".stored").glob("*/storage.json")
    said = json.loads(known.read_text(encoding="utf-8"))
    said["directory"] = f"file://{tmp_path}/elsewhere"
    known.write_text(json.dumps(said), encoding="utf-8")
    found = Staged.load(folder.workspace / "staged")
    assert found is not None
    with pytest.raises(Terminal, match="nothing that this workspace wrote says where") as told:
        list(found.ids("alpha"))
    assert "\n" not in told.value.line()
    path = folder.workspace / "staged" / "index.json"
    held = index(folder)
    for wrong in ({"storage": "../up"}, {"stored": {"../up": ["0" * 64, 1]}}, {"stored": {"001/1": ["../x", 1]}}):
        path.write_text(json.dumps(held | wrong), encoding="utf-8")
        with pytest.raises(Terminal, match="cannot be read"):
            Staged.load(folder.workspace / "staged")


def test_a_catch_up_shares_what_is_in_the_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = on_disk(tmp_path, monkeypatch)
    migrate(folder)
    before = index(folder)["stored"]

    def change(store: Any) -> None:
        store.delete("alpha", [ALPHA.ids[3]])
        store.add("alpha", chunks(4, 4, seed=8, prefix="new"))
        store.drop("beta")

    at_the_source(change)
    sent: list[str] = []
    send = remote.StagedFiles.send

    def counted(self: remote.StagedFiles, file: Path, sha256: str) -> tuple[str, int]:
        sent.append(sha256)
        return send(self, file, sha256)

    monkeypatch.setattr(remote.StagedFiles, "send", counted)
    migrate(folder)
    now = index(folder)
    shared = {tuple(v) for v in now["stored"].values()} & {tuple(v) for v in before.values()}
    assert shared, "what did not change is shared"
    assert not set(sent) & {sha256 for sha256, _ in shared}
    assert len(now["stored"]) == sum(len(files) for files in now["files"].values())
    assert_target_is_source(folder)
    there = {path.stem for path in objects_of(tmp_path)}
    prune("--yes")
    assert {path.stem for path in objects_of(tmp_path)} == {sha256 for sha256, _ in now["stored"].values()} < there
    assert_target_is_source(folder)


@pytest.mark.more
def test_a_killed_catch_up_ends_with_files_in_the_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = on_disk(tmp_path, monkeypatch)
    migrate(folder)
    at_the_source(lambda store: store.delete("alpha", ALPHA.ids[:30]))  # so many that all of it is written afresh

    def killed(*_: object, **__: object) -> None:
        raise SystemExit(9)

    with monkeypatch.context() as early:
        early.setattr(Round, "apply", killed)
        with pytest.raises(SystemExit):
            migrate(folder)
    migrate(folder)
    assert_target_is_source(folder)


def test_a_prune_removes_what_nobody_names_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> None:
    folder = on_disk(tmp_path, monkeypatch)
    migrate(folder)
    whole = objects_of(tmp_path)
    run_folder = whole[0].parent
    loose = run_folder / f"{'0' * 64}.parquet"
    loose.write_bytes(b"of a staging that was killed")
    half = run_folder / f".{'1' * 64}.parquet.1-{'0' * 16}.tmp"
    half.write_bytes(b"half")
    other = (
        tmp_path / "disk" / "staged" / f"night-{'0' * 16}" / f"{'2' * 64}.parquet"
    )  # another workspace's run of this id
    other.parent.mkdir()
    other.write_bytes(b"theirs")
    (run_folder / "notes.txt").write_bytes(b"nobody's business")
    monkeypatch.setattr(objects, "BROKEN_OFF", timedelta(0))

    assert cli.main(["snapshots", "list"]) == 0
    said = capsys.readouterr().out
    assert f"staged/{other.parent.name}: 1 staged file of a run that this workspace does not have" in said
    assert run_folder.name not in said
    prune()
    assert "would go: 1 staged file of run night that nothing names" in capsys.readouterr().out
    with RunLock(folder, "runner").acquire(0):
        prune("--yes")
    assert "staged files of run night stay: run night is being worked on by" in capsys.readouterr().out
    assert loose.exists()
    (folder.workspace / "catch-up").mkdir(exist_ok=True)
    damaged = folder.workspace / "catch-up" / "index.json"
    damaged.write_bytes(b"{")
    prune("--yes")
    assert "staged files of run night stay" in capsys.readouterr().out
    assert loose.exists()
    damaged.unlink()
    prune("--yes")
    assert "removed: 1 staged file of run night that nothing names" in capsys.readouterr().out
    assert objects_of(tmp_path) == sorted([*whole, other])
    assert not half.exists()
    assert (run_folder / "notes.txt").exists()

    (row,) = [row for row in what_stays(folder, folder.read().parameters) if "every chunk" in row.what]
    assert f"file://{tmp_path}/disk/staged/{run_folder.name}" in row.where
    assert row.how.endswith("snapshots prune --yes")
    assert row.bytes >= sum(path.stat().st_size for path in whole)
    shutil.rmtree(folder.workspace / "staged")  # as that row says
    prune("--yes")
    assert objects_of(tmp_path) == [other]


def test_a_link_in_the_storage_is_neither_written_through_nor_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> None:
    folder = on_disk(tmp_path, monkeypatch)
    private = tmp_path / "private"
    private.mkdir()
    (private / f"{'0' * 64}.parquet").write_bytes(b"somebody's")
    for name in ("staged", f"staged/{remote.folder_of(folder.id)}"):
        link = tmp_path / "disk" / name
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(private)
        with pytest.raises(UsageError, match="there is a link"):
            migrate(folder)
        assert cli.main(["snapshots", "prune", "--yes"]) == (2 if name == "staged" else 0)
        capsys.readouterr()
        assert [path.name for path in private.iterdir()] == [f"{'0' * 64}.parquet"]
        link.unlink()
    migrate(folder)
    assert_target_is_source(folder)


def test_step_12_asks_no_disk_for_files_that_go_to_the_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = on_disk(tmp_path, monkeypatch)

    def needed(staging: str) -> float:
        record = RunRecord(folder.read(), "12", folder.read().parameters.for_resume([f"migration.staging={staging}"]))
        step = TargetReadinessStep(record)
        step.__dict__["_source"] = [CollectionInfo("large", 10**6, 1536, "l2", "l2")]
        return float(step.disk()["needed bytes"].max())

    vectors = 10**6 * 1536 * 4
    assert needed("workspace") - needed("storage") == pytest.approx(0.7 * vectors, rel=1e-6)


# -- in a storage that speaks S3 ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with without_machine_credentials(), S3Server(tmp_path_factory.mktemp("s3") / "moto.log") as found:
        yield found


@pytest.fixture
def proxy(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    server.bucket()
    monkeypatch.setenv("STORE_KEY", KEY)
    monkeypatch.setenv("STORE_SECRET", SECRET)
    with s3_proxy(server) as found:
        yield found


def in_s3(proxy: FaultyProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patience: float = 20) -> RunFolder:
    place = {"endpoint_url": proxy.url, "region": "us-east-1", "key": "env:STORE_KEY", "secret": "env:STORE_SECRET",
             "patience_seconds": patience}  # fmt: skip
    snapshot = {"directory": "s3://backups/chroma", "storage": place}
    rules = {"batch_size": 10, "staging": "storage"}
    return new_run(tmp_path, monkeypatch, snapshot=snapshot, migration=rules)


def staged_there(server: S3Server) -> dict[str, int]:
    return {key: size for key, size in server.objects().items() if "/staged/" in key}


@pytest.mark.more
def test_a_busy_storage_is_waited_for(
    server: S3Server, proxy: FaultyProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "TRIES", 1)
    folder = in_s3(proxy, tmp_path, monkeypatch)
    proxy.fault = some(0.2)
    proxy.requests.clear()
    migrate(folder)
    requests = [(method, path) for method, path, _ in proxy.requests if "/staged/" in path]
    assert [path for method, path in requests if method == "PUT"]
    assert [path for method, path in requests if method == "GET"]
    proxy.fault = lambda method, path: PASS
    assert len(staged_there(server)) == len({tuple(v) for v in index(folder)["stored"].values()})
    assert_target_is_source(folder)


@pytest.mark.more
@pytest.mark.parametrize("what", ["PUT .*/staged/", "GET .*/staged/.*parquet"])
def test_a_lost_connection_is_one_line_and_the_step_goes_on(
    server: S3Server, proxy: FaultyProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(objects, "TRIES", 1)
    folder = in_s3(proxy, tmp_path, monkeypatch, patience=1)
    proxy.fault = from_the(2, CUT_BEFORE, what)
    with pytest.raises(Transient, match="no answer that is of use to") as told:
        migrate(folder)
    assert "\n" not in told.value.line()
    assert "resume" in told.value.next_step
    assert (folder.workspace / "staged" / "index.json").exists() == what.startswith("GET")
    proxy.fault = lambda method, path: PASS
    there = {key.rpartition("/")[2] for key in staged_there(server)}
    proxy.requests.clear()
    migrate(folder)
    again = {path.rpartition("/")[2] for method, path, _ in proxy.requests if method == "PUT" and "/staged/" in path}
    assert not again & there, "what is there is not sent again"
    assert_target_is_source(folder)


@pytest.mark.more
@pytest.mark.parametrize(("number", "fault"), [(1, CUT_BEFORE), (2, CUT_AFTER)])
def test_a_killed_staging_leaves_nothing_that_counts(
    server: S3Server, proxy: FaultyProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, fault: str
) -> None:
    folder = in_s3(proxy, tmp_path, monkeypatch)
    code = """
from helpers.run import folders
from helpers.run.record import RunRecord
from helpers.steps.migrate import MigrateStep
import helpers.snapshots.snapshot as module
step = MigrateStep(RunRecord(folders.find("night"), "22"))
step.export()
step.transform()
"""
    child = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True)
    proxy.fault = killing(child, "PUT .*/staged/", number, fault)
    child.communicate(timeout=120)
    assert child.returncode == -9
    proxy.fault = lambda method, path: PASS
    assert not (folder.workspace / "staged" / "index.json").exists()
    migrate(folder)
    assert_target_is_source(folder)


@pytest.mark.more
def test_pieces_of_a_staged_file_that_never_ended_are_named_and_removed(
    server: S3Server, proxy: FaultyProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> None:
    folder = in_s3(proxy, tmp_path, monkeypatch)
    name = remote.folder_of(folder.id)
    client = server.client()
    for key in (f"chroma/staged/{name}/{'0' * 64}.parquet", f"chroma/staged/{name}/deeper/{'0' * 64}.parquet"):
        client.create_multipart_upload(Bucket="backups", Key=key)
    monkeypatch.setattr(objects, "BROKEN_OFF", timedelta(0))
    assert cli.main(["snapshots", "list"]) == 0
    assert "1 file whose upload never ended" in capsys.readouterr().out
    prune("--yes")
    (left,) = client.list_multipart_uploads(Bucket="backups")["Uploads"]
    assert "/deeper/" in left["Key"], "not a file of ours"


def test_a_storage_that_forgets_what_was_put_there_is_noticed_before_the_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = on_disk(tmp_path, monkeypatch)
    send = remote.StagedFiles.send

    def forgetful(self: remote.StagedFiles, file: Path, sha256: str) -> tuple[str, int]:
        found = send(self, file, sha256)
        (tmp_path / "disk" / self.where / f"{sha256}.parquet").unlink()
        return found

    with monkeypatch.context() as lost:
        lost.setattr(remote.StagedFiles, "send", forgetful)
        with pytest.raises(RunbookError, match="was put there, and is not there in its size"):
            migrate(folder)
    assert not (folder.workspace / "staged" / "index.json").exists()
    migrate(folder)
    assert_target_is_source(folder)


@pytest.mark.slow
def test_a_whole_line_stages_in_the_storage(server: S3Server, proxy: FaultyProxy, tmp_path: Path) -> None:
    """Steps 10 to 24 by the command; what step 13 staged is not sent again by step 22."""
    with embedded(tmp_path / "source") as store:
        fill(store, "alpha", chunks(600, 8))
        for number in range(9):  # more files than are kept in memory
            fill(store, f"beta{number}", chunks(50, 3, prefix=f"b{number}"), "ip")
    runbook = Runbook(tmp_path)
    place = f"{{endpoint_url: '{proxy.url}', region: us-east-1, key: env:STORE_KEY, secret: env:STORE_SECRET}}"
    more = f"migration: {{staging: storage}}\nsnapshot:\n  directory: s3://backups/chroma\n  storage: {place}\n"
    parameters = runbook.write("night", "path: source", "path: target", more)
    done = runbook("run", parameters, "--run-id", "night", "--until", "14")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert (first := staged_there(server))
    assert not (runbook.workspace / "night" / "dry-run" / "staged").exists()
    proxy.requests.clear()
    done = runbook("resume", "night", "--until", "24")
    assert done.returncode == 4, done.stdout + done.stderr
    assert staged_there(server) == first
    assert not [path for method, path, _ in proxy.requests if method == "PUT" and "/staged/" in path]
    gets = [path for method, path, _ in proxy.requests if method == "GET" and "/staged/" in path and ".parquet" in path]
    assert len(first) < len(gets) <= 2 * len(first), "to be written, and for the ids after it"
    with embedded(tmp_path / "source") as was, embedded(tmp_path / "target") as now:
        for name in was.names():
            assert_same(in_order(contents(now, name)), in_order(contents(was, name)))
    secrets = [SecretRef("env", "STORE_KEY"), SecretRef("env", "STORE_SECRET")]
    for folder in (runbook.reports, runbook.workspace):
        assert not secret_scan.search(folder, secrets).hits


@pytest.mark.slow
@pytest.mark.servers
def test_workers_put_what_they_stage_there_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers of Dask that were started without RUNBOOK_WORKSPACE: the run's key proves to them where the storage is."""
    monkeypatch.delenv("RUNBOOK_WORKSPACE", raising=False)
    source = write_sample(tmp_path / "sample", chunks=400, dimension=32)

    def made(name: str, more: str) -> dict[str, Any]:
        shutil.copytree(source, tmp_path / name / "source")
        (tmp_path / name / "disk").mkdir()
        with bench(tmp_path / name, tmp_path / name / "source", more) as (trial, target):
            text = (tmp_path / name / "trial.yaml").read_text(encoding="utf-8")
            trial.write_parameters(text.replace("directory: kept", f"directory: 'file://{tmp_path}/{name}/disk'"))
            steps(trial)
            found = outcome(trial, target)
            held = json.loads((trial.workspace / "staged" / "index.json").read_text(encoding="utf-8"))
        stored, _ = held.pop("stored"), held.pop("storage")
        assert len(stored) > 6
        assert not list((trial.workspace / "staged").rglob("*.parquet"))
        found["staged"] = (held, stored)
        return found | {number: answers(found[number]) for number in ("21", "22", "23")}

    with Dask(tmp_path / "dask") as dask:
        workers = made("workers", f", executor: dask, scheduler: '{dask.url}', staging: storage")
    threads = made("threads", ", staging: storage")
    assert {key: workers[key] == threads[key] for key in threads} == dict.fromkeys(threads, True)

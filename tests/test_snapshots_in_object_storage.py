"""Snapshots in a storage that speaks S3: whole there or they do not count, compared on every reading, and no secret in a file."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from helpers import cli
from helpers.errors import Terminal
from helpers.evidence import secret_scan
from helpers.parameters import SecretRef
from helpers.results import file_digest
from helpers.snapshots import objects, remote, retention
from helpers.snapshots import snapshot as module
from helpers.snapshots.export_journal import own_digest, signed
from helpers.snapshots.snapshot import Changed, Snapshot, follow_snapshot
from tests.commands import Runbook
from tests.conftest import ROOT
from tests.proxies import CUT_AFTER, CUT_BEFORE, PASS, FaultyProxy
from tests.s3 import BUCKET, KEY, SECRET, S3Server, from_the, killing, s3_proxy, some, without_machine_credentials
from tests.storage import assert_same, chunks, contents, embedded, fill, in_order

Said = pytest.CaptureFixture[str]

pytestmark = pytest.mark.usefixtures("own_folders")

PARAMETERS = """
name: nightly
source: {{path: source}}
snapshot:
  directory: s3://backups/chroma
  storage: {{endpoint_url: "{url}", region: us-east-1, key: env:STORE_KEY, secret: env:STORE_SECRET,
            patience_seconds: 20}}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with without_machine_credentials(), S3Server(tmp_path_factory.mktemp("s3") / "moto.log") as found:
        yield found


@pytest.fixture
def store(server: S3Server) -> S3Server:
    server.bucket()  # empty
    return server


@pytest.fixture
def proxy(store: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    monkeypatch.setenv("STORE_KEY", KEY)
    monkeypatch.setenv("STORE_SECRET", SECRET)
    with s3_proxy(store) as found:
        yield found


@pytest.fixture
def source(tmp_path: Path, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of two collections, parts of a hundred rows, and parameters that keep its snapshots in the bucket."""
    monkeypatch.setattr(module, "PART_BYTES", 100 * 8 * 4)
    with embedded(tmp_path / "source") as made:
        fill(made, "alpha", chunks(600, 8))
        fill(made, "beta", chunks(5, 3, prefix="b"), "ip")
    Path("backup.yaml").write_text(PARAMETERS.format(url=proxy.url), encoding="utf-8")
    return tmp_path / "source"


def run(*arguments: str, code: int = 0) -> None:
    assert cli.main(["snapshots", *arguments]) == code


def storage(proxy: FaultyProxy) -> list[str]:
    """What a command without the parameters file is given."""
    given = {"endpoint_url": proxy.url, "region": "us-east-1", "key": "env:STORE_KEY", "secret": "env:STORE_SECRET"}
    return [
        "--directory",
        "s3://backups/chroma",
        *(text for k, v in given.items() for text in ("--storage", f"{k}={v}")),
    ]


def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "TRIES", 1)
    backup = Path("backup.yaml").read_text(encoding="utf-8")
    Path("backup.yaml").write_text(backup.replace("patience_seconds: 20", "patience_seconds: 1"), encoding="utf-8")


def cache() -> Path:
    (found,) = remote.every()
    return found


@pytest.mark.more
def test_the_command_says_nothing_that_is_not_its_own(source: Path, store: S3Server) -> None:
    command = [sys.executable, "-W", "error", "-m", "helpers", "snapshots", "create", "backup.yaml", "--id", "first"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert "chroma/snapshots/first.json" in store.objects()


@pytest.mark.more
def test_a_backup_is_put_there_and_restored_on_another_machine(
    source: Path, store: S3Server, proxy: FaultyProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> None:
    run("create", "backup.yaml", "--id", "first")
    said = capsys.readouterr().out
    keys = store.objects()
    assert "put to s3://backups/chroma" in said
    assert {k for k in keys if "/parts/" not in k} == {"chroma/chroma-snapshots.json", "chroma/snapshots/first.json"}
    assert sum("/parts/" in k for k in keys) == 7
    run("check", "backup.yaml")
    run("list")
    assert "in the storage, all files here, too" in capsys.readouterr().out

    monkeypatch.setenv("RUNBOOK_WORKSPACE", str(tmp_path / "elsewhere"))
    run("list", *storage(proxy))
    assert "in the storage, 0 of 7 files here" in capsys.readouterr().out
    digest = Snapshot.open(cache() / "first").digest
    run("restore", "first", "--into", "back", "--expect", digest)
    assert f"Its digest {digest} is the one of --expect" in capsys.readouterr().out
    with embedded(tmp_path / "back") as back, embedded(source) as was:
        for name in was.names():
            assert_same(in_order(contents(back, name)), in_order(contents(was, name)))


@pytest.mark.more
def test_the_next_backup_sends_what_changed_and_pruning_frees_what_no_other_needs(
    source: Path, store: S3Server, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> None:
    run("create", "backup.yaml", "--id", "first")
    before = {k for k in store.objects() if "/parts/" in k}
    with embedded(source) as made:
        made.delete("alpha", ["c7"])
    proxy.requests.clear()
    run("create", "backup.yaml", "--id", "second")
    sent = [path for method, path, _ in proxy.requests if method == "PUT" and "/parts/" in path]
    assert len(sent) == 1, sent
    assert "sharing what is as in first" in capsys.readouterr().out
    assert len({k for k in store.objects() if "/parts/" in k} - before) == 1

    run("prune")
    assert "0 snapshots would be removed" in capsys.readouterr().out
    monkeypatch.setattr(
        retention.SnapshotFolder, "retain_until", property(lambda item: datetime(2020, 1, 1, tzinfo=UTC))
    )
    monkeypatch.setattr(
        retention.SnapshotFolder, "keep_reason", property(lambda item: "" if item.id == "first" else "kept")
    )
    run("prune", "--yes")
    said = capsys.readouterr().out
    assert "1 snapshot removed" in said
    assert "removed: 1 × file that no snapshot names" in said
    keys = store.objects()
    assert "chroma/snapshots/first.json" not in keys
    assert "chroma/snapshots/second.json" in keys
    assert len({k for k in keys if "/parts/" in k}) == 7
    run("verify", "second")
    assert "every byte as its manifest says" in capsys.readouterr().out


@pytest.mark.more
def test_a_catch_up_shares_files_that_are_in_the_storage_only(
    source: Path, store: S3Server, proxy: FaultyProxy
) -> None:
    run("create", "backup.yaml", "--id", "first")
    was = Snapshot.open(cache() / "first")
    for folder in (cache() / "first").glob("0*"):
        shutil.rmtree(folder)
    proxy.requests.clear()
    with embedded(source) as made:
        made.delete("alpha", ["c7"])
        changed: Changed = {"alpha": (["c7"], [])}
        taken = follow_snapshot(made, cache(), "second", made.names(), was, changed, retention_days=7)
    assert taken.total == was.total - 1
    assert "chroma/snapshots/second.json" in store.objects()
    assert not [path for method, path, _ in proxy.requests if method == "PUT" and "/parts/" in path]
    taken.verify()


@pytest.mark.more
def test_verify_reads_every_byte_in_the_storage_and_names_a_changed_object(
    source: Path, store: S3Server, proxy: FaultyProxy, capsys: Said
) -> None:
    run("create", "backup.yaml", "--id", "first")
    proxy.requests.clear()
    run("verify", "first")
    part = sorted(k for k in store.objects() if "/parts/" in k)[0]
    assert any(method == "GET" and part in path for method, path, _ in proxy.requests)
    data = store.client().get_object(Bucket=BUCKET, Key=part)["Body"].read()
    store.client().put_object(Bucket=BUCKET, Key=part, Body=data[:-1] + bytes([data[-1] ^ 1]))
    capsys.readouterr()
    run("verify", "first", code=1)
    said = capsys.readouterr().err
    assert f"s3://backups/{part}: its bytes are not those that were put there" in said
    assert said.count("\n") == 1
    store.client().put_object(Bucket=BUCKET, Key=part, Body=data + b"and more")
    run("verify", "first", code=1)
    assert f"{len(data) + 8:,} bytes, and not {len(data):,}" in only_line(capsys)
    (whole,) = [str(path) for path in cache().rglob("*.parquet") if file_digest(path) in part]
    assert f"Put {whole}, which is whole, there in its place." in said
    store.client().delete_object(Bucket=BUCKET, Key=part)
    run("verify", "first", code=1)
    assert "it is not in the storage any more" in capsys.readouterr().err
    store.client().upload_file(whole, BUCKET, part)
    run("verify", "first")


def test_what_is_brought_is_compared_before_it_is_used(
    source: Path, store: S3Server, tmp_path: Path, capsys: Said
) -> None:
    run("create", "backup.yaml", "--id", "first")
    for folder in (cache() / "first").glob("0*"):
        shutil.rmtree(folder)  # nobody needs it here as long as the storage has it
    part = sorted(k for k in store.objects() if "/parts/" in k)[0]
    data = store.client().get_object(Bucket=BUCKET, Key=part)["Body"].read()
    for forged, said in ((data[::-1], "its bytes are not those that were put there"), (data * 2, "bytes, and ")):
        store.client().put_object(Bucket=BUCKET, Key=part, Body=forged)
        capsys.readouterr()
        run("export", "first", "--into", "out", code=1)
        line = only_line(capsys)
        assert f"s3://backups/{part}: " in line
        assert said in line
    assert not (tmp_path / "out").exists()
    assert not [path for path in cache().rglob("*.parquet") if path.stem in part]


def test_a_manifest_that_was_exchanged_is_named(source: Path, store: S3Server, capsys: Said) -> None:
    run("create", "backup.yaml", "--id", "first")
    key = "chroma/snapshots/first.json"
    manifest = json.loads(store.client().get_object(Bucket=BUCKET, Key=key)["Body"].read())
    manifest["retain_until"] = "2020-01-01T00:00:00+00:00"
    store.client().put_object(Bucket=BUCKET, Key=key, Body=json.dumps(signed(manifest)))
    capsys.readouterr()
    run("verify", "first", code=1)
    assert "its manifest in the storage is another one" in capsys.readouterr().err
    store.client().delete_object(Bucket=BUCKET, Key=key)
    run("verify", "first", code=1)
    assert "its manifest is not in the storage" in capsys.readouterr().err
    run("check", "backup.yaml", code=1)
    assert "there is none in s3://backups/chroma" in capsys.readouterr().err
    run("list")
    assert "NOT in the storage, all files here, too" in capsys.readouterr().out


@pytest.mark.more
def test_a_snapshot_that_was_exchanged_whole_in_the_storage_is_not_restored(
    source: Path, store: S3Server, proxy: FaultyProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> None:
    run("create", "backup.yaml", "--id", "first")
    with monkeypatch.context() as elsewhere:  # who forges has the storage, and neither this workspace nor its key
        elsewhere.setenv("RUNBOOK_WORKSPACE", str(tmp_path / "forger"))
        with embedded(tmp_path / "invented") as made:
            fill(made, "alpha", chunks(3, 8))
        text = Path("backup.yaml").read_text(encoding="utf-8").replace("path: source", "path: invented")
        Path("forged.yaml").write_text(text, encoding="utf-8")
        store.client().delete_object(Bucket=BUCKET, Key="chroma/snapshots/first.json")
        run("create", "forged.yaml", "--id", "first")
    shutil.rmtree(cache() / "first")
    capsys.readouterr()
    run("restore", "first", "--into", "back", code=1)
    assert "was its digest when it was taken" in only_line(capsys)
    assert not (tmp_path / "back").exists()
    run("check", "backup.yaml", code=1)


@pytest.mark.more
def test_names_in_the_storage_lead_nowhere_else(source: Path, store: S3Server, proxy: FaultyProxy) -> None:
    run("create", "backup.yaml", "--id", "first")
    manifest = store.client().get_object(Bucket=BUCKET, Key="chroma/snapshots/first.json")["Body"].read()
    for name in ("two.partial", "audit.jsonl", "first.lock", "../up", ".hidden", "good"):
        store.client().put_object(Bucket=BUCKET, Key=f"chroma/snapshots/{name}.json", Body=manifest)
    before = {path.name for path in cache().iterdir()}
    run("list")
    assert {path.name for path in cache().iterdir()} - before == {"good"}


def test_only_this_workspace_says_where_a_storage_is(
    source: Path, store: S3Server, proxy: FaultyProxy, tmp_path: Path, capsys: Said
) -> None:
    """Else who can write beside snapshots would be sent them."""
    run("create", "backup.yaml", "--id", "first")
    kept = cache() / "storage.json"
    planted = json.loads(kept.read_text(encoding="utf-8"))
    (tmp_path / "kept").mkdir()
    shutil.copy(kept, tmp_path / "kept")
    assert remote.at(tmp_path / "kept") is None, "an ordinary folder is none"
    assert remote.at(cache()) is not None
    planted["storage"]["endpoint_url"] = "http://127.0.0.1:9"
    kept.write_text(json.dumps(signed(planted)), encoding="utf-8")
    assert remote.at(cache()) is None
    partial = cache() / "two.partial"
    partial.mkdir()
    with pytest.raises(Terminal, match="does not say where the storage is"):
        remote.put_whole(partial)


@pytest.mark.more
def test_files_of_other_tools_are_imported_to_the_storage_and_exported_from_there(
    source: Path, store: S3Server, proxy: FaultyProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("create", "backup.yaml", "--id", "first")
    run("export", "first", "--into", "plain", "--format", "jsonl")
    run("import", "plain", "--id", "made", *storage(proxy))
    assert "chroma/snapshots/made.json" in store.objects()
    monkeypatch.setenv("RUNBOOK_WORKSPACE", str(tmp_path / "elsewhere"))
    run("export", "made", "--into", "again", "--format", "jsonl", *storage(proxy))
    names = sorted(path.name for path in Path("plain").glob("*.jsonl"))
    assert names
    assert [(Path("plain") / n).read_bytes() for n in names] == [(Path("again") / n).read_bytes() for n in names]


@pytest.mark.more
def test_refusals_of_a_busy_storage_are_waited_for(
    source: Path, store: S3Server, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "TRIES", 1)
    proxy.fault = some(0.3)
    run("create", "backup.yaml", "--id", "first")
    run("verify", "first")
    assert "chroma/snapshots/first.json" in store.objects()
    shutil.rmtree(cache() / "first")
    run("export", "first", "--into", "out")


@pytest.mark.more
@pytest.mark.parametrize(
    "what",
    [
        pytest.param("PUT .*/begun/", marks=pytest.mark.more),
        "PUT .*/parts/",
        pytest.param("PUT .*/snapshots/", marks=pytest.mark.more),
    ],
)
def test_a_lost_connection_ends_in_one_line_and_the_same_command_goes_on(
    source: Path, store: S3Server, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch, capsys: Said, what: str
) -> None:
    impatient(monkeypatch)
    proxy.fault = from_the(1, CUT_BEFORE, what)
    run("create", "backup.yaml", "--id", "first", code=1)
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said
    assert "s3://backups/chroma: no answer that is of use to put" in said
    assert "repeat the command or resume" in said
    proxy.fault = lambda method, path: PASS
    assert "chroma/snapshots/first.json" not in store.objects()
    run("restore", "first", "--into", "back", code=2)
    run("list")
    if "begun" not in what:
        assert "first: begun in the storage, not whole, counts for nothing" in capsys.readouterr().out
    sent = [k for k in store.objects() if "/parts/" in k]
    proxy.requests.clear()
    run("create", "backup.yaml", "--id", "first")
    taken = Snapshot.open(cache() / "first")
    assert len(taken.manifest["sessions"]) == 1, "nothing was read again"
    again = [path for method, path, _ in proxy.requests if method == "PUT" and "/parts/" in path]
    assert len(again) == 7 - len(sent)
    assert not [k for k in store.objects() if "/begun/" in k]
    run("verify", "first")


@pytest.mark.parametrize(
    ("what", "number", "fault"),
    [
        pytest.param("PUT .*/begun/", 1, CUT_BEFORE, marks=pytest.mark.more),
        ("PUT .*/parts/", 2, CUT_BEFORE),
        pytest.param("PUT .*/parts/", 3, CUT_AFTER, marks=pytest.mark.more),
        pytest.param("PUT .*/snapshots/", 1, CUT_BEFORE, marks=pytest.mark.more),
        pytest.param("PUT .*/snapshots/", 1, CUT_AFTER, marks=pytest.mark.more),
        pytest.param("DELETE .*/begun/", 1, CUT_BEFORE, marks=pytest.mark.more),
    ],
)
def test_a_killed_backup_counts_for_nothing_until_the_same_command_has_ended_it(
    source: Path, store: S3Server, proxy: FaultyProxy, what: str, number: int, fault: str
) -> None:
    with embedded(source) as made:
        for name in "cdefg":
            fill(made, f"more-{name}", chunks(20, 4, prefix=name))
    command = [sys.executable, "-m", "helpers", "snapshots", "create", "backup.yaml", "--id", "first"]
    child = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True)
    proxy.fault = killing(child, what, number, fault)
    child.communicate(timeout=120)
    assert child.returncode == -9
    whole = "chroma/snapshots/first.json" in store.objects()
    assert whole == (("snapshots" in what and fault == CUT_AFTER) or "DELETE" in what)
    assert not (cache() / "first").exists()
    run("restore", "first", "--into", "back", code=2)
    run("create", "backup.yaml", "--id", "first")
    run("verify", "first")
    with embedded(source) as was:
        taken = Snapshot.open(cache() / "first")
        assert taken.total == sum(was.count(name) for name in was.names())
    assert not [k for k in store.objects() if "/begun/" in k]


@pytest.mark.more
def test_a_file_in_pieces_that_never_ended_is_no_file_and_is_removed_later(
    source: Path, store: S3Server, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> None:
    monkeypatch.setattr(module, "PART_BYTES", 64 * 2**20)
    monkeypatch.setattr(objects, "CHUNK", 5 * 2**20)
    impatient(monkeypatch)
    with embedded(source) as made:
        fill(made, "wide", chunks(1_000, 4_000, prefix="w"))
    proxy.fault = from_the(2, CUT_BEFORE, "PUT .*partNumber=")
    run("create", "backup.yaml", "--id", "first", code=1)
    (left,) = store.client().list_multipart_uploads(Bucket=BUCKET)["Uploads"]
    assert left["Key"] not in store.objects()
    proxy.fault = lambda method, path: PASS
    monkeypatch.setattr(objects, "BROKEN_OFF", timedelta(0))
    capsys.readouterr()
    run("list")
    assert "1 file whose upload never ended" in capsys.readouterr().out
    run("prune")
    assert "would go: 1 × file whose upload never ended" in capsys.readouterr().out
    run("prune", "--yes")
    assert "Uploads" not in store.client().list_multipart_uploads(Bucket=BUCKET)
    run("create", "backup.yaml", "--id", "first")
    assert any("partNumber=2" in path for _, path, _ in proxy.requests)
    run("verify", "first")


@pytest.mark.more
def test_what_was_begun_and_not_gone_on_with_is_removed_after_its_retention(
    source: Path, store: S3Server, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> None:
    impatient(monkeypatch)
    proxy.fault = from_the(1, CUT_BEFORE, "PUT .*/snapshots/")
    run("create", "backup.yaml", "--id", "first", code=1)
    proxy.fault = lambda method, path: PASS
    run("prune", "--yes")
    assert len([k for k in store.objects() if "/parts/" in k]) == 7, "it may still be gone on with"
    key = "chroma/begun/first.json"
    manifest = json.loads(store.client().get_object(Bucket=BUCKET, Key=key)["Body"].read())
    manifest["retain_until"] = "2020-01-01T00:00:00+00:00"
    manifest["sha256"] = own_digest(manifest)
    store.client().put_object(Bucket=BUCKET, Key=key, Body=json.dumps(manifest))
    capsys.readouterr()
    run("prune", "--yes")
    said = capsys.readouterr().out
    assert "removed: 1 × unfinished snapshot past its retention" in said
    assert "removed: 7 × file that no snapshot names" in said
    assert list(store.objects()) == ["chroma/chroma-snapshots.json"]


@pytest.mark.more
def test_an_id_that_another_machine_gave_is_taken(
    source: Path, store: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> None:
    run("create", "backup.yaml", "--id", "first")
    monkeypatch.setenv("RUNBOOK_WORKSPACE", str(tmp_path / "elsewhere"))
    run("create", "backup.yaml", "--id", "first", code=1)
    assert "a snapshot of this id exists" in capsys.readouterr().err
    run("create", "backup.yaml", "--id", "second")
    run("prune", "--yes")
    said = capsys.readouterr().out
    assert "stays  first  which runs need it is not certain" in said
    assert "stays  second  kept until" in said
    assert {"chroma/snapshots/first.json", "chroma/snapshots/second.json"} <= store.objects().keys()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A server that refuses whoever it does not know, with an empty bucket."""
    log = tmp_path_factory.mktemp("s3") / "moto.log"
    with without_machine_credentials(), S3Server(log, checked=True) as found:
        key, secret = found.administrator()
        found.client("s3", key, secret).create_bucket(Bucket=BUCKET)
        found.known = (key, secret)
        yield found


@pytest.mark.more
def test_ctrl_c_is_heard_while_the_storage_does_not_answer(source: Path, proxy: FaultyProxy) -> None:
    cut = threading.Event()

    def fault(method: str, path: str) -> str:
        if method == "PUT" and "/parts/" in path:
            cut.set()
            return CUT_BEFORE
        return PASS

    proxy.fault = fault
    text = Path("backup.yaml").read_text(encoding="utf-8").replace("patience_seconds: 20", "patience_seconds: 600")
    Path("backup.yaml").write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "helpers", "snapshots", "create", "backup.yaml", "--id", "first"]
    child = subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert cut.wait(120)
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=90)
    assert (child.returncode, said.count("\n")) == (130, 1), said
    assert "the same command with --id first" in said


def only_line(said: Said) -> str:
    (line,) = said.readouterr().err.splitlines()
    return line


@pytest.mark.more
def test_wrong_credentials_are_one_line_before_the_source_is_read(
    source: Path, guarded: S3Server, monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> None:
    Path("backup.yaml").write_text(PARAMETERS.format(url=guarded.url), encoding="utf-8")
    monkeypatch.setenv("STORE_KEY", guarded.known[0])
    for wrong in ("wrong/secret+of/nobody0123456789", ""):
        monkeypatch.setenv("STORE_SECRET", wrong)
        capsys.readouterr()
        run("create", "backup.yaml", "--id", "first", code=2)
        line = only_line(capsys)
        assert (
            ("with these credentials" in line)
            if wrong
            else ("'STORE_SECRET', which a secret refers to, is empty" in line)
        )
        assert "wrong/secret" not in line
    monkeypatch.delenv("STORE_SECRET")
    run("list", "--directory", "s3://backups/chroma", code=2)
    assert "'STORE_SECRET', which a secret refers to, is not set" in capsys.readouterr().out
    monkeypatch.setenv("STORE_SECRET", guarded.known[1])
    run("create", "backup.yaml", "--id", "first")
    run("check", "backup.yaml")


def test_what_is_not_there_is_one_line(source: Path, store: S3Server, proxy: FaultyProxy, capsys: Said) -> None:
    text = Path("backup.yaml").read_text(encoding="utf-8")
    Path("other.yaml").write_text(text.replace("s3://backups/chroma", "s3://not-there/chroma"), encoding="utf-8")
    capsys.readouterr()
    run("create", "other.yaml", "--id", "first", code=2)
    assert "s3://not-there/chroma: the bucket, container or folder is not there" in only_line(capsys)
    run("create", "other.yaml", "--id", "first", "--dry-run", code=2)
    assert "s3://not-there/chroma: the bucket, container or folder is not there" in only_line(capsys)
    assert cli.main(["run", "other.yaml", "--set", "target.path=new", "--run-id", "night"]) == 2
    assert "s3://not-there/chroma: the bucket, container or folder is not there" in only_line(capsys)
    assert not Path("reports/night").exists(), "no run was begun"
    Path("google.yaml").write_text(
        "name: nightly\nsource: {path: source}\nsnapshot: {directory: gs://backups/chroma}\n", encoding="utf-8"
    )
    run("create", "google.yaml", "--id", "first", code=2)
    line = only_line(capsys)
    assert "gs://backups/chroma: its driver is not installed" in line
    assert ".venv/bin/pip install gcsfs" in line
    store.client().put_object(Bucket=BUCKET, Key="chroma/chroma-snapshots.json", Body=b'{"format": 2}')
    run("create", "backup.yaml", "--id", "first", code=2)
    assert "is of another version of the toolkit, or of something else" in only_line(capsys)


@pytest.mark.more
def test_a_run_keeps_its_snapshot_in_the_storage_and_its_secrets_nowhere(
    source: Path, store: S3Server, proxy: FaultyProxy, tmp_path: Path
) -> None:
    runbook = Runbook(tmp_path)
    section = PARAMETERS.format(url=proxy.url).partition("snapshot:")
    more = f"{section[1]}{section[2]}".replace("patience_seconds: 20", "patience_seconds: 1")
    parameters = runbook.write("night", "path: source", "path: target", more)
    done = runbook("run", parameters, "--run-id", "night", "--until", "14")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    proxy.fault = from_the(1, CUT_BEFORE, "PUT .*/snapshots/night-21")
    lost = runbook("resume", "night", "--until", "22")
    assert lost.returncode == 1
    assert "no answer that is of use to put" in lost.stderr
    proxy.fault = lambda method, path: PASS
    assert "chroma/begun/night-21.json" in store.objects()
    done = runbook("resume", "night", "--until", "22")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    kept = {k for k in store.objects() if "/snapshots/" in k or "/begun/" in k}
    assert {"chroma/snapshots/night-21.json"} == {k for k in kept if "night-21" in k}

    shutil.rmtree(next((tmp_path / "workspace" / ".stored").glob("*")) / "night-21")  # it is brought again
    done = runbook("resume", "night", "--until", "23")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    facts = json.loads((runbook.reports / "night" / "results" / "21.json").read_text())["facts"]["snapshot"]
    assert facts["stored"] == "s3://backups/chroma"
    secrets = [SecretRef("env", "STORE_KEY"), SecretRef("env", "STORE_SECRET")]
    for folder in (runbook.reports, runbook.workspace):
        found = secret_scan.search(folder, secrets)
        assert not found.hits, found.hits
    (runbook.reports / "night" / "planted.txt").write_text(SECRET, encoding="utf-8")
    assert secret_scan.search(runbook.reports, secrets).hits, "the search finds what it is for"

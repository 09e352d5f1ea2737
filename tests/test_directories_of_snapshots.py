"""`snapshot.directory`: a folder, which needs no driver, or the URL of a storage; what its section takes, and what not."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from helpers import cli
from helpers.errors import Terminal, UsageError
from helpers.parameters import parameters_from
from helpers.parameters.snapshots import SnapshotSection
from helpers.snapshots import objects, remote, retention
from helpers.snapshots import snapshot as module
from helpers.snapshots.export_journal import own_digest
from tests.conftest import ROOT
from tests.s3 import KEY, SECRET, without_machine_credentials
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
    monkeypatch.setattr(objects, "BROKEN_OFF", timedelta(0))
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


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """The folder of a storage, still empty, a source, and parameters that put its snapshots there."""
    with embedded(tmp_path / "source") as made:
        fill(made, "alpha", chunks(30, 8))
    text = f"name: nightly\nsource: {{path: source}}\nsnapshot: {{directory: 'file://{tmp_path}/disk'}}\n"
    Path("backup.yaml").write_text(text, encoding="utf-8")
    (tmp_path / "disk").mkdir()
    return tmp_path / "disk"


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every retention has ended."""
    monkeypatch.setattr(
        retention.SnapshotFolder, "retain_until", property(lambda item: datetime(2020, 1, 1, tzinfo=UTC))
    )


def killed(*_: object, **__: object) -> None:
    raise SystemExit(9)


def test_a_prune_leaves_what_another_machine_put_under_the_same_id(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> None:
    with monkeypatch.context() as early:
        early.setattr(module, "write_manifest", killed)  # before anything is put
        with pytest.raises(SystemExit):
            run("create", "backup.yaml", "--id", "weekly")
    with monkeypatch.context() as there:
        there.setenv("RUNBOOK_WORKSPACE", str(tmp_path / "other"))
        run("create", "backup.yaml", "--id", "weekly")
    whole = files(disk)
    over(monkeypatch)
    run("prune", "--yes")
    assert "goes   weekly.partial" in capsys.readouterr().out
    assert files(disk) == whole
    run("prune", "--yes")  # now with the other's manifest here
    assert "stays  weekly  which runs need it is not certain: another workspace put it" in capsys.readouterr().out
    assert files(disk) == whole
    with monkeypatch.context() as there:
        there.setenv("RUNBOOK_WORKSPACE", str(tmp_path / "other"))
        run("verify", "weekly")
        run("prune", "--yes")
    assert files(disk) == {"chroma-snapshots.json"}, "who took it removes it"


def test_a_prune_leaves_what_took_the_place_of_its_own(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("create", "backup.yaml", "--id", "monday")
    (disk / "snapshots" / "monday.json").unlink()  # a rule of the storage removed it
    with monkeypatch.context() as there:
        there.setenv("RUNBOOK_WORKSPACE", str(tmp_path / "other"))
        run("create", "backup.yaml", "--id", "monday")
    whole = files(disk)
    over(monkeypatch)
    run("prune", "--yes")
    assert files(disk) == whole
    run("create", "backup.yaml", "--id", "tuesday")
    run("prune", "--yes")
    assert files(disk) == whole, "its own goes, and no file that the other names"


@pytest.mark.parametrize("name", ["parts", "snapshots", "begun", "chroma-snapshots.json"])
def test_a_storage_with_a_link_in_it_is_refused(disk: Path, tmp_path: Path, capsys: Said, name: str) -> None:
    run("create", "backup.yaml", "--id", "first")
    private = tmp_path / "private"
    if (disk / name).exists():
        (disk / name).rename(private)
    else:
        private.mkdir()
    (disk / name).symlink_to(private)
    before = files(tmp_path / "disk") | (files(private) if private.is_dir() else set())
    capsys.readouterr()
    run("create", "backup.yaml", "--id", "second", code=2)
    run("prune", "--yes", code=2)
    run("list", code=2)
    assert f"{name} there is a link" in capsys.readouterr().out
    assert files(tmp_path / "disk") | (files(private) if private.is_dir() else set()) == before
    (disk / name).unlink()
    private.rename(disk / name)
    run("create", "backup.yaml", "--id", "second")


def test_a_folder_that_becomes_a_link_during_the_request_is_named(
    disk: Path, tmp_path: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at it and the end of the request; what went elsewhere is said at once, and nothing counts of it."""
    run("create", "backup.yaml", "--id", "first")
    (private := tmp_path / "private").mkdir()
    real: Callable[[Path, bytes], None] = vars(objects)["write_bytes"]

    def exchanged(path: Path, data: bytes) -> None:
        if path.name == "second.json" and path.parent.name == "snapshots":
            path.parent.rename(tmp_path / "aside")
            path.parent.symlink_to(private)
        real(path, data)

    monkeypatch.setattr(objects, "write_bytes", exchanged)
    capsys.readouterr()
    run("create", "backup.yaml", "--id", "second", code=2)
    assert "snapshots there is a link. Find out who made it, and remove it." in only_line(capsys)
    monkeypatch.undo()


def test_a_pipe_or_a_link_is_no_object(disk: Path, capsys: Said) -> None:
    run("create", "backup.yaml", "--id", "first")
    mark, manifest = disk / "chroma-snapshots.json", disk / "snapshots" / "first.json"
    kept, held = mark.read_bytes(), manifest.read_bytes()
    mark.unlink()
    os.mkfifo(mark)
    run("check", "backup.yaml", code=2)
    assert "chroma-snapshots.json there is no plain file" in only_line(capsys)
    mark.unlink()
    mark.write_bytes(kept)
    manifest.unlink()
    os.mkfifo(manifest)
    (disk / "snapshots" / "zero.json").symlink_to("/dev/zero")
    run("list")
    listed = capsys.readouterr().out
    assert "NOT in the storage" in listed
    assert "zero" not in listed
    run("verify", "first", code=1)
    assert "its manifest is not in the storage" in only_line(capsys)
    manifest.unlink()
    manifest.write_bytes(held)
    run("verify", "first")


def test_a_storage_has_no_folder_in_or_around_a_database(tmp_path: Path) -> None:
    for place, source, refused in (
        ("", "parts", True), ("", "snapshots/x", True), ("", "begun", True), ("", "data", False), ("data/kept", "data", True),
    ):  # fmt: skip
        rules = SnapshotSection(directory=f"file://{tmp_path}/{place}".rstrip("/"))
        assert rules.overlaps(str(tmp_path / source)) == refused, (place, source)
    document = {"source": {"path": str(tmp_path / "parts")}, "target": {"path": "b"}}
    with pytest.raises(UsageError, match="must hold the database only"):
        parameters_from({**document, "snapshot": {"directory": f"file://{tmp_path}"}})


def test_a_manifest_in_the_storage_that_says_nothing_is_no_recent_snapshot(disk: Path, capsys: Said) -> None:
    run("create", "backup.yaml", "--id", "first")
    run("check", "backup.yaml")
    manifest = disk / "snapshots" / "first.json"
    held = json.loads(manifest.read_text(encoding="utf-8"))
    other: list[dict[str, Any]] = [{}, held | {"source": "another"}, held | {"collections": []}]
    for forged in other:
        manifest.write_text(json.dumps(forged), encoding="utf-8")
        run("check", "backup.yaml", code=1)
    manifest.write_text(json.dumps(held), encoding="utf-8")
    run("check", "backup.yaml")


def test_one_bad_manifest_is_a_row_and_the_others_are_listed(disk: Path, capsys: Said) -> None:
    """Somebody puts it into a shared storage, with a digest that fits; it stays named after the object is gone."""
    run("create", "backup.yaml", "--id", "good")
    held = json.loads((disk / "snapshots" / "good.json").read_text(encoding="utf-8"))
    capsys.readouterr()
    values: list[Any] = [None, [], "9", {"x": 1}]
    for number, value in enumerate(values):
        held["id"], held["collections"][0]["parts"][0]["bytes"] = f"evil-{number}", value
        held["sha256"] = own_digest(held)
        evil = disk / "snapshots" / f"evil-{number}.json"
        evil.write_text(json.dumps(held), encoding="utf-8")
        for _ in range(2):
            run("list", "--directory", disk.as_uri())
            said = capsys.readouterr().out
            (row,) = (line for line in said.splitlines() if line.startswith(f"evil-{number} "))
            assert "no readable manifest (collections.0.parts.0.bytes: " in row
            assert any(line.startswith("good ") and "created" in line for line in said.splitlines())
            evil.unlink(missing_ok=True)
    run("check", "backup.yaml")
    run("prune", "--directory", disk.as_uri())


def test_a_planted_folder_is_named_without_its_escapes(tmp_path: Path, capsys: Said) -> None:
    (tmp_path / "kept" / "x\x1b[2Jgoes").mkdir(parents=True)
    run("prune", "--directory", "kept")
    said = capsys.readouterr().out
    assert "x\\x1b[2Jgoes" in said
    assert "\x1b" not in said


def test_uploads_of_other_applications_are_not_taken_for_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    digest = "0" * 64
    keys = ["other/video.mp4", "kept/parts/video.mp4", f"kept/parts/{digest}.parquet", f"other/parts/{digest}.parquet"]
    there = [{"Key": key, "UploadId": "1", "Initiated": datetime(2020, 1, 1, tzinfo=UTC)} for key in keys]
    storage = remote.Remote(remote.named("s3://bucket/kept"))
    monkeypatch.setattr(storage, "_call", lambda *_, **__: {"Uploads": there})
    assert storage.broken_off() == [(f"kept/parts/{digest}.parquet", "1")]


TOKEN = f"t{secrets.token_hex(30)}"  # of nobody
Answer = Callable[[http.server.BaseHTTPRequestHandler], None]


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the commands are given by reference, and little patience."""
    for name, value in (("K", KEY), ("S", SECRET), ("T", TOKEN)):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(objects.Objects, "_patience", 1)


@contextmanager
def hostile(answer: Answer) -> Iterator[str]:
    """The URL of an S3 that answers so."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None: ...

        def do(self) -> None:
            self.rfile.read(int(self.headers.get("content-length") or 0))
            answer(self)

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = do

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with without_machine_credentials():
            yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def say(to: http.server.BaseHTTPRequestHandler, status: int, text: str) -> None:
    to.send_response(status)
    to.send_header("content-length", str(len(text)))
    to.send_header("ETag", '"x"')
    to.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
    to.end_headers()
    if to.command != "HEAD":
        to.wfile.write(text.encode())


def at(url: str, *, own: bool = False) -> list[str]:
    given = {"endpoint_url": url, "region": "us-east-1"}
    given |= {} if own else {"key": "env:K", "secret": "env:S", "token": "env:T"}
    return ["--directory", "s3://b/pre", *(text for k, v in given.items() for text in ("--storage", f"{k}={v}"))]


@pytest.mark.parametrize("own", [False, True], ids=["named", "of the driver"])
@pytest.mark.parametrize("code", ["AccessDenied", "InvalidArgument", ""], ids=["denied", "wrong", "a token"])
@pytest.mark.usefixtures("credentials")
def test_an_error_of_a_storage_is_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said, own: bool, code: str
) -> None:
    """It may hold half of a token, which nothing would know as one."""
    error = f"<Error><Code>{code or TOKEN}</Code><Message>No, {KEY}: {TOKEN} or {TOKEN[:20]}</Message></Error>"
    profile = f"[default]\naws_access_key_id={KEY}\naws_secret_access_key={SECRET}\naws_session_token={TOKEN}\n"
    (tmp_path / "profile").write_text(profile, encoding="utf-8")
    with hostile(lambda to: say(to, 403 if code == "AccessDenied" else 400, error)) as url:
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "profile"))
        cli.main(["snapshots", "list", *at(url, own=own)])
    said = "".join(capsys.readouterr())
    assert "s3://b/pre: " in said
    assert code in said
    assert TOKEN[:20] not in said
    assert KEY not in said


@pytest.mark.usefixtures("credentials")
def test_names_and_manifests_that_repeat_a_credential_are_not_taken(tmp_path: Path, capsys: Said) -> None:
    listed = "<ListBucketResult><Name>b</Name><IsTruncated>false</IsTruncated>{}</ListBucketResult>"
    names = [TOKEN, f"k-{KEY}", "plain"]
    manifest = json.dumps({"id": "plain", "note": TOKEN})

    def answer(to: http.server.BaseHTTPRequestHandler) -> None:
        if "uploads" in to.path:
            say(to, 200, "<ListMultipartUploadsResult></ListMultipartUploadsResult>")
        elif "list-type" in to.path:
            key = "<Contents><Key>pre/snapshots/{}.json</Key><Size>9</Size><LastModified>2026-01-01T00:00:00Z</LastModified>"
            key += "</Contents>"
            say(to, 200, listed.format("".join(map(key.format, names)) if "snapshots" in to.path else ""))
        else:
            say(to, 200, '{"format": 1}' if "chroma-snapshots" in to.path else manifest)

    with hostile(answer) as url:
        run("list", *at(url), code=2)
        assert "snapshots/plain.json there repeats a credential" in capsys.readouterr().out
        manifest = json.dumps({"id": "plain"})
        run("list", *at(url))
        run("prune", *at(url))
    said = "".join(capsys.readouterr())
    assert "plain" in said
    kept = {path for path in (tmp_path / "workspace" / ".stored").rglob("*") if path.name != "storage.json"}
    assert {path.name for path in kept} >= {"plain", "manifest.json"}
    for text in (said, *map(str, kept), *(path.read_text() for path in kept if path.is_file())):
        assert KEY not in text
        assert TOKEN not in text


@pytest.mark.usefixtures("credentials")
@pytest.mark.parametrize("how", ["announced", "without an end", "honest"])
def test_an_object_that_is_longer_than_its_storage_said_ends_there(tmp_path: Path, how: str) -> None:
    """Whoever runs the storage says 500 bytes, and sends 64 MB: neither memory nor disk is filled with them."""
    block, blocks, sent = b"x" * 2**20, 64, [0]

    def answer(to: http.server.BaseHTTPRequestHandler) -> None:
        lies = to.command == "GET" and how != "honest"
        to.send_response(200)
        if not lies or how == "announced":
            to.send_header("content-length", str(blocks * len(block) if lies else 500))
        to.send_header("ETag", '"x"')
        to.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        to.end_headers()
        with suppress(OSError):
            for _ in range(blocks if lies else 0):
                to.wfile.write(block)
                sent[0] += 1
            to.wfile.write(b"x" * 500 if to.command == "GET" and not lies else b"")

    sha256, part = hashlib.sha256(b"x" * 500).hexdigest(), tmp_path / "part.parquet"
    with hostile(answer) as url, pytest.MonkeyPatch.context() as patched:
        patched.setattr(objects, "MOST_READ", 2**20)
        given = {"endpoint_url": url, "region": "us-east-1", "key": "env:K", "secret": "env:S"}
        rules = SnapshotSection.model_validate({"directory": "s3://b/pre", "storage": given})
        storage = remote.Remote(rules, tmp_path)
        if how == "honest":
            assert len(storage._read("snapshots/night.json")) == 500
            storage.bring(part, sha256, 500)
            storage.prove(part, sha256, 500)
            return
        for call in (lambda: storage._read("snapshots/night.json"), lambda: storage.bring(part, sha256, 500)):
            with pytest.raises(Terminal, match=r"more than .* bytes come of it") as told:
                call()
            assert told.value.where.startswith("s3://b/pre/")
        assert not part.exists()
        part.write_bytes(b"x" * 500)
        with pytest.raises(Terminal, match="more than 500 bytes"):
            storage.prove(part, sha256, 500)
        with pytest.raises(UsageError, match="of another version of the toolkit, or of something else"):
            storage.require(write=False)
    assert sent[0] < 100, "of 256 blocks: what was on its way"
    assert list(tmp_path.iterdir()) == [part]


@pytest.mark.usefixtures("credentials")
@pytest.mark.parametrize(
    "what", ["a page", "an error", "an error in place of an object", "pages without end", "honest"]
)
def test_a_list_or_an_error_of_a_storage_is_read_to_its_ceiling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Each is one answer that a driver reads as a whole: 64 MB of it are not, nor are its pages without an end."""
    block, sent = b" " * 2**18, [0]
    row = "<Contents><Key>pre/parts/x</Key><Size>9</Size><LastModified>2026-01-01T00:00:00Z</LastModified></Contents>"
    page = f"<ListBucketResult><Name>b</Name><IsTruncated>{{}}</IsTruncated>{{}}{row * 1_000}</ListBucketResult>"

    def answer(to: http.server.BaseHTTPRequestHandler) -> None:
        if what in ("honest", "pages without end"):
            sent[0] += 1
            more = f"<NextContinuationToken>{sent[0]}</NextContinuationToken>"
            say(to, 200, page.format("false", "") if what == "honest" else page.format("true", more))
            return
        to.send_response(200 if what == "a page" else 404 if "object" in what else 400)
        to.end_headers()
        with suppress(OSError):
            for _ in range(256 if to.command != "HEAD" else 0):
                to.wfile.write(block)
                sent[0] += 1

    monkeypatch.setattr(objects, "MOST_ANSWER", 2**20)
    monkeypatch.setattr(objects, "MOST_ANSWERED", 3 * 2**20)
    with hostile(answer) as url:
        given = {"endpoint_url": url, "region": "us-east-1", "key": "env:K", "secret": "env:S"}
        rules = SnapshotSection.model_validate({"directory": "s3://b/pre", "storage": given})
        storage = remote.Remote(rules, tmp_path)
        if what == "honest":
            assert storage._list("parts") == {"x": 9}
            return
        call = (lambda: storage._remove("x.json")) if "object" in what else (lambda: storage._list("parts"))
        with pytest.raises(Terminal, match=r"more than [13],\d{3},\d{3} bytes come of it") as told:
            call()
    assert (told.value.where.startswith("s3://b/pre/"), "\n" in told.value.line()) == (True, False)
    assert sent[0] < 100


@pytest.mark.usefixtures("credentials")
def test_a_storage_that_drips_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, capsys: Said) -> None:
    over_ = threading.Event()

    def drip(to: http.server.BaseHTTPRequestHandler) -> None:
        line = b"HTTP/1.1 200 OK\r\n"
        while not over_.wait(0.3):
            to.wfile.write(line)
            line = b"x-a: b\r\n"

    monkeypatch.setattr(objects, "LEAST", 1)
    with hostile(drip) as url:
        begun = time.monotonic()
        run("list", *at(url), code=1)
        assert time.monotonic() - begun < 30
        over_.set()
    assert "TimeoutError" in capsys.readouterr().out

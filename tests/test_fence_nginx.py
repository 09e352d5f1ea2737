"""A real nginx before a real Chroma: writes refused, reads answered, requests in flight waited for, writes restored."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import chromadb.errors
import psutil
import pytest

from helpers.errors import EnvironmentFailure, Terminal, UsageError
from helpers.fence import FenceControl, FenceState, lift
from helpers.fence.nginx import configuration
from helpers.parameters import parameters_from
from helpers.results import Verdict
from helpers.run.command import children
from helpers.run.folders import RunFolder
from helpers.steps.fence_writes import FenceWritesStep
from tests.fences import Fenced, at_step, client, fenced_server, rows, wait_for
from tests.proxies import FaultyProxy
from tests.servers import ChromaServer, free_port

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fenced]:
    folder = tmp_path_factory.mktemp("fence")
    with fenced_server(folder) as fenced:
        yield fenced


@pytest.fixture
def fenced(shared: Fenced, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fenced]:
    monkeypatch.setenv("RUNBOOK_REPORTS", str(tmp_path / "reports"))
    monkeypatch.setenv("RUNBOOK_WORKSPACE", str(tmp_path / "workspace"))
    shared.config = tmp_path / "fence.conf"
    yield shared
    shared.stop()


def control(folder: RunFolder) -> FenceControl:
    return FenceControl(folder, folder.read().parameters)


def opened(fenced: Fenced) -> str:
    """The plain proxy in force that clients had before the night; its configuration."""
    before = fenced.run("before")
    proxy = control(before)
    assert proxy.nginx is not None
    text = configuration(proxy.nginx.rules, "x", closed=False).split("\n", 1)[1]
    fenced.config.write_text(text, encoding="utf-8")
    proxy.nginx.enforce()
    return text


def names(fenced: Fenced) -> list[str]:
    with client(fenced.server.url) as chroma:
        return [c.name for c in chroma.list_collections()]


@pytest.mark.more
def test_the_step_fences_proves_and_says_how_to_lift(fenced: Fenced) -> None:
    text = opened(fenced)
    folder = fenced.run()
    with at_step(folder) as run:
        fence = FenceWritesStep(run)
        assert fence.urls()["url"].tolist() == [fenced.url, fenced.server.url, fenced.server.url]
        before = fence.before()
        assert set(before["outcome"]) == {"written"}, before
        assert "reloaded" in fence.put_up()
        proof = fence.prove()
        assert set(proof[proof["request"].isin(["add", "upsert", "delete", "create collection"])]["status"]) == {403}
        assert "runbook fence night --lift" in fence.undo()
        run.finish()
    assert {c.name: c.verdict for c in run.result.checks} == {
        "reads before the fence": Verdict.PASS, "writes before the fence": Verdict.PASS, "writes through the fence": Verdict.PASS,
        "reads through the fence": Verdict.PASS, "collections behind the fence": Verdict.PASS,
        "ways round the fence": Verdict.PASS, "write fence": Verdict.PASS,
    }  # fmt: skip
    with client(fenced.url) as chroma:
        docs = chroma.get_collection("docs", embedding_function=None)
        one = rows(1, prefix="new")
        for write in (
            lambda: docs.add(**one), lambda: docs.upsert(**one), lambda: docs.update(**one),
            lambda: docs.delete(ids=["c0"]), lambda: docs.modify(name="other"), lambda: chroma.delete_collection("docs"),
            lambda: chroma.create_collection("new", embedding_function=None),
            lambda: chroma.get_or_create_collection("docs", embedding_function=None),
            lambda: docs.upsert(**rows(3000)),
        ):  # fmt: skip
            with pytest.raises(chromadb.errors.AuthorizationError, match="Writes are stopped"):
                write()
        assert docs.count() == len(docs.get()["ids"]) == 20
        assert len(docs.query(query_embeddings=rows(1)["embeddings"], n_results=3)["ids"][0]) == 3
        assert names(fenced) == ["docs"], "no probe is left behind"

        assert "removed again" in lift(folder.read())
        docs.upsert(**rows(1))
    assert fenced.config.read_text(encoding="utf-8") == text, "what stood there before is there again"
    assert "lifted already" in lift(folder.read())
    assert names(fenced) == ["docs"]


def raw(fenced: Fenced, method: str, target: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
    """A request whose target is sent as it stands: no client tidies it up."""
    host, port = fenced.listen.split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=20)
    try:
        connection.request(method, target, json.dumps(body or {}), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_no_path_gets_a_write_through(fenced: Fenced) -> None:
    with client(fenced.server.url) as chroma:
        docs = chroma.get_collection("docs", embedding_function=None)
        before = docs.get(include=["embeddings", "documents"])
    folder = fenced.run()
    control(folder).put_up()
    base = "/api/v2/tenants/default_tenant/databases/default_database/collections"
    at = f"{base}/{docs.id}"
    body = {"ids": ["evil"], "embeddings": [[0.5] * 8]}
    tricks = [
        f"{at}/add", f"{at}//add", f"/{at}/add", f"{at}/add/", f"{at}/add?x=/get", f"{at}/add?/get", f"{at}/add#/get",
        f"{at}/add/../get", f"{at}/get/../add", f"{at}/add%2f..%2fget", f"{at}%2fadd%2f..%2fget", f"{at}/get%2f..%2fadd",
        f"{at}/%61dd", f"{at}/add%3f/get", f"{at}/./add", f"{at}/add;/get", f"{at}/upsert", f"{at}/delete", f"{at}/update",
        f"{at}/get/add", f"{at}/ADD", f"{at}/add%00/get",
        f"{base}/../collections/{docs.id}/add", f"{base}/x/get/../../{docs.id}/add",
        f"/api/v2/tenants/../tenants/default_tenant/databases/default_database/collections/{docs.id}/get",
        f"/api/v2/tenants/%2e%2e/databases/x/collections/{docs.id}/get", f"/api/v1/collections/{docs.id}/add", base,
        "/api/v2/reset", "/api/v1/reset", "/api/v2/tenants", f"http://{fenced.listen}{at}/add",
    ]  # fmt: skip
    for target in tricks:
        status, said = raw(fenced, "POST", target, body)
        assert status in (400, 403), f"{target}: {status} {said!r}"
        if status == 403:
            assert json.loads(said)["error"] == "AuthorizationError", target
    for method in ("PUT", "PATCH", "DELETE", "post", "CONNECT", "get"):
        assert raw(fenced, method, f"{at}/add", body)[0] in (400, 403, 405), method
    assert raw(fenced, "POST", f"{at}/get", {"limit": 1})[0] == 200
    assert raw(fenced, "POST", f"{at}/get?x=1", {"limit": 1})[0] == 200
    assert raw(fenced, "GET", f"{at}/add")[0] == 405, "let through, and Chroma knows no such read"
    with client(fenced.server.url) as chroma:
        after = chroma.get_collection("docs", embedding_function=None).get(include=["embeddings", "documents"])
    assert after["ids"] == before["ids"]
    assert after["documents"] == before["documents"]
    assert (after["embeddings"] == before["embeddings"]).all()  # type: ignore[union-attr]
    lift(folder.read())


@pytest.mark.more
def test_no_request_is_smuggled_behind_another(fenced: Fenced) -> None:
    """Two lengths, a length beside chunks, a write in the body of a read: nginx and Chroma agree where each request ends."""
    before = names(fenced)
    with client(fenced.server.url) as chroma:
        docs = chroma.get_collection("docs", embedding_function=None).id
    folder = fenced.run()
    control(folder).put_up()
    base = "/api/v2/tenants/default_tenant/databases/default_database/collections"
    body = json.dumps({"name": "smuggled"}).encode()
    write = b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
        base.encode(), len(body), body,
    )  # fmt: skip
    read = b"POST %b/%b/get HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" % (
        base.encode(),
        str(docs).encode(),
    )
    chunked = b"2\r\n{}\r\n0\r\n\r\n"
    tricks = [
        read + b"Content-Length: 2\r\nContent-Length: %d\r\n\r\n{}" % (2 + len(write)) + write,
        read + b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n" % (len(chunked) + len(write)) + chunked + write,
        read + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n" + chunked + write,
        read + b"Transfer-Encoding : chunked\r\nContent-Length: 2\r\n\r\n{}" + write,
        read + b"Content-Length: +2\r\n\r\n{}" + write,
        read + b"Content-Length: 2\r\nX: a\nTransfer-Encoding: chunked\r\n\r\n{}" + write,
        b"GET %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (base.encode(), len(write)) + write,
        b"GET %b HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\n\r\n" % base.encode() + write,
        read + b"Content-Length: 2\r\n\r\n{}" + write,  # two requests, one behind the other
    ]  # fmt: skip
    host, port = fenced.listen.split(":")
    for trick in tricks:
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            connection.sendall(trick)
            with suppress(OSError):
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(2**16):
                    pass
        assert names(fenced) == before, trick
    lift(folder.read())


@pytest.mark.more
def test_a_write_in_flight_is_waited_for(fenced: Fenced) -> None:
    opened(fenced)
    folder = fenced.run()
    ended: list[float] = []
    with client(fenced.url) as chroma:
        docs = chroma.create_collection("flight", embedding_function=None)
        begun = threading.Event()

        def write() -> None:
            batch = rows(3000, 256)
            begun.set()
            docs.upsert(**batch)
            ended.append(time.monotonic())

        thread = threading.Thread(target=write)
        thread.start()
        begun.wait()
        time.sleep(0.3)
        control(folder).put_up()
        up = time.monotonic()
        thread.join()
        assert ended, "the write that was let in is not cut off"
        assert ended[0] < up
        assert docs.count() == 3000
        lift(folder.read())
        chroma.delete_collection("flight")


@pytest.mark.more
def test_workers_that_do_not_end_are_no_fence_and_all_is_put_back(fenced: Fenced) -> None:
    text = opened(fenced)
    folder = fenced.run(fence=fenced.section(timeout_seconds=2.0))
    host, port = fenced.listen.split(":")
    slow = http.client.HTTPConnection(host, int(port), timeout=20)
    slow.putrequest("POST", "/api/v2/tenants/default_tenant/databases/default_database/collections")
    slow.putheader("Content-Length", "1000")
    slow.endheaders(b"{")  # a client that never comes to its end
    time.sleep(0.3)
    with pytest.raises(Terminal, match="worker processes of the old configuration still serve"):
        control(folder).put_up()
    slow.close()
    assert fenced.config.read_text(encoding="utf-8") == text
    with client(fenced.url) as chroma:
        chroma.get_collection("docs", embedding_function=None).upsert(**rows(1))


@pytest.mark.more
def test_what_stands_in_the_way_is_one_line_and_leaves_nothing(fenced: Fenced) -> None:
    missing = fenced.run("missing", fenced.section(nginx={"command": ["no-such-nginx"]}))
    with pytest.raises(Terminal, match=r"nginx cannot be started .*Install no-such-nginx"):
        control(missing).put_up()
    state = FenceState.load(missing.workspace)
    assert state is not None
    assert not state.may_be_active
    assert not fenced.config.exists()

    host, port = fenced.listen.split(":")
    busy = fenced.run(
        "busy", fenced.section(nginx={"listen": f"{host}:{fenced.server.port}", "upstream": f"{host}:{port}"})
    )
    with pytest.raises(Terminal, match="Address already in use"):
        control(busy).put_up()

    main = fenced.config.with_name("main.conf")
    main.write_text("events {}\nhttp {}\n", encoding="utf-8")
    unread = fenced.run("unread", fenced.section(nginx={"command": [fenced.program, "-c", str(main)]}))
    with pytest.raises(Terminal, match="nginx does not read this file"):
        control(unread).put_up()

    main.write_text(f"events {{}}\nhttp {{ include {fenced.config}; nonsense; }}\n", encoding="utf-8")
    broken = fenced.run("broken", fenced.section(nginx={"command": [fenced.program, "-c", str(main)]}))
    with pytest.raises(Terminal, match=r'nginx -t refuses the configuration.*unknown directive "nonsense"'):
        control(broken).put_up()

    rival = f"server {{ listen {fenced.listen}; server_name other; }}"
    main.write_text(
        f"events {{}}\nhttp {{ include {fenced.config}; {rival} }}\n".replace("server {", "\nserver {\n"),
        encoding="utf-8",
    )
    two = fenced.run("two", fenced.section(nginx={"command": [fenced.program, "-c", str(main)]}))
    with pytest.raises(Terminal, match="another server of this nginx listens on port"):
        control(two).put_up()


@pytest.mark.more
def test_a_busy_port_at_a_reload_is_seen_although_nginx_reports_success(fenced: Fenced) -> None:
    opened(fenced)
    host = fenced.listen.split(":", maxsplit=1)[0]
    busy = fenced.run(
        "busy",
        fenced.section(
            timeout_seconds=4.0, nginx={"listen": f"{host}:{fenced.server.port}", "upstream": fenced.listen}
        ),
    )
    with pytest.raises(Terminal, match=r"went on with its old configuration.*Address already in use"):
        control(busy).put_up()
    with client(fenced.url) as chroma:
        assert chroma.get_collection("docs", embedding_function=None).count() == 20


def test_a_master_that_died_is_started_again_and_old_lines_of_its_log_are_no_reason(fenced: Fenced) -> None:
    """A dead process keeps its number until somebody waits for it, and takes signals: a reload of it looks well."""
    opened(fenced)
    folder = fenced.run("dead")
    main = fenced.config.read_text(encoding="utf-8")
    Path(f"{fenced.config}.log").write_text(
        "2026/11/29 14:46:54 [emerg] 1#1: bind() to 127.0.0.1:1 failed (98: in use)\n"
    )
    fenced.stop()
    command = [fenced.program, "-c", str(fenced.config), "-g", "daemon off;"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as master:  # this process is its parent, and does not wait
        wait_for(lambda: bool(children(master.pid)))
        workers = children(master.pid)
        master.kill()
        for worker in workers:
            os.kill(worker, signal.SIGKILL)
        wait_for(lambda: psutil.Process(master.pid).status() == psutil.STATUS_ZOMBIE)
        assert Path(f"{fenced.config}.pid").read_text().strip() == str(master.pid)
        begun = time.monotonic()
        assert "nginx started" in control(folder).put_up()
        assert time.monotonic() - begun < 12, "it did not wait for workers of a process that is gone"
    assert FenceState.load(folder.workspace).active  # type: ignore[union-attr]
    assert control(folder).lift()
    assert fenced.config.read_text(encoding="utf-8") == main


def test_a_fence_that_is_included_by_another_configuration(fenced: Fenced, tmp_path: Path) -> None:
    main = tmp_path / "main.conf"
    http = f"http {{ access_log off; include {tmp_path}/f*.conf; }}"
    text = f"pid {fenced.config}.pid;\nerror_log {fenced.config}.log;\nevents {{}}\n{http}\n"
    main.write_text(text, encoding="utf-8")
    folder = fenced.run(fence=fenced.section(nginx={"command": [fenced.program, "-c", str(main)]}))
    assert "nginx started" in control(folder).put_up()
    with client(fenced.url) as chroma, pytest.raises(chromadb.errors.AuthorizationError):
        chroma.create_collection("new", embedding_function=None)
    other = fenced.run("other", fenced.section(nginx={"command": [fenced.program, "-c", str(main)]}))
    with pytest.raises(Terminal, match=r"holds the fence of run night.*runbook fence night --lift"):
        control(other).put_up()
    lift(folder.read())
    assert "open, everything passes" in fenced.config.read_text(encoding="utf-8"), "clients have come to use this port"


@pytest.mark.more
@pytest.mark.parametrize(
    ("way", "passes"),
    [("a variable", True), ("a second proxy", True), ("the fence itself", False), ("another Chroma", False)],
)
def test_a_listener_that_leads_to_the_source_in_a_roundabout_way_is_asked(
    fenced: Fenced, tmp_path: Path, way: str, passes: bool
) -> None:
    """No file says where it leads; a write probe through it does. A server of another database is left alone."""
    port = free_port()
    with ExitStack() as stack:
        if way == "a second proxy":
            upstream = stack.enter_context(FaultyProxy(fenced.server.url)).url.removeprefix("http://")
        elif way == "another Chroma":
            other = stack.enter_context(ChromaServer(tmp_path / "other"))
            upstream = f"127.0.0.1:{other.port}"
        else:
            upstream = fenced.listen if way == "the fence itself" else "$there"
        lead = f"set $there 127.0.0.1:{fenced.server.port}; proxy_pass http://{upstream}; proxy_set_header Host $http_host;"
        second = f"server {{ listen {port}; server_name chroma.internal; location / {{ {lead} }} }}"
        first = f"server {{ listen {port} default_server; return 404; }}"
        main = tmp_path / "main.conf"
        http = f"http {{ access_log off; include {tmp_path}/f*.conf; {first} {second} }}"
        main.write_text(
            f"pid {fenced.config}.pid;\nerror_log {fenced.config}.log;\nevents {{}}\n{http}\n", encoding="utf-8"
        )
        folder = fenced.run(fence=fenced.section(nginx={"command": [fenced.program, "-c", str(main)]}))
        found = control(folder)
        found.put_up()
        before = names(fenced)
        assert found.bypasses()[0] == ([f"http://127.0.0.1:{port} (chroma.internal)"] if passes else [])
        assert names(fenced) == before, "what the probe wrote is gone"
        lift(folder.read())


@pytest.mark.more
def test_a_killed_process_leaves_what_the_next_one_needs(fenced: Fenced) -> None:
    text = opened(fenced)
    folder = fenced.run()
    one = control(folder)
    state = one._new_state()
    state.enter(folder.workspace, "setting")
    assert one.nginx is not None
    one.nginx.write(configuration(one.nginx.rules, folder.id, closed=True))  # and then it was killed
    found = FenceState.load(folder.workspace)
    assert found is not None
    assert "may be in place" in found.sentence()
    control(folder).put_up()
    control(folder).put_up()
    lift(folder.read())
    assert fenced.config.read_text(encoding="utf-8") == text


@pytest.mark.more
def test_an_upstream_that_is_down_is_said_when_it_is_fenced_and_when_it_is_lifted(fenced: Fenced) -> None:
    folder = fenced.run()
    control(folder).put_up()
    fenced.server.kill()
    try:
        with pytest.raises(EnvironmentFailure, match=r"writes do not get through yet.*502"):
            lift(folder.read())
        state = FenceState.load(folder.workspace)
        assert state is not None
        assert state.state == "lifting"
        with pytest.raises(EnvironmentFailure, match="no answer"):
            control(folder).put_up()
    finally:
        fenced.server.start()
    assert "a write probe got through" in lift(folder.read())


@pytest.mark.more
def test_a_fence_with_a_hole_fails_and_what_got_through_is_removed(fenced: Fenced) -> None:
    """An operator's nginx elsewhere that was never closed: the step says what got through, and cleans up."""
    opened(fenced)
    elsewhere = fenced.config.with_name("for-the-operator.conf")
    folder = fenced.run(fence=fenced.section(nginx={"elsewhere": True, "config": str(elsewhere)}))
    with at_step(folder) as run:
        fence = FenceWritesStep(run)
        assert "CLOSED" in fence.plan()
        fence.before()
        assert "written for the operator" in fence.put_up()
        fence.prove()
        check = next(c for c in run.result.checks if c.name == "writes through the fence")
        assert check.verdict is Verdict.FAIL
        assert "create collection got through (200)" in check.detail
        assert check.detail.endswith("what the probe wrote was removed again")
        with pytest.raises(EnvironmentFailure, match="failed: writes through the fence"):
            run.finish()
    assert names(fenced) == ["docs"]
    state = FenceState.load(folder.workspace)
    assert state is not None
    assert not state.may_be_active


def test_a_dry_run_shows_everything_and_changes_nothing(fenced: Fenced) -> None:
    folder = fenced.run()
    with at_step(folder, dry_run=True) as run:
        fence = FenceWritesStep(run)
        assert "listen " + fenced.listen in fence.plan()
        assert set(fence.before()["request"]) == {"list collections", "count", "get", "query"}
        assert fence.put_up().startswith("DRY RUN")
        assert fence.prove().empty
        run.finish()
    assert not fenced.config.exists()
    assert FenceState.load(folder.workspace) is None
    assert lift(folder.read()) == "Run night has set no fence; there is nothing to lift."


def test_a_probe_that_was_killed_is_swept_and_other_collections_are_not(fenced: Fenced) -> None:
    ours, others = f"runbook-fence-probe-{'a' * 32}", "runbook-fence-probe-mine"
    with client(fenced.server.url) as chroma:
        for name in (ours, others):
            chroma.create_collection(name, embedding_function=None)
        one = control(fenced.run())
        with one.probe(fenced.server.url, "source") as probe:
            assert probe.sweep() == [ours]
        assert sorted(names(fenced)) == ["docs", others]
        chroma.delete_collection(others)


def test_a_directory_has_no_proxy_before_it() -> None:
    nginx = {"listen": f"127.0.0.1:{free_port()}", "upstream": "127.0.0.1:1", "config": "f"}
    sections = {"source": {"path": "old"}, "target": {"path": "new"}, "fence": {"kind": "nginx", "nginx": nginx}}
    with pytest.raises(UsageError, match=r"'fence\.kind' is nginx, but 'source' is a directory"):
        parameters_from(sections)

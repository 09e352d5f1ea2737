"""A server may answer anything: an answer has a most size after decompression, known codings, few levels, and an end in time."""

from __future__ import annotations

import gzip
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from helpers.errors import RunbookError, Terminal, Transient
from helpers.fence.probe import ServerProbe
from helpers.parameters.endpoint import Endpoint
from helpers.results import json_in
from helpers.stores import open_source, open_target, wire
from helpers.stores.client import ClientStore, batch_of
from helpers.stores.limits import STALL, Limits, QuotaExceeded, Requests, Usage, translate
from helpers.stores.wire import Session, identity_of, json_of
from tests.listeners import Listener
from tests.servers import ChromaServer
from tests.storage import assert_same, chunks, fill


class Hostile:
    """Answers each request with the same status, headers and body."""

    def __init__(self) -> None:
        self.status, self.body = 200, b"{}"
        self.headers: dict[str, str] = {}
        hostile = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(hostile.status if self.path != "/end" else 200)
                for name, value in {**hostile.headers, "Content-Length": str(len(hostile.body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                with suppress(OSError):  # who asked has left
                    self.wfile.write(hostile.body)

            def log_message(self, *said: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def answers(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.body, self.status, self.headers = body, status, {k.replace("_", "-"): v for k, v in headers.items()}

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def hostile() -> Iterator[Hostile]:
    running = Hostile()
    yield running
    running.stop()


@pytest.mark.parametrize("status", [200, 500, 302])
def test_a_small_answer_that_becomes_a_large_one_is_not_read_to_its_end(hostile: Hostile, status: int) -> None:
    """1,000 bytes for each; httpx reads the body of a redirect too."""
    hostile.answers(gzip.compress(b"[" + b" " * (9 * 2**20), 1), status, Content_Encoding="gzip", Location="/end")
    with (
        Session(timeout=60, follow_redirects=True) as session,
        pytest.raises(QuotaExceeded, match="larger than 8 MiB"),
    ):
        session.get(hostile.url)


@pytest.mark.parametrize(
    ("path", "most"),
    [
        ("/api/v2/tenants/t/databases/d/collections/c/get", 256), ("/api/v1/collections/c/query", 256),
        ("/api/v2/tenants/t/databases/d/collections/c/search", 256), ("/api/v2/tenants/t/databases/d/collections", 64),
        ("/api/v2/heartbeat", 8), ("/api/v2/auth/identity", 8), ("/api/v2/tenants/t/databases/d/collections/c/count", 8),
        ("/api/v2/tenants/t/databases/d/collections/c/add", 8), ("/health", 8), ("/", 8),
    ],
)  # fmt: skip
def test_each_kind_of_request_has_a_ceiling_that_fits(path: str, most: int) -> None:
    assert wire.most_bytes(path) == most * 2**20


def test_an_answer_of_chunks_may_be_larger_than_a_heartbeat(hostile: Hostile) -> None:
    body = b"[" + b" " * (9 * 2**20) + b"]"
    hostile.answers(gzip.compress(body, 1), Content_Encoding="gzip")
    with Session(timeout=60) as session:
        assert len(session.get(f"{hostile.url.rstrip('/')}/collections/c/get").content) == len(body)


@pytest.mark.parametrize("coding", ["gzip, gzip", "br", "zstd", "deflate, gzip"])
def test_a_coding_that_was_not_asked_for_is_refused(hostile: Hostile, coding: str) -> None:
    """Nested codings multiply, and some decoders know no bounds."""
    hostile.answers(gzip.compress(gzip.compress(b"{}")), Content_Encoding=coding)
    with Session(timeout=30) as session, pytest.raises(Transient, match="not asked for"):
        session.get(hostile.url)


def test_an_answer_of_millions_of_empty_lists_is_not_read_as_json(hostile: Hostile) -> None:
    """Three bytes of it are more than sixty in memory: 256 MiB of them would be 6 GB."""
    hostile.answers(gzip.compress(b"[" + b"[]," * 4_300_000 + b"1]", 1), Content_Encoding="gzip")
    with Session(timeout=60) as session, pytest.raises(QuotaExceeded, match="more than 4,194,304 lists and objects"):
        session.get(f"{hostile.url.rstrip('/')}/collections/c/get")


def test_brackets_inside_of_documents_are_no_lists() -> None:
    crowded = b'[{"a": "' + b'[{\\"' * 3_000_000 + b'"}, "[", "\\\\"]'
    assert json_in(crowded)[0]["a"].count("[") == 3_000_000
    with pytest.raises(ValueError, match="lists and objects"):
        json_in("[" + "{}," * 4_300_000 + "1]")


@pytest.mark.parametrize("coding", ["gzip", ""])
def test_honest_answers_are_read(hostile: Hostile, coding: str) -> None:
    body = json.dumps({"ids": [["a"]], "metadatas": [[{"list": [1, 2]}]]}).encode()
    if coding:
        hostile.answers(gzip.compress(body), Content_Encoding=coding)
    else:
        hostile.answers(body)
    with Session(timeout=30) as session:
        assert json_of(session.get(hostile.url), dict, "ids") == json.loads(body)


@pytest.mark.parametrize("depth", [65, 900, 1_010, 100_000])
@pytest.mark.parametrize("what", ["list", "object", "behind a number"])
def test_deep_json_is_no_answer(hostile: Hostile, depth: int, what: str) -> None:
    """Python's own reader ends in a RecursionError, and orjson's limit lies beyond what Python's writer can take."""
    around = {
        "list": (b"[", b"1", b"]"),
        "object": (b'{"tenant":', b'"t"', b"}"),
        "behind a number": (b"[1,", b"1", b"]"),
    }[what]
    hostile.answers(around[0] * depth + around[1] + around[2] * depth)
    with Session(timeout=30) as session:
        answer = session.get(hostile.url)
        with pytest.raises(Transient, match="not JSON"):
            json_of(answer)
        assert identity_of(answer) is None


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed_with_the_secrets(
    hostile: Hostile, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By none of the ways in which a server is asked: as a source, as a target, by the probe of the fence."""
    monkeypatch.setenv("CHROMA_TOKEN", "s3cret-of-the-source")
    with Listener() as thief:
        hostile.answers(b"{}", status, Location=thief.url.replace("json:", "http:"))
        endpoint = Endpoint.model_validate(
            {"url": hostile.url, "timeout_seconds": 5, "headers": {"X-Chroma-Token": "env:CHROMA_TOKEN"}}
        )
        with pytest.raises(RunbookError), open_source(endpoint, tmp_path):
            pass
        with pytest.raises(RunbookError), open_target(endpoint):
            pass
        with ServerProbe(hostile.url, endpoint, "source") as probe:
            assert not probe.answers_at_all()
            assert all(not answer.answered for answer in probe.reads())
        assert thief.asked == 0


@pytest.mark.servers
def test_chunks_that_are_too_large_together_are_read_in_smaller_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = chunks(24)
    batch.documents[:] = [f"{n} {'x' * 200_000}" for n in range(24)]
    with ChromaServer(tmp_path / "db") as server:
        with open_target(Endpoint(url=server.url)) as store:
            fill(store, "notes", batch)
        monkeypatch.setattr(wire, "CEILINGS", ((("",), 2**20),))
        with open_source(Endpoint(url=server.url), tmp_path) as store:
            assert_same(store.read("notes", batch.ids), batch)
            assert store.limits().read_rows < 24


def test_a_server_that_takes_a_body_slowly_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each slice is taken in time, and the whole would take for ever."""
    monkeypatch.setattr(wire, "_WHOLE", 3)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        end = threading.Event()

        def serve() -> None:
            taken, _ = listener.accept()
            while not end.wait(0.2):
                if not taken.recv(2**16):
                    break
            taken.close()

        server = threading.Thread(target=serve)
        server.start()
        begun = time.monotonic()
        try:
            with Session(timeout=0.5) as session, pytest.raises((httpx.TimeoutException, RunbookError)):
                session.post(f"http://127.0.0.1:{listener.getsockname()[1]}/", content=b"x" * 40_000_000)
        finally:
            end.set()
            server.join()
        assert time.monotonic() - begun < 15


@pytest.mark.parametrize("ids", [["a", "b", "c"], ["a", "x"], ["a", "a"]], ids=["more", "others", "twice"])
def test_an_answer_with_other_chunks_than_were_asked_for_is_one_of_our_errors(ids: list[str]) -> None:
    answer: dict[str, Any] = {
        "ids": ids,
        "documents": ["t"] * len(ids),
        "metadatas": [None] * len(ids),
        "embeddings": [[1.0]] * len(ids),
    }
    with pytest.raises(Terminal, match="does not answer this request for 2") as caught:
        batch_of(["a", "b"], answer, 1, True)
    assert caught.value.code == "not_json"
    fewer = {name: column[:1] for name, column in answer.items()}
    assert batch_of(["a", "b"], fewer, 1, True).ids == ["a"]
    with pytest.raises(Terminal, match="does not answer this request"):
        batch_of(["a", "b"], {**fewer, "documents": []}, 1, True)


class Pages:
    """A store whose every page has new ids."""

    name = "notes"
    asked = 0

    def get(self, limit: int, offset: int, include: list[str]) -> dict[str, list[str]]:
        self.asked += 1
        return {"ids": [str(n) for n in range(offset, offset + 1_000)]}

    def count(self) -> int:
        return 30


def test_pages_without_end_are_ended_by_what_the_server_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    store, pages = object.__new__(ClientStore), Pages()
    store.requests = Requests(Limits(100, 100))
    store.label, store.usage = "server", store.requests.usage
    monkeypatch.setattr(ClientStore, "_collection", lambda *_: pages)
    monkeypatch.setattr(ClientStore, "count", lambda *_: pages.count())
    with pytest.raises(Terminal, match=r"lists 10,990 ids and goes on, but counts 30 chunks"):
        store.ids("notes")
    assert pages.asked == 11


def test_a_server_that_asks_for_patience_without_end_is_given_up() -> None:
    """Each request may be answered in the end: it is the sum that counts, and what was answered meanwhile."""
    usage = Usage()

    def asked_to_wait(requests: int) -> None:
        for _ in range(requests):
            for _ in range(7):
                usage.waits(120.0)
            usage.add(answered=1)

    with pytest.raises(Terminal, match="asked to slow down") as caught:
        asked_to_wait(100)
    assert caught.value.code == "server_busy"
    assert STALL < usage.waited < STALL + 300
    steady = Usage()
    for _ in range(1_000):
        steady.waits(30.0)
        steady.add(answered=1)
    assert steady.waited == 30_000.0, "a server that is slow and goes on is waited for"


@pytest.mark.parametrize("text", ["exceed" * 400_000, "exceed " * 300_000, "quota " + " " * 2_000_000, "a" * 2_000_000])
def test_an_error_of_megabytes_is_looked_at_at_once(text: str) -> None:
    began = time.monotonic()
    found = translate(ValueError(text), "http://127.0.0.1:9")
    assert time.monotonic() - began < 5, "seconds for each word of a server's error"
    assert len(str(found)) < 100_000

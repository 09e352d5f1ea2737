"""A stand-in for Chroma Cloud: what the hosted service asks of a client, in front of a real `chroma run`.

Chroma Cloud cannot be reached from a test. Its rules can: this proxy demands a key, answers whose key it is, refuses what
is over a quota, cuts a `get` that names no limit, holds concurrency and rate down, and can close for writes or for reads.
The words of its refusals are those of Chroma's own server (rust/frontend: quota/mod.rs, server.rs, auth.rs); the values of
the quotas are those of docs.trychroma.com/cloud/quotas-limits, but for three that users measured or the source alone names
(see `QUOTAS`). What it had to refuse is counted, and so is every row that it handed out.

It runs in a process of its own: `CloudStandIn(server.url)` in a test, `python -m tests.cloud_standin --help` by hand.

A local server refuses sparse vectors in metadata. They are kept behind the stand-in as text and handed out as Cloud does.
"""

from __future__ import annotations

import argparse
import http.client
import json
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self, cast
from urllib.parse import unquote, urlsplit

import httpx

from tests.cloud_rules import READS, WRITES, Cloud, Identity, Refusal, as_text, longest
from tests.servers import Server, client_of

KEY = "ck-5tandIn-0f-the-tests"
TENANT = "7c9e6679-7425-40de-944b-e07fc1f90ae7"
DATABASE = "production"
CONTROL = "/_standin"

PUBLIC = ("heartbeat", "version", "pre-flight-checks", "healthcheck")
_SPARSE = re.compile(rb'"@sparse:([0-9,]*):([-+.0-9e,]*)"')


class _Handler(BaseHTTPRequestHandler):
    """One connection of a client, with one connection to the server behind."""

    cloud: Cloud
    upstream: tuple[str, int]
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are two writes

    def setup(self) -> None:
        super().setup()
        self._server = http.client.HTTPConnection(*self.upstream, timeout=120)

    def finish(self) -> None:
        self._server.close()
        super().finish()

    def answer_request(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        try:
            status, content, headers = self.serve(body)
        except Refusal as refusal:
            status, content, headers = refusal.status, refusal.body, refusal.headers
        except (OSError, http.client.HTTPException) as error:
            self._server.close()
            status, headers = 502, {}
            content = json.dumps({"error": "InternalError", "message": f"{type(error).__name__}: {error}"}).encode()
        self.send_response(status)
        for name, value in {"content-type": "application/json", **headers}.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer_request  # the names that http.server looks for

    def serve(self, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        cloud, url = self.cloud, urlsplit(self.path)
        if url.path == CONTROL:
            if self.command == "POST":
                cloud.change(json.loads(body))
            return 200, json.dumps(cloud.counts() | {"rules": asdict(cloud.rules)}).encode(), {}
        parts = [unquote(p) for p in url.path.split("/") if p][2:]  # after api/v2
        if not url.path.startswith("/api/v2") or (len(parts) == 1 and parts[0] in PUBLIC):
            if parts == ["pre-flight-checks"]:
                return 200, b'{"max_batch_size":1000,"supports_base64_encoding":true}', {}
            return self.forward(body)
        with cloud.guard:
            cloud.requests["all"] += 1
        cloud.throttle()
        identity = cloud.identify(self.headers.get("x-chroma-token"))
        if parts == ["auth", "identity"]:
            return 200, json.dumps(asdict(identity)).encode(), {}
        if parts[0] != "tenants" or len(parts) < 2 or (parts[2:] == ["databases"] and "*" not in identity.databases):
            raise Refusal(403, "ChromaError", "Permission denied.")
        cloud.allow(identity, parts[1], parts[3] if len(parts) > 3 else None)
        return self.of_tenant(parts, url.query, body)

    def of_tenant(self, parts: list[str], query: str, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        """tenants/T[/databases[/D[/collections[/C[/operation]]]]]"""
        cloud = self.cloud
        operation = parts[6] if len(parts) > 6 else ""
        reads = self.command == "GET" or operation in ("get", "query", "search")
        cloud.open_for("reads")
        if not reads:
            cloud.open_for("writes")
        if operation in WRITES or operation in READS:
            with cloud.at_work(parts[5], "reads" if reads else "writes"):
                time.sleep(cloud.rules.delay)
                return self.of_records(parts[5], operation, json.loads(body or b"{}"), body)
        if len(parts) == 5 and self.command == "GET":
            return self.listed(query)
        if len(parts) in (5, 6) and self.command in ("POST", "PUT"):
            action = "Create Collection" if len(parts) == 5 else "Update Collection"
            self.count(action)
            cloud.hold_collection(action, json.loads(body))
        elif len(parts) == 3 and self.command == "POST":
            self.count("Create Database")
            cloud.hold("name_size_bytes", "Create Database", longest([json.loads(body).get("name")]))
        status, content, headers = self.forward(body)
        if status == 200 and len(parts) in (5, 6) and content not in (b"", b"{}"):
            content = json.dumps(cloud.as_in_cloud(json.loads(content))).encode()
        return status, content, headers

    def listed(self, query: str) -> tuple[int, bytes, dict[str, str]]:
        self.count("List Collections")
        given = dict(pair.split("=", 1) for pair in query.split("&") if "=" in pair)
        self.cloud.hold("limit_value", "List Collections", int(given.get("limit", 0)))
        given.setdefault("limit", str(self.cloud.rules.listed))
        self.path = urlsplit(self.path).path + "?" + "&".join(f"{k}={v}" for k, v in given.items())
        status, content, headers = self.forward(b"")
        if status == 200:
            content = json.dumps([self.cloud.as_in_cloud(c) for c in json.loads(content)]).encode()
        return status, content, headers

    def of_records(
        self, collection: str, operation: str, asked: dict[str, Any], body: bytes
    ) -> tuple[int, bytes, dict[str, str]]:
        """A request for the records of a collection, held against the quotas, its rows counted."""
        cloud, action = self.cloud, WRITES.get(operation) or READS[operation]
        self.count(action)
        cloud.hold_filters(action, asked)
        if operation in WRITES:
            cloud.hold_records(action, asked)
            if asked.get("metadatas"):
                asked["metadatas"] = [m and {k: as_text(v) for k, v in m.items()} for m in asked["metadatas"]]
                body = json.dumps(asked).encode()
        elif operation == "get":
            cloud.hold("limit_value", action, asked.get("limit") or 0)
            cloud.hold("num_records", action, len(asked.get("ids") or []))
            if asked.get("limit") is None:  # cut at the quota, in silence
                body = json.dumps(asked | {"limit": cloud.rules.quotas["limit_value"]}).encode()
        elif operation == "query":
            cloud.hold("num_results", action, asked.get("n_results") or 0)
            cloud.hold("num_query_embeddings", action, len(asked.get("query_embeddings") or []))
            cloud.hold("num_query_ids", action, len(asked.get("ids") or []))
        status, content, headers = self.forward(body)
        if status == 200 and operation in ("get", "query"):
            cloud.handed_out(action, collection, ids_of(content), "embeddings" in (asked.get("include") or ()))
            content = _SPARSE.sub(rb'{"#type":"sparse_vector","indices":[\1],"values":[\2]}', content)
        return status, content, headers

    def count(self, action: str) -> None:
        with self.cloud.guard:
            self.cloud.requests[action] += 1

    def forward(self, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        headers = {"content-type": "application/json", "content-length": str(len(body))}
        for again in (True, False):
            try:
                self._server.request(self.command, self.path, body, headers)
                reply = self._server.getresponse()
                return reply.status, reply.read(), {}
            except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
                self._server.close()  # a kept connection that the server has closed meanwhile
                if not again:
                    raise
        raise AssertionError("answered or raised")

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the name in http.server
        """Silence: what counts is counted."""


def ids_of(content: bytes) -> list[Any]:
    """The ids of an answer, which Chroma writes first, without reading megabytes of vectors."""
    text = content.decode("utf-8", "surrogatepass")
    if text.startswith('{"ids":'):
        return cast(list[Any], json.JSONDecoder().raw_decode(text, len('{"ids":'))[0])
    return cast(list[Any], json.loads(text)["ids"])


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed is no event; a fault of the stand-in itself is."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class CloudStandIn(Server):
    """The stand-in in a process of its own, in front of the Chroma server at `upstream`.

        with CloudStandIn(server.url) as cloud:
            source = {"url": cloud.url, "headers": {"x-chroma-token": cloud.key}}

    Tenant and databases are made behind it. `key` is a key of `databases`, `wide_key` one of every database of the tenant.
    Its port stays the same through `restart`; its rules and counts do not.
    """

    key, wide_key = KEY, KEY + "-wide"
    folder = Path(__file__).resolve().parent.parent

    def __init__(
        self, upstream: str, *, tenant: str = TENANT, databases: Sequence[str] = (DATABASE,), port: int | None = None
    ) -> None:
        super().__init__(port=port)
        self.upstream, self.tenant, self.databases = upstream, tenant, tuple(databases)

    def counts(self) -> dict[str, Any]:
        """`requests` and `rows` by action ("Get", …; "all" with those that were refused), `violations` by the quota's name
        in the refusal and "concurrent reads|writes", `throttled` (429 of rate or storm), `highest` concurrency at one
        collection, and by collection `vectors` (rows of `get` with their vector), `vectors_again` (that had gone out before).
        """
        return cast(dict[str, Any], self._control(None))

    def set(self, **changes: Any) -> dict[str, Any]:
        """Change `Rules` by name while it runs; `reset=True` begins the counts anew. Returns the counts."""
        return cast(dict[str, Any], self._control(changes))

    def _control(self, changes: dict[str, Any] | None) -> Any:
        with httpx.Client(trust_env=False, timeout=30) as client:
            url = self.url + CONTROL
            answer = client.get(url) if changes is None else client.post(url, json=changes)
        answer.raise_for_status()
        return answer.json()

    @contextmanager
    def client(self, database: str | None = None, *, behind: bool = False) -> Iterator[Any]:
        """Chroma's own client of a database: through the stand-in, or of the server behind it."""
        given = {"tenant": self.tenant, "headers": {"x-chroma-token": self.key}}
        with client_of(self.upstream if behind else self.url, database or self.databases[0], **given) as client:
            yield client

    def start(self) -> Self:
        create_behind(self.upstream, self.tenant, self.databases)
        return super().start()

    def command(self) -> list[str]:
        keys = [f"{self.key}={','.join(self.databases)}", f"{self.wide_key}=*"]
        return [
            sys.executable, "-m", "tests.cloud_standin", "--upstream", self.upstream, "--port", str(self.port),
            "--tenant", self.tenant, *(part for key in keys for part in ("--key", key)),
        ]  # fmt: skip

    def answers(self, client: httpx.Client) -> bool:
        return client.get(CONTROL).is_success


def create_behind(upstream: str, tenant: str, databases: Sequence[str]) -> None:
    """Make the tenant and its databases at the real server; those that exist stay."""
    with httpx.Client(base_url=f"{upstream}/api/v2", trust_env=False, timeout=60) as client:
        places = [("/tenants", tenant), *((f"/tenants/{tenant}/databases", database) for database in databases)]
        for path, name in places:
            answer = client.post(path, json={"name": name})
            if not answer.is_success and client.get(f"{path}/{name}").status_code != 200:
                answer.raise_for_status()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.cloud_standin", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--upstream", required=True, help="URL of a running Chroma server")
    parser.add_argument("--port", type=int, default=8200)
    parser.add_argument("--tenant", default=TENANT, help="made at the server where it does not exist")
    parser.add_argument(
        "--key", action="append", metavar="KEY=DB,DB", help=f"default: {KEY}={DATABASE}; * is every database"
    )
    given = parser.parse_args(arguments)
    keys = {}
    for text in given.key or [f"{KEY}={DATABASE}"]:
        key, _, databases = text.partition("=")
        keys[key] = Identity("f47ac10b-58cc-4372-a567-0e02b2c3d479", given.tenant, tuple(databases.split(",")))
        create_behind(given.upstream, given.tenant, [d for d in databases.split(",") if d != "*"])
    place = urlsplit(given.upstream)

    class Handler(_Handler):
        cloud = Cloud(keys)
        upstream = (place.hostname or "127.0.0.1", place.port or 8000)

    server = _Server(("127.0.0.1", given.port), Handler)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown, daemon=True).start())
    print(f"Chroma Cloud's stand-in: http://127.0.0.1:{given.port}, x-chroma-token {', '.join(keys)}", flush=True)
    server.serve_forever(poll_interval=0.05)


if __name__ == "__main__":
    main()

"""A real server that speaks S3 on loopback (moto's), and a proxy before it with the faults of a network."""

from __future__ import annotations

import http.client
import os
import re
import secrets
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import httpx

from tests.proxies import BUSY, CUT_AFTER, CUT_BEFORE, PASS, Fault, FaultyProxy, Forward
from tests.servers import Server

KEY, SECRET = f"AKIA{secrets.token_hex(8).upper()}", secrets.token_urlsafe(30)  # of nobody: moto takes any
BUCKET = "backups"
_BUSY = b"<Error><Code>ServiceUnavailable</Code><Message>Please try again.</Message></Error>"
_KEPT = ("content-type", "etag", "last-modified", "content-range", "accept-ranges")


class S3Server(Server):
    """`with S3Server() as server:` — `server.url` is an endpoint. With `checked` requests need the key of an administrator, whom
    `administrator` makes with the first three that need none."""

    def __init__(self, log: Path | None = None, *, checked: bool = False) -> None:
        super().__init__(log)
        self.checked, self.known = checked, ("", "")

    def command(self) -> list[str]:
        code = "import sys; from moto.server import main; main(sys.argv[1:])"
        environment = ["env", "INITIAL_NO_AUTH_ACTION_COUNT=3"] if self.checked else []
        return [*environment, sys.executable, "-c", code, "-H", self.host, "-p", str(self.port)]

    def answers(self, client: httpx.Client) -> bool:
        return client.get("/moto-api/").status_code == 200

    def client(self, service: str = "s3", key: str = KEY, secret: str = SECRET) -> Any:
        """boto3's own client: what a bucket holds by another tool's word."""
        import boto3

        return boto3.client(service, endpoint_url=self.url, aws_access_key_id=key, aws_secret_access_key=secret,
                            region_name="us-east-1")  # fmt: skip

    def bucket(self, name: str = BUCKET) -> None:
        """An empty bucket, and no other."""
        with httpx.Client(trust_env=False) as client:
            client.post(f"{self.url}/moto-api/reset")
        self.client().create_bucket(Bucket=name)

    def administrator(self) -> tuple[str, str]:
        """The key of a user who may do everything."""
        iam = self.client("iam")
        iam.create_user(UserName="admin")
        policy = '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}'
        iam.put_user_policy(UserName="admin", PolicyName="all", PolicyDocument=policy)
        made = iam.create_access_key(UserName="admin")["AccessKey"]
        return made["AccessKeyId"], made["SecretAccessKey"]

    def objects(self, bucket: str = BUCKET) -> dict[str, int]:
        """Bytes of every object, by its key."""
        found: dict[str, int] = {}
        for page in self.client().get_paginator("list_objects_v2").paginate(Bucket=bucket):
            found |= {each["Key"]: each["Size"] for each in page.get("Contents", ())}
        return found


class _ForwardS3(Forward):
    """Requests with their query, and answers with the heads that a client of S3 reads."""

    def forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        self.owner.requests.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))
        fault = self.owner.fault(self.command, self.path)
        if fault == CUT_BEFORE:
            self.cut()
            return
        if fault == BUSY:
            self.answer(503, b"" if self.command == "HEAD" else _BUSY, "application/xml")
            return
        connection = http.client.HTTPConnection(*self.owner.upstream, timeout=60)
        try:
            connection.request(self.command, self.path, body, {k: v for k, v in self.headers.items() if k != "Expect"})
            reply = connection.getresponse()
            content = reply.read()
        finally:
            connection.close()
        if fault == CUT_AFTER:
            self.cut()
            return
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            if name.lower() in _KEPT or name.lower().startswith("x-amz"):
                self.send_header(name, value)
        length = reply.headers.get("content-length", "0") if self.command == "HEAD" else str(len(content))
        self.send_header("content-length", length)
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = forward  # the names that http.server looks for


def s3_proxy(server: S3Server) -> FaultyProxy:
    """A proxy before it, whose `fault` is asked with the path and the query of each request."""
    return FaultyProxy(server.url, forward=_ForwardS3)


def some(share: float, fault: str = BUSY, seed: int = 1) -> Callable[[str, str], str]:
    """A fault for this share of all requests."""
    guard, chance = threading.Lock(), Random(seed)

    def of(method: str, path: str) -> str:
        with guard:
            return fault if chance.random() < share else PASS

    return of


def from_the(number: int, fault: str = CUT_BEFORE, what: str = "") -> Callable[[str, str], str]:
    """A fault for all requests from this one on (the first is 1), counted among those whose method and path match `what`."""
    guard, seen = threading.Lock(), 0

    def of(method: str, path: str) -> str:
        nonlocal seen
        with guard:
            seen += bool(re.search(what, f"{method} {path}"))
            return fault if seen >= number else PASS

    return of


@contextmanager
def without_machine_credentials() -> Iterator[None]:
    """No variable of the machine leads anywhere."""
    kept = {name: os.environ.pop(name) for name in [*os.environ] if name.startswith("AWS_")}
    os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
    try:
        yield
    finally:
        del os.environ["AWS_EC2_METADATA_DISABLED"]
        os.environ.update(kept)


def killing(child: subprocess.Popen[str], what: str, number: int, fault: str) -> Fault:
    """Kills the child at this request of those that match, and then lets the proxy do this with it."""
    at = from_the(number, fault, what)

    def of(method: str, path: str) -> str:
        if child.poll() is None and (done := at(method, path)) != PASS:
            if done == CUT_AFTER:  # the storage has it, and nobody hears of it
                threading.Timer(0.05, child.kill).start()
            else:
                child.kill()
                child.wait()
            return done
        return PASS

    return of

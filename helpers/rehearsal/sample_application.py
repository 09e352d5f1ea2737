"""The application of a rehearsal between directories: it answers health requests, writes, and can be locked and restarted.

`python sample_application.py COMMAND FOLDER PORT`, on loopback. Commands: `start`, `stop`, `restart`; `lock`, after which it
takes no writes to its present database, and `unlock`; `probe`, which makes it write one chunk and remove it again, and `write`,
which makes it write one that stays; `silence` and `page`, which it only logs; `wait`, until a time. It reads CHROMA_PATH from
FOLDER/.env once, when it starts, and opens that database shortly at each request. Notices that are posted to it go to
FOLDER/received.txt. It imports nothing of `helpers`, so that it starts quickly; a child process makes the writes, through
`helpers.stores`.
"""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import os
import re
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

SECONDS = 20.0  # allowed to start, or to end
WRITE_SECONDS = 120.0  # for one write: its process imports Chroma
IDLE_SECONDS = 3600.0  # without a request it ends, in case that it was started by hand and forgotten
NOT_TRIED = 127  # exit code where the write was neither taken nor refused
ENV, LOCKED, LOG, NOTICES, OWNER = ".env", "read-only", "application.log", "received.txt", "owner"


def serve(folder: Path, port: int) -> None:
    """Answer requests until a stop request, the end of the rehearsal, the removal of the folder, or an hour without requests."""
    path, owned = _database(folder), _owned(folder)
    last = [time.monotonic()]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            last[0] = time.monotonic()
            try:
                health = {
                    "chroma_path": path,
                    "collections": _collections(Path(path)),
                    "read_only": _locked(folder, path),
                }
            except sqlite3.Error as error:
                self._answer(503, {"chroma_path": path, "problem": str(error)})
            else:
                self._answer(200, health)

        def do_POST(self) -> None:
            last[0] = time.monotonic()
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.path == "/stop":
                self._answer(200, {})
                threading.Thread(target=server.shutdown).start()
            elif self.path == "/notices":
                with (folder / NOTICES).open("ab") as file:
                    file.write(body.replace(b"\n", b" ") + b"\n")
                self._answer(200, {})
            elif self.path in ("/probe", "/write"):
                self._answer(*_answer_to_write(folder, path, stays=self.path == "/write"))
            else:
                self._answer(404, {"problem": "no such page"})

        def _answer(self, status: int, value: dict[str, Any]) -> None:
            body = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            log(folder, f"{self.command} {self.path}")

    def watch() -> None:
        while time.monotonic() - last[0] < IDLE_SECONDS and (folder / ENV).exists() and owned <= _owned(folder):
            time.sleep(1.0)
        server.shutdown()

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    threading.Thread(target=watch, daemon=True).start()
    log(folder, f"started, uses {path}")
    with server:
        server.serve_forever(poll_interval=0.05)


def _owned(folder: Path) -> bool:
    """Whether a running rehearsal holds the lock OWNER, which ends with its process."""
    try:
        with (folder / OWNER).open("rb") as file:
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def _database(folder: Path) -> str:
    """The database that the application's .env names now."""
    line = r"^(?:export )?CHROMA_PATH=[\"']?([^\"'\n]+?)[\"']?(?:\s*#.*)?$"
    return str(re.findall(line, (folder / ENV).read_text(), re.MULTILINE)[-1])


def _locked(folder: Path, path: str) -> bool:
    """Whether this database takes no writes now."""
    lock = folder / LOCKED
    return lock.exists() and lock.read_text(encoding="utf-8") == path


def _answer_to_write(folder: Path, path: str, *, stays: bool) -> tuple[int, dict[str, str]]:
    """The HTTP status and the answer of a request to write."""
    if _locked(folder, path):
        return 403, {"problem": "read-only"}
    answer = _write_in_child(path, stays=stays)
    return 500 if "problem" in answer else 200, answer


def _write_in_child(path: str, *, stays: bool) -> dict[str, str]:
    """Write one chunk into this database in a child process; return what `write` prints, or {"problem": …}."""
    call = f"from helpers.rehearsal.sample_application import write; write({path!r}, stays={stays})"
    root = str(Path(__file__).resolve().parents[2])
    try:
        done = subprocess.run(
            [sys.executable, "-c", call], capture_output=True, text=True, timeout=WRITE_SECONDS, check=False, cwd=root,
            env={**os.environ, "PYTHONPATH": root},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"problem": f"the write took longer than {WRITE_SECONDS:g} seconds"}
    lines = (done.stderr if done.returncode else done.stdout).strip().splitlines() or ["it printed nothing"]
    return {"problem": lines[-1]} if done.returncode else dict(json.loads(lines[-1]))


def write(path: str, *, stays: bool) -> None:
    """Write one chunk as a client does, and read it back: into the first collection, or into a new one that is then removed.

    Print collection and id as JSON. Call it in a new process: the database stays open until the process ends.
    """
    from dataclasses import replace

    from helpers.parameters import Endpoint
    from helpers.stores import open_target

    with open_target(Endpoint.model_validate({"path": path})) as store:
        first = store.info(store.names()[0])
        batch = store.read(first.name, store.some_ids(first.name, 1))
        batch.ids = [f"client-{uuid.uuid4().hex[:12]}"]
        batch.documents = ["Written by the application of the rehearsal."]
        batch.embeddings = batch.embeddings[:, ::-1].copy()  # a vector that changes no nearest neighbour
        name = first.name
        if not stays:
            name = f"application-probe-{uuid.uuid4().hex}"
            store.create(replace(first, name=name))
        store.add(name, batch)
        if store.read(name, batch.ids).documents != batch.documents:
            raise SystemExit(f"{batch.ids[0]} is not in {name} as it was written")
        if not stays:
            store.delete(name, batch.ids)
            store.drop(name)
    print(json.dumps({"collection": name, "id": batch.ids[0], "removed": "" if stays else "yes"}))


def _collections(path: Path) -> int:
    """Count the collections; 0 where there is no database. It is opened as immutable: no lock, and no file beside it."""
    file = path / "chroma.sqlite3"
    if not file.is_file():
        return 0
    with contextlib.closing(sqlite3.connect(f"{file.absolute().as_uri()}?immutable=1", uri=True)) as opened:
        return int(opened.execute("SELECT count(*) FROM collections").fetchone()[0])


def log(folder: Path, text: str) -> None:
    with (folder / LOG).open("a", encoding="utf-8") as file:
        file.write(f"{datetime.now(UTC).isoformat(timespec='seconds')} {text}\n")


def ask(port: int, path: str, data: bytes | None = None, seconds: float = 5.0) -> tuple[int, str]:
    """(HTTP status, body) of an answer; (0, the error) where there is none, or it breaks off."""
    try:
        try:
            answer = urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", data=data, timeout=seconds)  # nosec B310  (loopback)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            return int(answer.status), answer.read().decode()
    except (OSError, http.client.HTTPException) as error:
        return 0, str(error)


def start(folder: Path, port: int) -> None:
    """Start the application where it does not run, and wait until it answers. Raises SystemExit where it ends."""
    if ask(port, "/health")[0]:
        return
    command = [sys.executable, str(Path(__file__).resolve()), "serve", str(folder), str(port)]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True)
    _wait(lambda: bool(ask(port, "/health")[0]) or process.poll() is not None)
    if process.poll() is not None:
        raise SystemExit(f"the application ended with {process.returncode}")


def stop(port: int) -> None:
    """Stop the application, and wait until it does not answer."""
    ask(port, "/stop", b"")
    _wait(lambda: not ask(port, "/health")[0])


def _wait(done: Any) -> None:
    end = time.monotonic() + SECONDS
    while not done():
        if time.monotonic() > end:
            raise SystemExit(f"waited {SECONDS:g} seconds for the application")
        time.sleep(0.05)


def main(command: str, folder: Path, port: int) -> None:
    if command == "serve":
        serve(folder, port)
    if command in ("stop", "restart"):
        stop(port)
    if command in ("start", "restart"):
        start(folder, port)
    if command == "lock":
        (folder / LOCKED).write_text(_database(folder), encoding="utf-8")
    if command == "unlock":
        (folder / LOCKED).unlink(missing_ok=True)
    if command in ("probe", "write"):
        status, answer = ask(port, f"/{command}", b"{}", 2 * WRITE_SECONDS)
        print(f"{status} {answer}")
        if status != 200:
            raise SystemExit(1 if status == 403 else NOT_TRIED)
    if command != "serve":
        log(folder, command)


if __name__ == "__main__":
    if sys.argv[1] == "wait":  # until the window begins
        time.sleep(max(0.0, (datetime.fromisoformat(sys.argv[4]) - datetime.now(UTC)).total_seconds()))
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))

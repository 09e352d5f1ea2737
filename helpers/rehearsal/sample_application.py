"""The application of a rehearsal between directories: it answers health requests, and commands lock, restart and silence it.

`python sample_application.py COMMAND FOLDER PORT`, on loopback. Commands: `start`, `stop`, `restart`; `lock` and `unlock`,
which prove by a write of their own that it takes none, or one; `silence` and `page`, which it only logs. It reads
CHROMA_PATH from FOLDER/.env once, when it starts; looks into that database for a moment at each request, and writes nothing
there. Notices that are posted to it go to FOLDER/received.txt. It imports nothing of `helpers`, so that it starts at once.
"""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

SECONDS = 20.0  # to start, or to end
IDLE_SECONDS = 3600.0  # without a request it ends by itself: its rehearsal was killed
ENV, LOCKED, LOG, NOTICES = ".env", "read-only", "application.log", "received.txt"


def serve(folder: Path, port: int) -> None:
    """Answer until asked to stop, until nobody has asked for an hour, or the folder is gone."""
    path = re.findall(
        r"^(?:export )?CHROMA_PATH=[\"']?([^\"'\n]+?)[\"']?(?:\s*#.*)?$", (folder / ENV).read_text(), re.MULTILINE
    )[-1]
    last = [time.monotonic()]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            last[0] = time.monotonic()
            try:
                found = {
                    "chroma_path": path,
                    "collections": _collections(Path(path)),
                    "read_only": (folder / LOCKED).exists(),
                }
            except sqlite3.Error as error:
                self._answer(503, {"chroma_path": path, "problem": str(error)})
            else:
                self._answer(200, found)

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
            elif self.path == "/write" and not (folder / LOCKED).exists():
                self._answer(200, {})
            else:
                self._answer(403, {"problem": "read-only"})

        def _answer(self, status: int, value: dict[str, Any]) -> None:
            said = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *_: Any) -> None:
            log(folder, f"{self.command} {self.path}")

    def watch() -> None:
        while time.monotonic() - last[0] < IDLE_SECONDS and (folder / ENV).exists():
            time.sleep(1.0)
        server.shutdown()

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    threading.Thread(target=watch, daemon=True).start()
    log(folder, f"started, uses {path}")
    with server:
        server.serve_forever(poll_interval=0.05)


def _collections(path: Path) -> int:
    """Read as a file that nobody changes: nothing is written beside it, no lock is taken. 0 where there is none yet."""
    file = path / "chroma.sqlite3"
    if not file.is_file():
        return 0
    with contextlib.closing(sqlite3.connect(f"{file.absolute().as_uri()}?immutable=1", uri=True)) as opened:
        return int(opened.execute("SELECT count(*) FROM collections").fetchone()[0])


def log(folder: Path, text: str) -> None:
    with (folder / LOG).open("a", encoding="utf-8") as file:
        file.write(f"{datetime.now(UTC).isoformat(timespec='seconds')} {text}\n")


def ask(port: int, path: str, data: bytes | None = None) -> int:
    """The status of an answer; 0 where nobody answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", data=data, timeout=5) as answer:  # nosec B310  (loopback)
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def start(folder: Path, port: int) -> None:
    """Where it does not answer yet; returns when it does."""
    if ask(port, "/health"):
        return
    command = [sys.executable, str(Path(__file__).resolve()), "serve", str(folder), str(port)]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True)
    _wait(lambda: bool(ask(port, "/health")) or process.poll() is not None)
    if process.poll() is not None:
        raise SystemExit(f"the application ended with {process.returncode}")


def stop(port: int) -> None:
    """Returns when nobody answers any more."""
    ask(port, "/stop", b"")
    _wait(lambda: not ask(port, "/health"))


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
    if command in ("lock", "unlock"):
        (folder / LOCKED).touch() if command == "lock" else (folder / LOCKED).unlink(missing_ok=True)
        expected = 403 if command == "lock" else 200
        if (found := ask(port, "/write", b"{}")) != expected:
            raise SystemExit(f"a write was answered {found}, expected {expected}")
    if command != "serve":
        log(folder, command)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))

"""A small application for the tests of the cutover: it reads its `.env` when it starts, and asks Chroma for its health.

`python application.py serve FOLDER PORT` runs it; `restart` ends the one that runs (by its own pid file) and starts another.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
from dotenv import dotenv_values

COLLECTIONS = "/api/v2/tenants/default_tenant/databases/default_database/collections"


def serve(folder: Path, port: int) -> None:
    """Answer /health with the database in use, 503 where it does not answer or is the one that `REFUSES` names."""
    settings = dotenv_values(folder / ".env", encoding="utf-8-sig")
    url = str(settings["CHROMADB_URL"])
    client = httpx.Client(base_url=url, timeout=3, trust_env=False)

    class Health(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            try:
                names = [c["name"] for c in client.get(COLLECTIONS).raise_for_status().json()]
                status = 503 if url == settings.get("REFUSES") else 200
            except httpx.HTTPError:
                names, status = [], 503
            body = json.dumps({"database": url, "collections": names}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Quiet: app.log holds what the application itself says."""

    server = HTTPServer(("127.0.0.1", port), Health)
    print(f"started with {url}", flush=True)
    if url == settings.get("COMPLAINS"):
        print(f"ERROR cannot use {url}", flush=True)
    server.serve_forever()


def stop(folder: Path) -> None:
    pid_file = folder / "app.pid"
    if not pid_file.exists():
        return
    pid = int(pid_file.read_text())
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
        for _ in range(100):
            os.kill(pid, 0)
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
            time.sleep(0.05)
    pid_file.unlink()


def restart(folder: Path, port: int) -> None:
    stop(folder)
    with (folder / "app.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, __file__, "serve", str(folder), str(port)],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    (folder / "app.pid").write_text(str(process.pid))


if __name__ == "__main__":
    {"serve": serve, "restart": restart}[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]))

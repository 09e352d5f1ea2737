"""A sample application that is stopped while it answers counts as gone: the command that asked starts it again."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from helpers.rehearsal.sample_application import ENV, OWNER, ask
from helpers.rehearsal.sample_application import __file__ as APPLICATION
from helpers.rehearsal.setup import free_port


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 129\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 129\r\n\r\n{",
        b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 129\r\n\r\n",
    ],
    ids=["before the answer", "after its head", "in its body", "in the body of an error"],
)
def test_an_answer_that_breaks_off_is_no_answer(said: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(said)

        thread = threading.Thread(target=answer)
        thread.start()
        status, why = ask(server.getsockname()[1], "/health")
        thread.join()
    assert status == 0
    assert why


HOLDS = """
import fcntl, sys, time
owner = open(sys.argv[1], "wb")
fcntl.lockf(owner, fcntl.LOCK_EX)
print(1, flush=True)
time.sleep(600)
"""


@pytest.mark.more
def test_it_ends_with_a_rehearsal_that_is_killed(tmp_path: Path) -> None:
    (tmp_path / ENV).write_text(f"CHROMA_PATH={tmp_path}\n")
    port = free_port()
    with subprocess.Popen([sys.executable, "-c", HOLDS, str(tmp_path / OWNER)], stdout=subprocess.PIPE) as rehearsal:
        assert rehearsal.stdout is not None
        rehearsal.stdout.readline()
        application = subprocess.Popen([sys.executable, str(APPLICATION), "serve", str(tmp_path), str(port)])
        try:
            time.sleep(4.0)
            assert ask(port, "/health")[0] == 200, "it works while its rehearsal does"
            rehearsal.kill()
            assert application.wait(20) == 0
        finally:
            rehearsal.kill()
            application.kill()
            application.wait()

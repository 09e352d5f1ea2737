"""A sample application that is stopped while it answers counts as gone: the command that asked starts it again."""

from __future__ import annotations

import socket
import threading

import pytest

from helpers.rehearsal.sample_application import ask


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

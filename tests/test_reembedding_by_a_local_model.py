"""New vectors by a model on this machine, through Chroma's own function for a server of embeddings.

The model here is the sample's; `tests/compat/test_a_real_model_answers_by_meaning.py` has a real one.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.errors import Transient
from helpers.migration import reembedding
from helpers.migration.importing import plan_targets
from helpers.migration.reembedding import VectorCache, as_written, completed_record, digest_of, reembed
from helpers.migration.staging import Quarantine, stage
from helpers.parameters import Parameters
from helpers.reason_codes import ReasonCode
from helpers.results import Verdict
from helpers.schema import load_schema
from helpers.snapshots.snapshot import Snapshot, write_snapshot
from helpers.stores import open_source, open_target
from helpers.stores.creation import RehearsalEmbedding
from helpers.validation import Judgement
from helpers.validation.fidelity import Examination, Expectation
from helpers.validation.properties import KNOWN
from tests.storage import chunks, embedded
from tests.storage import plan as collection
from tests.test_reembedding import DATE, own_function
from tests.test_reembedding_of_collections import all_of, ordered

WAS, IS = 1536, 384
Model = Callable[[list[str]], Any]

# Documents, and a question to each that shares no word with it but such as every text has.
KNOWN_ANSWERS = {
    "Reset your password from the sign-in page; a link is sent by mail.": "I cannot log into my account any more",
    "Backups run nightly at two and are kept for thirty days.": "how long do you store copies of the data",
    "The cat slept on the warm windowsill all afternoon.": "what does a pet do in the sun",
    "Invoices are due within fourteen days of delivery.": "when must I pay the bill",
    "To make bread, knead the dough and let it rise for an hour.": "recipe for a loaf",
    "The train to Lyon leaves from platform nine at noon.": "departure of the railway to France",
}


@contextmanager
def served(model: Model, refused: Sequence[int] = ()) -> Iterator[tuple[str, list[float]]]:
    """The address of a server of embeddings, and when it was asked; requests after the first get these answers, 0 is none."""
    asked: list[float] = []
    counting, one_at_a_time = threading.Lock(), threading.Lock()  # the second: of the model

    class Answers(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            with counting:
                asked.append(time.monotonic())
                number = len(asked)
            texts = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["inputs"]
            status = dict(enumerate(refused, 2)).get(number, 200)
            if status == 0:
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            said: Any = {"error": "Model is overloaded"}
            if status == 200:
                with one_at_a_time:
                    said = np.asarray(model(texts), float).tolist()
            body = json.dumps(said).encode()
            self.send_response(status)
            if status == 429:
                self.send_header("Retry-After", "0.3")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/embed", asked
    finally:
        server.shutdown()
        server.server_close()


def snapshot_of(folder: Path) -> Snapshot:
    """`notes` with vectors of the sample's function, 1536 numbers each."""
    documents = list(KNOWN_ANSWERS)
    with embedded(folder / "source") as store:
        store.create(replace(collection("notes", "cosine"), configuration=own_function(WAS)))
        batch = chunks(len(documents), WAS, prefix="n")
        batch.documents, batch.embeddings = list(documents), RehearsalEmbedding(WAS).vectors(documents)
        store.add("notes", batch)
    with open_source(rules(folder, "http://127.0.0.1:1/").source, folder / "scratch") as store:
        return write_snapshot(store, folder / "snapshots", "s", ["notes"], retention_days=7)


def rules(folder: Path, url: str) -> Parameters:
    function = {"name": "huggingface_server", "config": {"url": url}}
    order = {
        "function": function["name"], "config": function["config"], "collections": ["notes"], "batch": 2, "dimension": IS,
        "parallel": 2, "cache": str(folder / "cache"),
    }  # fmt: skip
    known = {question: [f"n{n}"] for n, question in enumerate(KNOWN_ANSWERS.values())}
    return ordered(
        folder, order, target={"path": str(folder / "target"), "embedding_functions": [function]},
        validation={"retrieval": {"queries": known, "k": 1, "at_least": 0.8}},
    )  # fmt: skip


def migrated(folder: Path, url: str) -> Judgement:
    """As steps 21 to 23 do it."""
    snapshot, schema, aside = snapshot_of(folder), load_schema("identity"), Quarantine(folder / "quarantine")
    of_run = rules(folder, url)
    reembed(snapshot, of_run, folder / "made")
    written = as_written(snapshot, folder / "made")
    context = Expectation(snapshot, schema, of_run, DATE, {}).context()
    staged = stage(written, schema, context, folder / "staged", aside)
    of = Expectation(snapshot, schema, of_run, DATE, aside.reasons(), None, folder / "made")
    with open_target(of_run.target) as store:
        for info in plan_targets(written.collections(), staged, of_run.migration, load_schema("identity")):
            store.create(info)
            for batch in staged.stream(info.name, 0, 100):
                store.add(info.name, batch)
        return Judgement(Examination(store, of).run(), of)


@pytest.mark.more
def test_a_server_of_embeddings_that_answers_429_is_asked_again(tmp_path: Path) -> None:
    """Chroma's function reads the refusal as if it were vectors, and says nothing of it; it waits five seconds for an answer."""
    snapshot, model = snapshot_of(tmp_path), RehearsalEmbedding(IS)

    def slow(texts: list[str]) -> Any:
        time.sleep(5.2 if next(iter(KNOWN_ANSWERS)) in texts else 0.0)
        return model.vectors(texts)

    with served(slow, refused=(429, 429)) as (url, asked):
        reembed(snapshot, rules(tmp_path, url), tmp_path / "made")
    made = completed_record(tmp_path / "made", snapshot)
    assert made is not None
    assert (made["embedded"], made["requests"], len(asked)) == (len(KNOWN_ANSWERS), 3, 5)
    assert asked[-1] - asked[1] >= 0.25
    now = all_of(as_written(snapshot, tmp_path / "made"), "notes")
    assert np.allclose(now.embeddings, model.vectors([str(d) for d in now.documents]), atol=1e-6)


def test_a_server_of_embeddings_that_is_gone_for_a_moment_is_asked_again(tmp_path: Path) -> None:
    snapshot, model = snapshot_of(tmp_path), RehearsalEmbedding(IS)
    with served(model.vectors, refused=(500, 0, 502)) as (url, asked):
        reembed(snapshot, rules(tmp_path, url), tmp_path / "made")
    made = completed_record(tmp_path / "made", snapshot)
    assert made is not None
    assert (made["embedded"], made["requests"], len(asked)) == (len(KNOWN_ANSWERS), 3, 6)
    now = all_of(as_written(snapshot, tmp_path / "made"), "notes")
    assert np.allclose(now.embeddings, model.vectors([str(d) for d in now.documents]), atol=1e-6)


def test_a_server_of_embeddings_that_stays_away_ends_in_one_line_and_what_was_made_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot, model = snapshot_of(tmp_path), RehearsalEmbedding(IS)
    monkeypatch.setattr(reembedding, "_ATTEMPTS", 3)
    with (
        served(model.vectors, refused=(500,) * 40) as (url, _),
        pytest.raises(Transient, match=r"huggingface_server is not answered: .*answered 500") as refusal,
    ):
        reembed(snapshot, rules(tmp_path, url), tmp_path / "made")
    assert refusal.value.code is ReasonCode.REEMBED_FAILED
    assert "\n" not in str(refusal.value)
    kept = VectorCache(tmp_path / "cache", "huggingface_server", {"url": url})
    assert len(kept.cached(map(digest_of, KNOWN_ANSWERS))) == 2  # of the first request


def test_the_samples_function_finds_nothing_by_its_meaning(tmp_path: Path) -> None:
    """The control of the test with a real model: words alone do not answer these questions."""
    with served(RehearsalEmbedding(IS).vectors) as (url, _):
        [check] = migrated(tmp_path, url).retrieval()
    assert (check.name, check.verdict) == (KNOWN, Verdict.FAIL)
